//! TLS for the server, without I/O: the certificate, which can be replaced while the server runs, and the session of
//! one connection. Both drivers and the HTTP service move the bytes of the same [`Session`], so that a connection can
//! pass from one to the other.
//!
//! TLS 1.2 and 1.3 by rustls, with HTTP/1.1 as the only application protocol, except for certificate authorities that
//! look at a challenge of ACME.

mod certificate;
mod files;
mod pair;
mod session;

pub use certificate::{Certificate, ChallengeError};
pub use files::{Files, FilesError, Versions};
pub use pair::{Pair, PairError};
pub use session::{Error, RECORD_LIMIT_BYTES, Session};

use certificate::CHALLENGE_PROTOCOL;
use rustls::crypto::ring::{self, Ticketer};
use rustls::server::NoServerSessionStorage;
use rustls::{CipherSuite, ServerConfig};
use std::fmt;
use std::sync::Arc;

/// The cipher suites that the server prefers.
const AES_128: [CipherSuite; 3] = [
    CipherSuite::TLS13_AES_128_GCM_SHA256,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
];

/// What all sessions share. A clone is the same configuration.
#[derive(Clone)]
pub struct Config {
    certificate: Arc<Certificate>,
    usual: Arc<ServerConfig>,
    /// While a certificate authority may look at a challenge.
    challenged: Arc<ServerConfig>,
}

impl Config {
    /// # Errors
    /// If the system can't provide random numbers.
    pub fn new(certificate: Arc<Certificate>) -> Result<Config, rustls::Error> {
        let mut provider = ring::default_provider();
        // AES-128 first: it and SHA-256 cost less than AES-256 and SHA-384. The sort is stable.
        provider.cipher_suites.sort_by_key(|suite| !AES_128.contains(&suite.suite()));
        let builder = ServerConfig::builder_with_provider(Arc::new(provider));
        let builder = builder.with_safe_default_protocol_versions()?;
        let mut usual = builder.with_no_client_auth().with_cert_resolver(certificate.clone());
        usual.ignore_client_order = true;
        usual.alpn_protocols = vec![b"http/1.1".to_vec()];
        // A client that comes back presents a ticket, so that the server remembers nothing of it.
        usual.ticketer = Ticketer::new()?;
        usual.session_storage = Arc::new(NoServerSessionStorage {});
        let mut challenged = usual.clone();
        challenged.alpn_protocols.push(CHALLENGE_PROTOCOL.to_vec());
        Ok(Config { certificate, usual: Arc::new(usual), challenged: Arc::new(challenged) })
    }

    /// The configuration for a session that begins now.
    fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(if self.certificate.is_challenged() { &self.challenged } else { &self.usual })
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").finish_non_exhaustive()
    }
}
