//! Heads of HTTP/1 requests, read strictly: what two programs could read differently is refused.
//!
//! Form by RFC 9112 and RFC 9110, without what these allow for the sake of old programs: folded
//! lines, line ends without a carriage return, empty lines before the request, lengths given twice.

use forge_core::connection::ConnectionMode;
use forge_core::egress::{DenialReason, HTTP_PORT};

use crate::names::{Host, parse_authority};

/// The longest head, in bytes, with the empty line that ends it.
pub const MOST_BYTES: usize = 16 * 1024;
/// The most header lines.
pub const MOST_HEADERS: usize = 100;
/// The header by which forge-init says how a connection came.
pub const MODE_HEADER: &str = "x-swe-forge-mode";
/// The most options of the connection that one side names, each of which is compared with every
/// header.
pub(crate) const MOST_OPTIONS: usize = 32;

/// The longest method, in bytes.
const MOST_METHOD: usize = 32;
/// The most digits of a length.
const MOST_LENGTH_DIGITS: usize = 19;
/// Headers that are for the next hop only, or that [`rewrite`] writes itself.
const NOT_PASSED_ON: [&str; 9] = [
    "connection",
    "content-length",
    "host",
    "http2-settings",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// Beginnings of names of headers that are for the proxy.
const FOR_PROXY: [&str; 2] = ["proxy-", "x-swe-forge-"];

/// What a request is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestTarget {
    /// `CONNECT host:port`.
    Connect {
        /// Where to.
        host: Host,
        /// The port.
        port: u16,
    },
    /// `GET http://host:port/path`.
    Absolute {
        /// Where to.
        host: Host,
        /// The port, 80 when the client names none.
        port: u16,
        /// Path and query, never empty.
        path: String,
    },
    /// `GET /path`.
    Origin {
        /// Path and query, never empty.
        path: String,
    },
}

/// How the end of a request's body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// There is none.
    None,
    /// So many bytes.
    Length(u64),
    /// In chunks.
    Chunked,
}

/// The version of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// A header line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Its name, in the client's case.
    pub name: String,
    /// Its value, without white space around it.
    pub value: Vec<u8>,
}

/// The head of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHead {
    /// The method, in the client's case.
    pub method: String,
    /// What it is for.
    pub target: RequestTarget,
    /// The version.
    pub version: Version,
    /// The header lines in order.
    pub headers: Vec<Header>,
    /// How the body ends.
    pub body: Body,
    /// How the connection came, as the sandbox says.
    pub mode: ConnectionMode,
    /// Whether the client will send another request after this one.
    pub keep_alive: bool,
}

impl RequestHead {
    /// The value of the first header of a name, whatever its case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers
            .iter()
            .find(|header| header.name.eq_ignore_ascii_case(name))
            .map(|header| header.value.as_slice())
    }
}

/// What can be said of the first bytes of a request.
///
/// Only [`NeedMore`](Self::NeedMore) changes when more bytes come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeadProgress {
    /// More must come.
    NeedMore,
    /// The head is whole.
    Complete {
        /// What it says.
        head: RequestHead,
        /// How many bytes it took; what follows is body, tunnel or the next request.
        consumed: usize,
    },
    /// It is not served.
    Refused(DenialReason),
}

/// Looks at the first bytes of a request, all that have come so far.
#[must_use]
pub fn parse(bytes: &[u8]) -> HeadProgress {
    let full = bytes.len() >= MOST_BYTES;
    let bytes = bytes.get(..MOST_BYTES).unwrap_or(bytes);
    match extent(bytes) {
        Extent::Broken => HeadProgress::Refused(DenialReason::BadRequest),
        Extent::Open if full => HeadProgress::Refused(DenialReason::BadRequest),
        Extent::Open => HeadProgress::NeedMore,
        Extent::Ends(consumed) => {
            let lines = bytes.get(..consumed.saturating_sub(4)).unwrap_or_default();
            match read(lines) {
                Ok(head) => HeadProgress::Complete { head, consumed },
                Err(reason) => HeadProgress::Refused(reason),
            }
        }
    }
}

/// How far a head goes.
enum Extent {
    /// The empty line has not come.
    Open,
    /// It ends before this byte.
    Ends(usize),
    /// It has bytes that no head has, or it begins with none that a request begins with.
    Broken,
}

fn extent(bytes: &[u8]) -> Extent {
    if bytes.first().is_some_and(|first| !is_token_byte(*first)) {
        return Extent::Broken;
    }
    let mut previous = 0;
    let mut line_start = 0;
    for (index, byte) in bytes.iter().copied().enumerate() {
        match byte {
            b'\n' if previous != b'\r' => return Extent::Broken,
            b'\n' if index == line_start + 1 => return Extent::Ends(index + 1),
            b'\n' => line_start = index + 1,
            _ if previous == b'\r' => return Extent::Broken,
            b'\r' | b'\t' => {}
            _ if byte.is_ascii_control() => return Extent::Broken,
            _ => {}
        }
        previous = byte;
    }
    Extent::Open
}

