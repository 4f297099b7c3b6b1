use std::ops::Range;

/// An ordered set of disjoint intervals that do not touch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpanSet<T> {
    spans: Vec<Range<T>>,
}

impl<T: Ord + Clone> Default for SpanSet<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Ord + Clone> SpanSet<T> {
    pub fn new() -> Self {
        SpanSet { spans: Vec::new() }
    }

    /// Number of disjoint intervals.
    pub fn len(&self) -> usize {
        self.spans.iter().filter(|s| s.start < s.end).count()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a range, joining it with the intervals it overlaps or touches.
    pub fn insert(&mut self, range: Range<T>) {
        if range.start >= range.end {
            return;
        }
        self.spans.push(range);
        self.spans.sort_by(|a, b| a.start.cmp(&b.start));
        let mut joined: Vec<Range<T>> = Vec::new();
        for span in self.spans.iter() {
            match joined.last_mut() {
                Some(last) if span.start <= last.end => {
                    if span.end > last.end {
                        last.end = span.end.clone();
                    }
                }
                _ => joined.push(span.clone()),
            }
        }
        self.spans = joined;
    }

    /// Takes a range out, cutting the intervals it overlaps.
    pub fn remove(&mut self, range: Range<T>) {
        if range.start >= range.end {
            return;
        }
        let mut kept = Vec::new();
        for span in &self.spans {
            if span.end <= range.start || span.start >= range.end {
                kept.push(span.clone());
                continue;
            }
            if span.start < range.start {
                kept.push(span.start.clone()..range.start.clone());
            }
            if span.end > range.end {
                kept.push(range.end.clone()..span.end.clone());
            }
        }
        self.spans = kept;
    }

    /// Whether a point is in the set.
    pub fn contains(&self, point: &T) -> bool {
        self.spans.iter().any(|s| s.start <= *point && *point < s.end)
    }

    /// Whether the whole range is in the set.
    pub fn covers(&self, range: &Range<T>) -> bool {
        range.start >= range.end
            || self.spans.iter().any(|s| s.start <= range.start && range.end <= s.end)
    }

    /// The intervals in order.
    pub fn iter(&self) -> impl Iterator<Item = Range<T>> + '_ {
        (0..self.len()).filter_map(move |i| self.spans.iter().nth(i).cloned())
    }

    /// The bounds of the intervals in order, without copying them.
    pub fn spans(&self) -> impl Iterator<Item = (&T, &T)> + '_ {
        (0..self.len()).filter_map(move |i| self.spans.iter().nth(i).map(|s| (&s.start, &s.end)))
    }

    pub fn to_vec(&self) -> Vec<Range<T>> {
        self.iter().collect()
    }

    /// What of `within` is not in the set, in order.
    pub fn gaps(&self, within: Range<T>) -> Vec<Range<T>> {
        let mut free = SpanSet::new();
        free.insert(within);
        for span in self.iter() {
            free.remove(span);
        }
        free.spans
    }
}

impl<T: Ord + Clone> FromIterator<Range<T>> for SpanSet<T> {
    fn from_iter<I: IntoIterator<Item = Range<T>>>(ranges: I) -> Self {
        let mut set = SpanSet::new();
        for range in ranges {
            set.insert(range);
        }
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
