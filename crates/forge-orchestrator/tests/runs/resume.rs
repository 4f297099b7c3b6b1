//! Runs whose process ends at any moment, and goes on as if it had not.

use std::time::Duration;

use forge_api::report::TaskReport;
use forge_core::task::VerifyContainer;
use forge_core::{Attempt, Health, PhaseName, Processes, Reason, SandboxId, State, Task, Verdict};
use forge_engine::fake::{Fault, Faults, When};
use forge_engine::watch::{Observation, ObservationKind};
use forge_engine::{EngineErrorKind, Operation};
use forge_orchestrator::run::{Purpose, RunError};
use forge_orchestrator::{Agent, RunEvent};
use forge_store::{NewRequest, RequestKind};
use futures::executor::block_on;
use jiff::Timestamp;
use tokio::time::Instant;

use crate::process::{Process, Site, in_turns, output_of, program};
use crate::support::Bench;

const SETUP: &str = "write 30; sleep 2; write 5";
const SOLVE: &str = "append output/started x; write 40; sleep 2; complain 7; write 70000; sleep 2; \
                     write 3";
const VERIFY: &str = "write 20; sleep 2; write 9";
const FAILING: &str = "write 20; sleep 2; write 9; exit 1";

/// How many turns apart the moments are at which processes end, in the tests that everybody runs.
const STRIDE: usize = 23;

/// A task without setup that passes, and is cleaned up at once.
pub(crate) fn passing(bench: &Bench, id: &str) -> Task {
    let mut task = bench.task(id);
    task.setup = None;
    task.solve = Some(program("solve", SOLVE));
    task.verify = program("verify", VERIFY);
    task.cleanup.delay = Some(Duration::ZERO);
    task
}

/// One task of each kind, with why it does not complete.
fn every_kind(bench: &Bench) -> Vec<Task> {
    let mut failing = passing(bench, "failing");
    failing.verify = program("verify", FAILING);
    let mut prepared = passing(bench, "prepared");
    prepared.setup = Some(program("setup", SETUP));
    let mut same = passing(bench, "same");
    same.verify_container = VerifyContainer::Same;
    let mut leaving = passing(bench, "leaving");
    leaving.solve = Some(program("solve", &format!("save left/it text; {SOLVE}")));
    leaving.artifacts = vec!["left".to_owned()];
    vec![passing(bench, "passing"), failing, prepared, same, leaving]
}

fn command() -> Purpose {
    Purpose::Run(Agent::Command(None))
}

async fn site(tasks: impl FnOnce(&Bench) -> Vec<Task>, concurrency: u32) -> Site {
    Site::new(tasks, command(), concurrency).await
}

fn reason_of(task: &str) -> Option<Reason> {
    task.starts_with("failing").then_some(Reason::TestsFailed)
}

/// Asserts that the run is over, that every task has what it should have, and that nothing is left.
async fn check(site: &Site, moment: &str) {
    let report = site.report();
    assert_eq!(report.tasks.len(), site.tasks.len(), "{moment}");
    for task in &site.tasks {
        let mut of_task = report
            .tasks
            .iter()
            .filter(|each| each.task_id == task.id.as_str());
        let found = of_task
            .next()
            .unwrap_or_else(|| panic!("{moment}: no {}", task.id));
        assert_eq!(of_task.count(), 0, "{moment}: {} is there twice", task.id);
        assert_eq!(
            found.reason,
            reason_of(task.id.as_str()),
            "{moment}: {found:#?}"
        );
        assert!(found.earlier.is_empty(), "{moment}: {found:#?}");
        assert!(found.cleanup_ended_at.is_some(), "{moment}: {found:#?}");
        check_files(site, task, found, moment);
    }
    check_clean(site, moment).await;
}

