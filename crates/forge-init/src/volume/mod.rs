//! `forge-init volume`: file systems of an exact size in files, each on a loop device.
//!
//! Runs as root on the engine's machine, outside of every sandbox: directly, or in a helper
//! container that has the machine's devices. An engine's volume names the link
//! [`LINKS`]`/<name>`, which this makes point to the device. The link is in the machine's `/dev`,
//! so that none is left to point to somebody else's device when the machine starts again.

mod ext4;
#[cfg(test)]
mod ext4_tests;
mod loop_device;
mod room;

use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use nix::fcntl::{FallocateFlags, Flock, FlockArg, OFlag, fallocate};

use ext4::{Layout, Request};

/// Where the links to devices are.
const LINKS: &str = "/dev/swe-forge";
/// How a file of the pool ends.
const SUFFIX: &str = ".img";
const USAGE: &str =
    "usage: forge-init volume make POOL NAME BYTES FILES UID GID sparse|preallocated
       forge-init volume remove POOL NAME...
       forge-init volume sweep POOL SECONDS KEPT-NAME...
       forge-init volume probe POOL";
/// Size of the file that is made to see whether one can be.
const PROBE_BYTES: u64 = 1024 * 1024;

/// Does what the arguments after `volume` say.
pub(crate) fn run(arguments: &[String]) -> io::Result<()> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["make", pool, name, bytes, files, uid, gid, kind] => {
            let request = Request {
                bytes: number(bytes)?,
                files: number(files)?,
                uid: number(uid)?,
                gid: number(gid)?,
                now: now(),
            };
            let preallocated = match *kind {
                "sparse" => false,
                "preallocated" => true,
                _ => return Err(io::Error::other(USAGE)),
            };
            let device = Pool::make(pool)?.create(name, &request, preallocated)?;
            writeln!(io::stdout(), "{}", device.display())
        }
        ["remove", pool, names @ ..] => match Pool::find(pool)? {
            Some(pool) => names.iter().try_for_each(|name| pool.remove(name)),
            None => names.iter().try_for_each(|name| remove_device(name)),
        },
        ["sweep", pool, seconds, kept @ ..] => match Pool::find(pool)? {
            Some(pool) => pool.sweep(Duration::from_secs(number(seconds)?), kept),
            None => Ok(()),
        },
        ["probe", pool] => Pool::make(pool)?.probe(),
        _ => Err(io::Error::other(USAGE)),
    }
}

fn number<T: FromStr>(text: &str) -> io::Result<T> {
    text.parse()
        .map_err(|_| io::Error::other(format!("{text:?} is not a number; {USAGE}")))
}

/// The folder of the files.
struct Pool {
    path: PathBuf,
}

