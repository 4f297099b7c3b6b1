//! How a sandbox says it is: what its processes do, and whether it has its specification.

use crate::client::{Client, Sandbox, script, wait_until};
use forge_wire::message::{Health, Processes};
use std::fs;
use std::os::unix::fs::PermissionsExt;

/// Waits for a health that `wanted` takes: what a program does shows some time after its start.
fn health_with(client: &mut Client, what: &str, wanted: impl Fn(&Health) -> bool) -> Health {
    wait_until(what, || Some(client.health()).filter(&wanted))
}

#[test]
fn a_specification_is_seen_to_come_and_to_go() {
    let (sandbox, mut client) = Sandbox::claimed();
    health_with(&mut client, "its absence", |health| {
        health.specification == Some(false)
    });
    let folder = sandbox.path("/workspace/.swe-forge");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    let file = folder.join("task.json");
    fs::write(&file, "{}").unwrap();
    health_with(&mut client, "its presence", |health| {
        health.specification == Some(true)
    });
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    health_with(&mut client, "a folder in its place", |health| {
        health.specification == Some(false)
    });
}

#[test]
fn processes_are_told_apart_by_what_they_do() {
    let (_sandbox, mut client) = Sandbox::claimed();
    assert_eq!(client.health().processes, Processes::default());
    // The last one keeps what it started from being collected.
    let text = "sleep 1000 & sleep 1000 & kill -STOP $!
        (while :; do :; done) &
        exec sh -c 'true & exec sleep 1000'";
    client.start(&script(text));
    let expected = Processes {
        running: 1,
        sleeping: 2,
        stopped: 1,
        blocked: 0,
        zombies: 1,
        more: false,
    };
    health_with(&mut client, "all of them", |health| {
        health.processes == expected
    });
    assert_eq!(client.kill_all(), 0);
    assert_eq!(client.health().processes, Processes::default());
}

#[test]
fn a_sandbox_with_more_processes_than_are_counted_says_so() {
    let (_sandbox, mut client) = Sandbox::claimed();
    let text = "for i in $(seq 600); do sleep 1000 & done; wait";
    client.start(&script(text));
    let health = health_with(&mut client, "many", |health| health.processes.more);
    let counted = health.processes;
    assert_eq!(counted.running + counted.sleeping + counted.blocked, 512);
    assert_eq!(client.kill_all(), 0);
    assert!(!client.health().processes.more);
}

#[test]
fn a_bridge_is_none_of_the_tasks_processes() {
    let (sandbox, _client) = Sandbox::claimed();
    let mut bridge = sandbox.bridge(65_534);
    bridge.start_ids_at(1_000_000);
    bridge.prove();
    assert_eq!(bridge.health().processes, Processes::default());
}

#[test]
fn output_of_every_program_counts_also_when_it_is_forgotten() {
    let (_sandbox, mut client) = Sandbox::claimed();
    assert_eq!(client.health().output_bytes, 0);
    let exec = client.start(&script("echo 123; echo 456 >&2")).0;
    client.finish(exec);
    client.send(&forge_wire::Request::Forget { exec });
    assert_eq!(client.health().output_bytes, 8);
    let mut command = script("yes");
    command.output_limit = 1000;
    let cut = client.run(&command);
    assert!(cut.report.truncated);
    assert_eq!(client.health().output_bytes, 8 + cut.report.output_bytes);
}
