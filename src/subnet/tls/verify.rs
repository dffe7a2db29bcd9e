//! Whether a server's certificate is trusted.

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use std::sync::Arc;
use x509_parser::prelude::{ASN1Time, FromDer, ParsedExtension, X509Certificate};
use x509_parser::public_key::PublicKey;

/// The shortest RSA key whose signatures are checked, bits; Go takes 1024.
const SHORTEST_RSA: usize = 2048;
/// The longest chain that is followed.
const MAX_CHAIN: usize = 6;

/// Checks certificates as rustls does, and takes besides what Go takes: a server's certificate that is
/// an authority's (CA:TRUE, openssl's default for a self-signed one), and the extended key usage "any".
#[derive(Debug)]
pub(super) struct AsGo {
    provider: Arc<CryptoProvider>,
    webpki: Arc<WebPkiServerVerifier>,
    /// The authorities, DER.
    roots: Vec<CertificateDer<'static>>,
}

impl AsGo {
    pub(super) fn new(
        provider: &Arc<CryptoProvider>,
        roots: Vec<CertificateDer<'static>>,
    ) -> Result<Self, Error> {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(roots.iter().cloned());
        let webpki =
            WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(provider))
                .build()
                .map_err(|error| Error::General(error.to_string()))?;
        Ok(Self { provider: Arc::clone(provider), webpki, roots })
    }

    /// Checks as Go does a certificate that webpki refused because of what it may be used for.
    fn as_go(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), CertificateError> {
        let chain = Chain::new(self, others, now).ok_or(CertificateError::BadEncoding)?;
        let (_, leaf) =
            X509Certificate::from_der(own).map_err(|_| CertificateError::BadEncoding)?;
        if !serves(&leaf) {
            return Err(CertificateError::InvalidPurpose);
        }
        if !chain.leads_to_a_root(&leaf, 0) {
            return Err(CertificateError::UnknownIssuer);
        }
        match chain.is_sound(&leaf) {
            true => Ok(()),
            false => Err(CertificateError::UnhandledCriticalExtension),
        }?;
        let parsed = ParsedCertificate::try_from(own).map_err(|_| CertificateError::BadEncoding)?;
        verify_server_name(&parsed, name).map_err(|error| match error {
            Error::InvalidCertificate(reason) => reason,
            _ => CertificateError::NotValidForName,
        })
    }
}

impl ServerCertVerifier for AsGo {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        // The signatures of such keys fail, and nobody would see why.
        if let Some(bits) = [own].into_iter().chain(others).find_map(short_rsa) {
            return Err(Error::General(format!(
                "the server's certificate, or one that signed it, has an RSA key of {bits} bits: at \
                 least {SHORTEST_RSA} are needed"
            )));
        }
        match self.webpki.verify_server_cert(own, others, name, ocsp, now) {
            Err(Error::InvalidCertificate(reason)) if is_about_usage(&reason) => {
                self.as_go(own, others, name, now).map_err(Error::InvalidCertificate)?;
                Ok(ServerCertVerified::assertion())
            }
            decided => decided,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

/// Whether webpki objects to what a certificate may be used for. It may not have looked at the rest by
/// then: all of it is looked at again.
fn is_about_usage(reason: &CertificateError) -> bool {
    match reason {
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => true,
        // webpki's CaUsedAsEndEntity has no variant of its own.
        CertificateError::Other(other) => other.to_string().contains("CaUsedAsEndEntity"),
        _ => false,
    }
}

/// The bits of a certificate's RSA key, if they are too few.
fn short_rsa(certificate: &CertificateDer<'_>) -> Option<usize> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    match certificate.public_key().parsed().ok()? {
        PublicKey::RSA(key) => Some(key.key_size()).filter(|bits| *bits < SHORTEST_RSA),
        _ => None,
    }
}

/// What may lead from a server's certificate to an authority.
struct Chain<'a> {
    verifier: &'a AsGo,
    roots: Vec<X509Certificate<'a>>,
    others: Vec<X509Certificate<'a>>,
    now: ASN1Time,
}

