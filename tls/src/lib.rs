//! TLS for the server, without I/O: the certificate, which can be replaced while the server runs, and the session of
//! one connection. Both drivers and the HTTP service move the bytes of the same [`Session`], so that a connection can
//! pass from one to the other.
//!
//! TLS 1.2 and 1.3 by rustls, with HTTP/1.1 as the only application protocol.

mod certificate;
mod session;

pub use certificate::{Certificate, CertificateError, Versions};
pub use session::{Error, RECORD_LIMIT_BYTES, Session};

use rustls::ServerConfig;
use rustls::crypto::ring::{self, Ticketer};
use rustls::server::NoServerSessionStorage;
use std::fmt;
use std::sync::Arc;

/// What all sessions share. A clone is the same configuration.
#[derive(Clone)]
pub struct Config(Arc<ServerConfig>);

impl Config {
    /// # Errors
    /// If the system can't provide random numbers.
    pub fn new(certificate: Arc<Certificate>) -> Result<Config, rustls::Error> {
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions()?;
        let mut config = builder.with_no_client_auth().with_cert_resolver(certificate);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // A client that comes back presents a ticket, so that the server remembers nothing of it.
        config.ticketer = Ticketer::new()?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Config(Arc::new(config)))
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").finish_non_exhaustive()
    }
}
