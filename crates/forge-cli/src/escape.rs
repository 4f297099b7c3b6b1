//! Makes text that a stranger wrote safe to show on a terminal.
//!
//! Control characters, escape sequences, bytes that are not UTF-8 and characters that change the
//! direction of reading or hide text are written as escapes. The result is stable: escaping it
//! again changes nothing.

use std::fmt::Write as _;

/// Characters of one line of a log that are shown; the rest of the line is counted.
pub const LINE_LIMIT: usize = 2000;

/// One line of text: line ends and tabs become escapes as well.
#[must_use]
pub fn line(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        push(character, &mut shown);
    }
    shown
}

/// A path, on one line; bytes that are not UTF-8 become escapes.
#[must_use]
pub fn path(path: &std::path::Path) -> String {
    let mut shown = String::new();
    for chunk in path.as_os_str().as_encoded_bytes().utf8_chunks() {
        shown.push_str(&line(chunk.valid()));
        push_bytes(chunk.invalid(), &mut shown);
    }
    shown
}

/// A JSON document that shows nothing raw: the same document, since every character outside of its
/// strings is plain, and within them a character may be written as its number.
#[must_use]
pub fn json(document: &str) -> String {
    let mut shown = String::with_capacity(document.len());
    for character in document.chars() {
        if character != '\n' && (character.is_control() || is_hazard(character)) {
            for unit in character.encode_utf16(&mut [0; 2]) {
                write!(shown, "\\u{unit:04x}").ok();
            }
        } else {
            shown.push(character);
        }
    }
    shown
}

/// Text of several lines: line ends and tabs stay, lines are cut after `line_limit` characters.
#[must_use]
pub fn log(bytes: &[u8], line_limit: usize) -> String {
    let mut shown = String::with_capacity(bytes.len());
    let mut escaper = LogEscaper::new(line_limit);
    escaper.push(bytes, &mut shown);
    escaper.finish(&mut shown);
    shown
}

/// Escapes a log piece by piece; characters may be split between pieces.
#[derive(Debug)]
pub struct LogEscaper {
    line_limit: usize,
    column: usize,
    hidden_bytes: u64,
    carriage_return: bool,
    /// The beginning of a character whose end has not come yet.
    partial: Vec<u8>,
}

impl LogEscaper {
    /// An escaper that shows `line_limit` characters of each line.
    #[must_use]
    pub const fn new(line_limit: usize) -> Self {
        Self {
            line_limit,
            column: 0,
            hidden_bytes: 0,
            carriage_return: false,
            partial: Vec::new(),
        }
    }

    /// Appends what `bytes` show to `shown`.
    pub fn push(&mut self, bytes: &[u8], shown: &mut String) {
        let mut joined = std::mem::take(&mut self.partial);
        joined.extend_from_slice(bytes);
        let mut chunks = joined.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            for character in chunk.valid().chars() {
                self.character(character, shown);
            }
            let invalid = chunk.invalid();
            if chunks.peek().is_none() && is_incomplete(invalid) {
                self.partial = invalid.to_vec();
            } else {
                self.invalid(invalid, shown);
            }
        }
    }

    /// Appends what was held back.
    pub fn finish(mut self, shown: &mut String) {
        let partial = std::mem::take(&mut self.partial);
        self.invalid(&partial, shown);
        self.settle_carriage_return(shown);
        self.remark(shown);
    }

    fn character(&mut self, character: char, shown: &mut String) {
        match character {
            '\n' => {
                self.carriage_return = false;
                self.remark(shown);
                self.column = 0;
                shown.push('\n');
            }
            '\r' => {
                self.settle_carriage_return(shown);
                self.carriage_return = true;
            }
            other => {
                self.settle_carriage_return(shown);
                self.place(other.len_utf8(), shown, |shown| match other {
                    '\t' => shown.push('\t'),
                    other => push(other, shown),
                });
            }
        }
    }

    /// A carriage return before a line end is a part of it; elsewhere it would overwrite the line.
    fn settle_carriage_return(&mut self, shown: &mut String) {
        if std::mem::take(&mut self.carriage_return) {
            self.place(1, shown, |shown| shown.push_str("\\r"));
        }
    }

    fn invalid(&mut self, bytes: &[u8], shown: &mut String) {
        if !bytes.is_empty() {
            self.settle_carriage_return(shown);
        }
        for &byte in bytes {
            self.place(1, shown, |shown| push_bytes(&[byte], shown));
        }
    }

    fn place(&mut self, bytes: usize, shown: &mut String, write: impl FnOnce(&mut String)) {
        if self.column < self.line_limit {
            self.column += 1;
            write(shown);
        } else {
            self.hidden_bytes += bytes as u64;
        }
    }

    fn remark(&mut self, shown: &mut String) {
        let hidden = std::mem::take(&mut self.hidden_bytes);
        if hidden > 0 {
            // Writing to a String cannot fail.
            write!(shown, "… [{hidden} more bytes in this line]").ok();
        }
    }
}

