//! What transactions see, and when they conflict.

use mvkv::{Error, Isolation, Store, Tx};
use std::ops::Bound;
use Isolation::{Serializable, Snapshot};

type S = Store<u32, u32>;

fn with(pairs: &[(u32, u32)]) -> S {
    let store = S::new();
    let mut tx = store.begin(Snapshot);
    for (k, v) in pairs {
        tx.put(*k, *v);
    }
    tx.commit().unwrap();
    store
}

fn set(store: &S, key: u32, value: Option<u32>) -> u64 {
    let mut tx = store.begin(Snapshot);
    match value {
        Some(value) => tx.put(key, value),
        None => tx.delete(&key),
    }
    tx.commit().unwrap()
}

fn pairs(tx: &Tx<u32, u32>) -> Vec<(u32, u32)> {
    tx.scan(..).collect()
}

#[test]
fn a_commit_is_visible_at_one_time() {
    let store = with(&[(1, 1), (2, 2), (3, 3)]);
    assert_eq!(store.now(), 1);
    let mut tx = store.begin(Snapshot);
    tx.put(1, 10);
    tx.delete(&2);
    tx.put(4, 40);
    assert_eq!(store.snapshot().scan(..).collect::<Vec<_>>(), [(1, 1), (2, 2), (3, 3)]);
    assert_eq!(tx.commit(), Ok(2));
    assert_eq!(store.now(), 2);
    assert_eq!(store.as_of(1).unwrap().scan(..).collect::<Vec<_>>(), [(1, 1), (2, 2), (3, 3)]);
    assert_eq!(store.as_of(2).unwrap().scan(..).collect::<Vec<_>>(), [(1, 10), (3, 3), (4, 40)]);
    assert_eq!(store.as_of(0).unwrap().scan(..).count(), 0);
    assert_eq!(store.as_of(3).err(), Some(Error::Future));
}

#[test]
fn a_transaction_sees_its_begin_and_itself() {
    let store = with(&[(1, 1), (2, 2)]);
    let mut tx = store.begin(Snapshot);
    set(&store, 1, Some(100));
    set(&store, 3, Some(300));
    set(&store, 2, None);
    assert_eq!((tx.get(&1), tx.get(&2), tx.get(&3)), (Some(1), Some(2), None));
    tx.put(2, 22);
    tx.delete(&1);
    tx.put(7, 70);
    assert_eq!((tx.get(&1), tx.get(&2), tx.get(&7)), (None, Some(22), Some(70)));
    assert_eq!(pairs(&tx), [(2, 22), (7, 70)]);
    tx.put(1, 11);
    assert_eq!(pairs(&tx), [(1, 11), (2, 22), (7, 70)]);
    tx.rollback();
    assert_eq!(store.snapshot().scan(..).collect::<Vec<_>>(), [(1, 100), (3, 300)]);
}

#[test]
fn commits_without_writes_take_no_time() {
    let store = with(&[(1, 1)]);
    let tx = store.begin(Serializable);
    tx.get(&1);
    set(&store, 1, Some(2));
    assert_eq!(tx.commit(), Ok(1));
    assert_eq!(store.now(), 2);
    let mut tx = store.begin(Snapshot);
    let start = tx.savepoint();
    tx.put(1, 5);
    tx.rollback_to(start).unwrap();
    assert_eq!(tx.commit(), Ok(2));
    assert_eq!(store.now(), 2);
    let mut tx = store.begin(Snapshot);
    tx.delete(&99);
    assert_eq!(tx.commit(), Ok(3));
    assert_eq!(store.version_count(), 2, "the deletion of nothing was stored");
}

