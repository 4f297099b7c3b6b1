//! Copies standard input to the control socket and the socket to standard output.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc;
use std::thread;

const BUFFER: usize = 64 * 1024;

/// Copies until the proxy closes the connection or standard output is gone. The end of standard
/// input is passed on, so that what was asked before is still answered.
///
/// # Errors
///
/// When the socket cannot be reached, or one of both ends breaks.
pub fn run(control: &Path) -> io::Result<()> {
    let socket = UnixStream::connect(control)?;
    let upward = socket.try_clone()?;
    let (over, first) = mpsc::channel();
    let asked = over.clone();
    // Neither thread is waited for: a read that nobody ends would hold the process.
    thread::Builder::new().spawn(move || {
        let result = copy(io::stdin().lock(), &upward);
        let result = result.and_then(|()| upward.shutdown(Shutdown::Write));
        if result.is_err() {
            drop(asked.send(result));
        }
    })?;
    thread::Builder::new().spawn(move || {
        let result = copy(&socket, io::stdout().lock());
        drop(over.send(result));
    })?;
    first.recv().unwrap_or(Ok(()))
}

fn copy(mut from: impl Read, mut to: impl Write) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => {
                to.write_all(&buffer[..count])?;
                to.flush()?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
