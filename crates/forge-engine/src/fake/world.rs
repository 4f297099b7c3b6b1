//! What exists in the fake engine, and what happens to it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use forge_core::sandbox::WORKSPACE;
use forge_core::{
    Attestation, Ending, ExecKey, Health, Processes, ResourceUsage, Role, SandboxId, SandboxSpec,
    WorkspaceSpec,
};
use tokio::time::Instant;

use super::FakeEngine;
use super::command::Command;
use super::faults::{Call, Faults, Plan, hash};
use super::files::{Failed, Node, Tree};
use super::watch::Watcher;
use crate::engine::{Credentials, FoundObject, ObjectKind, PreparedImage};
use crate::error::{EngineError, EngineErrorKind, Operation};
use crate::sandbox::{Condition, EgressRecords};
use crate::task::OwnedTask;

/// How far the making of a sandbox has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    Made,
    Started,
}

/// A command of a sandbox, and the task that runs it, where one does.
type Running = (Arc<Command>, Option<OwnedTask<()>>);

pub(super) struct SandboxEntry {
    pub(super) spec: Arc<SandboxSpec>,
    image: String,
    pub(super) stage: Stage,
    /// Whoever claimed it.
    pub(super) owner: Option<Credentials>,
    /// When it ends by itself.
    pub(super) lifetime: Instant,
    /// What its PID 1 ended with.
    pub(super) ended: Option<i64>,
    commands: BTreeMap<u64, Running>,
    next: u64,
    /// Keys of commands that were started, whatever became of them.
    keys: BTreeSet<ExecKey>,
    /// Processes that no command waits for.
    background: u64,
    pub(super) usage: ResourceUsage,
}

impl SandboxEntry {
    pub(super) fn new(spec: &SandboxSpec, image: &PreparedImage) -> Self {
        Self {
            spec: Arc::new(spec.clone()),
            image: image.runnable.clone(),
            stage: Stage::Made,
            owner: None,
            lifetime: Instant::now() + spec.max_lifetime,
            ended: None,
            commands: BTreeMap::new(),
            next: 0,
            keys: BTreeSet::new(),
            background: 0,
            usage: ResourceUsage {
                memory_peak_bytes: 1024,
                cpu_seconds: 0.5,
                pids_peak: 1,
                ..ResourceUsage::default()
            },
        }
    }

    /// Whether making this again would give the same: times and holder may differ.
    pub(super) fn is_of(&self, spec: &SandboxSpec, image: &PreparedImage) -> bool {
        let mut theirs = spec.clone();
        theirs.ownership.created_at = self.spec.ownership.created_at;
        theirs.ownership.expires_at = self.spec.ownership.expires_at;
        theirs
            .ownership
            .holder
            .clone_from(&self.spec.ownership.holder);
        *self.spec == theirs && self.image == image.runnable
    }

    /// Whether its PID 1 runs.
    pub(super) fn runs(&self) -> bool {
        self.stage >= Stage::Started && self.ended.is_none() && Instant::now() < self.lifetime
    }

    pub(super) fn commands(&self) -> impl Iterator<Item = &Arc<Command>> {
        self.commands.values().map(|(command, _)| command)
    }

    /// The command with this key, unless it is forgotten; and whether one was ever started.
    pub(super) fn by_key(&self, key: ExecKey) -> (Option<Arc<Command>>, bool) {
        let mut commands = self.commands();
        let found = commands.find(|command| command.key == Some(key) && !command.is_over());
        (found.cloned(), self.keys.contains(&key))
    }
}

pub(super) struct WorkspaceEntry {
    pub(super) spec: WorkspaceSpec,
    pub(super) tree: Tree,
    /// The author's tests, once they are there.
    pub(super) tests: Option<Tree>,
    /// Sandboxes that work on it.
    pub(super) users: u32,
}

impl WorkspaceEntry {
    pub(super) fn is_of(&self, spec: &WorkspaceSpec) -> bool {
        let mut theirs = spec.clone();
        theirs.ownership.created_at = self.spec.ownership.created_at;
        theirs.ownership.expires_at = self.spec.ownership.expires_at;
        theirs
            .ownership
            .holder
            .clone_from(&self.spec.ownership.holder);
        self.spec == theirs
    }
}

