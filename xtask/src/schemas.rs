//! The JSON Schemas: the same tests that compare them with the types write them when asked to.

use std::process::Command;

use crate::shell::{self, Failure};

pub(crate) fn write() -> Result<(), Failure> {
    shell::step("writing schemas/");
    shell::run(tests().env("SWE_FORGE_WRITE_SCHEMAS", "1"))
}

/// Fails when a schema that is checked in is not that of the types.
pub(crate) fn check() -> Result<(), Failure> {
    shell::read(&mut tests()).map(|_| ())
}

fn tests() -> Command {
    let mut command = shell::cargo();
    command
        .args([
            "test",
            "--quiet",
            "--package",
            "forge-api",
            "--package",
            "forge-task",
        ])
        .args(["--", "checked_in_schemas"]);
    command
}
