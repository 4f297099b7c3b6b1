//! A connection to one engine whose version is known and good.

use std::fmt;
use std::io;
use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error as BollardError;
use bollard::models::SystemVersion;

use crate::endpoint::Endpoint;
use crate::failure::{innermost, io_kind};
use crate::transport::{ApiVersion, Dialler, HOST_NAME, Transport};

/// How long an engine may take to say which version it is.
const GREETING_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a request may take: a busy engine with a hundred creates in hand needs its time.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);
/// The same where the engine works on a whole image.
const IMAGE_TIMEOUT: Duration = Duration::from_secs(3600);

/// Why an engine at a place cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The socket does not exist.
    NotThere,
    /// It exists, and is not for us.
    PermissionDenied,
    /// Nobody listens.
    ConnectionRefused,
    /// Nobody answers.
    Silent,
    /// It speaks another version.
    Version(String),
    /// Anything else.
    Other(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::NotThere => "there is nothing",
            Self::PermissionDenied => {
                "permission denied; add your user to the group of the socket, or run as root"
            }
            Self::ConnectionRefused => "connection refused; the engine is not running",
            Self::Silent => "no answer",
            Self::Version(text) | Self::Other(text) => text,
        })
    }
}

impl Refusal {
    fn of(error: &BollardError) -> Self {
        match (io_kind(error), error) {
            (Some(io::ErrorKind::NotFound), _) => Self::NotThere,
            (Some(io::ErrorKind::PermissionDenied), _) => Self::PermissionDenied,
            (Some(io::ErrorKind::ConnectionRefused), _) => Self::ConnectionRefused,
            (Some(io::ErrorKind::TimedOut), _) | (_, BollardError::RequestTimeoutError) => {
                Self::Silent
            }
            _ => Self::Other(innermost(error)),
        }
    }
}

/// A connection to one engine.
#[derive(Clone)]
pub(crate) struct Client {
    /// For requests the engine answers soon.
    pub(crate) docker: Docker,
    /// For requests that move or build images.
    pub(crate) patient: Docker,
    /// For hijacked streams.
    pub(crate) transport: Transport,
    /// Where the engine is.
    pub(crate) endpoint: Endpoint,
    /// The version of its interface in use.
    pub(crate) api_version: ApiVersion,
    /// What it said about itself.
    pub(crate) version: SystemVersion,
}

impl fmt::Debug for Client {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "Client({}, v{})",
            self.endpoint, self.api_version
        )
    }
}

impl Client {
    /// Connects and agrees on a version.
    ///
    /// # Errors
    /// Why this engine cannot be used.
    pub(crate) async fn connect(endpoint: Endpoint) -> Result<Self, Refusal> {
        let dialler = Dialler::new(&endpoint).map_err(Refusal::Other)?;
        let unversioned = Transport::unversioned(dialler);
        let greeting = docker(unversioned.clone(), GREETING_TIMEOUT)?;
        let version = match tokio::time::timeout(GREETING_TIMEOUT, greeting.version()).await {
            Ok(answer) => answer.map_err(|error| Refusal::of(&error))?,
            Err(_) => return Err(Refusal::Silent),
        };
        let api_version = agree(&version).map_err(Refusal::Version)?;
        let transport = unversioned.with_version(api_version);
        Ok(Self {
            docker: docker(transport.clone(), REQUEST_TIMEOUT)?,
            patient: docker(transport.clone(), IMAGE_TIMEOUT)?,
            transport,
            endpoint,
            api_version,
            version,
        })
    }
}

fn docker(transport: Transport, timeout: Duration) -> Result<Docker, Refusal> {
    let address = format!("http://{HOST_NAME}");
    Docker::connect_with_custom_transport(
        move |request| transport.clone().send(request),
        Some(address),
        timeout.as_secs(),
        bollard::API_DEFAULT_VERSION,
    )
    .map_err(|error| Refusal::Other(innermost(&error)))
}

/// The newest version both sides know.
fn agree(version: &SystemVersion) -> Result<ApiVersion, String> {
    let said = version.api_version.as_deref().unwrap_or_default();
    let engine = version.version.as_deref().unwrap_or("of unknown version");
    let Some(newest) = ApiVersion::parse(said) else {
        return Err(format!("what answers is no Docker engine (API '{said}')"));
    };
    if newest < ApiVersion::OLDEST {
        return Err(format!(
            "the engine {engine} speaks API {newest}, at least {} is needed (Docker 20.10)",
            ApiVersion::OLDEST
        ));
    }
    let oldest = version
        .min_api_version
        .as_deref()
        .and_then(ApiVersion::parse);
    match oldest.filter(|oldest| *oldest > ApiVersion::NEWEST) {
        Some(oldest) => Err(format!(
            "the engine {engine} needs API {oldest} or later, this program knows {} at most",
            ApiVersion::NEWEST
        )),
        None => Ok(newest.min(ApiVersion::NEWEST)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(newest: &str, oldest: &str) -> SystemVersion {
        SystemVersion {
            version: Some("9.9".into()),
            api_version: Some(newest.into()),
            min_api_version: Some(oldest.into()),
            ..SystemVersion::default()
        }
    }

    #[test]
    fn the_newest_version_that_both_know_is_used() {
        assert_eq!(agree(&version("1.41", "1.12")), Ok(ApiVersion::OLDEST));
        assert_eq!(agree(&version("1.99", "1.44")), Ok(ApiVersion::NEWEST));
    }

    #[test]
    fn an_engine_too_old_or_too_new_is_refused_in_words() {
        let error = agree(&version("1.40", "1.12")).unwrap_err();
        assert!(error.contains("1.40") && error.contains("1.41"), "{error}");
        let error = agree(&version("1.99", "1.98")).unwrap_err();
        assert!(error.contains("1.98"), "{error}");
        assert!(agree(&version("", "")).is_err());
    }
}
