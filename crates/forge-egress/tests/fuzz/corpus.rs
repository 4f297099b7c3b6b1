//! Odd requests as a client sends them, from the bytes of the head to the verdict.

use forge_core::NetworkLevel;
use forge_core::egress::{AllowedHost, DenialReason, EgressLimits, EgressPolicy};
use forge_egress::http_head::{HeadProgress, RequestTarget, parse};
use forge_egress::names::HostName;
use forge_egress::policy::{Admission, Target, admit, dialable};

fn policy(level: NetworkLevel) -> EgressPolicy {
    EgressPolicy {
        level,
        allow: match level {
            NetworkLevel::FullWeb => Vec::new(),
            _ => vec![
                AllowedHost::https("allowed.example"),
                AllowedHost {
                    name: "plain.example".into(),
                    subdomains: false,
                    ports: vec![80],
                },
            ],
        },
        exceptions: Vec::new(),
        limits: EgressLimits::of(level),
    }
}

/// What the proxy decides about a request line before any look-up.
fn verdict(level: NetworkLevel, line: &str) -> Result<Admission, DenialReason> {
    let text = format!("{line} HTTP/1.1\r\nHost: allowed.example\r\n\r\n");
    let head = match parse(text.as_bytes()) {
        HeadProgress::Complete { head, .. } => head,
        HeadProgress::Refused(reason) => return Err(reason),
        HeadProgress::NeedMore => panic!("{line:?}"),
    };
    let target = match head.target {
        RequestTarget::Connect { host, port } | RequestTarget::Absolute { host, port, .. } => {
            Target { host, port }
        }
        RequestTarget::Origin { .. } => return Err(DenialReason::BadRequest),
    };
    admit(&policy(level), &target)
}

fn all_refused(level: NetworkLevel, cases: &[(&str, DenialReason)]) {
    for (line, reason) in cases {
        assert_eq!(verdict(level, line), Err(*reason), "{line:?} at {level}");
    }
}

#[test]
fn hosts_that_are_not_listed_are_refused_whatever_they_resemble() {
    use DenialReason::{BadHostname, BadRequest, NotOnAllowlist, Port};
    all_refused(
        NetworkLevel::LimitedWeb,
        &[
            ("CONNECT other.example:443", NotOnAllowlist),
            ("CONNECT evilallowed.example:443", NotOnAllowlist),
            ("CONNECT allowed.example.evil.test:443", NotOnAllowlist),
            ("CONNECT www.allowed.example:443", NotOnAllowlist),
            ("CONNECT allowed.example@evil.test:443", BadHostname),
            ("CONNECT allowed.example:443@evil.test:443", BadHostname),
            ("CONNECT evil.test#.allowed.example:443", BadHostname),
            ("CONNECT evil.test/.allowed.example:443", BadHostname),
            ("CONNECT evil.test%2eallowed.example:443", BadHostname),
            ("CONNECT evil.test\0.allowed.example:443", BadRequest),
            ("CONNECT evil.test\r\nX: allowed.example:443", BadRequest),
            ("CONNECT allowed.example:443 X", BadRequest),
            ("CONNECT \u{430}llowed.example:443", BadHostname),
            ("CONNECT allowed\u{3002}example:443", BadHostname),
            ("CONNECT xn--llowed-4nf.example:443", NotOnAllowlist),
            ("CONNECT allowed.example..:443", BadHostname),
            ("CONNECT allowed.example:80", Port),
            ("CONNECT allowed.example:22", Port),
            ("CONNECT allowed.example:0443", Port),
            ("CONNECT allowed.example:+443", BadHostname),
            ("CONNECT allowed.example:00443", Port),
            // 443 behind a multiple of 2^16 and of 2^32.
            ("CONNECT allowed.example:65979", Port),
            ("CONNECT allowed.example:4294967739", Port),
            ("CONNECT allowed.example:443:443", BadHostname),
            ("CONNECT %61llowed.example:443", BadHostname),
            ("CONNECT allowed%2Eexample:443", BadHostname),
            ("CONNECT allowed_.example:443", BadHostname),
            ("CONNECT -allowed.example:443", BadHostname),
            ("CONNECT .allowed.example:443", BadHostname),
            ("CONNECT [allowed.example]:443", BadHostname),
            ("CONNECT xn--allowed.example:443", NotOnAllowlist),
            ("CONNECT XN--ALLOWED-EXAMPLE:443", NotOnAllowlist),
            ("GET http://user:443@plain.example/", BadHostname),
            ("GET http://plain.example:080/", Port),
            ("GET http://plain.example\\.evil.test/", BadHostname),
            ("GET http://%70lain.example/", BadHostname),
            ("CONNECT plain.example:443", Port),
            ("GET http://allowed.example/", Port),
            ("GET https://allowed.example/", BadRequest),
            ("GET /", BadRequest),
        ],
    );
}

#[test]
fn case_and_a_trailing_dot_are_the_same_host() {
    let expected = Ok(Admission::Resolve(
        HostName::parse(b"allowed.example").unwrap(),
    ));
    let found = verdict(NetworkLevel::LimitedWeb, "CONNECT ALLOWED.Example.:443");
    assert_eq!(found, expected);
    assert!(verdict(NetworkLevel::LimitedWeb, "GET http://Plain.Example./x").is_ok());
}