#[derive(Default)]
pub(super) struct World {
    pub(super) seed: u64,
    pub(super) faults: Faults,
    pub(super) calls: Option<Vec<String>>,
    pub(super) of_operation: HashMap<Operation, u64>,
    pub(super) of_subject: HashMap<(Operation, u64), u64>,
    pub(super) handles: u64,
    /// What PID 1 of every sandbox ended with.
    pub(super) ended: Option<i64>,
    pub(super) survivors: u32,
    pub(super) attestation: Option<Attestation>,
    pub(super) health: Option<Health>,
    pub(super) egress: EgressRecords,
    /// Files that are in every workspace from the start.
    pub(super) first_files: Vec<(String, Bytes)>,
    pub(super) sandboxes: BTreeMap<SandboxId, SandboxEntry>,
    pub(super) workspaces: BTreeMap<SandboxId, WorkspaceEntry>,
    pub(super) watchers: Vec<Watcher>,
    /// What others made.
    pub(super) others: BTreeMap<String, FoundObject>,
}

/// First part of the names of workspaces as objects.
pub(super) const VOLUME: &str = "workspace-";

/// The name of a workspace as an object.
pub(super) fn volume(id: &SandboxId) -> String {
    format!("{VOLUME}{id}")
}

/// A name relative to the workspace.
pub(super) fn relative(path: &str) -> &[u8] {
    let inside = path.strip_prefix(WORKSPACE);
    let inside = inside.filter(|rest| rest.is_empty() || rest.starts_with('/'));
    inside.unwrap_or(path).as_bytes()
}

impl World {
    /// Writes a call down and decides what goes wrong in it.
    pub(super) fn begin(&mut self, operation: Operation, subject: &str) -> Plan {
        let text = format!("{operation} {subject}");
        let of_operation = self.of_operation.entry(operation).or_default();
        *of_operation += 1;
        let of_operation = *of_operation;
        let of_subject = if self.faults.draws() {
            let count = self
                .of_subject
                .entry((operation, hash(subject)))
                .or_default();
            *count += 1;
            *count
        } else {
            1
        };
        let plan = self.faults.decide(&Call {
            seed: self.seed,
            operation,
            subject,
            text: &text,
            of_operation,
            of_subject,
        });
        if let Some(calls) = &mut self.calls {
            calls.push(text);
        }
        plan
    }

    /// Everything that exists, by name.
    pub(super) fn objects(&self) -> BTreeMap<String, FoundObject> {
        let object = |kind, name: &str, labels, running| FoundObject {
            kind,
            name: name.to_owned(),
            labels,
            running,
        };
        let sandboxes = self.sandboxes.iter().map(|(id, entry)| {
            let labels = entry.spec.ownership.labels(entry.spec.role);
            object(ObjectKind::Container, id.as_str(), labels, entry.runs())
        });
        let workspaces = self.workspaces.iter().map(|(id, entry)| {
            let labels = entry.spec.ownership.labels(Role::Workspace);
            object(ObjectKind::Volume, &volume(id), labels, false)
        });
        let all = sandboxes
            .chain(workspaces)
            .chain(self.others.values().cloned());
        all.map(|object| (object.name.clone(), object)).collect()
    }

    /// The sandbox, when its PID 1 runs.
    pub(super) fn live(
        &mut self,
        id: &SandboxId,
        operation: Operation,
    ) -> Result<&mut SandboxEntry, EngineError> {
        let error = |kind, message: &str| EngineError::new(kind, operation, id.as_str(), message);
        match self.sandboxes.get_mut(id) {
            None if operation == Operation::Open => {
                Err(error(EngineErrorKind::NotFound, "there is no such sandbox"))
            }
            None => Err(error(EngineErrorKind::Lost, "the sandbox is gone")),
            Some(entry) if entry.runs() => Ok(entry),
            Some(_) => Err(error(EngineErrorKind::Lost, "the sandbox does not run")),
        }
    }

    /// The workspace that a sandbox works on.
    pub(super) fn workspace_of(&mut self, id: &SandboxId) -> Option<&mut WorkspaceEntry> {
        let workspace = &self.sandboxes.get(id)?.spec.workspace;
        self.workspaces.get_mut(workspace)
    }

