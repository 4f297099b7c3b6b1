//! Operations on two sets.

use crate::SpanSet;
use std::cmp::{max, min};

/// What is in one of the sets or in both.
pub fn union<T: Ord + Clone>(a: &SpanSet<T>, b: &SpanSet<T>) -> SpanSet<T> {
    let mut result = a.clone();
    for span in b.iter() {
        result.insert(span);
    }
    result
}

/// What is in both sets.
pub fn intersection<T: Ord + Clone>(a: &SpanSet<T>, b: &SpanSet<T>) -> SpanSet<T> {
    let mut result = SpanSet::new();
    for x in a.iter() {
        for y in b.iter() {
            let start = max(x.start.clone(), y.start.clone());
            let end = min(x.end.clone(), y.end);
            result.insert(start..end);
        }
    }
    result
}

/// What is in `a` but not in `b`.
pub fn difference<T: Ord + Clone>(a: &SpanSet<T>, b: &SpanSet<T>) -> SpanSet<T> {
    let mut result = a.clone();
    for span in b.iter() {
        result.remove(span);
    }
    result
}

/// Whether the sets have anything in common.
pub fn overlaps<T: Ord + Clone>(a: &SpanSet<T>, b: &SpanSet<T>) -> bool {
    !intersection(a, b).is_empty()
}
