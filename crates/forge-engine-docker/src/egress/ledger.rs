//! What is known of one sandbox's connections until somebody asks for it.

use std::collections::VecDeque;

use forge_core::connection::{ConnectionRecord, ConnectionVerdict, EgressCounters};
use forge_core::egress::EgressLimits;
use forge_engine::EgressRecords;

/// Records kept for a sandbox that nobody asks about; later ones are only counted.
pub(super) const MOST_RECORDS: usize = 10_000;

/// The records of one sandbox that nobody has taken, and the sum of all that is known.
///
/// The proxy counts for itself, connections that are still open included, but a proxy that is lost
/// takes its counts with it. So this counts as well, and knows for each direction the larger of
/// what the proxy said last and what its records add up to.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    records: VecDeque<ConnectionRecord>,
    /// Of proxies that are gone.
    earlier: EgressCounters,
    /// What records of the running proxy add up to.
    noted: EgressCounters,
    /// What the running proxy said last.
    reported: EgressCounters,
    /// Records of the running proxy that an engine before this one handed on.
    taken_before: u64,
    /// Records of the running proxy that it sent and that never came.
    missing: u64,
    /// The number of the last record of the running proxy, until that is known to have been taken.
    last: Option<u64>,
    /// Records for which there was no room here.
    dropped: u64,
    /// Whether a proxy was lost since records were taken last, and nobody knows with what, or the
    /// sandbox was cut off from it.
    lost: bool,
    bound: Bound,
}

/// Bytes, by direction.
#[derive(Debug, Clone, Copy, Default)]
struct Moved {
    up: u64,
    down: u64,
}

impl Moved {
    const fn of(counters: &EgressCounters) -> Self {
        Self {
            up: counters.bytes_up,
            down: counters.bytes_down,
        }
    }

    const fn plus(self, other: Self) -> Self {
        Self {
            up: self.up.saturating_add(other.up),
            down: self.down.saturating_add(other.down),
        }
    }

    const fn minus(self, other: Self) -> Self {
        Self {
            up: self.up.saturating_sub(other.up),
            down: self.down.saturating_sub(other.down),
        }
    }
}

/// What of the limits of a phase is used up with proxies that are gone. The running proxy counts
/// for itself.
#[derive(Debug, Default)]
struct Bound {
    spent: Moved,
    /// What had been moved with the running proxy when the phase began.
    mark: Moved,
    /// Whether any proxy was given these limits.
    granted: bool,
    /// Whether a proxy that is gone may have been given them by an engine before this one.
    halved: bool,
}

impl Ledger {
    /// Takes in the record of a connection that ended, which has this number at the running proxy.
    pub(super) fn note(&mut self, number: u64, record: ConnectionRecord) {
        self.last = Some(number);
        let noted = &mut self.noted;
        match record.verdict {
            ConnectionVerdict::Allowed => noted.allowed = noted.allowed.saturating_add(1),
            ConnectionVerdict::Denied => noted.denied = noted.denied.saturating_add(1),
        }
        noted.bytes_up = noted.bytes_up.saturating_add(record.bytes_up);
        noted.bytes_down = noted.bytes_down.saturating_add(record.bytes_down);
        if self.records.len() < MOST_RECORDS {
            self.records.push_back(record);
        } else {
            self.dropped = self.dropped.saturating_add(1);
        }
    }

    /// How many records wait to be taken.
    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    /// Takes in what the proxy says that it counted. The records of all connections that it counts
    /// have come before: what has not is lost on the way.
    pub(super) fn report(&mut self, counters: EgressCounters) {
        let ended = counters.allowed.saturating_add(counters.denied);
        let came = self.noted.allowed.saturating_add(self.noted.denied);
        let missing = ended
            .saturating_sub(counters.unrecorded)
            .saturating_sub(self.taken_before)
            .saturating_sub(came);
        self.missing = self.missing.max(missing);
        self.reported = counters;
    }

    /// What is known of the running proxy.
    fn current(&self) -> EgressCounters {
        let (noted, reported) = (&self.noted, &self.reported);
        EgressCounters {
            allowed: reported.allowed.max(noted.allowed),
            denied: reported.denied.max(noted.denied),
            bytes_up: reported.bytes_up.max(noted.bytes_up),
            bytes_down: reported.bytes_down.max(noted.bytes_down),
            unrecorded: reported.unrecorded.saturating_add(self.missing),
        }
    }

