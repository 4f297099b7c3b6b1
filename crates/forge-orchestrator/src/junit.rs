//! `junit.xml`, for the many programs that show test results.

use std::io::{self, Write};

use forge_api::report::{Report, TaskReport};
use forge_core::Cause;
use forge_core::life_cycle::StateName;
use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesEnd, BytesStart, BytesText, Event};

/// Writes the report as JUnit XML: a suite for the run, a case for each attempt.
///
/// # Errors
/// Of the underlying writer.
pub fn write(report: &Report, out: impl Write) -> io::Result<()> {
    let mut writer = Writer::new_with_indent(out, b' ', 2);
    writer.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    let totals = &report.totals;
    let errors = report.tasks.iter().filter(|task| is_error(task)).count() as u64;
    let mut suite = BytesStart::new("testsuite");
    suite.push_attribute(("name", format!("swe-forge {}", report.run.kind).as_str()));
    suite.push_attribute(("tests", totals.attempts.to_string().as_str()));
    suite.push_attribute((
        "failures",
        (totals.failed + totals.timeout)
            .saturating_sub(errors)
            .to_string()
            .as_str(),
    ));
    suite.push_attribute(("errors", errors.to_string().as_str()));
    suite.push_attribute(("timestamp", report.run.started_at.to_string().as_str()));
    suite.push_attribute((
        "time",
        seconds(report.run.started_at, report.run.ended_at).as_str(),
    ));
    writer.write_event(Event::Start(BytesStart::new("testsuites")))?;
    writer.write_event(Event::Start(suite))?;
    for task in &report.tasks {
        case(&mut writer, task)?;
    }
    writer.write_event(Event::End(BytesEnd::new("testsuite")))?;
    writer.write_event(Event::End(BytesEnd::new("testsuites")))?;
    Ok(())
}

fn seconds(from: jiff::Timestamp, to: jiff::Timestamp) -> String {
    format!(
        "{:.3}",
        (to - from).total(jiff::Unit::Second).unwrap_or_default()
    )
}

fn case<W: Write>(writer: &mut Writer<W>, task: &TaskReport) -> io::Result<()> {
    let mut case = BytesStart::new("testcase");
    case.push_attribute(("classname", task.difficulty.as_str()));
    case.push_attribute((
        "name",
        format!("{} ({})", task.task_id, task.agent).as_str(),
    ));
    case.push_attribute(("time", seconds(task.started_at, task.ended_at).as_str()));
    if task.state == StateName::Completed {
        return writer.write_event(Event::Empty(case));
    }
    writer.write_event(Event::Start(case))?;
    let element = if is_error(task) { "error" } else { "failure" };
    let reason = task.reason.map_or("", |reason| reason.as_str());
    let mut detail = BytesStart::new(element);
    detail.push_attribute(("type", reason));
    let message = printable(&task.message);
    detail.push_attribute(("message", message.as_str()));
    writer.write_event(Event::Start(detail))?;
    writer.write_event(Event::Text(BytesText::new(&message)))?;
    writer.write_event(Event::End(BytesEnd::new(element)))?;
    writer.write_event(Event::End(BytesEnd::new("testcase")))
}

/// JUnit tells a test that failed from one that could not be run.
const fn is_error(task: &TaskReport) -> bool {
    matches!(task.cause, Some(Cause::Infrastructure | Cause::User))
}

/// XML 1.0 has no way to hold most control characters (section 2.2, production 2).
fn printable(text: &str) -> String {
    text.chars()
        .map(|character| match character {
            '\t' | '\n' | '\r' => character,
            other if other.is_control() || matches!(other, '\u{fffe}' | '\u{ffff}') => '\u{fffd}',
            other => other,
        })
        .collect()
}