    /// Takes a sandbox away; its commands are still to be told.
    pub(super) fn take_sandbox(&mut self, id: &SandboxId) -> Vec<Running> {
        let entry = self.sandboxes.remove(id);
        let workspace = entry.as_ref().map(|entry| &entry.spec.workspace);
        if let Some(workspace) = workspace.and_then(|id| self.workspaces.get_mut(id)) {
            workspace.users -= 1;
        }
        let commands = entry.map(|entry| entry.commands).unwrap_or_default();
        commands.into_values().collect()
    }

    fn usage(&mut self, id: &SandboxId, change: impl FnOnce(&mut ResourceUsage)) {
        if let Some(entry) = self.sandboxes.get_mut(id) {
            change(&mut entry.usage);
        }
    }

    /// Brings the counters about the disk up to date.
    pub(super) fn look_at_disk(&mut self, id: &SandboxId) {
        let Some((used, room)) = self
            .workspace_of(id)
            .map(|it| (it.tree.used(), it.tree.room()))
        else {
            return;
        };
        self.usage(id, |usage| {
            usage.disk_peak_bytes = usage.disk_peak_bytes.max(used);
            usage.disk_full |= room == 0;
        });
    }
}

/// What programs do to the sandbox they run in.
impl FakeEngine {
    /// Takes a command in; gives its number in the sandbox.
    pub(super) fn add_command(&self, id: &SandboxId, command: &Arc<Command>) -> Option<u64> {
        let mut world = self.world();
        let entry = world.sandboxes.get_mut(id)?;
        entry.next += 1;
        let number = entry.next;
        entry.keys.extend(command.key);
        entry.commands.insert(number, (command.clone(), None));
        let running = entry.commands.len() as u64 + entry.background;
        entry.usage.pids_peak = entry.usage.pids_peak.max(running);
        Some(number)
    }

    /// Gives a command the task that runs it.
    pub(super) fn set_task(&self, id: &SandboxId, number: u64, task: OwnedTask<()>) {
        let mut world = self.world();
        let entry = world.sandboxes.get_mut(id);
        if let Some((_, slot)) = entry.and_then(|entry| entry.commands.get_mut(&number)) {
            *slot = Some(task);
        }
    }

    /// Lets go of a command that has ended, as far as nobody can ask for it any more.
    pub(super) fn retire_command(&self, id: &SandboxId, number: u64) {
        let mut world = self.world();
        let Some(entry) = world.sandboxes.get_mut(id) else {
            return;
        };
        let command = entry.commands.get_mut(&number);
        let task = command.and_then(|(_, task)| task.take());
        let over = entry.commands.get(&number);
        let over = over.is_some_and(|(command, _)| command.is_over());
        let gone = over.then(|| entry.commands.remove(&number));
        drop(world);
        // Outside of the lock: a task that is dropped may drop what takes it.
        drop((task, gone));
    }

    /// Ends everything in a sandbox like this.
    pub(super) fn end_commands(&self, id: &SandboxId, ending: Ending) {
        let mut world = self.world();
        let Some(entry) = world.sandboxes.get_mut(id) else {
            return;
        };
        entry.background = 0;
        let commands: Vec<_> = entry.commands().cloned().collect();
        drop(world);
        for command in commands {
            command.end(ending.clone());
        }
    }

    /// PID 1 of a sandbox ends, and with it everything in it.
    pub(super) fn end_sandbox(&self, id: &SandboxId, code: i64) {
        let mut world = self.world();
        let Some(entry) = world.sandboxes.get_mut(id) else {
            return;
        };
        entry.ended.get_or_insert(code);
        entry.background = 0;
        let commands: Vec<_> = entry.commands().cloned().collect();
        drop(world);
        for command in commands {
            command.lose();
        }
    }

    /// A sandbox goes, with everything in it.
    pub(super) fn drop_sandbox(&self, id: &SandboxId) -> bool {
        let mut world = self.world();
        let there = world.sandboxes.contains_key(id);
        let commands = world.take_sandbox(id);
        // One that another process made has the same name.
        let is_container = |object: &FoundObject| object.kind == ObjectKind::Container;
        if world.others.get(id.as_str()).is_some_and(is_container) {
            world.others.remove(id.as_str());
        }
        drop(world);
        for (command, _) in &commands {
            command.lose();
        }
        there
    }

