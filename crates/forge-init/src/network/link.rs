//! One connection of a client on loopback, and the one to the egress proxy that belongs to it.

use std::net::{IpAddr, Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::epoll::EpollFlags;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt,
};

use super::addresses;
use super::answer::{self, Mode, UNAVAILABLE};
use super::dns::{self, Names};
use super::flow::{Broken, End, Flow, read_some};
use super::socks::{self, Host, Parsed, Refusal, Reply};

/// How long a client may take to say what it wants.
const HELLO: Duration = Duration::from_secs(10);
/// How long the egress proxy may take to answer: it may need this long to resolve and to connect.
const ANSWER: Duration = Duration::from_secs(25);
/// How long reaching the egress proxy is tried.
const DIALLING: Duration = Duration::from_secs(10);
/// How long a client may take to hear the last words.
const FAREWELL: Duration = Duration::from_secs(2);
/// How long a client may be silent after the egress proxy has sent everything.
const HALF_CLOSED: Duration = Duration::from_secs(10);
/// How long nothing must have moved on a tunnel at rest until it may be ended for a client that
/// waits. Pauses inside a transfer are shorter: a lost packet is sent again after 0.2, 0.6 and 1.4 s.
const RESTING: Duration = Duration::from_secs(2);
/// Bytes of a client that are read without a use, so that closing does not destroy what was sent.
const MAX_UNHEARD: usize = 256 * 1024;
/// Steps of one link before others have their turn: a client may send as fast as it is read, and
/// what it sent meanwhile tells of itself again.
const MAX_STEPS: usize = 16;
/// Longest query over TCP; a question is never longer, and the rest is of no interest.
const LONGEST_QUERY: usize = 1024;

/// What the links have in common.
pub(crate) struct Shared<'a, N> {
    /// The egress proxy's socket.
    pub(crate) socket: &'a UnixAddr,
    pub(crate) names: &'a mut N,
    pub(crate) scratch: &'a mut [u8],
    pub(crate) now: Instant,
}

/// What a client is connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    /// The HTTP proxy.
    Proxy,
    /// The SOCKS5 proxy.
    Socks,
    /// The resolver.
    Resolver,
}

/// The link is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    /// Both ends know.
    Closed,
    /// The client must see that something went wrong.
    Reset,
}

/// Who waits for the egress proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiting {
    Proxy,
    Captured,
    Socks,
}

#[derive(Debug)]
enum Stage {
    /// The SOCKS client has not said how it authenticates.
    Greeting(Vec<u8>),
    /// It has not said where to.
    Request(Vec<u8>),
    /// Queries over TCP.
    Questions(Vec<u8>),
    /// The egress proxy is not reached yet.
    Dialling(Waiting),
    /// It has not answered yet.
    Answer(Waiting, Vec<u8>),
    Relay,
    /// Last words; so many bytes were read without a use.
    Farewell(usize),
}

/// A client and, where it needs one, its connection to the egress proxy.
#[derive(Debug)]
pub(crate) struct Link {
    client: TcpStream,
    upstream: Option<UnixStream>,
    stage: Stage,
    outwards: Flow,
    inwards: Flow,
    /// What the client sent before its tunnel stands.
    early: Vec<u8>,
    deadline: Option<Instant>,
    /// When bytes were last read from or taken by either end of a tunnel.
    moved: Instant,
    /// What moved last came from the egress proxy.
    answered: bool,
    /// What either end is registered for.
    pub(crate) registered: [EpollFlags; 2],
}

impl Link {
    /// A client of one of the services.
    pub(crate) fn served(client: TcpStream, service: Service, now: Instant) -> Self {
        let (stage, patience) = match service {
            Service::Proxy => (Stage::Dialling(Waiting::Proxy), DIALLING),
            Service::Socks => (Stage::Greeting(Vec::new()), HELLO),
            Service::Resolver => (Stage::Questions(Vec::new()), HELLO),
        };
        Self::new(client, stage, now, patience)
    }

