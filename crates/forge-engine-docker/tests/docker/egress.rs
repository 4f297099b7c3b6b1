//! The egress proxy on a real engine: what gets out, what does not, and what is left.
//!
//! The outside is a network namespace beside this machine's, with a name server and a server in
//! it. An operator's exception opens its address.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};

use bollard::query_parameters::{
    InspectContainerOptions, KillContainerOptions, RemoveContainerOptions, RemoveImageOptions,
};
use forge_core::connection::{ConnectionMode, ConnectionVerdict};
use forge_core::egress::{AddressException, AddressRange, AllowedHost, DenialReason, EgressLimits};
use forge_core::ownership::keys;
use forge_core::{EgressPolicy, NetworkLevel, PhaseName, SandboxNetwork};
use forge_engine::task::{OwnedTask, spawn};
use forge_engine::{
    Egress, EgressRecords, Engine, EngineErrorKind, FoundObject, Inventory, Operation, Sandbox,
};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::gettid;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use crate::support::{
    BOTH_WAYS, Bench, Finished, HOLDER, init_bytes, next_user, raw_docker, request, secret, shell,
    with_bench, with_bench_of,
};

pub(crate) const ALLOWED: &str = "server.test";
pub(crate) const OTHER: &str = "other.test";
/// No request of HTTP begins so, and the proxy does not wait for the rest of one.
pub(crate) const HELLO: &str = "<hello>";
const HOLD: &str = "<hold on>";

/// Speaks to the proxy's socket itself; prints the status line and what comes after the head.
const CLIENT: &str = r#"
import socket, sys
target, payload = sys.argv[1], sys.argv[2]
s = socket.socket(socket.AF_UNIX)
s.settimeout(30)
s.connect("/.swe-forge/egress/proxy.sock")
s.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
head = b""
while b"\r\n\r\n" not in head:
    piece = s.recv(4096)
    if not piece:
        break
    head += piece
head, _, rest = head.partition(b"\r\n\r\n")
print(head.split(b"\r\n")[0].decode(), flush=True)
if b" 200 " in head:
    s.sendall(payload.encode())
    while payload.encode() not in rest:
        piece = s.recv(4096)
        if not piece:
            break
        rest += piece
    print(rest.decode(), flush=True)
if "hold" in payload:
    while s.recv(4096):
        pass
    print("cut", flush=True)
"#;

/// A network of its own behind this machine: a name server and a server that sends back what it
/// gets. The machine has an end of the way there, with a server as well.
pub(crate) struct Outside {
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    /// The machine's end.
    machine: SocketAddrV4,
    _tasks: [OwnedTask<()>; 3],
}

/// Which small networks are taken by this process; another begins elsewhere.
static NETWORKS: AtomicU32 = AtomicU32::new(0);

/// The four addresses of a small network of those kept for benchmarks; the machine has the second,
/// the outside the third.
fn small_network() -> (String, [Ipv4Addr; 2]) {
    let taken = NETWORKS.fetch_add(1, Ordering::Relaxed);
    let number = std::process::id().wrapping_mul(16).wrapping_add(taken) % (1 << 15);
    let first = u32::from(Ipv4Addr::new(198, 18, 0, 0)) + number * 4;
    let ends = [first + 1, first + 2].map(Ipv4Addr::from);
    (format!("sfo{number}"), ends)
}

fn ip(line: &str) {
    let output = Command::new("ip").args(line.split(' ')).output();
    let output = output.unwrap_or_else(|error| panic!("ip (iproute2) is needed: {error}"));
    assert!(output.status.success(), "ip {line}: {output:?}");
}

