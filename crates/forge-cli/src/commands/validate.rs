//! `swe-forge validate`: tasks must fail with nothing done and pass with their solution.

use forge_orchestrator::run::Purpose;

use super::execution::{self, Request};
use crate::arguments::ValidateArguments;
use crate::error::CliError;
use crate::exit_status::ExitStatus;
use crate::session::Session;

pub(super) async fn carry_out(
    session: &Session,
    arguments: ValidateArguments,
) -> Result<ExitStatus, CliError> {
    let request = Request {
        directories: arguments.tasks.directories,
        purpose: Purpose::Validate {
            repeat: arguments.repeat,
        },
        execution: arguments.execution,
        format: arguments.output.format,
        from: None,
    };
    execution::carry_out(session, request).await
}
