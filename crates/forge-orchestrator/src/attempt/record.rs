//! The attempt's entries in the record. A record that lags behind is noted, not fatal: what was
//! promised before an engine call is handled where the call is made.

use std::path::Path;
use std::time::Duration;

use forge_api::report::{Exit, PhaseReport, TaskReport};
use forge_core::{Failure, Outcome, PhaseName, Reason};
use forge_store::{ObjectKind, ObjectRecord, PhaseEnd, StoreError};
use jiff::Timestamp;

use super::progress::Progress;
use super::{Attempt, RecordedReport};
use crate::failure;

impl Attempt<'_> {
    pub(super) fn note_record(&mut self, recorded: Result<(), StoreError>) {
        if let Err(error) = recorded {
            self.heed(&error);
            self.notes.push(format!(
                "the record is incomplete: {}",
                failure::chain(&error)
            ));
        }
    }

    /// The outcome of an attempt of which something had to be recorded and could not. Where another
    /// process has taken the run over, this one is told to touch nothing any more.
    pub(super) fn unrecorded(&self, error: &StoreError) -> Outcome {
        self.heed(error);
        Outcome::Failed(Failure::new(Reason::InternalError, failure::chain(error)))
    }

    fn heed(&self, error: &StoreError) {
        if matches!(error, StoreError::Superseded { .. }) {
            self.context.superseded.cancel();
        }
    }

    /// Records how far the attempt is, so that another process can go on from here.
    pub(super) async fn save(&mut self) -> Result<(), Outcome> {
        let progress = Progress {
            started_at: self.started_at,
            slot: self.slot,
            cores: self.cores(),
            image: self.image.clone(),
            snapshot: self.snapshot.clone(),
            disk_quota: self.disk_quota,
            keys: self.keys.clone(),
            begun: self.begun,
            phases: self.phases.clone(),
            usage: self.usage,
            attestation: self.attestation.clone(),
            reached: self.network.reached(),
            notes: self.notes.clone(),
            outcome: self.outcome.clone(),
        };
        let text = serde_json::to_string(&progress).map_err(|error| {
            let message = format!("how far the attempt is could not be written down: {error}");
            Outcome::Failed(Failure::new(Reason::InternalError, message))
        })?;
        let saved = self.context.store.set_progress(&self.job.id, &text).await;
        saved.map_err(|error| self.unrecorded(&error))
    }

    /// Records the outcome of an attempt that has begun, before anything follows from it.
    pub(super) async fn decide(&mut self, outcome: &Outcome) {
        if self.begun.is_none() || self.outcome.as_ref() == Some(outcome) {
            return;
        }
        self.outcome = Some(outcome.clone());
        if let Err(broken) = self.save().await {
            self.note_unrecorded(&broken);
        }
    }

    /// Records the report; `settled` when nothing more will come of the attempt.
    pub(super) async fn record_report(&mut self, report: &TaskReport, settled: bool) {
        let recorded = RecordedReport {
            report: report.clone(),
            settled,
        };
        match serde_json::to_string(&recorded) {
            Ok(text) => {
                let recorded = self.context.store.set_report(&self.job.id, &text).await;
                self.note_record(recorded);
            }
            Err(error) => self
                .notes
                .push(format!("the record is incomplete: {error}")),
        }
    }

    pub(super) async fn record_phase_begin(&mut self, phase: PhaseName) {
        let now = Timestamp::now();
        let recorded = self
            .context
            .store
            .begin_phase(&self.job.id, phase, now)
            .await;
        self.note_record(recorded);
    }

    pub(super) async fn record_phase_end(&mut self, phase: &PhaseReport, log: &Path) {
        let end = PhaseEnd {
            at: Timestamp::now(),
            exit_text: phase.exit.to_string(),
            exit_code: match phase.exit {
                Exit::Exited { code } => Some(code),
                _ => None,
            },
            duration: Duration::from_millis(phase.duration_ms),
            output_bytes: phase.output_bytes,
            truncated: phase.truncated,
            log_path: Some(log.to_owned()),
        };
        let recorded = self
            .context
            .store
            .end_phase(&self.job.id, phase.name, &end)
            .await;
        self.note_record(recorded);
    }

    pub(super) async fn record_results(&mut self) {
        let store = &self.context.store;
        let id = &self.job.id;
        let usage = store.set_usage(id, &self.usage).await;
        let attestation = match &self.attestation {
            Some((_, attestation)) => store.set_attestation(id, attestation).await,
            None => Ok(()),
        };
        let report = store
            .set_report_path(id, &self.context.layout.report())
            .await;
        for recorded in [usage, attestation, report] {
            self.note_record(recorded);
        }
    }

    pub(super) async fn record_removed(&mut self, at: Timestamp) {
        let store = &self.context.store;
        let mut recorded = Vec::new();
        for id in &self.sandboxes {
            recorded.push(
                store
                    .object_removed(ObjectKind::Container, id.as_str(), at)
                    .await,
            );
        }
        // Also one that was announced and never reported made.
        match store.objects(&self.job.id).await {
            Ok(announced) => {
                let is_left = |object: &&ObjectRecord| {
                    object.kind == ObjectKind::Image && object.removed_at.is_none()
                };
                for image in announced.iter().filter(is_left) {
                    recorded.push(store.object_removed(image.kind, &image.name, at).await);
                }
            }
            Err(error) => recorded.push(Err(error)),
        }
        if let Some(id) = &self.workspace {
            recorded.push(
                store
                    .object_removed(ObjectKind::Volume, id.as_str(), at)
                    .await,
            );
        }
        recorded.push(store.cleanup_ended(&self.job.id, at).await);
        for result in recorded {
            self.note_record(result);
        }
    }
}