fn check_files(site: &Site, task: &Task, found: &TaskReport, moment: &str) {
    let id = SandboxId::new(&found.id).unwrap();
    let setup = task
        .setup
        .as_ref()
        .map(|command| (PhaseName::Setup, command));
    let solve = task
        .solve
        .as_ref()
        .map(|command| (PhaseName::Solve, command));
    let commands = setup
        .into_iter()
        .chain(solve)
        .chain([(PhaseName::Verify, &task.verify)]);
    let mut phases = found.phases.iter().map(|phase| phase.name);
    for (phase, command) in commands {
        assert_eq!(phases.next(), Some(phase), "{moment}: {found:#?}");
        let log = std::fs::read(site.layout().log(&id, phase)).unwrap();
        let is_whole = log == output_of(command);
        assert!(
            is_whole,
            "{moment}: {phase} of {id} has {} bytes",
            log.len()
        );
        let name = (task.id.to_string(), phase.to_string());
        let starts = site.starts.lock().unwrap().get(&name).copied();
        let once = if phase == PhaseName::Setup {
            starts >= Some(1)
        } else {
            starts == Some(1)
        };
        assert!(
            once,
            "{moment}: {phase} of {id} was started {starts:?} times"
        );
    }
    assert_eq!(phases.next(), None, "{moment}: {found:#?}");
    let left = site.layout().artifacts(&id);
    assert_eq!(
        std::fs::read(left.join("output/started")).unwrap(),
        b"x",
        "{moment}"
    );
    assert!(
        task.artifacts
            .iter()
            .all(|name| left.join(name).join("it").exists()),
        "{moment}"
    );
}

/// Asserts that the record says that all is over, and that the engine has nothing left.
async fn check_clean(site: &Site, moment: &str) {
    let store = &site.bench.store;
    let record = site.record().await.unwrap();
    assert!(record.ended_at.is_some(), "{moment}");
    for attempt in store.attempts_of(&record.id).await.unwrap() {
        let is_over = matches!(attempt.state, State::Cleanup(_));
        assert!(
            is_over && attempt.cleanup_ended_at.is_some(),
            "{moment}: {attempt:#?}"
        );
    }
    for (id, report) in store.reports(&record.id).await.unwrap() {
        let report: serde_json::Value = serde_json::from_str(&report).unwrap();
        assert_eq!(report["settled"], true, "{moment}: {id}");
    }
    assert_eq!(store.unremoved_objects(None).await.unwrap(), [], "{moment}");
    assert!(
        site.bench.engine.census().is_empty(),
        "{moment}: {:#?}",
        site.bench.engine.census()
    );
}

/// Ends the first process when `is_time`, another that goes on after it `again` turns later, and
/// lets a third one finish. Whether the first one was ended.
async fn end_twice(
    site: &Site,
    again: u32,
    is_time: impl FnMut(&Process) -> bool,
    moment: &str,
) -> bool {
    let mut first = site.process().await;
    if !site.go_on_until(&mut first, is_time).await {
        first.ended.unwrap().unwrap();
        return false;
    }
    site.kill(first).await;
    if site.is_over().await {
        check(site, moment).await;
        return true;
    }
    let mut second = site.process().await;
    let goes_on = site.go_on(&mut second, again).await;
    if goes_on {
        site.kill(second).await;
        if !site.is_over().await {
            let third = site.process().await;
            site.finish(third).await.unwrap();
        }
    } else {
        second.ended.unwrap().unwrap();
    }
    check(site, moment).await;
    true
}

/// Ends runs of every kind of task at each `step`-th turn; gives how many.
fn end_at_turns(first: usize, step: usize) -> usize {
    let mut ended = 0;
    for turns in (first..).step_by(step) {
        let moment = format!("ended after {turns} turns");
        let goes_on = in_turns(async {
            let site = site(every_kind, 5).await;
            let mut turn = 0;
            // The second is ended at a moment that follows from the first, and is another one.
            let again = u32::try_from(turns * 31 % 127).unwrap();
            let is_time = |_: &Process| {
                turn += 1;
                turn > turns
            };
            end_twice(&site, again, is_time, &moment).await
        });
        if !goes_on {
            break;
        }
        ended += 1;
    }
    ended
}

#[test]
fn a_run_whose_process_ends_at_any_turn_ends_as_if_it_had_not() {
    let ended = end_at_turns(0, STRIDE);
    assert!(ended > 1, "{ended}");
}

#[test]
#[ignore = "minutes: `a_run_whose_process_ends_at_any_turn_ends_as_if_it_had_not`, at every turn"]
fn a_run_whose_process_ends_at_every_turn_ends_as_if_it_had_not() {
    let ended = end_at_turns(0, 1);
    assert!(ended > 100, "{ended}");
}

