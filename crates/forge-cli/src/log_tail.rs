//! The end of a log, read with bounded memory.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use crate::escape;

/// Bytes looked at from the end of the file.
const WINDOW: u64 = 64 * 1024;
/// Characters of one line that are shown.
const LINE_LIMIT: usize = 400;

/// The last lines of a log, escaped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tail {
    /// The lines.
    pub lines: Vec<String>,
    /// Whether something stands before them.
    pub cut: bool,
}

/// The last `count` lines of the file at `path`.
pub(crate) fn read(path: &Path, count: usize) -> io::Result<Tail> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let skipped = length.saturating_sub(WINDOW);
    file.seek(SeekFrom::Start(skipped))?;
    let mut bytes = Vec::new();
    file.take(WINDOW).read_to_end(&mut bytes)?;
    Ok(last_lines(&bytes, count, skipped > 0))
}

fn last_lines(bytes: &[u8], count: usize, begins_within: bool) -> Tail {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    if bytes.is_empty() {
        return Tail {
            lines: Vec::new(),
            cut: begins_within,
        };
    }
    let lines: Vec<&[u8]> = bytes.split(|&byte| byte == b'\n').collect();
    // A first line whose beginning is not in the window is of no use, unless it is the only one.
    let partial = usize::from(begins_within && lines.len() > 1);
    let first = lines.len().saturating_sub(count).max(partial);
    Tail {
        lines: lines[first..]
            .iter()
            .map(|line| escape::log(line, LINE_LIMIT).replace('\t', "    "))
            .collect(),
        cut: begins_within || first > 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_shown_escaped() {
        let tail = last_lines(b"one\ntwo\n\x1b[31mthree\n", 2, false);
        assert_eq!(tail.lines, ["two", "\\x1b[31mthree"]);
        assert!(tail.cut);
        let tail = last_lines(b"one\ntwo", 5, false);
        assert_eq!((tail.lines.len(), tail.cut), (2, false));
        assert!(last_lines(b"", 5, false).lines.is_empty());
    }

    #[test]
    fn a_log_of_one_endless_line_is_read_from_its_end_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("verify.log");
        std::fs::write(&path, vec![b'x'; 20_000_000]).unwrap();
        let tail = read(&path, 15).unwrap();
        assert_eq!(tail.lines.len(), 1);
        assert!(tail.lines[0].len() < LINE_LIMIT + 60, "{}", tail.lines[0]);
        assert!(tail.cut);
    }
}
