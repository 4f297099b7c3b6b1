//! An engine that goes away in mid-run. It is one of the test's own, never the machine's.

use std::collections::BTreeSet;
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

/// A `dockerd` with its own socket, data and containers, in name spaces of its own: what it does to
/// bridges, rules and mounts, it does to nobody else's.
struct Engine {
    folder: TempDir,
    /// Holds the name spaces, also while the engine is away.
    holder: Child,
    process: Child,
    settings: &'static [&'static str],
}

impl Engine {
    fn start(settings: &'static [&'static str]) -> Self {
        let folder = tempfile::Builder::new().prefix("sfe").tempdir().unwrap();
        let holder = Command::new("unshare")
            .args(["--net", "--mount", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut holder = holder.unwrap();
        // What it sends back says that it is inside.
        let (input, output) = (holder.stdin.as_mut(), holder.stdout.as_mut());
        input.unwrap().write_all(b"x").unwrap();
        output.unwrap().read_exact(&mut [0]).unwrap();
        let process = Self::spawn(holder.id(), folder.path(), settings);
        let engine = Self {
            folder,
            holder,
            process,
            settings,
        };
        engine.wait();
        engine
    }

    fn spawn(holder: u32, folder: &Path, settings: &[&str]) -> Child {
        let at = |name: &str| folder.join(name);
        let log = fs::File::create(at("log")).unwrap();
        Command::new("nsenter")
            .args([
                "--net",
                "--mount",
                "--target",
                &holder.to_string(),
                "dockerd",
            ])
            .args(settings)
            .arg("--host")
            .arg(format!("unix://{}", at("socket").display()))
            .arg("--data-root")
            .arg(at("data"))
            .arg("--exec-root")
            .arg(at("exec"))
            .arg("--pidfile")
            .arg(at("pid"))
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
        self.process = Self::spawn(self.holder.id(), self.folder.path(), self.settings);
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

    /// Imports an image that holds a shell, `sleep` and the libraries they need, and nothing else.
    fn import_sleeper(&self) {
        let programs = ["/bin/sleep", "/bin/bash"];
        let listing = Command::new("ldd").args(programs).output().unwrap();
        let listing = String::from_utf8(listing.stdout).unwrap();
        let libraries = listing
            .split_whitespace()
            .filter(|word| word.starts_with('/') && !word.ends_with(':'));
        let names = programs.into_iter().chain(libraries);
        // An archive that names a file twice has a link to itself.
        let names: BTreeSet<&str> = names.map(|name| name.trim_start_matches('/')).collect();
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

    /// Removes what a test that failed has left in it.
    fn remove_containers(&self) {
        let docker = |words: &[&str]| {
            let address = self.address();
            let mut command = Command::new("docker");
            command.args(["--host", &address]).args(words).output()
        };
        let listed = docker(&["ps", "--all", "--quiet"]).unwrap();
        for id in String::from_utf8_lossy(&listed.stdout).lines() {
            docker(&["rm", "--force", "--volumes", id]).unwrap();
        }
    }

    fn stop(&mut self) {
        self.end(Signal::SIGTERM);
    }

    fn end(&mut self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.process.id()).unwrap());
        kill(pid, signal).unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if self.process.try_wait().is_ok_and(|ended| ended.is_none()) {
            // They may outlive it.
            self.remove_containers();
            self.stop();
        }
        // It ends with its input.
        drop(self.holder.stdin.take());
        self.holder.wait().unwrap();
    }
}

/// A task without a shell: it sleeps, as a program with arguments.
fn sleeper(home: &Home, solve: &[&str], config: &str) -> PathBuf {
    let script = Script {
        config,
        ..Script::default()
    };
    let folder = home.task_on("sleeper", script, IMAGE);
    let file = folder.join(".swe-forge/task.json");
    let mut task: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    task["solve"] = serde_json::json!({"argv": solve});
    task["verify"] = serde_json::json!({"argv": ["/bin/sleep", "0"]});
    fs::write(&file, task.to_string()).unwrap();
    folder
}

/// Waits until the log of solve has `word`.
fn wait_for_solve(home: &Home, run: &mut Child, word: &str) {
    let patience = Instant::now() + Duration::from_secs(600);
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
            .any(|log| fs::read_to_string(log).is_ok_and(|text| text.contains(word)))
        {
            return;
        }
        assert!(run.try_wait().unwrap().is_none(), "the run ended early");
        assert!(Instant::now() < patience, "the task never came to solve");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Starts a run of one task.
fn start(home: &Home, task: &Path) -> Child {
    let task = task.to_str().unwrap();
    let words = ["run", task, "--agent", "command", "--format", "json"];
    let mut run = home.command(&words);
    run.stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Asks the proxy over and over for what it must refuse, until it gets a signal.
const ASKING: &str = r#"
trap 'enough=1' USR1
while [ -z "$enough" ] && [ "$SECONDS" -lt 600 ]; do
    (
        exec 3<>/dev/tcp/127.0.0.1/3128 || exit 1
        printf 'CONNECT 192.0.2.1:443 HTTP/1.1\r\n\r\n' >&3
        IFS= read -t 20 -r line <&3 && echo "$line"
    ) 2>/dev/null || echo none
    sleep 0.05
done
"#;

/// Sends `signal` to every process whose arguments have `marker`.
fn signal_all(marker: &str, signal: Signal) {
    let own = i32::try_from(std::process::id()).unwrap();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    for number in numbers.filter(|number| *number != own) {
        let arguments = fs::read(format!("/proc/{number}/cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&arguments).contains(marker) {
            // One that ended meanwhile is none to signal.
            kill(Pid::from_raw(number), signal).ok();
        }
    }
}

#[test]
fn an_engine_that_is_killed_and_comes_back_in_mid_run_opens_nothing() {
    let mut engine = Engine::start(&["--live-restore"]);
    engine.import_sleeper();
    let home = Home::on(&engine.address());
    home.find_registries();
    let config = "network: {solve: package_only}\n";
    let marker = format!("asking-{}", std::process::id());
    let script = format!(": {marker}\n{ASKING}");
    let task = sleeper(&home, &["/bin/bash", "-c", &script], config);
    let mut run = start(&home, &task);
    wait_for_solve(&home, &mut run, "403");
    engine.end(Signal::SIGKILL);
    // Its containerd went with it, but looks alive as long as nobody has taken note of its end.
    fs::remove_file(engine.at("exec/containerd/containerd.pid")).unwrap();
    engine.start_again();
    signal_all(&marker, Signal::SIGUSR1);
    let output = run.wait_with_output().unwrap();
    let report: forge_api::report::Report = serde_json::from_slice(&output.stdout).unwrap();
    let task = &report.tasks[0];
    let log = String::from_utf8(home.log(task, "solve")).unwrap();
    assert_eq!(task.state, StateName::Completed, "{}\n{log}", task.message);
    let mut answers = log.lines().filter(|line| line.starts_with("HTTP/1.1 "));
    assert!(
        answers.all(|line| line.starts_with("HTTP/1.1 403 ")),
        "{log}"
    );
    assert_eq!(task.network.allowed, 0);
    // An engine of this age counts the mounts of a container that outlived it twice, until it is
    // started once more.
    engine.stop();
    engine.start_again();
    let collected = home.output(&["gc"]);
    let stderr = String::from_utf8_lossy(&collected.stderr);
    assert!(collected.status.success(), "{stderr}");
    home.assert_nothing_left();
}

#[test]
fn an_engine_that_stops_in_mid_run_is_not_a_verdict() {
    let mut engine = Engine::start(&[]);
    engine.import_sleeper();
    let home = Home::on(&engine.address());
    home.configure("[retry]\nattempts = 1\n");
    let mut run = start(&home, &sleeper(&home, &["/bin/sleep", "1000"], ""));
    wait_for_solve(&home, &mut run, "");
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

#[test]
fn an_engine_that_comes_back_costs_a_try_and_no_verdict() {
    let mut engine = Engine::start(&[]);
    engine.import_sleeper();
    let home = Home::on(&engine.address());
    home.configure("[retry]\nattempts = 10\nfirst_pause_seconds = 2\n");
    let mut run = start(&home, &sleeper(&home, &["/bin/sleep", "5"], ""));
    wait_for_solve(&home, &mut run, "");
    engine.stop();
    engine.start_again();
    let output = run.wait_with_output().unwrap();
    let report: forge_api::report::Report = serde_json::from_slice(&output.stdout).unwrap();
    let task = &report.tasks[0];
    assert_eq!(task.state, StateName::Completed, "{task:#?}");
    assert!(!task.earlier.is_empty(), "{task:#?}");
    assert_eq!(output.status.code(), Some(0));
    let listed = home.output(&["ps", "--all", "--format", "json"]);
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    let tries = 1 + task.earlier.len();
    assert_eq!(listed.as_array().map(Vec::len), Some(tries), "{listed:#}");
    // What the engine could not be asked to remove of the first.
    let collected = home.output(&["gc"]);
    assert!(collected.status.success(), "{collected:?}");
    home.assert_nothing_left();
}
