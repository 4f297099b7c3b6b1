//! All execs: the few that something may still happen to, and those that are only remembered.
//!
//! Those with a key are remembered until the client forgets them, and that they were started for
//! ever. To be remembered counts like running, so that the client bounds its own memory here.
//!
//! Memory: of [`MAX_RUNNING`] running ones, and ended ones with a key, a window of output and one of
//! input each; of other ended ones [`MAX_REMEMBERED`] entries with [`MAX_REMEMBERED_BYTES`] of output
//! together; 8 bytes for each of [`MAX_KEYS`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use forge_wire::is_keyed;

use crate::exec::{Exec, Need};

/// Programs that may run at once.
const MAX_RUNNING: usize = 64;
/// Programs with a key that may be started in a sandbox's life.
const MAX_KEYS: usize = 4096;
/// Ended execs that are remembered until the client forgets them.
const MAX_REMEMBERED: usize = 4096;
/// Output that is kept for these.
const MAX_REMEMBERED_BYTES: usize = 32 * 1024 * 1024;

/// The table of execs.
#[derive(Debug, Default)]
pub(crate) struct Execs {
    active: Vec<Exec>,
    ended: BTreeMap<u64, Exec>,
    /// Ids of the ended ones without a key, the oldest first; may hold some that are no longer there.
    order: VecDeque<u64>,
    /// Ids with a key that were started, whatever became of them.
    keys: BTreeSet<u64>,
    /// Output read so far, of all there were.
    output_bytes: u64,
}

impl Execs {
    /// Those that something may still happen to.
    pub(crate) fn active(&mut self) -> &mut Vec<Exec> {
        &mut self.active
    }

    /// As [`Self::active`], to look at only.
    pub(crate) fn look(&self) -> &[Exec] {
        &self.active
    }

    /// Reads what the active exec at `index` wrote.
    pub(crate) fn read_output(&mut self, index: usize, scratch: &mut [u8]) -> Need {
        let Some(exec) = self.active.get_mut(index) else {
            return Need::Nothing;
        };
        let before = exec.output_bytes();
        let need = exec.read_output(scratch);
        self.output_bytes += exec.output_bytes() - before;
        need
    }

    /// Output read so far of all execs that there were, in bytes.
    pub(crate) fn output_bytes(&self) -> u64 {
        self.output_bytes
    }

    /// Whether this id is known.
    pub(crate) fn contains(&self, id: u64) -> bool {
        self.ended.contains_key(&id) || self.active.iter().any(|exec| exec.id == id)
    }

    /// Whether this id has a key and was started before.
    pub(crate) fn was_started(&self, id: u64) -> bool {
        self.keys.contains(&id)
    }

    /// Notes that this id is being started.
    pub(crate) fn note_start(&mut self, id: u64) {
        if is_keyed(id) {
            self.keys.insert(id);
        }
    }

    /// Whether one more may be started, with this id.
    pub(crate) fn has_room_for(&self, id: u64) -> bool {
        let active = self.active.iter();
        let active = active.filter(|exec| exec.live_pid().is_some() || is_keyed(exec.id));
        let remembered = self.ended.keys().filter(|id| is_keyed(**id));
        active.count() + remembered.count() < MAX_RUNNING
            && (!is_keyed(id) || self.keys.len() < MAX_KEYS)
    }

    /// The exec of this id.
    pub(crate) fn find(&mut self, id: u64) -> Option<&mut Exec> {
        match self.active.iter_mut().find(|exec| exec.id == id) {
            Some(exec) => Some(exec),
            None => self.ended.get_mut(&id),
        }
    }

    /// The exec whose main process has this number.
    pub(crate) fn by_pid(&mut self, pid: i32) -> Option<&mut Exec> {
        self.active
            .iter_mut()
            .find(|exec| exec.live_pid() == Some(pid))
    }

    /// Programs that run.
    pub(crate) fn running(&self) -> usize {
        self.active
            .iter()
            .filter(|exec| exec.live_pid().is_some())
            .count()
    }

    /// Earliest time at which one needs attention.
    pub(crate) fn next_time(&self) -> Option<Instant> {
        self.active.iter().filter_map(Exec::next_time).min()
    }

    /// Makes an exec's output and end go to the client of now, see [`Exec::resume`]; none when it is
    /// not known.
    pub(crate) fn resume(&mut self, id: u64, from: u64, taken: u64) -> Option<u64> {
        if let Some(exec) = self.ended.remove(&id) {
            self.active.push(exec);
        }
        Some(self.find(id)?.resume(from, taken))
    }

