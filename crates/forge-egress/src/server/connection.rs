//! One connection of a sandbox, from its first byte to its end.

use std::net::SocketAddr;
use std::sync::Arc;

use forge_core::NetworkLevel;
use forge_core::connection::ConnectionMode;
use forge_core::egress::DenialReason;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::{ReadHalf, WriteHalf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::audit::shown;
use crate::http_head::{self, HeadProgress, RequestHead, RequestTarget};
use crate::policy::{Admission, Inspection, Target, dialable, dialable_literal};
use crate::server::Shared;
use crate::server::buffers::{Lender, Source};
use crate::server::copy::{Activity, Flow};
use crate::server::leg::{Asked, Fate, Leg};
use crate::server::refusal;
use crate::server::sandbox::Sandbox;

/// Addresses of one name that are tried.
const MOST_ADDRESSES: usize = 3;
/// What a client that was refused may still send before it is cut off, in bytes.
const MOST_LINGERING: usize = 256 * 1024;

/// What a client reads once its tunnel is there.
const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// The client's end.
pub(super) struct Client<'a> {
    pub(super) source: Source<ReadHalf<'a>>,
    pub(super) sink: WriteHalf<'a>,
}

/// A connection and what it belongs to.
pub(super) struct Connection {
    pub(super) shared: Arc<Shared>,
    pub(super) sandbox: Arc<Sandbox>,
    pub(super) activity: Activity,
    fate: Arc<Fate>,
    cut: CancellationToken,
}

/// What came of waiting for a request.
pub(super) enum Next {
    Request(RequestHead),
    Refused {
        status: u16,
        reason: DenialReason,
        asked: Asked,
    },
    Ended,
}

/// Serves a connection until one of both ends it, it stands still, or the policy cuts it.
pub(super) async fn serve(shared: Arc<Shared>, sandbox: Arc<Sandbox>, stream: UnixStream) {
    let connection = Connection::new(shared, sandbox);
    let work = connection.run(stream);
    tokio::pin!(work);
    let reason = tokio::select! {
        biased;
        () = connection.cut.cancelled() => DenialReason::PolicyChanged,
        () = connection.activity.stood_still(|| connection.sandbox.idle()) => DenialReason::Limit,
        () = &mut work => return,
    };
    // Known before the work is dropped, and with it the leg that records it.
    connection.fate.get_or_init(|| reason);
}

/// Tells a client that there are too many connections, without reading what it wants.
pub(super) async fn turn_away(shared: Arc<Shared>, sandbox: Arc<Sandbox>, stream: UnixStream) {
    let connection = Connection::new(shared, sandbox);
    let mut stream = stream;
    let (reader, sink) = stream.split();
    let mut client = Client {
        source: Source::new(reader),
        sink,
    };
    let leg = connection.leg(unknown());
    connection
        .refuse_as(&mut client, leg, refusal::BUSY, DenialReason::Limit)
        .await;
}

/// Notes a connection that was closed without a word, because there were far too many.
pub(super) fn note_dropped(shared: &Arc<Shared>, sandbox: &Arc<Sandbox>) {
    let connection = Connection::new(shared.clone(), sandbox.clone());
    connection.leg(unknown()).denied(DenialReason::Limit);
}

const fn unknown() -> Asked {
    Asked {
        mode: ConnectionMode::Connect,
        host: String::new(),
        port: 0,
    }
}

impl Connection {
    fn new(shared: Arc<Shared>, sandbox: Arc<Sandbox>) -> Self {
        Self {
            shared,
            sandbox,
            activity: Activity::new(),
            fate: Arc::default(),
            cut: CancellationToken::new(),
        }
    }

