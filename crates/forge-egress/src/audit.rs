//! The log of connections: kept until the engine says that it took them, within bounds, and counted
//! beyond them.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use forge_core::PhaseName;
use forge_core::connection::{ConnectionRecord, ConnectionVerdict, EgressCounters};
use tokio::sync::Notify;

/// Records that one sandbox has in one phase, and at most waiting; the others are only counted.
pub const MOST_RECORDS: usize = 10_000;
/// Records of all sandboxes that are kept, waiting for the engine or sent to it and not taken: 32 MiB
/// at their longest, 1 KiB each, of which two texts from the sandbox.
pub const MOST_WAITING: usize = 32_768;
/// The longest text of a record that came from a sandbox, in characters.
pub const MOST_TEXT: usize = 255;

/// Text from a sandbox as records and answers show it: printable ASCII, everything else and the
/// backslash escaped, cut at [`MOST_TEXT`] characters.
#[must_use]
pub fn shown(text: &[u8]) -> String {
    let mut shown = String::new();
    for byte in text {
        let before = shown.len();
        match byte {
            b'\\' => shown.push_str("\\\\"),
            b' '..=b'~' => shown.push(char::from(*byte)),
            _ => shown.push_str(&format!("\\x{byte:02x}")),
        }
        if shown.len() > MOST_TEXT {
            shown.truncate(before);
            break;
        }
    }
    // Records wait in thousands.
    shown.shrink_to_fit();
    shown
}

/// The records of all sandboxes that no engine took yet, oldest first.
#[derive(Debug, Default)]
pub struct Log {
    kept: Mutex<Kept>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Kept {
    /// On no connection so far.
    waiting: VecDeque<Waiting>,
    /// Written to the engine, which may end before it has handed them on. All are older than those
    /// that wait.
    sent: VecDeque<Waiting>,
    /// The number of the last record.
    last: u64,
}

/// A record and the account it is booked on.
#[derive(Debug)]
struct Waiting {
    account: Arc<Account>,
    number: u64,
    record: Box<ConnectionRecord>,
}

impl Log {
    /// Counts a connection that ended, and keeps its record where there is room. For that the
    /// oldest go that the engine was sent, though it may not live to hand them on.
    pub(crate) fn push(&self, account: &Arc<Account>, record: ConnectionRecord) {
        let mut kept = lock(&self.kept);
        if !account.book(&record, kept.waiting.len() < MOST_WAITING) {
            return;
        }
        if kept.waiting.len() + kept.sent.len() >= MOST_WAITING
            && let Some(forgotten) = kept.sent.pop_front()
        {
            forgotten.account.forget(forgotten.number);
        }
        kept.last += 1;
        let number = kept.last;
        kept.waiting.push_back(Waiting {
            account: account.clone(),
            number,
            record: Box::new(record),
        });
        drop(kept);
        self.arrived.notify_one();
    }

    /// How many records wait to be sent.
    #[must_use]
    pub fn len(&self) -> usize {
        lock(&self.kept).waiting.len()
    }

    /// Whether none waits to be sent.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns when a record waits. For one waiter at a time.
    pub async fn arrived(&self) {
        while self.is_empty() {
            self.arrived.notified().await;
        }
    }

    /// The oldest `most` records, which do not wait any more.
    #[must_use]
    pub fn take(&self, most: usize) -> Batch<'_> {
        let mut kept = lock(&self.kept);
        let count = kept.waiting.len().min(most);
        let records: VecDeque<Waiting> = kept.waiting.drain(..count).collect();
        Batch { log: self, records }
    }

    /// What was sent and not taken waits again: it was sent on a connection that is over.
    pub(crate) fn send_again(&self) {
        let mut kept = lock(&self.kept);
        let Kept { waiting, sent, .. } = &mut *kept;
        for record in sent.iter() {
            lock(&record.account.state).waiting += 1;
        }
        sent.append(waiting);
        std::mem::swap(waiting, sent);
        drop(kept);
        self.arrived.notify_one();
    }

    /// The engine has handed on the records of an account up to this number.
    pub(crate) fn taken(&self, account: &Arc<Account>, number: u64) {
        let mut kept = lock(&self.kept);
        let before = kept.sent.len();
        kept.sent
            .retain(|each| each.number > number || !Arc::ptr_eq(&each.account, account));
        let count = before - kept.sent.len();
        account.taken(number, count);
    }

