//! The fake engine as an engine: what is made, found and removed.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use forge_core::ownership::keys;
use forge_core::sandbox::{OUTPUT, SPECIFICATION, TESTS};
use forge_core::{DiskQuota, OwnerId, Profile, SandboxId, SandboxSpec, WorkspaceSpec};
use forge_wire::message::TransferLimits;
use tokio::io::AsyncReadExt;

use super::command::{Command, SUPERSEDED};
use super::files::{Node, Tree};
use super::sandbox::FakeSandbox;
use super::world::{SandboxEntry, Stage, VOLUME, WorkspaceEntry, World, relative, volume};
use super::{FakeEngine, pass};
use crate::engine::{
    Credentials, Engine, EngineDescription, Fixtures, FoundObject, Inventory, PreparedImage,
    TarStream,
};
use crate::error::{EngineError, EngineErrorKind, Operation};
use crate::images::ImageStore;
use crate::sandbox::Sandbox;

fn error(
    kind: EngineErrorKind,
    operation: Operation,
    subject: impl Into<String>,
    message: &str,
) -> EngineError {
    EngineError::new(kind, operation, subject, message)
}

#[async_trait]
impl Inventory for FakeEngine {
    async fn list(&self, owner: Option<&OwnerId>) -> Result<Vec<FoundObject>, EngineError> {
        let owner = owner.cloned();
        self.perform(Operation::List, "", None, |world| {
            let ours = |object: &FoundObject| match &owner {
                Some(owner) => object.label(keys::OWNER) == Some(owner.as_str()),
                None => object.label(keys::OWNER).is_some(),
            };
            Ok(world.objects().into_values().filter(ours).collect())
        })
        .await
    }

    async fn remove(&self, object: &FoundObject) -> Result<(), EngineError> {
        let name = object.name.as_str();
        // What is no id is the name of something else.
        let sandbox = SandboxId::new(name).ok();
        let call = self
            .begin(Operation::Destroy, name, sandbox.as_ref())
            .await?;
        if let Some(id) = &sandbox {
            self.drop_sandbox(id);
        }
        let removed = remove_idle(&mut self.world(), name);
        call.finish(removed).await
    }

    async fn sweep(&self) {
        if let Some(calls) = &mut self.world().calls {
            calls.push("sweep".to_owned());
        }
    }
}

/// Removes what is no sandbox, by name.
fn remove_idle(world: &mut World, name: &str) -> Result<(), EngineError> {
    world.others.remove(name);
    let workspace = name.strip_prefix(VOLUME);
    match workspace.and_then(|id| SandboxId::new(id).ok()) {
        Some(id) => remove_workspace(world, &id),
        None => Ok(()),
    }
}

fn remove_workspace(world: &mut World, id: &SandboxId) -> Result<(), EngineError> {
    let workspace = world.workspaces.get(id);
    if workspace.is_some_and(|workspace| workspace.users > 0) {
        let (kind, operation) = (EngineErrorKind::Conflict, Operation::Destroy);
        return Err(error(kind, operation, volume(id), "a sandbox uses it"));
    }
    world.workspaces.remove(id);
    Ok(())
}

#[async_trait]
impl Fixtures for FakeEngine {
    async fn put_tests(
        &self,
        id: &SandboxId,
        _image: &PreparedImage,
        mut tar: TarStream,
    ) -> Result<(), EngineError> {
        const OPERATION: Operation = Operation::Put;
        let subject = format!("{}: {TESTS}", volume(id));
        let call = self.begin(OPERATION, &subject, None).await?;
        let mut stream = Vec::new();
        if let Err(source) = tar.read_to_end(&mut stream).await {
            let message = "the tests could not be read";
            let kind = EngineErrorKind::Internal;
            return Err(error(kind, OPERATION, subject, message).with_source(source));
        }
        call.transfer(stream.len() as u64).await;
        let put = put_tests(&mut self.world(), id, &stream)
            .map_err(|(kind, message)| EngineError::new(kind, OPERATION, subject, message));
        call.finish(put).await
    }
}

fn put_tests(world: &mut World, id: &SandboxId, stream: &[u8]) -> Result<(), super::files::Failed> {
    let workspace = world.workspaces.get_mut(id);
    let Some(workspace) = workspace.filter(|workspace| workspace.spec.tests) else {
        let message = "the workspace has no place for tests".to_owned();
        return Err((EngineErrorKind::NotFound, message));
    };
    let mut tree = Tree::new(u64::MAX);
    let limits = TransferLimits {
        bytes: u64::MAX,
        entries: u64::MAX,
    };
    let unpacked = tree.unpack(b"", stream, limits);
    unpacked.map_err(|(_, message)| (EngineErrorKind::Rejected, message))?;
    workspace.tests = Some(tree);
    Ok(())
}

