//! The channel: who gets in, who does not, and that nobody else disturbs.

use crate::client::{
    Client, EPOCH, Incoming, SECRET, Sandbox, program, script, settings, wait_until,
};
use forge_wire::frame::Lane;
use forge_wire::handshake::End;
use forge_wire::message::Ending;
use forge_wire::{Event, Proof, Request, Secret};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

fn is_refused(client: &mut Client) -> bool {
    matches!(client.receive(), Some(Incoming::Event(Event::Refused))) && client.receive().is_none()
}

#[test]
fn what_pid_one_sees_is_attested() {
    let sandbox = Sandbox::start();
    let mut client = sandbox.connect();
    assert!(!client.claimed);
    let attested = client.claim(settings());
    assert_eq!(attested.capabilities, 0);
    assert_eq!(attested.bounding_capabilities, 0);
    assert!(attested.no_new_privileges);
    assert_eq!(attested.uid, sandbox.user);
    assert_eq!(attested.interfaces, ["lo"]);
    assert_eq!(attested.routes, 0);
    assert_eq!(attested.own_threads, 4);
    assert!(!attested.kernel.is_empty());
    let mut second = sandbox.connect();
    assert!(second.claimed);
    assert_eq!(second.prove(), attested);
}

#[test]
fn a_forged_or_replayed_handshake_is_refused() {
    let (sandbox, mut client) = Sandbox::claimed();
    let mut second_claim = sandbox.connect();
    second_claim.send(&Request::Claim {
        nonce: [9; 32],
        secret: Secret::new([1; 32]),
        epoch: EPOCH,
        settings: settings(),
    });
    assert!(is_refused(&mut second_claim));

    let mut forged = sandbox.connect();
    let nonce = [9; 32];
    let proof = Proof::make(
        &Secret::new([1; 32]),
        End::Client,
        EPOCH,
        &forged.sandbox_nonce,
        &nonce,
    );
    forged.send(&Request::Prove {
        nonce,
        epoch: EPOCH,
        proof,
    });
    assert!(is_refused(&mut forged));

    // A proof that was right for another connection.
    let old = sandbox.connect();
    let proof = Proof::make(
        &Secret::new(SECRET),
        End::Client,
        EPOCH,
        &old.sandbox_nonce,
        &nonce,
    );
    let mut replayed = sandbox.connect();
    assert_ne!(replayed.sandbox_nonce, old.sandbox_nonce);
    replayed.send(&Request::Prove {
        nonce,
        epoch: EPOCH,
        proof,
    });
    assert!(is_refused(&mut replayed));

    // The sandbox's own proof sent back.
    let mut echoed = sandbox.connect();
    let proof = Proof::make(
        &Secret::new(SECRET),
        End::Sandbox,
        EPOCH,
        &echoed.sandbox_nonce,
        &nonce,
    );
    echoed.send(&Request::Prove {
        nonce,
        epoch: EPOCH,
        proof,
    });
    assert!(is_refused(&mut echoed));
    client.ping();
}

#[test]
fn nothing_but_a_handshake_is_answered() {
    let (sandbox, mut client) = Sandbox::claimed();
    let mut eager = sandbox.connect();
    eager.send(&Request::Exec {
        exec: 1,
        command: script("touch /workspace/never"),
    });
    assert!(is_refused(&mut eager));
    let mut data = sandbox.connect();
    data.send_data(1, Lane::Stdin, 0, b"x");
    assert!(is_refused(&mut data));
    for bytes in [&[0xff; 64][..], &[0; 64], &[1, 0, 0, 0, 9]] {
        let mut garbage = sandbox.connect();
        garbage.send_raw(bytes);
        assert_eq!(garbage.receive(), None);
    }
    // A frame that is announced and never comes holds 16 KiB at most, and 2 seconds.
    let mut endless = sandbox.connect();
    endless.send_raw(&(1_u32 << 20).to_le_bytes());
    endless.send_raw(&vec![0; 100_000]);
    assert_eq!(endless.receive(), None);
    client.ping();
    assert!(!sandbox.path("/workspace/never").exists());
}

#[test]
fn a_stranger_that_says_nothing_is_dropped_in_time() {
    let (sandbox, _client) = Sandbox::claimed();
    let begin = Instant::now();
    let mut silent = sandbox.connect();
    assert_eq!(silent.receive(), None);
    assert!(begin.elapsed() >= Duration::from_millis(1900));
}

