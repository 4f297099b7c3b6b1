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

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};

use self::outside::{Outside, remark};
use self::scenes::Stage;
use self::tables::Row;
use crate::build::{self, Built};
use crate::shell::{self, Failure};
use crate::{engine, images};

/// What may be gone from the machine afterwards, in bytes: others use it too.
const MOST_LOST: u64 = 2 * 1024 * 1024 * 1024;

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
    let outside = Outside::start()?;
    let mut stage = Stage::new(built, &outside.name, outside.parameters.clone())?;
    registries(&mut stage);
    let mut rows = inputs::rows(&stage, only)?;
    let before = machine();
    rows.extend(flows::rows(&stage, &outside, built, only)?);
    rows.push(health(&before, &machine()));
    rows.push(last(&stage)?);
    let heard = outside.heard();
    mark(&mut rows, &heard);
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

fn health(before: &[u64; 3], after: &[u64; 3]) -> Row {
    let [memory, disk, processes] =
        [0, 1, 2].map(|index| before[index].saturating_sub(after[index]));
    let more = after[2].saturating_sub(before[2]);
    let observed = if memory > MOST_LOST {
        format!("{memory} bytes of memory are gone")
    } else if disk > MOST_LOST {
        format!("{disk} bytes of disk are gone")
    } else if more > 300 {
        format!("{more} processes more, {processes} fewer")
    } else if outside::docker(&["version"]).is_err() {
        "the engine does not answer".to_owned()
    } else {
        "as before".to_owned()
    };
    let attempt = json!({"case": 28, "name": "machine", "what": "the machine after all of this: memory, disk, processes, engine"});
    Row::new(&attempt, "", "as before", &observed)
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
/// one.
fn mark(rows: &mut Vec<Row>, heard: &[String]) {
    let mut unknown = Vec::new();
    for words in heard {
        let row = rows.iter_mut().find(|row| {
            let token = format!("attack {} {}", row.level, row.name);
            !row.level.is_empty() && words.trim_end().ends_with(&token)
        });
        match row {
            Some(row) => row.heard(words),
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
