//! What an engine's host can give to sandboxes, and how much of it is promised to them.

use std::fmt;

use serde::Serialize;

/// What sandboxes share on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// Time on cores.
    Cpu,
    /// Memory.
    Memory,
    /// Room on the disk where workspaces are kept.
    Disk,
    /// Processes and threads.
    Processes,
}

impl Resource {
    /// All of them, in the order in which a shortage is looked for.
    pub const ALL: [Self; 4] = [Self::Memory, Self::Disk, Self::Processes, Self::Cpu];
}

impl fmt::Display for Resource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Cpu => "CPU",
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Processes => "processes",
        })
    }
}

/// So much of every resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Amount {
    /// Thousandths of a core.
    pub cpu_millis: u64,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Disk in bytes.
    pub disk_bytes: u64,
    /// Processes and threads.
    pub processes: u64,
}

impl Amount {
    /// Nothing of anything.
    pub const ZERO: Self = Self::same(0);
    /// The total of a host of which nothing is known: everything fits.
    pub const UNLIMITED: Self = Self::same(u64::MAX);

    const fn same(value: u64) -> Self {
        Self {
            cpu_millis: value,
            memory_bytes: value,
            disk_bytes: value,
            processes: value,
        }
    }

    /// How much of one resource.
    #[must_use]
    pub const fn get(&self, resource: Resource) -> u64 {
        match resource {
            Resource::Cpu => self.cpu_millis,
            Resource::Memory => self.memory_bytes,
            Resource::Disk => self.disk_bytes,
            Resource::Processes => self.processes,
        }
    }

    /// Both together, or `None` when one figure is too large for 64 bits.
    #[must_use]
    pub fn checked_add(&self, other: &Self) -> Option<Self> {
        self.combined(other, u64::checked_add)
    }

    /// What is left without `other`, or `None` when `other` has more of something.
    #[must_use]
    pub fn checked_sub(&self, other: &Self) -> Option<Self> {
        self.combined(other, u64::checked_sub)
    }

    /// Both together, at most [`u64::MAX`] of each.
    #[must_use]
    pub fn saturating_add(&self, other: &Self) -> Self {
        self.zipped(other, u64::saturating_add)
    }

    /// What is left without `other`, at least nothing of each.
    #[must_use]
    pub fn saturating_sub(&self, other: &Self) -> Self {
        self.zipped(other, u64::saturating_sub)
    }

    fn combined(&self, other: &Self, with: fn(u64, u64) -> Option<u64>) -> Option<Self> {
        Some(Self {
            cpu_millis: with(self.cpu_millis, other.cpu_millis)?,
            memory_bytes: with(self.memory_bytes, other.memory_bytes)?,
            disk_bytes: with(self.disk_bytes, other.disk_bytes)?,
            processes: with(self.processes, other.processes)?,
        })
    }

    fn zipped(&self, other: &Self, with: fn(u64, u64) -> u64) -> Self {
        Self {
            cpu_millis: with(self.cpu_millis, other.cpu_millis),
            memory_bytes: with(self.memory_bytes, other.memory_bytes),
            disk_bytes: with(self.disk_bytes, other.disk_bytes),
            processes: with(self.processes, other.processes),
        }
    }
}

/// How many times over each resource is promised, in thousandths: 4000 promises four times what
/// there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ratios {
    /// Of CPU: whoever wants more than is there only gets slower.
    pub cpu: u64,
    /// Of memory: who finds none of what was promised is killed, so 1000 unless one knows better.
    pub memory: u64,
    /// Of disk.
    pub disk: u64,
    /// Of processes.
    pub processes: u64,
}

impl Ratios {
    /// CPU four times over, everything else once.
    pub const DEFAULT: Self = Self {
        cpu: 4000,
        memory: 1000,
        disk: 1000,
        processes: 1000,
    };

    /// With disk promised four times over, for workspaces that take room only as they fill.
    #[must_use]
    pub const fn with_sparse_disk(mut self) -> Self {
        self.disk = 4000;
        self
    }

    /// What may be promised in all of a host that has `host` and keeps `reserve` for itself.
    #[must_use]
    pub fn total(&self, host: &Amount, reserve: &Amount) -> Amount {
        let ours = host.saturating_sub(reserve);
        Amount {
            cpu_millis: times(ours.cpu_millis, self.cpu),
            memory_bytes: times(ours.memory_bytes, self.memory),
            disk_bytes: times(ours.disk_bytes, self.disk),
            processes: times(ours.processes, self.processes),
        }
    }
}

impl Default for Ratios {
    fn default() -> Self {
        Self::DEFAULT
    }
}

fn times(value: u64, thousandths: u64) -> u64 {
    let product = u128::from(value) * u128::from(thousandths) / 1000;
    u64::try_from(product).unwrap_or(u64::MAX)
}

/// Why an amount does not fit: the first resource of which there is not enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Shortage {
    /// Of what; the figures are in the unit that [`Amount`] has for it.
    pub resource: Resource,
    /// How much was asked for.
    pub wanted: u64,
    /// How much of it is not promised.
    pub free: u64,
    /// How much of it can be promised at all.
    pub total: u64,
}

