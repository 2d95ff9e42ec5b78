//! Tokens: JSON Web Tokens signed with HMAC-SHA-256 under the key in the data folder (RFC 7519; RFC 7518, section 3.2).
//!
//! Claims: `iss` is "uproar"; `sub` is the user's id as a string, absent in a token minted by `uproar token`; `name` is
//! the username; `gen` is the token generation, `db` the database's generation, and `auth_time` the Unix second in
//! which the user signed in, all present only with `sub`; `iat` and `exp` are Unix seconds. The `kid` in the header
//! says which key signed; it may be missing.
//!
//! Tokens of other systems are those of [`Issuers`].
//!
//! A user id means a user in one generation of the database only: after a backup was restored, the same id may be
//! assigned to somebody else. So a token with a user id is valid only in the database's generation in which it was
//! issued.
//!
//! A session token, the kind in a browser's cookie, also has `aud` "refresh". It lives long, and its only use is to
//! obtain an ordinary token: everything else accepts only tokens without `aud`. A browser token has `aud` "browser" and
//! only shows that a browser has signed in to an account before.

use crate::issuers::Issuers;
use crate::private_file::{PrivateFileError, read_secret};
use crate::signatures;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use uproar_model::{Claims, DatabaseGeneration, TokenError, UserId};
use uproar_store::Account;

pub(crate) const ISSUER: &str = "uproar";

/// The audience of session tokens (RFC 7519, section 4.1.3). Other tokens have none.
const REFRESH: &str = "refresh";
/// The audience of browser tokens.
const BROWSER: &str = "browser";

/// The shortest key: as long as the hash (RFC 7518, section 3.2).
pub(crate) const KEY_MIN_BYTES: usize = 32;
/// The longest key. A longer file is surely not a key.
const KEY_LIMIT_BYTES: usize = 4096;
/// The longest token that is parsed. Ours are about 300 bytes long.
const TOKEN_LIMIT_BYTES: usize = 4096;

/// Issues and verifies tokens.
pub struct Tokens {
    encoding: EncodingKey,
    decoding: DecodingKey,
    key_id: String,
    validation: Validation,
    /// Who else issues tokens that are accepted.
    issuers: Issuers,
    /// The generation of the database, as a number.
    database: AtomicU64,
}

/// From when to when a token is valid, in Unix seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// When the user signed in, with a password or an identity provider.
    pub signed_in_at: u64,
    pub issued_at: u64,
    pub expires_at: u64,
}

impl Term {
    /// The term of a token issued now, for `lifetime_s`, but at most until `signed_in_s` after the user signed in.
    pub fn new(signed_in_at: u64, now: u64, lifetime_s: u64, signed_in_s: u64) -> Term {
        let expires_at = now.saturating_add(lifetime_s).min(signed_in_at.saturating_add(signed_in_s));
        Term { signed_in_at, issued_at: now, expires_at }
    }
}

/// Why the signing key can't be used. Each message is one line that says what is wrong and what to do.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("cannot read the signing key {path}: {error}")]
    Unreadable { path: PathBuf, error: io::Error },
    #[error("there is no signing key {0}; start the server once to generate it, or name the server's data folder")]
    Missing(PathBuf),
    #[error("cannot generate the signing key {path}: {error}")]
    NotWritten { path: PathBuf, error: io::Error },
    #[error("the signing key {0} is not a regular file")]
    NotAFile(PathBuf),
    #[error(
        "the signing key {path} has {length} bytes instead of {KEY_MIN_BYTES} to {KEY_LIMIT_BYTES}; restore it from a \
         backup, or remove it to have a new one generated, which invalidates all tokens"
    )]
    Length { path: PathBuf, length: usize },
    #[error(
        "other users can access the signing key {path} (mode {mode:04o}); run `chmod 600 {path}`",
        path = path.display()
    )]
    Open { path: PathBuf, mode: u32 },
    #[error("a signing key must have {KEY_MIN_BYTES} to {KEY_LIMIT_BYTES} bytes, not {0}")]
    Bytes(usize),
}