    /// A client that wanted to connect to a name, and does not know of a proxy.
    pub(crate) fn captured(client: TcpStream, name: &str, port: u16, now: Instant) -> Self {
        let mut link = Self::new(client, Stage::Dialling(Waiting::Captured), now, DIALLING);
        let host = Host::Name(name.to_owned());
        link.outwards
            .push(&answer::connect(&host, port, Mode::Transparent));
        link
    }

    fn new(client: TcpStream, stage: Stage, now: Instant, patience: Duration) -> Self {
        Self {
            client,
            upstream: None,
            stage,
            outwards: Flow::default(),
            inwards: Flow::default(),
            early: Vec::new(),
            deadline: Some(now + patience),
            moved: now,
            answered: false,
            registered: [EpollFlags::empty(); 2],
        }
    }

    /// The client's end.
    pub(crate) fn client(&self) -> &TcpStream {
        &self.client
    }

    /// The egress proxy's end.
    pub(crate) fn upstream(&self) -> Option<&UnixStream> {
        self.upstream.as_ref()
    }

    /// When it is over, unless something happens before.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// From when on it may be ended for a client that waits, unless something moves before; none
    /// while its own deadline decides.
    ///
    /// Where an answer is still awaited, or bytes wait to be taken, that is no sooner than an egress
    /// proxy that does not answer is given up: else the slow requests would be the first to go.
    pub(crate) fn spare_from(&self) -> Option<Instant> {
        let patience = if self.is_at_rest() { RESTING } else { ANSWER };
        matches!(self.stage, Stage::Relay).then_some(self.moved + patience)
    }

    /// How it is to end when it makes room: a client whose request gets lost must see that.
    pub(crate) fn making_room(&self) -> Over {
        if self.is_at_rest() {
            Over::Closed
        } else {
            Over::Reset
        }
    }

    fn is_at_rest(&self) -> bool {
        self.answered && !self.outwards.wants_to_write() && !self.inwards.wants_to_write()
    }

    /// Whether reaching the egress proxy is to be tried again soon.
    pub(crate) fn is_dialling(&self) -> bool {
        matches!(self.stage, Stage::Dialling(_))
    }

    /// What to wait for at the client's and at the egress proxy's end.
    pub(crate) fn wanted(&self) -> [EpollFlags; 2] {
        let flag = |wanted, flag| if wanted { flag } else { EpollFlags::empty() };
        let read = |wanted| flag(wanted, EpollFlags::EPOLLIN);
        let write = |flow: &Flow| flag(flow.wants_to_write(), EpollFlags::EPOLLOUT);
        let nothing = EpollFlags::empty();
        match &self.stage {
            Stage::Greeting(_) | Stage::Request(_) | Stage::Questions(_) => {
                let is_heard = !self.inwards.wants_to_write();
                [read(is_heard) | write(&self.inwards), nothing]
            }
            Stage::Dialling(_) => [nothing, nothing],
            Stage::Answer(..) => [nothing, read(true) | write(&self.outwards)],
            Stage::Relay => [
                read(self.outwards.wants_to_read()) | write(&self.inwards),
                read(self.inwards.wants_to_read()) | write(&self.outwards),
            ],
            Stage::Farewell(_) => [read(true) | write(&self.inwards), nothing],
        }
    }

    /// Does whatever can be done now.
    pub(crate) fn advance<N: Names>(&mut self, shared: &mut Shared<'_, N>) -> Result<(), Over> {
        if self.deadline.is_some_and(|deadline| shared.now >= deadline) {
            return self.give_up(shared.now);
        }
        for _ in 0..MAX_STEPS {
            let progress = match &mut self.stage {
                Stage::Greeting(_) | Stage::Request(_) => self.hear(shared)?,
                Stage::Questions(_) => self.resolve(shared)?,
                Stage::Dialling(waiting) => {
                    let waiting = *waiting;
                    self.dial(waiting, shared)?
                }
                Stage::Answer(waiting, _) => {
                    let waiting = *waiting;
                    self.hear_answer(waiting, shared)?
                }
                Stage::Relay => self.relay(shared)?,
                Stage::Farewell(_) => self.farewell(shared)?,
            };
            if !progress {
                break;
            }
        }
        Ok(())
    }

