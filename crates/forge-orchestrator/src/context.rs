//! What every attempt of a run shares.

use std::sync::Arc;
use std::time::Duration;

use forge_core::{Attempt, OwnerId, RunId, SandboxId, Task};
use forge_engine::Engine;
use forge_store::Store;
use tokio::sync::mpsc;
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
    /// Told of every job whose sandbox is there.
    pub ups: mpsc::UnboundedSender<Up>,
}

/// The engine has made the sandbox of a job.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Up {
    /// The job's number.
    pub number: u64,
    /// How long that took the engine.
    pub took: Duration,
}

/// One attempt to be made: a task, an agent, and which try it is.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    /// Its place among the jobs of the run, which stays from try to try.
    pub number: u64,
    pub task: Arc<Task>,
    pub agent: Agent,
    pub id: SandboxId,
    /// What its id ends with, where a run has several jobs of one task.
    pub part: Option<String>,
    /// The how-manieth try it is; the one before ended by the infrastructure.
    pub attempt: Attempt,
    /// The how-manieth attempt at this task in this run, from 1.
    pub repetition: u32,
}

impl Job {
    /// The next try of the same.
    pub(crate) fn again(&self, run: &RunId) -> Self {
        let attempt = Attempt(self.attempt.0 + 1);
        Self {
            id: Self::id(&self.task, run, attempt, self.part.as_deref()),
            attempt,
            ..self.clone()
        }
    }

    /// The name of a try.
    pub(crate) fn id(task: &Task, run: &RunId, attempt: Attempt, part: Option<&str>) -> SandboxId {
        let id = SandboxId::for_attempt(&task.id, run, attempt);
        match part {
            Some(part) => id.with_part(part),
            None => id,
        }
    }
}
