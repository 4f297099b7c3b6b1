//! Results that have had their time, on a real disk with a real record.

use std::path::PathBuf;
use std::sync::Mutex;

use async_trait::async_trait;
use forge_core::ownership::keys;
use forge_core::{Attempt, ImageChoice, RunId, SandboxId, Task};
use forge_engine::fake::FakeExec;
use forge_engine::images::{
    BuildOptions, ByteStream, ImageStore, ImageSummary, ImportOptions, ProgressLine,
};
use forge_engine::{EngineError, EngineErrorKind, Operation};
use forge_orchestrator::janitor::{self, ClearOptions, ClearedResults};
use forge_orchestrator::{RunLayout, results};
use forge_plan::retention::{Ground, RetentionPolicy};
use forge_store::{NewAttempt, NewRun, RunKind};
use jiff::{SignedDuration, Timestamp};

use crate::support::Bench;

const POLICY: RetentionPolicy = RetentionPolicy {
    log_days: 30,
    image_days: 30,
    budget_bytes: None,
};

fn days_ago(days: i64) -> Timestamp {
    Timestamp::now() - SignedDuration::from_hours(24 * days)
}

/// A run with a log of 100 bytes for its one attempt, that ended so many days ago or not at all.
async fn run(bench: &Bench, task: &Task, ended: Option<i64>) -> (RunId, RunLayout) {
    let id = RunId::from_uuid(uuid::Uuid::now_v7());
    let layout = RunLayout::new(&bench.folder.path().join("out"), &id);
    let at = days_ago(ended.unwrap_or(0));
    let new_run = NewRun {
        id,
        kind: RunKind::Run,
        agent: "nop".to_owned(),
        created_at: at,
        out_directory: layout.root().to_owned(),
        holder: forge_orchestrator::holder::this_process(),
        arguments: Vec::new(),
        engine: "fake".to_owned(),
        engine_version: "1".to_owned(),
        plan: String::new(),
    };
    bench.store.begin_run(&new_run).await.unwrap();
    let attempt = SandboxId::for_attempt(&task.id, &id, Attempt(1));
    let new_attempt = NewAttempt {
        id: attempt.clone(),
        run: id,
        task: task.id.clone(),
        attempt: Attempt(1),
        repetition: 1,
        title: task.title.clone(),
        difficulty: task.difficulty,
        image: task.image.reference().to_owned(),
        created_at: at,
    };
    bench.store.add_attempt(&new_attempt).await.unwrap();
    let log = layout.attempt(&attempt).join("solve.log");
    std::fs::create_dir_all(log.parent().unwrap()).unwrap();
    std::fs::write(log, [b'x'; 100]).unwrap();
    if ended.is_some() {
        bench.store.end_run(&id, at).await.unwrap();
    }
    (id, layout)
}

async fn cleared(bench: &Bench, dry_run: bool, policy: RetentionPolicy) -> Vec<ClearedResults> {
    let options = ClearOptions {
        dry_run,
        policy,
        now: Timestamp::now(),
    };
    janitor::clear_results(&bench.store, options).await.unwrap()
}

fn whole(run: RunId, layout: &RunLayout, ground: Ground, forgotten: bool) -> ClearedResults {
    ClearedResults {
        run,
        attempt: None,
        folder: PathBuf::from(layout.root()),
        ground,
        bytes: 100,
        forgotten,
        folder_stays: false,
        error: None,
    }
}

#[tokio::test]
async fn results_that_are_too_old_go_with_their_record() {
    let bench = Bench::new(|_| FakeExec::exits(0)).await;
    let task = bench.task("task");
    let (old, old_layout) = run(&bench, &task, Some(31)).await;
    let (young, young_layout) = run(&bench, &task, Some(29)).await;
    let (_, live_layout) = run(&bench, &task, None).await;
    let expected = [whole(old, &old_layout, Ground::Old, true)];
    for dry_run in [true, false] {
        assert!(old_layout.root().exists());
        let cleared = cleared(&bench, dry_run, POLICY).await;
        assert_eq!(cleared, expected, "{dry_run}");
    }
    assert!(!old_layout.root().exists());
    assert!(bench.store.run(&old).await.is_err());
    assert!(young_layout.root().exists() && live_layout.root().exists());
    assert!(bench.store.run(&young).await.is_ok());
    assert_eq!(cleared(&bench, false, POLICY).await, []);
}

