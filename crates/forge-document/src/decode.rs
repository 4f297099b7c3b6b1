//! Walks a tree and turns it into values, noting every mistake on the way instead of stopping at
//! the first one.
//!
//! A method that gives `None` has noted why; callers go on with the other fields and put the
//! result together with `?` at the very end.

use std::path::Path;

use crate::diagnostic::{Diagnostic, ErrorList, Problem, quote};
use crate::suggest::did_you_mean;
use crate::tree::{
    Member, Node, Position, SyntaxError, Value, join, report_repeated_keys, text_of,
};

/// A value and the path that leads to it.
#[derive(Debug, Clone)]
pub struct Located<'t> {
    /// The value.
    pub node: &'t Node,
    /// The keys that lead to it, as `tools[2].name`; empty for the document itself.
    pub path: String,
}

/// The members of an object.
#[derive(Debug, Clone)]
pub struct Fields<'t> {
    at: Position,
    path: String,
    members: &'t [Member],
}

impl<'t> Located<'t> {
    /// The document itself.
    #[must_use]
    pub const fn root(node: &'t Node) -> Self {
        Self {
            node,
            path: String::new(),
        }
    }
}

impl<'t> Fields<'t> {
    /// The value of `name`, if it is there; the first when it is repeated.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Located<'t>> {
        let member = self.members.iter().find(|member| member.key == name)?;
        Some(self.locate(member))
    }

    /// All members, in the order written.
    pub fn all(&self) -> impl Iterator<Item = (&'t Member, Located<'t>)> {
        self.members
            .iter()
            .map(|member| (member, self.locate(member)))
    }

    fn locate(&self, member: &'t Member) -> Located<'t> {
        Located {
            node: &member.node,
            path: join(&self.path, &member.key),
        }
    }
}

/// `Some(None)` when the field is not there, `None` when it is wrong: the second is what `?` acts on.
pub fn optional<'t, T>(
    fields: &Fields<'t>,
    name: &str,
    decode: impl FnOnce(&Located<'t>) -> Option<T>,
) -> Option<Option<T>> {
    match fields.get(name) {
        None => Some(None),
        Some(field) => decode(&field).map(Some),
    }
}

/// What a format calls its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Words {
    /// JSON and YAML: objects with fields.
    Objects,
    /// TOML: tables with keys.
    Tables,
}

impl Words {
    const fn object(self) -> &'static str {
        match self {
            Self::Objects => "an object",
            Self::Tables => "a table",
        }
    }

    const fn field(self) -> &'static str {
        match self {
            Self::Objects => "field",
            Self::Tables => "key",
        }
    }
}

/// One file being decoded.
#[derive(Debug)]
pub struct Decoder {
    errors: ErrorList,
    words: Words,
}

impl Decoder {
    /// A decoder of `file`, which is JSON or YAML.
    #[must_use]
    pub fn new(file: &Path) -> Self {
        Self {
            errors: ErrorList::new(file),
            words: Words::Objects,
        }
    }

    /// A decoder of `file`, which is TOML.
    #[must_use]
    pub fn of_toml(file: &Path) -> Self {
        Self {
            errors: ErrorList::new(file),
            words: Words::Tables,
        }
    }

    /// The mistakes in the order a reader meets them.
    #[must_use]
    pub fn finish(self) -> Vec<Diagnostic> {
        self.errors.into_sorted()
    }

