//! Asking a running gateway.

use super::{Request, Response};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a gateway may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("{path}: {source}: is the gateway running? name its socket with --socket")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What came back.
        source: std::io::Error,
    },
    /// The conversation broke off.
    #[error("{path}: {source}")]
    Talk {
        /// The socket.
        path: PathBuf,
        /// What came back.
        source: std::io::Error,
    },
    /// The gateway refused.
    #[error("{0}")]
    Refused(String),
}

/// Sends one request and returns its result.
///
/// # Errors
/// [`ClientError`].
pub fn call(path: &Path, request: &Request) -> Result<serde_json::Value, ClientError> {
    let talk = |source| ClientError::Talk { path: path.to_owned(), source };
    let mut stream = UnixStream::connect(path)
        .map_err(|source| ClientError::Connect { path: path.to_owned(), source })?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(talk)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(talk)?;
    let mut line = serde_json::to_vec(request).map_err(|error| talk(error.into()))?;
    line.push(b'\n');
    stream.write_all(&line).map_err(talk)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).map_err(talk)?;
    match serde_json::from_str(&answer).map_err(|error| talk(error.into()))? {
        Response::Ok(value) => Ok(value),
        Response::Error(message) => Err(ClientError::Refused(message)),
    }
}
