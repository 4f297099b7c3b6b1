//! The proxy's container, network, volume and image on the engine: made, found, removed.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bollard::body_full;
use bollard::errors::Error as BollardError;
use bollard::models::{
    ContainerInspectResponse, ContainerState, ContainerStateStatusEnum, ExecConfig, ImageSummary,
    Mount, MountType, MountVolumeOptions, Network,
};
use bollard::query_parameters::{
    CreateContainerOptions, CreateImageOptions, InspectContainerOptions, InspectNetworkOptions,
    ListImagesOptions, ListNetworksOptions, RemoveImageOptions, RemoveVolumeOptions,
    StartContainerOptions,
};
use bytes::Bytes;
use forge_core::egress::AddressRange;
use forge_core::ownership::keys;
use forge_engine::{EngineError, EngineErrorKind, Operation};
use forge_wire::EGRESS_DIRECTORY;
use futures::StreamExt;
use tokio::sync::OnceCell;

use super::driver::{Control, Source, Unopened};
use super::plan::{self, Plan};
use super::subnet;
use crate::channel::last_words;
use crate::client::{Client, in_passing};
use crate::failure::{During, is_conflict, is_not_found};
use crate::hijack::FramedStream;
use crate::names::{EGRESS_IMAGE_ROLE, EGRESS_PLAN, EGRESS_REPOSITORY};
use crate::transport::ApiVersion;

const OPERATION: Operation = Operation::Network;
/// Subnets that are tried before giving up; those that are seen to be in use do not count.
const SUBNETS: usize = 24;
/// After so many ends one after the other the engine cannot run the program. It counts anew once
/// the program has run for a while.
const HOPELESS_RESTARTS: i64 = 4;
/// From this version on an engine mounts a folder of a volume by itself.
const SUBPATHS: ApiVersion = ApiVersion {
    major: 1,
    minor: 45,
};

/// Where the proxy stands.
pub(super) struct Place {
    pub(super) client: Arc<Client>,
    pub(super) plan: Plan,
    /// The program.
    pub(super) program: Arc<[u8]>,
    /// Addresses that are denied besides the machine's.
    pub(super) denied: Vec<AddressRange>,
    /// Whether this machine is the engine's.
    pub(super) same_machine: bool,
    /// Whether the engine maps users.
    pub(super) remapped: bool,
    /// Decides with which subnet the search begins.
    pub(super) seed: u32,
    /// Where the engine keeps the volume, once it was asked.
    pub(super) mountpoint: OnceCell<String>,
    /// Whether there was a container by this plan.
    pub(super) attached: AtomicBool,
}

#[async_trait]
impl Source for Place {
    async fn connect(&self) -> Result<Control, Unopened> {
        // First, since both of what follows are made from it. Both are awaited: what is half made
        // could not be removed.
        self.ensure_image().await?;
        let (ensured, denied) = futures::join!(self.ensure(), self.denied_addresses());
        ensured?;
        self.attached.store(true, Ordering::Relaxed);
        let denied = denied?;
        let stream = self.control().await?;
        // Asked after the connection was made, which ends with the process that it was made to: a
        // process that is started later is never taken for that one.
        let process = self.process().await?;
        Ok(Control {
            stream,
            denied,
            process,
        })
    }

    async fn denied(&self) -> Result<Vec<AddressRange>, EngineError> {
        self.denied_addresses().await
    }
}

impl Place {
    /// The mount by which a sandbox has its folder, and nothing beside it.
    pub(super) async fn mount(&self, directory: &str) -> Result<Mount, EngineError> {
        let mount = Mount {
            target: Some(EGRESS_DIRECTORY.to_owned()),
            read_only: Some(true),
            ..Mount::default()
        };
        if self.client.api_version >= SUBPATHS {
            return Ok(Mount {
                typ: Some(MountType::VOLUME),
                source: Some(self.plan.name.clone()),
                volume_options: Some(MountVolumeOptions {
                    no_copy: Some(true),
                    labels: Some(self.plan.labels()),
                    subpath: Some(directory.to_owned()),
                    ..MountVolumeOptions::default()
                }),
                ..mount
            });
        }
        let mountpoint = self.mountpoint.get_or_try_init(|| self.find_mountpoint());
        Ok(Mount {
            typ: Some(MountType::BIND),
            source: Some(format!("{}/{directory}", mountpoint.await?)),
            ..mount
        })
    }

    async fn find_mountpoint(&self) -> Result<String, EngineError> {
        let name = &self.plan.name;
        let volume = self.client.docker.inspect_volume(name).await;
        Ok(volume.during(OPERATION, name)?.mountpoint)
    }

