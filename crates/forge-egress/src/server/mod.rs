//! The sockets of sandboxes: each is served by a task of its own, judged by the policy of its
//! sandbox, and gone with it.

mod body;
mod buffers;
mod connection;
mod copy;
mod http;
pub(crate) mod kept;
mod ledger;
mod leg;
mod outgoing;
mod refusal;
mod response;
mod sandbox;
mod secured;
mod sniff;
mod sockets;
mod tunnel;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use forge_api::egress::{Inheritance, SandboxPolicy};
use forge_core::connection::EgressCounters;
use forge_core::egress::AddressRange;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::SndBuf;
use tokio::net::UnixListener;
use tokio::sync::Mutex;
use tokio::time::timeout;

pub use buffers::MOST_BUFFERED;

use crate::audit::Log;
use crate::resolve::Outside;
use crate::server::buffers::Pool;
use crate::server::sandbox::{Current, Sandbox};
use crate::tasks::{self, OwnedTask, Tasks};

/// Sandboxes with a socket.
const MOST_SANDBOXES: usize = 2048;
/// Connections beyond the bound of a sandbox that are told so; more are closed without a word.
const MOST_TURNED_AWAY: usize = 16;
/// How long a policy waits for the connections that it cut. They are only closed; longer means
/// that something is wrong.
const CUT: Duration = Duration::from_secs(5);
/// How long the acceptor rests when the machine has no descriptor left for it.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(50);

/// Bounds on time.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// For the head of a request.
    pub head: Duration,
    /// For a name to be resolved.
    pub resolve: Duration,
    /// For all addresses of a name to be dialled.
    pub connect: Duration,
    /// For the first bytes of a client that must say what it speaks.
    pub hello: Duration,
    /// For a client that was refused to read why.
    pub farewell: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(10),
            resolve: Duration::from_secs(10),
            connect: Duration::from_secs(10),
            hello: Duration::from_secs(10),
            farewell: Duration::from_secs(2),
        }
    }
}

/// What a server is made of.
pub struct Options {
    /// The folder that holds the folders of sandboxes.
    pub sockets: PathBuf,
    /// The world.
    pub outside: Arc<dyn Outside>,
    /// Bounds on time.
    pub timing: Timing,
}

