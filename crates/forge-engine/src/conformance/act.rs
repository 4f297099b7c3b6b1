//! What cases have commands do, in the terms of no engine.

/// What [`Act::Write`] writes, again and again.
pub const PATTERN: &[u8; 16] = b"0123456789abcde\n";

/// What a command does. One that says nothing else prints nothing and ends with code 0. Names of files
/// are relative to the workspace, in which the command starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Ends with this code.
    Exit(i32),
    /// Sends itself this signal.
    Signal(i32),
    /// Writes so many bytes of [`PATTERN`] to standard output.
    Write(u64),
    /// The same to standard error.
    Complain(u64),
    /// Writes each of the 256 values of a byte, in order, so many times.
    Octets(u64),
    /// Writes `bytes` of [`PATTERN`], a multiple of its length, `times` times over; each time it writes
    /// the number of times to the file.
    Paced {
        /// How often.
        times: u64,
        /// Bytes each time.
        bytes: u64,
        /// The file.
        file: String,
    },
    /// Writes each argument, followed by a NUL.
    Arguments(Vec<String>),
    /// Copies standard input to standard output until its end.
    Copy,
    /// Writes a file to standard output; code not 0 where there is none.
    Show(String),
    /// Makes a file of this text.
    Save(String, String),
    /// Adds this text to a file, which may not be there yet.
    Append(String, String),
    /// Makes a folder with `file` (text `text`), `pipe`, `socket`, the links `in` (to `file`), `out` (to
    /// `/etc/passwd`) and `nowhere` (to what is not there), and `sparse`, a hole of 1 MiB and an `x`.
    Specials(String),
    /// Sleeps so many milliseconds.
    Sleep(u64),
    /// Never ends by itself.
    Wait,
    /// Writes one byte when it no longer listens to SIGTERM, and never ends by itself.
    Resist,
    /// Uses a processor for so many milliseconds.
    Work(u64),
    /// Takes memory until it is killed for it.
    Memory,
    /// Writes a file until the workspace is full.
    Fill(String),
    /// Starts processes until one is refused; the code is then not 0.
    Crowd,
    /// Starts so many processes that leave its session and its group, whose parent ends, and that do not
    /// listen to SIGTERM; writes one byte when they run, and ends.
    Escape(u64),
    /// Writes how many processes of the task there are besides itself.
    Count,
    /// Is no program at all.
    Absent,
}
