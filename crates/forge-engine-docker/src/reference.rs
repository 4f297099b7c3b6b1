//! Image references, checked before they become part of a path.

use forge_engine::{EngineError, EngineErrorKind, Operation};

/// Longest reference: name 255, tag 128 and a digest fit.
const LONGEST: usize = 512;

/// Refuses what is no image reference. The client library puts references into paths as they
/// are, so `..`, `?` or `#` in one would ask the engine something else.
///
/// # Errors
/// [`EngineErrorKind::Rejected`].
pub(crate) fn check(reference: &str, operation: Operation) -> Result<(), EngineError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/:@".contains(&byte);
    let component = |part: &str| !part.is_empty() && part != "." && part != "..";
    let good = reference.len() <= LONGEST
        && reference.bytes().all(allowed)
        && reference.split('/').all(component)
        && reference.starts_with(|first: char| first.is_ascii_alphanumeric());
    if good {
        return Ok(());
    }
    Err(EngineError::new(
        EngineErrorKind::Rejected,
        operation,
        format!("{reference:?}"),
        "that is not an image reference",
    ))
}

/// A reference in its parts: the name, and the tag or digest (`latest` when neither is said).
pub(crate) fn split(reference: &str) -> (&str, &str) {
    if let Some((name, digest)) = reference.split_once('@') {
        return (name, digest);
    }
    // A colon before the last slash belongs to the registry's port.
    match reference.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, tag),
        _ => (reference, "latest"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_that_would_change_the_path_is_refused() {
        for text in [
            "", "a/../b", "a?x", "a#x", "a b", "-a", "a//b", "/a", "a%2e", "a\n",
        ] {
            assert!(check(text, Operation::Images).is_err(), "{text:?}");
        }
        for text in [
            "a",
            "swe-forge/python-base:latest",
            "box.lan:5000/team/image@sha256:0123",
            "sha256:0123",
        ] {
            assert!(check(text, Operation::Images).is_ok(), "{text:?}");
        }
    }

    #[test]
    fn the_tag_is_told_from_a_port() {
        assert_eq!(split("a"), ("a", "latest"));
        assert_eq!(split("a:1"), ("a", "1"));
        assert_eq!(split("box:5000/a"), ("box:5000/a", "latest"));
        assert_eq!(split("box:5000/a:1"), ("box:5000/a", "1"));
        assert_eq!(split("a@sha256:00"), ("a", "sha256:00"));
    }
}
