//! `swe-forge completions`: what a shell needs to complete command lines.

use clap::CommandFactory;

use crate::arguments::{Arguments, CompletionsArguments};
use crate::error::CliError;
use crate::exit_status::ExitStatus;
use crate::session::Session;

pub(super) fn carry_out(
    session: &Session,
    arguments: CompletionsArguments,
) -> Result<ExitStatus, CliError> {
    // Into memory first: the generator panics when writing fails, as when a reader leaves.
    let mut script = Vec::new();
    let mut command = Arguments::command();
    clap_complete::generate(arguments.shell, &mut command, "swe-forge", &mut script);
    session.printer.bytes(&script)?;
    Ok(ExitStatus::Success)
}
