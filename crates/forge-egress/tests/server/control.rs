//! The engine's connection.

use forge_api::egress::{
    CONTROL_LINE_BYTES, CONTROL_VERSION, ControlEvent, ControlRequest, Inheritance, NumberedRequest,
};
use forge_core::connection::EgressCounters;
use forge_core::egress::DenialReason;
use forge_egress::control;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::support::*;

struct Engine {
    lines: Lines<BufReader<OwnedReadHalf>>,
    writer: OwnedWriteHalf,
    next: u64,
}

impl Engine {
    async fn connect(proxy: &Proxy) -> Self {
        let path = proxy.folder.path().join("control");
        let (reader, writer) = UnixStream::connect(path).await.unwrap().into_split();
        Self {
            lines: BufReader::new(reader).lines(),
            writer,
            next: 1,
        }
    }

    /// A connection of an engine that has this name.
    async fn named(proxy: &Proxy, name: &str) -> Self {
        let mut engine = Self::connect(proxy).await;
        let answer = engine.ask(hello_from(name)).await.pop();
        assert_eq!(answer, Some(answered(1, None)));
        engine
    }

    async fn known(proxy: &Proxy) -> Self {
        Self::named(proxy, "engine").await
    }

    async fn send(&mut self, text: &str) {
        self.writer.write_all(text.as_bytes()).await.unwrap();
    }

    async fn event(&mut self) -> Option<ControlEvent> {
        let line = self.lines.next_line().await.ok().flatten()?;
        Some(serde_json::from_str(&line).unwrap())
    }

    /// All events up to the answer.
    async fn ask(&mut self, request: ControlRequest) -> Vec<ControlEvent> {
        self.send(&request_line(self.next, &request)).await;
        self.next += 1;
        let mut events = Vec::new();
        loop {
            let event = self.event().await.unwrap();
            let is_answer = matches!(event, ControlEvent::Answer { .. });
            events.push(event);
            if is_answer {
                return events;
            }
        }
    }
}

fn request_line(id: u64, request: &ControlRequest) -> String {
    let request = NumberedRequest {
        id,
        request: request.clone(),
    };
    serde_json::to_string(&request).unwrap() + "\n"
}

fn hello_of(version: u32) -> ControlRequest {
    ControlRequest::Hello {
        version,
        denied: Vec::new(),
        engine: "engine".to_owned(),
    }
}

fn hello_from(engine: &str) -> ControlRequest {
    ControlRequest::Hello {
        version: CONTROL_VERSION,
        denied: Vec::new(),
        engine: engine.to_owned(),
    }
}

fn denying(ranges: &[&str]) -> ControlRequest {
    ControlRequest::Hello {
        version: CONTROL_VERSION,
        denied: ranges.iter().map(|range| range.parse().unwrap()).collect(),
        engine: "engine".to_owned(),
    }
}

fn answered(id: u64, error: Option<&str>) -> ControlEvent {
    ControlEvent::Answer {
        id,
        error: error.map(str::to_owned),
        counters: None,
        inheritance: None,
    }
}

fn proxy() -> Proxy {
    let mut proxy = Proxy::new();
    let listener = control::listen(&proxy.folder.path().join("control")).unwrap();
    proxy
        .tasks
        .spawn(control::serve(proxy.server.clone(), listener));
    proxy
}

fn set(sandbox: &str) -> ControlRequest {
    ControlRequest::Set(Box::new(wish(sandbox, limited(&["example.org"]))))
}

fn stats(sandbox: &str) -> ControlRequest {
    ControlRequest::Stats {
        sandbox: sandbox.to_owned(),
    }
}

async fn refused(proxy: &Proxy, host: &str) {
    let mut client = proxy.request("s", &connect(&format!("{host}:443"))).await;
    let answer = rest_text(&mut client).await;
    assert_denied(&answer, 403, DenialReason::NotOnAllowlist);
}

fn hosts(events: &[ControlEvent]) -> Vec<&str> {
    events
        .iter()
        .filter_map(|event| match event {
            ControlEvent::Connection { record, .. } => Some(record.host.as_str()),
            ControlEvent::Answer { .. } | ControlEvent::Superseded => None,
        })
        .collect()
}

#[tokio::test]
async fn a_sandbox_is_opened_watched_and_closed() {
    let proxy = proxy();
    let mut engine = Engine::known(&proxy).await;
    assert_eq!(engine.ask(set("s")).await, [answered(2, None)]);
    refused(&proxy, "a.test").await;
    refused(&proxy, "b.test").await;
    let mut events = engine.ask(stats("s")).await;
    assert_eq!(hosts(&events), ["a.test", "b.test"]);
    let Some(ControlEvent::Answer { counters, .. }) = events.pop() else {
        panic!("no answer");
    };
    assert_eq!(counters.unwrap().denied, 2);
    let remove = ControlRequest::Remove {
        sandbox: "s".to_owned(),
    };
    assert_eq!(engine.ask(remove.clone()).await, [answered(4, None)]);
    assert_eq!(engine.ask(remove).await, [answered(5, None)]);
    let unknown = answered(6, Some("there is no sandbox 's'"));
    assert_eq!(engine.ask(stats("s")).await, [unknown]);
}

