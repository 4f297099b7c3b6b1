//! Wrong command lines, and what is refused before anything is made.

use crate::{Home, run};

#[test]
fn usage_errors_exit_with_2_and_say_so_on_standard_error() {
    let home = Home::new();
    for arguments in [
        &[][..],
        &["frobnicate"],
        &["run"],
        &["run", "x", "--agent", "nobody"],
        &["run", "x", "--jobs", "0"],
        &["validate", "x", "--repeat", "0"],
        &["logs", "x", "--phase", "boot"],
        &["artifacts", "x", "--force"],
        &["images", "build", "perl"],
    ] {
        let ended = run(home.swe_forge(arguments)).expect(2, &[]);
        assert_eq!(ended.stdout, "", "{arguments:?}");
        assert_ne!(ended.stderr, "", "{arguments:?}");
    }
}

#[test]
fn run_needs_an_agent_and_says_which_there_are() {
    let home = Home::new();
    home.good_task("one");
    run(home.swe_forge(&["run", "tasks"])).expect(
        2,
        &[
            "error: no agent was chosen",
            "--agent oracle",
            "--agent nop",
            "--command",
        ],
    );
    run(home.swe_forge(&["run", "tasks", "--agent", "nop", "--command", "make"]))
        .expect(2, &["--command is for the command agent", "hint: "]);
}

#[test]
fn tasks_are_read_before_anything_else_and_all_mistakes_are_said_at_once() {
    let home = Home::new();
    home.good_task("one");
    home.task("tasks/bad", r#"{"id": "bad/id", "colour": "red"}"#);
    home.task("tasks/worse", "{");
    let ended = run(home.swe_forge(&["run", "tasks", "--agent", "nop"]));
    let ended = ended.expect(
        2,
        &["tasks/bad/", "tasks/worse/", "colour", "in the task files"],
    );
    assert_eq!(ended.stdout, "");
    // Nothing was made: neither the folder for results nor the record.
    assert!(!home.path().join("swe-forge-out").exists());
    assert!(!home.path().join("state").exists());
}

#[test]
fn the_same_id_twice_is_refused() {
    let home = Home::new();
    home.good_task("one");
    let specification = std::fs::read_to_string(home.path().join("tasks/one/.swe-forge/task.json"));
    home.task("tasks/two", &specification.unwrap());
    run(home.swe_forge(&["run", "tasks", "--agent", "nop"])).expect(2, &["\"one\" is also the id"]);
}

#[test]
fn a_folder_without_tasks_is_bad_input() {
    let home = Home::new();
    std::fs::create_dir(home.path().join("empty")).unwrap();
    run(home.swe_forge(&["run", "empty", "--agent", "nop"])).expect(2, &["no task in it"]);
    run(home.swe_forge(&["validate", "missing"])).expect(2, &["missing"]);
}

#[test]
fn a_file_in_place_of_the_folder_for_results_is_bad_input() {
    let home = Home::new();
    home.good_task("one");
    std::fs::write(home.path().join("file"), "").unwrap();
    for out in ["file", "file/below"] {
        run(home.swe_forge(&["run", "tasks", "--agent", "nop", "--out", out]))
            .expect(2, &[out, "a file is in the way", "hint: give a folder"]);
    }
    assert!(!home.path().join("state").exists());
}

#[test]
fn with_json_the_error_is_a_document_as_well() {
    let home = Home::new();
    home.task("bad", "{}");
    let ended = run(home.swe_forge(&["run", "bad", "--agent", "nop", "--format", "json"]));
    let document = ended.expect(2, &["error: "]).json();
    assert_eq!(document["error"]["exit_code"], 2);
    assert!(
        !document["error"]["diagnostics"]
            .as_array()
            .unwrap()
            .is_empty()
    );
}

#[test]
fn with_json_a_wrong_command_line_and_a_wrong_configuration_are_documents_too() {
    let home = Home::new();
    for line in [
        &["run", "--format", "json"][..],
        &["ps", "--format=json", "--frobnicate"],
        &["validate", "x", "--repeat", "0", "--format", "json"],
    ] {
        let ended = run(home.swe_forge(line)).expect(2, &["error: "]);
        let error = &ended.json()["error"];
        assert_eq!(error["exit_code"], 2, "{line:?}");
        assert_ne!(error["message"], "", "{line:?}");
        assert!(!error["message"].as_str().unwrap().contains("error:"));
    }
    let config = home.path().join("wrong.toml");
    std::fs::write(&config, "[limits]\nmemroy_mb = 4\n[disk]\nquota = 1\n").unwrap();
    let config = config.to_str().unwrap();
    let line = ["--config", config, "check", "x", "--format", "json"];
    let ended = run(home.swe_forge(&line)).expect(2, &["wrong.toml:2:1: limits.memroy_mb"]);
    let document = ended.json();
    let diagnostics = document["error"]["diagnostics"].as_array().unwrap();
    let fields: Vec<_> = diagnostics.iter().map(|each| &each["field"]).collect();
    assert_eq!(fields, ["limits.memroy_mb", "disk.quota"]);
    assert_eq!(
        (&diagnostics[1]["line"], &diagnostics[1]["column"]),
        (&4.into(), &9.into())
    );
}

#[test]
fn a_run_without_an_engine_or_without_forge_init_exits_with_3() {
    let home = Home::new();
    home.good_task("one");
    let mut command = home.swe_forge(&["run", "tasks", "--agent", "nop"]);
    command.env("SWE_FORGE_INIT", "/nonexistent/forge-init");
    run(command).expect(3, &["/nonexistent/forge-init", "hint: `cargo xtask build`"]);

    // Any static ELF file passes for the programs of containers as long as nothing is started.
    let init = home.path().join("init");
    std::fs::write(&init, static_elf()).unwrap();
    let mut command = home.swe_forge(&["run", "tasks", "--agent", "nop"]);
    command.env("SWE_FORGE_INIT", &init);
    command.env("SWE_FORGE_EGRESS", &init);
    run(command).expect(3, &["nobody.sock", "hint: ", "swe-forge doctor"]);
}

/// The header of a 64-bit ELF file with nothing in it.
pub(crate) fn static_elf() -> Vec<u8> {
    let mut bytes = vec![0; 64];
    bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
    bytes[0x12] = 62;
    bytes
}

#[test]
fn the_address_of_the_engine_may_be_given_in_three_ways() {
    let home = Home::new();
    for (arguments, variable) in [
        (
            &["gc", "--engine-host", "unix:///argument.sock"][..],
            "unix:///variable.sock",
        ),
        (&["gc"], "unix:///variable.sock"),
        (&["gc"], ""),
    ] {
        let mut command = home.swe_forge(arguments);
        command.env("SWE_FORGE_ENGINE", variable);
        let expected = match (arguments.len(), variable) {
            (1, "") => "nobody.sock",
            (1, _) => "/variable.sock",
            _ => "/argument.sock",
        };
        run(command).expect(3, &[expected]);
    }
}
