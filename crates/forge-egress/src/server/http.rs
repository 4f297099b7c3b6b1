//! Plain HTTP: every request is read, judged and written anew, and so is the head of every answer.
//!
//! Each request has a connection to the server of its own: no server sees two requests on one, so
//! nothing that hides in the first can pass for a second.

use std::sync::atomic::{AtomicBool, Ordering};

use forge_core::connection::ConnectionMode;
use forge_core::egress::DenialReason;
use tokio::io::AsyncRead;
use tokio::net::unix::WriteHalf;

use crate::http_head::{self, Body, RequestHead, RequestTarget, Version};
use crate::policy::{Inspection, Target};
use crate::server::body::{self, Form, Framing};
use crate::server::buffers::{Held, Look, Source};
use crate::server::connection::{Client, Connection, Next, asked};
use crate::server::copy::{Cut, Flow, Way};
use crate::server::leg::Leg;
use crate::server::outgoing::{FromServer, Outgoing};
use crate::server::response::{self, Answer, Progress};

/// Answers before the last one, such as 100, to one request.
const MOST_INTERIM: usize = 16;

/// A request that was read, as it goes on: what is left of its head.
pub(super) struct Ask<'pool> {
    head: Held<'pool>,
    method: String,
    version: Version,
    body: Body,
    keep_alive: bool,
    pub(super) mode: ConnectionMode,
}

impl<'pool> Ask<'pool> {
    /// Writes a head anew for the host that is judged.
    ///
    /// # Errors
    ///
    /// [`DenialReason::Limit`] where there is no room for it.
    pub(super) fn new<R: AsyncRead + Unpin>(
        head: &RequestHead,
        target: &Target,
        source: &Source<'pool, R>,
    ) -> Result<Self, DenialReason> {
        let mut anew = http_head::rewrite(head, &target.host, target.port);
        anew.shrink_to_fit();
        Ok(Self {
            head: source.hold(anew).ok_or(DenialReason::Limit)?,
            method: head.method.clone(),
            version: head.version,
            body: head.body,
            keep_alive: head.keep_alive,
            mode: head.mode,
        })
    }
}

/// What an answer depends on.
struct Kind {
    method: String,
    version: Version,
    keep_alive: bool,
}

/// How an answer went to the client.
struct Answered {
    /// Whether the client found its end.
    is_delimited: bool,
}

impl Connection {
    /// One request that a client sends to the proxy; whether the client may send another.
    pub(super) async fn forward(
        &self,
        client: &mut Client<'_>,
        request: Ask<'_>,
        target: Target,
    ) -> bool {
        let (leg, verdict) = self.judge(&target, asked(&target, request.mode));
        let verdict = match verdict {
            // Where only TLS is passed on, plain requests are not.
            Ok(Inspection::Tls) => Err(DenialReason::NotTls),
            Ok(_) => self.reach(&leg).await,
            Err(reason) => Err(reason),
        };
        match verdict {
            Ok(stream) => self.exchange(client, request, leg, stream).await,
            Err(reason) => {
                self.refuse_leg(client, leg, reason).await;
                false
            }
        }
    }

    /// The requests inside a tunnel, of which the first has its connection already.
    pub(super) async fn tunnelled_requests(
        &self,
        client: &mut Client<'_>,
        target: Target,
        leg: Leg,
        stream: Outgoing<'_>,
    ) {
        let mode = leg.asked.mode;
        // The connection first: it is closed before its leg is said to be over.
        let mut ready = Some((stream, leg));
        loop {
            let is_first = ready.is_some();
            let head = match self.next(&mut client.source, is_first).await {
                Next::Request(head) => head,
                Next::Ended => return,
                Next::Refused {
                    cause,
                    reason,
                    asked,
                } => {
                    return match ready {
                        Some((stream, leg)) => {
                            drop(stream);
                            self.refuse_as(client, leg, cause, reason).await;
                        }
                        None => self.refuse_unread(client, cause, reason, asked).await,
                    };
                }
            };
            let request = if belongs(&head, &target) {
                Ask::new(&head, &target, &client.source)
            } else {
                Err(DenialReason::BadRequest)
            };
            drop(head);
            let (leg, stream) = match ready.take() {
                Some((stream, leg)) => (leg, Ok(stream)),
                None => {
                    let (leg, verdict) = self.judge(&target, asked(&target, mode));
                    let stream = match verdict {
                        Ok(_) => self.reach(&leg).await,
                        Err(reason) => Err(reason),
                    };
                    (leg, stream)
                }
            };
            let goes_on = match stream.and_then(|stream| Ok((stream, request?))) {
                Ok((stream, request)) => self.exchange(client, request, leg, stream).await,
                Err(reason) => {
                    self.refuse_leg(client, leg, reason).await;
                    false
                }
            };
            if !goes_on {
                return;
            }
        }
    }