    /// Whether looking for more mistakes is in vain.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.errors.is_full()
    }

    /// The tree of `bytes`, read by `parse`, with repeated keys noted.
    pub fn tree(
        &mut self,
        bytes: &[u8],
        parse: impl FnOnce(&str) -> Result<Node, SyntaxError>,
    ) -> Option<Node> {
        match text_of(bytes).and_then(parse) {
            Ok(root) => {
                report_repeated_keys(&root, &mut self.errors);
                Some(root)
            }
            Err(SyntaxError { at, problem }) => {
                self.errors.push(at, "", problem);
                None
            }
        }
    }

    /// Notes a mistake in a value.
    pub fn refuse(&mut self, located: &Located<'_>, problem: Problem) {
        self.errors.push(located.node.at, &located.path, problem);
    }

    /// Notes a mistake in a key.
    pub fn refuse_key(&mut self, member: &Member, path: &str, problem: Problem) {
        self.errors.push(member.key_at, path, problem);
    }

    /// Notes a mistake at a place.
    pub fn refuse_at(&mut self, at: Position, path: &str, problem: Problem) {
        self.errors.push(at, path, problem);
    }

    /// Notes a mistake in an object as a whole, under the name of one of its fields.
    pub fn refuse_object(&mut self, fields: &Fields<'_>, name: &str, problem: Problem) {
        let path = match name {
            "" => fields.path.clone(),
            name => join(&fields.path, name),
        };
        self.errors.push(fields.at, &path, problem);
    }

    /// Applies a rule to a value.
    pub fn check<T>(&mut self, located: &Located<'_>, result: Result<T, Problem>) -> Option<T> {
        result.map_err(|problem| self.refuse(located, problem)).ok()
    }

    fn mistyped<T>(
        &mut self,
        located: &Located<'_>,
        expected: &str,
        hint: Option<&str>,
    ) -> Option<T> {
        let problem = Problem::new(format!("found {}", located.node.describe()))
            .expecting(expected)
            .hint_if_any(hint.map(str::to_owned));
        self.refuse(located, problem);
        None
    }

    /// An object with any keys.
    pub fn open_object<'t>(&mut self, located: &Located<'t>) -> Option<Fields<'t>> {
        let expected = self.words.object();
        match &located.node.value {
            Value::Object(members) => Some(Fields {
                at: located.node.at,
                path: located.path.clone(),
                members,
            }),
            Value::Null => self.mistyped(
                located,
                expected,
                Some("give it a value, or remove the key"),
            ),
            Value::List(_) if self.words == Words::Tables => {
                let hint = format!("write [{0}], not [[{0}]]", located.path);
                self.mistyped(located, expected, Some(&hint))
            }
            _ => self.mistyped(located, expected, None),
        }
    }

    /// An object with no other keys than `known`.
    pub fn object<'t>(&mut self, located: &Located<'t>, known: &[&str]) -> Option<Fields<'t>> {
        let fields = self.open_object(located)?;
        for (member, field) in fields.all() {
            if !known.contains(&member.key.as_str()) && !self.is_full() {
                let word = self.words.field();
                let hint = did_you_mean(&member.key, known.iter().copied())
                    .unwrap_or_else(|| format!("the {word}s here are {}", known.join(", ")));
                let problem =
                    Problem::new(format!("unknown {word} {}", quote(&member.key))).hint(hint);
                self.refuse_key(member, &field.path, problem);
            }
        }
        Some(fields)
    }

    /// A field that must be there.
    pub fn required<'t>(
        &mut self,
        fields: &Fields<'t>,
        name: &str,
        hint: &str,
    ) -> Option<Located<'t>> {
        let field = fields.get(name);
        if field.is_none() {
            let problem = format!("this {} is required", self.words.field());
            self.refuse_object(fields, name, Problem::new(problem).hint(hint));
        }
        field
    }

    /// Text by a rule.
    pub fn text<'t>(
        &mut self,
        located: &Located<'t>,
        rule: impl FnOnce(&str) -> Result<(), Problem>,
    ) -> Option<&'t str> {
        self.value(located, |text| rule(text).map(|()| text))
    }

    /// What `rule` makes of a text.
    pub fn value<'t, T>(
        &mut self,
        located: &Located<'t>,
        rule: impl FnOnce(&'t str) -> Result<T, Problem>,
    ) -> Option<T> {
        match &located.node.value {
            Value::Text(text) => self.check(located, rule(text)),
            Value::Number(_) | Value::Boolean(_) | Value::Date => {
                self.mistyped(located, "text", Some("put it in quotes"))
            }
            _ => self.mistyped(located, "text", None),
        }
    }

    /// `true` or `false`.
    pub fn boolean(&mut self, located: &Located<'_>) -> Option<bool> {
        const EXPECTED: &str = "true or false";
        let hint = match &located.node.value {
            Value::Boolean(value) => return Some(*value),
            Value::Text(text) => match text.to_ascii_lowercase().as_str() {
                "yes" | "on" | "y" => Some("write true"),
                "no" | "off" | "n" => Some("write false"),
                "true" | "false" => Some("remove the quotes"),
                _ => None,
            },
            _ => None,
        };
        self.mistyped(located, EXPECTED, hint)
    }

    /// One of a few names.
    pub fn choice<T: Copy>(
        &mut self,
        located: &Located<'_>,
        choices: impl IntoIterator<Item = (&'static str, T)>,
    ) -> Option<T> {
        let choices: Vec<_> = choices.into_iter().collect();
        let names = || choices.iter().map(|&(name, _)| name);
        let found = match &located.node.value {
            Value::Text(text) => text.as_str(),
            _ => "",
        };
        let chosen = choices.iter().find(|(name, _)| *name == found);
        if chosen.is_none() {
            let expected = format!("one of {}", names().collect::<Vec<_>>().join(", "));
            let problem = Problem::new(format!("found {}", located.node.describe()))
                .expecting(expected)
                .hint_if_any(did_you_mean(found, names()));
            self.refuse(located, problem);
        }
        chosen.map(|&(_, value)| value)
    }

    /// The elements of a list.
    pub fn list<'t>(&mut self, located: &Located<'t>) -> Option<Vec<Located<'t>>> {
        match &located.node.value {
            Value::List(items) => Some(
                items
                    .iter()
                    .enumerate()
                    .map(|(index, node)| Located {
                        node,
                        path: format!("{}[{index}]", located.path),
                    })
                    .collect(),
            ),
            Value::Null => self.mistyped(
                located,
                "a list",
                Some("give it a value, or remove the key"),
            ),
            Value::Text(text) => {
                let hint = format!("write [{}]", quote(text));
                self.mistyped(located, "a list", Some(&hint))
            }
            Value::Object(_) if self.words == Words::Tables => {
                let hint = format!("write [[{0}]], not [{0}]", located.path);
                self.mistyped(located, "a list", Some(&hint))
            }
            _ => self.mistyped(located, "a list", None),
        }
    }

    /// A list of texts, each by a rule; `None` when any of them is wrong.
    pub fn texts<'t>(
        &mut self,
        located: &Located<'t>,
        rule: impl Fn(&str) -> Result<(), Problem>,
    ) -> Option<Vec<(Located<'t>, String)>> {
        self.each(located, |decoder, item| {
            let text = decoder.text(item, &rule)?.to_owned();
            Some((item.clone(), text))
        })
    }

    /// What `rule` makes of the texts of a list; `None` when any of them is wrong.
    pub fn values<'t, T>(
        &mut self,
        located: &Located<'t>,
        rule: impl Fn(&'t str) -> Result<T, Problem>,
    ) -> Option<Vec<T>> {
        self.each(located, |decoder, item| decoder.value(item, &rule))
    }

    /// The elements of a list, each decoded; `None` when any of them is wrong.
    pub fn each<'t, T>(
        &mut self,
        located: &Located<'t>,
        mut decode: impl FnMut(&mut Self, &Located<'t>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let items = self.list(located)?;
        let values: Vec<T> = items.iter().filter_map(|item| decode(self, item)).collect();
        (values.len() == items.len()).then_some(values)
    }

    /// A whole number from `least` to `most`.
    pub fn whole(&mut self, located: &Located<'_>, least: u64, most: Most) -> Option<u64> {
        let value = match &located.node.value {
            Value::Number(text) => whole_number(text),
            _ => None,
        };
        match value {
            Some(value) if (least..=most.value).contains(&value) => Some(value),
            _ => {
                let expected = format!("a whole number from {least} to {}", most.describe());
                let hint = number_hint(&located.node.value);
                self.mistyped(located, &expected, hint.as_deref())
            }
        }
    }

    /// A number from `least` to `most`, fractions allowed.
    pub fn number(&mut self, located: &Located<'_>, least: f64, most: Most) -> Option<f64> {
        let value = match &located.node.value {
            Value::Number(text) => text.parse::<f64>().ok(),
            _ => None,
        };
        match value {
            // Not-a-number is in no range.
            Some(value) if (least..=most.fraction()).contains(&value) => Some(value),
            _ => {
                let expected = format!("a number from {least} to {}", most.describe());
                let hint = number_hint(&located.node.value);
                self.mistyped(located, &expected, hint.as_deref())
            }
        }
    }
}

