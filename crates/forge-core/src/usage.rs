//! What a sandbox used.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Counters of a sandbox, read from its control groups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ResourceUsage {
    /// Highest memory use seen, in bytes.
    pub memory_peak_bytes: u64,
    /// CPU time, user and system, in seconds.
    pub cpu_seconds: f64,
    /// Most processes and threads seen at once.
    pub pids_peak: u64,
    /// Processes that the kernel killed for want of memory.
    pub oom_kills: u64,
    /// Forks and clones refused by the process limit.
    pub pids_refused: u64,
    /// Largest size of the workspace seen, in bytes.
    pub disk_peak_bytes: u64,
    /// Whether the workspace was seen with no room left for bytes or files.
    #[serde(default)]
    pub disk_full: bool,
}

impl ResourceUsage {
    /// The use of two sandboxes of one task that ran one after the other.
    #[must_use]
    pub fn followed_by(self, later: Self) -> Self {
        Self {
            memory_peak_bytes: self.memory_peak_bytes.max(later.memory_peak_bytes),
            cpu_seconds: self.cpu_seconds + later.cpu_seconds,
            pids_peak: self.pids_peak.max(later.pids_peak),
            oom_kills: self.oom_kills + later.oom_kills,
            pids_refused: self.pids_refused + later.pids_refused,
            disk_peak_bytes: self.disk_peak_bytes.max(later.disk_peak_bytes),
            disk_full: self.disk_full || later.disk_full,
        }
    }
}
