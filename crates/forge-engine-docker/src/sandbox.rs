//! Making a sandbox, connecting to it, and the handle to it.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bollard::errors::Error as BollardError;
use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerState, ContainerStateStatusEnum, Mount,
};
use bollard::query_parameters::{CreateContainerOptions, StartContainerOptions};
use forge_core::sandbox::WORKSPACE;
use forge_core::{
    Attestation, ExecRequest, Health, Profile, ResourceUsage, SandboxId, SandboxSpec, UserId,
};
use forge_engine::channel::{ChannelClient, ChannelIdentity, Connector, Download};
use forge_engine::{
    Condition, Credentials, Egress, EngineError, EngineErrorKind, Files, Operation, PreparedImage,
    RunningExec, Sandbox,
};
use forge_wire::message::{Settings, TransferLimits, TransferSummary};
use forge_wire::{SOCKET_DIRECTORY, UNCLAIMED_CODE};
use tokio::io::AsyncRead;
use tokio::time::Instant;

use crate::channel::{ChannelFolder, Outside, RelayConnector, SocketConnector};
use crate::container::{Here, create_body, lacks_cores};
use crate::egress::{self, SandboxEgress};
use crate::engine::DockerEngine;
use crate::failure::{During, engine_error, is_conflict, is_not_found};
use crate::names::{EGRESS_FOLDER, SPECIFICATION_DIGEST, container};

/// How a container came to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// Just made.
    New,
    /// Made by an earlier attempt, in which nothing of a task has run and nothing runs now.
    Unstarted,
    /// Started by an earlier attempt, and perhaps claimed.
    Started,
}

/// A container that is there for a sandbox.
#[derive(Debug)]
struct Placed {
    found: Found,
    /// The folder of this machine that it has for its socket.
    channel: Option<String>,
}

/// How a sandbox is spoken to.
enum Way {
    /// By the socket in a folder of this machine.
    Socket(ChannelFolder),
    /// Through the engine, into a sandbox of this profile.
    Relay(Profile),
}

/// How long an earlier attempt or a removal of the same name, which the engine still has in
/// hand, is waited for.
const NAME_TIMEOUT: Duration = Duration::from_secs(30);
const NAME_PAUSE: Duration = Duration::from_millis(20);

/// A handle to a sandbox.
pub(crate) struct DockerSandbox {
    outside: Outside,
    channel: ChannelClient,
    egress: Option<SandboxEgress>,
}

impl DockerEngine {
    pub(crate) async fn make_sandbox(
        &self,
        spec: &SandboxSpec,
        image: &PreparedImage,
        credentials: &Credentials,
    ) -> Result<DockerSandbox, EngineError> {
        const OPERATION: Operation = Operation::Create;
        self.check_limits(&spec.id).await?;
        let (volumes, (), (), attachment) = futures::try_join!(
            self.declared_volumes(&image.runnable),
            self.check_workspace(&spec.workspace, spec.tests),
            self.check_disk(&spec.workspace),
            // Before the container: what is not there cannot be mounted.
            self.attach(spec)
        )?;
        let shares = self.shares_folders().await?;
        // A folder of this machine that root of a sandbox may write to is one without any limit:
        // setup is spoken to through the engine. So is one whose runtime shows no socket here.
        let folder = (shares && spec.profile == Profile::Run && spec.runtime.is_none())
            .then(|| ChannelFolder::of(self.channel_root.path(), &spec.id));
        let made = match &folder {
            Some(folder) => folder.make(spec.user).during(OPERATION, spec.id.as_str())?,
            None => true,
        };
        self.remember_shades(&spec.id, volumes.len());
        let here = shares.then(|| Here {
            channel: folder.as_ref().map(ChannelFolder::path),
            root: &self.channel_root,
        });
        let mut body = Box::new(create_body(spec, image, &volumes, here));
        if let Some(attachment) = attachment {
            attachment.add_to(&mut body);
        }
        let Placed { found, channel } = self.place_container(spec, image, &body).await?;
        let folder = match folder {
            Some(folder) if channel != channel_of(&body) => {
                // It has another, or none: it was started where the disk was not shared.
                if made {
                    folder.remove().during(OPERATION, spec.id.as_str())?;
                }
                None
            }
            folder => folder,
        };
        if found != Found::Started
            && !made
            && let Some(folder) = &folder
        {
            folder
                .reset(spec.user)
                .during(OPERATION, spec.id.as_str())?;
        }
        self.start(spec, found).await?;
        let settings = Settings {
            workspace: WORKSPACE.to_owned(),
            disk_limit: spec.limits.disk_bytes,
            lifetime_seconds: spec.max_lifetime.as_secs(),
            network: spec.network.as_ref().map(egress::settings),
        };
        let labels = body.labels.unwrap_or_default();
        let egress = self
            .egress_of(&spec.id, |key| labels.get(key).cloned())
            .await?;
        let way = match folder {
            Some(folder) => Way::Socket(folder),
            None => Way::Relay(spec.profile),
        };
        self.connect_sandbox(&spec.id, credentials, way, Some(settings), egress)
            .await
    }

