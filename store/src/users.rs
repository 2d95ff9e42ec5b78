//! Accounts and token generations.

use crate::connection::{Arg, DbConnection, wrong_row_count};
use crate::error::{CreateUserError, RenameError, StoreError};
use crate::names;
use crate::objects::{Account, Login, NewUser};
use std::collections::BTreeMap;
use uproar_model::{Identity, Reading, Revocation, UserId, boottime_ms, fold_name, skeleton};

/// Former names of one user. They are never given up: tokens that name the user may be valid for years.
pub(crate) const FORMER_NAMES_LIMIT: i64 = 20;

/// id, username, email_key, whether there is a password, token generation, when it was raised, whether the user is
/// blocked.
type AccountRow = (i64, String, Option<String>, bool, i64, Option<i64>, bool);

fn account_from(row: AccountRow) -> Account {
    let (id, username, email, has_password, token_generation, revoked_at, is_blocked) = row;
    Account {
        id: UserId(id),
        username: username.into(),
        email,
        has_password,
        token_generation: token_generation_from(token_generation),
        revoked_at: revoked_at.map(|at| at.unsigned_abs()),
        is_blocked,
    }
}

fn token_generation_from(number: i64) -> u32 {
    u32::try_from(number).unwrap_or_default()
}

pub(crate) async fn create(db: &mut DbConnection, user: &NewUser) -> Result<Account, CreateUserError> {
    names::claim(db, &[&user.username]).await?;
    if names::is_user_lookalike(db, &user.username, None).await? {
        return Err(CreateUserError::UsernameTaken);
    }
    let now = db.now().await?;
    let skeleton = skeleton(&user.username);
    let sql = "INSERT INTO users (username, username_key, email_key, password_hash, created_at, skeleton)
        SELECT $1, $2, $3, $4, $5, $6 WHERE NOT EXISTS (SELECT 1 FROM former_names WHERE name_key = $2)
        ON CONFLICT DO NOTHING RETURNING id";
    let args = [
        Arg::Text(&user.username),
        Arg::Text(&user.username_key),
        Arg::Text(&user.email_key),
        Arg::Text(&user.password_hash),
        Arg::Int(now),
        Arg::Text(&skeleton),
    ];
    match db.optional::<(i64,)>(sql, &args).await? {
        Some((id,)) => Ok(Account {
            id: UserId(id),
            username: user.username.as_str().into(),
            email: Some(user.email_key.clone()),
            has_password: true,
            token_generation: 0,
            revoked_at: None,
            is_blocked: false,
        }),
        None => match by_username(db, &user.username_key).await? {
            Some(_) => Err(CreateUserError::UsernameTaken),
            None => Err(CreateUserError::EmailTaken),
        },
    }
}

/// Creates a user without a password and an e-mail address.
pub(crate) async fn create_bare(db: &mut DbConnection, username: &str, key: &str) -> Result<Account, CreateUserError> {
    names::claim(db, &[username]).await?;
    if names::is_user_lookalike(db, username, None).await? || !insert_bare(db, username, key).await? {
        return Err(CreateUserError::UsernameTaken);
    }
    by_username(db, key).await?.ok_or_else(|| just_created_is_missing().into())
}

/// `false`: the name is taken.
async fn insert_bare(db: &mut DbConnection, username: &str, key: &str) -> Result<bool, StoreError> {
    let now = db.now().await?;
    let skeleton = skeleton(username);
    let sql = "INSERT INTO users (username, username_key, created_at, skeleton)
        SELECT $1, $2, $3, $4 WHERE NOT EXISTS (SELECT 1 FROM former_names WHERE name_key = $2)
        ON CONFLICT DO NOTHING";
    let args = [Arg::Text(username), Arg::Text(key), Arg::Int(now), Arg::Text(&skeleton)];
    Ok(db.execute(sql, &args).await? > 0)
}

pub(crate) fn just_created_is_missing() -> StoreError {
    StoreError::Failed("the user that was just created is missing".to_owned())
}

