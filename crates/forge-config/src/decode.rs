//! Walks a document and turns it into values, noting every mistake on the way instead of stopping
//! at the first one.
//!
//! A method that gives `None` has noted why; callers go on with the other keys and put the result
//! together with `?` at the very end.

use std::ops::Range;
use std::path::PathBuf;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::diagnostic::{Diagnostic, MAX_DIAGNOSTICS, Problem, quote};
use crate::suggest::did_you_mean;

/// A value, where it stands, and the keys that lead to it.
#[derive(Debug, Clone)]
pub(crate) struct Located<'t> {
    pub(crate) value: &'t DeValue<'t>,
    span: Range<usize>,
    path: String,
}

impl Located<'_> {
    fn describe(&self) -> String {
        match self.value {
            DeValue::String(text) => format!("the text {}", quote(text)),
            DeValue::Integer(number) => format!("the number {}", number.as_str()),
            DeValue::Float(number) => format!("the number {}", number.as_str()),
            DeValue::Boolean(value) => value.to_string(),
            DeValue::Datetime(_) => "a date".to_owned(),
            DeValue::Array(_) => "a list".to_owned(),
            DeValue::Table(_) => "a table".to_owned(),
        }
    }
}

/// The keys of a table.
#[derive(Debug, Clone)]
pub(crate) struct Fields<'t> {
    path: String,
    table: &'t DeTable<'t>,
    /// Where the table stands.
    span: Range<usize>,
}

impl<'t> Fields<'t> {
    /// The value of `name`, if it is there.
    pub(crate) fn get(&self, name: &str) -> Option<Located<'t>> {
        let (_, value) = self
            .table
            .iter()
            .find(|(key, _)| key.get_ref().as_ref() == name)?;
        Some(self.locate(name, value))
    }

    /// All keys with their values.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&'t str, Located<'t>)> {
        self.table.iter().map(|(key, value)| {
            let name = key.get_ref().as_ref();
            (name, self.locate(name, value))
        })
    }

    fn locate(&self, name: &str, value: &'t Spanned<DeValue<'t>>) -> Located<'t> {
        Located {
            value: value.get_ref(),
            span: value.span(),
            path: join(&self.path, name),
        }
    }
}

fn join(path: &str, name: &str) -> String {
    match path {
        "" => name.to_owned(),
        path => format!("{path}.{name}"),
    }
}

/// A file being decoded.
#[derive(Debug)]
pub(crate) struct Decoder<'t> {
    file: PathBuf,
    text: &'t str,
    diagnostics: Vec<Diagnostic>,
}

impl<'t> Decoder<'t> {
    pub(crate) fn new(file: impl Into<PathBuf>, text: &'t str) -> Self {
        Self {
            file: file.into(),
            text,
            diagnostics: Vec::new(),
        }
    }

    /// The mistakes in the order a reader meets them.
    pub(crate) fn finish(mut self) -> Vec<Diagnostic> {
        self.diagnostics
            .sort_by_key(|each| (each.line, each.column));
        self.diagnostics.truncate(MAX_DIAGNOSTICS);
        self.diagnostics
    }

    /// Notes a mistake at an offset of the text.
    pub(crate) fn refuse_at(&mut self, offset: usize, field: &str, problem: Problem) {
        let (line, column) = position(self.text, offset);
        self.diagnostics.push(Diagnostic {
            file: self.file.clone(),
            line,
            column,
            field: (!field.is_empty()).then(|| field.to_owned()),
            message: problem.message,
            expected: problem.expected,
            hint: problem.hint,
        });
    }

    /// Notes a mistake in a value.
    pub(crate) fn refuse(&mut self, located: &Located<'_>, problem: Problem) {
        self.refuse_at(located.span.start, &located.path, problem);
    }

    /// Notes a mistake in a table as a whole.
    pub(crate) fn refuse_table(&mut self, fields: &Fields<'_>, problem: Problem) {
        self.refuse_at(fields.span.start, &fields.path, problem);
    }

    fn mistyped<T>(
        &mut self,
        located: &Located<'_>,
        expected: &str,
        hint: Option<&str>,
    ) -> Option<T> {
        let problem = Problem::new(format!("found {}", located.describe()))
            .expecting(expected)
            .hint_if_any(hint.map(str::to_owned));
        self.refuse(located, problem);
        None
    }