/// The sockets outside. They hold the namespace, which takes the way there with it when they are
/// closed.
fn open_outside() -> (UdpSocket, TcpListener, [Ipv4Addr; 2]) {
    let (name, [near, far]) = small_network();
    let (give_id, id) = mpsc::channel();
    let (connected, wait) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET)
            .unwrap_or_else(|error| panic!("these tests need root: {error}"));
        give_id.send(gettid()).unwrap();
        wait.recv().unwrap();
        ip(&format!("addr add {far}/30 dev eth0"));
        ip("link set eth0 up");
        ip(&format!("route add default via {near}"));
        let names = std::net::UdpSocket::bind((far, 53)).unwrap();
        let echo = std::net::TcpListener::bind((far, 0)).unwrap();
        names.set_nonblocking(true).unwrap();
        echo.set_nonblocking(true).unwrap();
        (names, echo)
    });
    let id = id.recv().unwrap();
    ip(&format!(
        "link add {name} type veth peer name eth0 netns {id}"
    ));
    ip(&format!("addr add {near}/30 dev {name}"));
    ip(&format!("link set {name} up"));
    connected.send(()).unwrap();
    let (names, echo) = thread.join().unwrap();
    let names = UdpSocket::from_std(names).unwrap();
    (names, TcpListener::from_std(echo).unwrap(), [near, far])
}

impl Outside {
    pub(crate) async fn new() -> Self {
        let (names, echo, [near, far]) = open_outside();
        let port = echo.local_addr().unwrap().port();
        let own = TcpListener::bind((near, 0)).await.unwrap();
        let machine = SocketAddrV4::new(near, own.local_addr().unwrap().port());
        Self {
            address: far.into(),
            port,
            machine,
            _tasks: [
                spawn("names", serve_names(names, far)),
                spawn("echo", serve_echo(echo)),
                spawn("machine", serve_echo(own)),
            ],
        }
    }

    /// The same with an address of this machine opened, as far as an exception can.
    fn with_machine(&self, machine: Ipv4Addr) -> EgressPolicy {
        let mut policy = self.policy(NetworkLevel::LimitedWeb);
        let host = AllowedHost {
            name: name_of(machine),
            subdomains: false,
            ports: vec![self.machine.port()],
        };
        policy.allow.push(host.clone());
        policy.exceptions.push(AddressException {
            hosts: vec![host],
            ranges: vec!["198.18.0.0/15".parse().unwrap()],
        });
        policy
    }

    /// What an operator and a task agree on for [`ALLOWED`].
    pub(crate) fn policy(&self, level: NetworkLevel) -> EgressPolicy {
        let host = AllowedHost {
            name: ALLOWED.into(),
            subdomains: false,
            ports: vec![self.port],
        };
        let range = AddressRange {
            address: self.address,
            prefix: 32,
        };
        EgressPolicy {
            level,
            allow: vec![host.clone()],
            exceptions: vec![AddressException {
                hosts: vec![host],
                ranges: vec![range],
            }],
            limits: EgressLimits::of(level),
        }
    }

    pub(crate) fn network(&self) -> SandboxNetwork {
        network(self.policy(NetworkLevel::PackageOnly))
    }
}

pub(crate) fn network(policy: EgressPolicy) -> SandboxNetwork {
    SandboxNetwork {
        policy,
        phase: PhaseName::Setup,
        ports: Vec::new(),
        socks: false,
    }
}

async fn serve_echo(listener: TcpListener) {
    let mut connections = Vec::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.push(spawn("echo connection", send_back(stream)));
    }
}

async fn send_back(mut stream: TcpStream) {
    let mut piece = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut piece).await {
        if stream.write_all(&piece[..length]).await.is_err() {
            return;
        }
    }
}

/// A name that has this address.
fn name_of(address: Ipv4Addr) -> String {
    format!("{}.test", address.to_string().replace('.', "-"))
}

/// Answers every question for an address of version 4, and none else: with the one that the name
/// says, or else with `far`.
async fn serve_names(socket: UdpSocket, far: Ipv4Addr) {
    let mut query = [0; 512];
    while let Ok((length, from)) = socket.recv_from(&mut query).await {
        let query = &query[..length];
        let name = query[12..].iter().position(|&byte| byte == 0).unwrap();
        let question = &query[12..12 + name + 5];
        let label = String::from_utf8_lossy(&question[1..=usize::from(question[0])]);
        let address = label.replace('-', ".").parse::<Ipv4Addr>().unwrap_or(far);
        let wanted = question[name + 1..name + 3] == [0, 1];
        let mut answer = query[..2].to_vec();
        answer.extend([0x81, 0x80, 0, 1, 0, u8::from(wanted), 0, 0, 0, 0]);
        answer.extend(question);
        if wanted {
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
            answer.extend(address.octets());
        }
        socket.send_to(&answer, from).await.unwrap();
    }
}

