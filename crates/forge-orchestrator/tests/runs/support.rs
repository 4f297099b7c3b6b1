//! A run on the fake engine with a real record in a temporary folder.

use std::collections::BTreeMap;
use std::sync::Arc;

use forge_core::task::{NetworkPolicy, Solution, SourceTree, VerifyContainer};
use forge_core::{
    CleanupBounds, CleanupPolicy, CommandLine, Difficulty, EgressPolicy, ExecRequest, Failure,
    ImageChoice, NetworkLevel, OwnerId, PhaseName, Reason, RunId, Task, TaskId,
};
use forge_engine::fake::{FakeEngine, FakeExec};
use forge_orchestrator::run::{CapacityOptions, Purpose};
use forge_orchestrator::{
    Agent, Cancellation, EventSink, Operator, Orchestrator, RunOptions, RunSummary, SecretValue,
};
use forge_plan::retry::RetryPolicy;
use forge_store::Store;
use tempfile::TempDir;

pub(crate) struct Bench {
    pub folder: TempDir,
    pub engine: FakeEngine,
    pub store: Store,
    pub cancellation: Cancellation,
    pub operator: Rules,
    /// The command line of runs, for the record.
    pub arguments: Vec<String>,
}

/// What the operator of a bench decides.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rules {
    /// Why no task may run.
    pub forbidden: Option<String>,
    pub secrets: BTreeMap<String, String>,
}

impl Operator for Rules {
    fn permit(&self, _task: &Task) -> Result<(), Failure> {
        match &self.forbidden {
            None => Ok(()),
            Some(why) => Err(Failure::new(Reason::NotPermitted, why.clone())),
        }
    }

    fn egress(&self, task: &Task, phase: PhaseName) -> Result<EgressPolicy, Failure> {
        Ok(EgressPolicy {
            level: task.network.level(phase),
            ..EgressPolicy::isolated()
        })
    }

    fn environment(&self, level: NetworkLevel) -> Vec<(String, String)> {
        vec![("LEVEL".to_owned(), level.to_string())]
    }

    fn secret(&self, name: &str) -> Result<SecretValue, Failure> {
        match self.secrets.get(name) {
            Some(value) => Ok(SecretValue::new(value.clone())),
            None => Err(Failure::new(
                Reason::SecretUnavailable,
                format!("there is no secret '{name}'"),
            )),
        }
    }

    fn runtime(&self) -> Option<String> {
        None
    }

    fn cleanup_bounds(&self) -> CleanupBounds {
        CleanupBounds::default()
    }

    fn own_cores(&self) -> bool {
        true
    }
}

impl Bench {
    /// A bench whose commands do what `script` says.
    pub(crate) async fn new(
        script: impl Fn(&ExecRequest) -> FakeExec + Send + Sync + 'static,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let owner = OwnerId::new("bench").unwrap();
        let store = Store::open(folder.path().join("record.sqlite"), owner)
            .await
            .unwrap();
        for name in ["src", "tests", "solution"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        Self {
            folder,
            engine: FakeEngine::new(script),
            store,
            cancellation: Cancellation::default(),
            operator: Rules::default(),
            arguments: Vec::new(),
        }
    }

    /// Every call in order, but that which only watches, whose turn comes by chance.
    pub(crate) fn calls(&self) -> Vec<String> {
        let mut calls = self.engine.calls();
        let watch = forge_engine::Operation::Watch.to_string();
        calls.retain(|call| !call.starts_with(&watch));
        calls
    }

    fn tree(&self, name: &str) -> SourceTree {
        SourceTree {
            root: self.folder.path().join(name),
            entries: 1,
            bytes: 0,
        }
    }

    /// A task with every part.
    pub(crate) fn task(&self, id: &str) -> Task {
        let shell = |text: &str| CommandLine::Shell(text.to_owned());
        Task {
            id: TaskId::new(id).unwrap(),
            directory: self.folder.path().to_owned(),
            title: "An example".to_owned(),
            instruction: "Mend it.".to_owned(),
            difficulty: Difficulty::Easy,
            image: ImageChoice::Reference("example:1".to_owned()),
            setup: Some(shell("setup")),
            solve: Some(shell("solve")),
            verify: shell("verify"),
            verify_container: VerifyContainer::Fresh,
            tags: Vec::new(),
            limits: Difficulty::Easy.limits(),
            network: NetworkPolicy::default(),
            env: BTreeMap::new(),
            secrets: Vec::new(),
            user: None,
            artifacts: Vec::new(),
            tests_visible: false,
            cleanup: CleanupPolicy::default(),
            specification: Vec::new(),
            src: Some(self.tree("src")),
            tests: Some(self.tree("tests")),
            solution: Some(Solution {
                tree: self.tree("solution"),
                has_patch: false,
                has_script: true,
            }),
        }
    }

    pub(crate) async fn run(&self, tasks: Vec<Task>, purpose: Purpose) -> RunSummary {
        self.run_with(tasks, purpose, 2).await
    }

    pub(crate) async fn run_with(
        &self,
        tasks: Vec<Task>,
        purpose: Purpose,
        concurrency: u32,
    ) -> RunSummary {
        let once = RetryPolicy {
            attempts: 1,
            ..RetryPolicy::default()
        };
        self.run_retrying(tasks, purpose, concurrency, once).await
    }

    pub(crate) async fn run_retrying(
        &self,
        tasks: Vec<Task>,
        purpose: Purpose,
        concurrency: u32,
        retry: RetryPolicy,
    ) -> RunSummary {
        let tasks: Vec<Arc<Task>> = tasks.into_iter().map(Arc::new).collect();
        let options = RunOptions {
            run: RunId::from_uuid(uuid::Uuid::now_v7()),
            purpose,
            concurrency: Some(concurrency),
            capacity: CapacityOptions::default(),
            retry,
            out: self.folder.path().join("out"),
            operator: Arc::new(self.operator.clone()),
            keep: false,
            engine_identity: None,
            arguments: self.arguments.clone(),
            version: "test".to_owned(),
        };
        Orchestrator::new(Arc::new(self.engine.clone()), self.store.clone())
            .run(
                &tasks,
                options,
                EventSink::none(),
                self.cancellation.clone(),
            )
            .await
            .unwrap()
    }

    /// Runs one task with its own solve command.
    pub(crate) async fn run_one(&self, task: Task) -> RunSummary {
        self.run(vec![task], Purpose::Run(Agent::Command(None)))
            .await
    }
}

/// A script in which the command whose last word is `word` does `exec`, and all others succeed.
pub(crate) fn only(
    word: &'static str,
    exec: FakeExec,
) -> impl Fn(&ExecRequest) -> FakeExec + Send + Sync + 'static {
    move |request| {
        if request.argv.last().is_some_and(|last| last == word) {
            exec.clone()
        } else {
            FakeExec::exits(0)
        }
    }
}
