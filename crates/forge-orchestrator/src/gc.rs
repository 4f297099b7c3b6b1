//! Garbage collection: removes what orchestrators that are gone left on an engine.
//!
//! What stands on the engine is compared with what is recorded of its run. What an interrupted run
//! left stays as long as the run can be gone on with, unless the caller gives such runs up.

use std::collections::{BTreeMap, HashMap, HashSet};

use forge_core::ownership::keys;
use forge_core::{OwnerId, RunId};
use forge_engine::{Engine, EngineError, FoundObject, ObjectKind};
use forge_plan::reaper::{self, Decision, Facts, Ground, Holder, RunState, Scope, Stay};
use forge_store::{AttemptRecord, Store, StoreError};
use jiff::Timestamp;
use serde::Serialize;

use crate::{failure, holder, settle};

/// What to look for.
#[derive(Debug, Clone, Copy)]
pub struct GcOptions {
    /// Say what would be removed, and remove nothing.
    pub dry_run: bool,
    /// What goes besides what nobody can want any more.
    pub scope: Scope,
    /// The time.
    pub now: Timestamp,
}

/// One object that may go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Leftover {
    /// The object.
    #[serde(flatten)]
    pub object: FoundObject,
    /// Why it may go.
    pub ground: Ground,
    /// What went wrong removing it.
    pub error: Option<String>,
}

/// Objects that stay for one reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Staying {
    /// The run they were made for; `None` where they name none.
    pub run: Option<RunId>,
    /// Why they stay.
    pub why: Stay,
    /// How many; 0 for an interrupted run that left none.
    pub objects: u64,
}

/// What was found and done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct GcReport {
    /// Whether nothing was removed because only a look was asked for.
    pub dry_run: bool,
    /// Objects that may go, in the order of removal.
    pub leftovers: Vec<Leftover>,
    /// Objects of ours that stay.
    pub kept: u64,
    /// The same by run and reason, and interrupted runs that left nothing.
    pub staying: Vec<Staying>,
    /// Interrupted runs that were given up, or would be.
    pub given_up: Vec<RunId>,
}

impl GcReport {
    /// Objects that could not be removed.
    #[must_use]
    pub fn failures(&self) -> usize {
        self.leftovers
            .iter()
            .filter(|leftover| leftover.error.is_some())
            .count()
    }
}

/// Why leftovers could not be looked for, or the record could not be settled.
#[derive(Debug, thiserror::Error)]
pub enum GcError {
    /// The engine cannot say what is left.
    #[error("the engine could not list what is left")]
    Engine(#[from] EngineError),
    /// The record cannot be read or written.
    #[error("the record of runs could not be used")]
    Store(#[from] StoreError),
}

/// Finds leftovers, and removes them unless this is a dry run. Runs that are given up are so before
/// anything of them is removed.
///
/// # Errors
/// [`GcError`]; a failed removal is in the report.
pub async fn collect(
    engine: &dyn Engine,
    store: &Store,
    options: GcOptions,
) -> Result<GcReport, GcError> {
    let own = store.owner();
    let owner = (!options.scope.any_owner).then_some(own);
    let objects = engine.list(owner).await?;
    let mut known = KnownRuns::new(store, options.now);
    let mut report = GcReport {
        dry_run: options.dry_run,
        ..GcReport::default()
    };
    if options.scope.interrupted {
        report.given_up = match options.dry_run {
            true => settle::interrupted_runs(store, options.now).await?,
            false => settle::give_up_interrupted(store, options.now).await?,
        };
        // The record calls them ended from now on; what is told of them is why.
        known.given_up.extend(&report.given_up);
    }
    let mut decisions = Vec::with_capacity(objects.len());
    for object in &objects {
        let facts = known.facts(object, own).await?;
        decisions.push(reaper::decide(&facts, own, options.scope, options.now));
    }
    keep_what_is_named(&objects, &mut decisions);
    let mut interrupted = settle::interrupted_runs(store, options.now).await?;
    interrupted.retain(|run| !report.given_up.contains(run));
    report.staying = staying(&objects, &decisions, &interrupted);
    report.kept = report.staying.iter().map(|each| each.objects).sum();
    report.leftovers = leftovers(objects, &decisions);
    if !options.dry_run {
        for leftover in &mut report.leftovers {
            if let Err(error) = engine.remove(&leftover.object).await {
                leftover.error = Some(failure::chain(&error));
            }
        }
        engine.sweep().await;
    }
    Ok(report)
}

/// The run that an object was made for.
fn run_of(object: &FoundObject) -> Option<RunId> {
    object.label(keys::RUN)?.parse().ok()
}

/// What several attempts share, such as the egress proxy, names no task. Its holder may be gone and
/// its time be up while a sandbox still needs it: the sandbox then names it in a label.
fn keep_what_is_named(objects: &[FoundObject], decisions: &mut [Decision]) {
    let mut named: HashMap<&str, Stay> = HashMap::new();
    for (object, decision) in objects.iter().zip(decisions.iter()) {
        if let (ObjectKind::Container, Decision::Leave(stay)) = (object.kind, *decision) {
            named.extend(object.labels.values().map(|value| (value.as_str(), stay)));
        }
    }
    for (object, decision) in objects.iter().zip(decisions) {
        if let (Decision::Remove(_), None, Some(stay)) = (
            *decision,
            object.label(keys::TASK_ID),
            named.get(object.name.as_str()),
        ) {
            *decision = Decision::Leave(*stay);
        }
    }
}

/// A volume or an image cannot go before the container that uses it.
fn leftovers(objects: Vec<FoundObject>, decisions: &[Decision]) -> Vec<Leftover> {
    let decided = objects.into_iter().zip(decisions);
    let mut leftovers: Vec<Leftover> = decided
        .filter_map(|(object, decision)| match *decision {
            Decision::Remove(ground) => Some(Leftover {
                object,
                ground,
                error: None,
            }),
            Decision::Leave(_) => None,
        })
        .collect();
    leftovers.sort_by(|left, right| {
        let key = |leftover: &Leftover| (rank(leftover.object.kind), leftover.object.name.clone());
        key(left).cmp(&key(right))
    });
    leftovers
}

/// What stays, by run and reason.
fn staying(objects: &[FoundObject], decisions: &[Decision], interrupted: &[RunId]) -> Vec<Staying> {
    let mut counts: BTreeMap<(Option<RunId>, Stay), u64> = BTreeMap::new();
    for run in interrupted {
        counts.insert((Some(*run), Stay::Interrupted), 0);
    }
    for (object, decision) in objects.iter().zip(decisions) {
        match *decision {
            // Not ours to keep.
            Decision::Leave(Stay::Foreign) | Decision::Remove(_) => {}
            Decision::Leave(why) => *counts.entry((run_of(object), why)).or_default() += 1,
        }
    }
    let stays = counts.into_iter();
    stays
        .map(|((run, why), objects)| Staying { run, why, objects })
        .collect()
}

const fn rank(kind: ObjectKind) -> u8 {
    match kind {
        ObjectKind::Container => 0,
        ObjectKind::Network => 1,
        ObjectKind::Volume => 2,
        ObjectKind::Image => 3,
    }
}

/// What the record says about runs, each asked about once.
struct KnownRuns<'s> {
    store: &'s Store,
    now: Timestamp,
    runs: HashMap<RunId, Option<Known>>,
    given_up: HashSet<RunId>,
}

#[derive(Debug, Clone)]
struct Known {
    state: RunState,
    holder: Holder,
    /// Task and number of attempts whose objects were kept for inspection.
    kept: HashSet<(String, String)>,
}

impl<'s> KnownRuns<'s> {
    fn new(store: &'s Store, now: Timestamp) -> Self {
        Self {
            store,
            now,
            runs: HashMap::new(),
            given_up: HashSet::new(),
        }
    }

