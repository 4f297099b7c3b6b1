//! The operator's configuration, registries, and what tasks would reach; without any network.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::{Home, run};

/// Nothing is found out with this: every registry is set or switched off.
const CONFIGURATION: &str = r#"
[network]
max_level = "limited_web"
[registries.pypi]
hosts = ["index.test", "files.test:8443"]
[registries.apt]
hosts = ["packages.test:80", "packages.test"]
[registries.npm]
enabled = false
[registries.cargo]
enabled = false
"#;

const TASK: &str = r#"{
    "id": "networked", "title": "A task", "instruction": "Do it.", "difficulty": "easy",
    "language": "python", "setup": { "command": "true" },
    "verify": { "command": "sh tests/run.sh" }
}"#;

fn home() -> (Home, PathBuf) {
    let home = Home::new();
    let folder = home.path().join(".config/swe-forge");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("config.toml"), CONFIGURATION).unwrap();
    let task = home.task("networked", TASK);
    let config = "network: {setup: package_only, solve: limited_web, allow: [\"*.api.test\"]}\n";
    fs::write(task.join(".swe-forge/config.yaml"), config).unwrap();
    (home, task)
}

/// The reasons of all refusals, empty for what is allowed, in the order asked.
fn reasons(document: &Value) -> Vec<&str> {
    let decisions = document["decisions"].as_array().unwrap();
    let reason = |each: &'_ Value| each["reason"].as_str().map(str::to_owned);
    assert!(
        decisions
            .iter()
            .all(|each| each["allowed"] == json!(reason(each).is_none()))
    );
    decisions
        .iter()
        .map(|each| each["reason"].as_str().unwrap_or_default())
        .collect()
}

#[test]
fn what_a_phase_reaches_is_told_without_running_anything() {
    let (home, task) = home();
    let task = task.to_str().unwrap();
    let ask = |phase: &str, urls: &[&str], code: i32| {
        let arguments = [
            &["egress", "test", task],
            urls,
            &["--phase", phase, "--format", "json"],
        ];
        run(home.swe_forge(&arguments.concat()))
            .expect(code, &[])
            .json()
    };
    let urls = [
        "https://index.test/simple/",
        "https://files.test:8443/x.whl",
        "http://packages.test/dists",
        "https://x.api.test",
        "https://files.test/",
        "https://10.0.0.1/",
        "https://0x7f.1/",
    ];
    let setup = ask("setup", &urls, 1);
    let expected = [
        "",
        "",
        "",
        "not_on_allowlist",
        "port",
        "ip_literal",
        "bad_hostname",
    ];
    assert_eq!(reasons(&setup), expected);
    assert_eq!(setup["allowed"], json!(false));
    let solve = ask("solve", &["https://x.api.test", "https://index.test"], 0);
    assert_eq!(reasons(&solve), ["", ""]);
    let verify = ask("verify", &["https://index.test"], 1);
    assert_eq!(reasons(&verify), ["isolated"]);
}

