//! A kubeconfig file: which server, which authority, which user.
//!
//! Source: the Kubernetes reference, kubeconfig (v1). Read as client-go reads it: relative paths are
//! relative to the file, inline data win over files.

use crate::subnet::tls::{Identity, Trust};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// What the current context of a file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Context {
    /// The API server's URL; empty when the file names none.
    pub server: String,
    /// Whom to trust.
    pub trust: Trust,
    /// The name that the server's certificate must carry, if it is not the URL's.
    pub server_name: Option<String>,
    /// A client certificate and its key, PEM.
    pub identity: Option<Identity>,
    /// What proves who we are in every request.
    pub token: TokenSource,
}

/// Where the bearer token comes from. No token is ever printed.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum TokenSource {
    /// There is none.
    None,
    /// It is given.
    Fixed(String),
    /// A file, which somebody renews.
    File(PathBuf),
    /// A program that prints an `ExecCredential`.
    Program(Program),
}

/// A credential plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Program {
    /// What to run.
    pub command: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Variables that are added to its environment.
    pub env: Vec<(String, String)>,
    /// The version of `ExecCredential` that it speaks.
    pub api_version: String,
}

impl std::fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Fixed(_) => f.write_str("Fixed(…)"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Program(program) => f.debug_tuple("Program").field(&program.command).finish(),
        }
    }
}

/// Why a kubeconfig file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    /// A file cannot be read.
    #[error("reading {path}: {source}: correct -kubeconfig-file, or let this user read it")]
    Read {
        /// The file.
        path: PathBuf,
        /// What came back.
        source: std::io::Error,
    },
    /// The file is not a kubeconfig.
    #[error("{path} is not a kubeconfig: {cause}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What is wrong, with its line.
        cause: String,
    },
    /// Something that the file refers to is not in it.
    #[error("{path} has no {what} {name:?}: add it, or choose another with current-context")]
    Missing {
        /// The file.
        path: PathBuf,
        /// `context`, `cluster` or `user`.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// Inline data are not base64.
    #[error("{path}: {key} is not base64")]
    Base64 {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
    },
    /// A certificate without its key, or the other way around.
    #[error("{path}: user {user:?} has a client certificate or a client key: give both")]
    HalfIdentity {
        /// The file.
        path: PathBuf,
        /// The user.
        user: String,
    },
    /// A way to prove who one is that nobody serves any more.
    #[error("{path}: user {user:?} has {what}, which API servers do not take any more: use {cure}")]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The user.
        user: String,
        /// The way.
        what: &'static str,
        /// What to use instead.
        cure: &'static str,
    },
}

/// Reads the current context of a file.
///
/// # Errors
/// [`KubeconfigError`].
pub(super) fn read(path: &Path) -> Result<Context, KubeconfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| KubeconfigError::Read { path: path.to_owned(), source })?;
    parse(path, &text)
}

/// The current context of a kubeconfig's text; `path` is where it lies.
///
/// # Errors
/// [`KubeconfigError`].
pub(super) fn parse(path: &Path, text: &str) -> Result<Context, KubeconfigError> {
    let file: File = serde_norway::from_str(text).map_err(|error| KubeconfigError::Syntax {
        path: path.to_owned(),
        cause: error.to_string(),
    })?;
    let missing = |what, name: &str| KubeconfigError::Missing {
        path: path.to_owned(),
        what,
        name: name.to_owned(),
    };
    let context = named(&file.contexts, &file.current_context)
        .map(|entry| &entry.context)
        .ok_or_else(|| missing("context", &file.current_context))?;
    let cluster = named(&file.clusters, &context.cluster)
        .map(|entry| &entry.cluster)
        .ok_or_else(|| missing("cluster", &context.cluster))?;
    let nobody = User::default();
    let user = match context.user.as_str() {
        "" => &nobody,
        name => named(&file.users, name)
            .map(|entry| &entry.user)
            .ok_or_else(|| missing("user", name))?,
    };
    let reader = Reader { path, user: &context.user };
    Ok(Context {
        server: cluster.server.clone(),
        trust: reader.trust(cluster)?,
        server_name: cluster.tls_server_name.clone().filter(|name| !name.is_empty()),
        identity: reader.identity(user)?,
        token: reader.token(user)?,
    })
}

