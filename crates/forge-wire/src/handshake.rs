//! How both ends of a channel prove that they know the sandbox's secret without sending it.
//!
//! The first connection to a sandbox hands the secret over: it is made before any instruction of
//! the task runs, so nobody else can be first. Every later connection answers a challenge, and so
//! does the sandbox. Proofs are HMAC-SHA-256 over a role, an epoch and both nonces.
//!
//! The epoch tells orchestrators apart that know the same secret: each that goes on with the work of
//! another has a higher one. A sandbox serves the highest that was ever proved to it and no lower.

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use subtle::ConstantTimeEq;

/// 256 random bits, used once.
pub type Nonce = [u8; 32];

/// A sandbox's secret; never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret([u8; 32]);

impl Secret {
    /// Takes 256 random bits as a secret.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Secret(..)")
    }
}

/// A proof of knowing the secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof([u8; 32]);

/// Which end a proof is from, so that neither can be echoed back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The orchestrator.
    Client,
    /// `forge-init`.
    Sandbox,
}

impl Proof {
    /// The proof of `end` for a handshake with these nonces by a client of this epoch.
    #[must_use]
    pub fn make(
        secret: &Secret,
        end: End,
        epoch: u64,
        sandbox_nonce: &Nonce,
        client_nonce: &Nonce,
    ) -> Self {
        let role: &[u8] = match end {
            End::Client => b"swe-forge client",
            End::Sandbox => b"swe-forge sandbox",
        };
        let mut mac = <Hmac<Sha256> as KeyInit>::new((&key_block(&secret.0)).into());
        mac.update(role);
        mac.update(&epoch.to_le_bytes());
        mac.update(sandbox_nonce);
        mac.update(client_nonce);
        Self(mac.finalize().into_bytes().into())
    }

    /// Whether this is the proof of `end`, compared in constant time.
    #[must_use]
    pub fn is_from(
        &self,
        secret: &Secret,
        end: End,
        epoch: u64,
        sandbox_nonce: &Nonce,
        client_nonce: &Nonce,
    ) -> bool {
        let expected = Self::make(secret, end, epoch, sandbox_nonce, client_nonce);
        self.0.ct_eq(&expected.0).into()
    }
}

/// An HMAC key shorter than the hash's block is padded with zeros (RFC 2104, section 2).
fn key_block(key: &[u8; 32]) -> [u8; 64] {
    let mut block = [0; 64];
    block[..32].copy_from_slice(key);
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_holds_for_its_end_its_epoch_its_nonces_and_its_secret_only() {
        let secret = Secret::new([7; 32]);
        let proof = Proof::make(&secret, End::Client, 3, &[1; 32], &[2; 32]);
        assert!(proof.is_from(&secret, End::Client, 3, &[1; 32], &[2; 32]));
        assert!(!proof.is_from(&secret, End::Sandbox, 3, &[1; 32], &[2; 32]));
        assert!(!proof.is_from(&secret, End::Client, 4, &[1; 32], &[2; 32]));
        assert!(!proof.is_from(&secret, End::Client, 3, &[2; 32], &[1; 32]));
        assert!(!proof.is_from(&Secret::new([8; 32]), End::Client, 3, &[1; 32], &[2; 32]));
    }

    #[test]
    fn a_secret_does_not_show_in_debug_output() {
        assert_eq!(format!("{:?}", Secret::new([42; 32])), "Secret(..)");
    }
}
