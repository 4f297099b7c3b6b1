//! The five difficulties, from which a task's limits follow.

use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::limits::{BYTES_PER_FILE, Limits, MEBIBYTE};

/// How hard a task is said to be; decides the limits it gets unless it overrides them.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Difficulty {
    /// 512 MB, 0.5 cores, 2 GB disk, 50 processes, 300 s.
    Easy,
    /// 1 GB, 1 core, 5 GB disk, 100 processes, 900 s.
    Medium,
    /// 2 GB, 2 cores, 10 GB disk, 200 processes, 1,800 s.
    Hard,
    /// 4 GB, 4 cores, 20 GB disk, 500 processes, 3,600 s.
    Expert,
    /// 8 GB, 8 cores, 50 GB disk, 1,000 processes, 7,200 s.
    Nightmare,
}

impl Difficulty {
    /// All difficulties, easiest first.
    pub const ALL: [Self; 5] = [
        Self::Easy,
        Self::Medium,
        Self::Hard,
        Self::Expert,
        Self::Nightmare,
    ];

    /// The name used in files and labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Easy => "easy",
            Self::Medium => "medium",
            Self::Hard => "hard",
            Self::Expert => "expert",
            Self::Nightmare => "nightmare",
        }
    }

    /// The limits of this difficulty, as the design's table sets them.
    #[must_use]
    pub const fn limits(self) -> Limits {
        let (memory_mb, cpu_millis, disk_gb, processes, timeout_seconds) = match self {
            Self::Easy => (512, 500, 2, 50, 300),
            Self::Medium => (1024, 1000, 5, 100, 900),
            Self::Hard => (2048, 2000, 10, 200, 1800),
            Self::Expert => (4096, 4000, 20, 500, 3600),
            Self::Nightmare => (8192, 8000, 50, 1000, 7200),
        };
        let verify_seconds = if timeout_seconds < 600 {
            timeout_seconds
        } else {
            600
        };
        Limits {
            memory_bytes: memory_mb * MEBIBYTE,
            cpu_millis,
            disk_bytes: disk_gb * 1024 * MEBIBYTE,
            disk_files: disk_gb * 1024 * MEBIBYTE / BYTES_PER_FILE,
            processes,
            tmp_bytes: 256 * MEBIBYTE,
            output_bytes: 256 * MEBIBYTE,
            timeout: Duration::from_secs(timeout_seconds),
            verify_timeout: Duration::from_secs(verify_seconds),
        }
    }
}

impl fmt::Display for Difficulty {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}
