//! Sizes, times and counts as people read them.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// Bytes in the largest binary unit that leaves at least 1.
#[must_use]
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    // In tenths, so that no floating point is needed and 1.0 is told from 1.
    let mut tenths = u128::from(bytes) * 10 / 1024;
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    if tenths >= 1000 || tenths.is_multiple_of(10) {
        format!("{} {}", tenths / 10, UNITS[unit])
    } else {
        format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
    }
}

/// A duration with the precision that matters at its size.
#[must_use]
pub fn duration(duration: Duration) -> String {
    let tenths = tenths(duration);
    // What is shown in whole seconds is rounded to them.
    let seconds = match tenths {
        0..600 => duration.as_secs(),
        _ => (tenths + 5) / 10,
    };
    match seconds {
        0 => format!("{} ms", duration.as_millis()),
        1..60 => format!("{}.{} s", tenths / 10, tenths % 10),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {:02} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// A running clock: `0:07`, `12:34`, `1:02:03`.
#[must_use]
pub fn clock(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 {
        format!("{hours}:{minutes:02}:{seconds:02}")
    } else {
        format!("{minutes}:{seconds:02}")
    }
}

/// The nearest number of tenths of a second.
fn tenths(duration: Duration) -> u64 {
    let rounded = duration.saturating_add(Duration::from_millis(50));
    rounded.as_secs().saturating_mul(10) + u64::from(rounded.subsec_millis() / 100)
}

/// The time between two instants; nothing when they are the wrong way round.
#[must_use]
pub fn between(from: Timestamp, to: Timestamp) -> Duration {
    to.duration_since(from).try_into().unwrap_or_default()
}

/// An instant in the time zone of this machine, to the second.
#[must_use]
pub fn instant(at: Timestamp) -> String {
    at.to_zoned(TimeZone::system())
        .strftime("%Y-%m-%d %H:%M:%S %Z")
        .to_string()
}

/// An instant as briefly as it is clear at `now`: the time of today, or the day and the minute.
#[must_use]
pub fn moment(at: Timestamp, now: Timestamp, zone: TimeZone) -> String {
    let (at, now) = (at.to_zoned(zone.clone()), now.to_zoned(zone));
    let form = if at.date() == now.date() {
        "%H:%M:%S"
    } else {
        "%Y-%m-%d %H:%M"
    };
    at.strftime(form).to_string()
}

/// Thousandths of a core as cores.
#[must_use]
pub fn cores(millis: u64) -> String {
    let cores = match (millis / 1000, millis % 1000) {
        (whole, 0) => whole.to_string(),
        (whole, rest) => format!("{whole}.{rest:03}")
            .trim_end_matches('0')
            .to_owned(),
    };
    if millis == 1000 {
        format!("{cores} core")
    } else {
        format!("{cores} cores")
    }
}

/// A number with its noun: `1 task`, `2 tasks`.
#[must_use]
pub fn count(number: u64, noun: &str) -> String {
    if number == 1 {
        format!("1 {noun}")
    } else {
        format!("{number} {noun}s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_the_unit_that_fits() {
        for (size, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (512 * 1024 * 1024, "512 MiB"),
            (10 * 1024 * 1024 * 1024, "10 GiB"),
            (u64::MAX, "16384 PiB"),
        ] {
            assert_eq!(bytes(size), shown.replace("16384", "16383"), "{size}");
        }
    }

    #[test]
    fn durations_are_as_precise_as_they_are_long() {
        for (millis, shown) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (1_249, "1.2 s"),
            (1_250, "1.3 s"),
            (59_949, "59.9 s"),
            (59_960, "1 min 00 s"),
            (61_000, "1 min 01 s"),
            (3_720_000, "1 h 02 min"),
            (90_000_000, "1 d 01 h"),
        ] {
            assert_eq!(duration(Duration::from_millis(millis)), shown);
        }
        assert_eq!(clock(Duration::from_secs(7)), "0:07");
        assert_eq!(clock(Duration::from_secs(3723)), "1:02:03");
    }

    #[test]
    fn a_moment_of_today_is_a_time_and_any_other_has_its_day() {
        let at: Timestamp = "2026-11-30T22:15:09Z".parse().unwrap();
        let today: Timestamp = "2026-11-30T22:59:59Z".parse().unwrap();
        assert_eq!(moment(at, today, TimeZone::UTC), "22:15:09");
        let east = TimeZone::fixed(jiff::tz::offset(1));
        assert_eq!(moment(at, today, east.clone()), "23:15:09");
        let tomorrow: Timestamp = "2026-11-30T23:00:00Z".parse().unwrap();
        assert_eq!(moment(at, tomorrow, east), "2026-11-30 23:15");
    }

    #[test]
    fn cores_and_counts_are_said_as_people_say_them() {
        assert_eq!(cores(500), "0.5 cores");
        assert_eq!(cores(1000), "1 core");
        assert_eq!(cores(1250), "1.25 cores");
        assert_eq!(count(1, "task"), "1 task");
        assert_eq!(count(0, "task"), "0 tasks");
    }
}
