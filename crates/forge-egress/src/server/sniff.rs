//! What a client that may speak anything begins to speak.

use crate::client_hello::{self, ClientHello, Progress};

/// The most bytes that are held back for a decision.
pub(crate) const MOST_BYTES: usize = client_hello::MOST_BYTES;
/// The longest method a request may begin with.
const MOST_METHOD: usize = 32;

/// What the first bytes of a client begin.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Speech {
    /// That cannot be said yet.
    Unclear,
    /// TLS.
    Tls(ClientHello),
    /// A handshake of TLS, but not in proper form.
    BrokenTls,
    /// A request of HTTP, or what some server would take for one.
    Http,
    /// Something else.
    Other,
}

/// Looks at the first bytes of a client, all that have come so far.
pub(crate) fn listen(bytes: &[u8]) -> Speech {
    match client_hello::parse(bytes) {
        Progress::Hello(hello) => return Speech::Tls(hello),
        Progress::Malformed => return Speech::BrokenTls,
        Progress::NeedMore if bytes.len() >= MOST_BYTES => return Speech::BrokenTls,
        Progress::NeedMore => return Speech::Unclear,
        Progress::NotTls => {}
    }
    // Servers skip empty lines before a request, and some skip other white space.
    let bytes = bytes.trim_ascii_start();
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or(bytes);
    let is_whole = line.len() < bytes.len();
    let method = line
        .iter()
        .position(|byte| !is_token(*byte))
        .unwrap_or(line.len());
    let begins = method <= MOST_METHOD
        && line
            .get(method)
            .is_none_or(|byte| matches!(byte, b' ' | b'\t' | b'\r'))
        && !line
            .iter()
            .any(|byte| byte.is_ascii_control() && !matches!(byte, b'\t' | b'\r'));
    if !begins {
        return Speech::Other;
    }
    if is_whole {
        let names_version = line
            .windows(5)
            .any(|part| part.eq_ignore_ascii_case(b"HTTP/"));
        return if names_version {
            Speech::Http
        } else {
            Speech::Other
        };
    }
    if bytes.len() >= MOST_BYTES {
        Speech::Http
    } else {
        Speech::Unclear
    }
}

const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_some_server_takes_for_a_request_is_one() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"\r\n\r\nGET / HTTP/1.1\r\n",
            b"get\t/\thttp/1.0\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"X-Y.Z /a b HTTP/1.1\r\n",
        ] {
            assert_eq!(listen(bytes), Speech::Http, "{bytes:?}");
        }
        let long = [&b"GET /"[..], &vec![b'a'; MOST_BYTES]].concat();
        assert_eq!(listen(&long), Speech::Http);
    }

    #[test]
    fn other_protocols_are_not_held_up() {
        for bytes in [
            &b"SSH-2.0-client\r\n"[..],
            b"\0\0\0\x08\x04\xd2\x16\x2f",
            b"*1\r\n$4\r\nPING\r\n",
            b"EHLO example.org\r\n",
            b"003agit-upload-pack /project.git\0host=example.org\0",
            b"AMQP\0\0\x09\x01",
        ] {
            assert_eq!(listen(bytes), Speech::Other, "{bytes:?}");
        }
    }

    #[test]
    fn half_a_line_is_not_decided_on() {
        assert_eq!(listen(b"GE"), Speech::Unclear);
        assert_eq!(listen(b"GET / HTT"), Speech::Unclear);
        assert_eq!(listen(b"\r\n"), Speech::Unclear);
        assert_eq!(listen(b"\x16\x03"), Speech::Unclear);
    }
}