impl<'a> Chain<'a> {
    fn new(verifier: &'a AsGo, others: &'a [CertificateDer<'a>], now: UnixTime) -> Option<Self> {
        let parsed = |all: &'a [CertificateDer<'a>]| {
            all.iter().filter_map(|der| Some(X509Certificate::from_der(der).ok()?.1)).collect()
        };
        let now = ASN1Time::from_timestamp(now.as_secs().try_into().ok()?).ok()?;
        Some(Self { verifier, roots: parsed(&verifier.roots), others: parsed(others), now })
    }

    /// Whether a certificate is valid now, and has no rules for the chain that are not kept here.
    fn is_sound(&self, certificate: &X509Certificate<'_>) -> bool {
        certificate.validity().is_valid_at(self.now)
            && certificate.extensions().iter().all(|extension| match extension.parsed_extension() {
                ParsedExtension::BasicConstraints(_)
                | ParsedExtension::KeyUsage(_)
                | ParsedExtension::ExtendedKeyUsage(_)
                | ParsedExtension::SubjectAlternativeName(_) => true,
                ParsedExtension::NameConstraints(_) => false,
                _ => !extension.critical,
            })
    }

    /// Whether an authority has signed this certificate, with `below` others between it and the server's.
    fn leads_to_a_root(&self, certificate: &X509Certificate<'_>, below: usize) -> bool {
        let is = |root: &X509Certificate<'_>| root.as_raw() == certificate.as_raw();
        if self.roots.iter().any(is) {
            return true;
        }
        below < MAX_CHAIN
            && self.roots.iter().chain(&self.others).any(|issuer| {
                issuer.subject().as_raw() == certificate.issuer().as_raw()
                    && self.is_sound(issuer)
                    && serves(issuer)
                    && may_sign(issuer, below)
                    && self.has_signed(issuer, certificate)
                    && self.leads_to_a_root(issuer, below + 1)
            })
    }

    fn has_signed(&self, issuer: &X509Certificate<'_>, certificate: &X509Certificate<'_>) -> bool {
        let algorithm = certificate.signature_algorithm.algorithm.as_bytes();
        let key = &*issuer.public_key().subject_public_key.data;
        let (message, signature) =
            (certificate.tbs_certificate.as_ref(), &*certificate.signature_value.data);
        // An algorithm's name is OBJECT IDENTIFIER, length, value.
        let algorithms = self.verifier.provider.signature_verification_algorithms.all.iter();
        algorithms
            .filter(|known| {
                known
                    .signature_alg_id()
                    .as_ref()
                    .get(2..)
                    .is_some_and(|id| id.starts_with(algorithm))
            })
            .any(|known| known.verify_signature(key, message, signature).is_ok())
    }
}

/// Whether a certificate may serve TLS: no extended key usage at all, "any", or serverAuth.
fn serves(certificate: &X509Certificate<'_>) -> bool {
    match certificate.extended_key_usage() {
        Ok(None) => true,
        Ok(Some(usage)) => usage.value.any || usage.value.server_auth,
        Err(_) => false,
    }
}

/// Whether an authority may sign a certificate with so many others below it.
fn may_sign(issuer: &X509Certificate<'_>, below: usize) -> bool {
    let signs = match issuer.key_usage() {
        Ok(usage) => usage.is_none_or(|usage| usage.value.key_cert_sign()),
        Err(_) => false,
    };
    match issuer.basic_constraints() {
        Ok(Some(constraints)) => {
            let longest = constraints.value.path_len_constraint;
            signs && constraints.value.ca && longest.is_none_or(|longest| below <= longest as usize)
        }
        _ => false,
    }
}

/// Takes any certificate, as `insecure-skip-tls-verify` asks for; signatures are checked still.
#[derive(Debug)]
pub(super) struct Anybody(Arc<CryptoProvider>);

impl Anybody {
    pub(super) fn new(provider: &Arc<CryptoProvider>) -> Self {
        Self(Arc::clone(provider))
    }
}

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
