//! The files of runs that have ended: how much they take, and removing them.
//!
//! A run's folder lies where a person wanted it, and they may have put other things there since.
//! Only what [`RunLayout`] names is touched, only in a folder that bears the run's id, and no link is
//! followed. A folder that something else is left in stays with it.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};

use forge_core::{CleanupBounds, PhaseName, RunId, SandboxId, Task};
use serde::{Deserialize, Serialize};

use crate::layout::RunLayout;
use crate::phase_log::mark_of;

/// A larger file is none of ours.
const MOST_BYTES: u64 = 16 * 1024 * 1024;

/// Days for which tasks of a run want their results kept: `retention.json`, for those that want less
/// than the operator's.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RetentionFile {
    /// By the task's id.
    log_retention_days: BTreeMap<String, u32>,
}

/// Writes down for how long the results of `tasks` are to be kept, where that is not as the operator
/// has it anyway; for when the run has long ended. Blocking.
///
/// # Errors
/// Of the file.
pub fn write_down_retention<'t>(
    layout: &RunLayout,
    tasks: impl IntoIterator<Item = &'t Task>,
    bounds: &CleanupBounds,
) -> io::Result<()> {
    let less = tasks
        .into_iter()
        .filter(|task| task.cleanup.log_retention_days < bounds.log_retention_days);
    let file = RetentionFile {
        log_retention_days: less
            .map(|task| (task.id.to_string(), task.cleanup.log_retention_days))
            .collect(),
    };
    if file.log_retention_days.is_empty() {
        return Ok(());
    }
    fs::create_dir_all(layout.root())?;
    let path = layout.retention();
    let partial = path.with_extension("partial");
    fs::write(&partial, serde_json::to_vec(&file)?)?;
    fs::rename(&partial, &path)
}

/// Days by task that a run's folder says; none where it says nothing that can be read.
fn retention(layout: &RunLayout) -> BTreeMap<String, u32> {
    let path = layout.retention();
    let is_plausible = |found: &Metadata| found.is_file() && found.len() <= MOST_BYTES;
    match fs::symlink_metadata(&path) {
        Ok(found) if is_plausible(&found) => {}
        _ => return BTreeMap::new(),
    }
    let read = fs::read(&path)
        .and_then(|bytes| serde_json::from_slice::<RetentionFile>(&bytes).map_err(Into::into));
    match read {
        Ok(file) => file.log_retention_days,
        Err(error) => {
            tracing::info!(%error, path = %path.display(), "it is not heeded");
            BTreeMap::new()
        }
    }
}

/// An attempt as far as its files are concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AttemptFiles {
    pub id: SandboxId,
    /// Its task's id.
    pub task: String,
}

/// What the folder of a run holds of ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Measured {
    /// Bytes of each attempt, and days its task wants them kept.
    pub attempts: Vec<(SandboxId, u64, Option<u32>)>,
    /// Bytes of what belongs to no attempt.
    pub other_bytes: u64,
}

/// Whether the folder of a run says that some task wants less than the operator's days.
pub(crate) fn has_own_retention(root: &Path) -> bool {
    let path = RunLayout::at(root.to_owned()).retention();
    fs::symlink_metadata(path).is_ok_and(|found| found.is_file())
}

/// Looks at what a run's folder holds. Blocking; what cannot be looked at counts as nothing.
pub(crate) fn measure(root: &Path, run: &RunId, attempts: &[AttemptFiles]) -> Measured {
    if !is_of_run(root, run) {
        return Measured::default();
    }
    let layout = RunLayout::at(root.to_owned());
    let days = retention(&layout);
    let attempts = attempts.iter().map(|attempt| {
        let bytes = match is_inside(root, &attempt.id) {
            true => bytes_of_attempt(&layout, &attempt.id),
            false => 0,
        };
        let days = days.get(&attempt.task).copied();
        (attempt.id.clone(), bytes, days)
    });
    Measured {
        attempts: attempts.collect(),
        other_bytes: others(&layout).iter().map(|file| bytes_of(file)).sum(),
    }
}

