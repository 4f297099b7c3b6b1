//! Why mmdebstrap failed, read from the last lines of its output.

use std::collections::VecDeque;

/// How many lines of output are kept for an error.
const KEPT_LINES: usize = 20;

/// Why a bootstrap failed, as far as its output tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureCause {
    /// The disk is full.
    NoSpace,
    /// The mirror does not have the suite.
    SuiteNotServed,
    /// The suite is signed by a key this machine does not know.
    KeyMissing,
    /// The mirror does not answer.
    MirrorUnreachable,
    /// The suite does not have a package.
    PackageMissing,
    /// The user may not make a root file system.
    NotPermitted,
    /// Something else.
    Unknown,
}

impl FailureCause {
    /// What a person can do about it.
    #[must_use]
    pub const fn hint(self) -> Option<&'static str> {
        match self {
            Self::NoSpace => Some(
                "an image takes about 3 GB while it is made: free space, or set the work directory",
            ),
            Self::SuiteNotServed => Some(
                "the mirror of this machine does not serve that suite: name another mirror in the settings",
            ),
            Self::KeyMissing => Some(
                "the suite is newer than the machine's keys: upgrade the package debian-archive-keyring",
            ),
            Self::MirrorUnreachable => Some("check that `apt-get update` works on this machine"),
            Self::PackageMissing => {
                Some("use a mirror with the whole of the suite's main component")
            }
            Self::NotPermitted => Some(
                "run as root, or install uidmap, have ranges in /etc/subuid and /etc/subgid, and \
                 allow unprivileged user namespaces",
            ),
            Self::Unknown => None,
        }
    }

    /// What the last lines of mmdebstrap's output say.
    #[must_use]
    pub fn of<'a>(lines: impl IntoIterator<Item = &'a str>) -> Self {
        // A full disk or a missing key shows as a failed download too, so the first match wins.
        const SIGNS: &[(FailureCause, &[&str])] = &[
            (FailureCause::NoSpace, &["No space left on device"]),
            (
                FailureCause::KeyMissing,
                &["NO_PUBKEY", "EXPKEYSIG", "is not signed"],
            ),
            (
                FailureCause::SuiteNotServed,
                &["does not have a Release file"],
            ),
            (
                FailureCause::MirrorUnreachable,
                &[
                    "Could not resolve",
                    "Could not connect",
                    "Unable to connect",
                    "timed out",
                ],
            ),
            (
                FailureCause::PackageMissing,
                &["Unable to locate package", "no installation candidate"],
            ),
            (
                FailureCause::NotPermitted,
                &[
                    "need to be root",
                    "newuidmap",
                    "newgidmap",
                    "subuid",
                    "subgid",
                    "unshare",
                ],
            ),
        ];
        let lines: Vec<&str> = lines.into_iter().collect();
        let shown = |sign: &&str| lines.iter().any(|line| line.contains(*sign));
        SIGNS
            .iter()
            .find(|(_, signs)| signs.iter().any(&shown))
            .map_or(Self::Unknown, |(cause, _)| *cause)
    }
}

/// The end of a program's output.
#[derive(Debug, Default)]
pub(crate) struct Tail(VecDeque<String>);

impl Tail {
    /// Adds a line and forgets the oldest one over the limit.
    pub(crate) fn push(&mut self, line: String) {
        if self.0.len() == KEPT_LINES {
            self.0.pop_front();
        }
        self.0.push_back(line);
    }

    /// The lines, oldest first.
    pub(crate) fn lines(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// The lines as they go into an error.
    pub(crate) fn into_lines(self) -> Vec<String> {
        self.0.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Real output, with the names of hosts replaced.
    const CASES: &[(FailureCause, &str)] = &[
        (
            FailureCause::SuiteNotServed,
            "E: The repository 'http://mirror.example/debian nosuch Release' does not have a \
             Release file.",
        ),
        (
            FailureCause::MirrorUnreachable,
            "E: Failed to fetch http://mirror.example/debian/dists/trixie/InRelease  Could not \
             resolve 'mirror.example'",
        ),
        (
            FailureCause::KeyMissing,
            "W: GPG error: http://mirror.example/debian trixie InRelease: The following signatures \
             couldn't be verified because the public key is not available: NO_PUBKEY 78DBA3BC47EF2265",
        ),
        (
            FailureCause::PackageMissing,
            "E: Unable to locate package nosuchpackage",
        ),
        (FailureCause::NotPermitted, "E: need to be root"),
        (FailureCause::Unknown, "E: mmdebstrap failed to run"),
    ];

    #[test]
    fn each_known_failure_is_told_by_its_line() {
        for (cause, line) in CASES {
            let lines = [
                "I: running apt-get update...",
                line,
                "E: mmdebstrap failed to run",
            ];
            assert_eq!(FailureCause::of(lines), *cause, "{line}");
            assert_eq!(cause.hint().is_none(), *cause == FailureCause::Unknown);
        }
    }

    #[test]
    fn a_full_disk_is_not_taken_for_a_failed_download() {
        let lines = [
            "E: Failed to fetch http://mirror.example/Packages  Write error - write (28: No space \
             left on device)",
            "E: Could not connect to mirror.example",
        ];
        assert_eq!(FailureCause::of(lines), FailureCause::NoSpace);
    }

    #[test]
    fn only_the_end_of_the_output_is_kept() {
        let mut tail = Tail::default();
        for number in 0..100 {
            tail.push(number.to_string());
        }
        assert_eq!(tail.lines().count(), KEPT_LINES);
        assert_eq!(tail.into_lines().last().map(String::as_str), Some("99"));
    }
}
