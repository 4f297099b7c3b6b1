//! Reads TOML into a tree with positions.

use forge_document::{Member, Node, Position, Problem, SyntaxError, Value};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The document in `text`, or everything that keeps it from being one.
pub(crate) fn parse(text: &str) -> Result<Node, Vec<SyntaxError>> {
    let places = Places::of(text);
    let (root, errors) = DeTable::parse_recoverable(text);
    // A table that was put together around a syntax error would raise mistakes that are none.
    if errors.is_empty() {
        return Ok(Node {
            at: Position::START,
            value: Value::Object(members(root.get_ref(), &places)),
        });
    }
    let errors = errors.iter().map(|error| {
        let offset = error.span().map_or(0, |span| span.start);
        let message = error.message().replace('\n', ", ");
        SyntaxError::new(
            places.at(offset),
            Problem::new(format!("no TOML: {message}")),
        )
    });
    Err(errors.collect())
}

/// The reader of TOML bounds how deep values are nested, and so this.
fn node(value: &Spanned<DeValue<'_>>, places: &Places<'_>) -> Node {
    Node {
        at: places.at(value.span().start),
        value: match value.get_ref() {
            DeValue::String(text) => Value::Text(text.as_ref().to_owned()),
            DeValue::Integer(number) => Value::Number(number.to_string()),
            DeValue::Float(number) => Value::Number(number.to_string()),
            DeValue::Boolean(value) => Value::Boolean(*value),
            DeValue::Datetime(_) => Value::Date,
            DeValue::Array(items) => {
                Value::List(items.iter().map(|item| node(item, places)).collect())
            }
            DeValue::Table(table) => Value::Object(members(table, places)),
        },
    }
}

fn members(table: &DeTable<'_>, places: &Places<'_>) -> Vec<Member> {
    let members = table.iter().map(|(key, value)| Member {
        key: key.get_ref().as_ref().to_owned(),
        key_at: places.at(key.span().start),
        node: node(value, places),
    });
    members.collect()
}

/// Finds the line and column of an offset without counting from the beginning each time.
struct Places<'t> {
    text: &'t str,
    /// Some offsets with their places, in order; the first is 0.
    marks: Vec<(usize, Position)>,
}

impl<'t> Places<'t> {
    /// About how many bytes are between two marks.
    const STRIDE: usize = 1024;

    fn of(text: &'t str) -> Self {
        let mut marks = vec![(0, Position::START)];
        let (mut at, mut last) = (Position::START, 0);
        for (offset, character) in text.char_indices() {
            if offset >= last + Self::STRIDE {
                marks.push((offset, at));
                last = offset;
            }
            at.advance(character);
        }
        Self { text, marks }
    }

    /// The place of the character that holds the byte at `offset`.
    fn at(&self, offset: usize) -> Position {
        let after = self.marks.partition_point(|(mark, _)| *mark <= offset);
        let (start, mut at) = match self.marks.get(after.saturating_sub(1)) {
            Some(mark) => *mark,
            None => (0, Position::START),
        };
        for (index, character) in self.text[start..].char_indices() {
            if start + index + character.len_utf8() > offset {
                break;
            }
            at.advance(character);
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_those_that_counting_from_the_beginning_gives() {
        let text = "ä = \"öü\"\n".repeat(700) + &"x".repeat(3000);
        let places = Places::of(&text);
        let mut expected = Position::START;
        for (offset, character) in text.char_indices() {
            assert_eq!(places.at(offset), expected, "{offset}");
            expected.advance(character);
        }
        assert_eq!(places.at(text.len()), expected);
    }

    #[test]
    fn numbers_stay_as_they_are_written_and_mean() {
        let root = parse("a = 0xff\nb = 1_000\nc = 1.50\nd = 1979-05-27\n").unwrap();
        let Value::Object(members) = root.value else {
            panic!("no table");
        };
        let values: Vec<_> = members.into_iter().map(|each| each.node.value).collect();
        let number = |text: &str| Value::Number(text.to_owned());
        assert_eq!(
            values,
            [number("0xff"), number("1000"), number("1.50"), Value::Date]
        );
    }
}
