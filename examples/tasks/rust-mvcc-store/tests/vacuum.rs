//! Vacuum, reading in the past, and everything at random against a plain model.

use mvkv::{Error, Isolation, Snapshot, Store, Tx};
use std::collections::BTreeMap;

type S = Store<u32, u32>;

fn set(store: &S, writes: &[(u32, Option<u32>)]) -> u64 {
    let mut tx = store.begin(Isolation::Snapshot);
    for (key, value) in writes {
        match value {
            Some(value) => tx.put(*key, *value),
            None => tx.delete(key),
        }
    }
    tx.commit().unwrap()
}

#[test]
fn removes_what_nobody_sees() {
    let store = S::new();
    for i in 0..5 {
        set(&store, &[(1, Some(i)), (2, Some(i))]);
    }
    set(&store, &[(2, None)]);
    assert_eq!(store.version_count(), 11);
    assert_eq!(store.vacuum(), 10);
    assert_eq!(store.version_count(), 1);
    assert_eq!(store.vacuum(), 0);
    assert_eq!(store.snapshot().scan(..).collect::<Vec<_>>(), [(1, 4)]);
    set(&store, &[(1, None)]);
    assert_eq!(store.vacuum(), 2);
    assert_eq!(store.version_count(), 0);
}

#[test]
fn keeps_what_is_in_use() {
    let store = S::new();
    for i in 1..=6 {
        set(&store, &[(1, Some(i)), (2, if i % 2 == 0 { None } else { Some(i) })]);
    }
    // Versions: six of 1, six of 2 (three of them deletions).
    let two = store.as_of(2).unwrap();
    let three = store.as_of(3).unwrap();
    assert_eq!(store.vacuum(), 3, "1@1, 2@1 and the deletion 2@2 are of no use");
    assert_eq!((two.get(&1), two.get(&2)), (Some(2), None));
    assert_eq!((three.get(&1), three.get(&2)), (Some(3), Some(3)));
    drop(two);
    assert_eq!(store.vacuum(), 1);
    assert_eq!((three.get(&1), three.get(&2)), (Some(3), Some(3)));
    let copy = three.clone();
    drop(three);
    assert_eq!(store.vacuum(), 0, "the clone is in use");
    assert_eq!(copy.get(&2), Some(3));
    drop(copy);
    assert_eq!(store.vacuum(), 7);
    assert_eq!(store.version_count(), 1);
}

#[test]
fn a_deletion_is_kept_as_long_as_something_older_is_seen() {
    let store = S::new();
    set(&store, &[(1, Some(1))]);
    let old = store.snapshot();
    set(&store, &[(1, None)]);
    assert_eq!(store.vacuum(), 0);
    assert_eq!((old.get(&1), store.snapshot().get(&1)), (Some(1), None));
    drop(old);
    assert_eq!(store.vacuum(), 2);
    assert_eq!(store.snapshot().get(&1), None);
}

#[test]
fn several_users_of_one_time() {
    let store = S::new();
    set(&store, &[(1, Some(1))]);
    let a = store.snapshot();
    let b = store.begin(Isolation::Snapshot);
    let c = store.begin(Isolation::Serializable);
    let d = store.begin(Isolation::Snapshot);
    set(&store, &[(1, Some(2))]);
    drop(a);
    assert_eq!(store.vacuum(), 0);
    b.commit().unwrap();
    assert_eq!(store.vacuum(), 0);
    c.rollback();
    assert_eq!(store.vacuum(), 0);
    assert_eq!(d.get(&1), Some(1));
    drop(d);
    assert_eq!(store.vacuum(), 1);
}

#[test]
fn a_conflict_ends_the_use() {
    let store = S::new();
    set(&store, &[(1, Some(1))]);
    let mut tx = store.begin(Isolation::Snapshot);
    tx.put(1, 5);
    set(&store, &[(1, Some(2))]);
    assert_eq!(tx.commit(), Err(Error::Conflict));
    assert_eq!(store.vacuum(), 1);
}

