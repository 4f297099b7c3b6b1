//! Standard input on its way to a program: bounded, and safe against being sent twice.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{ErrorKind, Write};

use forge_wire::WINDOW;

/// Input that the program has not read yet.
#[derive(Debug)]
pub(crate) struct InputBuffer {
    pipe: Option<File>,
    waiting: VecDeque<u8>,
    written: u64,
    announced: u64,
    ended: bool,
}

/// The client sent more than it may, or left something out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Overrun;

impl InputBuffer {
    /// Input for a program behind `pipe`; without a pipe, input is dropped.
    pub(crate) fn new(pipe: Option<File>) -> Self {
        Self {
            pipe,
            waiting: VecDeque::new(),
            written: 0,
            announced: 0,
            ended: false,
        }
    }

    /// The pipe, when there is something to write to it.
    pub(crate) fn wants_to_write(&self) -> Option<&File> {
        self.pipe.as_ref().filter(|_| !self.waiting.is_empty())
    }

    /// Bytes that need not be sent again, when there are more than were told before.
    pub(crate) fn news(&mut self) -> Option<u64> {
        let more = self.written > self.announced;
        self.announced = self.written;
        more.then_some(self.written)
    }

    /// Makes [`Self::news`] tell everything to a new client.
    pub(crate) fn tell_again(&mut self) {
        self.announced = 0;
    }

    /// Takes input; a part that was taken before is left out.
    pub(crate) fn push(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Overrun> {
        let received = self.written + self.waiting.len() as u64;
        let known = received.checked_sub(offset).ok_or(Overrun)?;
        let fresh = usize::try_from(known)
            .ok()
            .and_then(|known| bytes.get(known..))
            .unwrap_or(&[]);
        if (self.waiting.len() + fresh.len()) as u64 > WINDOW {
            return Err(Overrun);
        }
        if self.pipe.is_some() && !self.ended {
            self.waiting.extend(fresh);
        } else {
            self.written += fresh.len() as u64;
        }
        Ok(())
    }

    /// Notes that no more input comes.
    pub(crate) fn end(&mut self) {
        self.ended = true;
        self.close_when_done();
    }

    /// Writes what the pipe takes now.
    pub(crate) fn write(&mut self) {
        while let Some(pipe) = self.pipe.as_mut() {
            let (first, _) = self.waiting.as_slices();
            if first.is_empty() {
                break;
            }
            match pipe.write(first) {
                Ok(count) => {
                    self.waiting.drain(..count);
                    self.written += count as u64;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // Nobody reads any more: what is left counts as taken, so that the client goes on.
                Err(_) => self.abandon(),
            }
        }
        self.close_when_done();
    }

    /// Drops the pipe and what waits for it.
    pub(crate) fn abandon(&mut self) {
        self.pipe = None;
        self.written += self.waiting.len() as u64;
        self.waiting = VecDeque::new();
    }

    fn close_when_done(&mut self) {
        if self.ended && self.waiting.is_empty() {
            self.pipe = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn input_sent_twice_reaches_the_program_once() {
        let (mut read, write) = std::io::pipe().unwrap();
        let mut input = InputBuffer::new(Some(File::from(std::os::fd::OwnedFd::from(write))));
        input.push(0, b"abc").unwrap();
        input.write();
        assert_eq!(input.news(), Some(3));
        input.push(1, b"bcd").unwrap();
        input.push(0, b"ab").unwrap();
        assert_eq!(input.push(5, b"f"), Err(Overrun));
        input.write();
        input.end();
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        assert_eq!(text, "abcd");
        assert_eq!(input.news(), Some(4));
        assert_eq!(input.news(), None);
        input.tell_again();
        assert_eq!(input.news(), Some(4));
    }

    #[test]
    fn input_for_a_program_that_reads_no_more_is_dropped() {
        let (read, write) = std::io::pipe().unwrap();
        drop(read);
        let mut input = InputBuffer::new(Some(File::from(std::os::fd::OwnedFd::from(write))));
        input.push(0, b"abc").unwrap();
        input.write();
        input.push(3, b"def").unwrap();
        assert_eq!(input.news(), Some(6));
    }

    #[test]
    fn more_than_a_window_is_refused() {
        let (_read, write) = std::io::pipe().unwrap();
        let mut input = InputBuffer::new(Some(File::from(std::os::fd::OwnedFd::from(write))));
        let window = usize::try_from(WINDOW).unwrap();
        input.push(0, &vec![0; window]).unwrap();
        assert_eq!(input.push(WINDOW, b"x"), Err(Overrun));
    }
}
