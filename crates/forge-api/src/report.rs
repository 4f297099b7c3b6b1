//! `report.json`: what a run did and found.

use std::fmt;
use std::str::FromStr;

use forge_core::life_cycle::StateName;
use forge_core::{
    Attestation, Cause, Deadline, DenialReason, Difficulty, DiskQuota, Ending, NetworkLevel,
    PhaseName, Reason, ResourceUsage, Verdict,
};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Version of this document; grows when a field changes its meaning or goes.
pub const REPORT_VERSION: u32 = 1;

/// The whole report of one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Version of this document, [`REPORT_VERSION`].
    pub version: u32,
    /// The run.
    pub run: RunReport,
    /// The engine it ran on.
    pub engine: EngineReport,
    /// How many attempts ended in which way.
    pub totals: Totals,
    /// One entry for each attempt of a task, in the order of task ids.
    pub tasks: Vec<TaskReport>,
    /// One entry for each task, when the run was a validation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub validation: Vec<ValidationReport>,
}

/// The run itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunReport {
    /// Its id.
    pub id: String,
    /// `run` or `validate`.
    pub kind: String,
    /// The agent, `nop`, `oracle` or `command`; for a validation both that it uses.
    pub agent: String,
    /// When it began.
    #[schemars(with = "String")]
    pub started_at: Timestamp,
    /// When it ended.
    #[schemars(with = "String")]
    pub ended_at: Timestamp,
    /// Attempts that were not started, because nothing more was to be: `swe-forge run --resume` goes
    /// on with them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unstarted: u64,
    /// Version of swe-forge.
    pub swe_forge: String,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "what serde calls takes a reference"
)]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EngineReport {
    /// Kind of engine.
    pub kind: String,
    /// Its version.
    pub version: String,
    /// Version of its interface.
    pub api_version: String,
    /// Kernel of its machine.
    pub kernel: String,
    /// Cores of its machine.
    pub cores: u64,
    /// Memory of its machine in bytes.
    pub memory_bytes: u64,
}

/// Counts of attempts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Totals {
    /// All.
    pub attempts: u64,
    /// Verification passed.
    pub completed: u64,
    /// Failed.
    pub failed: u64,
    /// Passed a deadline.
    pub timeout: u64,
    /// Failed through no fault of the task; part of `failed`.
    pub infrastructure: u64,
    /// Cancelled; part of `failed`.
    pub cancelled: u64,
    /// Could not be run for a mistake in what was asked for, such as an image that is not there;
    /// part of `failed`.
    pub not_runnable: u64,
}

/// One attempt of one task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TaskReport {
    /// The task.
    pub task_id: String,
    /// Name of this attempt, for `show`, `logs` and `artifacts`.
    pub id: String,
    /// Which try, from 1.
    pub attempt: u32,
    /// The agent of this attempt.
    pub agent: String,
    /// What the agent ran in solve, program and arguments, with `***` in the place of secrets;
    /// absent when nothing was to be run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_command: Option<Vec<String>>,
    /// The task's title.
    pub title: String,
    /// Its difficulty.
    pub difficulty: Difficulty,
    /// The state it ended in: `COMPLETED`, `FAILED` or `TIMEOUT`.
    pub state: StateName,
    /// Why it did not complete.
    pub reason: Option<Reason>,
    /// Whose doing that was.
    pub cause: Option<Cause>,
    /// Which deadline passed.
    pub deadline: Option<Deadline>,
    /// What happened, for a person.
    pub message: String,
    /// When it left the queue.
    #[schemars(with = "String")]
    pub started_at: Timestamp,
    /// When its state became final.
    #[schemars(with = "String")]
    pub ended_at: Timestamp,
    /// When everything made for it was removed; absent when something was kept or is left.
    #[schemars(with = "Option<String>")]
    pub cleanup_ended_at: Option<Timestamp>,
    /// The image.
    pub image: ImageReport,
    /// The limits it ran under.
    pub limits: LimitsReport,
    /// The phases that ran, in order.
    pub phases: Vec<PhaseReport>,
    /// What it used, over all its containers.
    pub resources: ResourceUsage,
    /// What held the workspace's size; `null` when there was none yet.
    pub disk_quota: Option<DiskQuota>,
    /// What it did with its network.
    pub network: NetworkReport,
    /// What the first sandbox's PID 1 saw at start.
    pub attestation: Option<Attestation>,
    /// What was kept.
    pub artifacts: Vec<ArtifactReport>,
    /// Remarks: a clamped quota, skipped artifacts, leftovers.
    pub notes: Vec<String>,
    /// Tries before this one, which the infrastructure ended: they do not count.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<EarlierTry>,
}

/// A try that the infrastructure ended and that was made again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EarlierTry {
    /// Name of the attempt, for `show`, `logs` and `artifacts`.
    pub id: String,
    /// Why it ended.
    pub reason: Option<Reason>,
    /// What happened, for a person.
    pub message: String,
    /// When it left the queue.
    #[schemars(with = "String")]
    pub started_at: Timestamp,
    /// When its state became final.
    #[schemars(with = "String")]
    pub ended_at: Timestamp,
    /// Remarks about it, leftovers among them.
    pub notes: Vec<String>,
}

/// The image of an attempt.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageReport {
    /// As the task names it.
    pub reference: String,
    /// As it was found; absent when it was not.
    pub digest: Option<String>,
}

