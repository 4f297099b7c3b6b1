//! Keeps what outlives runs within its bounds: results on disk, their records, and images.
//!
//! [`run_in_background`] does so beside a run, together with what [`crate::gc`] may remove unasked;
//! `swe-forge gc` does the same when it is told to. Everything looks at what is there and at what is
//! recorded, so that a pass that broke off is continued by the next.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use forge_core::ownership::keys;
use forge_core::{RunId, SandboxId};
use forge_engine::images::{ImageStore, ImageSummary};
use forge_engine::task::{self, OwnedTask};
use forge_engine::{Engine, EngineError, EngineErrorKind};
use forge_plan::reaper::Scope;
use forge_plan::retention::{self, AttemptResults, Ground, Removal, RetentionPolicy, RunResults};
use forge_store::{AttemptFilter, Store, StoreError};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::gc::{self, GcError, GcOptions};
use crate::results::{self, AttemptFiles};
use crate::{collect, failure, settle};

/// The role label of prepared images: what sandboxes really run from, one made of each image.
pub const PREPARED_ROLE: &str = "prepared-image";
/// The label of a prepared image that names the identifier of the image it was made from.
pub const PREPARED_OF: &str = "swe-forge.image.of";

/// The file in the state folder that says when a pass in the background ended last.
const MARK: &str = "janitor";
/// Passes in the background are so far apart.
const INTERVAL: SignedDuration = SignedDuration::from_hours(1);
/// A pass in the background that takes longer is continued by the next.
const PATIENCE: Duration = Duration::from_secs(300);
/// Attempts read at once.
const PAGE: u32 = 1000;

/// What to do, and when it is.
#[derive(Debug, Clone, Copy)]
pub struct ClearOptions {
    /// Say what would be removed, and remove nothing.
    pub dry_run: bool,
    /// How long things stay.
    pub policy: RetentionPolicy,
    /// The time.
    pub now: Timestamp,
}

/// Results that go, or went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClearedResults {
    /// The run.
    pub run: RunId,
    /// The attempt, where only its logs and artifacts go.
    pub attempt: Option<SandboxId>,
    /// The run's folder.
    #[serde(serialize_with = "shown")]
    pub folder: PathBuf,
    /// Why.
    pub ground: Ground,
    /// Bytes that it frees.
    pub bytes: u64,
    /// Whether the run goes from the record as well.
    pub forgotten: bool,
    /// Whether the run's folder stays, because something else is in it.
    pub folder_stays: bool,
    /// What went wrong.
    pub error: Option<String>,
}

/// A path need not be text.
fn shown<S: serde::Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&collect::show(path))
}

/// An image that goes, or went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClearedImage {
    /// Its identifier.
    pub id: String,
    /// Its tags.
    pub tags: Vec<String>,
    /// Bytes that it takes besides the image it was made from, where that is there.
    pub bytes: u64,
    /// Whether a container held it, so that it stays.
    pub in_use: bool,
    /// What went wrong.
    pub error: Option<String>,
}

/// Starts a pass beside a run, unless one ended within the last hour: leftovers on the engine that
/// nobody can want, results and images that have had their time. It keeps quiet, delays nobody, and
/// ends with the returned task; dropped before, it is continued by the next one.
#[must_use]
pub fn run_in_background(
    engine: Arc<dyn Engine>,
    store: Store,
    state_folder: PathBuf,
    policy: RetentionPolicy,
) -> OwnedTask<()> {
    task::spawn("janitor", async move {
        let now = Timestamp::now();
        let mark = state_folder.join(MARK);
        if !is_due(tokio::fs::read_to_string(&mark).await.ok().as_deref(), now) {
            return;
        }
        let options = ClearOptions {
            dry_run: false,
            policy,
            now,
        };
        let pass = pass(&*engine, &store, options);
        match tokio::time::timeout(PATIENCE, pass).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::info!(error = failure::chain(&error), "not all was cleared"),
            Err(_) => tracing::info!("not all could be cleared in time"),
        }
        if let Err(error) = write_mark(&mark, now).await {
            tracing::info!(%error, "the next run looks again for what can be cleared");
        }
    })
}

