//! The command line's grammar and its help.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum, ValueHint};
use forge_core::{NetworkLevel, PhaseName};
use forge_plan::queue::MAX_SLOTS;
use forge_registries::Group;

use crate::exit_status::ExitStatus;
use crate::settings::VARIABLES;

/// Runs software-engineering tasks for agents, each in a container of its own.
#[derive(Debug, Parser)]
#[command(
    name = "swe-forge",
    version,
    max_term_width = 100,
    propagate_version = false,
    infer_subcommands = false,
    after_help = "`swe-forge --help` lists exit codes and environment variables.",
    after_long_help = epilogue(),
)]
pub struct Arguments {
    /// What holds for every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
pub struct Global {
    /// Address of the engine: unix:///path or tcp://host:port [env: SWE_FORGE_ENGINE]
    #[arg(
        long,
        global = true,
        value_name = "ADDRESS",
        help_heading = "Global options"
    )]
    pub engine_host: Option<String>,
    /// The operator's configuration [env: SWE_FORGE_CONFIG]
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        value_hint = ValueHint::FilePath,
        help_heading = "Global options"
    )]
    pub config: Option<PathBuf>,
    /// Show results and errors only
    #[arg(
        short,
        long,
        global = true,
        conflicts_with = "verbose",
        help_heading = "Global options"
    )]
    pub quiet: bool,
    /// Log more to standard error: -v what is done, -vv details, -vvv everything
    #[arg(short, long, global = true, action = ArgAction::Count, help_heading = "Global options")]
    pub verbose: u8,
    /// When to use colours; `auto` heeds NO_COLOR
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "WHEN",
        help_heading = "Global options"
    )]
    pub color: ColorChoice,
}

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum ColorChoice {
    /// On a terminal, unless NO_COLOR is set
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// How results are written to standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Human,
    /// One JSON document, for programs
    Json,
}

/// The choice of an output format.
#[derive(Debug, Clone, Copy, Args)]
pub struct Output {
    /// How to write the result to standard output
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub format: Format,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Give every task to an agent and verify what it did
    Run(RunArguments),
    /// Check that tasks fail with nothing done and pass with their solution, every time
    Validate(ValidateArguments),
    /// Read task files and say everything that is wrong with them
    Check(CheckArguments),
    /// Look at the engine, the machine and the base images, and say what is missing
    Doctor(DoctorArguments),
    /// Make, list and remove base images and what was prepared from them
    Images(ImagesArguments),
    /// Show which hosts serve packages to sandboxes, and how they were found
    Registries(RegistriesArguments),
    /// Say what a task may reach, without running anything
    Egress(EgressArguments),
    /// List attempts under way
    Ps(PsArguments),
    /// Show everything about an attempt
    Show(ShowArguments),
    /// Show what the commands of an attempt wrote
    Logs(LogsArguments),
    /// List what was kept of an attempt, or copy it
    Artifacts(ArtifactsArguments),
    /// Remove at once what an attempt that has ended still has on the engine
    Release(ReleaseArguments),
    /// End attempts or runs that are under way
    Cancel(CancelArguments),
    /// Remove what processes that are gone left on the engine, and results that had their time
    Gc(GcArguments),
    /// Write completions for a shell to standard output
    Completions(CompletionsArguments),
    /// Write the manual
    Man(ManArguments),
}

/// Which tasks.
#[derive(Debug, Args)]
pub struct TaskPaths {
    /// Task directories, or folders of them
    #[arg(required = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub directories: Vec<PathBuf>,
}

/// How many attempts may be under way at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Jobs {
    /// So many.
    AtMost(u16),
    /// As many as there is room for.
    Unlimited,
}

fn jobs(text: &str) -> Result<Jobs, String> {
    if text == "unlimited" {
        return Ok(Jobs::Unlimited);
    }
    match text.parse() {
        Ok(count @ 1..=MAX_SLOTS) => Ok(Jobs::AtMost(count)),
        _ => Err(format!(
            "write a number from 1 to {MAX_SLOTS}, or \"unlimited\""
        )),
    }
}

