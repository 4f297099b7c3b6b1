//! `swe-forge gc`: removes what processes that are gone left on the engine.

use forge_core::ownership::keys;
use forge_orchestrator::gc::{self, GcOptions, GcReport, Leftover};
use forge_plan::reaper::Ground;
use jiff::Timestamp;

use crate::arguments::{Format, GcArguments};
use crate::error::CliError;
use crate::exit_status::ExitStatus;
use crate::printer::Printer;
use crate::provider::Need;
use crate::session::Session;
use crate::style::Style;
use crate::table::{Cell, Table};
use crate::units;

pub(super) async fn carry_out(
    session: &Session,
    arguments: GcArguments,
) -> Result<ExitStatus, CliError> {
    let store = session.record().await?;
    let engine = session.engine(store.owner(), Need::Management).await?;
    let options = GcOptions {
        dry_run: arguments.dry_run,
        any_owner: arguments.any_owner,
        now: Timestamp::now(),
    };
    let report = gc::collect(&*engine, store.owner(), options).await?;
    let printer = &session.printer;
    // What was removed is said first, since nobody could find out after an error of the record; and
    // the record is settled even when nobody reads what is said.
    let shown = show(&report, options, arguments.output.format, printer);
    let mut status = ExitStatus::Success;
    if report.failures() > 0 {
        status = ExitStatus::Infrastructure;
    }
    if !options.dry_run {
        let settled = gc::settle_dead_runs(&*engine, &store, options.now).await;
        if let Err(error) = settled.map_err(CliError::from) {
            // Not returned: the one JSON document is written already.
            printer.error_stream(&error.render(printer.err_paint()));
            status = ExitStatus::Infrastructure;
        }
    }
    match shown {
        Err(error) if !error.is_reader_gone() => Err(error),
        _ => Ok(status),
    }
}

fn show(
    report: &GcReport,
    options: GcOptions,
    format: Format,
    printer: &Printer,
) -> Result<(), CliError> {
    match format {
        Format::Json => printer.json(report)?,
        Format::Human => {
            if !report.leftovers.is_empty() {
                let table = table(report, options);
                printer.text(&table.render(printer.out_paint(), printer.out_width()))?;
            }
            printer.progress(&summary(report, options));
        }
    }
    Ok(())
}

fn table(report: &GcReport, options: GcOptions) -> Table {
    let mut table = Table::new(&["KIND", "NAME", "AGE", "GROUND", "RESULT"]);
    for leftover in &report.leftovers {
        let created = leftover.object.time(keys::CREATED_AT);
        let age = created.map(|created| units::duration(units::between(created, options.now)));
        table.row([
            Cell::from(leftover.object.kind.to_string()),
            Cell::from(&leftover.object.name),
            Cell::from(age.unwrap_or_default()),
            Cell::from(ground(leftover.ground)),
            result(leftover, options),
        ]);
    }
    table
}

const fn ground(ground: Ground) -> &'static str {
    match ground {
        Ground::HolderGone => "its process is gone",
        Ground::Expired => "expired",
    }
}

fn result(leftover: &Leftover, options: GcOptions) -> Cell {
    match &leftover.error {
        Some(error) => Cell::styled(Style::Bad, error),
        None if options.dry_run => Cell::from("would be removed"),
        None => Cell::styled(Style::Good, "removed"),
    }
}

fn summary(report: &GcReport, options: GcOptions) -> String {
    let failures = report.failures();
    let done = report.leftovers.len() - failures;
    let mut parts = vec![match (options.dry_run, done) {
        (_, 0) if failures == 0 => "nothing is left over".to_owned(),
        (true, done) => format!("{} would be removed", units::count(done as u64, "object")),
        (false, done) => format!("{} removed", units::count(done as u64, "object")),
    }];
    if failures > 0 {
        parts.push(format!("{failures} could not be removed"));
    }
    if report.kept > 0 {
        parts.push(format!("{} in use", report.kept));
    }
    parts.join(", ")
}
