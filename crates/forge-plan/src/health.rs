//! What a sandbox is at, told from its answers to heartbeats: at work, idle, stuck in one of several
//! ways, or gone.
//!
//! How it is driven: a [`Monitor`] for each sandbox that runs something. Whoever owns it sleeps until
//! [`Monitor::next_beat`], then asks the sandbox for its health and waits for
//! [`HealthPolicy::timeout`] at most. An answer is [`Observation::Answered`]. With none, the engine is
//! asked, or its events tell: a sandbox that it paused cannot answer, and that is
//! [`Observation::Paused`]; anything else, an error of the channel among it, is
//! [`Observation::Silent`]. [`Monitor::observe`] gives the judgement; one that differs from the last
//! is told to the user. Only [`Judgement::ends_task`] ends anything. Beats need not come in time: late
//! ones delay judgements and never make them worse.
//!
//! A deadline ends a task that does nothing for ever, and that is enough: a task that is stopped, or
//! waits for a disk, may go on any moment, and is never ended for being stuck.

use std::fmt;
use std::time::Duration;

use forge_core::Health;

/// How often a sandbox is asked, and what is made of no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealthPolicy {
    /// Time from one beat to the next.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// So many beats in a row must say the same before it is believed that a sandbox is gone, without
    /// its specification, or blocked; 0 counts as 1.
    pub retries: u32,
    /// A sandbox that uses less than this part of one processor, in thousandths, uses none: PID 1
    /// itself has a little to do.
    pub idle_per_mille: u32,
}

impl Default for HealthPolicy {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(30),
            timeout: Duration::from_secs(10),
            retries: 3,
            idle_per_mille: 10,
        }
    }
}

impl HealthPolicy {
    fn is_enough(&self, beats: u32) -> bool {
        beats >= self.retries.max(1)
    }
}

/// What came of a beat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Observation {
    /// The sandbox answered.
    Answered(Health),
    /// It did not, in time or at all.
    Silent,
    /// The engine says that it is paused.
    Paused,
}

/// What a sandbox is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// Something in it works, or waits for a disk.
    Busy,
    /// All of it waits for something, or nothing runs.
    Idle,
    /// Every process is stopped, by a signal or a tracer.
    Stopped,
    /// Every process has waited for a disk or the like for several beats, and no signal reaches it.
    Blocked,
    /// The engine has paused it.
    Paused,
    /// Its specification was missing for several beats: its workspace is not what it was made with.
    Unhealthy,
    /// It has not answered for several beats, and is not paused.
    Gone,
}

impl Judgement {
    /// Whether there is no use in waiting for the task. All the others are only told.
    #[must_use]
    pub const fn ends_task(self) -> bool {
        matches!(self, Self::Unhealthy | Self::Gone)
    }
}

impl fmt::Display for Judgement {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Busy => "busy",
            Self::Idle => "idle",
            Self::Stopped => "stopped: every process of the task is",
            Self::Blocked => "blocked: every process of the task waits for a disk",
            Self::Paused => "paused by the engine",
            Self::Unhealthy => "unhealthy: the task's specification is missing",
            Self::Gone => "gone: the sandbox does not answer",
        })
    }
}

/// What is known of one sandbox. Times are since the run began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Monitor {
    policy: HealthPolicy,
    /// When the last beat was, or the monitor began.
    last_beat: Duration,
    /// The last answer, and when it came.
    last_answer: Option<(Duration, Health)>,
    /// Beats in a row without an answer.
    silent: u32,
    /// Answers in a row without a specification.
    missing: u32,
    /// Answers in a row with every process blocked and no processor used since the one before.
    blocked: u32,
    judgement: Option<Judgement>,
}

impl Monitor {
    /// A monitor of a sandbox of which nothing is known at `now`.
    #[must_use]
    pub const fn new(policy: HealthPolicy, now: Duration) -> Self {
        Self {
            policy,
            last_beat: now,
            last_answer: None,
            silent: 0,
            missing: 0,
            blocked: 0,
            judgement: None,
        }
    }

    /// When to ask the sandbox next.
    #[must_use]
    pub const fn next_beat(&self) -> Duration {
        self.last_beat.saturating_add(self.policy.interval)
    }

