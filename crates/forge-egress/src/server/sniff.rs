//! What a client that may speak anything begins to speak.
//!
//! Ports that a task names, other than 80 and 443, carry any protocol. What begins a handshake of TLS
//! must name the host that was judged, and what begins a request of HTTP is read request by request,
//! as strictly as on port 80. The rest is raw: it flows unread, and what is judged then is the host,
//! its addresses and the port. Whoever names a port on a machine that serves other hosts by it, in a
//! protocol of its own, names these too.
//!
//! So that no request passes for raw, every first line that some server takes for one counts as a
//! request, proper or not, and what is not proper is refused. A line that may still become a proper
//! one is held back until it ends. Any other line flows as it comes, so that protocols without lines
//! are not held up, but is watched to its end and cut when it turns out to be a request: no server
//! acts on a line before that.

use crate::client_hello::{self, ClientHello, HANDSHAKE, Progress};
use crate::records::{ALERT, APPLICATION_DATA, CHANGE_CIPHER_SPEC};

/// The most bytes that are held back for a decision.
pub(crate) const MOST_BYTES: usize = client_hello::MOST_BYTES;
/// What a line with a version of HTTP has in it.
const VERSION: &[u8] = b"HTTP/";
/// The longest line that is watched, in bytes; 64 KiB is what the most patient servers read.
const MOST_LINE: usize = 65_537;
/// The only method of requests without a version (HTTP/0.9), which may still name another host.
const OLD_METHOD: [u8; 3] = *b"GET";
/// The type of a client's hello, in either form.
const CLIENT_HELLO: u8 = 1;
/// The fewest bytes that the content of a hello in the form of SSL 2.0 has.
const SHORTEST_OLD_HELLO: u8 = 9;
/// What stands behind the scheme of an address.
const SCHEME_END: &[u8] = b"://";
/// Services of the git protocol, whose first message looks like a request and has no line end.
const GIT_SERVICES: [&[u8]; 3] = [b"upload-pack", b"receive-pack", b"upload-archive"];

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
    /// A line that is no proper request so far and has not ended.
    Line(Line),
    /// Something else.
    Other,
}

/// What a line, or as much of it as has come, is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It has not ended.
    Open,
    /// A request of HTTP, whatever follows.
    Request,
    /// No request, to its end.
    Other,
}

/// Watches the first line of a client that is not empty, byte by byte.
///
/// Servers differ in what they take for space: some go by ASCII, some by Unicode, and some skip all
/// that cannot be seen. Here everything that is no visible ASCII separates words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Line {
    length: usize,
    place: Place,
    method: [u8; OLD_METHOD.len()],
    /// Bytes of the first word.
    method_length: usize,
    /// How much of [`VERSION`] the last bytes are.
    version: usize,
    /// How much of [`SCHEME_END`] the last bytes are.
    scheme: usize,
}

/// Where in a line one is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Blank,
    Method,
    Behind,
    Target,
}

impl Line {
    /// Goes on with the bytes that came. Once it is not [`Open`](Verdict::Open) it is decided.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Verdict {
        for byte in bytes {
            let verdict = self.step(*byte);
            if verdict != Verdict::Open {
                return verdict;
            }
        }
        Verdict::Open
    }

    fn step(&mut self, byte: u8) -> Verdict {
        self.length += 1;
        if self.length > MOST_LINE || (byte == b'\n' && self.place != Place::Blank) {
            return Verdict::Other;
        }
        self.version = matched(VERSION, self.version, byte.to_ascii_uppercase());
        self.scheme = matched(SCHEME_END, self.scheme, byte);
        let is_old =
            self.method_length == OLD_METHOD.len() && self.method.eq_ignore_ascii_case(&OLD_METHOD);
        let is_request = match (self.place, byte.is_ascii_graphic()) {
            (Place::Blank, false) => false,
            (Place::Blank | Place::Method, true) => {
                self.place = Place::Method;
                if let Some(place) = self.method.get_mut(self.method_length) {
                    *place = byte;
                }
                self.method_length += 1;
                false
            }
            (Place::Method | Place::Behind, false) => {
                self.place = Place::Behind;
                false
            }
            (Place::Behind, true) => {
                self.place = Place::Target;
                // In lower case it is a word of other protocols, too.
                is_old && (self.method == OLD_METHOD || byte == b'/')
            }
            (Place::Target, _) => is_old && self.scheme == SCHEME_END.len(),
        };
        if is_request || self.version == VERSION.len() {
            Verdict::Request
        } else {
            Verdict::Open
        }
    }
}

/// How much of `wanted`, in which no byte but the first begins it anew, the last bytes are.
fn matched(wanted: &[u8], before: usize, byte: u8) -> usize {
    if wanted.get(before) == Some(&byte) {
        before + 1
    } else {
        usize::from(wanted.first() == Some(&byte))
    }
}

