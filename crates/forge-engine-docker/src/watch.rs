//! What the engine tells of sandboxes by itself: its events, as observations.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write;

use async_trait::async_trait;
use bollard::models::EventMessage;
use bytes::Bytes;
use forge_core::OwnerId;
use forge_engine::{
    EngineError, EngineErrorKind, Observation, ObservationKind, Observations, Operation, Watch,
};
use futures::{Stream, StreamExt, stream};
use http_body_util::BodyExt;

use crate::engine::DockerEngine;
use crate::failure::During;
use crate::names::{owner_filter, sandbox_of};

const OPERATION: Operation = Operation::Watch;
/// What of a container is told.
const EVENTS: [&str; 6] = ["start", "die", "oom", "pause", "unpause", "destroy"];
/// The longest line of an engine: an event has the container's labels, and no more of a size.
const LONGEST_LINE: usize = 1024 * 1024;

#[async_trait]
impl Watch for DockerEngine {
    async fn watch(&self, owner: &OwnerId) -> Result<Observations, EngineError> {
        let path = format!("/events?filters={}", escaped(&filters(owner)));
        let body = self.client.transport.listen(&path).await;
        let pieces = body.during(OPERATION, "")?.into_data_stream();
        let pieces = pieces
            .map(|piece| piece.map_err(|error| broken(&format!("the connection broke: {error}"))));
        Ok(observations(pieces).boxed())
    }
}

fn filters(owner: &OwnerId) -> String {
    let mut filters: HashMap<String, Vec<String>> = owner_filter(Some(owner.as_str()));
    filters.insert("type".to_owned(), vec!["container".to_owned()]);
    filters.insert("event".to_owned(), EVENTS.map(str::to_owned).to_vec());
    // Texts alone, which JSON has no trouble with.
    serde_json::to_string(&filters).unwrap_or_default()
}

/// A text as the value of a query.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() {
            escaped.push(char::from(byte));
        } else {
            // Writing to a text does not fail.
            write!(escaped, "%{byte:02X}").ok();
        }
    }
    escaped
}

fn broken(message: &str) -> EngineError {
    EngineError::new(EngineErrorKind::Unavailable, OPERATION, "", message)
}

/// The observations in what an engine sends, and the error that it ends with.
fn observations(
    pieces: impl Stream<Item = Result<Bytes, EngineError>> + Send + 'static,
) -> impl Stream<Item = Result<Observation, EngineError>> + Send {
    struct Reading<S> {
        pieces: S,
        read: Vec<u8>,
        ready: VecDeque<Observation>,
    }
    let reading = Reading {
        pieces: Box::pin(pieces),
        read: Vec::new(),
        ready: VecDeque::new(),
    };
    stream::unfold(Some(reading), async |reading| {
        let mut reading = reading?;
        loop {
            if let Some(observation) = reading.ready.pop_front() {
                return Some((Ok(observation), Some(reading)));
            }
            let piece = match reading.pieces.next().await {
                Some(Ok(piece)) => piece,
                Some(Err(error)) => return Some((Err(error), None)),
                None => return Some((Err(broken("the engine stopped telling")), None)),
            };
            reading.read.extend_from_slice(&piece);
            while let Some(end) = reading.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = reading.read.drain(..=end).collect();
                reading.ready.extend(observation(&line));
            }
            if reading.read.len() > LONGEST_LINE {
                let error = EngineError::new(
                    EngineErrorKind::Corrupt,
                    OPERATION,
                    "",
                    "the engine sends an event without end",
                );
                return Some((Err(error), None));
            }
        }
    })
}

/// What a line tells of a sandbox, if anything. One that is not understood is like one that was
/// missed.
fn observation(line: &[u8]) -> Option<Observation> {
    let event: EventMessage = match serde_json::from_slice(line) {
        Ok(event) => event,
        Err(error) => {
            tracing::debug!(%error, "an event of the engine is not understood");
            return None;
        }
    };
    let attributes = event.actor?.attributes?;
    let kind = match event.action?.as_str() {
        "start" => ObservationKind::Started,
        "die" => ObservationKind::Ended {
            code: attributes
                .get("exitCode")
                .and_then(|code| code.parse().ok())
                .unwrap_or(-1),
        },
        "oom" => ObservationKind::OutOfMemory,
        "pause" => ObservationKind::Paused,
        "unpause" => ObservationKind::Unpaused,
        "destroy" => ObservationKind::Disappeared,
        _ => return None,
    };
    Some(Observation {
        sandbox: sandbox_of(attributes.get("name")?)?,
        kind,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(action: &str, name: &str) -> String {
        format!(
            r#"{{"Type":"container","Action":"{action}","Actor":{{"ID":"0","Attributes":{{"exitCode":"137","name":"{name}"}}}},"scope":"local","time":1,"timeNano":1}}"#
        ) + "\n"
    }

    #[tokio::test]
    async fn events_are_observations_however_they_are_cut_and_the_end_is_an_error() {
        let text = event("start", "swe-forge-task-one")
            + &event("die", "swe-forge-task-one")
            + &event("start", "somebody-elses")
            + "nonsense\n"
            + &event("exec_start: x", "swe-forge-task-one")
            + &event("oom", "swe-forge-task-two")
            + &event("destroy", "swe-forge-task-one");
        for size in [1, 7, text.len()] {
            let bytes = text.clone().into_bytes();
            let pieces: Vec<_> = bytes
                .chunks(size)
                .map(|piece| Ok(Bytes::copy_from_slice(piece)))
                .collect();
            let found: Vec<_> = observations(stream::iter(pieces)).collect().await;
            let (last, found) = found.split_last().unwrap();
            let found: Vec<_> = found
                .iter()
                .map(|found| found.as_ref().unwrap())
                .map(|found| (found.sandbox.as_str(), found.kind))
                .collect();
            let expected = [
                ("one", ObservationKind::Started),
                ("one", ObservationKind::Ended { code: 137 }),
                ("two", ObservationKind::OutOfMemory),
                ("one", ObservationKind::Disappeared),
            ];
            assert_eq!(found, expected, "{size}");
            let error = last.as_ref().unwrap_err();
            assert_eq!(error.kind, EngineErrorKind::Unavailable);
        }
    }

    #[tokio::test]
    async fn a_line_without_end_is_given_up() {
        let piece = || Ok(Bytes::from(vec![b'x'; 64 * 1024]));
        let found: Vec<_> = observations(stream::repeat_with(piece)).collect().await;
        assert_eq!(found.len(), 1);
        assert_eq!(
            found[0].as_ref().unwrap_err().kind,
            EngineErrorKind::Corrupt
        );
    }

    #[test]
    fn a_filter_is_one_value_of_the_query() {
        assert_eq!(escaped("a{\"=&"), "a%7B%22%3D%26");
    }
}
