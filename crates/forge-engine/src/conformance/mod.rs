//! What every engine must do, as cases that run on any of them.
//!
//! A case knows the boundary traits and a [`Bench`], and nothing of the engine behind. It says what did
//! not hold as a [`Failure`] and never panics, so that whoever runs it can clean up. After each case a
//! census is taken: an engine that behaves and leaves something behind has failed.
//!
//! Run [`examine`] for each of [`cases`], with a bench of its own.

/// Ends a case that found out something wrong.
macro_rules! ensure {
    ($holds:expr, $($said:tt)+) => {
        if !$holds {
            return Err($crate::conformance::Failure::new(format!($($said)+)));
        }
    };
}

mod act;
mod cancel;
mod endings;
mod files;
mod hostile;
mod life;
mod output;
mod recovery;
mod scene;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use forge_core::UserId;
use forge_core::ownership::Ownership;
use futures::future::BoxFuture;
use tokio::time::Instant;

use crate::engine::Engine;
use crate::error::EngineError;

pub use act::{Act, PATTERN};
pub use scene::Scene;

/// How long a case may take before it counts as stuck.
const PATIENCE: Duration = Duration::from_secs(240);

/// What did not hold.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Failure(String);

impl Failure {
    /// A failure in these words.
    #[must_use]
    pub fn new(said: impl Into<String>) -> Self {
        Self(said.into())
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        let mut said = format!("{error} ({:?})", error.kind);
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            said.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        Self(said)
    }
}

/// What not every engine can do; a case that needs it is skipped where it is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capability {
    /// Holds the memory of a sandbox and tells when it ran out.
    MemoryLimit,
    /// Holds the number of processes and tells when one was refused.
    ProcessLimit,
    /// Holds the size of a workspace and tells when it was full.
    DiskLimit,
    /// Reaches a sandbox that an earlier process made.
    Reopening,
}

impl fmt::Display for Capability {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::MemoryLimit => "limits of memory",
            Self::ProcessLimit => "limits of processes",
            Self::DiskLimit => "limits of disk",
            Self::Reopening => "sandboxes that outlive a process",
        })
    }
}

/// An engine to examine, and what only somebody who knows it can tell.
#[async_trait]
pub trait Bench: Send + Sync {
    /// The engine, as one host process sees it.
    fn engine(&self) -> Arc<dyn Engine>;

    /// The same engine as the next host process sees it, which knows nothing but what is there.
    async fn restart(&self) -> Result<Arc<dyn Engine>, EngineError>;

    /// An image in which the commands of [`Self::argv`] are.
    fn image(&self) -> String;

    /// Whose everything is that a case makes; of nobody else.
    fn ownership(&self) -> Ownership;

    /// A user that no other sandbox has.
    fn user(&self) -> UserId;

    /// The command that does this.
    fn argv(&self, act: &Act) -> Vec<String>;

    /// The environment of commands.
    fn env(&self) -> Vec<(String, String)>;

    /// Whether the engine can do this.
    fn can(&self, capability: Capability) -> bool;

    /// Everything that is left of what the owner made, one name each, also what no list shows.
    async fn census(&self) -> Result<Vec<String>, EngineError>;

    /// How many of the points are tried at which an operation can be given up; they are spread over
    /// the whole operation.
    fn cancellations(&self) -> usize;
}

type Examination = for<'a> fn(&'a Scene) -> BoxFuture<'a, Result<(), Failure>>;

/// Something that holds on every engine.
pub struct Case {
    /// What holds, as a sentence with underscores.
    pub name: &'static str,
    /// Without these it cannot be found out.
    pub needs: &'static [Capability],
    run: Examination,
}

impl fmt::Debug for Case {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name)
    }
}

/// What came of a case.
#[derive(Debug)]
pub enum Verdict {
    /// It holds.
    Holds,
    /// The engine lacks what the case needs.
    Skipped(Capability),
    /// It does not hold.
    Fails(Failure),
}

/// A case and what came of it; shown as one line.
#[derive(Debug)]
pub struct Finding {
    /// The case's name.
    pub case: &'static str,
    /// What came of it.
    pub verdict: Verdict,
    /// How long it took, by the clock of tokio.
    pub took: Duration,
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let took = self.took.as_secs_f64();
        match &self.verdict {
            Verdict::Holds => write!(formatter, "holds    {} ({took:.2} s)", self.case),
            Verdict::Skipped(lacking) => {
                write!(
                    formatter,
                    "skipped  {}: the engine lacks {lacking}",
                    self.case
                )
            }
            Verdict::Fails(failure) => {
                write!(formatter, "FAILS    {} ({took:.2} s): {failure}", self.case)
            }
        }
    }
}

