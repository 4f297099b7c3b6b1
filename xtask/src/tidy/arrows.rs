//! Arrows between crates point down, and the lower crates stay free of heavy libraries.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::Value;

/// The layers of ARCHITECTURE.md, lowest first. A crate may depend on lower layers only.
const LAYERS: [(&str, u8); 20] = [
    ("forge-core", 0),
    ("forge-document", 0),
    ("forge-wire", 0),
    ("forge-init", 1),
    ("forge-api", 1),
    ("forge-config", 1),
    ("forge-engine", 1),
    ("forge-plan", 1),
    ("forge-task", 1),
    ("forge-egress", 2),
    ("forge-engine-docker", 2),
    ("forge-images", 2),
    ("forge-registries", 2),
    ("forge-store", 2),
    ("forge-orchestrator", 3),
    ("forge-cli", 4),
    ("swe-forge", 5),
    ("forge-bench", 6),
    ("forge-tests", 6),
    ("xtask", 6),
];

/// `forge-init` runs inside sandboxes and shares nothing but the protocol.
const INIT: &str = "forge-init";
const WIRE: &str = "forge-wire";
/// Crates that name concrete engines.
const ENGINES: [&str; 1] = ["forge-engine-docker"];
const MAY_NAME_ENGINES: [&str; 3] = ["swe-forge", "forge-bench", "forge-tests"];
/// Crates whose whole dependency tree must stay free of [`HEAVY`].
const LIGHT: [&str; 7] = [
    "forge-core",
    "forge-document",
    "forge-wire",
    "forge-plan",
    "forge-api",
    "forge-task",
    "forge-init",
];
const HEAVY: [&str; 6] = ["tokio", "axum", "hyper", "bollard", "kube", "rusqlite"];
/// Nothing in the workspace may bring these.
const BANNED: [&str; 5] = [
    "openssl-sys",
    "native-tls",
    "aws-lc-sys",
    "serde_yaml",
    "chrono",
];

pub(super) fn check(metadata: &Value) -> Vec<String> {
    let graph = Graph::new(metadata);
    let layers: BTreeMap<&str, u8> = LAYERS.into_iter().collect();
    let mut findings = Vec::new();
    for (name, dependencies) in &graph.members {
        let Some(layer) = layers.get(name.as_str()) else {
            findings.push(format!(
                "crate {name} has no layer in xtask/src/tidy/arrows.rs"
            ));
            continue;
        };
        for dependency in dependencies {
            let Some(lower) = layers.get(dependency.as_str()) else {
                continue;
            };
            if lower >= layer {
                findings.push(format!("{name} (layer {layer}) points up to {dependency}"));
            }
            if name == INIT && dependency != WIRE {
                findings.push(format!("{INIT} may use {WIRE} only, not {dependency}"));
            }
            if ENGINES.contains(&dependency.as_str()) && !MAY_NAME_ENGINES.contains(&name.as_str())
            {
                findings.push(format!("{name} names the engine {dependency}"));
            }
        }
    }
    for light in LIGHT {
        let tree = graph.tree(light);
        let heavy = HEAVY.iter().filter(|heavy| tree.contains(**heavy));
        findings.extend(heavy.map(|heavy| format!("{light} must not bring {heavy}")));
    }
    let banned = BANNED
        .iter()
        .filter(|banned| graph.packages.contains(**banned));
    findings.extend(banned.map(|banned| format!("{banned} is banned, see deny.toml")));
    findings
}

struct Graph {
    /// Workspace members and the members each uses, dependencies of tests left out.
    members: BTreeMap<String, BTreeSet<String>>,
    /// Edges between all packages by name, dependencies of tests left out.
    edges: BTreeMap<String, BTreeSet<String>>,
    packages: BTreeSet<String>,
}

impl Graph {
    fn new(metadata: &Value) -> Self {
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let packages = list(&metadata["packages"]);
        let names: BTreeMap<String, String> = packages
            .iter()
            .map(|each| (text(&each["id"]), text(&each["name"])))
            .collect();
        let mut edges = BTreeMap::<String, BTreeSet<String>>::new();
        for node in list(&metadata["resolve"]["nodes"]) {
            let from = names.get(&text(&node["id"])).cloned().unwrap_or_default();
            let normal = list(&node["deps"]).into_iter().filter(|dependency| {
                list(&dependency["dep_kinds"])
                    .iter()
                    .any(|kind| kind["kind"] != "dev")
            });
            let to = normal.filter_map(|dependency| names.get(&text(&dependency["pkg"])).cloned());
            edges.entry(from).or_default().extend(to);
        }
        let members: BTreeSet<String> = list(&metadata["workspace_members"])
            .iter()
            .filter_map(|id| names.get(&text(id)).cloned())
            .collect();
        let members = members
            .iter()
            .map(|member| {
                let used = edges.get(member).into_iter().flatten();
                (
                    member.clone(),
                    used.filter(|each| members.contains(*each))
                        .cloned()
                        .collect(),
                )
            })
            .collect();
        Self {
            members,
            edges,
            packages: names.into_values().collect(),
        }
    }

    /// Everything `root` brings.
    fn tree(&self, root: &str) -> BTreeSet<String> {
        let mut seen = BTreeSet::new();
        let mut pending = VecDeque::from([root.to_owned()]);
        while let Some(name) = pending.pop_front() {
            for next in self.edges.get(&name).into_iter().flatten() {
                if seen.insert(next.clone()) {
                    pending.push_back(next.clone());
                }
            }
        }
        seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn metadata(edges: &[(&str, &str)]) -> Value {
        let names: BTreeSet<&str> = edges.iter().flat_map(|(from, to)| [*from, *to]).collect();
        let nodes: Vec<Value> = names
            .iter()
            .map(|name| {
                let deps: Vec<Value> = edges
                    .iter()
                    .filter(|(from, _)| from == name)
                    .map(|(_, to)| json!({"pkg": to, "dep_kinds": [{"kind": null}]}))
                    .collect();
                json!({"id": name, "deps": deps})
            })
            .collect();
        let packages: Vec<Value> = names
            .iter()
            .map(|name| json!({"id": name, "name": name}))
            .collect();
        let members: Vec<&&str> = names
            .iter()
            .filter(|name| name.starts_with("forge-"))
            .collect();
        json!({"packages": packages, "workspace_members": members, "resolve": {"nodes": nodes}})
    }

    #[test]
    fn an_arrow_that_points_up_is_found() {
        let found = check(&metadata(&[("forge-core", "forge-orchestrator")]));
        assert_eq!(
            found,
            ["forge-core (layer 0) points up to forge-orchestrator"]
        );
        assert!(check(&metadata(&[("forge-orchestrator", "forge-core")])).is_empty());
    }

    #[test]
    fn heavy_and_banned_libraries_are_found_however_deep() {
        let found = check(&metadata(&[("forge-plan", "middle"), ("middle", "tokio")]));
        assert_eq!(found, ["forge-plan must not bring tokio"]);
        let found = check(&metadata(&[("forge-store", "openssl-sys")]));
        assert_eq!(found, ["openssl-sys is banned, see deny.toml"]);
    }
}
