//! Networks: what hardening and a network level add to a start, and what the way through the egress
//! proxy adds to a connection and leaves of its rate.
//!
//! The server is a container on a bridge of its own, on which the proxy is put as well; beside it
//! stands a client without any sandbox around it, for the direct way over the same bridge.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use forge_core::egress::{AddressException, AddressRange, AllowedHost, EgressLimits};
use forge_core::ownership::keys;
use forge_core::{EgressPolicy, NetworkLevel, PhaseName, SandboxNetwork};
use forge_engine::{Engine, EngineDescription, Sandbox};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use crate::output::megabytes;
use crate::report::{Report, milliseconds, percentile, show};
use crate::stage::{BenchError, IMAGE, Stage};

/// Starts of each kind: a multiple of 20, see [`order`].
const STARTS: u32 = 40;
/// Not counted: the first starts load what the later ones find in memory.
const WARM_UP: u32 = 3;
/// The two ways take turns in so many batches.
const BATCHES: usize = 20;
/// Connections in a batch, one after the other.
const CONNECTIONS: usize = 25;
/// Downloads over each way, taking turns.
const DOWNLOADS: usize = 5;
const DOWNLOAD_BYTES: u64 = 512 * 1024 * 1024;
/// Sandboxes by number: one that keeps the proxy running, and those that come and go.
const HOLDER: u32 = 20_001;
const ISOLATED: u32 = 20_002;
const NETWORKED: u32 = 20_003;
/// The server, as the proxy knows it, and its port.
const NAME: &str = "server.test";
const PORT: u16 = 7000;
/// No answer of the engine, a whole download included, takes longer.
const PATIENCE: Duration = Duration::from_secs(120);
/// Settings of a sandbox's container that confine it, without those that say what is in it.
const CONFINING: [&str; 15] = [
    "CapAdd",
    "CapDrop",
    "CgroupnsMode",
    "IpcMode",
    "MaskedPaths",
    "Memory",
    "MemorySwap",
    "NanoCpus",
    "OomScoreAdj",
    "PidsLimit",
    "ReadonlyPaths",
    "ReadonlyRootfs",
    "SecurityOpt",
    "Tmpfs",
    "Ulimits",
];

/// Sends back `<`, or so many bytes after `>`.
const SERVER: &str = r#"
import socket, sys, threading
piece, total = bytes(1 << 20), int(sys.argv[2])
def serve(stream):
    with stream:
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        asked = stream.recv(1)
        if asked == b"<":
            stream.sendall(asked)
            stream.recv(1)
        elif asked == b">":
            for _ in range(total // len(piece)):
                stream.sendall(piece)
listener = socket.create_server(("", int(sys.argv[1])), backlog=128)
while True:
    stream, _ = listener.accept()
    threading.Thread(target=serve, args=(stream,), daemon=True).start()
"#;

/// Prints the nanoseconds of each round: from nothing to the answer of the server, or of the whole
/// download on a connection that stands. The first round is not counted.
const CLIENT: &str = r#"
import socket, sys, time
way, host, port, what, rounds, total = sys.argv[1:]
target, rounds, total = f"{host}:{port}", int(rounds), int(total)
def reach():
    if way == "direct":
        stream = socket.create_connection((host, int(port)), 30)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return stream
    stream = socket.create_connection(("127.0.0.1", 3128), 30)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        piece = stream.recv(1)
        if not piece:
            sys.exit("the proxy hung up")
        head += piece
    if b" 200 " not in head.split(b"\r\n")[0]:
        sys.exit(head.decode())
    return stream
def reach_in_time():
    end = time.monotonic() + 20
    while True:
        try:
            return reach()
        except ConnectionRefusedError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)
def connection():
    began = time.perf_counter_ns()
    with reach() as stream:
        stream.sendall(b"<")
        if stream.recv(1) != b"<":
            sys.exit("no answer")
        return time.perf_counter_ns() - began
