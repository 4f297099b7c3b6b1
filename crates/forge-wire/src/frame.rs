//! Frames: a little-endian length, a kind, a body.
//!
//! ```text
//! u32 length of what follows │ u8 kind │ body
//! kind 0: a message, postcard
//! kind 1: data: u64 id │ u8 lane │ u64 offset │ bytes
//! ```

/// Longest body of data, in bytes.
pub const MAX_DATA: usize = 256 * 1024;
/// Longest frame, in bytes; a message may be as long as a command line with its environment.
pub const MAX_FRAME: usize = 1024 * 1024;

const KIND_MESSAGE: u8 = 0;
const KIND_DATA: u8 = 1;
const HEADER: usize = 5;
const DATA_HEADER: usize = 17;

/// What a piece of data belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Standard input of an exec, towards the sandbox.
    Stdin,
    /// Standard output of an exec.
    Stdout,
    /// Standard error of an exec.
    Stderr,
    /// A tar stream into the sandbox.
    Upload,
    /// A tar stream out of the sandbox.
    Download,
}

impl Lane {
    const ALL: [Self; 5] = [
        Self::Stdin,
        Self::Stdout,
        Self::Stderr,
        Self::Upload,
        Self::Download,
    ];

    const fn to_byte(self) -> u8 {
        match self {
            Self::Stdin => 0,
            Self::Stdout => 1,
            Self::Stderr => 2,
            Self::Upload => 3,
            Self::Download => 4,
        }
    }

    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|lane| lane.to_byte() == byte)
    }
}

/// A piece of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Data {
    /// The exec or transfer it belongs to.
    pub id: u64,
    /// Which of its streams.
    pub lane: Lane,
    /// Bytes of this exec's output (both lanes together), of its input, or of the transfer, that
    /// came before.
    pub offset: u64,
    /// The bytes, at most [`MAX_DATA`].
    pub bytes: Vec<u8>,
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// An encoded [`crate::Request`] or [`crate::Event`].
    Message(Vec<u8>),
    /// A piece of a stream.
    Data(Data),
}

/// Why bytes are not a frame; the connection they came over is of no further use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length is 0 or above [`MAX_FRAME`].
    #[error("a frame of {length} bytes; 1 to {MAX_FRAME} are allowed")]
    Length {
        /// The length it claims.
        length: u64,
    },
    /// The kind is unknown.
    #[error("a frame of unknown kind {kind}")]
    Kind {
        /// The kind's byte.
        kind: u8,
    },
    /// The body is too short, too long, or names an unknown lane.
    #[error("a data frame with a malformed head")]
    Data,
    /// The message does not decode.
    #[error("a message that does not decode")]
    Message,
    /// The message is longer than a frame may be.
    #[error("a message of {length} bytes; at most {MAX_FRAME} are allowed")]
    TooLong {
        /// Its length.
        length: usize,
    },
}

/// Appends a message frame to `out`.
///
/// # Errors
/// [`FrameError::TooLong`] when the encoded message passes [`MAX_FRAME`].
pub fn encode_message<M: serde::Serialize>(
    message: &M,
    out: &mut Vec<u8>,
) -> Result<(), FrameError> {
    let body = postcard::to_stdvec(message).map_err(|_| FrameError::Message)?;
    let length = body.len() + 1;
    if length > MAX_FRAME {
        return Err(FrameError::TooLong { length });
    }
    push_length(length, out);
    out.push(KIND_MESSAGE);
    out.extend_from_slice(&body);
    Ok(())
}

/// Appends a data frame's head to `out`; `length` bytes of payload must follow on the stream.
pub fn encode_data_head(id: u64, lane: Lane, offset: u64, length: usize, out: &mut Vec<u8>) {
    push_length(1 + DATA_HEADER + length, out);
    out.push(KIND_DATA);
    out.extend_from_slice(&id.to_le_bytes());
    out.push(lane.to_byte());
    out.extend_from_slice(&offset.to_le_bytes());
}

/// Appends a whole data frame to `out`.
pub fn encode_data(id: u64, lane: Lane, offset: u64, bytes: &[u8], out: &mut Vec<u8>) {
    encode_data_head(id, lane, offset, bytes.len(), out);
    out.extend_from_slice(bytes);
}

fn push_length(length: usize, out: &mut Vec<u8>) {
    // Callers bound the length by MAX_FRAME, which fits 32 bits.
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_le_bytes());
}

