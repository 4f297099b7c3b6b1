//! Tables for people: aligned columns, headings, nothing drawn around them.

use console::measure_text_width;

use crate::escape;
use crate::style::{Paint, Style};

/// Space between columns.
const GAP: &str = "  ";
/// The text of the last column is broken into lines of no less than this.
const LAST_COLUMN: usize = 24;
/// Indentation of what goes on below.
const BELOW: usize = 4;
/// Values are broken into lines of no less than this.
const VALUE: usize = 20;

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

    /// The table as text, each line with its end. Where the stream has a width that the columns do
    /// not fit into, they go on below, indented, and the text of the last one is broken between
    /// words; nothing is cut.
    #[must_use]
    pub fn render(&self, paint: Paint, width: Option<usize>) -> String {
        let layout = self.layout(width);
        let headings: Vec<Cell> = self
            .columns
            .iter()
            .map(|(heading, _)| Cell::styled(Style::Bold, heading))
            .collect();
        let mut out = String::new();
        for row in std::iter::once(&headings).chain(&self.rows) {
            for line in &layout {
                self.line(row, line, paint, width, &mut out);
            }
        }
        out
    }

    /// The lines of a row, each with the columns on it. A column without any text is left out.
    fn layout(&self, width: Option<usize>) -> Vec<Vec<Place>> {
        let shown: Vec<usize> = (0..self.columns.len())
            .filter(|&column| self.rows.iter().any(|row| !text(row, column).is_empty()))
            .collect();
        let mut lines: Vec<Vec<Place>> = Vec::new();
        let mut end = 0;
        for &column in &shown {
            let is_last = shown.last() == Some(&column);
            let columns = self.column_width(column);
            let needed = if is_last {
                columns.min(self.longest_word(column).max(LAST_COLUMN))
            } else {
                columns
            };
            let fits = |end: usize| width.is_none_or(|width| end + GAP.len() + needed <= width);
            let start = match lines.last_mut() {
                Some(_) if fits(end) => end + GAP.len(),
                _ => {
                    let indent = if lines.is_empty() { 0 } else { BELOW };
                    lines.push(Vec::new());
                    indent
                }
            };
            end = start + columns;
            if let Some(line) = lines.last_mut() {
                line.push(Place {
                    column,
                    start,
                    width: columns,
                    is_last,
                });
            }
        }
        lines
    }

    fn column_width(&self, column: usize) -> usize {
        let cells = self.rows.iter().map(|row| text(row, column));
        let widest = cells.map(measure_text_width).max().unwrap_or(0);
        widest.max(measure_text_width(self.columns[column].0))
    }

    fn longest_word(&self, column: usize) -> usize {
        let cells = self.rows.iter().map(|row| text(row, column));
        let words = cells.flat_map(|cell| cell.split(' '));
        words.map(measure_text_width).max().unwrap_or(0)
    }

    /// Adds one line of a row, and what of its last column goes on below; nothing when the row has
    /// no text on this line.
    fn line(
        &self,
        row: &[Cell],
        places: &[Place],
        paint: Paint,
        limit: Option<usize>,
        out: &mut String,
    ) {
        if places
            .iter()
            .all(|place| text(row, place.column).is_empty())
        {
            return;
        }
        let mut position = 0;
        for place in places {
            let cell = text(row, place.column);
            if cell.is_empty() {
                continue;
            }
            let room = limit.map(|limit| limit.saturating_sub(place.start));
            let pieces = match place.is_last {
                true => wrap(cell, room),
                false => vec![cell.to_owned()],
            };
            for (number, piece) in pieces.iter().enumerate() {
                if number > 0 {
                    out.push('\n');
                    position = 0;
                }
                let used = measure_text_width(piece);
                let before = match self.columns[place.column].1 {
                    Align::Left => 0,
                    Align::Right => place.width.saturating_sub(used),
                };
                // Space is written before text only, so that no line ends in it.
                let space = (place.start + before).saturating_sub(position);
                out.push_str(&" ".repeat(space));
                let style = row.get(place.column).map(|cell| cell.style);
                out.push_str(&paint.paint(style.unwrap_or_default(), piece));
                position += space + used;
            }
        }
        out.push('\n');
    }
}

/// Where a column stands on its line.
#[derive(Debug, Clone, Copy)]
struct Place {
    column: usize,
    start: usize,
    width: usize,
    is_last: bool,
}

/// Names and values below each other, indented, the values aligned and broken between words; pairs
/// without a value are left out.
#[must_use]
pub fn fields<'a>(
    pairs: impl IntoIterator<Item = (&'a str, Cell)>,
    paint: Paint,
    limit: Option<usize>,
) -> String {
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
        let mut lead = format!("{GAP}{name}{padding}{GAP}");
        let indent = width + 2 * GAP.len();
        let room = limit.map(|limit| limit.saturating_sub(indent).max(VALUE));
        for value in wrap(&cell.text, room) {
            let value = paint.paint(cell.style, &value);
            out.push_str(&format!("{lead}{value}\n"));
            lead = " ".repeat(indent);
        }
    }
    out
}