#[tokio::test]
async fn records_come_by_themselves() {
    let proxy = proxy();
    let mut engine = Engine::known(&proxy).await;
    engine.ask(set("s")).await;
    refused(&proxy, "a.test").await;
    assert!(matches!(
        engine.event().await,
        Some(ControlEvent::Connection { .. })
    ));
}

#[tokio::test]
async fn policies_and_records_outlive_the_engine_s_connection() {
    let proxy = proxy();
    let mut engine = Engine::known(&proxy).await;
    engine.ask(set("s")).await;
    engine.writer.shutdown().await.unwrap();
    while engine.event().await.is_some() {}
    for number in 0..300 {
        refused(&proxy, &format!("a{number}.test")).await;
    }
    let mut engine = Engine::known(&proxy).await;
    let events = engine.ask(stats("s")).await;
    let expected: Vec<String> = (0..300).map(|number| format!("a{number}.test")).collect();
    assert_eq!(hosts(&events), expected);
}

#[tokio::test]
async fn a_new_connection_of_an_engine_takes_the_place_of_its_old_one() {
    let proxy = proxy();
    let mut old = Engine::known(&proxy).await;
    let mut new = Engine::known(&proxy).await;
    assert_eq!(old.event().await, None);
    assert_eq!(new.ask(set("s")).await, [answered(2, None)]);
}

#[tokio::test]
async fn a_new_engine_takes_the_place_of_the_old_for_good() {
    let proxy = proxy();
    let mut old = Engine::named(&proxy, "old").await;
    old.ask(set("s")).await;
    // Whoever only connects takes nobody's place.
    let _mute = Engine::connect(&proxy).await;
    assert_eq!(old.ask(set("s")).await, [answered(3, None)]);
    let mut new = Engine::named(&proxy, "new").await;
    assert_eq!(old.event().await, Some(ControlEvent::Superseded));
    assert_eq!(old.event().await, None);
    let mut again = Engine::connect(&proxy).await;
    again.send(&request_line(1, &hello_from("old"))).await;
    assert_eq!(again.event().await, Some(ControlEvent::Superseded));
    assert_eq!(again.event().await, None);
    assert_eq!(new.ask(set("s")).await, [answered(2, None)]);
}

fn inherit(sandbox: &str) -> ControlRequest {
    ControlRequest::Inherit {
        sandbox: sandbox.to_owned(),
    }
}

#[tokio::test]
async fn the_next_engine_inherits_policies_and_what_was_not_taken() {
    let proxy = proxy();
    let mut old = Engine::named(&proxy, "old").await;
    old.ask(set("s")).await;
    for host in ["a.test", "b.test", "c.test"] {
        refused(&proxy, host).await;
    }
    let events = old.ask(stats("s")).await;
    assert_eq!(hosts(&events), ["a.test", "b.test", "c.test"]);
    let Some(&ControlEvent::Connection { number, .. }) = events.first() else {
        panic!("{events:?}");
    };
    let taken = ControlRequest::Taken {
        sandbox: "s".to_owned(),
        number,
    };
    assert_eq!(old.ask(taken).await, [answered(4, None)]);
    drop(old);
    refused(&proxy, "d.test").await;

    let mut new = Engine::connect(&proxy).await;
    let mut events = new.ask(hello_from("new")).await;
    events.extend(new.ask(inherit("s")).await);
    assert_eq!(hosts(&events), ["b.test", "c.test", "d.test"]);
    let counters = EgressCounters {
        denied: 4,
        ..EgressCounters::default()
    };
    let ControlRequest::Set(policy) = set("s") else {
        unreachable!()
    };
    let inheritance = Inheritance {
        policy: *policy,
        taken: 1,
    };
    let expected = ControlEvent::Answer {
        id: 2,
        error: None,
        counters: Some(counters),
        inheritance: Some(Box::new(inheritance)),
    };
    assert_eq!(events.pop(), Some(expected));
    assert_eq!(new.ask(inherit("t")).await, [answered(3, None)]);
}

#[tokio::test]
async fn records_of_a_sandbox_that_was_removed_are_not_sent_again() {
    let proxy = proxy();
    let mut old = Engine::named(&proxy, "old").await;
    old.ask(set("s")).await;
    old.ask(set("t")).await;
    refused(&proxy, "a.test").await;
    let remove = ControlRequest::Remove {
        sandbox: "s".to_owned(),
    };
    assert_eq!(hosts(&old.ask(remove).await), ["a.test"]);
    let mut new = Engine::named(&proxy, "new").await;
    assert!(hosts(&new.ask(stats("t")).await).is_empty());
}

