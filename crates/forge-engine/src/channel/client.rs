//! The cloneable handle to a sandbox's channel.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use forge_core::{
    Attestation, Ending, ExecRequest, ExitReport, Health, Processes, ResourceUsage, SandboxId,
    UserId,
};
use forge_wire::frame::MAX_DATA;
use forge_wire::message::{
    self, Attested, Command, Report, Settings, TransferLimits, TransferSummary, Usage,
};
use forge_wire::{Event, Nonce, WINDOW, keyed_exec};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::connection::{Connection, Introduction};
use super::driver::{Driver, NewExec, Order, Question};
use super::streams::{Download, DownloadEnd, OutputReceiver, Remote, STALL_PATIENCE};
use super::{ConnectError, Connector};
use crate::engine::Credentials;
use crate::error::{EngineError, EngineErrorKind, Operation};
use crate::sandbox::RunningExec;
use crate::task::{self, OwnedTask};

/// How long a broken channel is re-made before its sandbox counts as lost.
pub const RECONNECT_BUDGET: Duration = Duration::from_secs(15);

/// How long an answer may take.
const ANSWER_PATIENCE: Duration = Duration::from_secs(20);
/// How long files may take that are under way already: removing or unpacking a large tree.
const FILES_PATIENCE: Duration = Duration::from_secs(120);

/// Which sandbox, and what proves that we own it.
#[derive(Debug, Clone)]
pub struct ChannelIdentity {
    /// The sandbox.
    pub id: SandboxId,
    /// Its secret, and our epoch.
    pub credentials: Credentials,
}

/// Cancels an upload whose caller stopped waiting: the sandbox takes files one transfer at a time, and
/// would wait for the rest of this one before any other. Without effect on one that has ended.
struct GivenUp {
    transfer: u64,
    orders: mpsc::UnboundedSender<Order>,
}

impl Drop for GivenUp {
    fn drop(&mut self) {
        let transfer = self.transfer;
        // With the channel closed the transfer is over anyway.
        self.orders.send(Order::TransferCancel { transfer }).ok();
    }
}

/// What those are told who come after the channel was closed for good.
#[derive(Debug, Clone)]
pub(super) struct Fate {
    id: SandboxId,
    /// Why the sandbox is another's; empty where contact was merely lost.
    conflict: Arc<OnceLock<String>>,
}

impl Fate {
    /// Notes the error that closes the channel.
    pub(super) fn seal(&self, error: &EngineError) {
        if error.kind == EngineErrorKind::Conflict {
            self.conflict.get_or_init(|| error.message.clone());
        }
    }

    fn closed(&self, operation: Operation) -> EngineError {
        let (kind, message) = match self.conflict.get() {
            Some(message) => (EngineErrorKind::Conflict, message.as_str()),
            None => (EngineErrorKind::Lost, "contact with the sandbox was lost"),
        };
        EngineError::new(kind, operation, self.id.as_str(), message)
    }
}

/// A handle to a sandbox's channel; the channel closes when the last one is dropped.
#[derive(Debug, Clone)]
pub struct ChannelClient {
    id: SandboxId,
    orders: mpsc::UnboundedSender<Order>,
    numbers: Arc<AtomicU64>,
    attestation: Arc<Attestation>,
    fate: Fate,
    _driver: Arc<OwnedTask<()>>,
}

impl ChannelClient {
    /// Claims a sandbox that was just made: the first connection to it.
    ///
    /// # Errors
    /// Of the connector, or [`EngineErrorKind::Corrupt`] when the other end is not ours.
    pub async fn claim(
        connector: Arc<dyn Connector>,
        identity: ChannelIdentity,
        settings: Settings,
    ) -> Result<Self, EngineError> {
        Self::start(connector, identity, Some(settings)).await
    }

    /// Connects to a sandbox that was claimed before.
    ///
    /// # Errors
    /// As [`Self::claim`].
    pub async fn resume(
        connector: Arc<dyn Connector>,
        identity: ChannelIdentity,
    ) -> Result<Self, EngineError> {
        Self::start(connector, identity, None).await
    }

    async fn start(
        connector: Arc<dyn Connector>,
        identity: ChannelIdentity,
        settings: Option<Settings>,
    ) -> Result<Self, EngineError> {
        let (connection, attested) =
            establish(&*connector, &identity, settings.as_ref(), RECONNECT_BUDGET).await?;
        let (orders, inbox) = mpsc::unbounded_channel();
        let id = identity.id.clone();
        let fate = Fate {
            id: id.clone(),
            conflict: Arc::default(),
        };
        let driver = Driver::new(connector, identity, inbox, fate.clone());
        Ok(Self {
            id,
            orders,
            // Ids must never repeat in one sandbox, also not after a restart of this process.
            numbers: Arc::new(AtomicU64::new(fresh_number())),
            attestation: Arc::new(attestation(attested)),
            fate,
            _driver: Arc::new(task::spawn("sandbox channel", driver.run(connection))),
        })
    }

