use crate::scan::Scan;
use crate::Store;
use std::collections::BTreeMap;
use std::ops::RangeBounds;

/// The state of a store at a time.
pub struct Snapshot<K, V> {
    store: Store<K, V>,
    time: u64,
    /// A snapshot has no writes of its own.
    writes: BTreeMap<K, Option<V>>,
}

impl<K: Ord + Clone, V: Clone> Snapshot<K, V> {
    pub(crate) fn new(store: Store<K, V>, time: u64) -> Self {
        Snapshot { store, time, writes: BTreeMap::new() }
    }

    pub fn time(&self) -> u64 {
        self.time
    }

    pub fn get(&self, key: &K) -> Option<V> {
        self.store.lock().get(key, self.time)
    }

    /// The pairs in a range, in order, from both ends.
    pub fn scan<R: RangeBounds<K>>(&self, range: R) -> Scan<'_, K, V> {
        Scan::new(&self.store, self.time, &self.writes, None, range)
    }
}

impl<K, V> Clone for Snapshot<K, V> {
    fn clone(&self) -> Self {
        Snapshot { store: self.store.clone(), time: self.time, writes: BTreeMap::new() }
    }
}

impl<K, V> Drop for Snapshot<K, V> {
    fn drop(&mut self) {
        self.store.release(self.time);
    }
}
