//! An engine without containers, for tests of decisions and faults.
//!
//! It keeps what it "made" in memory and writes every call down in order. What goes wrong, and how
//! long things take, is said beforehand ([`Faults`]) and drawn from a seed, or said in the middle of a
//! test. Its clock is tokio's: with paused time, hours pass at once. Commands do what a script of the
//! test says, or are programs of a tiny language of their own ([`program`]).
//!
//! A sandbox at rest has no task of the runtime, so that a hundred thousand of them fit in memory.

mod command;
mod engine;
mod faults;
mod files;
pub mod program;
mod run;
mod sandbox;
mod watch;
mod world;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use forge_core::sandbox::{SPECIFICATION, TESTS, WORKSPACE};
use forge_core::{
    Attestation, Ending, ExecRequest, ExitReport, Health, Profile, SandboxId, SandboxSpec,
};

use crate::engine::FoundObject;
use crate::error::{EngineError, EngineErrorKind, Operation};
use crate::sandbox::EgressRecords;
use world::World;

pub use faults::{Fault, Faults, Latency, When};

/// What a command does in the fake.
#[derive(Debug, Clone)]
pub enum FakeExec {
    /// It writes this to standard output and ends so.
    Ends {
        /// Its output.
        output: Vec<u8>,
        /// Its end.
        report: ExitReport,
    },
    /// It never ends by itself, nor at its deadline.
    Hangs,
    /// Contact with its sandbox is lost.
    Lost,
    /// It is a program of the fake's own language, see [`program`]; any other is not there.
    Runs,
}

impl FakeExec {
    /// A command that ends by itself with `code`.
    #[must_use]
    pub fn exits(code: i32) -> Self {
        Self::ends(Ending::Exited(code))
    }

    /// A command that ends in this way.
    #[must_use]
    pub fn ends(ending: Ending) -> Self {
        Self::Ends {
            output: b"output\n".to_vec(),
            report: ExitReport {
                ending,
                output_bytes: 7,
                truncated: false,
                oom_kills: 0,
                pids_refused: 0,
                duration: Duration::from_millis(5),
            },
        }
    }
}

type Script = dyn Fn(&ExecRequest) -> FakeExec + Send + Sync;

/// The fake engine; clones share one world, as processes share one machine.
#[derive(Clone)]
pub struct FakeEngine {
    world: Arc<Mutex<World>>,
    script: Arc<Script>,
}

/// What exists on the fake engine; nothing, after everything was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Census {
    /// Sandboxes, half-made and ended ones among them.
    pub sandboxes: Vec<SandboxId>,
    /// Workspaces.
    pub workspaces: Vec<SandboxId>,
    /// Names of objects that others made.
    pub others: Vec<String>,
    /// Commands that run, or are remembered.
    pub commands: usize,
}

impl Census {
    /// Whether there is nothing at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl std::fmt::Debug for FakeEngine {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("FakeEngine")
    }
}

impl FakeEngine {
    /// An engine on which nothing goes wrong and whose commands do what `script` says. Every workspace
    /// of it has the file `output/result.txt` with the text `done`, as if a command had left it.
    pub fn new(script: impl Fn(&ExecRequest) -> FakeExec + Send + Sync + 'static) -> Self {
        let mut world = World::default();
        let done = Bytes::from_static(b"done");
        world.first_files = vec![("output/result.txt".to_owned(), done)];
        Self::of(world).scripted(script)
    }

    /// An engine on which this goes wrong, drawn from `seed`, and whose commands are programs of the
    /// fake's own language.
    #[must_use]
    pub fn with(seed: u64, faults: Faults) -> Self {
        Self::of(World {
            seed,
            faults,
            ..World::default()
        })
    }

    fn of(mut world: World) -> Self {
        world.calls = Some(Vec::new());
        Self {
            world: Arc::new(Mutex::new(world)),
            script: Arc::new(|_| FakeExec::Runs),
        }
    }

