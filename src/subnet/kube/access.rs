//! How the API server is reached: addresses, TLS, who we are.

use super::kubeconfig::{self, KubeconfigError, TokenSource};
use super::token::{Credential, TokenError, Tokens};
use crate::subnet::tls::{self, Identity, TlsError, Trust};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where a pod finds what its service account gives it.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// What the command line and the environment say of the API server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `-kube-api-url`: URLs, tried in order. They win over the kubeconfig's.
    pub servers: Vec<String>,
    /// `-kubeconfig-file`.
    pub kubeconfig: Option<PathBuf>,
}

/// Why the API server cannot be reached at all.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The kubeconfig file.
    #[error(transparent)]
    Kubeconfig(#[from] KubeconfigError),
    /// Nothing says where the API server is.
    #[error(
        "no API server configured, and not in a pod (KUBERNETES_SERVICE_HOST is not set); give \
         -kubeconfig-file or -kube-api-url"
    )]
    Nowhere,
    /// A URL that is none.
    #[error("invalid API server URL {url:?}: write https://HOST:PORT")]
    Url {
        /// What was given.
        url: String,
    },
    /// A file of the service account.
    #[error("reading {path}: {source}: is the service account's token mounted?")]
    ServiceAccount {
        /// The file.
        path: PathBuf,
        /// What came back.
        source: std::io::Error,
    },
    /// Certificates or keys that TLS cannot use.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// One API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) is_tls: bool,
    /// A name or an address, brackets of IPv6 left out.
    pub(super) host: String,
    pub(super) port: u16,
    /// What stands before the path of every request.
    pub(super) prefix: String,
}

impl Server {
    fn parse(url: &str) -> Result<Self, AccessError> {
        let invalid = || AccessError::Url { url: url.to_owned() };
        // As client-go: without a scheme it is TLS only if a certificate says so; here, always.
        let full = if url.contains("://") { url.to_owned() } else { format!("https://{url}") };
        let uri: hyper::Uri = full.parse().map_err(|_| invalid())?;
        let is_tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(invalid()),
        };
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(invalid)?;
        Ok(Self {
            is_tls,
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 }),
            prefix: uri.path().trim_end_matches('/').to_owned(),
        })
    }

    /// Host and port as a URL has them.
    pub(super) fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

/// How the API server is reached.
pub struct Access {
    pub(super) servers: Vec<Server>,
    trust: Trust,
    server_name: Option<String>,
    identity: Option<Identity>,
    tokens: Tokens,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("servers", &self.servers).finish_non_exhaustive()
    }
}

impl Access {
    /// Reads the kubeconfig file if one is given, else what a pod has.
    ///
    /// # Errors
    /// [`AccessError`]; nothing is sent.
    pub fn new(options: &Options) -> Result<Self, AccessError> {
        let in_cluster = options.kubeconfig.is_none() && options.servers.is_empty();
        let access = match &options.kubeconfig {
            Some(path) => Self::from_kubeconfig(path, &options.servers)?,
            None if in_cluster => Self::in_cluster(Path::new(SERVICE_ACCOUNT))?,
            None => Self {
                servers: servers(&options.servers)?,
                trust: Trust::System,
                server_name: None,
                identity: None,
                tokens: Tokens::new(TokenSource::None),
            },
        };
        // What is wrong with certificates is found here, before the first connection.
        if access.servers.iter().any(|server| server.is_tls) {
            access.tls(&Credential::default())?;
        }
        Ok(access)
    }

    fn from_kubeconfig(path: &Path, given: &[String]) -> Result<Self, AccessError> {
        let context = kubeconfig::read(path)?;
        let from_file = [context.server];
        Ok(Self {
            servers: servers(if given.is_empty() { &from_file } else { given })?,
            trust: context.trust,
            server_name: context.server_name,
            identity: context.identity,
            tokens: Tokens::new(context.token),
        })
    }

    fn in_cluster(folder: &Path) -> Result<Self, AccessError> {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let host = variable("KUBERNETES_SERVICE_HOST").ok_or(AccessError::Nowhere)?;
        let port = variable("KUBERNETES_SERVICE_PORT").unwrap_or_else(|| "443".to_owned());
        let url = match host.contains(':') {
            true => format!("https://[{host}]:{port}"),
            false => format!("https://{host}:{port}"),
        };
        let path = folder.join("ca.crt");
        let authorities =
            std::fs::read(&path).map_err(|source| AccessError::ServiceAccount { path, source })?;
        Ok(Self {
            servers: servers(&[url])?,
            trust: Trust::Authorities(authorities),
            server_name: None,
            identity: None,
            tokens: Tokens::new(TokenSource::File(folder.join("token"))),
        })
    }

    /// What the next request proves itself with.
    pub(super) async fn credential(&self) -> Result<Credential, TokenError> {
        self.tokens.credential().await
    }

    /// The server answered 401: whether it is worth asking again with another token.
    pub(super) fn refused(&self) -> bool {
        self.tokens.refused()
    }

    /// Whether the server's certificate is not checked.
    #[must_use]
    pub(crate) fn trusts_anybody(&self) -> bool {
        self.trust == Trust::Anybody
    }

    /// The name that a server's certificate must carry.
    pub(super) fn name_of(&self, server: &Server) -> Result<ServerName<'static>, AccessError> {
        let name = self.server_name.as_ref().unwrap_or(&server.host);
        ServerName::try_from(name.clone()).map_err(|_| AccessError::Url { url: name.clone() })
    }

    /// TLS for the next connection.
    pub(super) fn tls(&self, credential: &Credential) -> Result<Arc<ClientConfig>, AccessError> {
        let identity = credential.identity.as_ref().or(self.identity.as_ref());
        Ok(tls::client_config(&self.trust, identity, &[b"h2", b"http/1.1"])?)
    }
}

fn servers(urls: &[String]) -> Result<Vec<Server>, AccessError> {
    urls.iter().map(|url| Server::parse(url.trim())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_host_port_and_what_stands_before_every_path() {
        for (url, is_tls, authority, prefix) in [
            ("https://192.0.2.1:6443", true, "192.0.2.1:6443", ""),
            ("https://[2001:db8::1]:6443/", true, "[2001:db8::1]:6443", ""),
            ("http://127.0.0.1:8080", false, "127.0.0.1:8080", ""),
            ("https://proxy/k8s/clusters/c-1", true, "proxy:443", "/k8s/clusters/c-1"),
            ("api.example:6443", true, "api.example:6443", ""),
        ] {
            let server = Server::parse(url).unwrap();

            assert_eq!(
                (server.is_tls, server.authority()),
                (is_tls, authority.to_owned()),
                "{url}"
            );
            assert_eq!(server.prefix, prefix, "{url}");
        }
    }

    #[test]
    fn what_is_no_url_is_named_with_what_to_write() {
        for url in ["", "ftp://host", "https://", "https:// space"] {
            let error = Server::parse(url).unwrap_err().to_string();

            assert!(error.contains(&format!("{url:?}")), "{error}");
            assert!(error.contains("https://HOST:PORT"), "{error}");
        }
    }

    #[test]
    fn a_pod_trusts_the_authority_beside_its_token() {
        let folder = tempfile::tempdir().unwrap();

        let error = Access::in_cluster(folder.path()).unwrap_err().to_string();

        // Outside a pod it is said what to give instead.
        assert!(error.contains("-kubeconfig-file or -kube-api-url"), "{error}");
    }
}
