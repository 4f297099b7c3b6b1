//! The network on loopback, with an egress proxy that only knows what its clients say.

use crate::client::{Client, Sandbox, script, settings, wait_until};
use forge_wire::message::{Attested, Ending, Network};
use forge_wire::{PROXY_PORT, SOCKS_PORT};
use std::fs::{File, Permissions};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

const SOCKET: &str = "/.swe-forge/egress/proxy.sock";
const PATIENCE: Duration = Duration::from_secs(60);

/// A sandbox with a network.
struct Net {
    sandbox: Sandbox,
    client: Client,
    attested: Box<Attested>,
    /// Heads of requests, in the order of their coming.
    heads: Receiver<String>,
}

fn network(ports: &[u16]) -> Network {
    Network {
        socket: SOCKET.to_owned(),
        ports: ports.to_vec(),
        socks: true,
    }
}

impl Net {
    fn new(ports: &[u16]) -> Self {
        let sandbox = Sandbox::start();
        let heads = serve(&sandbox);
        let mut client = sandbox.connect();
        let mut settings = settings();
        settings.network = Some(network(ports));
        let attested = client.claim(settings);
        assert_eq!(attested.network_failure, None);
        assert!(attested.network_served);
        Self {
            sandbox,
            client,
            attested,
            heads,
        }
    }

    fn head(&self) -> String {
        self.heads.recv_timeout(PATIENCE).unwrap()
    }

    /// Does something in the sandbox's network.
    fn inside<T: Send + 'static>(&self, act: impl FnOnce() -> T + Send + 'static) -> T {
        let pid = self.sandbox.init_pid();
        std::thread::spawn(move || {
            let namespace = File::open(format!("/proc/{pid}/ns/net")).unwrap();
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            act()
        })
        .join()
        .unwrap()
    }
}

/// An egress proxy that refuses names with "denied" in them and gives an echo for all others.
fn serve(sandbox: &Sandbox) -> Receiver<String> {
    let path = sandbox.path(SOCKET);
    let listener = UnixListener::bind(&path).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
    let (sender, heads) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, sender) = (stream.unwrap(), sender.clone());
            std::thread::spawn(move || drop(answer(stream, &sender)));
        }
    });
    heads
}

fn answer(mut stream: UnixStream, heads: &Sender<String>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Ok(());
        }
    }
    drop(heads.send(head.clone()));
    let name = head.split(' ').nth(1).unwrap_or("");
    if name.contains("denied") {
        let refusal = "HTTP/1.1 403 Blocked\r\nContent-Length: 3\r\n\r\nno\n";
        return stream.write_all(refusal.as_bytes());
    }
    if name.contains("broken") {
        return stream.write_all(b"HTTP/1.1 200 O");
    }
    if name.contains("large") {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
        return stream.write_all(&vec![7; 5_000_000]);
    }
    // The first words of the other side may come with the answer.
    stream.write_all(b"HTTP/1.1 200 OK\r\nX-More: y\r\n\r\nhello ")?;
    std::io::copy(&mut reader, &mut stream)?;
    stream.write_all(b" bye")?;
    stream.shutdown(Shutdown::Write)
}

