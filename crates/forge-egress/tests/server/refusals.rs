//! What is refused, and what the client and the log are told.

use forge_core::NetworkLevel;
use forge_core::connection::{ConnectionMode, ConnectionVerdict};
use forge_core::egress::{AddressException, AllowedHost, DenialReason, EgressPolicy};

use crate::support::*;

async fn refused(proxy: &Proxy, request: &str, status: u16, reason: DenialReason) {
    let mut client = proxy.request("s", request).await;
    let answer = rest_text(&mut client).await;
    assert_denied(&answer, status, reason);
    let record = proxy.record().await;
    assert_eq!(record.reason, Some(reason), "{request}");
    assert_eq!(record.verdict, ConnectionVerdict::Denied);
    assert_eq!((record.bytes_up, record.bytes_down), (0, 0));
}

#[tokio::test]
async fn every_refusal_says_its_reason_to_the_client_and_to_the_log() {
    let proxy = Proxy::new();
    proxy
        .world
        .name("private.example.org", &["10.1.2.3", "127.0.0.1"]);
    proxy.world.name("closed.example.org", &[PUBLIC]);
    let hosts = [
        "private.example.org",
        "closed.example.org",
        "absent.example.org",
    ];
    proxy.set("s", limited(&hosts)).await;
    let cases = [
        ("HELLO\r\n\r\n".to_owned(), 400, DenialReason::BadRequest),
        (
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
            400,
            DenialReason::BadRequest,
        ),
        (
            connect("evil\0.example.org:443"),
            400,
            DenialReason::BadRequest,
        ),
        (
            connect("closed.example.org@example.net:443"),
            403,
            DenialReason::BadHostname,
        ),
        (connect("0x5db8d70e:443"), 403, DenialReason::BadHostname),
        (connect("closed.example.org:22"), 403, DenialReason::Port),
        (connect("93.184.215.14:443"), 403, DenialReason::IpLiteral),
        (connect("[2606:4700::1]:443"), 403, DenialReason::IpLiteral),
        (
            connect("example.net:443"),
            403,
            DenialReason::NotOnAllowlist,
        ),
        (
            connect("metadata.google.internal:443"),
            403,
            DenialReason::PrivateAddress,
        ),
        (
            connect("private.example.org:443"),
            403,
            DenialReason::PrivateAddress,
        ),
        (
            connect("absent.example.org:443"),
            502,
            DenialReason::DnsFailure,
        ),
        (
            connect("closed.example.org:443"),
            502,
            DenialReason::ConnectFailed,
        ),
    ];
    for (request, status, reason) in cases {
        refused(&proxy, &request, status, reason).await;
    }
    let dialled = proxy.world.dialled.lock().unwrap().clone();
    assert_eq!(dialled, [format!("{PUBLIC}:443").parse().unwrap()]);
}

#[tokio::test]
async fn an_isolated_phase_refuses_everything_with_that_reason() {
    let proxy = Proxy::new();
    proxy.set("s", EgressPolicy::isolated()).await;
    for request in [
        "HELLO\r\n\r\n",
        &connect("example.org:443"),
        "GET http://a.test/ HTTP/1.1\r\n\r\n",
    ] {
        refused(&proxy, request, 403, DenialReason::Isolated).await;
    }
}

#[tokio::test]
async fn plain_requests_to_where_only_tls_is_passed_on_are_refused() {
    let proxy = Proxy::new();
    proxy.set("s", limited(&["example.org"])).await;
    let request = "GET http://example.org:443/ HTTP/1.1\r\n\r\n";
    refused(&proxy, request, 403, DenialReason::NotTls).await;
}

#[tokio::test]
async fn at_full_web_addresses_are_reached_if_they_are_public() {
    let mut proxy = Proxy::new();
    let mut server = proxy.server(8443).await;
    proxy.set("s", full()).await;
    for address in [
        "127.0.0.1",
        "169.254.169.254",
        "[::1]",
        "[::ffff:10.0.0.1]",
        "0.0.0.0",
    ] {
        let request = connect(&format!("{address}:8443"));
        refused(&proxy, &request, 403, DenialReason::PrivateAddress).await;
    }
    refused(&proxy, &connect("example.org:25"), 403, DenialReason::Port).await;
    let _client = proxy.tunnel("s", &format!("{PUBLIC}:8443")).await;
    server.accept().await;
}

