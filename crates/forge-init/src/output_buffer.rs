//! Output of one exec that the client has not acknowledged yet, so that it can be sent again.
//!
//! Bytes of both lanes lie in one queue in the order in which they were read; runs tell which
//! bytes are whose. Memory: at most [`WINDOW`] bytes and, when every single byte changes the lane,
//! four bytes for each of them.

use std::collections::VecDeque;

use forge_wire::WINDOW;
use forge_wire::frame::Lane;

/// Marks a run of standard error; the other bits are its length.
const STDERR: u32 = 1 << 31;

/// Un-acknowledged output.
#[derive(Debug, Default)]
pub(crate) struct OutputBuffer {
    bytes: VecDeque<u8>,
    runs: VecDeque<u32>,
    /// Offset of the first byte held.
    start: u64,
    /// Bytes held that were sent.
    sent: usize,
    /// Runs that were sent whole.
    sent_runs: usize,
    /// Bytes sent of the run after those.
    sent_in_run: usize,
}

/// The next bytes to send, all of one lane; the second slice continues the first.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Piece<'a> {
    pub(crate) lane: Lane,
    pub(crate) offset: u64,
    pub(crate) bytes: (&'a [u8], &'a [u8]),
}

impl OutputBuffer {
    /// Bytes that may be pushed now.
    pub(crate) fn room(&self) -> usize {
        window().saturating_sub(self.bytes.len())
    }

    /// Bytes held.
    pub(crate) fn held(&self) -> usize {
        self.bytes.len()
    }

    /// Whether everything held was sent.
    pub(crate) fn is_sent(&self) -> bool {
        self.sent == self.bytes.len()
    }

    /// Takes output; the caller keeps to [`Self::room`].
    pub(crate) fn push(&mut self, lane: Lane, bytes: &[u8]) {
        let mark = if lane == Lane::Stderr { STDERR } else { 0 };
        // A window's length fits 31 bits.
        let length = u32::try_from(bytes.len()).unwrap_or(0);
        if length == 0 {
            return;
        }
        self.bytes.extend(bytes);
        match self.runs.back_mut() {
            Some(last) if *last & STDERR == mark => *last += length,
            _ => {
                self.runs.push_back(length | mark);
                // The run before may have been sent whole; it cannot grow any more.
                self.advance(0);
            }
        }
    }

    /// What to send next, at most `limit` bytes.
    pub(crate) fn peek(&self, limit: usize) -> Option<Piece<'_>> {
        let run = *self.runs.get(self.sent_runs)?;
        let left = run_length(run) - self.sent_in_run;
        if left == 0 {
            return None;
        }
        Some(Piece {
            lane: if run & STDERR == 0 {
                Lane::Stdout
            } else {
                Lane::Stderr
            },
            offset: self.start + self.sent as u64,
            bytes: slices(&self.bytes, self.sent, left.min(limit)),
        })
    }

    /// Notes that `count` bytes of what [`Self::peek`] gave were sent.
    pub(crate) fn advance(&mut self, count: usize) {
        self.sent += count;
        self.sent_in_run += count;
        let whole = self.runs.get(self.sent_runs).copied().map(run_length);
        // The last run stays the current one, because it may still grow.
        if whole == Some(self.sent_in_run) && self.sent_runs + 1 < self.runs.len() {
            self.sent_runs += 1;
            self.sent_in_run = 0;
        }
    }

    /// Forgets what the client has: bytes before `offset`, as far as they were ever sent.
    pub(crate) fn acknowledge(&mut self, offset: u64) {
        let wanted = usize::try_from(offset.saturating_sub(self.start)).unwrap_or(usize::MAX);
        let count = wanted.min(self.sent);
        let sent = self.sent - count;
        self.bytes.drain(..count);
        self.start += count as u64;
        let mut left = count;
        while let Some(run) = self.runs.front_mut() {
            let length = run_length(*run);
            if length > left {
                *run -= u32::try_from(left).unwrap_or(0);
                break;
            }
            left -= length;
            self.runs.pop_front();
        }
        if self.bytes.is_empty() {
            // An idle exec should cost no more than its entry in a table.
            self.bytes.shrink_to(4096);
            self.runs.shrink_to(16);
        }
        self.seek(sent);
    }

    /// The offset nearest to this one from which on output can be sent.
    pub(crate) fn nearest(&self, offset: u64) -> u64 {
        offset.clamp(self.start, self.start + self.bytes.len() as u64)
    }

    /// Makes `offset`, or the nearest one held, the next to be sent.
    pub(crate) fn rewind(&mut self, offset: u64) {
        let wanted = usize::try_from(offset.saturating_sub(self.start)).unwrap_or(usize::MAX);
        self.seek(wanted.min(self.bytes.len()));
    }

    fn seek(&mut self, sent: usize) {
        self.sent = sent;
        self.sent_runs = 0;
        self.sent_in_run = sent;
        for run in &self.runs {
            let length = run_length(*run);
            if self.sent_in_run < length || self.sent_runs + 1 == self.runs.len() {
                break;
            }
            self.sent_in_run -= length;
            self.sent_runs += 1;
        }
    }
}

