//! Behaviour of the record, on real files.

mod failures;
mod life;
mod listing;
mod opening;
mod requests;
mod resuming;
mod retention;
mod sharing;

use std::path::{Path, PathBuf};

use forge_core::{Attempt, Difficulty, Failure, OwnerId, Reason, RunId, SandboxId, TaskId};
use jiff::Timestamp;
use tempfile::TempDir;
use uuid::Uuid;

use crate::{NewAttempt, NewRun, RunKind, Store};

/// A folder that lasts as long as a test, with the place of a database in it.
struct Home {
    folder: TempDir,
}

impl Home {
    fn new() -> Self {
        Self {
            folder: TempDir::new().unwrap(),
        }
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn database(&self) -> PathBuf {
        self.folder().join("state").join("swe-forge.db")
    }

    async fn open(&self) -> Store {
        Store::open(self.database(), owner("0123456789ab"))
            .await
            .unwrap()
    }

    /// A database with nothing but its schema, closed again.
    async fn made(&self) -> PathBuf {
        self.open().await.close().await.unwrap();
        self.database()
    }
}

fn owner(text: &str) -> OwnerId {
    OwnerId::new(text).unwrap()
}

fn run_id(number: u128) -> RunId {
    RunId::from_uuid(Uuid::from_u128(number))
}

/// An instant so many seconds, and some nanoseconds, after a fixed one.
fn at(seconds: i64) -> Timestamp {
    Timestamp::new(1_790_000_000 + seconds, 123_456_789).unwrap()
}

fn new_run(number: u128) -> NewRun {
    NewRun {
        id: run_id(number),
        kind: RunKind::Run,
        agent: "oracle".to_owned(),
        created_at: at(0),
        out_directory: PathBuf::from(format!("/out/{number}")),
        holder: "4711@123456".to_owned(),
        arguments: vec![
            "run".to_owned(),
            "--agent=oracle".to_owned(),
            "a \"b\"".to_owned(),
        ],
        engine: "docker".to_owned(),
        engine_version: "20.10.24".to_owned(),
        plan: format!("{{\"tasks\":{number}}}"),
    }
}

fn new_attempt(run: u128, task: &str, attempt: u32) -> NewAttempt {
    let task = TaskId::new(task).unwrap();
    let run = run_id(run);
    NewAttempt {
        id: SandboxId::for_attempt(&task, &run, Attempt(attempt)),
        run,
        task,
        attempt: Attempt(attempt),
        repetition: 1,
        title: "Fix the cache".to_owned(),
        difficulty: Difficulty::Easy,
        image: "swe-forge/python-base:latest".to_owned(),
        created_at: at(0),
    }
}

/// An open record with one run and one attempt.
async fn with_attempt(home: &Home) -> (Store, SandboxId) {
    let store = home.open().await;
    store.begin_run(&new_run(1)).await.unwrap();
    let attempt = new_attempt(1, "py-lru", 1);
    store.add_attempt(&attempt).await.unwrap();
    (store, attempt.id)
}

fn failure() -> Failure {
    Failure::new(Reason::TestsFailed, "2 of 7 failed\nsee verify.log")
}
