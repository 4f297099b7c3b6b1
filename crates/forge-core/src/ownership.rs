//! The labels on everything that is made on an engine; after a crash they are the truth.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;

use crate::difficulty::Difficulty;
use crate::id::{Attempt, OwnerId, RunId, TaskId};

/// Label keys.
pub mod keys {
    /// Which installation made it.
    pub const OWNER: &str = "swe-forge.owner";
    /// Which run.
    pub const RUN: &str = "swe-forge.run";
    /// Which task.
    pub const TASK_ID: &str = "swe-forge.task_id";
    /// Which attempt.
    pub const ATTEMPT: &str = "swe-forge.attempt";
    /// The task's difficulty.
    pub const DIFFICULTY: &str = "swe-forge.difficulty";
    /// When it was made, RFC 3339.
    pub const CREATED_AT: &str = "swe-forge.created_at";
    /// When it may be removed by anyone, RFC 3339.
    pub const EXPIRES_AT: &str = "swe-forge.expires_at";
    /// What it is for.
    pub const ROLE: &str = "swe-forge.role";
    /// On an image of what a sandbox changed: the sandbox.
    pub const SANDBOX: &str = "swe-forge.sandbox";
    /// Process id and start of the orchestrator, to tell whether it still lives.
    pub const HOLDER: &str = "swe-forge.holder";
}

/// What an object on an engine is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The container of setup.
    Setup,
    /// The container of solve.
    Task,
    /// The container of verify.
    Verify,
    /// `/workspace`.
    Workspace,
    /// `/workspace/output`.
    Artifacts,
    /// `/workspace/.swe-forge`.
    Specification,
    /// `/workspace/tests`.
    Tests,
    /// A container that never starts, through which volumes are filled.
    Stager,
    /// A sandbox held outside of a run.
    Sandbox,
    /// The egress proxy, with its network and volume.
    Egress,
    /// A container that makes or removes a file system for a workspace.
    Disk,
    /// An image of what setup changed.
    Snapshot,
}

impl Role {
    /// The value of the role label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Setup => "setup",
            Self::Task => "task",
            Self::Verify => "verify",
            Self::Workspace => "workspace",
            Self::Artifacts => "artifacts",
            Self::Specification => "specification",
            Self::Tests => "tests",
            Self::Stager => "stager",
            Self::Sandbox => "sandbox",
            Self::Egress => "egress",
            Self::Disk => "disk",
            Self::Snapshot => "snapshot",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// Who made an object, for what, and until when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ownership {
    /// Which installation.
    pub owner: OwnerId,
    /// Which run.
    pub run: RunId,
    /// Which task.
    pub task: TaskId,
    /// Which attempt.
    pub attempt: Attempt,
    /// The task's difficulty.
    pub difficulty: Difficulty,
    /// When.
    pub created_at: Timestamp,
    /// When anyone may remove it.
    pub expires_at: Timestamp,
    /// The orchestrator process that holds it; opaque to engines.
    pub holder: String,
}

impl Ownership {
    /// The labels of an object with `role`.
    #[must_use]
    pub fn labels(&self, role: Role) -> BTreeMap<String, String> {
        [
            (keys::OWNER, self.owner.to_string()),
            (keys::RUN, self.run.to_string()),
            (keys::TASK_ID, self.task.to_string()),
            (keys::ATTEMPT, self.attempt.to_string()),
            (keys::DIFFICULTY, self.difficulty.to_string()),
            (keys::CREATED_AT, self.created_at.to_string()),
            (keys::EXPIRES_AT, self.expires_at.to_string()),
            (keys::HOLDER, self.holder.clone()),
            (keys::ROLE, role.to_string()),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
    }
}
