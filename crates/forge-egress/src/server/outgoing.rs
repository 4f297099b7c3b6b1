//! Connections to servers, and how much the system keeps of what flows on them.
//!
//! The system lets a server send ahead as much as it may keep, and keeps it until the client reads.
//! Of what it may keep, no more flows in each round trip: little is slow where a server is far away.
//! So every connection begins with the least, has more at once where there is room, and most when
//! much flows. Where room is short it gives back what it does not use: what stands still for a moment
//! has the least again until something moves. What is kept for clients is in
//! [`buffers`](crate::server::buffers).

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::time::{Instant, Sleep, sleep};

use crate::server::buffers::Lender;
use crate::server::kept::{self, LEAST, MORE, MOST, Size};

const KIBIBYTE: usize = 1024;

/// A connection has most only where there would be room for so many more of its kind.
const LEFT_FOR_OTHERS: usize = 2;
/// After so many bytes there are likely to be more.
const MUCH: usize = 256 * KIBIBYTE;
/// A connection on which nothing moves for so long gives back what it does not use.
const REST: Duration = Duration::from_secs(1);

/// A connection to a server.
#[derive(Debug)]
pub(crate) struct Outgoing<'pool> {
    stream: TcpStream,
    /// Behind the stream: it counts until that is closed.
    width: Width<'pool>,
}

impl<'pool> Outgoing<'pool> {
    /// A connection that has the [`LEAST`].
    pub(crate) fn new(stream: TcpStream, lender: Lender<'pool>) -> Self {
        let width = Width {
            lender,
            counted: AtomicUsize::new(0),
            flowed: AtomicUsize::new(0),
            has_moved: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
        };
        width.widen(&stream);
        Self { stream, width }
    }

    pub(crate) fn split(&mut self) -> (FromServer<'_>, ToServer<'_>) {
        let width = &self.width;
        let (reader, writer) = self.stream.split();
        let from = FromServer {
            half: reader,
            width,
            rest: None,
        };
        (
            from,
            ToServer {
                half: writer,
                width,
            },
        )
    }
}

impl Drop for Outgoing<'_> {
    fn drop(&mut self) {
        // The system would go on offering it for minutes, on the proxy's account.
        if kept::is_unsent(&self.stream) {
            drop(self.stream.set_zero_linger());
        }
    }
}

/// How much the system may keep of a connection beyond the [`LEAST`].
#[derive(Debug)]
struct Width<'pool> {
    lender: Lender<'pool>,
    counted: AtomicUsize,
    /// Bytes since there was much the last time.
    flowed: AtomicUsize,
    /// Whether any moved since somebody looked.
    has_moved: AtomicBool,
    /// Whether the server has said all.
    is_over: AtomicBool,
}

impl Width<'_> {
    fn counted(&self) -> usize {
        self.counted.load(Ordering::Relaxed)
    }

    fn moved(&self, socket: &TcpStream, bytes: usize) {
        self.has_moved.store(true, Ordering::Relaxed);
        let flowed = self.flowed.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let counted = self.counted();
        let is_due = counted == 0 || (flowed >= MUCH && counted < MOST.counted());
        if is_due && !self.is_over.load(Ordering::Relaxed) {
            self.widen(socket);
        }
    }

    /// Nothing comes any more, and nobody will look whether anything is of use.
    fn over(&self, socket: &TcpStream) {
        self.is_over.store(true, Ordering::Relaxed);
        if self.counted() > 0 {
            self.narrow(socket);
        }
    }

    fn widen(&self, socket: &TcpStream) {
        let before = self.counted();
        let much = self.flowed.load(Ordering::Relaxed) >= MUCH;
        if much {
            self.flowed.store(0, Ordering::Relaxed);
        }
        let has_room = |size: Size, of_them: usize| {
            self.lender.may_keep(size.counted() * of_them)
                && self.lender.keep(before, size.counted())
        };
        let size = if much && has_room(MOST, 1 + LEFT_FOR_OTHERS) {
            MOST
        } else if before == 0 && has_room(MORE, 1) {
            MORE
        } else {
            return;
        };
        self.counted.store(size.counted(), Ordering::Relaxed);
        self.apply(socket);
    }

    /// Gives back what was counted beyond the least, unless it is in use.
    fn narrow(&self, socket: &TcpStream) {
        // First the bound, then the look: nothing comes in between.
        if LEAST.set(socket).is_ok() && LEAST.fits(socket) {
            let before = self.counted.swap(0, Ordering::Relaxed);
            self.lender.keep(before, 0);
        } else {
            self.apply(socket);
        }
    }

    /// Lets the system keep what is counted.
    fn apply(&self, socket: &TcpStream) {
        if self.counted() < MOST.counted() {
            return MORE.widen(socket);
        }
        MOST.widen(socket);
        if self.lender.pool.is_bounded_by_system {
            kept::let_system_decide(socket);
        }
    }

    /// Whether another connection might get less because of this one.
    fn is_wanted(&self) -> bool {
        let others = (1 + LEFT_FOR_OTHERS) * MOST.counted();
        self.counted() > 0 && !self.lender.may_keep(others)
    }
}

