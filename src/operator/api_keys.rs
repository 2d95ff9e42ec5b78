//! What operators do with the keys of the server API.

use super::check_name;
use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use std::str::FromStr;
use time::OffsetDateTime;
use uproar_http::api::hash_of;
use uproar_model::{UnixMillis, shown_name};
use uproar_store::{ApiKey, ApiKeyError, AuditEntry, NewApiKey, Scopes, Store, StoreError, UsersBy};

/// What every key begins with, so that people and tools that look for leaked secrets recognise one.
const KEY_PREFIX: &str = "uproar_";
/// The longest name of a key, in bytes.
const NAME_LIMIT_BYTES: usize = 64;

/// What a command asks for.
#[derive(Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case", deny_unknown_fields)]
pub enum KeyRequest {
    /// A new key, whose messages are those of this user.
    Add {
        name: String,
        user: String,
        scopes: String,
        users: String,
    },
    List,
    Remove {
        name: String,
    },
    /// The newest lines of the audit log.
    Log {
        last: u16,
    },
}

/// Does what is asked for, and returns what to print: the new key, a table, or nothing.
///
/// # Errors
/// If a name is not valid, taken or unknown, or the database fails.
pub async fn execute(store: &dyn Store, request: &KeyRequest) -> Result<String> {
    match request {
        KeyRequest::Add { name, user, scopes, users } => {
            let key = add(store, name, user, scopes, users).await?;
            note(store, "add_api_key", name).await;
            Ok(key)
        }
        KeyRequest::List => list(store).await,
        KeyRequest::Remove { name } => {
            if !store.remove_api_key(name).await? {
                bail!("there is no API key '{}'", name.escape_debug());
            }
            note(store, "remove_api_key", name).await;
            Ok(String::new())
        }
        KeyRequest::Log { last } => log(store, usize::from(*last)).await,
    }
}

async fn add(store: &dyn Store, name: &str, user: &str, scopes: &str, users: &str) -> Result<String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if name.is_empty() || name.len() > NAME_LIMIT_BYTES || !name.bytes().all(is_plain) {
        bail!(
            "'{}' is not a valid name for an API key: it must have 1 to {NAME_LIMIT_BYTES} letters of English, digits, \
             '.', '_' and '-'",
            name.escape_debug()
        );
    }
    let scopes = Scopes::from_str(scopes).map_err(|error| anyhow!("--scope: {error}"))?;
    let users = UsersBy::from_str(users).map_err(|error| anyhow!("--users: {error}"))?;
    let user_key = check_name(user)?;
    let bot = store.ensure_user(&shown_name(user), &user_key).await?;
    let mut random = [0; 32];
    getrandom::fill(&mut random).context("the system can't provide random numbers")?;
    let random: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let key = format!("{KEY_PREFIX}{random}");
    let new = NewApiKey { name: name.to_owned(), hash: hash_of(&key), user: bot.id, scopes, users };
    match store.add_api_key(new).await {
        Ok(()) => Ok(format!("{key}\n")),
        Err(ApiKeyError::NameTaken) => bail!("there is an API key '{name}' already; remove it first"),
        Err(error) => Err(error.into()),
    }
}

async fn list(store: &dyn Store) -> Result<String> {
    let heading = ["NAME", "USER", "SCOPES", "USERS BY", "CREATED (UTC)"].map(str::to_owned);
    let keys = store.api_keys().await?;
    if keys.is_empty() {
        return Ok(String::new());
    }
    let is_known = |key: Result<ApiKey, StoreError>| match key {
        Ok(key) => Some(key),
        Err(error) => {
            crate::output::note(format_args!("uproar: not shown: {error}"));
            None
        }
    };
    let rows = keys.into_iter().filter_map(is_known).map(|key| {
        let user = key.user.username.to_string();
        [key.name, user, key.scopes.to_string(), key.users.to_string(), utc(key.created_at)]
    });
    Ok(crate::output::table(heading, rows))
}

async fn log(store: &dyn Store, last: usize) -> Result<String> {
    let heading = ["TIME (UTC)", "WHO", "ACTION", "TARGET", "OUTCOME", "TIMES"].map(str::to_owned);
    let entries = store.audit(last).await?;
    if entries.is_empty() {
        return Ok(String::new());
    }
    let rows = entries.into_iter().map(|entry| {
        let outcome = if entry.outcome == 0 { "done".to_owned() } else { format!("error {}", entry.outcome) };
        let AuditEntry { at, actor, action, target, times, .. } = entry;
        [utc(at), actor.to_string(), action.into_owned(), target, outcome, times.to_string()]
    });
    Ok(crate::output::table(heading, rows))
}

/// Writes down what an operator did. It is done already, so a failure is only logged.
async fn note(store: &dyn Store, action: &'static str, target: &str) {
    let entry = AuditEntry {
        at: store.clock().unix_ms(),
        actor: "operator".into(),
        action: action.into(),
        target: target.to_owned(),
        outcome: 0,
        times: 1,
    };
    // The server deletes old rows.
    if let Err(error) = store.record_audit(&[entry], u64::MAX).await {
        error.log("an action of an operator could not be written in the audit log");
    }
}

/// A time as people read it, to the second.
fn utc(at: UnixMillis) -> String {
    let seconds = i64::try_from(at / 1000).unwrap_or_default();
    let time = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (date, hour, minute, second) = (time.date(), time.hour(), time.minute(), time.second());
    format!("{date} {hour:02}:{minute:02}:{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_shown_to_the_second() {
        assert_eq!(utc(0), "1970-01-01 00:00:00");
        assert_eq!(utc(1_764_582_009_999), "2025-12-01 09:40:09");
    }
}
