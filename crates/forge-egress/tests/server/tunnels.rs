//! Tunnels: what must be seen before bytes flow, and that they flow whole.

use forge_core::connection::ConnectionVerdict;
use forge_core::egress::{DenialReason, EgressPolicy};
use forge_egress::server::Timing;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::support::*;

/// A tunnel to a server outside, and what the server got before the tunnel was closed.
async fn said(port: u16, policy: EgressPolicy, words: &[u8]) -> (Vec<u8>, Option<DenialReason>) {
    let mut proxy = Proxy::new();
    let mut server = proxy.server(port).await;
    proxy.world.name("example.org", &[PUBLIC]);
    proxy.set("s", policy).await;
    let mut client = proxy.tunnel("s", &format!("example.org:{port}")).await;
    let mut outside = server.accept().await;
    client.write_all(words).await.unwrap();
    client.shutdown().await.unwrap();
    let got = rest(&mut outside).await;
    drop(outside);
    assert!(rest(&mut client).await.is_empty());
    (got, proxy.record().await.reason)
}

#[tokio::test]
async fn what_is_no_tls_for_the_host_is_closed_without_a_byte_sent() {
    let allowed = || limited(&["example.org"]);
    let cases = [
        (hello(Some("example.net"), &[]), DenialReason::SniMismatch),
        (hello(Some("a.example.org"), &[]), DenialReason::SniMismatch),
        (hello(None, &[]), DenialReason::SniMismatch),
        (hello(Some("example.org"), &[0xfe0d]), DenialReason::Ech),
        (b"SSH-2.0-client\r\n".to_vec(), DenialReason::NotTls),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), DenialReason::NotTls),
        (
            hello(Some("example.org"), &[])[..40].to_vec(),
            DenialReason::NotTls,
        ),
        (vec![22, 3, 1, 0xff, 0xff, 1], DenialReason::NotTls),
    ];
    for (words, reason) in cases {
        assert_eq!(
            said(443, allowed(), &words).await,
            (Vec::new(), Some(reason))
        );
    }
}

#[tokio::test]
async fn tls_for_the_host_flows_from_its_first_byte() {
    let mut proxy = Proxy::new();
    let mut server = proxy.server(443).await;
    proxy.world.name("example.org", &[PUBLIC]);
    proxy.set("s", limited(&["example.org"])).await;
    let mut client = proxy.tunnel("s", "example.org:443").await;
    let words = hello(Some("Example.ORG"), &[]);
    // Early data waits for the answer, as does the end.
    let early = [23, 3, 3, 0, 1, 9];
    client.write_all(&words).await.unwrap();
    client.write_all(&early).await.unwrap();
    client.shutdown().await.unwrap();
    let mut outside = server.accept().await;
    assert_eq!(bytes(&mut outside, words.len()).await, words);
    let answer = [answer([7; 32]), b"and more".to_vec()].concat();
    outside.write_all(&answer).await.unwrap();
    assert_eq!(bytes(&mut client, answer.len()).await, answer);
    assert_eq!(rest(&mut outside).await, early);
    drop(outside);
    assert!(rest(&mut client).await.is_empty());
    assert_eq!(proxy.record().await.reason, None);
}

#[tokio::test]
async fn a_hello_may_come_along_with_the_request_or_in_pieces() {
    let mut proxy = Proxy::new();
    let mut server = proxy.server(443).await;
    proxy.world.name("example.org", &[PUBLIC]);
    proxy.set("s", limited(&["example.org"])).await;
    let words = hello(Some("example.org"), &[]);

    let mut client = proxy.connect("s").await;
    let all = [connect("example.org:443").as_bytes(), &words].concat();
    client.write_all(&all).await.unwrap();
    head(&mut client).await;
    let mut outside = server.accept().await;
    let mut got = vec![0; words.len()];
    outside.read_exact(&mut got).await.unwrap();
    assert_eq!(got, words);

    let mut client = proxy.tunnel("s", "example.org:443").await;
    let mut outside = server.accept().await;
    for byte in &words {
        client.write_all(&[*byte]).await.unwrap();
    }
    outside.read_exact(&mut got).await.unwrap();
    assert_eq!(got, words);
    client.shutdown().await.unwrap();
    drop(outside);
    let record = proxy.record().await;
    assert_eq!(record.sni.as_deref(), Some("example.org"));
    assert_eq!(record.ip, Some(PUBLIC.parse().unwrap()));
}

