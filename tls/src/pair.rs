//! A certificate with its chain and its private key, from PEM.

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use rustls::sign::CertifiedKey;
use std::sync::Arc;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// Why a certificate and a key can't be used.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    #[error("there is no certificate in it")]
    NoCertificate,
    #[error("the certificate is damaged: {0}")]
    DamagedCertificate(String),
    #[error("there is no private key in it")]
    NoKey,
    #[error("the key can't be used: {0}")]
    UnusableKey(String),
    #[error("the key does not belong to the certificate")]
    Mismatch,
}

/// A certificate, its chain and its key. A clone shares them.
#[derive(Clone, Debug)]
pub struct Pair {
    pub(crate) key: Arc<CertifiedKey>,
    valid_from_unix_s: u64,
    expires_unix_s: u64,
    domains: Arc<[String]>,
}

impl Pair {
    /// Reads a pair. Both texts may contain other things, and may be the same.
    ///
    /// # Errors
    /// If one of them is missing or can't be used, or they don't belong together.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Pair, PairError> {
        let damaged = |error: &dyn std::fmt::Display| PairError::DamagedCertificate(error.to_string());
        let chain: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(chain).collect::<Result<_, _>>().map_err(|error| damaged(&error))?;
        let first = chain.first().ok_or(PairError::NoCertificate)?;
        let parsed = x509_cert::Certificate::from_der(first).map_err(|error| damaged(&error))?;
        let parsed = parsed.tbs_certificate();
        let validity = parsed.validity();
        let names = parsed.get_extension::<SubjectAltName>().map_err(|error| damaged(&error))?;
        let names = names.map(|(_, names)| names.0).unwrap_or_default();
        let domains = names.iter().filter_map(|name| match name {
            GeneralName::DnsName(name) => Some(name.as_str().to_ascii_lowercase()),
            _ => None,
        });

        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| match error {
            pem::Error::NoItemsFound => PairError::NoKey,
            error => PairError::UnusableKey(error.to_string()),
        })?;
        let key = CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => PairError::Mismatch,
            rustls::Error::InvalidCertificate(error) => PairError::DamagedCertificate(format!("{error:?}")),
            error => PairError::UnusableKey(error.to_string()),
        })?;
        Ok(Pair {
            valid_from_unix_s: validity.not_before.to_unix_duration().as_secs(),
            expires_unix_s: validity.not_after.to_unix_duration().as_secs(),
            domains: domains.collect(),
            key: Arc::new(key),
        })
    }

    /// When it becomes valid, in seconds since the Unix epoch.
    pub fn valid_from_unix_s(&self) -> u64 {
        self.valid_from_unix_s
    }

    /// When it expires, in seconds since the Unix epoch.
    pub fn expires_unix_s(&self) -> u64 {
        self.expires_unix_s
    }

    /// The domains that it is for, in lower case.
    pub fn domains(&self) -> &[String] {
        &self.domains
    }
}
