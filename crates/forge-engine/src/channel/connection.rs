//! One connection: the handshake, and frames in and out of it.

use std::io;

use forge_wire::frame::{Lane, decode_message, encode_data, encode_message};
use forge_wire::handshake::{End, Nonce};
use forge_wire::message::{Attested, Settings};
use forge_wire::{Event, Frame, FrameDecoder, PROTOCOL_VERSION, Proof, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Duplex;
use crate::engine::Credentials;

/// Why a connection is of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    #[error("the connection broke")]
    Broken(#[source] io::Error),
    #[error("the connection was closed")]
    Closed,
    #[error("the sandbox broke the protocol")]
    Frame(#[from] forge_wire::FrameError),
    #[error(
        "the sandbox speaks version {0} of the protocol, this program version {PROTOCOL_VERSION}"
    )]
    Version(u16),
    #[error("somebody else claimed the sandbox before us")]
    ClaimedByOther,
    #[error("the sandbox does not know our secret: it is not the one that was made")]
    NotClaimed,
    #[error("the sandbox refused our proof")]
    Refused,
    #[error("the sandbox serves an orchestrator of epoch {0}")]
    Superseded(u64),
    #[error("the sandbox could not prove that it knows the secret")]
    Impostor,
    #[error("the sandbox said something out of turn")]
    OutOfTurn,
}

impl ConnectionError {
    /// Whether a new connection cannot help.
    pub(super) const fn is_final(&self) -> bool {
        matches!(
            self,
            Self::Version(_)
                | Self::ClaimedByOther
                | Self::NotClaimed
                | Self::Refused
                | Self::Superseded(_)
                | Self::Impostor
        )
    }
}

/// How to introduce oneself.
pub(super) enum Introduction<'a> {
    /// The first connection ever.
    Claim(&'a Settings),
    /// A later one.
    Prove,
}

/// A connection after its handshake.
pub(super) struct Connection {
    stream: Box<dyn Duplex>,
    decoder: FrameDecoder,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    written: usize,
}

const READ_SIZE: usize = 256 * 1024;
/// Bytes already written that may stay in front of the queue.
const COMPACT_ABOVE: usize = 1024 * 1024;

impl Connection {
    /// Shakes hands over a fresh stream.
    pub(super) async fn open(
        stream: Box<dyn Duplex>,
        credentials: &Credentials,
        nonce: Nonce,
        introduction: Introduction<'_>,
    ) -> Result<(Self, Attested), ConnectionError> {
        let Credentials { secret, epoch } = credentials;
        let epoch = *epoch;
        let mut connection = Self {
            stream,
            decoder: FrameDecoder::default(),
            inbox: vec![0; READ_SIZE],
            outbox: Vec::new(),
            written: 0,
        };
        let Event::Greeting {
            version,
            nonce: theirs,
            claimed,
        } = connection.event().await?
        else {
            return Err(ConnectionError::OutOfTurn);
        };
        if version != PROTOCOL_VERSION {
            return Err(ConnectionError::Version(version));
        }
        let request = match introduction {
            Introduction::Claim(_) if claimed => return Err(ConnectionError::ClaimedByOther),
            Introduction::Claim(settings) => Request::Claim {
                nonce,
                secret: secret.clone(),
                epoch,
                settings: settings.clone(),
            },
            Introduction::Prove if !claimed => return Err(ConnectionError::NotClaimed),
            Introduction::Prove => Request::Prove {
                nonce,
                epoch,
                proof: Proof::make(secret, End::Client, epoch, &theirs, &nonce),
            },
        };
        connection.send(&request)?;
        connection.flush().await?;
        match connection.event().await? {
            Event::Welcome { proof, attestation } => {
                if !proof.is_from(secret, End::Sandbox, epoch, &theirs, &nonce) {
                    return Err(ConnectionError::Impostor);
                }
                Ok((connection, *attestation))
            }
            // Not taken on anybody's word: who believes it leaves the sandbox alone for good.
            Event::Superseded {
                epoch: newest,
                proof,
            } => {
                let is_proved = proof.is_from(secret, End::Sandbox, newest, &theirs, &nonce);
                if !is_proved || newest <= epoch {
                    return Err(ConnectionError::Impostor);
                }
                Err(ConnectionError::Superseded(newest))
            }
            Event::Refused => Err(ConnectionError::Refused),
            _ => Err(ConnectionError::OutOfTurn),
        }
    }