    /// Nobody will ask again for records of this sandbox, which is gone.
    pub(crate) fn discard(&self, sandbox: &str) {
        lock(&self.kept)
            .sent
            .retain(|each| each.record.sandbox != sandbox);
    }
}

/// Records on their way to the engine. Those that were not delivered wait again when it is dropped.
#[derive(Debug)]
pub struct Batch<'log> {
    log: &'log Log,
    records: VecDeque<Waiting>,
}

impl Batch<'_> {
    /// The records that are not delivered with their numbers, oldest first.
    pub fn records(&self) -> impl Iterator<Item = (u64, &ConnectionRecord)> {
        let records = self.records.iter();
        records.map(|each| (each.number, each.record.as_ref()))
    }

    /// The oldest record was written to the engine.
    pub fn delivered(&mut self) {
        if let Some(gone) = self.records.pop_front() {
            lock(&gone.account.state).waiting -= 1;
            lock(&self.log.kept).sent.push_back(gone);
        }
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        if self.records.is_empty() {
            return;
        }
        let mut kept = lock(&self.log.kept);
        while let Some(last) = self.records.pop_back() {
            kept.waiting.push_front(last);
        }
        drop(kept);
        self.log.arrived.notify_one();
    }
}

/// What one sandbox did so far.
#[derive(Debug, Default)]
pub(crate) struct Account {
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
    state: Mutex<Booked>,
}

#[derive(Debug, Default)]
struct Booked {
    allowed: u64,
    denied: u64,
    unrecorded: u64,
    waiting: usize,
    /// Records that came of each phase: one that floods the log must not blind the next.
    recorded: [usize; PhaseName::ALL.len()],
    /// Records that an engine handed on.
    taken: u64,
    /// Records for which there was no room after they were sent, as long as no engine has handed
    /// them on.
    forgotten: u64,
    /// The number of the last of them.
    forgotten_up_to: u64,
}

