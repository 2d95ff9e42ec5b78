//! Keys of the server API, and the audit log of what is done with them.

use crate::check::rows_limit;
use crate::connection::{Arg, DbConnection, json};
use crate::error::{ApiKeyError, StoreError};
use crate::objects::{ApiKey, AuditEntry, NewApiKey};
use uproar_model::{User, UserId};

/// The most keys.
pub(crate) const KEYS_LIMIT: i64 = 1_000;

/// name, scopes, how the key names users, creation, and the id and name of the bot user.
type KeyRow = (String, String, String, i64, i64, String);

fn key_from(row: KeyRow) -> Result<ApiKey, StoreError> {
    let (name, scopes, users, created_at, id, username) = row;
    let unknown = |what: &str, error: String| {
        StoreError::Failed(format!("the {what} of the API key '{name}' are not of this version: {error}"))
    };
    Ok(ApiKey {
        scopes: scopes.parse().map_err(|error| unknown("scopes", error))?,
        users: users.parse().map_err(|error| unknown("users", error))?,
        user: User { id: UserId(id), username: username.into() },
        created_at: created_at.unsigned_abs(),
        name,
    })
}

/// Adds a key, inside a transaction.
pub(crate) async fn add(db: &mut DbConnection, key: &NewApiKey) -> Result<(), ApiKeyError> {
    let (count,) = db.optional::<(i64,)>("SELECT count(*) FROM api_keys", &[]).await?.unwrap_or_default();
    if count >= KEYS_LIMIT {
        return Err(ApiKeyError::TooMany);
    }
    let now = db.now().await?;
    let sql = "INSERT INTO api_keys (name, key_hash, user_id, scopes, users, created_at)
        SELECT $1, $2, u.id, $4, $5, $6 FROM users u WHERE u.id = $3 ON CONFLICT DO NOTHING";
    let (scopes, users) = (key.scopes.to_string(), key.users.to_string());
    let args = [
        Arg::Text(&key.name),
        Arg::Text(&key.hash),
        Arg::Int(key.user.0),
        Arg::Text(&scopes),
        Arg::Text(&users),
        Arg::Int(now),
    ];
    match db.execute(sql, &args).await? {
        0 => Err(ApiKeyError::NameTaken),
        _ => Ok(()),
    }
}

pub(crate) async fn by_hash(db: &mut DbConnection, hash: &str) -> Result<Option<ApiKey>, StoreError> {
    let sql = "SELECT k.name, k.scopes, k.users, k.created_at, u.id, u.username
        FROM api_keys k JOIN users u ON u.id = k.user_id WHERE k.key_hash = $1";
    db.optional(sql, &[Arg::Text(hash)]).await?.map(key_from).transpose()
}

pub(crate) async fn by_name(db: &mut DbConnection, name: &str) -> Result<Option<ApiKey>, StoreError> {
    let sql = "SELECT k.name, k.scopes, k.users, k.created_at, u.id, u.username
        FROM api_keys k JOIN users u ON u.id = k.user_id WHERE k.name = $1";
    db.optional(sql, &[Arg::Text(name)]).await?.map(key_from).transpose()
}

/// All keys, by name, with an error for each that only a newer release understands.
pub(crate) async fn list(db: &mut DbConnection) -> Result<Vec<Result<ApiKey, StoreError>>, StoreError> {
    let sql = "SELECT k.name, k.scopes, k.users, k.created_at, u.id, u.username
        FROM api_keys k JOIN users u ON u.id = k.user_id ORDER BY k.name";
    Ok(db.all(sql, &[]).await?.into_iter().map(key_from).collect())
}

/// `false`: there is no such key.
pub(crate) async fn remove(db: &mut DbConnection, name: &str) -> Result<bool, StoreError> {
    Ok(db.execute("DELETE FROM api_keys WHERE name = $1", &[Arg::Text(name)]).await? > 0)
}

/// Adds rows to the audit log, in this order, and deletes the oldest ones beyond `kept`, inside a transaction.
pub(crate) async fn record(db: &mut DbConnection, entries: &[AuditEntry], kept: u64) -> Result<(), StoreError> {
    if db.is_postgres() {
        let ints = |of: fn(&AuditEntry) -> u64| entries.iter().map(|it| int(of(it))).collect::<Vec<_>>();
        let texts = |of: fn(&AuditEntry) -> &str| entries.iter().map(of).collect::<Vec<_>>();
        let (at, outcomes, times) = (ints(|it| it.at), ints(|it| it.outcome.into()), ints(|it| it.times));
        let (actors, actions, targets) = (texts(|it| &it.actor), texts(|it| &it.action), texts(|it| &it.target));
        let sql = "INSERT INTO audit (at, actor, action, target, outcome, times)
            SELECT w.at, w.actor, w.action, w.target, w.outcome, w.times
            FROM unnest($1, $2, $3, $4, $5, $6) WITH ORDINALITY AS w(at, actor, action, target, outcome, times, n)
            ORDER BY w.n";
        let args = [
            Arg::Ints(&at),
            Arg::Texts(&actors),
            Arg::Texts(&actions),
            Arg::Texts(&targets),
            Arg::Ints(&outcomes),
            Arg::Ints(&times),
        ];
        db.execute(sql, &args).await?;
    } else {
        let rows: Vec<_> = entries
            .iter()
            .map(|it| (int(it.at), &*it.actor, &*it.action, &*it.target, it.outcome, int(it.times)))
            .collect();
        let sql = "INSERT INTO audit (at, actor, action, target, outcome, times)
            SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5
            FROM json_each($1) ORDER BY key";
        db.execute(sql, &[Arg::Text(&json(&rows))]).await?;
    }
    let sql = "DELETE FROM audit WHERE id <= (SELECT max(id) FROM audit) - $1";
    db.execute(sql, &[Arg::Int(int(kept))]).await?;
    Ok(())
}

/// The newest rows of the audit log, oldest first.
pub(crate) async fn audit(db: &mut DbConnection, limit: usize) -> Result<Vec<AuditEntry>, StoreError> {
    let sql = "SELECT at, actor, action, target, CAST(outcome AS bigint), CAST(times AS bigint)
        FROM audit ORDER BY id DESC LIMIT $1";
    type AuditRow = (i64, String, String, String, i64, i64);
    let rows = db.all::<AuditRow>(sql, &[Arg::Int(rows_limit(limit) as i64)]).await?;
    let entry = |(at, actor, action, target, outcome, times): AuditRow| AuditEntry {
        at: at.unsigned_abs(),
        actor: actor.into(),
        action: action.into(),
        target,
        outcome: u16::try_from(outcome).unwrap_or(u16::MAX),
        times: times.unsigned_abs(),
    };
    Ok(rows.into_iter().rev().map(entry).collect())
}

/// A number as the database stores it: one that does not fit becomes the largest that does.
fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
