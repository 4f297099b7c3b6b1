//! One engine's connection.

use std::error::Error as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use forge_api::egress::{
    CONTROL_LINE_BYTES, CONTROL_VERSION, ControlEvent, ControlRequest, Inheritance, NumberedRequest,
};
use forge_core::connection::EgressCounters;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use crate::audit::Batch;
use crate::control::lines::Lines;
use crate::control::post::{Held, Post};
use crate::server::{Server, ServerError};

/// Records that are written at once.
const BATCH: usize = 128;
/// For an engine to introduce itself and to have its place.
const GREETING: Duration = Duration::from_secs(30);
/// For an engine that lost its place to read so.
const FAREWELL: Duration = Duration::from_secs(1);

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

/// Serves one engine until it goes, or another takes its place.
pub(super) async fn run(server: Arc<Server>, post: Arc<Post>, stream: UnixStream) {
    let (reader, mut writer) = stream.into_split();
    let mut lines = Lines::new(reader, CONTROL_LINE_BYTES);
    let greeting = timeout(GREETING, greet(&server, &post, &mut lines, &mut writer));
    let Ok(Ok((engine, held))) = greeting.await else {
        return;
    };
    let relieved = held.relieved.clone();
    tokio::select! {
        // First, so that the next engine does not wait for more than what is under way.
        biased;
        () = relieved.cancelled() => {}
        () = serve(&server, lines, &mut writer) => {}
    }
    // Records that were not delivered wait again by now, for whoever comes next.
    drop(held);
    if post.is_superseded(&engine) {
        say_superseded(&mut writer).await;
    }
}

/// Waits for an engine to introduce itself and gives it its place.
async fn greet(
    server: &Server,
    post: &Post,
    lines: &mut Lines<OwnedReadHalf>,
    writer: &mut OwnedWriteHalf,
) -> Result<(String, Held), Closed> {
    let mut session = Session { server, writer };
    let line = match lines.next().await {
        Ok(Some(line)) => line,
        Ok(None) => return Err(Closed::Stranger),
        Err(error) => return Err(session.refuse(0, error.to_string()).await),
    };
    let NumberedRequest { id, request } = match serde_json::from_slice(&line) {
        Ok(request) => request,
        Err(error) => {
            let text = not_understood(&error);
            return Err(session.refuse(id_of(&line).unwrap_or_default(), text).await);
        }
    };
    let ControlRequest::Hello {
        version,
        denied,
        engine,
    } = request
    else {
        let text = "the first request must be hello".to_owned();
        return Err(session.refuse(id, text).await);
    };
    if version != CONTROL_VERSION {
        return Err(session.refuse(id, other_version(version)).await);
    }
    let Some(held) = post.take(&engine).await else {
        say_superseded(session.writer).await;
        return Err(Closed::Stranger);
    };
    server.log().send_again();
    match server.deny(&denied).await {
        Ok(()) => session.answer(id, Answer::default()).await?,
        Err(error) => return Err(session.refuse(id, chain(&error)).await),
    }
    Ok((engine, held))
}

async fn serve(server: &Server, mut lines: Lines<OwnedReadHalf>, writer: &mut OwnedWriteHalf) {
    let mut session = Session { server, writer };
    loop {
        let result = tokio::select! {
            line = lines.next() => match line {
                Ok(Some(line)) => session.request(&line).await,
                Ok(None) => return,
                Err(error) => Err(session.refuse(0, error.to_string()).await),
            },
            () = server.log().arrived() => session.deliver(BATCH).await,
        };
        if result.is_err() {
            return;
        }
    }
}

/// An engine that does not read it finds the connection closed, and is told when it comes again.
async fn say_superseded(writer: &mut OwnedWriteHalf) {
    let Ok(line) = line(&ControlEvent::Superseded) else {
        return;
    };
    drop(timeout(FAREWELL, writer.write_all(&line)).await);
}

/// What an answer says but for its number; nothing means that all went well.
#[derive(Default)]
struct Answer {
    error: Option<String>,
    counters: Option<EgressCounters>,
    inheritance: Option<Box<Inheritance>>,
}

impl Answer {
    fn of(result: Result<(), ServerError>) -> Self {
        match result {
            Ok(()) => Self::default(),
            Err(error) => Self::refusal(chain(&error)),
        }
    }

    fn counting(counters: EgressCounters) -> Self {
        Self {
            counters: Some(counters),
            ..Self::default()
        }
    }

