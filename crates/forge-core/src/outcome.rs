//! How a task ended: outcome, reason, and whose doing it was.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Whose doing a failure was. Only [`Cause::Infrastructure`] may be retried, and it is never a
/// verdict about the task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// The task or its agent: a verdict.
    Task,
    /// The engine, the machine or swe-forge itself.
    Infrastructure,
    /// The person who started the run: a wrong input or a cancellation.
    User,
}

impl Cause {
    /// The name used in files.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Task => "task",
            Self::Infrastructure => "infrastructure",
            Self::User => "user",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

/// Why a task did not complete; a closed set that reports, records and exit codes share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The setup command ended with a code other than 0.
    SetupFailed,
    /// The agent's command ended with a code other than 0.
    SolveFailed,
    /// The verify command ended with a code other than 0.
    TestsFailed,
    /// The kernel killed a process of the phase for want of memory, and the phase failed.
    OutOfMemory,
    /// The workspace grew past its size.
    DiskFull,
    /// The phase was refused a process or thread, and failed.
    PidsExhausted,
    /// A signal that swe-forge did not send ended the phase's command.
    KilledBySignal,
    /// The phase wrote more output than allowed.
    OutputLimit,
    /// A deadline passed.
    DeadlineExceeded,
    /// The phase's command could not be started in the image.
    CommandNotRunnable,
    /// The task left its workspace in a state in which verification cannot be set up.
    WorkspaceUnusable,
    /// The oracle agent was asked for, and the task brings no solution.
    NoSolution,
    /// The command agent was asked for, and neither the task nor the caller names a command.
    NoSolveCommand,
    /// The image is not on the engine and could not be got.
    ImageUnavailable,
    /// The operator does not allow what the task asks for: its image, a network level, a limit.
    NotPermitted,
    /// The operator's configuration has no value for a secret that the task asks for.
    SecretUnavailable,
    /// The network level asked for cannot be enforced here.
    NetworkPolicyUnavailable,
    /// The sandbox does not show the confinement that was asked for.
    HardeningUnavailable,
    /// The engine refused or failed a request.
    EngineError,
    /// The engine stopped answering.
    EngineUnavailable,
    /// The sandbox disappeared or its PID 1 ended.
    Lost,
    /// Processes of the solve phase could not be ended, so verification would prove nothing.
    KillFailed,
    /// The person who started the run ended it.
    Cancelled,
    /// A fault of swe-forge itself.
    InternalError,
}

impl Reason {
    /// All reasons, for tables and schemas.
    pub const ALL: [Self; 24] = [
        Self::SetupFailed,
        Self::SolveFailed,
        Self::TestsFailed,
        Self::OutOfMemory,
        Self::DiskFull,
        Self::PidsExhausted,
        Self::KilledBySignal,
        Self::OutputLimit,
        Self::DeadlineExceeded,
        Self::CommandNotRunnable,
        Self::WorkspaceUnusable,
        Self::NoSolution,
        Self::NoSolveCommand,
        Self::ImageUnavailable,
        Self::NotPermitted,
        Self::SecretUnavailable,
        Self::NetworkPolicyUnavailable,
        Self::HardeningUnavailable,
        Self::EngineError,
        Self::EngineUnavailable,
        Self::Lost,
        Self::KillFailed,
        Self::Cancelled,
        Self::InternalError,
    ];

