//! Commands with a key, and orchestrators that take over from one another, seen from the client's end.

use std::sync::Arc;

use forge_core::{ExecKey, ExecRequest, Join};
use forge_engine::channel::{ChannelClient, Wish, detached};
use forge_engine::{EngineErrorKind, RunningExec};
use forge_wire::{Event, Request, Secret, WINDOW, keyed_exec};
use tokio::sync::mpsc;

use crate::peer::{EPOCH, Peer, Streams, identity, report, request, secret, settings, streams};

const ID: u64 = keyed_exec(4);

/// A client of a sandbox that was claimed before, and the sandbox's end.
async fn resumed(streams: &Arc<Streams>) -> (ChannelClient, Peer) {
    let mut peer = streams.add();
    let resume = ChannelClient::resume(streams.clone(), identity());
    let (client, ()) = tokio::join!(resume, peer.greet(true));
    (client.unwrap(), peer)
}

fn keyed() -> ExecRequest {
    ExecRequest {
        stdin: false,
        key: Some(ExecKey(4)),
        ..request()
    }
}

fn joining(output_from: u64, may_start: bool) -> ExecRequest {
    ExecRequest {
        join: Some(Join {
            output_from,
            may_start,
        }),
        ..keyed()
    }
}

/// Waits until the client has heard all that was said; fails when it has said anything meanwhile.
async fn settle(client: &ChannelClient, peer: &mut Peer) {
    let (pong, ()) = tokio::join!(client.ping(), peer.answer_ping());
    pong.unwrap();
}

async fn next(exec: &mut RunningExec) -> (u64, Vec<u8>) {
    let chunk = exec.output.next().await.unwrap();
    (chunk.offset, chunk.bytes.to_vec())
}

async fn kind(exec: RunningExec) -> EngineErrorKind {
    exec.exit.await.unwrap_err().kind
}

#[tokio::test]
async fn an_orchestrator_that_was_superseded_stops_for_good_and_says_why() {
    let streams = streams();
    let mut peer = streams.add();
    let claim = ChannelClient::claim(streams.clone(), identity(), settings());
    let (client, ()) = tokio::join!(claim, peer.greet(false));
    let client = client.unwrap();
    let exec = client.exec(request()).unwrap();
    assert!(matches!(peer.hear().await, Request::Exec { .. }));
    let mut second = streams.add();
    let _never = streams.add();
    drop(peer);
    second.supersede(EPOCH + 1, secret()).await;
    let error = exec.exit.await.unwrap_err();
    assert_eq!(error.kind, EngineErrorKind::Conflict);
    assert!(error.message.contains("another orchestrator"), "{error}");
    // Whoever asks later is told the same.
    assert_eq!(client.kill_all().await.unwrap_err().kind, error.kind);
    let late = match client.exec(request()) {
        Ok(late) => kind(late).await,
        Err(error) => error.kind,
    };
    assert_eq!(late, EngineErrorKind::Conflict);
    assert_eq!(streams.left(), 1, "it must not try again");
}

#[tokio::test]
async fn only_the_sandbox_itself_can_say_that_it_was_taken_over() {
    for (epoch, own) in [
        (EPOCH + 1, Secret::new([1; 32])),
        (EPOCH, secret()),
        (EPOCH - 1, secret()),
    ] {
        let streams = streams();
        let mut peer = streams.add();
        let resume = ChannelClient::resume(streams.clone(), identity());
        let (client, ()) = tokio::join!(resume, peer.supersede(epoch, own));
        assert_eq!(client.unwrap_err().kind, EngineErrorKind::Corrupt);
    }
}

#[tokio::test]
async fn a_joined_command_goes_on_where_it_was_written_down_and_ends_for_everybody() {
    let streams = streams();
    let (client, mut peer) = resumed(&streams).await;
    let mut exec = client.exec(joining(6, false)).unwrap();
    let resume = Request::Resume {
        exec: ID,
        from: 6,
        taken: 6,
    };
    assert_eq!(peer.hear().await, resume);
    peer.say(Event::Resumed { exec: ID, from: 6 }).await;
    peer.output(ID, 6, b"world").await;
    let exited = Event::Exited {
        exec: ID,
        report: report(11),
    };
    peer.say(exited.clone()).await;
    assert_eq!(next(&mut exec).await, (6, b"world".to_vec()));
    assert!(exec.output.next().await.is_none());
    assert_eq!(exec.exit.await.unwrap().output_bytes, 11);
    // Neither is acknowledged nor forgotten what nobody has written down.
    settle(&client, &mut peer).await;
    exec.output.acknowledge(9);
    exec.output.acknowledge(9);
    exec.output.acknowledge(8);
    exec.output.acknowledge(1000);
    for offset in [9, 11] {
        let taken = Request::OutputTaken { exec: ID, offset };
        assert_eq!(peer.hear().await, taken);
    }
    // The end comes once more to whoever joins again.
    let again = client.exec(joining(11, true)).unwrap();
    assert!(matches!(
        peer.hear().await,
        Request::Resume { from: 11, .. }
    ));
    peer.say(Event::Resumed { exec: ID, from: 11 }).await;
    peer.say(exited).await;
    assert_eq!(again.exit.await.unwrap().output_bytes, 11);
    again.remote.forget();
    assert_eq!(peer.hear().await, Request::Forget { exec: ID });
}