fn new_workspace(world: &World, spec: &WorkspaceSpec) -> WorkspaceEntry {
    let mut tree = Tree::new(spec.disk_bytes);
    let folders = [OUTPUT, SPECIFICATION];
    let folders = folders.map(|path| (relative(path).to_vec(), Node::Folder { mode: 0o755 }));
    let specification = spec.specification.iter().map(|file| {
        let path = format!("{SPECIFICATION}/{}", file.name);
        (relative(&path).to_vec(), Node::file(file.contents.clone()))
    });
    let first = world.first_files.iter();
    let first = first.map(|(name, bytes)| (name.clone().into_bytes(), Node::file(bytes.clone())));
    for (name, node) in folders.into_iter().chain(specification).chain(first) {
        if tree.place(&name, node).is_err() {
            // Smaller than its own specification: full from the start.
            tracing::debug!(id = %spec.id, "the workspace is too small");
        }
    }
    WorkspaceEntry {
        spec: spec.clone(),
        tree,
        tests: None,
        users: 0,
    }
}

/// Takes a place for a sandbox, or finds the one that was made before; says whether it runs.
fn place_sandbox(
    world: &mut World,
    spec: &SandboxSpec,
    image: &PreparedImage,
) -> Result<Stage, EngineError> {
    let fails = |kind, message| error(kind, Operation::Create, spec.id.as_str(), message);
    let workspace = world.workspaces.get_mut(&spec.workspace);
    let Some(workspace) = workspace.filter(|there| there.spec.tests || !spec.tests) else {
        let message = "its workspace is not there";
        return Err(fails(EngineErrorKind::NotFound, message));
    };
    match world.sandboxes.get(&spec.id) {
        None => {
            let entry = SandboxEntry::new(spec, image);
            world.sandboxes.insert(spec.id.clone(), entry);
            workspace.users += 1;
            Ok(Stage::Made)
        }
        Some(there) if !there.is_of(spec, image) => {
            let message = "it exists with another specification";
            Err(fails(EngineErrorKind::Conflict, message))
        }
        Some(there) if there.stage == Stage::Made => Ok(Stage::Made),
        Some(there) if !there.runs() => Err(fails(EngineErrorKind::Lost, "it has ended before")),
        // As with a real engine: nobody joins a sandbox that was root's.
        Some(_) if spec.profile == Profile::Build => {
            Err(fails(EngineErrorKind::Conflict, "it was started before"))
        }
        Some(_) => Ok(Stage::Started),
    }
}

/// The sandbox that is being made, unless somebody removes it meanwhile.
fn still_there<'a>(
    world: &'a mut World,
    spec: &SandboxSpec,
) -> Result<&'a mut SandboxEntry, EngineError> {
    let (kind, operation) = (EngineErrorKind::NotFound, Operation::Create);
    let entry = world.sandboxes.get_mut(&spec.id);
    entry.ok_or_else(|| {
        error(
            kind,
            operation,
            spec.id.as_str(),
            "it was removed meanwhile",
        )
    })
}

/// Claims a sandbox, or proves that it is the caller's. Gives the commands that are to be told where
/// somebody else had it before.
fn claim(
    entry: &mut SandboxEntry,
    operation: Operation,
    credentials: &Credentials,
) -> Result<Vec<Arc<Command>>, EngineError> {
    let id = entry.spec.id.clone();
    let fails = |kind, message| Err(error(kind, operation, id.as_str(), message));
    let owner = entry.owner.get_or_insert_with(|| credentials.clone());
    if owner.secret != credentials.secret {
        let message = "the handshake with the sandbox failed";
        return fails(EngineErrorKind::Corrupt, message);
    }
    if owner.epoch > credentials.epoch {
        return fails(EngineErrorKind::Conflict, SUPERSEDED);
    }
    let taken_over = owner.epoch < credentials.epoch;
    owner.epoch = credentials.epoch;
    let commands = entry.commands().filter(|_| taken_over);
    Ok(commands.cloned().collect())
}

fn supersede(commands: Vec<Arc<Command>>, id: &SandboxId) {
    for command in commands {
        command.supersede(id);
    }
}

#[async_trait]
impl Engine for FakeEngine {
    async fn describe(&self) -> Result<EngineDescription, EngineError> {
        self.perform(Operation::Describe, "", None, |_| Ok(description()))
            .await
    }

    async fn prepare_image(&self, reference: &str) -> Result<PreparedImage, EngineError> {
        self.perform(Operation::PrepareImage, reference, None, |_| {
            Ok(PreparedImage {
                reference: reference.to_owned(),
                runnable: reference.to_owned(),
                digest: format!("sha256:{reference}"),
                size_bytes: 1,
                env: BTreeMap::from([("PATH".to_owned(), "/bin".to_owned())]),
            })
        })
        .await
    }

