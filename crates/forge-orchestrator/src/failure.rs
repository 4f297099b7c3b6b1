//! From an engine's error to the failure of an attempt; the only place that maps the two.

use forge_core::{Failure, Reason};
use forge_engine::{EngineError, EngineErrorKind, Operation};

/// The failure that an engine error means for an attempt.
pub(crate) fn from_engine(error: &EngineError) -> Failure {
    let reason = match (error.kind, error.operation) {
        (EngineErrorKind::NotFound, Operation::PrepareImage)
        | (EngineErrorKind::Rejected, Operation::PrepareImage) => Reason::ImageUnavailable,
        // A level that is not known to hold does not hold.
        (_, Operation::Network) => Reason::NetworkPolicyUnavailable,
        // A limit or a protection that was demanded and cannot be had.
        (EngineErrorKind::Unsupported, Operation::CreateWorkspace | Operation::Create) => {
            Reason::HardeningUnavailable
        }
        (EngineErrorKind::Unavailable, _) => Reason::EngineUnavailable,
        (EngineErrorKind::Lost | EngineErrorKind::NotFound, _) => Reason::Lost,
        _ => Reason::EngineError,
    };
    Failure::new(reason, chain(error))
}

/// An error with everything underneath it, on one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
