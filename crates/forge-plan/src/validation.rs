//! From the outcomes of `nop` and `oracle` attempts to the verdict about a task.

use forge_core::{Cause, Outcome, PhaseName, Verdict};

/// What one attempt says about the tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// They ran and passed.
    Passed,
    /// They, or the agent before them, were brought to an end, and they did not pass.
    NotPassed,
    /// They were never reached, or it was not the task that kept them from passing.
    Nothing,
}

impl Sign {
    /// The sign of an attempt that did not complete for `cause`, or completed, and whose last phase
    /// was this one. What ended in setup, in whatever way, says nothing about the tests.
    #[must_use]
    pub const fn of(cause: Option<Cause>, last_phase: Option<PhaseName>) -> Self {
        match (cause, last_phase) {
            (None, _) => Self::Passed,
            (Some(Cause::Task), Some(PhaseName::Solve | PhaseName::Verify)) => Self::NotPassed,
            (Some(_), _) => Self::Nothing,
        }
    }
}

/// One attempt of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trial {
    /// How it ended.
    pub outcome: Outcome,
    /// The last phase that ran, if any did.
    pub last_phase: Option<PhaseName>,
}

impl Trial {
    /// What it says about the tests.
    #[must_use]
    pub fn sign(&self) -> Sign {
        Sign::of(self.outcome.cause(), self.last_phase)
    }
}

/// The verdict about a task and why, from every attempt of both agents.
#[must_use]
pub fn verdict(nop: &[Trial], oracle: &[Trial]) -> (Verdict, String) {
    let no_verdict = nop
        .iter()
        .chain(oracle)
        .find(|trial| trial.sign() == Sign::Nothing);
    if let Some(trial) = no_verdict {
        return (Verdict::Broken, trial.outcome.message());
    }
    if nop.is_empty() || oracle.is_empty() {
        return (Verdict::Broken, "not every agent was run".to_owned());
    }
    let passed = |trials: &[Trial]| {
        trials
            .iter()
            .filter(|trial| trial.sign() == Sign::Passed)
            .count()
    };
    let (nop_passed, oracle_passed) = (passed(nop), passed(oracle));
    if nop_passed == nop.len() {
        return (
            Verdict::NopPasses,
            "verification passes with nothing done".to_owned(),
        );
    }
    if nop_passed > 0 {
        let reason = format!(
            "with nothing done, {nop_passed} of {} verifications pass",
            nop.len()
        );
        return (Verdict::Flaky, reason);
    }
    if oracle_passed == 0 {
        return (Verdict::OracleFails, oracle[0].outcome.message());
    }
    if oracle_passed < oracle.len() {
        let failed = oracle.iter().find(|trial| trial.sign() == Sign::NotPassed);
        let reason = format!(
            "with the solution, {oracle_passed} of {} verifications pass: {}",
            oracle.len(),
            failed
                .map(|trial| trial.outcome.message())
                .unwrap_or_default()
        );
        return (Verdict::Flaky, reason);
    }
    let times = nop.len().max(oracle.len());
    (
        Verdict::Valid,
        format!("nop fails and oracle passes, {times} of {times} times"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use forge_core::{Deadline, Failure, Reason};

    fn in_phase(outcome: Outcome, phase: PhaseName) -> Trial {
        Trial {
            outcome,
            last_phase: Some(phase),
        }
    }

    fn failed(reason: Reason) -> Outcome {
        Outcome::Failed(Failure::new(reason, reason.as_str()))
    }

    fn pass() -> Trial {
        in_phase(Outcome::Completed, PhaseName::Verify)
    }

    fn fail() -> Trial {
        in_phase(failed(Reason::TestsFailed), PhaseName::Verify)
    }

    #[test]
    fn every_combination_gets_the_verdict_it_deserves() {
        let passes = || vec![pass(), pass(), pass()];
        let fails = || vec![fail(), fail(), fail()];
        let mixed = || vec![pass(), fail(), pass()];
        let late = || {
            vec![in_phase(
                Outcome::Timeout(Deadline::Verify),
                PhaseName::Verify,
            )]
        };
        let cases = [
            (fails(), passes(), Verdict::Valid),
            (passes(), passes(), Verdict::NopPasses),
            (passes(), fails(), Verdict::NopPasses),
            (fails(), fails(), Verdict::OracleFails),
            (mixed(), passes(), Verdict::Flaky),
            (fails(), mixed(), Verdict::Flaky),
            (late(), passes(), Verdict::Valid),
            (fails(), late(), Verdict::OracleFails),
            (fails(), vec![], Verdict::Broken),
        ];
        for (nop, oracle, expected) in cases {
            assert_eq!(verdict(&nop, &oracle).0, expected, "{nop:?} {oracle:?}");
        }
    }

    #[test]
    fn an_accident_of_the_infrastructure_is_never_a_verdict() {
        for reason in [Reason::Lost, Reason::EngineError, Reason::Cancelled] {
            let nop = [fail(), in_phase(failed(reason), PhaseName::Verify)];
            let (found, why) = verdict(&nop, &[pass()]);
            assert_eq!((found, why.as_str()), (Verdict::Broken, reason.as_str()));
        }
    }

    #[test]
    fn whatever_ends_in_setup_says_nothing_about_the_tests() {
        let setup = PhaseName::Setup;
        for outcome in [
            failed(Reason::SetupFailed),
            failed(Reason::OutOfMemory),
            Outcome::Timeout(Deadline::Setup),
        ] {
            let nop = [in_phase(outcome, setup)];
            assert_eq!(verdict(&nop, &[pass()]).0, Verdict::Broken);
        }
    }
}
