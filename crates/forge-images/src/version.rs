//! Versions of packages: what upstream calls them, and whether they will do.

use std::cmp::Ordering;
use std::fmt;

/// Which versions of a tool will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requirement {
    /// This one or a later one.
    AtLeast(&'static str),
    /// This one or any patch of it: `3.11` admits `3.11.2`, not `3.12`.
    Series(&'static str),
}

impl Requirement {
    /// Whether `version`, as upstream writes it, will do.
    #[must_use]
    pub fn admits(self, version: &str) -> bool {
        match self {
            Self::AtLeast(minimum) => compare(version, minimum) != Ordering::Less,
            Self::Series(series) => {
                let wanted = numbers(series);
                numbers(version).get(..wanted.len()) == Some(wanted.as_slice())
            }
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(minimum) => write!(formatter, "{minimum} or later"),
            Self::Series(series) => write!(formatter, "{series}"),
        }
    }
}

/// The upstream part of a Debian version: `4:14.2.0-1` is `14.2.0`.
///
/// An archive's additions (`+dfsg1`, `~ds1`, `~bpo12+1`) are its own and say nothing about the tool.
#[must_use]
pub fn upstream(debian: &str) -> &str {
    let without_epoch = debian.split_once(':').map_or(debian, |(_, rest)| rest);
    let without_revision = without_epoch
        .rsplit_once('-')
        .map_or(without_epoch, |(rest, _)| rest);
    let end = without_revision
        .find(['+', '~'])
        .unwrap_or(without_revision.len());
    &without_revision[..end]
}

fn compare(left: &str, right: &str) -> Ordering {
    let (left, right) = (numbers(left), numbers(right));
    let length = left.len().max(right.len());
    let part = |numbers: &[u64], index: usize| numbers.get(index).copied().unwrap_or(0);
    (0..length)
        .map(|index| part(&left, index).cmp(&part(&right, index)))
        .find(|ordering| ordering.is_ne())
        .unwrap_or(Ordering::Equal)
}

fn numbers(version: &str) -> Vec<u64> {
    version
        .split('.')
        .map(|part| {
            let digits = part
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(part.len());
            part[..digits].parse().unwrap_or(0)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_additions_are_not_part_of_the_upstream_version() {
        let cases = [
            ("20.19.2+dfsg-1+deb13u3", "20.19.2"),
            ("1.85.1+dfsg1-1+deb13u1", "1.85.1"),
            ("9.2.0~ds1-3", "9.2.0"),
            ("2:1.24~2", "1.24"),
            ("4:14.2.0-1", "14.2.0"),
            ("3.11.2-1+b1", "3.11.2"),
            ("1:2.47.3-0+deb13u1", "2.47.3"),
        ];
        for (debian, expected) in cases {
            assert_eq!(upstream(debian), expected, "{debian}");
        }
    }

    #[test]
    fn a_minimum_compares_numbers_and_not_text() {
        let minimum = Requirement::AtLeast("1.75");
        assert!(minimum.admits("1.75"));
        assert!(minimum.admits("1.75.0"));
        assert!(minimum.admits("1.100"));
        assert!(minimum.admits("2"));
        assert!(!minimum.admits("1.8"));
        assert!(!minimum.admits("1.63.0"));
        assert!(!minimum.admits(""));
    }

    #[test]
    fn a_series_admits_its_patches_only() {
        let series = Requirement::Series("3.11");
        assert!(series.admits("3.11"));
        assert!(series.admits("3.11.2"));
        assert!(!series.admits("3.110"));
        assert!(!series.admits("3.12.0"));
        assert!(!series.admits("3"));
    }
}
