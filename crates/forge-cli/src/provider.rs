//! How the command line gets an engine without knowing any: the binary brings a provider.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use forge_config::{CertificatesError, DiskSettings};
use forge_core::{AddressRange, OwnerId, RunId};
use forge_engine::diagnosis::Diagnosis;
use forge_engine::{Engine, EngineError};

/// What an engine is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Sandboxes will be made, for which the program that runs in them must be at hand.
    Sandboxes,
    /// Objects and images are listed, made and removed; nothing runs.
    Management,
}

/// Which engine is wanted, and for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineRequest {
    /// Its address, when one was given.
    pub host: Option<String>,
    /// Whose objects are made and looked for.
    pub owner: OwnerId,
    /// Folder for the channels to sandboxes.
    pub channel_root: PathBuf,
    /// The program that runs in every sandbox, when a file was given.
    pub init_binary: Option<PathBuf>,
    /// The proxy of sandboxes with a network, when a file was given.
    pub egress_binary: Option<PathBuf>,
    /// What the operator's configuration says about engines.
    pub settings: EngineSettings,
    /// What for.
    pub need: Need,
}

/// What the operator's configuration says about engines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EngineSettings {
    /// How the size of workspaces is held.
    pub disk: DiskSettings,
    /// Addresses that no sandbox reaches, besides those that none ever does.
    pub denied: Vec<AddressRange>,
    /// Name servers for sandboxes instead of those of the engine's machine.
    pub resolvers: Vec<IpAddr>,
    /// File with certificate authorities for the programs in sandboxes.
    pub certificates: Option<PathBuf>,
    /// Cargo's configuration in sandboxes.
    pub cargo_config: Option<String>,
    /// What the names are made from of what all sandboxes share, so that a process that goes on with
    /// a run finds it: 256 bits as hexadecimal text, a secret. By chance where `None`.
    pub identity: Option<String>,
    /// The run that all sandboxes belong to.
    pub run: Option<RunId>,
    /// The runtime of sandboxes, where it is not the engine's default.
    pub runtime: Option<String>,
}

/// No engine could be had.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The engine cannot be used.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The certificate authorities for sandboxes cannot be given to them.
    #[error("the certificate authorities in {} cannot be given to sandboxes", path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: CertificatesError,
    },
    /// A program that runs in containers is missing or unusable.
    #[error("{program} cannot be used: {problem}")]
    Program {
        /// Its name, and what it is.
        program: String,
        /// What is wrong.
        problem: String,
        /// How to mend it.
        hint: String,
    },
}

/// Makes engines; implemented by the binary, the only place that knows which kinds there are.
#[async_trait]
pub trait EngineProvider: Send + Sync {
    /// Connects to the engine that is meant.
    async fn connect(&self, request: &EngineRequest) -> Result<Arc<dyn Engine>, ConnectError>;

    /// Looks at the engine and at everything it needs; never fails and never starts anything.
    async fn diagnose(&self, request: &EngineRequest) -> Diagnosis;
}
