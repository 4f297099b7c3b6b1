//! The first message of TLS, as far as it says where the client wants to go.
//!
//! Form by RFC 8446, sections 4.1.2 and 5.1, and RFC 6066, section 3. A hello that breaks these
//! rules is refused even where servers would let it pass: what a server would make of it is not
//! known here.

/// The most bytes of a stream that are looked at for a hello.
pub const MOST_BYTES: usize = 16 * 1024;

/// Content type of a record with a part of a handshake.
pub(crate) const HANDSHAKE: u8 = 22;
/// Bytes before the fragment of a record: type, version, length.
pub(crate) const RECORD_HEADER: usize = 5;
/// The longest fragment of a record.
pub(crate) const MOST_FRAGMENT: usize = 1 << 14;
/// Bytes before the body of a handshake message: type, length.
pub(crate) const MESSAGE_HEADER: usize = 4;
/// Type of the message.
const CLIENT_HELLO: u8 = 1;
/// Bytes of the client's random number.
pub(crate) const RANDOM: usize = 32;
/// The longest session id.
const MOST_SESSION_ID: usize = 32;
/// The extension with the server's name, and the kind of names in it.
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;

/// What a client says first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientHello {
    /// The name in the server name extension, as sent: visible ASCII, not canonical.
    pub sni: Option<String>,
    /// Whether an extension hides the real name.
    pub has_ech: bool,
}

/// What can be said of the first bytes of a stream.
///
/// Only [`NeedMore`](Self::NeedMore) changes when more bytes come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// They may begin a hello; more must come.
    NeedMore,
    /// They begin no handshake of TLS.
    NotTls,
    /// They begin with a whole hello.
    Hello(ClientHello),
    /// They begin a handshake, but not with a hello in proper form, or with one that does not fit
    /// in [`MOST_BYTES`].
    Malformed,
}

/// Looks at the first bytes of a stream, all that have come so far.
#[must_use]
pub fn parse(bytes: &[u8]) -> Progress {
    let full = bytes.len() >= MOST_BYTES;
    match message(bytes.get(..MOST_BYTES).unwrap_or(bytes)) {
        Message::NeedMore if full => Progress::Malformed,
        Message::NeedMore => Progress::NeedMore,
        Message::NotTls => Progress::NotTls,
        Message::Malformed => Progress::Malformed,
        Message::Whole { body, .. } => hello(&body).map_or(Progress::Malformed, Progress::Hello),
    }
}

/// How many bytes the hello at the front of a stream takes with its records; nothing where no
/// whole one is there.
#[must_use]
pub fn length(bytes: &[u8]) -> Option<usize> {
    match message(bytes.get(..MOST_BYTES).unwrap_or(bytes)) {
        Message::Whole { length, .. } => Some(length),
        _ => None,
    }
}

/// The body of the first handshake message, put together from records.
enum Message {
    NeedMore,
    NotTls,
    Malformed,
    Whole {
        body: Vec<u8>,
        /// Of the records, with their headers.
        length: usize,
    },
}

fn message(mut bytes: &[u8]) -> Message {
    let mut message = Vec::new();
    let all = bytes.len();
    // What the records seen so far hold when they are whole.
    let mut announced = 0;
    loop {
        if !may_begin_record(bytes) {
            let first = announced == 0;
            return if first {
                Message::NotTls
            } else {
                Message::Malformed
            };
        }
        let Some((header, rest)) = bytes.split_first_chunk::<RECORD_HEADER>() else {
            return Message::NeedMore;
        };
        let [_, _, _, high, low] = *header;
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length == 0 || length > MOST_FRAGMENT {
            return Message::Malformed;
        }
        announced += length;
        let fragment = rest.get(..length).unwrap_or(rest);
        message.extend_from_slice(fragment);
        match needed(&message) {
            Needed::NoHello => return Message::Malformed,
            // Nothing comes behind a hello before the server has answered.
            Needed::Bytes(needed) if announced > needed => return Message::Malformed,
            Needed::Bytes(needed) if message.len() == needed => {
                return Message::Whole {
                    body: message.split_off(MESSAGE_HEADER),
                    length: all - rest.len() + length,
                };
            }
            Needed::Bytes(_) | Needed::Unknown => {}
        }
        match rest.get(length..) {
            Some(after) => bytes = after,
            None => return Message::NeedMore,
        }
    }
}