/// Removes the logs and artifacts of an attempt. Blocking.
///
/// # Errors
/// The first of the system's; what can be removed is, all the same.
pub(crate) fn remove_attempt(root: &Path, run: &RunId, id: &SandboxId) -> io::Result<()> {
    if !is_of_run(root, run) || !is_inside(root, id) {
        return Ok(());
    }
    let layout = RunLayout::at(root.to_owned());
    let mut removed = Removal::default();
    for log in logs(&layout, id) {
        removed.note(fs::remove_file(log));
    }
    let artifacts = layout.artifacts(id);
    // Removes a link instead of what it leads to.
    if is_folder(&artifacts) {
        removed.note(fs::remove_dir_all(&artifacts));
    }
    removed.folder(&layout.attempt(id));
    removed.result()
}

/// Removes everything of ours in a run's folder, and the folder when nothing else is in it. Says
/// whether the folder is gone. Blocking.
///
/// # Errors
/// The first of the system's; what can be removed is, all the same.
pub(crate) fn remove_run(root: &Path, run: &RunId, attempts: &[AttemptFiles]) -> io::Result<bool> {
    if !is_of_run(root, run) {
        return Ok(fs::symlink_metadata(root).is_err());
    }
    let layout = RunLayout::at(root.to_owned());
    let mut removed = Removal::default();
    for attempt in attempts {
        removed.note(remove_attempt(root, run, &attempt.id));
    }
    removed.folder(&layout.attempts());
    // The report last: as long as it is there, the folder says whose it is.
    for file in others(&layout) {
        removed.note(fs::remove_file(file));
    }
    removed.folder(root);
    removed.result()?;
    Ok(fs::symlink_metadata(root).is_err())
}

/// What went wrong first of several removals.
#[derive(Default)]
struct Removal(Option<io::Error>);

impl Removal {
    fn note(&mut self, removed: io::Result<()>) {
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                self.0.get_or_insert(error);
            }
            _ => {}
        }
    }

    /// A folder goes unless something of somebody else's is in it, or in its place.
    fn folder(&mut self, path: &Path) {
        match fs::remove_dir(path) {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotADirectory
                ) => {}
            removed => self.note(removed),
        }
    }

    fn result(self) -> io::Result<()> {
        match self.0 {
            None => Ok(()),
            Some(error) => Err(error),
        }
    }
}

/// Whether a folder is that of a run: it is one, and no link, it bears the run's id, and no report of
/// another run is in it.
fn is_of_run(root: &Path, run: &RunId) -> bool {
    let named = root
        .file_name()
        .is_some_and(|name| name.to_str() == Some(run.to_string().as_str()));
    named && is_folder(root) && !has_report_of_another(root, run)
}

fn has_report_of_another(root: &Path, run: &RunId) -> bool {
    #[derive(Deserialize)]
    struct Head {
        run: HeadRun,
    }
    #[derive(Deserialize)]
    struct HeadRun {
        id: String,
    }
    let path = RunLayout::at(root.to_owned()).report();
    match fs::symlink_metadata(&path) {
        Err(error) => return error.kind() != io::ErrorKind::NotFound,
        Ok(found) if !found.is_file() => return true,
        Ok(_) => {}
    }
    let read = fs::File::open(&path).map(io::BufReader::new);
    let head = read.map(serde_json::from_reader::<_, Head>);
    !matches!(head, Ok(Ok(head)) if head.run.id == run.to_string())
}

/// Whether the folder of an attempt is below the run's without a link on the way.
fn is_inside(root: &Path, id: &SandboxId) -> bool {
    let layout = RunLayout::at(root.to_owned());
    is_folder(&layout.attempts()) && is_folder(&layout.attempt(id))
}

fn is_folder(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_dir())
}

/// The logs of an attempt, and the marks beside them.
fn logs(layout: &RunLayout, id: &SandboxId) -> Vec<PathBuf> {
    let phases = PhaseName::ALL.map(|phase| layout.log(id, phase));
    let marks = phases.each_ref().map(|log| mark_of(log));
    let logs = phases.into_iter().chain(marks);
    logs.chain([layout.connections(id)]).collect()
}

