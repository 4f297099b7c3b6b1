//! What the inside of a sandbox can and cannot do.

use bollard::query_parameters::KillContainerOptions;
use forge_core::{Profile, SandboxSpec};
use forge_engine::{Condition, Engine, EngineErrorKind};

use crate::support::{
    BOTH_WAYS, both_ways, next_user, raw_docker, request, run, secret, shell, with_bench,
};

#[tokio::test(flavor = "multi_thread")]
async fn pid_1_attests_what_was_asked_for() {
    both_ways(|bench| async move {
        let sandbox = bench.sandbox("attest").await;
        let seen = sandbox.attestation();
        assert_eq!((seen.capabilities, seen.bounding_capabilities), (0, 0));
        assert!(seen.no_new_privileges && seen.read_only_root, "{seen:?}");
        assert_eq!(seen.seccomp_mode, 2);
        assert!(seen.uid >= 200_000 && seen.gid >= 200_000);
        assert_eq!(seen.interfaces, ["lo"]);
        assert_eq!(seen.routes, 0);
        for mount in &seen.writable_mounts {
            let known = [
                "/workspace",
                "/workspace/output",
                "/tmp",
                "/dev/shm",
                "/.swe-forge/channel",
            ];
            assert!(known.contains(&mount.as_str()), "{mount} is writable");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_workspace_belongs_to_the_user_and_the_specification_to_nobody() {
    both_ways(|bench| async move {
        let sandbox = bench.sandbox("owner").await;
        let uid = sandbox.attestation().uid;
        let done = shell(
            &*sandbox,
            "stat -c '%u %a' /workspace /workspace/output /workspace/.swe-forge \
             /workspace/.swe-forge/task.json && cat /workspace/.swe-forge/task.json",
        )
        .await;
        let expected = format!("{uid} 755\n{uid} 755\n0 755\n0 644\n{{\"id\":\"docker-test\"}}");
        assert_eq!(done.stdout, expected, "{done:?}");
        for allowed in ["touch a", "mkdir d", "touch output/a", "touch /tmp/a"] {
            let done = shell(&*sandbox, allowed).await;
            assert!(done.succeeded(), "{allowed}: {done:?}");
        }
        for forbidden in [
            "echo x > .swe-forge/task.json",
            "touch .swe-forge/new",
            "rm .swe-forge/task.json",
            "mv .swe-forge elsewhere",
            "rmdir output",
            "mv /workspace /tmp/w",
            "ln -sfn /tmp .swe-forge",
            "touch /etc/x",
            "touch /.swe-forge/x",
            "touch /.swe-forge/channel/x",
            "rm /.swe-forge/channel/init.sock",
            "python3 -c 'import socket; \
             socket.socket(socket.AF_UNIX).connect(\"/.swe-forge/channel/init.sock\")'",
            "cat /.swe-forge/init",
        ] {
            let done = shell(&*sandbox, forbidden).await;
            assert!(
                !done.succeeded()
                    || (forbidden.starts_with("ln") && bench_specification(&*sandbox).await),
                "{forbidden}: {done:?}"
            );
        }
        assert!(
            shell(&*sandbox, "test -f .swe-forge/task.json")
                .await
                .succeeded()
        );
    })
    .await;
}

/// `ln -sfn` may put its link elsewhere and call that a success; what counts is that the
/// specification is untouched.
async fn bench_specification(sandbox: &dyn forge_engine::Sandbox) -> bool {
    shell(sandbox, "test -d .swe-forge && test ! -L .swe-forge")
        .await
        .succeeded()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_sandbox_itself_can_be_reached_and_named() {
    both_ways(|bench| async move {
        let sandbox = bench.sandbox("network").await;
        let done = shell(&*sandbox, "cat /etc/resolv.conf").await;
        let mut servers = done
            .stdout
            .lines()
            .filter(|line| line.starts_with("nameserver"));
        assert!(
            servers.all(|line| line == "nameserver 127.0.0.1"),
            "{done:?}"
        );
        let done = shell(&*sandbox, "hostname; grep localhost /etc/hosts").await;
        assert!(done.stdout.starts_with("sandbox\n127.0.0.1"), "{done:?}");
        assert!(done.succeeded(), "{done:?}");
        for address in ["172.17.0.1", "169.254.169.254", "1.1.1.1"] {
            let script = format!("import socket; socket.create_connection(('{address}', 80), 5)");
            let done = run(&*sandbox, &["python3", "-c", &script]).await;
            assert!(done.stderr.contains("unreachable"), "{done:?}");
        }
        // Loopback works, by name and on a low port.
        let script = "import socket\n\
                      server = socket.create_server(('localhost', 80))\n\
                      client = socket.create_connection(('localhost', 80), 5)\n\
                      server.accept()[0].send(b'hello')\n\
                      print(client.recv(5), socket.gethostbyname(socket.gethostname()))";
        let done = run(&*sandbox, &["python3", "-c", script]).await;
        assert_eq!(done.stdout, "b'hello' 127.0.0.1\n", "{done:?}");
    })
    .await;
}

/// Tries whatever changes how a thread runs on every thread of PID 1, and then on its own.
const CRIPPLE: &str = r#"
import ctypes, os, platform, resource, threading
call = ctypes.CDLL(None).syscall
sched_setattr, ioprio_set = (314, 251) if platform.machine() == "x86_64" else (274, 30)
idle = (ctypes.c_uint32 * 12)(48, 5)

def failing(result):
    if result != 0:
        raise OSError

ways = {
    "limit of files": lambda t: resource.prlimit(t, resource.RLIMIT_NOFILE, (0, 0)),
    "limit of stack": lambda t: resource.prlimit(t, resource.RLIMIT_STACK, (4096, 4096)),
    "policy": lambda t: os.sched_setscheduler(t, os.SCHED_IDLE, os.sched_param(0)),
    "parameter": lambda t: os.sched_setparam(t, os.sched_param(0)),
    "attributes": lambda t: failing(call(sched_setattr, t, idle, 0)),
    "cores": lambda t: os.sched_setaffinity(t, {min(os.sched_getaffinity(0))}),
    "priority": lambda t: os.setpriority(os.PRIO_PROCESS, t, 19),
    "priority of its group": lambda t: os.setpriority(os.PRIO_PGRP, t, 19),
    "priority of its user": lambda t: os.setpriority(os.PRIO_USER, os.getuid(), 19),
    "disk priority": lambda t: failing(call(ioprio_set, 1, t, 3 << 13)),
    "disk priority of its group": lambda t: failing(call(ioprio_set, 2, t, 3 << 13)),
    "disk priority of its user": lambda t: failing(call(ioprio_set, 3, os.getuid(), 3 << 13)),
    "descriptor": lambda t: os.pidfd_open(t),
}

def tried(thread):
    done = []
    for name, way in ways.items():
        try:
            way(thread)
            done.append(name)
        except (OSError, ValueError):
            pass
    return done

for thread in sorted(map(int, os.listdir("/proc/1/task"))):
    print("PID 1", tried(thread))
ended = threading.Event()
mine = threading.Thread(target=ended.wait)
mine.start()
os.sched_setaffinity(mine.native_id, {min(os.sched_getaffinity(0))})
os.sched_setaffinity(0, os.sched_getaffinity(0))
resource.prlimit(os.getpid(), resource.RLIMIT_NOFILE, (64, 64))
os.setpriority(os.PRIO_PROCESS, mine.native_id, 1)
ended.set()
print("own")
"#;

#[tokio::test(flavor = "multi_thread")]
async fn no_thread_of_pid_1_can_be_slowed_down_or_starved() {
    with_bench(BOTH_WAYS[0], |bench| async move {
        for (part, profile) in [("run", Profile::Run), ("build", Profile::Build)] {
            let change = |spec: &mut SandboxSpec| spec.profile = profile;
            let sandbox = bench.sandbox_with(part, change).await;
            let done = run(&*sandbox, &["python3", "-c", CRIPPLE]).await;
            let expected = format!("{}own\n", "PID 1 []\n".repeat(4));
            assert_eq!(done.stdout, expected, "{done:?}");
            // One that cannot open anything could not start a program either.
            assert!(shell(&*sandbox, "true").await.succeeded());
            if profile == Profile::Run {
                let again = bench.engine.open(sandbox.id(), &secret()).await.unwrap();
                assert!(shell(&*again, "true").await.succeeded());
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn setup_can_write_to_no_folder_or_file_of_the_machine() {
    with_bench(BOTH_WAYS[0], |bench| async move {
        if !bench.engine.describe().await.unwrap().shares_disk {
            return;
        }
        let build = |spec: &mut SandboxSpec| spec.profile = Profile::Build;
        let sandbox = bench.sandbox_with("sealed", build).await;
        assert!(bench.channels().is_empty(), "{:?}", bench.channels());
        for mount in &sandbox.attestation().writable_mounts {
            let known = ["/", "/workspace", "/workspace/output", "/tmp", "/dev/shm"];
            assert!(known.contains(&mount.as_str()), "{mount} is writable");
        }
        for file in ["hostname", "hosts", "resolv.conf"] {
            let script = format!("test -s /etc/{file} && ! echo x 2>&1 >> /etc/{file}");
            let done = shell(&*sandbox, &script).await;
            assert!(done.succeeded(), "{file}: {done:?}");
        }
        let done = shell(&*sandbox, "cat /etc/hostname; hostname").await;
        assert_eq!(done.stdout, "sandbox\nsandbox\n");
        assert_eq!(sandbox.kill_all().await.unwrap(), 0);
    })
    .await;
}

const BUILD: fn(&mut SandboxSpec) = |spec| spec.profile = Profile::Build;

#[tokio::test(flavor = "multi_thread")]
async fn setup_may_leave_programs_of_any_user_running() {
    both_ways(|bench| async move {
        let sandbox = bench.sandbox_with("daemons", BUILD).await;
        // The last one is the user of the relay, which must live on all the same.
        for user in ["65534", "4242", "65533"] {
            let script = format!(
                "setpriv --reuid {user} --regid {user} --clear-groups setsid sleep 1000 \
                 > /dev/null 2>&1 & \
                 until grep -q '^Uid:.{user}' /proc/$!/status; do sleep 0.01; done; echo left"
            );
            let done = shell(&*sandbox, &script).await;
            assert_eq!(done.stdout, "left\n", "{done:?}");
            assert_eq!(sandbox.kill_all().await.unwrap(), 0, "{user}");
            let done = shell(&*sandbox, "true").await;
            assert!(done.succeeded(), "{user}: {done:?}");
        }
        let user = next_user();
        sandbox.hand_over("/workspace", user).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_setup_ends_is_not_made_again_out_of_what_setup_left() {
    both_ways(|bench| async move {
        let sandbox = bench.sandbox_with("cut", BUILD).await;
        let program = "#!/bin/sh\ntouch /workspace/run-by-the-engine\n";
        let script = format!(
            "rm -f /.swe-forge/init && printf '{program}' > /.swe-forge/init \
             && chmod 755 /.swe-forge/init \
             && status=$(grep -l '^Uid:.65533' /proc/[0-9]*/status) \
             && pid=${{status#/proc/}} && pid=${{pid%/status}} || exit 1
             setpriv --reuid 65533 --regid 65533 --clear-groups \
             sh -c \"until test -p /etc/passwd; do sleep 0.01; done; kill -9 $pid\" &
             until grep -q '^Uid:.65533' /proc/$!/status; do sleep 0.01; done
             rm -f /etc/passwd && mkfifo /etc/passwd && sleep 1000"
        );
        let running = sandbox
            .exec(request(&["/bin/sh", "-c", &script]))
            .await
            .unwrap();
        let error = running.exit.await.unwrap_err();
        assert_eq!(error.kind, EngineErrorKind::Lost, "{error}");
        assert!(error.to_string().contains("not made again"), "{error}");
        assert_eq!(sandbox.condition().await.unwrap(), Condition::Running);
        let opened = bench.engine.open(sandbox.id(), &secret()).await;
        let error = opened.unwrap_err();
        assert_eq!(error.kind, EngineErrorKind::Lost, "{error}");
        assert!(error.to_string().contains("not made again"), "{error}");
        bench.engine.destroy(sandbox.id()).await.unwrap();
        assert_eq!(sandbox.condition().await.unwrap(), Condition::Gone);
        bench.engine.destroy_workspace(sandbox.id()).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setup_whose_container_ends_says_so_and_not_that_its_relay_has() {
    both_ways(|bench| async move {
        let sandbox = bench.sandbox_with("ended", BUILD).await;
        let running = sandbox
            .exec(request(&["/bin/sleep", "1000"]))
            .await
            .unwrap();
        let name = format!("swe-forge-task-{}", sandbox.id());
        raw_docker()
            .kill_container(&name, None::<KillContainerOptions>)
            .await
            .unwrap();
        let error = running.exit.await.unwrap_err();
        assert_eq!(error.kind, EngineErrorKind::Lost, "{error}");
        assert!(error.to_string().contains("137"), "{error}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setup_that_was_started_before_is_not_taken_over() {
    both_ways(|bench| async move {
        let (id, user) = (bench.id("again"), next_user());
        let image = bench.image().await;
        let workspace = bench.workspace_spec(&id, user);
        let engine = &bench.engine;
        engine.create_workspace(&workspace, &image).await.unwrap();
        let mut spec = bench.sandbox_spec(&id, user);
        BUILD(&mut spec);
        let first = engine.create(&spec, &image, &secret()).await.unwrap();
        let error = engine.create(&spec, &image, &secret()).await.unwrap_err();
        assert_eq!(error.kind, EngineErrorKind::Conflict, "{error}");
        assert!(shell(&*first, "true").await.succeeded());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold() {
    both_ways(|bench| async move {
        let sandbox = bench.sandbox("limits").await;
        let done = shell(&*sandbox, "ulimit -c; ulimit -n; df -k /tmp | tail -1").await;
        let lines: Vec<&str> = done.stdout.lines().collect();
        assert_eq!(lines[..2], ["0", "16384"], "{done:?}");
        assert!(lines[2].contains(&(256 * 1024).to_string()), "{done:?}");
        let script = "printf '#!/bin/sh\\necho ran\\n' > /tmp/x; chmod +x /tmp/x; /tmp/x";
        assert_eq!(shell(&*sandbox, script).await.stdout, "ran\n");
        let bomb = "i=0; while [ $i -lt 200 ]; do sleep 30 & i=$((i+1)); done; wait";
        let running = sandbox
            .exec(request(&["/bin/sh", "-c", bomb]))
            .await
            .unwrap();
        while sandbox.usage().await.unwrap().pids_refused == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        // A socket needs no process. A relay does, and finds no room while the task has it all.
        let shared = bench.engine.describe().await.unwrap().shares_disk;
        if shared {
            let again = bench.engine.open(sandbox.id(), &secret()).await.unwrap();
            assert_eq!(again.kill_all().await.unwrap(), 0);
        } else {
            assert_eq!(sandbox.kill_all().await.unwrap(), 0);
        }
        let report = running.exit.await.unwrap();
        assert!(report.pids_refused > 0, "{report:?}");
        let again = bench.engine.open(sandbox.id(), &secret()).await.unwrap();
        assert!(shell(&*again, "true").await.succeeded());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn filling_what_counts_as_memory_costs_a_write_and_no_program() {
    with_bench(BOTH_WAYS[0], |bench| async move {
        let small = |spec: &mut SandboxSpec| spec.limits.memory_bytes = 128 << 20;
        let sandbox = bench.sandbox_with("small", small).await;
        let script = "dd if=/dev/zero of=/tmp/big bs=1M; dd if=/dev/zero of=/dev/shm/big bs=1M; \
                      stat -c %s /tmp/big /dev/shm/big";
        let done = shell(&*sandbox, script).await;
        let refused = done.stderr.matches("No space left on device").count();
        assert_eq!(refused, 2, "{done:?}");
        let sizes = format!("{}\n{}\n", 64 << 20, 32 << 20);
        assert_eq!(done.stdout, sizes, "{done:?}");
        assert_eq!(done.report.oom_kills, 0, "{done:?}");
        let done = shell(&*sandbox, "python3 -c 'print(1)'").await;
        assert!(done.succeeded(), "{done:?}");
    })
    .await;
}
