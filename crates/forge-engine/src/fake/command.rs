//! A command in the fake: what it has written and nobody has taken, who listens, how it ended.
//!
//! It outlives the handle of whoever started it, as a program outlives its orchestrator. Everything
//! that waits here is one task of the runtime, the command's own; one that has ended has none.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use forge_core::exec::OutputStream;
use forge_core::{Ending, ExitReport};
use forge_wire::WINDOW;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::channel::direct::{self, Wish, Wishes};
use crate::error::EngineError;
use crate::sandbox::{OutputChunk, RunningExec};

const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;

type Exit = Result<ExitReport, EngineError>;

/// The one who gets output and end.
struct Listener {
    /// `None` when nobody reads the output any more, which `deserted` tells.
    chunks: Option<mpsc::UnboundedSender<OutputChunk>>,
    deserted: BoxFuture<'static, ()>,
    exit: oneshot::Sender<Exit>,
    wishes: Wishes,
}

#[derive(Default)]
struct State {
    listener: Option<Listener>,
    /// What is not acknowledged, oldest first.
    held: VecDeque<OutputChunk>,
    /// Bytes that were written and kept.
    kept: u64,
    acknowledged: u64,
    /// Bytes that were written.
    written: u64,
    oom_kills: u64,
    pids_refused: u64,
    deaf: bool,
    /// Standard input that is not read yet.
    input: VecDeque<Bytes>,
    input_ended: bool,
    report: Option<ExitReport>,
    lost: bool,
    waker: Option<Waker>,
}

/// A command.
pub(super) struct Command {
    started: Instant,
    output_limit: u64,
    state: Mutex<State>,
    /// Bytes of standard input that were read.
    taken: watch::Sender<u64>,
}

/// What happened to a command that waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It has ended, by itself or not.
    Ended,
    /// Its sandbox is gone.
    Lost,
}

/// What happens in a sandbox while a command runs, for its report.
#[derive(Debug, Clone, Copy)]
pub(super) enum Incident {
    OutOfMemory,
    ProcessRefused,
}

