//! Whether a run has what it must have: every task once, with its one verdict, no attempt run twice,
//! no line lost or repeated.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::plan::{Plan, Task};
use super::tasks::{BEGUN, PREPARED, VERIFYING};

/// What sort of thing went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sort {
    /// A task, a line or a report is not there.
    Lost,
    /// A task, an attempt or a line is there twice.
    Doubled,
    /// Something is left, or something that was there is gone.
    Leaked,
    /// Something of somebody else's was touched.
    Foreign,
    /// A task came to another verdict than it must.
    Wrong,
}

/// One thing that went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    /// What sort.
    pub sort: Sort,
    /// What, in words.
    pub text: String,
}

impl Problem {
    pub(super) fn new(sort: Sort, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { sort, text }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sort = match self.sort {
            Sort::Lost => "lost",
            Sort::Doubled => "doubled",
            Sort::Leaked => "leaked",
            Sort::Foreign => "foreign touched",
            Sort::Wrong => "wrong",
        };
        write!(formatter, "{sort}: {}", self.text)
    }
}

/// The folders of runs below `out`, and those of them that have a report.
pub(super) fn reports(out: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(out).into_iter().flatten().flatten();
    let reports = entries.map(|entry| entry.path().join("report.json"));
    reports.filter(|report| report.is_file()).collect()
}

/// What a run must exit with whose tasks all have their verdicts.
pub(super) fn exit_code(plan: &Plan) -> i32 {
    let mut states = plan.tasks.iter().map(|task| task.kind.state);
    i32::from(!states.all(|state| state == "COMPLETED"))
}

/// What is wrong with the run of a plan.
pub(super) fn judge(plan: &Plan, out: &Path) -> Vec<Problem> {
    let reports = reports(out);
    let path = match reports.as_slice() {
        [one] => one,
        [] => return vec![Problem::new(Sort::Lost, "the run has no report")],
        _ => return vec![Problem::new(Sort::Doubled, "the run has several reports")],
    };
    let text = fs::read_to_string(path).unwrap_or_default();
    let Ok(report) = serde_json::from_str::<Value>(&text) else {
        return vec![Problem::new(Sort::Lost, "the report cannot be read")];
    };
    let folder = path.parent().unwrap_or(out).join("attempts");
    let entries = report["tasks"].as_array().cloned().unwrap_or_default();
    let mut problems = Vec::new();
    for task in &plan.tasks {
        let of_task: Vec<&Value> = entries
            .iter()
            .filter(|entry| entry["task_id"] == task.id.as_str())
            .collect();
        match of_task.as_slice() {
            [] => problems.push(Problem::new(
                Sort::Lost,
                format!("{} is not in the report", task.id),
            )),
            [entry] => judge_task(task, entry, &folder, &mut problems),
            more => problems.push(Problem::new(
                Sort::Doubled,
                format!("{} is in the report {} times", task.id, more.len()),
            )),
        }
    }
    if entries.len() > plan.tasks.len() {
        let text = format!("{} tasks became {}", plan.tasks.len(), entries.len());
        problems.push(Problem::new(Sort::Doubled, text));
    }
    judge_attempts(&entries, &folder, &mut problems);
    problems
}

fn judge_task(task: &Task, entry: &Value, folder: &Path, problems: &mut Vec<Problem>) {
    let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    let (state, reason) = (text("state"), text("reason"));
    if state != task.kind.state || reason != task.kind.reason {
        let words = format!(
            "{} is {state} {reason} ({}), not {} {}",
            task.id,
            text("message"),
            task.kind.state,
            task.kind.reason
        );
        problems.push(Problem::new(Sort::Wrong, words));
        return;
    }
    let attempt = folder.join(text("id"));
    let lines = lines(&attempt);
    if begins(&lines) == 0 {
        let words = format!("the log of {} does not say that it began", text("id"));
        problems.push(Problem::new(Sort::Lost, words));
    }
    let count = u64::try_from(numbers(&lines).len()).unwrap_or(u64::MAX);
    if count != task.kind.lines {
        let sort = if count < task.kind.lines {
            Sort::Lost
        } else {
            Sort::Doubled
        };
        let words = format!(
            "the log of {} has {count} lines, not {}",
            text("id"),
            task.kind.lines
        );
        problems.push(Problem::new(sort, words));
    }
    // Of what ran to its end, what it kept is there.
    let kept = fs::read_to_string(attempt.join("artifacts/output/begins")).unwrap_or_default();
    if state == "COMPLETED" && kept.lines().count() != 1 {
        let sort = if kept.is_empty() {
            Sort::Lost
        } else {
            Sort::Doubled
        };
        let words = format!(
            "solve of {} began {} times by what it kept",
            text("id"),
            kept.lines().count()
        );
        problems.push(Problem::new(sort, words));
    }
}

