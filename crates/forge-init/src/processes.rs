//! Ends every process of the sandbox, and knows that they are gone.
//!
//! `kill(-1)` reaches every process but PID 1 in one step that no fork can outrun, and says so when
//! there is none left. One process may have to live: where the client has no socket of the sandbox,
//! it speaks through `forge-init bridge`, which the engine runs in the sandbox. It is spared only
//! while it holds the connection that proved the secret: the kernel named its process id when it
//! connected, and as long as the connection is open that process lives, so that its number cannot
//! have passed to another. Any other bridge, which a task may have started, ends like the rest.
//!
//! A bridge that the engine runs under another user than the task's is out of the task's reach, and
//! out of ours: it is not counted, because no process of the task has a parent outside of the
//! sandbox.
//!
//! Where PID 1 is root, the task may have become any user, while PID 1 may not signal every user.
//! It may become any as well, and does so for the moment of the signal, on its own thread. A task
//! that becomes the bridge's user may stop the bridge, which is let go on whenever there is an end to
//! tell, or end it.
//!
//! With a process to spare, the others are ended one by one, in passes. A fork bomb may outrun
//! that; after [`MAX_PASSES`] passes that found more of it, or after [`PATIENCE`], everything ends in
//! one step, the bridge too, and the client connects anew where that is safe.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use forge_wire::message::Processes;
use nix::errno::Errno;
use nix::libc::{SIGCONT, SIGKILL};

use crate::kernel::{kill_quietly, send_signal, with_real_user};

/// How long the end of all processes is waited for.
const PATIENCE: Duration = Duration::from_secs(2);
/// Passes with a process spared that may find new ones: more, and they fork faster than they are
/// ended one by one.
const MAX_PASSES: u32 = 64;
/// Looks that must find nobody, where processes are looked for one by one.
const QUIET_PASSES: u32 = 2;
/// Processes that are looked at in one count: some ten microseconds each.
const MAX_COUNTED: usize = 512;
/// Passes after which zombies of a parent outside of the sandbox are looked for.
const PATIENT_PASSES: u32 = 5;

/// An ongoing end of all processes.
#[derive(Debug)]
pub(crate) struct KillRun {
    begun: Instant,
    spared: Option<i32>,
    passes: u32,
    quiet: u32,
    /// Killed one by one. On a busy machine, they take their time to be gone.
    met: BTreeSet<i32>,
    outrun: u32,
    /// Requests to answer when it is done.
    pub(crate) requests: Vec<u64>,
}

impl KillRun {
    /// Begins; `spared` is the bridge that holds the client's connection, if one does.
    pub(crate) fn new(now: Instant, spared: Option<i32>) -> Self {
        Self {
            begun: now,
            spared,
            passes: 0,
            quiet: 0,
            met: BTreeSet::new(),
            outrun: 0,
            requests: Vec::new(),
        }
    }

    /// Kills once more; the number of survivors when there is nothing more to do.
    ///
    /// The caller reaps between two calls. `bridge` is the bridge that holds the connection now.
    pub(crate) fn pass(&mut self, now: Instant, bridge: Option<i32>) -> Option<u32> {
        self.passes += 1;
        let late = now.duration_since(self.begun) >= PATIENCE;
        if late || self.outrun > MAX_PASSES || bridge != self.spared {
            self.spared = None;
        }
        match self.spared {
            None => self.kill_all(now),
            Some(spared) => {
                // What it is spared for: to tell the client.
                wake(spared);
                self.kill_others(spared)
            }
        }
    }

    fn kill_all(&mut self, now: Instant) -> Option<u32> {
        if send_signal(-1, SIGKILL) == Err(Errno::ESRCH) {
            return Some(0);
        }
        kill_other_users();
        let late = now.duration_since(self.begun) >= PATIENCE;
        if !late && self.passes < PATIENT_PASSES {
            return None;
        }
        let living = living(&[]).map(|found| found.len());
        // A list that cannot be read proves nothing.
        let count = living.map_or(1, |count| u32::try_from(count).unwrap_or(u32::MAX));
        (late || count == 0).then_some(count)
    }

