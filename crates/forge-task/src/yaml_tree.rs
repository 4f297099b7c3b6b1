//! Reads YAML 1.2 into a tree with positions, without the parts of it that surprise: anchors,
//! aliases, tags, several documents and keys that are not plain text are refused.
//!
//! Refusing anchors altogether is what makes alias bombs impossible; a file of settings for one
//! task has no use for them.

use forge_document::{MAX_DEPTH, Member, Node, Position, Problem, SyntaxError, Value, quote};
use granit_parser::{ErrorKind, Event, Marker, Options, Parser, ScalarStyle, ScanError, Span};

/// The document in `text`; nothing at all reads as [`Value::Null`].
pub(crate) fn parse(text: &str) -> Result<Node, SyntaxError> {
    refuse_control_characters(text)?;
    let mut builder = Builder::default();
    for event in Parser::new_from_str_with_options(text, options()) {
        let (event, span) = event.map_err(|error| not_yaml(&error))?;
        builder.take(event, span)?;
    }
    Ok(builder.root.unwrap_or(Node {
        at: Position::START,
        value: Value::Null,
    }))
}

fn options() -> Options {
    granit_parser::options! {
        emit_comments: false,
        emit_anchor_events: true,
        // Reported as an alias like any other, instead of as a missing anchor.
        emit_unresolved_aliases: true,
        disallow_directives: true,
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
    }
}

/// The scanner takes NUL for the end of its input, so what follows one would vanish unread.
fn refuse_control_characters(text: &str) -> Result<(), SyntaxError> {
    let mut at = Position::START;
    for character in text.chars() {
        if character.is_control() && !matches!(character, '\t' | '\n' | '\r') {
            let problem = Problem::new(format!("found the control character {character:?}"))
                .hint("remove it, or write it as an escape within double quotes");
            return Err(SyntaxError::new(at, problem));
        }
        at.advance(character);
    }
    Ok(())
}

fn not_yaml(error: &ScanError) -> SyntaxError {
    if *error.kind() == ErrorKind::RecursionLimitExceeded {
        return SyntaxError::too_deep(position(*error.marker()));
    }
    let problem = Problem::new(format!("this is not YAML: {}", error.info()));
    SyntaxError::new(position(*error.marker()), problem)
}

fn position(marker: Marker) -> Position {
    let narrow = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    Position {
        line: narrow(marker.line()).max(1),
        column: narrow(marker.col()).saturating_add(1),
    }
}

/// A list or object that is still open.
enum Open {
    List(Position, Vec<Node>),
    Object(Position, Vec<Member>, Option<(String, Position)>),
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    root: Option<Node>,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), SyntaxError> {
        let at = position(span.start);
        if let Some(tag) = span.tag_start() {
            let problem = Problem::new("found a tag").hint("tags are not used here; remove it");
            return Err(SyntaxError::new(position(tag), problem));
        }
        match event {
            Event::DocumentStart(..) if self.root.is_some() => {
                let problem = Problem::new("a second document begins here")
                    .expecting("one document")
                    .hint("remove the line \"---\" and what follows it");
                Err(SyntaxError::new(at, problem))
            }
            Event::Anchor(_, name) => Err(shared(at, "anchor", &format!("&{name}"))),
            Event::Alias(_) => Err(shared(at, "alias", "*")),
            Event::UnresolvedAlias(name) => Err(shared(at, "alias", &format!("*{name}"))),
            Event::Scalar(text, style, ..) => self.scalar(&text, style, at),
            Event::SequenceStart(..) => self.open(at, Open::List(at, Vec::new())),
            Event::MappingStart(..) => self.open(at, Open::Object(at, Vec::new(), None)),
            Event::SequenceEnd | Event::MappingEnd => {
                self.close();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, at: Position) -> Result<(), SyntaxError> {
        if let Some(Open::Object(_, _, key @ None)) = self.open.last_mut() {
            if text == "<<" {
                return Err(shared(at, "merge key", "<<"));
            }
            *key = Some((text.to_owned(), at));
            return Ok(());
        }
        let value = if style == ScalarStyle::Plain {
            plain(text)
        } else {
            Value::Text(text.to_owned())
        };
        self.place(Node { at, value });
        Ok(())
    }

    fn open(&mut self, at: Position, opened: Open) -> Result<(), SyntaxError> {
        if let Some(Open::Object(_, _, None)) = self.open.last() {
            let problem = Problem::new("found a list or an object").expecting("text as the key");
            return Err(SyntaxError::new(at, problem));
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(SyntaxError::too_deep(at));
        }
        self.open.push(opened);
        Ok(())
    }

    fn close(&mut self) {
        let node = match self.open.pop() {
            Some(Open::List(at, items)) => Node {
                at,
                value: Value::List(items),
            },
            Some(Open::Object(at, members, _)) => Node {
                at,
                value: Value::Object(members),
            },
            None => return,
        };
        self.place(node);
    }

    fn place(&mut self, node: Node) {
        match self.open.last_mut() {
            Some(Open::List(_, items)) => items.push(node),
            Some(Open::Object(_, members, key)) => {
                if let Some((key, key_at)) = key.take() {
                    members.push(Member { key, key_at, node });
                }
            }
            None => self.root = Some(node),
        }
    }
}

fn shared(at: Position, what: &str, found: &str) -> SyntaxError {
    let problem = Problem::new(format!("found the {what} {}", quote(found)))
        .hint("anchors, aliases and merge keys are not used here; write the value out");
    SyntaxError::new(at, problem)
}

/// An unquoted scalar, by the core schema of YAML 1.2: `no` and `1_000` are text.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Boolean(true),
        "false" | "False" | "FALSE" => Value::Boolean(false),
        _ if is_number(text) => Value::Number(text.to_owned()),
        _ => Value::Text(text.to_owned()),
    }
}

