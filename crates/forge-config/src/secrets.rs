//! Secrets of the operator: where their values are, and values that nothing shows.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use forge_document::did_you_mean;

use crate::settings::Configuration;

/// The longest value, in bytes; the kernel passes on no longer variable.
pub const MAX_SECRET_BYTES: usize = 64 * 1024;

/// The shortest value, in bytes without the blanks around it. Values are masked wherever they occur
/// in logs and reports; a shorter one occurs everywhere by chance.
pub const MIN_SECRET_BYTES: usize = 4;

/// Where the value of a secret is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// In a variable of swe-forge's own environment.
    Variable(String),
    /// In a file; one line end after it is no part of it.
    File(PathBuf),
}

/// The value of a secret. It is shown by nothing: it has no text form, and its debug form does not
/// hold it.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretValue(String);

impl SecretValue {
    /// Keeps `value`.
    #[must_use]
    pub const fn new(value: String) -> Self {
        Self(value)
    }

    /// The value itself, for the environment of a command and for nothing else.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SecretValue(…)")
    }
}

/// A secret that cannot be had. No message holds any part of a value.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// There is no such name in `[secrets]`.
    #[error("the configuration has no secret '{name}'")]
    Unknown {
        /// The name.
        name: String,
        /// What to do about it.
        hint: String,
    },
    /// Its variable is not set.
    #[error("the secret '{name}' is to be in the variable {variable}, which is not set")]
    NotSet {
        /// The name.
        name: String,
        /// The variable.
        variable: String,
    },
    /// Its file cannot be read.
    #[error("the secret '{name}' is to be in {}, which cannot be read", file.display())]
    Unreadable {
        /// The name.
        name: String,
        /// The file.
        file: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// What is there cannot be the value of a variable.
    #[error("the value of the secret '{name}' {problem}")]
    Unusable {
        /// The name.
        name: String,
        /// What is wrong with it, without any part of it.
        problem: &'static str,
    },
}

impl SecretError {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Unknown { hint, .. } => Some(hint),
            _ => None,
        }
    }
}

impl Configuration {
    /// The names of all secrets.
    pub fn secret_names(&self) -> impl Iterator<Item = &str> {
        self.secrets.keys().map(String::as_str)
    }

    /// Reads the value of a secret, now; `variable` reads a variable of swe-forge's environment.
    ///
    /// # Errors
    /// When there is no such secret, or its value is not there, or cannot be the value of a
    /// variable.
    pub fn secret(
        &self,
        name: &str,
        variable: impl FnOnce(&str) -> Option<OsString>,
    ) -> Result<SecretValue, SecretError> {
        let source = self.secrets.get(name).ok_or_else(|| SecretError::Unknown {
            name: name.to_owned(),
            hint: did_you_mean(name, self.secret_names()).unwrap_or_else(|| {
                format!("name it in [secrets]: {name} = {{ env = \"VARIABLE\" }}")
            }),
        })?;
        let bytes = match source {
            SecretSource::Variable(key) => {
                let value = variable(key).ok_or_else(|| SecretError::NotSet {
                    name: name.to_owned(),
                    variable: key.clone(),
                })?;
                value.into_encoded_bytes()
            }
            SecretSource::File(path) => {
                let bytes = read(path).map_err(|source| SecretError::Unreadable {
                    name: name.to_owned(),
                    file: path.clone(),
                    source,
                })?;
                without_line_end(bytes)
            }
        };
        usable(bytes).map_err(|problem| SecretError::Unusable {
            name: name.to_owned(),
            problem,
        })
    }
}

fn read(path: &PathBuf) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // One byte more than is allowed, and a line end, so that too much is seen as such.
    let bound = MAX_SECRET_BYTES as u64 + 3;
    File::open(path)?.take(bound).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn without_line_end(mut bytes: Vec<u8>) -> Vec<u8> {
    for end in [b'\n', b'\r'] {
        if bytes.last() == Some(&end) {
            bytes.pop();
        }
    }
    bytes
}

fn usable(bytes: Vec<u8>) -> Result<SecretValue, &'static str> {
    if bytes.is_empty() {
        return Err("is empty");
    }
    if bytes.len() > MAX_SECRET_BYTES {
        return Err("is longer than 64 KiB");
    }
    if bytes.contains(&0) {
        return Err("holds a NUL byte");
    }
    let text = String::from_utf8(bytes).map_err(|_| "is not UTF-8")?;
    if text.trim().len() < MIN_SECRET_BYTES {
        return Err(
            "is shorter than 4 bytes, not counting blanks around it: it would be masked wherever it \
             occurs in logs and reports, and so short a text occurs everywhere",
        );
    }
    Ok(SecretValue(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn configuration(source: SecretSource) -> Configuration {
        Configuration {
            secrets: [("API_TOKEN".to_owned(), source)].into(),
            ..Configuration::default()
        }
    }

    #[test]
    fn a_value_is_read_when_it_is_asked_for_and_shown_by_nothing() {
        let configuration = configuration(SecretSource::Variable("HERE".into()));
        let secret = configuration
            .secret("API_TOKEN", |name| {
                (name == "HERE").then(|| "hunter2".into())
            })
            .unwrap();
        assert_eq!(secret.expose(), "hunter2");
        assert!(!format!("{secret:?}").contains("hunter2"));
        let error = configuration.secret("API_TOKEN", |_| None).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the secret 'API_TOKEN' is to be in the variable HERE, which is not set"
        );
    }

    #[test]
    fn the_line_end_of_a_file_is_no_part_of_the_value() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let configuration = configuration(SecretSource::File(path.clone()));
        for (contents, value) in [
            ("abcd\n", "abcd"),
            ("abcd\r\n", "abcd"),
            ("abcd", "abcd"),
            ("abcd\n\n", "abcd\n"),
        ] {
            fs::write(&path, contents).unwrap();
            let secret = configuration.secret("API_TOKEN", |_| None).unwrap();
            assert_eq!(secret.expose(), value);
        }
        fs::remove_file(&path).unwrap();
        let error = configuration.secret("API_TOKEN", |_| None).unwrap_err();
        assert!(matches!(error, SecretError::Unreadable { .. }));
    }

    #[test]
    fn values_that_no_variable_can_have_are_refused_without_showing_them() {
        let configuration = configuration(SecretSource::Variable("HERE".into()));
        for (value, problem) in [
            (String::new(), "is empty"),
            ("hunter2\0".to_owned(), "holds a NUL byte"),
            ("hun".to_owned(), "is shorter than 4 bytes"),
            (" hun\t\n ".to_owned(), "is shorter than 4 bytes"),
            ("hunter2".repeat(20_000), "is longer than 64 KiB"),
        ] {
            let error = configuration
                .secret("API_TOKEN", |_| Some(value.into()))
                .unwrap_err();
            let said = format!("{error} {error:?}");
            assert!(said.contains(problem) && !said.contains("hun"), "{said}");
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_one_that_was_meant() {
        let configuration = configuration(SecretSource::Variable("HERE".into()));
        let error = configuration.secret("API_TOKN", |_| None).unwrap_err();
        assert_eq!(error.hint(), Some("did you mean \"API_TOKEN\"?"));
        let error = configuration.secret("DATABASE", |_| None).unwrap_err();
        assert!(error.hint().unwrap().contains("[secrets]"));
    }
}
