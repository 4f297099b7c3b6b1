//! `swe-forge release`: removes at once what an attempt that has ended still has on the engine.

use forge_orchestrator::cleanup;
use forge_plan::reaper::RunState;
use forge_store::{AttemptRecord, NewRequest, RequestKind, RunRecord, Store};
use jiff::Timestamp;

use super::recorded;
use crate::arguments::ReleaseArguments;
use crate::error::CliError;
use crate::escape;
use crate::exit_status::ExitStatus;
use crate::provider::Need;
use crate::session::{Session, find_attempt};
use crate::style::Style;

pub(super) async fn carry_out(
    session: &Session,
    arguments: ReleaseArguments,
) -> Result<ExitStatus, CliError> {
    let name = &arguments.attempt.id;
    let none = format!("no attempt '{name}' is recorded");
    let store = session.record_that_is_there(none).await?;
    let attempt = find_attempt(&store, name).await?;
    let run = store.run(&attempt.run).await?;
    let state = recorded::run_state(&run);
    if attempt.outcome().is_none() {
        return Err(not_ended(&attempt, &run, state));
    }
    let printer = &session.printer;
    if attempt.cleanup_ended_at.is_some() {
        printer.progress(&format!("nothing is left of {}", attempt.id));
        return Ok(ExitStatus::Success);
    }
    match state {
        // Its process removes it: it knows what else needs it.
        RunState::Live | RunState::Unknown => {
            store
                .request(&NewRequest {
                    run: run.id,
                    attempt: Some(attempt.id.clone()),
                    kind: RequestKind::Release,
                    at: Timestamp::now(),
                })
                .await?;
            printer.progress(&format!(
                "asked the process of run {} to remove what {} has",
                run.id, attempt.id
            ));
            Ok(ExitStatus::Success)
        }
        RunState::Interrupted | RunState::Ended { .. } => remove(session, &store, &attempt).await,
    }
}

async fn remove(
    session: &Session,
    store: &Store,
    attempt: &AttemptRecord,
) -> Result<ExitStatus, CliError> {
    let engine = session.engine(store.owner(), Need::Management).await?;
    let left = cleanup::release(&*engine, store, attempt, Timestamp::now()).await?;
    let printer = &session.printer;
    for line in &left {
        printer.remark(Style::Bad, "error", &escape::line(line));
    }
    if !left.is_empty() {
        return Ok(ExitStatus::Infrastructure);
    }
    printer.progress(&format!("what {} had is removed", attempt.id));
    Ok(ExitStatus::Success)
}

fn not_ended(attempt: &AttemptRecord, run: &RunRecord, state: RunState) -> CliError {
    let id = &attempt.id;
    let message = format!("{id} has not ended");
    let hint = match state {
        RunState::Live | RunState::Unknown => format!("`swe-forge cancel {id}` ends it"),
        _ => recorded::how_to_go_on(&run.id),
    };
    CliError::input(message).or_rather(hint)
}
