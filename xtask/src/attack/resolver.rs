//! The proxy alone with a resolver that lies, in a container without a network.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::outside::docker;
use super::scenes::Scene;
use super::tables::{self, LEVELS, Row, text};
use crate::build::Built;
use crate::shell::Failure;

/// The program of the proxy: as it was built, or beside the binary that is tried.
pub(super) fn program(built: &Built) -> PathBuf {
    if built.egress.is_file() {
        return built.egress.clone();
    }
    let beside = built.binary.with_file_name("forge-egress");
    if beside.is_file() {
        return beside;
    }
    let target = built.binary.ancestors().nth(2).unwrap_or(Path::new("/"));
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    target.join(triple).join("release/forge-egress")
}

/// The rows of the scene at each level below which there is a proxy.
pub(super) fn rows(scene: &Scene, proxy: &Path) -> Vec<Row> {
    let said = run(proxy);
    let failure = said.as_ref().err().map(ToString::to_string);
    let results: Vec<Value> = said
        .unwrap_or_default()
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let mut rows = Vec::new();
    for attempt in &scene.attempts {
        for level in &LEVELS[1..] {
            let Some(expected) = tables::expected(attempt, level) else {
                continue;
            };
            let found = results.iter().find(|result| {
                result["level"] == *level && text(result, "attempt") == text(attempt, "name")
            });
            let why = failure.as_deref().unwrap_or("it said nothing");
            rows.push(match found {
                Some(result) => Row::new(attempt, level, expected, text(result, "outcome")),
                None => Row::missing(attempt, level, expected, why),
            });
        }
    }
    rows
}

fn run(proxy: &Path) -> Result<String, Failure> {
    let programs = format!("{}:/attacks:ro", tables::folder().display());
    let proxy = format!("{}:/forge-egress:ro", proxy.display());
    docker(&[
        "run",
        "--rm",
        "--label",
        "swe-forge.owner=attack-suite",
        "--network",
        "none",
        "--cap-add",
        "NET_ADMIN",
        "--sysctl",
        "net.ipv6.conf.all.disable_ipv6=0",
        "--env",
        "PYTHONDONTWRITEBYTECODE=1",
        "--volume",
        &programs,
        "--volume",
        &proxy,
        "--entrypoint",
        "python3",
        "swe-forge/python-base:latest",
        "/attacks/names.py",
    ])
}
