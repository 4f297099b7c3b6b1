//! The way of one attempt: accepted, made, run, judged, cleaned up, reported.
//!
//! An [`Attempt`] owns the state of one attempt. Its steps return the outcome as an error the
//! moment it is decided, so that every early end takes the same way through clean-up.

mod environment;
mod make;
mod network;
mod phases;
mod record;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use forge_api::report::{ArtifactReport, ImageReport, LimitsReport, PhaseReport, TaskReport};
use forge_core::sandbox::{OUTPUT, WORKSPACE};
use forge_core::{
    Attestation, DiskQuota, Failure, Limits, Outcome, Ownership, PhaseName, Profile, Reason,
    ResourceUsage, SandboxId, State, Task, Transition, UserId,
};
use forge_engine::{EngineError, PreparedImage, Sandbox};
use forge_plan::budget::Budget;
use forge_store::{ArtifactRecord, ObjectKind};
use jiff::{SignedDuration, Timestamp};

use crate::cleanup;
use crate::collect::{self, CollectError, Taken};
use crate::context::{Context, Job};
use crate::events::RunEvent;
use crate::failure;
use crate::layout::RunLayout;
use crate::operator::SecretValue;
use crate::placement::Placed;
use crate::redact::Mask;
use network::Network;

/// Objects that nobody removed may be removed by anyone after this long.
const EXPIRY: SignedDuration = SignedDuration::from_hours(24);

/// Part of the id of the container of a fresh verification.
const VERIFY: &str = "verify";
/// Part of the id of the container of setup.
pub(crate) const SETUP: &str = "setup";

/// One attempt while it is made.
pub(crate) struct Attempt<'a> {
    context: &'a Context,
    job: &'a Job,
    user: UserId,
    limits: Limits,
    /// The cores that its sandboxes are kept to, one after the other.
    placed: Option<Placed>,
    budget: Budget,
    ownership: Ownership,
    state: State,
    image: Option<PreparedImage>,
    /// Ids announced to the engine, whether or not they came to be.
    sandboxes: Vec<SandboxId>,
    workspace: Option<SandboxId>,
    /// The image of what setup changed.
    snapshot: Option<PreparedImage>,
    disk_quota: Option<DiskQuota>,
    network: Network,
    /// The values of the task's secrets, by their names, or why one is not to be had.
    secrets: BTreeMap<String, Result<SecretValue, Failure>>,
    /// Takes them out of what is written down and told.
    mask: Mask,
    current: Option<Arc<dyn Sandbox>>,
    /// What sandboxes used that are done with.
    usage: ResourceUsage,
    attestation: Option<(Profile, Attestation)>,
    phases: Vec<PhaseReport>,
    artifacts: Vec<ArtifactReport>,
    notes: Vec<String>,
    started_at: Timestamp,
}

/// Makes the attempt of `job` in concurrent slot `slot`, from acceptance to clean-up.
pub(crate) async fn run(context: &Context, job: &Job, slot: u16) -> TaskReport {
    let now = Timestamp::now();
    let mut attempt = Attempt::new(context, job, slot, now);
    context.events.send(RunEvent::Started {
        id: job.id.clone(),
        task: job.task.id.clone(),
        agent: job.agent.name(),
    });
    let outcome = attempt.work().await.err().unwrap_or(Outcome::Completed);
    attempt.finish(outcome).await
}

/// The report of a job that never started because the run was cancelled.
pub(crate) async fn cancelled(context: &Context, job: &Job) -> TaskReport {
    Attempt::new(context, job, 0, Timestamp::now())
        .finish(cancellation())
        .await
}

/// The report of a job that can never start, and why.
pub(crate) async fn refused(context: &Context, job: &Job, why: String) -> TaskReport {
    let outcome = Outcome::Failed(Failure::new(Reason::NotPermitted, why));
    Attempt::new(context, job, 0, Timestamp::now())
        .finish(outcome)
        .await
}

/// The report of a job whose task panicked; whatever it may have made is removed.
pub(crate) async fn broken(context: &Context, job: &Job) -> TaskReport {
    let message = "a fault of swe-forge itself ended the attempt; see the log";
    let outcome = Outcome::Failed(Failure::new(Reason::InternalError, message));
    let mut attempt = Attempt::new(context, job, 0, Timestamp::now());
    attempt.take_up_record().await;
    attempt.finish(outcome).await
}

