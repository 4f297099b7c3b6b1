//! The raw engine: the fewest requests that start a container, by a client that does nothing else.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use forge_engine::EngineDescription;
use serde_json::{Value, json};

use crate::stage::BenchError;

/// The two ways to have no network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Isolation {
    /// The mode `none`, which `docker run --network none` asks for.
    None,
    /// Networking switched off for the container, which skips the engine's network set-up.
    Disabled,
}

pub(crate) struct RawEngine {
    socket: PathBuf,
    version: String,
}

impl RawEngine {
    pub(crate) fn new(engine: &EngineDescription) -> Result<Self, BenchError> {
        match engine.endpoint.strip_prefix("unix://") {
            Some(path) => Ok(Self {
                socket: path.into(),
                version: engine.api_version.clone(),
            }),
            None => Err(BenchError::Raw(format!(
                "{} is not a local socket",
                engine.endpoint
            ))),
        }
    }

    /// Makes and starts a container without a network; gives how long that took.
    pub(crate) fn start(
        &self,
        name: &str,
        image: &str,
        isolation: Isolation,
    ) -> Result<Duration, BenchError> {
        let body = json!({
            "Image": image,
            "Entrypoint": ["sleep", "600"],
            "Labels": {"swe-forge.owner": "forge-bench"},
            "NetworkDisabled": isolation == Isolation::Disabled,
            "HostConfig": {"NetworkMode": "none"},
        });
        let began = Instant::now();
        self.request(
            "POST",
            &format!("/containers/create?name={name}"),
            Some(&body),
        )?;
        self.request("POST", &format!("/containers/{name}/start"), None)?;
        Ok(began.elapsed())
    }

    pub(crate) fn remove(&self, name: &str) -> Result<(), BenchError> {
        self.request("DELETE", &format!("/containers/{name}?force=1"), None)
    }

    fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Result<(), BenchError> {
        let io = |source| BenchError::Io {
            what: "talk to the engine",
            source,
        };
        let body = body.map(Value::to_string).unwrap_or_default();
        let head = format!(
            "{method} /v{}{path} HTTP/1.1\r\nHost: engine\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n",
            self.version,
            body.len()
        );
        let mut stream = UnixStream::connect(&self.socket).map_err(io)?;
        stream
            .write_all(format!("{head}{body}").as_bytes())
            .map_err(io)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map_err(io)?;
        let status = answer.split(' ').nth(1).unwrap_or_default();
        if status.starts_with('2') {
            return Ok(());
        }
        Err(BenchError::Raw(
            answer.lines().last().unwrap_or_default().to_owned(),
        ))
    }
}
