//! Tests of what happens to links whose ends do not do what they should.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::net::UnixListener;

use nix::sys::socket::{Backlog, listen};

use super::*;
use crate::network::flow::PIECE;

/// Knows no names.
struct Nobody;

impl Names for Nobody {
    fn address_of(&mut self, _name: &str) -> Option<Ipv4Addr> {
        None
    }

    fn name_of(&mut self, _address: Ipv4Addr) -> Option<String> {
        None
    }
}

/// A client and our end of its connection.
fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (ours, _) = listener.accept().unwrap();
    ours.set_nonblocking(true).unwrap();
    (client, ours)
}

struct Bench {
    socket: UnixAddr,
    listener: UnixListener,
    scratch: Vec<u8>,
    begin: Instant,
    _folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        // Its queue is soon full.
        listen(&listener, Backlog::new(2).unwrap()).unwrap();
        Self {
            listener,
            socket: UnixAddr::new(&path).unwrap(),
            scratch: vec![0; PIECE],
            begin: Instant::now(),
            _folder: folder,
        }
    }

    /// Lets the link do what it can at a time after the beginning.
    fn advance(&mut self, link: &mut Link, after: Duration) -> Result<(), Over> {
        link.advance(&mut Shared {
            socket: &self.socket,
            names: &mut Nobody,
            scratch: &mut self.scratch,
            now: self.begin + after,
        })
    }
}

const SOON: Duration = Duration::from_secs(1);

#[test]
fn a_client_that_says_nothing_is_not_waited_for_for_ever() {
    let mut bench = Bench::new();
    for service in [Service::Socks, Service::Resolver] {
        let (mut client, ours) = pair();
        let mut link = Link::served(ours, service, bench.begin);
        assert_eq!(bench.advance(&mut link, SOON), Ok(()));
        client.write_all(&[5]).unwrap();
        assert_eq!(bench.advance(&mut link, SOON), Ok(()));
        assert_eq!(bench.advance(&mut link, HELLO), Err(Over::Closed));
    }
}

#[test]
fn an_egress_proxy_that_does_not_answer_is_given_up() {
    let mut bench = Bench::new();
    let (mut client, ours) = pair();
    let mut link = Link::captured(ours, "a.test", 443, bench.begin);
    assert_eq!(bench.advance(&mut link, Duration::ZERO), Ok(()));
    let (mut upstream, _) = bench.listener.accept().unwrap();
    upstream.write_all(b"HTTP/1.1 200").unwrap();
    assert_eq!(bench.advance(&mut link, SOON), Ok(()));
    assert_eq!(bench.advance(&mut link, ANSWER), Err(Over::Reset));
    link.close(Over::Reset);
    let error = client.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn a_full_queue_of_the_egress_proxy_is_tried_again_and_then_told() {
    let mut bench = Bench::new();
    let mut waiting = Vec::new();
    while let Ok(stream) = dial(&bench.socket) {
        waiting.push(stream);
    }
    let (mut client, ours) = pair();
    let mut link = Link::served(ours, Service::Proxy, bench.begin);
    assert_eq!(bench.advance(&mut link, SOON), Ok(()));
    assert!(link.is_dialling());
    bench.listener.accept().unwrap();
    assert_eq!(bench.advance(&mut link, SOON), Ok(()));
    assert!(!link.is_dialling());
    // One that finds no place in time is told so.
    while let Ok(stream) = dial(&bench.socket) {
        waiting.push(stream);
    }
    let (_, ours) = pair();
    let mut other = Link::served(ours, Service::Proxy, bench.begin);
    assert_eq!(bench.advance(&mut other, SOON), Ok(()));
    assert!(other.is_dialling());
    drop(link);
    drop(client.read(&mut [0]));
    let (mut client, ours) = pair();
    let mut late = Link::served(ours, Service::Proxy, bench.begin);
    assert_eq!(bench.advance(&mut late, DIALLING), Ok(()));
    assert_eq!(bench.advance(&mut late, DIALLING), Ok(()));
    let mut words = [0; 12];
    client.read_exact(&mut words).unwrap();
    assert_eq!(&words, b"HTTP/1.1 502");
    // Its client has a while to hear it.
    assert_eq!(
        bench.advance(&mut late, DIALLING + FAREWELL),
        Err(Over::Closed)
    );
}

#[test]
fn a_client_that_stays_after_the_end_is_left_alone_after_a_while() {
    let mut bench = Bench::new();
    let (mut client, ours) = pair();
    let mut link = Link::served(ours, Service::Proxy, bench.begin);
    assert_eq!(bench.advance(&mut link, Duration::ZERO), Ok(()));
    let (mut upstream, _) = bench.listener.accept().unwrap();
    upstream.write_all(b"all").unwrap();
    upstream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(bench.advance(&mut link, SOON), Ok(()));
    let mut all = Vec::new();
    client.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"all");
    // It may still send; then it is waited for anew.
    client.write_all(b"x").unwrap();
    assert_eq!(bench.advance(&mut link, SOON * 2), Ok(()));
    assert_eq!(bench.advance(&mut link, SOON + HALF_CLOSED), Ok(()));
    assert_eq!(
        bench.advance(&mut link, SOON * 2 + HALF_CLOSED),
        Err(Over::Closed)
    );
}

