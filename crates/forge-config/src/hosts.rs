//! Hosts and ranges of addresses, as an operator writes them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use forge_core::egress::{AddressRange, AllowedHost, HTTPS_PORT};

use crate::diagnostic::Problem;

/// Reads `host`, `host:port` or `*.suffix`; port 443 where none is written.
///
/// An operator may name hosts of one label, unlike a task: `mirror` is a name inside a company.
pub(crate) fn host(text: &str) -> Result<AllowedHost, Problem> {
    let refuse = |hint: &str| {
        Err(Problem::found(text)
            .expecting(
                "a host: \"mirror.example.org\", \"mirror.example.org:8081\" or \"*.example.org\"",
            )
            .hint(hint))
    };
    if text.contains("://") || text.contains(['/', '?', '#', '@']) {
        return refuse("leave out everything but the host and its port");
    }
    if text.starts_with('[') || text.matches(':').count() > 1 {
        return refuse("addresses are not allowed, only names");
    }
    if !text.is_ascii() {
        return refuse("write the name as it stands in DNS, as \"xn--…\"");
    }
    let (name, port) = match text.split_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (text, None),
    };
    let port = match port {
        None => HTTPS_PORT,
        Some(digits) => match parse_port(digits) {
            Some(port) => port,
            None => {
                return refuse("a port is a number from 1 to 65535 without leading zeros");
            }
        },
    };
    let (name, subdomains) = match name.strip_prefix("*.") {
        Some(suffix) => (suffix, true),
        None => (name, false),
    };
    let labels: Vec<&str> = name.split('.').collect();
    if name.len() > 253 || !labels.iter().all(|label| is_label(label)) {
        return refuse("a name is made of letters, digits and '-' between single dots");
    }
    if labels.last().is_some_and(|last| is_numeric(last)) {
        return refuse("addresses are not allowed, only names");
    }
    Ok(AllowedHost {
        name: name.to_ascii_lowercase(),
        subdomains,
        ports: vec![port],
    })
}

/// Reads a host as it stands in a configuration: `host`, `host:port` or `*.suffix`.
///
/// # Errors
/// What is wrong with it, in one sentence.
pub fn host_entry(text: &str) -> Result<AllowedHost, String> {
    host(text).map_err(|problem| match problem.hint {
        Some(hint) => format!("{}: {hint}", problem.message),
        None => problem.message,
    })
}

/// Hosts of one name become one host with all their ports, in the order they were first named.
pub(crate) fn merged(hosts: Vec<AllowedHost>) -> Vec<AllowedHost> {
    let mut merged: Vec<AllowedHost> = Vec::new();
    for host in hosts {
        let same = |known: &&mut AllowedHost| {
            known.name == host.name && known.subdomains == host.subdomains
        };
        match merged.iter_mut().find(same) {
            None => merged.push(host),
            Some(known) => {
                for port in host.ports {
                    if !known.ports.contains(&port) {
                        known.ports.push(port);
                    }
                }
            }
        }
    }
    merged
}

fn parse_port(digits: &str) -> Option<u16> {
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0');
    digits.parse().ok().filter(|_| plain)
}

fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
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

/// Reads a range whose address is its first one.
pub(crate) fn range(text: &str) -> Result<AddressRange, Problem> {
    let range: AddressRange = text.parse().map_err(|_| {
        Problem::found(text).expecting("a range of addresses: \"10.1.0.0/16\" or \"2001:db8::/32\"")
    })?;
    let first = first_address(range);
    if first != range.address {
        let right = AddressRange {
            address: first,
            ..range
        };
        // Whoever writes 10.1.2.3/8 may have meant one address or sixteen million.
        return Err(Problem::found(text)
            .expecting("the first address of the range")
            .hint(format!(
                "write \"{right}\" for the whole range, \"{}\" for the one address",
                range.address
            )));
    }
    Ok(range)
}

