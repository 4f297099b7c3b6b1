//! Results that have had their time, on a real disk with a real record.

use std::path::PathBuf;

use forge_core::{Attempt, RunId, SandboxId, Task};
use forge_engine::fake::FakeExec;
use forge_orchestrator::janitor::{self, ClearOptions, ClearedResults};
use forge_orchestrator::{RunLayout, results};
use forge_plan::retention::{Ground, RetentionPolicy};
use forge_store::{NewAttempt, NewRun, RunKind};
use jiff::{SignedDuration, Timestamp};

use crate::support::Bench;

const POLICY: RetentionPolicy = RetentionPolicy {
    log_days: 30,
    image_days: 30,
    budget_bytes: None,
};

fn days_ago(days: i64) -> Timestamp {
    Timestamp::now() - SignedDuration::from_hours(24 * days)
}

/// A run with a log of 100 bytes for its one attempt, that ended so many days ago or not at all.
async fn run(bench: &Bench, task: &Task, ended: Option<i64>) -> (RunId, RunLayout) {
    let id = RunId::from_uuid(uuid::Uuid::now_v7());
    let layout = RunLayout::new(&bench.folder.path().join("out"), &id);
    let at = days_ago(ended.unwrap_or(0));
    let new_run = NewRun {
        id,
        kind: RunKind::Run,
        agent: "nop".to_owned(),
        created_at: at,
        out_directory: layout.root().to_owned(),
        holder: forge_orchestrator::holder::this_process(),
        arguments: Vec::new(),
        engine: "fake".to_owned(),
        engine_version: "1".to_owned(),
        plan: String::new(),
    };
    bench.store.begin_run(&new_run).await.unwrap();
    let attempt = SandboxId::for_attempt(&task.id, &id, Attempt(1));
    let new_attempt = NewAttempt {
        id: attempt.clone(),
        run: id,
        task: task.id.clone(),
        attempt: Attempt(1),
        repetition: 1,
        title: task.title.clone(),
        difficulty: task.difficulty,
        image: "example:1".to_owned(),
        created_at: at,
    };
    bench.store.add_attempt(&new_attempt).await.unwrap();
    let log = layout.attempt(&attempt).join("solve.log");
    std::fs::create_dir_all(log.parent().unwrap()).unwrap();
    std::fs::write(log, [b'x'; 100]).unwrap();
    if ended.is_some() {
        bench.store.end_run(&id, at).await.unwrap();
    }
    (id, layout)
}

async fn cleared(bench: &Bench, dry_run: bool, policy: RetentionPolicy) -> Vec<ClearedResults> {
    let options = ClearOptions {
        dry_run,
        policy,
        now: Timestamp::now(),
    };
    janitor::clear_results(&bench.store, options).await.unwrap()
}

fn whole(run: RunId, layout: &RunLayout, ground: Ground, forgotten: bool) -> ClearedResults {
    ClearedResults {
        run,
        attempt: None,
        folder: PathBuf::from(layout.root()),
        ground,
        bytes: 100,
        forgotten,
        folder_stays: false,
        error: None,
    }
}

#[tokio::test]
async fn results_that_are_too_old_go_with_their_record() {
    let bench = Bench::new(|_| FakeExec::exits(0)).await;
    let task = bench.task("task");
    let (old, old_layout) = run(&bench, &task, Some(31)).await;
    let (young, young_layout) = run(&bench, &task, Some(29)).await;
    let (_, live_layout) = run(&bench, &task, None).await;
    let expected = [whole(old, &old_layout, Ground::Old, true)];
    for dry_run in [true, false] {
        assert!(old_layout.root().exists());
        let cleared = cleared(&bench, dry_run, POLICY).await;
        assert_eq!(cleared, expected, "{dry_run}");
    }
    assert!(!old_layout.root().exists());
    assert!(bench.store.run(&old).await.is_err());
    assert!(young_layout.root().exists() && live_layout.root().exists());
    assert!(bench.store.run(&young).await.is_ok());
    assert_eq!(cleared(&bench, false, POLICY).await, []);
}

