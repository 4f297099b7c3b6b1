//! The network of a sandbox: loopback, and on it a few doors that lead to the egress proxy.
//!
//! * 127.0.0.1:3128 passes on to the egress proxy's socket, byte by byte;
//! * 127.0.0.1:1080 speaks SOCKS5 and asks the egress proxy for tunnels;
//! * 127.0.0.1:53 gives each name an address of its own, see [`addresses`] and [`dns`];
//! * at those addresses connections are captured, see [`captures`].
//!
//! Nothing here decides anything, so nothing is gained by misleading it: whatever a task makes of
//! these doors, it can do no more than ask the egress proxy, which it may ask directly.
//!
//! One thread serves it all. It is started with PID 1, while there is nobody who could have used up
//! the processes that are allowed, and sleeps until there are settings.

mod addresses;
mod answer;
mod captures;
mod dns;
mod flow;
mod host_name;
mod link;
mod server;
mod socks;

use std::io;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::unix::fs::FileTypeExt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use forge_wire::message;
use forge_wire::{PROXY_PORT, SOCKS_PORT};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::UnixAddr;

use self::captures::Captures;
use self::link::Service;
use self::server::{Server, capture_token};
use crate::wake::lock;

const DNS_PORT: u16 = 53;
/// Most ports that are captured.
const MAX_PORTS: usize = 128;

/// Why there is no network.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkError {
    /// The egress proxy's socket is not there.
    #[error("the egress proxy's socket {path} is not there")]
    NoSocket {
        /// Where it should be.
        path: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// Something else is in its place.
    #[error("{path} is no socket")]
    NotASocket {
        /// Where it should be.
        path: String,
    },
    /// These ports cannot be captured.
    #[error("{count} ports, or one that is none, cannot be captured")]
    Ports {
        /// How many there are.
        count: usize,
    },
    /// A port of loopback cannot be had.
    #[error("port {port} of loopback cannot be listened on")]
    Bind {
        /// The port.
        port: u16,
        /// What the kernel says.
        source: io::Error,
    },
    /// The kernel refused something else.
    #[error("events cannot be waited for")]
    Events(#[from] Errno),
    /// It was set up before.
    #[error("the network was set up before")]
    Twice,
}

/// The thread that serves the network, as the main loop sees it.
#[derive(Default)]
pub(crate) struct Network {
    state: Mutex<State>,
    begin: Condvar,
}

#[derive(Default)]
enum State {
    #[default]
    Waiting,
    Begin(Box<Server>),
    Serving,
}

impl Network {
    /// Starts the thread, which waits for [`Self::serve`].
    pub(crate) fn start() -> io::Result<Arc<Self>> {
        let network = Arc::new(Self::default());
        let shared = Arc::clone(&network);
        std::thread::Builder::new()
            .name("network".into())
            .stack_size(256 * 1024)
            .spawn(move || shared.wait_for_server().run())?;
        Ok(network)
    }

    /// Makes the network: when this comes back, every door is open.
    pub(crate) fn serve(&self, settings: &message::Network) -> Result<(), NetworkError> {
        let mut state = lock(&self.state);
        if !matches!(*state, State::Waiting) {
            return Err(NetworkError::Twice);
        }
        *state = State::Begin(Box::new(open(settings)?));
        self.begin.notify_one();
        Ok(())
    }

    fn wait_for_server(&self) -> Box<Server> {
        let mut state = lock(&self.state);
        loop {
            match std::mem::take(&mut *state) {
                State::Begin(server) => {
                    *state = State::Serving;
                    return server;
                }
                other => *state = other,
            }
            state = self
                .begin
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn open(settings: &message::Network) -> Result<Server, NetworkError> {
    let count = settings.ports.len();
    if count > MAX_PORTS || settings.ports.contains(&0) {
        return Err(NetworkError::Ports { count });
    }
    let path = || settings.socket.clone();
    // Not connected to: that would be a connection of nobody in the egress proxy's log.
    match std::fs::symlink_metadata(&settings.socket) {
        Ok(found) if found.file_type().is_socket() => {}
        Ok(_) => return Err(NetworkError::NotASocket { path: path() }),
        Err(source) => {
            let path = path();
            return Err(NetworkError::NoSocket { path, source });
        }
    }
    let socket = UnixAddr::new(settings.socket.as_str())?;
    let mut doors = vec![
        (Service::Proxy, listen(PROXY_PORT)?),
        (Service::Resolver, listen(DNS_PORT)?),
    ];
    if settings.socks {
        doors.push((Service::Socks, listen(SOCKS_PORT)?));
    }
    let datagrams = UdpSocket::bind((Ipv4Addr::LOCALHOST, DNS_PORT))
        .and_then(|socket| socket.set_nonblocking(true).map(|()| socket))
        .map_err(|source| NetworkError::Bind {
            port: DNS_PORT,
            source,
        })?;
    let epoll = Arc::new(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?);
    let (descriptors, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let captures = Captures::new(
        Arc::clone(&epoll),
        capture_token,
        settings.ports.clone(),
        descriptors,
        own_name(),
    );
    Ok(Server::new(epoll, socket, doors, datagrams, captures)?)
}

fn listen(port: u16) -> Result<TcpListener, NetworkError> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
        .map_err(|source| NetworkError::Bind { port, source })
}

/// The sandbox's own name, which is loopback's; in no file, because engines write it only where
/// they make a network.
fn own_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_ascii_lowercase()
}

/// The error and what caused it, for a person.
pub(crate) fn describe(error: &NetworkError) -> String {
    use std::error::Error;
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
