//! Buffers that connections borrow while bytes move and give back when nothing does, so that
//! memory is bounded however many connections stand still.

use std::future::poll_fn;
use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Poll, ready};

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::SndBuf;
use tokio::io::{AsyncRead, ReadBuf};

use crate::audit::lock;
use crate::server::kept;
use crate::server::ledger::{Bounds, Ledger};

const KIBIBYTE: usize = 1024;
const MEBIBYTE: usize = 1024 * KIBIBYTE;
const LARGE: usize = 128 * KIBIBYTE;
const SMALL: usize = 8 * KIBIBYTE;
/// Large buffers of all sandboxes, 16 MiB.
const MOST_LARGE: usize = 128;
/// Large buffers of one sandbox; its other connections use small ones.
const MOST_LARGE_EACH: usize = 16;
/// Bytes that are read at once where they are looked at before they go on.
const STEP: usize = 4 * KIBIBYTE;
/// Buffers of each kind kept for the next borrower.
const MOST_KEPT: usize = 64;

/// The state of one connection's task, what later policies judge it by, and its record.
pub(crate) const TASK: usize = 8 * KIBIBYTE;
/// What the system keeps of a client that does not read (`SO_SNDBUF`; the system doubles it). Its
/// own bound is 208 KiB, and the container pays for it.
pub(crate) const UNREAD: usize = 8 * KIBIBYTE;
/// As [`UNREAD`], for a client to which much flows: with less, every piece is a dozen turns of both.
const UNREAD_WIDE: usize = 96 * KIBIBYTE;
/// Clients to which much flows, of all sandboxes, 9 MiB; and of one.
const MOST_WIDE: usize = 48;
const MOST_WIDE_EACH: usize = 16;
/// What the system keeps for two sockets besides what is not read; 7 KiB were measured.
const SOCKETS: usize = 8 * KIBIBYTE;
/// What every connection takes, and is counted as for its whole life: 72 KiB, of which one small
/// buffer each way, and the least that the system keeps of the connection to the server.
pub(crate) const EACH_CONNECTION: usize =
    TASK + 2 * SMALL + 2 * UNREAD + SOCKETS + kept::LEAST.counted();
/// What connections may hold, besides large buffers and what [`KEPT`] is about. No more are let in
/// where that leaves no room for one, and one that must hold more than there is room for is ended.
/// Three sandboxes that do their worst leave room for others, and every one has eight connections.
///
/// A connection holds [`EACH_CONNECTION`] and, by the bytes that it holds indeed, a head of a request
/// or a hello of at most 16 KiB, a head of an answer of at most 32 KiB, and each way up to 4 KiB that
/// were read and are used up: 128 KiB at the worst, 40 MiB in the 320 connections of a sandbox. Its
/// own bound comes first.
///
/// These 128 MiB and 16 MiB of large buffers, 9 MiB for clients to which much flows, 32 MiB for
/// servers that are not near, 32 MiB of records that wait for the engine, and some 16 MiB for the
/// program, its threads, names it knows and the engine's policies are 233 MiB; 23 MiB are left of
/// the container's 256 MiB for what the allocator does not give back.
pub(crate) const HELD: Bounds = Bounds {
    most: 128 * MEBIBYTE,
    most_each: 24 * MEBIBYTE,
    reserved_each: 8 * EACH_CONNECTION,
    shared_out: 3,
};
/// What the system may keep of connections to servers beyond the least: 32 MiB. Nothing is refused
/// for want of it.
pub(crate) const KEPT: Bounds = Bounds {
    most: 32 * MEBIBYTE,
    most_each: 16 * MEBIBYTE,
    reserved_each: 0,
    shared_out: 2,
};
/// The most bytes of the buffers of connections.
pub const MOST_BUFFERED: usize = HELD.most + MOST_LARGE * LARGE;

/// The buffers of all sandboxes.
#[derive(Debug)]
pub(crate) struct Pool {
    large: Mutex<Vec<Box<[u8]>>>,
    small: Mutex<Vec<Box<[u8]>>>,
    lent: AtomicUsize,
    wide: AtomicUsize,
    held: Mutex<Ledger>,
    kept: Mutex<Ledger>,
    /// Whether the system itself bounds what it keeps of a connection.
    pub(crate) is_bounded_by_system: bool,
}