fn cancellation() -> Outcome {
    Outcome::Failed(Failure::new(Reason::Cancelled, "the run was cancelled"))
}

impl<'a> Attempt<'a> {
    fn new(context: &'a Context, job: &'a Job, slot: u16, now: Timestamp) -> Self {
        let task = &*job.task;
        let (limits, clamped) = task.limits.clamped_to_cores(context.cores);
        let mut notes = Vec::new();
        if clamped {
            notes.push(format!(
                "the CPU quota was clamped to the {} cores of the engine's machine",
                context.cores
            ));
        }
        let expires_at = now.checked_add(EXPIRY).unwrap_or(Timestamp::MAX);
        // Read once, and before anything can fail: whatever is told of the attempt goes through it.
        let secrets = environment::secrets(task, &*context.operator);
        let mask = Mask::new(secrets.values().flatten().map(SecretValue::expose));
        Self {
            context,
            job,
            user: task
                .user
                .unwrap_or(UserId::for_slot(context.first_slot.wrapping_add(slot))),
            limits,
            placed: None,
            budget: Budget::new(&limits),
            ownership: Ownership {
                owner: context.owner.clone(),
                run: context.run,
                task: task.id.clone(),
                attempt: job.attempt,
                difficulty: task.difficulty,
                created_at: now,
                expires_at,
                holder: context.holder.clone(),
            },
            state: State::Pending,
            image: None,
            sandboxes: Vec::new(),
            workspace: None,
            snapshot: None,
            disk_quota: None,
            network: Network::none(),
            secrets,
            mask,
            current: None,
            usage: ResourceUsage::default(),
            attestation: None,
            phases: Vec::new(),
            artifacts: Vec::new(),
            notes,
            started_at: now,
        }
    }

    /// Goes on from what is recorded of an attempt that nobody drives any more.
    async fn take_up_record(&mut self) {
        let (store, id) = (&self.context.store, &self.job.id);
        match store.attempt(id).await {
            Ok(record) => self.state = record.state,
            Err(error) => self.note_record(Err(error)),
        }
        match store.objects(id).await {
            Ok(objects) => {
                let of = |kind| objects.iter().filter(move |object| object.kind == kind);
                let ids = |kind| of(kind).filter_map(|object| SandboxId::new(&object.name).ok());
                self.sandboxes = ids(ObjectKind::Container).collect();
                self.workspace = ids(ObjectKind::Volume).next();
            }
            // Whatever there may be is removed all the same.
            Err(error) => {
                self.note_record(Err(error));
                let parts = [SETUP, VERIFY].map(|part| id.with_part(part));
                self.sandboxes = parts.into_iter().chain([id.clone()]).collect();
                self.workspace = Some(id.clone());
            }
        }
    }

    /// From the outcome on: final state, clean-up, report.
    async fn finish(mut self, outcome: Outcome) -> TaskReport {
        let outcome = self.mask.outcome(outcome);
        let (outcome, ended_at) = self.end(outcome).await;
        let cleanup_ended_at = self.clean_up(&outcome).await;
        self.report(&outcome, ended_at, cleanup_ended_at)
    }

