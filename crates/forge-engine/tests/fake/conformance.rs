//! Every case holds on the fake, also while it is slow and its operations come in any order.

use std::time::Duration;

use forge_engine::conformance::{Verdict, cases, examine};
use forge_engine::fake::{FakeEngine, Faults, Latency};

use crate::bench::FakeBench;

#[expect(
    clippy::print_stdout,
    reason = "one line for each case is what a person looks for"
)]
async fn all_hold(faults: &Faults) {
    let mut failed = 0;
    for (seed, case) in (0..).zip(cases()) {
        let bench = FakeBench::new(FakeEngine::with(seed, faults.clone()));
        let finding = examine(case, bench.clone()).await;
        println!("{finding}");
        failed += usize::from(matches!(finding.verdict, Verdict::Fails(_)));
        let census = bench.engine.census();
        assert!(failed > 0 || census.is_empty(), "{census:?}");
    }
    assert_eq!(failed, 0, "cases that do not hold");
}

#[tokio::test(start_paused = true)]
async fn every_case_holds_on_an_engine_that_takes_no_time() {
    all_hold(&Faults::none()).await;
}

#[tokio::test(start_paused = true)]
async fn every_case_holds_on_an_engine_that_takes_its_time() {
    let quick = Duration::from_millis(1);
    let latency = Latency::between(quick, quick * 200).or_else(0.05, Duration::from_secs(3));
    all_hold(&Faults::none().latency_everywhere(latency)).await;
}
