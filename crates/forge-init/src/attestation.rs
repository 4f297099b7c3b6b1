//! What PID 1 sees of its confinement, gathered once, before it listens.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, UdpSocket};

use forge_wire::message::Attested;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::mounts::{self, Mount};

/// The mode of this process now.
pub(crate) fn seccomp_mode() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status_number(&status, "Seccomp", 10)
        .and_then(|mode| u32::try_from(mode).ok())
        .unwrap_or(0)
}

/// Looks at everything there is to attest besides the mode that the engine set.
pub(crate) fn gather(seccomp_mode: u32) -> Attested {
    let text = |path| std::fs::read_to_string(path).unwrap_or_default();
    let status = text("/proc/self/status");
    let mounts = mounts::parse(&text("/proc/self/mountinfo"));
    let number = |key, radix| status_number(&status, key, radix);
    Attested {
        // A value that cannot be read must not look like a safe one.
        capabilities: number("CapEff", 16).unwrap_or(u64::MAX),
        bounding_capabilities: number("CapBnd", 16).unwrap_or(u64::MAX),
        no_new_privileges: has_no_new_privileges(number("NoNewPrivs", 10)),
        seccomp_mode,
        uid: nix::unistd::geteuid().as_raw(),
        gid: nix::unistd::getegid().as_raw(),
        interfaces: interfaces(&text("/proc/net/dev")),
        routes: count_routes(&text("/proc/net/route"), &text("/proc/net/ipv6_route")),
        read_only_root: mounts
            .iter()
            .rfind(|mount| mount.point == "/")
            .is_some_and(|mount| !mount.is_writable()),
        writable_mounts: writable_mounts(&mounts),
        read_only_mounts: read_only_mounts(&mounts),
        vsock_refused: vsock_is_refused(),
        metadata_unreachable: metadata_is_unreachable(),
        // Set when the settings come.
        network_served: false,
        network_failure: None,
        kernel: kernel(),
        own_threads: own_threads(&status),
    }
}

/// Whether it is set: as the file says, or, where a kernel's file does not name it, as the kernel
/// says when it is asked.
fn has_no_new_privileges(line: Option<u64>) -> bool {
    match line {
        Some(value) => value == 1,
        None => nix::sys::prctl::get_no_new_privs().unwrap_or(false),
    }
}

fn kernel() -> String {
    let name = nix::sys::utsname::uname();
    // One that does not say has none.
    let release = name.ok().map(|name| name.release().to_owned());
    release.unwrap_or_default().to_string_lossy().into_owned()
}

/// Threads of this process.
fn own_threads(status: &str) -> u32 {
    status_number(status, "Threads", 10)
        .and_then(|count| u32::try_from(count).ok())
        .unwrap_or(0)
}

/// Signals that this process ignores, which a program started by it would ignore as well.
pub(crate) fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status_number(&status, "SigIgn", 16).unwrap_or(0)
}

fn status_number(status: &str, key: &str, radix: u32) -> Option<u64> {
    let value = status
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    u64::from_str_radix(value.trim(), radix).ok()
}

fn interfaces(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, _)| name.trim().to_owned())
        .collect()
}

/// Routes that lead anywhere but to this sandbox itself.
fn count_routes(version_four: &str, version_six: &str) -> u32 {
    let four = version_four
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next())
        .filter(|interface| *interface != "lo")
        .count();
    let six = version_six
        .lines()
        .filter_map(|line| line.split_whitespace().last())
        .filter(|interface| *interface != "lo")
        .count();
    u32::try_from(four + six).unwrap_or(u32::MAX)
}

/// Writable mount points, without those through which the kernel is spoken to.
fn writable_mounts(mounts: &[Mount]) -> Vec<String> {
    const KERNEL: [&str; 6] = ["proc", "sysfs", "devpts", "mqueue", "cgroup", "cgroup2"];
    mounts
        .iter()
        .filter(|mount| mount.is_writable())
        .filter(|mount| !KERNEL.contains(&mount.kind.as_str()))
        .filter(|mount| mount.point != "/dev" && mount.point != "/sys/fs/cgroup")
        // Engines hide files of /proc behind the null device.
        .filter(|mount| !(mount.root == "/null" && mount.point.starts_with("/proc/")))
        .map(|mount| mount.point.clone())
        .collect()
}

