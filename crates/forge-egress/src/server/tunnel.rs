//! Tunnels: what is looked at before bytes flow, and how they flow then.

use forge_core::egress::DenialReason;
use tokio::net::unix::ReadHalf;
use tokio::time::{Instant, timeout_at};

use crate::client_hello::{self, ClientHello, HANDSHAKE};
use crate::names::Host;
use crate::policy::{Target, check_client_hello};
use crate::server::buffers::{Look, Source};
use crate::server::connection::{Client, Connection};
use crate::server::copy::{Cut, Flow, Way};
use crate::server::leg::Leg;
use crate::server::outgoing::{Outgoing, ToServer};
use crate::server::sniff::{self, Line, Speech, Verdict};

/// The bytes before the content of a record of TLS.
const RECORD_HEAD: usize = 5;

/// What was heard of a client so far.
pub(super) struct Ear {
    /// When it must be clear what it speaks.
    deadline: Option<Instant>,
    /// Bytes that were looked at.
    heard: usize,
}

impl Ear {
    pub(super) const fn with_deadline(deadline: Instant) -> Self {
        Self {
            deadline: Some(deadline),
            heard: 0,
        }
    }

    /// All that is there counts as not looked at.
    pub(super) const fn forget(&mut self) {
        self.heard = 0;
    }
}

/// What a client may do after its first words.
pub(super) enum Heard {
    /// All it likes.
    Anything,
    /// TLS, with the hello that was judged.
    Tls,
    /// Requests, one by one.
    Requests,
    /// All it likes, unless the line it began turns out to be a request.
    Line(Line),
    /// Nothing.
    Refused(DenialReason),
    /// It went away without a word.
    Nothing,
    /// Nothing more than it said.
    Ended,
}