/// Reads the lines of a head, the empty one and the line end before it left out.
fn read(lines: &[u8]) -> Result<RequestHead, DenialReason> {
    let mut lines = lines
        .split(|byte| *byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let request_line = lines.next().unwrap_or_default();
    let (method, target, version) = read_request_line(request_line)?;
    let headers: Vec<Header> = lines
        .take(MOST_HEADERS + 1)
        .map(read_header)
        .collect::<Option<_>>()
        .ok_or(DenialReason::BadRequest)?;
    if headers.len() > MOST_HEADERS {
        return Err(DenialReason::BadRequest);
    }
    if options(&headers, "connection").nth(MOST_OPTIONS).is_some() {
        return Err(DenialReason::BadRequest);
    }
    let hosts = named(&headers, "host").count();
    let needs_host = version == Version::Http11 && matches!(target, RequestTarget::Origin { .. });
    if hosts > 1 || (needs_host && hosts == 0) {
        return Err(DenialReason::BadRequest);
    }
    let body = read_body(&headers, version).ok_or(DenialReason::BadRequest)?;
    let is_tunnel = matches!(target, RequestTarget::Connect { .. });
    if is_tunnel && !matches!(body, Body::None | Body::Length(0)) {
        return Err(DenialReason::BadRequest);
    }
    let mode = read_mode(&headers, is_tunnel).ok_or(DenialReason::BadRequest)?;
    let keep_alive = read_keep_alive(&headers, version);
    Ok(RequestHead {
        method,
        target,
        version,
        headers,
        body,
        mode,
        keep_alive,
    })
}

fn read_request_line(line: &[u8]) -> Result<(String, RequestTarget, Version), DenialReason> {
    let mut parts = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(DenialReason::BadRequest);
    };
    let version = match version {
        b"HTTP/1.0" => Version::Http10,
        b"HTTP/1.1" => Version::Http11,
        _ => return Err(DenialReason::BadRequest),
    };
    let is_method =
        (1..=MOST_METHOD).contains(&method.len()) && method.iter().copied().all(is_token_byte);
    if !is_method {
        return Err(DenialReason::BadRequest);
    }
    let target = if method == b"CONNECT" {
        let (host, port) = parse_authority(target, None)?;
        RequestTarget::Connect { host, port }
    } else {
        read_target(target)?
    };
    Ok((ascii(method), target, version))
}

/// Reads the target of a request that is no tunnel.
fn read_target(target: &[u8]) -> Result<RequestTarget, DenialReason> {
    if target.starts_with(b"/") {
        let path = read_path(target)?;
        return Ok(RequestTarget::Origin { path });
    }
    const SCHEME: &[u8] = b"http://";
    let rest = match target.split_at_checked(SCHEME.len()) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(SCHEME) => rest,
        _ => return Err(DenialReason::BadRequest),
    };
    let end = rest
        .iter()
        .position(|byte| matches!(byte, b'/' | b'?' | b'#'))
        .unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let (host, port) = parse_authority(authority, Some(HTTP_PORT))?;
    let mut path = read_path(path)?;
    if !path.starts_with('/') {
        path.insert(0, '/');
    }
    Ok(RequestTarget::Absolute { host, port, path })
}

fn read_path(path: &[u8]) -> Result<String, DenialReason> {
    let proper = path
        .iter()
        .all(|byte| byte.is_ascii_graphic() && *byte != b'#');
    if proper {
        Ok(ascii(path))
    } else {
        Err(DenialReason::BadRequest)
    }
}

fn read_header(line: &[u8]) -> Option<Header> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let (name, value) = line.split_at(colon);
    // A space before the colon, or before the name as in a folded line, is no byte of a token.
    if name.is_empty() || !name.iter().copied().all(is_token_byte) {
        return None;
    }
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let mut value = value.get(1..).unwrap_or_default();
    while let Some((_, rest)) = value.split_first().filter(|(first, _)| is_space(first)) {
        value = rest;
    }
    while let Some((_, rest)) = value.split_last().filter(|(last, _)| is_space(last)) {
        value = rest;
    }
    Some(Header {
        name: ascii(name),
        value: value.to_vec(),
    })
}

