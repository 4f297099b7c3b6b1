//! Builds the programs that run in containers into this one, where a variable names their file.

use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// Variable, file name, and constant of each program.
const PROGRAMS: [(&str, &str, &str); 2] = [
    ("FORGE_INIT_BINARY", "forge-init", "EMBEDDED_INIT"),
    ("FORGE_EGRESS_BINARY", "forge-egress", "EMBEDDED_EGRESS"),
];

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let mut text = String::new();
    for (variable, name, constant) in PROGRAMS {
        println!("cargo:rerun-if-env-changed={variable}");
        let value = value(variable, name, &out)?;
        writeln!(text, "const {constant}: Option<&[u8]> = {value};").map_err(io::Error::other)?;
    }
    fs::write(out.join("embedded.rs"), text)
}

fn value(variable: &str, name: &str, out: &Path) -> io::Result<String> {
    let Some(path) = env::var_os(variable).filter(|path| !path.is_empty()) else {
        return Ok("None".to_owned());
    };
    let path = PathBuf::from(path);
    println!("cargo:rerun-if-changed={}", path.display());
    fs::copy(&path, out.join(name)).map_err(|error| {
        let message = format!("{variable} names {}: {error}", path.display());
        io::Error::new(error.kind(), message)
    })?;
    Ok(format!(
        "Some(include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{name}\")))"
    ))
}
