//! Programs with a key: one client goes on with what another has started, and nothing of it is
//! started twice, lost or given twice.

use crate::client::{Client, EPOCH, Incoming, Sandbox, program, script};
use forge_wire::message::{Command, Ending};
use forge_wire::{Event, Request, WINDOW, keyed_exec};
use std::time::Duration;

fn start(client: &mut Client, exec: u64, command: Command) {
    client.send(&Request::Exec { exec, command });
    client.wait_for(|event| match event {
        Event::Started { exec: id, .. } if *id == exec => Some(()),
        _ => None,
    });
}

fn is_refused(client: &mut Client, exec: u64) {
    let command = script("echo twice >> /workspace/runs");
    client.send(&Request::Exec { exec, command });
    client.wait_for(|event| (*event == Event::AlreadyStarted { exec }).then_some(()));
}

/// Takes data from `from` on up to `to`, acknowledging none of it.
fn take(client: &mut Client, exec: u64, from: u64, to: u64) -> Vec<u8> {
    let mut taken = Vec::new();
    while from + (taken.len() as u64) < to {
        match client.receive() {
            Some(Incoming::Data(data)) if data.id == exec => {
                assert_eq!(data.offset, from + taken.len() as u64);
                taken.extend(data.bytes);
            }
            Some(Incoming::Event(Event::Started { .. } | Event::Resumed { .. })) => {}
            other => panic!("no output but {other:?}"),
        }
    }
    taken
}

#[test]
fn a_higher_epoch_takes_over_at_once_and_a_lower_one_never_gets_in() {
    let (sandbox, mut first) = Sandbox::claimed();
    let mut second = sandbox.connect();
    second.start_ids_at(1_000_000);
    second.prove_epoch(EPOCH + 4);
    assert_eq!(first.receive(), None);
    assert_eq!(sandbox.connect().prove_superseded(EPOCH), EPOCH + 4);
    assert_eq!(sandbox.connect().prove_superseded(EPOCH + 3), EPOCH + 4);
    // Whoever was refused has not disturbed the one who is served.
    second.ping();
    let mut again = sandbox.connect();
    again.start_ids_at(2_000_000);
    again.prove_epoch(EPOCH + 4);
    assert_eq!(second.receive(), None);
    again.ping();
}

