//! What a run is doing: a live view on a terminal, a line for each ended attempt elsewhere.
//!
//! [`Board`] is the state of the view and decides what it shows; [`watch`] feeds it with events and
//! puts it on the screen.

use std::time::{Duration, Instant};

use console::truncate_str;
use forge_api::report::TaskReport;
use forge_core::life_cycle::StateName;
use forge_core::{Cause, Reason, SandboxId, TaskId};
use forge_orchestrator::RunEvent;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::escape;
use crate::printer::Printer;
use crate::results::{as_hoped, mark, why};
use crate::style::{Paint, Style};
use crate::units;

/// Time between two steps of the spinner.
const TICK: Duration = Duration::from_millis(120);
const SPINNER: [&str; 8] = ["⠋", "⠙", "⠸", "⠴", "⠦", "⠇", "⠏", "⠹"];
/// Rows left to what was on the terminal before.
const SPARE_ROWS: usize = 4;
/// Longest task id that keeps the columns of the live view aligned.
const NAME_COLUMN: usize = 32;

/// What a run is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Aim {
    /// Every attempt should complete.
    Complete,
    /// `nop` should fail, `oracle` should complete.
    Validate,
}

/// One attempt under way.
#[derive(Debug)]
struct Running {
    id: SandboxId,
    task: TaskId,
    agent: &'static str,
    doing: &'static str,
    /// What is unusual about its sandbox.
    remark: Option<String>,
    since: Instant,
}

/// How many attempts ended in which way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    done: u64,
    completed: u64,
    /// By the task or its agent alone.
    failed: u64,
    timeout: u64,
    infrastructure: u64,
    not_runnable: u64,
    cancelled: u64,
    as_hoped: u64,
}

/// The state of the view.
#[derive(Debug)]
pub(crate) struct Board {
    aim: Aim,
    total: u64,
    /// Width of the column of task ids.
    names: usize,
    began: Instant,
    counts: Counts,
    running: Vec<Running>,
    draining: bool,
    cancelling: bool,
    step: usize,
}

