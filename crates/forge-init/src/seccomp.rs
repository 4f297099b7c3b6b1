//! A filter of system calls of our own, on top of the engine's, for PID 1 and all it starts.
//!
//! It keeps the programs of a task, which have PID 1's user, from reaching into each other and into
//! PID 1: a program under test must not be able to write the exit code of the command that tests
//! it, nor slow down or starve the process that enforces its deadline. It also closes the kinds of
//! sockets that no network namespace confines, and interfaces that kernels were broken through.
//!
//! PID 1's threads are told apart by their ids, so all of them are started before the filter is made,
//! and none later. Which ids they have differs: the engine's runtime uses up some before PID 1 is
//! what it is.
//!
//! Programs of another architecture than the machine's are ended: their system calls have other
//! numbers.
//!
//! Where programs can fill a disk that is not theirs alone, a second filter keeps them from reserving
//! room there without writing: gigabytes are reserved within a millisecond, faster than anybody could
//! look. Programs are told that the file system cannot do it, and write instead.

use std::collections::BTreeMap;
use std::io;

use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// Sockets to the hypervisor and to the kernel's cipher interface.
const FAMILIES: [libc::c_int; 2] = [libc::AF_VSOCK, libc::AF_ALG];
/// `ioprio_set` for a process, a group, or all of a user (include/linux/ioprio.h).
const IOPRIO_WHO: [u64; 3] = [1, 2, 3];
/// The bit of a system call by the x32 interface, and the calls with numbers of their own there.
#[cfg(target_arch = "x86_64")]
const X32: i64 = 0x4000_0000;
#[cfg(target_arch = "x86_64")]
const X32_ONLY: [i64; 3] = [X32 | 521, X32 | 539, X32 | 540];

/// Refused in whatever form.
const REFUSED: [i64; 15] = [
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_userfaultfd,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
];

/// Refused when their first argument names PID 1 or a thread of it.
const NOT_FOR_PID_1: [i64; 8] = [
    libc::SYS_prlimit64,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    libc::SYS_pidfd_open,
    libc::SYS_sched_setscheduler,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setattr,
    libc::SYS_sched_setaffinity,
];

/// Modes of `fallocate` that give room back: `PUNCH_HOLE` with `KEEP_SIZE`, and `COLLAPSE_RANGE`.
const GIVING_BACK: [u64; 2] = [0x3, 0x8];
/// The same by `ioctl`: calls of XFS, most of which the kernel serves for every file system
/// (`FS_IOC_RESVSP`, `FS_IOC_RESVSP64`, `FS_IOC_ZERO_RANGE`, `XFS_IOC_ALLOCSP` and its like), and
/// the one that sets how much each write reserves (`FS_IOC_FSSETXATTR`).
const RESERVING: [u8; 8] = [40, 42, 57, 10, 11, 36, 37, 32];
/// The part of an `ioctl`'s number that says whose it is and which; above it stands a size.
const IOCTL: u64 = 0xffff;
/// `ioctl` by the x32 interface.
#[cfg(target_arch = "x86_64")]
const X32_IOCTL: i64 = X32 | 514;

/// Puts the filter on all threads of this process and on all that they start from now on.
pub(crate) fn confine() -> io::Result<()> {
    let program = program(highest_own_thread()?).map_err(io::Error::other)?;
    seccompiler::apply_filter_all_threads(&program).map_err(io::Error::other)
}

/// Keeps all threads of this process, and all that they start from now on, from reserving room on a
/// disk without writing.
pub(crate) fn refuse_reserving() -> io::Result<()> {
    let program = against_reserving().map_err(io::Error::other)?;
    seccompiler::apply_filter_all_threads(&program).map_err(io::Error::other)
}

/// The highest id that a thread of this process has. The kernel gives out ids in rising order, and
/// when it begins anew, none that a process could have had so early: those below are nobody else's.
fn highest_own_thread() -> io::Result<u64> {
    let mut highest = None;
    for entry in std::fs::read_dir("/proc/self/task")? {
        let id = entry?.file_name().to_str().and_then(|id| id.parse().ok());
        highest = highest.max(id);
    }
    highest.ok_or_else(|| io::Error::other("the threads of this process cannot be listed"))
}

