//! How far an attempt is, as the record keeps it: enough for another process to go on from there.

use std::collections::BTreeMap;

use forge_api::report::{PhaseReport, TaskReport};
use forge_core::{
    Attestation, DiskQuota, Outcome, PhaseName, Profile, ResourceUsage, SandboxId, State,
};
use forge_engine::PreparedImage;
use forge_wire::Secret;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::network::Reached;

/// What another process must know to go on with an attempt. The secrets of its sandboxes are in it:
/// it goes nowhere but into the record, which only its owner can read.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Progress {
    pub started_at: Timestamp,
    /// Its user follows from it.
    pub slot: u16,
    /// The cores its sandboxes are kept to.
    pub cores: Vec<usize>,
    pub image: Option<PreparedImage>,
    /// The image of what setup changed.
    pub snapshot: Option<PreparedImage>,
    pub disk_quota: Option<DiskQuota>,
    /// Of each sandbox that was announced.
    pub keys: BTreeMap<SandboxId, Secret>,
    /// The phase whose command was started last, or was about to be.
    pub begun: Option<Begun>,
    /// Those that ended.
    pub phases: Vec<PhaseReport>,
    pub usage: ResourceUsage,
    pub attestation: Option<(Profile, Attestation)>,
    pub reached: Reached,
    pub notes: Vec<String>,
    /// How it ends, once that is decided.
    pub outcome: Option<Outcome>,
}

/// A phase that was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Begun {
    pub phase: PhaseName,
    pub at: Timestamp,
}

impl Progress {
    /// Whether something was begun that must not be begun again. Setup may be: it runs before the
    /// task's turn, and what it made is thrown away with its sandbox.
    pub(crate) fn is_under_way(&self) -> bool {
        let begun = self.begun.map(|begun| begun.phase);
        self.outcome.is_some() || begun.is_some_and(|phase| phase != PhaseName::Setup)
    }
}

/// The report of an attempt as the record keeps it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RecordedReport {
    pub report: TaskReport,
    /// Whether clean-up was done as well, or is not wanted.
    pub settled: bool,
}

/// What a process that is gone left of an attempt.
#[derive(Debug, Clone)]
pub(crate) enum Left {
    /// Nothing that counts. Where it had begun, there may be objects to be removed first.
    Unbegun {
        /// Whether it had.
        stale: bool,
    },
    /// A command of the task may run at this moment, or has ended.
    UnderWay {
        /// What the record says of its life cycle.
        state: State,
        /// How far it is.
        progress: Box<Progress>,
    },
    /// Its outcome is recorded; what it made may be there.
    Ended {
        /// What the record says of its life cycle.
        state: State,
        /// The report, which lacks the clean-up.
        report: Box<TaskReport>,
    },
    /// It is over and done with.
    Settled(Box<TaskReport>),
}

impl Left {
    /// What is left of an attempt with this state and these documents, where there are any.
    ///
    /// # Errors
    /// When a document cannot be read.
    pub(crate) fn read(
        state: State,
        progress: Option<&str>,
        report: Option<&str>,
    ) -> Result<Self, serde_json::Error> {
        if let Some(text) = report {
            let recorded: RecordedReport = serde_json::from_str(text)?;
            let report = Box::new(recorded.report);
            return Ok(match recorded.settled {
                true => Self::Settled(report),
                false => Self::Ended { state, report },
            });
        }
        let progress: Option<Box<Progress>> = progress.map(serde_json::from_str).transpose()?;
        Ok(match progress {
            Some(progress) if progress.is_under_way() => Self::UnderWay { state, progress },
            _ => Self::Unbegun {
                stale: state != State::Pending,
            },
        })
    }
}