/// What of a run belongs to no attempt, finished or half-written; the report last.
fn others(layout: &RunLayout) -> Vec<PathBuf> {
    let (report, junit) = (layout.report(), layout.junit());
    let (waiting, retention) = (layout.waiting(), layout.retention());
    vec![
        report.with_extension("partial"),
        junit.with_extension("partial"),
        retention.with_extension("partial"),
        waiting.with_extension("json.part"),
        waiting,
        retention,
        junit,
        report,
    ]
}

fn bytes_of_attempt(layout: &RunLayout, id: &SandboxId) -> u64 {
    let logs = logs(layout, id);
    let artifacts = bytes_below(&layout.artifacts(id));
    let logs = logs.iter().map(|log| bytes_of(log));
    logs.fold(artifacts, u64::saturating_add)
}

fn bytes_of(file: &Path) -> u64 {
    match fs::symlink_metadata(file) {
        Ok(found) if found.is_file() => found.len(),
        _ => 0,
    }
}

fn bytes_below(folder: &Path) -> u64 {
    if !is_folder(folder) {
        return 0;
    }
    let mut folders = vec![folder.to_owned()];
    let mut bytes = 0_u64;
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
        for entry in entries {
            // Of the entry itself, not of what a link leads to.
            match entry.metadata() {
                Ok(found) if found.is_dir() => folders.push(entry.path()),
                Ok(found) => bytes = bytes.saturating_add(found.len()),
                // It counts as nothing; removing it tells more.
                Err(_) => {}
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use tempfile::TempDir;
    use uuid::Uuid;

    /// A folder with the results of one run of one attempt, of 5 + 7 + 3 bytes.
    struct Fixture {
        folder: TempDir,
        run: RunId,
        attempts: Vec<AttemptFiles>,
    }

    impl Fixture {
        fn new() -> Self {
            let fixture = Self {
                folder: tempfile::tempdir().unwrap(),
                run: RunId::from_uuid(Uuid::from_u128(7)),
                attempts: vec![AttemptFiles {
                    id: SandboxId::new("task-1").unwrap(),
                    task: "task".to_owned(),
                }],
            };
            let layout = fixture.layout();
            let artifacts = layout.artifacts(fixture.id()).join("output/deep");
            fs::create_dir_all(&artifacts).unwrap();
            let log = layout.log(fixture.id(), PhaseName::Solve);
            fs::write(&log, "1234").unwrap();
            fs::write(mark_of(&log), "5").unwrap();
            fs::write(artifacts.join("kept"), "1234567").unwrap();
            fs::write(layout.junit(), "<x>").unwrap();
            fixture
        }

        fn layout(&self) -> RunLayout {
            RunLayout::new(self.folder.path(), &self.run)
        }

        fn id(&self) -> &SandboxId {
            &self.attempts[0].id
        }

        fn report_of(&self, run: &RunId) {
            let text = format!("{{\"version\": 1, \"run\": {{\"id\": \"{run}\", \"x\": 1}}}}");
            fs::write(self.layout().report(), text).unwrap();
        }

        fn remove(&self) -> bool {
            remove_run(self.layout().root(), &self.run, &self.attempts).unwrap()
        }

        fn measure(&self) -> Measured {
            measure(self.layout().root(), &self.run, &self.attempts)
        }
    }

    #[test]
    fn what_a_run_left_is_measured_and_removed_with_its_folder() {
        let fixture = Fixture::new();
        let measured = fixture.measure();
        assert_eq!(measured.attempts, [(fixture.id().clone(), 12, None)]);
        assert_eq!(measured.other_bytes, 3);
        fixture.report_of(&fixture.run);
        assert!(fixture.remove());
        assert!(!fixture.layout().root().exists() && fixture.folder.path().exists());
        assert!(fixture.remove(), "what is gone already is no error");
    }

    #[test]
    fn what_somebody_put_there_stays_with_the_folder_it_is_in() {
        let fixture = Fixture::new();
        let attempt = fixture.layout().attempt(fixture.id());
        let foreign = [
            fixture.layout().root().join("notes.txt"),
            attempt.join("notes.txt"),
            fixture.layout().attempts().join("another"),
        ];
        for path in &foreign {
            fs::write(path, "mine").unwrap();
        }
        assert!(!fixture.remove());
        assert!(foreign.iter().all(|path| path.exists()));
        assert!(!fixture.layout().artifacts(fixture.id()).exists());
        assert!(!fixture.layout().junit().exists());
    }

    #[test]
    fn no_link_is_followed() {
        let fixture = Fixture::new();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("solve.log"), "theirs").unwrap();
        fs::create_dir(outside.path().join("artifacts")).unwrap();
        let layout = fixture.layout();
        // Links in the artifacts go, as links; so does the one in the place of a log.
        symlink(outside.path(), layout.artifacts(fixture.id()).join("link")).unwrap();
        symlink(
            outside.path().join("solve.log"),
            layout.log(fixture.id(), PhaseName::Verify),
        )
        .unwrap();
        assert!(fixture.remove());
        assert!(outside.path().join("solve.log").exists());
        assert!(outside.path().join("artifacts").exists());
        // In the place of a folder of ours they stay, with all that they lead to.
        for place in [
            layout.attempt(fixture.id()),
            layout.attempts(),
            layout.root().to_owned(),
        ] {
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            symlink(outside.path(), &place).unwrap();
            assert!(!fixture.remove(), "{}", place.display());
            assert!(outside.path().join("solve.log").exists());
            assert_eq!(
                fixture
                    .measure()
                    .attempts
                    .iter()
                    .map(|each| each.1)
                    .sum::<u64>(),
                0
            );
            fs::remove_file(&place).unwrap();
            fixture.remove();
        }
    }

    #[test]
    fn a_folder_of_another_name_or_with_the_report_of_another_run_is_not_touched() {
        let fixture = Fixture::new();
        fixture.report_of(&RunId::from_uuid(Uuid::from_u128(8)));
        assert!(!fixture.remove());
        assert_eq!(fixture.measure(), Measured::default());
        fs::write(fixture.layout().report(), "no report").unwrap();
        assert!(!fixture.remove());
        fixture.report_of(&fixture.run);
        let elsewhere = fixture.folder.path().join("my results");
        fs::rename(fixture.layout().root(), &elsewhere).unwrap();
        let removed = remove_run(&elsewhere, &fixture.run, &fixture.attempts).unwrap();
        assert!(!removed && elsewhere.join("attempts/task-1/solve.log").exists());
    }

    #[test]
    fn only_the_files_of_one_attempt_go_with_it() {
        let mut fixture = Fixture::new();
        fixture.report_of(&fixture.run);
        let other = SandboxId::new("other-1").unwrap();
        fs::create_dir_all(fixture.layout().attempt(&other)).unwrap();
        fs::write(fixture.layout().log(&other, PhaseName::Solve), "1").unwrap();
        remove_attempt(fixture.layout().root(), &fixture.run, fixture.id()).unwrap();
        assert!(!fixture.layout().attempt(fixture.id()).exists());
        assert!(fixture.layout().report().exists());
        fixture.attempts.push(AttemptFiles {
            id: other.clone(),
            task: "other".to_owned(),
        });
        let bytes: Vec<u64> = fixture
            .measure()
            .attempts
            .iter()
            .map(|each| each.1)
            .collect();
        assert_eq!(bytes, [0, 1]);
    }

    #[test]
    fn a_file_that_cannot_be_understood_keeps_nothing_shorter() {
        let fixture = Fixture::new();
        let layout = fixture.layout();
        for (text, days) in [
            ("{\"log_retention_days\": {\"task\": 3}}", Some(3)),
            ("{\"log_retention_days\": {\"task\": -3}}", None),
            ("nonsense", None),
        ] {
            fs::write(layout.retention(), text).unwrap();
            assert!(has_own_retention(layout.root()));
            assert_eq!(fixture.measure().attempts[0].2, days, "{text}");
        }
    }
}
