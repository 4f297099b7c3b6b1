//! A place where cycles run one after the other: an engine, a home, somebody else's objects, and what
//! there was of everything before the first.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::census::Census;
use super::clean_up::{self, Janitor};
use super::drive::Drive;
use super::engine::{Engine, output, read};
use super::foreign::Foreign;
use super::plan::{Plan, Task};
use super::tasks::KINDS;
use super::verdicts::{self, Problem, Sort};
use crate::files::{at, write};
use crate::shell::Failure;

/// How long what ends by itself may take to be gone.
const PATIENCE: Duration = Duration::from_secs(10);
/// Infrastructure fails as often as it likes here, and must never become a verdict.
const SETTINGS: &str = "\
[retry]
attempts = 8
first_pause_seconds = 1
longest_pause_seconds = 1

[cleanup]
delay_seconds = 0
";

/// What a cycle came to.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// What went wrong.
    pub problems: Vec<Problem>,
    /// What `gc` had to remove: kinds of objects with what they were for.
    pub collected: Vec<String>,
    /// How many containers the engine itself had forgotten.
    pub forgotten: usize,
    /// Strikes whose moment never came.
    pub missed: usize,
    /// Where everything of it is, when something went wrong.
    pub kept: Option<PathBuf>,
}

/// The place.
#[derive(Debug)]
pub(super) struct Lane {
    folder: PathBuf,
    name: String,
    binary: PathBuf,
    pub(super) engine: Engine,
    foreign: Foreign,
    before: Census,
    // Last: it takes away what is left.
    _janitor: Janitor,
}

impl Lane {
    /// Makes everything below a folder that nobody else has, and runs every kind of task once.
    pub(super) fn new(binary: &Path, folder: &Path) -> Result<Self, Failure> {
        let name = clean_up::name(folder);
        fs::create_dir_all(folder.join("tmp")).map_err(|error| at(folder, &error))?;
        let janitor = Janitor::start(folder)?;
        let pool = folder.join("data/pool").display().to_string();
        let settings = format!("{SETTINGS}\n[disk]\npool = \"{pool}\"\n");
        write(&folder.join("config.toml"), &settings)?;
        let engine = Engine::start(folder, &name)?;
        engine.import_image()?;
        let foreign = Foreign::make(engine.client())?;
        let mut lane = Self {
            folder: folder.to_owned(),
            name,
            binary: binary.to_owned(),
            engine,
            foreign,
            before: Census::default(),
            _janitor: janitor,
        };
        lane.warm_up()?;
        lane.before = lane.census()?;
        Ok(lane)
    }

    /// The images that follow from contents are made, and every kind of task has its verdict while
    /// nothing happens.
    fn warm_up(&mut self) -> Result<(), Failure> {
        let mut refresh = self.command(&["registries", "refresh", "--accept-addresses"]);
        read(&mut refresh)?;
        let kinds = KINDS.into_iter().enumerate();
        let plan = Plan {
            seed: 0,
            jobs: 6,
            tasks: kinds
                .map(|(number, kind)| Task {
                    id: format!("{}-{number}", kind.name),
                    kind,
                })
                .collect(),
            strikes: Vec::new(),
        };
        let folder = self.folder.join("warm-up");
        Drive::new(self, &plan, &folder)?.finish()?;
        self.collect()?;
        let problems = verdicts::judge(&plan, &folder.join("out"));
        if problems.is_empty() {
            return Ok(());
        }
        let words: Vec<String> = problems.iter().map(Problem::to_string).collect();
        let log = fs::read_to_string(folder.join("1.stderr")).unwrap_or_default();
        Err(Failure::new(format!(
            "tasks fail while nothing happens to them:\n{}\n{log}",
            words.join("\n")
        )))
    }

