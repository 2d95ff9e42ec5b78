//! The certificate that the server presents, and those with which it proves to a certificate authority that a domain
//! leads here (ACME's tls-alpn-01, RFC 8737). Both can be replaced while sessions use the old ones.

use crate::pair::Pair;
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

/// The application protocol of a certificate authority that looks at a challenge (RFC 8737, 6.2).
pub(crate) const CHALLENGE_PROTOCOL: &[u8] = b"acme-tls/1";

/// Why a certificate for a challenge can't be made.
#[derive(Debug, thiserror::Error)]
pub enum ChallengeError {
    #[error("a certificate for the challenge can't be made: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("the key of the certificate for a challenge can't be used: {0}")]
    Key(#[from] rustls::Error),
}

/// What is presented to clients. Until there is a certificate, handshakes are refused with the alert `access_denied`.
#[derive(Debug, Default)]
pub struct Certificate {
    pair: RwLock<Option<Pair>>,
    /// By domain, in lower case.
    challenges: RwLock<HashMap<String, Arc<CertifiedKey>>>,
}

impl Certificate {
    pub fn new(pair: Option<Pair>) -> Certificate {
        Certificate { pair: RwLock::new(pair), challenges: RwLock::default() }
    }

    /// New sessions use this pair; those that exist keep the old one.
    pub fn replace(&self, pair: Pair) {
        *self.pair.write().unwrap_or_else(PoisonError::into_inner) = Some(pair);
    }

    /// The pair in use.
    pub fn pair(&self) -> Option<Pair> {
        self.pair.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on, a certificate authority that asks for this domain is shown this digest, until
    /// [`Certificate::end_challenges`].
    ///
    /// # Errors
    /// If the certificate that shows it can't be made.
    pub fn add_challenge(&self, domain: &str, digest: [u8; 32]) -> Result<(), ChallengeError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new([domain.to_owned()])?;
        params.custom_extensions = vec![CustomExtension::new_acme_identifier(&digest)];
        let certificate = params.self_signed(&key)?;
        let key = ring::sign::any_ecdsa_type(&PrivateKeyDer::Pkcs8(key.serialize_der().into()))?;
        // What `CertifiedKey::from_der` checks does not know the extension, which is critical.
        let certified = CertifiedKey::new(vec![certificate.der().clone()], key);
        let mut challenges = self.challenges.write().unwrap_or_else(PoisonError::into_inner);
        challenges.insert(domain.to_ascii_lowercase(), Arc::new(certified));
        Ok(())
    }

    /// No challenge is answered any more.
    pub fn end_challenges(&self) {
        self.challenges.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(crate) fn is_challenged(&self) -> bool {
        !self.challenges.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if self.is_challenged() && offers_only_challenges(&hello) {
            let domain = hello.server_name()?.to_ascii_lowercase();
            return self.challenges.read().unwrap_or_else(PoisonError::into_inner).get(&domain).cloned();
        }
        self.pair.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(|pair| Arc::clone(&pair.key))
    }
}

fn offers_only_challenges(hello: &ClientHello<'_>) -> bool {
    hello.alpn().is_some_and(|mut protocols| {
        protocols.next().is_some_and(|first| first == CHALLENGE_PROTOCOL) && protocols.next().is_none()
    })
}