#[test]
fn conflicts_are_found_after_a_vacuum() {
    let store = S::new();
    set(&store, &[(1, Some(1)), (2, Some(2))]);
    let mut a = store.begin(Isolation::Snapshot);
    let mut b = store.begin(Isolation::Serializable);
    assert_eq!(b.scan(1..3).count(), 2);
    set(&store, &[(1, None)]);
    set(&store, &[(5, Some(5))]);
    set(&store, &[(5, None)]);
    let c = store.begin(Isolation::Snapshot);
    store.vacuum();
    a.put(1, 9);
    b.put(9, 9);
    assert_eq!(a.commit(), Err(Error::Conflict));
    assert_eq!(b.commit(), Err(Error::Conflict));
    drop(c);
    store.vacuum();
    assert_eq!(store.version_count(), 1);
}

#[test]
fn the_past() {
    let store = S::new();
    for i in 1..=5 {
        set(&store, &[(1, Some(i))]);
    }
    assert!(store.as_of(0).is_ok());
    let three = store.as_of(3).unwrap();
    store.vacuum();
    assert_eq!(store.as_of(2).err(), Some(Error::TooOld));
    assert_eq!(store.as_of(0).err(), Some(Error::TooOld));
    assert_eq!(store.as_of(3).unwrap().get(&1), Some(3));
    assert_eq!(store.as_of(4).unwrap().get(&1), Some(4));
    assert_eq!(store.as_of(6).err(), Some(Error::Future));
    let four = store.as_of(4).unwrap();
    drop(three);
    store.vacuum();
    assert_eq!(store.as_of(3).err(), Some(Error::TooOld));
    assert_eq!(store.as_of(4).unwrap().get(&1), Some(4));
    drop(four);
    store.vacuum();
    assert_eq!(store.as_of(4).err(), Some(Error::TooOld));
    assert_eq!(store.as_of(5).unwrap().get(&1), Some(5));
    store.vacuum();
    assert_eq!(store.as_of(5).unwrap().get(&1), Some(5));
}

struct Rng(u64);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

type State = BTreeMap<u32, u32>;

/// A transaction beside a plain copy of what it should see and depend on.
struct Pair {
    tx: Tx<u32, u32>,
    serializable: bool,
    begin: usize,
    state: State,
    written: Vec<u32>,
    read: Vec<u32>,
    savepoints: Vec<(mvkv::Savepoint, State, Vec<u32>)>,
}

const KEYS: u32 = 12;

