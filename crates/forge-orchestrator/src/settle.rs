//! Brings the record of runs up to what became of them when their process could not.

use std::collections::{HashMap, HashSet};

use forge_core::ownership::keys;
use forge_core::{Failure, Reason, RunId, Transition};
use forge_engine::Engine;
use forge_plan::lease;
use forge_plan::reaper::RunState;
use forge_store::{AttemptFilter, AttemptRecord, RunRecord, Store, StoreError};
use jiff::Timestamp;

use crate::gc::GcError;
use crate::{cleanup, holder};

/// Runs that have not ended although their process has, newest first: they can be gone on with.
///
/// # Errors
/// Of the record.
pub async fn interrupted_runs(store: &Store, now: Timestamp) -> Result<Vec<RunId>, StoreError> {
    let unfinished = store.unfinished_runs().await?;
    let interrupted = unfinished
        .iter()
        .filter(|run| run_state(run, now) == RunState::Interrupted);
    Ok(interrupted.map(|run| run.id).collect())
}

/// Whether a process drives a run, as far as can be told from here.
#[must_use]
pub fn run_state(run: &RunRecord, now: Timestamp) -> RunState {
    let process = lease::standing(holder::look_up(&run.holder), run.renewed_at, now);
    RunState::of(run.ended_at.is_some(), process)
}

/// Gives up every interrupted run: its attempts that were under way are lost, and it ends, so that
/// nobody goes on with it any more. Returns those that were given up; one that another process
/// takes over at the same time is not.
///
/// # Errors
/// Of the record; runs given up before it stay so.
pub async fn give_up_interrupted(store: &Store, now: Timestamp) -> Result<Vec<RunId>, StoreError> {
    let mut given_up = Vec::new();
    for run in store.unfinished_runs().await? {
        if run_state(&run, now) == RunState::Interrupted && give_up(store, &run, now).await? {
            given_up.push(run.id);
        }
    }
    Ok(given_up)
}

/// Of several that want a run at once exactly one becomes its holder: only that one ends it.
async fn give_up(store: &Store, run: &RunRecord, now: Timestamp) -> Result<bool, StoreError> {
    let holder = holder::this_process();
    let taken = store.take_over_run(&run.id, run.epoch, &holder, now);
    if taken.await?.is_none() {
        return Ok(false);
    }
    let left = store.unremoved_objects(Some(&run.id)).await?;
    let left: HashSet<_> = left.into_iter().map(|object| object.attempt).collect();
    for attempt in store.attempts_of(&run.id).await? {
        settle_attempt(store, &attempt, !left.contains(&attempt.id), now).await?;
    }
    store.end_run(&run.id, now).await?;
    Ok(true)
}

/// Settles the record of runs that ended: attempts that never did are lost, and what nobody finds on
/// the engine any more counts as removed. Returns how many attempts and objects it settled.
///
/// # Errors
/// [`GcError`]; what was settled before it stays settled.
pub async fn settle(engine: &dyn Engine, store: &Store, now: Timestamp) -> Result<usize, GcError> {
    let live = AttemptFilter {
        live_only: true,
        ..AttemptFilter::default()
    };
    let mut ended = EndedRuns::default();
    let mut lost = Vec::new();
    for attempt in store.attempts(&live).await? {
        if ended.contains(store, &attempt.run).await? {
            // It may have ended with its run since it was listed.
            lost.push(store.attempt(&attempt.id).await?);
        }
    }
    let mut announced = Vec::new();
    for object in store.unremoved_objects(None).await? {
        let attempt = store.attempt(&object.attempt).await?;
        if ended.contains(store, &attempt.run).await? {
            announced.push((object, attempt));
        }
    }
    // Listed only now: what was announced before is there, or gone.
    let objects = engine.list(Some(store.owner())).await?;
    let left: HashSet<&str> = objects
        .iter()
        .filter_map(|object| object.label(keys::RUN))
        .collect();
    let is_clean = |run: &RunId| !left.contains(run.to_string().as_str());
    announced.retain(|(_, attempt)| is_clean(&attempt.run));
    for attempt in &lost {
        settle_attempt(store, attempt, is_clean(&attempt.run), now).await?;
    }
    let mut released = HashSet::new();
    for (_, attempt) in &announced {
        if !released.insert(&attempt.id) {
            continue;
        }
        // An engine that is killed while it makes something may lose the labels and keep the thing: it is
        // asked by name.
        let left = cleanup::release(engine, store, attempt, now).await?;
        left.iter().for_each(|left| tracing::warn!("{left}"));
    }
    Ok(lost.len() + announced.len())
}

/// Which runs have ended, each asked about once.
#[derive(Default)]
struct EndedRuns(HashMap<RunId, bool>);

impl EndedRuns {
    async fn contains(&mut self, store: &Store, run: &RunId) -> Result<bool, StoreError> {
        if let Some(ended) = self.0.get(run) {
            return Ok(*ended);
        }
        let ended = store.run(run).await?.ended_at.is_some();
        self.0.insert(*run, ended);
        Ok(ended)
    }
}

/// Records that an attempt is lost unless it ended, and that nothing of it is left where that is so.
pub(crate) async fn settle_attempt(
    store: &Store,
    attempt: &AttemptRecord,
    clean: bool,
    now: Timestamp,
) -> Result<(), StoreError> {
    let mut state = attempt.state.clone();
    let message = "the swe-forge process that ran it ended before it did";
    let lost = Transition::Fail(Failure::new(Reason::Lost, message));
    // Transitions that the life cycle does not have from here were made before the end.
    for transition in [Some(lost), clean.then_some(Transition::CleanUp)]
        .into_iter()
        .flatten()
    {
        if let Ok(next) = state.advance(transition) {
            store.transition(&attempt.id, &state, &next, now).await?;
            state = next;
        }
    }
    if clean && attempt.cleanup_ended_at.is_none() {
        store.cleanup_ended(&attempt.id, now).await?;
    }
    Ok(())
}
