//! What went wrong in a run, with the end of the log that tells most.

use forge_api::report::{Report, TaskReport};
use forge_core::life_cycle::StateName;
use forge_core::{Reason, Verdict};
use forge_orchestrator::RunLayout;

use crate::escape;
use crate::log_tail;
use crate::progress::Aim;
use crate::results::{as_hoped, why};
use crate::style::{Paint, Style};
use crate::table::hanging;

/// Failures told with their logs; of the others the table says enough.
const TOLD: usize = 8;
/// Lines of a log that are shown.
const LINES: usize = 15;

/// Tells the failures of a run, on a screen with these colours and this width; empty when there is
/// none.
pub(crate) fn render(
    report: &Report,
    layout: &RunLayout,
    aim: Aim,
    screen: (Paint, Option<usize>),
) -> String {
    let failures = match aim {
        Aim::Complete => report
            .tasks
            .iter()
            .filter(|task| task.state != StateName::Completed)
            .filter(|task| task.reason != Some(Reason::Cancelled))
            .collect(),
        Aim::Validate => telling_attempts(report),
    };
    let mut text = String::new();
    for task in failures.iter().take(TOLD) {
        text.push('\n');
        text.push_str(&one(task, layout, screen));
    }
    let more = failures.len().saturating_sub(TOLD);
    if more > 0 {
        let line =
            format!("\n… and {more} more; `swe-forge logs ID` shows what an attempt wrote\n");
        text.push_str(&line);
    }
    text
}

/// Of each task that is not valid, the attempt that shows why best.
fn telling_attempts(report: &Report) -> Vec<&TaskReport> {
    let bad = |verdict| verdict != Verdict::Valid;
    report
        .validation
        .iter()
        .filter(|each| bad(each.verdict))
        .filter_map(|each| {
            report
                .tasks
                .iter()
                .filter(|task| task.task_id == each.task_id)
                .filter(|task| task.reason != Some(Reason::Cancelled))
                .find(|task| !as_hoped(task, Aim::Validate))
        })
        .collect()
}

fn one(task: &TaskReport, layout: &RunLayout, (paint, width): (Paint, Option<usize>)) -> String {
    let name = paint.paint(Style::Bold, &escape::line(&task.task_id));
    let what = match task.state {
        StateName::Completed => "verification passed".to_owned(),
        _ => why(task),
    };
    let mut text = format!(
        "{name} ({}): {}",
        task.agent,
        paint.paint(Style::Bad, &what)
    );
    if !task.message.is_empty() && task.message != what {
        text.push_str(": ");
        text.push_str(&escape::line(&task.message));
    }
    text = hanging(&text, width, 4);
    text.push('\n');
    if let Some(phase) = task.phases.last() {
        let path = layout.root().join(&phase.output);
        match log_tail::read(&path, LINES) {
            Ok(tail) => {
                let bar = paint.paint(Style::Dim, "│");
                if tail.lines.is_empty() {
                    text.push_str(&format!("  {bar} ({} wrote nothing)\n", phase.name));
                }
                for line in &tail.lines {
                    text.push_str(format!("  {bar} {line}").trim_end());
                    text.push('\n');
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                let path = escape::path(&path);
                text.push_str(&format!("  {path} could not be read: {error}\n"));
            }
        }
        let command = format!(
            "  whole log: swe-forge logs {} --phase {}",
            task.id, phase.name
        );
        text.push_str(&paint.paint(Style::Dim, &command));
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::report;
    use forge_api::report::{Exit, PhaseReport};
    use forge_core::PhaseName;

    #[test]
    fn a_failure_is_told_with_the_end_of_its_last_phase() {
        let folder = tempfile::tempdir().unwrap();
        let layout = RunLayout::at(folder.path().to_owned());
        std::fs::write(
            folder.path().join("verify.log"),
            "1 passed\n\x1b[31m1 failed\n",
        )
        .unwrap();
        let mut task = report("x", Some(Reason::TestsFailed));
        task.message = "verify ended with code 1".to_owned();
        task.phases.push(PhaseReport {
            name: PhaseName::Verify,
            network: forge_core::NetworkLevel::Isolated,
            exit: Exit::Exited { code: 1 },
            duration_ms: 5,
            output: "verify.log".to_owned(),
            output_bytes: 24,
            truncated: false,
        });
        assert_eq!(
            one(&task, &layout, (Paint { colored: false }, None)),
            "x (oracle): tests_failed: verify ended with code 1\n  \
             │ 1 passed\n  \
             │ \\x1b[31m1 failed\n  \
             whole log: swe-forge logs x-1 --phase verify\n"
        );
    }
}
