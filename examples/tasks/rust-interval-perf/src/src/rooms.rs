//! Calendars of rooms.

use crate::{ops, SpanSet};
use std::collections::BTreeMap;
use std::ops::Range;

/// The bookings of a house.
#[derive(Clone, Debug, Default)]
pub struct RoomTable<T: Ord + Clone> {
    rooms: BTreeMap<String, SpanSet<T>>,
}

impl<T: Ord + Clone> RoomTable<T> {
    pub fn new() -> Self {
        RoomTable { rooms: BTreeMap::new() }
    }

    pub fn add_room(&mut self, name: &str) {
        self.rooms.entry(name.to_string()).or_default();
    }

    /// Books a room; false (and no change) if it is unknown or taken.
    pub fn book(&mut self, room: &str, when: Range<T>) -> bool {
        let calendar = match self.rooms.get_mut(room) {
            Some(calendar) => calendar,
            None => return false,
        };
        let wanted: SpanSet<T> = std::iter::once(when.clone()).collect();
        if ops::overlaps(calendar, &wanted) {
            return false;
        }
        calendar.insert(when);
        true
    }

    /// Gives a time back.
    pub fn cancel(&mut self, room: &str, when: Range<T>) {
        if let Some(calendar) = self.rooms.get_mut(room) {
            calendar.remove(when);
        }
    }

    /// The names of the rooms that are free all the time, in order.
    pub fn free_rooms(&self, when: Range<T>) -> Vec<String> {
        let wanted: SpanSet<T> = std::iter::once(when).collect();
        let mut free = Vec::new();
        for (name, calendar) in &self.rooms {
            if ops::intersection(calendar, &wanted).is_empty() {
                free.push(name.clone());
            }
        }
        free
    }

    /// Adds up the length of all bookings of a room, measured by `length`.
    pub fn utilisation(&self, room: &str, length: impl Fn(&T, &T) -> u64) -> u64 {
        let calendar = self.rooms.get(room).cloned().unwrap_or_default();
        calendar.iter().map(|span| length(&span.start, &span.end)).sum()
    }
}
