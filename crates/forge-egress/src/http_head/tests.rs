//! Which heads are served, and what becomes of them.

use super::*;

fn complete(text: &str) -> RequestHead {
    match parse(text.as_bytes()) {
        HeadProgress::Complete { head, consumed } => {
            assert_eq!(consumed, text.len());
            head
        }
        other => panic!("{text:?}: {other:?}"),
    }
}

fn refused(text: &[u8]) -> DenialReason {
    match parse(text) {
        HeadProgress::Refused(reason) => reason,
        other => panic!("{}: {other:?}", text.escape_ascii()),
    }
}

fn rewritten(text: &str) -> String {
    let head = complete(text);
    let (host, port) = match &head.target {
        RequestTarget::Absolute { host, port, .. } => (host.clone(), *port),
        _ => parse_authority(b"judged.example", Some(80)).unwrap(),
    };
    String::from_utf8(rewrite(&head, &host, port)).unwrap()
}

#[test]
fn the_three_forms_of_a_target_are_read() {
    let target = |text: &str| complete(&format!("{text} HTTP/1.1\r\nHost: x\r\n\r\n")).target;
    let name = |text: &str| parse_authority(text.as_bytes(), Some(80)).unwrap().0;
    assert_eq!(
        target("CONNECT A.example:443"),
        RequestTarget::Connect {
            host: name("a.example"),
            port: 443
        }
    );
    let absolute = |host: &str, port, path: &str| RequestTarget::Absolute {
        host: name(host),
        port,
        path: path.to_owned(),
    };
    assert_eq!(
        target("GET http://a.example"),
        absolute("a.example", 80, "/")
    );
    assert_eq!(
        target("GET HTTP://A.example.:81/b?c"),
        absolute("a.example", 81, "/b?c")
    );
    assert_eq!(
        target("GET http://a.example?q"),
        absolute("a.example", 80, "/?q")
    );
    assert_eq!(target("GET http://[::1]/"), absolute("[::1]", 80, "/"));
    assert_eq!(
        target("GET /b?c//"),
        RequestTarget::Origin {
            path: "/b?c//".to_owned()
        }
    );
}

#[test]
fn a_host_in_a_trick_form_is_told_as_such() {
    for line in [
        "CONNECT allowed.example@evil.example:443",
        "CONNECT allowed.example\u{fffd}:443",
        "CONNECT 0x7f.1:443",
        "GET http://allowed.example@evil.example/",
        "GET http://allowed.example:80@evil.example/",
        "GET http://allowed.example\\@evil.example/",
        "GET http://2130706433/",
        "GET http:///path",
        "GET http://",
    ] {
        let text = format!("{line} HTTP/1.1\r\nHost: allowed.example\r\n\r\n");
        assert_eq!(
            refused(text.as_bytes()),
            DenialReason::BadHostname,
            "{line}"
        );
    }
    assert_eq!(
        refused(b"CONNECT a.example HTTP/1.1\r\n\r\n"),
        DenialReason::Port
    );
    assert_eq!(
        refused(b"CONNECT a.example:0 HTTP/1.1\r\n\r\n"),
        DenialReason::Port
    );
    assert_eq!(
        refused(b"GET http://a.example:/ HTTP/1.1\r\n\r\n"),
        DenialReason::Port
    );
}

#[test]
fn request_lines_out_of_form_are_refused() {
    for line in [
        "",
        "GET",
        "GET /",
        "GET / HTTP/1.1 ",
        "GET  / HTTP/1.1",
        " GET / HTTP/1.1",
        "GET\t/\tHTTP/1.1",
        "GET /a\tb HTTP/1.1",
        "GET / HTTP/0.9",
        "GET / HTTP/2.0",
        "GET / HTTP/1.2",
        "GET / http/1.1",
        "GET / HTTP/1.1x",
        "G@T / HTTP/1.1",
        "GET * HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "GET a HTTP/1.1",
        "GET https://a.example/ HTTP/1.1",
        "GET ftp://a.example/ HTTP/1.1",
        "GET http:/a.example/ HTTP/1.1",
        "GET /a#b HTTP/1.1",
        "GET http://a.example#b HTTP/1.1",
        "GET /\u{fc} HTTP/1.1",
        "connect a.example:443 HTTP/1.1",
        "PRI * HTTP/2.0",
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA / HTTP/1.1",
    ] {
        let text = format!("{line}\r\nHost: a.example\r\n\r\n");
        assert_eq!(
            refused(text.as_bytes()),
            DenialReason::BadRequest,
            "{line:?}"
        );
    }
}

