//! `forge-init volume` in a container that has the machine's devices, where this process has not.
//!
//! The container runs nothing but `forge-init`, from an image that holds nothing else, and is gone
//! when the command is done. It has one capability, loop devices, `/dev` and the pool: what it can
//! do is what whoever speaks to the engine can do anyway.

use std::collections::HashMap;

use bollard::models::{ContainerCreateBody, HostConfig, ImageSummary};
use bollard::query_parameters::{ListImagesOptions, RemoveImageOptions};
use bytes::Bytes;
use forge_core::limits::MEBIBYTE;
use forge_core::ownership::{Role, keys};
use forge_engine::{EngineError, EngineErrorKind, Operation};
use forge_wire::INIT_PATH;
use jiff::{SignedDuration, Timestamp};

use super::{PATIENCE, host};
use crate::archive::Archive;
use crate::client::in_passing;
use crate::engine::DockerEngine;
use crate::failure::{During, engine_error, is_not_found};
use crate::helper;
use crate::names::{DISK_IMAGE_ROLE, DISK_REPOSITORY};

/// After this time anybody may remove one whose maker cannot be looked up.
const LIFETIME: SignedDuration = SignedDuration::from_mins(10);
const MEMORY: u64 = 256 * MEBIBYTE;
const PROCESSES: i64 = 16;
/// Loop devices, and the device that hands them out.
const DEVICES: [&str; 2] = ["b 7:* rwm", "c 10:237 rwm"];

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
        let client = &self.client;
        let ended = client.run_once(operation, &name, body, PATIENCE).await?;
        if ended.code == 0 {
            return Ok(ended.output);
        }
        Err(host::failure(operation, pool, &ended.complaint))
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
                cap_add: texts(&["SYS_ADMIN"]),
                device_cgroup_rules: texts(&DEVICES),
                // The profile of sandboxes has no mounting; the engine's own opens with the
                // capability.
                security_opt: texts(&["no-new-privileges", "label=disable"]),
                // A mapped root has no say over devices.
                userns_mode: remapped.then(|| "host".to_owned()),
                ..helper::confinement(MEMORY, PROCESSES)
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
                let removal = self.remove_older_images(operation, &image);
                in_passing("older helper images", removal).await;
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
