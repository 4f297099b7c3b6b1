//! `swe-forge gc`: removes what processes that are gone left on the engine, and results and images
//! that have had their time.

use std::collections::BTreeMap;

use forge_core::RunId;
use forge_core::ownership::keys;
use forge_orchestrator::gc::{self, GcOptions, GcReport, Leftover, Staying};
use forge_orchestrator::janitor::{self, ClearOptions, ClearedImage, ClearedResults};
use forge_orchestrator::settle;
use forge_plan::reaper::{Ground, Scope, Stay};
use forge_plan::retention;
use forge_store::Store;
use jiff::Timestamp;
use serde::Serialize;

use super::prepared;
use crate::arguments::{Format, GcArguments};
use crate::error::CliError;
use crate::escape;
use crate::exit_status::ExitStatus;
use crate::operator;
use crate::printer::Printer;
use crate::provider::Need;
use crate::session::Session;
use crate::style::Style;
use crate::table::{Cell, Table};
use crate::units;

/// The JSON document.
#[derive(Debug, Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    objects: &'a GcReport,
    results: &'a [ClearedResults],
    images: &'a [ClearedImage],
}

/// Everything that was found and done.
struct Outcome {
    objects: GcReport,
    results: Vec<ClearedResults>,
    images: Vec<ClearedImage>,
    options: GcOptions,
}

pub(super) async fn carry_out(
    session: &Session,
    arguments: GcArguments,
) -> Result<ExitStatus, CliError> {
    let store = session.record().await?;
    let configuration = session.configuration().await?;
    let settings = operator::engine_settings(&configuration);
    let need = Need::Management;
    let engine = session.engine_with(store.owner(), need, settings).await?;
    let options = GcOptions {
        dry_run: arguments.dry_run,
        scope: Scope {
            any_owner: arguments.any_owner,
            interrupted: arguments.interrupted,
            // Whoever wants to look at something still does not ask for this.
            kept: true,
        },
        now: Timestamp::now(),
    };
    let clear = ClearOptions {
        dry_run: options.dry_run,
        policy: operator::retention(&configuration),
        now: options.now,
    };
    let mut outcome = Outcome {
        objects: gc::collect(&*engine, &store, options).await?,
        results: Vec::new(),
        images: Vec::new(),
        options,
    };
    // From here on something may have been removed already, which nobody could find out after an
    // error: the rest is tried all the same, and errors are said after what was done.
    let mut errors: Vec<CliError> = Vec::new();
    if !options.dry_run {
        let settled = settle::settle(&*engine, &store, options.now).await;
        errors.extend(settled.err().map(CliError::from));
    }
    match janitor::clear_results(&store, clear).await {
        Ok(results) => outcome.results = results,
        Err(error) => errors.push(error.into()),
    }
    if let Some(images) = engine.images() {
        match janitor::clear_images(images, &store, clear).await {
            Ok(images) => outcome.images = images,
            Err(error) => errors.push(error.into()),
        }
    }
    let printer = &session.printer;
    let shown = outcome.show(&store, arguments.output.format, printer).await;
    for error in &errors {
        // Not returned: the one JSON document is written already.
        printer.error_stream(&error.render(printer.err_paint()));
    }
    match shown {
        Err(error) if !error.is_reader_gone() => Err(error),
        _ if errors.is_empty() && outcome.failures() == 0 => Ok(ExitStatus::Success),
        _ => Ok(ExitStatus::Infrastructure),
    }
}

impl Outcome {
    fn failures(&self) -> usize {
        let results = self.results.iter().filter(|each| each.error.is_some());
        let images = self.images.iter().filter(|each| each.error.is_some());
        self.objects.failures() + results.count() + images.count()
    }

    async fn show(&self, store: &Store, format: Format, printer: &Printer) -> Result<(), CliError> {
        if format == Format::Json {
            return printer.json(&Document {
                objects: &self.objects,
                results: &self.results,
                images: &self.images,
            });
        }
        let dry_run = self.options.dry_run;
        let tables = [
            (self.objects.leftovers.is_empty(), self.objects_table()),
            (
                self.results.is_empty(),
                results_table(&self.results, dry_run),
            ),
            (self.images.is_empty(), images_table(&self.images, dry_run)),
        ];
        for (is_empty, table) in tables {
            if !is_empty {
                printer.text(&table.render(printer.out_paint(), printer.out_width()))?;
            }
        }
        printer.progress(&self.summary());
        for line in self.staying(&not_begun(store, &self.objects.staying).await?) {
            printer.progress(&line);
        }
        Ok(())
    }

    fn objects_table(&self) -> Table {
        let mut table = Table::new(&["KIND", "NAME", "AGE", "GROUND", "RESULT"]);
        for leftover in &self.objects.leftovers {
            let created = leftover.object.time(keys::CREATED_AT);
            let age =
                created.map(|created| units::duration(units::between(created, self.options.now)));
            table.row([
                Cell::from(leftover.object.kind.to_string()),
                Cell::from(&leftover.object.name),
                Cell::from(age.unwrap_or_default()),
                Cell::from(ground(leftover.ground)),
                self.result(leftover),
            ]);
        }
        table
    }

    fn result(&self, leftover: &Leftover) -> Cell {
        result(leftover.error.as_deref(), self.options.dry_run)
    }

