//! Requests to the API server: HTTP/2 over one connection that pings, so that a server that is
//! silent is noticed whatever waits for it.

use super::access::{Access, AccessError, Server};
use super::api::Status;
use super::token::{Credential, TokenError};
use crate::subnet::tls;
use flate2::write::MultiGzDecoder;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::io::Write;
use std::sync::Mutex;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// Ping interval and answer time; both together stay below 15 s.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(5));
/// Longest wait for a connection to one server.
const CONNECT: Duration = Duration::from_secs(3);
/// Longest wait for the head of an answer.
const HEAD: Duration = Duration::from_secs(10);
/// Longest wait for the whole body of an answer that is no watch.
const BODY: Duration = Duration::from_secs(30);
/// Longest body, bytes, compressed and not: a page of 500 nodes has about 7 MB.
const MAX_BODY: usize = 64 << 20;

type Body = Full<Bytes>;

/// One request.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) method: Method,
    /// Path and query, from `/api` on.
    pub(super) path: String,
    /// The representation that is wanted.
    pub(super) accept: &'static str,
    /// What the body is.
    pub(super) content_type: &'static str,
    pub(super) body: Bytes,
}

impl Ask {
    /// Asks for an object or a list.
    pub(super) fn get(path: String, accept: &'static str) -> Self {
        Self { method: Method::GET, path, accept, content_type: "", body: Bytes::new() }
    }
}

/// The API server did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No server answers.
    #[error("no answer from the API server {server}: {cause}")]
    Unreachable {
        /// The last one that was tried.
        server: String,
        /// What happened.
        cause: String,
    },
    /// There is nothing to prove ourselves with.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// Certificates are of no use any more.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The server said no.
    #[error("{what}: {} ({})", status.message, status.code)]
    Refused {
        /// What was asked.
        what: String,
        /// Its answer.
        status: Status,
    },
    /// The answer makes no sense.
    #[error("{what}: the answer cannot be read: {cause}")]
    Garbled {
        /// What was asked.
        what: String,
        /// What is wrong.
        cause: String,
    },
}

impl CallError {
    /// The HTTP status code of a refusal.
    #[must_use]
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(status.code),
            _ => None,
        }
    }
}

/// Talks to the API server.
pub(super) struct Client {
    access: Access,
    state: Mutex<State>,
}

/// Which server is used, and the connection to it.
#[derive(Default)]
struct State {
    current: usize,
    shared: Option<http2::SendRequest<Body>>,
}

impl Client {
    pub(super) fn new(access: Access) -> Self {
        Self { access, state: Mutex::default() }
    }

    /// Asks, and reads the whole answer.
    pub(super) async fn call(&self, ask: &Ask) -> Result<Vec<u8>, CallError> {
        let answer = self.open(ask).await?;
        read(answer, ask).await
    }

    /// Asks, and leaves the body to the caller. An answer that is a refusal becomes an error.
    pub(super) async fn open(&self, ask: &Ask) -> Result<Response<Incoming>, CallError> {
        let mut answer = self.send(ask).await?;
        if answer.status() == StatusCode::UNAUTHORIZED && self.access.refused() {
            // A new certificate of a plugin counts from the next connection on.
            self.disconnect();
            answer = self.send(ask).await?;
        }
        if answer.status().is_success() { Ok(answer) } else { Err(refusal(answer, ask).await) }
    }

    /// Sends to the server in use, or to the first one that takes a connection.
    async fn send(&self, ask: &Ask) -> Result<Response<Incoming>, CallError> {
        let credential = self.access.credential().await?;
        let servers = &self.access.servers;
        let first = self.lock().current;
        let mut failure = None;
        for offset in 0..servers.len() {
            let index = (first + offset) % servers.len();
            let server = &servers[index];
            let sent = self.send_to(index, server, ask, &credential).await;
            let cause = match sent {
                Ok(answer) => return Ok(answer),
                Err(Attempt::Access(error)) => return Err(error.into()),
                Err(Attempt::Failed(cause)) => cause,
            };
            self.disconnect();
            failure = Some(CallError::Unreachable { server: server.authority(), cause });
        }
        // There is always at least one server.
        Err(failure.unwrap_or(CallError::Access(AccessError::Nowhere)))
    }

