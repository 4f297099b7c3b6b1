//! Setup as an author uses it: packages come from their registries and are there afterwards.

use forge_core::life_cycle::StateName;
use forge_core::{Cause, DiskQuota, Reason};

use crate::support::{Home, Script};

fn passes(setup: &str, solve: &str, image: &str) {
    let home = Home::new();
    home.find_registries();
    let script = Script {
        setup: Some(setup),
        solve,
        verify: solve,
        config: "resources: {memory_mb: 2048, processes: 400, cpu_cores: 2, \
                 timeout_seconds: 3600, verify_timeout_seconds: 3600}\n",
    };
    let (code, task) = home.run(&home.task_on("install", script, image));
    let log = String::from_utf8_lossy(&home.log(&task, "setup")).into_owned();
    assert_eq!(
        (code, task.state),
        (0, StateName::Completed),
        "{}\n{log}",
        task.message
    );
}

#[test]
fn pip_installs_a_wheel_and_builds_a_source_with_c() {
    passes(
        "pip install -q six==1.16.0 && pip install -q --no-binary :all: --no-build-isolation \
         --no-deps markupsafe==2.1.5",
        "python3 -c 'import six, markupsafe; assert markupsafe.escape(\"<\") == \"&lt;\"'",
        "swe-forge/python-base:latest",
    );
}

#[test]
fn npm_installs_a_package_with_a_native_binary() {
    passes(
        "mkdir -p /opt/app && cd /opt/app && npm install --silent esbuild@0.21.5",
        "/opt/app/node_modules/.bin/esbuild --version",
        "swe-forge/node-base:latest",
    );
}

#[test]
fn cargo_builds_with_a_dependency() {
    passes(
        "cargo init -q --name app src/app && cd src/app && cargo add -q itoa@1.0.11 && \
         CARGO_HOME=/opt/cargo cargo fetch -q",
        "cd src/app && mkdir -p /tmp/c && cp -r /opt/cargo/. /tmp/c && \
         CARGO_HOME=/tmp/c cargo build -q --offline --target-dir /tmp/target",
        "swe-forge/rust-base:latest",
    );
}

#[test]
fn apt_installs_a_package_and_the_agent_is_no_root() {
    passes(
        "apt-get -qq update && apt-get -qq install -y bc > /dev/null && id -u > /root-was-here",
        "test \"$(echo 6*7 | bc)\" = 42 && test -e /root-was-here && test \"$(id -u)\" -ge 200000 && \
         ! touch /usr/x 2>/dev/null && echo changed >> src/file.txt",
        "swe-forge/multi-base:latest",
    );
}

#[test]
fn a_git_host_that_is_no_registry_is_refused_in_words_a_person_understands() {
    let home = Home::new();
    home.find_registries();
    let script = Script {
        setup: Some("git clone -q https://git.invalid/a/b.git"),
        ..Script::default()
    };
    let (code, task) = home.run(&home.task("clone", script));
    assert_eq!((code, task.reason), (1, Some(Reason::SetupFailed)));
    let log = String::from_utf8(home.log(&task, "setup")).unwrap();
    assert!(log.contains("git.invalid:443 (not_on_allowlist)"), "{log}");
}

#[test]
fn writing_past_the_disk_gets_no_space_and_no_kill() {
    let home = Home::new();
    let script = Script {
        solve: "dd if=/dev/zero of=output/big bs=1M count=400 2>&1 | grep -q 'No space left' && \
                rm output/big && echo fits > output/small",
        config: "resources: {disk_gb: 0.25, memory_mb: 128}\n",
        ..Script::default()
    };
    let (code, task) = home.run(&home.task("writer", script));
    assert_eq!(task.disk_quota, Some(DiskQuota::Loop));
    // The limit on a single file is the same size: either of the two stops it.
    assert!(
        code == 0 || task.reason == Some(Reason::DiskFull),
        "{task:#?}"
    );
    assert_eq!(task.resources.oom_kills, 0);
}

