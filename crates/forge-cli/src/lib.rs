//! The command line of swe-forge: arguments, output, exit codes.
//!
//! * [`arguments`]: the grammar and the help.
//! * [`exit_status`]: what exit codes mean and how they are decided.
//! * [`settings`]: every environment variable.
//! * [`printer`]: the only way to standard output and standard error.
//! * [`escape`]: what a stranger wrote, made safe to show.
//! * [`provider`]: how engines come in; this crate knows none.
//! * `commands`: one file for each command.

pub mod arguments;
mod base_images;
mod commands;
pub mod error;
pub mod escape;
pub mod exit_status;
mod failures;
mod interrupt;
mod live_view;
mod log_tail;
mod logging;
mod operator;
pub mod printer;
mod progress;
pub mod provider;
mod results;
mod session;
pub mod settings;
pub mod style;
pub mod table;
pub mod units;

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{CommandFactory, FromArgMatches};
use forge_engine::task;
use forge_orchestrator::Cancellation;
use tokio::runtime::{Builder, Handle};

use crate::arguments::{Arguments, Command};
use crate::error::CliError;
use crate::exit_status::ExitStatus;
use crate::interrupt::{Interrupts, Notice};
use crate::printer::{Printer, PrinterOptions};
use crate::provider::EngineProvider;
use crate::session::Session;
use crate::settings::Settings;

/// How long background work may take to notice that the program ends.
const SHUTDOWN: Duration = Duration::from_secs(2);

/// The whole program: reads the command line of the process, does what it says, and returns the
/// exit code.
pub fn main(provider: Arc<dyn EngineProvider>) -> ExitCode {
    let settings = Settings::of_process();
    let command_line = settings::command_line();
    let arguments = match parse(&command_line) {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error, &command_line),
    };
    let printer = Printer::new(PrinterOptions {
        color: arguments.global.color,
        no_color: settings.no_color,
        dumb_terminal: settings.dumb_terminal,
        quiet: arguments.global.quiet,
    });
    logging::start(
        arguments.global.verbose,
        settings.log_filter.as_deref(),
        &printer,
    );
    let session = Session {
        printer: printer.clone(),
        provider,
        config_file: (arguments.global.config.clone()).or(settings.config_file.clone()),
        engine_host: (arguments.global.engine_host.clone()).or(settings.engine_host.clone()),
        settings,
        cancellation: Cancellation::default(),
        arguments: command_line
            .iter()
            .skip(1)
            .map(|argument| argument.to_string_lossy().into_owned())
            .collect(),
    };
    let workers = Builder::new_multi_thread().enable_all().build();
    // Signals are waited for on a thread of their own: every other one may be writing to a pipe
    // that nobody reads.
    let listener = Builder::new_current_thread().enable_all().build();
    let (workers, listener) = match (workers, listener) {
        (Ok(workers), Ok(listener)) => (workers, listener),
        (Err(source), _) | (_, Err(source)) => {
            let action = "start the threads of the program";
            return fail(&CliError::Machine { action, source }, &printer).into();
        }
    };
    let (status, at_once) =
        listener.block_on(carry_out(session, arguments, &printer, workers.handle()));
    listener.shutdown_background();
    if at_once {
        workers.shutdown_background();
    } else {
        workers.shutdown_timeout(SHUTDOWN);
    }
    status.into()
}

fn parse(command_line: &[OsString]) -> Result<Arguments, clap::Error> {
    let choice = match argument(command_line, "--color") {
        Some("always") => clap::ColorChoice::Always,
        Some("never") => clap::ColorChoice::Never,
        _ => clap::ColorChoice::Auto,
    };
    let matches = Arguments::command()
        .color(choice)
        .try_get_matches_from(command_line)?;
    Arguments::from_arg_matches(&matches)
}

/// The value of an option, found before the command line is parsed, since help and usage errors
/// obey it too.
fn argument<'a>(command_line: &'a [OsString], option: &str) -> Option<&'a str> {
    let arguments = command_line.iter().skip(1);
    let mut arguments = arguments
        .filter_map(|argument| argument.to_str())
        .take_while(|argument| *argument != "--");
    while let Some(argument) = arguments.next() {
        match argument.strip_prefix(option) {
            Some("") => return arguments.next(),
            Some(value) if value.starts_with('=') => return value.strip_prefix('='),
            _ => {}
        }
    }
    None
}

