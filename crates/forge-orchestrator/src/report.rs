//! Writes what a run found: `report.json` and `junit.xml`, whole or not at all.

use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use forge_api::report::{Report, TaskReport, Totals};
use forge_core::life_cycle::StateName;
use forge_core::{Cause, Failure, Outcome, Reason};

use crate::junit;
use crate::layout::RunLayout;

/// The report could not be written.
#[derive(Debug, thiserror::Error)]
#[error("could not write {}", path.display())]
pub struct ReportError {
    /// The file.
    pub path: PathBuf,
    /// Why.
    #[source]
    source: io::Error,
}

/// Counts attempts by how they ended.
#[must_use]
pub fn totals<'a>(tasks: impl IntoIterator<Item = &'a TaskReport>) -> Totals {
    let mut totals = Totals::default();
    for task in tasks {
        totals.attempts += 1;
        match task.state {
            StateName::Completed => totals.completed += 1,
            StateName::Timeout => totals.timeout += 1,
            _ => totals.failed += 1,
        }
        if task.cause == Some(Cause::Infrastructure) {
            totals.infrastructure += 1;
        }
        match (task.reason, task.cause) {
            (Some(Reason::Cancelled), _) => totals.cancelled += 1,
            (_, Some(Cause::User)) => totals.not_runnable += 1,
            _ => {}
        }
    }
    totals
}

/// Writes both files of a run.
///
/// # Errors
/// [`ReportError`] names the file.
pub fn write(report: &Report, layout: &RunLayout) -> Result<(), ReportError> {
    replace(&layout.report(), |out| {
        serde_json::to_writer_pretty(&mut *out, report)?;
        out.write_all(b"\n")
    })?;
    replace(&layout.junit(), |out| junit::write(report, out))
}

/// A reader never sees half a file: it is written beside its place and moved there.
fn replace(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<fs::File>) -> io::Result<()>,
) -> Result<(), ReportError> {
    let attempt = || {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let partial = path.with_extension("partial");
        let written = fs::File::create(&partial).and_then(|file| {
            let mut out = BufWriter::new(file);
            write(&mut out)?;
            out.flush()?;
            fs::rename(&partial, path)
        });
        if written.is_err() {
            // The first error is the one to report; what cannot be removed either stays.
            fs::remove_file(&partial).ok();
        }
        written
    };
    attempt().map_err(|source| ReportError {
        path: path.to_owned(),
        source,
    })
}

/// The outcome that a report tells of.
pub(crate) fn outcome_of(task: &TaskReport) -> Outcome {
    match (task.state, task.deadline, task.reason) {
        (StateName::Completed, ..) => Outcome::Completed,
        (StateName::Timeout, Some(deadline), _) => Outcome::Timeout(deadline),
        (_, _, reason) => Outcome::Failed(Failure::new(
            reason.unwrap_or(Reason::InternalError),
            task.message.clone(),
        )),
    }
}
