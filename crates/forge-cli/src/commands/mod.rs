//! The commands, one file each.

mod artifacts;
mod cancel;
mod check;
mod completions;
mod doctor;
mod egress;
mod execution;
mod gc;
mod images;
mod logs;
mod man;
mod prepared;
mod ps;
mod recorded;
mod registries;
mod release;
mod resume;
mod run;
mod show;
mod tasks;
mod validate;

use std::time::Duration;

use crate::arguments::{Command, EgressCommand, Format, ImagesCommand, RegistriesCommand};
use crate::error::CliError;
use crate::exit_status::ExitStatus;
use crate::session::Session;

/// Does what `command` says.
///
/// # Errors
/// What kept it from being done; of a run, only what kept the run as a whole from its report.
pub(crate) async fn carry_out(session: Session, command: Command) -> Result<ExitStatus, CliError> {
    let session = &session;
    if session.config_file.is_some() {
        // Whoever names a configuration means it to hold, also where nothing asks for it: a mistake
        // in it would be met later, by a command that takes longer.
        session.configuration().await?;
    }
    match command {
        Command::Run(arguments) => Box::pin(run::carry_out(session, arguments)).await,
        Command::Validate(arguments) => Box::pin(validate::carry_out(session, arguments)).await,
        Command::Check(arguments) => check::carry_out(session, arguments).await,
        Command::Doctor(arguments) => Box::pin(doctor::carry_out(session, arguments)).await,
        Command::Images(arguments) => Box::pin(images::carry_out(session, arguments)).await,
        Command::Registries(arguments) => Box::pin(registries::carry_out(session, arguments)).await,
        Command::Egress(arguments) => Box::pin(egress::carry_out(session, arguments)).await,
        Command::Ps(arguments) => ps::carry_out(session, arguments).await,
        Command::Show(arguments) => show::carry_out(session, arguments).await,
        Command::Logs(arguments) => logs::carry_out(session, arguments).await,
        Command::Artifacts(arguments) => artifacts::carry_out(session, arguments).await,
        Command::Release(arguments) => release::carry_out(session, arguments).await,
        Command::Cancel(arguments) => cancel::carry_out(session, arguments).await,
        Command::Gc(arguments) => gc::carry_out(session, arguments).await,
        Command::Completions(arguments) => completions::carry_out(session, arguments),
        Command::Man(arguments) => man::carry_out(session, arguments),
    }
}

/// How long what `command` runs may go on when the program is told to end and nobody is there to say
/// more; `None` for a command that does not heed its cancellation.
pub(crate) const fn drains_for(command: &Command) -> Option<Duration> {
    let execution = match command {
        Command::Run(arguments) => &arguments.execution,
        Command::Validate(arguments) => &arguments.execution,
        _ => return None,
    };
    Some(Duration::from_secs(execution.drain as u64))
}

/// Whether `command` was asked for a JSON document.
pub(crate) fn writes_json(command: &Command) -> bool {
    let output = match command {
        Command::Run(arguments) => arguments.output,
        Command::Validate(arguments) => arguments.output,
        Command::Check(arguments) => arguments.output,
        Command::Doctor(arguments) => arguments.output,
        Command::Images(arguments) => match arguments.command {
            ImagesCommand::Build { output, .. }
            | ImagesCommand::Ls { output }
            | ImagesCommand::Prune { output } => output,
            ImagesCommand::Rm { .. } => return false,
        },
        Command::Registries(arguments) => match &arguments.command {
            None => arguments.listing.output,
            Some(
                RegistriesCommand::List { listing } | RegistriesCommand::Refresh { listing, .. },
            ) => listing.output,
        },
        Command::Egress(arguments) => match arguments.command {
            EgressCommand::Test { output, .. } => output,
        },
        Command::Ps(arguments) => arguments.output,
        Command::Show(arguments) => arguments.output,
        Command::Artifacts(arguments) => arguments.output,
        Command::Gc(arguments) => arguments.output,
        Command::Logs(_)
        | Command::Release(_)
        | Command::Cancel(_)
        | Command::Completions(_)
        | Command::Man(_) => return false,
    };
    output.format == Format::Json
}
