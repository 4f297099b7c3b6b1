//! A proxy, sandboxes, servers outside, and what clients say.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use forge_api::egress::{AuditContext, SandboxPolicy};
use forge_core::connection::ConnectionRecord;
use forge_core::egress::{AddressRange, AllowedHost, DenialReason, EgressLimits, EgressPolicy};
use forge_core::{NetworkLevel, PhaseName};
use forge_egress::names::HostName;
use forge_egress::resolve::Outside;
use forge_egress::server::{Options, Server, Timing, socket_path};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// The public address that servers outside pretend to have.
pub(crate) const PUBLIC: &str = "93.184.215.14";

/// Long enough for a machine under load; what passes does so at once.
pub(crate) const PATIENT: Timing = Timing {
    head: Duration::from_secs(60),
    resolve: Duration::from_secs(60),
    connect: Duration::from_secs(60),
    hello: Duration::from_secs(60),
    farewell: Duration::from_secs(60),
};

/// Lets this process hold as many connections as all these tests at once may make, clients and
/// servers included.
pub(crate) fn many_descriptors() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    assert!(most >= 16_384, "a process may open {most} files: too few");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
}

/// A world in which names resolve in turn to what they are told to.
#[derive(Default)]
pub(crate) struct World {
    names: Mutex<BTreeMap<String, VecDeque<Vec<IpAddr>>>>,
    routes: Mutex<BTreeMap<SocketAddr, SocketAddr>>,
    pub(crate) dialled: Mutex<Vec<SocketAddr>>,
    own: Mutex<Vec<AddressRange>>,
}

impl World {
    /// The next look-up of a name gives these addresses; the last answer stays.
    pub(crate) fn name(&self, name: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|each| each.parse().unwrap());
        let mut names = self.names.lock().unwrap();
        let answers = names.entry(name.to_owned()).or_default();
        answers.push_back(addresses.collect());
    }

    pub(crate) fn own(&self, range: &str) {
        self.own.lock().unwrap().push(range.parse().unwrap());
    }
}

#[async_trait]
impl Outside for World {
    async fn resolve(&self, name: &HostName) -> io::Result<Vec<IpAddr>> {
        let mut names = self.names.lock().unwrap();
        let answers = names.get_mut(name.as_str());
        let answers = answers.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        match answers.len() {
            1 => Ok(answers[0].clone()),
            _ => Ok(answers.pop_front().unwrap()),
        }
    }

    async fn dial(&self, address: SocketAddr) -> io::Result<TcpStream> {
        self.dialled.lock().unwrap().push(address);
        let route = self.routes.lock().unwrap().get(&address).copied();
        match route {
            Some(local) => forge_egress::resolve::connect(local).await,
            None => Err(io::Error::from(io::ErrorKind::ConnectionRefused)),
        }
    }

    fn own_networks(&self) -> io::Result<Vec<AddressRange>> {
        Ok(self.own.lock().unwrap().clone())
    }

    fn has_v6(&self) -> bool {
        false
    }
}

/// A proxy with its world.
pub(crate) struct Proxy {
    pub(crate) server: Arc<Server>,
    pub(crate) world: Arc<World>,
    pub(crate) folder: TempDir,
    pub(crate) tasks: JoinSet<()>,
}

impl Proxy {
    pub(crate) fn new() -> Self {
        Self::with(PATIENT)
    }

    pub(crate) fn with(timing: Timing) -> Self {
        let world = Arc::new(World::default());
        let folder = tempfile::tempdir().unwrap();
        let server = Server::new(Options {
            sockets: folder.path().join("sockets"),
            outside: world.clone(),
            timing,
        });
        Self {
            server: Arc::new(server.unwrap()),
            world,
            folder,
            tasks: JoinSet::new(),
        }
    }

    pub(crate) fn sockets(&self) -> PathBuf {
        self.folder.path().join("sockets")
    }

    pub(crate) async fn set(&self, sandbox: &str, policy: EgressPolicy) {
        self.server.set(wish(sandbox, policy)).await.unwrap();
    }

    pub(crate) async fn connect(&self, sandbox: &str) -> UnixStream {
        let path = socket_path(&self.sockets(), &directory(sandbox));
        UnixStream::connect(path).await.unwrap()
    }

    /// A connection on which a request was sent.
    pub(crate) async fn request(&self, sandbox: &str, request: &str) -> UnixStream {
        let mut client = self.connect(sandbox).await;
        client.write_all(request.as_bytes()).await.unwrap();
        client
    }

    /// A tunnel that was opened.
    pub(crate) async fn tunnel(&self, sandbox: &str, to: &str) -> UnixStream {
        let mut client = self.request(sandbox, &connect(to)).await;
        let head = head(&mut client).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        client
    }

    /// How much the proxy holds, once that is more than so much.
    pub(crate) async fn buffered_beyond(&self, before: usize) -> usize {
        loop {
            let now = self.server.buffered();
            if now > before {
                return now;
            }
            tokio::task::yield_now().await;
        }
    }

    /// The next record.
    pub(crate) async fn record(&self) -> ConnectionRecord {
        self.server.log().arrived().await;
        let mut batch = self.server.log().take(1);
        let record = batch.records().next().unwrap().1.clone();
        batch.delivered();
        record
    }

