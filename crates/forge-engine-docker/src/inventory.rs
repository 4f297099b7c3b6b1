//! Finding and removing what was made on the engine.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bollard::models::{ContainerSummaryStateEnum, ContainerUpdateBody};
use bollard::query_parameters::{
    InspectContainerOptions, KillContainerOptions, ListContainersOptions, ListNetworksOptions,
    ListVolumesOptions, RemoveContainerOptions,
};
use forge_core::ownership::keys;
use forge_core::{OwnerId, SandboxId};
use forge_engine::{EngineError, EngineErrorKind, FoundObject, ObjectKind, Operation};
use tokio::time::Instant;

use crate::channel::ChannelFolder;
use crate::engine::DockerEngine;
use crate::failure::{During, engine_error, is_conflict, is_not_found};
use crate::names::{SHADE_OF, container, is_ours, owner_filter, sandbox_of, shade, shades};

/// How long somebody else's removal of the same container is waited for.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(60);
const REMOVAL_PAUSE: Duration = Duration::from_millis(20);
/// How long the processes of a container may take to end within its quota.
const KILL_PATIENCE: Duration = Duration::from_secs(3);

impl DockerEngine {
    pub(crate) async fn destroy_sandbox(&self, id: &SandboxId) -> Result<(), EngineError> {
        self.remove_container(&container(id)).await?;
        let inherited = self.known_shades(id).is_none();
        self.detach(id, inherited).await;
        // Only now: the socket is the way of whoever still uses the sandbox.
        let folder = ChannelFolder::of(self.channel_root.path(), id)
            .remove()
            .during(Operation::Destroy, id.as_str());
        // Also when that failed: the container is gone, and nobody would come for them again.
        let shades = self.remove_shades(id).await;
        if shades.is_ok() {
            self.forget_shades(id);
        }
        folder.and(shades)
    }

    async fn remove_shades(&self, id: &SandboxId) -> Result<(), EngineError> {
        let names = match self.known_shades(id) {
            Some(count) => (0..count).map(|number| shade(id, number)).collect(),
            // Made by another process, which may be gone.
            None => self.find_shades(id).await?,
        };
        for name in names {
            self.remove_volume(&name).await?;
        }
        Ok(())
    }

    async fn find_shades(&self, id: &SandboxId) -> Result<Vec<String>, EngineError> {
        let label = format!("{SHADE_OF}={id}");
        let filters = HashMap::from([("label".to_owned(), vec![label])]);
        let found = self.list_volumes(filters).await?;
        let names = found.into_iter().map(|volume| volume.name);
        let ours = shades(id);
        Ok(names.filter(|name| name.starts_with(&ours)).collect())
    }

    async fn remove_container(&self, name: &str) -> Result<(), EngineError> {
        self.end_container(name).await;
        let options = RemoveContainerOptions {
            force: true,
            // Volumes without a name, made for what the image declares, go with it.
            v: true,
            ..RemoveContainerOptions::default()
        };
        match self
            .client
            .docker
            .remove_container(name, Some(options))
            .await
        {
            Ok(()) => Ok(()),
            Err(error) if is_not_found(&error) => Ok(()),
            Err(error) if is_conflict(&error) => self.await_removal(name).await,
            Err(error) => Err(engine_error(Operation::Destroy, name, error)),
        }
    }

    /// Ends what runs in a container. A removal would do so as well, but from then on the engine
    /// changes nothing about it: processes that get next to no time of a processor need that to end.
    async fn end_container(&self, name: &str) {
        let options = None::<KillContainerOptions>;
        let mut ending = Box::pin(self.client.docker.kill_container(name, options));
        let ended = match tokio::time::timeout(KILL_PATIENCE, &mut ending).await {
            Ok(ended) => ended,
            Err(_) => {
                self.lift_quota(name).await;
                ending.await
            }
        };
        match ended {
            Ok(()) => {}
            // It is not there, or does not run.
            Err(error) if is_not_found(&error) || is_conflict(&error) => {}
            // The removal says whether that matters.
            Err(error) => tracing::debug!(container = name, %error, "it could not be killed"),
        }
    }

    /// Gives a container whatever processors the machine has.
    async fn lift_quota(&self, name: &str) {
        let lifted = async {
            let cores = self.info().await?.ncpu.unwrap_or(1);
            let body = ContainerUpdateBody {
                nano_cpus: Some(cores.saturating_mul(1_000_000_000)),
                ..ContainerUpdateBody::default()
            };
            let updated = self.client.docker.update_container(name, body).await;
            updated.during(Operation::Destroy, name)
        };
        match lifted.await {
            Ok(()) => tracing::debug!(container = name, "its quota is lifted to end it"),
            Err(error) => tracing::warn!(container = name, %error, "its quota stays"),
        }
    }

