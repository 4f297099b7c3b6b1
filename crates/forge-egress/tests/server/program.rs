//! The program itself.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use forge_api::egress::HostAddresses;
use forge_core::egress::{DenialReason, EgressPolicy};
use forge_egress::server::socket_path;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use crate::support::*;

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forge-egress"));
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

async fn serving(folder: &Path) -> Child {
    let mut child = program()
        .arg("serve")
        .arg("--sockets")
        .arg(folder.join("sockets"))
        .arg("--control")
        .arg(folder.join("control"))
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("ready"));
    child
}

#[tokio::test]
async fn it_is_driven_through_its_relay_and_ends_when_it_is_told_to() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = serving(folder.path()).await;
    let control = folder.path().join("control");
    let mode = std::fs::metadata(&control).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let relay = || {
        program()
            .arg("control")
            .arg("--control")
            .arg(&control)
            .spawn()
            .unwrap()
    };
    let mut first = relay();
    let mut input = first.stdin.take().unwrap();
    let mut lines = BufReader::new(first.stdout.take().unwrap()).lines();
    let hello = "{\"id\":1,\"request\":{\"kind\":\"hello\",\"version\":2,\"denied\":[],\"engine\":\"e\"}}\n";
    input.write_all(hello.as_bytes()).await.unwrap();
    let answer = "{\"kind\":\"answer\",\"id\":1}";
    assert_eq!(lines.next_line().await.unwrap().as_deref(), Some(answer));
    let wish = serde_json::to_value(wish("s", EgressPolicy::isolated())).unwrap();
    let mut request = serde_json::json!({"id": 2, "request": {"kind": "set"}});
    let fields = request["request"].as_object_mut().unwrap();
    fields.extend(wish.as_object().unwrap().clone());
    input
        .write_all(format!("{request}\n").as_bytes())
        .await
        .unwrap();
    let answer = "{\"kind\":\"answer\",\"id\":2}";
    assert_eq!(lines.next_line().await.unwrap().as_deref(), Some(answer));
    drop(input);
    assert!(first.wait().await.unwrap().success());

    let socket = socket_path(&folder.path().join("sockets"), &directory("s"));
    let mut client = UnixStream::connect(&socket).await.unwrap();
    client
        .write_all(connect("example.org:443").as_bytes())
        .await
        .unwrap();
    assert_denied(&rest_text(&mut client).await, 403, DenialReason::Isolated);

    let mut second = relay();
    let pid = nix::unistd::Pid::from_raw(child.id().unwrap().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(child.wait().await.unwrap().success());
    assert!(!socket.exists() && !control.exists());
    second.wait().await.unwrap();
}

#[tokio::test]
async fn it_prints_the_addresses_of_the_network_it_runs_in() {
    let output = program().arg("addresses").output().await.unwrap();
    assert!(output.status.success() && output.stderr.is_empty());
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 1);
    assert!(text.starts_with("{\"addresses\":[\"") && text.ends_with("\"]}\n"));
    let found: HostAddresses = serde_json::from_str(&text).unwrap();
    assert!(found.addresses.contains(&"127.0.0.1".parse().unwrap()));
    assert!(found.addresses.is_sorted());
}

#[tokio::test]
async fn arguments_that_make_no_sense_are_refused() {
    for arguments in [
        &["serve"][..],
        &["control"],
        &["addresses", "--control", "a"],
        &["serve", "--control", "a"],
        &[],
        &["x"],
    ] {
        let status = program().args(arguments).status().await.unwrap();
        assert_eq!(status.code(), Some(2), "{arguments:?}");
    }
    let status = program()
        .args(["control", "--control", "/absent/socket"])
        .status();
    assert_eq!(status.await.unwrap().code(), Some(1));
}