impl Shortage {
    /// Whether waiting is of no use: not even a host with nothing else on it has so much.
    #[must_use]
    pub const fn never(&self) -> bool {
        self.wanted > self.total
    }
}

impl fmt::Display for Shortage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { resource, .. } = self;
        // Rounded apart, so that it never reads as if it fitted.
        let wanted = in_words(*resource, self.wanted, true);
        let total = in_words(*resource, self.total, false);
        if self.never() {
            return write!(
                formatter,
                "{resource}: wants {wanted}, the host has {total} to give in all"
            );
        }
        let free = in_words(*resource, self.free, false);
        write!(
            formatter,
            "{resource}: wants {wanted}, {free} of {total} are free"
        )
    }
}

/// Bytes with a unit, one digit after the point, rounded up or down.
pub(crate) fn bytes_in_words(bytes: u64, up: bool) -> String {
    const UNITS: [(&str, u64); 4] = [
        ("TiB", 1 << 40),
        ("GiB", 1 << 30),
        ("MiB", 1 << 20),
        ("KiB", 1 << 10),
    ];
    match UNITS.iter().find(|(_, size)| bytes >= *size) {
        Some((name, size)) => format!("{} {name}", tenths(bytes, *size, up)),
        None => format!("{bytes} bytes"),
    }
}

fn in_words(resource: Resource, value: u64, up: bool) -> String {
    match resource {
        Resource::Memory | Resource::Disk => bytes_in_words(value, up),
        Resource::Cpu => format!("{} cores", tenths(value, 1000, up)),
        Resource::Processes => value.to_string(),
    }
}

fn tenths(value: u64, unit: u64, up: bool) -> String {
    let (value, unit) = (u128::from(value) * 10, u128::from(unit));
    let tenths = if up {
        value.div_ceil(unit)
    } else {
        value / unit
    };
    format!("{}.{}", tenths / 10, tenths % 10)
}

/// What can be promised of a host and what is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    total: Amount,
    promised: Amount,
}

impl Capacity {
    /// A host of which `total` may be promised ([`Ratios::total`]) and nothing is.
    #[must_use]
    pub const fn new(total: Amount) -> Self {
        Self {
            total,
            promised: Amount::ZERO,
        }
    }

    /// What may be promised in all.
    #[must_use]
    pub const fn total(&self) -> &Amount {
        &self.total
    }

    /// What is promised. More than the total after the total fell or was passed on purpose.
    #[must_use]
    pub const fn promised(&self) -> &Amount {
        &self.promised
    }

    /// The host turned out to have another total; promises stay.
    pub fn set_total(&mut self, total: Amount) {
        self.total = total;
    }

    /// Whether so much can be promised now. Of CPU everybody gets at most what there is, because a
    /// CPU limit above the host's is clamped to it.
    ///
    /// # Errors
    /// [`Shortage`] names the resource that is missing, first one that is never there.
    pub fn fits(&self, amount: &Amount) -> Result<(), Shortage> {
        let wanted = self.clamped(amount);
        let mut shortage = None;
        for resource in Resource::ALL {
            let total = self.total.get(resource);
            let found = Shortage {
                resource,
                wanted: wanted.get(resource),
                free: total.saturating_sub(self.promised.get(resource)),
                total,
            };
            if found.never() {
                return Err(found);
            }
            if found.wanted > found.free {
                shortage = shortage.or(Some(found));
            }
        }
        shortage.map_or(Ok(()), Err)
    }

    /// Promises `amount` and returns what was promised of it, which is what [`Capacity::release`]
    /// takes.
    ///
    /// # Errors
    /// As [`Capacity::fits`]; nothing is promised then.
    pub fn promise(&mut self, amount: &Amount) -> Result<Amount, Shortage> {
        self.fits(amount)?;
        Ok(self.promise_anyway(amount))
    }

    /// Promises `amount` whether it fits or not, for a sandbox that is there already.
    pub fn promise_anyway(&mut self, amount: &Amount) -> Amount {
        let before = self.promised;
        self.promised = before.saturating_add(&self.clamped(amount));
        self.promised.saturating_sub(&before)
    }

    /// Takes back what was promised.
    pub fn release(&mut self, promised: &Amount) {
        self.promised = self.promised.saturating_sub(promised);
    }

    /// Which part of the host `amount` is, in millionths, by the resource of which it has the
    /// largest part.
    #[must_use]
    pub fn share(&self, amount: &Amount) -> u64 {
        let shares = Resource::ALL.map(|resource| self.part(amount, resource));
        shares.into_iter().max().unwrap_or(0)
    }

    /// The part of one resource, in millionths.
    pub(crate) fn part(&self, amount: &Amount, resource: Resource) -> u64 {
        let total = u128::from(self.total.get(resource).max(1));
        let part = u128::from(amount.get(resource)) * 1_000_000 / total;
        u64::try_from(part).unwrap_or(u64::MAX)
    }

