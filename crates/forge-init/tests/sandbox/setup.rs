//! Setup: PID 1 and the task's programs are root, with the few capabilities that installing needs.

use crate::client::{Sandbox, program, script, settings, wait_until};
use forge_wire::message::Ending;

/// The capabilities of setup, as the kernel's bit mask: chown, dac_override, fowner, setgid, setuid.
const CAPABILITIES: u64 = 0b1100_1011;

/// A volume below the workspace, and one that cannot be written to.
const VOLUMES: &str = "mkdir -p workspace/output workspace/fixed
mount -t tmpfs -o size=1m none workspace/output
mount -t tmpfs -o size=1m none workspace/fixed
echo kept > workspace/fixed/file
mount -o remount,ro workspace/fixed";

fn claimed(prepare: &str) -> (Sandbox, crate::client::Client) {
    let sandbox = Sandbox::start_for_setup(prepare);
    let mut client = sandbox.connect();
    let attested = client.claim(settings());
    assert_eq!((attested.uid, attested.gid), (0, 0));
    assert_eq!(attested.capabilities, CAPABILITIES);
    assert_eq!(attested.bounding_capabilities, CAPABILITIES);
    assert!(attested.no_new_privileges);
    (sandbox, client)
}

#[test]
fn a_workspace_is_handed_over_with_all_that_is_in_it_and_nothing_else() {
    let (_sandbox, mut client) = claimed(VOLUMES);
    let text = "umask 077; mkdir -p closed/deep output/sub; echo x > closed/deep/file
        echo x > /outside; ln -s /outside link; ln -s / up; mkfifo pipe; chmod 0 closed
        i=0; while [ $i -lt 500 ]; do echo > n$i; i=$((i+1)); done";
    assert_eq!(client.run(&script(text)).stderr, b"");
    assert_eq!(client.hand_over("/workspace", 4242, 4343), None);
    let listing = "find /workspace -path /workspace/fixed -prune -o ! -user 4242 -print \
        -o ! -group 4343 -print; stat -c '%n %u' /outside /workspace/fixed/file /usr /";
    let outcome = client.run(&script(listing));
    assert_eq!(
        String::from_utf8_lossy(&outcome.stdout),
        "/outside 0\n/workspace/fixed/file 0\n/usr 0\n/ 0\n"
    );
    // A part of it can be taken back; what is not in the workspace cannot be had.
    assert_eq!(client.hand_over("/workspace/output", 0, 0), None);
    let outcome = client.run(&script("stat -c %u output output/sub closed"));
    assert_eq!(outcome.stdout, b"0\n0\n4242\n");
    for path in [
        "/",
        "/usr",
        "/workspace/..",
        "/workspace/up/usr",
        "/workspace/none",
    ] {
        assert!(client.hand_over(path, 4242, 4343).is_some(), "{path}");
    }
    let refused = client.hand_over("/workspace/fixed", 4242, 4343).unwrap();
    assert!(refused.contains("Read-only"), "{refused}");
}

#[test]
fn a_user_cannot_give_away_its_workspace() {
    let (sandbox, mut client) = Sandbox::claimed();
    client.run(&script("echo > file"));
    assert_eq!(
        client.hand_over("/workspace", sandbox.user, sandbox.user),
        None
    );
    let refused = client.hand_over("/workspace", 0, 0).unwrap();
    assert!(refused.contains("not permitted"), "{refused}");
}

#[test]
fn processes_that_became_another_user_are_ended_too() {
    let (sandbox, mut client) = claimed("");
    let other = "setpriv --reuid 4242 --regid 4242 --clear-groups";
    let mixed = "setpriv --ruid 4242 --clear-groups";
    let (exec, _) = client.start(&script(&format!(
        "{other} setsid sleep 1000 & {mixed} sleep 1000 & exec {other} sh -c 'trap \"\" TERM; \
         while :; do sleep 1000; done'"
    )));
    wait_until("all of them run", || {
        (sandbox.processes().len() >= 4).then_some(())
    });
    assert_eq!(client.kill_all(), 0);
    assert_eq!(sandbox.processes(), Vec::<i32>::new());
    assert_eq!(client.exited(exec).ending, Ending::Killed);
    // Also over a bridge, which lives on.
    let mut bridged = sandbox.bridge(0);
    bridged.start_ids_at(5000);
    bridged.prove();
    let (_, _) = bridged.start(&script(&format!("exec {other} sleep 1000")));
    assert_eq!(bridged.kill_all(), 0);
    assert_eq!(sandbox.processes().len(), 1, "the bridge and nobody else");
    bridged.ping();
    // A deadline is a deadline for whomsoever.
    let mut command = script(&format!("exec {other} sleep 1000"));
    command.timeout_ms = 100;
    command.grace_ms = 100;
    assert_eq!(
        bridged.run(&command).report.ending,
        Ending::DeadlineExceeded
    );
}