    /// What PID 1 saw at start.
    #[must_use]
    pub fn attestation(&self) -> &Attestation {
        &self.attestation
    }

    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    fn order(&self, operation: Operation, order: Order) -> Result<(), EngineError> {
        self.orders
            .send(order)
            .map_err(|_| self.fate.closed(operation))
    }

    /// Starts a command, or joins one.
    ///
    /// # Errors
    /// [`EngineErrorKind::Rejected`] for a join without a key or with input;
    /// [`EngineErrorKind::Lost`] or [`EngineErrorKind::Conflict`] when the channel is closed for
    /// good.
    pub fn exec(&self, request: ExecRequest) -> Result<RunningExec, EngineError> {
        let (key, join) = (request.key, request.join);
        if join.is_some() && (key.is_none() || request.stdin) {
            return Err(EngineError::new(
                EngineErrorKind::Rejected,
                Operation::Exec,
                self.id.as_str(),
                "only a command that has a key and takes no input can be joined",
            ));
        }
        let exec = key.map_or_else(|| self.number(), |key| keyed_exec(key.0));
        let (output, chunks) = mpsc::unbounded_channel();
        let (exit, exited) = oneshot::channel();
        let (stdin_taken, taken) = watch::channel(0);
        let command = command(request);
        self.order(
            Operation::Exec,
            Order::Exec(NewExec {
                exec,
                command,
                join,
                output,
                exit,
                stdin_taken,
            }),
        )?;
        let fate = self.fate.clone();
        let from = join.map_or(0, |join| join.output_from);
        Ok(RunningExec {
            output: OutputReceiver {
                exec,
                chunks,
                orders: self.orders.clone(),
                taken: from,
                acknowledged: from,
            },
            remote: Remote {
                exec,
                orders: self.orders.clone(),
                stdin_taken: taken,
                stdin_sent: 0,
            },
            exit: Box::pin(async move {
                match exited.await {
                    Ok(result) => result.map(exit_report),
                    Err(_) => Err(fate.closed(Operation::Exec)),
                }
            }),
        })
    }

