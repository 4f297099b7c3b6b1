//! Builds `forge-init`, then the release binary with it inside.

use std::path::PathBuf;

use crate::shell::{self, Failure};

/// What was built.
#[derive(Debug, Clone)]
pub(crate) struct Built {
    /// The `swe-forge` binary.
    pub binary: PathBuf,
    /// The `forge-init` binary.
    pub init: PathBuf,
}

/// The architecture of this machine's own glibc target: `forge-init` is static, and the stock
/// toolchain can make it so without another C library.
fn target() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

/// Builds `forge-init`. The target is always named: otherwise procedural macros would be built
/// static as well, and cannot be.
pub(crate) fn init() -> Result<PathBuf, Failure> {
    let target = target();
    shell::step("building forge-init, the static PID 1 of every sandbox");
    let mut command = shell::cargo();
    command
        .args([
            "build",
            "--quiet",
            "--package",
            "forge-init",
            "--profile",
            "init",
        ])
        .args(["--target", &target])
        .env("RUSTFLAGS", "-C target-feature=+crt-static");
    shell::run(&mut command)?;
    Ok(shell::target_directory()
        .join(target)
        .join("init")
        .join("forge-init"))
}

/// Builds everything a user needs.
pub(crate) fn all() -> Result<Built, Failure> {
    let init = init()?;
    shell::step("building swe-forge");
    let mut command = shell::cargo();
    command
        .args(["build", "--quiet", "--release", "--package", "swe-forge"])
        .env("FORGE_INIT_BINARY", &init);
    shell::run(&mut command)?;
    let binary = shell::target_directory().join("release").join("swe-forge");
    Ok(Built { binary, init })
}