/// The claims as they appear in a token.
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
    #[serde(default, rename = "db", skip_serializing_if = "Option::is_none")]
    database: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    auth_time: Option<u64>,
    iat: u64,
    exp: u64,
}

/// The claims of a token that the server makes for itself.
#[derive(Serialize, Deserialize)]
struct Sealed<T> {
    iss: String,
    #[serde(rename = "aud")]
    audience: String,
    exp: u64,
    #[serde(rename = "for")]
    contents: T,
}

impl Tokens {
    /// Uses this key: 32 to 4096 bytes, which should be random.
    pub fn from_key(key: &[u8]) -> Result<Tokens, KeyError> {
        if !(KEY_MIN_BYTES..=KEY_LIMIT_BYTES).contains(&key.len()) {
            return Err(KeyError::Bytes(key.len()));
        }
        signatures::install();
        let mut hash = Sha256::new();
        hash.update(b"uproar key id\0");
        hash.update(key);
        let key_id = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();

        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_issuer(&[ISSUER]);
        validation.set_required_spec_claims(&["exp", "iss"]);
        // `verify_for` compares the audience exactly; a token without one must be rejected where one is required.
        validation.validate_aud = false;
        // `verify_for` also checks the expiry, to the second and by the caller's clock.
        validation.validate_exp = false;
        validation.leeway = 0;
        Ok(Tokens {
            encoding: EncodingKey::from_secret(key),
            decoding: DecodingKey::from_secret(key),
            key_id,
            validation,
            issuers: Issuers::default(),
            database: AtomicU64::new(DatabaseGeneration::default().0),
        })
    }

    /// Issues and accepts tokens with user ids in this generation of the database only.
    pub fn for_database(self, database: DatabaseGeneration) -> Tokens {
        self.set_database(database);
        self
    }

    /// Also accepts the tokens of these other systems.
    pub fn with_issuers(self, issuers: Issuers) -> Tokens {
        Tokens { issuers, ..self }
    }

    /// From now on, issues and accepts tokens of this generation instead.
    pub fn set_database(&self, database: DatabaseGeneration) {
        self.database.store(database.0, Ordering::Relaxed);
    }

    fn database(&self) -> DatabaseGeneration {
        DatabaseGeneration(self.database.load(Ordering::Relaxed))
    }

    /// Uses the key in this file. If the file is missing, a key is generated: 32 random bytes, mode 0600, durable
    /// before this returns. A key that another process generates at the same time is used, not overwritten.
    pub fn from_key_file(path: &Path) -> Result<Tokens, KeyError> {
        match Tokens::read_key_file(path) {
            Err(KeyError::Missing(_)) => {
                generate(path).map_err(|error| KeyError::NotWritten { path: path.to_owned(), error })?;
                Tokens::read_key_file(path)
            }
            tokens => tokens,
        }
    }

    /// Replaces the key in this file by a new one, as [`Tokens::from_key_file`] generates it. No server may use it.
    pub fn replace_key_file(path: &Path) -> Result<Tokens, KeyError> {
        match std::fs::metadata(path) {
            Ok(metadata) if !metadata.is_file() => return Err(KeyError::NotAFile(path.to_owned())),
            Ok(_) => replace(path).map_err(|error| KeyError::NotWritten { path: path.to_owned(), error })?,
            // It is generated below, or can't be read there either.
            Err(_) => {}
        }
        Tokens::from_key_file(path)
    }

