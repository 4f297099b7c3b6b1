//! `swe-forge check`: task files are read, nothing is run.

use std::collections::BTreeMap;

use forge_core::{Limits, PhaseName, Task};
use forge_task::Diagnostic;
use serde::Serialize;

use super::tasks;
use crate::arguments::{CheckArguments, Format};
use crate::error::{CliError, render_diagnostic};
use crate::exit_status::ExitStatus;
use crate::session::Session;
use crate::style::Style;
use crate::table::{Cell, Table};
use crate::units;

/// The JSON document.
#[derive(Debug, Serialize)]
struct Document<'a> {
    tasks: Vec<TaskSummary<'a>>,
    errors: &'a [Diagnostic],
}

#[derive(Debug, Serialize)]
struct TaskSummary<'a> {
    id: &'a str,
    title: &'a str,
    difficulty: &'a str,
    image: &'a str,
    network: BTreeMap<&'static str, &'static str>,
    limits: Limits,
    has_tests: bool,
    has_solution: bool,
    tags: &'a [String],
}

impl<'a> TaskSummary<'a> {
    fn of(task: &'a Task) -> Self {
        let level = |phase: PhaseName| (phase.as_str(), task.network.level(phase).as_str());
        Self {
            id: task.id.as_str(),
            title: &task.title,
            difficulty: task.difficulty.as_str(),
            image: task.image.reference(),
            network: PhaseName::ALL.into_iter().map(level).collect(),
            limits: task.limits,
            has_tests: task.tests.is_some(),
            has_solution: task.solution.is_some(),
            tags: &task.tags,
        }
    }
}

pub(super) async fn carry_out(
    session: &Session,
    arguments: CheckArguments,
) -> Result<ExitStatus, CliError> {
    let printer = &session.printer;
    let configuration = session.configuration().await?;
    let loaded = tasks::load(arguments.tasks.directories, &configuration).await?;
    let status = if loaded.errors.is_empty() {
        ExitStatus::Success
    } else {
        ExitStatus::BadInput
    };
    match arguments.output.format {
        Format::Json => printer.json(&Document {
            tasks: loaded.tasks.iter().map(TaskSummary::of).collect(),
            errors: &loaded.errors,
        })?,
        Format::Human if !loaded.tasks.is_empty() => {
            printer.text(&table(&loaded.tasks).render(printer.out_paint(), printer.out_width()))?;
        }
        Format::Human => {}
    }
    for diagnostic in &loaded.errors {
        printer.error_stream(&render_diagnostic(diagnostic, printer.err_paint()));
    }
    let good = format!("{} fine", units::count(loaded.tasks.len() as u64, "task"));
    let (style, line) = if loaded.errors.is_empty() {
        (Style::Good, good)
    } else {
        let mistakes = units::count(loaded.errors.len() as u64, "mistake");
        (Style::Bad, format!("{mistakes}, {good}"))
    };
    printer.progress(&printer.err_paint().paint(style, &line));
    Ok(status)
}

fn table(tasks: &[Task]) -> Table {
    let mut table = Table::new(&[
        "TASK",
        "DIFFICULTY",
        "IMAGE",
        "NETWORK",
        "SOLUTION",
        "TITLE",
    ]);
    for task in tasks {
        let widest = PhaseName::ALL.map(|phase| task.network.level(phase));
        let network = widest.into_iter().max().unwrap_or_default();
        table.row([
            Cell::from(task.id.as_str()),
            Cell::from(task.difficulty.as_str()),
            Cell::from(task.image.reference()),
            Cell::from(network.as_str()),
            Cell::from(if task.solution.is_some() { "yes" } else { "no" }),
            Cell::from(&task.title),
        ]);
    }
    table
}