    /// Unpacks a tar stream into an existing folder.
    ///
    /// # Errors
    /// What the sandbox reports, a failure of `tar` itself, or [`EngineErrorKind::Lost`].
    pub async fn put(
        &self,
        directory: &str,
        tar: &mut (dyn AsyncRead + Send + Unpin),
        limits: TransferLimits,
    ) -> Result<TransferSummary, EngineError> {
        let transfer = self.number();
        let (taken_sender, mut taken) = watch::channel(0);
        let (done, outcome) = oneshot::channel();
        let directory = directory.to_owned();
        self.order(
            Operation::Put,
            Order::Put {
                transfer,
                directory,
                limits,
                taken: taken_sender,
                done,
            },
        )?;
        let _given_up = GivenUp {
            transfer,
            orders: self.orders.clone(),
        };
        let mut sent = 0;
        loop {
            let mut piece = Vec::with_capacity(MAX_DATA);
            while piece.len() < MAX_DATA {
                let room = (MAX_DATA - piece.len()) as u64;
                match (&mut *tar).take(room).read_buf(&mut piece).await {
                    Ok(0) => break,
                    Ok(_) => {}
                    Err(error) => {
                        return Err(EngineError::new(
                            EngineErrorKind::Internal,
                            Operation::Put,
                            self.id.as_str(),
                            "the files could not be read",
                        )
                        .with_source(error));
                    }
                }
            }
            if piece.is_empty() {
                break;
            }
            let end = sent + piece.len() as u64;
            let room = taken.wait_for(|taken| end.saturating_sub(*taken) <= WINDOW);
            match tokio::time::timeout(STALL_PATIENCE, room).await {
                Ok(Ok(_)) => {}
                // The transfer ended early; `outcome` says why.
                Ok(Err(_)) => break,
                Err(_) => return Err(silent(Operation::Put, &self.id)),
            }
            let bytes = Bytes::from(piece);
            self.order(
                Operation::Put,
                Order::Upload {
                    transfer,
                    offset: sent,
                    bytes,
                },
            )?;
            sent = end;
        }
        self.order(Operation::Put, Order::PutEnd { transfer })?;
        match tokio::time::timeout(FILES_PATIENCE, outcome).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(self.fate.closed(Operation::Put)),
            Err(_) => Err(silent(Operation::Put, &self.id)),
        }
    }

    /// Packs a path as a tar stream.
    ///
    /// # Errors
    /// [`EngineErrorKind::Lost`] when the channel is closed for good.
    pub fn get(&self, path: &str, limits: TransferLimits) -> Result<Download, EngineError> {
        let transfer = self.number();
        let (pieces, receiver) = mpsc::unbounded_channel();
        let (done, outcome) = oneshot::channel();
        let path = path.to_owned();
        self.order(
            Operation::Get,
            Order::Get {
                transfer,
                path,
                limits,
                pieces,
                done,
            },
        )?;
        Ok(Download {
            transfer,
            pieces: receiver,
            orders: self.orders.clone(),
            done: outcome,
            taken: 0,
            acknowledged: 0,
            end: DownloadEnd::Open,
        })
    }

    async fn ask(&self, operation: Operation, question: Question) -> Result<Event, EngineError> {
        let (answer, answered) = oneshot::channel();
        let request = self.number();
        self.order(
            operation,
            Order::Ask {
                request,
                question,
                answer,
            },
        )?;
        let patience = match operation {
            Operation::Put => FILES_PATIENCE,
            _ => ANSWER_PATIENCE,
        };
        match tokio::time::timeout(patience, answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(self.fate.closed(operation)),
            Err(_) => Err(silent(operation, &self.id)),
        }
    }

    fn corrupt(&self, operation: Operation, message: impl Into<String>) -> EngineError {
        EngineError::new(
            EngineErrorKind::Corrupt,
            operation,
            self.id.as_str(),
            message,
        )
    }

    /// Removes a path below the workspace.
    ///
    /// # Errors
    /// What the sandbox reports, or [`EngineErrorKind::Lost`].
    pub async fn remove(&self, path: &str) -> Result<(), EngineError> {
        match self
            .ask(Operation::Put, Question::Remove(path.to_owned()))
            .await?
        {
            Event::Removed { error: None, .. } => Ok(()),
            Event::Removed {
                error: Some(message),
                ..
            } => Err(EngineError::new(
                EngineErrorKind::Rejected,
                Operation::Put,
                self.id.as_str(),
                format!("{path} could not be removed: {message}"),
            )),
            _ => Err(self.corrupt(Operation::Put, "an answer to another question")),
        }
    }

    /// Gives a tree to a user.
    ///
    /// # Errors
    /// What the sandbox reports, or [`EngineErrorKind::Lost`].
    pub async fn hand_over(&self, path: &str, user: UserId) -> Result<(), EngineError> {
        let question = Question::HandOver {
            path: path.to_owned(),
            user,
        };
        match self.ask(Operation::Put, question).await? {
            Event::HandedOver { error: None, .. } => Ok(()),
            Event::HandedOver {
                error: Some(message),
                ..
            } => Err(EngineError::new(
                EngineErrorKind::Rejected,
                Operation::Put,
                self.id.as_str(),
                format!("{path} could not be given to its user: {message}"),
            )),
            _ => Err(self.corrupt(Operation::Put, "an answer to another question")),
        }
    }

    /// Ends every process but PID 1.
    ///
    /// # Errors
    /// [`EngineErrorKind::Lost`].
    pub async fn kill_all(&self) -> Result<u32, EngineError> {
        match self.ask(Operation::Kill, Question::KillAll).await? {
            Event::AllKilled { survivors, .. } => Ok(survivors),
            _ => Err(self.corrupt(Operation::Kill, "an answer to another question")),
        }
    }

    /// Counters so far.
    ///
    /// # Errors
    /// [`EngineErrorKind::Lost`].
    pub async fn usage(&self) -> Result<ResourceUsage, EngineError> {
        match self.ask(Operation::Usage, Question::Usage).await? {
            Event::Usage { usage, .. } => Ok(resource_usage(usage)),
            _ => Err(self.corrupt(Operation::Usage, "an answer to another question")),
        }
    }

    /// How the sandbox is.
    ///
    /// # Errors
    /// [`EngineErrorKind::Lost`].
    pub async fn health(&self) -> Result<Health, EngineError> {
        match self.ask(Operation::Health, Question::Health).await? {
            Event::Health { health, .. } => Ok(health_of(health)),
            _ => Err(self.corrupt(Operation::Health, "an answer to another question")),
        }
    }

    /// One round trip.
    ///
    /// # Errors
    /// [`EngineErrorKind::Lost`].
    pub async fn ping(&self) -> Result<(), EngineError> {
        match self.ask(Operation::Open, Question::Ping).await? {
            Event::Pong { .. } => Ok(()),
            _ => Err(self.corrupt(Operation::Open, "an answer to another question")),
        }
    }
}

fn silent(operation: Operation, id: &SandboxId) -> EngineError {
    let message = "the sandbox does not answer";
    EngineError::new(EngineErrorKind::Lost, operation, id.as_str(), message)
}

