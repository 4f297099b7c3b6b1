//! Connections to an engine: how they are dialled, and how the API version gets into every path.
//!
//! bollard 0.21 forgets the version prefix (its URI builder joins an absolute path onto it), so
//! the engine would answer in the shape of whatever version it likes best. The prefix is put in
//! here, below bollard, which also makes the same connections usable for hijacked streams.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bollard::errors::Error as BollardError;
use bytes::Bytes;
use forge_engine::channel::Duplex;
use futures::Stream;
use futures::future::BoxFuture;
use http_body_util::{BodyExt, Either, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderValue, UPGRADE};
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::endpoint::Endpoint;
use crate::tls;

/// How long dialling a TCP address may take; a unix socket answers at once or not at all.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// After so long without a word from an engine's machine it is asked whether it is there, and so
/// often, so far apart, before it counts as gone.
const SILENCE_SECONDS: u32 = 15;
const PROBES: u32 = 3;
const PROBE_SECONDS: u32 = 5;
/// How long an engine may take to turn a request into a raw stream.
const HIJACK_TIMEOUT: Duration = Duration::from_secs(60);
/// The host name in requests; which machine is meant is decided by the dialler.
pub(crate) const HOST_NAME: &str = "docker";

/// The request body type of bollard, spelled out because its own name for it is private.
pub(crate) type Body = Either<
    Full<Bytes>,
    StreamBody<Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, io::Error>> + Send>>>,
>;

/// Dials the engine.
#[derive(Clone)]
pub(crate) struct Dialler {
    target: Arc<Target>,
}

enum Target {
    Unix(std::path::PathBuf),
    Tcp(String),
    Tls {
        authority: String,
        name: rustls::pki_types::ServerName<'static>,
        connector: TlsConnector,
    },
}

impl Dialler {
    /// A dialler for `endpoint`.
    ///
    /// # Errors
    /// What is wrong with the certificates.
    pub(crate) fn new(endpoint: &Endpoint) -> Result<Self, String> {
        let target = match endpoint {
            Endpoint::Unix(path) => Target::Unix(path.clone()),
            Endpoint::Tcp(authority) => Target::Tcp(authority.clone()),
            Endpoint::Tls {
                authority,
                material,
            } => Target::Tls {
                authority: authority.clone(),
                name: tls::server_name(authority)?,
                connector: tls::connector(material)?,
            },
        };
        Ok(Self {
            target: Arc::new(target),
        })
    }

    async fn dial(self) -> io::Result<TokioIo<Wire>> {
        let duplex: Box<dyn Duplex> = match &*self.target {
            Target::Unix(path) => Box::new(UnixStream::connect(path).await?),
            Target::Tcp(authority) => Box::new(tcp(authority).await?),
            Target::Tls {
                authority,
                name,
                connector,
            } => {
                let plain = tcp(authority).await?;
                let protected = connector.connect(name.clone(), plain);
                Box::new(within(protected).await?)
            }
        };
        Ok(TokioIo::new(Wire(duplex)))
    }
}

async fn tcp(authority: &str) -> io::Result<TcpStream> {
    let stream = within(TcpStream::connect(authority)).await?;
    stream.set_nodelay(true)?;
    keep_alive(&stream)?;
    Ok(stream)
}

/// Has the kernel find out when the engine's machine is gone. Many answers have no deadline, since
/// nobody knows how long a container runs.
fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &SILENCE_SECONDS)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &PROBE_SECONDS)?;
    setsockopt(stream, sockopt::TcpKeepCount, &PROBES)?;
    Ok(())
}

async fn within<T>(dialling: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match tokio::time::timeout(DIAL_TIMEOUT, dialling).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut)),
    }
}

impl tower_service::Service<Uri> for Dialler {
    type Response = TokioIo<Wire>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        Box::pin(self.clone().dial())
    }
}

/// One connection to an engine.
pub(crate) struct Wire(Box<dyn Duplex>);

impl Connection for Wire {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

/// Sends requests to one engine, each with the API version in its path.
#[derive(Clone)]
pub(crate) struct Transport {
    http: Client<Dialler, Body>,
    prefix: Arc<str>,
}

impl Transport {
    /// A transport that asks for no version: only good for asking which versions there are.
    pub(crate) fn unversioned(dialler: Dialler) -> Self {
        let http = Client::builder(TokioExecutor::new())
            // A connection of its own for each request: a kept one that the engine has closed
            // meanwhile would fail a request that must not be sent twice.
            .pool_max_idle_per_host(0)
            .build(dialler);
        Self {
            http,
            prefix: Arc::from(""),
        }
    }

    /// The same connections with `version` in every path.
    pub(crate) fn with_version(&self, version: ApiVersion) -> Self {
        Self {
            http: self.http.clone(),
            prefix: Arc::from(format!("/v{version}")),
        }
    }

    /// Sends one request.
    pub(crate) async fn send(
        self,
        mut request: Request<Body>,
    ) -> Result<Response<Incoming>, BollardError> {
        let uri = versioned(request.uri(), &self.prefix)?;
        *request.uri_mut() = uri;
        Ok(self.http.request(request).await?)
    }