    /// This engine with commands that do what `script` says.
    #[must_use]
    pub fn scripted(
        mut self,
        script: impl Fn(&ExecRequest) -> FakeExec + Send + Sync + 'static,
    ) -> Self {
        self.script = Arc::new(script);
        self
    }

    /// This engine without the list of calls, which grows for ever.
    #[must_use]
    pub fn forgetful(self) -> Self {
        self.world().calls = None;
        self
    }

    /// From now on this goes wrong, and nothing else.
    pub fn set_faults(&self, faults: Faults) {
        self.world().faults = faults;
    }

    /// From now on `operation` fails in this way.
    pub fn fail(&self, operation: Operation, kind: EngineErrorKind) {
        self.world().faults.always(operation, Fault::Error(kind));
    }

    /// From now on every call that is written down with `part` in it fails in this way.
    pub fn fail_where(&self, part: &str, kind: EngineErrorKind) {
        let when = When::Where(part.to_owned());
        self.world().faults.add(None, when, Fault::Error(kind));
    }

    /// From now on PID 1 of every sandbox has ended with `code`.
    pub fn set_ended(&self, code: i64) {
        self.world().ended = Some(code);
    }

    /// PID 1 of this sandbox ends with `code`, and everything in it with it.
    pub fn end(&self, id: &SandboxId, code: i64) {
        self.end_sandbox(id, code);
    }

    /// This sandbox is gone from one moment to the next; false when it was not there.
    pub fn vanish(&self, id: &SandboxId) -> bool {
        self.drop_sandbox(id)
    }

    /// From now on this many processes resist being ended.
    pub fn set_survivors(&self, survivors: u32) {
        self.world().survivors = survivors;
    }

    /// From now on sandboxes attest this.
    pub fn set_attestation(&self, attestation: Attestation) {
        self.world().attestation = Some(attestation);
    }

    /// From now on every sandbox is like this.
    pub fn set_health(&self, health: Health) {
        self.world().health = Some(health);
    }

    /// What the next sandbox that is asked for records of connections gives.
    pub fn set_egress(&self, records: EgressRecords) {
        self.world().egress = records;
    }

    /// Puts an object there that somebody else made.
    pub fn add_object(&self, object: FoundObject) {
        self.world().others.insert(object.name.clone(), object);
    }

    /// Every call so far, in order; none of an engine that is forgetful.
    #[must_use]
    pub fn calls(&self) -> Vec<String> {
        self.world().calls.clone().unwrap_or_default()
    }

    /// How many calls there were so far, also of an engine that is forgetful.
    #[must_use]
    pub fn call_count(&self) -> u64 {
        self.world().of_operation.values().sum()
    }

    /// Names of the objects that exist.
    #[must_use]
    pub fn objects(&self) -> Vec<String> {
        self.world().objects().into_keys().collect()
    }

    /// Everything that exists.
    #[must_use]
    pub fn census(&self) -> Census {
        let world = self.world();
        let commands = world
            .sandboxes
            .values()
            .map(|entry| entry.commands().filter(|it| !it.is_over()).count());
        Census {
            sandboxes: world.sandboxes.keys().cloned().collect(),
            workspaces: world.workspaces.keys().cloned().collect(),
            others: world.others.keys().cloned().collect(),
            commands: commands.sum(),
        }
    }

    /// A file of a workspace, by a name relative to it.
    #[must_use]
    pub fn file(&self, workspace: &SandboxId, name: &str) -> Option<Bytes> {
        self.world().workspaces.get(workspace)?.tree.read(name)
    }

    fn next_handle(&self) -> u64 {
        let mut world = self.world();
        world.handles += 1;
        world.handles
    }

    fn world(&self) -> MutexGuard<'_, World> {
        // Nothing in here panics while it holds the lock.
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One operation: it takes its time, goes wrong as it shall, and otherwise has its effect.
    ///
    /// `about` is the sandbox that disappears where one shall.
    async fn perform<T>(
        &self,
        operation: Operation,
        subject: &str,
        about: Option<&SandboxId>,
        effect: impl FnOnce(&mut World) -> Result<T, EngineError> + Send,
    ) -> Result<T, EngineError> {
        let call = self.begin(operation, subject, about).await?;
        let result = effect(&mut self.world());
        call.finish(result).await
    }

