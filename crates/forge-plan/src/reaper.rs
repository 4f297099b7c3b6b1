//! Which objects on an engine are left over and may be removed.

use forge_core::OwnerId;
use jiff::Timestamp;
use serde::Serialize;

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

/// The facts about one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts<'a> {
    /// Its owner label.
    pub owner: Option<&'a str>,
    /// When anyone may remove it.
    pub expires_at: Option<Timestamp>,
    /// What became of its holder.
    pub holder: Holder,
}

/// Why an object may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ground {
    /// The process that made it is gone.
    HolderGone,
    /// Its time is up.
    Expired,
}

/// Decides about one object: the ground for removing it, or `None` to leave it alone.
///
/// Objects of another installation are left alone unless `any_owner` is set, and even then until
/// they expire.
#[must_use]
pub fn decide(facts: &Facts<'_>, own: &OwnerId, any_owner: bool, now: Timestamp) -> Option<Ground> {
    let owner = facts.owner?;
    let expired = facts.expires_at.is_some_and(|expires_at| expires_at <= now);
    if owner == own.as_str() {
        return match facts.holder {
            Holder::Alive => None,
            Holder::Dead => Some(Ground::HolderGone),
            Holder::Unknown => expired.then_some(Ground::Expired),
        };
    }
    (any_owner && expired && facts.holder != Holder::Alive).then_some(Ground::Expired)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_surely_left_over_goes() {
        let own = OwnerId::new("ours").unwrap();
        let now: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        let past: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let future: Timestamp = "2026-01-03T00:00:00Z".parse().unwrap();
        let decide = |owner, expires_at, holder, any_owner| {
            let facts = Facts {
                owner,
                expires_at: Some(expires_at),
                holder,
            };
            decide(&facts, &own, any_owner, now)
        };
        let (ours, theirs) = (Some("ours"), Some("theirs"));
        assert_eq!(decide(ours, future, Holder::Alive, true), None);
        assert_eq!(decide(ours, past, Holder::Alive, true), None);
        assert_eq!(
            decide(ours, future, Holder::Dead, false),
            Some(Ground::HolderGone)
        );
        assert_eq!(decide(ours, future, Holder::Unknown, false), None);
        assert_eq!(
            decide(ours, past, Holder::Unknown, false),
            Some(Ground::Expired)
        );
        assert_eq!(decide(theirs, past, Holder::Dead, false), None);
        assert_eq!(decide(theirs, future, Holder::Dead, true), None);
        assert_eq!(
            decide(theirs, past, Holder::Dead, true),
            Some(Ground::Expired)
        );
        assert_eq!(decide(None, past, Holder::Dead, true), None);
    }
}
