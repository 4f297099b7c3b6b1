//! What callers hold of a running command or a transfer: output, input, downloads.

use std::time::Duration;

use bytes::Bytes;
use forge_core::ExecKey;
use forge_wire::frame::MAX_DATA;
use forge_wire::message::TransferSummary;
use forge_wire::{WINDOW, is_keyed, keyed_exec};
use tokio::sync::{mpsc, oneshot, watch};

use super::driver::Order;
use crate::error::{EngineError, EngineErrorKind, Operation};
use crate::sandbox::OutputChunk;

/// A quarter of the window: large enough to be rare, small enough never to stall the sender.
const ACKNOWLEDGE_EVERY: u64 = WINDOW / 4;

/// A transfer that does not move for this long counts as lost.
pub(super) const STALL_PATIENCE: Duration = Duration::from_secs(60);

/// The output of a command. What is taken is acknowledged, so a slow reader slows the command
/// down instead of filling memory. Only the caller acknowledges the output of a command with a key:
/// what is not, is given again to whoever joins it, and a full window of it holds the command up.
#[derive(Debug)]
pub struct OutputReceiver {
    pub(super) exec: u64,
    pub(super) chunks: mpsc::UnboundedReceiver<OutputChunk>,
    pub(super) orders: mpsc::UnboundedSender<Order>,
    pub(super) taken: u64,
    pub(super) acknowledged: u64,
}

impl OutputReceiver {
    /// The next piece; `None` when the command has ended or contact was lost.
    pub async fn next(&mut self) -> Option<OutputChunk> {
        let chunk = self.chunks.recv().await?;
        self.taken = chunk.offset + chunk.bytes.len() as u64;
        if !is_keyed(self.exec) && self.taken - self.acknowledged >= ACKNOWLEDGE_EVERY {
            self.acknowledge(self.taken);
        }
        Some(chunk)
    }

    /// Says that output up to `offset`, both streams together, is written down and will not be asked
    /// for again. Counts for no more than what was taken from here.
    pub fn acknowledge(&mut self, offset: u64) {
        let offset = offset.min(self.taken);
        if offset <= self.acknowledged {
            return;
        }
        self.acknowledged = offset;
        let exec = self.exec;
        // The driver is gone only when the channel is: nothing is left to acknowledge to.
        self.orders.send(Order::OutputTaken { exec, offset }).ok();
    }
}

impl Drop for OutputReceiver {
    /// What lies here is as good as taken: with a window of it, the driver would get nothing more by
    /// which it could see that nobody listens, and the command would stand still for ever.
    fn drop(&mut self) {
        self.chunks.close();
        while let Ok(chunk) = self.chunks.try_recv() {
            self.taken = chunk.offset + chunk.bytes.len() as u64;
        }
        if !is_keyed(self.exec) {
            self.acknowledge(self.taken);
        }
    }
}

/// Standard input and signals of a command.
#[derive(Debug, Clone)]
pub struct Remote {
    pub(super) exec: u64,
    pub(super) orders: mpsc::UnboundedSender<Order>,
    pub(super) stdin_taken: watch::Receiver<u64>,
    pub(super) stdin_sent: u64,
}

impl Remote {
    /// Writes to standard input, waiting while the command does not read.
    ///
    /// # Errors
    /// [`EngineErrorKind::Lost`] when the command has ended or contact was lost.
    pub async fn write_stdin(&mut self, bytes: &[u8]) -> Result<(), EngineError> {
        for piece in bytes.chunks(MAX_DATA) {
            let end = self.stdin_sent + piece.len() as u64;
            self.stdin_taken
                .wait_for(|taken| end.saturating_sub(*taken) <= WINDOW)
                .await
                .map_err(|_| ended())?;
            let order = Order::Stdin {
                exec: self.exec,
                offset: self.stdin_sent,
                bytes: Bytes::copy_from_slice(piece),
            };
            self.orders.send(order).map_err(|_| ended())?;
            self.stdin_sent = end;
        }
        Ok(())
    }

    /// Ends standard input.
    pub fn end_stdin(&self) {
        // A closed channel means that the command has no input any more either.
        self.orders.send(Order::StdinEnd { exec: self.exec }).ok();
    }

    /// Sends a signal to the command's process group.
    pub fn signal(&self, signal: i32) {
        // A closed channel means that there is nobody left to signal.
        self.orders
            .send(Order::Signal {
                exec: self.exec,
                signal,
            })
            .ok();
    }

    /// Says that the end of this command with a key is written down: the sandbox need not remember
    /// it any longer, and nobody can join it any more. Its key stays used. Without effect before the
    /// end was received, and for a command without a key, which is forgotten by itself.
    pub fn forget(&self) {
        // With the channel closed it is remembered until the sandbox is gone: no harm is done.
        self.orders.send(Order::Forget { exec: self.exec }).ok();
    }
}

