//! Task folders that ask for what no task gets: `swe-forge check` must refuse each and say where.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::scenes::Stage;
use super::tables::{self, Row, text};
use crate::files::{at, write};
use crate::shell::{self, Failure};

/// Exit code of a refused task.
const REFUSED: i32 = 2;

/// The rows of all such folders; only those of case `only`, if there is one.
pub(super) fn rows(stage: &Stage, only: Option<u64>) -> Result<Vec<Row>, Failure> {
    let mut rows = Vec::new();
    for (number, entry) in tables::read("input.json")?.iter().enumerate() {
        if only.is_none_or(|only| tables::case(entry) == only) {
            let observed = refusal(stage, number, entry)?;
            let expected = format!("refused: {}", text(entry, "expect"));
            rows.push(Row::new(entry, "", &expected, &observed));
        }
    }
    if only.is_none_or(|only| only == 54) {
        rows.push(same_id(stage)?);
    }
    Ok(rows)
}

fn refusal(stage: &Stage, number: usize, entry: &Value) -> Result<String, Failure> {
    // Nothing of what it is about is in its name.
    let folder = stage.folder.join("input").join(number.to_string());
    fs::create_dir_all(&folder).map_err(|error| at(&folder, &error))?;
    for (name, content) in entry["files"].as_object().into_iter().flatten() {
        put(&folder.join(name), content)?;
    }
    Ok(judged(check(stage, &[&folder])?, text(entry, "says")))
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

/// The exit code, and what was found, each with its place: a field, or a file in the last folder.
fn check(stage: &Stage, folders: &[&Path]) -> Result<Said, Failure> {
    let output = stage
        .command(&["check", "--format", "json"])
        .args(folders)
        .output()
        .map_err(|error| Failure::new(format!("swe-forge could not be started: {error}")))?;
    let document: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let mistakes = document["errors"].as_array().cloned().unwrap_or_default();
    let placed = mistakes.iter().map(|mistake| {
        let file = Path::new(text(mistake, "file"));
        let file = folders
            .iter()
            .find_map(|folder| file.strip_prefix(folder).ok())
            .unwrap_or(file);
        let place = match text(mistake, "field") {
            "" => file.display().to_string(),
            field => field.to_owned(),
        };
        let words = ["message", "expected", "hint"].map(|key| text(mistake, key));
        (place, words.join("\n"))
    });
    Ok((output.status.code(), placed.collect()))
}

type Said = (Option<i32>, Vec<(String, String)>);

/// One mistake at one place, in words that say what it is.
fn judged((code, mistakes): Said, says: &str) -> String {
    match (code, mistakes.as_slice()) {
        (Some(REFUSED), [(place, words)]) if words.contains(says) => format!("refused: {place}"),
        (Some(REFUSED), [(place, _)]) => format!("refused without saying '{says}': {place}"),
        (Some(REFUSED), mistakes) => format!("refused for {} mistakes", mistakes.len()),
        (Some(code), _) => format!("code {code}"),
        (None, _) => "ended by a signal".to_owned(),
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
        "refused: id",
        &judged(said, "\"twin\" is also the id"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(code: i32, mistakes: &[(&str, &str)]) -> Said {
        let owned = |(place, words): &(&str, &str)| ((*place).to_owned(), (*words).to_owned());
        (Some(code), mistakes.iter().map(owned).collect())
    }

    #[test]
    fn a_refusal_names_its_one_place_and_says_what_is_wrong_there() {
        let one = said(REFUSED, &[("network.solve", "found \"open\"")]);
        assert_eq!(judged(one.clone(), ""), "refused: network.solve");
        assert_eq!(judged(one.clone(), "open"), "refused: network.solve");
        assert!(judged(one, "host").starts_with("refused without"));
        let two = said(REFUSED, &[("id", "x"), ("title", "x")]);
        assert_eq!(judged(two, ""), "refused for 2 mistakes");
        assert_eq!(judged(said(0, &[]), ""), "code 0");
    }
}
