//! What shall be in force, what is asked of the proxy, and who waits for which answer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use forge_api::egress::{
    CONTROL_VERSION, ControlEvent, ControlRequest, Inheritance, SandboxPolicy,
};
use forge_core::connection::{ConnectionRecord, EgressCounters};
use forge_core::egress::AddressRange;
use forge_core::{EgressPolicy, NetworkLevel};
use forge_engine::{EgressRecords, EngineError, EngineErrorKind};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{ANSWER, FIRST_PATIENCE, FRESH, Order, PATIENCE, RENEWAL, Reply, STALE, failure};
use crate::egress::ledger::Ledger;
use crate::egress::link::{Link, LinkError};

/// Records of sandboxes that nobody asked for, at most.
const MOST_STRANGE: usize = 32_768;
/// What is said to whoever asks for something that another engine decides.
const SUPERSEDED: &str = "another process controls its egress proxy now";

/// A question and how long somebody has been waiting.
pub(super) struct Question {
    what: What,
    since: Instant,
}

impl Question {
    fn now(what: What) -> Self {
        Self {
            what,
            since: Instant::now(),
        }
    }

    /// That what is wanted be in force, which nobody waits for.
    fn set_again(sandbox: &str) -> Self {
        Self::now(What::Set {
            sandbox: sandbox.to_owned(),
            reply: None,
        })
    }

    /// The sandbox that must be looked up before this is asked.
    fn about(&self) -> Option<&String> {
        match &self.what {
            What::Set { sandbox, .. } | What::Take { sandbox, .. } => Some(sandbox),
            _ => None,
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
    /// What an earlier engine left of a sandbox.
    Inherit { sandbox: String },
    /// That records of a sandbox were handed on.
    Taken { sandbox: String, number: u64 },
    /// The list of denied addresses.
    Deny,
}

/// A sandbox whose socket is open, or shall be.
struct Known {
    /// Unknown where another engine has set it, as long as the proxy was not asked; and also then
    /// where that was another proxy.
    wanted: Option<SandboxPolicy>,
    ledger: Ledger,
    /// Whether a policy was ever in force. One that never was has nothing to lose.
    established: bool,
    looked_up: LookUp,
    /// Whether another engine has set a policy for certain.
    inherited: bool,
}

/// Whether it is known what an earlier engine left of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LookUp {
    Due,
    Asked,
    Done,
}

impl Known {
    /// Takes over what shall be in force. The proxy begins to count anew with another phase or
    /// level, and so does the ledger.
    fn want(&mut self, policy: SandboxPolicy) {
        if let Some(before) = &self.wanted
            && !is_same_stretch(before, &policy)
        {
            self.ledger.begin();
        }
        self.wanted = Some(policy);
    }

    /// Whether it may reach something.
    fn is_out(&self) -> bool {
        let wanted = self.wanted.as_ref();
        wanted.is_some_and(|wanted| wanted.policy.level != NetworkLevel::Isolated)
    }