/// Help, version, or a complaint about the command line; that is a document as well where one was
/// asked for.
fn usage(error: &clap::Error, command_line: &[OsString]) -> ExitCode {
    if error.use_stderr() && argument(command_line, "--format") == Some("json") {
        let printer = Printer::new(PrinterOptions {
            color: arguments::ColorChoice::Never,
            no_color: true,
            dumb_terminal: true,
            quiet: true,
        });
        let complaint = CliError::usage(&error.render().to_string());
        if printer.json(&complaint.document()).is_err() {
            // It is told on standard error below in any case.
            tracing::debug!("the reader of standard output left before the error document");
        }
    }
    let printed = error.print();
    let gone = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    match printed {
        Err(error) if !gone(&error) => ExitStatus::Infrastructure.into(),
        _ if error.use_stderr() => ExitStatus::BadInput.into(),
        _ => ExitStatus::Success.into(),
    }
}

/// Does what the arguments say, by `workers`, unless signals end it; says whether to leave without
/// waiting.
async fn carry_out(
    session: Session,
    arguments: Arguments,
    printer: &Printer,
    workers: &Handle,
) -> (ExitStatus, bool) {
    let mut interrupts = match Interrupts::listen() {
        Ok(interrupts) => interrupts,
        Err(source) => {
            let action = "listen for signals";
            return (fail(&CliError::Machine { action, source }, printer), false);
        }
    };
    let cancellation = session.cancellation.clone();
    let patience = commands::drains_for(&arguments.command);
    // Elsewhere, so that a reader that is slow or stands still does not keep signals from being
    // heard.
    let command = {
        let _entered = workers.enter();
        task::spawn("command", perform(session, arguments.command))
    };
    let teller = printer.clone();
    let say = move |notice| tell(notice, &teller);
    let clean = patience.map(|_| (&cancellation, say));
    let ends_cleanly = patience.is_some();
    let ended = tokio::select! {
        ended = command.join() => ended,
        () = interrupts.leave_at_once(clean, patience.unwrap_or_default()) => {
            let printer = printer.clone();
            interrupt::say_briefly(move || leave(ends_cleanly, &printer)).await;
            return (ExitStatus::Cancelled, true);
        }
    };
    match ended {
        Ok(status) => (status, false),
        Err(lost) => (fail(&CliError::from(lost), printer), false),
    }
}

/// Does what `command` says, and tells the error that it ended with.
async fn perform(session: Session, command: Command) -> ExitStatus {
    let printer = session.printer.clone();
    let json = commands::writes_json(&command);
    match commands::carry_out(session, command).await {
        Ok(status) => status,
        Err(error) if error.is_reader_gone() => ExitStatus::Success,
        Err(error) => {
            if json && printer.json(&error.document()).is_err() {
                // The error is told on standard error below in any case.
                tracing::debug!("the reader of standard output left before the error document");
            }
            fail(&error, &printer)
        }
    }
}

fn tell(notice: Notice, printer: &Printer) {
    let (word, text) = match notice {
        Notice::Draining => (
            "no more starts",
            "what runs goes on to its end; press Ctrl-C again to end it now".to_owned(),
        ),
        Notice::DrainingFor(patience) => (
            "no more starts",
            format!(
                "what runs has {} to end; a second signal ends it now",
                units::duration(patience)
            ),
        ),
        Notice::Stopping => (
            "stopping",
            "what runs is ended and removed; one more signal leaves at once".to_owned(),
        ),
    };
    printer.remark(style::Style::Warning, word, &text);
}

fn leave(leaves_objects: bool, printer: &Printer) {
    printer.show_live(Vec::new());
    if leaves_objects {
        printer.remark(
            style::Style::Warning,
            "left at once",
            "`swe-forge run --resume` goes on with what is left on the engine, `swe-forge gc \
             --interrupted` removes it",
        );
    }
}

fn fail(error: &CliError, printer: &Printer) -> ExitStatus {
    printer.error_stream(&error.render(printer.err_paint()));
    error.exit_status()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_usage_errors_obey_are_known_before_parsing() {
        for (line, expected) in [
            (&["swe-forge", "--color=never", "ps"][..], Some("never")),
            (&["swe-forge", "ps", "--color", "always"], Some("always")),
            (&["swe-forge", "ps", "--colors=always"], None),
            (&["swe-forge", "ps", "--color"], None),
            (&["swe-forge", "ps", "--", "--color", "always"], None),
            (&["swe-forge", "ps"], None),
        ] {
            let line: Vec<OsString> = line.iter().map(OsString::from).collect();
            assert_eq!(argument(&line, "--color"), expected);
        }
    }
}
