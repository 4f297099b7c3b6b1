//! Processes that drive one run, each of which can be ended between any two of its steps.
//!
//! Everything goes in turns: everybody goes on until they wait for something, then what they wrote
//! is written, then a little time passes. So a turn is the same turn whenever a test is repeated, and
//! to drop a process between two turns is what a kill is to a real one.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use forge_api::report::Report;
use forge_core::exec::OutputStream;
use forge_core::{CommandLine, ExecRequest, RunId, Task};
use forge_engine::fake::program::{PATTERN, Step};
use forge_engine::fake::{FakeEngine, FakeExec};
use forge_orchestrator::run::{CapacityOptions, Purpose, RunError};
use forge_orchestrator::{
    Cancellation, EventSink, Orchestrator, RunEvent, RunLayout, RunOptions, RunSummary,
};
use forge_plan::retry::RetryPolicy;
use forge_store::{RunRecord, StoreError};
use futures::executor::block_on;
use jiff::Timestamp;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::support::Bench;

/// Time that passes in a turn in which something happened.
const TICK: Duration = Duration::from_millis(1);
/// Time that passes in a turn at most.
const LONGEST: Duration = Duration::from_secs(2);
/// Turns without news after which time passes faster.
const PATIENCE: u32 = 12;
/// How long the thread of files is waited for where it waits for us.
const BLOCKED: Duration = Duration::from_millis(3);

/// Runs a test in turns.
pub(crate) fn in_turns<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        // So that whatever is asked of it last is done last.
        .max_blocking_threads(1)
        .build()
        .unwrap();
    runtime.block_on(work)
}

/// How often each command of each task was started, whoever waited for it.
pub(crate) type Starts = Arc<Mutex<BTreeMap<(String, String), u32>>>;

/// A run, and everything that outlives the processes that drive it.
pub(crate) struct Site {
    pub bench: Bench,
    pub starts: Starts,
    pub tasks: Vec<Arc<Task>>,
    pub options: RunOptions,
    pace: Mutex<Pace>,
}

#[derive(Default)]
struct Pace {
    /// Calls of the engine and events of processes when something happened last.
    seen: (u64, usize),
    turns_without: u32,
}

impl Site {
    /// A run that nobody has begun, whose tasks are made by `tasks`.
    pub(crate) async fn new(
        tasks: impl FnOnce(&Bench) -> Vec<Task>,
        purpose: Purpose,
        concurrency: u32,
    ) -> Self {
        let starts = Starts::default();
        let counted = Arc::clone(&starts);
        let bench = Bench::new(move |request| {
            let mut starts = counted.lock().unwrap_or_else(PoisonError::into_inner);
            *starts.entry(name_of(request)).or_default() += 1;
            FakeExec::Runs
        })
        .await;
        let options = RunOptions {
            run: RunId::from_uuid(uuid::Uuid::now_v7()),
            purpose,
            concurrency: Some(concurrency),
            capacity: CapacityOptions::default(),
            retry: RetryPolicy {
                first: Duration::from_millis(2),
                ..RetryPolicy::default()
            },
            out: bench.folder.path().join("out"),
            operator: Arc::new(bench.operator.clone()),
            keep: false,
            engine_identity: None,
            arguments: Vec::new(),
            version: "test".to_owned(),
        };
        Self {
            tasks: tasks(&bench).into_iter().map(Arc::new).collect(),
            starts,
            options,
            bench,
            pace: Mutex::default(),
        }
    }

    /// This run on another engine.
    pub(crate) fn on(mut self, engine: FakeEngine) -> Self {
        self.bench.engine = engine;
        self
    }

    pub(crate) fn layout(&self) -> RunLayout {
        RunLayout::new(&self.options.out, &self.options.run)
    }

