//! What shall be in force, what is asked of the proxy, and who waits for which answer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use forge_api::egress::{CONTROL_VERSION, ControlEvent, ControlRequest, SandboxPolicy};
use forge_core::connection::{ConnectionRecord, EgressCounters};
use forge_core::egress::AddressRange;
use forge_core::{EgressPolicy, NetworkLevel};
use forge_engine::{EgressRecords, EngineError, EngineErrorKind};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{ANSWER, FIRST_PATIENCE, FRESH, Order, PATIENCE, RENEWAL, Reply, STALE, failure};
use crate::egress::ledger::Ledger;
use crate::egress::link::{Link, LinkError};

/// A question and how long somebody has been waiting.
pub(super) struct Question {
    what: What,
    since: Instant,
}

impl Question {
    /// That what is wanted be in force, which nobody waits for.
    fn set_again(sandbox: &str) -> Self {
        Self {
            what: What::Set {
                sandbox: sandbox.to_owned(),
                reply: None,
            },
            since: Instant::now(),
        }
    }
}

enum What {
    Set {
        sandbox: String,
        reply: Option<Reply<()>>,
    },
    Remove {
        sandbox: String,
        reply: Option<oneshot::Sender<()>>,
    },
    Take {
        sandbox: String,
        reply: Reply<EgressRecords>,
    },
    /// What a sandbox has used; nobody but the ledger wants to know.
    Count { sandbox: String },
    /// The list of denied addresses.
    Deny,
}

/// A sandbox whose socket is open, or shall be.
struct Known {
    wanted: SandboxPolicy,
    ledger: Ledger,
    /// Whether a policy was ever in force. One that never was has nothing to lose.
    established: bool,
}

impl Known {
    /// Takes over what shall be in force. The proxy begins to count anew with another phase or
    /// level, and so does the ledger.
    fn want(&mut self, policy: SandboxPolicy) {
        let before = &self.wanted;
        if before.context.phase != policy.context.phase
            || before.policy.level != policy.policy.level
        {
            self.ledger.begin();
        }
        self.wanted = policy;
    }

    /// Whether it may reach something.
    fn is_out(&self) -> bool {
        self.wanted.policy.level != NetworkLevel::Isolated
    }
}

/// Everything the driver knows.
#[derive(Default)]
pub(super) struct State {
    sandboxes: BTreeMap<String, Known>,
    /// Sandboxes that are gone and that the proxy may not know to be.
    removed: BTreeSet<String>,
    /// Asked on this connection.
    asked: BTreeMap<u64, Question>,
    /// Waiting for a connection.
    parked: Vec<Question>,
    /// Waiting for a list of denied addresses that is young enough.
    waiting: Vec<Question>,
    /// The list that the proxy has.
    denied: Vec<AddressRange>,
    /// When it was made.
    denied_since: Option<Instant>,
    /// When it was last tried to make it, with or without success.
    tried: Option<Instant>,
    /// Which process the last connection was to.
    process: Option<String>,
    /// Why there is none.
    last_failure: Option<EngineError>,
    was_connected: bool,
}

impl State {
    pub(super) fn is_idle(&self) -> bool {
        self.sandboxes.is_empty() && self.parked.is_empty()
    }

    fn patience(&self) -> Duration {
        if self.was_connected {
            PATIENCE
        } else {
            FIRST_PATIENCE
        }
    }

    pub(super) fn next_expiry(&self) -> Option<Instant> {
        let first = self.parked.iter().map(|question| question.since).min();
        first.map(|since| since + self.patience())
    }

    pub(super) fn answer_due(&self) -> Option<Instant> {
        let first = self.asked.values().map(|question| question.since).min();
        first.map(|since| since + ANSWER)
    }

    /// Takes an order into what is wanted; gives the question that it becomes.
    fn note(&mut self, order: Order) -> Option<Question> {
        let what = match order {
            Order::Set { policy, reply } => {
                let sandbox = policy.sandbox.clone();
                self.removed.remove(&sandbox);
                match self.sandboxes.get_mut(&sandbox) {
                    Some(known) => known.want(*policy),
                    None => {
                        let known = Known {
                            wanted: *policy,
                            ledger: Ledger::default(),
                            established: false,
                        };
                        self.sandboxes.insert(sandbox.clone(), known);
                    }
                }
                What::Set {
                    sandbox,
                    reply: Some(reply),
                }
            }
            Order::Remove { sandbox, reply } => {
                if self.sandboxes.remove(&sandbox).is_none() && !self.removed.contains(&sandbox) {
                    // Whoever stopped waiting needs no answer; the same below.
                    reply.send(()).ok();
                    return None;
                }
                self.removed.insert(sandbox.clone());
                What::Remove {
                    sandbox,
                    reply: Some(reply),
                }
            }
            Order::Take { sandbox, reply } => What::Take { sandbox, reply },
            Order::Close => return None,
        };
        Some(Question {
            what,
            since: Instant::now(),
        })
    }

