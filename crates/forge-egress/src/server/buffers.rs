//! Buffers that connections borrow while bytes move and give back when nothing does, so that
//! memory is bounded however many connections stand still.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use crate::audit::lock;

const LARGE: usize = 128 * 1024;
const SMALL: usize = 8 * 1024;
/// Large buffers of all sandboxes, 32 MiB.
const MOST_LARGE: usize = 256;
/// Large buffers of one sandbox; its other connections use small ones.
const MOST_LARGE_EACH: usize = 16;
/// Buffers kept for the next borrower.
const MOST_KEPT: usize = 64;

/// The buffers of all sandboxes.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    large: Mutex<Vec<Box<[u8]>>>,
    small: Mutex<Vec<Box<[u8]>>>,
    lent: AtomicUsize,
}

/// What one sandbox has borrowed.
#[derive(Debug, Default)]
pub(crate) struct Share(AtomicUsize);

/// The right to borrow for one sandbox.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lender<'pool> {
    pub(crate) pool: &'pool Pool,
    pub(crate) share: &'pool Share,
}

/// A borrowed buffer.
#[derive(Debug)]
struct Buffer<'pool> {
    bytes: Box<[u8]>,
    lender: Lender<'pool>,
}

impl<'pool> Lender<'pool> {
    fn borrow(self) -> Buffer<'pool> {
        let large = take_one(&self.pool.lent, MOST_LARGE)
            && (take_one(&self.share.0, MOST_LARGE_EACH) || {
                self.pool.lent.fetch_sub(1, Ordering::Relaxed);
                false
            });
        let (kept, size) = if large {
            (&self.pool.large, LARGE)
        } else {
            (&self.pool.small, SMALL)
        };
        let bytes = lock(kept).pop();
        Buffer {
            bytes: bytes.unwrap_or_else(|| vec![0; size].into_boxed_slice()),
            lender: self,
        }
    }
}

fn take_one(counter: &AtomicUsize, most: usize) -> bool {
    if counter.fetch_add(1, Ordering::Relaxed) < most {
        return true;
    }
    counter.fetch_sub(1, Ordering::Relaxed);
    false
}

impl Drop for Buffer<'_> {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let pool = self.lender.pool;
        let kept = if bytes.len() == LARGE {
            pool.lent.fetch_sub(1, Ordering::Relaxed);
            self.lender.share.0.fetch_sub(1, Ordering::Relaxed);
            &pool.large
        } else {
            &pool.small
        };
        let mut kept = lock(kept);
        if kept.len() < MOST_KEPT {
            kept.push(bytes);
        }
    }
}

/// Bytes that were read.
#[derive(Debug)]
pub(crate) struct Piece<'pool> {
    bytes: Bytes<'pool>,
    from: usize,
    to: usize,
}

#[derive(Debug)]
enum Bytes<'pool> {
    Own(Vec<u8>),
    Borrowed(Buffer<'pool>),
}

impl Piece<'_> {
    pub(crate) fn bytes(&self) -> &[u8] {
        let all = match &self.bytes {
            Bytes::Own(bytes) => bytes.as_slice(),
            Bytes::Borrowed(buffer) => &buffer.bytes,
        };
        &all[self.from..self.to]
    }
}

/// One direction of a connection, with the bytes that were read ahead.
#[derive(Debug)]
pub(crate) struct Source<R> {
    inner: R,
    ahead: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Source<R> {
    pub(crate) const fn new(inner: R) -> Self {
        Self {
            inner,
            ahead: Vec::new(),
        }
    }

    /// The bytes read ahead.
    pub(crate) fn ahead(&self) -> &[u8] {
        &self.ahead
    }

    /// Takes bytes read ahead off the front.
    pub(crate) fn consume(&mut self, count: usize) {
        if count >= self.ahead.len() {
            // Gives the memory back too: a connection that stands still shall not hold any.
            self.ahead = Vec::new();
        } else {
            self.ahead.drain(..count);
        }
    }

    /// Puts bytes back, so that they are read again.
    pub(crate) fn put_back(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.ahead.splice(0..0, bytes.iter().copied());
        }
    }

    /// Reads further ahead, at most until `most` bytes are; how many came, 0 at the end.
    pub(crate) async fn look_further(&mut self, most: usize) -> io::Result<usize> {
        const STEP: usize = 4 * 1024;
        poll_fn(|context| {
            let mut step = [0; STEP];
            let room = most.saturating_sub(self.ahead.len()).min(STEP);
            let mut buffer = ReadBuf::new(&mut step[..room]);
            ready!(Pin::new(&mut self.inner).poll_read(context, &mut buffer))?;
            self.ahead.extend_from_slice(buffer.filled());
            Poll::Ready(Ok(buffer.filled().len()))
        })
        .await
    }

    /// What was read ahead, or what comes next; nothing at the end.
    pub(crate) async fn piece<'pool>(
        &mut self,
        lender: Lender<'pool>,
    ) -> io::Result<Option<Piece<'pool>>> {
        if !self.ahead.is_empty() {
            let bytes = std::mem::take(&mut self.ahead);
            let to = bytes.len();
            return Ok(Some(Piece {
                bytes: Bytes::Own(bytes),
                from: 0,
                to,
            }));
        }
        poll_fn(|context| {
            // Borrowed anew at each look: while nothing comes, nothing is held.
            let mut buffer = lender.borrow();
            let mut read = ReadBuf::new(&mut buffer.bytes);
            ready!(Pin::new(&mut self.inner).poll_read(context, &mut read))?;
            let to = read.filled().len();
            Poll::Ready(Ok((to > 0).then_some(Piece {
                bytes: Bytes::Borrowed(buffer),
                from: 0,
                to,
            })))
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_sandbox_leaves_large_buffers_to_the_others() {
        let (pool, greedy, other) = (Pool::default(), Share::default(), Share::default());
        let lender = Lender {
            pool: &pool,
            share: &greedy,
        };
        let held: Vec<_> = (0..MOST_LARGE_EACH + 1).map(|_| lender.borrow()).collect();
        assert!(
            held[..MOST_LARGE_EACH]
                .iter()
                .all(|each| each.bytes.len() == LARGE)
        );
        assert_eq!(held[MOST_LARGE_EACH].bytes.len(), SMALL);
        let lender = Lender {
            pool: &pool,
            share: &other,
        };
        assert_eq!(lender.borrow().bytes.len(), LARGE);
        drop(held);
        assert_eq!(pool.lent.load(Ordering::Relaxed), 0);
        assert_eq!(greedy.0.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn what_was_put_back_is_read_again_first() {
        let (pool, share) = (Pool::default(), Share::default());
        let lender = Lender {
            pool: &pool,
            share: &share,
        };
        let mut source = Source::new(&b"abcdef"[..]);
        assert_eq!(source.look_further(4).await.unwrap(), 4);
        source.consume(1);
        source.put_back(b"xy");
        let piece = source.piece(lender).await.unwrap().unwrap();
        assert_eq!(piece.bytes(), b"xybcd");
        let piece = source.piece(lender).await.unwrap().unwrap();
        assert_eq!(piece.bytes(), b"ef");
        assert!(source.piece(lender).await.unwrap().is_none());
    }
}