#[test]
fn a_bridge_outlives_programs_of_its_own_user() {
    const USER: u32 = 65_533;
    let (sandbox, _client) = claimed("");
    let mut bridged = sandbox.bridge(USER);
    bridged.start_ids_at(5000);
    bridged.prove();
    let text = format!("exec setpriv --reuid {USER} --regid {USER} --clear-groups sleep 1000");
    let (exec, _) = bridged.start(&script(&text));
    let line = format!("\nUid:\t{USER}\t");
    wait_until("the program has become the bridge's user", || {
        let status = |pid| std::fs::read_to_string(format!("/proc/{pid}/status")).ok();
        let statuses = sandbox.processes().into_iter().filter_map(status);
        (statuses.filter(|status| status.contains(&line)).count() == 2).then_some(())
    });
    assert_eq!(bridged.kill_all(), 0);
    assert_eq!(bridged.exited(exec).ending, Ending::Killed);
    assert_eq!(sandbox.processes().len(), 1, "the bridge and nobody else");
    bridged.ping();
}

#[test]
fn a_bridge_that_setup_stops_tells_the_end_all_the_same() {
    const USER: u32 = 65_533;
    let (sandbox, _client) = claimed("");
    let mut bridged = sandbox.bridge(USER);
    bridged.start_ids_at(5000);
    bridged.prove();
    let stop = |text: &str| {
        let become_it = format!("exec setpriv --reuid {USER} --regid {USER} --clear-groups");
        script(&format!("{become_it} sh -c '{text}'"))
    };
    let outcome = bridged.run(&stop("kill -STOP -1; exit 3"));
    assert_eq!(outcome.report.ending, Ending::Exited(3));
    // One that stops it again and again, until it is ended.
    let mut command = stop("while :; do kill -STOP -1; done");
    command.timeout_ms = 300;
    let outcome = bridged.run(&command);
    assert_eq!(outcome.report.ending, Ending::DeadlineExceeded);
    bridged.ping();
    assert_eq!(sandbox.processes().len(), 1, "the bridge and nobody else");
}

#[test]
fn root_in_the_sandbox_does_not_reach_into_pid_one() {
    let (_sandbox, mut client) = claimed("");
    let text = "for file in mem maps environ auxv; do
            head -c 1 /proc/1/$file > /dev/null 2>&1 && echo read $file; done
        ls /proc/1/fd/ /proc/1/root/ /proc/1/map_files/ > /dev/null 2>&1 && echo listed
        (: < /proc/1/task/4/mem) && echo opened
        kill -KILL 1; kill -STOP 1; kill -TERM 1
        prlimit --pid 1 --nofile=3:3 && echo limited
        renice 19 -p 1 && echo slowed
        mount -t tmpfs none /tmp && echo mounted
        chroot / true && echo rooted
        echo over";
    let outcome = client.run(&script(text));
    assert_eq!(String::from_utf8_lossy(&outcome.stdout), "over\n");
    client.ping();
    // What every program of root may write to is put right while it still runs.
    let text = "own=$(cat /proc/1/oom_score_adj); echo 1000 > /proc/1/oom_score_adj
        while [ $(cat /proc/1/oom_score_adj) != $own ]; do sleep 0.05; done; echo right";
    assert_eq!(client.run(&script(text)).stdout, b"right\n");
}

#[test]
fn limits_hold_for_root() {
    let (sandbox, mut client) = claimed("");
    let mut command = program(&["yes"]);
    command.output_limit = 100_000;
    assert_eq!(client.run(&command).report.ending, Ending::OutputLimit);
    client.ping();
    assert_eq!(sandbox.processes(), Vec::<i32>::new());
    // Root may reach everything on the socket's folder; it still gets no word from PID 1.
    let text = "rm /.swe-forge/channel/init.sock; echo over";
    assert_eq!(client.run(&script(text)).stdout, b"over\n");
    client.ping();
}