    fn summary(&self) -> String {
        let dry_run = self.options.dry_run;
        let objects = self.objects.leftovers.len() - self.objects.failures();
        let mut parts = Vec::new();
        let mut count = |number: usize, noun: &str, bytes: Option<u64>| {
            if number > 0 {
                let what = units::count(number as u64, noun);
                let size = bytes.map(|bytes| format!(" ({})", units::bytes(bytes)));
                let size = size.unwrap_or_default();
                parts.push(match dry_run {
                    true => format!("{what}{size} would be removed"),
                    false => format!("{what}{size} removed"),
                });
            }
        };
        count(objects, "object", None);
        let results: Vec<_> = self
            .results
            .iter()
            .filter(|each| each.error.is_none())
            .collect();
        let bytes = results.iter().map(|each| each.bytes).sum();
        count(results.len(), "old result", Some(bytes));
        let gone = |image: &&ClearedImage| image.error.is_none() && !image.in_use;
        let images: Vec<_> = self.images.iter().filter(gone).collect();
        let bytes = images.iter().map(|each| each.bytes).sum();
        count(images.len(), "old image", Some(bytes));
        let failures = self.failures();
        if parts.is_empty() && failures == 0 {
            parts.push("nothing is left over".to_owned());
        }
        if failures > 0 {
            parts.push(format!("{failures} could not be removed"));
        }
        let given_up = self.objects.given_up.len();
        if given_up > 0 {
            let runs = units::count(given_up as u64, "interrupted run");
            parts.push(match dry_run {
                true => format!("{runs} would be given up"),
                false => format!("{runs} given up"),
            });
        }
        parts.join(", ")
    }

    /// What stays, and why, a line each.
    fn staying(&self, waiting: &BTreeMap<RunId, u64>) -> Vec<String> {
        let mut lines = Vec::new();
        let mut others: BTreeMap<Stay, u64> = BTreeMap::new();
        for staying in &self.objects.staying {
            match (staying.why, staying.run) {
                (Stay::Interrupted, Some(run)) => {
                    let unfinished = waiting.get(&run).copied().unwrap_or(0);
                    lines.push(interrupted(run, staying.objects, unfinished));
                }
                (why, _) => *others.entry(why).or_default() += staying.objects,
            }
        }
        lines.extend(others.into_iter().filter_map(|(why, objects)| {
            let count = units::count(objects, "object");
            Some(match why {
                Stay::InUse => format!("{count} in use"),
                Stay::Kept => format!("{count} kept for inspection"),
                Stay::Interrupted => format!("{count} of interrupted runs"),
                Stay::NotExpired => format!(
                    "{count} of processes that cannot be seen from here: they go when they expire"
                ),
                Stay::Foreign => return None,
            })
        }));
        lines
    }
}

/// Attempts of interrupted runs that have no result yet.
async fn not_begun(store: &Store, staying: &[Staying]) -> Result<BTreeMap<RunId, u64>, CliError> {
    let mut unfinished = BTreeMap::new();
    for staying in staying {
        if let (Stay::Interrupted, Some(run)) = (staying.why, staying.run) {
            let attempts = store.attempts_of(&run).await?;
            let open = attempts.iter().filter(|each| each.outcome().is_none());
            unfinished.insert(run, open.count() as u64);
        }
    }
    Ok(unfinished)
}

fn interrupted(run: RunId, objects: u64, unfinished: u64) -> String {
    let what = match objects {
        0 => format!("the interrupted run {run} left nothing"),
        objects => format!(
            "{} of the interrupted run {run}",
            units::count(objects, "object")
        ),
    };
    let attempts = units::count(unfinished, "attempt");
    format!(
        "{what}, {attempts} without a result: `swe-forge run --resume {run}` goes on with it, \
         `swe-forge gc --interrupted` gives it up"
    )
}

fn results_table(results: &[ClearedResults], dry_run: bool) -> Table {
    let mut table = Table::new(&["RESULTS OF", ">SIZE", "GROUND", "RESULT"]);
    for cleared in results {
        let of = match &cleared.attempt {
            Some(attempt) => format!("{attempt} in {}", escape::path(&cleared.folder)),
            None => escape::path(&cleared.folder),
        };
        let why = match (cleared.ground, cleared.folder_stays) {
            (retention::Ground::Old, false) => "too old",
            (retention::Ground::OverBudget, false) => "over budget",
            (_, true) => "its folder stays: something else is in it",
        };
        table.row([
            Cell::from(of),
            Cell::from(units::bytes(cleared.bytes)),
            Cell::from(why),
            result(cleared.error.as_deref(), dry_run),
        ]);
    }
    table
}

fn images_table(images: &[ClearedImage], dry_run: bool) -> Table {
    let mut table = Table::new(&["IMAGE", ">SIZE", "GROUND", "RESULT"]);
    for cleared in images {
        let (why, result) = match cleared.in_use {
            true => ("a container uses it", Cell::from("stays")),
            false => (
                "not asked for lately",
                result(cleared.error.as_deref(), dry_run),
            ),
        };
        table.row([
            Cell::from(prepared::name(&cleared.tags, &cleared.id)),
            Cell::from(units::bytes(cleared.bytes)),
            Cell::from(why),
            result,
        ]);
    }
    table
}

const fn ground(ground: Ground) -> &'static str {
    match ground {
        Ground::HolderGone => "its process is gone",
        Ground::Expired => "expired",
        Ground::GivenUp => "its run is given up",
    }
}

fn result(error: Option<&str>, dry_run: bool) -> Cell {
    match error {
        Some(error) => Cell::styled(Style::Bad, error),
        None if dry_run => Cell::from("would be removed"),
        None => Cell::styled(Style::Good, "removed"),
    }
}
