//! Copies one direction of a connection, never waiting for either end.
//!
//! What the other end does not take at once waits in memory, at most one piece; until it is gone
//! nothing more is read. A connection whose reader keeps up holds no memory at all.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;

/// Bytes that are read at a time, and the most that wait.
pub(crate) const PIECE: usize = 64 * 1024;
/// Pieces that are copied before other connections have their turn.
const TURN: usize = 8;

/// An end whose writing half can be closed alone.
pub(crate) trait End {
    /// Tells the other side that no more comes.
    fn end_writing(&self);
}

impl End for TcpStream {
    fn end_writing(&self) {
        // A peer that is gone shows when something is read from it.
        drop(self.shutdown(Shutdown::Write));
    }
}

impl End for UnixStream {
    fn end_writing(&self) {
        drop(self.shutdown(Shutdown::Write));
    }
}

/// An end failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    /// There is nobody to copy from any more.
    Source,
    /// There is nobody to copy to any more.
    Target,
}

/// One direction.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    waiting: Vec<u8>,
    taken: usize,
    /// The source has no more.
    ended: bool,
    /// The other end was told so.
    finished: bool,
    /// The other end is gone.
    abandoned: bool,
}

impl Flow {
    /// Adds bytes of our own, to be sent before anything that is read.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.waiting.extend_from_slice(bytes);
    }

    /// Nothing more is copied once what waits is sent.
    pub(crate) fn end(&mut self) {
        self.ended = true;
    }

    /// Nothing more is copied at all.
    pub(crate) fn give_up(&mut self) {
        *self = Self {
            ended: true,
            finished: true,
            abandoned: true,
            ..Self::default()
        };
    }

    /// Whether it was given up.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.abandoned
    }

    /// Whether the source should be read.
    pub(crate) fn wants_to_read(&self) -> bool {
        !self.ended && self.waiting.is_empty()
    }

    /// Whether something waits to be written.
    pub(crate) fn wants_to_write(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether all was sent and the other end told that there is no more.
    pub(crate) fn is_finished(&self) -> bool {
        self.finished
    }

    /// Sends what waits, as far as `to` takes it, and its end.
    pub(crate) fn flush(&mut self, to: &mut (impl Write + End)) -> Result<(), Broken> {
        while let Some(waiting) = self
            .waiting
            .get(self.taken..)
            .filter(|rest| !rest.is_empty())
        {
            match write_some(to, waiting)? {
                0 => return Ok(()),
                count => self.taken += count,
            }
        }
        self.waiting = Vec::new();
        self.taken = 0;
        if self.ended && !self.finished {
            to.end_writing();
            self.finished = true;
        }
        Ok(())
    }

    /// Copies what there is now, as far as `to` takes it; tells whether anything came.
    pub(crate) fn pump(
        &mut self,
        from: &mut impl Read,
        to: &mut (impl Write + End),
        scratch: &mut [u8],
    ) -> Result<bool, Broken> {
        let mut came = false;
        self.flush(to)?;
        for _ in 0..TURN {
            if !self.wants_to_read() {
                break;
            }
            let Some(count) = read_some(from, scratch)? else {
                break;
            };
            came = true;
            let piece = scratch.get(..count).unwrap_or(&[]);
            if piece.is_empty() {
                self.ended = true;
                self.flush(to)?;
                break;
            }
            let written = write_some(to, piece)?;
            if let Some(rest) = piece.get(written..).filter(|rest| !rest.is_empty()) {
                self.waiting.extend_from_slice(rest);
                self.flush(to)?;
            }
        }
        Ok(came)
    }
}

/// Reads what is there; none when nothing is there yet, and 0 bytes at the end.
pub(crate) fn read_some(from: &mut impl Read, into: &mut [u8]) -> Result<Option<usize>, Broken> {
    loop {
        return match from.read(into) {
            Ok(count) => Ok(Some(count)),
            Err(error) => match error.kind() {
                ErrorKind::Interrupted => continue,
                ErrorKind::WouldBlock => Ok(None),
                _ => Err(Broken::Source),
            },
        };
    }
}

fn write_some(to: &mut impl Write, bytes: &[u8]) -> Result<usize, Broken> {
    loop {
        return match to.write(bytes) {
            Ok(count) => Ok(count),
            Err(error) => match error.kind() {
                ErrorKind::Interrupted => continue,
                // The kernel may be short of memory for a while: that is no end.
                ErrorKind::WouldBlock => Ok(0),
                _ => Err(Broken::Target),
            },
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes a few bytes at a time, and now and then none.
    #[derive(Default)]
    struct Slow {
        got: Vec<u8>,
        calls: usize,
        ended: std::cell::Cell<bool>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.calls += 1;
            if self.calls.is_multiple_of(2) {
                return Err(ErrorKind::WouldBlock.into());
            }
            let count = bytes.len().min(10_000);
            self.got.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl End for Slow {
        fn end_writing(&self) {
            self.ended.set(true);
        }
    }

    #[test]
    fn nothing_is_lost_and_never_more_than_a_piece_waits() {
        let all: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
        let mut from = all.as_slice();
        let mut to = Slow::default();
        let mut flow = Flow::default();
        flow.push(b"first ");
        let mut scratch = vec![0; PIECE];
        while !flow.is_finished() {
            flow.pump(&mut from, &mut to, &mut scratch).unwrap();
            assert!(flow.waiting.len() <= PIECE);
        }
        assert!(to.got.starts_with(b"first "));
        assert!(to.got[6..] == all);
        assert!(to.ended.get());
        assert_eq!(flow.waiting.capacity(), 0);
    }

    #[test]
    fn an_end_of_our_own_is_told_after_what_waits() {
        let mut to = Slow::default();
        let mut flow = Flow::default();
        flow.push(b"goodbye");
        flow.end();
        assert!(!flow.wants_to_read());
        flow.flush(&mut to).unwrap();
        assert!(to.ended.get());
        assert_eq!(to.got, b"goodbye");
    }
}
