//! The rows of the record as the rest of swe-forge sees them.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use forge_core::life_cycle::StateName;
use forge_core::{
    Attempt, Attestation, Difficulty, Outcome, PhaseName, ResourceUsage, RunId, SandboxId, State,
    TaskId,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What an invocation was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunKind {
    /// Tasks were given to an agent.
    Run,
    /// Tasks were checked with the agents that must not, and must, pass.
    Validate,
}

impl RunKind {
    /// The name used in the record.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Validate => "validate",
        }
    }
}

impl fmt::Display for RunKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

/// A run that begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRun {
    /// Its id, chosen by the caller.
    pub id: RunId,
    /// What it is for.
    pub kind: RunKind,
    /// The agent that works in it.
    pub agent: String,
    /// When it began.
    pub created_at: Timestamp,
    /// Where its reports, logs and artifacts go.
    pub out_directory: PathBuf,
    /// The process that drives it, as `<pid>@<start ticks>`.
    pub holder: String,
    /// The command line, without the program.
    pub arguments: Vec<String>,
    /// Name of the engine.
    pub engine: String,
    /// Version of the engine.
    pub engine_version: String,
    /// What the run was asked for, as JSON that means something to the caller only; it may be large,
    /// and is read by [`Store::plan`](crate::Store::plan) alone.
    pub plan: String,
}

/// A run as it is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunRecord {
    /// Its id.
    pub id: RunId,
    /// What it is for.
    pub kind: RunKind,
    /// The agent that works in it.
    pub agent: String,
    /// When it began.
    pub created_at: Timestamp,
    /// When it ended; `None` while it runs, and after its process died without a word.
    pub ended_at: Option<Timestamp>,
    /// Where its reports, logs and artifacts go.
    pub out_directory: PathBuf,
    /// The process that drives it, as `<pid>@<start ticks>`.
    pub holder: String,
    /// The command line, without the program.
    pub arguments: Vec<String>,
    /// Name of the engine.
    pub engine: String,
    /// Version of the engine.
    pub engine_version: String,
    /// How often the run got a holder; the process that began it is the first.
    pub epoch: u64,
    /// The last sign of life of its holder; `None` for runs that an older version recorded.
    pub renewed_at: Option<Timestamp>,
    /// When its files were removed to make room.
    pub files_removed_at: Option<Timestamp>,
}

/// Where the files of a run are that ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunFiles {
    /// The run.
    pub run: RunId,
    /// Where its reports, logs and artifacts are.
    pub out_directory: PathBuf,
    /// When it ended.
    pub ended_at: Timestamp,
}

/// A run that was removed from the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeletedRun {
    /// Its id.
    pub id: RunId,
    /// Where its files still are.
    pub out_directory: PathBuf,
}

/// An attempt that is accepted; its state is `PENDING`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewAttempt {
    /// The id that people use; unique in the whole record.
    pub id: SandboxId,
    /// The run it belongs to, recorded before.
    pub run: RunId,
    /// The task.
    pub task: TaskId,
    /// The how-manieth try.
    pub attempt: Attempt,
    /// The how-manieth repetition, where a run repeats its tasks.
    pub repetition: u32,
    /// The task's title.
    pub title: String,
    /// The task's difficulty.
    pub difficulty: Difficulty,
    /// The image as the task names it.
    pub image: String,
    /// When it was accepted.
    pub created_at: Timestamp,
}

/// An attempt as it is recorded.
#[derive(Debug, Clone, PartialEq)]
pub struct AttemptRecord {
    /// The id that people use.
    pub id: SandboxId,
    /// The run it belongs to.
    pub run: RunId,
    /// The task.
    pub task: TaskId,
    /// The how-manieth try.
    pub attempt: Attempt,
    /// The how-manieth repetition.
    pub repetition: u32,
    /// The task's title.
    pub title: String,
    /// The task's difficulty.
    pub difficulty: Difficulty,
    /// The image as the task names it.
    pub image: String,
    /// The image as the engine knows it, once it is resolved.
    pub image_digest: Option<String>,
    /// Where it is, with reason, message or deadline where it has one.
    pub state: State,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When it became `RUNNING`.
    pub started_at: Option<Timestamp>,
    /// When it became `COMPLETED`, `FAILED` or `TIMEOUT`.
    pub ended_at: Option<Timestamp>,
    /// When everything made for it was gone.
    pub cleanup_ended_at: Option<Timestamp>,
    /// What it used.
    pub usage: Option<ResourceUsage>,
    /// What its sandbox said about its confinement.
    pub attestation: Option<Attestation>,
    /// Where its report is.
    pub report_path: Option<PathBuf>,
}