    async fn send_to(
        &self,
        index: usize,
        server: &Server,
        ask: &Ask,
        credential: &Credential,
    ) -> Result<Response<Incoming>, Attempt> {
        let request = request(ask, server, credential)?;
        let kept = {
            let state = self.lock();
            state.shared.clone().filter(|kept| state.current == index && !kept.is_closed())
        };
        if let Some(mut shared) = kept {
            return answered(timeout(HEAD, shared.send_request(request)).await);
        }
        match timeout(CONNECT, self.connect(server, credential)).await {
            Err(_) => Err(Attempt::Failed(format!("no connection within {} s", CONNECT.as_secs()))),
            Ok(Err(error)) => Err(error),
            Ok(Ok(Connection::Two(mut shared))) => {
                {
                    let mut state = self.lock();
                    state.current = index;
                    state.shared = Some(shared.clone());
                }
                answered(timeout(HEAD, shared.send_request(request)).await)
            }
            Ok(Ok(Connection::One(mut alone))) => {
                self.lock().current = index;
                answered(timeout(HEAD, alone.send_request(request)).await)
            }
        }
    }

    async fn connect(
        &self,
        server: &Server,
        credential: &Credential,
    ) -> Result<Connection, Attempt> {
        let stream = TcpStream::connect((server.host.as_str(), server.port)).await?;
        stream.set_nodelay(true)?;
        if !server.is_tls {
            return handshake(stream, false).await;
        }
        let name = self.access.name_of(server)?;
        let connector = TlsConnector::from(self.access.tls(credential)?);
        let stream = connector.connect(name, stream).await.map_err(tls::explained)?;
        let is_two = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        handshake(stream, is_two).await
    }

    /// The next request gets a new connection.
    pub(super) fn disconnect(&self) {
        self.lock().shared = None;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while holding it")
    }
}

/// A new connection: one for all requests, or one for a single request.
enum Connection {
    Two(http2::SendRequest<Body>),
    One(http1::SendRequest<Body>),
}

/// Why an attempt with one server failed.
enum Attempt {
    /// The next server may do better.
    Failed(String),
    /// No server will.
    Access(AccessError),
}

impl From<AccessError> for Attempt {
    fn from(error: AccessError) -> Self {
        Self::Access(error)
    }
}

impl From<std::io::Error> for Attempt {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<hyper::Error> for Attempt {
    fn from(error: hyper::Error) -> Self {
        Self::Failed(with_sources(&error))
    }
}

/// Speaks HTTP/2 where the server offers it. A proxy that does not gets a connection for each
/// request; only the time-outs notice there that it is silent.
async fn handshake<S>(stream: S, is_two: bool) -> Result<Connection, Attempt>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = TokioIo::new(stream);
    if !is_two {
        let (sender, connection) = http1::handshake(io).await?;
        tokio::spawn(connection);
        return Ok(Connection::One(sender));
    }
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE.0)
        .keep_alive_timeout(KEEP_ALIVE.1)
        .keep_alive_while_idle(true)
        .adaptive_window(true)
        .handshake(io)
        .await?;
    tokio::spawn(connection);
    Ok(Connection::Two(sender))
}

fn answered(
    answer: Result<hyper::Result<Response<Incoming>>, tokio::time::error::Elapsed>,
) -> Result<Response<Incoming>, Attempt> {
    match answer {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Attempt::Failed(format!("no answer within {} s", HEAD.as_secs()))),
    }
}

fn request(ask: &Ask, server: &Server, credential: &Credential) -> Result<Request<Body>, Attempt> {
    let scheme = if server.is_tls { "https" } else { "http" };
    let uri = format!("{scheme}://{}{}{}", server.authority(), server.prefix, ask.path);
    let mut request = Request::builder()
        .method(&ask.method)
        .uri(uri)
        .header(header::HOST, server.authority())
        .header(header::USER_AGENT, concat!("twill/", env!("CARGO_PKG_VERSION")))
        .header(header::ACCEPT, ask.accept);
    if !ask.path.contains("watch=") {
        request = request.header(header::ACCEPT_ENCODING, "gzip");
    }
    if !ask.content_type.is_empty() {
        request = request.header(header::CONTENT_TYPE, ask.content_type);
    }
    if let Some(token) = &credential.token {
        let mut value = HeaderValue::try_from(format!("Bearer {token}"))
            .map_err(|_| Attempt::Failed("the token contains invalid characters".into()))?;
        value.set_sensitive(true);
        request = request.header(header::AUTHORIZATION, value);
    }
    request.body(Full::new(ask.body.clone())).map_err(|error| Attempt::Failed(error.to_string()))
}

