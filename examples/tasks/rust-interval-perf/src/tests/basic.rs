use spanset::{ops, SpanSet};

#[test]
fn joins_and_cuts() {
    let mut set = SpanSet::new();
    set.extend([1..3, 5..7, 3..5]);
    assert_eq!(set.to_vec(), vec![1..7]);
    set.remove(2..4);
    assert_eq!(set.to_vec(), vec![1..2, 4..7]);
    assert_eq!(set.gaps(0..10), vec![0..1, 2..4, 7..10]);
}

#[test]
fn operations() {
    let a: SpanSet<i32> = [0..10, 20..30].into_iter().collect();
    let b: SpanSet<i32> = [5..25].into_iter().collect();
    assert_eq!(ops::intersection(&a, &b).to_vec(), vec![5..10, 20..25]);
    assert_eq!(ops::difference(&a, &b).to_vec(), vec![0..5, 25..30]);
    assert_eq!(ops::union(&a, &b).to_vec(), vec![0..30]);
}