/// Runs a task whose setup leaves something behind that only the engine would stumble over.
fn left_by_setup(setup: &str, verify: &str) -> (i32, forge_api::report::TaskReport) {
    let home = Home::new();
    let script = Script {
        setup: Some(setup),
        verify,
        config: "resources: {disk_gb: 0.25}\n",
        ..Script::default()
    };
    home.run(&home.task("leaver", script))
}

#[test]
fn a_user_list_that_would_hang_the_engine_ends_the_task_in_words() {
    for (setup, words) in [
        (
            "rm /etc/passwd && mkfifo /etc/passwd",
            "/etc/passwd is a named pipe",
        ),
        (
            "rm /etc/group && mkfifo /etc/group",
            "/etc/group is a named pipe",
        ),
        // The first look follows a link, the engine's runtime follows it once mounts are in place.
        (
            "ln -sf /proc/self/fd/0 /etc/passwd",
            "/etc/passwd is a link to nothing",
        ),
        (
            "mkfifo /workspace/pipe && ln -sf /workspace/pipe /etc/passwd",
            "/etc/passwd is a link to nothing",
        ),
        ("ln -sf /dev/urandom /etc/group", "/etc/group is a"),
        (
            "ln -sf group /etc/group",
            "/etc/group is a link that cannot be followed",
        ),
        (
            "rm /etc/passwd && mkdir /etc/passwd",
            "/etc/passwd is a folder",
        ),
        ("ln -sf /usr /etc/passwd", "/etc/passwd is a folder"),
        (
            "truncate -s 100M /etc/passwd",
            "/etc/passwd is larger than 1 MiB",
        ),
    ] {
        let (code, task) = left_by_setup(setup, "true");
        assert_eq!(
            (code, task.reason, task.cause),
            (1, Some(Reason::WorkspaceUnusable), Some(Cause::Task)),
            "{setup}: {task:#?}"
        );
        assert!(task.message.contains(words), "{setup}: {}", task.message);
    }
}

#[test]
fn what_setup_puts_in_the_way_of_the_engine_is_in_nobodys_way() {
    for (setup, verify) in [
        // A link is followed once, and what it led to stands in its place.
        (
            "mv /etc/passwd /opt/users && ln -s /opt/users /etc/passwd",
            "test ! -L /etc/passwd && grep -q ^root: /etc/passwd",
        ),
        ("rm /etc/passwd /etc/group", "test ! -e /etc/passwd"),
        ("ln -f /usr/bin/env /etc/passwd", "test -f /etc/passwd"),
        (
            "rm -rf /etc/mtab /etc/ssl /run /media && mkfifo /etc/mtab /run /media /.cargo && \
             ln -s /workspace /etc/ssl && ln -sfT /etc /.swe-forge/certificates.pem && \
             printf /opt/absent.so > /etc/ld.so.preload",
            "test ! -p /etc/mtab && test -p /run && test ! -L /.swe-forge/certificates.pem",
        ),
        // Gains nothing: nobody in a sandbox gains anything by it.
        (
            "cp /bin/cat /opt/cat && chmod 4755 /opt/cat && cp /etc/hostname /opt/closed && \
             chmod 400 /opt/closed",
            "/opt/cat /dev/null && ! /opt/cat /opt/closed",
        ),
    ] {
        let (code, task) = left_by_setup(setup, verify);
        assert_eq!(
            (code, task.state),
            (0, StateName::Completed),
            "{setup}: {}",
            task.message
        );
    }
}

#[test]
fn what_setup_writes_at_the_last_moment_is_weighed_before_it_is_kept() {
    for setup in [
        // Takes up nothing here, and every byte of it in an image.
        "for i in 1 2 3; do truncate -s 200M /opt/holes$i; done",
        "for i in 1 2 3; do head -c 120M /dev/zero > /opt/burst$i; done",
        "mkdir /opt/many && cd /opt/many && seq 70000 | xargs touch",
    ] {
        let (code, task) = left_by_setup(setup, "true");
        assert_eq!(
            (code, task.reason, task.cause),
            (1, Some(Reason::DiskFull), Some(Cause::Task)),
            "{setup}: {}",
            task.message
        );
    }
}