#[test]
fn at_random() {
    let mut rng = Rng(0x2545f4914f6cdd1d);
    let (mut commits, mut conflicts) = (0, 0);
    for _ in 0..60 {
        let store = S::new();
        let mut history: Vec<State> = vec![State::new()];
        let mut changed: Vec<Vec<u32>> = vec![vec![]]; // by time
        let mut open: Vec<Pair> = Vec::new();
        let mut snapshots: Vec<Snapshot<u32, u32>> = Vec::new();
        let mut horizon = 0;
        for _ in 0..250 {
            if open.is_empty() || (open.len() < 5 && rng.below(5) == 0) {
                let serializable = rng.below(2) == 0;
                let isolation = if serializable { Isolation::Serializable } else { Isolation::Snapshot };
                open.push(Pair {
                    tx: store.begin(isolation),
                    serializable,
                    begin: history.len() - 1,
                    state: history[history.len() - 1].clone(),
                    written: vec![],
                    read: vec![],
                    savepoints: vec![],
                });
            }
            let i = rng.below(open.len());
            let key = rng.below(KEYS as usize) as u32;
            let p = &mut open[i];
            match rng.below(16) {
                0..=2 => {
                    let value = rng.below(1000) as u32;
                    p.tx.put(key, value);
                    p.state.insert(key, value);
                    p.written.push(key);
                }
                3 | 4 => {
                    p.tx.delete(&key);
                    p.state.remove(&key);
                    p.written.push(key);
                }
                5 => {
                    assert_eq!(p.tx.get(&key), p.state.get(&key).copied());
                    if !p.written.contains(&key) {
                        p.read.push(key);
                    }
                }
                6 => {
                    let high = key + rng.below(6) as u32;
                    let wanted: Vec<_> = p.state.range(key..high).map(|(k, v)| (*k, *v)).collect();
                    let steps = rng.below(5);
                    let got: Vec<_> = p.tx.scan(key..high).take(steps).collect();
                    assert_eq!(got, wanted.iter().copied().take(steps).collect::<Vec<_>>());
                    match got.last() {
                        _ if got.len() < steps => p.read.extend(key..high),
                        Some((last, _)) => p.read.extend(key..=*last),
                        None => {}
                    }
                }
                7 => {
                    let low = rng.below(KEYS as usize) as u32;
                    let wanted: Vec<_> = if low <= key { p.state.range(low..=key).rev().map(|(k, v)| (*k, *v)).collect() } else { vec![] };
                    let got: Vec<_> = p.tx.scan(low..=key).rev().collect();
                    assert_eq!(got, wanted);
                    p.read.extend(low..=key);
                }
                8 => {
                    let savepoint = p.tx.savepoint();
                    p.savepoints.push((savepoint, p.state.clone(), p.written.clone()));
                }
                9 if !p.savepoints.is_empty() => {
                    let n = rng.below(p.savepoints.len());
                    let (savepoint, state, written) = p.savepoints[n].clone();
                    assert_eq!(p.tx.rollback_to(savepoint), Ok(()));
                    (p.state, p.written) = (state, written);
                    for (later, _, _) in p.savepoints.drain(n + 1..) {
                        assert_eq!(p.tx.rollback_to(later), Err(Error::InvalidSavepoint));
                    }
                }
                10 | 11 => {
                    let p = open.swap_remove(i);
                    let later: Vec<u32> = changed[p.begin + 1..].concat();
                    let conflict = !p.written.is_empty()
                        && (p.written.iter().any(|k| later.contains(k)) || (p.serializable && p.read.iter().any(|k| later.contains(k))));
                    let result = p.tx.commit();
                    if conflict {
                        assert_eq!(result, Err(Error::Conflict), "written {:?}, read {:?}, changed {later:?}", p.written, p.read);
                        conflicts += 1;
                    } else if p.written.is_empty() {
                        assert_eq!(result, Ok(p.begin as u64));
                    } else {
                        assert_eq!(result, Ok(history.len() as u64), "written {:?}, read {:?}, changed {later:?}", p.written, p.read);
                        commits += 1;
                        let before = history[history.len() - 1].clone();
                        let mut after = before.clone();
                        let mut now_changed = Vec::new();
                        for k in &p.written {
                            match p.state.get(k) {
                                Some(v) => after.insert(*k, *v),
                                None => after.remove(k),
                            };
                            if p.state.contains_key(k) || before.contains_key(k) {
                                now_changed.push(*k);
                            }
                        }
                        history.push(after);
                        changed.push(now_changed);
                    }
                }
                12 => drop(open.swap_remove(i)),
                13 => {
                    let time = rng.below(history.len() + 1);
                    match store.as_of(time as u64) {
                        Ok(snapshot) => {
                            assert!(time >= horizon && time < history.len(), "as_of({time}) with horizon {horizon}");
                            snapshots.push(snapshot);
                        }
                        Err(error) => assert_eq!(error, if time < horizon { Error::TooOld } else { Error::Future }, "as_of({time})"),
                    }
                }
                14 if !snapshots.is_empty() => {
                    let n = rng.below(snapshots.len());
                    drop(snapshots.swap_remove(n));
                }
                15 => {
                    let times = snapshots.iter().map(|s| s.time() as usize).chain(open.iter().map(|p| p.begin));
                    let oldest = times.min().unwrap_or(history.len() - 1);
                    horizon = horizon.max(oldest);
                    let before = store.version_count();
                    let removed = store.vacuum();
                    assert_eq!(store.version_count(), before - removed);
                    // Needed is what the oldest state holds, and what changed since.
                    let needed: usize = changed[oldest + 1..].iter().map(|keys| keys.iter().collect::<std::collections::BTreeSet<_>>().len()).sum();
                    assert_eq!(store.version_count(), history[oldest].len() + needed, "after a vacuum at {oldest}");
                }
                _ => {}
            }
            for snapshot in &snapshots {
                let got: State = snapshot.scan(..).collect();
                assert_eq!(got, history[snapshot.time() as usize], "the snapshot of time {}", snapshot.time());
            }
            assert_eq!(store.now() as usize, history.len() - 1);
        }
        for p in &open {
            assert_eq!(p.tx.scan(..).collect::<State>(), p.state);
        }
    }
    assert!(commits > 300 && conflicts > 100, "{commits} commits and {conflicts} conflicts");
}
