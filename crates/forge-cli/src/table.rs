//! Tables for people: aligned columns, headings, nothing drawn around them.

use std::borrow::Cow;

use console::{measure_text_width, truncate_str};

use crate::escape;
use crate::style::{Paint, Style};

/// Space between columns.
const GAP: &str = "  ";
/// The last column is never cut to less than this.
const LAST_COLUMN: usize = 24;

/// One cell; its text is escaped on the way in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// A cell that stands out.
    #[must_use]
    pub fn styled(style: Style, text: impl AsRef<str>) -> Self {
        Self {
            text: escape::line(text.as_ref()),
            style,
        }
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::styled(Style::Plain, text)
    }
}

/// On which side a column's text stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// Rows below headings.
#[derive(Debug)]
pub struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table with these columns; a heading that begins with `>` makes a column of numbers.
    #[must_use]
    pub fn new(headings: &[&'static str]) -> Self {
        let column = |heading: &&'static str| match heading.strip_prefix('>') {
            Some(heading) => (heading, Align::Right),
            None => (*heading, Align::Left),
        };
        Self {
            columns: headings.iter().map(column).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row; cells that are missing stay empty.
    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table as text, each line with its end. Where the stream has a width, the last column is
    /// cut to it.
    #[must_use]
    pub fn render(&self, paint: Paint, width: Option<usize>) -> String {
        // A column without any text is left out.
        let shown: Vec<usize> = (0..self.columns.len())
            .filter(|&column| self.rows.iter().any(|row| !text(row, column).is_empty()))
            .collect();
        let widths: Vec<usize> = shown
            .iter()
            .map(|&column| self.column_width(column))
            .collect();
        let headings: Vec<Cell> = self
            .columns
            .iter()
            .map(|(heading, _)| Cell::styled(Style::Bold, heading))
            .collect();
        let mut out = String::new();
        for row in std::iter::once(&headings).chain(&self.rows) {
            self.line(row, &shown, &widths, paint, width, &mut out);
        }
        out
    }

    fn column_width(&self, column: usize) -> usize {
        let cells = self.rows.iter().map(|row| text(row, column));
        let widest = cells.map(measure_text_width).max().unwrap_or(0);
        widest.max(measure_text_width(self.columns[column].0))
    }

    fn line(
        &self,
        row: &[Cell],
        shown: &[usize],
        widths: &[usize],
        paint: Paint,
        limit: Option<usize>,
        out: &mut String,
    ) {
        let mut position = 0;
        let mut gap = 0;
        for (place, &column) in shown.iter().enumerate() {
            let mut cell = Cow::Borrowed(text(row, column));
            if let (Some(limit), true) = (limit, place + 1 == shown.len()) {
                let left = limit.saturating_sub(position + gap).max(LAST_COLUMN);
                cell = Cow::Owned(truncate_str(&cell, left, "…").into_owned());
            }
            let used = measure_text_width(&cell);
            let padding = widths[place].saturating_sub(used);
            let before = match self.columns[column].1 {
                Align::Left => 0,
                Align::Right => padding,
            };
            if !cell.is_empty() {
                // Space is written before text only, so that no line ends in it.
                out.push_str(&" ".repeat(gap + before));
                let style = row.get(column).map(|cell| cell.style).unwrap_or_default();
                out.push_str(&paint.paint(style, &cell));
                position += gap + before + used;
                gap = padding - before + GAP.len();
            } else {
                gap += padding + GAP.len();
            }
        }
        out.push('\n');
    }
}

/// Names and values below each other, indented, the values aligned; pairs without a value are left
/// out.
#[must_use]
pub fn fields<'a>(pairs: impl IntoIterator<Item = (&'a str, Cell)>, paint: Paint) -> String {
    let pairs: Vec<(&str, Cell)> = pairs
        .into_iter()
        .filter(|(_, cell)| !cell.text.is_empty())
        .collect();
    let names = pairs.iter().map(|(name, _)| measure_text_width(name));
    let width = names.max().unwrap_or(0);
    let mut out = String::new();
    for (name, cell) in &pairs {
        let padding = " ".repeat(width - measure_text_width(name));
        let name = paint.paint(Style::Dim, name);
        let value = paint.paint(cell.style, &cell.text);
        out.push_str(&format!("{GAP}{name}{padding}{GAP}{value}\n"));
    }
    out
}

/// Breaks `text` between words into lines of at most `width` columns. A word that is longer than
/// that stays whole: it is a path or a command, and is for copying.
#[must_use]
pub fn wrap(text: &str, width: Option<usize>) -> Vec<String> {
    let width = width.unwrap_or(usize::MAX);
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split(' ') {
        let longer = measure_text_width(&line) + 1 + measure_text_width(word);
        if !line.is_empty() && longer > width {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    lines
}

fn text(row: &[Cell], column: usize) -> &str {
    row.get(column).map_or("", |cell| cell.text.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Paint = Paint { colored: false };

    #[test]
    fn columns_line_up_whatever_the_width_of_characters_and_no_line_ends_in_space() {
        let mut table = Table::new(&["TASK", "STATE", ">SECONDS", "REASON"]);
        table.row(["日本", "COMPLETED", "1.5"].map(Cell::from));
        table.row(["a-long-name", "FAILED", "12.0", "tests_failed"].map(Cell::from));
        assert_eq!(
            table.render(PLAIN, None),
            "TASK         STATE      SECONDS  REASON\n\
             日本         COMPLETED      1.5\n\
             a-long-name  FAILED        12.0  tests_failed\n"
        );
    }

    #[test]
    fn colours_do_not_move_columns() {
        let mut table = Table::new(&["A", "B"]);
        table.row([Cell::styled(Style::Bad, "x"), Cell::from("y")]);
        let colored = table.render(Paint { colored: true }, None);
        assert_eq!(
            console::strip_ansi_codes(&colored),
            table.render(PLAIN, None)
        );
        assert!(colored.contains("\x1b[31mx\x1b[0m"));
    }

    #[test]
    fn only_the_last_column_is_cut_to_the_width_and_empty_columns_go() {
        let mut table = Table::new(&["ID", "NOTHING", "MESSAGE"]);
        table.row(["id", "", &"word ".repeat(40)].map(Cell::from));
        let shown = table.render(PLAIN, Some(40));
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[0], "ID  MESSAGE");
        assert_eq!(measure_text_width(lines[1]), 40);
        assert!(lines[1].ends_with('…'), "{shown}");
    }

    #[test]
    fn text_is_broken_between_words() {
        assert_eq!(wrap("one two three", Some(8)), ["one two", "three"]);
        assert_eq!(
            wrap("a /very/long/path b", Some(5)),
            ["a", "/very/long/path", "b"]
        );
        assert_eq!(wrap("one two three", None), ["one two three"]);
        assert_eq!(wrap("", Some(5)), [""]);
    }

    #[test]
    fn hostile_cells_stay_on_their_line() {
        let mut table = Table::new(&["A"]);
        table.row([Cell::from("x\n\x1b[2Jy")]);
        assert_eq!(table.render(PLAIN, None), "A\nx\\n\\x1b[2Jy\n");
    }
}
