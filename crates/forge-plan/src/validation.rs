//! From the outcomes of `nop` and `oracle` attempts to the verdict about a task.

use forge_core::{Cause, Outcome, Reason, Verdict};

/// What one attempt says about the tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    Passed,
    NotPassed,
    Nothing,
}

fn sign(outcome: &Outcome) -> Sign {
    match outcome {
        Outcome::Completed => Sign::Passed,
        Outcome::Timeout(_) => Sign::NotPassed,
        Outcome::Failed(failure) => match (failure.cause(), failure.reason) {
            (Cause::Task, Reason::SetupFailed) => Sign::Nothing,
            (Cause::Task, _) => Sign::NotPassed,
            (Cause::Infrastructure | Cause::User, _) => Sign::Nothing,
        },
    }
}

/// The verdict about a task and why, from every attempt of both agents.
#[must_use]
pub fn verdict(nop: &[Outcome], oracle: &[Outcome]) -> (Verdict, String) {
    let no_verdict = nop
        .iter()
        .chain(oracle)
        .find(|outcome| sign(outcome) == Sign::Nothing);
    if let Some(outcome) = no_verdict {
        return (Verdict::Broken, outcome.message());
    }
    if nop.is_empty() || oracle.is_empty() {
        return (Verdict::Broken, "not every agent was run".to_owned());
    }
    let passed = |outcomes: &[Outcome]| {
        outcomes
            .iter()
            .filter(|each| sign(each) == Sign::Passed)
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
        return (Verdict::OracleFails, oracle[0].message());
    }
    if oracle_passed < oracle.len() {
        let failed = oracle.iter().find(|each| sign(each) == Sign::NotPassed);
        let reason = format!(
            "with the solution, {oracle_passed} of {} verifications pass: {}",
            oracle.len(),
            failed.map(Outcome::message).unwrap_or_default()
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
    use forge_core::{Deadline, Failure};

    fn failed(reason: Reason) -> Outcome {
        Outcome::Failed(Failure::new(reason, reason.as_str()))
    }

    #[test]
    fn every_combination_gets_the_verdict_it_deserves() {
        let passes = || vec![Outcome::Completed; 3];
        let fails = || vec![failed(Reason::TestsFailed); 3];
        let mixed = || {
            vec![
                Outcome::Completed,
                failed(Reason::TestsFailed),
                Outcome::Completed,
            ]
        };
        let cases = [
            (fails(), passes(), Verdict::Valid),
            (passes(), passes(), Verdict::NopPasses),
            (passes(), fails(), Verdict::NopPasses),
            (fails(), fails(), Verdict::OracleFails),
            (mixed(), passes(), Verdict::Flaky),
            (fails(), mixed(), Verdict::Flaky),
            (
                vec![Outcome::Timeout(Deadline::Verify)],
                passes(),
                Verdict::Valid,
            ),
            (
                fails(),
                vec![Outcome::Timeout(Deadline::Verify)],
                Verdict::OracleFails,
            ),
            (fails(), vec![], Verdict::Broken),
        ];
        for (nop, oracle, expected) in cases {
            assert_eq!(verdict(&nop, &oracle).0, expected, "{nop:?} {oracle:?}");
        }
    }

    #[test]
    fn an_accident_of_the_infrastructure_is_never_a_verdict() {
        for reason in [
            Reason::Lost,
            Reason::EngineError,
            Reason::Cancelled,
            Reason::SetupFailed,
        ] {
            let nop = vec![failed(Reason::TestsFailed), failed(reason)];
            let (found, why) = verdict(&nop, &[Outcome::Completed]);
            assert_eq!((found, why.as_str()), (Verdict::Broken, reason.as_str()));
        }
    }
}
