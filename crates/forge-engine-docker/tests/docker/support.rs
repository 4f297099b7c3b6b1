//! What every test needs: an engine, a sandbox in it, and nothing left behind.

use std::collections::BTreeMap;
use std::future::Future;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use forge_core::exec::{DEFAULT_GRACE, OutputStream};
use forge_core::ownership::{Ownership, Role};
use forge_core::{
    Attempt, Difficulty, Ending, ExecRequest, ExitReport, OwnerId, Profile, RunId, SandboxId,
    SandboxSpec, SpecificationFile, TaskId, UserId, WorkspaceSpec,
};
use forge_engine::{Credentials, Engine, Inventory, PreparedImage, Sandbox};
use forge_engine_docker::{
    DiskOptions, DiskSharing, DockerEngine, DockerOptions, EgressOptions, Environment, InitBinary,
};
use forge_wire::Secret;
use forge_wire::message::TransferLimits;
use futures::FutureExt;
use jiff::{SignedDuration, Timestamp};

/// Both ways to a sandbox.
pub(crate) const BOTH_WAYS: [DiskSharing; 2] = [DiskSharing::Probe, DiskSharing::Never];

/// Bounds no test comes near.
pub(crate) const WIDE: TransferLimits = TransferLimits {
    bytes: 1 << 30,
    entries: 100_000,
};

pub(crate) fn setting(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set: these tests are run by `cargo xtask test`, which sets it")
    })
}

pub(crate) fn test_image() -> String {
    setting("SWE_FORGE_TEST_IMAGE")
}

pub(crate) fn init_bytes() -> Arc<[u8]> {
    file(&setting("SWE_FORGE_TEST_INIT"))
}

pub(crate) fn egress_bytes() -> Arc<[u8]> {
    file(&setting("SWE_FORGE_TEST_EGRESS"))
}

fn file(path: &str) -> Arc<[u8]> {
    std::fs::read(path)
        .unwrap_or_else(|error| panic!("{path}: {error}"))
        .into()
}

/// Who holds what tests make.
pub(crate) const HOLDER: &str = "test";
const CHANNELS: &str = "channels";
const POOL: &str = "pool";

/// An engine with an owner label that only one test has.
pub(crate) struct Bench {
    pub(crate) engine: DockerEngine,
    pub(crate) owner: OwnerId,
    pub(crate) run: RunId,
    sharing: DiskSharing,
    folder: tempfile::TempDir,
}

fn options(sharing: DiskSharing, folder: &Path, owner: &OwnerId) -> DockerOptions {
    DockerOptions {
        host: None,
        environment: Environment::of_process(),
        init_binary: InitBinary {
            bytes: init_bytes(),
        },
        channel_root: folder.join(CHANNELS),
        owner: owner.clone(),
        holder: HOLDER.into(),
        run: None,
        runtime: None,
        disk_sharing: sharing,
        disk: DiskOptions {
            pool: folder.join(POOL),
            ..DiskOptions::default()
        },
        certificates: None,
        egress: EgressOptions {
            program: egress_bytes(),
            ..EgressOptions::default()
        },
        cargo_config: None,
    }
}

/// Users of concurrent sandboxes differ.
static SLOT: AtomicU16 = AtomicU16::new(1);

impl Bench {
    async fn new(sharing: DiskSharing, change: impl FnOnce(&mut DockerOptions)) -> Self {
        let uuid = uuid::Uuid::new_v4();
        let owner = OwnerId::new(format!("test-{}", uuid.simple())).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut options = options(sharing, folder.path(), &owner);
        change(&mut options);
        Self {
            engine: DockerEngine::connect(options).await.unwrap(),
            owner,
            run: RunId::from_uuid(uuid),
            sharing,
            folder,
        }
    }

    /// The same engine as another process sees it.
    pub(crate) async fn stranger(&self) -> DockerEngine {
        self.stranger_with(|_| ()).await
    }

    /// The same for a process that was started in another way.
    pub(crate) async fn stranger_with(
        &self,
        change: impl FnOnce(&mut DockerOptions),
    ) -> DockerEngine {
        let mut options = options(self.sharing, self.folder.path(), &self.owner);
        change(&mut options);
        DockerEngine::connect(options).await.unwrap()
    }

    /// The folders of sockets.
    pub(crate) fn channels(&self) -> Vec<PathBuf> {
        // Not there where the disk is not shared.
        let entries = std::fs::read_dir(self.folder.path().join(CHANNELS));
        let paths = entries.into_iter().flatten();
        let paths = paths.map(|entry| entry.unwrap().path());
        paths.filter(|path| path.is_dir()).collect()
    }

    /// The files of workspaces that are file systems.
    pub(crate) fn images(&self) -> Vec<PathBuf> {
        let list = |folder: &Path| -> Vec<PathBuf> {
            let entries = std::fs::read_dir(folder).into_iter().flatten();
            entries.map(|entry| entry.unwrap().path()).collect()
        };
        let pools = list(&self.folder.path().join(POOL));
        let pools = pools.iter().filter(|path| path.is_dir());
        pools.flat_map(|pool| list(pool)).collect()
    }

    pub(crate) fn ownership(&self) -> Ownership {
        let now = Timestamp::now();
        Ownership {
            owner: self.owner.clone(),
            run: self.run,
            task: TaskId::new("docker-test").unwrap(),
            attempt: Attempt(1),
            difficulty: Difficulty::Easy,
            created_at: now,
            expires_at: now + SignedDuration::from_mins(10),
            holder: "1@1".into(),
        }
    }

    /// A new id that belongs to this test.
    pub(crate) fn id(&self, part: &str) -> SandboxId {
        let task = TaskId::new("docker-test").unwrap();
        SandboxId::for_attempt(&task, &self.run, Attempt(1)).with_part(part)
    }

