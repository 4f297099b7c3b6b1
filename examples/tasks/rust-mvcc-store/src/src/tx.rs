use crate::scan::{Keys, Scan};
use crate::{Error, Isolation, Store};
use std::collections::BTreeMap;
use std::ops::RangeBounds;
use std::sync::Mutex;

/// A transaction. Dropping it rolls it back.
pub struct Tx<K, V> {
    store: Store<K, V>,
    isolation: Isolation,
    time: u64,
    /// What is to be written; None is a deletion.
    writes: BTreeMap<K, Option<V>>,
    /// The keys in the order in which they were written.
    log: Vec<K>,
    /// The savepoints, as lengths of the log.
    savepoints: Vec<usize>,
    /// The keys that were read.
    reads: Keys<K>,
}

/// A place in a transaction to go back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Savepoint {
    id: usize,
}

impl<K: Ord + Clone, V: Clone> Tx<K, V> {
    pub(crate) fn new(store: Store<K, V>, isolation: Isolation, time: u64) -> Self {
        Tx {
            store,
            isolation,
            time,
            writes: BTreeMap::new(),
            log: Vec::new(),
            savepoints: Vec::new(),
            reads: Mutex::new(Vec::new()),
        }
    }

    /// The time of the state that the transaction sees.
    pub fn time(&self) -> u64 {
        self.time
    }

    fn tracked(&self) -> Option<&Keys<K>> {
        (self.isolation == Isolation::Serializable).then_some(&self.reads)
    }

    pub fn get(&self, key: &K) -> Option<V> {
        if let Some(Ok(mut reads)) = self.tracked().map(|reads| reads.lock()) {
            reads.push(key.clone());
        }
        if let Some(Some(own)) = self.writes.get(key) {
            return Some(own.clone());
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
        self.writes.insert(key.clone(), value);
        self.log.push(key);
    }

    pub fn savepoint(&mut self) -> Savepoint {
        self.savepoints.push(self.log.len());
        Savepoint { id: self.savepoints.len() - 1 }
    }

    /// Takes back all writes since a savepoint, which stays valid.
    pub fn rollback_to(&mut self, savepoint: Savepoint) -> Result<(), Error> {
        let length = *self.savepoints.get(savepoint.id).ok_or(Error::InvalidSavepoint)?;
        self.savepoints.truncate(savepoint.id);
        for key in self.log.drain(length..) {
            self.writes.remove(&key);
        }
        Ok(())
    }

    /// Makes the writes visible; returns the time from which they are.
    pub fn commit(mut self) -> Result<u64, Error> {
        let writes = std::mem::take(&mut self.writes);
        let reads = match self.reads.get_mut() {
            Ok(reads) => std::mem::take(reads),
            Err(poisoned) => std::mem::take(poisoned.into_inner()),
        };
        self.store.release(self.time);
        let mut inner = self.store.lock();
        let conflict = writes.keys().any(|key| inner.changed(key, self.time))
            || reads.iter().any(|key| inner.changed(key, self.time));
        if conflict {
            return Err(Error::Conflict);
        }
        Ok(inner.apply(writes))
    }

    /// Gives the transaction up.
    pub fn rollback(self) {
        self.store.release(self.time);
    }
}