impl Drop for Width<'_> {
    fn drop(&mut self) {
        self.lender.keep(self.counted(), 0);
    }
}

/// What comes from a server.
#[derive(Debug)]
pub(crate) struct FromServer<'a> {
    half: ReadHalf<'a>,
    width: &'a Width<'a>,
    rest: Option<Pin<Box<Sleep>>>,
}

impl FromServer<'_> {
    /// Gives back what others want while nothing moves. Looked at as long as nothing comes.
    fn rest(&mut self, context: &mut Context<'_>) {
        while self.width.counted() > 0 {
            let rest = self.rest.get_or_insert_with(|| Box::pin(sleep(REST)));
            if rest.as_mut().poll(context).is_pending() {
                return;
            }
            rest.as_mut().reset(Instant::now() + REST);
            let has_moved = self.width.has_moved.swap(false, Ordering::Relaxed);
            if !has_moved && self.width.is_wanted() {
                self.width.narrow(self.half.as_ref());
            }
        }
        self.rest = None;
    }
}

impl AsyncRead for FromServer<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.half).poll_read(context, buffer);
        match &read {
            Poll::Pending => self.rest(context),
            Poll::Ready(_) => match buffer.filled().len() - before {
                0 if buffer.remaining() > 0 => self.width.over(self.half.as_ref()),
                bytes => self.width.moved(self.half.as_ref(), bytes),
            },
        }
        read
    }
}

/// What goes to a server.
#[derive(Debug)]
pub(crate) struct ToServer<'a> {
    half: WriteHalf<'a>,
    width: &'a Width<'a>,
}

impl ToServer<'_> {
    /// Waits until the server has got all that it was sent, as long as there is hope.
    pub(crate) async fn sent(&self) {
        kept::sent(self.half.as_ref()).await;
    }
}