    /// Sends what an order asks. Nobody is let out by an old list of addresses: such a policy waits
    /// for a new one.
    pub(super) fn order(&mut self, link: &mut Link, order: Order) {
        let Some(question) = self.note(order) else {
            return;
        };
        let lets_out = match &question.what {
            What::Set { sandbox, .. } => {
                let known = self.sandboxes.get(sandbox);
                known.is_some_and(|known| known.is_out())
            }
            _ => false,
        };
        if lets_out && !self.is_list_younger(FRESH) {
            self.waiting.push(question);
        } else {
            self.ask(link, question);
        }
    }

    fn is_list_younger(&self, age: Duration) -> bool {
        let now = Instant::now();
        self.denied_since.is_some_and(|since| now < since + age)
    }

    /// Whether somebody waits for the list of denied addresses, or it must be made again anyhow.
    pub(super) fn is_renewal_due(&self) -> bool {
        let now = Instant::now();
        !self.waiting.is_empty() || self.renewal_due().is_some_and(|due| due <= now)
    }

    /// When the list must be made again though nobody waits for it.
    pub(super) fn renewal_due(&self) -> Option<Instant> {
        let since = self.denied_since.filter(|_| self.is_anybody_out())?;
        let again = self.tried.map(|tried| tried + FRESH);
        Some((since + RENEWAL).max(again.unwrap_or(since)))
    }

    /// The list was made again, or could not be. Who waited for it is then not let out; who is
    /// out stays so, by the list that the proxy has, until it is tried again, or the list is too
    /// old for anybody.
    pub(super) fn renewed(
        &mut self,
        link: &mut Link,
        made: Result<Vec<AddressRange>, EngineError>,
    ) {
        self.tried = Some(Instant::now());
        let waiting = std::mem::take(&mut self.waiting);
        let denied = match made {
            Ok(denied) => denied,
            Err(error) => {
                tracing::warn!(%error, "the denied addresses are as old as they are");
                for question in waiting {
                    let next = self.decline(question, error.kind, &error.message);
                    if let Some(next) = next {
                        self.ask(link, next);
                    }
                }
                if !self.is_list_younger(STALE) {
                    self.call_in(link);
                }
                return;
            }
        };
        let since = Instant::now();
        self.denied_since = Some(since);
        if denied != self.denied {
            self.denied = denied;
            let what = What::Deny;
            self.ask(link, Question { what, since });
        }
        for mut question in waiting {
            question.since = since;
            self.ask(link, question);
        }
    }

    /// Isolates everybody who is out. Whose network ends before its phase does is no fault of the
    /// task, so that counts as a lost proxy.
    fn call_in(&mut self, link: &mut Link) {
        let out = self.sandboxes.iter_mut();
        let out = out.filter(|(_, known)| known.established && known.is_out());
        let sandboxes: Vec<String> = out
            .map(|(sandbox, known)| {
                known.ledger.cut_off();
                sandbox.clone()
            })
            .collect();
        for sandbox in sandboxes {
            tracing::warn!(
                sandbox,
                "a sandbox has lost its network: the denied addresses could not be made again for \
                 too long"
            );
            self.close_down(&sandbox);
            self.ask(link, Question::set_again(&sandbox));
        }
    }

    /// Whether any sandbox may reach something.
    pub(super) fn is_anybody_out(&self) -> bool {
        self.sandboxes.values().any(Known::is_out)
    }

    /// Asks what those who are out have used, who were not asked about already.
    pub(super) fn ask_round(&mut self, link: &mut Link) {
        let is_asked = |sandbox: &String| {
            let mut asked = self.asked.values();
            asked.any(|question| matches!(&question.what, What::Count { sandbox: theirs } if theirs == sandbox))
        };
        let out = self.sandboxes.iter();
        let out = out.filter(|(_, known)| known.established && known.is_out());
        let sandboxes = out.map(|(sandbox, _)| sandbox);
        let due: Vec<String> = sandboxes
            .filter(|&sandbox| !is_asked(sandbox))
            .cloned()
            .collect();
        let since = Instant::now();
        for sandbox in due {
            let what = What::Count { sandbox };
            self.ask(link, Question { what, since });
        }
    }

    /// Keeps an order for when there is a connection.
    pub(super) fn park(&mut self, order: Order) {
        match self.note(order) {
            Some(Question {
                what: What::Remove {
                    reply: Some(reply), ..
                },
                ..
            }) => {
                reply.send(()).ok();
            }
            Some(question) => self.parked.push(question),
            None => {}
        }
    }