/// Finds out whether `case` holds on this bench, and whether it leaves anything behind.
pub async fn examine(case: &Case, bench: Arc<dyn Bench>) -> Finding {
    let begun = Instant::now();
    let lacking = case.needs.iter().find(|need| !bench.can(**need));
    let verdict = match lacking {
        Some(lacking) => Verdict::Skipped(*lacking),
        None => match tokio::time::timeout(PATIENCE, Box::pin(attempt(case, bench))).await {
            Ok(Ok(())) => Verdict::Holds,
            Ok(Err(failure)) => Verdict::Fails(failure),
            Err(_) => Verdict::Fails(Failure::new("it does not come to an end")),
        },
    };
    Finding {
        case: case.name,
        verdict,
        took: begun.elapsed(),
    }
}

async fn attempt(case: &Case, bench: Arc<dyn Bench>) -> Result<(), Failure> {
    let scene = Scene::new(bench).await?;
    (case.run)(&scene).await?;
    scene.nothing_is_left().await
}

macro_rules! table {
    ($($module:ident: $($name:ident $([$($need:ident),+])?),+;)+) => {
        &[$($(Case {
            name: stringify!($name),
            needs: &[$($(Capability::$need),+)?],
            run: |scene| Box::pin($module::$name(scene)),
        }),+),+]
    };
}

/// All cases, cheapest first within each part.
#[must_use]
pub fn cases() -> &'static [Case] {
    table! {
        life:
            a_command_runs_and_its_output_and_code_come_back,
            the_same_made_again_is_the_one_that_is_there,
            the_same_made_at_once_is_made_once,
            another_specification_under_the_same_id_is_a_conflict,
            a_sandbox_is_not_made_without_its_workspace,
            what_is_gone_is_removed_once_more_without_complaint,
            removing_while_it_is_made_leaves_nothing,
            a_workspace_in_use_is_not_removed,
            what_is_gone_cannot_be_opened,
            only_the_secret_opens,
            counters_grow_with_what_is_used;
        output:
            both_streams_arrive_whole_and_in_order,
            every_octet_comes_through_both_ways,
            a_slow_reader_holds_a_command_up_and_loses_nothing,
            a_command_that_nobody_listens_to_runs_to_its_end,
            many_commands_at_once_do_not_mix;
        endings:
            a_code_a_signal_and_a_program_that_is_not_there_are_told_apart,
            a_deadline_ends_also_what_is_deaf_to_it,
            output_past_its_limit_ends_the_command_and_is_cut_there,
            what_takes_all_memory_is_ended_and_counted [MemoryLimit],
            what_takes_all_disk_is_ended_and_told [DiskLimit],
            processes_past_their_limit_are_refused_and_counted [ProcessLimit],
            a_command_ended_on_request_says_so,
            nothing_escapes_the_end_of_all,
            commands_of_a_sandbox_that_goes_are_lost;
        cancel:
            making_a_workspace_may_be_given_up_anywhere,
            making_a_sandbox_may_be_given_up_anywhere,
            starting_a_command_may_be_given_up_anywhere,
            putting_files_may_be_given_up_anywhere,
            getting_files_may_be_given_up_anywhere,
            removing_may_be_given_up_anywhere;
        files:
            files_of_every_kind_and_size_come_back_as_they_went,
            what_only_a_command_can_make_comes_out_as_far_as_it_can,
            limits_of_a_transfer_hold_both_ways,
            removing_files_ends_at_what_was_named;
        hostile:
            names_that_a_shell_would_stumble_over_are_only_names,
            an_archive_cannot_leave_its_folder;
        recovery:
            a_restart_between_making_and_opening_loses_nothing [Reopening],
            a_command_goes_on_through_a_restart [Reopening],
            everything_half_made_is_listed_and_can_be_removed,
            what_is_found_can_be_removed_by_a_stranger,
            sweeping_touches_nothing_that_is_in_use;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_cases_have_one_name() {
        let mut names: Vec<_> = cases().iter().map(|case| case.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), cases().len());
    }
}
