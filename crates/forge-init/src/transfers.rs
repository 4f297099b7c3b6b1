//! Transfers between the main loop, which must never wait, and the file thread, which may.
//!
//! Each transfer has a queue of at most [`WINDOW`] bytes. An upload that passes it breaks the
//! protocol; a download waits in the file thread. At most [`MAX_JOBS`] wait their turn, so the
//! queues hold at most that many windows.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use forge_wire::frame::{Lane, encode_data};
use forge_wire::message::{Event, TransferLimits};
use forge_wire::{FrameError, WINDOW};

use crate::hand_over::Heir;
use crate::wake::{Wake, lock};

/// Transfers, removals and the like under way or waiting.
const MAX_JOBS: usize = 32;
/// Pieces of an upload shorter than this are put together.
const SHORT_PIECE: usize = 64 * 1024;

/// Something for the file thread to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Job {
    Put {
        transfer: u64,
        workspace: String,
        directory: String,
        limits: TransferLimits,
    },
    Get {
        transfer: u64,
        workspace: String,
        path: String,
        limits: TransferLimits,
    },
    Remove {
        request: u64,
        workspace: String,
        path: String,
    },
    HandOver {
        request: u64,
        workspace: String,
        path: String,
        heir: Heir,
    },
}

/// The client broke the rules of a transfer; its connection is of no further use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Overrun;

impl Job {
    /// The workspace of the sandbox, whatever part of it the job is about.
    pub(crate) fn workspace(&self) -> &str {
        match self {
            Self::Put { workspace, .. }
            | Self::Get { workspace, .. }
            | Self::Remove { workspace, .. }
            | Self::HandOver { workspace, .. } => workspace,
        }
    }
}

/// Both threads' view of the transfers.
#[derive(Debug)]
pub(crate) struct Transfers {
    state: Mutex<State>,
    /// Something changed that the file thread waits for.
    changed: Condvar,
    wake: Wake,
}

#[derive(Debug, Default)]
struct State {
    jobs: VecDeque<Job>,
    /// The job that the file thread has is not for a client that is gone.
    current_is_wanted: bool,
    streams: BTreeMap<u64, Stream>,
    answers: VecDeque<Event>,
}

#[derive(Debug, Default)]
struct Stream {
    pieces: VecDeque<Vec<u8>>,
    /// Bytes that entered the queue.
    entered: u64,
    /// Bytes that the other side has: the file thread for an upload, the client for a download.
    taken: u64,
    /// What of `taken` the client was told, for an upload; what was sent, for a download.
    announced: u64,
    upload: bool,
    ended: bool,
    cancelled: bool,
    result: Option<Event>,
}

