//! Answering clients.

use super::socket::{Name, bind};
use super::{Message, Request, Response, ServerError};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

/// Bytes of a request that every client may send at any time, and those who may only look at most.
const SMALL_REQUEST: u64 = 64 << 10;
/// Bytes of a request at most: a list of all the peers that a gateway can know fits.
const MAX_REQUEST: u64 = 32 << 20;
/// How long a client may take to say something, or to take the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Clients served at the same time; one more ends the conversation with the slowest of them.
const MAX_CLIENTS: usize = 32;

/// Calls that may wait for the control plane.
pub const PENDING_CALLS: usize = 16;

/// A request on its way to the control plane.
#[derive(Debug)]
pub struct Call {
    /// What is wanted.
    pub request: Request,
    /// Where the answer goes.
    pub answer: oneshot::Sender<Response>,
}

/// A control socket; its name and its conversations end with it.
#[derive(Debug)]
pub struct Served {
    _name: Name,
    _clients: JoinSet<()>,
}

/// Listens until the result is dropped. Whoever runs the gateway may ask for anything, and so may
/// root; members of the group with this number may only look. A name that a dead gateway left
/// behind is taken over, one that answers is not.
///
/// # Errors
/// [`ServerError`].
pub fn serve(
    path: &Path,
    group: Option<u32>,
    calls: mpsc::Sender<Call>,
) -> Result<Served, ServerError> {
    let (listener, name) = bind(path, group)?;
    let listener = UnixListener::from_std(listener)
        .map_err(|source| ServerError::Bind { path: path.to_owned(), source })?;
    let mut clients = JoinSet::new();
    clients.spawn(accept(listener, calls));
    Ok(Served { _name: name, _clients: clients })
}

async fn accept(listener: UnixListener, calls: mpsc::Sender<Call>) {
    let large = Arc::new(Semaphore::new(1));
    // Conversations end with this task.
    let mut clients = JoinSet::new();
    let mut places = Vec::with_capacity(MAX_CLIENTS);
    let turns = Arc::new(Notify::new());
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                make_room(&mut clients, &mut places, &turns).await;
                let (calls, large) = (calls.clone(), Arc::clone(&large));
                let pause = Arc::new(Pause::begun(Arc::clone(&turns)));
                let noted = Arc::clone(&pause);
                let handle = clients.spawn(async move {
                    // A client that goes away mid-sentence is its own affair.
                    let _ = converse(stream, calls, &large, &noted).await;
                });
                places.push(Place { handle, pause });
            }
            // Out of descriptors, most likely: others may close theirs.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// A conversation.
struct Place {
    handle: AbortHandle,
    pause: Arc<Pause>,
}

/// Since when a client has kept us waiting: to say all of what it wants, or to take some more of
/// the answer.
struct Pause {
    since: Mutex<Option<Instant>>,
    /// Told whenever it is a client's turn.
    turns: Arc<Notify>,
}

impl Pause {
    fn begun(turns: Arc<Notify>) -> Self {
        Self { since: Mutex::new(Some(Instant::now())), turns }
    }

    fn begin(&self) {
        *self.lock() = Some(Instant::now());
        self.turns.notify_one();
    }

    /// It is our turn.
    fn end(&self) {
        *self.lock() = None;
    }

    fn since(&self) -> Option<Instant> {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the conversation with the client that has kept us waiting the longest when there are too
/// many; when all wait for answers, waits until one has it.
async fn make_room(clients: &mut JoinSet<()>, places: &mut Vec<Place>, turns: &Notify) {
    loop {
        while clients.try_join_next().is_some() {}
        places.retain(|place| !place.handle.is_finished());
        if places.len() < MAX_CLIENTS {
            return;
        }
        let pauses = places.iter().enumerate();
        let pauses = pauses.filter_map(|(at, place)| Some((place.pause.since()?, at)));
        match pauses.min() {
            Some((_, longest)) => places.swap_remove(longest).handle.abort(),
            None => tokio::select! {
                _ = clients.join_next() => {}
                () = turns.notified() => {}
            },
        }
    }
}

async fn converse(
    stream: UnixStream,
    calls: mpsc::Sender<Call>,
    large: &Semaphore,
    pause: &Pause,
) -> io::Result<()> {
    let uid = stream.peer_cred()?.uid();
    let may_change = uid == 0 || uid == rustix::process::geteuid().as_raw();
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let (large, most) = if may_change { (Some(large), MAX_REQUEST) } else { (None, SMALL_REQUEST) };
    loop {
        pause.begin();
        let line = match timeout(PATIENCE, read_line(&mut reader, large)).await?? {
            Line::End => return Ok(()),
            Line::Whole(line) => Some(line),
            Line::TooLong => None,
        };
        pause.end();
        let response = match line.as_deref().map(Message::parse) {
            Some(Ok(Message { request, .. })) if may_change || request.only_looks() => {
                ask(request, &calls).await
            }
            Some(Ok(_)) => Response::Error(format!("user {uid} may only look: ask as root")),
            Some(Err(error)) => Response::Error(error),
            None => Response::Error(format!("a request has {most} bytes at most")),
        };
        let is_last = line.is_none();
        let mut answer = serde_json::to_vec(&response)?;
        answer.push(b'\n');
        // A list of all peers is large, and need not be there twice while it is taken.
        drop((line, response));
        timeout(PATIENCE, give(&mut writer, &answer, pause)).await??;
        if is_last {
            return Ok(());
        }
    }
}

/// Gives a client its answer, as it takes it.
async fn give(writer: &mut OwnedWriteHalf, mut answer: &[u8], pause: &Pause) -> io::Result<()> {
    while !answer.is_empty() {
        pause.begin();
        let taken = writer.write(answer).await?;
        answer = &answer[taken..];
    }
    Ok(())
}

enum Line {
    /// Nothing more comes.
    End,
    /// A line with its end.
    Whole(Vec<u8>),
    /// More than a request may have.
    TooLong,
}

/// Reads a line, a large one only by leave of `large`: one client at a time may be in the middle of
/// one, so that all clients together hold little more memory than one request needs.
async fn read_line(
    reader: &mut BufReader<OwnedReadHalf>,
    large: Option<&Semaphore>,
) -> io::Result<Line> {
    let mut line = Vec::new();
    let read = reader.take(SMALL_REQUEST).read_until(b'\n', &mut line).await?;
    if line.ends_with(b"\n") {
        return Ok(Line::Whole(line));
    }
    // Gone, perhaps in the middle of it.
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
    let gone = || Response::Error("the gateway is shutting down".to_owned());
    if calls.send(Call { request, answer }).await.is_err() {
        return gone();
    }
    answered.await.unwrap_or_else(|_| gone())
}
