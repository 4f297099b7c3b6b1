//! Colours and emphasis, where the stream shows them.

/// How a piece of text stands out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Style {
    /// Not at all.
    #[default]
    Plain,
    /// A heading.
    Bold,
    /// Of minor interest.
    Dim,
    /// As it should be.
    Good,
    /// Worth a look.
    Warning,
    /// Not as it should be.
    Bad,
}

/// Paints text for one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paint {
    /// Whether the stream shows colours.
    pub colored: bool,
}

impl Paint {
    /// `text` in `style`; unchanged where there are no colours.
    #[must_use]
    pub fn paint(self, style: Style, text: &str) -> String {
        let code = match style {
            Style::Bold => "1",
            Style::Dim => "2",
            Style::Good => "32",
            Style::Warning => "33",
            Style::Bad => "31",
            Style::Plain => "",
        };
        if !self.colored || code.is_empty() || text.is_empty() {
            return text.to_owned();
        }
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_colours_text_stays_as_it_is() {
        let plain = Paint { colored: false };
        assert_eq!(plain.paint(Style::Bad, "x"), "x");
        let colored = Paint { colored: true };
        assert_eq!(colored.paint(Style::Bad, "x"), "\x1b[31mx\x1b[0m");
        assert_eq!(colored.paint(Style::Plain, "x"), "x");
    }
}
