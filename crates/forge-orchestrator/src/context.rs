//! What every attempt of a run shares.

use std::sync::Arc;
use std::time::Duration;

use forge_api::report::TaskReport;
use forge_core::{Attempt, OwnerId, RunId, SandboxId, Task};
use forge_engine::Engine;
use forge_plan::health::Judgement;
use forge_store::Store;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::agent::Agent;
use crate::events::EventSink;
use crate::layout::RunLayout;
use crate::observed::Observed;
use crate::operator::Operator;
use crate::placement::Placement;

/// Asks a run to end: first that nothing more starts, then that what runs is ended and cleaned up.
#[derive(Debug, Clone, Default)]
pub struct Cancellation {
    drain: CancellationToken,
    stop: CancellationToken,
}

impl Cancellation {
    /// Asks that nothing new begins, and that what runs goes on to its end.
    pub fn drain(&self) {
        self.drain.cancel();
    }

    /// Whether somebody asked for that.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.drain.is_cancelled()
    }

    /// Resolves when somebody asks for that.
    pub async fn draining(&self) {
        self.drain.cancelled().await;
    }

    /// Asks that what runs ends as well.
    pub fn cancel(&self) {
        self.stop.cancel();
    }

    /// Whether somebody asked.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Resolves when somebody asks.
    pub async fn cancelled(&self) {
        self.stop.cancelled().await;
    }

    /// One that is asked whenever this one is, and can be asked alone.
    pub(crate) fn child(&self) -> Self {
        Self {
            drain: self.drain.child_token(),
            stop: self.stop.child_token(),
        }
    }
}

/// What the loop of a run asks of one attempt.
#[derive(Debug, Clone, Default)]
pub(crate) struct Control {
    /// To end.
    pub cancellation: Cancellation,
    /// Not to linger any more.
    pub release: Cancellation,
}

pub(crate) struct Context {
    pub engine: Arc<dyn Engine>,
    pub store: Store,
    pub events: EventSink,
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
    /// Told of what happens to jobs while they run.
    pub news: mpsc::UnboundedSender<News>,
    /// How often this run was taken over: what sandboxes and the record know whose they are by.
    pub epoch: u64,
    /// What the engine told by itself.
    pub observed: Observed,
    /// Asked when another process has taken this run over: nothing may be touched any more.
    pub superseded: Cancellation,
}

/// What happened to a job.
#[derive(Debug)]
pub(crate) enum News {
    /// The engine has made its sandbox.
    Up {
        /// The job's number.
        number: u64,
        /// How long that took the engine.
        took: Duration,
    },
    /// Its sandbox does something else than before, or nothing.
    Health {
        /// The job's number.
        number: u64,
        /// What it is at.
        judgement: Judgement,
    },
    /// The engine lets nothing in a sandbox run, or everything again.
    Paused {
        /// The sandbox, whichever attempt it is of.
        sandbox: SandboxId,
        /// Whether nothing runs.
        is_paused: bool,
    },
    /// It ended, and its sandbox is kept for a while.
    Lingers {
        /// The job's number.
        number: u64,
        /// Whether that was asked for, and not only usual.
        firm: bool,
        /// Everything about it but the clean-up.
        report: Box<TaskReport>,
    },
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
    /// An earlier process had begun to make it, and had not come to the task's turn.
    pub is_stale: bool,
}

impl Job {
    /// The next try of the same.
    pub(crate) fn again(&self, run: &RunId) -> Self {
        let attempt = Attempt(self.attempt.0 + 1);
        Self {
            id: Self::id(&self.task, run, attempt, self.part.as_deref()),
            attempt,
            is_stale: false,
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
