//! One connection of a sandbox, from its first byte to its end.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use forge_core::NetworkLevel;
use forge_core::connection::ConnectionMode;
use forge_core::egress::DenialReason;
use tokio::io::{AsyncRead, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{ReadHalf, WriteHalf};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::audit::shown;
use crate::http_head::{self, HeadProgress, RequestHead, RequestTarget};
use crate::policy::{Admission, Inspection, Target, dialable, dialable_literal};
use crate::server::Shared;
use crate::server::buffers::{Lender, Look, Source};
use crate::server::copy::{Activity, Cut, Flow, Way};
use crate::server::http::Ask;
use crate::server::kept;
use crate::server::leg::{Asked, Fate, Leg};
use crate::server::outgoing::Outgoing;
use crate::server::refusal::{self, Cause};
use crate::server::sandbox::Sandbox;
use crate::server::tunnel::Unused;

/// Addresses of one name that are tried.
const MOST_ADDRESSES: usize = 3;
/// What a client that was refused may still send before it is cut off, in bytes.
const MOST_LINGERING: usize = 256 * 1024;

/// After so many bytes to a client there are likely to be more.
const MUCH: u64 = 1024 * 1024;
/// How long a client that is turned away may take to say what it wants, and how much of that is
/// read, in bytes.
const AT_ONCE: Duration = Duration::from_millis(100);
const MOST_GLANCED: usize = 1024;

/// What a client reads once its tunnel is there.
const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// The client's end.
pub(super) struct Client<'a> {
    pub(super) source: Source<'a, ReadHalf<'a>>,
    pub(super) sink: WriteHalf<'a>,
}

/// A connection and what it belongs to.
pub(super) struct Connection {
    pub(super) shared: Arc<Shared>,
    pub(super) sandbox: Arc<Sandbox>,
    pub(super) activity: Activity,
    fate: Arc<Fate>,
    cut: CancellationToken,
    /// Whether the system keeps more for this client than for others.
    is_wide: AtomicBool,
}

impl Drop for Connection {
    fn drop(&mut self) {
        if *self.is_wide.get_mut() {
            self.lender().narrowed();
        }
    }
}

/// What came of waiting for a request.
pub(super) enum Next {
    Request(RequestHead),
    Refused {
        cause: Cause,
        reason: DenialReason,
        asked: Asked,
    },
    Ended,
}

/// Serves a connection until one of both ends it, it stands still, or the policy cuts it.
pub(super) async fn serve(shared: Arc<Shared>, sandbox: Arc<Sandbox>, mut stream: UnixStream) {
    let connection = Connection::new(shared, sandbox);
    connection.run_to_its_end(&mut stream).await;
    kept::close(stream).await;
}

/// Tells a client that there are too many connections.
pub(super) async fn turn_away(
    shared: Arc<Shared>,
    sandbox: Arc<Sandbox>,
    mut stream: UnixStream,
    cause: Cause,
) {
    let connection = Connection::new(shared, sandbox);
    connection.say_no(&mut stream, cause).await;
    kept::close(stream).await;
}

