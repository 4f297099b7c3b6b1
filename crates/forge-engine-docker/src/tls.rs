//! TLS towards an engine: its certificate is always checked, ours is shown when there is one.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

use crate::endpoint::TlsMaterial;

/// The name that the engine's certificate must carry.
///
/// # Errors
/// When the host part of `authority` is no host name.
pub(crate) fn server_name(authority: &str) -> Result<ServerName<'static>, String> {
    let host = match authority.rsplit_once(':') {
        Some((host, _)) => host.trim_start_matches('[').trim_end_matches(']'),
        None => authority,
    };
    ServerName::try_from(host.to_owned()).map_err(|_| format!("'{host}' is not a host name"))
}

/// Shakes hands with the given material.
///
/// # Errors
/// Which file is of no use and why.
pub(crate) fn connector(material: &TlsMaterial) -> Result<TlsConnector, String> {
    // The provider is named here, so that nothing depends on one installed for the process.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots(material.authority.as_deref())?);
    let config = match (&material.certificate, &material.key) {
        (Some(certificate), Some(key)) => builder
            .with_client_auth_cert(certificates(certificate)?, private_key(key)?)
            .map_err(|error| format!("{}: {error}", certificate.display()))?,
        (None, None) => builder.with_no_client_auth(),
        (Some(lonely), None) | (None, Some(lonely)) => {
            return Err(format!(
                "{} needs both cert.pem and key.pem beside it",
                lonely.display()
            ));
        }
    };
    Ok(TlsConnector::from(Arc::new(config)))
}

/// The named authority alone: with one, no other may vouch for the engine.
fn roots(authority: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    match authority {
        Some(path) => {
            for certificate in certificates(path)? {
                roots
                    .add(certificate)
                    .map_err(|error| format!("{}: {error}", path.display()))?;
            }
        }
        None => {
            let system = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(system.certs);
        }
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let unreadable = |error: rustls::pki_types::pem::Error| format!("{}: {error}", path.display());
    let all = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(unreadable)?;
    if all.is_empty() {
        return Err(format!("{} holds no certificate", path.display()));
    }
    Ok(all)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_checked_is_the_host_without_its_port() {
        for (authority, name) in [("box.lan:2376", "box.lan"), ("[::1]:2376", "::1")] {
            assert_eq!(server_name(authority).unwrap().to_str(), name);
        }
        assert!(server_name("a b:1").is_err());
    }

    #[test]
    fn unusable_material_names_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let empty = folder.path().join("ca.pem");
        std::fs::write(&empty, "").unwrap();
        let material = TlsMaterial {
            authority: Some(empty),
            ..TlsMaterial::default()
        };
        let error = connector(&material).err().unwrap();
        assert!(error.contains("ca.pem"), "{error}");
        let lonely = TlsMaterial {
            key: Some("/k/key.pem".into()),
            ..TlsMaterial::default()
        };
        let error = connector(&lonely).err().unwrap();
        assert!(error.contains("cert.pem"), "{error}");
    }
}
