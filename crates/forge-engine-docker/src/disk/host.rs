//! `forge-init volume` as a process of this machine.

use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use forge_engine::{EngineError, EngineErrorKind, Operation};

use crate::engine::DockerEngine;
use crate::failure::During;

/// First part of the program's name in the pool.
const PROGRAM: &str = "forge-init-";
/// Another thread that starts a process may hold the new file open for writing until then.
const BUSY_ATTEMPTS: u32 = 100;
const BUSY_PAUSE: Duration = Duration::from_millis(2);
const MOUNTS: &str = "/proc/self/mounts";
const KERNEL: &str = "/proc/sys/kernel/osrelease";

impl DockerEngine {
    pub(super) async fn volume_command_here(
        &self,
        operation: Operation,
        pool: &str,
        arguments: Vec<String>,
    ) -> Result<String, EngineError> {
        let bytes = Arc::clone(&self.init.bytes);
        let digest = self.program_digest().map(str::to_owned);
        // Beside the pool of each engine, and where the volume says, which may have been made
        // under another setting.
        let folder = Path::new(pool)
            .parent()
            .unwrap_or(Path::new("/"))
            .to_owned();
        let work = move || {
            make_closed(&folder)?;
            let program = match digest {
                Some(digest) => program(&folder, &digest, &bytes)?,
                // A process that only removes takes the one that made what it removes.
                None => left_program(&folder)?,
            };
            start(&program, &arguments)
        };
        let output = tokio::task::spawn_blocking(work)
            .await
            .map_err(io::Error::other)
            .flatten()
            .during(operation, pool)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() {
            return Ok(text(&output.stdout));
        }
        Err(failure(operation, pool, &text(&output.stderr)))
    }
}

/// What `forge-init volume` said when it failed.
pub(super) fn failure(operation: Operation, pool: &str, said: &str) -> EngineError {
    let kind = if said.contains("No space left") || said.contains("Disk quota exceeded") {
        EngineErrorKind::Exhausted
    } else {
        EngineErrorKind::Internal
    };
    let said = said.strip_prefix("forge-init: ").unwrap_or(said);
    let said = if said.is_empty() {
        "no reason given"
    } else {
        said
    };
    EngineError::new(kind, operation, pool, said)
}

/// The kernel's release.
pub(super) fn kernel() -> Option<String> {
    let text = std::fs::read_to_string(KERNEL).ok()?;
    Some(text.trim().to_owned())
}

/// Whether `/dev` is the machine's own and not that of a container.
pub(super) fn has_devices() -> bool {
    std::fs::read_to_string(MOUNTS).is_ok_and(|mounts| is_machine_s(&mounts))
}

fn is_machine_s(mounts: &str) -> bool {
    let mut dev = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        (words.next() == Some("/dev")).then(|| words.next())
    });
    // The last one covers those before.
    dev.next_back().flatten() == Some("devtmpfs")
}

/// The folder in which nobody else may put a program.
fn make_closed(folder: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    let found = std::fs::symlink_metadata(folder)?;
    if !found.is_dir() || found.uid() != nix::unistd::geteuid().as_raw() {
        return Err(io::Error::other(format!(
            "{} must be a folder that belongs to the user of this process",
            folder.display()
        )));
    }
    if found.mode() & 0o777 != 0o700 {
        std::fs::set_permissions(folder, Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// `forge-init` as a file that can be run.
fn program(folder: &Path, digest: &str, bytes: &[u8]) -> io::Result<PathBuf> {
    let path = folder.join(format!("{PROGRAM}{digest}"));
    let length = bytes.len() as u64;
    if std::fs::metadata(&path).is_ok_and(|found| found.len() == length) {
        return Ok(path);
    }
    let beside = folder.join(format!(".{}", uuid::Uuid::new_v4().simple()));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o700)
        .open(&beside)?;
    let written = file.write_all(bytes);
    drop(file);
    let placed = written.and_then(|()| std::fs::rename(&beside, &path));
    if let Err(error) = placed {
        std::fs::remove_file(&beside)?;
        return Err(error);
    }
    Ok(path)
}

fn left_program(folder: &Path) -> io::Result<PathBuf> {
    let mut newest = None;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with(PROGRAM)) {
            newest = newest.max(Some((entry.metadata()?.modified()?, entry.path())));
        }
    }
    let newest = newest.map(|(_, path)| path);
    newest.ok_or_else(|| {
        let shown = folder.display();
        io::Error::other(format!("there is no forge-init in {shown} to do it"))
    })
}

fn start(program: &Path, arguments: &[String]) -> io::Result<Output> {
    let mut attempts = 0;
    loop {
        let output = Command::new(program)
            .arg("volume")
            .args(arguments)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .output();
        match output {
            Err(error)
                if error.kind() == io::ErrorKind::ExecutableFileBusy
                    && attempts < BUSY_ATTEMPTS =>
            {
                attempts += 1;
                std::thread::sleep(BUSY_PAUSE);
            }
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_s_devices_are_not_the_machine_s() {
        assert!(is_machine_s(
            "proc /proc proc rw 0 0\ndev /dev devtmpfs rw 0 0\n"
        ));
        assert!(!is_machine_s("tmpfs /dev tmpfs rw 0 0\n"));
        assert!(!is_machine_s(
            "dev /dev devtmpfs rw 0 0\ntmpfs /dev tmpfs rw 0 0\n"
        ));
        assert!(!is_machine_s("dev /dev/x devtmpfs rw 0 0\n"));
        assert!(!is_machine_s(""));
    }

    #[test]
    fn a_program_is_placed_once_and_found_without_its_contents() {
        let folder = tempfile::tempdir().unwrap();
        make_closed(folder.path()).unwrap();
        let mode = std::fs::metadata(folder.path()).unwrap().mode();
        assert_eq!(mode & 0o777, 0o700);
        assert!(left_program(folder.path()).is_err());
        let placed = program(folder.path(), "1", b"#!/bin/sh\necho \"$@\"\n").unwrap();
        let output = start(&placed, &["remove".into(), "a b".into()]).unwrap();
        assert_eq!(output.stdout, b"volume remove a b\n");
        assert_eq!(left_program(folder.path()).unwrap(), placed);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_in_place_of_the_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path(), &link).unwrap();
        assert!(make_closed(&link).is_err());
    }

    #[test]
    fn a_full_disk_is_told_from_other_failures() {
        let error = failure(
            Operation::CreateWorkspace,
            "/pool",
            "forge-init: /a: No space left",
        );
        assert_eq!(error.kind, EngineErrorKind::Exhausted);
        assert_eq!(error.message, "/a: No space left");
        let error = failure(Operation::CreateWorkspace, "/pool", "");
        assert_eq!(error.kind, EngineErrorKind::Internal);
    }
}
