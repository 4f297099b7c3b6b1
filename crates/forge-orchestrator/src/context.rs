//! What every attempt of a run shares.

use std::sync::Arc;

use forge_core::{OwnerId, RunId, SandboxId, Task};
use forge_engine::Engine;
use forge_store::Store;
use tokio_util::sync::CancellationToken;

use crate::agent::Agent;
use crate::events::EventSink;
use crate::layout::RunLayout;
use crate::operator::Operator;
use crate::placement::Placement;

/// Asks a run to end: what waits never starts, what runs is ended and cleaned up.
#[derive(Debug, Clone, Default)]
pub struct Cancellation(CancellationToken);

impl Cancellation {
    /// Asks.
    pub fn cancel(&self) {
        self.0.cancel();
    }

    /// Whether somebody asked.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Resolves when somebody asks.
    pub async fn cancelled(&self) {
        self.0.cancelled().await;
    }
}

pub(crate) struct Context {
    pub engine: Arc<dyn Engine>,
    pub store: Store,
    pub events: EventSink,
    pub cancellation: Cancellation,
    pub run: RunId,
    pub owner: OwnerId,
    pub holder: String,
    pub layout: RunLayout,
    /// Cores of the engine's machine.
    pub cores: u64,
    /// Which of them are promised.
    pub placement: Arc<Placement>,
    /// What the operator decides.
    pub operator: Arc<dyn Operator>,
    /// Keep containers and volumes for inspection.
    pub keep: bool,
    /// First user slot of this run; its jobs count on from here.
    pub first_slot: u16,
}

/// One attempt to be made.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub task: Arc<Task>,
    pub agent: Agent,
    pub id: SandboxId,
    /// The how-manieth attempt at this task in this run, from 1.
    pub repetition: u32,
}
