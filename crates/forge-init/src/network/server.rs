//! The loop of the network's thread: takes connections and moves bytes, and never waits for one.
//!
//! Worst-case memory, reached only by a task that does its worst: [`MAX_LINKS`] connections with a
//! piece of 64 KiB waiting in each direction, 32 MiB; 2048 listeners, 8 MiB of the kernel's. What
//! the kernel keeps for sockets is bounded by its own settings. A network that nobody uses needs
//! some 100 KiB. All of it counts as the sandbox's.

use std::collections::{BTreeSet, VecDeque};
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::UnixAddr;

use super::captures::{Captures, Key};
use super::dns;
use super::flow::PIECE;
use super::link::{Link, Over, Service, Shared};

/// Connections of clients at once; more wait in the kernel's queues until one ends, or until one can
/// be spared: some clients keep every connection they ever made, and would wait for themselves.
const MAX_LINKS: usize = 256;
/// Connections that are accepted at one listener before others have their turn.
const MAX_ACCEPTED: usize = 16;
/// Listeners that have their turn in one round.
const MAX_TURNS: usize = 64;
/// Queries that are answered in one round.
const MAX_QUERIES: usize = 64;
/// Longest query; EDNS could announce longer ones, but no question is that long.
const LONGEST_QUERY: usize = 1232;
/// Pause until something is tried again that the kernel had no room for.
const AGAIN: Duration = Duration::from_millis(20);

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Datagrams,
    Door(u32),
    Capture(Key),
    Client(u32),
    Upstream(u32),
}

impl Token {
    fn encode(self) -> u64 {
        let (kind, value) = match self {
            Self::Datagrams => (0_u64, 0),
            Self::Door(index) => (1, index),
            Self::Capture(key) => (2, u32::from(key.index) << 16 | u32::from(key.port)),
            Self::Client(slot) => (3, slot),
            Self::Upstream(slot) => (4, slot),
        };
        kind << 32 | u64::from(value)
    }

    fn decode(data: u64) -> Option<Self> {
        let [_, _, _, kind, first, second, third, fourth] = data.to_be_bytes();
        let value = u32::from_be_bytes([first, second, third, fourth]);
        Some(match kind {
            0 => Self::Datagrams,
            1 => Self::Door(value),
            2 => Self::Capture(Key {
                index: u16::from_be_bytes([first, second]),
                port: u16::from_be_bytes([third, fourth]),
            }),
            3 => Self::Client(value),
            4 => Self::Upstream(value),
            _ => return None,
        })
    }
}

/// The number under which a captured port is registered.
pub(crate) fn capture_token(key: Key) -> u64 {
    Token::Capture(key).encode()
}

/// Everything the thread has.
pub(crate) struct Server {
    epoll: Arc<Epoll>,
    socket: UnixAddr,
    doors: Vec<(Service, TcpListener)>,
    datagrams: UdpSocket,
    captures: Captures,
    links: Vec<Option<Link>>,
    /// Listeners that may have more connections, whoever waits longest first.
    queue: VecDeque<u64>,
    queued: BTreeSet<u64>,
    /// Set while the kernel has no room for another connection.
    accept_again: Option<Instant>,
    dial_again: Instant,
    scratch: Vec<u8>,
}

/// What is there to accept at a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    Nothing,
    MaybeMore,
}

impl Server {
    /// Takes over sockets that are bound and do not block.
    pub(crate) fn new(
        epoll: Arc<Epoll>,
        socket: UnixAddr,
        doors: Vec<(Service, TcpListener)>,
        datagrams: UdpSocket,
        captures: Captures,
    ) -> Result<Self, Errno> {
        let read = EpollFlags::EPOLLIN;
        for (index, (_, door)) in (0..).zip(&doors) {
            let flags = read | EpollFlags::EPOLLET;
            epoll.add(door, EpollEvent::new(flags, Token::Door(index).encode()))?;
        }
        epoll.add(&datagrams, EpollEvent::new(read, Token::Datagrams.encode()))?;
        Ok(Self {
            epoll,
            socket,
            doors,
            datagrams,
            captures,
            links: (0..MAX_LINKS).map(|_| None).collect(),
            queue: VecDeque::new(),
            queued: BTreeSet::new(),
            accept_again: None,
            dial_again: Instant::now(),
            scratch: Vec::new(),
        })
    }

