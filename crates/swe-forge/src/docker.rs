//! Docker engines for the command line.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use forge_cli::provider::{ConnectError, EngineProvider, EngineRequest, Need};
use forge_engine::diagnosis::Diagnosis;
use forge_engine::{Engine, EngineError};
use forge_engine_docker::{DiskSharing, DockerEngine, DockerOptions, Environment, InitBinary};

use crate::diagnosis;
use crate::init_binary::{self, InitError};

/// Connects to Docker engines.
pub(crate) struct DockerProvider;

#[async_trait]
impl EngineProvider for DockerProvider {
    async fn connect(&self, request: &EngineRequest) -> Result<Arc<dyn Engine>, ConnectError> {
        let init = match request.need {
            Need::Sandboxes => load_init(request.init_binary.as_deref())
                .await?
                .into_binary(),
            // Nothing runs, so nothing is needed that could be missing.
            Need::Management => InitBinary {
                bytes: Arc::from([]),
            },
        };
        Ok(Arc::new(connect(request, init).await?))
    }

    async fn diagnose(&self, request: &EngineRequest) -> Diagnosis {
        let init = load_init(request.init_binary.as_deref()).await;
        let nothing = InitBinary {
            bytes: Arc::from([]),
        };
        match connect(request, nothing).await {
            Ok(engine) => diagnosis::with_engine(&engine, &init).await,
            Err(error) => diagnosis::without_engine(&error, &init),
        }
    }
}

async fn connect(request: &EngineRequest, init: InitBinary) -> Result<DockerEngine, EngineError> {
    DockerEngine::connect(DockerOptions {
        host: request.host.clone(),
        environment: Environment::of_process(),
        init_binary: init,
        channel_root: request.channel_root.clone(),
        owner: request.owner.clone(),
        holder: forge_orchestrator::holder::this_process(),
        disk_sharing: DiskSharing::Probe,
        // An attempt must not wait for a registry while no deadline of its own runs.
        allow_pull: false,
    })
    .await
}

async fn load_init(given: Option<&Path>) -> Result<init_binary::Loaded, InitError> {
    let given = given.map(Path::to_owned);
    let loading = tokio::task::spawn_blocking(move || init_binary::load(given.as_deref()));
    match loading.await {
        Ok(loaded) => loaded,
        Err(_) => Err(InitError::BrokeOff),
    }
}

impl From<InitError> for ConnectError {
    fn from(error: InitError) -> Self {
        Self::InitBinary {
            problem: error.to_string(),
            hint: error.hint().to_owned(),
        }
    }
}
