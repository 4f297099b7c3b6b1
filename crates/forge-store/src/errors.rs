//! What can go wrong with the record, as a closed set.

use std::error::Error;
use std::path::PathBuf;

use forge_core::{RunId, SandboxId, State};

/// Why the record could not be opened, written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process held the lock for longer than the busy timeout.
    #[error("could not {action}: {} is locked by another process", path.display())]
    Busy {
        /// The database.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The disk, a quota or the largest size of the database is used up.
    #[error("could not {action}: there is no space left for {}", path.display())]
    Full {
        /// The database.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The file is not a database, or is damaged. It is left as it is.
    #[error("could not {action}: {} is damaged or not a database", path.display())]
    Corrupt {
        /// The database.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The file is a database of another program. It is left as it is.
    #[error("{} is a database of another program", path.display())]
    Foreign {
        /// The database.
        path: PathBuf,
    },
    /// A newer swe-forge wrote the file. It is left as it is.
    #[error(
        "{} has schema version {found}, this swe-forge knows versions up to {supported}",
        path.display()
    )]
    NewerSchema {
        /// The database.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The latest version known here.
        supported: u32,
    },
    /// The write breaks a rule of the schema, such as an id that is recorded already.
    #[error("could not {action}: the record already has it, or lacks what it refers to")]
    Constraint {
        /// What was tried.
        action: &'static str,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The operating system refused: folder, file, permissions or disk.
    #[error("could not {action}: no proper access to {}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the operating system or SQLite said.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The file system cannot share the file between processes.
    #[error("{} is on a file system without a write-ahead log (mode '{mode}')", path.display())]
    Unshareable {
        /// The database.
        path: PathBuf,
        /// The journal mode SQLite fell back to.
        mode: String,
    },
    /// A recorded value is none that this version knows.
    #[error("could not {action}: {} holds a value that this version does not know", path.display())]
    Unreadable {
        /// The database.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Which value.
        source: rusqlite::Error,
    },
    /// A value given by the caller does not fit the record.
    #[error("could not {action}: a value does not fit the record")]
    Value {
        /// What was tried.
        action: &'static str,
        /// Which value, and why.
        source: rusqlite::Error,
    },
    /// The attempt is in another state than the caller believes: someone else moved it.
    #[error("attempt {id} is {}, not {}", stored.name(), expected.name())]
    StateConflict {
        /// The attempt.
        id: SandboxId,
        /// What the caller took it to be in.
        expected: Box<State>,
        /// What it is in.
        stored: Box<State>,
    },
    /// The run has another holder by now; the write was not done.
    #[error("another process took run {run} over")]
    Superseded {
        /// The run.
        run: RunId,
        /// The epoch of the caller, which has passed.
        epoch: u64,
    },
    /// Nothing of this name is recorded.
    #[error("no {what} '{name}' is recorded")]
    NotFound {
        /// What kind of thing.
        what: &'static str,
        /// The name looked for.
        name: String,
    },
    /// A shortened id fits several attempts.
    #[error("'{text}' fits {} attempts or more", candidates.len())]
    Ambiguous {
        /// What was looked for.
        text: String,
        /// Attempts it fits, newest first; at most twenty.
        candidates: Vec<SandboxId>,
    },
    /// A run that has not ended, or whose objects are not all removed, cannot be deleted.
    #[error("run {run} has not ended, or objects of it are not removed")]
    RunInUse {
        /// The run.
        run: RunId,
    },
    /// The file has no schema yet, or an older one, and has to be opened for writing once.
    #[error("{} has to be brought up to date before it can be read", path.display())]
    Outdated {
        /// The database.
        path: PathBuf,
    },
    /// The record was opened for reading only.
    #[error("could not {action}: {} was opened for reading only", path.display())]
    ReadOnly {
        /// The database.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
    },
    /// The store was closed.
    #[error("the record {} is closed", path.display())]
    Closed {
        /// The database.
        path: PathBuf,
    },
    /// A thread of the store ended though nobody closed it.
    #[error("the thread for the record {} is gone", path.display())]
    ThreadGone {
        /// The database.
        path: PathBuf,
    },
    /// SQLite refused for another reason: a fault of swe-forge.
    #[error("could not {action} in {}", path.display())]
    Internal {
        /// The database.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What SQLite said.
        source: rusqlite::Error,
    },
}

impl StoreError {
    /// What a person can do about it, where there is something.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Busy { .. } => "another swe-forge, or a tool that has the file open, writes for \
                                  very long; try again, or end it"
                .to_owned(),
            Self::Full { .. } => "free some space, or delete old runs, then start again".to_owned(),
            Self::Corrupt { path, .. } | Self::Foreign { path } => format!(
                "nothing was changed; restore {path} from a backup, or move it away together with \
                 {path}-wal and {path}-shm to begin a new record",
                path = path.display()
            ),
            Self::NewerSchema { .. } | Self::Unreadable { .. } => {
                "use the swe-forge that wrote it, or a newer one".to_owned()
            }
            Self::Io { path, .. } => format!(
                "check that {} and its folder exist and belong to you, and that the disk is well",
                path.display()
            ),
            Self::Unshareable { .. } => {
                "put the folder of swe-forge on a local disk of this machine".to_owned()
            }
            Self::Ambiguous { candidates, .. } => format!(
                "give more of the id: {}",
                candidates
                    .iter()
                    .map(SandboxId::as_str)
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
            Self::Superseded { run, .. } => format!(
                "this process took too long to show that it lives, and stops here; the other one \
                 carries run {run} on"
            ),
            Self::RunInUse { .. } => "wait for its end, or clean up what it left".to_owned(),
            Self::Constraint { .. }
            | Self::Value { .. }
            | Self::StateConflict { .. }
            | Self::NotFound { .. }
            | Self::Outdated { .. }
            | Self::ReadOnly { .. }
            | Self::Closed { .. }
            | Self::ThreadGone { .. }
            | Self::Internal { .. } => return None,
        })
    }
}
