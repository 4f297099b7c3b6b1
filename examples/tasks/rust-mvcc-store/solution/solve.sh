#!/bin/sh
# Versions with counted users, ranges as read sets, an undo log for savepoints.
set -eu
cat > src/src/store.rs <<'E'
use crate::{Error, Snapshot, Tx};
use std::collections::BTreeMap;
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
    /// How many transactions and snapshots use a time.
    in_use: BTreeMap<u64, usize>,
    /// The earliest time that can still be read.
    horizon: u64,
    next_tx: u64,
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

    /// Begins one more use of a time that is in use already.
    pub(crate) fn retain(&self, time: u64) {
        self.lock().retain(time);
    }
}

impl<K: Ord + Clone, V: Clone> Store<K, V> {
    pub fn new() -> Self {
        let inner = Inner {
            versions: BTreeMap::new(),
            now: 0,
            in_use: BTreeMap::new(),
            horizon: 0,
            next_tx: 0,
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
        inner.next_tx += 1;
        Tx::new(self.clone(), isolation, time, inner.next_tx)
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
        if time < inner.horizon {
            return Err(Error::TooOld);
        }
        inner.retain(time);
        Ok(Snapshot::new(self.clone(), time))
    }

    /// Removes the versions that nobody can see any more; returns their number.
    pub fn vacuum(&self) -> usize {
        let mut inner = self.lock();
        let oldest = inner.in_use.keys().next().copied().unwrap_or(inner.now);
        inner.horizon = inner.horizon.max(oldest);
        let mut removed = 0;
        inner.versions.retain(|_, versions| {
            // The last version at or before that time is the first one needed.
            let visible = versions.partition_point(|(time, _)| *time <= oldest);
            let mut unneeded = visible.saturating_sub(1);
            if visible > 0 && versions[visible - 1].1.is_none() {
                unneeded = visible;
            }
            versions.drain(..unneeded);
            removed += unneeded;
            !versions.is_empty()
        });
        removed
    }

    /// The number of stored versions.
    pub fn version_count(&self) -> usize {
        self.lock().versions.values().map(Vec::len).sum()
    }
}

impl<K, V> Inner<K, V> {
    fn retain(&mut self, time: u64) {
        *self.in_use.entry(time).or_insert(0) += 1;
    }

    fn release(&mut self, time: u64) {
        if let Some(uses) = self.in_use.get_mut(&time) {
            *uses -= 1;
            if *uses == 0 {
                self.in_use.remove(&time);
            }
        }
    }
}

/// Whether there is nothing between two bounds (where BTreeMap::range panics).
pub(crate) fn is_empty_range<K: Ord>(low: &Bound<K>, high: &Bound<K>) -> bool {
    match (low, high) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(a), Bound::Included(b)) => a > b,
        (Bound::Included(a) | Bound::Excluded(a), Bound::Included(b) | Bound::Excluded(b)) => a >= b,
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
        if is_empty_range(low, high) {
            return None;
        }
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
        self.versions.get(key).is_some_and(|versions| newer(versions, time))
    }

    /// Whether any key between two bounds was changed after a time.
    pub(crate) fn changed_between(&self, low: &Bound<K>, high: &Bound<K>, time: u64) -> bool {
        !is_empty_range(low, high)
            && self.versions.range((low.as_ref(), high.as_ref())).any(|(_, versions)| newer(versions, time))
    }

    /// Makes writes visible, all at the next time.
    pub(crate) fn apply(&mut self, writes: BTreeMap<K, Option<V>>) -> u64 {
        let time = self.now + 1;
        for (key, value) in writes {
            if value.is_some() || self.get(&key, self.now).is_some() {
                self.versions.entry(key).or_default().push((time, value));
            }
        }
        self.now = time;
        time
    }
}

fn newer<V>(versions: &Versions<V>, time: u64) -> bool {
    versions.last().is_some_and(|(t, _)| *t > time)
}
E
cat > src/src/snapshot.rs <<'E'
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
        self.store.retain(self.time);
        Snapshot { store: self.store.clone(), time: self.time, writes: BTreeMap::new() }
    }
}