/// Looks at the first bytes of a client, all that have come so far.
pub(crate) fn listen(bytes: &[u8]) -> Speech {
    let is_full = bytes.len() >= MOST_BYTES;
    match client_hello::parse(bytes) {
        Progress::Hello(hello) => return Speech::Tls(hello),
        Progress::Malformed => return Speech::BrokenTls,
        Progress::NeedMore if is_full => return Speech::BrokenTls,
        Progress::NeedMore => return Speech::Unclear,
        Progress::NotTls => match begins_odd_tls(bytes) {
            Some(true) => return Speech::BrokenTls,
            None => return Speech::Unclear,
            Some(false) => {}
        },
    }
    let mut line = Line::default();
    match line.feed(bytes) {
        Verdict::Request => Speech::Http,
        Verdict::Other => Speech::Other,
        // Servers skip empty lines before a request, and some skip other white space.
        Verdict::Open if !may_become_request(bytes.trim_ascii_start()) => Speech::Line(line),
        Verdict::Open if is_full => Speech::Http,
        Verdict::Open => Speech::Unclear,
    }
}

/// Whether bytes that begin no hello in proper form begin what some server takes for TLS all the
/// same, in which a hello may follow that nobody judged; nothing while that cannot be said.
fn begins_odd_tls(bytes: &[u8]) -> Option<bool> {
    match bytes {
        [CHANGE_CIPHER_SPEC..=APPLICATION_DATA] => None,
        [CHANGE_CIPHER_SPEC..=APPLICATION_DATA, 3, ..] => Some(true),
        // Some pass over the first byte of a version, too, where it is this low; over an alert
        // that is only a warning they go on to the next record.
        [HANDSHAKE, 0..=15, _, 0, 0, ..] => Some(true),
        [HANDSHAKE, 0..=15, rest @ ..] if rest.len() < 4 => None,
        [HANDSHAKE, 0..=15, _, _, _, CLIENT_HELLO, ..] => Some(true),
        [ALERT, 0..=15, rest @ ..] if rest.len() < 3 => None,
        [ALERT, 0..=15, _, 0, 2, ..] => Some(true),
        // A hello in the form of SSL 2.0: its length, its type, and a version of TLS.
        [0x80] => None,
        [0x80, 0..SHORTEST_OLD_HELLO, ..] => Some(false),
        [0x80..=0xff, rest @ ..]
            if rest.len() < 3 && rest.get(1).is_none_or(|kind| *kind == CLIENT_HELLO) =>
        {
            None
        }
        [0x80..=0xff, _, CLIENT_HELLO, 3, ..] => Some(true),
        _ => Some(false),
    }
}

/// As [`listen`], for a client that says no more.
pub(crate) fn heard_all(bytes: &[u8]) -> Speech {
    match listen(bytes) {
        Speech::Unclear if bytes.first() == Some(&HANDSHAKE) => Speech::BrokenTls,
        Speech::Unclear | Speech::Line(_) => Speech::Other,
        clear => clear,
    }
}

/// Whether a line whose end has not come may become a proper request, or nearly
/// so. Methods are tokens, though
/// some servers are content with any other visible bytes behind the first; targets are whatever
/// follows a space.
fn may_become_request(line: &[u8]) -> bool {
    let method = line
        .iter()
        .position(|byte| !byte.is_ascii_graphic())
        .unwrap_or(line.len());
    let starts = line.first().is_none_or(|first| is_token(*first));
    let goes_on = line
        .get(method)
        .is_none_or(|byte| matches!(byte, b' ' | b'\t' | b'\r'));
    starts && goes_on && !is_git(line)
}

/// Whether bytes are the request of the git protocol: a length of four digits, a service, a path,
/// and a zero byte before anything that lines end with.
fn is_git(bytes: &[u8]) -> bool {
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else {
        return false;
    };
    let Some(rest) = rest.strip_prefix(b"git-") else {
        return false;
    };
    let path = GIT_SERVICES
        .iter()
        .find_map(|service| rest.strip_prefix(*service)?.strip_prefix(b" /"));
    length.iter().all(u8::is_ascii_hexdigit)
        && path.is_some_and(|path| {
            let end = path.iter().position(u8::is_ascii_control);
            end.is_some_and(|end| path[end] == 0)
        })
}

