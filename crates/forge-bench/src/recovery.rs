//! Recovery: how long a run whose process was killed needs, from the start of its next process until
//! that one serves, and until it follows every sandbox again.
//!
//! The sandboxes hold through several rounds, in each of which the process is killed and another goes
//! on with the run. Then they are let go: every verdict must be right and every log whole.
//! `SWE_FORGE_BENCH_SANDBOXES` says how many there are.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use forge_api::report::Report as RunReport;
use forge_core::life_cycle::StateName;
use forge_core::ownership::keys;
use forge_engine::Inventory;
use serde_json::json;

use crate::raw::RawEngine;
use crate::report::{Report, show};
use crate::stage::{BenchError, IMAGE, Stage};

/// Sandboxes, where nobody says how many.
const SANDBOXES: usize = 100;
const HOW_MANY: &str = "SWE_FORGE_BENCH_SANDBOXES";
/// How often the process is killed.
const ROUNDS: usize = 5;
/// For so long nobody is there, so that every sandbox has something to tell.
const ABSENCE: Duration = Duration::from_millis(500);
/// How long anything of it may take.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often the logs are looked at.
const LOOK: Duration = Duration::from_millis(2);
/// Beginning of the line that says what was recovered.
const SERVES: &str = "recovered: ";

/// Tells a number ten times a second until it is let go, without starting a program for it, which
/// would measure the machine.
const HOLD: &str = r#"mkfifo /tmp/never; exec 3<>/tmp/never; n=0
until [ -e /workspace/go ] || [ $n -ge 8000 ]; do n=$((n + 1)); echo "line $n"; read -r -t 0.1 -u 3; done
echo "end $n""#;
/// So that a hundred fit.
const CONFIG: &str = "resources: {memory_mb: 48, cpu_cores: 0.25, disk_gb: 0.016, processes: 16}\n";

pub(crate) async fn run(stage: &Stage, report: &mut Report) -> Result<(), BenchError> {
    let raw = RawEngine::new(&stage.description)?;
    let home = Home::new(sandboxes()?)?;
    let measured = home.measure(&raw);
    let (times, ended) = match measured {
        Ok(measured) => measured,
        Err(error) => {
            home.give_up()?;
            return Err(error);
        }
    };
    home.check(&ended)?;
    let left = stage.engine.list(None).await?;
    let id = ended.run.id.to_string();
    let left = left.iter().filter(|object| {
        let run = object.label(keys::RUN);
        run.is_some_and(|run| run == id)
    });
    match left.count() {
        0 => {}
        count => return Err(BenchError::Raw(format!("{count} object(s) are left"))),
    }
    let count = home.count;
    let serving: Vec<_> = times.iter().map(|times| times.serving).collect();
    let first: Vec<_> = times.iter().map(|times| times.first).collect();
    let all: Vec<_> = times.iter().map(|times| times.all).collect();
    report.add_times(&format!("killed with {count} sandboxes: serving"), &serving);
    report.add_times("  first sandbox followed again", &first);
    report.add_times(&format!("  all {count} followed again"), &all);
    Ok(())
}

fn sandboxes() -> Result<usize, BenchError> {
    let Some(text) = std::env::var_os(HOW_MANY) else {
        return Ok(SANDBOXES);
    };
    let number = text.to_str().and_then(|text| text.parse().ok());
    let number = number.filter(|number| *number > 0);
    number.ok_or_else(|| BenchError::Raw(format!("{HOW_MANY} is not a number of sandboxes")))
}

fn io(what: &'static str) -> impl FnOnce(std::io::Error) -> BenchError {
    move |source| BenchError::Io { what, source }
}

/// What one round took, from the start of the new process.
struct Times {
    serving: Duration,
    first: Duration,
    all: Duration,
}

/// A process that drives the run, and what it says.
struct Driver {
    child: Child,
    began: Instant,
    /// When it served, and all that it said.
    said: Option<JoinHandle<(Option<Instant>, String)>>,
}

/// The run's own place.
struct Home {
    folder: tempfile::TempDir,
    binary: PathBuf,
    count: usize,
}

