//! How registries are found, and what becomes of tasks when one is not.

use forge_core::{Cause, Reason};

use crate::support::{Home, Script};

#[test]
fn a_machine_without_clients_has_those_of_the_base_images() {
    let home = Home::new();
    let arguments = ["registries", "refresh", "--format", "json"];
    let output = home
        .command(&arguments)
        .env("PATH", "/nonexistent")
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for (index, client) in ["pip", "npm", "cargo", "apt"].into_iter().enumerate() {
        let how = found["registries"][index]["how"].as_str().unwrap();
        let expected = format!("{client} in swe-forge/");
        assert!(how.starts_with(&expected), "{how}: {stderr}");
    }
    let left = home.objects();
    assert_eq!(
        left["leftovers"].as_array().map(Vec::len),
        Some(0),
        "{left}"
    );
}

#[test]
fn a_task_whose_index_is_down_is_not_let_out_to_the_rest() {
    let home = Home::new();
    home.configure("[registries.pypi]\nindex = \"https://index.invalid/simple\"\n");
    let script = Script {
        setup: Some("pip install six"),
        config: "network: {setup: package_only}\n",
        ..Script::default()
    };
    let (code, task) = home.run(&home.task("hungry", script));
    assert_eq!(
        (code, task.reason, task.cause),
        (
            3,
            Some(Reason::NetworkPolicyUnavailable),
            Some(Cause::Infrastructure)
        ),
        "{task:#?}"
    );
    assert!(task.message.contains("pypi: the index"), "{}", task.message);
    assert!(
        task.message.contains("registries refresh"),
        "{}",
        task.message
    );
}
