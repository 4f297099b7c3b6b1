//! System calls that `nix` does not offer in the form PID 1 needs, each behind a safe function.

use nix::errno::Errno;
use nix::libc;

/// What one look at the children gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reaped {
    /// A child is gone.
    Process {
        /// Its process id.
        pid: i32,
        /// How it ended.
        end: ProcessEnd,
    },
    /// There are children, and none of them has ended.
    NoneEnded,
    /// There are no children.
    NoChildren,
}

/// How a process ended, as the kernel says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProcessEnd {
    /// It exited with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

/// Collects one ended child, if there is one.
///
/// `nix` turns an end by a real-time signal into an error and so loses the child; this does not.
pub(crate) fn reap_one() -> Reaped {
    loop {
        let mut status: libc::c_int = 0;
        // SAFETY: `status` is a valid place for the kernel to write to during the call.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
        if pid == 0 {
            return Reaped::NoneEnded;
        }
        if pid < 0 {
            if Errno::last() == Errno::EINTR {
                continue;
            }
            return Reaped::NoChildren;
        }
        if libc::WIFEXITED(status) {
            let end = ProcessEnd::Code(libc::WEXITSTATUS(status));
            return Reaped::Process { pid, end };
        }
        if libc::WIFSIGNALED(status) {
            let end = ProcessEnd::Signal(libc::WTERMSIG(status));
            return Reaped::Process { pid, end };
        }
    }
}

/// Ends a process that may be gone already; `pid` as in kill(2).
pub(crate) fn kill_quietly(pid: i32) {
    let _gone = send_signal(pid, libc::SIGKILL);
}

/// Does something with another real user id, which lets a process with few capabilities signal the
/// processes of that user as well as its own. Only for this thread; the effective user stays.
pub(crate) fn with_real_user<T>(uid: u32, act: impl FnOnce() -> T) -> Result<T, Errno> {
    let own = nix::unistd::getuid().as_raw();
    set_real_user(uid)?;
    let result = act();
    // The effective user id is this one, so going back to it is always allowed.
    set_real_user(own)?;
    Ok(result)
}

fn set_real_user(uid: u32) -> Result<(), Errno> {
    const AS_IT_IS: libc::uid_t = libc::uid_t::MAX;
    // The C library's function would change every thread.
    // SAFETY: setresuid takes three integers and touches no memory of ours.
    let result = unsafe { libc::syscall(libc::SYS_setresuid, uid, AS_IT_IS, AS_IT_IS) };
    Errno::result(result).map(drop)
}

/// Sends a signal by its number, real-time signals included; `pid` as in kill(2).
pub(crate) fn send_signal(pid: i32, signal: i32) -> Result<(), Errno> {
    // SAFETY: kill takes two integers and touches no memory of ours.
    Errno::result(unsafe { libc::kill(pid, signal) }).map(drop)
}
