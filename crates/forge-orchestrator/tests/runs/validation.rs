//! Validation: verdicts from the outcomes of both agents.

use std::sync::atomic::{AtomicU32, Ordering};

use forge_core::{SandboxId, Verdict};
use forge_engine::fake::FakeExec;
use forge_orchestrator::Agent;
use forge_orchestrator::run::Purpose;

use crate::support::Bench;

/// Whether this is verification after a solution was applied is not visible to a command, so the
/// script counts: with one attempt at a time, nop and oracle verify in turn.
async fn verdict(passes: impl Fn(u32) -> bool + Send + Sync + 'static) -> (Verdict, String) {
    let verifications = AtomicU32::new(0);
    let bench = Bench::new(move |request| {
        if request.argv.last().is_some_and(|last| last == "verify") {
            let number = verifications.fetch_add(1, Ordering::SeqCst);
            FakeExec::exits(i32::from(!passes(number)))
        } else {
            FakeExec::exits(0)
        }
    })
    .await;
    let summary = bench
        .run_with(vec![bench.task("t")], Purpose::Validate { repeat: 3 }, 1)
        .await;
    assert!(bench.engine.objects().is_empty());
    let found = &summary.report.validation[0];
    assert_eq!((found.nop.len(), found.oracle.len()), (3, 3));
    (found.verdict, found.reason.clone())
}

#[tokio::test]
async fn the_record_tells_the_agent_of_each_attempt_by_its_repetition() {
    let bench = Bench::new(|_| FakeExec::exits(0)).await;
    let summary = bench
        .run_with(vec![bench.task("t")], Purpose::Validate { repeat: 2 }, 1)
        .await;
    let mut agents = Vec::new();
    for task in &summary.report.tasks {
        let id = SandboxId::new(&task.id).unwrap();
        let record = bench.store.attempt(&id).await.unwrap();
        assert_eq!(Agent::in_turn(record.repetition).name(), task.agent);
        agents.push(task.agent.as_str());
    }
    agents.sort_unstable();
    assert_eq!(agents, ["nop", "nop", "oracle", "oracle"]);
}

#[tokio::test]
async fn each_pattern_of_results_has_its_verdict() {
    let is_oracle = |number: u32| number % 2 == 1;
    assert_eq!(verdict(is_oracle).await.0, Verdict::Valid);
    assert_eq!(verdict(|_| true).await.0, Verdict::NopPasses);
    assert_eq!(verdict(|_| false).await.0, Verdict::OracleFails);
    assert_eq!(verdict(|number| number == 1).await.0, Verdict::Flaky);
}