fn is_number(text: &str) -> bool {
    let based = |prefix: &str, radix: u32| {
        text.strip_prefix(prefix).is_some_and(|digits| {
            !digits.is_empty() && digits.chars().all(|character| character.is_digit(radix))
        })
    };
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let special =
        matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN");
    // What `f64` reads beyond the core schema, `inf` and `nan`, begins with a letter.
    let decimal = unsigned.starts_with(|first: char| first.is_ascii_digit() || first == '.')
        && unsigned.parse::<f64>().is_ok();
    special || decimal || based("0x", 16) || based("0o", 8)
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
        let node = parse("# about\r\na:\r\n  - ü: [x, \"1\"]\r\nb: 7\r\n").unwrap();
        let at = |line, column| Position { line, column };
        assert_eq!(node.at, at(2, 1));
        let Value::Object(members) = &node.value else {
            panic!("{node:?}")
        };
        assert_eq!(members[1].key_at, at(4, 1));
        assert_eq!(members[1].node.at, at(4, 4));
        let Value::List(items) = &members[0].node.value else {
            panic!("{node:?}")
        };
        let Value::Object(inner) = &items[0].value else {
            panic!("{node:?}")
        };
        assert_eq!((inner[0].key.as_str(), inner[0].node.at), ("ü", at(3, 8)));
        let Value::List(inner) = &inner[0].node.value else {
            panic!("{inner:?}")
        };
        assert_eq!(inner[1].at, at(3, 12));
        assert_eq!(inner[1].value, Value::Text("1".to_owned()));
    }

    #[test]
    fn plain_scalars_follow_the_core_schema() {
        let number = |text: &str| Value::Number(text.to_owned());
        let text = |text: &str| Value::Text(text.to_owned());
        for (written, value) in [
            ("3.10", number("3.10")),
            ("-1", number("-1")),
            (".5", number(".5")),
            ("1e3", number("1e3")),
            ("0x1F", number("0x1F")),
            ("0o17", number("0o17")),
            (".nan", number(".nan")),
            ("-.inf", number("-.inf")),
            ("nan", text("nan")),
            ("inf", text("inf")),
            ("1_000", text("1_000")),
            ("no", text("no")),
            ("on", text("on")),
            ("12:30", text("12:30")),
            ("1000:1000", text("1000:1000")),
            ("True", Value::Boolean(true)),
            ("~", Value::Null),
            ("'true'", text("true")),
            ("\"7\"", text("7")),
        ] {
            assert_eq!(parse(written).unwrap().value, value, "{written}");
        }
    }

    #[test]
    fn an_empty_file_is_nothing() {
        for text in ["", "\n", "# only a comment\n", "---\n", "---\n...\n"] {
            assert_eq!(parse(text).unwrap().value, Value::Null, "{text:?}");
        }
    }

    #[test]
    fn what_could_surprise_is_refused_with_its_place() {
        let hint =
            "\n  hint: anchors, aliases and merge keys are not used here; write the value out";
        for (text, expected) in [
            ("a: &x 1\nb: *x\n", format!("1:4 found the anchor \"&x\"{hint}")),
            ("b: *x\n", format!("1:4 found the alias \"*x\"{hint}")),
            ("<<: {a: 1}\n", format!("1:1 found the merge key \"<<\"{hint}")),
            ("a: !!python/object x\n", "1:4 found a tag\n  hint: tags are not used here; remove it".to_owned()),
            ("a: 1\n---\nb: 2\n", "2:1 expected one document; a second document begins here\n  hint: remove the line \"---\" and what follows it".to_owned()),
            ("? [a, b]\n: 1\n", "1:3 expected text as the key; found a list or an object".to_owned()),
            ("a: 1\0\nb: 2\n", "1:5 found the control character '\\0'\n  hint: remove it, or write it as an escape within double quotes".to_owned()),
        ] {
            assert_eq!(refusal(text), expected, "{text:?}");
        }
        for text in [
            "a: [1\n",
            "a: b: c\n",
            "a: 'x\n",
            "%YAML 1.2\n---\na: 1\n",
            "@x",
        ] {
            assert!(
                refusal(text).contains("this is not YAML: "),
                "{text:?} {}",
                refusal(text)
            );
        }
    }

    #[test]
    fn an_alias_bomb_is_refused_at_its_first_anchor() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..40 {
            let aliases = vec![format!("*a{}", level - 1); 9].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
        }
        assert!(refusal(&text).starts_with("1:5 found the anchor \"&a0\""));
    }

    #[test]
    fn nesting_is_bounded_long_before_the_stack_is() {
        let mixed = ["- ", "[", "]"].map(|text| text.repeat(40)).concat();
        for text in ["[", "{a: ", "- "]
            .map(|text| text.repeat(100_000))
            .iter()
            .chain([&mixed])
        {
            assert!(refusal(text).contains("64 levels"), "{}", refusal(text));
        }
    }
}
