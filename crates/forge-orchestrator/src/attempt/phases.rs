//! Setup, solve, the change to verification, verify.

use std::sync::Arc;
use std::time::{Duration, Instant};

use forge_api::report::{Exit, PhaseReport};
use forge_core::sandbox::SOLUTION;
use forge_core::task::VerifyContainer;
use forge_core::{
    CommandLine, DiskQuota, Ending, ExitReport, Failure, Outcome, PhaseName, Reason, Role,
};
use forge_engine::{EngineError, EngineErrorKind, Operation, PreparedImage, Sandbox};
use forge_plan::judge::judge;
use jiff::Timestamp;

use super::{Attempt, Begun};
use crate::agent::Agent;
use crate::context::News;
use crate::events::RunEvent;
use crate::failure;
use crate::phase::{self, PhaseCommand, PhaseEnd};
use crate::phase_log;

impl Attempt<'_> {
    pub(super) async fn setup(
        &mut self,
        command: &CommandLine,
        sandbox: &dyn Sandbox,
        image: &PreparedImage,
    ) -> Result<(), Outcome> {
        self.phase(PhaseName::Setup, command, sandbox, image).await
    }

    pub(super) async fn solve(
        &mut self,
        sandbox: &dyn Sandbox,
        image: &PreparedImage,
    ) -> Result<(), Outcome> {
        let command = self
            .job
            .agent
            .command(self.task())
            .map_err(Outcome::Failed)?;
        let Some(command) = command else {
            return Ok(());
        };
        if self.job.agent == Agent::Oracle && !self.has_begun(PhaseName::Solve) {
            self.upload_solution(sandbox).await?;
        }
        self.phase(PhaseName::Solve, &command, sandbox, image)
            .await?;
        if self.job.agent == Agent::Oracle {
            // Verification must not find the reference solution lying about.
            self.kill(sandbox).await?;
            if let Err(error) = sandbox.remove(SOLUTION).await {
                return Err(self.unusable(sandbox, &error).await);
            }
        }
        Ok(())
    }

    /// Ends every process of the solve phase, sees it dead, and gives the sandbox for verify.
    pub(super) async fn change_to_verification(
        &mut self,
        sandbox: Arc<dyn Sandbox>,
        image: &PreparedImage,
    ) -> Result<Arc<dyn Sandbox>, Outcome> {
        self.kill(&*sandbox).await?;
        self.check_cancelled()?;
        match self.task().verify_container {
            VerifyContainer::Same => {
                if self.task().tests.is_none() {
                    self.clear_tests(&*sandbox).await?;
                } else if self.tests_wait_for_verify() {
                    self.put_tests(image).await?;
                }
                Ok(sandbox)
            }
            VerifyContainer::Fresh => {
                self.clear_tests(&*sandbox).await?;
                self.retire_current().await;
                self.make_sandbox(image, Role::Verify).await
            }
        }
    }

    pub(super) async fn verify(
        &mut self,
        sandbox: &dyn Sandbox,
        image: &PreparedImage,
    ) -> Result<(), Outcome> {
        let command = &self.task().verify;
        self.phase(PhaseName::Verify, command, sandbox, image).await
    }

    pub(super) async fn kill(&self, sandbox: &dyn Sandbox) -> Result<(), Outcome> {
        match sandbox.kill_all().await {
            Ok(0) => Ok(()),
            Ok(survivors) => {
                let message =
                    format!("{survivors} process(es) of the last phase could not be ended");
                Err(Outcome::Failed(Failure::new(Reason::KillFailed, message)))
            }
            Err(error) => Err(self.lost(sandbox, &error).await),
        }
    }

    /// Ends what a phase left running where it has a network: it would go on trying hosts after the
    /// records of the phase are taken. Whether it is in the way of what comes next is seen there.
    async fn end_connecting(&mut self, phase: PhaseName, sandbox: &dyn Sandbox) {
        if sandbox.egress().is_none() {
            return;
        }
        let why = match sandbox.kill_all().await {
            Ok(0) => return,
            Ok(survivors) => format!("{survivors} process(es) could not be ended"),
            Err(error) => failure::chain(&error),
        };
        self.notes.push(format!(
            "what {phase} left running may have gone on after it: {why}"
        ));
    }

    /// Whether another process began this phase.
    fn has_begun(&self, phase: PhaseName) -> bool {
        self.is_adopted && self.begun.is_some_and(|begun| begun.phase == phase)
    }

    /// Runs one phase to its end, or joins it, and judges it. What is decided is recorded before
    /// anything follows from it.
    async fn phase(
        &mut self,
        name: PhaseName,
        command: &CommandLine,
        sandbox: &dyn Sandbox,
        image: &PreparedImage,
    ) -> Result<(), Outcome> {
        if self.phases.iter().any(|phase| phase.name == name) {
            return Ok(());
        }
        self.check_cancelled()?;
        self.set_level(name, sandbox).await?;
        let id = self.job.id.clone();
        self.context.events.send(RunEvent::Phase {
            id: id.clone(),
            phase: name,
        });
        let joined = self.begin_phase(name).await?;
        let log = self.context.layout.log(&id, name);
        let command = PhaseCommand {
            name,
            command,
            env: self.environment(name, image),
            secrets: &self.mask,
            timeout: self.budget.left(name),
            joined,
            limits: &self.limits,
            log: &log,
        };
        let began = Instant::now();
        let (context, number) = (self.context, self.job.number);
        let tell = |judgement| {
            // Nobody listens any more when the run is over.
            context.news.send(News::Health { number, judgement }).ok();
        };
        let end = phase::run(sandbox, command, &self.control.cancellation, tell).await;
        let elapsed = began.elapsed() + joined.unwrap_or_default();
        let result = self.conclude_phase(name, sandbox, end, elapsed).await;
        self.outcome = match &result {
            Err(outcome) => Some(self.mask.outcome(outcome.clone())),
            Ok(()) if name == PhaseName::Verify => Some(Outcome::Completed),
            Ok(()) => None,
        };
        self.save().await?;
        if let Err(error) = phase_log::remove_mark(&log).await {
            self.notes.push(format!(
                "the mark of the log {} is left: {error}",
                log.display()
            ));
        }
        result
    }

    /// Records that a phase begins, before anything of it does. Where another process began it:
    /// how long ago.
    async fn begin_phase(&mut self, phase: PhaseName) -> Result<Option<Duration>, Outcome> {
        let now = Timestamp::now();
        if let Some(begun) = self.begun.filter(|_| self.has_begun(phase)) {
            let ago = now.duration_since(begun.at);
            return Ok(Some(ago.try_into().unwrap_or_default()));
        }
        self.record_phase_begin(phase).await;
        self.begun = Some(Begun { phase, at: now });
        self.save().await?;
        Ok(None)
    }

    /// What the end of a phase means, with everything about it noted.
    async fn conclude_phase(
        &mut self,
        name: PhaseName,
        sandbox: &dyn Sandbox,
        end: PhaseEnd,
        elapsed: Duration,
    ) -> Result<(), Outcome> {
        let log = self.context.layout.log(&self.job.id, name);
        let used = match &end {
            // Nobody watched all of it.
            PhaseEnd::Reported(report) if self.has_begun(name) => report.duration,
            _ => elapsed,
        };
        self.budget = self.budget.after(name, used);
        match end {
            PhaseEnd::Reported(report) => {
                self.end_connecting(name, sandbox).await;
                let noted = self.note_connections(name, sandbox).await;
                self.keep_phase(name, Exit::from(&report.ending), report.duration, &report)
                    .await;
                let disk_full = report.ending != Ending::Exited(0) && disk_was_full(sandbox).await;
                let judged = judge(name, &report, disk_full);
                if let (Some(_), Err(unknown)) = (&judged, &noted) {
                    self.note_unknown_connections(name, unknown);
                }
                self.network.conclude(name, judged, noted)
            }
            PhaseEnd::Cancelled => {
                self.note_what_can_be_had(name, sandbox).await;
                self.keep_phase(name, Exit::Killed, elapsed, &unknown())
                    .await;
                Err(super::cancellation())
            }
            PhaseEnd::Stuck => {
                self.note_what_can_be_had(name, sandbox).await;
                self.keep_phase(name, Exit::Lost, elapsed, &unknown()).await;
                // It would not answer questions about artifacts and counters either.
                self.current = None;
                Err(Outcome::Failed(failure::from_engine(&phase::stuck(
                    sandbox,
                ))))
            }
            PhaseEnd::Lost(error) => {
                self.note_what_can_be_had(name, sandbox).await;
                self.keep_phase(name, Exit::Lost, elapsed, &unknown()).await;
                self.current = None;
                Err(self.lost(sandbox, &error).await)
            }
            PhaseEnd::LogFailed(error) => {
                self.note_what_can_be_had(name, sandbox).await;
                self.keep_phase(name, Exit::Lost, elapsed, &unknown()).await;
                Err(phase::log_failure(&log, &error))
            }
        }
    }

    /// The outcome when the sandbox failed: it may be gone, or have reached the end of its life.
    pub(super) async fn lost(&self, sandbox: &dyn Sandbox, error: &EngineError) -> Outcome {
        if phase::is_contact_lost(error) {
            phase::explain_loss(self.context, sandbox, error).await
        } else {
            Outcome::Failed(failure::from_engine(error))
        }
    }

    /// The outcome when files cannot be put in place after the task's turn. What it left there is
    /// its own doing: an agent that is about to fail must not get away without a verdict.
    pub(super) async fn unusable(&self, sandbox: &dyn Sandbox, error: &EngineError) -> Outcome {
        if self.is_workspace_full(sandbox, error).await {
            let message = format!(
                "the workspace was full when it was handed over: {}",
                failure::chain(error)
            );
            return Outcome::Failed(Failure::new(Reason::DiskFull, message));
        }
        if is_of_the_task(error) {
            let message = format!(
                "the task goes no further with what it left there: {}",
                failure::chain(error)
            );
            return Outcome::Failed(Failure::new(Reason::WorkspaceUnusable, message));
        }
        self.lost(sandbox, error).await
    }

    /// Whether files found no room because the workspace itself has none, and not what is under it.
    pub(super) async fn is_workspace_full(
        &self,
        sandbox: &dyn Sandbox,
        error: &EngineError,
    ) -> bool {
        if (error.kind, error.operation) != (EngineErrorKind::Exhausted, Operation::Put) {
            return false;
        }
        // A file system of its own has no other limit than its size. On one that is shared, the
        // sandbox in which it was filled saw it, and that is not always the one that is asked now.
        self.disk_quota == Some(DiskQuota::Loop)
            || self.usage.disk_full
            || disk_was_full(sandbox).await
    }

    async fn keep_phase(
        &mut self,
        name: PhaseName,
        exit: Exit,
        duration: Duration,
        report: &ExitReport,
    ) {
        let log = self.context.layout.log(&self.job.id, name);
        let output_bytes = tokio::fs::metadata(&log)
            .await
            .map_or(0, |metadata| metadata.len());
        let kept = PhaseReport {
            name,
            network: self.network.level(name),
            exit,
            duration_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
            output: super::ending::log_name(&self.job.id, name),
            output_bytes,
            truncated: report.truncated,
        };
        self.record_phase_end(&kept, &log).await;
        self.phases.push(kept);
    }
}