    /// An engine makes a container without the limits that its machine cannot set, and only warns.
    async fn check_limits(&self, id: &SandboxId) -> Result<(), EngineError> {
        let Some(what) = self.machine().await?.unlimited else {
            return Ok(());
        };
        Err(EngineError::new(
            EngineErrorKind::Unsupported,
            Operation::Create,
            id.as_str(),
            format!(
                "the engine's machine does not limit {what}; `swe-forge doctor` says how to \
                 change that"
            ),
        ))
    }

    async fn start(&self, spec: &SandboxSpec, found: Found) -> Result<(), EngineError> {
        match (found, spec.profile) {
            (Found::New | Found::Unstarted, _) => {}
            (Found::Started, Profile::Run) => return Ok(()),
            // It can be reached by a relay alone, which may be made no more.
            (Found::Started, Profile::Build) => {
                return Err(EngineError::new(
                    EngineErrorKind::Conflict,
                    Operation::Create,
                    spec.id.as_str(),
                    "it was started before, and as root its setup may have changed what the \
                     engine would read and run to reach it",
                ));
            }
        }
        let options = None::<StartContainerOptions>;
        let name = container(&spec.id);
        let started = self.client.docker.start_container(&name, options).await;
        started.map_err(|error| refused(spec, error))
    }

    pub(crate) async fn open_sandbox(
        &self,
        id: &SandboxId,
        credentials: &Credentials,
    ) -> Result<DockerSandbox, EngineError> {
        // A sandbox made without a shared disk has no folder, however the disk is now; nor has one in
        // which root may write everywhere.
        let folder = ChannelFolder::of(self.channel_root.path(), id);
        let folder = match folder.exists() && self.shares_folders().await? {
            true => Some(folder),
            false => None,
        };
        let known = match &folder {
            Some(_) => self.labels_of_running(id).await,
            None => None,
        };
        let labels = match known {
            Some(labels) => labels,
            None => self.labels_of(id).await?,
        };
        let egress = self.egress_of(id, |key| labels.get(key).cloned()).await?;
        let way = match folder {
            Some(folder) => Way::Socket(folder),
            None => Way::Relay(Profile::Run),
        };
        self.connect_sandbox(id, credentials, way, None, egress)
            .await
    }

    /// The labels of a sandbox that can be taken up. Asked before it is connected to, because a
    /// socket without a container behind it is only found silent later.
    async fn labels_of(&self, id: &SandboxId) -> Result<BTreeMap<String, String>, EngineError> {
        let outside = self.outside(id);
        let Some(found) = outside.inspect(Operation::Open).await? else {
            return Err(outside.absent());
        };
        if let Some(cause) = outside.cause_in(found.state.unwrap_or_default()).await {
            return Err(cause);
        }
        let host_config = found.host_config.unwrap_or_default();
        if host_config.readonly_rootfs != Some(true) {
            return Err(outside.sealed());
        }
        let labels = found.config.and_then(|config| config.labels);
        Ok(labels.unwrap_or_default().into_iter().collect())
    }

