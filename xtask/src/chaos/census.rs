//! Everything of a lane that there is: on its engine, in the kernel, on disk. Two of these say what a
//! cycle left, or took away.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::engine::Engine;
use super::processes;
use crate::shell::Failure;

/// Repositories of images that follow from contents and not from cycles.
const BY_CONTENT: [&str; 4] = [
    "swe-forge/prepared:",
    "swe-forge/egress:",
    "swe-forge/disk:",
    "swe-forge/probe:",
];
/// Files that an engine may have open more than before: connections that are ending, a log that it
/// just turned. What it leaks grows beyond that.
const MORE_FILES: usize = 24;
/// Digits of an identifier that is made anew each time.
const IDENTIFIER: usize = 12;
/// Folders of the engine's machine whose contents are counted, with what they are.
const COUNTED: [(&str, &str); 3] = [
    ("home/channels", "channel"),
    ("tmp", "temporary file"),
    ("data/pool", "file of the pool"),
];

/// What there is, each with how many of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Census {
    things: BTreeMap<String, usize>,
    /// Open files of the engine's process, which is another one after it was started again.
    files: (u32, usize),
}

impl Census {
    /// Counts.
    pub(super) fn take(engine: &Engine, folder: &Path, name: &str) -> Result<Self, Failure> {
        let mut census = Self::default();
        census.of_engine(engine)?;
        census.of_cgroups(name);
        census.of_mounts(engine, folder);
        census.of_loop_devices(folder);
        for process in processes::of_lane(folder, name) {
            census.add("process", &process.program);
        }
        let sockets = fs::read_to_string("/proc/net/unix").unwrap_or_default();
        let home = format!("{}/home/", folder.display());
        for socket in sockets
            .lines()
            .filter_map(|line| line.split(' ').next_back())
        {
            if let Some(rest) = socket.strip_prefix(&home) {
                census.add("socket", rest);
            }
        }
        for (place, what) in COUNTED {
            census.of_files(what, &folder.join(place), Path::new(""));
        }
        let open = fs::read_dir(format!("/proc/{}/fd", engine.pid()));
        census.files = (engine.pid(), open.map_or(0, Iterator::count));
        Ok(census)
    }

    /// What there is now and was not, and what there was and is not.
    pub(super) fn changes(&self, now: &Self) -> Vec<String> {
        let mut changes = Vec::new();
        let keys = self.things.keys().chain(now.things.keys());
        let keys: std::collections::BTreeSet<&String> = keys.collect();
        for key in keys {
            let [before, after] = [self, now].map(|one| one.things.get(key).copied().unwrap_or(0));
            if before != after {
                changes.push(format!("{key}: {before} before, {after} after"));
            }
        }
        let is_same = self.files.0 == now.files.0;
        if is_same && now.files.1 > self.files.1 + MORE_FILES {
            let (before, after) = (self.files.1, now.files.1);
            changes.push(format!(
                "open files of the engine: {before} before, {after} after"
            ));
        }
        changes
    }

    /// Begins to count the open files of another engine process.
    pub(super) const fn count_files_of(&mut self, other: &Self) {
        if self.files.0 != other.files.0 {
            self.files = other.files;
        }
    }

    fn add(&mut self, kind: &str, name: &str) {
        let key = format!("{kind} {}", without_identifiers(name));
        *self.things.entry(key).or_default() += 1;
    }

    fn of_engine(&mut self, engine: &Engine) -> Result<(), Failure> {
        let client = engine.client();
        let first = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        for each in client.list("/containers/json?all=true")? {
            self.add("container", &first(&each["Names"][0]));
        }
        for each in client.list("/volumes")? {
            self.add("volume", &first(&each["Name"]));
        }
        for each in client.list("/networks")? {
            self.add("network", &first(&each["Name"]));
        }
        for each in client.list("/images/json?all=true")? {
            let tag = match first(&each["RepoTags"][0]) {
                tag if tag.is_empty() => "without a name".to_owned(),
                tag => tag,
            };
            if !BY_CONTENT.iter().any(|start| tag.starts_with(start)) {
                self.add("image", &tag);
            }
        }
        Ok(())
    }

    fn of_cgroups(&mut self, name: &str) {
        let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten();
        for hierarchy in hierarchies.flatten() {
            let kind = format!("cgroup of {}", hierarchy.file_name().to_string_lossy());
            self.of_folders(&kind, &hierarchy.path().join(name));
        }
    }