/// Reads a range that is to be opened.
pub(crate) fn opened_range(text: &str) -> Result<AddressRange, Problem> {
    let range = range(text)?;
    match NEVER_OPENED
        .iter()
        .find(|(never, _)| never.contains(range.address) && never.prefix <= range.prefix)
    {
        None => Ok(range),
        Some((_, what)) => Err(Problem::found(text)
            .expecting("addresses that an exception can open")
            .hint(format!("{what} stays closed whatever stands here"))),
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> AddressRange {
    AddressRange {
        address: IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
        prefix,
    }
}

const fn v6(first: u16, last: u16, prefix: u8) -> AddressRange {
    AddressRange {
        address: IpAddr::V6(Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, last)),
        prefix,
    }
}

/// What the proxy opens for no exception; said here already, since it would only be found out by
/// the first refusal.
const NEVER_OPENED: [(AddressRange, &str); 9] = [
    (v4(0, 0, 0, 0, 8), "\"this host\""),
    (v4(127, 0, 0, 0, 8), "the loopback of the proxy"),
    (v4(169, 254, 0, 0, 16), "the link with its metadata service"),
    (v4(168, 63, 129, 16, 32), "the machine's metadata service"),
    (v4(224, 0, 0, 0, 4), "multicast"),
    (v6(0, 0, 128), "\"this host\""),
    (v6(0, 1, 128), "the loopback of the proxy"),
    (v6(0xfe80, 0, 10), "the link"),
    (v6(0xff00, 0, 8), "multicast"),
];

fn first_address(range: AddressRange) -> IpAddr {
    match range.address {
        IpAddr::V4(address) => {
            let mask = u32::MAX
                .checked_shl(32 - u32::from(range.prefix.min(32)))
                .unwrap_or(0);
            Ipv4Addr::from_bits(address.to_bits() & mask).into()
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX
                .checked_shl(128 - u32::from(range.prefix.min(128)))
                .unwrap_or(0);
            Ipv6Addr::from_bits(address.to_bits() & mask).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_in_one_form() {
        for (text, shown) in [
            ("Mirror.Example.org", "mirror.example.org"),
            ("mirror.example.org:8081", "mirror.example.org:8081"),
            ("mirror.example.org:443", "mirror.example.org"),
            ("*.example.org", "*.example.org"),
            ("mirror", "mirror"),
        ] {
            assert_eq!(host(text).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn what_is_no_host_is_refused_with_the_reason() {
        for (text, reason) in [
            ("https://mirror.test", "everything but the host"),
            ("mirror.test/simple", "everything but the host"),
            ("me@mirror.test", "everything but the host"),
            ("10.1.2.3", "addresses"),
            ("10.1.2.3:80", "addresses"),
            ("0x7f000001", "addresses"),
            ("[::1]:80", "addresses"),
            ("::1", "addresses"),
            ("mirror.test:0", "port"),
            ("mirror.test:080", "port"),
            ("mirror.test:65536", "port"),
            ("mirror.test:", "port"),
            ("mirror.test.", "single dots"),
            ("", "single dots"),
            ("*", "single dots"),
            ("a.*.test", "single dots"),
            ("mir ror.test", "single dots"),
            ("mirror.test\0", "single dots"),
            ("bücher.test", "xn--"),
        ] {
            let said = host_entry(text).unwrap_err();
            assert!(said.contains(reason), "{text:?}: {said}");
        }
    }

    #[test]
    fn entries_of_one_name_become_one_host() {
        let hosts = ["a.test", "b.test:80", "a.test:80", "a.test"].map(|text| host(text).unwrap());
        let shown: Vec<String> = merged(hosts.to_vec())
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(shown, ["a.test:443,80", "b.test:80"]);
    }

    #[test]
    fn a_range_begins_with_its_first_address() {
        for text in ["10.0.0.0/8", "192.0.2.7", "::/0", "0.0.0.0/0", "fd00::/8"] {
            assert!(range(text).is_ok(), "{text}");
        }
        let problem = range("10.1.2.3/8").unwrap_err();
        let hint = problem.hint.unwrap();
        assert!(
            hint.contains("\"10.0.0.0/8\"") && hint.contains("\"10.1.2.3\""),
            "{hint}"
        );
        assert!(range("fd00::1/8").is_err());
        assert!(range("10.0.0.0/33").is_err());
    }

    #[test]
    fn what_no_exception_opens_is_refused_and_wider_ranges_are_not() {
        for text in [
            "127.0.0.1",
            "127.0.0.0/8",
            "169.254.169.254/32",
            "168.63.129.16",
            "239.1.0.0/16",
            "0.0.0.0/32",
            "::1",
            "fe80::/64",
            "ff02::/16",
        ] {
            assert!(opened_range(text).is_err(), "{text}");
        }
        for text in ["10.0.0.0/8", "203.0.113.80", "0.0.0.0/0", "fd00::/8"] {
            assert!(opened_range(text).is_ok(), "{text}");
        }
    }
}
