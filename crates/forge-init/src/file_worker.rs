//! The thread that unpacks, packs, removes and gives away, one job at a time in the order of the requests.

use std::io::Read;
use std::sync::Arc;

use forge_wire::MAX_DATA;
use forge_wire::message::{Event, TransferError, TransferSummary};

use crate::failure::Failure;
use crate::hand_over::hand_over;
use crate::pack::{Sink, pack};
use crate::remove::remove;
use crate::rights;
use crate::transfers::{Job, Transfers};
use crate::unpack::unpack;

/// Bytes that may follow the end of an archive in its stream; writers fill their last record.
const MAX_TRAILER: u64 = 1024 * 1024;

/// Starts the thread.
pub(crate) fn start(transfers: Arc<Transfers>) -> std::io::Result<()> {
    std::thread::Builder::new()
        .name("files".into())
        .stack_size(512 * 1024)
        .spawn(move || {
            loop {
                run(&transfers, transfers.next_job());
            }
        })
        .map(drop)
}

fn run(transfers: &Transfers, job: Job) {
    rights::restore(job.workspace());
    match job {
        Job::Put {
            transfer,
            directory,
            limits,
            ..
        } => {
            let mut upload = Upload {
                transfers,
                transfer,
                piece: Vec::new(),
                position: 0,
                cancelled: false,
            };
            let result = unpack(&directory, limits, &mut upload);
            let result = result.and_then(|summary| upload.drain().map(|()| summary));
            // A reader that fails looks like a broken stream to whoever reads from it.
            let result = if upload.cancelled {
                Err(Failure::cancelled())
            } else {
                result
            };
            transfers.finish(transfer, outcome(transfer, result));
        }
        Job::Get {
            transfer,
            path,
            limits,
            ..
        } => {
            let mut download = Download {
                transfers,
                transfer,
                piece: vec![0; MAX_DATA],
                filled: 0,
            };
            let result = pack(&path, limits, &mut download)
                .and_then(|summary| download.flush().map(|()| summary));
            transfers.finish(transfer, outcome(transfer, result));
        }
        Job::Remove {
            request,
            workspace,
            path,
        } => {
            let error = remove(&workspace, &path).err();
            transfers.answer(Event::Removed {
                request,
                error: error.map(|failure| failure.message),
            });
        }
        Job::HandOver {
            request,
            workspace,
            path,
            heir,
        } => {
            let error = hand_over(&workspace, &path, heir).err();
            transfers.answer(Event::HandedOver {
                request,
                error: error.map(|failure| failure.message),
            });
        }
    }
}

fn outcome(transfer: u64, result: Result<TransferSummary, Failure>) -> Event {
    match result {
        Ok(summary) => Event::TransferDone { transfer, summary },
        Err(failure) => Event::TransferFailed {
            transfer,
            error: failure.error,
            message: failure.message,
        },
    }
}

/// An upload as a stream to read from.
struct Upload<'a> {
    transfers: &'a Transfers,
    transfer: u64,
    piece: Vec<u8>,
    position: usize,
    cancelled: bool,
}

impl Upload<'_> {
    /// Reads what follows the end of the archive, up to the end of the upload.
    fn drain(&mut self) -> Result<(), Failure> {
        let mut left = MAX_TRAILER;
        let mut scrap = [0; 4096];
        loop {
            match self.read(&mut scrap) {
                Ok(0) => return Ok(()),
                Ok(count) => left = left.saturating_sub(count as u64),
                Err(_) => return Err(Failure::cancelled()),
            }
            if left == 0 {
                let what = "bytes after the end of the archive";
                return Err(Failure::new(TransferError::Malformed, what));
            }
        }
    }
}

impl Read for Upload<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        while self.position == self.piece.len() {
            match self.transfers.next_piece(self.transfer) {
                Ok(Some(piece)) => {
                    self.piece = piece;
                    self.position = 0;
                }
                Ok(None) => return Ok(0),
                Err(cancelled) => {
                    self.cancelled = true;
                    return Err(std::io::Error::other(cancelled));
                }
            }
        }
        let left = self.piece.get(self.position..).unwrap_or(&[]);
        let count = left.len().min(into.len());
        if let (Some(to), Some(from)) = (into.get_mut(..count), left.get(..count)) {
            to.copy_from_slice(from);
        }
        self.position += count;
        Ok(count)
    }
}

/// A download as a stream to write to.
struct Download<'a> {
    transfers: &'a Transfers,
    transfer: u64,
    piece: Vec<u8>,
    filled: usize,
}

impl Download<'_> {
    fn flush(&mut self) -> Result<(), Failure> {
        if self.filled == 0 {
            return Ok(());
        }
        let mut piece = std::mem::replace(&mut self.piece, vec![0; MAX_DATA]);
        piece.truncate(self.filled);
        self.filled = 0;
        self.transfers
            .send_piece(self.transfer, piece)
            .map_err(|_| Failure::cancelled())
    }
}

impl Sink for Download<'_> {
    fn write(&mut self, mut bytes: &[u8]) -> Result<(), Failure> {
        while !bytes.is_empty() {
            let room = self.piece.get_mut(self.filled..).unwrap_or(&mut []);
            let count = room.len().min(bytes.len());
            let (now, later) = bytes.split_at(count);
            if let Some(room) = room.get_mut(..count) {
                room.copy_from_slice(now);
            }
            self.filled += count;
            bytes = later;
            if self.filled == self.piece.len() {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn write_with(
        &mut self,
        limit: usize,
        fill: &mut dyn FnMut(&mut [u8]) -> std::io::Result<usize>,
    ) -> Result<std::io::Result<usize>, Failure> {
        let end = self.piece.len().min(self.filled.saturating_add(limit));
        let room = self.piece.get_mut(self.filled..end).unwrap_or(&mut []);
        let filled = fill(room);
        self.filled += *filled.as_ref().unwrap_or(&0);
        if self.filled == self.piece.len() {
            self.flush()?;
        }
        Ok(filled)
    }
}
