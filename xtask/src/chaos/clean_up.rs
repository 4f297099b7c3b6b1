//! Takes a lane away: every process, mount, loop device, cgroup and file of it. Also done by a
//! process that waits for our end, so that Ctrl-C or a kill leave nothing.

use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use super::census::{loop_devices, mount_points};
use super::engine::{read, signal};
use super::processes;
use crate::files::at;
use crate::shell::Failure;

const PATIENCE: Duration = Duration::from_secs(60);
/// The option by which this program becomes the one that waits.
pub(super) const OPTION: &str = "--clean-up";

/// Takes away the lane with this folder; a folder that is not there is none.
pub(super) fn remove(folder: &Path) -> Result<(), Failure> {
    let name = name(folder);
    let until = Instant::now() + PATIENCE;
    loop {
        let left = processes::of_lane(folder, &name);
        // Who waits for us has the folder in its arguments as well.
        let left = left.iter().filter(|process| !is_waiting(process.pid));
        let mut left = left.peekable();
        if left.peek().is_none() {
            break;
        }
        if Instant::now() > until {
            let words: Vec<String> = left
                .map(|process| format!("{} ({})", process.program, process.pid))
                .collect();
            return Err(Failure::new(format!(
                "these do not end: {}",
                words.join(", ")
            )));
        }
        for process in left {
            // It may have ended by itself.
            drop(signal(process.pid, "KILL"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    // What is on a device is on the disk as well, and keeps it from going.
    let (disk, data) = (folder.join("disk"), folder.join("data"));
    detach(folder, until, |file| Path::new(file) != disk)?;
    while mount_points("/proc/self/mountinfo")
        .iter()
        .any(|place| Path::new(place) == data)
    {
        // The last process of the engine's name space takes its mounts away a moment later.
        if let Err(failure) = read(Command::new("umount").arg(&data))
            && Instant::now() > until
        {
            return Err(failure);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    // Somebody else's name space may still hold the disk, which goes with that.
    for device in loop_devices(folder).keys() {
        detach_one(device);
    }
    remove_groups(Path::new(&name))?;
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(|error| at(folder, &error))?;
    }
    Ok(())
}

/// The name of a lane, which is that of its folder.
pub(super) fn name(folder: &Path) -> String {
    let name = folder.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

fn is_waiting(pid: u32) -> bool {
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut words = arguments.split(|byte| *byte == 0);
    words.any(|word| word == OPTION.as_bytes())
}

/// Devices let go of their files once the last mount is gone, which may be later than its process.
fn detach(folder: &Path, until: Instant, is_meant: impl Fn(&str) -> bool) -> Result<(), Failure> {
    loop {
        let mut devices = loop_devices(folder);
        devices.retain(|_, file| is_meant(file));
        let Some((device, file)) = devices.first_key_value() else {
            return Ok(());
        };
        if Instant::now() > until {
            return Err(Failure::new(format!("{device} does not let go of {file}")));
        }
        for device in devices.keys() {
            detach_one(device);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn detach_one(device: &str) {
    let mut command = Command::new("losetup");
    // One that was let go of meanwhile has nothing to detach.
    drop(read(command.arg("--detach").arg(format!("/dev/{device}"))));
}

/// Removes a group from all hierarchies, with those below it.
pub(super) fn remove_groups(group: &Path) -> Result<(), Failure> {
    let until = Instant::now() + PATIENCE;
    for hierarchy in fs::read_dir("/sys/fs/cgroup")
        .into_iter()
        .flatten()
        .flatten()
    {
        remove_group(&hierarchy.path().join(group), until)?;
    }
    Ok(())
}

fn remove_group(group: &Path, until: Instant) -> Result<(), Failure> {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_group(&entry.path(), until)?;
        }
    }
    // A group stays busy for a moment after its last process.
    while group.exists() {
        match fs::remove_dir(group) {
            Err(error) if Instant::now() > until => return Err(at(group, &error)),
            _ => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    Ok(())
}

/// Takes lanes away when we are gone, also when we were killed: its input ends then.
#[derive(Debug)]
pub(super) struct Janitor {
    child: Child,
    input: Option<ChildStdin>,
}

impl Janitor {
    pub(super) fn start(folder: &Path) -> Result<Self, Failure> {
        let failure = |error| Failure::new(format!("nobody could be set to clean up: {error}"));
        let program = std::env::current_exe().map_err(failure)?;
        let mut child = Command::new(program)
            .args(["chaos", OPTION])
            .arg(folder)
            .stdin(Stdio::piped())
            // Not in our group: Ctrl-C is not for it.
            .process_group(0)
            .spawn()
            .map_err(failure)?;
        let input = child.stdin.take();
        Ok(Self { child, input })
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        drop(self.input.take());
        drop(self.child.wait());
    }
}

/// Waits for the end of its input, and then takes a lane away.
pub(super) fn wait_and_remove(folder: &Path) -> Result<(), Failure> {
    // Whatever ends the reading is an end of it.
    drop(std::io::stdin().read_to_end(&mut Vec::new()));
    remove(folder)
}
