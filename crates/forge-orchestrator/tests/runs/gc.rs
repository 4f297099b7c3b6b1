//! Garbage collection on the fake engine.

use std::collections::BTreeMap;

use forge_core::life_cycle::StateName;
use forge_core::ownership::keys;
use forge_core::{Attempt, Reason, RunId, SandboxId, State, Transition};
use forge_engine::fake::FakeExec;
use forge_engine::{EngineErrorKind, FoundObject, ObjectKind};
use forge_orchestrator::gc::{self, GcOptions, GcReport, Staying};
use forge_orchestrator::{cleanup, holder, settle};
use forge_plan::reaper::{Ground, Scope, Stay};
use forge_store::{NewAttempt, NewRun, ObjectKind as StoredKind, RunKind};
use jiff::Timestamp;

use crate::support::Bench;

fn object(
    kind: ObjectKind,
    name: &str,
    owner: &str,
    holder: &str,
    expires_at: &str,
) -> FoundObject {
    let labels = [
        (keys::OWNER, owner),
        (keys::HOLDER, holder),
        (keys::EXPIRES_AT, expires_at),
    ];
    FoundObject {
        kind,
        name: name.to_owned(),
        labels: labels
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        running: false,
    }
}

/// A run in the record, driven by `holder`.
async fn begin(bench: &Bench, holder: &str) -> RunId {
    let run = RunId::from_uuid(uuid::Uuid::now_v7());
    let new_run = NewRun {
        id: run,
        kind: RunKind::Run,
        agent: "nop".to_owned(),
        created_at: Timestamp::now(),
        out_directory: "out".into(),
        holder: holder.to_owned(),
        arguments: Vec::new(),
        engine: "fake".to_owned(),
        engine_version: "1".to_owned(),
        plan: String::new(),
    };
    bench.store.begin_run(&new_run).await.unwrap();
    run
}

/// An attempt of the task `task` in `run` that has come to `transitions`.
async fn attempt(bench: &Bench, run: &RunId, task: &str, transitions: &[Transition]) -> SandboxId {
    let now = Timestamp::now();
    let task = bench.task(task);
    let id = SandboxId::for_attempt(&task.id, run, Attempt(1));
    let new_attempt = NewAttempt {
        id: id.clone(),
        run: *run,
        task: task.id.clone(),
        attempt: Attempt(1),
        repetition: 1,
        title: task.title.clone(),
        difficulty: task.difficulty,
        image: "example:1".to_owned(),
        created_at: now,
    };
    bench.store.add_attempt(&new_attempt).await.unwrap();
    let mut state = State::Pending;
    for transition in transitions {
        let next = state.advance(transition.clone()).unwrap();
        let moved = bench.store.transition(&id, &state, &next, now);
        moved.await.unwrap();
        state = next;
    }
    id
}

const COMPLETED: [Transition; 3] = [Transition::Create, Transition::Run, Transition::Complete];

/// A container of an attempt of `task` in `run`.
fn of_run(run: &RunId, task: &str, name: &str, holder: &str) -> FoundObject {
    let mut found = object(
        ObjectKind::Container,
        name,
        "bench",
        holder,
        "2099-01-01T00:00:00Z",
    );
    for (key, value) in [
        (keys::RUN, run.to_string()),
        (keys::TASK_ID, task.to_owned()),
        (keys::ATTEMPT, "1".to_owned()),
    ] {
        found.labels.insert(key.to_owned(), value);
    }
    found
}

async fn collected(bench: &Bench, dry_run: bool, scope: Scope) -> GcReport {
    let options = GcOptions {
        dry_run,
        scope,
        now: Timestamp::now(),
    };
    gc::collect(&bench.engine, &bench.store, options)
        .await
        .unwrap()
}

fn names(report: &GcReport) -> Vec<&str> {
    let leftovers = report.leftovers.iter();
    leftovers.map(|each| each.object.name.as_str()).collect()
}

