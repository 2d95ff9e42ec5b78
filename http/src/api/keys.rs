//! The keys of the server API: which one a request carries.

use crate::app::App;
use crate::bodies::AuthenticatedUser;
use crate::errors::{ApiError, Code};
use crate::input::ClientAddress;
use crate::private_file::{PrivateFileError, read_secret};
use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderMap, StatusCode, header};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use uproar_model::{User, fold_name, shown_name};
use uproar_store::{ApiKey, Scopes, StoreError, UsersBy};

/// How long a key is used without asking the database for it: by then its removal takes effect on every node.
const KNOWN_FOR: Duration = Duration::from_secs(1);
/// Keys that are known at a time.
const KNOWN_LIMIT: usize = 1024;
/// The longest key, and the shortest one in a file.
const KEY_LIMIT_BYTES: usize = 512;
const KEY_MIN_BYTES: usize = 16;

/// The bot user of the key in a file. Nobody can sign up with this name.
pub const FILE_KEY_USER: &str = "uproar";
/// How the audit log and the limits name the key in a file. No other key has a name with a parenthesis.
const FILE_KEY_NAME: &str = "(file)";

/// What the store keeps instead of a key: its SHA-256 in hexadecimal.
pub fn hash_of(key: &str) -> String {
    Sha256::digest(key.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The key in the file that `--api-key-file` names. It may do everything.
#[derive(Clone, Debug)]
pub struct FileKey {
    hash: String,
}

/// Why the file with an API key can't be used. Each message is one line that says what is wrong and what to do.
#[derive(Debug, thiserror::Error)]
pub enum FileKeyError {
    #[error("the API key can't be used: {0}")]
    File(#[from] PrivateFileError),
    #[error(
        "the API key {0} must be one line of {KEY_MIN_BYTES} to {KEY_LIMIT_BYTES} visible ASCII characters without \
         spaces, such as the output of `openssl rand -hex 32`"
    )]
    Content(PathBuf),
}

impl FileKey {
    /// Reads the key. The line end at the end of the file does not belong to it.
    ///
    /// # Errors
    /// If the file is not a key, or others may read it. Containers mount secrets with modes that nobody can change, and
    /// these are accepted.
    pub fn read(path: &Path) -> Result<FileKey, FileKeyError> {
        let key = read_secret(path, 2 * KEY_LIMIT_BYTES)?;
        let key = std::str::from_utf8(&key).unwrap_or_default();
        let is_key =
            (KEY_MIN_BYTES..=KEY_LIMIT_BYTES).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic());
        if !is_key {
            return Err(FileKeyError::Content(path.to_owned()));
        }
        Ok(FileKey { hash: hash_of(key) })
    }
}

/// The keys that were used a moment ago, by their hash.
#[derive(Default)]
pub(crate) struct Keys(Mutex<HashMap<String, (Instant, Arc<ApiKey>)>>);

impl Keys {
    /// The key with this hash, if it has been known for less than a second.
    fn known(&self, hash: &str, now: Instant) -> Option<Arc<ApiKey>> {
        let keys = self.lock();
        let (since, key) = keys.get(hash)?;
        (now.saturating_duration_since(*since) < KNOWN_FOR).then(|| Arc::clone(key))
    }

