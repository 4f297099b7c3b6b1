//! Lines that stay below everything else on a terminal and change in place.
//!
//! The cursor always rests at the beginning of the row below the last line. A `^C` that the
//! terminal echoes there is wiped with the rest and moves nothing, unlike at the end of a line.

/// What is on the screen.
#[derive(Debug, Default)]
pub(crate) struct LiveView {
    lines: Vec<String>,
}

/// Erases from the cursor to the end of the screen.
const ERASE_BELOW: &str = "\x1b[J";
/// Erases from the cursor to the end of the row.
const ERASE_ROW: &str = "\x1b[K";

impl LiveView {
    /// What to write to show `lines` in the place of the present ones.
    pub(crate) fn replace(&mut self, lines: Vec<String>) -> String {
        let mut text = self.to_top();
        // Row by row over what is there: erasing it all first would flicker.
        for line in &lines {
            text.push_str(line);
            text.push_str(ERASE_ROW);
            text.push('\n');
        }
        text.push_str(ERASE_BELOW);
        self.lines = lines;
        text
    }

    /// What to write to put `text` above the view.
    pub(crate) fn around(&self, text: &str) -> String {
        if self.lines.is_empty() {
            return text.to_owned();
        }
        let mut all = self.to_top();
        all.push_str(ERASE_BELOW);
        all.push_str(text);
        if !text.ends_with('\n') {
            all.push('\n');
        }
        for line in &self.lines {
            all.push_str(line);
            all.push('\n');
        }
        all
    }

    fn to_top(&self) -> String {
        match self.lines.len() {
            0 => String::new(),
            rows => format!("\r\x1b[{rows}A"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(lines: &[&str]) -> Vec<String> {
        lines.iter().map(|&line| line.to_owned()).collect()
    }

    #[test]
    fn lines_are_replaced_in_place_and_text_goes_above_them() {
        let mut view = LiveView::default();
        assert_eq!(view.around("text\n"), "text\n");
        assert_eq!(view.replace(lines(&["a", "b"])), "a\x1b[K\nb\x1b[K\n\x1b[J");
        assert_eq!(view.around("text"), "\r\x1b[2A\x1b[Jtext\na\nb\n");
        assert_eq!(view.replace(lines(&["c"])), "\r\x1b[2Ac\x1b[K\n\x1b[J");
        assert_eq!(view.replace(Vec::new()), "\r\x1b[1A\x1b[J");
        assert_eq!(view.around("end\n"), "end\n");
    }
}