#[test]
fn write_conflicts() {
    // What the other one does, and what the transaction wants to do.
    let changes: [Option<u32>; 2] = [Some(7), None];
    for isolation in [Snapshot, Serializable] {
        for key in [1, 5] {
            for theirs in changes {
                for ours in changes {
                    let store = with(&[(1, 1), (2, 2)]);
                    let mut tx = store.begin(isolation);
                    if theirs.is_none() && key == 5 {
                        set(&store, key, Some(3)); // there is something to delete
                    }
                    set(&store, key, theirs);
                    match ours {
                        Some(v) => tx.put(key, v),
                        None => tx.delete(&key),
                    }
                    tx.put(2, 20);
                    let before = store.now();
                    assert_eq!(tx.commit(), Err(Error::Conflict), "{key}: {theirs:?} and {ours:?}");
                    assert_eq!(store.now(), before);
                    assert_eq!(store.snapshot().get(&2), Some(2), "a part was written");
                    assert_eq!(store.snapshot().get(&key), theirs);
                }
            }
        }
    }
}

#[test]
fn the_same_value_is_a_change() {
    let store = with(&[(1, 1)]);
    let mut tx = store.begin(Snapshot);
    set(&store, 1, Some(1));
    tx.put(1, 1);
    assert_eq!(tx.commit(), Err(Error::Conflict));
    let mut tx = store.begin(Serializable);
    tx.get(&1);
    tx.put(2, 2);
    set(&store, 1, Some(1));
    assert_eq!(tx.commit(), Err(Error::Conflict));
}

#[test]
fn changed_and_changed_back() {
    let store = with(&[(1, 1)]);
    let mut tx = store.begin(Snapshot);
    set(&store, 5, Some(5));
    set(&store, 5, None);
    tx.put(5, 50);
    assert_eq!(tx.commit(), Err(Error::Conflict));
}

#[test]
fn no_false_conflicts() {
    let store = with(&[(1, 1), (2, 2), (3, 3)]);
    for isolation in [Snapshot, Serializable] {
        let mut tx = store.begin(isolation);
        assert!(tx.get(&1).is_some());
        set(&store, 2, Some(20));
        set(&store, 9, Some(9));
        set(&store, 9, None);
        tx.put(3, 30);
        tx.put(8, 80);
        assert!(tx.commit().is_ok());
    }
    // An aborted or unfinished transaction conflicts with nobody.
    let mut other = store.begin(Snapshot);
    other.put(1, 100);
    let mut tx = store.begin(Serializable);
    tx.get(&1);
    tx.put(1, 5);
    other.rollback();
    assert!(tx.commit().is_ok());
    // Reading what was written before the begin.
    let mut tx = store.begin(Serializable);
    tx.get(&1);
    tx.put(2, 5);
    assert!(tx.commit().is_ok());
}

#[test]
fn write_skew() {
    let store = with(&[(1, 1), (2, 1)]);
    let run = |isolation| {
        let mut a = store.begin(isolation);
        let mut b = store.begin(isolation);
        assert_eq!((a.get(&2), b.get(&1)), (Some(1), Some(1)));
        a.put(1, 1);
        b.put(2, 1);
        assert!(a.commit().is_ok());
        b.commit()
    };
    assert!(run(Snapshot).is_ok());
    assert_eq!(run(Serializable), Err(Error::Conflict));
}

#[test]
fn reads_of_what_is_not_there() {
    let store = with(&[(1, 1)]);
    let mut tx = store.begin(Serializable);
    assert_eq!(tx.get(&5), None);
    tx.put(1, 2);
    set(&store, 5, Some(5));
    assert_eq!(tx.commit(), Err(Error::Conflict));
    let mut tx = store.begin(Serializable);
    assert_eq!(tx.get(&5), Some(5));
    tx.put(1, 2);
    set(&store, 5, None);
    assert_eq!(tx.commit(), Err(Error::Conflict));
}

#[test]
fn own_keys_are_no_reads() {
    let store = with(&[(1, 1), (2, 2)]);
    let mut tx = store.begin(Serializable);
    let start = tx.savepoint();
    tx.put(1, 10);
    assert_eq!(tx.get(&1), Some(10));
    tx.delete(&2);
    assert_eq!(tx.get(&2), None);
    tx.rollback_to(start).unwrap();
    tx.put(3, 3);
    set(&store, 1, Some(5));
    set(&store, 2, Some(5));
    assert!(tx.commit().is_ok());
}

