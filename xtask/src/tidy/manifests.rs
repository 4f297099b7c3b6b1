//! Every crate inherits lints and versions from the workspace.

use std::fs;
use std::path::{Path, PathBuf};

/// Crosses the Linux boundary, so it carries its own lint table.
const OWN_LINTS: &str = "crates/forge-init/Cargo.toml";

pub(super) fn check(files: &[PathBuf]) -> Vec<String> {
    let manifests = files.iter().filter(|path| {
        path.ends_with("Cargo.toml") && *path != Path::new("Cargo.toml") && !is_example(path)
    });
    manifests.flat_map(|path| check_one(path)).collect()
}

fn is_example(path: &Path) -> bool {
    path.starts_with("examples")
}

fn check_one(path: &Path) -> Vec<String> {
    let Ok(text) = fs::read_to_string(path) else {
        return vec![format!("{} cannot be read", path.display())];
    };
    let mut findings = Vec::new();
    if path != Path::new(OWN_LINTS) && !text.contains("[lints]\nworkspace = true") {
        findings.push(format!(
            "{} does not inherit the workspace's lints",
            path.display()
        ));
    }
    for key in ["version", "edition", "rust-version", "license", "publish"] {
        if !text.contains(&format!("\n{key}.workspace = true")) {
            findings.push(format!("{} does not inherit {key}", path.display()));
        }
    }
    let mut in_dependencies = false;
    for line in text.lines() {
        if line.starts_with('[') {
            in_dependencies = line.contains("dependencies");
            continue;
        }
        let is_entry = in_dependencies && line.contains('=') && !line.starts_with('#');
        if is_entry && !line.contains("workspace = true") && !line.starts_with(' ') {
            findings.push(format!(
                "{}: '{line}' has a version of its own",
                path.display()
            ));
        }
    }
    findings
}