#[test]
fn a_run_whose_process_ends_after_an_event_ends_as_if_it_had_not() {
    for events in (0..).step_by(7) {
        let goes_on = in_turns(async {
            let site = site(every_kind, 2).await;
            let moment = format!("ended after {events} events");
            end_twice(&site, 40, |it| it.told.len() > events, &moment).await
        });
        if !goes_on {
            assert!(events > 25, "{events}");
            break;
        }
    }
}

#[test]
fn a_run_whose_process_ends_after_a_call_of_the_engine_ends_as_if_it_had_not() {
    for calls in (1..).step_by(13) {
        let goes_on = in_turns(async {
            let site = site(every_kind, 3).await;
            let engine = site.bench.engine.clone();
            let moment = format!("ended after {calls} calls");
            end_twice(&site, 60, |_| engine.call_count() >= calls, &moment).await
        });
        if !goes_on {
            assert!(calls > 50, "{calls}");
            break;
        }
    }
}

#[test]
fn a_validation_whose_process_ends_has_its_verdict_all_the_same() {
    for turns in (0..).step_by(37) {
        let goes_on = in_turns(async {
            let tasks = |bench: &Bench| {
                let mut task = passing(bench, "validated");
                // The solution leaves what verification asks for.
                task.verify = program("verify", "show output/solved");
                task.solution.as_mut().unwrap().has_script = true;
                vec![task]
            };
            let site = Site::new(tasks, Purpose::Validate { repeat: 2 }, 4).await;
            let mut process = site.process().await;
            let goes_on = site.go_on(&mut process, turns).await;
            if goes_on {
                site.kill(process).await;
                if !site.is_over().await {
                    let next = site.process().await;
                    site.finish(next).await.unwrap();
                }
            }
            let report = site.report();
            assert_eq!(report.tasks.len(), 4, "after {turns} turns");
            let [validation] = &report.validation[..] else {
                panic!("{report:#?}");
            };
            assert_eq!((validation.nop.len(), validation.oracle.len()), (2, 2));
            // The fake has no shell that could run a solution.
            assert_eq!(
                validation.verdict,
                Verdict::OracleFails,
                "after {turns} turns"
            );
            check_clean(&site, &format!("after {turns} turns")).await;
            goes_on
        });
        if !goes_on {
            assert!(turns > 50, "{turns}");
            break;
        }
    }
}

/// Lets two processes go on side by side until both have ended.
async fn finish_both(site: &Site, first: &mut Process, second: &mut Process) {
    for _ in 0..50_000 {
        if first.ended.is_some() && second.ended.is_some() {
            return;
        }
        first.step();
        second.step();
        site.turn(first.told.len() + second.told.len()).await;
    }
    panic!("they do not end");
}

#[test]
fn a_process_that_was_only_slow_is_superseded_and_destroys_nothing() {
    for turns in (12..).step_by(29) {
        let goes_on = in_turns(async {
            let site = site(every_kind, 5).await;
            let mut slow = site.process().await;
            let goes_on = site.go_on(&mut slow, turns).await;
            if !goes_on
                || site
                    .record()
                    .await
                    .is_some_and(|run| run.ended_at.is_some())
            {
                return false;
            }
            let mut next = site.process().await;
            finish_both(&site, &mut slow, &mut next).await;
            match (slow.ended.unwrap(), next.ended.unwrap()) {
                (Err(RunError::Superseded), Ok(_)) => {}
                // It was quicker than the other one came to it.
                (Ok(_), Err(RunError::Superseded) | Ok(_)) => {}
                other => panic!("after {turns} turns: {other:#?}"),
            }
            check(&site, &format!("taken over after {turns} turns")).await;
            true
        });
        if !goes_on {
            assert!(turns > 60, "{turns}");
            break;
        }
    }
}

#[test]
fn what_waits_when_a_run_drains_is_left_for_whoever_goes_on() {
    in_turns(async {
        let tasks = |bench: &Bench| {
            (0..4)
                .map(|it| passing(bench, &format!("it-{it}")))
                .collect()
        };
        let site = site(tasks, 1).await;
        let mut first = site.process().await;
        assert!(site.go_on_until(&mut first, |it| solves(it) == 1).await);
        first.cancellation.drain();
        let summary = site.finish(first).await.unwrap();
        let counts = (
            summary.unstarted,
            summary.report.tasks.len(),
            summary.cancelled,
        );
        assert_eq!(counts, (3, 1, true));
        assert!(site.record().await.unwrap().ended_at.is_none());
        let second = site.process().await;
        let summary = site.finish(second).await.unwrap();
        assert_eq!((summary.unstarted, summary.cancelled), (0, false));
        check(&site, "drained").await;
    });
}