    /// Somebody else removes it: gone is gone, whoever did it.
    async fn await_removal(&self, name: &str) -> Result<(), EngineError> {
        let deadline = Instant::now() + REMOVAL_TIMEOUT;
        loop {
            let options = None::<InspectContainerOptions>;
            match self.client.docker.inspect_container(name, options).await {
                Err(error) if is_not_found(&error) => return Ok(()),
                Err(error) => return Err(engine_error(Operation::Destroy, name, error)),
                Ok(_) if Instant::now() >= deadline => {
                    return Err(EngineError::new(
                        EngineErrorKind::Deadline,
                        Operation::Destroy,
                        name,
                        "its removal was begun by somebody else and does not end",
                    ));
                }
                Ok(_) => tokio::time::sleep(REMOVAL_PAUSE).await,
            }
        }
    }

    pub(crate) async fn list_objects(
        &self,
        owner: Option<&OwnerId>,
    ) -> Result<Vec<FoundObject>, EngineError> {
        let filters = owner_filter(owner.map(OwnerId::as_str));
        let (mut found, volumes, networks, snapshots) = futures::try_join!(
            self.list_containers(filters.clone()),
            self.list_volumes(filters.clone()),
            self.list_networks(filters.clone()),
            self.list_snapshots(filters)
        )?;
        found.extend(volumes);
        found.extend(networks);
        found.retain(|object| {
            let own = object.label(keys::OWNER) == Some(self.owner.as_str());
            is_ours(&object.name, own)
        });
        // Those were judged by their names already, which are of another kind.
        found.extend(snapshots);
        Ok(found)
    }

    /// Left folders and files on this machine are no objects of the engine, so that nobody could
    /// ask for their removal.
    pub(crate) async fn sweep_machine(&self) {
        Box::pin(self.sweep_channels()).await;
        self.sweep_pool().await;
    }

    pub(crate) async fn list_containers(
        &self,
        filters: Filters,
    ) -> Result<Vec<FoundObject>, EngineError> {
        let options = ListContainersOptions {
            all: true,
            filters: Some(filters),
            ..ListContainersOptions::default()
        };
        let all = self.client.docker.list_containers(Some(options)).await;
        let all = all.during(Operation::List, "containers")?;
        let named = all.into_iter().filter_map(|container| {
            let name = container.names.unwrap_or_default().into_iter().next();
            let name = name.map(|name| name.trim_start_matches('/').to_owned());
            // The name is taken away before the container is; the id stays.
            let name = name.filter(|name| !name.is_empty()).or(container.id)?;
            Some(FoundObject {
                kind: ObjectKind::Container,
                name,
                labels: sorted(container.labels.unwrap_or_default()),
                running: matches!(
                    container.state,
                    Some(
                        ContainerSummaryStateEnum::RUNNING
                            | ContainerSummaryStateEnum::PAUSED
                            | ContainerSummaryStateEnum::RESTARTING
                    )
                ),
            })
        });
        Ok(named.collect())
    }

    async fn list_volumes(&self, filters: Filters) -> Result<Vec<FoundObject>, EngineError> {
        let options = ListVolumesOptions {
            filters: Some(filters),
        };
        let all = self.client.docker.list_volumes(Some(options)).await;
        let all = all.during(Operation::List, "volumes")?;
        let volumes = all.volumes.unwrap_or_default().into_iter();
        Ok(volumes
            .map(|volume| idle(ObjectKind::Volume, volume.name, volume.labels))
            .collect())
    }

    async fn list_networks(&self, filters: Filters) -> Result<Vec<FoundObject>, EngineError> {
        let options = ListNetworksOptions {
            filters: Some(filters),
        };
        let all = self.client.docker.list_networks(Some(options)).await;
        let all = all.during(Operation::List, "networks")?.into_iter();
        Ok(all
            .filter_map(|network| {
                let labels = network.labels.unwrap_or_default();
                Some(idle(ObjectKind::Network, network.name?, labels))
            })
            .collect())
    }

    pub(crate) async fn remove_object(&self, object: &FoundObject) -> Result<(), EngineError> {
        match object.kind {
            ObjectKind::Container => match sandbox_of(&object.name) {
                Some(id) => self.destroy_sandbox(&id).await,
                None => self.remove_container(&object.name).await,
            },
            ObjectKind::Image => self.remove_snapshot(&object.name).await,
            ObjectKind::Volume => self.remove_volume(&object.name).await,
            ObjectKind::Network => {
                let removed = self.client.remove_networks(&object.name).await;
                removed.during(Operation::Destroy, &object.name)
            }
        }
    }
}

type Filters = HashMap<String, Vec<String>>;

fn idle(kind: ObjectKind, name: String, labels: HashMap<String, String>) -> FoundObject {
    FoundObject {
        kind,
        name,
        labels: sorted(labels),
        running: false,
    }
}

fn sorted(labels: HashMap<String, String>) -> BTreeMap<String, String> {
    labels.into_iter().collect()
}
