//! One engine's connection.

use std::error::Error as _;
use std::io;
use std::sync::Arc;

use forge_api::egress::{
    CONTROL_LINE_BYTES, CONTROL_VERSION, ControlEvent, ControlRequest, NumberedRequest,
};
use forge_core::connection::EgressCounters;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::audit::Batch;
use crate::control::lines::Lines;
use crate::server::{Server, ServerError};

/// Records that are written at once.
const BATCH: usize = 128;

/// Why a connection is closed by the proxy.
#[derive(Debug, thiserror::Error)]
enum Closed {
    #[error("the engine cannot be read or written to")]
    Broken(#[from] io::Error),
    #[error("an event cannot be written")]
    Event(#[from] serde_json::Error),
    #[error("the engine did not introduce itself")]
    Stranger,
}

/// Serves one engine until it goes.
pub(super) async fn run(server: Arc<Server>, stream: UnixStream) {
    let (reader, writer) = stream.into_split();
    let mut lines = Lines::new(reader, CONTROL_LINE_BYTES);
    let mut session = Session {
        server: &server,
        writer,
        is_known: false,
    };
    loop {
        let result = tokio::select! {
            line = lines.next() => match line {
                Ok(Some(line)) => session.request(&line).await,
                Ok(None) => return,
                Err(error) => session.refuse(0, error.to_string()).await,
            },
            () = server.log().arrived(), if session.is_known => session.deliver(BATCH).await,
        };
        if result.is_err() {
            return;
        }
    }
}

struct Session<'a, W> {
    server: &'a Server,
    writer: W,
    is_known: bool,
}

impl<W: AsyncWrite + Unpin> Session<'_, W> {
    async fn request(&mut self, line: &[u8]) -> Result<(), Closed> {
        let NumberedRequest { id, request } = match serde_json::from_slice(line) {
            Ok(request) => request,
            Err(error) => {
                let id = serde_json::from_slice(line)
                    .ok()
                    .and_then(|value: serde_json::Value| value.get("id")?.as_u64());
                let text = format!("the request is not understood: {error}");
                return match id {
                    Some(id) if self.is_known => self.answer(id, Some(text), None).await,
                    _ => self.refuse(id.unwrap_or_default(), text).await,
                };
            }
        };
        match request {
            ControlRequest::Hello { version, .. } if version != CONTROL_VERSION => {
                let text = format!("version {version} is not spoken, {CONTROL_VERSION} is");
                self.refuse(id, text).await
            }
            ControlRequest::Hello { denied, .. } => match self.server.deny(&denied).await {
                result if self.is_known => self.done(id, result.map(|()| None)).await,
                Err(error) => self.refuse(id, chain(&error)).await,
                Ok(()) => {
                    self.is_known = true;
                    self.answer(id, None, None).await
                }
            },
            _ if !self.is_known => {
                self.refuse(id, "the first request must be hello".to_owned())
                    .await
            }
            ControlRequest::Set(policy) => {
                let result = self.server.set(*policy).await;
                self.done(id, result.map(|()| None)).await
            }
            ControlRequest::Remove { sandbox } => {
                let result = self.server.remove(&sandbox).await;
                self.done(id, result.map(|()| None)).await
            }
            ControlRequest::Stats { sandbox } => {
                let result = self.server.counters(&sandbox).await;
                self.done(id, result.map(Some)).await
            }
        }
    }

    /// Answers, after the records of every connection that ended.
    async fn done(
        &mut self,
        id: u64,
        result: Result<Option<EgressCounters>, ServerError>,
    ) -> Result<(), Closed> {
        let waiting = self.server.log().len();
        if waiting > 0 {
            self.deliver(waiting).await?;
        }
        match result {
            Ok(counters) => self.answer(id, None, counters).await,
            Err(error) => self.answer(id, Some(chain(&error)), None).await,
        }
    }

    async fn answer(
        &mut self,
        id: u64,
        error: Option<String>,
        counters: Option<EgressCounters>,
    ) -> Result<(), Closed> {
        let line = line(&ControlEvent::Answer {
            id,
            error,
            counters,
        })?;
        self.writer.write_all(&line).await?;
        Ok(())
    }

    /// Answers for the last time.
    async fn refuse(&mut self, id: u64, error: String) -> Result<(), Closed> {
        self.answer(id, Some(error), None).await?;
        Err(Closed::Stranger)
    }

    /// Writes the oldest `most` records.
    async fn deliver(&mut self, most: usize) -> Result<(), Closed> {
        let mut left = most;
        while left > 0 {
            let batch = self.server.log().take(left.min(BATCH));
            let count = write_batch(batch, &mut self.writer).await?;
            if count == 0 {
                break;
            }
            left -= count.min(left);
        }
        Ok(())
    }
}

/// Writes records; how many there were. When the engine goes meanwhile, those that it did not get
/// whole wait for the next one.
async fn write_batch<W: AsyncWrite + Unpin>(
    mut batch: Batch<'_>,
    writer: &mut W,
) -> Result<usize, Closed> {
    let mut bytes = Vec::new();
    let mut ends = Vec::new();
    for record in batch.records() {
        bytes.extend_from_slice(&line(&ControlEvent::Connection(Box::new(record.clone())))?);
        ends.push(bytes.len());
    }
    let mut written = 0;
    let mut delivered = 0;
    while written < bytes.len() {
        let count = writer.write(&bytes[written..]).await?;
        if count == 0 {
            return Err(io::Error::from(io::ErrorKind::WriteZero).into());
        }
        written += count;
        while ends.get(delivered).is_some_and(|end| *end <= written) {
            batch.delivered();
            delivered += 1;
        }
    }
    Ok(delivered)
}

fn line(event: &ControlEvent) -> Result<Vec<u8>, Closed> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    Ok(line)
}

/// An error with its causes: the engine gets text only.
fn chain(error: &ServerError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}
