//! Asks a sandbox how it is while a phase runs, and tells what became of it.

use std::time::Duration;

use forge_engine::{Condition, EngineError, EngineErrorKind, Operation, Sandbox};
use forge_plan::health::{HealthPolicy, Judgement, Monitor, Observation};
use tokio::time::{Instant, sleep_until, timeout};

/// Asks for as long as it is polled, and tells every change. Returns only when there is no use in
/// waiting for the phase any more.
pub(crate) async fn beat(sandbox: &dyn Sandbox, mut tell: impl FnMut(Judgement)) -> EngineError {
    let (policy, began) = (HealthPolicy::default(), Instant::now());
    let mut monitor = Monitor::new(policy, Duration::ZERO);
    let mut told = None;
    loop {
        sleep_until(began + monitor.next_beat()).await;
        let observation = observe(sandbox, policy.timeout).await;
        let judgement = monitor.observe(began.elapsed(), observation);
        if let Some(judgement) = judgement.filter(|_| judgement != told) {
            tell(judgement);
            if judgement.ends_task() {
                return lost(sandbox, judgement);
            }
        }
        told = judgement;
    }
}

async fn observe(sandbox: &dyn Sandbox, patience: Duration) -> Observation {
    if let Ok(Ok(health)) = timeout(patience, sandbox.health()).await {
        return Observation::Answered(health);
    }
    match timeout(patience, sandbox.condition()).await {
        Ok(Ok(Condition::Paused)) => Observation::Paused,
        _ => Observation::Silent,
    }
}

fn lost(sandbox: &dyn Sandbox, judgement: Judgement) -> EngineError {
    EngineError::new(
        EngineErrorKind::Lost,
        Operation::Health,
        sandbox.id().as_str(),
        judgement.to_string(),
    )
}
