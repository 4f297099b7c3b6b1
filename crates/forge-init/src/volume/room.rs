//! Whether the disk below has room for one more workspace.
//!
//! Files are sparse, so they may promise more than the disk has: most workspaces stay far below
//! their size. All together may promise [`OVERCOMMIT`] times what is there above the machine's
//! reserve. Who promises more finds out when a write of some task's is lost.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::statvfs::statvfs;

use super::{SUFFIX, about};
use crate::disk_watch::widen;
use crate::root_watch::reserve;

/// How often the room there is may be promised.
const OVERCOMMIT: u64 = 4;
/// Unit of a file's blocks.
const BLOCK: u64 = 512;

/// What a disk has, in bytes.
#[derive(Debug, Clone, Copy)]
struct Disk {
    total: u64,
    available: u64,
    /// What files of workspaces may still take of it.
    promised: u64,
}

/// Refuses a file of `size` bytes in `pool` that the disk there has no room for.
pub(super) fn ensure(pool: &Path, size: u64) -> io::Result<()> {
    let found = statvfs(pool).map_err(|errno| about(pool.display(), &errno.into()))?;
    let unit = widen(found.fragment_size());
    let disk = Disk {
        total: widen(found.blocks()).saturating_mul(unit),
        available: widen(found.blocks_available()).saturating_mul(unit),
        promised: promised(pool),
    };
    disk.refusal(size).map_or(Ok(()), |refusal| {
        Err(io::Error::new(io::ErrorKind::StorageFull, refusal))
    })
}

impl Disk {
    fn refusal(&self, size: u64) -> Option<String> {
        let reserve = reserve(self.total);
        let free = self.available.saturating_sub(reserve);
        let promised = self.promised.saturating_add(size);
        let fits = promised <= free.saturating_mul(OVERCOMMIT);
        (!fits).then(|| {
            format!(
                "the engine's disk is full: no room for a workspace of {size} bytes where \
                 {available} are left, of which {reserve} stay free, and other workspaces may \
                 still take {others}",
                available = self.available,
                others = self.promised
            )
        })
    }
}

/// What the files of this pool and of those beside it, which are other engines', may still grow by.
fn promised(pool: &Path) -> u64 {
    let Ok(own) = std::fs::metadata(pool) else {
        return 0;
    };
    let beside = pool.parent().map(std::fs::read_dir);
    let pools = beside.into_iter().flatten().flatten().flatten();
    let mut promised = 0_u64;
    for pool in pools {
        // Follows no link, and leaves other disks out.
        let is_pool = |found: &Metadata| found.is_dir() && found.dev() == own.dev();
        if !pool.metadata().is_ok_and(|found| is_pool(&found)) {
            continue;
        }
        let files = std::fs::read_dir(pool.path()).into_iter().flatten();
        for file in files.flatten() {
            let is_image = file
                .file_name()
                .as_encoded_bytes()
                .ends_with(SUFFIX.as_bytes());
            if let Some(found) = file.metadata().ok().filter(|_| is_image) {
                let left = found.len().saturating_sub(found.blocks() * BLOCK);
                promised = promised.saturating_add(left);
            }
        }
    }
    promised
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIBIBYTE: u64 = 1 << 30;

    fn disk(available: u64, promised: u64) -> Disk {
        Disk {
            total: 100 * GIBIBYTE,
            available,
            promised,
        }
    }

    #[test]
    fn the_reserve_is_promised_to_nobody() {
        // Two of a hundred are the reserve.
        assert!(disk(12 * GIBIBYTE, 0).refusal(40 * GIBIBYTE).is_none());
        let refusal = disk(12 * GIBIBYTE - 1, 0).refusal(40 * GIBIBYTE).unwrap();
        assert!(refusal.contains("the engine's disk is full"), "{refusal}");
        assert!(disk(GIBIBYTE, 0).refusal(1).is_some());
    }

    #[test]
    fn all_workspaces_may_be_promised_what_is_there_some_times_over() {
        assert!(
            disk(12 * GIBIBYTE, 39 * GIBIBYTE)
                .refusal(GIBIBYTE)
                .is_none()
        );
        assert!(
            disk(12 * GIBIBYTE, 40 * GIBIBYTE)
                .refusal(GIBIBYTE)
                .is_some()
        );
    }

    #[test]
    fn holes_of_every_pool_on_the_disk_are_promised() {
        let folder = tempfile::tempdir().unwrap();
        for (pool, name) in [("a", "x.img"), ("b", "y.img"), ("b", "other")] {
            let pool = folder.path().join(pool);
            std::fs::create_dir_all(&pool).unwrap();
            let file = std::fs::File::create(pool.join(name)).unwrap();
            file.set_len(GIBIBYTE).unwrap();
        }
        assert_eq!(promised(&folder.path().join("a")), 2 * GIBIBYTE);
        let error = ensure(folder.path(), u64::MAX).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
