//! The client's end of the control socket, and the gateways that it can find.

use super::server::ENDING;
use super::{Message, Request, Response};
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a gateway may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often a gateway is asked that ends before it answers, and the pause between two attempts.
const ATTEMPTS: u32 = 10;
const PAUSE: Duration = Duration::from_millis(50);

/// Why a request has no result.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No gateway listens there, or not to this user.
    #[error("cannot connect to {path}: {source}: {cure}", cure = cure(source))]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What came back.
        source: io::Error,
    },
    /// The gateway did not answer.
    #[error("no answer from the gateway at {path}: {source}")]
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
        io::ErrorKind::PermissionDenied => "run as root, or as a member of `socket_group`",
        _ => "is the gateway running? --device or --socket chooses another one",
    }
}

/// The control sockets in a folder that a gateway listens on, sorted by name. One that this user may
/// not connect to is among them: asking it says why.
#[must_use]
pub fn running(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let is_socket = |path: &PathBuf| path.extension().is_some_and(|it| it == "sock");
    let listens = |path: &PathBuf| match UnixStream::connect(path) {
        Ok(_) => true,
        Err(error) => error.kind() == io::ErrorKind::PermissionDenied,
    };
    let mut sockets: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| is_socket(path) && listens(path))
        .collect();
    sockets.sort();
    sockets
}

/// Sends one request and returns its result. A gateway that hands over to a successor may end before
/// it answers: then the successor is asked, if asking twice changes nothing.
///
/// # Errors
/// [`ClientError`].
pub fn call(path: &Path, request: Request) -> Result<serde_json::Value, ClientError> {
    let attempts = if request.is_read_only() { ATTEMPTS } else { 1 };
    for _ in 1..attempts {
        match call_once(path, request.clone()) {
            Err(ClientError::Talk { source, .. }) if source.kind() != ErrorKind::WouldBlock => {}
            Err(ClientError::Refused(reason)) if reason == ENDING => {}
            done => return done,
        }
        std::thread::sleep(PAUSE);
    }
    call_once(path, request)
}

fn call_once(path: &Path, request: Request) -> Result<serde_json::Value, ClientError> {
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
        return Err(talk(io::Error::other("the gateway closed the connection")));
    }
    match serde_json::from_slice(&answer).map_err(|error| talk(error.into()))? {
        Response::Ok(value) => Ok(value),
        Response::Error(message) => Err(ClientError::Refused(message)),
    }
}