/// Gives a user another name, inside a transaction. The former name stays the user's.
pub(crate) async fn rename(
    db: &mut DbConnection,
    user: UserId,
    username: &str,
    key: &str,
) -> Result<Account, RenameError> {
    if db.is_postgres() {
        names::limit_waits(db).await?;
    }
    // Two changes of one user wait for each other, so that no name in between is lost.
    let sql = match db.is_postgres() {
        true => "SELECT username, username_key FROM users WHERE id = $1 FOR NO KEY UPDATE",
        false => "SELECT username, username_key FROM users WHERE id = $1",
    };
    let found = db.optional::<(String, String)>(sql, &[Arg::Int(user.0)]).await?;
    let (old_name, old_key) = found.ok_or(RenameError::NoUser)?;
    names::claim(db, &[&old_name, username]).await?;
    let other = by_username(db, key).await?.filter(|other| other.id != user);
    if other.is_some() || names::is_user_lookalike(db, username, Some(user)).await? {
        return Err(RenameError::UsernameTaken);
    }
    if key != old_key {
        db.execute("DELETE FROM former_names WHERE name_key = $1", &[Arg::Text(key)]).await?;
        let sql = "SELECT count(*) FROM former_names WHERE user_id = $1";
        let (count,) = db.optional::<(i64,)>(sql, &[Arg::Int(user.0)]).await?.unwrap_or_default();
        if count >= FORMER_NAMES_LIMIT {
            return Err(RenameError::TooOften);
        }
        let sql = "INSERT INTO former_names (name_key, username, skeleton, user_id) VALUES ($1, $2, $3, $4)";
        let skeleton = skeleton(&old_name);
        let args = [Arg::Text(&old_key), Arg::Text(&old_name), Arg::Text(&skeleton), Arg::Int(user.0)];
        db.execute(sql, &args).await?;
    }
    let sql = "UPDATE users SET username = $2, username_key = $3, skeleton = $4 WHERE id = $1";
    let skeleton = skeleton(username);
    db.execute(sql, &[Arg::Int(user.0), Arg::Text(username), Arg::Text(key), Arg::Text(&skeleton)]).await?;
    by_id(db, user).await?.ok_or(RenameError::NoUser)
}

/// The account with this name, created if there is none.
pub(crate) async fn ensure(db: &mut DbConnection, username: &str, key: &str) -> Result<Account, CreateUserError> {
    names::claim(db, &[username]).await?;
    insert_bare(db, username, key).await?;
    by_username(db, key).await?.ok_or_else(|| just_created_is_missing().into())
}

/// The account with this name, or whose name this was.
pub(crate) async fn by_username(db: &mut DbConnection, key: &str) -> Result<Option<Account>, StoreError> {
    let sql = "SELECT id, username, email_key, password_hash IS NOT NULL, CAST(token_generation AS bigint), revoked_at,
        blocked_at IS NOT NULL FROM users WHERE id = coalesce((SELECT u.id FROM users u WHERE u.username_key = $1),
            (SELECT f.user_id FROM former_names f WHERE f.name_key = $1))";
    Ok(db.optional::<AccountRow>(sql, &[Arg::Text(key)]).await?.map(account_from))
}

/// The present key of the user who has this name, or whose name this was.
pub(crate) async fn current_key(db: &mut DbConnection, key: &str) -> Result<Option<String>, StoreError> {
    let sql = "SELECT username_key FROM users WHERE id = coalesce((SELECT u.id FROM users u WHERE u.username_key = $1),
        (SELECT f.user_id FROM former_names f WHERE f.name_key = $1))";
    Ok(db.optional::<(String,)>(sql, &[Arg::Text(key)]).await?.map(|(key,)| key))
}

pub(crate) async fn by_id(db: &mut DbConnection, user: UserId) -> Result<Option<Account>, StoreError> {
    let sql = "SELECT id, username, email_key, password_hash IS NOT NULL, CAST(token_generation AS bigint), revoked_at,
        blocked_at IS NOT NULL FROM users WHERE id = $1";
    Ok(db.optional::<AccountRow>(sql, &[Arg::Int(user.0)]).await?.map(account_from))
}

pub(crate) async fn by_identity(db: &mut DbConnection, identity: &Identity) -> Result<Option<Account>, StoreError> {
    let sql = "SELECT u.id, u.username, u.email_key, u.password_hash IS NOT NULL,
            CAST(u.token_generation AS bigint), u.revoked_at, u.blocked_at IS NOT NULL
        FROM identities i JOIN users u ON u.id = i.user_id WHERE i.subject = $1 AND i.issuer = $2";
    let args = [Arg::Text(&identity.subject), Arg::Text(&identity.issuer)];
    Ok(db.optional::<AccountRow>(sql, &args).await?.map(account_from))
}

/// What a system calls these users, in their order.
pub(crate) async fn subjects(
    db: &mut DbConnection,
    issuer: &str,
    users: &[UserId],
) -> Result<Vec<Option<String>>, StoreError> {
    let ids: Vec<i64> = users.iter().map(|user| user.0).collect();
    let sql = if db.is_postgres() {
        "SELECT user_id, min(subject) FROM identities WHERE user_id = ANY($1) AND issuer = $2 GROUP BY user_id"
    } else {
        "SELECT user_id, min(subject) FROM identities
            WHERE user_id IN (SELECT value FROM json_each($1)) AND issuer = $2 GROUP BY user_id"
    };
    let rows = db.all::<(i64, String)>(sql, &[Arg::Ints(&ids), Arg::Text(issuer)]).await?;
    let found: BTreeMap<i64, String> = rows.into_iter().collect();
    Ok(ids.iter().map(|id| found.get(id).cloned()).collect())
}