impl Home {
    fn new(count: usize) -> Result<Self, BenchError> {
        let binary = std::env::var_os("SWE_FORGE_BINARY")
            .map(PathBuf::from)
            .ok_or(BenchError::NoProgram("SWE_FORGE_BINARY"))?;
        let folder = tempfile::tempdir().map_err(io("make a folder"))?;
        for number in 0..count {
            let task = format!("tasks/hold-{number}/.swe-forge");
            let task = folder.path().join(task);
            fs::create_dir_all(&task).map_err(io("make a task"))?;
            let text = json!({
                "id": format!("hold-{number}"), "title": "Holds its sandbox",
                "instruction": "Nothing.", "difficulty": "easy", "image": IMAGE,
                "solve": {"argv": ["/bin/bash", "-c", HOLD]},
                "verify": {"argv": ["/bin/true"], "container": "same"},
            });
            fs::write(task.join("task.json"), text.to_string()).map_err(io("write a task"))?;
            fs::write(task.join("config.yaml"), CONFIG).map_err(io("write a task"))?;
        }
        Ok(Self {
            folder,
            binary,
            count,
        })
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .args(words)
            .current_dir(self.folder.path())
            .env("SWE_FORGE_HOME", self.folder.path().join("home"))
            .stdin(Stdio::null());
        command
    }

    /// The times of all rounds, and how the run ended.
    fn measure(&self, raw: &RawEngine) -> Result<(Vec<Times>, RunReport), BenchError> {
        let jobs = self.count.to_string();
        let mut driver = self.start(&["run", "tasks", "--agent", "command", "--jobs", &jobs])?;
        let logs = self.wait_for_all(&mut driver)?;
        driver.kill()?;
        let mut times = Vec::with_capacity(ROUNDS);
        for round in 1..=ROUNDS {
            let before = sizes(&logs)?;
            std::thread::sleep(ABSENCE);
            let mut driver = self.start(&["run", "--resume", "--format", "json"])?;
            let (first, all) = follow(&mut driver, &logs, &before)?;
            if round < ROUNDS {
                driver.child.kill().map_err(io("kill a process"))?;
            } else {
                self.let_go(raw, &logs)?;
            }
            let (out, serving) = driver.end()?;
            times.push(Times {
                serving,
                first,
                all,
            });
            if round == ROUNDS {
                let report = serde_json::from_str(&out).map_err(|error| {
                    BenchError::Raw(format!("the run printed no report: {error}"))
                })?;
                return Ok((times, report));
            }
        }
        Err(BenchError::Raw("there was no round".to_owned()))
    }

    fn start(&self, words: &[&str]) -> Result<Driver, BenchError> {
        let mut command = self.command(words);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let began = Instant::now();
        let mut child = command.spawn().map_err(io("start swe-forge"))?;
        let lines = child.stderr.take().map(BufReader::new);
        let said = lines.map(|lines| {
            std::thread::spawn(move || {
                let (mut served, mut all) = (None, String::new());
                for line in lines.lines().map_while(Result::ok) {
                    if served.is_none() && line.contains(SERVES) {
                        served = Some(Instant::now());
                    }
                    all.push_str(&line);
                    all.push('\n');
                }
                (served, all)
            })
        });
        Ok(Driver { child, began, said })
    }

