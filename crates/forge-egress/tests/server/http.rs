//! Plain HTTP, request by request.

use forge_core::connection::{ConnectionMode, ConnectionVerdict};
use forge_core::egress::DenialReason;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};

use crate::support::*;

async fn proxy_with_server() -> (Proxy, Outer) {
    let mut proxy = Proxy::new();
    let server = proxy.server(80).await;
    proxy.world.name("example.org", &[PUBLIC]);
    proxy.world.name("other.example.org", &[PUBLIC]);
    proxy
        .set("s", limited(&["example.org:80", "other.example.org:80"]))
        .await;
    (proxy, server)
}

async fn write(stream: &mut (impl AsyncWriteExt + Unpin), text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
}

/// A request on a connection, its head as the server sees it, and the server's end.
async fn ask(server: &mut Outer, client: &mut UnixStream, request: &str) -> (String, TcpStream) {
    write(client, request).await;
    let mut outside = server.accept().await;
    (head(&mut outside).await, outside)
}

const GET: &str = "GET http://example.org/path?a=b HTTP/1.1\r\nHost: example.net\r\n\
                   Proxy-Authorization: x\r\nX-Kept: 1\r\n\r\n";

#[tokio::test]
async fn a_request_is_written_anew_for_the_host_that_was_judged() {
    let (proxy, mut server) = proxy_with_server().await;
    let mut client = proxy.connect("s").await;
    let (got, mut outside) = ask(&mut server, &mut client, GET).await;
    assert_eq!(
        got,
        "GET /path?a=b HTTP/1.1\r\nHost: example.org\r\nX-Kept: 1\r\nConnection: close\r\n\r\n"
    );
    write(
        &mut outside,
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    )
    .await;
    assert!(
        head(&mut client)
            .await
            .contains("\r\nConnection: keep-alive\r\n")
    );
    assert_eq!(exactly(&mut client, 5).await, "hello");
    let record = proxy.record().await;
    assert_eq!(record.verdict, ConnectionVerdict::Allowed);
    assert_eq!(record.mode, ConnectionMode::Http);
    assert_eq!((record.host.as_str(), record.port), ("example.org", 80));
    assert_eq!(record.bytes_up, got.len() as u64);
}

#[tokio::test]
async fn every_request_on_a_connection_is_judged() {
    let (proxy, mut server) = proxy_with_server().await;
    let mut client = proxy.connect("s").await;
    for host in ["example.org", "other.example.org"] {
        let request = format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let (got, mut outside) = ask(&mut server, &mut client, &request).await;
        assert!(got.contains(&format!("\r\nHost: {host}\r\n")));
        write(&mut outside, "HTTP/1.1 204 No Content\r\n\r\n").await;
        head(&mut client).await;
        assert_eq!(proxy.record().await.host, host);
    }
    write(
        &mut client,
        "GET http://example.net/ HTTP/1.1\r\nHost: example.org\r\n\r\n",
    )
    .await;
    let answer = rest_text(&mut client).await;
    assert_denied(&answer, 403, DenialReason::NotOnAllowlist);
    assert_eq!(proxy.record().await.host, "example.net");
}

#[tokio::test]
async fn a_policy_that_changed_between_two_requests_holds_for_the_second() {
    let (proxy, mut server) = proxy_with_server().await;
    let mut client = proxy.connect("s").await;
    let (_, mut outside) = ask(&mut server, &mut client, GET).await;
    write(&mut outside, "HTTP/1.1 204 No Content\r\n\r\n").await;
    head(&mut client).await;
    proxy.record().await;
    proxy.set("s", limited(&["other.example.org:80"])).await;
    write(&mut client, GET).await;
    assert_denied(
        &rest_text(&mut client).await,
        403,
        DenialReason::NotOnAllowlist,
    );
}