    fn of_folders(&mut self, kind: &str, folder: &Path) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                self.add(kind, &entry.file_name().to_string_lossy());
                self.of_folders(kind, &entry.path());
            }
        }
    }

    /// Those below the lane's folder, as the engine and as this machine see them. The engine has seen
    /// those of others as well, since its name space was made; they go when they like.
    fn of_mounts(&mut self, engine: &Engine, folder: &Path) {
        let tables = [
            (
                "mount of the engine",
                format!("/proc/{}/mountinfo", engine.holder()),
            ),
            ("mount", "/proc/self/mountinfo".to_owned()),
        ];
        for (kind, table) in tables {
            for place in mount_points(&table) {
                if Path::new(&place).starts_with(folder) {
                    self.add(kind, &place);
                }
            }
        }
    }

    fn of_loop_devices(&mut self, folder: &Path) {
        for file in loop_devices(folder).into_values() {
            self.add("loop device", &file);
        }
    }

    fn of_files(&mut self, what: &str, root: &Path, below: &Path) {
        for entry in fs::read_dir(root.join(below))
            .into_iter()
            .flatten()
            .flatten()
        {
            let path = below.join(entry.file_name());
            self.add(what, &path.to_string_lossy());
            // A link is not followed.
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.of_files(what, root, &path);
            }
        }
    }
}

/// The places of all mounts in a table.
pub(super) fn mount_points(table: &str) -> Vec<String> {
    let text = fs::read_to_string(table).unwrap_or_default();
    let places = text.lines().filter_map(|line| line.split(' ').nth(4));
    places.map(str::to_owned).collect()
}

/// The loop devices on files below a folder: name and file.
pub(super) fn loop_devices(folder: &Path) -> BTreeMap<String, String> {
    let entries = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let all = entries.filter_map(|entry| {
        // The others have none.
        let file = fs::read_to_string(entry.path().join("loop/backing_file")).ok()?;
        let file = file.trim().to_owned();
        let name = entry.file_name().to_string_lossy().into_owned();
        Path::new(&file).starts_with(folder).then_some((name, file))
    });
    all.collect()
}

/// A name with a star in the place of each identifier that differs from one time to the next.
fn without_identifiers(name: &str) -> String {
    let mut shown = String::new();
    for part in name.split_inclusive(['/', '-', '_', '.', ' ']) {
        let word = part.trim_end_matches(['/', '-', '_', '.', ' ']);
        let is_identifier =
            word.len() >= IDENTIFIER && word.chars().all(|digit| digit.is_ascii_hexdigit());
        shown.push_str(if is_identifier { "*" } else { word });
        shown.push_str(&part[word.len()..]);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn census(things: &[(&str, &str)], files: (u32, usize)) -> Census {
        let mut census = Census {
            files,
            ..Census::default()
        };
        for (kind, name) in things {
            census.add(kind, name);
        }
        census
    }

    #[test]
    fn what_was_made_anew_is_no_change_and_what_is_more_or_less_is() {
        let one = "/x/0123456789abcdef/merged";
        let other = "/x/fedcba9876543210/merged";
        let before = census(&[("mount", one), ("volume", "a")], (1, 20));
        let same = census(&[("mount", other), ("volume", "a")], (1, 40));
        assert_eq!(before.changes(&same), Vec::<String>::new());
        let more = census(&[("mount", one), ("mount", other)], (1, 20));
        assert_eq!(
            before.changes(&more),
            [
                "mount /x/*/merged: 1 before, 2 after",
                "volume a: 1 before, 0 after"
            ]
        );
    }

    #[test]
    fn open_files_are_compared_within_one_process_only() {
        let before = census(&[], (1, 20));
        assert_eq!(before.changes(&census(&[], (1, 90))).len(), 1);
        assert_eq!(before.changes(&census(&[], (2, 90))), Vec::<String>::new());
        let mut later = before.clone();
        later.count_files_of(&census(&[], (2, 90)));
        assert_eq!(later.changes(&census(&[], (2, 200))).len(), 1);
    }

    #[test]
    fn words_that_look_like_numbers_stay_in_names() {
        for name in ["swe-forge-task-face-1", "python3.11", "data/pool"] {
            assert_eq!(without_identifiers(name), name);
        }
    }
}