    /// What the record says of the run; `None` where nothing has been recorded of it.
    pub(crate) async fn record(&self) -> Option<RunRecord> {
        match self.bench.store.run(&self.options.run).await {
            Ok(record) => Some(record),
            Err(StoreError::NotFound { .. }) => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// Whether the run has ended, so that nobody can go on with it.
    pub(crate) async fn is_over(&self) -> bool {
        let record = self.record().await;
        record.is_some_and(|record| record.ended_at.is_some())
    }

    /// The report as it was written.
    pub(crate) fn report(&self) -> Report {
        let text = std::fs::read_to_string(self.layout().report()).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// A process that begins the run, or goes on with it where another has begun.
    pub(crate) async fn process(&self) -> Process {
        let record = self.record().await;
        let orchestrator = Orchestrator::new(
            Arc::new(self.bench.engine.clone()),
            self.bench.store.clone(),
        );
        let (tasks, options) = (self.tasks.clone(), self.options.clone());
        let (sink, events) = EventSink::channel();
        let cancellation = Cancellation::default();
        let asked = cancellation.clone();
        let work = async move {
            match record {
                None => orchestrator.run(&tasks, options, sink, asked).await,
                Some(from) => {
                    let resumed = orchestrator.resume(&tasks, options, &from, sink, asked);
                    resumed.await
                }
            }
        };
        Process {
            cancellation,
            work: Box::pin(work),
            events,
            told: Vec::new(),
            ended: None,
        }
    }

    /// Everybody but the processes takes a turn.
    pub(crate) async fn turn(&self, told: usize) {
        tokio::task::yield_now().await;
        self.wait_for_writes();
        let time = {
            let mut pace = self.pace.lock().unwrap();
            let seen = (self.bench.engine.call_count(), told);
            match std::mem::replace(&mut pace.seen, seen) == seen {
                true => pace.turns_without += 1,
                false => pace.turns_without = 0,
            }
            let doublings = pace.turns_without.saturating_sub(PATIENCE).min(16);
            LONGEST.min(TICK * 2_u32.pow(doublings))
        };
        tokio::time::advance(time).await;
    }

    /// Blocks until what was asked of other threads is done.
    fn wait_for_writes(&self) {
        let unknown = RunId::from_uuid(uuid::Uuid::nil());
        let ended = block_on(self.bench.store.end_run(&unknown, Timestamp::UNIX_EPOCH));
        assert!(
            matches!(ended, Err(StoreError::NotFound { .. })),
            "{ended:?}"
        );
        let (done, waiting) = std::sync::mpsc::channel();
        tokio::task::spawn_blocking(move || done.send(()));
        match waiting.recv_timeout(BLOCKED) {
            // What is stored comes through us; it is done in a later turn.
            Ok(()) | Err(RecvTimeoutError::Timeout) => {}
            Err(error) => panic!("{error}"),
        }
    }

    /// Ends a process as a kill does: nothing of it goes on.
    pub(crate) async fn kill(&self, process: Process) {
        drop(process);
        let (done, waiting) = std::sync::mpsc::channel();
        // What it had spawned ends when the runtime comes to it.
        tokio::task::yield_now().await;
        tokio::task::spawn_blocking(move || done.send(()));
        while waiting.try_recv().is_err() {
            tokio::task::yield_now().await;
        }
        self.wait_for_writes();
    }

    /// Lets a process go on until it ends by itself.
    pub(crate) async fn finish(&self, mut process: Process) -> Result<RunSummary, RunError> {
        self.go_on_until(&mut process, |_| false).await;
        process.ended.unwrap()
    }

    /// Lets a process go on until something is so, or it ends by itself; says whether it goes on.
    pub(crate) async fn go_on_until(
        &self,
        process: &mut Process,
        mut is_so: impl FnMut(&Process) -> bool,
    ) -> bool {
        for _ in 0..TOO_MANY_TURNS {
            process.step();
            self.turn(process.told.len()).await;
            if process.ended.is_some() {
                return false;
            }
            if is_so(process) {
                return true;
            }
        }
        panic!(
            "the run does not end: {:#?}, {:#?}",
            self.bench.calls().iter().rev().take(20).collect::<Vec<_>>(),
            process.told.iter().rev().take(20).collect::<Vec<_>>()
        );
    }

    /// Lets a process go on for so many turns; says whether it goes on.
    pub(crate) async fn go_on(&self, process: &mut Process, turns: u32) -> bool {
        let mut left = turns;
        if left == 0 {
            return true;
        }
        self.go_on_until(process, |_| {
            left -= 1;
            left == 0
        })
        .await
    }
}

/// More than any run of a test takes.
const TOO_MANY_TURNS: u32 = 200_000;

/// A process that drives the run.
pub(crate) struct Process {
    pub cancellation: Cancellation,
    work: Pin<Box<dyn Future<Output = Result<RunSummary, RunError>> + Send>>,
    events: UnboundedReceiver<RunEvent>,
    /// Everything it has told so far.
    pub told: Vec<RunEvent>,
    /// How it ended.
    pub ended: Option<Result<RunSummary, RunError>>,
}

impl Process {
    /// Goes on until it waits for something.
    pub(crate) fn step(&mut self) {
        if self.ended.is_none() {
            // Nobody needs to wake it: it is asked in every turn.
            let mut context = Context::from_waker(Waker::noop());
            if let Poll::Ready(ended) = self.work.as_mut().poll(&mut context) {
                self.ended = Some(ended);
            }
        }
        while let Ok(event) = self.events.try_recv() {
            self.told.push(event);
        }
    }
}

/// The task of a command, and the name that it has there.
fn name_of(request: &ExecRequest) -> (String, String) {
    let task = request.env.iter().find(|(name, _)| name == "TASK_ID");
    let task = task.map(|(_, value)| value.clone()).unwrap_or_default();
    (task, request.argv.last().cloned().unwrap_or_default())
}

/// A command of this name that does these steps of the fake's language.
pub(crate) fn program(name: &str, steps: &str) -> CommandLine {
    CommandLine::Argv(["fake", steps, name].map(str::to_owned).to_vec())
}

/// Everything that a program writes.
pub(crate) fn output_of(command: &CommandLine) -> Vec<u8> {
    let steps = Step::parse(&command.argv()).unwrap();
    let pieces = steps.into_iter().filter_map(|step| match step {
        Step::Write(OutputStream::Stdout | OutputStream::Stderr, bytes) => {
            let bytes = usize::try_from(bytes).unwrap();
            Some(PATTERN.iter().copied().cycle().take(bytes))
        }
        _ => None,
    });
    pieces.flatten().collect()
}