    fn total(&self) -> EgressCounters {
        let (earlier, current) = (&self.earlier, self.current());
        EgressCounters {
            allowed: earlier.allowed.saturating_add(current.allowed),
            denied: earlier.denied.saturating_add(current.denied),
            bytes_up: earlier.bytes_up.saturating_add(current.bytes_up),
            bytes_down: earlier.bytes_down.saturating_add(current.bytes_down),
            unrecorded: earlier.unrecorded.saturating_add(current.unrecorded),
        }
    }

    /// Begins with what an engine before this one left at the running proxy, whose records that were
    /// not taken have come.
    pub(super) fn inherit(&mut self, counters: EgressCounters, taken: u64) {
        self.taken_before = taken;
        self.report(counters);
        self.lost |= self.missing > 0;
        // How much of it was moved in this phase only the running proxy knows. Should that be
        // lost, all of it counts.
        self.bound.granted = true;
    }

    /// Begins with nothing where an engine before this one had set a policy: the proxy that it was
    /// set at is gone, and nobody knows what it let through. As in [`Self::proxy_lost`], half of
    /// what it may have granted goes off the limits of the first phase.
    pub(super) fn inherit_nothing(&mut self) {
        self.lost = true;
        self.bound.halved = true;
    }

    /// The number of the last record, when records have been handed out since this was asked last.
    pub(super) fn handed_out(&mut self) -> Option<u64> {
        self.last.take()
    }

    /// Nobody knows whether the proxy has got to know that the records up to this number were
    /// handed out.
    pub(super) fn not_told(&mut self, number: u64) {
        self.last = self.last.max(Some(number));
    }

    /// Another phase or level begins, for which the proxy counts from nothing.
    pub(super) fn begin(&mut self) {
        self.bound = Bound {
            mark: Moved::of(&self.current()),
            ..Bound::default()
        };
    }

    /// The limits that the running proxy gets instead of `limits`.
    pub(super) fn grant(&mut self, limits: EgressLimits) -> EgressLimits {
        if std::mem::take(&mut self.bound.halved) {
            self.bound.spent = Moved {
                up: limits.upload_bytes.div_ceil(2),
                down: limits.download_bytes.div_ceil(2),
            };
        }
        self.bound.granted = true;
        let spent = self.bound.spent;
        EgressLimits {
            upload_bytes: limits.upload_bytes.saturating_sub(spent.up),
            download_bytes: limits.download_bytes.saturating_sub(spent.down),
            ..limits
        }
    }

    /// The running proxy is gone, with the counts that it had not told.
    ///
    /// What is known to be used up is taken off the limits. What it had not told may be anything
    /// up to all that was left, so half of that goes as well: however often proxies are lost, they
    /// let through less than twice the limits together, and a sandbox that moved little still has
    /// its network.
    ///
    /// Without limits where it is not known which ones an engine before this one had set.
    pub(super) fn proxy_lost(&mut self, limits: Option<&EgressLimits>) {
        let current = self.current();
        if let Some(limits) = limits.filter(|_| self.bound.granted) {
            let bound = &mut self.bound;
            let used = Moved::of(&current).minus(bound.mark);
            let known = bound.spent.plus(used);
            let left = Moved {
                up: limits.upload_bytes,
                down: limits.download_bytes,
            }
            .minus(known);
            bound.spent = known.plus(Moved {
                up: left.up.div_ceil(2),
                down: left.down.div_ceil(2),
            });
        }
        self.bound.mark = Moved::default();
        self.earlier = self.total();
        self.noted = EgressCounters::default();
        self.reported = EgressCounters::default();
        self.taken_before = 0;
        self.missing = 0;
        self.last = None;
        self.lost = true;
    }

    /// The sandbox has no network any more, and nobody asked for that.
    pub(super) fn cut_off(&mut self) {
        self.lost = true;
    }

    /// Hands out what came since the last time.
    pub(super) fn take(&mut self, counters: EgressCounters) -> EgressRecords {
        self.report(counters);
        let total = self.total();
        EgressRecords {
            counters: EgressCounters {
                unrecorded: total.unrecorded.saturating_add(self.dropped),
                ..total
            },
            connections: std::mem::take(&mut self.records).into(),
            lost: std::mem::take(&mut self.lost),
        }
    }

