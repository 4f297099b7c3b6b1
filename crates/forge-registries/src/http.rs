//! Getting pages over HTTP, with the certificate authorities of this machine.

use std::io;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST, LOCATION, USER_AGENT};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use url::Url;

use crate::fetch::{Fetch, FetchError, Page};

/// Longest that one hop may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Largest page, in bytes; the longest pages of real projects have a tenth of it.
const MAX_PAGE_BYTES: usize = 32 * 1024 * 1024;
/// Redirects that are followed.
const MAX_REDIRECTS: usize = 5;
const AGENT: &str = concat!("swe-forge/", env!("CARGO_PKG_VERSION"));

/// Gets pages from the machine that swe-forge runs on, without any proxy: the egress proxy has no
/// other way out either, so what is not reached here is not reached from sandboxes.
#[derive(Clone)]
pub struct HttpFetch {
    tls: TlsConnector,
}

impl std::fmt::Debug for HttpFetch {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("HttpFetch").finish_non_exhaustive()
    }
}

impl HttpFetch {
    /// Trusts the authorities of this machine and those in `bundle`, a PEM file. Reads files.
    ///
    /// # Errors
    /// When there is no authority at all, or `bundle` cannot be read.
    pub fn new(bundle: Option<&Path>) -> Result<Self, FetchError> {
        let refused = |problem: String| FetchError::Authorities(problem);
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if let Some(bundle) = bundle {
            let said = |error| refused(format!("{}: {error}", bundle.display()));
            let certificates: Vec<_> = CertificateDer::pem_file_iter(bundle)
                .map_err(said)?
                .collect::<Result<_, _>>()
                .map_err(said)?;
            roots.add_parsable_certificates(certificates);
        }
        if roots.is_empty() {
            return Err(refused("there are none".to_owned()));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| refused(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            tls: TlsConnector::from(Arc::new(config)),
        })
    }

    async fn hop(&self, url: &Url, accept: &str) -> Result<Answer, FetchError> {
        let place = authority(url);
        let port = url.port_or_known_default().unwrap_or(443);
        let name = url.host_str().unwrap_or_default();
        let connect = |source| FetchError::Connect {
            host: place.clone(),
            source,
        };
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((bare, port)).await.map_err(connect)?;
        let request = request(url, accept, &place)?;
        if url.scheme() == "http" {
            return exchange(stream, request, &place).await;
        }
        let tls = |source| FetchError::Tls {
            host: place.clone(),
            source,
        };
        let server = ServerName::try_from(bare.to_owned())
            .map_err(|error| tls(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        let stream = self.tls.connect(server, stream).await.map_err(tls)?;
        exchange(stream, request, &place).await
    }
}

/// One answer.
struct Answer {
    status: StatusCode,
    location: Option<String>,
    content_type: String,
    body: Bytes,
}

#[async_trait]
impl Fetch for HttpFetch {
    async fn get(&self, url: &Url, accept: &str) -> Result<Page, FetchError> {
        let mut hops = vec![url.clone()];
        let mut current = url.clone();
        loop {
            let answer = timeout(PATIENCE, self.hop(&current, accept))
                .await
                .map_err(|_| FetchError::Slow {
                    host: authority(&current),
                    seconds: PATIENCE.as_secs(),
                })??;
            match answer.location.filter(|_| answer.status.is_redirection()) {
                None => {
                    return Ok(Page {
                        status: answer.status.as_u16(),
                        content_type: answer.content_type,
                        body: String::from_utf8_lossy(&answer.body).into_owned(),
                        hops,
                    });
                }
                Some(location) => {
                    current = followed(&current, &location, hops.len())?;
                    hops.push(current.clone());
                }
            }
        }
    }
}

/// Where a redirect leads, when it may be followed: not from TLS to plain text, and not for ever.
fn followed(from: &Url, location: &str, hops: usize) -> Result<Url, FetchError> {
    let to = from.join(location).ok();
    let good = |to: &Url| {
        hops <= MAX_REDIRECTS
            && to.has_host()
            && (to.scheme() == "https" || (to.scheme() == "http" && from.scheme() == "http"))
    };
    to.filter(good).ok_or_else(|| FetchError::Redirect {
        url: from.to_string(),
        location: location.to_owned(),
    })
}

/// Host and port, the port left out when it is the usual one.
fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

fn request(url: &Url, accept: &str, place: &str) -> Result<Request<Empty<Bytes>>, FetchError> {
    let target = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    Request::builder()
        .uri(target)
        .header(HOST, place)
        .header(ACCEPT, accept)
        .header(USER_AGENT, AGENT)
        .body(Empty::new())
        .map_err(|error| broken(place)(error.into()))
}

fn broken(place: &str) -> impl Fn(Box<dyn std::error::Error + Send + Sync>) -> FetchError {
    move |source| FetchError::Answer {
        host: place.to_owned(),
        source,
    }
}

/// One request and its answer on a connection of its own.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send,
    request: Request<Empty<Bytes>>,
    place: &str,
) -> Result<Answer, FetchError> {
    let broken = broken(place);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| broken(error.into()))?;
    let mut connection = pin!(connection);
    let mut answer = pin!(async {
        let response = sender.send_request(request).await?;
        read(response).await
    });
    let mut open = true;
    // The connection is driven from here, and may end before its last bytes were taken.
    let read = loop {
        tokio::select! {
            read = &mut answer => break read,
            _ = &mut connection, if open => open = false,
        }
    };
    read.map_err(broken)
}

