//! Bundles of certificate authorities: whether a file is one that may be given to sandboxes.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// The largest bundle, in bytes; that of a distribution has a quarter of a megabyte.
pub const MAX_CERTIFICATE_BYTES: u64 = 4 * 1024 * 1024;

/// A file that is no bundle of certificates.
#[derive(Debug, thiserror::Error)]
pub enum CertificatesError {
    /// It cannot be read.
    #[error("it cannot be read")]
    Unreadable(#[source] io::Error),
    /// It is too large to be one.
    #[error("it has more than 4 MiB")]
    TooLarge,
    /// It holds no certificate.
    #[error("it holds no certificate in the PEM format")]
    None,
    /// A certificate in it is damaged.
    #[error("the certificate that begins in line {line} is damaged")]
    Damaged {
        /// The line, from 1.
        line: usize,
    },
    /// It holds a private key, which every sandbox could read.
    #[error("it holds a private key in line {line}, which every sandbox could read")]
    PrivateKey {
        /// The line, from 1.
        line: usize,
    },
}

/// Checks that `path` is a PEM file of certificates and of nothing secret, and counts them.
///
/// # Errors
/// What keeps it from being given to sandboxes.
pub fn check_certificates(path: &Path) -> Result<usize, CertificatesError> {
    count(&String::from_utf8_lossy(&read(path)?))
}

/// The contents of a file, of the very bytes that were checked as [`check_certificates`] does.
///
/// # Errors
/// What keeps them from being given to sandboxes.
pub fn read_certificates(path: &Path) -> Result<Vec<u8>, CertificatesError> {
    let bytes = read(path)?;
    count(&String::from_utf8_lossy(&bytes))?;
    Ok(bytes)
}

fn read(path: &Path) -> Result<Vec<u8>, CertificatesError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_CERTIFICATE_BYTES + 1).read_to_end(&mut bytes))
        .map_err(CertificatesError::Unreadable)?;
    if bytes.len() as u64 > MAX_CERTIFICATE_BYTES {
        return Err(CertificatesError::TooLarge);
    }
    Ok(bytes)
}

fn count(text: &str) -> Result<usize, CertificatesError> {
    let mut certificates = 0;
    // The line at which the open certificate begins, and how many characters it has so far.
    let mut open: Option<(usize, usize)> = None;
    for (number, line) in text.lines().map(str::trim).enumerate() {
        let line_number = number + 1;
        if line.starts_with("-----BEGIN") && line.contains("PRIVATE KEY") {
            return Err(CertificatesError::PrivateKey { line: line_number });
        }
        match (open, line) {
            (None, "-----BEGIN CERTIFICATE-----" | "-----BEGIN TRUSTED CERTIFICATE-----") => {
                open = Some((line_number, 0))
            }
            (None, _) => {}
            (Some((line, 0)), "-----END CERTIFICATE-----") => {
                return Err(CertificatesError::Damaged { line });
            }
            (
                Some((line, length)),
                "-----END CERTIFICATE-----" | "-----END TRUSTED CERTIFICATE-----",
            ) => {
                if length % 4 != 0 {
                    return Err(CertificatesError::Damaged { line });
                }
                certificates += 1;
                open = None;
            }
            (Some((line, length)), data) => {
                if !data.bytes().all(is_base64) {
                    return Err(CertificatesError::Damaged { line });
                }
                open = Some((line, length + data.len()));
            }
        }
    }
    match open {
        Some((line, _)) => Err(CertificatesError::Damaged { line }),
        None if certificates == 0 => Err(CertificatesError::None),
        None => Ok(certificates),
    }
}

const fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=')
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str =
        "# A comment\n-----BEGIN CERTIFICATE-----\nMIIB\nAAAA\n-----END CERTIFICATE-----\n";

    #[test]
    fn certificates_are_counted_and_what_stands_between_them_is_not() {
        assert_eq!(count(ONE).unwrap(), 1);
        assert_eq!(count(&ONE.repeat(3).replace('\n', "\r\n")).unwrap(), 3);
    }

    #[test]
    fn what_is_no_bundle_is_refused_with_the_reason() {
        for (text, said) in [
            ("", "no certificate"),
            ("-----BEGIN CERTIFICATE-----\nMIIB\n", "line 1 is damaged"),
            (
                "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
                "line 1 is damaged",
            ),
            (
                "-----BEGIN CERTIFICATE-----\nM<>B\n-----END CERTIFICATE-----\n",
                "line 1 is damaged",
            ),
            (
                "-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n",
                "line 1 is damaged",
            ),
        ] {
            let error = count(text).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn a_private_key_is_never_given_to_sandboxes() {
        for kind in ["", "RSA ", "EC ", "ENCRYPTED "] {
            let text = format!("{ONE}-----BEGIN {kind}PRIVATE KEY-----\nAAAA\n");
            let error = count(&text).unwrap_err();
            assert!(matches!(error, CertificatesError::PrivateKey { line: 6 }));
        }
    }
}
