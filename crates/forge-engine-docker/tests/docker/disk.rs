//! The size of a workspace holds, and nothing of it is left.
//!
//! A full workspace ends everything in its sandbox, so what writing past its size does to a
//! program is seen in a plain container that has the workspace's volume.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bollard::models::{ContainerCreateBody, HostConfig, VolumeCreateRequest};
use bollard::query_parameters::{
    CreateContainerOptions, InspectContainerOptions, LogsOptions, RemoveContainerOptions,
    RemoveVolumeOptions, StartContainerOptions, WaitContainerOptions,
};
use forge_core::ownership::keys;
use forge_core::{DiskQuota, Ending, SandboxId, UserId, WorkspaceSpec};
use forge_engine::{Engine, EngineErrorKind, Inventory};
use forge_engine_docker::{DockerEngine, QuotaChoice};
use futures::StreamExt;

use crate::support::{
    BOTH_WAYS, Bench, both_ways, next_user, raw_docker, secret, shell, test_image, with_bench,
};

const MEBIBYTE: u64 = 1 << 20;

fn volume(id: &SandboxId) -> String {
    format!("swe-forge-workspace-{id}")
}

fn sized(bench: &Bench, part: &str, bytes: u64, files: u64) -> WorkspaceSpec {
    let mut spec = bench.workspace_spec(&bench.id(part), next_user());
    spec.disk_bytes = bytes;
    spec.disk_files = files;
    spec
}

async fn make(bench: &Bench, spec: &WorkspaceSpec) -> DiskQuota {
    let image = bench.image().await;
    bench.engine.create_workspace(spec, &image).await.unwrap()
}

