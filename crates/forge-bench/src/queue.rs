//! Very many tasks that wait: what a decision about them costs, what they take of memory, and how long
//! a whole run of them takes on an engine that costs nothing but a little time.
//!
//! `SWE_FORGE_QUEUE_TASKS=N` runs so many.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use forge_core::task::{NetworkPolicy, VerifyContainer};
use forge_core::{
    CleanupBounds, CleanupPolicy, CommandLine, Difficulty, EgressPolicy, Failure, ImageChoice,
    Limits, NetworkLevel, OwnerId, PhaseName, Reason, RunId, Task, TaskId,
};
use forge_engine::fake::{FakeEngine, FakeExec, Faults, Latency};
use forge_orchestrator::run::{CapacityOptions, Purpose, RunError};
use forge_orchestrator::{
    Agent, Cancellation, EventSink, Operator, Orchestrator, RunEvent, RunOptions, RunSummary,
    SecretValue,
};
use forge_plan::breaker::BreakerPolicy;
use forge_plan::capacity::Amount;
use forge_plan::dispatch::{Action, Dispatcher, Event, Policy};
use forge_plan::hold::HoldPolicy;
use forge_plan::queue::{Job, RunNumber, Submission};
use forge_plan::retry::RetryPolicy;
use forge_store::Store;
use tokio::sync::mpsc::UnboundedReceiver;
use uuid::Uuid;

use crate::report::Report;
use crate::stage::BenchError;

/// Tasks, where nobody asks for another number.
const TASKS: u64 = 100_000;
/// How long a call of the engine takes at most.
const LATENCY: Duration = Duration::from_millis(5);
const MEBIBYTE: u64 = 1 << 20;

pub(crate) async fn run(report: &mut Report) -> Result<(), BenchError> {
    let tasks = match std::env::var("SWE_FORGE_QUEUE_TASKS") {
        Ok(text) => text
            .parse()
            .map_err(|_| BenchError::Raw(format!("SWE_FORGE_QUEUE_TASKS is no number: {text}")))?,
        Err(_) => TASKS,
    };
    decisions(tasks, report);
    let memory = whole(tasks, Ending::ByItself, report).await?;
    for line in memory {
        report.add(line);
    }
    whole(tasks, Ending::Cancelled, report).await?;
    Ok(())
}

/// What a job of the benchmark takes: many run at once on any host.
const AMOUNT: Amount = Amount {
    cpu_millis: 10,
    memory_bytes: MEBIBYTE,
    disk_bytes: MEBIBYTE,
    processes: 10,
};

/// Times every decision about so many jobs, from the first to the last, without anything else.
fn decisions(jobs: u64, report: &mut Report) {
    let host = Amount {
        cpu_millis: 8000,
        memory_bytes: 16 * 1024 * MEBIBYTE,
        disk_bytes: u64::MAX,
        processes: u64::MAX,
    };
    let mut dispatcher = Dispatcher::new(Policy {
        concurrency: None,
        total: host,
        cores: 2,
        retry: RetryPolicy::default(),
        breaker: BreakerPolicy::default(),
        hold: HoldPolicy::for_host(host.memory_bytes, u64::MAX),
    });
    let (mut now, mut times) = (Duration::ZERO, Vec::new());
    let mut running = VecDeque::new();
    let mut decide = |event, now, running: &mut VecDeque<Job>| {
        let began = Instant::now();
        let actions = dispatcher.handle(event, now);
        times.push(began.elapsed());
        running.extend(actions.into_iter().filter_map(|action| match action {
            Action::Start { job, .. } => Some(job),
            _ => None,
        }));
    };
    for number in 0..jobs {
        let submission = Submission {
            run: RunNumber(0),
            priority: 0,
            amount: AMOUNT,
            ready_at: Duration::ZERO,
        };
        let (job, earlier) = (Job(number), 0);
        let event = Event::Submitted {
            job,
            submission,
            earlier,
        };
        decide(event, now, &mut running);
    }
    // Every tenth is tried again, when everything else has ended.
    let mut again = jobs.div_ceil(10);
    while let Some(job) = running.pop_front() {
        now += Duration::from_millis(1);
        let took = LATENCY;
        decide(Event::Up { job, took }, now, &mut running);
        let is_lost = again > 0 && job.0.is_multiple_of(10);
        again -= u64::from(is_lost);
        let reason = is_lost.then_some(Reason::Lost);
        decide(Event::Ended { job, reason }, now, &mut running);
        if running.is_empty() {
            now += RetryPolicy::default().most;
            decide(Event::Tick, now, &mut running);
        }
    }
    add_decisions(jobs, times, report);
}

