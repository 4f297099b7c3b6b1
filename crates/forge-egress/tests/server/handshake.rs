//! Hellos that follow the first one, by which a server would go.

use forge_core::egress::DenialReason;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};

use crate::support::*;

/// What a client sends when it changes no cipher.
const CHANGE: [u8; 6] = [20, 3, 3, 0, 1, 1];

/// A tunnel to a port of example.org in which the server has heard a first hello.
async fn first(port: u16) -> (Proxy, UnixStream, TcpStream) {
    let mut proxy = Proxy::new();
    let mut server = proxy.server(port).await;
    proxy.world.name("example.org", &[PUBLIC]);
    proxy.set("s", limited(&["example.org:443,9000"])).await;
    let mut client = proxy.tunnel("s", &format!("example.org:{port}")).await;
    let words = hello(Some("example.org"), &[]);
    client.write_all(&words).await.unwrap();
    let mut outside = server.accept().await;
    assert_eq!(bytes(&mut outside, words.len()).await, words);
    (proxy, client, outside)
}

/// As [`first`], and the client has heard that the server wants another hello.
async fn asked_again(port: u16) -> (Proxy, UnixStream, TcpStream) {
    let (proxy, mut client, mut outside) = first(port).await;
    outside.write_all(&answer(RETRY)).await.unwrap();
    assert_eq!(bytes(&mut client, answer(RETRY).len()).await, answer(RETRY));
    (proxy, client, outside)
}

/// Cuts the content of one record into records of a byte each.
fn cut(record: &[u8]) -> Vec<u8> {
    let each = record[5..].iter();
    each.flat_map(|byte| [22, 3, 3, 0, 1, *byte]).collect()
}

#[tokio::test]
async fn a_second_hello_for_another_host_never_reaches_the_server() {
    let other = || hello(Some("example.net"), &[]);
    let cases = [
        (other(), DenialReason::SniMismatch),
        (cut(&other()), DenialReason::SniMismatch),
        ([&CHANGE[..], &other()].concat(), DenialReason::SniMismatch),
        (hello(None, &[]), DenialReason::SniMismatch),
        (hello(Some("example.org"), &[0xfe0d]), DenialReason::Ech),
        ([CHANGE, CHANGE].concat(), DenialReason::NotTls),
        (vec![22, 3, 3, 0, 4, 11, 0, 0, 0], DenialReason::NotTls),
        (vec![22, 254, 253, 0, 0], DenialReason::NotTls),
        (vec![23, 3, 3, 0, 1, 9], DenialReason::NotTls),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), DenialReason::NotTls),
    ];
    for port in [443, 9000] {
        for (words, reason) in &cases {
            for pause in [words.len(), 1] {
                let (proxy, mut client, mut outside) = asked_again(port).await;
                for piece in words.chunks(pause) {
                    // The proxy may have closed it by then.
                    drop(client.write_all(piece).await);
                    tokio::task::yield_now().await;
                }
                let got = rest(&mut outside).await;
                assert!(got.is_empty() || got == CHANGE, "{got:?}");
                drop(outside);
                rest(&mut client).await;
                assert_eq!(proxy.record().await.reason, Some(*reason), "{words:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_second_hello_for_the_same_host_flows_and_all_that_follows() {
    for port in [443, 9000] {
        for words in [
            hello(Some("example.org"), &[]),
            cut(&hello(Some("EXAMPLE.org"), &[])),
        ] {
            let (proxy, mut client, mut outside) = asked_again(port).await;
            outside.write_all(&CHANGE).await.unwrap();
            client.write_all(&CHANGE).await.unwrap();
            client.write_all(&words).await.unwrap();
            assert_eq!(bytes(&mut outside, CHANGE.len()).await, CHANGE);
            assert_eq!(bytes(&mut outside, words.len()).await, words);
            let last = answer([7; 32]);
            outside.write_all(&last).await.unwrap();
            assert_eq!(bytes(&mut client, CHANGE.len()).await, CHANGE);
            assert_eq!(bytes(&mut client, last.len()).await, last);
            client.write_all(b"anything").await.unwrap();
            assert_eq!(exactly(&mut outside, 8).await, "anything");
            outside.write_all(b"at all").await.unwrap();
            drop(outside);
            assert_eq!(rest(&mut client).await, b"at all");
            drop(client);
            assert_eq!(proxy.record().await.reason, None);
        }
    }
}

#[tokio::test]
async fn nothing_of_a_handshake_may_come_before_the_answer() {
    for name in ["example.org", "example.net"] {
        let (proxy, mut client, mut outside) = first(443).await;
        client.write_all(&hello(Some(name), &[])).await.unwrap();
        assert!(rest(&mut outside).await.is_empty());
        drop(outside);
        rest(&mut client).await;
        assert_eq!(proxy.record().await.reason, Some(DenialReason::NotTls));
    }
}

#[tokio::test]
async fn a_server_that_asks_twice_or_speaks_no_tls_is_closed() {
    let (proxy, mut client, mut outside) = asked_again(443).await;
    let words = hello(Some("example.org"), &[]);
    client.write_all(&words).await.unwrap();
    bytes(&mut outside, words.len()).await;
    outside.write_all(&answer(RETRY)).await.unwrap();
    rest(&mut client).await;
    assert_eq!(proxy.record().await.reason, Some(DenialReason::NotTls));
    for words in [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        &[22, 3, 3, 0, 4, 0, 0, 0, 0],
        &[23, 3, 3, 0, 1, 9],
    ] {
        let (proxy, mut client, mut outside) = first(443).await;
        outside.write_all(words).await.unwrap();
        assert!(rest(&mut client).await.is_empty());
        assert_eq!(proxy.record().await.reason, Some(DenialReason::NotTls));
    }
}

#[tokio::test]
async fn alerts_reach_whoever_they_are_for() {
    let alert = [21, 3, 3, 0, 2, 2, 40];
    let (proxy, mut client, mut outside) = first(443).await;
    outside.write_all(&alert).await.unwrap();
    drop(outside);
    assert_eq!(rest(&mut client).await, alert);
    assert_eq!(proxy.record().await.reason, None);

    let (proxy, mut client, mut outside) = asked_again(443).await;
    client.write_all(&alert).await.unwrap();
    assert_eq!(rest(&mut outside).await, alert);
    assert_eq!(proxy.record().await.reason, None);
}