#[tokio::test]
async fn a_name_that_resolves_differently_the_second_time_is_judged_again() {
    let mut proxy = Proxy::new();
    let mut server = proxy.server(443).await;
    proxy.world.name("example.org", &[PUBLIC]);
    proxy.world.name("example.org", &["192.168.0.1"]);
    proxy.set("s", limited(&["example.org"])).await;
    let first = proxy.tunnel("s", "example.org:443").await;
    server.accept().await;
    drop(first);
    proxy.record().await;
    refused(
        &proxy,
        &connect("example.org:443"),
        403,
        DenialReason::PrivateAddress,
    )
    .await;
}

#[tokio::test]
async fn addresses_of_the_machine_are_closed_even_to_exceptions() {
    let mut proxy = Proxy::new();
    let mut server = proxy.server_at("10.0.7.7", 443).await;
    proxy.world.name("mirror.example.org", &["10.0.7.7"]);
    let mut policy = limited(&["mirror.example.org"]);
    policy.exceptions.push(AddressException {
        hosts: vec![AllowedHost::https("mirror.example.org")],
        ranges: vec!["10.0.0.0/8".parse().unwrap()],
    });
    proxy.set("s", policy.clone()).await;
    let mut client = proxy.tunnel("s", "mirror.example.org:443").await;
    server.accept().await;

    // The engine says that they are the machine's: open connections end, new ones are refused.
    proxy
        .server
        .deny(&["10.0.7.0/24".parse().unwrap()])
        .await
        .unwrap();
    assert_eq!(
        proxy.record().await.reason,
        Some(DenialReason::PolicyChanged)
    );
    assert!(rest(&mut client).await.is_empty());
    let request = connect("mirror.example.org:443");
    refused(&proxy, &request, 403, DenialReason::PrivateAddress).await;

    // So are networks that the proxy itself has been put on.
    proxy.server.deny(&[]).await.unwrap();
    proxy.world.own("10.0.7.0/29");
    proxy.tunnel("s", "mirror.example.org:443").await;
    proxy.record().await;
    proxy.server.deny(&[]).await.unwrap();
    refused(&proxy, &request, 403, DenialReason::PrivateAddress).await;
    proxy.set("other", policy).await;
    let mut client = proxy.request("other", &request).await;
    assert_denied(
        &rest_text(&mut client).await,
        403,
        DenialReason::PrivateAddress,
    );
}

#[tokio::test]
async fn a_record_says_who_asked_for_what_and_how() {
    let proxy = Proxy::new();
    proxy.set("s", limited(&["example.org"])).await;
    let request = "CONNECT Example.NET.:443 HTTP/1.1\r\nX-Swe-Forge-Mode: transparent\r\n\r\n";
    let mut client = proxy.request("s", request).await;
    let answer = rest_text(&mut client).await;
    let phrase = "policy: example.net:443 not_on_allowlist (level limited_web)\r\n";
    assert!(answer.contains(phrase), "{answer}");
    assert!(answer.contains("network.allow"), "{answer}");
    let record = proxy.record().await;
    assert_eq!((record.host.as_str(), record.port), ("example.net", 443));
    assert_eq!(record.mode, ConnectionMode::Transparent);
    assert_eq!(record.level, NetworkLevel::LimitedWeb);
    assert_eq!((record.sandbox.as_str(), record.run.as_str()), ("s", "run"));
    let request = format!("CONNECT {}\u{1b}[2J:443 HTTP/1.1\r\n\r\n", "a".repeat(300));
    let mut client = proxy.request("s", &request).await;
    let answer = rest_text(&mut client).await;
    assert!(!answer.contains('\u{1b}'));
    assert_eq!(proxy.record().await.host.len(), 255);
}

#[tokio::test]
async fn a_client_that_still_sends_reads_why_it_was_refused() {
    let proxy = Proxy::new();
    proxy.set("s", limited(&["example.org"])).await;
    let body = "x".repeat(100_000);
    let head = "POST http://example.net:443/ HTTP/1.1\r\nContent-Length: 100000\r\n\r\n";
    let mut client = proxy.request("s", &format!("{head}{body}")).await;
    let answer = rest_text(&mut client).await;
    assert_denied(&answer, 403, DenialReason::NotOnAllowlist);
}
