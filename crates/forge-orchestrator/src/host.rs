//! How the engine's host is doing, as far as this process can see it: memory, disk, and how long
//! programs wait for either.

use std::fs;
use std::path::PathBuf;

use forge_engine::EngineDescription;
use forge_plan::hold::Measured;
use nix::sys::statvfs::statvfs;

const MEMORY: &str = "/proc/meminfo";
const MEMORY_PRESSURE: &str = "/proc/pressure/memory";
const DISK_PRESSURE: &str = "/proc/pressure/io";
const KIBIBYTE: u64 = 1024;

/// A host that this process is on itself.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    /// Where the engine keeps containers and volumes.
    data: PathBuf,
}

impl Host {
    /// The engine's host, or `None` when it is another machine than this process sees.
    pub(crate) fn of(engine: &EngineDescription) -> Option<Self> {
        engine.shares_disk.then(|| Self {
            data: PathBuf::from(&engine.data_root),
        })
    }

    /// Bytes free on the engine's disk and its size; `None` when the system does not tell.
    pub(crate) fn disk(&self) -> Option<(u64, u64)> {
        let found = statvfs(&self.data).ok()?;
        let block = found.fragment_size();
        Some((
            found.blocks_available().saturating_mul(block),
            found.blocks().saturating_mul(block),
        ))
    }

    /// All of it now; `None` when the system does not tell memory or disk.
    pub(crate) fn measure(&self) -> Option<Measured> {
        let memory = fs::read_to_string(MEMORY).ok()?;
        let (disk_free, disk_total) = self.disk()?;
        // A kernel without figures of waiting has no such files.
        let waiting = |file, kind| stalled(&fs::read_to_string(file).ok()?, kind);
        Some(Measured {
            memory_available: amount(&memory, "MemAvailable:")?,
            memory_total: amount(&memory, "MemTotal:")?,
            disk_free,
            disk_total,
            psi_memory_some10: waiting(MEMORY_PRESSURE, "some"),
            psi_io_full10: waiting(DISK_PRESSURE, "full"),
        })
    }
}

/// Bytes of one line of `/proc/meminfo`.
fn amount(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kibibytes.saturating_mul(KIBIBYTE))
}

/// Percent of the last ten seconds in which programs waited: `kind` is `some` or `full`.
fn stalled(text: &str, kind: &str) -> Option<f32> {
    let line = text.lines().find(|line| line.starts_with(kind))?;
    let mut fields = line.split_whitespace();
    fields.find_map(|field| field.strip_prefix("avg10=")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_bytes() {
        let text = "MemTotal:       24626300 kB\nMemFree:  100 kB\nMemAvailable:   23000000 kB\n";
        assert_eq!(amount(text, "MemAvailable:"), Some(23_000_000 * 1024));
        assert_eq!(amount(text, "MemTotal:"), Some(24_626_300 * 1024));
        assert_eq!(amount("MemTotal: x kB\n", "MemTotal:"), None);
        assert_eq!(amount(text, "Absent:"), None);
    }

    #[test]
    fn waiting_is_read_for_its_kind() {
        let text = "some avg10=1.25 avg60=0.00 avg300=0.00 total=1\n\
                    full avg10=0.50 avg60=0.00 avg300=0.00 total=1\n";
        assert_eq!(stalled(text, "some"), Some(1.25));
        assert_eq!(stalled(text, "full"), Some(0.5));
        assert_eq!(stalled("", "full"), None);
    }

    #[test]
    fn this_machine_can_be_measured() {
        let host = Host {
            data: PathBuf::from("/"),
        };
        let measured = host.measure().unwrap();
        assert!(measured.memory_available <= measured.memory_total);
        assert!(measured.disk_free <= measured.disk_total && measured.disk_total > 0);
    }
}
