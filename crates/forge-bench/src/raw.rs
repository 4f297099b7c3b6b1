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

    /// The process that is PID 1 of a container, as this machine counts.
    pub(crate) fn main_process(&self, name: &str) -> Result<u32, BenchError> {
        // The old version of the protocol, in which an answer comes in one piece.
        let head = format!(
            "GET /v{}/containers/{name}/json HTTP/1.0\r\nHost: engine\r\n\r\n",
            self.version
        );
        let answer = self.exchange(&head)?;
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body);
        let found: Option<Value> = body.and_then(|body| serde_json::from_str(body).ok());
        let pid = found.and_then(|found| found["State"]["Pid"].as_u64());
        pid.and_then(|pid| u32::try_from(pid).ok())
            .ok_or_else(|| BenchError::Raw(answer.lines().last().unwrap_or_default().to_owned()))
    }

    fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Result<(), BenchError> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let head = format!(
            "{method} /v{}{path} HTTP/1.1\r\nHost: engine\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n",
            self.version,
            body.len()
        );
        let answer = self.exchange(&format!("{head}{body}"))?;
        let status = answer.split(' ').nth(1).unwrap_or_default();
        if status.starts_with('2') {
            return Ok(());
        }
        Err(BenchError::Raw(
            answer.lines().last().unwrap_or_default().to_owned(),
        ))
    }

    fn exchange(&self, request: &str) -> Result<String, BenchError> {
        let io = |source| BenchError::Io {
            what: "talk to the engine",
            source,
        };
        let mut stream = UnixStream::connect(&self.socket).map_err(io)?;
        stream.write_all(request.as_bytes()).map_err(io)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map_err(io)?;
        Ok(answer)
    }
}
