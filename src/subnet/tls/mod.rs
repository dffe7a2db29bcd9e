//! TLS towards the stores of leases: what Go's crypto/tls takes is taken here, because the same servers
//! and files serve flanneld.

mod system_roots;
mod verify;

use self::verify::{Anybody, AsGo};
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CertificateError, ClientConfig, RootCertStore};
use std::sync::Arc;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Who may have signed the server's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// An authority of the system.
    System,
    /// One of these, PEM.
    Authorities(Vec<u8>),
    /// Anybody: the server's certificate is not checked.
    #[cfg_attr(not(feature = "kube"), allow(dead_code, reason = "only kubeconfig has it"))]
    Anybody,
}

/// A client certificate and its key, PEM. Neither is ever printed.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Identity {
    /// The certificate; those of authorities in between may follow.
    pub(super) certificate: Vec<u8>,
    /// The key: PKCS#8, PKCS#1 or SEC1.
    pub(super) key: Vec<u8>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity(…)")
    }
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Not one certificate that can be used.
    #[error("{what}: no usable certificate in PEM form{why}")]
    NoCertificate {
        /// Whose.
        what: &'static str,
        /// What is there instead.
        why: String,
    },
    /// The key is encrypted.
    #[error(
        "the client key is encrypted, and nobody can be asked for its password: decrypt it (openssl \
         pkey -in KEY -out PLAIN)"
    )]
    Encrypted,
    /// There is no key.
    #[error("the client key: {0}: it must be PEM, in PKCS#8, PKCS#1 or SEC1 form")]
    NoKey(String),
    /// The key is of a kind that TLS does not have.
    #[error("the client key cannot be used: {0}")]
    Key(rustls::Error),
    /// The key is another certificate's.
    #[error("the client key does not belong to the client certificate")]
    Stranger,
    /// There is no TLS at all.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// How TLS is spoken to a server.
///
/// # Errors
/// [`TlsError`]; nothing is sent.
pub(super) fn client_config(
    trust: &Trust,
    identity: Option<&Identity>,
    protocols: &[&[u8]],
) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = match trust {
        Trust::Anybody => Arc::new(Anybody::new(&provider)),
        Trust::System => {
            let pem = system_roots::system_roots().unwrap_or_default();
            Arc::new(AsGo::new(&provider, authorities(&pem, "the system's authorities")?)?)
        }
        Trust::Authorities(pem) => {
            Arc::new(AsGo::new(&provider, authorities(pem, "the authority")?)?)
        }
    };
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        Some(identity) => {
            let key = Arc::new(certified_key(&provider, identity)?);
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key)))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}

/// The certificates of a file, those left out that cannot be read, as Go leaves them out.
fn authorities(pem: &[u8], what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let (mut roots, mut why) = (Vec::new(), String::new());
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let usable = certificate.map_err(|error| error.to_string()).and_then(|certificate| {
            let added = RootCertStore::empty().add(certificate.clone());
            added.map(|()| certificate).map_err(|error| error.to_string())
        });
        match usable {
            Ok(certificate) => roots.push(certificate),
            Err(error) => why = format!(": {error}"),
        }
    }
    if roots.is_empty() { Err(TlsError::NoCertificate { what, why }) } else { Ok(roots) }
}

fn certified_key(provider: &CryptoProvider, identity: &Identity) -> Result<CertifiedKey, TlsError> {
    let what = "the client certificate";
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&identity.certificate).collect();
    let chain =
        chain.map_err(|error| TlsError::NoCertificate { what, why: format!(": {error}") })?;
    let [own, ..] = chain.as_slice() else {
        return Err(TlsError::NoCertificate { what, why: String::new() });
    };
    let text = String::from_utf8_lossy(&identity.key);
    if text.contains("BEGIN ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(TlsError::Encrypted);
    }
    let key = PrivateKeyDer::from_pem_slice(&identity.key)
        .map_err(|error| TlsError::NoKey(error.to_string()))?;
    let key = provider.key_provider.load_private_key(key).map_err(TlsError::Key)?;
    // Not by rustls, which refuses certificates of X.509 version 1 here, although only the server
    // looks at them.
    let (_, parsed) = X509Certificate::from_der(own)
        .map_err(|error| TlsError::NoCertificate { what, why: format!(": {error}") })?;
    if key.public_key().is_some_and(|public| *public != *parsed.public_key().raw) {
        return Err(TlsError::Stranger);
    }
    Ok(CertifiedKey::new(chain, key))
}

/// Why a connection failed, for people: what to do about a certificate that is not trusted.
pub(super) fn explained(error: std::io::Error) -> std::io::Error {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let Some(rustls::Error::InvalidCertificate(reason)) = inner else { return error };
    let cure = match reason {
        CertificateError::UnknownIssuer => {
            "none of the authorities that are trusted here has signed the server's certificate"
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "the extended key usage of the server's certificate does not include serverAuth"
        }
        CertificateError::BadSignature => {
            "an authority of that name is trusted here, but it did not sign the server's certificate"
        }
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => {
            "the server's certificate, or one that signed it, is expired or not valid yet: renew it, \
             or correct this host's clock"
        }
        _ => return error,
    };
    std::io::Error::other(format!("{error}: {cure}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_certificate_is_named() {
        for pem in [
            &b""[..],
            b"hello",
            b"-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n",
        ] {
            let trust = Trust::Authorities(pem.to_vec());

            let error = client_config(&trust, None, &[]).unwrap_err().to_string();

            assert!(
                error.starts_with("the authority: no usable certificate in PEM form"),
                "{error}"
            );
        }
    }
}
