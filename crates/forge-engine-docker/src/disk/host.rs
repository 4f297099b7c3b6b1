//! `forge-init volume` as a process of this machine.

use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use forge_engine::{EngineError, EngineErrorKind, Operation};
use tokio::process::Command;

use super::PATIENCE;
use crate::context::is_hex;
use crate::engine::DockerEngine;

/// First part of the program's name in the pool.
const PROGRAM: &str = "forge-init-";
/// Lengths of the names of pools, of what tells programs apart, and of what is being placed.
const POOL_NAME: usize = 16;
const DIGEST: usize = 16;
const UUID: usize = 32;
/// Another thread that starts a process may hold the new file open for writing until then.
const BUSY_ATTEMPTS: u32 = 100;
const BUSY_PAUSE: Duration = Duration::from_millis(2);
/// What says that a disk is full: the kernel's words, and those of `forge-init`.
const FULL: [&str; 3] = [
    "No space left",
    "Disk quota exceeded",
    "the engine's disk is full",
];
/// A program that was used within this time may be about to be used again by whoever placed it.
const LEFT_AFTER: Duration = Duration::from_secs(3600);
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
        let beside = |pool: &str| {
            let folder = Path::new(pool).parent().unwrap_or(Path::new("/"));
            folder.to_owned()
        };
        let (own, named) = (beside(self.pool().await?), beside(pool));
        let work = move || match digest {
            Some(digest) => make_closed(&own).and_then(|()| program(&own, &digest, &bytes)),
            None => earlier_program(&own, &named),
        };
        let program = tokio::task::spawn_blocking(work)
            .await
            .map_err(io::Error::other)
            .flatten()
            // Without the cause as its source: the text has all of it.
            .map_err(|error| failure(operation, pool, &error.to_string()))?;
        let output = run(operation, pool, &program, &arguments).await?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() {
            return Ok(text(&output.stdout));
        }
        Err(failure(operation, pool, &text(&output.stderr)))
    }
}

async fn run(
    operation: Operation,
    pool: &str,
    program: &Path,
    arguments: &[String],
) -> Result<Output, EngineError> {
    match tokio::time::timeout(PATIENCE, start(program, arguments)).await {
        Ok(output) => output.map_err(|error| failure(operation, pool, &error.to_string())),
        Err(_) => {
            let message = "forge-init volume does not end";
            let kind = EngineErrorKind::Deadline;
            Err(EngineError::new(kind, operation, pool, message))
        }
    }
}

/// What `forge-init volume` said when it failed.
pub(super) fn failure(operation: Operation, pool: &str, said: &str) -> EngineError {
    let is_full = |said: &str| FULL.iter().any(|full| said.contains(full));
    let kind = if is_full(said) {
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

/// Names the file that a failure is about, which the kernel's own text does not.
fn about(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// The folder in which nobody else may put a program.
fn make_closed(folder: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|error| about(folder, &error))?;
    if own_mode(folder)? != 0o700 {
        std::fs::set_permissions(folder, Permissions::from_mode(0o700))
            .map_err(|error| about(folder, &error))?;
    }
    Ok(())
}

/// The same for a folder that the label of a volume names, which anybody may have written who may
/// speak to the engine: it is taken as it is, or not at all.
fn check_closed(folder: &Path) -> io::Result<()> {
    if own_mode(folder)? == 0o700 {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "{} is open to other users, so it is no folder of workspaces",
        folder.display()
    )))
}

/// The mode of a folder of ours.
fn own_mode(folder: &Path) -> io::Result<u32> {
    let found = std::fs::symlink_metadata(folder).map_err(|error| about(folder, &error))?;
    if found.is_dir() && found.uid() == nix::unistd::geteuid().as_raw() {
        return Ok(found.mode() & 0o777);
    }
    Err(io::Error::other(format!(
        "{} must be a folder that belongs to the user of this process",
        folder.display()
    )))
}

/// `forge-init` as a file that can be run.
fn program(folder: &Path, digest: &str, bytes: &[u8]) -> io::Result<PathBuf> {
    let path = folder.join(format!("{PROGRAM}{digest}"));
    let length = bytes.len() as u64;
    if std::fs::metadata(&path).is_ok_and(|found| found.len() == length) {
        mark_used(&path);
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
        drop(std::fs::remove_file(&beside));
        return Err(about(&path, &error));
    }
    Ok(path)
}

/// So that [`remove_left`] of another process spares it.
fn mark_used(path: &Path) {
    let touched = std::fs::File::open(path).and_then(|file| file.set_modified(SystemTime::now()));
    if let Err(error) = touched {
        tracing::debug!(path = %path.display(), %error, "the use of a program could not be noted");
    }
}

/// Removes programs of other builds from the folder of pools, what was left of placing one, and
/// empty pools of engines that are gone; nothing that anybody used within [`LEFT_AFTER`].
/// Whoever still uses one of these makes it again: no program runs from its name.
pub(super) fn remove_left(folder: &Path, own_pool: &Path, digest: Option<&str>) -> io::Result<()> {
    let own = digest.map(|digest| format!("{PROGRAM}{digest}"));
    let newest = left_program(folder).ok();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let (path, found) = (entry.path(), entry.metadata()?);
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let age = SystemTime::now().duration_since(found.modified()?);
        let is_left = age.is_ok_and(|age| age >= LEFT_AFTER);
        if !is_left || found.uid() != nix::unistd::geteuid().as_raw() || path == own_pool {
            continue;
        }
        let removed = if found.is_dir() && is_pool(name) {
            // Only an empty one goes.
            std::fs::remove_dir(&path)
        } else if found.is_file() && is_program(name) {
            let is_needed = match &own {
                Some(own) => own == name,
                None => newest.as_ref() == Some(&path),
            };
            if is_needed {
                continue;
            }
            std::fs::remove_file(&path)
        } else {
            continue;
        };
        match removed {
            Ok(()) => tracing::debug!(path = %path.display(), "a left part of a pool is removed"),
            Err(error) => {
                tracing::debug!(path = %path.display(), %error, "a part of a pool stays");
            }
        }
    }
    Ok(())
}