fn program(highest: u64) -> Result<BpfProgram, seccompiler::BackendError> {
    compile(rules(highest)?, libc::EPERM)
}

fn against_reserving() -> Result<BpfProgram, seccompiler::BackendError> {
    let mut allocating = Vec::new();
    for mode in GIVING_BACK {
        let length = SeccompCmpArgLen::Dword;
        let other = SeccompCondition::new(1, length, SeccompCmpOp::Ne, mode)?;
        allocating.push(other);
    }
    let mut controls = Vec::new();
    for number in RESERVING {
        let (length, of_xfs) = (SeccompCmpArgLen::Dword, u64::from(b'X') << 8);
        let number = of_xfs | u64::from(number);
        let same = SeccompCondition::new(1, length, SeccompCmpOp::MaskedEq(IOCTL), number)?;
        controls.push(SeccompRule::new(vec![same])?);
    }
    let allocating = vec![SeccompRule::new(allocating)?];
    let mut rules = BTreeMap::new();
    #[cfg(target_arch = "x86_64")]
    {
        rules.insert(libc::SYS_fallocate | X32, allocating.clone());
        rules.insert(X32_IOCTL, controls.clone());
    }
    rules.insert(libc::SYS_fallocate, allocating);
    rules.insert(libc::SYS_ioctl, controls);
    compile(rules, libc::EOPNOTSUPP)
}

/// A filter that answers what the rules name with an error, and lets the rest pass.
fn compile(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    errno: libc::c_int,
) -> Result<BpfProgram, seccompiler::BackendError> {
    let refusal = SeccompAction::Errno(errno.unsigned_abs());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refusal, architecture())?;
    BpfProgram::try_from(filter)
}

const fn architecture() -> TargetArch {
    #[cfg(target_arch = "aarch64")]
    return TargetArch::aarch64;
    #[cfg(target_arch = "x86_64")]
    return TargetArch::x86_64;
}

fn rules(highest: u64) -> Result<BTreeMap<i64, Vec<SeccompRule>>, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for call in REFUSED {
        rules.insert(call, Vec::new());
    }
    for call in NOT_FOR_PID_1 {
        rules.insert(call, vec![SeccompRule::new(names_pid_1(0, highest)?)?]);
    }
    let families =
        FAMILIES.map(|family| SeccompRule::new(vec![equal(0, u64::from(family.unsigned_abs()))?]));
    rules.insert(
        libc::SYS_socket,
        families.into_iter().collect::<Result<_, _>>()?,
    );
    // A priority can be set for a process, a group, or all processes of the user, PID 1 included.
    let mut priority = vec![SeccompRule::new(vec![equal(0, 2)?])?];
    for which in [0, 1] {
        let mut conditions = vec![equal(0, which)?];
        conditions.extend(names_pid_1(1, highest)?);
        priority.push(SeccompRule::new(conditions)?);
    }
    rules.insert(libc::SYS_setpriority, priority);
    let [process, group, user] = IOPRIO_WHO;
    let mut io_priority = vec![SeccompRule::new(vec![equal(0, user)?])?];
    for which in [process, group] {
        let mut conditions = vec![equal(0, which)?];
        conditions.extend(names_pid_1(1, highest)?);
        io_priority.push(SeccompRule::new(conditions)?);
    }
    rules.insert(libc::SYS_ioprio_set, io_priority);
    #[cfg(target_arch = "x86_64")]
    {
        let twins = rules
            .iter()
            .map(|(call, rules)| (call | X32, rules.clone()));
        let twins: Vec<_> = twins.collect();
        rules.extend(twins);
        rules.extend(X32_ONLY.map(|call| (call, Vec::new())));
    }
    Ok(rules)
}

/// Argument `index` is one of PID 1's thread ids; 0 means the caller itself.
fn names_pid_1(
    index: u8,
    highest: u64,
) -> Result<Vec<SeccompCondition>, seccompiler::BackendError> {
    let length = SeccompCmpArgLen::Dword;
    Ok(vec![
        SeccompCondition::new(index, length.clone(), SeccompCmpOp::Ne, 0)?,
        SeccompCondition::new(index, length, SeccompCmpOp::Le, highest)?,
    ])
}