    /// Takes over what an earlier engine left.
    fn inherit(&mut self, left: Option<Box<Inheritance>>, counters: EgressCounters) {
        match left {
            Some(left) => {
                self.established = true;
                self.ledger.inherit(counters, left.taken);
                match &self.wanted {
                    Some(wanted) if !is_same_stretch(&left.policy, wanted) => self.ledger.begin(),
                    Some(_) => {}
                    None => self.wanted = Some(left.policy),
                }
            }
            None if self.inherited => {
                // Its container may hold its folder, which goes with a sandbox that has no socket.
                self.established = true;
                self.ledger.inherit_nothing();
            }
            None => {}
        }
    }
}

/// Whether the proxy counts on from the one to the other.
fn is_same_stretch(before: &SandboxPolicy, after: &SandboxPolicy) -> bool {
    before.context.phase == after.context.phase && before.policy.level == after.policy.level
}

/// Everything the driver knows.
#[derive(Default)]
pub(super) struct State {
    sandboxes: BTreeMap<String, Known>,
    /// Whether the proxy may have been another engine's.
    inherits: bool,
    /// Tells this engine from others that control the same proxy.
    engine: String,
    /// What came of sandboxes that an earlier engine has set policies for, and that nobody asked
    /// for yet.
    strangers: BTreeMap<String, Ledger>,
    /// How many records that are.
    strange: usize,
    /// Sandboxes that are gone and that the proxy may not know to be.
    removed: BTreeSet<String>,
    /// Asked on this connection.
    asked: BTreeMap<u64, Question>,
    /// Waiting for a connection.
    parked: Vec<Question>,
    /// Waiting for a list of denied addresses that is young enough.
    waiting: Vec<Question>,
    /// Waiting until their sandbox is looked up.
    behind: Vec<Question>,
    /// The list that the proxy has.
    denied: Vec<AddressRange>,
    /// When it was made.
    denied_since: Option<Instant>,
    /// When it was last tried to make it, with or without success.
    tried: Option<Instant>,
    /// Which process the last connection was to.
    process: Option<String>,
    /// The number of the last record of it.
    last_number: u64,
    /// Why there is none.
    last_failure: Option<EngineError>,
    was_connected: bool,
}

impl State {
    pub(super) fn new(engine: String, inherits: bool) -> Self {
        Self {
            engine,
            inherits,
            ..Self::default()
        }
    }

