//! A container that never starts: files go in and out of images and volumes through it.

use std::collections::BTreeMap;
use std::io;

use bollard::models::{ContainerCreateBody, HostConfig, Mount};
use bollard::query_parameters::{
    CreateContainerOptions, DownloadFromContainerOptions, RemoveContainerOptions,
    UploadToContainerOptions,
};
use bollard::{body_full, body_try_stream};
use bytes::Bytes;
use forge_core::ownership::{Role, keys};
use forge_engine::{EngineError, EngineErrorKind, Operation};
use forge_wire::INIT_PATH;
use futures::{Stream, StreamExt};
use jiff::{SignedDuration, Timestamp};

use crate::client::Client;
use crate::failure::{During, is_not_found};

/// After this time anybody may remove a stager whose maker cannot be looked up: more than an
/// upload and a commit may take.
const LIFETIME: SignedDuration = SignedDuration::from_hours(2);

/// A container that never starts.
pub(crate) struct Stager<'a> {
    client: &'a Client,
    name: String,
    operation: Operation,
}

impl<'a> Stager<'a> {
    /// Makes one of `image` with `mounts`. `labels` say whose it is.
    pub(crate) async fn create(
        client: &'a Client,
        labels: BTreeMap<String, String>,
        image: &str,
        mounts: Vec<Mount>,
        operation: Operation,
    ) -> Result<Self, EngineError> {
        let name = format!("swe-forge-stager-{}", uuid::Uuid::new_v4().simple());
        let body = ContainerCreateBody {
            image: Some(image.to_owned()),
            // Never run, but an engine makes no container without something to run.
            entrypoint: Some(vec![INIT_PATH.to_owned()]),
            network_disabled: Some(true),
            labels: Some(own(labels, Timestamp::now()).into_iter().collect()),
            host_config: Some(HostConfig {
                network_mode: Some("none".to_owned()),
                mounts: Some(mounts),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        };
        let options = CreateContainerOptions {
            name: Some(name.clone()),
            ..CreateContainerOptions::default()
        };
        client
            .docker
            .create_container(Some(options), body)
            .await
            .during(operation, image)?;
        Ok(Self {
            client,
            name,
            operation,
        })
    }

    /// Its name on the engine.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Unpacks a tar archive at `/`.
    pub(crate) async fn put(&self, archive: Bytes) -> Result<(), EngineError> {
        self.client
            .patient
            .upload_to_container(&self.name, Some(upload("/")), body_full(archive))
            .await
            .during(self.operation, &self.name)
    }

    /// Unpacks a tar archive in a folder while it is made.
    pub(crate) async fn put_stream(
        &self,
        folder: &str,
        tar: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> Result<(), EngineError> {
        self.client
            .patient
            .upload_to_container(&self.name, Some(upload(folder)), body_try_stream(tar))
            .await
            .during(self.operation, &self.name)
    }

    /// A path as a tar archive of at most `limit` bytes.
    pub(crate) async fn get(&self, path: &str, limit: usize) -> Result<Vec<u8>, EngineError> {
        let options = DownloadFromContainerOptions {
            path: path.to_owned(),
        };
        let mut stream = self
            .client
            .docker
            .download_from_container(&self.name, Some(options));
        let mut archive = Vec::new();
        while let Some(piece) = stream.next().await {
            archive.extend_from_slice(&piece.during(self.operation, path)?);
            if archive.len() > limit {
                return Err(EngineError::new(
                    EngineErrorKind::Corrupt,
                    self.operation,
                    path,
                    "the engine sends more than was put there",
                ));
            }
        }
        Ok(archive)
    }

    /// Removes it. That it could not be removed is no reason to fail what it was for: its labels
    /// say that anybody may remove it soon.
    pub(crate) async fn remove(self) {
        let options = RemoveContainerOptions {
            force: true,
            v: true,
            ..RemoveContainerOptions::default()
        };
        let removed = self
            .client
            .docker
            .remove_container(&self.name, Some(options))
            .await;
        if let Err(error) = removed
            && !is_not_found(&error)
        {
            tracing::warn!(stager = self.name, %error, "a stager container was left behind");
        }
    }
}

fn upload(folder: &str) -> UploadToContainerOptions {
    UploadToContainerOptions {
        path: folder.to_owned(),
        ..UploadToContainerOptions::default()
    }
}

/// The labels of a stager that is made now for the owner of `labels`.
fn own(mut labels: BTreeMap<String, String>, now: Timestamp) -> BTreeMap<String, String> {
    let expires_at = now.checked_add(LIFETIME).unwrap_or(Timestamp::MAX);
    labels.extend(
        [
            (keys::ROLE, Role::Stager.to_string()),
            (keys::CREATED_AT, now.to_string()),
            (keys::EXPIRES_AT, expires_at.to_string()),
        ]
        .map(|(key, value)| (key.to_owned(), value)),
    );
    labels
}

#[cfg(test)]
mod tests {
    use super::*;
    use forge_core::ownership::Ownership;
    use forge_core::{Attempt, Difficulty, OwnerId, RunId, TaskId};

    #[test]
    fn a_stager_has_its_workspace_s_owner_and_holder_and_an_end_of_its_own() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let workspace = Ownership {
            owner: OwnerId::new("ours").unwrap(),
            run: RunId::from_uuid(uuid::Uuid::nil()),
            task: TaskId::new("task").unwrap(),
            attempt: Attempt(1),
            difficulty: Difficulty::Easy,
            created_at: now - SignedDuration::from_hours(1),
            expires_at: now + SignedDuration::from_hours(24),
            holder: "machine:boot:1:2".into(),
        };
        let mut expected = workspace.labels(Role::Stager);
        let labels = own(workspace.labels(Role::Workspace), now);
        expected.insert(keys::CREATED_AT.into(), now.to_string());
        expected.insert(keys::EXPIRES_AT.into(), "2026-01-01T02:00:00Z".into());
        assert_eq!(labels, expected);
    }
}