    fn give_up(&mut self, now: Instant) -> Result<(), Over> {
        match self.stage {
            Stage::Dialling(waiting) | Stage::Answer(waiting, _) => self.fail(waiting, now),
            _ => Err(Over::Closed),
        }
    }

    /// Reads what a SOCKS client says; gives whether there may be more to do.
    fn hear<N: Names>(&mut self, shared: &mut Shared<'_, N>) -> Result<bool, Over> {
        self.inwards.flush(&mut self.client).map_err(closed)?;
        let (Stage::Greeting(heard) | Stage::Request(heard)) = &mut self.stage else {
            return Ok(false);
        };
        let room = socks::LONGEST.saturating_sub(heard.len());
        let into = shared.scratch.get_mut(..room).unwrap_or(&mut []);
        // Without room everything that is needed is there, and was not read yet.
        if !into.is_empty() {
            match read_some(&mut self.client, into).map_err(closed)? {
                Some(0) => return Err(Over::Closed),
                Some(count) => heard.extend_from_slice(into.get(..count).unwrap_or(&[])),
                None if heard.is_empty() => return Ok(false),
                None => {}
            }
        }
        let heard = std::mem::take(heard);
        match self.stage {
            Stage::Greeting(_) => match socks::greeting(&heard) {
                Ok(Parsed::Partial) => self.stage = Stage::Greeting(heard),
                Ok(Parsed::Whole((), length)) => {
                    self.inwards.push(&socks::ACCEPTED);
                    self.stage = Stage::Request(heard.get(length..).unwrap_or(&[]).to_vec());
                    return Ok(true);
                }
                Err(refusal) => return self.turn_away(refusal, shared.now),
            },
            _ => match socks::request(&heard) {
                Ok(Parsed::Partial) => self.stage = Stage::Request(heard),
                Ok(Parsed::Whole((host, port), length)) => {
                    self.early = heard.get(length..).unwrap_or(&[]).to_vec();
                    return self.begin_tunnel(host, port, shared);
                }
                Err(refusal) => return self.turn_away(refusal, shared.now),
            },
        }
        Ok(false)
    }

    fn turn_away(&mut self, refusal: Refusal, now: Instant) -> Result<bool, Over> {
        match refusal {
            Refusal::Foreign => Err(Over::Closed),
            Refusal::Answer(words) => {
                self.say_goodbye(&words, now);
                Ok(true)
            }
        }
    }

    /// Asks the egress proxy for what a SOCKS client wants.
    fn begin_tunnel<N: Names>(
        &mut self,
        host: Host,
        port: u16,
        shared: &mut Shared<'_, N>,
    ) -> Result<bool, Over> {
        let Some(host) = without_stand_in(host, shared.names) else {
            self.say_goodbye(&Reply::HostUnreachable.bytes(), shared.now);
            return Ok(true);
        };
        self.outwards
            .push(&answer::connect(&host, port, Mode::Socks));
        self.stage = Stage::Dialling(Waiting::Socks);
        self.deadline = Some(shared.now + DIALLING);
        Ok(true)
    }

    /// Answers queries over TCP.
    fn resolve<N: Names>(&mut self, shared: &mut Shared<'_, N>) -> Result<bool, Over> {
        self.inwards.flush(&mut self.client).map_err(closed)?;
        let Stage::Questions(heard) = &mut self.stage else {
            return Ok(false);
        };
        if self.inwards.is_finished() {
            return Err(Over::Closed);
        }
        if !self.inwards.wants_to_read() {
            return Ok(false);
        }
        let into = shared.scratch.get_mut(..LONGEST_QUERY).unwrap_or(&mut []);
        match read_some(&mut self.client, into).map_err(closed)? {
            Some(0) => self.inwards.end(),
            Some(count) => heard.extend_from_slice(into.get(..count).unwrap_or(&[])),
            None => return Ok(false),
        }
        let mut begin = 0;
        while let Some(length) = heard.get(begin..).and_then(<[u8]>::first_chunk::<2>) {
            let length = usize::from(u16::from_be_bytes(*length));
            if length > LONGEST_QUERY {
                return Err(Over::Closed);
            }
            let Some(query) = heard.get(begin + 2..begin + 2 + length) else {
                break;
            };
            begin += 2 + length;
            let Some(answer) = dns::answer(query, shared.names) else {
                return Err(Over::Closed);
            };
            let length = u16::try_from(answer.len()).unwrap_or(0);
            self.inwards.push(&length.to_be_bytes());
            self.inwards.push(&answer);
            self.deadline = Some(shared.now + HELLO);
        }
        heard.drain(..begin);
        Ok(true)
    }

