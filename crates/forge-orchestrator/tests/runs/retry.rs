//! What the infrastructure ended is tried again, and what counts is told from what does not.

use std::time::Duration;

use forge_core::Reason;
use forge_core::life_cycle::StateName;
use forge_engine::fake::FakeExec;
use forge_engine::{EngineErrorKind, Operation};
use forge_orchestrator::Agent;
use forge_orchestrator::run::Purpose;
use forge_plan::retry::RetryPolicy;
use forge_store::AttemptFilter;

use crate::support::{Bench, only};

/// At once, so many times in all.
fn tries(attempts: u32) -> RetryPolicy {
    RetryPolicy {
        attempts,
        first: Duration::ZERO,
        ..RetryPolicy::default()
    }
}

#[tokio::test]
async fn a_fault_of_the_engine_does_not_count_and_the_next_try_does() {
    let bench = Bench::new(|_| FakeExec::exits(0)).await;
    // That of the first try only.
    bench
        .engine
        .fail_where("-1-setup", EngineErrorKind::Unavailable);
    let purpose = Purpose::Run(Agent::Command(None));
    let tasks = vec![bench.task("flaky")];
    let summary = bench.run_retrying(tasks, purpose, 2, tries(3)).await;
    let [task] = &summary.report.tasks[..] else {
        panic!("{:#?}", summary.report.tasks);
    };
    assert_eq!(task.state, StateName::Completed);
    let [earlier] = &task.earlier[..] else {
        panic!("{:#?}", task.earlier);
    };
    assert_eq!(earlier.reason, Some(Reason::EngineUnavailable));
    assert!(
        task.id.ends_with("-2") && earlier.id.ends_with("-1"),
        "{task:#?}"
    );
    // Both are in the record, each with its end.
    let recorded = bench.store.attempts(&AttemptFilter::default()).await;
    let states: Vec<(String, StateName)> = recorded
        .unwrap()
        .into_iter()
        .map(|attempt| (attempt.id.to_string(), attempt.state.name()))
        .collect();
    assert!(
        states.contains(&(earlier.id.clone(), StateName::Cleanup)),
        "{states:?}"
    );
    assert!(
        states.contains(&(task.id.clone(), StateName::Cleanup)),
        "{states:?}"
    );
    assert_eq!(bench.engine.objects(), Vec::<String>::new());
}

#[tokio::test]
async fn the_last_try_is_the_result_whatever_it_is() {
    let bench = Bench::new(|_| FakeExec::exits(0)).await;
    bench
        .engine
        .fail(Operation::Create, EngineErrorKind::Unavailable);
    let purpose = Purpose::Run(Agent::Command(None));
    let tasks = vec![bench.task("unlucky")];
    let summary = bench.run_retrying(tasks, purpose, 2, tries(3)).await;
    let task = &summary.report.tasks[0];
    assert_eq!(
        (task.state, task.reason, task.earlier.len()),
        (StateName::Failed, Some(Reason::EngineUnavailable), 2)
    );
}

#[tokio::test]
async fn a_failure_of_the_task_is_a_verdict_the_first_time() {
    let bench = Bench::new(only("verify", FakeExec::exits(1))).await;
    let purpose = Purpose::Run(Agent::Command(None));
    let tasks = vec![bench.task("wrong")];
    let summary = bench.run_retrying(tasks, purpose, 2, tries(3)).await;
    let task = &summary.report.tasks[0];
    assert_eq!(
        (task.reason, task.earlier.len()),
        (Some(Reason::TestsFailed), 0)
    );
}

#[tokio::test]
async fn a_try_that_cannot_be_recorded_is_not_made_and_the_one_before_is_the_result() {
    for first in [Duration::ZERO, Duration::from_millis(10)] {
        let bench = Bench::new(|_| FakeExec::exits(0)).await;
        bench
            .engine
            .fail_where("-1-setup", EngineErrorKind::Unavailable);
        let record = rusqlite::Connection::open(bench.folder.path().join("record.sqlite"));
        let refuse = "CREATE TRIGGER refuse BEFORE INSERT ON attempts WHEN NEW.attempt = 2 \
                      BEGIN SELECT RAISE(ABORT, 'no room for it'); END";
        record.unwrap().execute_batch(refuse).unwrap();
        let retry = RetryPolicy { first, ..tries(3) };
        let purpose = Purpose::Run(Agent::Command(None));
        let tasks = vec![bench.task("unrecorded"), bench.task("beside")];
        let summary = bench.run_retrying(tasks, purpose, 1, retry).await;
        for task in &summary.report.tasks {
            assert_eq!(task.reason, Some(Reason::EngineUnavailable));
            assert!(task.earlier.is_empty(), "{task:#?}");
            let noted = task
                .notes
                .iter()
                .any(|note| note.contains("not tried again"));
            assert!(noted, "{:?}", task.notes);
        }
        assert_eq!(bench.engine.objects(), Vec::<String>::new());
    }
}
