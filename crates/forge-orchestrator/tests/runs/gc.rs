//! Garbage collection on the fake engine.

use std::collections::BTreeMap;

use forge_core::life_cycle::StateName;
use forge_core::ownership::keys;
use forge_core::{Attempt, Reason, RunId, SandboxId, State, Transition};
use forge_engine::fake::FakeExec;
use forge_engine::{FoundObject, ObjectKind};
use forge_orchestrator::gc::{self, GcOptions};
use forge_orchestrator::holder;
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
    let now = Timestamp::now();
    let collect = async |dry_run, any_owner| {
        let options = GcOptions {
            dry_run,
            any_owner,
            now,
        };
        let report = gc::collect(&bench.engine, bench.store.owner(), options)
            .await
            .unwrap();
        report
            .leftovers
            .into_iter()
            .map(|each| each.object.name)
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
        let options = GcOptions {
            dry_run,
            any_owner: false,
            now: Timestamp::now(),
        };
        let collected = gc::collect(&bench.engine, bench.store.owner(), options);
        collected.await.unwrap();
        let calls = bench.engine.calls();
        let swept = calls.iter().filter(|call| *call == "sweep");
        assert_eq!(swept.count(), sweeps);
    }
}

#[tokio::test]
async fn the_record_of_a_run_whose_orchestrator_died_is_settled_once_nothing_is_left() {
    let bench = Bench::new(|_| FakeExec::exits(0)).await;
    let now = Timestamp::now();
    let run = RunId::from_uuid(uuid::Uuid::now_v7());
    let new_run = NewRun {
        id: run,
        kind: RunKind::Run,
        agent: "nop".to_owned(),
        created_at: now,
        out_directory: "out".into(),
        holder: format!("{}0", holder::this_process()),
        arguments: Vec::new(),
        engine: "fake".to_owned(),
        engine_version: "1".to_owned(),
        plan: String::new(),
    };
    bench.store.begin_run(&new_run).await.unwrap();
    let task = bench.task("orphan");
    let id = SandboxId::for_attempt(&task.id, &run, Attempt(1));
    let attempt = NewAttempt {
        id: id.clone(),
        run,
        task: task.id.clone(),
        attempt: Attempt(1),
        repetition: 1,
        title: task.title.clone(),
        difficulty: task.difficulty,
        image: "example:1".to_owned(),
        created_at: now,
    };
    bench.store.add_attempt(&attempt).await.unwrap();
    let creating = State::Pending.advance(Transition::Create).unwrap();
    bench
        .store
        .transition(&id, &State::Pending, &creating, now)
        .await
        .unwrap();
    bench
        .store
        .intend_object(&id, StoredKind::Container, id.as_str(), now)
        .await
        .unwrap();

    let settle = async || {
        gc::settle_dead_runs(&bench.engine, &bench.store, now)
            .await
            .unwrap()
    };
    assert_eq!(settle().await, 1);
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
    assert_eq!(settle().await, 0);
}
