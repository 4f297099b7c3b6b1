//! Connects a stream that an engine relays to the channel's socket.
//!
//! With a remote engine, `forge-init bridge` runs as an engine's exec: what comes on standard input
//! goes to the socket, what comes from the socket goes to standard output.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};

use forge_wire::ABSTRACT_SOCKET;

const PIECE: usize = 256 * 1024;

/// Copies both ways until either ends.
pub(crate) fn run() -> io::Result<()> {
    let address = SocketAddr::from_abstract_name(ABSTRACT_SOCKET)?;
    let socket = UnixStream::connect_addr(&address)?;
    let inwards = socket.try_clone()?;
    std::thread::Builder::new()
        .name("inwards".into())
        .spawn(move || {
            // An error is an end like any other; the shutdown below tells the other direction.
            drop(copy(&mut io::stdin().lock(), &mut &inwards));
            drop(inwards.shutdown(Shutdown::Both));
        })?;
    copy(&mut &socket, &mut io::stdout().lock())
}

/// Copies with a flush after each piece: a frame must not wait for the next one.
fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let count = match from.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        to.write_all(piece.get(..count).unwrap_or(&[]))?;
        to.flush()?;
    }
}