def download():
    with reach() as stream:
        buffer, left = bytearray(1 << 20), total
        began = time.perf_counter_ns()
        stream.sendall(b">")
        while left:
            got = stream.recv_into(buffer)
            if not got:
                sys.exit(f"cut {left} bytes before the end")
            left -= got
        return time.perf_counter_ns() - began
reach_in_time().close()
if what == "connection":
    connection()
for _ in range(rounds):
    print(connection() if what == "connection" else download())
"#;

pub(crate) async fn run(stage: &Stage, report: &mut Report) -> Result<(), BenchError> {
    let api = Api::new(&stage.description)?;
    report.add(load("before"));
    let measured = match starts(stage, &api, report).await {
        Ok(()) => traffic(stage, &api, report).await,
        Err(error) => Err(error),
    };
    report.add(load("after"));
    let mut removed = Ok(());
    for number in [HOLDER, ISOLATED, NETWORKED] {
        removed = removed.and(stage.destroy(number).await);
    }
    let closed = stage.engine.close().await.map_err(BenchError::from);
    measured.and(removed).and(closed)
}

/// How busy the machine is, without which no figure here means anything.
fn load(when: &str) -> String {
    let averages = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let averages: Vec<&str> = averages.split_whitespace().take(3).collect();
    format!(
        "load of the machine {when:<24} {} (1, 5, 15 min)",
        averages.join(", ")
    )
}

/// What is started in turn.
#[derive(Clone, Copy)]
enum Kind {
    /// A container without what the engine itself confines one by.
    Unconfined,
    /// A container as the engine makes it unasked.
    Default,
    /// A container confined as a sandbox is, and nothing else of one.
    Hardened,
    Isolated,
    Connected,
}

const KINDS: [Kind; 5] = [
    Kind::Unconfined,
    Kind::Default,
    Kind::Hardened,
    Kind::Isolated,
    Kind::Connected,
];

/// By the place in [`KINDS`].
type Samples = [Vec<Duration>; KINDS.len()];

async fn starts(stage: &Stage, api: &Api, report: &mut Report) -> Result<(), BenchError> {
    let before = isolated(stage).await?;
    // From here on there is a proxy.
    let holder = stage.sandbox_with(HOLDER, Some(nowhere())).await?;
    let confining = confining(api, &*holder)?;
    drop(holder);
    let after = isolated(stage).await?;
    let mut samples = Samples::default();
    for round in 0..WARM_UP + STARTS {
        for place in order(round) {
            let Some((kind, samples)) = KINDS.get(place).zip(samples.get_mut(place)) else {
                continue;
            };
            let sample = match kind {
                Kind::Unconfined => container(api, &unconfined())?,
                Kind::Default => container(api, &Map::new())?,
                Kind::Hardened => container(api, &confining)?,
                Kind::Isolated => sandbox(stage, ISOLATED, None).await?,
                Kind::Connected => sandbox(stage, NETWORKED, Some(nowhere())).await?,
            };
            if round >= WARM_UP {
                samples.push(sample);
            }
        }
    }
    report.add_times("isolated ready, no proxy running", &before);
    report.add_times("isolated ready, a proxy running", &after);
    let names = [
        "raw create + start, nothing confined",
        "raw create + start, the engine's defaults",
        "raw create + start, confined as a sandbox",
        "isolated ready, in turn with the others",
        "package_only ready",
    ];
    for (name, samples) in names.into_iter().zip(&samples) {
        report.add_times(name, samples);
    }
    let [unconfined, default, hardened, alone, connected] = &samples;
    compare(report, "isolated: proxy over no proxy", &after, &before);
    compare(
        report,
        "hardening over nothing confined",
        hardened,
        unconfined,
    );
    compare(
        report,
        "hardening over the engine's defaults",
        hardened,
        default,
    );
    compare(report, "package_only over isolated", connected, alone);
    Ok(())
}