/// What one sandbox has borrowed and holds.
#[derive(Debug, Default)]
pub(crate) struct Share {
    lent: AtomicUsize,
    wide: AtomicUsize,
    /// Both are changed only where their ledgers are.
    held: AtomicUsize,
    kept: AtomicUsize,
}

impl Share {
    /// What this is called in the ledger: it stays where it is while anything is held.
    fn key(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }
}

/// The right to borrow and to hold for one sandbox.
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

impl Pool {
    pub(crate) fn new(is_bounded_by_system: bool) -> Self {
        Self {
            large: Mutex::default(),
            small: Mutex::default(),
            lent: AtomicUsize::new(0),
            wide: AtomicUsize::new(0),
            held: Mutex::new(Ledger::new(HELD)),
            kept: Mutex::new(Ledger::new(KEPT)),
            is_bounded_by_system,
        }
    }

    /// Bytes that connections hold and buffers that are lent.
    pub(crate) fn buffered(&self) -> usize {
        lock(&self.held).held + self.lent.load(Ordering::Relaxed) * LARGE
    }

    /// Bytes that the system may keep of connections to servers beyond the least.
    #[cfg(test)]
    pub(crate) fn kept(&self) -> usize {
        lock(&self.kept).held
    }

    /// There are so many sandboxes with a socket.
    pub(crate) fn serves(&self, sandboxes: usize) {
        lock(&self.held).sandboxes = sandboxes;
        lock(&self.kept).sandboxes = sandboxes;
    }
}

impl<'pool> Lender<'pool> {
    /// A buffer for at most `most` bytes.
    fn borrow(self, most: usize) -> Buffer<'pool> {
        let large = most > SMALL
            && take(&self.pool.lent, 1, MOST_LARGE)
            && (take(&self.share.lent, 1, MOST_LARGE_EACH) || {
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

    /// Counts bytes as held; whether there was room for them.
    pub(crate) fn take(self, bytes: usize) -> bool {
        self.exchange(&self.pool.held, &self.share.held, 0, bytes)
    }

    /// Bytes that [`take`](Self::take) counted are gone.
    pub(crate) fn give_back(self, bytes: usize) {
        self.exchange(&self.pool.held, &self.share.held, bytes, 0);
    }

    /// Counts `next` bytes as kept by the system in place of `before`; whether there was room.
    pub(crate) fn keep(self, before: usize, next: usize) -> bool {
        self.exchange(&self.pool.kept, &self.share.kept, before, next)
    }

    /// Whether there is room for so many more bytes that the system keeps.
    pub(crate) fn may_keep(self, more: usize) -> bool {
        let ledger = lock(&self.pool.kept);
        let own = self.share.kept.load(Ordering::Relaxed);
        ledger.fits(self.share.key(), own, own.saturating_add(more))
    }

    fn exchange(
        self,
        ledger: &Mutex<Ledger>,
        own: &AtomicUsize,
        before: usize,
        next: usize,
    ) -> bool {
        let mut ledger = lock(ledger);
        let now = own.load(Ordering::Relaxed);
        let then = now.saturating_sub(before).saturating_add(next);
        let fits = then <= now || ledger.fits(self.share.key(), now, then);
        if fits {
            ledger.set(self.share.key(), now, then);
            own.store(then, Ordering::Relaxed);
        }
        fits
    }

    /// Lets the system keep more for a client; whether there was room for one more such. Until
    /// [`narrowed`](Self::narrowed) says so it counts as one.
    pub(crate) fn widen(self, client: &impl AsFd) -> bool {
        if !take(&self.pool.wide, 1, MOST_WIDE) {
            return false;
        }
        if !take(&self.share.wide, 1, MOST_WIDE_EACH) {
            self.pool.wide.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        // One that stays narrow is only slow.
        setsockopt(client, SndBuf, &UNREAD_WIDE).unwrap_or_default();
        true
    }

    /// A client that [`widen`](Self::widen) counted is closed.
    pub(crate) fn narrowed(self) {
        self.pool.wide.fetch_sub(1, Ordering::Relaxed);
        self.share.wide.fetch_sub(1, Ordering::Relaxed);
    }
}

fn take(counter: &AtomicUsize, count: usize, most: usize) -> bool {
    let fits = |now: usize| now.checked_add(count).filter(|next| *next <= most);
    let result = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits);
    result.is_ok()
}

impl Drop for Buffer<'_> {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let pool = self.lender.pool;
        let kept = if bytes.len() == LARGE {
            pool.lent.fetch_sub(1, Ordering::Relaxed);
            self.lender.share.lent.fetch_sub(1, Ordering::Relaxed);
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

/// Bytes that count as held until they are dropped.
#[derive(Debug)]
pub(crate) struct Held<'pool> {
    bytes: Vec<u8>,
    counted: usize,
    lender: Lender<'pool>,
}

impl<'pool> Held<'pool> {
    const fn none(lender: Lender<'pool>) -> Self {
        Self {
            bytes: Vec::new(),
            counted: 0,
            lender,
        }
    }

    /// Holds bytes; nothing where there is no room for them.
    fn new(bytes: Vec<u8>, lender: Lender<'pool>) -> Option<Self> {
        let counted = bytes.capacity();
        // What is dropped gives back, so nothing is made before the room is taken.
        lender.take(counted).then(|| Self {
            bytes,
            counted,
            lender,
        })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Appends bytes, of at most `most` in all; whether there was room for them.
    fn extend(&mut self, bytes: &[u8], most: usize) -> bool {
        let needed = self.bytes.len() + bytes.len();
        if needed > self.bytes.capacity() {
            // Doubled, or bytes that come one by one would each be a new allocation.
            let wanted = needed.max((2 * self.bytes.capacity()).min(most));
            if !self.lender.take(wanted - self.counted) {
                return false;
            }
            self.counted = wanted;
            self.bytes.reserve_exact(wanted - self.bytes.len());
        }
        self.bytes.extend_from_slice(bytes);
        true
    }

    /// Forgets all but the bytes from `from` on, and gives the memory back.
    fn cut(&mut self, from: usize) {
        self.bytes = self
            .bytes
            .get(from..)
            .map(<[u8]>::to_vec)
            .unwrap_or_default();
        self.lender.give_back(self.counted - self.bytes.len());
        self.counted = self.bytes.len();
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.lender.give_back(self.counted);
    }
}

/// Bytes that were read.
#[derive(Debug)]
pub(crate) struct Piece<'pool> {
    buffer: Buffer<'pool>,
    to: usize,
}

impl Piece<'_> {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buffer.bytes[..self.to]
    }
}

