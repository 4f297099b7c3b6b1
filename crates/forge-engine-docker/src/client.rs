//! A connection to one engine whose version is known and good.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error as BollardError;
use bollard::models::{Network, SystemVersion};
use bollard::query_parameters::ListNetworksOptions;

use crate::endpoint::Endpoint;
use crate::failure::{innermost, io_kind, is_not_found};
use crate::transport::{ApiVersion, Dialler, HOST_NAME, Transport};

/// How long an engine may take to say which version it is.
const GREETING_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a request may take: a busy engine with a hundred creates in hand needs its time.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);
/// The same where the engine works on a whole image.
const IMAGE_TIMEOUT: Duration = Duration::from_secs(3600);

/// How long what nobody waits for may hold up whoever does it beside something else.
const PASSING: Duration = Duration::from_secs(3);

/// Does something nobody waits for, as long as it takes next to no time: a removal that an engine
/// under load does not get to is no reason to keep a run from going on.
pub(crate) async fn in_passing(what: &str, work: impl Future<Output = ()>) {
    if tokio::time::timeout(PASSING, work).await.is_err() {
        tracing::debug!(what, "the engine is slow, and this is not waited for");
    }
}

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

    /// Removes every network of a name; success when there is none. An engine that is asked twice
    /// at once may make two, and then knows neither by the name. All are tried, and the first
    /// failure is told.
    pub(crate) async fn remove_networks(&self, name: &str) -> Result<(), BollardError> {
        let options = ListNetworksOptions {
            filters: Some(HashMap::from([("name".to_owned(), vec![name.to_owned()])])),
        };
        let found = self.docker.list_networks(Some(options)).await?;
        let mut result = Ok(());
        for id in identifiers(found, name) {
            let removed = match self.docker.remove_network(&id).await {
                Err(error) if is_not_found(&error) => Ok(()),
                other => other,
            };
            result = result.and(removed);
        }
        result
    }
}

/// The identifiers of the networks of exactly this name: an engine finds every name that has it
/// as a part.
fn identifiers(networks: Vec<Network>, name: &str) -> impl Iterator<Item = String> {
    networks
        .into_iter()
        .filter(move |network| network.name.as_deref() == Some(name))
        .filter_map(|network| network.id)
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

    #[tokio::test(start_paused = true)]
    async fn what_nobody_waits_for_holds_up_for_a_moment_only() {
        let start = tokio::time::Instant::now();
        in_passing("a removal", std::future::pending()).await;
        assert_eq!(start.elapsed(), PASSING);
        let mut is_done = false;
        in_passing("a removal", async { is_done = true }).await;
        assert!(is_done);
    }

    #[test]
    fn networks_of_a_name_are_all_that_have_it_and_no_other() {
        let network = |name: &str, id: &str| Network {
            name: Some(name.into()),
            id: Some(id.into()),
            ..Network::default()
        };
        let all = vec![network("a", "1"), network("a-b", "2"), network("a", "3")];
        assert!(identifiers(all, "a").eq(["1", "3"]));
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
