//! The cryptography of tokens, by ring, which TLS needs anyway: HMAC-SHA-256 for Uproar's own tokens and those of a
//! backend that shares a key, and the verification of RSA, ECDSA and Ed25519 for those of identity providers.
//! jsonwebtoken's own providers bring an implementation of RSA and of four curves with them.

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{ErrorKind, Result};
use jsonwebtoken::signature::{Error, Signer, Verifier};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind, EncodingKey};
use ring::hmac;
use ring::signature::{self, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm};

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: signer,
    verifier_factory: verifier,
    // Nothing makes JSON Web Keys, or needs their thumbprints.
    key_utils: KeyUtils::new_unimplemented(),
};

/// Makes jsonwebtoken use this cryptography. It can be called more than once.
pub(crate) fn install() {
    // An error means that it is installed already.
    let _ = PROVIDER.install_default();
}

struct Hs256(hmac::Key);

impl Hs256 {
    fn new(algorithm: Algorithm, secret: &[u8]) -> Result<Box<Hs256>> {
        if algorithm != Algorithm::HS256 {
            return Err(ErrorKind::InvalidAlgorithm.into());
        }
        Ok(Box::new(Hs256(hmac::Key::new(hmac::HMAC_SHA256, secret))))
    }
}

fn signer(algorithm: &Algorithm, key: &EncodingKey) -> Result<Box<dyn JwtSigner>> {
    Ok(Hs256::new(*algorithm, key.as_bytes())?)
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>> {
    // Otherwise a public key, which everybody knows, could serve as the secret of HMAC.
    if key.family() != algorithm.family() {
        return Err(ErrorKind::InvalidAlgorithm.into());
    }
    match key.family() {
        AlgorithmFamily::Hmac => Ok(Hs256::new(*algorithm, key.try_get_as_bytes()?)?),
        _ => {
            Ok(Box::new(PublicKey { algorithm: *algorithm, scheme: Scheme::of(*algorithm)?, key: key.kind().clone() }))
        }
    }
}

/// A key that only verifies.
struct PublicKey {
    algorithm: Algorithm,
    scheme: Scheme,
    key: DecodingKeyKind,
}

enum Scheme {
    Rsa(&'static RsaParameters),
    Curve(&'static dyn VerificationAlgorithm),
}

impl Scheme {
    fn of(algorithm: Algorithm) -> Result<Scheme> {
        Ok(match algorithm {
            Algorithm::RS256 => Scheme::Rsa(&signature::RSA_PKCS1_2048_8192_SHA256),
            Algorithm::RS384 => Scheme::Rsa(&signature::RSA_PKCS1_2048_8192_SHA384),
            Algorithm::RS512 => Scheme::Rsa(&signature::RSA_PKCS1_2048_8192_SHA512),
            Algorithm::PS256 => Scheme::Rsa(&signature::RSA_PSS_2048_8192_SHA256),
            Algorithm::PS384 => Scheme::Rsa(&signature::RSA_PSS_2048_8192_SHA384),
            Algorithm::PS512 => Scheme::Rsa(&signature::RSA_PSS_2048_8192_SHA512),
            Algorithm::ES256 => Scheme::Curve(&signature::ECDSA_P256_SHA256_FIXED),
            Algorithm::ES384 => Scheme::Curve(&signature::ECDSA_P384_SHA384_FIXED),
            Algorithm::EdDSA => Scheme::Curve(&signature::ED25519),
            _ => return Err(ErrorKind::InvalidAlgorithm.into()),
        })
    }
}

impl Verifier<Vec<u8>> for PublicKey {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> std::result::Result<(), Error> {
        let verified = match (&self.scheme, &self.key) {
            (Scheme::Rsa(parameters), DecodingKeyKind::RsaModulusExponent { n, e }) => {
                RsaPublicKeyComponents { n, e }.verify(parameters, message, signature)
            }
            (Scheme::Curve(algorithm), DecodingKeyKind::SecretOrDer(key)) => {
                UnparsedPublicKey::new(*algorithm, key).verify(message, signature)
            }
            _ => return Err(Error::new()),
        };
        verified.map_err(|_| Error::new())
    }
}

impl JwtVerifier for PublicKey {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

impl Signer<Vec<u8>> for Hs256 {
    fn try_sign(&self, message: &[u8]) -> std::result::Result<Vec<u8>, Error> {
        Ok(hmac::sign(&self.0, message).as_ref().to_vec())
    }
}

impl JwtSigner for Hs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

impl Verifier<Vec<u8>> for Hs256 {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> std::result::Result<(), Error> {
        hmac::verify(&self.0, message, signature).map_err(|_| Error::new())
    }
}

impl JwtVerifier for Hs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::crypto::{sign, verify};

    /// The example in RFC 7515, appendix A.1.
    const KEY: &str = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow==";
    const MESSAGE: &[u8] =
        b"eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogIm\
        h0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    const SIGNATURE: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";

    #[test]
    fn the_signature_of_the_rfc_is_made_and_accepted() {
        install();
        let encoding = EncodingKey::from_urlsafe_base64_secret(KEY).unwrap();
        assert_eq!(sign(MESSAGE, &encoding, Algorithm::HS256).unwrap(), SIGNATURE);
        let decoding = DecodingKey::from_secret(encoding.as_bytes());
        assert!(verify(SIGNATURE, MESSAGE, &decoding, Algorithm::HS256).unwrap());
        for wrong in ["", "dBjf", "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXg", &format!("{SIGNATURE}AA")] {
            assert!(!verify(wrong, MESSAGE, &decoding, Algorithm::HS256).is_ok_and(|is_right| is_right), "{wrong}");
        }
        assert!(!verify(SIGNATURE, &MESSAGE[1..], &decoding, Algorithm::HS256).unwrap());
        let other = DecodingKey::from_secret(&[7; 64]);
        assert!(!verify(SIGNATURE, MESSAGE, &other, Algorithm::HS256).unwrap());
    }

    #[test]
    fn other_algorithms_are_refused() {
        install();
        let encoding = EncodingKey::from_secret(&[7; 64]);
        for algorithm in [Algorithm::HS384, Algorithm::HS512, Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA] {
            assert!(sign(MESSAGE, &encoding, algorithm).is_err());
            assert!(verify(SIGNATURE, MESSAGE, &DecodingKey::from_secret(&[7; 64]), algorithm).is_err());
        }
    }
}