impl AttemptRecord {
    /// How it ended; `None` while it is live. Survives clean-up.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        crate::states::end(&self.state)
    }
}

/// One step of an attempt's life cycle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransitionRecord {
    /// Its place among the attempt's transitions; the first is 1.
    pub sequence: u32,
    /// The state before.
    pub from: StateName,
    /// The state after.
    pub to: StateName,
    /// When.
    pub at: Timestamp,
    /// Reason and message, or the deadline that passed.
    pub detail: Option<String>,
}

/// How a phase ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhaseEnd {
    /// When.
    pub at: Timestamp,
    /// How, in a word or a line.
    pub exit_text: String,
    /// The command's exit code, if it exited by itself.
    pub exit_code: Option<i32>,
    /// How long it took, measured where it ran; kept to the millisecond.
    pub duration: Duration,
    /// Bytes of output.
    pub output_bytes: u64,
    /// Whether output was cut.
    pub truncated: bool,
    /// Where its log is.
    pub log_path: Option<PathBuf>,
}

/// A phase as it is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhaseRecord {
    /// Which.
    pub phase: PhaseName,
    /// When it began.
    pub started_at: Timestamp,
    /// How it ended; `None` while it runs, and when that was never learnt.
    pub end: Option<PhaseEnd>,
}

/// What kind of thing was made on an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ObjectKind {
    /// A container, pod or other sandbox.
    Container,
    /// Storage with a life of its own.
    Volume,
    /// A network.
    Network,
    /// A folder on the engine's host.
    Directory,
    /// An image.
    Image,
}

impl ObjectKind {
    /// The name used in the record.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Volume => "volume",
            Self::Network => "network",
            Self::Directory => "directory",
            Self::Image => "image",
        }
    }
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

/// Something made, or about to be made, on an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectRecord {
    /// The attempt it is for.
    pub attempt: SandboxId,
    /// What it is.
    pub kind: ObjectKind,
    /// Its name on the engine.
    pub name: String,
    /// When making it was announced.
    pub intended_at: Timestamp,
    /// When the engine said it was made; `None` does not prove that it was not.
    pub created_at: Option<Timestamp>,
    /// When it was seen gone.
    pub removed_at: Option<Timestamp>,
}

/// A file kept from an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArtifactRecord {
    /// Its path in the sandbox, relative to where it was collected.
    pub relative_path: PathBuf,
    /// Its size.
    pub size_bytes: u64,
    /// What it is, in a word.
    pub kind: String,
    /// Where it is kept.
    pub stored_path: PathBuf,
}

/// What is asked of the process that drives a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RequestKind {
    /// Give up.
    Cancel,
    /// Clean up at once what is kept for inspection.
    Release,
}

impl RequestKind {
    /// The name used in the record.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Release => "release",
        }
    }
}

impl fmt::Display for RequestKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

/// A request to the process that drives a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRequest {
    /// The run.
    pub run: RunId,
    /// The attempt it is about; the whole run when `None`.
    pub attempt: Option<SandboxId>,
    /// What is asked.
    pub kind: RequestKind,
    /// When.
    pub at: Timestamp,
}

/// A request that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The attempt it is about; the whole run when `None`.
    pub attempt: Option<SandboxId>,
    /// What is asked.
    pub kind: RequestKind,
    /// When it was asked.
    pub at: Timestamp,
}

/// Which attempts to list, newest first. All conditions given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AttemptFilter {
    /// Of this run.
    pub run: Option<RunId>,
    /// In one of these states; any when empty.
    pub states: Vec<StateName>,
    /// Not ended: `PENDING`, `CREATING` or `RUNNING`.
    pub live_only: bool,
    /// Whose task id begins so.
    pub task_prefix: Option<String>,
    /// Recorded before this one: the last of a page, to get the next.
    pub older_than: Option<SandboxId>,
    /// At most so many; all when `None`.
    pub limit: Option<u32>,
}