impl Pool {
    /// The folder, made where it is missing and closed to other users.
    fn make(path: &str) -> io::Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|error| about(path, &error))?;
        let pool = Self::find(path)?.ok_or(io::ErrorKind::NotFound)?;
        std::fs::set_permissions(path, Permissions::from_mode(0o700))
            .map_err(|error| about(path, &error))?;
        Ok(pool)
    }

    /// The folder, where it is there. Another user's would let that user choose what is mounted.
    fn find(path: &str) -> io::Result<Option<Self>> {
        let path = PathBuf::from(path);
        let shown = path.display();
        if !path.is_absolute() {
            return Err(io::Error::other(format!("{shown} is not an absolute path")));
        }
        match std::fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(about(shown, &error)),
            Ok(found) if found.is_dir() && found.uid() == nix::unistd::geteuid().as_raw() => {
                Ok(Some(Self { path }))
            }
            Ok(_) => Err(io::Error::other(format!(
                "{shown} is not a folder of this user"
            ))),
        }
    }

    /// Makes a file system and gives it a device, or finds it made.
    fn create(&self, name: &str, request: &Request, preallocated: bool) -> io::Result<PathBuf> {
        let layout = Layout::of(request).ok_or_else(|| {
            io::Error::other(format!("{} bytes are too many for one file", request.bytes))
        })?;
        let path = self.image(name)?;
        let _lock = lock(&path, true)?.ok_or(io::ErrorKind::NotFound)?;
        // Opened apart from the lock: the device keeps what it is given, and a lock with it.
        let image = open(&path, false)?;
        let attached = loop_device::of(&image, &path)?;
        if let Some(device) = attached.into_iter().next() {
            link(name, &device)?;
            return Ok(device);
        }
        let is_whole = image.metadata()?.len() == layout.file_size() && ext4::is_complete(&image);
        let made = if is_whole {
            Ok(())
        } else {
            room::ensure(&self.path, layout.file_size())
                .and_then(|()| fill(&image, request, &layout, preallocated))
        };
        let device = made.and_then(|()| loop_device::attach(&image, &path));
        match device {
            Ok(device) => link(name, &device).map(|()| device),
            Err(error) => {
                if !is_whole {
                    std::fs::remove_file(&path)?;
                }
                Err(about(path.display(), &error))
            }
        }
    }

    /// Takes away link, device and file, as far as they are there.
    fn remove(&self, name: &str) -> io::Result<()> {
        let path = self.image(name)?;
        let device = unlink(name)?;
        if let Some(_lock) = lock(&path, false)? {
            let image = open(&path, false)?;
            // Before the file: without it only the link would lead to its device.
            for device in loop_device::of(&image, &path)? {
                loop_device::detach(&device)?;
            }
            ignore_missing(std::fs::remove_file(&path))?;
        } else if let Some(device) = device {
            loop_device::detach_from(&device, &path)?;
        }
        Ok(())
    }

    /// Removes what is older than `age` and not in `kept`.
    fn sweep(&self, age: Duration, kept: &[&str]) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.path)? {
            let entry = entry?;
            let Some(name) = name_of(entry.file_name()) else {
                continue;
            };
            let changed = match entry.metadata().and_then(|found| found.modified()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            let is_old = SystemTime::now()
                .duration_since(changed)
                .is_ok_and(|passed| passed >= age);
            if is_old && !kept.contains(&name.as_str()) {
                self.remove(&name)?;
                writeln!(io::stdout(), "{name}")?;
            }
        }
        Ok(())
    }

    /// Makes and removes a small one.
    fn probe(&self) -> io::Result<()> {
        let name = format!("probe-{}", hex(identity()?.get(..8).unwrap_or_default()));
        let request = Request {
            bytes: PROBE_BYTES,
            files: 1,
            uid: 0,
            gid: 0,
            now: now(),
        };
        let made = self.create(&name, &request, false).map(drop);
        let removed = self.remove(&name);
        made.and(removed)
    }

    fn image(&self, name: &str) -> io::Result<PathBuf> {
        file_of(name).map(|file| self.path.join(file))
    }
}

/// The file of a name, which is one component of a path.
fn file_of(name: &str) -> io::Result<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || name.starts_with('.') || !name.bytes().all(plain) {
        return Err(io::Error::other(format!("{name:?} is not a name")));
    }
    Ok(format!("{name}{SUFFIX}"))
}

/// Takes away link and device of a file that is gone together with its pool.
fn remove_device(name: &str) -> io::Result<()> {
    let file = file_of(name)?;
    match unlink(name)? {
        Some(device) => loop_device::detach_from(&device, Path::new(&file)),
        None => Ok(()),
    }
}

/// Takes away a link before anything else of a name: at no time may it lead to a device that has
/// become somebody else's. Gives where it led.
fn unlink(name: &str) -> io::Result<Option<PathBuf>> {
    let link = Path::new(LINKS).join(name);
    let device = match std::fs::read_link(&link) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        other => Some(other.map_err(|error| about(link.display(), &error))?),
    };
    ignore_missing(std::fs::remove_file(&link))?;
    ignore_missing(std::fs::remove_file(beside(name)))?;
    Ok(device)
}

fn name_of(file: OsString) -> Option<String> {
    let file = file.into_string().ok()?;
    file.strip_suffix(SUFFIX).map(str::to_owned)
}

/// Locks a file, made where it is missing and `make` says so; none where it is not there.
fn lock(path: &Path, make: bool) -> io::Result<Option<Flock<File>>> {
    loop {
        let file = match open(path, make) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let locked = Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, error)| about(path.display(), &error.into()))?;
        let ours = locked.metadata()?;
        match std::fs::symlink_metadata(path) {
            Ok(found) if found.ino() == ours.ino() && found.dev() == ours.dev() => {
                return Ok(Some(locked));
            }
            // Removed by whoever had the lock before.
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(about(path.display(), &error)),
        }
    }
}