/// The order of the kinds in a round, by their places. In 20 rounds every kind comes at every place
/// equally often and follows every other equally often: what was removed just before weighs on what
/// comes next.
fn order(round: u32) -> [usize; KINDS.len()] {
    let round = usize::try_from(round).unwrap_or_default();
    let steps = KINDS.len() - 1;
    let (first, step) = (round / steps, 1 + round % steps);
    std::array::from_fn(|place| (first + place * step) % KINDS.len())
}

fn compare(report: &mut Report, name: &str, left: &[Duration], right: &[Duration]) {
    let (over, under) = (percentile(left, 50), percentile(right, 50));
    report.add(format!(
        "{name:<44} {:+.2} ms ({:+.1} %) of the medians, {:+.2} ms median of pairs",
        milliseconds(over) - milliseconds(under),
        (over.as_secs_f64() / under.as_secs_f64() - 1.0) * 100.0,
        median_difference(left, right),
    ));
}

/// Starts of isolated sandboxes one after the other.
async fn isolated(stage: &Stage) -> Result<Vec<Duration>, BenchError> {
    let mut samples = Vec::new();
    for round in 0..WARM_UP + STARTS {
        let sample = sandbox(stage, ISOLATED, None).await?;
        if round >= WARM_UP {
            samples.push(sample);
        }
    }
    Ok(samples)
}

/// A network whose server is not there.
fn nowhere() -> SandboxNetwork {
    network(AddressRange {
        address: [192, 0, 2, 1].into(),
        prefix: 32,
    })
}

