//! One sandbox: its policy, what it still may do, and which connections it has.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use forge_api::egress::AuditContext;
use forge_core::egress::{AddressRange, DenialReason, EgressLimits, EgressPolicy};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::audit::{Account, lock};
use crate::policy::{Admission, Inspection, Target, admit, dialable, dialable_literal, inspection};
use crate::server::Shared;
use crate::server::buffers::{EACH_CONNECTION, Lender, Pool, Share};
use crate::server::refusal::Cause;

/// Look-ups of one sandbox under way at once; more wait their turn.
const MOST_LOOKUPS: usize = 16;

/// What connections are judged by at one moment.
#[derive(Debug)]
pub(crate) struct Current {
    pub(crate) policy: EgressPolicy,
    pub(crate) context: AuditContext,
    /// Addresses that no exception opens.
    pub(crate) denied: Arc<Vec<AddressRange>>,
    pub(crate) has_v6: bool,
}

impl Current {
    /// Whether a connection that was admitted earlier would be admitted now, and looked at in the
    /// same way: a tunnel in which nobody checked the name must not outlive the level it was made
    /// at.
    fn admits(&self, judged: &Judged) -> bool {
        let Ok(admission) = admit(&self.policy, &judged.target) else {
            return false;
        };
        let reaches = match (&admission, judged.address) {
            (_, None) => true,
            (Admission::Resolve(name), Some(address)) => {
                let asked = (name, judged.target.port);
                dialable(&self.policy, asked, &[address], &self.denied, self.has_v6).is_ok()
            }
            (Admission::Dial(to), Some(address)) => {
                to.ip() == address
                    && dialable_literal(&self.policy, *to, &self.denied, self.has_v6).is_ok()
            }
        };
        reaches && inspection(&self.policy, &judged.target) == judged.inspection
    }
}

/// A sandbox that has a socket.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(crate) name: String,
    pub(crate) directory: String,
    pub(crate) account: Arc<Account>,
    pub(crate) allowance: Allowance,
    pub(crate) share: Share,
    pub(crate) lookups: Semaphore,
    state: Mutex<State>,
    /// Connections that count towards the bound on them.
    open: AtomicU32,
    /// All connections, those that are turned away included.
    present: AtomicU32,
    /// Told when a connection or a leg of one has ended.
    ended: Notify,
}

#[derive(Debug)]
struct State {
    current: Arc<Current>,
    judged: BTreeMap<u64, Judged>,
    next: u64,
}

/// A connection under way, as a later policy needs it to judge it again.
#[derive(Debug)]
struct Judged {
    target: Target,
    address: Option<IpAddr>,
    inspection: Inspection,
    cut: CancellationToken,
}

impl Sandbox {
    pub(crate) fn new(name: String, directory: String, current: Current) -> Self {
        Self {
            name,
            directory,
            account: Arc::default(),
            allowance: Allowance::new(&current.policy.limits),
            share: Share::default(),
            lookups: Semaphore::new(MOST_LOOKUPS),
            state: Mutex::new(State {
                current: Arc::new(current),
                judged: BTreeMap::new(),
                next: 0,
            }),
            open: AtomicU32::new(0),
            present: AtomicU32::new(0),
            ended: Notify::new(),
        }
    }

    pub(crate) fn current(&self) -> Arc<Current> {
        lock(&self.state).current.clone()
    }

    /// Puts another policy in place and cuts the connections that it forbids.
    pub(crate) fn change(&self, next: Current) -> Forbidden {
        let mut state = lock(&self.state);
        let before = &state.current;
        if before.context.phase == next.context.phase && before.policy.level == next.policy.level {
            self.allowance.bound(&next.policy.limits);
        } else {
            self.allowance.renew(&next.policy.limits);
        }
        state.current = Arc::new(next);
        state.cut_forbidden()
    }

    /// As [`change`](Self::change), for other addresses that are denied.
    pub(crate) fn deny(&self, denied: Arc<Vec<AddressRange>>) -> Forbidden {
        let current = self.current();
        self.change(Current {
            policy: current.policy.clone(),
            context: current.context.clone(),
            denied,
            has_v6: current.has_v6,
        })
    }

