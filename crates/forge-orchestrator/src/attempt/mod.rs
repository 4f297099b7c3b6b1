//! The way of one attempt: accepted, made, run, judged, cleaned up, reported.
//!
//! An [`Attempt`] owns the state of one attempt. Its steps return the outcome as an error the
//! moment it is decided, so that every early end takes the same way through clean-up.

mod ending;
mod environment;
mod make;
mod network;
mod phases;
mod progress;
mod record;
mod resume;

use std::collections::BTreeMap;
use std::sync::Arc;

use forge_api::report::{ArtifactReport, PhaseReport, TaskReport};
use forge_core::{
    Attestation, CleanupPolicy, DiskQuota, Failure, Limits, Outcome, Ownership, Profile, Reason,
    ResourceUsage, SandboxId, State, Task, Transition, UserId,
};
use forge_engine::{PreparedImage, Sandbox};
use forge_plan::budget::Budget;
use forge_wire::Secret;
use jiff::Timestamp;

use crate::context::{Context, Control, Job};
use crate::events::RunEvent;
use crate::operator::SecretValue;
use crate::placement::Placed;
use crate::redact::Mask;
use network::Network;
use progress::Begun;
pub(crate) use progress::{Left, RecordedReport};
pub(crate) use resume::{go_on, settle};

/// Part of the id of the container of a fresh verification.
const VERIFY: &str = "verify";
/// Part of the id of the container through which artifacts are taken when the last one was lost.
const ARTIFACTS: &str = "artifacts";
/// Part of the id of the container of setup.
pub(crate) const SETUP: &str = "setup";

/// One attempt while it is made.
pub(crate) struct Attempt<'a> {
    context: &'a Context,
    job: &'a Job,
    control: Control,
    slot: u16,
    user: UserId,
    limits: Limits,
    /// The task's, within the operator's bounds.
    cleanup: CleanupPolicy,
    /// The cores that its sandboxes are kept to, one after the other.
    placed: Option<Placed>,
    budget: Budget,
    ownership: Ownership,
    state: State,
    image: Option<PreparedImage>,
    /// Ids announced to the engine, whether or not they came to be.
    sandboxes: Vec<SandboxId>,
    /// By which each of them knows us.
    keys: BTreeMap<SandboxId, Secret>,
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
    /// The phase whose command was started last, and by whom.
    begun: Option<Begun>,
    /// Whether another process began it.
    is_adopted: bool,
    phases: Vec<PhaseReport>,
    artifacts: Vec<ArtifactReport>,
    notes: Vec<String>,
    started_at: Timestamp,
    outcome: Option<Outcome>,
}

/// Makes the attempt of `job` in concurrent slot `slot`, from acceptance to clean-up.
pub(crate) async fn run(context: &Context, job: &Job, slot: u16, control: Control) -> TaskReport {
    let mut attempt = Attempt::new(context, job, slot, control);
    context.events.send(RunEvent::Started {
        id: job.id.clone(),
        task: job.task.id.clone(),
        agent: job.agent.name(),
    });
    if job.is_stale {
        attempt.throw_away().await;
    }
    let outcome = attempt.work().await.err().unwrap_or(Outcome::Completed);
    attempt.finish(outcome).await
}

/// The report of a job that never started because the run was cancelled.
pub(crate) async fn cancelled(context: &Context, job: &Job) -> TaskReport {
    without_work(context, job, cancellation()).await
}

/// The report of a job that can never start, and why.
pub(crate) async fn refused(context: &Context, job: &Job, why: String) -> TaskReport {
    let outcome = Outcome::Failed(Failure::new(Reason::NotPermitted, why));
    without_work(context, job, outcome).await
}

/// The report of a job whose task panicked; whatever it may have made is removed.
pub(crate) async fn broken(context: &Context, job: &Job) -> TaskReport {
    let message = "a fault of swe-forge itself ended the attempt; see the log";
    let outcome = Outcome::Failed(Failure::new(Reason::InternalError, message));
    let mut attempt = Attempt::new(context, job, 0, Control::default());
    attempt.take_up_record().await;
    attempt.finish(outcome).await
}

async fn without_work(context: &Context, job: &Job, outcome: Outcome) -> TaskReport {
    let mut attempt = Attempt::new(context, job, 0, Control::default());
    if job.is_stale {
        attempt.take_up_record().await;
    }
    attempt.finish(outcome).await
}

fn cancellation() -> Outcome {
    Outcome::Failed(Failure::new(Reason::Cancelled, "the run was cancelled"))
}

impl<'a> Attempt<'a> {
    fn new(context: &'a Context, job: &'a Job, slot: u16, control: Control) -> Self {
        let now = Timestamp::now();
        let task = &*job.task;
        let (limits, clamped) = task.limits.clamped_to_cores(context.cores);
        let mut notes = Vec::new();
        if clamped {
            notes.push(format!(
                "the CPU quota was clamped to the {} cores of the engine's machine",
                context.cores
            ));
        }
        let (cleanup, lowered) = task.cleanup.within(&context.operator.cleanup_bounds());
        notes.extend(lowered);
        let expires_at = now
            .checked_add(cleanup.expires_after())
            .unwrap_or(Timestamp::MAX);
        // Read once, and before anything can fail: whatever is told of the attempt goes through it.
        let secrets = environment::secrets(task, &*context.operator);
        let mask = Mask::new(secrets.values().flatten().map(SecretValue::expose));
        Self {
            context,
            job,
            control,
            slot,
            user: task
                .user
                .unwrap_or(UserId::for_slot(context.first_slot.wrapping_add(slot))),
            limits,
            cleanup,
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
            keys: BTreeMap::new(),
            workspace: None,
            snapshot: None,
            disk_quota: None,
            network: Network::none(),
            secrets,
            mask,
            current: None,
            usage: ResourceUsage::default(),
            attestation: None,
            begun: None,
            is_adopted: false,
            phases: Vec::new(),
            artifacts: Vec::new(),
            notes,
            started_at: now,
            outcome: None,
        }
    }

    fn task(&self) -> &'a Task {
        &self.job.task
    }

    /// Everything up to the outcome. Cancellation is looked at between the steps and during the
    /// phases, never while the engine makes something: what is half made could not be removed.
    async fn work(&mut self) -> Result<(), Outcome> {
        self.refuse_what_cannot_be_done()?;
        self.placed = self.context.placement.take(self.limits.cpu_millis);
        if self.state == State::Pending {
            self.advance(Transition::Create).await?;
        }
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
        if self.control.cancellation.is_cancelled() {
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
            .map_err(|error| self.unrecorded(&error))?;
        self.state = next;
        self.context.events.send(RunEvent::State {
            id: self.job.id.clone(),
            state: self.state.name(),
        });
        Ok(())
    }
}