fn open(path: &Path, make: bool) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(make)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(path)
        .map_err(|error| about(path.display(), &error))
}

/// Empties the file and writes the file system: whatever was there is nobody's any more.
fn fill(image: &File, request: &Request, layout: &Layout, preallocated: bool) -> io::Result<()> {
    image.set_len(0)?;
    image.set_len(layout.file_size())?;
    if preallocated {
        preallocate(image, layout.file_size())?;
    }
    ext4::write(image, request, layout, identity()?)
}

/// Takes the disk below; the caller knows that it is there.
fn preallocate(image: &File, size: u64) -> io::Result<()> {
    let length = size
        .try_into()
        .map_err(|_| io::Error::other("the file would be too large"))?;
    Ok(fallocate(image, FallocateFlags::empty(), 0, length)?)
}

/// Seconds since 1970; some tools refuse files from then.
fn now() -> u32 {
    let passed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    passed.map_or(0, |passed| u32::try_from(passed.as_secs()).unwrap_or(0))
}

/// Random bytes by which a file system differs from all others.
fn identity() -> io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Puts the link in place whole, whatever was there; the caller has the lock.
fn link(name: &str, device: &Path) -> io::Result<()> {
    let links = Path::new(LINKS);
    let make = || {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(links)?;
        let beside = beside(name);
        ignore_missing(std::fs::remove_file(&beside))?;
        symlink(device, &beside)?;
        std::fs::rename(&beside, links.join(name))
    };
    make().map_err(|error| about(LINKS, &error))
}

/// Where a link is before it is in its place.
fn beside(name: &str) -> PathBuf {
    Path::new(LINKS).join(format!(".{name}"))
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn about(subject: impl std::fmt::Display, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{subject}: {error}"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_one_component_of_a_path() {
        let folder = tempfile::tempdir().unwrap();
        let pool = Pool::make(folder.path().to_str().unwrap()).unwrap();
        assert!(pool.image("swe-forge-workspace-a.b_1").is_ok());
        for bad in ["", ".", "..", "a/b", ".hidden", "a b", "a\n"] {
            assert!(pool.image(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_link_is_no_pool_and_a_missing_one_has_nothing_to_remove() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        symlink(folder.path(), &link).unwrap();
        assert!(Pool::make(link.to_str().unwrap()).is_err());
        let missing = folder.path().join("missing").display().to_string();
        run(&["remove".into(), missing.clone(), "a".into()]).unwrap();
        run(&["sweep".into(), missing, "0".into()]).unwrap();
        assert!(run(&["remove".into(), "relative".into(), "a".into()]).is_err());
    }

    #[test]
    fn whoever_waits_for_a_lock_on_a_removed_file_gets_one_on_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let first = lock(&path, true).unwrap().unwrap();
        let waiting = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| lock(&path, true));
            std::fs::remove_file(&path).unwrap();
            drop(first);
            waiting.join().unwrap()
        });
        let second = waiting.unwrap().unwrap();
        let found = std::fs::metadata(&path).unwrap();
        assert_eq!(second.metadata().unwrap().ino(), found.ino());
        assert!(
            lock(&folder.path().join("absent"), false)
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn what_is_half_written_is_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        let image = open(&folder.path().join("image"), true).unwrap();
        let request = Request {
            bytes: 1 << 20,
            files: 10,
            uid: 5,
            gid: 6,
            now: 0,
        };
        let layout = Layout::of(&request).unwrap();
        (&image).write_all(&[0xFF; 9000]).unwrap();
        fill(&image, &request, &layout, true).unwrap();
        assert!(ext4::is_complete(&image));
        assert_eq!(image.metadata().unwrap().len(), layout.file_size());
        assert!(image.metadata().unwrap().blocks() * 512 >= layout.file_size());
        fill(&image, &request, &layout, false).unwrap();
        assert!(image.metadata().unwrap().blocks() * 512 < layout.file_size());
    }
}