    /// What the sandbox is at, as far as that is known.
    #[must_use]
    pub const fn judgement(&self) -> Option<Judgement> {
        self.judgement
    }

    /// Notes what came of a beat; gives what the sandbox is at now. `None` only before anything is
    /// known.
    pub fn observe(&mut self, now: Duration, observation: Observation) -> Option<Judgement> {
        self.last_beat = now;
        self.judgement = match observation {
            Observation::Answered(health) => Some(self.answered(now, health)),
            Observation::Silent => {
                self.silent = self.silent.saturating_add(1);
                if self.policy.is_enough(self.silent) {
                    Some(Judgement::Gone)
                } else {
                    // One beat that is missed tells nothing.
                    self.judgement
                }
            }
            Observation::Paused => {
                self.silent = 0;
                self.blocked = 0;
                Some(Judgement::Paused)
            }
        };
        self.judgement
    }

    fn answered(&mut self, now: Duration, health: Health) -> Judgement {
        let progress = self.progress(now, &health);
        self.last_answer = Some((now, health));
        self.silent = 0;
        match health.specification {
            Some(true) => self.missing = 0,
            Some(false) => self.missing = self.missing.saturating_add(1),
            // A disk that does not answer has not said that anything is missing.
            None => {}
        }
        let processes = &health.processes;
        let all_are = |count| count > 0 && count == processes.living() && !processes.more;
        if all_are(processes.blocked) && progress == Progress::None {
            self.blocked = self.blocked.saturating_add(1);
        } else {
            self.blocked = 0;
        }
        if self.policy.is_enough(self.missing) {
            Judgement::Unhealthy
        } else if all_are(processes.stopped) {
            Judgement::Stopped
        } else if self.policy.is_enough(self.blocked) {
            Judgement::Blocked
        } else if progress == Progress::Some || processes.running > 0 || processes.blocked > 0 {
            Judgement::Busy
        } else {
            Judgement::Idle
        }
    }

    /// Whether anything was done between the last answer and this one.
    fn progress(&self, now: Duration, health: &Health) -> Progress {
        let Some((then, last)) = &self.last_answer else {
            return Progress::Unknown;
        };
        if health.output_bytes > last.output_bytes {
            return Progress::Some;
        }
        let (Some(cpu), Some(last_cpu)) = (health.cpu, last.cpu) else {
            return Progress::Unknown;
        };
        let used = cpu.saturating_sub(last_cpu);
        let passed = now.saturating_sub(*then);
        if used > passed * self.policy.idle_per_mille / 1000 {
            Progress::Some
        } else {
            Progress::None
        }
    }
}