/// How attempts are carried out.
#[derive(Debug, Args)]
pub struct Execution {
    /// Attempts under way at once, or `unlimited`: as many as the engine's machine has room for
    /// [default: twice its cores, at most 10]
    #[arg(short, long, value_name = "N", value_parser = jobs)]
    pub jobs: Option<Jobs>,
    /// Folder for the run's folder with reports, logs and artifacts
    #[arg(
        short,
        long,
        value_name = "DIR",
        default_value = "swe-forge-out",
        value_hint = ValueHint::DirPath
    )]
    pub out: PathBuf,
    /// Keep containers and volumes for inspection; `swe-forge release` and `swe-forge gc` remove them
    #[arg(long)]
    pub keep: bool,
    /// Seconds that what runs may take to end after SIGTERM, before it is ended
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub drain: u32,
}

/// Who solves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AgentName {
    /// Nobody: the task stays as it is
    Nop,
    /// The author: the reference solution is applied
    Oracle,
    /// A command in the sandbox: --command, or the task's own `solve`
    Command,
}

/// The run that was interrupted last.
pub const LATEST: &str = "latest";

/// `run`.
#[derive(Debug, Args)]
pub struct RunArguments {
    /// Task directories, or folders of them
    #[arg(
        required_unless_present = "resume",
        conflicts_with = "resume",
        value_name = "DIR",
        value_hint = ValueHint::DirPath
    )]
    pub directories: Vec<PathBuf>,
    /// Go on with a run or validation that was interrupted: this one, or the latest
    #[arg(
        long,
        value_name = "RUN",
        num_args = 0..=1,
        default_missing_value = LATEST,
        conflicts_with_all = ["agent", "out", "keep"]
    )]
    pub resume: Option<String>,
    /// Who solves; `command` when --command is given, required otherwise
    #[arg(short, long, value_enum)]
    pub agent: Option<AgentName>,
    /// What the command agent runs, as text for the sandbox's `/bin/sh -c`
    #[arg(short, long, value_name = "TEXT")]
    pub command: Option<String>,
    /// How.
    #[command(flatten)]
    pub execution: Execution,
    /// Output.
    #[command(flatten)]
    pub output: Output,
}

/// `validate`.
#[derive(Debug, Args)]
pub struct ValidateArguments {
    /// The tasks.
    #[command(flatten)]
    pub tasks: TaskPaths,
    /// How often each task is tried with nothing done and with its solution
    #[arg(
        short,
        long,
        value_name = "N",
        default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=1000)
    )]
    pub repeat: u32,
    /// How.
    #[command(flatten)]
    pub execution: Execution,
    /// Output.
    #[command(flatten)]
    pub output: Output,
}

/// `check`.
#[derive(Debug, Args)]
pub struct CheckArguments {
    /// The tasks.
    #[command(flatten)]
    pub tasks: TaskPaths,
    /// Output.
    #[command(flatten)]
    pub output: Output,
}

/// `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArguments {
    /// Output.
    #[command(flatten)]
    pub output: Output,
}

/// `images`.
#[derive(Debug, Args)]
pub struct ImagesArguments {
    /// What to do with images.
    #[command(subcommand)]
    pub command: ImagesCommand,
}

/// What can be done with images.
#[derive(Debug, Subcommand)]
pub enum ImagesCommand {
    /// Make the base images that are missing or out of date
    Build {
        /// Which: python, node, rust, multi [default: all of them]
        #[arg(value_name = "NAME")]
        names: Vec<String>,
        /// Where from [default: official images where a registry has them, else Debian packages]
        #[arg(long, value_enum, value_name = "SOURCE")]
        from: Option<ImageOrigin>,
        /// Make them even when they are up to date
        #[arg(long)]
        force: bool,
        /// Output.
        #[command(flatten)]
        output: Output,
    },
    /// List the base images, and the images prepared for sandboxes
    #[command(visible_alias = "list")]
    Ls {
        /// Output.
        #[command(flatten)]
        output: Output,
    },
    /// Remove base images, and what was prepared from them
    Rm {
        /// Which: python, node, rust, multi
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Remove prepared images that are superseded or whose image is gone, and nameless base images
    Prune {
        /// Output.
        #[command(flatten)]
        output: Output,
    },
}

/// Where base images are made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ImageOrigin {
    /// Official images of a registry
    Registry,
    /// Packages of a Debian mirror
    Debian,
}

