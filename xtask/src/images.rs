//! Makes the base images that are missing.

use std::process::Command;

use crate::build::Built;
use crate::engine;
use crate::shell::{self, Failure};

/// Makes sure that every base image is there and current.
pub(crate) fn ensure(built: &Built) -> Result<(), Failure> {
    if !shell::has("mmdebstrap") && shell::has("apt-get") && shell::is_root() {
        engine::install_packages(&["mmdebstrap"])?;
    }
    shell::step("making the base images that are missing or out of date");
    shell::run(Command::new(&built.binary).args(["images", "build"]))
}
