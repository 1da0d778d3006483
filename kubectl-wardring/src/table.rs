//! Columns that line up, as kubectl prints them.

use wardring_planner::is_unseen;

use crate::paint::{Palette, Tone};

/// Space between columns.
const GAP: usize = 3;

/// One cell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// A cell in a colour.
    pub fn new(text: impl Into<String>, tone: Tone) -> Cell {
        Cell { text: printable(&text.into()), tone }
    }
}

/// Names and details come from devices in the end: no control character may reach the terminal.
pub fn printable(text: &str) -> String {
    let is_harmful = |char: char| char.is_control() || is_unseen(char);
    text.chars().map(|char| if is_harmful(char) { '\u{fffd}' } else { char }).collect()
}

impl<T: ToString> From<T> for Cell {
    fn from(text: T) -> Cell {
        Cell::new(text.to_string(), Tone::Plain)
    }
}

/// One line of a table.
enum Line {
    Cells(Vec<Cell>),
    Note(Cell),
}

/// Rows under a header, with notes between them that may be as long as they like.
#[derive(Default)]
pub struct Table {
    lines: Vec<Line>,
}

impl Table {
    /// A table with this header.
    pub fn new(header: &[&str]) -> Table {
        let cells = header.iter().map(Cell::from).collect();
        Table { lines: vec![Line::Cells(cells)] }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<Cell>) {
        self.lines.push(Line::Cells(cells));
    }

    /// Adds a line that takes no part in the columns.
    pub fn note(&mut self, tone: Tone, text: impl Into<String>) {
        self.lines.push(Line::Note(Cell::new(text, tone)));
    }

    /// The whole table, a line each.
    pub fn render(&self, palette: Palette) -> String {
        let widths = self.widths();
        let mut out = String::new();
        for line in &self.lines {
            match line {
                Line::Note(note) => out.push_str(&palette.paint(note.tone, &note.text)),
                Line::Cells(cells) => {
                    let last = cells.len().saturating_sub(1);
                    for (index, cell) in cells.iter().enumerate() {
                        out.push_str(&palette.paint(cell.tone, &cell.text));
                        if index < last {
                            let pad = widths[index] - cell.text.chars().count() + GAP;
                            out.extend(std::iter::repeat_n(' ', pad));
                        }
                    }
                }
            }
            out.push('\n');
        }
        out
    }

    fn widths(&self) -> Vec<usize> {
        let mut widths = Vec::new();
        for line in &self.lines {
            let Line::Cells(cells) = line else { continue };
            for (index, cell) in cells.iter().enumerate() {
                let width = cell.text.chars().count();
                match widths.get_mut(index) {
                    Some(known) => *known = width.max(*known),
                    None => widths.push(width),
                }
            }
        }
        widths
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_colour_takes_no_room() {
        let mut table = Table::new(&["NAME", "STATE", "AGE"]);
        table.row(vec!["├─ a".into(), Cell::new("Open", Tone::Busy), "1m".into()]);
        table.note(Tone::Plain, "│  a note that is longer than any of the columns");
        table.row(vec!["└─ long-name".into(), "Pending".into(), "-".into()]);

        assert_eq!(
            table.render(Palette::Plain),
            "NAME           STATE     AGE\n\
             ├─ a           Open      1m\n\
             │  a note that is longer than any of the columns\n\
             └─ long-name   Pending   -\n"
        );
        let mut hostile = Table::default();
        hostile.note(Tone::Plain, "srv-1: \x1b[2Jgone");
        assert_eq!(hostile.render(Palette::Plain), "srv-1: \u{fffd}[2Jgone\n");
        let coloured = table.render(Palette::Colour);
        assert!(coloured.contains("├─ a           \x1b[36mOpen\x1b[0m      1m\n"), "{coloured}");
    }
}