    /// Takes back what was handed out to somebody who had stopped waiting.
    pub(super) fn give_back(&mut self, records: EgressRecords) {
        self.lost |= records.lost;
        let mut all = VecDeque::from(records.connections);
        all.append(&mut self.records);
        self.records = all;
        let surplus = self.records.len().saturating_sub(MOST_RECORDS);
        self.records.truncate(MOST_RECORDS);
        self.dropped = self
            .dropped
            .saturating_add(u64::try_from(surplus).unwrap_or(u64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use forge_core::connection::ConnectionMode;
    use forge_core::egress::DenialReason;
    use forge_core::{NetworkLevel, PhaseName};

    /// Larger than every one before.
    fn number() -> u64 {
        static NUMBERS: AtomicU64 = AtomicU64::new(1);
        NUMBERS.fetch_add(1, Ordering::Relaxed)
    }

    fn record(port: u16, denied: bool) -> ConnectionRecord {
        ConnectionRecord {
            time: jiff::Timestamp::UNIX_EPOCH,
            sandbox: "s".into(),
            run: "r".into(),
            task: "t".into(),
            phase: PhaseName::Setup,
            level: NetworkLevel::PackageOnly,
            verdict: if denied {
                ConnectionVerdict::Denied
            } else {
                ConnectionVerdict::Allowed
            },
            reason: denied.then_some(DenialReason::Port),
            mode: ConnectionMode::Connect,
            host: "example.org".into(),
            port,
            sni: None,
            ip: None,
            bytes_up: 1,
            bytes_down: 10,
            ms: 1,
        }
    }

    #[test]
    fn records_are_handed_out_once_and_counters_stay() {
        let mut ledger = Ledger::default();
        ledger.note(number(), record(1, false));
        ledger.note(number(), record(2, true));
        let taken = ledger.take(EgressCounters::default());
        assert_eq!(taken.connections.len(), 2);
        assert_eq!((taken.counters.allowed, taken.counters.denied), (1, 1));
        assert_eq!(
            (taken.counters.bytes_up, taken.counters.bytes_down),
            (2, 20)
        );
        let again = ledger.take(EgressCounters {
            bytes_down: 500,
            ..EgressCounters::default()
        });
        assert!(again.connections.is_empty());
        assert_eq!(
            (again.counters.allowed, again.counters.bytes_down),
            (1, 500)
        );
    }

    #[test]
    fn what_nobody_waited_for_comes_back_in_its_place() {
        let mut ledger = Ledger::default();
        ledger.note(number(), record(1, false));
        let taken = ledger.take(EgressCounters::default());
        ledger.note(number(), record(2, false));
        ledger.give_back(taken);
        let ports: Vec<u16> = ledger
            .take(EgressCounters::default())
            .connections
            .iter()
            .map(|record| record.port)
            .collect();
        assert_eq!(ports, [1, 2]);
    }

    #[test]
    fn records_that_the_proxy_sent_and_that_never_came_are_counted() {
        let mut ledger = Ledger::default();
        ledger.note(number(), record(1, false));
        let counters = EgressCounters {
            allowed: 3,
            denied: 2,
            unrecorded: 1,
            ..EgressCounters::default()
        };
        let taken = ledger.take(counters);
        assert_eq!(taken.counters.unrecorded, 1 + 3);
        assert!(!taken.lost);
        // Still so later, and not twice.
        ledger.note(number(), record(2, false));
        let counters = EgressCounters {
            allowed: 4,
            ..counters
        };
        assert_eq!(ledger.take(counters).counters.unrecorded, 4);
    }

    #[test]
    fn a_lost_proxy_is_told_of_once_and_its_counts_stay() {
        let mut ledger = Ledger::default();
        ledger.note(number(), record(1, false));
        ledger.report(EgressCounters {
            allowed: 1,
            bytes_up: 700,
            ..EgressCounters::default()
        });
        ledger.proxy_lost(Some(&EgressLimits::of(NetworkLevel::PackageOnly)));
        ledger.note(number(), record(2, true));
        let counters = EgressCounters {
            denied: 1,
            bytes_up: 20,
            ..EgressCounters::default()
        };
        let taken = ledger.take(counters);
        assert!(taken.lost);
        let all = taken.counters;
        assert_eq!(
            (all.allowed, all.denied, all.bytes_up, all.bytes_down),
            (1, 1, 720, 20)
        );
        ledger.give_back(taken);
        assert!(ledger.take(counters).lost);
        assert!(!ledger.take(counters).lost);
    }

    fn limits(bytes: u64) -> EgressLimits {
        EgressLimits {
            upload_bytes: bytes,
            download_bytes: bytes,
            ..EgressLimits::of(NetworkLevel::PackageOnly)
        }
    }

    fn up(bytes: u64) -> EgressCounters {
        EgressCounters {
            bytes_up: bytes,
            ..EgressCounters::default()
        }
    }

    #[test]
    fn what_was_used_with_a_lost_proxy_is_not_to_be_had_again() {
        let mut ledger = Ledger::default();
        // Of a phase before, which is over.
        ledger.grant(limits(1000));
        ledger.report(up(900));
        ledger.begin();
        assert_eq!(ledger.grant(limits(1000)).upload_bytes, 1000);
        ledger.report(up(900 + 600));
        ledger.proxy_lost(Some(&limits(1000)));
        // Of the 400 that were left nobody knows whether they were used.
        assert_eq!(ledger.grant(limits(1000)).upload_bytes, 200);
        assert_eq!(ledger.grant(limits(1000)).download_bytes, 500);
        ledger.report(up(200));
        ledger.proxy_lost(Some(&limits(1000)));
        assert_eq!(ledger.grant(limits(1000)).upload_bytes, 0);
        ledger.begin();
        assert_eq!(ledger.grant(limits(1000)).upload_bytes, 1000);
    }

    #[test]
    fn limits_that_no_lost_proxy_had_are_whole() {
        let mut ledger = Ledger::default();
        ledger.grant(limits(1000));
        ledger.report(up(300));
        ledger.begin();
        ledger.proxy_lost(Some(&limits(1000)));
        assert_eq!(ledger.grant(limits(1000)).upload_bytes, 1000);
        assert_eq!(ledger.grant(limits(1000)).connections, 320);
    }

    #[test]
    fn losing_proxies_again_and_again_never_gives_twice_the_limit() {
        let mut ledger = Ledger::default();
        let mut given = 0;
        for _ in 0..200 {
            given += ledger.grant(limits(1000)).upload_bytes;
            ledger.proxy_lost(Some(&limits(1000)));
        }
        assert!(given < 2000, "{given}");
    }

    fn denied(denied: u64) -> EgressCounters {
        EgressCounters {
            denied,
            ..EgressCounters::default()
        }
    }

    #[test]
    fn what_an_engine_before_handed_on_is_counted_and_not_missing() {
        let mut ledger = Ledger::default();
        ledger.note(7, record(1, true));
        ledger.inherit(denied(5), 4);
        let taken = ledger.take(denied(5));
        assert_eq!((taken.connections.len(), taken.lost), (1, false));
        assert_eq!((taken.counters.denied, taken.counters.unrecorded), (5, 0));
        assert_eq!(ledger.handed_out(), Some(7));
        assert_eq!(ledger.handed_out(), None);
    }

    #[test]
    fn what_nobody_handed_on_and_did_not_come_is_lost() {
        let mut ledger = Ledger::default();
        ledger.note(7, record(1, true));
        ledger.inherit(denied(5), 2);
        let taken = ledger.take(denied(5));
        assert!(taken.lost);
        assert_eq!(taken.counters.unrecorded, 2);
    }

    #[test]
    fn limits_that_a_proxy_before_may_have_given_are_not_to_be_had_again() {
        let mut ledger = Ledger::default();
        ledger.inherit_nothing();
        assert_eq!(ledger.grant(limits(1000)).upload_bytes, 500);
        assert_eq!(ledger.grant(limits(1000)).upload_bytes, 500);
        ledger.begin();
        assert_eq!(ledger.grant(limits(1000)).upload_bytes, 1000);
        assert!(ledger.take(EgressCounters::default()).lost);

        let mut ledger = Ledger::default();
        ledger.inherit(up(600), 0);
        assert_eq!(ledger.grant(limits(1000)).upload_bytes, 1000);
        ledger.proxy_lost(Some(&limits(1000)));
        assert_eq!(ledger.grant(limits(1000)).upload_bytes, 200);
    }

    #[test]
    fn a_flood_of_records_is_counted_and_not_kept() {
        let mut ledger = Ledger::default();
        for _ in 0..MOST_RECORDS + 5 {
            ledger.note(number(), record(1, true));
        }
        let taken = ledger.take(EgressCounters {
            unrecorded: 2,
            ..EgressCounters::default()
        });
        assert_eq!(taken.connections.len(), MOST_RECORDS);
        assert_eq!(taken.counters.unrecorded, 7);
        assert_eq!(taken.counters.denied, 10_005);
    }
}