/// What the caller of a command asks of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// Output up to this offset is acknowledged.
    Taken(u64),
    /// A piece of standard input.
    Stdin(Bytes),
    /// The end of standard input.
    StdinEnd,
    /// A signal's number.
    Signal(i32),
    /// The command's end is written down.
    Forget,
}

/// The wishes for one command of a fake engine.
#[derive(Debug)]
pub struct Wishes {
    orders: mpsc::UnboundedReceiver<Order>,
    stdin_taken: watch::Sender<u64>,
}

impl Wishes {
    /// The next one; `None` when the caller has dropped what it could wish by.
    pub async fn next(&mut self) -> Option<Wish> {
        loop {
            return Some(match self.orders.recv().await? {
                Order::OutputTaken { offset, .. } => Wish::Taken(offset),
                Order::Stdin { offset, bytes, .. } => {
                    self.stdin_taken.send_replace(offset + bytes.len() as u64);
                    Wish::Stdin(bytes)
                }
                Order::StdinEnd { .. } => Wish::StdinEnd,
                Order::Signal { signal, .. } => Wish::Signal(signal),
                Order::Forget { .. } => Wish::Forget,
                // The two handles below give no other orders.
                _ => continue,
            });
        }
    }
}

/// Output, remote and wishes of a command of a fake engine; `from` is the offset that `chunks`
/// begin with.
#[must_use]
pub fn detached(
    chunks: mpsc::UnboundedReceiver<OutputChunk>,
    key: Option<ExecKey>,
    from: u64,
) -> (OutputReceiver, Remote, Wishes) {
    let (orders, inbox) = mpsc::unbounded_channel();
    let (taken, stdin_taken) = watch::channel(0);
    let exec = key.map_or(0, |key| keyed_exec(key.0));
    let output = OutputReceiver {
        exec,
        chunks,
        orders: orders.clone(),
        taken: from,
        acknowledged: from,
    };
    let remote = Remote {
        exec,
        orders,
        stdin_taken,
        stdin_sent: 0,
    };
    let wishes = Wishes {
        orders: inbox,
        stdin_taken: taken,
    };
    (output, remote, wishes)
}

fn ended() -> EngineError {
    EngineError::new(
        EngineErrorKind::Lost,
        Operation::Exec,
        "",
        "the command takes no more input",
    )
}

/// A tar stream out of the sandbox.
#[derive(Debug)]
pub struct Download {
    pub(super) transfer: u64,
    pub(super) pieces: mpsc::UnboundedReceiver<Bytes>,
    pub(super) orders: mpsc::UnboundedSender<Order>,
    pub(super) done: oneshot::Receiver<Result<TransferSummary, EngineError>>,
    pub(super) taken: u64,
    pub(super) acknowledged: u64,
    pub(super) end: DownloadEnd,
}

/// How far the end of a download is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DownloadEnd {
    /// More may come.
    Open,
    /// Nothing more comes.
    Reached,
    /// Nothing came for too long.
    Stalled,
}

impl Download {
    /// The next piece; `None` when nothing more comes: then ask [`Self::finish`] why.
    pub async fn next(&mut self) -> Option<Bytes> {
        let piece = match tokio::time::timeout(STALL_PATIENCE, self.pieces.recv()).await {
            Ok(Some(piece)) => piece,
            Ok(None) => {
                self.end = DownloadEnd::Reached;
                return None;
            }
            Err(_) => {
                self.cancel();
                self.end = DownloadEnd::Stalled;
                return None;
            }
        };
        self.taken += piece.len() as u64;
        if self.taken - self.acknowledged >= ACKNOWLEDGE_EVERY {
            self.acknowledged = self.taken;
            let order = Order::TransferTaken {
                transfer: self.transfer,
                offset: self.taken,
            };
            // As above: a closed channel needs no acknowledgement.
            self.orders.send(order).ok();
        }
        Some(piece)
    }

    /// What was moved, or why it broke off.
    ///
    /// # Errors
    /// What the sandbox reports, or [`EngineErrorKind::Lost`].
    pub async fn finish(mut self) -> Result<TransferSummary, EngineError> {
        // Without a reader the sandbox would never come to its end.
        while self.next().await.is_some() {}
        let lost = |what| EngineError::new(EngineErrorKind::Lost, Operation::Get, "", what);
        if self.end == DownloadEnd::Stalled {
            return Err(lost("the sandbox stopped sending"));
        }
        match (&mut self.done).await {
            Ok(result) => result,
            Err(_) => Err(lost("the channel closed during the transfer")),
        }
    }

    fn cancel(&self) {
        let transfer = self.transfer;
        // Best effort: with the channel closed the transfer is over anyway.
        self.orders.send(Order::TransferCancel { transfer }).ok();
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        if self.end == DownloadEnd::Open {
            self.cancel();
        }
    }
}
