//! Rust files open with a sentence about themselves and stay short enough to be read whole.

use std::fs;
use std::path::{Path, PathBuf};

/// Code lines a file may have, tests at its end left out.
const MOST_LINES: usize = 800;

pub(super) fn check(files: &[PathBuf]) -> Vec<String> {
    let sources = files
        .iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .filter(|path| !path.starts_with("examples"));
    sources.flat_map(|path| check_one(path)).collect()
}

fn check_one(path: &Path) -> Vec<String> {
    let Ok(text) = fs::read_to_string(path) else {
        return vec![format!("{} cannot be read", path.display())];
    };
    let mut findings = Vec::new();
    if !text.starts_with("//! ") {
        findings.push(format!(
            "{} does not open with a sentence about itself",
            path.display()
        ));
    }
    let lines = code_lines(&text);
    if lines > MOST_LINES {
        let name = path.display();
        findings.push(format!(
            "{name} has {lines} code lines, {MOST_LINES} are allowed: split it"
        ));
    }
    findings
}

fn code_lines(text: &str) -> usize {
    text.lines()
        .map(str::trim)
        .take_while(|line| *line != "#[cfg(test)]")
        .filter(|line| !line.is_empty() && !line.starts_with("//"))
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_blank_lines_and_tests_do_not_count() {
        let text = "//! A file.\n\nfn a() {}\n// why\nfn b() {}\n#[cfg(test)]\nmod tests {}\n";
        assert_eq!(code_lines(text), 2);
    }
}
