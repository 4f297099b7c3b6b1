//! A sandbox of the fake engine.

use async_trait::async_trait;
use bytes::Bytes;
use forge_core::exec::OutputStream;
use forge_core::{
    Attestation, EgressPolicy, ExecRequest, Health, PhaseName, ResourceUsage, SandboxId,
    SandboxSpec, UserId,
};
use forge_wire::message::{TransferLimits, TransferSummary};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;

use super::{FakeEngine, FakeExec};
use crate::channel::{Download, OutputReceiver, Remote};
use crate::error::{EngineError, EngineErrorKind, Operation};
use crate::sandbox::{Condition, Egress, EgressRecords, Files, OutputChunk, RunningExec, Sandbox};

pub(crate) struct FakeSandbox {
    engine: FakeEngine,
    id: SandboxId,
    attestation: Attestation,
    has_network: bool,
}

impl FakeSandbox {
    pub(crate) fn new(engine: FakeEngine, spec: &SandboxSpec, attestation: Attestation) -> Self {
        Self {
            engine,
            id: spec.id.clone(),
            attestation,
            has_network: spec.network.is_some(),
        }
    }

    fn call(&self, operation: Operation, detail: &str) -> Result<(), EngineError> {
        self.engine
            .call(operation, &format!("{}: {detail}", self.id))
    }
}

#[async_trait]
impl Files for FakeSandbox {
    async fn put(
        &self,
        directory: &str,
        tar: &mut (dyn AsyncRead + Send + Unpin),
        _limits: TransferLimits,
    ) -> Result<TransferSummary, EngineError> {
        self.call(Operation::Put, directory)?;
        let mut bytes = Vec::new();
        tar.read_to_end(&mut bytes).await.map_err(|error| {
            EngineError::new(
                EngineErrorKind::Internal,
                Operation::Put,
                self.id.as_str(),
                "the files could not be read",
            )
            .with_source(error)
        })?;
        Ok(TransferSummary {
            entries: 1,
            bytes: bytes.len() as u64,
            skipped: 0,
        })
    }

    async fn get(&self, path: &str, _limits: TransferLimits) -> Result<Download, EngineError> {
        self.call(Operation::Get, path)?;
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(4);
        header.set_mode(0o644);
        let archive = builder
            .append_data(&mut header, "result.txt", &b"done"[..])
            .and_then(|()| builder.into_inner());
        let archive = archive.map_err(|error| {
            EngineError::new(
                EngineErrorKind::Internal,
                Operation::Get,
                self.id.as_str(),
                "no archive",
            )
            .with_source(error)
        })?;
        let summary = TransferSummary {
            entries: 1,
            bytes: 4,
            skipped: 0,
        };
        Ok(Download::detached(Bytes::from(archive), summary))
    }

    async fn remove(&self, path: &str) -> Result<(), EngineError> {
        self.call(Operation::Put, &format!("remove {path}"))
    }

    async fn hand_over(&self, path: &str, user: UserId) -> Result<(), EngineError> {
        self.call(Operation::Put, &format!("hand {path} to {}", user.uid()))
    }
}

#[async_trait]
impl Egress for FakeSandbox {
    async fn set_policy(&self, policy: &EgressPolicy, phase: PhaseName) -> Result<(), EngineError> {
        self.call(Operation::Network, &format!("{phase} at {}", policy.level))
    }

    async fn take_records(&self) -> Result<EgressRecords, EngineError> {
        self.call(Operation::Network, "records")?;
        Ok(std::mem::take(&mut self.engine.world().egress))
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
        self.call(
            Operation::Exec,
            request.argv.last().map_or("", String::as_str),
        )?;
        let (sender, receiver) = mpsc::unbounded_channel();
        let lost = EngineError::new(
            EngineErrorKind::Lost,
            Operation::Exec,
            self.id.as_str(),
            "contact with the sandbox was lost",
        );
        let exit: crate::sandbox::ExitFuture = match (self.engine.script)(&request) {
            FakeExec::Ends { output, report } => {
                let bytes = Bytes::from(output);
                // The receiver is alive: it is returned below.
                sender
                    .send(OutputChunk {
                        stream: OutputStream::Stdout,
                        offset: 0,
                        bytes,
                    })
                    .ok();
                Box::pin(async move { Ok(report) })
            }
            FakeExec::Hangs => Box::pin(async move {
                // Holding the sender keeps the output open, as a real hanging command does.
                let _open = sender;
                std::future::pending().await
            }),
            FakeExec::Lost => Box::pin(async move { Err(lost) }),
        };
        Ok(RunningExec {
            output: OutputReceiver::detached(receiver),
            remote: Remote::detached(),
            exit,
        })
    }

    async fn kill_all(&self) -> Result<u32, EngineError> {
        self.call(Operation::Kill, "")?;
        Ok(self.engine.world().survivors)
    }

    async fn usage(&self) -> Result<ResourceUsage, EngineError> {
        self.call(Operation::Usage, "")?;
        Ok(ResourceUsage {
            memory_peak_bytes: 1024,
            cpu_seconds: 0.5,
            ..ResourceUsage::default()
        })
    }

    async fn health(&self) -> Result<Health, EngineError> {
        self.call(Operation::Health, "")?;
        Ok(self.engine.health())
    }

    async fn condition(&self) -> Result<Condition, EngineError> {
        if let Some(code) = self.engine.world().ended {
            return Ok(Condition::Ended {
                code,
                out_of_memory: false,
            });
        }
        Ok(
            if self
                .engine
                .objects()
                .iter()
                .any(|name| name == self.id.as_str())
            {
                Condition::Running
            } else {
                Condition::Gone
            },
        )
    }
}