    /// There is a connection, to this process, which knows these addresses.
    pub(super) fn connected(
        &mut self,
        process: String,
        denied: Vec<AddressRange>,
        early: Vec<ControlEvent>,
    ) {
        self.was_connected = true;
        self.last_failure = None;
        self.denied = denied;
        self.denied_since = Some(Instant::now());
        let before = self.process.replace(process);
        if before.is_some() && before != self.process {
            let established = self
                .sandboxes
                .values_mut()
                .filter(|known| known.established);
            for known in established {
                known.ledger.proxy_lost(&known.wanted.policy.limits);
            }
        }
        for event in early {
            // Nothing was asked yet.
            if let ControlEvent::Connection(record) = event {
                self.record(*record);
            }
        }
    }

    /// On a new connection: everything that shall be in force, then what was waited for.
    pub(super) fn resume(&mut self, link: &mut Link) {
        let since = Instant::now();
        for sandbox in self.removed.clone() {
            let what = What::Remove {
                sandbox,
                reply: None,
            };
            self.ask(link, Question { what, since });
        }
        let mut parked = std::mem::take(&mut self.parked);
        for sandbox in self.sandboxes.keys().cloned().collect::<Vec<_>>() {
            let mut is_set = false;
            let questions: Vec<Question> = parked
                .extract_if(.., |question| {
                    matches!(&question.what, What::Set { sandbox: theirs, .. } if *theirs == sandbox)
                })
                .collect();
            for mut question in questions {
                question.since = since;
                is_set = true;
                self.ask(link, question);
            }
            if !is_set {
                self.ask(link, Question::set_again(&sandbox));
            }
        }
        for mut question in parked {
            question.since = since;
            self.ask(link, question);
        }
    }

    /// Sends what a question asks. What cannot be sent is refused.
    fn ask(&mut self, link: &mut Link, question: Question) {
        let mut next = Some(question);
        while let Some(question) = next.take() {
            let sent = match self.request(&question.what) {
                Ok(request) => link.send(request).map_err(|error| error.to_string()),
                Err(missing) => {
                    self.refuse(question, EngineErrorKind::NotFound, missing);
                    continue;
                }
            };
            match sent {
                Ok(id) => {
                    self.asked.insert(id, question);
                }
                // The policy before is still in force at the proxy.
                Err(message) => {
                    next = self.decline(question, EngineErrorKind::Rejected, &message);
                }
            }
        }
    }

