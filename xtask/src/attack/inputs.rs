//! Task folders that ask for what no task gets: `swe-forge check` must refuse each and say where.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::scenes::{Stage, at, write};
use super::tables::{self, Row, text};
use crate::shell::{self, Failure};

/// Exit code of a refused task.
const REFUSED: i32 = 2;

/// The rows of all such folders; only those of case `only`, if there is one.
pub(super) fn rows(stage: &Stage, only: Option<u64>) -> Result<Vec<Row>, Failure> {
    let mut rows = Vec::new();
    for entry in tables::read("input.json")? {
        if only.is_none_or(|only| tables::case(&entry) == only) {
            let observed = refusal(stage, &entry)?;
            let expected = format!("refused: {}", text(&entry, "expect"));
            rows.push(Row::new(&entry, "", &expected, &observed));
        }
    }
    if only.is_none_or(|only| only == 54) {
        rows.push(same_id(stage)?);
    }
    Ok(rows)
}

fn refusal(stage: &Stage, entry: &Value) -> Result<String, Failure> {
    let folder = stage.folder.join("input").join(text(entry, "name"));
    fs::create_dir_all(&folder).map_err(|error| at(&folder, &error))?;
    for (name, content) in entry["files"].as_object().into_iter().flatten() {
        put(&folder.join(name), content)?;
    }
    Ok(judged(check(stage, &[&folder])?, text(entry, "expect")))
}

fn put(path: &Path, content: &Value) -> Result<(), Failure> {
    if let Some(text) = content.as_str() {
        return write(path, text);
    }
    if let Some(part) = content["repeat"].as_str() {
        let times = content["times"]
            .as_u64()
            .and_then(|times| usize::try_from(times).ok());
        return write(path, &part.repeat(times.unwrap_or(0)));
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|error| at(folder, &error))?;
    }
    if let Some(target) = content["link"].as_str() {
        return symlink(target, path).map_err(|error| at(path, &error));
    }
    shell::run(Command::new("mkfifo").arg(path))
}

fn check(stage: &Stage, folders: &[&Path]) -> Result<(Option<i32>, String), Failure> {
    let output = stage
        .command(&["check"])
        .args(folders)
        .output()
        .map_err(|error| Failure::new(format!("swe-forge could not be started: {error}")))?;
    let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.push_str(&String::from_utf8_lossy(&output.stderr));
    Ok((output.status.code(), said))
}

fn judged((code, said): (Option<i32>, String), expected: &str) -> String {
    match code {
        Some(REFUSED) if said.contains(expected) => format!("refused: {expected}"),
        Some(REFUSED) => format!(
            "refused without naming it: {}",
            said.lines().next().unwrap_or_default()
        ),
        Some(code) => format!("code {code}"),
        None => "ended by a signal".to_owned(),
    }
}

/// Two tasks of the same name in one run.
fn same_id(stage: &Stage) -> Result<Row, Failure> {
    let task = r#"{"id":"twin","title":"t","instruction":"x","difficulty":"easy","language":"python","verify":{"command":"true"}}"#;
    let folders = ["one", "two"].map(|name| stage.folder.join("input/twins").join(name));
    for folder in &folders {
        write(&folder.join(".swe-forge/task.json"), task)?;
    }
    let said = check(stage, &[&folders[0], &folders[1]])?;
    let attempt =
        serde_json::json!({"case": 54, "name": "id-twice", "what": "two tasks of the same id"});
    Ok(Row::new(
        &attempt,
        "",
        "refused: twin",
        &judged(said, "twin"),
    ))
}