#[tokio::test]
async fn what_has_to_make_room_stays_in_the_record_until_it_is_old() {
    let bench = Bench::new(|_| FakeExec::exits(0)).await;
    let task = bench.task("task");
    let (older, older_layout) = run(&bench, &task, Some(2)).await;
    let (_, newer_layout) = run(&bench, &task, Some(1)).await;
    let (_, live_layout) = run(&bench, &task, None).await;
    let budget = |bytes| RetentionPolicy {
        budget_bytes: Some(bytes),
        ..POLICY
    };
    assert_eq!(cleared(&bench, false, budget(300)).await, []);
    let expected = whole(older, &older_layout, Ground::OverBudget, false);
    assert_eq!(cleared(&bench, false, budget(299)).await, [expected]);
    assert!(!older_layout.root().exists());
    assert!(newer_layout.root().exists() && live_layout.root().exists());
    let record = bench.store.run(&older).await.unwrap();
    assert!(record.files_removed_at.is_some());
    let short = RetentionPolicy {
        log_days: 1,
        ..POLICY
    };
    let forgotten = cleared(&bench, false, short).await;
    assert!(
        forgotten
            .iter()
            .any(|each| each.run == older && each.bytes == 0)
    );
    assert!(bench.store.run(&older).await.is_err());
}

#[tokio::test]
async fn a_run_whose_objects_are_left_loses_its_files_and_is_not_forgotten() {
    let bench = Bench::new(|_| FakeExec::exits(0)).await;
    let task = bench.task("task");
    let (old, layout) = run(&bench, &task, Some(31)).await;
    let attempt = SandboxId::for_attempt(&task.id, &old, Attempt(1));
    let kind = forge_store::ObjectKind::Container;
    bench
        .store
        .intend_object(&attempt, kind, attempt.as_str(), days_ago(31))
        .await
        .unwrap();
    let expected = whole(old, &layout, Ground::Old, false);
    assert_eq!(cleared(&bench, false, POLICY).await, [expected]);
    assert!(!layout.root().exists() && bench.store.run(&old).await.is_ok());
    assert_eq!(cleared(&bench, false, POLICY).await, []);
    bench
        .store
        .object_removed(kind, attempt.as_str(), Timestamp::now())
        .await
        .unwrap();
    assert_eq!(cleared(&bench, false, POLICY).await.len(), 1);
    assert!(bench.store.run(&old).await.is_err());
}

#[tokio::test]
async fn results_of_a_task_that_wants_them_gone_go_before_the_others() {
    let bench = Bench::new(|_| FakeExec::exits(0)).await;
    let mut task = bench.task("brief");
    task.cleanup.log_retention_days = 7;
    let (id, layout) = run(&bench, &task, Some(8)).await;
    let bounds = forge_core::CleanupBounds::default();
    results::write_down_retention(&layout, [&task], &bounds).unwrap();
    let cleared_now = cleared(&bench, false, POLICY).await;
    let attempt = SandboxId::for_attempt(&task.id, &id, Attempt(1));
    assert_eq!(cleared_now.len(), 1);
    assert_eq!(cleared_now[0].attempt.as_ref(), Some(&attempt));
    assert!(!layout.attempt(&attempt).exists() && layout.root().exists());
    assert_eq!(cleared(&bench, false, POLICY).await, []);
}

#[tokio::test]
async fn tasks_that_want_no_less_than_the_operator_leave_no_word_about_it() {
    let bench = Bench::new(|_| FakeExec::exits(0)).await;
    let task = bench.task("usual");
    let (_, layout) = run(&bench, &task, None).await;
    let bounds = forge_core::CleanupBounds::default();
    results::write_down_retention(&layout, [&task], &bounds).unwrap();
    assert!(!layout.retention().exists());
}

#[tokio::test]
async fn a_pass_in_the_background_is_made_once_an_hour() {
    let bench = Bench::new(|_| FakeExec::exits(0)).await;
    let task = bench.task("task");
    let state = bench.folder.path().join("state");
    std::fs::create_dir(&state).unwrap();
    let pass = async || {
        let engine = std::sync::Arc::new(bench.engine.clone());
        janitor::run_in_background(engine, bench.store.clone(), state.clone(), POLICY)
            .join()
            .await
            .unwrap();
    };
    let (_, first) = run(&bench, &task, Some(31)).await;
    pass().await;
    assert!(!first.root().exists());
    let (_, second) = run(&bench, &task, Some(31)).await;
    pass().await;
    assert!(second.root().exists());
    std::fs::write(state.join("janitor"), days_ago(1).to_string()).unwrap();
    pass().await;
    assert!(!second.root().exists());
}