#[test]
fn heads_that_two_programs_could_read_differently_are_refused() {
    for headers in [
        "Host: a\r\nHost: a",
        "Host: a\r\nhost: b",
        "Host : a",
        "Host: a\r\n folded: b",
        "Host: a\r\n\tfolded",
        " Host: a",
        "Host: a\r\nno colon",
        "Host: a\r\n: no name",
        "Host: a\r\nX: \0",
        "Host: a\r\nX: \x7f",
        "Host: a\r\nX: \x1b[0m",
        "Host: a\nX: y",
        "Host: a\rX: y",
        "Host: a\r\r\nX: y",
        "Host: a\r\nContent-Length: 1\r\nContent-Length: 2",
        "Host: a\r\nContent-Length: 1\r\ncontent-length: 1",
        "Host: a\r\nContent-Length: 1, 1",
        "Host: a\r\nContent-Length: +1",
        "Host: a\r\nContent-Length: -1",
        "Host: a\r\nContent-Length: 0x1",
        "Host: a\r\nContent-Length: 1 1",
        "Host: a\r\nContent-Length:",
        "Host: a\r\nContent-Length: 99999999999999999999",
        "Host: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked",
        "Host: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Host: a\r\nTransfer-Encoding: gzip, chunked",
        "Host: a\r\nTransfer-Encoding: chunked, identity",
        "Host: a\r\nTransfer-Encoding: identity",
        "Host: a\r\nTransfer-Encoding: xchunked",
        "Host: a\r\nTransfer-Encoding: \x0bchunked",
        "Host: a\r\nTransfer-Encoding:",
        "X: no host",
    ] {
        let text = format!("GET / HTTP/1.1\r\n{headers}\r\n\r\n");
        assert_eq!(
            refused(text.as_bytes()),
            DenialReason::BadRequest,
            "{headers:?}"
        );
    }
    let old = b"GET / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(refused(old), DenialReason::BadRequest);
}

