//! `cargo xtask`: everything a developer runs, with all the set-up it needs.

mod attack;
mod bench;
mod build;
mod chaos;
mod demo;
mod engine;
mod files;
mod images;
mod schemas;
mod seccomp;
mod shell;
mod test;
mod tidy;

use std::process::ExitCode;

use shell::Failure;

const HELP: &str = "\
cargo xtask COMMAND

  demo             set up everything and run the examples: first with nobody solving, then with
                   the reference solutions
  test             set up everything and run the whole test suite
  attack [--case N] [--engine docker] [--binary PATH]
                   run hostile programs inside real sandboxes, with listeners outside that must
                   hear nothing, and write the table of docs/security.md
  chaos [--cycles N] [--seed S] [--cycle SEED] [--lanes N] [--faults NAME,NAME] [--binary PATH]
                   kill, stop and fill everything around runs on engines of their own, then count
                   what is lost, doubled or left
  build            build forge-init and the release binary with it inside; prints its path
  setup            find or install an engine and make the base images that are missing
  tidy             check the rules of the house: arrows between crates, file lengths, lints
  schemas          write the JSON Schemas anew from the Rust types
  seccomp          write the seccomp profile of sandboxes anew from the table of refused calls
  bench [NAME]     measure what SPECIFICATION.md promises: cold-start, egress, exec, output, recovery, transfer

demo and test may be repeated at will and reuse what is there.
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            shell::complain(&failure);
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> Result<(), Failure> {
    shell::enter_root()?;
    match words {
        ["demo"] => demo::run(),
        ["test"] => test::run(),
        ["attack", rest @ ..] => attack::run(rest),
        ["chaos", rest @ ..] => chaos::run(rest),
        ["build"] => build::all().map(|built| shell::say(&built.binary.display().to_string())),
        ["setup"] => {
            let built = build::all()?;
            engine::ensure(&built)?;
            images::ensure(&built)
        }
        ["tidy"] => tidy::run(),
        ["schemas"] => schemas::write(),
        ["seccomp"] => seccomp::write(),
        ["bench", rest @ ..] => bench::run(rest),
        [] | ["help" | "--help" | "-h"] => {
            shell::say(HELP);
            Ok(())
        }
        other => Err(Failure::new(format!(
            "'{}' is not a command\n\n{HELP}",
            other.join(" ")
        ))),
    }
}
