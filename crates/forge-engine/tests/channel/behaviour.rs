//! What the client end does with what the other end says.

use std::sync::Arc;
use std::time::Duration;

use forge_engine::EngineErrorKind;
use forge_engine::channel::ChannelClient;
use forge_wire::message::{Health, Processes, TransferLimits};
use forge_wire::{Event, Frame, Request, Secret, WINDOW};

use crate::peer::{Peer, Streams, identity, report, request, secret, settings, streams};

/// A client that has claimed its sandbox, and the sandbox's end.
async fn claimed(streams: &Arc<Streams>) -> (ChannelClient, Peer) {
    let mut peer = streams.add();
    let claim = ChannelClient::claim(streams.clone(), identity(), settings());
    let (client, ()) = tokio::join!(claim, peer.greet(false));
    (client.unwrap(), peer)
}

#[tokio::test]
async fn output_is_resumed_where_a_broken_connection_left_it() {
    let streams = streams();
    let (client, mut first) = claimed(&streams).await;
    let mut exec = client.exec(request()).unwrap();
    let Request::Exec { exec: id, .. } = first.hear().await else {
        panic!("no exec")
    };
    first.say(Event::Started { exec: id, pid: 2 }).await;
    first.output(id, 0, b"hello ").await;
    assert_eq!(&exec.output.next().await.unwrap().bytes[..], b"hello ");
    exec.remote.write_stdin(b"input").await.unwrap();
    assert!(matches!(first.frame().await, Some(Frame::Data(_))));

    let mut second = streams.add();
    drop(first);
    second.greet(true).await;
    assert_eq!(
        second.hear().await,
        Request::Resume {
            exec: id,
            from: 6,
            taken: 6
        }
    );
    let Some(Frame::Data(again)) = second.frame().await else {
        panic!("no input")
    };
    assert_eq!((again.offset, &again.bytes[..]), (0, &b"input"[..]));
    second.say(Event::Resumed { exec: id, from: 6 }).await;
    // What the client has already is left out, however the sandbox cuts it.
    second.output(id, 0, b"hello world").await;
    second
        .say(Event::Exited {
            exec: id,
            report: report(11),
        })
        .await;
    assert_eq!(&exec.output.next().await.unwrap().bytes[..], b"world");
    assert_eq!(exec.exit.await.unwrap().output_bytes, 11);
    assert_eq!(second.hear().await, Request::Forget { exec: id });
}

#[tokio::test]
async fn a_command_that_never_arrived_is_sent_again_and_one_that_was_lost_is_not() {
    let streams = streams();
    let (client, mut first) = claimed(&streams).await;
    let unstarted = client.exec(request()).unwrap();
    let Request::Exec {
        exec: unstarted_id, ..
    } = first.hear().await
    else {
        panic!("no exec")
    };
    let started = client.exec(request()).unwrap();
    let Request::Exec {
        exec: started_id, ..
    } = first.hear().await
    else {
        panic!("no exec")
    };
    first
        .say(Event::Started {
            exec: started_id,
            pid: 2,
        })
        .await;
    // An answered question shows that the client has heard of the start.
    let (pong, ()) = tokio::join!(client.ping(), first.answer_ping());
    pong.unwrap();

    let mut second = streams.add();
    drop(first);
    second.greet(true).await;
    for _ in 0..2 {
        let Request::Resume { exec, .. } = second.hear().await else {
            panic!("no resume")
        };
        second.say(Event::UnknownExec { exec }).await;
    }
    let Request::Exec { exec, .. } = second.hear().await else {
        panic!("not sent again")
    };
    assert_eq!(exec, unstarted_id);
    assert_eq!(started.exit.await.unwrap_err().kind, EngineErrorKind::Lost);
    second
        .say(Event::Exited {
            exec,
            report: report(0),
        })
        .await;
    assert!(unstarted.exit.await.is_ok());
}

