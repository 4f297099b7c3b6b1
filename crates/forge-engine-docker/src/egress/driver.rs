//! The task that holds the control connection: what shall be in force, who waits for what, and
//! how the proxy is brought back when it is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use forge_api::egress::{ControlEvent, ControlRequest, SandboxPolicy};
use forge_core::connection::EgressCounters;
use forge_core::egress::AddressRange;
use forge_core::{EgressPolicy, NetworkLevel};
use forge_engine::channel::Duplex;
use forge_engine::{EgressRecords, EngineError, EngineErrorKind, Operation};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};

use super::ledger::Ledger;
use super::link::{Link, LinkError};

const OPERATION: Operation = Operation::Network;
/// How long a request waits for a proxy that is made for the first time.
const FIRST_PATIENCE: Duration = Duration::from_secs(60);
/// How long a request waits for a proxy that was there and is brought back.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long one attempt to reach the proxy may take, all that must be made for it included.
const ATTEMPT: Duration = Duration::from_secs(60);
/// How long an answer may take before the proxy counts as gone.
const ANSWER: Duration = Duration::from_secs(10);
/// Between attempts, doubled up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A fresh control connection, nothing said on it yet.
pub(super) struct Control {
    pub(super) stream: Box<dyn Duplex>,
    /// Addresses of the engine's machine.
    pub(super) denied: Vec<AddressRange>,
}

/// Makes control connections, and whatever must be there for one.
#[async_trait]
pub(super) trait Source: Send + Sync {
    /// A new connection.
    async fn connect(&self) -> Result<Control, EngineError>;
}

/// What the driver is asked for. Whoever drops the receiver of an answer stops waiting; what was
/// asked for is done all the same.
pub(super) enum Order {
    /// Put a policy in force.
    Set {
        policy: Box<SandboxPolicy>,
        reply: Reply<()>,
    },
    /// Forget a sandbox. Answered at once when the proxy is gone: then nothing of it is in force.
    Remove {
        sandbox: String,
        reply: oneshot::Sender<()>,
    },
    /// Hand out the records of a sandbox.
    Take {
        sandbox: String,
        reply: Reply<EgressRecords>,
    },
    /// End.
    Close,
}

pub(super) type Reply<T> = oneshot::Sender<Result<T, EngineError>>;

/// A question and how long somebody has been waiting.
struct Question {
    what: What,
    since: Instant,
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
}

/// A sandbox whose socket is open, or shall be.
struct Known {
    wanted: SandboxPolicy,
    ledger: Ledger,
    /// Whether a policy was ever in force. One that never was has nothing to lose.
    established: bool,
}

/// Why a connection was left.
enum Stop {
    Closed,
    Lost(LinkError),
}