/// Notes a connection that was closed without a word, because there were far too many.
pub(super) fn note_dropped(shared: &Arc<Shared>, sandbox: &Arc<Sandbox>) {
    let connection = Connection::new(shared.clone(), sandbox.clone());
    drop(connection.leg_unread(unknown(), DenialReason::Limit));
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
            is_wide: AtomicBool::new(false),
        }
    }

    /// What the client wants is read as far as it comes at once, so that the record says what was
    /// refused.
    async fn say_no(&self, stream: &mut UnixStream, cause: Cause) {
        // There before anything is waited for: it is noted even if its sandbox goes meanwhile.
        let (mut leg, reason) = self.leg_unread(unknown(), DenialReason::Limit);
        let (reader, sink) = stream.split();
        let mut client = Client {
            source: Source::new(reader, self.lender()),
            sink,
        };
        // Whether it said anything shows in what was read.
        drop(timeout(AT_ONCE, client.source.look_further(MOST_GLANCED)).await);
        if !client.source.ahead().is_empty() {
            leg.asked = asked_for(client.source.ahead());
        }
        self.refuse_as(&mut client, leg, cause, reason).await;
    }

    async fn run_to_its_end(&self, stream: &mut UnixStream) {
        let work = self.run(stream);
        tokio::pin!(work);
        let reason = tokio::select! {
            biased;
            () = self.cut.cancelled() => DenialReason::PolicyChanged,
            () = self.activity.stood_still(|| self.sandbox.idle()) => DenialReason::Limit,
            () = &mut work => return,
        };
        // Known before the work is dropped, and with it the leg that records it.
        self.fate.get_or_init(|| reason);
    }

    async fn run(&self, stream: &mut UnixStream) {
        let (reader, sink) = stream.split();
        let mut client = Client {
            source: Source::new(reader, self.lender()),
            sink,
        };
        let mut is_first = true;
        loop {
            let head = match self.next(&mut client.source, is_first).await {
                Next::Request(head) => head,
                Next::Ended => return,
                Next::Refused {
                    cause,
                    reason,
                    asked,
                } => return self.refuse_unread(&mut client, cause, reason, asked).await,
            };
            is_first = false;
            let (target, is_tunnel) = match &head.target {
                RequestTarget::Connect { host, port } => (Target::new(host, *port), true),
                RequestTarget::Absolute { host, port, .. } => (Target::new(host, *port), false),
                RequestTarget::Origin { path } => {
                    let asked = Asked {
                        mode: head.mode,
                        host: shown(path.as_bytes()),
                        port: 0,
                    };
                    drop(head);
                    let reason = DenialReason::BadRequest;
                    return self
                        .refuse_unread(&mut client, Cause::Rules, reason, asked)
                        .await;
                }
            };
            let mode = head.mode;
            let request = (!is_tunnel).then(|| Ask::new(&head, &target, &client.source));
            // Not counted, so not for longer than it takes to look at it.
            drop(head);
            let goes_on = match request {
                None => return self.tunnel(&mut client, mode, target).await,
                Some(Ok(request)) => self.forward(&mut client, request, target).await,
                Some(Err(reason)) => {
                    let leg = self.leg(asked(&target, mode));
                    return self.refuse_as(&mut client, leg, Cause::Busy, reason).await;
                }
            };
            if !goes_on {
                return;
            }
        }
    }

    /// Waits for the next request. The first must come in time; later ones may be waited for, but
    /// once begun must come in time too.
    pub(super) async fn next(&self, source: &mut Source<'_, ReadHalf<'_>>, is_first: bool) -> Next {
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
                            return unread(Cause::Rules, reason, source.ahead());
                        }
                    }
                }
                if source.ahead().len() >= http_head::MOST_BYTES {
                    return unread(Cause::Rules, DenialReason::BadRequest, source.ahead());
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
                        return unread(Cause::Slow, DenialReason::Limit, source.ahead());
                    }
                },
            };
            match more {
                Look::More(_) => self.activity.moved(),
                Look::Full => return unread(Cause::Busy, DenialReason::Limit, source.ahead()),
                Look::End if source.ahead().is_empty() => return Next::Ended,
                Look::End => return unread(Cause::Rules, DenialReason::BadRequest, source.ahead()),
            }
            is_worth_a_look = source.ahead()[before..].contains(&b'\n') || before == 0;
        }
    }

    /// A tunnel: judged and dialled before the client is told that it is there.
    async fn tunnel(&self, client: &mut Client<'_>, mode: ConnectionMode, target: Target) {
        let asked = asked(&target, mode);
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
                match self.any(client, &target, &leg, stream, is_checked).await {
                    Some(Unused::Requests(stream)) => {
                        self.tunnelled_requests(client, target, leg, stream).await;
                    }
                    Some(Unused::Tls(stream)) => {
                        self.secured(client, &target, &leg, stream).await;
                    }
                    None => {}
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
    pub(super) async fn reach(&self, leg: &Leg) -> Result<Outgoing<'_>, DenialReason> {
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
                tried(&left)
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
                return Ok(Outgoing::new(stream, self.lender()));
            }
        }
        Err(DenialReason::ConnectFailed)
    }

    pub(super) fn flow<'a>(&'a self, leg: &'a Leg) -> Flow<'a> {
        Flow {
            leg,
            activity: &self.activity,
        }
    }

    pub(super) fn lender(&self) -> Lender<'_> {
        self.sandbox.lender(&self.shared.pool)
    }

    /// Passes everything on to the client, and then the end. Where much flows the system may keep
    /// more of it, which is never undone: what is not read then is counted until all is closed.
    pub(super) async fn pump_down<R: AsyncRead + Unpin>(
        &self,
        flow: &Flow<'_>,
        server: &mut Source<'_, R>,
        sink: &mut WriteHalf<'_>,
    ) -> Result<(), Cut> {
        while flow.copy(Way::Down, server, sink, MUCH).await? == MUCH {
            if !self.is_wide.load(Ordering::Relaxed) && self.lender().widen(sink.as_ref()) {
                self.is_wide.store(true, Ordering::Relaxed);
            }
        }
        sink.shutdown().await.map_err(|_| Cut::Sink)
    }

    pub(super) async fn refuse_leg(&self, client: &mut Client<'_>, leg: Leg, reason: DenialReason) {
        self.refuse_as(client, leg, Cause::Rules, reason).await;
    }

    /// The record is written first: whoever reads the answer finds it in the log.
    pub(super) async fn refuse_as(
        &self,
        client: &mut Client<'_>,
        leg: Leg,
        cause: Cause,
        reason: DenialReason,
    ) {
        leg.denied(reason);
        let (asked, level) = (leg.asked.clone(), leg.level());
        drop(leg);
        self.refuse(client, cause, reason, &asked, level).await;
    }

    /// Refuses what could not be read as a request for a host.
    pub(super) async fn refuse_unread(
        &self,
        client: &mut Client<'_>,
        cause: Cause,
        reason: DenialReason,
        asked: Asked,
    ) {
        let (leg, reason) = self.leg_unread(asked, reason);
        self.refuse_as(client, leg, cause, reason).await;
    }

    /// The leg of what could not be read as a request for a host, denied, and why.
    fn leg_unread(&self, asked: Asked, reason: DenialReason) -> (Leg, DenialReason) {
        let leg = self.leg(asked);
        // At this level everything has the same reason, however it is written.
        let reason = match leg.level() {
            NetworkLevel::Isolated => DenialReason::Isolated,
            _ => reason,
        };
        leg.denied(reason);
        (leg, reason)
    }

    /// Answers, and reads what still comes for a moment: a client that is cut off while it writes
    /// does not read why.
    async fn refuse(
        &self,
        client: &mut Client<'_>,
        cause: Cause,
        reason: DenialReason,
        asked: &Asked,
        level: NetworkLevel,
    ) {
        let answer = refusal::answer(cause, reason, asked, level);
        let farewell = async {
            client.sink.write_all(&answer).await?;
            client.sink.shutdown().await?;
            let mut read = 0;
            while read < MOST_LINGERING {
                let all = client.source.ahead().len();
                client.source.consume(all);
                match client.source.look_further(usize::MAX).await {
                    Look::More(count) => read += count,
                    Look::End | Look::Full => break,
                }
            }
            std::io::Result::Ok(())
        };
        // Whether the client heard it changes nothing.
        drop(timeout(self.shared.timing.farewell, farewell).await);
    }
}

