//! The one place where failures of the Docker API become [`EngineError`]s.

use std::error::Error as StdError;
use std::io;

use bollard::errors::Error as BollardError;
use forge_engine::{EngineError, EngineErrorKind, Operation};

/// Says in which operation, on what, a failure happened.
pub(crate) trait During<T> {
    /// The same result with the failure as an [`EngineError`].
    fn during(self, operation: Operation, subject: &str) -> Result<T, EngineError>;
}

impl<T> During<T> for Result<T, BollardError> {
    fn during(self, operation: Operation, subject: &str) -> Result<T, EngineError> {
        self.map_err(|error| engine_error(operation, subject, error))
    }
}

impl<T> During<T> for io::Result<T> {
    fn during(self, operation: Operation, subject: &str) -> Result<T, EngineError> {
        self.map_err(|error| {
            let kind = match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    EngineErrorKind::Exhausted
                }
                io::ErrorKind::PermissionDenied => EngineErrorKind::Denied,
                _ => EngineErrorKind::Internal,
            };
            EngineError::new(kind, operation, subject, error.to_string()).with_source(error)
        })
    }
}

/// The kind and the words of a failure.
pub(crate) fn engine_error(
    operation: Operation,
    subject: &str,
    error: BollardError,
) -> EngineError {
    let kind = kind(&error);
    let message = match &error {
        BollardError::DockerResponseServerError { message, .. } if !message.is_empty() => {
            message.clone()
        }
        BollardError::DockerStreamError { error } => error.clone(),
        BollardError::RequestTimeoutError => "the engine did not answer in time".to_owned(),
        BollardError::HyperLegacyError { .. } | BollardError::HyperResponseError { .. } => {
            format!("the connection to the engine failed: {}", innermost(&error))
        }
        other => other.to_string(),
    };
    EngineError::new(kind, operation, subject, message).with_source(error)
}

/// Whether the engine answered that the object is not there.
pub(crate) fn is_not_found(error: &BollardError) -> bool {
    status(error) == Some(404)
}

/// Whether the engine answered that the object is in the way or in use.
pub(crate) fn is_conflict(error: &BollardError) -> bool {
    status(error) == Some(409)
}

