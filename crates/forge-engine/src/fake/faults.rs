//! What goes wrong in the fake engine and how long everything takes: decided from a seed alone.
//!
//! Chances and latencies depend on the seed, the operation, its subject and how often that subject
//! had this operation before, and not on the order in which tasks of the runtime come to run. So a
//! run with the same seed fails in the same places, whatever happens at the same time. Only
//! [`When::Call`] and [`When::Every`] count the calls of all subjects together.

use std::time::Duration;

use crate::error::{EngineErrorKind, Operation};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing happens, and the caller is told so.
    Error(EngineErrorKind),
    /// Nothing happens, and no answer ever comes.
    Hang,
    /// It happens, and the caller learns only that the engine does not answer.
    LostReply,
    /// It happens, and its bytes move no faster than this: output of a command, a put, a get.
    Slow {
        /// Never 0; counts as 1 then.
        bytes_per_second: u64,
    },
    /// The sandbox is gone from one moment to the next, with everything that runs in it. Where the
    /// operation is about no sandbox that exists, it fails as one of an engine that went away.
    Disappear,
    /// The engine's machine has no room left: a command starts and is ended by it, anything else
    /// fails before anything is made.
    OutOfSpace,
}

/// Which calls go wrong.
#[derive(Debug, Clone, PartialEq)]
pub enum When {
    /// Every one.
    Always,
    /// The n-th of this operation, counted from 1.
    Call(u64),
    /// Every n-th of this operation.
    Every(u64),
    /// Each with this probability, between 0 and 1.
    Chance(f64),
    /// Those that are written down (see `FakeEngine::calls`) with this text in them.
    Where(String),
}

/// How long an operation takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Latency {
    shortest: Duration,
    longest: Duration,
    tail: Option<(f64, Duration)>,
}

impl Latency {
    /// Always the same.
    #[must_use]
    pub const fn constant(time: Duration) -> Self {
        Self::between(time, time)
    }

    /// Anything from `shortest` to `longest`, each as likely as the other.
    #[must_use]
    pub const fn between(shortest: Duration, longest: Duration) -> Self {
        Self {
            shortest,
            longest,
            tail: None,
        }
    }

    /// The same, but with this probability it takes `time`.
    #[must_use]
    pub const fn or_else(mut self, probability: f64, time: Duration) -> Self {
        self.tail = Some((probability, time));
        self
    }

    fn draw(&self, mut random: Random) -> Duration {
        if let Some((probability, time)) = self.tail
            && random.happens(probability)
        {
            return time;
        }
        let span = self.longest.saturating_sub(self.shortest);
        self.shortest + span.mul_f64(random.unit())
    }
}

#[derive(Debug, Clone)]
struct Rule {
    operation: Option<Operation>,
    when: When,
    fault: Fault,
}

/// What goes wrong and how long things take. The first rule that applies decides; rules about named
/// calls go before all others.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    rules: Vec<Rule>,
    latencies: Vec<(Option<Operation>, Latency)>,
}

impl Faults {
    /// Nothing goes wrong, and nothing takes any time.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// `operation` goes wrong like this in those calls.
    #[must_use]
    pub fn on(mut self, operation: Operation, when: When, fault: Fault) -> Self {
        self.add(Some(operation), when, fault);
        self
    }

    /// Every operation goes wrong like this in those calls.
    #[must_use]
    pub fn everywhere(mut self, when: When, fault: Fault) -> Self {
        self.add(None, when, fault);
        self
    }

    /// `operation` takes so long.
    #[must_use]
    pub fn latency(mut self, operation: Operation, latency: Latency) -> Self {
        self.latencies.insert(0, (Some(operation), latency));
        self
    }

    /// Every operation without a latency of its own takes so long.
    #[must_use]
    pub fn latency_everywhere(mut self, latency: Latency) -> Self {
        self.latencies.push((None, latency));
        self
    }

    pub(super) fn add(&mut self, operation: Option<Operation>, when: When, fault: Fault) {
        self.rules.push(Rule {
            operation,
            when,
            fault,
        });
    }

    /// From now on `operation` always fails so, instead of whatever was said before.
    pub(super) fn always(&mut self, operation: Operation, fault: Fault) {
        self.rules
            .retain(|rule| rule.operation != Some(operation) || rule.when != When::Always);
        self.add(Some(operation), When::Always, fault);
    }

    /// Whether anything is drawn by subject, so that somebody must count.
    pub(super) fn draws(&self) -> bool {
        let chances = self.rules.iter();
        let mut chances = chances.filter(|rule| matches!(rule.when, When::Chance(_)));
        !self.latencies.is_empty() || chances.next().is_some()
    }