/// Settings that take away what the engine itself confines a container by.
fn unconfined() -> Map<String, Value> {
    [
        ("SecurityOpt", json!(["seccomp=unconfined"])),
        ("MaskedPaths", json!([])),
        ("ReadonlyPaths", json!([])),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into_iter()
    .collect()
}

/// How long a sandbox takes until it is ready for commands; it is removed again.
async fn sandbox(
    stage: &Stage,
    number: u32,
    network: Option<SandboxNetwork>,
) -> Result<Duration, BenchError> {
    let began = Instant::now();
    let sandbox = stage.sandbox_with(number, network).await?;
    let ready = began.elapsed();
    drop(sandbox);
    stage.destroy(number).await?;
    Ok(ready)
}

/// How long create and start of a container take that has nothing of ours but these settings.
fn container(api: &Api, settings: &Map<String, Value>) -> Result<Duration, BenchError> {
    let name = format!("swe-forge-bench-plain-{}", std::process::id());
    let mut host = settings.clone();
    let user = host.remove("User").unwrap_or_else(|| json!(""));
    host.insert("NetworkMode".to_owned(), json!("none"));
    let body = json!({
        "Image": IMAGE,
        "User": user,
        "Entrypoint": ["sleep", "600"],
        "Labels": labels(),
        "NetworkDisabled": true,
        "HostConfig": host,
    });
    let began = Instant::now();
    let made = api
        .call("POST", &format!("/containers/create?name={name}"), &body)
        .and_then(|_| api.call("POST", &format!("/containers/{name}/start"), &Value::Null));
    let took = began.elapsed();
    let removed = api.remove_container(&name);
    made?;
    removed.map(|()| took)
}

/// What confines a sandbox, as the engine has it.
fn confining(api: &Api, sandbox: &dyn Sandbox) -> Result<Map<String, Value>, BenchError> {
    let found = api.inspect(&container_of(sandbox))?;
    let mut settings = Map::new();
    for key in CONFINING {
        let value = found["HostConfig"].get(key).cloned();
        settings.insert(key.to_owned(), value.unwrap_or_default());
    }
    settings.insert("User".to_owned(), found["Config"]["User"].clone());
    Ok(settings)
}

fn container_of(sandbox: &dyn Sandbox) -> String {
    format!("swe-forge-task-{}", sandbox.id())
}

/// A network on which the server is reached, where it has this address.
fn network(address: AddressRange) -> SandboxNetwork {
    let level = NetworkLevel::PackageOnly;
    let host = AllowedHost {
        name: NAME.to_owned(),
        subdomains: false,
        ports: vec![PORT],
    };
    SandboxNetwork {
        policy: EgressPolicy {
            level,
            allow: vec![host.clone()],
            exceptions: vec![AddressException {
                hosts: vec![host],
                ranges: vec![address],
            }],
            limits: EgressLimits {
                download_bytes: u64::MAX,
                ..EgressLimits::of(level)
            },
        },
        phase: PhaseName::Setup,
        ports: Vec::new(),
        socks: false,
    }
}

async fn traffic(stage: &Stage, api: &Api, report: &mut Report) -> Result<(), BenchError> {
    let outside = Outside::new(api)?;
    let range = AddressRange {
        address: outside.address,
        prefix: 32,
    };
    let sandbox = stage.sandbox_with(NETWORKED, Some(network(range))).await?;
    let outside = outside.with_proxy(&*sandbox)?;
    let direct = |what, rounds| outside.direct(what, rounds);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..BATCHES {
        theirs.extend(direct("connection", CONNECTIONS)?);
        ours.extend(through(stage, &*sandbox, "connection", CONNECTIONS).await?);
    }
    let direct_median = report.add_times("connection and 1 byte back, direct", &theirs);
    let our_median = report.add_times("connection and 1 byte back, by the proxy", &ours);
    report.add(format!(
        "the proxy adds to a connection, p50            {:+.2} ms",
        milliseconds(our_median) - milliseconds(direct_median)
    ));
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..DOWNLOADS {
        theirs.extend(direct("download", 1)?);
        ours.extend(through(stage, &*sandbox, "download", 1).await?);
    }
    for (name, samples) in [("direct", theirs), ("by the proxy", ours)] {
        let rate = |time: Duration| megabytes(DOWNLOAD_BYTES) / time.as_secs_f64();
        report.add(format!(
            "512 MiB down one connection, {name:<17} median {:.0} MB/s, {:.0} to {:.0} (median {}, n={})",
            rate(percentile(&samples, 50)),
            rate(percentile(&samples, 100)),
            rate(percentile(&samples, 0)),
            show(percentile(&samples, 50)),
            samples.len()
        ));
    }
    Ok(())
}

/// What the client says who runs in a sandbox.
async fn through(
    stage: &Stage,
    sandbox: &dyn Sandbox,
    what: &str,
    rounds: usize,
) -> Result<Vec<Duration>, BenchError> {
    let words = client("proxy", NAME, what, rounds);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut exec = sandbox.exec(stage.request(&words)).await?;
    let mut said = Vec::new();
    while let Some(chunk) = exec.output.next().await {
        said.extend_from_slice(&chunk.bytes);
    }
    exec.exit.await?;
    times(&said, rounds)
}

fn client(way: &str, host: &str, what: &str, rounds: usize) -> Vec<String> {
    let mut words = ["/usr/bin/env", "python3", "-c", CLIENT, way, host]
        .map(str::to_owned)
        .to_vec();
    words.extend([PORT.to_string(), what.to_owned()]);
    words.extend([rounds.to_string(), DOWNLOAD_BYTES.to_string()]);
    words
}

/// What a client printed, which is its complaint when it did not end well.
fn times(said: &[u8], rounds: usize) -> Result<Vec<Duration>, BenchError> {
    let text = String::from_utf8_lossy(said);
    let times: Option<Vec<Duration>> = text
        .lines()
        .map(|line| line.trim().parse().ok().map(Duration::from_nanos))
        .collect();
    times
        .filter(|times| times.len() == rounds)
        .ok_or_else(|| BenchError::Raw(format!("the client said: {}", text.trim())))
}

/// The median of what each of `left` took longer than its fellow in `right`, in milliseconds.
fn median_difference(left: &[Duration], right: &[Duration]) -> f64 {
    let pairs = left.iter().zip(right);
    let mut all: Vec<f64> = pairs
        .map(|(left, right)| milliseconds(*left) - milliseconds(*right))
        .collect();
    all.sort_unstable_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or_default()
}

fn labels() -> Value {
    let expires_at = Timestamp::now() + SignedDuration::from_hours(1);
    json!({keys::OWNER: "forge-bench", keys::EXPIRES_AT: expires_at.to_string()})
}

/// Server and direct client on their bridge; removed with this.
struct Outside<'a> {
    api: &'a Api,
    /// The network; the beginning of the names of both containers.
    name: String,
    address: std::net::IpAddr,
    proxy: Option<String>,
}

