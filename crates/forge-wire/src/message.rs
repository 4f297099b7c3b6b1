//! The messages. Requests go into the sandbox, events come out of it.

use serde::{Deserialize, Serialize};

use crate::handshake::{Nonce, Proof, Secret};

/// What the orchestrator says.
///
/// `request` numbers are chosen by the orchestrator and come back in the answer; `exec` and
/// `transfer` ids are chosen by it as well and are never used twice in one sandbox. An exec's id
/// may stand for a key, see [`crate::keyed_exec`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// First connection: hands over the secret and the settings of the sandbox.
    Claim {
        /// The client's nonce.
        nonce: Nonce,
        /// The secret of this sandbox from now on.
        secret: Secret,
        /// The client's epoch.
        epoch: u64,
        /// What the sandbox watches on its own.
        settings: Settings,
    },
    /// Later connections: proves knowledge of the secret.
    Prove {
        /// The client's nonce.
        nonce: Nonce,
        /// The client's epoch.
        epoch: u64,
        /// [`crate::handshake::End::Client`]'s proof, of this epoch.
        proof: Proof,
    },
    /// Start a program. What has a key and was started before, by whomever, is not started again.
    Exec {
        /// Its id from now on.
        exec: u64,
        /// What to run.
        command: Command,
    },
    /// No more standard input for this exec.
    StdinEnd {
        /// Which exec.
        exec: u64,
    },
    /// Send a signal to the exec's process group.
    Signal {
        /// Which exec.
        exec: u64,
        /// The signal's number.
        signal: i32,
    },
    /// Output up to this offset has arrived; more may be sent.
    OutputTaken {
        /// Which exec.
        exec: u64,
        /// Bytes of output, both streams together, that the client has.
        offset: u64,
    },
    /// After a new connection: send the exec's output from an offset on, and its end, also when
    /// it was sent before. The answer is [`Event::Resumed`] or [`Event::UnknownExec`].
    Resume {
        /// Which exec.
        exec: u64,
        /// Bytes the client already has.
        from: u64,
        /// Bytes of these that nobody will ask for again.
        taken: u64,
    },
    /// The client knows how this exec ended; it need not be remembered. Without effect before the
    /// end was sent.
    Forget {
        /// Which exec.
        exec: u64,
    },
    /// Unpack the tar stream that follows on [`crate::frame::Lane::Upload`].
    Put {
        /// Its id from now on.
        transfer: u64,
        /// Absolute path of an existing folder, into which it is unpacked.
        directory: String,
        /// Bounds.
        limits: TransferLimits,
    },
    /// The upload's stream is complete.
    PutEnd {
        /// Which transfer.
        transfer: u64,
    },
    /// Pack a file or folder as a tar stream on [`crate::frame::Lane::Download`].
    Get {
        /// Its id from now on.
        transfer: u64,
        /// Absolute path.
        path: String,
        /// Bounds.
        limits: TransferLimits,
    },
    /// Download data up to this offset has arrived; more may be sent.
    TransferTaken {
        /// Which transfer.
        transfer: u64,
        /// Bytes the client has.
        offset: u64,
    },
    /// The client wants no more of this transfer.
    TransferCancel {
        /// Which transfer.
        transfer: u64,
    },
    /// Remove a file or a whole tree, never following a link; success when it is not there.
    Remove {
        /// Number of this request.
        request: u64,
        /// Absolute path, strictly below the workspace.
        path: String,
    },
    /// Give a tree to a user, never following a link; only where PID 1 is root.
    HandOver {
        /// Number of this request.
        request: u64,
        /// Absolute path, the workspace or below it.
        path: String,
        /// The user from now on.
        uid: u32,
        /// The group from now on.
        gid: u32,
    },
    /// End every process of the sandbox but PID 1 and see them dead.
    KillAll {
        /// Number of this request.
        request: u64,
    },
    /// Report what the sandbox has used so far.
    Usage {
        /// Number of this request.
        request: u64,
    },
    /// Say at once how the sandbox is.
    Health {
        /// Number of this request.
        request: u64,
    },
    /// Answer at once.
    Ping {
        /// Number of this request.
        request: u64,
    },
    /// End the sandbox: PID 1 exits, and the kernel ends everything else.
    Shutdown,
}

/// What PID 1 watches on its own, even with no orchestrator connected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The workspace's folder.
    pub workspace: String,
    /// Its size in bytes; past it every process is ended with [`Ending::DiskFull`].
    pub disk_limit: u64,
    /// PID 1 exits after this many seconds.
    pub lifetime_seconds: u64,
    /// The network that PID 1 makes of loopback; `None` where the sandbox is isolated.
    pub network: Option<Network>,
}

