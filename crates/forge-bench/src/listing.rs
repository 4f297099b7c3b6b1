//! Listings: how long `swe-forge ps` takes beside a run of very many attempts that wait.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use forge_api::waiting::{MOST_LISTED, WaitingAttempt, WaitingList};
use forge_core::{Attempt, Difficulty, OwnerId, RunId, SandboxId, State, TaskId};
use forge_orchestrator::{RunLayout, holder};
use forge_store::{NewAttempt, NewRun, RunKind, Store};
use jiff::Timestamp;
use tempfile::TempDir;
use uuid::Uuid;

use crate::report::Report;
use crate::stage::{BenchError, IMAGE};

/// Attempts of the run.
const ATTEMPTS: u32 = 100_000;
/// How many of them are running.
const RUNNING: usize = 10;
/// Calls of each kind.
const CALLS: usize = 40;
/// The file of the record in the folder of swe-forge.
const RECORD: &str = "record.sqlite";

pub(crate) async fn run(report: &mut Report) -> Result<(), BenchError> {
    let binary = std::env::var_os("SWE_FORGE_BINARY")
        .map(PathBuf::from)
        .ok_or(BenchError::NoProgram("SWE_FORGE_BINARY"))?;
    let home = tempfile::tempdir().map_err(io("make a folder"))?;
    let began = Instant::now();
    let run = record(&home).await?;
    report.add(format!(
        "{ATTEMPTS} attempts recorded in               {:.2} s",
        began.elapsed().as_secs_f64()
    ));
    let run = run.to_string();
    for words in [
        &["ps"][..],
        &["ps", "--all"],
        &["ps", "--run", &run],
        &["ps", "--all", "--run", &run],
        &["ps", "-n", "1000"],
        &["ps", "--format", "json"],
    ] {
        let mut times = Vec::with_capacity(CALLS);
        for _ in 0..CALLS {
            times.push(call(&binary, home.path(), words)?);
        }
        let name = match words {
            [.., id] if *id == run => [&words[..words.len() - 1], &["ID"]].concat().join(" "),
            _ => words.join(" "),
        };
        report.add_times(&format!("{name}, {ATTEMPTS} attempts"), &times);
    }
    Ok(())
}

fn io(what: &'static str) -> impl FnOnce(std::io::Error) -> BenchError {
    move |source| BenchError::Io { what, source }
}

/// One call of the program, from its start to its end.
fn call(binary: &Path, home: &Path, words: &[&str]) -> Result<Duration, BenchError> {
    let began = Instant::now();
    let output = Command::new(binary)
        .args(words)
        .current_dir(home)
        .env("SWE_FORGE_HOME", home)
        .output()
        .map_err(io("start swe-forge"))?;
    let took = began.elapsed();
    let lines = output.stdout.iter().filter(|byte| **byte == b'\n').count();
    // As many as are listed unless more are asked for.
    if output.status.success() && lines > 50 {
        return Ok(took);
    }
    Err(BenchError::Raw(format!(
        "`swe-forge {}` listed {lines} lines: {}",
        words.join(" "),
        String::from_utf8_lossy(&output.stderr)
    )))
}

/// Records a run of this process: all of its attempts wait, but for the few that run.
async fn record(home: &TempDir) -> Result<RunId, BenchError> {
    let store = Store::open(home.path().join(RECORD), OwnerId::new("forge-bench")?).await?;
    let id = RunId::from_uuid(Uuid::now_v7());
    let layout = RunLayout::new(&home.path().join("runs"), &id);
    let attempts = attempts(&id)?;
    let tasks: Vec<&str> = attempts
        .iter()
        .map(|attempt| attempt.task.as_str())
        .collect();
    let run = NewRun {
        id,
        kind: RunKind::Run,
        agent: "oracle".to_owned(),
        created_at: Timestamp::now(),
        out_directory: layout.root().to_owned(),
        holder: holder::this_process(),
        arguments: vec!["run".to_owned(), "tasks".to_owned()],
        engine: "docker".to_owned(),
        engine_version: "none".to_owned(),
        plan: serde_json::json!({ "tasks": tasks }).to_string(),
    };
    store.begin_run(&run).await?;
    store.add_attempts(&attempts).await?;
    for attempt in &attempts[..RUNNING] {
        let now = Timestamp::now();
        for (from, to) in [
            (State::Pending, State::Creating),
            (State::Creating, State::Running),
        ] {
            store.transition(&attempt.id, &from, &to, now).await?;
        }
    }
    std::fs::create_dir_all(layout.root()).map_err(io("make the folder of the run"))?;
    let waiting = serde_json::to_vec(&waiting(&attempts)).map_err(|error| {
        BenchError::Raw(format!("what waits could not be written down: {error}"))
    })?;
    std::fs::write(layout.waiting(), waiting).map_err(io("write down what waits"))?;
    store.close().await?;
    Ok(id)
}

fn attempts(run: &RunId) -> Result<Vec<NewAttempt>, BenchError> {
    (0..ATTEMPTS)
        .map(|number| {
            let task = TaskId::new(format!("python-fix-the-cache-{number:06}"))?;
            Ok(NewAttempt {
                id: SandboxId::for_attempt(&task, run, Attempt(1)),
                run: *run,
                task,
                attempt: Attempt(1),
                repetition: 1,
                title: "Mend the cache that forgets the wrong entry".to_owned(),
                difficulty: Difficulty::Easy,
                image: IMAGE.to_owned(),
                created_at: Timestamp::now(),
            })
        })
        .collect()
}

fn waiting(attempts: &[NewAttempt]) -> WaitingList {
    let waiting = &attempts[RUNNING..];
    let listed = waiting.iter().zip(1..).take(MOST_LISTED);
    WaitingList {
        waiting: waiting.len() as u64,
        attempts: listed
            .map(|(attempt, position)| WaitingAttempt {
                id: attempt.id.to_string(),
                position,
                reason: "other attempts go first".to_owned(),
            })
            .collect(),
        unwell: Vec::new(),
    }
}
