//! Commands that read the record, when there is nothing in it.

use std::fs::Permissions;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::{Home, run};

#[test]
fn an_empty_home_has_no_attempts_and_stays_empty() {
    let home = Home::new();
    let ended = run(home.swe_forge(&["ps"])).expect(0, &["no attempt is under way"]);
    assert_eq!(ended.stdout, "");
    let ended = run(home.swe_forge(&["ps", "--all", "--format", "json"])).expect(0, &[]);
    assert_eq!(ended.json(), serde_json::json!([]));
    assert!(!home.path().join("state").exists());
}

#[test]
fn unknown_names_are_bad_input() {
    let home = Home::new();
    for command in ["show", "logs", "artifacts", "release"] {
        run(home.swe_forge(&[command, "nothing"]))
            .expect(2, &["error: no attempt 'nothing' is recorded", "hint: "]);
    }
    run(home.swe_forge(&["ps", "--run", "abc"])).expect(2, &["no run is recorded"]);
    run(home.swe_forge(&["cancel", "nothing"])).expect(
        2,
        &["no run and no attempt 'nothing' is recorded", "hint: "],
    );
    run(home.swe_forge(&["cancel", "--all"])).expect(0, &["nothing is under way"]);
    assert!(!home.path().join("state").exists());
    let ended = run(home.swe_forge(&["show", "x\u{1b}[2J", "--format", "json"]));
    let ended = ended.expect(2, &["x\\x1b[2J"]);
    assert_eq!(ended.json()["error"]["exit_code"], 2);
}

#[test]
fn a_record_that_is_no_database_is_left_alone_and_said() {
    let home = Home::new();
    let record = home.path().join("state/record.sqlite");
    std::fs::create_dir(home.path().join("state")).unwrap();
    std::fs::write(&record, "not a database, but somebody's text").unwrap();
    run(home.swe_forge(&["ps", "--all"])).expect(3, &["record.sqlite", "hint: "]);
    assert!(
        std::fs::read_to_string(&record)
            .unwrap()
            .starts_with("not a database")
    );
}

#[test]
fn a_record_that_cannot_be_written_can_be_read() {
    /// Somebody who may do nothing.
    const NOBODY: u32 = 65534;
    let home = Home::new();
    let state = home.path().join("state");
    // Makes the record before it looks for the engine.
    run(home.swe_forge(&["gc"])).expect(3, &["nobody.sock"]);
    let open_to = |path: &Path, mode| {
        std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    };
    open_to(home.path(), 0o755);
    for entry in std::fs::read_dir(&state).unwrap() {
        open_to(&entry.unwrap().path(), 0o444);
    }
    open_to(&state, 0o555);
    let is_root = std::fs::write(state.join("probe"), "").is_ok();
    for (arguments, code, said) in [
        (&["ps", "--all"][..], 0, "no attempt is recorded"),
        (&["show", "x"], 2, "no attempt 'x' is recorded"),
        (&["logs", "x"], 2, "no attempt 'x' is recorded"),
        (&["artifacts", "x"], 2, "no attempt 'x' is recorded"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_swe-forge"));
        command
            .args(arguments)
            .env("SWE_FORGE_HOME", &state)
            .current_dir(home.path());
        if is_root {
            // Permissions do not stop root.
            command.uid(NOBODY).gid(NOBODY);
        }
        run(assert_cmd::Command::from_std(command)).expect(code, &[said]);
    }
    open_to(&state, 0o755);
}

#[test]
fn without_a_home_the_program_says_what_to_set() {
    let home = Home::new();
    let mut command = home.swe_forge(&["ps"]);
    command.env_remove("SWE_FORGE_HOME").env_remove("HOME");
    run(command).expect(2, &["hint: set SWE_FORGE_HOME or HOME"]);
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let home = Home::new();
    let mut child = Command::new(env!("CARGO_BIN_EXE_swe-forge"))
        .args(["completions", "bash"])
        .env("HOME", home.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Closed before anything is read: the script does not fit into the pipe.
    drop(child.stdout.take());
    let mut said = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{said}");
    assert_eq!(said, "");
}
