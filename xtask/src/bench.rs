//! Benchmarks of what SPECIFICATION.md promises.

use crate::shell::{self, Failure};
use crate::{build, engine, images};

pub(crate) fn run(words: &[&str]) -> Result<(), Failure> {
    let built = build::all()?;
    engine::ensure(&built)?;
    images::ensure(&built)?;
    shell::step("measuring");
    let mut command = shell::cargo();
    command
        .args([
            "run",
            "--quiet",
            "--release",
            "--package",
            "forge-bench",
            "--",
        ])
        .args(words)
        .env("SWE_FORGE_BINARY", &built.binary)
        .env("SWE_FORGE_INIT", &built.init)
        .env("SWE_FORGE_EGRESS", &built.egress);
    shell::run(&mut command)
}
