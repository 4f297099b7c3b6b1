//! Reads JSON (RFC 8259, nothing more) into a tree with positions.
//!
//! Serde's readers stop at the first mistake of a field and lose positions; the crates that keep
//! them accept comments and trailing commas, which readers inside the sandbox would not.

use forge_document::{MAX_DEPTH, Member, Node, Position, Problem, SyntaxError, Value, quote};

/// The document in `text`.
pub(crate) fn parse(text: &str) -> Result<Node, SyntaxError> {
    let mut reader = Reader {
        rest: text,
        at: Position::START,
    };
    reader.skip_blanks();
    let node = reader.value(0)?;
    reader.skip_blanks();
    match reader.peek() {
        None => Ok(node),
        Some(_) => Err(reader.unexpected("nothing after the document")),
    }
}

struct Reader<'t> {
    rest: &'t str,
    at: Position,
}

impl<'t> Reader<'t> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn bump(&mut self) -> Option<char> {
        let character = self.peek()?;
        self.rest = &self.rest[character.len_utf8()..];
        self.at.advance(character);
        Some(character)
    }

    fn take(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.bump();
        }
        found
    }

    fn skip_blanks(&mut self) {
        while matches!(self.peek(), Some(' ' | '\t' | '\n' | '\r')) {
            self.bump();
        }
    }

    /// A mistake at the present place.
    fn unexpected(&self, expected: &str) -> SyntaxError {
        let (message, hint) = match self.peek() {
            None => ("the file ends".to_owned(), None),
            Some('/' | '#') => (self.found(), Some("JSON has no comments")),
            Some('\'') => (self.found(), Some("JSON has text in double quotes only")),
            Some(_) => (self.found(), None),
        };
        let problem = Problem::new(message)
            .expecting(expected)
            .hint_if_any(hint.map(str::to_owned));
        SyntaxError::new(self.at, problem)
    }

    /// The same where a bare word is a likely slip.
    fn unexpected_word(&self, expected: &str) -> SyntaxError {
        let mut error = self.unexpected(expected);
        if self.word().is_some() {
            error.problem = error
                .problem
                .hint("text stands in double quotes; the bare words are true, false and null");
        }
        error
    }

    fn found(&self) -> String {
        match (self.word(), self.peek()) {
            (Some(word), _) => format!("found {}", quote(word)),
            (None, Some(character)) => format!("found {character:?}"),
            (None, None) => "the file ends".to_owned(),
        }
    }

    /// The bare word at the present place.
    fn word(&self) -> Option<&'t str> {
        let end = self
            .rest
            .find(|character: char| !(character.is_alphanumeric() || character == '_'))
            .unwrap_or(self.rest.len());
        let word = &self.rest[..end];
        word.starts_with(|character: char| character.is_alphabetic() || character == '_')
            .then_some(word)
    }

    fn value(&mut self, depth: usize) -> Result<Node, SyntaxError> {
        let at = self.at;
        let value = match self.peek() {
            Some('{' | '[') if depth >= MAX_DEPTH => return Err(SyntaxError::too_deep(at)),
            Some('{') => self.object(depth)?,
            Some('[') => self.list(depth)?,
            Some('"') => Value::Text(self.text()?),
            Some('-' | '0'..='9') => self.number()?,
            _ => self.literal()?,
        };
        Ok(Node { at, value })
    }

    fn literal(&mut self) -> Result<Value, SyntaxError> {
        let (word, value) = match self.word() {
            Some(word @ "null") => (word, Value::Null),
            Some(word @ "true") => (word, Value::Boolean(true)),
            Some(word @ "false") => (word, Value::Boolean(false)),
            _ => return Err(self.unexpected_word("a value")),
        };
        for _ in word.chars() {
            self.bump();
        }
        Ok(value)
    }

    fn list(&mut self, depth: usize) -> Result<Value, SyntaxError> {
        self.bump();
        self.skip_blanks();
        let mut items = Vec::new();
        if self.take(']') {
            return Ok(Value::List(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            self.skip_blanks();
            if self.take(']') {
                return Ok(Value::List(items));
            }
            self.comma(']')?;
        }
    }

    fn object(&mut self, depth: usize) -> Result<Value, SyntaxError> {
        self.bump();
        self.skip_blanks();
        let mut members = Vec::new();
        if self.take('}') {
            return Ok(Value::Object(members));
        }
        loop {
            let key_at = self.at;
            if self.peek() != Some('"') {
                return Err(self.unexpected_word("a key in double quotes"));
            }
            let key = self.text()?;
            self.skip_blanks();
            if !self.take(':') {
                return Err(self.unexpected("':' after the key"));
            }
            self.skip_blanks();
            let node = self.value(depth + 1)?;
            members.push(Member { key, key_at, node });
            self.skip_blanks();
            if self.take('}') {
                return Ok(Value::Object(members));
            }
            self.comma('}')?;
        }
    }

    /// The comma between two members, and that something follows it.
    fn comma(&mut self, closing: char) -> Result<(), SyntaxError> {
        let comma_at = self.at;
        if !self.take(',') {
            return Err(self.unexpected(&format!("',' or '{closing}'")));
        }
        self.skip_blanks();
        if self.peek() == Some(closing) {
            let problem =
                Problem::new(format!("found ',' before '{closing}'")).hint("remove the comma");
            return Err(SyntaxError::new(comma_at, problem));
        }
        Ok(())
    }

    fn number(&mut self) -> Result<Value, SyntaxError> {
        let (start, at) = (self.rest, self.at);
        self.take('-');
        let zero = self.peek() == Some('0');
        let whole = self.digits()?;
        if zero && whole > 1 {
            let problem = Problem::new("the number begins with 0").hint("remove the leading zeros");
            return Err(SyntaxError::new(at, problem));
        }
        if self.take('.') {
            self.digits()?;
        }
        if matches!(self.peek(), Some('e' | 'E')) {
            self.bump();
            if !self.take('-') {
                self.take('+');
            }
            self.digits()?;
        }
        if self.word().is_some() {
            return Err(self.unexpected("the end of the number"));
        }
        let text = &start[..start.len() - self.rest.len()];
        match text.parse::<f64>() {
            Ok(value) if value.is_finite() => Ok(Value::Number(text.to_owned())),
            _ => {
                let problem =
                    Problem::new("the number is too large").expecting("a number below 1.8e308");
                Err(SyntaxError::new(at, problem))
            }
        }
    }

    /// One digit or more; how many.
    fn digits(&mut self) -> Result<usize, SyntaxError> {
        let before = self.rest.len();
        while matches!(self.peek(), Some('0'..='9')) {
            self.bump();
        }
        match before - self.rest.len() {
            0 => Err(self.unexpected("a digit")),
            count => Ok(count),
        }
    }

    fn text(&mut self) -> Result<String, SyntaxError> {
        let start = self.at;
        self.bump();
        let mut text = String::new();
        loop {
            let at = self.at;
            match self.bump() {
                Some('"') => return Ok(text),
                Some('\\') => text.push(self.escape(at)?),
                Some(character @ '\0'..='\u{1F}') => {
                    let problem = Problem::new(format!("found {character:?} within text"))
                        .hint("write line breaks as \\n and other control characters as \\u00XX");
                    return Err(SyntaxError::new(at, problem));
                }
                Some(character) => text.push(character),
                None => {
                    let problem = Problem::new("the text is never closed").hint("add a '\"'");
                    return Err(SyntaxError::new(start, problem));
                }
            }
        }
    }

    /// What follows a backslash that stood at `at`.
    fn escape(&mut self, at: Position) -> Result<char, SyntaxError> {
        let character = match self.bump() {
            Some(same @ ('"' | '\\' | '/')) => same,
            Some('b') => '\u{8}',
            Some('f') => '\u{C}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('u') => return self.unicode_escape(at),
            other => {
                let message = match other {
                    Some(character) => format!("found a backslash before {character:?}"),
                    None => "the file ends".to_owned(),
                };
                let problem = Problem::new(message)
                    .expecting("one of \" \\ / b f n r t u after a backslash")
                    .hint("write a backslash as \\\\");
                return Err(SyntaxError::new(at, problem));
            }
        };
        Ok(character)
    }

    fn unicode_escape(&mut self, at: Position) -> Result<char, SyntaxError> {
        let first = self.four_digits(at)?;
        let code = if (0xD800..0xDC00).contains(&first) && self.rest.starts_with("\\u") {
            self.bump();
            self.bump();
            let second = self.four_digits(at)?;
            let low = second.wrapping_sub(0xDC00);
            // A high surrogate without its low one falls through to the refusal below.
            if low < 0x400 {
                0x1_0000 + ((first - 0xD800) << 10) + low
            } else {
                first
            }
        } else {
            first
        };
        char::from_u32(code).ok_or_else(|| {
            let problem = Problem::new(format!("\\u{first:04x} is half of a surrogate pair"))
                .hint("write both halves, or the character itself");
            SyntaxError::new(at, problem)
        })
    }

    fn four_digits(&mut self, at: Position) -> Result<u32, SyntaxError> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|character| character.to_digit(16));
            let Some(digit) = digit else {
                let problem =
                    Problem::new("the escape is too short").expecting("four hexadecimal digits");
                return Err(SyntaxError::new(at, problem));
            };
            self.bump();
            code = code * 16 + digit;
        }
        Ok(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        let SyntaxError { at, problem } = parse(text).unwrap_err();
        let shown = problem.about("f").to_string();
        format!("{}:{} {}", at.line, at.column, &shown[3..])
    }

    #[test]
    fn every_key_and_value_knows_its_place() {
        let node = parse("\r\n{\"ä\": [1,\n  \"x\"],\t\"b\":null}").unwrap();
        let at = |line, column| Position { line, column };
        assert_eq!(node.at, at(2, 1));
        let Value::Object(members) = &node.value else {
            panic!("{node:?}")
        };
        assert_eq!(members[0].key_at, at(2, 2));
        assert_eq!(members[0].node.at, at(2, 7));
        assert_eq!(members[1].key_at, at(3, 9));
        let Value::List(items) = &members[0].node.value else {
            panic!("{node:?}")
        };
        assert_eq!(items[1].at, at(3, 3));
    }

    #[test]
    fn escapes_become_characters() {
        let node = parse(r#""\"\\\/\b\f\n\r\t\u00e4\ud83d\uDE00""#).unwrap();
        assert_eq!(
            node.value,
            Value::Text("\"\\/\u{8}\u{c}\n\r\tä😀".to_owned())
        );
    }

    #[test]
    fn numbers_stay_as_written() {
        for text in [
            "0",
            "-0",
            "10",
            "1.50",
            "-1e-7",
            "1E+3",
            "123456789012345678901234567890",
        ] {
            assert_eq!(parse(text).unwrap().value, Value::Number(text.to_owned()));
        }
    }

    const REFUSED: &[(&str, &str)] = &[
        ("", "1:1 expected a value; the file ends"),
        (
            "{\"a\":1,}",
            "1:7 found ',' before '}'\n  hint: remove the comma",
        ),
        (
            "[1,\n]",
            "1:3 found ',' before ']'\n  hint: remove the comma",
        ),
        ("[1 2]", "1:4 expected ',' or ']'; found '2'"),
        ("{\"a\" 1}", "1:6 expected ':' after the key; found '1'"),
        (
            "{\"a\":1} x",
            "1:9 expected nothing after the document; found \"x\"",
        ),
        (
            "// no\n{}",
            "1:1 expected a value; found '/'\n  hint: JSON has no comments",
        ),
        (
            "{'a':1}",
            "1:2 expected a key in double quotes; found '\\''\n  hint: JSON has text in double quotes only",
        ),
        (
            "[NaN]",
            "1:2 expected a value; found \"NaN\"\n  hint: text stands in double quotes; the bare words are true, false and null",
        ),
        ("[-Infinity]", "1:3 expected a digit; found \"Infinity\""),
        (
            "[1e999]",
            "1:2 expected a number below 1.8e308; the number is too large",
        ),
        (
            "[01]",
            "1:2 the number begins with 0\n  hint: remove the leading zeros",
        ),
        ("[1.]", "1:4 expected a digit; found ']'"),
        (
            "[0x10]",
            "1:3 expected the end of the number; found \"x10\"",
        ),
        (
            "\"a\nb\"",
            "1:3 found '\\n' within text\n  hint: write line breaks as \\n and other control characters as \\u00XX",
        ),
        ("[\"a", "1:2 the text is never closed\n  hint: add a '\"'"),
        (
            "\"\\x\"",
            "1:2 expected one of \" \\ / b f n r t u after a backslash; found a backslash before 'x'\n  hint: write a backslash as \\\\",
        ),
        (
            "\"\\ud800\"",
            "1:2 \\ud800 is half of a surrogate pair\n  hint: write both halves, or the character itself",
        ),
        (
            "\"\\ud800\\u0041\"",
            "1:2 \\ud800 is half of a surrogate pair\n  hint: write both halves, or the character itself",
        ),
        (
            "\"\\u12\"",
            "1:2 expected four hexadecimal digits; the escape is too short",
        ),
        ("\0", "1:1 expected a value; found '\\0'"),
        (
            "[1]\0",
            "1:4 expected nothing after the document; found '\\0'",
        ),
        (
            "[tru]",
            "1:2 expected a value; found \"tru\"\n  hint: text stands in double quotes; the bare words are true, false and null",
        ),
    ];

    #[test]
    fn what_is_not_json_is_refused_with_its_place() {
        for (text, expected) in REFUSED {
            assert_eq!(refusal(text), *expected, "{text:?}");
        }
    }

    #[test]
    fn nesting_is_bounded_long_before_the_stack_is() {
        let at_limit = format!("{}{}", "[".repeat(MAX_DEPTH), "]".repeat(MAX_DEPTH));
        assert!(parse(&at_limit).is_ok());
        assert_eq!(
            refusal(&"[".repeat(100_000)),
            "1:65 expected at most 64 levels of nesting; it goes deeper here"
        );
        assert!(refusal(&"{\"a\":".repeat(100_000)).contains("64 levels"));
    }

    #[test]
    fn a_file_of_one_long_line_is_read_in_linear_time() {
        let text = format!("[{}0]", "0,".repeat(500_000));
        assert!(parse(&text).is_ok());
    }
}
