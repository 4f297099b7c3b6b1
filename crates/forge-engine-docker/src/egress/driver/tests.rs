//! The driver against a proxy that the test plays, in paused time.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use forge_api::egress::{AuditContext, CONTROL_VERSION, ControlRequest, NumberedRequest};
use forge_core::connection::{ConnectionMode, ConnectionRecord, ConnectionVerdict, EgressCounters};
use forge_core::egress::EgressLimits;
use forge_core::{EgressPolicy, NetworkLevel, PhaseName};
use forge_engine::task::{OwnedTask, spawn};
use tokio::io::{
    AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream, Lines, ReadHalf, WriteHalf,
};
use tokio::sync::Notify;

mod inheritance;

/// Gives the connections that a test has prepared; fails when there is none.
#[derive(Default)]
struct Scripted {
    results: Mutex<VecDeque<Result<Control, EngineError>>>,
    attempts: Notify,
    /// What the list of denied addresses becomes when it is made again; as it was at first when
    /// there is nothing here.
    lists: Mutex<VecDeque<Result<Vec<AddressRange>, EngineError>>>,
    /// How often the proxy's process was started again.
    restarts: AtomicU64,
}

fn addresses(texts: &[&str]) -> Vec<AddressRange> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

const MACHINE: &str = "192.0.2.1";
const ENGINE: &str = "this engine";

#[async_trait]
impl Source for Scripted {
    async fn connect(&self) -> Result<Control, Unopened> {
        self.attempts.notify_one();
        let next = self.results.lock().unwrap().pop_front();
        let absent = || Err(failure(EngineErrorKind::Unavailable, "", "not there"));
        next.unwrap_or_else(absent).map_err(Unopened::Failed)
    }

    async fn denied(&self) -> Result<Vec<AddressRange>, EngineError> {
        let next = self.lists.lock().unwrap().pop_front();
        next.unwrap_or_else(|| Ok(addresses(&[MACHINE])))
    }
}

struct Bench {
    source: Arc<Scripted>,
    orders: mpsc::Sender<Order>,
    driver: OwnedTask<End>,
}

/// The proxy's end of a connection.
struct Proxy {
    lines: Lines<BufReader<ReadHalf<DuplexStream>>>,
    writer: WriteHalf<DuplexStream>,
}

impl Bench {
    fn new() -> Self {
        Self::with(false)
    }

    /// One whose proxy an earlier process may have had.
    fn inheriting() -> Self {
        Self::with(true)
    }

    fn with(inherits: bool) -> Self {
        let source = Arc::new(Scripted::default());
        let (orders, receiver) = mpsc::channel(8);
        let driving = run(source.clone(), receiver, ENGINE.to_owned(), inherits);
        let driver = spawn("driver", driving);
        Self {
            source,
            orders,
            driver,
        }
    }

    /// Prepares a connection.
    fn proxy(&self) -> Proxy {
        let (near, far) = tokio::io::duplex(1024);
        let control = Control {
            stream: Box::new(near),
            denied: addresses(&[MACHINE]),
            process: self.source.restarts.load(Ordering::Relaxed).to_string(),
        };
        self.source.results.lock().unwrap().push_back(Ok(control));
        let (reader, writer) = tokio::io::split(far);
        Proxy {
            lines: BufReader::new(reader).lines(),
            writer,
        }
    }

    /// The proxy of the next connection is another process.
    fn restart(&self) {
        self.source.restarts.fetch_add(1, Ordering::Relaxed);
    }

    /// What comes of the next attempt to make the list of denied addresses again.
    fn list(&self, list: Result<Vec<AddressRange>, EngineError>) {
        self.source.lists.lock().unwrap().push_back(list);
    }

    fn fail(&self, kind: EngineErrorKind) {
        let error = failure(kind, "", "no luck");
        self.source.results.lock().unwrap().push_back(Err(error));
    }

    async fn set(
        &self,
        sandbox: &str,
        level: NetworkLevel,
    ) -> oneshot::Receiver<Result<(), EngineError>> {
        let (reply, answer) = oneshot::channel();
        let policy = Box::new(policy(sandbox, level));
        self.send(Order::Set { policy, reply }).await;
        answer
    }

    async fn remove(&self, sandbox: &str) -> oneshot::Receiver<()> {
        self.remove_of(sandbox, false).await
    }

