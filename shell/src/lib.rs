//! What twill and twill-perf do alike at a shell: they print, write the scripts that complete their
//! command lines, and write their manual pages.

pub mod completion;
pub mod manual;

use std::io::{self, ErrorKind, Write};

/// Prints to standard output. If the reader has closed the pipe, as `head` does, the rest is not
/// printed, and that is no error.
///
/// # Errors
///
/// If standard output cannot be written, for example because a disk is full.
pub fn print(text: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

/// Prints to standard error. Ignores errors, because there is no place to report them.
pub fn print_error(text: &str) {
    let mut errors = io::stderr().lock();
    let _ = errors.write_all(text.as_bytes()).and_then(|()| errors.flush());
}
