//! What a run tells whoever watches it.

use std::time::Duration;

use forge_api::report::TaskReport;
use forge_core::life_cycle::StateName;
use forge_core::{PhaseName, SandboxId, TaskId};
use tokio::sync::mpsc;

/// Something happened in a run.
#[derive(Debug, Clone)]
pub enum RunEvent {
    /// An attempt left the queue.
    Started {
        /// The attempt.
        id: SandboxId,
        /// Its task.
        task: TaskId,
        /// Its agent.
        agent: &'static str,
    },
    /// An attempt changed its state.
    State {
        /// The attempt.
        id: SandboxId,
        /// Its state now.
        state: StateName,
    },
    /// A phase began.
    Phase {
        /// The attempt.
        id: SandboxId,
        /// The phase.
        phase: PhaseName,
    },
    /// A sandbox is not as it should be, or is again.
    Health {
        /// The attempt.
        id: SandboxId,
        /// What is unusual, for a person; `None` when nothing is.
        remark: Option<String>,
    },
    /// An attempt ended by the infrastructure and does not count: another one is made.
    Again {
        /// The attempt that ended.
        id: SandboxId,
        /// The one that will be made.
        next: SandboxId,
        /// How long it waits before.
        pause: Duration,
        /// What happened.
        message: String,
    },
    /// An attempt ended, and what could be removed is removed.
    Ended {
        /// The attempt.
        id: SandboxId,
        /// Everything about it.
        report: Box<TaskReport>,
    },
    /// The run was begun by another process, and this one has found out how far it is.
    Resumed {
        /// Attempts that had ended, and count.
        ended: Vec<TaskReport>,
        /// Attempts that are gone on with.
        under_way: u64,
        /// Attempts that had begun, had not come to their task's turn, and begin anew.
        anew: u64,
        /// Attempts that wait.
        waiting: u64,
    },
    /// Nothing more is started; what runs goes on.
    Draining,
    /// Cancellation was asked for.
    Cancelling,
}

/// Where events go; a watcher that left is no reason to stop.
#[derive(Debug, Clone)]
pub struct EventSink(Option<mpsc::UnboundedSender<RunEvent>>);

impl EventSink {
    /// A sink and its receiving end.
    #[must_use]
    pub fn channel() -> (Self, mpsc::UnboundedReceiver<RunEvent>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(Some(sender)), receiver)
    }

    /// A sink that forgets.
    #[must_use]
    pub const fn none() -> Self {
        Self(None)
    }

    pub(crate) fn send(&self, event: RunEvent) {
        if let Some(sender) = &self.0 {
            // A watcher that left misses the event, and that is its choice.
            sender.send(event).ok();
        }
    }
}