/// Serves orders until it is told to close, or nobody is left who could order.
pub(super) async fn run(source: Arc<dyn Source>, mut orders: mpsc::Receiver<Order>) {
    let mut state = State::default();
    let mut pause = FIRST_PAUSE;
    loop {
        while state.is_idle() {
            // Nobody needs the proxy, so nobody brings it back.
            match orders.recv().await {
                None | Some(Order::Close) => return,
                Some(order) => state.park(order),
            }
        }
        match connect(&source, &mut orders, &mut state).await {
            None => return,
            Some(Ok((link, early))) => {
                pause = FIRST_PAUSE;
                for event in early {
                    state.event(event);
                }
                match serve(link, &mut orders, &mut state).await {
                    Stop::Closed => return,
                    Stop::Lost(error) => {
                        tracing::warn!(%error, "the egress proxy is out of reach");
                        state.connection_lost();
                    }
                }
            }
            Some(Err(error)) => {
                tracing::debug!(%error, "the egress proxy could not be reached");
                state.attempt_failed(error);
            }
        }
        if !rest(pause, &mut orders, &mut state).await {
            return;
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

type Opened = Result<(Link, Vec<ControlEvent>), EngineError>;

/// One attempt; orders that come meanwhile are kept. `None` when it is time to close, and then
/// nothing is under way any more: what was being made could not be removed.
async fn connect(
    source: &Arc<dyn Source>,
    orders: &mut mpsc::Receiver<Order>,
    state: &mut State,
) -> Option<Opened> {
    let mut opening = Box::pin(open(source.clone()));
    loop {
        let expiry = state.next_expiry();
        tokio::select! {
            opened = &mut opening => return Some(opened),
            order = orders.recv() => match order {
                None | Some(Order::Close) => {
                    opening.await.ok();
                    return None;
                }
                Some(order) => state.park(order),
            },
            () = at(expiry) => state.expire(),
        }
    }
}

async fn open(source: Arc<dyn Source>) -> Opened {
    let greeting = async {
        let control = source.connect().await?;
        let mut link = Link::new(control.stream);
        match timeout(ANSWER, link.greet(control.denied)).await {
            Ok(Ok(early)) => Ok((link, early)),
            Ok(Err(error)) => Err(link_error(error)),
            Err(_) => Err(link_error(LinkError::Silent)),
        }
    };
    match timeout(ATTEMPT, greeting).await {
        Ok(opened) => opened,
        Err(_) => Err(failure(
            EngineErrorKind::Unavailable,
            "",
            "the egress proxy was not ready in time",
        )),
    }
}

fn link_error(error: LinkError) -> EngineError {
    let kind = match error {
        LinkError::Ended | LinkError::Broken(_) | LinkError::Silent => EngineErrorKind::Unavailable,
        LinkError::Malformed(_) => EngineErrorKind::Corrupt,
        LinkError::Refused(_) => EngineErrorKind::Unsupported,
    };
    failure(kind, "", &error.to_string()).with_source(error)
}

/// Serves orders over a connection that greeted.
async fn serve(mut link: Link, orders: &mut mpsc::Receiver<Order>, state: &mut State) -> Stop {
    state.resume(&mut link);
    loop {
        let late = state.answer_due();
        tokio::select! {
            progress = link.progress() => match progress {
                Ok(None) => {}
                Ok(Some(event)) => {
                    if let Some(request) = state.event(event) {
                        state.ask(&mut link, request);
                    }
                }
                Err(error) => return Stop::Lost(error),
            },
            order = orders.recv() => match order {
                None | Some(Order::Close) => return Stop::Closed,
                Some(order) => {
                    let question = state.note(order);
                    if let Some(question) = question {
                        state.ask(&mut link, question);
                    }
                }
            },
            () = at(late) => return Stop::Lost(LinkError::Silent),
        }
    }
}

/// Waits before the next attempt; whether to go on.
async fn rest(pause: Duration, orders: &mut mpsc::Receiver<Order>, state: &mut State) -> bool {
    let end = Instant::now() + pause;
    loop {
        let expiry = state.next_expiry();
        tokio::select! {
            () = sleep_until(end) => return true,
            order = orders.recv() => match order {
                None | Some(Order::Close) => return false,
                Some(order) => state.park(order),
            },
            () = at(expiry) => state.expire(),
        }
    }
}

/// Resolves at a time, or never.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Everything the driver knows.
#[derive(Default)]
struct State {
    sandboxes: BTreeMap<String, Known>,
    /// Sandboxes that are gone and that the proxy may not know to be.
    removed: BTreeSet<String>,
    /// Asked on this connection.
    asked: BTreeMap<u64, Question>,
    /// Waiting for a connection.
    parked: Vec<Question>,
    /// Why there is none.
    last_failure: Option<EngineError>,
    was_connected: bool,
}

impl State {
    fn is_idle(&self) -> bool {
        self.sandboxes.is_empty() && self.parked.is_empty()
    }

    fn patience(&self) -> Duration {
        if self.was_connected {
            PATIENCE
        } else {
            FIRST_PATIENCE
        }
    }

    fn next_expiry(&self) -> Option<Instant> {
        let first = self.parked.iter().map(|question| question.since).min();
        first.map(|since| since + self.patience())
    }

    fn answer_due(&self) -> Option<Instant> {
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
                    Some(known) => known.wanted = *policy,
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

    /// Keeps an order for when there is a connection.
    fn park(&mut self, order: Order) {
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

    /// On a new connection: everything that shall be in force, then what was waited for.
    fn resume(&mut self, link: &mut Link) {
        self.was_connected = true;
        self.last_failure = None;
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
                let what = What::Set {
                    sandbox,
                    reply: None,
                };
                self.ask(link, Question { what, since });
            }
        }
        for mut question in parked {
            question.since = since;
            self.ask(link, question);
        }
    }

    /// Sends what a question asks.
    fn ask(&mut self, link: &mut Link, question: Question) {
        let request = match &question.what {
            What::Set { sandbox, .. } => match self.sandboxes.get(sandbox) {
                Some(known) => ControlRequest::Set(Box::new(known.wanted.clone())),
                // Removed since.
                None => return self.refuse(question, EngineErrorKind::NotFound, "it is gone"),
            },
            What::Remove { sandbox, .. } => ControlRequest::Remove {
                sandbox: sandbox.clone(),
            },
            What::Take { sandbox, .. } => {
                if !self.sandboxes.contains_key(sandbox) {
                    return self.refuse(question, EngineErrorKind::NotFound, "it has no network");
                }
                ControlRequest::Stats {
                    sandbox: sandbox.clone(),
                }
            }
        };
        match link.send(request) {
            Ok(id) => {
                self.asked.insert(id, question);
            }
            Err(error) => {
                let message = error.to_string();
                self.refuse(question, EngineErrorKind::Rejected, &message);
            }
        }
    }

    /// Takes in what the proxy says; gives a question that follows from it.
    fn event(&mut self, event: ControlEvent) -> Option<Question> {
        match event {
            ControlEvent::Connection(record) => {
                match self.sandboxes.get_mut(&record.sandbox) {
                    Some(known) => known.ledger.note(*record),
                    None => tracing::debug!(
                        sandbox = record.sandbox,
                        "a connection ended whose sandbox is gone"
                    ),
                }
                None
            }
            ControlEvent::Answer {
                id,
                error,
                counters,
            } => {
                let question = self.asked.remove(&id)?;
                match error {
                    None => {
                        self.answered(question, counters.unwrap_or_default());
                        None
                    }
                    Some(error) => {
                        let again = isolation_needed(&question, self);
                        let message = format!("the egress proxy refuses: {error}");
                        self.refuse(question, EngineErrorKind::Rejected, &message);
                        again
                    }
                }
            }
        }
    }

    fn answered(&mut self, question: Question, counters: EgressCounters) {
        match question.what {
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
        }
    }

    /// What was asked for is not in force, and what was before may be more than is wanted now.
    fn close_down(&mut self, sandbox: &str) {
        let Some(known) = self.sandboxes.get_mut(sandbox) else {
            return;
        };
        if known.established {
            known.wanted.policy = EgressPolicy::isolated();
        } else {
            self.sandboxes.remove(sandbox);
            self.removed.insert(sandbox.to_owned());
        }
    }

    fn connection_lost(&mut self) {
        for (_, question) in std::mem::take(&mut self.asked) {
            match question.what {
                // What is wanted is sent again anyhow.
                What::Set { reply: None, .. } => {}
                What::Remove { reply, .. } => {
                    if let Some(reply) = reply {
                        reply.send(()).ok();
                    }
                }
                What::Set { .. } | What::Take { .. } => self.parked.push(question),
            }
        }
    }

    fn attempt_failed(&mut self, error: EngineError) {
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
    fn expire(&mut self) {
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

/// A refused policy leaves the one before in force: nothing is better than that.
fn isolation_needed(question: &Question, state: &State) -> Option<Question> {
    let What::Set { sandbox, .. } = &question.what else {
        return None;
    };
    let known = state.sandboxes.get(sandbox)?;
    if !known.established || known.wanted.policy.level == NetworkLevel::Isolated {
        return None;
    }
    Some(Question {
        what: What::Set {
            sandbox: sandbox.clone(),
            reply: None,
        },
        since: Instant::now(),
    })
}

fn failure(kind: EngineErrorKind, subject: &str, message: &str) -> EngineError {
    EngineError::new(kind, OPERATION, subject, message)
}

#[cfg(test)]
mod tests;