    fn outside(&self, id: &SandboxId) -> Outside {
        Outside {
            client: self.client.clone(),
            id: id.clone(),
        }
    }

    /// Whether a sandbox can use folders and files of this machine: the disk is shared, and users
    /// and labels are the same.
    async fn shares_folders(&self) -> Result<bool, EngineError> {
        let machine = self.machine().await?;
        Ok(self.shares_disk().await? && !machine.remapped && !machine.labelled)
    }

    async fn declared_volumes(&self, runnable: &str) -> Result<Arc<[String]>, EngineError> {
        if let Some(known) = self.known_volumes(runnable) {
            return Ok(known);
        }
        let image = self.client.docker.inspect_image(runnable).await;
        let image = image.during(Operation::Create, runnable)?;
        let volumes = crate::prepare::declared_volumes(image);
        self.remember_volumes(runnable, volumes.clone());
        Ok(volumes)
    }

    /// Makes the container, or finds the one that an earlier attempt made. One that was not started
    /// and has other folders of this machine is made anew.
    async fn place_container(
        &self,
        spec: &SandboxSpec,
        image: &PreparedImage,
        body: &ContainerCreateBody,
    ) -> Result<Placed, EngineError> {
        const OPERATION: Operation = Operation::Create;
        let deadline = Instant::now() + NAME_TIMEOUT;
        let mut made_again = false;
        let mut body = Cow::Borrowed(body);
        loop {
            let options = CreateContainerOptions {
                name: Some(container(&spec.id)),
                ..CreateContainerOptions::default()
            };
            let creating = self
                .client
                .docker
                .create_container(Some(options), body.as_ref().clone());
            // On the heap: the request is large and would make every future above it so.
            match Box::pin(creating).await {
                Ok(_) => {
                    return Ok(Placed {
                        found: Found::New,
                        channel: channel_of(&body),
                    });
                }
                Err(error) if is_conflict(&error) => {}
                Err(error) if is_not_found(&error) && !made_again => {
                    Box::pin(self.prepare_again(image)).await?;
                    made_again = true;
                    continue;
                }
                // Which cores an engine may use is not among what it tells.
                Err(error) if lacks_cores(&error) && kept_to_cores(&body) => {
                    tracing::debug!(id = %spec.id, cores = ?spec.cores, "the engine lacks these cores");
                    let host_config = body.to_mut().host_config.get_or_insert_default();
                    host_config.cpuset_cpus = None;
                    continue;
                }
                Err(error) => return Err(refused(spec, error)),
            }
            let outside = self.outside(&spec.id);
            // On the heap as well: so is what the engine answers.
            if let Some(there) = Box::pin(outside.inspect(OPERATION)).await?
                && let Some(placed) = Box::pin(judge(&outside, there, &body)).await?
            {
                if placed.found == Found::Unstarted && placed.channel != channel_of(&body) {
                    let removed = self.client.remove_by_force(&outside.container()).await;
                    removed.during(OPERATION, spec.id.as_str())?;
                    continue;
                }
                return Ok(placed);
            }
            // The name is taken before a container is there, and given back after it is gone.
            if Instant::now() >= deadline {
                return Err(EngineError::new(
                    EngineErrorKind::Conflict,
                    OPERATION,
                    spec.id.as_str(),
                    "the engine neither finishes nor removes a container of this name",
                ));
            }
            tokio::time::sleep(NAME_PAUSE).await;
        }
    }

