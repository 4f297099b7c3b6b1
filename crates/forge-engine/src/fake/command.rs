//! A command in the fake: what it has written and nobody has taken, who listens, how it ended.
//!
//! It outlives the handle of whoever started it, as a program outlives its orchestrator. Everything
//! that waits here is one task of the runtime, the command's own; one that has ended has none.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use forge_core::exec::OutputStream;
use forge_core::{Ending, ExecKey, ExecRequest, ExitReport, SandboxId};
use forge_wire::WINDOW;
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::task::noop_waker_ref;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::channel::{Wish, Wishes, detached};
use crate::error::{EngineError, EngineErrorKind, Operation};
use crate::sandbox::{OutputChunk, RunningExec};

const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;
/// What is said to those whose sandbox somebody of a higher epoch has.
pub(super) const SUPERSEDED: &str = "another orchestrator has taken this sandbox over";

type Exit = Result<ExitReport, EngineError>;

/// The one who gets output and end.
struct Listener {
    /// Which handle to the sandbox asked.
    handle: u64,
    /// `None` when nobody reads the output any more, which `deserted` tells, or no more comes.
    chunks: Option<mpsc::UnboundedSender<OutputChunk>>,
    deserted: BoxFuture<'static, ()>,
    /// `None` when the end was told.
    exit: Option<oneshot::Sender<Exit>>,
    wishes: Wishes,
}

