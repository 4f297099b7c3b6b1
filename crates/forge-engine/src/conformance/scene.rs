//! What cases have in common: sandboxes to work on, commands to run, and how to look for leftovers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use forge_core::exec::{DEFAULT_GRACE, OutputStream};
use forge_core::ownership::Role;
use forge_core::sandbox::WORKSPACE;
use forge_core::{
    Ending, ExecRequest, ExitReport, Limits, Profile, SandboxId, SandboxSpec, SpecificationFile,
    UserId, WorkspaceSpec,
};
use forge_wire::Secret;
use forge_wire::message::TransferLimits;

use super::{Act, Bench, Failure};
use crate::channel::OutputReceiver;
use crate::engine::{Credentials, Engine, PreparedImage};
use crate::error::EngineError;
use crate::sandbox::{RunningExec, Sandbox};

/// Bounds that no case comes near.
pub(super) const WIDE: TransferLimits = TransferLimits {
    bytes: 1 << 30,
    entries: 100_000,
};
/// How long a command may take that is not about time.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long is waited between two looks at what a command is doing.
const PAUSE_MS: u64 = 100;
/// How often is looked.
const LOOKS: u32 = 150;

/// A bench with its image ready, and names for what a case makes.
pub struct Scene {
    pub(super) bench: Arc<dyn Bench>,
    pub(super) engine: Arc<dyn Engine>,
    pub(super) image: PreparedImage,
    count: AtomicU32,
}

/// A sandbox that was made, with its workspace.
pub(super) struct Made {
    pub(super) spec: SandboxSpec,
    pub(super) sandbox: Arc<dyn Sandbox>,
}

impl Made {
    pub(super) fn id(&self) -> &SandboxId {
        &self.spec.id
    }
}

/// What a command wrote, and how it ended.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
    pub(super) report: ExitReport,
}

impl Finished {
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

impl Scene {
    pub(super) async fn new(bench: Arc<dyn Bench>) -> Result<Self, Failure> {
        let engine = bench.engine();
        let image = engine.prepare_image(&bench.image()).await?;
        Ok(Self {
            bench,
            engine,
            image,
            count: AtomicU32::new(0),
        })
    }

    /// A new id of the bench's task.
    pub(super) fn id(&self) -> SandboxId {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let ownership = self.bench.ownership();
        SandboxId::for_attempt(&ownership.task, &ownership.run, ownership.attempt)
            .with_part(&format!("c{number}"))
    }

    pub(super) fn workspace_spec(&self, id: &SandboxId, user: UserId) -> WorkspaceSpec {
        let limits = limits();
        WorkspaceSpec {
            id: id.clone(),
            ownership: self.bench.ownership(),
            user,
            disk_bytes: limits.disk_bytes,
            disk_files: limits.disk_files,
            specification: vec![SpecificationFile {
                name: "task.json".into(),
                contents: b"{}".to_vec(),
            }],
            tests: false,
        }
    }

    pub(super) fn sandbox_spec(&self, id: &SandboxId, user: UserId) -> SandboxSpec {
        SandboxSpec {
            id: id.clone(),
            ownership: self.bench.ownership(),
            role: Role::Task,
            workspace: id.clone(),
            tests: false,
            limits: limits(),
            cores: Vec::new(),
            profile: Profile::Run,
            network: None,
            user,
            env: BTreeMap::from([("TASK_ID".into(), "conformance".into())]),
            runtime: None,
            max_lifetime: Duration::from_secs(600),
        }
    }

    /// A workspace, and the specification of a sandbox on it that is still to be made.
    pub(super) async fn prepared(&self) -> Result<SandboxSpec, EngineError> {
        self.prepared_with(|_| ()).await
    }

    pub(super) async fn prepared_with(
        &self,
        change: impl FnOnce(&mut Limits) + Send,
    ) -> Result<SandboxSpec, EngineError> {
        let (id, user) = (self.id(), self.bench.user());
        let mut spec = self.sandbox_spec(&id, user);
        change(&mut spec.limits);
        let mut workspace = self.workspace_spec(&id, user);
        workspace.disk_bytes = spec.limits.disk_bytes;
        workspace.disk_files = spec.limits.disk_files;
        self.engine
            .create_workspace(&workspace, &self.image)
            .await?;
        Ok(spec)
    }

