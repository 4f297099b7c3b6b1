//! `forge-init volume` in a container that has the machine's devices, where this process has not.
//!
//! The container runs nothing but `forge-init`, from an image that holds nothing else, and is gone
//! when the command is done. It has one capability, loop devices, `/dev` and the pool: what it can
//! do is what whoever speaks to the engine can do anyway.

use std::collections::HashMap;
use std::time::Duration;

use bollard::errors::Error as BollardError;
use bollard::models::{ContainerCreateBody, HostConfig, HostConfigLogConfig, ImageSummary};
use bollard::query_parameters::{
    CreateContainerOptions, ListImagesOptions, LogsOptions, RemoveContainerOptions,
    RemoveImageOptions, StartContainerOptions, WaitContainerOptions,
};
use bytes::Bytes;
use forge_core::limits::MEBIBYTE;
use forge_core::ownership::{Role, keys};
use forge_engine::{EngineError, EngineErrorKind, Operation};
use forge_wire::INIT_PATH;
use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};

use super::host;
use crate::archive::Archive;
use crate::engine::DockerEngine;
use crate::failure::{During, engine_error, is_not_found};
use crate::names::{DISK_IMAGE_ROLE, DISK_REPOSITORY};

/// A file of a hundred gigabytes, preallocated, takes a second.
const PATIENCE: Duration = Duration::from_secs(120);
/// After this time anybody may remove one whose maker cannot be looked up.
const LIFETIME: SignedDuration = SignedDuration::from_mins(10);
const MEMORY: u64 = 256 * MEBIBYTE;
const PROCESSES: i64 = 16;
/// Loop devices, and the device that hands them out.
const DEVICES: [&str; 2] = ["b 7:* rwm", "c 10:237 rwm"];
/// What is said of a failure is far shorter.
const OUTPUT: usize = 64 * 1024;

impl DockerEngine {
    pub(super) async fn volume_command_in_helper(
        &self,
        operation: Operation,
        pool: &str,
        arguments: Vec<String>,
    ) -> Result<String, EngineError> {
        let image = self.helper_image(operation).await?;
        let name = format!("swe-forge-disk-{}", uuid::Uuid::new_v4().simple());
        let remapped = self.machine().await?.remapped;
        let body = self.helper_body(&image, pool, arguments, remapped);
        let ended = self.run_helper(operation, &name, body).await;
        let options = RemoveContainerOptions {
            force: true,
            v: true,
            ..RemoveContainerOptions::default()
        };
        let removed = self
            .client
            .docker
            .remove_container(&name, Some(options))
            .await;
        if let Err(error) = removed
            && !is_not_found(&error)
        {
            tracing::warn!(helper = name, %error, "a helper container was left behind");
        }
        let (code, output) = ended?;
        let output = output.trim();
        if code == 0 {
            return Ok(output.to_owned());
        }
        Err(host::failure(operation, pool, output))
    }

    async fn run_helper(
        &self,
        operation: Operation,
        name: &str,
        body: ContainerCreateBody,
    ) -> Result<(i64, String), EngineError> {
        let docker = &self.client.docker;
        let options = CreateContainerOptions {
            name: Some(name.to_owned()),
            ..CreateContainerOptions::default()
        };
        let created = Box::pin(docker.create_container(Some(options), body)).await;
        created.during(operation, name)?;
        let options = None::<StartContainerOptions>;
        let started = docker.start_container(name, options).await;
        started.during(operation, name)?;
        let options = None::<WaitContainerOptions>;
        let mut waiting = Box::pin(docker.wait_container(name, options));
        let ended = tokio::time::timeout(PATIENCE, waiting.next()).await;
        let code = match ended {
            Ok(Some(Ok(answer))) => answer.status_code,
            Ok(Some(Err(BollardError::DockerContainerWaitError { code, .. }))) => code,
            Ok(Some(Err(error))) => return Err(engine_error(operation, name, error)),
            Ok(None) | Err(_) => {
                let message = "the helper container does not end";
                let kind = EngineErrorKind::Deadline;
                return Err(EngineError::new(kind, operation, name, message));
            }
        };
        let options = LogsOptions {
            stdout: true,
            stderr: true,
            tail: "all".to_owned(),
            ..LogsOptions::default()
        };
        let mut logs = Box::pin(docker.logs(name, Some(options)));
        let mut output = String::new();
        while let Some(piece) = logs.next().await {
            output.push_str(&piece.during(operation, name)?.to_string());
            if output.len() > OUTPUT {
                break;
            }
        }
        Ok((code, output))
    }