/// The network that PID 1 makes of loopback: an HTTP proxy, a resolver of names, and listeners that
/// capture connections. All of it leads to the socket of the egress proxy, which decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// The egress proxy's socket.
    pub socket: String,
    /// TCP ports that are captured, 80 and 443 among them.
    pub ports: Vec<u16>,
    /// Whether the SOCKS5 proxy listens.
    pub socks: bool,
}

/// A program to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Program and arguments; looked up in `PATH` of `env` when the program has no `/`.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// Working directory.
    pub working_directory: String,
    /// Whether standard input will be sent; otherwise it is at its end from the start.
    pub stdin: bool,
    /// Ended after this many milliseconds; 0 means never.
    pub timeout_ms: u64,
    /// Milliseconds between SIGTERM and SIGKILL at the deadline.
    pub grace_ms: u64,
    /// Output allowed, both streams together, in bytes.
    pub output_limit: u64,
}

/// Bounds of a transfer; passing one ends it with [`TransferError::Limit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferLimits {
    /// Bytes of file contents.
    pub bytes: u64,
    /// Files, folders and links.
    pub entries: u64,
}

/// What the sandbox says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// First thing on a new connection.
    Greeting {
        /// [`crate::PROTOCOL_VERSION`] of the sandbox.
        version: u16,
        /// The sandbox's nonce.
        nonce: Nonce,
        /// Whether a secret was handed over before.
        claimed: bool,
    },
    /// The client is who it says; so is the sandbox.
    Welcome {
        /// [`crate::handshake::End::Sandbox`]'s proof, of the client's epoch.
        proof: Proof,
        /// What PID 1 sees.
        attestation: Box<Attested>,
    },
    /// The client's proof is wrong; the connection is closed.
    Refused,
    /// The client's proof is right, but one of a higher epoch was there; the connection is closed.
    Superseded {
        /// That epoch.
        epoch: u64,
        /// [`crate::handshake::End::Sandbox`]'s proof, of that epoch.
        proof: Proof,
    },
    /// A program was started.
    Started {
        /// Which exec.
        exec: u64,
        /// Its process id inside the sandbox.
        pid: i32,
    },
    /// A program ended, and all of its output was sent.
    Exited {
        /// Which exec.
        exec: u64,
        /// How.
        report: Report,
    },
    /// Standard input up to this offset was written; more may be sent.
    StdinTaken {
        /// Which exec.
        exec: u64,
        /// Bytes written.
        offset: u64,
    },
    /// Upload data up to this offset was taken; more may be sent.
    TransferTaken {
        /// Which transfer.
        transfer: u64,
        /// Bytes taken.
        offset: u64,
    },
    /// A transfer is complete.
    TransferDone {
        /// Which transfer.
        transfer: u64,
        /// What it moved.
        summary: TransferSummary,
    },
    /// A transfer failed; nothing more comes of it.
    TransferFailed {
        /// Which transfer.
        transfer: u64,
        /// Why.
        error: TransferError,
        /// Path and what went wrong, for a person.
        message: String,
    },
    /// Answer to [`Request::Remove`].
    Removed {
        /// Number of the request.
        request: u64,
        /// What went wrong, if anything.
        error: Option<String>,
    },
    /// Answer to [`Request::HandOver`].
    HandedOver {
        /// Number of the request.
        request: u64,
        /// What went wrong, if anything.
        error: Option<String>,
    },
    /// Answer to [`Request::KillAll`].
    AllKilled {
        /// Number of the request.
        request: u64,
        /// Processes that could not be ended; 0 means that PID 1 is alone.
        survivors: u32,
    },
    /// Answer to [`Request::Usage`].
    Usage {
        /// Number of the request.
        request: u64,
        /// What was used.
        usage: Usage,
    },
    /// Answer to [`Request::Health`].
    Health {
        /// Number of the request.
        request: u64,
        /// How it is.
        health: Health,
    },
    /// Answer to [`Request::Ping`].
    Pong {
        /// Number of the request.
        request: u64,
    },
    /// Answer to [`Request::Resume`]: what follows of this exec is what was asked for.
    Resumed {
        /// Which exec.
        exec: u64,
        /// Offset of the output that follows. Another one than asked for means that there is no
        /// output from there on: it was acknowledged before, or there is not that much. Then
        /// nothing follows.
        from: u64,
    },
    /// The exec id is not known here: never started, or forgotten.
    UnknownExec {
        /// Which exec.
        exec: u64,
    },
    /// Answer to [`Request::Exec`]: its key was used before, and nothing is started.
    AlreadyStarted {
        /// Which exec.
        exec: u64,
    },
}

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// How.
    pub ending: Ending,
    /// Output it wrote, as far as it was read, in bytes.
    pub output_bytes: u64,
    /// Whether output was cut.
    pub truncated: bool,
    /// Out-of-memory kills in the sandbox meanwhile.
    pub oom_kills: u64,
    /// Forks refused in the sandbox meanwhile.
    pub pids_refused: u64,
    /// How long it ran, in microseconds.
    pub duration_us: u64,
}

