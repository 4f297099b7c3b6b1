//! A command in a sandbox: what is asked, and how it ended.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Names one command in a sandbox for ever: it is started once, whoever asks and however often, and
/// who knows its key can go on with it after the process that started it is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ExecKey(pub u32);

impl fmt::Display for ExecKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// How to go on with a command that an earlier process may have started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Join {
    /// Bytes of its output, both streams together, that are written down; none of these comes
    /// again.
    pub output_from: u64,
    /// Whether it is started when the sandbox does not know it. Never done where output of it is
    /// written down: then it was started before.
    pub may_start: bool,
}

/// A complete request to run a program; nothing is filled in below this level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecRequest {
    /// Program and arguments; the program is looked up in `PATH` of `env` when it has no `/`.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// Working directory inside the sandbox.
    pub working_directory: String,
    /// Whether the caller will write to its standard input; otherwise it reads end of file.
    pub stdin: bool,
    /// Ended after this long: first by SIGTERM to its process group, after `grace` every process
    /// of the sandbox by SIGKILL.
    pub timeout: Option<Duration>,
    /// Time between SIGTERM and SIGKILL.
    pub grace: Duration,
    /// Output allowed, both streams together, in bytes.
    pub output_limit: u64,
    /// Its name in the sandbox, where others shall be able to go on with it. Then no output is let
    /// go before the caller acknowledges it, and its end is told until the caller says to forget it.
    pub key: Option<ExecKey>,
    /// Goes on with what may have been started before; only with a key, and without input.
    pub join: Option<Join>,
}

/// Default time between SIGTERM and SIGKILL: half of what a deadline may add at most.
pub const DEFAULT_GRACE: Duration = Duration::from_millis(1000);

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// By itself, with this code.
    Exited(i32),
    /// By a signal that swe-forge did not send.
    Signalled(i32),
    /// Its deadline passed.
    DeadlineExceeded,
    /// It wrote more than its output limit.
    OutputLimit,
    /// The workspace grew past its size.
    DiskFull,
    /// More was written outside of the workspace, into the root file system, than its size allows.
    RootFull,
    /// The engine's own disk has only its reserve left: nothing that one task could be blamed for.
    EngineDiskFull,
    /// The workspace's file system failed from below, as when the engine's disk is full under it:
    /// what was written is not known to be there.
    WorkspaceFailed,
    /// It could not be started; `errno` as the kernel gave it.
    NotStarted {
        /// The kernel's error number.
        errno: i32,
    },
    /// It was ended on request.
    Killed,
}

/// The report about a command that ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExitReport {
    /// How it ended.
    pub ending: Ending,
    /// Bytes it wrote to standard output and error, as far as they were read.
    pub output_bytes: u64,
    /// Whether output was cut.
    pub truncated: bool,
    /// Processes of the sandbox that the kernel killed for want of memory meanwhile.
    pub oom_kills: u64,
    /// Forks that the process limit refused meanwhile.
    pub pids_refused: u64,
    /// How long it ran, measured inside the sandbox.
    pub duration: Duration,
}

/// Which stream a piece of output belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}
