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
        (EngineErrorKind::Oversized, _) => Reason::DiskFull,
        (EngineErrorKind::Unavailable, _) => Reason::EngineUnavailable,
        (EngineErrorKind::Lost | EngineErrorKind::NotFound, _) => Reason::Lost,
        _ => Reason::EngineError,
    };
    Failure::new(reason, chain(error))
}

/// An error with everything underneath it, on one line; what an error already says of its cause is
/// not said twice.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_that_the_text_ends_with_is_not_repeated() {
        let cause = std::io::Error::from_raw_os_error(2);
        let said = cause.to_string();
        let kind = EngineErrorKind::Internal;
        let of = |message: &str, cause| {
            EngineError::new(kind, Operation::CreateWorkspace, "/pool", message).with_source(cause)
        };
        let inner = of(&format!("/pool: {said}"), cause);
        let outer = EngineError::new(kind, Operation::Create, "", inner.message.clone());
        let told = chain(&outer.with_source(inner));
        assert_eq!(told.matches(&said).count(), 2, "{told}");
        let plain = chain(&of("it failed", std::io::Error::from_raw_os_error(2)));
        assert!(plain.ends_with(&format!("it failed: {said}")), "{plain}");
    }
}