/// Whether `bytes` could be the beginning of a character.
fn is_incomplete(bytes: &[u8]) -> bool {
    !bytes.is_empty() && std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

fn push_bytes(bytes: &[u8], shown: &mut String) {
    for byte in bytes {
        write!(shown, "\\x{byte:02x}").ok();
    }
}

fn push(character: char, shown: &mut String) {
    match character {
        '\n' => shown.push_str("\\n"),
        '\r' => shown.push_str("\\r"),
        '\t' => shown.push_str("\\t"),
        '\0'..='\u{7f}' if character.is_control() => {
            write!(shown, "\\x{:02x}", u32::from(character)).ok();
        }
        other if is_hazard(other) => {
            write!(shown, "\\u{{{:x}}}", u32::from(other)).ok();
        }
        other => shown.push(other),
    }
}

/// Characters that move the cursor, end a line, turn the direction of reading, or cannot be seen.
const fn is_hazard(character: char) -> bool {
    matches!(
        character,
        '\u{80}'..='\u{9f}'
            | '\u{ad}'
            | '\u{61c}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_moves_a_cursor_or_turns_the_reading_direction_gets_through() {
        for (text, shown) in [
            ("plain – ünïcode 日本 ✔", "plain – ünïcode 日本 ✔"),
            ("\x1b[2J\x1b]0;title\x07", "\\x1b[2J\\x1b]0;title\\x07"),
            ("a\nb\tc\rd", "a\\nb\\tc\\rd"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("user\u{202e}nimda", "user\\u{202e}nimda"),
            ("\u{2066}x\u{2069}\u{200f}", "\\u{2066}x\\u{2069}\\u{200f}"),
            ("zero\u{200b}width\u{feff}", "zero\\u{200b}width\\u{feff}"),
            ("del\x7f nul\0", "del\\x7f nul\\x00"),
        ] {
            assert_eq!(line(text), shown);
            assert_eq!(line(&line(text)), shown, "escaping again changed {text:?}");
        }
    }

    #[test]
    fn a_log_keeps_its_lines_and_tabs_and_nothing_else() {
        let shown = log(b"one\r\ntwo\tx\n50%\r100%\n\xff\xfe\x1b[31mred\n", 100);
        assert_eq!(shown, "one\ntwo\tx\n50%\\r100%\n\\xff\\xfe\\x1b[31mred\n");
    }

    #[test]
    fn characters_split_between_pieces_are_put_together() {
        let text = "ä✔😀\r\nend\r".as_bytes();
        let whole = log(text, 100);
        for cut in 0..=text.len() {
            let mut shown = String::new();
            let mut escaper = LogEscaper::new(100);
            escaper.push(&text[..cut], &mut shown);
            escaper.push(&text[cut..], &mut shown);
            escaper.finish(&mut shown);
            assert_eq!(shown, whole, "cut at {cut}");
        }
        assert_eq!(whole, "ä✔😀\nend\\r");
    }

    #[test]
    fn a_character_that_never_ends_is_shown_as_bytes() {
        assert_eq!(log(b"x\xf0\x9f", 100), "x\\xf0\\x9f");
        assert_eq!(log(b"x\xf0\x9fy", 100), "x\\xf0\\x9fy");
    }

    #[test]
    fn an_endless_line_is_cut_with_a_remark_and_the_next_one_is_whole() {
        let mut text = vec![b'x'; 20_000_000];
        text.extend_from_slice(b"\nnext\n");
        let shown = log(&text, 10);
        assert_eq!(
            shown,
            "xxxxxxxxxx… [19999990 more bytes in this line]\nnext\n"
        );
        assert_eq!(log("ää".as_bytes(), 1), "ä… [2 more bytes in this line]");
    }

    #[test]
    fn a_json_document_stays_the_same_and_shows_nothing_raw() {
        let value = serde_json::json!({"a\u{9b}": ["\u{202e}x\x7f\x1b", "ä\n", "\u{e0041}"]});
        let text = json(&serde_json::to_string_pretty(&value).unwrap());
        assert!(
            text.chars()
                .all(|it| it == '\n' || !(it.is_control() || is_hazard(it)))
        );
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&text).unwrap(),
            value
        );
        assert!(text.contains('ä'));
    }

    #[cfg(unix)]
    #[test]
    fn a_path_that_is_not_utf8_is_shown_whole() {
        use std::os::unix::ffi::OsStrExt;
        let name = std::ffi::OsStr::from_bytes(b"a\nb\xff");
        assert_eq!(path(std::path::Path::new(name)), "a\\nb\\xff");
    }
}
