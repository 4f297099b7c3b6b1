//! Bodies of HTTP, passed on by their framing to their last byte and not beyond.

use std::io::Write as _;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::server::buffers::{Look, Source};
use crate::server::copy::{Cut, Flow, Way};

/// How the end of a body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    None,
    Length(u64),
    Chunked,
    /// By the end of the connection.
    Rest,
}

/// How a body that came in chunks goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// In chunks.
    Chunks,
    /// As it is; the end of the connection is its end.
    Plain,
}

/// Passes a body on. Bytes that came after it stay in the source.
pub(crate) async fn pass<R, W>(
    flow: &Flow<'_>,
    way: Way,
    framing: Framing,
    form: Form,
    source: &mut Source<'_, R>,
    sink: &mut W,
) -> Result<(), Cut>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    match framing {
        Framing::None => Ok(()),
        Framing::Length(length) => flow.copy_exactly(way, source, sink, length).await,
        Framing::Chunked => pass_chunks(flow, way, form, source, sink).await,
        Framing::Rest => flow.copy(way, source, sink, u64::MAX).await.map(drop),
    }
}

/// Bytes that are read ahead to find chunks in them.
const MOST_AHEAD: usize = 8 * 1024;
/// What chunks written anew are longer by than the bytes they came in: the size before a chunk that
/// began earlier, and the ends of what ends later.
const MOST_LONGER: usize = 32;

/// The chunks are read and written anew: what was understood here is what the other side gets.
async fn pass_chunks<R, W>(
    flow: &Flow<'_>,
    way: Way,
    form: Form,
    source: &mut Source<'_, R>,
    sink: &mut W,
) -> Result<(), Cut>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut chunks = Chunks::default();
    while !chunks.is_over() {
        if source.ahead().is_empty() {
            if let Some(left) = chunks.data_left().filter(|left| *left > MOST_AHEAD as u64) {
                pass_data(flow, way, form, left, source, sink).await?;
                chunks.skip_data();
            }
            match source.look_further(MOST_AHEAD).await {
                Look::More(_) => flow.activity.moved(),
                Look::End => return Err(Cut::Source),
                Look::Full => return Err(Cut::Limit),
            }
        }
        let mut anew = Vec::with_capacity(source.ahead().len() + MOST_LONGER);
        let taken = chunks.feed(source.ahead(), |data| match form {
            Form::Plain => anew.extend_from_slice(data),
            Form::Chunks => {
                // Writing to a vector does not fail.
                drop(write!(anew, "{:x}\r\n", data.len()));
                anew.extend_from_slice(data);
                anew.extend_from_slice(b"\r\n");
            }
        })?;
        source.consume(taken);
        if chunks.is_over() && form == Form::Chunks {
            anew.extend_from_slice(b"0\r\n\r\n");
        }
        let anew = source.hold(anew).ok_or(Cut::Limit)?;
        flow.pass(way, anew.bytes(), sink).await?;
    }
    Ok(())
}

/// The rest of a long chunk as a chunk of its own, by the buffers that other bytes have.
async fn pass_data<R, W>(
    flow: &Flow<'_>,
    way: Way,
    form: Form,
    left: u64,
    source: &mut Source<'_, R>,
    sink: &mut W,
) -> Result<(), Cut>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let (before, after) = match form {
        Form::Chunks => (format!("{left:x}\r\n"), "\r\n"),
        Form::Plain => (String::new(), ""),
    };
    flow.pass(way, before.as_bytes(), sink).await?;
    flow.copy_exactly(way, source, sink, left).await?;
    flow.pass(way, after.as_bytes(), sink).await
}

/// The most bytes of extensions and trailers of one body; they are read and dropped.
const MOST_DROPPED: usize = 8 * 1024;
/// The most digits of a chunk's size, so that it fits 64 bits.
const MOST_DIGITS: u32 = 15;

/// Reads a body in chunks.
#[derive(Debug)]
pub(crate) struct Chunks {
    state: State,
    dropped: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Size {
        value: u64,
        digits: u32,
    },
    Extension {
        size: u64,
    },
    SizeEnd {
        size: u64,
    },
    Data {
        left: u64,
    },
    DataReturn,
    DataEnd,
    /// At the start of a trailer line.
    Trailers,
    Trailer,
    TrailerEnd,
    LastEnd,
    Over,
}

impl Default for Chunks {
    fn default() -> Self {
        Self {
            state: State::Size {
                value: 0,
                digits: 0,
            },
            dropped: 0,
        }
    }
}

impl Chunks {
    pub(crate) fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// How many bytes of a chunk that has begun are still to come.
    fn data_left(&self) -> Option<u64> {
        match self.state {
            State::Data { left } => Some(left),
            _ => None,
        }
    }

    /// They were passed on without being read here.
    fn skip_data(&mut self) {
        self.state = State::DataReturn;
    }

