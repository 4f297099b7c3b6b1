//! What the end of a phase means for the attempt.

use forge_core::{Cause, Deadline, Ending, ExitReport, Failure, Outcome, PhaseName, Reason};

/// The signal for a file that grew past its limit, on every architecture of Linux but MIPS.
const SIGXFSZ: i32 = 25;
const SHELL_SIGXFSZ: i32 = 128 + SIGXFSZ;

/// The outcome that the end of `phase` forces, or `None` when the attempt goes on.
///
/// A phase that succeeded is never failed for an out-of-memory kill or a refused fork on the way:
/// the command dealt with it. One that failed is explained by it, and by a workspace that was full
/// (`disk_full`), which told its programs so themselves.
#[must_use]
pub fn judge(phase: PhaseName, report: &ExitReport, disk_full: bool) -> Option<Outcome> {
    let failure = match report.ending {
        Ending::Exited(0) => return None,
        Ending::RootFull | Ending::EngineDiskFull | Ending::WorkspaceFailed => {
            beside_the_workspace(phase, &report.ending)
        }
        Ending::DeadlineExceeded => {
            return Some(Outcome::Timeout(match phase {
                PhaseName::Setup => Deadline::Setup,
                PhaseName::Solve => Deadline::Solve,
                PhaseName::Verify => Deadline::Verify,
            }));
        }
        Ending::OutputLimit => Failure::new(
            Reason::OutputLimit,
            format!(
                "{phase} wrote more than {} bytes of output",
                report.output_bytes
            ),
        ),
        Ending::DiskFull => Failure::new(
            Reason::DiskFull,
            format!("the workspace grew past its size during {phase}"),
        ),
        Ending::NotStarted { errno } => {
            Failure::new(Reason::CommandNotRunnable, not_started(phase, errno))
        }
        Ending::Killed => Failure::new(Reason::Cancelled, format!("{phase} was ended on request")),
        Ending::Exited(_) | Ending::Signalled(_) if report.oom_kills > 0 => Failure::new(
            Reason::OutOfMemory,
            format!(
                "{phase} {}; the kernel killed {} process(es) of it for want of memory",
                ended(&report.ending),
                report.oom_kills
            ),
        ),
        Ending::Exited(_) | Ending::Signalled(_) if report.pids_refused > 0 => Failure::new(
            Reason::PidsExhausted,
            format!(
                "{phase} {}; the process limit refused it {} process(es)",
                ended(&report.ending),
                report.pids_refused
            ),
        ),
        Ending::Exited(_) | Ending::Signalled(_) if disk_full => Failure::new(
            Reason::DiskFull,
            format!("{phase} {}; its workspace was full", ended(&report.ending)),
        ),
        // A shell reports a program that a signal ended as 128 and the signal's number.
        Ending::Signalled(SIGXFSZ) | Ending::Exited(SHELL_SIGXFSZ) => Failure::new(
            Reason::DiskFull,
            format!("a file grew past the size of the workspace during {phase}"),
        ),
        Ending::Exited(code) => {
            let reason = match phase {
                PhaseName::Setup => Reason::SetupFailed,
                PhaseName::Solve => Reason::SolveFailed,
                PhaseName::Verify => Reason::TestsFailed,
            };
            Failure::new(reason, format!("{phase} ended with code {code}"))
        }
        Ending::Signalled(_) => Failure::new(
            Reason::KilledBySignal,
            format!("{phase} {}", ended(&report.ending)),
        ),
    };
    Some(Outcome::Failed(failure))
}

/// The outcome of a phase that failed and whose way to its network was lost while it ran: it may have
/// failed for that alone, so what it came to says nothing about the task.
#[must_use]
pub fn without_network(phase: PhaseName, outcome: Outcome) -> Outcome {
    if outcome.cause() != Some(Cause::Task) {
        return outcome;
    }
    Outcome::Failed(Failure::new(
        Reason::NetworkPolicyUnavailable,
        format!(
            "the egress proxy was lost during {phase}, which then failed: {}",
            outcome.message()
        ),
    ))
}

/// What came of a file system that is not the workspace's own size: another one, or one below.
fn beside_the_workspace(phase: PhaseName, ending: &Ending) -> Failure {
    match ending {
        Ending::RootFull => Failure::new(
            Reason::DiskFull,
            format!(
                "{phase} wrote more outside of the workspace, into the root file system, than the \
                 task's disk has"
            ),
        ),
        Ending::EngineDiskFull => Failure::new(
            Reason::EngineError,
            format!(
                "the engine's disk is full: {phase} was ended when only the reserve was left on it"
            ),
        ),
        _ => Failure::new(
            Reason::EngineError,
            format!(
                "the workspace's file system failed during {phase} and takes no more writes: \
                 probably the engine's disk is full where workspaces are kept"
            ),
        ),
    }
}

fn ended(ending: &Ending) -> String {
    match ending {
        Ending::Exited(code) => format!("ended with code {code}"),
        Ending::Signalled(signal) => format!("was ended by signal {signal}"),
        _ => "ended".to_owned(),
    }
}