/// Reads what a context refers to.
struct Reader<'a> {
    path: &'a Path,
    user: &'a str,
}

impl Reader<'_> {
    fn trust(&self, cluster: &Cluster) -> Result<Trust, KubeconfigError> {
        if cluster.insecure_skip_tls_verify {
            return Ok(Trust::Anybody);
        }
        let pem = self.bytes(
            "certificate-authority-data",
            cluster.certificate_authority_data.as_deref(),
            cluster.certificate_authority.as_deref(),
        )?;
        Ok(pem.map_or(Trust::System, Trust::Authorities))
    }

    fn identity(&self, user: &User) -> Result<Option<Identity>, KubeconfigError> {
        let certificate = self.bytes(
            "client-certificate-data",
            user.client_certificate_data.as_deref(),
            user.client_certificate.as_deref(),
        )?;
        let key = self.bytes(
            "client-key-data",
            user.client_key_data.as_deref(),
            user.client_key.as_deref(),
        )?;
        match (certificate, key) {
            (Some(certificate), Some(key)) => Ok(Some(Identity { certificate, key })),
            (None, None) => Ok(None),
            _ => Err(KubeconfigError::HalfIdentity {
                path: self.path.to_owned(),
                user: self.user.to_owned(),
            }),
        }
    }

    fn token(&self, user: &User) -> Result<TokenSource, KubeconfigError> {
        let unsupported = |what, cure| KubeconfigError::Unsupported {
            path: self.path.to_owned(),
            user: self.user.to_owned(),
            what,
            cure,
        };
        if user.username.is_some() || user.password.is_some() {
            return Err(unsupported("a password", "a token or a client certificate"));
        }
        if user.auth_provider.is_some() {
            return Err(unsupported("an auth-provider", "exec with a credential plugin"));
        }
        // A token file wins over a token, as in client-go.
        if let Some(file) = filled(user.token_file.as_deref()) {
            return Ok(TokenSource::File(self.beside(file)));
        }
        if let Some(token) = filled(user.token.as_deref()) {
            return Ok(TokenSource::Fixed(token.to_owned()));
        }
        let Some(exec) = &user.exec else { return Ok(TokenSource::None) };
        let command = Path::new(&exec.command);
        Ok(TokenSource::Program(Program {
            // A bare name is looked for in PATH.
            command: if command.components().count() > 1 {
                self.beside(&exec.command)
            } else {
                command.to_owned()
            },
            args: exec.args.clone().unwrap_or_default(),
            env: exec
                .env
                .iter()
                .flatten()
                .map(|variable| (variable.name.clone(), variable.value.clone()))
                .collect(),
            api_version: exec.api_version.clone(),
        }))
    }

    fn bytes(
        &self,
        key: &'static str,
        inline: Option<&str>,
        file: Option<&str>,
    ) -> Result<Option<Vec<u8>>, KubeconfigError> {
        if let Some(data) = filled(inline) {
            let decoded = STANDARD.decode(data.trim());
            return decoded
                .map(Some)
                .map_err(|_| KubeconfigError::Base64 { path: self.path.to_owned(), key });
        }
        let Some(file) = filled(file) else { return Ok(None) };
        let path = self.beside(file);
        std::fs::read(&path).map(Some).map_err(|source| KubeconfigError::Read { path, source })
    }

    fn beside(&self, file: &str) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("")).join(file)
    }
}

fn filled(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}

trait Named {
    fn name(&self) -> &str;
}

fn named<'a, T: Named>(entries: &'a Option<Vec<T>>, name: &str) -> Option<&'a T> {
    entries.iter().flatten().find(|entry| entry.name() == name)
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct File {
    current_context: String,
    contexts: Option<Vec<ContextEntry>>,
    clusters: Option<Vec<ClusterEntry>>,
    users: Option<Vec<UserEntry>>,
}

