//! Heads of answers of HTTP, as far as they say where an answer ends.

use std::io::Write as _;

use crate::http_head::{MOST_OPTIONS, Version};
use crate::server::body::{Form, Framing};

/// The longest head of an answer, in bytes.
pub(crate) const MOST_BYTES: usize = 32 * 1024;
const MOST_HEADERS: usize = 256;

/// Headers that are for one connection only, and the one that is the proxy's own word.
const NOT_PASSED: [&str; 10] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-swe-forge-egress",
];

/// The head of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    phrase: String,
    headers: Vec<(String, Vec<u8>)>,
    /// How its body ends.
    pub(crate) framing: Framing,
}

/// What can be said of the first bytes of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    NeedMore,
    Complete { answer: Answer, consumed: usize },
    Malformed,
}

/// Looks at the first bytes of an answer to a request of `method`, all that have come so far.
pub(crate) fn parse(bytes: &[u8], method: &str) -> Progress {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut parsed = httparse::Response::new(&mut headers);
    let consumed = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(consumed)) => consumed,
        Ok(httparse::Status::Partial) if bytes.len() < MOST_BYTES => return Progress::NeedMore,
        Ok(httparse::Status::Partial) | Err(_) => return Progress::Malformed,
    };
    let status = parsed.code.unwrap_or_default();
    // An upgrade is never asked for.
    if !(100..=999).contains(&status) || status == 101 {
        return Progress::Malformed;
    }
    let headers: Vec<(String, Vec<u8>)> = parsed
        .headers
        .iter()
        .map(|header| (header.name.to_owned(), header.value.to_vec()))
        .collect();
    if options(&headers).nth(MOST_OPTIONS).is_some() {
        return Progress::Malformed;
    }
    let Some(framing) = framing(status, method, &headers) else {
        return Progress::Malformed;
    };
    Progress::Complete {
        answer: Answer {
            status,
            phrase: parsed.reason.unwrap_or_default().to_owned(),
            headers,
            framing,
        },
        consumed,
    }
}

/// As RFC 9112, section 6.3; nothing when lengths contradict one another.
fn framing(status: u16, method: &str, headers: &[(String, Vec<u8>)]) -> Option<Framing> {
    if method == "HEAD" || matches!(status, 100..=199 | 204 | 304) {
        return Some(Framing::None);
    }
    let all = |name: &'static str| {
        headers
            .iter()
            .filter(move |(header, _)| header.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_slice())
    };
    let codings: Vec<&[u8]> = all("transfer-encoding").collect();
    match codings.as_slice() {
        [] => {}
        [coding] if coding.trim_ascii().eq_ignore_ascii_case(b"chunked") => {
            return Some(Framing::Chunked);
        }
        _ => return Some(Framing::Rest),
    }
    let lengths = all("content-length").flat_map(|value| value.split(|byte| *byte == b','));
    let mut found = None;
    for length in lengths {
        let digits = std::str::from_utf8(length.trim_ascii()).ok()?;
        if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
            return None;
        }
        let length: u64 = digits.parse().ok()?;
        if found.is_some_and(|found| found != length) {
            return None;
        }
        found = Some(length);
    }
    Some(match found {
        Some(0) => Framing::None,
        Some(length) => Framing::Length(length),
        None => Framing::Rest,
    })
}

/// The options of the connection that an answer names.
fn options(headers: &[(String, Vec<u8>)]) -> impl Iterator<Item = &[u8]> {
    headers
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case("connection"))
        .flat_map(|(_, value)| value.split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|option| !option.is_empty())
}

impl Answer {
    pub(crate) const fn is_interim(&self) -> bool {
        self.status < 200
    }

    /// How the body goes on to a client of this version.
    pub(crate) fn form(&self, version: Version) -> Form {
        if self.framing == Framing::Chunked && version == Version::Http11 {
            Form::Chunks
        } else {
            Form::Plain
        }
    }

    /// Whether a client of this version finds the end of the body without an end of the connection.
    pub(crate) fn is_delimited(&self, version: Version) -> bool {
        match self.framing {
            Framing::None | Framing::Length(_) => true,
            Framing::Chunked => version == Version::Http11,
            Framing::Rest => false,
        }
    }