    /// Serves until the kernel refuses to wait for events, which ends the sandbox's network.
    pub(crate) fn run(mut self) {
        self.scratch = vec![0; PIECE];
        let mut events = [EpollEvent::empty(); MAX_LINKS];
        loop {
            let timeout = self.timeout(Instant::now());
            let count = match self.epoll.wait(&mut events, timeout) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(_) => return,
            };
            let now = Instant::now();
            for event in events.iter().take(count) {
                self.happened(event.data(), now);
            }
            self.accept_some(now);
            self.check_times(now);
        }
    }

    fn timeout(&self, now: Instant) -> EpollTimeout {
        let wants_links = !self.queue.is_empty() && self.accept_again.is_none();
        if wants_links && self.links.iter().any(Option::is_none) {
            return EpollTimeout::ZERO;
        }
        let links = || self.links.iter().flatten();
        let spare = links().filter_map(Link::spare_from).min();
        let dialling = links().any(Link::is_dialling).then_some(self.dial_again);
        let next = links()
            .filter_map(Link::deadline)
            .chain(dialling)
            .chain(self.accept_again)
            .chain(spare.filter(|_| wants_links))
            .min();
        let Some(next) = next else {
            return EpollTimeout::NONE;
        };
        let pause = next.saturating_duration_since(now).as_millis();
        // A millisecond more: waking up before the time would only mean to wait again.
        let milliseconds = u16::try_from(pause).unwrap_or(u16::MAX - 1) + 1;
        EpollTimeout::from(milliseconds)
    }

    fn happened(&mut self, data: u64, now: Instant) {
        match Token::decode(data) {
            Some(Token::Datagrams) => self.answer_queries(),
            Some(Token::Door(_) | Token::Capture(_)) => {
                // Whoever waits for its turn already has it.
                let is_new = self.queued.insert(data);
                self.queue.extend(is_new.then_some(data));
            }
            Some(Token::Client(slot) | Token::Upstream(slot)) => self.advance(slot, now),
            None => {}
        }
    }

    fn answer_queries(&mut self) {
        for _ in 0..MAX_QUERIES {
            let buffer = self.scratch.get_mut(..LONGEST_QUERY).unwrap_or(&mut []);
            let (count, from) = match self.datagrams.recv_from(buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // Somebody did not wait for an answer; the next query is another one's.
                Err(_) => continue,
            };
            let query = buffer.get(..count).unwrap_or(&[]);
            if let Some(answer) = dns::answer(query, &mut self.captures) {
                // A resolver asks again.
                drop(self.datagrams.send_to(&answer, from));
            }
        }
    }

    fn accept_some(&mut self, now: Instant) {
        if self.accept_again.is_some_and(|again| now < again) {
            return;
        }
        self.accept_again = None;
        for _ in 0..self.queue.len().min(MAX_TURNS) {
            let Some(data) = self.queue.pop_front() else {
                return;
            };
            if self.accept_from(data, now) == Rest::Nothing {
                self.queued.remove(&data);
            } else {
                self.queue.push_back(data);
            }
        }
    }

    fn accept_from(&mut self, data: u64, now: Instant) -> Rest {
        for _ in 0..MAX_ACCEPTED {
            if self.accept_again.is_some() {
                return Rest::MaybeMore;
            }
            let free = self.links.iter().position(Option::is_none);
            let spare = || longest_idle(now, self.links.iter().map(spare_from));
            let Some(slot) = free.or_else(spare) else {
                return Rest::MaybeMore;
            };
            let Some(listener) = self.listener(data) else {
                return Rest::Nothing;
            };
            if free.is_none() {
                // A link is ended only for somebody who is really there.
                if !somebody_waits(listener) {
                    return Rest::Nothing;
                }
                self.make_room(slot);
                continue;
            }
            let accepted = listener.accept();
            let client = match accepted {
                Ok((client, _)) => client,
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => return Rest::Nothing,
                    // This one is gone already.
                    ErrorKind::ConnectionAborted | ErrorKind::Interrupted => continue,
                    _ => {
                        self.accept_again = Some(now + AGAIN);
                        return Rest::MaybeMore;
                    }
                },
            };
            self.begin(slot, client, data, now);
        }
        Rest::MaybeMore
    }

    fn listener(&self, data: u64) -> Option<&TcpListener> {
        match Token::decode(data)? {
            Token::Door(index) => {
                let door = self.doors.get(usize::try_from(index).ok()?);
                door.map(|(_, listener)| listener)
            }
            Token::Capture(key) => self.captures.listener(key),
            _ => None,
        }
    }

    /// Ends a link that can be spared.
    fn make_room(&mut self, slot: usize) {
        if let Some(link) = self.links.get_mut(slot).and_then(Option::take) {
            let over = link.making_room();
            self.close(link, over);
        }
    }

    /// Makes a link of an accepted connection; one that cannot be used is dropped.
    fn begin(&mut self, slot: usize, client: TcpStream, data: u64, now: Instant) {
        if client.set_nonblocking(true).is_err() || client.set_nodelay(true).is_err() {
            return;
        }
        let link = match Token::decode(data) {
            Some(Token::Door(index)) => {
                let index = usize::try_from(index).ok();
                let door = index.and_then(|index| self.doors.get(index));
                door.map(|(service, _)| Link::served(client, *service, now))
            }
            Some(Token::Capture(key)) => {
                let name = self.captures.name(key.index);
                name.map(|name| Link::captured(client, &name, key.port, now))
            }
            _ => None,
        };
        if let (Some(place), Ok(number)) = (self.links.get_mut(slot), u32::try_from(slot)) {
            *place = link;
            self.advance(number, now);
        }
    }

    fn advance(&mut self, number: u32, now: Instant) {
        let slot = usize::try_from(number).unwrap_or(usize::MAX);
        let Some(mut link) = self.links.get_mut(slot).and_then(Option::take) else {
            return;
        };
        let mut shared = Shared {
            socket: &self.socket,
            names: &mut self.captures,
            scratch: &mut self.scratch,
            now,
        };
        let result = link
            .advance(&mut shared)
            .and_then(|()| self.register(&mut link, number));
        match result {
            Ok(()) => {
                if let Some(place) = self.links.get_mut(slot) {
                    *place = Some(link);
                }
            }
            Err(over) => self.close(link, over),
        }
    }

    /// Makes what is waited for what the link wants.
    fn register(&self, link: &mut Link, number: u32) -> Result<(), Over> {
        let [client, upstream] = link.wanted();
        let [mut known_client, mut known_upstream] = link.registered;
        let token = Token::Client(number);
        self.wait_for(link.client(), token, &mut known_client, client)?;
        if let Some(end) = link.upstream() {
            self.wait_for(end, Token::Upstream(number), &mut known_upstream, upstream)?;
        }
        link.registered = [known_client, known_upstream];
        Ok(())
    }

    /// An end that nothing is wanted of is not registered at all: its failure would be told again
    /// and again.
    fn wait_for(
        &self,
        end: impl AsFd,
        token: Token,
        known: &mut EpollFlags,
        wanted: EpollFlags,
    ) -> Result<(), Over> {
        if *known == wanted {
            return Ok(());
        }
        let mut event = EpollEvent::new(wanted, token.encode());
        let result = if wanted.is_empty() {
            self.epoll.delete(end)
        } else if known.is_empty() {
            self.epoll.add(end, event)
        } else {
            self.epoll.modify(end, &mut event)
        };
        *known = wanted;
        result.map_err(|_| Over::Reset)
    }

    fn close(&self, link: Link, over: Over) {
        // Not left to the end of the sockets: a child about to become a program has them as well.
        let _was_not_registered = self.epoll.delete(link.client());
        if let Some(upstream) = link.upstream() {
            let _was_not_registered = self.epoll.delete(upstream);
        }
        link.close(over);
    }

    fn check_times(&mut self, now: Instant) {
        let dial = now >= self.dial_again;
        if dial {
            self.dial_again = now + AGAIN;
        }
        for number in 0..u32::try_from(self.links.len()).unwrap_or(0) {
            let slot = usize::try_from(number).unwrap_or(usize::MAX);
            let is_due = self
                .links
                .get(slot)
                .and_then(Option::as_ref)
                .is_some_and(|link| {
                    let is_late = link.deadline().is_some_and(|deadline| now >= deadline);
                    is_late || (dial && link.is_dialling())
                });
            if is_due {
                self.advance(number, now);
            }
        }
    }
}

