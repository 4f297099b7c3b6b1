//! Names and archives made to go wrong.

use tar::EntryType;

use super::files::{Archive, Content, Contents, Entry, put};
use super::scene::{Scene, WIDE};
use super::{Act, Failure};
use crate::error::EngineErrorKind;

/// Names of files that mean something to a shell, a terminal, or a careless program.
const NAMES: [&str; 13] = [
    " ",
    "a b",
    "-rf",
    "--help",
    "$(exit 1)",
    "`exit 1`",
    "'single' \"double\"",
    "new\nline",
    "tab\tand \u{1b}[31mred",
    "back\\slash",
    "*?[a-z]",
    "...",
    "ümläut 漢字 🦀",
];

pub(super) async fn names_that_a_shell_would_stumble_over_are_only_names(
    scene: &Scene,
) -> Result<(), Failure> {
    let made = scene.sandbox().await?;
    let sandbox = &*made.sandbox;
    let arguments: Vec<String> = NAMES.iter().map(|&name| name.to_owned()).collect();
    let wrote = scene.done(sandbox, &Act::Arguments(arguments)).await?;
    let expected = NAMES.map(|name| format!("{name}\0")).concat();
    ensure!(
        wrote == expected.as_bytes(),
        "the arguments came as {:?}",
        String::from_utf8_lossy(&wrote)
    );
    let odd: [&[u8]; 3] = [b"\xff\xfe", b"caf\xe9", b"\x01\x7f"];
    let names = NAMES.iter().map(|name| name.as_bytes()).chain(odd);
    let inside: Vec<Vec<u8>> = names.map(|name| [b"output/", name].concat()).collect();
    let entries: Vec<_> = inside.iter().map(|name| Entry::file(name, name)).collect();
    let into = put(sandbox, "/workspace", &Archive::new(&entries), WIDE).await;
    ensure!(into.is_ok(), "they were refused: {into:?}");
    for name in NAMES {
        let path = format!("output/{name}");
        let shown = scene.done(sandbox, &Act::Show(path.clone())).await?;
        ensure!(shown == path.as_bytes(), "{path:?} holds {shown:?}");
    }
    let out = Archive::get(sandbox, "/workspace/output", WIDE).await?;
    let expected: Contents = inside
        .iter()
        .map(|name| {
            let short = name.strip_prefix(b"output/").unwrap_or(name);
            (short.to_vec(), Content::File(name.clone()))
        })
        .collect();
    let out = out.0.entries()?;
    ensure!(out == expected, "they came back as {:?}", out.keys());
    for name in NAMES {
        sandbox.remove(&format!("/workspace/output/{name}")).await?;
    }
    let left = Archive::get(sandbox, "/workspace/output", WIDE).await?;
    let left = left.0.entries()?.len();
    ensure!(left == odd.len(), "{left} are left");
    scene.remove(made.id()).await?;
    Ok(())
}

pub(super) async fn an_archive_cannot_leave_its_folder(scene: &Scene) -> Result<(), Failure> {
    let made = scene.sandbox().await?;
    let sandbox = &*made.sandbox;
    let prepared = Archive::new(&[
        Entry::folder(b"in/"),
        Entry::file(b"secret", b"secret"),
        Entry::link(b"in/door", b"/tmp"),
    ]);
    let into = put(sandbox, "/workspace", &prepared, WIDE).await;
    ensure!(into.is_ok(), "the folder was refused: {into:?}");
    let hard = EntryType::Link;
    for entries in [
        &[Entry::file(b"../up", b"x")][..],
        &[Entry::file(b"sub/../../up", b"x")],
        &[Entry::file(b"/workspace/up", b"x")],
        &[Entry::file(b"door/file", b"x")],
        &[
            Entry::link(b"new", b"/workspace"),
            Entry::file(b"new/up", b"x"),
        ],
        &[Entry::of(hard, b"hard", b"../secret", b"")],
        &[Entry::of(hard, b"hard", b"/etc/passwd", b"")],
        &[Entry::of(hard, b"hard", b"door", b"")],
        &[Entry::link(b"nothing", b"")],
    ] {
        let refused = put(sandbox, "/workspace/in", &Archive::new(entries), WIDE).await;
        ensure!(
            refused == Err(EngineErrorKind::Corrupt),
            "{entries:?} gave {refused:?}"
        );
    }
    let up = Archive::get(sandbox, "/workspace/up", WIDE).await;
    let up = up.err().map(|error| error.kind);
    ensure!(up == Some(EngineErrorKind::NotFound), "one got out: {up:?}");
    // What has no place in a workspace is left out and told.
    let devices = Archive::new(&[
        Entry::of(EntryType::Char, b"device", b"", b""),
        Entry::of(EntryType::Block, b"disk", b"", b""),
        Entry::of(EntryType::Fifo, b"pipe", b"", b""),
        Entry::file(b"plain", b"plain"),
    ]);
    let summary = put(sandbox, "/workspace/in", &devices, WIDE).await;
    let told = summary.is_ok_and(|summary| summary.skipped == 3 && summary.entries == 1);
    ensure!(told, "devices gave {summary:?}");
    for (directory, kind) in [
        ("/workspace/nowhere", EngineErrorKind::NotFound),
        ("/workspace/secret", EngineErrorKind::Internal),
        ("/workspace/in/door", EngineErrorKind::Internal),
    ] {
        let refused = put(sandbox, directory, &devices, WIDE).await;
        ensure!(refused == Err(kind), "{directory} gave {refused:?}");
    }
    scene.remove(made.id()).await?;
    Ok(())
}