/// Whether so much time has passed since `mark` was written. One of the future was written by a
/// clock that was wrong.
fn is_due(mark: Option<&str>, now: Timestamp) -> bool {
    let last = mark.and_then(|text| text.trim().parse::<Timestamp>().ok());
    last.is_none_or(|last| last > now || now.duration_since(last) >= INTERVAL)
}

async fn write_mark(mark: &Path, now: Timestamp) -> io::Result<()> {
    let partial = mark.with_extension("partial");
    tokio::fs::write(&partial, format!("{now}\n")).await?;
    tokio::fs::rename(&partial, mark).await
}

async fn pass(engine: &dyn Engine, store: &Store, options: ClearOptions) -> Result<(), GcError> {
    let collected = gc::collect(
        engine,
        store,
        GcOptions {
            dry_run: options.dry_run,
            scope: Scope::default(),
            now: options.now,
        },
    );
    for leftover in collected.await?.leftovers {
        match leftover.error {
            None => tracing::info!(name = leftover.object.name, "what was left is removed"),
            Some(error) => tracing::info!(name = leftover.object.name, error, "it is left"),
        }
    }
    settle::settle(engine, store, options.now).await?;
    for cleared in clear_results(store, options).await? {
        let run = cleared.run.to_string();
        match cleared.error {
            None => tracing::info!(run, bytes = cleared.bytes, "old results are removed"),
            Some(error) => tracing::info!(run, error, "old results stay"),
        }
    }
    if let Some(images) = engine.images() {
        for cleared in clear_images(images, store, options).await? {
            tracing::info!(id = cleared.id, in_use = cleared.in_use, "an image was old");
        }
    }
    Ok(())
}

/// Removes the results of runs that have ended, as far as they are too old or too many, and then
/// forgets the runs that are too old. Says what it did, or in a dry run what it would do.
///
/// # Errors
/// Of the record; what goes wrong on disk is in what it says.
pub async fn clear_results(
    store: &Store,
    options: ClearOptions,
) -> Result<Vec<ClearedResults>, StoreError> {
    let found = find_results(store, options).await?;
    let other_bytes = match options.policy.budget_bytes {
        Some(_) => bytes_of_unfinished(store).await?,
        None => 0,
    };
    let runs: Vec<RunResults> = found.values().map(|each| each.results.clone()).collect();
    let mut cleared = Vec::new();
    for removal in retention::plan(&options.policy, &runs, other_bytes, options.now) {
        let (run, one) = match removal {
            Removal::Attempt { run, id, bytes } => (run, (Some(id), Ground::Old, false, bytes)),
            Removal::Run {
                run,
                ground,
                forget,
                bytes,
            } => (run, (None, ground, forget, bytes)),
        };
        let Some(found) = found.get(&run) else {
            continue;
        };
        let (attempt, ground, forgotten, bytes) = one;
        let mut one = ClearedResults {
            run,
            attempt,
            folder: found.folder.clone(),
            ground,
            bytes,
            forgotten,
            folder_stays: false,
            error: None,
        };
        if !options.dry_run {
            clear(store, found, &mut one, options.now).await?;
        }
        cleared.push(one);
    }
    cleared.extend(forget_the_rest(store, options, &cleared).await?);
    Ok(cleared)
}

/// The results of one run.
struct Found {
    results: RunResults,
    folder: PathBuf,
    attempts: Vec<AttemptFiles>,
}

/// The results of runs that ended and have files. Only what may have to go is measured: all of it
/// where there is a budget.
async fn find_results(
    store: &Store,
    options: ClearOptions,
) -> Result<BTreeMap<RunId, Found>, StoreError> {
    let before = options.policy.runs_before(options.now);
    let forgettable = store.expired_runs(before).await?;
    let forgettable: HashSet<RunId> = forgettable.into_iter().map(|run| run.id).collect();
    let mut found = BTreeMap::new();
    for files in store.runs_with_files(u32::MAX).await? {
        let folder = files.out_directory;
        let is_old = files.ended_at < before;
        let measured =
            is_old || options.policy.budget_bytes.is_some() || results::has_own_retention(&folder);
        if !measured {
            continue;
        }
        let attempts = attempts_of(store, &files.run).await?;
        let results = RunResults {
            run: files.run,
            ended_at: files.ended_at,
            needed: is_old && !forgettable.contains(&files.run),
            ..measure(files.run, &folder, attempts.clone()).await
        };
        found.insert(
            files.run,
            Found {
                results,
                folder,
                attempts,
            },
        );
    }
    Ok(found)
}

