//! What is wrong with a file, said so that it can be put right without looking anything up.

use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

use crate::tree::Position;

/// Most diagnostics about one file or one directory; a file of a million mistakes stays readable.
pub const MAX_DIAGNOSTICS: usize = 100;

/// One mistake: where it is, what was expected there, what was found, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// The file or directory, as the caller named it.
    #[serde(serialize_with = "lossy")]
    pub file: PathBuf,
    /// Line, from 1; `None` when it is about the file as a whole.
    pub line: Option<u32>,
    /// Column in characters, from 1.
    pub column: Option<u32>,
    /// The field, as `resources.memory_mb` or `tools[2].name`; `None` for the document itself.
    pub field: Option<String>,
    /// What was found.
    pub message: String,
    /// What should stand there instead, where that can be said.
    pub expected: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
}

fn lossy<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    // Serde refuses names that are not UTF-8, and a report must not fail because of one.
    serializer.serialize_str(&path.to_string_lossy())
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", Printable(&self.file.to_string_lossy()))?;
        if let (Some(line), Some(column)) = (self.line, self.column) {
            write!(formatter, ":{line}:{column}")?;
        }
        formatter.write_str(": ")?;
        if let Some(field) = &self.field {
            write!(formatter, "{}: ", Printable(field))?;
        }
        if let Some(expected) = &self.expected {
            write!(formatter, "expected {}; ", Printable(expected))?;
        }
        write!(formatter, "{}", Printable(&self.message))?;
        if let Some(hint) = &self.hint {
            write!(formatter, "\n  hint: {}", Printable(hint))?;
        }
        Ok(())
    }
}

/// Text of a stranger's on its way to a terminal: what could move the cursor or turn the direction
/// of reading is written as an escape.
struct Printable<'a>(&'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            if character.is_control()
                || matches!(character, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
            {
                write!(formatter, "{}", character.escape_default())?;
            } else {
                formatter.write_char(character)?;
            }
        }
        Ok(())
    }
}

/// A mistake before it is known where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What was found.
    pub message: String,
    /// What should stand there instead.
    pub expected: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Problem {
    /// A problem of which no more than `message` is known.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            expected: None,
            hint: None,
        }
    }

    /// `found`, what stands there, quoted.
    #[must_use]
    pub fn found(text: &str) -> Self {
        Self::new(format!("found {}", quote(text)))
    }

    /// This problem with what should stand there.
    #[must_use]
    pub fn expecting(mut self, expected: impl Into<String>) -> Self {
        self.expected = Some(expected.into());
        self
    }

    /// This problem with what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// This problem with what to do about it, where that is known.
    #[must_use]
    pub fn hint_if_any(mut self, hint: Option<String>) -> Self {
        self.hint = hint.or(self.hint);
        self
    }

    /// This problem at a place in a file.
    #[must_use]
    pub fn at(self, file: impl Into<PathBuf>, at: Position, field: &str) -> Diagnostic {
        Diagnostic {
            line: Some(at.line),
            column: Some(at.column),
            field: (!field.is_empty()).then(|| field.to_owned()),
            ..self.about(file)
        }
    }

    /// This problem of a file or folder as a whole.
    #[must_use]
    pub fn about(self, file: impl Into<PathBuf>) -> Diagnostic {
        Diagnostic {
            file: file.into(),
            line: None,
            column: None,
            field: None,
            message: self.message,
            expected: self.expected,
            hint: self.hint,
        }
    }
}

/// A stranger's text within a message: quoted, on one line, and not too long.
#[must_use]
pub fn quote(text: &str) -> String {
    const LONGEST: usize = 60;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// Collects the mistakes of one file, up to [`MAX_DIAGNOSTICS`].
#[derive(Debug)]
pub struct ErrorList {
    file: PathBuf,
    diagnostics: Vec<Diagnostic>,
}

impl ErrorList {
    /// An empty list about `file`, or about what is below it.
    pub fn new(file: impl Into<PathBuf>) -> Self {
        Self {
            file: file.into(),
            diagnostics: Vec::new(),
        }
    }

    /// A mistake at a place in the file.
    pub fn push(&mut self, at: Position, field: &str, problem: Problem) {
        let diagnostic = problem.at(&self.file, at, field);
        self.keep(diagnostic);
    }

    /// A mistake that is something in or below the directory this list is about.
    pub fn push_path(&mut self, path: impl Into<PathBuf>, problem: Problem) {
        self.keep(problem.about(path));
    }

    fn keep(&mut self, diagnostic: Diagnostic) {
        if !self.is_full() {
            self.diagnostics.push(diagnostic);
        }
    }

    /// Whether looking for more mistakes is in vain.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.diagnostics.len() >= MAX_DIAGNOSTICS
    }

    /// The mistakes in the order a reader meets them.
    #[must_use]
    pub fn into_sorted(mut self) -> Vec<Diagnostic> {
        self.diagnostics
            .sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
        if self.is_full() {
            let problem = Problem::new(format!(
                "only the first {MAX_DIAGNOSTICS} mistakes are shown"
            ));
            self.diagnostics.push(problem.about(&self.file));
        }
        self.diagnostics
    }
}
