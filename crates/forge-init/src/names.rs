//! Path names as bytes: cut into components, refused when they could lead elsewhere.

use std::borrow::Cow;

/// Why a name is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NameError {
    /// It starts with `/` where it must not.
    #[error("an absolute name")]
    Absolute,
    /// It does not start with `/` where it must.
    #[error("not an absolute name")]
    Relative,
    /// It has a component `..`.
    #[error("a name with `..`")]
    Parent,
    /// It has a NUL byte.
    #[error("a name with a NUL byte")]
    Nul,
}

/// Cuts a name that must lead below some folder; `.` and doubled slashes are left out.
pub(crate) fn split_relative(name: &[u8]) -> Result<Vec<&[u8]>, NameError> {
    if name.first() == Some(&b'/') {
        return Err(NameError::Absolute);
    }
    split(name)
}

/// Cuts an absolute name.
pub(crate) fn split_absolute(name: &[u8]) -> Result<Vec<&[u8]>, NameError> {
    if name.first() != Some(&b'/') {
        return Err(NameError::Relative);
    }
    split(name)
}

fn split(name: &[u8]) -> Result<Vec<&[u8]>, NameError> {
    if name.contains(&0) {
        return Err(NameError::Nul);
    }
    let mut components = Vec::new();
    for component in name.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => return Err(NameError::Parent),
            component => components.push(component),
        }
    }
    Ok(components)
}

/// A name for a person: bounded, and with nothing that a terminal would act on.
pub(crate) fn shown(name: &[u8]) -> String {
    const LONGEST: usize = 300;
    let (name, cut) = match name.get(..LONGEST) {
        Some(start) => (start, "…"),
        None => (name, ""),
    };
    let text: Cow<'_, str> = String::from_utf8_lossy(name);
    format!("{}{cut}", text.escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_that_could_lead_elsewhere_are_refused() {
        assert_eq!(split_relative(b"/etc"), Err(NameError::Absolute));
        assert_eq!(split_relative(b"a/../b"), Err(NameError::Parent));
        assert_eq!(split_relative(b".."), Err(NameError::Parent));
        assert_eq!(split_relative(b"a\0b"), Err(NameError::Nul));
        assert_eq!(split_absolute(b"a"), Err(NameError::Relative));
        assert_eq!(split_absolute(b""), Err(NameError::Relative));
    }

    #[test]
    fn odd_names_are_kept() {
        assert_eq!(
            split_relative(b"./a//...\n/\xff/").unwrap(),
            [&b"a"[..], b"...\n", b"\xff"]
        );
        assert!(split_relative(b"./").unwrap().is_empty());
    }

    #[test]
    fn a_shown_name_is_bounded_and_harmless() {
        assert_eq!(shown(b"a\x1b[2Jb"), "a\\u{1b}[2Jb");
        assert!(shown(&[b'a'; 5000]).len() < 400);
    }

    proptest! {
        #[test]
        fn no_component_leads_anywhere(name in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(components) = split_relative(&name) {
                for component in components {
                    prop_assert!(!component.is_empty());
                    prop_assert!(component != b"." && component != b"..");
                    prop_assert!(!component.contains(&b'/') && !component.contains(&0));
                }
            }
        }
    }
}
