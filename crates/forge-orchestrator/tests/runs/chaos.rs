//! Runs of which everything fails: calls of the engine, sandboxes, and the processes that drive them,
//! drawn from a seed. Whatever happens, no task is lost, none counts twice, and nothing is left.
//!
//! `SWE_FORGE_CHAOS_SEED=N` repeats the run of one seed, `SWE_FORGE_CHAOS_CYCLES=N` makes so many.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use forge_core::task::VerifyContainer;
use forge_core::{Reason, RunId, SandboxId, State, Task};
use forge_engine::fake::{FakeEngine, Fault, Faults, Latency, When};
use forge_engine::{EngineErrorKind, Operation};
use forge_orchestrator::gc::{self, GcOptions};
use forge_orchestrator::run::{Purpose, RunError};
use forge_orchestrator::{Agent, settle};
use forge_plan::reaper::Scope;
use forge_plan::retry::RetryPolicy;
use forge_store::AttemptFilter;
use jiff::Timestamp;

use crate::process::{Process, Site, in_turns, program};
use crate::support::Bench;

/// Runs that are made where nobody asks for a number.
const CYCLES: u64 = 12;
/// More than any run takes.
const TOO_MANY_TURNS: u32 = 30_000;
/// So often at most is a run gone on with by another process.
const TAKE_OVERS: u32 = 12;

/// Numbers that look random (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From `low` to `high`, both included.
    fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    /// Once in `times`.
    fn once_in(&mut self, times: u64) -> bool {
        self.next().is_multiple_of(times)
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        let last = all.len() as u64 - 1;
        all[usize::try_from(self.between(0, last)).unwrap()]
    }
}

/// How each operation may fail without that being the task's doing.
fn ways(operation: Operation) -> Vec<Fault> {
    use EngineErrorKind::{Conflict, Corrupt, Deadline, Exhausted, Internal, Lost, Unavailable};
    let kinds: &[EngineErrorKind] = match operation {
        Operation::PrepareImage | Operation::Describe => &[Unavailable, Deadline, Internal],
        Operation::CreateWorkspace => &[Unavailable, Conflict, Deadline, Exhausted, Internal],
        Operation::Create => &[Unavailable, Conflict, Corrupt, Exhausted, Internal, Lost],
        Operation::Open => &[Unavailable, Corrupt, Lost],
        Operation::Exec | Operation::Kill => &[Unavailable, Lost, Internal],
        Operation::Snapshot => &[Unavailable, Deadline, Internal],
        Operation::Destroy => &[Unavailable, Conflict, Deadline, Internal],
        _ => &[Unavailable, Deadline, Lost],
    };
    let more: &[Fault] = match operation {
        Operation::PrepareImage | Operation::Snapshot => &[Fault::LostReply],
        Operation::CreateWorkspace => &[Fault::LostReply, Fault::OutOfSpace],
        Operation::Create => &[Fault::LostReply, Fault::OutOfSpace, Fault::Disappear],
        Operation::Exec => &[
            Fault::LostReply,
            Fault::OutOfSpace,
            Fault::Disappear,
            Fault::Slow {
                bytes_per_second: 1_000_000,
            },
        ],
        Operation::Open | Operation::Put | Operation::Kill | Operation::Get => {
            &[Fault::LostReply, Fault::Disappear]
        }
        // For these somebody waits no longer than they shall.
        Operation::Destroy => &[Fault::LostReply, Fault::Hang],
        Operation::Health => &[Fault::Hang],
        _ => &[],
    };
    let errors = kinds.iter().map(|kind| Fault::Error(*kind));
    errors.chain(more.iter().copied()).collect()
}

const FAILING: [Operation; 16] = [
    Operation::Describe,
    Operation::PrepareImage,
    Operation::CreateWorkspace,
    Operation::Create,
    Operation::Open,
    Operation::List,
    Operation::Destroy,
    Operation::Exec,
    Operation::Put,
    Operation::Get,
    Operation::Kill,
    Operation::Usage,
    Operation::Health,
    Operation::Snapshot,
    Operation::Close,
    Operation::Watch,
];

