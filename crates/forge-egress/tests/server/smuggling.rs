//! Requests that a lenient server could take for something else than the proxy judged.

use forge_core::egress::{DenialReason, EgressPolicy};
use tokio::io::AsyncWriteExt;

use crate::support::*;

/// What the server at example.org hears of words in a tunnel to a port of it, and the reason for
/// which the tunnel was closed. The server closes as soon as it heard a head.
async fn heard(port: u16, policy: EgressPolicy, words: &[u8]) -> (String, Option<DenialReason>) {
    let mut proxy = Proxy::new();
    let mut server = proxy.server(port).await;
    proxy.world.name("example.org", &[PUBLIC]);
    proxy.set("s", policy).await;
    let mut client = proxy.tunnel("s", &format!("example.org:{port}")).await;
    client.write_all(words).await.unwrap();
    client.shutdown().await.unwrap();
    let mut outside = server.accept().await;
    let got = rest(&mut outside).await;
    drop(outside);
    rest(&mut client).await;
    let reason = proxy.record().await.reason;
    (got.escape_ascii().to_string(), reason)
}

/// First lines and headers that are not proper, each with a request for another host behind it.
const IMPROPER: [&[u8]; 36] = [
    // Other protocols and versions.
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET / HTTP/0.9\r\n\r\n",
    b"GET / HTTP/3\r\n\r\n",
    b"GET /\r\n",
    b"GET http://other.example/\r\n",
    b"CONNECT other.example:80 HTTP/1.1\r\nHost: other.example\r\n\r\n",
    b"CONNECT example.org:80 HTTP/1.1\r\nHost: example.org\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    // Another host in the target.
    b"GET http://other.example/ HTTP/1.1\r\nHost: example.org\r\n\r\n",
    b"GET http://example.org:81/ HTTP/1.1\r\nHost: example.org\r\n\r\n",
    b"GET http://example.org@other.example/ HTTP/1.1\r\nHost: example.org\r\n\r\n",
    b"GET http://example%2eorg/ HTTP/1.1\r\nHost: example.org\r\n\r\n",
    b"GET https://example.org/ HTTP/1.1\r\nHost: example.org\r\n\r\n",
    // Bytes that no request line has.
    b"GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /\x7f HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /\xc3\xbc HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /\x0bx HTTP/1.1\r\nHost: a\r\n\r\n",
    b"G\x01T / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\"GET\" / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n",
    b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA / HTTP/1.1\r\nHost: a\r\n\r\n",
    // Line ends.
    b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\nHost: a\n\n",
    b"GET / HTTP/1.1\rHost: a\r\r",
    b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
    // Headers.
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: other.example\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n other.example\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\0b\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    // Ends of bodies.
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\na",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
];

#[tokio::test]
async fn nothing_of_what_is_no_proper_request_reaches_a_server_of_plain_http() {
    let behind = b"GET / HTTP/1.1\r\nHost: other.example\r\n\r\n";
    for words in IMPROPER {
        let words = [words, behind].concat();
        for policy in [limited(&["example.org:80"]), full()] {
            let (got, reason) = heard(80, policy, &words).await;
            assert_eq!(got, "", "{}", words.escape_ascii());
            let is_told = matches!(
                reason,
                Some(DenialReason::BadRequest | DenialReason::BadHostname)
            );
            assert!(is_told, "{reason:?}: {}", words.escape_ascii());
        }
    }
}

#[tokio::test]
async fn nor_does_it_on_a_port_where_other_protocols_may_be_spoken() {
    let behind = b"GET / HTTP/1.1\r\nHost: other.example\r\n\r\n";
    for words in IMPROPER {
        let words = [words, behind].concat();
        let (got, reason) = heard(9000, limited(&["example.org:9000"]), &words).await;
        assert_eq!(got, "", "{}", words.escape_ascii());
        assert!(reason.is_some(), "{}", words.escape_ascii());
    }
}

