//! A sandbox and its workspace as an engine is asked to make them: complete, no defaults left.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::egress::SandboxNetwork;
use crate::id::SandboxId;
use crate::limits::Limits;
use crate::ownership::{Ownership, Role};

/// Where the workspace is in every sandbox.
pub const WORKSPACE: &str = "/workspace";
/// Where the read-only specification is.
pub const SPECIFICATION: &str = "/workspace/.swe-forge";
/// Where the agent leaves what shall be kept.
pub const OUTPUT: &str = "/workspace/output";
/// Where hidden tests appear for verification, read-only.
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
    /// Its size in bytes.
    pub disk_bytes: u64,
    /// Files and folders it may hold.
    pub disk_files: u64,
    /// The read-only specification.
    pub specification: Vec<SpecificationFile>,
    /// Whether it has a place for the author's tests, which sandboxes can read and not change.
    pub tests: bool,
}

/// What holds the size of a workspace, strongest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DiskQuota {
    /// A quota of the engine's storage: writing past it fails.
    Driver,
    /// A file system of its own in a file: writing past it fails.
    Loop,
    /// Nothing but PID 1, which looks at the size and ends the task when it is too large.
    Watchdog,
}

impl DiskQuota {
    /// The name used in files.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Driver => "driver",
            Self::Loop => "loop",
            Self::Watchdog => "watchdog",
        }
    }
}

impl fmt::Display for DiskQuota {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

/// How a sandbox is confined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// Of setup: root inside, with the five capabilities that installing packages needs, and a
    /// root file system that can be written to.
    Build,
    /// Of everything else: a user of its own, no capability, a read-only root file system.
    #[default]
    Run,
}

impl Profile {
    /// The name used in files.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Build => "build",
            Self::Run => "run",
        }
    }

    /// The capabilities of this profile as a bit set, numbered as in `linux/capability.h`:
    /// `CHOWN`, `DAC_OVERRIDE`, `FOWNER`, `SETGID`, `SETUID`, or none.
    #[must_use]
    pub const fn capabilities(self) -> u64 {
        match self {
            Self::Build => 1 | 1 << 1 | 1 << 3 | 1 << 6 | 1 << 7,
            Self::Run => 0,
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
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
    /// Whether the tests of its workspace, made with a place for them, are read-only at [`TESTS`].
    pub tests: bool,
    /// What it may use.
    pub limits: Limits,
    /// Numbers of the cores it is kept to; empty is any. Not more than a wish: an engine that may
    /// not use these cores itself makes the sandbox without it.
    pub cores: Vec<usize>,
    /// How it is confined.
    pub profile: Profile,
    /// What it may reach; `None` is isolated for its whole life.
    pub network: Option<SandboxNetwork>,
    /// Who its processes are; at [`Profile::Build`] they are root, and this user gets the
    /// workspace afterwards.
    pub user: UserId,
    /// Environment of the container itself; commands bring their own.
    pub env: BTreeMap<String, String>,
    /// The runtime that the engine is to use, where it is not its default.
    pub runtime: Option<String>,
    /// It ends itself after this long, even with nobody left to end it.
    pub max_lifetime: Duration,
}
