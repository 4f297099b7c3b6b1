//! The SOCKS5 protocol (RFC 1928), as far as it is served: no authentication, connections only.
//!
//! A name is not resolved here: it is passed on, so what the client names is what is judged.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::host_name::canonical;

const VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const NO_ACCEPTABLE_METHOD: u8 = 0xff;
const CONNECT: u8 = 1;
const ADDRESS_FOUR: u8 = 1;
const NAME: u8 = 3;
const ADDRESS_SIX: u8 = 4;

/// Longest greeting, and longest request: a name of 255 bytes.
pub(crate) const LONGEST: usize = 264;

/// Answers to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reply {
    Succeeded = 0,
    Failed = 1,
    NotAllowed = 2,
    HostUnreachable = 4,
    ConnectionRefused = 5,
    CommandNotSupported = 7,
    AddressTypeNotSupported = 8,
}

impl Reply {
    /// As it is sent; no address is told, because none of ours has a meaning to the client.
    pub(crate) fn bytes(self) -> [u8; 10] {
        [VERSION, self as u8, 0, ADDRESS_FOUR, 0, 0, 0, 0, 0, 0]
    }

    /// What the proxy's answer means here.
    pub(crate) fn of_status(status: u16) -> Self {
        match status {
            200 => Self::Succeeded,
            403 => Self::NotAllowed,
            504 => Self::HostUnreachable,
            _ => Self::ConnectionRefused,
        }
    }
}

/// What a client wants to be connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Host {
    /// A name in its canonical form.
    Name(String),
    Address(IpAddr),
}

/// How far a message has come.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parsed<T> {
    /// More of it is needed.
    Partial,
    /// It is complete, and so many bytes long.
    Whole(T, usize),
}

/// Why a client is turned away.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It speaks another protocol; there is no answer that it would understand.
    Foreign,
    /// It is told this.
    Answer(Vec<u8>),
}

/// The answer to a greeting that can be accepted.
pub(crate) const ACCEPTED: [u8; 2] = [VERSION, NO_AUTHENTICATION];

/// Reads the greeting: the ways to authenticate that the client knows.
pub(crate) fn greeting(bytes: &[u8]) -> Result<Parsed<()>, Refusal> {
    let [version, rest @ ..] = bytes else {
        return Ok(Parsed::Partial);
    };
    if *version != VERSION {
        return Err(Refusal::Foreign);
    }
    let [count, rest @ ..] = rest else {
        return Ok(Parsed::Partial);
    };
    let Some(methods) = rest.get(..usize::from(*count)) else {
        return Ok(Parsed::Partial);
    };
    if methods.contains(&NO_AUTHENTICATION) {
        Ok(Parsed::Whole((), 2 + methods.len()))
    } else {
        Err(Refusal::Answer(vec![VERSION, NO_ACCEPTABLE_METHOD]))
    }
}

/// Reads the request: host and port.
pub(crate) fn request(bytes: &[u8]) -> Result<Parsed<(Host, u16)>, Refusal> {
    let refused = |reply: Reply| Err(Refusal::Answer(reply.bytes().to_vec()));
    let [version, command, _, kind, rest @ ..] = bytes else {
        return match bytes.first() {
            Some(version) if *version != VERSION => Err(Refusal::Foreign),
            _ => Ok(Parsed::Partial),
        };
    };
    if *version != VERSION {
        return Err(Refusal::Foreign);
    }
    if *command != CONNECT {
        return refused(Reply::CommandNotSupported);
    }
    let (host, length) = match *kind {
        ADDRESS_FOUR => match rest.first_chunk::<4>() {
            Some(octets) => (Some(Host::Address(Ipv4Addr::from(*octets).into())), 4),
            None => return Ok(Parsed::Partial),
        },
        ADDRESS_SIX => match rest.first_chunk::<16>() {
            Some(octets) => (Some(Host::Address(Ipv6Addr::from(*octets).into())), 16),
            None => return Ok(Parsed::Partial),
        },
        NAME => match rest.split_first() {
            Some((length, rest)) => match rest.get(..usize::from(*length)) {
                Some(name) => (host(name), 1 + name.len()),
                None => return Ok(Parsed::Partial),
            },
            None => return Ok(Parsed::Partial),
        },
        _ => return refused(Reply::AddressTypeNotSupported),
    };
    let Some(port) = rest.get(length..).and_then(<[u8]>::first_chunk::<2>) else {
        return Ok(Parsed::Partial);
    };
    match (host, u16::from_be_bytes(*port)) {
        (None, _) | (_, 0) => refused(Reply::NotAllowed),
        (Some(host), port) => Ok(Parsed::Whole((host, port), 4 + length + 2)),
    }
}

