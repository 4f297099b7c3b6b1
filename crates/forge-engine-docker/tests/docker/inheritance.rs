//! The egress proxy of a process that is gone: what holds in between, and who has it next.

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;

use bollard::query_parameters::InspectContainerOptions;
use forge_core::ownership::keys;
use forge_core::{EgressPolicy, NetworkLevel, PhaseName, SandboxId, SandboxNetwork};
use forge_engine::{Egress, Engine, EngineErrorKind};
use forge_engine_docker::{DockerOptions, GateIdentity};

use crate::egress::{
    ALLOWED, HELLO, Loss, OTHER, Outside, connect, egress, lose, network, networked, proxies,
    records, set_again,
};
use crate::support::{BOTH_WAYS, Bench, next_user, raw_docker, secret, with_bench_of};

/// Processes that come one after the other have this in common.
fn with_identity(options: &mut DockerOptions, outside: &Outside, identity: &GateIdentity) {
    options.egress.resolvers = vec![outside.address];
    options.egress.identity = Some(identity.clone());
}

/// A bench whose handle has an identity, over either way to a sandbox.
async fn with_heirs<F>(outside: &Outside, test: impl FnOnce(Arc<Bench>, GateIdentity) -> F)
where
    F: Future<Output = ()>,
{
    let identity = GateIdentity::random();
    with_bench_of(
        BOTH_WAYS[0],
        |options| with_identity(options, outside, &identity),
        |bench| test(bench, identity.clone()),
    )
    .await;
}

/// A sandbox that a process made which ended without closing anything.
async fn left_behind(
    bench: &Bench,
    part: &str,
    network: SandboxNetwork,
    change: impl FnOnce(&mut DockerOptions),
) -> SandboxId {
    let gone = bench.stranger_with(change).await;
    let id = bench.id(part);
    let user = next_user();
    let image = bench.image().await;
    let workspace = bench.workspace_spec(&id, user);
    gone.create_workspace(&workspace, &image).await.unwrap();
    let mut spec = bench.sandbox_spec(&id, user);
    spec.network = Some(network);
    gone.create(&spec, &image, &secret()).await.unwrap();
    id
}

async fn container_of_proxy(bench: &Bench) -> (String, String) {
    let name = proxies(bench).await[0].name.clone();
    let options = None::<InspectContainerOptions>;
    let found = raw_docker().inspect_container(&name, options).await;
    let found = found.unwrap();
    (name, found.id.unwrap())
}

