//! The result of a run or a validation as people read it.

use std::collections::HashMap;

use forge_api::report::{Report, TaskReport, ValidationReport};
use forge_core::life_cycle::StateName;
use forge_core::{Reason, Verdict};
use forge_orchestrator::RunLayout;
use forge_plan::validation::Sign;

use crate::escape;
use crate::failures;
use crate::printer::Printer;
use crate::progress::Aim;
use crate::style::{Paint, Style};
use crate::table::{Cell, Table, hanging};
use crate::units;

/// Different remarks that are shown; the report holds all.
const NOTES: usize = 10;

/// Whether an attempt ended as the person who started it would like.
pub(crate) fn as_hoped(report: &TaskReport, aim: Aim) -> bool {
    match aim {
        // By the rule that the verdict follows.
        Aim::Validate if report.agent == "nop" => {
            let last_phase = report.phases.last().map(|phase| phase.name);
            Sign::of(report.cause, last_phase) == Sign::NotPassed
        }
        Aim::Complete | Aim::Validate => report.state == StateName::Completed,
    }
}

/// The sign for something good or bad.
pub(crate) const fn mark(good: bool) -> (&'static str, Style) {
    if good {
        ("✔", Style::Good)
    } else {
        ("✘", Style::Bad)
    }
}

/// Why an attempt did not complete, in a word or two.
pub(crate) fn why(report: &TaskReport) -> String {
    match (report.deadline, report.reason) {
        (Some(deadline), _) => format!("{deadline} deadline"),
        (None, Some(reason)) => reason.to_string(),
        (None, None) => String::new(),
    }
}

/// The result as text, for standard output.
pub(crate) fn render(report: &Report, layout: &RunLayout, aim: Aim, printer: &Printer) -> String {
    let paint = printer.out_paint();
    let width = printer.out_width();
    let mut text = match aim {
        Aim::Complete => attempts(&report.tasks).render(paint, width),
        Aim::Validate => verdicts(&report.validation).render(paint, width),
    };
    text.push_str(&failures::render(report, layout, aim, (paint, width)));
    text.push_str(&notes(&report.tasks, paint, width));
    text.push('\n');
    text.push_str(&summary(report, aim, paint));
    let path = escape::path(&layout.report());
    text.push_str(&format!("report: {path}\n"));
    text
}

fn attempts(tasks: &[TaskReport]) -> Table {
    let mut table = Table::new(&["TASK", "AGENT", "DIFFICULTY", "STATE", ">TIME", "REASON"]);
    for task in tasks {
        let style = match task.reason {
            Some(Reason::Cancelled) => Style::Warning,
            _ => mark(task.state == StateName::Completed).1,
        };
        let took = units::between(task.started_at, task.ended_at);
        table.row([
            Cell::from(&task.task_id),
            Cell::from(&task.agent),
            Cell::from(task.difficulty.as_str()),
            Cell::styled(style, task.state.as_str()),
            Cell::from(units::duration(took)),
            Cell::from(why(task)),
        ]);
    }
    table
}

fn verdicts(validation: &[ValidationReport]) -> Table {
    let mut table = Table::new(&["TASK", "VERDICT", "REASON"]);
    for each in validation {
        let style = mark(each.verdict == Verdict::Valid).1;
        table.row([
            Cell::from(&each.task_id),
            Cell::styled(style, each.verdict.as_str()),
            Cell::from(&each.reason),
        ]);
    }
    table
}

/// What was remarked about attempts, each remark once.
fn notes(tasks: &[TaskReport], paint: Paint, width: Option<usize>) -> String {
    let mut notes: Vec<(&str, Vec<&str>)> = Vec::new();
    // Where each remark is in `notes`, which has them in the order they were first made.
    let mut places: HashMap<&str, usize> = HashMap::new();
    for task in tasks {
        for note in &task.notes {
            let place = *places.entry(note).or_insert(notes.len());
            match notes.get_mut(place) {
                Some((_, tasks)) => tasks.push(&task.task_id),
                None => notes.push((note, vec![&task.task_id])),
            }
        }
    }
    let word = paint.paint(Style::Warning, "note");
    let mut text = String::new();
    for (note, tasks) in notes.iter().take(NOTES) {
        let whose = match tasks.as_slice() {
            [only] => escape::line(only),
            several => units::count(several.len() as u64, "attempt"),
        };
        let line = format!("{word}: {} ({whose})", escape::line(note));
        text.push('\n');
        text.push_str(&hanging(&line, width, 2));
    }
    if notes.len() > NOTES {
        let more = notes.len() - NOTES;
        text.push_str(&format!("\n{word}: {more} more are in the report"));
    }
    if !text.is_empty() {
        text.push('\n');
    }
    text
}

