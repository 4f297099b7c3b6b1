//! What waits says why, and `unlimited` leaves it to the machine's room.

use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{Home, Script};

#[test]
fn an_attempt_that_waits_says_its_place_and_why() {
    let home = Home::new();
    for number in 0..3 {
        let script = Script {
            solve: "sleep 1000",
            ..Script::default()
        };
        home.task(&format!("endless-{number}"), script);
    }
    let tasks = home.path("tasks");
    let words = [
        "run",
        tasks.to_str().unwrap(),
        "--agent",
        "command",
        "--jobs",
        "1",
    ];
    let mut run = home.command(&words);
    let mut run = run
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let patience = Instant::now() + Duration::from_secs(600);
    let told = loop {
        let listed = home.output(&["ps", "--format", "json"]);
        let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
        let waiting: Vec<(u64, String)> = listed
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|each| {
                let waiting = each.get("waiting").filter(|waiting| !waiting.is_null())?;
                let reason = waiting["reason"].as_str()?.to_owned();
                Some((waiting["position"].as_u64()?, reason))
            })
            .collect();
        if waiting.len() == 2 {
            break waiting;
        }
        assert!(run.try_wait().unwrap().is_none(), "the run ended early");
        assert!(
            Instant::now() < patience,
            "nothing is said to wait: {listed:#}"
        );
        std::thread::sleep(Duration::from_millis(100));
    };
    let mut positions: Vec<u64> = told.iter().map(|(position, _)| *position).collect();
    positions.sort_unstable();
    assert_eq!(positions, [1, 2]);
    for (_, reason) in &told {
        assert_eq!(reason, "1 may run at once, and do");
    }
    let table = home.output(&["ps"]);
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(
        table.contains("waits, number 1: 1 may run at once"),
        "{table}"
    );
    let pid = Pid::from_raw(i32::try_from(run.id()).unwrap());
    // What waits is left for another day, and what runs is ended.
    kill(pid, Signal::SIGINT).unwrap();
    kill(pid, Signal::SIGTERM).unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(130));
    home.assert_nothing_left();
}

#[test]
fn as_many_run_at_once_as_the_machine_has_room_for() {
    let home = Home::new();
    for number in 0..12 {
        home.task(&format!("short-{number}"), Script::default());
    }
    let words = ["--agent", "command", "--jobs", "unlimited"];
    let (code, report) = home.run_all(&home.path("tasks"), &words);
    assert_eq!((code, report.tasks.len()), (0, 12));
    // Each may use a quarter of the memory, and a third is there for all.
    let all = report.engine.memory_bytes >> 20;
    home.configure(&format!(
        "[limits]\nmemory_mb = {all}\n[capacity]\nmemory_ratio = 0.35\n"
    ));
    for number in 0..4 {
        let script = Script {
            config: &format!("resources: {{memory_mb: {}}}\n", all / 4),
            ..Script::default()
        };
        home.task(&format!("short-{number}"), script);
    }
    for number in 4..12 {
        std::fs::remove_dir_all(home.path("tasks").join(format!("short-{number}"))).unwrap();
    }
    let (code, report) = home.run_all(&home.path("tasks"), &words);
    assert_eq!((code, report.tasks.len()), (0, 4));
    let mut tasks = report.tasks;
    tasks.sort_by_key(|task| task.started_at);
    for pair in tasks.windows(2) {
        assert!(pair[0].ended_at <= pair[1].started_at, "{pair:#?}");
    }
}
