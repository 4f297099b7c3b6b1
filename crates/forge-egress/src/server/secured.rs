//! Tunnels of TLS from the first hello of the client on.
//!
//! A server goes by the name in the last hello, and may ask for a second one (`HelloRetryRequest`).
//! So both sides speak in turn until the server has given its last answer: nothing that the client
//! says behind a hello goes out before, and a second hello is judged as the first was. From then on
//! bytes only flow. What renegotiates later is encrypted, as is whatever else names a host inside TLS.

use forge_core::egress::DenialReason;
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use crate::client_hello::{self, HANDSHAKE};
use crate::policy::Target;
use crate::records::Aside;
use crate::server::buffers::{Look, Source};
use crate::server::connection::{Client, Connection};
use crate::server::copy::{Cut, Flow, Way};
use crate::server::leg::Leg;
use crate::server::outgoing::{FromServer, Outgoing, ToServer};
use crate::server::tunnel::{Ear, Heard, check, note};
use crate::server_hello::{self, Progress};

/// Why nothing flows after a handshake.
enum Stop {
    /// It was refused.
    Denied(DenialReason),
    /// It was cut, or one of both went away.
    Cut(Cut),
    /// It ended before it was done.
    Ended,
}

impl From<Cut> for Stop {
    fn from(cut: Cut) -> Self {
        Self::Cut(cut)
    }
}

/// What a server answers to a hello.
#[derive(PartialEq, Eq)]
enum Answer {
    Last,
    Retry,
}

/// The two ends of the connection to a server.
struct Server<'pool, 'stream> {
    source: Source<'pool, FromServer<'stream>>,
    sink: ToServer<'stream>,
}

impl Connection {
    /// A tunnel whose client has said a hello that was judged and is still read ahead.
    pub(super) async fn secured(
        &self,
        client: &mut Client<'_>,
        target: &Target,
        leg: &Leg,
        mut stream: Outgoing<'_>,
    ) {
        let flow = self.flow(leg);
        let (reader, sink) = stream.split();
        let mut server = Server {
            source: Source::new(reader, self.lender()),
            sink,
        };
        match self.shake_hands(client, target, &flow, &mut server).await {
            Ok(()) => {
                let up = flow.pump_up(&mut client.source, &mut server.sink);
                let down = self.pump_down(&flow, &mut server.source, &mut client.sink);
                let result = tokio::try_join!(up, down).map(|_| ());
                note(leg, result, &server.sink).await;
            }
            Err(Stop::Denied(reason)) => leg.denied(reason),
            Err(Stop::Cut(cut)) => note(leg, Err(cut), &server.sink).await,
            Err(Stop::Ended) => {}
        }
    }

    async fn shake_hands(
        &self,
        client: &mut Client<'_>,
        target: &Target,
        flow: &Flow<'_>,
        server: &mut Server<'_, '_>,
    ) -> Result<(), Stop> {
        pass_hello(client, flow, server).await?;
        if self.answer(client, flow, server).await? == Answer::Last {
            return Ok(());
        }
        // What was said before the wish is no answer to it.
        if !client.source.ahead().is_empty() {
            return Err(Stop::Denied(DenialReason::NotTls));
        }
        self.second_hello(client, target, flow, server).await?;
        pass_hello(client, flow, server).await?;
        match self.answer(client, flow, server).await? {
            Answer::Last => Ok(()),
            // A server asks once (RFC 8446, section 4.1.4).
            Answer::Retry => Err(Stop::Denied(DenialReason::NotTls)),
        }
    }

