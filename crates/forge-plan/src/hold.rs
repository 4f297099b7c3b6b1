//! Whether a host is under so much pressure that nothing new should start on it.
//!
//! A host that stops admitting in time does not come to killing. What holds starts back lets go
//! only when things are clearly better, or every start that is let through would bring the hold
//! back.

use std::fmt;

use crate::capacity::bytes_in_words;

/// What was measured of a host.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// Memory that can be had without swapping, in bytes.
    pub memory_available: u64,
    /// Memory in all, in bytes; 0 when it is not known.
    pub memory_total: u64,
    /// Room where workspaces are kept, in bytes.
    pub disk_free: u64,
    /// Size of that file system, in bytes; 0 when it is not known.
    pub disk_total: u64,
    /// Part of the last ten seconds in which something waited for memory, in percent, where the
    /// kernel says so.
    pub psi_memory_some10: Option<f32>,
    /// Part of the last ten seconds in which everything waited for disks, in percent.
    pub psi_io_full10: Option<f32>,
}

/// At which figures nothing new starts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HoldPolicy {
    /// Less available memory than this holds, in bytes.
    pub memory_reserve: u64,
    /// Less room on the disk than this holds, in bytes.
    pub disk_reserve: u64,
    /// More percent of time in which something waits for memory than this holds.
    pub psi_memory_some: f32,
    /// More percent of time in which everything waits for disks than this holds.
    pub psi_io_full: f32,
}

impl HoldPolicy {
    /// The reserves that suit a host: a twentieth of its memory and of its disk, at most 4 GiB and
    /// 10 GiB, and bounds on waiting at which work hardly gets on.
    #[must_use]
    pub fn for_host(memory_total: u64, disk_total: u64) -> Self {
        const GIB: u64 = 1 << 30;
        Self {
            memory_reserve: (memory_total / 20).min(4 * GIB),
            disk_reserve: (disk_total / 20).min(10 * GIB),
            psi_memory_some: 20.0,
            psi_io_full: 60.0,
        }
    }
}

/// How a host is doing.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Pressure {
    /// Well enough for more.
    #[default]
    Calm,
    /// Memory is nearly used up.
    MemoryShort {
        /// Bytes available.
        available: u64,
        /// Starts wait until so many are.
        until: u64,
    },
    /// The disk is nearly full.
    DiskShort {
        /// Bytes free.
        free: u64,
        /// Starts wait until so many are.
        until: u64,
    },
    /// Programs wait for memory.
    MemoryStalls {
        /// Percent of the time.
        percent: f32,
        /// Starts wait until it is less than this.
        until: f32,
    },
    /// Programs wait for disks.
    IoStalls {
        /// Percent of the time.
        percent: f32,
        /// Starts wait until it is less than this.
        until: f32,
    },
}

impl Pressure {
    /// The only transition: what new measurements make of it.
    ///
    /// A figure that begins to hold has passed its bound; one that goes on holding is not yet back
    /// by a quarter of a reserve, or a quarter of a bound on waiting.
    #[must_use]
    pub fn next(self, policy: &HoldPolicy, measured: &Measured) -> Self {
        let memory = short(
            (measured.memory_available, measured.memory_total),
            policy.memory_reserve,
            matches!(self, Self::MemoryShort { .. }),
        );
        let disk = short(
            (measured.disk_free, measured.disk_total),
            policy.disk_reserve,
            matches!(self, Self::DiskShort { .. }),
        );
        let memory_stalls = stalls(
            measured.psi_memory_some10,
            policy.psi_memory_some,
            matches!(self, Self::MemoryStalls { .. }),
        );
        let io_stalls = stalls(
            measured.psi_io_full10,
            policy.psi_io_full,
            matches!(self, Self::IoStalls { .. }),
        );
        if let Some((available, until)) = memory {
            Self::MemoryShort { available, until }
        } else if let Some((free, until)) = disk {
            Self::DiskShort { free, until }
        } else if let Some((percent, until)) = memory_stalls {
            Self::MemoryStalls { percent, until }
        } else if let Some((percent, until)) = io_stalls {
            Self::IoStalls { percent, until }
        } else {
            Self::Calm
        }
    }

    /// Whether nothing new should start.
    #[must_use]
    pub const fn holds(&self) -> bool {
        !matches!(self, Self::Calm)
    }

    /// Why nothing new starts, one line for a person.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        self.holds().then(|| self.to_string())
    }
}

impl fmt::Display for Pressure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Calm => formatter.write_str("the host has room for more"),
            Self::MemoryShort { available, until } => write!(
                formatter,
                "the host has {} of memory left; nothing starts until it has {}",
                bytes_in_words(*available, false),
                bytes_in_words(*until, true)
            ),
            Self::DiskShort { free, until } => write!(
                formatter,
                "the host has {} of disk left; nothing starts until it has {}",
                bytes_in_words(*free, false),
                bytes_in_words(*until, true)
            ),
            Self::MemoryStalls { percent, until } => write!(
                formatter,
                "programs on the host wait for memory {percent:.0} % of the time; nothing starts \
                 until it is less than {until:.0} %"
            ),
            Self::IoStalls { percent, until } => write!(
                formatter,
                "programs on the host wait for disks {percent:.0} % of the time; nothing starts \
                 until it is less than {until:.0} %"
            ),
        }
    }
}

