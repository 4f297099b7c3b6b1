//! Gives each name an address of its own in 127.64.0.0/16, and knows the name of an address.
//!
//! An address says nothing but which name was asked for: nothing is resolved here. Of names that
//! are too many the one used longest ago is forgotten; its address is not given to another one
//! until all others have been, because a program may still hold it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// The first half of every address.
const NET: [u8; 2] = [127, 64];

/// The last two bytes of an address; 0 and 65535 are never used.
pub(crate) type Index = u16;

/// Names and their addresses.
#[derive(Debug)]
pub(crate) struct Addresses {
    most: usize,
    last: Index,
    clock: u64,
    names: BTreeMap<String, Held>,
    indices: BTreeMap<Index, String>,
}

#[derive(Debug)]
struct Held {
    index: Index,
    used: u64,
}

/// What a name was given.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Given {
    pub(crate) index: Index,
    /// Whether the name had no address before.
    pub(crate) is_new: bool,
    /// The address of the name that was forgotten for it.
    pub(crate) forgotten: Option<Index>,
}

impl Addresses {
    /// No names yet; at most `most`, which is at least one and far fewer than there are addresses.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            most,
            last: 0,
            clock: 0,
            names: BTreeMap::new(),
            indices: BTreeMap::new(),
        }
    }

    /// The address of a name, the same as before if it had one.
    pub(crate) fn give(&mut self, name: &str) -> Given {
        self.clock += 1;
        if let Some(held) = self.names.get_mut(name) {
            held.used = self.clock;
            return Given {
                index: held.index,
                is_new: false,
                forgotten: None,
            };
        }
        let forgotten = (self.names.len() >= self.most).then(|| self.forget_oldest());
        let index = self.next_index();
        let used = self.clock;
        self.names.insert(name.to_owned(), Held { index, used });
        self.indices.insert(index, name.to_owned());
        Given {
            index,
            is_new: true,
            forgotten: forgotten.flatten(),
        }
    }

    /// The name that has this address.
    pub(crate) fn name(&mut self, index: Index) -> Option<&str> {
        let name = self.indices.get(&index)?;
        self.clock += 1;
        if let Some(held) = self.names.get_mut(name) {
            held.used = self.clock;
        }
        Some(name)
    }

    /// Forgets a name.
    pub(crate) fn forget(&mut self, index: Index) {
        if let Some(name) = self.indices.remove(&index) {
            self.names.remove(&name);
        }
    }

    fn forget_oldest(&mut self) -> Option<Index> {
        let oldest = self.names.values().min_by_key(|held| held.used)?.index;
        self.forget(oldest);
        Some(oldest)
    }

    fn next_index(&mut self) -> Index {
        loop {
            self.last = match self.last {
                0xfffe.. => 1,
                last => last + 1,
            };
            if !self.indices.contains_key(&self.last) {
                return self.last;
            }
        }
    }
}

/// The address with this end.
pub(crate) fn address(index: Index) -> Ipv4Addr {
    let [first, second] = NET;
    let [third, fourth] = index.to_be_bytes();
    Ipv4Addr::new(first, second, third, fourth)
}

/// The end of an address, if it is one of those that names are given.
pub(crate) fn index(address: Ipv4Addr) -> Option<Index> {
    let [first, second, third, fourth] = address.octets();
    ([first, second] == NET).then(|| Index::from_be_bytes([third, fourth]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_address_and_the_oldest_unused_one_goes() {
        let mut addresses = Addresses::new(2);
        let first = addresses.give("a.test");
        assert!(first.is_new);
        let second = addresses.give("b.test");
        assert_ne!(first.index, second.index);
        assert!(!addresses.give("a.test").is_new);
        let third = addresses.give("c.test");
        assert_eq!(third.forgotten, Some(second.index));
        assert_eq!(addresses.name(second.index), None);
        // A connection counts as a use.
        assert_eq!(addresses.name(first.index), Some("a.test"));
        assert_eq!(addresses.give("d.test").forgotten, Some(third.index));
        assert_eq!(addresses.give("a.test").index, first.index);
    }

    #[test]
    fn the_address_of_a_forgotten_name_is_the_last_to_be_given_again() {
        let mut addresses = Addresses::new(1);
        for round in 0..2 {
            for expected in 1..=65_534_u16 {
                let given = addresses.give(&format!("n{round}-{expected}.test"));
                assert_eq!(given.index, expected);
            }
        }
    }

    #[test]
    fn addresses_and_their_ends_belong_together() {
        assert_eq!(address(0x0102), Ipv4Addr::new(127, 64, 1, 2));
        assert_eq!(index(Ipv4Addr::new(127, 64, 1, 2)), Some(0x0102));
        assert_eq!(index(Ipv4Addr::new(127, 65, 1, 2)), None);
    }
}
