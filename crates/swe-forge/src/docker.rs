//! Docker engines for the command line.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use forge_cli::provider::{ConnectError, EngineProvider, EngineRequest, EngineSettings, Need};
use forge_config::{CertificatesError, DiskSettings};
use forge_engine::Engine;
use forge_engine::diagnosis::Diagnosis;
use forge_engine_docker::{
    DiskOptions, DiskSharing, DockerEngine, DockerOptions, EgressOptions, Environment,
    GateIdentity, InitBinary, QuotaChoice,
};

use crate::diagnosis::{self, Programs};
use crate::programs::{self, Loaded, Program, ProgramError};

/// Connects to Docker engines.
pub(crate) struct DockerProvider;

#[async_trait]
impl EngineProvider for DockerProvider {
    async fn connect(&self, request: &EngineRequest) -> Result<Arc<dyn Engine>, ConnectError> {
        let bytes = match request.need {
            Need::Sandboxes => Bytes::load(request).await?,
            // Nothing runs, so nothing is needed that could be missing.
            Need::Management => Bytes::default(),
        };
        let options = options(request, bytes);
        Ok(Arc::new(DockerEngine::connect(options).await?))
    }

    async fn diagnose(&self, request: &EngineRequest) -> Diagnosis {
        let programs = Programs {
            init: load(Program::Init, request.init_binary.as_deref()).await,
            egress: load(Program::Egress, request.egress_binary.as_deref()).await,
        };
        match DockerEngine::connect(options(request, Bytes::default())).await {
            Ok(engine) => diagnosis::with_engine(&engine, &programs).await,
            Err(error) => diagnosis::without_engine(&error, &programs),
        }
    }
}

/// What goes into containers.
#[derive(Default)]
struct Bytes {
    init: Arc<[u8]>,
    egress: Arc<[u8]>,
    certificates: Option<Arc<[u8]>>,
}

impl Bytes {
    async fn load(request: &EngineRequest) -> Result<Self, ConnectError> {
        let init = load(Program::Init, request.init_binary.as_deref()).await;
        let init = init.map_err(|error| unusable(Program::Init, &error))?;
        let egress = match load(Program::Egress, request.egress_binary.as_deref()).await {
            Ok(loaded) => loaded.bytes,
            // Isolated tasks run without it; the others are told when they come.
            Err(ProgramError::Missing(_)) if request.egress_binary.is_none() => Arc::from([]),
            Err(error) => return Err(unusable(Program::Egress, &error)),
        };
        Ok(Self {
            init: init.bytes,
            egress,
            certificates: certificates(&request.settings).await?,
        })
    }
}

fn options(request: &EngineRequest, bytes: Bytes) -> DockerOptions {
    DockerOptions {
        host: request.host.clone(),
        environment: Environment::of_process(),
        init_binary: InitBinary { bytes: bytes.init },
        channel_root: request.channel_root.clone(),
        owner: request.owner.clone(),
        holder: forge_orchestrator::holder::this_process(),
        run: request.settings.run,
        runtime: request.settings.runtime.clone(),
        disk_sharing: DiskSharing::Probe,
        disk: disk(&request.settings.disk),
        certificates: bytes.certificates,
        egress: EgressOptions {
            program: bytes.egress,
            resolvers: request.settings.resolvers.clone(),
            denied: request.settings.denied.clone(),
            identity: identity(request.settings.identity.as_deref()),
        },
        cargo_config: request.settings.cargo_config.clone(),
    }
}

/// What was recorded of the run that is gone on with. Without it sandboxes that are taken up have no
/// network any more, which every one of them says.
fn identity(text: Option<&str>) -> Option<GateIdentity> {
    let text = text?;
    match text.parse() {
        Ok(identity) => Some(identity),
        Err(error) => {
            tracing::warn!(%error, "the egress proxy of the run is not found again");
            None
        }
    }
}

fn disk(settings: &DiskSettings) -> DiskOptions {
    let mut options = DiskOptions {
        quota: match settings.quota {
            forge_config::QuotaChoice::Auto => QuotaChoice::Strongest,
            forge_config::QuotaChoice::Only(quota) => QuotaChoice::Only(quota),
        },
        preallocate: settings.preallocate,
        ..DiskOptions::default()
    };
    if let Some(pool) = &settings.pool {
        options.pool.clone_from(pool);
    }
    options
}

/// The file may have changed since somebody looked at it: what sandboxes get is what is judged here.
async fn certificates(settings: &EngineSettings) -> Result<Option<Arc<[u8]>>, ConnectError> {
    let Some(path) = settings.certificates.clone() else {
        return Ok(None);
    };
    let file = path.clone();
    let read = tokio::task::spawn_blocking(move || forge_config::read_certificates(&file)).await;
    let broke_off = |lost| Err(CertificatesError::Unreadable(io::Error::other(lost)));
    match read.unwrap_or_else(broke_off) {
        Ok(bytes) => Ok(Some(bytes.into())),
        Err(source) => Err(ConnectError::Certificates { path, source }),
    }
}

async fn load(program: Program, given: Option<&Path>) -> Result<Loaded, ProgramError> {
    let given: Option<PathBuf> = given.map(Path::to_owned);
    let loading = tokio::task::spawn_blocking(move || programs::load(program, given.as_deref()));
    match loading.await {
        Ok(loaded) => loaded,
        Err(_) => Err(ProgramError::BrokeOff),
    }
}

fn unusable(program: Program, error: &ProgramError) -> ConnectError {
    ConnectError::Program {
        program: format!("{}, {},", program.name(), program.purpose()),
        problem: error.to_string(),
        hint: program.hint().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";

    #[tokio::test]
    async fn only_certificates_are_given_to_sandboxes_whatever_the_file_was_before() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let settings = EngineSettings {
            certificates: Some(file.path().to_owned()),
            ..EngineSettings::default()
        };
        std::fs::write(file.path(), ONE).unwrap();
        let given = certificates(&settings).await.unwrap();
        assert_eq!(given.as_deref(), Some(ONE.as_bytes()));
        let key = format!("{ONE}-----BEGIN PRIVATE KEY-----\nAAAA\n");
        for unfit in ["", key.as_str()] {
            std::fs::write(file.path(), unfit).unwrap();
            let error = certificates(&settings).await.unwrap_err();
            assert!(matches!(error, ConnectError::Certificates { .. }));
        }
        assert_eq!(
            certificates(&EngineSettings::default()).await.unwrap(),
            None
        );
    }
}
