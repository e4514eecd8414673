//! Plain aligned columns: the same on a terminal and in a pipe, so that
//! `| awk` and `| grep` can rely on them.

use super::text::printable;

/// Spaces between columns.
const GAP: usize = 3;

/// Rows under headings.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table with its headings.
    pub(crate) fn new(headings: &[&str]) -> Self {
        Self {
            rows: vec![headings.iter().map(|&heading| heading.to_owned()).collect()],
        }
    }

    /// Adds a row; every cell is made harmless for a terminal.
    pub(crate) fn row<const N: usize>(&mut self, cells: [&str; N]) {
        self.rows.push(cells.map(printable).into());
    }

    /// The text, ending in a line feed.
    pub(crate) fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(cell);
                let padding = width - cell.chars().count() + GAP;
                line.extend(std::iter::repeat_n(' ', padding));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_have_no_trailing_blanks() {
        let mut table = Table::new(&["POD ID", "NAME", "IP"]);
        table.row(["0123456789ab", "web", "10.88.0.2"]);
        table.row(["ba", "größer", ""]);
        assert_eq!(
            table.render(),
            "POD ID         NAME     IP\n\
             0123456789ab   web      10.88.0.2\n\
             ba             größer\n"
        );
    }

    #[test]
    fn a_hostile_cell_stays_on_its_line() {
        let mut table = Table::new(&["NAME"]);
        table.row(["a\nb\x1b[2J"]);
        assert_eq!(table.render(), "NAME\na\\nb\\x1b[2J\n");
    }
}