    pub(super) fn decide(&self, call: &Call<'_>) -> Plan {
        let applies = |rule: &&Rule| rule.operation.is_none_or(|only| only == call.operation);
        let of_rule = |rule: &Rule, number: usize| match &rule.when {
            When::Always => true,
            When::Call(nth) => *nth == call.of_operation,
            When::Every(nth) => call.of_operation.is_multiple_of((*nth).max(1)),
            When::Chance(probability) => call.random(number as u64 + 1).happens(*probability),
            When::Where(part) => call.text.contains(part.as_str()),
        };
        let named = |rule: &&Rule| matches!(rule.when, When::Where(_));
        let mut faults = self.rules.iter().filter(applies).filter(named);
        let by_name = faults.find(|rule| of_rule(rule, 0));
        let mut rest = self.rules.iter().enumerate();
        let fault = by_name.or_else(|| {
            rest.find(|(number, rule)| applies(rule) && of_rule(rule, *number))
                .map(|(_, rule)| rule)
        });
        let mut latencies = self.latencies.iter();
        let latency =
            latencies.find(|(operation, _)| operation.is_none_or(|only| only == call.operation));
        Plan {
            delay: latency.map_or(Duration::ZERO, |(_, latency)| latency.draw(call.random(0))),
            fault: fault.map(|rule| rule.fault),
        }
    }
}

/// One call, as far as it matters for what goes wrong.
pub(super) struct Call<'a> {
    pub(super) seed: u64,
    pub(super) operation: Operation,
    pub(super) subject: &'a str,
    /// As it is written down.
    pub(super) text: &'a str,
    /// How many calls of this operation there were, with this one.
    pub(super) of_operation: u64,
    /// How many of them had this subject.
    pub(super) of_subject: u64,
}

impl Call<'_> {
    fn random(&self, purpose: u64) -> Random {
        let mut random = Random(self.seed);
        for part in [
            self.operation as u64,
            hash(self.subject),
            self.of_subject,
            purpose,
        ] {
            random.0 ^= part;
            random.0 = random.next();
        }
        random
    }
}

/// What happens in one call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) delay: Duration,
    pub(super) fault: Option<Fault>,
}

/// A number that stands for a text, the same in every process.
pub(super) fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// SplitMix64: small, and good enough for the choice of faults.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 up to, and not including, 1.
    fn unit(&mut self) -> f64 {
        // 32 bits go into a float without loss.
        let high = u32::try_from(self.next() >> 32).unwrap_or(u32::MAX);
        f64::from(high) / 4_294_967_296.0
    }

    fn happens(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(seed: u64, subject: &str, of_operation: u64, of_subject: u64) -> Call<'_> {
        Call {
            seed,
            operation: Operation::Create,
            subject,
            text: "create sandbox it",
            of_operation,
            of_subject,
        }
    }

    #[test]
    fn the_same_call_goes_the_same_way_whatever_came_before_it() {
        let faults = Faults::none()
            .on(Operation::Create, When::Chance(0.5), Fault::Hang)
            .latency_everywhere(Latency::between(Duration::ZERO, Duration::from_secs(1)));
        let of = |seed, subject, order| {
            let plan = faults.decide(&call(seed, subject, order, 1));
            (plan.delay, plan.fault)
        };
        let names: Vec<String> = (0..64).map(|number| number.to_string()).collect();
        let with =
            |seed, order| -> Vec<_> { names.iter().map(|name| of(seed, name, order)).collect() };
        assert_eq!(with(7, 1), with(7, 900));
        assert_ne!(with(7, 1), with(8, 1));
        let hung = with(7, 1).iter().filter(|plan| plan.1.is_some()).count();
        assert!((16..48).contains(&hung), "{hung} of 64");
    }

    #[test]
    fn the_third_call_fails_and_no_other() {
        let fault = Fault::Error(EngineErrorKind::Internal);
        let faults = Faults::none().on(Operation::Create, When::Call(3), fault);
        let failed: Vec<u64> = (1..9)
            .filter(|&nth| faults.decide(&call(1, "x", nth, nth)).fault.is_some())
            .collect();
        assert_eq!(failed, [3]);
    }

    #[test]
    fn a_named_call_goes_before_a_rule_for_all() {
        let named = Fault::Error(EngineErrorKind::Lost);
        let mut faults = Faults::none().everywhere(When::Always, Fault::Hang);
        faults.add(None, When::Where("sandbox it".into()), named);
        assert_eq!(faults.decide(&call(1, "x", 1, 1)).fault, Some(named));
    }

    #[test]
    fn a_latency_stays_between_its_bounds_but_for_its_tail() {
        let (low, high) = (Duration::from_millis(10), Duration::from_millis(20));
        let tail = Duration::from_secs(9);
        let latency = Latency::between(low, high).or_else(0.1, tail);
        let faults = Faults::none().latency(Operation::Create, latency);
        let delays: Vec<Duration> = (0..400)
            .map(|nth| faults.decide(&call(3, "x", nth, nth)).delay)
            .collect();
        assert!(
            delays
                .iter()
                .all(|delay| (low..=high).contains(delay) || *delay == tail)
        );
        let late = delays.iter().filter(|delay| **delay == tail).count();
        assert!((10..90).contains(&late), "{late} of 400");
    }
}