fn spare_from(link: &Option<Link>) -> Option<Instant> {
    link.as_ref().and_then(Link::spare_from)
}

/// The link that could have been spared for the longest time, of links that can be spared from some
/// time on or not at all.
fn longest_idle(now: Instant, links: impl IntoIterator<Item = Option<Instant>>) -> Option<usize> {
    let spare =
        |(index, from): (usize, Option<Instant>)| Some((from.filter(|from| *from <= now)?, index));
    let (_, index) = links.into_iter().enumerate().filter_map(spare).min()?;
    Some(index)
}

/// Whether there is somebody to accept.
fn somebody_waits(listener: &TcpListener) -> bool {
    let mut asked = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    poll(&mut asked, PollTimeout::ZERO).is_ok_and(|count| count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_made_by_the_link_that_is_idle_longest() {
        let begin = Instant::now();
        let after = |seconds| Some(begin + Duration::from_secs(seconds));
        let links = [after(9), None, after(5), after(3), None, after(3)];
        let at = |seconds| longest_idle(begin + Duration::from_secs(seconds), links);
        assert_eq!(at(2), None);
        assert_eq!(at(3), Some(3));
        assert_eq!(at(20), Some(3));
        assert_eq!(longest_idle(begin, [None, None]), None);
        assert_eq!(longest_idle(begin, []), None);
    }

    #[test]
    fn a_number_tells_what_it_was_made_of() {
        let key = Key {
            index: 0xfffe,
            port: 0x8001,
        };
        for token in [
            Token::Datagrams,
            Token::Door(2),
            Token::Capture(key),
            Token::Client(127),
            Token::Upstream(0),
        ] {
            assert_eq!(Token::decode(token.encode()), Some(token));
        }
        assert_eq!(Token::decode(5 << 32), None);
    }
}