/// Decodes a message frame's body.
///
/// # Errors
/// [`FrameError::Message`] when it is malformed or has bytes left over.
pub fn decode_message<M: serde::de::DeserializeOwned>(body: &[u8]) -> Result<M, FrameError> {
    match postcard::take_from_bytes(body) {
        Ok((message, [])) => Ok(message),
        _ => Err(FrameError::Message),
    }
}

/// Cuts frames out of a byte stream that arrives in arbitrary pieces.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    buffer: Vec<u8>,
    start: usize,
}

impl FrameDecoder {
    /// Takes the next bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 && (self.start == self.buffer.len() || self.start >= MAX_FRAME) {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, if there is one.
    ///
    /// # Errors
    /// [`FrameError`] when the bytes cannot be a frame; every later call fails as well.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let pending = &self.buffer[self.start..];
        let Some(head) = pending.first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*head) as usize;
        if length == 0 || length > MAX_FRAME {
            return Err(FrameError::Length {
                length: length as u64,
            });
        }
        let Some(frame) = pending.get(4..4 + length) else {
            return Ok(None);
        };
        let body = &frame[1..];
        let decoded = match frame[0] {
            KIND_MESSAGE => Frame::Message(body.to_vec()),
            KIND_DATA => Frame::Data(decode_data(body)?),
            kind => return Err(FrameError::Kind { kind }),
        };
        self.start += HEADER - 1 + length;
        Ok(Some(decoded))
    }

    /// Bytes held that are not part of a whole frame yet.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.buffer.len() - self.start
    }
}

fn decode_data(body: &[u8]) -> Result<Data, FrameError> {
    let (id, rest) = body.split_first_chunk::<8>().ok_or(FrameError::Data)?;
    let (lane, rest) = rest.split_first().ok_or(FrameError::Data)?;
    let (offset, bytes) = rest.split_first_chunk::<8>().ok_or(FrameError::Data)?;
    if bytes.len() > MAX_DATA {
        return Err(FrameError::Data);
    }
    Ok(Data {
        id: u64::from_le_bytes(*id),
        lane: Lane::from_byte(*lane).ok_or(FrameError::Data)?,
        offset: u64::from_le_bytes(*offset),
        bytes: bytes.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Event, Request};
    use proptest::prelude::*;

    #[test]
    fn an_endless_frame_is_refused_before_it_is_read() {
        let mut decoder = FrameDecoder::default();
        decoder.push(&u32::MAX.to_le_bytes());
        assert_eq!(
            decoder.next_frame(),
            Err(FrameError::Length {
                length: u64::from(u32::MAX)
            })
        );
    }

    #[test]
    fn a_message_with_trailing_bytes_is_refused() {
        let mut body = postcard::to_stdvec(&Request::Ping { request: 3 }).unwrap();
        assert_eq!(
            decode_message::<Request>(&body),
            Ok(Request::Ping { request: 3 })
        );
        body.push(0);
        assert_eq!(decode_message::<Request>(&body), Err(FrameError::Message));
    }

    proptest! {
        #[test]
        fn frames_survive_any_cutting(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..600), 1..8),
            cut in 1_usize..97,
        ) {
            let mut stream = Vec::new();
            for (index, payload) in payloads.iter().enumerate() {
                encode_message(&Request::Ping { request: index as u64 }, &mut stream).unwrap();
                encode_data(7, Lane::Stderr, index as u64, payload, &mut stream);
            }
            let mut decoder = FrameDecoder::default();
            let mut seen = Vec::new();
            for piece in stream.chunks(cut) {
                decoder.push(piece);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    if let Frame::Data(data) = frame {
                        seen.push(data.bytes);
                    }
                }
            }
            prop_assert_eq!(seen, payloads);
            prop_assert_eq!(decoder.pending(), 0);
        }

        #[test]
        fn hostile_bytes_never_panic_and_never_pile_up(
            bytes in prop::collection::vec(any::<u8>(), 0..4096),
        ) {
            let mut decoder = FrameDecoder::default();
            decoder.push(&bytes);
            while let Ok(Some(frame)) = decoder.next_frame() {
                if let Frame::Message(body) = frame {
                    drop(decode_message::<Request>(&body));
                    drop(decode_message::<Event>(&body));
                }
            }
            prop_assert!(decoder.pending() <= bytes.len());
        }
    }
}
