//! Disks: workspaces that are file systems of their own, and what is written elsewhere.

use std::process::Command;

use crate::client::{Sandbox, script, settings};
use forge_wire::message::Ending;

const SIZE: u64 = 4 << 20;
/// A workspace of [`SIZE`] that belongs to the sandbox's user.
const SIZED: &str = "mount -t tmpfs -o size=4m,nr_inodes=200,uid=$2,gid=$2 none workspace";

fn sized() -> (Sandbox, crate::client::Client) {
    let sandbox = Sandbox::start_prepared(SIZED);
    let mut client = sandbox.connect();
    let mut sized = settings();
    sized.disk_limit = SIZE;
    client.claim(sized);
    (sandbox, client)
}

#[test]
fn a_full_workspace_of_its_own_is_an_error_of_the_task_and_remembered() {
    let (_sandbox, mut client) = sized();
    assert!(!client.usage().disk_full);
    let outcome = client.run(&script(
        "head -c 3000000 /dev/zero > some && echo fits; head -c 9000000 /dev/zero > all",
    ));
    assert_eq!(outcome.stdout, b"fits\n");
    assert!(String::from_utf8_lossy(&outcome.stderr).contains("No space left"));
    assert_eq!(outcome.report.ending, Ending::Exited(1));
    // What was full once is remembered when there is room again.
    client.run(&script("rm some all"));
    let usage = client.usage();
    assert!(usage.disk_full);
    client.ping();
    assert_eq!(client.run(&script("echo x > again")).stderr, b"");
}

#[test]
fn a_workspace_of_its_own_without_room_for_files_counts_as_full() {
    let (_sandbox, mut client) = sized();
    let text = "i=0; while : > f$i; do i=$((i+1)); done; echo $i";
    let outcome = client.run(&script(text));
    assert!(String::from_utf8_lossy(&outcome.stderr).contains("No space left"));
    assert!(client.usage().disk_full);
}

#[test]
fn what_is_written_outside_of_the_workspace_is_limited_too() {
    let sandbox = Sandbox::start_for_setup("mount -t tmpfs -o size=4m none workspace");
    let mut client = sandbox.connect();
    let mut small = settings();
    small.disk_limit = 32 << 20;
    client.claim(small);
    // The file counts also if it claims to be old.
    let text = "head -c 150000000 /dev/zero > /tmp/big; touch -d 2001-01-01 /tmp/big; sleep 1000";
    let outcome = client.run(&script(text));
    assert_eq!(outcome.report.ending, Ending::RootFull);
    client.ping();
    assert_eq!(sandbox.processes(), Vec::<i32>::new());
}

#[test]
fn what_was_written_outside_just_before_the_end_is_seen_at_the_end() {
    let sandbox = Sandbox::start_for_setup("mount -t tmpfs -o size=4m none workspace");
    let mut client = sandbox.connect();
    let mut small = settings();
    small.disk_limit = 32 << 20;
    client.claim(small);
    let small = client.run(&script("head -c 1000000 /dev/zero > /tmp/small"));
    assert_eq!(small.report.ending, Ending::Exited(0));
    // Faster than any pause between two looks.
    let text = "for i in 1 2 3 4 5 6; do head -c 10000000 /dev/zero > /tmp/$i; done";
    let outcome = client.run(&script(text));
    assert_eq!(outcome.report.ending, Ending::RootFull);
}

#[test]
fn a_deleted_file_outside_counts_as_long_as_it_is_open() {
    let sandbox = Sandbox::start_for_setup("mount -t tmpfs -o size=4m none workspace");
    let mut client = sandbox.connect();
    let mut small = settings();
    small.disk_limit = 32 << 20;
    client.claim(small);
    let text = "exec 3> /tmp/big; rm /tmp/big; head -c 150000000 /dev/zero >&3; sleep 1000";
    let outcome = client.run(&script(text));
    assert_eq!(outcome.report.ending, Ending::RootFull);
}

#[test]
fn a_workspace_that_takes_no_more_writes_is_no_end_of_a_program_s_own() {
    let (sandbox, mut client) = sized();
    assert_eq!(
        client.run(&script("echo x > file")).report.ending,
        Ending::Exited(0)
    );
    let done = Command::new("nsenter")
        .args(["--target", &sandbox.init_pid().to_string()])
        .args([
            "--mount",
            "--root",
            "mount",
            "-o",
            "remount,ro",
            "/workspace",
        ])
        .status()
        .unwrap();
    assert!(done.success());
    let outcome = client.run(&script("echo y > file || exit 0"));
    assert_eq!(outcome.report.ending, Ending::WorkspaceFailed);
}

#[test]
fn a_folder_that_the_task_closed_is_no_failure_of_its_file_system() {
    let (_sandbox, mut client) = sized();
    let outcome = client.run(&script("head -c 9000000 /dev/zero > all; chmod 0 ."));
    assert_eq!(outcome.report.ending, Ending::Exited(0));
}
