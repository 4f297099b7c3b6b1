//! What is done from outside while tasks run: the proxy ended, a listener put beside the proxy, a
//! container paused, programs told that it is their turn.

use std::path::Path;

use serde_json::Value;

use super::outside::{Outside, docker, remark};
use super::scenes::Stage;
use crate::files::{attempts, has_said, says};
use crate::shell::{self, Failure};

/// What was found of a process's proxy: containers or networks.
pub(super) fn of_process(kind: &str, pid: u32) -> Option<String> {
    let format = match kind {
        "network" => "{{.Name}} {{.Label \"swe-forge.holder\"}}",
        _ => "{{.Names}} {{.Label \"swe-forge.holder\"}}",
    };
    let listing = match kind {
        "network" => docker(&[
            "network",
            "ls",
            "--filter",
            "label=swe-forge.role=egress",
            "--format",
            format,
        ]),
        role => docker(&[
            "ps",
            "--filter",
            &format!("label=swe-forge.role={role}"),
            "--format",
            format,
        ]),
    };
    let part = format!(":{pid}:");
    let listing = listing.ok()?;
    let line = listing.lines().find(|line| line.contains(&part))?;
    line.split_whitespace().next().map(str::to_owned)
}

/// Puts a listener beside the proxy as soon as there is one, and takes it away when every task
/// with a network is through.
pub(super) struct Rebinding<'a> {
    outside: &'a Outside,
    tasks: usize,
    network: Option<String>,
    is_over: bool,
}

impl<'a> Rebinding<'a> {
    pub(super) fn new(outside: &'a Outside, tasks: usize) -> Self {
        Self {
            outside,
            tasks,
            network: None,
            is_over: tasks == 0,
        }
    }

    pub(super) fn meanwhile(&mut self, pid: u32, out: &Path) {
        match &self.network {
            _ if self.is_over => {}
            None => {
                // The proxy first: it shall have the address after the engine's.
                if of_process("egress", pid).is_none() {
                    return;
                }
                let Some(network) = of_process("network", pid) else {
                    return;
                };
                if let Err(failure) = self.outside.stand_beside(&network) {
                    remark(&failure.to_string());
                    self.is_over = true;
                }
                self.network = Some(network);
            }
            Some(network) => {
                if through(out) >= self.tasks {
                    self.outside.step_aside(network);
                    self.is_over = true;
                }
            }
        }
    }

    /// In case the run ended early.
    pub(super) fn finish(&mut self) {
        if let Some(network) = self.network.take() {
            self.outside.step_aside(&network);
            if !self.is_over {
                drop(docker(&["network", "rm", &network]));
            }
        }
    }
}

/// How many attempts have written the log of their connections.
fn through(out: &Path) -> usize {
    let logs = attempts(out).into_iter();
    logs.filter(|attempt| attempt.join("connections.jsonl").is_file())
        .count()
}

/// Lets the proxy reach the allowed host once the task has been refused, and ends the proxy once a
/// connection to that host is held.
pub(super) struct Outage<'a> {
    outside: &'a Outside,
    ends: bool,
    is_let_in: bool,
    is_done: bool,
}

impl<'a> Outage<'a> {
    /// The whole event.
    pub(super) const fn new(outside: &'a Outside) -> Self {
        Self {
            outside,
            ends: true,
            is_let_in: false,
            is_done: false,
        }
    }

    /// Its first half: the allowed host is reached, and nothing ends.
    pub(super) const fn only_let_in(outside: &'a Outside) -> Self {
        Self {
            ends: false,
            ..Self::new(outside)
        }
    }

    pub(super) fn meanwhile(&mut self, pid: u32, out: &Path) {
        if self.is_done {
            return;
        }
        let may_enter = !self.is_let_in && (has_said(out, "refused") || has_said(out, "denied:"));
        if may_enter && let Some(proxy) = of_process("egress", pid) {
            self.outside.let_in(&proxy);
            self.is_let_in = true;
            self.is_done = !self.ends;
        }
        let is_held = self.is_let_in && self.ends && has_said(out, "held");
        if is_held && let Some(proxy) = of_process("egress", pid) {
            if let Err(failure) = docker(&["kill", &proxy]) {
                remark(&failure.to_string());
            }
            self.is_done = true;
        }
    }

    /// Whether there was anything to end.
    pub(super) const fn happened(&self) -> bool {
        self.is_done
    }
}

/// In how many attempts' solve a word has been said.
pub(super) fn count_said(out: &Path, word: &str) -> usize {
    let logs = attempts(out).into_iter();
    logs.filter(|attempt| says(&attempt.join("solve.log"), word))
        .count()
}

/// Whether anything has been collected of an attempt.
pub(super) fn has_kept(out: &Path) -> bool {
    attempts(out).iter().any(|attempt| {
        let kept = std::fs::read_dir(attempt.join("artifacts/output"));
        kept.is_ok_and(|mut entries| entries.next().is_some())
    })
}

/// The running container of a task of a process's.
pub(super) fn sandbox_of(pid: u32, task: &str) -> Option<String> {
    let filter = format!("label=swe-forge.task_id={task}");
    let format = "{{.Names}} {{.Label \"swe-forge.holder\"}}";
    let words = ["ps", "--filter", &filter, "--format", format];
    let listing = docker(&words).ok()?;
    let part = format!(":{pid}:");
    let line = listing.lines().find(|line| line.contains(&part))?;
    line.split_whitespace().next().map(str::to_owned)
}

/// Tells the program in a container that it is its turn.
pub(super) fn cue(container: &str) -> bool {
    docker(&["exec", container, "touch", "/tmp/cue"]).is_ok()
}

/// Tells each of several programs that it is its turn, once another has said a word.
pub(super) struct Cues(Vec<(&'static str, &'static str)>);

impl Cues {
    /// Each with the word that is waited for and the task that is told.
    pub(super) fn new(cues: &[(&'static str, &'static str)]) -> Self {
        Self(cues.to_vec())
    }

    pub(super) fn meanwhile(&mut self, pid: u32, out: &Path) {
        self.0.retain(|(word, task)| {
            let told = has_said(out, word)
                && sandbox_of(pid, task).is_some_and(|container| cue(&container));
            !told
        });
    }
}

/// Pauses the container of a task once its program runs.
#[derive(Default)]
pub(super) struct Pause {
    is_done: bool,
}

impl Pause {
    pub(super) fn meanwhile(&mut self, pid: u32, out: &Path, task: &str) {
        if !self.is_done && has_said(out, "here") {
            self.is_done = sandbox_of(pid, task)
                .is_some_and(|container| docker(&["pause", &container]).is_ok());
        }
    }

    pub(super) const fn happened(&self) -> bool {
        self.is_done
    }
}

/// What carries the labels of this suite's own installation.
pub(super) fn leftovers(stage: &Stage) -> Result<String, Failure> {
    let found =
        shell::read(&mut stage.command(&["gc", "--dry-run", "--interrupted", "--format", "json"]))?;
    let found: Value = serde_json::from_str(&found).unwrap_or_default();
    let count = found["leftovers"].as_array().map_or(0, Vec::len);
    Ok(match (count, found["kept"].as_u64()) {
        (0, Some(0)) => "nothing is left".to_owned(),
        (count, kept) => format!("{count} objects are left, {} kept", kept.unwrap_or(0)),
    })
}
