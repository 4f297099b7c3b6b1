//! All execs: the few that something may still happen to, and those that are only remembered.
//!
//! Memory: of [`MAX_RUNNING`] running ones a window of output and one of input each; of ended ones
//! [`MAX_REMEMBERED`] entries with [`MAX_REMEMBERED_BYTES`] of output together.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use crate::exec::Exec;

/// Programs that may run at once.
pub(crate) const MAX_RUNNING: usize = 64;
/// Ended execs that are remembered until the client forgets them.
const MAX_REMEMBERED: usize = 4096;
/// Output that is kept for these.
const MAX_REMEMBERED_BYTES: usize = 32 * 1024 * 1024;

/// The table of execs.
#[derive(Debug, Default)]
pub(crate) struct Execs {
    active: Vec<Exec>,
    ended: BTreeMap<u64, Exec>,
    /// Ids of the ended ones, the oldest first; may hold some that are no longer there.
    order: VecDeque<u64>,
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

    /// Whether this id is known.
    pub(crate) fn contains(&self, id: u64) -> bool {
        self.ended.contains_key(&id) || self.active.iter().any(|exec| exec.id == id)
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

    /// Makes an exec's output and end go to the client of now; false when it is not known.
    pub(crate) fn resume(&mut self, id: u64, offset: u64) -> bool {
        if let Some(exec) = self.ended.remove(&id) {
            self.active.push(exec);
        }
        match self.find(id) {
            Some(exec) => {
                exec.resume(offset);
                true
            }
            None => false,
        }
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
            self.order.push_back(exec.id);
            self.ended.insert(exec.id, exec);
            self.make_room();
        }
    }

    fn make_room(&mut self) {
        let mut held: usize = self.ended.values().map(|exec| exec.output.held()).sum();
        while self.ended.len() > MAX_REMEMBERED || held > MAX_REMEMBERED_BYTES {
            let Some(oldest) = self.order.pop_front() else {
                return;
            };
            if let Some(exec) = self.ended.remove(&oldest) {
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
        assert!(execs.resume(1, 0));
        let mut out = Vec::new();
        execs.find(1).unwrap().send_to(&mut out, 1000).unwrap();
        assert!(!out.is_empty());
        execs.settle();
        execs.forget(1);
        assert!(!execs.resume(1, 0));
    }
}
