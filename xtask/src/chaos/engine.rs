//! A `dockerd` of the suite's own, with its own name spaces, socket, disk and group of cgroups: what
//! is done to it, and what it does to bridges, rules and mounts, is done to nobody else's.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use super::census::mount_points;
use super::http::{ARCHIVE, Client};
use super::tasks::{IMAGE, PROGRAMS};
use super::{clean_up, processes};
use crate::files::{at, write};
use crate::shell::Failure;

/// How long it may take to answer, or to end.
const PATIENCE: Duration = Duration::from_secs(60);
/// Size of its disk: large enough for the images and a few workspaces, small enough to fill at once.
const DISK_BYTES: u64 = 768 * 1024 * 1024;
/// What is left when a file has taken all the space that is there, in steps of so much.
const STEP_BYTES: u64 = 256 * 1024;

/// Lets go of the disks of other lanes, which would not go away before this one does.
const HOLDER: &str = "\
while read -r _ _ _ _ place _; do
    case $place in
    \"$SWE_FORGE_CHAOS\"/*) ;;
    */swe-forge-chaos-*/data) umount \"$place\" ;;
    esac
done < /proc/self/mountinfo
exec cat";

/// The engine.
#[derive(Debug)]
pub(super) struct Engine {
    folder: PathBuf,
    name: String,
    /// Holds the name spaces, also while the engine is away.
    holder: Child,
    process: Child,
}

impl Engine {
    /// Makes its disk below `folder` and starts it.
    pub(super) fn start(folder: &Path, name: &str) -> Result<Self, Failure> {
        make_disk(folder)?;
        let mut holder = Command::new("unshare")
            .args(["--net", "--mount", "sh", "-c", HOLDER])
            // Says whose it is.
            .env("SWE_FORGE_CHAOS", folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|error| Failure::new(format!("unshare could not be started: {error}")))?;
        // What it sends back says that it is inside.
        let (input, output) = (holder.stdin.as_mut(), holder.stdout.as_mut());
        if let (Some(input), Some(output)) = (input, output) {
            input
                .write_all(b"x")
                .and_then(|()| output.read_exact(&mut [0]))
                .map_err(|error| {
                    Failure::new(format!("no name spaces for a second engine: {error}"))
                })?;
        }
        set_live_restore(folder, true)?;
        let process = spawn(folder, name, holder.id())?;
        let engine = Self {
            folder: folder.to_owned(),
            name: name.to_owned(),
            holder,
            process,
        };
        engine.wait()?;
        Ok(engine)
    }

    pub(super) fn client(&self) -> Client {
        Client::new(&self.folder.join("socket"))
    }

    /// Its address, for `DOCKER_HOST`.
    pub(super) fn address(&self) -> String {
        format!("unix://{}", self.folder.join("socket").display())
    }

    /// The process that holds its name spaces.
    pub(super) fn holder(&self) -> u32 {
        self.holder.id()
    }

    /// Its own process.
    pub(super) fn pid(&self) -> u32 {
        self.process.id()
    }

