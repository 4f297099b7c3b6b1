//! Host names and authorities in one canonical form, or refused.
//!
//! What is judged here is what is resolved, dialled and compared later, so there is one reading
//! only: whatever two programs could read differently is no name.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use forge_core::egress::DenialReason;

/// The longest name, in bytes without the trailing dot (RFC 1035, section 2.3.4).
const MOST_NAME_BYTES: usize = 253;
/// The longest label, in bytes.
const MOST_LABEL_BYTES: usize = 63;
/// The most digits of a port.
const MOST_PORT_DIGITS: usize = 5;

/// A host name: lower case, labels of letters, digits and hyphens, no trailing dot, never an
/// address.
///
/// Names beyond ASCII are accepted in their `xn--` form only: a client that shows one name and
/// asks for another is not helped to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostName(String);

impl HostName {
    /// Reads a name in any case, with or without the trailing dot of the root.
    ///
    /// # Errors
    ///
    /// [`DenialReason::BadHostname`] for whatever is no such name, and for every form of an
    /// address that some program reads as one, such as `127.1`, `0x7f.1` and `2130706433`.
    pub fn parse(text: &[u8]) -> Result<Self, DenialReason> {
        let text = text.strip_suffix(b".").unwrap_or(text);
        if text.len() > MOST_NAME_BYTES || !text.split(|byte| *byte == b'.').all(is_label) {
            return Err(DenialReason::BadHostname);
        }
        let last = text.rsplit(|byte| *byte == b'.').next().unwrap_or(text);
        if is_number(last) {
            return Err(DenialReason::BadHostname);
        }
        let name = std::str::from_utf8(text).map_err(|_| DenialReason::BadHostname)?;
        Ok(Self(name.to_ascii_lowercase()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this name is below `suffix`, by at least one label.
    #[must_use]
    pub fn is_below(&self, suffix: &str) -> bool {
        self.0
            .strip_suffix(suffix)
            .is_some_and(|rest| rest.ends_with('.'))
    }

    /// The leftmost label.
    #[must_use]
    pub fn first_label(&self) -> &str {
        self.0.split('.').next().unwrap_or(&self.0)
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.0)
    }
}

/// What a client asks to be connected to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// A name.
    Name(HostName),
    /// An address; never a version 4 address in the dress of version 6.
    Address(IpAddr),
}

impl fmt::Display for Host {
    /// As in an authority: version 6 addresses stand in brackets.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(formatter),
            Self::Address(IpAddr::V4(address)) => write!(formatter, "{address}"),
            Self::Address(IpAddr::V6(address)) => write!(formatter, "[{address}]"),
        }
    }
}

/// Reads `host:port`, or `host` alone where there is a default port.
///
/// An address of version 4 is read in its dotted form of four decimal numbers only, one of version
/// 6 in brackets only and without a zone.
///
/// # Errors
///
/// [`DenialReason::BadHostname`] when the host is neither name nor address in such a form,
/// [`DenialReason::Port`] when the port is missing or not written as one of 1 to 65535.
pub fn parse_authority(
    text: &[u8],
    default_port: Option<u16>,
) -> Result<(Host, u16), DenialReason> {
    // First of all, so that `allowed:443@other` is told for what it is: a trick with the name.
    if !text.iter().copied().all(is_authority_byte) {
        return Err(DenialReason::BadHostname);
    }
    let (host, port) = match text.strip_prefix(b"[") {
        Some(rest) => {
            let end = position(rest, b']').ok_or(DenialReason::BadHostname)?;
            let (address, rest) = rest.split_at(end);
            let port = match rest.get(1..) {
                None | Some([]) => None,
                Some([b':', port @ ..]) => Some(port),
                Some(_) => return Err(DenialReason::BadHostname),
            };
            (bracketed(address)?, port)
        }
        None => match position(text, b':') {
            Some(colon) => {
                let (host, port) = text.split_at(colon);
                let port = port.get(1..).unwrap_or_default();
                if port.contains(&b':') {
                    return Err(DenialReason::BadHostname);
                }
                (plain(host)?, Some(port))
            }
            None => (plain(text)?, None),
        },
    };
    let port = match port {
        Some(digits) => parse_port(digits)?,
        None => default_port.ok_or(DenialReason::Port)?,
    };
    Ok((host, port))
}

fn is_authority_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':' | b'[' | b']')
}

fn position(text: &[u8], wanted: u8) -> Option<usize> {
    text.iter().position(|byte| *byte == wanted)
}

fn bracketed(text: &[u8]) -> Result<Host, DenialReason> {
    let address: Ipv6Addr = std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or(DenialReason::BadHostname)?;
    Ok(Host::Address(IpAddr::V6(address).to_canonical()))
}

fn plain(text: &[u8]) -> Result<Host, DenialReason> {
    let address = std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse::<Ipv4Addr>().ok());
    match address {
        Some(address) => Ok(Host::Address(IpAddr::V4(address))),
        None => HostName::parse(text).map(Host::Name),
    }
}

fn parse_port(digits: &[u8]) -> Result<u16, DenialReason> {
    let proper = digits.len() <= MOST_PORT_DIGITS
        && digits.first().is_some_and(|digit| *digit != b'0')
        && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits)
        .ok()
        .filter(|_| proper)
        .and_then(|digits| digits.parse().ok())
        .ok_or(DenialReason::Port)
}

fn is_label(label: &[u8]) -> bool {
    (1..=MOST_LABEL_BYTES).contains(&label.len())
        && label
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
        && !label.starts_with(b"-")
        && !label.ends_with(b"-")
}

