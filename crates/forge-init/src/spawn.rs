//! Starts a program: everything is prepared before the fork, so that the child needs no memory.
//!
//! `std::process::Command` is not used because it waits for the child to reach its program: a
//! process of the task, which has the same user, could stop the child just then and with it PID 1.

use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Instant;

use forge_wire::message::Command;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Bytes a pipe for output should hold; fewer when the kernel allows no more.
const PIPE_CAPACITY: i32 = 1024 * 1024;
/// Folders of `PATH` that are tried.
const MAX_SEARCHED: usize = 256;
/// What `PATH` is when the environment has none, as in execvp(3).
const DEFAULT_PATH: &str = "/bin:/usr/bin";
/// Added to PID 1's own score, so that the kernel ends the task before it ends PID 1.
const SCORE_ABOVE_OURS: i32 = 500;
/// The score of what the kernel never ends, which is too good for a process that a task can fill.
const NO_VICTIM: i32 = -1000;

/// A started program and our ends of its pipes.
#[derive(Debug)]
pub(crate) struct Spawned {
    pub(crate) pid: i32,
    pub(crate) stdin: Option<File>,
    pub(crate) stdout: OutputPipe,
    pub(crate) stderr: OutputPipe,
    /// At its end once the program runs; else gives the kernel's error number.
    pub(crate) outcome: File,
    pub(crate) at: Instant,
}

/// Our end of a pipe that a program writes to.
#[derive(Debug)]
pub(crate) struct OutputPipe {
    pub(crate) file: File,
    /// Most bytes it can hold.
    pub(crate) capacity: usize,
}

/// Starts programs.
#[derive(Debug)]
pub(crate) struct Spawner {
    null: File,
    score: Option<ScoreFile>,
    /// Limit of open files as the engine set it; PID 1 raises its own.
    files: Option<(libc::rlim_t, libc::rlim_t)>,
    ignored_signals: u64,
}

/// PID 1's `oom_score_adj`, which a child has from it.
#[derive(Debug)]
struct ScoreFile {
    file: File,
    own: String,
    child: String,
}

impl Spawner {
    /// Prepares for starting programs; to be called while `/proc/self` is still ours to write.
    pub(crate) fn new(ignored_signals: u64) -> std::io::Result<Self> {
        Ok(Self {
            null: File::open("/dev/null")?,
            score: ScoreFile::open(),
            files: raise_file_limit(),
            ignored_signals,
        })
    }

    /// Whether programs could change PID 1's score: they can where they are root.
    pub(crate) fn must_guard_score(&self) -> bool {
        self.score.is_some() && nix::unistd::geteuid().is_root()
    }

    /// Puts PID 1's score right, which a program may have made worse to let the kernel end PID 1.
    pub(crate) fn guard_score(&self) {
        if let Some(score) = self.score.as_ref().filter(|_| self.must_guard_score()) {
            score.set(&score.own);
        }
    }

    /// Starts a program in a session of its own; fails with the kernel's error number.
    pub(crate) fn spawn(&self, command: &Command) -> Result<Spawned, Errno> {
        let image = Image::prepare(command)?;
        let (stdin_child, stdin) = if command.stdin {
            let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
            set_nonblocking(&write)?;
            (Some(read), Some(File::from(write)))
        } else {
            (None, None)
        };
        let (stdout, stdout_child) = output_pipe()?;
        let (stderr, stderr_child) = output_pipe()?;
        let (outcome, outcome_child) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        set_nonblocking(&outcome)?;
        let child = Child {
            image: &image,
            stdin: stdin_child
                .as_ref()
                .map_or(self.null.as_raw_fd(), AsRawFd::as_raw_fd),
            stdout: stdout_child.as_raw_fd(),
            stderr: stderr_child.as_raw_fd(),
            outcome: outcome_child.as_raw_fd(),
            files: self.files,
            ignored_signals: self.ignored_signals,
        };
        let at = Instant::now();
        if let Some(score) = &self.score {
            score.set(&score.child);
        }
        let pid = child.fork();
        if let Some(score) = &self.score {
            score.set(&score.own);
        }
        Ok(Spawned {
            pid: pid?,
            stdin,
            stdout,
            stderr,
            outcome: File::from(outcome),
            at,
        })
    }
}

