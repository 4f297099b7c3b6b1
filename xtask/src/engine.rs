//! Finds a Docker engine that answers, or installs and starts one.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::build::Built;
use crate::shell::{self, Failure};

/// Distribution packages for an engine and for making base images.
const PACKAGES: [&str; 4] = ["docker.io", "iptables", "iproute2", "mmdebstrap"];
/// How long a fresh engine may take to answer.
const START_PATIENCE: Duration = Duration::from_secs(300);
const LOG: &str = "/var/log/swe-forge-dockerd.log";

/// Makes sure that an engine answers.
pub(crate) fn ensure(built: &Built) -> Result<(), Failure> {
    if answers(built)? {
        shell::step("a container engine answers");
        return Ok(());
    }
    let Some(why_not) = why_we_cannot_help() else {
        install()?;
        start()?;
        return wait(built);
    };
    Err(Failure::new(format!(
        "no container engine answers, and {why_not}.\nRun as root:\n  \
         apt-get update && apt-get install -y --no-install-recommends {}\n  \
         systemctl start docker      (or, without systemd: dockerd &)\n  \
         usermod -aG docker \"$USER\"  (then log in anew)",
        PACKAGES.join(" ")
    )))
}

/// Whether the engine that swe-forge itself would use answers.
fn answers(built: &Built) -> Result<bool, Failure> {
    let mut command = Command::new(&built.binary);
    command
        .args(["doctor", "--format", "json"])
        .env("SWE_FORGE_INIT", &built.init)
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    let output = command
        .output()
        .map_err(|error| Failure::new(format!("swe-forge could not be started: {error}")))?;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| Failure::new(format!("swe-forge doctor printed no JSON: {error}")))?;
    Ok(!report["engine"].is_null())
}

fn why_we_cannot_help() -> Option<&'static str> {
    if std::env::var_os("DOCKER_HOST").is_some() {
        return Some("DOCKER_HOST names one that is not ours to start");
    }
    if !shell::is_root() {
        return Some("only root may install and start one");
    }
    if !shell::has("dockerd") && !shell::has("apt-get") {
        return Some("this machine has no apt-get to install one with");
    }
    None
}

fn install() -> Result<(), Failure> {
    if shell::has("dockerd") {
        return Ok(());
    }
    install_packages(&PACKAGES)
}

/// Installs distribution packages.
pub(crate) fn install_packages(packages: &[&str]) -> Result<(), Failure> {
    shell::step(&format!("installing {}", packages.join(", ")));
    let mut update = Command::new("apt-get");
    shell::run(update.args(["update", "-qq"]))?;
    let mut install = Command::new("apt-get");
    install
        .args(["install", "-y", "-qq", "--no-install-recommends"])
        .args(packages)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdout(Stdio::null());
    shell::run(&mut install)
}

fn start() -> Result<(), Failure> {
    if Path::new("/run/systemd/system").exists() {
        shell::step("starting the engine with systemd");
        return shell::run(Command::new("systemctl").args(["start", "docker"]));
    }
    shell::step(&format!("starting dockerd; its log is {LOG}"));
    let log = File::create(LOG)
        .and_then(|log| Ok((log.try_clone()?, log)))
        .map_err(|error| Failure::new(format!("{LOG} cannot be written: {error}")))?;
    // In a session of its own, so that Ctrl-C here does not end it.
    Command::new("setsid")
        .arg("dockerd")
        .stdin(Stdio::null())
        .stdout(log.0)
        .stderr(log.1)
        .spawn()
        .map(|_| ())
        .map_err(|error| Failure::new(format!("dockerd could not be started: {error}")))
}

fn wait(built: &Built) -> Result<(), Failure> {
    let deadline = Instant::now() + START_PATIENCE;
    while Instant::now() < deadline {
        if answers(built)? {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(300));
    }
    let log = std::fs::read_to_string(LOG).unwrap_or_default();
    let tail: Vec<&str> = log.lines().rev().take(15).collect();
    let tail: Vec<&str> = tail.into_iter().rev().collect();
    Err(Failure::new(format!(
        "the engine did not answer within {} s; the end of its log:\n{}",
        START_PATIENCE.as_secs(),
        tail.join("\n")
    )))
}
