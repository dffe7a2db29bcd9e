//! Asking a running gateway.

use super::{Message, Request, Response};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a gateway may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens, or not to us.
    #[error("{path}: {source}: {cure}", cure = cure(source))]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What came back.
        source: io::Error,
    },
    /// The conversation broke off.
    #[error("{path}: {source}")]
    Talk {
        /// The socket.
        path: PathBuf,
        /// What came back.
        source: io::Error,
    },
    /// The gateway refused.
    #[error("{0}")]
    Refused(String),
}

fn cure(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "only root and the members of socket_group may ask",
        _ => "is the gateway running? name its socket with --socket",
    }
}

/// Sends one request and returns its result.
///
/// # Errors
/// [`ClientError`].
pub fn call(path: &Path, request: Request) -> Result<serde_json::Value, ClientError> {
    let talk = |source| ClientError::Talk { path: path.to_owned(), source };
    let mut stream = UnixStream::connect(path)
        .map_err(|source| ClientError::Connect { path: path.to_owned(), source })?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(talk)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(talk)?;
    let mut line =
        serde_json::to_vec(&Message::new(request)).map_err(|error| talk(error.into()))?;
    line.push(b'\n');
    stream.write_all(&line).map_err(talk)?;
    let mut answer = Vec::new();
    BufReader::new(stream).read_until(b'\n', &mut answer).map_err(talk)?;
    if answer.is_empty() {
        return Err(talk(io::Error::other("the gateway hung up")));
    }
    match serde_json::from_slice(&answer).map_err(|error| talk(error.into()))? {
        Response::Ok(value) => Ok(value),
        Response::Error(message) => Err(ClientError::Refused(message)),
    }
}
