//! Runs a program of the host to its end.

use std::io::{self, Write};
use std::process::{Command, Stdio};

/// Runs a program with `input` and returns what it printed. It blocks until the program ends.
///
/// # Errors
/// The program cannot be run, or it failed: then the error has its command line and what it said.
pub(crate) fn run(program: &str, args: &[&str], input: &str) -> io::Result<String> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("cannot run {program}: {error}: install {program}"),
            )
        })?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends early closes its input; its status tells why.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let first: Vec<_> = said.lines().filter(|line| !line.trim().is_empty()).take(2).collect();
    let command = [&[program], args].concat().join(" ");
    Err(io::Error::other(format!("`{command}`: {}", first.join("; "))))
}
