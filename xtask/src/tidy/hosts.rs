//! No file names the host of a package registry: hosts are discovered where they are needed.

use std::fs;
use std::path::PathBuf;

/// Registries as name and domain, apart, so that this file does not name a host either.
const REGISTRIES: [(&str, &str); 9] = [
    ("pypi", "org"),
    ("pythonhosted", "org"),
    ("npmjs", "org"),
    ("npmjs", "com"),
    ("debian", "org"),
    ("ubuntu", "com"),
    ("static.crates", "io"),
    ("index.crates", "io"),
    ("proxy.golang", "org"),
];

pub(super) fn check(files: &[PathBuf]) -> Vec<String> {
    let hosts: Vec<String> = REGISTRIES
        .iter()
        .map(|(name, domain)| format!("{name}.{domain}"))
        .collect();
    let mut findings = Vec::new();
    for path in files {
        let Ok(bytes) = fs::read(path) else { continue };
        let text = String::from_utf8_lossy(&bytes);
        for (number, line) in text.lines().enumerate() {
            let named = hosts.iter().filter(|host| line.contains(host.as_str()));
            findings.extend(
                named.map(|host| format!("{}:{}: names {host}", path.display(), number + 1)),
            );
        }
    }
    findings
}
