//! Identifiers: each kind of thing has its own type, and none can hold a value that is unsafe in a
//! container name, a label or a path.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Longest task id, in bytes; leaves room for prefix and suffix in a container name of 128 bytes.
pub const MAX_TASK_ID_LENGTH: usize = 80;

/// Why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// The text is empty.
    #[error("it is empty")]
    Empty,
    /// The text is longer than allowed.
    #[error("it has {length} bytes, at most {limit} are allowed")]
    TooLong {
        /// Its length in bytes.
        length: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// A character outside the allowed set.
    #[error("it holds {character:?} at byte {position}")]
    Character {
        /// The offending character.
        character: char,
        /// Where it stands, in bytes.
        position: usize,
    },
    /// The text is not a UUID.
    #[error("it is not a run id")]
    NotUuid,
}

/// A task's name, unique within a run: letters, digits, `.`, `_` and `-`, beginning with a letter
/// or digit, at most [`MAX_TASK_ID_LENGTH`] bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct TaskId(String);

impl TaskId {
    /// Checks and takes a text as a task id.
    ///
    /// # Errors
    /// [`InvalidId`] says which rule the text breaks.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidId> {
        let text = text.into();
        check_name(&text, MAX_TASK_ID_LENGTH)?;
        Ok(Self(text))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check_name(text: &str, limit: usize) -> Result<(), InvalidId> {
    if text.is_empty() {
        return Err(InvalidId::Empty);
    }
    if text.len() > limit {
        return Err(InvalidId::TooLong {
            length: text.len(),
            limit,
        });
    }
    let allowed = |position: usize, character: char| {
        character.is_ascii_alphanumeric() || (position > 0 && matches!(character, '.' | '_' | '-'))
    };
    match text
        .char_indices()
        .find(|&(position, character)| !allowed(position, character))
    {
        Some((position, character)) => Err(InvalidId::Character {
            character,
            position,
        }),
        None => Ok(()),
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl FromStr for TaskId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

impl<'de> Deserialize<'de> for SandboxId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new(text).map_err(serde::de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for TaskId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new(text).map_err(serde::de::Error::custom)
    }
}

/// One invocation of `run` or `validate`; version 7, so that ids sort by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(Uuid);

impl RunId {
    /// Wraps an id made by the caller, who owns randomness and time.
    #[must_use]
    pub const fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// The last eight hexadecimal digits: random, and short enough for names.
    #[must_use]
    pub fn short(&self) -> String {
        let text = self.0.simple().to_string();
        text[24..].to_owned()
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl FromStr for RunId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::parse_str(text)
            .map(Self)
            .map_err(|_| InvalidId::NotUuid)
    }
}

/// Which installation of swe-forge made an object on an engine.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct OwnerId(String);

impl OwnerId {
    /// Checks and takes a text as an owner id; same character rules as a task id.
    ///
    /// # Errors
    /// [`InvalidId`] says which rule the text breaks.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidId> {
        let text = text.into();
        check_name(&text, 64)?;
        Ok(Self(text))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for OwnerId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// The how-manieth try of a task within a run; the first is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Attempt(pub u32);

impl fmt::Display for Attempt {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// One sandbox or workspace on an engine, chosen by the caller of create; also the tail of the
/// names of everything made for it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct SandboxId(String);

impl SandboxId {
    /// Takes a text as an object id: same characters as a task id, at most 110 bytes.
    ///
    /// # Errors
    /// [`InvalidId`] says which rule the text breaks.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidId> {
        let text = text.into();
        check_name(&text, 110)?;
        Ok(Self(text))
    }

    /// The id of attempt `attempt` of `task` in `run`: `<task>-<run, short>-<attempt>`.
    #[must_use]
    pub fn for_attempt(task: &TaskId, run: &RunId, attempt: Attempt) -> Self {
        Self(format!("{task}-{}-{attempt}", run.short()))
    }

    /// This id with one more part, `<id>-<part>`.
    #[must_use]
    pub fn with_part(&self, part: &str) -> Self {
        Self(format!("{}-{part}", self.0))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SandboxId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_id_that_could_leave_its_folder_is_refused() {
        for text in [
            "",
            "..",
            ".hidden",
            "a/b",
            "a b",
            "-x",
            "ä",
            "a\nb",
            &"x".repeat(81),
        ] {
            assert!(TaskId::new(text).is_err(), "{text:?} was taken");
        }
        for text in ["a", "py-lru", "django__django-11099", "A1.b_c-d"] {
            assert!(TaskId::new(text).is_ok(), "{text:?} was refused");
        }
    }

    #[test]
    fn the_longest_names_fit_the_limit_of_an_engine() {
        let task = TaskId::new("x".repeat(MAX_TASK_ID_LENGTH)).unwrap();
        let run = RunId::from_uuid(Uuid::from_u128(7));
        let id = SandboxId::for_attempt(&task, &run, Attempt(4_294_967_295)).with_part("verify");
        assert!(format!("swe-forge-artifacts-{id}").len() <= 128);
        assert!(SandboxId::new(id.as_str()).is_ok());
    }
}
