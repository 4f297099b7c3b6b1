//! What is on the engine, and what is ours of it.

use std::path::Path;
use std::time::{Duration, SystemTime};

use bollard::models::VolumeCreateRequest;
use bollard::query_parameters::{RemoveContainerOptions, RemoveVolumeOptions};
use forge_core::OwnerId;
use forge_core::ownership::keys;
use forge_engine::{Engine, EngineErrorKind, Inventory, ObjectKind};

use crate::support::{BOTH_WAYS, next_user, raw_docker, run, secret, with_bench};

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_holds_exactly_what_was_made() {
    with_bench(BOTH_WAYS[0], |bench| async move {
        let docker = raw_docker();
        let foreign = VolumeCreateRequest {
            name: Some(format!("foreign-{}", bench.run.short())),
            ..VolumeCreateRequest::default()
        };
        let foreign = docker.create_volume(foreign).await.unwrap();
        let sandbox = bench.sandbox("list").await;
        let found = bench.engine.list(Some(&bench.owner)).await;
        let all = bench.engine.list(None).await;
        docker
            .remove_volume(&foreign.name, None::<RemoveVolumeOptions>)
            .await
            .unwrap();
        let found = found.unwrap();
        let id = sandbox.id();
        let mut names: Vec<(ObjectKind, &str)> = found
            .iter()
            .map(|object| (object.kind, object.name.as_str()))
            .collect();
        names.sort_unstable();
        let expected = [
            (ObjectKind::Container, format!("swe-forge-task-{id}")),
            (ObjectKind::Volume, format!("swe-forge-spec-{id}")),
            (ObjectKind::Volume, format!("swe-forge-workspace-{id}")),
        ];
        assert!(
            names
                .iter()
                .map(|(kind, name)| (*kind, (*name).to_owned()))
                .eq(expected),
            "{names:?}"
        );
        for object in &found {
            assert_eq!(object.running, object.kind == ObjectKind::Container);
            assert_eq!(object.label(keys::OWNER), Some(bench.owner.as_str()));
            assert!(object.time(keys::EXPIRES_AT).is_some(), "{object:?}");
        }
        let all = all.unwrap();
        assert!(all.iter().all(|object| object.name != foreign.name));
        assert!(found.iter().all(|object| all.contains(object)));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn found_objects_are_removed_once_and_again() {
    with_bench(BOTH_WAYS[0], |bench| async move {
        let _sandbox = bench.sandbox("remove").await;
        let mut found = bench.engine.list(Some(&bench.owner)).await.unwrap();
        found.sort_by_key(|object| object.kind);
        for _ in 0..2 {
            for object in &found {
                bench.engine.remove(object).await.unwrap();
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_without_its_workspace_is_not_made() {
    with_bench(BOTH_WAYS[0], |bench| async move {
        let id = bench.id("homeless");
        let image = bench.image().await;
        let spec = bench.sandbox_spec(&id, next_user());
        let error = bench
            .engine
            .create(&spec, &image, &secret())
            .await
            .unwrap_err();
        assert_eq!(error.kind, EngineErrorKind::NotFound, "{error}");
        let left = bench.engine.list(Some(&bench.owner)).await.unwrap();
        assert!(left.is_empty(), "{left:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_describes_itself_and_the_shared_disk_is_proved() {
    for (sharing, shared) in [(BOTH_WAYS[0], true), (BOTH_WAYS[1], false)] {
        with_bench(sharing, |bench| async move {
            let description = bench.engine.describe().await.unwrap();
            assert_eq!(description.kind, "docker");
            assert_eq!(description.shares_disk, shared);
            assert!(description.cores > 0 && description.memory_bytes > 0);
            assert!(!description.version.is_empty() && !description.kernel.is_empty());
            let findings = bench.engine.capabilities().await.unwrap();
            assert!(findings.iter().any(|finding| finding.name == "seccomp"));
        })
        .await;
    }
}

fn make_old(folder: &Path) {
    let then = SystemTime::now() - Duration::from_secs(3600);
    let folder = std::fs::File::open(folder).unwrap();
    folder.set_modified(then).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_removes_folders_whose_container_somebody_else_removed() {
    with_bench(BOTH_WAYS[0], |bench| async move {
        let lost = bench.sandbox("lost").await;
        let lost_folder = bench.channels().pop().unwrap();
        let kept = bench.sandbox("kept").await;
        assert_eq!(bench.channels().len(), 2);
        let options = RemoveContainerOptions {
            force: true,
            ..RemoveContainerOptions::default()
        };
        let container = format!("swe-forge-task-{}", lost.id());
        raw_docker()
            .remove_container(&container, Some(options))
            .await
            .unwrap();
        // Too young to be judged.
        bench.engine.list(Some(&bench.owner)).await.unwrap();
        assert_eq!(bench.channels().len(), 2);
        for folder in bench.channels() {
            make_old(&folder);
        }
        let other = OwnerId::new("somebody-else").unwrap();
        bench.engine.list(Some(&other)).await.unwrap();
        assert_eq!(bench.channels().len(), 2);
        bench.engine.list(Some(&bench.owner)).await.unwrap();
        assert_eq!(bench.channels().len(), 1);
        assert!(!lost_folder.exists());
        let done = run(&*kept, &["/bin/true"]).await;
        assert!(done.succeeded(), "{done:?}");
    })
    .await;
}
