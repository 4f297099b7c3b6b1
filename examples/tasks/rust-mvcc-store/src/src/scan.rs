use crate::Store;
use std::collections::BTreeMap;
use std::ops::{Bound, RangeBounds};
use std::sync::Mutex;

/// The keys of a store that were read.
pub(crate) type Keys<K> = Mutex<Vec<K>>;

/// A lazy scan from both ends.
pub struct Scan<'a, K, V> {
    store: &'a Store<K, V>,
    time: u64,
    writes: &'a BTreeMap<K, Option<V>>,
    /// Where to note what was walked over, if that is wanted.
    reads: Option<&'a Keys<K>>,
    /// What is left of the range.
    low: Bound<K>,
    high: Bound<K>,
}

impl<'a, K: Ord + Clone, V: Clone> Scan<'a, K, V> {
    pub(crate) fn new<R: RangeBounds<K>>(
        store: &'a Store<K, V>,
        time: u64,
        writes: &'a BTreeMap<K, Option<V>>,
        reads: Option<&'a Keys<K>>,
        range: R,
    ) -> Self {
        let low = range.start_bound().cloned();
        let high = range.end_bound().cloned();
        Scan {
            store,
            time,
            writes,
            reads,
            low,
            high,
        }
    }

    fn step(&mut self, back: bool) -> Option<(K, V)> {
        let found = self.nearest(back)?;
        if let Some(Ok(mut keys)) = self.reads.map(|reads| reads.lock()) {
            keys.push(found.0.clone());
        }
        let passed = Bound::Excluded(found.0.clone());
        if back {
            self.high = passed;
        } else {
            self.low = passed;
        }
        Some(found)
    }

    fn nearest(&self, back: bool) -> Option<(K, V)> {
        let stored = self.store.lock().next(&self.low, &self.high, self.time, back);
        let mut own = self.writes.range((self.low.as_ref(), self.high.as_ref()));
        let own = if back { own.next_back() } else { own.next() };
        match (stored, own) {
            (stored, None | Some((_, None))) => stored,
            (Some((key, value)), Some((own_key, _))) if key < *own_key => Some((key, value)),
            (_, Some((key, Some(value)))) => Some((key.clone(), value.clone())),
        }
    }
}

impl<K: Ord + Clone, V: Clone> Iterator for Scan<'_, K, V> {
    type Item = (K, V);

    fn next(&mut self) -> Option<(K, V)> {
        self.step(false)
    }
}

impl<K: Ord + Clone, V: Clone> DoubleEndedIterator for Scan<'_, K, V> {
    fn next_back(&mut self) -> Option<(K, V)> {
        self.step(true)
    }
}