    /// Sees to it that the container runs. One that an earlier process made by another plan is
    /// replaced: what it served is closed until it is asked for again. One that was made by another
    /// plan since is a later process's.
    async fn ensure(&self) -> Result<(), Unopened> {
        let name = &self.plan.name;
        match self.find().await? {
            None => self.make().await?,
            Some(found) if self.is_planned(&found) => return Ok(self.bring_up(found).await?),
            Some(_) if self.attached.load(Ordering::Relaxed) => return Err(Unopened::Superseded),
            Some(_) => {
                tracing::info!(name, "an earlier process's egress proxy is replaced");
                let removed = self.client.remove_by_force(name).await;
                removed.during(OPERATION, name)?;
                // Not the volume: the folders of sandboxes are in it.
                let removed = self.client.remove_networks(name).await;
                removed.during(OPERATION, name)?;
                self.make().await?;
            }
        }
        Ok(self.start().await?)
    }

    async fn find(&self) -> Result<Option<ContainerInspectResponse>, EngineError> {
        let name = &self.plan.name;
        let options = None::<InspectContainerOptions>;
        match self.client.docker.inspect_container(name, options).await {
            Err(error) if is_not_found(&error) => Ok(None),
            found => found.during(OPERATION, name).map(Some),
        }
    }

    fn is_planned(&self, found: &ContainerInspectResponse) -> bool {
        let labels = found
            .config
            .as_ref()
            .and_then(|config| config.labels.as_ref());
        let plan = labels.and_then(|labels| labels.get(EGRESS_PLAN));
        plan.is_some_and(|plan| *plan == self.plan.digest())
    }

    async fn bring_up(&self, found: ContainerInspectResponse) -> Result<(), EngineError> {
        let state = found.state.unwrap_or_default();
        match state.status.unwrap_or(ContainerStateStatusEnum::EMPTY) {
            ContainerStateStatusEnum::RUNNING => Ok(()),
            ContainerStateStatusEnum::PAUSED => Err(self.unavailable("is paused".to_owned())),
            ContainerStateStatusEnum::REMOVING => {
                Err(self.unavailable("is being removed".to_owned()))
            }
            ContainerStateStatusEnum::RESTARTING => {
                let mut error = self.unavailable(self.obituary(&state).await);
                if found.restart_count.unwrap_or(0) >= HOPELESS_RESTARTS {
                    error.kind = EngineErrorKind::Unsupported;
                }
                Err(error)
            }
            _ => self.start().await,
        }
    }

    fn unavailable(&self, what: String) -> EngineError {
        let message = format!("the egress proxy's container {what}");
        EngineError::new(
            EngineErrorKind::Unavailable,
            OPERATION,
            &self.plan.name,
            message,
        )
    }

    async fn obituary(&self, state: &ContainerState) -> String {
        let code = state.exit_code.unwrap_or(-1);
        let words = last_words(&self.client, &self.plan.name).await;
        format!("ends with code {code} and is started again; {words}")
    }

    async fn start(&self) -> Result<(), EngineError> {
        let name = &self.plan.name;
        let options = None::<StartContainerOptions>;
        let Err(error) = self.client.docker.start_container(name, options).await else {
            return Ok(());
        };
        // Its network or volume may be gone. The next attempt makes everything anew.
        if let Err(error) = self.client.remove_by_force(name).await {
            tracing::debug!(%error, "the egress proxy's container could not be removed");
        }
        Err(error).during(OPERATION, name)
    }

    async fn make(&self) -> Result<(), EngineError> {
        let name = &self.plan.name;
        // All are awaited: what is half made could not be removed.
        let (network, volume) = futures::join!(
            self.ensure_network(),
            // An engine answers with the volume that is there, when one is.
            self.client.docker.create_volume(self.plan.volume())
        );
        network?;
        volume.during(OPERATION, name)?;
        let options = CreateContainerOptions {
            name: Some(name.clone()),
            ..CreateContainerOptions::default()
        };
        let body = self.plan.container();
        let creating = self.client.docker.create_container(Some(options), body);
        // On the heap: the request is large and would make every future above it so.
        match Box::pin(creating).await {
            Ok(_) => Ok(()),
            // Made by an attempt that was not waited for to its end.
            Err(error) if is_conflict(&error) => Ok(()),
            Err(error) => Err(error).during(OPERATION, name),
        }
    }

    async fn ensure_image(&self) -> Result<(), EngineError> {
        let image = &self.plan.image;
        match self.client.docker.inspect_image(image).await {
            Ok(_) => return Ok(()),
            Err(error) if is_not_found(&error) => {}
            Err(error) => return Err(error).during(OPERATION, image),
        }
        let archive = plan::image_archive(&self.program).during(OPERATION, image)?;
        self.import(archive).await?;
        in_passing("older images of the proxy", self.remove_older_images()).await;
        Ok(())
    }

