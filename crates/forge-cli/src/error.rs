//! What ends a command early, and how it is told: the error, everything underneath it, hints.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use forge_config::ConfigError;
use forge_engine::EngineError;
use forge_engine::task::TaskLost;
use forge_images::ImagesError;
use forge_orchestrator::RunError;
use forge_orchestrator::gc::GcError;
use forge_registries::{BookError, PolicyError};
use forge_store::StoreError;
use forge_task::Diagnostic;
use serde::Serialize;

use crate::escape;
use crate::exit_status::ExitStatus;
use crate::provider::ConnectError;
use crate::style::{Paint, Style};
use crate::units;

/// Why a command could not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// What was asked for makes no sense, or is not there.
    #[error("{message}")]
    Input {
        /// What is wrong.
        message: String,
        /// What to do instead.
        hint: Option<String>,
    },
    /// The command line is no command of ours.
    #[error("{message}")]
    Usage {
        /// What is wrong.
        message: String,
        /// What to write instead.
        hints: Vec<String>,
    },
    /// Task files are wrong.
    #[error("{} in the task files", units::count(diagnostics.len() as u64, "mistake"))]
    Tasks {
        /// All mistakes.
        diagnostics: Vec<Diagnostic>,
    },
    /// The operator's configuration cannot be used.
    #[error(transparent)]
    Configuration(#[from] ConfigError),
    /// What is known of registries could not be read or written.
    #[error(transparent)]
    Registries(#[from] BookError),
    /// The operator's settings allow no such network.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// No engine could be had.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The record could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A base image could not be looked at or made.
    #[error(transparent)]
    Images(#[from] ImagesError),
    /// A run could not begin or be reported.
    #[error(transparent)]
    Run(#[from] RunError),
    /// What is left could not be looked for, or the record could not be settled.
    #[error(transparent)]
    Gc(#[from] GcError),
    /// A file of ours.
    #[error("could not {action} {}", escape::path(path))]
    File {
        /// What was attempted.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Standard output could not be written.
    #[error("could not write to standard output")]
    Output(#[source] io::Error),
    /// This machine refused something that every command needs.
    #[error("could not {action}")]
    Machine {
        /// What was attempted.
        action: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A part of the program broke off.
    #[error("a fault of swe-forge itself ended the command")]
    Fault(#[from] TaskLost),
    /// A thread of the program broke off.
    #[error("a fault of swe-forge itself ended the command")]
    BrokeOff(#[from] tokio::task::JoinError),
}

impl CliError {
    /// Something that was asked for makes no sense.
    pub fn input(message: impl Into<String>) -> Self {
        Self::Input {
            message: message.into(),
            hint: None,
        }
    }

    /// This error with a hint, where it is about input.
    #[must_use]
    pub fn or_rather(self, text: impl Into<String>) -> Self {
        match self {
            Self::Input { message, .. } => Self::Input {
                message,
                hint: Some(text.into()),
            },
            other => other,
        }
    }

    /// What is wrong with the command line, from how the parser tells it to people: a message, then
    /// paragraphs of advice.
    #[must_use]
    pub fn usage(told: &str) -> Self {
        let mut parts = told.split("\n\n").map(|part| {
            let lines: Vec<&str> = part.split_whitespace().collect();
            lines.join(" ")
        });
        let message = parts.next().unwrap_or_default();
        let message = message.strip_prefix("error: ").unwrap_or(&message);
        Self::Usage {
            message: message.to_owned(),
            hints: parts
                .map(|hint| hint.strip_prefix("tip: ").unwrap_or(&hint).to_owned())
                .filter(|hint| !hint.is_empty())
                .collect(),
        }
    }

    /// The single mistakes in the files that this error is about.
    #[must_use]
    pub fn diagnostics(&self) -> &[Diagnostic] {
        match self {
            Self::Tasks { diagnostics }
            | Self::Configuration(ConfigError::Wrong { diagnostics, .. }) => diagnostics,
            _ => &[],
        }
    }

    /// Turns an error of the system on `path` into one of ours.
    pub fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File {
            action,
            path: path.into(),
            source,
        }
    }

    /// Whether it only says that the reader of standard output left.
    #[must_use]
    pub fn is_reader_gone(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// What the program exits with.
    #[must_use]
    pub const fn exit_status(&self) -> ExitStatus {
        match self {
            Self::Input { .. }
            | Self::Usage { .. }
            | Self::Tasks { .. }
            | Self::Configuration(_)
            | Self::Policy(_)
            | Self::Store(StoreError::NotFound { .. } | StoreError::Ambiguous { .. }) => {
                ExitStatus::BadInput
            }
            _ => ExitStatus::Infrastructure,
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub fn hints(&self) -> Vec<String> {
        let mut hints = Vec::new();
        if let Self::Input { hint, .. } = self {
            hints.extend(hint.clone());
        }
        if let Self::Usage { hints: given, .. } = self {
            hints.extend(given.iter().cloned());
        }
        let mut next: Option<&(dyn Error + 'static)> = Some(self);
        while let Some(error) = next {
            hints.extend(hint_of(error));
            next = error.source();
        }
        // A transparent error is met twice, as the wrapper and as itself.
        hints.dedup();
        hints
    }

    /// The messages of the errors underneath, outermost first.
    #[must_use]
    pub fn causes(&self) -> Vec<String> {
        let mut causes = Vec::new();
        let mut next = self.source();
        while let Some(error) = next {
            causes.push(error.to_string());
            next = error.source();
        }
        causes
    }

    /// The error as people read it, each line with its end.
    #[must_use]
    pub fn render(&self, paint: Paint) -> String {
        let mut text = String::new();
        for diagnostic in self.diagnostics() {
            text.push_str(&render_diagnostic(diagnostic, paint));
        }
        let mut add = |style: Style, word: &str, line: &str| {
            text.push_str(&paint.paint(style, word));
            text.push_str(": ");
            // Some messages quote the last lines of a program; they stay lines.
            text.push_str(&escape::log(line.as_bytes(), escape::LINE_LIMIT));
            text.push('\n');
        };
        add(Style::Bad, "error", &self.to_string());
        for cause in self.causes() {
            add(Style::Plain, "  caused by", &cause);
        }
        for hint in self.hints() {
            add(Style::Warning, "hint", &hint);
        }
        text
    }

    /// The error for programs.
    #[must_use]
    pub fn document(&self) -> ErrorDocument<'_> {
        ErrorDocument {
            error: ErrorBody {
                message: self.to_string(),
                causes: self.causes(),
                hints: self.hints(),
                exit_code: self.exit_status().code(),
                diagnostics: self.diagnostics(),
            },
        }
    }
}

/// Whoever said where the file is: it is mended there, or said anew.
const CERTIFICATES_HINT: &str = "network.ca_bundle of the configuration names the file, or else \
    pip, npm, cargo, git or a variable such as SSL_CERT_FILE does; mend it, set network.ca_bundle, \
    or let `swe-forge registries refresh` find another";

fn configuration_hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::NotFound => {
            "--config and SWE_FORGE_CONFIG name a file that must be there; without either, none has \
             to be"
        }
        io::ErrorKind::PermissionDenied => "whoever runs swe-forge must be able to read it",
        _ => "it is a TOML file of at most 1 MiB; docs/operators.md has all of it",
    }
}

fn hint_of(error: &(dyn Error + 'static)) -> Option<String> {
    match error.downcast_ref() {
        Some(CliError::Connect(ConnectError::Program { hint, .. })) => return Some(hint.clone()),
        Some(CliError::Connect(ConnectError::Certificates { .. })) => {
            return Some(CERTIFICATES_HINT.to_owned());
        }
        Some(CliError::Configuration(ConfigError::Unreadable { source, .. })) => {
            return Some(configuration_hint(source).to_owned());
        }
        _ => {}
    }
    if let Some(CliError::Connect(ConnectError::Engine(error)) | CliError::Engine(error)) =
        error.downcast_ref()
    {
        return error.hint().map(str::to_owned);
    }
    if let Some(CliError::Registries(error)) = error.downcast_ref() {
        return error.hint().map(str::to_owned);
    }
    if let Some(CliError::Policy(error)) = error.downcast_ref() {
        return Some(error.hint().to_owned());
    }
    if let Some(CliError::Store(error)) = error.downcast_ref() {
        return error.hint();
    }
    if let Some(CliError::Images(error)) = error.downcast_ref() {
        return error.hint().map(str::to_owned);
    }
    if let Some(error) = error.downcast_ref::<StoreError>() {
        return error.hint();
    }
    error
        .downcast_ref::<EngineError>()
        .and_then(EngineError::hint)
        .map(str::to_owned)
}

/// A mistake in a file, with its end of line.
#[must_use]
pub fn render_diagnostic(diagnostic: &Diagnostic, paint: Paint) -> String {
    let word = paint.paint(Style::Bad, "error");
    let text = escape::log(diagnostic.to_string().as_bytes(), escape::LINE_LIMIT);
    format!("{word}: {text}\n")
}

/// The JSON document of a command that failed.
#[derive(Debug, Serialize)]
pub struct ErrorDocument<'a> {
    error: ErrorBody<'a>,
}

#[derive(Debug, Serialize)]
struct ErrorBody<'a> {
    message: String,
    causes: Vec<String>,
    hints: Vec<String>,
    exit_code: u8,
    #[serde(skip_serializing_if = "<[Diagnostic]>::is_empty")]
    diagnostics: &'a [Diagnostic],
}

#[cfg(test)]
mod tests {
    use super::*;
    use forge_engine::{EngineErrorKind, Operation};

    const PLAIN: Paint = Paint { colored: false };

    fn engine_error() -> EngineError {
        EngineError::new(
            EngineErrorKind::Unavailable,
            Operation::Create,
            "x",
            "no answer\x1b[2J",
        )
        .with_source(io::Error::other("underneath"))
    }

    #[test]
    fn every_error_of_the_chain_is_said_once_with_its_hint() {
        let error = CliError::Run(RunError::Engine(engine_error()));
        assert_eq!(
            error.render(PLAIN),
            "error: the engine cannot be used\n  \
             caused by: failed to create sandbox x: no answer\\x1b[2J\n  \
             caused by: underneath\n\
             hint: is the engine running? `swe-forge doctor` says what was tried\n"
        );
        let error = CliError::Connect(engine_error().into());
        assert_eq!(
            error.render(PLAIN),
            "error: failed to create sandbox x: no answer\\x1b[2J\n  \
             caused by: underneath\n\
             hint: is the engine running? `swe-forge doctor` says what was tried\n"
        );
    }

    #[test]
    fn files_of_the_operators_that_cannot_be_used_say_who_names_them() {
        let file = PathBuf::from("/etc/swe-forge/config.toml");
        let unreadable = |kind: io::ErrorKind| {
            CliError::Configuration(ConfigError::Unreadable {
                file: file.clone(),
                source: kind.into(),
            })
        };
        let gone = unreadable(io::ErrorKind::NotFound).hints();
        assert!(gone[0].contains("SWE_FORGE_CONFIG"), "{gone:?}");
        let forbidden = unreadable(io::ErrorKind::PermissionDenied).hints();
        assert!(forbidden[0].contains("able to read"), "{forbidden:?}");
        let error = CliError::Connect(ConnectError::Certificates {
            path: "/etc/ca.pem".into(),
            source: forge_config::CertificatesError::None,
        });
        let text = error.render(PLAIN);
        assert!(
            text.contains("caused by: it holds no certificate"),
            "{text}"
        );
        assert!(text.contains("hint: network.ca_bundle"), "{text}");
    }

    #[test]
    fn a_complaint_about_the_command_line_has_a_message_and_hints() {
        let told = "error: unexpected argument '--jbos' found\n\n  tip: a similar argument exists: \
                    '--jobs'\n\nUsage: swe-forge run [OPTIONS] <DIR>...\n";
        let error = CliError::usage(told);
        assert_eq!(error.to_string(), "unexpected argument '--jbos' found");
        assert_eq!(
            error.hints(),
            [
                "a similar argument exists: '--jobs'",
                "Usage: swe-forge run [OPTIONS] <DIR>..."
            ]
        );
        assert_eq!(error.exit_status(), ExitStatus::BadInput);
    }

    #[test]
    fn what_the_caller_can_mend_has_another_code_than_what_broke() {
        let not_found = StoreError::NotFound {
            what: "attempt",
            name: "x".into(),
        };
        assert_eq!(
            CliError::from(not_found).exit_status(),
            ExitStatus::BadInput
        );
        assert_eq!(CliError::input("no").exit_status(), ExitStatus::BadInput);
        assert_eq!(
            CliError::from(engine_error()).exit_status(),
            ExitStatus::Infrastructure
        );
    }
}