/// Why the engine's wish was not done. Nothing is opened by what fails.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The name of the folder could leave its place, or be guessed.
    #[error("'{0}' is no name of a sandbox's folder: 16 to 64 lower-case letters and digits")]
    Directory(String),
    /// A sandbox keeps its folder for its life.
    #[error("sandbox '{0}' has another folder already")]
    OtherDirectory(String),
    /// A folder belongs to one sandbox.
    #[error("the folder of sandbox '{0}' is another sandbox's")]
    DirectoryTaken(String),
    /// There are as many sandboxes as the proxy serves.
    #[error("{MOST_SANDBOXES} sandboxes are served already")]
    TooMany,
    /// There is no such sandbox.
    #[error("there is no sandbox '{0}'")]
    Unknown(String),
    /// The socket could not be made or removed.
    #[error("the socket of sandbox '{sandbox}'")]
    Socket {
        /// Which sandbox.
        sandbox: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Connections that a policy cut are still there.
    #[error("connections of sandbox '{0}' that were cut have not ended")]
    NotCut(String),
    /// The networks of the machine are not known, so they cannot be denied.
    #[error("the machine's own networks cannot be found out")]
    OwnNetworks(#[source] io::Error),
}

/// What every connection needs.
struct Shared {
    outside: Arc<dyn Outside>,
    timing: Timing,
    log: Arc<Log>,
    pool: Pool,
}

/// Serves the sockets of sandboxes.
pub struct Server {
    sockets: PathBuf,
    shared: Arc<Shared>,
    /// Held while a wish of the engine is done, so that one is done after the other.
    state: Mutex<State>,
}

struct State {
    denied: Arc<Vec<AddressRange>>,
    sandboxes: BTreeMap<String, Served>,
}

struct Served {
    sandbox: Arc<Sandbox>,
    /// The socket's task, which has those of the connections.
    acceptor: OwnedTask,
}

impl Server {
    /// Removes sockets that an earlier server left behind. Folders stay: sandboxes that hold one
    /// find their socket in it again.
    ///
    /// # Errors
    ///
    /// When the folder of sockets or the machine's networks cannot be read.
    pub fn new(options: Options) -> Result<Self, ServerError> {
        sockets::prepare(&options.sockets).map_err(|source| ServerError::Socket {
            sandbox: String::new(),
            source,
        })?;
        let denied = own_networks(options.outside.as_ref(), &[])?;
        Ok(Self {
            sockets: options.sockets,
            shared: Arc::new(Shared {
                outside: options.outside,
                timing: options.timing,
                log: Arc::default(),
                pool: Pool::new(kept::is_bounded_by_system()),
            }),
            state: Mutex::new(State {
                denied,
                sandboxes: BTreeMap::new(),
            }),
        })
    }

    /// How many bytes the buffers of connections take, at most [`MOST_BUFFERED`].
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.shared.pool.buffered()
    }

    /// The records that wait for the engine.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.shared.log
    }

    /// Denies these addresses and those of the machine's own networks, as they are now, to every
    /// sandbox, in place of those that were denied before; connections to them are ended.
    ///
    /// # Errors
    ///
    /// When the machine's networks cannot be read, which changes nothing, or when connections do
    /// not end, which are cut all the same.
    pub async fn deny(&self, ranges: &[AddressRange]) -> Result<(), ServerError> {
        let mut state = self.state.lock().await;
        let denied = own_networks(self.shared.outside.as_ref(), ranges)?;
        state.denied = denied.clone();
        // For all of them before any is waited for: none is spared because of another.
        let cut: Vec<_> = state
            .sandboxes
            .values()
            .map(|served| (&served.sandbox, served.sandbox.deny(denied.clone())))
            .collect();
        for (sandbox, cut) in cut {
            in_time(sandbox, sandbox.rid_of(cut)).await?;
        }
        Ok(())
    }

    /// Opens the socket of a sandbox, or changes the policy of one that is open. When this returns
    /// the socket listens, and connections that the policy forbids are gone.
    ///
    /// # Errors
    ///
    /// When that could not be done.
    pub async fn set(&self, wish: SandboxPolicy) -> Result<(), ServerError> {
        let mut state = self.state.lock().await;
        let name = wish.sandbox.clone();
        let next = Current {
            policy: wish.policy,
            context: wish.context,
            denied: state.denied.clone(),
            has_v6: self.shared.outside.has_v6(),
        };
        if let Some(served) = state.sandboxes.get(&name) {
            if served.sandbox.directory != wish.directory {
                return Err(ServerError::OtherDirectory(name));
            }
            let cut = served.sandbox.change(next);
            return in_time(&served.sandbox, served.sandbox.rid_of(cut)).await;
        }
        if !sockets::is_directory_name(&wish.directory) {
            return Err(ServerError::Directory(wish.directory));
        }
        let mut others = state.sandboxes.values();
        if others.any(|served| served.sandbox.directory == wish.directory) {
            return Err(ServerError::DirectoryTaken(name));
        }
        if state.sandboxes.len() >= MOST_SANDBOXES {
            return Err(ServerError::TooMany);
        }
        let listener = sockets::open(&self.sockets, &wish.directory).map_err(|source| {
            ServerError::Socket {
                sandbox: name.clone(),
                source,
            }
        })?;
        let sandbox = Arc::new(Sandbox::new(name.clone(), wish.directory, next));
        let acceptor = accept(self.shared.clone(), sandbox.clone(), listener);
        let served = Served {
            sandbox,
            acceptor: tasks::spawn(acceptor),
        };
        state.sandboxes.insert(name, served);
        self.shared.pool.serves(state.sandboxes.len());
        Ok(())
    }

    /// Closes the socket of a sandbox and ends its connections; nothing when there is none.
    ///
    /// # Errors
    ///
    /// When the socket cannot be removed, or connections do not end. It is closed all the same.
    pub async fn remove(&self, name: &str) -> Result<(), ServerError> {
        let mut state = self.state.lock().await;
        let Some(served) = state.sandboxes.remove(name) else {
            return Ok(());
        };
        self.shared.pool.serves(state.sandboxes.len());
        let Served { sandbox, acceptor } = served;
        // None comes after this, so that whoever waits for the last one has waited for all.
        acceptor.end().await;
        sockets::close(&self.sockets, &sandbox.directory).map_err(|source| {
            ServerError::Socket {
                sandbox: name.to_owned(),
                source,
            }
        })?;
        in_time(&sandbox, sandbox.emptied()).await
    }

    /// What a sandbox did so far.
    ///
    /// # Errors
    ///
    /// When there is no such sandbox.
    pub async fn counters(&self, name: &str) -> Result<EgressCounters, ServerError> {
        let state = self.state.lock().await;
        let served = state.sandboxes.get(name);
        let served = served.ok_or_else(|| ServerError::Unknown(name.to_owned()))?;
        Ok(served.sandbox.account.counters())
    }

    /// What is there of a sandbox for an engine that did not set its policy, with its counters.
    pub async fn inheritance(&self, name: &str) -> Option<(Inheritance, EgressCounters)> {
        let state = self.state.lock().await;
        let sandbox = &state.sandboxes.get(name)?.sandbox;
        let current = sandbox.current();
        let policy = SandboxPolicy {
            sandbox: sandbox.name.clone(),
            directory: sandbox.directory.clone(),
            policy: current.policy.clone(),
            context: current.context.clone(),
        };
        let taken = sandbox.account.count_taken();
        Some((Inheritance { policy, taken }, sandbox.account.counters()))
    }

    /// An engine has handed on the records of a sandbox up to this number.
    ///
    /// # Errors
    ///
    /// When there is no such sandbox.
    pub async fn taken(&self, name: &str, number: u64) -> Result<(), ServerError> {
        let state = self.state.lock().await;
        let served = state.sandboxes.get(name);
        let served = served.ok_or_else(|| ServerError::Unknown(name.to_owned()))?;
        self.shared.log.taken(&served.sandbox.account, number);
        Ok(())
    }

    /// Closes every socket and ends every connection. Folders stay, as after a crash.
    pub async fn close(&self) {
        let mut state = self.state.lock().await;
        state.sandboxes.clear();
        // A socket that cannot be removed has nobody behind it.
        drop(sockets::prepare(&self.sockets));
    }
}