/// The sandbox itself is used through a handle that has nothing to do with the proxy.
#[tokio::test(flavor = "multi_thread")]
async fn the_next_process_goes_on_with_the_proxy_of_one_that_was_killed() {
    let outside = &Outside::new().await;
    with_heirs(outside, async |bench, identity| {
        let run = bench.run;
        let heir = |options: &mut DockerOptions| {
            with_identity(options, outside, &identity);
            options.run = Some(run);
        };
        let id = left_behind(&bench, "left", outside.network(), heir).await;
        for object in proxies(&bench).await {
            assert_eq!(object.label(keys::RUN), Some(run.to_string().as_str()));
        }
        let (_, container) = container_of_proxy(&bench).await;
        let between = bench.stranger().await.open(&id, &secret()).await.unwrap();
        let done = connect(&*between, ALLOWED, outside.port, HELLO).await;
        assert!(done.stdout.ends_with("<hello>\n"), "{done:?}");
        let done = connect(&*between, OTHER, outside.port, HELLO).await;
        assert!(done.stdout.contains("not_on_allowlist"), "{done:?}");

        let next = bench.stranger_with(heir).await;
        let sandbox = next.open(&id, &secret()).await.unwrap();
        let control = egress(&*sandbox);
        let found = records(control, 2).await;
        let mut hosts: Vec<_> = found
            .connections
            .iter()
            .map(|record| record.host.as_str())
            .collect();
        hosts.sort_unstable();
        assert_eq!(hosts, [OTHER, ALLOWED]);
        assert!(!found.lost, "{found:?}");
        assert_eq!((found.counters.allowed, found.counters.denied), (1, 1));
        assert_eq!(found.counters.unrecorded, 0);
        control
            .set_policy(&EgressPolicy::isolated(), PhaseName::Solve)
            .await
            .unwrap();
        let done = connect(&*sandbox, ALLOWED, outside.port, HELLO).await;
        assert!(done.stdout.contains("isolated"), "{done:?}");
        let open = outside.policy(NetworkLevel::LimitedWeb);
        control.set_policy(&open, PhaseName::Verify).await.unwrap();
        let done = connect(&*sandbox, ALLOWED, outside.port, HELLO).await;
        assert!(done.stdout.ends_with("<hello>\n"), "{done:?}");
        assert_eq!(container_of_proxy(&bench).await.1, container);
        // What was handed on does not come again, neither here nor to the next.
        drop((sandbox, next));
        let next = bench.stranger_with(heir).await;
        let last = next.open(&id, &secret()).await.unwrap();
        let again = records(egress(&*last), 2).await;
        let phases: Vec<_> = again
            .connections
            .iter()
            .map(|record| record.phase)
            .collect();
        assert_eq!(phases, [PhaseName::Solve, PhaseName::Verify], "{again:?}");
        assert_eq!((again.counters.allowed, again.counters.denied), (2, 2));
        next.destroy(&id).await.unwrap();
        next.close().await.unwrap();
        assert!(proxies(&bench).await.is_empty());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_processes_with_one_proxy_the_newer_has_it() {
    let outside = &Outside::new().await;
    with_heirs(outside, async |bench, identity| {
        let heir = |options: &mut DockerOptions| with_identity(options, outside, &identity);
        let older = networked(&bench, "older", network(EgressPolicy::isolated())).await;
        let newer = bench.stranger_with(heir).await;
        let sandbox = newer.open(older.id(), &secret()).await.unwrap();
        let control = egress(&*sandbox);
        let set = async |control: &dyn Egress| {
            let isolated = EgressPolicy::isolated();
            control.set_policy(&isolated, PhaseName::Solve).await
        };
        set(control).await.unwrap();
        let error = set(egress(&*older)).await.unwrap_err();
        assert_eq!(error.kind, EngineErrorKind::Conflict, "{error}");
        assert!(error.to_string().contains("another process"), "{error}");
        // Nor does it take anything away.
        bench.engine.close().await.unwrap();
        assert_eq!(proxies(&bench).await.len(), 3);
        set(control).await.unwrap();
        newer.close().await.unwrap();
        assert!(proxies(&bench).await.is_empty());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_died_with_its_process_lets_nobody_out_until_it_is_told_to_again() {
    let outside = &Outside::new().await;
    with_heirs(outside, async |bench, identity| {
        let heir = |options: &mut DockerOptions| with_identity(options, outside, &identity);
        let id = left_behind(&bench, "left", outside.network(), heir).await;
        let (name, _) = container_of_proxy(&bench).await;
        lose(&name, Loss::Removed).await;
        let next = bench.stranger_with(heir).await;
        let sandbox = next.open(&id, &secret()).await.unwrap();
        let control = egress(&*sandbox);
        let found = control.take_records().await.unwrap();
        assert!(found.lost && found.connections.is_empty(), "{found:?}");
        let done = connect(&*sandbox, ALLOWED, outside.port, HELLO).await;
        assert!(!done.succeeded() && done.stdout.is_empty(), "{done:?}");
        set_again(control, &outside.policy(NetworkLevel::PackageOnly)).await;
        let done = connect(&*sandbox, ALLOWED, outside.port, HELLO).await;
        assert!(done.stdout.ends_with("<hello>\n"), "{done:?}");
        next.close().await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_of_another_plan_is_replaced_and_its_sandboxes_keep_their_folders() {
    let outside = &Outside::new().await;
    with_heirs(outside, async |bench, identity| {
        let before = |options: &mut DockerOptions| {
            with_identity(options, outside, &identity);
            options.egress.resolvers.push(IpAddr::from([192, 0, 2, 53]));
        };
        let id = left_behind(&bench, "left", outside.network(), before).await;
        let (_, container) = container_of_proxy(&bench).await;
        let sandbox = bench.engine.open(&id, &secret()).await.unwrap();
        let control = egress(&*sandbox);
        set_again(control, &outside.policy(NetworkLevel::PackageOnly)).await;
        let done = connect(&*sandbox, ALLOWED, outside.port, HELLO).await;
        assert!(done.stdout.ends_with("<hello>\n"), "{done:?}");
        assert!(control.take_records().await.unwrap().lost);
        assert_ne!(container_of_proxy(&bench).await.1, container);
        assert_eq!(proxies(&bench).await.len(), 3);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn creating_again_what_a_killed_process_made_goes_on_with_it() {
    let outside = &Outside::new().await;
    with_heirs(outside, async |bench, identity| {
        let heir = |options: &mut DockerOptions| with_identity(options, outside, &identity);
        let gone = bench.stranger_with(heir).await;
        let (id, user) = (bench.id("again"), next_user());
        let image = bench.image().await;
        let workspace = bench.workspace_spec(&id, user);
        gone.create_workspace(&workspace, &image).await.unwrap();
        let mut spec = bench.sandbox_spec(&id, user);
        spec.network = Some(outside.network());
        let first = gone.create(&spec, &image, &secret()).await.unwrap();
        let done = connect(&*first, OTHER, outside.port, HELLO).await;
        assert!(done.stdout.contains("not_on_allowlist"), "{done:?}");
        drop((first, gone));
        let again = bench.engine.create(&spec, &image, &secret()).await.unwrap();
        let done = connect(&*again, ALLOWED, outside.port, HELLO).await;
        assert!(done.stdout.ends_with("<hello>\n"), "{done:?}");
        let found = records(egress(&*again), 2).await;
        assert_eq!((found.counters.allowed, found.counters.denied), (1, 1));
        assert!(!found.lost);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_process_left_of_the_proxy_goes_with_the_next_also_unused() {
    let outside = &Outside::new().await;
    with_heirs(outside, async |bench, identity| {
        let heir = |options: &mut DockerOptions| with_identity(options, outside, &identity);
        let id = left_behind(&bench, "left", network(EgressPolicy::isolated()), heir).await;
        assert_eq!(proxies(&bench).await.len(), 3);
        bench.engine.destroy(&id).await.unwrap();
        bench.engine.close().await.unwrap();
        assert!(proxies(&bench).await.is_empty());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_that_an_earlier_process_left_takes_its_socket_with_it() {
    let outside = &Outside::new().await;
    with_heirs(outside, async |bench, identity| {
        let heir = |options: &mut DockerOptions| with_identity(options, outside, &identity);
        let id = left_behind(&bench, "left", network(EgressPolicy::isolated()), heir).await;
        let volume = proxies(&bench).await[0].name.clone();
        let volume = raw_docker().inspect_volume(&volume).await.unwrap();
        let folders = || std::fs::read_dir(&volume.mountpoint).unwrap().count();
        assert_eq!(folders(), 1);
        bench.engine.destroy(&id).await.unwrap();
        let other = networked(&bench, "other", network(EgressPolicy::isolated())).await;
        egress(&*other).take_records().await.unwrap();
        assert_eq!(folders(), 1);
    })
    .await;
}