    /// Waits until connections that were cut are gone.
    pub(crate) async fn rid_of(&self, Forbidden(cut): Forbidden) {
        self.gone(|state| !cut.iter().any(|id| state.judged.contains_key(id)))
            .await;
    }

    /// Waits until no connection is there, nor one that is turned away.
    pub(crate) async fn emptied(&self) {
        self.gone(|_| self.present.load(Ordering::Acquire) == 0)
            .await;
    }

    async fn gone(&self, is_gone: impl Fn(&State) -> bool) {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            // Registered before the look, so that no end between the two is missed.
            ended.as_mut().enable();
            if is_gone(&lock(&self.state)) {
                return;
            }
            ended.await;
        }
    }

    /// Judges a target by the policy of this moment. From then on every change of policy judges it
    /// again, until the ticket is dropped.
    pub(crate) fn judge(
        self: &Arc<Self>,
        target: &Target,
        cut: &CancellationToken,
    ) -> (Arc<Current>, Result<Ticket, DenialReason>) {
        let mut state = lock(&self.state);
        let current = state.current.clone();
        let admission = match admit(&current.policy, target) {
            Ok(admission) => admission,
            Err(reason) => return (current, Err(reason)),
        };
        let inspection = inspection(&current.policy, target);
        let id = state.next;
        state.next += 1;
        state.judged.insert(
            id,
            Judged {
                target: target.clone(),
                address: None,
                inspection,
                cut: cut.clone(),
            },
        );
        drop(state);
        let ticket = Ticket {
            sandbox: self.clone(),
            id,
            admission,
            inspection,
        };
        (current, Ok(ticket))
    }

    /// A place for one more connection.
    ///
    /// # Errors
    ///
    /// Why there is none: [`Cause::Crowded`] or [`Cause::Busy`].
    pub(crate) fn enter(self: &Arc<Self>, shared: &Arc<Shared>) -> Result<Slot, Cause> {
        let own = lock(&self.state).current.policy.limits.connections;
        if self.open.load(Ordering::Acquire) >= own {
            return Err(Cause::Crowded);
        }
        let room = self.room(shared, EACH_CONNECTION).ok_or(Cause::Busy)?;
        // Made before the look, so that dropping it undoes the count.
        let slot = Slot { room };
        if self.open.fetch_add(1, Ordering::AcqRel) < own {
            Ok(slot)
        } else {
            Err(Cause::Crowded)
        }
    }

    /// Memory for a connection, if there is any.
    pub(crate) fn room(self: &Arc<Self>, shared: &Arc<Shared>, bytes: usize) -> Option<Room> {
        self.lender(&shared.pool).take(bytes).then(|| {
            self.present.fetch_add(1, Ordering::AcqRel);
            Room {
                sandbox: self.clone(),
                shared: shared.clone(),
                bytes,
            }
        })
    }

    pub(crate) fn lender<'a>(&'a self, pool: &'a Pool) -> Lender<'a> {
        Lender {
            pool,
            share: &self.share,
        }
    }

    /// How long a connection may stand still.
    pub(crate) fn idle(&self) -> Duration {
        let seconds = lock(&self.state).current.policy.limits.idle_seconds;
        Duration::from_secs(u64::from(seconds))
    }
}

/// Connections that a change cut.
#[derive(Debug)]
#[must_use]
pub(crate) struct Forbidden(Vec<u64>);

impl State {
    fn cut_forbidden(&self) -> Forbidden {
        let forbidden = self
            .judged
            .iter()
            .filter(|(_, judged)| !self.current.admits(judged));
        let cut = forbidden.map(|(id, judged)| {
            judged.cut.cancel();
            *id
        });
        Forbidden(cut.collect())
    }
}

/// The memory of one connection, which is there until this is dropped.
pub(crate) struct Room {
    sandbox: Arc<Sandbox>,
    shared: Arc<Shared>,
    bytes: usize,
}

