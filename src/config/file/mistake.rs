//! Mistakes in a file: position, cause and cure.

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
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

/// All mistakes of a file, in the order of its lines. The alternate form, `{:#}`, also shows each line
/// with a mark below the mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileErrors {
    /// The file's name.
    pub file: String,
    /// At least one.
    pub mistakes: Vec<Located>,
    text: String,
    /// Where each of them is, in bytes.
    spans: Vec<Range<usize>>,
}

impl FileErrors {
    /// Turns positions into lines and columns.
    #[must_use]
    pub fn new(file: &str, text: &str, mistakes: &[Mistake]) -> Self {
        let mut located: Vec<_> =
            mistakes.iter().map(|mistake| (locate(text, mistake), mistake.span.clone())).collect();
        located.sort_by(|(one, _), (other, _)| one.cmp(other));
        located.dedup_by(|(one, _), (other, _)| one == other);
        let (mistakes, spans) = located.into_iter().unzip();
        Self { file: file.to_owned(), mistakes, text: text.to_owned(), spans }
    }
}

/// The line of a position, with a mark below what of the position is on that line; nothing for an
/// empty line.
fn excerpt(text: &str, span: &Range<usize>) -> Option<String> {
    let (before, after) = text.split_at_checked(span.start)?;
    let rest = after.lines().next().unwrap_or("");
    let begun = before.rsplit('\n').next().unwrap_or("");
    if begun.trim().is_empty() && rest.trim().is_empty() {
        return None;
    }
    let mark = span.start..span.end.clamp(span.start, span.start + rest.len());
    let snippet = Snippet::source(text).annotation(AnnotationKind::Primary.span(mark));
    Some(Renderer::plain().render(&[Group::with_level(Level::ERROR).element(snippet)]))
}

fn locate(text: &str, mistake: &Mistake) -> Located {
    let before = text.get(..mistake.span.start).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    Located { line, column, message: mistake.message.clone() }
}

/// One mistake per line, below a line with their number if there are several; in the alternate form,
/// each with its excerpt.
impl fmt::Display for FileErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let several = self.mistakes.len() > 1;
        if several {
            write!(f, "{} has {} mistakes:", self.file, self.mistakes.len())?;
        }
        for (Located { line, column, message }, span) in self.mistakes.iter().zip(&self.spans) {
            let separator = if several { "\n" } else { "" };
            write!(f, "{separator}{}:{line}:{column}: {message}", self.file)?;
            if let Some(excerpt) = excerpt(&self.text, span).filter(|_| f.alternate()) {
                write!(f, "\n{excerpt}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for FileErrors {}