impl Account {
    pub(crate) fn sent(&self, bytes: u64) {
        self.bytes_up.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn received(&self, bytes: u64) {
        self.bytes_down.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The counters, with the bytes of connections that are still open.
    pub(crate) fn counters(&self) -> EgressCounters {
        let state = lock(&self.state);
        EgressCounters {
            allowed: state.allowed,
            denied: state.denied,
            bytes_up: self.bytes_up.load(Ordering::Relaxed),
            bytes_down: self.bytes_down.load(Ordering::Relaxed),
            unrecorded: state.unrecorded,
        }
    }

    /// How many records engines have handed on.
    pub(crate) fn count_taken(&self) -> u64 {
        lock(&self.state).taken
    }

    fn forget(&self, number: u64) {
        let mut state = lock(&self.state);
        state.forgotten += 1;
        state.forgotten_up_to = number;
    }

    /// An engine has handed on `count` records that were kept, and all others up to this number.
    fn taken(&self, number: u64, count: usize) {
        let mut state = lock(&self.state);
        state.taken += count as u64;
        if number >= state.forgotten_up_to {
            state.taken += std::mem::take(&mut state.forgotten);
        }
    }

    /// Counts a connection; whether its record is kept.
    fn book(&self, record: &ConnectionRecord, has_room: bool) -> bool {
        let mut state = lock(&self.state);
        match record.verdict {
            ConnectionVerdict::Allowed => state.allowed += 1,
            ConnectionVerdict::Denied => state.denied += 1,
        }
        let phase = PhaseName::ALL
            .iter()
            .position(|phase| *phase == record.phase)
            .unwrap_or_default();
        let kept = has_room && state.waiting < MOST_RECORDS && state.recorded[phase] < MOST_RECORDS;
        if kept {
            state.waiting += 1;
            state.recorded[phase] += 1;
        } else {
            state.unrecorded += 1;
        }
        kept
    }
}

/// Nothing that is done under these locks can leave a value half-changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use forge_core::connection::ConnectionMode;
    use forge_core::network::NetworkLevel;
    use jiff::Timestamp;

    use super::*;

    fn record(phase: PhaseName, port: u16) -> ConnectionRecord {
        ConnectionRecord {
            time: Timestamp::UNIX_EPOCH,
            sandbox: "s".into(),
            run: "r".into(),
            task: "t".into(),
            phase,
            level: NetworkLevel::FullWeb,
            verdict: ConnectionVerdict::Allowed,
            reason: None,
            mode: ConnectionMode::Connect,
            host: "example.org".into(),
            port,
            sni: None,
            ip: None,
            bytes_up: 0,
            bytes_down: 0,
            ms: 0,
        }
    }

    fn ports(log: &Log) -> Vec<u16> {
        let mut batch = log.take(usize::MAX);
        let ports = batch.records().map(|(_, record)| record.port).collect();
        while batch.records().next().is_some() {
            batch.delivered();
        }
        ports
    }

    #[test]
    fn text_is_escaped_and_never_cut_within_an_escape() {
        assert_eq!(shown(b"a\r\nb\\\xc3\x1b["), "a\\x0d\\x0ab\\\\\\xc3\\x1b[");
        assert_eq!(shown(&[b'a'; 300]).len(), MOST_TEXT);
        let mut long = vec![b'a'; 253];
        long.push(0);
        assert_eq!(shown(&long), "a".repeat(253));
    }

    #[test]
    fn what_was_not_delivered_waits_again_in_order() {
        let (log, account) = (Log::default(), Arc::new(Account::default()));
        for port in 1..=4 {
            log.push(&account, record(PhaseName::Setup, port));
        }
        let mut batch = log.take(3);
        batch.delivered();
        drop(batch);
        assert_eq!(ports(&log), [2, 3, 4]);
        assert!(log.is_empty());
    }

    #[test]
    fn what_was_sent_and_not_taken_is_sent_again_before_what_came_later() {
        let log = Log::default();
        let [one, two] = [(); 2].map(|()| Arc::new(Account::default()));
        for port in 1..=4 {
            let account = if port % 2 == 1 { &one } else { &two };
            log.push(account, record(PhaseName::Setup, port));
        }
        assert_eq!(ports(&log), [1, 2, 3, 4]);
        log.taken(&one, 2);
        assert_eq!(one.count_taken(), 1);
        log.push(&one, record(PhaseName::Setup, 5));
        log.send_again();
        assert_eq!(ports(&log), [2, 3, 4, 5]);
        log.taken(&one, 5);
        log.discard("another");
        log.send_again();
        assert_eq!(ports(&log), [2, 4]);
        log.discard("s");
        log.send_again();
        assert!(log.is_empty());
        assert_eq!((one.count_taken(), two.count_taken()), (3, 0));
        assert_eq!(lock(&one.state).waiting, 0);
    }

    #[test]
    fn what_was_sent_gives_way_to_what_was_not_and_counts_as_taken_once_it_is() {
        let log = Log::default();
        let accounts: Vec<_> = (0..5).map(|_| Arc::new(Account::default())).collect();
        for account in &accounts[..4] {
            for _ in 0..MOST_WAITING / 4 {
                log.push(account, record(PhaseName::Setup, 1));
            }
        }
        assert_eq!(ports(&log).len(), MOST_WAITING);
        for _ in 0..3 {
            log.push(&accounts[4], record(PhaseName::Setup, 2));
        }
        log.send_again();
        let again = ports(&log);
        assert_eq!(again.len(), MOST_WAITING);
        assert_eq!(again[MOST_WAITING - 4..], [1, 2, 2, 2]);
        let first = &accounts[0];
        log.taken(first, 2);
        assert_eq!(first.count_taken(), 0);
        log.taken(first, u64::MAX);
        assert_eq!(first.count_taken(), (MOST_WAITING / 4) as u64);
    }

    #[test]
    fn a_phase_that_floods_the_log_does_not_blind_the_next() {
        let (log, account) = (Log::default(), Arc::new(Account::default()));
        for _ in 0..MOST_RECORDS + 5 {
            log.push(&account, record(PhaseName::Setup, 1));
        }
        assert_eq!(ports(&log).len(), MOST_RECORDS);
        log.push(&account, record(PhaseName::Setup, 2));
        log.push(&account, record(PhaseName::Solve, 3));
        assert_eq!(ports(&log), [3]);
        let counters = account.counters();
        assert_eq!(counters.unrecorded, 6);
        assert_eq!(counters.allowed, MOST_RECORDS as u64 + 7);
    }

    #[test]
    fn a_sandbox_has_a_bounded_number_of_records_waiting() {
        let (log, account) = (Log::default(), Arc::new(Account::default()));
        for phase in PhaseName::ALL {
            for _ in 0..MOST_RECORDS {
                log.push(&account, record(phase, 1));
            }
        }
        assert_eq!(log.len(), MOST_RECORDS);
    }
}
