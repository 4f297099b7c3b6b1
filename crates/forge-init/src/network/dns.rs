//! Answers of the resolver on loopback, by RFC 1035 as far as a stub resolver asks.
//!
//! Nothing is looked up anywhere: a name gets an address that stands for it, everything else an
//! empty answer. No query of a task leaves the sandbox, whatever is written in it.

use std::net::Ipv4Addr;

use super::host_name::canonical;

/// Header of a message, in bytes.
const HEADER: usize = 12;
/// Longest name on the wire, its lengths and its end included.
const LONGEST_NAME: usize = 255;
/// Longest part of a name; what is above stands for something else.
const LONGEST_LABEL: u8 = 63;
/// How long an answer may be kept, in seconds.
const KEPT: u32 = 60;

const TYPE_A: u16 = 1;
const TYPE_PTR: u16 = 12;
const CLASS_IN: u16 = 1;
const CLASS_ANY: u16 = 255;

/// Bits of the third byte of a header.
const IS_ANSWER: u8 = 0x80;
const OPERATION: u8 = 0x78;
const RECURSION_DESIRED: u8 = 0x01;
/// The bit of the fourth byte.
const RECURSION_AVAILABLE: u8 = 0x80;

/// What the resolver knows.
pub(crate) trait Names {
    /// The address that stands for a name; none when there is no room for another one now.
    fn address_of(&mut self, name: &str) -> Option<Ipv4Addr>;

    /// The name that an address stands for.
    fn name_of(&mut self, address: Ipv4Addr) -> Option<String>;
}

/// How a query ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Code {
    Success = 0,
    Malformed = 1,
    Failure = 2,
    NoSuchName = 3,
    NotImplemented = 4,
    Refused = 5,
}

/// The one question of a query.
struct Question<'a> {
    /// As it came, for the answer.
    bytes: &'a [u8],
    /// Parts joined by dots; a part may hold any byte, dots included.
    name: Vec<u8>,
    /// Whether a part has a dot in it, so that `name` does not tell the parts apart.
    is_odd: bool,
    kind: u16,
    class: u16,
}

/// The answer to a message; none when it is no query.
pub(crate) fn answer(query: &[u8], names: &mut impl Names) -> Option<Vec<u8>> {
    let [_, _, flags, _, count_high, count_low] = *query.first_chunk()?;
    // An answer is never answered: two resolvers could go on for ever.
    if query.len() < HEADER || flags & IS_ANSWER != 0 {
        return None;
    }
    if flags & OPERATION != 0 {
        return Some(header(query, Code::NotImplemented, false, false));
    }
    let question = match [count_high, count_low] {
        [0, 1] => read_question(query),
        _ => None,
    };
    let Some(question) = question else {
        return Some(header(query, Code::Malformed, false, false));
    };
    let (code, data) = resolve(&question, names);
    let mut message = header(query, code, true, data.is_some());
    message.extend_from_slice(question.bytes);
    if let Some(data) = data {
        // The name is the question's, which begins right behind the header.
        message.extend([0xc0, 12]);
        message.extend(question.kind.to_be_bytes());
        message.extend(CLASS_IN.to_be_bytes());
        message.extend(KEPT.to_be_bytes());
        message.extend(u16::try_from(data.len()).unwrap_or(0).to_be_bytes());
        message.extend(data);
    }
    Some(message)
}

fn header(query: &[u8], code: Code, question: bool, answer: bool) -> Vec<u8> {
    let mut message = Vec::with_capacity(128);
    message.extend_from_slice(query.get(..2).unwrap_or(&[0, 0]));
    let flags = query.get(2).copied().unwrap_or(0);
    message.push(IS_ANSWER | flags & (OPERATION | RECURSION_DESIRED));
    message.push(RECURSION_AVAILABLE | code as u8);
    message.extend([0, u8::from(question), 0, u8::from(answer), 0, 0, 0, 0]);
    message
}

fn read_question(query: &[u8]) -> Option<Question<'_>> {
    let mut name = Vec::new();
    let mut is_odd = false;
    let mut at = HEADER;
    loop {
        let length = *query.get(at)?;
        if length > LONGEST_LABEL {
            return None;
        }
        at += 1;
        if length == 0 {
            break;
        }
        let label = query.get(at..at + usize::from(length))?;
        is_odd |= label.contains(&b'.');
        if !name.is_empty() {
            name.push(b'.');
        }
        name.extend_from_slice(label);
        at += label.len();
        if at - HEADER >= LONGEST_NAME {
            return None;
        }
    }
    let [kind_high, kind_low, class_high, class_low] = *query.get(at..)?.first_chunk()?;
    Some(Question {
        bytes: query.get(HEADER..at + 4)?,
        name,
        is_odd,
        kind: u16::from_be_bytes([kind_high, kind_low]),
        class: u16::from_be_bytes([class_high, class_low]),
    })
}

fn resolve(question: &Question<'_>, names: &mut impl Names) -> (Code, Option<Vec<u8>>) {
    if question.class != CLASS_IN && question.class != CLASS_ANY {
        return (Code::Refused, None);
    }
    if question.kind == TYPE_PTR {
        return match reverse(&question.name, names) {
            Some(name) => (Code::Success, Some(encode(&name))),
            None => (Code::NoSuchName, None),
        };
    }
    let name = match canonical(&question.name) {
        Some(name) if !question.is_odd => name,
        // The root has no address, and exists.
        _ if question.name.is_empty() => return (Code::Success, None),
        _ => return (Code::NoSuchName, None),
    };
    if question.kind != TYPE_A {
        return (Code::Success, None);
    }
    let address = if name == "localhost" || name.ends_with(".localhost") {
        Some(Ipv4Addr::LOCALHOST)
    } else {
        names.address_of(&name)
    };
    match address {
        Some(address) => (Code::Success, Some(address.octets().to_vec())),
        None => (Code::Failure, None),
    }
}

/// The name of an address that is asked for as in `4.3.2.1.in-addr.arpa`.
fn reverse(name: &[u8], names: &mut impl Names) -> Option<String> {
    let name = std::str::from_utf8(name).ok()?.to_ascii_lowercase();
    let digits = name.strip_suffix(".in-addr.arpa")?;
    let turned: Vec<&str> = digits.rsplit('.').collect();
    let address: Ipv4Addr = turned.join(".").parse().ok()?;
    if address == Ipv4Addr::LOCALHOST {
        return Some("localhost".to_owned());
    }
    names.name_of(address)
}

/// A canonical name on the wire.
fn encode(name: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(name.len() + 2);
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap_or(0));
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

#[cfg(test)]
#[path = "dns_tests.rs"]
mod tests;
