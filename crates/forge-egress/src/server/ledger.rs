//! Who holds how much of one kind of memory.

use std::collections::BTreeMap;

/// Sandboxes for each of which something is reserved; where there are more the first to ask have it.
const MOST_RESERVED_FOR: usize = 85;

/// How much of one kind of memory may be held.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// By all sandboxes together.
    pub(crate) most: usize,
    /// By one.
    pub(crate) most_each: usize,
    /// By every one whatever the others do, whether it comes before those that take all they get or
    /// after.
    pub(crate) reserved_each: usize,
    /// Of what is not reserved, one part in so many is shared out: every sandbox with a socket has an
    /// equal share of it. Who holds more than its share is refused where what is left is needed for
    /// the shares of the others.
    pub(crate) shared_out: usize,
}

impl Bounds {
    /// What all may hold beyond what is reserved.
    pub(crate) const fn common(self) -> usize {
        self.most - MOST_RESERVED_FOR * self.reserved_each
    }

    /// The share of each of so many sandboxes.
    pub(crate) fn share(self, sandboxes: usize) -> usize {
        self.common() / self.shared_out / sandboxes.max(1)
    }
}

/// Who holds how much.
#[derive(Debug)]
pub(crate) struct Ledger {
    bounds: Bounds,
    pub(crate) held: usize,
    /// Sandboxes with a socket.
    pub(crate) sandboxes: usize,
    /// What is held beyond what is reserved, by the address of the share where that is anything.
    pub(crate) beyond: BTreeMap<usize, usize>,
}

impl Ledger {
    pub(crate) const fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            held: 0,
            sandboxes: 0,
            beyond: BTreeMap::new(),
        }
    }

    /// Whether there is room where a share that holds `own` bytes shall hold `next`.
    pub(crate) fn fits(&self, share: usize, own: usize, next: usize) -> bool {
        let total = self.held + next - own;
        if next > self.bounds.most_each || total > self.bounds.most {
            return false;
        }
        let beyond = next.saturating_sub(self.bounds.reserved_each);
        if beyond == 0 {
            return true;
        }
        let (common, fair) = (self.bounds.common(), self.bounds.share(self.sandboxes));
        let (mut used, mut kept, mut others) = (beyond, 0, self.sandboxes.saturating_sub(1));
        for (_, beyond) in self.beyond.iter().filter(|(other, _)| **other != share) {
            used += beyond;
            kept += fair.saturating_sub(*beyond);
            others = others.saturating_sub(1);
        }
        kept += others * fair;
        used <= common - if beyond > fair { kept.min(common) } else { 0 }
    }

    /// A share that held `own` bytes holds `next`.
    pub(crate) fn set(&mut self, share: usize, own: usize, next: usize) {
        self.held = self.held + next - own;
        let beyond = next.saturating_sub(self.bounds.reserved_each);
        if beyond > 0 {
            self.beyond.insert(share, beyond);
        } else {
            self.beyond.remove(&share);
        }
    }
}
