//! Answering clients.

use super::{Request, Response};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// Bytes of a request at most: a list of all the peers that a gateway can know fits.
const MAX_REQUEST: u64 = 32 << 20;
/// How long a client may take to say something, or to take the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Clients served at the same time.
const MAX_CLIENTS: usize = 32;

/// A request on its way to the control plane.
#[derive(Debug)]
pub struct Call {
    /// What is wanted.
    pub request: Request,
    /// Where the answer goes.
    pub answer: oneshot::Sender<Response>,
}

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Another gateway answers on it.
    #[error("control socket {0}: another gateway answers there: stop it, or set `socket`")]
    Taken(PathBuf),
    /// It cannot be made.
    #[error("control socket {path}: {source}")]
    Bind {
        /// The socket.
        path: PathBuf,
        /// What came back.
        source: io::Error,
    },
}

/// Removes the socket's name at the end.
#[derive(Debug)]
pub struct Served {
    path: PathBuf,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Listens, readable and writable by the owner alone, until the result is dropped. A name that a
/// dead gateway left behind is taken over, one that answers is not.
///
/// # Errors
/// [`ServerError`].
pub fn serve(path: &Path, calls: mpsc::Sender<Call>) -> Result<Served, ServerError> {
    let cannot = |source| ServerError::Bind { path: path.to_owned(), source };
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(ServerError::Taken(path.to_owned()));
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(cannot)?;
    }
    let stale = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    if stale {
        std::fs::remove_file(path).map_err(cannot)?;
    }
    let listener = UnixListener::bind(path).map_err(cannot)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(cannot)?;
    let task = tokio::spawn(accept(listener, calls));
    Ok(Served { path: path.to_owned(), task })
}

async fn accept(listener: UnixListener, calls: mpsc::Sender<Call>) {
    let places = std::sync::Arc::new(tokio::sync::Semaphore::new(MAX_CLIENTS));
    loop {
        let Ok(place) = std::sync::Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let calls = calls.clone();
                tokio::spawn(async move {
                    // A client that goes away mid-sentence is its own affair.
                    let _ = converse(stream, calls).await;
                    drop(place);
                });
            }
            // Out of descriptors, most likely: others may close theirs.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn converse(stream: UnixStream, calls: mpsc::Sender<Call>) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = String::new();
        let read =
            timeout(PATIENCE, (&mut reader).take(MAX_REQUEST).read_line(&mut line)).await??;
        if read == 0 {
            return Ok(());
        }
        let response = match serde_json::from_str(&line) {
            Ok(request) => ask(request, &calls).await,
            Err(error) => Response::Error(format!("no request: {error}")),
        };
        let mut answer = serde_json::to_vec(&response)?;
        answer.push(b'\n');
        timeout(PATIENCE, writer.write_all(&answer)).await??;
    }
}

async fn ask(request: Request, calls: &mpsc::Sender<Call>) -> Response {
    let (answer, answered) = oneshot::channel();
    let gone = || Response::Error("the gateway is shutting down".to_owned());
    if calls.send(Call { request, answer }).await.is_err() {
        return gone();
    }
    answered.await.unwrap_or_else(|_| gone())
}
