//! Tables that line up, for people to read.

use std::fmt;

/// Where a column's cells are lined up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Right,
}

/// Rows of cells under a head.
pub(super) struct Table {
    columns: Vec<(&'static str, Side)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with those columns; if none has a name, it has no head.
    pub(super) fn new(columns: &[(&'static str, Side)]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row; one that ends early says in its last cell what its other columns can't, at any length.
    pub(super) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head: Vec<String> = self.columns.iter().map(|(name, _)| (*name).to_owned()).collect();
        let head = Some(head).filter(|head| head.iter().any(|name| !name.is_empty()));
        let width = |index: usize| {
            let whole = self
                .rows
                .iter()
                .chain(&head)
                .filter(|row| row.len() > index + 1 || row.len() == self.columns.len());
            whole.filter_map(|row| row.get(index)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        for row in head.iter().chain(&self.rows) {
            let mut line = String::new();
            for ((cell, (_, side)), width) in row.iter().zip(&self.columns).zip(&widths) {
                let cell = match side {
                    Side::Left => format!("{cell:<width$}"),
                    Side::Right => format!("{cell:>width$}"),
                };
                line = if line.is_empty() { cell } else { format!("{line}  {cell}") };
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// A number of bytes.
pub(super) fn size(bytes: u64) -> String {
    match bytes {
        bytes if bytes >= 1 << 30 && bytes.is_multiple_of(1 << 30) => format!("{} GiB", bytes >> 30),
        bytes if bytes.is_multiple_of(1 << 20) => format!("{} MiB", bytes >> 20),
        bytes => format!("{} KiB", bytes >> 10),
    }
}

/// A time in milliseconds.
pub(super) fn time(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}.{} s", milliseconds % 1000 / 100),
        (0, minutes, seconds) => format!("{minutes}:{seconds:02}"),
        (hours, minutes, seconds) => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_long_last_cells_push_nothing_away() {
        let mut table = Table::new(&[("NAME", Side::Left), ("COUNT", Side::Right), ("WHO", Side::Left)]);
        table.row(vec!["a".to_owned(), "1".to_owned(), "me".to_owned()]);
        table.row(vec!["longer".to_owned(), "12345678".to_owned(), String::new()]);
        table.row(vec!["b".to_owned(), "it says nothing".to_owned()]);
        let shown = "\
NAME       COUNT  WHO
a              1  me
longer  12345678
b       it says nothing
";
        assert_eq!(table.to_string(), shown);
        let mut headless = Table::new(&[("", Side::Left), ("", Side::Left)]);
        headless.row(vec!["name".to_owned(), "x".to_owned()]);
        headless.row(vec!["CPUs".to_owned(), "1".to_owned()]);
        assert_eq!(headless.to_string(), "name  x\nCPUs  1\n");
    }

    #[test]
    fn sizes_and_times_are_short() {
        assert_eq!([256 << 20, 2 << 30, (1 << 20) + 4096].map(size), ["256 MiB", "2 GiB", "1028 KiB"]);
        assert_eq!([0, 59_940, 61_000, 3_600_000].map(time), ["0.0 s", "59.9 s", "1:01", "1:00:00"]);
    }
}