const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_some_server_takes_for_a_request_is_one() {
        let long_method = format!("{} / HTTP/1.1\r\n", "A".repeat(200));
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"\r\n\r\nGET / HTTP/1.1\r\n",
            b" \x0c\tGET / HTTP/1.1\r\n",
            b"get\t/\thttp/1.0\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"X-Y.Z /a b HTTP/1.1\r\n",
            b"GET /\x01 HTTP/1.1\r\n",
            b"GET /\0 HTTP/1.1\r\n",
            b"FOO /\x01\x7f\xff HTTP/1.1\r\n",
            b"G\x01T / HTTP/1.1\r\n",
            b"G:T / HTTP/1.1\r\n",
            b"\"GET\" / HTTP/1.1\r\n",
            b"\0GET / HTTP/1.1\r\n",
            b"GET / HTTP/1.1\rHost: a\r",
            b"CONNECT other.example:443 HTTP/1.1\r\n",
            b"FOO / xHTTP/",
            b"GET /\r\n",
            b"GET /",
            b"GET  http://other.example/\n",
            b"GET ftp://other.example/\n",
            long_method.as_bytes(),
        ] {
            assert_eq!(listen(bytes), Speech::Http, "{}", bytes.escape_ascii());
        }
        for start in [&b"FOO /"[..], b"FOO", b"\n", b""] {
            let filler = if start.is_empty() { b'\r' } else { b'a' };
            let long = [start, &vec![filler; MOST_BYTES]].concat();
            assert_eq!(listen(&long), Speech::Http, "{}", start.escape_ascii());
        }
    }

    #[test]
    fn other_protocols_are_not_held_up() {
        for bytes in [
            &b"SSH-2.0-client\r\n"[..],
            b"*1\r\n$4\r\nPING\r\n",
            b"EHLO example.org\r\n",
            b"get key\r\n",
            b"CONNECT {\"verbose\":false}\r\n",
            b"CONNECT\naccept-version:1.2\n\n\0",
        ] {
            assert_eq!(listen(bytes), Speech::Other, "{}", bytes.escape_ascii());
        }
        for bytes in [
            &b"\0\0\0\x08\x04\xd2\x16\x2f"[..],
            b"003agit-upload-pack /project.git\0host=example.org\0",
            b"AMQP\0\0\x09\x01",
            b"0\x1d\x02\x01\x01",
            b"{\"id\":1}",
            b"<stream:stream to='example.org'>",
            b"\xff\0\0\0\0\0\0\0\x01\x7f",
            b"A\xff",
        ] {
            let speech = listen(bytes);
            let is_watched = matches!(speech, Speech::Line(_));
            assert!(is_watched, "{speech:?}: {}", bytes.escape_ascii());
        }
    }

    /// What a client is heard to speak that says its words in these pieces, with time between them.
    fn heard_in(pieces: &[&[u8]]) -> Verdict {
        let (first, rest) = pieces.split_first().unwrap();
        let mut ahead = first.to_vec();
        let mut watched = None;
        for piece in std::iter::once(&[][..]).chain(rest.iter().copied()) {
            if let Some(line) = &mut watched {
                match Line::feed(line, piece) {
                    Verdict::Open => continue,
                    verdict => return verdict,
                }
            }
            ahead.extend_from_slice(piece);
            match listen(&ahead) {
                Speech::Unclear => {}
                Speech::Line(line) => watched = Some(line),
                Speech::Http => return Verdict::Request,
                _ => return Verdict::Other,
            }
        }
        Verdict::Open
    }

    #[test]
    fn a_line_that_comes_in_pieces_is_what_it_is_in_one() {
        let rest = b"GET / HTTP/1.1\r\nHost: other.example\r\n\r\n";
        for start in [
            &b"\x0b"[..],
            b"\x1c",
            b"\x85",
            b"\xa0",
            b"\0",
            b"\x0b\n",
            b"\xc2\xa0",
        ] {
            assert_eq!(heard_in(&[start, rest]), Verdict::Request, "{start:?}");
        }
        for line in [
            &b"GET\x0c/\nHost: other.example\n\n"[..],
            b"GET\xa0/\nHost: other.example\n\n",
            b"GET\x0ckey\n",
            b"GET key\r\n",
            b"\x1cget\x85/\n",
            b"\x0b \nGET\x0c/ HTTP/1.1\n",
            b"\0\0\0\x08\x04\xd2\x16\x2f / http/1.1\n",
            b"\x85\x85POST\x1c/\x1cHTTP/1.1\r\n",
            b"003agit-upload-pack /\0 HTTP/1.1\n",
        ] {
            let one_by_one: Vec<&[u8]> = line.chunks(1).collect();
            assert_eq!(heard_in(&one_by_one), Verdict::Request, "{line:?}");
            for at in 1..line.len() {
                let (start, rest) = line.split_at(at);
                assert_eq!(heard_in(&[start, rest]), Verdict::Request, "{line:?} {at}");
            }
        }
        assert_eq!(heard_in(&[b"\x0bSSH", b"-2.0\n"]), Verdict::Other);
        let long = vec![0xff; MOST_LINE];
        assert_eq!(heard_in(&[b"\xff", &long]), Verdict::Other);
    }

    #[test]
    fn half_a_line_is_not_decided_on() {
        for bytes in [
            &b"GE"[..],
            b"FOO / HTT",
            b"FOO /\x01",
            b"FOO /\0\xff",
            b"FOO\r",
            b"G:T",
            b"G@",
            b"003agit-upload-pack /project\r",
            b"003agit-other /project.git\0host",
            b"zzzzgit-upload-pack /project.git\0host",
            b"\r\n",
            b"\x16\x03",
        ] {
            assert_eq!(listen(bytes), Speech::Unclear, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn what_some_server_takes_for_tls_is_no_other_protocol() {
        for bytes in [
            &b"\x16\x03\x7f\0\0"[..],
            b"\x16\x02\x01\x00\x80\x01",
            b"\x16\x0f\xff\x00\x80\x01",
            b"\x16\x02\x01\x00\x00\x16",
            b"\x15\x03\x01\x00\x02\x01\x00",
            b"\x15\x02\x01\x00\x02\x01\x00",
            b"\x14\x03\x03\x00\x01\x01",
            b"\x17\x03\x03\x00\x01\x00",
            b"\x80\x2e\x01\x03\x01\x00\x15",
            b"\x81\x00\x01\x03\x03",
            b"\xff\xff\x01\x03",
        ] {
            assert_eq!(listen(bytes), Speech::BrokenTls, "{bytes:02x?}");
            let mut starts = (1..=bytes.len()).map(|end| listen(&bytes[..end]));
            let decided = starts.find(|speech| *speech != Speech::Unclear);
            assert_eq!(decided, Some(Speech::BrokenTls), "{bytes:02x?}");
        }
        // Calls of other protocols: a packet, a fragment of a short call, a greeting, a telegram.
        for bytes in [
            &b"\x16\0\0\x01\x03\0"[..],
            b"\x16\x10",
            b"\x15\0\0\0\x01",
            b"\x80\x00\x01\x03",
            b"\x80\x00",
            b"\xff\xfd\x18",
            b"\x80\x01\x00",
            b"\x84\xa3\x01\x02",
        ] {
            let speech = listen(bytes);
            let is_watched = matches!(speech, Speech::Line(_));
            assert!(is_watched, "{speech:?}: {bytes:02x?}");
        }
        // Where that is all a client says, it is no TLS.
        for bytes in [&b"\x80"[..], b"\x15", b"\xff\xfd\x01"] {
            assert_eq!(listen(bytes), Speech::Unclear, "{bytes:02x?}");
            assert_eq!(heard_all(bytes), Speech::Other, "{bytes:02x?}");
        }
    }

    #[test]
    fn the_last_words_of_a_client_are_decided_on() {
        assert_eq!(heard_all(b"half a line"), Speech::Other);
        assert_eq!(heard_all(b""), Speech::Other);
        assert_eq!(heard_all(b"\x16\x03"), Speech::BrokenTls);
        assert_eq!(heard_all(b"GET /"), Speech::Http);
    }

    proptest! {
        /// However the bytes come, no request is taken for something else on the way.
        #[test]
        fn no_first_line_of_a_request_is_ever_other(
            blank in "[\r\n]{0,4}",
            method in "[!#-'*+.0-9A-Z^-z|~-][!-~]{0,40}",
            target in prop::collection::vec(any::<u8>().prop_filter("a line end", |byte| *byte != b'\n'), 0..40),
            cut in any::<prop::sample::Index>(),
        ) {
            let line = [blank.as_bytes(), method.as_bytes(), b" ", &target, b" HTTP/1.1\r\n"].concat();
            prop_assert_eq!(listen(&line), Speech::Http);
            let part = &line[..cut.index(line.len())];
            prop_assume!(!is_git(part.trim_ascii_start()));
            prop_assert_ne!(listen(part), Speech::Other, "{}", part.escape_ascii());
        }

        /// Neither is one whose words are separated in any way, and that begins in any way.
        #[test]
        fn no_line_with_a_version_is_ever_let_through(
            words in prop::collection::vec(any::<u8>().prop_filter("a line end", |byte| *byte != b'\n'), 0..60),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        ) {
            let line = [&words, &b" HTTP/1.1\n"[..]].concat();
            prop_assume!(listen(&line) != Speech::BrokenTls);
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(line.len())).collect();
            cuts.extend([0, line.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|two| &line[two[0]..two[1]]).collect();
            prop_assert_eq!(heard_in(&pieces), Verdict::Request);
        }
    }
}