/// Reads a whole body, and unpacks it.
async fn read(answer: Response<Incoming>, ask: &Ask) -> Result<Vec<u8>, CallError> {
    let garbled = |cause: String| CallError::Garbled { what: what(ask), cause };
    let packed = answer.headers().get(header::CONTENT_ENCODING).is_some_and(|it| it == "gzip");
    let body = Limited::new(answer.into_body(), MAX_BODY).collect();
    let bytes = match timeout(BODY, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            return Err(garbled(format!("it is longer than {MAX_BODY} bytes")));
        }
        Ok(Err(error)) => return Err(garbled(error.to_string())),
        Err(_) => return Err(garbled(format!("it does not end within {} s", BODY.as_secs()))),
    };
    if !packed {
        return Ok(bytes.into());
    }
    unpack(&bytes).map_err(|error| garbled(error.to_string()))
}

fn unpack(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut decoder = MultiGzDecoder::new(Bounded(Vec::new()));
    decoder.write_all(bytes)?;
    Ok(decoder.finish()?.0)
}

/// A buffer that refuses to grow beyond [`MAX_BODY`]: a few bytes of gzip can unpack to very many.
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_BODY {
            let message = format!("it unpacks to more than {MAX_BODY} bytes");
            return Err(std::io::Error::other(message));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What a refusal says; a proxy on the way may answer without a `Status`.
async fn refusal(answer: Response<Incoming>, ask: &Ask) -> CallError {
    let code = answer.status();
    let body = read(answer, ask).await.unwrap_or_default();
    let mut status: Status = serde_json::from_slice(&body).unwrap_or_default();
    if status.message.is_empty() {
        status.message = code.canonical_reason().unwrap_or("refused").to_owned();
    }
    status.code = code.as_u16();
    CallError::Refused { what: what(ask), status }
}

fn what(ask: &Ask) -> String {
    let path = ask.path.split('?').next().unwrap_or_default();
    format!("{} {path}", ask.method)
}

fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio::time::Instant;

    /// The clock stands still except when nobody has anything to do, so that what passes on it is what
    /// the settings add up to.
    #[tokio::test(start_paused = true)]
    async fn a_server_that_falls_silent_is_noticed_within_15_s() {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let answered = tokio::spawn(answer_one_request(theirs));
        let Ok(Connection::Two(mut sender)) = handshake(ours, true).await else {
            panic!("HTTP/2 was asked for");
        };
        let request = Request::get("http://server/watch").body(Body::default()).unwrap();
        let mut watch = sender.send_request(request).await.unwrap().into_body();
        // Held, but nobody reads or writes any more.
        let _silent = answered.await.unwrap();
        let began = Instant::now();

        let end = watch.frame().await;

        assert!(matches!(end, Some(Err(_))), "{end:?}");
        let passed = began.elapsed();
        assert!((KEEP_ALIVE.0..=KEEP_ALIVE.0 + KEEP_ALIVE.1).contains(&passed), "{passed:?}");
        assert!(KEEP_ALIVE.0 + KEEP_ALIVE.1 < Duration::from_secs(15));
        assert!(sender.is_closed(), "the next request gets a connection of its own");
    }

    /// Speaks as much HTTP/2 as it takes to begin the answer to one request.
    async fn answer_one_request(mut stream: DuplexStream) -> DuplexStream {
        const HEADERS: u8 = 1;
        const END_OF_HEADERS: u8 = 4;
        // The settings of both sides: ours are empty.
        stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        stream.write_all(&[0, 0, 0, 4, 1, 0, 0, 0, 0]).await.unwrap();
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).await.unwrap();
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.unwrap();
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            stream.read_exact(&mut vec![0; length]).await.unwrap();
            if head[3] == HEADERS {
                // `:status: 200` is an entry of the static table.
                let mut answer = vec![0, 0, 1, HEADERS, END_OF_HEADERS];
                answer.extend_from_slice(&head[5..9]);
                answer.push(0x88);
                stream.write_all(&answer).await.unwrap();
                return stream;
            }
        }
    }

    #[test]
    fn what_unpacks_without_end_is_refused() {
        let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
        let zeros = vec![0; 1 << 20];
        for _ in 0..=(MAX_BODY >> 20) {
            bomb.write_all(&zeros).unwrap();
        }

        let error = unpack(&bomb.finish().unwrap()).unwrap_err();

        assert!(error.to_string().contains("unpacks to more than"), "{error}");
    }

    #[test]
    fn what_was_packed_is_unpacked() {
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(b"{}").unwrap();

        assert_eq!(unpack(&packed.finish().unwrap()).unwrap(), b"{}");
    }
}