impl<K, V> Drop for Snapshot<K, V> {
    fn drop(&mut self) {
        self.store.release(self.time);
    }
}
E
cat > src/src/scan.rs <<'E'
use crate::store::is_empty_range;
use crate::Store;
use std::collections::BTreeMap;
use std::ops::{Bound, RangeBounds};
use std::sync::Mutex;

/// The ranges of a store that were read.
pub(crate) type Ranges<K> = Mutex<Vec<(Bound<K>, Bound<K>)>>;

/// A lazy scan from both ends.
pub struct Scan<'a, K, V> {
    store: &'a Store<K, V>,
    time: u64,
    writes: &'a BTreeMap<K, Option<V>>,
    /// Where to note what was walked over, if that is wanted.
    reads: Option<&'a Ranges<K>>,
    /// The whole range.
    range: (Bound<K>, Bound<K>),
    /// What is left of it.
    low: Bound<K>,
    high: Bound<K>,
    /// The places in `reads` for what was walked over from the front and the back.
    noted: [Option<usize>; 2],
    done: bool,
}

impl<'a, K: Ord + Clone, V: Clone> Scan<'a, K, V> {
    pub(crate) fn new<R: RangeBounds<K>>(
        store: &'a Store<K, V>,
        time: u64,
        writes: &'a BTreeMap<K, Option<V>>,
        reads: Option<&'a Ranges<K>>,
        range: R,
    ) -> Self {
        let low = range.start_bound().cloned();
        let high = range.end_bound().cloned();
        Scan {
            store,
            time,
            writes,
            reads,
            range: (low.clone(), high.clone()),
            low,
            high,
            noted: [None, None],
            done: false,
        }
    }

    fn note(&mut self, back: bool, low: Bound<K>, high: Bound<K>) {
        let Some(reads) = self.reads else { return };
        if let Ok(mut ranges) = reads.lock() {
            match self.noted[usize::from(back)] {
                Some(i) => ranges[i] = (low, high),
                None => {
                    self.noted[usize::from(back)] = Some(ranges.len());
                    ranges.push((low, high));
                }
            }
        }
    }

    fn step(&mut self, back: bool) -> Option<(K, V)> {
        let found = self.nearest(back);
        match &found {
            Some((key, _)) => {
                let key = key.clone();
                if back {
                    self.high = Bound::Excluded(key.clone());
                    self.note(true, Bound::Included(key), self.range.1.clone());
                } else {
                    self.low = Bound::Excluded(key.clone());
                    self.note(false, self.range.0.clone(), Bound::Included(key));
                }
            }
            None if !self.done => {
                self.done = true;
                self.note(back, self.range.0.clone(), self.range.1.clone());
            }
            None => {}
        }
        found
    }