/// Many clients send an address in its written form as a name.
fn host(text: &[u8]) -> Option<Host> {
    if let Some(name) = canonical(text) {
        return Some(Host::Name(name));
    }
    let text = std::str::from_utf8(text).ok()?;
    text.parse().ok().map(Host::Address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn named(name: &[u8], port: u16) -> Vec<u8> {
        let mut bytes = vec![5, 1, 0, 3, u8::try_from(name.len()).unwrap()];
        bytes.extend_from_slice(name);
        bytes.extend(port.to_be_bytes());
        bytes
    }

    fn asked(bytes: &[u8]) -> Option<(Host, u16)> {
        match request(bytes) {
            Ok(Parsed::Whole(target, length)) if length == bytes.len() => Some(target),
            _ => None,
        }
    }

    #[test]
    fn a_client_that_needs_no_authentication_is_accepted() {
        assert_eq!(greeting(&[5, 2, 2, 0]), Ok(Parsed::Whole((), 4)));
        assert_eq!(greeting(&[5, 1, 0, 9]), Ok(Parsed::Whole((), 3)));
        assert_eq!(greeting(&[5, 2, 0]), Ok(Parsed::Partial));
        assert_eq!(greeting(&[]), Ok(Parsed::Partial));
        assert_eq!(greeting(&[5, 1, 2]), Err(Refusal::Answer(vec![5, 0xff])));
        assert_eq!(greeting(&[5, 0]), Err(Refusal::Answer(vec![5, 0xff])));
        assert_eq!(greeting(&[4, 1, 0, 80]), Err(Refusal::Foreign));
        assert_eq!(greeting(b"GET / HTTP/1.1\r\n"), Err(Refusal::Foreign));
    }

    #[test]
    fn names_and_addresses_are_read() {
        let name = |name: &str| Host::Name(name.to_owned());
        let address = |text: &str| Host::Address(text.parse().unwrap());
        assert_eq!(
            asked(&named(b"Example.ORG.", 443)),
            Some((name("example.org"), 443))
        );
        assert_eq!(
            asked(&named(b"192.0.2.7", 80)),
            Some((address("192.0.2.7"), 80))
        );
        assert_eq!(
            asked(&named(b"2001:db8::7", 80)),
            Some((address("2001:db8::7"), 80))
        );
        assert_eq!(
            asked(&[5, 1, 0, 1, 127, 64, 0, 1, 1, 187]),
            Some((address("127.64.0.1"), 443))
        );
        let mut six = vec![5, 1, 0, 4];
        six.extend([0; 15]);
        six.extend([1, 0, 80]);
        assert_eq!(asked(&six), Some((address("::1"), 80)));
    }

    #[test]
    fn what_cannot_be_served_is_told_why() {
        let refused = |bytes: &[u8]| match request(bytes) {
            Err(Refusal::Answer(answer)) => answer[1],
            other => panic!("{other:?}"),
        };
        assert_eq!(refused(&[5, 2, 0, 1, 1, 2, 3, 4, 0, 80]), 7);
        assert_eq!(refused(&[5, 3, 0, 1, 1, 2, 3, 4, 0, 80]), 7);
        assert_eq!(refused(&[5, 1, 0, 2, 1, 2, 3, 4, 0, 80]), 8);
        for name in [
            &b"evil\0.example.org"[..],
            b"a\r\nb",
            b"a:1",
            b"",
            b"0x7f.1",
            b"127.1",
            b"[::1]",
        ] {
            assert_eq!(refused(&named(name, 443)), 2, "{name:?}");
        }
        assert_eq!(refused(&named(b"example.org", 0)), 2);
        assert_eq!(request(&[4, 1, 0, 80]), Err(Refusal::Foreign));
    }

    proptest! {
        #[test]
        fn a_message_is_read_only_when_it_is_whole(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(Parsed::Whole(_, length)) = greeting(&bytes) {
                prop_assert!(length <= bytes.len() && length <= LONGEST);
                prop_assert_eq!(greeting(&bytes[..length - 1]), Ok(Parsed::Partial));
            }
            let mut bytes = bytes;
            bytes.splice(0..0, [5, 1, 0]);
            if let Ok(Parsed::Whole((host, port), length)) = request(&bytes) {
                prop_assert!(length <= bytes.len() && length <= LONGEST);
                prop_assert!(port > 0);
                prop_assert_eq!(request(&bytes[..length - 1]), Ok(Parsed::Partial));
                if let Host::Name(name) = host {
                    prop_assert_eq!(canonical(name.as_bytes()), Some(name));
                }
            }
            prop_assert!(bytes.len() < LONGEST || request(&bytes) != Ok(Parsed::Partial));
        }
    }
}
