//! Entries of `network.allow`: which names a sandbox may reach at `limited_web`.
//!
//! Checked as strictly here as the egress proxy will read them, because an entry that two readers
//! understand differently is a way out.

use forge_core::egress::{AllowedHost, HTTPS_PORT};

use crate::diagnostic::{Problem, quote};

/// Entries that were checked, as hosts with their ports: 443 where none is written. Entries of one
/// name become one host.
pub(crate) fn allowed_hosts(entries: &[String]) -> Vec<AllowedHost> {
    let mut hosts: Vec<AllowedHost> = Vec::new();
    for entry in entries {
        let (name, port) = match entry.split_once(':') {
            Some((name, port)) => (name, port.parse().unwrap_or(HTTPS_PORT)),
            None => (entry.as_str(), HTTPS_PORT),
        };
        let (name, subdomains) = match name.strip_prefix("*.") {
            Some(suffix) => (suffix, true),
            None => (name, false),
        };
        let known = hosts
            .iter_mut()
            .find(|host| host.name == name && host.subdomains == subdomains);
        match known {
            Some(host) if host.ports.contains(&port) => {}
            Some(host) => host.ports.push(port),
            None => hosts.push(AllowedHost {
                name: name.to_owned(),
                subdomains,
                ports: vec![port],
            }),
        }
    }
    hosts
}

/// Checks an entry and gives it in the one way it is written further on: in lower case.
pub(crate) fn allow_entry(text: &str) -> Result<String, Problem> {
    let refuse = |hint: &str| {
        Err(Problem::new(format!("found {}", quote(text)))
            .expecting("a host: \"example.org\", \"example.org:8443\" or \"*.example.org\"")
            .hint(hint))
    };
    if text.contains("://") {
        return refuse("leave out the scheme");
    }
    if text.contains(['/', '?', '#', '@']) {
        return refuse(
            "leave out everything but the host; what is reached there cannot be limited",
        );
    }
    if text.starts_with('[') || text.matches(':').count() > 1 {
        return refuse("addresses are not allowed, only names");
    }
    if text == "*" {
        return refuse("to reach every host, use the level full_web");
    }
    if !text.is_ascii() {
        return refuse("write the name as it stands in DNS, as \"xn--…\"");
    }
    let (name, port) = match text.split_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (text, None),
    };
    if let Some(port) = port
        && !is_port(port)
    {
        return refuse("a port is a number from 1 to 65535 without leading zeros");
    }
    let suffix = name.strip_prefix("*.");
    if suffix.is_some() && port.is_some() {
        return refuse("a port cannot be combined with \"*\"");
    }
    let labels: Vec<&str> = suffix.unwrap_or(name).split('.').collect();
    if name.len() > 253 || !labels.iter().all(|label| is_label(label)) {
        return refuse(if name.contains('*') {
            "\"*\" may only stand alone before the first dot"
        } else {
            "a name is made of letters, digits and '-' between single dots"
        });
    }
    if labels.last().is_some_and(|last| is_numeric(last)) {
        return refuse("addresses are not allowed, only names");
    }
    if labels.len() < 2 {
        return refuse(match suffix {
            Some(_) => "a whole top-level domain is too wide; name at least one more label",
            None => "a public name has at least two labels",
        });
    }
    let lower = text.to_ascii_lowercase();
    if suffix.is_some() && is_public_suffix(lower.trim_start_matches("*.")) {
        return refuse("everybody can register names below it; name at least one more label");
    }
    Ok(lower)
}

/// Whether names below `name` belong to different people, by the public suffix list.
fn is_public_suffix(name: &str) -> bool {
    psl::suffix(name.as_bytes()).is_some_and(|suffix| suffix.as_bytes() == name.as_bytes())
}

fn is_port(text: &str) -> bool {
    !text.starts_with('0')
        && text.chars().all(|character| character.is_ascii_digit())
        && text.parse::<u16>().is_ok()
}

fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text
            .chars()
            .all(|character| character.is_ascii_alphanumeric() || character == '-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Resolvers read a name whose last label is a number, also a hexadecimal one, as an address.
fn is_numeric(label: &str) -> bool {
    let label = label.to_ascii_lowercase();
    match label.strip_prefix("0x") {
        Some(digits) => digits
            .chars()
            .all(|character| character.is_ascii_hexdigit()),
        None => label.chars().all(|character| character.is_ascii_digit()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_in_lower_case() {
        for (text, taken) in [
            ("example.org", "example.org"),
            ("API.Example.org:8443", "api.example.org:8443"),
            ("*.example.org", "*.example.org"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("1.2.3.4.example.org", "1.2.3.4.example.org"),
        ] {
            assert_eq!(allow_entry(text).unwrap(), taken);
        }
    }

    #[test]
    fn entries_of_one_name_become_one_host_with_all_ports() {
        let entries = ["a.test", "a.test:8443", "*.a.test", "a.test"].map(str::to_owned);
        let hosts = allowed_hosts(&entries);
        let shown: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["a.test:443,8443", "*.a.test"]);
    }

    #[test]
    fn everything_else_is_refused_with_the_reason() {
        for (text, reason) in [
            ("", "between single dots"),
            ("https://example.org", "scheme"),
            ("example.org/path", "everything but the host"),
            ("user@example.org", "everything but the host"),
            ("example.org?x", "everything but the host"),
            ("1.2.3.4", "addresses"),
            ("1.2.3.4:80", "addresses"),
            ("2130706433", "addresses"),
            ("0x7f000001", "addresses"),
            ("127.0.0.0x1", "addresses"),
            ("[::1]", "addresses"),
            ("::1", "addresses"),
            ("fe80::1:80", "addresses"),
            ("*", "full_web"),
            ("*.com", "top-level domain"),
            ("*.co.uk", "everybody can register"),
            ("*.", "alone before the first dot"),
            ("*example.org", "alone before the first dot"),
            ("*.*.org", "alone before the first dot"),
            ("a.*.org", "alone before the first dot"),
            ("*.example.org:443", "cannot be combined"),
            ("localhost", "two labels"),
            ("example.org:0", "port"),
            ("example.org:080", "port"),
            ("example.org:65536", "port"),
            ("example.org:", "port"),
            ("example.org:+80", "port"),
            ("example.org.", "single dots"),
            ("example..org", "single dots"),
            ("-a.example.org", "single dots"),
            ("exa mple.org", "single dots"),
            ("evil\0.example.org", "single dots"),
            ("example.org\n", "single dots"),
            ("bücher.example", "xn--"),
            (&format!("{}.org", "a".repeat(64)), "single dots"),
        ] {
            let problem = allow_entry(text).unwrap_err().about("f").to_string();
            assert!(problem.contains(reason), "{text:?}: {problem}");
        }
    }
}
