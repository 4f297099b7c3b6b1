//! What the program's exit code says; the only place where exit codes are decided.

use std::process::ExitCode;

use forge_api::report::Report;
use forge_core::{Cause, Reason, Verdict};

/// How a command ended, for the caller of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// Everything was done; of a run every attempt completed, of a validation every task is valid.
    Success,
    /// Some task failed or passed a deadline; of a validation some task is not valid; of addresses
    /// that were asked about some would be refused.
    TasksFailed,
    /// The arguments, the task files or the configuration are wrong.
    BadInput,
    /// The engine, this machine or swe-forge itself failed, so that something has no result.
    Infrastructure,
    /// The person or program that started it ended it.
    Cancelled,
}

impl ExitStatus {
    /// All of them, for the table in the help.
    pub const ALL: [Self; 5] = [
        Self::Success,
        Self::TasksFailed,
        Self::BadInput,
        Self::Infrastructure,
        Self::Cancelled,
    ];

    /// The code.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::TasksFailed => 1,
            Self::BadInput => 2,
            Self::Infrastructure => 3,
            Self::Cancelled => 130,
        }
    }

    /// What it means, in one line of help.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Success => {
                "everything was done: every task completed, or is valid; `egress test`: every address \
                 would be reached"
            }
            Self::TasksFailed => {
                "some task failed or passed a deadline, or is not valid; `egress test`: some address \
                 would be refused"
            }
            Self::BadInput => {
                "the arguments, the task files or the configuration are wrong; nothing was run"
            }
            Self::Infrastructure => {
                "the engine, an image, this machine or swe-forge failed: results are missing"
            }
            Self::Cancelled => "it was cancelled (Ctrl-C, SIGTERM or SIGHUP)",
        }
    }
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        Self::from(status.code())
    }
}

/// What a run came to, as far as its exit code is concerned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RunFacts {
    /// Somebody ended it early.
    pub cancelled: bool,
    /// Some attempt has no result, and not through a fault of its task.
    pub infrastructure: bool,
    /// Some attempt did not complete; of a validation, some task is not valid.
    pub unsuccessful: bool,
}

impl RunFacts {
    /// The facts of a run that ended.
    #[must_use]
    pub fn of(report: &Report, cancelled: bool) -> Self {
        let infrastructure = report.tasks.iter().any(|task| {
            task.cause == Some(Cause::Infrastructure)
                || matches!(
                    task.reason,
                    Some(
                        Reason::ImageUnavailable | Reason::NotPermitted | Reason::SecretUnavailable
                    )
                )
        });
        let unsuccessful = if report.run.kind == "validate" {
            let valid = |verdict| verdict == Verdict::Valid;
            !report.validation.iter().all(|each| valid(each.verdict))
        } else {
            report.totals.completed != report.totals.attempts
        };
        Self {
            cancelled,
            infrastructure,
            unsuccessful,
        }
    }

    /// The exit status: the fact that says most about missing results wins.
    #[must_use]
    pub const fn exit_status(self) -> ExitStatus {
        if self.cancelled {
            ExitStatus::Cancelled
        } else if self.infrastructure {
            ExitStatus::Infrastructure
        } else if self.unsuccessful {
            ExitStatus::TasksFailed
        } else {
            ExitStatus::Success
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cancelled_beats_infrastructure_beats_failed_tasks() {
        for (cancelled, infrastructure, unsuccessful, code) in [
            (false, false, false, 0),
            (false, false, true, 1),
            (false, true, false, 3),
            (false, true, true, 3),
            (true, false, false, 130),
            (true, true, true, 130),
        ] {
            let facts = RunFacts {
                cancelled,
                infrastructure,
                unsuccessful,
            };
            assert_eq!(facts.exit_status().code(), code, "{facts:?}");
        }
    }

    #[test]
    fn every_status_has_its_own_code() {
        let mut codes = ExitStatus::ALL.map(ExitStatus::code).to_vec();
        codes.dedup();
        assert_eq!(codes, [0, 1, 2, 3, 130]);
    }
}