fn faults(random: &mut Random) -> Faults {
    let mut faults = Faults::none();
    for operation in FAILING {
        for _ in 0..random.between(0, 3) {
            let chance = When::Chance(0.001 * random.between(1, 25) as f64);
            let fault = random.one_of(&ways(operation));
            faults = faults.on(operation, chance, fault);
        }
    }
    let milliseconds = Duration::from_millis;
    let longest = milliseconds(random.between(0, 5));
    let mut latency = Latency::between(Duration::ZERO, longest);
    if random.once_in(3) {
        latency = latency.or_else(0.005, milliseconds(random.between(1_000, 100_000)));
    }
    faults.latency_everywhere(latency)
}

fn tasks(bench: &Bench, random: &mut Random) -> Vec<Task> {
    let count = random.between(2, 12);
    (0..count)
        .map(|number| a_task(bench, number, random))
        .collect()
}

fn a_task(bench: &Bench, number: u64, random: &mut Random) -> Task {
    let is_failing = random.once_in(3);
    let name = if is_failing { "failing" } else { "passing" };
    let mut task = bench.task(&format!("{name}-{number}"));
    let mut steps = |last: &str| {
        let pause = random.between(0, 40);
        let bytes = random.between(0, 3000);
        format!("write {bytes}; sleep {pause}; write 11; {last}")
    };
    task.setup = Some(program("setup", &steps("")));
    let solve = format!("append output/started x; {}", steps(""));
    task.solve = Some(program("solve", &solve));
    task.verify = program("verify", &steps(if is_failing { "exit 1" } else { "" }));
    if random.once_in(2) {
        task.setup = None;
    }
    if random.once_in(3) {
        task.verify_container = VerifyContainer::Same;
    }
    task.cleanup.delay = match random.between(0, 3) {
        0 => None,
        1 => Some(Duration::from_millis(random.between(1, 5000))),
        _ => Some(Duration::ZERO),
    };
    task
}

async fn site(seed: u64, random: &mut Random) -> Site {
    let purpose = Purpose::Run(Agent::Command(None));
    let concurrency = u32::try_from(random.between(1, 6)).unwrap();
    let mut site = Site::new(|bench| tasks(bench, random), purpose, concurrency).await;
    // What fails follows from the names of objects, and those from this.
    site.options.run = RunId::from_uuid(uuid::Uuid::from_u128(
        u128::from(seed) << 64 | u128::from(random.next()),
    ));
    site.options.retry = RetryPolicy {
        attempts: 200,
        first: Duration::from_millis(1),
        factor: 2,
        most: Duration::from_millis(20),
        ..RetryPolicy::default()
    };
    let engine = FakeEngine::with(seed, faults(random));
    site.on(engine)
}

/// One run from its beginning to its end, with whatever happens in between.
async fn cycle(seed: u64) {
    let mut random = Random(seed);
    let site = site(seed, &mut random).await;
    let mut current = site.process().await;
    // One that was taken for dead, and goes on.
    let mut slow: Option<Process> = None;
    let mut take_overs = 0;
    let mut turn = 0;
    loop {
        turn += 1;
        if turn > TOO_MANY_TURNS {
            let calls = site.bench.calls();
            let last = &calls[calls.len().saturating_sub(20)..];
            let told = current.told.last();
            panic!(
                "it does not end: {last:#?} {:#?} {told:#?}",
                under_way(&site).await
            );
        }
        current.step();
        let mut told = current.told.len();
        if let Some(slow) = &mut slow {
            slow.step();
            told += slow.told.len();
        }
        site.turn(told).await;
        watch(&site, turn).await;
        disturb(&site, &mut random);
        let mut next = take_overs < TAKE_OVERS && random.once_in(150);
        match &current.ended {
            Some(Ok(summary)) => {
                assert_eq!(summary.unstarted, 0);
                break;
            }
            Some(Err(RunError::Engine(_))) => next = true,
            Some(Err(RunError::Superseded)) if site.is_over().await => break,
            // Both wanted the run, and the other one was first.
            Some(Err(RunError::Superseded)) if slow.is_some() => {
                current = slow.take().unwrap();
                continue;
            }
            Some(Err(error)) => panic!("{error:?}"),
            None => {}
        }
        if next && !site.is_over().await {
            take_overs += 1;
            if let Some(slow) = slow.take() {
                site.kill(slow).await;
            }
            let is_begun = current.ended.is_none() && site.record().await.is_some();
            if is_begun && random.once_in(3) {
                slow = Some(std::mem::replace(&mut current, site.process().await));
            } else {
                site.kill(current).await;
                current = site.process().await;
            }
        }
    }
    if let Some(slow) = slow {
        site.kill(slow).await;
    }
    judge(&site);
    clean(&site).await;
}

