//! Ending: deadlines, killing everything, limits of the disk, the end of PID 1 itself.

use crate::client::{Incoming, Sandbox, program, script, settings, wait_until};
use forge_wire::Request;
use forge_wire::message::Ending;
use std::time::{Duration, Instant};

/// Detaches itself twice, ignores SIGTERM and holds standard output.
const DAEMON: &str = "(trap '' TERM HUP INT; setsid sh -c '(trap \"\" TERM; exec sleep 1000) &') &";
/// A deadline that leaves a program time to begin, however busy the machine is.
const LATE_MS: u64 = 10_000;

#[test]
fn a_deadline_ends_what_ignores_it_and_all_that_it_left_behind() {
    let (sandbox, mut client) = Sandbox::claimed();
    let mut command = script(&format!(
        "{DAEMON} trap '' TERM; echo begun; while :; do sleep 1; done"
    ));
    command.timeout_ms = LATE_MS;
    command.grace_ms = 200;
    let begin = Instant::now();
    let outcome = client.run(&command);
    assert_eq!(outcome.stdout, b"begun\n");
    assert_eq!(outcome.report.ending, Ending::DeadlineExceeded);
    assert!(begin.elapsed() >= Duration::from_millis(LATE_MS + 200));
    client.ping();
    assert_eq!(sandbox.processes(), Vec::<i32>::new());
}

#[test]
fn a_deadline_is_a_deadline_even_if_the_program_then_ends_well() {
    let (_sandbox, mut client) = Sandbox::claimed();
    let mut command =
        script("trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.01; done");
    command.timeout_ms = LATE_MS;
    command.grace_ms = 60_000;
    let outcome = client.run(&command);
    assert_eq!(outcome.stdout, b"ready\nbye\n");
    assert_eq!(outcome.report.ending, Ending::DeadlineExceeded);
}

#[test]
fn a_deadline_holds_for_a_stopped_process_with_nobody_connected() {
    let (sandbox, mut client) = Sandbox::claimed();
    let mut command = script("kill -STOP $$");
    command.timeout_ms = 200;
    let (exec, _) = client.start(&command);
    drop(client);
    wait_until("the stopped process is gone", || {
        sandbox.processes().is_empty().then_some(())
    });
    let mut client = sandbox.reconnect();
    client.send(&Request::Resume {
        exec,
        from: 0,
        taken: 0,
    });
    assert_eq!(client.exited(exec).ending, Ending::DeadlineExceeded);
}

#[test]
fn nothing_survives_a_kill() {
    let (sandbox, mut client) = Sandbox::claimed();
    let (exec, _) = client.start(&script(&format!("{DAEMON} sleep 1000 | sleep 1000")));
    let (breeder, _) = client.start(&script(
        "while :; do setsid sh -c 'sleep 1000 & sleep 1000 &' & wait $!; done",
    ));
    wait_until("there are many processes", || {
        (sandbox.processes().len() > 50).then_some(())
    });
    assert_eq!(client.kill_all(), 0);
    // The proof: nobody is left, and nobody is born any more.
    assert_eq!(sandbox.processes(), Vec::<i32>::new());
    assert_eq!(client.exited(exec).ending, Ending::Killed);
    assert_eq!(client.exited(breeder).ending, Ending::Killed);
    assert_eq!(client.kill_all(), 0);
    // What is asked for right behind a kill comes after it.
    let request = client.id();
    client.send(&Request::KillAll { request });
    let outcome = client.run(&program(&["echo", "alive"]));
    assert_eq!(outcome.stdout, b"alive\n");
}

#[test]
fn a_task_that_stops_every_process_it_sees_does_not_stop_pid_one() {
    let (sandbox, mut client) = Sandbox::claimed();
    let (stopper, _) = client.start(&script("while :; do kill -STOP -1; done 2>/dev/null"));
    let mut command = program(&["true"]);
    command.timeout_ms = 300;
    // Some get through, some are stopped even before they reach their program.
    let execs: Vec<u64> = (0..20)
        .map(|_| {
            let exec = client.id();
            let command = command.clone();
            client.send(&Request::Exec { exec, command });
            client.ping();
            exec
        })
        .collect();
    for exec in execs {
        let ending = client.exited(exec).ending;
        assert!(
            matches!(ending, Ending::Exited(0) | Ending::DeadlineExceeded),
            "{ending:?}"
        );
    }
    assert_eq!(client.kill_all(), 0);
    assert!(matches!(
        client.exited(stopper).ending,
        Ending::Killed | Ending::DeadlineExceeded
    ));
    assert_eq!(sandbox.processes(), Vec::<i32>::new());
}

#[test]
fn orphans_and_zombies_are_reaped() {
    let (sandbox, mut client) = Sandbox::claimed();
    client.run(&script(
        "for i in 1 2 3 4 5 6 7 8; do (setsid true &) ; (sh -c 'exit 3' &) ; done",
    ));
    wait_until("no process is left, not even a dead one", || {
        sandbox.processes().is_empty().then_some(())
    });
    assert_eq!(
        client.run(&program(&["true"])).report.ending,
        Ending::Exited(0)
    );
}

