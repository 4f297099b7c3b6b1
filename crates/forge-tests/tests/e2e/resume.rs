//! A run whose process was ended is gone on with by another: nothing is lost and nothing is done
//! twice.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use forge_api::report::Report;
use forge_core::life_cycle::StateName;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{Home, Script};

/// Writes a line every so often for a few seconds, and fails when it runs a second time.
const SLOW: &str = "mkdir once || exit 9; for n in $(seq 1 150); do echo line $n; sleep 0.03; done";

fn slow_lines() -> String {
    (1..=150).map(|n| format!("line {n}\n")).collect()
}

fn start(home: &Home, words: &[&str]) -> Child {
    let mut command = home.command(words);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().unwrap()
}

/// Starts a run of everything in `tasks/`, at most `jobs` at once.
fn start_all(home: &Home, jobs: &str) -> Child {
    let tasks = home.path("tasks");
    let tasks = tasks.to_str().unwrap();
    start(home, &["run", tasks, "--agent", "command", "--jobs", jobs])
}

/// Waits until a log of the run holds `text`.
fn wait_for(home: &Home, child: &mut Child, log: &str, text: &str) {
    let patience = Instant::now() + Duration::from_secs(600);
    while !logs(home, log).iter().any(|found| found.contains(text)) {
        assert!(child.try_wait().unwrap().is_none(), "the run ended early");
        assert!(Instant::now() < patience, "{log} never had {text:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn logs(home: &Home, name: &str) -> Vec<String> {
    let entries = |path: &Path| std::fs::read_dir(path).into_iter().flatten().flatten();
    let runs = entries(&home.path("swe-forge-out"));
    let attempts = runs.flat_map(|run| entries(&run.path().join("attempts")));
    attempts
        .filter_map(|attempt| std::fs::read_to_string(attempt.path().join(name)).ok())
        .collect()
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
}

fn end_rudely(child: &mut Child) {
    signal(child, Signal::SIGKILL);
    child.wait().unwrap();
}

fn resume(home: &Home) -> (i32, Report) {
    home.report(&["run", "--resume", "--format", "json"])
}

#[test]
fn what_ran_is_taken_up_what_waited_runs_and_what_had_ended_stays() {
    let home = Home::new();
    home.task("a-short", Script::default());
    let slow = Script {
        solve: SLOW,
        verify: "test -d once && rmdir once",
        ..Script::default()
    };
    home.task("b-slow", slow);
    home.task("c-waits", Script::default());
    let mut run = start_all(&home, "1");
    wait_for(&home, &mut run, "solve.log", "line 20\n");
    end_rudely(&mut run);
    // The program goes on with nobody there, and for longer than it takes to start again.
    std::thread::sleep(Duration::from_millis(500));
    let output = home.output(&["run", "--resume", "--format", "json"]);
    let told = String::from_utf8(output.stderr).unwrap();
    let recovered = "recovered: 1 had ended, 1 under way are taken up, 1 wait";
    assert!(told.contains(recovered), "{told}");
    let report: Report = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{told}");
    let tasks = &report.tasks;
    assert_eq!(tasks.len(), 3, "{tasks:#?}");
    for task in tasks {
        assert_eq!(task.state, StateName::Completed, "{task:#?}");
        assert!(task.earlier.is_empty(), "{task:#?}");
        assert!(task.cleanup_ended_at.is_some(), "{task:#?}");
    }
    let log = String::from_utf8(home.log(&tasks[1], "solve")).unwrap();
    assert_eq!(log, slow_lines(), "every line once, in order");
    let note = "swe-forge was interrupted while solve was under way, and went on with it";
    assert!(tasks[1].notes.iter().any(|told| told == note));
    assert_eq!(tasks[1].phases.len(), 2);
    home.assert_nothing_left();
    let again = home.output(&["run", "--resume"]);
    assert_eq!(again.status.code(), Some(2), "the run has ended");
}

#[test]
fn a_run_can_be_interrupted_again_and_again_in_every_phase() {
    let home = Home::new();
    let script = Script {
        setup: Some("mkdir /once && for n in $(seq 1 40); do echo line $n; sleep 0.03; done"),
        solve: SLOW,
        verify: "mkdir /tmp/once && for n in $(seq 1 100); do echo line $n; sleep 0.03; done",
        ..Script::default()
    };
    home.task("long", script);
    let mut run = start_all(&home, "1");
    wait_for(&home, &mut run, "setup.log", "line 5\n");
    end_rudely(&mut run);
    for (log, text) in [
        ("solve.log", "line 10\n"),
        ("solve.log", "line 60\n"),
        ("verify.log", "line 10\n"),
    ] {
        let mut run = start(&home, &["run", "--resume"]);
        wait_for(&home, &mut run, log, text);
        end_rudely(&mut run);
    }
    let (code, report) = resume(&home);
    let task = &report.tasks[0];
    assert_eq!((code, task.state), (0, StateName::Completed), "{task:#?}");
    assert!(task.earlier.is_empty(), "{task:#?}");
    let names: Vec<&str> = task
        .phases
        .iter()
        .map(|phase| phase.name.as_str())
        .collect();
    assert_eq!(names, ["setup", "solve", "verify"]);
    let log = String::from_utf8(home.log(task, "solve")).unwrap();
    assert_eq!(log, slow_lines());
    home.assert_nothing_left();
}

#[test]
fn a_sandbox_that_is_gone_is_tried_again_and_says_so() {
    let home = Home::new();
    let script = Script {
        solve: "echo here; test -e /workspace/src/file.txt && sleep 3",
        ..Script::default()
    };
    home.task("gone", script);
    let mut run = start_all(&home, "1");
    wait_for(&home, &mut run, "solve.log", "here\n");
    end_rudely(&mut run);
    let name = format!("swe-forge-task-{}", attempt_id(&home));
    let removed = Command::new("docker").args(["rm", "-f", &name]).output();
    assert!(removed.unwrap().status.success());
    let (code, report) = resume(&home);
    let task = &report.tasks[0];
    assert_eq!((code, task.state), (0, StateName::Completed), "{task:#?}");
    assert_eq!(task.earlier.len(), 1, "{task:#?}");
    assert_eq!(
        task.earlier[0].reason,
        Some(forge_core::Reason::Lost),
        "{task:#?}"
    );
    home.assert_nothing_left();
}

fn attempt_id(home: &Home) -> String {
    let listed = home.output(&["ps", "--all", "--format", "json"]);
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    listed[0]["id"].as_str().unwrap().to_owned()
}

#[test]
fn an_interrupt_starts_nothing_more_and_what_runs_comes_to_its_end() {
    let home = Home::new();
    home.task(
        "a-slow",
        Script {
            solve: SLOW,
            ..Script::default()
        },
    );
    home.task("b-waits", Script::default());
    let mut run = start_all(&home, "1");
    wait_for(&home, &mut run, "solve.log", "line 5\n");
    signal(&run, Signal::SIGINT);
    assert_eq!(run.wait().unwrap().code(), Some(130));
    home.assert_nothing_left();
    let root = std::fs::read_dir(home.path("swe-forge-out")).unwrap();
    let report = root.map(|run| run.unwrap().path().join("report.json"));
    let report = std::fs::read(report.last().unwrap()).unwrap();
    let report: Report = serde_json::from_slice(&report).unwrap();
    assert_eq!(report.run.unstarted, 1);
    assert_eq!(report.tasks.len(), 1);
    assert_eq!(report.tasks[0].state, StateName::Completed);
    let (code, report) = resume(&home);
    assert_eq!((code, report.run.unstarted, report.tasks.len()), (0, 0, 2));
}

#[test]
fn a_run_whose_process_lives_or_whose_tasks_changed_is_not_taken_over() {
    let home = Home::new();
    let folder = home.task(
        "held",
        Script {
            solve: "echo here; sleep 4",
            ..Script::default()
        },
    );
    let mut run = start_all(&home, "1");
    wait_for(&home, &mut run, "solve.log", "here\n");
    let refused = home.output(&["run", "--resume"]);
    let told = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2), "{told}");
    assert!(told.contains("no run was interrupted"), "{told}");
    end_rudely(&mut run);
    let file = folder.join("src/file.txt");
    std::fs::write(&file, "another text\n").unwrap();
    let refused = home.output(&["run", "--resume"]);
    let told = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2), "{told}");
    assert!(told.contains("held changed since the run began"), "{told}");
    // Whoever starts something else is told of it.
    let other = home.task_on("other", Script::default(), &crate::support::image());
    let output = home.output(&["run", other.to_str().unwrap(), "--agent", "nop"]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("did not end"), "{told}");
    assert!(home.output(&["gc", "--interrupted"]).status.success());
    home.assert_nothing_left();
}

#[test]
fn a_phase_with_a_network_goes_on_with_the_proxy_it_had() {
    let home = Home::new();
    home.find_registries();
    let script = Script {
        solve: "for n in $(seq 1 120); do echo line $n; sleep 0.03; done; \
                curl -sS --max-time 20 http://not-allowed.invalid/ ; echo code $?",
        config: "network: {solve: package_only}\n",
        ..Script::default()
    };
    home.task("connected", script);
    let mut run = start_all(&home, "1");
    wait_for(&home, &mut run, "solve.log", "line 10\n");
    end_rudely(&mut run);
    let (code, report) = resume(&home);
    let task = &report.tasks[0];
    assert_eq!((code, task.state), (0, StateName::Completed), "{task:#?}");
    assert!(task.network.denied_count > 0, "{task:#?}");
    home.assert_nothing_left();
}
