//! The task that holds the control connection: how it is made, served, and made again when the
//! proxy is gone. What shall be in force, and who waits for what, is [`state`].

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use forge_api::egress::{ControlEvent, SandboxPolicy};
use forge_core::egress::AddressRange;
use forge_engine::channel::Duplex;
use forge_engine::{EgressRecords, EngineError, EngineErrorKind, Operation};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};

use super::link::{Link, LinkError};
use state::State;

mod state;

/// How a driver ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The proxy is still this handle's.
    Closed,
    /// It is another process's by now, and not to be touched.
    Superseded,
}

/// Why there is no control connection.
#[derive(Debug)]
pub(super) enum Unopened {
    /// Another process controls the proxy.
    Superseded,
    Failed(EngineError),
}

impl From<EngineError> for Unopened {
    fn from(error: EngineError) -> Self {
        Self::Failed(error)
    }
}

const OPERATION: Operation = Operation::Network;
/// How long a request waits for a proxy that is made for the first time: longer than one attempt,
/// so that it is told what came of it.
const FIRST_PATIENCE: Duration = Duration::from_secs(70);
/// How long a request waits for a proxy that was there and is brought back.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long one attempt to reach the proxy may take, all that must be made for it included.
const ATTEMPT: Duration = Duration::from_secs(60);
/// How long an answer may take before the proxy counts as gone.
const ANSWER: Duration = Duration::from_secs(10);
/// Between attempts, doubled up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How old the list of denied addresses may be when somebody is let out.
const FRESH: Duration = Duration::from_secs(30);
/// After this time the list is made again while anybody is out.
const RENEWAL: Duration = Duration::from_secs(120);
/// Whoever is out by a list of this age is isolated.
const STALE: Duration = Duration::from_secs(600);
/// How often the proxy is asked what those who are out have used: what it has not told is lost
/// with it.
const ROUND: Duration = Duration::from_secs(2);

/// A fresh control connection, nothing said on it yet.
pub(super) struct Control {
    pub(super) stream: Box<dyn Duplex>,
    /// Addresses of the engine's machine, in order.
    pub(super) denied: Vec<AddressRange>,
    /// Tells the proxy's process from those before and after it.
    pub(super) process: String,
}

/// Makes control connections, and whatever must be there for one.
#[async_trait]
pub(super) trait Source: Send + Sync {
    /// A new connection.
    async fn connect(&self) -> Result<Control, Unopened>;

    /// The addresses that are denied as they are now, in order.
    async fn denied(&self) -> Result<Vec<AddressRange>, EngineError>;
}