    /// Like [`Tokens::from_key_file`], but a missing file is an error. For tools that run beside a server.
    pub fn read_key_file(path: &Path) -> Result<Tokens, KeyError> {
        let unreadable = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => KeyError::Missing(path.to_owned()),
            _ => KeyError::Unreadable { path: path.to_owned(), error },
        };
        let key = read_secret(path, KEY_LIMIT_BYTES).map_err(|error| match error {
            PrivateFileError::Unreadable { error, .. } => unreadable(error),
            PrivateFileError::NotAFile(path) => KeyError::NotAFile(path),
            PrivateFileError::Open { path, mode } => KeyError::Open { path, mode },
            PrivateFileError::TooLong { path, limit_bytes } => KeyError::Length { path, length: limit_bytes + 1 },
        })?;
        Tokens::from_key(&key).map_err(|error| match error {
            KeyError::Bytes(length) => KeyError::Length { path: path.to_owned(), length },
            error => error,
        })
    }

    /// Issues a token of the account's current generation.
    pub fn issue(&self, account: &Account, term: Term) -> String {
        self.issue_for(None, account, term)
    }

    /// Issues a session token of the account's current generation, which only [`Tokens::verify_session`] accepts.
    pub fn issue_session(&self, account: &Account, term: Term) -> String {
        self.issue_for(Some(REFRESH), account, term)
    }

    /// Issues a browser token, which only [`Tokens::verify_browser`] accepts.
    pub fn issue_browser(&self, account: &Account, term: Term) -> String {
        self.issue_for(Some(BROWSER), account, term)
    }

    fn issue_for(&self, audience: Option<&str>, account: &Account, term: Term) -> String {
        self.sign(&Payload {
            iss: ISSUER.to_owned(),
            sub: Some(account.id.to_string()),
            name: account.username.to_string(),
            audience: audience.map(str::to_owned),
            generation: Some(account.token_generation),
            database: Some(self.database().to_string()),
            auth_time: Some(term.signed_in_at),
            iat: term.issued_at,
            exp: term.expires_at,
        })
    }

    /// Issues a token for a username without reading the database. The server looks up the user, or creates it, when it
    /// first sees the token. `now` is in Unix seconds, `lifetime` in seconds.
    pub fn mint(&self, username: &str, now: u64, lifetime: u64) -> String {
        self.sign(&Payload {
            iss: ISSUER.to_owned(),
            sub: None,
            name: username.to_owned(),
            audience: None,
            generation: None,
            database: None,
            auth_time: None,
            iat: now,
            exp: now.saturating_add(lifetime),
        })
    }

    /// The claims of a token that this key signed, or another system that is trusted, and that has not expired at `now`
    /// (Unix seconds). The caller must check whether the token has been revoked. Returns `Expired` only if everything
    /// else about the token is valid. Rejects session tokens.
    pub fn verify(&self, token: &str, now: u64) -> Result<Claims, TokenError> {
        match self.verify_for(None, token, now) {
            Err(TokenError::Invalid) => self.issuers.verify(token, now),
            verified => verified,
        }
    }

    /// Like [`Tokens::verify`], for session tokens only. A session token outlives the revocations that are kept in
    /// memory, so the caller must look for its revocation in the database.
    pub fn verify_session(&self, token: &str, now: u64) -> Result<Claims, TokenError> {
        let claims = self.verify_for(Some(REFRESH), token, now)?;
        // Every session token has a user. One without could not be revoked.
        if claims.user.is_some() { Ok(claims) } else { Err(TokenError::Invalid) }
    }

    /// The user of a browser token that has not expired at `now` (Unix seconds). It stays valid when the user's other
    /// tokens are revoked, because it gives access to nothing.
    pub fn verify_browser(&self, token: &str, now: u64) -> Option<UserId> {
        self.verify_for(Some(BROWSER), token, now).ok()?.user
    }

    fn verify_for(&self, audience: Option<&str>, token: &str, now: u64) -> Result<Claims, TokenError> {
        if token.len() > TOKEN_LIMIT_BYTES {
            return Err(TokenError::Invalid);
        }
        let data = jsonwebtoken::decode::<Payload>(token, &self.decoding, &self.validation)
            .map_err(|_| TokenError::Invalid)?;
        // There is one key, so a backend that makes tokens with it need not name it.
        if data.header.kid.is_some_and(|kid| kid != self.key_id) {
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
        let is_complete = [payload.generation.is_some(), payload.database.is_some(), payload.auth_time.is_some()];
        if is_complete != [user.is_some(); 3] {
            return Err(TokenError::Invalid);
        }
        if payload.database.is_some_and(|database| database != self.database().to_string()) {
            return Err(TokenError::Invalid);
        }
        if payload.exp <= now {
            return Err(TokenError::Expired);
        }
        Ok(Claims {
            user,
            username: Arc::from(payload.name),
            identity: None,
            generation: payload.generation,
            signed_in_at: payload.auth_time.unwrap_or(payload.iat),
            issued_at: payload.iat,
            expires_at: payload.exp,
        })
    }

    /// A token that holds something for this server itself, until it expires (Unix seconds). It is no user's: only
    /// [`Tokens::unseal`] accepts it, for the same audience, which must be none of the other kinds'.
    pub(crate) fn seal(&self, audience: &str, expires_at: u64, contents: &impl Serialize) -> String {
        self.sign(&Sealed { iss: ISSUER.to_owned(), audience: audience.to_owned(), exp: expires_at, contents })
    }

    /// What a token of [`Tokens::seal`] holds, unless it has expired at `now` (Unix seconds).
    pub(crate) fn unseal<T: DeserializeOwned>(&self, audience: &str, token: &str, now: u64) -> Option<T> {
        if token.len() > TOKEN_LIMIT_BYTES {
            return None;
        }
        let sealed = jsonwebtoken::decode::<Sealed<T>>(token, &self.decoding, &self.validation).ok()?.claims;
        (sealed.audience == audience && now < sealed.exp).then_some(sealed.contents)
    }

    /// The id of the signing key: the `kid` of every token.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    fn sign(&self, payload: &impl Serialize) -> String {
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some(self.key_id.clone());
        // This cannot fail: strings and numbers always serialise, and HS256 accepts any HMAC key.
        jsonwebtoken::encode(&header, payload, &self.encoding).unwrap_or_default()
    }
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

