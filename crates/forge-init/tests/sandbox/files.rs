//! Files: in, out and away, with names and trees made to go wrong.

use crate::client::{Client, Sandbox, program, script};
use forge_wire::message::{Ending, TransferError, TransferLimits, TransferSummary};
use forge_wire::{Event, Request};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

/// A tar stream of a folder, made by the `tar` crate.
fn packed(folder: &Path) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    builder.follow_symlinks(false);
    builder.append_dir_all(".", folder).unwrap();
    builder.into_inner().unwrap()
}

fn done(event: &Event) -> TransferSummary {
    match event {
        Event::TransferDone { summary, .. } => *summary,
        other => panic!("{other:?}"),
    }
}

fn failed(event: &Event) -> (TransferError, &str) {
    match event {
        Event::TransferFailed { error, message, .. } => (*error, message),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_tree_with_odd_names_goes_in_and_comes_back() {
    let (sandbox, mut client) = Sandbox::claimed();
    let from = tempfile::tempdir().unwrap();
    let long = "l".repeat(255);
    let names: [&[u8]; 6] = [
        b"new\nline",
        b"bad-\xff-utf8",
        b"-rf",
        b" ",
        b"...",
        long.as_bytes(),
    ];
    for name in names {
        std::fs::write(from.path().join(OsStr::from_bytes(name)), name).unwrap();
    }
    let deep = from.path().join(vec!["deep"; 300].join("/"));
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::write(deep.join("bottom"), vec![9; 3_000_000]).unwrap();
    symlink("../../etc/passwd", from.path().join("link")).unwrap();
    std::fs::create_dir(from.path().join("empty")).unwrap();

    let into = done(&client.put("/workspace", &packed(from.path())));
    assert_eq!(
        into.bytes,
        3_000_000 + names.iter().map(|name| name.len() as u64).sum::<u64>()
    );
    let (stream, event) = client.get("/workspace");
    assert_eq!(done(&event), into);

    let back = tempfile::tempdir().unwrap();
    tar::Archive::new(stream.as_slice())
        .unpack(back.path())
        .unwrap();
    for name in names {
        let path = back.path().join(OsStr::from_bytes(name));
        assert_eq!(std::fs::read(path).unwrap(), name);
    }
    let bottom = back.path().join(vec!["deep"; 300].join("/")).join("bottom");
    assert_eq!(std::fs::read(bottom).unwrap(), vec![9; 3_000_000]);
    let link = std::fs::read_link(back.path().join("link")).unwrap();
    assert_eq!(link, Path::new("../../etc/passwd"));
    assert!(back.path().join("empty").is_dir());

    // A tree deeper than any name may be long, made and removed inside.
    let text = "i=0; while [ $i -lt 1200 ]; do mkdir d && cd d || exit 1; i=$((i+1)); done";
    assert_eq!(client.run(&script(text)).report.ending, Ending::Exited(0));
    let (_, event) = client.get("/workspace/d");
    assert_eq!(done(&event).entries, 1199);
    assert_eq!(client.remove("/workspace/d"), None);
    assert!(!sandbox.path("/workspace/d").exists());
}

fn archive(entries: &[(tar::EntryType, &str, &str)]) -> Vec<u8> {
    let mut stream = Vec::new();
    for (kind, name, target) in entries {
        let mut header = tar::Header::new_gnu();
        let fields = header.as_gnu_mut().unwrap();
        fields.name[..name.len()].copy_from_slice(name.as_bytes());
        fields.linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o644);
        header.set_size(0);
        header.set_cksum();
        stream.extend_from_slice(header.as_bytes());
    }
    stream.resize(stream.len() + 1024, 0);
    stream
}

#[test]
fn entries_that_lead_out_of_their_folder_are_refused() {
    use tar::EntryType::{Link, Regular, Symlink};
    let (sandbox, mut client) = Sandbox::claimed();
    client.run(&script("mkdir in; ln -s /tmp in/out; echo secret > secret"));
    for entries in [
        &[(Regular, "../up", "")][..],
        &[(Regular, "/tmp/absolute", "")],
        &[(Regular, "out/file", "")],
        &[(Symlink, "new", "/tmp"), (Regular, "new/file", "")],
        &[(Link, "hard", "../secret")],
    ] {
        let event = client.put("/workspace/in", &archive(entries));
        assert_eq!(failed(&event).0, TransferError::Malformed, "{entries:?}");
    }
    let event = client.put("/workspace/in/out", &archive(&[]));
    assert_eq!(failed(&event).0, TransferError::Io);
    let event = client.put("/workspace/nowhere", &archive(&[]));
    assert_eq!(failed(&event).0, TransferError::NotFound);
    assert_eq!(std::fs::read_dir(sandbox.path("/tmp")).unwrap().count(), 0);
    assert!(!sandbox.path("/workspace/up").exists());
    // A failed upload leaves the channel as it was.
    done(&client.put("/workspace/in", &archive(&[(Regular, "good", "")])));
}

#[test]
fn a_removal_never_follows_a_link() {
    let (sandbox, mut client) = Sandbox::claimed();
    let text = "mkdir -p /tmp/kept tree/closed; touch /tmp/kept/file tree/closed/file; \
                ln -s /tmp/kept tree/link; ln -s /tmp/kept top; chmod 0 tree/closed";
    client.run(&script(text));
    assert!(client.remove("/workspace/top/file").is_some());
    assert!(client.remove("/workspace").is_some());
    assert!(client.remove("/workspace/../tmp/kept").is_some());
    assert!(client.remove("/tmp/kept").is_some());
    assert_eq!(client.remove("/workspace/tree"), None);
    assert_eq!(client.remove("/workspace/top"), None);
    assert_eq!(client.remove("/workspace/never-there"), None);
    assert!(sandbox.path("/tmp/kept/file").exists());
    assert_eq!(
        std::fs::read_dir(sandbox.path("/workspace"))
            .unwrap()
            .count(),
        0
    );
}

fn contents(stream: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(stream);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_str().unwrap().to_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        (name, bytes)
    });
    entries.collect()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_task_that_closes_its_folders_keeps_nothing_from_us() {
    use tar::EntryType::{Link, Regular};
    let (sandbox, mut client) = Sandbox::claimed();
    let text = "mkdir -p output a/b/tests/closed; touch a/b/tests/closed/x a/b/old output/result";
    client.run(&script(text));
    for closed in ["0", "444", "555", "666"] {
        let close = format!(
            "mkdir -p a/b/tests/closed; touch a/b/tests/closed/x; \
             for folder in a/b/tests/closed a/b/tests a/b a output .; \
             do chmod {closed} $folder || exit 1; done"
        );
        let close = client.run(&script(&close));
        assert_eq!(close.report.ending, Ending::Exited(0), "{closed}");
        assert_eq!(client.remove("/workspace/a/b/tests"), None, "{closed}");
        assert!(!sandbox.path("/workspace/a/b/tests").exists());
        assert_eq!(mode(&sandbox.path("/workspace")), 0o755);
        assert_eq!(mode(&sandbox.path("/workspace/output")), 0o755);

        client.run(&script(&format!(
            "chmod {closed} a/b; chmod {closed} a output ."
        )));
        let entries = [(Regular, "a/b/tests/new", ""), (Link, "a/b/l", "a/b/old")];
        done(&client.put("/workspace", &archive(&entries)));
        assert!(sandbox.path("/workspace/a/b/tests/new").exists());

        client.run(&script(&format!(
            "chmod {closed} a/b; chmod {closed} a output ."
        )));
        done(&client.put("/workspace/a/b", &archive(&[(Regular, "old", "")])));

        client.run(&script(&format!("chmod {closed} output/result output .")));
        let (stream, event) = client.get("/workspace/output");
        assert_eq!(done(&event).entries, 1, "{closed}");
        assert!(contents(&stream).contains_key("result"));
    }
}

