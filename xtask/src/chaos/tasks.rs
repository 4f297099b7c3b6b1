//! The kinds of tasks of a cycle, each with the one verdict it may come to.

use serde_json::{Value, json};

/// The image of all tasks, which has a shell and a few small programs.
pub(super) const IMAGE: &str = "swe-forge-chaos/task:1";
/// The programs in it.
pub(super) const PROGRAMS: [&str; 5] = [
    "/bin/sh",
    "/bin/bash",
    "/bin/sleep",
    "/usr/bin/head",
    "/usr/bin/setsid",
];
/// What solve says and keeps at its start: two of it in one attempt are an attempt that ran twice.
const BEGIN: &str = "read -r number < /proc/sys/kernel/random/uuid; echo begin $number; echo $number >> output/begins; ";
/// What verify says at its start.
pub(super) const VERIFYING: &str = "verifying";
/// What setup says at its end.
pub(super) const PREPARED: &str = "prepared";
/// What solve says at its start.
pub(super) const BEGUN: &str = "begin ";

/// A kind of task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind {
    /// The first part of its id.
    pub name: &'static str,
    /// Script of setup; empty for none.
    pub setup: &'static str,
    /// Script of solve, after the words that say that it began.
    pub solve: &'static str,
    /// Script of verify.
    pub verify: &'static str,
    /// Where verify runs.
    pub container: &'static str,
    /// `.swe-forge/config.yaml`.
    pub config: &'static str,
    /// The state that it must end in.
    pub state: &'static str,
    /// The reason that must be told; empty for none.
    pub reason: &'static str,
    /// How many numbered lines solve writes.
    pub lines: u64,
}

const SMALL: &str = "resources: {memory_mb: 64, disk_gb: 0.03}\n";

const PLAIN: Kind = Kind {
    name: "passes",
    setup: "",
    solve: "",
    verify: "",
    container: "fresh",
    config: SMALL,
    state: "COMPLETED",
    reason: "",
    lines: 0,
};

/// All kinds.
pub(super) const KINDS: [Kind; 12] = [
    PLAIN,
    Kind {
        name: "fails",
        verify: "exit 1",
        state: "FAILED",
        reason: "tests_failed",
        ..PLAIN
    },
    Kind {
        name: "lines",
        solve: "for line in {1..2000}; do echo \"line $line\"; ((line % 100)) || sleep 0.1; done",
        lines: 2000,
        ..PLAIN
    },
    Kind {
        name: "flood",
        solve: "printf -v rest %0490d 0; for line in {1..10000}; do echo \"line $line $rest\"; done",
        lines: 10_000,
        ..PLAIN
    },
    Kind {
        name: "memory",
        solve: "text=x; while :; do text=$text$text; done",
        config: "resources: {memory_mb: 32, disk_gb: 0.03}\n",
        state: "FAILED",
        reason: "out_of_memory",
        ..PLAIN
    },
    Kind {
        name: "disk",
        solve: "head -c 100M /dev/zero > much",
        config: "resources: {memory_mb: 64, disk_gb: 0.02}\n",
        state: "FAILED",
        reason: "disk_full",
        ..PLAIN
    },
    Kind {
        name: "forks",
        // The small shell: the large one tries again for fifteen seconds.
        solve: "exec sh -c 'for one in 1 2 3 4 5 6; do for two in 1 2 3 4 5 6; do sleep 60 & done; done; exit 1'",
        config: "resources: {memory_mb: 64, disk_gb: 0.03, processes: 20}\n",
        state: "FAILED",
        reason: "pids_exhausted",
        ..PLAIN
    },
    Kind {
        name: "stays",
        solve: "setsid bash -c 'trap \"\" TERM; echo stays; exec sleep 300' & sleep 0.2",
        ..PLAIN
    },
    Kind {
        name: "setup",
        setup: "echo made > /made; echo made > made; echo prepared",
        solve: "read -r one < /made && read -r two < made && [[ $one$two = mademade ]]",
        verify: "read -r one < /made && read -r two < made && [[ $one$two = mademade ]]",
        config: "resources: {memory_mb: 64, disk_gb: 0.03}\nnetwork: {setup: isolated}\n",
        ..PLAIN
    },
    Kind {
        name: "same",
        solve: "echo kept > /tmp/kept",
        verify: "read -r word < /tmp/kept && [[ $word = kept ]]",
        container: "same",
        ..PLAIN
    },
    Kind {
        name: "network",
        solve: "exec 3<>/dev/tcp/127.0.0.1/3128 && printf 'CONNECT 192.0.2.1:443 HTTP/1.1\\r\\n\\r\\n' >&3 && IFS= read -t 60 -r line <&3 && [[ $line = 'HTTP/1.1 403 '* ]] && sleep 1",
        config: "resources: {memory_mb: 64, disk_gb: 0.03}\nnetwork: {solve: package_only}\n",
        ..PLAIN
    },
    Kind {
        name: "slow",
        solve: "sleep 600",
        config: "resources: {memory_mb: 64, disk_gb: 0.03, timeout_seconds: 2}\n",
        state: "TIMEOUT",
        reason: "deadline_exceeded",
        ..PLAIN
    },
];

/// The kind that asks the proxy.
pub(super) const NETWORK: &str = "network";

impl Kind {
    /// The task file of a task of this kind.
    pub(super) fn file(&self, id: &str) -> Value {
        let script = |text: &str| json!(["/bin/bash", "-c", text]);
        let mut task = json!({
            "id": id,
            "title": id,
            "instruction": "None.",
            "difficulty": "easy",
            "image": IMAGE,
            "solve": {"argv": script(&format!("{BEGIN}{}", self.solve))},
            "verify": {
                "argv": script(&format!("echo {VERIFYING}; {}", self.verify)),
                "container": self.container,
            },
        });
        if !self.setup.is_empty() {
            task["setup"] = json!({"argv": script(self.setup)});
        }
        task
    }
}