    /// The name of its group of cgroups.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The binary, on this lane's engine and with its home.
    pub(super) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .args(words)
            .current_dir(&self.folder)
            .env("SWE_FORGE_HOME", self.folder.join("home"))
            .env("SWE_FORGE_CONFIG", self.folder.join("config.toml"))
            .env("DOCKER_HOST", self.engine.address())
            .env("TMPDIR", self.folder.join("tmp"))
            .env("NO_COLOR", "1")
            .env_remove("SWE_FORGE_ENGINE")
            .stdin(Stdio::null());
        command
    }

    /// Runs a cycle and looks at everything afterwards. After one with problems nothing more can be
    /// said of this lane.
    pub(super) fn cycle(&mut self, plan: &Plan, keep: &Path) -> Result<Outcome, Failure> {
        let folder = self.folder.join(plan.seed.to_string());
        let mut outcome = Outcome::default();
        if let Err(failure) = self.carry_out(plan, &folder, &mut outcome) {
            let text = format!("the cycle broke off: {failure}");
            outcome.problems.push(Problem::new(Sort::Wrong, text));
        }
        if outcome.problems.is_empty() {
            fs::remove_dir_all(&folder).map_err(|error| at(&folder, &error))?;
        } else {
            outcome.kept = Some(self.keep(&folder, keep, &outcome.problems)?);
        }
        Ok(outcome)
    }

    fn carry_out(
        &mut self,
        plan: &Plan,
        folder: &Path,
        outcome: &mut Outcome,
    ) -> Result<(), Failure> {
        let ended = Drive::new(self, plan, folder)?.finish()?;
        let was_away = ended.engine_restarts > 0;
        outcome.missed = ended.missed;
        outcome.problems.extend(ended.problems);
        let judged = verdicts::judge(plan, &folder.join("out"));
        outcome.problems.extend(judged);
        let mut collected = self.collect();
        if was_away && collected.is_err() {
            // An engine of this age counts the mounts of a container that outlived it twice, until
            // it is started once more: what uses them could not be removed.
            self.engine.stop(true)?;
            self.engine.start_again()?;
            collected = self.collect();
        }
        if was_away {
            outcome.forgotten = self.engine.end_forgotten()?;
        }
        let mut found = Vec::new();
        match collected {
            Ok(words) => outcome.collected = words,
            Err(failure) => found.push(Problem::new(Sort::Leaked, failure.to_string())),
        }
        let open = self.open_attempts()?.into_iter();
        found.extend(open.map(|text| Problem::new(Sort::Lost, text)));
        let changed = self.foreign.changes().into_iter();
        found.extend(changed.map(|change| Problem::new(Sort::Foreign, change)));
        let left = self.leaks()?.into_iter();
        found.extend(left.map(|change| Problem::new(Sort::Leaked, change)));
        outcome.problems.extend(found);
        Ok(())
    }

    /// The engine itself ended somebody else's container, and started it.
    pub(super) fn settle_foreign(&mut self) -> Result<(), Failure> {
        self.foreign.settle()
    }

    /// Has `gc` remove what is left, and says what that was.
    fn collect(&self) -> Result<Vec<String>, Failure> {
        self.age()?;
        let mut command = self.command(&["gc", "--format", "json"]);
        let output = output(&mut command)?;
        let said = String::from_utf8_lossy(&output.stdout);
        let report: Value = serde_json::from_str(&said).unwrap_or_default();
        let leftovers = report["leftovers"].as_array().cloned().unwrap_or_default();
        if output.status.success() {
            let words = leftovers.iter().map(|each| {
                let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let role = word(&each["labels"]["swe-forge.role"]);
                format!("{role} {}", word(&each["kind"]))
            });
            return Ok(words.collect());
        }
        let errors = leftovers.iter().filter_map(|each| each["error"].as_str());
        let errors: Vec<&str> = errors.collect();
        let complaint = String::from_utf8_lossy(&output.stderr);
        Err(Failure::new(format!(
            "gc fails: {} {}",
            complaint.trim(),
            errors.join("; ")
        )))
    }

    /// What the record takes for under way although nothing is.
    fn open_attempts(&self) -> Result<Vec<String>, Failure> {
        let said = read(&mut self.command(&["ps", "--format", "json"]))?;
        let listed: Value = serde_json::from_str(&said).unwrap_or_default();
        let Some(listed) = listed.as_array() else {
            return Err(Failure::new(format!("ps gives no list: {said}")));
        };
        let words = listed.iter().map(|each| {
            let word = |key: &str| each[key].as_str().unwrap_or_default().to_owned();
            format!("the record has {} as {}", word("id"), word("state"))
        });
        Ok(words.collect())
    }

    /// What no object leads to is removed only once it is old.
    fn age(&self) -> Result<(), Failure> {
        let mut command = Command::new("find");
        let places = ["home/channels", "data/pool"].map(|place| self.folder.join(place));
        let words = [
            "-exec",
            "touch",
            "--no-dereference",
            "--date",
            "2 hours ago",
        ];
        read(command.args(places).args(words).args(["{}", "+"])).map(drop)
    }

    fn census(&self) -> Result<Census, Failure> {
        Census::take(&self.engine, &self.folder, &self.name)
    }

    /// What a cycle left; what ends by itself has some time to.
    fn leaks(&mut self) -> Result<Vec<String>, Failure> {
        let until = Instant::now() + PATIENCE;
        loop {
            let now = self.census()?;
            self.before.count_files_of(&now);
            let changes = self.before.changes(&now);
            if changes.is_empty() || Instant::now() > until {
                return Ok(changes);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Puts everything of a cycle where it outlives the lane.
    fn keep(&self, folder: &Path, keep: &Path, problems: &[Problem]) -> Result<PathBuf, Failure> {
        let name = folder.file_name().unwrap_or_default();
        let to = keep.join(name);
        fs::create_dir_all(keep).map_err(|error| at(keep, &error))?;
        let words: Vec<String> = problems.iter().map(Problem::to_string).collect();
        write(&folder.join("problems.txt"), &(words.join("\n") + "\n"))?;
        let copied = ["home", "dockerd.log", "config.toml"].map(|each| self.folder.join(each));
        let mut copy = Command::new("cp");
        copy.arg("-R").args(copied).arg(folder);
        read(&mut copy)?;
        let mut rename = Command::new("mv");
        // A cycle that is repeated replaces what it left before.
        if to.exists() {
            fs::remove_dir_all(&to).map_err(|error| at(&to, &error))?;
        }
        read(rename.args([folder, &to]))?;
        Ok(to)
    }

    /// Takes everything away.
    pub(super) fn remove(self) -> Result<(), Failure> {
        clean_up::remove(&self.folder)
    }
}
