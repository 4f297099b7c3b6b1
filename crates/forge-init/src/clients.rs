//! Connections: accepting them, letting the owner in, and answering whoever is the client.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use forge_wire::frame::decode_message;
use forge_wire::{Event, Frame, PROTOCOL_VERSION, Proof, Request};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::connection::{Closed, Connection, HIGH_WATER};
use crate::event_loop::{EventLoop, Over};
use crate::gate::Verdict;
use crate::listeners::Listener;
use crate::network::describe;
use crate::{processes, seccomp};

/// Connections that have proved nothing yet.
const MAX_STRANGERS: usize = 8;
/// How long one of these may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// The same for a bridge, which runs on the processors that the task is using up.
const BRIDGE_PATIENCE: Duration = Duration::from_secs(12);
/// Connections that are accepted in one round.
const MAX_ACCEPTED: usize = 16;

/// Everybody who is connected.
#[derive(Debug)]
pub(crate) struct Clients {
    pub(crate) listeners: Vec<Listener>,
    /// Connections that have proved nothing yet, the oldest first.
    pub(crate) strangers: Vec<Connection>,
    /// The owner's connection; the newest one that proved it, of the highest epoch.
    pub(crate) client: Option<Connection>,
}

impl Clients {
    /// Nobody yet.
    pub(crate) fn new(listeners: Vec<Listener>) -> Self {
        Self {
            listeners,
            strangers: Vec::new(),
            client: None,
        }
    }

    /// When the next socket that is left alone is looked at again.
    pub(crate) fn next_look(&self, now: Instant) -> Option<Instant> {
        let listeners = self.listeners.iter();
        listeners
            .filter_map(|listener| listener.rests_until(now))
            .min()
    }

    /// When the next stranger has taken too long.
    pub(crate) fn next_late(&self) -> Option<Instant> {
        self.strangers.iter().map(late_at).min()
    }

    /// Drops strangers that have taken too long.
    pub(crate) fn drop_late(&mut self, now: Instant) {
        self.strangers.retain(|stranger| now < late_at(stranger));
    }

    /// The bridge that holds the client's connection at this moment.
    pub(crate) fn bridge(&self) -> Option<i32> {
        let client = self.client.as_ref()?;
        let bridge = client.bridge()?;
        // A hang-up is told without asking, and is all that matters here.
        let mut polled = [PollFd::new(client.stream().as_fd(), PollFlags::empty())];
        poll(&mut polled, PollTimeout::ZERO).ok()?;
        let [polled] = polled;
        // Its number is worth nothing once it is gone.
        (polled.any() == Some(false)).then_some(bridge)
    }

    /// Lets the bridge go on, which whoever can become its user may have stopped.
    pub(crate) fn wake_bridge(&self) {
        if let Some(bridge) = self.bridge() {
            processes::wake(bridge);
        }
    }
}

/// When a stranger has taken too long.
fn late_at(stranger: &Connection) -> Instant {
    let patience = match stranger.bridge() {
        Some(_) => BRIDGE_PATIENCE,
        None => PATIENCE,
    };
    stranger.opened + patience
}

impl EventLoop {
    /// Whether requests of the client are taken now.
    pub(crate) fn may_read(&self, client: &Connection) -> bool {
        // What comes after a request to end all processes must find them ended.
        self.kill.is_none() && client.waiting() < HIGH_WATER
    }

    /// Takes new connections.
    pub(crate) fn accept(&mut self, index: usize) {
        let now = Instant::now();
        for _ in 0..MAX_ACCEPTED {
            let Some(listener) = self.clients.listeners.get_mut(index) else {
                return;
            };
            let Some(stream) = listener.accept() else {
                return;
            };
            let Some(mut connection) = Connection::new(stream, listener.door, now) else {
                listener.rest(now);
                continue;
            };
            if self.random.read_exact(&mut connection.nonce).is_err() {
                return;
            }
            let greeting = Event::Greeting {
                version: PROTOCOL_VERSION,
                nonce: connection.nonce,
                claimed: self.gate.is_claimed(),
            };
            if connection.push(&greeting).is_err() || connection.flush().is_err() {
                continue;
            }
            if self.clients.strangers.len() >= MAX_STRANGERS {
                self.clients.strangers.remove(0);
            }
            self.clients.strangers.push(connection);
        }
    }

    /// Reads a handshake; whoever says anything else is gone.
    pub(crate) fn read_stranger(&mut self, index: usize) {
        let Some(stranger) = self.clients.strangers.get_mut(index) else {
            return;
        };
        let frame = stranger
            .read_handshake(&mut self.scratch)
            .and_then(|()| stranger.next_frame().map_err(|_| Closed));
        match frame {
            Ok(None) => {}
            Ok(Some(frame)) => {
                let stranger = self.clients.strangers.remove(index);
                self.judge(stranger, &frame);
            }
            Err(Closed) => drop(self.clients.strangers.remove(index)),
        }
    }