#[test]
fn an_end_that_nothing_is_wanted_of_is_not_waited_on() {
    let mut bench = Bench::new();
    let (_client, ours) = pair();
    let mut link = Link::captured(ours, "a.test", 443, bench.begin);
    assert_eq!(bench.advance(&mut link, Duration::ZERO), Ok(()));
    let [client, upstream] = link.wanted();
    assert!(client.is_empty());
    assert_eq!(upstream, EpollFlags::EPOLLIN);
}

#[test]
fn a_tunnel_at_rest_can_soon_be_spared_and_a_request_only_late() {
    let mut bench = Bench::new();
    let spare = |link: &Link, bench: &Bench| {
        let from = link.spare_from();
        from.map(|from| (from.duration_since(bench.begin), link.making_room()))
    };
    let (mut client, ours) = pair();
    let mut link = Link::served(ours, Service::Proxy, bench.begin);
    assert_eq!(spare(&link, &bench), None);
    assert_eq!(bench.advance(&mut link, Duration::ZERO), Ok(()));
    let (mut upstream, _) = bench.listener.accept().unwrap();
    assert_eq!(spare(&link, &bench), Some((ANSWER, Over::Reset)));
    client.write_all(b"request").unwrap();
    assert_eq!(bench.advance(&mut link, SOON), Ok(()));
    assert_eq!(spare(&link, &bench), Some((SOON + ANSWER, Over::Reset)));
    upstream.write_all(b"answer").unwrap();
    assert_eq!(bench.advance(&mut link, SOON * 2), Ok(()));
    let rest = Some((SOON * 2 + RESTING, Over::Closed));
    assert_eq!(spare(&link, &bench), rest);
    // To look at it is no use of it.
    assert_eq!(bench.advance(&mut link, SOON * 3), Ok(()));
    assert_eq!(spare(&link, &bench), rest);
    client.write_all(b"another").unwrap();
    assert_eq!(bench.advance(&mut link, SOON * 4), Ok(()));
    assert_eq!(spare(&link, &bench), Some((SOON * 4 + ANSWER, Over::Reset)));
    // The rest of an answer together with the next request.
    client.write_all(b"third").unwrap();
    upstream.write_all(b"rest").unwrap();
    assert_eq!(bench.advance(&mut link, SOON * 5), Ok(()));
    assert_eq!(spare(&link, &bench), Some((SOON * 5 + ANSWER, Over::Reset)));
}

#[test]
fn a_tunnel_whose_client_has_not_taken_everything_is_not_at_rest() {
    let mut bench = Bench::new();
    let (mut client, ours) = pair();
    let mut link = Link::served(ours, Service::Proxy, bench.begin);
    assert_eq!(bench.advance(&mut link, Duration::ZERO), Ok(()));
    let (mut upstream, _) = bench.listener.accept().unwrap();
    upstream.set_nonblocking(true).unwrap();
    // Until nobody takes more.
    let mut sent = 0;
    while let Ok(count) = upstream.write(&[7; PIECE]) {
        sent += count;
        assert_eq!(bench.advance(&mut link, SOON), Ok(()));
    }
    let from = |link: &Link| link.spare_from().unwrap().duration_since(bench.begin);
    assert_eq!(from(&link), SOON + ANSWER);
    drop(upstream);
    client.set_nonblocking(true).unwrap();
    let mut got = 0;
    let mut buffer = vec![0; PIECE];
    loop {
        match client.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => got += count,
            Err(_) => drop(bench.advance(&mut link, SOON)),
        }
    }
    assert_eq!(got, sent);
}

#[test]
fn links_that_are_no_tunnel_yet_cannot_be_spared() {
    let mut bench = Bench::new();
    for service in [Service::Socks, Service::Resolver] {
        let (_client, ours) = pair();
        let mut link = Link::served(ours, service, bench.begin);
        assert_eq!(bench.advance(&mut link, SOON), Ok(()));
        assert_eq!(link.spare_from(), None);
    }
    let (_client, ours) = pair();
    let mut link = Link::captured(ours, "a.test", 443, bench.begin);
    assert_eq!(bench.advance(&mut link, SOON), Ok(()));
    let (mut upstream, _) = bench.listener.accept().unwrap();
    assert_eq!(link.spare_from(), None);
    upstream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
    assert_eq!(bench.advance(&mut link, SOON * 2), Ok(()));
    assert_eq!(link.spare_from(), Some(bench.begin + SOON * 2 + ANSWER));
}

#[test]
fn a_client_that_asks_without_end_leaves_others_their_turn() {
    // A question for the address of `a.test`, with its length in front.
    let mut query = vec![0, 24, 1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    query.extend_from_slice(b"\x01a\x04test\0\0\x01\0\x01");
    let queries = 2 * MAX_STEPS * LONGEST_QUERY / query.len();
    let mut bench = Bench::new();
    let (mut client, ours) = pair();
    client.write_all(&query.repeat(queries)).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut link = Link::served(ours, Service::Resolver, bench.begin);
    let mut turns = 0;
    let over = loop {
        turns += 1;
        if let Err(over) = bench.advance(&mut link, Duration::ZERO) {
            break over;
        }
    };
    assert_eq!(over, Over::Closed);
    assert!(turns > 2, "{turns}");
    drop(link);
    let mut answers = Vec::new();
    client.read_to_end(&mut answers).unwrap();
    assert_eq!(answers.len() / queries, query.len());
}
