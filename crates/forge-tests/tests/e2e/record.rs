//! What can be asked about a run afterwards, and from other processes.

use crate::support::{Home, Script};

#[test]
fn a_run_can_be_asked_about_from_another_process() {
    let home = Home::new();
    let script = Script {
        verify: "echo about to fail; exit 4",
        ..Script::default()
    };
    let (_, task) = home.run(&home.task("asked", script));
    let json = |words: &[&str]| -> serde_json::Value {
        let output = home.output(words);
        assert!(output.status.success(), "{words:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    };
    assert_eq!(json(&["ps", "--format", "json"]), serde_json::json!([]));
    let all = json(&["ps", "--all", "--format", "json"]);
    assert_eq!(all[0]["id"], task.id.as_str());
    let shown = json(&["show", "asked", "--format", "json"]);
    assert_eq!(shown["reason"], "tests_failed", "{shown:#}");
    let text = home.output(&["show", "asked"]);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(
        text.contains("tests_failed") && text.contains("verify"),
        "{text}"
    );
    let logs = home.output(&["logs", "asked"]);
    let logs = String::from_utf8(logs.stdout).unwrap();
    let phases = shown["phases"].as_array().unwrap();
    assert!(phases.len() > 1, "{shown:#}");
    let headings: Vec<String> = phases
        .iter()
        .map(|phase| format!("── {} ──", phase["name"].as_str().unwrap()))
        .collect();
    let found: Vec<&str> = logs.lines().filter(|line| line.starts_with('─')).collect();
    assert_eq!(
        found, headings,
        "a pipe gets several logs with headings: {logs}"
    );
    assert!(logs.ends_with("about to fail\n"), "{logs}");
    let one = home.output(&["logs", "asked", "--phase", "verify"]);
    assert_eq!(one.stdout, b"about to fail\n");
    assert_eq!(home.output(&["show", "nobody"]).status.code(), Some(2));
}

#[test]
fn kept_objects_stay_until_they_are_collected() {
    let home = Home::new();
    let folder = home.task("kept", Script::default());
    let (code, report) = home.run_all(&folder, &["--agent", "nop", "--keep"]);
    assert_eq!(code, 0);
    assert_eq!(report.tasks[0].cleanup_ended_at, None);
    assert_ne!(
        home.objects()["leftovers"].as_array().map(Vec::len),
        Some(0)
    );
    assert!(home.output(&["gc"]).status.success());
    home.assert_nothing_left();
}

#[test]
fn a_kept_attempt_is_released_by_name() {
    let home = Home::new();
    let setup = Some("echo changed > /etc/changed");
    let folder = home.task(
        "released",
        Script {
            setup,
            config: "network: {setup: isolated}\n",
            ..Script::default()
        },
    );
    let (code, _) = home.run_all(&folder, &["--agent", "nop", "--keep"]);
    assert_eq!(code, 0);
    let released = home.output(&["release", "released"]);
    let said = String::from_utf8_lossy(&released.stderr);
    assert!(released.status.success(), "{said}");
    let shown = home.output(&["show", "released", "--format", "json"]);
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert!(shown["cleanup_ended_at"].is_string(), "{shown:#}");
    home.assert_nothing_left();
    // Nothing of the task's is needed for that any more.
    assert!(home.output(&["release", "released"]).status.success());
    assert_eq!(home.output(&["cancel", "released"]).status.code(), Some(2));
}

#[test]
fn doctor_finds_the_main_job_possible_here() {
    let home = Home::new();
    let output = home.output(&["doctor", "--format", "json"]);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(found["engine"]["version"].is_string(), "{found:#}");
}
