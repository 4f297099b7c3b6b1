//! The tiny language of commands in the fake: what a shell script is to a real sandbox.
//!
//! A command is `["fake", "step; step; …", argument…]`. `$1` in a step stands for the first argument,
//! so that a name may hold anything. [`Step`] says what there is; [`Step::parse`] how it is written.
//! A program that does not end by `exit` or `signal` ends with code 0.

use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use forge_core::exec::OutputStream;

/// What `write` writes, again and again.
pub const PATTERN: &[u8; 16] = b"0123456789abcde\n";
/// What is written at once.
const PIECE: usize = 64 * 1024;
/// `ENOENT`: what is not a program of this language is not there.
pub(super) const NO_ENTRY: i32 = 2;

/// One step of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// `write N`, `complain N`: so many bytes of [`PATTERN`] to standard output, or error.
    Write(OutputStream, u64),
    /// `octets N`: each of the 256 values of a byte, in order, N times.
    Octets(u64),
    /// `paced N M FILE`: N times M bytes of [`PATTERN`]; the file says how many are written.
    Paced(u64, u64, String),
    /// `arguments`: each argument, followed by a NUL.
    Arguments,
    /// `copy`: standard input to standard output, until its end.
    Copy,
    /// `show FILE`: the contents of a file; ends with code 1 where there is none.
    Show(String),
    /// `save FILE TEXT`.
    Save(String, String),
    /// `append FILE TEXT`.
    Append(String, String),
    /// `specials FOLDER`: a pipe, a socket, links in, out and to nothing, a file with a hole.
    Specials(String),
    /// `sleep MILLISECONDS`.
    Sleep(Duration),
    /// `wait`: until it is ended.
    Wait,
    /// `deaf`: from now on SIGTERM does nothing.
    Deaf,
    /// `work MILLISECONDS` of a processor's time.
    Work(Duration),
    /// `memory`: takes memory until it is killed for it.
    Memory,
    /// `fill FILE`: takes all that is left of the workspace, and ends with code 1 when it is refused.
    Fill(String),
    /// `crowd`: starts processes until one is refused, then ends them all and itself with code 1.
    Crowd,
    /// `escape N`: starts so many processes that leave session, parent and group behind and are deaf.
    Escape(u64),
    /// `count`: prints how many processes there are besides itself.
    Count,
    /// `exit CODE`.
    Exit(i32),
    /// `signal NUMBER`, sent to itself.
    Signal(i32),
}

impl Step {
    /// The steps of a command; `None` when it is none of this language.
    #[must_use]
    pub fn parse(argv: &[String]) -> Option<Vec<Self>> {
        let (name, rest) = argv.split_first()?;
        let (text, arguments) = rest.split_first()?;
        if name != "fake" {
            return None;
        }
        let steps = text.split(';').map(str::trim);
        steps
            .filter(|step| !step.is_empty())
            .map(|step| Self::one(step, arguments))
            .collect()
    }

    fn one(text: &str, arguments: &[String]) -> Option<Self> {
        let mut words = text.split_whitespace().map(|word| {
            let number = word
                .strip_prefix('$')
                .and_then(|number| number.parse().ok());
            let argument = number.and_then(|number: usize| arguments.get(number.checked_sub(1)?));
            argument.map_or(word, String::as_str)
        });
        let name = words.next()?;
        let mut text = || words.next().map(str::to_owned);
        let step = match name {
            "arguments" => Self::Arguments,
            "copy" => Self::Copy,
            "wait" => Self::Wait,
            "deaf" => Self::Deaf,
            "memory" => Self::Memory,
            "crowd" => Self::Crowd,
            "count" => Self::Count,
            "show" => Self::Show(text()?),
            "save" => Self::Save(text()?, text()?),
            "append" => Self::Append(text()?, text()?),
            "specials" => Self::Specials(text()?),
            "fill" => Self::Fill(text()?),
            "write" => Self::Write(OutputStream::Stdout, number(text())?),
            "complain" => Self::Write(OutputStream::Stderr, number(text())?),
            "octets" => Self::Octets(number(text())?),
            "paced" => Self::Paced(number(text())?, number(text())?, text()?),
            "sleep" => Self::Sleep(Duration::from_millis(number(text())?)),
            "work" => Self::Work(Duration::from_millis(number(text())?)),
            "escape" => Self::Escape(number(text())?),
            "exit" => Self::Exit(number(text())?),
            "signal" => Self::Signal(number(text())?),
            _ => return None,
        };
        Some(step)
    }
}

fn number<T: std::str::FromStr>(text: Option<String>) -> Option<T> {
    text?.parse().ok()
}

/// `length` bytes of [`PATTERN`] as they stand at `offset` of it, at most a piece.
pub(super) fn pattern(offset: u64, length: u64) -> Bytes {
    static PIECES: LazyLock<Bytes> = LazyLock::new(|| PATTERN.repeat(PIECE / 16 + 1).into());
    let start = usize::try_from(offset % PATTERN.len() as u64).unwrap_or(0);
    let length = usize::try_from(length).unwrap_or(PIECE).min(PIECE);
    PIECES.slice(start..start + length)
}

/// Each value of a byte, in order.
pub(super) fn octets() -> Bytes {
    (0..=u8::MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(argv: &[&str]) -> Option<Vec<Step>> {
        let argv: Vec<String> = argv.iter().map(|&word| word.to_owned()).collect();
        Step::parse(&argv)
    }

    #[test]
    fn an_argument_may_hold_what_would_end_a_step() {
        let steps = parse(&["fake", "show $1; exit 3", "a; b $1"]).unwrap();
        assert_eq!(steps, [Step::Show("a; b $1".into()), Step::Exit(3)]);
    }

    #[test]
    fn what_is_not_of_the_language_is_no_program() {
        for argv in [
            &["/bin/sh", "-c", "exit 3"][..],
            &["fake"],
            &["fake", "dance"],
            &["fake", "exit"],
            &["fake", "write many"],
            &[],
        ] {
            assert_eq!(parse(argv), None, "{argv:?}");
        }
        assert_eq!(parse(&["fake", ""]), Some(Vec::new()));
    }

    #[test]
    fn the_pattern_goes_on_where_it_left_off() {
        let pieces = [pattern(0, 5), pattern(5, 20), pattern(25, 7)];
        assert_eq!(pieces.concat(), PATTERN.repeat(2));
    }
}