    fn request(&mut self, what: &What) -> Result<ControlRequest, &'static str> {
        Ok(match what {
            What::Set { sandbox, .. } => {
                let known = self.sandboxes.get_mut(sandbox);
                let known = known.ok_or("it is gone")?;
                let mut policy = known.wanted.clone();
                policy.policy.limits = known.ledger.grant(policy.policy.limits);
                ControlRequest::Set(Box::new(policy))
            }
            What::Remove { sandbox, .. } => ControlRequest::Remove {
                sandbox: sandbox.clone(),
            },
            What::Take { sandbox, .. } | What::Count { sandbox } => {
                if !self.sandboxes.contains_key(sandbox) {
                    return Err("it has no network");
                }
                ControlRequest::Stats {
                    sandbox: sandbox.clone(),
                }
            }
            What::Deny => ControlRequest::Hello {
                version: CONTROL_VERSION,
                denied: self.denied.clone(),
            },
        })
    }

    /// Takes in what the proxy says. What fails here must not go on: the proxy has not done what
    /// all depends on.
    pub(super) fn event(&mut self, link: &mut Link, event: ControlEvent) -> Result<(), LinkError> {
        let (id, error, counters) = match event {
            ControlEvent::Connection(record) => {
                self.record(*record);
                return Ok(());
            }
            ControlEvent::Answer {
                id,
                error,
                counters,
            } => (id, error, counters),
        };
        let Some(question) = self.asked.remove(&id) else {
            return Ok(());
        };
        match error {
            None => self.answered(question, counters.unwrap_or_default()),
            Some(error) if matches!(question.what, What::Deny) => {
                return Err(LinkError::Refused(error));
            }
            Some(error) => {
                let message = format!("the egress proxy refuses: {error}");
                let next = self.decline(question, EngineErrorKind::Rejected, &message);
                if let Some(next) = next {
                    self.ask(link, next);
                }
            }
        }
        Ok(())
    }

    fn record(&mut self, record: ConnectionRecord) {
        match self.sandboxes.get_mut(&record.sandbox) {
            Some(known) => known.ledger.note(record),
            None => tracing::debug!(
                sandbox = record.sandbox,
                "a connection ended whose sandbox is gone"
            ),
        }
    }

    fn answered(&mut self, question: Question, counters: EgressCounters) {
        match question.what {
            What::Count { sandbox } => {
                if let Some(known) = self.sandboxes.get_mut(&sandbox) {
                    known.ledger.report(counters);
                }
            }
            What::Deny => {}
            What::Set { sandbox, reply } => {
                if let Some(known) = self.sandboxes.get_mut(&sandbox) {
                    known.established = true;
                }
                if let Some(reply) = reply {
                    reply.send(Ok(())).ok();
                }
            }
            What::Remove { sandbox, reply } => {
                self.removed.remove(&sandbox);
                if let Some(reply) = reply {
                    reply.send(()).ok();
                }
            }
            What::Take { sandbox, reply } => {
                let Some(known) = self.sandboxes.get_mut(&sandbox) else {
                    return;
                };
                let records = known.ledger.take(counters);
                if let Err(Ok(records)) = reply.send(Ok(records)) {
                    known.ledger.give_back(records);
                }
            }
        }
    }

    /// Tells whoever asked that it will not be, and sees to it that nothing is in force that
    /// nobody believes to be.
    fn refuse(&mut self, question: Question, kind: EngineErrorKind, message: &str) {
        match question.what {
            What::Set { sandbox, reply } => {
                self.close_down(&sandbox);
                if let Some(reply) = reply {
                    reply.send(Err(failure(kind, &sandbox, message))).ok();
                } else {
                    tracing::warn!(sandbox, message, "a sandbox has lost its network");
                }
            }
            What::Remove { sandbox, reply } => {
                tracing::debug!(sandbox, message, "a policy could not be removed");
                if let Some(reply) = reply {
                    reply.send(()).ok();
                }
            }
            What::Take { sandbox, reply } => {
                reply.send(Err(failure(kind, &sandbox, message))).ok();
            }
            What::Count { sandbox } => {
                tracing::debug!(sandbox, message, "what a sandbox has used is not known");
            }
            // Too long a list of addresses; on the next connection it is the greeting that fails.
            What::Deny => tracing::warn!(message, "the denied addresses could not be renewed"),
        }
    }

    /// Refuses, and gives what must be asked then: a refused policy leaves the one before in
    /// force at the proxy, and nothing is better than that.
    fn decline(
        &mut self,
        question: Question,
        kind: EngineErrorKind,
        message: &str,
    ) -> Option<Question> {
        let isolation = match &question.what {
            What::Set { sandbox, .. } => {
                let known = self.sandboxes.get(sandbox);
                // Nothing follows when that is what was refused.
                let needed = known.is_some_and(|known| {
                    known.established && known.wanted.policy != EgressPolicy::isolated()
                });
                needed.then(|| Question::set_again(sandbox))
            }
            _ => None,
        };
        self.refuse(question, kind, message);
        isolation
    }

    /// What was asked for is not in force, and what was before may be more than is wanted now.
    fn close_down(&mut self, sandbox: &str) {
        let Some(known) = self.sandboxes.get_mut(sandbox) else {
            return;
        };
        if known.established {
            let mut nothing = known.wanted.clone();
            nothing.policy = EgressPolicy::isolated();
            known.want(nothing);
        } else {
            self.sandboxes.remove(sandbox);
            self.removed.insert(sandbox.to_owned());
        }
    }

    pub(super) fn connection_lost(&mut self) {
        let asked = std::mem::take(&mut self.asked).into_values();
        let waiting = std::mem::take(&mut self.waiting);
        for question in asked.chain(waiting) {
            match question.what {
                // What is wanted is sent again anyhow, and the next connection has its own list.
                What::Set { reply: None, .. } | What::Count { .. } | What::Deny => {}
                What::Remove { reply, .. } => {
                    if let Some(reply) = reply {
                        reply.send(()).ok();
                    }
                }
                What::Set { .. } | What::Take { .. } => self.parked.push(question),
            }
        }
    }

    pub(super) fn attempt_failed(&mut self, error: EngineError) {
        let hopeless = matches!(
            error.kind,
            EngineErrorKind::Rejected
                | EngineErrorKind::Unsupported
                | EngineErrorKind::Denied
                | EngineErrorKind::Exhausted
        );
        if hopeless {
            for question in std::mem::take(&mut self.parked) {
                self.refuse(question, error.kind, &error.message);
            }
        }
        self.last_failure = Some(error);
        self.expire();
    }

    /// Gives up for those who have waited long enough.
    pub(super) fn expire(&mut self) {
        let patience = self.patience();
        let now = Instant::now();
        let late: Vec<Question> = self
            .parked
            .extract_if(.., |question| now >= question.since + patience)
            .collect();
        if late.is_empty() {
            return;
        }
        let why = match &self.last_failure {
            Some(error) => error.message.clone(),
            None => "it does not answer".to_owned(),
        };
        let message = format!("the egress proxy is out of reach: {why}");
        for question in late {
            self.refuse(question, EngineErrorKind::Unavailable, &message);
        }
    }
}