    fn task(&self) -> &'a Task {
        &self.job.task
    }

    /// Everything up to the outcome. Cancellation is looked at between the steps and during the
    /// phases, never while the engine makes something: what is half made could not be removed.
    async fn work(&mut self) -> Result<(), Outcome> {
        self.refuse_what_cannot_be_done()?;
        self.placed = self.context.placement.take(self.limits.cpu_millis);
        self.advance(Transition::Create).await?;
        self.check_cancelled()?;
        let image = self.prepare_image().await?;
        self.check_cancelled()?;
        self.make_workspace(&image).await?;
        let (sandbox, image) = self.begin(image).await?;
        self.solve(&*sandbox, &image).await?;
        let sandbox = self.change_to_verification(sandbox, &image).await?;
        self.verify(&*sandbox, &image).await
    }

    fn cores(&self) -> Vec<usize> {
        let placed = self.placed.as_ref();
        placed.map_or_else(Vec::new, |placed| placed.cores().to_vec())
    }

    fn check_cancelled(&self) -> Result<(), Outcome> {
        if self.context.cancellation.is_cancelled() {
            Err(cancellation())
        } else {
            Ok(())
        }
    }

    /// What the operator does not allow, secrets that are not there, and agents that lack what they
    /// need end the attempt before anything is made.
    fn refuse_what_cannot_be_done(&mut self) -> Result<(), Outcome> {
        let task = self.task();
        let operator = &*self.context.operator;
        self.network = Network::plan(task, operator).map_err(Outcome::Failed)?;
        self.check_environment().map_err(Outcome::Failed)?;
        self.job
            .agent
            .command(task)
            .map(|_| ())
            .map_err(Outcome::Failed)
    }

    /// Takes a transition, in the record first. A record that cannot be written ends the attempt.
    async fn advance(&mut self, transition: Transition) -> Result<(), Outcome> {
        let internal =
            |message: String| Outcome::Failed(Failure::new(Reason::InternalError, message));
        let next = self
            .state
            .advance(transition)
            .map_err(|error| internal(error.to_string()))?;
        // What is not recorded has not happened: the record takes no step but from where it is.
        self.context
            .store
            .transition(&self.job.id, &self.state, &next, Timestamp::now())
            .await
            .map_err(|error| internal(failure::chain(&error)))?;
        self.state = next;
        self.context.events.send(RunEvent::State {
            id: self.job.id.clone(),
            state: self.state.name(),
        });
        Ok(())
    }

    /// Fixes the outcome: artifacts and counters are collected, the final state is recorded.
    async fn end(&mut self, mut outcome: Outcome) -> (Outcome, Timestamp) {
        if outcome.reason() != Some(Reason::Cancelled) {
            self.end_processes().await;
            let cancellation = self.context.cancellation.clone();
            tokio::select! {
                () = self.collect_artifacts() => {}
                () = cancellation.cancelled() => {
                    self.notes.push("the artifacts are incomplete: the run was cancelled".to_owned());
                }
            }
        }
        self.retire_current().await;
        let ended_at = Timestamp::now();
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
        (outcome, ended_at)
    }

    fn note_unrecorded(&mut self, broken: &Outcome) {
        let note = format!("the record is incomplete: {}", broken.message());
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// Reads the counters of the current sandbox for the last time.
    async fn retire_current(&mut self) {
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

    async fn collect_artifacts(&mut self) {
        let Some(sandbox) = self.current.clone() else {
            return;
        };
        if !self.task().cleanup.preserve_artifacts {
            return;
        }
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

    /// Removes what was made, unless it shall be kept; returns when everything was gone.
    async fn clean_up(&mut self, outcome: &Outcome) -> Option<Timestamp> {
        let keep = self.context.keep || !cleanup::wanted(&self.task().cleanup, outcome);
        if keep {
            if !self.sandboxes.is_empty() || self.workspace.is_some() {
                self.notes.push(
                    "containers and volumes were kept; `swe-forge gc` removes them".to_owned(),
                );
            }
            return None;
        }
        if !self.task().cleanup.preserve_logs {
            self.remove_logs().await;
        }
        // A transition that fails leaves a note above already; the removal goes on regardless.
        if let Err(broken) = self.advance(Transition::CleanUp).await {
            self.note_unrecorded(&broken);
        }
        let left = cleanup::remove_all(
            &*self.context.engine,
            &self.context.owner,
            &self.sandboxes,
            self.workspace.as_ref(),
            self.snapshot.as_ref(),
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

    fn report(
        mut self,
        outcome: &Outcome,
        ended_at: Timestamp,
        cleanup_ended_at: Option<Timestamp>,
    ) -> TaskReport {
        self.notes.extend(self.network.summary(None));
        let notes = std::mem::take(&mut self.notes);
        let notes = notes.into_iter().map(|note| self.mask.text(note)).collect();
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
            cleanup_ended_at,
            image: ImageReport {
                reference: task.image.reference().to_owned(),
                digest: self.image.map(|image| image.digest),
            },
            limits: limits_report(&self.limits),
            phases: self.phases,
            resources: self.usage,
            disk_quota: self.disk_quota,
            network,
            attestation: self.attestation.map(|(_, attestation)| attestation),
            artifacts: self.artifacts,
            notes,
            earlier: Vec::new(),
        }
    }
}

fn end_of(outcome: &Outcome) -> Transition {
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
fn log_name(id: &SandboxId, phase: PhaseName) -> String {
    RunLayout::attempt_relative(id)
        .join(format!("{phase}.log"))
        .display()
        .to_string()
}
