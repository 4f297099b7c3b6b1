//! Resource limits of a sandbox and the ceiling an operator sets on them.

use std::time::Duration;

use serde::Serialize;

/// Bytes in a mebibyte.
pub const MEBIBYTE: u64 = 1024 * 1024;
/// A workspace may hold one file for each of so many bytes of its size, unless a task says more.
pub const BYTES_PER_FILE: u64 = 16 * 1024;

/// What one sandbox may use. Every value is a hard limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Memory including page tables and tmpfs contents, in bytes; swap is not allowed on top.
    pub memory_bytes: u64,
    /// CPU quota in thousandths of a core.
    pub cpu_millis: u64,
    /// Size of the workspace in bytes.
    pub disk_bytes: u64,
    /// Files and folders in the workspace.
    pub disk_files: u64,
    /// Processes and threads of the task together.
    pub processes: u64,
    /// Size of `/tmp` in bytes; counts as memory.
    pub tmp_bytes: u64,
    /// Output of one phase, both streams together, in bytes; a phase that passes it is ended.
    pub output_bytes: u64,
    /// Bound on setup and solve together.
    #[serde(serialize_with = "seconds")]
    pub timeout: Duration,
    /// Bound on verification.
    #[serde(serialize_with = "seconds")]
    pub verify_timeout: Duration,
}

fn seconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(duration.as_secs())
}

/// The most an operator lets any task ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitCeiling {
    /// Memory, in bytes.
    pub memory_bytes: u64,
    /// CPU, in thousandths of a core.
    pub cpu_millis: u64,
    /// Workspace, in bytes.
    pub disk_bytes: u64,
    /// Processes and threads.
    pub processes: u64,
    /// Setup and solve, or verification.
    pub timeout: Duration,
    /// Output of one phase, in bytes.
    pub output_bytes: u64,
}

impl Default for LimitCeiling {
    /// Twice what `nightmare` gets; four hours; 4 GiB of output.
    fn default() -> Self {
        Self {
            memory_bytes: 16 * 1024 * MEBIBYTE,
            cpu_millis: 16_000,
            disk_bytes: 100 * 1024 * MEBIBYTE,
            processes: 2000,
            timeout: Duration::from_secs(14_400),
            output_bytes: 4096 * MEBIBYTE,
        }
    }
}

impl Limits {
    /// These limits on a machine with `cores` cores: a quota above what exists is clamped, since
    /// an engine refuses it. Returns the limits and whether they changed.
    #[must_use]
    pub fn clamped_to_cores(mut self, cores: u64) -> (Self, bool) {
        let available = cores.max(1) * 1000;
        let clamped = self.cpu_millis > available;
        self.cpu_millis = self.cpu_millis.min(available);
        (self, clamped)
    }
}

#[cfg(test)]
mod tests {
    use crate::Difficulty;

    #[test]
    fn a_quota_above_the_cores_that_exist_is_clamped_and_said() {
        let (limits, clamped) = Difficulty::Nightmare.limits().clamped_to_cores(2);
        assert_eq!((limits.cpu_millis, clamped), (2000, true));
        let (limits, clamped) = Difficulty::Easy.limits().clamped_to_cores(2);
        assert_eq!((limits.cpu_millis, clamped), (500, false));
    }

    #[test]
    fn verification_gets_the_same_time_but_at_most_ten_minutes() {
        let seconds = Difficulty::ALL.map(|each| each.limits().verify_timeout.as_secs());
        assert_eq!(seconds, [300, 600, 600, 600, 600]);
    }
}
