//! Loop devices: block devices whose contents are a file.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;

const CONTROL: &str = "/dev/loop-control";
/// One folder for each block device; a loop device that has a file has a `loop` in its own.
const BLOCK_DEVICES: &str = "/sys/block";

const SET_FD: libc::c_ulong = 0x4C00;
const CLEAR_FD: libc::c_ulong = 0x4C01;
const SET_STATUS: libc::c_ulong = 0x4C04;
const GET_STATUS: libc::c_ulong = 0x4C05;
const CONFIGURE: libc::c_ulong = 0x4C0A;
const GET_FREE: libc::c_ulong = 0x4C82;

/// How often another device is tried when somebody else was faster.
const ATTEMPTS: usize = 128;

/// `struct loop_info64` of `linux/loop.h`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Info {
    device: u64,
    inode: u64,
    own_device: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config` of `linux/loop.h`.
#[repr(C)]
struct Configuration {
    file: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

const EMPTY: Info = Info {
    device: 0,
    inode: 0,
    own_device: 0,
    offset: 0,
    size_limit: 0,
    number: 0,
    encrypt_type: 0,
    encrypt_key_size: 0,
    flags: 0,
    file_name: [0; 64],
    crypt_name: [0; 64],
    encrypt_key: [0; 32],
    init: [0; 2],
};

/// Gives `image` a device; `path` is what tools show for it.
pub(super) fn attach(image: &File, path: &Path) -> io::Result<PathBuf> {
    let control = open(Path::new(CONTROL), true)?;
    for _ in 0..ATTEMPTS {
        // SAFETY: this request has no argument and touches no memory of ours.
        let number = Errno::result(unsafe { libc::ioctl(control.as_raw_fd(), GET_FREE as _) })?;
        let device = PathBuf::from(format!("/dev/loop{number}"));
        match configure(&open(&device, true)?, image, path) {
            Ok(()) => return Ok(device),
            // Free a moment ago, and taken since.
            Err(Errno::EBUSY) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(io::Error::other(
        "every free loop device was taken by others",
    ))
}

fn configure(device: &File, image: &File, path: &Path) -> Result<(), Errno> {
    let file = u32::try_from(image.as_raw_fd()).map_err(|_| Errno::EBADF)?;
    let mut info = EMPTY;
    let name = path.as_os_str().as_bytes();
    // The last byte stays zero.
    let shown = name.len().min(info.file_name.len() - 1);
    info.file_name[..shown].copy_from_slice(&name[..shown]);
    let configuration = Configuration {
        file,
        block_size: 0,
        info,
        reserved: [0; 8],
    };
    // SAFETY: the argument is a valid `struct loop_config`, which the kernel only reads.
    let done = unsafe { libc::ioctl(device.as_raw_fd(), CONFIGURE as _, &raw const configuration) };
    match Errno::result(done) {
        // Linux before 5.8.
        Err(Errno::EINVAL | Errno::ENOTTY) => configure_in_steps(device, file, &info),
        other => other.map(drop),
    }
}

fn configure_in_steps(device: &File, file: u32, info: &Info) -> Result<(), Errno> {
    let device = device.as_raw_fd();
    // SAFETY: the argument is a file descriptor by value.
    Errno::result(unsafe { libc::ioctl(device, SET_FD as _, file) })?;
    // SAFETY: the argument is a valid `struct loop_info64`, which the kernel only reads.
    let named = unsafe { libc::ioctl(device, SET_STATUS as _, &raw const *info) };
    Errno::result(named).map(drop).inspect_err(|_| {
        // SAFETY: this request has no argument.
        unsafe { libc::ioctl(device, CLEAR_FD as _) };
    })
}

/// Every device whose contents are `image`, which is at `path`.
///
/// Only devices whose file has the same name are opened: opening one that somebody is giving up
/// takes as long as that. The folder is none of the name, since it is another one in a container.
pub(super) fn of(image: &File, path: &Path) -> io::Result<Vec<PathBuf>> {
    let wanted = image.metadata()?;
    let mut found = Vec::new();
    for entry in std::fs::read_dir(BLOCK_DEVICES)? {
        let entry = entry?;
        let name = entry.file_name();
        if !is_loop(&name) || !has_file_named(&entry.path(), path) {
            continue;
        }
        let device = Path::new("/dev").join(name);
        match status(&device) {
            Ok(info) if (info.device, info.inode) == (wanted.dev(), wanted.ino()) => {
                found.push(device);
            }
            Ok(_) => {}
            // Given up by somebody in this moment.
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    found.sort();
    Ok(found)
}

fn has_file_named(device: &Path, path: &Path) -> bool {
    let Ok(file) = std::fs::read(device.join("loop/backing_file")) else {
        return false;
    };
    let file = file.strip_suffix(b"\n").unwrap_or(&file);
    let file = file.strip_suffix(b" (deleted)").unwrap_or(file);
    Path::new(OsStr::from_bytes(file)).file_name() == path.file_name()
}

fn is_loop(name: &OsStr) -> bool {
    let number = name.as_bytes().strip_prefix(b"loop");
    number.is_some_and(|digits| !digits.is_empty() && digits.iter().all(u8::is_ascii_digit))
}

fn is_gone(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    code == Some(libc::ENXIO) || code == Some(libc::ENOENT) || code == Some(libc::ENODEV)
}

fn status(device: &Path) -> io::Result<Info> {
    let device = open(device, false)?;
    let mut info = EMPTY;
    // SAFETY: the argument is a valid place for a `struct loop_info64`.
    let done = unsafe { libc::ioctl(device.as_raw_fd(), GET_STATUS as _, &raw mut info) };
    Errno::result(done)?;
    Ok(info)
}

/// Takes its file away from a device: at once, or when whoever still uses it lets go.
pub(super) fn detach(device: &Path) -> io::Result<()> {
    match open(device, true) {
        Err(error) if is_gone(&error) => Ok(()),
        other => clear(&other?),
    }
}

/// The same for a device whose file, which was at `path`, is gone; nothing where the device has by
/// now become somebody else's.
pub(super) fn detach_from(device: &Path, path: &Path) -> io::Result<()> {
    let Some(name) = device.file_name().filter(|name| is_loop(name)) else {
        return Ok(());
    };
    // Held open over the look at it: until then it does not pass to another file.
    let open = match open(device, true) {
        Err(error) if is_gone(&error) => return Ok(()),
        other => other?,
    };
    if has_file_named(&Path::new(BLOCK_DEVICES).join(name), path) {
        clear(&open)?;
    }
    Ok(())
}

fn clear(device: &File) -> io::Result<()> {
    // SAFETY: this request has no argument and touches no memory of ours.
    let done = unsafe { libc::ioctl(device.as_raw_fd(), CLEAR_FD as _) };
    match Errno::result(done) {
        Err(Errno::ENXIO) => Ok(()),
        other => Ok(other.map(drop)?),
    }
}

fn open(path: &Path, write: bool) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(write)
        .open(path)
        .map_err(|error| {
            let message = format!("{}: {error}", path.display());
            match error.raw_os_error() {
                Some(code) if is_gone(&error) => io::Error::from_raw_os_error(code),
                _ => io::Error::new(error.kind(), message),
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_structures_have_the_kernel_s_sizes() {
        assert_eq!(size_of::<Info>(), 232);
        assert_eq!(size_of::<Configuration>(), 304);
    }

    #[test]
    fn only_numbered_loop_devices_are_looked_at() {
        assert!(is_loop(OsStr::new("loop0")) && is_loop(OsStr::new("loop129")));
        for name in ["loop", "loop1p1", "loop-control", "vda"] {
            assert!(!is_loop(OsStr::new(name)), "{name}");
        }
    }
}
