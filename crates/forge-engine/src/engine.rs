//! The engine: a place where sandboxes can exist.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use forge_core::{DiskQuota, OwnerId, SandboxId, SandboxSpec, WorkspaceSpec};
use forge_wire::Secret;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncRead;

use crate::error::EngineError;
use crate::images::ImageStore;
use crate::sandbox::Sandbox;
use crate::watch::Watch;

/// What proves that a sandbox is the caller's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Known to the sandbox and its owners only.
    pub secret: Secret,
    /// Grows with every process that takes the work of another over. A sandbox serves the highest
    /// that was ever proved to it; who comes with a lower one gets
    /// [`crate::EngineErrorKind::Conflict`], and so does who is connected with it.
    pub epoch: u64,
}

/// What an engine is and what its machine has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EngineDescription {
    /// Kind of engine, `docker`.
    pub kind: String,
    /// Its version.
    pub version: String,
    /// Version of its interface in use.
    pub api_version: String,
    /// Where it is reached.
    pub endpoint: String,
    /// Operating system of its machine.
    pub operating_system: String,
    /// Kernel release of its machine.
    pub kernel: String,
    /// Processor architecture of its machine, as the engine names it.
    pub architecture: String,
    /// Cores of its machine.
    pub cores: u64,
    /// Memory of its machine in bytes.
    pub memory_bytes: u64,
    /// How it stores images.
    pub storage_driver: String,
    /// What the storage driver is built on, where known.
    pub backing_filesystem: String,
    /// How it drives control groups.
    pub cgroup_driver: String,
    /// Version of control groups, `1` or `2`.
    pub cgroup_version: String,
    /// Security features it reports.
    pub security_options: Vec<String>,
    /// Runtimes registered.
    pub runtimes: Vec<String>,
    /// Where its data is, on its machine.
    pub data_root: String,
    /// Whether its disk is this process's disk, proved by reading a file through it.
    pub shares_disk: bool,
    /// Warnings the engine itself gives.
    pub warnings: Vec<String>,
}

/// An image that is ready to run on the engine that prepared it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreparedImage {
    /// The reference it was asked for by.
    pub reference: String,
    /// What to run: an engine's own identifier.
    pub runnable: String,
    /// Digest of the image as the author knows it.
    pub digest: String,
    /// Bytes.
    pub size_bytes: u64,
    /// Environment set by the image, `PATH` above all.
    pub env: BTreeMap<String, String>,
}

/// What kind of object was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ObjectKind {
    /// A container, running or not.
    Container,
    /// A volume.
    Volume,
    /// A network.
    Network,
    /// An image.
    Image,
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Container => "container",
            Self::Volume => "volume",
            Self::Network => "network",
            Self::Image => "image",
        })
    }
}

/// An object on the engine that carries our owner label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FoundObject {
    /// What it is.
    pub kind: ObjectKind,
    /// Its name on the engine.
    pub name: String,
    /// Its labels, as they stand there.
    pub labels: BTreeMap<String, String>,
    /// Whether it is a running container.
    pub running: bool,
}

impl FoundObject {
    /// The value of a label.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key).map(String::as_str)
    }

    /// A label that is a time, when it is there and well-formed.
    #[must_use]
    pub fn time(&self, key: &str) -> Option<Timestamp> {
        self.label(key)?.parse().ok()
    }
}

/// What stands on an engine, whoever made it.
#[async_trait]
pub trait Inventory: Send + Sync {
    /// Everything that carries an owner label: of one owner, or of all.
    async fn list(&self, owner: Option<&OwnerId>) -> Result<Vec<FoundObject>, EngineError>;

    /// Removes one found object; success when it is gone already.
    async fn remove(&self, object: &FoundObject) -> Result<(), EngineError>;

    /// Removes what sandboxes have left on this process's machine and no object leads to. Quiet:
    /// what cannot be removed now is found again by the next who sweeps.
    async fn sweep(&self);
}

/// A tar stream that is read while it is made.
pub type TarStream = Box<dyn AsyncRead + Send + Unpin>;

/// Files of a task's author that sandboxes can read and not change.
#[async_trait]
pub trait Fixtures: Send + Sync {
    /// Puts tests into the place that the workspace `id` was made with for them. `tar` has one
    /// folder, `tests`, whose files, folders and links keep owner, mode and date. Sandboxes that
    /// have the place see them at once. Where an earlier attempt was broken off its part is replaced;
    /// once they are whole, nothing is changed by another.
    ///
    /// # Errors
    /// `NotFound` when the workspace has no such place, `Rejected` for another kind of archive.
    async fn put_tests(
        &self,
        id: &SandboxId,
        image: &PreparedImage,
        tar: TarStream,
    ) -> Result<(), EngineError>;
}

/// A place where sandboxes can exist.
#[async_trait]
pub trait Engine: Inventory + Fixtures + Watch + fmt::Debug {
    /// What it is; fails when it cannot be used now. Never starts anything.
    async fn describe(&self) -> Result<EngineDescription, EngineError>;

    /// Makes `reference` runnable here. Safe to repeat and to run twice at once.
    async fn prepare_image(&self, reference: &str) -> Result<PreparedImage, EngineError>;

    /// Makes workspace, artifacts folder and specification of an attempt, or finds them made; gives
    /// what holds the workspace's size.
    async fn create_workspace(
        &self,
        spec: &WorkspaceSpec,
        image: &PreparedImage,
    ) -> Result<DiskQuota, EngineError>;

    /// Makes a sandbox that is ready for commands and claims it with `credentials`. The same
    /// id, specification and secret again give the same sandbox, however far an earlier attempt came.
    ///
    /// # Errors
    /// `Conflict` when it exists with another specification, or is one of
    /// [`forge_core::Profile::Build`] that was started before: as root, its setup may have changed
    /// what reaching it again would read and run. `Lost` when it has worked and ended.
    async fn create(
        &self,
        spec: &SandboxSpec,
        image: &PreparedImage,
        credentials: &Credentials,
    ) -> Result<Arc<dyn Sandbox>, EngineError>;

    /// Connects to a sandbox that exists, proving knowledge of its secret. Takes it over from whoever
    /// is connected, unless that one's epoch is higher.
    ///
    /// # Errors
    /// `NotFound` when there is none; `Lost` when it has ended, was never started, or is one of
    /// [`forge_core::Profile::Build`], which nobody reaches again but whoever made it; `Conflict` when
    /// a higher epoch was proved to it.
    async fn open(
        &self,
        id: &SandboxId,
        credentials: &Credentials,
    ) -> Result<Arc<dyn Sandbox>, EngineError>;

    /// Removes a sandbox with everything in it; success when it is gone already.
    async fn destroy(&self, id: &SandboxId) -> Result<(), EngineError>;

    /// Removes a workspace with artifacts and specification; success when gone already.
    async fn destroy_workspace(&self, id: &SandboxId) -> Result<(), EngineError>;

    /// What a sandbox has changed outside of its workspace, as an image on top of the one it runs;
    /// that one itself when it has changed nothing. Carries the sandbox's owner labels.
    async fn snapshot(
        &self,
        id: &SandboxId,
        image: &PreparedImage,
    ) -> Result<PreparedImage, EngineError>;

    /// Removes what the engine holds for all sandboxes together, such as the egress proxy. Called
    /// when no sandbox of this process is left; what is needed again is made again.
    async fn close(&self) -> Result<(), EngineError>;

    /// Management of base images, where the engine has it.
    fn images(&self) -> Option<&dyn ImageStore>;
}