/// What a plain container with the volume at `/workspace` printed, and whether it ran out of
/// memory.
async fn in_container(
    bench: &Bench,
    spec: &WorkspaceSpec,
    memory: u64,
    script: &str,
) -> (String, bool) {
    let docker = raw_docker();
    let name = format!("swe-forge-disk-test-{}", uuid::Uuid::new_v4().simple());
    let UserText(user) = UserText::of(spec.user);
    let body = ContainerCreateBody {
        image: Some(test_image()),
        entrypoint: Some(vec!["/bin/sh".into(), "-c".into()]),
        cmd: Some(vec![script.to_owned()]),
        user: Some(user),
        working_dir: Some("/workspace".into()),
        labels: Some([(keys::OWNER.to_owned(), bench.owner.to_string())].into()),
        host_config: Some(HostConfig {
            network_mode: Some("none".into()),
            binds: Some(vec![format!("{}:/workspace", volume(&spec.id))]),
            memory: Some(i64::try_from(memory).unwrap()),
            memory_swap: Some(i64::try_from(memory).unwrap()),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    let options = CreateContainerOptions {
        name: Some(name.clone()),
        ..CreateContainerOptions::default()
    };
    docker.create_container(Some(options), body).await.unwrap();
    let options = None::<StartContainerOptions>;
    docker.start_container(&name, options).await.unwrap();
    // Its exit code says nothing here.
    let mut waiting = Box::pin(docker.wait_container(&name, None::<WaitContainerOptions>));
    drop(waiting.next().await);
    let options = LogsOptions {
        stdout: true,
        stderr: true,
        ..LogsOptions::default()
    };
    let mut logs = Box::pin(docker.logs(&name, Some(options)));
    let mut said = String::new();
    while let Some(piece) = logs.next().await {
        said.push_str(&piece.unwrap().to_string());
    }
    let options = None::<InspectContainerOptions>;
    let seen = docker.inspect_container(&name, options).await.unwrap();
    let killed = seen.state.and_then(|state| state.oom_killed) == Some(true);
    let options = RemoveContainerOptions {
        force: true,
        ..RemoveContainerOptions::default()
    };
    docker.remove_container(&name, Some(options)).await.unwrap();
    (said, killed)
}

struct UserText(String);

impl UserText {
    fn of(user: UserId) -> Self {
        Self(format!("{}:{}", user.uid(), user.gid()))
    }
}

fn link(id: &SandboxId) -> PathBuf {
    Path::new("/dev/swe-forge").join(volume(id))
}

/// The files that loop devices of this machine have.
fn attached() -> Vec<String> {
    let devices = std::fs::read_dir("/sys/block").unwrap();
    let files = devices.map(|device| device.unwrap().path().join("loop/backing_file"));
    files
        .filter_map(|file| std::fs::read_to_string(file).ok())
        .collect()
}

fn assert_nothing_of(id: &SandboxId) {
    let name = volume(id);
    let is_attached = || attached().iter().any(|file| file.contains(&name));
    // The kernel takes a device away when its last user lets go, which a container of somebody else
    // is while it is made: it begins with all mounts of the machine.
    for _ in 0..500 {
        if !is_attached() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(!is_attached(), "{:?}", attached());
    assert!(std::fs::symlink_metadata(link(id)).is_err());
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    assert!(!mounts.contains(&name), "{mounts}");
}

#[tokio::test(flavor = "multi_thread")]
async fn writing_past_the_size_fails_at_the_size_and_costs_no_memory() {
    both_ways(|bench| async move {
        let spec = sized(&bench, "full", 1024 * MEBIBYTE, 65_536);
        assert_eq!(make(&bench, &spec).await, DiskQuota::Loop);
        let script = "dd if=/dev/zero of=big bs=1M; stat -c %s big; du -sB1 . | cut -f1; \
                      echo x > output/more; rm big; echo y > output/more; cat output/more";
        let (said, killed) = in_container(&bench, &spec, 64 * MEBIBYTE, script).await;
        assert!(!killed, "{said}");
        assert!(said.contains("No space left on device"), "{said}");
        assert!(said.lines().last() == Some("y"), "{said}");
        let sizes: Vec<u64> = said.lines().filter_map(|line| line.parse().ok()).collect();
        let [size, used] = sizes[..] else {
            panic!("{said}");
        };
        assert!(size >= 1023 * MEBIBYTE && used <= 1024 * MEBIBYTE, "{said}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn allocating_past_the_size_and_making_too_many_files_fails() {
    with_bench(BOTH_WAYS[0], |bench| async move {
        let spec = sized(&bench, "inodes", 64 * MEBIBYTE, 500);
        assert_eq!(make(&bench, &spec).await, DiskQuota::Loop);
        let script = "fallocate -l 65M big; rm big; i=0; \
                      while true > file$i; do i=$((i+1)); done 2> error; cat error; ls | wc -l";
        let (said, killed) = in_container(&bench, &spec, 64 * MEBIBYTE, script).await;
        assert!(!killed, "{said}");
        assert_eq!(said.matches("No space left on device").count(), 2, "{said}");
        let made: u64 = said.lines().last().unwrap().trim().parse().unwrap();
        // Inode tables end with a block.
        assert!((490..=530).contains(&made), "{said}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_owns_its_workspace_and_can_fill_no_more_than_its_size() {
    both_ways(|bench| async move {
        let spec = sized(&bench, "owner", 32 * MEBIBYTE, 1000);
        assert_eq!(make(&bench, &spec).await, DiskQuota::Loop);
        let image = bench.image().await;
        let mut sandbox = bench.sandbox_spec(&spec.id, spec.user);
        sandbox.limits.disk_bytes = spec.disk_bytes;
        let sandbox = bench
            .engine
            .create(&sandbox, &image, &secret())
            .await
            .unwrap();
        let script = "stat -c '%u %g %a %n' . output .swe-forge; ls -a; \
                      echo 1 > mine; echo 2 > output/mine; cat .swe-forge/task.json; \
                      ! touch .swe-forge/x; df -B1 --output=avail . output | tail -n 2";
        let done = shell(&*sandbox, script).await;
        assert!(done.succeeded(), "{done:?}");
        let id = format!("{0} {0} 755", spec.user.uid());
        for line in [
            format!("{id} ."),
            format!("{id} output"),
            "0 0 755 .swe-forge".to_owned(),
        ] {
            assert!(done.stdout.lines().any(|seen| seen == line), "{done:?}");
        }
        assert!(!done.stdout.contains("lost+found"), "{done:?}");
        let mut available: Vec<u64> = done
            .stdout
            .lines()
            .filter_map(|line| line.parse().ok())
            .collect();
        available.dedup();
        // One size for both: what is kept counts.
        let [available] = available[..] else {
            panic!("{done:?}");
        };
        assert!(
            (31 * MEBIBYTE..32 * MEBIBYTE).contains(&available),
            "{done:?}"
        );
        let filled = shell(&*sandbox, "dd if=/dev/zero of=output/big bs=1M count=40").await;
        assert!(!filled.succeeded(), "{filled:?}");
        bench.engine.destroy(&spec.id).await.unwrap();
        bench.engine.destroy_workspace(&spec.id).await.unwrap();
        bench.engine.destroy_workspace(&spec.id).await.unwrap();
        assert_nothing_of(&spec.id);
        assert!(bench.images().is_empty());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workspaces_are_apart_and_keep_what_they_hold_between_containers() {
    with_bench(BOTH_WAYS[0], |bench| async move {
        let one = async |number: usize| {
            let spec = sized(&bench, &format!("apart{number}"), 16 * MEBIBYTE, 100);
            assert_eq!(make(&bench, &spec).await, DiskQuota::Loop);
            let script = format!("echo {number} > me");
            in_container(&bench, &spec, 64 * MEBIBYTE, &script).await;
            // Made again by the next attempt: the same.
            assert_eq!(make(&bench, &spec).await, DiskQuota::Loop);
            let (said, _) = in_container(&bench, &spec, 64 * MEBIBYTE, "cat me").await;
            assert_eq!(said, format!("{number}\n"));
            bench.engine.destroy_workspace(&spec.id).await.unwrap();
            assert_nothing_of(&spec.id);
        };
        futures::future::join_all((0..10).map(one)).await;
        assert!(bench.images().is_empty());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_process_that_died_has_left_is_found_by_the_next() {
    both_ways(|bench| async move {
        let spec = sized(&bench, "died", 16 * MEBIBYTE, 100);
        let image = bench.image().await;
        let died = bench.stranger().await;
        died.create_workspace(&spec, &image).await.unwrap();
        drop(died);
        assert_eq!(bench.images().len(), 1);
        // As `gc` does it, which has no `forge-init` of its own.
        let next = bench
            .stranger_with(|options| options.init_binary.bytes = Arc::from([]))
            .await;
        remove_all(&next, &bench).await;
        assert_nothing_of(&spec.id);
        assert!(bench.images().is_empty());
    })
    .await;
}

async fn remove_all(engine: &DockerEngine, bench: &Bench) {
    let found = engine.list(Some(&bench.owner)).await.unwrap();
    for object in &found {
        engine.remove(object).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_whose_volume_somebody_removed_goes_with_the_next_sweep() {
    with_bench(BOTH_WAYS[0], |bench| async move {
        let lost = sized(&bench, "lost", 16 * MEBIBYTE, 100);
        let kept = sized(&bench, "kept", 16 * MEBIBYTE, 100);
        make(&bench, &lost).await;
        make(&bench, &kept).await;
        let options = None::<RemoveVolumeOptions>;
        raw_docker()
            .remove_volume(&volume(&lost.id), options)
            .await
            .unwrap();
        bench.engine.list(Some(&bench.owner)).await.unwrap();
        assert_eq!(bench.images().len(), 2);
        bench.engine.sweep().await;
        assert_eq!(bench.images().len(), 1);
        assert_nothing_of(&lost.id);
        assert!(link(&kept.id).exists());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_file_on_an_engine_elsewhere_goes_with_the_next_process() {
    with_bench(BOTH_WAYS[1], |bench| async move {
        let lost = sized(&bench, "far-lost", 16 * MEBIBYTE, 100);
        let kept = sized(&bench, "far-kept", 16 * MEBIBYTE, 100);
        make(&bench, &lost).await;
        make(&bench, &kept).await;
        let options = None::<RemoveVolumeOptions>;
        raw_docker()
            .remove_volume(&volume(&lost.id), options)
            .await
            .unwrap();
        for image in bench.images() {
            let then = SystemTime::now() - Duration::from_secs(3600);
            std::fs::File::open(image)
                .unwrap()
                .set_modified(then)
                .unwrap();
        }
        let next = bench.stranger().await;
        let image = bench.image().await;
        next.create_workspace(&kept, &image).await.unwrap();
        assert_eq!(bench.images().len(), 1);
        assert_nothing_of(&lost.id);
        assert!(link(&kept.id).exists());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_that_lost_its_device_is_not_used() {
    with_bench(BOTH_WAYS[0], |bench| async move {
        let lost = sized(&bench, "detached", 16 * MEBIBYTE, 100);
        let other = sized(&bench, "other", 16 * MEBIBYTE, 100);
        make(&bench, &lost).await;
        make(&bench, &other).await;
        // As after a start of the machine, at which the number went to another file.
        let device = std::fs::read_link(link(&other.id)).unwrap();
        std::fs::remove_file(link(&lost.id)).unwrap();
        std::os::unix::fs::symlink(device, link(&lost.id)).unwrap();
        let image = bench.image().await;
        let spec = bench.sandbox_spec(&lost.id, lost.user);
        let error = bench
            .engine
            .create(&spec, &image, &secret())
            .await
            .unwrap_err();
        assert_eq!(error.kind, EngineErrorKind::Lost, "{error}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_that_is_demanded_and_not_there_is_an_error() {
    with_bench(BOTH_WAYS[0], |bench| async move {
        let image = bench.image().await;
        let spec = sized(&bench, "demanded", 16 * MEBIBYTE, 100);
        let engine = bench
            .stranger_with(|options| {
                options.disk.quota = QuotaChoice::Only(DiskQuota::Loop);
                options.disk.pool = "/proc/swe-forge".into();
            })
            .await;
        let error = engine.create_workspace(&spec, &image).await.unwrap_err();
        assert_eq!(error.kind, EngineErrorKind::Unsupported, "{error}");
        let mut said = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            said.push_str(&cause.to_string());
            source = cause.source();
        }
        assert_eq!(said.matches("os error").count(), 1, "{said}");
        assert!(said.contains("/proc/swe-forge"), "{said}");
        let engine = bench
            .stranger_with(|options| options.disk.pool = "/proc/swe-forge".into())
            .await;
        let quota = engine.create_workspace(&spec, &image).await.unwrap();
        assert_eq!(quota, DiskQuota::Watchdog);
        // Whoever finds it made says what it is, not what would be made now.
        assert_eq!(make(&bench, &spec).await, DiskQuota::Watchdog);
        let engine = bench
            .stranger_with(|options| {
                options.disk.quota = QuotaChoice::Only(DiskQuota::Watchdog);
            })
            .await;
        let spec = sized(&bench, "watched", 16 * MEBIBYTE, 100);
        let quota = engine.create_workspace(&spec, &image).await.unwrap();
        assert_eq!(quota, DiskQuota::Watchdog);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_preallocated_is_taken_at_once_and_must_be_there() {
    with_bench(BOTH_WAYS[0], |bench| async move {
        let image = bench.image().await;
        let engine = bench
            .stranger_with(|options| options.disk.preallocate = true)
            .await;
        let spec = sized(&bench, "taken", 64 * MEBIBYTE, 100);
        engine.create_workspace(&spec, &image).await.unwrap();
        let file = std::fs::metadata(&bench.images()[0]).unwrap();
        let taken = std::os::unix::fs::MetadataExt::blocks(&file) * 512;
        assert!(taken >= 64 * MEBIBYTE, "{taken}");
        // More than this machine has.
        let spec = sized(&bench, "too-much", 7 << 40, 100);
        let error = engine.create_workspace(&spec, &image).await.unwrap_err();
        assert_eq!(error.kind, EngineErrorKind::Exhausted, "{error}");
        assert_eq!(bench.images().len(), 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_names_a_folder_which_is_no_pool_changes_nothing_there() {
    with_bench(BOTH_WAYS[0], |bench| async move {
        let folder = tempfile::tempdir().unwrap();
        let mode = Permissions::from_mode(0o755);
        std::fs::set_permissions(folder.path(), mode).unwrap();
        let docker = raw_docker();
        let name = volume(&bench.id("forged"));
        // As `gc` does it, which has no `forge-init` of its own.
        let gc = bench
            .stranger_with(|options| options.init_binary.bytes = Arc::from([]))
            .await;
        for part in ["x", "0123456789abcdef"] {
            let pool = folder.path().join(part).display().to_string();
            let labels = [
                ("swe-forge.disk", "loop"),
                ("swe-forge.disk.pool", &pool),
                (keys::OWNER, bench.owner.as_str()),
            ];
            let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
            let forged = VolumeCreateRequest {
                name: Some(name.clone()),
                labels: Some(labels.into()),
                ..VolumeCreateRequest::default()
            };
            docker.create_volume(forged).await.unwrap();
            let found = gc.list(Some(&bench.owner)).await.unwrap();
            let [object] = &found[..] else {
                panic!("{found:?}");
            };
            let error = gc.remove(object).await.unwrap_err();
            let options = None::<RemoveVolumeOptions>;
            docker.remove_volume(&name, options).await.unwrap();
            let said = error.to_string();
            assert!(
                said.contains(&folder.path().display().to_string()) || part == "x",
                "{said}"
            );
            let mode = std::fs::metadata(folder.path()).unwrap().permissions();
            assert_eq!(mode.mode() & 0o777, 0o755, "{error}");
            assert!(std::fs::read_dir(folder.path()).unwrap().next().is_none());
        }
    })
    .await;
}

/// A pool on a file system of its own, which goes with this.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(mebibytes: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "none"])
            .arg(folder.path())
            .status()
            .unwrap();
        assert!(done.success());
        Self(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(self.path()).status());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_that_the_disk_has_no_room_for_is_not_made() {
    let disk = SmallDisk::new(150);
    both_ways(|bench| {
        let pool = disk.path().join(bench.owner.to_string());
        async move {
            let image = bench.image().await;
            let engine = bench
                .stranger_with(|options| options.disk.pool = pool)
                .await;
            let small = sized(&bench, "small", 64 * MEBIBYTE, 100);
            let quota = engine.create_workspace(&small, &image).await.unwrap();
            assert_eq!(quota, DiskQuota::Loop);
            let large = sized(&bench, "large", 1024 * MEBIBYTE, 100);
            let error = engine.create_workspace(&large, &image).await.unwrap_err();
            assert_eq!(error.kind, EngineErrorKind::Exhausted, "{error}");
            let said = error.to_string();
            assert!(said.contains("the engine's disk is full"), "{said}");
            engine.destroy_workspace(&large.id).await.unwrap();
            engine.destroy_workspace(&small.id).await.unwrap();
            assert_nothing_of(&small.id);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_goes_with_its_workspace_also_when_somebody_removed_its_file_or_the_pool() {
    both_ways(|bench| async move {
        for part in ["file", "pool"] {
            let spec = sized(&bench, part, 16 * MEBIBYTE, 100);
            assert_eq!(make(&bench, &spec).await, DiskQuota::Loop);
            let name = format!("{}.img", volume(&spec.id));
            let files = bench.images();
            let file = files.iter().find(|file| file.ends_with(&name)).unwrap();
            match part {
                "file" => std::fs::remove_file(file).unwrap(),
                _ => std::fs::remove_dir_all(file.parent().unwrap()).unwrap(),
            }
            bench.engine.destroy_workspace(&spec.id).await.unwrap();
            assert_nothing_of(&spec.id);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_filled_under_a_workspace_is_no_end_of_the_task_s_own() {
    let disk = SmallDisk::new(150);
    let pool = disk.path().join("pool");
    with_bench(BOTH_WAYS[0], |bench| async move {
        let image = bench.image().await;
        let engine = bench
            .stranger_with(|options| options.disk.pool = pool.clone())
            .await;
        let spec = sized(&bench, "under", 100 * MEBIBYTE, 1000);
        engine.create_workspace(&spec, &image).await.unwrap();
        let mut sandbox = bench.sandbox_spec(&spec.id, spec.user);
        sandbox.limits.disk_bytes = spec.disk_bytes;
        let sandbox = engine.create(&sandbox, &image, &secret()).await.unwrap();
        let before = shell(&*sandbox, "echo x > file").await;
        assert!(before.succeeded(), "{before:?}");
        // By somebody else who has the same disk.
        let taken = std::fs::File::create(pool.join("taken")).unwrap();
        let zeros = vec![0; 1 << 20];
        while std::io::Write::write_all(&mut &taken, &zeros).is_ok() {}
        let script = "dd if=/dev/zero of=big bs=1M count=90; exit 0";
        let done = shell(&*sandbox, script).await;
        assert_eq!(done.report.ending, Ending::WorkspaceFailed, "{done:?}");
        engine.destroy(&spec.id).await.unwrap();
        engine.destroy_workspace(&spec.id).await.unwrap();
        assert_nothing_of(&spec.id);
    })
    .await;
}