#[test]
fn what_cannot_be_read_is_left_out_and_the_others_come() {
    let (sandbox, mut client) = Sandbox::claimed();
    let text = "mkdir closed unsearchable; echo 1 > closed/in; echo 2 > unsearchable/in; \
                ln -s in unsearchable/link; echo 3 > mine; echo 4 > other; \
                chmod 0 closed mine; chmod 600 unsearchable";
    client.run(&script(text));
    // Of another user, so that no right to it can be taken back.
    std::fs::write(sandbox.path("/workspace/foreign"), "5").unwrap();
    std::fs::create_dir(sandbox.path("/workspace/strange")).unwrap();
    for name in ["/workspace/foreign", "/workspace/strange"] {
        let closed = std::fs::Permissions::from_mode(0o0);
        std::fs::set_permissions(sandbox.path(name), closed).unwrap();
    }
    let (stream, event) = client.get("/workspace");
    let summary = done(&event);
    let contents = contents(&stream);
    for (name, bytes) in [
        ("closed/in", "1\n"),
        ("unsearchable/in", "2\n"),
        ("unsearchable/link", ""),
        ("mine", "3\n"),
        ("other", "4\n"),
    ] {
        assert_eq!(contents[name], bytes.as_bytes(), "{name}");
    }
    assert_eq!(
        (contents.len(), summary.entries, summary.skipped),
        (7, 7, 2)
    );
    // One file asked for by its name is no different.
    let (_, event) = client.get("/workspace/foreign");
    assert_eq!((done(&event).entries, done(&event).skipped), (0, 1));
}