/// Which of the addresses that may be dialled, version 4 first, are tried: where there is one of
/// version 6 it has its turn, so that a way of version 4 that leads nowhere is not all there is.
fn tried(left: &[IpAddr]) -> impl Iterator<Item = IpAddr> {
    let v4 = left.iter().take_while(|address| address.is_ipv4()).count();
    let kept = left.len().saturating_sub(v4).min(1);
    let first = v4.min(MOST_ADDRESSES - kept);
    let rest = left[v4..].iter().take(MOST_ADDRESSES - first);
    left[..first].iter().chain(rest).copied()
}

/// A request that was refused before it was understood.
fn unread(cause: Cause, reason: DenialReason, bytes: &[u8]) -> Next {
    let asked = asked_for(bytes);
    Next::Refused {
        cause,
        reason,
        asked,
    }
}

/// What a request that was not understood asks for, as far as it can be read.
fn asked_for(bytes: &[u8]) -> Asked {
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
    Asked {
        mode: if is_tunnel {
            ConnectionMode::Connect
        } else {
            ConnectionMode::Http
        },
        host: shown(host),
        port,
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
    use crate::server::buffers;

    fn read(bytes: &[u8]) -> (String, u16) {
        let asked = asked_for(bytes);
        (asked.host, asked.port)
    }

    /// The size of the state of what a function returns.
    fn size<A, B, C, F>(_: impl Fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    fn size_with<A, B, C, D, F>(_: impl Fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn the_task_of_a_connection_is_smaller_than_what_it_counts_as() {
        let most = buffers::TASK * 3 / 4;
        assert!(size(serve) <= most, "{}", size(serve));
        assert!(size_with(turn_away) <= most, "{}", size_with(turn_away));
    }

    #[test]
    fn of_many_addresses_a_few_of_both_versions_are_tried() {
        let addresses = |v4: u32, v6: u32| -> Vec<IpAddr> {
            let first = (0..v4).map(|number| IpAddr::V4(number.into()));
            let rest = (0..v6).map(|number| IpAddr::V6(u128::from(number).into()));
            first.chain(rest).collect()
        };
        for ((v4, v6), expected) in [
            ((5, 0), (3, 0)),
            ((5, 5), (2, 1)),
            ((3, 1), (2, 1)),
            ((1, 5), (1, 2)),
            ((0, 5), (0, 3)),
            ((1, 0), (1, 0)),
        ] {
            let chosen: Vec<IpAddr> = tried(&addresses(v4, v6)).collect();
            assert_eq!(chosen, addresses(expected.0, expected.1), "{v4} {v6}");
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
