//! The certificate of the servers that are started here.

use crate::client::TlsClient;
use anyhow::{Context, Result};
use rcgen::{CertificateParams, KeyPair};
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;

/// A certificate for `localhost` that signs itself, with a P-256 key. Its files are deleted on drop.
#[derive(Debug)]
pub struct Certificate {
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Clients that trust it.
    pub client: TlsClient,
    _folder: TempDir,
}

impl Certificate {
    /// Writes the files into this folder.
    pub fn create(folder: TempDir) -> Result<Certificate> {
        let key = KeyPair::generate().context("can't generate a key")?;
        let params = CertificateParams::new(["localhost".to_owned()])?;
        let certificate = params.self_signed(&key).context("can't make a certificate")?;
        let [certificate_path, key_path] = ["cert.pem", "key.pem"].map(|name| folder.path().join(name));
        for (path, text) in [(&certificate_path, certificate.pem()), (&key_path, key.serialize_pem())] {
            fs::write(path, text).with_context(|| format!("can't write {}", path.display()))?;
        }
        let client = TlsClient::trusting(&certificate_path)?;
        Ok(Certificate { certificate: certificate_path, key: key_path, client, _folder: folder })
    }
}
