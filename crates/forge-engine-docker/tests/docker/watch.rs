//! What the engine tells of sandboxes while they are there.

use bollard::query_parameters::KillContainerOptions;
use forge_core::{Difficulty, Limits, OwnerId};
use forge_engine::{Engine, ObservationKind, Observations, Sandbox, Watch};
use futures::StreamExt;

use crate::support::{BOTH_WAYS, Bench, raw_docker, shell, with_bench};

/// Waits until something has happened to a sandbox; gives what was told before.
async fn told(
    observations: &mut Observations,
    sandbox: &dyn Sandbox,
    wanted: ObservationKind,
) -> Vec<ObservationKind> {
    let mut before = Vec::new();
    loop {
        let observation = observations.next().await.unwrap().unwrap();
        if observation.sandbox != *sandbox.id() {
            continue;
        }
        if observation.kind == wanted {
            return before;
        }
        before.push(observation.kind);
    }
}

async fn watching(bench: &Bench) -> Observations {
    bench.engine.watch(&bench.owner).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_life_of_a_sandbox_is_told() {
    with_bench(BOTH_WAYS[0], |bench| async move {
        let mut observations = watching(&bench).await;
        let sandbox = bench.sandbox("told").await;
        let before = told(&mut observations, &*sandbox, ObservationKind::Started).await;
        assert_eq!(before, []);
        let docker = raw_docker();
        let name = format!("swe-forge-task-{}", sandbox.id());
        docker.pause_container(&name).await.unwrap();
        let before = told(&mut observations, &*sandbox, ObservationKind::Paused).await;
        assert_eq!(before, []);
        docker.unpause_container(&name).await.unwrap();
        let before = told(&mut observations, &*sandbox, ObservationKind::Unpaused).await;
        assert_eq!(before, []);
        let options = None::<KillContainerOptions>;
        docker.kill_container(&name, options).await.unwrap();
        let killed = ObservationKind::Ended { code: 137 };
        assert_eq!(told(&mut observations, &*sandbox, killed).await, []);
        bench.engine.destroy(sandbox.id()).await.unwrap();
        let gone = ObservationKind::Disappeared;
        assert_eq!(told(&mut observations, &*sandbox, gone).await, []);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_killed_for_want_of_memory_is_told_of() {
    with_bench(BOTH_WAYS[0], |bench| async move {
        let mut observations = watching(&bench).await;
        let small = Limits {
            memory_bytes: 64 << 20,
            ..Difficulty::Easy.limits()
        };
        let sandbox = bench.sandbox_with("oom", |spec| spec.limits = small).await;
        let done = shell(&*sandbox, "tail -n 1 /dev/zero").await;
        assert!(!done.succeeded(), "{done:?}");
        let oom = ObservationKind::OutOfMemory;
        let before = told(&mut observations, &*sandbox, oom).await;
        assert_eq!(before, [ObservationKind::Started]);
        assert!(shell(&*sandbox, "true").await.succeeded());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_told_of_the_sandboxes_of_others() {
    with_bench(BOTH_WAYS[0], |bench| async move {
        let other = OwnerId::new("somebody-else").unwrap();
        let mut others = bench.engine.watch(&other).await.unwrap();
        let mut own = watching(&bench).await;
        let sandbox = bench.sandbox("own").await;
        told(&mut own, &*sandbox, ObservationKind::Started).await;
        // Told to both at the same time, had it been for both.
        assert!(futures::poll!(others.next()).is_pending());
    })
    .await;
}
