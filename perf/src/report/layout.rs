//! Rows become text.

use std::fmt::Write as _;

/// How a table is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Aligned columns, folded to the terminal's width if there is a terminal.
    Terminal {
        /// Columns of the terminal.
        width: Option<usize>,
    },
    /// A Markdown table.
    Markdown,
    /// Comma-separated values (RFC 4180).
    Csv,
}

impl Layout {
    /// Writes a title row and rows below it. `lead` columns name a row: a folded table repeats
    /// them.
    pub(crate) fn table(self, rows: &[Vec<String>], lead: usize) -> String {
        match self {
            Self::Terminal { width } => folded(rows, lead, width),
            Self::Markdown => markdown(rows),
            Self::Csv => rows.iter().map(|row| csv(row)).collect(),
        }
    }
}

fn markdown(rows: &[Vec<String>]) -> String {
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        let row: Vec<_> = row.iter().map(|cell| cell.replace('|', "\\|")).collect();
        let _ = writeln!(text, "| {} |", row.join(" | "));
        if index == 0 {
            let _ = writeln!(text, "|{}", "---|".repeat(row.len()));
        }
    }
    text
}

fn csv(row: &[String]) -> String {
    let quoted = row.iter().map(|cell| {
        if cell.contains([',', '"', '\n']) {
            format!("\"{}\"", cell.replace('"', "\"\""))
        } else {
            cell.clone()
        }
    });
    quoted.collect::<Vec<_>>().join(",") + "\n"
}

/// Aligned columns. Those beyond `width` stand in a table below, with the leading columns again.
fn folded(rows: &[Vec<String>], lead: usize, width: Option<usize>) -> String {
    let widths = widths(rows);
    let leading: Vec<_> = (0..lead.min(widths.len())).collect();
    let taken: usize = leading.iter().map(|column| widths[*column] + 2).sum();
    let room = width.map_or(usize::MAX, |width| (width + 2).saturating_sub(taken));

    let mut parts = vec![leading.clone()];
    let mut used = 0;
    for (column, width) in widths.iter().enumerate().skip(lead) {
        if used > 0 && used + width + 2 > room {
            parts.push(leading.clone());
            used = 0;
        }
        used += width + 2;
        if let Some(part) = parts.last_mut() {
            part.push(column);
        }
    }
    let part = |columns: &Vec<usize>| {
        rows.iter().map(|row| line(row, columns, lead, &widths)).collect::<String>()
    };
    parts.iter().map(part).collect::<Vec<_>>().join("\n")
}

/// Columns of equal width, the leading ones to the left and the others to the right.
fn line(row: &[String], columns: &[usize], lead: usize, widths: &[usize]) -> String {
    let cells = columns.iter().map(|column| {
        let (cell, width) = (row.get(*column).map_or("", String::as_str), widths[*column]);
        if *column < lead { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
    });
    let line = cells.collect::<Vec<_>>().join("  ");
    format!("{}\n", line.trim_end())
}

/// The longest cell of each column, in characters.
fn widths(rows: &[Vec<String>]) -> Vec<usize> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let longest = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    (0..columns).map(|column| longest(column).unwrap_or(0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDE: Layout = Layout::Terminal { width: None };

    fn rows<const N: usize>(rows: [[&str; N]; 2]) -> Vec<Vec<String>> {
        rows.map(|row| row.map(str::to_owned).to_vec()).to_vec()
    }

    #[test]
    fn columns_line_up_by_characters_and_not_by_bytes() {
        let rows = rows([["a", "1 … 2", "x"], ["long", "10", "µs"]]);

        assert_eq!(WIDE.table(&rows, 1), "a     1 … 2   x\nlong     10  µs\n");
    }

    #[test]
    fn a_table_that_is_wider_than_the_terminal_goes_on_below_with_its_names() {
        let rows = rows([["path", "median", "loss", "drops"], ["twill", "5.00", "1 %", "100"]]);
        let folded = |width| Layout::Terminal { width: Some(width) }.table(&rows, 1);

        assert_eq!(folded(26), WIDE.table(&rows, 1));
        assert_eq!(
            folded(19),
            "path   median  loss\ntwill    5.00   1 %\n\npath   drops\ntwill    100\n"
        );
        assert!(folded(1).lines().all(|line| line.len() <= 13), "one column at a time");
    }

    #[test]
    fn markdown_and_csv_keep_marks_within_cells() {
        let rows = rows([["path", "a|b"], ["twill:uring,queues=2", "say \"x\""]]);

        assert!(Layout::Markdown.table(&rows, 1).starts_with("| path | a\\|b |\n|---|---|\n"));
        assert_eq!(
            Layout::Csv.table(&rows, 1),
            "path,a|b\n\"twill:uring,queues=2\",\"say \"\"x\"\"\"\n"
        );
    }
}
