//! The only place that prints: results on standard output, all else on standard error.

use super::Failure;
use super::args::FormatArgs;
use crate::report::Layout;
use std::io::{self, IsTerminal};
use twill_shell::print_error;

/// Prints on standard output. If the reader closes the pipe, as `head` does, the rest is not
/// printed; this is no failure, and the exit code still tells the result.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    twill_shell::print(text)
        .map_err(|error| Failure::Unusable(format!("cannot write to standard output: {error}")))
}

/// How a command prints its tables.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    pub(super) layout: Layout,
    /// Whether to print the measurements.
    pub(super) measurements: bool,
}

impl Output {
    pub(super) fn new(format: &FormatArgs) -> Self {
        let layout = match (format.markdown, format.csv) {
            (true, _) => Layout::Markdown,
            (_, true) => Layout::Csv,
            _ => Layout::Terminal { width: width() },
        };
        Self { layout, measurements: true }
    }

    /// For commands that print a verdict: as Markdown or CSV, nothing but its table.
    pub(super) fn of_verdict(format: &FormatArgs) -> Self {
        let output = Self::new(format);
        Self { measurements: matches!(output.layout, Layout::Terminal { .. }), ..output }
    }

    /// Prints a remark: on standard error if the tables are for a program.
    pub(super) fn remark(&self, text: &str) -> Result<(), Failure> {
        if matches!(self.layout, Layout::Terminal { .. }) {
            return print(text);
        }
        print_error(text.trim_start_matches('\n'));
        Ok(())
    }
}

/// Columns of the terminal, if standard output is one.
fn width() -> Option<usize> {
    let terminal = io::stdout().is_terminal();
    let (width, _) = terminal.then(terminal_size::terminal_size).flatten()?;
    Some(width.0.into())
}
