//! `cargo xtask attack`: hostile programs inside real sandboxes, and what became of each attempt.
//!
//! An attempt has succeeded when a listener outside heard of it, or when it came to anything else
//! than `attacks/` says it must. One that did not run counts as one that succeeded.

mod canaries;
mod crash;
mod crowd;
mod display;
mod events;
mod flows;
mod inputs;
mod judge;
mod outside;
mod page;
mod resolver;
mod scenes;
mod tables;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use self::outside::{Outside, remark};
use self::scenes::Stage;
use self::tables::Row;
use crate::build::{self, Built};
use crate::shell::{self, Failure};
use crate::{engine, images};

/// What may be gone from the machine afterwards, in bytes: others use it too.
const MOST_LOST: u64 = 2 * 1024 * 1024 * 1024;

/// How long the machine may take to be as before.
const RECOVERY: Duration = Duration::from_secs(120);
const AS_BEFORE: &str = "as before";

/// What was asked for on the command line.
#[derive(Debug, Default)]
struct Wanted {
    case: Option<u64>,
    binary: Option<PathBuf>,
}

/// Runs the suite and fails when an attack succeeded.
pub(crate) fn run(words: &[&str]) -> Result<(), Failure> {
    let wanted = read(words)?;
    let built = match wanted.binary {
        Some(binary) => Built {
            init: PathBuf::new(),
            egress: PathBuf::new(),
            binary,
        },
        None => {
            let built = build::all()?;
            engine::ensure(&built)?;
            images::ensure(&built)?;
            built
        }
    };
    with(&built, wanted.case)
}

fn read(words: &[&str]) -> Result<Wanted, Failure> {
    let mut wanted = Wanted::default();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let value = words.next();
        match (*word, value) {
            ("--case", Some(number)) => {
                let number = number
                    .parse()
                    .map_err(|_| Failure::new(format!("'{number}' is no case")))?;
                wanted.case = Some(number);
            }
            ("--engine", Some(&"docker")) => {}
            ("--binary", Some(path)) => wanted.binary = Some(PathBuf::from(path)),
            _ => {
                return Err(Failure::new(
                    "attack takes --case N, --engine docker and --binary PATH",
                ));
            }
        }
    }
    Ok(wanted)
}

/// Runs the suite with programs that are built already.
pub(crate) fn with(built: &Built, only: Option<u64>) -> Result<(), Failure> {
    let began = Instant::now();
    shell::step("attacking from inside of sandboxes");
    if let Some(only) = only
        && !is_case(only)?
    {
        return Err(Failure::new(format!(
            "no attempt belongs to case {only}; docs/security.md lists those that have some"
        )));
    }
    let outside = Outside::start()?;
    let mut stage = Stage::new(built, &outside.name, outside.parameters.clone())?;
    registries(&mut stage);
    let mut rows = inputs::rows(&stage, only)?;
    let before = machine();
    rows.extend(flows::rows(&stage, &outside, built, only)?);
    rows.push(health(&before));
    rows.push(last(&stage)?);
    let heard = outside.heard();
    mark(&mut rows, &heard, &outside);
    // Stable: within a case the order is that of the tables.
    rows.sort_by_key(|row| row.case);
    if only.is_none() {
        page::write(&rows)?;
    }
    let failed: Vec<&Row> = rows.iter().filter(|row| !row.passed).collect();
    for row in &failed {
        shell::say(&format!("  ✘ {row}"));
    }
    let passed = rows.len() - failed.len();
    shell::step(&format!("… took {} s", began.elapsed().as_secs()));
    shell::say(&format!("{passed} passed, {} failed", failed.len()));
    if failed.is_empty() {
        stage.clear();
        return Ok(());
    }
    let folder = stage.folder.display().to_string();
    Err(Failure::new(format!(
        "attacks succeeded or did not run; what they left is in {folder}"
    )))
}

/// Whether anything is tried for a case.
fn is_case(number: u64) -> Result<bool, Failure> {
    let mut attempts = tables::read("network.json")?;
    attempts.extend(tables::read("input.json")?);
    for scene in tables::read("scenes.json")? {
        attempts.extend(scene["attempts"].as_array().cloned().unwrap_or_default());
    }
    let is_told = [crash::CASE, crowd::CASE].contains(&number);
    Ok(is_told
        || attempts
            .iter()
            .any(|attempt| tables::case(attempt) == number))
}

/// Finds registries, whose hosts are the only ones that are reached in earnest.
fn registries(stage: &mut Stage) {
    let words = [
        "registries",
        "refresh",
        "--accept-addresses",
        "--format",
        "json",
    ];
    let text = match stage.command(&words).output() {
        Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
        Err(error) => {
            remark(&format!("registries were not found out: {error}"));
            String::new()
        }
    };
    let (registry, plain) = outside::registries(&text);
    if registry.is_none() || plain.is_none() {
        remark("no registry was found for TLS and for plain HTTP: attempts that need one fail");
    }
    stage.parameters["registry"] =
        json!(registry.unwrap_or_else(|| "no-registry.invalid".to_owned()));
    stage.parameters["plain"] = json!(plain.unwrap_or_else(|| "no-registry.invalid".to_owned()));
}

