//! Disks: workspaces that are file systems of their own, and what is written elsewhere.

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
    assert_eq!(outcome.report.ending, Ending::DiskFull);
    client.ping();
    assert_eq!(sandbox.processes(), Vec::<i32>::new());
}