    /// The part of an operation that comes before its effect.
    async fn begin(
        &self,
        operation: Operation,
        subject: &str,
        about: Option<&SandboxId>,
    ) -> Result<Ongoing, EngineError> {
        let plan = self.world().begin(operation, subject);
        let ongoing = Ongoing {
            operation,
            subject: subject.to_owned(),
            fault: plan.fault,
            rest: plan.delay / 2,
        };
        pass(plan.delay - ongoing.rest).await;
        match plan.fault {
            Some(Fault::Error(kind)) => Err(ongoing.error(kind, "as the test asked")),
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::OutOfSpace) if operation != Operation::Exec => {
                Err(ongoing.error(EngineErrorKind::Exhausted, "no space left on device"))
            }
            Some(Fault::Disappear) => {
                let there = about.is_some_and(|id| self.drop_sandbox(id));
                let kind = if there {
                    EngineErrorKind::Lost
                } else {
                    EngineErrorKind::Unavailable
                };
                Err(ongoing.error(kind, "it disappeared"))
            }
            _ => Ok(ongoing),
        }
    }

    fn attestation(&self, spec: &SandboxSpec) -> Attestation {
        let root = spec.profile == Profile::Build;
        self.world()
            .attestation
            .clone()
            .unwrap_or_else(|| Attestation {
                capabilities: spec.profile.capabilities(),
                bounding_capabilities: spec.profile.capabilities(),
                no_new_privileges: true,
                seccomp_mode: 2,
                uid: if root { 0 } else { spec.user.uid() },
                gid: if root { 0 } else { spec.user.gid() },
                interfaces: vec!["lo".to_owned()],
                routes: 0,
                writable_mounts: vec!["/tmp".to_owned(), WORKSPACE.to_owned()],
                read_only_mounts: [SPECIFICATION]
                    .into_iter()
                    .chain(spec.tests.then_some(TESTS))
                    .map(str::to_owned)
                    .collect(),
                read_only_root: !root,
                vsock_refused: true,
                metadata_unreachable: true,
                network_served: spec.network.is_some(),
                network_failure: None,
                kernel: "fake".to_owned(),
            })
    }
}

/// An operation that has begun.
struct Ongoing {
    operation: Operation,
    subject: String,
    fault: Option<Fault>,
    rest: Duration,
}

impl Ongoing {
    fn error(&self, kind: EngineErrorKind, message: &str) -> EngineError {
        EngineError::new(kind, self.operation, self.subject.as_str(), message)
    }

    /// How fast bytes move in it.
    fn bytes_per_second(&self) -> Option<u64> {
        match self.fault {
            Some(Fault::Slow { bytes_per_second }) => Some(bytes_per_second),
            _ => None,
        }
    }

    /// Moves so many bytes.
    async fn transfer(&self, bytes: u64) {
        if let Some(speed) = self.bytes_per_second() {
            tokio::time::sleep(time_of(bytes, speed)).await;
        }
    }

    /// The part of an operation that comes after its effect.
    async fn finish<T>(self, result: Result<T, EngineError>) -> Result<T, EngineError> {
        pass(self.rest).await;
        match (self.fault, result) {
            (Some(Fault::LostReply), Ok(_)) => {
                Err(self.error(EngineErrorKind::Unavailable, "the engine does not answer"))
            }
            (_, result) => result,
        }
    }
}

/// Lets time pass; also where none passes, others get their turn and a future can be dropped.
async fn pass(time: Duration) {
    if time.is_zero() {
        tokio::task::yield_now().await;
    } else {
        tokio::time::sleep(time).await;
    }
}

fn time_of(bytes: u64, bytes_per_second: u64) -> Duration {
    // Nanoseconds of 2^64 bytes fit.
    let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(bytes_per_second.max(1));
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}
