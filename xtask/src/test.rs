//! The whole test suite, cheapest checks first.

use crate::build;
use crate::shell::{self, Failure};
use crate::{attack, chaos, engine, images, tidy};

/// Cycles of chaos in the suite: of each kind of fault some.
const CHAOS: &str = "6";

pub(crate) fn run() -> Result<(), Failure> {
    shell::step("checking the format");
    shell::run(shell::cargo().args(["fmt", "--all", "--check"]))?;
    shell::step("checking the rules of the house");
    tidy::run()?;
    shell::step("linting");
    shell::run(
        shell::cargo()
            .args(["clippy", "--quiet", "--workspace", "--all-targets"])
            .args(["--", "-D", "warnings"]),
    )?;
    let built = build::all()?;
    engine::ensure(&built)?;
    images::ensure(&built)?;
    shell::step("running unit, conformance and end-to-end tests");
    let mut command = shell::cargo();
    command
        .args(["test", "--workspace", "--no-fail-fast"])
        .env("SWE_FORGE_TEST_BINARY", &built.binary)
        .env("SWE_FORGE_TEST_INIT", &built.init)
        .env("SWE_FORGE_TEST_EGRESS", &built.egress)
        .env("SWE_FORGE_TEST_IMAGE", "swe-forge/multi-base:latest");
    shell::run(&mut command)?;
    let binary = built.binary.display().to_string();
    chaos::run(&["--cycles", CHAOS, "--seed", "1", "--binary", &binary])?;
    attack::with(&built, None)
}
