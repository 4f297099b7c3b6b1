//! Running programs and talking to the developer.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// A step that failed, in words for a person.
#[derive(Debug)]
pub(crate) struct Failure(String);

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Prints to standard output.
#[expect(clippy::print_stdout, reason = "this is the developer's terminal")]
pub(crate) fn say(text: &str) {
    println!("{text}");
}

/// Says what begins now.
#[expect(clippy::print_stderr, reason = "this is the developer's terminal")]
pub(crate) fn step(text: &str) {
    eprintln!("\n▶ {text}");
}

/// Prints why the command failed.
#[expect(clippy::print_stderr, reason = "this is the developer's terminal")]
pub(crate) fn complain(failure: &Failure) {
    eprintln!("\n✘ {failure}");
}

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_owned()
}

/// All commands run from the repository's root.
pub(crate) fn enter_root() -> Result<(), Failure> {
    std::env::set_current_dir(root())
        .map_err(|error| Failure::new(format!("the repository's root is out of reach: {error}")))
}

/// The folder that cargo builds into.
pub(crate) fn target_directory() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The cargo that runs us.
pub(crate) fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Runs a program with its output on the terminal.
pub(crate) fn run(command: &mut Command) -> Result<(), Failure> {
    match code(command)? {
        0 => Ok(()),
        code => Err(Failure::new(format!(
            "{} ended with code {code}",
            show(command)
        ))),
    }
}

/// Runs a program with its output on the terminal and gives its exit code.
pub(crate) fn code(command: &mut Command) -> Result<i32, Failure> {
    let began = Instant::now();
    let status = command.stdin(Stdio::null()).status().map_err(|error| {
        Failure::new(format!("{} could not be started: {error}", show(command)))
    })?;
    let seconds = began.elapsed().as_secs();
    if seconds >= 5 {
        step(&format!("… took {seconds} s"));
    }
    status
        .code()
        .ok_or_else(|| Failure::new(format!("{} was ended by a signal", show(command))))
}

/// Runs a program and gives what it wrote to standard output.
pub(crate) fn read(command: &mut Command) -> Result<String, Failure> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| {
            Failure::new(format!("{} could not be started: {error}", show(command)))
        })?;
    if !output.status.success() {
        return Err(Failure::new(format!("{} failed", show(command))));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether a program can be found.
pub(crate) fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder| folder.join(program).is_file())
}

/// Whether we may install packages and start services.
pub(crate) fn is_root() -> bool {
    Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

fn show(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(
        command
            .get_args()
            .map(|word| word.to_string_lossy().into_owned()),
    );
    words.join(" ")
}