/// Scans in some way, lets another transaction change a key, and tells whether
/// that is a conflict.
fn phantom(scan: impl Fn(&Tx<u32, u32>), key: u32, value: Option<u32>) -> bool {
    let store = with(&[(10, 1), (20, 2), (30, 3), (40, 4)]);
    let mut tx = store.begin(Serializable);
    scan(&tx);
    tx.put(1000, 1);
    set(&store, key, value);
    match tx.commit() {
        Ok(_) => false,
        Err(Error::Conflict) => true,
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn phantoms_in_a_whole_range() {
    let whole = |tx: &Tx<u32, u32>| assert_eq!(tx.scan(15..=35).count(), 2);
    for (key, expected) in [(14, false), (15, true), (16, true), (20, true), (25, true), (35, true), (36, false), (10, false), (40, false)] {
        assert_eq!(phantom(whole, key, Some(7)), expected, "insert {key}");
    }
    assert!(phantom(whole, 30, None) && !phantom(whole, 40, None));
    let half = |tx: &Tx<u32, u32>| assert_eq!(tx.scan(10..30).count(), 2);
    assert!(phantom(half, 10, None) && phantom(half, 29, Some(1)) && !phantom(half, 30, Some(1)));
    let open = |tx: &Tx<u32, u32>| assert_eq!(tx.scan((Bound::Excluded(10), Bound::Excluded(40))).count(), 2);
    assert!(phantom(open, 11, Some(1)) && phantom(open, 39, Some(1)) && !phantom(open, 10, Some(1)) && !phantom(open, 40, Some(1)));
    let nothing = |tx: &Tx<u32, u32>| assert_eq!(tx.scan(21..29).count(), 0);
    assert!(phantom(nothing, 21, Some(1)) && phantom(nothing, 28, Some(1)) && !phantom(nothing, 29, Some(1)) && !phantom(nothing, 20, None));
    let all = |tx: &Tx<u32, u32>| assert_eq!(tx.scan(..).rev().count(), 4);
    assert!(phantom(all, 0, Some(1)) && phantom(all, u32::MAX, Some(1)));
}

#[test]
fn phantoms_in_a_part_of_a_range() {
    let two = |tx: &Tx<u32, u32>| assert_eq!(tx.scan(5..).take(2).count(), 2);
    for (key, expected) in [(4, false), (5, true), (10, true), (15, true), (20, true), (21, false), (30, false), (50, false)] {
        assert_eq!(phantom(two, key, Some(7)), expected, "two from the front: {key}");
    }
    let back = |tx: &Tx<u32, u32>| assert_eq!(tx.scan(..45).rev().take(2).count(), 2);
    for (key, expected) in [(46, false), (45, false), (44, true), (40, true), (35, true), (30, true), (29, false), (20, false)] {
        assert_eq!(phantom(back, key, Some(7)), expected, "two from the back: {key}");
    }
    let both = |tx: &Tx<u32, u32>| {
        let mut scan = tx.scan(5..45);
        assert_eq!((scan.next(), scan.next_back()), (Some((10, 1)), Some((40, 4))));
    };
    for (key, expected) in [(4, false), (5, true), (10, true), (11, false), (20, false), (39, false), (40, true), (44, true), (45, false)] {
        assert_eq!(phantom(both, key, Some(7)), expected, "one from each end: {key}");
    }
    let meeting = |tx: &Tx<u32, u32>| {
        let mut scan = tx.scan(5..45);
        scan.next();
        scan.next_back();
        assert_eq!((scan.next(), scan.next_back(), scan.next(), scan.next_back()), (Some((20, 2)), Some((30, 3)), None, None));
    };
    for key in [5, 15, 25, 35, 44] {
        assert!(phantom(meeting, key, Some(7)), "until they meet: {key}");
    }
    let none = |tx: &Tx<u32, u32>| drop(tx.scan(..));
    assert!(!phantom(none, 10, None));
}

#[test]
fn phantoms_with_own_writes() {
    let store = with(&[(10, 1), (20, 2), (30, 3)]);
    let mut tx = store.begin(Serializable);
    tx.delete(&10);
    tx.put(15, 5);
    assert_eq!(tx.scan(5..).next(), Some((15, 5)));
    set(&store, 20, Some(9));
    assert!(tx.commit().is_ok(), "20 was not walked over");
    let mut tx = store.begin(Serializable);
    tx.put(25, 5);
    assert_eq!(tx.scan(21..).next(), Some((25, 5)));
    set(&store, 22, Some(9));
    assert_eq!(tx.commit(), Err(Error::Conflict), "22 was walked over");
}

#[test]
fn scans() {
    let store = with(&[(1, 1), (3, 3), (5, 5), (7, 7), (9, 9)]);
    let mut tx = store.begin(Snapshot);
    set(&store, 3, None);
    set(&store, 4, Some(4));
    tx.delete(&1);
    tx.delete(&5);
    tx.put(6, 60);
    tx.put(7, 70);
    tx.put(11, 110);
    tx.delete(&8);
    let all = [(3, 3), (6, 60), (7, 70), (9, 9), (11, 110)];
    assert_eq!(pairs(&tx), all);
    let mut reversed: Vec<_> = tx.scan(..).rev().collect();
    reversed.reverse();
    assert_eq!(reversed, all);
    for mask in 0..64u32 {
        let mut scan = tx.scan(..);
        let (mut front, mut back) = (Vec::new(), Vec::new());
        for step in 0..6 {
            if mask >> step & 1 == 0 {
                front.extend(scan.next());
            } else {
                back.extend(scan.next_back());
            }
        }
        assert_eq!((scan.next(), scan.next_back()), (None, None));
        front.extend(back.into_iter().rev());
        assert_eq!(front, all, "mask {mask:b}");
    }
    let keys = |low, high| tx.scan((low, high)).map(|(k, _)| k).collect::<Vec<_>>();
    assert_eq!(keys(Bound::Included(3), Bound::Included(9)), [3, 6, 7, 9]);
    assert_eq!(keys(Bound::Excluded(3), Bound::Excluded(9)), [6, 7]);
    assert_eq!(keys(Bound::Excluded(6), Bound::Unbounded), [7, 9, 11]);
    assert_eq!(keys(Bound::Unbounded, Bound::Excluded(6)), [3]);
    assert_eq!(keys(Bound::Included(9), Bound::Included(3)), [0; 0]);
    assert_eq!(keys(Bound::Excluded(7), Bound::Excluded(7)), [0; 0]);
    assert_eq!(keys(Bound::Included(7), Bound::Excluded(7)), [0; 0]);
    assert_eq!(keys(Bound::Excluded(7), Bound::Included(7)), [0; 0]);
    assert_eq!(keys(Bound::Included(7), Bound::Included(7)), [7]);
    assert_eq!(keys(Bound::Excluded(9), Bound::Excluded(3)), [0; 0]);
    #[allow(clippy::reversed_empty_ranges)]
    let reversed = tx.scan(9..3).rev().count();
    assert_eq!(reversed, 0);
    assert_eq!(store.snapshot().scan((Bound::Excluded(4), Bound::Excluded(4))).count(), 0);
}

#[test]
fn savepoints() {
    let store = with(&[(1, 1), (2, 2), (3, 3)]);
    let mut tx = store.begin(Snapshot);
    tx.put(1, 10);
    tx.delete(&2);
    let a = tx.savepoint();
    tx.put(1, 11);
    tx.put(2, 21);
    tx.put(4, 41);
    let b = tx.savepoint();
    tx.delete(&1);
    tx.delete(&4);
    tx.put(5, 51);
    tx.put(5, 52);
    assert_eq!(pairs(&tx), [(2, 21), (3, 3), (5, 52)]);
    let c = tx.savepoint();
    tx.put(3, 31);
    assert_eq!(tx.rollback_to(b), Ok(()));
    assert_eq!(pairs(&tx), [(1, 11), (2, 21), (3, 3), (4, 41)]);
    assert_eq!(tx.rollback_to(c), Err(Error::InvalidSavepoint));
    assert_eq!(pairs(&tx), [(1, 11), (2, 21), (3, 3), (4, 41)]);
    tx.put(9, 9);
    let d = tx.savepoint();
    tx.put(9, 99);
    assert_eq!(tx.rollback_to(b), Ok(()));
    assert_eq!(pairs(&tx), [(1, 11), (2, 21), (3, 3), (4, 41)]);
    assert_eq!(tx.rollback_to(a), Ok(()));
    assert_eq!(tx.rollback_to(a), Ok(()));
    assert_eq!(pairs(&tx), [(1, 10), (3, 3)]);
    for gone in [b, c, d] {
        assert_eq!(tx.rollback_to(gone), Err(Error::InvalidSavepoint));
    }
    tx.put(6, 6);
    let e = tx.savepoint();
    tx.put(7, 7);
    assert_eq!(tx.rollback_to(b), Err(Error::InvalidSavepoint), "an old savepoint is mistaken for a new one");
    assert_eq!(tx.rollback_to(e), Ok(()));
    assert!(tx.commit().is_ok());
    assert_eq!(store.snapshot().scan(..).collect::<Vec<_>>(), [(1, 10), (3, 3), (6, 6)]);
}

#[test]
fn savepoints_of_others() {
    let store = with(&[(1, 1)]);
    let mut a = store.begin(Snapshot);
    let mut b = store.begin(Snapshot);
    let (sa, sb) = (a.savepoint(), b.savepoint());
    a.put(1, 10);
    b.put(2, 20);
    assert_eq!(a.rollback_to(sb), Err(Error::InvalidSavepoint));
    assert_eq!(b.rollback_to(sa), Err(Error::InvalidSavepoint));
    assert_eq!((a.get(&1), b.get(&2)), (Some(10), Some(20)));
}

#[test]
fn what_was_taken_back_does_not_conflict() {
    let store = with(&[(1, 1), (2, 2)]);
    let mut tx = store.begin(Serializable);
    tx.put(2, 20);
    let savepoint = tx.savepoint();
    tx.put(1, 10);
    tx.rollback_to(savepoint).unwrap();
    set(&store, 1, Some(100));
    assert!(tx.commit().is_ok());
    // But reads stay reads, and earlier writes writes.
    let mut tx = store.begin(Serializable);
    tx.put(5, 50);
    let savepoint = tx.savepoint();
    tx.get(&1);
    tx.put(5, 51);
    tx.rollback_to(savepoint).unwrap();
    assert_eq!(tx.get(&5), Some(50));
    set(&store, 1, Some(101));
    assert_eq!(tx.commit(), Err(Error::Conflict));
    let mut tx = store.begin(Snapshot);
    tx.put(1, 50);
    let savepoint = tx.savepoint();
    tx.put(1, 51);
    tx.rollback_to(savepoint).unwrap();
    set(&store, 1, Some(102));
    assert_eq!(tx.commit(), Err(Error::Conflict));
}

#[test]
fn many_threads() {
    let store = with(&[(0, 0), (1, 1000), (2, 0)]);
    let threads: Vec<_> = (0..4u32)
        .map(|n| {
            let store = store.clone();
            std::thread::spawn(move || {
                for _ in 0..50 {
                    loop {
                        let mut tx = store.begin(if n % 2 == 0 { Snapshot } else { Serializable });
                        let (count, from, to) = (tx.get(&0), tx.get(&1), tx.get(&2));
                        tx.put(0, count.unwrap() + 1);
                        tx.put(1, from.unwrap() - 1);
                        tx.put(2, to.unwrap() + 1);
                        let sum: u32 = tx.scan(1..).map(|(_, v)| v).sum();
                        assert_eq!(sum, 1000);
                        if tx.commit().is_ok() {
                            break;
                        }
                        store.vacuum();
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let end = store.snapshot();
    assert_eq!((end.get(&0), end.get(&1), end.get(&2)), (Some(200), Some(800), Some(200)));
    assert_eq!(store.now(), 201);
    drop(end);
    store.vacuum();
    assert_eq!(store.version_count(), 3);
}
