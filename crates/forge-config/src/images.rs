//! Which images tasks may run in.

/// `[images]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImageSettings {
    /// Patterns of repositories, of which an image must match one; empty allows every image.
    pub allow: Vec<String>,
    /// Whether an image that a task names must be named by digest. Base images by language are
    /// those of swe-forge, and need none.
    pub require_digest: bool,
}

/// Text that is no pattern of repositories.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a pattern is a repository without tag and digest, in which '*' stands for anything")]
pub struct InvalidPattern;

impl ImageSettings {
    /// Whether the repository of `reference` is allowed; tag and digest mean nothing here.
    #[must_use]
    pub fn allows(&self, reference: &str) -> bool {
        let repository = repository(reference);
        self.allow.is_empty()
            || self
                .allow
                .iter()
                .any(|pattern| matches(pattern.as_bytes(), repository.as_bytes()))
    }
}

/// Checks a pattern.
pub(crate) fn check_pattern(pattern: &str) -> Result<(), InvalidPattern> {
    let allowed =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"*._-/:".contains(&byte);
    // A colon is a port, which stands before the first slash.
    let port_only = match pattern.rsplit_once(':') {
        None => true,
        Some((_, rest)) => rest.contains('/'),
    };
    let good = !pattern.is_empty() && pattern.bytes().all(allowed) && port_only;
    good.then_some(()).ok_or(InvalidPattern)
}

/// A reference without its digest and tag.
fn repository(reference: &str) -> &str {
    let named = reference
        .split_once('@')
        .map_or(reference, |(named, _)| named);
    match named.rsplit_once(':') {
        // What follows the colon of a registry's port holds a slash.
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => named,
    }
}

/// `*` stands for any bytes, also none; everything else for itself.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    // Where to go on after a mismatch: behind the last star, with one byte more swallowed by it.
    let (mut at, mut here, mut back) = (0, 0, None);
    while here < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                back = Some((at + 1, here));
                at += 1;
            }
            Some(byte) if *byte == text[here] => {
                at += 1;
                here += 1;
            }
            _ => match back {
                None => return false,
                Some((behind, swallowed)) => {
                    at = behind;
                    here = swallowed + 1;
                    back = Some((behind, here));
                }
            },
        }
    }
    pattern[at..].iter().all(|&byte| byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(patterns: &[&str]) -> ImageSettings {
        ImageSettings {
            allow: patterns.iter().map(|&each| each.to_owned()).collect(),
            require_digest: false,
        }
    }

    #[test]
    fn an_image_is_judged_by_its_repository() {
        let allowed = settings(&["swe-forge/*", "registry.example.org:5000/team/*", "debian"]);
        let digest = "a".repeat(64);
        for reference in [
            "swe-forge/python-base",
            "swe-forge/python-base:latest",
            "registry.example.org:5000/team/a/b:1",
            &format!("registry.example.org:5000/team/a@sha256:{digest}"),
            "debian:trixie",
        ] {
            assert!(allowed.allows(reference), "{reference}");
        }
        for reference in [
            "evil/swe-forge/python-base",
            "swe-forge",
            "registry.example.org/team/a",
            "registry.example.org:5000/other/a",
            "debian/x",
            "evil.example/debian",
            "debianx",
            "evil@swe-forge/x",
        ] {
            assert!(!allowed.allows(reference), "{reference}");
        }
    }

    #[test]
    fn without_a_list_every_image_is_allowed() {
        assert!(settings(&[]).allows("anything/at-all:1"));
    }

    #[test]
    fn stars_match_anything_and_take_no_exponential_time() {
        assert!(settings(&["*"]).allows("a/b"));
        assert!(settings(&["a*c*e"]).allows("abcde"));
        assert!(!settings(&["a*c*e"]).allows("abcd"));
        let pattern = "*a".repeat(40);
        assert!(!settings(&[&pattern]).allows(&"a".repeat(39)));
    }

    #[test]
    fn tags_and_digests_are_no_part_of_a_pattern() {
        for pattern in ["", "a:latest", "a@sha256:0", "A/b", "a b"] {
            assert_eq!(check_pattern(pattern), Err(InvalidPattern), "{pattern}");
        }
        assert_eq!(check_pattern("registry.example.org:5000/*"), Ok(()));
    }
}