    async fn remove_of(&self, sandbox: &str, inherited: bool) -> oneshot::Receiver<()> {
        let (reply, answer) = oneshot::channel();
        self.send(Order::Remove {
            sandbox: sandbox.to_owned(),
            inherited,
            reply,
        })
        .await;
        answer
    }

    async fn inherit(&self, sandbox: &str) {
        let sandbox = sandbox.to_owned();
        self.send(Order::Inherit { sandbox }).await;
    }

    async fn take(&self, sandbox: &str) -> oneshot::Receiver<Result<EgressRecords, EngineError>> {
        let (reply, answer) = oneshot::channel();
        let sandbox = sandbox.to_owned();
        self.send(Order::Take { sandbox, reply }).await;
        answer
    }

    async fn send(&self, order: Order) {
        assert!(self.orders.send(order).await.is_ok());
    }

    /// A connection over which `sandbox` has a policy.
    async fn with_sandbox(&self, sandbox: &str) -> Proxy {
        let mut proxy = self.proxy();
        let answer = self.set(sandbox, NetworkLevel::PackageOnly).await;
        proxy.greet().await;
        proxy.accept().await;
        answer.await.unwrap().unwrap();
        proxy
    }
}

impl Proxy {
    async fn next(&mut self) -> NumberedRequest {
        let line = self.lines.next_line().await.unwrap().unwrap();
        serde_json::from_str(&line).unwrap()
    }

    async fn say(&mut self, event: &ControlEvent) {
        let line = serde_json::to_string(event).unwrap() + "\n";
        self.writer.write_all(line.as_bytes()).await.unwrap();
    }

    async fn answer(&mut self, id: u64, error: Option<&str>) {
        self.say(&ControlEvent::Answer {
            id,
            error: error.map(str::to_owned),
            counters: None,
            inheritance: None,
        })
        .await;
    }

    async fn greet(&mut self) {
        let hello = self.next().await;
        let ControlRequest::Hello {
            version,
            denied,
            engine,
        } = hello.request
        else {
            panic!("{hello:?}");
        };
        assert_eq!(engine, ENGINE);
        assert_eq!(version, CONTROL_VERSION);
        assert_eq!(denied.len(), 1);
        self.answer(hello.id, None).await;
    }

    /// Takes a request and agrees.
    async fn accept(&mut self) -> String {
        let request = self.next().await;
        self.answer(request.id, None).await;
        short(&request.request)
    }
}

fn short(request: &ControlRequest) -> String {
    match request {
        ControlRequest::Set(policy) => format!("set {} {}", policy.sandbox, policy.policy.level),
        ControlRequest::Remove { sandbox } => format!("remove {sandbox}"),
        ControlRequest::Stats { sandbox } => format!("stats {sandbox}"),
        ControlRequest::Hello { denied, .. } => format!("hello {}", denied.len()),
        ControlRequest::Inherit { sandbox } => format!("inherit {sandbox}"),
        ControlRequest::Taken { sandbox, .. } => format!("taken {sandbox}"),
    }
}

fn policy(sandbox: &str, level: NetworkLevel) -> SandboxPolicy {
    SandboxPolicy {
        sandbox: sandbox.to_owned(),
        directory: format!("folder-{sandbox}"),
        policy: EgressPolicy {
            level,
            ..EgressPolicy::isolated()
        },
        context: AuditContext {
            run: "r".into(),
            task: "t".into(),
            phase: PhaseName::Setup,
        },
    }
}

/// One that ended after all before it.
fn connection(sandbox: &str) -> ControlEvent {
    static NUMBERS: AtomicU64 = AtomicU64::new(1);
    numbered(sandbox, NUMBERS.fetch_add(1, Ordering::Relaxed))
}

fn numbered(sandbox: &str, number: u64) -> ControlEvent {
    let record = Box::new(ConnectionRecord {
        time: jiff::Timestamp::UNIX_EPOCH,
        sandbox: sandbox.to_owned(),
        run: "r".into(),
        task: "t".into(),
        phase: PhaseName::Setup,
        level: NetworkLevel::PackageOnly,
        verdict: ConnectionVerdict::Allowed,
        reason: None,
        mode: ConnectionMode::Connect,
        host: "example.org".into(),
        port: 443,
        sni: None,
        ip: None,
        bytes_up: 1,
        bytes_down: 2,
        ms: 3,
    });
    ControlEvent::Connection { number, record }
}