    fn kill_others(&mut self, spared: i32) -> Option<u32> {
        match living(&[spared]) {
            Some(found) if found.is_empty() => self.quiet += 1,
            Some(found) => {
                self.quiet = 0;
                if send_signal(spared, 0) == Err(Errno::EPERM) {
                    // It has another user: the one step for all passes it by.
                    kill_quietly(-1);
                }
                // That step reaches nobody who has become another user; to become the bridge's own
                // for it would end the bridge.
                found.iter().copied().for_each(kill_whosoever);
                let met = self.met.len();
                self.met.extend(found);
                self.outrun += u32::from(self.met.len() > met);
            }
            // Without a list there is no way to spare anybody.
            None => self.spared = None,
        }
        (self.quiet >= QUIET_PASSES).then_some(0)
    }
}

/// Ends the processes of other users that PID 1 may not signal as it is: where it is root, it has
/// the right to become anybody, as the task's programs have, but none to signal everybody.
fn kill_other_users() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let found = living(&[]).into_iter().flatten();
    let users: BTreeSet<u32> = found.filter_map(unreachable_user).collect();
    for user in users {
        // Whoever may not become anybody reports who is left over.
        let _refused = with_real_user(user, || kill_quietly(-1));
    }
}

/// Ends a process, also one of another user.
fn kill_whosoever(pid: i32) {
    signal_whosoever(pid, SIGKILL);
}

/// Lets a process go on that was stopped, also one of another user.
pub(crate) fn wake(pid: i32) {
    signal_whosoever(pid, SIGCONT);
}

/// Whoever is gone, or may not be signalled as anybody, is left as it is.
fn signal_whosoever(pid: i32, signal: i32) {
    if send_signal(pid, signal) == Err(Errno::EPERM)
        && let Some(user) = user_of(pid)
    {
        let _left = with_real_user(user, || send_signal(pid, signal));
    }
}

/// The user of a process that PID 1 may not signal as it is.
fn unreachable_user(pid: i32) -> Option<u32> {
    if send_signal(pid, 0) != Err(Errno::EPERM) {
        return None;
    }
    user_of(pid)
}

fn user_of(pid: i32) -> Option<u32> {
    let status = std::fs::read(format!("/proc/{pid}/status")).ok()?;
    real_user(&status)
}

fn real_user(status: &[u8]) -> Option<u32> {
    // The process's own name is in the first line, with its line breaks escaped.
    let line = status
        .split(|byte| *byte == b'\n')
        .find_map(|line| line.strip_prefix(b"Uid:\t"))?;
    let first = line.split(|byte| *byte == b'\t').next()?;
    std::str::from_utf8(first).ok()?.parse().ok()
}

/// Processes of the sandbox that are not dead, without PID 1 and `spared`.
fn living(spared: &[i32]) -> Option<Vec<i32>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").ok()? {
        let name = entry.ok()?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        if pid == 1 || spared.contains(&pid) {
            continue;
        }
        if Stat::read(pid).is_some_and(|stat| stat.lives() && !stat.is_engines(pid)) {
            found.push(pid);
        }
    }
    Some(found)
}

/// Counts the task's processes by what they do, as far as [`MAX_COUNTED`] goes.
pub(crate) fn count() -> Processes {
    let mut counted = Processes::default();
    // What cannot be listed is there nevertheless.
    let Ok(entries) = std::fs::read_dir("/proc") else {
        counted.more = true;
        return counted;
    };
    let names = entries.filter_map(|entry| Some(entry.ok()?.file_name()));
    let pids = names.filter_map(|name| name.to_str()?.parse::<i32>().ok());
    for (index, pid) in pids.filter(|pid| *pid != 1).enumerate() {
        if index == MAX_COUNTED {
            counted.more = true;
            return counted;
        }
        if let Some(stat) = Stat::read(pid).filter(|stat| !stat.is_from_outside()) {
            stat.add_to(&mut counted);
        }
    }
    counted
}