/// Whether what was refused is the task's doing, and not the engine's or the machine's.
const fn is_of_the_task(error: &EngineError) -> bool {
    use EngineErrorKind::{Corrupt, Internal, Rejected};
    match error.operation {
        // What setup broke is refused; anything else is how an engine fails by itself.
        Operation::Snapshot => matches!(error.kind, Rejected),
        // The channel to PID 1, which no task has a hand in.
        Operation::Open => false,
        _ => matches!(error.kind, Rejected | Corrupt | Internal),
    }
}

/// Whether the workspace was full at some time. A sandbox that does not say explains nothing.
async fn disk_was_full(sandbox: &dyn Sandbox) -> bool {
    sandbox.usage().await.is_ok_and(|usage| usage.disk_full)
}

/// Stands in for the report of a command whose end was never learnt.
fn unknown() -> ExitReport {
    ExitReport {
        ending: Ending::Killed,
        output_bytes: 0,
        truncated: true,
        oom_kills: 0,
        pids_refused: 0,
        duration: Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_that_cannot_be_had_again_is_no_doing_of_the_task() {
        let error = |operation, kind| EngineError::new(kind, operation, "t", "no");
        for kind in [
            EngineErrorKind::Rejected,
            EngineErrorKind::Corrupt,
            EngineErrorKind::Internal,
        ] {
            assert!(!is_of_the_task(&error(Operation::Open, kind)), "{kind:?}");
            assert!(is_of_the_task(&error(Operation::Put, kind)), "{kind:?}");
        }
    }
}
