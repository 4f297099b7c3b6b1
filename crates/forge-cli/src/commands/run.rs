//! `swe-forge run`: every task is given to an agent.

use forge_core::CommandLine;
use forge_orchestrator::Agent;
use forge_orchestrator::run::Purpose;

use super::execution::{self, Request};
use super::resume;
use crate::arguments::{AgentName, RunArguments};
use crate::error::CliError;
use crate::exit_status::ExitStatus;
use crate::session::Session;

pub(super) async fn carry_out(
    session: &Session,
    arguments: RunArguments,
) -> Result<ExitStatus, CliError> {
    let execution = arguments.execution;
    let format = arguments.output.format;
    if let Some(run) = arguments.resume {
        return resume::carry_out(session, &run, arguments.command, execution, format).await;
    }
    let agent = agent(arguments.agent, arguments.command)?;
    let request = Request {
        directories: arguments.directories,
        purpose: Purpose::Run(agent),
        execution,
        format,
        from: None,
    };
    execution::carry_out(session, request).await
}

/// The agent that two options mean together.
fn agent(name: Option<AgentName>, command: Option<String>) -> Result<Agent, CliError> {
    match (name, command) {
        (None | Some(AgentName::Command), Some(command)) if command.trim().is_empty() => {
            Err(CliError::input("--command is empty")
                .or_rather("give the text that the sandbox's shell runs"))
        }
        (None | Some(AgentName::Command), Some(command)) => {
            Ok(Agent::Command(Some(CommandLine::Shell(command))))
        }
        (Some(AgentName::Command), None) => Ok(Agent::Command(None)),
        (Some(AgentName::Nop), None) => Ok(Agent::Nop),
        (Some(AgentName::Oracle), None) => Ok(Agent::Oracle),
        (Some(AgentName::Nop | AgentName::Oracle), Some(_)) => Err(CliError::input(
            "--command is for the command agent, and another agent was asked for",
        )
        .or_rather("leave out --agent, or say --agent command")),
        (None, None) => Err(CliError::input("no agent was chosen").or_rather(
            "say --agent oracle (applies the reference solution), --agent nop (does nothing), \
             --agent command (runs each task's own solve command), or --command TEXT",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_alone_means_the_command_agent() {
        let shell = Agent::Command(Some(CommandLine::Shell("make".into())));
        assert_eq!(agent(None, Some("make".into())).unwrap(), shell);
        assert_eq!(
            agent(Some(AgentName::Command), Some("make".into())).unwrap(),
            shell
        );
        assert_eq!(
            agent(Some(AgentName::Command), None).unwrap(),
            Agent::Command(None)
        );
        assert_eq!(agent(Some(AgentName::Nop), None).unwrap(), Agent::Nop);
        assert_eq!(agent(Some(AgentName::Oracle), None).unwrap(), Agent::Oracle);
    }

    #[test]
    fn a_choice_that_makes_no_sense_is_bad_input_with_a_hint() {
        for (name, command) in [
            (None, None),
            (Some(AgentName::Oracle), Some("make")),
            (Some(AgentName::Nop), Some("make")),
            (None, Some("  ")),
        ] {
            let error = agent(name, command.map(str::to_owned)).unwrap_err();
            assert_eq!(error.exit_status(), ExitStatus::BadInput);
            assert_eq!(error.hints().len(), 1);
        }
    }
}