    fn dial<N>(&mut self, waiting: Waiting, shared: &Shared<'_, N>) -> Result<bool, Over> {
        match dial(shared.socket) {
            Ok(upstream) => {
                self.upstream = Some(upstream);
                if waiting == Waiting::Proxy {
                    self.begin_relay(shared.now);
                } else {
                    self.stage = Stage::Answer(waiting, Vec::new());
                    self.deadline = Some(shared.now + ANSWER);
                }
                Ok(true)
            }
            // Its queue is full, or the kernel is short of something: that passes.
            Err(
                Errno::EAGAIN
                | Errno::EINTR
                | Errno::EMFILE
                | Errno::ENFILE
                | Errno::ENOMEM
                | Errno::ENOBUFS,
            ) => Ok(false),
            Err(_) => self.fail(waiting, shared.now).map(|()| true),
        }
    }

    /// The egress proxy cannot be reached, or does not answer.
    fn fail(&mut self, waiting: Waiting, now: Instant) -> Result<(), Over> {
        match waiting {
            Waiting::Captured => return Err(Over::Reset),
            Waiting::Proxy => self.say_goodbye(UNAVAILABLE.as_bytes(), now),
            Waiting::Socks => self.say_goodbye(&Reply::Failed.bytes(), now),
        }
        Ok(())
    }

    fn begin_relay(&mut self, now: Instant) {
        self.stage = Stage::Relay;
        self.moved = now;
        self.deadline = None;
    }

    /// Reads the egress proxy's answer to a request for a tunnel.
    fn hear_answer<N>(
        &mut self,
        waiting: Waiting,
        shared: &mut Shared<'_, N>,
    ) -> Result<bool, Over> {
        let (Stage::Answer(_, heard), Some(upstream)) = (&mut self.stage, &mut self.upstream)
        else {
            return Ok(false);
        };
        let room = answer::LONGEST.saturating_sub(heard.len());
        let into = shared.scratch.get_mut(..room).unwrap_or(&mut []);
        let searched = heard.len();
        let read = self
            .outwards
            .flush(upstream)
            .and_then(|()| read_some(upstream, into));
        match read {
            Ok(None) => return Ok(false),
            Ok(Some(count)) if count > 0 => {
                heard.extend_from_slice(into.get(..count).unwrap_or(&[]));
            }
            _ => return self.fail(waiting, shared.now).map(|()| true),
        }
        let (status, length) = match answer::parse(heard, searched) {
            answer::Parsed::Partial => return Ok(true),
            answer::Parsed::Malformed => return self.fail(waiting, shared.now).map(|()| true),
            answer::Parsed::Whole(status, length) => (status, length),
        };
        let rest = heard.get(length..).unwrap_or(&[]).to_vec();
        match waiting {
            Waiting::Socks if status == 200 => self.inwards.push(&Reply::Succeeded.bytes()),
            Waiting::Socks => {
                self.say_goodbye(&Reply::of_status(status).bytes(), shared.now);
                return Ok(true);
            }
            _ if status == 200 => {}
            _ => return Err(Over::Reset),
        }
        self.inwards.push(&rest);
        self.outwards.push(&std::mem::take(&mut self.early));
        self.begin_relay(shared.now);
        Ok(true)
    }