async fn attempts_of(store: &Store, run: &RunId) -> Result<Vec<AttemptFiles>, StoreError> {
    let attempts = store.attempts_of(run).await?;
    let files = attempts.into_iter().map(|attempt| AttemptFiles {
        id: attempt.id,
        task: attempt.task.to_string(),
    });
    Ok(files.collect())
}

async fn measure(run: RunId, folder: &Path, attempts: Vec<AttemptFiles>) -> RunResults {
    let folder = folder.to_owned();
    let measured =
        tokio::task::spawn_blocking(move || results::measure(&folder, &run, &attempts)).await;
    // One that broke off counts as nothing.
    let measured = measured.unwrap_or_default();
    let attempts = measured.attempts.into_iter();
    RunResults {
        run,
        ended_at: Timestamp::UNIX_EPOCH,
        needed: false,
        attempts: attempts
            .map(|(id, bytes, days)| AttemptResults { id, days, bytes })
            .collect(),
        other_bytes: measured.other_bytes,
    }
}

/// What runs take that are under way or can be gone on with.
async fn bytes_of_unfinished(store: &Store) -> Result<u64, StoreError> {
    let mut bytes = 0_u64;
    for run in store.unfinished_runs().await? {
        let attempts = attempts_of(store, &run.id).await?;
        let measured = measure(run.id, &run.out_directory, attempts).await;
        bytes = bytes.saturating_add(measured.bytes());
    }
    Ok(bytes)
}

/// Removes files first and notes it then: what breaks off in between is looked at again.
async fn clear(
    store: &Store,
    found: &Found,
    one: &mut ClearedResults,
    now: Timestamp,
) -> Result<(), StoreError> {
    let (run, folder) = (one.run, found.folder.clone());
    let removed = match one.attempt.clone() {
        Some(id) => {
            let remove = move || results::remove_attempt(&folder, &run, &id).map(|()| true);
            tokio::task::spawn_blocking(remove).await
        }
        None => {
            let attempts = found.attempts.clone();
            let remove = move || results::remove_run(&folder, &run, &attempts);
            tokio::task::spawn_blocking(remove).await
        }
    };
    match removed {
        Ok(Ok(gone)) => one.folder_stays = !gone,
        Ok(Err(error)) => one.error = Some(failure::chain(&error)),
        Err(error) => one.error = Some(failure::chain(&error)),
    }
    if one.error.is_some() || one.attempt.is_some() {
        return Ok(());
    }
    match one.forgotten {
        true => one.forgotten = forget(store, &run).await?,
        false => {
            store.files_removed(&run, now).await?;
        }
    }
    Ok(())
}

/// Forgets old runs whose files went before, to make room.
async fn forget_the_rest(
    store: &Store,
    options: ClearOptions,
    cleared: &[ClearedResults],
) -> Result<Vec<ClearedResults>, StoreError> {
    let done: BTreeSet<RunId> = cleared.iter().map(|each| each.run).collect();
    let before = options.policy.runs_before(options.now);
    let mut forgotten = Vec::new();
    for run in store.expired_runs(before).await? {
        if done.contains(&run.id) || run.files_removed_at.is_none() {
            continue;
        }
        if options.dry_run || forget(store, &run.id).await? {
            forgotten.push(ClearedResults {
                run: run.id,
                attempt: None,
                folder: run.out_directory,
                ground: Ground::Old,
                bytes: 0,
                forgotten: true,
                folder_stays: false,
                error: None,
            });
        }
    }
    Ok(forgotten)
}

