//! Jobs in the order in which they were submitted, with the number of those before any of them.
//!
//! Blocks of a few hundred beside each other: taking the first, putting one in anywhere and taking
//! one out of anywhere move at most a block, and counting looks at the length of each block. A tree
//! that counts would save nothing at a hundred thousand jobs, and needs more room for each.

use std::collections::VecDeque;

use super::Job;

/// Jobs in a block at most.
const BLOCK: usize = 256;

/// A job with its place in the order of submission.
pub(super) type Member = (u64, Job);

/// Jobs by their place in the order of submission.
#[derive(Debug, Default)]
pub(super) struct Ranked {
    /// None of them empty.
    blocks: VecDeque<Vec<Member>>,
}

impl Ranked {
    pub(super) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    pub(super) fn first(&self) -> Option<Member> {
        self.blocks.front()?.first().copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Member> {
        self.blocks.iter().flatten().copied()
    }

    /// How many stand before `place`, whether or not a job is there.
    pub(super) fn before(&self, place: u64) -> usize {
        let index = self.block_of(place);
        let whole: usize = self.blocks.iter().take(index).map(Vec::len).sum();
        let within = self
            .blocks
            .get(index)
            .map_or(0, |block| position(block, place));
        whole + within
    }

    pub(super) fn insert(&mut self, place: u64, job: Job) {
        let mut index = self.block_of(place);
        let Some(block) = self.blocks.get_mut(index) else {
            self.blocks.push_back(vec![(place, job)]);
            return;
        };
        let mut within = position(block, place);
        if block.len() >= BLOCK {
            // Whatever comes at the end leaves full blocks behind.
            let cut = if within == BLOCK { BLOCK } else { BLOCK / 2 };
            let tail = block.split_off(cut);
            self.blocks.insert(index + 1, tail);
            if within >= cut {
                index += 1;
                within -= cut;
            }
        }
        self.blocks[index].insert(within, (place, job));
    }

    /// Takes out the job at `place`.
    pub(super) fn remove(&mut self, place: u64) -> Option<Job> {
        let index = self.block_of(place);
        let block = self.blocks.get_mut(index)?;
        let within = block.binary_search_by_key(&place, |member| member.0).ok()?;
        let (_, job) = block.remove(within);
        let left = block.len();
        if left == 0 {
            self.blocks.remove(index);
        } else if left < BLOCK / 4 {
            self.join(index);
        }
        Some(job)
    }

    /// Puts a small block and the one after it together, or many that lost most of their jobs would
    /// have to be counted.
    fn join(&mut self, index: usize) {
        let small = |block: &Vec<Member>| block.len() <= BLOCK / 4;
        if self.blocks.get(index + 1).is_some_and(small) {
            let next = self.blocks.remove(index + 1).unwrap_or_default();
            self.blocks[index].extend(next);
        }
    }

    /// The block where `place` is or would be.
    fn block_of(&self, place: u64) -> usize {
        let begins_before = |block: &Vec<Member>| block.first().is_some_and(|job| job.0 <= place);
        self.blocks.partition_point(begins_before).saturating_sub(1)
    }
}

fn position(block: &[Member], place: u64) -> usize {
    block.partition_point(|member| member.0 < place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn it_orders_and_counts_like_a_sorted_set(
            appended in 0_u64..3000,
            steps in prop::collection::vec((any::<bool>(), 0_u64..3500), 0..1500),
        ) {
            let (mut ranked, mut model) = (Ranked::default(), BTreeSet::new());
            for place in 0..appended {
                ranked.insert(place, Job(place));
                model.insert(place);
            }
            for (insert, place) in steps {
                if insert && model.insert(place) {
                    ranked.insert(place, Job(place));
                } else {
                    let expected = model.remove(&place).then_some(Job(place));
                    prop_assert_eq!(ranked.remove(place), expected);
                }
                prop_assert_eq!(ranked.before(place), model.range(..place).count());
                prop_assert_eq!(ranked.first().map(|job| job.0), model.first().copied());
                prop_assert_eq!(ranked.is_empty(), model.is_empty());
            }
            let places: Vec<u64> = ranked.iter().map(|job| job.0).collect();
            prop_assert_eq!(places, model.into_iter().collect::<Vec<_>>());
            prop_assert!(ranked.blocks.iter().all(|block| !block.is_empty()));
        }
    }

    #[test]
    fn blocks_that_shrank_are_put_together() {
        let mut ranked = Ranked::default();
        for place in 0..100_000 {
            ranked.insert(place, Job(place));
        }
        for place in (0..100_000).rev().filter(|place| place % 100 != 0) {
            ranked.remove(place);
        }
        assert_eq!(ranked.iter().count(), 1000);
        assert!(ranked.blocks.len() <= 32, "{}", ranked.blocks.len());
    }
}
