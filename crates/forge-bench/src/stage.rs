//! What every benchmark stands on: an engine, an image, sandboxes that are removed again.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use forge_core::{
    Attempt, Difficulty, ExecRequest, OwnerId, Ownership, Profile, Role, RunId, SandboxId,
    SandboxNetwork, SandboxSpec, TaskId, UserId, WorkspaceSpec,
};
use forge_engine::{Credentials, Engine, EngineDescription, EngineError, PreparedImage, Sandbox};
use forge_engine_docker::{
    DiskOptions, DiskSharing, DockerEngine, DockerOptions, EgressOptions, Environment, InitBinary,
};
use forge_store::StoreError;
use forge_wire::Secret;
use jiff::{SignedDuration, Timestamp};

/// The image that sandboxes run.
pub(crate) const IMAGE: &str = "swe-forge/python-base:latest";

#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    #[error("the engine failed")]
    Engine(#[from] EngineError),
    #[error("could not {what}")]
    Io {
        what: &'static str,
        source: std::io::Error,
    },
    #[error("the engine's interface answered unexpectedly: {0}")]
    Raw(String),
    #[error("{0} is not set: run this by `cargo xtask bench`")]
    NoProgram(&'static str),
    #[error("the record failed")]
    Store(#[from] StoreError),
    #[error("an identifier was refused")]
    Id(#[from] forge_core::id::InvalidId),
    #[error("a command ended as {0:?}")]
    Ending(forge_core::Ending),
}

/// The program whose file a variable names.
fn read_program(variable: &'static str) -> Result<Vec<u8>, BenchError> {
    let path = std::env::var_os(variable).ok_or(BenchError::NoProgram(variable))?;
    std::fs::read(PathBuf::from(path)).map_err(|source| BenchError::Io {
        what: "read a program",
        source,
    })
}

/// An engine with an image, and a folder for its sockets.
pub(crate) struct Stage {
    pub engine: Arc<DockerEngine>,
    pub description: EngineDescription,
    pub image: PreparedImage,
    owner: OwnerId,
    run: RunId,
    _folder: tempfile::TempDir,
}

impl Stage {
    pub(crate) async fn new() -> Result<Self, BenchError> {
        let bytes = read_program("SWE_FORGE_INIT")?;
        let program = read_program("SWE_FORGE_EGRESS")?;
        let folder = tempfile::Builder::new()
            .prefix("sf")
            .tempdir()
            .map_err(|source| BenchError::Io {
                what: "make a folder",
                source,
            })?;
        let owner = OwnerId::new("forge-bench")?;
        let options = DockerOptions {
            host: None,
            environment: Environment::of_process(),
            init_binary: InitBinary {
                bytes: bytes.into(),
            },
            channel_root: folder.path().join("c"),
            owner: owner.clone(),
            holder: String::new(),
            run: None,
            runtime: None,
            disk_sharing: DiskSharing::Probe,
            disk: DiskOptions::default(),
            egress: EgressOptions {
                program: program.into(),
                ..EgressOptions::default()
            },
            certificates: None,
            cargo_config: None,
        };
        let engine = Arc::new(DockerEngine::connect(options).await?);
        let description = engine.describe().await?;
        let image = engine.prepare_image(IMAGE).await?;
        let run = RunId::from_uuid(uuid::Uuid::now_v7());
        Ok(Self {
            engine,
            description,
            image,
            owner,
            run,
            _folder: folder,
        })
    }

    fn ownership(&self) -> Result<Ownership, BenchError> {
        let now = Timestamp::now();
        Ok(Ownership {
            owner: self.owner.clone(),
            run: self.run,
            task: TaskId::new("bench")?,
            attempt: Attempt(1),
            difficulty: Difficulty::Hard,
            created_at: now,
            expires_at: now + SignedDuration::from_hours(1),
            holder: String::new(),
        })
    }

    /// A workspace and an isolated sandbox on it, ready for commands.
    pub(crate) async fn sandbox(&self, number: u32) -> Result<Arc<dyn Sandbox>, BenchError> {
        self.sandbox_with(number, None).await
    }

    /// A workspace and a sandbox on it with a network, ready for commands.
    pub(crate) async fn sandbox_with(
        &self,
        number: u32,
        network: Option<SandboxNetwork>,
    ) -> Result<Arc<dyn Sandbox>, BenchError> {
        let id = self.id(number)?;
        let user = UserId::for_slot(u16::try_from(number % 1000).unwrap_or(0));
        let limits = Difficulty::Hard
            .limits()
            .clamped_to_cores(self.description.cores)
            .0;
        let workspace = WorkspaceSpec {
            id: id.clone(),
            ownership: self.ownership()?,
            user,
            disk_bytes: limits.disk_bytes,
            disk_files: limits.disk_files,
            specification: Vec::new(),
            tests: false,
        };
        self.engine
            .create_workspace(&workspace, &self.image)
            .await?;
        let spec = SandboxSpec {
            id: id.clone(),
            ownership: self.ownership()?,
            role: Role::Sandbox,
            workspace: id,
            tests: false,
            limits,
            cores: Vec::new(),
            profile: Profile::Run,
            network,
            runtime: None,
            user,
            env: self.image.env.clone(),
            max_lifetime: Duration::from_secs(600),
        };
        let credentials = Credentials {
            secret: Secret::new([7; 32]),
            epoch: 1,
        };
        Ok(self.engine.create(&spec, &self.image, &credentials).await?)
    }

    pub(crate) async fn destroy(&self, number: u32) -> Result<(), BenchError> {
        let id = self.id(number)?;
        self.engine.destroy(&id).await?;
        Ok(self.engine.destroy_workspace(&id).await?)
    }

    fn id(&self, number: u32) -> Result<SandboxId, BenchError> {
        Ok(SandboxId::new(format!(
            "bench-{}-{number}",
            self.run.short()
        ))?)
    }

    /// A request for `argv` with a bound on its time.
    pub(crate) fn request(&self, argv: &[&str]) -> ExecRequest {
        ExecRequest {
            argv: argv.iter().map(|&word| word.to_owned()).collect(),
            env: self.image.env.clone().into_iter().collect(),
            working_directory: "/workspace".to_owned(),
            stdin: false,
            timeout: Some(Duration::from_secs(120)),
            grace: Duration::from_secs(1),
            output_limit: 1 << 30,
            key: None,
            join: None,
        }
    }
}

/// Runs a command to its end; gives the bytes of its output.
pub(crate) async fn complete(
    sandbox: &dyn Sandbox,
    request: ExecRequest,
) -> Result<u64, BenchError> {
    let mut exec = sandbox.exec(request).await?;
    let mut bytes = 0;
    while let Some(chunk) = exec.output.next().await {
        bytes += chunk.bytes.len() as u64;
    }
    match exec.exit.await?.ending {
        forge_core::Ending::Exited(0) => Ok(bytes),
        other => Err(BenchError::Ending(other)),
    }
}
