//! Results, compared with a plain array of points.

use spanset::rooms::RoomTable;
use spanset::{ops, SpanSet};
use std::ops::Range;

const SIZE: usize = 48;

struct Rng(u64);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }

    fn range(&mut self) -> Range<usize> {
        let start = self.below(SIZE);
        if self.below(8) == 0 {
            return start..self.below(SIZE); // perhaps empty or reversed
        }
        start..(start + 1 + self.below(9)).min(SIZE)
    }
}

#[derive(Clone)]
struct Model([bool; SIZE]);

impl Model {
    fn fill(&mut self, range: &Range<usize>, value: bool) {
        for i in range.clone() {
            self.0[i] = value;
        }
    }

    fn spans(&self) -> Vec<Range<usize>> {
        let mut spans = Vec::new();
        let mut start = None;
        for i in 0..=SIZE {
            match (start, i < SIZE && self.0[i]) {
                (None, true) => start = Some(i),
                (Some(s), false) => {
                    spans.push(s..i);
                    start = None;
                }
                _ => {}
            }
        }
        spans
    }

    fn with(&self, other: &Model, f: impl Fn(bool, bool) -> bool) -> Vec<Range<usize>> {
        let mut result = self.clone();
        for i in 0..SIZE {
            result.0[i] = f(self.0[i], other.0[i]);
        }
        result.spans()
    }
}

fn random(rng: &mut Rng, steps: usize) -> (SpanSet<usize>, Model) {
    let mut set = SpanSet::new();
    let mut model = Model([false; SIZE]);
    for _ in 0..steps {
        let range = rng.range();
        let adding = rng.below(3) > 0;
        if adding {
            set.insert(range.clone());
        } else {
            set.remove(range.clone());
        }
        model.fill(&range, adding);
        assert_eq!(set.to_vec(), model.spans(), "after {range:?} ({adding})");
        assert_eq!(set.len(), model.spans().len());
        assert_eq!(set.is_empty(), model.spans().is_empty());
    }
    (set, model)
}

#[test]
fn random_sets() {
    let mut rng = Rng(0x9e3779b97f4a7c15);
    for round in 0..300 {
        let (a, ma) = random(&mut rng, 1 + round % 25);
        let (b, mb) = random(&mut rng, rng_steps(round));
        assert_eq!(ops::union(&a, &b).to_vec(), ma.with(&mb, |x, y| x || y));
        assert_eq!(ops::intersection(&a, &b).to_vec(), ma.with(&mb, |x, y| x && y));
        assert_eq!(ops::difference(&a, &b).to_vec(), ma.with(&mb, |x, y| x && !y));
        assert_eq!(ops::overlaps(&a, &b), !ma.with(&mb, |x, y| x && y).is_empty());
        assert_eq!(a.to_vec(), ma.spans(), "the first argument changed");
        assert_eq!(b.to_vec(), mb.spans(), "the second argument changed");
        for point in 0..SIZE {
            assert_eq!(a.contains(&point), ma.0[point], "{point} in {:?}", ma.spans());
        }
        for _ in 0..20 {
            let range = rng.range();
            assert_eq!(a.covers(&range), range.clone().all(|i| ma.0[i]), "{range:?} in {:?}", ma.spans());
            let mut free = Model([false; SIZE]);
            free.fill(&range, true);
            assert_eq!(a.gaps(range.clone()), free.with(&ma, |x, y| x && !y), "{range:?} of {:?}", ma.spans());
        }
        let pairs: Vec<_> = a.spans().map(|(s, e)| *s..*e).collect();
        assert_eq!(pairs, ma.spans());
        let again: SpanSet<usize> = a.iter().chain(b.iter()).collect();
        assert_eq!(again, ops::union(&b, &a));
    }
}

fn rng_steps(round: usize) -> usize {
    round * 7 % 23
}

#[test]
fn text_bounds() {
    let mut set: SpanSet<String> = SpanSet::default();
    set.insert("b".to_string().."d".to_string());
    set.insert("d".to_string().."f".to_string());
    set.insert("x".to_string().."c".to_string());
    set.remove("cc".to_string().."cd".to_string());
    let shown: Vec<_> = set.spans().map(|(s, e)| format!("{s}-{e}")).collect();
    assert_eq!(shown, ["b-cc", "cd-f"]);
    assert!(set.contains(&"bzz".to_string()));
    assert!(!set.contains(&"f".to_string()));
}

#[test]
fn equality_is_by_content() {
    let a: SpanSet<u8> = [1..2, 2..3, 5..9].into_iter().collect();
    let mut b: SpanSet<u8> = [0..9].into_iter().collect();
    b.remove(3..5);
    b.remove(0..1);
    assert_eq!(a, b);
    assert_eq!(a, a.clone());
}

#[test]
fn rooms() {
    let mut table: RoomTable<u32> = RoomTable::new();
    table.add_room("b");
    table.add_room("a");
    table.add_room("c");
    assert!(table.book("a", 9..10));
    assert!(table.book("a", 10..12));
    assert!(!table.book("a", 11..13));
    assert!(!table.book("a", 8..20));
    assert!(table.book("a", 7..9));
    assert!(table.book("b", 8..9));
    assert!(!table.book("nowhere", 8..9));
    assert!(table.book("c", 5..5));
    table.add_room("a");
    assert_eq!(table.utilisation("a", |s, e| u64::from(e - s)), 5);
    assert_eq!(table.utilisation("nowhere", |s, e| u64::from(e - s)), 0);
    assert_eq!(table.free_rooms(8..9), ["c"]);
    assert_eq!(table.free_rooms(9..12), ["b", "c"]);
    assert_eq!(table.free_rooms(12..12), ["a", "b", "c"]);
    assert_eq!(table.free_rooms(9..8), ["a", "b", "c"]);
    table.cancel("a", 8..11);
    table.cancel("nowhere", 8..11);
    assert_eq!(table.free_rooms(8..11), ["a", "c"]);
}
