//! How much is added to what the engine itself costs; run with `--ignored --nocapture`.

use std::time::{Duration, Instant};

use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{
    CreateContainerOptions, RemoveContainerOptions, StartContainerOptions,
};
use forge_engine::Engine;

use crate::support::{BOTH_WAYS, next_user, raw_docker, run, secret, with_bench};

const ROUNDS: usize = 15;

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Create and start by the plainest client there is, of the plainest container without network.
async fn raw_round(
    docker: &bollard::Docker,
    image: &str,
    name: &str,
    network_disabled: bool,
) -> Duration {
    let body = ContainerCreateBody {
        image: Some(image.to_owned()),
        entrypoint: Some(vec!["/.swe-forge/init".into(), "init".into()]),
        user: Some("200999:200999".into()),
        network_disabled: Some(network_disabled),
        host_config: Some(HostConfig {
            network_mode: Some("none".into()),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    let options = CreateContainerOptions {
        name: Some(name.to_owned()),
        ..CreateContainerOptions::default()
    };
    let begin = Instant::now();
    docker.create_container(Some(options), body).await.unwrap();
    docker
        .start_container(name, None::<StartContainerOptions>)
        .await
        .unwrap();
    let time = begin.elapsed();
    let options = RemoveContainerOptions {
        force: true,
        v: true,
        ..RemoveContainerOptions::default()
    };
    docker.remove_container(name, Some(options)).await.unwrap();
    time
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, not a test"]
async fn create_to_first_command_against_the_raw_engine() {
    for sharing in BOTH_WAYS {
        with_bench(sharing, |bench| async move {
            let docker = raw_docker();
            let image = bench.image().await;
            let (mut none, mut raw, mut space) = (vec![], vec![], vec![]);
            let (mut create, mut exec) = (vec![], vec![]);
            for round in 0..ROUNDS {
                let name = format!("swe-forge-raw-{}-{round}", bench.run.short());
                none.push(raw_round(&docker, &image.runnable, &name, false).await);
                raw.push(raw_round(&docker, &image.runnable, &name, true).await);
                let id = bench.id(&format!("round{round}"));
                let user = next_user();
                let begin = Instant::now();
                let workspace = bench.workspace_spec(&id, user);
                let engine = &bench.engine;
                engine.create_workspace(&workspace, &image).await.unwrap();
                space.push(begin.elapsed());
                let begin = Instant::now();
                let spec = bench.sandbox_spec(&id, user);
                let sandbox = engine.create(&spec, &image, &secret()).await.unwrap();
                create.push(begin.elapsed());
                let begin = Instant::now();
                assert!(run(&*sandbox, &["/bin/true"]).await.succeeded());
                exec.push(begin.elapsed());
                engine.destroy(&id).await.unwrap();
                engine.destroy_workspace(&id).await.unwrap();
            }
            println!(
                "{sharing:?}: raw create+start with network mode none {:?}, with the network disabled \
                 {:?}; workspace {:?}, create+start+claim {:?}, exec(true) {:?}",
                median(none),
                median(raw),
                median(space),
                median(create),
                median(exec)
            );
        })
        .await;
    }
}