fn get_with(client: &mut Client, path: &str, limits: TransferLimits) -> Event {
    let transfer = client.id();
    client.send(&Request::Get {
        transfer,
        path: path.into(),
        limits,
    });
    client.wait_for(|event| match event {
        Event::TransferDone { .. } | Event::TransferFailed { .. } => Some(event.clone()),
        _ => None,
    })
}

#[test]
fn limits_of_a_download_are_told_before_anything_is_read() {
    let (_sandbox, mut client) = Sandbox::claimed();
    client.run(&script(
        "truncate -s 900G sparse; mkdir many; touch many/1 many/2 many/3",
    ));
    let limits = TransferLimits {
        bytes: 1 << 20,
        entries: 2,
    };
    let event = get_with(&mut client, "/workspace/sparse", limits);
    let (error, message) = failed(&event);
    assert_eq!(error, TransferError::Limit);
    assert!(message.contains("sparse"), "{message}");
    let event = get_with(&mut client, "/workspace/many", limits);
    assert_eq!(failed(&event).0, TransferError::Limit);
    let event = get_with(&mut client, "/workspace/none", limits);
    assert_eq!(failed(&event).0, TransferError::NotFound);
}

#[test]
fn a_cancelled_transfer_ends_and_the_next_one_works() {
    let (sandbox, mut client) = Sandbox::claimed();
    client.run(&script("head -c 50000000 /dev/zero > big"));
    // Nothing of it is acknowledged, so it waits for the client when it is cancelled.
    let transfer = client.id();
    client.send(&Request::Get {
        transfer,
        path: "/workspace/big".into(),
        limits: crate::client::LIMITS,
    });
    client.send(&Request::TransferCancel { transfer });
    let end = |event: &Event| match event {
        Event::TransferFailed { error, .. } => Some(*error),
        _ => None,
    };
    assert_eq!(client.wait_for(end), TransferError::Cancelled);
    // So is an upload whose end never comes, also by the loss of its client.
    let transfer = client.id();
    client.send(&Request::Put {
        transfer,
        directory: "/workspace".into(),
        limits: crate::client::LIMITS,
    });
    drop(client);
    let mut client = sandbox.reconnect();
    let (stream, event) = client.get("/workspace/big");
    assert_eq!(done(&event).bytes, 50_000_000);
    assert!(stream.len() > 50_000_000);
}

#[test]
fn an_upload_past_its_window_ends_the_connection() {
    use forge_wire::frame::Lane;
    let (sandbox, mut client) = Sandbox::claimed();
    client.run(&program(&["mkfifo", "/workspace/pipe"]));
    let transfer = client.id();
    client.send(&Request::Put {
        transfer,
        directory: "/workspace".into(),
        limits: crate::client::LIMITS,
    });
    client.send_data(transfer, Lane::Upload, 1, b"not at the start");
    assert_eq!(client.receive(), None);
    sandbox.reconnect().ping();
}
