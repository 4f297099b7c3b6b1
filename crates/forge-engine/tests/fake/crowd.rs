//! Tens of thousands of sandboxes are no more than their descriptions.

use std::sync::Arc;

use forge_engine::conformance::{Act, Bench};
use forge_engine::fake::{FakeEngine, Faults, Latency};
use forge_engine::{Engine, Inventory, Sandbox};
use std::time::Duration;
use tokio::runtime::Handle;

use crate::bench::{FakeBench, credentials, request, sandbox_spec, workspace_spec};

const CROWD: u32 = 20_000;

/// All at once in one task. The runtime would let each turn of it go on with a hundred of them only, and
/// ask all the others in vain.
async fn all<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    tokio::task::unconstrained(futures::future::join_all(futures)).await
}

#[tokio::test(start_paused = true)]
async fn twenty_thousand_sandboxes_rest_without_a_task() {
    let second = Duration::from_secs(1);
    let latency = Latency::constant(second).or_else(0.01, 60 * second);
    let faults = Faults::none().latency_everywhere(latency);
    let bench = FakeBench::new(FakeEngine::with(1, faults).forgetful());
    let engine = &bench.engine;
    let image = engine.prepare_image("image:1").await.unwrap();
    let before = Handle::current().metrics().num_alive_tasks();
    let one = async |number: u32| -> Arc<dyn Sandbox> {
        let workspace = workspace_spec(number);
        engine.create_workspace(&workspace, &image).await.unwrap();
        let spec = sandbox_spec(number);
        let sandbox = engine.create(&spec, &image, &credentials(1)).await.unwrap();
        let running = sandbox.exec(request(bench.argv(&Act::Exit(0)))).await;
        running.unwrap().exit.await.unwrap();
        sandbox
    };
    // All at once: each waits for its own latencies and for nobody else.
    let sandboxes = all((0..CROWD).map(one)).await;
    assert_eq!(Handle::current().metrics().num_alive_tasks(), before);
    let census = engine.census();
    assert_eq!(census.sandboxes.len(), sandboxes.len());
    assert_eq!(census.commands, 0);
    let owner = crate::bench::ownership().owner;
    let listed = engine.list(Some(&owner)).await.unwrap();
    assert_eq!(listed.len(), 2 * sandboxes.len());
    let remove = async |sandbox: &Arc<dyn Sandbox>| {
        engine.destroy(sandbox.id()).await.unwrap();
        engine.destroy_workspace(sandbox.id()).await.unwrap();
    };
    all(sandboxes.iter().map(remove)).await;
    assert!(engine.census().is_empty());
}