/// Connects and shakes hands, trying again until `budget` is used up or there is no use in it.
pub(super) async fn establish(
    connector: &dyn Connector,
    identity: &ChannelIdentity,
    claim: Option<&Settings>,
    budget: Duration,
) -> Result<(Connection, Attested), EngineError> {
    let deadline = Instant::now() + budget;
    // The socket of a starting sandbox appears within milliseconds: look often at first.
    let mut pause = Duration::from_micros(500);
    loop {
        let introduction = claim.map_or(Introduction::Prove, Introduction::Claim);
        let opening = async {
            let stream = connector.connect().await.map_err(ConnectError::Connector)?;
            Connection::open(stream, &identity.credentials, fresh_nonce(), introduction)
                .await
                .map_err(ConnectError::Handshake)
        };
        let failure = match tokio::time::timeout_at(deadline, opening).await {
            Ok(Ok(opened)) => return Ok(opened),
            Ok(Err(failure)) => failure,
            Err(_) => ConnectError::Silent,
        };
        if failure.is_final() || Instant::now() + pause >= deadline {
            return Err(failure.into_engine_error(&identity.id));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(200));
    }
}

/// 244 random bits: two version 4 UUIDs.
fn fresh_nonce() -> Nonce {
    let mut nonce = [0; 32];
    nonce[..16].copy_from_slice(uuid::Uuid::new_v4().as_bytes());
    nonce[16..].copy_from_slice(uuid::Uuid::new_v4().as_bytes());
    nonce
}

/// A random starting number with room for 2^32 more; the highest bit is for execs with a key.
fn fresh_number() -> u64 {
    let (high, _) = uuid::Uuid::new_v4().as_u64_pair();
    (high >> 1) & !0xffff_ffff
}

fn command(request: ExecRequest) -> Command {
    let milliseconds = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    Command {
        argv: request.argv,
        env: request.env,
        working_directory: request.working_directory,
        stdin: request.stdin,
        // 0 means "never" on the wire, so a deadline that is already due is one millisecond.
        timeout_ms: request
            .timeout
            .map_or(0, |timeout| milliseconds(timeout).max(1)),
        grace_ms: milliseconds(request.grace),
        output_limit: request.output_limit,
    }
}

fn exit_report(report: Report) -> ExitReport {
    ExitReport {
        ending: match report.ending {
            message::Ending::Exited(code) => Ending::Exited(code),
            message::Ending::Signalled(signal) => Ending::Signalled(signal),
            message::Ending::DeadlineExceeded => Ending::DeadlineExceeded,
            message::Ending::OutputLimit => Ending::OutputLimit,
            message::Ending::DiskFull => Ending::DiskFull,
            message::Ending::RootFull => Ending::RootFull,
            message::Ending::EngineDiskFull => Ending::EngineDiskFull,
            message::Ending::WorkspaceFailed => Ending::WorkspaceFailed,
            message::Ending::NotStarted(errno) => Ending::NotStarted { errno },
            message::Ending::Killed => Ending::Killed,
        },
        output_bytes: report.output_bytes,
        truncated: report.truncated,
        oom_kills: report.oom_kills,
        pids_refused: report.pids_refused,
        duration: Duration::from_micros(report.duration_us),
    }
}

fn resource_usage(usage: Usage) -> ResourceUsage {
    ResourceUsage {
        memory_peak_bytes: usage.memory_peak,
        cpu_seconds: Duration::from_micros(usage.cpu_us).as_secs_f64(),
        pids_peak: usage.pids_peak,
        oom_kills: usage.oom_kills,
        pids_refused: usage.pids_refused,
        disk_peak_bytes: usage.disk_peak,
        disk_full: usage.disk_full,
    }
}

fn health_of(health: message::Health) -> Health {
    let processes = health.processes;
    Health {
        specification: health.specification,
        processes: Processes {
            running: processes.running,
            sleeping: processes.sleeping,
            stopped: processes.stopped,
            blocked: processes.blocked,
            zombies: processes.zombies,
            more: processes.more,
        },
        cpu: health.cpu_us.map(Duration::from_micros),
        output_bytes: health.output_bytes,
    }
}

fn attestation(attested: Attested) -> Attestation {
    Attestation {
        capabilities: attested.capabilities,
        bounding_capabilities: attested.bounding_capabilities,
        no_new_privileges: attested.no_new_privileges,
        seccomp_mode: attested.seccomp_mode,
        uid: attested.uid,
        gid: attested.gid,
        interfaces: attested.interfaces,
        routes: attested.routes,
        writable_mounts: attested.writable_mounts,
        read_only_mounts: attested.read_only_mounts,
        read_only_root: attested.read_only_root,
        vsock_refused: attested.vsock_refused,
        metadata_unreachable: attested.metadata_unreachable,
        network_served: attested.network_served,
        network_failure: attested.network_failure,
        kernel: attested.kernel,
    }
}
