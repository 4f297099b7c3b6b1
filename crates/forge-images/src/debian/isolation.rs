//! How mmdebstrap is kept from leaving mounts behind on the machine.

use std::ffi::OsString;
use std::process::Stdio;

use tokio::process::Command;

/// The program that gives another one mounts of its own.
const UNSHARE: &[&str] = &["unshare", "--mount", "--propagation", "private", "--"];

/// What surrounds a run of mmdebstrap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Root with mounts of its own. As root, mmdebstrap mounts `/proc`, `/sys` and parts of `/dev`
    /// where the whole machine sees it, and a run that is ended early can leave them there.
    PrivateMounts,
    /// Root that may not mount, as in a container; mmdebstrap then does without.
    NoMounts,
    /// A user namespace, which mmdebstrap makes by itself for anyone but root.
    UserNamespace,
}

impl Isolation {
    /// What this process may do.
    pub async fn detect() -> Self {
        if !nix::unistd::geteuid().is_root() {
            return Self::UserNamespace;
        }
        let probe = Command::new(UNSHARE[0])
            .args(&UNSHARE[1..])
            .arg("true")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .await;
        if probe.is_ok_and(|status| status.success()) {
            Self::PrivateMounts
        } else {
            Self::NoMounts
        }
    }

    /// mmdebstrap's own name for it.
    #[must_use]
    pub const fn mode(self) -> &'static str {
        match self {
            Self::PrivateMounts | Self::NoMounts => "root",
            Self::UserNamespace => "unshare",
        }
    }

    /// The command line that starts `program` this way.
    #[must_use]
    pub fn command_line(self, program: &str) -> Vec<OsString> {
        let before = if self == Self::PrivateMounts {
            UNSHARE
        } else {
            &[]
        };
        before
            .iter()
            .copied()
            .chain([program])
            .map(OsString::from)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_root_that_may_mount_gets_mounts_of_its_own() {
        let line = |isolation: Isolation| isolation.command_line("mmdebstrap");
        assert_eq!(line(Isolation::PrivateMounts)[0], "unshare");
        assert_eq!(line(Isolation::PrivateMounts).last().unwrap(), "mmdebstrap");
        assert_eq!(line(Isolation::NoMounts), ["mmdebstrap"]);
        assert_eq!(line(Isolation::UserNamespace), ["mmdebstrap"]);
    }
}
