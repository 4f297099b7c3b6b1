//! What each level admits, dials and looks at.

use forge_core::egress::{AddressException, AddressRange, EgressLimits};

use super::*;

fn name(text: &str) -> HostName {
    HostName::parse(text.as_bytes()).unwrap()
}

fn target(text: &str) -> Target {
    let (host, port) = crate::names::parse_authority(text.as_bytes(), None).unwrap();
    Target { host, port }
}

fn allowed(name: &str, subdomains: bool, ports: &[u16]) -> AllowedHost {
    AllowedHost {
        name: name.to_owned(),
        subdomains,
        ports: ports.to_vec(),
    }
}

fn policy(level: NetworkLevel, allow: Vec<AllowedHost>) -> EgressPolicy {
    EgressPolicy {
        level,
        allow,
        exceptions: Vec::new(),
        limits: EgressLimits::of(level),
    }
}

fn web() -> EgressPolicy {
    policy(
        NetworkLevel::LimitedWeb,
        vec![
            AllowedHost::https("files.example.org"),
            allowed("plain.example.org", false, &[80]),
            allowed("example.net", true, &[443, 8443]),
        ],
    )
}

fn full() -> EgressPolicy {
    policy(NetworkLevel::FullWeb, Vec::new())
}

/// The policy with addresses opened for the names of `hosts`.
fn with_exception(
    mut policy: EgressPolicy,
    hosts: Vec<AllowedHost>,
    ranges: &[&str],
) -> EgressPolicy {
    policy.exceptions.push(AddressException {
        hosts,
        ranges: ranges.iter().map(|range| range.parse().unwrap()).collect(),
    });
    policy
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn isolated_admits_nothing_whatever_the_list_says() {
    let mut policy = web();
    policy.level = NetworkLevel::Isolated;
    for text in ["files.example.org:443", "192.0.2.1:443", "localhost:1"] {
        assert_eq!(admit(&policy, &target(text)), Err(DenialReason::Isolated));
    }
    let name = name("files.example.org");
    assert_eq!(
        dialable(&policy, (&name, 443), &addresses(&["8.8.8.8"]), &[], true),
        Err(DenialReason::Isolated)
    );
}

#[test]
fn a_listed_name_is_admitted_on_its_ports_only() {
    let admitted = |text: &str| admit(&web(), &target(text));
    let resolve = |text: &str| Ok(Admission::Resolve(name(text)));
    assert_eq!(
        admitted("FILES.example.ORG.:443"),
        resolve("files.example.org")
    );
    assert_eq!(
        admitted("plain.example.org:80"),
        resolve("plain.example.org")
    );
    assert_eq!(admitted("a.b.example.net:8443"), resolve("a.b.example.net"));
    // No entry has the port; another entry has it; this entry has it for another name.
    assert_eq!(admitted("files.example.org:22"), Err(DenialReason::Port));
    assert_eq!(admitted("files.example.org:8443"), Err(DenialReason::Port));
    assert_eq!(admitted("plain.example.org:443"), Err(DenialReason::Port));
    assert_eq!(admitted("other.example.org:22"), Err(DenialReason::Port));
}

#[test]
fn names_that_only_look_like_a_listed_one_are_not_on_the_list() {
    for text in [
        "example.org",
        "a.files.example.org",
        "evilfiles.example.org",
        "files.example.org.evil.test",
        "files-example.org",
        "example.net",
        "evilexample.net",
        "example.net.evil.test",
        "xn--fles-zpa.example.org",
    ] {
        let target = target(&format!("{text}:443"));
        assert_eq!(
            admit(&web(), &target),
            Err(DenialReason::NotOnAllowlist),
            "{text}"
        );
    }
}

#[test]
fn a_name_listed_twice_has_the_ports_of_both_entries() {
    let mut policy = web();
    policy
        .allow
        .push(allowed("files.example.org", false, &[80]));
    policy.allow.push(allowed("example.org", true, &[8080]));
    for port in [443, 80, 8080] {
        let target = target(&format!("files.example.org:{port}"));
        assert!(admit(&policy, &target).is_ok(), "{port}");
    }
}

#[test]
fn addresses_stand_for_hosts_at_full_web_only_and_public_ones_only() {
    for text in [
        "8.8.8.8:443",
        "10.0.0.1:443",
        "[2600::1]:443",
        "[::ffff:8.8.8.8]:443",
    ] {
        assert_eq!(
            admit(&web(), &target(text)),
            Err(DenialReason::IpLiteral),
            "{text}"
        );
    }
    let dial = |text: &str| Ok(Admission::Dial(text.parse().unwrap()));
    assert_eq!(admit(&full(), &target("8.8.8.8:443")), dial("8.8.8.8:443"));
    assert_eq!(
        admit(&full(), &target("[2600::1]:22")),
        dial("[2600::1]:22")
    );
    assert_eq!(
        admit(&full(), &target("[::ffff:8.8.8.8]:22")),
        dial("8.8.8.8:22")
    );
    for text in [
        "0.0.0.0:80",
        "[::1]:80",
        "127.0.0.1:80",
        "10.0.0.1:80",
        "169.254.169.254:80",
        "168.63.129.16:80",
        "[fd00:ec2::254]:80",
        "[64:ff9b::10.0.0.1]:80",
        "[2002:a00:1::]:80",
        "[::ffff:127.0.0.1]:80",
        "[::127.0.0.1]:80",
        "[fe80::1]:80",
    ] {
        assert_eq!(
            admit(&full(), &target(text)),
            Err(DenialReason::PrivateAddress),
            "{text}"
        );
    }
}

#[test]
fn full_web_admits_any_name_on_any_port_but_those_of_mail() {
    for port in [1, 22, 80, 443, 65535] {
        assert!(admit(&full(), &target(&format!("a.example:{port}"))).is_ok());
    }
    for port in [25, 465, 587] {
        for host in ["a.example", "8.8.8.8"] {
            let target = target(&format!("{host}:{port}"));
            assert_eq!(admit(&full(), &target), Err(DenialReason::Port));
        }
    }
    let zero = Target {
        host: Host::Name(name("a.example")),
        port: 0,
    };
    assert_eq!(admit(&full(), &zero), Err(DenialReason::Port));
}

#[test]
fn names_of_the_machine_and_of_metadata_services_are_denied_even_when_listed() {
    let hosts = || {
        vec![
            AllowedHost::https("localhost"),
            AllowedHost::https("metadata.google.internal"),
            allowed("internal", true, &[443]),
        ]
    };
    let listed = with_exception(
        policy(NetworkLevel::LimitedWeb, hosts()),
        hosts(),
        &["0.0.0.0/0"],
    );
    for text in [
        "localhost",
        "a.localhost",
        "metadata.google.internal",
        "metadata",
    ] {
        for policy in [&listed, &full()] {
            let target = target(&format!("{text}:443"));
            assert_eq!(
                admit(policy, &target),
                Err(DenialReason::PrivateAddress),
                "{text}"
            );
        }
    }
}

#[test]
fn a_name_of_the_site_needs_an_exception_besides_its_entry() {
    let mirror = || vec![AllowedHost::https("mirror.corp.internal")];
    let listed = policy(NetworkLevel::PackageOnly, mirror());
    let target = target("mirror.corp.internal:443");
    assert_eq!(admit(&listed, &target), Err(DenialReason::PrivateAddress));
    assert_eq!(admit(&full(), &target), Err(DenialReason::PrivateAddress));
    let excepted = with_exception(listed, mirror(), &["10.1.0.0/16"]);
    assert!(admit(&excepted, &target).is_ok());
    let unlisted = with_exception(web(), mirror(), &["10.1.0.0/16"]);
    assert_eq!(admit(&unlisted, &target), Err(DenialReason::NotOnAllowlist));
}

#[test]
fn addresses_that_are_not_public_are_dropped() {
    let dialled = |resolved: &[&str], has_v6| {
        dialable(
            &full(),
            (&name("a.example"), 443),
            &addresses(resolved),
            &[],
            has_v6,
        )
    };
    assert_eq!(dialled(&[], true), Err(DenialReason::DnsFailure));
    assert_eq!(
        dialled(
            &[
                "2600::1",
                "10.0.0.1",
                "8.8.8.8",
                "::1",
                "::ffff:8.8.8.8",
                "8.8.4.4"
            ],
            true
        ),
        Ok(addresses(&["8.8.8.8", "8.8.4.4", "2600::1"]))
    );
    assert_eq!(
        dialled(&["2600::1", "8.8.8.8"], false),
        Ok(addresses(&["8.8.8.8"]))
    );
    assert_eq!(
        dialled(&["2600::1"], false),
        Err(DenialReason::ConnectFailed)
    );
    assert_eq!(
        dialled(&["fd00::1"], false),
        Err(DenialReason::PrivateAddress)
    );
    for text in [
        "127.0.0.1",
        "10.0.0.1",
        "172.17.0.1",
        "169.254.169.254",
        "64:ff9b::7f00:1",
    ] {
        assert_eq!(
            dialled(&[text], true),
            Err(DenialReason::PrivateAddress),
            "{text}"
        );
    }
}

#[test]
fn an_exception_opens_its_ranges_for_its_names() {
    let hosts = vec![
        allowed("files.example.org", false, &[443]),
        allowed("example.net", true, &[443]),
    ];
    let policy = with_exception(web(), hosts, &["10.1.0.0/16", "192.0.2.0/24", "fd12::/16"]);
    let dialled = |host: &str, address: &str| {
        dialable(
            &policy,
            (&name(host), 443),
            &addresses(&[address]),
            &[],
            true,
        )
    };
    for address in ["10.1.2.3", "192.0.2.1", "fd12::1"] {
        assert_eq!(
            dialled("files.example.org", address),
            Ok(addresses(&[address]))
        );
        assert_eq!(dialled("a.example.net", address), Ok(addresses(&[address])));
        for other in ["example.net", "plain.example.org", "a.files.example.org"] {
            assert_eq!(dialled(other, address), Err(DenialReason::PrivateAddress));
        }
    }
    assert_eq!(
        dialled("files.example.org", "10.2.0.1"),
        Err(DenialReason::PrivateAddress)
    );
    assert_eq!(
        dialled("files.example.org", "::ffff:10.1.0.1"),
        Ok(addresses(&["10.1.0.1"]))
    );
}

#[test]
fn no_exception_opens_the_machine_its_link_or_a_metadata_service() {
    let hosts = || vec![allowed("a.example", false, &[443])];
    let policy = with_exception(full(), hosts(), &["0.0.0.0/0", "::/0"]);
    for text in [
        "0.0.0.0",
        "127.0.0.1",
        "169.254.0.1",
        "169.254.169.254",
        "168.63.129.16",
        "224.0.0.1",
        "255.255.255.255",
        "100.100.100.200",
        "::",
        "::1",
        "fe80::1",
        "ff02::1",
        "fd00:ec2::254",
        "::ffff:127.0.0.1",
        "64:ff9b::127.0.0.1",
        "2002:7f00:1::1",
    ] {
        let resolved = addresses(&[text]);
        assert_eq!(
            dialable(&policy, (&name("a.example"), 443), &resolved, &[], true),
            Err(DenialReason::PrivateAddress),
            "{text}"
        );
    }
}

#[test]
fn addresses_of_the_engines_machine_are_beyond_exceptions() {
    let hosts = vec![allowed("a.example", false, &[443])];
    let policy = with_exception(full(), hosts, &["10.0.0.0/8"]);
    let own: Vec<AddressRange> = ["10.1.0.0/24", "8.8.8.8/32", "2600::/64"]
        .into_iter()
        .map(|range| range.parse().unwrap())
        .collect();
    let dialled = |text: &str| {
        dialable(
            &policy,
            (&name("a.example"), 443),
            &addresses(&[text]),
            &own,
            true,
        )
    };
    for text in [
        "10.1.0.9",
        "8.8.8.8",
        "::ffff:8.8.8.8",
        "2600::1",
        "64:ff9b::8.8.8.8",
    ] {
        assert_eq!(dialled(text), Err(DenialReason::PrivateAddress), "{text}");
        let literal = SocketAddr::new(addresses(&[text])[0], 443);
        let judged = dialable_literal(&policy, literal, &own, true);
        assert_eq!(judged, Err(DenialReason::PrivateAddress), "{text}");
    }
    assert_eq!(dialled("10.2.0.9"), Ok(addresses(&["10.2.0.9"])));
}

#[test]
fn an_address_given_for_a_name_is_beyond_exceptions() {
    let policy = with_exception(full(), vec![allowed("test", true, &[1])], &["0.0.0.0/0"]);
    let judge = |policy: &EgressPolicy, text: &str, has_v6| {
        dialable_literal(policy, text.parse().unwrap(), &[], has_v6)
    };
    assert_eq!(judge(&policy, "8.8.8.8:1", false), Ok(()));
    assert_eq!(
        judge(&policy, "10.0.0.1:1", false),
        Err(DenialReason::PrivateAddress)
    );
    assert_eq!(judge(&policy, "[2600::1]:1", true), Ok(()));
    assert_eq!(
        judge(&policy, "[2600::1]:1", false),
        Err(DenialReason::ConnectFailed)
    );
    assert_eq!(
        judge(&web(), "8.8.8.8:1", true),
        Err(DenialReason::IpLiteral)
    );
    assert_eq!(
        judge(&EgressPolicy::isolated(), "8.8.8.8:1", true),
        Err(DenialReason::Isolated)
    );
}

#[test]
fn below_full_web_every_port_is_looked_at() {
    let inspected =
        |policy: &EgressPolicy, port| inspection(policy, &target(&format!("a.example:{port}")));
    for level in [NetworkLevel::PackageOnly, NetworkLevel::LimitedWeb] {
        let policy = policy(level, Vec::new());
        assert_eq!(inspected(&policy, 443), Inspection::Tls);
        assert_eq!(inspected(&policy, 80), Inspection::Http);
        assert_eq!(inspected(&policy, 8443), Inspection::Sniff);
    }
    assert_eq!(inspected(&full(), 443), Inspection::None);
    assert_eq!(inspected(&full(), 80), Inspection::Http);
    assert_eq!(inspected(&full(), 22), Inspection::None);
}

#[test]
fn a_hello_must_name_the_host_that_was_judged() {
    let hello = |sni: Option<&str>, has_ech| ClientHello {
        sni: sni.map(str::to_owned),
        has_ech,
    };
    let judged = |sni, has_ech| check_client_hello(&hello(sni, has_ech), &name("a.example"));
    assert_eq!(judged(Some("a.example"), false), Ok(()));
    assert_eq!(judged(Some("A.Example"), false), Ok(()));
    for other in [
        None,
        Some("b.example"),
        Some("a.example."),
        Some("a_.example"),
        Some("10.0.0.1"),
    ] {
        assert_eq!(
            judged(other, false),
            Err(DenialReason::SniMismatch),
            "{other:?}"
        );
    }
    assert_eq!(judged(Some("a.example"), true), Err(DenialReason::Ech));
    assert_eq!(judged(None, true), Err(DenialReason::Ech));
}

#[test]
fn an_exception_opens_the_ports_of_its_host_and_no_others() {
    let mut policy = full();
    policy.exceptions.push(AddressException {
        hosts: vec![AllowedHost::https("mirror.example")],
        ranges: vec!["10.1.7.20".parse().unwrap()],
    });
    let host = name("mirror.example");
    let resolved = addresses(&["10.1.7.20"]);
    assert!(dialable(&policy, (&host, 443), &resolved, &[], true).is_ok());
    assert_eq!(
        dialable(&policy, (&host, 22), &resolved, &[], true),
        Err(DenialReason::PrivateAddress)
    );
}

#[test]
fn mail_is_closed_at_every_level() {
    let mut policy = full();
    policy.level = NetworkLevel::LimitedWeb;
    policy.allow = vec![AllowedHost {
        name: "mail.example".into(),
        subdomains: false,
        ports: vec![25],
    }];
    let target = Target {
        host: Host::Name(name("mail.example")),
        port: 25,
    };
    assert_eq!(admit(&policy, &target), Err(DenialReason::Port));
}
