//! Addresses and names that are denied at every level.
//!
//! An address is public or it is denied. Ranges that exist only to carry addresses of version 4
//! are judged by the address they carry.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use forge_core::egress::AddressRange;

use crate::names::HostName;

const fn v4(octets: [u8; 4], prefix: u8) -> AddressRange {
    let [a, b, c, d] = octets;
    AddressRange {
        address: IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
        prefix,
    }
}

const fn v6(groups: [u16; 8], prefix: u8) -> AddressRange {
    let [a, b, c, d, e, f, g, h] = groups;
    AddressRange {
        address: IpAddr::V6(Ipv6Addr::new(a, b, c, d, e, f, g, h)),
        prefix,
    }
}

/// Ranges that are not public, but that an operator may open for hosts of certain names.
const NOT_PUBLIC: [AddressRange; 25] = [
    // "This network" but for the ranges of `NEVER` (RFC 791).
    v4([0, 0, 0, 0], 8),
    // Private use (RFC 1918).
    v4([10, 0, 0, 0], 8),
    v4([172, 16, 0, 0], 12),
    v4([192, 168, 0, 0], 16),
    // Shared address space of carriers, and of overlay networks (RFC 6598).
    v4([100, 64, 0, 0], 10),
    // Protocol assignments (RFC 6890).
    v4([192, 0, 0, 0], 24),
    // Documentation (RFC 5737).
    v4([192, 0, 2, 0], 24),
    v4([198, 51, 100, 0], 24),
    v4([203, 0, 113, 0], 24),
    // Relays of 6to4, deprecated (RFC 7526).
    v4([192, 88, 99, 0], 24),
    // Benchmarks (RFC 2544).
    v4([198, 18, 0, 0], 15),
    // Reserved (RFC 1112, section 4).
    v4([240, 0, 0, 0], 4),
    // All but the block of global unicast, 2000::/3 (RFC 4291, section 2.4). The ranges inside
    // these are listed for themselves below, so that nothing opens them should a block be given out.
    v6([0, 0, 0, 0, 0, 0, 0, 0], 3),
    v6([0x4000, 0, 0, 0, 0, 0, 0, 0], 2),
    v6([0x8000, 0, 0, 0, 0, 0, 0, 0], 1),
    // Addresses of version 4 as SIIT once wrote them (RFC 2765).
    v6([0, 0, 0, 0, 0xffff, 0, 0, 0], 96),
    // Local use of NAT64 (RFC 8215).
    v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48),
    // Discard only, and the dummy prefix beside it (RFC 6666, RFC 9780).
    v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64),
    v6([0x100, 0, 0, 1, 0, 0, 0, 0], 64),
    // Protocol assignments: Teredo, ORCHID, benchmarks and more (RFC 2928, RFC 4380).
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23),
    // Documentation (RFC 3849, RFC 9637).
    v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32),
    v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20),
    // Segment identifiers of SRv6 (RFC 9602).
    v6([0x5f00, 0, 0, 0, 0, 0, 0, 0], 16),
    // Unique local (RFC 4193).
    v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7),
    // Site local, deprecated (RFC 3879).
    v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10),
];

/// Ranges that nothing opens: the machine itself, its link, groups, and metadata services of clouds.
const NEVER: [AddressRange; 14] = [
    // Unspecified: programs connect to themselves by it (RFC 1122, section 3.2.1.3).
    v4([0, 0, 0, 0], 32),
    // Loopback (RFC 1122, section 3.2.1.3).
    v4([127, 0, 0, 0], 8),
    // Link local, with most clouds' metadata service (RFC 3927).
    v4([169, 254, 0, 0], 16),
    // Multicast (RFC 5771).
    v4([224, 0, 0, 0], 4),
    // Limited broadcast (RFC 919).
    v4([255, 255, 255, 255], 32),
    // The host agent of Azure, a public address by its number.
    v4([168, 63, 129, 16], 32),
    // Metadata services of Alibaba and of Oracle, in ranges that may be opened.
    v4([100, 100, 100, 200], 32),
    v4([192, 0, 0, 192], 32),
    // Unspecified, loopback, and all else in the form "compatible with version 4" (RFC 4291,
    // section 2.5.5.1).
    v6([0, 0, 0, 0, 0, 0, 0, 0], 96),
    // Link local (RFC 4291, section 2.5.6).
    v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10),
    // Multicast (RFC 4291, section 2.7).
    v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8),
    // Metadata services of EC2 and of Google's cloud, in unique local ranges.
    v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128),
    v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x253], 128),
    v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128),
];