    fn nearest(&self, back: bool) -> Option<(K, V)> {
        let (mut low, mut high) = (self.low.clone(), self.high.clone());
        loop {
            if is_empty_range(&low, &high) {
                return None;
            }
            let stored = self.store.lock().next(&low, &high, self.time, back);
            let mut own = self.writes.range((low.as_ref(), high.as_ref()));
            let own = if back { own.next_back() } else { own.next() };
            let own_first = match (&stored, own) {
                (_, None) => false,
                (None, Some(_)) => true,
                (Some((key, _)), Some((own_key, _))) => {
                    if back {
                        own_key >= key
                    } else {
                        own_key <= key
                    }
                }
            };
            match own {
                Some((key, Some(value))) if own_first => return Some((key.clone(), value.clone())),
                Some((key, None)) if own_first => {
                    let passed = Bound::Excluded(key.clone());
                    if back {
                        high = passed;
                    } else {
                        low = passed;
                    }
                }
                _ => return stored,
            }
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
E
cat > src/src/tx.rs <<'E'
use crate::scan::{Ranges, Scan};
use crate::{Error, Isolation, Store};
use std::collections::BTreeMap;
use std::ops::{Bound, RangeBounds};
use std::sync::Mutex;

/// A transaction. Dropping it rolls it back.
pub struct Tx<K, V> {
    store: Store<K, V>,
    isolation: Isolation,
    time: u64,
    id: u64,
    /// What is to be written; None is a deletion.
    writes: BTreeMap<K, Option<V>>,
    /// What `writes` held before each write, to undo them in reverse.
    undo: Vec<(K, Option<Option<V>>)>,
    /// The valid savepoints with the length of `undo` they go back to.
    savepoints: Vec<(u64, usize)>,
    next_savepoint: u64,
    /// The ranges that were read; a key is a range of one.
    reads: Ranges<K>,
}

/// A place in a transaction to go back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Savepoint {
    tx: u64,
    id: u64,
}

impl<K: Ord + Clone, V: Clone> Tx<K, V> {
    pub(crate) fn new(store: Store<K, V>, isolation: Isolation, time: u64, id: u64) -> Self {
        Tx {
            store,
            isolation,
            time,
            id,
            writes: BTreeMap::new(),
            undo: Vec::new(),
            savepoints: Vec::new(),
            next_savepoint: 0,
            reads: Mutex::new(Vec::new()),
        }
    }

    /// The time of the state that the transaction sees.
    pub fn time(&self) -> u64 {
        self.time
    }

    fn tracked(&self) -> Option<&Ranges<K>> {
        (self.isolation == Isolation::Serializable).then_some(&self.reads)
    }

    pub fn get(&self, key: &K) -> Option<V> {
        if let Some(own) = self.writes.get(key) {
            return own.clone();
        }
        if let Some(Ok(mut reads)) = self.tracked().map(|reads| reads.lock()) {
            reads.push((Bound::Included(key.clone()), Bound::Included(key.clone())));
        }
        self.store.lock().get(key, self.time)
    }

    /// The pairs in a range, in order, from both ends.
    pub fn scan<R: RangeBounds<K>>(&self, range: R) -> Scan<'_, K, V> {
        Scan::new(&self.store, self.time, &self.writes, self.tracked(), range)
    }

    pub fn put(&mut self, key: K, value: V) {
        self.write(key, Some(value));
    }

    pub fn delete(&mut self, key: &K) {
        self.write(key.clone(), None);
    }

    fn write(&mut self, key: K, value: Option<V>) {
        let before = self.writes.insert(key.clone(), value);
        if !self.savepoints.is_empty() {
            self.undo.push((key, before));
        }
    }

    pub fn savepoint(&mut self) -> Savepoint {
        self.next_savepoint += 1;
        self.savepoints.push((self.next_savepoint, self.undo.len()));
        Savepoint { tx: self.id, id: self.next_savepoint }
    }

    /// Takes back all writes since a savepoint, which stays valid.
    pub fn rollback_to(&mut self, savepoint: Savepoint) -> Result<(), Error> {
        let place = self.savepoints.iter().position(|(id, _)| *id == savepoint.id);
        let place = match place {
            Some(place) if savepoint.tx == self.id => place,
            _ => return Err(Error::InvalidSavepoint),
        };
        self.savepoints.truncate(place + 1);
        let (_, length) = self.savepoints[place];
        for (key, before) in self.undo.drain(length..).rev() {
            match before {
                Some(value) => self.writes.insert(key, value),
                None => self.writes.remove(&key),
            };
        }
        Ok(())
    }

    /// Makes the writes visible; returns the time from which they are.
    pub fn commit(mut self) -> Result<u64, Error> {
        let writes = std::mem::take(&mut self.writes);
        if writes.is_empty() {
            return Ok(self.time);
        }
        let reads = match self.reads.get_mut() {
            Ok(reads) => std::mem::take(reads),
            Err(poisoned) => std::mem::take(poisoned.into_inner()),
        };
        let mut inner = self.store.lock();
        let conflict = writes.keys().any(|key| inner.changed(key, self.time))
            || reads.iter().any(|(low, high)| inner.changed_between(low, high, self.time));
        if conflict {
            return Err(Error::Conflict);
        }
        Ok(inner.apply(writes))
    }

    /// Gives the transaction up.
    pub fn rollback(self) {}
}

impl<K, V> Drop for Tx<K, V> {
    fn drop(&mut self) {
        self.store.release(self.time);
    }
}
E