    /// Asks for what the engine sends for as long as it likes; returns when it has begun.
    pub(crate) async fn listen(&self, path: &str) -> Result<Incoming, BollardError> {
        let request = Request::builder()
            .method(Method::GET)
            .uri(format!("http://{HOST_NAME}{path}"))
            .header(HOST, HeaderValue::from_static(HOST_NAME))
            .body(Either::Left(Full::default()))?;
        let asking = async {
            let response = self.clone().send(request).await?;
            if response.status() == StatusCode::OK {
                return Ok(response.into_body());
            }
            Err(refusal(response).await?)
        };
        match tokio::time::timeout(HIJACK_TIMEOUT, asking).await {
            Ok(result) => result,
            Err(_) => Err(BollardError::RequestTimeoutError),
        }
    }

    /// Posts `body` to `path` and takes the connection over as a raw stream.
    ///
    /// # Errors
    /// As for any request; [`BollardError::RequestTimeoutError`] when no stream comes of it.
    pub(crate) async fn hijack(
        &self,
        path: &str,
        body: Bytes,
    ) -> Result<TokioIo<Upgraded>, BollardError> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://{HOST_NAME}{path}"))
            .header(HOST, HeaderValue::from_static(HOST_NAME))
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .header(CONNECTION, HeaderValue::from_static("Upgrade"))
            .header(UPGRADE, HeaderValue::from_static("tcp"))
            .body(Either::Left(Full::new(body)))?;
        let hijacking = async {
            let response = self.clone().send(request).await?;
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                return Ok(TokioIo::new(hyper::upgrade::on(response).await?));
            }
            Err(refusal(response).await?)
        };
        match tokio::time::timeout(HIJACK_TIMEOUT, hijacking).await {
            Ok(result) => result,
            Err(_) => Err(BollardError::RequestTimeoutError),
        }
    }
}

/// What an engine says that does not do what it was asked for.
async fn refusal(response: Response<Incoming>) -> Result<BollardError, BollardError> {
    let status_code = response.status().as_u16();
    let bytes = response.into_body().collect().await?.to_bytes();
    Ok(BollardError::DockerResponseServerError {
        status_code,
        message: error_message(&bytes),
    })
}

/// What the engine says in the body of an error.
fn error_message(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Answer {
        message: String,
    }
    match serde_json::from_slice::<Answer>(body) {
        Ok(answer) => answer.message,
        Err(_) => String::from_utf8_lossy(body).trim().to_owned(),
    }
}

fn versioned(uri: &Uri, prefix: &str) -> Result<Uri, BollardError> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    // A later bollard may send the prefix itself; twice would be no path at all.
    let prefix = if path.starts_with("/v1.") { "" } else { prefix };
    Ok(format!("http://{HOST_NAME}{prefix}{path}").parse()?)
}

/// A version of the engine's interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ApiVersion {
    /// Before the dot.
    pub(crate) major: usize,
    /// Behind the dot.
    pub(crate) minor: usize,
}

impl ApiVersion {
    /// The oldest that has everything used here.
    pub(crate) const OLDEST: Self = Self {
        major: 1,
        minor: 41,
    };
    /// The newest whose answers bollard can read.
    pub(crate) const NEWEST: Self = Self {
        major: bollard::API_DEFAULT_VERSION.major_version,
        minor: bollard::API_DEFAULT_VERSION.minor_version,
    };

    /// Reads `1.41`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once('.')?;
        Some(Self {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
        })
    }
}

impl std::fmt::Display for ApiVersion {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::getsockopt;

    #[test]
    fn the_version_gets_into_every_path_exactly_once() {
        let change = |text: &str| {
            versioned(&text.parse().unwrap(), "/v1.41")
                .unwrap()
                .to_string()
        };
        assert_eq!(
            change("http://docker/info?x=%20y"),
            "http://docker/v1.41/info?x=%20y"
        );
        assert_eq!(
            change("http://docker/v1.41/info"),
            "http://docker/v1.41/info"
        );
        let volumes = change("http://docker/volumes");
        assert_eq!(volumes, "http://docker/v1.41/volumes");
    }

    #[tokio::test]
    async fn an_engine_s_machine_that_is_gone_is_noticed() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let stream = tcp(&address).await.unwrap();
        assert!(getsockopt(&stream, sockopt::KeepAlive).unwrap());
        assert_eq!(getsockopt(&stream, sockopt::TcpKeepIdle).unwrap(), 15);
        assert_eq!(getsockopt(&stream, sockopt::TcpKeepInterval).unwrap(), 5);
        assert_eq!(getsockopt(&stream, sockopt::TcpKeepCount).unwrap(), 3);
    }

    #[test]
    fn versions_compare_as_numbers() {
        assert!(ApiVersion::parse("1.9").unwrap() < ApiVersion::OLDEST);
        assert!(ApiVersion::parse("1.100").unwrap() > ApiVersion::NEWEST);
        assert_eq!(ApiVersion::parse("one"), None);
    }
}
