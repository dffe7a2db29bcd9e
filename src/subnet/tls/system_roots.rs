//! The certificates that the system trusts.

use std::path::PathBuf;

/// Where distributions keep the certificates that they trust, as Go looks for them.
const SYSTEM_ROOTS: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// All of them, PEM: `SSL_CERT_FILE`, or the first usual place that there is.
pub(super) fn system_roots() -> Option<Vec<u8>> {
    let configured = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let usual = SYSTEM_ROOTS.iter().map(PathBuf::from);
    configured.into_iter().chain(usual).find_map(|path| std::fs::read(path).ok())
}