fn add_decisions(jobs: u64, mut times: Vec<Duration>, report: &mut Report) {
    times.sort_unstable();
    let total: Duration = times.iter().sum();
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    let at = |thousandth: usize| micros(times[(times.len() - 1) * thousandth / 1000]);
    report.add(format!(
        "{:<44} mean {:.2} µs  p50 {:.2}  p99 {:.2}  p99.9 {:.2}  n={}",
        format!("a decision about {jobs} jobs"),
        micros(total) / times.len() as f64,
        at(500),
        at(990),
        at(999),
        times.len(),
    ));
}

/// How the run of a benchmark ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    ByItself,
    /// Cancelled as soon as something runs.
    Cancelled,
}

/// A whole run; gives what is to be said about its memory.
async fn whole(count: u64, ending: Ending, report: &mut Report) -> Result<Vec<String>, BenchError> {
    let folder = tempfile::tempdir().map_err(|source| BenchError::Io {
        what: "make a folder",
        source,
    })?;
    let store = Store::open(folder.path().join("record.sqlite"), OwnerId::new("bench")?).await?;
    let latency = Latency::between(Duration::ZERO, LATENCY);
    let engine = FakeEngine::with(1, Faults::none().latency_everywhere(latency))
        .scripted(|_| FakeExec::exits(0))
        .forgetful();
    let before = resident();
    let began = Instant::now();
    let tasks = tasks(count, folder.path())?;
    let (sink, events) = EventSink::channel();
    let cancellation = Cancellation::default();
    let orchestrator = Orchestrator::new(Arc::new(engine), store);
    let work = orchestrator.run(&tasks, options(folder.path()), sink, cancellation.clone());
    let watching = watch(
        events,
        (ending == Ending::Cancelled).then_some(cancellation),
    );
    let (ended, watched) = tokio::join!(work, watching);
    let summary = ended.map_err(run_failed)?;
    let whole = began.elapsed();
    check(&summary, count, ending)?;
    let queued = watched.began.map_or(whole, |at| at.duration_since(began));
    let name = match ending {
        Ending::ByItself => "run on the fake engine",
        Ending::Cancelled => "cancelled",
    };
    report.add(format!(
        "{count} tasks {name:<33} {:.1} s, {:.0} µs each; queued within {:.1} s",
        whole.as_secs_f64(),
        whole.as_secs_f64() * 1e6 / count as f64,
        queued.as_secs_f64(),
    ));
    let each = |bytes: u64| bytes.saturating_sub(before) / count.max(1);
    Ok(vec![
        format!(
            "memory of a task that waits                  {} bytes",
            each(watched.queued)
        ),
        format!(
            "memory of a task that ended, with the fake's {} bytes",
            each(watched.most)
        ),
    ])
}

fn run_failed(error: RunError) -> BenchError {
    BenchError::Raw(forge_orchestrator::failure::chain(&error))
}

/// Figures of a run that did not do its work are worth nothing.
fn check(summary: &RunSummary, count: u64, ending: Ending) -> Result<(), BenchError> {
    let reports = &summary.report.tasks;
    let right = |reason: Option<Reason>| match ending {
        Ending::ByItself => reason.is_none(),
        Ending::Cancelled => reason.is_none_or(|reason| reason == Reason::Cancelled),
    };
    let wrong = reports.iter().find(|task| !right(task.reason));
    match wrong {
        None if reports.len() as u64 == count => Ok(()),
        None => Err(BenchError::Raw(format!("{} reports", reports.len()))),
        Some(task) => Err(BenchError::Raw(format!("{}: {}", task.id, task.message))),
    }
}