    /// Reads bytes and hands out the data in them; how many were read, all but at the end.
    pub(crate) fn feed(&mut self, bytes: &[u8], mut data: impl FnMut(&[u8])) -> Result<usize, Cut> {
        let mut at = 0;
        while at < bytes.len() && self.state != State::Over {
            if let State::Data { left } = self.state {
                let rest = &bytes[at..];
                let ours = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                data(&rest[..ours]);
                at += ours;
                self.state = match left - ours as u64 {
                    0 => State::DataReturn,
                    left => State::Data { left },
                };
            } else {
                self.state = self.next(bytes[at])?;
                at += 1;
            }
        }
        Ok(at)
    }

    /// Line ends are CR LF and nothing else.
    fn next(&mut self, byte: u8) -> Result<State, Cut> {
        match (self.state, byte) {
            (State::Size { value, digits }, byte) if byte.is_ascii_hexdigit() => {
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                if digits == MOST_DIGITS {
                    return Err(Cut::Form);
                }
                Ok(State::Size {
                    value: value * 16 + u64::from(digit),
                    digits: digits + 1,
                })
            }
            (State::Size { value, digits: 1.. }, b'\r') => Ok(State::SizeEnd { size: value }),
            (State::Size { value, digits: 1.. }, b';') => Ok(State::Extension { size: value }),
            (State::Extension { size }, b'\r') => Ok(State::SizeEnd { size }),
            (State::Extension { size }, b'\t' | b' '..=b'~') => {
                self.drop_one()?;
                Ok(State::Extension { size })
            }
            (State::SizeEnd { size: 0 }, b'\n') => Ok(State::Trailers),
            (State::SizeEnd { size }, b'\n') => Ok(State::Data { left: size }),
            (State::DataReturn, b'\r') => Ok(State::DataEnd),
            (State::DataEnd, b'\n') => Ok(State::Size {
                value: 0,
                digits: 0,
            }),
            (State::Trailers, b'\r') => Ok(State::LastEnd),
            (State::Trailer, b'\r') => Ok(State::TrailerEnd),
            (State::Trailers | State::Trailer, b'\t' | b' '..=b'~' | 0x80..) => {
                self.drop_one()?;
                Ok(State::Trailer)
            }
            (State::TrailerEnd, b'\n') => Ok(State::Trailers),
            (State::LastEnd, b'\n') => Ok(State::Over),
            _ => Err(Cut::Form),
        }
    }

    fn drop_one(&mut self) -> Result<(), Cut> {
        self.dropped += 1;
        if self.dropped > MOST_DROPPED {
            return Err(Cut::Form);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The data, and how many bytes were read when the body was over.
    fn read(pieces: &[&[u8]]) -> Option<(Vec<u8>, Option<usize>)> {
        let mut chunks = Chunks::default();
        let mut data = Vec::new();
        let mut read = 0;
        for piece in pieces {
            read += chunks
                .feed(piece, |part| data.extend_from_slice(part))
                .ok()?;
        }
        Some((data, chunks.is_over().then_some(read)))
    }

    #[test]
    fn a_body_ends_where_its_last_chunk_does() {
        let body = b"4\r\nabcd\r\nA;x=y\r\n0123456789\r\n0\r\nTrailer: 1\r\n\r\nGET /";
        let (data, end) = read(&[body]).unwrap();
        assert_eq!(data, b"abcd0123456789");
        assert_eq!(end, Some(body.len() - 5));
    }

    #[test]
    fn chunks_in_any_other_form_are_refused() {
        for body in [
            &b"\r\n"[..],
            b"4\nabcd\r\n",
            b"4 \r\nabcd\r\n",
            b"+4\r\nabcd\r\n",
            b"0x4\r\nabcd\r\n",
            b"4\r\nabcde\r\n",
            b"4\r\nabcd\n",
            b"4;a\nb\r\nabcd\r\n",
            b"1000000000000000\r\n",
            b"0\r\n\n",
            b"0\r\nA: 1\n\r\n",
        ] {
            assert_eq!(read(&[body]), None, "{:?}", String::from_utf8_lossy(body));
        }
        let long = [&b"0;"[..], &vec![b'a'; MOST_DROPPED + 1]].concat();
        assert_eq!(read(&[&long]), None);
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_bytes_are_cut(
            body in proptest::collection::vec(any::<u8>(), 0..200),
            sizes in proptest::collection::vec(1_usize..40, 1..20),
            at in any::<prop::sample::Index>(),
        ) {
            let mut encoded = Vec::new();
            let mut rest = body.as_slice();
            for size in sizes.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (chunk, after) = rest.split_at((*size).min(rest.len()));
                write!(encoded, "{:x}\r\n", chunk.len()).unwrap();
                encoded.extend_from_slice(chunk);
                encoded.extend_from_slice(b"\r\n");
                rest = after;
            }
            encoded.extend_from_slice(b"0\r\n\r\n");
            let (first, second) = encoded.split_at(at.index(encoded.len()));
            let whole = Some((body, Some(encoded.len())));
            prop_assert_eq!(&read(&[first, second]), &whole);
            prop_assert_eq!(&read(&[&encoded]), &whole);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Some((data, end)) = read(&[&bytes]) {
                prop_assert!(data.len() <= bytes.len());
                prop_assert!(end.is_none_or(|end| end <= bytes.len()));
            }
        }
    }
}