#[test]
fn addresses_are_refused_in_every_form_below_full_web() {
    use DenialReason::{BadHostname, IpLiteral};
    all_refused(
        NetworkLevel::PackageOnly,
        &[
            ("CONNECT 8.8.8.8:443", IpLiteral),
            ("CONNECT [2600::1]:443", IpLiteral),
            ("CONNECT [::ffff:8.8.8.8]:443", IpLiteral),
            ("CONNECT 134744072:443", BadHostname),
            ("CONNECT 0x08080808:443", BadHostname),
            ("CONNECT 0x8.0x8.0x8.0x8:443", BadHostname),
            ("CONNECT 010.010.010.010:443", BadHostname),
            ("CONNECT 8.8.2056:443", BadHostname),
            ("CONNECT 8.8.8.8.:443", BadHostname),
            ("CONNECT 2600::1:443", BadHostname),
            ("CONNECT [fe80::1%eth0]:443", BadHostname),
            ("CONNECT [2600::1%25eth0]:443", BadHostname),
            ("CONNECT [::FFFF:808:808]:443", IpLiteral),
            ("CONNECT [0:0:0:0:0:ffff:8.8.8.8]:443", IpLiteral),
            ("CONNECT [::ffff:8.8.2056]:443", BadHostname),
            ("CONNECT [64:ff9b::8.8.8.8]:443", IpLiteral),
            ("CONNECT [2002:808:808::]:443", IpLiteral),
            ("CONNECT [2600:0:0:0:0:0:0:0:1]:443", BadHostname),
            ("CONNECT [2600::1::1]:443", BadHostname),
            ("CONNECT [02600::1]:443", BadHostname),
            ("CONNECT 8.8.8.08:443", BadHostname),
            ("CONNECT 8.8.8.0x8:443", BadHostname),
            ("CONNECT 8.526344:443", BadHostname),
            ("CONNECT 18446744073843752968:443", BadHostname),
            ("GET http://[::ffff:8.8.8.8]:443/", IpLiteral),
        ],
    );
}

#[test]
fn the_machine_and_metadata_services_are_refused_at_full_web() {
    use DenialReason::{BadHostname, PrivateAddress};
    all_refused(
        NetworkLevel::FullWeb,
        &[
            ("CONNECT localhost:443", PrivateAddress),
            ("CONNECT LOCALHOST.:443", PrivateAddress),
            ("CONNECT a.localhost:443", PrivateAddress),
            ("CONNECT 0.0.0.0:443", PrivateAddress),
            ("CONNECT 127.0.0.1:443", PrivateAddress),
            ("CONNECT [::1]:443", PrivateAddress),
            ("CONNECT [::]:443", PrivateAddress),
            ("CONNECT [::ffff:7f00:1]:443", PrivateAddress),
            ("CONNECT [64:ff9b::7f00:1]:443", PrivateAddress),
            ("CONNECT [64:ff9b:1::808:808]:443", PrivateAddress),
            ("CONNECT [2002:7f00:1::]:443", PrivateAddress),
            ("CONNECT [2001:0:808:808::]:443", PrivateAddress),
            // Teredo for 127.0.0.1, SIIT of old, ISATAP, and forms "compatible with version 4".
            ("CONNECT [2001:0:808:808::80ff:fffe]:443", PrivateAddress),
            ("CONNECT [::ffff:0:7f00:1]:443", PrivateAddress),
            ("CONNECT [2600::5efe:127.0.0.1]:443", PrivateAddress),
            ("CONNECT [::8.8.8.8]:443", PrivateAddress),
            ("CONNECT [64:ff9b::a9fe:a9fe]:443", PrivateAddress),
            ("CONNECT [2002:a9fe:a9fe::1]:443", PrivateAddress),
            ("CONNECT [::ffff:169.254.169.254]:443", PrivateAddress),
            ("CONNECT 169.254.169.254:80", PrivateAddress),
            ("GET http://169.254.169.254/latest", PrivateAddress),
            ("GET http://[fd00:ec2::254]/latest", PrivateAddress),
            ("GET http://metadata.google.internal/", PrivateAddress),
            ("GET http://168.63.129.16/", PrivateAddress),
            ("GET http://172.17.0.1/", PrivateAddress),
            ("CONNECT host.docker.internal:443", PrivateAddress),
            ("CONNECT 127.1:443", BadHostname),
            ("CONNECT 2130706433:443", BadHostname),
            ("CONNECT 017700000001:443", BadHostname),
            ("CONNECT 0x7f.1:443", BadHostname),
        ],
    );
}

#[test]
fn a_name_that_resolves_to_the_inside_is_refused_on_each_look_up() {
    let policy = policy(NetworkLevel::FullWeb);
    let name = HostName::parse(b"rebind.test").unwrap();
    let own = ["198.51.99.7/32".parse().unwrap()];
    let look_up = |text: &str| {
        let resolved = text.split(' ').map(|each| each.parse().unwrap());
        dialable(
            &policy,
            (&name, 443),
            &resolved.collect::<Vec<_>>(),
            &own,
            true,
        )
        .map(|each| each.len())
    };
    assert_eq!(look_up("8.8.8.8"), Ok(1));
    for text in [
        "127.0.0.1",
        "10.0.0.7",
        "198.51.99.7",
        "::1 ::ffff:10.0.0.1",
        "64:ff9b::a00:1",
    ] {
        assert_eq!(look_up(text), Err(DenialReason::PrivateAddress), "{text}");
    }
    assert_eq!(look_up("127.0.0.1 8.8.8.8"), Ok(1));
}