#[test]
fn phases_that_are_isolated_are_not_asked_unless_all_are() {
    let (home, task) = home();
    let task = task.to_str().unwrap();
    let ended = run(home.swe_forge(&["egress", "test", task, "index.test", "--format", "json"]));
    let document = ended.expect(0, &[]).json();
    let phases: Vec<&Value> = document["decisions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|each| &each["phase"])
        .collect();
    assert_eq!(phases, ["setup", "solve"]);
}

#[test]
fn a_level_above_the_operators_is_refused_with_the_setting() {
    let (home, task) = home();
    let task = task.to_str().unwrap();
    let line = ["egress", "test", task, "index.test", "--level", "full_web"];
    run(home.swe_forge(&line)).expect(2, &["network.max_level", "limited_web", "hint:"]);
}

#[test]
fn a_refusal_that_rests_on_an_unknown_registry_is_no_answer() {
    let (home, task) = home();
    let any = TASK.replace("\"language\": \"python\"", "\"image\": \"any:1\"");
    fs::write(task.join(".swe-forge/task.json"), any).unwrap();
    let unknown = CONFIGURATION.replace(
        "[registries.npm]\nenabled = false",
        "[registries.npm]\nindex = \"https://npm.test/\"",
    );
    let file = home.path().join("unknown.toml");
    fs::write(&file, unknown).unwrap();
    let ask = |url: &str, code: i32, said: &[&str]| {
        let config = file.to_str().unwrap();
        let task = task.to_str().unwrap();
        let line = ["egress", "test", task, url, "--config", config];
        run(home.swe_forge(&[&line[..], &["--phase", "solve"]].concat())).expect(code, said);
    };
    ask("https://index.test", 0, &[]);
    let said = ["not known yet (npm)", "run `swe-forge registries`"];
    ask("https://files.npm.test", 2, &said);
    // No registry changes what is to be said about this one.
    ask("https://10.0.0.1", 1, &["would be refused"]);
}

#[test]
fn addresses_of_version_6_are_reached_on_no_machine() {
    let (home, task) = home();
    let file = home.path().join("wide.toml");
    fs::write(&file, CONFIGURATION.replace("limited_web", "full_web")).unwrap();
    let (task, config) = (task.to_str().unwrap(), file.to_str().unwrap());
    let url = "https://[2600::1]/";
    let line = ["egress", "test", task, url, "--level", "full_web"];
    let more = ["--config", config, "--format", "json"];
    let document = run(home.swe_forge(&[&line[..], &more].concat()))
        .expect(1, &[])
        .json();
    assert_eq!(reasons(&document), ["connect_failed"]);
    let why = document["decisions"][0]["why"].as_str().unwrap();
    assert!(why.contains("version 4 only"), "{why}");
}

#[test]
fn registries_that_are_set_are_shown_as_such() {
    let (home, _) = home();
    let shown = run(home.swe_forge(&["registries", "--format", "json"]))
        .expect(0, &[])
        .json();
    let groups: Vec<&Value> = shown["registries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|each| &each["group"])
        .collect();
    assert_eq!(groups, ["pypi", "apt"]);
    assert_eq!(shown["registries"][0]["how"], "set in the configuration");
    assert_eq!(
        shown["registries"][1]["hosts"][0]["ports"],
        json!([80, 443])
    );
    run(home.swe_forge(&["registries", "list", "--group", "npm"]))
        .expect(2, &["not enabled", "remove enabled = false"]);
    run(home.swe_forge(&["registries", "list", "--group", "go"]))
        .expect(2, &["not enabled", "add [registries.go]"]);
}

#[test]
fn a_mistake_in_a_configuration_that_is_named_ends_every_command() {
    let (home, task) = home();
    let bad = home.path().join("bad.toml");
    fs::write(&bad, "[limits]\nmemroy_mb = 1\n").unwrap();
    let bad = bad.to_str().unwrap();
    let task = task.to_str().unwrap();
    for line in [
        &["registries", "--config", bad][..],
        &["check", task, "--config", bad],
        &["run", task, "--agent", "nop", "--config", bad],
        &["ps", "--config", bad],
        &["show", "x", "--config", bad],
        &["gc", "--config", bad],
        &["images", "ls", "--config", bad],
        &["man", "--config", bad],
    ] {
        run(home.swe_forge(line)).expect(2, &["bad.toml:2:1", "did you mean \"memory_mb\"?"]);
    }
    let said = [
        "could not read the configuration gone.toml",
        "hint: --config and SWE_FORGE_CONFIG name a file that must be there",
    ];
    for command in ["registries", "ps"] {
        run(home.swe_forge(&[command, "--config", "gone.toml"])).expect(2, &said);
        let mut by_variable = home.swe_forge(&[command]);
        by_variable.env("SWE_FORGE_CONFIG", "gone.toml");
        run(by_variable).expect(2, &said);
    }
}

#[test]
fn the_operators_ceiling_holds_for_tasks() {
    let (home, task) = home();
    let low = home.path().join("low.toml");
    fs::write(&low, "[limits]\nmemory_mb = 256\n").unwrap();
    let line = [
        "check",
        task.to_str().unwrap(),
        "--config",
        low.to_str().unwrap(),
    ];
    run(home.swe_forge(&line)).expect(2, &["the operator allows 256"]);
}
