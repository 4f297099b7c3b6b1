//! How many starts may be in flight at once: as many as make the engine start the most per second,
//! and not more, found by trying.
//!
//! Like congestion control. The window is tried a quarter larger, and that is kept when the engine
//! then starts clearly more per second; it is tried a fifth smaller, and that is kept when the
//! engine then starts hardly less. Between tries it stays. Two things make it smaller at once: a
//! failure of the engine halves it, and starts that take three times as long as the quickest of the
//! last minute cut it down, but not below what the best rate of the last minute needs at that speed
//! (rate × time = starts in flight).
//!
//! Everything is judged by rounds: two windows' worth of starts, or as many as make
//! [`LEAST_ROUND`], after one window's worth was let pass that began before the window was changed.
//! A round in which the window was not used says nothing about it.

use std::time::Duration;

/// Starts in a round at least: fewer say more about chance than about the engine.
pub const LEAST_ROUND: u32 = 32;
/// Windows' worths of starts in a round at least.
const LEAST_WINDOWS: u32 = 2;
/// Rounds that the window stays as it is between two tries.
const HOLD_ROUNDS: u32 = 3;
/// After a smaller window clearly cost starts, so many tries of a larger one come first, at most.
const LONGEST_REST: u32 = 8;
/// How long the quickest round and the best rate are remembered: an engine may have changed.
const MEMORY: Duration = Duration::from_secs(60);
/// Starts that take so many times as long as the quickest are too slow.
const TOO_SLOW: u64 = 3;
/// A larger window has to bring this part of what it would bring if nothing were saturated, in
/// thousandths.
const WORTHWHILE: u128 = 150;
/// A smaller window that loses more than this part of what it would lose if nothing were saturated
/// was clearly too small, in thousandths. What lies between may be chance.
const CLEARLY: u128 = 500;

/// The window of one engine. Times are since the run began.
#[derive(Debug, Clone)]
pub struct Starts {
    window: u32,
    most: u32,
    round: Round,
    phase: Phase,
    /// Starts per million seconds at the window that is kept, once that was measured.
    rate: Option<u64>,
    /// Microseconds that a start took in the quickest round.
    quickest: Option<Best>,
    /// Starts per million seconds in the best round.
    best_rate: Option<Best>,
    /// How many tries of a larger window follow a smaller one that cost starts: twice as many each
    /// time. Too large a window costs only waiting, so that is tried more often.
    rest: u32,
    /// How many of them are left.
    resting: u32,
    /// Whether the last trial after a hold was a larger window.
    upward: bool,
    /// Results of starts to come before a failure counts again: those in flight at a failure fail
    /// of the same fault.
    forgiven: u32,
}

/// The best of something, and when that was.
#[derive(Debug, Clone, Copy)]
struct Best {
    value: u64,
    at: Duration,
}

/// What was measured since a round began.
#[derive(Debug, Clone, Copy, Default)]
struct Round {
    /// Results to come that were begun before the window was changed.
    settling: u32,
    began: Option<Duration>,
    count: u32,
    took: Duration,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    /// The window stays for so many rounds.
    Hold { rounds: u32 },
    /// The window is on trial; `base` is the one before.
    Trial { direction: Direction, base: u32 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Up,
    Down,
}

/// Microseconds in a million seconds.
const PER_MILLION_SECONDS: u128 = 1_000_000_000_000;

/// What a whole round says.
#[derive(Debug, Clone, Copy)]
struct Measured {
    /// Microseconds that a start took, on average.
    took: u64,
    /// Starts per million seconds that a window in full use makes at that.
    rate: u64,
    /// Whether the window was used: at least half of it, on average.
    full: bool,
}

impl Starts {
    /// A window of two starts for each of the engine's `cores`, never more than `most`.
    #[must_use]
    pub fn new(cores: u32, most: u32) -> Self {
        let most = most.max(1);
        Self {
            window: cores.saturating_mul(2).clamp(1, most),
            most,
            round: Round::default(),
            phase: Phase::Hold { rounds: 1 },
            rate: None,
            quickest: None,
            best_rate: None,
            rest: 1,
            resting: 0,
            upward: false,
            forgiven: 0,
        }
    }

    /// How many starts may be in flight, at least 1.
    #[must_use]
    pub const fn window(&self) -> u32 {
        self.window
    }

    /// A start succeeded at `now`, after `took`.
    pub fn started(&mut self, now: Duration, took: Duration) {
        self.forgiven = self.forgiven.saturating_sub(1);
        if self.settles(now) {
            return;
        }
        let began = *self.round.began.get_or_insert(now.saturating_sub(took));
        self.round.count += 1;
        self.round.took = self.round.took.saturating_add(took);
        // Whole windows, because starts that began together end together.
        let windows = LEAST_ROUND.div_ceil(self.window).max(LEAST_WINDOWS);
        if self.round.count >= self.window.saturating_mul(windows) {
            let measured = measure(&self.round, now.saturating_sub(began), self.window);
            self.round = Round {
                began: Some(now),
                ..Round::default()
            };
            self.judge(measured, now);
        }
    }

    /// A start failed at `now`, and the engine was the cause.
    pub fn failed(&mut self, now: Duration) {
        if self.forgiven > 0 {
            self.forgiven -= 1;
            self.settles(now);
            return;
        }
        let before = self.window;
        self.cut_to(before / 2, now);
        self.forgiven = before.saturating_sub(1);
    }

    /// Whether this result was begun under another window.
    fn settles(&mut self, now: Duration) -> bool {
        if self.round.settling == 0 {
            return false;
        }
        self.round.settling -= 1;
        if self.round.settling == 0 {
            self.round.began = Some(now);
        }
        true
    }