    async fn import(&self, archive: Bytes) -> Result<(), EngineError> {
        let (repository, tag) = crate::reference::split(&self.plan.image);
        let request = CreateImageOptions {
            from_src: Some("-".to_owned()),
            repo: Some(repository.to_owned()),
            tag: Some(tag.to_owned()),
            changes: Plan::image_changes(),
            ..CreateImageOptions::default()
        };
        let body = Some(body_full(archive));
        let mut progress = self.client.patient.create_image(Some(request), body, None);
        while let Some(line) = progress.next().await {
            line.during(OPERATION, &self.plan.image)?;
        }
        Ok(())
    }

    /// An image with another program in it is of use only to an older swe-forge. Should one still
    /// need it, it makes the image again. Without force: the engine keeps what a container uses.
    async fn remove_older_images(&self) {
        let label = format!("{}={EGRESS_IMAGE_ROLE}", keys::ROLE);
        let options = ListImagesOptions {
            filters: Some([("label".to_owned(), vec![label])].into()),
            ..ListImagesOptions::default()
        };
        let found = match self.client.docker.list_images(Some(options)).await {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!(%error, "older images of the egress proxy were not looked for");
                return;
            }
        };
        for image in older(&found, &self.plan.image) {
            let options = None::<RemoveImageOptions>;
            let removed = self.client.docker.remove_image(&image, options, None).await;
            if let Err(error) = removed {
                tracing::debug!(image, %error, "an older image of the egress proxy stays");
            }
        }
    }

    async fn ensure_network(&self) -> Result<(), EngineError> {
        let name = &self.plan.name;
        let options = None::<InspectNetworkOptions>;
        match self.client.docker.inspect_network(name, options).await {
            Ok(_) => return Ok(()),
            Err(error) if is_not_found(&error) => {}
            Err(error) => return Err(error).during(OPERATION, name),
        }
        let mut taken = self.networks().await?.subnets;
        if self.same_machine {
            // A machine without the table has no routes that could be overlapped.
            let table = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
            taken.extend(subnet::routes(&table));
        }
        for candidate in subnet::free(&taken, self.seed).take(SUBNETS) {
            let request = self.plan.network(candidate);
            match self.client.docker.create_network(request).await {
                Ok(_) => return Ok(()),
                Err(error) if is_conflict(&error) => return Ok(()),
                Err(error) if overlaps(&error) => {
                    tracing::debug!(%candidate, "the engine uses this subnet already");
                }
                Err(error) => return Err(error).during(OPERATION, name),
            }
        }
        Err(EngineError::new(
            EngineErrorKind::Exhausted,
            OPERATION,
            name,
            "no subnet is left for the egress proxy's network",
        ))
    }

    pub(super) async fn networks(&self) -> Result<Networks, EngineError> {
        let options = None::<ListNetworksOptions>;
        let all = self.client.docker.list_networks(options).await;
        Ok(Networks::of(&all.during(OPERATION, "networks")?))
    }

    async fn control(&self) -> Result<Box<dyn forge_engine::channel::Duplex>, EngineError> {
        let name = &self.plan.name;
        let config = ExecConfig {
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            // Without a terminal the output is framed, see `hijack`.
            tty: Some(false),
            cmd: Some(Plan::control()),
            ..ExecConfig::default()
        };
        let exec = match self.client.docker.create_exec(name, config).await {
            Ok(exec) => exec.id,
            Err(error) if is_conflict(&error) || is_not_found(&error) => {
                return Err(self.unavailable("has just ended".to_owned()));
            }
            Err(error) => return Err(error).during(OPERATION, name),
        };
        let start = Bytes::from_static(br#"{"Detach":false,"Tty":false}"#);
        let path = format!("/exec/{exec}/start");
        match self.client.transport.hijack(&path, start).await {
            Ok(stream) => Ok(Box::new(FramedStream::new(stream))),
            Err(error) if is_conflict(&error) || is_not_found(&error) => {
                Err(self.unavailable("has just ended".to_owned()))
            }
            Err(error) => Err(error).during(OPERATION, name),
        }
    }

    /// Tells the process that the container runs from those before it.
    async fn process(&self) -> Result<String, EngineError> {
        let name = &self.plan.name;
        let options = None::<InspectContainerOptions>;
        let found = self.client.docker.inspect_container(name, options).await;
        let found = found.during(OPERATION, name)?;
        let started = found.state.and_then(|state| state.started_at);
        match (found.id, started) {
            (Some(id), Some(started)) => Ok(format!("{id} {started}")),
            _ => Err(self.unavailable("has just ended".to_owned())),
        }
    }

    /// Removes everything but the image, which is a cache. All is tried, also when something
    /// cannot be removed; success when it is gone already, or another process's by now.
    pub(super) async fn remove(&self) -> Result<(), EngineError> {
        const CLOSE: Operation = Operation::Close;
        let name = &self.plan.name;
        if self.attached.load(Ordering::Relaxed)
            && let Some(found) = self.find().await?
            && !self.is_planned(&found)
        {
            return Ok(());
        }
        let container = self.client.remove_by_force(name).await;
        // Left behind only by an attempt that was not waited for to its end.
        let scout = self.client.remove_by_force(&self.plan.scout_name()).await;
        let options = None::<RemoveVolumeOptions>;
        let volume = self.client.docker.remove_volume(name, options).await;
        let network = self.client.remove_networks(name).await;
        container.during(CLOSE, name)?;
        scout.during(CLOSE, name)?;
        match volume {
            Err(error) if is_not_found(&error) => {}
            other => other.during(CLOSE, name)?,
        }
        network.during(CLOSE, name)
    }
}

