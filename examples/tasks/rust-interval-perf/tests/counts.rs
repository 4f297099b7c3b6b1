//! Numbers of comparisons and clones, counted by the element type.

use spanset::rooms::RoomTable;
use spanset::{ops, SpanSet};
use std::cell::Cell;
use std::cmp::Ordering;
use std::ops::Range;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

fn tick() {
    COUNT.with(|c| {
        c.set(c.get() + 1);
        // Far beyond every limit below: end a hopeless run early.
        assert!(c.get() < 200_000_000, "far too many comparisons and clones");
    });
}

/// The comparisons and clones that `f` needs.
fn count<R>(f: impl FnOnce() -> R) -> (R, u64) {
    COUNT.with(|c| c.set(0));
    let result = f();
    (result, COUNT.with(|c| c.get()))
}

#[derive(Debug)]
struct P(u32);

impl Clone for P {
    fn clone(&self) -> Self {
        tick();
        P(self.0)
    }
}
impl PartialEq for P {
    fn eq(&self, other: &Self) -> bool {
        tick();
        self.0 == other.0
    }
}
impl Eq for P {}
impl PartialOrd for P {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for P {
    fn cmp(&self, other: &Self) -> Ordering {
        tick();
        self.0.cmp(&other.0)
    }
}

fn r(start: u32, end: u32) -> Range<P> {
    P(start)..P(end)
}

const N: u32 = 40_000;

/// What O(log n) may cost at most: generous for any balanced tree.
fn log_limit(n: u32) -> u64 {
    12 * (u64::from(32 - n.leading_zeros()) + 4)
}

fn limit(total: u64, allowed: u64, what: &str) {
    assert!(total <= allowed, "{what}: {total} comparisons and clones, allowed are {allowed}");
}

/// The numbers below n in a scattered order.
fn scattered(n: u32) -> impl Iterator<Item = u32> {
    (0..n).map(move |i| (u64::from(i) * 7919 % u64::from(n)) as u32)
}

fn every(n: u32, step: u32, offset: u32, width: u32) -> SpanSet<P> {
    (0..n).map(|i| r(i * step + offset, i * step + offset + width)).collect()
}

#[test]
fn inserting() {
    let forward: Vec<u32> = (0..N).collect();
    let backward: Vec<u32> = (0..N).rev().collect();
    let mixed: Vec<u32> = scattered(N).collect();
    for (name, order) in [("ascending", forward), ("descending", backward), ("scattered", mixed)] {
        let mut set = SpanSet::new();
        let (_, total) = count(|| {
            for &i in &order {
                set.insert(r(i * 10, i * 10 + 5));
            }
        });
        assert_eq!(set.len(), N as usize);
        limit(total, u64::from(N) * log_limit(N), name);
        let (_, total) = count(|| {
            for &i in &order {
                set.insert(r(i * 10 + 5, i * 10 + 10));
            }
        });
        assert_eq!(set.len(), 1);
        limit(total, u64::from(N) * log_limit(N), "filling the gaps");
    }
}

#[test]
fn inserting_the_same_again() {
    let mut set = every(N, 10, 0, 5);
    let (_, total) = count(|| {
        for i in 0..N {
            set.insert(r(i * 10 + 1, i * 10 + 3));
        }
    });
    limit(total, u64::from(N) * log_limit(N), "already there");
}

#[test]
fn one_insertion_swallows_many() {
    let mut set = every(N, 10, 0, 5);
    let (_, total) = count(|| set.insert(r(100, 10 * N - 100)));
    assert_eq!(set.len(), 20);
    limit(total, u64::from(N) * log_limit(N), "swallowing");
    let (_, total) = count(|| set.insert(r(50, 60)));
    limit(total, log_limit(N), "afterwards");
}

#[test]
fn removing() {
    let mut set = SpanSet::new();
    set.insert(r(0, 10 * N));
    let (_, total) = count(|| {
        for i in scattered(N) {
            set.remove(r(i * 10, i * 10 + 5));
        }
    });
    assert_eq!(set.len(), N as usize);
    limit(total, u64::from(N) * log_limit(N), "cutting");
    let (_, total) = count(|| {
        for i in scattered(N) {
            set.remove(r(i * 10 + 1, i * 10 + 4));
        }
    });
    limit(total, u64::from(N) * log_limit(N), "nothing to remove");
    let (_, total) = count(|| set.remove(r(7, 10 * N - 7)));
    assert_eq!(set.len(), 2);
    limit(total, u64::from(N) * log_limit(N), "removing many");
}

#[test]
fn asking() {
    let set = every(N, 10, 0, 5);
    let (found, total) = count(|| (0..N).filter(|i| set.contains(&P(i * 7 % (10 * N)))).count());
    assert!(found > 0);
    limit(total, u64::from(N) * log_limit(N), "contains");
    let (found, total) = count(|| (0..N).filter(|i| set.covers(&r(i * 10 + 1, i * 10 + 1 + i % 8))).count());
    assert!(found > 0);
    limit(total, u64::from(N) * log_limit(N), "covers");
    let (_, total) = count(|| assert_eq!((set.len(), set.is_empty()), (N as usize, false)));
    limit(total, 4, "len and is_empty");
}

#[test]
fn walking() {
    let set = every(N, 10, 0, 5);
    let (n, total) = count(|| set.iter().count());
    assert_eq!(n, N as usize);
    limit(total, 8 * u64::from(N), "iter");
    let (n, total) = count(|| set.to_vec().len());
    assert_eq!(n, N as usize);
    limit(total, 8 * u64::from(N), "to_vec");
    let (sum, total) = count(|| set.spans().map(|(s, e)| u64::from(e.0 - s.0)).sum::<u64>());
    assert_eq!(sum, 5 * u64::from(N));
    limit(total, 4, "spans copies or compares");
    let (n, total) = count(|| set.gaps(r(0, 10 * N)).len());
    assert_eq!(n, N as usize);
    limit(total, 16 * u64::from(N) + log_limit(N), "gaps of everything");
    let (first, total) = count(|| set.iter().take(3).count());
    assert_eq!(first, 3);
    limit(total, log_limit(N), "iter, only the first");
}

#[test]
fn a_few_gaps() {
    let set = every(N, 10, 0, 5);
    for at in [0, 5 * N, 10 * N - 40] {
        let (gaps, total) = count(|| set.gaps(r(at, at + 30)));
        assert_eq!(gaps.len(), 3);
        limit(total, 3 * log_limit(N), "gaps within a small range");
    }
}

#[test]
fn two_sets() {
    let a = every(N, 10, 0, 6);
    let shapes = [
        ("interleaved", every(N, 10, 4, 4)),
        ("one that spans all", every(1, 1, 3, 10 * N - 5)),
        ("before and after", every(N, 10, 10 * N + 5, 5)),
        ("few wide ones", every(N / 1000, 10_000, 2, 9_000)),
        ("none", SpanSet::new()),
    ];
    for (name, b) in &shapes {
        let allowed = 2 * u64::from(N) * log_limit(2 * N);
        for (x, y) in [(&a, b), (b, &a)] {
            let (_, total) = count(|| ops::union(x, y));
            limit(total, allowed, &format!("union, {name}"));
            let (_, total) = count(|| ops::intersection(x, y));
            limit(total, allowed, &format!("intersection, {name}"));
            let (_, total) = count(|| ops::difference(x, y));
            limit(total, allowed, &format!("difference, {name}"));
            let (_, total) = count(|| ops::overlaps(x, y));
            limit(total, allowed, &format!("overlaps, {name}"));
        }
    }
    assert_eq!(ops::intersection(&a, &shapes[0].1).len(), N as usize);
    assert_eq!(ops::union(&a, &shapes[0].1).len(), N as usize);
    assert_eq!(ops::difference(&a, &shapes[1].1).len(), 1);
}

#[test]
fn overlap_with_a_single_interval() {
    let a = every(N, 10, 0, 6);
    for at in [0, 3 * N, 10 * N - 5] {
        for (width, expected) in [(1, false), (9, true)] {
            let single = every(1, 1, at + 7, width);
            let expected = expected && at + 7 + width > at + 10 && at + 10 < 10 * N;
            for (x, y) in [(&a, &single), (&single, &a)] {
                let (found, total) = count(|| ops::overlaps(x, y));
                assert_eq!(found, expected, "{at} {width}");
                limit(total, 4 * log_limit(N), "overlaps with one interval");
            }
        }
    }
}

#[test]
fn collecting() {
    for width in [3, 25, 100_000] {
        let ranges: Vec<_> = scattered(N).map(|i| r(i * 10, i * 10 + width)).collect();
        let (set, total) = count(|| ranges.into_iter().collect::<SpanSet<P>>());
        assert_eq!(set.len(), if width == 3 { N as usize } else { 1 });
        limit(total, u64::from(N) * log_limit(N), "collecting");
    }
}

#[test]
fn rooms() {
    let mut table = RoomTable::new();
    let names: Vec<String> = (0..50).map(|i| format!("room {i:02}")).collect();
    for name in &names {
        table.add_room(name);
    }
    let each = 4_000;
    let (_, total) = count(|| {
        for i in scattered(each) {
            for (k, name) in names.iter().enumerate() {
                let start = i * 100 + k as u32;
                assert!(table.book(name, r(start, start + 49)));
            }
        }
    });
    limit(total, 50 * u64::from(each) * 3 * log_limit(each), "book");
    let (taken, total) = count(|| table.book(&names[7], r(5_020, 5_030)));
    assert!(!taken);
    limit(total, 4 * log_limit(each), "book what is taken");
    for at in [0, 200_050, 399_900] {
        let (free, total) = count(|| table.free_rooms(r(at, at + 20)));
        assert!(free.len() < 50);
        limit(total, 50 * 3 * log_limit(each), "free_rooms");
    }
    let (sum, total) = count(|| table.utilisation(&names[3], |s, e| u64::from(e.0 - s.0)));
    assert_eq!(sum, u64::from(each) * 49);
    limit(total, log_limit(each), "utilisation copies or compares");
}
