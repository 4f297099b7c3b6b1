//! What is on the engine, and what is ours of it.

use std::collections::HashMap;
use std::io::Cursor;
use std::path::Path;
use std::time::{Duration, SystemTime};

use bollard::models::{ContainerCreateBody, NetworkCreateRequest, VolumeCreateRequest};
use bollard::query_parameters::{
    CreateContainerOptions, RemoveContainerOptions, RemoveImageOptions, RemoveVolumeOptions,
};
use forge_core::ownership::{Role, keys};
use forge_engine::images::ImportOptions;
use forge_engine::{Engine, EngineErrorKind, FoundObject, Inventory, ObjectKind};

use crate::support::{
    BOTH_WAYS, Bench, next_user, raw_docker, run, secret, test_image, with_bench,
};

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
async fn a_sweep_removes_folders_whose_container_somebody_else_removed_and_a_listing_nothing() {
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
        bench.engine.sweep().await;
        assert_eq!(bench.channels().len(), 2);
        for folder in bench.channels() {
            make_old(&folder);
        }
        bench.engine.list(Some(&bench.owner)).await.unwrap();
        assert_eq!(bench.channels().len(), 2);
        bench.engine.sweep().await;
        assert_eq!(bench.channels().len(), 1);
        assert!(!lost_folder.exists());
        let done = run(&*kept, &["/bin/true"]).await;
        assert!(done.succeeded(), "{done:?}");
    })
    .await;
}

/// Labels as an image's author could write them, or as a snapshot has them.
fn labels(bench: &Bench) -> HashMap<String, String> {
    let mut labels = bench.ownership().labels(Role::Task);
    labels.insert(
        keys::EXPIRES_AT.to_owned(),
        "2000-01-01T00:00:00Z".to_owned(),
    );
    labels.into_iter().collect()
}

/// Makes a container that never starts.
async fn make_container(image: &str, name: &str, labels: HashMap<String, String>) {
    let options = CreateContainerOptions {
        name: Some(name.to_owned()),
        ..CreateContainerOptions::default()
    };
    let body = ContainerCreateBody {
        image: Some(image.to_owned()),
        cmd: Some(vec!["/none".to_owned()]),
        labels: Some(labels),
        ..ContainerCreateBody::default()
    };
    let docker = raw_docker();
    docker.create_container(Some(options), body).await.unwrap();
}

async fn remove_container(name: &str) {
    let options = None::<RemoveContainerOptions>;
    let removed = raw_docker().remove_container(name, options).await;
    removed.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_s_container_that_has_our_labels_from_its_image_is_not_ours() {
    with_bench(BOTH_WAYS[0], |bench| async move {
        let image = format!("swe-forge-test/labelled:{}", bench.run.short());
        let options = ImportOptions {
            tags: vec![image.clone()],
            labels: labels(&bench).into_iter().collect(),
            ..ImportOptions::default()
        };
        let empty = tar::Builder::new(Vec::new()).into_inner().unwrap();
        let images = bench.engine.images().unwrap();
        let root = Box::pin(Cursor::new(empty));
        images.import_image(root, &options).await.unwrap();
        let short = bench.run.short();
        let (inherited, given) = (format!("inherited-{short}"), format!("given-{short}"));
        make_container(&image, &inherited, HashMap::new()).await;
        make_container(&test_image(), &given, labels(&bench)).await;
        let own = bench.engine.list(Some(&bench.owner)).await;
        let all = bench.engine.list(None).await;
        for name in [&inherited, &given] {
            remove_container(name).await;
        }
        let options = None::<RemoveImageOptions>;
        let removed = raw_docker().remove_image(&image, options, None).await;
        removed.unwrap();
        assert_eq!(own.unwrap(), []);
        let ours = |object: &FoundObject| object.label(keys::OWNER) == Some(bench.owner.as_str());
        assert!(!all.unwrap().iter().any(ours));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn networks_of_one_name_are_all_removed() {
    with_bench(BOTH_WAYS[0], |bench| async move {
        let docker = raw_docker();
        let name = format!("swe-forge-egress-{}", bench.run.short());
        let make = async |name: &str| {
            let request = NetworkCreateRequest {
                name: name.to_owned(),
                labels: Some(labels(&bench)),
                ..NetworkCreateRequest::default()
            };
            docker.create_network(request).await
        };
        make(&name).await.unwrap();
        // Newer engines refuse a second one.
        drop(make(&name).await);
        let longer = format!("{name}-longer");
        make(&longer).await.unwrap();
        let found = bench.engine.list(Some(&bench.owner)).await.unwrap();
        let object = found.iter().find(|object| object.name == name).unwrap();
        let removed = bench.engine.remove(object).await;
        let left = bench.engine.list(Some(&bench.owner)).await.unwrap();
        removed.unwrap();
        let names: Vec<&str> = left.iter().map(|object| object.name.as_str()).collect();
        assert_eq!(names, [longer.as_str()]);
        bench.engine.remove(object).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_that_somebody_removed_is_missed_before_the_next_sandbox() {
    with_bench(BOTH_WAYS[0], |bench| async move {
        let docker = raw_docker();
        for part in ["workspace", "spec"] {
            let id = bench.sandbox(part).await.id().clone();
            bench.engine.destroy(&id).await.unwrap();
            let name = format!("swe-forge-{part}-{id}");
            let options = None::<RemoveVolumeOptions>;
            docker.remove_volume(&name, options).await.unwrap();
            let image = bench.image().await;
            let spec = bench.sandbox_spec(&id, next_user());
            let create = async || bench.engine.create(&spec, &image, &secret()).await;
            let error = create().await.unwrap_err();
            assert_eq!(error.kind, EngineErrorKind::NotFound, "{error}");
            // As an engine makes it for a mount.
            let anew = VolumeCreateRequest {
                name: Some(name),
                labels: Some(labels(&bench)),
                ..VolumeCreateRequest::default()
            };
            docker.create_volume(anew).await.unwrap();
            let error = create().await.unwrap_err();
            assert_eq!(error.kind, EngineErrorKind::NotFound, "{error}");
            assert!(error.to_string().contains("was lost"), "{error}");
        }
    })
    .await;
}
