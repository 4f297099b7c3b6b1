//! What the system keeps of sockets: its memory counts as the proxy's.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use forge_api::egress::{TCP_RECEIVE_BYTES, TCP_SEND_BYTES};
use nix::sys::socket::sockopt::{RcvBuf, SndBuf};
use nix::sys::socket::{Shutdown, getsockopt, setsockopt, shutdown};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::sleep;

const KIBIBYTE: usize = 1024;
/// How often it is looked whether the other side has taken what it was sent: at first, and at last.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LAST_PAUSE: Duration = Duration::from_secs(1);
/// Looks at a server, some 10 s of them.
const MOST_LOOKS: usize = 16;
/// Where a network says what the system keeps of each connection at most when nobody asks for less,
/// and what the engine sets it to.
const SYSTEM_BOUNDS: [(&str, usize); 2] = [
    ("/proc/sys/net/ipv4/tcp_rmem", TCP_RECEIVE_BYTES),
    ("/proc/sys/net/ipv4/tcp_wmem", TCP_SEND_BYTES),
];

/// Options of sockets that no library has.
mod options {
    use nix::{getsockopt_impl, libc, setsockopt_impl, sockopt_impl};

    /// The same on every machine that the proxy is built for.
    const SO_BUF_LOCK: libc::c_int = 72;

    sockopt_impl!(
        /// The memory of a socket in bytes: received, at most received, sent, at most sent, put
        /// aside, queued to be sent.
        Memory,
        GetOnly,
        libc::SOL_SOCKET,
        libc::SO_MEMINFO,
        [u32; 6]
    );
    sockopt_impl!(
        /// Whether sizes stay as they were set; since Linux 5.14.
        SizesStay,
        SetOnly,
        libc::SOL_SOCKET,
        SO_BUF_LOCK,
        u32
    );
    sockopt_impl!(
        /// The most that the other side may send ahead.
        MostAhead,
        SetOnly,
        libc::IPPROTO_TCP,
        libc::TCP_WINDOW_CLAMP,
        u32
    );
}

/// What the system may keep of a connection to a server, each way, as its options say.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    receive: usize,
    send: usize,
}

/// What every connection has: as little as still moves.
pub(crate) const LEAST: Size = Size {
    receive: 6 * KIBIBYTE,
    send: 6 * KIBIBYTE,
};
/// What a connection has as long as it moves: 2.5 MB/s from a server that is 50 ms away.
pub(crate) const MORE: Size = Size {
    receive: 128 * KIBIBYTE,
    send: 32 * KIBIBYTE,
};
/// What a connection has on which much flows: 15 MB/s from there.
pub(crate) const MOST: Size = Size {
    receive: TCP_RECEIVE_BYTES / 2,
    send: TCP_SEND_BYTES / 2,
};

impl Size {
    /// The memory that takes: the system doubles it.
    pub(crate) const fn counted(self) -> usize {
        2 * (self.receive + self.send)
    }

    /// Lets the system keep so much of what comes from now on. What it has it keeps.
    ///
    /// # Errors
    ///
    /// When it keeps more.
    pub(crate) fn set(self, socket: &impl AsFd) -> io::Result<()> {
        setsockopt(socket, RcvBuf, &self.receive)?;
        setsockopt(socket, SndBuf, &self.send)?;
        Ok(())
    }

    /// As [`set`](Self::set), for a connection that had less. Where that fails it is only slow.
    pub(crate) fn widen(self, socket: &TcpStream) {
        drop(self.set(socket));
        let ahead = u32::try_from(self.receive).unwrap_or(u32::MAX);
        setsockopt(socket, options::MostAhead, &ahead).unwrap_or_default();
    }

    /// Whether the system has no more than this of a connection.
    pub(crate) fn fits(self, socket: &TcpStream) -> bool {
        let is_within =
            |used: u32, size: usize| usize::try_from(used).is_ok_and(|used| used <= 2 * size);
        getsockopt(socket, options::Memory).is_ok_and(|[received, .., queued]| {
            is_within(received, self.receive) && is_within(queued, self.send)
        })
    }
}

/// Bounds a connection that is about to be made by the [`LEAST`] from its first packet on. How far it
/// can be widened later is settled then, and is next to nothing where sizes stay: the caller sets it
/// again behind that packet. Before Linux 5.14 the first packet promises 64 KiB.
///
/// # Errors
///
/// When it cannot be bounded.
pub(crate) fn bound_at_first(socket: &impl AsFd) -> io::Result<()> {
    if setsockopt(socket, options::SizesStay, &0).is_ok() {
        LEAST.set(socket)?;
        setsockopt(socket, options::SizesStay, &0)?;
    }
    Ok(())
}

/// Lets the system decide how much it keeps, which where [`is_bounded_by_system`] says so is
/// [`MOST`]; what may be asked for is often less.
pub(crate) fn let_system_decide(socket: &TcpStream) {
    setsockopt(socket, options::SizesStay, &0).unwrap_or_default();
}

/// Whether the system keeps no more than [`MOST`] of any connection in this network.
pub(crate) fn is_bounded_by_system() -> bool {
    SYSTEM_BOUNDS.iter().all(|(file, most)| {
        let text = fs::read_to_string(file).unwrap_or_default();
        last_number(&text).is_some_and(|bound| bound <= *most)
    })
}

/// The last of the three numbers of such a bound.
fn last_number(text: &str) -> Option<usize> {
    let mut words = text.split_ascii_whitespace();
    words.nth(2)?.parse().ok()
}

/// Whether the system has anything that is for a server.
pub(crate) fn is_unsent(server: &TcpStream) -> bool {
    getsockopt(server, options::Memory).is_ok_and(|[.., queued]| queued > 0)
}

/// Waits until a server has got all that it was sent, as long as there is hope.
pub(crate) async fn sent(server: &TcpStream) {
    let mut pause = FIRST_PAUSE;
    for _ in 0..MOST_LOOKS {
        if !is_unsent(server) {
            return;
        }
        sleep(pause).await;
        pause = LAST_PAUSE.min(2 * pause);
    }
}

/// Ends the connection to a client, and returns when it has read all or is gone. Until then the
/// system has what it did not read, open or not, so that its place is not free.
pub(crate) async fn close(client: UnixStream) {
    // One that is gone already has no other end.
    shutdown(client.as_raw_fd(), Shutdown::Both).unwrap_or_default();
    let is_unread = || getsockopt(&client, options::Memory).is_ok_and(|[_, _, sent, ..]| sent > 0);
    let mut pause = FIRST_PAUSE;
    while is_unread() {
        sleep(pause).await;
        pause = LAST_PAUSE.min(2 * pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_number_of_a_bound_is_the_most() {
        assert_eq!(last_number("4096\t131072\t2097152\n"), Some(2_097_152));
        assert_eq!(last_number("4096\t131072\n"), None);
        assert_eq!(last_number(""), None);
    }
}