/// What holds for every attempt, whatever became of it.
fn judge_attempts(entries: &[Value], folder: &Path, problems: &mut Vec<Problem>) {
    let mut known = BTreeSet::new();
    for entry in entries {
        let earlier = entry["earlier"].as_array().into_iter().flatten();
        for one in earlier.chain([entry]) {
            let id = one["id"].as_str().unwrap_or_default().to_owned();
            if !known.insert(id.clone()) {
                let words = format!("attempt {id} is in the report twice");
                problems.push(Problem::new(Sort::Doubled, words));
            }
        }
    }
    let mut seen = BTreeMap::new();
    let attempts = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut attempts: Vec<PathBuf> = attempts.map(|entry| entry.path()).collect();
    attempts.sort();
    for attempt in attempts {
        let id = attempt.file_name().unwrap_or_default();
        let id = id.to_string_lossy().into_owned();
        let lines = lines(&attempt);
        let begins: Vec<&String> = lines
            .iter()
            .filter(|line| line.starts_with(BEGUN))
            .collect();
        if begins.len() > 1 {
            let words = format!("the log of {id} says {} times that it began", begins.len());
            problems.push(Problem::new(Sort::Doubled, words));
        }
        for (phase, word) in [("setup", PREPARED), ("verify", VERIFYING)] {
            let said = of_phase(&attempt, phase);
            let count = said.iter().filter(|line| *line == word).count();
            if count > 1 {
                let words = format!("{phase} of {id} says {count} times '{word}'");
                problems.push(Problem::new(Sort::Doubled, words));
            }
        }
        if !begins.is_empty() && !known.contains(&id) {
            let words = format!("attempt {id} began, and the report does not know it");
            problems.push(Problem::new(Sort::Doubled, words));
        }
        for begin in begins {
            if let Some(other) = seen.insert(begin.clone(), id.clone()) {
                let words = format!("{id} and {other} have the same start in their logs");
                problems.push(Problem::new(Sort::Doubled, words));
            }
        }
        if let Some((before, after)) = gap(&numbers(&lines)) {
            let sort = if after > before {
                Sort::Lost
            } else {
                Sort::Doubled
            };
            let words = format!("in the log of {id} line {before} is followed by {after}");
            problems.push(Problem::new(sort, words));
        }
    }
}

fn lines(attempt: &Path) -> Vec<String> {
    of_phase(attempt, "solve")
}

fn of_phase(attempt: &Path, phase: &str) -> Vec<String> {
    // An attempt that never came so far has no such log.
    let text = fs::read(attempt.join(format!("{phase}.log"))).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.lines().map(str::to_owned).collect()
}

fn begins(lines: &[String]) -> usize {
    lines.iter().filter(|line| line.starts_with(BEGUN)).count()
}

/// The numbers of the numbered lines. A log that ends early may end within a number.
fn numbers(lines: &[String]) -> Vec<u64> {
    let numbered = lines.iter().filter_map(|line| line.strip_prefix("line "));
    let words = numbered.filter_map(|rest| rest.split(' ').next());
    words.filter_map(|word| word.parse().ok()).collect()
}

/// The first two numbers that do not follow each other; the first line is number 1. The last one is
/// not looked at: it may be cut.
fn gap(numbers: &[u64]) -> Option<(u64, u64)> {
    let whole = &numbers[..numbers.len().saturating_sub(1)];
    let before = std::iter::once(0).chain(whole.iter().copied());
    let mut pairs = before.zip(whole.iter().copied());
    pairs.find(|(before, after)| *after != before + 1)
}

#[cfg(test)]
mod tests {
    use super::super::tasks::KINDS;
    use super::*;
    use serde_json::json;

    struct Run {
        out: PathBuf,
    }

