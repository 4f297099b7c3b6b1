//! Builds the programs that run in containers, then the release binary with them inside.

use std::path::PathBuf;

use crate::shell::{self, Failure};

/// What was built.
#[derive(Debug, Clone)]
pub(crate) struct Built {
    /// The `swe-forge` binary.
    pub binary: PathBuf,
    /// The `forge-init` binary.
    pub init: PathBuf,
    /// The `forge-egress` binary.
    pub egress: PathBuf,
}

/// The architecture of this machine's own glibc target: programs in containers are static, and the
/// stock toolchain can make them so without another C library.
fn target() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

/// Builds a static program. The target is always named: otherwise procedural macros would be built
/// static as well, and cannot be.
fn fixed(package: &str, profile: &str) -> Result<PathBuf, Failure> {
    let target = target();
    let mut command = shell::cargo();
    command
        .args(["build", "--quiet", "--package", package])
        .args(["--profile", profile, "--target", &target])
        .env("RUSTFLAGS", "-C target-feature=+crt-static");
    shell::run(&mut command)?;
    Ok(shell::target_directory()
        .join(target)
        .join(profile)
        .join(package))
}

/// Builds `forge-init`.
pub(crate) fn init() -> Result<PathBuf, Failure> {
    shell::step("building forge-init, the static PID 1 of every sandbox");
    fixed("forge-init", "init")
}

/// Builds `forge-egress`; for speed, and with unwinding, so that what goes wrong in one connection
/// stays there.
fn egress() -> Result<PathBuf, Failure> {
    shell::step("building forge-egress, the static proxy of sandboxes with a network");
    fixed("forge-egress", "release")
}

/// Builds everything a user needs.
pub(crate) fn all() -> Result<Built, Failure> {
    let init = init()?;
    let egress = egress()?;
    shell::step("building swe-forge");
    let mut command = shell::cargo();
    command
        .args(["build", "--quiet", "--release", "--package", "swe-forge"])
        .env("FORGE_INIT_BINARY", &init)
        .env("FORGE_EGRESS_BINARY", &egress);
    shell::run(&mut command)?;
    let binary = shell::target_directory().join("release").join("swe-forge");
    Ok(Built {
        binary,
        init,
        egress,
    })
}
