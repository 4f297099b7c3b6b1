use crate::{Error, Snapshot, Tx};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Lost updates are prevented.
    Snapshot,
    /// Everything is as if transactions ran one after the other.
    Serializable,
}

/// A handle to a store; clones are handles to the same one.
pub struct Store<K, V> {
    inner: Arc<Mutex<Inner<K, V>>>,
}

/// The versions of a key, oldest first; None is a deletion.
type Versions<V> = Vec<(u64, Option<V>)>;

pub(crate) struct Inner<K, V> {
    versions: BTreeMap<K, Versions<V>>,
    now: u64,
    /// The times that transactions and snapshots use.
    in_use: BTreeSet<u64>,
}

impl<K, V> Clone for Store<K, V> {
    fn clone(&self) -> Self {
        Store { inner: self.inner.clone() }
    }
}

impl<K: Ord + Clone, V: Clone> Default for Store<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K, V> Store<K, V> {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner<K, V>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends one use of a time.
    pub(crate) fn release(&self, time: u64) {
        self.lock().release(time);
    }
}

impl<K: Ord + Clone, V: Clone> Store<K, V> {
    pub fn new() -> Self {
        let inner = Inner {
            versions: BTreeMap::new(),
            now: 0,
            in_use: BTreeSet::new(),
        };
        Store { inner: Arc::new(Mutex::new(inner)) }
    }

    /// The time of the last commit.
    pub fn now(&self) -> u64 {
        self.lock().now
    }

    pub fn begin(&self, isolation: Isolation) -> Tx<K, V> {
        let mut inner = self.lock();
        let time = inner.now;
        inner.retain(time);
        Tx::new(self.clone(), isolation, time)
    }

    /// The present state, to read from.
    pub fn snapshot(&self) -> Snapshot<K, V> {
        let mut inner = self.lock();
        let time = inner.now;
        inner.retain(time);
        Snapshot::new(self.clone(), time)
    }

    /// The state at an earlier time, to read from.
    pub fn as_of(&self, time: u64) -> Result<Snapshot<K, V>, Error> {
        let mut inner = self.lock();
        if time > inner.now {
            return Err(Error::Future);
        }
        inner.retain(time);
        Ok(Snapshot::new(self.clone(), time))
    }

    /// Removes the versions that nobody can see any more; returns their number.
    pub fn vacuum(&self) -> usize {
        let mut inner = self.lock();
        let oldest = inner.in_use.first().copied().unwrap_or(inner.now);
        let mut removed = 0;
        for versions in inner.versions.values_mut() {
            let before = versions.len();
            versions.retain(|(time, value)| *time >= oldest && value.is_some());
            removed += before - versions.len();
        }
        removed
    }

    /// The number of stored versions.
    pub fn version_count(&self) -> usize {
        self.lock().versions.values().map(Vec::len).sum()
    }
}

impl<K, V> Inner<K, V> {
    fn retain(&mut self, time: u64) {
        self.in_use.insert(time);
    }

    fn release(&mut self, time: u64) {
        self.in_use.remove(&time);
    }
}

fn visible<V>(versions: &Versions<V>, time: u64) -> Option<&V> {
    let n = versions.partition_point(|(t, _)| *t <= time);
    versions[..n].last().and_then(|(_, value)| value.as_ref())
}

impl<K: Ord + Clone, V: Clone> Inner<K, V> {
    pub(crate) fn get(&self, key: &K, time: u64) -> Option<V> {
        visible(self.versions.get(key)?, time).cloned()
    }

    /// The first (or last) pair between two bounds that can be seen at a time.
    pub(crate) fn next(&self, low: &Bound<K>, high: &Bound<K>, time: u64, back: bool) -> Option<(K, V)> {
        let mut range = self.versions.range((low.as_ref(), high.as_ref()));
        loop {
            let (key, versions) = if back { range.next_back()? } else { range.next()? };
            if let Some(value) = visible(versions, time) {
                return Some((key.clone(), value.clone()));
            }
        }
    }

    /// Whether a key was changed after a time.
    pub(crate) fn changed(&self, key: &K, time: u64) -> bool {
        self.versions.get(key).and_then(|versions| versions.last()).is_some_and(|(t, value)| *t > time && value.is_some())
    }

    /// Makes writes visible, all at the next time.
    pub(crate) fn apply(&mut self, writes: BTreeMap<K, Option<V>>) -> u64 {
        for (key, value) in writes {
            self.now += 1;
            let time = self.now;
            self.versions.entry(key).or_default().push((time, value));
        }
        self.now
    }
}