#[tokio::test]
async fn a_command_that_is_not_over_cannot_be_forgotten() {
    let streams = streams();
    let (client, mut peer) = resumed(&streams).await;
    let exec = client.exec(keyed()).unwrap();
    assert!(matches!(peer.hear().await, Request::Exec { exec: ID, .. }));
    exec.remote.forget();
    settle(&client, &mut peer).await;
}

#[tokio::test]
async fn what_was_received_and_not_acknowledged_is_kept_over_a_broken_connection() {
    let streams = streams();
    let (client, mut first) = resumed(&streams).await;
    let mut exec = client.exec(keyed()).unwrap();
    assert!(matches!(first.hear().await, Request::Exec { exec: ID, .. }));
    first.output(ID, 0, &[7; 200]).await;
    next(&mut exec).await;
    exec.output.acknowledge(50);
    let taken = Request::OutputTaken {
        exec: ID,
        offset: 50,
    };
    assert_eq!(first.hear().await, taken);
    let mut second = streams.add();
    drop(first);
    second.greet(true).await;
    let resume = Request::Resume {
        exec: ID,
        from: 200,
        taken: 50,
    };
    assert_eq!(second.hear().await, resume);
    second
        .say(Event::Resumed {
            exec: ID,
            from: 200,
        })
        .await;
    second.output(ID, 200, b"more").await;
    assert_eq!(next(&mut exec).await, (200, b"more".to_vec()));
}

#[tokio::test]
async fn a_forgotten_command_is_forgotten_over_a_broken_connection() {
    let streams = streams();
    let (client, mut first) = resumed(&streams).await;
    let exec = client.exec(keyed()).unwrap();
    assert!(matches!(first.hear().await, Request::Exec { .. }));
    first
        .say(Event::Exited {
            exec: ID,
            report: report(0),
        })
        .await;
    exec.exit.await.unwrap();
    exec.remote.forget();
    assert_eq!(first.hear().await, Request::Forget { exec: ID });
    let mut second = streams.add();
    drop(first);
    second.greet(true).await;
    assert_eq!(second.hear().await, Request::Forget { exec: ID });
}

#[tokio::test]
async fn a_command_that_nobody_has_acknowledged_is_not_read_beyond_the_window() {
    let streams = streams();
    let (client, mut peer) = resumed(&streams).await;
    let mut exec = client.exec(keyed()).unwrap();
    assert!(matches!(peer.hear().await, Request::Exec { .. }));
    let piece = vec![0; 128 * 1024];
    for number in 0..WINDOW / piece.len() as u64 {
        let offset = number * piece.len() as u64;
        peer.output(ID, offset, &piece).await;
        assert_eq!(next(&mut exec).await.0, offset);
    }
    settle(&client, &mut peer).await;
    peer.output(ID, WINDOW, b"x").await;
    assert!(peer.frame().await.is_none(), "the client should hang up");
}

#[tokio::test]
async fn output_that_nobody_listens_to_is_not_acknowledged() {
    let streams = streams();
    let (client, mut peer) = resumed(&streams).await;
    let exec = client.exec(keyed()).unwrap();
    assert!(matches!(peer.hear().await, Request::Exec { .. }));
    drop(exec.output);
    peer.output(ID, 0, b"unheard").await;
    settle(&client, &mut peer).await;
}

#[tokio::test]
async fn an_unknown_command_is_started_once_where_it_may_be_and_lost_where_it_may_not() {
    for (join, starts) in [
        (joining(0, true), true),
        (joining(0, false), false),
        // There is output of it: it was started before.
        (joining(5, true), false),
    ] {
        let streams = streams();
        let (client, mut peer) = resumed(&streams).await;
        let exec = client.exec(join).unwrap();
        exec.remote.signal(15);
        assert!(matches!(peer.hear().await, Request::Resume { .. }));
        assert!(matches!(peer.hear().await, Request::Signal { .. }));
        // One answer to the question, and one to the signal, which came too early.
        peer.say(Event::UnknownExec { exec: ID }).await;
        peer.say(Event::UnknownExec { exec: ID }).await;
        if starts {
            assert!(matches!(peer.hear().await, Request::Exec { exec: ID, .. }));
            settle(&client, &mut peer).await;
            let report = report(0);
            peer.say(Event::Exited { exec: ID, report }).await;
            exec.exit.await.unwrap();
        } else {
            let error = exec.exit.await.unwrap_err();
            assert_eq!(error.kind, EngineErrorKind::Lost);
            assert!(error.message.contains("does not know"), "{error}");
            settle(&client, &mut peer).await;
        }
    }
}

