//! On which cores a sandbox runs: on its own as long as the machine has enough, else on any.
//!
//! A CPU quota says how much a sandbox may use, not when: a sandbox with a quota of one core and
//! many threads uses all cores of a machine for a moment, and then none. Whoever else wants to run
//! in that moment waits. Cores of its own keep that wait inside the sandbox, and programs in it see
//! as many cores as they may use.

/// Thousandths of a core in a core.
const WHOLE: u64 = 1000;

/// The cores that a sandbox runs on, with what it takes from each of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    cores: Vec<usize>,
    share: u64,
}

impl Place {
    /// Numbers of the cores, ascending, at least one.
    #[must_use]
    pub fn cores(&self) -> &[usize] {
        &self.cores
    }
}

/// What is promised of each core of a machine.
#[derive(Debug, Clone)]
pub struct Cores {
    /// Thousandths of each core, by its number.
    promised: Vec<u64>,
    /// The core that is looked at first, so that orchestrators beside each other differ.
    first: usize,
}

impl Cores {
    /// A machine with `count` cores of which nothing is promised. `seed` is any number; two
    /// orchestrators on one machine that give different ones begin at different cores.
    #[must_use]
    pub fn new(count: usize, seed: u64) -> Self {
        let first = usize::try_from(seed % (count.max(1) as u64)).unwrap_or(0);
        Self {
            promised: vec![0; count],
            first,
        }
    }

    /// Finds a place for a sandbox that may use `cpu_millis` thousandths of a core: the fewest cores
    /// that give it that, those of which least is promised. `None` when the machine has not so much
    /// left: the sandbox then runs wherever there is time.
    pub fn take(&mut self, cpu_millis: u64) -> Option<Place> {
        let wanted = usize::try_from(cpu_millis.max(1).div_ceil(WHOLE)).ok()?;
        let total = self.promised.len();
        let mut order: Vec<usize> = (0..total).collect();
        order.sort_by_key(|&core| (self.promised[core], (core + total - self.first) % total));
        let mut cores: Vec<usize> = order.into_iter().take(wanted).collect();
        if cores.len() < wanted {
            return None;
        }
        let share = cpu_millis.max(1).div_ceil(wanted as u64);
        if cores
            .iter()
            .any(|&core| self.promised[core] + share > WHOLE)
        {
            return None;
        }
        cores.sort_unstable();
        for &core in &cores {
            self.promised[core] += share;
        }
        Some(Place { cores, share })
    }

    /// Takes the cores that a sandbox is kept to already, whatever was promised of them; `None` when
    /// it is kept to none, or to some that this machine does not have.
    pub fn take_these(&mut self, cores: &[usize], cpu_millis: u64) -> Option<Place> {
        if cores.is_empty() || cores.iter().any(|&core| core >= self.promised.len()) {
            return None;
        }
        let share = cpu_millis.max(1).div_ceil(cores.len() as u64);
        for &core in cores {
            self.promised[core] += share;
        }
        let cores = cores.to_vec();
        Some(Place { cores, share })
    }

    /// Gives back what [`Cores::take`] gave.
    pub fn give_back(&mut self, place: &Place) {
        for &core in &place.cores {
            self.promised[core] = self.promised[core].saturating_sub(place.share);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(cores: &mut Cores, millis: u64) -> Option<Vec<usize>> {
        cores.take(millis).map(|place| place.cores)
    }

    #[test]
    fn sandboxes_get_cores_of_their_own_until_there_are_no_more() {
        let mut cores = Cores::new(4, 0);
        assert_eq!(taken(&mut cores, 2000), Some(vec![0, 1]));
        assert_eq!(taken(&mut cores, 1000), Some(vec![2]));
        assert_eq!(taken(&mut cores, 2000), None, "one core is left");
        assert_eq!(taken(&mut cores, 1000), Some(vec![3]));
        assert_eq!(taken(&mut cores, 1), None);
    }

    #[test]
    fn cores_that_a_sandbox_has_already_are_not_given_to_another() {
        let mut cores = Cores::new(2, 0);
        let place = cores.take_these(&[0], 1000).unwrap();
        assert_eq!(taken(&mut cores, 1000), Some(vec![1]));
        assert_eq!(taken(&mut cores, 1000), None);
        cores.give_back(&place);
        assert_eq!(taken(&mut cores, 1000), Some(vec![0]));
        assert_eq!(cores.take_these(&[2], 1000), None);
        assert_eq!(cores.take_these(&[], 1000), None);
    }

    #[test]
    fn parts_of_cores_share_one_only_when_every_core_has_something() {
        let mut cores = Cores::new(2, 0);
        assert_eq!(taken(&mut cores, 500), Some(vec![0]));
        assert_eq!(taken(&mut cores, 500), Some(vec![1]));
        assert_eq!(taken(&mut cores, 250), Some(vec![0]));
        assert_eq!(taken(&mut cores, 600), None);
        assert_eq!(taken(&mut cores, 500), Some(vec![1]));
    }

    #[test]
    fn one_and_a_half_cores_are_spread_over_two() {
        let mut cores = Cores::new(2, 0);
        assert_eq!(taken(&mut cores, 1500), Some(vec![0, 1]));
        assert_eq!(taken(&mut cores, 250), Some(vec![0]));
        assert_eq!(taken(&mut cores, 250), Some(vec![1]));
        assert_eq!(taken(&mut cores, 250), None);
    }

    #[test]
    fn what_is_given_back_can_be_had_again() {
        let mut cores = Cores::new(2, 0);
        let place = cores.take(2000);
        assert_eq!(taken(&mut cores, 500), None);
        cores.give_back(&place.expect("two cores are free"));
        assert_eq!(taken(&mut cores, 2000), Some(vec![0, 1]));
    }

    #[test]
    fn more_than_the_machine_has_is_not_placed() {
        assert_eq!(taken(&mut Cores::new(2, 0), 3000), None);
        assert_eq!(taken(&mut Cores::new(0, 7), 1), None);
    }

    #[test]
    fn orchestrators_beside_each_other_begin_at_different_cores() {
        assert_eq!(taken(&mut Cores::new(4, 2), 1000), Some(vec![2]));
        assert_eq!(taken(&mut Cores::new(4, 7), 1000), Some(vec![3]));
        assert_eq!(taken(&mut Cores::new(4, 7), 2000), Some(vec![0, 3]));
    }

    #[test]
    fn no_core_is_ever_promised_more_than_once() {
        let mut cores = Cores::new(5, 3);
        let mut places = Vec::new();
        let mut state = 12_345_u64;
        for _ in 0..2_000 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            if state >> 63 == 0 {
                places.extend(cores.take((state >> 33) % 3_000));
            } else if !places.is_empty() {
                let index = usize::try_from(state >> 33).unwrap_or(0) % places.len();
                cores.give_back(&places.swap_remove(index));
            }
            assert!(cores.promised.iter().all(|&promised| promised <= WHOLE));
        }
        for place in places.drain(..) {
            cores.give_back(&place);
        }
        assert_eq!(cores.promised, [0; 5]);
    }
}