/// What was seen of a run from outside.
#[derive(Default)]
struct Watched {
    /// When its first attempt began: everything is queued.
    began: Option<Instant>,
    /// Memory in that moment, in bytes.
    queued: u64,
    /// The most there was at any time.
    most: u64,
}

async fn watch(mut events: UnboundedReceiver<RunEvent>, cancel: Option<Cancellation>) -> Watched {
    let mut watched = Watched::default();
    let mut ended = 0_u32;
    while let Some(event) = events.recv().await {
        match event {
            RunEvent::Started { .. } if watched.began.is_none() => {
                watched.began = Some(Instant::now());
                watched.queued = resident();
                if let Some(cancellation) = &cancel {
                    cancellation.cancel();
                }
            }
            RunEvent::Ended { .. } => ended += 1,
            _ => continue,
        }
        if ended.is_multiple_of(1000) {
            watched.most = watched.most.max(resident());
        }
    }
    watched
}

fn tasks(count: u64, folder: &Path) -> Result<Vec<Arc<Task>>, BenchError> {
    (0..count)
        .map(|number| Ok(Arc::new(task(number, folder)?)))
        .collect()
}

fn task(number: u64, folder: &Path) -> Result<Task, BenchError> {
    let shell = |text: &str| CommandLine::Shell(text.to_owned());
    Ok(Task {
        id: TaskId::new(format!("task-{number}"))?,
        directory: folder.to_owned(),
        title: "A small task".to_owned(),
        instruction: "Mend it.".to_owned(),
        difficulty: Difficulty::Easy,
        image: ImageChoice::Reference("example:1".to_owned()),
        setup: None,
        solve: Some(shell("solve")),
        verify: shell("verify"),
        verify_container: VerifyContainer::Fresh,
        tags: Vec::new(),
        limits: Limits {
            cpu_millis: AMOUNT.cpu_millis,
            memory_bytes: AMOUNT.memory_bytes,
            disk_bytes: AMOUNT.disk_bytes,
            processes: AMOUNT.processes,
            ..Difficulty::Easy.limits()
        },
        network: NetworkPolicy::default(),
        env: BTreeMap::new(),
        secrets: Vec::new(),
        user: None,
        artifacts: Vec::new(),
        tests_visible: false,
        cleanup: CleanupPolicy {
            delay: Some(Duration::ZERO),
            ..CleanupPolicy::default()
        },
        specification: Vec::new(),
        src: None,
        tests: None,
        solution: None,
    })
}

fn options(folder: &Path) -> RunOptions {
    RunOptions {
        run: RunId::from_uuid(Uuid::now_v7()),
        purpose: Purpose::Run(Agent::Command(None)),
        concurrency: None,
        capacity: CapacityOptions::default(),
        retry: RetryPolicy::default(),
        out: folder.join("out"),
        operator: Arc::new(Permissive),
        keep: false,
        engine_identity: None,
        arguments: Vec::new(),
        version: "bench".to_owned(),
    }
}

/// An operator who has nothing to say.
#[derive(Debug)]
struct Permissive;

impl Operator for Permissive {
    fn permit(&self, _task: &Task) -> Result<(), Failure> {
        Ok(())
    }

    fn egress(&self, task: &Task, phase: PhaseName) -> Result<EgressPolicy, Failure> {
        Ok(EgressPolicy {
            level: task.network.level(phase),
            ..EgressPolicy::isolated()
        })
    }

    fn environment(&self, _level: NetworkLevel) -> Vec<(String, String)> {
        Vec::new()
    }

    fn secret(&self, name: &str) -> Result<SecretValue, Failure> {
        let message = format!("there is no secret '{name}'");
        Err(Failure::new(Reason::SecretUnavailable, message))
    }

    fn runtime(&self) -> Option<String> {
        None
    }

    fn cleanup_bounds(&self) -> CleanupBounds {
        CleanupBounds::default()
    }

    fn own_cores(&self) -> bool {
        false
    }
}

/// Memory of this process in bytes; 0 where the kernel does not say.
fn resident() -> u64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split_whitespace().nth(1);
    pages.and_then(|pages| pages.parse().ok()).unwrap_or(0) * 4096
}