#[tokio::test]
async fn a_sandbox_that_cannot_prove_itself_is_refused() {
    let streams = streams();
    let mut peer = streams.add();
    let (client, ()) = tokio::join!(
        ChannelClient::resume(streams.clone(), identity()),
        peer.greet_with(true, secret(), Secret::new([1; 32])),
    );
    assert_eq!(client.unwrap_err().kind, EngineErrorKind::Corrupt);
}

#[tokio::test]
async fn a_sandbox_that_somebody_claimed_before_us_is_refused() {
    let streams = streams();
    let mut peer = streams.add();
    let claim = ChannelClient::claim(streams.clone(), identity(), settings());
    let (client, ()) = tokio::join!(claim, peer.only_greet(true));
    assert_eq!(client.unwrap_err().kind, EngineErrorKind::Corrupt);
}

#[tokio::test]
async fn when_the_sandbox_is_gone_everybody_who_waits_is_told() {
    let streams = streams();
    let (client, mut peer) = claimed(&streams).await;
    let mut exec = client.exec(request()).unwrap();
    let limits = TransferLimits {
        bytes: 1,
        entries: 1,
    };
    let download = client.get("/x", limits).unwrap();
    let asking = async {
        let usage = client.usage().await;
        assert_eq!(usage.unwrap_err().kind, EngineErrorKind::Lost);
    };
    let hanging_up = async {
        for _ in 0..3 {
            peer.hear().await;
        }
        drop(peer);
    };
    tokio::join!(asking, hanging_up);
    assert!(exec.output.next().await.is_none());
    assert_eq!(exec.exit.await.unwrap_err().kind, EngineErrorKind::Lost);
    assert_eq!(
        download.finish().await.unwrap_err().kind,
        EngineErrorKind::Lost
    );
    assert_eq!(
        client.kill_all().await.unwrap_err().kind,
        EngineErrorKind::Lost
    );
}

#[tokio::test]
async fn output_beyond_the_window_breaks_the_protocol_and_is_not_held() {
    let streams = streams();
    let (client, mut peer) = claimed(&streams).await;
    let exec = client.exec(request()).unwrap();
    let Request::Exec { exec: id, .. } = peer.hear().await else {
        panic!("no exec")
    };
    let piece = vec![0; 128 * 1024];
    let pieces = WINDOW / piece.len() as u64;
    for number in 0..pieces {
        peer.output(id, number * piece.len() as u64, &piece).await;
    }
    peer.output(id, WINDOW, b"x").await;
    assert!(peer.frame().await.is_none(), "the client should hang up");
    assert_eq!(exec.exit.await.unwrap_err().kind, EngineErrorKind::Lost);
}

#[tokio::test]
async fn a_sandbox_says_how_it_is() {
    let streams = streams();
    let (client, mut peer) = claimed(&streams).await;
    let answering = async {
        let Request::Health { request } = peer.hear().await else {
            panic!("no question")
        };
        let processes = Processes {
            running: 1,
            sleeping: 2,
            stopped: 3,
            blocked: 4,
            zombies: 5,
            more: true,
        };
        let health = Health {
            specification: Some(false),
            processes,
            cpu_us: Some(6_000_000),
            output_bytes: 7,
        };
        peer.say(Event::Health { request, health }).await;
    };
    let (health, ()) = tokio::join!(client.health(), answering);
    let processes = forge_core::Processes {
        running: 1,
        sleeping: 2,
        stopped: 3,
        blocked: 4,
        zombies: 5,
        more: true,
    };
    let expected = forge_core::Health {
        specification: Some(false),
        processes,
        cpu: Some(Duration::from_secs(6)),
        output_bytes: 7,
    };
    assert_eq!(health.unwrap(), expected);
}

#[tokio::test]
async fn a_download_that_nobody_wants_any_more_is_cancelled() {
    let streams = streams();
    let (client, mut peer) = claimed(&streams).await;
    let download = client
        .get(
            "/x",
            TransferLimits {
                bytes: 1,
                entries: 1,
            },
        )
        .unwrap();
    let Request::Get { transfer, .. } = peer.hear().await else {
        panic!("no get")
    };
    drop(download);
    assert_eq!(peer.hear().await, Request::TransferCancel { transfer });
}
