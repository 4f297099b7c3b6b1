//! An empty ext4 file system of an exact size, written without any tool of the machine.
//!
//! Only what a fresh file system needs: no journal, because nothing of it outlives a crash of the
//! machine, no checksums, and every group with its own bitmaps and inode table. What it holds from
//! the start are the folders of a workspace. The file must read as zeros before; inode tables are
//! then right already, and a sparse file stays sparse.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes of a block.
pub(super) const BLOCK: u64 = 4096;
/// Blocks that one block of a bitmap stands for.
const GROUP: u64 = 8 * BLOCK;
const INODE: u64 = 256;
const INODES_PER_BLOCK: u64 = BLOCK / INODE;
const DESCRIPTOR: u64 = 32;
/// The first inode that is not the file system's own.
const FIRST_INODE: u32 = 11;
const ROOT_INODE: u32 = 2;
/// Inodes that are taken from the start.
const TAKEN_INODES: u64 = 10 + FOLDERS.len() as u64;
/// Folders of a workspace, and whether each belongs to the task.
const FOLDERS: [(&str, bool); 2] = [("output", true), (".swe-forge", false)];
/// Blocks that the root and these folders take.
const TAKEN_BLOCKS: u64 = 1 + FOLDERS.len() as u64;
/// Without wider addresses there are no larger ones; 15 TiB.
const MOST_BLOCKS: u64 = u32::MAX as u64 - 64 * GROUP;
/// A last group of less than its own tables and these blocks is of no use.
const SMALLEST_REST: u64 = 64;
/// Nobody's user id: blocks that are kept for it are kept from everybody.
const NOBODY: u16 = 65_534;

const SUPER_OFFSET: u64 = 1024;
const SUPER_SIZE: usize = 1024;
const MAGIC: u16 = 0xEF53;
const MAGIC_OFFSET: u64 = SUPER_OFFSET + 56;
const EXTENT_MAGIC: u16 = 0xF30A;
const FOLDER_TYPE: u8 = 2;
const FOLDER_MODE: u16 = 0o040_755;

/// Extended attributes, hashed folders.
const COMPATIBLE: u32 = 0x8 | 0x20;
/// File types in folders, extents.
const INCOMPATIBLE: u32 = 0x2 | 0x40;
/// Sparse copies of the superblock, large and huge files, many subfolders, wide inodes.
const READ_ONLY_COMPATIBLE: u32 = 0x1 | 0x2 | 0x8 | 0x20 | 0x40;
/// Attributes and access lists without mount options.
const DEFAULT_OPTIONS: u32 = 0x4 | 0x8;
/// After an error of the file below: no more writes, instead of more damage.
const ON_ERROR_READ_ONLY: u16 = 2;
const HALF_MD4: u8 = 1;
const SIGNED_HASH: u32 = 1;
const EXTENTS_FLAG: u32 = 0x8_0000;
const WIDE_INODE: u16 = 32;

/// What a file system is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Request {
    /// Bytes that may be allocated in it, its first folders included.
    pub(super) bytes: u64,
    /// Files and folders that fit besides the first ones, at least.
    pub(super) files: u64,
    /// Owner of the root and of what belongs to the task.
    pub(super) uid: u32,
    /// Its group.
    pub(super) gid: u32,
    /// When the folders were made, in seconds since 1970.
    pub(super) now: u32,
}

/// How a file system is laid out; every number in blocks or inodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    blocks: u64,
    groups: u64,
    inodes_per_group: u64,
    /// Kept from everybody, so that what can be allocated is exactly what was asked for.
    reserved: u64,
}