const fn status(error: &BollardError) -> Option<u16> {
    match error {
        BollardError::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

fn kind(error: &BollardError) -> EngineErrorKind {
    match error {
        BollardError::DockerResponseServerError {
            status_code,
            message,
        } => kind_of_answer(*status_code, message),
        // In the middle of an answer that began with 200 there is only the text to judge by.
        BollardError::DockerStreamError { error } => kind_of_answer(500, error),
        BollardError::RequestTimeoutError => EngineErrorKind::Deadline,
        BollardError::JsonDataError { .. }
        | BollardError::JsonSerdeError { .. }
        | BollardError::StrParseError { .. } => EngineErrorKind::Corrupt,
        BollardError::HyperLegacyError { .. }
        | BollardError::HyperResponseError { .. }
        | BollardError::IOError { .. }
        | BollardError::SocketNotFoundError(_) => kind_of_connection(error),
        _ => EngineErrorKind::Internal,
    }
}

fn kind_of_answer(status: u16, message: &str) -> EngineErrorKind {
    let message = message.to_ascii_lowercase();
    let says = |parts: &[&str]| parts.iter().any(|part| message.contains(part));
    // Engines report a full machine under several codes, so the text goes first.
    if says(&[
        "no space left",
        "disk quota exceeded",
        "cannot allocate memory",
        "too many open files",
        "resource temporarily unavailable",
    ]) {
        return EngineErrorKind::Exhausted;
    }
    match status {
        400 | 413 | 422 => EngineErrorKind::Rejected,
        401 | 403 => EngineErrorKind::Denied,
        404 => EngineErrorKind::NotFound,
        405 | 501 => EngineErrorKind::Unsupported,
        408 | 504 => EngineErrorKind::Deadline,
        409 => EngineErrorKind::Conflict,
        502 | 503 => EngineErrorKind::Unavailable,
        _ if says(&[
            "manifest unknown",
            "no such image",
            "repository does not exist",
        ]) =>
        {
            EngineErrorKind::NotFound
        }
        _ if says(&["pull access denied", "unauthorized"]) => EngineErrorKind::Denied,
        _ if says(&["deadline exceeded", "timeout", "timed out"]) => EngineErrorKind::Deadline,
        _ => EngineErrorKind::Internal,
    }
}

fn kind_of_connection(error: &BollardError) -> EngineErrorKind {
    match io_kind(error) {
        Some(io::ErrorKind::PermissionDenied) => EngineErrorKind::Denied,
        Some(io::ErrorKind::TimedOut) => EngineErrorKind::Deadline,
        Some(io::ErrorKind::InvalidData) => EngineErrorKind::Corrupt,
        _ => EngineErrorKind::Unavailable,
    }
}

/// The kind of the input/output error that is underneath, if one is.
pub(crate) fn io_kind(error: &BollardError) -> Option<io::ErrorKind> {
    // This one stands for its cause so completely that it does not name it as its source.
    if let BollardError::IOError { err } = error {
        return Some(err.kind());
    }
    let mut current: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = current {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Some(error.kind());
        }
        current = error.source();
    }
    None
}

/// What is at the bottom of an error: the layers above a broken connection only say that it is one.
pub(crate) fn innermost(error: &(dyn StdError + 'static)) -> String {
    let mut current = error;
    while let Some(source) = current.source() {
        current = source;
    }
    current.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status_code: u16, message: &str) -> EngineError {
        let message = message.to_owned();
        let error = BollardError::DockerResponseServerError {
            status_code,
            message,
        };
        engine_error(Operation::Create, "x", error)
    }

    #[test]
    fn each_answer_has_its_kind() {
        for (status, message, kind) in [
            (404, "No such container: x", EngineErrorKind::NotFound),
            (409, "name already in use", EngineErrorKind::Conflict),
            (400, "invalid mount", EngineErrorKind::Rejected),
            (403, "Pool overlaps", EngineErrorKind::Denied),
            (
                500,
                "write: no space left on device",
                EngineErrorKind::Exhausted,
            ),
            (409, "No space left on device", EngineErrorKind::Exhausted),
            (500, "context deadline exceeded", EngineErrorKind::Deadline),
            (501, "not implemented", EngineErrorKind::Unsupported),
            (503, "shutting down", EngineErrorKind::Unavailable),
            (500, "oops", EngineErrorKind::Internal),
        ] {
            let error = answer(status, message);
            assert_eq!(error.kind, kind, "{status} {message}");
            assert_eq!(error.message, message);
        }
    }

    #[test]
    fn a_broken_connection_is_judged_by_what_is_underneath() {
        for (io_kind, kind) in [
            (io::ErrorKind::NotFound, EngineErrorKind::Unavailable),
            (
                io::ErrorKind::ConnectionRefused,
                EngineErrorKind::Unavailable,
            ),
            (io::ErrorKind::ConnectionReset, EngineErrorKind::Unavailable),
            (io::ErrorKind::PermissionDenied, EngineErrorKind::Denied),
            (io::ErrorKind::TimedOut, EngineErrorKind::Deadline),
        ] {
            let error = BollardError::IOError {
                err: io::Error::from(io_kind),
            };
            assert_eq!(engine_error(Operation::List, "", error).kind, kind);
        }
        let timeout = BollardError::RequestTimeoutError;
        let error = engine_error(Operation::List, "", timeout);
        assert_eq!(error.kind, EngineErrorKind::Deadline);
    }

    #[test]
    fn an_error_in_the_middle_of_a_stream_is_judged_by_its_text() {
        let stream = |text: &str| {
            let error = text.to_owned();
            engine_error(
                Operation::Images,
                "x",
                BollardError::DockerStreamError { error },
            )
            .kind
        };
        assert_eq!(
            stream("no space left on device"),
            EngineErrorKind::Exhausted
        );
        assert_eq!(stream("manifest unknown"), EngineErrorKind::NotFound);
        assert_eq!(stream("RUN failed"), EngineErrorKind::Internal);
    }
}