pub(crate) async fn connect(
    sandbox: &dyn Sandbox,
    host: &str,
    port: u16,
    payload: &str,
) -> Finished {
    let target = format!("{host}:{port}");
    crate::support::run(
        sandbox,
        &["/usr/bin/env", "python3", "-c", CLIENT, &target, payload],
    )
    .await
}

/// A bench that asks the name server of `outside`.
async fn with_outside<F>(outside: &Outside, test: impl FnOnce(Arc<Bench>) -> F)
where
    F: Future<Output = ()>,
{
    let resolver = outside.address;
    with_bench_of(
        BOTH_WAYS[1],
        |options| options.egress.resolvers = vec![resolver],
        test,
    )
    .await;
}

pub(crate) async fn networked(
    bench: &Bench,
    part: &str,
    network: SandboxNetwork,
) -> Arc<dyn Sandbox> {
    bench
        .sandbox_with(part, |spec| spec.network = Some(network))
        .await
}

pub(crate) fn egress(sandbox: &dyn Sandbox) -> &dyn Egress {
    sandbox.egress().unwrap()
}

/// What is recorded once so many connections are. One that was let through is when it has ended,
/// which is after its client has.
pub(crate) async fn records(control: &dyn Egress, connections: usize) -> EgressRecords {
    let mut records = control.take_records().await.unwrap();
    while records.connections.len() < connections {
        let more = control.take_records().await.unwrap();
        records.connections.extend(more.connections);
        records.counters = more.counters;
    }
    records
}

/// Puts a policy in force for setup after the proxy was lost. Each request waits for it as long as
/// a run can wait, and on a busy machine its return takes longer.
pub(crate) async fn set_again(control: &dyn Egress, policy: &EgressPolicy) {
    for _ in 0..20 {
        match control.set_policy(policy, PhaseName::Setup).await {
            Err(error) if error.kind == EngineErrorKind::Unavailable => {}
            done => return done.unwrap(),
        }
    }
    panic!("the proxy did not come back");
}

