//! One control connection to the proxy: lines out, lines in, neither waiting for the other.

use std::io;

use forge_api::egress::{
    CONTROL_LINE_BYTES, CONTROL_VERSION, ControlEvent, ControlRequest, NumberedRequest,
};
use forge_core::egress::AddressRange;
use forge_engine::channel::Duplex;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, ReadHalf, WriteHalf, split};

type Stream = Box<dyn Duplex>;

/// A control connection that greeted.
pub(super) struct Link {
    reader: BufReader<ReadHalf<Stream>>,
    writer: WriteHalf<Stream>,
    line: Vec<u8>,
    outgoing: Vec<u8>,
    unflushed: bool,
    next: u64,
}

/// Why a control connection is of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    /// It ended.
    #[error("the control connection ended")]
    Ended,
    /// It broke.
    #[error("the control connection broke")]
    Broken(#[from] io::Error),
    /// The proxy sent something else than was agreed.
    #[error("the proxy sent what is no control document: {0}")]
    Malformed(String),
    /// The proxy refuses us.
    #[error("the proxy refuses to be controlled: {0}")]
    Refused(String),
    /// Another engine controls the proxy.
    #[error("another process controls the egress proxy now")]
    Superseded,
    /// A request has no answer.
    #[error("the proxy does not answer")]
    Silent,
}

/// A request that is longer than the proxy reads.
#[derive(Debug, thiserror::Error)]
#[error("the policy is {0} bytes long, at most {CONTROL_LINE_BYTES} are possible")]
pub(super) struct TooLong(usize);

impl Link {
    pub(super) fn new(stream: Stream) -> Self {
        let (reader, writer) = split(stream);
        Self {
            reader: BufReader::new(reader),
            writer,
            line: Vec::new(),
            outgoing: Vec::new(),
            unflushed: false,
            next: 0,
        }
    }

    /// Greets and waits for the answer; gives what came before it.
    pub(super) async fn greet(
        &mut self,
        denied: Vec<AddressRange>,
        engine: &str,
    ) -> Result<Vec<ControlEvent>, LinkError> {
        let hello = ControlRequest::Hello {
            version: CONTROL_VERSION,
            denied,
            engine: engine.to_owned(),
        };
        let ours = self
            .send(hello)
            .map_err(|error| LinkError::Refused(error.to_string()))?;
        let mut early = Vec::new();
        loop {
            match self.progress().await? {
                None => {}
                Some(ControlEvent::Answer { id, error, .. }) if id == ours => {
                    return match error {
                        None => Ok(early),
                        Some(error) => Err(LinkError::Refused(error)),
                    };
                }
                Some(ControlEvent::Superseded) => return Err(LinkError::Superseded),
                Some(event) => early.push(event),
            }
        }
    }

    /// Puts a request into the queue; gives its number.
    pub(super) fn send(&mut self, request: ControlRequest) -> Result<u64, TooLong> {
        let id = self.next;
        let request = NumberedRequest { id, request };
        // These documents hold nothing that JSON cannot.
        let line = serde_json::to_vec(&request).unwrap_or_default();
        if line.len() >= CONTROL_LINE_BYTES {
            return Err(TooLong(line.len()));
        }
        self.next += 1;
        self.outgoing.extend_from_slice(&line);
        self.outgoing.push(b'\n');
        Ok(id)
    }

    /// Waits for the next thing to happen: an event, or a step in sending. May be dropped at any
    /// time without losing anything.
    pub(super) async fn progress(&mut self) -> Result<Option<ControlEvent>, LinkError> {
        let Self {
            reader,
            writer,
            line,
            outgoing,
            unflushed,
            ..
        } = self;
        tokio::select! {
            read = read_line(reader, line) => {
                read?;
                let event = serde_json::from_slice(line);
                line.clear();
                let event = event.map_err(|error| LinkError::Malformed(error.to_string()))?;
                Ok(Some(event))
            }
            written = push(writer, outgoing), if *unflushed || !outgoing.is_empty() => {
                match written? {
                    Some(0) => return Err(LinkError::Ended),
                    Some(written) => {
                        outgoing.drain(..written);
                        *unflushed = true;
                    }
                    None => *unflushed = false,
                }
                Ok(None)
            }
        }
    }
}

/// Writes a piece, or flushes when there is nothing to write.
async fn push(writer: &mut WriteHalf<Stream>, outgoing: &[u8]) -> io::Result<Option<usize>> {
    if outgoing.is_empty() {
        return writer.flush().await.map(|()| None);
    }
    writer.write(outgoing).await.map(Some)
}

/// Reads on to the end of a line. What was read stays in `line` when this is dropped.
async fn read_line(
    reader: &mut BufReader<ReadHalf<Stream>>,
    line: &mut Vec<u8>,
) -> Result<(), LinkError> {
    loop {
        let available = reader.fill_buf().await?;
        if available.is_empty() {
            return Err(LinkError::Ended);
        }
        let end = available.iter().position(|&byte| byte == b'\n');
        let length = end.unwrap_or(available.len());
        if line.len() + length > CONTROL_LINE_BYTES {
            return Err(LinkError::Malformed("a line without end".to_owned()));
        }
        line.extend_from_slice(&available[..length]);
        reader.consume(length + usize::from(end.is_some()));
        if end.is_some() {
            return Ok(());
        }
    }
}
