//! The rules of the house that no compiler checks.

mod arrows;
mod hosts;
mod manifests;
mod sources;

use std::path::PathBuf;
use std::process::Command;

use crate::schemas;
use crate::shell::{self, Failure};

/// Runs every check and reports all findings at once.
pub(crate) fn run() -> Result<(), Failure> {
    let files = tracked_files()?;
    let metadata = metadata()?;
    let mut findings = Vec::new();
    findings.extend(arrows::check(&metadata));
    findings.extend(manifests::check(&files));
    findings.extend(sources::check(&files));
    findings.extend(hosts::check(&files));
    if let Err(failure) = schemas::check() {
        findings.push(format!(
            "schemas/ is out of date, run `cargo xtask schemas` ({failure})"
        ));
    }
    if findings.is_empty() {
        shell::say(&format!("tidy: {} files are in order", files.len()));
        return Ok(());
    }
    findings.sort();
    Err(Failure::new(format!(
        "the house is not tidy:\n  {}",
        findings.join("\n  ")
    )))
}

/// Files that git tracks or would track.
fn tracked_files() -> Result<Vec<PathBuf>, Failure> {
    let mut command = Command::new("git");
    let listing = shell::read(command.args([
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
        "-z",
    ]))?;
    let files = listing
        .split('\0')
        .filter(|name| !name.is_empty())
        .map(PathBuf::from);
    Ok(files.filter(|path| path.is_file()).collect())
}

fn metadata() -> Result<serde_json::Value, Failure> {
    let mut command = shell::cargo();
    let text = shell::read(command.args(["metadata", "--format-version", "1", "--locked"]))?;
    serde_json::from_str(&text)
        .map_err(|error| Failure::new(format!("cargo metadata printed no JSON: {error}")))
}
