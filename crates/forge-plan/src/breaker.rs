//! Takes an engine that keeps failing out of rotation, and probes it back in.
//!
//! ```text
//!            N failures in a row              its time is up
//!   Closed ──────────────────────▶ Open ──────────────────────▶ HalfOpen
//!      ▲                            ▲                            │    │
//!      │                            └──── the probe failed ──────┘    │
//!      └─────────────────────── the probe succeeded ──────────────────┘
//! ```
//!
//! What was begun before the breaker last changed says nothing about the engine as it is now: with
//! hundreds of requests under way, one fault of the engine comes back hundreds of times.

use std::time::Duration;

use crate::queue::Hold;
use crate::retry;

/// When a breaker opens and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerPolicy {
    /// It opens after so many failures of the infrastructure in a row; 0 counts as 1.
    pub failures: u32,
    /// How long it stays open the first time.
    pub first: Duration,
    /// By how much it stays open longer each time that the probe failed.
    pub factor: u32,
    /// The longest it stays open.
    pub most: Duration,
    /// A probe of which nothing was heard for so long is given up and another one let through.
    pub probe_patience: Duration,
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self {
            failures: 5,
            first: Duration::from_secs(5),
            factor: 2,
            most: Duration::from_secs(300),
            probe_patience: Duration::from_secs(300),
        }
    }
}

/// What was seen of the engine. Times are since the run began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Observation {
    /// Something that began then succeeded.
    Succeeded {
        /// When it began.
        began: Duration,
    },
    /// Something that began then failed, and the infrastructure was the cause.
    Failed {
        /// When it began.
        began: Duration,
    },
    /// Something begins now.
    Began,
    /// Nothing but that time passed.
    Nothing,
}

/// What may be sent to the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Everything.
    All,
    /// One thing, to see how it goes.
    One,
    /// Nothing.
    Nothing,
}

/// The breaker of one engine. Times are since the run began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breaker {
    /// The engine works.
    Closed {
        /// Since when.
        since: Duration,
        /// Failures in a row.
        failures: u32,
    },
    /// The engine gets nothing.
    Open {
        /// Since when.
        since: Duration,
        /// Until when.
        until: Duration,
        /// How often it opened since the engine last worked.
        times: u32,
    },
    /// The engine gets one thing, and what comes of that decides.
    HalfOpen {
        /// Since when.
        since: Duration,
        /// When the probe began, if one did.
        probe: Option<Duration>,
        /// How often it opened since the engine last worked.
        times: u32,
    },
}

impl Breaker {
    /// The breaker of an engine of which nothing bad is known.
    pub const NEW: Self = Self::Closed {
        since: Duration::ZERO,
        failures: 0,
    };

    /// The only transition.
    #[must_use]
    pub fn next(self, policy: &BreakerPolicy, observation: Observation, now: Duration) -> Self {
        match (self.aged(policy, now), observation) {
            (Self::Closed { since, .. }, Observation::Succeeded { began }) if began >= since => {
                Self::Closed { since, failures: 0 }
            }
            (Self::Closed { since, failures }, Observation::Failed { began }) if began >= since => {
                let failures = failures.saturating_add(1);
                if failures >= policy.failures {
                    Self::opened(policy, 1, now)
                } else {
                    Self::Closed { since, failures }
                }
            }
            (Self::HalfOpen { since, .. }, Observation::Succeeded { began }) if began >= since => {
                Self::Closed {
                    since: now,
                    failures: 0,
                }
            }
            (Self::HalfOpen { since, times, .. }, Observation::Failed { began })
                if began >= since =>
            {
                Self::opened(policy, times.saturating_add(1), now)
            }
            (
                Self::HalfOpen {
                    since,
                    probe,
                    times,
                },
                Observation::Began,
            ) => Self::HalfOpen {
                since,
                probe: probe.or(Some(now)),
                times,
            },
            (same, _) => same,
        }
    }

    /// What may be sent to the engine.
    #[must_use]
    pub const fn admission(&self) -> Admission {
        match self {
            Self::Closed { .. } => Admission::All,
            Self::HalfOpen { probe: None, .. } => Admission::One,
            Self::Open { .. } | Self::HalfOpen { probe: Some(_), .. } => Admission::Nothing,
        }
    }

    /// When to look again though nothing happened ([`Observation::Nothing`]).
    #[must_use]
    pub fn wake_at(&self, policy: &BreakerPolicy) -> Option<Duration> {
        match self {
            Self::Open { until, .. } => Some(*until),
            Self::HalfOpen {
                probe: Some(began), ..
            } => Some(began.saturating_add(policy.probe_patience)),
            Self::Closed { .. } | Self::HalfOpen { probe: None, .. } => None,
        }
    }

    /// Why nothing starts, one line for a person.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        let (times, doing) = match self {
            Self::Closed { .. } => return None,
            Self::Open { times, .. } => (times, "it is left alone for a while"),
            Self::HalfOpen { times, .. } => (times, "one task tries whether it works again"),
        };
        let often = match times {
            1 => String::new(),
            times => format!(", and {} more time(s) when tried again", times - 1),
        };
        Some(format!("the engine kept failing{often}; {doing}"))
    }

    /// What the queue has to be told: nothing, or to hold starts but for a probe.
    #[must_use]
    pub fn hold(&self) -> Option<Hold> {
        let probes = u32::from(self.admission() == Admission::One);
        self.reason().map(|reason| Hold { reason, probes })
    }

    fn opened(policy: &BreakerPolicy, times: u32, now: Duration) -> Self {
        let pause = retry::pause(policy.first, policy.factor, policy.most, times);
        Self::Open {
            since: now,
            until: now.saturating_add(pause),
            times,
        }
    }

    /// What time alone made of it.
    fn aged(self, policy: &BreakerPolicy, now: Duration) -> Self {
        match self {
            Self::Open { until, times, .. } if now >= until => Self::HalfOpen {
                since: now,
                probe: None,
                times,
            },
            Self::HalfOpen {
                since,
                probe: Some(began),
                times,
            } if now >= began.saturating_add(policy.probe_patience) => Self::HalfOpen {
                since,
                probe: None,
                times,
            },
            same => same,
        }
    }
}

