//! How etcd is reached: endpoints, TLS, user.

use super::channel::Connector;
use super::connection::cause;
use super::pings::Pings;
use crate::subnet::tls::{self, Identity, TlsError, Trust};
use etcd_client::{Channel, Client, ConnectOptions, Error};
use rustls::ClientConfig;
use std::cell::Cell;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tonic::transport::Endpoint;
use tracing::warn;

/// How long a server may take to answer a ping.
const PING_ANSWER: Duration = Duration::from_secs(5);
/// etcd's words for a login while authentication is off.
const AUTH_IS_OFF: &str = "authentication is not enabled";
/// What is spoken over TLS.
const HTTP_2: &[&[u8]] = &[b"h2"];
/// Longest wait for a connection to one endpoint.
const CONNECT: Duration = Duration::from_secs(3);
/// User name and password. Neither is ever printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user.
    pub user: String,
    /// The password.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(…)")
    }
}

/// Files of a client certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Its key.
    pub key: PathBuf,
    /// The certificate.
    pub certificate: PathBuf,
    /// Who signed the servers'; the system's authorities unless given.
    pub authority: Option<PathBuf>,
}

/// A file that TLS needs is of no use.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// It cannot be read.
    #[error(
        "reading {path}: {source}: correct -etcd-cafile, -etcd-certfile or -etcd-keyfile, or let \
         this user read it"
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// What came back.
        source: io::Error,
    },
    /// TLS makes nothing of it.
    #[error("-etcd-cafile, -etcd-certfile or -etcd-keyfile cannot be used: {0}")]
    Unusable(#[from] TlsError),
}

/// How etcd is reached.
#[derive(Clone)]
pub struct Access {
    endpoints: Vec<String>,
    /// A client certificate; with one only `http://` is plain.
    files: Option<TlsFiles>,
    credentials: Option<Credentials>,
    pings: Pings,
    /// Whether it was said that the credentials are not asked for.
    told: Cell<bool>,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("endpoints", &self.endpoints).finish_non_exhaustive()
    }
}

impl Access {
    /// Reads the files. As in flannel, a client certificate makes TLS of all endpoints that do not
    /// say `http`; without one, those that say `https` are checked against the system's authorities,
    /// and others are plain.
    ///
    /// # Errors
    /// [`AccessError`]; nothing is sent.
    pub fn new(
        endpoints: Vec<String>,
        tls: Option<&TlsFiles>,
        credentials: Option<Credentials>,
    ) -> Result<Self, AccessError> {
        let access = Self {
            endpoints,
            files: tls.cloned(),
            credentials,
            pings: Pings::new(),
            told: Cell::new(false),
        };
        access.tls()?;
        Ok(access)
    }

    fn is_certified(&self) -> bool {
        self.files.is_some()
    }

    /// TLS, if any endpoint needs it. Files are read anew: certificates are renewed while the program
    /// runs.
    fn tls(&self) -> Result<Option<Arc<ClientConfig>>, AccessError> {
        let Some(files) = &self.files else {
            let needed = self.endpoints.iter().any(|endpoint| !is_plain(endpoint, false));
            let config = needed.then(|| tls::client_config(&Trust::System, None, HTTP_2));
            return Ok(config.transpose()?);
        };
        let trust = match &files.authority {
            Some(authority) => Trust::Authorities(read(authority)?),
            None => Trust::System,
        };
        let identity = Identity { certificate: read(&files.certificate)?, key: read(&files.key)? };
        Ok(Some(tls::client_config(&trust, Some(&identity), HTTP_2)?))
    }

    /// Endpoints that are spoken to in the clear.
    pub(crate) fn plain_endpoints(&self) -> impl Iterator<Item = &str> {
        let plain = |endpoint: &&str| is_plain(endpoint, self.is_certified());
        self.endpoints.iter().map(String::as_str).filter(plain)
    }

    pub(super) fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    /// Connects to an endpoint. Where authentication is off, credentials are left out.
    pub(super) async fn connect(&self, endpoint: &str) -> Result<Client, Error> {
        let options = ConnectOptions::new().with_require_leader(true).with_auto_token_refresh(true);
        let Some(Credentials { user, password }) = &self.credentials else {
            return Client::from_channel(self.channel(endpoint)?, Some(options)).await;
        };
        let login = options.clone().with_user(user, password);
        match Client::from_channel(self.channel(endpoint)?, Some(login)).await {
            Err(Error::GRpcStatus(status)) if status.message().contains(AUTH_IS_OFF) => {
                if !self.told.replace(true) {
                    warn!("etcd's authentication is off: user {user:?} is not used");
                }
                Client::from_channel(self.channel(endpoint)?, Some(options)).await
            }
            connected => connected.inspect(|_| self.told.set(false)),
        }
    }

    fn channel(&self, endpoint: &str) -> Result<Channel, Error> {
        let invalid = |reason: &dyn fmt::Display| Error::InvalidArgs(reason.to_string());
        let is_plain = is_plain(endpoint, self.is_certified());
        let tls = if is_plain { None } else { self.tls().map_err(|reason| invalid(&reason))? };
        let url = match (endpoint.contains("://"), is_plain) {
            (true, _) => endpoint.to_owned(),
            (false, true) => format!("http://{endpoint}"),
            (false, false) => format!("https://{endpoint}"),
        };
        let endpoint = Endpoint::from_shared(url).map_err(|reason| invalid(&reason))?;
        // Pings without a stream are an offence to etcd; with the watch there always is one.
        let channel = endpoint
            .http2_keep_alive_interval(self.pings.every())
            .keep_alive_timeout(PING_ANSWER)
            .keep_alive_while_idle(false)
            .connect_timeout(CONNECT)
            .connect_with_connector_lazy(Connector(tls));
        Ok(Channel::Tonic(channel))
    }

    /// Takes note of a connection that ended after some time: the next one is pinged less if pings seem
    /// to be the reason.
    pub(super) fn ended(&self, life: Duration, error: &Error) {
        let text = cause(error);
        if let Some(every) = self.pings.ended(life, &text) {
            warn!(
                "{text}: the server, or a proxy before it, allows fewer pings: pinging etcd every {} s \
                 from now on",
                every.as_secs()
            );
        }
    }
}

/// Whether an endpoint is spoken to in the clear: as in Go's client, one without a scheme is if there
/// is no certificate.
fn is_plain(endpoint: &str, is_certified: bool) -> bool {
    if endpoint.starts_with("https://") {
        return false;
    }
    endpoint.starts_with("http://") || !is_certified
}

fn read(path: &Path) -> Result<Vec<u8>, AccessError> {
    std::fs::read(path).map_err(|source| AccessError::Read { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_a_certificate_only_http_is_plain() {
        for (endpoint, without, with) in [
            ("http://192.0.2.1:2379", true, true),
            ("https://192.0.2.1:2379", false, false),
            ("192.0.2.1:2379", true, false),
            ("etcd.example:2379", true, false),
        ] {
            assert_eq!(is_plain(endpoint, false), without, "{endpoint}");
            assert_eq!(is_plain(endpoint, true), with, "{endpoint}");
        }
    }

    #[test]
    fn files_are_read_whatever_the_endpoints_say() {
        let nowhere = PathBuf::from("/nowhere.pem");
        let files =
            TlsFiles { key: nowhere.clone(), certificate: nowhere.clone(), authority: None };

        let read = Access::new(vec!["http://192.0.2.1:2379".to_owned()], Some(&files), None);

        assert!(matches!(read, Err(AccessError::Read { path, .. }) if path == nowhere));
    }
}
