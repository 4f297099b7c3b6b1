//! One phase: its command runs, its output goes to its log, its deadline holds.

use std::path::Path;
use std::time::Duration;

use forge_core::exec::{DEFAULT_GRACE, ExecKey, Join};
use forge_core::sandbox::WORKSPACE;
use forge_core::{
    CommandLine, Deadline, ExecRequest, ExitReport, Failure, Limits, Outcome, PhaseName, Reason,
};
use forge_engine::{EngineError, EngineErrorKind, Operation, RunningExec, Sandbox};
use forge_plan::health::Judgement;
use futures::FutureExt;

use crate::context::{Cancellation, Context};
use crate::phase_log::PhaseLog;
use crate::redact::Mask;
use crate::{failure, heartbeat};

/// The sandbox ends a phase at its deadline by itself. It is given this much longer before it is
/// taken to be stuck.
const OVERDUE: Duration = Duration::from_secs(20);

/// What a phase runs.
pub(crate) struct PhaseCommand<'a> {
    pub name: PhaseName,
    pub command: &'a CommandLine,
    pub env: Vec<(String, String)>,
    /// What must not be written down.
    pub secrets: &'a Mask,
    pub timeout: Duration,
    /// How long ago another process began it, where one did.
    pub joined: Option<Duration>,
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

/// Runs a phase's command to its end, or follows one that runs.
pub(crate) async fn run(
    sandbox: &dyn Sandbox,
    phase: PhaseCommand<'_>,
    cancellation: &Cancellation,
    tell: impl FnMut(Judgement),
) -> PhaseEnd {
    let opened = match phase.joined {
        None => PhaseLog::create(phase.log, phase.secrets).await,
        Some(_) => rejoin(phase.log, phase.secrets).await,
    };
    let mut log = match opened {
        Ok(log) => log,
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
        key: Some(key(phase.name)),
        join: phase.joined.map(|_| Join {
            output_from: log.taken(),
            // It was announced before it was started: it may never have been.
            may_start: log.taken() == 0,
        }),
    };
    let left = phase
        .timeout
        .saturating_sub(phase.joined.unwrap_or_default());
    let overdue = tokio::time::sleep(left + DEFAULT_GRACE + OVERDUE);
    let end = tokio::select! {
        end = follow(sandbox, request, &mut log) => end,
        () = cancellation.cancelled() => PhaseEnd::Cancelled,
        () = overdue => PhaseEnd::Stuck,
        gone = heartbeat::beat(sandbox, tell) => PhaseEnd::Lost(gone),
    };
    match log.finish().await {
        Err(error) => PhaseEnd::LogFailed(error),
        Ok(()) => end,
    }
}

/// The number of a phase's command in its sandbox.
fn key(phase: PhaseName) -> ExecKey {
    ExecKey(match phase {
        PhaseName::Setup => 1,
        PhaseName::Solve => 2,
        PhaseName::Verify => 3,
    })
}

/// The log that another process began, or a new one where it did not come to that.
async fn rejoin(log: &Path, secrets: &Mask) -> std::io::Result<PhaseLog> {
    match PhaseLog::reopen(log, secrets).await {
        Err(error) if is_unbegun(&error) => PhaseLog::create(log, secrets).await,
        opened => opened,
    }
}

/// Whether a log is not there, or its mark was not written for the first time.
fn is_unbegun(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{NotFound, UnexpectedEof};
    matches!(error.kind(), NotFound | UnexpectedEof)
}

/// Starts the command and writes its output down until it ends.
async fn follow(sandbox: &dyn Sandbox, request: ExecRequest, log: &mut PhaseLog) -> PhaseEnd {
    let mut exec = match sandbox.exec(request).await {
        Ok(exec) => exec,
        Err(error) => return PhaseEnd::Lost(error),
    };
    loop {
        let chunk = match exec.output.next().now_or_never() {
            Some(chunk) => chunk,
            None => {
                // Somebody may follow the log: before more is awaited, all there is is in it.
                if let Err(error) = write_down(log, &mut exec).await {
                    return PhaseEnd::LogFailed(error);
                }
                exec.output.next().await
            }
        };
        let Some(chunk) = chunk else { break };
        if log.push(&chunk.bytes)
            && let Err(error) = write_down(log, &mut exec).await
        {
            return PhaseEnd::LogFailed(error);
        }
    }
    match exec.exit.await {
        Ok(report) => PhaseEnd::Reported(report),
        Err(error) => PhaseEnd::Lost(error),
    }
}

/// Writes down what came, and lets the sandbox forget it.
async fn write_down(log: &mut PhaseLog, exec: &mut RunningExec) -> std::io::Result<()> {
    let safe = log.flush().await?;
    exec.output.acknowledge(safe);
    Ok(())
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
    context: &Context,
    sandbox: &dyn Sandbox,
    error: &EngineError,
) -> Outcome {
    let described = tokio::time::timeout(Duration::from_secs(5), context.engine.describe()).await;
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
            if out_of_memory || context.observed.was_out_of_memory(sandbox.id()) {
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
        Ok(forge_engine::Condition::Running | forge_engine::Condition::Paused) | Err(_) => {
            failure::from_engine(error)
        }
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