impl Layout {
    /// The smallest layout that gives what is asked for; none when it is too large.
    pub(super) fn of(request: &Request) -> Option<Self> {
        let data = (request.bytes / BLOCK).max(TAKEN_BLOCKS + 1);
        if data > MOST_BLOCKS / 2 {
            return None;
        }
        // A file for each block is all that could ever hold something.
        let inodes = request.files.min(data) + TAKEN_INODES;
        let mut layout = Self {
            blocks: 0,
            groups: data.div_ceil(GROUP),
            inodes_per_group: 0,
            reserved: 0,
        };
        loop {
            layout.inodes_per_group = inodes
                .div_ceil(layout.groups)
                .next_multiple_of(INODES_PER_BLOCK)
                .min(GROUP);
            let own = data + layout.overhead();
            layout.blocks = own + (own / 49 + 1).min(KERNEL_RESERVE);
            let groups = layout.blocks.div_ceil(GROUP);
            if groups <= layout.groups {
                layout.groups = groups;
                break;
            }
            layout.groups = groups;
        }
        let last = layout.groups - 1;
        if last > 0 {
            let smallest = layout.tables(last) + SMALLEST_REST;
            layout.blocks = layout.blocks.max(last * GROUP + smallest);
        }
        layout.reserved = (layout.blocks - layout.overhead() - data)
            .saturating_sub(kernel_reserve(layout.blocks));
        Some(layout)
    }

    /// Bytes of the file it needs.
    pub(super) const fn file_size(&self) -> u64 {
        self.blocks * BLOCK
    }

    const fn descriptor_blocks(&self) -> u64 {
        (self.groups * DESCRIPTOR).div_ceil(BLOCK)
    }

    const fn inode_table(&self) -> u64 {
        self.inodes_per_group / INODES_PER_BLOCK
    }

    /// Blocks before the bitmaps of a group: superblock and descriptors, where it has them.
    const fn head(&self, group: u64) -> u64 {
        if has_super(group) {
            1 + self.descriptor_blocks()
        } else {
            0
        }
    }

    /// Blocks that a group takes for itself.
    const fn tables(&self, group: u64) -> u64 {
        self.head(group) + 2 + self.inode_table()
    }

    fn overhead(&self) -> u64 {
        (0..self.groups).map(|group| self.tables(group)).sum()
    }

    fn size(&self, group: u64) -> u64 {
        (self.blocks - group * GROUP).min(GROUP)
    }

    fn used(&self, group: u64) -> u64 {
        self.tables(group) + if group == 0 { TAKEN_BLOCKS } else { 0 }
    }

    const fn used_inodes(group: u64) -> u64 {
        if group == 0 { TAKEN_INODES } else { 0 }
    }

    /// The first block after the tables of the first group.
    fn first_folder(&self) -> u64 {
        self.tables(0)
    }
}

/// Blocks that Linux keeps back for itself at the most.
const KERNEL_RESERVE: u64 = 4096;

/// Blocks that Linux keeps back in a file system of this size: a fiftieth, and not many.
fn kernel_reserve(blocks: u64) -> u64 {
    (blocks / 50).min(KERNEL_RESERVE)
}

/// Copies of the superblock stand in the groups 0, 1 and the powers of 3, 5 and 7.
const fn has_super(group: u64) -> bool {
    const fn is_power(mut group: u64, base: u64) -> bool {
        while group > base && group.is_multiple_of(base) {
            group /= base;
        }
        group == base
    }
    group <= 1 || is_power(group, 3) || is_power(group, 5) || is_power(group, 7)
}

/// Whether a file begins with a file system that was written whole.
pub(super) fn is_complete(file: &File) -> bool {
    let mut magic = [0; 2];
    file.read_exact_at(&mut magic, MAGIC_OFFSET).is_ok() && u16::from_le_bytes(magic) == MAGIC
}