#[test]
fn a_flood_of_strangers_delays_neither_the_client_nor_a_new_one() {
    let (sandbox, mut client) = Sandbox::claimed();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut held = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    held.push(sandbox.socket());
                    held.truncate(held.len().min(100));
                }
            });
        }
        for _ in 0..50 {
            let outcome = client.run(&program(&["true"]));
            assert_eq!(outcome.report.ending, Ending::Exited(0));
        }
        over.store(true, Ordering::Relaxed);
    });
    sandbox.reconnect().ping();
}

#[test]
fn a_process_of_the_task_gets_nothing_from_the_socket() {
    let (_sandbox, mut client) = Sandbox::claimed();
    let text = "while :; do /.swe-forge/init bridge </dev/zero; done > /workspace/got 2>/dev/null";
    let (flood, _) = client.start(&script(text));
    for _ in 0..20 {
        assert_eq!(
            client.run(&program(&["true"])).report.ending,
            Ending::Exited(0)
        );
    }
    let outcome = client.run(&script("cat /workspace/got"));
    assert_eq!(outcome.stdout, b"");
    assert_eq!(client.kill_all(), 0);
    assert_eq!(client.exited(flood).ending, Ending::Killed);
    // Nor from PID 1 itself, although that has the same user.
    let text = "cat /proc/1/environ /proc/1/mem /proc/1/maps /.swe-forge/init; ls /proc/1/fd";
    assert_eq!(client.run(&script(text)).stdout, b"");
}

#[test]
fn a_bridge_gets_through_while_the_task_floods_the_socket() {
    let (sandbox, mut client) = Sandbox::claimed();
    let text = "for i in 1 2 3 4 5 6 7 8; do
        (while :; do /.swe-forge/init bridge </dev/zero; done) 2>/dev/null & done; wait";
    let (flood, _) = client.start(&script(text));
    for _ in 0..3 {
        let mut bridge = sandbox.bridge(65_534);
        bridge.start_ids_at(1_000_000);
        bridge.prove();
        bridge.ping();
    }
    let mut client = sandbox.reconnect();
    client.ping();
    client.send(&Request::Resume {
        exec: flood,
        from: 0,
        taken: 0,
    });
    assert_eq!(client.kill_all(), 0);
    assert_eq!(client.exited(flood).ending, Ending::Killed);
}

#[test]
fn the_newest_client_wins() {
    let (sandbox, mut first) = Sandbox::claimed();
    let mut second = sandbox.reconnect();
    assert_eq!(first.receive(), None);
    second.ping();
}

#[test]
fn a_client_that_breaks_the_protocol_is_disconnected_and_nothing_else() {
    let (sandbox, mut client) = Sandbox::claimed();
    let (exec, _) = client.start(&program(&["sleep", "1000"]));
    client.send_data(exec, Lane::Stdout, 0, b"x");
    assert_eq!(client.receive(), None);
    let mut client = sandbox.reconnect();
    client.send_data(exec, Lane::Stdin, 5, b"left something out");
    assert_eq!(client.receive(), None);
    let mut client = sandbox.reconnect();
    client.send(&Request::Exec {
        exec,
        command: program(&["true"]),
    });
    assert_eq!(client.receive(), None);
    let mut client = sandbox.reconnect();
    client.send(&Request::Signal { exec, signal: 9 });
    client.send(&Request::Resume {
        exec,
        from: 0,
        taken: 0,
    });
    assert_eq!(client.exited(exec).ending, Ending::Killed);
}

#[test]
fn work_goes_on_when_no_more_processes_are_allowed() {
    let (sandbox, mut client) = Sandbox::claimed();
    let mut command = script("ulimit -u 20; while :; do sleep 1000 & done 2>/dev/null");
    command.stdin = true;
    let (_, _) = client.start(&command);
    wait_until("the task has as many processes as it may", || {
        (sandbox.processes().len() >= 15).then_some(())
    });
    client.ping();
    assert!(matches!(
        client.put("/workspace", &[0; 1024]),
        Event::TransferDone { .. }
    ));
    assert_eq!(client.kill_all(), 0);
}