    fn helper_body(
        &self,
        image: &str,
        pool: &str,
        arguments: Vec<String>,
        remapped: bool,
    ) -> ContainerCreateBody {
        let expires_at = Timestamp::now()
            .checked_add(LIFETIME)
            .unwrap_or(Timestamp::MAX);
        let mut labels = self.own_labels();
        labels.insert(keys::ROLE.to_owned(), Role::Disk.to_string());
        labels.insert(keys::EXPIRES_AT.to_owned(), expires_at.to_string());
        let texts = |texts: &[&str]| Some(texts.iter().map(|&text| text.to_owned()).collect());
        ContainerCreateBody {
            image: Some(image.to_owned()),
            entrypoint: texts(&[INIT_PATH, "volume"]),
            cmd: Some(arguments),
            user: Some("0:0".to_owned()),
            network_disabled: Some(true),
            labels: Some(labels.into_iter().collect()),
            host_config: Some(HostConfig {
                network_mode: Some("none".to_owned()),
                // This form makes the folder on the engine's machine where it is missing.
                binds: Some(vec!["/dev:/dev".to_owned(), format!("{pool}:{pool}")]),
                readonly_rootfs: Some(true),
                cap_drop: texts(&["ALL"]),
                cap_add: texts(&["SYS_ADMIN"]),
                device_cgroup_rules: texts(&DEVICES),
                security_opt: texts(&["no-new-privileges", "label=disable"]),
                // A mapped root has no say over devices.
                userns_mode: remapped.then(|| "host".to_owned()),
                memory: i64::try_from(MEMORY).ok(),
                pids_limit: Some(PROCESSES),
                log_config: Some(HostConfigLogConfig {
                    typ: Some("json-file".to_owned()),
                    config: None,
                }),
                init: Some(false),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        }
    }

    /// An image of `forge-init` alone. A process that only removes has none to put in and takes
    /// the image that made what it removes.
    async fn helper_image(&self, operation: Operation) -> Result<String, EngineError> {
        let Some(tag) = self.program_digest() else {
            return self.left_helper_image(operation).await;
        };
        let image = format!("{DISK_REPOSITORY}:{tag}");
        match self.client.docker.inspect_image(&image).await {
            Ok(_) => Ok(image),
            Err(error) if is_not_found(&error) => {
                let archive = image_archive(&self.init.bytes).during(operation, &image)?;
                self.import_own_image(archive, &image, DISK_IMAGE_ROLE)
                    .await?;
                self.remove_older_images(operation, &image).await;
                Ok(image)
            }
            Err(error) => Err(engine_error(operation, &image, error)),
        }
    }

    async fn left_helper_image(&self, operation: Operation) -> Result<String, EngineError> {
        let found = self.helper_images(operation).await?;
        let newest = found.into_iter().max_by_key(|image| image.created);
        newest.map(|image| image.id).ok_or_else(|| {
            EngineError::new(
                EngineErrorKind::NotFound,
                operation,
                DISK_REPOSITORY,
                "the engine has no image that could remove the workspace's file",
            )
        })
    }

    /// Older ones are of use to older programs only, which make them again.
    async fn remove_older_images(&self, operation: Operation, current: &str) {
        let Ok(found) = self.helper_images(operation).await else {
            return;
        };
        let names = found.into_iter().flat_map(|image| image.repo_tags);
        for name in names.filter(|name| name != current) {
            let options = None::<RemoveImageOptions>;
            let removed = self.client.docker.remove_image(&name, options, None).await;
            if let Err(error) = removed {
                tracing::debug!(name, %error, "an older helper image stays");
            }
        }
    }

    async fn helper_images(&self, operation: Operation) -> Result<Vec<ImageSummary>, EngineError> {
        let label = format!("{}={DISK_IMAGE_ROLE}", keys::ROLE);
        let options = ListImagesOptions {
            filters: Some(HashMap::from([("label".to_owned(), vec![label])])),
            ..ListImagesOptions::default()
        };
        let found = self.client.docker.list_images(Some(options)).await;
        found.during(operation, DISK_REPOSITORY)
    }
}

fn image_archive(init: &[u8]) -> std::io::Result<Bytes> {
    let mut archive = Archive::new();
    archive.file(INIT_PATH.trim_start_matches('/'), 0o755, init)?;
    archive.finish()
}