/// The ways to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// By itself.
    Exited(i32),
    /// By a signal not sent by PID 1.
    Signalled(i32),
    /// Its deadline passed.
    DeadlineExceeded,
    /// It wrote too much.
    OutputLimit,
    /// The workspace grew too large.
    DiskFull,
    /// More was written outside of the workspace than its size allows.
    RootFull,
    /// The engine's own disk has only its reserve left.
    EngineDiskFull,
    /// The workspace's file system failed from below and takes no more writes.
    WorkspaceFailed,
    /// It could not be started; the kernel's error number.
    NotStarted(i32),
    /// On request: a signal, or [`Request::KillAll`].
    Killed,
}

/// What a transfer moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferSummary {
    /// Files, folders and links.
    pub entries: u64,
    /// Bytes of file contents.
    pub bytes: u64,
    /// Entries left out: devices, sockets, pipes, and what could not be read.
    pub skipped: u64,
}

/// Why a transfer failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TransferError {
    /// The path does not exist.
    NotFound,
    /// A bound was passed.
    Limit,
    /// The stream is not a tar stream, or an entry of it leaves its folder.
    Malformed,
    /// No room.
    NoSpace,
    /// The kernel refused something else.
    Io,
    /// The client ended it.
    Cancelled,
}

/// Counters of the sandbox's control groups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Peak memory in bytes.
    pub memory_peak: u64,
    /// CPU time in microseconds.
    pub cpu_us: u64,
    /// Peak processes and threads of the task, without PID 1's own.
    pub pids_peak: u64,
    /// Out-of-memory kills.
    pub oom_kills: u64,
    /// Forks refused.
    pub pids_refused: u64,
    /// Largest workspace seen, in bytes.
    pub disk_peak: u64,
    /// Whether the workspace was seen with no room left for bytes or files.
    pub disk_full: bool,
}

/// How a sandbox is at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Whether [`crate::SPECIFICATION_FILE`] was in the workspace within the last seconds; `None`
    /// where it could not be looked for in time.
    pub specification: Option<bool>,
    /// The task's processes.
    pub processes: Processes,
    /// CPU time used so far, in microseconds; `None` where the kernel's count cannot be read.
    pub cpu_us: Option<u64>,
    /// Output read so far of all execs, in bytes.
    pub output_bytes: u64,
}

/// The task's processes by what they do, as far as they were counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Processes {
    /// On a processor or waiting for one.
    pub running: u32,
    /// Waiting for something, and to be interrupted.
    pub sleeping: u32,
    /// Stopped, by a signal or a tracer.
    pub stopped: u32,
    /// Waiting for a disk or the like, and not to be interrupted.
    pub blocked: u32,
    /// Ended, and their parents do not want to know.
    pub zombies: u32,
    /// Whether there are more, which were not looked at.
    pub more: bool,
}

/// What PID 1 sees of its confinement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attested {
    /// Effective capabilities.
    pub capabilities: u64,
    /// Bounding set.
    pub bounding_capabilities: u64,
    /// `no_new_privs`.
    pub no_new_privileges: bool,
    /// Seccomp mode.
    pub seccomp_mode: u32,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Interfaces.
    pub interfaces: Vec<String>,
    /// Routes beyond loopback.
    pub routes: u32,
    /// Writable mount points, without the kernel's own.
    pub writable_mounts: Vec<String>,
    /// Read-only mount points, without the kernel's own and the root.
    pub read_only_mounts: Vec<String>,
    /// Whether `/` is read-only.
    pub read_only_root: bool,
    /// Whether `AF_VSOCK` was refused.
    pub vsock_refused: bool,
    /// Whether there is no way to the address of cloud machines' metadata.
    pub metadata_unreachable: bool,
    /// Whether PID 1 serves the network that the settings ask for.
    pub network_served: bool,
    /// Why it does not, where they ask for one.
    pub network_failure: Option<String>,
    /// Kernel release.
    pub kernel: String,
    /// Threads that PID 1 itself uses.
    pub own_threads: u32,
}
