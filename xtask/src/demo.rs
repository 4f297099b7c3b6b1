//! The demonstration: every example fails with nothing done and completes with its solution.

use std::process::Command;

use crate::build::{self, Built};
use crate::shell::{self, Failure};
use crate::{engine, images};

/// Exit code of `run` when tasks failed and nothing else went wrong.
const TASKS_FAILED: i32 = 1;

pub(crate) fn run() -> Result<(), Failure> {
    let built = build::all()?;
    engine::ensure(&built)?;
    images::ensure(&built)?;
    registries(&built)?;
    shell::step("with nobody solving, the tests of every example must fail");
    let code = shell::code(&mut examples(&built, "nop"))?;
    if code != TASKS_FAILED {
        return Err(Failure::new(format!(
            "the run ended with code {code} and not {TASKS_FAILED}"
        )));
    }
    shell::step("with the reference solutions, every example must complete");
    let code = shell::code(&mut examples(&built, "oracle"))?;
    if code != 0 {
        return Err(Failure::new(format!(
            "the run ended with code {code} and not 0"
        )));
    }
    nothing_left(&built)?;
    shell::step(&format!(
        "every example failed untouched and completed with its solution; nothing is left behind\n  \
         try it yourself: {} run examples/tasks --agent oracle",
        built.binary.display()
    ));
    Ok(())
}

/// Finds out where packages come from. On machines behind a gateway the registries' names lead to
/// addresses that are not public, which is for the operator to accept: here that is whoever started
/// the demonstration.
fn registries(built: &Built) -> Result<(), Failure> {
    shell::step("finding the registries that tasks fetch packages from");
    let mut command = Command::new(&built.binary);
    command.args(["registries", "refresh", "--accept-addresses"]);
    shell::run(&mut command)
}

fn examples(built: &Built, agent: &str) -> Command {
    let mut command = Command::new(&built.binary);
    command.args(["run", "examples/tasks", "--agent", agent]);
    command
}

/// Asks for everything that carries our label; there must be nothing.
pub(crate) fn nothing_left(built: &Built) -> Result<(), Failure> {
    let mut command = Command::new(&built.binary);
    let found = shell::read(command.args(["gc", "--dry-run", "--format", "json"]))?;
    let found: serde_json::Value = serde_json::from_str(&found)
        .map_err(|error| Failure::new(format!("swe-forge gc printed no JSON: {error}")))?;
    let count = found["leftovers"].as_array().map_or(0, Vec::len);
    if count > 0 || found["kept"].as_u64() != Some(0) {
        return Err(Failure::new(format!("objects were left behind: {found:#}")));
    }
    Ok(())
}
