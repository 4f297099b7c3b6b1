//! The sockets that PID 1 listens on.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use forge_wire::{ABSTRACT_SOCKET, SOCKET_DIRECTORY, SOCKET_NAME};
use nix::sys::socket::{Backlog, listen};

/// Connections that wait to be accepted. With as many as one round accepts, whoever else connects
/// waits asleep instead of in front of the owner.
const BACKLOG: i32 = 16;
/// How long a socket is left alone after a process of the task was turned away from it: turning
/// away 320 a second costs little, and a bridge is among them soon.
const REST: Duration = Duration::from_millis(50);

/// Who has a reason to connect to a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    /// Processes outside of the sandbox only: the folder with the socket is shared with them.
    Outside,
    /// Bridges as well, which the engine starts inside.
    Bridges,
}

/// A socket, and when it is looked at.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: UnixListener,
    pub(crate) door: Door,
    rests_until: Option<Instant>,
}

impl Listener {
    fn new(socket: UnixListener, door: Door) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        // The standard library asks for as many as the kernel allows.
        listen(&socket, Backlog::new(BACKLOG)?)?;
        Ok(Self {
            socket,
            door,
            rests_until: None,
        })
    }

    /// A connection, if one waits.
    pub(crate) fn accept(&self) -> Option<UnixStream> {
        self.socket.accept().ok().map(|(stream, _)| stream)
    }

    /// Leaves the socket alone for a while, because the task makes use of it.
    pub(crate) fn rest(&mut self, now: Instant) {
        self.rests_until = Some(now + REST);
    }

    /// When the socket is to be looked at again, while it is left alone.
    pub(crate) fn rests_until(&self, now: Instant) -> Option<Instant> {
        self.rests_until.filter(|until| now < *until)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Opens the abstract socket and, where the folder for it is mounted, the one with a name.
pub(crate) fn open() -> io::Result<Vec<Listener>> {
    let address = SocketAddr::from_abstract_name(ABSTRACT_SOCKET)?;
    let abstract_socket = UnixListener::bind_addr(&address)?;
    let mut listeners = vec![Listener::new(abstract_socket, Door::Bridges)?];
    match open_named(Path::new(SOCKET_DIRECTORY)) {
        Ok(socket) => listeners.push(Listener::new(socket, Door::Outside)?),
        // The folder is part of the image at most: nothing is shared with the orchestrator.
        Err(error) if is_not_shared(&error) => {}
        Err(error) => return Err(error),
    }
    Ok(listeners)
}

fn open_named(folder: &Path) -> io::Result<UnixListener> {
    if !folder.is_dir() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let path = folder.join(SOCKET_NAME);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    // The orchestrator has another user; it proves itself by more than being able to connect.
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666))?;
    Ok(listener)
}

fn is_not_shared(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ReadOnlyFilesystem
    )
}