#[test]
fn another_client_goes_on_in_the_middle_of_output_and_nothing_is_missing() {
    let (sandbox, mut client) = Sandbox::claimed();
    let exec = keyed_exec(1);
    start(&mut client, exec, program(&["seq", "1", "2000000"]));
    let mut all = take(&mut client, exec, 0, 300_000);
    client.send(&Request::OutputTaken {
        exec,
        offset: 100_000,
    });
    client.ping();
    drop(client);

    // The next one has written down less than the first had received.
    let mut client = sandbox.connect();
    client.prove_epoch(EPOCH + 1);
    all.truncate(150_000);
    client.resume(exec, 150_000, 150_000);
    all.extend(take(&mut client, exec, 150_000, 400_000));
    drop(client);

    // The same connection again: it has more than is written down, and nobody may lose that.
    let mut client = sandbox.connect();
    client.prove_epoch(EPOCH + 1);
    let have = all.len() as u64;
    client.resume(exec, have, 160_000);
    all.extend(take(&mut client, exec, have, have + 1));
    drop(client);

    let mut client = sandbox.connect();
    client.prove_epoch(EPOCH + 2);
    all.truncate(160_000);
    client.resume(exec, 160_000, 160_000);
    let report = loop {
        match client.receive() {
            Some(Incoming::Data(data)) => {
                assert_eq!(data.offset, all.len() as u64);
                all.extend(data.bytes);
                let offset = all.len() as u64;
                client.send(&Request::OutputTaken { exec, offset });
            }
            Some(Incoming::Event(Event::Exited { report, .. })) => break report,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(report.output_bytes, all.len() as u64);
    let expected: String = (1..=2_000_000)
        .map(|number| format!("{number}\n"))
        .collect();
    assert!(
        all == expected.as_bytes(),
        "output is missing or came twice"
    );
}

#[test]
fn an_end_is_told_to_every_client_until_it_is_forgotten() {
    let (sandbox, mut client) = Sandbox::claimed();
    let exec = keyed_exec(7);
    start(&mut client, exec, script("echo done; exit 5"));
    let first = client.exited(exec);
    assert_eq!(first.ending, Ending::Exited(5));
    for epoch in 1..4 {
        drop(client);
        client = sandbox.connect();
        client.prove_epoch(EPOCH + epoch);
        client.resume(exec, 0, 0);
        assert_eq!(take(&mut client, exec, 0, 5), b"done\n");
        assert_eq!(client.exited(exec), first);
    }
    client.send(&Request::OutputTaken { exec, offset: 5 });
    client.resume(exec, 5, 5);
    assert_eq!(client.exited(exec), first);
    client.send(&Request::Forget { exec });
    client.send(&Request::Resume {
        exec,
        from: 5,
        taken: 5,
    });
    client.wait_for(|event| (*event == Event::UnknownExec { exec }).then_some(()));
}

#[test]
fn a_key_starts_one_program_whether_it_runs_has_ended_or_is_forgotten() {
    let (sandbox, mut client) = Sandbox::claimed();
    let exec = keyed_exec(1);
    let text = "echo once >> /workspace/runs; read x";
    let mut command = script(text);
    command.stdin = true;
    start(&mut client, exec, command);
    is_refused(&mut client, exec);
    client.send(&Request::StdinEnd { exec });
    client.exited(exec);
    is_refused(&mut client, exec);
    client.send(&Request::Forget { exec });
    is_refused(&mut client, exec);
    drop(client);
    let mut client = sandbox.connect();
    client.start_ids_at(1_000_000);
    client.prove_epoch(EPOCH + 1);
    is_refused(&mut client, exec);
    // What is asked for after them shows that none of them was only late.
    assert_eq!(client.run(&script("cat /workspace/runs")).stdout, b"once\n");
}

#[test]
fn a_program_waits_while_nobody_takes_what_it_writes() {
    let (sandbox, mut client) = Sandbox::claimed();
    let exec = keyed_exec(1);
    let text = "seq 1 1000000; echo written > /workspace/written";
    start(&mut client, exec, script(text));
    drop(client);
    let mut client = sandbox.connect();
    client.prove_epoch(EPOCH + 1);
    client.resume(exec, 0, 0);
    // A window comes, to whoever asks and as often, and no more.
    let window = take(&mut client, exec, 0, WINDOW);
    assert_eq!(window.len() as u64, WINDOW);
    assert_eq!(client.receive_within(Duration::from_millis(100)), Err(()));
    client.resume(exec, 0, 0);
    assert!(take(&mut client, exec, 0, WINDOW) == window);
    assert!(!sandbox.path("/workspace/written").exists());
    client.resume(exec, 0, 0);
    let outcome = client.finish(exec);
    let expected: String = (1..=1_000_000)
        .map(|number| format!("{number}\n"))
        .collect();
    assert!(
        outcome.stdout == expected.as_bytes(),
        "output is missing or came twice"
    );
    assert!(sandbox.path("/workspace/written").exists());
}

#[test]
fn output_that_is_not_there_is_not_sent_in_the_place_of_other() {
    let (_sandbox, mut client) = Sandbox::claimed();
    let exec = keyed_exec(1);
    start(&mut client, exec, script("echo 123456789"));
    take(&mut client, exec, 0, 10);
    client.exited(exec);
    client.send(&Request::OutputTaken { exec, offset: 4 });
    assert_eq!(client.resume_anywhere(exec, 3, 3), 4);
    assert_eq!(client.resume_anywhere(exec, 11, 11), 10);
    client.resume(exec, 4, 4);
    assert_eq!(take(&mut client, exec, 4, 10), b"56789\n");
}

#[test]
fn what_was_never_started_is_unknown_and_may_be_started_then() {
    let (_sandbox, mut client) = Sandbox::claimed();
    let exec = keyed_exec(u32::MAX);
    client.send(&Request::Resume {
        exec,
        from: 0,
        taken: 0,
    });
    client.wait_for(|event| (*event == Event::UnknownExec { exec }).then_some(()));
    start(&mut client, exec, program(&["true"]));
    assert_eq!(client.exited(exec).ending, Ending::Exited(0));
}
