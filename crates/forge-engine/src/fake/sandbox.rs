//! A handle to a sandbox of the fake engine.

use std::sync::Arc;

use async_trait::async_trait;
use forge_core::sandbox::WORKSPACE;
use forge_core::{
    Attestation, EgressPolicy, Ending, ExecRequest, Health, PhaseName, ResourceUsage, SandboxId,
    SandboxSpec, UserId,
};
use forge_wire::message::{TransferLimits, TransferSummary};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::command::{self, Command, SUPERSEDED};
use super::files::Failed;
use super::program::{NO_ENTRY, Step};
use super::run::Program;
use super::world::relative;
use super::{FakeEngine, FakeExec, Fault, Ongoing};
use crate::channel::{Download, direct};
use crate::error::{EngineError, EngineErrorKind, Operation};
use crate::sandbox::{Condition, Egress, EgressRecords, Files, RunningExec, Sandbox};
use crate::task;

/// Bytes of headers and padding that one entry of an archive may take.
const HEAD: u64 = 16 * 1024;

pub(super) struct FakeSandbox {
    engine: FakeEngine,
    id: SandboxId,
    attestation: Attestation,
    has_network: bool,
    /// Of whoever has this handle.
    epoch: u64,
    /// Tells this handle from all others.
    handle: u64,
}

impl FakeSandbox {
    pub(super) fn new(
        engine: FakeEngine,
        spec: &SandboxSpec,
        attestation: Attestation,
        epoch: u64,
    ) -> Self {
        let handle = engine.next_handle();
        Self {
            engine,
            epoch,
            handle,
            id: spec.id.clone(),
            attestation,
            has_network: spec.network.is_some(),
        }
    }

    /// Begins an operation in the sandbox, which must run.
    async fn begin(&self, operation: Operation, detail: &str) -> Result<Ongoing, EngineError> {
        let subject = format!("{}: {detail}", self.id);
        let call = self
            .engine
            .begin(operation, &subject, Some(&self.id))
            .await?;
        let owner = self.engine.world().live(&self.id, operation)?.owner.clone();
        if owner.is_some_and(|owner| owner.epoch > self.epoch) {
            return Err(self.error(EngineErrorKind::Conflict, operation, SUPERSEDED));
        }
        Ok(call)
    }

    fn error(
        &self,
        kind: EngineErrorKind,
        operation: Operation,
        message: impl Into<String>,
    ) -> EngineError {
        EngineError::new(kind, operation, self.id.as_str(), message)
    }

    fn unpack(
        &self,
        directory: &str,
        stream: &[u8],
        limits: TransferLimits,
    ) -> Result<TransferSummary, Failed> {
        let mut world = self.engine.world();
        let unpacked = match world.workspace_of(&self.id) {
            None => Err((EngineErrorKind::NotFound, "no workspace".to_owned())),
            Some(workspace) => workspace.tree.unpack(relative(directory), stream, limits),
        };
        world.look_at_disk(&self.id);
        unpacked
    }

    /// What becomes of a request for a command that was started before, or may not be started; `None`
    /// where it is to be started.
    fn follow(&self, request: &ExecRequest) -> Option<RunningExec> {
        let key = request.key?;
        let mut world = self.engine.world();
        let (found, known) = world.live(&self.id, Operation::Exec).ok()?.by_key(key);
        drop(world);
        let fails = |kind, message| Some(command::failed(command::error(kind, &self.id, message)));
        match (request.join, found) {
            (Some(join), Some(found)) => {
                Some(found.attach(join.output_from, self.handle, &self.id))
            }
            (Some(join), None) if !known && join.may_start && join.output_from == 0 => None,
            (Some(_), None) => fails(
                EngineErrorKind::Lost,
                "the sandbox does not know the command",
            ),
            (None, _) if known => {
                let message = "a command with this key was started before; it is not started again";
                fails(EngineErrorKind::Conflict, message)
            }
            (None, _) => None,
        }
    }

    fn begin_command(&self, request: &ExecRequest, call: &Ongoing) -> RunningExec {
        let command = Command::new(request);
        let Some(number) = self.engine.add_command(&self.id, &command) else {
            let message = "the sandbox is gone";
            return command::failed(command::error(EngineErrorKind::Lost, &self.id, message));
        };
        let running = command.attach(0, self.handle, &self.id);
        self.start(&command, number, request, call);
        running
    }

    /// What a command does, and who runs it where it takes time.
    fn start(&self, command: &Arc<Command>, number: u64, request: &ExecRequest, call: &Ongoing) {
        let mut steps = Vec::new();
        let mut timeout = request.timeout;
        if call.fault == Some(Fault::OutOfSpace) {
            command.end(Ending::EngineDiskFull);
        } else {
            match (self.engine.script)(request) {
                FakeExec::Ends { output, report } => {
                    command.push(forge_core::exec::OutputStream::Stdout, output.into());
                    command.finish(report);
                }
                FakeExec::Lost => command.lose(),
                FakeExec::Hangs => {
                    steps = vec![Step::Wait];
                    timeout = None;
                }
                FakeExec::Runs => match Step::parse(&request.argv) {
                    Some(program) => steps = program,
                    None => command.end(Ending::NotStarted { errno: NO_ENTRY }),
                },
            }
        }
        if !command.is_running() {
            self.engine.retire_command(&self.id, number);
            return;
        }
        let Some(lifetime) = self.engine.lifetime(&self.id) else {
            command.lose();
            return;
        };
        let program = Program {
            engine: self.engine.clone(),
            id: self.id.clone(),
            number,
            command: command.clone(),
            steps,
            arguments: request.argv.iter().skip(2).cloned().collect(),
            timeout,
            grace: request.grace,
            lifetime,
            bytes_per_second: call.bytes_per_second(),
        };
        let task = task::spawn("fake command", program.run());
        self.engine.set_task(&self.id, number, task);
    }
}

