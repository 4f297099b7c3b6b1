//! A document as a tree in which every key and value knows where it stands.

use std::collections::HashSet;

use crate::diagnostic::{ErrorList, Problem, quote};

/// Deepest nesting of lists and objects in a file.
pub const MAX_DEPTH: usize = 64;

/// A place in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// From 1.
    pub line: u32,
    /// In characters, from 1.
    pub column: u32,
}

impl Position {
    /// Where a file begins.
    pub const START: Self = Self { line: 1, column: 1 };

    /// The place right after `text`, when it begins at the start of a file.
    #[must_use]
    pub fn after(text: &str) -> Self {
        let mut position = Self::START;
        for character in text.chars() {
            position.advance(character);
        }
        position
    }

    /// Steps over `character`.
    pub const fn advance(&mut self, character: char) {
        if character == '\n' {
            self.line = self.line.saturating_add(1);
            self.column = 1;
        } else {
            self.column = self.column.saturating_add(1);
        }
    }
}

/// A value and where it begins.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Where it begins.
    pub at: Position,
    /// The value.
    pub value: Value,
}

/// What JSON, YAML and TOML have in common.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing; TOML has none.
    Null,
    /// `true` or `false`.
    Boolean(bool),
    /// As written: nothing is lost of `1e400`, `3.10` or twenty digits before a field is asked.
    Number(String),
    /// Text.
    Text(String),
    /// A date or a time; only TOML has them.
    Date,
    /// A list.
    List(Vec<Node>),
    /// In the order written, with repeated keys.
    Object(Vec<Member>),
}

/// A key of an object and its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// The key.
    pub key: String,
    /// Where the key begins.
    pub key_at: Position,
    /// The value.
    pub node: Node,
}

/// Why a text is not a document, and where it stopped being one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyntaxError {
    /// Where.
    pub at: Position,
    /// Why.
    pub problem: Problem,
}

impl SyntaxError {
    /// An error at a place.
    #[must_use]
    pub const fn new(at: Position, problem: Problem) -> Self {
        Self { at, problem }
    }

    /// The error of a document that is nested more than [`MAX_DEPTH`] deep.
    #[must_use]
    pub fn too_deep(at: Position) -> Self {
        let problem = Problem::new("it goes deeper here")
            .expecting(format!("at most {MAX_DEPTH} levels of nesting"));
        Self::new(at, problem)
    }
}

/// The bytes of a file as text.
///
/// # Errors
/// When they are not UTF-8, or begin with a byte order mark.
pub fn text_of(bytes: &[u8]) -> Result<&str, SyntaxError> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let valid = std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default();
        let byte = bytes.get(error.valid_up_to()).copied().unwrap_or_default();
        let problem = Problem::new(format!("found the byte 0x{byte:02x}"))
            .expecting("UTF-8")
            .hint("save the file as UTF-8");
        SyntaxError::new(Position::after(valid), problem)
    })?;
    // Readers inside the sandbox get the same bytes, and most JSON readers stumble over the mark.
    if text.starts_with('\u{FEFF}') {
        let problem = Problem::new("it begins with a byte order mark")
            .expecting("UTF-8 without a byte order mark")
            .hint("save the file as \"UTF-8\", not as \"UTF-8 with BOM\"");
        return Err(SyntaxError::new(Position::START, problem));
    }
    Ok(text)
}

impl Node {
    /// The value within a message.
    #[must_use]
    pub fn describe(&self) -> String {
        match &self.value {
            Value::Null => "nothing".to_owned(),
            Value::Boolean(value) => value.to_string(),
            Value::Number(text) => {
                let end = text
                    .char_indices()
                    .nth(40)
                    .map_or(text.len(), |(end, _)| end);
                let cut = if end < text.len() { "…" } else { "" };
                format!("{}{cut}", &text[..end])
            }
            Value::Text(text) => quote(text),
            Value::Date => "a date".to_owned(),
            Value::List(_) => "a list".to_owned(),
            Value::Object(_) => "an object".to_owned(),
        }
    }
}

/// `path.key`, or `path["key"]` when the key is no plain name.
#[must_use]
pub fn join(path: &str, key: &str) -> String {
    let plain = (1..=60).contains(&key.len())
        && key
            .chars()
            .all(|character| character.is_ascii_alphanumeric() || "_-$".contains(character));
    match (plain, path.is_empty()) {
        (true, true) => key.to_owned(),
        (true, false) => format!("{path}.{key}"),
        (false, _) => format!("{path}[{}]", quote(key)),
    }
}

/// Reports every key that stands twice in one object: readers disagree on which one counts.
pub fn report_repeated_keys(root: &Node, errors: &mut ErrorList) {
    look_for_repeated_keys(root, &mut Vec::new(), errors);
}

/// A step from a value to one within it. Paths are put together only for a mistake: in a hostile
/// file they are long and many.
#[derive(Clone, Copy)]
enum Step<'t> {
    Key(&'t str),
    Index(usize),
}

fn path_of(steps: &[Step<'_>]) -> String {
    steps.iter().fold(String::new(), |path, step| match step {
        Step::Key(key) => join(&path, key),
        Step::Index(index) => format!("{path}[{index}]"),
    })
}

fn look_for_repeated_keys<'t>(node: &'t Node, way: &mut Vec<Step<'t>>, errors: &mut ErrorList) {
    match &node.value {
        Value::List(items) => {
            for (index, item) in items.iter().enumerate() {
                way.push(Step::Index(index));
                look_for_repeated_keys(item, way, errors);
                way.pop();
            }
        }
        Value::Object(members) => {
            let mut seen = HashSet::new();
            for member in members {
                way.push(Step::Key(&member.key));
                if !seen.insert(member.key.as_str()) && !errors.is_full() {
                    let found = format!("the key {} is repeated", quote(&member.key));
                    let problem = Problem::new(found).hint("remove one of them");
                    errors.push(member.key_at, &path_of(way), problem);
                }
                look_for_repeated_keys(&member.node, way, errors);
                way.pop();
            }
        }
        Value::Null | Value::Boolean(_) | Value::Number(_) | Value::Text(_) | Value::Date => {}
    }
}