/// Read-only mount points at which nothing else is found, without the root and what the kernel or
/// engines put over parts of its file systems.
fn read_only_mounts(mounts: &[Mount]) -> Vec<String> {
    let of_kernel = |point: &str| {
        let mut parts = point.split('/').skip(1);
        matches!(parts.next(), Some("proc" | "sys" | "dev" | ""))
    };
    let is_covered = |(number, mount): &(usize, &Mount)| {
        let later = mounts.iter().skip(number + 1);
        later.map(|other| &other.point).any(|above| {
            let below = mount.point.strip_prefix(above.as_str());
            below.is_some_and(|rest| above == "/" || rest.is_empty() || rest.starts_with('/'))
        })
    };
    mounts
        .iter()
        .enumerate()
        .filter(|(_, mount)| !mount.is_writable() && !of_kernel(&mount.point))
        .filter(|numbered| !is_covered(numbered))
        .map(|(_, mount)| mount.point.clone())
        .collect()
}

fn vsock_is_refused() -> bool {
    socket(
        AddressFamily::Vsock,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .is_err()
}

/// Whether the kernel knows no way to the address at which clouds tell a machine its secrets.
/// Nothing is sent: a datagram's socket is only told where it would send to.
fn metadata_is_unreachable() -> bool {
    const METADATA: (Ipv4Addr, u16) = (Ipv4Addr::new(169, 254, 169, 254), 80);
    UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).is_ok_and(|socket| {
        let connected = socket.connect(METADATA);
        // The second is what gVisor's network says where it has no route.
        connected.is_err_and(|error| {
            let kind = error.kind();
            matches!(
                kind,
                ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable
            )
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_the_status_file() {
        let status = "Name:\tx\nCapEff:\t00000000a80425fb\nSeccomp:\t2\nSeccomp_filters:\t1\n";
        assert_eq!(status_number(status, "CapEff", 16), Some(0xa804_25fb));
        assert_eq!(status_number(status, "Seccomp", 10), Some(2));
        assert_eq!(status_number(status, "CapBnd", 16), None);
    }

    #[test]
    fn interfaces_and_routes_beyond_loopback() {
        let devices = "Inter-| Receive\n face |bytes\n    lo: 0 0\n  eth0: 1 1\n";
        assert_eq!(interfaces(devices), ["lo", "eth0"]);
        let four = "Iface\tDestination\neth0\t00000000\nlo\t0000007F\n";
        let six = "00 00 00 00 lo\nfe80 40 00 00 eth0\n";
        assert_eq!(count_routes(four, six), 2);
        assert_eq!(count_routes("", ""), 0);
    }

    #[test]
    fn mounts_of_the_kernel_are_left_out() {
        let mounts = mounts::parse(
            "1 0 0:1 / / ro - overlay overlay rw\n\
             2 1 0:2 / /proc rw - proc proc rw\n\
             3 1 0:3 / /dev rw - tmpfs tmpfs rw\n\
             4 3 0:3 /null /proc/keys rw - tmpfs tmpfs rw\n\
             5 1 0:4 / /tmp rw - tmpfs tmpfs rw\n\
             6 1 0:5 / /workspace rw - ext4 /dev/loop0 rw\n",
        );
        assert_eq!(writable_mounts(&mounts), ["/tmp", "/workspace"]);
    }

    #[test]
    fn a_read_only_mount_under_a_later_one_counts_for_nothing() {
        let text = "1 0 0:1 / / ro - overlay overlay rw\n\
             2 1 0:2 / /proc ro - proc proc rw\n\
             3 1 0:3 / /sys/firmware ro - tmpfs tmpfs ro\n\
             5 1 0:4 / /tmp rw - tmpfs tmpfs rw\n\
             6 1 0:5 / /workspace rw - ext4 /dev/loop0 rw\n\
             7 6 0:6 /a /workspace/tests ro,relatime - ext4 /dev/sda rw\n\
             8 6 0:6 /b /workspace/.swe-forge ro - ext4 /dev/sda rw\n";
        let found = |more: &str| read_only_mounts(&mounts::parse(&format!("{text}{more}")));
        let both = ["/workspace/tests", "/workspace/.swe-forge"];
        assert_eq!(found(""), both);
        assert_eq!(
            found("9 6 0:7 / /workspace/testsuite rw - tmpfs t rw\n"),
            both
        );
        assert_eq!(
            found("9 7 0:7 / /workspace/tests rw - tmpfs t rw\n"),
            both[1..]
        );
        assert!(found("9 6 0:7 / /workspace rw - tmpfs t rw\n").is_empty());
    }
}
