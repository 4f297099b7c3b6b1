//! Bytes on their way, counted and bounded.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

use crate::server::buffers::Source;
use crate::server::leg::Leg;

/// Why bytes stopped before their end.
#[derive(Debug)]
pub(crate) enum Cut {
    /// The sandbox may move no more.
    Limit,
    /// Whoever sends them is gone.
    Source,
    /// Whoever receives them is gone.
    Sink,
    /// They are not in the form they must have.
    Form,
}

/// A direction.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Way {
    Up,
    Down,
}

/// When something moved last on a connection.
#[derive(Debug)]
pub(crate) struct Activity {
    began: Instant,
    moved: AtomicU64,
}

impl Activity {
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            moved: AtomicU64::new(0),
        }
    }

    pub(crate) fn moved(&self) {
        let since = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved.store(since, Ordering::Relaxed);
    }

    /// Returns when nothing has moved for as long as `idle` says.
    pub(crate) async fn stood_still(&self, idle: impl Fn() -> Duration) {
        loop {
            let last = Duration::from_millis(self.moved.load(Ordering::Relaxed));
            let until = self.began + last + idle();
            if until <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }
}

/// What bytes are counted on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flow<'a> {
    pub(crate) leg: &'a Leg,
    pub(crate) activity: &'a Activity,
}

impl Flow<'_> {
    /// Passes bytes on, as many as are allowed.
    pub(crate) async fn pass<W: AsyncWrite + Unpin>(
        &self,
        way: Way,
        bytes: &[u8],
        sink: &mut W,
    ) -> Result<(), Cut> {
        let granted = match way {
            Way::Up => self.leg.send(bytes.len()),
            Way::Down => self.leg.receive(bytes.len()),
        };
        let mut left = &bytes[..granted];
        while !left.is_empty() {
            let written = sink.write(left).await.map_err(|_: io::Error| Cut::Sink)?;
            if written == 0 {
                return Err(Cut::Sink);
            }
            self.activity.moved();
            left = &left[written..];
        }
        if granted < bytes.len() {
            return Err(Cut::Limit);
        }
        Ok(())
    }

    /// Passes on what comes up to the end, or up to `most` bytes; how many came.
    pub(crate) async fn copy<R, W>(
        &self,
        way: Way,
        source: &mut Source<'_, R>,
        sink: &mut W,
        most: u64,
    ) -> Result<u64, Cut>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut left = most;
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(usize::MAX);
            let Some(piece) = source.piece(wanted).await.map_err(|_| Cut::Source)? else {
                break;
            };
            self.activity.moved();
            self.pass(way, piece.bytes(), sink).await?;
            left -= piece.bytes().len() as u64;
        }
        Ok(most - left)
    }

    /// Passes on exactly `length` bytes.
    pub(crate) async fn copy_exactly<R, W>(
        &self,
        way: Way,
        source: &mut Source<'_, R>,
        sink: &mut W,
        length: u64,
    ) -> Result<(), Cut>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        if self.copy(way, source, sink, length).await? < length {
            return Err(Cut::Source);
        }
        Ok(())
    }

    /// Passes everything on, and then the end.
    pub(crate) async fn pump<R, W>(
        &self,
        way: Way,
        source: &mut Source<'_, R>,
        sink: &mut W,
    ) -> Result<(), Cut>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        self.copy(way, source, sink, u64::MAX).await?;
        sink.shutdown().await.map_err(|_| Cut::Sink)
    }

    /// As [`pump`](Self::pump) to the server. A server that reads no more may still have something
    /// to say.
    pub(crate) async fn pump_up<R, W>(
        &self,
        source: &mut Source<'_, R>,
        sink: &mut W,
    ) -> Result<(), Cut>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        match self.pump(Way::Up, source, sink).await {
            Err(Cut::Sink) => Ok(()),
            other => other,
        }
    }
}