#[tokio::test]
async fn on_other_ports_tls_and_http_are_looked_at_and_the_rest_is_not() {
    let allowed = || limited(&["example.org:9000"]);
    let wrong = hello(Some("example.net"), &[]);
    let refused = |reason| (Vec::new(), Some(reason));
    assert_eq!(
        said(9000, allowed(), &wrong).await,
        refused(DenialReason::SniMismatch)
    );
    let hidden = hello(Some("example.org"), &[0xfe0d]);
    assert_eq!(
        said(9000, allowed(), &hidden).await,
        refused(DenialReason::Ech)
    );
    let right = hello(Some("example.org"), &[]);
    assert_eq!(said(9000, allowed(), &right).await, (right, None));
    for words in [
        &b"SSH-2.0-client\r\nabc"[..],
        b"\0\x01\x02",
        b"\x80\0\0\x28",
        b"\xff\xfd\x01",
        b"half a line",
        b"",
    ] {
        assert_eq!(said(9000, allowed(), words).await, (words.to_vec(), None));
    }
}

/// As [`said`], each byte only once the one before was taken.
async fn said_slowly(words: &[u8]) -> (Vec<u8>, Option<DenialReason>) {
    let mut proxy = Proxy::new();
    let mut server = proxy.server(9000).await;
    proxy.world.name("example.org", &[PUBLIC]);
    proxy.set("s", limited(&["example.org:9000"])).await;
    let mut client = proxy.tunnel("s", "example.org:9000").await;
    let mut outside = server.accept().await;
    for byte in words {
        // The proxy may have closed it by then.
        drop(client.write_all(&[*byte]).await);
        tokio::task::yield_now().await;
    }
    drop(client.shutdown().await);
    let got = rest(&mut outside).await;
    drop(outside);
    rest(&mut client).await;
    (got, proxy.record().await.reason)
}

#[tokio::test]
async fn tls_in_a_form_that_only_some_servers_take_names_no_other_host() {
    let other = hello(Some("example.net"), &[]);
    let with_version = |major, minor| {
        let mut words = other.clone();
        [words[1], words[2]] = [major, minor];
        words
    };
    // A hello in the form of SSL 2.0 has no place for a name.
    let old = [
        &[0x80, 28, 1, 3, 3, 0, 3, 0, 0, 0, 16, 0, 0, 47][..],
        &[7; 16],
    ]
    .concat();
    let behind = |record: &[u8]| [record, &other].concat();
    let not_tls = DenialReason::NotTls;
    let cases = [
        (with_version(3, 0x7f), DenialReason::SniMismatch),
        (with_version(3, 5), DenialReason::SniMismatch),
        (with_version(2, 1), not_tls),
        (with_version(15, 0xff), not_tls),
        (behind(&[22, 3, 0x7f, 0, 0]), not_tls),
        (behind(&[22, 0, 0, 0, 0]), not_tls),
        (behind(&[21, 3, 1, 0, 2, 1, 0]), not_tls),
        (behind(&[21, 3, 0x7f, 0, 2, 1, 0]), not_tls),
        (behind(&[21, 2, 1, 0, 2, 1, 0]), not_tls),
        (behind(&[20, 3, 3, 0, 1, 1]), not_tls),
        (behind(&[23, 3, 3, 0, 1, 9]), not_tls),
        (old, not_tls),
    ];
    for (words, reason) in cases {
        let refused = (Vec::new(), Some(reason));
        let policy = limited(&["example.org:9000"]);
        assert_eq!(said(9000, policy, &words).await, refused, "{words:02x?}");
        assert_eq!(said_slowly(&words).await, refused, "{words:02x?}");
    }
}

