//! Setup as an author uses it: packages come from their registries and are there afterwards.

use forge_core::life_cycle::StateName;
use forge_core::{DiskQuota, Reason};

use crate::support::{Home, Script};

fn passes(setup: &str, solve: &str, image: &str) {
    let home = Home::new();
    home.find_registries();
    let script = Script {
        setup: Some(setup),
        solve,
        verify: solve,
        config: "resources: {memory_mb: 2048, processes: 400, cpu_cores: 2}\n",
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
