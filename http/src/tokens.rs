//! Tokens: JSON Web Tokens signed with HMAC-SHA-256 under the key of the data folder (RFC 7519, RFC 7518 section 3.2).
//!
//! Claims: `iss` "uproar", `sub` the user's id as a string (absent in a token minted by `uproar token`), `name`, `gen`
//! (with `sub` only), `iat` and `exp` in Unix seconds. The header's `kid` says which key signed.
//!
//! A session token, the one in the cookie of a browser, says `aud` "refresh" besides. It lives long, and it opens nothing:
//! whatever takes tokens takes those without `aud`, and only the exchange of the cookie takes this kind.

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use uproar_model::{Claims, TokenError, UserId};
use uproar_store::Account;

const ISSUER: &str = "uproar";

/// Whom a session token is for (RFC 7519 section 4.1.3). All other tokens name nobody.
const REFRESH: &str = "refresh";

/// The shortest key: as long as the hash (RFC 7518 section 3.2).
const KEY_LIMIT_LOW_BYTES: usize = 32;
/// More than this is not a key but the wrong file.
const KEY_LIMIT_BYTES: usize = 4096;
/// The longest token that is looked at. Ours are about 300 bytes.
const TOKEN_LIMIT_BYTES: usize = 4096;

/// Makes and verifies tokens.
pub struct Tokens {
    encoding: EncodingKey,
    decoding: DecodingKey,
    key_id: String,
    validation: Validation,
}

/// Why there is no key. Each text is one line that says what is wrong, with what, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("can't read the signing key {path}: {error}")]
    Unreadable { path: PathBuf, error: io::Error },
    #[error("there is no signing key {0}; start the server once, which generates it, or name its data folder")]
    Missing(PathBuf),
    #[error("can't generate the signing key {path}: {error}")]
    NotWritten { path: PathBuf, error: io::Error },
    #[error("the signing key {0} is no regular file")]
    NoFile(PathBuf),
    #[error(
        "the signing key {path} has {length} bytes, and needs {KEY_LIMIT_LOW_BYTES} to {KEY_LIMIT_BYTES}; restore it \
         from a backup, or move it away to have a new one generated, which ends all tokens"
    )]
    Length { path: PathBuf, length: usize },
    #[error("others can read the signing key {path} (mode {mode:04o}); run `chmod 600 {path}`", path = path.display())]
    Open { path: PathBuf, mode: u32 },
    #[error("a signing key needs {KEY_LIMIT_LOW_BYTES} to {KEY_LIMIT_BYTES} bytes, this one has {0}")]
    Bytes(usize),
}

/// The claims as they are in the token.
#[derive(Serialize, Deserialize)]
struct Payload {
    iss: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sub: Option<String>,
    name: String,
    #[serde(default, rename = "aud", skip_serializing_if = "Option::is_none")]
    audience: Option<String>,
    #[serde(default, rename = "gen", skip_serializing_if = "Option::is_none")]
    generation: Option<u32>,
    iat: u64,
    exp: u64,
}

impl Tokens {
    /// Tokens under this key, 32 to 4096 bytes, which should be random.
    pub fn from_key(key: &[u8]) -> Result<Tokens, KeyError> {
        if !(KEY_LIMIT_LOW_BYTES..=KEY_LIMIT_BYTES).contains(&key.len()) {
            return Err(KeyError::Bytes(key.len()));
        }
        // Named, so that another crate of the build that turns on a second provider can't make jsonwebtoken undecided.
        // An error means that one is named already.
        let _ = jsonwebtoken::crypto::rust_crypto::DEFAULT_PROVIDER.install_default();
        let mut hash = Sha256::new();
        hash.update(b"uproar key id\0");
        hash.update(key);
        let key_id = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();

        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_issuer(&[ISSUER]);
        validation.set_required_spec_claims(&["exp", "iss"]);
        // Compared by ourselves: a token must be for exactly whom the caller says, also if that is nobody.
        validation.validate_aud = false;
        // This too, to the second and with the caller's clock.
        validation.validate_exp = false;
        validation.leeway = 0;
        Ok(Tokens {
            encoding: EncodingKey::from_secret(key),
            decoding: DecodingKey::from_secret(key),
            key_id,
            validation,
        })
    }