/// Writes a file system into a file of zeros that has the layout's size already.
///
/// What makes it one is written last: a file that was left half done is not [`is_complete`].
pub(super) fn write(
    file: &File,
    request: &Request,
    layout: &Layout,
    identity: [u8; 32],
) -> io::Result<()> {
    let superblock = |group| superblock(layout, group, identity);
    let descriptors = descriptors(layout)?;
    for group in (0..layout.groups).rev() {
        let mut bytes = Vec::new();
        if has_super(group) {
            let mut first = vec![0; size(BLOCK)?];
            if group > 0 {
                put(&mut first, 0, &superblock(group)?);
            }
            bytes.append(&mut first);
            bytes.extend_from_slice(&descriptors);
        }
        bytes.extend(bitmap(layout.used(group), layout.size(group))?);
        bytes.extend(bitmap(Layout::used_inodes(group), layout.inodes_per_group)?);
        if group == 0 {
            bytes.extend(inodes(request, layout)?);
        }
        file.write_all_at(&bytes, group * GROUP * BLOCK)?;
    }
    file.write_all_at(&folders()?, layout.first_folder() * BLOCK)?;
    file.write_all_at(&superblock(0)?, SUPER_OFFSET)
}

fn superblock(layout: &Layout, group: u64, identity: [u8; 32]) -> io::Result<Vec<u8>> {
    let inodes = layout.groups * layout.inodes_per_group;
    let used: u64 = (0..layout.groups).map(|group| layout.used(group)).sum();
    let mut block = vec![0; SUPER_SIZE];
    let mut number = |offset: usize, value: u64| -> io::Result<()> {
        put(&mut block, offset, &narrow::<u32>(value)?.to_le_bytes());
        Ok(())
    };
    number(0, inodes)?;
    number(4, layout.blocks)?;
    number(8, layout.reserved)?;
    number(12, layout.blocks - used)?;
    number(16, inodes - TAKEN_INODES)?;
    // Sizes of a block and a cluster, as powers of two above 1024.
    number(24, 2)?;
    number(28, 2)?;
    number(32, GROUP)?;
    number(36, GROUP)?;
    number(40, layout.inodes_per_group)?;
    number(76, 1)?;
    number(84, FIRST_INODE.into())?;
    number(92, COMPATIBLE.into())?;
    number(96, INCOMPATIBLE.into())?;
    number(100, READ_ONLY_COMPATIBLE.into())?;
    number(256, DEFAULT_OPTIONS.into())?;
    number(352, SIGNED_HASH.into())?;
    let mut short = |offset: usize, value: u16| put(&mut block, offset, &value.to_le_bytes());
    // Never checked for its age or the number of its mounts.
    short(54, u16::MAX);
    short(56, MAGIC);
    short(58, 1);
    short(60, ON_ERROR_READ_ONLY);
    short(80, NOBODY);
    short(82, NOBODY);
    short(88, narrow(INODE)?);
    short(90, narrow(group)?);
    short(348, WIDE_INODE);
    short(350, WIDE_INODE);
    let (uuid, seed) = identity.split_at(16);
    put(&mut block, 104, uuid);
    put(&mut block, 236, seed);
    put(&mut block, 252, &[HALF_MD4]);
    Ok(block)
}

fn descriptors(layout: &Layout) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; size(layout.descriptor_blocks() * BLOCK)?];
    for group in 0..layout.groups {
        let offset = size(group * DESCRIPTOR)?;
        let tables = group * GROUP + layout.head(group);
        for (index, block) in [tables, tables + 1, tables + 2].into_iter().enumerate() {
            let place = offset + 4 * index;
            put(&mut bytes, place, &narrow::<u32>(block)?.to_le_bytes());
        }
        let folders = if group == 0 { TAKEN_BLOCKS } else { 0 };
        let free = layout.size(group) - layout.used(group);
        let free_inodes = layout.inodes_per_group - Layout::used_inodes(group);
        for (index, count) in [free, free_inodes, folders].into_iter().enumerate() {
            let place = offset + 12 + 2 * index;
            put(&mut bytes, place, &narrow::<u16>(count)?.to_le_bytes());
        }
    }
    Ok(bytes)
}

/// A block whose first `used` bits are set, and all from `end` on.
fn bitmap(used: u64, end: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0_u8; size(BLOCK)?];
    let (used, end) = (size(used)?, size(end)?);
    bytes[..used / 8].fill(0xFF);
    if !used.is_multiple_of(8) {
        bytes[used / 8] |= (1 << (used % 8)) - 1;
    }
    if !end.is_multiple_of(8) {
        bytes[end / 8] |= 0xFF << (end % 8);
    }
    bytes[end.div_ceil(8)..].fill(0xFF);
    Ok(bytes)
}

