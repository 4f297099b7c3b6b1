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

/// The digest that a reference ends in, when it has one.
///
/// # Errors
/// [`EngineErrorKind::Rejected`] when what stands there is no digest, which the engine might take
/// for something shorter.
pub(crate) fn pin(reference: &str, operation: Operation) -> Result<Option<&str>, EngineError> {
    let Some((name, digest)) = reference.split_once('@') else {
        return Ok(None);
    };
    let digit = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f');
    let digits = digest.strip_prefix("sha256:");
    if !name.is_empty()
        && digits.is_some_and(|digits| digits.len() == 64 && digits.bytes().all(digit))
    {
        return Ok(Some(digest));
    }
    Err(EngineError::new(
        EngineErrorKind::Rejected,
        operation,
        reference,
        format!("'{digest}' is not a digest: 'sha256:' and 64 digits of lower-case hexadecimal"),
    ))
}

/// The name of a reference, without tag and digest.
pub(crate) fn name(reference: &str) -> &str {
    split(split(reference).0).0
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
    fn a_pin_is_a_whole_digest_or_an_error() {
        let operation = Operation::PrepareImage;
        let digest = format!("sha256:{}", "0a".repeat(32));
        assert_eq!(pin("a:1", operation).unwrap(), None);
        let pinned = format!("box:5000/a:1@{digest}");
        assert_eq!(pin(&pinned, operation).unwrap(), Some(digest.as_str()));
        assert_eq!(name(&pinned), "box:5000/a");
        for wrong in [
            "a@sha256:00".to_owned(),
            format!("a@{}", digest.to_uppercase()),
            format!("a@{digest}0"),
            format!("@{digest}"),
            format!("a@b@{digest}"),
            format!("a@{}", digest.replace("256", "512")),
        ] {
            assert!(pin(&wrong, operation).is_err(), "{wrong}");
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