/// Now and then a sandbox is gone, or its PID 1 is.
fn disturb(site: &Site, random: &mut Random) {
    if !random.once_in(200) {
        return;
    }
    let engine = &site.bench.engine;
    let sandboxes = engine.census().sandboxes;
    if sandboxes.is_empty() {
        return;
    }
    let last = sandboxes.len() as u64 - 1;
    let one = &sandboxes[usize::try_from(random.between(0, last)).unwrap()];
    if random.once_in(2) {
        engine.vanish(one);
    } else {
        engine.end(one, 137);
    }
}

/// What must hold at every moment, as the engine sees it.
async fn watch(site: &Site, turn: u32) {
    let engine = &site.bench.engine;
    let workspaces = engine.census().workspaces;
    for id in &workspaces {
        if let Some(started) = engine.file(id, "output/started") {
            assert_eq!(
                &started[..],
                b"x",
                "solve of {id} was started more than once"
            );
        }
    }
    let most = site.options.concurrency.unwrap() as usize;
    if turn.is_multiple_of(16) && workspaces.len() > most {
        let under_way = under_way(site).await;
        let live = workspaces.iter().filter(|id| under_way.contains(id));
        let live: Vec<_> = live.collect();
        assert!(live.len() <= most, "more than {most}: {live:?}");
    }
}

/// Attempts that have begun and have not ended.
async fn under_way(site: &Site) -> Vec<SandboxId> {
    let attempts = site
        .bench
        .store
        .attempts_of(&site.options.run)
        .await
        .unwrap();
    let live = attempts.into_iter();
    let live = live.filter(|it| matches!(it.state, State::Creating | State::Running));
    live.map(|it| it.id).collect()
}

/// Every task has one report, which says what the task deserves.
fn judge(site: &Site) {
    let report = site.report();
    let mut reports = BTreeMap::new();
    for report in &report.tasks {
        let before = reports.insert(report.task_id.as_str(), report);
        assert!(before.is_none(), "{} is there twice", report.task_id);
    }
    assert_eq!(reports.len(), site.tasks.len());
    for task in &site.tasks {
        let name = task.id.as_str();
        let deserved = name.starts_with("failing").then_some(Reason::TestsFailed);
        let report = reports[name];
        assert_eq!(report.reason, deserved, "{report:#?}");
    }
}

/// Nothing is under way, and what could not be removed is when nothing fails any more.
async fn clean(site: &Site) {
    let (engine, store) = (&site.bench.engine, &site.bench.store);
    let live = AttemptFilter {
        live_only: true,
        ..AttemptFilter::default()
    };
    assert_eq!(store.attempts(&live).await.unwrap(), []);
    assert!(site.record().await.unwrap().ended_at.is_some());
    engine.set_faults(Faults::none());
    // The process that drove the run is that of this test, which lives on: until all that is left
    // has expired.
    let now = Timestamp::now() + Duration::from_secs(2 * 24 * 3600);
    let options = GcOptions {
        dry_run: false,
        scope: Scope::default(),
        now,
    };
    let report = gc::collect(engine, store, options).await.unwrap();
    assert_eq!((report.failures(), report.kept), (0, 0), "{report:#?}");
    settle::settle(engine, store, now).await.unwrap();
    assert!(engine.census().is_empty(), "{:#?}", engine.census());
    assert_eq!(store.unremoved_objects(None).await.unwrap(), []);
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is no number: {text}")),
    )
}

#[test]
fn nothing_is_lost_doubled_or_left_whatever_fails() {
    let seeds = match number("SWE_FORGE_CHAOS_SEED") {
        Some(seed) => seed..seed + number("SWE_FORGE_CHAOS_CYCLES").unwrap_or(1),
        None => 0..number("SWE_FORGE_CHAOS_CYCLES").unwrap_or(CYCLES),
    };
    let mut failed = Vec::new();
    for seed in seeds {
        if catch_unwind(AssertUnwindSafe(|| in_turns(cycle(seed)))).is_err() {
            eprintln!("SWE_FORGE_CHAOS_SEED={seed} repeats this");
            failed.push(seed);
        }
    }
    assert!(failed.is_empty(), "seeds that failed: {failed:?}");
}
