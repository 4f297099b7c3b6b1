//! The examples are what they say: validation finds every one of them valid.

use forge_core::Verdict;

use crate::support::{Home, repository};

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
            "{}: {}",
            task.task_id,
            task.reason
        );
    }
    assert_eq!(code, 0);
}