impl Drop for Room {
    fn drop(&mut self) {
        let lender = self.sandbox.lender(&self.shared.pool);
        lender.give_back(self.bytes);
        self.sandbox.present.fetch_sub(1, Ordering::AcqRel);
        self.sandbox.ended.notify_waiters();
    }
}

/// The place of one connection among those of its sandbox, with the memory it takes.
pub(crate) struct Slot {
    room: Room,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.room.sandbox.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A target that was admitted and is under the eyes of every later policy.
#[derive(Debug)]
pub(crate) struct Ticket {
    sandbox: Arc<Sandbox>,
    id: u64,
    pub(crate) admission: Admission,
    pub(crate) inspection: Inspection,
}

impl Ticket {
    /// Says which address is about to be dialled.
    ///
    /// # Errors
    ///
    /// [`DenialReason::PolicyChanged`] when the policy of this moment forbids it.
    pub(crate) fn dialling(&self, address: IpAddr) -> Result<(), DenialReason> {
        let mut state = lock(&self.sandbox.state);
        let current = state.current.clone();
        let Some(judged) = state.judged.get_mut(&self.id) else {
            return Err(DenialReason::PolicyChanged);
        };
        judged.address = Some(address);
        if judged.cut.is_cancelled() || !current.admits(judged) {
            return Err(DenialReason::PolicyChanged);
        }
        Ok(())
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        lock(&self.sandbox.state).judged.remove(&self.id);
        self.sandbox.ended.notify_waiters();
    }
}

/// Bytes that a sandbox may still move in its phase.
#[derive(Debug)]
pub(crate) struct Allowance {
    up: Budget,
    down: Budget,
}

#[derive(Debug)]
struct Budget {
    used: AtomicU64,
    most: AtomicU64,
}

impl Budget {
    const fn new(most: u64) -> Self {
        Self {
            used: AtomicU64::new(0),
            most: AtomicU64::new(most),
        }
    }

    fn grant(&self, wanted: usize) -> usize {
        let most = self.most.load(Ordering::Relaxed);
        let mut used = self.used.load(Ordering::Relaxed);
        loop {
            let left = usize::try_from(most.saturating_sub(used)).unwrap_or(usize::MAX);
            let granted = left.min(wanted);
            let next = used.saturating_add(granted as u64);
            let swapped =
                self.used
                    .compare_exchange_weak(used, next, Ordering::Relaxed, Ordering::Relaxed);
            match swapped {
                Ok(_) => return granted,
                Err(now) => used = now,
            }
        }
    }

    fn is_used_up(&self) -> bool {
        self.used.load(Ordering::Relaxed) >= self.most.load(Ordering::Relaxed)
    }
}

impl Allowance {
    const fn new(limits: &EgressLimits) -> Self {
        Self {
            up: Budget::new(limits.upload_bytes),
            down: Budget::new(limits.download_bytes),
        }
    }

    fn bound(&self, limits: &EgressLimits) {
        self.up.most.store(limits.upload_bytes, Ordering::Relaxed);
        self.down
            .most
            .store(limits.download_bytes, Ordering::Relaxed);
    }

    fn renew(&self, limits: &EgressLimits) {
        self.bound(limits);
        self.up.used.store(0, Ordering::Relaxed);
        self.down.used.store(0, Ordering::Relaxed);
    }

    /// How many of `wanted` bytes may be sent; they count as sent.
    pub(crate) fn send(&self, wanted: usize) -> usize {
        self.up.grant(wanted)
    }

    /// How many of `wanted` bytes may be received; they count as received.
    pub(crate) fn receive(&self, wanted: usize) -> usize {
        self.down.grant(wanted)
    }

    pub(crate) fn is_used_up(&self) -> bool {
        self.up.is_used_up() || self.down.is_used_up()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_granted_to_the_last_one_and_not_beyond() {
        let budget = Budget::new(10);
        assert_eq!(budget.grant(6), 6);
        assert!(!budget.is_used_up());
        assert_eq!(budget.grant(6), 4);
        assert_eq!(budget.grant(1), 0);
        assert!(budget.is_used_up());
    }
}