impl ScoreFile {
    fn open() -> Option<Self> {
        let mut file = File::options()
            .read(true)
            .write(true)
            .open("/proc/self/oom_score_adj")
            .ok()?;
        let mut given = String::new();
        file.read_to_string(&mut given).ok()?;
        let given = given.trim().parse::<i32>().ok()?;
        let own = Self::lower(&file, given);
        Some(Self {
            file,
            own: own.to_string(),
            child: given.saturating_add(SCORE_ABOVE_OURS).min(1000).to_string(),
        })
    }

    /// Takes the lowest score that the kernel lets PID 1 have, and tells it. Where the engine could
    /// not set a lower bound, programs may go below the score that it gave, and must not come to
    /// lie below PID 1.
    fn lower(file: &File, given: i32) -> i32 {
        let (mut refused, mut own) = (NO_VICTIM, given);
        while own - refused > 1 {
            let between = refused.midpoint(own);
            match (&*file).write_all(between.to_string().as_bytes()) {
                Ok(()) => own = between,
                Err(_) => refused = between,
            }
        }
        own
    }

    /// Best effort: a sandbox works without it, the kernel may only choose a worse victim.
    fn set(&self, score: &str) {
        drop((&self.file).write(score.as_bytes()));
    }
}

fn raise_file_limit() -> Option<(libc::rlim_t, libc::rlim_t)> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    if soft >= hard {
        return None;
    }
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).ok()?;
    Some((soft, hard))
}

fn set_nonblocking(end: &OwnedFd) -> Result<(), Errno> {
    fcntl(end.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map(drop)
}

fn output_pipe() -> Result<(OutputPipe, OwnedFd), Errno> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    set_nonblocking(&read)?;
    let capacity = fcntl(read.as_fd(), FcntlArg::F_SETPIPE_SZ(PIPE_CAPACITY))
        .or_else(|_| fcntl(read.as_fd(), FcntlArg::F_GETPIPE_SZ))?;
    let pipe = OutputPipe {
        file: File::from(read),
        capacity: usize::try_from(capacity).unwrap_or(0),
    };
    Ok((pipe, write))
}

/// What execve(2) takes, with the lists of pointers already made.
struct Image {
    programs: Vec<CString>,
    arguments: Strings,
    environment: Strings,
    directory: CString,
}

/// C strings and the null-terminated list of pointers to them.
struct Strings {
    pointers: Vec<*const libc::c_char>,
    /// Owns what `pointers` point to; moving the vector does not move the strings.
    _strings: Vec<CString>,
}

impl Strings {
    fn new(strings: Vec<CString>) -> Self {
        let pointers = strings
            .iter()
            .map(|string| string.as_ptr())
            .chain([std::ptr::null()])
            .collect();
        Self {
            pointers,
            _strings: strings,
        }
    }
}

fn c_string(text: impl Into<Vec<u8>>) -> Result<CString, Errno> {
    CString::new(text).map_err(|_| Errno::EINVAL)
}

impl Image {
    fn prepare(command: &Command) -> Result<Self, Errno> {
        let program = command.argv.first().ok_or(Errno::EINVAL)?;
        let arguments = command.argv.iter().map(|text| c_string(text.as_str()));
        let environment = command.env.iter().map(|(name, value)| {
            if name.is_empty() || name.contains('=') {
                return Err(Errno::EINVAL);
            }
            c_string(format!("{name}={value}"))
        });
        Ok(Self {
            programs: programs(program, &command.env)?,
            arguments: Strings::new(arguments.collect::<Result<_, _>>()?),
            environment: Strings::new(environment.collect::<Result<_, _>>()?),
            directory: c_string(command.working_directory.as_str())?,
        })
    }
}

/// Where to look for a program, in the order of `PATH`.
fn programs(program: &str, env: &[(String, String)]) -> Result<Vec<CString>, Errno> {
    if program.is_empty() {
        return Err(Errno::ENOENT);
    }
    if program.contains('/') {
        return Ok(vec![c_string(program)?]);
    }
    let path = env
        .iter()
        .find(|(name, _)| name == "PATH")
        .map_or(DEFAULT_PATH, |(_, value)| value.as_str());
    path.split(':')
        .take(MAX_SEARCHED)
        .map(|folder| match folder {
            "" => c_string(format!("./{program}")),
            folder => c_string(format!("{folder}/{program}")),
        })
        .collect()
}

