//! Sandboxes and servers that make the proxy hold as much as they can.

use forge_core::egress::DenialReason;
use forge_egress::server::MOST_BUFFERED;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

use crate::support::{self, *};

const KIBIBYTE: usize = 1024;
const MEBIBYTE: usize = 1024 * KIBIBYTE;
/// What the buffers of one sandbox may take: its share, and 16 large buffers.
const SHARE: usize = 24 * MEBIBYTE + 16 * 128 * KIBIBYTE;
/// Connections of one sandbox.
const CONNECTIONS: usize = 320;

/// A proxy whose sandboxes reach example.org, and descriptors for many connections.
async fn proxy_for(sandboxes: &[&str], host: &str) -> Proxy {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    let proxy = Proxy::new();
    proxy.world.name("example.org", &[PUBLIC]);
    for sandbox in sandboxes {
        proxy.set(sandbox, limited(&[host])).await;
    }
    proxy
}

/// Waits until the proxy holds at least so much; it never holds more than it may.
async fn holds(proxy: &Proxy, least: usize) {
    loop {
        let now = proxy.server.buffered();
        assert!(now <= MOST_BUFFERED, "{now}");
        if now >= least {
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// Waits until the proxy holds nothing.
async fn holds_nothing(proxy: &Proxy) {
    while proxy.server.buffered() > 0 {
        tokio::task::yield_now().await;
    }
}

async fn is_served(proxy: &Proxy, sandbox: &str) {
    let mut client = proxy.request(sandbox, &connect("example.net:443")).await;
    let answer = rest_text(&mut client).await;
    assert_denied(&answer, 403, DenialReason::NotOnAllowlist);
}

#[tokio::test]
async fn long_heads_without_end_leave_room_for_others() {
    let greedy = ["a", "b", "c", "d"];
    let proxy = proxy_for(&greedy, "example.org").await;
    proxy.set("honest", limited(&["example.org"])).await;
    let head = format!(
        "GET http://example.org/ HTTP/1.1\r\nA: {}",
        "a".repeat(16_000)
    );
    let mut clients = Vec::new();
    for sandbox in greedy {
        for _ in 0..CONNECTIONS {
            clients.push(proxy.request(sandbox, &head).await);
        }
    }
    holds(
        &proxy,
        greedy.len() * CONNECTIONS * (48 * KIBIBYTE + 16_000),
    )
    .await;
    assert!(proxy.server.buffered() <= greedy.len() * SHARE);
    is_served(&proxy, "honest").await;
    drop(clients);
    holds_nothing(&proxy).await;
}

#[tokio::test]
async fn a_sandbox_whose_share_is_used_up_is_told_so_and_the_others_are_served() {
    let mut proxy = proxy_for(&["greedy"], "example.org:80").await;
    proxy.set("honest", limited(&["example.org"])).await;
    let mut server = proxy.server(80).await;
    // The server's heads have no end either: 80 KiB a connection, which 320 do not get.
    let answer = format!("HTTP/1.1 200 OK\r\nA: {}", "a".repeat(32_000));
    let request = "GET http://example.org/ HTTP/1.1\r\nHost: a\r\n\r\n";
    let (mut clients, mut servers) = (Vec::new(), Vec::new());
    let record = loop {
        clients.push(proxy.request("greedy", request).await);
        assert!(proxy.server.buffered() <= SHARE);
        tokio::select! {
            biased;
            record = proxy.record() => break record,
            mut outside = server.accept() => {
                outside.write_all(answer.as_bytes()).await.unwrap();
                servers.push(outside);
            }
        }
    };
    assert!(clients.len() <= CONNECTIONS);
    assert_eq!(record.reason, Some(DenialReason::Limit));
    assert!(proxy.server.buffered() <= SHARE);
    is_served(&proxy, "honest").await;
    drop((clients, servers));
    holds_nothing(&proxy).await;
}

#[tokio::test]
async fn a_new_connection_for_which_there_is_no_room_is_told_so() {
    let proxy = proxy_for(&[], "example.org").await;
    let mut policy = limited(&["example.org"]);
    policy.limits.connections = u32::MAX;
    proxy.set("greedy", policy).await;
    proxy.set("honest", limited(&["example.org"])).await;
    let let_in = 24 * MEBIBYTE / (48 * KIBIBYTE);
    let mut held: Vec<UnixStream> = Vec::new();
    for _ in 0..let_in {
        held.push(proxy.connect("greedy").await);
    }
    holds(&proxy, let_in * 48 * KIBIBYTE).await;
    let mut client = proxy.connect("greedy").await;
    // There is no room to tell it: it is closed and noted.
    assert!(rest(&mut client).await.is_empty());
    assert_eq!(proxy.record().await.reason, Some(DenialReason::Limit));
    is_served(&proxy, "honest").await;
    drop(held);
    holds_nothing(&proxy).await;
}

#[tokio::test]
async fn beside_twenty_sandboxes_that_take_all_they_get_one_more_has_its_first_connections() {
    let names: Vec<String> = (0..20).map(|number| format!("greedy{number}")).collect();
    let greedy: Vec<&str> = names.iter().map(String::as_str).collect();
    let proxy = proxy_for(&greedy, "example.org").await;
    let mut held = Vec::new();
    for sandbox in greedy {
        for _ in 0..120 {
            held.push(proxy.connect(sandbox).await);
        }
    }
    // Some are turned away: there is room for 2048, and for 8 of each besides.
    holds(&proxy, 96 * MEBIBYTE).await;
    proxy.set("honest", limited(&["example.org"])).await;
    for _ in 0..7 {
        held.push(proxy.connect("honest").await);
        is_served(&proxy, "honest").await;
    }
    drop(held);
    holds_nothing(&proxy).await;
}

#[tokio::test]
async fn clients_that_read_nothing_hold_no_more_than_their_buffers() {
    let mut proxy = proxy_for(&["greedy"], "example.org:9000").await;
    let mut server = proxy.server(9000).await;
    let (mut clients, mut servers) = (Vec::new(), Vec::new());
    for _ in 0..CONNECTIONS {
        clients.push(proxy.tunnel("greedy", "example.org:9000").await);
        servers.push(server.accept().await);
    }
    let flood = vec![b'a'; MEBIBYTE];
    for outside in &mut servers {
        outside.writable().await.unwrap();
        while outside.try_write(&flood).is_ok() {}
    }
    holds(&proxy, CONNECTIONS * 48 * KIBIBYTE + 16 * 128 * KIBIBYTE).await;
    assert!(proxy.server.buffered() <= SHARE);
    // The system holds 16 KiB for each, and all of it arrives.
    for client in &mut clients {
        assert_eq!(exactly(client, 64 * KIBIBYTE).await.len(), 64 * KIBIBYTE);
    }
    drop((clients, servers));
    holds_nothing(&proxy).await;
}

#[tokio::test]
async fn what_follows_a_body_stays_with_the_client() {
    let mut proxy = proxy_for(&["s"], "example.org:80").await;
    let mut server = proxy.server(80).await;
    let head = "POST http://example.org/ HTTP/1.1\r\nHost: a\r\n";
    let next = "a".repeat(200 * KIBIBYTE);
    for (framing, body) in [
        ("Content-Length: 3", "abc"),
        ("Transfer-Encoding: chunked", "3\r\nabc\r\n0\r\n\r\n"),
    ] {
        let client = proxy
            .request("s", &format!("{head}{framing}\r\n\r\n{}", &body[..1]))
            .await;
        let mut outside = server.accept().await;
        support::head(&mut outside).await;
        let rest = format!("{}{next}", &body[1..]);
        client.writable().await.unwrap();
        assert!(client.try_write(rest.as_bytes()).unwrap() > 64 * KIBIBYTE);
        assert_eq!(exactly(&mut outside, body.len()).await, body);
        // Not the 128 KiB that may be read at once.
        assert!(proxy.server.buffered() <= 64 * KIBIBYTE);
    }
}
