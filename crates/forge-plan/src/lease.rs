//! Whether the process that drives a run is gone, so that another may take the run over.
//!
//! A process of this machine can be looked up. One of another machine, or of a container of its own,
//! cannot: it shows every few seconds that it lives, and one that has not for long enough is taken
//! to be gone. Should it not be, the epoch that every take-over moves on keeps it from doing harm.

use std::time::Duration;

use jiff::Timestamp;

use crate::reaper::Holder;

/// How long after its last sign of life a process counts as living: several of the intervals in
/// which it gives one.
pub const LEASE: Duration = Duration::from_secs(30);

/// How the run of a process stands that has not ended it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The process lives.
    Live,
    /// It is gone.
    Interrupted,
    /// It cannot be seen, and counts as living for so long.
    Unknown {
        /// How long.
        patience: Duration,
    },
}

/// How a run stands whose holder looks so, and gave its last sign of life at `renewed_at`.
#[must_use]
pub fn standing(holder: Holder, renewed_at: Option<Timestamp>, now: Timestamp) -> Standing {
    match holder {
        Holder::Alive => Standing::Live,
        Holder::Dead => Standing::Interrupted,
        Holder::Unknown => {
            let silent = renewed_at.map(|at| now.duration_since(at));
            // A clock that was set back says nothing about how long ago it was.
            let silent = silent.map(|silent| Duration::try_from(silent).unwrap_or_default());
            match silent.and_then(|silent| LEASE.checked_sub(silent)) {
                Some(patience) if !patience.is_zero() => Standing::Unknown { patience },
                _ => Standing::Interrupted,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_can_be_seen_needs_no_sign_of_life_and_who_cannot_has_some_time() {
        let now: Timestamp = "2026-01-02T00:01:00Z".parse().unwrap();
        let at = |text: &str| Some(text.parse::<Timestamp>().unwrap());
        let long_ago = at("2026-01-01T00:00:00Z");
        assert_eq!(standing(Holder::Alive, long_ago, now), Standing::Live);
        assert_eq!(
            standing(Holder::Dead, Some(now), now),
            Standing::Interrupted
        );
        let unknown = |renewed_at| standing(Holder::Unknown, renewed_at, now);
        assert_eq!(unknown(long_ago), Standing::Interrupted);
        assert_eq!(unknown(None), Standing::Interrupted);
        let patience = Duration::from_secs(10);
        assert_eq!(
            unknown(at("2026-01-02T00:00:40Z")),
            Standing::Unknown { patience }
        );
        assert_eq!(unknown(at("2026-01-02T00:00:30Z")), Standing::Interrupted);
        let later = unknown(at("2026-01-03T00:00:00Z"));
        assert_eq!(later, Standing::Unknown { patience: LEASE });
    }
}