#[test]
fn a_tunnel_has_no_body() {
    for header in ["Content-Length: 1", "Transfer-Encoding: chunked"] {
        let text = format!("CONNECT a.example:443 HTTP/1.1\r\n{header}\r\n\r\n");
        assert_eq!(
            refused(text.as_bytes()),
            DenialReason::BadRequest,
            "{header}"
        );
    }
    let head = complete("CONNECT a.example:443 HTTP/1.1\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(head.body, Body::Length(0));
}

#[test]
fn the_end_of_a_body_is_known() {
    let body = |header: &str| complete(&format!("POST / HTTP/1.1\r\nHost: a\r\n{header}\r\n")).body;
    assert_eq!(body(""), Body::None);
    assert_eq!(body("Content-Length: 0\r\n"), Body::Length(0));
    assert_eq!(
        body("Content-Length:\t1234567890123 \r\n"),
        Body::Length(1_234_567_890_123)
    );
    assert_eq!(body("transfer-encoding: Chunked\r\n"), Body::Chunked);
}

#[test]
fn the_mode_is_what_forge_init_says_of_a_tunnel() {
    let mode = |line: &str| complete(&format!("CONNECT a.example:443 HTTP/1.1\r\n{line}\r\n")).mode;
    assert_eq!(mode(""), ConnectionMode::Connect);
    assert_eq!(
        mode("X-Swe-Forge-Mode: transparent\r\n"),
        ConnectionMode::Transparent
    );
    assert_eq!(mode("x-swe-forge-mode: socks\r\n"), ConnectionMode::Socks);
    for lines in ["connect", "", "socks\r\nX-Swe-Forge-Mode: socks"] {
        let text = format!("CONNECT a.example:443 HTTP/1.1\r\nX-Swe-Forge-Mode: {lines}\r\n\r\n");
        assert_eq!(refused(text.as_bytes()), DenialReason::BadRequest);
    }
    let head = complete("GET http://a.example/ HTTP/1.1\r\nX-Swe-Forge-Mode: socks\r\n\r\n");
    assert_eq!(head.mode, ConnectionMode::Http);
}

#[test]
fn a_client_says_whether_another_request_follows() {
    let keep = |version: &str, header: &str| {
        complete(&format!("GET / {version}\r\nHost: a\r\n{header}\r\n")).keep_alive
    };
    assert!(keep("HTTP/1.1", ""));
    assert!(keep("HTTP/1.1", "Connection: x, keep-alive\r\n"));
    assert!(!keep("HTTP/1.1", "Connection: x , Close\r\n"));
    assert!(!keep("HTTP/1.1", "Connection: x\r\nConnection: close\r\n"));
    assert!(!keep("HTTP/1.1", "Proxy-Connection: close\r\n"));
    assert!(!keep("HTTP/1.0", ""));
    assert!(keep("HTTP/1.0", "Connection: Keep-Alive\r\n"));
}

#[test]
fn the_server_gets_the_judged_host_and_nothing_that_is_for_the_proxy() {
    let text = "POST http://Judged.example.:8080/p?q HTTP/1.1\r\nHost: other.example\r\n\
        Proxy-Authorization: Basic eA==\r\nproxy-connection: keep-alive\r\nAccept: */*\r\n\
        Connection: Keep-Alive, X-Hop , upgrade\r\nX-Hop: 1\r\nx-hop: 2\r\nKeep-Alive: 5\r\n\
        TE: trailers\r\nUpgrade: websocket\r\nHTTP2-Settings: AA\r\nX-Swe-Forge-Mode: socks\r\n\
        X-Swe-Forge-Other: 1\r\nContent-Length: 007\r\nX-Kept: a\u{fc}b \r\n\r\n";
    assert_eq!(
        rewritten(text),
        "POST /p?q HTTP/1.1\r\nHost: judged.example:8080\r\nAccept: */*\r\nX-Kept: a\u{fc}b\r\n\
         Content-Length: 7\r\nConnection: close\r\n\r\n"
    );
    assert_eq!(
        rewritten("GET /p HTTP/1.0\r\nHost: other.example\r\n\r\n"),
        "GET /p HTTP/1.0\r\nHost: judged.example\r\nConnection: close\r\n\r\n"
    );
    assert_eq!(
        rewritten("PUT http://[2600::1]/ HTTP/1.1\r\nTransfer-Encoding: CHUNKED\r\n\r\n"),
        "PUT / HTTP/1.1\r\nHost: [2600::1]\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    );
    let tunnel = complete("CONNECT a.example:443 HTTP/1.1\r\n\r\n");
    let (host, port) = parse_authority(b"a.example:443", None).unwrap();
    assert!(rewrite(&tunnel, &host, port).is_empty());
}

#[test]
fn a_connection_header_cannot_remove_what_the_proxy_writes() {
    let text = "POST / HTTP/1.1\r\nHost: a\r\nConnection: host, content-length\r\n\
        Content-Length: 5\r\n\r\n";
    assert_eq!(
        rewritten(text),
        "POST / HTTP/1.1\r\nHost: judged.example\r\nContent-Length: 5\r\nConnection: close\r\n\r\n"
    );
}

#[test]
fn every_prefix_of_a_head_needs_more() {
    let text = "GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\nAccept: */*\r\n\r\n";
    for end in 0..text.len() {
        assert_eq!(
            parse(&text.as_bytes()[..end]),
            HeadProgress::NeedMore,
            "{end}"
        );
    }
    let with_body = format!("{text}\0\nbody");
    let HeadProgress::Complete { consumed, .. } = parse(with_body.as_bytes()) else {
        panic!("what follows a head is no concern of it");
    };
    assert_eq!(consumed, text.len());
}

#[test]
fn what_no_head_has_is_refused_as_soon_as_it_comes() {
    for text in [
        &b"\r\n"[..],
        b"\n",
        b" ",
        b"\0",
        b"GET / HTTP/1.1\n",
        b"GET / HTTP/1.1\rX",
        b"GET /\0",
        b"\x16\x03\x01",
        b"GET / HTTP/1.1\r\nHost: \x01",
    ] {
        assert_eq!(
            refused(text),
            DenialReason::BadRequest,
            "{}",
            text.escape_ascii()
        );
    }
}

#[test]
fn options_of_the_connection_are_bounded_however_they_are_spread() {
    for separator in [", ", ",,,", "\r\nConnection: "] {
        let naming = |count| {
            let options = vec!["x"; count].join(separator);
            format!("GET / HTTP/1.1\r\nHost: x\r\nConnection: {options}\r\n\r\n")
        };
        complete(&naming(MOST_OPTIONS));
        let reason = refused(naming(MOST_OPTIONS + 1).as_bytes());
        assert_eq!(reason, DenialReason::BadRequest, "{separator:?}");
    }
}

#[test]
fn bytes_and_lines_of_a_head_are_bounded() {
    let padded = |bytes: usize| {
        let start = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
        format!("{start}{}\r\n\r\n", "x".repeat(bytes - start.len() - 4))
    };
    assert_eq!(complete(&padded(MOST_BYTES)).headers.len(), 2);
    assert_eq!(
        refused(padded(MOST_BYTES + 1).as_bytes()),
        DenialReason::BadRequest
    );
    let endless = padded(MOST_BYTES + 100);
    assert_eq!(
        parse(&endless.as_bytes()[..MOST_BYTES - 1]),
        HeadProgress::NeedMore
    );
    assert_eq!(
        refused(&endless.as_bytes()[..MOST_BYTES]),
        DenialReason::BadRequest
    );
    let lines = |count: usize| {
        format!(
            "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
            "X: y\r\n".repeat(count)
        )
    };
    assert_eq!(
        complete(&lines(MOST_HEADERS - 1)).headers.len(),
        MOST_HEADERS
    );
    assert_eq!(
        refused(lines(MOST_HEADERS).as_bytes()),
        DenialReason::BadRequest
    );
}