/// Whether a process was started by the engine and not by another process of the sandbox: its
/// parent is outside. An orphan of the sandbox has PID 1 as its parent.
pub(crate) fn is_from_outside(pid: i32) -> bool {
    Stat::read(pid).is_some_and(|stat| stat.is_from_outside())
}

/// What `/proc/<pid>/stat` says.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    state: char,
    parent: i32,
    threads: u32,
}

impl Stat {
    fn read(pid: i32) -> Option<Self> {
        Self::parse(&std::fs::read(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(text: &[u8]) -> Option<Self> {
        // The name before the last parenthesis is the process's own choice and may hold anything.
        let end = text.iter().rposition(|byte| *byte == b')')?;
        let rest = std::str::from_utf8(text.get(end + 1..)?).ok()?;
        let mut fields = rest.split_whitespace();
        Some(Self {
            state: fields.next()?.chars().next()?,
            parent: fields.next()?.parse().ok()?,
            threads: fields.nth(15)?.parse().ok()?,
        })
    }

    fn is_from_outside(&self) -> bool {
        self.parent == 0
    }

    /// Whether it is a process of the engine under a user that is not the task's.
    fn is_engines(&self, pid: i32) -> bool {
        self.is_from_outside() && send_signal(pid, 0) == Err(Errno::EPERM)
    }

    /// Of the first thread of a process only.
    fn add_to(&self, counted: &mut Processes) {
        let count = match self.state {
            'R' => &mut counted.running,
            'T' | 't' => &mut counted.stopped,
            'D' => &mut counted.blocked,
            _ if !self.lives() => &mut counted.zombies,
            _ => &mut counted.sleeping,
        };
        *count += 1;
    }

    /// A dead first thread may leave others running.
    fn lives(&self) -> bool {
        !matches!(self.state, 'Z' | 'X') || self.threads > 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_looks_like_fields_changes_nothing() {
        let text = b"17 (a) Z 0 (b) S 1 17 17 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 3 0 99 0 0\n";
        let stat = Stat::parse(text).unwrap();
        assert_eq!(
            stat,
            Stat {
                state: 'S',
                parent: 1,
                threads: 3
            }
        );
        assert!(stat.lives());
    }

    #[test]
    fn a_zombie_lives_only_while_it_has_other_threads() {
        let stat = |threads| Stat {
            state: 'Z',
            parent: 0,
            threads,
        };
        assert!(!stat(1).lives());
        assert!(stat(2).lives());
    }

    #[test]
    fn processes_are_counted_by_their_states() {
        let mut counted = Processes::default();
        for (state, threads) in [
            ('R', 1),
            ('S', 1),
            ('I', 1),
            ('T', 1),
            ('t', 1),
            ('D', 1),
            ('Z', 1),
            ('Z', 2),
        ] {
            let stat = Stat {
                state,
                parent: 1,
                threads,
            };
            stat.add_to(&mut counted);
        }
        let expected = Processes {
            running: 1,
            sleeping: 3,
            stopped: 2,
            blocked: 1,
            zombies: 1,
            more: false,
        };
        assert_eq!(counted, expected);
    }

    #[test]
    fn the_real_user_is_the_first_of_four() {
        let status = b"Name:\tUid:\\n\nUmask:\t0022\nUid:\t42\t0\t0\t0\nGid:\t1\t1\t1\t1\n";
        assert_eq!(real_user(status), Some(42));
        assert_eq!(real_user(b"Name:\tx\n"), None);
    }

    #[test]
    fn a_process_of_this_machine_has_a_parent_here() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(!is_from_outside(own));
    }
}
