//! Rules for single texts: names, paths, commands. Each says what is wrong, not where.

use forge_document::{Problem, quote};

/// Longest argument or environment entry that Linux hands to a program, without its closing NUL.
pub(crate) const MAX_ARGUMENT_BYTES: usize = 128 * 1024 - 1;

/// Longest list of arguments, or environment, in bytes. Both go to a sandbox in one message, which
/// has room for this much besides what an image and the operator add.
pub(crate) const MAX_TOTAL_BYTES: usize = 256 * 1024;
/// Longest path, in bytes, that Linux takes below the workspace.
const MAX_PATH_BYTES: usize = 4000;
/// Longest name of a file, in bytes.
const MAX_NAME_BYTES: usize = 255;

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

/// Variables that are the same in every sandbox.
const FIXED_VARIABLES: [&str; 2] = ["TASK_ID", "DATAFORGE_MODE"];

/// The name of an environment variable.
pub(crate) fn env_name(text: &str) -> Result<(), Problem> {
    if FIXED_VARIABLES.contains(&text) {
        return Err(Problem::found(text)
            .expecting("a variable that swe-forge does not set itself")
            .hint("remove it: its value cannot be changed"));
    }
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
    if text.len() > MAX_PATH_BYTES {
        return Err(found().expecting(format!("a path of at most {MAX_PATH_BYTES} bytes")));
    }
    for part in text.split('/') {
        match part {
            name if name.len() > MAX_NAME_BYTES => {
                return Err(found().expecting(format!("names of at most {MAX_NAME_BYTES} bytes")));
            }
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
    let refuse = |hint: Option<&str>| {
        Err(Problem::found(text)
            .expecting("an image reference like \"python:3.11-slim\"")
            .hint_if_any(hint.map(str::to_owned)))
    };
    if !fits {
        let scheme = text.contains("://");
        return refuse(scheme.then_some("an image reference has no scheme; remove it"));
    }
    let (named, digest) = match text.split_once('@') {
        Some((named, digest)) => (named, Some(digest)),
        None => (text, None),
    };
    if digest.is_some_and(|digest| !is_digest(digest)) {
        return refuse(Some("a digest is \"sha256:\" and 64 hexadecimal digits"));
    }
    // What follows the colon of a registry's port holds a slash.
    let (repository, tag) = match named.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag)),
        _ => (named, None),
    };
    if tag.is_some_and(|tag| tag.len() > 128) {
        return refuse(Some("a tag has at most 128 characters"));
    }
    // The first part may be the name of a registry, in which case means nothing.
    let path = match repository.split_once('/') {
        Some((registry, path)) if registry.contains(['.', ':']) || registry == "localhost" => path,
        _ => repository,
    };
    match path.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => refuse(Some("the name of a repository has no capital letters")),
        false => Ok(()),
    }
}

fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|digits| {
        digits.len() == 64
            && digits
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}