/// `line` broken between words into lines of at most `width` columns, the further ones indented;
/// without an end of line.
#[must_use]
pub fn hanging(line: &str, width: Option<usize>, indent: usize) -> String {
    let Some(width) = width.filter(|&width| measure_text_width(line) > width) else {
        return line.to_owned();
    };
    // What stands first on the line is part of its first word.
    let lead: String = line.chars().take_while(|&each| each == ' ').collect();
    let room = width.saturating_sub(indent).max(VALUE);
    let mut lines = wrap(
        &line[lead.len()..],
        Some(width.saturating_sub(lead.len()).max(VALUE)),
    );
    let first = lines.remove(0);
    let rest = line[lead.len()..]
        .strip_prefix(first.as_str())
        .unwrap_or_default();
    let mut out = format!("{lead}{}", first.trim_end());
    for piece in wrap(rest.trim_start(), Some(room)) {
        out.push('\n');
        out.push_str(&" ".repeat(indent));
        out.push_str(&piece);
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
            // Several spaces stand between columns.
            lines.push(std::mem::take(&mut line).trim_end().to_owned());
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

    /// A table that needs 52 columns, and more for its last.
    fn wide() -> Table {
        let mut table = Table::new(&["ID", "NOTHING", "STATE", ">TIME", "MESSAGE"]);
        let message = "the tests of the task failed, two of seven, see the log";
        table.row(["a-rather-long-name-1", "", "FAILED", "1.5 s", message].map(Cell::from));
        table.row(["b", "", "COMPLETED", "12.0 s"].map(Cell::from));
        table
    }

    #[test]
    fn the_last_column_is_broken_between_words_and_empty_columns_go() {
        assert_eq!(
            wide().render(PLAIN, Some(72)),
            "ID                    STATE        TIME  MESSAGE\n\
             a-rather-long-name-1  FAILED      1.5 s  the tests of the task failed,\n\
             \x20                                        two of seven, see the log\n\
             b                     COMPLETED  12.0 s\n"
        );
    }

    #[test]
    fn columns_that_do_not_fit_go_on_below() {
        assert_eq!(
            wide().render(PLAIN, Some(36)),
            "ID                    STATE\n\
             \x20     TIME  MESSAGE\n\
             a-rather-long-name-1  FAILED\n\
             \x20    1.5 s  the tests of the task\n\
             \x20           failed, two of seven,\n\
             \x20           see the log\n\
             b                     COMPLETED\n\
             \x20   12.0 s\n"
        );
    }

    #[test]
    fn whatever_the_width_no_text_is_lost_and_nothing_but_a_long_word_is_wider() {
        let words = |text: &str| {
            let mut words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
            words.sort();
            words
        };
        let whole = wide().render(PLAIN, None);
        for width in 1..100 {
            let shown = wide().render(PLAIN, Some(width));
            assert_eq!(words(&shown), words(&whole), "{width}");
            let bound = width.max(BELOW + LAST_COLUMN);
            for line in shown.lines() {
                assert!(measure_text_width(line) <= bound, "{width}: {line}");
                assert_eq!(line.trim_end(), line);
            }
        }
    }

    #[test]
    fn a_long_word_goes_below_where_it_stays_whole() {
        let mut table = Table::new(&["PHASE", "ENDED", "LOG"]);
        let log = "attempts/a-rather-long-name-1/verify.log";
        table.row(["verify", "code 1", log].map(Cell::from));
        let below = format!("PHASE   ENDED\n    LOG\nverify  code 1\n    {log}\n");
        assert_eq!(table.render(PLAIN, Some(50)), below);
        let beside = format!("PHASE   ENDED   LOG\nverify  code 1  {log}\n");
        assert_eq!(table.render(PLAIN, Some(60)), beside);
    }

    #[test]
    fn values_of_fields_are_broken_below_each_other() {
        let pairs = || {
            [
                ("image", Cell::from("name:tag (sha256:0123456789abcdef)")),
                ("empty", Cell::from("")),
                ("a name", Cell::from("short")),
            ]
        };
        assert_eq!(
            fields(pairs(), PLAIN, None),
            "  image   name:tag (sha256:0123456789abcdef)\n  a name  short\n"
        );
        assert_eq!(
            fields(pairs(), PLAIN, Some(36)),
            "  image   name:tag\n          (sha256:0123456789abcdef)\n  a name  short\n"
        );
    }

    #[test]
    fn what_of_a_line_does_not_fit_hangs_below_it() {
        let line = "  ✘ task     oracle   FAILED     1.5 s  tests_failed";
        assert_eq!(hanging(line, None, 4), line);
        assert_eq!(hanging(line, Some(60), 4), line);
        assert_eq!(
            hanging(line, Some(44), 4),
            "  ✘ task     oracle   FAILED     1.5 s\n    tests_failed"
        );
        let colored = Paint { colored: true }.paint(Style::Bad, "one two three four five six");
        let shown = hanging(&colored, Some(20), 2);
        assert_eq!(
            console::strip_ansi_codes(&shown),
            "one two three four\n  five six"
        );
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
