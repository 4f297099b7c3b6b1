//! Disks: workspaces that are file systems of their own, and what is written elsewhere.

use std::process::Command;

use crate::client::{Sandbox, script, settings};
use forge_wire::message::{Ending, Settings};

const SIZE: u64 = 4 << 20;
/// A workspace of [`SIZE`] that belongs to the sandbox's user.
const SIZED: &str = "mount -t tmpfs -o size=4m,nr_inodes=200,uid=$2,gid=$2 none workspace";

/// A workspace that cannot be filled by writing elsewhere.
const ELSEWHERE: &str = "mount -t tmpfs -o size=4m none workspace";

/// A root in the folder `base`, which `prepare` has made, with everything that the usual root has.
fn root_in(base: &str, prepare: &str) -> String {
    format!(
        "{ELSEWHERE}
        {prepare}
        for name in * .swe-forge; do
            if [ $name = log ] || [ $name = tmp ]; then continue
            elif [ -L $name ]; then cp -d $name {base}/
            else mkdir {base}/$name; mount --rbind $name {base}/$name
            fi
        done
        mkdir {base}/tmp
        root=$PWD/{base}"
    )
}

/// A root in layers, as engines make them: one of folders that are older than the sandbox, and one
/// in memory for what changes. It has a volume, and a file that the engine keeps elsewhere.
fn layered_root() -> String {
    let layers = "lowerdir=/usr/share,upperdir=tmp/upper,workdir=tmp/work";
    let prepare = format!(
        "mount -t tmpfs -o size=200m,mode=755 none tmp
        mkdir tmp/upper tmp/work tmp/root
        mount -t overlay -o {layers} none tmp/root
        mkdir -p tmp/root/early tmp/root/etc tmp/root/volumes/data
        touch tmp/hosts tmp/root/etc/hosts tmp/root/early/file
        mount --bind tmp/hosts tmp/root/etc/hosts
        mount -t tmpfs -o size=40m none tmp/root/volumes/data"
    );
    root_in("tmp/root", &prepare)
}

fn limited(disk_limit: u64) -> Settings {
    Settings {
        disk_limit,
        ..settings()
    }
}

/// How a program ends in setup on such a root, with a limit of 8 MiB.
fn ending_on_layers(text: &str) -> Ending {
    let sandbox = Sandbox::start_for_setup(&layered_root());
    let mut client = sandbox.connect();
    client.claim(limited(8 << 20));
    let text = format!(
        "set -e; old=$(find / -xdev -mindepth 2 -maxdepth 2 -type d -cmin +2 | head -n 1)
        test -n \"$old\"; fill() {{ head -c 24000000 /dev/zero > \"$1\"; }}
        {text}"
    );
    client.run(&script(&text)).report.ending
}

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
    let text = "for i in 1 2 3 4 5 6 7 8; do head -c 10000000 /dev/zero > /tmp/$i; done";
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
fn what_is_written_to_a_root_in_layers_is_found_wherever_it_is() {
    for text in [
        "fill $old/file",
        "fill /new-file",
        "fill /early/file",
        "mkdir -p /new/below; fill /new/below/file; mv /new $old/new; touch -d 2001-01-01 $old/new $old",
        "mv $old /moved; fill /moved/file; mv /moved $old",
        "cd $old; mkdir new; cd new; mv $old/new /elsewhere; fill file",
        "file=$(find / -xdev -mindepth 2 -type f | head -n 1); exec 3>> $file; mv $file /new-file; \
         fill /dev/fd/3",
        "rm -r $old; mkdir $old; fill $old/file",
        "fill $old/file; for i in 1 2 3 4; do mkdir $old/$i; ln $old/file $old/$i/; done; rm $old/file",
        "mv /volumes /moved; mkdir -p /volumes/data; fill /volumes/data/file",
        "fill /etc/hosts",
        "mv /etc /moved; fill /moved/hosts",
    ] {
        assert_eq!(ending_on_layers(text), Ending::RootFull, "{text}");
    }
}

#[test]
fn a_volume_is_not_the_root_s_under_whatever_name() {
    let text = "mv /volumes /moved; fill /moved/data/file; head -c 7000000 /dev/zero > $old/file";
    assert_eq!(ending_on_layers(text), Ending::Exited(0));
}

#[test]
fn everything_ends_while_a_disk_that_is_not_the_task_s_alone_still_has_its_reserve() {
    let small = "mount -t tmpfs -o size=64m,nr_inodes=4000,mode=755 none tmp; mkdir tmp/root";
    for text in [
        "head -c 62000000 /dev/zero > /file; sleep 1000",
        "mkdir /many; i=0; while [ $i -lt 3930 ]; do : > /many/$i; i=$((i+1)); done; sleep 1000",
        // Also when it is over before anybody looks.
        "head -c 62000000 /dev/zero > /file",
    ] {
        let sandbox = Sandbox::start_for_setup(&root_in("tmp/root", small));
        let mut client = sandbox.connect();
        client.claim(settings());
        let outcome = client.run(&script(text));
        assert_eq!(outcome.report.ending, Ending::EngineDiskFull, "{text}");
        client.ping();
        assert_eq!(sandbox.processes(), Vec::<i32>::new());
    }
    // A workspace on a larger disk, which others fill.
    let sandbox = Sandbox::start_prepared(
        "mount -t tmpfs -o size=128m,uid=$2,gid=$2 none workspace
        mkdir -m 700 workspace/others; head -c 122000000 /dev/zero > workspace/others/file",
    );
    let mut client = sandbox.connect();
    client.claim(limited(8 << 20));
    let outcome = client.run(&script("sleep 1000"));
    assert_eq!(outcome.report.ending, Ending::EngineDiskFull);
}

#[test]
fn room_is_reserved_only_where_it_is_the_task_s_own() {
    let text = "head -c 1000000 /dev/zero > file && fallocate -p -o 0 -l 65536 file && echo back
        fallocate -l 1M reserved && echo reserved; echo x >> file && echo written";
    let reserved = |sandbox: &Sandbox| {
        let mut client = sandbox.connect();
        client.claim(limited(SIZE));
        let outcome = client.run(&script(text));
        String::from_utf8(outcome.stdout).unwrap()
    };
    // The root can be written to, so the disk under it can be filled.
    let sandbox = Sandbox::start_for_setup(ELSEWHERE);
    assert_eq!(reserved(&sandbox), "back\nwritten\n");
    let read_only = format!(
        "{SIZED}; mount --rbind . .; cd \"$root\"
        mount --bind .swe-forge/channel .swe-forge/channel; mount -o remount,bind,ro ."
    );
    let sandbox = Sandbox::start_prepared(&read_only);
    assert_eq!(reserved(&sandbox), "back\nreserved\nwritten\n");
    // Its workspace is a part of the machine's disk.
    let shared = read_only.replace(SIZED, "mount --bind workspace workspace");
    let sandbox = Sandbox::start_prepared(&shared);
    assert_eq!(reserved(&sandbox), "back\nwritten\n");
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