/// Whether it is the name of a pool.
pub(super) fn is_pool(name: &str) -> bool {
    is_hex(name, POOL_NAME)
}

/// Whether it is the name of a program, or of one that is being placed.
fn is_program(name: &str) -> bool {
    let program = name.strip_prefix(PROGRAM);
    let beside = name.strip_prefix('.');
    program.is_some_and(|rest| is_hex(rest, DIGEST))
        || beside.is_some_and(|rest| is_hex(rest, UUID))
}

/// The program of a process that only removes: the one that made what it removes, which may have
/// been under another setting and is then beside the pool that the volume names.
fn earlier_program(own: &Path, named: &Path) -> io::Result<PathBuf> {
    make_closed(own)
        .and_then(|()| left_program(own))
        .or_else(|_| check_closed(named).and_then(|()| left_program(named)))
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

async fn start(program: &Path, arguments: &[String]) -> io::Result<Output> {
    let mut attempts = 0;
    loop {
        let output = Command::new(program)
            .arg("volume")
            .args(arguments)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await;
        match output {
            Err(error)
                if error.kind() == io::ErrorKind::ExecutableFileBusy
                    && attempts < BUSY_ATTEMPTS =>
            {
                attempts += 1;
                tokio::time::sleep(BUSY_PAUSE).await;
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

    #[tokio::test]
    async fn a_program_is_placed_once_and_found_without_its_contents() {
        let folder = tempfile::tempdir().unwrap();
        make_closed(folder.path()).unwrap();
        let mode = std::fs::metadata(folder.path()).unwrap().mode();
        assert_eq!(mode & 0o777, 0o700);
        assert!(left_program(folder.path()).is_err());
        let placed = program(folder.path(), "1", b"#!/bin/sh\necho \"$@\"\n").unwrap();
        let output = start(&placed, &["remove".into(), "a b".into()])
            .await
            .unwrap();
        assert_eq!(output.stdout, b"volume remove a b\n");
        assert_eq!(left_program(folder.path()).unwrap(), placed);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_program_that_does_not_end_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let endless = program(folder.path(), "1", b"#!/bin/sh\nexec sleep 1000\n").unwrap();
        let error = run(Operation::Destroy, "/pool", &endless, &[])
            .await
            .unwrap_err();
        assert_eq!(error.kind, EngineErrorKind::Deadline, "{error}");
    }

    #[test]
    fn a_link_in_place_of_the_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path(), &link).unwrap();
        assert!(make_closed(&link).is_err());
    }

    #[test]
    fn a_folder_that_a_label_names_is_neither_made_nor_closed() {
        let folder = tempfile::tempdir().unwrap();
        let absent = folder.path().join("absent");
        assert!(check_closed(&absent).is_err() && !absent.exists());
        let open = Permissions::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open).unwrap();
        let named = program(folder.path(), "1", b"#!/bin/sh\n").unwrap();
        let own = tempfile::tempdir().unwrap();
        let error = earlier_program(own.path(), folder.path()).unwrap_err();
        assert!(error.to_string().contains("open to other users"), "{error}");
        assert_eq!(own_mode(folder.path()).unwrap(), 0o755);
        make_closed(folder.path()).unwrap();
        let found = earlier_program(own.path(), folder.path()).unwrap();
        assert_eq!(found, named);
        let nearer = program(own.path(), "1", b"#!/bin/sh\n").unwrap();
        let found = earlier_program(own.path(), folder.path()).unwrap();
        assert_eq!(found, nearer);
    }

    #[test]
    fn what_older_builds_and_engines_left_goes_when_nobody_used_it_lately() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let (a, b) = ("a".repeat(16), "b".repeat(16));
        let (own, older) = (format!("{PROGRAM}{a}"), format!("{PROGRAM}{b}"));
        let placing = format!(".{}", "c".repeat(32));
        for name in [&own, &older, &placing, "forge-init-notes"] {
            std::fs::write(path(name), "").unwrap();
        }
        std::fs::create_dir(path(&a)).unwrap();
        std::fs::create_dir(path(&b)).unwrap();
        std::fs::create_dir(path("0000000000000000")).unwrap();
        std::fs::write(path("0000000000000000").join("x.img"), "").unwrap();
        let names = || {
            let entries = std::fs::read_dir(folder.path()).unwrap();
            let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            names.collect::<std::collections::BTreeSet<_>>()
        };
        let all = names();
        remove_left(folder.path(), &path(&a), Some(&a)).unwrap();
        assert_eq!(names(), all);
        for name in &all {
            let file = std::fs::File::open(path(name)).unwrap();
            file.set_modified(SystemTime::now() - 2 * LEFT_AFTER)
                .unwrap();
        }
        remove_left(folder.path(), &path(&a), Some(&a)).unwrap();
        let kept = [&own, &a, "0000000000000000", "forge-init-notes"].map(str::to_owned);
        assert_eq!(names(), kept.into());
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