    fn judge(&mut self, measured: Measured, now: Duration) {
        remember(&mut self.quickest, measured.took, now, u64::lt);
        if !measured.full {
            if let Phase::Trial { base, .. } = self.phase {
                self.give_up(base, now);
            }
            return;
        }
        remember(&mut self.best_rate, measured.rate, now, u64::gt);
        let quickest = self.quickest.map_or(measured.took, |best| best.value);
        if measured.took > quickest.saturating_mul(TOO_SLOW) {
            let target = (self.window - self.window.div_ceil(4)).max(self.needed());
            if target < self.window {
                self.cut_to(target, now);
                return;
            }
        }
        let waits = measured.took > quickest.saturating_add(quickest / 2);
        self.decide(measured.rate, waits, now);
    }

    /// Goes on with the plan of trials after a round of `rate` in which the window was used.
    /// `waits` says whether starts seem to wait for each other.
    fn decide(&mut self, rate: u64, waits: bool, now: Duration) {
        match self.phase {
            Phase::Hold { rounds } => {
                let known = self.rate.unwrap_or(rate);
                self.rate = Some(known.midpoint(rate));
                if rounds > 1 {
                    self.phase = Phase::Hold { rounds: rounds - 1 };
                } else {
                    let direction = self.direction(waits);
                    self.attempt(direction, now);
                }
            }
            Phase::Trial { direction, base } => {
                if self.is_due(rate, base, WORTHWHILE) {
                    self.rate = Some(rate);
                    (self.rest, self.resting) = (1, 0);
                    self.attempt(direction, now);
                    return;
                }
                if direction == Direction::Down && !self.is_due(rate, base, CLEARLY) {
                    self.resting = self.rest;
                    self.rest = (self.rest * 2).min(LONGEST_REST);
                }
                self.give_up(base, now);
            }
        }
    }

    /// Whether `rate` is what the window on trial has to bring if every part by which it differs
    /// from `base` has to change the known rate by `thousandths` of such a part.
    fn is_due(&self, rate: u64, base: u32, thousandths: u128) -> bool {
        let (base, window) = (u128::from(base), u128::from(self.window));
        let due = base * (1000 - thousandths) + window * thousandths;
        u128::from(rate) * base * 1000 >= u128::from(self.rate.unwrap_or(0)) * due
    }

    /// The direction of the next trial after a hold: up and down by turns.
    fn direction(&mut self, waits: bool) -> Direction {
        self.upward = !self.upward;
        if self.resting > 0 {
            self.resting -= 1;
            Direction::Up
        } else if self.upward && !waits {
            Direction::Up
        } else {
            Direction::Down
        }
    }

    /// Puts the next window in this direction on trial, if there is one.
    fn attempt(&mut self, direction: Direction, now: Duration) {
        let base = self.window;
        let target = match direction {
            Direction::Up => base.saturating_add((base / 4).max(1)).min(self.most),
            Direction::Down => base.saturating_sub((base / 5).max(1)).max(1),
        };
        if target == base {
            self.phase = Phase::Hold {
                rounds: HOLD_ROUNDS,
            };
        } else {
            self.change_to(target, now);
            self.phase = Phase::Trial { direction, base };
        }
    }

    /// Goes back from a trial.
    fn give_up(&mut self, base: u32, now: Duration) {
        self.change_to(base, now);
        self.phase = Phase::Hold {
            rounds: HOLD_ROUNDS,
        };
    }

    /// Makes the window smaller, and forgets the rate of the one before.
    fn cut_to(&mut self, window: u32, now: Duration) {
        self.change_to(window.max(1), now);
        self.rate = None;
        (self.rest, self.resting, self.upward) = (1, 0, false);
        self.phase = Phase::Hold { rounds: 1 };
    }

    fn change_to(&mut self, window: u32, now: Duration) {
        let settling = self.window;
        self.window = window;
        self.round = Round {
            settling,
            began: Some(now),
            ..Round::default()
        };
    }

    /// The starts in flight that the best rate needs when each takes as long as the quickest did.
    fn needed(&self) -> u32 {
        let (Some(rate), Some(took)) = (self.best_rate, self.quickest) else {
            return 1;
        };
        let needed =
            (u128::from(rate.value) * u128::from(took.value)).div_ceil(PER_MILLION_SECONDS);
        u32::try_from(needed).unwrap_or(u32::MAX)
    }
}

fn measure(round: &Round, elapsed: Duration, window: u32) -> Measured {
    let (elapsed, took) = (elapsed.as_micros(), round.took.as_micros());
    let mean = (took / u128::from(round.count.max(1))).max(1);
    // By what starts took, not by what passed: starts that began together end together, and then it
    // is chance how many such groups end before a round does.
    let rate = u128::from(window) * PER_MILLION_SECONDS / mean;
    Measured {
        took: u64::try_from(mean).unwrap_or(u64::MAX),
        rate: u64::try_from(rate).unwrap_or(u64::MAX),
        // The sum of times by the time that passed is the mean number in flight.
        full: took * 2 >= elapsed * u128::from(window),
    }
}

/// Keeps `value` if it is better than the best, or the best is too old.
fn remember(best: &mut Option<Best>, value: u64, now: Duration, better: fn(&u64, &u64) -> bool) {
    let keep = best
        .is_some_and(|best| !better(&value, &best.value) && now.saturating_sub(best.at) <= MEMORY);
    if !keep {
        *best = Some(Best { value, at: now });
    }
}

#[cfg(test)]
mod tests;
