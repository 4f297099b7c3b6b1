//! The two ways to a sandbox's `forge-init`: a socket on a shared disk, or a relayed exec.

use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bollard::container::LogOutput;
use bollard::models::{
    ContainerInspectResponse, ContainerState, ContainerStateStatusEnum, ExecConfig,
};
use bollard::query_parameters::{InspectContainerOptions, LogsOptions};
use forge_core::{SandboxId, UserId};
use forge_engine::channel::{Connector, Duplex};
use forge_engine::{EngineError, EngineErrorKind, Operation};
use forge_wire::{INIT_PATH, SOCKET_NAME};
use futures::{Stream, StreamExt};
use sha2::{Digest, Sha256};
use tokio::net::UnixStream;
use tokio::time::Instant;

use crate::client::Client;
use crate::context::hex;
use crate::failure::{During, engine_error, is_conflict, is_not_found};
use crate::hijack::FramedStream;
use crate::names;

const OPERATION: Operation = Operation::Open;

/// The folder on this machine in which a sandbox has its socket.
#[derive(Debug, Clone)]
pub(crate) struct ChannelFolder {
    path: PathBuf,
}

impl ChannelFolder {
    /// The folder of `id` below `root`. Its name is a digest: ids may be longer than what is left
    /// of a socket's address.
    pub(crate) fn of(root: &Path, id: &SandboxId) -> Self {
        let digest = Sha256::digest(id.as_str().as_bytes());
        Self {
            path: root.join(hex(&digest[..8])),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn socket(&self) -> PathBuf {
        self.path.join(SOCKET_NAME)
    }

    /// Makes it; `false` when it is there already.
    pub(crate) fn make(&self, user: UserId) -> io::Result<bool> {
        match DirBuilder::new().mode(0o700).create(&self.path) {
            Ok(()) => self.hand_over(user).map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.touch().map(|()| false)
            }
            Err(error) => Err(error),
        }
    }

    /// Says that it is in use again, before there is a container that says so.
    fn touch(&self) -> io::Result<()> {
        File::open(&self.path)?.set_modified(SystemTime::now())
    }

    /// Empties one that a sandbox of the same id, gone by now, has left.
    pub(crate) fn reset(&self, user: UserId) -> io::Result<()> {
        match std::fs::remove_file(self.socket()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.hand_over(user)
    }

    /// Lets the sandbox make its socket. Without being root there is no giving away; then anybody
    /// could write here, but nobody else gets past the channel root.
    fn hand_over(&self, user: UserId) -> io::Result<()> {
        if nix::unistd::geteuid().is_root() {
            chown(&self.path, Some(user.uid()), Some(user.gid()))?;
            std::fs::set_permissions(&self.path, Permissions::from_mode(0o755))
        } else {
            std::fs::set_permissions(&self.path, Permissions::from_mode(0o777))
        }
    }

    /// Takes it back once the socket is there: from now on a task that has found the folder can
    /// neither remove nor replace the socket, nor leave files on our disk, nor connect.
    pub(crate) fn lock(&self) -> io::Result<()> {
        let me = nix::unistd::geteuid();
        if me.is_root() {
            chown(&self.path, Some(0), Some(0))?;
        }
        std::fs::set_permissions(&self.path, Permissions::from_mode(0o700))
    }

    pub(crate) fn exists(&self) -> bool {
        self.path.is_dir()
    }

    pub(crate) fn remove(&self) -> io::Result<()> {
        match std::fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

/// Asks the engine how a sandbox is that cannot be reached.
#[derive(Debug, Clone)]
pub(crate) struct Outside {
    pub(crate) client: Arc<Client>,
    pub(crate) id: SandboxId,
}

/// Lines of a dead PID 1 that go into an error.
const LAST_LINES: &str = "5";
const LAST_BYTES: usize = 2048;
/// How long the engine may take to tell them.
const LAST_PATIENCE: Duration = Duration::from_secs(5);
/// How long after a relay has ended the engine may find out that PID 1 has: the end of a sandbox is
/// the end of its relay as well, and explains it.
const END_PATIENCE: Duration = Duration::from_secs(3);
const END_PAUSE: Duration = Duration::from_millis(100);

impl Outside {
    pub(crate) fn container(&self) -> String {
        names::container(&self.id)
    }

    /// What the engine knows of the container; `None` when it is not there.
    pub(crate) async fn inspect(
        &self,
        operation: Operation,
    ) -> Result<Option<ContainerInspectResponse>, EngineError> {
        let container = self.container();
        let options = None::<InspectContainerOptions>;
        match self
            .client
            .docker
            .inspect_container(&container, options)
            .await
        {
            Ok(found) => Ok(Some(found)),
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(engine_error(operation, self.id.as_str(), error)),
        }
    }

    /// Why there is no use in trying any longer; `None` while the container runs.
    pub(crate) async fn cause_of_death(&self) -> Result<Option<EngineError>, EngineError> {
        match self.inspect(OPERATION).await? {
            Some(found) => Ok(self.cause_in(found.state.unwrap_or_default()).await),
            None => Ok(Some(self.absent())),
        }
    }

    /// The error for a sandbox that the engine does not know.
    pub(crate) fn absent(&self) -> EngineError {
        EngineError::new(
            EngineErrorKind::NotFound,
            OPERATION,
            self.id.as_str(),
            "there is no such sandbox",
        )
    }

    /// The error for a sandbox in which root could write everywhere, once its relay has ended. To
    /// make another, the engine reads files of the sandbox without limit or deadline, and runs a
    /// program there that would then be taken for `forge-init`.
    pub(crate) fn sealed(&self) -> EngineError {
        EngineError::new(
            EngineErrorKind::Lost,
            OPERATION,
            self.id.as_str(),
            "the relay into setup's sandbox ended, and is not made again: as root, setup may have \
             changed what the engine would read and run for it",
        )
    }

    /// Why a relay that is not made again has ended.
    async fn end_of_relay(&self) -> Result<EngineError, EngineError> {
        let deadline = Instant::now() + END_PATIENCE;
        loop {
            if let Some(cause) = self.cause_of_death().await? {
                return Ok(cause);
            }
            if Instant::now() >= deadline {
                return Ok(self.sealed());
            }
            tokio::time::sleep(END_PAUSE).await;
        }
    }

    /// Why there is no use in trying any longer, from what the engine has said.
    pub(crate) async fn cause_in(&self, state: ContainerState) -> Option<EngineError> {
        if state.running == Some(true) && state.paused != Some(true) {
            return None;
        }
        let status = state.status.unwrap_or(ContainerStateStatusEnum::EMPTY);
        let mut message = match status {
            ContainerStateStatusEnum::PAUSED => "the container is paused".to_owned(),
            ContainerStateStatusEnum::CREATED => "the container was never started".to_owned(),
            _ => format!(
                "the container has ended with code {}{}",
                state.exit_code.unwrap_or(-1),
                if state.oom_killed == Some(true) {
                    " after an out-of-memory kill"
                } else {
                    ""
                }
            ),
        };
        let engine_says = state.error.unwrap_or_default();
        let words = last_words(&self.client, &self.container()).await;
        for detail in [engine_says, words] {
            if !detail.is_empty() {
                message.push_str("; ");
                message.push_str(&detail);
            }
        }
        Some(EngineError::new(
            EngineErrorKind::Lost,
            OPERATION,
            self.id.as_str(),
            message,
        ))
    }
}

/// The last lines a container's PID 1 printed; what could be had of them, which is no reason to
/// fail.
pub(crate) async fn last_words(client: &Client, container: &str) -> String {
    let options = LogsOptions {
        stdout: true,
        stderr: true,
        tail: LAST_LINES.to_owned(),
        ..LogsOptions::default()
    };
    first_of(client.docker.logs(container, Some(options))).await
}

/// The beginning of what a program printed, as far as it comes in time.
async fn first_of<E>(lines: impl Stream<Item = Result<LogOutput, E>>) -> String {
    let mut lines = std::pin::pin!(lines);
    let mut text = Vec::new();
    let reading = async {
        while let Some(Ok(line)) = lines.next().await {
            text.extend_from_slice(&line.into_bytes());
            if text.len() > LAST_BYTES {
                break;
            }
        }
    };
    if tokio::time::timeout(LAST_PATIENCE, reading).await.is_err() {
        tracing::debug!("the engine does not tell all of what a container printed");
    }
    text.truncate(LAST_BYTES);
    String::from_utf8_lossy(&text).trim().to_owned()
}

/// Connects to the socket on the shared disk.
pub(crate) struct SocketConnector {
    socket: PathBuf,
    outside: Outside,
    patience: Mutex<Patience>,
}

/// When the engine is asked about a socket that does not answer: not at once, because a starting
/// sandbox is looked for every millisecond.
#[derive(Debug, Default)]
struct Patience {
    ask_after: Option<Instant>,
}

const FIRST_QUESTION: Duration = Duration::from_millis(250);
const NEXT_QUESTION: Duration = Duration::from_secs(1);

impl Patience {
    /// Notes a failure; whether it is time to ask.
    fn failed(&mut self, now: Instant) -> bool {
        match self.ask_after {
            None => {
                self.ask_after = Some(now + FIRST_QUESTION);
                false
            }
            Some(time) if now < time => false,
            Some(_) => {
                self.ask_after = Some(now + NEXT_QUESTION);
                true
            }
        }
    }
}

impl SocketConnector {
    pub(crate) fn new(folder: &ChannelFolder, outside: Outside) -> Self {
        Self {
            socket: folder.socket(),
            outside,
            patience: Mutex::default(),
        }
    }

    fn with_patience<T>(&self, act: impl FnOnce(&mut Patience) -> T) -> T {
        act(&mut self.patience.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait]
impl Connector for SocketConnector {
    async fn connect(&self) -> Result<Box<dyn Duplex>, EngineError> {
        let error = match UnixStream::connect(&self.socket).await {
            Ok(stream) => {
                self.with_patience(|patience| *patience = Patience::default());
                return Ok(Box::new(stream));
            }
            Err(error) => error,
        };
        if self.with_patience(|patience| patience.failed(Instant::now()))
            && let Some(cause) = self.outside.cause_of_death().await?
        {
            return Err(cause);
        }
        let kind = match error.kind() {
            // The socket is there before its mode is set.
            io::ErrorKind::NotFound
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::WouldBlock => EngineErrorKind::Unavailable,
            _ => EngineErrorKind::Internal,
        };
        let id = self.outside.id.as_str();
        let message = format!("its socket does not answer: {error}");
        Err(EngineError::new(kind, OPERATION, id, message).with_source(error))
    }
}

/// The user of the bridge, which no distribution has. One that setup's programs run as, such as
/// `nobody`, 65534, would have the bridge ended together with what setup left running.
const BRIDGE_USER: &str = "65533:65533";

/// Connects through an exec of `forge-init bridge`, whose streams the engine relays.
pub(crate) struct RelayConnector {
    outside: Outside,
    /// Set once programs of a root that may write everywhere have begun: what the engine reads and
    /// runs for another relay is theirs from then on.
    sealed: AtomicBool,
}

impl RelayConnector {
    pub(crate) const fn new(outside: Outside) -> Self {
        Self {
            outside,
            sealed: AtomicBool::new(false),
        }
    }

    /// Makes no relay from now on.
    pub(crate) fn seal(&self) {
        self.sealed.store(true, Ordering::Release);
    }
}

#[async_trait]
impl Connector for RelayConnector {
    async fn connect(&self) -> Result<Box<dyn Duplex>, EngineError> {
        if self.sealed.load(Ordering::Acquire) {
            return Err(self.outside.end_of_relay().await?);
        }
        let Outside { client, id } = &self.outside;
        let config = ExecConfig {
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            // Without a terminal the output is framed, see `hijack`.
            tty: Some(false),
            cmd: Some(vec![INIT_PATH.to_owned(), "bridge".to_owned()]),
            // Another user than the task's, which therefore can neither stop nor end the bridge.
            user: Some(BRIDGE_USER.to_owned()),
            ..ExecConfig::default()
        };
        let container = self.outside.container();
        let exec = match client.docker.create_exec(&container, config).await {
            Ok(exec) => exec.id,
            Err(error) if is_conflict(&error) || is_not_found(&error) => {
                // Not running: only the engine knows why.
                return Err(match self.outside.cause_of_death().await? {
                    Some(cause) => cause,
                    None => EngineError::new(
                        EngineErrorKind::Unavailable,
                        OPERATION,
                        id.as_str(),
                        "the container is just starting",
                    ),
                });
            }
            Err(error) => return Err(engine_error(OPERATION, id.as_str(), error)),
        };
        let start = bytes::Bytes::from_static(br#"{"Detach":false,"Tty":false}"#);
        let path = format!("/exec/{exec}/start");
        let stream = match client.transport.hijack(&path, start).await {
            Err(error) if is_conflict(&error) || is_not_found(&error) => {
                return Err(match self.outside.cause_of_death().await? {
                    Some(cause) => cause,
                    None => engine_error(OPERATION, id.as_str(), error),
                });
            }
            other => other.during(OPERATION, id.as_str())?,
        };
        Ok(Box::new(FramedStream::new(stream)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_is_asked_after_a_while_and_then_once_a_second() {
        let mut patience = Patience::default();
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let asked: Vec<u64> = (0..2600)
            .step_by(10)
            .filter(|&time| patience.failed(at(time)))
            .collect();
        assert_eq!(asked, [250, 1250, 2250]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_engine_that_stops_telling_last_words_costs_none_that_it_told() {
        let line = |text: &'static str| {
            let message = bytes::Bytes::from_static(text.as_bytes());
            Ok::<_, bollard::errors::Error>(LogOutput::StdErr { message })
        };
        let told = futures::stream::iter([line("one\n"), line("two\n")]);
        let silent = told.chain(futures::stream::pending());
        assert_eq!(first_of(silent).await, "one\ntwo");
        let long = futures::stream::repeat_with(|| line("words\n"));
        assert!(first_of(long).await.len() <= LAST_BYTES);
    }

    #[test]
    fn the_longest_id_has_a_short_folder_and_two_ids_have_two() {
        let root = Path::new("/run/swe-forge");
        let long = SandboxId::new("x".repeat(110)).unwrap();
        let socket = ChannelFolder::of(root, &long).socket();
        assert_eq!(socket.as_os_str().len(), root.as_os_str().len() + 27);
        let other = ChannelFolder::of(root, &SandboxId::new("y").unwrap());
        assert_ne!(other.socket(), socket);
    }

    #[test]
    fn a_locked_folder_belongs_to_us_and_can_be_reset_and_removed() {
        let root = tempfile::tempdir().unwrap();
        let folder = ChannelFolder::of(root.path(), &SandboxId::new("x").unwrap());
        let user = UserId::for_slot(1);
        assert!(folder.make(user).unwrap());
        assert!(!folder.make(user).unwrap());
        std::fs::write(folder.socket(), "").unwrap();
        folder.lock().unwrap();
        let mode = std::fs::metadata(folder.path())
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o700);
        folder.reset(user).unwrap();
        assert!(!folder.socket().exists());
        folder.remove().unwrap();
        folder.remove().unwrap();
        assert!(!folder.exists());
    }
}
