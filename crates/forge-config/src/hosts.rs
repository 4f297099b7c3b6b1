//! Hosts and ranges of addresses, as an operator writes them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use forge_core::egress::{AddressRange, AllowedHost, HTTPS_PORT};

use forge_document::Problem;

/// What may stand in a list of hosts.
const EXPECTED: &str =
    "a host: \"mirror.example.org\", \"mirror.example.org:8081\" or \"*.example.org\"";

/// Reads `host`, `host:port` or `*.suffix`; port 443 where none is written.
///
/// An operator may name hosts of one label, unlike a task: `mirror` is a name inside a company.
pub(crate) fn host(text: &str) -> Result<AllowedHost, Problem> {
    let entry = forge_document::host_entry(text, EXPECTED)?;
    Ok(AllowedHost {
        name: entry.name,
        subdomains: entry.subdomains,
        ports: vec![entry.port.unwrap_or(HTTPS_PORT)],
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

/// Reads the address of a name server. It is asked from a container with a network of version 4,
/// whose loopback is its own.
pub(crate) fn resolver(text: &str) -> Result<IpAddr, Problem> {
    let expected = "the address of a name server: \"10.1.0.53\"";
    let address: Ipv4Addr = text
        .parse()
        .map_err(|_| Problem::found(text).expecting(expected))?;
    let unusable = [
        (address.is_loopback(), "loopback"),
        (address.is_unspecified(), "no address"),
        (address.is_multicast(), "multicast"),
        (address.is_broadcast(), "broadcast"),
    ];
    match unusable.into_iter().find(|(is_so, _)| *is_so) {
        None => Ok(address.into()),
        Some((_, what)) => Err(Problem::found(text).expecting(expected).hint(format!(
            "{what} is not reached from the egress proxy's container; leave \"resolvers\" out to \
             ask what the engine's machine asks"
        ))),
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
            ("10.1.2.3", "addresses"),
            ("mirror.test:0", "port"),
            ("", "single dots"),
        ] {
            let said = host_entry(text).unwrap_err();
            assert!(said.contains(reason), "{text:?}: {said}");
        }
    }

    #[test]
    fn entries_of_one_name_become_one_host() {
        let hosts = ["a.test", "b.test:80", "a.test:80", "a.test"].map(|text| host(text).unwrap());
        let shown: Vec<String> = AllowedHost::merged(hosts)
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