/// The account of a user of another system, created if there is none, in a transaction.
pub(crate) async fn ensure_identity(
    db: &mut DbConnection,
    identity: &Identity,
    username: &str,
) -> Result<Account, CreateUserError> {
    // On SQLite nobody else writes meanwhile.
    if let Some(account) = by_identity(db, identity).await? {
        return Ok(account);
    }
    let last = db.optional::<(i64,)>("SELECT CAST(coalesce(max(id), 0) AS bigint) FROM users", &[]).await?;
    let last_id = last.map_or(0, |(id,)| id.unsigned_abs());
    let mut created = None;
    for name in names::candidates(username, last_id) {
        let Ok(key) = fold_name(&name) else { continue };
        if names::is_free(db, &name).await? && insert_bare(db, &name, &key).await? {
            created = by_username(db, &key).await?;
            break;
        }
    }
    let Some(Account { id: UserId(id), .. }) = created else { return Err(CreateUserError::UsernameTaken) };
    let sql = "INSERT INTO identities (subject, issuer, user_id, created_at) VALUES ($1, $2, $3, $4)
        ON CONFLICT DO NOTHING";
    let now = db.now().await?;
    let args = [Arg::Text(&identity.subject), Arg::Text(&identity.issuer), Arg::Int(id), Arg::Int(now)];
    if db.execute(sql, &args).await? == 0 {
        // Another node was faster.
        db.execute("DELETE FROM users WHERE id = $1", &[Arg::Int(id)]).await?;
    }
    match by_identity(db, identity).await? {
        Some(account) => Ok(account),
        None => Err(just_created_is_missing().into()),
    }
}

pub(crate) async fn login(
    db: &mut DbConnection,
    login: Login<'_>,
) -> Result<Option<(Account, Option<String>)>, StoreError> {
    let (sql, key) = match login {
        Login::UsernameKey(key) => (
            "SELECT id, username, email_key, CAST(token_generation AS bigint), revoked_at, blocked_at IS NOT NULL,
                password_hash FROM users WHERE username_key = $1",
            key,
        ),
        Login::EmailKey(key) => (
            "SELECT id, username, email_key, CAST(token_generation AS bigint), revoked_at, blocked_at IS NOT NULL,
                password_hash FROM users WHERE email_key = $1",
            key,
        ),
    };
    type LoginRow = (i64, String, Option<String>, i64, Option<i64>, bool, Option<String>);
    let found = db.optional::<LoginRow>(sql, &[Arg::Text(key)]).await?;
    Ok(found.map(|(id, username, email, token_generation, revoked_at, is_blocked, hash)| {
        (account_from((id, username, email, hash.is_some(), token_generation, revoked_at, is_blocked)), hash)
    }))
}

/// Raises a token generation. The time comes from the database's clock, as the times in tokens do: a token without a
/// generation is judged by its age, perhaps by another process than the one that issued it.
macro_rules! revoke_sql {
    ($database:ident) => {
        concat!("token_generation = token_generation + 1, revoked_at = ", now_sql!($database))
    };
}
pub(crate) use revoke_sql;

/// Sets a password and revokes the user's tokens.
pub(crate) async fn set_password(
    db: &mut DbConnection,
    user: UserId,
    expected_hash: Option<&str>,
    password_hash: &str,
) -> Result<Option<Revocation>, StoreError> {
    macro_rules! sql {
        ($database:ident) => {
            concat!(
                "UPDATE users SET password_hash = $2, ",
                revoke_sql!($database),
                " WHERE id = $1 AND (CAST($3 AS text) IS NULL OR password_hash = $3)
                RETURNING id, CAST(token_generation AS bigint), revoked_at, blocked_at IS NOT NULL"
            )
        };
    }
    let sql = if db.is_postgres() { sql!(postgres) } else { sql!(sqlite) };
    let args = [Arg::Int(user.0), Arg::Text(password_hash), Arg::Maybe(expected_hash)];
    Ok(db.optional(sql, &args).await?.map(revocation_from))
}

pub(crate) async fn replace_password_hash(
    db: &mut DbConnection,
    user: UserId,
    expected_hash: &str,
    password_hash: &str,
) -> Result<bool, StoreError> {
    let sql = "UPDATE users SET password_hash = $3 WHERE id = $1 AND password_hash = $2";
    let args = [Arg::Int(user.0), Arg::Text(expected_hash), Arg::Text(password_hash)];
    Ok(db.execute(sql, &args).await? == 1)
}