#[test]
fn a_workspace_that_grows_too_large_ends_everything() {
    let sandbox = Sandbox::start();
    let mut client = sandbox.connect();
    let mut small = settings();
    small.disk_limit = 8 << 20;
    client.claim(small);
    let text = "head -c 20000000 /dev/zero > big; setsid sleep 1000 & sleep 1000";
    let outcome = client.run(&script(text));
    assert_eq!(outcome.report.ending, Ending::DiskFull);
    client.ping();
    assert_eq!(sandbox.processes(), Vec::<i32>::new());
    let usage = client.usage();
    // It is looked at while it grows, so it may end anywhere past the limit.
    assert!(usage.disk_peak > 8 << 20, "{usage:?}");
}

#[test]
fn a_bridge_of_another_user_is_out_of_reach_of_the_task() {
    let (sandbox, client) = Sandbox::claimed();
    drop(client);
    let mut bridged = sandbox.bridge(sandbox.user + 1_000_000);
    bridged.prove();
    let outcome = bridged.run(&script(
        "kill -KILL -1; kill -STOP -1; sleep 1000 & echo over",
    ));
    assert_eq!(outcome.stdout, b"over\n");
    let _idle = sandbox.bridge(sandbox.user + 1_000_000);
    assert_eq!(bridged.kill_all(), 0);
    assert_eq!(sandbox.processes().len(), 2, "two bridges and nobody else");
    let mut client = sandbox.reconnect();
    assert_eq!(client.kill_all(), 0);
}

#[test]
fn a_bridge_that_proved_the_secret_survives_a_kill_and_no_other_does() {
    let (sandbox, client) = Sandbox::claimed();
    let mut bridged = sandbox.bridge(sandbox.user);
    bridged.start_ids_at(5000);
    bridged.prove();
    let (exec, _) = bridged.start(&program(&["sleep", "1000"]));
    // A bridge that the task starts gets nothing from PID 1, and dies like the rest.
    let (own, _) = bridged.start(&script(
        "/.swe-forge/init bridge < /dev/zero 2> /dev/null; echo over",
    ));
    assert!(matches!(bridged.receive(), Some(Incoming::Data(data)) if data.bytes == b"over\n"));
    assert_eq!(bridged.exited(own).ending, Ending::Exited(0));
    assert_eq!(bridged.kill_all(), 0);
    assert_eq!(bridged.exited(exec).ending, Ending::Killed);
    assert_eq!(sandbox.processes().len(), 1, "the bridge and nobody else");
    bridged.ping();
    drop(bridged);
    // Without a bridge to spare, one that is left over ends as well.
    let mut client = {
        drop(client);
        sandbox.reconnect()
    };
    let _idle = sandbox.bridge(sandbox.user);
    wait_until("the old bridge is gone", || {
        (sandbox.processes().len() == 1).then_some(())
    });
    assert_eq!(client.kill_all(), 0);
    wait_until("its parent outside has noticed its end", || {
        sandbox.processes().is_empty().then_some(())
    });
}

#[test]
fn the_sandbox_ends_on_request() {
    let (mut sandbox, mut client) = Sandbox::claimed();
    client.start(&program(&["sleep", "1000"]));
    client.send(&Request::Shutdown);
    assert_eq!(client.receive(), None);
    assert_eq!(sandbox.wait(), Some(0));
}

fn terminate(sandbox: &Sandbox) {
    let pid = sandbox.init_pid().to_string();
    let status = std::process::Command::new("kill")
        .args(["-TERM", &pid])
        .status();
    assert!(status.unwrap().success());
}

#[test]
fn no_signal_ends_a_sandbox_that_has_a_task() {
    let (sandbox, mut client) = Sandbox::claimed();
    client.run(&script(
        "kill -TERM 1; kill -KILL 1; kill -INT 1; kill -STOP 1; kill -40 1",
    ));
    // Who sent it cannot be told for sure, so from outside it does nothing either.
    terminate(&sandbox);
    client.ping();
    assert_eq!(
        client.run(&script("exit 3")).report.ending,
        Ending::Exited(3)
    );
}

#[test]
fn a_signal_ends_a_sandbox_that_nobody_claimed() {
    let mut sandbox = Sandbox::start();
    let _waiting = sandbox.connect();
    terminate(&sandbox);
    assert_eq!(sandbox.wait(), Some(0));
}

#[test]
fn the_sandbox_ends_after_its_lifetime() {
    let mut sandbox = Sandbox::start();
    let mut client = sandbox.connect();
    let mut short = settings();
    short.lifetime_seconds = 1;
    client.claim(short);
    // Not waited for: the lifetime has begun, and may be over before it runs.
    let exec = client.id();
    let command = program(&["sleep", "1000"]);
    client.send(&Request::Exec { exec, command });
    assert_eq!(sandbox.wait(), Some(124));
}

#[test]
fn init_refuses_to_run_as_an_ordinary_process() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_forge-init"))
        .arg("init")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("not process 1"));
}
