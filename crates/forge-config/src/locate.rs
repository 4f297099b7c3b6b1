//! Where the configuration is, and reading it.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use forge_document::{Decoder, Diagnostic};

use crate::sections;
use crate::settings::Configuration;
use crate::toml_tree;

/// The largest configuration, in bytes.
pub const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// The file below a folder of configurations.
const FILE: &str = "swe-forge/config.toml";

/// Where to look.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConfigPlaces {
    /// A file that was named, by the command line or the environment: it must be there.
    pub named: Option<PathBuf>,
    /// The user's folder of configurations (`$XDG_CONFIG_HOME`, else `~/.config`).
    pub user_folder: Option<PathBuf>,
    /// The machine's folder of configurations; `/etc`.
    pub machine_folder: Option<PathBuf>,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("could not read the configuration {}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Something in it is wrong.
    #[error(
        "{} mistake{} in the configuration {}",
        diagnostics.len(),
        if diagnostics.len() == 1 { "" } else { "s" },
        file.display()
    )]
    Wrong {
        /// The file.
        file: PathBuf,
        /// All mistakes, in the order of the file.
        diagnostics: Vec<Diagnostic>,
    },
}

/// Reads the configuration: the first of the places where there is one. Without any, everything is
/// a default.
///
/// # Errors
/// When a file that is there, or was named, cannot be read or is wrong.
pub fn load(places: &ConfigPlaces) -> Result<Configuration, ConfigError> {
    if let Some(named) = &places.named {
        let text = read(named).map_err(unreadable(named))?;
        return parse(named, &text);
    }
    let folders = [&places.user_folder, &places.machine_folder];
    for folder in folders.into_iter().flatten() {
        let file = folder.join(FILE);
        match read(&file) {
            Ok(text) => return parse(&file, &text),
            Err(error) if is_absent(&error) => {}
            Err(error) => return Err(unreadable(&file)(error)),
        }
    }
    Ok(Configuration::default())
}

/// Whether there is no file; what cannot be looked at is another matter.
fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn unreadable(file: &Path) -> impl FnOnce(io::Error) -> ConfigError {
    move |source| ConfigError::Unreadable {
        file: file.to_owned(),
        source,
    }
}

fn read(file: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(file)?
        .take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        let message = "it has more than 1 MiB";
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    String::from_utf8(bytes)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))
}

/// Reads the text of a configuration that stands in `file`. Files that it names are looked at.
///
/// # Errors
/// [`ConfigError::Wrong`] with everything that is wrong.
pub fn parse(file: &Path, text: &str) -> Result<Configuration, ConfigError> {
    let mut decoder = Decoder::of_toml(file);
    let configuration = match toml_tree::parse(text) {
        Ok(root) => sections::configuration(&mut decoder, &root),
        Err(errors) => {
            for error in errors {
                decoder.refuse_at(error.at, "", error.problem);
            }
            None
        }
    };
    let diagnostics = decoder.finish();
    match configuration {
        Some(configuration) if diagnostics.is_empty() => Ok(Configuration {
            file: Some(file.to_owned()),
            ..configuration
        }),
        _ => Err(ConfigError::Wrong {
            file: file.to_owned(),
            diagnostics,
        }),
    }
}