fn equal(index: u8, value: u64) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(index, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;
    use std::fs::File;
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::MetadataExt;
    use std::process::Command;
    use std::sync::mpsc::{Receiver, channel};

    /// Puts the filter on this thread alone, as if `highest` were PID 1's highest thread id.
    fn confine_alone(highest: u64) {
        seccompiler::apply_filter(&program(highest).unwrap()).unwrap();
    }

    fn thread_id() -> i64 {
        // SAFETY: gettid takes nothing and cannot fail.
        unsafe { libc::syscall(libc::SYS_gettid) }
    }

    /// Every call that does something to the thread `id`, in a form that changes nothing.
    fn reach(id: i64) -> Vec<(&'static str, i64)> {
        let mut cores = [0_u64; 16];
        // Nice, by the ordinary policy: what the threads have already.
        let mut attributes = [0_u32; 12];
        attributes[0] = 48;
        let parameter = 0_i32;
        let cores_size = size_of_val(&cores);
        let (read, write) = (cores.as_mut_ptr(), cores.as_ptr());
        let (attributes, parameter) = (attributes.as_ptr(), &raw const parameter);
        // SAFETY: each pointer is to memory of this function and as large as the call takes it;
        // null pointers tell the kernel that nothing is set and nothing is asked for.
        unsafe {
            libc::syscall(libc::SYS_sched_getaffinity, 0, cores_size, read);
            [
                (
                    "prlimit64",
                    libc::syscall(libc::SYS_prlimit64, id, libc::RLIMIT_NOFILE, 0, 0),
                ),
                (
                    "sched_setscheduler",
                    libc::syscall(libc::SYS_sched_setscheduler, id, 0, parameter),
                ),
                (
                    "sched_setparam",
                    libc::syscall(libc::SYS_sched_setparam, id, parameter),
                ),
                (
                    "sched_setattr",
                    libc::syscall(libc::SYS_sched_setattr, id, attributes, 0),
                ),
                (
                    "sched_setaffinity",
                    libc::syscall(libc::SYS_sched_setaffinity, id, cores_size, write),
                ),
                (
                    "setpriority",
                    libc::syscall(libc::SYS_setpriority, 0, id, 0),
                ),
                ("ioprio_set", libc::syscall(libc::SYS_ioprio_set, 1, id, 0)),
                (
                    "move_pages",
                    libc::syscall(libc::SYS_move_pages, id, 0, 0, 0, 0, 0),
                ),
            ]
            .into()
        }
    }

    /// Threads that live until the sender is dropped, and their ids.
    fn helpers() -> (Vec<std::sync::mpsc::Sender<()>>, Receiver<i64>) {
        let (ids, received) = channel();
        let ends = (0..3).map(|_| {
            let (end, ended) = channel::<()>();
            let ids = ids.clone();
            std::thread::spawn(move || {
                ids.send(thread_id()).unwrap();
                ended.recv().unwrap_err();
            });
            end
        });
        (ends.collect(), received)
    }

    #[test]
    fn the_filter_compiles_and_fits_the_kernel_s_limit() {
        // BPF_MAXINSNS of the kernel.
        assert!(program(9).unwrap().len() <= 4096);
    }

    #[test]
    fn ordinary_programs_run_under_it() {
        let output = std::thread::spawn(|| {
            confine_alone(4);
            Command::new("sh")
                .args(["-c", "echo $((6 * 7))"])
                .output()
                .unwrap()
        });
        assert_eq!(output.join().unwrap().stdout, b"42\n");
    }

    #[test]
    fn what_reaches_into_other_processes_is_refused() {
        let refused = std::thread::spawn(|| {
            confine_alone(4);
            // SAFETY: all of these fail before they touch memory; null pointers are never read.
            unsafe {
                [
                    libc::syscall(libc::SYS_ptrace, libc::PTRACE_ATTACH, 1, 0, 0),
                    libc::syscall(libc::SYS_prlimit64, 1, libc::RLIMIT_NOFILE, 0, 0),
                    libc::syscall(libc::SYS_pidfd_open, 1, 0),
                    libc::syscall(libc::SYS_setpriority, 2, 0, 19),
                    libc::syscall(libc::SYS_ioprio_set, 3, 0, 0),
                    libc::syscall(libc::SYS_socket, libc::AF_VSOCK, libc::SOCK_STREAM, 0),
                    libc::syscall(libc::SYS_io_uring_setup, 1, 0),
                ]
            }
        });
        assert_eq!(refused.join().unwrap(), [-1; 7]);
    }

    #[test]
    fn no_thread_of_the_process_that_made_the_filter_can_be_reached() {
        let (_ends, ids) = helpers();
        let helpers: Vec<i64> = ids.iter().take(3).collect();
        let own = i64::from(std::process::id());
        let threads = [&[own], &*helpers].concat();
        for &id in &threads {
            for (call, result) in reach(id) {
                assert_eq!(result, 0, "{call} of {id} without a filter");
            }
        }
        let highest = highest_own_thread().unwrap();
        assert!(threads.iter().all(|&id| id <= highest.cast_signed()));
        let confined = std::thread::spawn(move || {
            confine_alone(highest);
            for id in threads {
                for (call, result) in reach(id) {
                    assert_eq!(result, -1, "{call} of {id}");
                }
            }
        });
        confined.join().unwrap();
    }

    /// `struct space_resv` of the kernel, whose second word is where it counts from.
    fn reserve_by_control(file: &File, number: u8) -> (i64, Errno) {
        let space: [i64; 6] = [0, 0, 1 << 20, 0, 0, 0];
        let control = (1_u64 << 30) | (48 << 16) | (u64::from(b'X') << 8) | u64::from(number);
        // SAFETY: the array is as large as the number of the call says, and lives through it.
        let result =
            unsafe { libc::syscall(libc::SYS_ioctl, file.as_raw_fd(), control, space.as_ptr()) };
        (result, Errno::last())
    }

    fn allocate(file: &File, mode: libc::c_int, length: i64) -> (i64, Errno) {
        // SAFETY: fallocate takes numbers only.
        let result =
            unsafe { libc::syscall(libc::SYS_fallocate, file.as_raw_fd(), mode, 0_i64, length) };
        (result, Errno::last())
    }

    #[test]
    fn room_is_given_back_and_written_but_never_reserved() {
        let confined = std::thread::spawn(|| {
            let mut file = tempfile::tempfile().unwrap();
            assert_eq!(allocate(&file, 0, 1 << 20).0, 0);
            assert_eq!(reserve_by_control(&file, 42).0, 0);
            let collapsed = allocate(&file, 8, 4096).0;
            file.set_len(0).unwrap();
            seccompiler::apply_filter(&against_reserving().unwrap()).unwrap();
            let refused = (-1, Errno::EOPNOTSUPP);
            for mode in [0, 1, 2, 0x10, 0x11, 0x20, 0x40, 0x80, 0xb] {
                assert_eq!(allocate(&file, mode, 1 << 20), refused, "mode {mode:#x}");
            }
            for number in RESERVING {
                assert_eq!(
                    reserve_by_control(&file, number),
                    refused,
                    "number {number}"
                );
            }
            assert_eq!(file.metadata().unwrap().blocks(), 0);
            file.write_all(&[1; 1 << 16]).unwrap();
            // What the C library makes of the refusal.
            // SAFETY: posix_fallocate takes numbers only.
            let result = unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, 1 << 17) };
            assert_eq!(result, 0);
            assert!(file.metadata().unwrap().blocks() * 512 >= 1 << 17);
            assert_eq!(allocate(&file, 8, 4096).0, collapsed);
            assert_eq!(allocate(&file, 3, 1 << 16).0, 0);
            assert!(file.metadata().unwrap().blocks() * 512 < 1 << 17);
        });
        confined.join().unwrap();
    }

    #[test]
    fn a_program_may_still_change_itself_and_its_threads() {
        let allowed = std::thread::spawn(|| {
            confine_alone(4);
            let (_ends, ids) = helpers();
            let helpers = ids.iter().take(3);
            for id in [0, thread_id()].into_iter().chain(helpers) {
                for (call, result) in reach(id) {
                    assert_eq!(result, 0, "{call} of {id}");
                }
            }
        });
        allowed.join().unwrap();
    }
}