#[tokio::test]
async fn a_request_that_begins_like_something_else_never_ends_at_the_server() {
    let line = b"GET / HTTP/1.1\r\nHost: other.example\r\n\r\n";
    let old = b"/\nHost: other.example\n\n";
    for (start, rest_of_it) in [
        (&b"\x0b"[..], &line[..]),
        (b"\x1c", line),
        (b"\x85\xa0\x85", line),
        (b"\0", line),
        (b"GET\x0c", &line[4..]),
        (b"GET\xa0", &line[4..]),
        (b"GET\x0c", old),
        (b"GET\xa0", old),
        (b"\xffPUT / HTT", &line[9..]),
    ] {
        let mut proxy = Proxy::new();
        let mut server = proxy.server(9000).await;
        proxy.world.name("example.org", &[PUBLIC]);
        proxy.set("s", limited(&["example.org:9000"])).await;
        let mut client = proxy.tunnel("s", "example.org:9000").await;
        let mut outside = server.accept().await;
        client.write_all(start).await.unwrap();
        // What could be binary flows, but not the line to its end.
        assert_eq!(bytes(&mut outside, start.len()).await, start);
        client.write_all(rest_of_it).await.unwrap();
        assert!(rest(&mut outside).await.is_empty());
        drop(outside);
        rest(&mut client).await;
        let reason = proxy.record().await.reason;
        assert_eq!(reason, Some(DenialReason::BadRequest), "{start:?}");
    }
}

#[tokio::test]
async fn what_is_binary_flows_as_it_comes_before_and_behind_the_answer() {
    let mut proxy = Proxy::new();
    let mut server = proxy.server(9000).await;
    proxy.world.name("example.org", &[PUBLIC]);
    proxy.set("s", limited(&["example.org:9000"])).await;
    let mut client = proxy.tunnel("s", "example.org:9000").await;
    let mut outside = server.accept().await;
    for words in [&b"\0\0\0\x08"[..], b"\x04\xd2\x16\x2f", &[1; 5000]] {
        client.write_all(words).await.unwrap();
        assert_eq!(bytes(&mut outside, words.len()).await, words);
    }
    outside.write_all(b"S").await.unwrap();
    exactly(&mut client, 1).await;
    // A server of HTTP would not have spoken.
    client.write_all(b"\x01 HTTP/1.1\n").await.unwrap();
    exactly(&mut outside, 11).await;
}

#[tokio::test]
async fn what_is_no_http_at_all_is_refused_on_its_port_with_a_reason() {
    for words in [
        &b"SSH-2.0-client\r\n"[..],
        b"\x16\x03\x01\0\x05hello",
        b"\0\0\0\x08",
        b"003agit-upload-pack /project.git\0host=example.org\0",
        b"EHLO example.org\r\n",
        b"\xff\xfe",
        b"<policy-file-request/>\0",
        b"half a line",
    ] {
        let (got, reason) = heard(80, limited(&["example.org:80"]), words).await;
        assert_eq!((got.as_str(), reason), ("", Some(DenialReason::BadRequest)));
    }
}

#[tokio::test]
async fn blank_lines_without_end_do_not_hide_a_request() {
    let blank = b"\r\n".repeat(8 * 1024 + 1);
    let words = [
        &blank,
        &b"GET / HTTP/1.1\r\nHost: other.example\r\n\r\n"[..],
    ]
    .concat();
    for (port, host) in [(80, "example.org:80"), (9000, "example.org:9000")] {
        let (got, reason) = heard(port, limited(&[host]), &words).await;
        assert_eq!((got.as_str(), reason), ("", Some(DenialReason::BadRequest)));
    }
}

#[tokio::test]
async fn a_wish_for_another_protocol_is_not_passed_on() {
    let mut proxy = Proxy::new();
    proxy.world.name("example.org", &[PUBLIC]);
    proxy.set("s", limited(&["example.org:80,9000"])).await;
    let line = "GET /chat HTTP/1.1\r\nHost: other.example\r\n";
    for wish in [
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
        "Upgrade: TLS/1.0\r\nConnection: upgrade\r\n",
    ] {
        for port in [80, 9000] {
            let mut server = proxy.server(port).await;
            let mut client = proxy.tunnel("s", &format!("example.org:{port}")).await;
            let request = format!("{line}{wish}\r\n");
            client.write_all(request.as_bytes()).await.unwrap();
            let mut outside = server.accept().await;
            let got = head(&mut outside).await.to_ascii_lowercase();
            assert!(
                got.starts_with("get /chat http/1.1\r\nhost: example.org"),
                "{got}"
            );
            assert!(got.contains("\r\nconnection: close\r\n"), "{got}");
            assert!(
                !got.contains("upgrade") && !got.contains("http2-settings"),
                "{got}"
            );
            // A server that changes the protocol all the same is not followed.
            let answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n";
            outside.write_all(answer).await.unwrap();
            let answer = rest_text(&mut client).await;
            assert_denied(&answer, 502, DenialReason::ConnectFailed);
            proxy.record().await;
        }
    }
}

