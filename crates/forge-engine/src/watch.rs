//! What an engine tells of sandboxes by itself.

use async_trait::async_trait;
use forge_core::{OwnerId, SandboxId};
use futures::stream::BoxStream;

use crate::error::EngineError;

/// Something that happened to a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// To which.
    pub sandbox: SandboxId,
    /// What.
    pub kind: ObservationKind,
}

/// What can happen to a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObservationKind {
    /// Its PID 1 was started.
    Started,
    /// Its PID 1 ended.
    Ended {
        /// With this code.
        code: i64,
    },
    /// A process in it was killed for want of memory; it may run on.
    OutOfMemory,
    /// Its processes stand still.
    Paused,
    /// They go on.
    Unpaused,
    /// It was removed.
    Disappeared,
}

/// Observations as they come. The last item is an error: the connection ended, and whoever wants to
/// know more looks at the sandboxes and watches anew.
pub type Observations = BoxStream<'static, Result<Observation, EngineError>>;

/// An engine that tells what happens.
#[async_trait]
pub trait Watch: Send + Sync {
    /// What happens to the sandboxes of an owner from when this returns. Something may be missed or
    /// come twice, and what it says is over: the sandbox itself is the truth.
    async fn watch(&self, owner: &OwnerId) -> Result<Observations, EngineError>;
}