    fn relay<N>(&mut self, shared: &mut Shared<'_, N>) -> Result<bool, Over> {
        let Some(upstream) = &mut self.upstream else {
            return Err(Over::Closed);
        };
        let waited = [&self.outwards, &self.inwards].map(Flow::wants_to_write);
        // First, so that what comes in now is no answer to what goes out now.
        let came_in = self
            .inwards
            .pump(upstream, &mut self.client, shared.scratch);
        let came_out = self
            .outwards
            .pump(&mut self.client, upstream, shared.scratch);
        let came_in = match came_in {
            Err(Broken::Source) => return Err(Over::Reset),
            Err(Broken::Target) => return Err(Over::Closed),
            Ok(came) => came,
        };
        let came_out = match came_out {
            Ok(came) => came,
            Err(Broken::Source) => return Err(Over::Closed),
            // What the egress proxy said before it closed may still be on its way.
            Err(Broken::Target) => {
                self.outwards.give_up();
                true
            }
        };
        self.note_moves(waited, [came_out, came_in], shared.now);
        if self.inwards.is_finished() {
            if self.outwards.is_abandoned() {
                self.stage = Stage::Farewell(0);
                self.deadline = Some(shared.now + FAREWELL);
                return Ok(true);
            }
            if self.outwards.is_finished() {
                return Err(Over::Closed);
            }
            if came_out || self.deadline.is_none() {
                self.deadline = Some(shared.now + HALF_CLOSED);
            }
        }
        // Whatever else there is tells of itself.
        Ok(false)
    }

    /// Notes when something moved last, and where from; outwards and inwards, what waited to be
    /// written before, and whether something was read.
    fn note_moves(&mut self, waited: [bool; 2], came: [bool; 2], now: Instant) {
        let [waited_out, waited_in] = waited;
        let [came_out, came_in] = came;
        let went_out = waited_out && !self.outwards.wants_to_write();
        let went_in = waited_in && !self.inwards.wants_to_write();
        if came_out || went_out {
            self.answered = false;
        } else if came_in {
            self.answered = true;
        }
        if came_out || went_out || came_in || went_in {
            self.moved = now;
        }
    }

    fn say_goodbye(&mut self, words: &[u8], now: Instant) {
        if let Some(upstream) = &self.upstream {
            drop(upstream.shutdown(Shutdown::Both));
        }
        self.inwards.push(words);
        self.inwards.end();
        self.stage = Stage::Farewell(0);
        self.deadline = Some(now + FAREWELL);
    }

    fn farewell<N>(&mut self, shared: &mut Shared<'_, N>) -> Result<bool, Over> {
        self.inwards.flush(&mut self.client).map_err(closed)?;
        let Stage::Farewell(unheard) = &mut self.stage else {
            return Ok(false);
        };
        match read_some(&mut self.client, shared.scratch).map_err(closed)? {
            Some(0) => Err(Over::Closed),
            None => Ok(false),
            Some(count) => {
                *unheard += count;
                if *unheard > MAX_UNHEARD {
                    return Err(Over::Closed);
                }
                Ok(true)
            }
        }
    }

    /// Ends it; the client sees a reset where it should.
    pub(crate) fn close(self, over: Over) {
        if over == Over::Reset {
            let linger = libc::linger {
                l_onoff: 1,
                l_linger: 0,
            };
            // Where it is refused, the client sees an ordinary end and nothing that it asked for.
            let _refused = setsockopt(&self.client, sockopt::Linger, &linger);
        } else {
            // Said at once, also when a child that is about to become a program has the socket too.
            self.client.end_writing();
        }
    }
}

fn closed(_: Broken) -> Over {
    Over::Closed
}

/// The host that an address of ours stands for; none when it stands for nothing any more.
fn without_stand_in(host: Host, names: &mut impl Names) -> Option<Host> {
    let Host::Address(address) = &host else {
        return Some(host);
    };
    match address.to_canonical() {
        IpAddr::V4(four) if addresses::index(four).is_some() => names.name_of(four).map(Host::Name),
        _ => Some(host),
    }
}

/// Connects without ever waiting: the queue of the egress proxy may be full.
fn dial(address: &UnixAddr) -> Result<UnixStream, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(socket.as_raw_fd(), address)?;
    Ok(socket.into())
}

#[cfg(test)]
#[path = "link_tests.rs"]
mod tests;
