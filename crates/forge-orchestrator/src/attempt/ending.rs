//! The end of an attempt: artifacts, final state, a time to look at what is left, clean-up, report.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use forge_api::report::{ArtifactReport, ImageReport, LimitsReport, TaskReport};
use forge_core::sandbox::{OUTPUT, WORKSPACE};
use forge_core::{Cause, Limits, Outcome, PhaseName, Reason, Role, SandboxId, State, Transition};
use forge_engine::{EngineError, Sandbox};
use forge_store::ArtifactRecord;
use jiff::Timestamp;

use super::Attempt;
use crate::collect::{self, CollectError, Taken};
use crate::context::News;
use crate::layout::RunLayout;
use crate::{cleanup, failure};

impl Attempt<'_> {
    /// From the outcome on: final state, a time to look at it, clean-up, report.
    pub(super) async fn finish(mut self, outcome: Outcome) -> TaskReport {
        let outcome = self.mask.outcome(outcome);
        if self.context.superseded.is_cancelled() {
            return self.report(&outcome, Timestamp::now());
        }
        self.decide(&outcome).await;
        let (outcome, report) = self.end(outcome).await;
        self.linger(&outcome, &report).await;
        self.settle(&outcome, report).await
    }

    /// From the final state on: clean-up, and the report with what came of it.
    pub(super) async fn settle(mut self, outcome: &Outcome, mut report: TaskReport) -> TaskReport {
        let told = self.notes.len();
        report.cleanup_ended_at = self.clean_up(outcome).await;
        self.note_settled(&mut report, told);
        self.record_report(&report, true).await;
        // Of that record itself, for whoever reads the report.
        self.note_settled(&mut report, told);
        report
    }

    fn note_settled(&mut self, report: &mut TaskReport, told: usize) {
        let notes: Vec<String> = self.notes.drain(told..).collect();
        let notes = notes.into_iter().map(|note| self.mask.text(note));
        report.notes.extend(notes);
    }

    /// Fixes the outcome: artifacts and counters are collected, the report and the final state are
    /// recorded.
    async fn end(&mut self, mut outcome: Outcome) -> (Outcome, TaskReport) {
        if outcome.reason() != Some(Reason::Cancelled) {
            self.end_processes().await;
            let cancellation = self.control.cancellation.clone();
            tokio::select! {
                () = self.collect_artifacts(&outcome) => {}
                () = cancellation.cancelled() => {
                    self.notes.push("the artifacts are incomplete: the run was cancelled".to_owned());
                }
            }
        }
        self.retire_current().await;
        let ended_at = Timestamp::now();
        // Before the state that tells of an end, so that whoever finds that finds this as well.
        let report = self.report(&outcome, ended_at);
        self.record_report(&report, false).await;
        if let Err(broken) = self.advance(end_of(&outcome)).await {
            self.note_unrecorded(&broken);
            if outcome == Outcome::Completed {
                outcome = broken;
            }
            // Once more: without an end, the record would tell for ever that it runs.
            if let Err(broken) = self.advance(end_of(&outcome)).await {
                self.note_unrecorded(&broken);
            }
        }
        self.record_results().await;
        let report = self.report(&outcome, ended_at);
        (outcome, report)
    }

    pub(super) fn note_unrecorded(&mut self, broken: &Outcome) {
        let note = format!("the record is incomplete: {}", broken.message());
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// Reads the counters of the current sandbox for the last time.
    pub(super) async fn retire_current(&mut self) {
        let Some(sandbox) = self.current.take() else {
            return;
        };
        match sandbox.usage().await {
            Ok(usage) => self.usage = self.usage.followed_by(usage),
            Err(error) => self.notes.push(format!(
                "the counters of {} could not be read: {}",
                sandbox.id(),
                failure::chain(&error)
            )),
        }
    }

    /// What the last phase left running must not change artifacts while they are collected.
    async fn end_processes(&mut self) {
        let Some(sandbox) = self.current.clone() else {
            return;
        };
        if let Err(error) = sandbox.kill_all().await {
            self.notes.push(format!(
                "the sandbox did not end its processes: {}",
                failure::chain(&error)
            ));
            self.current = None;
        }
    }

    async fn collect_artifacts(&mut self, outcome: &Outcome) {
        if !self.cleanup.preserve_artifacts {
            return;
        }
        let Some(sandbox) = self.sandbox_with_artifacts(outcome).await else {
            return;
        };
        let output = Path::new("output");
        let mut taken = Taken::default();
        self.collect_path(&*sandbox, output, &mut taken).await;
        let wanted = &self.task().artifacts;
        for path in wanted.iter().map(Path::new) {
            // What lies in a folder that is collected anyway came with it.
            let covered = path.starts_with(output)
                || wanted
                    .iter()
                    .any(|other| path != Path::new(other) && path.starts_with(other));
            if !covered {
                self.collect_path(&*sandbox, path, &mut taken).await;
            }
        }
    }

    /// The sandbox that artifacts are taken from. Where the last one was lost after the verdict, the
    /// workspace is still there, and another one is made on it.
    async fn sandbox_with_artifacts(&mut self, outcome: &Outcome) -> Option<Arc<dyn Sandbox>> {
        if self.current.is_some() {
            return self.current.clone();
        }
        let is_verdict = outcome.cause().is_none_or(|cause| cause == Cause::Task);
        let image = self.snapshot.clone().or_else(|| self.image.clone());
        let image = image.filter(|_| is_verdict && self.begun.is_some())?;
        match self.make_sandbox(&image, Role::Artifacts).await {
            Ok(sandbox) => Some(sandbox),
            Err(outcome) => {
                self.notes.push(format!(
                    "the artifacts were not collected: {}",
                    outcome.message()
                ));
                None
            }
        }
    }

    async fn collect_path(&mut self, sandbox: &dyn Sandbox, name: &Path, taken: &mut Taken) {
        let source = format!("{WORKSPACE}/{}", name.display());
        let artifacts = self.context.layout.artifacts(&self.job.id);
        let target = artifacts.join(name);
        let (collected, ended) =
            collect::collect(sandbox, &source, &target, self.mask.clone(), taken).await;
        match ended {
            Ok(()) => {}
            Err(CollectError::Sandbox(error)) if is_missing(&error) => {
                if source != OUTPUT {
                    self.notes
                        .push(format!("there is no artifact {}", name.display()));
                }
            }
            Err(error) => self.notes.push(format!(
                "artifact {} was not collected whole: {}",
                collect::show(name),
                failure::chain(&error)
            )),
        }
        let attempt = RunLayout::attempt_relative(&self.job.id);
        let mut records = Vec::with_capacity(collected.kept.len());
        for kept in collected.kept {
            let path: PathBuf = name.components().chain(kept.path.components()).collect();
            let file = attempt.join("artifacts").join(&path);
            self.artifacts.push(ArtifactReport {
                path: collect::show(&path),
                file: collect::show(&file),
                size_bytes: kept.size_bytes,
            });
            records.push(ArtifactRecord {
                relative_path: path,
                size_bytes: kept.size_bytes,
                kind: "file".to_owned(),
                stored_path: kept.stored,
            });
        }
        self.notes.extend(collected.notes);
        let recorded = self
            .context
            .store
            .add_artifacts(&self.job.id, &records)
            .await;
        self.note_record(recorded);
    }

    /// Keeps what the attempt made for a while, for whoever wants to look at it; less where its room
    /// is wanted.
    async fn linger(&mut self, outcome: &Outcome, report: &TaskReport) {
        let policy = self.cleanup;
        let removed = !self.context.keep && cleanup::wanted(&policy, outcome);
        let reason = outcome.reason();
        let is_verdict =
            reason.is_none_or(|reason| reason != Reason::Cancelled && !reason.is_retried());
        let window = policy.window();
        if !removed || !is_verdict || self.sandboxes.is_empty() || window.is_zero() {
            return;
        }
        let news = News::Lingers {
            number: self.job.number,
            firm: policy.holds_the_run(),
            report: Box::new(report.clone()),
        };
        if self.context.news.send(news).is_err() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(window) => {}
            () = self.control.release.cancelled() => {}
            () = self.control.cancellation.cancelled() => {}
        }
    }

    /// Removes what was made, unless it shall be kept; returns when everything was gone.
    async fn clean_up(&mut self, outcome: &Outcome) -> Option<Timestamp> {
        if self.context.superseded.is_cancelled() {
            return None;
        }
        let keep = self.context.keep || !cleanup::wanted(&self.cleanup, outcome);
        if keep {
            if !self.sandboxes.is_empty() || self.workspace.is_some() {
                self.notes.push(
                    "containers and volumes were kept; `swe-forge gc` removes them".to_owned(),
                );
            }
            return None;
        }
        if !self.cleanup.preserve_logs {
            self.remove_logs().await;
        }
        // A transition that fails leaves a note above already; the removal goes on regardless.
        if !matches!(self.state, State::Cleanup(_))
            && let Err(broken) = self.advance(Transition::CleanUp).await
        {
            self.note_unrecorded(&broken);
        }
        // What another process has taken over is not ours to remove.
        if self.context.superseded.is_cancelled() {
            return None;
        }
        // The process that was ended may have had another one made, which is found by its label.
        let was_interrupted = self.is_adopted || self.job.is_stale;
        let snapshot = self.snapshot.as_ref().filter(|_| !was_interrupted);
        let left = cleanup::remove_all(
            &*self.context.engine,
            &self.context.owner,
            &self.sandboxes,
            self.workspace.as_ref(),
            snapshot,
        )
        .await;
        if !left.is_empty() {
            self.notes.extend(left);
            return None;
        }
        let now = Timestamp::now();
        self.record_removed(now).await;
        Some(now)
    }

    async fn remove_logs(&mut self) {
        let logs = self.phases.iter();
        let logs = logs.map(|phase| self.context.layout.log(&self.job.id, phase.name));
        let connections = self.context.layout.connections(&self.job.id);
        for log in logs.chain([connections]).collect::<Vec<_>>() {
            match tokio::fs::remove_file(&log).await {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    self.notes
                        .push(format!("{} was not removed: {error}", log.display()));
                }
            }
        }
    }

    /// Everything about the attempt as far as it is known, without the clean-up.
    fn report(&self, outcome: &Outcome, ended_at: Timestamp) -> TaskReport {
        let notes = self.notes.iter().cloned().chain(self.network.summary(None));
        let notes = notes.map(|note| self.mask.text(note)).collect();
        let task = self.task();
        let agent_command = self.job.agent.command(task).ok().flatten();
        let agent_command = agent_command.map(|command| {
            let words = command.argv().into_iter();
            words.map(|word| self.mask.text(word)).collect()
        });
        let log = RunLayout::connections_relative(&self.job.id);
        let logged = self.context.layout.connections(&self.job.id).exists();
        let network = self
            .network
            .report(logged.then(|| log.display().to_string()));
        TaskReport {
            task_id: task.id.to_string(),
            id: self.job.id.to_string(),
            attempt: self.job.repetition,
            agent: self.job.agent.name().to_owned(),
            agent_command,
            title: task.title.clone(),
            difficulty: task.difficulty,
            state: match outcome {
                Outcome::Completed => forge_core::life_cycle::StateName::Completed,
                Outcome::Failed(_) => forge_core::life_cycle::StateName::Failed,
                Outcome::Timeout(_) => forge_core::life_cycle::StateName::Timeout,
            },
            reason: outcome.reason(),
            cause: outcome.cause(),
            deadline: match outcome {
                Outcome::Timeout(deadline) => Some(*deadline),
                _ => None,
            },
            message: outcome.message(),
            started_at: self.started_at,
            ended_at,
            cleanup_ended_at: None,
            image: ImageReport {
                reference: task.image.reference().to_owned(),
                digest: self.image.as_ref().map(|image| image.digest.clone()),
            },
            limits: limits_report(&self.limits),
            phases: self.phases.clone(),
            resources: self.usage,
            disk_quota: self.disk_quota,
            network,
            attestation: self
                .attestation
                .as_ref()
                .map(|(_, attestation)| attestation.clone()),
            artifacts: self.artifacts.clone(),
            notes,
            earlier: Vec::new(),
        }
    }
}

pub(super) fn end_of(outcome: &Outcome) -> Transition {
    match outcome {
        Outcome::Completed => Transition::Complete,
        Outcome::Failed(failure) => Transition::Fail(failure.clone()),
        Outcome::Timeout(deadline) => Transition::TimeOut(*deadline),
    }
}

fn is_missing(error: &EngineError) -> bool {
    error.kind == forge_engine::EngineErrorKind::NotFound
}

const fn limits_report(limits: &Limits) -> LimitsReport {
    LimitsReport {
        memory_bytes: limits.memory_bytes,
        cpu_millis: limits.cpu_millis,
        disk_bytes: limits.disk_bytes,
        processes: limits.processes,
        timeout_seconds: limits.timeout.as_secs(),
        verify_timeout_seconds: limits.verify_timeout.as_secs(),
    }
}

/// The log of `phase`, relative to the report.
pub(super) fn log_name(id: &SandboxId, phase: PhaseName) -> String {
    RunLayout::attempt_relative(id)
        .join(format!("{phase}.log"))
        .display()
        .to_string()
}