    /// Tokens under the key in this file. Where there is none, one is generated: 32 random bytes, mode 0600, on disk
    /// before this returns; a key that another process generates at the same time is taken instead of overwritten.
    pub fn from_key_file(path: &Path) -> Result<Tokens, KeyError> {
        match Tokens::read_key_file(path) {
            Err(KeyError::Missing(_)) => {
                generate(path).map_err(|error| KeyError::NotWritten { path: path.to_owned(), error })?;
                Tokens::read_key_file(path)
            }
            tokens => tokens,
        }
    }

    /// The same, but a missing file is an error. For tools that work beside a server.
    pub fn read_key_file(path: &Path) -> Result<Tokens, KeyError> {
        let unreadable = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => KeyError::Missing(path.to_owned()),
            _ => KeyError::Unreadable { path: path.to_owned(), error },
        };
        // Before it is opened: opening a pipe would wait for whoever writes to it.
        let metadata = std::fs::metadata(path).map_err(unreadable)?;
        if !metadata.is_file() {
            return Err(KeyError::NoFile(path.to_owned()));
        }
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyError::Open { path: path.to_owned(), mode });
        }
        let mut key = Vec::with_capacity(KEY_LIMIT_LOW_BYTES);
        let file = File::open(path).map_err(unreadable)?;
        file.take(KEY_LIMIT_BYTES as u64 + 1).read_to_end(&mut key).map_err(unreadable)?;
        Tokens::from_key(&key).map_err(|error| match error {
            KeyError::Bytes(length) => KeyError::Length { path: path.to_owned(), length },
            error => error,
        })
    }

    /// A token for an account, of its current generation. `now`: Unix seconds; `lifetime`: seconds.
    pub fn issue(&self, account: &Account, now: u64, lifetime: u64) -> String {
        self.issue_for(None, account, now, lifetime)
    }

    /// A session token for an account, of its current generation: good for nothing but [`Tokens::verify_session`].
    /// `now`: Unix seconds; `lifetime`: seconds.
    pub fn issue_session(&self, account: &Account, now: u64, lifetime: u64) -> String {
        self.issue_for(Some(REFRESH), account, now, lifetime)
    }

    fn issue_for(&self, audience: Option<&str>, account: &Account, now: u64, lifetime: u64) -> String {
        self.sign(&Payload {
            iss: ISSUER.to_owned(),
            sub: Some(account.id.to_string()),
            name: account.username.to_string(),
            audience: audience.map(str::to_owned),
            generation: Some(account.token_generation),
            iat: now,
            exp: now.saturating_add(lifetime),
        })
    }

    /// A token for a name, without a look at the database: the server looks the user up, or creates it, when the token
    /// comes. `now`: Unix seconds; `lifetime`: seconds.
    pub fn mint(&self, username: &str, now: u64, lifetime: u64) -> String {
        self.sign(&Payload {
            iss: ISSUER.to_owned(),
            sub: None,
            name: username.to_owned(),
            audience: None,
            generation: None,
            iat: now,
            exp: now.saturating_add(lifetime),
        })
    }

    /// What a token says, if it is one of ours and `now` (Unix seconds) is before its end. A pure function: revocations
    /// are the caller's to check. `Expired` is said only of a token whose signature is good. A session token is none.
    pub fn verify(&self, token: &str, now: u64) -> Result<Claims, TokenError> {
        self.verify_for(None, token, now)
    }

    /// The same for a session token, and for no other. It outlives what is kept in memory of revocations: the caller has
    /// to look into the database.
    pub fn verify_session(&self, token: &str, now: u64) -> Result<Claims, TokenError> {
        let claims = self.verify_for(Some(REFRESH), token, now)?;
        // None is made without a user, and one without could not be revoked.
        if claims.user.is_some() { Ok(claims) } else { Err(TokenError::Invalid) }
    }

    fn verify_for(&self, audience: Option<&str>, token: &str, now: u64) -> Result<Claims, TokenError> {
        if token.len() > TOKEN_LIMIT_BYTES {
            return Err(TokenError::Invalid);
        }
        let data = jsonwebtoken::decode::<Payload>(token, &self.decoding, &self.validation)
            .map_err(|_| TokenError::Invalid)?;
        if data.header.kid.as_deref() != Some(self.key_id.as_str()) {
            return Err(TokenError::Invalid);
        }
        let payload = data.claims;
        if payload.audience.as_deref() != audience {
            return Err(TokenError::Invalid);
        }
        let user = match payload.sub.as_deref() {
            None => None,
            Some(sub) => Some(sub.parse().ok().filter(|id| *id > 0).map(UserId).ok_or(TokenError::Invalid)?),
        };
        if payload.generation.is_some() != user.is_some() {
            return Err(TokenError::Invalid);
        }
        if payload.exp <= now {
            return Err(TokenError::Expired);
        }
        Ok(Claims {
            user,
            username: Arc::from(payload.name),
            generation: payload.generation,
            issued_at: payload.iat,
            expires_at: payload.exp,
        })
    }

    /// Which key signs: the `kid` of every token.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    fn sign(&self, payload: &Payload) -> String {
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some(self.key_id.clone());
        // Strings and numbers always serialise, and an HMAC key is always good for HS256.
        jsonwebtoken::encode(&header, payload, &self.encoding).unwrap_or_default()
    }
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

