//! Entries of `network.allow`: which names a sandbox may reach at `limited_web`.
//!
//! Checked as strictly here as the egress proxy will read them, because an entry that two readers
//! understand differently is a way out.

use forge_core::egress::{AllowedHost, HTTPS_PORT, MAIL_PORTS};
use forge_document::{HostEntry, Problem, host_entry};

/// What may stand in the list.
const EXPECTED: &str = "a host: \"example.org\", \"example.org:8443\" or \"*.example.org\"";

/// Entries that were checked, as hosts with their ports: 443 where none is written. Entries of one
/// name become one host.
pub(crate) fn allowed_hosts(entries: &[String]) -> Vec<AllowedHost> {
    let read = entries
        .iter()
        .filter_map(|text| host_entry(text, EXPECTED).ok());
    AllowedHost::merged(read.map(|entry| AllowedHost {
        name: entry.name,
        subdomains: entry.subdomains,
        ports: vec![entry.port.unwrap_or(HTTPS_PORT)],
    }))
}

/// Checks an entry and gives it in the one way it is written further on: in lower case.
pub(crate) fn allow_entry(text: &str) -> Result<String, Problem> {
    let refuse = |hint: &str| Err(Problem::found(text).expecting(EXPECTED).hint(hint));
    if text == "*" {
        return refuse("to reach every host, use the level full_web");
    }
    let entry = host_entry(text, EXPECTED)?;
    if entry.subdomains && entry.port.is_some() {
        return refuse("a port cannot be combined with \"*\"");
    }
    if entry.labels() < 2 {
        return refuse(match entry.subdomains {
            true => "a whole top-level domain is too wide; name at least one more label",
            false => "a public name has at least two labels",
        });
    }
    if entry.subdomains && is_public_suffix(&entry.name) {
        return refuse("everybody can register names below it; name at least one more label");
    }
    if entry.port.is_some_and(|port| MAIL_PORTS.contains(&port)) {
        return refuse("mail is sent nowhere: ports 25, 465 and 587 are closed at every level");
    }
    if is_never_opened(&entry) {
        return refuse(
            "it stands for the machine itself or for a metadata service; nothing opens it",
        );
    }
    Ok(text.to_ascii_lowercase())
}

/// Whether the egress proxy refuses the name whatever is listed.
fn is_never_opened(entry: &HostEntry) -> bool {
    let labels = || entry.name.split('.');
    let of_the_machine = |zone: &str| labels().next_back() == Some(zone);
    let of_a_cloud = |first: &str| !entry.subdomains && labels().next() == Some(first);
    ["localhost", "localdomain"].into_iter().any(of_the_machine)
        || ["metadata", "instance-data"].into_iter().any(of_a_cloud)
}

/// Whether names below `name` belong to different people, by the public suffix list.
fn is_public_suffix(name: &str) -> bool {
    psl::suffix(name.as_bytes()).is_some_and(|suffix| suffix.as_bytes() == name.as_bytes())
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
            ("*.metadata.example.org", "*.metadata.example.org"),
            // Loopback's own doors are elsewhere.
            ("example.org:3128", "example.org:3128"),
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
            ("a.localhost", "nothing opens it"),
            ("*.x.localdomain", "nothing opens it"),
            ("metadata.cloud.example", "nothing opens it"),
            ("smtp.example.org:587", "mail is sent nowhere"),
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
