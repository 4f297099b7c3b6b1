//! One phase: its command runs, its output goes to its log, its deadline holds.

use std::path::Path;
use std::time::Duration;

use forge_core::exec::DEFAULT_GRACE;
use forge_core::sandbox::WORKSPACE;
use forge_core::{CommandLine, ExecRequest, ExitReport, Failure, Limits, Outcome, Reason};
use forge_engine::{EngineError, EngineErrorKind, Operation, Sandbox};
use futures::FutureExt;
use tokio::fs::File;
use tokio::io::{AsyncWriteExt, BufWriter};

use crate::context::Cancellation;
use crate::failure;

/// The sandbox ends a phase at its deadline by itself. It is given this much longer before it is
/// taken to be stuck.
const OVERDUE: Duration = Duration::from_secs(20);

/// What a phase runs.
pub(crate) struct PhaseCommand<'a> {
    pub command: &'a CommandLine,
    pub env: Vec<(String, String)>,
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
}

/// Runs a phase's command to its end.
///
/// # Errors
/// The outcome of the attempt when the log cannot be written.
pub(crate) async fn run(
    sandbox: &dyn Sandbox,
    phase: PhaseCommand<'_>,
    cancellation: &Cancellation,
) -> Result<PhaseEnd, Outcome> {
    let mut log = create_log(phase.log)
        .await
        .map_err(|error| log_failure(phase.log, &error))?;
    let request = ExecRequest {
        argv: phase.command.argv(),
        env: phase.env,
        working_directory: WORKSPACE.to_owned(),
        stdin: false,
        timeout: Some(phase.timeout),
        grace: DEFAULT_GRACE,
        output_limit: phase.limits.output_bytes,
    };
    let overdue = tokio::time::sleep(phase.timeout + DEFAULT_GRACE + OVERDUE);
    let running = async {
        let mut exec = match sandbox.exec(request).await {
            Ok(exec) => exec,
            Err(error) => return Ok(PhaseEnd::Lost(error)),
        };
        loop {
            let chunk = match exec.output.next().now_or_never() {
                Some(chunk) => chunk,
                None => {
                    // Somebody may follow the log: before more is awaited, all there is is in it.
                    let flushed = log.flush().await;
                    flushed.map_err(|error| log_failure(phase.log, &error))?;
                    exec.output.next().await
                }
            };
            let Some(chunk) = chunk else { break };
            let written = log.write_all(&chunk.bytes).await;
            written.map_err(|error| log_failure(phase.log, &error))?;
        }
        log.flush()
            .await
            .map_err(|error| log_failure(phase.log, &error))?;
        Ok(match exec.exit.await {
            Ok(report) => PhaseEnd::Reported(report),
            Err(error) => PhaseEnd::Lost(error),
        })
    };
    let end = tokio::select! {
        end = running => end?,
        () = cancellation.cancelled() => PhaseEnd::Cancelled,
        () = overdue => PhaseEnd::Stuck,
    };
    log.flush()
        .await
        .map_err(|error| log_failure(phase.log, &error))?;
    Ok(end)
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

fn log_failure(path: &Path, error: &std::io::Error) -> Outcome {
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

/// What a lost contact means, asked of the engine itself: it may be gone, or only the sandbox.
pub(crate) async fn explain_loss(
    engine: &dyn forge_engine::Engine,
    sandbox: &dyn Sandbox,
    error: &EngineError,
) -> Failure {
    let described = tokio::time::timeout(Duration::from_secs(5), engine.describe()).await;
    let unreachable = match described {
        Ok(Ok(_)) => None,
        Ok(Err(failure)) => Some(failure::chain(&failure)),
        Err(_) => Some("it does not answer".to_owned()),
    };
    if let Some(why) = unreachable {
        let message = format!("the engine went away while the task ran: {why}");
        return Failure::new(Reason::EngineUnavailable, message);
    }
    match sandbox.condition().await {
        Ok(forge_engine::Condition::Ended {
            code,
            out_of_memory,
        }) => {
            let memory = if out_of_memory {
                ", after an out-of-memory kill"
            } else {
                ""
            };
            let message =
                format!("the sandbox's PID 1 ended with code {code}{memory} while the task ran");
            Failure::new(Reason::Lost, message)
        }
        Ok(forge_engine::Condition::Gone) => {
            Failure::new(Reason::Lost, "the sandbox was removed by somebody else")
        }
        Ok(forge_engine::Condition::Running) | Err(_) => failure::from_engine(error),
    }
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
