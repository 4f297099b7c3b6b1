//! Hosts as people write them in lists of what may be reached.
//!
//! Checked as strictly here as the egress proxy will read them, because an entry that two readers
//! understand differently is a way out.

use crate::diagnostic::Problem;

/// The longest name, in bytes.
const LONGEST_NAME: usize = 253;
/// The longest label, in bytes.
const LONGEST_LABEL: usize = 63;

/// `name`, `name:port` or `*.suffix`, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostEntry {
    /// The name or the suffix, in lower case.
    pub name: String,
    /// Whether it is a suffix.
    pub subdomains: bool,
    /// The port, where one is written.
    pub port: Option<u16>,
}

impl HostEntry {
    /// How many labels the name has.
    #[must_use]
    pub fn labels(&self) -> usize {
        self.name.split('.').count()
    }
}

/// Reads an entry; `expected` says in an error what may stand there.
///
/// # Errors
/// For whatever is no such entry, with what to do about it. Addresses are none in any form that
/// some resolver takes for one.
pub fn host_entry(text: &str, expected: &str) -> Result<HostEntry, Problem> {
    let refuse = |hint: &str| Err(Problem::found(text).expecting(expected).hint(hint));
    if text.contains("://") {
        return refuse("leave out the scheme, and everything but the host and its port");
    }
    if text.contains(['/', '?', '#', '@']) {
        return refuse(
            "leave out everything but the host and its port; what is reached there cannot be \
             limited",
        );
    }
    if text.starts_with('[') || text.matches(':').count() > 1 {
        return refuse("addresses are not allowed, only names");
    }
    if !text.is_ascii() {
        return refuse("write the name as it stands in DNS, as \"xn--…\"");
    }
    let (name, port) = match text.split_once(':') {
        Some((name, digits)) => match parse_port(digits) {
            Some(port) => (name, Some(port)),
            None => return refuse("a port is a number from 1 to 65535 without leading zeros"),
        },
        None => (text, None),
    };
    let (name, subdomains) = match name.strip_prefix("*.") {
        Some(suffix) => (suffix, true),
        None => (name, false),
    };
    if name.len() > LONGEST_NAME || !name.split('.').all(is_label) {
        return refuse(match text.contains('*') {
            true => "\"*\" may only stand alone before the first dot",
            false if name.ends_with('.') => {
                "leave out the last dot; a name is made of labels between single dots"
            }
            false if name.len() > LONGEST_NAME => "a name has at most 253 characters",
            false if name.split('.').any(|label| label.len() > LONGEST_LABEL) => {
                "what stands between single dots has at most 63 characters"
            }
            false => "a name is made of letters, digits and '-' between single dots",
        });
    }
    if name.rsplit('.').next().is_some_and(is_numeric) {
        return refuse("addresses are not allowed, only names");
    }
    Ok(HostEntry {
        name: name.to_ascii_lowercase(),
        subdomains,
        port,
    })
}

fn parse_port(digits: &str) -> Option<u16> {
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0');
    digits.parse().ok().filter(|_| plain)
}

fn is_label(text: &str) -> bool {
    (1..=LONGEST_LABEL).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Resolvers read a name whose last label is a number, also a hexadecimal one, as an address.
fn is_numeric(label: &str) -> bool {
    let label = label.to_ascii_lowercase();
    match label.strip_prefix("0x") {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => label.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_taken_apart_in_one_way() {
        for (text, name, subdomains, port) in [
            ("Example.org", "example.org", false, None),
            ("example.org:8443", "example.org", false, Some(8443)),
            ("*.example.org", "example.org", true, None),
            ("*.example.org:80", "example.org", true, Some(80)),
            ("mirror", "mirror", false, None),
            ("1.2.3.4.example.org", "1.2.3.4.example.org", false, None),
            (
                "xn--bcher-kva.example",
                "xn--bcher-kva.example",
                false,
                None,
            ),
        ] {
            let entry = HostEntry {
                name: name.to_owned(),
                subdomains,
                port,
            };
            assert_eq!(host_entry(text, "a host"), Ok(entry), "{text}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused_with_the_reason() {
        for (text, reason) in [
            ("https://mirror.test", "the scheme"),
            ("mirror.test/simple", "everything but the host"),
            ("me@mirror.test", "everything but the host"),
            ("10.1.2.3", "addresses"),
            ("10.1.2.3:80", "addresses"),
            ("2130706433", "addresses"),
            ("0x7f000001", "addresses"),
            ("127.0.0.0x1", "addresses"),
            ("[::1]:80", "addresses"),
            ("::1", "addresses"),
            ("mirror.test:0", "port"),
            ("mirror.test:080", "port"),
            ("mirror.test:65536", "port"),
            ("mirror.test:+80", "port"),
            ("mirror.test:", "port"),
            ("mirror.test.", "last dot"),
            ("mirror..test", "single dots"),
            ("-a.mirror.test", "single dots"),
            ("", "single dots"),
            ("*", "alone before the first dot"),
            ("*.", "alone before the first dot"),
            ("a.*.test", "alone before the first dot"),
            ("mir ror.test", "single dots"),
            ("mirror.test\0", "single dots"),
            ("bücher.test", "xn--"),
            (&format!("{}.test", "a".repeat(64)), "at most 63"),
            (&["a"; 130].join("."), "at most 253"),
        ] {
            let said = host_entry(text, "a host").unwrap_err();
            let said = said.about("f").to_string();
            assert!(said.contains(reason), "{text:?}: {said}");
        }
    }
}