/// How the body ends; nothing when two programs could find two ends.
fn read_body(headers: &[Header], version: Version) -> Option<Body> {
    let mut lengths = named(headers, "content-length");
    let mut encodings = named(headers, "transfer-encoding");
    match (lengths.next(), encodings.next()) {
        (None, None) => Some(Body::None),
        (Some(length), None) if lengths.next().is_none() => {
            let proper = (1..=MOST_LENGTH_DIGITS).contains(&length.len())
                && length.iter().all(u8::is_ascii_digit);
            let length = std::str::from_utf8(length).ok().filter(|_| proper)?;
            length.parse().ok().map(Body::Length)
        }
        (None, Some(encoding)) if encodings.next().is_none() => {
            let proper = version == Version::Http11 && encoding.eq_ignore_ascii_case(b"chunked");
            proper.then_some(Body::Chunked)
        }
        _ => None,
    }
}

fn read_mode(headers: &[Header], is_tunnel: bool) -> Option<ConnectionMode> {
    if !is_tunnel {
        return Some(ConnectionMode::Http);
    }
    let mut modes = named(headers, MODE_HEADER);
    match (modes.next(), modes.next()) {
        (None, _) => Some(ConnectionMode::Connect),
        (Some(b"transparent"), None) => Some(ConnectionMode::Transparent),
        (Some(b"socks"), None) => Some(ConnectionMode::Socks),
        _ => None,
    }
}

fn read_keep_alive(headers: &[Header], version: Version) -> bool {
    let says = |wanted: &str| {
        ["connection", "proxy-connection"]
            .into_iter()
            .flat_map(|name| options(headers, name))
            .any(|option| option.eq_ignore_ascii_case(wanted.as_bytes()))
    };
    match version {
        Version::Http11 => !says("close"),
        Version::Http10 => says("keep-alive") && !says("close"),
    }
}

/// The values of all headers of a name, which is in lower case.
fn named<'a>(headers: &'a [Header], name: &str) -> impl Iterator<Item = &'a [u8]> {
    headers
        .iter()
        .filter(move |header| header.name.eq_ignore_ascii_case(name))
        .map(|header| header.value.as_slice())
}

/// The members of the comma-separated lists in all headers of a name.
fn options<'a>(headers: &'a [Header], name: &str) -> impl Iterator<Item = &'a [u8]> {
    named(headers, name)
        .flat_map(|value| value.split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|option| !option.is_empty())
}

/// The head to send to the server: origin form, `Host` of the host that was judged, no header that
/// is for the proxy or for this hop, no wish to change the protocol, and `Connection: close`, so
/// that the server sends one answer and ends.
///
/// `port` is left out of `Host` when it is 80. The version stays the client's, so that it gets no
/// answer it cannot read. The head of a tunnel has no counterpart and gives no bytes.
#[must_use]
pub fn rewrite(head: &RequestHead, host: &Host, port: u16) -> Vec<u8> {
    let path = match &head.target {
        RequestTarget::Connect { .. } => return Vec::new(),
        RequestTarget::Absolute { path, .. } | RequestTarget::Origin { path } => path,
    };
    let version = match head.version {
        Version::Http10 => "HTTP/1.0",
        Version::Http11 => "HTTP/1.1",
    };
    let mut text = format!("{} {path} {version}\r\nHost: {host}", head.method).into_bytes();
    if port != HTTP_PORT {
        text.extend_from_slice(format!(":{port}").as_bytes());
    }
    text.extend_from_slice(b"\r\n");
    let for_this_hop: Vec<&[u8]> = options(&head.headers, "connection").collect();
    for header in head
        .headers
        .iter()
        .filter(|header| is_passed_on(&for_this_hop, header))
    {
        text.extend_from_slice(header.name.as_bytes());
        text.extend_from_slice(b": ");
        text.extend_from_slice(&header.value);
        text.extend_from_slice(b"\r\n");
    }
    match head.body {
        Body::None => {}
        Body::Length(length) => {
            text.extend_from_slice(format!("Content-Length: {length}\r\n").as_bytes());
        }
        Body::Chunked => text.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
    }
    text.extend_from_slice(b"Connection: close\r\n\r\n");
    text
}

fn is_passed_on(for_this_hop: &[&[u8]], header: &Header) -> bool {
    // Behind some servers nobody tells `Content_Length` from `Content-Length`.
    let name = header.name.to_ascii_lowercase().replace('_', "-");
    !NOT_PASSED_ON.contains(&name.as_str())
        && !FOR_PROXY.into_iter().any(|start| name.starts_with(start))
        && !for_this_hop
            .iter()
            .any(|option| option.eq_ignore_ascii_case(header.name.as_bytes()))
}

/// Whether a byte may stand in a token (RFC 9110, section 5.6.2).
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The text of bytes that were seen to be ASCII.
fn ascii(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

#[cfg(test)]
mod tests;
