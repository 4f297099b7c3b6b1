//! [`DockerEngine`]: the engine itself and what all its operations share.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use forge_core::{DiskQuota, OwnerId, RunId, SandboxId, SandboxSpec, WorkspaceSpec};
use forge_engine::{
    Credentials, Engine, EngineDescription, EngineError, FoundObject, ImageStore, Inventory,
    Operation, PreparedImage, Sandbox,
};
use sha2::{Digest, Sha256};
use tokio::sync::OnceCell;

use crate::adoption::Adoption;
use crate::channel_root::ChannelRoot;
use crate::client::Client;
use crate::context::hex;
use crate::describe::Machine;
use crate::discovery::{self, Environment};
use crate::disk::{Disk, DiskOptions};
use crate::egress::{EgressOptions, Gate};
use crate::failure::During;

/// The binary that is PID 1 of every sandbox.
#[derive(Clone)]
pub struct InitBinary {
    /// The file's contents: statically linked, for the engine's architecture.
    pub bytes: Arc<[u8]>,
}

impl std::fmt::Debug for InitBinary {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "InitBinary({} bytes)", self.bytes.len())
    }
}

/// Whether the fast ways may be used that need the engine's disk to be this process's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DiskSharing {
    /// Find out, by reading a file through the engine.
    #[default]
    Probe,
    /// Behave as with an engine on another machine.
    Never,
}

/// What a [`DockerEngine`] is made from.
#[derive(Debug, Clone)]
pub struct DockerOptions {
    /// The engine's address, when one was asked for.
    pub host: Option<String>,
    /// Decides which engine is used otherwise.
    pub environment: Environment,
    /// PID 1 of every sandbox.
    pub init_binary: InitBinary,
    /// Folder for the sockets of sandboxes; made when missing, closed to other users. A short
    /// path: socket addresses end at 108 bytes.
    pub channel_root: PathBuf,
    /// Label of objects that belong to no run.
    pub owner: OwnerId,
    /// The process that makes such objects, as it stands on labels; opaque here, and empty where
    /// nobody looks for processes that are gone.
    pub holder: String,
    /// The run that what serves all its sandboxes together is labelled with.
    pub run: Option<RunId>,
    /// The runtime that specifications of sandboxes name, where it is not the engine's default. It
    /// counts as one with a kernel of its own, which runs no program that it cannot read and shows
    /// no socket of a sandbox outside: images are prepared for that.
    pub runtime: Option<String>,
    /// Whether to look for a shared disk.
    pub disk_sharing: DiskSharing,
    /// How the size of workspaces is held.
    pub disk: DiskOptions,
    /// Authorities that programs in sandboxes trust besides those of their image, as PEM.
    pub certificates: Option<Arc<[u8]>>,
    /// The proxy of sandboxes that have a network.
    pub egress: EgressOptions,
    /// Cargo's configuration in sandboxes, where a task has none of its own.
    pub cargo_config: Option<String>,
}

/// A Docker engine, or one that speaks its interface.
#[derive(Debug)]
pub struct DockerEngine {
    pub(crate) client: Arc<Client>,
    pub(crate) init: InitBinary,
    /// Of all that is put into prepared images.
    pub(crate) additions_digest: String,
    pub(crate) owner: OwnerId,
    pub(crate) holder: String,
    pub(crate) run: Option<RunId>,
    pub(crate) runtime: Option<String>,
    pub(crate) channel_root: ChannelRoot,
    pub(crate) disk_sharing: DiskSharing,
    pub(crate) disk: Disk,
    pub(crate) certificates: Option<Arc<[u8]>>,
    pub(crate) cargo_config: Option<String>,
    pub(crate) gate: Gate,
    pub(crate) machine: OnceCell<Machine>,
    pub(crate) shares_disk: OnceCell<bool>,
    pub(crate) adoption: Adoption,
    /// One image is prepared at a time: two at once would do the same work twice.
    pub(crate) preparing: tokio::sync::Mutex<()>,
    declared_volumes: Mutex<HashMap<String, Arc<[String]>>>,
    shades: Mutex<HashMap<SandboxId, usize>>,
}

