//! How a sandbox is at one moment, as its PID 1 sees it.

use std::time::Duration;

/// How a sandbox is. What it means is decided from several of these, see `forge_plan::health`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Health {
    /// Whether the task's specification was in its place within the last seconds; `None` where it
    /// could not be looked for in time, as when a disk does not answer.
    pub specification: Option<bool>,
    /// The task's processes.
    pub processes: Processes,
    /// CPU time that the sandbox has used so far; `None` where the kernel's count cannot be read.
    pub cpu: Option<Duration>,
    /// Output of all commands so far, in bytes.
    pub output_bytes: u64,
}

/// The task's processes by what they do, without PID 1 and what the engine has started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Processes {
    /// On a processor or waiting for one.
    pub running: u32,
    /// Waiting for something, and to be interrupted.
    pub sleeping: u32,
    /// Stopped, by a signal or a tracer.
    pub stopped: u32,
    /// Waiting for a disk or the like, and not to be interrupted: not by SIGKILL either.
    pub blocked: u32,
    /// Ended, and their parents do not want to know.
    pub zombies: u32,
    /// Whether there are more, which were not counted.
    pub more: bool,
}

impl Processes {
    /// Those counted that have not ended.
    #[must_use]
    pub const fn living(&self) -> u32 {
        self.running
            .saturating_add(self.sleeping)
            .saturating_add(self.stopped)
            .saturating_add(self.blocked)
    }
}
