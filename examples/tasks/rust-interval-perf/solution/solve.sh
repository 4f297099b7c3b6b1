#!/bin/sh
# Keep the intervals in a map from start to end, and merge sets in one pass.
set -eu
cat > src/src/set.rs <<'E'
use std::collections::BTreeMap;
use std::ops::{Bound, Range};

/// An ordered set of disjoint intervals that do not touch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpanSet<T> {
    /// The end of each interval, by its start.
    ends: BTreeMap<T, T>,
}

impl<T: Ord + Clone> Default for SpanSet<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Ord + Clone> SpanSet<T> {
    pub fn new() -> Self {
        SpanSet { ends: BTreeMap::new() }
    }

    /// Number of disjoint intervals.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The last interval that starts at or before a point.
    fn at_or_before(&self, point: &T) -> Option<(&T, &T)> {
        self.ends.range((Bound::Unbounded, Bound::Included(point))).next_back()
    }

    /// Adds a range, joining it with the intervals it overlaps or touches.
    pub fn insert(&mut self, range: Range<T>) {
        let Range { mut start, mut end } = range;
        if start >= end {
            return;
        }
        // From the last interval that may touch the range backwards.
        while let Some((s, e)) = self.at_or_before(&end) {
            if *e < start {
                break;
            }
            if *s <= start && end <= *e {
                return;
            }
            let s = s.clone();
            if let Some(e) = self.ends.remove(&s) {
                end = end.max(e);
            }
            start = start.min(s);
        }
        self.ends.insert(start, end);
    }

    /// Takes a range out, cutting the intervals it overlaps.
    pub fn remove(&mut self, range: Range<T>) {
        let Range { start, end } = range;
        if start >= end {
            return;
        }
        loop {
            let below = self.ends.range((Bound::Unbounded, Bound::Excluded(&end))).next_back();
            let s = match below {
                Some((s, e)) if *e > start => s.clone(),
                _ => return,
            };
            let Some(e) = self.ends.remove(&s) else { return };
            if e > end {
                self.ends.insert(end.clone(), e);
            }
            if s < start {
                self.ends.insert(s, start);
                return;
            }
        }
    }

    /// Whether a point is in the set.
    pub fn contains(&self, point: &T) -> bool {
        self.at_or_before(point).is_some_and(|(_, e)| point < e)
    }

    /// Whether the whole range is in the set.
    pub fn covers(&self, range: &Range<T>) -> bool {
        range.start >= range.end || self.at_or_before(&range.start).is_some_and(|(_, e)| range.end <= *e)
    }

    /// Whether a part of the range is in the set.
    pub(crate) fn meets(&self, range: (&T, &T)) -> bool {
        let (start, end) = range;
        start < end
            && self
                .ends
                .range((Bound::Unbounded, Bound::Excluded(end)))
                .next_back()
                .is_some_and(|(_, e)| e > start)
    }

    /// The intervals in order.
    pub fn iter(&self) -> impl Iterator<Item = Range<T>> + '_ {
        self.ends.iter().map(|(s, e)| s.clone()..e.clone())
    }

    /// The bounds of the intervals in order, without copying them.
    pub fn spans(&self) -> impl Iterator<Item = (&T, &T)> + '_ {
        self.ends.iter()
    }

    pub fn to_vec(&self) -> Vec<Range<T>> {
        self.iter().collect()
    }

    /// What of `within` is not in the set, in order.
    pub fn gaps(&self, within: Range<T>) -> Vec<Range<T>> {
        let mut gaps = Vec::new();
        let Range { mut start, end } = within;
        if start >= end {
            return gaps;
        }
        if let Some((_, e)) = self.at_or_before(&start) {
            if *e > start {
                start = e.clone();
            }
        }
        if start >= end {
            return gaps;
        }
        for (s, e) in self.ends.range((Bound::Included(&start), Bound::Excluded(&end))) {
            if start < *s {
                gaps.push(start..s.clone());
            }
            start = e.clone();
        }
        if start < end {
            gaps.push(start..end);
        }
        gaps
    }
}

impl<T: Ord + Clone> FromIterator<Range<T>> for SpanSet<T> {
    fn from_iter<I: IntoIterator<Item = Range<T>>>(ranges: I) -> Self {
        let mut set = SpanSet::new();
        set.extend(ranges);
        set
    }
}

impl<T: Ord + Clone> Extend<Range<T>> for SpanSet<T> {
    fn extend<I: IntoIterator<Item = Range<T>>>(&mut self, ranges: I) {
        for range in ranges {
            self.insert(range);
        }
    }
}
E
cat > src/src/ops.rs <<'E'
//! Operations on two sets.

use crate::SpanSet;
use std::cmp::{max, min};

/// What is in one of the sets or in both.
pub fn union<T: Ord + Clone>(a: &SpanSet<T>, b: &SpanSet<T>) -> SpanSet<T> {
    let mut result = a.clone();
    result.extend(b.iter());
    result
}

/// What is in both sets.
pub fn intersection<T: Ord + Clone>(a: &SpanSet<T>, b: &SpanSet<T>) -> SpanSet<T> {
    let mut result = SpanSet::new();
    common(a, b, |start, end| {
        result.insert(start.clone()..end.clone());
        true
    });
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
    let (few, many) = if a.len() < b.len() { (a, b) } else { (b, a) };
    let found = few.spans().any(|span| many.meets(span));
    found
}

/// Walks over both sets at once and hands out the common parts in order.
fn common<'a, T: Ord + Clone>(a: &'a SpanSet<T>, b: &'a SpanSet<T>, mut visit: impl FnMut(&'a T, &'a T) -> bool) {
    let (mut left, mut right) = (a.spans(), b.spans());
    let (mut x, mut y) = (left.next(), right.next());
    while let (Some((xs, xe)), Some((ys, ye))) = (x, y) {
        let (start, end) = (max(xs, ys), min(xe, ye));
        if start < end && !visit(start, end) {
            return;
        }
        if xe < ye {
            x = left.next();
        } else {
            y = right.next();
        }
    }
}
E
cat > /tmp/rooms.awk <<'E'
/let wanted: SpanSet<T> = std::iter::once/ { next }
{ gsub(/ops::overlaps\(calendar, &wanted\)/, "calendar.meets((\\&when.start, \\&when.end))") }
{ gsub(/ops::intersection\(calendar, &wanted\)\.is_empty\(\)/, "!calendar.meets((\\&when.start, \\&when.end))") }
/let calendar = self.rooms.get\(room\).cloned/ {
  print "        let calendar = self.rooms.get(room);"
  getline
  print "        calendar.map_or(0, |c| c.spans().map(|(start, end)| length(start, end)).sum())"
  next
}
{ gsub(/use crate::\{ops, SpanSet\};/, "use crate::SpanSet;"); print }
E
awk -f /tmp/rooms.awk src/src/rooms.rs > src/src/rooms.rs.new
mv src/src/rooms.rs.new src/src/rooms.rs
rm -f /tmp/rooms.awk
