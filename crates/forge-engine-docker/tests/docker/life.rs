//! From create to destroy, over both ways to a sandbox.

use std::time::Duration;

use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{
    CreateContainerOptions, InspectContainerOptions, KillContainerOptions, RemoveContainerOptions,
    StartContainerOptions,
};
use forge_core::{Ending, ExecKey, Join, Limits, Processes, Profile, SandboxSpec};
use forge_engine::{Condition, Engine, EngineErrorKind, Inventory, PreparedImage};
use forge_wire::Secret;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

use crate::support::{
    BOTH_WAYS, Bench, WIDE, both_ways, next_user, raw_docker, request, run, secret, shell,
    with_bench,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_command_runs_and_its_output_and_exit_code_come_back() {
    both_ways(|bench| async move {
        let sandbox = bench.sandbox("exec").await;
        let done = shell(&*sandbox, "echo out; echo err >&2; exit 7").await;
        assert_eq!(done.stdout, "out\n");
        assert_eq!(done.stderr, "err\n");
        assert_eq!(done.report.ending, Ending::Exited(7));
        assert_eq!(sandbox.condition().await.unwrap(), Condition::Running);
        let usage = sandbox.usage().await.unwrap();
        assert!(usage.memory_peak_bytes > 0, "{usage:?}");
        assert_eq!(sandbox.kill_all().await.unwrap(), 0);
    })
    .await;
}

/// A core of this machine that the engine may use, as far as can be seen from here.
fn first_core() -> usize {
    let own = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let mut cores = 0..CpuSet::count();
    cores.find(|&core| own.is_set(core).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_is_kept_to_its_cores_where_the_engine_may_use_them() {
    both_ways(|bench| async move {
        let first = first_core();
        let kept = bench
            .sandbox_with("kept", |spec| spec.cores = vec![first])
            .await;
        assert_eq!(shell(&*kept, "nproc").await.stdout, "1\n");
        let cores = vec![first, 8_000];
        let free = bench.sandbox_with("free", |spec| spec.cores = cores).await;
        assert_eq!(shell(&*free, "true").await.report.ending, Ending::Exited(0));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_byte_of_a_large_binary_output_arrives() {
    both_ways(|bench| async move {
        let sandbox = bench.sandbox("large").await;
        let script = "head -c 20000000 /dev/zero; printf '\\001\\002\\000'";
        let mut running = sandbox
            .exec(request(&["/bin/sh", "-c", script]))
            .await
            .unwrap();
        let mut length = 0;
        let mut last = Vec::new();
        while let Some(chunk) = running.output.next().await {
            length += chunk.bytes.len();
            last = chunk.bytes.to_vec();
        }
        assert_eq!(length, 20_000_003);
        assert!(last.ends_with(&[1, 2, 0]));
        assert_eq!(running.exit.await.unwrap().ending, Ending::Exited(0));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_go_in_and_come_out() {
    both_ways(|bench| async move {
        let sandbox = bench.sandbox("files").await;
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        let contents = vec![7; 3_000_000];
        header.set_size(contents.len() as u64);
        header.set_mode(0o640);
        builder
            .append_data(&mut header, "data.bin", &contents[..])
            .unwrap();
        let archive = builder.into_inner().unwrap();
        let summary = sandbox
            .put("/workspace", &mut &archive[..], WIDE)
            .await
            .unwrap();
        assert_eq!((summary.entries, summary.bytes), (1, 3_000_000));
        let mut download = sandbox.get("/workspace/data.bin", WIDE).await.unwrap();
        let mut bytes = Vec::new();
        while let Some(piece) = download.next().await {
            bytes.extend_from_slice(&piece);
        }
        download.finish().await.unwrap();
        let mut read = tar::Archive::new(&bytes[..]);
        let entry = read.entries().unwrap().next().unwrap().unwrap();
        assert_eq!(entry.size(), 3_000_000);
        sandbox.remove("/workspace/data.bin").await.unwrap();
        let gone = shell(&*sandbox, "test ! -e data.bin").await;
        assert!(gone.succeeded(), "{gone:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_runs_without_a_shell_and_a_missing_one_says_so() {
    both_ways(|bench| async move {
        let sandbox = bench.sandbox("static").await;
        let done = run(&*sandbox, &["/.swe-forge/init", "version"]).await;
        assert!(
            done.succeeded() && done.stdout.starts_with("forge-init"),
            "{done:?}"
        );
        let done = run(&*sandbox, &["/no/such/program"]).await;
        assert_eq!(done.report.ending, Ending::NotStarted { errno: 2 });
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn creating_the_same_again_finds_the_same() {
    both_ways(|bench| async move {
        let id = bench.id("twice");
        let user = next_user();
        let image = bench.image().await;
        let workspace = bench.workspace_spec(&id, user);
        let engine = &bench.engine;
        engine.create_workspace(&workspace, &image).await.unwrap();
        let spec = bench.sandbox_spec(&id, user);
        let first = engine.create(&spec, &image, &secret()).await.unwrap();
        assert!(shell(&*first, "echo kept > kept").await.succeeded());
        engine.create_workspace(&workspace, &image).await.unwrap();
        // Times differ between two attempts to make the same; that is no other sandbox.
        let again = bench.sandbox_spec(&id, user);
        let second = engine.create(&again, &image, &secret()).await.unwrap();
        assert_eq!(shell(&*second, "cat kept").await.stdout, "kept\n");
        assert_eq!(shell(&*first, "cat kept").await.stdout, "kept\n");

        let mut other = spec.clone();
        other.limits.processes += 1;
        let error = engine.create(&other, &image, &secret()).await.unwrap_err();
        assert_eq!(error.kind, EngineErrorKind::Conflict, "{error}");
        let mut other = workspace.clone();
        other.specification[0].contents.push(b' ');
        let error = engine.create_workspace(&other, &image).await.unwrap_err();
        assert_eq!(error.kind, EngineErrorKind::Conflict, "{error}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_created_twice_at_once_is_one_sandbox() {
    both_ways(|bench| async move {
        let id = bench.id("at-once");
        let user = next_user();
        let image = bench.image().await;
        let workspace = bench.workspace_spec(&id, user);
        let engine = &bench.engine;
        let make = || engine.create_workspace(&workspace, &image);
        let (one, two) = tokio::join!(make(), make());
        one.and(two).unwrap();
        let spec = bench.sandbox_spec(&id, user);
        let secret = secret();
        let create = || engine.create(&spec, &image, &secret);
        let (one, two) = tokio::join!(create(), create());
        let (one, two) = (one.unwrap(), two.unwrap());
        assert!(shell(&*one, "echo kept > kept").await.succeeded());
        assert_eq!(shell(&*two, "cat kept").await.stdout, "kept\n");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dozen_at_once_do_not_mix_up() {
    both_ways(|bench| async move {
        let one = async |number: usize| {
            let sandbox = bench.sandbox(&format!("crowd{number}")).await;
            let script = format!("echo {number} > me; cat me; id -u");
            let done = shell(&*sandbox, &script).await;
            let uid = sandbox.attestation().uid;
            assert_eq!(done.stdout, format!("{number}\n{uid}\n"));
            bench.engine.destroy(sandbox.id()).await.unwrap();
            bench.engine.destroy_workspace(sandbox.id()).await.unwrap();
        };
        futures::future::join_all((0..12).map(one)).await;
        let left = bench.engine.list(Some(&bench.owner)).await.unwrap();
        assert!(left.is_empty(), "{left:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_made_and_never_started_is_started_by_the_next_attempt() {
    with_bench(BOTH_WAYS[0], |bench| async move {
        let id = bench.id("halfway");
        let user = next_user();
        let image = bench.image().await;
        let workspace = bench.workspace_spec(&id, user);
        bench
            .engine
            .create_workspace(&workspace, &image)
            .await
            .unwrap();
        let spec = bench.sandbox_spec(&id, user);
        // Dropped in the middle of starting, as by an orchestrator that died.
        let secret = secret();
        let creating = bench.engine.create(&spec, &image, &secret);
        let time = Duration::from_millis(40);
        drop(tokio::time::timeout(time, creating).await);
        let sandbox = bench.engine.create(&spec, &image, &secret).await.unwrap();
        assert!(shell(&*sandbox, "true").await.succeeded());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_is_opened_again_with_its_secret_only() {
    both_ways(|bench| async move {
        let sandbox = bench.sandbox("open").await;
        let id = sandbox.id().clone();
        assert!(shell(&*sandbox, "echo kept > kept").await.succeeded());
        drop(sandbox);
        let again = bench.engine.open(&id, &secret()).await.unwrap();
        assert_eq!(shell(&*again, "cat kept").await.stdout, "kept\n");
        let mut forged = secret();
        forged.secret = Secret::new([1; 32]);
        let error = bench.engine.open(&id, &forged).await.unwrap_err();
        assert_eq!(error.kind, EngineErrorKind::Corrupt, "{error}");
        let absent = bench.id("absent");
        let error = bench.engine.open(&absent, &secret()).await.unwrap_err();
        assert_eq!(error.kind, EngineErrorKind::NotFound, "{error}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_takes_a_sandbox_over_with_what_runs_in_it() {
    both_ways(|bench| async move {
        let old = bench.sandbox("successor").await;
        let mut command = request(&["sh", "-c", "seq 1 1000000; exit 5"]);
        command.key = Some(ExecKey(1));
        let mut first = old.exec(command.clone()).await.unwrap();
        let mut text = first.output.next().await.unwrap().bytes.to_vec();
        // Only a part of it is written down when the old one is gone.
        text.truncate(1000);
        let output_from = text.len() as u64;
        first.output.acknowledge(output_from);

        let mut newer = secret();
        newer.epoch += 1;
        let new = bench.engine.open(old.id(), &newer).await.unwrap();
        command.join = Some(Join {
            output_from,
            may_start: false,
        });
        let mut second = new.exec(command).await.unwrap();
        while let Some(chunk) = second.output.next().await {
            assert_eq!(chunk.offset, text.len() as u64);
            text.extend_from_slice(&chunk.bytes);
            second.output.acknowledge(text.len() as u64);
        }
        let report = second.exit.await.unwrap();
        assert_eq!(report.ending, Ending::Exited(5));
        let expected: String = (1..=1_000_000).map(|n| format!("{n}\n")).collect();
        assert!(
            text == expected.as_bytes(),
            "output is missing or came twice"
        );

        let error = first.exit.await.unwrap_err();
        assert_eq!(error.kind, EngineErrorKind::Conflict, "{error}");
        let error = bench.engine.open(old.id(), &secret()).await.unwrap_err();
        assert_eq!(error.kind, EngineErrorKind::Conflict, "{error}");
        assert!(shell(&*new, "true").await.succeeded());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_says_how_it_is() {
    both_ways(|bench| async move {
        let sandbox = bench.sandbox("health").await;
        let fresh = sandbox.health().await.unwrap();
        assert_eq!(fresh.processes, Processes::default());
        let _runs = sandbox.exec(request(&["sleep", "1000"])).await.unwrap();
        let settled = async {
            loop {
                let health = sandbox.health().await.unwrap();
                if health.processes.sleeping == 1 && health.specification.is_some() {
                    break health;
                }
            }
        };
        let health = tokio::time::timeout(Duration::from_secs(60), settled)
            .await
            .unwrap();
        assert_eq!(health.specification, Some(true));
        assert_eq!(health.processes.living(), 1);
        assert!(health.cpu.is_some());
        assert_eq!(sandbox.kill_all().await.unwrap(), 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn destroying_twice_is_no_error_and_leaves_nothing() {
    both_ways(|bench| async move {
        let sandbox = bench.sandbox("destroy").await;
        let id = sandbox.id().clone();
        let error = bench.engine.destroy_workspace(&id).await.unwrap_err();
        assert_eq!(error.kind, EngineErrorKind::Conflict, "{error}");
        let (one, two) = tokio::join!(bench.engine.destroy(&id), bench.engine.destroy(&id));
        one.unwrap();
        two.unwrap();
        bench.engine.destroy(&id).await.unwrap();
        assert_eq!(sandbox.condition().await.unwrap(), Condition::Gone);
        bench.engine.destroy_workspace(&id).await.unwrap();
        bench.engine.destroy_workspace(&id).await.unwrap();
        let left = bench.engine.list(Some(&bench.owner)).await.unwrap();
        assert!(left.is_empty(), "{left:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_that_has_next_to_no_processor_is_ended_all_the_same() {
    both_ways(|bench| async move {
        let tiny = Limits {
            cpu_millis: 50,
            // The shell ends by itself where it finds no room for the last of the crowd.
            processes: 200,
            ..forge_core::Difficulty::Easy.limits()
        };
        let sandbox = bench.sandbox_with("tiny", |spec| spec.limits = tiny).await;
        // Each turns away from its end for as long as it can, and asks PID 1 for something.
        let script = "for i in $(seq 40); do (trap '' TERM HUP INT; while :; do \
                      /.swe-forge/init bridge < /dev/zero; done) 2> /dev/null & done; \
                      echo all; wait";
        let mut wish = request(&["/bin/sh", "-c", script]);
        // With so little of a processor, the first line may take longer than most programs.
        wish.timeout = None;
        let mut running = sandbox.exec(wish).await.unwrap();
        assert!(running.output.next().await.is_some());
        bench.engine.destroy(sandbox.id()).await.unwrap();
        assert_eq!(sandbox.condition().await.unwrap(), Condition::Gone);
        let exit = running.exit.await;
        assert!(exit.is_err(), "{exit:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_that_the_engine_does_not_have_is_nothing_that_it_can_do() {
    with_bench(BOTH_WAYS[0], |bench| async move {
        let (id, user) = (bench.id("runtime"), next_user());
        let image = bench.image().await;
        let workspace = bench.workspace_spec(&id, user);
        let engine = &bench.engine;
        engine.create_workspace(&workspace, &image).await.unwrap();
        let mut spec = bench.sandbox_spec(&id, user);
        spec.runtime = Some("no-such-runtime".into());
        let error = engine.create(&spec, &image, &secret()).await.unwrap_err();
        assert_eq!(error.kind, EngineErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("no-such-runtime"), "{error}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_container_is_lost_and_says_how_it_ended() {
    both_ways(|bench| async move {
        let sandbox = bench.sandbox("killed").await;
        let running = sandbox.exec(request(&["/bin/sleep", "60"])).await.unwrap();
        let name = format!("swe-forge-task-{}", sandbox.id());
        raw_docker()
            .kill_container(&name, None::<KillContainerOptions>)
            .await
            .unwrap();
        let error = running.exit.await.unwrap_err();
        assert_eq!(error.kind, EngineErrorKind::Lost, "{error}");
        assert!(error.to_string().contains("137"), "{error}");
        let condition = sandbox.condition().await.unwrap();
        assert!(
            matches!(condition, Condition::Ended { code: 137, .. }),
            "{condition:?}"
        );
        let error = bench
            .engine
            .open(sandbox.id(), &secret())
            .await
            .unwrap_err();
        assert_eq!(error.kind, EngineErrorKind::Lost, "{error}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_takes_too_much_memory_is_killed_and_reported() {
    both_ways(|bench| async move {
        let small = Limits {
            memory_bytes: 64 << 20,
            ..forge_core::Difficulty::Easy.limits()
        };
        let sandbox = bench.sandbox_with("oom", |spec| spec.limits = small).await;
        // `tail` must keep everything: there is no end of line.
        let done = shell(&*sandbox, "tail -n 1 /dev/zero").await;
        assert!(done.report.oom_kills > 0, "{done:?}");
        assert!(!done.succeeded());
        // The sandbox itself goes on.
        assert!(shell(&*sandbox, "true").await.succeeded());
    })
    .await;
}

/// How far a process came in making a sandbox before it was killed.
#[derive(Debug, Clone, Copy)]
enum Killed {
    /// The container was made.
    Unstarted,
    /// It was started, and nobody claimed the sandbox.
    Unclaimed,
    /// The sandbox was claimed, and the process did not get to know.
    Claimed,
}

/// What a killed process leaves that came so far.
async fn leave(bench: &Bench, spec: &SandboxSpec, image: &PreparedImage, killed: Killed) {
    let gone = bench.stranger().await;
    gone.create(spec, image, &secret()).await.unwrap();
    if matches!(killed, Killed::Claimed) {
        return;
    }
    // A container of the same name and making, at the point where the process was killed.
    let docker = raw_docker();
    let name = format!("swe-forge-task-{}", spec.id);
    let inspect = None::<InspectContainerOptions>;
    let found = docker.inspect_container(&name, inspect).await.unwrap();
    let remove = RemoveContainerOptions {
        force: true,
        ..RemoveContainerOptions::default()
    };
    docker.remove_container(&name, Some(remove)).await.unwrap();
    let config = serde_json::to_value(found.config.unwrap()).unwrap();
    let mut body: ContainerCreateBody = serde_json::from_value(config).unwrap();
    body.host_config = found.host_config;
    for folder in bench.channels() {
        // As the process had handed it over.
        for entry in std::fs::read_dir(&folder).unwrap() {
            std::fs::remove_file(entry.unwrap().path()).unwrap();
        }
        let owner = Some(spec.user.uid());
        std::os::unix::fs::chown(&folder, owner, owner).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&folder, mode).unwrap();
    }
    let options = CreateContainerOptions {
        name: Some(name.clone()),
        ..CreateContainerOptions::default()
    };
    docker.create_container(Some(options), body).await.unwrap();
    if matches!(killed, Killed::Unclaimed) {
        let options = None::<StartContainerOptions>;
        docker.start_container(&name, options).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn creating_goes_on_wherever_a_killed_process_stopped() {
    both_ways(|bench| async move {
        let image = bench.image().await;
        for killed in [Killed::Unstarted, Killed::Unclaimed, Killed::Claimed] {
            let id = bench.id(&format!("{killed:?}").to_lowercase());
            let user = next_user();
            let workspace = bench.workspace_spec(&id, user);
            let engine = &bench.engine;
            // Killed before the workspace was all made as well: what is there is found.
            let making = bench.stranger().await;
            drop(futures::poll!(std::pin::pin!(
                making.create_workspace(&workspace, &image)
            )));
            engine.create_workspace(&workspace, &image).await.unwrap();
            let spec = bench.sandbox_spec(&id, user);
            leave(&bench, &spec, &image, killed).await;
            let sandbox = engine.create(&spec, &image, &secret()).await.unwrap();
            let done = shell(&*sandbox, "cat .swe-forge/task.json > kept && id -u").await;
            assert_eq!(
                done.stdout,
                format!("{}\n", user.uid()),
                "{killed:?}: {done:?}"
            );
            engine.destroy(&id).await.unwrap();
            engine.destroy_workspace(&id).await.unwrap();
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_with_other_folders_goes_on_with_the_same_sandbox() {
    both_ways(|bench| async move {
        let (id, user) = (bench.id("moved"), next_user());
        let image = bench.image().await;
        let workspace = bench.workspace_spec(&id, user);
        bench
            .engine
            .create_workspace(&workspace, &image)
            .await
            .unwrap();
        let spec = bench.sandbox_spec(&id, user);
        let first = bench.engine.create(&spec, &image, &secret()).await.unwrap();
        assert!(shell(&*first, "echo kept > kept").await.succeeded());
        let elsewhere = tempfile::tempdir().unwrap();
        for sharing in BOTH_WAYS {
            let other = bench.stranger_with(|options| {
                options.channel_root = elsewhere.path().join("other");
                options.disk_sharing = sharing;
            });
            let other = other.await;
            let second = other.create(&spec, &image, &secret()).await.unwrap();
            assert_eq!(shell(&*second, "cat kept").await.stdout, "kept\n");
        }
        assert_eq!(shell(&*first, "cat kept").await.stdout, "kept\n");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_sandbox_is_reached_by_nobody_but_its_maker() {
    both_ways(|bench| async move {
        let build = |spec: &mut SandboxSpec| spec.profile = Profile::Build;
        let sandbox = bench.sandbox_with("build", build).await;
        let error = bench
            .engine
            .open(sandbox.id(), &secret())
            .await
            .unwrap_err();
        assert_eq!(error.kind, EngineErrorKind::Lost, "{error}");
        let mut spec = bench.sandbox_spec(sandbox.id(), next_user());
        spec.profile = Profile::Build;
        let image = bench.image().await;
        let error = bench
            .engine
            .create(&spec, &image, &secret())
            .await
            .unwrap_err();
        assert_eq!(error.kind, EngineErrorKind::Conflict, "{error}");
        assert!(shell(&*sandbox, "true").await.succeeded());
    })
    .await;
}
