//! The orchestrator killed at several moments: nothing opens, and `gc --interrupted` removes everything.

use std::path::PathBuf;
use std::process::Child;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::json;

use super::events::has_kept;
use super::outside::docker;
use super::scenes::{Scene, Stage};
use super::tables::Row;
use crate::files::has_said;
use crate::shell::{self, Failure};

/// The case of its rows.
pub(super) const CASE: u64 = 45;
const PATIENCE: Duration = Duration::from_secs(600);
/// The containers in which something of a task runs.
const SANDBOXES: [&str; 3] = ["setup", "task", "verify"];
/// After the last word of a setup: what it wrote is read and packed for longer than this.
const INTO_COMMIT: Duration = Duration::from_millis(500);
/// How long an image may take that nobody waits for; also how long is waited where none comes.
const LAST_IMAGE: Duration = Duration::from_secs(60);
/// Asks the proxy from within a sandbox that has outlived its orchestrator.
const ASK: &str = "
import socket
try:
    stream = socket.create_connection(('127.0.0.1', 3128), 5)
    stream.settimeout(5)
    stream.sendall(b'CONNECT crash.attack.test:443 HTTP/1.1\\r\\n\\r\\n')
    answer = stream.recv(4096)
except OSError:
    answer = b''
print('refused' if b'reason=' in answer else 'open' if answer.startswith(b'HTTP/1.1 200') else 'none')
";

/// When the orchestrator is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    Proxy,
    Setup,
    Commit,
    Sandbox,
    Traffic,
    Verify,
    Collection,
    CleanUp,
}

/// The name of each attempt, its group of scenes, its moment and what it is.
const CRASHES: [(&str, &str, Moment, &str); 9] = [
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
    (
        "crash-setup",
        "crash-setup",
        Moment::Setup,
        "the orchestrator killed during setup, then gc",
    ),
    (
        "crash-commit",
        "crash-commit",
        Moment::Commit,
        "the orchestrator killed while what setup wrote becomes an image, then gc once it is one",
    ),
    (
        "crash-collect",
        "crash-collect",
        Moment::Collection,
        "the orchestrator killed while it collects artifacts, then gc",
    ),
    (
        "crash-end",
        "crash-end",
        Moment::CleanUp,
        "the orchestrator killed while it cleans up, then gc",
    ),
];

/// One orchestrator that is to be killed.
struct Victim {
    child: Child,
    out: PathBuf,
    /// A container in which something of its task ran.
    sandbox: Option<String>,
    /// When the last word of its setup was heard.
    spoke: Option<Instant>,
    end: Option<End>,
}

