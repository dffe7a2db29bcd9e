//! The bearer token of every request: read again in time, dropped when the server refuses it.

use super::kubeconfig::{Program, TokenSource};
use crate::subnet::tls::Identity;
use serde::Deserialize;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Mutex;
use std::time::Duration;
use tokio::process::Command;
use tokio::time::{Instant, timeout};

/// How long a token file's content is used before it is read again. Kubernetes renews the token of
/// a service account some minutes before it ends.
const FILE_AGE: Duration = Duration::from_secs(60);
/// Longest wait for a credential plugin.
const PROGRAM: Duration = Duration::from_secs(30);

/// What a request proves itself with. Neither is ever printed.
#[derive(Clone, Default)]
pub(super) struct Credential {
    /// The bearer token.
    pub(super) token: Option<String>,
    /// A client certificate that a credential plugin gave.
    pub(super) identity: Option<Identity>,
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The token file.
    #[error("reading the token {path}: {source}: let this user read it")]
    Read {
        /// The file.
        path: PathBuf,
        /// What came back.
        source: std::io::Error,
    },
    /// The plugin did not run, or not to its end.
    #[error("running the credential plugin {command}: {cause}")]
    Program {
        /// The program.
        command: PathBuf,
        /// What happened.
        cause: String,
    },
}

/// Gives tokens, and keeps the last one.
pub(super) struct Tokens {
    source: TokenSource,
    kept: Mutex<Option<(Credential, Instant)>>,
}

impl Tokens {
    pub(super) fn new(source: TokenSource) -> Self {
        Self { source, kept: Mutex::new(None) }
    }

    /// The credential for the next request.
    pub(super) async fn credential(&self) -> Result<Credential, TokenError> {
        if let Some(kept) = self.kept_still() {
            return Ok(kept);
        }
        let fresh = match &self.source {
            TokenSource::None => return Ok(Credential::default()),
            TokenSource::Fixed(token) => Credential { token: Some(token.clone()), identity: None },
            TokenSource::File(path) => {
                let text = tokio::fs::read_to_string(path)
                    .await
                    .map_err(|source| TokenError::Read { path: path.clone(), source })?;
                Credential { token: Some(text.trim().to_owned()), identity: None }
            }
            TokenSource::Program(program) => ask(program).await?,
        };
        *self.lock() = Some((fresh.clone(), Instant::now()));
        Ok(fresh)
    }

    /// Forgets the token: the server does not take it any more. Says whether another one can be had.
    pub(super) fn refused(&self) -> bool {
        *self.lock() = None;
        matches!(self.source, TokenSource::File(_) | TokenSource::Program(_))
    }

    fn kept_still(&self) -> Option<Credential> {
        let kept = self.lock();
        let (credential, since) = kept.as_ref()?;
        let is_old = matches!(self.source, TokenSource::File(_)) && since.elapsed() >= FILE_AGE;
        (!is_old).then(|| credential.clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(Credential, Instant)>> {
        self.kept.lock().expect("nobody panics while holding it")
    }
}

/// Runs a credential plugin (client-go's `ExecCredential`). Its standard error goes to ours.
async fn ask(program: &Program) -> Result<Credential, TokenError> {
    let failed = |cause: String| TokenError::Program { command: program.command.clone(), cause };
    let request = serde_json::json!({
        "apiVersion": program.api_version,
        "kind": "ExecCredential",
        "spec": {"interactive": false},
    });
    let mut command = Command::new(&program.command);
    command
        .args(&program.args)
        .envs(program.env.iter().map(|(name, value)| (name, value)))
        .env("KUBERNETES_EXEC_INFO", request.to_string())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .kill_on_drop(true);
    let output = match timeout(PROGRAM, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(failed(format!("{error}: install it, or correct its path"))),
        Err(_) => return Err(failed(format!("no answer within {} s", PROGRAM.as_secs()))),
    };
    if !output.status.success() {
        return Err(failed(format!("it ended with {}", output.status)));
    }
    let answer: ExecCredential = serde_json::from_slice(&output.stdout)
        .map_err(|error| failed(format!("its output is not an ExecCredential: {error}")))?;
    let ExecStatus { token, client_certificate_data, client_key_data } = answer.status;
    let identity = match (client_certificate_data, client_key_data) {
        (Some(certificate), Some(key)) => {
            Some(Identity { certificate: certificate.into(), key: key.into() })
        }
        _ => None,
    };
    if token.is_none() && identity.is_none() {
        return Err(failed(
            "its output has neither a token nor a certificate with its key".to_owned(),
        ));
    }
    Ok(Credential { token, identity })
}

#[derive(Deserialize)]
struct ExecCredential {
    status: ExecStatus,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExecStatus {
    token: Option<String>,
    client_certificate_data: Option<String>,
    client_key_data: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[tokio::test(start_paused = true)]
    async fn a_token_file_is_read_again_each_minute() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"first\n").unwrap();
        let tokens = Tokens::new(TokenSource::File(file.path().to_owned()));

        let first = token(&tokens).await;
        std::fs::write(file.path(), "second").unwrap();
        let soon = token(&tokens).await;
        tokio::time::advance(FILE_AGE).await;
        let later = token(&tokens).await;

        assert_eq!((first.as_str(), soon.as_str(), later.as_str()), ("first", "first", "second"));
    }

    #[tokio::test]
    async fn a_token_that_was_refused_is_read_again_at_once() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "first").unwrap();
        let tokens = Tokens::new(TokenSource::File(file.path().to_owned()));
        token(&tokens).await;

        std::fs::write(file.path(), "second").unwrap();
        let has_another = tokens.refused();

        assert!(has_another);
        assert_eq!(token(&tokens).await, "second");
        assert!(!Tokens::new(TokenSource::Fixed("x".to_owned())).refused());
    }

    #[tokio::test]
    async fn a_plugin_is_asked_once_and_again_after_a_refusal() {
        let count = tempfile::NamedTempFile::new().unwrap();
        let script = format!(
            "echo x >> {0}; echo '{{\"status\":{{\"token\":\"'$(wc -l < {0})'\"}}}}'",
            count.path().display()
        );
        let tokens = Tokens::new(shell(&script));

        let (first, second) = (token(&tokens).await, token(&tokens).await);
        tokens.refused();

        assert_eq!((first.as_str(), second.as_str()), ("1", "1"));
        assert_eq!(token(&tokens).await, "2");
    }

    #[tokio::test]
    async fn a_plugin_that_fails_is_named_with_what_it_did() {
        let failure = |script| async move {
            let tokens = Tokens::new(shell(script));
            tokens.credential().await.err().unwrap().to_string()
        };

        assert!(failure("exit 3").await.contains("/bin/sh: it ended with exit status: 3"));
        assert!(failure("echo hello").await.contains("not an ExecCredential"));
        assert!(failure("echo '{\"status\":{}}'").await.contains("neither a token"));
    }

    fn shell(script: &str) -> TokenSource {
        TokenSource::Program(Program {
            command: "/bin/sh".into(),
            args: vec!["-c".to_owned(), script.to_owned()],
            env: Vec::new(),
            api_version: "client.authentication.k8s.io/v1".to_owned(),
        })
    }

    async fn token(tokens: &Tokens) -> String {
        tokens.credential().await.unwrap().token.unwrap()
    }
}