    fn judge(&mut self, mut connection: Connection, frame: &Frame) {
        let request = match frame {
            Frame::Message(body) => decode_message::<Request>(body).ok(),
            Frame::Data(_) => None,
        };
        let claimed = self.gate.is_claimed();
        let verdict = match request {
            Some(request) => self.gate.judge(request, &connection.nonce),
            None => Verdict::Refused,
        };
        let refusal = match verdict {
            Verdict::Welcome(proof) => return self.welcome(connection, proof, !claimed),
            Verdict::Superseded { epoch, proof } => Event::Superseded { epoch, proof },
            Verdict::Refused => Event::Refused,
        };
        // Best effort: whoever is refused may have gone already.
        if connection.push(&refusal).is_ok() {
            drop(connection.flush());
        }
    }

    /// Makes a connection the client's, in the place of the one before.
    fn welcome(&mut self, mut connection: Connection, proof: Proof, is_first: bool) {
        if is_first {
            self.begin_life();
        }
        self.drop_client();
        let welcome = Event::Welcome {
            proof,
            attestation: Box::new(self.attestation.clone()),
        };
        if connection.push(&welcome).is_ok() {
            self.clients.client = Some(connection);
            self.serve_client();
        }
    }

    fn begin_life(&mut self) {
        let Some(settings) = self.gate.settings() else {
            return;
        };
        let lifetime = Duration::from_secs(settings.lifetime_seconds);
        let now = Instant::now();
        // A lifetime that no clock can hold is none; a day is the longest that the plan knows.
        let longest = Duration::from_secs(366 * 24 * 3600);
        self.ends_at = now + lifetime.min(longest);
        self.disk.watch(settings);
        if self.disk.can_fill_others()
            && let Err(error) = seccomp::refuse_reserving()
        {
            drop(writeln!(
                io::stderr(),
                "forge-init: room can be reserved: {error}"
            ));
            self.over = Some(Over::Broken);
        }
        if let Some(network) = &settings.network {
            let served = self.network.serve(network);
            self.attestation.network_served = served.is_ok();
            self.attestation.network_failure = served.err().map(|error| describe(&error));
        }
    }

    /// Forgets the client and what only it waits for.
    pub(crate) fn drop_client(&mut self) {
        if self.clients.client.take().is_some() {
            self.execs.detach();
            self.transfers.cancel_all();
        }
    }

    /// Reads what the client sent, and sends what waits for it.
    pub(crate) fn read_client(&mut self) {
        let Some(client) = &self.clients.client else {
            return;
        };
        let may_read = self.may_read(client);
        let Some(client) = &mut self.clients.client else {
            return;
        };
        let mut result = client.flush();
        if may_read && result.is_ok() {
            result = client.read(&mut self.scratch);
        }
        if result.is_err() {
            // Requests that came before the end are still carried out.
            self.serve_client();
            self.drop_client();
        }
    }

    /// Carries out the requests that have come whole.
    pub(crate) fn serve_client(&mut self) {
        loop {
            let Some(client) = &self.clients.client else {
                return;
            };
            if !self.may_read(client) {
                return;
            }
            let frame = match &mut self.clients.client {
                Some(client) => client.next_frame(),
                None => return,
            };
            let served = match frame {
                Ok(None) => return,
                Ok(Some(frame)) => self.serve(frame),
                Err(_) => Err(Closed),
            };
            if served.is_err() {
                self.drop_client();
            }
        }
    }

    /// Sends an event to the client, if there is one.
    pub(crate) fn tell(&mut self, event: &Event) {
        if let Some(client) = &mut self.clients.client
            && client.push(event).is_err()
        {
            self.drop_client();
        }
    }

    /// Fills the client's queue with output and downloads, and sends it.
    pub(crate) fn send_to_client(&mut self) {
        let Some(client) = &mut self.clients.client else {
            return;
        };
        let limit = client.queue_limit();
        let execs = self.execs.active();
        let mut result = Ok(());
        for exec in execs.iter_mut() {
            result = result.and_then(|()| exec.send_to(client.queue(), limit));
        }
        // Whoever was first in this round is last in the next one.
        if let Some(first) = execs.len().checked_sub(1) {
            execs.rotate_right(first.min(1));
        }
        let result = result
            .and_then(|()| {
                self.transfers
                    .collect(client.queue(), limit)
                    .map_err(|_| Closed)
            })
            .and_then(|()| client.flush());
        if result.is_err() {
            self.drop_client();
        }
    }
}
