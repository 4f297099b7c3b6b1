//! Which cores the attempts under way are kept to; one owner hands them out and takes them back.

use std::sync::{Arc, Mutex, PoisonError};

use forge_plan::placement::{Cores, Place};

/// The cores of the engine's machine, as far as this run has promised them.
#[derive(Debug)]
pub(crate) struct Placement(Mutex<Cores>);

impl Placement {
    /// Nothing is promised yet. Runs with another `seed` begin at another core.
    pub(crate) fn new(cores: u64, seed: u64) -> Arc<Self> {
        let count = usize::try_from(cores).unwrap_or(0);
        Arc::new(Self(Mutex::new(Cores::new(count, seed))))
    }

    /// Cores for one attempt, or `None` when there are not enough that nobody else has.
    pub(crate) fn take(self: &Arc<Self>, cpu_millis: u64) -> Option<Placed> {
        let place = self.with(|cores| cores.take(cpu_millis))?;
        Some(Placed {
            place,
            from: Arc::clone(self),
        })
    }

    /// Takes cores that a process before this one had taken for an attempt; `None` when it had none.
    pub(crate) fn take_these(self: &Arc<Self>, cores: &[usize], cpu_millis: u64) -> Option<Placed> {
        let place = self.with(|known| known.take_these(cores, cpu_millis))?;
        Some(Placed {
            place,
            from: Arc::clone(self),
        })
    }

    fn with<T>(&self, change: impl FnOnce(&mut Cores) -> T) -> T {
        // What is promised is consistent after every change, also one that was followed by a panic.
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Cores of one attempt; dropping it gives them back.
#[derive(Debug)]
pub(crate) struct Placed {
    place: Place,
    from: Arc<Placement>,
}

impl Placed {
    pub(crate) fn cores(&self) -> &[usize] {
        self.place.cores()
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        self.from.with(|cores| cores.give_back(&self.place));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_free_again_when_their_attempt_is_gone() {
        let placement = Placement::new(2, 0);
        let first = placement.take(2000);
        assert_eq!(first.as_ref().map(Placed::cores), Some(&[0, 1][..]));
        assert!(placement.take(1000).is_none());
        drop(first);
        assert!(placement.take(1000).is_some());
    }
}
