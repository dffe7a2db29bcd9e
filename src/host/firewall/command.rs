//! Runs the tools that set the rules.

use std::io;
use std::process::{Output, Stdio};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

/// Time limit of a tool, which may have to wait for another one's lock.
const PATIENCE: Duration = Duration::from_secs(30);

/// A tool failed: its command line and its error.
#[derive(Debug, thiserror::Error)]
#[error("`{command}`: {reason}")]
pub struct CommandError {
    /// The command line.
    pub command: String,
    /// What came back.
    pub reason: String,
    /// The tool ran and exited with status 1.
    pub refused: bool,
}

/// Runs a tool to its end with `input`, and returns what it printed.
pub(super) async fn run(program: &str, args: &[&str], input: &str) -> Result<String, CommandError> {
    let failed = |reason: String, refused| CommandError {
        command: format!("{program} {}", args.join(" ")),
        reason,
        refused,
    };
    let output = match timeout(PATIENCE, output(program, args, input)).await {
        Ok(output) => output.map_err(|error| failed(not_run(program, &error), false))?,
        Err(_) => {
            let reason =
                format!("not finished within {PATIENCE:?}: does another program hold its lock?");
            return Err(failed(reason, false));
        }
    };
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(failed(format!("{}: {said}", output.status), output.status.code() == Some(1)))
}

fn not_run(program: &str, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => format!("{error}: install {program}, or add its folder to PATH"),
        _ => error.to_string(),
    }
}

async fn output(program: &str, args: &[&str], input: &str) -> io::Result<Output> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A tool that ends early closes its input; its status tells why.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    child.wait_with_output().await
}