#[tokio::test]
async fn headers_that_only_look_like_the_proxy_s_own_are_not_passed_on() {
    let words =
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer_Encoding: chunked\r\nContent_Length: 9\r\n\
        Proxy_Authorization: x\r\nTrailer: Host\r\nX-Kept: 1\r\nContent-Length: 1\r\n\r\nb";
    let mut proxy = Proxy::new();
    let mut server = proxy.server(80).await;
    proxy.world.name("example.org", &[PUBLIC]);
    proxy.set("s", limited(&["example.org:80"])).await;
    let mut client = proxy.tunnel("s", "example.org:80").await;
    client.write_all(words).await.unwrap();
    let mut outside = server.accept().await;
    let expected = "POST / HTTP/1.1\r\nHost: example.org\r\nX-Kept: 1\r\nContent-Length: 1\r\n\
        Connection: close\r\n\r\n";
    assert_eq!(head(&mut outside).await, expected);
    assert_eq!(exactly(&mut outside, 1).await, "b");
}

#[tokio::test]
async fn chunks_out_of_form_end_the_request_before_they_are_sent() {
    let line = "POST http://example.org/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for body in [
        "5;a=\"\n\"\r\nhello\r\n0\r\n\r\n",
        "5;a\0\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "-1\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "\n5\r\nhello\r\n0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
    ] {
        let mut proxy = Proxy::new();
        let mut server = proxy.server(80).await;
        proxy.world.name("example.org", &[PUBLIC]);
        proxy.set("s", limited(&["example.org:80"])).await;
        let mut client = proxy.request("s", &format!("{line}{body}")).await;
        let mut outside = server.accept().await;
        head(&mut outside).await;
        assert!(rest(&mut outside).await.is_empty(), "{body:?}");
        let answer = rest_text(&mut client).await;
        assert_denied(&answer, 400, DenialReason::BadRequest);
    }
}

#[tokio::test]
async fn a_long_chunk_arrives_whole_with_what_follows_it() {
    let mut proxy = Proxy::new();
    let mut server = proxy.server(80).await;
    proxy.world.name("example.org", &[PUBLIC]);
    proxy.set("s", limited(&["example.org:80"])).await;
    let long = "b".repeat(300_000);
    let body = format!(
        "{:x}\r\n{long}\r\n1;x\r\nc\r\n0\r\nHost: a\r\n\r\n",
        long.len()
    );
    let line = "GET http://example.org/ HTTP/1";
    // Once to a client that reads chunks, once to one that does not.
    for (version, is_chunked) in [(".1", true), (".0", false)] {
        let mut client = proxy
            .request("s", &format!("{line}{version}\r\nHost: a\r\n\r\n"))
            .await;
        let mut outside = server.accept().await;
        head(&mut outside).await;
        let answer = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        let sent = async {
            outside.write_all(answer.as_bytes()).await.unwrap();
            drop(outside);
        };
        let received = async {
            head(&mut client).await;
            let mut data = String::new();
            loop {
                if !is_chunked {
                    break rest_text(&mut client).await;
                }
                let mut size = String::new();
                while !size.ends_with("\r\n") {
                    size.push_str(&exactly(&mut client, 1).await);
                }
                let size = usize::from_str_radix(size.trim_end(), 16).unwrap();
                data.push_str(&exactly(&mut client, size).await);
                assert_eq!(exactly(&mut client, 2).await, "\r\n");
                if size == 0 {
                    break data;
                }
            }
        };
        let ((), received) = tokio::join!(sent, received);
        assert!(received == format!("{long}c"), "{}", received.len());
    }
}
