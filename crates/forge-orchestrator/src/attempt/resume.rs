//! Going on with an attempt that another process began, from what the record says of it.

use std::sync::Arc;

use forge_api::report::TaskReport;
use forge_core::task::VerifyContainer;
use forge_core::{Failure, Outcome, PhaseName, Reason, Role, SandboxId, State};
use forge_engine::{Credentials, Sandbox};
use forge_plan::budget::Budget;
use forge_store::ObjectKind;
use std::time::Duration;

use super::ending::end_of;
use super::progress::Progress;
use super::{ARTIFACTS, Attempt, SETUP, VERIFY};
use crate::context::{Context, Control, Job};
use crate::events::RunEvent;
use crate::{cleanup, failure, report};

/// Goes on with an attempt that was under way, to its clean-up.
pub(crate) async fn go_on(
    context: &Context,
    job: &Job,
    control: Control,
    state: State,
    progress: Progress,
) -> TaskReport {
    let mut attempt = Attempt::new(context, job, progress.slot, control);
    context.events.send(RunEvent::Started {
        id: job.id.clone(),
        task: job.task.id.clone(),
        agent: job.agent.name(),
    });
    attempt.take_up_record().await;
    attempt.state = state;
    let outcome = attempt.take_up(progress).await;
    attempt.finish(outcome).await
}

/// Cleans up after an attempt that ended under another process, which has left `report`.
pub(crate) async fn settle(
    context: &Context,
    job: &Job,
    state: State,
    report: TaskReport,
) -> TaskReport {
    let mut attempt = Attempt::new(context, job, 0, Control::default());
    attempt.take_up_record().await;
    attempt.state = state;
    let outcome = report::outcome_of(&report);
    let is_live = matches!(
        attempt.state,
        State::Pending | State::Creating | State::Running
    );
    if is_live && let Err(broken) = attempt.advance(end_of(&outcome)).await {
        attempt.note_unrecorded(&broken);
    }
    attempt.settle(&outcome, report).await
}

impl Attempt<'_> {
    /// Takes up what the record says of an attempt that nobody drives any more: its state, and what
    /// was announced to the engine.
    pub(super) async fn take_up_record(&mut self) {
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
                let parts = [SETUP, VERIFY, ARTIFACTS].map(|part| id.with_part(part));
                self.sandboxes = parts.into_iter().chain([id.clone()]).collect();
                self.workspace = Some(id.clone());
            }
        }
    }

    /// Removes whatever an earlier process made for this attempt, which had not come to the task's
    /// turn: it begins anew, in nothing that was used.
    pub(super) async fn throw_away(&mut self) {
        self.take_up_record().await;
        let left = cleanup::remove_all(
            &*self.context.engine,
            &self.context.owner,
            &self.sandboxes,
            self.workspace.as_ref(),
            None,
        )
        .await;
        self.notes.extend(left);
        self.sandboxes.clear();
        self.workspace = None;
        let anew = self.context.store.begin_anew(&self.job.id).await;
        self.note_record(anew);
        let log = self.context.layout.log(&self.job.id, PhaseName::Setup);
        if tokio::fs::try_exists(&log).await.unwrap_or(false) {
            let note = "setup was begun again in a new sandbox: swe-forge was interrupted in it";
            self.notes.push(note.to_owned());
        }
    }

    /// Goes on from `progress` to the outcome.
    async fn take_up(&mut self, progress: Progress) -> Outcome {
        self.is_adopted = true;
        self.started_at = progress.started_at;
        self.placed = self
            .context
            .placement
            .take_these(&progress.cores, self.limits.cpu_millis);
        self.image = progress.image;
        self.snapshot = progress.snapshot;
        self.disk_quota = progress.disk_quota;
        self.keys = progress.keys;
        self.begun = progress.begun;
        self.usage = progress.usage;
        self.attestation = progress.attestation;
        self.notes = progress.notes;
        let durations = progress.phases.iter();
        self.budget = durations.fold(Budget::new(&self.limits), |budget, phase| {
            budget.after(phase.name, Duration::from_millis(phase.duration_ms))
        });
        self.phases = progress.phases;
        if let Err(outcome) = self.refuse_what_cannot_be_done() {
            return outcome;
        }
        self.network.take_up(progress.reached);
        if let Some(outcome) = progress.outcome {
            self.look_at_the_end().await;
            return outcome;
        }
        self.note_adoption();
        match self.go_on_working().await {
            Ok(()) => Outcome::Completed,
            Err(outcome) => outcome,
        }
    }

    fn note_adoption(&mut self) {
        if let Some(begun) = self.begun {
            let note = format!(
                "swe-forge was interrupted while {} was under way, and went on with it",
                begun.phase
            );
            self.notes.push(note);
        }
    }

    /// Connects to the sandbox of the last phase once more, for its artifacts and counters.
    async fn look_at_the_end(&mut self) {
        let Some(begun) = self.begun else { return };
        if let Err(outcome) = self.open_sandbox(self.role_of(begun.phase)).await {
            self.notes.push(format!(
                "its sandbox could not be asked for artifacts and counters: {}",
                outcome.message()
            ));
        }
    }

    fn role_of(&self, phase: PhaseName) -> Role {
        match (phase, self.task().verify_container) {
            (PhaseName::Setup, _) => Role::Setup,
            (PhaseName::Verify, VerifyContainer::Fresh) => Role::Verify,
            _ => Role::Task,
        }
    }

    async fn go_on_working(&mut self) -> Result<(), Outcome> {
        let (Some(image), Some(begun)) = (
            self.snapshot.clone().or_else(|| self.image.clone()),
            self.begun,
        ) else {
            let message = "the record does not say which image the attempt runs";
            return Err(Outcome::Failed(Failure::new(
                Reason::InternalError,
                message,
            )));
        };
        let sandbox = self.open_sandbox(self.role_of(begun.phase)).await?;
        let sandbox = if begun.phase == PhaseName::Verify {
            sandbox
        } else {
            self.solve(&*sandbox, &image).await?;
            // One that an earlier process had begun to make is of no use.
            self.forget_verification().await?;
            self.change_to_verification(sandbox, &image).await?
        };
        self.verify(&*sandbox, &image).await
    }

    async fn forget_verification(&mut self) -> Result<(), Outcome> {
        let id = self.job.id.with_part(VERIFY);
        if self.sandboxes.contains(&id) {
            let destroyed = cleanup::destroy(&*self.context.engine, &id).await;
            destroyed.map_err(|error| Outcome::Failed(failure::from_engine(&error)))?;
        }
        Ok(())
    }

    /// Connects to a sandbox that another process made.
    async fn open_sandbox(&mut self, role: Role) -> Result<Arc<dyn Sandbox>, Outcome> {
        let id = match role {
            Role::Setup => self.job.id.with_part(SETUP),
            Role::Verify => self.job.id.with_part(VERIFY),
            _ => self.job.id.clone(),
        };
        let Some(secret) = self.keys.get(&id).cloned() else {
            let message = format!("the record has no key to the sandbox {id}");
            return Err(Outcome::Failed(Failure::new(
                Reason::InternalError,
                message,
            )));
        };
        let epoch = self.context.epoch;
        let credentials = Credentials { secret, epoch };
        let opened = self.context.engine.open(&id, &credentials).await;
        let sandbox = opened.map_err(|error| {
            let failure = failure::from_engine(&error);
            let message = format!(
                "swe-forge was interrupted, and its sandbox could not be taken up again: {}",
                failure.message
            );
            Outcome::Failed(Failure::new(failure.reason, message))
        })?;
        self.current = Some(Arc::clone(&sandbox));
        Ok(sandbox)
    }
}