#[tokio::test]
async fn what_has_to_make_room_stays_in_the_record_until_it_is_old() {
    let bench = Bench::new(|_| FakeExec::exits(0)).await;
    let task = bench.task("task");
    let (older, older_layout) = run(&bench, &task, Some(2)).await;
    let (_, newer_layout) = run(&bench, &task, Some(1)).await;
    let (_, live_layout) = run(&bench, &task, None).await;
    let budget = |bytes| RetentionPolicy {
        budget_bytes: Some(bytes),
        ..POLICY
    };
    assert_eq!(cleared(&bench, false, budget(300)).await, []);
    let expected = whole(older, &older_layout, Ground::OverBudget, false);
    assert_eq!(cleared(&bench, false, budget(299)).await, [expected]);
    assert!(!older_layout.root().exists());
    assert!(newer_layout.root().exists() && live_layout.root().exists());
    let record = bench.store.run(&older).await.unwrap();
    assert!(record.files_removed_at.is_some());
    let short = RetentionPolicy {
        log_days: 1,
        ..POLICY
    };
    let forgotten = cleared(&bench, false, short).await;
    assert!(
        forgotten
            .iter()
            .any(|each| each.run == older && each.bytes == 0)
    );
    assert!(bench.store.run(&older).await.is_err());
}

#[tokio::test]
async fn a_run_whose_objects_are_left_loses_its_files_and_is_not_forgotten() {
    let bench = Bench::new(|_| FakeExec::exits(0)).await;
    let task = bench.task("task");
    let (old, layout) = run(&bench, &task, Some(31)).await;
    let attempt = SandboxId::for_attempt(&task.id, &old, Attempt(1));
    let kind = forge_store::ObjectKind::Container;
    bench
        .store
        .intend_object(&attempt, kind, attempt.as_str(), days_ago(31))
        .await
        .unwrap();
    let expected = whole(old, &layout, Ground::Old, false);
    assert_eq!(cleared(&bench, false, POLICY).await, [expected]);
    assert!(!layout.root().exists() && bench.store.run(&old).await.is_ok());
    assert_eq!(cleared(&bench, false, POLICY).await, []);
    bench
        .store
        .object_removed(kind, attempt.as_str(), Timestamp::now())
        .await
        .unwrap();
    assert_eq!(cleared(&bench, false, POLICY).await.len(), 1);
    assert!(bench.store.run(&old).await.is_err());
}

#[tokio::test]
async fn results_of_a_task_that_wants_them_gone_go_before_the_others() {
    let bench = Bench::new(|_| FakeExec::exits(0)).await;
    let mut task = bench.task("brief");
    task.cleanup.log_retention_days = 7;
    let (id, layout) = run(&bench, &task, Some(8)).await;
    let bounds = forge_core::CleanupBounds::default();
    results::write_down_retention(&layout, [&task], &bounds).unwrap();
    let cleared_now = cleared(&bench, false, POLICY).await;
    let attempt = SandboxId::for_attempt(&task.id, &id, Attempt(1));
    assert_eq!(cleared_now.len(), 1);
    assert_eq!(cleared_now[0].attempt.as_ref(), Some(&attempt));
    assert!(!layout.attempt(&attempt).exists() && layout.root().exists());
    assert_eq!(cleared(&bench, false, POLICY).await, []);
}

#[tokio::test]
async fn tasks_that_want_no_less_than_the_operator_leave_no_word_about_it() {
    let bench = Bench::new(|_| FakeExec::exits(0)).await;
    let task = bench.task("usual");
    let (_, layout) = run(&bench, &task, None).await;
    let bounds = forge_core::CleanupBounds::default();
    results::write_down_retention(&layout, [&task], &bounds).unwrap();
    assert!(!layout.retention().exists());
}

#[tokio::test]
async fn a_pass_in_the_background_is_made_once_an_hour() {
    let bench = Bench::new(|_| FakeExec::exits(0)).await;
    let task = bench.task("task");
    let state = bench.folder.path().join("state");
    std::fs::create_dir(&state).unwrap();
    let pass = async || {
        let engine = std::sync::Arc::new(bench.engine.clone());
        janitor::run_in_background(engine, bench.store.clone(), state.clone(), POLICY)
            .join()
            .await
            .unwrap();
    };
    let (_, first) = run(&bench, &task, Some(31)).await;
    pass().await;
    assert!(!first.root().exists());
    let (_, second) = run(&bench, &task, Some(31)).await;
    pass().await;
    assert!(second.root().exists());
    std::fs::write(state.join("janitor"), days_ago(1).to_string()).unwrap();
    pass().await;
    assert!(!second.root().exists());
}