#[tokio::test]
async fn requests_that_are_sent_ahead_are_answered_one_by_one() {
    let (proxy, mut server) = proxy_with_server().await;
    let mut client = proxy.request("s", &GET.repeat(3)).await;
    for number in 0..3 {
        let mut outside = server.accept().await;
        let got = head(&mut outside).await;
        assert!(got.starts_with("GET /path"));
        write(
            &mut outside,
            &format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{number}"),
        )
        .await;
        drop(outside);
    }
    for number in 0..3 {
        head(&mut client).await;
        assert_eq!(exactly(&mut client, 1).await, number.to_string());
    }
}

#[tokio::test]
async fn bodies_in_chunks_are_passed_both_ways_without_what_hides_in_them() {
    let (proxy, mut server) = proxy_with_server().await;
    let mut client = proxy.connect("s").await;
    let request = "POST http://example.org/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
                   5;x=y\r\nhello\r\n1\r\n!\r\n0\r\nTrailer: 1\r\n\r\n";
    let (got, mut outside) = ask(&mut server, &mut client, request).await;
    assert!(got.contains("\r\nTransfer-Encoding: chunked\r\n"));
    assert_eq!(
        exactly(&mut outside, 21).await,
        "5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n"
    );
    write(
        &mut outside,
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    )
    .await;
    head(&mut client).await;
    assert_eq!(exactly(&mut client, 13).await, "3\r\nabc\r\n0\r\n\r\n");

    let old = "GET http://example.org/ HTTP/1.0\r\n\r\n";
    let (_, mut outside) = ask(&mut server, &mut client, old).await;
    write(
        &mut outside,
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    )
    .await;
    let answer = rest_text(&mut client).await;
    assert!(
        answer.ends_with("\r\nConnection: close\r\n\r\nabc"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_body_that_smuggles_is_refused_and_a_second_request_in_it_is_body() {
    let (proxy, mut server) = proxy_with_server().await;
    let inner = "GET http://example.net/ HTTP/1.1\r\n\r\n";
    let request = format!(
        "POST http://example.org/ HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{inner}",
        inner.len()
    );
    let mut client = proxy.connect("s").await;
    let (_, mut outside) = ask(&mut server, &mut client, &request).await;
    assert_eq!(exactly(&mut outside, inner.len()).await, inner);
    write(&mut outside, "HTTP/1.1 204 No Content\r\n\r\n").await;
    head(&mut client).await;
    proxy.record().await;

    let broken = "POST http://example.org/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
                  5\nhello\r\n0\r\n\r\n";
    let (_, mut outside) = ask(&mut server, &mut client, broken).await;
    assert_denied(&rest_text(&mut client).await, 400, DenialReason::BadRequest);
    assert!(rest(&mut outside).await.is_empty());
}

#[tokio::test]
async fn answers_end_as_their_method_and_status_say() {
    let (proxy, mut server) = proxy_with_server().await;
    let mut client = proxy.connect("s").await;
    let request = "HEAD http://example.org/ HTTP/1.1\r\nHost: a\r\n\r\n";
    let (_, mut outside) = ask(&mut server, &mut client, request).await;
    write(
        &mut outside,
        "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
    )
    .await;
    assert!(
        head(&mut client)
            .await
            .contains("\r\nContent-Length: 1000\r\n")
    );

    let (_, mut outside) = ask(&mut server, &mut client, GET).await;
    write(
        &mut outside,
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
    )
    .await;
    head(&mut client).await;

    let (_, mut outside) = ask(&mut server, &mut client, GET).await;
    write(&mut outside, "HTTP/1.0 200 OK\r\n\r\nuntil the end").await;
    drop(outside);
    let answer = rest_text(&mut client).await;
    assert!(
        answer.ends_with("\r\nConnection: close\r\n\r\nuntil the end"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_client_that_waits_for_leave_to_send_gets_it() {
    let (proxy, mut server) = proxy_with_server().await;
    let mut client = proxy.connect("s").await;
    let request = "PUT http://example.org/ HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\
                   Expect: 100-continue\r\n\r\n";
    let (_, mut outside) = ask(&mut server, &mut client, request).await;
    write(&mut outside, "HTTP/1.1 100 Continue\r\n\r\n").await;
    assert_eq!(head(&mut client).await, "HTTP/1.1 100 Continue\r\n\r\n");
    write(&mut client, "body").await;
    assert_eq!(exactly(&mut outside, 4).await, "body");
    // Both heads at once.
    write(
        &mut outside,
        "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n",
    )
    .await;
    assert!(head(&mut client).await.starts_with("HTTP/1.1 102 "));
    assert!(head(&mut client).await.starts_with("HTTP/1.1 201 "));
}

#[tokio::test]
async fn a_server_may_answer_before_it_has_the_whole_body() {
    let (proxy, mut server) = proxy_with_server().await;
    let mut client = proxy.connect("s").await;
    let request = "PUT http://example.org/ HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nx";
    let (_, mut outside) = ask(&mut server, &mut client, request).await;
    write(
        &mut outside,
        "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno",
    )
    .await;
    let answer = rest_text(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 413 Too Large\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nno"), "{answer}");
}

#[tokio::test]
async fn a_server_that_answers_in_no_known_form_is_an_error_of_the_way() {
    let (proxy, mut server) = proxy_with_server().await;
    for words in [
        "",
        "SSH-2.0-server\r\n",
        "HTTP/1.1 101 Switching Protocols\r\n\r\n",
    ] {
        let mut client = proxy.connect("s").await;
        let (_, mut outside) = ask(&mut server, &mut client, GET).await;
        write(&mut outside, words).await;
        drop(outside);
        assert_denied(
            &rest_text(&mut client).await,
            502,
            DenialReason::ConnectFailed,
        );
        assert_eq!(
            proxy.record().await.reason,
            Some(DenialReason::ConnectFailed)
        );
    }
}

#[tokio::test]
async fn requests_in_a_captured_connection_go_to_its_host_whatever_they_say() {
    let (proxy, mut server) = proxy_with_server().await;
    let request = "CONNECT example.org:80 HTTP/1.1\r\nX-Swe-Forge-Mode: transparent\r\n\r\n";
    let mut client = proxy.request("s", request).await;
    head(&mut client).await;
    for number in 0..2 {
        let request = "GET /a HTTP/1.1\r\nHost: other.example.org\r\n\r\n";
        let (got, mut outside) = ask(&mut server, &mut client, request).await;
        assert!(
            got.starts_with("GET /a HTTP/1.1\r\nHost: example.org\r\n"),
            "{got}"
        );
        write(
            &mut outside,
            &format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{number}"),
        )
        .await;
        head(&mut client).await;
        assert_eq!(exactly(&mut client, 1).await, number.to_string());
        let record = proxy.record().await;
        assert_eq!(record.mode, ConnectionMode::Transparent);
    }
    write(
        &mut client,
        "GET http://other.example.org/ HTTP/1.1\r\nHost: a\r\n\r\n",
    )
    .await;
    assert_denied(&rest_text(&mut client).await, 400, DenialReason::BadRequest);
}

#[tokio::test]
async fn what_is_no_http_is_not_passed_on_where_http_is_spoken() {
    let (proxy, mut server) = proxy_with_server().await;
    for words in [
        "SSH-2.0-client\r\n\r\n",
        "\u{16}\u{3}\u{1}",
        &connect("example.org:80"),
    ] {
        let mut client = proxy.tunnel("s", "example.org:80").await;
        write(&mut client, words).await;
        assert_denied(&rest_text(&mut client).await, 400, DenialReason::BadRequest);
        assert!(rest(&mut server.accept().await).await.is_empty());
        assert_eq!(proxy.record().await.reason, Some(DenialReason::BadRequest));
    }
}

#[tokio::test]
async fn a_bound_on_bytes_holds_for_requests_too() {
    let (proxy, mut server) = proxy_with_server().await;
    let mut policy = limited(&["example.org:80"]);
    policy.limits.upload_bytes = 200;
    proxy.set("s", policy).await;
    let head = "PUT http://example.org/ HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n";
    let mut client = proxy
        .request("s", &format!("{head}{}", "x".repeat(1000)))
        .await;
    let mut outside = server.accept().await;
    assert_denied(&rest_text(&mut client).await, 429, DenialReason::Limit);
    assert_eq!(rest(&mut outside).await.len(), 200);
}
