//! Heads of requests of any kind.

use forge_egress::http_head::{HeadProgress, MOST_BYTES, RequestTarget, parse, rewrite};
use forge_egress::names::{Host, HostName};
use proptest::prelude::*;

fn head_like() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        "(GET|POST|CONNECT|get) ",
        "(/|/a\\?b|http://a\\.example/c|a\\.example:443|http://b\\.example:81|\\*) ",
        "HTTP/1\\.[01]",
        Just("\r\n".to_owned()),
        Just("\r\n".to_owned()),
        "Host: (a\\.example|b)\r\n",
        "(Content-Length|content-length): [0-9 ,x+]{1,3}\r\n",
        "Transfer-Encoding: (chunked|gzip)\r\n",
        "Connection: (close|keep-alive|host|x)\r\n",
        "X-Swe-Forge-Mode: (socks|transparent|x)\r\n",
        "[ -~]{0,8}",
        "[\\x00-\\x20\\x7f]",
        "\\PC",
    ];
    prop::collection::vec(piece, 0..14).prop_map(|pieces| pieces.concat().into_bytes())
}

fn served() -> impl Strategy<Value = Vec<u8>> {
    let method = "(GET|HEAD|POST|PUT|M-SEARCH)";
    let target = "(http://[a-z]{1,9}\\.example(:[1-9][0-9]{0,3})?)?/[a-z?=/]{0,12}";
    let header = "(Accept|X-[A-Z][a-z]{0,5}|Connection|TE|Upgrade|Proxy-X): [a-z,/ ]{0,12}\r\n";
    let body = "(Content-Length: [0-9]{1,9}\r\n|Transfer-Encoding: chunked\r\n|)";
    (method, target, prop::collection::vec(header, 0..6), body).prop_map(
        |(method, target, headers, body)| {
            let headers = headers.concat();
            format!("{method} {target} HTTP/1.1\r\nHost: x.test\r\n{headers}{body}\r\n")
                .into_bytes()
        },
    )
}

fn fed(bytes: &[u8]) -> HeadProgress {
    (0..bytes.len())
        .map(|end| parse(&bytes[..end]))
        .find(|progress| *progress != HeadProgress::NeedMore)
        .unwrap_or_else(|| parse(bytes))
}

proptest! {
    #[test]
    fn any_bytes_are_judged_alike_in_one_piece_and_byte_by_byte(
        bytes in prop_oneof![prop::collection::vec(any::<u8>(), 0..200), head_like()],
    ) {
        prop_assert_eq!(fed(&bytes), parse(&bytes));
    }

    #[test]
    fn a_rewritten_head_names_the_judged_host_and_reads_the_same_again(bytes in prop_oneof![served(), head_like()]) {
        let HeadProgress::Complete { head, consumed } = parse(&bytes) else { return Ok(()) };
        prop_assert!(consumed <= MOST_BYTES);
        if matches!(head.target, RequestTarget::Connect { .. }) {
            return Ok(());
        }
        let judged = Host::Name(HostName::parse(b"judged.example").unwrap());
        let sent = rewrite(&head, &judged, 8080);
        let HeadProgress::Complete { head: again, consumed } = parse(&sent) else {
            panic!("{}", sent.escape_ascii());
        };
        prop_assert_eq!(consumed, sent.len());
        prop_assert_eq!(again.header("host"), Some(&b"judged.example:8080"[..]));
        let is_origin = matches!(again.target, RequestTarget::Origin { .. });
        prop_assert!(is_origin && !again.keep_alive);
        prop_assert_eq!(&again.method, &head.method);
        prop_assert_eq!(again.body, head.body);
        let for_proxy = again.headers.iter().any(|header| {
            let name = header.name.to_ascii_lowercase();
            name.starts_with("proxy-") || name.starts_with("x-swe-forge-") || name == "upgrade"
        });
        prop_assert!(!for_proxy);
        prop_assert_eq!(rewrite(&again, &judged, 8080), sent);
    }

    #[test]
    fn a_served_head_stays_served_whatever_follows(bytes in served(), tail in prop::collection::vec(any::<u8>(), 0..50)) {
        let HeadProgress::Complete { head, consumed } = parse(&bytes) else {
            panic!("{}", bytes.escape_ascii());
        };
        prop_assert_eq!(consumed, bytes.len());
        let followed = [bytes, tail].concat();
        prop_assert_eq!(parse(&followed), HeadProgress::Complete { head, consumed });
    }

    #[test]
    fn a_spoilt_head_is_judged_alike_however_it_comes(
        mut bytes in served(),
        spoils in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        for (index, byte) in spoils {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        prop_assert_eq!(fed(&bytes), parse(&bytes));
    }
}
