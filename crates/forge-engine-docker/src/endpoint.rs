//! Where an engine listens.

use std::fmt;
use std::path::PathBuf;

/// Files for a connection protected by TLS.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsMaterial {
    /// Certificates that the engine's certificate is checked against; the system's when `None`.
    pub authority: Option<PathBuf>,
    /// Our certificate.
    pub certificate: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
}

/// Where an engine listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A unix socket.
    Unix(PathBuf),
    /// A TCP port without protection.
    Tcp(String),
    /// A TCP port behind TLS, always with a check of the engine's certificate.
    Tls {
        /// `host:port`.
        authority: String,
        /// Certificates and key.
        material: TlsMaterial,
    },
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(formatter, "unix://{}", path.display()),
            Self::Tcp(authority) => write!(formatter, "tcp://{authority}"),
            Self::Tls { authority, .. } => write!(formatter, "tcp://{authority} (TLS)"),
        }
    }
}

impl Endpoint {
    /// Reads an address as `DOCKER_HOST` holds it; `tls` is used when the address is TCP.
    ///
    /// # Errors
    /// A sentence for the person who wrote the address.
    pub fn parse(address: &str, tls: Option<TlsMaterial>) -> Result<Self, String> {
        let (scheme, rest) = match address.split_once("://") {
            Some(parts) => parts,
            None if address.starts_with('/') => ("unix", address),
            None => {
                return Err(format!(
                    "'{address}' is not an address: write unix:///path or tcp://host:port"
                ));
            }
        };
        match scheme {
            "unix" if rest.starts_with('/') => Ok(Self::Unix(PathBuf::from(rest))),
            "unix" => Err(format!("'{address}' needs an absolute path")),
            "tcp" | "http" | "https" => {
                let authority = authority(rest, tls.is_some() || scheme == "https")
                    .ok_or_else(|| format!("'{address}' needs a host and a port"))?;
                match tls {
                    Some(material) => Ok(Self::Tls {
                        authority,
                        material,
                    }),
                    None if scheme == "https" => Ok(Self::Tls {
                        authority,
                        material: TlsMaterial::default(),
                    }),
                    None => Ok(Self::Tcp(authority)),
                }
            }
            "ssh" => Err(format!(
                "'{address}': ssh is not spoken here; forward the socket with \
                 `ssh -nNT -L /tmp/docker.sock:/var/run/docker.sock {rest}` \
                 and use unix:///tmp/docker.sock"
            )),
            "npipe" => Err(format!(
                "'{address}': Windows named pipes are not supported"
            )),
            _ => Err(format!("'{address}': unknown scheme '{scheme}'")),
        }
    }
}

/// `host:port` with the usual port filled in; `None` when it is malformed.
fn authority(rest: &str, tls: bool) -> Option<String> {
    let text = rest.trim_end_matches('/');
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    if text.is_empty() || !text.bytes().all(allowed) {
        return None;
    }
    let port = if tls { 2376 } else { 2375 };
    let after_host = match text.rfind(']') {
        Some(end) if text.starts_with('[') => &text[end + 1..],
        Some(_) => return None,
        None => text.find(':').map_or("", |colon| &text[colon..]),
    };
    match after_host.strip_prefix(':') {
        Some(digits) => digits.parse::<u16>().ok().map(|_| text.to_owned()),
        None if after_host.is_empty() => Some(format!("{text}:{port}")),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_the_docker_command_reads_them() {
        let parse = |text| Endpoint::parse(text, None);
        assert_eq!(
            parse("unix:///run/d.sock"),
            Ok(Endpoint::Unix("/run/d.sock".into()))
        );
        assert_eq!(parse("/run/d.sock"), parse("unix:///run/d.sock"));
        assert_eq!(
            parse("tcp://box:2375"),
            Ok(Endpoint::Tcp("box:2375".into()))
        );
        assert_eq!(parse("tcp://box"), Ok(Endpoint::Tcp("box:2375".into())));
        assert_eq!(parse("tcp://[::1]"), Ok(Endpoint::Tcp("[::1]:2375".into())));
        assert_eq!(
            parse("tcp://[::1]:99"),
            Ok(Endpoint::Tcp("[::1]:99".into()))
        );
    }

    #[test]
    fn an_address_that_cannot_be_used_says_what_to_do_instead() {
        for (text, hint) in [
            ("ssh://me@box", "forward the socket"),
            ("npipe:////./pipe/docker_engine", "named pipes"),
            ("unix://relative", "absolute"),
            ("tcp://", "host and a port"),
            ("tcp://box:port", "host and a port"),
            ("tcp://a b", "host and a port"),
            ("box", "tcp://host:port"),
            ("ftp://box", "unknown scheme"),
        ] {
            let error = Endpoint::parse(text, None).unwrap_err();
            assert!(error.contains(hint), "{text}: {error}");
        }
    }

    #[test]
    fn tls_material_makes_a_protected_endpoint_with_its_own_port() {
        let tls = Endpoint::parse("tcp://box", Some(TlsMaterial::default())).unwrap();
        assert!(
            matches!(&tls, Endpoint::Tls { authority, .. } if authority == "box:2376"),
            "{tls}"
        );
    }
}