fn connect(address: Ipv4Addr, port: u16) -> TcpStream {
    let stream = TcpStream::connect((address, port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Says something, ends, and gives all that comes back.
fn exchange(mut stream: &TcpStream, words: &[u8]) -> Vec<u8> {
    stream.write_all(words).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    all
}

fn query(name: &str, kind: u16) -> Vec<u8> {
    let mut message = vec![1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(u8::try_from(label.len()).unwrap());
        message.extend_from_slice(label.as_bytes());
    }
    message.push(0);
    message.extend(kind.to_be_bytes());
    message.extend([0, 1]);
    message
}

fn ask(message: &[u8]) -> Vec<u8> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    // As a resolver does: what the kernel had no room for is asked again.
    let pause = Duration::from_millis(500);
    socket.set_read_timeout(Some(pause)).unwrap();
    let mut buffer = [0; 2000];
    for _ in 0..PATIENCE.as_millis() / pause.as_millis() {
        socket.send_to(message, (Ipv4Addr::LOCALHOST, 53)).unwrap();
        if let Ok(count) = socket.recv(&mut buffer) {
            return buffer[..count].to_vec();
        }
    }
    panic!("the resolver does not answer");
}

fn resolve(name: &str) -> Ipv4Addr {
    let answer = ask(&query(name, 1));
    assert_eq!(answer[3] & 15, 0, "{name}");
    let octets: [u8; 4] = answer[answer.len() - 4..].try_into().unwrap();
    Ipv4Addr::from(octets)
}

/// Local addresses of a table of sockets.
fn locals(table: &[u8]) -> Vec<String> {
    let table = String::from_utf8(table.to_vec()).unwrap();
    let local = |line: &str| line.split_whitespace().nth(1).map(str::to_owned);
    let mut found: Vec<String> = table.lines().skip(1).filter_map(local).collect();
    found.sort();
    found
}

#[test]
fn the_network_is_there_before_the_first_program() {
    let mut net = Net::new(&[80, 443]);
    assert_eq!(net.attested.interfaces, ["lo"]);
    assert_eq!(net.attested.routes, 0);
    assert!(net.attested.metadata_unreachable);
    // Port and address in base 16, the address as the machine stores it.
    let tcp = net.client.run(&script("cat /proc/net/tcp")).stdout;
    assert_eq!(
        locals(&tcp),
        ["0100007F:0035", "0100007F:0438", "0100007F:0C38"]
    );
    let udp = net.client.run(&script("cat /proc/net/udp")).stdout;
    assert_eq!(locals(&udp), ["0100007F:0035"]);
    // Another connection of the owner hears the same.
    let mut again = net.sandbox.connect();
    assert_eq!(again.prove(), net.attested);
}

#[test]
fn the_http_proxy_passes_on_every_byte_and_each_end() {
    let net = Net::new(&[80, 443]);
    let head = "CONNECT a.test:443 HTTP/1.1\r\nX-Any: thing\r\n\r\n";
    let all = net.inside(move || {
        let stream = connect(Ipv4Addr::LOCALHOST, PROXY_PORT);
        exchange(&stream, format!("{head}words").as_bytes())
    });
    assert_eq!(net.head(), head);
    let expected = "HTTP/1.1 200 OK\r\nX-More: y\r\n\r\nhello words bye";
    assert_eq!(String::from_utf8_lossy(&all), expected);
    // An answer after which the other side closes at once arrives whole.
    let all = net.inside(|| {
        let stream = connect(Ipv4Addr::LOCALHOST, PROXY_PORT);
        exchange(
            &stream,
            b"CONNECT denied.test:443 HTTP/1.1\r\n\r\nmore of this",
        )
    });
    assert!(String::from_utf8_lossy(&all).ends_with("\r\n\r\nno\n"));
}

#[test]
fn much_goes_both_ways_at_once_and_nothing_is_lost() {
    let net = Net::new(&[443]);
    let (sent, back) = net.inside(|| {
        let mut stream = connect(resolve("echo.test"), 443);
        let words: Vec<u8> = (0..20_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
        let mut writer = stream.try_clone().unwrap();
        let sent = words.clone();
        let sending = std::thread::spawn(move || {
            writer.write_all(&words).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        sending.join().unwrap();
        (sent, all)
    });
    assert!(back.starts_with(b"hello ") && back.ends_with(b" bye"));
    assert!(back[6..back.len() - 4] == sent);
}

#[test]
fn a_captured_connection_is_asked_for_by_its_name() {
    let net = Net::new(&[80, 443, 8443]);
    let all = net.inside(|| exchange(&connect(resolve("Www.Example.ORG"), 8443), b"words"));
    assert_eq!(String::from_utf8_lossy(&all), "hello words bye");
    assert_eq!(
        net.head(),
        "CONNECT www.example.org:8443 HTTP/1.1\r\nHost: www.example.org:8443\r\n\
         X-Swe-Forge-Mode: transparent\r\n\r\n"
    );
    for name in ["denied.test", "broken.test"] {
        let error = net.inside(move || {
            let mut stream = connect(resolve(name), 80);
            // Whichever comes first is told of the reset, and the other is not.
            let written = stream.write_all(b"GET / HTTP/1.1\r\n\r\n");
            written
                .and_then(|()| stream.read(&mut [0; 10]))
                .unwrap_err()
        });
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{name}");
    }
    // A port that is not captured, and an address that nothing was given.
    let refused = net.inside(|| {
        let name = resolve("www.example.org");
        [(name, 81), (Ipv4Addr::new(127, 64, 200, 1), 80)]
            .map(|address| TcpStream::connect(address).unwrap_err().kind())
    });
    assert_eq!(refused, [ErrorKind::ConnectionRefused; 2]);
}

#[test]
fn a_client_that_stops_writing_still_gets_everything() {
    let net = Net::new(&[443]);
    let all = net.inside(|| {
        let stream = connect(resolve("large.test"), 443);
        stream.shutdown(Shutdown::Write).unwrap();
        let mut all = Vec::new();
        (&stream).read_to_end(&mut all).unwrap();
        all
    });
    assert!(all == vec![7; 5_000_000]);
}

#[test]
fn names_have_addresses_of_their_own_and_the_resolver_says_no_more() {
    let net = Net::new(&[80, 443]);
    net.inside(|| {
        let first = resolve("a.test");
        assert_eq!(first.octets()[..2], [127, 64]);
        assert_eq!(resolve("A.TEST"), first);
        assert_ne!(resolve("b.test"), first);
        assert_eq!(resolve("localhost"), Ipv4Addr::LOCALHOST);
        let own = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        assert_eq!(resolve(own.trim()), Ipv4Addr::LOCALHOST);
        for kind in [16, 28, 65, 10, 255] {
            let answer = ask(&query("a.test", kind));
            assert_eq!((answer[3] & 15, answer[7]), (0, 0), "{kind}");
        }
        let octets = first.octets();
        let name = format!("{}.{}.64.127.in-addr.arpa", octets[3], octets[2]);
        assert!(ask(&query(&name, 12)).ends_with(b"\x01a\x04test\0"));
        // Over TCP, several at once, in pieces.
        let mut stream = connect(Ipv4Addr::LOCALHOST, 53);
        let mut message = Vec::new();
        for name in ["a.test", "c.test"] {
            let query = query(name, 1);
            message.extend(u16::try_from(query.len()).unwrap().to_be_bytes());
            message.extend(query);
        }
        let (now, later) = message.split_at(25);
        stream.write_all(now).unwrap();
        stream.write_all(later).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        assert_eq!(all[all.len() / 2 - 4..all.len() / 2], octets);
    });
}

#[test]
fn programs_that_know_of_no_proxy_find_their_way() {
    let sandbox = Sandbox::start_prepared("mkdir etc; echo nameserver 127.0.0.1 > etc/resolv.conf");
    let heads = serve(&sandbox);
    let mut client = sandbox.connect();
    let mut settings = settings();
    settings.network = Some(network(&[80, 443]));
    client.claim(settings);
    // With both kinds of addresses asked for, as most programs do.
    let text = "getent ahosts www.example.org | cut -d . -f 1,2 | sort -u
        getent ahosts no_name.example.org || echo none";
    let outcome = client.run(&script(text));
    assert_eq!(String::from_utf8_lossy(&outcome.stdout), "127.64\nnone\n");
    let text = "exec 3<>/dev/tcp/www.example.org/80; echo words >&3; head -c 12 <&3";
    let outcome = client.run(&crate::client::program(&["/bin/bash", "-c", text]));
    assert_eq!(String::from_utf8_lossy(&outcome.stdout), "hello words\n");
    let head = heads.recv_timeout(PATIENCE).unwrap();
    assert!(head.starts_with("CONNECT www.example.org:80 HTTP/1.1\r\n"));
}

fn socks(host: &[u8], port: u16) -> (TcpStream, u8) {
    let mut stream = connect(Ipv4Addr::LOCALHOST, SOCKS_PORT);
    stream.write_all(&[5, 1, 0]).unwrap();
    let mut answer = [0; 2];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [5, 0]);
    let mut request = vec![5, 1, 0];
    request.extend_from_slice(host);
    request.extend(port.to_be_bytes());
    stream.write_all(&request).unwrap();
    let mut answer = [0; 10];
    stream.read_exact(&mut answer).unwrap();
    (stream, answer[1])
}

fn named(name: &str) -> Vec<u8> {
    let mut host = vec![3, u8::try_from(name.len()).unwrap()];
    host.extend_from_slice(name.as_bytes());
    host
}

#[test]
fn a_socks_client_gets_what_the_egress_proxy_says() {
    let net = Net::new(&[80, 443]);
    net.inside(|| {
        let (stream, reply) = socks(&named("Example.org"), 8080);
        assert_eq!(reply, 0);
        assert_eq!(exchange(&stream, b"words"), b"hello words bye");
        assert_eq!(socks(&named("denied.test"), 443).1, 2);
        assert_eq!(socks(&named("broken.test"), 443).1, 1);
        // An address of ours is the name it stands for.
        let [a, b, c, d] = resolve("stands.test").octets();
        assert_eq!(socks(&[1, a, b, c, d], 443).1, 0);
        assert_eq!(socks(&[1, 127, 64, 99, 99], 443).1, 4);
        assert_eq!(socks(&[1, 192, 0, 2, 1], 443).1, 0);
        for odd in ["evil\0.example.org", "a b", "x\r\ny"] {
            assert_eq!(socks(&named(odd), 443).1, 2, "{odd:?}");
        }
    });
    let heads: Vec<String> = (0..5).map(|_| net.head()).collect();
    assert_eq!(
        heads[0],
        "CONNECT example.org:8080 HTTP/1.1\r\nHost: example.org:8080\r\n\
         X-Swe-Forge-Mode: socks\r\n\r\n"
    );
    assert!(heads[3].starts_with("CONNECT stands.test:443 "));
    assert!(heads[4].starts_with("CONNECT 192.0.2.1:443 "));
}

#[test]
fn a_task_has_its_own_servers_on_captured_ports() {
    let net = Net::new(&[80, 443]);
    net.inside(|| {
        // Nothing was asked for yet: even all addresses can be had.
        let everywhere = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 80)).unwrap();
        drop(everywhere);
        let name = resolve("a.test");
        for port in [80, 443] {
            let own = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
            let stream = connect(Ipv4Addr::LOCALHOST, port);
            own.accept().unwrap();
            drop(stream);
            assert_eq!(exchange(&connect(name, port), b"x"), b"hello x bye");
        }
    });
}

#[test]
fn without_an_egress_proxy_clients_are_told_so() {
    let net = Net::new(&[80, 443]);
    std::fs::remove_file(net.sandbox.path(SOCKET)).unwrap();
    net.inside(|| {
        let head = b"CONNECT a.test:443 HTTP/1.1\r\n\r\n";
        let all = exchange(&connect(Ipv4Addr::LOCALHOST, PROXY_PORT), head);
        let all = String::from_utf8(all).unwrap();
        assert!(all.starts_with("HTTP/1.1 502 Egress proxy unavailable\r\n"));
        assert!(all.contains("\r\nX-Swe-Forge-Egress: unavailable\r\n"));
        let mut stream = connect(resolve("a.test"), 443);
        let error = stream.read(&mut [0; 10]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        assert_eq!(socks(&named("a.test"), 443).1, 1);
    });
    // It comes back, and with it the network.
    let _heads = serve(&net.sandbox);
    let all = net.inside(|| exchange(&connect(resolve("a.test"), 443), b"x"));
    assert_eq!(all, b"hello x bye");
}

#[test]
fn a_network_that_cannot_be_made_is_attested() {
    let claim = |sandbox: &Sandbox, network| {
        let mut client = sandbox.connect();
        let mut settings = settings();
        settings.network = Some(network);
        let attested = client.claim(settings);
        client.ping();
        assert!(!attested.network_served);
        attested.network_failure.clone().unwrap()
    };
    let without = Sandbox::start();
    let failure = claim(&without, network(&[80]));
    assert!(failure.contains("is not there"), "{failure}");

    let occupied = Sandbox::start_prepared(
        "python3 -c 'import socket, time; s = socket.socket(); s.bind((\"127.0.0.1\", 3128)); \
         s.listen(); print(1, flush=True); time.sleep(1000)' | (read line; touch ready; cat) & \
         while [ ! -e ready ]; do sleep 0.01; done",
    );
    let _heads = serve(&occupied);
    let failure = claim(&occupied, network(&[80]));
    assert!(
        failure.contains("3128") && failure.contains("in use"),
        "{failure}"
    );

    let odd = Sandbox::start();
    let _heads = serve(&odd);
    assert!(claim(&odd, network(&[0])).contains("ports"));
    // One that is isolated has nothing, and says nothing.
    let (_isolated, mut client) = {
        let sandbox = Sandbox::start();
        let mut client = sandbox.connect();
        let attested = client.claim(settings());
        assert!(!attested.network_served && attested.network_failure.is_none());
        (sandbox, client)
    };
    let tcp = client.run(&script("cat /proc/net/tcp")).stdout;
    assert_eq!(locals(&tcp), Vec::<String>::new());
}

#[test]
fn a_flood_of_connections_and_names_leaves_the_sandbox_working() {
    let mut net = Net::new(&[80, 443]);
    let held = net.inside(|| {
        let mut held = Vec::new();
        // More than are served at once; what is too much waits in the kernel's queues.
        for index in 0..300 {
            let port = [PROXY_PORT, SOCKS_PORT, 53][index % 3];
            held.push(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap());
        }
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        for index in 0..3000 {
            let message = query(&format!("n{index}.test"), 1);
            drop(socket.send_to(&message, (Ipv4Addr::LOCALHOST, 53)));
            drop(socket.send_to(&message[..index % 20], (Ipv4Addr::LOCALHOST, 53)));
        }
        // The resolver answers all the same.
        resolve("after.test");
        held
    });
    net.client.ping();
    let outcome = net
        .client
        .run(&script("ls /proc/1 > /dev/null; echo alive"));
    assert_eq!(outcome.stdout, b"alive\n");
    drop(held);
    let all = net.inside(|| exchange(&connect(resolve("after.test"), 443), b"x"));
    assert_eq!(all, b"hello x bye");
}

/// A tunnel through the HTTP proxy, of which all that comes without asking was read.
fn tunnel() -> TcpStream {
    let mut stream = connect(Ipv4Addr::LOCALHOST, PROXY_PORT);
    let head = b"CONNECT a.test:443 HTTP/1.1\r\n\r\n";
    stream.write_all(head).unwrap();
    let expected = b"HTTP/1.1 200 OK\r\nX-More: y\r\n\r\nhello ";
    let mut answer = vec![0; expected.len()];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, expected);
    stream
}

#[test]
fn a_client_that_keeps_every_tunnel_can_still_make_more() {
    let net = Net::new(&[80, 443]);
    net.inside(|| {
        // As many as are served at once, and then some.
        let mut tunnels: Vec<TcpStream> = (0..256).map(|_| tunnel()).collect();
        for _ in 0..3 {
            tunnels.push(tunnel());
        }
        // Whoever was idle longest made room, and saw an ordinary end.
        for stream in &mut tunnels[..3] {
            assert_eq!(stream.read(&mut [0; 10]).unwrap(), 0);
        }
        for stream in &tunnels[3..] {
            assert_eq!(exchange(stream, b"x"), b"x bye");
        }
    });
}

#[test]
fn whatever_a_task_uses_up_the_network_comes_back() {
    let mut net = Net::new(&[80, 443]);
    // As many processes as there may be, each with connections in all states of incompleteness.
    let text = "ulimit -u 200; swarm() { while :; do
            (exec 3<>/dev/tcp/127.0.0.1/3128; exec 4<>/dev/tcp/127.0.0.1/1080
             printf 'CONNECT' >&3; printf '\\005\\001' >&4; sleep 0.2) & done; }
        for n in 1 2 3 4; do swarm & done; sleep 2";
    let outcome = net
        .client
        .run(&crate::client::program(&["/bin/bash", "-c", text]));
    assert!(matches!(outcome.report.ending, Ending::Exited(_)));
    net.client.ping();
    assert_eq!(net.client.kill_all(), 0);
    wait_until("a connection is served again", || {
        let all = net.inside(|| exchange(&connect(resolve("a.test"), 443), b"x"));
        (all == b"hello x bye").then_some(())
    });
    // Nothing is left over but what was there at the beginning.
    wait_until("all links are gone", || {
        let descriptors = format!("/proc/{}/fd", net.sandbox.init_pid());
        let open = std::fs::read_dir(descriptors).unwrap().count();
        (open < 40).then_some(())
    });
}