    async fn event(&mut self) -> Result<Event, ConnectionError> {
        loop {
            match self.decoder.next_frame()? {
                Some(Frame::Message(body)) => return Ok(decode_message(&body)?),
                Some(Frame::Data(_)) => return Err(ConnectionError::OutOfTurn),
                None => self.fill().await?,
            }
        }
    }

    async fn fill(&mut self) -> Result<(), ConnectionError> {
        let length = self
            .stream
            .read(&mut self.inbox)
            .await
            .map_err(ConnectionError::Broken)?;
        if length == 0 {
            return Err(ConnectionError::Closed);
        }
        self.decoder.push(&self.inbox[..length]);
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), ConnectionError> {
        while self.has_output() {
            self.write_some().await?;
        }
        Ok(())
    }

    /// The next frame that has arrived whole, without waiting.
    pub(super) fn ready_frame(&mut self) -> Result<Option<Frame>, ConnectionError> {
        Ok(self.decoder.next_frame()?)
    }

    /// Queues a message.
    pub(super) fn send(&mut self, request: &Request) -> Result<(), ConnectionError> {
        Ok(encode_message(request, &mut self.outbox)?)
    }

    /// Queues data.
    pub(super) fn send_data(&mut self, id: u64, lane: Lane, offset: u64, bytes: &[u8]) {
        encode_data(id, lane, offset, bytes, &mut self.outbox);
    }

    /// Whether something is queued.
    pub(super) fn has_output(&self) -> bool {
        self.written < self.outbox.len()
    }

    /// Bytes queued.
    pub(super) fn queued(&self) -> usize {
        self.outbox.len() - self.written
    }

    async fn write_some(&mut self) -> Result<(), ConnectionError> {
        let length = self
            .stream
            .write(&self.outbox[self.written..])
            .await
            .map_err(ConnectionError::Broken)?;
        if length == 0 {
            return Err(ConnectionError::Closed);
        }
        self.wrote(length);
        Ok(())
    }

    fn wrote(&mut self, length: usize) {
        self.written += length;
        if self.written == self.outbox.len() {
            self.outbox.clear();
            self.written = 0;
        } else if self.written >= COMPACT_ABOVE {
            self.outbox.drain(..self.written);
            self.written = 0;
        }
    }

    /// Waits until bytes arrived or, when something is queued, until some of it was written.
    /// Reading goes on while writing waits: the sandbox may do the same. Safe to cancel.
    pub(super) async fn progress(&mut self) -> Result<(), ConnectionError> {
        let (mut reader, mut writer) = tokio::io::split(&mut self.stream);
        let pending = self.written < self.outbox.len();
        let (read, wrote) = tokio::select! {
            read = reader.read(&mut self.inbox) => (Some(read), None),
            wrote = writer.write(&self.outbox[self.written..]), if pending => (None, Some(wrote)),
        };
        match (read, wrote) {
            (Some(read), _) => match read.map_err(ConnectionError::Broken)? {
                0 => Err(ConnectionError::Closed),
                length => {
                    self.decoder.push(&self.inbox[..length]);
                    Ok(())
                }
            },
            (None, Some(wrote)) => match wrote.map_err(ConnectionError::Broken)? {
                0 => Err(ConnectionError::Closed),
                length => {
                    self.wrote(length);
                    Ok(())
                }
            },
            (None, None) => Ok(()),
        }
    }
}
