//! Commands that read the record, when there is nothing in it.

use std::io::Read;
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
    for command in ["show", "logs", "artifacts"] {
        run(home.swe_forge(&[command, "nothing"]))
            .expect(2, &["error: no attempt 'nothing' is recorded", "hint: "]);
    }
    run(home.swe_forge(&["ps", "--run", "abc"])).expect(2, &["no run is recorded"]);
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
