//! Records of TLS that are no part of a handshake's messages but may stand between them in the clear.

use crate::client_hello::fits;

/// Content types (RFC 8446, section 5.1).
pub(crate) const CHANGE_CIPHER_SPEC: u8 = 20;
pub(crate) const ALERT: u8 = 21;
pub(crate) const APPLICATION_DATA: u8 = 23;

/// What stands at the front of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Aside {
    /// One of both, or something else: more must come.
    NeedMore,
    /// A change of ciphers, which means nothing since TLS 1.3 (RFC 8446, appendix D.4).
    ChangeCipherSpec,
    /// An alert in the clear.
    Alert,
    /// Something else, or one of both out of form.
    Neither,
}

impl Aside {
    /// How many bytes it takes.
    pub(crate) const fn length(self) -> usize {
        match self {
            Self::NeedMore | Self::Neither => 0,
            Self::ChangeCipherSpec => 6,
            Self::Alert => 7,
        }
    }

    /// Looks at the front of a stream.
    pub(crate) fn at(bytes: &[u8]) -> Self {
        let (found, form): (_, &[_]) = match bytes.first() {
            None => return Self::NeedMore,
            Some(&CHANGE_CIPHER_SPEC) => (Self::ChangeCipherSpec, &[0, 1, 1]),
            Some(&ALERT) => (Self::Alert, &[0, 2]),
            Some(_) => return Self::Neither,
        };
        let is_proper = fits(bytes, 1, |major| major == 3)
            && fits(bytes, 2, |minor| minor <= 4)
            && (3..)
                .zip(form)
                .all(|(index, form)| fits(bytes, index, |byte| byte == *form));
        match (is_proper, bytes.len() < found.length()) {
            (false, _) => Self::Neither,
            (true, true) => Self::NeedMore,
            (true, false) => found,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asides_are_known_once_they_are_whole() {
        for (record, expected) in [
            (&[20, 3, 3, 0, 1, 1][..], Aside::ChangeCipherSpec),
            (&[21, 3, 1, 0, 2, 1, 112], Aside::Alert),
        ] {
            for end in 0..record.len() {
                assert_eq!(Aside::at(&record[..end]), Aside::NeedMore);
            }
            assert_eq!(Aside::at(record), expected);
            assert_eq!(Aside::at(&[record, &[22, 3]].concat()), expected);
            assert_eq!(expected.length(), record.len());
        }
    }

    #[test]
    fn what_is_out_of_form_is_no_aside() {
        for record in [
            &[22][..],
            &[20, 2],
            &[20, 3, 5],
            &[20, 3, 3, 1],
            &[20, 3, 3, 0, 2],
            &[20, 3, 3, 0, 1, 2],
            &[21, 3, 3, 0, 3],
            &[23, 3, 3],
            b"GET",
        ] {
            assert_eq!(Aside::at(record), Aside::Neither, "{record:?}");
        }
    }
}
