//! The state of an attempt: its columns, and the one way to change them.

use forge_core::life_cycle::StateName;
use forge_core::{Cause, Deadline, Failure, Outcome as End, Reason, SandboxId, State};
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, named_params};

use crate::errors::StoreError;
use crate::fault::{Fault, Outcome};
use crate::records::TransitionRecord;
use crate::store::Store;
use crate::{attempts, values};

impl Store {
    /// Moves an attempt on, and notes the step. `RUNNING` sets its start, `COMPLETED`, `FAILED` and
    /// `TIMEOUT` set its end.
    ///
    /// Which steps exist is decided by [`State::advance`], not here.
    ///
    /// # Errors
    /// [`StoreError::StateConflict`] when the recorded state is not exactly `from`;
    /// [`StoreError::NotFound`].
    pub async fn transition(
        &self,
        id: &SandboxId,
        from: &State,
        to: &State,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let (id, from, to) = (id.clone(), from.clone(), to.clone());
        self.write("record a transition", move |transaction| {
            let (row, stored) = current(transaction, &id)?;
            if stored != from {
                return Err(Fault::Known(StoreError::StateConflict {
                    id,
                    expected: Box::new(from),
                    stored: Box::new(stored),
                }));
            }
            update(transaction, row, &to, at)?;
            note(transaction, row, &from, &to, at)
        })
        .await
    }

    /// The steps of an attempt in their order.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn transitions(&self, id: &SandboxId) -> Result<Vec<TransitionRecord>, StoreError> {
        let id = id.clone();
        self.read("list the transitions of an attempt", move |connection| {
            let row = attempts::row_id(connection, &id)?;
            let transitions = connection
                .prepare_cached(
                    "SELECT * FROM transitions WHERE attempt_id = ?1 ORDER BY sequence",
                )?
                .query_map([row], |row| {
                    Ok(TransitionRecord {
                        sequence: row.get("sequence")?,
                        from: values::name(row, "from_state")?,
                        to: values::name(row, "to_state")?,
                        at: values::at(row, "at")?,
                        detail: row.get("detail")?,
                    })
                })?
                .collect::<Result<_, _>>()?;
            Ok(transitions)
        })
        .await
    }
}

fn current(connection: &Connection, id: &SandboxId) -> Outcome<(i64, State)> {
    connection
        .prepare_cached(
            "SELECT id, state, reason, message, deadline FROM attempts WHERE public_id = ?1",
        )?
        .query_row([id.as_str()], |row| Ok((row.get("id")?, read(row)?)))
        .optional()?
        .ok_or_else(|| Fault::not_found("attempt", id))
}

fn update(connection: &Connection, row: i64, to: &State, at: Timestamp) -> Outcome<()> {
    let at = values::instant(at)?;
    let (started_at, ended_at) = match to.name() {
        StateName::Running => (Some(at), None),
        StateName::Completed | StateName::Failed | StateName::Timeout => (None, Some(at)),
        StateName::Pending | StateName::Creating | StateName::Cleanup => (None, None),
    };
    let end = end(to);
    let deadline = match &end {
        Some(End::Timeout(deadline)) => Some(deadline.to_string()),
        _ => None,
    };
    connection
        .prepare_cached(
            "UPDATE attempts SET state = :state, reason = :reason, cause = :cause, \
                 message = :message, deadline = :deadline, \
                 started_at = coalesce(:started_at, started_at), \
                 ended_at = coalesce(:ended_at, ended_at) \
             WHERE id = :id",
        )?
        .execute(named_params! {
            ":id": row,
            ":state": to.name().as_str(),
            ":reason": end.as_ref().and_then(End::reason).map(Reason::as_str),
            ":cause": end.as_ref().and_then(End::cause).map(Cause::as_str),
            ":message": end.as_ref().filter(|end| **end != End::Completed).map(End::message),
            ":deadline": deadline,
            ":started_at": started_at,
            ":ended_at": ended_at,
        })?;
    Ok(())
}

fn note(connection: &Connection, row: i64, from: &State, to: &State, at: Timestamp) -> Outcome<()> {
    let detail = match to {
        State::Failed(failure) => Some(format!("{}: {}", failure.reason, failure.message)),
        State::Timeout(deadline) => Some(End::Timeout(*deadline).message()),
        _ => None,
    };
    connection
        .prepare_cached(
            "INSERT INTO transitions (attempt_id, sequence, from_state, to_state, at, detail) \
             SELECT ?1, coalesce(max(sequence), 0) + 1, ?2, ?3, ?4, ?5 \
             FROM transitions WHERE attempt_id = ?1",
        )?
        .execute((
            row,
            from.name().as_str(),
            to.name().as_str(),
            values::instant(at)?,
            detail,
        ))?;
    Ok(())
}

/// How a state says that its attempt ended.
pub(crate) fn end(state: &State) -> Option<End> {
    match state {
        State::Pending | State::Creating | State::Running => None,
        State::Completed => Some(End::Completed),
        State::Failed(failure) => Some(End::Failed(failure.clone())),
        State::Timeout(deadline) => Some(End::Timeout(*deadline)),
        State::Cleanup(end) => Some(end.clone()),
    }
}

/// The state in the columns `state`, `reason`, `message` and `deadline`.
pub(crate) fn read(row: &Row<'_>) -> rusqlite::Result<State> {
    let state: StateName = values::name(row, "state")?;
    let deadline: Option<Deadline> = values::optional_name(row, "deadline")?;
    let reason: Option<Reason> = values::optional_name(row, "reason")?;
    let failure = || -> rusqlite::Result<Option<Failure>> {
        let message: Option<String> = row.get("message")?;
        Ok(reason.map(|reason| Failure::new(reason, message.unwrap_or_default())))
    };
    let missing = |what| values::unreadable(format!("an attempt that is {state} has no {what}"));
    Ok(match state {
        StateName::Pending => State::Pending,
        StateName::Creating => State::Creating,
        StateName::Running => State::Running,
        StateName::Completed => State::Completed,
        StateName::Failed => State::Failed(failure()?.ok_or_else(|| missing("reason"))?),
        StateName::Timeout => State::Timeout(deadline.ok_or_else(|| missing("deadline"))?),
        StateName::Cleanup => State::Cleanup(match (deadline, failure()?) {
            (Some(deadline), _) => End::Timeout(deadline),
            (None, Some(failure)) => End::Failed(failure),
            (None, None) => End::Completed,
        }),
    })
}
