//! Docker contexts, as the `docker` command keeps them below its configuration folder.

use std::path::Path;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::endpoint::{Endpoint, TlsMaterial};

/// The context that stands for "no context".
const DEFAULT: &str = "default";

#[derive(Deserialize)]
struct Configuration {
    #[serde(rename = "currentContext", default)]
    current_context: String,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(rename = "Endpoints", default)]
    endpoints: std::collections::BTreeMap<String, MetadataEndpoint>,
}

#[derive(Deserialize)]
struct MetadataEndpoint {
    #[serde(rename = "Host", default)]
    host: String,
    #[serde(rename = "SkipTLSVerify", default)]
    skip_tls_verify: bool,
}

/// The context in use: named by the environment, else by `config.json` in `folder`.
///
/// # Errors
/// When `config.json` is there and cannot be read as what it should be.
pub(crate) fn current(folder: &Path, named: Option<&str>) -> Result<Option<String>, String> {
    let name = match named {
        Some(name) => name.to_owned(),
        None => {
            let path = folder.join("config.json");
            let text = match std::fs::read(&path) {
                Ok(text) => text,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(format!("{} cannot be read: {error}", path.display())),
            };
            let configuration: Configuration = serde_json::from_slice(&text)
                .map_err(|error| format!("{} is not valid: {error}", path.display()))?;
            configuration.current_context
        }
    };
    Ok((!name.is_empty() && name != DEFAULT).then_some(name))
}

/// Where the engine of context `name` listens.
///
/// # Errors
/// A sentence for the person who made the context.
pub(crate) fn endpoint(folder: &Path, name: &str) -> Result<Endpoint, String> {
    let id = hex(&Sha256::digest(name.as_bytes()));
    let path = folder.join("contexts/meta").join(&id).join("meta.json");
    let text = std::fs::read(&path)
        .map_err(|error| format!("there is no context '{name}': {}: {error}", path.display()))?;
    let metadata: Metadata = serde_json::from_slice(&text)
        .map_err(|error| format!("{} is not valid: {error}", path.display()))?;
    let docker = metadata
        .endpoints
        .get("docker")
        .filter(|endpoint| !endpoint.host.is_empty())
        .ok_or_else(|| format!("context '{name}' has no Docker endpoint"))?;
    let tls = tls_material(&folder.join("contexts/tls").join(&id).join("docker"));
    if docker.skip_tls_verify && docker.host.starts_with("tcp://") {
        return Err(format!(
            "context '{name}' skips the check of the engine's certificate, which swe-forge never \
             does; put the engine's authority into the context instead"
        ));
    }
    Endpoint::parse(&docker.host, tls)
}

fn tls_material(folder: &Path) -> Option<TlsMaterial> {
    let file = |name: &str| Some(folder.join(name)).filter(|path| path.is_file());
    let material = TlsMaterial {
        authority: file("ca.pem"),
        certificate: file("cert.pem"),
        key: file("key.pem"),
    };
    (material != TlsMaterial::default()).then_some(material)
}

/// Lower-case hexadecimal digits of `bytes`.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a text is exactly so many of these digits.
pub(crate) fn is_hex(text: &str, length: usize) -> bool {
    let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.len() == length && text.bytes().all(digit)
}