#[tokio::test(start_paused = true)]
async fn a_policy_is_answered_for_when_the_proxy_has_answered() {
    let bench = Bench::new();
    let mut proxy = bench.proxy();
    let mut answer = bench.set("one", NetworkLevel::FullWeb).await;
    proxy.greet().await;
    let request = proxy.next().await;
    assert_eq!(short(&request.request), "set one full_web");
    assert!(answer.try_recv().is_err());
    proxy.answer(request.id, None).await;
    answer.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn nothing_is_made_until_somebody_needs_it() {
    let bench = Bench::new();
    bench.remove("stranger").await.await.unwrap();
    let attempted = timeout(Duration::from_secs(60), bench.source.attempts.notified()).await;
    assert!(attempted.is_err());
    bench.send(Order::Close).await;
    bench.driver.join().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn after_a_loss_everything_that_shall_be_in_force_is_again() {
    let bench = Bench::new();
    let mut proxy = bench.with_sandbox("one").await;
    let two = bench.set("two", NetworkLevel::FullWeb).await;
    proxy.accept().await;
    two.await.unwrap().unwrap();
    let three = bench.set("three", NetworkLevel::FullWeb).await;
    proxy.accept().await;
    three.await.unwrap().unwrap();
    drop(proxy);

    // What is asked for meanwhile waits, but for what needs no proxy.
    let one = bench.set("one", NetworkLevel::LimitedWeb).await;
    bench.remove("three").await.await.unwrap();
    let records = bench.take("two").await;
    bench.fail(EngineErrorKind::Unavailable);
    let mut proxy = bench.proxy();
    proxy.greet().await;
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(proxy.accept().await);
    }
    let expected = [
        "remove three",
        "set one limited_web",
        "set two full_web",
        "stats two",
    ];
    assert_eq!(seen, expected);
    one.await.unwrap().unwrap();
    records.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_first_policy_that_comes_too_late_is_forgotten() {
    let bench = Bench::new();
    let error = bench.set("one", NetworkLevel::FullWeb).await;
    let error = error.await.unwrap().unwrap_err();
    assert_eq!(error.kind, EngineErrorKind::Unavailable);
    assert_eq!(error.operation, Operation::Network);
    assert!(error.to_string().contains("not there"), "{error}");
    let mut proxy = bench.proxy();
    let two = bench.set("two", NetworkLevel::FullWeb).await;
    proxy.greet().await;
    assert_eq!(proxy.accept().await, "remove one");
    assert_eq!(proxy.accept().await, "set two full_web");
    two.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_change_that_comes_too_late_leaves_the_sandbox_isolated() {
    let bench = Bench::new();
    drop(bench.with_sandbox("one").await);
    let start = Instant::now();
    let answer = bench.set("one", NetworkLevel::FullWeb).await;
    let error = answer.await.unwrap().unwrap_err();
    assert_eq!(error.kind, EngineErrorKind::Unavailable);
    assert_eq!(start.elapsed(), PATIENCE);
    let mut proxy = bench.proxy();
    proxy.greet().await;
    assert_eq!(proxy.accept().await, "set one isolated");
}

#[tokio::test(start_paused = true)]
async fn a_refused_change_leaves_the_sandbox_isolated() {
    let bench = Bench::new();
    let mut proxy = bench.with_sandbox("one").await;
    let answer = bench.set("one", NetworkLevel::FullWeb).await;
    let request = proxy.next().await;
    proxy.answer(request.id, Some("no such thing")).await;
    let error = answer.await.unwrap().unwrap_err();
    assert_eq!(error.kind, EngineErrorKind::Rejected);
    assert!(error.to_string().contains("no such thing"), "{error}");
    let request = proxy.next().await;
    assert_eq!(short(&request.request), "set one isolated");
    // Refused as well: said, and not tried for ever.
    proxy.answer(request.id, Some("no")).await;
    let records = bench.take("one").await;
    assert_eq!(proxy.accept().await, "stats one");
    records.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_cannot_get_better_is_said_at_once() {
    for kind in [EngineErrorKind::Exhausted, EngineErrorKind::Denied] {
        let bench = Bench::new();
        bench.fail(kind);
        let start = Instant::now();
        let answer = bench.set("one", NetworkLevel::FullWeb).await;
        let error = answer.await.unwrap().unwrap_err();
        assert_eq!((error.kind, start.elapsed()), (kind, Duration::ZERO));
    }
}

#[tokio::test(start_paused = true)]
async fn another_version_of_the_proxy_is_of_no_use() {
    let bench = Bench::new();
    let mut proxy = bench.proxy();
    let answer = bench.set("one", NetworkLevel::FullWeb).await;
    let hello = proxy.next().await;
    proxy
        .answer(hello.id, Some("version 9 is spoken here"))
        .await;
    let error = answer.await.unwrap().unwrap_err();
    assert_eq!(error.kind, EngineErrorKind::Unsupported);
    assert!(error.to_string().contains("version 9"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_proxy_that_does_not_answer_or_talks_nonsense_is_left() {
    let bench = Bench::new();
    let mut silent = bench.with_sandbox("one").await;
    let answer = bench.set("one", NetworkLevel::FullWeb).await;
    let mut nonsense = bench.proxy();
    assert_eq!(short(&silent.next().await.request), "set one full_web");
    nonsense.greet().await;
    nonsense.next().await;
    nonsense.writer.write_all(b"nonsense\n").await.unwrap();
    let mut endless = bench.proxy();
    endless.greet().await;
    endless.next().await;
    let mut last = bench.proxy();
    let flood = async {
        let piece = [b'x'; 64 * 1024];
        while endless.writer.write_all(&piece).await.is_ok() {}
    };
    let serving = async {
        last.greet().await;
        assert_eq!(last.accept().await, "set one full_web");
    };
    tokio::join!(flood, serving);
    answer.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn records_are_kept_until_somebody_takes_them() {
    let bench = Bench::new();
    let mut proxy = bench.with_sandbox("one").await;
    proxy.say(&connection("one")).await;
    proxy.say(&connection("stranger")).await;
    // Whoever asked first has gone away.
    drop(bench.take("one").await);
    assert_eq!(proxy.accept().await, "stats one");
    let records = bench.take("one").await;
    let request = proxy.next().await;
    proxy.say(&connection("one")).await;
    let counters = EgressCounters {
        allowed: 3,
        ..EgressCounters::default()
    };
    proxy
        .say(&ControlEvent::Answer {
            id: request.id,
            error: None,
            counters: Some(counters),
            inheritance: None,
        })
        .await;
    let records = records.await.unwrap().unwrap();
    assert_eq!(records.connections.len(), 2);
    assert_eq!(
        (records.counters.allowed, records.counters.bytes_down),
        (3, 4)
    );
    let error = bench.take("stranger").await.await.unwrap().unwrap_err();
    assert_eq!(error.kind, EngineErrorKind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn records_that_come_before_the_greeting_is_answered_count() {
    let bench = Bench::new();
    drop(bench.with_sandbox("one").await);
    let mut proxy = bench.proxy();
    let hello = proxy.next().await;
    proxy.say(&connection("one")).await;
    proxy.answer(hello.id, None).await;
    proxy.accept().await;
    let records = bench.take("one").await;
    proxy.accept().await;
    assert_eq!(records.await.unwrap().unwrap().connections.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_policy_longer_than_a_line_is_refused_here() {
    let bench = Bench::new();
    let mut proxy = bench.with_sandbox("one").await;
    let too_long = async |sandbox: &str| {
        let (reply, answer) = oneshot::channel();
        let mut long = policy(sandbox, NetworkLevel::LimitedWeb);
        long.policy.allow = vec![forge_core::egress::AllowedHost::https("example.org"); 40_000];
        let policy = Box::new(long);
        bench.send(Order::Set { policy, reply }).await;
        let error = answer.await.unwrap().unwrap_err();
        assert_eq!(error.kind, EngineErrorKind::Rejected);
    };
    too_long("two").await;
    let records = bench.take("one").await;
    assert_eq!(proxy.accept().await, "stats one");
    records.await.unwrap().unwrap();
    // One that had a policy has none from then on, and not from the next connection on.
    too_long("one").await;
    assert_eq!(proxy.accept().await, "set one isolated");
}

#[tokio::test(start_paused = true)]
async fn nobody_is_let_out_by_an_old_list_of_addresses() {
    let bench = Bench::new();
    let mut proxy = bench.with_sandbox("one").await;
    let isolated = bench.set("one", NetworkLevel::Isolated).await;
    assert_eq!(proxy.accept().await, "set one isolated");
    isolated.await.unwrap().unwrap();
    tokio::time::advance(FRESH).await;
    // What lets nobody out waits for nothing.
    let isolated = bench.set("one", NetworkLevel::Isolated).await;
    assert_eq!(proxy.accept().await, "set one isolated");
    isolated.await.unwrap().unwrap();
    bench.list(Ok(addresses(&[MACHINE, "192.0.2.2"])));
    let out = bench.set("one", NetworkLevel::FullWeb).await;
    assert_eq!(proxy.accept().await, "hello 2");
    assert_eq!(proxy.accept().await, "set one full_web");
    out.await.unwrap().unwrap();
    // Young, and so good enough for the next.
    let two = bench.set("two", NetworkLevel::PackageOnly).await;
    assert_eq!(proxy.accept_wish().await, "set two package_only");
    two.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn where_the_addresses_cannot_be_found_out_nobody_is_let_out() {
    let bench = Bench::new();
    let mut proxy = bench.with_sandbox("one").await;
    let unknown = || Err(failure(EngineErrorKind::Internal, "", "unknown addresses"));
    for _ in 0..2 {
        // Now and as long as it is so.
        tokio::time::advance(FRESH).await;
        bench.list(unknown());
        let out = bench.set("one", NetworkLevel::FullWeb).await;
        assert_eq!(proxy.accept_wish().await, "set one isolated");
        let error = out.await.unwrap().unwrap_err();
        assert!(error.to_string().contains("unknown addresses"), "{error}");
        // Tried again at once for the next who comes.
        bench.list(unknown());
        let new = bench.set("two", NetworkLevel::PackageOnly).await;
        assert!(new.await.unwrap().is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn while_anybody_is_out_the_list_is_made_again_and_usage_asked_for() {
    let bench = Bench::new();
    let mut proxy = bench.with_sandbox("one").await;
    let start = Instant::now();
    bench.list(Ok(addresses(&[MACHINE])));
    bench.list(Ok(addresses(&["192.0.2.9"])));
    let mut rounds = 0;
    loop {
        match proxy.accept().await.as_str() {
            "stats one" => rounds += 1,
            other => {
                assert_eq!(other, "hello 1");
                break;
            }
        }
    }
    assert_eq!(start.elapsed(), RENEWAL * 2);
    assert!(rounds > 100, "{rounds}");
    // Nothing of it for one who reaches nothing.
    let isolated = bench.set("one", NetworkLevel::Isolated).await;
    assert_eq!(proxy.accept_wish().await, "set one isolated");
    isolated.await.unwrap().unwrap();
    let silence = timeout(RENEWAL * 3, proxy.next()).await;
    assert!(silence.is_err());
}

#[tokio::test(start_paused = true)]
async fn nobody_stays_out_by_a_list_that_cannot_be_made_again_for_long() {
    let bench = Bench::new();
    let mut proxy = bench.with_sandbox("one").await;
    let start = Instant::now();
    let unknown = || Err(failure(EngineErrorKind::Internal, "", "unknown addresses"));
    for _ in 0..50 {
        bench.list(unknown());
    }
    assert_eq!(proxy.accept_wish().await, "set one isolated");
    let passed = start.elapsed();
    assert!(passed >= STALE && passed < STALE + FRESH, "{passed:?}");
    // Nothing that the phase's programs met from then on is a verdict about them.
    let records = bench.take("one").await;
    assert_eq!(proxy.accept().await, "stats one");
    assert!(records.await.unwrap().unwrap().lost);
    // Who asks anew is let out by a new list.
    bench.source.lists.lock().unwrap().clear();
    let out = bench.set("one", NetworkLevel::PackageOnly).await;
    assert_eq!(proxy.accept_wish().await, "set one package_only");
    out.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_proxy_that_does_not_take_the_addresses_is_left() {
    let bench = Bench::new();
    let mut proxy = bench.with_sandbox("one").await;
    tokio::time::advance(FRESH).await;
    bench.list(Ok(addresses(&["192.0.2.9"])));
    let out = bench.set("one", NetworkLevel::FullWeb).await;
    let mut next = bench.proxy();
    loop {
        let request = proxy.next().await;
        if matches!(request.request, ControlRequest::Hello { .. }) {
            proxy
                .answer(request.id, Some("connections do not end"))
                .await;
            break;
        }
        proxy.answer(request.id, None).await;
    }
    next.greet().await;
    assert_eq!(next.accept().await, "set one full_web");
    out.await.unwrap().unwrap();
}

impl Bench {
    /// A policy of sandbox `one` with a bound on bytes sent.
    async fn set_limited(
        &self,
        phase: PhaseName,
        upload_bytes: u64,
    ) -> oneshot::Receiver<Result<(), EngineError>> {
        let mut policy = policy("one", NetworkLevel::PackageOnly);
        policy.policy.limits = EgressLimits {
            upload_bytes,
            ..EgressLimits::of(NetworkLevel::PackageOnly)
        };
        policy.context.phase = phase;
        let (reply, answer) = oneshot::channel();
        let policy = Box::new(policy);
        self.send(Order::Set { policy, reply }).await;
        answer
    }
}

impl Proxy {
    /// Takes the next request that is no round of questions.
    async fn accept_wish(&mut self) -> String {
        loop {
            let seen = self.accept().await;
            if !seen.starts_with("stats") {
                return seen;
            }
        }
    }

    /// Takes a policy and gives its bound on bytes sent.
    async fn accept_limit(&mut self) -> u64 {
        let request = self.next().await;
        self.answer(request.id, None).await;
        match request.request {
            ControlRequest::Set(policy) => policy.policy.limits.upload_bytes,
            other => panic!("{other:?}"),
        }
    }

    /// Answers the next question for counters.
    async fn count(&mut self, bytes_up: u64) {
        let request = self.next().await;
        assert_eq!(short(&request.request), "stats one");
        let counters = EgressCounters {
            bytes_up,
            ..EgressCounters::default()
        };
        self.say(&ControlEvent::Answer {
            id: request.id,
            error: None,
            counters: Some(counters),
            inheritance: None,
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_proxy_that_was_started_again_gives_what_is_left_and_no_more() {
    let bench = Bench::new();
    let mut proxy = bench.proxy();
    let answer = bench.set_limited(PhaseName::Setup, 1000).await;
    proxy.greet().await;
    assert_eq!(proxy.accept_limit().await, 1000);
    answer.await.unwrap().unwrap();
    // Told in a round, by connections that are still open.
    proxy.count(600).await;
    // The same process counts for itself.
    drop(proxy);
    let mut proxy = bench.proxy();
    proxy.greet().await;
    assert_eq!(proxy.accept_limit().await, 1000);
    proxy.count(800).await;
    drop(proxy);
    bench.restart();
    let mut proxy = bench.proxy();
    proxy.greet().await;
    let left = proxy.accept_limit().await;
    assert!(left <= 200, "{left}");
    // The same phase again is no way around it, another phase has limits of its own.
    let answer = bench.set_limited(PhaseName::Setup, 1000).await;
    assert_eq!(proxy.accept_limit().await, left);
    answer.await.unwrap().unwrap();
    let records = bench.take("one").await;
    proxy.count(50).await;
    let records = records.await.unwrap().unwrap();
    assert_eq!((records.counters.bytes_up, records.lost), (850, true));
    let answer = bench.set_limited(PhaseName::Solve, 1000).await;
    assert_eq!(proxy.accept_limit().await, 1000);
    answer.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn closing_ends_the_driver_whatever_it_does() {
    let connected = Bench::new();
    let _proxy = connected.with_sandbox("one").await;
    connected.send(Order::Close).await;
    connected.driver.join().await.unwrap();

    let resting = Bench::new();
    let answer = resting.set("one", NetworkLevel::FullWeb).await;
    resting.source.attempts.notified().await;
    resting.send(Order::Close).await;
    resting.driver.join().await.unwrap();
    assert!(answer.await.is_err());

    let greeting = Bench::new();
    let _silent = greeting.proxy();
    let _answer = greeting.set("one", NetworkLevel::FullWeb).await;
    greeting.send(Order::Close).await;
    greeting.driver.join().await.unwrap();
}