    pub(crate) async fn image(&self) -> PreparedImage {
        self.engine.prepare_image(&test_image()).await.unwrap()
    }

    pub(crate) fn workspace_spec(&self, id: &SandboxId, user: UserId) -> WorkspaceSpec {
        WorkspaceSpec {
            id: id.clone(),
            ownership: self.ownership(),
            user,
            disk_bytes: Difficulty::Easy.limits().disk_bytes,
            disk_files: Difficulty::Easy.limits().disk_files,
            specification: vec![SpecificationFile {
                name: "task.json".into(),
                contents: b"{\"id\":\"docker-test\"}".to_vec(),
            }],
            tests: false,
        }
    }

    pub(crate) fn sandbox_spec(&self, id: &SandboxId, user: UserId) -> SandboxSpec {
        SandboxSpec {
            id: id.clone(),
            ownership: self.ownership(),
            role: Role::Task,
            workspace: id.clone(),
            tests: false,
            limits: Difficulty::Easy.limits(),
            cores: Vec::new(),
            profile: Profile::Run,
            network: None,
            user,
            env: BTreeMap::from([("TASK_ID".into(), "docker-test".into())]),
            runtime: None,
            max_lifetime: Duration::from_secs(300),
        }
    }

    /// A running sandbox with its workspace.
    pub(crate) async fn sandbox(&self, part: &str) -> Arc<dyn Sandbox> {
        self.sandbox_with(part, |_| ()).await
    }

    pub(crate) async fn sandbox_with(
        &self,
        part: &str,
        change: impl FnOnce(&mut SandboxSpec),
    ) -> Arc<dyn Sandbox> {
        let id = self.id(part);
        let user = next_user();
        let image = self.image().await;
        let workspace = self.workspace_spec(&id, user);
        self.engine
            .create_workspace(&workspace, &image)
            .await
            .unwrap();
        let mut spec = self.sandbox_spec(&id, user);
        change(&mut spec);
        self.engine.create(&spec, &image, &secret()).await.unwrap()
    }

    async fn clean(&self) {
        // First, so that nothing is brought back that is removed below.
        self.engine.close().await.unwrap();
        let mut objects = self.engine.list(Some(&self.owner)).await.unwrap();
        // Containers first: they hold the volumes.
        objects.sort_by_key(|object| object.kind);
        for object in &objects {
            self.engine.remove(object).await.unwrap();
        }
        // What a test lost on purpose.
        self.engine.sweep().await;
        let left = self.engine.list(Some(&self.owner)).await.unwrap();
        assert!(left.is_empty(), "left behind: {left:?}");
        let left = self.images();
        assert!(left.is_empty(), "left behind: {left:?}");
    }
}

pub(crate) fn next_user() -> UserId {
    // Far from the slots of an orchestrator that may run here as well.
    UserId::for_slot(40_000 + SLOT.fetch_add(1, Ordering::Relaxed))
}

/// What proves that a sandbox is the test's.
pub(crate) fn secret() -> Credentials {
    Credentials {
        secret: Secret::new([42; 32]),
        epoch: 1,
    }
}

/// Runs a test with a bench of its own and cleans up after it, also when it fails.
pub(crate) async fn with_bench<F>(sharing: DiskSharing, test: impl FnOnce(Arc<Bench>) -> F)
where
    F: Future<Output = ()>,
{
    with_bench_of(sharing, |_| (), test).await;
}

/// The same with an engine handle that was made in another way.
pub(crate) async fn with_bench_of<F>(
    sharing: DiskSharing,
    change: impl FnOnce(&mut DockerOptions),
    test: impl FnOnce(Arc<Bench>) -> F,
) where
    F: Future<Output = ()>,
{
    let bench = Arc::new(Bench::new(sharing, change).await);
    let result = AssertUnwindSafe(test(bench.clone())).catch_unwind().await;
    bench.clean().await;
    if let Err(panic) = result {
        resume_unwind(panic);
    }
}

/// The same for both ways to a sandbox, one after the other.
pub(crate) async fn both_ways<F>(test: impl Fn(Arc<Bench>) -> F)
where
    F: Future<Output = ()>,
{
    for sharing in BOTH_WAYS {
        with_bench(sharing, &test).await;
    }
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) report: ExitReport,
}

impl Finished {
    pub(crate) fn succeeded(&self) -> bool {
        self.report.ending == Ending::Exited(0)
    }
}

pub(crate) fn request(argv: &[&str]) -> ExecRequest {
    ExecRequest {
        argv: argv.iter().map(|&part| part.to_owned()).collect(),
        env: vec![("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into())],
        working_directory: "/workspace".into(),
        stdin: false,
        timeout: Some(Duration::from_secs(60)),
        grace: DEFAULT_GRACE,
        output_limit: 64 << 20,
        key: None,
        join: None,
    }
}

pub(crate) async fn run(sandbox: &dyn Sandbox, argv: &[&str]) -> Finished {
    let mut running = sandbox.exec(request(argv)).await.unwrap();
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    while let Some(chunk) = running.output.next().await {
        match chunk.stream {
            OutputStream::Stdout => stdout.extend_from_slice(&chunk.bytes),
            OutputStream::Stderr => stderr.extend_from_slice(&chunk.bytes),
        }
    }
    Finished {
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
        report: running.exit.await.unwrap(),
    }
}

pub(crate) async fn shell(sandbox: &dyn Sandbox, script: &str) -> Finished {
    run(sandbox, &["/bin/sh", "-c", script]).await
}

/// The engine without any of our code in between.
pub(crate) fn raw_docker() -> bollard::Docker {
    bollard::Docker::connect_with_unix("/var/run/docker.sock", 120, bollard::API_DEFAULT_VERSION)
        .unwrap()
}