/// The first block of the inode table: the root and the folders in it.
fn inodes(request: &Request, layout: &Layout) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; size(BLOCK)?];
    let task = (request.uid, request.gid);
    let links = 2 + narrow::<u16>(FOLDERS.len() as u64)?;
    let root = (ROOT_INODE, task, links);
    let below = (FIRST_INODE..)
        .zip(FOLDERS)
        .map(|(inode, (_, of_task))| (inode, if of_task { task } else { (0, 0) }, 2));
    let all = std::iter::once(root).chain(below);
    for ((inode, owner, links), block) in all.zip(layout.first_folder()..) {
        let place = size(u64::from(inode - 1) * INODE)?;
        let inode = folder_inode(owner, links, block, request.now)?;
        put(&mut bytes, place, &inode);
    }
    Ok(bytes)
}

fn folder_inode((uid, gid): (u32, u32), links: u16, block: u64, now: u32) -> io::Result<[u8; 148]> {
    let mut inode = [0; 148];
    let mut short = |offset: usize, value: u16| put(&mut inode, offset, &value.to_le_bytes());
    let low = |id: u32| narrow::<u16>(u64::from(id & 0xFFFF));
    let high = |id: u32| narrow::<u16>(u64::from(id >> 16));
    short(0, FOLDER_MODE);
    short(2, low(uid)?);
    short(24, low(gid)?);
    short(26, links);
    // One extent of one block, in the inode itself; there is room for four.
    short(40, EXTENT_MAGIC);
    short(42, 1);
    short(44, 4);
    short(56, 1);
    short(120, high(uid)?);
    short(122, high(gid)?);
    short(128, WIDE_INODE);
    let mut number = |offset: usize, value: u32| put(&mut inode, offset, &value.to_le_bytes());
    number(4, narrow(BLOCK)?);
    // Read, changed, written and made.
    for offset in [8, 12, 16, 144] {
        number(offset, now);
    }
    number(28, narrow(BLOCK / 512)?);
    number(32, EXTENTS_FLAG);
    number(60, narrow(block)?);
    Ok(inode)
}

/// The contents of the root and the folders in it, one block each.
fn folders() -> io::Result<Vec<u8>> {
    let names = (FIRST_INODE..).zip(FOLDERS.map(|(name, _)| name));
    let mut bytes = folder(ROOT_INODE, names.clone())?;
    for (inode, _) in names {
        bytes.extend(folder(inode, std::iter::empty())?);
    }
    Ok(bytes)
}

/// A folder below the root, with these entries besides itself and its parent.
fn folder<'a>(inode: u32, entries: impl Iterator<Item = (u32, &'a str)>) -> io::Result<Vec<u8>> {
    let mut entries = [(inode, "."), (ROOT_INODE, "..")]
        .into_iter()
        .chain(entries)
        .peekable();
    let mut block = Vec::new();
    while let Some((inode, name)) = entries.next() {
        let length = match entries.peek() {
            Some(_) => (8 + name.len() as u64).next_multiple_of(4),
            // The last entry takes what is left.
            None => BLOCK - block.len() as u64,
        };
        let end = block.len() + size(length)?;
        block.extend(inode.to_le_bytes());
        block.extend(narrow::<u16>(length)?.to_le_bytes());
        block.extend([narrow::<u8>(name.len() as u64)?, FOLDER_TYPE]);
        block.extend(name.as_bytes());
        block.resize(end, 0);
    }
    Ok(block)
}

fn put(bytes: &mut [u8], offset: usize, value: &[u8]) {
    bytes[offset..offset + value.len()].copy_from_slice(value);
}

fn narrow<T: TryFrom<u64>>(value: u64) -> io::Result<T> {
    T::try_from(value).map_err(|_| io::Error::other("a number of the file system is too large"))
}

fn size(value: u64) -> io::Result<usize> {
    narrow(value)
}