/// Whether a last label makes programs take the whole for an address of version 4, as in
/// `inet_aton` and in browsers: digits, or digits of base 16 after `0x`.
fn is_number(label: &[u8]) -> bool {
    match label {
        [b'0', b'x' | b'X', rest @ ..] => rest.iter().all(u8::is_ascii_hexdigit),
        _ => label.iter().all(u8::is_ascii_digit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> HostName {
        HostName::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn case_and_one_trailing_dot_make_no_other_host() {
        assert_eq!(name("Files.EXAMPLE.org."), name("files.example.org"));
        assert_eq!(name("a").as_str(), "a");
        assert_eq!(
            name("xn--bcher-kva.example").as_str(),
            "xn--bcher-kva.example"
        );
        assert_eq!(name("r3---sn-a1.example").as_str(), "r3---sn-a1.example");
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long_label = format!("{}.example", "a".repeat(64));
        let long_name = format!("{}example", "a.".repeat(124));
        for text in [
            "",
            ".",
            "..",
            "example.org..",
            ".example.org",
            "a..b",
            "-a.example",
            "a-.example",
            "a_b.example",
            "a b.example",
            "a%62.example",
            "a*.example",
            "*.example",
            "a/b",
            "a\0.example",
            "a.example\r\n",
            "b\u{fc}cher.example",
            "\u{430}pple.example",
            "a@b.example",
            &long_label,
            &long_name,
        ] {
            assert_eq!(
                HostName::parse(text.as_bytes()),
                Err(DenialReason::BadHostname),
                "{text:?}"
            );
        }
        assert_eq!(
            HostName::parse(b"a\xff.example"),
            Err(DenialReason::BadHostname)
        );
        let longest = format!("{}aexample.org", "a.".repeat(120));
        assert!(HostName::parse(longest.as_bytes()).is_ok());
        assert_eq!(longest.len(), 252);
    }

    #[test]
    fn odd_forms_of_addresses_are_neither_names_nor_addresses() {
        for text in [
            "127.1",
            "127.0.1",
            "0x7f.1",
            "0x7f.0x0.0x0.0x1",
            "0x7f000001",
            "2130706433",
            "017700000001",
            "0177.0.0.1",
            "127.0.0.01",
            "1.2.3.4.",
            "1.2.3.4.5",
            "1.2.3.256",
            "1.2.3",
            "a.example.1",
            "a.0x",
            "a.0xff",
            "[::1%lo]",
            "[::1%25lo]",
            "[fe80::1%1]",
            "::1",
            "fe80::1",
            "[::1",
            "::1]",
            "[]",
            "[1.2.3.4]",
            "[a.example]",
            "[::1]x",
            "[[::1]]",
            "[::1.2.3]",
            "[::ffff:127.1]",
            "\u{ff11}\u{ff12}7.0.0.1",
        ] {
            assert_eq!(
                parse_authority(text.as_bytes(), Some(443)),
                Err(DenialReason::BadHostname),
                "{text}"
            );
        }
    }

    #[test]
    fn addresses_in_canonical_form_are_addresses() {
        let address = |text: &str| match parse_authority(text.as_bytes(), Some(443)) {
            Ok((Host::Address(address), 443)) => address,
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(address("192.0.2.1").to_string(), "192.0.2.1");
        assert_eq!(address("[2001:DB8:0:0::1]").to_string(), "2001:db8::1");
        assert_eq!(address("[::ffff:127.0.0.1]").to_string(), "127.0.0.1");
        assert_eq!(address("[::ffff:7f00:1]").to_string(), "127.0.0.1");
    }

    #[test]
    fn a_port_is_digits_from_1_to_65535() {
        for port in ["", "0", "00", "080", "65536", "100000", "-1", "443a", "1.0"] {
            let text = format!("a.example:{port}");
            assert_eq!(
                parse_authority(text.as_bytes(), Some(443)),
                Err(DenialReason::Port),
                "{text}"
            );
        }
        assert_eq!(parse_authority(b"a.example", None), Err(DenialReason::Port));
        assert_eq!(parse_authority(b"a.example:65535", None).unwrap().1, 65535);
        assert_eq!(parse_authority(b"[::1]:1", None).unwrap().1, 1);
        assert_eq!(parse_authority(b"a.example", Some(80)).unwrap().1, 80);
    }

    #[test]
    fn an_authority_is_a_host_and_a_port_and_nothing_else() {
        for text in [
            &b"user@a.example:443"[..],
            b"a.example:443@other.example",
            b"a.example:443@other.example:443",
            b"a.example:443:443",
            b"a.example\0.other.example:443",
            b"a.example:443\r\nX: y",
            b"a.example%00:443",
            b" a.example:443",
            b"a.example:443 ",
            b"a.example/:443",
            b"a.example\\@other.example:443",
            b"a.example#@other.example:443",
            b":443",
            b"",
        ] {
            let text_shown = text.escape_ascii();
            assert_eq!(
                parse_authority(text, Some(443)),
                Err(DenialReason::BadHostname),
                "{text_shown}"
            );
        }
        assert_eq!(
            parse_authority(b"a.example:+443", None),
            Err(DenialReason::BadHostname)
        );
    }

    #[test]
    fn below_a_suffix_is_below_it_by_a_label() {
        assert!(name("a.b.example").is_below("b.example"));
        assert!(!name("b.example").is_below("b.example"));
        assert!(!name("ab.example").is_below("b.example"));
        assert!(!name("b.example.org").is_below("b.example"));
        assert!(!name("b.example").is_below(""));
    }
}
