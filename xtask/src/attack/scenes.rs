//! Task folders made from scenes, and runs of them by the real binary.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::outside::{REBINDING, SINK, docker};
use super::tables::{self, LEVELS, text};
use crate::build::Built;
use crate::files::{at, run_folder, write};
use crate::shell::{self, Failure};

/// Nothing is made twice.
const RETRY: &str = "[retry]\nattempts = 1\n";
/// A run that takes longer than this is ended; that is a failure of its own.
const LONGEST: Duration = Duration::from_secs(1800);
/// Hosts that tasks at `limited_web` allow.
const ALLOW: [&str; 3] = ["allowed.attack.test", REBINDING, "*.wild.attack.test"];

/// A scene at a level, if it has levels.
#[derive(Debug, Clone)]
pub(super) struct Scene {
    /// Its description.
    pub entry: Value,
    /// What it attempts.
    pub attempts: Vec<Value>,
    /// The level; empty when the scene says itself.
    pub level: String,
}

impl Scene {
    /// The id of its task.
    pub(super) fn id(&self) -> String {
        match self.level.as_str() {
            "" => text(&self.entry, "name").to_owned(),
            level => format!("network-{level}"),
        }
    }

    /// The level of its rows.
    pub(super) fn shown_level(&self) -> &str {
        &self.level
    }

    /// The group of scenes that are run together.
    pub(super) fn group(&self) -> &str {
        match (
            self.level.as_str(),
            text(&self.entry, "group"),
            text(&self.entry, "agent"),
        ) {
            ("", "", "oracle") => "oracle",
            ("", "", _) => "machine",
            ("", group, _) => group,
            _ => "network",
        }
    }
}

/// All scenes; only those with attempts of case `only`, if there is one.
pub(super) fn all(only: Option<u64>) -> Result<Vec<Scene>, Failure> {
    let wanted = |attempt: &Value| only.is_none_or(|only| tables::case(attempt) == only);
    let mut scenes = Vec::new();
    let network: Vec<Value> = tables::read("network.json")?
        .into_iter()
        .filter(wanted)
        .collect();
    for level in LEVELS {
        let here = |attempt: &&Value| tables::expected(attempt, level).is_some();
        scenes.push(Scene {
            entry: json!({"name": "network"}),
            attempts: network.iter().filter(here).cloned().collect(),
            level: level.to_owned(),
        });
    }
    for entry in tables::read("scenes.json")? {
        let attempts = entry["attempts"].as_array().cloned().unwrap_or_default();
        scenes.push(Scene {
            attempts: attempts.into_iter().filter(wanted).collect(),
            entry,
            level: String::new(),
        });
    }
    let group_of_35 =
        |scene: &Scene| only == Some(35) && text(&scene.entry, "name") == "neighbour-alone";
    let crash =
        |scene: &Scene| only.is_none_or(|only| only == 45) && scene.group().starts_with("crash");
    let quiet = |scene: &Scene| only.is_none() && scene.group() == "quiet";
    scenes.retain(|scene| {
        !scene.attempts.is_empty() || group_of_35(scene) || crash(scene) || quiet(scene)
    });
    Ok(scenes)
}

/// The place where tasks are made and run.
#[derive(Debug)]
pub(super) struct Stage {
    /// The program.
    pub binary: PathBuf,
    /// The folder of everything that is made.
    pub folder: PathBuf,
    /// What attempts are told.
    pub parameters: Value,
    /// The name that images begin with.
    pub name: String,
}

