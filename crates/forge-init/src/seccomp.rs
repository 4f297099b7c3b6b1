//! A filter of system calls of our own, on top of the engine's, for PID 1 and all it starts.
//!
//! It keeps the programs of a task, which have PID 1's user, from reaching into each other and into
//! PID 1: a program under test must not be able to write the exit code of the command that tests
//! it, nor slow down or starve the process that enforces its deadline. It also closes the kinds of
//! sockets that no network namespace confines, and interfaces that kernels were broken through.
//!
//! Programs of another architecture than the machine's are ended: their system calls have other
//! numbers.

use std::collections::BTreeMap;
use std::io;

use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// Thread ids of PID 1: its own, and its three helpers', which are started first.
const OWN_THREADS: u64 = 4;
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

/// Refused when their first argument names PID 1.
const NOT_FOR_PID_1: [i64; 5] = [
    libc::SYS_prlimit64,
    libc::SYS_sched_setscheduler,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setattr,
    libc::SYS_sched_setaffinity,
];

/// Puts the filter on this thread and on all that it starts from now on.
pub(crate) fn confine() -> io::Result<()> {
    let program = program().map_err(io::Error::other)?;
    seccompiler::apply_filter(&program).map_err(io::Error::other)
}

fn program() -> Result<BpfProgram, seccompiler::BackendError> {
    let filter = SeccompFilter::new(
        rules()?,
        SeccompAction::Allow,
        // 1 is EPERM on every architecture.
        SeccompAction::Errno(1),
        architecture(),
    )?;
    BpfProgram::try_from(filter)
}

const fn architecture() -> TargetArch {
    #[cfg(target_arch = "aarch64")]
    return TargetArch::aarch64;
    #[cfg(target_arch = "x86_64")]
    return TargetArch::x86_64;
}

fn rules() -> Result<BTreeMap<i64, Vec<SeccompRule>>, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for call in REFUSED {
        rules.insert(call, Vec::new());
    }
    for call in NOT_FOR_PID_1 {
        rules.insert(call, vec![SeccompRule::new(names_pid_1(0)?)?]);
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
        conditions.extend(names_pid_1(1)?);
        priority.push(SeccompRule::new(conditions)?);
    }
    rules.insert(libc::SYS_setpriority, priority);
    let [process, group, user] = IOPRIO_WHO;
    let mut io_priority = vec![SeccompRule::new(vec![equal(0, user)?])?];
    for which in [process, group] {
        let mut conditions = vec![equal(0, which)?];
        conditions.extend(names_pid_1(1)?);
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
fn names_pid_1(index: u8) -> Result<Vec<SeccompCondition>, seccompiler::BackendError> {
    let length = SeccompCmpArgLen::Dword;
    Ok(vec![
        SeccompCondition::new(index, length.clone(), SeccompCmpOp::Ne, 0)?,
        SeccompCondition::new(index, length, SeccompCmpOp::Le, OWN_THREADS)?,
    ])
}

fn equal(index: u8, value: u64) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(index, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn the_filter_compiles_and_fits_the_kernel_s_limit() {
        // BPF_MAXINSNS of the kernel.
        assert!(program().unwrap().len() <= 4096);
    }

    #[test]
    fn ordinary_programs_run_under_it() {
        let output = std::thread::spawn(|| {
            confine().unwrap();
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
            confine().unwrap();
            // SAFETY: all of these fail before they touch memory; null pointers are never read.
            unsafe {
                [
                    libc::syscall(libc::SYS_ptrace, libc::PTRACE_ATTACH, 1, 0, 0),
                    libc::syscall(libc::SYS_prlimit64, 1, libc::RLIMIT_NOFILE, 0, 0),
                    libc::syscall(libc::SYS_setpriority, 2, 0, 19),
                    libc::syscall(libc::SYS_socket, libc::AF_VSOCK, libc::SOCK_STREAM, 0),
                    libc::syscall(libc::SYS_io_uring_setup, 1, 0),
                ]
            }
        });
        assert_eq!(refused.join().unwrap(), [-1; 5]);
    }

    #[test]
    fn a_program_may_still_change_its_own_limits_and_priority() {
        let allowed = std::thread::spawn(|| {
            confine().unwrap();
            // SAFETY: null pointers tell the kernel that nothing is set and nothing is asked for.
            unsafe {
                [
                    libc::syscall(libc::SYS_prlimit64, 0, libc::RLIMIT_NOFILE, 0, 0),
                    libc::syscall(libc::SYS_setpriority, 0, 0, 0),
                ]
            }
        });
        assert_eq!(allowed.join().unwrap(), [0; 2]);
    }
}