/// What of the proxy stands on the engine.
pub(crate) async fn proxies(bench: &Bench) -> Vec<FoundObject> {
    let mut found = bench.engine.list(Some(&bench.owner)).await.unwrap();
    found.retain(|object| object.label(keys::ROLE) == Some("egress"));
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn an_isolated_sandbox_has_no_socket_and_needs_no_proxy() {
    with_bench(BOTH_WAYS[0], |bench| async move {
        let sandbox = bench.sandbox("isolated").await;
        assert!(sandbox.egress().is_none());
        let done = shell(&*sandbox, "ls /.swe-forge/egress").await;
        assert!(!done.succeeded(), "{done:?}");
        assert!(proxies(&bench).await.is_empty());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_allowed_is_reached_and_everything_else_refused_and_recorded() {
    let outside = &Outside::new().await;
    with_outside(outside, |bench| async move {
        let sandbox = networked(&bench, "allowed", outside.network()).await;
        let done = connect(&*sandbox, ALLOWED, outside.port, HELLO).await;
        assert!(done.stdout.ends_with("<hello>\n"), "{done:?}");
        let done = connect(&*sandbox, OTHER, outside.port, HELLO).await;
        assert!(done.stdout.contains("403 Blocked by"), "{done:?}");
        assert!(done.stdout.contains("not_on_allowlist"), "{done:?}");
        let done = connect(&*sandbox, "192.0.2.7", outside.port, HELLO).await;
        assert!(done.stdout.contains("ip_literal"), "{done:?}");

        let records = records(egress(&*sandbox), 3).await;
        let mut seen: Vec<_> = records
            .connections
            .iter()
            .map(|record| (record.host.as_str(), record.verdict, record.reason))
            .collect();
        seen.sort_by_key(|(host, ..)| (*host).to_owned());
        let denied = |reason| (ConnectionVerdict::Denied, Some(reason));
        let expected = [
            ("192.0.2.7", denied(DenialReason::IpLiteral)),
            (OTHER, denied(DenialReason::NotOnAllowlist)),
            (ALLOWED, (ConnectionVerdict::Allowed, None)),
        ];
        assert_eq!(
            seen,
            expected.map(|(host, (verdict, reason))| (host, verdict, reason))
        );
        for record in &records.connections {
            assert_eq!(record.sandbox, sandbox.id().as_str());
            assert_eq!(record.run, bench.run.to_string());
            assert_eq!(
                (record.task.as_str(), record.phase),
                ("docker-test", PhaseName::Setup)
            );
        }
        assert_eq!((records.counters.allowed, records.counters.denied), (1, 2));
        let again = egress(&*sandbox).take_records().await.unwrap();
        assert!(again.connections.is_empty());
        assert_eq!(again.counters.denied, 2);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_reach_the_proxy_over_loopback_and_see_why_they_are_refused() {
    let outside = &Outside::new().await;
    with_outside(outside, |bench| async move {
        let sandbox = networked(&bench, "loopback", outside.network()).await;
        let curl = async |arguments: &str| {
            let line = format!("curl -sS -v -m 20 {arguments} 2>&1");
            shell(&*sandbox, &line).await.stdout
        };
        let proxy = "-x http://127.0.0.1:3128";
        let seen = curl(&format!("{proxy} https://{OTHER}/")).await;
        assert!(
            seen.contains("not_on_allowlist") || seen.contains("403"),
            "{seen}"
        );
        let seen = curl(&format!("{proxy} http://{OTHER}:{}/", outside.port)).await;
        assert!(
            seen.contains("X-Swe-Forge-Egress: denied; reason=not_on_allowlist"),
            "{seen}"
        );
        // What comes back is the request itself.
        let port = outside.port;
        let seen = curl(&format!(
            "--http0.9 -p {proxy} http://{ALLOWED}:{port}/hello"
        ))
        .await;
        assert!(seen.contains("200 Connection established"), "{seen}");
        // Without any proxy: the name has an address on loopback, whose port 80 is captured.
        let seen = curl(&format!("http://{OTHER}/")).await;
        assert!(seen.contains("127.64."), "{seen}");
        let records = egress(&*sandbox).take_records().await.unwrap();
        let captured = records.connections.iter().any(|record| {
            (record.mode, record.host.as_str(), record.port)
                == (ConnectionMode::Transparent, OTHER, 80)
        });
        assert!(captured, "{records:?}");
    })
    .await;
}

/// Also where nothing of the engine's machine is seen from here but the engine.
#[tokio::test(flavor = "multi_thread")]
async fn no_exception_opens_the_engine_s_own_machine() {
    let outside = &Outside::new().await;
    let resolver = outside.address;
    for sharing in BOTH_WAYS {
        with_bench_of(
            sharing,
            |options| options.egress.resolvers = vec![resolver],
            |bench| async move {
                let policy = outside.with_machine(*outside.machine.ip());
                let sandbox = networked(&bench, "own", network(policy)).await;
                let name = name_of(*outside.machine.ip());
                let done = connect(&*sandbox, &name, outside.machine.port(), HELLO).await;
                assert!(done.stdout.contains("private_address"), "{done:?}");
                let done = connect(&*sandbox, ALLOWED, outside.port, HELLO).await;
                assert!(done.stdout.ends_with("<hello>\n"), "{done:?}");
            },
        )
        .await;
    }
}

/// What is known of the machine is found out again with every proxy, and by a container that is
/// not left behind.
#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_the_machine_gets_later_is_denied_too() {
    let outside = &Outside::new().await;
    with_outside(outside, |bench| async move {
        let (_, [late, _]) = small_network();
        let policy = outside.with_machine(late);
        let sandbox = networked(&bench, "late", network(policy.clone())).await;
        ip(&format!("addr add {late}/32 dev lo"));
        let port = outside.machine.port();
        let _server = spawn(
            "late",
            serve_echo(TcpListener::bind((late, port)).await.unwrap()),
        );
        // As long as nobody has looked, it is an address like others.
        let before = connect(&*sandbox, &name_of(late), port, HELLO).await;
        let name = proxies(&bench).await[0].name.clone();
        lose(&name, Loss::Killed).await;
        let control = egress(&*sandbox);
        set_again(control, &policy).await;
        let after = connect(&*sandbox, &name_of(late), port, HELLO).await;
        ip(&format!("addr del {late}/32 dev lo"));
        assert!(before.stdout.ends_with("<hello>\n"), "{before:?}");
        assert!(after.stdout.contains("private_address"), "{after:?}");
        assert_eq!(proxies(&bench).await.len(), 3);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_sees_its_own_socket_and_can_change_nothing_about_it() {
    let outside = &Outside::new().await;
    with_outside(outside, |bench| async move {
        let one = networked(&bench, "one", outside.network()).await;
        let two = networked(&bench, "two", network(EgressPolicy::isolated())).await;
        let done = connect(&*two, ALLOWED, outside.port, HELLO).await;
        assert!(done.stdout.contains("isolated"), "{done:?}");
        for sandbox in [&one, &two] {
            let done = shell(&**sandbox, "ls -A /.swe-forge/egress").await;
            assert_eq!(done.stdout, "proxy.sock\n");
        }
        // Not by its way up either, and neither for the other's name.
        let folder = raw_docker()
            .inspect_container(
                &format!("swe-forge-task-{}", two.id()),
                None::<InspectContainerOptions>,
            )
            .await
            .unwrap()
            .config
            .unwrap()
            .labels
            .unwrap()["swe-forge.egress.folder"]
            .clone();
        for forbidden in [
            "rm /.swe-forge/egress/proxy.sock",
            "touch /.swe-forge/egress/x",
            "mv /.swe-forge/egress /tmp/x",
            "chmod 777 /.swe-forge/egress",
            &format!("ls /.swe-forge/egress/../{folder}"),
            &format!("ls -d /.swe-forge/{folder} /.swe-forge/egress/{folder} /sockets"),
        ] {
            let done = shell(&*one, forbidden).await;
            assert!(!done.succeeded(), "{forbidden}: {done:?}");
        }
        let done = connect(&*one, ALLOWED, outside.port, HELLO).await;
        assert!(done.stdout.ends_with("<hello>\n"), "{done:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_policy_cuts_what_it_forbids_and_holds_at_once() {
    let outside = &Outside::new().await;
    with_outside(outside, |bench| async move {
        let sandbox = networked(&bench, "change", outside.network()).await;
        let target = format!("{ALLOWED}:{}", outside.port);
        let argv = ["/usr/bin/env", "python3", "-c", CLIENT, &target, HOLD];
        let mut tunnel = sandbox.exec(request(&argv)).await.unwrap();
        let mut seen = String::new();
        while !seen.contains(HOLD) {
            let chunk = tunnel.output.next().await.unwrap();
            seen.push_str(&String::from_utf8_lossy(&chunk.bytes));
        }
        let control = egress(&*sandbox);
        control
            .set_policy(&EgressPolicy::isolated(), PhaseName::Solve)
            .await
            .unwrap();
        while let Some(chunk) = tunnel.output.next().await {
            seen.push_str(&String::from_utf8_lossy(&chunk.bytes));
        }
        assert!(seen.ends_with("cut\n"), "{seen}");
        let done = connect(&*sandbox, ALLOWED, outside.port, HELLO).await;
        assert!(done.stdout.contains("isolated"), "{done:?}");
        control
            .set_policy(&outside.policy(NetworkLevel::LimitedWeb), PhaseName::Verify)
            .await
            .unwrap();
        let done = connect(&*sandbox, ALLOWED, outside.port, HELLO).await;
        assert!(done.stdout.ends_with("<hello>\n"), "{done:?}");
        let records = records(control, 3).await;
        let reasons: Vec<_> = records
            .connections
            .iter()
            .map(|record| (record.phase, record.reason))
            .collect();
        let expected = [
            (PhaseName::Setup, Some(DenialReason::PolicyChanged)),
            (PhaseName::Solve, Some(DenialReason::Isolated)),
            (PhaseName::Verify, None),
        ];
        assert_eq!(reasons, expected);
    })
    .await;
}

/// How a proxy may go, all of it from outside.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Loss {
    Killed,
    Removed,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_is_lost_closes_everything_and_comes_back() {
    let outside = &Outside::new().await;
    with_outside(outside, |bench| async move {
        let sandbox = networked(&bench, "loss", outside.network()).await;
        let control = egress(&*sandbox);
        let name = proxies(&bench).await[0].name.clone();
        for loss in [Loss::Killed, Loss::Removed] {
            let target = format!("{ALLOWED}:{}", outside.port);
            let argv = ["/usr/bin/env", "python3", "-c", CLIENT, &target, HOLD];
            let mut tunnel = sandbox.exec(request(&argv)).await.unwrap();
            let mut seen = String::new();
            while !seen.contains(HOLD) {
                let chunk = tunnel.output.next().await.unwrap();
                seen.push_str(&String::from_utf8_lossy(&chunk.bytes));
            }
            lose(&name, loss).await;
            // The tunnel ends with the proxy, and the client with the tunnel.
            while tunnel.output.next().await.is_some() {}
            tunnel.exit.await.unwrap();
            // Answered when it is in force again.
            set_again(control, &outside.policy(NetworkLevel::PackageOnly)).await;
            let done = connect(&*sandbox, ALLOWED, outside.port, HELLO).await;
            assert!(done.stdout.ends_with("<hello>\n"), "{loss:?}: {done:?}");
            let done = connect(&*sandbox, OTHER, outside.port, HELLO).await;
            assert!(
                done.stdout.contains("not_on_allowlist"),
                "{loss:?}: {done:?}"
            );
        }
    })
    .await;
}

pub(crate) async fn lose(name: &str, loss: Loss) {
    let docker = raw_docker();
    match loss {
        Loss::Killed => {
            let options = None::<KillContainerOptions>;
            docker.kill_container(name, options).await.unwrap();
        }
        Loss::Removed => {
            let options = RemoveContainerOptions {
                force: true,
                ..RemoveContainerOptions::default()
            };
            docker.remove_container(name, Some(options)).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_proxy_gives_a_sandbox_nothing_to_send_again_and_says_what_is_unknown() {
    let outside = &Outside::new().await;
    with_outside(outside, |bench| async move {
        let mut policy = outside.policy(NetworkLevel::PackageOnly);
        policy.limits.upload_bytes = 1000;
        let sandbox = networked(&bench, "bound", network(policy.clone())).await;
        let control = egress(&*sandbox);
        // A line that is ended: until then it might become a request that is to be judged.
        let text = "x".repeat(599);
        let payload = format!("{text}\n");
        let done = connect(&*sandbox, ALLOWED, outside.port, &payload).await;
        assert!(done.stdout.contains(&text), "{done:?}");
        let records = control.take_records().await.unwrap();
        assert_eq!((records.counters.bytes_up, records.lost), (600, false));
        let name = proxies(&bench).await[0].name.clone();
        for loss in [Loss::Killed, Loss::Removed] {
            lose(&name, loss).await;
            set_again(control, &policy).await;
            let done = connect(&*sandbox, ALLOWED, outside.port, &payload).await;
            assert!(!done.stdout.contains(&text), "{done:?}");
            let records = control.take_records().await.unwrap();
            assert!(
                records.lost && records.counters.bytes_up <= 1000,
                "{records:?}"
            );
            // The first may have ended after records were asked for.
            let last = records.connections.last().unwrap();
            assert_eq!(last.reason, Some(DenialReason::Limit), "{records:?}");
        }
        // Another phase has limits of its own.
        control.set_policy(&policy, PhaseName::Solve).await.unwrap();
        let done = connect(&*sandbox, ALLOWED, outside.port, &payload).await;
        assert!(done.stdout.contains(&text), "{done:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_proxy_is_out_of_reach_and_says_so() {
    with_bench(BOTH_WAYS[0], |bench| async move {
        let sandbox = networked(&bench, "paused", network(EgressPolicy::isolated())).await;
        let name = proxies(&bench).await[0].name.clone();
        let docker = raw_docker();
        docker.pause_container(&name).await.unwrap();
        let error = egress(&*sandbox)
            .set_policy(&EgressPolicy::isolated(), PhaseName::Solve)
            .await
            .unwrap_err();
        docker.unpause_container(&name).await.unwrap();
        assert_eq!(error.kind, EngineErrorKind::Unavailable, "{error}");
        assert_eq!(error.operation, Operation::Network);
        assert!(error.to_string().contains("paused"), "{error}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_leaves_nothing_and_what_is_needed_again_is_made_again() {
    with_bench(BOTH_WAYS[0], |bench| async move {
        bench.engine.close().await.unwrap();
        for round in 0..2 {
            let part = format!("close{round}");
            let sandbox = networked(&bench, &part, network(EgressPolicy::isolated())).await;
            assert_eq!(proxies(&bench).await.len(), 3);
            bench.engine.destroy(sandbox.id()).await.unwrap();
            bench.engine.close().await.unwrap();
            assert!(proxies(&bench).await.is_empty());
            let control = egress(&*sandbox);
            let error = control.take_records().await.unwrap_err();
            assert_eq!(error.kind, EngineErrorKind::Unavailable, "{error}");
        }
        bench.engine.close().await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_folder_of_a_sandbox_goes_with_it() {
    with_bench(BOTH_WAYS[0], |bench| async move {
        let one = networked(&bench, "gone", network(EgressPolicy::isolated())).await;
        let two = networked(&bench, "stays", network(EgressPolicy::isolated())).await;
        let volume = proxies(&bench).await[0].name.clone();
        let volume = raw_docker().inspect_volume(&volume).await.unwrap();
        let folders = || std::fs::read_dir(&volume.mountpoint).unwrap().count();
        assert_eq!(folders(), 2);
        bench.engine.destroy(one.id()).await.unwrap();
        assert_eq!(folders(), 1);
        bench.engine.destroy(one.id()).await.unwrap();
        assert_eq!(
            shell(&*two, "ls /.swe-forge/egress").await.stdout,
            "proxy.sock\n"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_of_another_process_is_neither_controlled_nor_taken_over() {
    with_bench(BOTH_WAYS[0], |bench| async move {
        let isolated = || Some(network(EgressPolicy::isolated()));
        let sandbox = networked(&bench, "foreign", network(EgressPolicy::isolated())).await;
        let id = sandbox.id().clone();
        let again = bench.engine.open(&id, &secret()).await.unwrap();
        egress(&*again).take_records().await.unwrap();
        let stranger = bench.stranger().await;
        let opened = stranger.open(&id, &secret()).await.unwrap();
        let error = egress(&*opened).take_records().await.unwrap_err();
        assert_eq!(error.kind, EngineErrorKind::Unavailable, "{error}");
        let user = next_user();
        let mut spec = bench.sandbox_spec(&id, user);
        spec.network = isolated();
        let image = bench.image().await;
        let error = stranger.create(&spec, &image, &secret()).await.unwrap_err();
        assert_eq!(error.kind, EngineErrorKind::Conflict, "{error}");
        stranger.close().await.unwrap();
        assert_eq!(proxies(&bench).await.len(), 3);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_program_only_isolated_sandboxes_are_made() {
    with_bench_of(
        BOTH_WAYS[0],
        |options| options.egress.program = Arc::from([]),
        |bench| async move {
            let id = bench.id("none");
            let user = next_user();
            let image = bench.image().await;
            let workspace = bench.workspace_spec(&id, user);
            let engine = &bench.engine;
            engine.create_workspace(&workspace, &image).await.unwrap();
            let mut spec = bench.sandbox_spec(&id, user);
            spec.network = Some(network(EgressPolicy::isolated()));
            let error = engine.create(&spec, &image, &secret()).await.unwrap_err();
            assert_eq!(error.kind, EngineErrorKind::Unsupported, "{error}");
            assert_eq!(error.operation, Operation::Network);
            spec.network = None;
            engine.create(&spec, &image, &secret()).await.unwrap();
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_does_not_run_fails_the_sandbox_in_words() {
    // An executable of the right kind that ends at once: forge-init without its arguments.
    with_bench_of(
        BOTH_WAYS[0],
        |options| options.egress.program = options.init_binary.bytes.clone(),
        |bench| async move {
            let id = bench.id("broken");
            let user = next_user();
            let image = bench.image().await;
            let workspace = bench.workspace_spec(&id, user);
            let engine = &bench.engine;
            engine.create_workspace(&workspace, &image).await.unwrap();
            let mut spec = bench.sandbox_spec(&id, user);
            spec.network = Some(network(EgressPolicy::isolated()));
            let error = engine.create(&spec, &image, &secret()).await.unwrap_err();
            assert_eq!(error.kind, EngineErrorKind::Unsupported, "{error}");
            assert_eq!(error.operation, Operation::Network);
            assert!(error.to_string().contains("forge-init"), "{error}");
        },
    )
    .await;
    // The image is a cache of something that nobody needs again.
    let digest = Sha256::digest(init_bytes());
    let digest: String = digest[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let image = format!("swe-forge/egress:{digest}");
    let options = None::<RemoveImageOptions>;
    let removed = raw_docker().remove_image(&image, options, None).await;
    removed.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dozen_at_once_have_one_proxy_and_sockets_of_their_own() {
    with_bench(BOTH_WAYS[0], |bench| async move {
        let one = async |number: usize| {
            let part = format!("dozen{number}");
            let sandbox = networked(&bench, &part, network(EgressPolicy::isolated())).await;
            let done = connect(&*sandbox, "example.org", 443, "").await;
            assert!(done.stdout.contains("isolated"), "{done:?}");
            let records = egress(&*sandbox).take_records().await.unwrap();
            assert_eq!(records.connections.len(), 1);
            assert_eq!(records.connections[0].sandbox, sandbox.id().as_str());
        };
        futures::future::join_all((0..12).map(one)).await;
        assert_eq!(proxies(&bench).await.len(), 3);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_process_that_is_gone_has_left_is_found_and_removed() {
    with_bench(BOTH_WAYS[0], |bench| async move {
        let id = bench.id("orphan");
        let user = next_user();
        let image = bench.image().await;
        let gone = bench.stranger().await;
        gone.create_workspace(&bench.workspace_spec(&id, user), &image)
            .await
            .unwrap();
        let mut spec = bench.sandbox_spec(&id, user);
        spec.network = Some(network(EgressPolicy::isolated()));
        let sandbox = gone.create(&spec, &image, &secret()).await.unwrap();
        // As when the process ends: nobody closes anything.
        drop((sandbox, gone));
        let mut left = proxies(&bench).await;
        assert_eq!(left.len(), 3);
        for object in &left {
            assert_eq!(object.label(keys::HOLDER), Some(HOLDER));
            assert!(object.time(keys::EXPIRES_AT).is_some(), "{object:?}");
        }
        bench.engine.destroy(&id).await.unwrap();
        left.sort_by_key(|object| object.kind);
        for object in &left {
            bench.engine.remove(object).await.unwrap();
            bench.engine.remove(object).await.unwrap();
        }
        assert!(proxies(&bench).await.is_empty());
    })
    .await;
}

/// Addresses of the machine and of the engine's networks, whatever they are, are never dialled.
#[tokio::test(flavor = "multi_thread")]
async fn at_full_web_the_machine_and_private_addresses_stay_closed() {
    let outside = &Outside::new().await;
    with_outside(outside, |bench| async move {
        let mut policy = outside.policy(NetworkLevel::FullWeb);
        policy.allow.clear();
        policy.exceptions.clear();
        let sandbox = networked(&bench, "full", network(policy)).await;
        let own = outside.machine.to_string();
        for target in [
            own.as_str(),
            "127.0.0.1:80",
            "169.254.169.254:80",
            "172.17.0.1:22",
            "[::1]:80",
        ] {
            let (host, port) = target.rsplit_once(':').unwrap();
            let done = connect(&*sandbox, host, port.parse().unwrap(), HELLO).await;
            assert!(
                done.stdout.contains("private_address"),
                "{target}: {done:?}"
            );
        }
    })
    .await;
}