impl DockerEngine {
    /// Finds the engine and agrees on a version with it.
    ///
    /// # Errors
    /// Every place that was tried and why it is of no use, or what is wrong with the options.
    pub async fn connect(options: DockerOptions) -> Result<Self, EngineError> {
        let channel_root = ChannelRoot::new(&options.channel_root)
            .during(Operation::Describe, "the channel folder")?;
        if options.disk_sharing == DiskSharing::Probe {
            channel_root.make()?;
        }
        let client = discovery::find(options.host.as_deref(), &options.environment).await?;
        Ok(Self {
            client: Arc::new(client),
            additions_digest: additions_digest(&options),
            init: options.init_binary,
            owner: options.owner,
            holder: options.holder,
            run: options.run,
            runtime: options.runtime,
            channel_root,
            disk_sharing: options.disk_sharing,
            disk: Disk::new(options.disk),
            certificates: options.certificates,
            cargo_config: options.cargo_config,
            gate: Gate::new(options.egress),
            machine: OnceCell::new(),
            shares_disk: OnceCell::new(),
            adoption: Adoption::default(),
            preparing: tokio::sync::Mutex::new(()),
            declared_volumes: Mutex::default(),
            shades: Mutex::default(),
        })
    }

    /// Remembers the volumes an image declares, so that making a sandbox need not ask.
    pub(crate) fn remember_volumes(&self, runnable: &str, volumes: Arc<[String]>) {
        lock(&self.declared_volumes).insert(runnable.to_owned(), volumes);
    }

    pub(crate) fn known_volumes(&self, runnable: &str) -> Option<Arc<[String]>> {
        lock(&self.declared_volumes).get(runnable).cloned()
    }

    /// Remembers how many volumes shade those an image declares, so that destroying need not ask.
    pub(crate) fn remember_shades(&self, id: &SandboxId, count: usize) {
        lock(&self.shades).insert(id.clone(), count);
    }

    pub(crate) fn known_shades(&self, id: &SandboxId) -> Option<usize> {
        lock(&self.shades).get(id).copied()
    }

    pub(crate) fn forget_shades(&self, id: &SandboxId) {
        lock(&self.shades).remove(id);
    }
}

fn additions_digest(options: &DockerOptions) -> String {
    let config = options.cargo_config.as_deref().map(str::as_bytes);
    let optional = [options.certificates.as_deref(), config];
    let mut hasher = Sha256::new_with_prefix(Sha256::digest(&options.init_binary.bytes));
    if options.runtime.is_some() {
        hasher.update("readable");
    }
    for addition in optional {
        // Nothing is not the same as an empty file.
        hasher.update([u8::from(addition.is_some())]);
        hasher.update(Sha256::digest(addition.unwrap_or_default()));
    }
    hex(&hasher.finalize())
}

/// What these locks guard is whole between any two statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `name=value` lines as a map; later ones win, as for a process.
pub(crate) fn environment_map(lines: &[String]) -> BTreeMap<String, String> {
    lines
        .iter()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

#[async_trait]
impl Inventory for DockerEngine {
    async fn list(&self, owner: Option<&OwnerId>) -> Result<Vec<FoundObject>, EngineError> {
        self.list_objects(owner).await
    }

    async fn remove(&self, object: &FoundObject) -> Result<(), EngineError> {
        self.remove_object(object).await
    }

    async fn sweep(&self) {
        self.sweep_machine().await;
    }
}

#[async_trait]
impl Engine for DockerEngine {
    async fn describe(&self) -> Result<EngineDescription, EngineError> {
        self.describe_engine().await
    }

    async fn prepare_image(&self, reference: &str) -> Result<PreparedImage, EngineError> {
        self.prepare(reference).await
    }

    async fn create_workspace(
        &self,
        spec: &WorkspaceSpec,
        image: &PreparedImage,
    ) -> Result<DiskQuota, EngineError> {
        self.make_workspace(spec, image).await
    }

    async fn create(
        &self,
        spec: &SandboxSpec,
        image: &PreparedImage,
        credentials: &Credentials,
    ) -> Result<Arc<dyn Sandbox>, EngineError> {
        Ok(Arc::new(self.make_sandbox(spec, image, credentials).await?))
    }

    async fn open(
        &self,
        id: &SandboxId,
        credentials: &Credentials,
    ) -> Result<Arc<dyn Sandbox>, EngineError> {
        Ok(Arc::new(self.open_sandbox(id, credentials).await?))
    }

    async fn destroy(&self, id: &SandboxId) -> Result<(), EngineError> {
        self.destroy_sandbox(id).await
    }

    async fn destroy_workspace(&self, id: &SandboxId) -> Result<(), EngineError> {
        self.remove_workspace(id).await
    }

    async fn snapshot(
        &self,
        id: &SandboxId,
        image: &PreparedImage,
    ) -> Result<PreparedImage, EngineError> {
        self.snapshot_sandbox(id, image).await
    }

    async fn close(&self) -> Result<(), EngineError> {
        self.close_egress().await
    }

    fn images(&self) -> Option<&dyn ImageStore> {
        Some(self)
    }
}