    /// The head to pass to a client of this version.
    pub(crate) fn render(&self, version: Version, keep_alive: bool) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status, self.phrase).into_bytes();
        let named: Vec<&[u8]> = options(&self.headers).collect();
        for (name, value) in &self.headers {
            let is_named = named
                .iter()
                .any(|each| each.eq_ignore_ascii_case(name.as_bytes()));
            let is_length = name.eq_ignore_ascii_case("content-length");
            let is_void = is_length && matches!(self.framing, Framing::Chunked | Framing::Rest);
            let is_ours = NOT_PASSED
                .iter()
                .any(|each| name.eq_ignore_ascii_case(each));
            if is_void || is_ours || (is_named && !is_length) {
                continue;
            }
            head.extend_from_slice(name.as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value);
            head.extend_from_slice(b"\r\n");
        }
        if !self.is_interim() {
            if self.form(version) == Form::Chunks {
                head.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
            }
            let connection = if keep_alive { "keep-alive" } else { "close" };
            // Writing to a vector does not fail.
            drop(write!(head, "Connection: {connection}\r\n"));
        }
        head.extend_from_slice(b"\r\n");
        head
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answer(text: &str, method: &str) -> Option<Answer> {
        match parse(text.as_bytes(), method) {
            Progress::Complete { answer, consumed } => {
                assert_eq!(consumed, text.len());
                Some(answer)
            }
            _ => None,
        }
    }

    #[test]
    fn the_end_of_a_body_is_known_by_the_rules() {
        let framing = |text: &str| answer(text, "GET").map(|answer| answer.framing);
        let ok = "HTTP/1.1 200 OK\r\n";
        assert_eq!(framing(&format!("{ok}\r\n")), Some(Framing::Rest));
        assert_eq!(
            framing(&format!("{ok}Content-Length: 7\r\n\r\n")),
            Some(Framing::Length(7))
        );
        assert_eq!(
            framing(&format!("{ok}Content-Length: 7, 7\r\n\r\n")),
            Some(Framing::Length(7))
        );
        assert_eq!(framing(&format!("{ok}Content-Length: 7, 8\r\n\r\n")), None);
        assert_eq!(framing(&format!("{ok}Content-Length: +7\r\n\r\n")), None);
        assert_eq!(
            framing(&format!(
                "{ok}Content-Length: 7\r\nTransfer-Encoding: Chunked\r\n\r\n"
            )),
            Some(Framing::Chunked)
        );
        assert_eq!(
            framing(&format!("{ok}Transfer-Encoding: gzip, chunked\r\n\r\n")),
            Some(Framing::Rest)
        );
        assert_eq!(
            framing("HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n"),
            Some(Framing::None)
        );
        let head = answer(&format!("{ok}Content-Length: 7\r\n\r\n"), "HEAD").unwrap();
        assert_eq!(head.framing, Framing::None);
        assert_eq!(framing("HTTP/1.1 101 Switching Protocols\r\n\r\n"), None);
    }

    #[test]
    fn headers_of_one_connection_and_words_of_the_proxy_are_not_passed() {
        let text = "HTTP/1.1 200 Fine\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nUpgrade: h2c\r\n\
                    X-Swe-Forge-Egress: denied\r\nX-Kept: 1\r\nTransfer-Encoding: chunked\r\n\
                    Content-Length: 4\r\n\r\n";
        let answer = answer(text, "GET").unwrap();
        let rendered = String::from_utf8(answer.render(Version::Http11, true)).unwrap();
        assert_eq!(
            rendered,
            "HTTP/1.1 200 Fine\r\nX-Kept: 1\r\nTransfer-Encoding: chunked\r\n\
             Connection: keep-alive\r\n\r\n"
        );
        let rendered = String::from_utf8(answer.render(Version::Http10, false)).unwrap();
        assert_eq!(
            rendered,
            "HTTP/1.1 200 Fine\r\nX-Kept: 1\r\nConnection: close\r\n\r\n"
        );
    }

    #[test]
    fn an_answer_that_names_more_options_than_are_looked_at_is_malformed() {
        let naming = |count| {
            let options = ", ,x".repeat(count);
            let text = format!("HTTP/1.1 200 OK\r\nConnection: close{options}\r\n\r\n");
            parse(text.as_bytes(), "GET")
        };
        assert_ne!(naming(MOST_OPTIONS - 1), Progress::Malformed);
        assert_eq!(naming(MOST_OPTIONS), Progress::Malformed);
    }

    #[test]
    fn the_length_in_an_answer_to_head_is_passed() {
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n";
        let answer = answer(text, "HEAD").unwrap();
        let rendered = String::from_utf8(answer.render(Version::Http11, false)).unwrap();
        assert!(rendered.contains("Content-Length: 4\r\n"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let start = b"HTTP/1.1 200 OK\r\n";
            drop(parse(&[start, bytes.as_slice()].concat(), "GET"));
            drop(parse(&bytes, "GET"));
        }
    }
}
