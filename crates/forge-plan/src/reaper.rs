//! Which objects on an engine are left over and may be removed.
//!
//! Level-triggered: every pass looks at what is there and at what is recorded, and needs no memory of
//! the passes before. What stands on an engine belongs to a run, and the record knows the run better
//! than the object's own labels do: a run may have been taken over by another process since.

use forge_core::OwnerId;
use jiff::Timestamp;
use serde::Serialize;

use crate::lease::Standing;

/// What is known about the orchestrator process that holds an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// It runs.
    Alive,
    /// It ran on this machine and does not any more.
    Dead,
    /// It is on another machine, or the object does not say.
    Unknown,
}

/// What the record says about the run that an object was made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunState {
    /// A process drives it, or may do so.
    Live,
    /// It has not ended, and its process has: it can be gone on with.
    Interrupted,
    /// It ended.
    Ended {
        /// Its policy kept the object for inspection.
        kept: bool,
    },
    /// It is not recorded here.
    Unknown,
}

impl RunState {
    /// The state of a recorded run that has ended or not, and whose latest process stands so.
    #[must_use]
    pub const fn of(ended: bool, process: Standing) -> Self {
        match (ended, process) {
            (true, _) => Self::Ended { kept: false },
            (false, Standing::Live | Standing::Unknown { .. }) => Self::Live,
            (false, Standing::Interrupted) => Self::Interrupted,
        }
    }
}

/// The facts about one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts<'a> {
    /// Its owner label.
    pub owner: Option<&'a str>,
    /// When anyone may remove it.
    pub expires_at: Option<Timestamp>,
    /// The run it was made for.
    pub run: RunState,
    /// What became of its holder: the run's latest one where the run is recorded, else the one that
    /// the object names.
    pub holder: Holder,
}

/// What a pass is asked to remove besides what nobody can want any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scope {
    /// Expired objects of other installations.
    pub any_owner: bool,
    /// What interrupted runs left: they are given up.
    pub interrupted: bool,
    /// What runs that ended kept for inspection.
    pub kept: bool,
}

/// Why an object may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ground {
    /// The process that made it is gone.
    HolderGone,
    /// Its time is up.
    Expired,
    /// Its run was interrupted and is not to be gone on with.
    GivenUp,
}

/// Why an object stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stay {
    /// A process works with it.
    InUse,
    /// Its run was interrupted and can be gone on with.
    Interrupted,
    /// It is kept for inspection.
    Kept,
    /// Nobody here knows its process, and its time is not up.
    NotExpired,
    /// It belongs to another installation.
    Foreign,
}

/// What becomes of one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It goes.
    Remove(Ground),
    /// It stays.
    Leave(Stay),
}

