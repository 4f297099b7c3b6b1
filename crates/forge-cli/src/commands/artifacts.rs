//! `swe-forge artifacts`: what was kept of an attempt, listed or copied.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use forge_store::ArtifactRecord;
use serde::Serialize;

use crate::arguments::{ArtifactsArguments, Format};
use crate::error::CliError;
use crate::escape;
use crate::exit_status::ExitStatus;
use crate::session::Session;
use crate::table::{Cell, Table};
use crate::units;

/// Existing files named in an error.
const NAMED: usize = 5;

/// One artifact, as the JSON document has it.
#[derive(Debug, Serialize)]
struct Entry {
    /// Path below the workspace, escaped.
    path: String,
    size_bytes: u64,
    kind: String,
    /// Where it is kept, escaped.
    file: String,
    /// Where it was copied to, escaped.
    copied_to: Option<String>,
}

pub(super) async fn carry_out(
    session: &Session,
    arguments: ArtifactsArguments,
) -> Result<ExitStatus, CliError> {
    let (store, attempt) = session.attempt(&arguments.attempt.id).await?;
    let artifacts = store.artifacts(&attempt.id).await?;
    let printer = &session.printer;
    let entries: Vec<Entry> = artifacts
        .iter()
        .map(|artifact| entry(artifact, arguments.to.as_deref()))
        .collect();
    if let Some(target) = arguments.to.clone() {
        let force = arguments.force;
        let copy = move || copy_all(&artifacts, &target, force);
        tokio::task::spawn_blocking(copy).await??;
    }
    match arguments.output.format {
        Format::Json => printer.json(&entries)?,
        Format::Human if entries.is_empty() => {
            printer.progress(&format!("nothing was kept of {}", attempt.id));
        }
        Format::Human => {
            let mut table = Table::new(&[">SIZE", "PATH"]);
            for entry in &entries {
                table.row([
                    Cell::from(units::bytes(entry.size_bytes)),
                    Cell::from(&entry.path),
                ]);
            }
            // Paths are for copying: they are never cut.
            printer.text(&table.render(printer.out_paint(), None))?;
            if let Some(target) = &arguments.to {
                let files = units::count(entries.len() as u64, "file");
                printer.progress(&format!("{files} copied to {}", escape::path(target)));
            }
        }
    }
    Ok(ExitStatus::Success)
}

fn entry(artifact: &ArtifactRecord, target: Option<&Path>) -> Entry {
    Entry {
        path: escape::path(&artifact.relative_path),
        size_bytes: artifact.size_bytes,
        kind: artifact.kind.clone(),
        file: escape::path(&artifact.stored_path),
        copied_to: target.map(|target| escape::path(&target.join(&artifact.relative_path))),
    }
}

/// Copies below `target`. Without `force` nothing is copied when any file exists already.
fn copy_all(artifacts: &[ArtifactRecord], target: &Path, force: bool) -> Result<(), CliError> {
    let mut copies = Vec::with_capacity(artifacts.len());
    for artifact in artifacts {
        copies.push((
            &artifact.stored_path,
            below(target, &artifact.relative_path)?,
        ));
    }
    if !force {
        refuse_existing(&copies)?;
    }
    for (from, to) in copies {
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder).map_err(CliError::file("make the folder", folder))?;
        }
        copy(from, &to, force)?;
    }
    Ok(())
}

/// Where an artifact goes; names that would lead elsewhere are refused once more.
fn below(target: &Path, relative: &Path) -> Result<PathBuf, CliError> {
    let is_name = |component: Component<'_>| matches!(component, Component::Normal(_));
    if relative.as_os_str().is_empty() || !relative.components().all(is_name) {
        let shown = escape::path(relative);
        return Err(CliError::input(format!("'{shown}' is no name for a file")));
    }
    Ok(target.join(relative))
}

fn refuse_existing(copies: &[(&PathBuf, PathBuf)]) -> Result<(), CliError> {
    let existing: Vec<&PathBuf> = copies
        .iter()
        .map(|(_, to)| to)
        .filter(|to| fs::symlink_metadata(to).is_ok())
        .collect();
    if existing.is_empty() {
        return Ok(());
    }
    let mut names: Vec<String> = existing
        .iter()
        .take(NAMED)
        .map(|path| escape::path(path))
        .collect();
    if existing.len() > NAMED {
        names.push(format!("and {} more", existing.len() - NAMED));
    }
    let message = format!("would overwrite {}", names.join(", "));
    Err(CliError::input(message).or_rather("choose another folder, or say --force"))
}

fn copy(from: &Path, to: &Path, force: bool) -> Result<(), CliError> {
    if force {
        // Replaced rather than written into: what stands there may be a link to something else.
        match fs::remove_file(to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(CliError::file("replace", to)(error));
            }
            _ => {}
        }
    }
    let mut source = fs::File::open(from).map_err(CliError::file("read", from))?;
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .open(to)
        .map_err(CliError::file("write", to))?;
    let copied = io::copy(&mut source, &mut file);
    copied.map_err(CliError::file("write", to)).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn artifact(folder: &Path, name: &str) -> ArtifactRecord {
        let stored_path = folder.join("stored").join(name);
        fs::create_dir_all(stored_path.parent().unwrap()).unwrap();
        fs::write(&stored_path, "new").unwrap();
        ArtifactRecord {
            relative_path: name.into(),
            size_bytes: 3,
            kind: "file".into(),
            stored_path,
        }
    }

    #[test]
    fn nothing_is_copied_when_anything_would_be_overwritten_unless_forced() {
        let folder = tempfile::tempdir().unwrap();
        let artifacts = [
            artifact(folder.path(), "output/a"),
            artifact(folder.path(), "output/b"),
        ];
        let target = folder.path().join("target");
        fs::create_dir_all(target.join("output")).unwrap();
        fs::write(target.join("output/b"), "old").unwrap();
        let error = copy_all(&artifacts, &target, false).unwrap_err();
        assert_eq!(error.exit_status(), ExitStatus::BadInput);
        assert!(!target.join("output/a").exists());
        copy_all(&artifacts, &target, true).unwrap();
        assert_eq!(fs::read(target.join("output/b")).unwrap(), b"new");
    }

    #[cfg(unix)]
    #[test]
    fn a_forced_copy_replaces_a_link_and_not_what_it_points_to() {
        let folder = tempfile::tempdir().unwrap();
        let artifacts = [artifact(folder.path(), "a")];
        let victim = folder.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        let target = folder.path().join("target");
        fs::create_dir(&target).unwrap();
        std::os::unix::fs::symlink(&victim, target.join("a")).unwrap();
        copy_all(&artifacts, &target, true).unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"precious");
        assert_eq!(fs::read(target.join("a")).unwrap(), b"new");
    }

    #[test]
    fn names_that_lead_out_are_refused() {
        for name in ["../x", "/x", "a/../../x", ""] {
            assert!(
                below(Path::new("/target"), Path::new(name)).is_err(),
                "{name}"
            );
        }
    }
}
