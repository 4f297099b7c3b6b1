//! Interruption: Ctrl-C twice, Ctrl-C three times, and the end of the orchestrator.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{Home, Script};

/// Starts a run and returns when its task is in solve, which then lasts for ever.
fn start(home: &Home, options: &[&str]) -> Child {
    let solve = "echo started; sleep 1000";
    let folder = home.task(
        "endless",
        Script {
            solve,
            ..Script::default()
        },
    );
    let words = ["run", folder.to_str().unwrap(), "--agent", "command"];
    let words = [&words, options].concat();
    let mut child = home
        .command(&words)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let patience = Instant::now() + Duration::from_secs(600);
    while !solving(home) {
        assert!(child.try_wait().unwrap().is_none(), "the run ended early");
        assert!(Instant::now() < patience, "the task never came to solve");
        std::thread::sleep(Duration::from_millis(20));
    }
    child
}

/// Whether the solve command of the only attempt has written its first line.
fn solving(home: &Home) -> bool {
    let entries = |path| std::fs::read_dir(path).into_iter().flatten().flatten();
    let attempts =
        entries(home.path("swe-forge-out")).flat_map(|run| entries(run.path().join("attempts")));
    let mut logs = attempts.map(|attempt| attempt.path().join("solve.log"));
    logs.any(|log| std::fs::read(log).is_ok_and(|bytes| bytes == b"started\n"))
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
}

#[test]
fn a_second_signal_ends_what_runs_and_cleans_up() {
    for (first, second) in [
        (Signal::SIGINT, Signal::SIGTERM),
        (Signal::SIGTERM, Signal::SIGINT),
    ] {
        let home = Home::new();
        let mut child = start(&home, &[]);
        // Of one kind they would be one: they come too fast for the program to see both.
        signal(&child, first);
        signal(&child, second);
        assert_cancelled(&home, &mut child);
    }
}

#[test]
fn after_a_signal_from_nobody_what_runs_has_a_deadline() {
    let home = Home::new();
    let mut child = start(&home, &["--drain", "1"]);
    signal(&child, Signal::SIGTERM);
    assert_cancelled(&home, &mut child);
}

fn assert_cancelled(home: &Home, child: &mut Child) {
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let listed = home.output(&["ps", "--all", "--format", "json"]);
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(listed[0]["reason"], "cancelled", "{listed:#}");
    home.assert_nothing_left();
}

#[test]
fn what_a_killed_orchestrator_leaves_is_found_and_removed() {
    let home = Home::new();
    let mut child = start(&home, &[]);
    signal(&child, Signal::SIGKILL);
    child.wait().unwrap();
    let found = home.objects();
    let kinds: Vec<&str> = found["leftovers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|each| each["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["container", "volume", "volume"], "{found:#}");
    // As long as somebody may go on with the run it is kept for that.
    let kept = home.output(&["gc"]);
    let said = String::from_utf8_lossy(&kept.stderr).into_owned();
    assert!(kept.status.success(), "{said}");
    for part in ["3 objects of the interrupted run", "1 attempt", "--resume"] {
        assert!(said.contains(part), "{said}");
    }
    assert_eq!(home.objects(), found);
    let collected = home.output(&["gc", "--interrupted"]);
    assert!(
        collected.status.success(),
        "{}",
        String::from_utf8_lossy(&collected.stderr)
    );
}

#[test]
fn a_third_signal_is_immediate() {
    let home = Home::new();
    let mut child = start(&home, &[]);
    signal(&child, Signal::SIGINT);
    signal(&child, Signal::SIGTERM);
    // Every further one is the third, as soon as the program has seen the first two.
    let code = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status.code(),
            None => signal(&child, Signal::SIGINT),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(code, Some(130));
    assert!(home.output(&["gc", "--interrupted"]).status.success());
}