#[tokio::test]
async fn http_on_other_ports_cannot_name_another_host() {
    let mut proxy = Proxy::new();
    let mut server = proxy.server(9000).await;
    proxy.world.name("example.org", &[PUBLIC]);
    proxy.set("s", limited(&["example.org:9000"])).await;
    let mut client = proxy.tunnel("s", "example.org:9000").await;
    let request = b"GET /a HTTP/1.1\r\nHost: example.net\r\n\r\n";
    client.write_all(request).await.unwrap();
    let mut outside = server.accept().await;
    let got = head(&mut outside).await;
    assert!(got.contains("\r\nHost: example.org:9000\r\n"), "{got}");
    assert!(!got.contains("example.net"), "{got}");

    let mut client = proxy.tunnel("s", "example.org:9000").await;
    client
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    assert_denied(&rest_text(&mut client).await, 400, DenialReason::BadRequest);
    assert!(rest(&mut server.accept().await).await.is_empty());
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_while_the_client_is_silent() {
    let mut proxy = Proxy::new();
    let mut server = proxy.server(22).await;
    proxy.world.name("example.org", &[PUBLIC]);
    proxy.set("s", limited(&["example.org:22"])).await;
    let mut client = proxy.tunnel("s", "example.org:22").await;
    let mut outside = server.accept().await;
    outside.write_all(b"SSH-2.0-server\r\n").await.unwrap();
    assert_eq!(exactly(&mut client, 16).await, "SSH-2.0-server\r\n");
    client.write_all(b"SSH-2.0-client\r\n").await.unwrap();
    assert_eq!(exactly(&mut outside, 16).await, "SSH-2.0-client\r\n");

    // Such a server does not speak HTTP/1, so what looks like it is a trick.
    let mut client = proxy.tunnel("s", "example.org:22").await;
    let mut outside = server.accept().await;
    outside.write_all(b"settings").await.unwrap();
    exactly(&mut client, 8).await;
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: example.net\r\n\r\n")
        .await
        .unwrap();
    assert!(rest(&mut outside).await.is_empty());
    assert_eq!(proxy.record().await.reason, Some(DenialReason::BadRequest));
}

#[tokio::test]
async fn at_full_web_names_in_handshakes_are_noted_and_not_judged() {
    let mut proxy = Proxy::new();
    let mut server = proxy.server(443).await;
    proxy.world.name("example.org", &[PUBLIC]);
    proxy.set("s", full()).await;
    let mut client = proxy.tunnel("s", "example.org:443").await;
    let mut outside = server.accept().await;
    let words = hello(Some("example.net"), &[0xfe0d]);
    client.write_all(&words).await.unwrap();
    let mut got = vec![0; words.len()];
    outside.read_exact(&mut got).await.unwrap();
    drop((client, outside));
    let record = proxy.record().await;
    assert_eq!(record.verdict, ConnectionVerdict::Allowed);
    assert_eq!(record.sni.as_deref(), Some("example.net"));
    assert_eq!(record.bytes_up, words.len() as u64);
}

async fn raw(proxy: &mut Proxy) -> (UnixStream, tokio::net::TcpStream) {
    let mut server = proxy.server(9000).await;
    proxy.world.name("example.org", &[PUBLIC]);
    proxy.set("s", full()).await;
    let client = proxy.tunnel("s", "example.org:9000").await;
    (client, server.accept().await)
}

#[tokio::test]
async fn one_side_may_end_while_the_other_goes_on() {
    let mut proxy = Proxy::new();
    let (mut client, mut outside) = raw(&mut proxy).await;
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut outside).await, b"question");
    outside.write_all(b"answer").await.unwrap();
    assert_eq!(exactly(&mut client, 6).await, "answer");
    outside.write_all(b" and more").await.unwrap();
    drop(outside);
    assert_eq!(rest(&mut client).await, b" and more");
    let record = proxy.record().await;
    assert_eq!((record.bytes_up, record.bytes_down), (8, 15));
    let counters = proxy.server.counters("s").await.unwrap();
    assert_eq!(
        (counters.allowed, counters.bytes_up, counters.bytes_down),
        (1, 8, 15)
    );
}

#[tokio::test]
async fn much_flows_both_ways_at_once_and_arrives_as_it_was() {
    const SIZE: usize = 64 * 1024 * 1024;
    fn bytes(seed: u64) -> impl Iterator<Item = u8> {
        let mut state = seed;
        std::iter::repeat_with(move || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            state.to_be_bytes()[0]
        })
    }
    let mut proxy = Proxy::new();
    let (client, outside) = raw(&mut proxy).await;
    let (mut client_reader, mut client_writer) = client.into_split();
    let (mut outer_reader, mut outer_writer) = outside.into_split();
    let mut senders = tokio::task::JoinSet::new();
    let up: Vec<u8> = bytes(1).take(SIZE).collect();
    let down: Vec<u8> = bytes(2).take(SIZE).collect();
    let (up_sent, down_sent) = (up.clone(), down.clone());
    senders.spawn(async move { client_writer.write_all(&up_sent).await.unwrap() });
    senders.spawn(async move { outer_writer.write_all(&down_sent).await.unwrap() });
    let (got_down, got_up) = tokio::join!(rest(&mut client_reader), rest(&mut outer_reader));
    assert!(got_up == up && got_down == down);
    senders.join_all().await;
    let record = proxy.record().await;
    assert_eq!(
        (record.bytes_up, record.bytes_down),
        (SIZE as u64, SIZE as u64)
    );
}

#[tokio::test]
async fn a_client_that_opens_a_tunnel_and_says_nothing_is_given_up() {
    let mut proxy = Proxy::with(Timing {
        hello: Duration::from_millis(50),
        ..PATIENT
    });
    let mut server = proxy.server(443).await;
    proxy.world.name("example.org", &[PUBLIC]);
    proxy.set("s", limited(&["example.org"])).await;
    let mut client = proxy.tunnel("s", "example.org:443").await;
    client.write_all(&[22, 3]).await.unwrap();
    assert!(rest(&mut server.accept().await).await.is_empty());
    assert!(rest(&mut client).await.is_empty());
    assert_eq!(proxy.record().await.reason, Some(DenialReason::Limit));
}