    async fn facts<'o>(
        &mut self,
        object: &'o FoundObject,
        own: &OwnerId,
    ) -> Result<Facts<'o>, StoreError> {
        let owner = object.label(keys::OWNER);
        let known = match run_of(object) {
            Some(run) if owner == Some(own.as_str()) => self.known(&run).await?,
            _ => None,
        };
        let (run, holder) = match known {
            Some(known) => (known.state_for(object), known.holder),
            None => {
                let named = object.label(keys::HOLDER);
                let holder = named.map_or(Holder::Unknown, holder::look_up);
                (RunState::Unknown, holder)
            }
        };
        Ok(Facts {
            owner,
            expires_at: object.time(keys::EXPIRES_AT),
            run,
            holder,
        })
    }

    async fn known(&mut self, run: &RunId) -> Result<Option<Known>, StoreError> {
        if !self.runs.contains_key(run) {
            let known = self.look_up(run).await?;
            self.runs.insert(*run, known);
        }
        Ok(self.runs.get(run).cloned().flatten())
    }

    async fn look_up(&self, run: &RunId) -> Result<Option<Known>, StoreError> {
        if self.given_up.contains(run) {
            return Ok(Some(Known {
                state: RunState::Interrupted,
                holder: Holder::Dead,
                kept: HashSet::new(),
            }));
        }
        let record = match self.store.run(run).await {
            Ok(record) => record,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let holder = holder::look_up(&record.holder);
        let state = settle::run_state(&record, self.now);
        let kept = match state {
            RunState::Ended { .. } => self.store.attempts_of(run).await?,
            _ => Vec::new(),
        };
        let kept = kept.iter().filter(|attempt| is_kept(attempt));
        Ok(Some(Known {
            state,
            holder,
            kept: kept
                .map(|attempt| (attempt.task.to_string(), attempt.attempt.to_string()))
                .collect(),
        }))
    }
}

impl Known {
    fn state_for(&self, object: &FoundObject) -> RunState {
        let task = object.label(keys::TASK_ID).unwrap_or_default();
        let attempt = object.label(keys::ATTEMPT).unwrap_or_default();
        match self.state {
            RunState::Ended { .. } => RunState::Ended {
                kept: self.kept.contains(&(task.to_owned(), attempt.to_owned())),
            },
            state => state,
        }
    }
}

/// Whether an attempt ended and its clean-up was never begun: its policy or `--keep` wanted that.
pub(crate) fn is_kept(attempt: &AttemptRecord) -> bool {
    use forge_core::State;
    matches!(
        attempt.state,
        State::Completed | State::Failed(_) | State::Timeout(_)
    )
}