async fn forget(store: &Store, run: &RunId) -> Result<bool, StoreError> {
    match store.delete_run(run).await {
        Ok(()) => Ok(true),
        // Another process did it, or is at it.
        Err(StoreError::NotFound { .. } | StoreError::RunInUse { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes prepared images that are old, and that no attempt of the record has asked for lately. One
/// that a container uses stays, and one that is asked for again is made again.
///
/// # Errors
/// Of listing, and of the record; a failed removal is in what it says.
pub async fn clear_images(
    images: &dyn ImageStore,
    store: &Store,
    options: ClearOptions,
) -> Result<Vec<ClearedImage>, GcError> {
    let before = options.policy.images_before(options.now);
    let is_old = |image: &ImageSummary| {
        let created = image.created.parse::<Timestamp>();
        created.is_ok_and(|created| created < before)
    };
    let mut found = images.list_images().await?;
    found.retain(|image| {
        let role = image.labels.get(keys::ROLE).map(String::as_str);
        role == Some(PREPARED_ROLE) && is_old(image)
    });
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let asked_for = images_since(store, before).await?;
    let mut cleared = Vec::new();
    for image in found {
        let of = image.labels.get(PREPARED_OF).map_or("", String::as_str);
        let base = match of {
            "" => None,
            of => images.inspect_image(of).await?,
        };
        if is_asked_for(&asked_for, of, base.as_ref()) {
            continue;
        }
        let base_bytes = base.map_or(0, |base| base.size_bytes);
        let mut one = ClearedImage {
            bytes: image.size_bytes.saturating_sub(base_bytes),
            id: image.id,
            tags: image.tags,
            in_use: false,
            error: None,
        };
        if !options.dry_run {
            remove_image(images, &mut one).await;
        }
        cleared.push(one);
    }
    Ok(cleared)
}

/// References and digests of the images that attempts since then were to run in.
async fn images_since(store: &Store, since: Timestamp) -> Result<HashSet<String>, StoreError> {
    let mut images = HashSet::new();
    let mut older_than = None;
    loop {
        let filter = AttemptFilter {
            older_than,
            limit: Some(PAGE),
            ..AttemptFilter::default()
        };
        let page = store.attempts(&filter).await?;
        let is_last = page.iter().any(|attempt| attempt.created_at < since);
        older_than = page.last().map(|attempt| attempt.id.clone());
        for attempt in page.into_iter().filter(|each| each.created_at >= since) {
            images.insert(attempt.image);
            images.extend(attempt.image_digest);
        }
        if is_last || older_than.is_none() {
            return Ok(images);
        }
    }
}

/// By its identifier, which is the digest of one that was made here, or by a name of it; a reference
/// without a tag means the latest.
fn is_asked_for(asked_for: &HashSet<String>, of: &str, base: Option<&ImageSummary>) -> bool {
    let by_name = |tag: &String| {
        let short = tag.strip_suffix(":latest");
        asked_for.contains(tag) || short.is_some_and(|short| asked_for.contains(short))
    };
    asked_for.contains(of) || base.is_some_and(|base| base.tags.iter().any(by_name))
}

async fn remove_image(images: &dyn ImageStore, one: &mut ClearedImage) {
    let by_id = [one.id.clone()];
    let names = match one.tags.as_slice() {
        [] => &by_id[..],
        tags => tags,
    };
    let mut failed: Option<EngineError> = None;
    for name in names {
        if let Err(error) = images.remove_image(name).await {
            failed = Some(error);
            break;
        }
    }
    match failed {
        None => {}
        Some(error) if error.kind == EngineErrorKind::Conflict => one.in_use = true,
        Some(error) => one.error = Some(failure::chain(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_is_due_when_none_ended_within_the_hour() {
        let now: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
        for (mark, due) in [
            (None, true),
            (Some("nonsense"), true),
            (Some("2026-01-01T11:00:00Z\n"), true),
            (Some("2026-01-01T11:00:01Z\n"), false),
            (Some("2026-01-01T12:00:01Z\n"), true),
        ] {
            assert_eq!(is_due(mark, now), due, "{mark:?}");
        }
    }

    #[test]
    fn an_image_is_asked_for_by_a_name_or_by_what_it_was_made_from() {
        let asked_for = HashSet::from(["python:3".to_owned(), "debian".to_owned()]);
        let base = |tag: &str| ImageSummary {
            id: "sha256:base".to_owned(),
            tags: vec![tag.to_owned()],
            labels: BTreeMap::new(),
            size_bytes: 1,
            created: String::new(),
        };
        let asked = |of: &str, tag: &str| is_asked_for(&asked_for, of, Some(&base(tag)));
        assert!(asked("sha256:base", "python:3"));
        assert!(asked("sha256:base", "debian:latest"));
        assert!(!asked("sha256:base", "debian:12"));
        assert!(!is_asked_for(&asked_for, "sha256:base", None));
        let by_digest = HashSet::from(["sha256:base".to_owned()]);
        assert!(is_asked_for(&by_digest, "sha256:base", None));
    }
}