    impl Run {
        fn new(name: &str, tasks: Value) -> Self {
            let folder = format!("chaos-verdicts-{}-{name}", std::process::id());
            let out = std::env::temp_dir().join(folder);
            let report = json!({"tasks": tasks}).to_string();
            crate::files::write(&out.join("run/report.json"), &report).unwrap();
            Self { out }
        }

        fn log(&self, attempt: &str, text: &str) {
            let folder = self.out.join("run/attempts").join(attempt);
            crate::files::write(&folder.join("solve.log"), text).unwrap();
            let kept = folder.join("artifacts/output/begins");
            crate::files::write(&kept, "a\n").unwrap();
        }

        fn sorts(&self) -> Vec<Sort> {
            let kind = |name: &str| KINDS.into_iter().find(|kind| kind.name == name).unwrap();
            let task = |name: &str, number: u32| Task {
                id: format!("{name}-{number}"),
                kind: kind(name),
            };
            let plan = Plan {
                seed: 0,
                jobs: 1,
                tasks: vec![task("passes", 1), task("lines", 2)],
                strikes: Vec::new(),
            };
            judge(&plan, &self.out)
                .into_iter()
                .map(|each| each.sort)
                .collect()
        }
    }

    impl Drop for Run {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.out).unwrap();
        }
    }

    fn two() -> Value {
        json!([
            {"task_id": "passes-1", "id": "passes-1-1", "state": "COMPLETED", "reason": null},
            {"task_id": "lines-2", "id": "lines-2-2", "state": "COMPLETED", "reason": null,
             "earlier": [{"id": "lines-2-1"}]},
        ])
    }

    fn full(begin: &str, last: u64) -> String {
        let lines: String = (1..=last).map(|line| format!("line {line}\n")).collect();
        format!("begin {begin}\n{lines}")
    }

    #[test]
    fn a_run_with_everything_once_is_right() {
        let run = Run::new("right", two());
        run.log("passes-1-1", "begin 1\n");
        run.log("lines-2-1", &full("2", 700));
        run.log("lines-2-2", &full("3", 2000));
        assert_eq!(run.sorts(), []);
    }

    #[test]
    fn a_task_that_is_missing_is_lost_and_one_that_is_there_twice_is_doubled() {
        let mut tasks = two();
        tasks[0]["task_id"] = json!("lines-2");
        let run = Run::new("tasks", tasks);
        assert_eq!(run.sorts(), [Sort::Lost, Sort::Doubled]);
        let none = Run::new("none", json!([]));
        assert_eq!(none.sorts(), [Sort::Lost, Sort::Lost]);
    }

    #[test]
    fn an_attempt_that_began_twice_is_doubled_and_so_is_one_that_nobody_knows() {
        let run = Run::new("begins", two());
        run.log("passes-1-1", "begin 1\nbegin 4\n");
        run.log("lines-2-2", &full("3", 2000));
        run.log("lines-2-9", "begin 5\n");
        assert_eq!(run.sorts(), [Sort::Doubled, Sort::Doubled]);
    }

    #[test]
    fn a_verification_that_began_twice_is_doubled() {
        let run = Run::new("verify", two());
        run.log("passes-1-1", "begin 1\n");
        run.log("lines-2-2", &full("3", 2000));
        let log = run.out.join("run/attempts/passes-1-1/verify.log");
        crate::files::write(&log, "verifying\nverifying\n").unwrap();
        assert_eq!(run.sorts(), [Sort::Doubled]);
    }

    #[test]
    fn lines_that_are_missing_or_repeated_are_found() {
        let run = Run::new("lines", two());
        run.log("passes-1-1", "begin 1\n");
        run.log("lines-2-1", "begin 2\nline 1\nline 2\nline 2\nline 3\n");
        run.log("lines-2-2", &full("3", 1999).replace("line 7\n", ""));
        assert_eq!(run.sorts(), [Sort::Lost, Sort::Doubled, Sort::Lost]);
    }

    #[test]
    fn another_verdict_than_the_one_expected_is_wrong() {
        let mut tasks = two();
        tasks[0]["state"] = json!("FAILED");
        tasks[0]["reason"] = json!("lost");
        let run = Run::new("wrong", tasks);
        run.log("lines-2-2", &full("3", 2000));
        assert_eq!(run.sorts(), [Sort::Wrong]);
    }
}