/// How many solve phases a process has begun.
fn solves(process: &Process) -> usize {
    let phases = process.told.iter().filter(|event| {
        matches!(
            event,
            RunEvent::Phase {
                phase: PhaseName::Solve,
                ..
            }
        )
    });
    phases.count()
}

/// How many attempts a process has told the end of.
fn ends(process: &Process) -> usize {
    let ends = process.told.iter();
    ends.filter(|event| matches!(event, RunEvent::Ended { .. }))
        .count()
}

/// A task that solves for so many seconds.
fn long(bench: &Bench, id: &str, seconds: u64) -> Task {
    let mut task = passing(bench, id);
    let steps = format!("append output/started x; sleep {}", seconds * 1000);
    task.solve = Some(program("solve", &steps));
    task
}

/// The first try at a task of a run.
fn first_try(site: &Site, number: usize) -> SandboxId {
    SandboxId::for_attempt(&site.tasks[number].id, &site.options.run, Attempt(1))
}

/// Asks something of whoever drives the run; of one attempt, or of all.
fn ask(site: &Site, kind: RequestKind, attempt: Option<SandboxId>) {
    let request = NewRequest {
        run: site.options.run,
        attempt,
        kind,
        at: Timestamp::now(),
    };
    block_on(site.bench.store.request(&request)).unwrap();
}

#[test]
fn a_request_cancels_one_attempt_or_all_of_them() {
    for whole in [false, true] {
        in_turns(async {
            let tasks = |bench: &Bench| vec![long(bench, "one", 200), long(bench, "two", 200)];
            let site = site(tasks, 2).await;
            let mut process = site.process().await;
            assert!(site.go_on_until(&mut process, |it| solves(it) == 2).await);
            let attempt = (!whole).then(|| first_try(&site, 0));
            ask(&site, RequestKind::Cancel, attempt);
            let summary = site.finish(process).await.unwrap();
            let reasons: Vec<_> = summary
                .report
                .tasks
                .iter()
                .map(|task| task.reason)
                .collect();
            let other = whole.then_some(Reason::Cancelled);
            assert_eq!(reasons, [Some(Reason::Cancelled), other]);
            assert_eq!(summary.cancelled, whole);
            check_clean(&site, "cancelled").await;
        });
    }
}

#[test]
fn a_request_about_a_try_that_does_not_count_is_about_its_task_alone() {
    in_turns(async {
        let tasks = |bench: &Bench| vec![passing(bench, "again"), long(bench, "beside", 20)];
        let mut site = site(tasks, 2).await;
        site.options.retry.first = Duration::from_secs(10);
        fail_first_try(&site, 0);
        let mut process = site.process().await;
        let is_again = |event: &RunEvent| matches!(event, RunEvent::Again { .. });
        assert!(
            site.go_on_until(&mut process, |it| it.told.iter().any(is_again))
                .await
        );
        ask(&site, RequestKind::Cancel, Some(first_try(&site, 0)));
        let summary = site.finish(process).await.unwrap();
        let reasons: Vec<_> = summary
            .report
            .tasks
            .iter()
            .map(|task| task.reason)
            .collect();
        assert_eq!(reasons, [Some(Reason::Cancelled), None]);
        assert!(!summary.cancelled);
        check_clean(&site, "cancelled").await;
    });
}

/// Lets the first try at a task be lost.
fn fail_first_try(site: &Site, number: usize) {
    let first = When::Where(format!("{}: ", first_try(site, number)));
    let lost = Fault::Error(EngineErrorKind::Lost);
    let faults = Faults::none().on(Operation::Exec, first, lost);
    site.bench.engine.set_faults(faults);
}

/// How long a run takes whose first attempt stays for inspection for five minutes; `meanwhile` is
/// done when that has begun.
async fn lingering(site: &Site, meanwhile: impl FnOnce(&Site)) -> Duration {
    let began = Instant::now();
    let mut process = site.process().await;
    assert!(site.go_on_until(&mut process, |it| ends(it) == 1).await);
    let kept = site.bench.engine.census().workspaces;
    assert_eq!(kept, [first_try(site, 0)]);
    meanwhile(site);
    site.finish(process).await.unwrap();
    check(site, "after a time for inspection").await;
    began.elapsed()
}