/// `registries`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct RegistriesArguments {
    /// What to do with registries.
    #[command(subcommand)]
    pub command: Option<RegistriesCommand>,
    /// What to list, when nothing else is to be done.
    #[command(flatten)]
    pub listing: RegistriesListing,
}

/// What can be done with registries.
#[derive(Debug, Subcommand)]
pub enum RegistriesCommand {
    /// List hosts, how they were found, and what they need; finds out what is not known
    #[command(visible_alias = "ls")]
    List {
        /// Which.
        #[command(flatten)]
        listing: RegistriesListing,
    },
    /// Find everything out anew
    Refresh {
        /// Reach these hosts at the addresses that they have now, even those that are not public
        #[arg(long)]
        accept_addresses: bool,
        /// Which.
        #[command(flatten)]
        listing: RegistriesListing,
    },
}

/// Which registries, and how they are shown.
#[derive(Debug, Clone, Args)]
pub struct RegistriesListing {
    /// Only these: pypi, npm, cargo, apt, go, maven, gradle, gems [default: all that are enabled]
    #[arg(long = "group", value_name = "GROUP")]
    pub groups: Vec<Group>,
    /// Output.
    #[command(flatten)]
    pub output: Output,
}

/// `egress`.
#[derive(Debug, Args)]
pub struct EgressArguments {
    /// What to do.
    #[command(subcommand)]
    pub command: EgressCommand,
}

/// What can be asked about the network of sandboxes.
#[derive(Debug, Subcommand)]
pub enum EgressCommand {
    /// Say for each address whether the task would reach it, and why
    ///
    /// Nothing is run and no connection is made. Exit code 0: every address would be reached; 1: some
    /// would be refused, also when one cannot be read as an address; 2: the task, the configuration
    /// or the command line is wrong, or the operator allows no such level.
    Test {
        /// The task's directory
        #[arg(value_name = "TASK", value_hint = ValueHint::DirPath)]
        task: PathBuf,
        /// Addresses: https://example.org/path, example.org:8443 or example.org
        #[arg(required = true, value_name = "URL")]
        urls: Vec<String>,
        /// The phase: setup, solve or verify [default: those that are not isolated]
        #[arg(long, value_name = "PHASE", value_parser = phase())]
        phase: Option<PhaseName>,
        /// The level, instead of the phase's own
        #[arg(long, value_name = "LEVEL", value_parser = network_level)]
        level: Option<NetworkLevel>,
        /// Also look names up, and judge the addresses
        #[arg(long)]
        resolve: bool,
        /// Output.
        #[command(flatten)]
        output: Output,
    },
}

fn network_level(text: &str) -> Result<NetworkLevel, String> {
    NetworkLevel::ALL
        .into_iter()
        .find(|level| level.as_str() == text)
        .ok_or_else(|| {
            let names = NetworkLevel::ALL.map(NetworkLevel::as_str).join(", ");
            format!("'{text}' is no level: {names}")
        })
}

/// `ps`.
#[derive(Debug, Args)]
pub struct PsArguments {
    /// Also list attempts that ended
    #[arg(short, long)]
    pub all: bool,
    /// Only attempts of this run: its id, or the beginning or end of it
    #[arg(long, value_name = "RUN")]
    pub run: Option<String>,
    /// At most so many, newest first; those that wait come last and in their order
    #[arg(short = 'n', long, value_name = "N", default_value_t = 50)]
    pub limit: u32,
    /// Output.
    #[command(flatten)]
    pub output: Output,
}

/// Which attempt.
#[derive(Debug, Args)]
pub struct AttemptName {
    /// An attempt's id or the beginning of it, or a task's id for its latest attempt
    #[arg(value_name = "ID")]
    pub id: String,
}

/// `show`.
#[derive(Debug, Args)]
pub struct ShowArguments {
    /// Which.
    #[command(flatten)]
    pub attempt: AttemptName,
    /// Output.
    #[command(flatten)]
    pub output: Output,
}

