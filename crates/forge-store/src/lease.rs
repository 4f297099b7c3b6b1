//! Which process drives a run, and how another takes it over.
//!
//! Each holder has an epoch, a number that grows by one with every take-over. A process that was
//! taken for dead and is not, such as one that was stopped and goes on, has an epoch that has
//! passed: what it writes through [`Store::fenced`] is refused.

use forge_core::RunId;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension};

use crate::errors::StoreError;
use crate::fault::{Fault, Outcome};
use crate::runs;
use crate::store::Store;
use crate::values::{self, Count};

/// The holder that a handle writes for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fence {
    pub(crate) run: RunId,
    pub(crate) epoch: u64,
}

impl Fence {
    /// Refuses when the run has another holder by now.
    pub(crate) fn check(self, connection: &Connection) -> Outcome<()> {
        let Self { run, epoch } = self;
        let stored: Count = connection
            .prepare_cached("SELECT epoch FROM runs WHERE uuid = ?1")?
            .query_row([run.to_string()], |row| row.get(0))
            .optional()?
            .ok_or_else(|| Fault::not_found("run", run))?;
        if stored.0 == epoch {
            Ok(())
        } else {
            Err(StoreError::Superseded { run, epoch }.into())
        }
    }
}

impl Store {
    /// Makes `holder` the process that drives a run, if nobody else became it since the caller
    /// read that its epoch is `from_epoch`. Returns the new epoch; `None` when another was faster
    /// or the run has ended. Of several that try at once exactly one gets it.
    ///
    /// Whether the former holder is gone is for the caller to know.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is no such run.
    pub async fn take_over_run(
        &self,
        run: &RunId,
        from_epoch: u64,
        holder: &str,
        at: Timestamp,
    ) -> Result<Option<u64>, StoreError> {
        let (run, holder) = (*run, holder.to_owned());
        self.write("take a run over", move |transaction| {
            let id = runs::row_id(transaction, &run)?;
            let epoch = transaction
                .prepare_cached(
                    "UPDATE runs SET holder = ?3, epoch = epoch + 1, renewed_at = ?4 \
                     WHERE id = ?1 AND epoch = ?2 AND ended_at IS NULL RETURNING epoch",
                )?
                .query_row(
                    (id, values::count(from_epoch)?, holder, values::instant(at)?),
                    |row| row.get::<_, Count>(0),
                )
                .optional()?;
            Ok(epoch.map(|epoch| epoch.0))
        })
        .await
    }

    /// Records a sign of life of the process that drives a run in `epoch`. Returns `false`, and
    /// records nothing, when that is another epoch by now.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is no such run.
    pub async fn renew(&self, run: &RunId, epoch: u64, at: Timestamp) -> Result<bool, StoreError> {
        let run = *run;
        self.write("record that a run goes on", move |transaction| {
            let id = runs::row_id(transaction, &run)?;
            let changed = transaction
                .prepare_cached("UPDATE runs SET renewed_at = ?3 WHERE id = ?1 AND epoch = ?2")?
                .execute((id, values::count(epoch)?, values::instant(at)?))?;
            Ok(changed > 0)
        })
        .await
    }
}