impl Stage {
    pub(super) fn new(built: &Built, name: &str, parameters: Value) -> Result<Self, Failure> {
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).map_err(|error| at(&folder, &error))?;
        let stage = Self {
            binary: built.binary.clone(),
            folder,
            parameters,
            name: name.to_owned(),
        };
        // What ends by the infrastructure is what some rows are about.
        write(&stage.config(), RETRY)?;
        let allowing = format!(
            "{RETRY}[network]\nexceptions = [\"{}/32\"]\n[registries.pypi]\nhosts = [\"{}:{}\"]\n",
            text(&stage.parameters, "bridge_v4"),
            SINK.0,
            SINK.1
        );
        write(&stage.folder.join("allowing.toml"), &allowing)?;
        Ok(stage)
    }

    /// The configuration of a group: two of them need a host that is allowed.
    fn config_of(&self, group: &str) -> PathBuf {
        match group {
            "outage" | "upload" => self.folder.join("allowing.toml"),
            _ => self.config(),
        }
    }

    fn config(&self) -> PathBuf {
        self.folder.join("config.toml")
    }

    /// What must not be there afterwards.
    pub(super) fn marker(&self) -> PathBuf {
        self.folder.join("marker")
    }

    /// The program, with a state and a configuration of its own.
    pub(super) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .args(words)
            .env("SWE_FORGE_HOME", self.folder.join("home"))
            .env("SWE_FORGE_CONFIG", self.config())
            .env("SWE_FORGE_ATTACK_SECRET", "x")
            .stdin(Stdio::null());
        command
    }

    /// Writes the task of a scene below the folder of its group.
    fn write_task(&self, scene: &Scene) -> Result<(), Failure> {
        let entry = &scene.entry;
        let folder = self
            .folder
            .join("tasks")
            .join(scene.group())
            .join(scene.id());
        let specification = folder.join(".swe-forge");
        write(
            &specification.join("task.json"),
            &self.task(scene).to_string(),
        )?;
        write(
            &specification.join("config.yaml"),
            &config(scene).to_string(),
        )?;
        let source = folder.join("src");
        let mut parameters = self.parameters.clone();
        parameters["level"] = json!(scene.level);
        write(&source.join("parameters.json"), &parameters.to_string())?;
        for program in
            fs::read_dir(tables::folder()).map_err(|error| at(&tables::folder(), &error))?
        {
            let program = program
                .map_err(|error| at(&tables::folder(), &error))?
                .path();
            if let (Some(name), Some("py")) = (
                program.file_name(),
                program.extension().and_then(|end| end.to_str()),
            ) {
                let to = source.join(name);
                fs::copy(&program, &to).map_err(|error| at(&to, &error))?;
            }
        }
        write(
            &source.join("attempts.json"),
            &Value::Array(scene.attempts.clone()).to_string(),
        )?;
        if let Some(patch) = self.patch(&entry["patch"]) {
            write(&folder.join("solution/solution.patch"), &patch)?;
        }
        Ok(())
    }

    /// The patch of a solution: its text, or a line that is repeated.
    fn patch(&self, patch: &Value) -> Option<String> {
        if let Some(text) = patch.as_str() {
            return Some(text.replace("{folder}", &self.folder.display().to_string()));
        }
        let times = usize::try_from(patch["times"].as_u64()?).ok()?;
        Some(text(patch, "head").to_owned() + &text(patch, "line").repeat(times))
    }

    fn task(&self, scene: &Scene) -> Value {
        let entry = &scene.entry;
        let program = match text(entry, "solve") {
            "" => "python3 src/network.py".to_owned(),
            solve => solve.replace("{marker}", &self.marker().display().to_string()),
        };
        let solve = match text(entry, "wait") {
            "" => program,
            wait => format!("{}; {wait}", program.trim_start_matches("exec ")),
        };
        // Long enough for the listener to step aside before the proxy's network is removed.
        let verify = match (scene.level.as_str(), text(entry, "verify")) {
            ("", "") => "true",
            ("", verify) => verify,
            _ => "sleep 4",
        };
        let container = entry["container"].as_str().unwrap_or("fresh");
        let mut task = json!({
            "id": scene.id(),
            "title": scene.id(),
            "instruction": "Try to get out.",
            "difficulty": "easy",
            "solve": {"command": solve},
            "verify": {"command": verify, "container": container},
        });
        match entry["image"].as_str() {
            Some(image) => task["image"] = json!(self.image(image)),
            None => task["language"] = json!(entry["language"].as_str().unwrap_or("python")),
        }
        if let Some(setup) = entry["setup"].as_str() {
            task["setup"] = json!({"command": setup});
        }
        task
    }

    fn image(&self, kind: &str) -> String {
        format!("{}:{kind}", self.name)
    }

    /// Makes the images of the scenes that need one.
    fn make_image(&self, kind: &str) -> Result<(), Failure> {
        let changes: &[&str] = match kind {
            "workdir" => &["WORKDIR /proc/self/fd/8"],
            "volume" => &["VOLUME /.swe-forge"],
            _ => &[
                "ENTRYPOINT [\"/bin/false\"]",
                "CMD [\"/bin/false\"]",
                "USER root",
                "ENV LD_PRELOAD=/tmp/attack.so",
                "HEALTHCHECK --interval=1s CMD touch /tmp/health",
                "ONBUILD RUN false",
            ],
        };
        let label = format!("LABEL swe-forge.attack={}", self.name);
        let made = docker(&[
            "create",
            "--label",
            &format!("swe-forge.attack={}", self.name),
            "swe-forge/python-base:latest",
            "true",
        ])?;
        let mut words = vec!["commit", "--change", &label];
        for change in changes {
            words.extend(["--change", change]);
        }
        let image = self.image(kind);
        words.extend([made.as_str(), image.as_str()]);
        let committed = docker(&words);
        docker(&["rm", "--volumes", &made])?;
        committed.map(drop)
    }

    /// Runs the scenes of a group; `meanwhile` is called again and again with the process. Gives
    /// the folder of the run with its report.
    pub(super) fn run(
        &self,
        scenes: &[&Scene],
        jobs: usize,
        mut meanwhile: impl FnMut(u32, &Path),
    ) -> Result<Option<PathBuf>, Failure> {
        let Some(first) = scenes.first() else {
            return Ok(None);
        };
        for scene in scenes {
            self.write_task(scene)?;
            if let Some(image) = scene.entry["image"].as_str() {
                self.make_image(image)?;
            }
        }
        let out = self.folder.join("out").join(first.group());
        // Of a group that is run again only the last run counts.
        if out.exists() {
            fs::remove_dir_all(&out).map_err(|error| at(&out, &error))?;
        }
        let agent = if first.group() == "oracle" {
            "oracle"
        } else {
            "command"
        };
        let mut child = self.start(first.group(), agent, jobs, &out)?;
        let began = Instant::now();
        loop {
            let ended = child
                .try_wait()
                .map_err(|error| Failure::new(format!("swe-forge was lost: {error}")))?;
            if ended.is_some() {
                break;
            }
            if began.elapsed() > LONGEST {
                drop(child.kill());
                return Err(Failure::new(format!(
                    "the scenes '{}' take more than {} s",
                    first.group(),
                    LONGEST.as_secs()
                )));
            }
            meanwhile(child.id(), &out);
            std::thread::sleep(Duration::from_millis(100));
        }
        match run_folder(&out) {
            Some(folder) if folder.join("report.json").is_file() => Ok(Some(folder)),
            _ => Err(Failure::new(format!(
                "the scenes '{}' have no report; {}",
                first.group(),
                self.last_words(first.group())
            ))),
        }
    }

    /// Starts the scenes of a group.
    pub(super) fn start(
        &self,
        group: &str,
        agent: &str,
        jobs: usize,
        out: &Path,
    ) -> Result<Child, Failure> {
        let log = self.folder.join(format!("{group}.log"));
        let log = fs::File::create(&log).map_err(|error| at(&log, &error))?;
        let tasks = self.folder.join("tasks").join(group);
        let mut command = self.command(&["run", "--format", "json", "--agent", agent]);
        command
            .args(["--jobs", &jobs.to_string()])
            .arg("--out")
            .arg(out)
            .arg(tasks)
            .env("SWE_FORGE_CONFIG", self.config_of(group))
            .stdout(Stdio::null())
            .stderr(log);
        command
            .spawn()
            .map_err(|error| Failure::new(format!("swe-forge could not be started: {error}")))
    }

    /// Writes the task of a scene that is started by hand.
    pub(super) fn prepare(&self, scene: &Scene) -> Result<(), Failure> {
        self.write_task(scene)
    }

    /// Where the task of a scene is.
    pub(super) fn task_folder(&self, scene: &Scene) -> PathBuf {
        let tasks = self.folder.join("tasks");
        tasks.join(scene.group()).join(scene.id())
    }

    fn last_words(&self, group: &str) -> String {
        let log = fs::read_to_string(self.folder.join(format!("{group}.log"))).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }

    /// Removes the folder; it stays when somebody may want to look.
    pub(super) fn clear(&self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            shell::step(&format!("… {} stays: {error}", self.folder.display()));
        }
    }
}

fn config(scene: &Scene) -> Value {
    let entry = &scene.entry;
    let mut config = json!({});
    if !scene.level.is_empty() {
        config["network"] = json!({"solve": scene.level});
        if scene.level == "limited_web" {
            config["network"]["allow"] = json!(ALLOW);
        }
        config["resources"] =
            json!({"memory_mb": 512, "cpu_cores": 1, "timeout_seconds": 600, "disk_gb": 0.25});
    }
    for key in ["network", "resources"] {
        if !entry[key].is_null() {
            config[key] = entry[key].clone();
        }
    }
    if !scene.level.is_empty() || entry["resources"]["disk_gb"].is_null() {
        config["resources"]["disk_gb"] = json!(0.25);
    }
    config
}