    async fn run(&self, mut stream: UnixStream) {
        let (reader, sink) = stream.split();
        let mut client = Client {
            source: Source::new(reader),
            sink,
        };
        let mut is_first = true;
        loop {
            let head = match self.next(&mut client.source, is_first).await {
                Next::Request(head) => head,
                Next::Ended => return,
                Next::Refused {
                    status,
                    reason,
                    asked,
                } => return self.refuse_unread(&mut client, status, reason, asked).await,
            };
            is_first = false;
            let goes_on = match head.target.clone() {
                RequestTarget::Connect { host, port } => {
                    return self.tunnel(&mut client, &head, Target { host, port }).await;
                }
                RequestTarget::Absolute { host, port, .. } => {
                    self.forward(&mut client, &head, Target { host, port })
                        .await
                }
                RequestTarget::Origin { path } => {
                    let asked = Asked {
                        mode: head.mode,
                        host: shown(path.as_bytes()),
                        port: 0,
                    };
                    let reason = DenialReason::BadRequest;
                    let status = refusal::status(reason);
                    return self.refuse_unread(&mut client, status, reason, asked).await;
                }
            };
            if !goes_on {
                return;
            }
        }
    }

    /// Waits for the next request. The first must come in time; later ones may be waited for, but
    /// once begun must come in time too.
    pub(super) async fn next(&self, source: &mut Source<ReadHalf<'_>>, is_first: bool) -> Next {
        let allowed = self.shared.timing.head;
        let mut deadline = is_first.then(|| Instant::now() + allowed);
        // A head ends with a line: looks that find no new line end would only cost.
        let mut is_worth_a_look = true;
        loop {
            if !source.ahead().is_empty() {
                if is_worth_a_look || source.ahead().len() >= http_head::MOST_BYTES {
                    match http_head::parse(source.ahead()) {
                        HeadProgress::NeedMore => {}
                        HeadProgress::Complete { head, consumed } => {
                            source.consume(consumed);
                            return Next::Request(head);
                        }
                        HeadProgress::Refused(reason) => {
                            return unread(refusal::status(reason), reason, source.ahead());
                        }
                    }
                }
                if source.ahead().len() >= http_head::MOST_BYTES {
                    return unread(400, DenialReason::BadRequest, source.ahead());
                }
                deadline.get_or_insert_with(|| Instant::now() + allowed);
            }
            let before = source.ahead().len();
            let more = source.look_further(http_head::MOST_BYTES);
            let more = match deadline {
                None => more.await,
                Some(deadline) => match timeout_at(deadline, more).await {
                    Ok(more) => more,
                    Err(_) => {
                        return unread(refusal::TOO_SLOW, DenialReason::Limit, source.ahead());
                    }
                },
            };
            match more {
                Ok(1..) => self.activity.moved(),
                Ok(0) | Err(_) if source.ahead().is_empty() => return Next::Ended,
                Ok(0) | Err(_) => return unread(400, DenialReason::BadRequest, source.ahead()),
            }
            is_worth_a_look = source.ahead()[before..].contains(&b'\n') || before == 0;
        }
    }

    /// A tunnel: judged and dialled before the client is told that it is there.
    async fn tunnel(&self, client: &mut Client<'_>, head: &RequestHead, target: Target) {
        let asked = asked(&target, head.mode);
        let (leg, verdict) = self.judge(&target, asked);
        let inspection = match verdict {
            Ok(inspection) => inspection,
            Err(reason) => return self.refuse_leg(client, leg, reason).await,
        };
        let stream = match self.reach(&leg).await {
            Ok(stream) => stream,
            Err(reason) => return self.refuse_leg(client, leg, reason).await,
        };
        if client.sink.write_all(ESTABLISHED).await.is_err() {
            return;
        }
        self.activity.moved();
        match inspection {
            Inspection::Http => {
                self.tunnelled_requests(client, target, leg, stream).await;
            }
            Inspection::Tls => self.tls(client, &target, &leg, stream).await,
            Inspection::Sniff | Inspection::None => {
                let is_checked = inspection == Inspection::Sniff;
                if let Some(stream) = self.any(client, &target, &leg, stream, is_checked).await {
                    self.tunnelled_requests(client, target, leg, stream).await;
                }
            }
        }
    }

