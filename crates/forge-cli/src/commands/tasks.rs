//! Reading the tasks that a command line names.

use std::path::PathBuf;
use std::sync::Arc;

use forge_config::Configuration;
use forge_core::Task;
use forge_task::{LoadOptions, LoadedTasks};

use crate::error::CliError;

/// Everything that can be read of the tasks at `paths`, with limits below the operator's ceiling and
/// the operator's defaults, and everything that is wrong with them.
///
/// # Errors
/// Only when the program itself broke off; mistakes are in the result.
pub(super) async fn load(
    paths: Vec<PathBuf>,
    configuration: &Configuration,
) -> Result<LoadedTasks, CliError> {
    let options = LoadOptions {
        ceiling: configuration.limits,
        cleanup: configuration.cleanup.defaults,
    };
    let load = move || forge_task::load_all(&paths, &options);
    Ok(tokio::task::spawn_blocking(load).await?)
}

/// The tasks at `paths`, when nothing is wrong with any of them.
///
/// # Errors
/// All mistakes of all files at once.
pub(super) async fn load_all_good(
    paths: Vec<PathBuf>,
    configuration: &Configuration,
) -> Result<Vec<Arc<Task>>, CliError> {
    let loaded = load(paths, configuration).await?;
    if !loaded.errors.is_empty() {
        return Err(CliError::Tasks {
            diagnostics: loaded.errors,
        });
    }
    if loaded.tasks.is_empty() {
        return Err(CliError::input("there is no task to run"));
    }
    Ok(loaded.tasks.into_iter().map(Arc::new).collect())
}