/// The limits of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitsReport {
    /// Memory in bytes, no swap.
    pub memory_bytes: u64,
    /// CPU in thousandths of a core.
    pub cpu_millis: u64,
    /// Workspace in bytes.
    pub disk_bytes: u64,
    /// Processes and threads.
    pub processes: u64,
    /// Setup and solve together, in seconds.
    pub timeout_seconds: u64,
    /// Verification, in seconds.
    pub verify_timeout_seconds: u64,
}

/// How a phase's command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Exit {
    /// By itself.
    Exited {
        /// With this code.
        code: i32,
    },
    /// By a signal that swe-forge did not send.
    Signalled {
        /// This one.
        signal: i32,
    },
    /// Its deadline passed.
    DeadlineExceeded,
    /// It wrote too much output.
    OutputLimit,
    /// The workspace grew too large.
    DiskFull,
    /// It could not be started.
    NotStarted {
        /// The kernel's error number.
        errno: i32,
    },
    /// It was ended on request.
    Killed,
    /// Contact with it was lost; how it ended is not known.
    Lost,
}

impl From<&Ending> for Exit {
    fn from(ending: &Ending) -> Self {
        match *ending {
            Ending::Exited(code) => Self::Exited { code },
            Ending::Signalled(signal) => Self::Signalled { signal },
            Ending::DeadlineExceeded => Self::DeadlineExceeded,
            Ending::OutputLimit => Self::OutputLimit,
            // Which disk it was is in the failure's message.
            Ending::DiskFull
            | Ending::RootFull
            | Ending::EngineDiskFull
            | Ending::WorkspaceFailed => Self::DiskFull,
            Ending::NotStarted { errno } => Self::NotStarted { errno },
            Ending::Killed => Self::Killed,
        }
    }
}

/// How a phase ended, in a few words; [`Exit`] reads them back.
impl fmt::Display for Exit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited { code } => write!(formatter, "code {code}"),
            Self::Signalled { signal } => write!(formatter, "signal {signal}"),
            Self::DeadlineExceeded => formatter.write_str("deadline"),
            Self::OutputLimit => formatter.write_str("output limit"),
            Self::DiskFull => formatter.write_str("disk full"),
            Self::NotStarted { errno } => write!(formatter, "not started, error {errno}"),
            Self::Killed => formatter.write_str("ended on request"),
            Self::Lost => formatter.write_str("contact lost"),
        }
    }
}

/// Text that no [`Exit`] is written as.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no way for a phase to end")]
pub struct UnknownExit(pub String);

impl FromStr for Exit {
    type Err = UnknownExit;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |prefix: &str| text.strip_prefix(prefix).and_then(|rest| rest.parse().ok());
        if let Some(code) = number("code ") {
            return Ok(Self::Exited { code });
        }
        if let Some(signal) = number("signal ") {
            return Ok(Self::Signalled { signal });
        }
        if let Some(errno) = number("not started, error ") {
            return Ok(Self::NotStarted { errno });
        }
        [
            Self::DeadlineExceeded,
            Self::OutputLimit,
            Self::DiskFull,
            Self::Killed,
            Self::Lost,
        ]
        .into_iter()
        .find(|each| each.to_string() == text)
        .ok_or_else(|| UnknownExit(text.to_owned()))
    }
}

/// One phase of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PhaseReport {
    /// Which.
    pub name: PhaseName,
    /// What it could reach.
    pub network: NetworkLevel,
    /// How its command ended.
    pub exit: Exit,
    /// How long it ran, in milliseconds.
    pub duration_ms: u64,
    /// File with its output, both streams in the order they were read, relative to the report.
    pub output: String,
    /// Bytes in that file.
    pub output_bytes: u64,
    /// Whether output was cut.
    pub truncated: bool,
}

/// What an attempt did with its network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkReport {
    /// Connections that were allowed.
    pub allowed: u64,
    /// Connections that were refused, or ended against the task's will.
    pub denied_count: u64,
    /// Those that have a record, each host, port and reason once; at most 200 of each phase and 8 of
    /// each host in it.
    pub denied: Vec<DeniedReport>,
    /// Bytes sent out.
    pub bytes_up: u64,
    /// Bytes received.
    pub bytes_down: u64,
    /// Connections that were not recorded, because there were too many.
    pub unrecorded: u64,
    /// File with a line for each connection, relative to the report; `null` when there was none.
    pub log: Option<String>,
}

/// Connections that were refused for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeniedReport {
    /// In which phase.
    pub phase: PhaseName,
    /// To which host.
    pub host: String,
    /// On which port; 0 when it could not be read.
    pub port: u16,
    /// Why.
    pub reason: DenialReason,
    /// How many.
    pub count: u64,
}

/// A file or folder that was kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ArtifactReport {
    /// Path below the workspace; bytes that are not UTF-8 are shown escaped.
    pub path: String,
    /// Where it is, relative to the report.
    pub file: String,
    /// Bytes.
    pub size_bytes: u64,
}

/// The validation of one task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ValidationReport {
    /// The task.
    pub task_id: String,
    /// The verdict.
    pub verdict: Verdict,
    /// Why, for a person.
    pub reason: String,
    /// How each `nop` attempt ended.
    pub nop: Vec<String>,
    /// How each `oracle` attempt ended.
    pub oracle: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_end_is_read_back_from_its_words() {
        for exit in [
            Exit::Exited { code: -1 },
            Exit::Signalled { signal: 9 },
            Exit::DeadlineExceeded,
            Exit::OutputLimit,
            Exit::DiskFull,
            Exit::NotStarted { errno: 2 },
            Exit::Killed,
            Exit::Lost,
        ] {
            assert_eq!(exit.to_string().parse(), Ok(exit));
        }
        assert!("code x".parse::<Exit>().is_err());
    }
}
