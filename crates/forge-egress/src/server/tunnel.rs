//! Tunnels: what is looked at before bytes flow, and how they flow then.

use forge_core::egress::DenialReason;
use tokio::net::TcpStream;
use tokio::net::unix::ReadHalf;
use tokio::time::{Instant, timeout_at};

use crate::client_hello::{self, ClientHello};
use crate::names::Host;
use crate::policy::{Target, check_client_hello};
use crate::server::buffers::Source;
use crate::server::connection::{Client, Connection};
use crate::server::copy::{Cut, Way};
use crate::server::leg::Leg;
use crate::server::sniff::{self, Speech};

/// The first byte of a handshake record of TLS, and the bytes before its content.
const HANDSHAKE: u8 = 22;
const RECORD_HEAD: usize = 5;

/// What was heard of a client so far.
struct Ear {
    /// When it must be clear what it speaks.
    deadline: Option<Instant>,
    /// Bytes that were looked at.
    heard: usize,
}

/// What a client may do after its first words.
enum Heard {
    /// All it likes.
    Anything,
    /// Requests, one by one.
    Requests,
    /// Nothing.
    Refused(DenialReason),
    /// It went away without a word.
    Nothing,
}

impl Connection {
    /// A tunnel that must be TLS for the host that was judged. Not a byte goes out before that is
    /// certain.
    pub(super) async fn tls(
        &self,
        client: &mut Client<'_>,
        target: &Target,
        leg: &Leg,
        mut stream: TcpStream,
    ) {
        let mut ear = Ear {
            deadline: Some(Instant::now() + self.shared.timing.hello),
            heard: 0,
        };
        let heard = loop {
            match self.hear_more(&mut client.source, &mut ear).await {
                Err(heard) => break heard,
                Ok(()) if !is_worth_a_look(client.source.ahead()) => {}
                Ok(()) => match client_hello::parse(client.source.ahead()) {
                    client_hello::Progress::NeedMore
                        if client.source.ahead().len() < client_hello::MOST_BYTES => {}
                    client_hello::Progress::Hello(hello) => break check(&hello, target, leg),
                    _ => break Heard::Refused(DenialReason::NotTls),
                },
            }
        };
        match heard {
            Heard::Refused(reason) => return leg.denied(reason),
            Heard::Nothing => return,
            Heard::Anything | Heard::Requests => {}
        }
        let flow = self.flow(leg);
        let (reader, mut sink) = stream.split();
        let mut server = Source::new(reader);
        let up = flow.pump_up(&mut client.source, &mut sink);
        let down = flow.pump(Way::Down, &mut server, &mut client.sink);
        note(leg, tokio::try_join!(up, down).map(|_| ()));
    }

    /// A tunnel in which the server may speak first. Where `is_checked`, what the client says is
    /// held back until it is clear what it speaks, and TLS must name the host that was judged.
    ///
    /// Returns the connection to the server, not used yet, when the client speaks HTTP.
    pub(super) async fn any(
        &self,
        client: &mut Client<'_>,
        target: &Target,
        leg: &Leg,
        mut stream: TcpStream,
        is_checked: bool,
    ) -> Option<TcpStream> {
        let flow = self.flow(leg);
        let is_unused = {
            let (reader, mut sink) = stream.split();
            let mut server = Source::new(reader);
            let down = flow.pump(Way::Down, &mut server, &mut client.sink);
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
                                note(leg, Err(cut));
                                return None;
                            }
                        },
                    }
                }
            };
            match heard {
                Heard::Refused(reason) => {
                    leg.denied(reason);
                    false
                }
                Heard::Anything | Heard::Nothing => {
                    let up = flow.pump_up(&mut client.source, &mut sink);
                    let result = if has_ended {
                        up.await
                    } else {
                        tokio::try_join!(up, down).map(|_| ())
                    };
                    note(leg, result);
                    false
                }
                // A server that spoke before it was asked does not speak HTTP/1.
                Heard::Requests if has_ended || leg.has_received() => {
                    leg.denied(DenialReason::BadRequest);
                    false
                }
                Heard::Requests => true,
            }
        };
        is_unused.then_some(stream)
    }

    async fn hear(
        &self,
        source: &mut Source<ReadHalf<'_>>,
        target: &Target,
        leg: &Leg,
        is_checked: bool,
    ) -> Heard {
        let mut ear = Ear {
            deadline: None,
            heard: 0,
        };
        loop {
            match self.hear_more(source, &mut ear).await {
                Ok(()) => {}
                // Half a line and no more: no server takes that for a request with a host.
                Err(Heard::Refused(DenialReason::NotTls))
                    if source.ahead().first() != Some(&HANDSHAKE) =>
                {
                    return Heard::Anything;
                }
                Err(heard) => return heard,
            }
            let speech = sniff::listen(source.ahead());
            if !is_checked {
                if let Speech::Tls(ClientHello { sni: Some(sni), .. }) = speech {
                    leg.named(&sni);
                }
                return Heard::Anything;
            }
            match speech {
                Speech::Unclear => {}
                Speech::Tls(hello) => return check(&hello, target, leg),
                Speech::BrokenTls => return Heard::Refused(DenialReason::NotTls),
                Speech::Http => return Heard::Requests,
                Speech::Other => return Heard::Anything,
            }
        }
    }

    /// Reads further ahead, unless there is something already that was not looked at. From the
    /// first byte on there is a deadline.
    async fn hear_more(
        &self,
        source: &mut Source<ReadHalf<'_>>,
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
                Ok(1..) => self.activity.moved(),
                Ok(0) | Err(_) if source.ahead().is_empty() => return Err(Heard::Nothing),
                Ok(0) | Err(_) => return Err(Heard::Refused(DenialReason::NotTls)),
            }
        }
        ear.heard = source.ahead().len();
        ear.deadline
            .get_or_insert_with(|| Instant::now() + self.shared.timing.hello);
        Ok(())
    }
}

fn check(hello: &ClientHello, target: &Target, leg: &Leg) -> Heard {
    if let Some(sni) = &hello.sni {
        leg.named(sni);
    }
    let Host::Name(name) = &target.host else {
        return Heard::Refused(DenialReason::SniMismatch);
    };
    match check_client_hello(hello, name) {
        Ok(()) => Heard::Anything,
        Err(reason) => Heard::Refused(reason),
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

pub(super) fn note(leg: &Leg, result: Result<(), Cut>) {
    match result {
        Err(Cut::Limit) => leg.denied(DenialReason::Limit),
        Err(Cut::Form) => leg.denied(DenialReason::BadRequest),
        // Both may go whenever they like.
        Ok(()) | Err(Cut::Source | Cut::Sink) => {}
    }
}
