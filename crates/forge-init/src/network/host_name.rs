//! Names of hosts, by the same strict rules as the egress proxy's.
//!
//! A name that two programs could read differently is none: it never leaves the sandbox.

/// Longest name (RFC 1035, section 2.3.4), without the dot at its end.
const LONGEST: usize = 253;
/// Longest part of a name.
const LONGEST_LABEL: usize = 63;

/// The name in lower case and without the dot at its end; none when it is no name of a host.
pub(crate) fn canonical(text: &[u8]) -> Option<String> {
    let text = text.strip_suffix(b".").unwrap_or(text);
    let is_name = text.len() <= LONGEST && text.split(|byte| *byte == b'.').all(is_label);
    let last = text.rsplit(|byte| *byte == b'.').next().unwrap_or(text);
    if !is_name || is_number(last) {
        return None;
    }
    let name = std::str::from_utf8(text).ok()?;
    Some(name.to_ascii_lowercase())
}

fn is_label(label: &[u8]) -> bool {
    let is_inner = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
    (1..=LONGEST_LABEL).contains(&label.len())
        && label.iter().all(is_inner)
        && !label.starts_with(b"-")
        && !label.ends_with(b"-")
}

/// Whether programs take a name that ends like this for an address, as inet_aton(3) does.
fn is_number(label: &[u8]) -> bool {
    match label {
        [b'0', b'x' | b'X', rest @ ..] => rest.iter().all(u8::is_ascii_hexdigit),
        _ => label.iter().all(u8::is_ascii_digit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_name_has_one_form() {
        assert_eq!(canonical(b"WWW.Example.ORG.").unwrap(), "www.example.org");
        assert_eq!(
            canonical(b"xn--bcher-kva.test").unwrap(),
            "xn--bcher-kva.test"
        );
        assert_eq!(canonical(b"single").unwrap(), "single");
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_no_name() {
        let long = [b'a'; 64];
        for text in [
            &b""[..],
            b".",
            b"a..b",
            b"a.example.org..",
            b"evil\0.example.org",
            b"a b.test",
            b"a_b.test",
            b"user@example.org",
            b"example.org:443",
            b"-a.test",
            b"a-.test",
            b"127.0.0.1",
            b"127.1",
            b"2130706433",
            b"0x7f.0x1",
            b"b\xc3\xbccher.test",
            &long,
        ] {
            assert_eq!(canonical(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_a_name_is_harmless_and_stays_as_it_is(text in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Some(name) = canonical(&text) {
                let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
                prop_assert!(name.bytes().all(allowed));
                let again = canonical(name.as_bytes());
                prop_assert_eq!(again.as_deref(), Some(name.as_str()));
            }
        }
    }
}