/// Error numbers of Linux, which every engine's sandboxes run on.
fn not_started(phase: PhaseName, errno: i32) -> String {
    let why = match errno {
        2 => "the program does not exist in the image",
        8 => "the program is not executable on this machine",
        11 => "the process limit is reached",
        12 => "there is not enough memory",
        13 => "the program may not be executed",
        20 => "a part of its path is not a folder",
        _ => "the kernel refused it",
    };
    format!("the command of {phase} could not be started: {why} (error number {errno})")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn report(ending: Ending) -> ExitReport {
        ExitReport {
            ending,
            output_bytes: 0,
            truncated: false,
            oom_kills: 0,
            pids_refused: 0,
            duration: Duration::from_secs(1),
        }
    }

    fn reason(phase: PhaseName, report: &ExitReport) -> Option<Reason> {
        judge(phase, report, false).and_then(|outcome| outcome.reason())
    }

    #[test]
    fn a_full_workspace_explains_a_phase_that_failed_and_no_other() {
        let reason = |ending| {
            let outcome = judge(PhaseName::Solve, &report(ending), true);
            outcome.and_then(|outcome| outcome.reason())
        };
        assert_eq!(reason(Ending::Exited(1)), Some(Reason::DiskFull));
        assert_eq!(reason(Ending::Exited(0)), None);
        assert_eq!(reason(Ending::OutputLimit), Some(Reason::OutputLimit));
    }

    #[test]
    fn each_way_to_end_has_a_reason_of_its_own() {
        let cases = [
            (PhaseName::Setup, Ending::Exited(1), Reason::SetupFailed),
            (PhaseName::Solve, Ending::Exited(1), Reason::SolveFailed),
            (PhaseName::Verify, Ending::Exited(1), Reason::TestsFailed),
            (
                PhaseName::Verify,
                Ending::Signalled(11),
                Reason::KilledBySignal,
            ),
            (
                PhaseName::Verify,
                Ending::DeadlineExceeded,
                Reason::DeadlineExceeded,
            ),
            (PhaseName::Solve, Ending::OutputLimit, Reason::OutputLimit),
            (PhaseName::Solve, Ending::DiskFull, Reason::DiskFull),
            (PhaseName::Solve, Ending::Signalled(25), Reason::DiskFull),
            (PhaseName::Solve, Ending::Exited(153), Reason::DiskFull),
            (
                PhaseName::Solve,
                Ending::NotStarted { errno: 2 },
                Reason::CommandNotRunnable,
            ),
            (PhaseName::Solve, Ending::Killed, Reason::Cancelled),
            (PhaseName::Setup, Ending::RootFull, Reason::DiskFull),
            (
                PhaseName::Setup,
                Ending::EngineDiskFull,
                Reason::EngineError,
            ),
            (
                PhaseName::Verify,
                Ending::WorkspaceFailed,
                Reason::EngineError,
            ),
        ];
        for (phase, ending, expected) in cases {
            assert_eq!(
                reason(phase, &report(ending.clone())),
                Some(expected),
                "{ending:?}"
            );
        }
    }

    #[test]
    fn a_failure_names_the_file_system_it_is_about() {
        let message = |ending| match judge(PhaseName::Setup, &report(ending), false) {
            Some(Outcome::Failed(failure)) => failure.message,
            _ => String::new(),
        };
        assert!(message(Ending::DiskFull).contains("the workspace grew"));
        assert!(message(Ending::RootFull).contains("outside of the workspace"));
        assert!(message(Ending::EngineDiskFull).contains("the engine's disk is full"));
        assert!(message(Ending::WorkspaceFailed).contains("the engine's disk is full"));
    }

    #[test]
    fn a_phase_that_fails_without_its_network_gets_no_verdict() {
        for ending in [Ending::Exited(1), Ending::DeadlineExceeded] {
            let judged = judge(PhaseName::Setup, &report(ending), false).unwrap();
            let outcome = without_network(PhaseName::Setup, judged.clone());
            assert_eq!(outcome.reason(), Some(Reason::NetworkPolicyUnavailable));
            assert_eq!(outcome.cause(), Some(Cause::Infrastructure));
            assert!(outcome.message().ends_with(&judged.message()));
        }
        let cancelled = judge(PhaseName::Setup, &report(Ending::Killed), false).unwrap();
        assert_eq!(
            without_network(PhaseName::Setup, cancelled.clone()),
            cancelled
        );
    }

    #[test]
    fn memory_and_process_limits_explain_a_failure_but_do_not_make_one() {
        let mut starved = report(Ending::Exited(1));
        starved.oom_kills = 1;
        assert_eq!(
            reason(PhaseName::Verify, &starved),
            Some(Reason::OutOfMemory)
        );
        starved.ending = Ending::Signalled(9);
        assert_eq!(
            reason(PhaseName::Verify, &starved),
            Some(Reason::OutOfMemory)
        );
        starved.ending = Ending::Exited(0);
        assert_eq!(reason(PhaseName::Verify, &starved), None);

        let mut crowded = report(Ending::Exited(2));
        crowded.pids_refused = 4;
        assert_eq!(
            reason(PhaseName::Solve, &crowded),
            Some(Reason::PidsExhausted)
        );
        crowded.ending = Ending::Exited(0);
        assert_eq!(reason(PhaseName::Solve, &crowded), None);
    }
}
