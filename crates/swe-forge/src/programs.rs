//! The programs that run in containers, each built in or a file: forge-init, PID 1 of every
//! sandbox, and forge-egress, the proxy of those with a network.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

// `EMBEDDED_INIT` and `EMBEDDED_EGRESS`, each `Option<&[u8]>`: see build.rs.
include!(concat!(env!("OUT_DIR"), "/embedded.rs"));

/// Which program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    /// PID 1 of every sandbox.
    Init,
    /// The proxy of sandboxes with a network.
    Egress,
}

impl Program {
    /// Its name, and that of its file next to this program.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Init => "forge-init",
            Self::Egress => "forge-egress",
        }
    }

    /// What it is, for a person who does not know the name.
    pub(crate) const fn purpose(self) -> &'static str {
        match self {
            Self::Init => "the program that runs in every sandbox",
            Self::Egress => "the proxy of sandboxes with a network",
        }
    }

    /// How to mend that it is missing or unusable.
    pub(crate) const fn hint(self) -> &'static str {
        match self {
            Self::Init => {
                "`cargo xtask build` makes a swe-forge with forge-init built in; or name a \
                 statically linked forge-init with SWE_FORGE_INIT"
            }
            Self::Egress => {
                "`cargo xtask build` makes a swe-forge with forge-egress built in; or name a \
                 statically linked forge-egress with SWE_FORGE_EGRESS"
            }
        }
    }

    const fn embedded(self) -> Option<&'static [u8]> {
        match self {
            Self::Init => EMBEDDED_INIT,
            Self::Egress => EMBEDDED_EGRESS,
        }
    }
}

/// Where a program came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// It is built in.
    BuiltIn,
    /// It was read from this file.
    File(PathBuf),
}

/// A program, checked.
#[derive(Debug, Clone)]
pub(crate) struct Loaded {
    pub bytes: Arc<[u8]>,
    pub origin: Origin,
    /// The processor architecture it is for, where it is a known one.
    pub architecture: Option<&'static str>,
}

/// A program cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProgramError {
    #[error("it is not built in, and there is no {}", .0.display())]
    Missing(PathBuf),
    #[error("{} could not be read: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{origin} is not an ELF program")]
    NotElf { origin: String },
    #[error("{origin} is linked dynamically and would not start in an image without its libraries")]
    Dynamic { origin: String },
    #[error("reading it broke off")]
    BrokeOff,
}

/// The file `given`, else the one that is built in, else the one next to this program.
pub(crate) fn load(program: Program, given: Option<&Path>) -> Result<Loaded, ProgramError> {
    if let Some(path) = given {
        return read(path);
    }
    if let Some(bytes) = program.embedded() {
        return check(bytes.into(), Origin::BuiltIn);
    }
    let ours = env::current_exe().unwrap_or_default();
    read(&ours.with_file_name(program.name()))
}

fn read(path: &Path) -> Result<Loaded, ProgramError> {
    match fs::read(path) {
        Ok(bytes) => check(bytes.into(), Origin::File(path.to_owned())),
        Err(source) if source.kind() == io::ErrorKind::NotFound => {
            Err(ProgramError::Missing(path.to_owned()))
        }
        Err(source) => Err(ProgramError::Unreadable {
            path: path.to_owned(),
            source,
        }),
    }
}

fn check(bytes: Arc<[u8]>, origin: Origin) -> Result<Loaded, ProgramError> {
    let named = || match &origin {
        Origin::BuiltIn => "what is built in".to_owned(),
        Origin::File(path) => path.display().to_string(),
    };
    let Some(elf) = Elf::parse(&bytes) else {
        return Err(ProgramError::NotElf { origin: named() });
    };
    if elf.has_interpreter {
        return Err(ProgramError::Dynamic { origin: named() });
    }
    Ok(Loaded {
        architecture: elf.architecture,
        bytes,
        origin,
    })
}

/// The few facts of a 64-bit little-endian ELF file that decide whether it starts in any container.
#[derive(Debug, PartialEq, Eq)]
struct Elf {
    architecture: Option<&'static str>,
    /// Whether it asks for a dynamic linker.
    has_interpreter: bool,
}

impl Elf {
    /// `None` when it is no such file.
    fn parse(bytes: &[u8]) -> Option<Self> {
        const IDENTITY: &[u8] = b"\x7fELF\x02\x01";
        const INTERPRETER: [u8; 4] = [3, 0, 0, 0];
        if !bytes.starts_with(IDENTITY) {
            return None;
        }
        let short = |at: usize| Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        let long = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let table = usize::try_from(long(0x20)?).ok()?;
        let (size, count) = (usize::from(short(0x36)?), usize::from(short(0x38)?));
        let mut has_interpreter = false;
        for index in 0..count {
            let at = table.checked_add(index.checked_mul(size)?)?;
            has_interpreter |= bytes.get(at..at.checked_add(4)?)? == INTERPRETER;
        }
        Some(Self {
            architecture: match short(0x12)? {
                62 => Some("x86_64"),
                183 => Some("aarch64"),
                _ => None,
            },
            has_interpreter,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF header followed by program headers of these types.
    fn elf(types: &[u32]) -> Vec<u8> {
        let mut bytes = vec![0; 64];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[0x12] = 62;
        bytes[0x20] = 64;
        bytes[0x36] = 56;
        bytes[0x38] = u8::try_from(types.len()).unwrap();
        for kind in types {
            let mut header = vec![0; 56];
            header[..4].copy_from_slice(&kind.to_le_bytes());
            bytes.extend(header);
        }
        bytes
    }

    #[test]
    fn a_static_program_is_taken_and_a_dynamic_one_or_none_is_refused() {
        let file = || Origin::File("/x".into());
        let loaded = check(elf(&[1, 2]).into(), file()).unwrap();
        assert_eq!(loaded.architecture, Some("x86_64"));
        let dynamic = check(elf(&[6, 3, 1]).into(), file()).unwrap_err();
        assert!(matches!(dynamic, ProgramError::Dynamic { .. }), "{dynamic}");
        for text in [&b"#!/bin/sh\n"[..], b"", b"\x7fELF\x02\x01"] {
            let error = check(text.into(), file()).unwrap_err();
            assert!(matches!(error, ProgramError::NotElf { .. }), "{error}");
        }
    }

    #[test]
    fn a_file_that_was_named_is_the_only_one_looked_at() {
        let error = load(Program::Init, Some(Path::new("/nonexistent/init"))).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/init"), "{error}");
    }
}