impl Board {
    /// A view of a run that begins now: of `total` attempts at `tasks`.
    pub(crate) fn new<'a>(
        aim: Aim,
        total: u64,
        tasks: impl IntoIterator<Item = &'a TaskId>,
        now: Instant,
    ) -> Self {
        let lengths = tasks.into_iter().map(|task| task.as_str().len());
        Self {
            aim,
            total,
            names: lengths.max().unwrap_or(0).min(NAME_COLUMN),
            began: now,
            counts: Counts::default(),
            running: Vec::new(),
            draining: false,
            cancelling: false,
            step: 0,
        }
    }

    /// Takes an event; gives the line about an attempt that ended.
    pub(crate) fn handle(&mut self, event: RunEvent, now: Instant, paint: Paint) -> Option<String> {
        match event {
            RunEvent::Started { id, task, agent } => self.running.push(Running {
                id,
                task,
                agent,
                doing: "starting",
                remark: None,
                since: now,
            }),
            RunEvent::State { id, state } => self.set_doing(
                &id,
                match state {
                    StateName::Pending => "starting",
                    StateName::Creating => "creating",
                    StateName::Running => "running",
                    StateName::Completed | StateName::Failed | StateName::Timeout => "ending",
                    StateName::Cleanup => "cleanup",
                },
            ),
            RunEvent::Phase { id, phase } => self.set_doing(&id, phase.as_str()),
            RunEvent::Health { id, remark } => {
                if let Some(running) = self.running.iter_mut().find(|running| running.id == id) {
                    running.remark = remark;
                }
            }
            RunEvent::Again {
                id, pause, message, ..
            } => {
                let place = self.running.iter().position(|running| running.id == id)?;
                let task = self.running.remove(place).task;
                return Some(self.again_line(&task, pause, &message, paint));
            }
            RunEvent::Ended { id, report } => {
                let place = self.running.iter().position(|running| running.id == id);
                self.count(&report);
                // What was cancelled before it began is a number, not a line.
                return place.map(|place| {
                    self.running.remove(place);
                    self.ended_line(&report, paint)
                });
            }
            RunEvent::Resumed {
                ended,
                under_way,
                anew,
                waiting,
            } => {
                ended.iter().for_each(|report| self.count(report));
                return Some(resumed_line(ended.len(), under_way, anew, waiting));
            }
            RunEvent::Draining => self.draining = true,
            RunEvent::Cancelling => self.cancelling = true,
        }
        None
    }

    fn set_doing(&mut self, id: &SandboxId, doing: &'static str) {
        if let Some(running) = self.running.iter_mut().find(|running| running.id == *id) {
            running.doing = doing;
        }
    }

    fn count(&mut self, report: &TaskReport) {
        let counts = &mut self.counts;
        counts.done += 1;
        // As the line at the end counts them.
        let number = match (report.state, report.reason, report.cause) {
            (StateName::Completed, ..) => &mut counts.completed,
            (StateName::Timeout, ..) => &mut counts.timeout,
            (_, Some(Reason::Cancelled), _) => &mut counts.cancelled,
            (_, _, Some(Cause::Infrastructure)) => &mut counts.infrastructure,
            (_, _, Some(Cause::User)) => &mut counts.not_runnable,
            _ => &mut counts.failed,
        };
        *number += 1;
        counts.as_hoped += u64::from(as_hoped(report, self.aim));
    }

    /// The lines of the live view: one for each running attempt that has room, then the totals.
    pub(crate) fn lines(
        &mut self,
        now: Instant,
        rows: usize,
        columns: usize,
        paint: Paint,
    ) -> Vec<String> {
        self.step += 1;
        let spinner = paint.paint(Style::Dim, SPINNER[self.step % SPINNER.len()]);
        let room = rows.saturating_sub(SPARE_ROWS).max(1);
        let shown = self.running.len().min(room);
        let names = self.names;
        let mut lines: Vec<String> = self.running[..shown]
            .iter()
            .map(|running| {
                let elapsed = units::clock(now.duration_since(running.since));
                let remark = running
                    .remark
                    .as_deref()
                    .map(|remark| format!("  {remark}"));
                format!(
                    "{spinner} {:<names$}  {:<7}  {:<8}  {elapsed:>5}{}",
                    running.task.as_str(),
                    running.agent,
                    running.doing,
                    paint.paint(Style::Warning, &remark.unwrap_or_default()),
                )
            })
            .collect();
        lines.push(self.totals(now, self.running.len() - shown, paint));
        let width = columns.saturating_sub(1).max(10);
        lines
            .into_iter()
            .map(|line| truncate_str(&line, width, "…").into_owned())
            .collect()
    }

    fn totals(&self, now: Instant, not_shown: usize, paint: Paint) -> String {
        let counts = self.counts;
        let mut parts = vec![format!("{}/{} done", counts.done, self.total)];
        let mut add = |style: Style, number: u64, what: &str| {
            if number > 0 {
                parts.push(paint.paint(style, &format!("{number} {what}")));
            }
        };
        match self.aim {
            Aim::Complete => {
                add(Style::Good, counts.completed, "completed");
                add(Style::Bad, counts.failed, "failed");
                add(Style::Bad, counts.timeout, "timed out");
                add(Style::Bad, counts.infrastructure, "without a result");
                add(Style::Warning, counts.not_runnable, "not runnable");
                add(Style::Warning, counts.cancelled, "cancelled");
            }
            Aim::Validate => {
                add(Style::Good, counts.as_hoped, "as expected");
                add(Style::Bad, counts.done - counts.as_hoped, "not as expected");
            }
        }
        if not_shown > 0 {
            parts.push(format!("{not_shown} more running"));
        }
        let elapsed = now.duration_since(self.began);
        parts.push(units::clock(elapsed));
        if self.cancelling {
            parts.push(paint.paint(Style::Warning, "cancelling"));
        } else if self.draining {
            parts.push(paint.paint(Style::Warning, "no more starts"));
        } else if let Some(left) = self.time_left(elapsed) {
            parts.push(format!("about {} left", units::clock(left)));
        }
        format!("  {}", parts.join(" · "))
    }

    /// The line about an attempt that ended, in the columns of the live view.
    fn ended_line(&self, report: &TaskReport, paint: Paint) -> String {
        let names = self.names;
        let (sign, style) = mark(as_hoped(report, self.aim));
        let took = units::duration(units::between(report.started_at, report.ended_at));
        let line = format!(
            "{} {:<names$}  {:<7}  {}  {took:>11}  {}",
            paint.paint(style, sign),
            escape::line(&report.task_id),
            report.agent,
            paint.paint(style, &format!("{:<9}", report.state)),
            escape::line(&why(report)),
        );
        line.trim_end().to_owned()
    }

    /// The line about an attempt that does not count, because the infrastructure ended it.
    fn again_line(&self, task: &TaskId, pause: Duration, message: &str, paint: Paint) -> String {
        let names = self.names;
        format!(
            "{} {:<names$}  tried again in {}: {}",
            paint.paint(Style::Warning, "↻"),
            escape::line(task.as_str()),
            units::duration(pause),
            escape::line(message),
        )
    }

    /// As long as the rest takes at the pace so far; nothing before there is a pace.
    fn time_left(&self, elapsed: Duration) -> Option<Duration> {
        let done = u32::try_from(self.counts.done)
            .ok()
            .filter(|&done| done > 0)?;
        let left = u32::try_from(self.total.saturating_sub(self.counts.done)).ok()?;
        (left > 0).then(|| (elapsed / done).saturating_mul(left))
    }
}

/// What was found of an interrupted run, on one line.
fn resumed_line(ended: usize, under_way: u64, anew: u64, waiting: u64) -> String {
    let mut parts = vec![format!("{ended} had ended")];
    let mut add = |number: u64, what: &str| {
        if number > 0 {
            parts.push(format!("{number} {what}"));
        }
    };
    add(under_way, "under way are taken up");
    add(anew, "half made begin anew");
    add(waiting, "wait");
    format!("recovered: {}", parts.join(", "))
}

