//! Counters of the sandbox's control groups, version 1 or 2, read from files that are kept open.
//!
//! A counter whose file is not there (older kernels, no cgroup file system in the container) is
//! reported as 0, but for refused forks: those of PID 1 itself are counted in any case.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use forge_wire::message::Usage;

use crate::mounts::{self, Mount};

/// Longest counter file that is read.
const LONGEST: usize = 4096;

/// The sandbox's counters.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    memory_peak: Option<Counter>,
    memory_now: Option<Counter>,
    oom_kills: Option<Counter>,
    cpu: Option<Counter>,
    /// What one unit of `cpu` is, in nanoseconds.
    cpu_unit: u64,
    pids_peak: Option<Counter>,
    pids_now: Option<Counter>,
    pids_refused: Option<Counter>,
    own_threads: u64,
    sampled_memory: u64,
    sampled_pids: u64,
    /// Forks of PID 1 that the kernel refused; counts where the kernel does not.
    own_refused: u64,
}

/// What may have happened in the sandbox while an exec ran.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Incidents {
    pub(crate) oom_kills: u64,
    pub(crate) pids_refused: u64,
}

/// One number in an open file.
#[derive(Debug)]
struct Counter {
    file: File,
    /// The word before the number; none when the number stands alone.
    key: Option<&'static str>,
}

impl Counter {
    fn read(&self) -> Option<u64> {
        let mut buffer = [0; LONGEST];
        let length = self.file.read_at(&mut buffer, 0).ok()?;
        let text = std::str::from_utf8(buffer.get(..length)?).ok()?;
        find_number(text, self.key)
    }
}

fn find_number(text: &str, key: Option<&str>) -> Option<u64> {
    let Some(key) = key else {
        return text.trim().parse().ok();
    };
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))
        .and_then(|number| number.trim().parse().ok())
}

fn read(counter: Option<&Counter>) -> u64 {
    counter.and_then(Counter::read).unwrap_or(0)
}

impl Counters {
    /// Finds the sandbox's control groups; `own_threads` are left out of the count of processes.
    pub(crate) fn open(own_threads: u32) -> Self {
        let text = |path| std::fs::read_to_string(path).unwrap_or_default();
        let groups = Groups {
            mounts: mounts::parse(&text("/proc/self/mountinfo")),
            membership: text("/proc/self/cgroup"),
        };
        let one = |controller, name, key| groups.open(Some(controller), name, key);
        let two = |name, key| groups.open(None, name, key);
        let cpu_one = one("cpuacct", "cpuacct.usage", None);
        let cpu_unit = if cpu_one.is_some() { 1 } else { 1000 };
        Self {
            memory_peak: one("memory", "memory.max_usage_in_bytes", None)
                .or_else(|| two("memory.peak", None)),
            memory_now: one("memory", "memory.usage_in_bytes", None)
                .or_else(|| two("memory.current", None)),
            oom_kills: one("memory", "memory.oom_control", Some("oom_kill"))
                .or_else(|| two("memory.events", Some("oom_kill"))),
            cpu: cpu_one.or_else(|| two("cpu.stat", Some("usage_usec"))),
            cpu_unit,
            pids_peak: one("pids", "pids.peak", None).or_else(|| two("pids.peak", None)),
            pids_now: one("pids", "pids.current", None).or_else(|| two("pids.current", None)),
            pids_refused: one("pids", "pids.events", Some("max"))
                .or_else(|| two("pids.events", Some("max"))),
            own_threads: u64::from(own_threads),
            ..Self::default()
        }
    }

    /// Counts of what may go wrong, so far.
    pub(crate) fn incidents(&self) -> Incidents {
        let pids_refused = match &self.pids_refused {
            Some(counter) => counter.read().unwrap_or(0),
            None => self.own_refused,
        };
        Incidents {
            oom_kills: read(self.oom_kills.as_ref()),
            pids_refused,
        }
    }

    /// Notes that the kernel refused a fork of PID 1.
    pub(crate) fn note_refused_fork(&mut self) {
        self.own_refused += 1;
    }

    /// Looks at what the kernel keeps no peak of.
    pub(crate) fn sample(&mut self) {
        if self.memory_peak.is_none() {
            self.sampled_memory = self.sampled_memory.max(read(self.memory_now.as_ref()));
        }
        if self.pids_peak.is_none() {
            self.sampled_pids = self.sampled_pids.max(read(self.pids_now.as_ref()));
        }
    }

    /// Whether [`Self::sample`] has anything to do.
    pub(crate) fn needs_samples(&self) -> bool {
        (self.memory_peak.is_none() && self.memory_now.is_some())
            || (self.pids_peak.is_none() && self.pids_now.is_some())
    }

