//! The raw stream of an exec without a terminal: input as it is, output in frames.
//!
//! ```text
//! u8 stream (1 output, 2 error) │ 3 zero bytes │ big-endian u32 length │ bytes
//! ```
//!
//! That the output is framed follows from having asked for no terminal. It is never guessed from
//! the bytes: output may begin with anything.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, BufReader, ReadBuf};

const HEADER: usize = 8;
const OUTPUT: u8 = 1;
const ERROR: u8 = 2;
/// Bytes read from the connection at once.
const BUFFER: usize = 64 * 1024;
/// Bytes of the program's complaints that are kept.
const COMPLAINT_LIMIT: usize = 1024;

/// A framed stream of which only the program's standard output is read; its standard error ends
/// up in the log.
pub(crate) struct FramedStream<S> {
    stream: BufReader<S>,
    header: [u8; HEADER],
    header_length: usize,
    current: u8,
    remaining: usize,
    complaint: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> FramedStream<S> {
    /// Takes over a stream that is framed from its next byte on.
    pub(crate) fn new(stream: S) -> Self {
        Self {
            stream: BufReader::with_capacity(BUFFER, stream),
            header: [0; HEADER],
            header_length: 0,
            current: 0,
            remaining: 0,
            complaint: Vec::new(),
        }
    }

    /// Takes what is buffered up to the end of a header; whether the header is complete.
    fn take_header(&mut self, available: &[u8]) -> (usize, bool) {
        let length = available.len().min(HEADER - self.header_length);
        self.header[self.header_length..self.header_length + length]
            .copy_from_slice(&available[..length]);
        self.header_length += length;
        (length, self.header_length == HEADER)
    }

    fn begin_frame(&mut self) -> io::Result<()> {
        let [stream, a, b, c, length @ ..] = self.header;
        if !matches!(stream, OUTPUT | ERROR) || (a, b, c) != (0, 0, 0) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the engine's stream is not framed as it was asked to be",
            ));
        }
        self.header_length = 0;
        self.current = stream;
        self.remaining = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        Ok(())
    }

    fn complain(&mut self, bytes: &[u8]) {
        let room = COMPLAINT_LIMIT - self.complaint.len();
        self.complaint
            .extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// At the end of the stream: what the program complained about explains why.
    fn end(&mut self) -> io::Result<()> {
        if !self.complaint.is_empty() {
            let complaint = String::from_utf8_lossy(&self.complaint).trim().to_owned();
            self.complaint.clear();
            tracing::debug!(complaint, "a program that relays into a container ended");
        }
        if self.remaining > 0 || self.header_length > 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        Ok(())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for FramedStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            // Copied out at once, so that the borrow of the buffer ends before `this` is changed.
            let available = ready!(Pin::new(&mut this.stream).poll_fill_buf(context))?;
            if available.is_empty() {
                return Poll::Ready(this.end());
            }
            if this.remaining == 0 {
                let mut start = [0; HEADER];
                let length = available.len().min(HEADER);
                start[..length].copy_from_slice(&available[..length]);
                let (taken, complete) = this.take_header(&start[..length]);
                Pin::new(&mut this.stream).consume(taken);
                if complete {
                    this.begin_frame()?;
                }
                continue;
            }
            let length = available.len().min(this.remaining);
            if this.current == ERROR {
                let piece = available[..length.min(COMPLAINT_LIMIT)].to_vec();
                this.complain(&piece);
                Pin::new(&mut this.stream).consume(length);
                this.remaining -= length;
                continue;
            }
            let length = length.min(buffer.remaining());
            buffer.put_slice(&available[..length]);
            Pin::new(&mut this.stream).consume(length);
            this.remaining -= length;
            return Poll::Ready(Ok(()));
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for FramedStream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn frame(stream: u8, bytes: &[u8]) -> Vec<u8> {
        let mut frame = vec![stream, 0, 0, 0];
        frame.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
        frame.extend(bytes);
        frame
    }

    async fn read(wire: Vec<u8>, piece: usize) -> io::Result<Vec<u8>> {
        let (mut far, near) = tokio::io::duplex(piece);
        let mut framed = FramedStream::new(near);
        let mut all = Vec::new();
        let writing = async move {
            far.write_all(&wire).await.unwrap();
        };
        let (_, result) = tokio::join!(writing, framed.read_to_end(&mut all));
        result.map(|_| all)
    }

    #[tokio::test]
    async fn output_comes_through_whatever_it_begins_with_and_however_it_is_cut() {
        for piece in [1, 3, 7, 8, 9, 4096] {
            let mut wire = frame(OUTPUT, &[0, 1, 2, 0, 0, 0, 0, 9, 9]);
            wire.extend(frame(ERROR, b"complaint"));
            wire.extend(frame(OUTPUT, b""));
            wire.extend(frame(OUTPUT, &[1; 300]));
            let mut expected = vec![0, 1, 2, 0, 0, 0, 0, 9, 9];
            expected.extend([1; 300]);
            assert_eq!(read(wire, piece).await.unwrap(), expected, "piece {piece}");
        }
    }

    #[tokio::test]
    async fn a_stream_that_is_not_framed_or_cut_short_is_an_error() {
        let error = read(b"plain text".to_vec(), 64).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let mut cut = frame(OUTPUT, b"hello");
        cut.pop();
        let error = read(cut, 64).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        let error = read(vec![1, 0, 0], 64).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn endless_complaints_are_dropped() {
        let mut wire = Vec::new();
        for _ in 0..100 {
            wire.extend(frame(ERROR, &[b'x'; 100]));
        }
        wire.extend(frame(OUTPUT, b"end"));
        assert_eq!(read(wire, 64).await.unwrap(), b"end");
    }

    #[tokio::test]
    async fn input_is_written_as_it_is() {
        let (mut far, near) = tokio::io::duplex(64);
        let mut framed = FramedStream::new(near);
        framed.write_all(&[1, 0, 0, 0, 5]).await.unwrap();
        framed.shutdown().await.unwrap();
        let mut all = Vec::new();
        far.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, [1, 0, 0, 0, 5]);
    }
}
