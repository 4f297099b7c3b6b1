//! What is said to the egress proxy, and what its answer to a request for a tunnel means.

use std::net::IpAddr;

use super::socks::Host;

/// Longest answer that is read; the proxy's own are far shorter.
pub(crate) const LONGEST: usize = 16 * 1024;

/// Told to a client of the HTTP proxy when the egress proxy cannot be reached.
pub(crate) const UNAVAILABLE: &str = "HTTP/1.1 502 Egress proxy unavailable\r\n\
    X-Swe-Forge-Egress: unavailable\r\n\
    Content-Type: text/plain; charset=utf-8\r\n\
    Content-Length: 81\r\n\
    Connection: close\r\n\
    \r\n\
    The egress proxy of this sandbox cannot be reached now; nothing else leads out.\r\n";

/// How a client came to ask for a tunnel; the egress proxy's log says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It knows of no proxy, and its connection was captured.
    Transparent,
    /// It asked over SOCKS.
    Socks,
}

/// The request for a tunnel.
pub(crate) fn connect(host: &Host, port: u16, mode: Mode) -> Vec<u8> {
    let authority = match host {
        Host::Name(name) => format!("{name}:{port}"),
        Host::Address(IpAddr::V4(address)) => format!("{address}:{port}"),
        Host::Address(IpAddr::V6(address)) => format!("[{address}]:{port}"),
    };
    let mode = match mode {
        Mode::Transparent => "transparent",
        Mode::Socks => "socks",
    };
    format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\nX-Swe-Forge-Mode: {mode}\r\n\r\n")
        .into_bytes()
}

/// How far an answer has come.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// More of it is needed.
    Partial,
    /// It is complete with this status, and so many bytes long.
    Whole(u16, usize),
    /// It is none.
    Malformed,
}

/// Reads the head of an answer, whose first `searched` bytes hold no end of it.
pub(crate) fn parse(bytes: &[u8], searched: usize) -> Parsed {
    const END: &[u8] = b"\r\n\r\n";
    let begin = searched.saturating_sub(END.len() - 1);
    let rest = bytes.get(begin..).unwrap_or(&[]);
    let Some(end) = rest.windows(END.len()).position(|window| window == END) else {
        return if bytes.len() >= LONGEST {
            Parsed::Malformed
        } else {
            Parsed::Partial
        };
    };
    match status(bytes) {
        Some(status) => Parsed::Whole(status, begin + end + END.len()),
        None => Parsed::Malformed,
    }
}

fn status(bytes: &[u8]) -> Option<u16> {
    let rest = bytes.strip_prefix(b"HTTP/1.")?;
    let [_minor, b' ', digits @ ..] = rest else {
        return None;
    };
    let digits = digits.first_chunk::<3>()?;
    let is_number = digits.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(digits).ok().filter(|_| is_number)?;
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_the_host_once_and_the_same_way() {
        let text = |host, mode| String::from_utf8(connect(&host, 443, mode)).unwrap();
        assert_eq!(
            text(Host::Name("example.org".into()), Mode::Transparent),
            "CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\
             X-Swe-Forge-Mode: transparent\r\n\r\n"
        );
        let six = Host::Address("2001:db8::1".parse().unwrap());
        assert!(text(six, Mode::Socks).starts_with("CONNECT [2001:db8::1]:443 HTTP/1.1\r\n"));
    }

    #[test]
    fn the_status_and_the_length_of_an_answer_are_found() {
        let good = b"HTTP/1.1 200 Connection established\r\nX: y\r\n\r\nearly";
        assert_eq!(parse(good, 0), Parsed::Whole(200, good.len() - 5));
        for length in 0..good.len() - 5 {
            assert_eq!(parse(&good[..length], 0), Parsed::Partial, "{length}");
            assert_eq!(parse(good, length), Parsed::Whole(200, good.len() - 5));
        }
        assert_eq!(parse(b"HTTP/1.1 403\r\n\r\n", 0), Parsed::Whole(403, 16));
        for bad in [
            &b"HTTP/2 200 OK\r\n\r\n"[..],
            b"HTTP/1.1 +20 x\r\n\r\n",
            b"nonsense\r\n\r\n",
        ] {
            assert_eq!(parse(bad, 0), Parsed::Malformed);
        }
        assert_eq!(parse(&[b'a'; LONGEST], 0), Parsed::Malformed);
    }

    #[test]
    fn the_length_of_the_fixed_answer_is_right() {
        let (head, body) = UNAVAILABLE.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}", body.len())));
    }
}
