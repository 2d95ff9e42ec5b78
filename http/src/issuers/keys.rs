//! The public keys of an identity provider (RFC 7517).

use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind};
use serde::Deserialize;
use serde_json::Value;
use std::str::FromStr;

/// The most keys that are kept of a set. Providers have two or three.
const KEYS_LIMIT: usize = 64;
/// The most keys with one id that are tried.
const SAME_ID_LIMIT: usize = 4;
/// The lengths of an RSA modulus that count as secure, in bytes: 2048 to 8192 bits.
const MODULUS_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;

/// The keys that verify a provider's tokens.
#[derive(Debug, Default)]
pub(super) struct KeySet {
    keys: Vec<Key>,
    /// When they were fetched, in Unix seconds. `None`: they never were.
    pub fetched_at: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Key {
    id: Option<String>,
    pub decoding: DecodingKey,
    /// What the key may be used with.
    pub algorithms: Vec<Algorithm>,
}

#[derive(Deserialize)]
struct JsonSet {
    keys: Vec<Value>,
}

/// The members that say what a key is and what it is for.
#[derive(Deserialize)]
struct JsonKey {
    kty: String,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    kid: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl KeySet {
    /// Reads a set. Keys that can't verify tokens are left out, and how many these were is returned too: keys for
    /// encryption, of other kinds, and those of HMAC, which everybody knows once they are in a set.
    ///
    /// # Errors
    /// If the text is not a set of keys.
    pub fn parse(text: &[u8], fetched_at: u64) -> Result<(KeySet, usize), String> {
        let set: JsonSet =
            serde_json::from_slice(text).map_err(|error| format!("the answer is no set of keys: {error}"))?;
        let count = set.keys.len();
        let keys: Vec<Key> = set.keys.into_iter().filter_map(Key::from_json).take(KEYS_LIMIT).collect();
        let unused = count - keys.len();
        Ok((KeySet { keys, fetched_at: Some(fetched_at) }, unused))
    }

    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether a key has this id.
    pub fn has_id(&self, id: &str) -> bool {
        self.keys.iter().any(|key| key.id.as_deref() == Some(id))
    }

    /// The keys that may have signed a token with this header: those with its id, as several can have the same one. A
    /// key without an id is meant if it is the only one, and so is the only one for the algorithm if the token names
    /// none.
    pub fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Vec<&Key> {
        let usable = || self.keys.iter().filter(|key| key.algorithms.contains(&algorithm));
        match id {
            Some(id) => {
                let is_only = self.keys.len() == 1;
                let has_id = |key: &&Key| key.id.as_deref().map_or(is_only, |own| own == id);
                usable().filter(has_id).take(SAME_ID_LIMIT).collect()
            }
            None => {
                let found: Vec<&Key> = usable().take(2).collect();
                if found.len() == 1 { found } else { Vec::new() }
            }
        }
    }
}

impl Key {
    fn from_json(value: Value) -> Option<Key> {
        let key: JsonKey = serde_json::from_value(value).ok()?;
        let signs = key.usage.as_deref().is_none_or(|usage| usage == "sig");
        let verifies = key.key_ops.as_ref().is_none_or(|operations| operations.iter().any(|one| one == "verify"));
        if !signs || !verifies {
            return None;
        }
        let (decoding, possible): (DecodingKey, &[Algorithm]) = match (&*key.kty, key.crv.as_deref()) {
            ("RSA", _) => {
                let encoded = DecodingKey::from_rsa_components(key.n.as_deref()?, key.e.as_deref()?).ok()?;
                (without_leading_zeros(&encoded)?, AlgorithmFamily::Rsa.algorithms())
            }
            ("EC", Some(curve)) => {
                let (algorithm, length): (&[Algorithm], usize) = match curve {
                    "P-256" => (&[Algorithm::ES256], 65),
                    "P-384" => (&[Algorithm::ES384], 97),
                    _ => return None,
                };
                let point = DecodingKey::from_ec_components(key.x.as_deref()?, key.y.as_deref()?).ok()?;
                (point.try_get_as_bytes().ok()?.len() == length).then_some((point, algorithm))?
            }
            ("OKP", Some("Ed25519")) => {
                let point = DecodingKey::from_ed_components(key.x.as_deref()?).ok()?;
                (point.try_get_as_bytes().ok()?.len() == 32).then_some((point, AlgorithmFamily::Ed.algorithms()))?
            }
            _ => return None,
        };
        let algorithms = match key.alg.as_deref() {
            None => possible.to_vec(),
            // RFC 9864 calls it by the curve's name.
            Some("Ed25519") => possible.iter().copied().filter(|one| *one == Algorithm::EdDSA).collect(),
            Some(name) => {
                let only = Algorithm::from_str(name).ok();
                possible.iter().copied().filter(|one| Some(*one) == only).collect()
            }
        };
        (!algorithms.is_empty()).then_some(Key { id: key.kid, decoding, algorithms })
    }
}

/// The RSA key without the zeros that some programs put before its numbers, if its length is a secure one.
fn without_leading_zeros(key: &DecodingKey) -> Option<DecodingKey> {
    let DecodingKeyKind::RsaModulusExponent { n, e } = key.kind() else { return None };
    let strip = |number: &[u8]| number.iter().skip_while(|byte| **byte == 0).copied().collect::<Vec<u8>>();
    let (n, e) = (strip(n), strip(e));
    MODULUS_BYTES.contains(&n.len()).then(|| DecodingKey::from_rsa_raw_components(&n, &e))
}
