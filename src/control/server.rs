//! The gateway's end of the control socket: reads requests, hands them to the control plane, answers.

use super::clients::{Clients, Silence};
use super::socket::{Name, Place, bind};
use super::{Message, Request, Response, ServerError};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Bytes of a request that every client may send at any time; the limit for read-only clients.
const SMALL_REQUEST: u64 = 64 << 10;
/// Limit of a request, bytes: a list of all peers that a gateway can hold fits.
const MAX_REQUEST: u64 = 32 << 20;
/// How long a client may take to send a request, or to read the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Clients served at a time; one more ends the one that has been silent the longest.
const MAX_CLIENTS: usize = 32;
/// Pause after a connection that could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Calls that may wait for the control plane.
pub(crate) const PENDING_CALLS: usize = 16;

/// Where connections go that ask for a hand-over.
pub type Handovers = mpsc::Sender<std::os::unix::net::UnixStream>;

/// What clients hear that asked too late.
pub(super) const ENDING: &str = "the gateway is shutting down";

/// Why a gateway does not.
const NO_HANDOVER: &str = "this gateway cannot be handed over: restart it instead";

/// A request on its way to the control plane.
#[derive(Debug)]
pub struct Call {
    /// What the client wants.
    pub request: Request,
    /// Where the answer goes.
    pub answer: oneshot::Sender<Response>,
}

/// A control socket; its name and its clients end with it.
#[derive(Debug)]
pub struct Served {
    name: Name,
    _clients: JoinSet<()>,
}

impl Served {
    /// Whether clients still find it by its name.
    #[must_use]
    pub fn is_named(&self) -> bool {
        self.name.is_there()
    }
}

/// Listens until the result is dropped. Root and the user who runs the gateway may send every
/// request; members of the group with this number may send read-only requests. Takes over a socket
/// that a dead gateway left behind, and fails on one that answers.
///
/// # Errors
/// [`ServerError`].
pub fn serve(
    path: &Path,
    group: Option<u32>,
    calls: mpsc::Sender<Call>,
) -> Result<Served, ServerError> {
    serve_successors(path, group, calls, None, Place::Free)
}

/// As [`serve`], of a gateway that hands over to whoever asks for it, if they may change it. In the
/// place of a predecessor, the socket takes its name.
///
/// # Errors
/// [`ServerError`].
pub fn serve_successors(
    path: &Path,
    group: Option<u32>,
    calls: mpsc::Sender<Call>,
    handovers: Option<Handovers>,
    place: Place,
) -> Result<Served, ServerError> {
    let (listener, name) = bind(path, group, place)?;
    let listener = UnixListener::from_std(listener)
        .map_err(|source| ServerError::Bind { path: path.to_owned(), source })?;
    let mut clients = JoinSet::new();
    clients.spawn(accept(listener, calls, handovers));
    Ok(Served { name, _clients: clients })
}

async fn accept(listener: UnixListener, calls: mpsc::Sender<Call>, handovers: Option<Handovers>) {
    let large = Arc::new(Semaphore::new(1));
    let mut clients = Clients::new(MAX_CLIENTS);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (calls, large) = (calls.clone(), Arc::clone(&large));
                let handovers = handovers.clone();
                let client = |silence: Arc<Silence>| async move {
                    // The conversation ends with a client that goes away.
                    let _ = converse(stream, calls, handovers, &large, &silence).await;
                };
                clients.serve(client).await;
            }
            // Most likely there are no descriptors left; clients that end free some.
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn converse(
    stream: UnixStream,
    calls: mpsc::Sender<Call>,
    handovers: Option<Handovers>,
    large: &Semaphore,
    silence: &Silence,
) -> io::Result<()> {
    let uid = stream.peer_cred()?.uid();
    let may_change = uid == 0 || uid == rustix::process::geteuid().as_raw();
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let (large, most) = if may_change { (Some(large), MAX_REQUEST) } else { (None, SMALL_REQUEST) };
    loop {
        silence.begin();
        let line = match timeout(PATIENCE, read_line(&mut reader, large)).await?? {
            Line::End => return Ok(()),
            Line::Whole(line) => Some(line),
            Line::TooLong => None,
        };
        silence.end();
        let response = match line.as_deref().map(Message::parse) {
            Some(Ok(Message { request: Request::HandOver, .. })) if may_change => {
                match &handovers {
                    // The control plane goes on with the connection.
                    Some(handovers) => {
                        let stream =
                            reader.into_inner().reunite(writer).map_err(io::Error::other)?;
                        let _ = handovers.send(stream.into_std()?).await;
                        return Ok(());
                    }
                    None => Response::Error(NO_HANDOVER.to_owned()),
                }
            }
            Some(Ok(Message { request, .. })) if may_change || request.is_read_only() => {
                ask(request, &calls).await
            }
            Some(Ok(_)) => {
                Response::Error(format!("user {uid} may only read: run this command as root"))
            }
            Some(Err(error)) => Response::Error(error),
            None => Response::Error(format!("request too long: the limit is {most} bytes")),
        };
        let is_last = line.is_none();
        let mut answer = serde_json::to_vec(&response)?;
        answer.push(b'\n');
        // A list of all peers is large: hold it once while the client reads it.
        drop((line, response));
        timeout(PATIENCE, write_answer(&mut writer, &answer, silence)).await??;
        if is_last {
            return Ok(());
        }
    }
}

/// Writes an answer as fast as the client reads it.
async fn write_answer(
    writer: &mut OwnedWriteHalf,
    mut answer: &[u8],
    silence: &Silence,
) -> io::Result<()> {
    while !answer.is_empty() {
        silence.begin();
        let written = writer.write(answer).await?;
        answer = &answer[written..];
    }
    Ok(())
}

enum Line {
    /// The client is gone.
    End,
    /// A complete line.
    Whole(Vec<u8>),
    /// More bytes than a request may have.
    TooLong,
}

/// Reads a line. A large one takes the permit of `large`: only one client at a time may send one, so
/// that all clients together need little more memory than one request.
async fn read_line(
    reader: &mut BufReader<OwnedReadHalf>,
    large: Option<&Semaphore>,
) -> io::Result<Line> {
    let mut line = Vec::new();
    let read = reader.take(SMALL_REQUEST).read_until(b'\n', &mut line).await?;
    if line.ends_with(b"\n") {
        return Ok(Line::Whole(line));
    }
    // The client is gone, perhaps in the middle of a line.
    if (read as u64) < SMALL_REQUEST {
        return Ok(Line::End);
    }
    let Some(large) = large else { return Ok(Line::TooLong) };
    let _one_at_a_time = large.acquire().await.map_err(io::Error::other)?;
    reader.take(MAX_REQUEST - SMALL_REQUEST).read_until(b'\n', &mut line).await?;
    match line.ends_with(b"\n") {
        true => Ok(Line::Whole(line)),
        false if line.len() as u64 == MAX_REQUEST => Ok(Line::TooLong),
        false => Ok(Line::End),
    }
}

async fn ask(request: Request, calls: &mpsc::Sender<Call>) -> Response {
    let (answer, answered) = oneshot::channel();
    let gone = || Response::Error(ENDING.to_owned());
    if calls.send(Call { request, answer }).await.is_err() {
        return gone();
    }
    answered.await.unwrap_or_else(|_| gone())
}