/// Shows events until the run has ended.
pub(crate) async fn watch(
    printer: &Printer,
    mut board: Board,
    mut events: UnboundedReceiver<RunEvent>,
) {
    let paint = printer.err_paint();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Some(event) => {
                    if let Some(line) = board.handle(event, Instant::now(), paint) {
                        printer.progress(&line);
                    }
                }
                None => break,
            },
            _ = ticks.tick() => {
                if let Some((rows, columns)) = printer.live_size() {
                    printer.show_live(board.lines(Instant::now(), rows, columns, paint));
                }
            }
        }
    }
    printer.show_live(Vec::new());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::report;
    use forge_core::PhaseName;

    const PLAIN: Paint = Paint { colored: false };

    fn started(name: &str) -> RunEvent {
        RunEvent::Started {
            id: SandboxId::new(format!("{name}-1")).unwrap(),
            task: TaskId::new(name).unwrap(),
            agent: "oracle",
        }
    }

    #[test]
    fn running_attempts_have_a_line_each_and_the_totals_stand_below() {
        let now = Instant::now();
        let tasks = ["one", "another"].map(|name| TaskId::new(name).unwrap());
        let mut board = Board::new(Aim::Complete, 4, &tasks, now);
        board.handle(started("one"), now, PLAIN);
        board.handle(started("another"), now, PLAIN);
        let phase = RunEvent::Phase {
            id: SandboxId::new("one-1").unwrap(),
            phase: PhaseName::Verify,
        };
        board.handle(phase, now, PLAIN);
        let ended = RunEvent::Ended {
            id: SandboxId::new("another-1").unwrap(),
            report: Box::new(report("another", Some(Reason::TestsFailed))),
        };
        let line = board.handle(ended, now, PLAIN).unwrap();
        assert_eq!(
            line,
            "✘ another  oracle   FAILED            0 ms  tests_failed"
        );
        let lines = board.lines(now + Duration::from_secs(65), 24, 80, PLAIN);
        assert_eq!(lines.len(), 2);
        assert!(
            lines[0].ends_with(" one      oracle   verify     1:05"),
            "{lines:?}"
        );
        assert_eq!(lines[1], "  1/4 done · 1 failed · 1:05 · about 3:15 left");
    }

    #[test]
    fn what_is_no_verdict_is_not_counted_as_failed() {
        let now = Instant::now();
        let mut board = Board::new(Aim::Complete, 9, [], now);
        for reason in [
            Some(Reason::TestsFailed),
            Some(Reason::EngineError),
            Some(Reason::Lost),
            Some(Reason::ImageUnavailable),
            Some(Reason::Cancelled),
            None,
        ] {
            let ended = RunEvent::Ended {
                id: SandboxId::new("one-1").unwrap(),
                report: Box::new(report("one", reason)),
            };
            board.handle(ended, now, PLAIN);
        }
        board.cancelling = true;
        assert_eq!(
            board.lines(now, 24, 200, PLAIN),
            [
                "  6/9 done · 1 completed · 1 failed · 2 without a result · 1 not runnable · \
                 1 cancelled · 0:00 · cancelling"
            ]
        );
    }

    #[test]
    fn what_was_recovered_is_one_line_and_counts_as_done() {
        let now = Instant::now();
        let mut board = Board::new(Aim::Complete, 9, [], now);
        let resumed = RunEvent::Resumed {
            ended: vec![
                report("one", None),
                report("two", Some(Reason::TestsFailed)),
            ],
            under_way: 3,
            anew: 0,
            waiting: 4,
        };
        assert_eq!(
            board.handle(resumed, now, PLAIN).unwrap(),
            "recovered: 2 had ended, 3 under way are taken up, 4 wait"
        );
        board.handle(RunEvent::Draining, now, PLAIN);
        assert_eq!(
            board.lines(now, 24, 200, PLAIN),
            ["  2/9 done · 1 completed · 1 failed · 0:00 · no more starts"]
        );
    }

    #[test]
    fn a_small_terminal_shows_what_has_room_and_counts_the_rest() {
        let now = Instant::now();
        let mut board = Board::new(Aim::Validate, 100, [], now);
        for number in 0..50 {
            board.handle(started(&format!("task-{number}")), now, PLAIN);
        }
        let lines = board.lines(now, 10, 40, PLAIN);
        assert_eq!(lines.len(), 7);
        assert_eq!(lines[6], "  0/100 done · 44 more running · 0:00");
        assert!(
            lines
                .iter()
                .all(|line| console::measure_text_width(line) < 40)
        );
        board.handle(RunEvent::Cancelling, now, PLAIN);
        assert!(board.lines(now, 10, 80, PLAIN)[6].ends_with("cancelling"));
    }
}
