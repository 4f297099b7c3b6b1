//! An engine that goes away in mid-run. It is one of the test's own, never the machine's.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use forge_core::life_cycle::StateName;
use forge_core::{Cause, Reason};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::support::{Home, Script};

const IMAGE: &str = "swe-forge-test/sleeper:1";

/// A `dockerd` with its own socket, data and containers.
struct Engine {
    folder: TempDir,
    process: Child,
}

impl Engine {
    fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("sfe").tempdir().unwrap();
        let process = Self::spawn(folder.path());
        let engine = Self { folder, process };
        engine.wait();
        engine
    }

    fn spawn(folder: &Path) -> Child {
        let at = |name: &str| folder.join(name);
        let log = fs::File::create(at("log")).unwrap();
        Command::new("dockerd")
            .arg("--host")
            .arg(format!("unix://{}", at("socket").display()))
            .arg("--data-root")
            .arg(at("data"))
            .arg("--exec-root")
            .arg(at("exec"))
            .arg("--pidfile")
            .arg(at("pid"))
            .args(["--bridge", "none", "--iptables=false", "--ip6tables=false"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    fn wait(&self) {
        let patience = Instant::now() + Duration::from_secs(60);
        while self.request("GET /_ping", &[]).is_err() {
            let log = fs::read_to_string(self.at("log")).unwrap_or_default();
            assert!(
                Instant::now() < patience,
                "the engine does not answer:\n{log}"
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Starts it again, on what it had.
    fn start_again(&mut self) {
        self.process = Self::spawn(self.folder.path());
        self.wait();
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn address(&self) -> String {
        format!("unix://{}", self.at("socket").display())
    }

    fn request(&self, line: &str, body: &[u8]) -> std::io::Result<String> {
        let mut stream = UnixStream::connect(self.at("socket"))?;
        let head = format!(
            "{line} HTTP/1.1\r\nHost: engine\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// Imports an image that holds `sleep` and the libraries it needs, and nothing else.
    fn import_sleeper(&self) {
        let listing = Command::new("ldd").arg("/bin/sleep").output().unwrap();
        let listing = String::from_utf8(listing.stdout).unwrap();
        let libraries = listing
            .split_whitespace()
            .filter(|word| word.starts_with('/'));
        let names = ["/bin/sleep"].into_iter().chain(libraries);
        let names = names.map(|name| name.trim_start_matches('/'));
        let archive = Command::new("tar")
            .args(["--dereference", "--create", "--directory", "/"])
            .args(names)
            .output()
            .unwrap();
        assert!(
            archive.status.success(),
            "{}",
            String::from_utf8_lossy(&archive.stderr)
        );
        let (repository, tag) = IMAGE.split_once(':').unwrap();
        let line = format!("POST /images/create?fromSrc=-&repo={repository}&tag={tag}");
        let answer = self.request(&line, &archive.stdout).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    fn stop(&mut self) {
        let pid = Pid::from_raw(i32::try_from(self.process.id()).unwrap());
        kill(pid, Signal::SIGTERM).unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if self.process.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.stop();
        }
    }
}

/// A task without a shell: it sleeps, as a program with arguments.
fn sleeper(home: &Home) -> PathBuf {
    let folder = home.task_on("sleeper", Script::default(), IMAGE);
    let file = folder.join(".swe-forge/task.json");
    let mut task: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    task["solve"] = serde_json::json!({"argv": ["/bin/sleep", "1000"]});
    task["verify"] = serde_json::json!({"argv": ["/bin/sleep", "0"]});
    fs::write(&file, task.to_string()).unwrap();
    folder
}

fn wait_for_solve(home: &Home, run: &mut Child) {
    let patience = Instant::now() + Duration::from_secs(120);
    loop {
        let runs = fs::read_dir(home.path("swe-forge-out"))
            .into_iter()
            .flatten()
            .flatten();
        let attempts = runs.flat_map(|run| {
            fs::read_dir(run.path().join("attempts"))
                .into_iter()
                .flatten()
                .flatten()
        });
        if attempts
            .map(|attempt| attempt.path().join("solve.log"))
            .any(|log| log.exists())
        {
            return;
        }
        assert!(run.try_wait().unwrap().is_none(), "the run ended early");
        assert!(Instant::now() < patience, "the task never came to solve");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn an_engine_that_stops_in_mid_run_is_not_a_verdict() {
    let mut engine = Engine::start();
    engine.import_sleeper();
    let home = Home::on(&engine.address());
    let task = sleeper(&home);
    let words = [
        "run",
        task.to_str().unwrap(),
        "--agent",
        "command",
        "--format",
        "json",
    ];
    let mut run = home.command(&words);
    let mut run = run
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for_solve(&home, &mut run);
    engine.stop();
    let output = run.wait_with_output().unwrap();
    let report: forge_api::report::Report = serde_json::from_slice(&output.stdout).unwrap();
    let task = &report.tasks[0];
    assert_eq!(
        (task.state, task.reason, task.cause),
        (
            StateName::Failed,
            Some(Reason::EngineUnavailable),
            Some(Cause::Infrastructure)
        ),
        "{}",
        task.message
    );
    assert_eq!(output.status.code(), Some(3));
    assert!(
        task.notes.iter().any(|note| note.contains("left for gc")),
        "{:?}",
        task.notes
    );
    // Once the engine is back, what it could not be asked to remove is found, file systems too.
    engine.start_again();
    let collected = home.output(&["gc"]);
    let stderr = String::from_utf8_lossy(&collected.stderr);
    assert!(collected.status.success(), "{stderr}");
    home.assert_nothing_left();
    let attached = Command::new("losetup").arg("--all").output().unwrap();
    let attached = String::from_utf8(attached.stdout).unwrap();
    assert!(!attached.contains(&task.id), "{attached}");
}