    fn leg(&self, asked: Asked) -> Leg {
        let current = self.sandbox.current();
        Leg::new(&self.shared.log, &self.sandbox, &self.fate, current, asked)
    }

    /// Judges a target. The leg has its record whatever comes of it.
    pub(super) fn judge(
        &self,
        target: &Target,
        asked: Asked,
    ) -> (Leg, Result<Inspection, DenialReason>) {
        let (current, verdict) = self.sandbox.judge(target, &self.cut);
        let mut leg = Leg::new(&self.shared.log, &self.sandbox, &self.fate, current, asked);
        let verdict = match verdict {
            Ok(_) if self.sandbox.allowance.is_used_up() => Err(DenialReason::Limit),
            Ok(ticket) => {
                let inspection = ticket.inspection;
                leg.admitted(ticket);
                Ok(inspection)
            }
            Err(reason) => Err(reason),
        };
        (leg, verdict)
    }

    /// Resolves what was admitted, drops what may not be dialled, and dials the rest.
    pub(super) async fn reach(&self, leg: &Leg) -> Result<TcpStream, DenialReason> {
        let ticket = leg.ticket().ok_or(DenialReason::BadRequest)?;
        let current = &leg.current;
        let (policy, denied) = (&current.policy, &current.denied);
        let addresses: Vec<SocketAddr> = match &ticket.admission {
            Admission::Dial(to) => {
                dialable_literal(policy, *to, denied, current.has_v6)?;
                vec![*to]
            }
            Admission::Resolve(name) => {
                let found = timeout(self.shared.timing.resolve, async {
                    let _turn = self.sandbox.lookups.acquire().await;
                    self.shared.outside.resolve(name).await
                });
                let found = match found.await {
                    Ok(Ok(found)) => found,
                    Ok(Err(_)) | Err(_) => return Err(DenialReason::DnsFailure),
                };
                let left = dialable(
                    policy,
                    (name, leg.asked.port),
                    &found,
                    denied,
                    current.has_v6,
                )?;
                left.into_iter()
                    .take(MOST_ADDRESSES)
                    .map(|address| SocketAddr::new(address, leg.asked.port))
                    .collect()
            }
        };
        let deadline = Instant::now() + self.shared.timing.connect;
        let mut to_try = u32::try_from(addresses.len()).unwrap_or(1);
        for address in addresses {
            ticket.dialling(address.ip())?;
            leg.dialled(address.ip());
            // Each has its share of the time that is left, so that a silent one spares some.
            let share = deadline.saturating_duration_since(Instant::now()) / to_try;
            to_try -= 1;
            if let Ok(Ok(stream)) = timeout(share, self.shared.outside.dial(address)).await {
                // It only makes small messages slower where it is not to be had.
                drop(stream.set_nodelay(true));
                leg.reached();
                return Ok(stream);
            }
        }
        Err(DenialReason::ConnectFailed)
    }

    pub(super) fn flow<'a>(&'a self, leg: &'a Leg) -> Flow<'a> {
        Flow {
            leg,
            activity: &self.activity,
            lender: Lender {
                pool: &self.shared.pool,
                share: &self.sandbox.share,
            },
        }
    }

    pub(super) async fn refuse_leg(&self, client: &mut Client<'_>, leg: Leg, reason: DenialReason) {
        self.refuse_as(client, leg, refusal::status(reason), reason)
            .await;
    }

    /// The record is written first: whoever reads the answer finds it in the log.
    pub(super) async fn refuse_as(
        &self,
        client: &mut Client<'_>,
        leg: Leg,
        status: u16,
        reason: DenialReason,
    ) {
        leg.denied(reason);
        let (asked, level) = (leg.asked.clone(), leg.level());
        drop(leg);
        self.refuse(client, status, reason, &asked, level).await;
    }

