//! A small HTTP server for health probes and metrics.

use crate::control::clients::{Clients, Silence};
use crate::sys::address;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::debug;

/// Connections served at a time; one more ends the one that has been silent the longest.
const MAX_CONNECTIONS: usize = 32;
/// How long a client may take to send a request's header, and a connection may last.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status, 200 for instance.
    pub status: u16,
    /// The body's type.
    pub content_type: &'static str,
    /// The body.
    pub body: String,
}

impl Answer {
    /// A plain text.
    #[must_use]
    pub fn text(status: u16, body: impl Into<String>) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: body.into() }
    }
}

/// The paths that a server has.
#[derive(Default)]
pub struct Routes(BTreeMap<&'static str, Box<dyn Fn() -> Answer + Send + Sync>>);

impl Routes {
    /// Adds a path, or replaces what it answers. `answer` must not block.
    #[must_use]
    pub fn with(
        mut self,
        path: &'static str,
        answer: impl Fn() -> Answer + Send + Sync + 'static,
    ) -> Self {
        self.0.insert(path, Box::new(answer));
        self
    }

    fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        let Some(answer) = self.0.get(path) else {
            return response(Answer::text(404, "not found\n"));
        };
        if *method != Method::GET && *method != Method::HEAD {
            let mut refused = response(Answer::text(405, "method not allowed\n"));
            refused
                .headers_mut()
                .insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
            return refused;
        }
        response(answer())
    }
}

fn response(answer: Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(answer.body));
    *response.status_mut() =
        StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let content_type = hyper::header::HeaderValue::from_static(answer.content_type);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// The server cannot listen.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen for HTTP on {listen}: {source}{cure}", cure = cure(source))]
pub struct HttpError {
    /// The address.
    pub listen: SocketAddr,
    /// What came back.
    pub source: io::Error,
}

fn cure(source: &io::Error) -> String {
    address::bind_cure(source).map_or_else(String::new, |cure| format!(": {cure}"))
}

/// A server that runs until it is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Server {
    /// The address that it listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Listens, and serves on the runtime that this is called on.
///
/// # Errors
/// [`HttpError`].
pub async fn serve(listen: SocketAddr, routes: Routes) -> Result<Server, HttpError> {
    let cannot = |source| HttpError { listen, source };
    let listener = TcpListener::bind(listen).await.map_err(cannot)?;
    let address = listener.local_addr().map_err(cannot)?;
    let task = tokio::spawn(accept(listener, Arc::new(routes)));
    Ok(Server { address, task })
}

async fn accept(listener: TcpListener, routes: Arc<Routes>) {
    let mut clients = Clients::new(MAX_CONNECTIONS);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let routes = Arc::clone(&routes);
                let client = |silence: Arc<Silence>| async move {
                    let served = timeout(PATIENCE.1, converse(stream, routes, &silence)).await;
                    debug!("HTTP connection: {served:?}");
                };
                clients.serve(client).await;
            }
            // Most likely there are no descriptors left; clients that end free some.
            Err(error) => {
                debug!("HTTP accept: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(stream: TcpStream, routes: Arc<Routes>, silence: &Silence) -> hyper::Result<()> {
    let service = service_fn(|request: Request<Incoming>| {
        let answer = routes.answer(request.method(), request.uri().path());
        // The client has to read the answer and to send its next request.
        silence.begin();
        async move { Ok::<_, Infallible>(answer) }
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE.0)
        // A client that has said all it will say still gets its answer.
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::SmallRng;
    use rand::{RngExt, SeedableRng};
    use std::sync::atomic::{AtomicBool, Ordering};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn ask(server: &Server, request: &str) -> String {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        let request = format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn paths_answer_what_they_say_at_that_moment() {
        let ready = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&ready);
        let routes =
            Routes::default().with("/readyz", move || match seen.load(Ordering::Relaxed) {
                true => Answer::text(200, "yes"),
                false => Answer::text(503, "no"),
            });
        let server = serve(([127, 0, 0, 1], 0).into(), routes).await.unwrap();

        let before = ask(&server, "GET /readyz").await;
        ready.store(true, Ordering::Relaxed);
        let after = ask(&server, "GET /readyz?x").await;

        assert!(before.starts_with("HTTP/1.1 503") && before.ends_with("\r\n\r\nno"), "{before}");
        assert!(after.starts_with("HTTP/1.1 200") && after.ends_with("\r\n\r\nyes"), "{after}");
        assert!(ask(&server, "HEAD /readyz").await.ends_with("\r\n\r\n"));
        assert!(ask(&server, "GET /other").await.starts_with("HTTP/1.1 404"));
        assert!(ask(&server, "POST /readyz").await.starts_with("HTTP/1.1 405"));
    }

    #[tokio::test]
    async fn a_client_that_closes_its_half_gets_its_answer() {
        let routes = Routes::default().with("/healthz", || Answer::text(200, "yes"));
        let server = serve(([127, 0, 0, 1], 0).into(), routes).await.unwrap();
        for _ in 0..50 {
            let mut stream = TcpStream::connect(server.address()).await.unwrap();
            stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
            stream.shutdown().await.unwrap();
            let mut answer = String::new();

            stream.read_to_string(&mut answer).await.unwrap();

            assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("yes"), "{answer}");
        }
    }

    #[tokio::test]
    async fn an_address_in_use_is_named() {
        let server = serve(([127, 0, 0, 1], 0).into(), Routes::default()).await.unwrap();

        let error = serve(server.address(), Routes::default()).await.unwrap_err();

        assert!(error.to_string().contains(&server.address().to_string()), "{error}");
    }

    #[tokio::test]
    async fn silent_connections_do_not_keep_health_probes_out() {
        let routes = Routes::default().with("/healthz", || Answer::text(200, "yes"));
        let server = serve(([127, 0, 0, 1], 0).into(), routes).await.unwrap();
        let mut silent = Vec::new();
        for number in 0..3 * MAX_CONNECTIONS {
            let mut stream = TcpStream::connect(server.address()).await.unwrap();
            // Some say nothing, some stop in the middle of a request.
            if number % 2 == 0 {
                stream.write_all(b"GET /healthz HTTP/1.1\r\nHost:").await.unwrap();
            }
            silent.push(stream);
        }

        let asked = timeout(PATIENCE.0 / 2, ask(&server, "GET /healthz")).await;

        assert!(asked.expect("an answer").starts_with("HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn random_and_truncated_requests_leave_the_server_answering() {
        let routes = Routes::default().with("/healthz", || Answer::text(200, "yes"));
        let server = serve(([127, 0, 0, 1], 0).into(), routes).await.unwrap();
        let request = b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc";
        let mut random = SmallRng::seed_from_u64(7);

        for round in 0..1000 {
            let mut stream = TcpStream::connect(server.address()).await.unwrap();
            let mut bytes = vec![0; 1000];
            random.fill(&mut bytes[..]);
            let cut = random.random_range(0..request.len());
            // Odd rounds begin like a request.
            let begin = if round % 2 == 0 { &[][..] } else { &request[..cut] };
            // The server may have closed the connection already.
            let _ = stream.write_all(&[begin, &bytes].concat()).await;
        }

        assert!(ask(&server, "GET /healthz").await.starts_with("HTTP/1.1 200"));
    }
}
