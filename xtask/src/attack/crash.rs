//! The orchestrator killed at several moments: nothing opens, and `gc` removes everything.

use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use serde_json::json;

use super::events::{has_said, of_process};
use super::outside::docker;
use super::scenes::{Scene, Stage};
use super::tables::Row;
use crate::shell::{self, Failure};

const PATIENCE: Duration = Duration::from_secs(60);
/// Asks the proxy from within a sandbox that has outlived its orchestrator.
const ASK: &str =
    "import sys; sys.path.insert(0, '/workspace/src'); import outage; print(outage.ask())";

/// When the orchestrator is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    Proxy,
    Sandbox,
    Traffic,
    Verify,
}

impl Moment {
    fn has_come(self, pid: u32, out: &Path) -> bool {
        match self {
            Self::Proxy => of_process("egress", pid).is_some(),
            Self::Sandbox => of_process("task", pid).is_some(),
            Self::Traffic => has_said(out, "refused"),
            Self::Verify => has_said(out, "verified"),
        }
    }
}

/// The name of each attempt, its group of scenes, its moment and what it is.
const CRASHES: [(&str, &str, Moment, &str); 5] = [
    (
        "crash",
        "crash",
        Moment::Sandbox,
        "the orchestrator killed in the middle of a run, then gc",
    ),
    (
        "crash-proxy",
        "crash-network",
        Moment::Proxy,
        "the orchestrator killed when the proxy has just been made: nothing opens, and gc leaves nothing",
    ),
    (
        "crash-sandbox",
        "crash-network",
        Moment::Sandbox,
        "the orchestrator killed when a sandbox with a network has just been made: nothing opens, and gc leaves nothing",
    ),
    (
        "crash-traffic",
        "crash-network",
        Moment::Traffic,
        "the orchestrator killed while a sandbox asks the proxy: nothing opens, and gc leaves nothing",
    ),
    (
        "crash-verify",
        "crash-network",
        Moment::Verify,
        "the orchestrator killed during verify: nothing opens, and gc leaves nothing",
    ),
];

/// One orchestrator that is to be killed.
struct Victim {
    child: Child,
    out: PathBuf,
    outcome: Option<String>,
    volumes: Vec<String>,
}

/// The rows of all moments. They are waited for at once.
pub(super) fn rows(stage: &Stage, scenes: &[&Scene]) -> Result<Vec<Row>, Failure> {
    if scenes.is_empty() {
        return Ok(Vec::new());
    }
    for scene in scenes {
        stage.prepare(scene)?;
    }
    let mut victims = Vec::new();
    for (name, group, ..) in CRASHES {
        let out = stage.folder.join("out").join(name);
        let child = stage.start(group, "command", 1, &out)?;
        victims.push(Victim {
            child,
            out,
            outcome: None,
            volumes: Vec::new(),
        });
    }
    let until = Instant::now() + PATIENCE;
    while victims.iter().any(|victim| victim.outcome.is_none()) && Instant::now() < until {
        for (victim, (.., moment, _)) in victims.iter_mut().zip(CRASHES) {
            if victim.outcome.is_none() && moment.has_come(victim.child.id(), &victim.out) {
                victim.kill();
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    for victim in &mut victims {
        // Whatever becomes of its moment, it is not left running.
        drop(victim.child.kill());
        drop(victim.child.wait());
    }
    shell::read(&mut stage.command(&["gc", "--format", "json"]))?;
    let rows = victims
        .iter()
        .zip(CRASHES)
        .map(|(victim, (name, _, _, what))| {
            let attempt = json!({"case": 45, "name": name, "what": what});
            let observed = match victim.outcome.as_deref() {
                None => "its moment never came".to_owned(),
                Some("closed") => victim
                    .remains()
                    .unwrap_or_else(|| "nothing is left".to_owned()),
                Some(other) => other.to_owned(),
            };
            Row::new(&attempt, "", "nothing is left", &observed)
        });
    Ok(rows.collect())
}

impl Victim {
    fn kill(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        self.volumes = listed("volume", self.child.id());
        // A sandbox ends by itself when its orchestrator is gone; until then it may ask.
        let asked = of_process("task", self.child.id())
            .map(|sandbox| docker(&["exec", &sandbox, "python3", "-c", ASK]));
        self.outcome = Some(match asked {
            Some(Ok(answer)) if answer.contains("open") => "it is open".to_owned(),
            _ => "closed".to_owned(),
        });
    }

    /// What is on the engine and on this machine after `gc`.
    fn remains(&self) -> Option<String> {
        for kind in ["container", "network", "volume"] {
            if let Some(first) = listed(kind, self.child.id()).first() {
                return Some(format!("a {kind} is left: {first}"));
            }
        }
        let mut places = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
        for device in std::fs::read_dir("/sys/block")
            .into_iter()
            .flatten()
            .flatten()
        {
            let file = device.path().join("loop/backing_file");
            places.push_str(&std::fs::read_to_string(file).unwrap_or_default());
        }
        let left = self.volumes.iter().find(|name| places.contains(*name));
        left.map(|name| format!("a mount or a loop device of {name} is left"))
    }
}

/// The names of all objects of a kind that a process holds.
fn listed(kind: &str, pid: u32) -> Vec<String> {
    let part = format!(":{pid}:");
    let words: &[&str] = match kind {
        "container" => &[
            "ps",
            "--all",
            "--format",
            "{{.Names}} {{.Label \"swe-forge.holder\"}}",
        ],
        kind => &[
            kind,
            "ls",
            "--format",
            "{{.Name}} {{.Label \"swe-forge.holder\"}}",
        ],
    };
    let listing = docker(words).unwrap_or_default();
    let ours = listing.lines().filter(|line| line.contains(&part));
    ours.filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .collect()
}