/// Writes a new key, unless there is one: a key that another process generates at the same time serves as well.
fn generate(path: &Path) -> io::Result<()> {
    write_new_key(path, |unfinished| match std::fs::hard_link(unfinished, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    })
}

/// Writes a new key in place of the one in this file. It belongs to the same user, as the server must be able to read
/// it even if root has replaced it.
fn replace(path: &Path) -> io::Result<()> {
    let old = std::fs::metadata(path)?;
    // A link stays one.
    let path = &std::fs::canonicalize(path)?;
    write_new_key(path, |unfinished| {
        let new = std::fs::metadata(unfinished)?;
        if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
            chown(unfinished, Some(old.uid()), Some(old.gid()))?;
        }
        std::fs::rename(unfinished, path)
    })
}

/// Writes a new key under a temporary name, which `place` then links or renames to `path`. So even after a crash there
/// is a complete key at `path`, or the old one, or none.
fn write_new_key(path: &Path, place: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let mut key = [0; KEY_MIN_BYTES];
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

    let placed = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        file.write_all(&key)?;
        file.sync_all()?;
        place(&unfinished)
    })();
    let removed = match std::fs::remove_file(&unfinished) {
        // It was renamed.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    };
    placed?;
    removed?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
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
            is_blocked: false,
        }
    }

    fn term() -> Term {
        Term::new(NOW - 100, NOW, 10, 1_000)
    }

    /// A token with arbitrary header and claims, signed with `key`.
    fn forged(header: Header, claims: &Value, key: &[u8]) -> String {
        jsonwebtoken::encode(&header, claims, &EncodingKey::from_secret(key)).unwrap()
    }

    fn valid_header(tokens: &Tokens) -> Header {
        Header { kid: Some(tokens.key_id().to_owned()), ..Header::new(Algorithm::HS256) }
    }

    fn valid_claims() -> Value {
        json!({
            "iss": "uproar", "sub": "42", "name": "Ann", "gen": 3, "db": "0", "auth_time": NOW, "iat": NOW,
            "exp": NOW + 10,
        })
    }

    /// The valid claims with some replaced, or removed if null.
    fn claims_with(changes: Value) -> Value {
        let mut claims = valid_claims();
        for (name, value) in changes.as_object().unwrap() {
            match value {
                Value::Null => claims.as_object_mut().unwrap().remove(name),
                value => claims.as_object_mut().unwrap().insert(name.clone(), value.clone()),
            };
        }
        claims
    }

    #[test]
    fn an_issued_token_verifies() {
        let token = tokens().issue(&account(), term());
        assert_eq!(
            tokens().verify(&token, NOW),
            Ok(Claims {
                user: Some(UserId(42)),
                username: "Ann".into(),
                identity: None,
                generation: Some(3),
                signed_in_at: NOW - 100,
                issued_at: NOW,
                expires_at: NOW + 10
            })
        );
        let minted = tokens().verify(&tokens().mint("bot", NOW, 10), NOW).unwrap();
        assert_eq!((minted.user, minted.generation, &*minted.username), (None, None, "bot"));
    }

    #[test]
    fn session_tokens_and_ordinary_tokens_are_not_interchangeable() {
        let tokens = tokens();
        let session = tokens.issue_session(&account(), term());
        let ordinary = tokens.issue(&account(), term());
        let claims = tokens.verify_session(&session, NOW + 9);
        assert_eq!(claims, tokens.verify(&ordinary, NOW + 9), "both carry the same claims");
        assert_eq!(claims.unwrap().user, Some(UserId(42)));
        assert_eq!(tokens.verify_session(&session, NOW + 10), Err(Expired));
        // Neither is accepted as the other, expired or not.
        for now in [NOW, NOW + 10] {
            assert_eq!(tokens.verify(&session, now), Err(Invalid));
            assert_eq!(tokens.verify_session(&ordinary, now), Err(Invalid));
            assert_eq!(tokens.verify_session(&tokens.mint("bot", NOW, 10), now), Err(Invalid));
        }
        for audience in [json!("refresh"), json!("other"), json!(""), json!(["refresh"]), json!([]), json!(1)] {
            let token = forged(valid_header(&tokens), &claims_with(json!({"aud": audience})), &[7; 32]);
            assert_eq!(tokens.verify(&token, NOW), Err(Invalid), "{audience}");
            assert_eq!(tokens.verify_session(&token, NOW).is_ok(), audience == "refresh", "{audience}");
        }
        let nobody = claims_with(json!({"aud": "refresh", "sub": null, "gen": null, "db": null, "auth_time": null}));
        assert_eq!(tokens.verify_session(&forged(valid_header(&tokens), &nobody, &[7; 32]), NOW), Err(Invalid));
        let other = Tokens::from_key(&[8; 32]).unwrap();
        assert_eq!(tokens.verify_session(&other.issue_session(&account(), term()), NOW), Err(Invalid));
    }

    #[test]
    fn a_browser_token_shows_a_user_and_is_no_other_token() {
        let tokens = tokens();
        let [browser, session, ordinary] = [Tokens::issue_browser, Tokens::issue_session, Tokens::issue]
            .map(|issue| issue(&tokens, &account(), term()));
        assert_eq!(tokens.verify_browser(&browser, NOW + 9), Some(UserId(42)));
        assert_eq!(tokens.verify_browser(&browser, NOW + 10), None);
        assert_eq!(tokens.verify(&browser, NOW), Err(Invalid));
        assert_eq!(tokens.verify_session(&browser, NOW), Err(Invalid));
        for other in [session, ordinary, tokens.mint("bot", NOW, 10)] {
            assert_eq!(tokens.verify_browser(&other, NOW), None);
        }
        let restored = super::tests::tokens().for_database(DatabaseGeneration(7));
        assert_eq!(restored.verify_browser(&browser, NOW), None);
    }

    /// After a backup was restored, the ids of its users may belong to others.
    #[test]
    fn a_token_with_a_user_id_is_valid_in_one_generation_of_the_database() {
        let [first, second] = [1, u64::MAX].map(|number| tokens().for_database(DatabaseGeneration(number)));
        let (token, session) = (first.issue(&account(), term()), first.issue_session(&account(), term()));
        assert!(first.verify(&token, NOW).is_ok() && first.verify_session(&session, NOW).is_ok());
        for now in [NOW, NOW + 10] {
            assert_eq!(second.verify(&token, now), Err(Invalid));
            assert_eq!(second.verify_session(&session, now), Err(Invalid));
        }
        assert!(second.verify(&first.mint("bot", NOW, 10), NOW).is_ok(), "a name means the same everywhere");
    }

    #[test]
    fn a_term_ends_with_the_lifetime_or_a_while_after_the_sign_in() {
        assert_eq!(Term::new(NOW - 50, NOW, 10, 100).expires_at, NOW + 10);
        assert_eq!(Term::new(NOW - 95, NOW, 10, 100).expires_at, NOW + 5);
        assert_eq!(Term::new(NOW, NOW, u64::MAX, u64::MAX).expires_at, u64::MAX);
    }

    #[test]
    fn a_token_expires_to_the_second() {
        let token = tokens().issue(&account(), term());
        assert!(tokens().verify(&token, NOW + 9).is_ok());
        assert_eq!(tokens().verify(&token, NOW + 10), Err(Expired));
        let eternal = tokens().mint("bot", NOW, u64::MAX);
        assert!(tokens().verify(&eternal, NOW + 10).is_ok());
    }

    #[test]
    fn a_token_of_another_key_is_invalid_even_after_its_expiry() {
        let other = Tokens::from_key(&[8; 32]).unwrap();
        let token = other.issue(&account(), term());
        assert_eq!(tokens().verify(&token, NOW + 11), Err(Invalid));
    }

    #[test]
    fn the_algorithm_is_pinned() {
        let tokens = tokens();
        let claims = valid_claims();
        assert!(tokens.verify(&forged(valid_header(&tokens), &claims, &[7; 32]), NOW).is_ok());
        use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
        use ring::hmac;
        let encode = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        // Each with the right signature for what its header says.
        for (name, algorithm, is_valid) in [
            ("HS256", hmac::HMAC_SHA256, true),
            ("HS384", hmac::HMAC_SHA384, false),
            ("HS512", hmac::HMAC_SHA512, false),
        ] {
            let header = encode(json!({"alg": name, "typ": "JWT", "kid": tokens.key_id()}));
            let message = format!("{header}.{}", encode(claims.clone()));
            let signature = hmac::sign(&hmac::Key::new(algorithm, &[7; 32]), message.as_bytes());
            let token = format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature));
            assert_eq!(tokens.verify(&token, NOW).is_ok(), is_valid, "{name}");
        }
        for algorithm in ["none", "None", "RS256", ""] {
            let header = encode(json!({"alg": algorithm, "typ": "JWT", "kid": tokens.key_id()}));
            let unsigned = format!("{header}.{}.", encode(claims.clone()));
            assert_eq!(tokens.verify(&unsigned, NOW), Err(Invalid), "{algorithm}");
        }
    }

    #[test]
    fn every_claim_is_required_and_typed() {
        let tokens = tokens();
        let header = Header::new(Algorithm::HS256);
        assert!(
            tokens.verify(&forged(header, &valid_claims(), &[7; 32]), NOW).is_ok(),
            "the id of the key is optional"
        );
        for kid in [Some("0123456789abcdef".to_owned()), Some(String::new())] {
            let header = Header { kid, ..Header::new(Algorithm::HS256) };
            assert_eq!(tokens.verify(&forged(header, &valid_claims(), &[7; 32]), NOW), Err(Invalid));
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
            json!({"db": null}),
            json!({"db": 0}),
            json!({"db": "00"}),
            json!({"auth_time": null}),
            json!({"auth_time": -1}),
        ] {
            let token = forged(valid_header(&tokens), &claims_with(changes.clone()), &[7; 32]);
            assert_eq!(tokens.verify(&token, NOW), Err(Invalid), "{changes}");
        }
    }

    #[test]
    fn a_modified_token_is_invalid() {
        let tokens = tokens();
        let token = tokens.issue(&account(), term());
        for index in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[index] = if bytes[index] == b'A' { b'B' } else { b'A' };
            let modified = String::from_utf8(bytes).unwrap();
            assert_eq!(tokens.verify(&modified, NOW), Err(Invalid), "byte {index}");
        }
        for nonsense in ["", ".", "..", "a.b.c", "ä", &"x".repeat(1 << 20)] {
            assert_eq!(tokens.verify(nonsense, NOW), Err(Invalid));
        }
    }

    #[test]
    fn debug_output_does_not_show_the_key() {
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
        assert_eq!(fs::read_dir(folder.path().join("data")).unwrap().count(), 1, "the temporary file must be gone");

        let again = Tokens::from_key_file(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), key);
        assert_eq!(again.key_id(), first.key_id());
        assert_eq!(Tokens::read_key_file(&path).unwrap().key_id(), first.key_id());
    }

    #[test]
    fn a_key_is_replaced_by_another_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let mut ids = std::collections::HashSet::new();
        assert!(ids.insert(Tokens::replace_key_file(&path).unwrap().key_id().to_owned()), "there was none");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        for path in [&path, &link] {
            assert!(ids.insert(Tokens::replace_key_file(path).unwrap().key_id().to_owned()));
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert!(ids.contains(Tokens::read_key_file(&path).unwrap().key_id()));
        assert!(link.is_symlink());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "the temporary files must be gone");
        assert!(matches!(Tokens::replace_key_file(folder.path()), Err(KeyError::NotAFile(_))));
        assert!(matches!(Tokens::replace_key_file(&path.join("below")), Err(KeyError::Unreadable { .. })));
    }

    #[test]
    fn processes_that_start_together_use_one_key() {
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
    fn an_unusable_key_file_is_rejected_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, key: &[u8], mode: u32| {
            let path = folder.path().join(name);
            fs::write(&path, key).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        let short = write("short", &[1; 31], 0o600);
        assert!(matches!(Tokens::from_key_file(&short), Err(KeyError::Length { length: 31, .. })));
        assert_eq!(fs::read(&short).unwrap().len(), 31, "it must not be overwritten");
        assert!(matches!(Tokens::from_key_file(&write("empty", &[], 0o600)), Err(KeyError::Length { length: 0, .. })));
        assert!(matches!(Tokens::from_key_file(&write("long", &[1; 5000], 0o600)), Err(KeyError::Length { .. })));
        for mode in [0o644, 0o640, 0o602] {
            let error = Tokens::from_key_file(&write("open", &[1; 32], mode)).unwrap_err();
            assert!(matches!(error, KeyError::Open { .. }));
            assert!(error.to_string().contains("chmod 600"), "{error}");
        }
        assert!(Tokens::from_key_file(&write("read-only", &[1; 32], 0o400)).is_ok());
        // The line end of a text is no part of the key; in a key of random bytes it is.
        let id = |name: &str, key: &[u8]| Tokens::from_key_file(&write(name, key, 0o600)).unwrap().key_id().to_owned();
        let text = b"0123456789abcdef0123456789abcdef";
        assert_eq!(id("line", &[&text[..], b"\r\n"].concat()), id("text", text));
        assert_ne!(id("bytes", &[&[1; 32][..], b"\n"].concat()), id("without", &[1; 32]));
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path().join("text"), &link).unwrap();
        assert_eq!(Tokens::from_key_file(&link).unwrap().key_id(), id("text", text));
        assert!(matches!(Tokens::from_key_file(folder.path()), Err(KeyError::NotAFile(_))));
        let below_a_file = short.join("key");
        let error = Tokens::from_key_file(&below_a_file).unwrap_err();
        assert!(matches!(error, KeyError::Unreadable { .. }), "{error:?}");
    }
}
