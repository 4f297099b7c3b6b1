//! What an interrupted run left of each of its jobs, as the record tells it.

use std::collections::HashMap;

use forge_api::report::{EarlierTry, TaskReport};
use forge_core::{Attempt, RunId, SandboxId};
use forge_store::{AttemptRecord, Store, StoreError};
use jiff::Timestamp;

use crate::attempt::{Left, RecordedReport};
use crate::context::Job;
use crate::run::new_attempt;

/// A job with what is known of it.
#[derive(Debug)]
pub(crate) struct Standing {
    /// The try that was made last, or is to be made.
    pub job: Job,
    /// Tries before it.
    pub earlier: Vec<EarlierTry>,
    /// What is left of that try.
    pub left: Left,
}

impl Standing {
    /// A job of a run that begins.
    pub(crate) const fn new(job: Job) -> Self {
        Self {
            job,
            earlier: Vec::new(),
            left: Left::Unbegun { stale: false },
        }
    }
}

/// Why what is left of a run cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The record cannot be read.
    #[error("the record of the run cannot be read")]
    Store(#[from] StoreError),
    /// A document in it is not what this program writes.
    #[error("what is recorded of the attempt {id} cannot be read")]
    Document {
        /// The attempt.
        id: SandboxId,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

/// What the record says of each of `jobs`; those it does not know are recorded.
pub(crate) async fn read(
    store: &Store,
    run: &RunId,
    jobs: Vec<Job>,
    now: Timestamp,
) -> Result<Vec<Standing>, ReadError> {
    let records = store.attempts_of(run).await?.into_iter();
    let records: HashMap<SandboxId, AttemptRecord> =
        records.map(|record| (record.id.clone(), record)).collect();
    let mut reports: HashMap<SandboxId, String> = store.reports(run).await?.into_iter().collect();
    let (mut standings, mut unknown) = (Vec::with_capacity(jobs.len()), Vec::new());
    for mut job in jobs {
        let mut earlier = Vec::new();
        while let Some(next) = Some(job.again(run)).filter(|next| records.contains_key(&next.id)) {
            if let Some(text) = reports.remove(&job.id) {
                let recorded: RecordedReport = parse(&job.id, &text)?;
                earlier.push(earlier_try(recorded.report));
            }
            job = next;
        }
        let left = match records.get(&job.id) {
            None => {
                unknown.push(new_attempt(&job, run, now));
                Left::Unbegun { stale: false }
            }
            Some(record) => left_of(store, record, reports.remove(&job.id)).await?,
        };
        job.is_stale = matches!(left, Left::Unbegun { stale: true });
        standings.push(Standing { job, earlier, left });
    }
    store.add_attempts(&unknown).await?;
    Ok(standings)
}

async fn left_of(
    store: &Store,
    record: &AttemptRecord,
    report: Option<String>,
) -> Result<Left, ReadError> {
    let is_pending = record.state == forge_core::State::Pending;
    let progress = match (&report, is_pending) {
        (None, false) => store.progress(&record.id).await?,
        _ => None,
    };
    let left = Left::read(record.state.clone(), progress.as_deref(), report.as_deref());
    left.map_err(|source| ReadError::Document {
        id: record.id.clone(),
        source,
    })
}

fn parse(id: &SandboxId, text: &str) -> Result<RecordedReport, ReadError> {
    serde_json::from_str(text).map_err(|source| ReadError::Document {
        id: id.clone(),
        source,
    })
}

/// What a report says of a try that does not count.
pub(crate) fn earlier_try(report: TaskReport) -> EarlierTry {
    EarlierTry {
        id: report.id,
        reason: report.reason,
        message: report.message,
        started_at: report.started_at,
        ended_at: report.ended_at,
        notes: report.notes,
    }
}

/// Whether a job had a try before this one.
pub(crate) const fn tries_before(attempt: Attempt) -> u32 {
    attempt.0.saturating_sub(1)
}