    /// Refuses what could not be read as a request for a host.
    pub(super) async fn refuse_unread(
        &self,
        client: &mut Client<'_>,
        status: u16,
        reason: DenialReason,
        asked: Asked,
    ) {
        let leg = self.leg(asked);
        // At this level everything has the same reason, however it is written.
        let (status, reason) = match leg.level() {
            NetworkLevel::Isolated => {
                let reason = DenialReason::Isolated;
                (refusal::status(reason), reason)
            }
            _ => (status, reason),
        };
        self.refuse_as(client, leg, status, reason).await;
    }

    /// Answers, and reads what still comes for a moment: a client that is cut off while it writes
    /// does not read why.
    async fn refuse(
        &self,
        client: &mut Client<'_>,
        status: u16,
        reason: DenialReason,
        asked: &Asked,
        level: NetworkLevel,
    ) {
        let answer = refusal::answer(status, reason, asked, level);
        let farewell = async {
            client.sink.write_all(&answer).await?;
            client.sink.shutdown().await?;
            let mut read = 0;
            while read < MOST_LINGERING {
                let all = client.source.ahead().len();
                client.source.consume(all);
                match client.source.look_further(usize::MAX).await? {
                    0 => break,
                    count => read += count,
                }
            }
            std::io::Result::Ok(())
        };
        // Whether the client heard it changes nothing.
        drop(timeout(self.shared.timing.farewell, farewell).await);
    }
}

/// A request that was refused before it was understood: what it asks for as far as it can be read.
fn unread(status: u16, reason: DenialReason, bytes: &[u8]) -> Next {
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or(bytes);
    let mut words = line.trim_ascii().splitn(2, |byte| *byte == b' ');
    let method = words.next().unwrap_or_default();
    let target = words.next().unwrap_or_default();
    let target = match target.iter().rposition(|byte| *byte == b' ') {
        Some(end) if target[end..].starts_with(b" HTTP/") => &target[..end],
        _ => target,
    };
    let is_tunnel = method.eq_ignore_ascii_case(b"CONNECT");
    let authority = if is_tunnel {
        target
    } else {
        let start = target.windows(3).position(|part| part == b"://");
        let rest = start.map_or(target, |start| &target[start + 3..]);
        rest.split(|byte| *byte == b'/').next().unwrap_or(rest)
    };
    let (host, port) = match authority.iter().rposition(|byte| *byte == b':') {
        Some(colon) => {
            let port = std::str::from_utf8(&authority[colon + 1..]).ok();
            match port.and_then(|digits| digits.parse().ok()) {
                Some(port) => (&authority[..colon], port),
                None => (authority, 0),
            }
        }
        None => (authority, 0),
    };
    Next::Refused {
        status,
        reason,
        asked: Asked {
            mode: if is_tunnel {
                ConnectionMode::Connect
            } else {
                ConnectionMode::Http
            },
            host: shown(host),
            port,
        },
    }
}

pub(super) fn asked(target: &Target, mode: ConnectionMode) -> Asked {
    Asked {
        mode,
        host: target.host.to_string(),
        port: target.port,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> (String, u16) {
        match unread(400, DenialReason::BadRequest, bytes) {
            Next::Refused { asked, .. } => (asked.host, asked.port),
            _ => unreachable!("it is always a refusal"),
        }
    }

    #[test]
    fn what_was_asked_for_is_shown_as_far_as_it_can_be_read() {
        let nul = read(b"CONNECT evil\0.example.org:443 HTTP/1.1\r\n\r\n");
        assert_eq!(nul, ("evil\\x00.example.org".into(), 443));
        let user = read(b"GET http://example.org@example.net/path HTTP/1.1\r\n");
        assert_eq!(user, ("example.org@example.net".into(), 0));
        let spaced = read(b"CONNECT a b:1 HTTP/1.1\r\n");
        assert_eq!(spaced, ("a b".into(), 1));
        assert_eq!(read(b"\x16\x03\x01"), (String::new(), 0));
        assert_eq!(read(b""), (String::new(), 0));
    }
}
