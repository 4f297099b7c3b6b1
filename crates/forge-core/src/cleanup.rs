//! What is removed when a task ends, and when.

use std::time::Duration;

/// Clean-up settings of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CleanupPolicy {
    /// Remove container and volumes of a completed task.
    pub on_success: bool,
    /// The same for a failed one.
    pub on_failure: bool,
    /// The same for one that passed a deadline.
    pub on_timeout: bool,
    /// Keep the logs of the phases.
    pub preserve_logs: bool,
    /// Keep the artifacts.
    pub preserve_artifacts: bool,
    /// No container outlives this, whatever happens to the orchestrator.
    pub max_lifetime: Duration,
}

impl Default for CleanupPolicy {
    fn default() -> Self {
        Self {
            on_success: true,
            on_failure: true,
            on_timeout: true,
            preserve_logs: true,
            preserve_artifacts: true,
            max_lifetime: Duration::from_secs(7260),
        }
    }
}
