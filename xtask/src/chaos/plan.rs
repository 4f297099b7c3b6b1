//! What a cycle consists of: which tasks, and what happens to them when. It follows from a seed.

use std::fmt;
use std::time::Duration;

use super::random::Random;
use super::tasks::{BEGUN, KINDS, Kind, NETWORK, PREPARED, VERIFYING};

/// Something bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The orchestrator is killed, and another goes on with its run after a while.
    Orchestrator {
        /// After how many milliseconds.
        pause: u64,
    },
    /// PID 1 of a sandbox is killed.
    Init,
    /// PID 1 of the proxy is killed.
    Proxy,
    /// A sandbox is killed through the engine.
    Kill,
    /// A sandbox is removed by somebody else.
    Remove,
    /// The engine is killed and started; its containers go on.
    EngineKill,
    /// The engine is stopped and started; its containers go on or end with it.
    EngineStop {
        /// Whether they go on.
        keeps: bool,
    },
    /// The engine does nothing for a while.
    EngineFreeze {
        /// For how many milliseconds.
        pause: u64,
    },
    /// The engine's disk is full for a while.
    EngineDisk {
        /// For how many milliseconds.
        pause: u64,
    },
    /// A client that looks on is killed.
    Client {
        /// Whether it follows a log, or lists what there is.
        follows: bool,
        /// After how many milliseconds.
        pause: u64,
    },
}

/// Names by which faults are chosen, each with how often it comes.
const WEIGHTS: [(&str, u64); 10] = [
    ("orchestrator", 6),
    ("init", 2),
    ("proxy", 2),
    ("kill", 1),
    ("remove", 2),
    ("engine-kill", 2),
    ("engine-stop", 2),
    ("engine-freeze", 1),
    ("engine-disk", 1),
    ("client", 1),
];
const MOST_TASKS: u64 = 8;

/// When it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment {
    /// First a word is said in a log; empty for none.
    pub word: &'static str,
    /// Then so much time passes.
    pub then: Duration,
}

/// A fault with its moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Strike {
    /// What.
    pub fault: Fault,
    /// When.
    pub moment: Moment,
    /// Decides whom it meets.
    pub number: u64,
}

/// A task of a cycle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Task {
    /// Its id.
    pub id: String,
    /// What it is.
    pub kind: Kind,
}

/// A cycle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    /// The seed that it follows from.
    pub seed: u64,
    /// Attempts at once.
    pub jobs: u64,
    /// Its tasks.
    pub tasks: Vec<Task>,
    /// What happens to them.
    pub strikes: Vec<Strike>,
}

/// The seeds of so many cycles. They are short, since people type them.
pub(super) fn seeds(seed: u64, cycles: usize) -> Vec<u64> {
    let mut random = Random::new(seed);
    (0..cycles).map(|_| random.next() >> 32).collect()
}

/// The names of all faults.
pub(super) fn fault_names() -> impl Iterator<Item = &'static str> {
    WEIGHTS.into_iter().map(|(name, _)| name)
}

impl Plan {
    /// The cycle of a seed, with faults of these names only.
    pub(super) fn new(seed: u64, faults: &[&str]) -> Self {
        let mut random = Random::new(seed);
        let mut tasks = Vec::new();
        for number in 1..=random.between(3, MOST_TASKS) {
            let kind = random.pick(&KINDS).copied().unwrap_or(KINDS[0]);
            let id = format!("{}-{number}", kind.name);
            tasks.push(Task { id, kind });
        }
        let jobs = random.between(2, MOST_TASKS);
        let count = random.between(1, 3);
        let mut plan = Self {
            seed,
            jobs,
            tasks,
            strikes: Vec::new(),
        };
        for _ in 0..count {
            let strike = plan.strike(&mut random, faults);
            plan.strikes.extend(strike);
        }
        plan
    }

    fn has(&self, matches: impl Fn(&Kind) -> bool) -> bool {
        self.tasks.iter().any(|task| matches(&task.kind))
    }

    fn strike(&self, random: &mut Random, faults: &[&str]) -> Option<Strike> {
        let fitting: Vec<&str> = WEIGHTS
            .into_iter()
            .filter(|(name, _)| faults.contains(name))
            .filter(|(name, _)| *name != "proxy" || self.has(|kind| kind.name == NETWORK))
            .flat_map(|(name, weight)| (0..weight).map(move |_| name))
            .collect();
        let fault = fault(random.pick(&fitting)?, random);
        let mut words = vec![BEGUN, VERIFYING];
        if self.has(|kind| !kind.setup.is_empty()) {
            words.push(PREPARED);
        }
        let is_timed = random.next().is_multiple_of(2);
        let moment = if is_timed {
            Moment {
                word: "",
                then: Duration::from_millis(random.between(0, 1500)),
            }
        } else {
            Moment {
                word: random.pick(&words).copied().unwrap_or(BEGUN),
                then: Duration::from_millis(random.between(0, 300)),
            }
        };
        Some(Strike {
            fault,
            moment,
            number: random.next(),
        })
    }
}