#[tokio::test]
async fn an_engine_that_does_not_introduce_itself_is_closed() {
    let proxy = proxy();
    for request in [set("s"), hello_of(CONTROL_VERSION + 1)] {
        let mut engine = Engine::connect(&proxy).await;
        let answer = engine.ask(request).await.pop();
        let Some(ControlEvent::Answer {
            id: 1,
            error: Some(_),
            ..
        }) = answer
        else {
            panic!("{answer:?}");
        };
        assert_eq!(engine.event().await, None);
    }
    assert_eq!(std::fs::read_dir(proxy.sockets()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_renewed_list_of_addresses_holds_at_once_for_old_and_new_connections() {
    let mut proxy = proxy();
    let mut kept_server = proxy.server_at("93.184.215.15", 9000).await;
    let mut server = proxy.server(9000).await;
    proxy.world.name("kept.example.org", &["93.184.215.15"]);
    proxy.world.name("cut.example.org", &[PUBLIC]);
    let mut engine = Engine::known(&proxy).await;
    for sandbox in ["s", "t"] {
        let wish = wish(sandbox, full());
        engine.ask(ControlRequest::Set(Box::new(wish))).await;
    }
    let mut kept = proxy.tunnel("s", "kept.example.org:9000").await;
    let mut kept_outside = kept_server.accept().await;
    let mut cut = [
        proxy.tunnel("s", "cut.example.org:9000").await,
        proxy.tunnel("t", &format!("{PUBLIC}:9000")).await,
    ];
    let _outside = [server.accept().await, server.accept().await];

    // The records come before the answer: when it is there, the connections are not.
    let mut events = engine.ask(denying(&["93.184.215.14/32"])).await;
    assert_eq!(events.pop(), Some(answered(4, None)));
    for event in &events {
        let ControlEvent::Connection { record, .. } = event else {
            panic!("{event:?}");
        };
        assert_eq!(record.reason, Some(DenialReason::PolicyChanged));
        assert_eq!(record.ip, Some(PUBLIC.parse().unwrap()));
    }
    assert_eq!(events.len(), 2);
    for client in &mut cut {
        assert!(rest(client).await.is_empty());
    }
    kept.write_all(b"still").await.unwrap();
    assert_eq!(exactly(&mut kept_outside, 5).await, "still");
    for host in ["cut.example.org", PUBLIC] {
        let request = connect(&format!("{host}:9000"));
        let mut client = proxy.request("s", &request).await;
        let answer = rest_text(&mut client).await;
        assert_denied(&answer, 403, DenialReason::PrivateAddress);
    }

    // The list takes the place of the one before.
    let mut events = engine.ask(denying(&["93.184.215.15/32"])).await;
    assert_eq!(events.pop(), Some(answered(5, None)));
    assert!(rest(&mut kept).await.is_empty());
    proxy.tunnel("s", "cut.example.org:9000").await;
}

#[tokio::test]
async fn a_renewed_list_from_another_version_ends_the_connection() {
    let proxy = proxy();
    let mut engine = Engine::known(&proxy).await;
    let answer = engine.ask(hello_of(CONTROL_VERSION + 1)).await.pop();
    assert!(matches!(
        answer,
        Some(ControlEvent::Answer { error: Some(_), .. })
    ));
    assert_eq!(engine.event().await, None);
}

#[tokio::test]
async fn what_is_not_understood_is_answered_and_what_is_no_line_ends_the_connection() {
    let proxy = proxy();
    let mut engine = Engine::known(&proxy).await;
    engine
        .send("{\"id\": 9, \"request\": {\"kind\": \"open\"}}\n")
        .await;
    let answer = engine.event().await;
    assert!(matches!(
        answer,
        Some(ControlEvent::Answer {
            id: 9,
            error: Some(_),
            ..
        })
    ));
    engine.next = 10;
    assert_eq!(engine.ask(set("s")).await, [answered(10, None)]);
    engine.send("no json\n").await;
    assert!(matches!(
        engine.event().await,
        Some(ControlEvent::Answer { id: 0, .. })
    ));
    assert_eq!(engine.event().await, None);

    let mut engine = Engine::known(&proxy).await;
    let long = "a".repeat(CONTROL_LINE_BYTES + 1);
    // It may be cut off while it writes.
    drop(engine.writer.write_all(long.as_bytes()).await);
    assert!(matches!(
        engine.event().await,
        Some(ControlEvent::Answer { id: 0, .. }) | None
    ));
}
