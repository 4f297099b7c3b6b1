//! Churn: how many short tasks a second a whole run gets through, beside how many containers the raw
//! engine makes, starts and removes at its best concurrency.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::raw::{Isolation, RawEngine};
use crate::report::Report;
use crate::stage::{BenchError, IMAGE, Stage};

/// Tasks of the run; each takes one container for setup, solve and verify.
const TASKS: u32 = 120;
/// Containers of each batch of the raw engine.
const CONTAINERS: u32 = 60;
/// Clients of the raw engine at once.
const CLIENTS: [u32; 4] = [1, 2, 4, 8];

pub(crate) fn run(stage: &Stage, report: &mut Report) -> Result<(), BenchError> {
    let raw = RawEngine::new(&stage.description)?;
    let binary = std::env::var_os("SWE_FORGE_BINARY").ok_or_else(|| {
        BenchError::Raw("SWE_FORGE_BINARY is not set: use `cargo xtask bench`".into())
    })?;
    let mut best = (0.0_f64, 0);
    // Before and after, since the machine drifts.
    let before = raws(&raw, &mut best)?;
    let took = whole_run(&PathBuf::from(binary))?;
    let after = raws(&raw, &mut best)?;
    for (clients, (first, second)) in CLIENTS.into_iter().zip(before.into_iter().zip(after)) {
        report.add(format!(
            "raw create, start, remove by {clients} client(s)      {first:.1} and {second:.1} a second"
        ));
    }
    let ours = f64::from(TASKS) / took.as_secs_f64();
    report.add(format!(
        "tasks of one container, whole run of {TASKS}     {ours:.1} a second, {:.0} % of the raw engine's best \
         ({:.1} by {} client(s))",
        ours / best.0 * 100.0,
        best.0,
        best.1,
    ));
    Ok(())
}

/// Containers a second, for each number of clients.
fn raws(raw: &RawEngine, best: &mut (f64, u32)) -> Result<Vec<f64>, BenchError> {
    let mut rates = Vec::new();
    for clients in CLIENTS {
        let rate = f64::from(CONTAINERS) / batch(raw, clients)?.as_secs_f64();
        if rate > best.0 {
            *best = (rate, clients);
        }
        rates.push(rate);
    }
    Ok(rates)
}

fn batch(raw: &RawEngine, clients: u32) -> Result<Duration, BenchError> {
    let next = AtomicU32::new(0);
    let work = || -> Result<(), BenchError> {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= CONTAINERS {
                return Ok(());
            }
            let name = format!("swe-forge-bench-churn-{}-{number}", std::process::id());
            raw.start(&name, IMAGE, Isolation::Disabled)?;
            raw.remove(&name)?;
        }
    };
    let began = Instant::now();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..clients).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .try_for_each(|thread| match thread.join() {
                Ok(done) => done,
                Err(_) => Err(BenchError::Raw(
                    "a client of the raw engine broke off".into(),
                )),
            })
    })?;
    Ok(began.elapsed())
}

/// How long a run of short tasks takes, from its start to its end with nothing left.
fn whole_run(binary: &Path) -> Result<Duration, BenchError> {
    let io = |source| BenchError::Io {
        what: "prepare the tasks",
        source,
    };
    let folder = tempfile::tempdir().map_err(io)?;
    for number in 0..TASKS {
        let task = folder
            .path()
            .join(format!("tasks/short-{number}/.swe-forge"));
        fs::create_dir_all(&task).map_err(io)?;
        let text = json!({
            "id": format!("short-{number}"), "title": "A short task", "instruction": "Nothing.",
            "difficulty": "easy", "image": IMAGE,
            "solve": {"argv": ["/bin/true"]}, "verify": {"argv": ["/bin/true"], "container": "same"},
        });
        fs::write(task.join("task.json"), text.to_string()).map_err(io)?;
    }
    let began = Instant::now();
    let output = Command::new(binary)
        .args(["run", "tasks", "--agent", "command", "--jobs", "unlimited"])
        .current_dir(folder.path())
        .env("SWE_FORGE_HOME", folder.path().join("home"))
        .output()
        .map_err(io)?;
    let took = began.elapsed();
    if output.status.success() {
        return Ok(took);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(BenchError::Raw(format!(
        "the run of short tasks failed: {}",
        said.lines().last().unwrap_or_default()
    )))
}