impl Command {
    pub(super) fn new(output_limit: u64, has_input: bool) -> Arc<Self> {
        Arc::new(Self {
            started: Instant::now(),
            output_limit,
            state: Mutex::new(State {
                input_ended: !has_input,
                ..State::default()
            }),
            taken: watch::Sender::new(0),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `look` has something to say, following orders meanwhile. Only for the command's
    /// own task.
    async fn wait_for<T>(&self, mut look: impl FnMut(&mut State) -> Option<T>) -> T {
        poll_fn(|context| {
            let ending = self.state().obey(context);
            if let Some(ending) = ending {
                self.end(ending);
            }
            let mut state = self.state();
            state.waker = Some(context.waker().clone());
            look(&mut state).map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// A handle for a new listener, who takes the place of the one before.
    pub(super) fn attach(&self, lost: EngineError) -> RunningExec {
        let (chunks, receiver) = mpsc::unbounded_channel();
        let (exit, exited) = oneshot::channel();
        let (output, remote, wishes) = direct::command(receiver, self.taken.subscribe());
        let mut state = self.state();
        for chunk in &state.held {
            // The receiver is alive: it is returned below.
            chunks.send(chunk.clone()).ok();
        }
        let watched = chunks.clone();
        state.listener = Some(Listener {
            chunks: Some(chunks),
            deserted: async move { watched.closed().await }.boxed(),
            exit,
            wishes,
        });
        state.tell_end();
        state.wake();
        drop(state);
        RunningExec {
            output,
            remote,
            exit: Box::pin(async move { exited.await.unwrap_or(Err(lost)) }),
        }
    }

    /// Writes, waiting while nobody takes what is written. False when the output limit is passed.
    pub(super) async fn write(&self, stream: OutputStream, bytes: Bytes) -> bool {
        let length = bytes.len() as u64;
        self.wait_for(|state| {
            let under_way = state.kept - state.acknowledged;
            (under_way == 0 || under_way + length <= WINDOW).then_some(())
        })
        .await;
        self.push(stream, bytes)
    }

    /// Writes without waiting, what is known to be short.
    pub(super) fn push(&self, stream: OutputStream, bytes: Bytes) -> bool {
        let mut state = self.state();
        let fits = self.output_limit.saturating_sub(state.written);
        state.written += bytes.len() as u64;
        let length = usize::try_from(fits).unwrap_or(usize::MAX).min(bytes.len());
        let within = length == bytes.len();
        if length > 0 {
            let bytes = bytes.slice(..length);
            let offset = state.kept;
            state.kept += length as u64;
            let chunk = OutputChunk {
                stream,
                offset,
                bytes,
            };
            state.send(chunk);
        }
        within
    }

    /// The next piece of standard input; `None` after its end.
    pub(super) async fn read(&self) -> Option<Bytes> {
        let piece = self.wait_for(|state| match state.input.pop_front() {
            Some(piece) => Some(Some(piece)),
            None => state.input_ended.then_some(None),
        });
        let piece = piece.await?;
        self.taken.send_modify(|taken| *taken += piece.len() as u64);
        Some(piece)
    }

    /// Waits until something else than its own program has ended it.
    pub(super) async fn ended(&self) -> Fate {
        self.wait_for(|state| match (&state.report, state.lost) {
            (Some(_), _) => Some(Fate::Ended),
            (None, true) => Some(Fate::Lost),
            (None, false) => None,
        })
        .await
    }

    pub(super) fn turn_deaf(&self) {
        self.state().deaf = true;
    }

    pub(super) fn is_deaf(&self) -> bool {
        self.state().deaf
    }

    pub(super) fn note(&self, incident: Incident) {
        let mut state = self.state();
        match incident {
            Incident::OutOfMemory => state.oom_kills += 1,
            Incident::ProcessRefused => state.pids_refused += 1,
        }
    }

    pub(super) fn is_running(&self) -> bool {
        let state = self.state();
        state.report.is_none() && !state.lost
    }

    /// Ends it like this, unless it has ended.
    pub(super) fn end(&self, ending: Ending) {
        let mut state = self.state();
        let report = ExitReport {
            ending,
            output_bytes: state.written,
            truncated: state.written > state.kept,
            oom_kills: state.oom_kills,
            pids_refused: state.pids_refused,
            duration: self.started.elapsed(),
        };
        state.finish(report);
    }

    /// Ends it with a report that was made elsewhere, unless it has ended.
    pub(super) fn finish(&self, report: ExitReport) {
        self.state().finish(report);
    }

    /// Its sandbox is gone.
    pub(super) fn lose(&self) {
        let mut state = self.state();
        state.lost = true;
        state.listener = None;
        state.wake();
    }
}

impl State {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn send(&mut self, chunk: OutputChunk) {
        let chunks = self.listener.as_ref();
        let chunks = chunks.and_then(|listener| listener.chunks.as_ref());
        if chunks.is_some_and(|chunks| chunks.send(chunk.clone()).is_ok()) {
            self.held.push_back(chunk);
        } else {
            self.acknowledge(u64::MAX);
        }
    }

    fn acknowledge(&mut self, offset: u64) {
        self.acknowledged = self.acknowledged.max(offset.min(self.kept));
        let acknowledged = self.acknowledged;
        let is_taken =
            |chunk: &OutputChunk| chunk.offset + chunk.bytes.len() as u64 <= acknowledged;
        while self.held.front().is_some_and(is_taken) {
            self.held.pop_front();
        }
    }

    fn finish(&mut self, report: ExitReport) {
        if self.report.is_none() && !self.lost {
            self.report = Some(report);
            self.tell_end();
            self.wake();
        }
    }

    fn tell_end(&mut self) {
        let Some(report) = self.report.clone() else {
            return;
        };
        if let Some(listener) = self.listener.take() {
            // A listener that stopped waiting needs no answer.
            listener.exit.send(Ok(report)).ok();
        }
    }

    /// Follows what the listener ordered; gives the ending that this leads to.
    fn obey(&mut self, context: &mut Context<'_>) -> Option<Ending> {
        loop {
            let listener = self.listener.as_mut()?;
            let wish = listener.wishes.poll(context);
            if listener.chunks.is_some() && listener.deserted.poll_unpin(context).is_ready() {
                listener.chunks = None;
                self.acknowledge(u64::MAX);
            }
            let Poll::Ready(Some(wish)) = wish else {
                return None;
            };
            match wish {
                Wish::Taken(offset) => self.acknowledge(offset),
                Wish::Input(bytes) => self.input.push_back(bytes),
                Wish::InputEnd => self.input_ended = true,
                Wish::Signal(signal) => {
                    if signal == SIGKILL || (signal == SIGTERM && !self.deaf) {
                        return Some(Ending::Killed);
                    }
                }
            }
        }
    }
}
