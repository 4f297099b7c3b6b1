//! The life cycle of a task's attempt.
//!
//! ```text
//! PENDING ──▶ CREATING ──▶ RUNNING ──▶ COMPLETED ──▶ CLEANUP
//!    │            │           ├──────▶ FAILED ─────────▲ ▲
//!    │            │           └──────▶ TIMEOUT ──────────┘
//!    └────────────┴──────────────────▶ FAILED
//! ```

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::outcome::{Deadline, Failure, Outcome};

/// Where an attempt is. The variants hold what is known there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Accepted, nothing made yet.
    Pending,
    /// Image, workspace and container are being made.
    Creating,
    /// A phase runs.
    Running,
    /// Every phase ran and verification passed.
    Completed,
    /// Ended by itself in another way.
    Failed(Failure),
    /// A deadline of ours passed.
    Timeout(Deadline),
    /// Ended, and everything made for it is being or has been removed.
    Cleanup(Outcome),
}

/// What moves an attempt on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transition {
    /// Making its objects begins.
    Create,
    /// The sandbox is ready.
    Run,
    /// Verification passed.
    Complete,
    /// Something else ended it.
    Fail(Failure),
    /// A deadline passed.
    TimeOut(Deadline),
    /// Removal begins.
    CleanUp,
}

/// A transition that the life cycle does not have: a bug of the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an attempt that is {from} cannot take the transition {transition:?}")]
pub struct IllegalTransition {
    /// The state it was in.
    pub from: StateName,
    /// What was asked.
    pub transition: Transition,
}

/// The state without its data, as records and reports name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum StateName {
    /// See [`State::Pending`].
    Pending,
    /// See [`State::Creating`].
    Creating,
    /// See [`State::Running`].
    Running,
    /// See [`State::Completed`].
    Completed,
    /// See [`State::Failed`].
    Failed,
    /// See [`State::Timeout`].
    Timeout,
    /// See [`State::Cleanup`].
    Cleanup,
}

impl StateName {
    /// The name used in files.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Creating => "CREATING",
            Self::Running => "RUNNING",
            Self::Completed => "COMPLETED",
            Self::Failed => "FAILED",
            Self::Timeout => "TIMEOUT",
            Self::Cleanup => "CLEANUP",
        }
    }
}

impl fmt::Display for StateName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

impl State {
    /// The state's name.
    #[must_use]
    pub const fn name(&self) -> StateName {
        match self {
            Self::Pending => StateName::Pending,
            Self::Creating => StateName::Creating,
            Self::Running => StateName::Running,
            Self::Completed => StateName::Completed,
            Self::Failed(_) => StateName::Failed,
            Self::Timeout(_) => StateName::Timeout,
            Self::Cleanup(_) => StateName::Cleanup,
        }
    }

    /// The state after `transition`; the only place where states change.
    ///
    /// # Errors
    /// [`IllegalTransition`] when the life cycle has no such arrow.
    pub fn advance(&self, transition: Transition) -> Result<Self, IllegalTransition> {
        let next = match (self, &transition) {
            (Self::Pending, Transition::Create) => Self::Creating,
            (Self::Creating, Transition::Run) => Self::Running,
            (Self::Running, Transition::Complete) => Self::Completed,
            (Self::Pending | Self::Creating | Self::Running, Transition::Fail(failure)) => {
                Self::Failed(failure.clone())
            }
            (Self::Running, Transition::TimeOut(deadline)) => Self::Timeout(*deadline),
            (Self::Completed, Transition::CleanUp) => Self::Cleanup(Outcome::Completed),
            (Self::Failed(failure), Transition::CleanUp) => {
                Self::Cleanup(Outcome::Failed(failure.clone()))
            }
            (Self::Timeout(deadline), Transition::CleanUp) => {
                Self::Cleanup(Outcome::Timeout(*deadline))
            }
            _ => {
                return Err(IllegalTransition {
                    from: self.name(),
                    transition,
                });
            }
        };
        Ok(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Reason;

    fn failure() -> Failure {
        Failure::new(Reason::EngineError, "no")
    }

    #[test]
    fn the_way_of_a_task_that_passes() {
        let mut state = State::Pending;
        for transition in [
            Transition::Create,
            Transition::Run,
            Transition::Complete,
            Transition::CleanUp,
        ] {
            state = state.advance(transition).unwrap();
        }
        assert_eq!(state, State::Cleanup(Outcome::Completed));
    }

    #[test]
    fn exactly_the_documented_arrows_exist() {
        let states = [
            State::Pending,
            State::Creating,
            State::Running,
            State::Completed,
            State::Failed(failure()),
            State::Timeout(Deadline::Solve),
            State::Cleanup(Outcome::Completed),
        ];
        let transitions = [
            Transition::Create,
            Transition::Run,
            Transition::Complete,
            Transition::Fail(failure()),
            Transition::TimeOut(Deadline::Solve),
            Transition::CleanUp,
        ];
        let mut arrows = Vec::new();
        for state in &states {
            for transition in &transitions {
                if let Ok(next) = state.advance(transition.clone()) {
                    arrows.push(format!("{}>{}", state.name(), next.name()));
                }
            }
        }
        assert_eq!(
            arrows,
            [
                "PENDING>CREATING",
                "PENDING>FAILED",
                "CREATING>RUNNING",
                "CREATING>FAILED",
                "RUNNING>COMPLETED",
                "RUNNING>FAILED",
                "RUNNING>TIMEOUT",
                "COMPLETED>CLEANUP",
                "FAILED>CLEANUP",
                "TIMEOUT>CLEANUP",
            ]
        );
    }
}
