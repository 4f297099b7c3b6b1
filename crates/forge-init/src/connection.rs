//! One connection to the channel's socket: bytes in, frames out, neither ever waited for.
//!
//! Memory: before the handshake at most [`MAX_HANDSHAKE`] bytes are held for a connection; after it
//! one frame and [`HIGH_WATER`] bytes of output, plus what one round of the main loop adds.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use forge_wire::frame::encode_message;
use forge_wire::{Event, Frame, FrameDecoder, FrameError, Nonce};
use nix::sys::socket::{getsockopt, sockopt};

use crate::listeners::Door;
use crate::processes::is_from_outside;

/// Longest handshake; a claim holds a secret and a path.
const MAX_HANDSHAKE: usize = 16 * 1024;
/// Bytes that wait for the client before no more are added.
pub(crate) const HIGH_WATER: usize = 768 * 1024;
/// Sent bytes that may lie before the waiting ones until these are moved.
const MAX_SENT: usize = 1024 * 1024;

/// The connection is at its end, or of no further use.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Closed;

/// A connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    decoder: FrameDecoder,
    outgoing: Vec<u8>,
    sent: usize,
    /// What the greeting says.
    pub(crate) nonce: Nonce,
    pub(crate) opened: Instant,
    peer: Peer,
}

/// Who is at the other end, as the kernel says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    /// A process outside of the sandbox.
    Outside,
    /// A process that the engine started inside of the sandbox: a bridge.
    Bridge(i32),
    /// A process of the task.
    Task,
}

impl Peer {
    /// Looks at who connected by which door.
    fn of(stream: &UnixStream, door: Door) -> Self {
        match getsockopt(stream, sockopt::PeerCredentials) {
            // A process that has no number here is not in here.
            Ok(credentials) if credentials.pid() == 0 => Self::Outside,
            Ok(credentials) if door == Door::Bridges && is_from_outside(credentials.pid()) => {
                Self::Bridge(credentials.pid())
            }
            _ => Self::Task,
        }
    }
}

impl Connection {
    /// Takes a new connection; none when a process of the task made it, which gets no answer.
    ///
    /// The task's user may replace the socket's file by one of its own and pass on what comes
    /// there. It could not forge a proof but relay one; here it fails, because the kernel tells
    /// that the relay is a process of the task.
    pub(crate) fn new(stream: UnixStream, door: Door, now: Instant) -> Option<Self> {
        let peer = Peer::of(&stream, door);
        if peer == Peer::Task || stream.set_nonblocking(true).is_err() {
            return None;
        }
        Some(Self {
            stream,
            decoder: FrameDecoder::default(),
            outgoing: Vec::new(),
            sent: 0,
            nonce: [0; 32],
            opened: now,
            peer,
        })
    }

    /// The stream, for waiting on it.
    pub(crate) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// The bridge at the other end, if it is one.
    pub(crate) fn bridge(&self) -> Option<i32> {
        match self.peer {
            Peer::Bridge(pid) => Some(pid),
            Peer::Outside | Peer::Task => None,
        }
    }

    /// Bytes that wait to be sent.
    pub(crate) fn waiting(&self) -> usize {
        self.outgoing.len() - self.sent
    }

    /// Reads what is there, at most `scratch` full.
    pub(crate) fn read(&mut self, scratch: &mut [u8]) -> Result<(), Closed> {
        match self.stream.read(scratch) {
            Ok(0) => Err(Closed),
            Ok(count) => {
                self.decoder.push(scratch.get(..count).unwrap_or(&[]));
                Ok(())
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::Interrupted => Ok(()),
                _ => Err(Closed),
            },
        }
    }

    /// Reads a part of a handshake; never more than one may hold.
    pub(crate) fn read_handshake(&mut self, scratch: &mut [u8]) -> Result<(), Closed> {
        let room = MAX_HANDSHAKE.saturating_sub(self.decoder.pending());
        let room = room.min(scratch.len());
        match scratch.get_mut(..room) {
            Some(scratch) if !scratch.is_empty() => self.read(scratch),
            _ => Err(Closed),
        }
    }

    /// The next whole frame.
    pub(crate) fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        self.decoder.next_frame()
    }

    /// Queues an event.
    pub(crate) fn push(&mut self, event: &Event) -> Result<(), Closed> {
        encode_message(event, &mut self.outgoing).map_err(|_| Closed)
    }

    /// The queue, for adding frames to it.
    pub(crate) fn queue(&mut self) -> &mut Vec<u8> {
        &mut self.outgoing
    }

    /// Length of the queue at which no more should be added.
    pub(crate) fn queue_limit(&self) -> usize {
        self.sent + HIGH_WATER
    }

    /// Sends what the socket takes now.
    pub(crate) fn flush(&mut self) -> Result<(), Closed> {
        while self.sent < self.outgoing.len() {
            let waiting = self.outgoing.get(self.sent..).unwrap_or(&[]);
            match self.stream.write(waiting) {
                Ok(0) => return Err(Closed),
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(Closed),
            }
        }
        if self.sent == self.outgoing.len() {
            self.outgoing.clear();
            self.sent = 0;
        } else if self.sent > MAX_SENT {
            self.outgoing.drain(..self.sent);
            self.sent = 0;
        }
        Ok(())
    }
}