    /// The logs of all tasks, once each holds its sandbox.
    fn wait_for_all(&self, driver: &mut Driver) -> Result<Vec<PathBuf>, BenchError> {
        let runs = self.folder.path().join("swe-forge-out");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let folders = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten();
            let attempts = folders(&runs).flat_map(|run| folders(&run.path().join("attempts")));
            let logs = attempts.map(|attempt| attempt.path().join("solve.log"));
            let logs: Vec<PathBuf> = logs
                .filter(|log| fs::metadata(log).is_ok_and(|metadata| metadata.len() > 0))
                .collect();
            if logs.len() == self.count {
                return Ok(logs);
            }
            driver.must_run(deadline, "the sandboxes are not all there")?;
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Has every task end, without the engine's help, which would take longer than all the rest.
    fn let_go(&self, raw: &RawEngine, logs: &[PathBuf]) -> Result<(), BenchError> {
        for log in logs {
            let id = log.parent().and_then(Path::file_name).unwrap_or_default();
            let name = format!("swe-forge-task-{}", id.to_string_lossy());
            let pid = raw.main_process(&name)?;
            let go = format!("/proc/{pid}/root/workspace/go");
            fs::write(go, "")
                .map_err(io("let a task go; only root of the engine's machine can"))?;
        }
        Ok(())
    }

    /// Whether every verdict is right and every log whole.
    fn check(&self, ended: &RunReport) -> Result<(), BenchError> {
        let completed = ended.tasks.iter().filter(|task| {
            task.state == StateName::Completed
                && task.earlier.is_empty()
                && self.is_whole(&task.id, ended)
        });
        match completed.count() {
            count if count == self.count => Ok(()),
            count => Err(BenchError::Raw(format!(
                "only {count} of {} task(s) ended as they should",
                self.count
            ))),
        }
    }

    fn is_whole(&self, id: &str, ended: &RunReport) -> bool {
        let log = self.folder.path().join(format!(
            "swe-forge-out/{}/attempts/{id}/solve.log",
            ended.run.id
        ));
        let text = fs::read_to_string(log).unwrap_or_default();
        let count = text.lines().count().saturating_sub(1);
        let mut expected: String = (1..=count)
            .map(|number| format!("line {number}\n"))
            .collect();
        expected.push_str(&format!("end {count}\n"));
        count > 0 && text == expected
    }

    /// Removes what there is of a run that did not go as it should.
    fn give_up(&self) -> Result<(), BenchError> {
        let mut command = self.command(&["gc", "--interrupted"]);
        let output = command.output().map_err(io("start swe-forge"))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(BenchError::Raw(format!("sandboxes are left: {said}")))
    }
}

impl Driver {
    fn kill(&mut self) -> Result<(), BenchError> {
        self.child.kill().map_err(io("kill a process"))?;
        self.child.wait().map_err(io("wait for a process"))?;
        Ok(())
    }

    /// Fails once it has ended, or `deadline` has passed.
    fn must_run(&mut self, deadline: Instant, otherwise: &str) -> Result<(), BenchError> {
        let ended = self.child.try_wait().map_err(io("look at a process"))?;
        if ended.is_none() && Instant::now() < deadline {
            return Ok(());
        }
        if ended.is_none() {
            self.kill()?;
        }
        let said = self.said.take().and_then(|said| said.join().ok());
        let (_, said) = said.unwrap_or_default();
        Err(BenchError::Raw(format!("{otherwise}: {said}")))
    }

    /// What it printed, and when it served.
    fn end(mut self) -> Result<(String, Duration), BenchError> {
        let mut out = String::new();
        if let Some(mut stdout) = self.child.stdout.take() {
            stdout
                .read_to_string(&mut out)
                .map_err(io("read what swe-forge prints"))?;
        }
        self.child.wait().map_err(io("wait for a process"))?;
        let said = self.said.take().and_then(|said| said.join().ok());
        match said.unwrap_or_default() {
            (Some(served), _) => Ok((out, served.duration_since(self.began))),
            (None, said) => Err(BenchError::Raw(format!(
                "the run was not gone on with: {said}"
            ))),
        }
    }
}

fn sizes(logs: &[PathBuf]) -> Result<Vec<u64>, BenchError> {
    let size = |log: &PathBuf| Ok(fs::metadata(log)?.len());
    let sizes: std::io::Result<Vec<u64>> = logs.iter().map(size).collect();
    sizes.map_err(io("look at a log"))
}

/// When the first of the logs, and when all of them, are longer than they were.
fn follow(
    driver: &mut Driver,
    logs: &[PathBuf],
    before: &[u64],
) -> Result<(Duration, Duration), BenchError> {
    let deadline = Instant::now() + PATIENCE;
    let mut waiting: Vec<(&PathBuf, u64)> = logs.iter().zip(before.iter().copied()).collect();
    let mut first = None;
    loop {
        let is_longer = |(log, before): &(&PathBuf, u64)| {
            fs::metadata(log).is_ok_and(|metadata| metadata.len() > *before)
        };
        waiting.retain(|log| !is_longer(log));
        let now = driver.began.elapsed();
        if waiting.len() < logs.len() {
            first = first.or(Some(now));
        }
        if let (true, Some(first)) = (waiting.is_empty(), first) {
            return Ok((first, now));
        }
        let longest = show(now);
        let otherwise = format!("{} log(s) do not grow after {longest}", waiting.len());
        driver.must_run(deadline, &otherwise)?;
        std::thread::sleep(LOOK);
    }
}
