//! What is wrong with the configuration, said so that it can be put right without looking anything
//! up.

use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

/// Most diagnostics about one file.
pub const MAX_DIAGNOSTICS: usize = 100;

/// One mistake: where it is, what was expected there, what was found, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// The file.
    #[serde(serialize_with = "lossy")]
    pub file: PathBuf,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// The key, as `limits.memory_mb` or `network.exception[1].hosts[0]`; `None` for the document
    /// itself.
    pub field: Option<String>,
    /// What was found.
    pub message: String,
    /// What should stand there instead, where that can be said.
    pub expected: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
}

fn lossy<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    // Serde refuses names that are not UTF-8.
    serializer.serialize_str(&path.to_string_lossy())
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.to_string_lossy();
        write!(formatter, "{file}:{}:{}: ", self.line, self.column)?;
        if let Some(field) = &self.field {
            write!(formatter, "{field}: ")?;
        }
        if let Some(expected) = &self.expected {
            write!(formatter, "expected {expected}; ")?;
        }
        formatter.write_str(&self.message)?;
        if let Some(hint) = &self.hint {
            write!(formatter, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

/// A mistake before it is known where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) message: String,
    pub(crate) expected: Option<String>,
    pub(crate) hint: Option<String>,
}

impl Problem {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            expected: None,
            hint: None,
        }
    }

    /// `found`, what stands there, quoted.
    pub(crate) fn found(text: &str) -> Self {
        Self::new(format!("found {}", quote(text)))
    }

    pub(crate) fn expecting(mut self, expected: impl Into<String>) -> Self {
        self.expected = Some(expected.into());
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn hint_if_any(mut self, hint: Option<String>) -> Self {
        self.hint = hint.or(self.hint);
        self
    }
}

/// Text of the file within a message: quoted, on one line, and not too long.
pub(crate) fn quote(text: &str) -> String {
    const LONGEST: usize = 60;
    let mut quoted = String::new();
    // Writing to a String cannot fail.
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => write!(quoted, "{:?}…", &text[..end]).ok(),
        None => write!(quoted, "{text:?}").ok(),
    };
    quoted
}
