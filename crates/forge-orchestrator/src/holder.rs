//! The name of an orchestrator process on labels, and whether a named process still runs.
//!
//! `<machine>:<boot>:<namespace>:<pid>:<start>`: machine and boot are shortened ids of the operating
//! system; the namespace is that of process ids, since a process cannot be looked up from another
//! one; start is the process's start in clock ticks since boot, so that a reused process id is not
//! taken for the holder.

use std::fs;

use forge_plan::reaper::Holder;

const MACHINE_FILES: [&str; 2] = ["/etc/machine-id", "/var/lib/dbus/machine-id"];
const BOOT_FILE: &str = "/proc/sys/kernel/random/boot_id";
const ABSENT: &str = "unknown";

/// The name of this process.
#[must_use]
pub fn this_process() -> String {
    let pid = std::process::id();
    let start = start_ticks(pid).unwrap_or_default();
    format!("{}:{}:{}:{pid}:{start}", machine(), boot(), namespace())
}

/// What became of the process that `name` names.
#[must_use]
pub fn look_up(name: &str) -> Holder {
    let mut parts = name.split(':');
    let (Some(their_machine), Some(their_boot), Some(their_space), Some(pid), Some(start), None) = (
        parts.next(),
        parts.next(),
        parts.next(),
        parts.next(),
        parts.next(),
        parts.next(),
    ) else {
        return Holder::Unknown;
    };
    let (Ok(pid), Ok(start)) = (pid.parse::<u32>(), start.parse::<u64>()) else {
        return Holder::Unknown;
    };
    if their_machine != machine() || their_machine == ABSENT || their_boot == ABSENT {
        return Holder::Unknown;
    }
    if their_boot == boot() && their_space != namespace() {
        return Holder::Unknown;
    }
    if their_boot == boot() && start_ticks(pid) == Some(start) {
        Holder::Alive
    } else {
        Holder::Dead
    }
}

fn machine() -> String {
    let id = MACHINE_FILES
        .iter()
        .find_map(|file| fs::read_to_string(file).ok());
    let host = || fs::read_to_string("/proc/sys/kernel/hostname").ok();
    short(
        id.filter(|id| !id.trim().is_empty())
            .or_else(host)
            .as_deref(),
    )
}

fn boot() -> String {
    short(fs::read_to_string(BOOT_FILE).ok().as_deref())
}

fn namespace() -> String {
    let link = fs::read_link("/proc/self/ns/pid").ok();
    let link = link.map(|link| link.display().to_string());
    let digits = link.map(|link| {
        link.chars()
            .filter(char::is_ascii_digit)
            .collect::<String>()
    });
    short(digits.as_deref())
}

fn short(text: Option<&str>) -> String {
    let kept: String = text
        .unwrap_or("")
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .take(12)
        .collect();
    if kept.is_empty() {
        ABSENT.to_owned()
    } else {
        kept
    }
}

fn start_ticks(pid: u32) -> Option<u64> {
    start_of(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Field 22 of `/proc/<pid>/stat`; the command name before it may hold spaces and brackets. `None`
/// for a process that has ended and whose parent has not taken note of it: it drives nothing.
fn start_of(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X" | "x") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_lives_and_its_double_does_not() {
        let name = this_process();
        assert_eq!(look_up(&name), Holder::Alive);
        assert_eq!(look_up(&format!("{name}1")), Holder::Dead);
    }

    #[test]
    fn a_process_that_nobody_has_buried_yet_is_dead() {
        let stat = |state: &str| {
            let rest = "1 1 1 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0";
            start_of(&format!("7 (a ) b) {state} {rest}"))
        };
        assert_eq!(stat("S"), Some(4711));
        assert_eq!(stat("Z"), None);
    }

    #[test]
    fn a_process_of_another_machine_is_not_judged() {
        let name = this_process();
        let (_, rest) = name.split_once(':').unwrap();
        assert_eq!(look_up(&format!("elsewhere:{rest}")), Holder::Unknown);
        assert_eq!(look_up("nonsense"), Holder::Unknown);
    }
}