/// The upper end of a range and who set it.
#[derive(Debug, Clone, Copy)]
pub struct Most {
    value: u64,
    /// What one unit of the field is in units of `value`.
    scale: u64,
    by_operator: bool,
}

impl Most {
    /// A bound that is part of the format.
    #[must_use]
    pub const fn fixed(value: u64) -> Self {
        Self {
            value,
            scale: 1,
            by_operator: false,
        }
    }

    /// A bound of the operator's in whole units of the field.
    #[must_use]
    pub const fn ceiling(value: u64) -> Self {
        Self {
            value,
            scale: 1,
            by_operator: true,
        }
    }

    /// A bound of the operator's in `1/scale` of the field's unit.
    #[must_use]
    pub const fn scaled_ceiling(value: u64, scale: u64) -> Self {
        Self {
            value,
            scale,
            by_operator: true,
        }
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "a ceiling of more than 2^53 bytes may be off by a few of them"
    )]
    fn fraction(self) -> f64 {
        self.value as f64 / self.scale as f64
    }

    fn describe(self) -> String {
        let by = if self.by_operator {
            " (the operator's ceiling)"
        } else {
            ""
        };
        format!("{}{by}", self.fraction())
    }
}

/// A number as JSON, YAML and TOML write whole ones.
fn whole_number(text: &str) -> Option<u64> {
    if let Some(digits) = text.strip_prefix("0x") {
        return u64::from_str_radix(digits, 16).ok();
    }
    if let Some(digits) = text.strip_prefix("0b") {
        return u64::from_str_radix(digits, 2).ok();
    }
    match text.strip_prefix("0o") {
        Some(digits) => u64::from_str_radix(digits, 8).ok(),
        None => text.parse().ok(),
    }
}

fn number_hint(value: &Value) -> Option<String> {
    match value {
        Value::Text(text) if text.parse::<f64>().is_ok_and(f64::is_finite) => {
            Some("remove the quotes".to_owned())
        }
        Value::Text(text) => {
            let digits = text.replace('_', "");
            let plain = digits.chars().all(|character| character.is_ascii_digit());
            (plain && !digits.is_empty()).then(|| format!("write {digits}"))
        }
        Value::Null => Some("give it a value, or remove the key".to_owned()),
        _ => None,
    }
}