    fn refusal(error: String) -> Self {
        Self {
            error: Some(error),
            ..Self::default()
        }
    }
}

struct Session<'a> {
    server: &'a Server,
    writer: &'a mut OwnedWriteHalf,
}

impl Session<'_> {
    async fn request(&mut self, line: &[u8]) -> Result<(), Closed> {
        let NumberedRequest { id, request } = match serde_json::from_slice(line) {
            Ok(request) => request,
            Err(error) => {
                let text = not_understood(&error);
                return match id_of(line) {
                    Some(id) => self.answer(id, Answer::refusal(text)).await,
                    None => Err(self.refuse(0, text).await),
                };
            }
        };
        match request {
            ControlRequest::Hello { version, .. } if version != CONTROL_VERSION => {
                Err(self.refuse(id, other_version(version)).await)
            }
            ControlRequest::Hello { denied, .. } => {
                let result = self.server.deny(&denied).await;
                self.done(id, Answer::of(result)).await
            }
            ControlRequest::Set(policy) => {
                let result = self.server.set(*policy).await;
                self.done(id, Answer::of(result)).await
            }
            ControlRequest::Inherit { sandbox } => {
                let found = self.server.inheritance(&sandbox).await;
                let answer = found.map_or_else(Answer::default, |(inheritance, counters)| Answer {
                    inheritance: Some(Box::new(inheritance)),
                    ..Answer::counting(counters)
                });
                self.done(id, answer).await
            }
            ControlRequest::Taken { sandbox, number } => {
                let result = self.server.taken(&sandbox, number).await;
                self.answer(id, Answer::of(result)).await
            }
            ControlRequest::Remove { sandbox } => {
                let result = self.server.remove(&sandbox).await;
                self.deliver_all().await?;
                self.server.log().discard(&sandbox);
                self.answer(id, Answer::of(result)).await
            }
            ControlRequest::Stats { sandbox } => {
                let result = self.server.counters(&sandbox).await;
                let answer = result.map_or_else(|error| Answer::of(Err(error)), Answer::counting);
                self.done(id, answer).await
            }
        }
    }

    /// Answers, after the records of every connection that ended.
    async fn done(&mut self, id: u64, answer: Answer) -> Result<(), Closed> {
        self.deliver_all().await?;
        self.answer(id, answer).await
    }

    async fn answer(&mut self, id: u64, answer: Answer) -> Result<(), Closed> {
        let Answer {
            error,
            counters,
            inheritance,
        } = answer;
        let line = line(&ControlEvent::Answer {
            id,
            error,
            counters,
            inheritance,
        })?;
        self.writer.write_all(&line).await?;
        Ok(())
    }

    /// Answers for the last time.
    async fn refuse(&mut self, id: u64, error: String) -> Closed {
        let answered = self.answer(id, Answer::refusal(error)).await;
        answered.err().unwrap_or(Closed::Stranger)
    }

    /// Writes the records that wait now.
    async fn deliver_all(&mut self) -> Result<(), Closed> {
        self.deliver(self.server.log().len()).await
    }

    /// Writes the oldest `most` records.
    async fn deliver(&mut self, most: usize) -> Result<(), Closed> {
        let mut left = most;
        while left > 0 {
            let batch = self.server.log().take(left.min(BATCH));
            let count = write_batch(batch, self.writer).await?;
            if count == 0 {
                break;
            }
            left -= count.min(left);
        }
        Ok(())
    }
}

/// Writes records; how many there were. When the engine goes meanwhile, those that it did not get
/// whole wait as if they had not been on their way.
async fn write_batch(mut batch: Batch<'_>, writer: &mut OwnedWriteHalf) -> Result<usize, Closed> {
    let mut bytes = Vec::new();
    let mut ends = Vec::new();
    for (number, record) in batch.records() {
        let record = Box::new(record.clone());
        bytes.extend_from_slice(&line(&ControlEvent::Connection { number, record })?);
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

fn not_understood(error: &serde_json::Error) -> String {
    format!("the request is not understood: {error}")
}

fn other_version(version: u32) -> String {
    format!("version {version} is not spoken, {CONTROL_VERSION} is")
}

/// The number of a request that is not understood, as far as there is one.
fn id_of(line: &[u8]) -> Option<u64> {
    // No document at all has none.
    let value: serde_json::Value = serde_json::from_slice(line).ok()?;
    value.get("id")?.as_u64()
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