/// Whether bytes begin, or could begin, a record of a handshake. The second byte of the version
/// says nothing, and servers pass over it (RFC 8446, section 5.1).
pub(crate) fn may_begin_record(bytes: &[u8]) -> bool {
    fits(bytes, 0, |kind| kind == HANDSHAKE) && fits(bytes, 1, |major| major == 3)
}

/// Whether a byte is proper, or has not come.
pub(crate) fn fits(bytes: &[u8], index: usize, is_proper: impl Fn(u8) -> bool) -> bool {
    bytes.get(index).is_none_or(|byte| is_proper(*byte))
}

/// How long the first message is, with its header.
enum Needed {
    Unknown,
    NoHello,
    Bytes(usize),
}

fn needed(message: &[u8]) -> Needed {
    match message {
        [kind, ..] if *kind != CLIENT_HELLO => Needed::NoHello,
        [_, a, b, c, ..] => {
            let length = u32::from_be_bytes([0, *a, *b, *c]);
            let needed = usize::try_from(length).unwrap_or(MOST_BYTES) + MESSAGE_HEADER;
            if needed + RECORD_HEADER > MOST_BYTES {
                Needed::NoHello
            } else {
                Needed::Bytes(needed)
            }
        }
        _ => Needed::Unknown,
    }
}

/// Reads the body of a hello; nothing when its form is not proper.
fn hello(body: &[u8]) -> Option<ClientHello> {
    let mut body = Reader(body);
    let [major, _] = *body.chunk::<2>()?;
    body.chunk::<RANDOM>()?;
    let session_id = body.short_vector()?;
    let ciphers = body.vector()?;
    let compressions = body.short_vector()?;
    let proper = major == 3
        && session_id.len() <= MOST_SESSION_ID
        && !ciphers.is_empty()
        && ciphers.len() % 2 == 0
        && !compressions.is_empty();
    if !proper {
        return None;
    }
    let mut found = ClientHello {
        sni: None,
        has_ech: false,
    };
    // Before TLS 1.2 a hello may end here.
    if body.is_empty() {
        return Some(found);
    }
    let mut extensions = Reader(body.vector()?);
    if !body.is_empty() {
        return None;
    }
    let mut seen = Vec::new();
    while !extensions.is_empty() {
        let kind = extensions.number()?;
        let content = extensions.vector()?;
        if seen.contains(&kind) {
            return None;
        }
        seen.push(kind);
        if kind == SERVER_NAME {
            found.sni = Some(server_name(content)?);
        }
        found.has_ech |= is_hiding(kind);
    }
    Some(found)
}

/// Whether an extension encrypts the name: that of RFC 9849 and its list of outer extensions, those
/// of its drafts, and the encrypted name alone of the drafts before. 0xff01 is in daily use for
/// another end (RFC 5746).
const fn is_hiding(extension: u16) -> bool {
    matches!(
        extension,
        0xfe08..=0xfe0d | 0xfd00 | 0xff02 | 0xff03 | 0xff08 | 0xffce
    )
}

/// The one name of a server name extension.
fn server_name(content: &[u8]) -> Option<String> {
    let mut content = Reader(content);
    let mut list = Reader(content.vector()?);
    let [kind] = *list.chunk::<1>()?;
    let name = list.vector()?;
    let proper = kind == HOST_NAME
        && list.is_empty()
        && content.is_empty()
        && !name.is_empty()
        && name.iter().all(u8::is_ascii_graphic);
    proper.then(|| name.iter().copied().map(char::from).collect())
}