    fn wait(&self) -> Result<(), Failure> {
        let until = Instant::now() + PATIENCE;
        while self.client().get("/_ping").is_err() {
            if Instant::now() > until {
                let log = fs::read_to_string(self.folder.join("dockerd.log")).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let last = lines[lines.len().saturating_sub(10)..].join("\n");
                return Err(Failure::new(format!(
                    "the second engine does not answer:\n{last}"
                )));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Kills it, as the machine does when memory runs out.
    pub(super) fn kill(&mut self) -> Result<(), Failure> {
        self.process
            .kill()
            .and_then(|()| self.process.wait())
            .map_err(|error| Failure::new(format!("the engine could not be killed: {error}")))?;
        // Its containerd went with it, but looks alive as long as nobody has taken note of its end.
        for left in ["exec/containerd/containerd.pid", "pid"] {
            let path = self.folder.join(left);
            if path.exists() {
                fs::remove_file(&path).map_err(|error| at(&path, &error))?;
            }
        }
        Ok(())
    }

    /// Stops it in an orderly way; with `keeps` its containers go on.
    pub(super) fn stop(&mut self, keeps: bool) -> Result<(), Failure> {
        if !keeps {
            set_live_restore(&self.folder, false)?;
            signal(self.pid(), "HUP")?;
            self.wait_for_live_restore(false)?;
        }
        signal(self.pid(), "TERM")?;
        let until = Instant::now() + PATIENCE;
        while matches!(self.process.try_wait(), Ok(None)) {
            if Instant::now() > until {
                return Err(Failure::new("the second engine does not end"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        set_live_restore(&self.folder, true)
    }

    fn wait_for_live_restore(&self, is_on: bool) -> Result<(), Failure> {
        let until = Instant::now() + PATIENCE;
        while self.client().get("/info")?["LiveRestoreEnabled"] != is_on {
            if Instant::now() > until {
                return Err(Failure::new("the second engine does not heed its settings"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Starts it on what it had.
    pub(super) fn start_again(&mut self) -> Result<(), Failure> {
        self.process = spawn(&self.folder, &self.name, self.holder.id())?;
        self.wait()
    }

    /// Ends what the engine itself has forgotten: a container that it was making or starting when it
    /// was killed stays mounted or goes on below, and an engine of this age takes no note of it when
    /// it comes back. Nobody can reach that through the engine. How many there were.
    pub(super) fn end_forgotten(&self) -> Result<usize, Failure> {
        let known = self.client().list("/containers/json?all=true")?;
        let known: Vec<&str> = known
            .iter()
            .filter_map(|each| each["Id"].as_str())
            .collect();
        let mut forgotten = processes::containers(&self.folder, &self.name);
        forgotten.retain(|id, _| !known.contains(&id.as_str()));
        for (id, pids) in &forgotten {
            for pid in pids {
                // One may end with another.
                drop(signal(*pid, "KILL"));
            }
            clean_up::remove_groups(&Path::new(&self.name).join(id))?;
        }
        Ok(forgotten.len() + self.unmount_forgotten(&known)?)
    }

    /// Takes away the root file systems of containers that the engine does not know.
    fn unmount_forgotten(&self, known: &[&str]) -> Result<usize, Failure> {
        let mut used = Vec::new();
        for id in known {
            let container = self.client().get(&format!("/containers/{id}/json"))?;
            let place = container["GraphDriver"]["Data"]["MergedDir"].as_str();
            used.extend(place.map(str::to_owned));
        }
        let layers = self.folder.join("data/engine/overlay2");
        let mut places = mount_points(&format!("/proc/{}/mountinfo", self.holder()));
        places.retain(|place| Path::new(place).starts_with(&layers) && !used.contains(place));
        for place in &places {
            let mut command = Command::new("nsenter");
            command.args(["--mount", "--target", &self.holder().to_string()]);
            read(command.args(["umount", place]))?;
        }
        Ok(places.len())
    }

    /// Lets it do nothing for a while.
    pub(super) fn freeze(&self, pause: Duration) -> Result<(), Failure> {
        signal(self.pid(), "STOP")?;
        std::thread::sleep(pause);
        signal(self.pid(), "CONT")
    }

    /// Fills its disk for a while.
    pub(super) fn fill_disk(&self, pause: Duration) -> Result<(), Failure> {
        let ballast = self.folder.join("data/ballast");
        let disk = self.folder.join("data");
        let free = read(
            Command::new("df")
                .args(["--output=avail", "-B1"])
                .arg(&disk),
        )?;
        let mut bytes = free
            .lines()
            .last()
            .and_then(|line| line.trim().parse::<u64>().ok())
            .unwrap_or(0);
        while bytes > STEP_BYTES {
            let mut command = Command::new("fallocate");
            command.args(["--length", &bytes.to_string()]).arg(&ballast);
            // One that fails has taken nothing.
            if output(&mut command)?.status.success() {
                break;
            }
            bytes -= STEP_BYTES;
        }
        std::thread::sleep(pause);
        match fs::remove_file(&ballast) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(at(&ballast, &error)),
            _ => Ok(()),
        }
    }

    /// Imports the image of the tasks: a few programs of this machine with their libraries.
    pub(super) fn import_image(&self) -> Result<(), Failure> {
        let listing = read(Command::new("ldd").args(PROGRAMS))?;
        let libraries = listing
            .split_whitespace()
            .filter(|word| word.starts_with('/') && !word.ends_with(':'));
        let mut names: Vec<&str> = PROGRAMS.into_iter().chain(libraries).collect();
        // An archive that names a file twice has a link to itself.
        names.sort_unstable();
        names.dedup();
        let mut command = Command::new("tar");
        command
            .args(["--dereference", "--create", "--directory", "/"])
            .args(names.iter().map(|name| name.trim_start_matches('/')));
        let archive = output(&mut command)?.stdout;
        let (repository, tag) = IMAGE.split_once(':').unwrap_or((IMAGE, "latest"));
        let path = format!("/images/create?fromSrc=-&repo={repository}&tag={tag}");
        self.client().ask("POST", &path, ARCHIVE, &archive)?;
        self.client()
            .get(&format!("/images/{IMAGE}/json"))
            .map(drop)
    }
}

/// A file system of its own, so that nothing but this engine is ever short of space.
fn make_disk(folder: &Path) -> Result<(), Failure> {
    let (disk, data) = (folder.join("disk"), folder.join("data"));
    fs::create_dir_all(&data).map_err(|error| at(&data, &error))?;
    fs::File::create(&disk)
        .and_then(|file| file.set_len(DISK_BYTES))
        .map_err(|error| at(&disk, &error))?;
    let mut make = Command::new("mkfs.ext4");
    read(make.args(["-q", "-F", "-m", "0"]).arg(&disk))?;
    let mut mount = Command::new("mount");
    read(mount.args(["-o", "loop"]).args([&disk, &data])).map(drop)
}

fn spawn(folder: &Path, name: &str, holder: u32) -> Result<Child, Failure> {
    let at = |name: &str| folder.join(name);
    let log = fs::File::options()
        .create(true)
        .append(true)
        .open(at("dockerd.log"))
        .map_err(|error| self::at(folder, &error))?;
    Command::new("nsenter")
        .args(["--net", "--mount", "--target", &holder.to_string()])
        .args(["dockerd", "--cgroup-parent", &format!("/{name}")])
        .arg("--config-file")
        .arg(at("daemon.json"))
        .arg("--host")
        .arg(format!("unix://{}", at("socket").display()))
        .arg("--data-root")
        .arg(at("data/engine"))
        .arg("--exec-root")
        .arg(at("exec"))
        .arg("--pidfile")
        .arg(at("pid"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        // Ctrl-C is not for it.
        .process_group(0)
        .spawn()
        .map_err(|error| Failure::new(format!("dockerd could not be started: {error}")))
}

fn set_live_restore(folder: &Path, is_on: bool) -> Result<(), Failure> {
    let settings = json!({"live-restore": is_on});
    write(&folder.join("daemon.json"), &settings.to_string())
}

/// Sends a signal to a process.
pub(super) fn signal(pid: u32, name: &str) -> Result<(), Failure> {
    read(Command::new("kill").args(["-s", name, &pid.to_string()])).map(drop)
}

/// Runs a program and gives what it wrote; the failure has what it complained of.
pub(super) fn read(command: &mut Command) -> Result<String, Failure> {
    let output = output(command)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Failure::new(format!(
        "{} {}: {}",
        command.get_program().to_string_lossy(),
        command
            .get_args()
            .map(|word| word.to_string_lossy())
            .collect::<Vec<_>>()
            .join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    )))
}

/// Runs a program.
pub(super) fn output(command: &mut Command) -> Result<Output, Failure> {
    command.stdin(Stdio::null()).output().map_err(|error| {
        let program = command.get_program().to_string_lossy().into_owned();
        Failure::new(format!("{program} could not be started: {error}"))
    })
}