impl Default for Breaker {
    fn default() -> Self {
        Self::NEW
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn failed(began: u64) -> Observation {
        Observation::Failed { began: at(began) }
    }

    fn succeeded(began: u64) -> Observation {
        Observation::Succeeded { began: at(began) }
    }

    /// A breaker to which these things happened at these seconds.
    fn after(events: &[(u64, Observation)]) -> Breaker {
        let policy = BreakerPolicy {
            failures: 3,
            ..BreakerPolicy::default()
        };
        events
            .iter()
            .fold(Breaker::NEW, |breaker, &(second, event)| {
                breaker.next(&policy, event, at(second))
            })
    }

    const OPENED: [(u64, Observation); 3] = [
        (10, Observation::Failed { began: at(10) }),
        (10, Observation::Failed { began: at(10) }),
        (10, Observation::Failed { began: at(10) }),
    ];

    fn opened_and(events: &[(u64, Observation)]) -> Breaker {
        after(&[&OPENED[..], events].concat())
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_success_between_them_does_not() {
        let mixed = [
            (1, failed(0)),
            (2, failed(0)),
            (3, succeeded(0)),
            (4, failed(0)),
            (5, failed(0)),
        ];
        assert_eq!(after(&mixed).admission(), Admission::All);
        assert_eq!(opened_and(&[]).admission(), Admission::Nothing);
        assert_eq!(
            opened_and(&[]).wake_at(&BreakerPolicy::default()),
            Some(at(15))
        );
    }

    #[test]
    fn when_its_time_is_up_one_probe_goes_through() {
        let early = opened_and(&[(14, Observation::Nothing)]);
        assert_eq!(early.admission(), Admission::Nothing);
        let due = [(15, Observation::Nothing)];
        assert_eq!(opened_and(&due).admission(), Admission::One);
        let hold = opened_and(&due).hold();
        assert_eq!(hold.map(|hold| hold.probes), Some(1));
        let probing = [due[0], (16, Observation::Began)];
        assert_eq!(opened_and(&probing).admission(), Admission::Nothing);
        let worked = [probing[0], probing[1], (17, succeeded(16))];
        assert_eq!(opened_and(&worked).admission(), Admission::All);
        assert_eq!(opened_and(&worked).hold(), None);
    }

    #[test]
    fn each_probe_that_fails_keeps_it_open_for_longer() {
        let breaker = opened_and(&[
            (15, Observation::Nothing),
            (15, Observation::Began),
            (16, failed(15)),
        ]);
        let expected = Breaker::Open {
            since: at(16),
            until: at(26),
            times: 2,
        };
        assert_eq!(breaker, expected);
        assert_eq!(
            breaker.reason().unwrap(),
            "the engine kept failing, and 1 more time(s) when tried again; it is left alone for a \
             while"
        );
    }

    #[test]
    fn what_began_before_it_opened_neither_closes_it_nor_keeps_it_open() {
        let half_open = opened_and(&[(11, failed(9)), (15, Observation::Nothing)]);
        let expected = Breaker::HalfOpen {
            since: at(15),
            probe: None,
            times: 1,
        };
        assert_eq!(half_open, expected);
        let late = [
            (15, Observation::Nothing),
            (16, succeeded(9)),
            (17, failed(9)),
        ];
        assert_eq!(opened_and(&late), expected);
        let closed = opened_and(&[
            (15, Observation::Nothing),
            (15, Observation::Began),
            (16, succeeded(15)),
            (17, failed(9)),
            (17, failed(9)),
            (17, failed(9)),
        ]);
        assert_eq!(closed.admission(), Admission::All);
    }

    #[test]
    fn a_probe_of_which_nothing_is_heard_makes_room_for_another() {
        let silent = [
            (15, Observation::Nothing),
            (15, Observation::Began),
            (314, Observation::Nothing),
        ];
        assert_eq!(opened_and(&silent).admission(), Admission::Nothing);
        let given_up = [silent[0], silent[1], (315, Observation::Nothing)];
        assert_eq!(opened_and(&given_up).admission(), Admission::One);
    }

    proptest! {
        #[test]
        fn it_never_stays_shut_for_ever(
            events in prop::collection::vec((0_u64..20, 0_u8..4), 0..60),
        ) {
            let policy = BreakerPolicy::default();
            let (mut breaker, mut now) = (Breaker::NEW, Duration::ZERO);
            for (pause, event) in events {
                now += at(pause);
                let observation = match event {
                    0 => Observation::Succeeded { began: now },
                    1 => Observation::Began,
                    2 => Observation::Nothing,
                    _ => Observation::Failed { began: now },
                };
                breaker = breaker.next(&policy, observation, now);
            }
            if breaker.admission() == Admission::Nothing {
                let wake_at = breaker.wake_at(&policy);
                prop_assert!(wake_at.is_some_and(|at| at > now && at <= now + policy.most));
                let woken = wake_at.unwrap_or_default();
                let woken = breaker.next(&policy, Observation::Nothing, woken);
                prop_assert_eq!(woken.admission(), Admission::One);
            }
        }
    }
}
