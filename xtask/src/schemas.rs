//! Writes the JSON Schemas anew. The same tests that compare them write them when asked to.

use crate::shell::{self, Failure};

pub(crate) fn write() -> Result<(), Failure> {
    shell::step("writing schemas/");
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
        .args(["--", "checked_in_schemas"])
        .env("SWE_FORGE_WRITE_SCHEMAS", "1");
    shell::run(&mut command)
}
