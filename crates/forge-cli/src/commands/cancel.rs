//! `swe-forge cancel`: asks the processes of runs to end attempts, or everything.

use forge_plan::reaper::RunState;
use forge_store::{AttemptRecord, NewRequest, RequestKind, RunRecord, Store, StoreError};
use jiff::Timestamp;

use super::recorded::{self, Standing};
use crate::arguments::CancelArguments;
use crate::error::CliError;
use crate::exit_status::ExitStatus;
use crate::session::Session;
use crate::style::Style;
use crate::units;

pub(super) async fn carry_out(
    session: &Session,
    arguments: CancelArguments,
) -> Result<ExitStatus, CliError> {
    let Some(name) = arguments.name else {
        return everything(session).await;
    };
    let none = format!("no run and no attempt '{name}' is recorded");
    let store = session.record_that_is_there(none).await?;
    let printer = &session.printer;
    match find(&store, &name).await? {
        Meant::Run(run) => {
            cancel_run(&store, &run).await?;
            printer.progress(&format!("asked run {} to end", run.id));
        }
        Meant::Attempt(attempt, run) => {
            cancel_attempt(&store, &attempt, &run).await?;
            printer.progress(&format!("asked the run of {} to end it", attempt.id));
        }
    }
    Ok(ExitStatus::Success)
}

async fn everything(session: &Session) -> Result<ExitStatus, CliError> {
    let printer = &session.printer;
    let (mut asked, mut interrupted) = (0, Vec::new());
    if session.existing_record().await?.is_some() {
        let store = session.record().await?;
        for run in store.unfinished_runs().await? {
            match recorded::run_state(&run) {
                RunState::Live | RunState::Unknown => {
                    request(&store, &run, None).await?;
                    asked += 1;
                }
                RunState::Interrupted => interrupted.push(run.id),
                // It ended meanwhile.
                RunState::Ended { .. } => {}
            }
        }
    }
    match asked {
        0 => printer.progress("nothing is under way"),
        asked => printer.progress(&format!("asked {} to end", units::count(asked, "run"))),
    }
    for run in interrupted {
        let text = format!(
            "run {run} was interrupted already: {}",
            recorded::how_to_go_on(&run)
        );
        printer.remark(Style::Warning, "note", &text);
    }
    Ok(ExitStatus::Success)
}

/// What a person means by a name.
enum Meant {
    Run(Box<RunRecord>),
    Attempt(Box<AttemptRecord>, Box<RunRecord>),
}

async fn find(store: &Store, name: &str) -> Result<Meant, CliError> {
    let run = recorded::runs_like(store, name).await?;
    let attempt = match store.find_attempt(name).await {
        Ok(attempt) => Some(attempt),
        Err(StoreError::NotFound { .. }) => None,
        // A run is meant by a name that fits only one.
        Err(StoreError::Ambiguous { .. }) if run.len() == 1 => {
            return Err(recorded::fits_several(name));
        }
        Err(error) => return Err(error.into()),
    };
    // A part of a run's id may well be the name of a task.
    let is_exact =
        |attempt: &AttemptRecord| attempt.id.as_str() == name || attempt.task.as_str() == name;
    let run = match &attempt {
        Some(attempt) if is_exact(attempt) => Vec::new(),
        _ => run,
    };
    match (run.as_slice(), attempt) {
        ([run], None) => Ok(Meant::Run(Box::new(store.run(run).await?))),
        ([], Some(attempt)) => {
            let run = store.run(&attempt.run).await?;
            Ok(Meant::Attempt(Box::new(attempt), Box::new(run)))
        }
        ([], None) => {
            let message = format!("no run and no attempt '{name}' is recorded");
            Err(CliError::input(message).or_rather("`swe-forge ps` lists what is under way"))
        }
        _ => Err(recorded::fits_several(name)),
    }
}

async fn cancel_run(store: &Store, run: &RunRecord) -> Result<(), CliError> {
    match recorded::run_state(run) {
        RunState::Live | RunState::Unknown => Ok(request(store, run, None).await?),
        RunState::Interrupted => Err(no_process(run)),
        RunState::Ended { .. } => {
            let ended = run.ended_at.map(units::instant).unwrap_or_default();
            let message = format!("run {} has ended already, {ended}", run.id);
            Err(CliError::input(message))
        }
    }
}

async fn cancel_attempt(
    store: &Store,
    attempt: &AttemptRecord,
    run: &RunRecord,
) -> Result<(), CliError> {
    match Standing::of(attempt, run) {
        Standing::Ended(state) => {
            let message = format!("{} has ended already: {state}", attempt.id);
            Err(CliError::input(message))
        }
        Standing::Live(_) => Ok(request(store, run, Some(attempt)).await?),
        Standing::Interrupted if run.ended_at.is_none() => Err(no_process(run)),
        Standing::Interrupted => {
            let message = format!("{} was lost with its run, which has ended", attempt.id);
            Err(CliError::input(message))
        }
    }
}

async fn request(
    store: &Store,
    run: &RunRecord,
    attempt: Option<&AttemptRecord>,
) -> Result<(), StoreError> {
    store
        .request(&NewRequest {
            run: run.id,
            attempt: attempt.map(|attempt| attempt.id.clone()),
            kind: RequestKind::Cancel,
            at: Timestamp::now(),
        })
        .await
}

fn no_process(run: &RunRecord) -> CliError {
    let message = format!("no process drives run {} any more", run.id);
    CliError::input(message).or_rather(recorded::how_to_go_on(&run.id))
}