/// `logs`.
#[derive(Debug, Args)]
pub struct LogsArguments {
    /// Which.
    #[command(flatten)]
    pub attempt: AttemptName,
    /// Only this phase: setup, solve or verify [default: all, in this order, with headings]
    #[arg(short, long, value_name = "PHASE", value_parser = phase())]
    pub phase: Option<PhaseName>,
    /// Go on until the attempt has ended
    #[arg(short, long)]
    pub follow: bool,
}

fn phase() -> impl clap::builder::TypedValueParser<Value = PhaseName> {
    use clap::builder::{PossibleValuesParser, TypedValueParser};
    PossibleValuesParser::new(PhaseName::ALL.map(PhaseName::as_str))
        .try_map(|text| text.parse::<PhaseName>())
}

/// `artifacts`.
#[derive(Debug, Args)]
pub struct ArtifactsArguments {
    /// Which.
    #[command(flatten)]
    pub attempt: AttemptName,
    /// Copy them below this folder
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub to: Option<PathBuf>,
    /// Overwrite files that exist
    #[arg(long, requires = "to")]
    pub force: bool,
    /// Output.
    #[command(flatten)]
    pub output: Output,
}

/// `release`.
#[derive(Debug, Args)]
pub struct ReleaseArguments {
    /// Which.
    #[command(flatten)]
    pub attempt: AttemptName,
}

/// `cancel`.
#[derive(Debug, Args)]
pub struct CancelArguments {
    /// A run's id, or the beginning or end of it; or an attempt's id or the beginning of it, or a
    /// task's id for its latest attempt
    #[arg(value_name = "RUN|ID", required_unless_present = "all")]
    pub name: Option<String>,
    /// Everything that is under way
    #[arg(long, conflicts_with = "name")]
    pub all: bool,
}

/// `gc`.
#[derive(Debug, Args)]
pub struct GcArguments {
    /// Say what would be removed, and remove nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Also give up interrupted runs: what they left is removed, and nobody goes on with them
    #[arg(long)]
    pub interrupted: bool,
    /// Also remove expired objects of other installations on this engine
    #[arg(long)]
    pub any_owner: bool,
    /// Output.
    #[command(flatten)]
    pub output: Output,
}

/// `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArguments {
    /// The shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// `man`.
#[derive(Debug, Args)]
pub struct ManArguments {
    /// Write a page for every command to this folder [default: the main page to standard output]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub to: Option<PathBuf>,
}

/// Exit codes and environment variables, for the end of the help and of the manual.
fn epilogue() -> String {
    let mut text = String::from("Exit codes:\n");
    // Writing to a String cannot fail.
    for status in ExitStatus::ALL {
        writeln!(text, "  {:<5} {}", status.code(), status.meaning()).ok();
    }
    text.push_str("\nEnvironment variables:\n");
    for (name, meaning) in VARIABLES {
        writeln!(text, "  {name}\n      {meaning}").ok();
    }
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_grammar_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn wrong_values_are_refused_with_the_code_for_bad_input() {
        for line in [
            &["swe-forge", "run"][..],
            &["swe-forge", "run", "x", "-j", "0"],
            &["swe-forge", "run", "x", "-j", "5000"],
            &["swe-forge", "run", "x", "--agent", "gpt"],
            &["swe-forge", "validate", "x", "--repeat", "0"],
            &["swe-forge", "logs", "x", "--phase", "boot"],
            &["swe-forge", "artifacts", "x", "--force"],
            &["swe-forge", "release"],
            &["swe-forge", "cancel"],
            &["swe-forge", "cancel", "x", "--all"],
            &["swe-forge", "-q", "-v", "ps"],
            &["swe-forge", "registries", "--group", "pip"],
            &["swe-forge", "egress", "test", "x"],
            &[
                "swe-forge",
                "egress",
                "test",
                "x",
                "a.test",
                "--level",
                "web",
            ],
            &["swe-forge", "frobnicate"],
        ] {
            let error = Arguments::try_parse_from(line).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line:?}");
        }
    }
}
