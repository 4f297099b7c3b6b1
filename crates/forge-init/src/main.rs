//! PID 1 of every sandbox. It starts programs and tells how they ended, moves files in and out,
//! watches limits, and ends every process when it is told to.
//!
//! The task runs under the same user and can do to this process whatever that user may: it is
//! treated as hostile throughout. See `event_loop` for how PID 1 stays responsive, `processes` for
//! how it ends processes, `connection` and `gate` for who may speak to it.
//!
//! Exit codes of `init`: 0 when the end was asked for, 123 when nobody claimed the sandbox in time,
//! 124 when its lifetime passed, 1 when it could not run. SIGPIPE is ignored by Rust's runtime.

mod attestation;
mod beneath;
mod bridge;
mod cgroup;
mod clients;
mod connection;
mod deadline;
mod disk_watch;
mod event_loop;
mod exec;
mod execs;
mod failure;
mod file_worker;
mod gate;
mod hand_over;
mod init;
mod input_buffer;
mod kernel;
mod listeners;
mod mounts;
mod names;
mod network;
mod output_buffer;
mod pack;
mod processes;
mod remove;
mod requests;
mod rights;
mod root_watch;
mod seccomp;
mod spawn;
mod transfers;
mod unpack;
mod volume;
mod wake;

use std::io::{self, Write};
use std::process::ExitCode;

use crate::event_loop::Over;

/// Exit code when the lifetime has passed, as timeout(1) has it.
const LIFETIME_PASSED: u8 = 124;
const USAGE: &str = "usage: forge-init init | bridge | version | volume ...";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let result = match (arguments.next().as_deref(), arguments.next()) {
        (Some("init"), None) => init::run().map(|over| match over {
            Over::Asked => ExitCode::SUCCESS,
            Over::Unclaimed => ExitCode::from(forge_wire::UNCLAIMED_CODE),
            Over::Lifetime => ExitCode::from(LIFETIME_PASSED),
            Over::Broken => ExitCode::FAILURE,
        }),
        (Some("bridge"), None) => bridge().map(|()| ExitCode::SUCCESS),
        (Some("version"), None) => version().map(|()| ExitCode::SUCCESS),
        (Some("volume"), Some(first)) => {
            let arguments: Vec<String> = std::iter::once(first).chain(arguments).collect();
            volume::run(&arguments).map(|()| ExitCode::SUCCESS)
        }
        _ => Err(io::Error::other(USAGE)),
    };
    result.unwrap_or_else(|error| {
        // Nobody may be reading; the exit code says it as well.
        drop(writeln!(io::stderr(), "forge-init: {error}"));
        ExitCode::FAILURE
    })
}

/// The bridge passes on proofs, so it closes itself to the task's user like PID 1.
fn bridge() -> io::Result<()> {
    nix::sys::prctl::set_dumpable(false)?;
    bridge::run()
}

fn version() -> io::Result<()> {
    let protocol = forge_wire::PROTOCOL_VERSION;
    let version = env!("CARGO_PKG_VERSION");
    writeln!(io::stdout(), "forge-init {version} protocol {protocol}")
}