/// All that the child needs, as plain numbers and pointers.
struct Child<'a> {
    image: &'a Image,
    stdin: i32,
    stdout: i32,
    stderr: i32,
    outcome: i32,
    files: Option<(libc::rlim_t, libc::rlim_t)>,
    ignored_signals: u64,
}

impl Child<'_> {
    fn fork(&self) -> Result<i32, Errno> {
        // SAFETY: the child calls `run` only, which makes no use of the heap, of locks or of
        // anything else that another thread may have held at the moment of the fork.
        match unsafe { libc::fork() } {
            -1 => Err(Errno::last()),
            0 => self.run(),
            pid => Ok(pid),
        }
    }

    fn run(&self) -> ! {
        // SAFETY: only async-signal-safe calls; every pointer is into `self.image`, which lives in
        // this process's copy of the memory until execve replaces it or _exit ends it.
        unsafe {
            let mut errno = if self.enter() {
                self.execute()
            } else {
                Errno::last_raw()
            };
            libc::write(
                self.outcome,
                (&raw mut errno).cast::<libc::c_void>(),
                size_of::<i32>(),
            );
            libc::_exit(127)
        }
    }

    /// Sets up the child's surroundings; false with `errno` set when a part of it fails.
    ///
    /// # Safety
    /// To be called in the child only.
    unsafe fn enter(&self) -> bool {
        // SAFETY: as in `run`; `set` and `limit` live through the calls that they are passed to.
        unsafe {
            libc::setsid();
            if let Some((soft, hard)) = self.files {
                let limit = libc::rlimit {
                    rlim_cur: soft,
                    rlim_max: hard,
                };
                libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
            }
            for signal in 1..64 {
                if self.ignored_signals >> (signal - 1) & 1 == 1 {
                    libc::signal(signal, libc::SIG_DFL);
                }
            }
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);
            let mut set = std::mem::zeroed::<libc::sigset_t>();
            libc::sigemptyset(&raw mut set);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
            libc::dup2(self.stdin, 0) == 0
                && libc::dup2(self.stdout, 1) == 1
                && libc::dup2(self.stderr, 2) == 2
                && libc::chdir(self.image.directory.as_ptr()) == 0
        }
    }

    /// Tries one place after the other; comes back with an error number when none has a program.
    ///
    /// # Safety
    /// To be called in the child only.
    unsafe fn execute(&self) -> i32 {
        let mut remembered = libc::ENOENT;
        for program in &self.image.programs {
            // SAFETY: as in `run`; both lists end with a null pointer.
            unsafe {
                libc::execve(
                    program.as_ptr(),
                    self.image.arguments.pointers.as_ptr(),
                    self.image.environment.pointers.as_ptr(),
                );
            }
            match Errno::last_raw() {
                libc::ENOENT | libc::ENOTDIR => {}
                libc::EACCES => remembered = libc::EACCES,
                other => return other,
            }
        }
        remembered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn searched(program: &str, path: Option<&str>) -> Vec<String> {
        let env: Vec<_> = path
            .map(|path| ("PATH".to_owned(), path.to_owned()))
            .into_iter()
            .collect();
        programs(program, &env)
            .unwrap()
            .into_iter()
            .map(|name| name.into_string().unwrap())
            .collect()
    }

    #[test]
    fn a_program_is_looked_up_in_the_path_it_was_given() {
        assert_eq!(searched("sh", Some("/a::/b")), ["/a/sh", "./sh", "/b/sh"]);
        assert_eq!(searched("sh", None), ["/bin/sh", "/usr/bin/sh"]);
        assert_eq!(searched("./sh", Some("/a")), ["./sh"]);
    }

    #[test]
    fn what_cannot_be_a_c_string_is_refused() {
        assert_eq!(programs("", &[]), Err(Errno::ENOENT));
        assert_eq!(programs("a\0b", &[]), Err(Errno::EINVAL));
    }
}
