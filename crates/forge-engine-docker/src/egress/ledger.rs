//! What is known of one sandbox's connections until somebody asks for it.

use std::collections::VecDeque;

use forge_core::connection::{ConnectionRecord, ConnectionVerdict, EgressCounters};
use forge_engine::EgressRecords;

/// Records kept for a sandbox that nobody asks about; later ones are only counted.
pub(super) const MOST_RECORDS: usize = 10_000;

/// The records of one sandbox that nobody has taken, and the sum of all that came.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    records: VecDeque<ConnectionRecord>,
    /// Survives the proxy, whose own counters begin anew when it is started again.
    sum: EgressCounters,
    dropped: u64,
}

impl Ledger {
    /// Takes in the record of a connection that ended.
    pub(super) fn note(&mut self, record: ConnectionRecord) {
        let sum = &mut self.sum;
        match record.verdict {
            ConnectionVerdict::Allowed => sum.allowed = sum.allowed.saturating_add(1),
            ConnectionVerdict::Denied => sum.denied = sum.denied.saturating_add(1),
        }
        sum.bytes_up = sum.bytes_up.saturating_add(record.bytes_up);
        sum.bytes_down = sum.bytes_down.saturating_add(record.bytes_down);
        if self.records.len() < MOST_RECORDS {
            self.records.push_back(record);
        } else {
            self.dropped = self.dropped.saturating_add(1);
        }
    }

    /// Hands out what came since the last time. The proxy's counters include connections that are
    /// still open, the sum those from before it was started again; what is larger is nearer.
    pub(super) fn take(&mut self, counters: EgressCounters) -> EgressRecords {
        let sum = &self.sum;
        EgressRecords {
            counters: EgressCounters {
                allowed: counters.allowed.max(sum.allowed),
                denied: counters.denied.max(sum.denied),
                bytes_up: counters.bytes_up.max(sum.bytes_up),
                bytes_down: counters.bytes_down.max(sum.bytes_down),
                unrecorded: counters.unrecorded.saturating_add(self.dropped),
            },
            connections: std::mem::take(&mut self.records).into(),
        }
    }

    /// Takes back what was handed out to somebody who had stopped waiting.
    pub(super) fn give_back(&mut self, records: EgressRecords) {
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
    use super::*;
    use forge_core::connection::ConnectionMode;
    use forge_core::egress::DenialReason;
    use forge_core::{NetworkLevel, PhaseName};

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
        ledger.note(record(1, false));
        ledger.note(record(2, true));
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
        ledger.note(record(1, false));
        let taken = ledger.take(EgressCounters::default());
        ledger.note(record(2, false));
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
    fn a_flood_of_records_is_counted_and_not_kept() {
        let mut ledger = Ledger::default();
        for _ in 0..MOST_RECORDS + 5 {
            ledger.note(record(1, true));
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