/// What the driver is asked for. Whoever drops the receiver of an answer stops waiting; what was
/// asked for is done all the same.
pub(super) enum Order {
    /// Put a policy in force.
    Set {
        policy: Box<SandboxPolicy>,
        reply: Reply<()>,
    },
    /// Find out what an earlier process left of a sandbox, and look after it from now on.
    Inherit { sandbox: String },
    /// Forget a sandbox. Answered at once when the proxy is gone: then nothing of it is in force.
    Remove {
        sandbox: String,
        /// Whether an earlier process may have set a policy for it.
        inherited: bool,
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

/// Why a connection was left.
enum Stop {
    Closed,
    Lost(LinkError),
}

/// Serves orders until it is told to close, or nobody is left who could order. `engine` tells this
/// driver from those of other processes, and `inherits` whether one of those may have had the proxy
/// before.
pub(super) async fn run(
    source: Arc<dyn Source>,
    mut orders: mpsc::Receiver<Order>,
    engine: String,
    inherits: bool,
) -> End {
    let mut state = State::new(engine, inherits);
    match control(&source, &mut orders, &mut state).await {
        End::Closed => End::Closed,
        End::Superseded => {
            tracing::warn!("another process controls the egress proxy now");
            state.superseded();
            loop {
                match orders.recv().await {
                    None | Some(Order::Close) => return End::Superseded,
                    Some(order) => State::turn_down(order),
                }
            }
        }
    }
}

/// Serves orders as long as the proxy is this driver's.
async fn control(
    source: &Arc<dyn Source>,
    orders: &mut mpsc::Receiver<Order>,
    state: &mut State,
) -> End {
    let mut pause = FIRST_PAUSE;
    loop {
        while state.is_idle() {
            // Nobody needs the proxy, so nobody brings it back.
            match orders.recv().await {
                None | Some(Order::Close) => return End::Closed,
                Some(order) => state.park(order),
            }
        }
        match connect(source, orders, state).await {
            None => return End::Closed,
            Some(Ok(opened)) => {
                pause = FIRST_PAUSE;
                match serve(opened, source, orders, state).await {
                    Stop::Closed => return End::Closed,
                    Stop::Lost(LinkError::Superseded) => return End::Superseded,
                    Stop::Lost(error) => {
                        tracing::warn!(%error, "the egress proxy is out of reach");
                        state.connection_lost();
                    }
                }
            }
            Some(Err(Unopened::Superseded)) => return End::Superseded,
            Some(Err(Unopened::Failed(error))) => {
                tracing::debug!(%error, "the egress proxy could not be reached");
                state.attempt_failed(error);
            }
        }
        if !rest(pause, orders, state).await {
            return End::Closed;
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// A connection that greeted.
struct Opened {
    link: Link,
    /// What came before the greeting was answered.
    early: Vec<ControlEvent>,
    denied: Vec<AddressRange>,
    process: String,
}

/// One attempt; orders that come meanwhile are kept. `None` when it is time to close, and then
/// nothing is under way any more: what was being made could not be removed.
async fn connect(
    source: &Arc<dyn Source>,
    orders: &mut mpsc::Receiver<Order>,
    state: &mut State,
) -> Option<Result<Opened, Unopened>> {
    let mut opening = Box::pin(open(source.clone(), state.engine().to_owned()));
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

async fn open(source: Arc<dyn Source>, engine: String) -> Result<Opened, Unopened> {
    let greeting = async {
        let control = source.connect().await?;
        let mut link = Link::new(control.stream);
        match timeout(ANSWER, link.greet(control.denied.clone(), &engine)).await {
            Ok(Ok(early)) => Ok(Opened {
                link,
                early,
                denied: control.denied,
                process: control.process,
            }),
            Ok(Err(LinkError::Superseded)) => Err(Unopened::Superseded),
            Ok(Err(error)) => Err(link_error(error).into()),
            Err(_) => Err(link_error(LinkError::Silent).into()),
        }
    };
    match timeout(ATTEMPT, greeting).await {
        Ok(opened) => opened,
        Err(_) => Err(failure(
            EngineErrorKind::Unavailable,
            "",
            "the egress proxy was not ready in time",
        )
        .into()),
    }
}

fn link_error(error: LinkError) -> EngineError {
    let kind = match error {
        LinkError::Ended | LinkError::Broken(_) | LinkError::Silent => EngineErrorKind::Unavailable,
        LinkError::Malformed(_) => EngineErrorKind::Corrupt,
        LinkError::Refused(_) => EngineErrorKind::Unsupported,
        LinkError::Superseded => EngineErrorKind::Conflict,
    };
    failure(kind, "", &error.to_string()).with_source(error)
}

/// The list of denied addresses while it is made again.
type Renewal<'s> =
    Pin<Box<dyn Future<Output = Result<Vec<AddressRange>, EngineError>> + Send + 's>>;

/// Serves orders over a connection that greeted.
async fn serve(
    opened: Opened,
    source: &Arc<dyn Source>,
    orders: &mut mpsc::Receiver<Order>,
    state: &mut State,
) -> Stop {
    let mut link = opened.link;
    state.connected(opened.process, opened.denied, opened.early);
    state.resume(&mut link);
    let mut renewal: Option<Renewal<'_>> = None;
    let mut round = Instant::now() + ROUND;
    let stop = loop {
        if renewal.is_none() && state.is_renewal_due() {
            renewal = Some(Box::pin(renewed(source)));
        }
        if !state.is_anybody_out() {
            // Who gets out later has used nothing yet.
            round = Instant::now() + ROUND;
        }
        let late = state.answer_due();
        let due = state.renewal_due().filter(|_| renewal.is_none());
        tokio::select! {
            progress = link.progress() => match progress {
                Ok(None) => {}
                Ok(Some(event)) => if let Err(error) = state.event(&mut link, event) {
                    break Stop::Lost(error);
                },
                Err(error) => break Stop::Lost(error),
            },
            order = orders.recv() => match order {
                None | Some(Order::Close) => break Stop::Closed,
                Some(order) => state.order(&mut link, order),
            },
            made = ready(&mut renewal) => {
                renewal = None;
                state.renewed(&mut link, made);
            }
            () = sleep_until(round), if state.is_anybody_out() => {
                round = Instant::now() + ROUND;
                state.ask_round(&mut link);
            }
            () = at(due) => {}
            () = at(late) => break Stop::Lost(LinkError::Silent),
        }
    };
    if let (Stop::Closed, Some(renewal)) = (&stop, renewal) {
        // What is being made for it could not be removed; nobody waits for the list any more.
        renewal.await.ok();
    }
    stop
}

async fn renewed(source: &Arc<dyn Source>) -> Result<Vec<AddressRange>, EngineError> {
    match timeout(ATTEMPT, source.denied()).await {
        Ok(made) => made,
        Err(_) => Err(failure(
            EngineErrorKind::Deadline,
            "",
            "the denied addresses were not found out in time",
        )),
    }
}

/// Resolves when the list is made, or never when none is being made.
async fn ready(renewal: &mut Option<Renewal<'_>>) -> Result<Vec<AddressRange>, EngineError> {
    match renewal {
        Some(renewal) => renewal.await,
        None => std::future::pending().await,
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

fn failure(kind: EngineErrorKind, subject: &str, message: &str) -> EngineError {
    EngineError::new(kind, OPERATION, subject, message)
}

#[cfg(test)]
mod tests;
