//! What a run was asked for, as the record keeps it: enough to ask for it again on a later day.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use forge_core::task::SourceTree;
use forge_core::{CommandLine, Task, TaskId};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::agent::Agent;
use crate::redact::Mask;
use crate::run::Purpose;

/// What a run was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunPlan {
    /// What to do with the tasks.
    pub purpose: PlannedPurpose,
    /// The tasks in the order they were given.
    pub tasks: Vec<PlannedTask>,
    /// Whether containers and volumes are kept for inspection.
    pub keep: bool,
    /// Where the engine is that the run is on.
    pub endpoint: String,
    /// What the engine handle of the run makes the names from of what all its sandboxes share; a
    /// secret.
    pub engine_identity: Option<String>,
}

/// What is done with the tasks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum PlannedPurpose {
    /// Each is given to an agent.
    Run {
        /// Its name.
        agent: String,
        /// The command of the command agent, where it is not each task's own.
        command: Option<CommandLine>,
        /// That command holds a secret of the operator's, so it was not recorded.
        withheld: bool,
    },
    /// Each is validated.
    Validate {
        /// How often each agent tries.
        repeat: u32,
    },
}

/// A task of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedTask {
    /// Its id.
    pub id: TaskId,
    /// Where it was read from.
    pub directory: PathBuf,
    /// Of everything in it.
    pub fingerprint: String,
}

/// A purpose that was recorded and cannot be taken up as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The command holds a secret.
    #[error("the command of the run's agent holds a secret and was not recorded")]
    CommandWithheld,
    /// A later version wrote it.
    #[error("the record names an agent '{0}' that this program does not have")]
    UnknownAgent(String),
}

impl PlannedPurpose {
    /// What is recorded of `purpose`, in which no secret may stand.
    #[must_use]
    pub(crate) fn of(purpose: &Purpose, secrets: &Mask) -> Self {
        let agent = match purpose {
            Purpose::Validate { repeat } => return Self::Validate { repeat: *repeat },
            Purpose::Run(agent) => agent,
        };
        let Agent::Command(Some(command)) = agent else {
            return Self::Run {
                agent: agent.name().to_owned(),
                command: None,
                withheld: false,
            };
        };
        let words = command.argv();
        let withheld = words.iter().any(|word| secrets.text(word.clone()) != *word);
        Self::Run {
            agent: agent.name().to_owned(),
            command: (!withheld).then(|| command.clone()),
            withheld,
        }
    }

    /// The purpose that was recorded; `command` is what the person gave again, for an agent whose
    /// command was not.
    ///
    /// # Errors
    /// [`PlanError`].
    pub fn purpose(&self, given: Option<CommandLine>) -> Result<Purpose, PlanError> {
        let (agent, command, withheld) = match self {
            Self::Validate { repeat } => return Ok(Purpose::Validate { repeat: *repeat }),
            Self::Run {
                agent,
                command,
                withheld,
            } => (agent, command, *withheld),
        };
        let agents = [Agent::Nop, Agent::Oracle];
        if let Some(known) = agents.into_iter().find(|known| known.name() == agent) {
            return Ok(Purpose::Run(known));
        }
        if agent != Agent::Command(None).name() {
            return Err(PlanError::UnknownAgent(agent.clone()));
        }
        match (given, command, withheld) {
            (None, None, true) => Err(PlanError::CommandWithheld),
            (given, _, true) => Ok(Purpose::Run(Agent::Command(given))),
            (_, command, false) => Ok(Purpose::Run(Agent::Command(command.clone()))),
        }
    }
}

/// The tasks of a run with their fingerprints.
///
/// # Errors
/// When a task's files cannot be looked at.
pub fn planned_tasks(tasks: &[Arc<Task>]) -> io::Result<Vec<PlannedTask>> {
    tasks
        .iter()
        .map(|task| {
            Ok(PlannedTask {
                id: task.id.clone(),
                directory: task.directory.clone(),
                fingerprint: fingerprint(task)?,
            })
        })
        .collect()
}

/// Changes whenever the task does: the specification by its contents, the other files by names,
/// sizes, modes and dates.
fn fingerprint(task: &Task) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut add = |bytes: &[u8]| {
        hasher.update((bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    for file in &task.specification {
        add(file.name.as_bytes());
        add(&file.contents);
    }
    let solution = task.solution.as_ref().map(|solution| &solution.tree);
    for tree in [task.src.as_ref(), task.tests.as_ref(), solution] {
        match tree {
            Some(SourceTree { root, .. }) => add_tree(root, root, &mut add)?,
            None => add(b"absent"),
        }
    }
    let digest = hasher.finalize();
    Ok(digest[..16]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

fn add_tree(root: &Path, folder: &Path, add: &mut impl FnMut(&[u8])) -> io::Result<()> {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<_>>()?;
    entries.sort();
    for path in entries {
        let metadata = fs::symlink_metadata(&path)?;
        let name = path.strip_prefix(root).unwrap_or(&path);
        add(name.as_os_str().as_bytes());
        add(&metadata.mode().to_le_bytes());
        if metadata.is_dir() {
            // The date of a folder changes with files that come and go, which are told themselves.
            add_tree(root, &path, add)?;
        } else {
            add(&metadata.len().to_le_bytes());
            add(&metadata.mtime().to_le_bytes());
            add(&metadata.mtime_nsec().to_le_bytes());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(purpose: &Purpose) -> PlannedPurpose {
        let planned = PlannedPurpose::of(purpose, &Mask::new(["tiger-tiger"]));
        let text = serde_json::to_string(&planned).unwrap();
        assert!(!text.contains("tiger-tiger"), "{text}");
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn what_is_asked_for_is_read_back_from_the_record() {
        let shell = |text: &str| Agent::Command(Some(CommandLine::Shell(text.to_owned())));
        for agent in [
            Agent::Nop,
            Agent::Oracle,
            Agent::Command(None),
            shell("make"),
        ] {
            let planned = recorded(&Purpose::Run(agent.clone()));
            assert!(matches!(planned.purpose(None), Ok(Purpose::Run(read)) if read == agent));
        }
        let planned = recorded(&Purpose::Validate { repeat: 3 });
        assert!(matches!(
            planned.purpose(None),
            Ok(Purpose::Validate { repeat: 3 })
        ));
    }

    #[test]
    fn a_command_with_a_secret_is_not_recorded_and_must_be_given_again() {
        let command = CommandLine::Shell("login tiger-tiger".to_owned());
        let agent = Agent::Command(Some(command.clone()));
        let planned = recorded(&Purpose::Run(agent.clone()));
        assert_eq!(
            planned.purpose(None).unwrap_err(),
            PlanError::CommandWithheld
        );
        assert!(matches!(planned.purpose(Some(command)), Ok(Purpose::Run(read)) if read == agent));
    }

    #[test]
    fn a_file_that_changes_changes_the_fingerprint_of_its_tree() {
        let folder = tempfile::tempdir().unwrap();
        let of = || {
            let mut all = Vec::new();
            let mut add = |bytes: &[u8]| all.extend_from_slice(bytes);
            add_tree(folder.path(), folder.path(), &mut add).unwrap();
            all
        };
        fs::create_dir(folder.path().join("a")).unwrap();
        fs::write(folder.path().join("a/b"), "1").unwrap();
        let first = of();
        assert_eq!(of(), first);
        fs::write(folder.path().join("a/b"), "12").unwrap();
        let second = of();
        assert_ne!(second, first);
        fs::rename(folder.path().join("a/b"), folder.path().join("a/c")).unwrap();
        assert_ne!(of(), second);
    }
}
