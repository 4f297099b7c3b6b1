//! A server's answer to the first message of TLS, as far as it says whether another one follows.
//!
//! A server that asks for another hello (RFC 8446, section 4.1.4) goes by the name in that one, so
//! it is looked at as the first was. After any other answer a hello in the clear is an error.

use crate::client_hello::{
    HANDSHAKE, MESSAGE_HEADER, MOST_FRAGMENT, RANDOM, RECORD_HEADER, may_begin_record,
};
use crate::records::Aside;

/// The most bytes of a stream that are looked at for an answer.
pub const MOST_BYTES: usize = 16 * 1024;

/// Type of the message.
const SERVER_HELLO: u8 = 2;
/// Where the random number is in the message: behind its header and the version.
const RANDOM_AT: usize = MESSAGE_HEADER + 2;
/// The random number of a message that asks for another hello: the SHA-256 of "HelloRetryRequest".
const RETRY: [u8; RANDOM] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91,
    0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

/// What can be said of the first bytes of a server, all that have come so far.
///
/// Only [`NeedMore`](Self::NeedMore) changes when more bytes come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// They may begin an answer; more must come.
    NeedMore,
    /// They begin with so many bytes that are no answer and may stand before one: an alert, or a
    /// change of ciphers.
    Aside(usize),
    /// They begin the last answer to a hello.
    Hello,
    /// They begin with a wish for another hello, which with its records is so many bytes long.
    Retry(usize),
    /// They begin no answer in proper form.
    Malformed,
}

/// Looks at the first bytes of a server, or at those behind an aside.
#[must_use]
pub fn parse(bytes: &[u8]) -> Progress {
    let progress = match Aside::at(bytes) {
        Aside::NeedMore => Progress::NeedMore,
        Aside::Neither if bytes.first() == Some(&HANDSHAKE) => {
            message(bytes.get(..MOST_BYTES).unwrap_or(bytes))
        }
        Aside::Neither => Progress::Malformed,
        aside => Progress::Aside(aside.length()),
    };
    match progress {
        Progress::NeedMore if bytes.len() >= MOST_BYTES => Progress::Malformed,
        progress => progress,
    }
}

fn message(bytes: &[u8]) -> Progress {
    let mut message = Vec::new();
    let mut left = bytes;
    // What the records seen so far hold when they are whole.
    let mut announced = 0;
    loop {
        if !may_begin_record(left) {
            return Progress::Malformed;
        }
        let Some((header, rest)) = left.split_first_chunk::<RECORD_HEADER>() else {
            return Progress::NeedMore;
        };
        let [_, _, _, high, low] = *header;
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length == 0 || length > MOST_FRAGMENT {
            return Progress::Malformed;
        }
        announced += length;
        message.extend_from_slice(rest.get(..length).unwrap_or(rest));
        match judge(&message, announced) {
            Judged::Malformed => return Progress::Malformed,
            Judged::Hello => return Progress::Hello,
            Judged::Unknown => {}
            Judged::Whole => return Progress::Retry(bytes.len() - rest.len() + length),
        }
        match rest.get(length..) {
            Some(after) => left = after,
            None => return Progress::NeedMore,
        }
    }
}

enum Judged {
    Unknown,
    Malformed,
    Hello,
    /// A wish for another hello, to its last byte.
    Whole,
}

