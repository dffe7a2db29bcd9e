//! Mistakes in a file: position, cause and cure.

use std::fmt;
use std::ops::Range;

/// A mistake at a position in a file's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Where, in bytes.
    pub span: Range<usize>,
    /// Cause and cure.
    pub message: String,
}

impl Mistake {
    /// A mistake at a position.
    pub fn at(span: Range<usize>, message: impl fmt::Display) -> Self {
        Self { span, message: message.to_string() }
    }
}

/// A mistake with its line and column.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Located {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Cause and cure.
    pub message: String,
}

/// All mistakes of a file, in the order of its lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileErrors {
    /// The file's name.
    pub file: String,
    /// At least one.
    pub mistakes: Vec<Located>,
}

impl FileErrors {
    /// Turns positions into lines and columns.
    #[must_use]
    pub fn new(file: &str, text: &str, mistakes: &[Mistake]) -> Self {
        let mut located: Vec<_> = mistakes.iter().map(|mistake| locate(text, mistake)).collect();
        located.sort();
        located.dedup();
        Self { file: file.to_owned(), mistakes: located }
    }
}

fn locate(text: &str, mistake: &Mistake) -> Located {
    let before = text.get(..mistake.span.start).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    Located { line, column, message: mistake.message.clone() }
}

/// One mistake per line, below a line with their number if there are several.
impl fmt::Display for FileErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let several = self.mistakes.len() > 1;
        if several {
            write!(f, "{} has {} mistakes:", self.file, self.mistakes.len())?;
        }
        for Located { line, column, message } in &self.mistakes {
            let separator = if several { "\n" } else { "" };
            write!(f, "{separator}{}:{line}:{column}: {message}", self.file)?;
        }
        Ok(())
    }
}

impl std::error::Error for FileErrors {}