/// What is left to do with a connection to a server of which nothing was used yet.
pub(super) enum Unused<'pool> {
    /// The client speaks TLS, and its hello was judged.
    Tls(Outgoing<'pool>),
    /// The client speaks HTTP.
    Requests(Outgoing<'pool>),
}

impl Connection {
    /// A tunnel that must be TLS for the host that was judged. Not a byte goes out before that is
    /// certain.
    pub(super) async fn tls(
        &self,
        client: &mut Client<'_>,
        target: &Target,
        leg: &Leg,
        stream: Outgoing<'_>,
    ) {
        let mut ear = Ear::with_deadline(Instant::now() + self.shared.timing.hello);
        let judged = match self.hear_hello(&mut client.source, &mut ear).await {
            Ok(hello) => check(&hello, target, leg),
            Err(Heard::Nothing) => return,
            Err(Heard::Refused(reason)) => Err(reason),
            Err(_) => Err(DenialReason::NotTls),
        };
        match judged {
            Ok(()) => self.secured(client, target, leg, stream).await,
            Err(reason) => leg.denied(reason),
        }
    }

    /// Waits for a hello, which is left where it is.
    pub(super) async fn hear_hello(
        &self,
        source: &mut Source<'_, ReadHalf<'_>>,
        ear: &mut Ear,
    ) -> Result<ClientHello, Heard> {
        loop {
            self.hear_more(source, ear).await?;
            if !is_worth_a_look(source.ahead()) {
                continue;
            }
            match client_hello::parse(source.ahead()) {
                client_hello::Progress::NeedMore => {}
                client_hello::Progress::Hello(hello) => return Ok(hello),
                _ => return Err(Heard::Refused(DenialReason::NotTls)),
            }
        }
    }

    /// A tunnel in which the server may speak first. Where `is_checked`, what the client says is
    /// held back until it is clear what it speaks, and TLS must name the host that was judged.
    ///
    /// Returns the connection to the server, not used yet, when the client speaks TLS or HTTP.
    pub(super) async fn any<'pool>(
        &self,
        client: &mut Client<'_>,
        target: &Target,
        leg: &Leg,
        mut stream: Outgoing<'pool>,
        is_checked: bool,
    ) -> Option<Unused<'pool>> {
        let flow = self.flow(leg);
        let heard = {
            let (reader, mut sink) = stream.split();
            let mut server = Source::new(reader, self.lender());
            let down = self.pump_down(&flow, &mut server, &mut client.sink);
            tokio::pin!(down);
            let mut has_ended = false;
            let heard = {
                let heard = self.hear(&mut client.source, target, leg, is_checked);
                tokio::pin!(heard);
                loop {
                    tokio::select! {
                        biased;
                        heard = &mut heard => break heard,
                        result = &mut down, if !has_ended => match result {
                            Ok(()) => has_ended = true,
                            Err(cut) => {
                                note(leg, Err(cut), &sink).await;
                                return None;
                            }
                        },
                    }
                }
            };
            match heard {
                Heard::Refused(reason) => {
                    leg.denied(reason);
                    return None;
                }
                Heard::Anything | Heard::Nothing | Heard::Ended | Heard::Line(_) => {
                    let up = async {
                        if let Heard::Line(line) = heard {
                            self.watch(&mut client.source, &mut sink, &flow, line)
                                .await?;
                        }
                        flow.pump_up(&mut client.source, &mut sink).await
                    };
                    let result = if has_ended {
                        up.await
                    } else {
                        tokio::try_join!(up, down).map(|_| ())
                    };
                    note(leg, result, &sink).await;
                    return None;
                }
                // A server that spoke before it was asked speaks neither HTTP/1 nor TLS.
                Heard::Requests if has_ended || leg.has_received() => {
                    leg.denied(DenialReason::BadRequest);
                    return None;
                }
                Heard::Tls if has_ended || leg.has_received() => {
                    leg.denied(DenialReason::NotTls);
                    return None;
                }
                Heard::Requests => Unused::Requests,
                Heard::Tls => Unused::Tls,
            }
        };
        Some(heard(stream))
    }

    /// Passes on a line that began as no proper request, until it is known that no server takes it
    /// for one: it has ended, the server has spoken, or it is longer than any server reads.
    async fn watch(
        &self,
        source: &mut Source<'_, ReadHalf<'_>>,
        sink: &mut ToServer<'_>,
        flow: &Flow<'_>,
        mut line: Line,
    ) -> Result<(), Cut> {
        loop {
            let came = source.ahead().len() as u64;
            flow.copy(Way::Up, source, sink, came).await?;
            let look = source.look_further(sniff::MOST_BYTES).await;
            if flow.leg.has_received() {
                return Ok(());
            }
            match look {
                Look::More(_) => self.activity.moved(),
                Look::Full => return Err(Cut::Limit),
                Look::End => return Ok(()),
            }
            match line.feed(source.ahead()) {
                Verdict::Request => return Err(Cut::Form),
                Verdict::Other => return Ok(()),
                Verdict::Open => {}
            }
        }
    }

    async fn hear(
        &self,
        source: &mut Source<'_, ReadHalf<'_>>,
        target: &Target,
        leg: &Leg,
        is_checked: bool,
    ) -> Heard {
        let mut ear = Ear {
            deadline: None,
            heard: 0,
        };
        loop {
            let speech = match self.hear_more(source, &mut ear).await {
                Ok(()) => sniff::listen(source.ahead()),
                Err(Heard::Ended) => sniff::heard_all(source.ahead()),
                Err(heard) => return heard,
            };
            if !is_checked {
                if let Speech::Tls(ClientHello { sni: Some(sni), .. }) = speech {
                    leg.named(&sni);
                }
                return Heard::Anything;
            }
            match speech {
                Speech::Unclear => {}
                Speech::Tls(hello) => {
                    return match check(&hello, target, leg) {
                        Ok(()) => Heard::Tls,
                        Err(reason) => Heard::Refused(reason),
                    };
                }
                Speech::Line(line) => return Heard::Line(line),
                Speech::BrokenTls => return Heard::Refused(DenialReason::NotTls),
                Speech::Http => return Heard::Requests,
                Speech::Other => return Heard::Anything,
            }
        }
    }

    /// Reads further ahead, unless there is something already that was not looked at. From the
    /// first byte on there is a deadline.
    pub(super) async fn hear_more(
        &self,
        source: &mut Source<'_, ReadHalf<'_>>,
        ear: &mut Ear,
    ) -> Result<(), Heard> {
        if source.ahead().len() <= ear.heard {
            let more = source.look_further(sniff::MOST_BYTES);
            let more = match ear.deadline {
                None => more.await,
                Some(deadline) => match timeout_at(deadline, more).await {
                    Ok(more) => more,
                    Err(_) => return Err(Heard::Refused(DenialReason::Limit)),
                },
            };
            match more {
                Look::More(_) => self.activity.moved(),
                Look::Full => return Err(Heard::Refused(DenialReason::Limit)),
                Look::End if source.ahead().is_empty() => return Err(Heard::Nothing),
                Look::End => return Err(Heard::Ended),
            }
        }
        ear.heard = source.ahead().len();
        ear.deadline
            .get_or_insert_with(|| Instant::now() + self.shared.timing.hello);
        Ok(())
    }
}

/// Judges and notes the name in a hello.
pub(super) fn check(hello: &ClientHello, target: &Target, leg: &Leg) -> Result<(), DenialReason> {
    if let Some(sni) = &hello.sni {
        leg.named(sni);
    }
    match &target.host {
        Host::Name(name) => check_client_hello(hello, name),
        Host::Address(_) => Err(DenialReason::SniMismatch),
    }
}

/// Whether the first record is whole, so that a hello that comes byte by byte is not read as often.
fn is_worth_a_look(bytes: &[u8]) -> bool {
    match bytes {
        [HANDSHAKE, _, _, high, low, ..] => {
            let record = usize::from(u16::from_be_bytes([*high, *low]));
            bytes.len() >= (RECORD_HEAD + record).min(client_hello::MOST_BYTES)
        }
        _ => true,
    }
}

/// Notes how a tunnel ended. One that both have said all on ends when the server has got it.
pub(super) async fn note(leg: &Leg, result: Result<(), Cut>, server: &ToServer<'_>) {
    match result {
        Err(Cut::Limit) => leg.denied(DenialReason::Limit),
        Err(Cut::Form) => leg.denied(DenialReason::BadRequest),
        // Both may go whenever they like.
        Err(Cut::Source | Cut::Sink) => {}
        Ok(()) => server.sent().await,
    }
}