/// Takes fields from the front of what is left.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn chunk<const SIZE: usize>(&mut self) -> Option<&'a [u8; SIZE]> {
        let (chunk, rest) = self.0.split_first_chunk::<SIZE>()?;
        self.0 = rest;
        Some(chunk)
    }

    fn number(&mut self) -> Option<u16> {
        self.chunk::<2>().map(|bytes| u16::from_be_bytes(*bytes))
    }

    fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    /// Bytes after their number in one byte.
    fn short_vector(&mut self) -> Option<&'a [u8]> {
        let [length] = *self.chunk::<1>()?;
        self.bytes(usize::from(length))
    }

    /// Bytes after their number in two bytes.
    fn vector(&mut self) -> Option<&'a [u8]> {
        let length = self.number()?;
        self.bytes(usize::from(length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(content: &[u8]) -> Vec<u8> {
        let length = u16::try_from(content.len()).unwrap();
        [&length.to_be_bytes(), content].concat()
    }

    fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
        [kind.to_be_bytes().to_vec(), vector(content)].concat()
    }

    fn sni(name: &[u8]) -> Vec<u8> {
        extension(0, &vector(&[&[0], vector(name).as_slice()].concat()))
    }

    /// A handshake message of type 1.
    fn hello(extensions: &[Vec<u8>]) -> Vec<u8> {
        let body = [
            &[3, 3][..],
            &[7; 32],
            &[1, 9],
            &vector(&[0x13, 1, 0x13, 2]),
            &[1, 0],
            &vector(&extensions.concat()),
        ]
        .concat();
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        [&[1], &length[1..], &body].concat()
    }

    fn record(fragment: &[u8]) -> Vec<u8> {
        [vec![22, 3, 1], vector(fragment)].concat()
    }

    fn found(name: Option<&str>, has_ech: bool) -> Progress {
        Progress::Hello(ClientHello {
            sni: name.map(str::to_owned),
            has_ech,
        })
    }

    #[test]
    fn the_name_and_signs_of_hiding_are_found() {
        let groups = extension(10, &vector(&[0, 29]));
        let plain = record(&hello(&[groups.clone(), sni(b"Files.example.org")]));
        assert_eq!(parse(&plain), found(Some("Files.example.org"), false));
        assert_eq!(parse(&record(&hello(&[groups]))), found(None, false));
        for kind in [0xfe0d, 0xfe0a, 0xfe09, 0xfe08, 0xff02, 0xffce, 0xfd00] {
            let hidden = record(&hello(&[sni(b"a.example"), extension(kind, &[0, 1, 2])]));
            assert_eq!(parse(&hidden), found(Some("a.example"), true));
        }
        let renegotiation = record(&hello(&[sni(b"a.example"), extension(0xff01, &[0])]));
        assert_eq!(parse(&renegotiation), found(Some("a.example"), false));
    }

    #[test]
    fn a_hello_without_extensions_has_no_name() {
        let mut message = hello(&[]);
        message.truncate(message.len() - 2);
        message[3] -= 2;
        assert_eq!(parse(&record(&message)), found(None, false));
    }

    #[test]
    fn every_prefix_of_a_hello_needs_more_in_whatever_records_it_comes() {
        let message = hello(&[sni(b"a.example")]);
        for size in [1, 2, 3, 4, 5, 17, message.len() - 1, message.len()] {
            let stream: Vec<u8> = message.chunks(size).flat_map(record).collect();
            for end in 0..stream.len() {
                assert_eq!(parse(&stream[..end]), Progress::NeedMore, "{size} {end}");
            }
            assert_eq!(parse(&stream), found(Some("a.example"), false));
            // What a client sends early is no concern of the hello.
            let more = [stream.as_slice(), &[23, 3, 3, 0, 1, 0]].concat();
            assert_eq!(parse(&more), found(Some("a.example"), false));
            assert_eq!(length(&more), Some(stream.len()));
            assert_eq!(length(&stream[..stream.len() - 1]), None);
        }
    }

    #[test]
    fn a_hello_is_read_whatever_version_its_records_have() {
        let message = hello(&[sni(b"a.example")]);
        for minor in [0, 4, 5, 0x7f, 0xff] {
            let mut stream = record(&message);
            stream[2] = minor;
            assert_eq!(parse(&stream[..3]), Progress::NeedMore);
            assert_eq!(parse(&stream), found(Some("a.example"), false));
            let behind_nothing = [&[22, 3, minor, 0, 0], stream.as_slice()].concat();
            assert_eq!(parse(&behind_nothing), Progress::Malformed);
        }
    }

    #[test]
    fn other_protocols_are_not_tls() {
        for stream in [
            &b"SSH-2.0-client\r\n"[..],
            b"GET / HTTP/1.1\r\n",
            b"\x80\x2e\x01\x03\x01\x00\x15",
            b"\x15\x03\x01\x00\x02\x02\x28",
            b"\x17\x03\x03\x00\x01\x00",
            b"\x16\x02",
            b"\0",
        ] {
            assert_eq!(parse(stream), Progress::NotTls, "{}", stream.escape_ascii());
        }
    }

    #[test]
    fn hellos_out_of_form_are_malformed() {
        let name = sni(b"a.example");
        let two_names = [
            [&[0][..], &vector(b"a.example")].concat(),
            [&[0][..], &vector(b"b.example")].concat(),
        ];
        let other_kind = [&[1][..], &vector(b"a.example")].concat();
        let long_session = {
            let mut body = [&[3, 3][..], &[7; 32], &[33], &[9; 33]].concat();
            body.extend([vector(&[0x13, 1]), vec![1, 0], vector(&name)].concat());
            [vec![1, 0, 0, u8::try_from(body.len()).unwrap()], body].concat()
        };
        for message in [
            hello(&[name.clone(), name.clone()]),
            hello(&[extension(10, &[]), name.clone(), extension(10, &[])]),
            hello(&[extension(0, &vector(&two_names.concat()))]),
            hello(&[extension(0, &vector(&other_kind))]),
            hello(&[extension(0, &[])]),
            hello(&[extension(0, &vector(&[]))]),
            hello(&[extension(
                0,
                &[vector(&[&[0], vector(b"a").as_slice()].concat()), vec![0]].concat(),
            )]),
            hello(&[sni(b"")]),
            hello(&[sni(b"a.example\0.other.example")]),
            hello(&[sni(b"a example")]),
            hello(&[sni("b\u{fc}cher.example".as_bytes())]),
            hello(&[vec![0, 0, 0]]),
            long_session,
            vec![2, 0, 0, 1, 0],
            vec![1, 0, 0, 0],
            vec![1, 0xff, 0xff, 0xff],
        ] {
            assert_eq!(
                parse(&record(&message)),
                Progress::Malformed,
                "{message:02x?}"
            );
        }
    }

    #[test]
    fn every_field_before_the_extensions_is_in_form() {
        let message = |version: [u8; 2], ciphers: &[u8], compressions: &[u8], tail: &[u8]| {
            let body = [
                &version[..],
                &[7; 32],
                &[0],
                &vector(ciphers),
                &[u8::try_from(compressions.len()).unwrap()],
                compressions,
                &vector(&sni(b"a.example")),
                tail,
            ]
            .concat();
            let length = u32::try_from(body.len()).unwrap().to_be_bytes();
            parse(&record(&[&[1], &length[1..], &body].concat()))
        };
        let proper = message([3, 3], &[0x13, 1], &[0], &[]);
        assert_eq!(proper, found(Some("a.example"), false));
        for improper in [
            message([2, 3], &[0x13, 1], &[0], &[]),
            message([3, 3], &[], &[0], &[]),
            message([3, 3], &[0x13, 1, 0x13], &[0], &[]),
            message([3, 3], &[0x13, 1], &[], &[]),
            message([3, 3], &[0x13, 1], &[0], &[0]),
        ] {
            assert_eq!(improper, Progress::Malformed);
        }
    }

    #[test]
    fn records_out_of_form_are_malformed() {
        let message = hello(&[sni(b"a.example")]);
        let (first, second) = message.split_at(10);
        let with_more = [message.as_slice(), &[0]].concat();
        let alert_between = [record(first), vec![21, 3, 1, 0, 2, 1, 0], record(second)].concat();
        let empty_between = [record(first), record(&[]), record(second)].concat();
        for stream in [
            record(&with_more),
            [record(first), record(&[second, &[0]].concat())].concat(),
            alert_between,
            empty_between,
            record(&[]),
            vec![22, 3, 1, 0x40, 1],
        ] {
            assert_eq!(parse(&stream), Progress::Malformed, "{stream:02x?}");
        }
        // Known from the announced length, before the byte too many has come.
        let whole = record(&with_more);
        assert_eq!(parse(&whole[..whole.len() - 1]), Progress::Malformed);
    }

    #[test]
    fn a_hello_that_does_not_fit_is_malformed() {
        let filled = |bytes: usize| {
            let message = hello(&[sni(b"a.example"), extension(21, &vec![0; bytes])]);
            message.chunks(8000).flat_map(record).collect::<Vec<u8>>()
        };
        let rest = filled(0).len() + 2 * RECORD_HEADER;
        let fits = filled(MOST_BYTES - rest);
        assert_eq!(fits.len(), MOST_BYTES);
        assert_eq!(parse(&fits), found(Some("a.example"), false));
        assert_eq!(parse(&filled(MOST_BYTES - rest + 1)), Progress::Malformed);
        // In records of one byte each the bound is met long before the message is whole.
        let message = hello(&[sni(b"a.example"), extension(21, &[0; 4000])]);
        let dribble: Vec<u8> = message.chunks(1).flat_map(record).collect();
        assert_eq!(parse(&dribble[..MOST_BYTES - 1]), Progress::NeedMore);
        assert_eq!(parse(&dribble[..MOST_BYTES]), Progress::Malformed);
    }
}