    async fn create_workspace(
        &self,
        spec: &WorkspaceSpec,
        _image: &PreparedImage,
    ) -> Result<DiskQuota, EngineError> {
        const OPERATION: Operation = Operation::CreateWorkspace;
        self.perform(OPERATION, spec.id.as_str(), None, |world| {
            match world.workspaces.get(&spec.id) {
                Some(there) if there.is_of(spec) => {}
                Some(_) => {
                    let message = "it is there already with another specification";
                    let kind = EngineErrorKind::Conflict;
                    return Err(error(kind, OPERATION, spec.id.as_str(), message));
                }
                None => {
                    let entry = new_workspace(world, spec);
                    world.workspaces.insert(spec.id.clone(), entry);
                }
            }
            Ok(DiskQuota::Loop)
        })
        .await
    }

    async fn create(
        &self,
        spec: &SandboxSpec,
        image: &PreparedImage,
        credentials: &Credentials,
    ) -> Result<Arc<dyn Sandbox>, EngineError> {
        const OPERATION: Operation = Operation::Create;
        let id = &spec.id;
        let call = self.begin(OPERATION, id.as_str(), Some(id)).await?;
        // In the steps of a real engine: at each of them the caller may be gone.
        let found = place_sandbox(&mut self.world(), spec, image)?;
        pass(call.rest / 2).await;
        if found == Stage::Made {
            still_there(&mut self.world(), spec)?.stage = Stage::Started;
            pass(call.rest / 2).await;
        }
        let claimed = claim(
            still_there(&mut self.world(), spec)?,
            OPERATION,
            credentials,
        )?;
        supersede(claimed, id);
        let attestation = self.attestation(spec);
        let sandbox = FakeSandbox::new(self.clone(), spec, attestation, credentials.epoch);
        call.finish(Ok(Arc::new(sandbox) as Arc<dyn Sandbox>)).await
    }

    async fn open(
        &self,
        id: &SandboxId,
        credentials: &Credentials,
    ) -> Result<Arc<dyn Sandbox>, EngineError> {
        const OPERATION: Operation = Operation::Open;
        let call = self.begin(OPERATION, id.as_str(), Some(id)).await?;
        let opened = self.world().live(id, OPERATION).and_then(|entry| {
            if entry.spec.profile == Profile::Build {
                let message = "as root, its setup may have changed what reaches it";
                return Err(error(
                    EngineErrorKind::Lost,
                    OPERATION,
                    id.as_str(),
                    message,
                ));
            }
            let claimed = claim(entry, OPERATION, credentials)?;
            Ok((entry.spec.clone(), claimed))
        });
        let opened = opened.map(|(spec, claimed)| {
            supersede(claimed, id);
            let attestation = self.attestation(&spec);
            let sandbox = FakeSandbox::new(self.clone(), &spec, attestation, credentials.epoch);
            Arc::new(sandbox) as Arc<dyn Sandbox>
        });
        call.finish(opened).await
    }

    async fn destroy(&self, id: &SandboxId) -> Result<(), EngineError> {
        let call = self
            .begin(Operation::Destroy, id.as_str(), Some(id))
            .await?;
        // First everything in it ends, then it goes.
        self.end_sandbox(id, 137);
        pass(call.rest / 2).await;
        self.drop_sandbox(id);
        call.finish(Ok(())).await
    }

    async fn destroy_workspace(&self, id: &SandboxId) -> Result<(), EngineError> {
        self.perform(Operation::Destroy, &volume(id), None, |world| {
            remove_workspace(world, id)
        })
        .await
    }

    async fn snapshot(
        &self,
        id: &SandboxId,
        image: &PreparedImage,
    ) -> Result<PreparedImage, EngineError> {
        self.perform(Operation::Snapshot, id.as_str(), Some(id), |_| {
            Ok(image.clone())
        })
        .await
    }

    async fn close(&self) -> Result<(), EngineError> {
        self.perform(Operation::Close, "", None, |_| Ok(())).await
    }

    fn images(&self) -> Option<&dyn ImageStore> {
        None
    }
}

fn description() -> EngineDescription {
    EngineDescription {
        kind: "fake".to_owned(),
        version: "1".to_owned(),
        api_version: "1".to_owned(),
        endpoint: "memory".to_owned(),
        operating_system: "none".to_owned(),
        kernel: "none".to_owned(),
        architecture: "none".to_owned(),
        cores: 2,
        memory_bytes: 1 << 34,
        storage_driver: "memory".to_owned(),
        backing_filesystem: String::new(),
        cgroup_driver: "none".to_owned(),
        cgroup_version: "2".to_owned(),
        security_options: Vec::new(),
        runtimes: Vec::new(),
        data_root: String::new(),
        shares_disk: false,
        warnings: Vec::new(),
    }
}
