//! How etcd is reached: endpoints, TLS, user.

use etcd_client::{Certificate, Client, ConnectOptions, Error, Identity, TlsOptions};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Ping interval and answer time. etcd refuses pings that come more often than every 5 s
/// (`--grpc-keepalive-min-time`); both together stay below 15 s.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(6), Duration::from_secs(5));
/// Longest wait for a connection to one endpoint.
const CONNECT: Duration = Duration::from_secs(3);
/// Where distributions keep the certificates that they trust, as Go looks for them.
const SYSTEM_ROOTS: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

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

/// A file that TLS needs cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("reading {path}: {source}")]
pub struct AccessError {
    /// The file.
    pub path: PathBuf,
    /// What came back.
    pub source: io::Error,
}

/// How etcd is reached.
#[derive(Clone)]
pub struct Access {
    endpoints: Vec<String>,
    tls: Option<TlsOptions>,
    credentials: Option<Credentials>,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("endpoints", &self.endpoints).finish_non_exhaustive()
    }
}

impl Access {
    /// Reads the files. As in flannel, a client certificate makes TLS; without one, endpoints that
    /// say `https` are checked against the system's authorities, and `http` is plain.
    ///
    /// # Errors
    /// [`AccessError`].
    pub fn new(
        endpoints: Vec<String>,
        tls: Option<&TlsFiles>,
        credentials: Option<Credentials>,
    ) -> Result<Self, AccessError> {
        let is_https = endpoints.iter().any(|endpoint| endpoint.starts_with("https://"));
        let tls = match tls {
            Some(files) if is_https => {
                let roots = match &files.authority {
                    Some(authority) => Some(read(authority)?),
                    None => system_roots(),
                };
                let identity = Identity::from_pem(read(&files.certificate)?, read(&files.key)?);
                Some(with_roots(roots).identity(identity))
            }
            None if is_https => Some(with_roots(system_roots())),
            _ => None,
        };
        Ok(Self { endpoints, tls, credentials })
    }

    pub(super) fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    pub(super) async fn connect(&self, endpoint: &str) -> Result<Client, Error> {
        // Pings without a stream are an offence to etcd; with the watch there always is one.
        let mut options = ConnectOptions::new()
            .with_keep_alive(KEEP_ALIVE.0, KEEP_ALIVE.1)
            .with_keep_alive_while_idle(false)
            .with_connect_timeout(CONNECT)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let Some(tls) = self.tls.as_ref().filter(|_| endpoint.starts_with("https://")) {
            options = options.with_tls(tls.clone());
        }
        if let Some(Credentials { user, password }) = &self.credentials {
            options = options.with_user(user, password);
        }
        Client::connect([endpoint], Some(options)).await
    }
}

fn with_roots(roots: Option<Vec<u8>>) -> TlsOptions {
    match roots {
        Some(pem) => TlsOptions::new().ca_certificate(Certificate::from_pem(pem)),
        None => TlsOptions::new(),
    }
}

fn system_roots() -> Option<Vec<u8>> {
    let configured = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let usual = SYSTEM_ROOTS.iter().map(PathBuf::from);
    configured.into_iter().chain(usual).find_map(|path| std::fs::read(path).ok())
}

fn read(path: &Path) -> Result<Vec<u8>, AccessError> {
    std::fs::read(path).map_err(|source| AccessError { path: path.to_owned(), source })
}
