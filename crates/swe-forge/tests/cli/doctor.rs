//! `doctor` with nothing to find.

use crate::{Home, run};

#[test]
fn without_an_engine_doctor_exits_with_3_and_says_what_to_do() {
    let home = Home::new();
    let ended = run(home.swe_forge(&["doctor"])).expect(3, &[]);
    for text in [
        "✘ engine",
        "nobody.sock",
        "→ start the engine",
        "no engine answers",
    ] {
        assert!(
            ended.stdout.contains(text),
            "{text:?} not in:\n{}",
            ended.stdout
        );
    }
}

#[test]
fn the_json_document_holds_the_same() {
    let home = Home::new();
    let mut command = home.swe_forge(&["doctor", "--format", "json"]);
    command.env("SWE_FORGE_INIT", "/nonexistent");
    let document = run(command).expect(3, &[]).json();
    assert_eq!(document["usable"], false);
    assert_eq!(document["engine"], serde_json::Value::Null);
    let findings = document["findings"].as_array().unwrap();
    let status = |name: &str| {
        let finding = findings.iter().find(|finding| finding["name"] == name);
        finding.unwrap()["status"].clone()
    };
    assert_eq!(status("engine"), "error");
    assert_eq!(status("forge-init"), "error");
    assert_eq!(status("record of runs"), "ok");
}

#[test]
fn a_state_folder_that_cannot_be_made_is_a_finding() {
    let home = Home::new();
    std::fs::write(home.path().join("file"), "").unwrap();
    let mut command = home.swe_forge(&["doctor"]);
    command.env("SWE_FORGE_HOME", home.path().join("file"));
    let ended = run(command).expect(3, &[]);
    assert!(
        ended.stdout.contains("✘ record of runs"),
        "{}",
        ended.stdout
    );
}

#[test]
fn a_forge_init_that_is_no_static_program_is_a_finding() {
    let home = Home::new();
    let script = home.path().join("script");
    std::fs::write(&script, "#!/bin/sh\n").unwrap();
    let mut command = home.swe_forge(&["doctor"]);
    command.env("SWE_FORGE_INIT", &script);
    let ended = run(command).expect(3, &[]);
    assert!(
        ended.stdout.contains("is not an ELF program"),
        "{}",
        ended.stdout
    );
}
