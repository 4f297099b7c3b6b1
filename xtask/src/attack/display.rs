//! What a person sees of a task that writes for the person's terminal.

use std::path::Path;
use std::process::{Command, Output};

use super::judge::absent;
use super::scenes::{Scene, Stage};
use super::tables::{Row, text};
use crate::shell::Failure;

/// What the task repeats; where nothing of it is shown, nothing is proved.
const WORD: &str = "owned";
/// What no terminal may get of a task: its own sequences, which this program uses none of.
const FOREIGN: [&str; 9] = [
    "\u{1b}]",
    "\u{1b}P",
    "\u{1b}_",
    "\u{1b}c",
    "\u{1b}[2J",
    "\u{1b}[?1049",
    "\u{1b}[6n",
    "\u{1b}[38;5;199m",
    "\u{1b}[1A\u{1b}[2Kowned",
];

/// The rows of the scene.
pub(super) fn rows(stage: &Stage, scene: &Scene) -> Vec<Row> {
    let tried = stage.prepare(scene).and_then(|()| all(stage, scene));
    tried.unwrap_or_else(|failure| absent(scene, &failure.to_string()))
}

fn all(stage: &Stage, scene: &Scene) -> Result<Vec<Row>, Failure> {
    let (folder, out) = (stage.task_folder(scene), stage.folder.join("out/display"));
    let copied = stage.folder.join("out/display-copied");
    let (folder, out) = (folder.display().to_string(), out.display().to_string());
    let copied = copied.display().to_string();
    let run = ["run", "--agent", "command", "--out", &out, &folder];
    let id = scene.id();
    // Something to be shown, also where its first display is no attempt of the case.
    said(stage, &run, false)?;
    let mut rows = Vec::new();
    for attempt in &scene.attempts {
        let name = text(attempt, "name");
        let words: Vec<&str> = match name
            .trim_end_matches("-terminal")
            .trim_start_matches("display-")
        {
            "run" => run.to_vec(),
            "logs" => vec!["logs", &id],
            "show" => vec!["show", &id],
            "artifacts" => vec!["artifacts", &id],
            "copy" => vec!["artifacts", "--to", &copied, "--force", &id],
            "ps" => vec!["ps", "--all"],
            other => return Err(Failure::new(format!("'{other}' is shown by nothing"))),
        };
        let is_terminal = name.ends_with("-terminal");
        let output = said(stage, &words, is_terminal)?;
        let observed = judged(&output, is_terminal);
        rows.push(Row::new(attempt, "", text(attempt, "expect"), &observed));
    }
    Ok(rows)
}

fn said(stage: &Stage, words: &[&str], is_terminal: bool) -> Result<Output, Failure> {
    let mut command = stage.command(words);
    if is_terminal {
        let mut line = format!("'{}'", stage.binary.display());
        for word in words {
            line.push_str(&format!(" '{word}'"));
        }
        let inner = command;
        command = Command::new("script");
        command
            .args(["-qec", &line, "/dev/null"])
            .env("TERM", "xterm-256color");
        for (key, value) in inner.get_envs() {
            if let Some(value) = value {
                command.env(key, value);
            }
        }
        command.stdin(std::process::Stdio::null());
    }
    let started = command.output();
    started.map_err(|error| Failure::new(format!("{}: {error}", Path::new(words[0]).display())))
}

fn judged(output: &Output, is_terminal: bool) -> String {
    let mut bytes = output.stdout.clone();
    bytes.extend(&output.stderr);
    let Ok(shown) = String::from_utf8(bytes) else {
        return "raw bytes".to_owned();
    };
    if let Some(sequence) = FOREIGN.iter().find(|sequence| shown.contains(**sequence)) {
        return format!("raw: {}", sequence.escape_debug());
    }
    // A terminal gets colours and lines that are written anew, by sequences of our own.
    let is_foreign = |character: &char| match character {
        '\n' | '\t' => false,
        '\r' | '\u{1b}' => !is_terminal,
        '\u{200b}' | '\u{2028}' | '\u{2029}' | '\u{feff}' => true,
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
        character => character.is_control(),
    };
    if let Some(character) = shown.chars().find(is_foreign) {
        return format!("raw: {}", character.escape_unicode());
    }
    if is_terminal && shown.contains(&format!("\r{WORD}")) {
        return "raw: a line written anew".to_owned();
    }
    if shown.contains(WORD) {
        "escaped"
    } else {
        "nothing of it"
    }
    .to_owned()
}
