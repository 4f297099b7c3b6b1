//! What every command works with: output, settings, the record, the way to an engine.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use forge_config::{ConfigPlaces, Configuration};
use forge_core::OwnerId;
use forge_engine::Engine;
use forge_orchestrator::Cancellation;
use forge_store::{AttemptRecord, Store, StoreError};
use uuid::Uuid;

use crate::error::CliError;
use crate::operator::engine_settings;
use crate::printer::Printer;
use crate::provider::{EngineProvider, EngineRequest, EngineSettings, Need};
use crate::settings::Settings;

/// The file of the record in the state folder.
const RECORD: &str = "record.sqlite";
/// Where the machine's configurations are.
const MACHINE_CONFIGURATIONS: &str = "/etc";
/// The folder of the channels in the state folder.
const CHANNELS: &str = "channels";

/// One invocation of the program.
#[derive(Clone)]
pub(crate) struct Session {
    /// Output.
    pub printer: Printer,
    /// The environment.
    pub settings: Settings,
    /// Where engines come from.
    pub provider: Arc<dyn EngineProvider>,
    /// The operator's configuration, from the command line or the environment.
    pub config_file: Option<PathBuf>,
    /// The engine's address, from the command line or the environment.
    pub engine_host: Option<String>,
    /// Asks the command to end.
    pub cancellation: Cancellation,
    /// The command line without the program, for the record.
    pub arguments: Vec<String>,
}

impl Session {
    /// The folder that holds everything that outlives a run.
    ///
    /// # Errors
    /// When the environment names no place for it.
    pub(crate) fn state_folder(&self) -> Result<&Path, CliError> {
        self.settings.state_folder.as_deref().ok_or_else(|| {
            CliError::input("there is no place for the record of runs")
                .or_rather("set SWE_FORGE_HOME or HOME")
        })
    }

    /// The operator's configuration; everything is a default when there is none.
    ///
    /// # Errors
    /// When it cannot be read, or something in it is wrong.
    pub(crate) async fn configuration(&self) -> Result<Configuration, CliError> {
        let places = ConfigPlaces {
            named: self.config_file.clone(),
            user_folder: self.settings.config_folder.clone(),
            machine_folder: Some(MACHINE_CONFIGURATIONS.into()),
        };
        let read = tokio::task::spawn_blocking(move || forge_config::load(&places));
        Ok(read.await??)
    }

    /// The record's file.
    ///
    /// # Errors
    /// As [`Session::state_folder`].
    pub(crate) fn record_path(&self) -> Result<PathBuf, CliError> {
        Ok(self.state_folder()?.join(RECORD))
    }

    /// The record, made when there is none.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub(crate) async fn record(&self) -> Result<Store, CliError> {
        let path = self.record_path()?;
        Ok(Store::open(path, fresh_owner()?).await?)
    }

    /// The record, for reading; `None` when nothing was ever recorded.
    ///
    /// # Errors
    /// When it is there and cannot be opened.
    pub(crate) async fn existing_record(&self) -> Result<Option<Store>, CliError> {
        let path = self.record_path()?;
        // What cannot be looked at is opened, and opening says why.
        if let Ok(false) = tokio::fs::try_exists(&path).await {
            return Ok(None);
        }
        match Store::open_read_only(path).await {
            // An older swe-forge left it, or another process is making it right now.
            Err(StoreError::Outdated { .. }) => self.record().await.map(Some),
            opened => Ok(Some(opened?)),
        }
    }

    /// The attempt a person means by `name`, and the record that holds it.
    ///
    /// # Errors
    /// When there is none, or several may be meant.
    pub(crate) async fn attempt(&self, name: &str) -> Result<(Store, AttemptRecord), CliError> {
        let Some(store) = self.existing_record().await? else {
            return Err(self.nothing_recorded(format!("no attempt '{name}' is recorded"))?);
        };
        let attempt = find_attempt(&store, name).await?;
        Ok((store, attempt))
    }

    /// The record for a command that writes into it about what is recorded already. `what` says what
    /// is not there when nothing ever was; no record is made then.
    ///
    /// # Errors
    /// When there is none, or it cannot be opened for writing.
    pub(crate) async fn record_that_is_there(&self, what: String) -> Result<Store, CliError> {
        match self.existing_record().await? {
            Some(_) => self.record().await,
            None => Err(self.nothing_recorded(what)?),
        }
    }

    fn nothing_recorded(&self, message: String) -> Result<CliError, CliError> {
        let hint = format!(
            "nothing was ever run with the record in {}",
            crate::escape::path(self.state_folder()?)
        );
        Ok(CliError::input(message).or_rather(hint))
    }

    /// Says which engine is wanted, by whom and for what.
    ///
    /// # Errors
    /// As [`Session::state_folder`].
    pub(crate) fn engine_request(
        &self,
        owner: &OwnerId,
        need: Need,
        settings: EngineSettings,
    ) -> Result<EngineRequest, CliError> {
        Ok(EngineRequest {
            host: self.engine_host.clone(),
            owner: owner.clone(),
            channel_root: self.state_folder()?.join(CHANNELS),
            init_binary: self.settings.init_binary.clone(),
            egress_binary: self.settings.egress_binary.clone(),
            settings,
            need,
        })
    }

    /// Connects to the engine.
    ///
    /// # Errors
    /// When there is none, or what it needs is missing.
    pub(crate) async fn engine(
        &self,
        owner: &OwnerId,
        need: Need,
    ) -> Result<Arc<dyn Engine>, CliError> {
        let settings = engine_settings(&self.configuration().await?);
        self.engine_with(owner, need, settings).await
    }

    /// Connects to the engine with these settings.
    ///
    /// # Errors
    /// As [`Session::engine`].
    pub(crate) async fn engine_with(
        &self,
        owner: &OwnerId,
        need: Need,
        settings: EngineSettings,
    ) -> Result<Arc<dyn Engine>, CliError> {
        let request = self.engine_request(owner, need, settings)?;
        Ok(self.provider.connect(&request).await?)
    }
}

/// The attempt a person means by `name`.
///
/// # Errors
/// When there is none, or several may be meant.
pub(crate) async fn find_attempt(store: &Store, name: &str) -> Result<AttemptRecord, CliError> {
    match store.find_attempt(name).await {
        Err(error @ StoreError::NotFound { .. }) => {
            Err(CliError::input(error.to_string()).or_rather("`swe-forge ps --all` lists attempts"))
        }
        found => Ok(found?),
    }
}

/// An owner that nobody has yet.
///
/// # Errors
/// Never with the rules for owners as they are.
pub(crate) fn fresh_owner() -> Result<OwnerId, CliError> {
    OwnerId::new(Uuid::new_v4().simple().to_string())
        .map_err(|error| CliError::input(error.to_string()))
}