/// What is left and how much it has to become, when `(left, total)` is too little.
fn short((left, total): (u64, u64), reserve: u64, holds: bool) -> Option<(u64, u64)> {
    // More than there is in all could never be left.
    let reserve = reserve.min(total);
    let until = reserve.saturating_add(reserve / 4).min(total);
    let bound = if holds { until } else { reserve };
    (total > 0 && left < bound).then_some((left, until))
}

/// Percent of waiting and what it has to fall below, when it is too much.
fn stalls(percent: Option<f32>, bound: f32, holds: bool) -> Option<(f32, f32)> {
    let (percent, until) = (percent?, bound * 0.75);
    let passed = if holds {
        percent >= until
    } else {
        percent > bound
    };
    passed.then_some((percent, until))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    const CALM: Measured = Measured {
        memory_available: 8 * GIB,
        memory_total: 16 * GIB,
        disk_free: 50 * GIB,
        disk_total: 100 * GIB,
        psi_memory_some10: Some(0.0),
        psi_io_full10: None,
    };

    fn policy() -> HoldPolicy {
        HoldPolicy {
            memory_reserve: GIB,
            ..HoldPolicy::for_host(CALM.memory_total, CALM.disk_total)
        }
    }

    fn memory(available: u64) -> Measured {
        Measured {
            memory_available: available,
            ..CALM
        }
    }

    #[test]
    fn a_calm_host_holds_nothing() {
        let pressure = Pressure::default().next(&policy(), &CALM);
        assert_eq!(pressure, Pressure::Calm);
        assert_eq!(pressure.reason(), None);
    }

    #[test]
    fn little_memory_holds_until_there_is_clearly_more() {
        let policy = policy();
        let pressed = Pressure::Calm.next(&policy, &memory(GIB - 1));
        assert_eq!(
            pressed.reason().unwrap(),
            "the host has 1023.9 MiB of memory left; nothing starts until it has 1.3 GiB"
        );
        assert!(pressed.next(&policy, &memory(GIB + GIB / 5)).holds());
        assert!(!pressed.next(&policy, &memory(GIB + GIB / 4)).holds());
        let at_the_reserve = Pressure::Calm.next(&policy, &memory(GIB));
        assert!(!at_the_reserve.holds());
    }

    #[test]
    fn a_nearly_full_disk_holds() {
        let full = Measured {
            disk_free: 4 * GIB,
            ..CALM
        };
        let pressed = Pressure::Calm.next(&policy(), &full);
        assert_eq!(
            pressed.reason().unwrap(),
            "the host has 4.0 GiB of disk left; nothing starts until it has 6.3 GiB"
        );
    }

    #[test]
    fn waiting_for_memory_or_disks_holds_where_the_kernel_tells() {
        let policy = policy();
        let stalled = |memory: f32, io: f32| Measured {
            psi_memory_some10: Some(memory),
            psi_io_full10: Some(io),
            ..CALM
        };
        let pressed = Pressure::Calm.next(&policy, &stalled(21.0, 0.0));
        assert!(pressed.holds());
        assert!(pressed.next(&policy, &stalled(16.0, 0.0)).holds());
        assert!(!pressed.next(&policy, &stalled(14.0, 0.0)).holds());
        let io = Pressure::Calm.next(&policy, &stalled(0.0, 61.0));
        assert_eq!(
            io.reason().unwrap(),
            "programs on the host wait for disks 61 % of the time; nothing starts until it is less \
             than 45 %"
        );
        assert!(
            !Pressure::Calm
                .next(&policy, &stalled(f32::NAN, 0.0))
                .holds()
        );
    }

    #[test]
    fn one_pressure_takes_over_from_another() {
        let policy = policy();
        let both = Measured {
            disk_free: GIB,
            ..memory(0)
        };
        let pressed = Pressure::Calm.next(&policy, &both);
        assert!(matches!(pressed, Pressure::MemoryShort { .. }));
        let disk_only = Measured {
            disk_free: GIB,
            ..CALM
        };
        let pressed = pressed.next(&policy, &disk_only);
        assert!(matches!(pressed, Pressure::DiskShort { .. }));
    }

    #[test]
    fn what_is_not_known_does_not_hold() {
        let unknown = Measured {
            memory_available: 0,
            memory_total: 0,
            disk_free: 0,
            disk_total: 0,
            psi_memory_some10: None,
            psi_io_full10: None,
        };
        assert!(!Pressure::Calm.next(&policy(), &unknown).holds());
    }

    #[test]
    fn a_reserve_as_large_as_the_host_still_lets_go() {
        let policy = HoldPolicy {
            memory_reserve: 100 * GIB,
            ..policy()
        };
        let pressed = Pressure::Calm.next(&policy, &memory(GIB));
        assert!(pressed.holds());
        let idle = pressed.next(&policy, &memory(16 * GIB));
        assert!(!idle.holds());
        assert!(!idle.next(&policy, &memory(16 * GIB)).holds());
    }
}
