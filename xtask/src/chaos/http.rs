//! Requests to an engine at a unix socket. The engine's own client would take longer to start than
//! most of its answers take.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::shell::Failure;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// An engine's address.
#[derive(Debug, Clone)]
pub(super) struct Client(PathBuf);

impl Client {
    pub(super) fn new(socket: &Path) -> Self {
        Self(socket.to_owned())
    }

    /// Asks for something and gives the answer's document; `null` when there is none.
    pub(super) fn get(&self, path: &str) -> Result<Value, Failure> {
        self.ask("GET", path, "", &[])
    }

    /// Sends a document, or nothing instead of `null`.
    pub(super) fn post(&self, path: &str, document: &Value) -> Result<Value, Failure> {
        let text = match document {
            // What nobody reads would break the connection before the answer is here.
            Value::Null => String::new(),
            document => document.to_string(),
        };
        self.ask("POST", path, "application/json", text.as_bytes())
    }

    /// Removes something.
    pub(super) fn delete(&self, path: &str) -> Result<Value, Failure> {
        self.ask("DELETE", path, "", &[])
    }

    /// The list at a path.
    pub(super) fn list(&self, path: &str) -> Result<Vec<Value>, Failure> {
        let answer = self.get(path)?;
        // Volumes are in an object of their own.
        let list = answer.get("Volumes").unwrap_or(&answer);
        Ok(list.as_array().cloned().unwrap_or_default())
    }

    /// Sends bytes.
    pub(super) fn ask(
        &self,
        method: &str,
        path: &str,
        kind: &str,
        body: &[u8],
    ) -> Result<Value, Failure> {
        let failure = |problem: String| Failure::new(format!("{method} {path}: {problem}"));
        let answer = self
            .exchange(method, path, kind, body)
            .map_err(|error| failure(error.to_string()))?;
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).unwrap_or("no status");
        if !status.starts_with('2') && status != "304" {
            return Err(failure(format!("{status} {}", body.trim())));
        }
        if body.trim().is_empty() || kind == ARCHIVE {
            return Ok(Value::Null);
        }
        serde_json::from_str(body).or_else(|_| Ok(Value::String(body.to_owned())))
    }

    fn exchange(
        &self,
        method: &str,
        path: &str,
        kind: &str,
        body: &[u8],
    ) -> std::io::Result<Vec<u8>> {
        let mut stream = UnixStream::connect(&self.0)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        // Version 1.0, so that the answer ends with the connection and comes in one piece.
        let head = format!(
            "{method} {path} HTTP/1.0\r\nHost: engine\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer)
    }
}

/// The kind of an archive; what is answered to it is a log.
pub(super) const ARCHIVE: &str = "application/x-tar";