    /// CPU time used so far, in microseconds; none where it is not counted.
    pub(crate) fn cpu_us(&self) -> Option<u64> {
        let used = self.cpu.as_ref()?.read()?;
        Some(used.saturating_mul(self.cpu_unit) / 1000)
    }

    /// Everything used so far; what is about the disk comes from elsewhere.
    pub(crate) fn usage(&mut self, disk_peak: u64, disk_full: bool) -> Usage {
        self.sample();
        let incidents = self.incidents();
        let memory_peak = read(self.memory_peak.as_ref()).max(self.sampled_memory);
        let pids_peak = read(self.pids_peak.as_ref()).max(self.sampled_pids);
        Usage {
            memory_peak,
            cpu_us: self.cpu_us().unwrap_or(0),
            pids_peak: pids_peak.saturating_sub(self.own_threads),
            oom_kills: incidents.oom_kills,
            pids_refused: incidents.pids_refused,
            disk_peak,
            disk_full,
        }
    }
}

impl Incidents {
    /// What happened since `earlier`.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            oom_kills: self.oom_kills.saturating_sub(earlier.oom_kills),
            pids_refused: self.pids_refused.saturating_sub(earlier.pids_refused),
        }
    }
}

/// Where PID 1's control groups are.
struct Groups {
    mounts: Vec<Mount>,
    membership: String,
}

impl Groups {
    /// Opens a file of the group, of a version 1 controller or, with none, of version 2.
    fn open(
        &self,
        controller: Option<&str>,
        name: &str,
        key: Option<&'static str>,
    ) -> Option<Counter> {
        self.folders(controller).into_iter().find_map(|folder| {
            let file = File::open(folder.join(name)).ok()?;
            let counter = Counter { file, key };
            counter.read().map(|_| counter)
        })
    }

    /// Where the group may be, the best guess first.
    ///
    /// An engine either mounts the container's own group, so that the mount's root is the group,
    /// or the whole tree; and the path of the group is seen from the host or from a namespace.
    fn folders(&self, controller: Option<&str>) -> Vec<PathBuf> {
        let path = membership(&self.membership, controller).unwrap_or("/");
        self.mounts
            .iter()
            .filter(|mount| match controller {
                Some(controller) => {
                    mount.kind == "cgroup" && mount.super_options.iter().any(|o| o == controller)
                }
                None => mount.kind == "cgroup2",
            })
            .flat_map(|mount| {
                let below = path
                    .strip_prefix(mount.root.as_str())
                    .map(|below| below.trim_start_matches('/'));
                let point = PathBuf::from(&mount.point);
                below
                    .map(|below| point.join(below))
                    .into_iter()
                    .chain([point.clone()])
            })
            .collect()
    }
}

/// The group's path for a version 1 controller or, with none, in version 2.
fn membership<'a>(text: &'a str, controller: Option<&str>) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (number, names, path) = (fields.next()?, fields.next()?, fields.next()?);
        let wanted = match controller {
            Some(controller) => names.split(',').any(|name| name == controller),
            None => number == "0" && names.is_empty(),
        };
        wanted.then_some(path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(mountinfo: &str, membership: &str) -> Groups {
        Groups {
            mounts: mounts::parse(mountinfo),
            membership: membership.to_owned(),
        }
    }

    #[test]
    fn numbers_are_found_by_their_word() {
        let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        assert_eq!(find_number(text, Some("oom_kill")), Some(3));
        assert_eq!(find_number("17\n", None), Some(17));
        assert_eq!(find_number("max\n", None), None);
    }

    #[test]
    fn a_container_that_sees_its_own_group_only() {
        let groups = groups(
            "105 101 0:32 /docker/a32d /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n",
            "4:memory:/docker/a32d\n8:pids:/docker/a32d\n0::/docker/a32d\n",
        );
        let folders = groups.folders(Some("memory"));
        assert_eq!(folders[0], PathBuf::from("/sys/fs/cgroup/memory/"));
        assert!(groups.folders(Some("pids")).is_empty());
    }

    #[test]
    fn a_group_below_the_mounted_tree() {
        let groups = groups(
            "1 1 0:2 / /sys/fs/cgroup/cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n",
            "2:cpu,cpuacct:/box/x\n",
        );
        assert_eq!(
            groups.folders(Some("cpuacct")),
            [
                PathBuf::from("/sys/fs/cgroup/cpuacct/box/x"),
                PathBuf::from("/sys/fs/cgroup/cpuacct")
            ]
        );
    }

    #[test]
    fn version_two_with_a_namespace_of_its_own() {
        let groups = groups(
            "1 1 0:2 / /sys/fs/cgroup ro - cgroup2 cgroup rw,nsdelegate\n",
            "0::/\n",
        );
        assert_eq!(groups.folders(None)[0], PathBuf::from("/sys/fs/cgroup/"));
    }
}