/// What was done between two answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Some,
    None,
    /// There is no earlier answer, or nothing to tell by.
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;
    use forge_core::Processes;
    use proptest::prelude::*;

    const BEAT: Duration = Duration::from_secs(30);

    fn monitor() -> Monitor {
        Monitor::new(HealthPolicy::default(), Duration::ZERO)
    }

    /// Beats in the policy's time; gives the judgement after each.
    fn beats(
        monitor: &mut Monitor,
        observations: impl IntoIterator<Item = Observation>,
    ) -> Vec<Option<Judgement>> {
        let mut judgements = Vec::new();
        for observation in observations {
            let now = monitor.next_beat();
            judgements.push(monitor.observe(now, observation));
        }
        judgements
    }

    fn health(processes: Processes) -> Health {
        Health {
            specification: Some(true),
            processes,
            cpu: Some(Duration::from_secs(1)),
            output_bytes: 100,
        }
    }

    fn sleeping() -> Health {
        health(Processes {
            sleeping: 2,
            ..Processes::default()
        })
    }

    fn blocked() -> Health {
        health(Processes {
            blocked: 2,
            zombies: 1,
            ..Processes::default()
        })
    }

    fn without_specification() -> Health {
        Health {
            specification: Some(false),
            ..sleeping()
        }
    }

    #[test]
    fn a_sandbox_is_asked_at_every_interval_and_believed_gone_after_three_misses() {
        let mut monitor = monitor();
        assert_eq!(monitor.next_beat(), BEAT);
        let silence = beats(&mut monitor, [Observation::Silent; 2]);
        assert_eq!(silence, [None, None]);
        assert_eq!(monitor.next_beat(), 3 * BEAT);
        let answer = [Observation::Answered(sleeping())];
        assert_eq!(beats(&mut monitor, answer), [Some(Judgement::Idle)]);
        let idle = Some(Judgement::Idle);
        let gone = Some(Judgement::Gone);
        let silence = beats(&mut monitor, [Observation::Silent; 4]);
        assert_eq!(silence, [idle, idle, gone, gone]);
        assert_eq!(beats(&mut monitor, answer), [idle]);
    }

    #[test]
    fn a_paused_sandbox_is_not_gone_however_long() {
        let mut monitor = monitor();
        beats(&mut monitor, [Observation::Silent; 2]);
        let paused = beats(&mut monitor, [Observation::Paused; 10]);
        assert_eq!(paused, [Some(Judgement::Paused); 10]);
        let silence = beats(&mut monitor, [Observation::Silent; 3]);
        assert_eq!(silence[1], Some(Judgement::Paused));
        assert_eq!(silence[2], Some(Judgement::Gone));
    }

    #[test]
    fn what_uses_a_processor_or_writes_is_busy_and_what_waits_is_idle() {
        let mut monitor = monitor();
        let mut next = sleeping();
        let mut judge = |change: &dyn Fn(&mut Health)| {
            change(&mut next);
            beats(&mut monitor, [Observation::Answered(next)])[0].unwrap()
        };
        assert_eq!(judge(&|_| {}), Judgement::Idle);
        assert_eq!(judge(&|_| {}), Judgement::Idle);
        // A hundredth of a processor is PID 1's own.
        let little = |health: &mut Health| add_cpu(health, 300);
        let more = |health: &mut Health| add_cpu(health, 301);
        assert_eq!(judge(&little), Judgement::Idle);
        assert_eq!(judge(&more), Judgement::Busy);
        assert_eq!(judge(&|health| health.output_bytes += 1), Judgement::Busy);
        assert_eq!(
            judge(&|health| health.processes.running = 1),
            Judgement::Busy
        );
        let waits_for_disk = |health: &mut Health| {
            health.processes.running = 0;
            health.processes.blocked = 1;
        };
        assert_eq!(judge(&waits_for_disk), Judgement::Busy);
        let nothing_runs = |health: &mut Health| health.processes = Processes::default();
        assert_eq!(judge(&nothing_runs), Judgement::Idle);
        assert_eq!(judge(&|health| health.cpu = None), Judgement::Idle);
    }

    fn add_cpu(health: &mut Health, milliseconds: u64) {
        let cpu = health.cpu.unwrap_or_default();
        health.cpu = Some(cpu + Duration::from_millis(milliseconds));
    }

    #[test]
    fn a_sandbox_is_stopped_when_every_living_process_is_and_all_were_counted() {
        let stopped = Processes {
            stopped: 3,
            zombies: 2,
            ..Processes::default()
        };
        let judge = |processes| {
            let answer = [Observation::Answered(health(processes))];
            beats(&mut monitor(), answer)[0].unwrap()
        };
        assert_eq!(judge(stopped), Judgement::Stopped);
        let one_sleeps = Processes {
            sleeping: 1,
            ..stopped
        };
        assert_eq!(judge(one_sleeps), Judgement::Idle);
        let more = Processes {
            more: true,
            ..stopped
        };
        assert_eq!(judge(more), Judgement::Idle);
    }

    #[test]
    fn a_sandbox_is_blocked_after_several_beats_without_any_progress() {
        let busy = Some(Judgement::Busy);
        let is_blocked = Some(Judgement::Blocked);
        let mut monitor = monitor();
        // With nothing before it, the first answer does not tell whether anything was done.
        let judgements = beats(&mut monitor, [Observation::Answered(blocked()); 5]);
        assert_eq!(judgements, [busy, busy, busy, is_blocked, is_blocked]);
        let mut moved = blocked();
        moved.output_bytes += 1;
        let judgements = beats(&mut monitor, [Observation::Answered(moved); 4]);
        assert_eq!(judgements, [busy, busy, busy, is_blocked]);
        let mut uncounted = moved;
        uncounted.cpu = None;
        let judgements = beats(&mut monitor, [Observation::Answered(uncounted); 9]);
        assert_eq!(judgements, [busy; 9]);
    }

    #[test]
    fn a_missing_specification_is_unhealthy_the_third_time_in_a_row() {
        let mut monitor = monitor();
        let missing = Observation::Answered(without_specification());
        let idle = Some(Judgement::Idle);
        let unhealthy = Some(Judgement::Unhealthy);
        let there = Observation::Answered(sleeping());
        let unseen = Observation::Answered(Health {
            specification: None,
            ..sleeping()
        });
        let judgements = beats(&mut monitor, [missing, missing, there, missing, missing]);
        assert_eq!(judgements, [idle; 5]);
        // A look that did not come about says neither the one nor the other.
        let judgements = beats(&mut monitor, [unseen, unseen, missing, there]);
        assert_eq!(judgements, [idle, idle, unhealthy, idle]);
    }

    #[test]
    fn with_no_retries_one_beat_is_enough() {
        let policy = HealthPolicy {
            retries: 0,
            ..HealthPolicy::default()
        };
        let mut monitor = Monitor::new(policy, Duration::ZERO);
        let answer = [Observation::Answered(sleeping())];
        assert_eq!(beats(&mut monitor, answer), [Some(Judgement::Idle)]);
        assert_eq!(
            beats(&mut monitor, [Observation::Silent]),
            [Some(Judgement::Gone)]
        );
    }

    fn observations() -> impl Strategy<Value = Vec<(u64, Observation)>> {
        let count = 0_u32..3;
        let processes = (
            count.clone(),
            count.clone(),
            count.clone(),
            count,
            any::<bool>(),
        );
        let processes =
            processes.prop_map(|(running, sleeping, stopped, blocked, more)| Processes {
                running,
                sleeping,
                stopped,
                blocked,
                zombies: 1,
                more,
            });
        let health = (
            prop::option::of(any::<bool>()),
            processes,
            prop::option::of(0_u64..100),
            0_u64..3,
        );
        let answered = health.prop_map(|(specification, processes, cpu, output_bytes)| {
            Observation::Answered(Health {
                specification,
                processes,
                cpu: cpu.map(Duration::from_secs),
                output_bytes,
            })
        });
        let observation = prop_oneof![
            4 => answered,
            2 => Just(Observation::Silent),
            1 => Just(Observation::Paused),
        ];
        prop::collection::vec((0_u64..100, observation), 0..40)
    }

    proptest! {
        /// Told anew from the whole history: silence alone, or a specification that is missing, ends
        /// a task; nothing that its processes do, or do not, ever does.
        #[test]
        fn a_task_is_ended_for_three_silent_beats_or_three_misses_and_nothing_else(
            history in observations(),
        ) {
            let mut monitor = monitor();
            let mut now = Duration::ZERO;
            let (mut silent, mut missing) = (0, 0);
            for (pause, observation) in history {
                now += Duration::from_secs(pause);
                let judgement = monitor.observe(now, observation);
                match observation {
                    Observation::Silent => silent += 1,
                    Observation::Paused => silent = 0,
                    Observation::Answered(health) => {
                        silent = 0;
                        match health.specification {
                            Some(false) => missing += 1,
                            Some(true) => missing = 0,
                            None => {}
                        }
                    }
                }
                let is_gone = silent >= 3;
                prop_assert_eq!(judgement == Some(Judgement::Gone), is_gone);
                let answered = matches!(observation, Observation::Answered(_));
                if answered {
                    prop_assert_eq!(judgement == Some(Judgement::Unhealthy), missing >= 3);
                }
                if judgement.is_some_and(Judgement::ends_task) {
                    prop_assert!(silent >= 3 || missing >= 3);
                }
                prop_assert_eq!(monitor.judgement(), judgement);
                prop_assert_eq!(monitor.next_beat(), now + BEAT);
            }
        }
    }
}