    /// Notes that the client of now is gone.
    pub(crate) fn detach(&mut self) {
        for exec in &mut self.active {
            exec.attached = false;
        }
    }

    /// Forgets an exec that has ended.
    pub(crate) fn forget(&mut self, id: u64) {
        self.ended.remove(&id);
        self.active
            .retain(|exec| exec.id != id || !exec.is_settled());
    }

    /// Moves those to the remembered ones that nothing more happens to.
    pub(crate) fn settle(&mut self) {
        let mut index = 0;
        while let Some(exec) = self.active.get(index) {
            if !exec.is_settled() {
                index += 1;
                continue;
            }
            let exec = self.active.swap_remove(index);
            if !is_keyed(exec.id) {
                self.order.push_back(exec.id);
            }
            self.ended.insert(exec.id, exec);
            self.make_room();
        }
    }

    fn make_room(&mut self) {
        let (mut count, mut held) = (0, 0);
        for exec in self.ended.values().filter(|exec| !is_keyed(exec.id)) {
            count += 1;
            held += exec.output.held();
        }
        while count > MAX_REMEMBERED || held > MAX_REMEMBERED_BYTES {
            let Some(oldest) = self.order.pop_front() else {
                return;
            };
            if let Some(exec) = self.ended.remove(&oldest) {
                count -= 1;
                held -= exec.output.held();
            }
        }
        if self.order.len() > 2 * MAX_REMEMBERED {
            self.order.retain(|id| self.ended.contains_key(id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::Incidents;
    use nix::errno::Errno;

    fn ended(id: u64) -> Exec {
        let mut exec = Exec::failed(id, Errno::ENOENT, Incidents::default(), Instant::now());
        exec.make_report(Incidents::default(), None);
        exec.send_to(&mut Vec::new(), 1000).unwrap();
        exec
    }

    #[test]
    fn the_oldest_ended_execs_are_dropped() {
        let mut execs = Execs::default();
        for id in 0..MAX_REMEMBERED as u64 + 10 {
            execs.active().push(ended(id));
            execs.settle();
        }
        assert!(!execs.contains(9));
        assert!(execs.contains(10));
        assert_eq!(execs.look().len(), 0);
    }

    #[test]
    fn a_forgotten_exec_is_unknown() {
        let mut execs = Execs::default();
        execs.active().push(ended(1));
        execs.settle();
        assert_eq!(execs.resume(1, 0, 0), Some(0));
        let mut out = Vec::new();
        execs.find(1).unwrap().send_to(&mut out, 1000).unwrap();
        assert!(!out.is_empty());
        execs.settle();
        execs.forget(1);
        assert_eq!(execs.resume(1, 0, 0), None);
    }

    #[test]
    fn what_has_a_key_is_remembered_until_it_is_forgotten_and_its_start_for_ever() {
        let mut execs = Execs::default();
        let id = forge_wire::keyed_exec(1);
        execs.note_start(id);
        execs.active().push(ended(id));
        for other in 0..MAX_REMEMBERED as u64 + 10 {
            execs.active().push(ended(other));
            execs.settle();
        }
        assert_eq!(execs.resume(id, 0, 0), Some(0));
        execs.find(id).unwrap().attached = false;
        execs.settle();
        execs.forget(id);
        assert!(!execs.contains(id));
        assert!(execs.was_started(id));
    }

    #[test]
    fn what_has_a_key_takes_up_room_until_it_is_forgotten() {
        let mut execs = Execs::default();
        let ids = (0..64).map(forge_wire::keyed_exec);
        for id in ids.clone() {
            assert!(execs.has_room_for(id));
            execs.active().push(ended(id));
            execs.settle();
        }
        assert!(!execs.has_room_for(forge_wire::keyed_exec(64)));
        assert!(!execs.has_room_for(1));
        execs.forget(forge_wire::keyed_exec(7));
        assert!(execs.has_room_for(forge_wire::keyed_exec(64)));
        for id in ids.skip(8) {
            execs.forget(id);
        }
        for key in 0..u32::try_from(MAX_KEYS).unwrap() {
            execs.note_start(forge_wire::keyed_exec(key));
        }
        assert!(!execs.has_room_for(forge_wire::keyed_exec(5000)));
        assert!(execs.has_room_for(1));
    }
}