impl AsyncWrite for ToServer<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.half).poll_write(context, bytes);
        if let Poll::Ready(Ok(count)) = &written {
            self.width.moved(self.half.as_ref(), *count);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.half).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.half).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;
    use crate::resolve;
    use crate::server::buffers::{KEPT, Pool, Share};

    /// A connection made as the proxy makes it, and its other end.
    async fn connected() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = resolve::connect(listener.local_addr().unwrap()).await;
        let (far, _) = listener.accept().await.unwrap();
        (near.unwrap(), far)
    }

    fn lender<'pool>(pool: &'pool Pool, share: &'pool Share) -> Lender<'pool> {
        Lender { pool, share }
    }

    #[tokio::test]
    async fn a_connection_has_more_at_once_and_most_when_much_flows_and_gives_it_back() {
        let (pool, share) = (Pool::new(false), Share::default());
        let (near, mut far) = connected().await;
        let mut outgoing = Outgoing::new(near, lender(&pool, &share));
        assert_eq!(pool.kept(), MORE.counted());
        let (mut from, mut to) = outgoing.split();
        let mut bytes = vec![0; MUCH / 2];
        for _ in 0..2 {
            far.write_all(&bytes).await.unwrap();
            from.read_exact(&mut bytes).await.unwrap();
        }
        assert_eq!(pool.kept(), MOST.counted());
        to.shutdown().await.unwrap();
        drop(outgoing);
        assert_eq!(pool.kept(), 0);
    }

    #[tokio::test]
    async fn where_there_is_no_room_a_connection_has_the_least_and_more_as_soon_as_there_is() {
        let (pool, share) = (Pool::new(false), Share::default());
        let lender = lender(&pool, &share);
        assert!(lender.keep(0, KEPT.most_each));
        let (near, mut far) = connected().await;
        let mut outgoing = Outgoing::new(near, lender);
        assert_eq!(pool.kept(), KEPT.most_each);
        lender.keep(MORE.counted(), 0);
        let (mut from, _to) = outgoing.split();
        far.write_u8(1).await.unwrap();
        from.read_u8().await.unwrap();
        assert_eq!(pool.kept(), KEPT.most_each);
        drop(outgoing);
        assert_eq!(pool.kept(), KEPT.most_each - MORE.counted());
    }

    #[tokio::test]
    async fn what_stands_still_gives_back_what_others_want_and_nothing_that_is_in_use() {
        let (pool, share) = (Pool::new(false), Share::default());
        let lender = lender(&pool, &share);
        let (near, mut far) = connected().await;
        let mut outgoing = Outgoing::new(near, lender);
        let (mut from, _to) = outgoing.split();
        tokio::time::pause();
        let minute = Duration::from_secs(60);
        assert!(timeout(minute, from.read_u8()).await.is_err());
        assert_eq!(pool.kept(), MORE.counted(), "nobody wants it");
        let others = KEPT.most_each - MORE.counted();
        assert!(lender.keep(0, others));
        assert!(timeout(minute, from.read_u8()).await.is_err());
        assert_eq!(pool.kept(), others);
        // It moves again.
        lender.keep(MORE.counted(), 0);
        far.write_u8(1).await.unwrap();
        from.read_u8().await.unwrap();
        assert_eq!(pool.kept(), others);
        // What came and was not read is still there, so it counts.
        far.write_all(&vec![0; LEAST.counted()]).await.unwrap();
        let socket = from.half.as_ref();
        while LEAST.fits(socket) {
            tokio::task::yield_now().await;
        }
        from.width.narrow(socket);
        assert_eq!(pool.kept(), others);
    }

    #[tokio::test]
    async fn a_connection_on_which_the_server_has_said_all_gives_back_at_once() {
        let (pool, share) = (Pool::new(false), Share::default());
        let (near, mut far) = connected().await;
        let mut outgoing = Outgoing::new(near, lender(&pool, &share));
        let (mut from, mut to) = outgoing.split();
        far.write_u8(1).await.unwrap();
        far.shutdown().await.unwrap();
        from.read_u8().await.unwrap();
        assert_eq!(pool.kept(), MORE.counted());
        assert_eq!(from.read(&mut [0; 9]).await.unwrap(), 0);
        assert_eq!(pool.kept(), 0);
        to.write_u8(1).await.unwrap();
        assert_eq!(far.read_u8().await.unwrap(), 1);
        assert_eq!(pool.kept(), 0);
    }

    #[tokio::test]
    async fn nothing_stays_with_the_system_for_a_server_that_does_not_take_it() {
        let (pool, share) = (Pool::new(false), Share::default());
        let (near, mut far) = connected().await;
        let mut outgoing = Outgoing::new(near, lender(&pool, &share));
        let (_from, to) = outgoing.split();
        let bytes = vec![0; MUCH];
        while to.half.try_write(&bytes).is_ok() {}
        drop(outgoing);
        let mut buffer = vec![0; MUCH];
        let end = loop {
            match far.read(&mut buffer).await {
                Ok(1..) => {}
                end => break end,
            }
        };
        assert!(end.is_err(), "{end:?}");
    }

    #[tokio::test]
    async fn what_was_sent_arrives_before_a_connection_ends_well() {
        let (pool, share) = (Pool::new(false), Share::default());
        let (near, mut far) = connected().await;
        let mut outgoing = Outgoing::new(near, lender(&pool, &share));
        let (_from, mut to) = outgoing.split();
        let bytes = vec![1; MUCH];
        let written = to.half.try_write(&bytes).unwrap();
        to.shutdown().await.unwrap();
        let mut got = Vec::new();
        let (_, read) = tokio::join!(to.sent(), far.read_to_end(&mut got));
        assert_eq!(read.unwrap(), written);
        drop(outgoing);
        assert_eq!(pool.kept(), 0);
    }
}
