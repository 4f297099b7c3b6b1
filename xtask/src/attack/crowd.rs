//! Many sandboxes at once, most of them isolated: none has or learns anything of another.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::events::{count_said, cue};
use super::judge::Left;
use super::outside::docker;
use super::scenes::{Scene, Stage};
use super::tables::Row;

/// The case of its rows.
pub(super) const CASE: u64 = 54;
/// Sandboxes without a network.
const ISOLATED: usize = 64;
/// Sandboxes with one.
const NETWORKED: usize = 8;
/// How many are told at once that all were there.
const TOLD_AT_ONCE: usize = 8;
/// Hexadecimal digits of 128 bits.
const DIGITS: usize = 32;

fn scenes() -> Vec<Scene> {
    let scene = |number: usize| {
        let is_networked = number < NETWORKED;
        let name = format!("crowd-{}{number}", if is_networked { "open-" } else { "" });
        let mut entry = json!({
            "name": name,
            "group": "crowd",
            "solve": format!("exec python3 src/crowd.py {name}"),
            "container": "same",
            "resources": {"memory_mb": 64, "processes": 8, "cpu_cores": 0.25, "timeout_seconds": 600},
        });
        if is_networked {
            entry["network"] = json!({"solve": "package_only"});
        }
        Scene {
            entry,
            attempts: Vec::new(),
            level: String::new(),
        }
    };
    (0..ISOLATED + NETWORKED).map(scene).collect()
}

/// The rows of the crowd.
pub(super) fn rows(stage: &Stage) -> Vec<Row> {
    let scenes = scenes();
    let all: Vec<&Scene> = scenes.iter().collect();
    // None goes before it is told that all are there.
    let (mut most, mut is_told) = (0, false);
    let left = stage.run(&all, all.len(), |pid, out| {
        if !is_told && count_said(out, "here") == all.len() {
            let running = running(pid);
            most = most.max(running.len());
            is_told = tell(&running);
        }
    });
    let left = match left {
        Ok(Some(folder)) => Left::read(folder),
        Ok(None) => return Vec::new(),
        Err(failure) => return vec![row("crowd", &failure.to_string())],
    };
    let results: Vec<Value> = scenes
        .iter()
        .filter_map(|scene| left.result(&scene.id()))
        .collect();
    super::outside::remark(&format!(
        "a crowd of {}, {most} of them at once",
        results.len()
    ));
    vec![
        row("crowd", &alone(&results)),
        row("crowd-folders", &folders(&results)),
        row("crowd-logs", &logs(&left, &scenes)),
        row("crowd-at-once", &most.to_string()),
    ]
}

fn row(name: &str, observed: &str) -> Row {
    let (what, expected) = match name {
        "crowd" => (
            "64 isolated sandboxes and 8 with a network at once: each looks for others",
            "each is alone",
        ),
        "crowd-folders" => (
            "the names and sockets of the 8 folders: all differ, none can be guessed",
            "each its own",
        ),
        "crowd-logs" => (
            "what each of the 8 asked for stands in its own log only",
            "each its own",
        ),
        _ => ("how many sandboxes were there at once", "72"),
    };
    let attempt = json!({"case": CASE, "name": name, "what": what});
    Row::new(&attempt, "", expected, observed)
}

/// Tells all of them; whether each was.
fn tell(containers: &[String]) -> bool {
    containers.chunks(TOLD_AT_ONCE).all(|some| {
        std::thread::scope(|scope| {
            let told: Vec<_> = some
                .iter()
                .map(|container| scope.spawn(|| cue(container)))
                .collect();
            told.into_iter().all(|told| told.join().unwrap_or(false))
        })
    })
}

fn running(pid: u32) -> Vec<String> {
    let words = [
        "ps",
        "--filter",
        "label=swe-forge.role=task",
        "--format",
        "{{.Names}} {{.Label \"swe-forge.holder\"}}",
    ];
    let part = format!(":{pid}:");
    let listing = docker(&words).unwrap_or_default();
    let ours = listing.lines().filter(|line| line.contains(&part));
    ours.filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .collect()
}

fn alone(results: &[Value]) -> String {
    if results.len() < ISOLATED + NETWORKED {
        return format!("{} came through", results.len());
    }
    let other = results.iter().find(|result| result["outcome"] != "alone");
    other.map_or_else(|| "each is alone".to_owned(), Value::to_string)
}

fn folders(results: &[Value]) -> String {
    let folders: Vec<&str> = results
        .iter()
        .filter_map(|result| result["folder"].as_str())
        .filter(|name| !name.is_empty())
        .collect();
    let inodes: BTreeSet<u64> = results
        .iter()
        .filter_map(|result| result["inode"].as_u64())
        .filter(|inode| *inode > 0)
        .collect();
    let different: BTreeSet<&str> = folders.iter().copied().collect();
    let beginnings: BTreeSet<&str> = folders.iter().filter_map(|name| name.get(..8)).collect();
    let is_long = folders
        .iter()
        .all(|name| name.len() >= DIGITS && name.bytes().all(|byte| byte.is_ascii_hexdigit()));
    if is_long
        && [
            folders.len(),
            different.len(),
            beginnings.len(),
            inodes.len(),
        ] == [NETWORKED; 4]
    {
        "each its own".to_owned()
    } else {
        format!("{folders:?}, {inodes:?}")
    }
}

fn logs(left: &Left, scenes: &[Scene]) -> String {
    for scene in &scenes[..NETWORKED] {
        let own = format!("{}.attack.test", scene.id());
        let hosts = left.hosts(&scene.id());
        if hosts.is_empty() {
            return format!("{} has no log", scene.id());
        }
        if let Some(other) = hosts.iter().find(|host| **host != own) {
            return format!("{} has {other}", scene.id());
        }
    }
    // Isolated ones have no log at all.
    for scene in &scenes[NETWORKED..] {
        if !left.hosts(&scene.id()).is_empty() {
            return format!("{} has a log", scene.id());
        }
    }
    "each its own".to_owned()
}