    /// Waits for the answer to a hello. The last one is left to flow, all before it is passed on.
    async fn answer(
        &self,
        client: &mut Client<'_>,
        flow: &Flow<'_>,
        server: &mut Server<'_, '_>,
    ) -> Result<Answer, Stop> {
        let mut has_ended = false;
        loop {
            let progress = server_hello::parse(server.source.ahead());
            match progress {
                Progress::NeedMore => {}
                Progress::Hello => return Ok(Answer::Last),
                Progress::Malformed => return Err(Stop::Denied(DenialReason::NotTls)),
                Progress::Aside(length) | Progress::Retry(length) => {
                    let (source, sink) = (&mut server.source, &mut client.sink);
                    flow.copy(Way::Down, source, sink, length as u64).await?;
                    if matches!(progress, Progress::Retry(_)) {
                        return Ok(Answer::Retry);
                    }
                    continue;
                }
            }
            // Only early data may come before the answer, and waits for it.
            if client.source.ahead().first() == Some(&HANDSHAKE) {
                return Err(Stop::Denied(DenialReason::NotTls));
            }
            let is_heard = !has_ended && client.source.ahead().len() < client_hello::MOST_BYTES;
            tokio::select! {
                biased;
                look = server.source.look_further(server_hello::MOST_BYTES) => match look {
                    Look::More(_) => self.activity.moved(),
                    Look::Full => return Err(Stop::Denied(DenialReason::Limit)),
                    Look::End => {
                        self.pump_down(flow, &mut server.source, &mut client.sink).await?;
                        return Err(Stop::Ended);
                    }
                },
                look = client.source.look_further(client_hello::MOST_BYTES), if is_heard => match look {
                    Look::More(_) => self.activity.moved(),
                    Look::Full => return Err(Stop::Denied(DenialReason::Limit)),
                    Look::End => {
                        has_ended = true;
                        if client.source.ahead().is_empty() {
                            // A server that is gone says so itself.
                            drop(server.sink.shutdown().await);
                        }
                    }
                },
            }
        }
    }

    /// Waits for the hello that a server asked for, behind at most one change of ciphers.
    async fn second_hello(
        &self,
        client: &mut Client<'_>,
        target: &Target,
        flow: &Flow<'_>,
        server: &mut Server<'_, '_>,
    ) -> Result<(), Stop> {
        let mut ear = Ear::with_deadline(Instant::now() + self.shared.timing.hello);
        let mut is_changed = false;
        loop {
            let heard = self.hear_more(&mut client.source, &mut ear).await;
            heard.map_err(stop)?;
            let aside = Aside::at(client.source.ahead());
            match aside {
                Aside::NeedMore => {}
                Aside::Neither => break,
                Aside::ChangeCipherSpec if is_changed => {
                    return Err(Stop::Denied(DenialReason::NotTls));
                }
                Aside::ChangeCipherSpec | Aside::Alert => {
                    let (source, sink) = (&mut client.source, &mut server.sink);
                    let length = aside.length() as u64;
                    flow.copy(Way::Up, source, sink, length).await?;
                    // With an alert the client gives up, and says why.
                    if aside == Aside::Alert {
                        return Err(Stop::Ended);
                    }
                    is_changed = true;
                    ear.forget();
                }
            }
        }
        ear.forget();
        let hello = self.hear_hello(&mut client.source, &mut ear).await;
        check(&hello.map_err(stop)?, target, flow.leg).map_err(Stop::Denied)
    }
}

fn stop(heard: Heard) -> Stop {
    match heard {
        Heard::Refused(reason) => Stop::Denied(reason),
        Heard::Nothing => Stop::Ended,
        _ => Stop::Denied(DenialReason::NotTls),
    }
}

/// Passes on the hello that was judged, and nothing that came behind it.
async fn pass_hello(
    client: &mut Client<'_>,
    flow: &Flow<'_>,
    server: &mut Server<'_, '_>,
) -> Result<(), Stop> {
    let length = client_hello::length(client.source.ahead());
    let length = length.ok_or(Stop::Denied(DenialReason::NotTls))?;
    let (source, sink) = (&mut client.source, &mut server.sink);
    flow.copy(Way::Up, source, sink, length as u64).await?;
    Ok(())
}