    pub(super) fn read_file(&self, id: &SandboxId, path: &str) -> Option<Bytes> {
        let mut world = self.world();
        let path = String::from_utf8_lossy(relative(path)).into_owned();
        world.workspace_of(id)?.tree.read(&path)
    }

    pub(super) fn place_file(&self, id: &SandboxId, path: &str, node: Node) -> Result<(), Failed> {
        let mut world = self.world();
        let Some(workspace) = world.workspace_of(id) else {
            return Err((EngineErrorKind::NotFound, "no workspace".to_owned()));
        };
        let placed = workspace.tree.place(relative(path), node);
        world.look_at_disk(id);
        placed
    }

    /// Takes all the room there is, without the memory that it would need.
    pub(super) fn fill(&self, id: &SandboxId, path: &str) {
        let mut world = self.world();
        if let Some(workspace) = world.workspace_of(id) {
            workspace.tree.fill(relative(path));
        }
        world.look_at_disk(id);
    }

    pub(super) fn note_work(&self, id: &SandboxId, time: Duration) {
        let add = |usage: &mut ResourceUsage| usage.cpu_seconds += time.as_secs_f64();
        self.world().usage(id, add);
    }

    pub(super) fn note_out_of_memory(&self, id: &SandboxId) {
        let mut world = self.world();
        let Some(entry) = world.sandboxes.get_mut(id) else {
            return;
        };
        entry.usage.oom_kills += 1;
        entry.usage.memory_peak_bytes = entry.spec.limits.memory_bytes;
    }

    pub(super) fn note_crowd(&self, id: &SandboxId) {
        let mut world = self.world();
        let Some(entry) = world.sandboxes.get_mut(id) else {
            return;
        };
        entry.usage.pids_refused += 1;
        entry.usage.pids_peak = entry.spec.limits.processes;
    }

    pub(super) fn escape(&self, id: &SandboxId, count: u64) {
        let mut world = self.world();
        if let Some(entry) = world.sandboxes.get_mut(id) {
            entry.background += count;
        }
    }

    /// Processes of a sandbox besides this command.
    pub(super) fn processes(&self, id: &SandboxId, number: u64) -> u64 {
        let world = self.world();
        let Some(entry) = world.sandboxes.get(id) else {
            return 0;
        };
        let commands = entry.commands.iter();
        let others =
            commands.filter(|(other, (command, _))| **other != number && command.is_running());
        entry.background + others.count() as u64
    }
}

/// What is seen of a sandbox from outside.
impl FakeEngine {
    /// When a sandbox ends by itself.
    pub(super) fn lifetime(&self, id: &SandboxId) -> Option<Instant> {
        self.world().sandboxes.get(id).map(|entry| entry.lifetime)
    }

    /// How a sandbox is: as the test says, or as it stands here.
    pub(super) fn health_of(&self, id: &SandboxId) -> Health {
        let world = self.world();
        if let Some(health) = world.health {
            return health;
        }
        let entry = world.sandboxes.get(id);
        let usage = entry.map(|entry| entry.usage).unwrap_or_default();
        let commands = entry.into_iter().flat_map(SandboxEntry::commands);
        let (mut running, mut output_bytes) = (0, 0);
        for command in commands {
            running += u32::from(command.is_running());
            output_bytes += command.written();
        }
        let background = entry.map_or(0, |entry| entry.background);
        Health {
            specification: Some(true),
            processes: Processes {
                sleeping: running + u32::try_from(background).unwrap_or(u32::MAX),
                ..Processes::default()
            },
            cpu: Some(Duration::from_secs_f64(usage.cpu_seconds)),
            output_bytes,
        }
    }

    pub(super) fn condition_of(&self, id: &SandboxId) -> Condition {
        let world = self.world();
        let ended = |code| Condition::Ended {
            code,
            out_of_memory: false,
        };
        match (world.ended, world.sandboxes.get(id)) {
            (Some(code), _) => ended(code),
            (None, None) => Condition::Gone,
            (None, Some(entry)) if entry.runs() => Condition::Running,
            (None, Some(entry)) => ended(entry.ended.unwrap_or(0)),
        }
    }
}