    pub(super) fn engine(&self) -> &str {
        &self.engine
    }

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
                    None => self.know(&sandbox, Some(*policy)),
                }
                What::Set {
                    sandbox,
                    reply: Some(reply),
                }
            }
            Order::Inherit { sandbox } => {
                if self.sandboxes.contains_key(&sandbox) {
                    return None;
                }
                self.removed.remove(&sandbox);
                self.know(&sandbox, None);
                What::Inherit { sandbox }
            }
            Order::Remove {
                sandbox,
                inherited,
                reply,
            } => {
                let known = self.sandboxes.remove(&sandbox).is_some();
                self.strangers.remove(&sandbox);
                if !known && !inherited && !self.removed.contains(&sandbox) {
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
        Some(Question::now(what))
    }

    /// Remembers a sandbox from now on; without a policy where another engine has set it.
    fn know(&mut self, sandbox: &str, wanted: Option<SandboxPolicy>) {
        let ledger = self.strangers.remove(sandbox).unwrap_or_default();
        self.strange = self.strangers.values().map(Ledger::len).sum();
        let known = Known {
            inherited: wanted.is_none(),
            wanted,
            ledger,
            established: false,
            looked_up: if self.inherits {
                LookUp::Due
            } else {
                LookUp::Done
            },
        };
        self.sandboxes.insert(sandbox.to_owned(), known);
    }

    /// Sends what an order asks. Nobody is let out by an old list of addresses: such a policy waits
    /// for a new one.
    pub(super) fn order(&mut self, link: &mut Link, order: Order) {
        let Some(question) = self.note(order) else {
            return;
        };
        if let What::Inherit { sandbox } = &question.what {
            self.look_up(link, sandbox);
            return;
        }
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
            // Asked on every connection until it is known.
            Some(Question {
                what: What::Inherit { .. },
                ..
            })
            | None => {}
            Some(question) => self.parked.push(question),
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
                let limits = known.wanted.as_ref().map(|wanted| wanted.policy.limits);
                known.ledger.proxy_lost(limits.as_ref());
            }
            self.last_number = 0;
        }
        for event in early {
            // Nothing was asked yet.
            if let ControlEvent::Connection { number, record } = event {
                self.record(number, *record);
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
            // Before what else there is to ask of it.
            self.look_up(link, &sandbox);
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
            let known = self.sandboxes.get(&sandbox);
            if !is_set && known.is_some_and(|known| known.wanted.is_some()) {
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
            if let Some(sandbox) = question.about().cloned() {
                self.look_up(link, &sandbox);
                if self.is_looked_up(&sandbox) == Some(false) {
                    self.behind.push(question);
                    continue;
                }
            }
            let Some(question) = self.take_without_proxy(question) else {
                continue;
            };
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

    /// Answers for a sandbox of which the proxy knows nothing, since another one served it. Gives
    /// every other question back.
    fn take_without_proxy(&mut self, question: Question) -> Option<Question> {
        let What::Take { sandbox, reply } = question.what else {
            return Some(question);
        };
        match self.sandboxes.get_mut(&sandbox) {
            Some(known) if known.wanted.is_none() => {
                let records = known.ledger.take(EgressCounters::default());
                if let Err(Ok(records)) = reply.send(Ok(records)) {
                    known.ledger.give_back(records);
                }
                None
            }
            _ => Some(Question {
                what: What::Take { sandbox, reply },
                ..question
            }),
        }
    }

    /// Whether it is known what an earlier engine left of a sandbox; `None` where it is gone.
    fn is_looked_up(&self, sandbox: &str) -> Option<bool> {
        let known = self.sandboxes.get(sandbox)?;
        Some(known.looked_up == LookUp::Done)
    }

    /// Asks what an earlier engine left of a sandbox where that was not asked.
    fn look_up(&mut self, link: &mut Link, sandbox: &str) {
        let Some(known) = self.sandboxes.get_mut(sandbox) else {
            return;
        };
        if known.looked_up == LookUp::Due {
            known.looked_up = LookUp::Asked;
            let sandbox = sandbox.to_owned();
            self.ask(link, Question::now(What::Inherit { sandbox }));
        }
    }

    fn request(&mut self, what: &What) -> Result<ControlRequest, &'static str> {
        Ok(match what {
            What::Set { sandbox, .. } => {
                let known = self.sandboxes.get_mut(sandbox);
                let known = known.ok_or("it is gone")?;
                let mut policy = known.wanted.clone().ok_or("it has no policy")?;
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
            What::Inherit { sandbox } => ControlRequest::Inherit {
                sandbox: sandbox.clone(),
            },
            What::Taken { sandbox, number } => ControlRequest::Taken {
                sandbox: sandbox.clone(),
                number: *number,
            },
            What::Deny => ControlRequest::Hello {
                version: CONTROL_VERSION,
                denied: self.denied.clone(),
                engine: self.engine.clone(),
            },
        })
    }

    /// Takes in what the proxy says. What fails here must not go on: the proxy has not done what
    /// all depends on.
    pub(super) fn event(&mut self, link: &mut Link, event: ControlEvent) -> Result<(), LinkError> {
        let (id, error, counters, left) = match event {
            ControlEvent::Connection { number, record } => {
                self.record(number, *record);
                return Ok(());
            }
            ControlEvent::Superseded => return Err(LinkError::Superseded),
            ControlEvent::Answer {
                id,
                error,
                counters,
                inheritance,
            } => (id, error, counters.unwrap_or_default(), inheritance),
        };
        let Some(question) = self.asked.remove(&id) else {
            return Ok(());
        };
        match error {
            None => match question.what {
                What::Inherit { sandbox } => self.inherited(link, &sandbox, left, counters),
                _ => self.answered(link, question, counters),
            },
            Some(error) if matches!(question.what, What::Deny | What::Inherit { .. }) => {
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

    /// Takes in a record, once: on a new connection the proxy sends again what was not taken.
    fn record(&mut self, number: u64, record: ConnectionRecord) {
        if number <= self.last_number {
            return;
        }
        self.last_number = number;
        if let Some(known) = self.sandboxes.get_mut(&record.sandbox) {
            known.ledger.note(number, record);
        } else if self.inherits
            && !self.removed.contains(&record.sandbox)
            && self.strange < MOST_STRANGE
        {
            self.strange += 1;
            let ledger = self.strangers.entry(record.sandbox.clone());
            ledger.or_default().note(number, record);
        } else {
            tracing::debug!(
                sandbox = record.sandbox,
                "a connection ended whose sandbox is gone"
            );
        }
    }

    /// The proxy has said what an earlier engine left of a sandbox.
    fn inherited(
        &mut self,
        link: &mut Link,
        sandbox: &str,
        left: Option<Box<Inheritance>>,
        counters: EgressCounters,
    ) {
        if let Some(known) = self.sandboxes.get_mut(sandbox) {
            known.looked_up = LookUp::Done;
            known.inherit(left, counters);
        }
        let is_about = |question: &mut Question| question.about().is_some_and(|it| it == sandbox);
        let ready: Vec<Question> = self.behind.extract_if(.., is_about).collect();
        for mut question in ready {
            question.since = Instant::now();
            self.ask(link, question);
        }
    }

    fn answered(&mut self, link: &mut Link, question: Question, counters: EgressCounters) {
        match question.what {
            What::Count { sandbox } => {
                if let Some(known) = self.sandboxes.get_mut(&sandbox) {
                    known.ledger.report(counters);
                }
            }
            What::Deny | What::Inherit { .. } | What::Taken { .. } => {}
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
                } else if let Some(number) = known.ledger.handed_out() {
                    self.ask(link, Question::now(What::Taken { sandbox, number }));
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
            // Sent again to another engine, which then has them twice.
            What::Taken { sandbox, .. } => {
                tracing::debug!(sandbox, message, "records may be handed on twice");
            }
            What::Inherit { sandbox } => {
                tracing::debug!(sandbox, message, "what is left of a sandbox is not known");
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
                    let wanted = known.wanted.as_ref();
                    let wanted = wanted.map(|wanted| &wanted.policy);
                    known.established && wanted != Some(&EgressPolicy::isolated())
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
            if let Some(mut nothing) = known.wanted.clone() {
                nothing.policy = EgressPolicy::isolated();
                known.want(nothing);
            }
        } else {
            self.sandboxes.remove(sandbox);
            self.removed.insert(sandbox.to_owned());
        }
    }

    pub(super) fn connection_lost(&mut self) {
        let asked = std::mem::take(&mut self.asked).into_values();
        let waiting = std::mem::take(&mut self.waiting);
        let behind = std::mem::take(&mut self.behind);
        for question in asked.chain(waiting).chain(behind) {
            match question.what {
                // What is wanted is sent again anyhow, and the next connection has its own list.
                What::Set { reply: None, .. } | What::Count { .. } | What::Deny => {}
                What::Taken { sandbox, number } => {
                    if let Some(known) = self.sandboxes.get_mut(&sandbox) {
                        known.ledger.not_told(number);
                    }
                }
                What::Inherit { sandbox } => {
                    if let Some(known) = self.sandboxes.get_mut(&sandbox) {
                        known.looked_up = LookUp::Due;
                    }
                }
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

    /// Another engine controls the proxy. Nothing that is asked here is done any more.
    pub(super) fn superseded(&mut self) {
        self.connection_lost();
        for question in std::mem::take(&mut self.parked) {
            self.refuse(question, EngineErrorKind::Conflict, SUPERSEDED);
        }
    }

    /// Answers an order when another engine controls the proxy.
    pub(super) fn turn_down(order: Order) {
        match order {
            Order::Set { policy, reply } => {
                let error = failure(EngineErrorKind::Conflict, &policy.sandbox, SUPERSEDED);
                reply.send(Err(error)).ok();
            }
            Order::Take { sandbox, reply } => {
                let error = failure(EngineErrorKind::Conflict, &sandbox, SUPERSEDED);
                reply.send(Err(error)).ok();
            }
            // Whoever controls the proxy sees to it.
            Order::Remove { reply, .. } => {
                reply.send(()).ok();
            }
            Order::Inherit { .. } | Order::Close => {}
        }
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