/// Judges what has come of a message in records of `announced` bytes.
fn judge(message: &[u8], announced: usize) -> Judged {
    let needed = match message {
        [kind, ..] if *kind != SERVER_HELLO => return Judged::Malformed,
        [_, a, b, c, ..] => {
            let length = u32::from_be_bytes([0, *a, *b, *c]);
            usize::try_from(length).unwrap_or(MOST_BYTES) + MESSAGE_HEADER
        }
        _ => return Judged::Unknown,
    };
    if needed < RANDOM_AT + RANDOM {
        return Judged::Malformed;
    }
    match message.get(RANDOM_AT..RANDOM_AT + RANDOM) {
        None => Judged::Unknown,
        Some(random) if random != RETRY => Judged::Hello,
        // Nothing but a change of ciphers comes behind it.
        Some(_) if needed + RECORD_HEADER > MOST_BYTES || announced > needed => Judged::Malformed,
        Some(_) if message.len() == needed => Judged::Whole,
        Some(_) => Judged::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hello(random: [u8; RANDOM], rest: &[u8]) -> Vec<u8> {
        let body = [&[3, 3][..], &random, rest].concat();
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        [&[2], &length[1..], &body].concat()
    }

    fn records(message: &[u8], size: usize) -> Vec<u8> {
        let record = |fragment: &[u8]| {
            let length = u16::try_from(fragment.len()).unwrap().to_be_bytes();
            [&[22, 3, 3], &length[..], fragment].concat()
        };
        message.chunks(size).flat_map(record).collect()
    }

    /// What feeding one byte more at a time comes to.
    fn fed(bytes: &[u8]) -> Progress {
        let all = (0..=bytes.len()).map(|end| parse(&bytes[..end]));
        let mut decided = all.filter(|progress| *progress != Progress::NeedMore);
        decided.next().unwrap_or(Progress::NeedMore)
    }

    #[test]
    fn a_wish_for_another_hello_is_known_in_whatever_records_it_comes() {
        let message = hello(RETRY, &[0, 0x13, 1, 0, 0, 0]);
        for size in [1, 2, 5, 38, message.len()] {
            let stream = records(&message, size);
            for end in 0..stream.len() {
                assert_eq!(parse(&stream[..end]), Progress::NeedMore, "{size} {end}");
            }
            let retry = Progress::Retry(stream.len());
            assert_eq!(parse(&stream), retry);
            let more = [stream.as_slice(), &[20, 3, 3, 0, 1, 1]].concat();
            assert_eq!(parse(&more), retry);
        }
    }

    #[test]
    fn any_other_answer_is_known_by_its_random_number() {
        let message = hello([7; RANDOM], &[0; 90]);
        for size in [1, 7, message.len()] {
            assert_eq!(fed(&records(&message, size)), Progress::Hello);
        }
        let with_more = [message, vec![11, 0, 0, 0]].concat();
        assert_eq!(parse(&records(&with_more, 8000)), Progress::Hello);
    }

    #[test]
    fn asides_are_passed_and_the_rest_is_malformed() {
        assert_eq!(parse(&[21, 3, 3, 0, 2, 1, 112]), Progress::Aside(7));
        assert_eq!(parse(&[20, 3, 3, 0, 1, 1, 22]), Progress::Aside(6));
        let retry = hello(RETRY, &[0]);
        let with_more = [retry.as_slice(), &[2]].concat();
        let [mut long, mut short] = [retry.clone(), retry];
        long[1] = 1;
        short[3] = 30;
        for stream in [
            &b"HTTP/1.1 400 Bad Request\r\n"[..],
            &[23, 3, 3, 0, 1, 0],
            &records(&[1, 0, 0, 0], 4),
            &records(&[0, 0, 0, 0], 4),
            &records(&with_more, 8000),
            &records(&long, 8000),
            &records(&short, 8000),
            &[22, 3, 3, 0, 0],
            &[22, 254, 253],
            &[0],
        ] {
            assert_eq!(parse(stream), Progress::Malformed, "{stream:02x?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged_alike_in_one_piece_and_byte_by_byte(
            bytes in prop::collection::vec(any::<u8>(), 0..120),
            size in 1..60_usize,
            is_retry in any::<bool>(),
            start in 0..3_u8,
        ) {
            let random = if is_retry { RETRY } else { [9; RANDOM] };
            let stream = match start {
                0 => bytes,
                1 => records(&hello(random, &bytes), size),
                _ => [&[22, 3, 3, 0], bytes.as_slice()].concat(),
            };
            prop_assert_eq!(fed(&stream), parse(&stream));
            if start == 1 && is_retry {
                prop_assert_eq!(parse(&stream), Progress::Retry(stream.len()));
            }
        }

        #[test]
        fn a_spoilt_wish_is_never_longer_than_what_came(
            spoils in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            size in 1..60_usize,
        ) {
            let mut stream = records(&hello(RETRY, &[0, 0x13, 1, 0, 0, 0]), size);
            for (index, byte) in spoils {
                let index = index.index(stream.len());
                stream[index] = byte;
            }
            prop_assert_eq!(fed(&stream), parse(&stream));
            if let Progress::Retry(length) | Progress::Aside(length) = parse(&stream) {
                prop_assert!(length <= stream.len());
            }
        }
    }
}
