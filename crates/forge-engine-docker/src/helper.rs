//! What every container of ours has that is no sandbox, and how one that runs a program once is
//! run.

use std::collections::HashMap;
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::errors::Error as BollardError;
use bollard::models::{
    ContainerCreateBody, HostConfig, HostConfigCgroupnsModeEnum, HostConfigLogConfig,
    ResourcesUlimits,
};
use bollard::query_parameters::{
    CreateContainerOptions, LogsOptions, RemoveContainerOptions, StartContainerOptions,
    WaitContainerOptions,
};
use forge_engine::{EngineError, EngineErrorKind, Operation};
use futures::StreamExt;

use crate::client::Client;
use crate::failure::{During, engine_error, is_conflict, is_not_found};
use crate::seccomp;

/// What programs of ours print is far shorter.
const OUTPUT: usize = 256 * 1024;

/// The confinement of a container of ours: what it needs beyond this it adds and gives a reason
/// for.
pub(crate) fn confinement(memory: u64, processes: i64) -> HostConfig {
    let memory = i64::try_from(memory).unwrap_or(i64::MAX);
    HostConfig {
        readonly_rootfs: Some(true),
        cap_drop: Some(vec!["ALL".to_owned()]),
        security_opt: Some(vec![
            "no-new-privileges".to_owned(),
            seccomp::option().to_owned(),
        ]),
        privileged: Some(false),
        memory: Some(memory),
        // The same again means: no swap on top.
        memory_swap: Some(memory),
        pids_limit: Some(processes),
        ulimits: Some(vec![ulimit("core", 0)]),
        ipc_mode: Some("private".to_owned()),
        cgroupns_mode: Some(HostConfigCgroupnsModeEnum::PRIVATE),
        auto_remove: Some(false),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".to_owned()),
            config: Some(text_map([("max-size", "1m"), ("max-file", "2")])),
        }),
        init: Some(false),
        ..HostConfig::default()
    }
}

pub(crate) fn ulimit(name: &str, value: i64) -> ResourcesUlimits {
    ResourcesUlimits {
        name: Some(name.to_owned()),
        soft: Some(value),
        hard: Some(value),
    }
}

pub(crate) fn text_map<const N: usize>(pairs: [(&str, &str); N]) -> HashMap<String, String> {
    pairs
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

/// How a program in a container of its own ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i64,
    pub(crate) output: String,
    /// What it wrote to standard error.
    pub(crate) complaint: String,
}

impl Client {
    /// Runs a container to its end and removes it. One of the same name that was left behind is
    /// removed first.
    pub(crate) async fn run_once(
        &self,
        operation: Operation,
        name: &str,
        body: ContainerCreateBody,
        patience: Duration,
    ) -> Result<Ended, EngineError> {
        let ended = self.run_to_end(operation, name, body, patience).await;
        if let Err(error) = self.remove_by_force(name).await {
            tracing::warn!(helper = name, %error, "a helper container was left behind");
        }
        ended
    }

    async fn run_to_end(
        &self,
        operation: Operation,
        name: &str,
        body: ContainerCreateBody,
        patience: Duration,
    ) -> Result<Ended, EngineError> {
        match self.create_named(name, body.clone()).await {
            Err(error) if is_conflict(&error) => {
                self.remove_by_force(name).await.during(operation, name)?;
                self.create_named(name, body).await
            }
            other => other,
        }
        .during(operation, name)?;
        let options = None::<StartContainerOptions>;
        let started = self.docker.start_container(name, options).await;
        started.during(operation, name)?;
        let options = None::<WaitContainerOptions>;
        let mut waiting = Box::pin(self.docker.wait_container(name, options));
        let code = match tokio::time::timeout(patience, waiting.next()).await {
            Ok(Some(Ok(answer))) => answer.status_code,
            Ok(Some(Err(BollardError::DockerContainerWaitError { code, .. }))) => code,
            Ok(Some(Err(error))) => return Err(engine_error(operation, name, error)),
            Ok(None) | Err(_) => {
                let message = "the helper container does not end";
                let kind = EngineErrorKind::Deadline;
                return Err(EngineError::new(kind, operation, name, message));
            }
        };
        self.words_of(operation, name, code).await
    }

    async fn create_named(
        &self,
        name: &str,
        body: ContainerCreateBody,
    ) -> Result<(), BollardError> {
        let options = CreateContainerOptions {
            name: Some(name.to_owned()),
            ..CreateContainerOptions::default()
        };
        // On the heap: the request is large and would make every future above it so.
        let created = Box::pin(self.docker.create_container(Some(options), body)).await;
        created.map(|_| ())
    }

    async fn words_of(
        &self,
        operation: Operation,
        name: &str,
        code: i64,
    ) -> Result<Ended, EngineError> {
        let options = LogsOptions {
            stdout: true,
            stderr: true,
            tail: "all".to_owned(),
            ..LogsOptions::default()
        };
        let mut logs = Box::pin(self.docker.logs(name, Some(options)));
        let (mut output, mut complaint) = (Vec::new(), Vec::new());
        while let Some(piece) = logs.next().await {
            let piece = piece.during(operation, name)?;
            let side = match piece {
                LogOutput::StdErr { .. } => &mut complaint,
                _ => &mut output,
            };
            side.extend_from_slice(&piece.into_bytes());
            if output.len() + complaint.len() > OUTPUT {
                let message = "the helper container says more than it has to";
                let kind = EngineErrorKind::Corrupt;
                return Err(EngineError::new(kind, operation, name, message));
            }
        }
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim().to_owned();
        Ok(Ended {
            code,
            output: text(output),
            complaint: text(complaint),
        })
    }

    /// Removes a container whatever it does; success when there is none.
    pub(crate) async fn remove_by_force(&self, name: &str) -> Result<(), BollardError> {
        let options = RemoveContainerOptions {
            force: true,
            v: true,
            ..RemoveContainerOptions::default()
        };
        match self.docker.remove_container(name, Some(options)).await {
            Err(error) if is_not_found(&error) => Ok(()),
            other => other,
        }
    }
}