impl<'a> Outside<'a> {
    fn new(api: &'a Api) -> Result<Self, BenchError> {
        let name = format!("swe-forge-bench-outside-{}", std::process::id());
        let mut outside = Self {
            api,
            name: name.clone(),
            address: [0, 0, 0, 0].into(),
            proxy: None,
        };
        let network = json!({"Name": &name, "Labels": labels()});
        api.call("POST", "/networks/create", &network)?;
        let (port, total) = (PORT.to_string(), DOWNLOAD_BYTES.to_string());
        outside.start("server", &["python3", "-c", SERVER, &port, &total])?;
        outside.start("client", &["sleep", "600"])?;
        let server = api.inspect(&format!("{name}-server"))?;
        let address = &server["NetworkSettings"]["Networks"][&name]["IPAddress"];
        outside.address = address
            .as_str()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| BenchError::Raw("the server has no address".to_owned()))?;
        Ok(outside)
    }

    fn start(&self, part: &str, words: &[&str]) -> Result<(), BenchError> {
        let name = format!("{}-{part}", self.name);
        let aliases = if part == "server" { vec![NAME] } else { vec![] };
        let body = json!({
            "Image": IMAGE,
            "Entrypoint": words,
            "Labels": labels(),
            "HostConfig": {"NetworkMode": self.name},
            "NetworkingConfig": {"EndpointsConfig": {&self.name: {"Aliases": aliases}}},
        });
        self.api
            .call("POST", &format!("/containers/create?name={name}"), &body)?;
        let path = format!("/containers/{name}/start");
        self.api.call("POST", &path, &Value::Null).map(drop)
    }

    /// Puts the proxy that serves a sandbox on the bridge. It knew the networks it is itself on
    /// when it was greeted, and denies those; this one it may reach, by the exception alone.
    fn with_proxy(mut self, sandbox: &dyn Sandbox) -> Result<Self, BenchError> {
        let found = self.api.inspect(&container_of(sandbox))?;
        let proxy = found["Config"]["Labels"]["swe-forge.egress.proxy"].as_str();
        let proxy = proxy.ok_or_else(|| BenchError::Raw("the sandbox has no proxy".to_owned()))?;
        let path = format!("/networks/{}/connect", self.name);
        let body = json!({"Container": proxy});
        self.proxy = Some(proxy.to_owned());
        self.api.call("POST", &path, &body)?;
        Ok(self)
    }

    /// What the client says who runs beside the server.
    fn direct(&self, what: &str, rounds: usize) -> Result<Vec<Duration>, BenchError> {
        let words = client("direct", &self.address.to_string(), what, rounds);
        let path = format!("/containers/{}-client/exec", self.name);
        // With a terminal the output comes as it is, without frames around it.
        let body = json!({"Cmd": words, "Tty": true, "AttachStdout": true, "AttachStderr": true});
        let made: Value = parse(&self.api.call("POST", &path, &body)?)?;
        let path = format!("/exec/{}/start", made["Id"].as_str().unwrap_or_default());
        let said = self.api.call("POST", &path, &json!({"Tty": true}))?;
        times(&said, rounds)
    }
}