#[tokio::test]
async fn a_key_that_was_used_before_is_a_conflict_and_not_a_second_start() {
    let streams = streams();
    let (client, mut peer) = resumed(&streams).await;
    let exec = client.exec(keyed()).unwrap();
    assert!(matches!(peer.hear().await, Request::Exec { .. }));
    for twice in [keyed(), joining(0, true)] {
        let twice = client.exec(twice).unwrap();
        assert_eq!(kind(twice).await, EngineErrorKind::Conflict);
    }
    settle(&client, &mut peer).await;
    peer.say(Event::AlreadyStarted { exec: ID }).await;
    assert_eq!(kind(exec).await, EngineErrorKind::Conflict);
}

#[tokio::test]
async fn who_joins_again_gets_nothing_that_was_meant_for_the_one_before() {
    let streams = streams();
    let (client, mut peer) = resumed(&streams).await;
    drop(client.exec(joining(0, false)).unwrap());
    assert!(matches!(peer.hear().await, Request::Resume { from: 0, .. }));
    let mut exec = client.exec(joining(2, false)).unwrap();
    assert!(matches!(peer.hear().await, Request::Resume { from: 2, .. }));
    let exited = Event::Exited {
        exec: ID,
        report: report(4),
    };
    peer.say(Event::Resumed { exec: ID, from: 0 }).await;
    peer.output(ID, 0, b"abcd").await;
    peer.say(exited.clone()).await;
    peer.say(Event::Resumed { exec: ID, from: 2 }).await;
    peer.output(ID, 2, b"cd").await;
    peer.say(exited).await;
    assert_eq!(next(&mut exec).await, (2, b"cd".to_vec()));
    assert!(exec.output.next().await.is_none());
    assert_eq!(exec.exit.await.unwrap().output_bytes, 4);
}

#[tokio::test]
async fn output_that_the_sandbox_has_no_longer_is_an_error_and_not_a_gap() {
    let streams = streams();
    let (client, mut peer) = resumed(&streams).await;
    let mut exec = client.exec(joining(3, false)).unwrap();
    assert!(matches!(peer.hear().await, Request::Resume { .. }));
    peer.say(Event::Resumed { exec: ID, from: 4 }).await;
    assert!(exec.output.next().await.is_none());
    assert_eq!(kind(exec).await, EngineErrorKind::Corrupt);
    settle(&client, &mut peer).await;
}

#[tokio::test]
async fn a_join_without_a_key_or_with_input_is_refused() {
    let streams = streams();
    let (client, mut peer) = resumed(&streams).await;
    let mut nameless = joining(0, true);
    nameless.key = None;
    let mut with_input = joining(0, true);
    with_input.stdin = true;
    for request in [nameless, with_input] {
        let Err(error) = client.exec(request) else {
            panic!("it was taken")
        };
        assert_eq!(error.kind, EngineErrorKind::Rejected);
    }
    settle(&client, &mut peer).await;
}

#[tokio::test]
async fn a_fake_command_hears_what_its_caller_wishes() {
    let (chunks, receiver) = mpsc::unbounded_channel();
    let (mut output, mut remote, mut wishes) = detached(receiver, Some(ExecKey(1)), 3);
    chunks
        .send(forge_engine::OutputChunk {
            stream: forge_core::exec::OutputStream::Stdout,
            offset: 3,
            bytes: bytes::Bytes::from_static(b"abc"),
        })
        .unwrap();
    output.next().await.unwrap();
    output.acknowledge(5);
    remote.write_stdin(b"in").await.unwrap();
    remote.end_stdin();
    remote.signal(9);
    remote.forget();
    drop((output, remote));
    let mut heard = Vec::new();
    while let Some(wish) = wishes.next().await {
        heard.push(wish);
    }
    let input = bytes::Bytes::from_static(b"in");
    let expected = [
        Wish::Taken(5),
        Wish::Stdin(input),
        Wish::StdinEnd,
        Wish::Signal(9),
        Wish::Forget,
    ];
    assert_eq!(heard, expected);
}
