//! A sandbox and its workspace as an engine is asked to make them: complete, no defaults left.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::id::SandboxId;
use crate::limits::Limits;
use crate::network::NetworkLevel;
use crate::ownership::{Ownership, Role};

/// Where the workspace is in every sandbox.
pub const WORKSPACE: &str = "/workspace";
/// Where the read-only specification is.
pub const SPECIFICATION: &str = "/workspace/.swe-forge";
/// Where the agent leaves what shall be kept.
pub const OUTPUT: &str = "/workspace/output";
/// Where hidden tests appear for verification.
pub const TESTS: &str = "/workspace/tests";
/// Where the reference solution appears for the oracle agent.
pub const SOLUTION: &str = "/workspace/solution";

/// A numeric user and group; never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UserId {
    uid: u32,
    gid: u32,
}

impl UserId {
    /// A user and group; `None` when either is root.
    #[must_use]
    pub const fn new(uid: u32, gid: u32) -> Option<Self> {
        if uid == 0 || gid == 0 {
            None
        } else {
            Some(Self { uid, gid })
        }
    }

    /// The user of concurrent slot `slot`: far above the ids that distributions hand out, so that
    /// per-user kernel limits are never shared with a person's account or another sandbox.
    #[must_use]
    pub const fn for_slot(slot: u16) -> Self {
        let id = 200_000 + slot as u32;
        Self { uid: id, gid: id }
    }

    /// The user id.
    #[must_use]
    pub const fn uid(self) -> u32 {
        self.uid
    }

    /// The group id.
    #[must_use]
    pub const fn gid(self) -> u32 {
        self.gid
    }
}

/// A file of the read-only specification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecificationFile {
    /// Its name below `/workspace/.swe-forge`, without a folder.
    pub name: String,
    /// Its contents.
    pub contents: Vec<u8>,
}

/// What outlives the containers of an attempt: workspace, artifacts, specification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkspaceSpec {
    /// Chosen by the caller; making the same again is not an error.
    pub id: SandboxId,
    /// Labels.
    pub ownership: Ownership,
    /// Owner of the workspace's files.
    pub user: UserId,
    /// The read-only specification.
    pub specification: Vec<SpecificationFile>,
}

/// One sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxSpec {
    /// Chosen by the caller; making the same again returns the existing one.
    pub id: SandboxId,
    /// Labels.
    pub ownership: Ownership,
    /// What it is for.
    pub role: Role,
    /// The workspace it works on, made before.
    pub workspace: SandboxId,
    /// What it may use.
    pub limits: Limits,
    /// What it may reach.
    pub network: NetworkLevel,
    /// Who its processes are.
    pub user: UserId,
    /// Environment of the container itself; commands bring their own.
    pub env: BTreeMap<String, String>,
    /// It ends itself after this long, even with nobody left to end it.
    pub max_lifetime: Duration,
}