/// Whether the engine refused a network because of its subnet.
fn overlaps(error: &BollardError) -> bool {
    match error {
        BollardError::DockerResponseServerError { message, .. } => {
            message.to_ascii_lowercase().contains("overlap")
        }
        _ => false,
    }
}

/// The names of images that are older than the one named `current`. By our name for them, so that
/// one somebody else gave the image is left alone.
fn older(images: &[ImageSummary], current: &str) -> Vec<String> {
    let names_it = |image: &&ImageSummary| image.repo_tags.iter().any(|tag| tag == current);
    let Some(newest) = images.iter().find(names_it) else {
        return Vec::new();
    };
    let ours = format!("{EGRESS_REPOSITORY}:");
    images
        .iter()
        .filter(|image| image.id != newest.id && image.created <= newest.created)
        .flat_map(|image| image.repo_tags.iter().filter(|tag| tag.starts_with(&ours)))
        .cloned()
        .collect()
}

/// What an engine's networks use.
#[derive(Debug, Default)]
pub(super) struct Networks {
    pub(super) subnets: Vec<AddressRange>,
    /// Addresses of the machine.
    pub(super) gateways: Vec<IpAddr>,
}

impl Networks {
    fn of(networks: &[Network]) -> Self {
        let mut all = Self::default();
        let configs = networks
            .iter()
            .filter_map(|network| network.ipam.as_ref()?.config.as_ref())
            .flatten();
        for config in configs {
            let subnet = config.subnet.as_deref();
            all.subnets
                .extend(subnet.and_then(|text| text.parse::<AddressRange>().ok()));
            // Some drivers give the gateway with the length of its prefix.
            let gateway = config.gateway.as_deref();
            let gateway = gateway.and_then(|text| text.split('/').next());
            all.gateways
                .extend(gateway.and_then(|text| text.parse::<IpAddr>().ok()));
        }
        all
    }
}

/// One address as a range.
pub(super) fn single(address: IpAddr) -> AddressRange {
    AddressRange {
        address,
        prefix: if address.is_ipv4() { 32 } else { 128 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard::models::{Ipam, IpamConfig};

    fn image(name: &str, created: i64) -> ImageSummary {
        ImageSummary {
            id: name.to_owned(),
            created,
            repo_tags: vec![name.to_owned()],

            ..ImageSummary::default()
        }
    }

    #[test]
    fn older_images_go_by_our_name_for_them() {
        let images = [
            image("swe-forge/egress:old", 1),
            image("swe-forge/egress:now", 2),
            image("swe-forge/egress:newer", 3),
            image("theirs:1", 1),
        ];
        assert_eq!(
            older(&images, "swe-forge/egress:now"),
            ["swe-forge/egress:old"]
        );
        assert!(older(&images, "swe-forge/egress:absent").is_empty());
    }

    #[test]
    fn gateways_and_subnets_are_read_and_nonsense_is_left_out() {
        let config = |subnet: &str, gateway: Option<&str>| IpamConfig {
            subnet: Some(subnet.to_owned()),
            gateway: gateway.map(str::to_owned),
            ..IpamConfig::default()
        };
        let networks = [
            Network {
                ipam: Some(Ipam {
                    config: Some(vec![
                        config("172.17.0.0/16", Some("172.17.0.1")),
                        config("fd00:1::/64", Some("fd00:1::1/64")),
                        config("nonsense", Some("nonsense")),
                        config("10.9.0.0/24", None),
                    ]),
                    ..Ipam::default()
                }),
                ..Network::default()
            },
            Network::default(),
        ];
        let found = Networks::of(&networks);
        let subnets: Vec<String> = found.subnets.iter().map(ToString::to_string).collect();
        assert_eq!(subnets, ["172.17.0.0/16", "fd00:1::/64", "10.9.0.0/24"]);
        let gateways: Vec<String> = found.gateways.iter().map(ToString::to_string).collect();
        assert_eq!(gateways, ["172.17.0.1", "fd00:1::1"]);
    }
}
