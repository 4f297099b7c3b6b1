//! The tables of attempts below `attacks/`, and what an attempt was expected to come to.

use std::fmt;
use std::path::PathBuf;

use serde_json::Value;

use crate::shell::{self, Failure};

/// The levels of network, narrowest first.
pub(super) const LEVELS: [&str; 4] = ["isolated", "package_only", "limited_web", "full_web"];

/// Where programs and tables are.
pub(super) fn folder() -> PathBuf {
    shell::root().join("attacks")
}

/// Reads a table: a list of objects.
pub(super) fn read(name: &str) -> Result<Vec<Value>, Failure> {
    let path = folder().join(name);
    let failure = |problem: &dyn fmt::Display| {
        Failure::new(format!("{} cannot be read: {problem}", path.display()))
    };
    let text = std::fs::read_to_string(&path).map_err(|error| failure(&error))?;
    match serde_json::from_str(&text) {
        Ok(Value::Array(entries)) => Ok(entries),
        Ok(_) => Err(failure(&"it is no list")),
        Err(error) => Err(failure(&error)),
    }
}

/// The number of the case that an attempt belongs to.
pub(super) fn case(attempt: &Value) -> u64 {
    attempt["case"].as_u64().unwrap_or(0)
}

/// A text in an object; empty when there is none.
pub(super) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// What an attempt shall come to at a level; `None` when it is not made there.
pub(super) fn expected<'a>(attempt: &'a Value, level: &str) -> Option<&'a str> {
    match &attempt["expect"] {
        Value::String(all) => Some(all),
        levels => levels[level].as_str(),
    }
}

/// What stands between the outcomes of one attempt that is many.
pub(super) const AND: &str = " + ";

/// Whether an outcome is one of those that are expected, `a|b*|c`; of many, each of them.
pub(super) fn fits(expected: &str, outcome: &str) -> bool {
    let is_expected = |outcome: &str| {
        expected.split('|').any(|one| match one.strip_suffix('*') {
            Some(start) => outcome.starts_with(start),
            None => outcome == one,
        })
    };
    outcome.split(AND).all(is_expected)
}

/// What became of one attempt in one place.
#[derive(Debug, Clone)]
pub(super) struct Row {
    /// The number of its case.
    pub case: u64,
    /// Its name.
    pub name: String,
    /// What is tried.
    pub what: String,
    /// At which level; empty when that makes no difference.
    pub level: String,
    /// What it should come to.
    pub expected: String,
    /// What it came to.
    pub observed: String,
    /// Whether that is as it should be.
    pub passed: bool,
}

impl Row {
    /// The row of an attempt with its outcome.
    pub(super) fn new(attempt: &Value, level: &str, expected: &str, observed: &str) -> Self {
        Self {
            case: case(attempt),
            name: text(attempt, "name").to_owned(),
            what: text(attempt, "what").to_owned(),
            level: level.to_owned(),
            expected: expected.to_owned(),
            observed: observed.to_owned(),
            passed: fits(expected, observed),
        }
    }

    /// The row of an attempt that has no result.
    pub(super) fn missing(attempt: &Value, level: &str, expected: &str, why: &str) -> Self {
        Self {
            passed: false,
            ..Self::new(attempt, level, expected, &format!("did not run: {why}"))
        }
    }

    /// Adds a second thing that must hold.
    pub(super) fn also(&mut self, what: &str, holds: bool) {
        self.expected.push_str(what);
        self.observed
            .push_str(if holds { what } else { ", not in the log" });
        self.passed &= holds;
    }

    /// Notes that something outside heard of it, which nothing may.
    pub(super) fn heard(&mut self, who: &str) {
        self.passed = false;
        self.observed = format!("{}, and was heard: {who}", self.observed);
    }
}

impl fmt::Display for Row {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (case, name, level) = (self.case, &self.name, &self.level);
        write!(
            formatter,
            "{case} {name} {level}: expected {}, {}",
            self.expected, self.observed
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn an_outcome_fits_one_of_the_alternatives_or_a_beginning() {
        assert!(fits("EPERM|EACCES", "EACCES"));
        assert!(fits("status:2*|closed", "status:204"));
        assert!(!fits("EPERM|EACCES", "EPERMS"));
        assert!(!fits("denied:port", "connected"));
        assert!(fits("EPERM|EACCES", "EACCES + EPERM"));
        assert!(!fits("EPERM|EACCES", "EPERM + connected"));
    }

    #[test]
    fn every_attempt_has_a_case_a_name_of_its_own_and_an_expectation() {
        let scenes = read("scenes.json").unwrap();
        let mut attempts: Vec<Value> = read("network.json").unwrap();
        attempts.extend(
            scenes
                .iter()
                .flat_map(|scene| scene["attempts"].as_array().unwrap().clone()),
        );
        let mut names = BTreeSet::new();
        for attempt in &attempts {
            assert!((1..=54).contains(&case(attempt)), "{attempt}");
            assert!(
                LEVELS
                    .iter()
                    .any(|level| expected(attempt, level).is_some()),
                "{attempt}"
            );
            assert!(names.insert(text(attempt, "name").to_owned()), "{attempt}");
        }
    }

    #[test]
    fn at_least_sixty_kinds_of_attempt_are_made_at_every_level() {
        let attempts = read("network.json").unwrap();
        for level in LEVELS {
            let here = attempts
                .iter()
                .filter(|attempt| expected(attempt, level).is_some());
            assert!(here.count() >= 60, "{level}");
        }
    }
}
