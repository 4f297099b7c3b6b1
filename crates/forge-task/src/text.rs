//! Rules for single texts: names, paths, commands. Each says what is wrong, not where.

use crate::diagnostic::{Problem, quote};

/// Longest argument or environment entry that Linux hands to a program, without its closing NUL.
pub(crate) const MAX_ARGUMENT_BYTES: usize = 128 * 1024 - 1;

/// Text for people: something visible, and no NUL.
pub(crate) fn prose(text: &str) -> Result<(), Problem> {
    if text.trim().is_empty() {
        return Err(Problem::new(format!("found {}", quote(text))).expecting("some text"));
    }
    match text.contains('\0') {
        true => Err(Problem::new("it holds a NUL character").hint("remove it")),
        false => Ok(()),
    }
}

/// Text that is printed on one line.
pub(crate) fn one_line(text: &str, longest: usize) -> Result<(), Problem> {
    prose(text)?;
    if let Some(character) = text.chars().find(|character| character.is_control()) {
        let problem = Problem::new(format!("it holds {character:?}"))
            .expecting("one line without control characters");
        return Err(problem);
    }
    match text.chars().count() {
        length if length > longest => Err(Problem::new(format!("it has {length}"))
            .expecting(format!("at most {longest} characters"))),
        _ => Ok(()),
    }
}

/// Something that is handed to a program as one argument.
pub(crate) fn argument(text: &str) -> Result<(), Problem> {
    if text.contains('\0') {
        return Err(
            Problem::new("it holds a NUL character").hint("no program can be given one; remove it")
        );
    }
    match text.len() {
        length if length > MAX_ARGUMENT_BYTES => Err(Problem::new(format!("it has {length}"))
            .expecting(format!("at most {MAX_ARGUMENT_BYTES} bytes"))
            .hint("put it into a file below src/ or tests/")),
        _ => Ok(()),
    }
}

/// Something that is run.
pub(crate) fn command(text: &str) -> Result<(), Problem> {
    if text.trim().is_empty() {
        return Err(Problem::new(format!("found {}", quote(text))).expecting("something to run"));
    }
    argument(text)
}

/// The name of an environment variable.
pub(crate) fn env_name(text: &str) -> Result<(), Problem> {
    let allowed = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let first_is_digit = text.starts_with(|first: char| first.is_ascii_digit());
    match !text.is_empty() && !first_is_digit && text.chars().all(allowed) {
        true => Ok(()),
        false => Err(Problem::new(format!("found {}", quote(text)))
            .expecting("a name of letters, digits and '_' that does not begin with a digit")),
    }
}

/// The name of a secret in the operator's configuration.
pub(crate) fn secret_name(text: &str) -> Result<(), Problem> {
    let allowed = |character: char| character.is_ascii_alphanumeric() || "_.-".contains(character);
    let first = text.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '_');
    match first && text.len() <= 64 && text.chars().all(allowed) {
        true => Ok(()),
        false => Err(Problem::new(format!("found {}", quote(text)))
            .expecting("the name of a secret: 1 to 64 letters, digits, '_', '.' and '-'")),
    }
}

/// The name of a tool.
pub(crate) fn tool_name(text: &str) -> Result<(), Problem> {
    let allowed = |character: char| {
        character.is_ascii_lowercase() || character.is_ascii_digit() || "_-".contains(character)
    };
    match !text.is_empty() && text.len() <= 64 && text.chars().all(allowed) {
        true => Ok(()),
        false => Err(Problem::new(format!("found {}", quote(text)))
            .expecting("1 to 64 of a-z, 0-9, '_' and '-'")),
    }
}

/// A path that stays below where it begins.
pub(crate) fn relative_path(text: &str) -> Result<(), Problem> {
    let found = || Problem::new(format!("found {}", quote(text)));
    if text.starts_with('/') {
        return Err(found()
            .expecting("a relative path")
            .hint("paths are relative to /workspace; remove what leads there"));
    }
    if text.chars().any(char::is_control) {
        return Err(found().expecting("a path without control characters"));
    }
    for part in text.split('/') {
        match part {
            ".." => {
                return Err(found()
                    .expecting("a path without \"..\"")
                    .hint("paths may not leave /workspace"));
            }
            "" | "." => {
                let plain: Vec<_> = text
                    .split('/')
                    .filter(|part| !matches!(*part, "" | "."))
                    .collect();
                let hint =
                    (!plain.is_empty()).then(|| format!("write {}", quote(&plain.join("/"))));
                return Err(found()
                    .expecting("names separated by single slashes")
                    .hint_if_any(hint));
            }
            _ => {}
        }
    }
    Ok(())
}

/// What may be an image reference; whether there is such an image only the engine knows.
pub(crate) fn image_reference(text: &str) -> Result<(), Problem> {
    let allowed =
        |character: char| character.is_ascii_alphanumeric() || "._-/:@".contains(character);
    let edge = |character: Option<char>| character.is_some_and(|c| c.is_ascii_alphanumeric());
    let fits = text.len() <= 512
        && edge(text.chars().next())
        && edge(text.chars().next_back())
        && text.chars().all(allowed)
        && !["//", "..", "::", "@@", "/:", ":/"]
            .iter()
            .any(|pair| text.contains(pair));
    match fits {
        true => Ok(()),
        false => Err(Problem::new(format!("found {}", quote(text)))
            .expecting("an image reference like \"python:3.11-slim\"")
            .hint_if_any(
                text.contains("://")
                    .then(|| "an image reference has no scheme; remove it".to_owned()),
            )),
    }
}
