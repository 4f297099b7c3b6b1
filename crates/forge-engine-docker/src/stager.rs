//! A container that never starts: files go in and out of images and volumes through it.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use bollard::container::PathStatResponse;
use bollard::errors::Error as BollardError;
use bollard::models::{ContainerCreateBody, HostConfig, Mount};
use bollard::query_parameters::{
    ContainerArchiveInfoOptions, CreateContainerOptions, DownloadFromContainerOptions,
    RemoveContainerOptions, UploadToContainerOptions,
};
use bollard::{body_full, body_try_stream};
use bytes::Bytes;
use forge_core::ownership::{Role, keys};
use forge_engine::{EngineError, EngineErrorKind, Operation};
use forge_wire::INIT_PATH;
use futures::{Stream, StreamExt};
use jiff::{SignedDuration, Timestamp};

use crate::client::Client;
use crate::failure::{During, engine_error, is_not_found};

/// After this time anybody may remove a stager whose maker cannot be looked up: more than an
/// upload and a commit may take.
const LIFETIME: SignedDuration = SignedDuration::from_hours(2);

/// How long the engine may take to send a small file.
const PATIENCE: Duration = Duration::from_secs(120);

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
        let docker = &self.client.docker;
        let pieces = docker.download_from_container(&self.name, Some(options));
        collect(pieces, limit, self.operation, path).await
    }

    /// What a path is, and where it leads when it is a link; `None` when there is nothing.
    pub(crate) async fn stat(&self, path: &str) -> Result<Option<PathStatResponse>, EngineError> {
        let options = ContainerArchiveInfoOptions {
            path: path.to_owned(),
        };
        let docker = &self.client.docker;
        let found = docker.get_container_archive_info(&self.name, Some(options));
        match found.await {
            Ok(found) => Ok(Some(found)),
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(engine_error(self.operation, path, error)),
        }
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

/// What the engine sends of `path`, at most `limit` bytes of it.
async fn collect(
    pieces: impl Stream<Item = Result<Bytes, BollardError>>,
    limit: usize,
    operation: Operation,
    path: &str,
) -> Result<Vec<u8>, EngineError> {
    let failure = |kind, message| EngineError::new(kind, operation, path, message);
    let mut pieces = std::pin::pin!(pieces);
    let mut archive = Vec::new();
    let collecting = async {
        while let Some(piece) = pieces.next().await {
            archive.extend_from_slice(&piece.during(operation, path)?);
            if archive.len() > limit {
                let message = "the engine sends more than was put there";
                return Err(failure(EngineErrorKind::Corrupt, message));
            }
        }
        Ok(())
    };
    match tokio::time::timeout(PATIENCE, collecting).await {
        Ok(collected) => collected.map(|()| archive),
        Err(_) => {
            let message = "the engine stopped sending it";
            Err(failure(EngineErrorKind::Deadline, message))
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

    #[tokio::test(start_paused = true)]
    async fn a_file_that_is_not_sent_to_its_end_is_given_up() {
        let piece = || Ok::<_, BollardError>(Bytes::from_static(b"piece"));
        let read = async |pieces, limit| {
            let pieces: futures::stream::BoxStream<'_, _> = pieces;
            collect(pieces, limit, Operation::PrepareImage, "/file").await
        };
        let whole = futures::stream::iter([piece(), piece()]);
        assert_eq!(read(whole.boxed(), 10).await.unwrap(), b"piecepiece");
        let long = futures::stream::repeat_with(piece);
        let error = read(long.boxed(), 9).await.unwrap_err();
        assert_eq!(error.kind, EngineErrorKind::Corrupt);
        let silent = futures::stream::iter([piece()]).chain(futures::stream::pending());
        let error = read(silent.boxed(), 10).await.unwrap_err();
        assert_eq!(error.kind, EngineErrorKind::Deadline);
    }

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
