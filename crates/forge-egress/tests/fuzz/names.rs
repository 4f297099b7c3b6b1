//! Names, authorities and addresses of any kind.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use forge_core::NetworkLevel;
use forge_core::egress::{AddressException, AddressRange, AllowedHost, EgressLimits, EgressPolicy};
use forge_egress::addresses::{is_denied, is_never_opened};
use forge_egress::names::{Host, HostName, parse_authority};
use forge_egress::policy::{Admission, Target, admit, dialable};
use proptest::prelude::*;

/// Text near to an authority.
fn authority_like() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        "[a-zA-Z0-9-]{0,5}",
        Just(".".to_owned()),
        Just(":".to_owned()),
        Just("[".to_owned()),
        Just("]".to_owned()),
        Just("@".to_owned()),
        Just("%".to_owned()),
        Just("0x7f".to_owned()),
        "(0|1|127|255|256|65535|65536|2130706433)",
        "(::1|::ffff:127.0.0.1|fe80::1|example.org|localhost)",
        "[\\x00-\\x20\\x7f]",
        "\\PC",
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat().into_bytes())
}

fn policy(level: NetworkLevel, allow: Vec<AllowedHost>, everything_open: bool) -> EgressPolicy {
    let all = |text: &str| text.parse::<AddressRange>().unwrap();
    EgressPolicy {
        level,
        exceptions: if everything_open {
            vec![AddressException {
                hosts: allow.clone(),
                ranges: vec![all("0.0.0.0/0"), all("::/0")],
            }]
        } else {
            Vec::new()
        },
        allow,
        limits: EgressLimits::of(level),
    }
}

fn address() -> impl Strategy<Value = IpAddr> {
    let carried = (any::<[u8; 4]>(), 0..5_usize).prop_map(|(octets, dress)| {
        let v4 = u128::from(Ipv4Addr::from(octets).to_bits());
        let bits = match dress {
            0 => 0xffff << 32 | v4,
            1 => 0x64_ff9b << 96 | v4,
            2 => 0x2002 << 112 | v4 << 80,
            3 => 0x2600 << 112 | 0x5efe << 32 | v4,
            _ => v4,
        };
        IpAddr::V6(Ipv6Addr::from_bits(bits))
    });
    prop_oneof![
        any::<[u8; 4]>().prop_map(|octets| IpAddr::V4(octets.into())),
        any::<u128>().prop_map(|bits| IpAddr::V6(bits.into())),
        carried,
    ]
}

proptest! {
    #[test]
    fn any_bytes_are_a_canonical_authority_or_refused(
        text in prop_oneof![prop::collection::vec(any::<u8>(), 0..300), authority_like()],
        port in prop::option::of(1..=u16::MAX),
    ) {
        if let Ok((host, port)) = parse_authority(&text, port) {
            let shown = format!("{host}:{port}");
            prop_assert_eq!(parse_authority(shown.as_bytes(), None), Ok((host, port)));
            prop_assert_ne!(port, 0);
        }
    }

    #[test]
    fn a_canonical_name_is_its_own_canonical_form(text in authority_like()) {
        if let Ok(name) = HostName::parse(&text) {
            prop_assert_eq!(HostName::parse(name.as_str().as_bytes()), Ok(name.clone()));
            let lower_case = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
            prop_assert!(name.as_str().bytes().all(|byte| lower_case(&byte) || b"-.".contains(&byte)));
            prop_assert!(name.as_str().parse::<IpAddr>().is_err());
            let dotted = format!("{name}.").to_ascii_uppercase();
            prop_assert_eq!(HostName::parse(dotted.as_bytes()), Ok(name));
        }
    }

    /// No text whose host is not literally an entry of the list is ever let through.
    #[test]
    fn below_full_web_nothing_but_the_list_is_admitted(text in authority_like()) {
        let policy = policy(NetworkLevel::LimitedWeb, vec![AllowedHost::https("example.org")], false);
        if let Ok((host, port)) = parse_authority(&text, Some(443)) {
            let admitted = admit(&policy, &Target { host: host.clone(), port });
            let is_listed = host.to_string() == "example.org" && port == 443;
            prop_assert_eq!(admitted.is_ok(), is_listed);
        }
    }

    #[test]
    fn an_address_at_full_web_is_dialled_only_when_public(address in address(), port in 1..=u16::MAX) {
        let policy = policy(NetworkLevel::FullWeb, Vec::new(), true);
        let target = Target { host: Host::Address(address), port };
        if let Ok(Admission::Dial(socket)) = admit(&policy, &target) {
            prop_assert!(!is_denied(address) && !is_denied(socket.ip()));
            prop_assert_eq!(socket.ip(), address.to_canonical());
        }
    }

    #[test]
    fn no_exception_opens_what_is_never_opened(resolved in prop::collection::vec(address(), 0..6)) {
        let name = HostName::parse(b"example.org").unwrap();
        let allow = vec![AllowedHost::https("example.org")];
        let open = policy(NetworkLevel::LimitedWeb, allow.clone(), true);
        for address in dialable(&open, (&name, 443), &resolved, &[], true).unwrap_or_default() {
            prop_assert!(!is_never_opened(address));
        }
        let closed = policy(NetworkLevel::LimitedWeb, allow, false);
        let dialled = dialable(&closed, (&name, 443), &resolved, &[], true).unwrap_or_default();
        prop_assert!(dialled.iter().all(|address| !is_denied(*address)));
        prop_assert!(dialled.is_sorted_by_key(IpAddr::is_ipv6));
    }

    #[test]
    fn a_mapped_address_is_judged_as_itself(octets in any::<[u8; 4]>()) {
        let v4 = Ipv4Addr::from(octets);
        for mapped in [v4.to_ipv6_mapped(), Ipv6Addr::from_bits(0x64_ff9b << 96 | u128::from(v4.to_bits()))] {
            prop_assert_eq!(is_denied(IpAddr::V6(mapped)), is_denied(IpAddr::V4(v4)));
            prop_assert_eq!(is_never_opened(IpAddr::V6(mapped)), is_never_opened(IpAddr::V4(v4)));
        }
    }
}
