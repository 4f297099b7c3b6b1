//! The sandbox: a handle to one place where commands run.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use forge_core::connection::{ConnectionRecord, EgressCounters};
use forge_core::exec::OutputStream;
use forge_core::{
    Attestation, EgressPolicy, ExecRequest, ExitReport, Health, PhaseName, ResourceUsage,
    SandboxId, UserId,
};
use forge_wire::message::{TransferLimits, TransferSummary};
use tokio::io::AsyncRead;

use crate::channel::{Download, OutputReceiver, Remote};
use crate::error::EngineError;

/// A piece of a command's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputChunk {
    /// Which stream.
    pub stream: OutputStream,
    /// Bytes of both streams that came before.
    pub offset: u64,
    /// The bytes.
    pub bytes: Bytes,
}

/// A command that runs in a sandbox. Dropping it leaves the command running.
pub struct RunningExec {
    /// Its output, in the order it was read; must be drained for the command to go on, and
    /// acknowledged where it has a key.
    pub output: OutputReceiver,
    /// Standard input and signals.
    pub remote: Remote,
    /// Resolves when the command has ended and all output was sent.
    pub exit: ExitFuture,
}

/// Resolves to the exit report; "lost contact" is an error, never a code.
pub type ExitFuture = futures::future::BoxFuture<'static, Result<ExitReport, EngineError>>;

impl fmt::Debug for dyn Sandbox {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Sandbox({})", self.id())
    }
}

/// What an engine says about a sandbox from the outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// It runs.
    Running,
    /// It is there, and the engine lets nothing in it run.
    Paused,
    /// Its PID 1 ended.
    Ended {
        /// With this code.
        code: i64,
        /// Whether the engine saw an out-of-memory kill.
        out_of_memory: bool,
    },
    /// It does not exist.
    Gone,
}

/// The files of a sandbox.
#[async_trait]
pub trait Files: Send + Sync {
    /// Unpacks a tar stream into an existing folder.
    async fn put(
        &self,
        directory: &str,
        tar: &mut (dyn AsyncRead + Send + Unpin),
        limits: TransferLimits,
    ) -> Result<TransferSummary, EngineError>;

    /// Packs a path as a tar stream.
    async fn get(&self, path: &str, limits: TransferLimits) -> Result<Download, EngineError>;

    /// Removes a path below the workspace; success when it is not there.
    async fn remove(&self, path: &str) -> Result<(), EngineError>;

    /// Gives a tree, the workspace or below it, to a user; never follows a link. Only where the
    /// sandbox is one of [`forge_core::Profile::Build`].
    async fn hand_over(&self, path: &str, user: UserId) -> Result<(), EngineError>;
}

/// The egress proxy as far as it serves one sandbox.
#[async_trait]
pub trait Egress: Send + Sync {
    /// Puts a policy in force for a phase. Connections that it forbids are ended when this returns.
    async fn set_policy(&self, policy: &EgressPolicy, phase: PhaseName) -> Result<(), EngineError>;

    /// The records of connections that have ended and were not taken before, and the counters.
    async fn take_records(&self) -> Result<EgressRecords, EngineError>;
}

/// What a sandbox did through the egress proxy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EgressRecords {
    /// Connections that ended, oldest first.
    pub connections: Vec<ConnectionRecord>,
    /// Everything so far.
    pub counters: EgressCounters,
    /// Whether a proxy was lost since the last time, and with it the records of connections that
    /// it had; how many, nobody knows.
    pub lost: bool,
}

/// A handle to one sandbox. Dropping it does nothing to the sandbox.
#[async_trait]
pub trait Sandbox: Files {
    /// Its id.
    fn id(&self) -> &SandboxId;

    /// What its PID 1 saw at start.
    fn attestation(&self) -> &Attestation;

    /// Its network; `None` where it is isolated for its whole life.
    fn egress(&self) -> Option<&dyn Egress>;

    /// Starts a command, or joins one. Its exit is `Conflict` where a command with this key was
    /// started before and the request does not join it, and `Lost` where it joins one that the
    /// sandbox does not know and may not start it.
    async fn exec(&self, request: ExecRequest) -> Result<RunningExec, EngineError>;

    /// Ends every process but PID 1; returns how many could not be ended.
    async fn kill_all(&self) -> Result<u32, EngineError>;

    /// Counters so far.
    async fn usage(&self) -> Result<ResourceUsage, EngineError>;

    /// How it is, as its PID 1 sees it. Answered at once, whatever the task does.
    async fn health(&self) -> Result<Health, EngineError>;

    /// What the engine sees from outside.
    async fn condition(&self) -> Result<Condition, EngineError>;
}
