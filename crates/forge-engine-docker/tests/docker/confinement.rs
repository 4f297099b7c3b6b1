//! What the inside of a sandbox can and cannot do.

use forge_core::{Profile, SandboxSpec};
use forge_engine::Engine;

use crate::support::{BOTH_WAYS, both_ways, request, run, secret, shell, with_bench};

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
            let again = bench.engine.open(sandbox.id(), &secret()).await.unwrap();
            assert!(shell(&*again, "true").await.succeeded());
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
        let again = bench.engine.open(sandbox.id(), &secret()).await.unwrap();
        assert!(shell(&*again, "true").await.succeeded());
        assert_eq!(again.kill_all().await.unwrap(), 0);
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