    /// The document itself.
    pub(crate) fn root<'v>(
        &mut self,
        root: &'v Spanned<DeTable<'v>>,
        known: &[&str],
    ) -> Fields<'v> {
        let fields = Fields {
            path: String::new(),
            table: root.get_ref(),
            span: 0..0,
        };
        self.only(&fields, known);
        fields
    }

    /// A table with any keys.
    pub(crate) fn open_table<'v>(&mut self, located: &Located<'v>) -> Option<Fields<'v>> {
        match located.value {
            DeValue::Table(table) => Some(Fields {
                path: located.path.clone(),
                table,
                span: located.span.clone(),
            }),
            DeValue::Array(_) => self.mistyped(
                located,
                "a table",
                Some(&format!("write [{0}], not [[{0}]]", located.path)),
            ),
            _ => self.mistyped(located, "a table", None),
        }
    }

    /// A table with no other keys than `known`.
    pub(crate) fn table<'v>(
        &mut self,
        located: &Located<'v>,
        known: &[&str],
    ) -> Option<Fields<'v>> {
        let fields = self.open_table(located)?;
        self.only(&fields, known);
        Some(fields)
    }

    fn only(&mut self, fields: &Fields<'_>, known: &[&str]) {
        for (key, _) in fields.table.iter() {
            let name = key.get_ref().as_ref();
            if !known.contains(&name) {
                let hint = did_you_mean(name, known.iter().copied())
                    .unwrap_or_else(|| format!("the keys here are {}", known.join(", ")));
                let problem = Problem::new(format!("unknown key {}", quote(name))).hint(hint);
                let path = join(&fields.path, name);
                self.refuse_at(key.span().start, &path, problem);
            }
        }
    }

    /// Text, by a rule.
    pub(crate) fn text<T>(
        &mut self,
        located: &Located<'_>,
        rule: impl FnOnce(&str) -> Result<T, Problem>,
    ) -> Option<T> {
        match located.value {
            DeValue::String(text) => match rule(text) {
                Ok(value) => Some(value),
                Err(problem) => {
                    self.refuse(located, problem);
                    None
                }
            },
            _ => self.mistyped(located, "text in quotes", None),
        }
    }

    /// `true` or `false`.
    pub(crate) fn boolean(&mut self, located: &Located<'_>) -> Option<bool> {
        match located.value {
            DeValue::Boolean(value) => Some(*value),
            DeValue::String(text) if ["true", "false"].contains(&text.as_ref()) => {
                self.mistyped(located, "true or false", Some("remove the quotes"))
            }
            _ => self.mistyped(located, "true or false", None),
        }
    }

    /// One of a few names.
    pub(crate) fn choice<T: Copy>(
        &mut self,
        located: &Located<'_>,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let found = match located.value {
            DeValue::String(text) => text.as_ref(),
            _ => "",
        };
        if let Some(&(_, value)) = choices.iter().find(|(name, _)| *name == found) {
            return Some(value);
        }
        let names: Vec<&str> = choices.iter().map(|&(name, _)| name).collect();
        let problem = Problem::new(format!("found {}", located.describe()))
            .expecting(format!("one of {}", names.join(", ")))
            .hint_if_any(did_you_mean(found, names));
        self.refuse(located, problem);
        None
    }

    /// The elements of a list.
    pub(crate) fn list<'v>(&mut self, located: &Located<'v>) -> Option<Vec<Located<'v>>> {
        match located.value {
            DeValue::Array(items) => Some(
                items
                    .iter()
                    .enumerate()
                    .map(|(index, item)| Located {
                        value: item.get_ref(),
                        span: item.span(),
                        path: format!("{}[{index}]", located.path),
                    })
                    .collect(),
            ),
            DeValue::String(_) => {
                self.mistyped(located, "a list", Some("put it in square brackets"))
            }
            DeValue::Table(_) => self.mistyped(
                located,
                "a list",
                Some(&format!("write [[{0}]], not [{0}]", located.path)),
            ),
            _ => self.mistyped(located, "a list", None),
        }
    }

    /// A list of texts, each by a rule; `None` when any of them is wrong.
    pub(crate) fn texts<T>(
        &mut self,
        located: &Located<'_>,
        rule: impl Fn(&str) -> Result<T, Problem>,
    ) -> Option<Vec<T>> {
        let items = self.list(located)?;
        let values: Vec<T> = items
            .iter()
            .filter_map(|item| self.text(item, &rule))
            .collect();
        (values.len() == items.len()).then_some(values)
    }

    /// A whole number in a range.
    pub(crate) fn whole(&mut self, located: &Located<'_>, range: Range<u64>) -> Option<u64> {
        let found = match located.value {
            DeValue::Integer(number) => {
                let digits = number.as_str();
                u64::from_str_radix(digits.trim_start_matches('+'), number.radix()).ok()
            }
            _ => None,
        };
        match found {
            Some(value) if range.contains(&value) => Some(value),
            _ => {
                let last = range.end.saturating_sub(1);
                let expected = format!("a whole number from {} to {last}", range.start);
                self.mistyped(located, &expected, number_hint(located.value))
            }
        }
    }

    /// A number in a range, both ends included.
    pub(crate) fn number(&mut self, located: &Located<'_>, least: f64, most: f64) -> Option<f64> {
        let found = match located.value {
            DeValue::Integer(number) if number.radix() == 10 => number.as_str().parse().ok(),
            DeValue::Float(number) => number.as_str().parse::<f64>().ok(),
            _ => None,
        };
        match found {
            // Not-a-number is in no range.
            Some(value) if (least..=most).contains(&value) => Some(value),
            _ => {
                let expected = format!("a number from {least} to {most}");
                self.mistyped(located, &expected, number_hint(located.value))
            }
        }
    }
}

fn number_hint(value: &DeValue<'_>) -> Option<&'static str> {
    match value {
        DeValue::String(text) if text.parse::<f64>().is_ok() => Some("remove the quotes"),
        _ => None,
    }
}

/// Line and column of an offset, in characters from 1.
fn position(text: &str, offset: usize) -> (u32, u32) {
    let mut end = offset.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let before = &text[..end];
    let line = before.matches('\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    let column = before[start..].chars().count() + 1;
    let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    (number(line), number(column))
}