/// Whether an address is none of the public internet.
#[must_use]
pub fn is_denied(address: IpAddr) -> bool {
    let address = address.to_canonical();
    if is_never_opened(address) {
        return true;
    }
    match carried(address) {
        // A prefix that only translates: the address carried is the whole of the matter.
        Some(Carried::Translated(inner)) => is_denied(IpAddr::V4(inner)),
        Some(Carried::Tunnelled(inner)) => is_denied(IpAddr::V4(inner)) || listed(address),
        None => listed(address),
    }
}

/// Whether an address stays denied whatever exceptions say, in itself or for the address of
/// version 4 that it carries.
#[must_use]
pub fn is_never_opened(address: IpAddr) -> bool {
    let address = address.to_canonical();
    let never = |address| NEVER.iter().any(|range| range.contains(address));
    never(address) || carried_v4(address).is_some_and(|inner| never(IpAddr::V4(inner)))
}

/// The address of version 4 that one of version 6 carries, for a gateway or for the end of a tunnel.
#[must_use]
pub fn carried_v4(address: IpAddr) -> Option<Ipv4Addr> {
    carried(address).map(|(Carried::Translated(inner) | Carried::Tunnelled(inner))| inner)
}

fn listed(address: IpAddr) -> bool {
    NOT_PUBLIC.iter().any(|range| range.contains(address))
}

/// An address of version 4 inside one of version 6.
enum Carried {
    /// By a gateway that puts it in place of the outer one.
    Translated(Ipv4Addr),
    /// By an end of a tunnel.
    Tunnelled(Ipv4Addr),
}

fn carried(address: IpAddr) -> Option<Carried> {
    let IpAddr::V6(address) = address else {
        return None;
    };
    let inner = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match address.segments() {
        // NAT64 (RFC 6052, section 2.1).
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(Carried::Translated(inner(high, low))),
        // SIIT of old (RFC 2765); its range is listed besides.
        [0, 0, 0, 0, 0xffff, 0, high, low] => Some(Carried::Tunnelled(inner(high, low))),
        // 6to4 (RFC 3056).
        [0x2002, high, low, ..] => Some(Carried::Tunnelled(inner(high, low))),
        // Teredo: the client's address, each bit turned (RFC 4380, section 4); listed besides.
        [0x2001, 0, _, _, _, _, high, low] => Some(Carried::Tunnelled(inner(!high, !low))),
        // ISATAP, with any prefix (RFC 5214, section 6.1).
        [_, _, _, _, 0 | 0x200, 0x5efe, high, low] => Some(Carried::Tunnelled(inner(high, low))),
        _ => None,
    }
}

/// Whether a name stands for the machine itself, its site, or a metadata service: one that
/// [is never opened](is_never_opened_name) or one [of the site](is_site_name).
#[must_use]
pub fn is_denied_name(name: &HostName) -> bool {
    is_never_opened_name(name) || is_site_name(name)
}

/// Whether a name stands for the machine itself (RFC 6761, section 6.3) or for the metadata
/// service of a cloud. Nothing opens these.
#[must_use]
pub fn is_never_opened_name(name: &HostName) -> bool {
    within(name, "localhost")
        || within(name, "localdomain")
        || matches!(name.first_label(), "metadata" | "instance-data")
}

/// Whether a name belongs to a site and not to the internet.
///
/// Besides `internal` these are `local` (RFC 6762: asked of the link, by multicast) and
/// `home.arpa` (RFC 8375). A company's mirror may well have such a name; an operator's exception
/// that names the host opens it.
#[must_use]
pub fn is_site_name(name: &HostName) -> bool {
    ["internal", "local", "home.arpa"]
        .into_iter()
        .any(|zone| within(name, zone))
}

