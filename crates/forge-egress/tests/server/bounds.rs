//! Changes of policy, bounds, and the folders that sandboxes see.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::time::Duration;

use forge_core::PhaseName;
use forge_core::connection::ConnectionVerdict;
use forge_core::egress::{DenialReason, EgressPolicy};
use forge_egress::server::{Options, Server, Timing, socket_path};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

use crate::support::*;

#[tokio::test]
async fn a_policy_ends_the_connections_that_it_forbids_and_no_others() {
    let mut proxy = Proxy::new();
    let mut server = proxy.server(9000).await;
    for name in ["kept.example.org", "cut.example.org"] {
        proxy.world.name(name, &[PUBLIC]);
    }
    proxy
        .set(
            "s",
            limited(&["kept.example.org:9000", "cut.example.org:9000"]),
        )
        .await;
    let mut kept = proxy.tunnel("s", "kept.example.org:9000").await;
    let mut outside = server.accept().await;
    let mut cut = proxy.tunnel("s", "cut.example.org:9000").await;
    let mut cut_outside = server.accept().await;
    cut.write_all(b"\0").await.unwrap();
    exactly(&mut cut_outside, 1).await;

    proxy.set("s", limited(&["kept.example.org:9000"])).await;
    // The record is there when the policy is, so the connection is gone.
    assert_eq!(proxy.server.log().len(), 1);
    let record = proxy.record().await;
    assert_eq!(record.reason, Some(DenialReason::PolicyChanged));
    // It had been let through.
    assert_eq!(record.verdict, ConnectionVerdict::Allowed);
    let counters = proxy.server.counters("s").await.unwrap();
    assert_eq!((counters.allowed, counters.denied), (1, 0));
    assert_eq!(
        (record.host.as_str(), record.bytes_up),
        ("cut.example.org", 1)
    );
    assert!(rest(&mut cut).await.is_empty());
    assert!(rest(&mut cut_outside).await.is_empty());
    kept.write_all(b"\0still").await.unwrap();
    assert_eq!(exactly(&mut outside, 6).await, "\0still");

    proxy.set("s", EgressPolicy::isolated()).await;
    assert!(rest(&mut kept).await.is_empty());
    assert_eq!(
        proxy.record().await.reason,
        Some(DenialReason::PolicyChanged)
    );
}

#[tokio::test]
async fn a_tunnel_in_which_nothing_was_checked_does_not_outlive_its_level() {
    let mut proxy = Proxy::new();
    let mut server = proxy.server(443).await;
    proxy.world.name("example.org", &[PUBLIC]);
    proxy.set("s", full()).await;
    let mut client = proxy.tunnel("s", "example.org:443").await;
    let mut outside = server.accept().await;
    proxy.set("s", limited(&["example.org"])).await;
    assert!(rest(&mut client).await.is_empty());
    assert!(rest(&mut outside).await.is_empty());
}