const WINDOW: Duration = Duration::from_secs(300);

fn inspected(bench: &Bench, id: &str) -> Task {
    let mut task = passing(bench, id);
    task.cleanup.delay = Some(WINDOW);
    task
}

#[test]
fn what_ended_stays_for_inspection_until_it_is_released_or_its_time_is_over() {
    in_turns(async {
        let tasks = |bench: &Bench| vec![inspected(bench, "inspected")];
        let whole = lingering(&site(tasks, 1).await, |_| {}).await;
        assert!(whole >= WINDOW, "{whole:?}");
        let release = |site: &Site| ask(site, RequestKind::Release, Some(first_try(site, 0)));
        let released = lingering(&site(tasks, 1).await, release).await;
        assert!(released < WINDOW / 3, "{released:?}");
        let all = |site: &Site| ask(site, RequestKind::Release, None);
        let released = lingering(&site(tasks, 1).await, all).await;
        assert!(released < WINDOW / 3, "{released:?}");
    });
}

#[test]
fn what_stays_for_inspection_gives_way_to_what_waits_for_its_place() {
    in_turns(async {
        let tasks = |bench: &Bench| vec![inspected(bench, "inspected"), passing(bench, "next")];
        let took = lingering(&site(tasks, 1).await, |_| {}).await;
        assert!(took < WINDOW / 3, "{took:?}");
    });
}

#[test]
fn an_attempt_whose_report_is_recorded_is_only_cleaned_up() {
    in_turns(async {
        let site = site(|bench| vec![passing(bench, "reported")], 1).await;
        let mut process = site.process().await;
        assert!(site.go_on(&mut process, 20).await);
        let run = site.options.run;
        let recorded = loop {
            assert!(site.go_on(&mut process, 1).await);
            if let Some((_, text)) = site.bench.store.reports(&run).await.unwrap().pop() {
                break text;
            }
        };
        assert!(recorded.contains("\"settled\":false"), "{recorded}");
        site.kill(process).await;
        let before = site.bench.calls().len();
        let next = site.process().await;
        site.finish(next).await.unwrap();
        let calls = site.bench.calls().split_off(before);
        for operation in [Operation::Create, Operation::Exec, Operation::Open] {
            let operation = operation.to_string();
            assert!(
                calls.iter().all(|call| !call.starts_with(&operation)),
                "{calls:#?}"
            );
        }
        check(&site, "reported").await;
    });
}

#[test]
fn what_is_kept_stays_kept_when_another_process_goes_on() {
    in_turns(async {
        let tasks = |bench: &Bench| {
            let mut kept = passing(bench, "kept");
            kept.cleanup.on_success = false;
            vec![kept, long(bench, "long", 60)]
        };
        let site = site(tasks, 2).await;
        let mut process = site.process().await;
        assert!(site.go_on_until(&mut process, |it| ends(it) == 1).await);
        site.kill(process).await;
        let next = site.process().await;
        let summary = site.finish(next).await.unwrap();
        let [kept, long] = &summary.report.tasks[..] else {
            panic!("{:#?}", summary.report);
        };
        assert_eq!((kept.reason, kept.cleanup_ended_at), (None, None));
        assert!(
            long.reason.is_none() && long.cleanup_ended_at.is_some(),
            "{long:#?}"
        );
        let id = first_try(&site, 0);
        let census = site.bench.engine.census();
        assert_eq!(census.workspaces, std::slice::from_ref(&id));
        assert_eq!(census.sandboxes, [id.clone(), id.with_part("verify")]);
    });
}

#[test]
fn a_sandbox_that_does_not_answer_is_lost_and_its_task_tried_again() {
    in_turns(async {
        let site = site(|bench| vec![long(bench, "silent", 200)], 1).await;
        let silent = Faults::none().on(Operation::Health, When::Where("-1: ".into()), Fault::Hang);
        site.bench.engine.set_faults(silent);
        let process = site.process().await;
        let summary = site.finish(process).await.unwrap();
        let [task] = &summary.report.tasks[..] else {
            panic!("{:#?}", summary.report);
        };
        let [earlier] = &task.earlier[..] else {
            panic!("{task:#?}");
        };
        assert_eq!((task.reason, earlier.reason), (None, Some(Reason::Lost)));
        check_clean(&site, "silent").await;
    });
}