/// Writes a new key. Under another name first, and then linked: the name either does not exist or holds all of the key,
/// whatever moment the machine stops, and an existing key is never replaced.
fn generate(path: &Path) -> io::Result<()> {
    let mut key = [0; KEY_LIMIT_LOW_BYTES];
    getrandom::fill(&mut key).map_err(io::Error::from)?;
    let mut suffix = [0; 8];
    getrandom::fill(&mut suffix).map_err(io::Error::from)?;

    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    if !folder.exists() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(format!(".{:016x}", u64::from_ne_bytes(suffix)));
    let unfinished = PathBuf::from(unfinished);

    let linked = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        file.write_all(&key)?;
        file.sync_all()?;
        match std::fs::hard_link(&unfinished, path) {
            // Another process was faster: its key is as good.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            linked => linked,
        }
    })();
    let removed = std::fs::remove_file(&unfinished);
    linked?;
    removed?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::fs;
    use uproar_model::TokenError::{Expired, Invalid};

    const NOW: u64 = 1_800_000_000;

    fn tokens() -> Tokens {
        Tokens::from_key(&[7; 32]).unwrap()
    }

    fn account() -> Account {
        Account {
            id: UserId(42),
            username: "Ann".into(),
            email: None,
            has_password: true,
            token_generation: 3,
            revoked_at: None,
        }
    }

    /// A token with any header and claims, signed with `key`.
    fn forged(header: Header, claims: &Value, key: &[u8]) -> String {
        jsonwebtoken::encode(&header, claims, &EncodingKey::from_secret(key)).unwrap()
    }

    fn good_header(tokens: &Tokens) -> Header {
        Header { kid: Some(tokens.key_id().to_owned()), ..Header::new(Algorithm::HS256) }
    }

    fn good_claims() -> Value {
        json!({"iss": "uproar", "sub": "42", "name": "Ann", "gen": 3, "iat": NOW, "exp": NOW + 10})
    }

    /// The good claims with some replaced, or taken out where null.
    fn claims_with(changes: Value) -> Value {
        let mut claims = good_claims();
        for (name, value) in changes.as_object().unwrap() {
            match value {
                Value::Null => claims.as_object_mut().unwrap().remove(name),
                value => claims.as_object_mut().unwrap().insert(name.clone(), value.clone()),
            };
        }
        claims
    }

    #[test]
    fn what_is_issued_is_verified() {
        let token = tokens().issue(&account(), NOW, 10);
        assert_eq!(
            tokens().verify(&token, NOW),
            Ok(Claims {
                user: Some(UserId(42)),
                username: "Ann".into(),
                generation: Some(3),
                issued_at: NOW,
                expires_at: NOW + 10
            })
        );
        let minted = tokens().verify(&tokens().mint("bot", NOW, 10), NOW).unwrap();
        assert_eq!((minted.user, minted.generation, &*minted.username), (None, None, "bot"));
    }

    #[test]
    fn a_session_token_is_of_a_kind_of_its_own() {
        let tokens = tokens();
        let session = tokens.issue_session(&account(), NOW, 10);
        let ordinary = tokens.issue(&account(), NOW, 10);
        let claims = tokens.verify_session(&session, NOW + 9);
        assert_eq!(claims, tokens.verify(&ordinary, NOW + 9), "they say the same");
        assert_eq!(claims.unwrap().user, Some(UserId(42)));
        assert_eq!(tokens.verify_session(&session, NOW + 10), Err(Expired));
        // Neither is the other, whatever the time.
        for now in [NOW, NOW + 10] {
            assert_eq!(tokens.verify(&session, now), Err(Invalid));
            assert_eq!(tokens.verify_session(&ordinary, now), Err(Invalid));
            assert_eq!(tokens.verify_session(&tokens.mint("bot", NOW, 10), now), Err(Invalid));
        }
        for audience in [json!("refresh"), json!("other"), json!(""), json!(["refresh"]), json!([]), json!(1)] {
            let token = forged(good_header(&tokens), &claims_with(json!({"aud": audience})), &[7; 32]);
            assert_eq!(tokens.verify(&token, NOW), Err(Invalid), "{audience}");
            assert_eq!(tokens.verify_session(&token, NOW).is_ok(), audience == "refresh", "{audience}");
        }
        let nobody = claims_with(json!({"aud": "refresh", "sub": null, "gen": null}));
        assert_eq!(tokens.verify_session(&forged(good_header(&tokens), &nobody, &[7; 32]), NOW), Err(Invalid));
        let other = Tokens::from_key(&[8; 32]).unwrap();
        assert_eq!(tokens.verify_session(&other.issue_session(&account(), NOW, 10), NOW), Err(Invalid));
    }

    #[test]
    fn a_token_ends_to_the_second() {
        let token = tokens().issue(&account(), NOW, 10);
        assert!(tokens().verify(&token, NOW + 9).is_ok());
        assert_eq!(tokens().verify(&token, NOW + 10), Err(Expired));
        let endless = tokens().mint("bot", NOW, u64::MAX);
        assert!(tokens().verify(&endless, NOW + 10).is_ok());
    }

    #[test]
    fn only_a_genuine_token_is_called_expired() {
        let other = Tokens::from_key(&[8; 32]).unwrap();
        let token = other.issue(&account(), NOW, 10);
        assert_eq!(tokens().verify(&token, NOW + 11), Err(Invalid));
    }

    #[test]
    fn the_algorithm_is_pinned() {
        let tokens = tokens();
        let claims = good_claims();
        assert!(tokens.verify(&forged(good_header(&tokens), &claims, &[7; 32]), NOW).is_ok());
        for algorithm in [Algorithm::HS384, Algorithm::HS512] {
            let header = Header { kid: Some(tokens.key_id().to_owned()), ..Header::new(algorithm) };
            assert_eq!(tokens.verify(&forged(header, &claims, &[7; 32]), NOW), Err(Invalid));
        }
        use base64::Engine;
        let encode = |value: Value| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(value.to_string());
        for algorithm in ["none", "None", "RS256", ""] {
            let header = encode(json!({"alg": algorithm, "typ": "JWT", "kid": tokens.key_id()}));
            let unsigned = format!("{header}.{}.", encode(claims.clone()));
            assert_eq!(tokens.verify(&unsigned, NOW), Err(Invalid), "{algorithm}");
        }
    }

    #[test]
    fn key_id_and_issuer_are_required() {
        let tokens = tokens();
        for kid in [None, Some("0123456789abcdef".to_owned()), Some(String::new())] {
            let header = Header { kid, ..Header::new(Algorithm::HS256) };
            assert_eq!(tokens.verify(&forged(header, &good_claims(), &[7; 32]), NOW), Err(Invalid));
        }
        for changes in [
            json!({"iss": null}),
            json!({"iss": "other"}),
            json!({"exp": null}),
            json!({"iat": null}),
            json!({"name": null}),
            json!({"exp": "soon"}),
            json!({"sub": "ann"}),
            json!({"sub": "0"}),
            json!({"sub": "-1"}),
            json!({"sub": 42}),
            json!({"gen": null}),
            json!({"gen": -1}),
            json!({"sub": null}),
        ] {
            let token = forged(good_header(&tokens), &claims_with(changes.clone()), &[7; 32]);
            assert_eq!(tokens.verify(&token, NOW), Err(Invalid), "{changes}");
        }
    }

    #[test]
    fn a_changed_token_is_none() {
        let tokens = tokens();
        let token = tokens.issue(&account(), NOW, 10);
        for index in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[index] = if bytes[index] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            assert_eq!(tokens.verify(&changed, NOW), Err(Invalid), "byte {index}");
        }
        for nonsense in ["", ".", "..", "a.b.c", "ä", &"x".repeat(1 << 20)] {
            assert_eq!(tokens.verify(nonsense, NOW), Err(Invalid));
        }
    }

    #[test]
    fn the_key_says_nothing_of_itself() {
        let shown = format!("{:?}", tokens());
        assert!(shown.contains(tokens().key_id()) && !shown.contains("7, 7"));
        assert_eq!(tokens().key_id().len(), 16);
        assert_ne!(tokens().key_id(), Tokens::from_key(&[8; 32]).unwrap().key_id());
    }

    #[test]
    fn a_missing_key_is_generated_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data/key");
        assert!(matches!(Tokens::read_key_file(&path), Err(KeyError::Missing(_))));
        let first = Tokens::from_key_file(&path).unwrap();
        let key = fs::read(&path).unwrap();
        assert_eq!(key.len(), 32);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path().join("data")).unwrap().count(), 1, "nothing is left beside it");

        let again = Tokens::from_key_file(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), key);
        assert_eq!(again.key_id(), first.key_id());
        assert_eq!(Tokens::read_key_file(&path).unwrap().key_id(), first.key_id());
    }

    #[test]
    fn processes_that_start_together_take_one_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let ids: std::collections::HashSet<String> = std::thread::scope(|scope| {
            let start = || Tokens::from_key_file(&path).unwrap().key_id().to_owned();
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(ids.len(), 1);
    }

    #[test]
    fn a_key_file_that_is_none_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, key: &[u8], mode: u32| {
            let path = folder.path().join(name);
            fs::write(&path, key).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        let short = write("short", &[1; 31], 0o600);
        assert!(matches!(Tokens::from_key_file(&short), Err(KeyError::Length { length: 31, .. })));
        assert_eq!(fs::read(&short).unwrap().len(), 31, "never overwritten");
        assert!(matches!(Tokens::from_key_file(&write("empty", &[], 0o600)), Err(KeyError::Length { length: 0, .. })));
        assert!(matches!(Tokens::from_key_file(&write("long", &[1; 5000], 0o600)), Err(KeyError::Length { .. })));
        for mode in [0o644, 0o640, 0o602] {
            let error = Tokens::from_key_file(&write("open", &[1; 32], mode)).unwrap_err();
            assert!(matches!(error, KeyError::Open { .. }));
            assert!(error.to_string().contains("chmod 600"), "{error}");
        }
        assert!(Tokens::from_key_file(&write("read-only", &[1; 32], 0o400)).is_ok());
        assert!(matches!(Tokens::from_key_file(folder.path()), Err(KeyError::NoFile(_))));
        let below_a_file = short.join("key");
        let error = Tokens::from_key_file(&below_a_file).unwrap_err();
        assert!(matches!(error, KeyError::Unreadable { .. }), "{error:?}");
    }
}