#[derive(Debug, Deserialize)]
struct ContextEntry {
    name: String,
    context: ContextBody,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ContextBody {
    cluster: String,
    user: String,
}

#[derive(Debug, Deserialize)]
struct ClusterEntry {
    name: String,
    cluster: Cluster,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Cluster {
    server: String,
    certificate_authority: Option<String>,
    certificate_authority_data: Option<String>,
    insecure_skip_tls_verify: bool,
    tls_server_name: Option<String>,
}

#[derive(Debug, Deserialize)]
struct UserEntry {
    name: String,
    user: User,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct User {
    client_certificate: Option<String>,
    client_certificate_data: Option<String>,
    client_key: Option<String>,
    client_key_data: Option<String>,
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<String>,
    username: Option<String>,
    password: Option<String>,
    auth_provider: Option<serde_norway::Value>,
    exec: Option<Exec>,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("User(…)")
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Exec {
    api_version: String,
    command: String,
    args: Option<Vec<String>>,
    env: Option<Vec<Variable>>,
}

#[derive(Debug, Deserialize)]
struct Variable {
    name: String,
    value: String,
}

impl Named for ContextEntry {
    fn name(&self) -> &str {
        &self.name
    }
}

impl Named for ClusterEntry {
    fn name(&self) -> &str {
        &self.name
    }
}

impl Named for UserEntry {
    fn name(&self) -> &str {
        &self.name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
apiVersion: v1
kind: Config
current-context: here
contexts:
- {name: there, context: {cluster: far, user: nobody}}
- {name: here, context: {cluster: near, user: node}}
clusters:
- name: near
  cluster:
    server: https://192.0.2.1:6443
    certificate-authority-data: Q0E=
    tls-server-name: kubernetes
users:
- name: node
  user: USER
"#;

    #[test]
    fn the_current_context_names_server_authority_and_user() {
        let context = with_user("{client-certificate-data: Q0VSVA==, client-key-data: S0VZ}");

        let context = context.unwrap();
        assert_eq!(context.server, "https://192.0.2.1:6443");
        assert_eq!(context.trust, Trust::Authorities(b"CA".to_vec()));
        assert_eq!(context.server_name.as_deref(), Some("kubernetes"));
        let identity = Identity { certificate: b"CERT".to_vec(), key: b"KEY".to_vec() };
        assert_eq!(context.identity, Some(identity));
        assert_eq!(context.token, TokenSource::None);
    }

    #[test]
    fn a_token_file_wins_over_a_token_and_is_relative_to_the_kubeconfig() {
        let context = with_user("{token: abc, tokenFile: secret/token}").unwrap();

        assert_eq!(context.token, TokenSource::File("/etc/kube/secret/token".into()));
        assert_eq!(with_user("{token: abc}").unwrap().token, TokenSource::Fixed("abc".to_owned()));
    }

    #[test]
    fn a_plugin_by_name_is_looked_for_in_the_path_and_one_by_path_beside_the_file() {
        let exec = |command| {
            let version = "client.authentication.k8s.io/v1";
            format!("{{exec: {{apiVersion: {version}, command: {command}, args: [token]}}}}")
        };
        let command = |command| match with_user(&exec(command)).unwrap().token {
            TokenSource::Program(program) => program.command,
            other => panic!("{other:?}"),
        };

        assert_eq!(command("aws"), PathBuf::from("aws"));
        assert_eq!(command("./bin/aws"), PathBuf::from("/etc/kube/./bin/aws"));
        assert_eq!(command("/opt/aws"), PathBuf::from("/opt/aws"));
    }

    #[test]
    fn what_is_missing_is_named() {
        let mistake = |text: String| {
            parse(Path::new("/etc/kube/config"), &text.replace("USER", "{}")).unwrap_err()
        };

        let context = mistake(FILE.replace("current-context: here", "current-context: gone"));
        let cluster = mistake(FILE.replace("name: near", "name: other"));
        let half = with_user("{client-certificate-data: Q0VSVA==}").unwrap_err();
        let password = with_user("{username: a, password: b}").unwrap_err();

        assert!(context.to_string().contains("no context \"gone\""), "{context}");
        assert!(cluster.to_string().contains("no cluster \"near\""), "{cluster}");
        assert!(half.to_string().contains("give both"), "{half}");
        assert!(password.to_string().contains("use a token"), "{password}");
    }

    #[test]
    fn secrets_are_not_printed() {
        let context = with_user("{token: secret}").unwrap();

        assert!(!format!("{context:?}").contains("secret"));
    }

    fn with_user(user: &str) -> Result<Context, KubeconfigError> {
        parse(Path::new("/etc/kube/config"), &FILE.replace("USER", user))
    }
}