    fn remember(&self, hash: String, key: &Arc<ApiKey>, asked: Instant) {
        let mut keys = self.lock();
        if keys.len() >= KNOWN_LIMIT {
            keys.retain(|_, (since, _)| asked.saturating_duration_since(*since) < KNOWN_FOR);
        }
        if keys.len() < KNOWN_LIMIT {
            keys.insert(hash, (asked, Arc::clone(key)));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, (Instant, Arc<ApiKey>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The key of a request.
pub(crate) struct Authorized {
    pub key: Arc<ApiKey>,
    hash: String,
    client: ClientAddress,
}

impl Authorized {
    /// Whether the key still exists. A request may take longer than a removed key is used.
    pub(crate) async fn is_valid(&self, app: &App) -> Result<bool, StoreError> {
        let key = find(app, &self.hash, self.client).await?;
        Ok(key.is_some_and(|key| key.name == self.key.name))
    }
}

impl FromRequestParts<Arc<App>> for Authorized {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Authorized, Response> {
        let client = ClientAddress::from_request_parts(parts, app).await.map_err(IntoResponse::into_response)?;
        let hash = hash_of(given(&parts.headers).ok_or_else(unauthorized)?);
        let key = find(app, &hash, client).await.map_err(|error| unavailable(&error))?;
        let key = key.ok_or_else(unauthorized)?;
        if let Some(user) = parts.extensions.get::<AuthenticatedUser>() {
            user.set(key.user.id);
        }
        Ok(Authorized { key, hash, client })
    }
}

async fn find(app: &App, hash: &str, ClientAddress(client): ClientAddress) -> Result<Option<Arc<ApiKey>>, StoreError> {
    let now = Instant::now();
    if let Some(key) = app.api_keys.known(hash, now) {
        return Ok(Some(key));
    }
    let is_of_file = app.settings.api_key.as_ref().is_some_and(|key| key.hash == hash);
    let key = if is_of_file { Some(file_key(app).await?) } else { app.store.api_key(hash, client).await? };
    let key = key.map(Arc::new);
    if let Some(key) = &key {
        app.api_keys.remember(hash.to_owned(), key, now);
    }
    Ok(key)
}

/// The key in the file. Its bot user is created when the key is first used.
async fn file_key(app: &App) -> Result<ApiKey, StoreError> {
    let folded = fold_name(FILE_KEY_USER).unwrap_or_else(|_| FILE_KEY_USER.to_owned());
    let account = match app.store.account_named(&folded).await? {
        Some(account) => account,
        None => app.store.ensure_user(&shown_name(FILE_KEY_USER), &folded).await.map_err(|error| match error {
            uproar_store::CreateUserError::Store(error) => error,
            error => StoreError::Failed(error.to_string()),
        })?,
    };
    let (name, user) = (FILE_KEY_NAME.to_owned(), User::from(&account));
    Ok(ApiKey { name, user, scopes: Scopes::ALL, users: UsersBy::Id, created_at: 0 })
}

/// The key in the header `X-API-Key`, or in `Authorization: apikey KEY`.
fn given(headers: &HeaderMap) -> Option<&str> {
    let key = match headers.get("x-api-key") {
        Some(key) => key.to_str().ok()?,
        None => {
            let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
            let (scheme, key) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("apikey").then_some(key)?
        }
    };
    let key = key.trim();
    (!key.is_empty() && key.len() <= KEY_LIMIT_BYTES).then_some(key)
}

/// The answer to a request without a key, or with a wrong one, which has no body.
fn unauthorized() -> Response {
    (StatusCode::UNAUTHORIZED, Body::empty()).into_response()
}

/// A wrong key and a database that does not answer must not look alike.
fn unavailable(error: &StoreError) -> Response {
    error.log("an API key could not be looked up");
    let text = "the API key can't be checked, because the database does not answer; nothing was done";
    ApiError::new(Code::Unavailable, text).retry_after(1).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn a_key_comes_in_either_header() {
        assert_eq!(given(&headers(&[("x-api-key", "k1")])), Some("k1"));
        assert_eq!(given(&headers(&[("authorization", "apikey k2")])), Some("k2"));
        assert_eq!(given(&headers(&[("authorization", "APIKEY  k2 ")])), Some("k2"));
        assert_eq!(given(&headers(&[("x-api-key", "k1"), ("authorization", "apikey k2")])), Some("k1"));
        for none in [&[][..], &[("authorization", "Bearer k")], &[("authorization", "apikey")], &[("x-api-key", "")]] {
            assert_eq!(given(&headers(none)), None, "{none:?}");
        }
        let long: &'static str = Box::leak("x".repeat(KEY_LIMIT_BYTES + 1).into());
        assert_eq!(given(&headers(&[("x-api-key", long)])), None);
    }

    #[test]
    fn a_key_is_known_for_a_second() {
        let keys = Keys::default();
        let user = User { id: uproar_model::UserId(1), username: "bot".into() };
        let key = Arc::new(ApiKey { name: "k".into(), user, scopes: Scopes::ALL, users: UsersBy::Id, created_at: 0 });
        let now = Instant::now();
        keys.remember("h".into(), &key, now);
        assert!(keys.known("h", now).is_some() && keys.known("other", now).is_none());
        assert!(keys.known("h", now + KNOWN_FOR).is_none());
        for number in 0..2 * KNOWN_LIMIT {
            keys.remember(number.to_string(), &key, now);
        }
        assert_eq!(keys.lock().len(), KNOWN_LIMIT);
        keys.remember("later".into(), &key, now + KNOWN_FOR);
        assert_eq!(keys.lock().len(), 1);
    }

    #[test]
    fn a_file_holds_one_key_that_others_can_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        assert!(matches!(FileKey::read(&path), Err(FileKeyError::File(PrivateFileError::Unreadable { .. }))));
        assert!(matches!(FileKey::read(folder.path()), Err(FileKeyError::File(PrivateFileError::NotAFile(_)))));
        let write = |content: &str, mode| {
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            FileKey::read(&path)
        };
        assert_eq!(write("0123456789abcdef\n", 0o600).unwrap().hash, hash_of("0123456789abcdef"));
        assert!(matches!(
            write("0123456789abcdef", 0o644),
            Err(FileKeyError::File(PrivateFileError::Open { mode: 0o644, .. }))
        ));
        for content in ["short", "", "0123456789 abcdef", "0123456789abcdef\n0123456789abcdef", &"x".repeat(513)] {
            assert!(matches!(write(content, 0o600), Err(FileKeyError::Content(_))), "{content}");
        }
    }
}