/// What became of an orchestrator.
struct End {
    /// Asks the sandbox that is left, if one is.
    asked: JoinHandle<String>,
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
            sandbox: None,
            spoke: None,
            end: None,
        });
    }
    let until = Instant::now() + PATIENCE;
    while victims.iter_mut().any(Victim::is_waited_for) && Instant::now() < until {
        let containers = containers();
        for (victim, (.., moment, _)) in victims.iter_mut().zip(CRASHES) {
            if victim.end.is_none() && victim.meets(moment, &containers) {
                victim.kill();
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut outcomes = Vec::new();
    for victim in &mut victims {
        // Whatever becomes of its moment, it is not left running.
        drop(victim.child.kill());
        drop(victim.child.wait());
        outcomes.push(victim.outcome());
    }
    for (victim, (.., moment, _)) in victims.iter().zip(CRASHES) {
        if moment == Moment::Commit {
            victim.wait_for_image();
        }
    }
    shell::read(&mut stage.command(&["gc", "--interrupted", "--format", "json"]))?;
    let rows = victims.iter().zip(outcomes).zip(CRASHES);
    let rows = rows.map(|((victim, (asked, volumes)), (name, _, _, what))| {
        let attempt = json!({"case": CASE, "name": name, "what": what});
        let observed = match asked.as_str() {
            "closed" => victim
                .remains(&volumes)
                .unwrap_or_else(|| "nothing is left".to_owned()),
            other => other.to_owned(),
        };
        Row::new(&attempt, "", "nothing is left", &observed)
    });
    Ok(rows.collect())
}

impl Victim {
    /// Whether its moment may still come.
    fn is_waited_for(&mut self) -> bool {
        self.end.is_none() && matches!(self.child.try_wait(), Ok(None))
    }

    fn meets(&mut self, moment: Moment, containers: &[Container]) -> bool {
        let ours: Vec<&Container> = containers
            .iter()
            .filter(|container| container.is_held_by(self.child.id()))
            .collect();
        let here = ours
            .iter()
            .find(|container| SANDBOXES.contains(&container.role.as_str()));
        let before = match here {
            Some(container) => self.sandbox.replace(container.name.clone()),
            None => self.sandbox.clone(),
        };
        match moment {
            Moment::Proxy => ours.iter().any(|container| container.role == "egress"),
            Moment::Sandbox => here.is_some(),
            Moment::Setup => has_said(&self.out, "begun"),
            Moment::Traffic => has_said(&self.out, "refused"),
            Moment::Verify => has_said(&self.out, "verified"),
            Moment::Collection => has_kept(&self.out),
            Moment::CleanUp => {
                before.is_some_and(|name| !ours.iter().any(|container| container.name == name))
            }
            Moment::Commit => {
                if self.spoke.is_none() && has_said(&self.out, "begun") {
                    self.spoke = Some(Instant::now());
                }
                self.spoke.is_some_and(|at| at.elapsed() >= INTO_COMMIT)
            }
        }
    }

    fn kill(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        drop(self.child.kill());
        drop(self.child.wait());
        let left = containers().into_iter().find(|container| {
            container.is_held_by(self.child.id()) && SANDBOXES.contains(&container.role.as_str())
        });
        // A sandbox ends by itself when its orchestrator is gone; until then it may ask.
        self.end = Some(End {
            asked: std::thread::spawn(move || {
                left.map_or_else(|| "closed".to_owned(), |sandbox| ask(&sandbox.name))
            }),
            volumes: listed("volume", self.child.id()),
        });
    }

    /// An engine goes on with an image whose client is gone, and nobody knows of it before it is
    /// there.
    fn wait_for_image(&self) {
        let until = Instant::now() + LAST_IMAGE;
        while listed("image", self.child.id()).is_empty() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// What the sandbox that was left could reach, and which volumes there were.
    fn outcome(&mut self) -> (String, Vec<String>) {
        match self.end.take() {
            None => ("its moment never came".to_owned(), Vec::new()),
            Some(end) => {
                let asked = end.asked.join();
                let asked = asked.unwrap_or_else(|_| "it could not be asked".to_owned());
                (asked, end.volumes)
            }
        }
    }

    /// What is on the engine and on this machine after `gc`.
    fn remains(&self, volumes: &[String]) -> Option<String> {
        for kind in ["container", "network", "volume", "image"] {
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
        let left = volumes.iter().find(|name| places.contains(*name));
        left.map(|name| format!("a mount or a loop device of {name} is left"))
    }
}

/// Asks from within a sandbox whether anything is open; until it answers, or is really gone.
fn ask(sandbox: &str) -> String {
    let until = Instant::now() + PATIENCE;
    loop {
        let problem = match docker(&["exec", sandbox, "python3", "-c", ASK]) {
            Ok(answer) => {
                return match answer.as_str() {
                    "refused" | "none" => "closed".to_owned(),
                    other => format!("it is {other}"),
                };
            }
            Err(problem) => problem,
        };
        if is_gone(sandbox) {
            return "closed".to_owned();
        }
        if Instant::now() > until {
            return format!("it could not be asked: {problem}");
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Whether no program runs in a container any more.
fn is_gone(name: &str) -> bool {
    let filter = format!("name=^{name}$");
    docker(&["ps", "--quiet", "--filter", &filter]).is_ok_and(|listing| listing.is_empty())
}

/// A container that runs.
struct Container {
    name: String,
    role: String,
    holder: String,
}

impl Container {
    fn is_held_by(&self, pid: u32) -> bool {
        self.holder.contains(&format!(":{pid}:"))
    }
}

fn containers() -> Vec<Container> {
    let format =
        "{{.Names}} {{.Label \"swe-forge.role\"}} {{.Label \"swe-forge.holder\"}}".to_owned();
    let listing = docker(&["ps", "--format", &format]).unwrap_or_default();
    let lines = listing.lines().filter_map(|line| {
        let mut words = line.split_whitespace().map(str::to_owned);
        Some(Container {
            name: words.next()?,
            role: words.next()?,
            holder: words.next()?,
        })
    });
    lines.collect()
}

/// The names of all objects of a kind that a process holds.
fn listed(kind: &str, pid: u32) -> Vec<String> {
    let part = format!(":{pid}:");
    let listing = match kind {
        "container" => docker(&[
            "ps",
            "--all",
            "--format",
            "{{.Names}} {{.Label \"swe-forge.holder\"}}",
        ]),
        "image" => images(),
        kind => docker(&[
            kind,
            "ls",
            "--format",
            "{{.Name}} {{.Label \"swe-forge.holder\"}}",
        ]),
    };
    let listing = listing.unwrap_or_default();
    let ours = listing.lines().filter(|line| line.contains(&part));
    ours.filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .collect()
}

/// All images with who holds them.
fn images() -> Result<String, Failure> {
    let quiet = docker(&["images", "--quiet", "--filter", "label=swe-forge.holder"])?;
    let mut words = vec![
        "inspect",
        "--format",
        "{{.Id}} {{index .Config.Labels \"swe-forge.holder\"}}",
    ];
    words.extend(quiet.lines());
    if quiet.is_empty() {
        return Ok(String::new());
    }
    docker(&words)
}