    async fn connect_sandbox(
        &self,
        id: &SandboxId,
        credentials: &Credentials,
        way: Way,
        claim: Option<Settings>,
        egress: Option<SandboxEgress>,
    ) -> Result<DockerSandbox, EngineError> {
        let outside = self.outside(id);
        let relay = Arc::new(RelayConnector::new(outside.clone()));
        let connector: Arc<dyn Connector> = match &way {
            Way::Socket(folder) => Arc::new(SocketConnector::new(folder, outside.clone())),
            Way::Relay(_) => relay.clone(),
        };
        let identity = ChannelIdentity {
            id: id.clone(),
            credentials: credentials.clone(),
        };
        let channel = match claim {
            None => ChannelClient::resume(connector, identity).await?,
            Some(settings) => {
                let claimed =
                    ChannelClient::claim(connector.clone(), identity.clone(), settings).await;
                match claimed {
                    // Claimed before, by an earlier attempt of ours if we know the secret.
                    Err(error) if error.kind == EngineErrorKind::Corrupt => {
                        ChannelClient::resume(connector, identity).await?
                    }
                    other => other?,
                }
            }
        };
        match &way {
            Way::Socket(folder) => folder.lock().during(Operation::Open, id.as_str())?,
            // Before the first program of setup.
            Way::Relay(Profile::Build) => relay.seal(),
            Way::Relay(Profile::Run) => {}
        }
        Ok(DockerSandbox {
            outside,
            channel,
            egress,
        })
    }
}

/// The error for a sandbox that could not be made or started. Without the runtime that it is to have,
/// or a control that the machine does not know, it is not confined as asked, and nothing else may
/// take that one's place.
fn refused(spec: &SandboxSpec, error: BollardError) -> EngineError {
    let mut error = engine_error(Operation::Create, spec.id.as_str(), error);
    let without_runtime = spec.runtime.is_some() && lacks_runtime(&error.message);
    if without_runtime || lacks_control(&error.message) {
        error.kind = EngineErrorKind::Unsupported;
    }
    error
}

/// Whether an engine says that it cannot confine as asked, in the words of all its versions.
fn lacks_control(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    [
        "seccomp is not enabled",
        "seccomp profiles are not supported",
        "nanocpus can not be set",
    ]
    .iter()
    .any(|words| message.contains(words))
}

/// Whether an engine says that it does not know a runtime, in the words of all its versions.
fn lacks_runtime(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    ["unknown runtime", "unknown or invalid runtime"]
        .iter()
        .any(|words| message.contains(words))
}

fn kept_to_cores(body: &ContainerCreateBody) -> bool {
    let host_config = body.host_config.as_ref();
    host_config.is_some_and(|host_config| host_config.cpuset_cpus.is_some())
}

/// Whether the container that has the name already is the one that is asked for; `None` while it
/// is being removed.
async fn judge(
    outside: &Outside,
    there: ContainerInspectResponse,
    body: &ContainerCreateBody,
) -> Result<Option<Placed>, EngineError> {
    let state = there.state.unwrap_or_default();
    let status = state.status.unwrap_or(ContainerStateStatusEnum::EMPTY);
    if status == ContainerStateStatusEnum::REMOVING {
        return Ok(None);
    }
    let theirs = there.config.and_then(|config| config.labels);
    // One that hangs on another proxy is out of our control as well.
    let same = |key: &str| {
        let label = |labels: &Option<HashMap<String, String>>| {
            // An empty one is inherited from an image.
            let label = labels.as_ref()?.get(key).cloned();
            label.filter(|label| !label.is_empty())
        };
        label(&theirs) == label(&body.labels)
    };
    if !same(SPECIFICATION_DIGEST) || !same(EGRESS_FOLDER) {
        return Err(EngineError::new(
            EngineErrorKind::Conflict,
            Operation::Create,
            outside.id.as_str(),
            "it exists with another specification",
        ));
    }
    let found = match status {
        ContainerStateStatusEnum::CREATED => Found::Unstarted,
        ContainerStateStatusEnum::RUNNING => Found::Started,
        ContainerStateStatusEnum::EXITED if was_unclaimed(&state) => Found::Unstarted,
        // Starting it again would give an empty sandbox the place of one that has worked.
        _ => match outside.cause_of_death().await? {
            Some(cause) => return Err(cause),
            None => Found::Started,
        },
    };
    Ok(Some(Placed {
        found,
        channel: channel_in(there.host_config.and_then(|host| host.mounts)),
    }))
}