async fn in_time(sandbox: &Sandbox, ended: impl Future<Output = ()>) -> Result<(), ServerError> {
    timeout(CUT, ended)
        .await
        .map_err(|_| ServerError::NotCut(sandbox.name.clone()))
}

fn own_networks(
    outside: &dyn Outside,
    ranges: &[AddressRange],
) -> Result<Arc<Vec<AddressRange>>, ServerError> {
    let mut all = outside.own_networks().map_err(ServerError::OwnNetworks)?;
    all.extend_from_slice(ranges);
    Ok(Arc::new(all))
}

/// Accepts the connections of one sandbox. However many come, only this task and those of its own
/// connections are busy with them.
async fn accept(shared: Arc<Shared>, sandbox: Arc<Sandbox>, listener: UnixListener) {
    let mut served = Tasks::default();
    let mut turned_away = Tasks::default();
    loop {
        let stream = tokio::select! {
            () = served.one_ended() => continue,
            () = turned_away.one_ended() => continue,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(_) => {
                    tokio::time::sleep(OUT_OF_DESCRIPTORS).await;
                    continue;
                }
            },
        };
        // One that cannot be bounded is none.
        if setsockopt(&stream, SndBuf, &buffers::UNREAD).is_err() {
            continue;
        }
        let (shared, sandbox) = (shared.clone(), sandbox.clone());
        let cause = match sandbox.enter(&shared) {
            Ok(slot) => {
                served.start(async move {
                    connection::serve(shared, sandbox, stream).await;
                    drop(slot);
                });
                continue;
            }
            Err(cause) => cause,
        };
        let is_heard = turned_away.len() < MOST_TURNED_AWAY;
        match sandbox.room(&shared, buffers::TASK).filter(|_| is_heard) {
            Some(room) => turned_away.start(async move {
                connection::turn_away(shared, sandbox, stream, cause).await;
                drop(room);
            }),
            None => connection::note_dropped(&shared, &sandbox),
        }
    }
}

/// Where the socket of a folder is.
#[must_use]
pub fn socket_path(sockets: &Path, directory: &str) -> PathBuf {
    sockets
        .join(directory)
        .join(forge_api::egress::PROXY_SOCKET)
}
