//! Who an egress proxy belongs to when processes come and go.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

use crate::context::{hex, is_hex};

const BYTES: usize = 32;

/// What the name of a proxy, its place among networks, and the folders of its sandboxes are made
/// from. A process that has the identity of an earlier one takes over its proxy. It is a secret:
/// whoever knows it knows where the sockets of sandboxes are. Write it down as [`Self::to_text`].
#[derive(Clone, PartialEq, Eq)]
pub struct GateIdentity([u8; BYTES]);

/// What is no identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the identity of an egress proxy is 64 hexadecimal digits in lower case")]
pub struct InvalidGateIdentity;

impl GateIdentity {
    /// Takes 256 random bits as an identity.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; BYTES]) -> Self {
        Self(bytes)
    }

    /// One that nothing had before.
    #[must_use]
    pub fn random() -> Self {
        let mut bytes = [0; BYTES];
        for half in bytes.chunks_exact_mut(16) {
            half.copy_from_slice(uuid::Uuid::new_v4().as_bytes());
        }
        Self(bytes)
    }

    /// The identity as text, to be kept where secrets are and read again by [`FromStr`].
    #[must_use]
    pub fn to_text(&self) -> String {
        hex(&self.0)
    }

    /// Bits for one use, from which nobody learns those for another.
    pub(super) fn derive(&self, purpose: &str) -> [u8; BYTES] {
        let mut hasher = Sha256::new_with_prefix("swe-forge egress ");
        hasher.update(purpose);
        hasher.update([0]);
        hasher.update(self.0);
        hasher.finalize().into()
    }
}

impl fmt::Debug for GateIdentity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("GateIdentity(..)")
    }
}

impl FromStr for GateIdentity {
    type Err = InvalidGateIdentity;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if !is_hex(text, 2 * BYTES) {
            return Err(InvalidGateIdentity);
        }
        let mut bytes = [0; BYTES];
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| InvalidGateIdentity)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| InvalidGateIdentity)?;
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_leads_back_to_the_identity_and_debug_hides_it() {
        let identity = GateIdentity::random();
        let text = identity.to_text();
        assert_eq!(text.parse(), Ok(identity.clone()));
        assert!(!format!("{identity:?}").contains(&text[..8]));
        assert_ne!(GateIdentity::random(), identity);
        for other in [
            "",
            "00",
            &text[1..],
            &text.replace(&text[..1], "X"),
            &format!("{text}0"),
        ] {
            assert_eq!(other.parse::<GateIdentity>(), Err(InvalidGateIdentity));
        }
    }

    #[test]
    fn each_use_has_bits_of_its_own() {
        let identity = GateIdentity::from_bytes([7; BYTES]);
        assert_eq!(identity.derive("name"), identity.derive("name"));
        assert_ne!(identity.derive("name"), identity.derive("folders"));
        assert_ne!(
            GateIdentity::from_bytes([8; BYTES]).derive("name"),
            identity.derive("name")
        );
    }
}