impl Drop for Outside<'_> {
    fn drop(&mut self) {
        // Whatever is not there is no loss here; all of it is labelled.
        if let Some(proxy) = &self.proxy {
            let path = format!("/networks/{}/disconnect", self.name);
            let body = json!({"Container": proxy, "Force": true});
            drop(self.api.call("POST", &path, &body));
        }
        for part in ["server", "client"] {
            drop(self.api.remove_container(&format!("{}-{part}", self.name)));
        }
        let path = format!("/networks/{}", self.name);
        drop(self.api.call("DELETE", &path, &Value::Null));
    }
}

/// The engine's own interface, one connection for each request.
struct Api {
    socket: PathBuf,
    version: String,
}

impl Api {
    fn new(engine: &EngineDescription) -> Result<Self, BenchError> {
        let path = engine
            .endpoint
            .strip_prefix("unix://")
            .ok_or_else(|| BenchError::Raw(format!("{} is not a local socket", engine.endpoint)))?;
        Ok(Self {
            socket: path.into(),
            version: engine.api_version.clone(),
        })
    }

    fn inspect(&self, container: &str) -> Result<Value, BenchError> {
        parse(&self.call(
            "GET",
            &format!("/containers/{container}/json"),
            &Value::Null,
        )?)
    }

    fn remove_container(&self, name: &str) -> Result<(), BenchError> {
        let path = format!("/containers/{name}?force=1&v=1");
        self.call("DELETE", &path, &Value::Null).map(drop)
    }

    /// The body of the answer to a request.
    fn call(&self, method: &str, path: &str, body: &Value) -> Result<Vec<u8>, BenchError> {
        let io = |source| BenchError::Io {
            what: "talk to the engine",
            source,
        };
        let body = match body {
            Value::Null => String::new(),
            body => body.to_string(),
        };
        // Of this version, so that answers are not cut into chunks.
        let head = format!(
            "{method} /v{}{path} HTTP/1.0\r\nHost: engine\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n",
            self.version,
            body.len()
        );
        let mut stream = UnixStream::connect(&self.socket).map_err(io)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(io)?;
        stream
            .write_all(format!("{head}{body}").as_bytes())
            .map_err(io)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).map_err(io)?;
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
        let body = answer.split_off(end.map_or(answer.len(), |end| end + 4));
        let head = String::from_utf8_lossy(&answer);
        let status = head.split(' ').nth(1).unwrap_or_default();
        if status.starts_with('2') {
            return Ok(body);
        }
        let said = String::from_utf8_lossy(&body).trim().to_owned();
        Err(BenchError::Raw(format!("{method} {path}: {said}")))
    }
}

fn parse(body: &[u8]) -> Result<Value, BenchError> {
    serde_json::from_slice(body).map_err(|error| BenchError::Raw(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn in_twenty_rounds_every_kind_follows_every_other_equally_often() {
        let mut followed: BTreeMap<(usize, usize), u32> = BTreeMap::new();
        let mut placed: BTreeMap<(usize, usize), u32> = BTreeMap::new();
        for round in 3..23 {
            let order = order(round);
            for pair in order.windows(2) {
                *followed.entry((pair[0], pair[1])).or_default() += 1;
            }
            for (place, kind) in order.into_iter().enumerate() {
                *placed.entry((place, kind)).or_default() += 1;
            }
        }
        assert_eq!((followed.len(), placed.len()), (20, 25));
        assert!(
            followed
                .values()
                .chain(placed.values())
                .all(|&count| count == 4)
        );
    }

    #[test]
    fn what_a_client_complains_of_is_not_taken_for_times() {
        let times = |text: &str| times(text.as_bytes(), 2);
        let good = times("1500\r\n2500\r\n").unwrap();
        assert_eq!(good, [1500, 2500].map(Duration::from_nanos));
        for text in ["", "1500\n", "1500\nthe proxy hung up\n"] {
            assert!(matches!(times(text), Err(BenchError::Raw(_))), "{text}");
        }
    }
}