/// Whether PID 1 ended because whoever started it died before claiming it.
fn was_unclaimed(state: &ContainerState) -> bool {
    state.exit_code == Some(UNCLAIMED_CODE.into()) && state.oom_killed != Some(true)
}

/// The folder of this machine that a container is to have for its socket.
fn channel_of(body: &ContainerCreateBody) -> Option<String> {
    channel_in(
        body.host_config
            .as_ref()
            .and_then(|host| host.mounts.clone()),
    )
}

fn channel_in(mounts: Option<Vec<Mount>>) -> Option<String> {
    let mut mounts = mounts.unwrap_or_default().into_iter();
    let channel = mounts.find(|mount| mount.target.as_deref() == Some(SOCKET_DIRECTORY));
    channel?.source
}

#[async_trait]
impl Files for DockerSandbox {
    async fn put(
        &self,
        directory: &str,
        tar: &mut (dyn AsyncRead + Send + Unpin),
        limits: TransferLimits,
    ) -> Result<TransferSummary, EngineError> {
        self.channel.put(directory, tar, limits).await
    }

    async fn get(&self, path: &str, limits: TransferLimits) -> Result<Download, EngineError> {
        self.channel.get(path, limits)
    }

    async fn remove(&self, path: &str) -> Result<(), EngineError> {
        self.channel.remove(path).await
    }

    async fn hand_over(&self, path: &str, user: UserId) -> Result<(), EngineError> {
        self.channel.hand_over(path, user).await
    }
}

#[async_trait]
impl Sandbox for DockerSandbox {
    fn id(&self) -> &SandboxId {
        &self.outside.id
    }

    fn attestation(&self) -> &Attestation {
        self.channel.attestation()
    }

    fn egress(&self) -> Option<&dyn Egress> {
        self.egress.as_ref().map(|egress| egress as &dyn Egress)
    }

    async fn exec(&self, request: ExecRequest) -> Result<RunningExec, EngineError> {
        self.channel.exec(request)
    }

    async fn kill_all(&self) -> Result<u32, EngineError> {
        self.channel.kill_all().await
    }

    async fn usage(&self) -> Result<ResourceUsage, EngineError> {
        self.channel.usage().await
    }

    async fn health(&self) -> Result<Health, EngineError> {
        self.channel.health().await
    }

    async fn condition(&self) -> Result<Condition, EngineError> {
        let Some(found) = self.outside.inspect(Operation::Open).await? else {
            return Ok(Condition::Gone);
        };
        let state = found.state.unwrap_or_default();
        // A paused one runs as well.
        if state.paused == Some(true) {
            return Ok(Condition::Paused);
        }
        if state.running == Some(true) {
            return Ok(Condition::Running);
        }
        Ok(Condition::Ended {
            code: state.exit_code.unwrap_or(-1),
            out_of_memory: state.oom_killed == Some(true),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_that_nobody_claimed_is_told_from_one_that_has_worked() {
        let ended = |code, oom_killed| ContainerState {
            exit_code: Some(code),
            oom_killed: Some(oom_killed),
            ..ContainerState::default()
        };
        assert!(was_unclaimed(&ended(123, false)));
        for (code, oom_killed) in [(124, false), (0, false), (137, false), (123, true)] {
            assert!(!was_unclaimed(&ended(code, oom_killed)), "{code}");
        }
        assert!(!was_unclaimed(&ContainerState::default()));
    }

    #[test]
    fn what_an_engine_cannot_confine_is_told_from_other_refusals() {
        for words in [
            "seccomp is not enabled in your kernel, cannot run a custom seccomp profile",
            "linux seccomp: seccomp profiles are not supported on this daemon, you cannot specify \
             a custom seccomp profile",
            "NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler or the \
             cgroup is not mounted",
        ] {
            assert!(lacks_control(words), "{words}");
        }
        for words in ["range of CPUs is from 0.01 to 2.00", "no such image", ""] {
            assert!(!lacks_control(words), "{words}");
        }
    }
}