/// Prepared images of the image `base:1`, named by how many days ago they were made, and one that a
/// container uses.
struct Images {
    days: Vec<i64>,
    used: i64,
    removed: Mutex<Vec<String>>,
}

impl Images {
    fn image(days: i64) -> ImageSummary {
        let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        ImageSummary {
            id: format!("sha256:{days}"),
            tags: vec![format!("swe-forge/prepared:{days}")],
            labels: [
                label(keys::ROLE, janitor::PREPARED_ROLE),
                label(janitor::PREPARED_OF, "sha256:base"),
            ]
            .into(),
            size_bytes: 70,
            created: days_ago(days).to_string(),
        }
    }
}

#[async_trait]
impl ImageStore for Images {
    async fn list_images(&self) -> Result<Vec<ImageSummary>, EngineError> {
        let prepared = self.days.iter().copied().map(Self::image);
        // Any other image of ours is not looked at, however old.
        let mut base = Self::image(1000);
        base.labels
            .insert(keys::ROLE.to_owned(), "base-image".to_owned());
        Ok(prepared.chain([base]).collect())
    }

    async fn inspect_image(&self, reference: &str) -> Result<Option<ImageSummary>, EngineError> {
        assert_eq!(reference, "sha256:base");
        Ok(Some(ImageSummary {
            id: reference.to_owned(),
            tags: vec!["base:1".to_owned()],
            size_bytes: 60,
            ..Self::image(1000)
        }))
    }

    async fn import_image(
        &self,
        _root: ByteStream,
        _options: &ImportOptions,
    ) -> Result<ImageSummary, EngineError> {
        unreachable!("nothing is imported here")
    }

    async fn build_image(
        &self,
        _context: ByteStream,
        _options: &BuildOptions,
        _progress: ProgressLine<'_>,
    ) -> Result<ImageSummary, EngineError> {
        unreachable!("nothing is built here")
    }

    async fn registry_has(&self, _reference: &str) -> Result<bool, EngineError> {
        unreachable!("no registry is asked here")
    }

    async fn remove_image(&self, reference: &str) -> Result<(), EngineError> {
        if reference.ends_with(&format!(":{}", self.used)) {
            let kind = EngineErrorKind::Conflict;
            let error = EngineError::new(kind, Operation::Images, reference, "it is in use");
            return Err(error);
        }
        self.removed.lock().unwrap().push(reference.to_owned());
        Ok(())
    }
}

#[tokio::test]
async fn prepared_images_go_when_they_are_old_and_no_container_uses_them() {
    let bench = Bench::new(|_| FakeExec::exits(0)).await;
    let images = Images {
        days: vec![29, 31, 40],
        used: 40,
        removed: Mutex::default(),
    };
    for dry_run in [true, false] {
        let options = ClearOptions {
            dry_run,
            policy: POLICY,
            now: Timestamp::now(),
        };
        assert_eq!(images.removed.lock().unwrap().as_slice(), [""; 0]);
        let cleared = janitor::clear_images(&images, &bench.store, options).await;
        let cleared: Vec<_> = cleared
            .unwrap()
            .into_iter()
            .map(|each| (each.id, each.bytes, each.in_use, each.error))
            .collect();
        let expected = [
            ("sha256:31".to_owned(), 10, false, None),
            ("sha256:40".to_owned(), 10, !dry_run, None),
        ];
        assert_eq!(cleared, expected);
    }
    let removed = images.removed.lock().unwrap();
    assert_eq!(removed.as_slice(), ["swe-forge/prepared:31"]);
}

#[tokio::test]
async fn prepared_images_stay_as_long_as_attempts_ask_for_theirs() {
    let bench = Bench::new(|_| FakeExec::exits(0)).await;
    let mut task = bench.task("asks");
    task.image = ImageChoice::Reference("base:1".to_owned());
    let images = Images {
        days: vec![31],
        used: 0,
        removed: Mutex::default(),
    };
    let cleared = async || {
        let options = ClearOptions {
            dry_run: true,
            policy: POLICY,
            now: Timestamp::now(),
        };
        let cleared = janitor::clear_images(&images, &bench.store, options).await;
        cleared.unwrap().len()
    };
    run(&bench, &task, Some(31)).await;
    assert_eq!(cleared().await, 1);
    run(&bench, &task, Some(29)).await;
    assert_eq!(cleared().await, 0);
}
