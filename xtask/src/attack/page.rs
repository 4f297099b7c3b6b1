//! The table in `docs/security.md`, written anew between its marks.

use std::collections::BTreeMap;

use super::tables::{LEVELS, Row};
use crate::shell::{self, Failure};

const PAGE: &str = "docs/security.md";
const BEGIN: &str = "<!-- attack table begin -->";
const END: &str = "<!-- attack table end -->";

/// Writes the table of a whole run.
pub(super) fn write(rows: &[Row]) -> Result<(), Failure> {
    let path = shell::root().join(PAGE);
    let failure = |problem: &dyn std::fmt::Display| Failure::new(format!("{PAGE}: {problem}"));
    let page = std::fs::read_to_string(&path).map_err(|error| failure(&error))?;
    let page = replaced(&page, &table(rows))
        .ok_or_else(|| failure(&"the marks of the table are missing"))?;
    std::fs::write(&path, page).map_err(|error| failure(&error))
}

fn replaced(page: &str, table: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{table}{END}{after}"))
}

/// A line for each attempt. Levels at which it came to the same stand together.
fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "{} attempts of {} kinds; `|` separates outcomes of which each is as it should be.\n\n\
         | case | what is tried | expected | observed | |\n|---|---|---|---|---|\n",
        rows.len(),
        kinds(rows).len()
    );
    for rows in kinds(rows) {
        let Some(first) = rows.first() else { continue };
        let verdict = if rows.iter().all(|row| row.passed) {
            "held"
        } else {
            "**broken**"
        };
        let (expected, observed) = (
            by_level(&rows, |row| &row.expected),
            by_level(&rows, |row| &row.observed),
        );
        let observed = if observed == expected {
            "the same".to_owned()
        } else {
            observed
        };
        let (case, what) = (first.case, plain(&first.what));
        text.push_str(&format!(
            "| {case} | {what} | {expected} | {observed} | {verdict} |\n"
        ));
    }
    text
}

/// The rows of each attempt, in the order in which attempts first appear.
fn kinds(rows: &[Row]) -> Vec<Vec<&Row>> {
    let mut places: BTreeMap<(u64, &str), usize> = BTreeMap::new();
    let mut kinds: Vec<Vec<&Row>> = Vec::new();
    for row in rows {
        let place = *places.entry((row.case, &row.name)).or_insert(kinds.len());
        match kinds.get_mut(place) {
            Some(kind) => kind.push(row),
            None => kinds.push(vec![row]),
        }
    }
    kinds
}

fn by_level<'a>(rows: &[&'a Row], value: impl Fn(&'a Row) -> &'a str) -> String {
    let mut groups: Vec<(Vec<&str>, &str)> = Vec::new();
    for row in rows {
        let value = value(row);
        match groups.iter_mut().find(|(_, other)| *other == value) {
            Some((levels, _)) => levels.push(&row.level),
            None => groups.push((vec![&row.level], value)),
        }
    }
    let shown = |(levels, value): &(Vec<&str>, &str)| {
        let levels = match levels.as_slice() {
            [""] => String::new(),
            all if all.len() == LEVELS.len() => String::new(),
            some => format!("{}: ", some.join(", ")),
        };
        format!("{levels}`{}`", plain(value))
    };
    groups.iter().map(shown).collect::<Vec<_>>().join("; ")
}

/// Nothing of an outcome may end a cell or the line.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    for character in text.chars().take(160) {
        match character {
            '|' => plain.push_str("\\|"),
            '`' => plain.push('\''),
            '<' => plain.push_str("&lt;"),
            character if character.is_control() => plain.push(' '),
            character => plain.push(character),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_is_between_the_marks_is_written_anew() {
        let page = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        assert_eq!(
            replaced(&page, "new\n").unwrap(),
            format!("a\n{BEGIN}\nnew\n{END}\nb\n")
        );
        assert!(replaced("a\n", "new").is_none());
    }

    #[test]
    fn levels_with_the_same_outcome_stand_together() {
        let attempt = json!({"case": 4, "name": "a", "what": "a | b"});
        let rows: Vec<Row> = LEVELS
            .iter()
            .map(|level| {
                Row::new(
                    &attempt,
                    level,
                    "x|y",
                    if *level == "isolated" { "x" } else { "z\n" },
                )
            })
            .collect();
        let table = table(&rows);
        assert!(table.contains(
            "| 4 | a \\| b | `x\\|y` | isolated: `x`; package_only, limited_web, full_web: `z ` | **broken** |"
        ), "{table}");
    }
}
