//! One phase: its command runs, its output goes to its log, its deadline holds.

use std::path::Path;
use std::time::Duration;

use forge_core::exec::DEFAULT_GRACE;
use forge_core::sandbox::WORKSPACE;
use forge_core::{
    CommandLine, Deadline, ExecRequest, ExitReport, Failure, Limits, Outcome, Reason,
};
use forge_engine::{EngineError, EngineErrorKind, Operation, Sandbox};
use futures::FutureExt;
use tokio::fs::File;
use tokio::io::{AsyncWriteExt, BufWriter};

use crate::context::Cancellation;
use crate::failure;
use crate::redact::{Mask, Redactor};

/// The sandbox ends a phase at its deadline by itself. It is given this much longer before it is
/// taken to be stuck.
const OVERDUE: Duration = Duration::from_secs(20);

/// What a phase runs.
pub(crate) struct PhaseCommand<'a> {
    pub command: &'a CommandLine,
    pub env: Vec<(String, String)>,
    /// What must not be written down.
    pub secrets: &'a Mask,
    pub timeout: Duration,
    pub limits: &'a Limits,
    pub log: &'a Path,
}

/// How running a phase's command went.
pub(crate) enum PhaseEnd {
    /// It ended.
    Reported(ExitReport),
    /// It was cancelled; what became of the command is not known.
    Cancelled,
    /// It is long overdue, and the sandbox does not end it.
    Stuck,
    /// Contact was lost.
    Lost(EngineError),
    /// Its log could not be written.
    LogFailed(std::io::Error),
}

/// Runs a phase's command to its end.
pub(crate) async fn run(
    sandbox: &dyn Sandbox,
    phase: PhaseCommand<'_>,
    cancellation: &Cancellation,
) -> PhaseEnd {
    let mut log = match create_log(phase.log).await {
        Ok(file) => Log {
            file,
            redactor: phase.secrets.stream(),
        },
        Err(error) => return PhaseEnd::LogFailed(error),
    };
    let request = ExecRequest {
        argv: phase.command.argv(),
        env: phase.env,
        working_directory: WORKSPACE.to_owned(),
        stdin: false,
        timeout: Some(phase.timeout),
        grace: DEFAULT_GRACE,
        output_limit: phase.limits.output_bytes,
        key: None,
        join: None,
    };
    let overdue = tokio::time::sleep(phase.timeout + DEFAULT_GRACE + OVERDUE);
    let end = tokio::select! {
        end = follow(sandbox, request, &mut log) => end,
        () = cancellation.cancelled() => PhaseEnd::Cancelled,
        () = overdue => PhaseEnd::Stuck,
    };
    match log.finish().await {
        Err(error) => PhaseEnd::LogFailed(error),
        Ok(()) => end,
    }
}

/// Starts the command and writes its output down until it ends.
async fn follow(sandbox: &dyn Sandbox, request: ExecRequest, log: &mut Log) -> PhaseEnd {
    let mut exec = match sandbox.exec(request).await {
        Ok(exec) => exec,
        Err(error) => return PhaseEnd::Lost(error),
    };
    loop {
        let chunk = match exec.output.next().now_or_never() {
            Some(chunk) => chunk,
            None => {
                // Somebody may follow the log: before more is awaited, all there is is in it.
                if let Err(error) = log.file.flush().await {
                    return PhaseEnd::LogFailed(error);
                }
                exec.output.next().await
            }
        };
        let Some(chunk) = chunk else { break };
        if let Err(error) = log.write(&chunk.bytes).await {
            return PhaseEnd::LogFailed(error);
        }
    }
    match exec.exit.await {
        Ok(report) => PhaseEnd::Reported(report),
        Err(error) => PhaseEnd::Lost(error),
    }
}

/// The log of a phase, without secrets.
struct Log {
    file: BufWriter<File>,
    redactor: Redactor,
}

impl Log {
    async fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        if self.redactor.is_idle() {
            return self.file.write_all(bytes).await;
        }
        let clean = self.redactor.push(bytes);
        self.file.write_all(&clean).await
    }

    async fn finish(&mut self) -> std::io::Result<()> {
        let rest = self.redactor.finish();
        self.file.write_all(&rest).await?;
        self.file.flush().await
    }
}

async fn create_log(path: &Path) -> std::io::Result<BufWriter<File>> {
    if let Some(folder) = path.parent() {
        tokio::fs::create_dir_all(folder).await?;
    }
    Ok(BufWriter::with_capacity(
        256 * 1024,
        File::create(path).await?,
    ))
}

/// The outcome of an attempt whose log could not be written.
pub(crate) fn log_failure(path: &Path, error: &std::io::Error) -> Outcome {
    let message = format!("the log {} could not be written: {error}", path.display());
    Outcome::Failed(Failure::new(Reason::InternalError, message))
}

/// Whether an error means that the sandbox itself is gone.
pub(crate) const fn is_contact_lost(error: &EngineError) -> bool {
    matches!(
        error.kind,
        EngineErrorKind::Lost | EngineErrorKind::NotFound | EngineErrorKind::Unavailable
    )
}

/// What PID 1 of a sandbox exits with when its life time has passed.
const LIFETIME_PASSED: i64 = 124;

/// What a lost contact means, asked of the engine itself: it may be gone, or only the sandbox, or
/// the sandbox reached the end of its life.
pub(crate) async fn explain_loss(
    engine: &dyn forge_engine::Engine,
    sandbox: &dyn Sandbox,
    error: &EngineError,
) -> Outcome {
    let described = tokio::time::timeout(Duration::from_secs(5), engine.describe()).await;
    let unreachable = match described {
        Ok(Ok(_)) => None,
        Ok(Err(failure)) => Some(failure::chain(&failure)),
        Err(_) => Some("it does not answer".to_owned()),
    };
    if let Some(why) = unreachable {
        let message = format!("the engine went away while the task ran: {why}");
        return Outcome::Failed(Failure::new(Reason::EngineUnavailable, message));
    }
    Outcome::Failed(match sandbox.condition().await {
        Ok(forge_engine::Condition::Ended {
            code: LIFETIME_PASSED,
            ..
        }) => {
            return Outcome::Timeout(Deadline::Lifetime);
        }
        Ok(forge_engine::Condition::Ended {
            code,
            out_of_memory,
        }) => {
            let message = format!("the sandbox's PID 1 ended with code {code} while the task ran");
            if out_of_memory {
                Failure::new(
                    Reason::OutOfMemory,
                    format!("{message}, for want of memory"),
                )
            } else {
                Failure::new(Reason::Lost, message)
            }
        }
        Ok(forge_engine::Condition::Gone) => {
            Failure::new(Reason::Lost, "the sandbox was removed by somebody else")
        }
        Ok(forge_engine::Condition::Running) | Err(_) => failure::from_engine(error),
    })
}

/// The error for a sandbox that does not end an overdue command.
pub(crate) fn stuck(sandbox: &dyn Sandbox) -> EngineError {
    EngineError::new(
        EngineErrorKind::Lost,
        Operation::Exec,
        sandbox.id().as_str(),
        "a command is overdue and the sandbox does not end it",
    )
}