pub(crate) async fn revoke_tokens(db: &mut DbConnection, user: UserId) -> Result<Option<Revocation>, StoreError> {
    macro_rules! sql {
        ($database:ident) => {
            concat!(
                "UPDATE users SET ",
                revoke_sql!($database),
                " WHERE id = $1 RETURNING id, CAST(token_generation AS bigint), revoked_at, blocked_at IS NOT NULL"
            )
        };
    }
    let sql = if db.is_postgres() { sql!(postgres) } else { sql!(sqlite) };
    Ok(db.optional(sql, &[Arg::Int(user.0)]).await?.map(revocation_from))
}

/// Blocks a user or unblocks one, and revokes the tokens, unless that is done. Returns the account as it is then.
pub(crate) async fn set_blocked(
    db: &mut DbConnection,
    user: UserId,
    is_blocked: bool,
) -> Result<Option<Account>, StoreError> {
    macro_rules! sql {
        ($database:ident) => {
            concat!(
                "UPDATE users SET blocked_at = CASE $2 WHEN 1 THEN ",
                now_sql!($database),
                " END, ",
                revoke_sql!($database),
                " WHERE id = $1 AND CASE WHEN blocked_at IS NULL THEN 0 ELSE 1 END <> $2"
            )
        };
    }
    let sql = if db.is_postgres() { sql!(postgres) } else { sql!(sqlite) };
    db.execute(sql, &[Arg::Int(user.0), Arg::Int(is_blocked.into())]).await?;
    by_id(db, user).await
}

pub(crate) async fn revoked_since(db: &mut DbConnection, since: u64) -> Result<Vec<Revocation>, StoreError> {
    let sql = "SELECT id, CAST(token_generation AS bigint), revoked_at, blocked_at IS NOT NULL FROM users
        WHERE revoked_at IS NOT NULL AND revoked_at >= $1 OR blocked_at IS NOT NULL ORDER BY revoked_at, id";
    let since = i64::try_from(since).unwrap_or(i64::MAX);
    Ok(db.all(sql, &[Arg::Int(since)]).await?.into_iter().map(revocation_from).collect())
}

pub(crate) async fn recent_revocations(
    db: &mut DbConnection,
    known_until: u64,
    overlap_ms: u64,
) -> Result<(Reading, Vec<Revocation>), StoreError> {
    macro_rules! sql {
        ($database:ident, $least:literal) => {
            concat!(
                "SELECT n.now, u.id, CAST(u.token_generation AS bigint), u.revoked_at, u.blocked_at IS NOT NULL
                FROM (SELECT ",
                now_sql!($database),
                " AS now) n LEFT JOIN users u ON u.revoked_at IS NOT NULL AND u.revoked_at >= ",
                $least,
                "($1, n.now) - $2 ORDER BY u.revoked_at, u.id"
            )
        };
    }
    let sql = if db.is_postgres() { sql!(postgres, "least") } else { sql!(sqlite, "min") };
    let arg = |ms| Arg::Int(i64::try_from(ms).unwrap_or(i64::MAX));
    let asked_ms = boottime_ms();
    let rows =
        db.all::<(i64, Option<i64>, Option<i64>, Option<i64>, bool)>(sql, &[arg(known_until), arg(overlap_ms)]).await?;
    let answered_ms = boottime_ms();
    let Some((now, ..)) = rows.first() else { return Err(wrong_row_count(0, 1)) };
    let reading = Reading { asked_ms, answered_ms, unix_ms: now.unsigned_abs() };
    let revocation =
        |(_, user, generation, at, is_blocked)| Some(revocation_from((user?, generation?, at?, is_blocked)));
    Ok((reading, rows.into_iter().filter_map(revocation).collect()))
}

pub(crate) async fn longest_token_lifetime_ms(db: &mut DbConnection, lifetime_ms: u64) -> Result<u64, StoreError> {
    let sql = "SELECT value FROM meta WHERE name = 'longest_token_lifetime_ms'";
    let recorded = db.optional::<(String,)>(sql, &[]).await?.and_then(|(value,)| value.parse::<u64>().ok());
    if let Some(recorded) = recorded.filter(|recorded| *recorded >= lifetime_ms) {
        return Ok(recorded);
    }
    let sql = "INSERT INTO meta (name, value) VALUES ('longest_token_lifetime_ms', $1)
        ON CONFLICT (name) DO UPDATE SET value = excluded.value";
    db.execute(sql, &[Arg::Text(&lifetime_ms.to_string())]).await?;
    Ok(lifetime_ms)
}

fn revocation_from((user, token_generation, at, is_blocked): (i64, i64, i64, bool)) -> Revocation {
    let (user, generation) = (UserId(user), token_generation_from(token_generation));
    Revocation { user, generation, at: at.unsigned_abs(), is_blocked }
}
