//! What callers hold of a command or a transfer, for an engine that has no channel between: the
//! fake. It takes their wishes where a driver would take their orders.

use std::task::{Context, Poll};

use bytes::Bytes;
use forge_wire::message::TransferSummary;
use tokio::sync::{mpsc, oneshot, watch};

use super::driver::Order;
use super::streams::{Download, DownloadEnd, OutputReceiver, Remote};
use crate::error::EngineError;
use crate::sandbox::OutputChunk;

/// What the holder of a command wants of it.
#[derive(Debug)]
pub(crate) enum Wish {
    /// Output up to here is taken, in bytes.
    Taken(u64),
    /// More standard input.
    Input(Bytes),
    /// No more of it.
    InputEnd,
    /// A signal to its process group.
    Signal(i32),
}

/// The wishes of one holder.
#[derive(Debug)]
pub(crate) struct Wishes(mpsc::UnboundedReceiver<Order>);

impl Wishes {
    /// The next wish; `None` when the holder let go of everything.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Wish>> {
        loop {
            let wish = match self.0.poll_recv(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Ready(Some(order)) => match order {
                    Order::OutputTaken { offset, .. } => Wish::Taken(offset),
                    Order::Stdin { bytes, .. } => Wish::Input(bytes),
                    Order::StdinEnd { .. } => Wish::InputEnd,
                    Order::Signal { signal, .. } => Wish::Signal(signal),
                    // Nothing else is sent by those who hold a command.
                    _ => continue,
                },
            };
            return Poll::Ready(Some(wish));
        }
    }
}

/// The ends that the holder of a command gets, and the wishes that come of them. `taken` tells how
/// much standard input was read, in bytes.
pub(crate) fn command(
    chunks: mpsc::UnboundedReceiver<OutputChunk>,
    taken: watch::Receiver<u64>,
) -> (OutputReceiver, Remote, Wishes) {
    let (orders, inbox) = mpsc::unbounded_channel();
    let output = OutputReceiver {
        exec: 0,
        chunks,
        orders: orders.clone(),
        taken: 0,
        acknowledged: 0,
    };
    let remote = Remote {
        exec: 0,
        orders,
        stdin_taken: taken,
        stdin_sent: 0,
    };
    (output, remote, Wishes(inbox))
}

/// A download of these pieces, which ends like this.
pub(crate) fn download(
    pieces: Vec<Bytes>,
    outcome: Result<TransferSummary, EngineError>,
) -> Download {
    let (sender, receiver) = mpsc::unbounded_channel();
    let (done, ended) = oneshot::channel();
    let (orders, _) = mpsc::unbounded_channel();
    // Both receivers are alive in the value returned below.
    for piece in pieces {
        sender.send(piece).ok();
    }
    done.send(outcome).ok();
    Download {
        transfer: 0,
        pieces: receiver,
        orders,
        done: ended,
        taken: 0,
        acknowledged: 0,
        end: DownloadEnd::Open,
    }
}