    /// Passes a request on and its answer back; whether the client may send another.
    async fn exchange(
        &self,
        client: &mut Client<'_>,
        request: Ask<'_>,
        leg: Leg,
        stream: Outgoing<'_>,
    ) -> bool {
        let has_begun = AtomicBool::new(false);
        let result = self.ask(client, request, &leg, stream, &has_begun).await;
        let reason = match result {
            Ok(goes_on) => return goes_on,
            Err(Cut::Limit) => DenialReason::Limit,
            Err(Cut::Form) => DenialReason::BadRequest,
            // The server went away or answered in no known form.
            Err(Cut::Source) => DenialReason::ConnectFailed,
            Err(Cut::Sink) => return false,
        };
        if !has_begun.load(Ordering::Relaxed) {
            self.refuse_leg(client, leg, reason).await;
        } else if reason == DenialReason::Limit {
            leg.denied(reason);
        }
        false
    }

    /// Sends a request and receives the answer, both at once: a server may answer early, and a
    /// client may wait for leave to send its body.
    async fn ask(
        &self,
        client: &mut Client<'_>,
        request: Ask<'_>,
        leg: &Leg,
        mut stream: Outgoing<'_>,
        has_begun: &AtomicBool,
    ) -> Result<bool, Cut> {
        let flow = self.flow(leg);
        let (reader, mut to_server) = stream.split();
        let mut server = Source::new(reader, self.lender());
        let Ask { head, body, .. } = request;
        let (framing, form) = match body {
            Body::None => (Framing::None, Form::Plain),
            Body::Length(length) => (Framing::Length(length), Form::Plain),
            Body::Chunked => (Framing::Chunked, Form::Chunks),
        };
        let send = async {
            let head = head;
            flow.pass(Way::Up, head.bytes(), &mut to_server).await?;
            drop(head);
            let source = &mut client.source;
            body::pass(&flow, Way::Up, framing, form, source, &mut to_server).await
        };
        let kind = Kind {
            method: request.method,
            version: request.version,
            keep_alive: request.keep_alive,
        };
        let answer = receive(&flow, &kind, &mut server, &mut client.sink, has_begun);
        tokio::pin!(send, answer);
        let mut is_sent = false;
        let mut is_over = false;
        loop {
            tokio::select! {
                sent = &mut send, if !is_over => {
                    is_over = true;
                    match sent {
                        Ok(()) => is_sent = true,
                        // The server has had enough of it; it may say why.
                        Err(Cut::Sink) => {}
                        // The client is gone, and nobody is left to answer.
                        Err(Cut::Source) => return Ok(false),
                        Err(cut) => return Err(cut),
                    }
                }
                answered = &mut answer => {
                    return answered.map(|answered| {
                        answered.is_delimited && is_sent && kind.keep_alive
                    });
                }
            }
        }
    }
}

/// Whether a request inside a tunnel is for the host that the tunnel was made for.
fn belongs(head: &RequestHead, target: &Target) -> bool {
    match &head.target {
        RequestTarget::Origin { .. } => true,
        RequestTarget::Absolute { host, port, .. } => *host == target.host && *port == target.port,
        RequestTarget::Connect { .. } => false,
    }
}

/// Passes the answer to one request on.
async fn receive(
    flow: &Flow<'_>,
    request: &Kind,
    server: &mut Source<'_, FromServer<'_>>,
    client: &mut WriteHalf<'_>,
    has_begun: &AtomicBool,
) -> Result<Answered, Cut> {
    for _ in 0..MOST_INTERIM {
        let answer = head_of_answer(flow, &request.method, server).await?;
        if answer.is_interim() {
            if request.version == Version::Http11 {
                let head = held(server, answer.render(request.version, true))?;
                drop(answer);
                flow.pass(Way::Down, head.bytes(), client).await?;
            }
            continue;
        }
        let is_delimited = answer.is_delimited(request.version);
        let (framing, form) = (answer.framing, answer.form(request.version));
        let head = answer.render(request.version, request.keep_alive && is_delimited);
        drop(answer);
        let head = held(server, head)?;
        has_begun.store(true, Ordering::Relaxed);
        flow.pass(Way::Down, head.bytes(), client).await?;
        drop(head);
        body::pass(flow, Way::Down, framing, form, server, client).await?;
        return Ok(Answered { is_delimited });
    }
    Err(Cut::Source)
}

fn held<'pool>(
    server: &Source<'pool, FromServer<'_>>,
    mut head: Vec<u8>,
) -> Result<Held<'pool>, Cut> {
    head.shrink_to_fit();
    server.hold(head).ok_or(Cut::Limit)
}

async fn head_of_answer(
    flow: &Flow<'_>,
    method: &str,
    server: &mut Source<'_, FromServer<'_>>,
) -> Result<Answer, Cut> {
    // The last answer may have come along with one before it.
    let mut is_worth_a_look = !server.ahead().is_empty();
    loop {
        if is_worth_a_look || server.ahead().len() >= response::MOST_BYTES {
            match response::parse(server.ahead(), method) {
                Progress::Complete { answer, consumed } => {
                    server.consume(consumed);
                    return Ok(answer);
                }
                Progress::NeedMore => {}
                Progress::Malformed => return Err(Cut::Source),
            }
        }
        let before = server.ahead().len();
        match server.look_further(response::MOST_BYTES).await {
            Look::More(_) => flow.activity.moved(),
            Look::End => return Err(Cut::Source),
            Look::Full => return Err(Cut::Limit),
        }
        is_worth_a_look = before == 0 || server.ahead()[before..].contains(&b'\n');
    }
}
