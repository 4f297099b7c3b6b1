//! One way through the proxy, from the judgement of its target to its record.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use forge_core::NetworkLevel;
use forge_core::connection::{ConnectionMode, ConnectionRecord, ConnectionVerdict};
use forge_core::egress::DenialReason;
use jiff::Timestamp;

use crate::audit::{Log, lock, shown};
use crate::server::sandbox::{Current, Sandbox, Ticket};

/// Where a client wanted to go, as records and answers show it.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) mode: ConnectionMode,
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// Why a whole connection was ended from outside, for the leg it is on.
pub(crate) type Fate = OnceLock<DenialReason>;

/// A way through the proxy. A way that was open, and that a later policy ended or on which nothing
/// moved for too long, is recorded as allowed, with that reason; one that was not open yet as denied.
///
/// Its record is written when it is dropped, before its ticket is: whoever
/// waited for the end of a connection finds the record.
#[derive(Debug)]
pub(crate) struct Leg {
    log: Arc<Log>,
    sandbox: Arc<Sandbox>,
    fate: Arc<Fate>,
    pub(crate) current: Arc<Current>,
    pub(crate) asked: Asked,
    began: Instant,
    up: AtomicU64,
    down: AtomicU64,
    seen: Mutex<Seen>,
    ticket: Option<Ticket>,
}

#[derive(Debug, Default)]
struct Seen {
    sni: Option<String>,
    address: Option<IpAddr>,
    is_through: bool,
    denied: Option<DenialReason>,
}

impl Leg {
    pub(crate) fn new(
        log: &Arc<Log>,
        sandbox: &Arc<Sandbox>,
        fate: &Arc<Fate>,
        current: Arc<Current>,
        asked: Asked,
    ) -> Self {
        Self {
            log: log.clone(),
            sandbox: sandbox.clone(),
            fate: fate.clone(),
            current,
            asked,
            began: Instant::now(),
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
            seen: Mutex::default(),
            ticket: None,
        }
    }

    pub(crate) fn admitted(&mut self, ticket: Ticket) {
        self.ticket = Some(ticket);
    }

    pub(crate) const fn ticket(&self) -> Option<&Ticket> {
        self.ticket.as_ref()
    }

    /// A connection to this address is about to be tried.
    pub(crate) fn dialled(&self, address: IpAddr) {
        lock(&self.seen).address = Some(address);
    }

    /// It is open.
    pub(crate) fn reached(&self) {
        lock(&self.seen).is_through = true;
    }

    pub(crate) fn level(&self) -> NetworkLevel {
        self.current.policy.level
    }

    /// The client named this host in its handshake.
    pub(crate) fn named(&self, sni: &str) {
        lock(&self.seen).sni = Some(shown(sni.as_bytes()));
    }

    /// It was refused, or cut; the first reason stays.
    pub(crate) fn denied(&self, reason: DenialReason) {
        lock(&self.seen).denied.get_or_insert(reason);
    }

    /// How many of `wanted` bytes may be sent.
    pub(crate) fn send(&self, wanted: usize) -> usize {
        let granted = self.sandbox.allowance.send(wanted);
        self.sandbox.account.sent(granted as u64);
        self.up.fetch_add(granted as u64, Ordering::Relaxed);
        granted
    }

    /// How many of `wanted` bytes may be passed to the client.
    pub(crate) fn receive(&self, wanted: usize) -> usize {
        let granted = self.sandbox.allowance.receive(wanted);
        self.sandbox.account.received(granted as u64);
        self.down.fetch_add(granted as u64, Ordering::Relaxed);
        granted
    }

    /// Whether the server has said anything yet.
    pub(crate) fn has_received(&self) -> bool {
        self.down.load(Ordering::Relaxed) > 0
    }

    fn record(&self) -> ConnectionRecord {
        let seen = std::mem::take(&mut *lock(&self.seen));
        let is_denied = seen.denied.is_some() || !seen.is_through;
        let reason = seen.denied.or_else(|| self.fate.get().copied());
        // The sandbox was removed while the way was still being made: no rule refused it.
        let reason = reason.or((!seen.is_through).then_some(DenialReason::ConnectFailed));
        ConnectionRecord {
            time: Timestamp::now(),
            sandbox: self.sandbox.name.clone(),
            run: self.current.context.run.clone(),
            task: self.current.context.task.clone(),
            phase: self.current.context.phase,
            level: self.current.policy.level,
            verdict: if is_denied {
                ConnectionVerdict::Denied
            } else {
                ConnectionVerdict::Allowed
            },
            reason,
            mode: self.asked.mode,
            host: self.asked.host.clone(),
            port: self.asked.port,
            sni: seen.sni,
            ip: seen.address,
            bytes_up: self.up.load(Ordering::Relaxed),
            bytes_down: self.down.load(Ordering::Relaxed),
            ms: u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
        }
    }
}

impl Drop for Leg {
    fn drop(&mut self) {
        let record = self.record();
        self.log.push(&self.sandbox.account, record);
    }
}