/// Free memory, free disk space and processes of this machine.
fn machine() -> [u64; 3] {
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = memory
        .lines()
        .find(|line| line.starts_with("MemAvailable:"));
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let available = number(available.and_then(|line| line.split_whitespace().nth(1))) * 1024;
    let disk = shell::read(Command::new("df").args(["--output=avail", "-B1", "/var/lib"]))
        .unwrap_or_default();
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let processes = load
        .split_whitespace()
        .nth(3)
        .and_then(|text| text.split('/').nth(1));
    [
        available,
        number(disk.lines().last().map(str::trim)),
        number(processes),
    ]
}

/// The machine's state; what others do on it, and what it does only later, has time to pass.
fn health(before: &[u64; 3]) -> Row {
    let until = Instant::now() + RECOVERY;
    let mut observed = compared(before, &machine());
    while observed != AS_BEFORE && Instant::now() < until {
        std::thread::sleep(RECOVERY / 24);
        observed = compared(before, &machine());
    }
    let attempt = json!({"case": 28, "name": "machine", "what": "the machine after all of this: memory, disk, processes, engine"});
    Row::new(&attempt, "", AS_BEFORE, &observed)
}

fn compared(before: &[u64; 3], after: &[u64; 3]) -> String {
    let [memory, disk, processes] =
        [0, 1, 2].map(|index| before[index].saturating_sub(after[index]));
    let more = after[2].saturating_sub(before[2]);
    if memory > MOST_LOST {
        format!("{memory} bytes of memory are gone")
    } else if disk > MOST_LOST {
        format!("{disk} bytes of disk are gone")
    } else if more > 300 {
        format!("{more} processes more, {processes} fewer")
    } else if outside::docker(&["version"]).is_err() {
        "the engine does not answer".to_owned()
    } else {
        AS_BEFORE.to_owned()
    }
}

fn last(stage: &Stage) -> Result<Row, Failure> {
    let attempt =
        json!({"case": 45, "name": "leftovers", "what": "objects on the engine after all of this"});
    Ok(Row::new(
        &attempt,
        "",
        "nothing is left",
        &events::leftovers(stage)?,
    ))
}

/// Whatever a listener heard is a success of the attempt whose words it has, or else of an unknown
/// one. Strangers who look for listeners have nothing to do with it.
fn mark(rows: &mut Vec<Row>, heard: &[String], outside: &Outside) {
    let mut unknown = Vec::new();
    for words in heard {
        let row = rows.iter_mut().find(|row| {
            let token = format!("attack {} {}", row.level, row.name);
            !row.level.is_empty() && words.trim_end().ends_with(&token)
        });
        match row {
            Some(row) => row.heard(words),
            None if is_stranger(words, outside) => remark(&format!("heard of a stranger: {words}")),
            None => unknown.push(words.as_str()),
        }
    }
    let attempt: Value = json!({"case": 1, "name": "canaries", "what": "listeners on this machine and on another network"});
    let observed = match unknown.as_slice() {
        [] => "heard nothing".to_owned(),
        [first, ..] => format!("heard {} times from nobody known: {first}", unknown.len()),
    };
    rows.push(Row::new(&attempt, "", "heard nothing", &observed));
}

/// Whether words that name no attempt come from an address that no sandbox and not this machine has.
fn is_stranger(words: &str, outside: &Outside) -> bool {
    let is_foreign = |peer: SocketAddr| !outside.may_be_ours(peer.ip());
    !words.contains("attack ") && peer(words).is_some_and(is_foreign)
}

/// Whom a listener on this machine heard; it says nothing of that for those on other networks.
fn peer(words: &str) -> Option<SocketAddr> {
    let (_, rest) = words.split_once(" from ")?;
    rest.split_once(": ")?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_this_machine_says_whom_it_heard() {
        for (words, port) in [
            ("TCP from 192.0.2.7:4711: hello", 4711),
            ("UDP from [::ffff:192.0.2.7]:53: ", 53),
        ] {
            assert_eq!(peer(words).map(|peer| peer.port()), Some(port), "{words}");
        }
        for words in [
            "on the other network, tcp 192.0.2.7 hello",
            "abstract socket: x from y: z",
        ] {
            assert_eq!(peer(words), None, "{words}");
        }
    }

    #[test]
    fn only_a_case_that_has_attempts_can_be_asked_for() {
        for case in (1..=54).filter(|case| *case != 20) {
            assert!(is_case(case).unwrap(), "{case}");
        }
        for case in [0, 20, 55, 99] {
            assert!(!is_case(case).unwrap(), "{case}");
        }
    }
}
