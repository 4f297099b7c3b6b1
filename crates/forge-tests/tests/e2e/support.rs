//! A home of its own for each test, tasks written on the spot, and the binary.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use forge_api::report::{Report, TaskReport};
use tempfile::TempDir;

const CONFIGURATION: &str = "config.toml";

/// The binary under test.
pub(crate) fn binary() -> PathBuf {
    variable("SWE_FORGE_TEST_BINARY").into()
}

/// The image for tasks that need no language.
pub(crate) fn image() -> String {
    variable("SWE_FORGE_TEST_IMAGE")
}

fn variable(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set: run these tests by `cargo xtask test`"))
}

/// The repository's root.
pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

/// A home of its own: record, output folder and tasks. Dropping it checks that nothing is left.
pub(crate) struct Home {
    folder: TempDir,
    /// Address of the engine, when it is not the machine's.
    engine: Option<String>,
}

/// What a task of a test does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Script<'a> {
    pub setup: Option<&'a str>,
    pub solve: &'a str,
    pub verify: &'a str,
    /// Text of `.swe-forge/config.yaml`.
    pub config: &'a str,
}

impl Default for Script<'_> {
    fn default() -> Self {
        Self {
            setup: None,
            solve: "true",
            verify: "true",
            config: "",
        }
    }
}

impl Home {
    /// On the machine's engine.
    pub(crate) fn new() -> Self {
        Self::make(None)
    }

    /// On the engine at `address`.
    pub(crate) fn on(address: &str) -> Self {
        Self::make(Some(address.to_owned()))
    }

    fn make(engine: Option<String>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder, engine }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a task and gives its folder.
    pub(crate) fn task(&self, id: &str, script: Script<'_>) -> PathBuf {
        self.task_on(id, script, &image())
    }

    pub(crate) fn task_on(&self, id: &str, script: Script<'_>, image: &str) -> PathBuf {
        let folder = self.path("tasks").join(id);
        let specification = folder.join(".swe-forge");
        std::fs::create_dir_all(&specification).unwrap();
        std::fs::create_dir_all(folder.join("src")).unwrap();
        std::fs::write(folder.join("src/file.txt"), "text\n").unwrap();
        let mut task = serde_json::json!({
            "id": id,
            "title": "A task of a test",
            "instruction": "None.",
            "difficulty": "easy",
            "image": image,
            "solve": {"command": script.solve},
            "verify": {"command": script.verify},
        });
        if let Some(setup) = script.setup {
            task["setup"] = serde_json::json!({"command": setup});
        }
        std::fs::write(specification.join("task.json"), task.to_string()).unwrap();
        if !script.config.is_empty() {
            std::fs::write(specification.join("config.yaml"), script.config).unwrap();
        }
        folder
    }

    /// The binary with this home.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env("SWE_FORGE_HOME", self.path("home"))
            .env("NO_COLOR", "1");
        if let Some(engine) = &self.engine {
            command.env("DOCKER_HOST", engine);
        }
        let configuration = self.path(CONFIGURATION);
        if configuration.exists() {
            command.env("SWE_FORGE_CONFIG", configuration);
        }
        command
    }

    /// The operator's configuration from now on.
    pub(crate) fn configure(&self, text: &str) {
        std::fs::write(self.path(CONFIGURATION), text).unwrap();
    }

    /// A configuration with the secret `token`, whose value is `value`.
    pub(crate) fn configure_token(&self, value: &str) {
        let file = self.path("token");
        std::fs::write(&file, value).unwrap();
        self.configure(&format!(
            "[secrets]\ntoken = {{ file = \"{}\" }}\n",
            file.display()
        ));
    }

    pub(crate) fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs one task with its own solve command; exit code and report.
    pub(crate) fn run(&self, task: &Path) -> (i32, TaskReport) {
        let (code, mut report) = self.run_all(task, &["--agent", "command"]);
        assert_eq!(report.tasks.len(), 1);
        (code, report.tasks.remove(0))
    }

    pub(crate) fn run_all(&self, tasks: &Path, arguments: &[&str]) -> (i32, Report) {
        let mut words = vec!["run", tasks.to_str().unwrap(), "--format", "json"];
        words.extend(arguments);
        self.report(&words)
    }

    /// Finds the registries of this machine, and accepts their addresses where they are not public.
    pub(crate) fn find_registries(&self) {
        let output = self.output(&["registries", "refresh", "--accept-addresses"]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stderr}");
    }

    pub(crate) fn report(&self, words: &[&str]) -> (i32, Report) {
        let output = self.output(words);
        let stderr = String::from_utf8_lossy(&output.stderr);
        let report = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("no report ({error}): {stderr}"));
        (output.status.code().unwrap(), report)
    }

    /// The bytes of a phase's log.
    pub(crate) fn log(&self, task: &TaskReport, phase: &str) -> Vec<u8> {
        let phase = task
            .phases
            .iter()
            .find(|each| each.name.as_str() == phase)
            .unwrap();
        let root = std::fs::read_dir(self.path("swe-forge-out")).unwrap();
        let file = root
            .map(|run| run.unwrap().path().join(&phase.output))
            .find(|p| p.exists());
        std::fs::read(file.unwrap()).unwrap()
    }

    /// Objects on the engine that this home made, whatever became of its processes.
    pub(crate) fn objects(&self) -> serde_json::Value {
        let output = self.output(&["gc", "--dry-run", "--interrupted", "--format", "json"]);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub(crate) fn assert_nothing_left(&self) {
        let found = self.objects();
        assert_eq!(
            found["leftovers"].as_array().map(Vec::len),
            Some(0),
            "{found:#}"
        );
        assert_eq!(found["kept"], 0, "{found:#}");
        // Each sandbox has a folder for its socket below the home as well.
        let channels = std::fs::read_dir(self.path("home").join("channels"));
        let folders = channels
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path());
        let left: Vec<_> = folders.filter(|path| path.is_dir()).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.assert_nothing_left();
        } else {
            // A failed test must not leave its objects to the next.
            drop(self.command(&["gc", "--interrupted"]).output());
        }
    }
}
