//! The processes that belong to a lane, found by what they cannot shed: their group of cgroups, their
//! program, their arguments, the folder they were given as home.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// A process of a lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Process {
    /// Its number.
    pub pid: u32,
    /// Its program's name.
    pub program: String,
}

/// All processes of the lane with this folder and name, but this one.
pub(super) fn of_lane(folder: &Path, name: &str) -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| *pid != std::process::id())
        .filter_map(|pid| {
            let program = program(pid)?;
            belongs(pid, folder, name).then_some(Process { pid, program })
        })
        .collect()
}

/// The containers that processes of the lane belong to: those in their groups, and those that watch
/// over them.
pub(super) fn containers(folder: &Path, name: &str) -> BTreeMap<String, Vec<u32>> {
    let mut containers = BTreeMap::<String, Vec<u32>>::new();
    for process in of_lane(folder, name) {
        let read = |file: &str| fs::read(format!("/proc/{}/{file}", process.pid));
        let groups = read("cgroup").unwrap_or_default();
        let arguments = read("cmdline").unwrap_or_default();
        let arguments = String::from_utf8_lossy(&arguments);
        let id = container_in(&String::from_utf8_lossy(&groups), name)
            .or_else(|| watched(&arguments.split('\0').collect::<Vec<_>>()));
        if let Some(id) = id {
            containers.entry(id).or_default().push(process.pid);
        }
    }
    containers
}

/// The container of a process with these cgroups.
fn container_in(cgroups: &str, name: &str) -> Option<String> {
    let start = format!("/{name}/");
    let mut paths = cgroups
        .lines()
        .filter_map(|line| line.splitn(3, ':').nth(2));
    let rest = paths.find_map(|path| path.strip_prefix(&start))?;
    rest.split('/').next().map(str::to_owned)
}

/// The container that a shim with these arguments watches over.
fn watched(arguments: &[&str]) -> Option<String> {
    if !arguments.first()?.contains("containerd-shim") {
        return None;
    }
    let place = arguments.iter().position(|word| *word == "-id")?;
    arguments.get(place + 1).map(|id| (*id).to_owned())
}

/// The name of a process's program; none of one that has ended, or never had one.
fn program(pid: u32) -> Option<String> {
    let path = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    // That of a container about to be is in no place that has a name.
    let name = path.file_name().unwrap_or("without a name".as_ref());
    Some(name.to_string_lossy().into_owned())
}

fn belongs(pid: u32, folder: &Path, name: &str) -> bool {
    let folder = folder.display().to_string();
    // A process that ends while it is looked at has nothing to read any more.
    let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    if is_in_group(&String::from_utf8_lossy(&read("cgroup")), name) {
        return true;
    }
    let is_below = |word: &str| names(word, &folder);
    let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    if is_below(&exe.to_string_lossy()) {
        return true;
    }
    [read("cmdline"), read("environ")].iter().any(|bytes| {
        let mut words = bytes.split(|byte| *byte == 0);
        words.any(|word| is_below(&String::from_utf8_lossy(word)))
    })
}

/// Whether a process with these cgroups is in the lane's group or below it.
pub(super) fn is_in_group(cgroups: &str, name: &str) -> bool {
    let group = format!("/{name}");
    let mut paths = cgroups
        .lines()
        .filter_map(|line| line.splitn(3, ':').nth(2));
    paths.any(|path| path == group || path.starts_with(&format!("{group}/")))
}

/// Whether a word names the folder or something in it.
fn names(word: &str, folder: &str) -> bool {
    word.match_indices(folder).any(|(at, _)| {
        let rest = &word[at + folder.len()..];
        rest.is_empty() || rest.starts_with('/')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_is_told_from_one_whose_name_begins_alike() {
        assert!(names("HOME=/tmp/lane-1/home", "/tmp/lane-1"));
        assert!(names("unix:///tmp/lane-1", "/tmp/lane-1"));
        assert!(!names("HOME=/tmp/lane-12/home", "/tmp/lane-1"));
        assert!(is_in_group("4:memory:/lane-1/0a1b\n0::/", "lane-1"));
        assert!(!is_in_group("4:memory:/lane-12/0a1b", "lane-1"));
        assert!(!is_in_group("4:memory:/", "lane-1"));
    }

    #[test]
    fn a_container_is_known_by_its_processes_and_by_who_watches_over_it() {
        assert_eq!(
            container_in("4:memory:/lane-1/0a1b\n0::/", "lane-1").as_deref(),
            Some("0a1b")
        );
        assert_eq!(container_in("4:memory:/lane-12/0a1b", "lane-1"), None);
        let shim = [
            "/usr/bin/containerd-shim-runc-v2",
            "-namespace",
            "moby",
            "-id",
            "0a1b",
        ];
        assert_eq!(watched(&shim).as_deref(), Some("0a1b"));
        assert_eq!(watched(&["ctr", "-id", "0a1b"]), None);
    }

    #[test]
    fn a_process_of_the_folder_is_found_and_this_one_is_not() {
        let folder = std::env::temp_dir().join(format!("chaos-processes-{}", std::process::id()));
        let mut child = std::process::Command::new("cat")
            .env("SWE_FORGE_HOME", folder.join("home"))
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let found = of_lane(&folder, "chaos-no-such-group");
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(
            found.iter().map(|process| process.pid).collect::<Vec<_>>(),
            [child.id()]
        );
    }
}