/// What a process has said of the health of sandboxes.
fn remarks(process: &Process) -> Vec<Option<&str>> {
    let remarks = process.told.iter().filter_map(|event| match event {
        RunEvent::Health { remark, .. } => Some(remark.as_deref()),
        _ => None,
    });
    remarks.collect()
}

#[test]
fn a_sandbox_that_is_stopped_is_told_of_and_left_to_itself() {
    in_turns(async {
        let site = site(|bench| vec![long(bench, "stopped", 200)], 1).await;
        let stopped = Health {
            specification: Some(true),
            processes: Processes {
                stopped: 1,
                ..Processes::default()
            },
            cpu: Some(Duration::ZERO),
            output_bytes: 0,
        };
        site.bench.engine.set_health(stopped);
        let mut process = site.process().await;
        site.go_on_until(&mut process, |_| false).await;
        let told = remarks(&process);
        let stopped = |remark: &Option<&str>| remark.is_some_and(|it| it.starts_with("stopped"));
        assert!(told.len() == 1 && told.iter().all(stopped), "{told:?}");
        process.ended.unwrap().unwrap();
        check(&site, "stopped").await;
    });
}

#[test]
fn a_sandbox_that_the_engine_pauses_is_told_of_until_it_goes_on() {
    in_turns(async {
        let site = site(|bench| vec![long(bench, "paused", 20)], 1).await;
        let mut process = site.process().await;
        assert!(site.go_on_until(&mut process, |it| solves(it) == 1).await);
        for kind in [ObservationKind::Paused, ObservationKind::Unpaused] {
            let sandbox = first_try(&site, 0);
            site.bench.engine.observe(&Observation { sandbox, kind });
            assert!(site.go_on(&mut process, 3).await);
        }
        assert_eq!(remarks(&process), [Some("paused by the engine"), None]);
        site.finish(process).await.unwrap();
        check(&site, "paused").await;
    });
}

/// A run of one place: its first task waits for its next try while the second is at `phase`, and there
/// its process ends.
async fn ended_while_another_waits(phase: PhaseName) {
    let tasks = |bench: &Bench| {
        let mut long = long(bench, "long", 20);
        if phase == PhaseName::Setup {
            long.setup = Some(program("setup", "sleep 20000"));
        }
        vec![passing(bench, "again"), long]
    };
    let mut site = site(tasks, 1).await;
    site.options.retry.first = Duration::from_secs(2);
    fail_first_try(&site, 0);
    let mut process = site.process().await;
    let is_long = |event: &RunEvent| {
        matches!(event, RunEvent::Phase { id, phase: begun } if *begun == phase
            && id.as_str().starts_with("long"))
    };
    assert!(
        site.go_on_until(&mut process, |it| it.told.iter().any(is_long))
            .await
    );
    // Long enough for the pause of the other.
    assert!(site.go_on(&mut process, 8).await);
    site.kill(process).await;
    let mut next = site.process().await;
    let engine = site.bench.engine.clone();
    let is_crowded = |_: &Process| engine.census().workspaces.len() > 1;
    let crowded = site.go_on_until(&mut next, is_crowded).await;
    assert!(!crowded, "{phase}: {:#?}", engine.calls());
    let summary = next.ended.unwrap().unwrap();
    let reasons = summary
        .report
        .tasks
        .iter()
        .map(|task| (task.reason, task.earlier.len()));
    assert_eq!(reasons.collect::<Vec<_>>(), [(None, 1), (None, 0)]);
    check_clean(&site, "one place").await;
}

#[test]
fn what_another_process_left_has_its_place_before_anything_is_started() {
    for phase in [PhaseName::Setup, PhaseName::Solve] {
        in_turns(ended_while_another_waits(phase));
    }
}

#[test]
fn a_removal_that_is_never_answered_does_not_stall_a_task() {
    in_turns(async {
        let tasks = |bench: &Bench| {
            let mut prepared = passing(bench, "prepared");
            prepared.setup = Some(program("setup", SETUP));
            vec![prepared]
        };
        let site = site(tasks, 1).await;
        // The first is that of the sandbox of setup, long before the end.
        let hang = Faults::none().on(Operation::Destroy, When::Call(1), Fault::Hang);
        site.bench.engine.set_faults(hang);
        let process = site.process().await;
        site.finish(process).await.unwrap();
        check(&site, "unanswered").await;
    });
}