    fn clamped(&self, amount: &Amount) -> Amount {
        Amount {
            cpu_millis: amount.cpu_millis.min(self.total.cpu_millis),
            ..*amount
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GIB: u64 = 1 << 30;

    fn amount(cpu_millis: u64, memory_bytes: u64) -> Amount {
        Amount {
            cpu_millis,
            memory_bytes,
            disk_bytes: GIB,
            processes: 10,
        }
    }

    fn host() -> Amount {
        Amount {
            cpu_millis: 2000,
            memory_bytes: 16 * GIB,
            disk_bytes: 100 * GIB,
            processes: 1000,
        }
    }

    #[test]
    fn the_total_is_the_host_without_its_reserve_times_the_ratios() {
        let reserve = amount(0, 2 * GIB);
        let total = Ratios::DEFAULT.total(&host(), &reserve);
        assert_eq!(total.cpu_millis, 8000);
        assert_eq!(total.memory_bytes, 14 * GIB);
        assert_eq!(total.disk_bytes, 99 * GIB);
        assert_eq!(total.processes, 990);
        let sparse = Ratios::DEFAULT.with_sparse_disk().total(&host(), &reserve);
        assert_eq!(sparse.disk_bytes, 4 * 99 * GIB);
        let unknown = Ratios::DEFAULT.total(&Amount::UNLIMITED, &Amount::ZERO);
        assert_eq!(unknown.cpu_millis, u64::MAX);
    }

    #[test]
    fn a_shortage_says_what_is_missing_in_plain_words() {
        let mut capacity = Capacity::new(amount(8000, 14 * GIB));
        capacity.promise(&amount(1000, 13 * GIB)).unwrap();
        let shortage = capacity.fits(&amount(0, 2 * GIB)).unwrap_err();
        assert!(!shortage.never());
        assert_eq!(
            shortage.to_string(),
            "memory: wants 2.0 GiB, 1.0 GiB of 14.0 GiB are free"
        );
        let never = capacity.fits(&amount(0, 14 * GIB + 1)).unwrap_err();
        assert!(never.never());
        assert_eq!(
            never.to_string(),
            "memory: wants 14.1 GiB, the host has 14.0 GiB to give in all"
        );
    }

    #[test]
    fn what_is_never_there_is_named_before_what_is_promised_away() {
        let mut capacity = Capacity::new(amount(8000, GIB));
        capacity.promise(&amount(0, GIB)).unwrap();
        let wanted = Amount {
            processes: 11,
            ..amount(0, GIB)
        };
        let shortage = capacity.fits(&wanted).unwrap_err();
        assert_eq!(shortage.resource, Resource::Processes);
        assert_eq!(
            shortage.to_string(),
            "processes: wants 11, the host has 10 to give in all"
        );
    }

    #[test]
    fn more_cores_than_the_host_has_are_clamped_and_not_refused() {
        let mut capacity = Capacity::new(amount(2000, GIB));
        let promised = capacity.promise(&Amount {
            cpu_millis: 8000,
            ..Amount::ZERO
        });
        assert_eq!(promised.map(|amount| amount.cpu_millis), Ok(2000));
        let shortage = capacity.fits(&amount(500, 0)).unwrap_err();
        assert_eq!(
            shortage.to_string(),
            "CPU: wants 0.5 cores, 0.0 cores of 2.0 cores are free"
        );
    }

    #[test]
    fn what_is_promised_stays_so_when_the_total_falls() {
        let mut capacity = Capacity::new(amount(2000, 4 * GIB));
        let promised = capacity.promise(&amount(2000, 4 * GIB)).unwrap();
        capacity.set_total(amount(1000, 2 * GIB));
        assert_eq!(capacity.fits(&amount(0, 1)).unwrap_err().free, 0);
        capacity.release(&promised);
        assert_eq!(capacity.promised(), &Amount::ZERO);
        assert_eq!(capacity.fits(&amount(1000, 2 * GIB)), Ok(()));
    }

    #[test]
    fn sums_that_do_not_fit_are_not_wrapped() {
        assert_eq!(Amount::UNLIMITED.checked_add(&amount(1, 0)), None);
        assert_eq!(amount(0, 0).checked_sub(&amount(1, 0)), None);
        assert_eq!(
            amount(3, 5).checked_sub(&amount(3, 5)),
            Some(Amount::ZERO),
            "equal amounts leave nothing"
        );
    }

    proptest! {
        #[test]
        fn promises_never_pass_the_total_and_come_back_whole(
            wants in prop::collection::vec((0_u64..5000, 0_u64..5), 0..40),
        ) {
            let total = amount(4000, 8);
            let total = Amount { disk_bytes: 8 * GIB, processes: 70, ..total };
            let mut capacity = Capacity::new(total);
            let mut promised = Vec::new();
            for (cpu, memory) in wants {
                if let Ok(got) = capacity.promise(&amount(cpu, memory)) {
                    promised.push(got);
                }
                prop_assert!(total.checked_sub(capacity.promised()).is_some());
            }
            for got in &promised {
                capacity.release(got);
            }
            prop_assert_eq!(capacity.promised(), &Amount::ZERO);
        }
    }
}