fn within(name: &HostName, zone: &str) -> bool {
    name.as_str() == zone || name.is_below(zone)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn both_ends_of_every_denied_range_are_denied_and_their_neighbours_are_not() {
        for (first, last) in [
            ("0.0.0.0", "0.255.255.255"),
            ("10.0.0.0", "10.255.255.255"),
            ("100.64.0.0", "100.127.255.255"),
            ("127.0.0.0", "127.255.255.255"),
            ("169.254.0.0", "169.254.255.255"),
            ("172.16.0.0", "172.31.255.255"),
            ("192.0.0.0", "192.0.0.255"),
            ("192.0.2.0", "192.0.2.255"),
            ("192.88.99.0", "192.88.99.255"),
            ("192.168.0.0", "192.168.255.255"),
            ("198.18.0.0", "198.19.255.255"),
            ("198.51.100.0", "198.51.100.255"),
            ("203.0.113.0", "203.0.113.255"),
            ("224.0.0.0", "255.255.255.255"),
            ("168.63.129.16", "168.63.129.16"),
            ("2001::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ] {
            let (first, last) = (address(first), address(last));
            assert!(is_denied(first) && is_denied(last), "{first} to {last}");
            for outside in neighbours(first, last) {
                assert!(!is_denied(outside), "{outside} beside {first}");
            }
        }
    }

    /// The addresses before and after a range that are not at the end of their space.
    fn neighbours(first: IpAddr, last: IpAddr) -> Vec<IpAddr> {
        match (first, last) {
            (IpAddr::V4(first), IpAddr::V4(last)) => [
                first.to_bits().checked_sub(1),
                last.to_bits().checked_add(1),
            ]
            .into_iter()
            .flatten()
            .map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits)))
            .collect(),
            (IpAddr::V6(first), IpAddr::V6(last)) => {
                [first.to_bits() - 1, last.to_bits().wrapping_add(1)]
                    .into_iter()
                    .map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits)))
                    .collect()
            }
            _ => Vec::new(),
        }
    }

    #[test]
    fn version_6_is_public_within_global_unicast_only() {
        for text in [
            "::",
            "::1",
            "::127.0.0.1",
            "::8.8.8.8",
            "::ffff:0:8.8.8.8",
            "64:ff9b:1::1",
            "100::1",
            "100:0:0:1::1",
            "2001::1",
            "2001:10::1",
            "2001:20::1",
            "2001:db8::1",
            "3fff::1",
            "5f00::1",
            "4000::1",
            "7fff::1",
            "bfff::1",
            "8000::1",
            "c000::1",
            "fc00::1",
            "fd00:ec2::254",
            "fd20:ce::254",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
            "200::1",
            "400::1",
            "1fff::1",
        ] {
            assert!(is_denied(address(text)), "{text}");
        }
        for text in [
            "2001:4860:4860::8888",
            "2606:4700::1111",
            "2a00::1",
            "2600::",
        ] {
            assert!(!is_denied(address(text)), "{text}");
        }
    }

    #[test]
    fn an_address_inside_another_is_judged_by_itself() {
        for (public, private) in [
            ("::ffff:8.8.8.8", "::ffff:10.0.0.1"),
            ("64:ff9b::8.8.8.8", "64:ff9b::169.254.169.254"),
            ("64:ff9b::8.8.8.8", "64:ff9b::127.0.0.1"),
            ("2002:808:808::1", "2002:7f00:1::1"),
            ("2002:808:808::1", "2002:a9fe:a9fe::"),
            ("2600::5efe:808:808", "2600::5efe:a00:1"),
            ("2600::200:5efe:808:808", "2600::200:5efe:c0a8:1"),
        ] {
            assert!(!is_denied(address(public)), "{public}");
            assert!(is_denied(address(private)), "{private}");
        }
    }

    #[test]
    fn what_nothing_opens_is_denied_in_every_dress() {
        for text in [
            "0.0.0.0",
            "127.0.0.1",
            "127.64.0.9",
            "169.254.169.254",
            "168.63.129.16",
            "224.0.0.1",
            "255.255.255.255",
            "100.100.100.200",
            "192.0.0.192",
            "::",
            "::1",
            "fe80::1",
            "ff02::1",
            "fd00:ec2::254",
            "::ffff:127.0.0.1",
            "64:ff9b::127.0.0.1",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
            "fd00::5efe:127.0.0.1",
            "2001:0:1:2:3:4:80ff:fffe",
            "::ffff:0:127.0.0.1",
        ] {
            assert!(is_never_opened(address(text)), "{text}");
            assert!(is_denied(address(text)), "{text}");
        }
        for text in [
            "10.0.0.1",
            "192.168.1.1",
            "198.18.0.1",
            "fd00::1",
            "8.8.8.8",
            "100.64.0.1",
        ] {
            assert!(!is_never_opened(address(text)), "{text}");
        }
    }

    #[test]
    fn names_of_the_machine_the_site_and_metadata_services_are_denied() {
        let name = |text: &str| HostName::parse(text.as_bytes()).unwrap();
        for text in [
            "localhost",
            "LOCALHOST.",
            "a.localhost",
            "localhost.localdomain",
            "metadata",
            "metadata.google.internal",
            "metadata.example.org",
            "instance-data",
            "instance-data.ec2.internal",
        ] {
            assert!(
                is_never_opened_name(&name(text)) && is_denied_name(&name(text)),
                "{text}"
            );
        }
        for text in [
            "internal",
            "host.docker.internal",
            "printer.local",
            "a.home.arpa",
        ] {
            assert!(
                is_site_name(&name(text)) && is_denied_name(&name(text)),
                "{text}"
            );
        }
        for text in [
            "example.org",
            "localhost.example.org",
            "internal.example.org",
            "a.metadata.example",
            "mylocalhost",
            "notinternal",
            "metadata-x.example",
        ] {
            assert!(!is_denied_name(&name(text)), "{text}");
        }
    }
}
