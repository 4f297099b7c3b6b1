//! The two profiles of sandboxes, the seccomp profile of both, and what setup leaves behind.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::sync::Arc;

use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{
    CreateContainerOptions, LogsOptions, RemoveContainerOptions, RemoveImageOptions,
    StartContainerOptions, WaitContainerOptions,
};
use forge_core::ownership::keys;
use forge_core::{Ending, Profile};
use forge_engine::images::BuildOptions;
use forge_engine::{Engine, EngineErrorKind, Inventory, ObjectKind, Sandbox};
use forge_engine_docker::DockerEngine;
use futures::StreamExt;
use nix::libc;

use crate::support::{
    BOTH_WAYS, Bench, both_ways, next_user, raw_docker, run, secret, shell, test_image, with_bench,
};

const PROBE: &str = include_str!("probe.py");
const PROFILE: &str = include_str!("../../seccomp/profile.json");

/// A system call: what it is called here, its number, and its arguments.
type Call = (&'static str, i64, &'static [i64]);

/// Sockets of a family, a type and a protocol.
const SOCKETS: [(&str, [i64; 3]); 11] = [
    ("packet", [17, 3, 0]),
    ("vsock", [40, 1, 0]),
    ("alg", [38, 5, 0]),
    ("netfilter", [16, 3, 12]),
    ("uevent", [16, 3, 15]),
    ("bluetooth", [31, 3, 1]),
    ("can", [29, 3, 1]),
    ("tipc", [30, 5, 0]),
    ("key", [15, 3, 2]),
    ("rds", [21, 5, 0]),
    ("xdp", [44, 3, 0]),
];

/// Refused whatever the arguments, none of which would make them succeed.
const REFUSED: [Call; 36] = [
    ("ptrace", libc::SYS_ptrace, &[16, 1, 0, 0]),
    (
        "process_vm_readv",
        libc::SYS_process_vm_readv,
        &[1, 0, 0, 0, 0, 0],
    ),
    (
        "process_vm_writev",
        libc::SYS_process_vm_writev,
        &[1, 0, 0, 0, 0, 0],
    ),
    (
        "process_madvise",
        libc::SYS_process_madvise,
        &[-1, 0, 0, 0, 0],
    ),
    ("process_mrelease", libc::SYS_process_mrelease, &[-1, 0]),
    ("kcmp", libc::SYS_kcmp, &[1, 1, 0, 0, 0]),
    ("pidfd_getfd", libc::SYS_pidfd_getfd, &[-1, 0, 0]),
    ("io_uring_setup", libc::SYS_io_uring_setup, &[1, 0]),
    ("userfaultfd", libc::SYS_userfaultfd, &[0]),
    ("bpf", libc::SYS_bpf, &[0, 0, 0]),
    (
        "perf_event_open",
        libc::SYS_perf_event_open,
        &[0, 0, 0, -1, 0],
    ),
    ("keyctl", libc::SYS_keyctl, &[0, -3, 1]),
    ("add_key", libc::SYS_add_key, &[0, 0, 0, 0, -3]),
    ("request_key", libc::SYS_request_key, &[0, 0, 0, -3]),
    ("mount", libc::SYS_mount, &[0, 0, 0, 0, 0]),
    ("umount2", libc::SYS_umount2, &[0, 0]),
    ("open_tree", libc::SYS_open_tree, &[-1, 0, 0]),
    ("fsopen", libc::SYS_fsopen, &[0, 0]),
    ("move_mount", libc::SYS_move_mount, &[-1, 0, -1, 0, 0]),
    ("unshare user", libc::SYS_unshare, &[0x1000_0000]),
    ("unshare mount", libc::SYS_unshare, &[0x2_0000]),
    ("setns", libc::SYS_setns, &[-1, 0]),
    ("chroot", libc::SYS_chroot, &[0]),
    ("pivot_root", libc::SYS_pivot_root, &[0, 0]),
    ("vmsplice", libc::SYS_vmsplice, &[-1, 0, 0, 0]),
    ("tee", libc::SYS_tee, &[-1, -1, 0, 0]),
    ("memfd_secret", libc::SYS_memfd_secret, &[0]),
    (
        "name_to_handle_at",
        libc::SYS_name_to_handle_at,
        &[-1, 0, 0, 0, 0],
    ),
    (
        "open_by_handle_at",
        libc::SYS_open_by_handle_at,
        &[-1, 0, 0],
    ),
    ("fanotify_init", libc::SYS_fanotify_init, &[0, 0]),
    ("clock_settime", libc::SYS_clock_settime, &[0, 0]),
    ("adjtimex", libc::SYS_adjtimex, &[0]),
    ("finit_module", libc::SYS_finit_module, &[-1, 0, 0]),
    ("swapon", libc::SYS_swapon, &[0, 0]),
    ("socketpair tipc", libc::SYS_socketpair, &[30, 5, 0, 0]),
    (
        "clone user",
        libc::SYS_clone,
        &[0x1000_0000 | 17, 0, 0, 0, 0],
    ),
];