#[derive(Default)]
struct State {
    listener: Option<Listener>,
    /// With a key: output is kept until it is acknowledged, and the end until it is forgotten.
    keyed: bool,
    forgotten: bool,
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
    pub(super) key: Option<ExecKey>,
    state: Mutex<State>,
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
    pub(super) fn new(request: &ExecRequest) -> Arc<Self> {
        Arc::new(Self {
            started: Instant::now(),
            output_limit: request.output_limit,
            key: request.key,
            state: Mutex::new(State {
                keyed: request.key.is_some(),
                input_ended: !request.stdin,
                ..State::default()
            }),
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

    /// Gives output from `from` on, and the end, to a new listener, who takes the place of the one
    /// before; for `handle` to the sandbox `id`.
    pub(super) fn attach(&self, from: u64, handle: u64, id: &SandboxId) -> RunningExec {
        let (chunks, receiver) = mpsc::unbounded_channel();
        let (exit, exited) = oneshot::channel();
        let (output, remote, wishes) = detached(receiver, self.key, from);
        let watched = chunks.clone();
        let listener = Listener {
            handle,
            chunks: Some(chunks),
            deserted: async move { watched.closed().await }.boxed(),
            exit: Some(exit),
            wishes,
        };
        let lost = error(
            EngineErrorKind::Lost,
            id,
            "contact with the sandbox was lost",
        );
        if let Some(refused) = self.state().listen(listener, from, id) {
            return failed(refused);
        }
        RunningExec {
            output,
            remote,
            exit: Box::pin(async move { exited.await.unwrap_or(Err(lost)) }),
        }
    }

    /// Whoever listens by an older handle is told that the sandbox is another's.
    pub(super) fn supersede(&self, id: &SandboxId) {
        let mut state = self.state();
        if let Some(mut listener) = state.listener.take()
            && let Some(exit) = listener.exit.take()
        {
            let superseded = error(EngineErrorKind::Conflict, id, SUPERSEDED);
            // A listener that stopped waiting needs no answer.
            exit.send(Err(superseded)).ok();
        }
        if !state.keyed {
            state.acknowledge(u64::MAX);
        }
        state.wake();
    }

    /// Whether nothing of it needs to be remembered, after the wishes of its listener.
    pub(super) fn is_over(&self) -> bool {
        let mut state = self.state();
        if state.report.is_some() {
            state.obey(&mut Context::from_waker(noop_waker_ref()));
        }
        state.lost || (state.report.is_some() && (!state.keyed || state.forgotten))
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
        piece.await
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

    /// Bytes of output so far.
    pub(super) fn written(&self) -> u64 {
        self.state().written
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

    /// Takes a new listener, unless what it wants is not there any more.
    fn listen(&mut self, listener: Listener, from: u64, id: &SandboxId) -> Option<EngineError> {
        if let Some(before) = &self.listener
            && before.handle == listener.handle
            && before.exit.as_ref().is_some_and(|exit| !exit.is_closed())
        {
            let message = "the command with this key is followed already";
            return Some(error(EngineErrorKind::Conflict, id, message));
        }
        if !(self.acknowledged..=self.kept).contains(&from) {
            let message = "the sandbox has other output of the command than was asked for";
            return Some(error(EngineErrorKind::Corrupt, id, message));
        }
        self.acknowledge(from);
        self.listener = Some(listener);
        for chunk in self.held.clone() {
            self.tell(chunk);
        }
        self.tell_end();
        self.wake();
        None
    }

    /// Gives the listener a piece of output; false when there is none.
    fn tell(&self, chunk: OutputChunk) -> bool {
        let chunks = self.listener.as_ref();
        let chunks = chunks.and_then(|listener| listener.chunks.as_ref());
        chunks.is_some_and(|chunks| chunks.send(chunk).is_ok())
    }

    fn send(&mut self, chunk: OutputChunk) {
        if self.tell(chunk.clone()) || self.keyed {
            self.held.push_back(chunk);
        } else {
            self.acknowledge(u64::MAX);
        }
    }

    fn acknowledge(&mut self, offset: u64) {
        self.acknowledged = self.acknowledged.max(offset.min(self.kept));
        let acknowledged = self.acknowledged;
        while let Some(mut first) = self.held.pop_front() {
            let taken = acknowledged.saturating_sub(first.offset);
            let taken = usize::try_from(taken).unwrap_or(usize::MAX);
            if taken < first.bytes.len() {
                first.bytes = first.bytes.split_off(taken);
                first.offset += taken as u64;
                self.held.push_front(first);
                return;
            }
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
        let Some(listener) = &mut self.listener else {
            return;
        };
        listener.chunks = None;
        // The channel of chunks is open as long as somebody watches it.
        listener.deserted = std::future::pending().boxed();
        if let Some(exit) = listener.exit.take() {
            // A listener that stopped waiting needs no answer.
            exit.send(Ok(report)).ok();
        }
    }

    /// Follows what the listener wishes; gives the ending that this leads to.
    fn obey(&mut self, context: &mut Context<'_>) -> Option<Ending> {
        loop {
            let listener = self.listener.as_mut()?;
            let wish = pin!(listener.wishes.next()).poll(context);
            if listener.chunks.is_some() && listener.deserted.poll_unpin(context).is_ready() {
                listener.chunks = None;
                if !self.keyed {
                    self.acknowledge(u64::MAX);
                }
            }
            let Poll::Ready(Some(wish)) = wish else {
                return None;
            };
            match wish {
                Wish::Taken(offset) => self.acknowledge(offset),
                Wish::Stdin(bytes) => self.input.push_back(bytes),
                Wish::StdinEnd => self.input_ended = true,
                Wish::Forget => self.forgotten |= self.report.is_some(),
                Wish::Signal(signal) => {
                    if signal == SIGKILL || (signal == SIGTERM && !self.deaf) {
                        return Some(Ending::Killed);
                    }
                }
            }
        }
    }
}

pub(super) fn error(kind: EngineErrorKind, id: &SandboxId, message: &str) -> EngineError {
    EngineError::new(kind, Operation::Exec, id.as_str(), message)
}

/// A command that fails without ever having been one.
pub(super) fn failed(error: EngineError) -> RunningExec {
    let (_, receiver) = mpsc::unbounded_channel();
    let (output, remote, _) = detached(receiver, None, 0);
    RunningExec {
        output,
        remote,
        exit: Box::pin(async move { Err(error) }),
    }
}