impl Transfers {
    /// No transfers yet; `wake` is rung when [`Self::collect`] has something to give.
    pub(crate) fn new(wake: Wake) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            wake,
        })
    }

    /// Queues a job; too many, or an id that is in use, are an overrun.
    pub(crate) fn begin(&self, job: Job) -> Result<(), Overrun> {
        let mut state = lock(&self.state);
        if state.jobs.len() >= MAX_JOBS {
            return Err(Overrun);
        }
        if let Job::Put { transfer, .. } | Job::Get { transfer, .. } = &job {
            if state.streams.contains_key(transfer) {
                return Err(Overrun);
            }
            let stream = Stream {
                upload: matches!(job, Job::Put { .. }),
                ..Stream::default()
            };
            state.streams.insert(*transfer, stream);
        }
        state.jobs.push_back(job);
        self.changed.notify_one();
        Ok(())
    }

    /// Takes a piece of an upload; one that has failed or is unknown drops it.
    pub(crate) fn upload(&self, transfer: u64, offset: u64, bytes: Vec<u8>) -> Result<(), Overrun> {
        let mut state = lock(&self.state);
        let Some(stream) = state.streams.get_mut(&transfer) else {
            return Ok(());
        };
        let entered = stream.entered + bytes.len() as u64;
        let misplaced = !stream.upload || stream.ended || offset != stream.entered;
        if misplaced || entered - stream.announced > WINDOW {
            return Err(Overrun);
        }
        stream.entered = entered;
        if stream.cancelled || stream.result.is_some() {
            return Ok(());
        }
        match stream.pieces.back_mut() {
            Some(last) if last.len() + bytes.len() <= SHORT_PIECE => last.extend_from_slice(&bytes),
            _ => stream.pieces.push_back(bytes),
        }
        self.changed.notify_one();
        Ok(())
    }

    /// Notes that an upload is complete.
    pub(crate) fn end_upload(&self, transfer: u64) {
        self.change(transfer, |stream| stream.ended = true);
    }

    /// Notes how much of a download the client has.
    pub(crate) fn taken(&self, transfer: u64, offset: u64) {
        self.change(transfer, |stream| {
            if !stream.upload {
                stream.taken = stream.taken.max(offset.min(stream.announced));
            }
        });
    }

    /// Notes that the client wants no more of a transfer.
    pub(crate) fn cancel(&self, transfer: u64) {
        self.change(transfer, |stream| {
            stream.cancelled = true;
            stream.pieces.clear();
        });
    }

    fn change(&self, transfer: u64, change: impl FnOnce(&mut Stream)) {
        if let Some(stream) = lock(&self.state).streams.get_mut(&transfer) {
            change(stream);
        }
        self.changed.notify_one();
    }

    /// Drops everything: the client that asked for it is gone.
    pub(crate) fn cancel_all(&self) {
        let mut state = lock(&self.state);
        state.jobs.clear();
        state.streams.clear();
        state.answers.clear();
        state.current_is_wanted = false;
        self.changed.notify_one();
    }

    /// Appends what the client should get to `out`, until that holds `limit` bytes.
    pub(crate) fn collect(&self, out: &mut Vec<u8>, limit: usize) -> Result<(), FrameError> {
        let mut state = lock(&self.state);
        while let Some(answer) = state.answers.pop_front() {
            forge_wire::frame::encode_message(&answer, out)?;
        }
        let mut finished = Vec::new();
        for (transfer, stream) in &mut state.streams {
            if stream.upload {
                if stream.taken > stream.announced {
                    stream.announced = stream.taken;
                    let event = Event::TransferTaken {
                        transfer: *transfer,
                        offset: stream.taken,
                    };
                    forge_wire::frame::encode_message(&event, out)?;
                }
            } else {
                while out.len() < limit {
                    let Some(piece) = stream.pieces.pop_front() else {
                        break;
                    };
                    encode_data(*transfer, Lane::Download, stream.announced, &piece, out);
                    stream.announced += piece.len() as u64;
                }
            }
            if stream.pieces.is_empty()
                && let Some(result) = stream.result.take()
            {
                forge_wire::frame::encode_message(&result, out)?;
                finished.push(*transfer);
            }
        }
        for transfer in finished {
            state.streams.remove(&transfer);
        }
        Ok(())
    }

    /// The next job; waits for one.
    pub(crate) fn next_job(&self) -> Job {
        let mut state = lock(&self.state);
        loop {
            if let Some(job) = state.jobs.pop_front() {
                state.current_is_wanted = true;
                return job;
            }
            state = self.wait(state);
        }
    }

    /// The next piece of an upload; waits for it. Fails when the transfer is cancelled.
    pub(crate) fn next_piece(&self, transfer: u64) -> Result<Option<Vec<u8>>, Cancelled> {
        let mut state = lock(&self.state);
        loop {
            let stream = state.wanted(transfer)?;
            if let Some(piece) = stream.pieces.pop_front() {
                stream.taken += piece.len() as u64;
                if stream.pieces.is_empty() || stream.taken - stream.announced >= WINDOW / 4 {
                    self.wake.ring();
                }
                return Ok(Some(piece));
            }
            if stream.ended {
                return Ok(None);
            }
            state = self.wait(state);
        }
    }

    /// Queues a piece of a download; waits for room. Fails when the transfer is cancelled.
    pub(crate) fn send_piece(&self, transfer: u64, piece: Vec<u8>) -> Result<(), Cancelled> {
        let mut state = lock(&self.state);
        loop {
            let stream = state.wanted(transfer)?;
            let entered = stream.entered + piece.len() as u64;
            if entered - stream.taken <= WINDOW {
                stream.entered = entered;
                stream.pieces.push_back(piece);
                self.wake.ring();
                return Ok(());
            }
            state = self.wait(state);
        }
    }

    /// Notes how a transfer ended.
    pub(crate) fn finish(&self, transfer: u64, result: Event) {
        let mut state = lock(&self.state);
        if !state.current_is_wanted {
            return;
        }
        if let Some(stream) = state.streams.get_mut(&transfer) {
            let failed = matches!(result, Event::TransferFailed { .. });
            stream.result = Some(result);
            if failed {
                stream.pieces.clear();
            }
        }
        self.wake.ring();
    }

    /// Notes the answer to a removal.
    pub(crate) fn answer(&self, answer: Event) {
        let mut state = lock(&self.state);
        if state.current_is_wanted {
            state.answers.push_back(answer);
            self.wake.ring();
        }
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed
            .wait(state)
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// A transfer that nobody wants any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cancelled")]
pub(crate) struct Cancelled;

impl State {
    fn wanted(&mut self, transfer: u64) -> Result<&mut Stream, Cancelled> {
        if !self.current_is_wanted {
            return Err(Cancelled);
        }
        self.streams
            .get_mut(&transfer)
            .filter(|stream| !stream.cancelled)
            .ok_or(Cancelled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: TransferLimits = TransferLimits {
        bytes: 0,
        entries: 0,
    };

    fn put(transfer: u64) -> Job {
        Job::Put {
            transfer,
            workspace: "/w".into(),
            directory: "/".into(),
            limits: LIMITS,
        }
    }

    #[test]
    fn an_upload_past_its_window_or_out_of_order_is_an_overrun() {
        let transfers = Transfers::new(Wake::new().unwrap());
        transfers.begin(put(1)).unwrap();
        assert_eq!(transfers.begin(put(1)), Err(Overrun));
        let piece = vec![0; usize::try_from(WINDOW).unwrap()];
        transfers.upload(1, 0, piece).unwrap();
        assert_eq!(transfers.upload(1, WINDOW, vec![0]), Err(Overrun));
        transfers.next_job();
        transfers.next_piece(1).unwrap();
        assert_eq!(transfers.upload(1, WINDOW, vec![0]), Err(Overrun));
        let mut out = Vec::new();
        transfers.collect(&mut out, 1000).unwrap();
        assert!(!out.is_empty());
        assert_eq!(transfers.upload(1, 7, vec![0]), Err(Overrun));
        transfers.upload(1, WINDOW, vec![0]).unwrap();
        transfers.upload(99, 0, vec![0]).unwrap();
    }

    #[test]
    fn nothing_of_a_lost_client_reaches_the_next_one() {
        let transfers = Transfers::new(Wake::new().unwrap());
        let remove = Job::Remove {
            request: 1,
            workspace: "/w".into(),
            path: "/w/x".into(),
        };
        transfers.begin(remove).unwrap();
        transfers.begin(put(2)).unwrap();
        transfers.next_job();
        transfers.cancel_all();
        transfers.answer(Event::Removed {
            request: 1,
            error: None,
        });
        let mut out = Vec::new();
        transfers.collect(&mut out, 1000).unwrap();
        assert!(out.is_empty());
        assert_eq!(transfers.next_piece(2), Err(Cancelled));
    }

    #[test]
    fn too_many_jobs_are_an_overrun() {
        let transfers = Transfers::new(Wake::new().unwrap());
        for transfer in 0..MAX_JOBS as u64 {
            transfers.begin(put(transfer)).unwrap();
        }
        assert_eq!(transfers.begin(put(1000)), Err(Overrun));
    }
}