/// Decides about one object.
///
/// Objects of another installation are left alone unless the scope has them, and even then until
/// they expire.
#[must_use]
pub fn decide(facts: &Facts<'_>, own: &OwnerId, scope: Scope, now: Timestamp) -> Decision {
    use Decision::{Leave, Remove};
    let expired = facts.expires_at.is_some_and(|expires_at| expires_at <= now);
    if facts.owner != Some(own.as_str()) {
        let free = scope.any_owner && facts.owner.is_some() && facts.holder != Holder::Alive;
        return match free && expired {
            true => Remove(Ground::Expired),
            false => Leave(Stay::Foreign),
        };
    }
    match (facts.run, facts.holder) {
        (RunState::Live, _) => Leave(Stay::InUse),
        (RunState::Interrupted | RunState::Ended { .. }, _) if expired => Remove(Ground::Expired),
        (RunState::Interrupted, _) if scope.interrupted => Remove(Ground::GivenUp),
        (RunState::Interrupted, _) => Leave(Stay::Interrupted),
        (RunState::Ended { .. } | RunState::Unknown, Holder::Alive) => Leave(Stay::InUse),
        (RunState::Ended { kept: true }, _) if !scope.kept => Leave(Stay::Kept),
        (RunState::Ended { .. } | RunState::Unknown, Holder::Dead) => Remove(Ground::HolderGone),
        (_, Holder::Unknown) if expired => Remove(Ground::Expired),
        (_, Holder::Unknown) => Leave(Stay::NotExpired),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDED: RunState = RunState::Ended { kept: false };
    const KEPT: RunState = RunState::Ended { kept: true };
    const NOTHING_MORE: Scope = Scope {
        any_owner: false,
        interrupted: false,
        kept: false,
    };

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// What becomes of an object of `owner` that has expired or not.
    fn decided(
        owner: Option<&str>,
        expired: bool,
        (run, holder): (RunState, Holder),
        scope: Scope,
    ) -> Result<Ground, Stay> {
        let facts = Facts {
            owner,
            expires_at: Some(at(match expired {
                true => "2026-01-01T00:00:00Z",
                false => "2026-01-03T00:00:00Z",
            })),
            run,
            holder,
        };
        let own = OwnerId::new("ours").unwrap();
        match decide(&facts, &own, scope, at("2026-01-02T00:00:00Z")) {
            Decision::Remove(ground) => Ok(ground),
            Decision::Leave(stay) => Err(stay),
        }
    }

    fn ours(expired: bool, run: RunState, holder: Holder, scope: Scope) -> Result<Ground, Stay> {
        decided(Some("ours"), expired, (run, holder), scope)
    }

    #[test]
    fn without_a_record_of_its_run_an_object_goes_with_its_holder_or_at_its_time() {
        let unknown = |expired, holder| ours(expired, RunState::Unknown, holder, NOTHING_MORE);
        assert_eq!(unknown(false, Holder::Alive), Err(Stay::InUse));
        assert_eq!(unknown(true, Holder::Alive), Err(Stay::InUse));
        assert_eq!(unknown(false, Holder::Dead), Ok(Ground::HolderGone));
        assert_eq!(unknown(false, Holder::Unknown), Err(Stay::NotExpired));
        assert_eq!(unknown(true, Holder::Unknown), Ok(Ground::Expired));
    }

    #[test]
    fn what_a_live_run_has_stays_whoever_made_it_and_whenever() {
        let everything = Scope {
            any_owner: true,
            interrupted: true,
            kept: true,
        };
        for holder in [Holder::Alive, Holder::Dead, Holder::Unknown] {
            let found = ours(true, RunState::Live, holder, everything);
            assert_eq!(found, Err(Stay::InUse), "{holder:?}");
        }
    }

    #[test]
    fn what_an_interrupted_run_left_goes_only_when_it_is_given_up_or_at_its_time() {
        let interrupted =
            |expired, scope| ours(expired, RunState::Interrupted, Holder::Dead, scope);
        assert_eq!(interrupted(false, NOTHING_MORE), Err(Stay::Interrupted));
        assert_eq!(interrupted(true, NOTHING_MORE), Ok(Ground::Expired));
        let given_up = Scope {
            interrupted: true,
            ..NOTHING_MORE
        };
        assert_eq!(interrupted(false, given_up), Ok(Ground::GivenUp));
        let kept = Scope {
            kept: true,
            ..NOTHING_MORE
        };
        assert_eq!(interrupted(false, kept), Err(Stay::Interrupted));
    }

    #[test]
    fn what_a_run_that_ended_left_goes_once_its_process_has() {
        let ended = |expired, holder| ours(expired, ENDED, holder, NOTHING_MORE);
        assert_eq!(ended(false, Holder::Dead), Ok(Ground::HolderGone));
        assert_eq!(ended(false, Holder::Alive), Err(Stay::InUse));
        assert_eq!(ended(false, Holder::Unknown), Err(Stay::NotExpired));
        for holder in [Holder::Alive, Holder::Dead, Holder::Unknown] {
            assert_eq!(ended(true, holder), Ok(Ground::Expired));
        }
    }

    #[test]
    fn what_is_kept_stays_until_it_is_asked_for_or_expires() {
        let kept = |expired, scope| ours(expired, KEPT, Holder::Dead, scope);
        let asked = Scope {
            kept: true,
            ..NOTHING_MORE
        };
        assert_eq!(kept(false, NOTHING_MORE), Err(Stay::Kept));
        assert_eq!(kept(true, NOTHING_MORE), Ok(Ground::Expired));
        assert_eq!(kept(false, asked), Ok(Ground::HolderGone));
    }

    #[test]
    fn what_others_own_stays_unless_it_has_expired_and_was_asked_for() {
        let any = Scope {
            any_owner: true,
            interrupted: true,
            kept: true,
        };
        let theirs = |owner, expired, holder, scope| {
            decided(owner, expired, (RunState::Unknown, holder), scope)
        };
        let foreign = Some("theirs");
        for (owner, expired, holder, scope) in [
            (foreign, true, Holder::Dead, NOTHING_MORE),
            (foreign, false, Holder::Dead, any),
            (foreign, true, Holder::Alive, any),
            (None, true, Holder::Dead, any),
        ] {
            let found = theirs(owner, expired, holder, scope);
            assert_eq!(found, Err(Stay::Foreign), "{owner:?} {expired} {holder:?}");
        }
        let gone = theirs(foreign, true, Holder::Dead, any);
        assert_eq!(gone, Ok(Ground::Expired));
    }

    #[test]
    fn a_run_that_has_not_ended_is_what_its_latest_process_is() {
        let patience = std::time::Duration::from_secs(1);
        for (process, state) in [
            (Standing::Live, RunState::Live),
            (Standing::Unknown { patience }, RunState::Live),
            (Standing::Interrupted, RunState::Interrupted),
        ] {
            assert_eq!(RunState::of(false, process), state);
            assert_eq!(RunState::of(true, process), ENDED);
        }
    }
}