const GIVE_UP: Scope = Scope {
    any_owner: false,
    interrupted: true,
    kept: false,
};

#[tokio::test]
async fn leftovers_go_containers_first_and_everything_else_stays() {
    let bench = Bench::new(|_| FakeExec::exits(0)).await;
    let alive = holder::this_process();
    let dead = format!("{alive}0");
    let (past, future) = ("2020-01-01T00:00:00Z", "2099-01-01T00:00:00Z");
    bench.engine.add_object(object(
        ObjectKind::Volume,
        "a-volume",
        "bench",
        &dead,
        future,
    ));
    bench.engine.add_object(object(
        ObjectKind::Container,
        "left",
        "bench",
        &dead,
        future,
    ));
    bench.engine.add_object(object(
        ObjectKind::Container,
        "in-use",
        "bench",
        &alive,
        past,
    ));
    bench.engine.add_object(object(
        ObjectKind::Container,
        "foreign",
        "other",
        &dead,
        future,
    ));
    bench.engine.add_object(object(
        ObjectKind::Container,
        "expired",
        "other",
        &dead,
        past,
    ));
    bench.engine.add_object(FoundObject {
        kind: ObjectKind::Container,
        name: "unlabelled".to_owned(),
        labels: BTreeMap::new(),
        running: true,
    });
    let collect = async |dry_run, any_owner| {
        let scope = Scope {
            any_owner,
            ..Scope::default()
        };
        let report = collected(&bench, dry_run, scope).await;
        names(&report)
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(collect(true, false).await, ["left", "a-volume"]);
    assert_eq!(bench.engine.objects().len(), 6);
    assert_eq!(collect(false, false).await, ["left", "a-volume"]);
    assert_eq!(
        bench.engine.objects(),
        ["expired", "foreign", "in-use", "unlabelled"]
    );
    assert_eq!(collect(false, true).await, ["expired"]);
    assert_eq!(bench.engine.objects(), ["foreign", "in-use", "unlabelled"]);
}

#[tokio::test]
async fn a_look_at_what_would_be_removed_sweeps_nothing_either() {
    let bench = Bench::new(|_| FakeExec::exits(0)).await;
    for (dry_run, sweeps) in [(true, 0), (false, 1)] {
        collected(&bench, dry_run, Scope::default()).await;
        let calls = bench.engine.calls();
        let swept = calls.iter().filter(|call| *call == "sweep");
        assert_eq!(swept.count(), sweeps);
    }
}

#[tokio::test]
async fn the_record_of_a_run_whose_orchestrator_died_is_settled_once_nothing_is_left() {
    let bench = Bench::new(|_| FakeExec::exits(0)).await;
    let now = Timestamp::now();
    let run = begin(&bench, &format!("{}0", holder::this_process())).await;
    let id = attempt(&bench, &run, "orphan", &COMPLETED[..1]).await;
    bench
        .store
        .intend_object(&id, StoredKind::Container, id.as_str(), now)
        .await
        .unwrap();

    let collect = async || {
        let report = collected(&bench, false, GIVE_UP).await;
        settle::settle(&bench.engine, &bench.store, now)
            .await
            .unwrap();
        report.given_up.len()
    };
    assert_eq!(collect().await, 1);
    let record = bench.store.attempt(&id).await.unwrap();
    assert_eq!(
        record.outcome().and_then(|outcome| outcome.reason()),
        Some(Reason::Lost)
    );
    assert_eq!(record.state.name(), StateName::Cleanup);
    assert!(
        bench
            .store
            .unremoved_objects(None)
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(collect().await, 0);
}

#[tokio::test]
async fn what_an_interrupted_run_left_stays_until_the_run_is_given_up() {
    let bench = Bench::new(|_| FakeExec::exits(0)).await;
    let dead = format!("{}0", holder::this_process());
    let run = begin(&bench, &dead).await;
    let id = attempt(&bench, &run, "half-done", &COMPLETED[..2]).await;
    let object = of_run(&run, "half-done", id.as_str(), &dead);
    bench.engine.add_object(object);
    let report = collected(&bench, false, Scope::default()).await;
    assert_eq!((names(&report), report.kept), (vec![], 1));
    let staying = Staying {
        run: Some(run),
        why: Stay::Interrupted,
        objects: 1,
    };
    assert_eq!(report.staying, [staying]);
    let report = collected(&bench, true, GIVE_UP).await;
    assert_eq!(names(&report), [id.as_str()]);
    assert_eq!(report.leftovers[0].ground, Ground::GivenUp);
    assert_eq!((report.given_up, report.staying), (vec![run], vec![]));
    assert_eq!(bench.store.run(&run).await.unwrap().ended_at, None);
    let report = collected(&bench, false, GIVE_UP).await;
    assert_eq!(names(&report), [id.as_str()]);
    assert_eq!(report.given_up, [run]);
    assert!(bench.engine.objects().is_empty());
    assert!(bench.store.run(&run).await.unwrap().ended_at.is_some());
    let record = bench.store.attempt(&id).await.unwrap();
    let reason = record.outcome().and_then(|outcome| outcome.reason());
    assert_eq!(reason, Some(Reason::Lost));
}

#[tokio::test]
async fn a_run_that_another_process_went_on_with_keeps_what_the_first_one_made() {
    let bench = Bench::new(|_| FakeExec::exits(0)).await;
    let alive = holder::this_process();
    let dead = format!("{alive}0");
    let run = begin(&bench, &dead).await;
    let taken = bench
        .store
        .take_over_run(&run, 1, &alive, Timestamp::now())
        .await;
    assert_eq!(taken.unwrap(), Some(2));
    let mut sandbox = of_run(&run, "task", "sandbox", &dead);
    sandbox
        .labels
        .insert("engine.proxy".to_owned(), "proxy".to_owned());
    bench.engine.add_object(sandbox);
    // Made by the process that is gone, and for no run in particular.
    let (past, future) = ("2020-01-01T00:00:00Z", "2099-01-01T00:00:00Z");
    for (name, expires_at) in [("proxy", past), ("unused", future)] {
        let shared = object(ObjectKind::Network, name, "bench", &dead, expires_at);
        bench.engine.add_object(shared);
    }
    let report = collected(&bench, false, GIVE_UP).await;
    assert_eq!(names(&report), ["unused"]);
    assert_eq!(report.given_up, []);
    assert_eq!(bench.engine.objects(), ["proxy", "sandbox"]);
}

#[tokio::test]
async fn a_process_that_cannot_be_seen_lives_as_long_as_it_shows_that() {
    let bench = Bench::new(|_| FakeExec::exits(0)).await;
    let run = begin(&bench, "elsewhere:boot:space:1:2").await;
    let id = attempt(&bench, &run, "far", &COMPLETED[..2]).await;
    let far = of_run(&run, "far", id.as_str(), "elsewhere:boot:space:1:2");
    bench.engine.add_object(far);
    let record = bench.store.run(&run).await.unwrap();
    let shown = Timestamp::now();
    assert!(bench.store.renew(&run, record.epoch, shown).await.unwrap());
    for (seconds, why) in [(1, Stay::InUse), (60, Stay::Interrupted)] {
        let options = GcOptions {
            dry_run: true,
            scope: Scope::default(),
            now: shown + jiff::SignedDuration::from_secs(seconds),
        };
        let report = gc::collect(&bench.engine, &bench.store, options).await;
        let staying = report.unwrap().staying;
        let whys: Vec<Stay> = staying.iter().map(|staying| staying.why).collect();
        assert_eq!(whys, [why], "{seconds}");
    }
}

#[tokio::test]
async fn what_is_kept_for_inspection_stays_where_nobody_asked_for_its_removal() {
    let bench = Bench::new(|_| FakeExec::exits(0)).await;
    let dead = format!("{}0", holder::this_process());
    let run = begin(&bench, &dead).await;
    attempt(&bench, &run, "kept", &COMPLETED).await;
    let cleaned = [&COMPLETED[..], &[Transition::CleanUp]].concat();
    attempt(&bench, &run, "cleaned", &cleaned).await;
    let now = Timestamp::now();
    bench.store.end_run(&run, now).await.unwrap();
    for task in ["kept", "cleaned"] {
        bench.engine.add_object(of_run(&run, task, task, &dead));
    }
    let report = collected(&bench, false, Scope::default()).await;
    assert_eq!(names(&report), ["cleaned"]);
    assert_eq!(report.staying[0].why, Stay::Kept);
    let asked = Scope {
        kept: true,
        ..Scope::default()
    };
    assert_eq!(names(&collected(&bench, false, asked).await), ["kept"]);
    assert!(bench.engine.objects().is_empty());
}

#[tokio::test]
async fn an_interrupted_run_that_left_nothing_is_told_of_all_the_same() {
    let bench = Bench::new(|_| FakeExec::exits(0)).await;
    let dead = format!("{}0", holder::this_process());
    let run = begin(&bench, &dead).await;
    begin(&bench, &holder::this_process()).await;
    let report = collected(&bench, false, Scope::default()).await;
    let staying = Staying {
        run: Some(run),
        why: Stay::Interrupted,
        objects: 0,
    };
    assert_eq!((report.staying, report.kept), (vec![staying], 0));
}

/// A run that ended and kept what two attempts of it made.
async fn ended_with_two_kept(bench: &Bench) -> (RunId, [SandboxId; 2]) {
    let dead = format!("{}0", holder::this_process());
    let run = begin(bench, &dead).await;
    let now = Timestamp::now();
    let mut ids = Vec::new();
    for task in ["one", "other"] {
        let id = attempt(bench, &run, task, &COMPLETED).await;
        bench
            .store
            .intend_object(&id, StoredKind::Container, id.as_str(), now)
            .await
            .unwrap();
        let object = of_run(&run, task, id.as_str(), &dead);
        bench.engine.add_object(object);
        ids.push(id);
    }
    bench.store.end_run(&run, now).await.unwrap();
    (run, ids.try_into().unwrap())
}

async fn released(bench: &Bench, id: &SandboxId) -> Vec<String> {
    let record = bench.store.attempt(id).await.unwrap();
    cleanup::release(&bench.engine, &bench.store, &record, Timestamp::now())
        .await
        .unwrap()
}

#[tokio::test]
async fn an_attempt_that_is_released_is_cleaned_up_and_others_are_not() {
    let bench = Bench::new(|_| FakeExec::exits(0)).await;
    let (run, [one, other]) = ended_with_two_kept(&bench).await;
    for _ in 0..2 {
        assert_eq!(released(&bench, &one).await, Vec::<String>::new());
    }
    assert_eq!(bench.engine.objects(), [other.as_str()]);
    let record = bench.store.attempt(&one).await.unwrap();
    assert_eq!(record.state.name(), StateName::Cleanup);
    assert!(record.cleanup_ended_at.is_some());
    let unremoved = bench.store.unremoved_objects(Some(&run)).await.unwrap();
    let attempts: Vec<&SandboxId> = unremoved.iter().map(|object| &object.attempt).collect();
    assert_eq!(attempts, [&other]);
}

#[tokio::test]
async fn an_attempt_whose_removal_fails_is_not_recorded_as_cleaned_up() {
    let bench = Bench::new(|_| FakeExec::exits(0)).await;
    let (_, [one, _]) = ended_with_two_kept(&bench).await;
    bench
        .engine
        .fail_where(one.as_str(), EngineErrorKind::Unavailable);
    let left = released(&bench, &one).await;
    assert_eq!(left.len(), 1);
    assert!(left[0].contains(one.as_str()), "{left:?}");
    let record = bench.store.attempt(&one).await.unwrap();
    assert_eq!(record.state.name(), StateName::Completed);
    assert_eq!(record.cleanup_ended_at, None);
}
