//! Folders of a task packed as a tar stream, in a stable order and for one owner.

use std::fs;
use std::io;
use std::path::PathBuf;

use forge_core::UserId;
use tokio::io::DuplexStream;
use tokio_util::io::SyncIoBridge;

/// A folder and the name it gets in the sandbox's workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    /// The folder on this machine.
    pub root: PathBuf,
    /// Its name in the archive.
    pub name: &'static str,
    /// Whose its files are, for those who unpack it as root.
    pub owner: UserId,
}

/// Bytes under way between packing and sending.
const PIPE: usize = 1024 * 1024;

/// Packs `members` while the returned stream is read; the second value ends with the packing.
pub(crate) fn pack(
    members: Vec<Member>,
) -> (DuplexStream, tokio::task::JoinHandle<io::Result<()>>) {
    let (writer, reader) = tokio::io::duplex(PIPE);
    let bridge = SyncIoBridge::new(writer);
    let packing = tokio::task::spawn_blocking(move || {
        let mut builder = tar::Builder::new(io::BufWriter::with_capacity(256 * 1024, bridge));
        builder.follow_symlinks(false);
        for member in &members {
            append(&mut builder, member)?;
        }
        builder
            .into_inner()?
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?
            .shutdown()
    });
    (reader, packing)
}

/// An archive of one empty folder.
pub(crate) fn folder(name: &str, owner: UserId) -> io::Result<Vec<u8>> {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_size(0);
    header.set_mode(0o755);
    header.set_mtime(0);
    header.set_uid(owner.uid().into());
    header.set_gid(owner.gid().into());
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_data(&mut header, name, io::empty())?;
    builder.into_inner()
}

fn append<W: io::Write>(builder: &mut tar::Builder<W>, member: &Member) -> io::Result<()> {
    // Folders still to be visited; a stack of our own, since trees may be deep.
    let mut pending = vec![(member.root.clone(), PathBuf::from(member.name))];
    while let Some((path, name)) = pending.pop() {
        let metadata = fs::symlink_metadata(&path)?;
        let mut header = tar::Header::new_gnu();
        header.set_metadata_in_mode(&metadata, tar::HeaderMode::Deterministic);
        header.set_mtime(0);
        header.set_uid(member.owner.uid().into());
        header.set_gid(member.owner.gid().into());
        if metadata.is_dir() {
            builder.append_data(&mut header, &name, io::empty())?;
            let mut children = fs::read_dir(&path)?.collect::<io::Result<Vec<fs::DirEntry>>>()?;
            children.sort_by_key(|entry| std::cmp::Reverse(entry.file_name()));
            pending.extend(
                children
                    .into_iter()
                    .map(|each| (each.path(), name.join(each.file_name()))),
            );
        } else if metadata.is_symlink() {
            builder.append_link(&mut header, &name, fs::read_link(&path)?)?;
        } else if metadata.is_file() {
            builder.append_data(&mut header, &name, fs::File::open(&path)?)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn the_same_folder_always_packs_to_the_same_bytes_in_order() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("b")).unwrap();
        for name in ["z", "a", "b/inner"] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        std::os::unix::fs::symlink("a", folder.path().join("link")).unwrap();
        let mut packed = Vec::new();
        for _ in 0..2 {
            let members = vec![Member {
                root: folder.path().to_owned(),
                name: "src",
                owner: UserId::for_slot(3),
            }];
            let (mut stream, packing) = pack(members);
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).await.unwrap();
            packing.await.unwrap().unwrap();
            packed.push(bytes);
        }
        assert_eq!(packed[0], packed[1]);
        let mut archive = tar::Archive::new(packed[0].as_slice());
        let names: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                assert_eq!(entry.header().uid().unwrap(), 200_003);
                entry.path().unwrap().display().to_string()
            })
            .collect();
        assert_eq!(
            names,
            ["src", "src/a", "src/b", "src/b/inner", "src/link", "src/z"]
        );
    }

    #[tokio::test]
    async fn a_folder_that_vanished_is_an_error_and_not_an_empty_archive() {
        let (mut stream, packing) = pack(vec![Member {
            root: "/nonexistent/folder".into(),
            name: "src",
            owner: UserId::for_slot(3),
        }]);
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        assert_eq!(
            packing.await.unwrap().unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }
}