    pub(super) async fn make(&self, spec: &SandboxSpec) -> Result<Arc<dyn Sandbox>, EngineError> {
        let credentials = credentials(1);
        self.engine.create(spec, &self.image, &credentials).await
    }

    /// A sandbox with its workspace.
    pub(super) async fn sandbox(&self) -> Result<Made, EngineError> {
        self.sandbox_with(|_| ()).await
    }

    pub(super) async fn sandbox_with(
        &self,
        change: impl FnOnce(&mut Limits) + Send,
    ) -> Result<Made, EngineError> {
        let spec = self.prepared_with(change).await?;
        let sandbox = self.make(&spec).await?;
        Ok(Made { spec, sandbox })
    }

    /// Removes a sandbox and its workspace.
    pub(super) async fn remove(&self, id: &SandboxId) -> Result<(), EngineError> {
        self.engine.destroy(id).await?;
        self.engine.destroy_workspace(id).await
    }

    pub(super) fn request(&self, act: &Act) -> ExecRequest {
        ExecRequest {
            argv: self.bench.argv(act),
            env: self.bench.env(),
            working_directory: WORKSPACE.into(),
            stdin: false,
            timeout: Some(PATIENCE),
            grace: DEFAULT_GRACE,
            output_limit: 1 << 30,
            key: None,
            join: None,
        }
    }

    /// Runs a command to its end.
    pub(super) async fn run(
        &self,
        sandbox: &dyn Sandbox,
        act: &Act,
    ) -> Result<Finished, EngineError> {
        finish(sandbox.exec(self.request(act)).await?).await
    }

    /// Runs a command that must end with code 0; gives what it wrote to standard output.
    pub(super) async fn done(&self, sandbox: &dyn Sandbox, act: &Act) -> Result<Vec<u8>, Failure> {
        let finished = self.run(sandbox, act).await?;
        ensure!(
            finished.report.ending == Ending::Exited(0),
            "{act:?} ended as {finished:?}"
        );
        Ok(finished.stdout)
    }

    /// Waits until a file says what is expected; gives what it says in the end.
    pub(super) async fn await_file(
        &self,
        sandbox: &dyn Sandbox,
        file: &str,
        expected: &str,
    ) -> Result<String, Failure> {
        let mut seen = String::new();
        for _ in 0..LOOKS {
            seen = self.run(sandbox, &Act::Show(file.into())).await?.text();
            if seen == expected {
                break;
            }
            self.done(sandbox, &Act::Sleep(PAUSE_MS)).await?;
        }
        Ok(seen)
    }

    pub(super) async fn nothing_is_left(&self) -> Result<(), Failure> {
        let left = self.bench.census().await?;
        ensure!(left.is_empty(), "left behind: {left:?}");
        Ok(())
    }
}

/// Small, so that a case costs its machine little.
fn limits() -> Limits {
    Limits {
        disk_bytes: 512 << 20,
        disk_files: 32 << 10,
        ..forge_core::Difficulty::Easy.limits()
    }
}

/// The secret of every sandbox here, with the epoch of one host process.
pub(super) fn credentials(epoch: u64) -> Credentials {
    Credentials {
        secret: Secret::new([42; 32]),
        epoch,
    }
}

/// Everything a command still writes, and how it ends.
pub(super) async fn finish(mut running: RunningExec) -> Result<Finished, EngineError> {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    while let Some(chunk) = running.output.next().await {
        match chunk.stream {
            OutputStream::Stdout => stdout.extend_from_slice(&chunk.bytes),
            OutputStream::Stderr => stderr.extend_from_slice(&chunk.bytes),
        }
    }
    Ok(Finished {
        stdout,
        stderr,
        report: running.exit.await?,
    })
}

/// Waits for the first byte that a command writes.
pub(super) async fn first_byte(output: &mut OutputReceiver) -> Result<(), Failure> {
    let first = output.next().await;
    ensure!(
        first.is_some(),
        "the command ended before it wrote anything"
    );
    Ok(())
}