fn window() -> usize {
    usize::try_from(WINDOW).unwrap_or(usize::MAX)
}

fn run_length(run: u32) -> usize {
    (run & !STDERR) as usize
}

fn slices(bytes: &VecDeque<u8>, from: usize, count: usize) -> (&[u8], &[u8]) {
    let (first, second) = bytes.as_slices();
    let middle = first.len();
    let to = from + count;
    (
        first.get(from.min(middle)..to.min(middle)).unwrap_or(&[]),
        second
            .get(from.saturating_sub(middle)..to.saturating_sub(middle))
            .unwrap_or(&[]),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn send_all(buffer: &mut OutputBuffer, limit: usize) -> Vec<(Lane, u64, Vec<u8>)> {
        let mut sent = Vec::new();
        while let Some(piece) = buffer.peek(limit) {
            let bytes = [piece.bytes.0, piece.bytes.1].concat();
            let count = bytes.len();
            sent.push((piece.lane, piece.offset, bytes));
            buffer.advance(count);
        }
        sent
    }

    #[test]
    fn one_stream_goes_on_after_the_other_was_sent_whole() {
        let mut buffer = OutputBuffer::default();
        buffer.push(Lane::Stdout, b"out");
        send_all(&mut buffer, 100);
        buffer.push(Lane::Stderr, b"err");
        assert_eq!(
            send_all(&mut buffer, 100),
            [(Lane::Stderr, 3, b"err".to_vec())]
        );
        assert!(buffer.is_sent());
    }

    #[test]
    fn output_is_held_until_it_is_acknowledged() {
        let mut buffer = OutputBuffer::default();
        buffer.push(Lane::Stdout, b"one");
        buffer.push(Lane::Stderr, b"two");
        assert_eq!(
            send_all(&mut buffer, 100),
            [
                (Lane::Stdout, 0, b"one".to_vec()),
                (Lane::Stderr, 3, b"two".to_vec())
            ]
        );
        assert!(buffer.is_sent());
        buffer.acknowledge(2);
        assert_eq!(buffer.held(), 4);
        buffer.rewind(0);
        assert_eq!(
            send_all(&mut buffer, 100),
            [
                (Lane::Stdout, 2, b"e".to_vec()),
                (Lane::Stderr, 3, b"two".to_vec())
            ]
        );
        buffer.push(Lane::Stderr, b"!");
        assert_eq!(
            send_all(&mut buffer, 100),
            [(Lane::Stderr, 6, b"!".to_vec())]
        );
        buffer.acknowledge(u64::MAX);
        assert_eq!(buffer.held(), 0);
    }

    #[test]
    fn a_full_window_leaves_no_room_until_it_is_acknowledged() {
        let mut buffer = OutputBuffer::default();
        buffer.push(Lane::Stdout, &vec![0; buffer.room()]);
        assert_eq!(buffer.room(), 0);
        buffer.acknowledge(10);
        assert_eq!(buffer.room(), 0, "nothing was sent yet");
        send_all(&mut buffer, 10_000);
        buffer.acknowledge(10);
        assert_eq!(buffer.room(), 10);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_mixed_up(
            steps in prop::collection::vec((any::<bool>(), 0_usize..9, 1_usize..9, 0_u64..60), 1..60),
        ) {
            let mut buffer = OutputBuffer::default();
            let mut written = Vec::new();
            let mut received: Vec<(Lane, u8)> = Vec::new();
            for (index, (error, length, limit, back)) in steps.into_iter().enumerate() {
                let lane = if error { Lane::Stderr } else { Lane::Stdout };
                let bytes = vec![u8::try_from(index).unwrap(); length];
                written.extend(bytes.iter().map(|byte| (lane, *byte)));
                buffer.push(lane, &bytes);
                let have = received.len() as u64;
                if index % 3 == 0 {
                    // A lost connection: the client asks again from an earlier offset.
                    let from = have.saturating_sub(back).max(buffer.start);
                    received.truncate(usize::try_from(from).unwrap());
                    buffer.rewind(from);
                } else {
                    buffer.acknowledge(have.saturating_sub(back));
                }
                for (lane, offset, bytes) in send_all(&mut buffer, limit) {
                    prop_assert_eq!(offset, received.len() as u64);
                    received.extend(bytes.iter().map(|byte| (lane, *byte)));
                }
                prop_assert!(buffer.is_sent());
                prop_assert_eq!(&received, &written);
            }
        }
    }
}
