//! The examples are what they say: validation finds every one of them valid.

use forge_api::report::Report;
use forge_core::Verdict;

use crate::support::{Home, repository};

/// How each attempt at a task ended, and what its last phase wrote.
fn attempts(home: &Home, report: &Report, id: &str) -> String {
    let attempts = report.tasks.iter().filter(|task| task.task_id == id);
    let told = attempts.map(|task| {
        let last = task
            .phases
            .last()
            .map(|phase| home.log(task, phase.name.as_str()));
        let last = last.unwrap_or_default();
        format!(
            "{}: {}\n{}",
            task.agent,
            task.message,
            String::from_utf8_lossy(&last)
        )
    });
    told.collect()
}

#[test]
fn every_example_is_valid() {
    let home = Home::new();
    home.find_registries();
    let examples = repository().join("examples/tasks");
    let words = ["validate", examples.to_str().unwrap(), "--format", "json"];
    let (code, report) = home.report(&words);
    assert!(
        report.validation.len() >= 12,
        "{} examples",
        report.validation.len()
    );
    for task in &report.validation {
        assert_eq!(
            task.verdict,
            Verdict::Valid,
            "{}: {}\n{}",
            task.task_id,
            task.reason,
            attempts(&home, &report, &task.task_id)
        );
    }
    assert_eq!(code, 0);
}