fn fault(name: &str, random: &mut Random) -> Fault {
    match name {
        "init" => Fault::Init,
        "proxy" => Fault::Proxy,
        "kill" => Fault::Kill,
        "remove" => Fault::Remove,
        "engine-kill" => Fault::EngineKill,
        "engine-stop" => Fault::EngineStop {
            keeps: random.next().is_multiple_of(2),
        },
        "engine-freeze" => Fault::EngineFreeze {
            pause: random.between(200, 1000),
        },
        "engine-disk" => Fault::EngineDisk {
            pause: random.between(200, 1000),
        },
        "client" => Fault::Client {
            follows: random.next().is_multiple_of(2),
            pause: random.between(0, 300),
        },
        _ => Fault::Orchestrator {
            pause: random.between(0, 500),
        },
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Orchestrator { pause } => write!(formatter, "orchestrator({pause} ms)"),
            Self::Init => formatter.write_str("init"),
            Self::Proxy => formatter.write_str("proxy"),
            Self::Kill => formatter.write_str("kill"),
            Self::Remove => formatter.write_str("remove"),
            Self::EngineKill => formatter.write_str("engine-kill"),
            Self::EngineStop { keeps: true } => formatter.write_str("engine-stop(live)"),
            Self::EngineStop { keeps: false } => formatter.write_str("engine-stop"),
            Self::EngineFreeze { pause } => write!(formatter, "engine-freeze({pause} ms)"),
            Self::EngineDisk { pause } => write!(formatter, "engine-disk({pause} ms)"),
            Self::Client { follows, pause } => {
                let what = if *follows { "logs" } else { "ps" };
                write!(formatter, "client({what}, {pause} ms)")
            }
        }
    }
}

impl fmt::Display for Strike {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let then = self.moment.then.as_millis();
        match self.moment.word.trim() {
            "" => write!(formatter, "{} at {then} ms", self.fault),
            word => write!(formatter, "{} {then} ms after '{word}'", self.fault),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tasks: Vec<&str> = self.tasks.iter().map(|task| task.kind.name).collect();
        let strikes: Vec<String> = self.strikes.iter().map(Strike::to_string).collect();
        write!(
            formatter,
            "{} (-j {}) × {}",
            tasks.join(" "),
            self.jobs,
            strikes.join(", ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn all() -> Vec<&'static str> {
        fault_names().collect()
    }

    #[test]
    fn a_seed_says_all_of_a_cycle() {
        for seed in seeds(1, 100) {
            assert_eq!(Plan::new(seed, &all()), Plan::new(seed, &all()));
        }
        assert_ne!(seeds(1, 3), seeds(2, 3));
        assert_eq!(seeds(1, 3)[..2], seeds(1, 2));
    }

    #[test]
    fn every_fault_and_every_kind_of_task_comes_in_time() {
        let plans: Vec<Plan> = seeds(1, 200)
            .into_iter()
            .map(|seed| Plan::new(seed, &all()))
            .collect();
        let strikes = plans.iter().flat_map(|plan| &plan.strikes);
        let kind = |strike: &Strike| {
            strike
                .fault
                .to_string()
                .split('(')
                .next()
                .map(str::to_owned)
        };
        let faults: BTreeSet<String> = strikes.filter_map(kind).collect();
        assert_eq!(faults, all().into_iter().map(str::to_owned).collect());
        let tasks = plans.iter().flat_map(|plan| &plan.tasks);
        let names: BTreeSet<&str> = tasks.map(|task| task.kind.name).collect();
        assert_eq!(names.len(), KINDS.len());
        for plan in &plans {
            assert!((3..=8).contains(&plan.tasks.len()), "{plan}");
            assert!((1..=3).contains(&plan.strikes.len()), "{plan}");
        }
    }

    #[test]
    fn only_faults_that_were_asked_for_come() {
        for seed in seeds(3, 50) {
            for strike in Plan::new(seed, &["init", "proxy"]).strikes {
                assert!(matches!(strike.fault, Fault::Init | Fault::Proxy));
            }
        }
    }
}
