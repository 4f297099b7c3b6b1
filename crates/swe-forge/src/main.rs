//! The swe-forge command: brings the command line together with the engines there are.

mod diagnosis;
mod docker;
mod programs;

use std::process::ExitCode;
use std::sync::Arc;

fn main() -> ExitCode {
    forge_cli::main(Arc::new(docker::DockerProvider))
}