    /// Starts a server outside at [`PUBLIC`] and this port.
    pub(crate) async fn server(&mut self, port: u16) -> Outer {
        self.server_at(PUBLIC, port).await
    }

    pub(crate) async fn server_at(&mut self, address: &str, port: u16) -> Outer {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let outside = SocketAddr::new(address.parse().unwrap(), port);
        let local = listener.local_addr().unwrap();
        self.world.routes.lock().unwrap().insert(outside, local);
        let (accepted, connections) = mpsc::unbounded_channel();
        self.tasks.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if accepted.send(stream).is_err() {
                    return;
                }
            }
        });
        Outer { connections }
    }
}

/// A server outside, spoken for by the test.
pub(crate) struct Outer {
    connections: mpsc::UnboundedReceiver<TcpStream>,
}

impl Outer {
    pub(crate) async fn accept(&mut self) -> TcpStream {
        self.connections.recv().await.unwrap()
    }
}

pub(crate) fn directory(sandbox: &str) -> String {
    format!("{sandbox:0>16}")
}

pub(crate) fn wish(sandbox: &str, policy: EgressPolicy) -> SandboxPolicy {
    SandboxPolicy {
        sandbox: sandbox.to_owned(),
        directory: directory(sandbox),
        policy,
        context: AuditContext {
            run: "run".into(),
            task: "task".into(),
            phase: PhaseName::Setup,
        },
    }
}

/// A policy of a level with hosts such as `example.org:80,443` and `*.example.net`.
pub(crate) fn policy(level: NetworkLevel, hosts: &[&str]) -> EgressPolicy {
    let allow = hosts.iter().map(|text| {
        let (name, ports) = text.split_once(':').unwrap_or((text, "443"));
        let below = name.strip_prefix("*.");
        AllowedHost {
            name: below.unwrap_or(name).to_owned(),
            subdomains: below.is_some(),
            ports: ports.split(',').map(|port| port.parse().unwrap()).collect(),
        }
    });
    EgressPolicy {
        level,
        allow: allow.collect(),
        exceptions: Vec::new(),
        limits: EgressLimits::of(level),
    }
}

pub(crate) fn limited(hosts: &[&str]) -> EgressPolicy {
    policy(NetworkLevel::LimitedWeb, hosts)
}

pub(crate) fn full() -> EgressPolicy {
    policy(NetworkLevel::FullWeb, &[])
}

pub(crate) fn connect(to: &str) -> String {
    format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n")
}

/// Everything up to the empty line.
pub(crate) async fn head(client: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

pub(crate) async fn exactly(client: &mut (impl AsyncReadExt + Unpin), count: usize) -> String {
    let mut bytes = vec![0; count];
    client.read_exact(&mut bytes).await.unwrap();
    String::from_utf8(bytes).unwrap()
}

pub(crate) async fn bytes(client: &mut (impl AsyncReadExt + Unpin), count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    client.read_exact(&mut bytes).await.unwrap();
    bytes
}

/// Everything up to the end, however it comes.
pub(crate) async fn rest(client: &mut (impl AsyncReadExt + Unpin)) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = client.read(&mut buffer).await {
        bytes.extend_from_slice(&buffer[..count]);
    }
    bytes
}

pub(crate) async fn rest_text(client: &mut (impl AsyncReadExt + Unpin)) -> String {
    String::from_utf8(rest(client).await).unwrap()
}

pub(crate) fn assert_denied(answer: &str, status: u16, reason: DenialReason) {
    let expected = format!("HTTP/1.1 {status} Blocked by swe-forge egress policy: ");
    assert!(answer.starts_with(&expected), "{answer}");
    let header = format!("\r\nX-Swe-Forge-Egress: denied; reason={reason}\r\n");
    assert!(answer.contains(&header), "{answer}");
}

/// The first message of TLS with a name and other extensions.
pub(crate) fn hello(name: Option<&str>, others: &[u16]) -> Vec<u8> {
    let prefixed = |bytes: &[u8]| {
        let length = u16::try_from(bytes.len()).unwrap();
        [&length.to_be_bytes()[..], bytes].concat()
    };
    let mut extensions = Vec::new();
    if let Some(name) = name {
        let entry = [&[0][..], &prefixed(name.as_bytes())].concat();
        extensions.extend_from_slice(&[0, 0]);
        extensions.extend(prefixed(&prefixed(&entry)));
    }
    for kind in others {
        extensions.extend_from_slice(&kind.to_be_bytes());
        extensions.extend(prefixed(&[0; 8]));
    }
    let mut body = vec![3, 3];
    body.extend_from_slice(&[7; 32]);
    body.push(0);
    body.extend(prefixed(&[0x13, 0x01]));
    body.extend_from_slice(&[1, 0]);
    body.extend(prefixed(&extensions));
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let message = [&[1][..], &length[1..], &body].concat();
    [&[22, 3, 1][..], &prefixed(&message)].concat()
}

/// The random number with which a server asks for another hello.
pub(crate) const RETRY: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91,
    0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

/// A server's answer to a hello.
pub(crate) fn answer(random: [u8; 32]) -> Vec<u8> {
    let body = [&[3, 3][..], &random, &[0, 0x13, 1, 0, 0, 0]].concat();
    let length = u8::try_from(body.len()).unwrap();
    [&[22, 3, 3, 0, length + 4, 2, 0, 0, length][..], &body].concat()
}
