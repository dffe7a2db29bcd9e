//! Connections to etcd servers, with TLS as the Kubernetes client speaks it.

use hyper::Uri;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tower_service::Service;

use crate::subnet::tls::explained;

/// What carries HTTP/2.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Makes connections, in the clear unless it has a configuration of TLS.
#[derive(Clone)]
pub(super) struct Connector(pub(super) Option<Arc<ClientConfig>>);

impl Service<Uri> for Connector {
    type Response = TokioIo<Box<dyn Stream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, io::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        Box::pin(connect(to, self.0.clone()))
    }
}

async fn connect(
    to: Uri,
    tls: Option<Arc<ClientConfig>>,
) -> Result<TokioIo<Box<dyn Stream>>, io::Error> {
    let host = to.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let port = to.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    let Some(tls) = tls else { return Ok(TokioIo::new(Box::new(stream))) };
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let stream = TlsConnector::from(tls).connect(name, stream).await.map_err(explained)?;
    Ok(TokioIo::new(Box::new(stream)))
}
