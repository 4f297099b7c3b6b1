//! What goes wrong goes wrong as it was said, and the same again with the same seed.

use std::sync::Arc;
use std::time::Duration;

use forge_core::{Ending, SandboxId};
use forge_engine::conformance::{Act, Bench};
use forge_engine::fake::{FakeEngine, Fault, Faults, Latency, When};
use forge_engine::{
    Condition, Engine, EngineError, EngineErrorKind, Operation, RunningExec, Sandbox,
};
use forge_wire::message::TransferLimits;
use tokio::time::Instant;

use crate::bench::{FakeBench, credentials, request, sandbox_spec, workspace_spec};

const WIDE: TransferLimits = TransferLimits {
    bytes: 1 << 30,
    entries: 1000,
};
/// Longer than anything takes that ends.
const LONG: Duration = Duration::from_secs(3600);

async fn create(engine: &FakeEngine, number: u32) -> Result<Arc<dyn Sandbox>, EngineError> {
    let image = engine.prepare_image("image:1").await?;
    let workspace = workspace_spec(number);
    engine.create_workspace(&workspace, &image).await?;
    let spec = sandbox_spec(number);
    engine.create(&spec, &image, &credentials(1)).await
}

fn id(number: u32) -> SandboxId {
    sandbox_spec(number).id
}

async fn start(bench: &FakeBench, sandbox: &dyn Sandbox, act: &Act) -> RunningExec {
    sandbox.exec(request(bench.argv(act))).await.unwrap()
}

fn kind<T>(result: Result<T, EngineError>) -> Option<EngineErrorKind> {
    result.err().map(|error| error.kind)
}

#[tokio::test(start_paused = true)]
async fn only_the_call_that_was_named_fails() {
    let fault = Fault::Error(EngineErrorKind::Internal);
    let faults = Faults::none().on(Operation::Create, When::Call(2), fault);
    let engine = FakeEngine::with(1, faults);
    assert_eq!(kind(create(&engine, 1).await), None);
    assert_eq!(
        kind(create(&engine, 2).await),
        Some(EngineErrorKind::Internal)
    );
    assert_eq!(engine.census().sandboxes, [id(1)]);
    assert_eq!(kind(create(&engine, 2).await), None);
}

#[tokio::test(start_paused = true)]
async fn what_hangs_has_no_effect_and_no_answer() {
    let engine = FakeEngine::with(
        1,
        Faults::none().on(Operation::Create, When::Call(1), Fault::Hang),
    );
    let hung = tokio::time::timeout(LONG, create(&engine, 1)).await;
    assert!(hung.is_err());
    assert!(engine.census().sandboxes.is_empty());
    assert_eq!(kind(create(&engine, 1).await), None);
}