fn summary(report: &Report, aim: Aim, paint: Paint) -> String {
    let took = units::duration(units::between(report.run.started_at, report.run.ended_at));
    let totals = &report.totals;
    let mut parts = Vec::new();
    let mut add = |style: Style, number: u64, what: &str| {
        if number > 0 {
            parts.push(paint.paint(style, &format!("{number} {what}")));
        }
    };
    let number = match aim {
        Aim::Complete => {
            let elsewhere = totals.infrastructure + totals.cancelled + totals.not_runnable;
            add(Style::Good, totals.completed, "completed");
            add(
                Style::Bad,
                totals.failed.saturating_sub(elsewhere),
                "failed",
            );
            add(Style::Bad, totals.timeout, "timed out");
            add(Style::Bad, totals.infrastructure, "without a result");
            add(Style::Warning, totals.not_runnable, "not runnable");
            add(Style::Warning, totals.cancelled, "cancelled");
            units::count(totals.attempts, "task")
        }
        Aim::Validate => {
            for verdict in [
                Verdict::Valid,
                Verdict::NopPasses,
                Verdict::OracleFails,
                Verdict::Flaky,
                Verdict::Broken,
            ] {
                let having = report.validation.iter();
                let number = having.filter(|each| each.verdict == verdict).count();
                add(
                    mark(verdict == Verdict::Valid).1,
                    number as u64,
                    verdict.as_str(),
                );
            }
            units::count(report.validation.len() as u64, "task")
        }
    };
    let mut line = format!("{number}: {} · {took}", parts.join(", "));
    if aim == Aim::Validate && totals.cancelled > 0 {
        let cancelled = units::count(totals.cancelled, "attempt");
        let cancelled = format!(" · {cancelled} cancelled");
        line.push_str(&paint.paint(Style::Warning, &cancelled));
    }
    line.push('\n');
    line
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use forge_api::report::{Exit, ImageReport, LimitsReport, PhaseReport};
    use forge_core::{Difficulty, PhaseName};
    use jiff::Timestamp;

    /// The report of an attempt that ended for `reason`, or completed.
    pub(crate) fn report(task: &str, reason: Option<Reason>) -> TaskReport {
        let limits = Difficulty::Easy.limits();
        TaskReport {
            task_id: task.to_owned(),
            id: format!("{task}-1"),
            attempt: 1,
            agent: "oracle".to_owned(),
            agent_command: None,
            title: "A task".to_owned(),
            difficulty: Difficulty::Easy,
            state: match reason {
                None => StateName::Completed,
                Some(_) => StateName::Failed,
            },
            reason,
            cause: reason.map(Reason::cause),
            deadline: None,
            message: String::new(),
            started_at: Timestamp::UNIX_EPOCH,
            ended_at: Timestamp::UNIX_EPOCH,
            cleanup_ended_at: None,
            image: ImageReport::default(),
            limits: LimitsReport {
                memory_bytes: limits.memory_bytes,
                cpu_millis: limits.cpu_millis,
                disk_bytes: limits.disk_bytes,
                processes: limits.processes,
                timeout_seconds: limits.timeout.as_secs(),
                verify_timeout_seconds: limits.verify_timeout.as_secs(),
            },
            phases: Vec::new(),
            resources: forge_core::ResourceUsage::default(),
            disk_quota: None,
            network: forge_api::report::NetworkReport::default(),
            attestation: None,
            artifacts: Vec::new(),
            notes: Vec::new(),
            earlier: Vec::new(),
        }
    }

    #[test]
    fn a_remark_about_many_attempts_is_shown_once() {
        let mut tasks = [report("a", None), report("b", None), report("c", None)];
        tasks[0].notes.push("clamped".into());
        tasks[2].notes = vec!["clamped".into(), "left\x1b".into()];
        let plain = Paint { colored: false };
        assert_eq!(
            notes(&tasks, plain, None),
            "\nnote: clamped (2 attempts)\nnote: left\\x1b (c)\n"
        );
        assert_eq!(notes(&tasks[1..2], plain, None), "");
    }

    fn last_phase(name: PhaseName) -> PhaseReport {
        PhaseReport {
            name,
            network: forge_core::NetworkLevel::Isolated,
            exit: Exit::Exited { code: 1 },
            duration_ms: 1,
            output: String::new(),
            output_bytes: 0,
            truncated: false,
        }
    }

    #[test]
    fn a_validation_hopes_that_nop_fails_by_the_tests_and_oracle_passes() {
        let (setup, verify) = (PhaseName::Setup, PhaseName::Verify);
        for (agent, reason, phase, hoped) in [
            ("nop", Some(Reason::TestsFailed), Some(verify), true),
            ("nop", Some(Reason::OutOfMemory), Some(verify), true),
            ("nop", Some(Reason::DeadlineExceeded), Some(verify), true),
            ("nop", None, Some(verify), false),
            ("nop", Some(Reason::SetupFailed), Some(setup), false),
            // Whatever ends in setup says nothing about the tests.
            ("nop", Some(Reason::OutOfMemory), Some(setup), false),
            ("nop", Some(Reason::DeadlineExceeded), Some(setup), false),
            ("nop", Some(Reason::ImageUnavailable), None, false),
            ("nop", Some(Reason::EngineError), Some(verify), false),
            ("oracle", None, Some(verify), true),
            ("oracle", Some(Reason::TestsFailed), Some(verify), false),
        ] {
            let mut report = report("x", reason);
            report.agent = agent.to_owned();
            report.phases.extend(phase.map(last_phase));
            assert_eq!(
                as_hoped(&report, Aim::Validate),
                hoped,
                "{agent} {reason:?} {phase:?}"
            );
        }
    }
}
