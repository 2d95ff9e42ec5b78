//! Whom TLS clients trust: those of ACME, NATS and OTLP.

use anyhow::{Context, Result, anyhow, bail};
use std::path::Path;
use std::sync::Arc;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// A client that trusts the roots of the system, or else those that Mozilla trusts: a machine without the package
/// ca-certificates has none. It reads files, which takes some milliseconds.
///
/// # Errors
/// If TLS can't be set up.
pub fn usual() -> Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    client(roots)
}

/// A client that trusts the certificates in this file only.
///
/// # Errors
/// If the file can't be used. The text names it.
pub fn from_file(path: &Path) -> Result<TlsConnector> {
    let shown = path.display();
    let text = std::fs::read(path).with_context(|| format!("can't read {shown}"))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let added = certificate.map_err(|error| anyhow!("{error}")).and_then(|certificate| Ok(roots.add(certificate)?));
        added.with_context(|| format!("{shown} is damaged"))?;
    }
    if roots.is_empty() {
        bail!("{shown} contains no certificate in PEM (-----BEGIN CERTIFICATE-----)");
    }
    client(roots)
}

/// A client that trusts these roots.
///
/// # Errors
/// If TLS can't be set up.
pub fn client(roots: RootCertStore) -> Result<TlsConnector> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .context("TLS can't be set up")?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