/// What a container needs and still has, with the answer of the kernel to nonsense.
const KEPT: [(Call, &str); 9] = [
    (("unix", libc::SYS_socket, &[1, 1, 0]), "done"),
    (("inet6", libc::SYS_socket, &[10, 1, 0]), "done"),
    (("routes", libc::SYS_socket, &[16, 3, 0]), "done"),
    (("splice", libc::SYS_splice, &[-1, 0, -1, 0, 1, 0]), "EBADF"),
    (("memfd_create", libc::SYS_memfd_create, &[0, 0]), "EFAULT"),
    (("io_submit", libc::SYS_io_submit, &[0, 1, 0]), "EINVAL"),
    (("mq_unlink", libc::SYS_mq_unlink, &[0]), "EFAULT"),
    (("audit", libc::SYS_socket, &[16, 3, 9]), "EPROTONOSUPPORT"),
    (("clone3", libc::SYS_clone3, &[0, 0]), "ENOSYS"),
];

fn calls() -> (String, BTreeMap<String, String>) {
    let sockets = SOCKETS.map(|(name, arguments)| (name, libc::SYS_socket, arguments.to_vec()));
    let refused = REFUSED.map(|(name, number, arguments)| (name, number, arguments.to_vec()));
    let kept = KEPT.map(|((name, number, arguments), _)| (name, number, arguments.to_vec()));
    let eperm = sockets.iter().chain(&refused).map(|call| (call.0, "EPERM"));
    let expected = eperm.chain(KEPT.map(|((name, ..), answer)| (name, answer)));
    let expected = expected.map(|(name, answer)| (name.to_owned(), answer.to_owned()));
    let calls = [&sockets[..], &refused, &kept].concat();
    (serde_json::to_string(&calls).unwrap(), expected.collect())
}

fn answers(stdout: &str) -> BTreeMap<String, String> {
    serde_json::from_str(stdout).unwrap_or_else(|error| panic!("{stdout}: {error}"))
}