async fn read(
    response: Response<hyper::body::Incoming>,
) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
    let (head, body) = response.into_parts();
    let header = |name| {
        let value = head.headers.get(name)?;
        Some(value.to_str().ok()?.to_owned())
    };
    let kind = header(CONTENT_TYPE).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default();
    Ok(Answer {
        status: head.status,
        location: header(LOCATION),
        content_type: kind.trim().to_ascii_lowercase(),
        body: Limited::new(body, MAX_PAGE_BYTES)
            .collect()
            .await?
            .to_bytes(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    /// Serves these answers, one connection each, and gives the requests.
    async fn serve(listener: TcpListener, answers: Vec<String>) -> Vec<String> {
        let mut requests = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            requests.push(String::from_utf8(request).unwrap());
        }
        requests
    }

    #[tokio::test]
    async fn redirects_are_followed_and_every_hop_is_told() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let answers = vec![
            "HTTP/1.1 301 Moved\r\nlocation: /there/?a=b\r\ncontent-length: 0\r\n\r\n".into(),
            "HTTP/1.1 200 OK\r\nContent-Type: Text/HTML; charset=utf-8\r\n\r\nhello".into(),
        ];
        let fetch = HttpFetch::new(None).unwrap();
        let first = url(&format!("http://127.0.0.1:{port}/here"));
        let (page, requests) =
            tokio::join!(fetch.get(&first, "text/html"), serve(listener, answers));
        let page = page.unwrap();
        assert_eq!((page.status, page.body.as_str()), (200, "hello"));
        assert_eq!(page.content_type, "text/html");
        let paths: Vec<&str> = page.hops.iter().map(Url::path).collect();
        assert_eq!(paths, ["/here", "/there/"]);
        assert!(requests[1].starts_with("GET /there/?a=b HTTP/1.1\r\n"));
        assert!(requests[1].contains("accept: text/html"));
    }

    #[test]
    fn a_redirect_out_of_tls_or_in_circles_is_not_followed() {
        let from = url("https://a.test/x");
        assert_eq!(followed(&from, "y", 1).unwrap(), url("https://a.test/y"));
        for location in [
            "http://a.test/",
            "file:///etc/passwd",
            "https://",
            "ftp://a.test/",
        ] {
            assert!(followed(&from, location, 1).is_err(), "{location}");
        }
        assert!(followed(&from, "y", MAX_REDIRECTS + 1).is_err());
    }

    #[tokio::test]
    async fn what_does_not_answer_is_an_error_with_its_place() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let fetch = HttpFetch::new(None).unwrap();
        let place = url(&format!("http://{address}/"));
        let (page, _) = tokio::join!(
            fetch.get(&place, "*/*"),
            serve(listener, vec!["nonsense\r\n\r\n".into()])
        );
        assert!(
            matches!(page.unwrap_err(), FetchError::Answer { host, .. } if host == address.to_string())
        );
        let gone = fetch.get(&place, "*/*").await.unwrap_err();
        assert!(matches!(gone, FetchError::Connect { .. }));
    }
}