#[tokio::test(start_paused = true)]
async fn a_reply_is_lost_after_the_effect_and_the_same_again_converges() {
    let lost = |operation| Faults::none().on(operation, When::Call(1), Fault::LostReply);
    let engine = FakeEngine::with(1, lost(Operation::Create));
    let unavailable = Some(EngineErrorKind::Unavailable);
    assert_eq!(kind(create(&engine, 1).await), unavailable);
    assert_eq!(engine.census().sandboxes, [id(1)]);
    let sandbox = create(&engine, 1).await.unwrap();
    assert_eq!(sandbox.condition().await.unwrap(), Condition::Running);

    engine.set_faults(Faults::none().on(Operation::Destroy, When::Always, Fault::LostReply));
    assert_eq!(kind(engine.destroy(&id(1)).await), unavailable);
    assert!(engine.census().sandboxes.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_command_whose_start_was_not_answered_runs_all_the_same() {
    let faults = Faults::none().on(Operation::Exec, When::Call(1), Fault::LostReply);
    let bench = FakeBench::new(FakeEngine::with(1, faults));
    let sandbox = create(&bench.engine, 1).await.unwrap();
    let act = Act::Save("made".into(), "text".into());
    let lost = sandbox.exec(request(bench.argv(&act))).await;
    assert_eq!(kind(lost), Some(EngineErrorKind::Unavailable));
    tokio::time::sleep(LONG / 100).await;
    let made = bench.engine.file(&id(1), "made");
    assert_eq!(made.as_deref(), Some(&b"text"[..]));
}

#[tokio::test(start_paused = true)]
async fn a_slow_stream_takes_its_time_and_brings_every_byte() {
    let slow = Fault::Slow {
        bytes_per_second: 100_000,
    };
    let faults = Faults::none().everywhere(When::Always, slow);
    let bench = FakeBench::new(FakeEngine::with(1, faults));
    let sandbox = create(&bench.engine, 1).await.unwrap();
    let begun = Instant::now();
    let mut running = start(&bench, &*sandbox, &Act::Write(1_000_000)).await;
    let mut came = 0;
    while let Some(chunk) = running.output.next().await {
        came += chunk.bytes.len();
    }
    assert_eq!(came, 1_000_000);
    assert_eq!(running.exit.await.unwrap().ending, Ending::Exited(0));
    assert!(begun.elapsed() >= Duration::from_secs(10));
    let begun = Instant::now();
    let download = sandbox.get("/workspace/.swe-forge", WIDE).await.unwrap();
    download.finish().await.unwrap();
    assert!(begun.elapsed() > Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_container_that_disappears_takes_its_commands_with_it() {
    let bench = FakeBench::new(FakeEngine::with(1, Faults::none()));
    let sandbox = create(&bench.engine, 1).await.unwrap();
    let running = start(&bench, &*sandbox, &Act::Wait).await;
    bench
        .engine
        .set_faults(Faults::none().on(Operation::Usage, When::Call(1), Fault::Disappear));
    let lost = Some(EngineErrorKind::Lost);
    assert_eq!(kind(sandbox.usage().await), lost);
    assert_eq!(kind(running.exit.await), lost);
    assert_eq!(sandbox.condition().await.unwrap(), Condition::Gone);
    assert_eq!(kind(sandbox.kill_all().await), lost);
    let opened = bench.engine.open(&id(1), &credentials(1)).await;
    assert_eq!(kind(opened), Some(EngineErrorKind::NotFound));
    assert_eq!(bench.engine.census().workspaces, [id(1)]);
}

#[tokio::test(start_paused = true)]
async fn without_room_nothing_is_made_and_commands_are_ended_by_it() {
    let full = Faults::none().everywhere(When::Always, Fault::OutOfSpace);
    let bench = FakeBench::new(FakeEngine::with(1, full.clone()));
    let exhausted = Some(EngineErrorKind::Exhausted);
    assert_eq!(kind(create(&bench.engine, 1).await), exhausted);
    assert!(bench.engine.census().is_empty());
    bench.engine.set_faults(Faults::none());
    let sandbox = create(&bench.engine, 1).await.unwrap();
    bench.engine.set_faults(full);
    let running = start(&bench, &*sandbox, &Act::Exit(0)).await;
    let ending = running.exit.await.unwrap().ending;
    assert_eq!(ending, Ending::EngineDiskFull);
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_ends_by_itself_when_its_time_is_over() {
    let bench = FakeBench::new(FakeEngine::with(1, Faults::none()));
    let sandbox = create(&bench.engine, 1).await.unwrap();
    let mut endless = request(bench.argv(&Act::Wait));
    endless.timeout = None;
    let running = sandbox.exec(endless).await.unwrap();
    assert_eq!(kind(running.exit.await), Some(EngineErrorKind::Lost));
    let condition = sandbox.condition().await.unwrap();
    assert!(
        matches!(condition, Condition::Ended { .. }),
        "{condition:?}"
    );
}

/// What forty sandboxes that are made at once come to, and when the last one is there.
async fn history(seed: u64) -> (Vec<Option<EngineErrorKind>>, Duration) {
    let latency = Latency::between(Duration::ZERO, Duration::from_secs(9));
    let fault = Fault::Error(EngineErrorKind::Unavailable);
    let faults =
        Faults::none()
            .latency_everywhere(latency)
            .on(Operation::Create, When::Chance(0.4), fault);
    let engine = FakeEngine::with(seed, faults);
    let begun = Instant::now();
    let all = futures::future::join_all((0..40).map(|number| create(&engine, number))).await;
    (all.into_iter().map(kind).collect(), begun.elapsed())
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_history() {
    let first = history(7).await;
    assert!(first.0.contains(&None) && first.0.iter().any(Option::is_some));
    assert_eq!(first, history(7).await);
    assert_ne!(first, history(8).await);
}