/// What came of a look further ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// More bytes, so many.
    More(usize),
    /// The end, in whatever way.
    End,
    /// There is no room for more.
    Full,
}

/// One direction of a connection, with the bytes that were read ahead.
#[derive(Debug)]
pub(crate) struct Source<'pool, R> {
    inner: R,
    ahead: Held<'pool>,
    /// Bytes of `ahead` that were taken off its front already.
    used: usize,
}

impl<'pool, R: AsyncRead + Unpin> Source<'pool, R> {
    pub(crate) const fn new(inner: R, lender: Lender<'pool>) -> Self {
        Self {
            inner,
            ahead: Held::none(lender),
            used: 0,
        }
    }

    /// Holds bytes on behalf of what they were read for; nothing where there is no room.
    pub(crate) fn hold(&self, bytes: Vec<u8>) -> Option<Held<'pool>> {
        Held::new(bytes, self.ahead.lender)
    }

    /// The bytes read ahead.
    pub(crate) fn ahead(&self) -> &[u8] {
        &self.ahead.bytes[self.used..]
    }

    /// Takes bytes read ahead off the front.
    pub(crate) fn consume(&mut self, count: usize) {
        self.used = self.ahead.bytes.len().min(self.used + count);
        let left = self.ahead.bytes.len() - self.used;
        // Not at each step, or many small ones would move the rest as often; at the latest when
        // nothing is left: a connection that stands still shall not hold any.
        if left == 0 || self.used >= STEP {
            self.ahead.cut(self.used);
            self.used = 0;
        }
    }

    /// Reads further ahead, at most until `most` bytes are.
    pub(crate) async fn look_further(&mut self, most: usize) -> Look {
        poll_fn(|context| {
            let mut step = [0; STEP];
            let room = most.saturating_sub(self.ahead().len()).min(STEP);
            let mut buffer = ReadBuf::new(&mut step[..room]);
            let read = ready!(Pin::new(&mut self.inner).poll_read(context, &mut buffer));
            Poll::Ready(match (read, buffer.filled()) {
                (Err(_), _) | (Ok(()), []) => Look::End,
                (Ok(()), bytes) if self.ahead.extend(bytes, self.used + most) => {
                    Look::More(bytes.len())
                }
                (Ok(()), _) => Look::Full,
            })
        })
        .await
    }

    /// The next bytes, at most `most`: what was read ahead, or else what comes. Nothing at the end.
    ///
    /// What is more than `most` is not read: nobody holds it but the system.
    pub(crate) async fn piece(&mut self, most: usize) -> io::Result<Option<Piece<'pool>>> {
        let lender = self.ahead.lender;
        if !self.ahead().is_empty() {
            let mut buffer = lender.borrow(SMALL);
            let to = self.ahead().len().min(buffer.bytes.len()).min(most);
            buffer.bytes[..to].copy_from_slice(&self.ahead()[..to]);
            self.consume(to);
            return Ok(Some(Piece { buffer, to }));
        }
        poll_fn(|context| {
            // Borrowed anew at each look: while nothing comes, nothing is held.
            let mut buffer = lender.borrow(most);
            let size = buffer.bytes.len().min(most);
            let mut read = ReadBuf::new(&mut buffer.bytes[..size]);
            ready!(Pin::new(&mut self.inner).poll_read(context, &mut read))?;
            let to = read.filled().len();
            Poll::Ready(Ok((to > 0).then_some(Piece { buffer, to })))
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lender<'pool>(pool: &'pool Pool, share: &'pool Share) -> Lender<'pool> {
        Lender { pool, share }
    }

    #[test]
    fn one_sandbox_leaves_large_buffers_to_the_others() {
        let (pool, greedy, other) = (Pool::new(false), Share::default(), Share::default());
        let greedy = lender(&pool, &greedy);
        let held: Vec<_> = (0..MOST_LARGE_EACH + 1)
            .map(|_| greedy.borrow(LARGE))
            .collect();
        assert!(
            held[..MOST_LARGE_EACH]
                .iter()
                .all(|each| each.bytes.len() == LARGE)
        );
        assert_eq!(held[MOST_LARGE_EACH].bytes.len(), SMALL);
        assert_eq!(lender(&pool, &other).borrow(LARGE).bytes.len(), LARGE);
        drop(held);
        assert_eq!(pool.buffered(), 0);
        assert_eq!(greedy.share.lent.load(Ordering::Relaxed), 0);
    }

    /// Takes connections until there is no room; how many.
    fn fill(lender: Lender<'_>) -> usize {
        let mut let_in = 0;
        while lender.take(EACH_CONNECTION) {
            let_in += 1;
        }
        let_in
    }

    #[test]
    fn a_sandbox_has_its_own_bound_and_all_have_no_more_than_there_is() {
        let (pool, greedy) = (Pool::new(false), Share::default());
        pool.serves(1);
        let greedy = lender(&pool, &greedy);
        assert_eq!(fill(greedy), HELD.most_each / EACH_CONNECTION);
        let others: Vec<Share> = std::iter::repeat_with(Share::default).take(200).collect();
        pool.serves(201);
        let let_in: Vec<usize> = others
            .iter()
            .map(|share| fill(lender(&pool, share)))
            .collect();
        assert!(let_in[..80].iter().all(|count| *count >= 8), "{let_in:?}");
        assert!(pool.buffered() <= HELD.most);
        assert!(pool.buffered() > HELD.most - EACH_CONNECTION);
        let mut all: Vec<(&Share, usize)> = others.iter().zip(let_in).collect();
        all.push((greedy.share, HELD.most_each / EACH_CONNECTION));
        for (share, count) in all {
            lender(&pool, share).give_back(count * EACH_CONNECTION);
        }
        assert_eq!(pool.buffered(), 0);
        assert!(lock(&pool.held).beyond.is_empty());
    }

    #[test]
    fn beside_twenty_that_take_all_they_get_one_has_its_first_connections_and_its_share() {
        let shares = |count| -> Vec<Share> {
            let shares = std::iter::repeat_with(Share::default);
            shares.take(count).collect()
        };
        // It is there before they are: what they leave is its share.
        let (pool, honest) = (Pool::new(false), Share::default());
        pool.serves(21);
        let greedy = shares(20);
        for share in &greedy {
            fill(lender(&pool, share));
        }
        let share = 8 + HELD.share(21) / EACH_CONNECTION;
        assert!(fill(lender(&pool, &honest)) >= share);
        // It comes when they have taken all: eight are left for it, and for dozens after it.
        let (pool, greedy) = (Pool::new(false), shares(20));
        pool.serves(20);
        for share in &greedy {
            fill(lender(&pool, share));
        }
        let late = shares(65);
        for (before, share) in late.iter().enumerate() {
            pool.serves(20 + before + 1);
            for _ in 0..8 {
                assert!(lender(&pool, share).take(EACH_CONNECTION), "{before}");
            }
        }
    }

    #[test]
    fn what_the_system_keeps_is_bounded_and_every_sandbox_has_its_share_of_it() {
        const STEP: usize = 256 * KIBIBYTE;
        let fill = |lender: Lender<'_>| {
            let mut taken = 0;
            while lender.may_keep(STEP) && lender.keep(0, STEP) {
                taken += STEP;
            }
            taken
        };
        let (pool, alone) = (Pool::new(false), Share::default());
        pool.serves(1);
        assert_eq!(fill(lender(&pool, &alone)), KEPT.most_each);
        let pool = Pool::new(false);
        let shares: Vec<Share> = std::iter::repeat_with(Share::default).take(8).collect();
        pool.serves(shares.len());
        for share in &shares {
            assert!(fill(lender(&pool, share)) + STEP > KEPT.share(shares.len()));
        }
        assert!(pool.kept() <= KEPT.most);
        let one = lender(&pool, &shares[7]);
        assert!(one.keep(STEP, 0));
        assert!(one.may_keep(STEP));
        assert_eq!(pool.buffered(), 0);
    }

    #[test]
    fn few_clients_of_a_sandbox_are_kept_much_for() {
        let (pool, greedy, other) = (Pool::new(false), Share::default(), Share::default());
        let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        let greedy = lender(&pool, &greedy);
        let wide = std::iter::repeat_with(|| greedy.widen(&socket));
        assert_eq!(wide.take_while(|is_wide| *is_wide).count(), MOST_WIDE_EACH);
        assert!(lender(&pool, &other).widen(&socket));
        greedy.narrowed();
        assert!(greedy.widen(&socket));
        assert!(!greedy.widen(&socket));
        assert_eq!(pool.wide.load(Ordering::Relaxed), MOST_WIDE_EACH + 1);
    }

    #[tokio::test]
    async fn pieces_are_no_longer_than_asked_for_and_leave_the_rest() {
        let (pool, share) = (Pool::new(false), Share::default());
        let mut source = Source::new(&b"abcdef"[..], lender(&pool, &share));
        assert_eq!(source.look_further(4).await, Look::More(4));
        source.consume(1);
        assert_eq!(source.ahead(), b"bcd");
        let mut pieces = Vec::new();
        while let Some(piece) = source.piece(2).await.unwrap() {
            pieces.push(String::from_utf8(piece.bytes().to_vec()).unwrap());
        }
        assert_eq!(pieces, ["bc", "d", "ef"]);
        assert_eq!(source.look_further(4).await, Look::End);
        assert_eq!(pool.buffered(), 0);
    }

    #[tokio::test]
    async fn what_is_read_ahead_is_counted_to_the_byte_that_is_allocated() {
        let (pool, share) = (Pool::new(false), Share::default());
        let words = vec![b'a'; 100_000];
        let mut source = Source::new(words.as_slice(), lender(&pool, &share));
        for most in [1, 2, 3, 10, 5000, 16_384, 16_384, 16_384] {
            source.look_further(most).await;
            assert_eq!(pool.buffered(), source.ahead.bytes.capacity());
            assert!(source.ahead.bytes.capacity() <= 16_384);
        }
        source.consume(10);
        source.consume(9000);
        assert_eq!(pool.buffered(), source.ahead.bytes.capacity());
        assert_eq!(pool.buffered(), source.ahead().len());
        drop(source);
        assert_eq!(pool.buffered(), 0);
    }

    #[tokio::test]
    async fn nothing_is_read_ahead_where_there_is_no_room() {
        let (pool, share) = (Pool::new(false), Share::default());
        let lender = lender(&pool, &share);
        assert!(lender.take(HELD.most_each - 3));
        let mut source = Source::new(&b"abcdef"[..], lender);
        assert_eq!(source.look_further(3).await, Look::More(3));
        assert_eq!(source.look_further(6).await, Look::Full);
        assert!(Held::new(vec![0; 1], lender).is_none());
        assert!(source.hold(vec![0; 1]).is_none());
        assert_eq!(pool.buffered(), HELD.most_each);
        drop(source);
        assert_eq!(pool.buffered(), HELD.most_each - 3);
    }
}