async fn build(bench: &Bench, part: &str) -> Arc<dyn Sandbox> {
    let build = |spec: &mut forge_core::SandboxSpec| spec.profile = Profile::Build;
    bench.sandbox_with(part, build).await
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_reach_beyond_a_sandbox_are_refused_in_both_profiles() {
    with_bench(BOTH_WAYS[0], |bench| async move {
        let (calls, expected) = calls();
        for sandbox in [bench.sandbox("run").await, build(&bench, "build").await] {
            let done = run(&*sandbox, &["python3", "-c", PROBE, &calls]).await;
            assert_eq!(answers(&done.stdout), expected, "{done:?}");
        }
    })
    .await;
}

/// Without `forge-init`, which refuses some of them as well.
#[tokio::test(flavor = "multi_thread")]
async fn the_engine_refuses_them_by_the_profile_alone() {
    let (calls, expected) = calls();
    let docker = raw_docker();
    let name = format!("swe-forge-test-{}", uuid::Uuid::new_v4().simple());
    let command = ["python3", "-c", PROBE, &calls];
    let body = ContainerCreateBody {
        image: Some(test_image()),
        entrypoint: Some(command.map(str::to_owned).to_vec()),
        labels: Some([(keys::OWNER.to_owned(), name.clone())].into()),
        user: Some("200000:200000".to_owned()),
        network_disabled: Some(true),
        host_config: Some(HostConfig {
            cap_drop: Some(vec!["ALL".to_owned()]),
            security_opt: Some(vec![format!("seccomp={PROFILE}")]),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    let options = CreateContainerOptions {
        name: Some(name.clone()),
        ..CreateContainerOptions::default()
    };
    docker.create_container(Some(options), body).await.unwrap();
    let start = docker.start_container(&name, None::<StartContainerOptions>);
    let started = start.await;
    let mut waiting = docker.wait_container(&name, None::<WaitContainerOptions>);
    let ended = waiting.next().await;
    let options = LogsOptions {
        stdout: true,
        stderr: true,
        ..LogsOptions::default()
    };
    let mut stdout = String::new();
    let mut lines = docker.logs(&name, Some(options));
    while let Some(Ok(line)) = lines.next().await {
        stdout += &line.to_string();
    }
    let options = RemoveContainerOptions {
        force: true,
        ..RemoveContainerOptions::default()
    };
    let removed = docker.remove_container(&name, Some(options)).await;
    started.unwrap();
    removed.unwrap();
    assert_eq!(answers(&stdout), expected, "{ended:?}");
}

/// 32-bit calls have other numbers, so a filter of 64-bit ones says nothing about them.
#[cfg(target_arch = "x86_64")]
#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_makes_32_bit_calls_is_ended() {
    with_bench(BOTH_WAYS[0], |bench| async move {
        let sandbox = bench.sandbox("narrow").await;
        let script = "import ctypes, mmap\n\
                      memory = mmap.mmap(-1, 4096, prot=7)\n\
                      # getpid by int 0x80\n\
                      memory.write(bytes.fromhex('b814000000cd80c3'))\n\
                      address = ctypes.addressof(ctypes.c_char.from_buffer(memory))\n\
                      print(ctypes.CFUNCTYPE(ctypes.c_int)(address)())";
        let done = run(&*sandbox, &["python3", "-c", script]).await;
        assert_eq!(done.stdout, "");
        let ending = &done.report.ending;
        assert!(matches!(ending, Ending::Signalled(_)), "{done:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_the_machine_is_hidden_or_cannot_be_written() {
    with_bench(BOTH_WAYS[0], |bench| async move {
        for sandbox in [bench.sandbox("run").await, build(&bench, "build").await] {
            for forbidden in [
                "head -c 1 /proc/kcore | grep -q .",
                "head -c 1 /proc/interrupts | grep -q .",
                "head -c 1 /proc/timer_list | grep -q .",
                "ls /sys/firmware | grep -q .",
                "ls /sys/devices/virtual/powercap | grep -q .",
                "echo h > /proc/sysrq-trigger",
                "echo '|/tmp/x' > /proc/sys/kernel/core_pattern",
                "echo 1 > /proc/sys/net/ipv4/ip_forward",
                "echo 1 > /sys/kernel/uevent_helper",
                "find /sys/fs/cgroup -name release_agent | grep -q .",
                "find /sys/fs/cgroup -name devices.allow -exec sh -c 'echo a > $0' {} \\; -print \
                 | grep -q . && test -w /sys/fs/cgroup",
                "mkdir /sys/fs/cgroup/x",
                "mount -t tmpfs none /mnt",
                "mknod /tmp/disk b 8 0",
                "mknod /tmp/memory c 1 1",
                "ls /proc/1/root/",
                "cat /proc/1/environ",
                "test -r /proc/1/mem && head -c 1 /proc/1/mem",
                "ls /var/run/docker.sock /run/docker.sock",
                "chroot / true",
                "unshare -U true",
                "nsenter -t 1 -m true",
                "ip link set lo down",
                "hostname other",
            ] {
                let done = shell(&*sandbox, forbidden).await;
                assert!(!done.succeeded(), "{forbidden}: {done:?}");
            }
            let options = shell(&*sandbox, "grep ' /tmp ' /proc/mounts").await.stdout;
            for option in ["nosuid", "nodev", "noatime", "nr_inodes=32768"] {
                assert!(options.contains(option), "{options}");
            }
            assert!(!options.contains("noexec"), "{options}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn setup_is_root_with_the_capabilities_that_installing_needs() {
    both_ways(|bench| async move {
        let sandbox = build(&bench, "build").await;
        let seen = sandbox.attestation();
        let capabilities = Profile::Build.capabilities();
        assert_eq!(seen.capabilities, capabilities);
        assert_eq!(seen.bounding_capabilities, capabilities);
        assert_eq!((seen.uid, seen.gid), (0, 0));
        assert!(seen.no_new_privileges && !seen.read_only_root, "{seen:?}");
        assert_eq!(seen.seccomp_mode, 2);
        assert_eq!(seen.interfaces, ["lo"]);
        for allowed in [
            "echo 1 > /usr/local/bin/x && chmod 755 /usr/local/bin/x",
            "echo 1 > /run/x",
            "touch /tmp/x && chown 65534:65534 /tmp/x && chmod 600 /tmp/x && echo 1 > /tmp/x",
            "install -o 100 -g 100 -m 700 -d /var/cache/x && touch /var/cache/x/a",
            "python3 -c 'import os; os.setgroups([5]); os.setgid(5); os.setuid(5); os.getuid() == 5'",
        ] {
            let done = shell(&*sandbox, allowed).await;
            assert!(done.succeeded(), "{allowed}: {done:?}");
        }
        for forbidden in [
            "touch /workspace/.swe-forge/x",
            "python3 -c 'import os; os.chroot(\"/\")'",
            "python3 -c 'import os; os.nice(-5)'",
        ] {
            let done = shell(&*sandbox, forbidden).await;
            assert!(!done.succeeded(), "{forbidden}: {done:?}");
        }
    })
    .await;
}

/// A compiler, threads, processes, a database, sockets and git: what tests are made of.
#[tokio::test(flavor = "multi_thread")]
async fn ordinary_tools_work() {
    with_bench(BOTH_WAYS[0], |bench| async move {
        let sandbox = bench.sandbox_with("tools", |spec| {
            spec.limits.memory_bytes *= 2;
            spec.limits.processes = 200;
        });
        let sandbox = sandbox.await;
        for (name, script) in [
            (
                "compiler and threads",
                "printf '#include <pthread.h>\\nstatic void *f(void *x) { return x; }\\n\
                 int main(void) { pthread_t t; return pthread_create(&t, 0, f, 0) \
                 || pthread_join(t, 0); }\\n' > a.c && gcc -pthread a.c -o a && ./a",
            ),
            (
                "processes",
                "printf 'import multiprocessing as m\\nif __name__ == \"__main__\":\\n\
                 \\040for way in (\"fork\", \"spawn\", \"forkserver\"):\\n\
                 \\040 with m.get_context(way).Pool(2) as p: \
                 assert p.map(abs, [-1, 2]) == [1, 2]\\n' > p.py && python3 p.py",
            ),
            (
                "database",
                "python3 -c 'import sqlite3; c = sqlite3.connect(\"x.db\"); \
                 c.execute(\"pragma journal_mode=wal\"); c.execute(\"create table t(a)\"); c.commit()'",
            ),
            (
                "sockets",
                "python3 -c 'import socket, asyncio; s = socket.create_server((\"127.0.0.1\", 0)); \
                 socket.create_connection(s.getsockname()); socket.socketpair(); \
                 asyncio.run(asyncio.sleep(0))'",
            ),
            (
                "version control",
                "export HOME=/tmp && git init -q g && cd g && git -c user.name=a -c user.email=a@b \
                 commit -q --allow-empty -m x && git gc -q && git fsck",
            ),
            (
                "cargo",
                "export HOME=/tmp CARGO_HOME=/tmp/c CARGO_NET_OFFLINE=true && cargo init -q c \
                 && cd c && cargo test -q",
            ),
            ("node", "node -e 'new (require(\"worker_threads\").Worker)(\"1\", {eval: true})'"),
            (
                "files",
                "mkfifo f && flock -n lock true && timeout 5 true && nice true && ls -l /proc/self/fd",
            ),
        ] {
            let done = shell(&*sandbox, script).await;
            assert!(done.succeeded(), "{name}: {done:?}");
        }
    })
    .await;
}

async fn forget(image: &str) {
    let options = RemoveImageOptions {
        force: true,
        ..RemoveImageOptions::default()
    };
    let removed = raw_docker().remove_image(image, Some(options), None).await;
    assert!(removed.is_ok(), "{image}: {removed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_setup_installs_stays_and_what_it_does_to_pid_1_does_not() {
    both_ways(|bench| async move {
        let (engine, image, user) = (&bench.engine, bench.image().await, next_user());
        let setup = bench.sandbox_with("setup", |spec| {
            spec.profile = Profile::Build;
            spec.env.insert("GIVEN".into(), "to-setup-only".into());
        });
        let setup = setup.await;
        let script = "printf '#!/bin/sh\\necho installed\\n' > /usr/local/bin/tool \
                      && chmod 755 /usr/local/bin/tool && echo 1 > /workspace/left && echo 1 > /tmp/x \
                      && rm -f /.swe-forge/init && cp /bin/true /.swe-forge/init && rm -f /usr/bin/nano \
                      && rm -rf /srv && ln -s /etc /srv";
        let done = shell(&*setup, script).await;
        assert!(done.succeeded(), "{done:?}");
        assert_eq!(setup.kill_all().await.unwrap(), 0);
        let first = engine.snapshot(setup.id(), &image).await.unwrap();
        // As after a crash: the same again takes the place of the first.
        let snapshot = engine.snapshot(setup.id(), &image).await.unwrap();
        assert_eq!((&snapshot.digest, &snapshot.env), (&image.digest, &image.env));
        assert_ne!(snapshot.runnable, image.runnable);
        let gone = raw_docker().inspect_image(&first.runnable).await;
        assert!(gone.is_err(), "{gone:?}");
        let found = raw_docker().inspect_image(&snapshot.runnable).await.unwrap();
        let config = serde_json::to_string(&found.config).unwrap();
        assert!(!config.contains("to-setup-only"), "{config}");

        let listed = engine.list(Some(&bench.owner)).await.unwrap();
        let images = listed.iter().filter(|object| object.kind == ObjectKind::Image);
        let images: Vec<_> = images.collect();
        assert_eq!(images.len(), 1, "{images:?}");
        assert_eq!(images[0].label(keys::ROLE), Some("snapshot"));
        assert_eq!(images[0].label(keys::HOLDER), Some("1@1"));
        engine.destroy(setup.id()).await.unwrap();

        let id = bench.id("after");
        let workspace = bench.workspace_spec(&id, user);
        engine.create_workspace(&workspace, &snapshot).await.unwrap();
        let spec = bench.sandbox_spec(&id, user);
        let sandbox = engine.create(&spec, &snapshot, &secret()).await.unwrap();
        assert_eq!(sandbox.attestation().capabilities, 0);
        let done = shell(&*sandbox, "tool; ls /workspace /tmp; test -L /srv && echo link").await;
        assert_eq!(done.stdout, "installed\n/tmp:\n\n/workspace:\noutput\nlink\n", "{done:?}");
        // It is in use, so it cannot go before its container does.
        let error = engine.remove(images[0]).await.unwrap_err();
        assert_eq!(error.kind, EngineErrorKind::Conflict, "{error}");
        engine.destroy(&id).await.unwrap();
        engine.remove(images[0]).await.unwrap();
        engine.remove(images[0]).await.unwrap();
        let gone = raw_docker().inspect_image(&snapshot.runnable).await;
        assert!(gone.is_err(), "{gone:?}");
        let error = engine.create(&spec, &snapshot, &secret()).await.unwrap_err();
        assert_eq!(error.kind, EngineErrorKind::NotFound, "{error}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setup_that_changes_only_the_workspace_makes_no_image() {
    both_ways(|bench| async move {
        let image = bench.image().await;
        let setup = build(&bench, "setup").await;
        let done = shell(&*setup, "echo 1 > /workspace/x; echo 1 > /tmp/x").await;
        assert!(done.succeeded(), "{done:?}");
        assert_eq!(setup.kill_all().await.unwrap(), 0);
        let snapshot = bench.engine.snapshot(setup.id(), &image).await.unwrap();
        assert_eq!(snapshot, image);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_runs_that_image_or_none() {
    with_bench(BOTH_WAYS[0], |bench| async move {
        let engine = &bench.engine;
        let base = raw_docker().inspect_image(&test_image()).await.unwrap();
        let id = base.id.unwrap();
        let name = test_image();
        let name = name.trim_end_matches(":latest");
        let pinned = engine.prepare_image(&format!("{name}@{id}")).await.unwrap();
        assert_eq!(pinned.digest, id);
        assert_eq!(pinned.runnable, bench.image().await.runnable);
        let other = format!("sha256:{}", "0".repeat(64));
        for (reference, kind) in [
            (format!("{name}@{other}"), EngineErrorKind::NotFound),
            (format!("other/name@{id}"), EngineErrorKind::Rejected),
            (
                format!("{name}@sha256:{}", &id[7..20]),
                EngineErrorKind::Rejected,
            ),
        ] {
            let error = engine.prepare_image(&reference).await.unwrap_err();
            assert_eq!(error.kind, kind, "{error}");
        }
    })
    .await;
}

async fn derive_image(engine: &DockerEngine, name: &str) {
    let dockerfile = format!("FROM {}\nLABEL test={name}\n", test_image());
    let mut header = tar::Header::new_gnu();
    header.set_size(dockerfile.len() as u64);
    header.set_mode(0o644);
    let mut builder = tar::Builder::new(Vec::new());
    let contents = dockerfile.as_bytes();
    builder
        .append_data(&mut header, "Dockerfile", contents)
        .unwrap();
    let context = Cursor::new(builder.into_inner().unwrap());
    let options = BuildOptions {
        tags: vec![name.to_owned()],
        ..BuildOptions::default()
    };
    let images = engine.images().unwrap();
    images
        .build_image(Box::pin(context), &options, &|_| ())
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_s_authorities_are_where_programs_look() {
    with_bench(BOTH_WAYS[0], |bench| async move {
        let authorities = "-----BEGIN CERTIFICATE-----\nours\n-----END CERTIFICATE-----\n";
        let engine = bench.stranger_with(|options| {
            options.certificates = Some(Arc::from(authorities.as_bytes()));
            options.cargo_config = Some("[net]\nretry = 1\n".into());
        });
        let engine = engine.await;
        // An image of its own: forms of one image that are prepared in two ways replace each other.
        let name = format!("swe-forge-test/trust:{}", bench.run.short());
        derive_image(&engine, &name).await;
        let image = engine.prepare_image(&name).await.unwrap();
        let (id, user) = (bench.id("trust"), next_user());
        let workspace = bench.workspace_spec(&id, user);
        engine.create_workspace(&workspace, &image).await.unwrap();
        let spec = bench.sandbox_spec(&id, user);
        let sandbox = engine.create(&spec, &image, &secret()).await.unwrap();
        let script = "grep -c ours /.swe-forge/certificates.pem \
                      /etc/ssl/certs/ca-certificates.crt /usr/local/share/ca-certificates/*.crt; \
                      cmp /.swe-forge/certificates.pem /etc/ssl/certs/ca-certificates.crt; \
                      grep -c BEGIN /etc/ssl/certs/ca-certificates.crt; cat /.cargo/config.toml";
        let done = shell(&*sandbox, script).await;
        engine.destroy(&id).await.unwrap();
        forget(&image.runnable).await;
        forget(&name).await;
        let lines: Vec<&str> = done.stdout.lines().collect();
        assert_eq!(
            lines[..3],
            [
                "/.swe-forge/certificates.pem:1",
                "/etc/ssl/certs/ca-certificates.crt:1",
                "/usr/local/share/ca-certificates/swe-forge.crt:1",
            ],
            "{done:?}"
        );
        assert!(lines[3].parse::<u32>().unwrap() > 100, "{done:?}");
        assert_eq!(lines[4..], ["[net]", "retry = 1"]);
    })
    .await;
}
