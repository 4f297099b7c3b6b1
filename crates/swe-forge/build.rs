//! Builds forge-init into the program when `FORGE_INIT_BINARY` names its file.

use std::io;
use std::path::PathBuf;
use std::{env, fs};

/// The variable that names the file.
const VARIABLE: &str = "FORGE_INIT_BINARY";

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-env-changed={VARIABLE}");
    println!("cargo:rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let value = match env::var_os(VARIABLE).filter(|path| !path.is_empty()) {
        Some(path) => {
            let path = PathBuf::from(path);
            println!("cargo:rerun-if-changed={}", path.display());
            let copied = fs::copy(&path, out.join("forge-init"));
            copied.map_err(|error| {
                let message = format!("{VARIABLE} names {}: {error}", path.display());
                io::Error::new(error.kind(), message)
            })?;
            "Some(include_bytes!(concat!(env!(\"OUT_DIR\"), \"/forge-init\")))"
        }
        None => "None",
    };
    let text = format!("const EMBEDDED: Option<&[u8]> = {value};\n");
    fs::write(out.join("embedded.rs"), text)
}