#[async_trait]
impl Files for FakeSandbox {
    async fn put(
        &self,
        directory: &str,
        tar: &mut (dyn AsyncRead + Send + Unpin),
        limits: TransferLimits,
    ) -> Result<TransferSummary, EngineError> {
        const OPERATION: Operation = Operation::Put;
        let call = self.begin(OPERATION, directory).await?;
        let entries = limits.entries.saturating_add(2);
        let most = entries.saturating_mul(HEAD).saturating_add(limits.bytes);
        let mut stream = Vec::new();
        let read = tar.take(most).read_to_end(&mut stream).await;
        if let Err(source) = read {
            let message = "the files could not be read";
            let error = self.error(EngineErrorKind::Internal, OPERATION, message);
            return Err(error.with_source(source));
        }
        call.transfer(stream.len() as u64).await;
        let put = self.unpack(directory, &stream, limits);
        let put = put.map_err(|(kind, message)| self.error(kind, OPERATION, message));
        call.finish(put).await
    }

    async fn get(&self, path: &str, limits: TransferLimits) -> Result<Download, EngineError> {
        const OPERATION: Operation = Operation::Get;
        let call = self.begin(OPERATION, path).await?;
        let packed = match self.engine.world().workspace_of(&self.id) {
            None => Err((EngineErrorKind::NotFound, "no workspace".to_owned())),
            Some(workspace) => workspace.tree.pack(relative(path), limits),
        };
        // As with a real engine, what fails is told at the end of the stream.
        let (pieces, outcome) = match packed {
            Ok((pieces, summary)) => (pieces, Ok(summary)),
            Err((kind, message)) => (Vec::new(), Err(self.error(kind, OPERATION, message))),
        };
        let length = pieces.iter().map(|piece| piece.len() as u64).sum();
        call.transfer(length).await;
        call.finish(Ok(direct::download(pieces, outcome))).await
    }

    async fn remove(&self, path: &str) -> Result<(), EngineError> {
        const OPERATION: Operation = Operation::Put;
        let call = self.begin(OPERATION, &format!("remove {path}")).await?;
        let name = path.strip_prefix(WORKSPACE);
        let name = name.filter(|name| name.starts_with('/'));
        let removed = match (name, self.engine.world().workspace_of(&self.id)) {
            (Some(name), Some(workspace)) => workspace.tree.remove(name.as_bytes()),
            _ => Err((
                EngineErrorKind::Rejected,
                "it is not below the workspace".to_owned(),
            )),
        };
        // A removal says only whether it was done.
        let removed = removed
            .map_err(|(_, message)| self.error(EngineErrorKind::Rejected, OPERATION, message));
        call.finish(removed).await
    }

    async fn hand_over(&self, path: &str, user: UserId) -> Result<(), EngineError> {
        let detail = format!("hand {path} to {}", user.uid());
        let call = self.begin(Operation::Put, &detail).await?;
        call.finish(Ok(())).await
    }
}

#[async_trait]
impl Egress for FakeSandbox {
    async fn set_policy(&self, policy: &EgressPolicy, phase: PhaseName) -> Result<(), EngineError> {
        let detail = format!("{phase} at {}", policy.level);
        let call = self.begin(Operation::Network, &detail).await?;
        call.finish(Ok(())).await
    }

    async fn take_records(&self) -> Result<EgressRecords, EngineError> {
        let call = self.begin(Operation::Network, "records").await?;
        let records = std::mem::take(&mut self.engine.world().egress);
        call.finish(Ok(records)).await
    }
}

#[async_trait]
impl Sandbox for FakeSandbox {
    fn id(&self) -> &SandboxId {
        &self.id
    }

    fn attestation(&self) -> &Attestation {
        &self.attestation
    }

    fn egress(&self) -> Option<&dyn Egress> {
        self.has_network.then_some(self)
    }

    async fn exec(&self, request: ExecRequest) -> Result<RunningExec, EngineError> {
        const OPERATION: Operation = Operation::Exec;
        let last = request.argv.last().map_or("", String::as_str);
        let call = self.begin(OPERATION, last).await?;
        if request.join.is_some() && (request.key.is_none() || request.stdin) {
            let message = "only a command that has a key and takes no input can be joined";
            return Err(self.error(EngineErrorKind::Rejected, OPERATION, message));
        }
        let running = self
            .follow(&request)
            .unwrap_or_else(|| self.begin_command(&request, &call));
        call.finish(Ok(running)).await
    }

    async fn kill_all(&self) -> Result<u32, EngineError> {
        let call = self.begin(Operation::Kill, "").await?;
        self.engine.end_commands(&self.id, Ending::Killed);
        let survivors = self.engine.world().survivors;
        call.finish(Ok(survivors)).await
    }

    async fn usage(&self) -> Result<ResourceUsage, EngineError> {
        let call = self.begin(Operation::Usage, "").await?;
        let entry = self
            .engine
            .world()
            .live(&self.id, Operation::Usage)
            .map(|entry| entry.usage);
        call.finish(entry).await
    }

    async fn health(&self) -> Result<Health, EngineError> {
        let call = self.begin(Operation::Health, "").await?;
        let health = self.engine.health_of(&self.id);
        call.finish(Ok(health)).await
    }

    async fn condition(&self) -> Result<Condition, EngineError> {
        Ok(self.engine.condition_of(&self.id))
    }
}