    /// The name used in files and reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SetupFailed => "setup_failed",
            Self::SolveFailed => "solve_failed",
            Self::TestsFailed => "tests_failed",
            Self::OutOfMemory => "out_of_memory",
            Self::DiskFull => "disk_full",
            Self::PidsExhausted => "pids_exhausted",
            Self::KilledBySignal => "killed_by_signal",
            Self::OutputLimit => "output_limit",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::CommandNotRunnable => "command_not_runnable",
            Self::WorkspaceUnusable => "workspace_unusable",
            Self::NoSolution => "no_solution",
            Self::NoSolveCommand => "no_solve_command",
            Self::ImageUnavailable => "image_unavailable",
            Self::NotPermitted => "not_permitted",
            Self::SecretUnavailable => "secret_unavailable",
            Self::NetworkPolicyUnavailable => "network_policy_unavailable",
            Self::HardeningUnavailable => "hardening_unavailable",
            Self::EngineError => "engine_error",
            Self::EngineUnavailable => "engine_unavailable",
            Self::Lost => "lost",
            Self::KillFailed => "kill_failed",
            Self::Cancelled => "cancelled",
            Self::InternalError => "internal_error",
        }
    }

    /// Whose doing this reason is.
    #[must_use]
    pub const fn cause(self) -> Cause {
        match self {
            Self::SetupFailed
            | Self::SolveFailed
            | Self::TestsFailed
            | Self::OutOfMemory
            | Self::DiskFull
            | Self::PidsExhausted
            | Self::KilledBySignal
            | Self::OutputLimit
            | Self::DeadlineExceeded
            | Self::CommandNotRunnable
            | Self::WorkspaceUnusable => Cause::Task,
            Self::NoSolution
            | Self::NoSolveCommand
            | Self::ImageUnavailable
            | Self::NotPermitted
            | Self::SecretUnavailable
            | Self::Cancelled => Cause::User,
            Self::NetworkPolicyUnavailable
            | Self::HardeningUnavailable
            | Self::EngineError
            | Self::EngineUnavailable
            | Self::Lost
            | Self::KillFailed
            | Self::InternalError => Cause::Infrastructure,
        }
    }

    /// Whether what ended so is tried again: nothing but the infrastructure was the cause, and the
    /// next time may go otherwise. An engine without a control has none the next time either.
    #[must_use]
    pub fn is_retried(self) -> bool {
        self.cause() == Cause::Infrastructure && self != Self::HardeningUnavailable
    }

    /// Whether it says something about the engine, rather than about one sandbox on it.
    #[must_use]
    pub const fn is_fault_of_the_engine(self) -> bool {
        matches!(self, Self::EngineError | Self::EngineUnavailable)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

/// Which deadline of ours passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Deadline {
    /// `timeout_seconds`, during setup.
    Setup,
    /// `timeout_seconds`, during solve.
    Solve,
    /// `verify_timeout_seconds`.
    Verify,
    /// `max_lifetime_seconds`.
    Lifetime,
}

impl fmt::Display for Deadline {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Setup => "setup",
            Self::Solve => "solve",
            Self::Verify => "verify",
            Self::Lifetime => "lifetime",
        })
    }
}

/// A failure with its explanation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Which of the closed set.
    pub reason: Reason,
    /// What happened, one line, for a person.
    pub message: String,
}

impl Failure {
    /// A failure of `reason` explained by `message`.
    #[must_use]
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }

    /// Whose doing it was.
    #[must_use]
    pub const fn cause(&self) -> Cause {
        self.reason.cause()
    }
}

/// How a task ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Every phase ran and verification passed.
    Completed,
    /// It ended by itself in another way.
    Failed(Failure),
    /// A deadline of ours passed.
    Timeout(Deadline),
}

impl Outcome {
    /// The reason, where there is one.
    #[must_use]
    pub const fn reason(&self) -> Option<Reason> {
        match self {
            Self::Completed => None,
            Self::Failed(failure) => Some(failure.reason),
            Self::Timeout(_) => Some(Reason::DeadlineExceeded),
        }
    }

    /// The cause, where there is one.
    #[must_use]
    pub fn cause(&self) -> Option<Cause> {
        self.reason().map(Reason::cause)
    }

    /// What happened, for a person; empty when completed.
    #[must_use]
    pub fn message(&self) -> String {
        match self {
            Self::Completed => String::new(),
            Self::Failed(failure) => failure.message.clone(),
            Self::Timeout(deadline) => format!("the {deadline} deadline passed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_about_reasons_says_of_each_what_is_true() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reasons.md");
        let page = std::fs::read_to_string(page).unwrap();
        for reason in Reason::ALL {
            let begin = format!("| `{reason}` | {} |", reason.cause());
            let mut lines = page.lines().filter(|line| line.starts_with(&begin));
            let line = lines.next().unwrap_or_else(|| panic!("no row {begin}"));
            assert_eq!(lines.next(), None, "{reason}");
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let is_verdict = cells[4].starts_with("yes");
            let is_retried = cells[5] == "yes";
            assert_eq!(is_verdict, reason.cause() == Cause::Task, "{reason}");
            assert_eq!(is_retried, reason.is_retried(), "{reason}");
        }
    }

    #[test]
    fn names_in_files_and_in_code_are_the_same() {
        for reason in Reason::ALL {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        }
    }
}
