//! Sandboxes and servers that make the proxy hold as much as they can.

use forge_core::egress::DenialReason;
use forge_egress::server::MOST_BUFFERED;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::SndBuf;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};

use crate::support::{self, *};

const KIBIBYTE: usize = 1024;
const MEBIBYTE: usize = 1024 * KIBIBYTE;
/// What the buffers of one sandbox may take: its share, and 16 large buffers.
const SHARE: usize = 24 * MEBIBYTE + 16 * 128 * KIBIBYTE;
/// Connections of one sandbox.
const CONNECTIONS: usize = 320;
/// What each takes at least.
const EACH: usize = 72 * KIBIBYTE;

/// A proxy whose sandboxes reach example.org, and descriptors for many connections.
async fn proxy_for(sandboxes: &[&str], host: &str) -> Proxy {
    many_descriptors();
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
    let greedy = ["a", "b", "c"];
    // As many with long heads as fit into the share of a sandbox.
    let each = 270;
    let proxy = proxy_for(&greedy, "example.org").await;
    proxy.set("honest", limited(&["example.org"])).await;
    let head = format!(
        "GET http://example.org/ HTTP/1.1\r\nA: {}",
        "a".repeat(16_000)
    );
    let mut clients = Vec::new();
    for sandbox in greedy {
        for _ in 0..each {
            clients.push(proxy.request(sandbox, &head).await);
        }
    }
    holds(&proxy, greedy.len() * each * (EACH + 16_000)).await;
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
    // The server's heads have no end either: 104 KiB a connection, which 320 do not get.
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
    let let_in = 24 * MEBIBYTE / EACH;
    let mut held: Vec<UnixStream> = Vec::new();
    for _ in 0..let_in {
        held.push(proxy.connect("greedy").await);
    }
    holds(&proxy, let_in * EACH).await;
    // Three more have no place, but what is left is enough to tell them.
    for _ in 0..3 {
        held.push(proxy.connect("greedy").await);
    }
    holds(&proxy, 24 * MEBIBYTE).await;
    let mut client = proxy.connect("greedy").await;
    // There is no room to tell this one: it is closed and noted.
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
    // Some are turned away: there is room for 1140, and for 8 of each besides.
    holds(&proxy, 88 * MEBIBYTE).await;
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
    // More than the proxy takes; what it leaves takes memory of the system.
    let flood = vec![b'a'; 256 * KIBIBYTE];
    let mut sent = Vec::new();
    for outside in &mut servers {
        outside.writable().await.unwrap();
        let mut left = &flood[..];
        while let Ok(count @ 1..) = outside.try_write(left) {
            left = &left[count..];
        }
        sent.push(flood.len() - left.len());
    }
    holds(&proxy, CONNECTIONS * EACH + 16 * 128 * KIBIBYTE).await;
    assert!(proxy.server.buffered() <= SHARE);
    // The system holds 16 KiB for each, and all of it arrives.
    for (client, sent) in clients.iter_mut().zip(sent) {
        assert_eq!(bytes(client, sent).await.len(), sent);
    }
    drop((clients, servers));
    holds_nothing(&proxy).await;
}

/// Writes as long as anything is taken; how much was.
async fn flood(servers: &mut [TcpStream], clients: &mut [UnixStream], each: usize) -> usize {
    let bytes = vec![b'a'; 64 * KIBIBYTE];
    let mut buffer = vec![0; 64 * KIBIBYTE];
    let (mut sent, mut read) = (vec![0; servers.len()], vec![0; clients.len()]);
    let mut idle = 0;
    while idle < 2_000 {
        tokio::task::yield_now().await;
        idle += 1;
        for (server, sent) in servers.iter_mut().zip(&mut sent) {
            // Nobody has so many from one connection.
            if *sent < 64 * MEBIBYTE
                && let Ok(count) = server.try_write(&bytes)
            {
                *sent += count;
                idle = 0;
            }
        }
        for (client, read) in clients.iter_mut().zip(&mut read) {
            let wanted = buffer.len().min(each - *read);
            if wanted > 0
                && let Ok(count) = client.try_read(&mut buffer[..wanted])
            {
                *read += count;
                idle = 0;
            }
        }
    }
    assert!(read.iter().all(|read| *read == each), "{read:?}");
    sent.iter().sum()
}

#[tokio::test]
async fn of_fast_servers_whose_clients_stop_to_read_the_system_keeps_no_more_than_is_counted() {
    const READ: usize = 2 * MEBIBYTE;
    const OF_THE_SERVER: usize = 16 * KIBIBYTE;
    let mut proxy = proxy_for(&["greedy"], "example.org:9000").await;
    let mut server = proxy.server(9000).await;
    let (mut clients, mut servers) = (Vec::new(), Vec::new());
    for _ in 0..CONNECTIONS {
        clients.push(proxy.tunnel("greedy", "example.org:9000").await);
        let outside = server.accept().await;
        setsockopt(&outside, SndBuf, &OF_THE_SERVER).unwrap();
        servers.push(outside);
    }
    let sent = flood(&mut servers, &mut clients, READ).await;
    // For every connection what the system has for its client, a small buffer, what it has from the
    // server, and on the other side; then large buffers and clients to which much flows, 16 of each,
    // and what it keeps of connections to servers that are not near.
    let each = (16 + 8 + 12) * KIBIBYTE + 2 * OF_THE_SERVER;
    let most = CONNECTIONS * each + 16 * (128 + 192) * KIBIBYTE + 16 * MEBIBYTE;
    let left = sent - CONNECTIONS * READ;
    assert!(left <= most, "{left}");
}

#[tokio::test]
async fn a_place_is_taken_until_its_client_has_read_all_it_was_told() {
    let mut proxy = proxy_for(&["s"], "example.org:9000").await;
    let mut server = proxy.server(9000).await;
    let mut client = proxy.tunnel("s", "example.org:9000").await;
    let mut outside = server.accept().await;
    let words = vec![b'a'; 8 * KIBIBYTE];
    outside.write_all(&words).await.unwrap();
    client.shutdown().await.unwrap();
    drop(outside);
    // It has ended, but the system still has what was said, on the proxy's account.
    assert_eq!(proxy.record().await.bytes_down, words.len() as u64);
    assert!(proxy.server.buffered() >= EACH);
    let mut refused = proxy.request("s", &connect("example.net:443")).await;
    refused.shutdown().await.unwrap();
    proxy.record().await;
    assert!(proxy.server.buffered() >= 2 * EACH);

    // The end is behind the words, and no later.
    assert_eq!(rest(&mut client).await, words);
    rest(&mut refused).await;
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
        assert!(proxy.server.buffered() <= EACH + 16 * KIBIBYTE);
        drop((client, outside));
        holds_nothing(&proxy).await;
    }
}