#[tokio::test]
async fn connections_beyond_the_bound_are_told_so_and_others_do_not_notice() {
    let proxy = Proxy::new();
    let mut policy = limited(&["example.org"]);
    policy.limits.connections = 3;
    proxy.set("greedy", policy.clone()).await;
    proxy.set("other", policy).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(proxy.request("greedy", "CONNECT exam").await);
    }
    let mut client = proxy.connect("greedy").await;
    let answer = rest_text(&mut client).await;
    assert_denied(&answer, 503, DenialReason::Limit);
    assert_eq!(proxy.record().await.reason, Some(DenialReason::Limit));
    // The bound is told of, and the record says what was refused.
    let mut client = proxy.request("greedy", &connect("example.org:443")).await;
    let answer = rest_text(&mut client).await;
    assert_denied(&answer, 503, DenialReason::Limit);
    assert!(answer.contains("policy: example.org:443 limit"), "{answer}");
    assert!(answer.contains("as many connections open"), "{answer}");
    let record = proxy.record().await;
    assert_eq!((record.host.as_str(), record.port), ("example.org", 443));

    let mut client = proxy.request("other", &connect("example.net:443")).await;
    let answer = rest_text(&mut client).await;
    assert_denied(&answer, 403, DenialReason::NotOnAllowlist);
    proxy.record().await;

    // A place is free again as soon as its connection has ended.
    drop(held.pop());
    assert_eq!(proxy.record().await.reason, Some(DenialReason::BadRequest));
    loop {
        let mut client = proxy.request("greedy", &connect("example.net:443")).await;
        if rest_text(&mut client).await.starts_with("HTTP/1.1 403 ") {
            break;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_connection_that_is_turned_away_is_noted_in_its_phase_though_its_sandbox_goes_at_once() {
    let proxy = Proxy::new();
    let mut policy = limited(&["example.org"]);
    policy.limits.connections = 1;
    proxy.set("s", policy.clone()).await;
    let _held = proxy.connect("s").await;
    let one = proxy.buffered_beyond(0).await;
    let _first = proxy.connect("s").await;
    let two = proxy.buffered_beyond(one).await;
    let mut next = wish("s", policy);
    next.context.phase = PhaseName::Solve;
    proxy.server.set(next).await.unwrap();
    let _second = proxy.connect("s").await;
    proxy.buffered_beyond(two).await;
    proxy.server.remove("s").await.unwrap();
    // Both are there when the sandbox is gone.
    assert_eq!(proxy.server.log().len(), 2);
    let mut phases = [proxy.record().await.phase, proxy.record().await.phase];
    phases.sort();
    assert_eq!(phases, [PhaseName::Setup, PhaseName::Solve]);
    assert_eq!(proxy.server.buffered(), 0);
}

#[tokio::test]
async fn a_flood_of_connections_leaves_the_other_sandboxes_served() {
    many_descriptors();
    let proxy = Proxy::new();
    proxy.set("greedy", limited(&["example.org"])).await;
    proxy.set("other", limited(&["example.org"])).await;
    let mut flood = Vec::new();
    for _ in 0..1000 {
        flood.push(proxy.connect("greedy").await);
    }
    let mut client = proxy.request("other", &connect("example.net:443")).await;
    let answer = rest_text(&mut client).await;
    assert_denied(&answer, 403, DenialReason::NotOnAllowlist);
}

#[tokio::test]
async fn a_request_that_does_not_come_to_its_end_is_given_up() {
    let proxy = Proxy::with(Timing {
        head: Duration::from_millis(50),
        ..PATIENT
    });
    proxy.set("s", limited(&["example.org"])).await;
    let mut client = proxy
        .request("s", "CONNECT example.org:443 HTTP/1.1\r\nA: b\r\n")
        .await;
    assert_denied(&rest_text(&mut client).await, 408, DenialReason::Limit);
    let record = proxy.record().await;
    assert_eq!((record.host.as_str(), record.port), ("example.org", 443));
    let mut silent = proxy.connect("s").await;
    assert_denied(&rest_text(&mut silent).await, 408, DenialReason::Limit);
}

#[tokio::test]
async fn a_head_without_end_is_refused() {
    let proxy = Proxy::new();
    proxy.set("s", limited(&["example.org"])).await;
    let long = format!(
        "GET http://example.org/ HTTP/1.1\r\nA: {}",
        "a".repeat(20_000)
    );
    let mut client = proxy.request("s", &long).await;
    assert_denied(&rest_text(&mut client).await, 400, DenialReason::BadRequest);
}

#[tokio::test]
async fn bytes_beyond_the_bound_are_not_sent() {
    let mut proxy = Proxy::new();
    let mut server = proxy.server(9000).await;
    proxy.world.name("example.org", &[PUBLIC]);
    let mut policy = full();
    policy.limits.upload_bytes = 1000;
    proxy.set("s", policy.clone()).await;
    let mut client = proxy.tunnel("s", "example.org:9000").await;
    let mut outside = server.accept().await;
    client.write_all(&[b'x'; 1500]).await.unwrap();
    assert_eq!(rest(&mut outside).await.len(), 1000);
    let record = proxy.record().await;
    assert_eq!(
        (record.reason, record.bytes_up),
        (Some(DenialReason::Limit), 1000)
    );
    assert_eq!(record.verdict, ConnectionVerdict::Denied);
    let mut client = proxy.request("s", &connect("example.org:9000")).await;
    assert_denied(&rest_text(&mut client).await, 429, DenialReason::Limit);
    proxy.record().await;

    // The same phase again, as after a loss of the engine's connection, gives nothing back.
    proxy.set("s", policy.clone()).await;
    let mut client = proxy.request("s", &connect("example.org:9000")).await;
    assert_denied(&rest_text(&mut client).await, 429, DenialReason::Limit);
    let mut next = wish("s", policy);
    next.context.phase = PhaseName::Solve;
    proxy.server.set(next).await.unwrap();
    proxy.tunnel("s", "example.org:9000").await;
}

#[tokio::test]
async fn bytes_beyond_the_bound_are_not_received() {
    let mut proxy = Proxy::new();
    let mut server = proxy.server(9000).await;
    proxy.world.name("example.org", &[PUBLIC]);
    let mut policy = full();
    policy.limits.download_bytes = 1000;
    proxy.set("s", policy).await;
    let mut client = proxy.tunnel("s", "example.org:9000").await;
    let mut outside = server.accept().await;
    outside.write_all(&[b'x'; 1500]).await.unwrap();
    assert_eq!(rest(&mut client).await.len(), 1000);
    let record = proxy.record().await;
    assert_eq!(
        (record.reason, record.bytes_down),
        (Some(DenialReason::Limit), 1000)
    );
}

#[tokio::test]
async fn a_connection_on_which_nothing_moves_is_ended() {
    let mut proxy = Proxy::new();
    let mut server = proxy.server(9000).await;
    proxy.world.name("example.org", &[PUBLIC]);
    let mut policy = full();
    policy.limits.idle_seconds = 30;
    proxy.set("s", policy).await;
    let mut client = proxy.tunnel("s", "example.org:9000").await;
    let mut outside = server.accept().await;
    // From now on, whenever everything waits, it is as late as what is due first.
    tokio::time::pause();
    assert!(rest(&mut client).await.is_empty());
    assert!(rest(&mut outside).await.is_empty());
    let record = proxy.record().await;
    assert_eq!(record.reason, Some(DenialReason::Limit));
    // It had been let through.
    assert_eq!(record.verdict, ConnectionVerdict::Allowed);
    let counters = proxy.server.counters("s").await.unwrap();
    assert_eq!((counters.allowed, counters.denied), (1, 0));
}

#[tokio::test]
async fn sockets_appear_with_their_modes_and_go_with_their_sandboxes() {
    let mut proxy = Proxy::new();
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let sockets = proxy.sockets();
    assert_eq!(mode(&sockets), 0o711);
    let mut server = proxy.server(9000).await;
    proxy.world.name("example.org", &[PUBLIC]);
    proxy.set("s", full()).await;
    let folder = sockets.join(directory("s"));
    let socket = socket_path(&sockets, &directory("s"));
    assert_eq!(mode(&folder), 0o755);
    assert_eq!(mode(&socket), 0o666);
    assert!(fs::metadata(&socket).unwrap().file_type().is_socket());
    assert_eq!(fs::read_dir(&sockets).unwrap().count(), 1);

    let mut client = proxy.tunnel("s", "example.org:9000").await;
    let mut outside = server.accept().await;
    proxy.server.remove("s").await.unwrap();
    assert!(!folder.exists());
    assert!(rest(&mut client).await.is_empty());
    assert!(rest(&mut outside).await.is_empty());
    let record = proxy.record().await;
    assert_eq!(record.reason, None, "no rule ended it");
    proxy.server.remove("s").await.unwrap();
    assert!(proxy.server.counters("s").await.is_err());
}

#[tokio::test]
async fn folders_that_are_not_the_sandbox_s_own_are_refused() {
    let proxy = Proxy::new();
    proxy.set("s", full()).await;
    let mut wrong = wish("s", full());
    wrong.directory = directory("elsewhere");
    assert!(proxy.server.set(wrong).await.is_err());
    let mut wrong = wish("t", full());
    wrong.directory = directory("s");
    assert!(proxy.server.set(wrong).await.is_err());
    let mut wrong = wish("t", full());
    wrong.directory = "../../../../../../tmp".into();
    assert!(proxy.server.set(wrong).await.is_err());
    let target = proxy.folder.path().join("target");
    fs::create_dir(&target).unwrap();
    std::os::unix::fs::symlink(&target, proxy.sockets().join(directory("t"))).unwrap();
    assert!(proxy.server.set(wish("t", full())).await.is_err());
    assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
}

#[tokio::test]
async fn a_new_proxy_opens_nothing_but_keeps_the_folders_that_sandboxes_hold() {
    let proxy = Proxy::new();
    proxy.set("s", full()).await;
    let socket = socket_path(&proxy.sockets(), &directory("s"));
    let folder = fs::metadata(socket.parent().unwrap()).unwrap();
    let next = Server::new(Options {
        sockets: proxy.sockets(),
        outside: proxy.world.clone(),
        timing: PATIENT,
    });
    let next = next.unwrap();
    assert!(UnixStream::connect(&socket).await.is_err());
    next.set(wish("s", EgressPolicy::isolated())).await.unwrap();
    let same = fs::metadata(socket.parent().unwrap()).unwrap();
    let inode = std::os::unix::fs::MetadataExt::ino;
    assert_eq!(inode(&folder), inode(&same));
    let mut client = UnixStream::connect(&socket).await.unwrap();
    client
        .write_all(connect("example.org:443").as_bytes())
        .await
        .unwrap();
    assert_denied(&rest_text(&mut client).await, 403, DenialReason::Isolated);
    next.close().await;
    assert!(UnixStream::connect(&socket).await.is_err());
}
