//! A bench of the conformance suite on the fake engine.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use forge_core::ownership::{Ownership, Role};
use forge_core::{
    Attempt, Difficulty, ExecRequest, OwnerId, Profile, RunId, SandboxId, SandboxSpec, TaskId,
    UserId, WorkspaceSpec,
};
use forge_engine::conformance::{Act, Bench, Capability};
use forge_engine::fake::FakeEngine;
use forge_engine::{Credentials, Engine, EngineError};
use forge_wire::Secret;
use jiff::Timestamp;

/// One machine with one owner on it.
pub(crate) struct FakeBench {
    pub(crate) engine: FakeEngine,
    users: AtomicU16,
}

impl FakeBench {
    pub(crate) fn new(engine: FakeEngine) -> Arc<Self> {
        Arc::new(Self {
            engine,
            users: AtomicU16::new(1),
        })
    }
}

pub(crate) fn ownership() -> Ownership {
    let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    Ownership {
        owner: OwnerId::new("owner").unwrap(),
        run: RunId::from_uuid(uuid::Uuid::from_u128(7)),
        task: TaskId::new("conformance").unwrap(),
        attempt: Attempt(1),
        difficulty: Difficulty::Easy,
        created_at: now,
        expires_at: now,
        holder: "1@1".into(),
    }
}

/// What the fake's language has for an act.
fn program(act: &Act) -> (String, Vec<String>) {
    let file = |text: &str, file: &String| (text.to_owned(), vec![file.clone()]);
    let plain = |text: String| (text, Vec::new());
    match act {
        Act::Exit(code) => plain(format!("exit {code}")),
        Act::Signal(signal) => plain(format!("signal {signal}")),
        Act::Write(bytes) => plain(format!("write {bytes}")),
        Act::Complain(bytes) => plain(format!("complain {bytes}")),
        Act::Octets(times) => plain(format!("octets {times}")),
        Act::Paced { times, bytes, file } => {
            (format!("paced {times} {bytes} $1"), vec![file.clone()])
        }
        Act::Arguments(arguments) => ("arguments".to_owned(), arguments.clone()),
        Act::Copy => plain("copy".to_owned()),
        Act::Show(name) => file("show $1", name),
        Act::Save(name, text) => ("save $1 $2".to_owned(), vec![name.clone(), text.clone()]),
        Act::Append(name, text) => ("append $1 $2".to_owned(), vec![name.clone(), text.clone()]),
        Act::Specials(folder) => file("specials $1", folder),
        Act::Sleep(time) => plain(format!("sleep {time}")),
        Act::Wait => plain("wait".to_owned()),
        Act::Resist => plain("deaf; write 1; wait".to_owned()),
        Act::Work(time) => plain(format!("work {time}")),
        Act::Memory => plain("memory".to_owned()),
        Act::Fill(name) => file("fill $1", name),
        Act::Crowd => plain("crowd".to_owned()),
        Act::Escape(count) => plain(format!("escape {count}; write 1")),
        Act::Count => plain("count".to_owned()),
        Act::Absent => plain("no-such-step".to_owned()),
    }
}

#[async_trait]
impl Bench for FakeBench {
    fn engine(&self) -> Arc<dyn Engine> {
        Arc::new(self.engine.clone())
    }

    async fn restart(&self) -> Result<Arc<dyn Engine>, EngineError> {
        Ok(self.engine())
    }

    fn image(&self) -> String {
        "image:1".to_owned()
    }

    fn ownership(&self) -> Ownership {
        ownership()
    }

    fn user(&self) -> UserId {
        UserId::for_slot(self.users.fetch_add(1, Ordering::Relaxed))
    }

    fn argv(&self, act: &Act) -> Vec<String> {
        let (text, arguments) = program(act);
        let mut argv = vec!["fake".to_owned(), text];
        argv.extend(arguments);
        argv
    }

    fn env(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    fn can(&self, _capability: Capability) -> bool {
        true
    }

    async fn census(&self) -> Result<Vec<String>, EngineError> {
        Ok(self.engine.objects())
    }

    fn cancellations(&self) -> usize {
        usize::MAX
    }
}

pub(crate) fn credentials(epoch: u64) -> Credentials {
    Credentials {
        secret: Secret::new([7; 32]),
        epoch,
    }
}

pub(crate) fn workspace_spec(number: u32) -> WorkspaceSpec {
    WorkspaceSpec {
        id: sandbox_id(number),
        ownership: ownership(),
        user: UserId::for_slot(1),
        disk_bytes: 1 << 20,
        disk_files: 100,
        specification: Vec::new(),
        tests: false,
    }
}

fn sandbox_id(number: u32) -> SandboxId {
    SandboxId::new(format!("s{number}")).unwrap()
}

pub(crate) fn sandbox_spec(number: u32) -> SandboxSpec {
    SandboxSpec {
        id: sandbox_id(number),
        ownership: ownership(),
        role: Role::Task,
        workspace: sandbox_id(number),
        tests: false,
        limits: Difficulty::Easy.limits(),
        cores: Vec::new(),
        profile: Profile::Run,
        network: None,
        user: UserId::for_slot(1),
        env: BTreeMap::new(),
        runtime: None,
        max_lifetime: Duration::from_secs(7200),
    }
}

pub(crate) fn request(argv: Vec<String>) -> ExecRequest {
    ExecRequest {
        argv,
        env: Vec::new(),
        working_directory: "/workspace".into(),
        stdin: false,
        timeout: Some(Duration::from_secs(60)),
        grace: Duration::ZERO,
        output_limit: 1 << 30,
        key: None,
        join: None,
    }
}
