//! Accounts and token generations, the same on both databases.

use crate::session::{Arg, Session};
use crate::{Account, CreateUserError, Login, NewUser, Revocation, StoreError};
use uproar_model::UserId;

/// id, username, email_key, whether there is a password, token generation, when raised.
type AccountRow = (i64, String, Option<String>, bool, i64, Option<i64>);

fn account_from(row: AccountRow) -> Account {
    let (id, username, email, has_password, token_generation, revoked_at) = row;
    Account {
        id: UserId(id),
        username: username.into(),
        email,
        has_password,
        token_generation: generation_from(token_generation),
        revoked_at: revoked_at.map(|at| at.unsigned_abs()),
    }
}

fn generation_from(number: i64) -> u32 {
    u32::try_from(number).unwrap_or_default()
}

pub(crate) async fn create(session: &mut Session, user: &NewUser) -> Result<Account, CreateUserError> {
    let now = session.now().await?;
    let sql = "INSERT INTO users (username, username_key, email_key, password_hash, created_at)
        VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING RETURNING id";
    let args = [
        Arg::Text(&user.username),
        Arg::Text(&user.username_key),
        Arg::Text(&user.email_key),
        Arg::Text(&user.password_hash),
        Arg::Int(now),
    ];
    match session.optional::<(i64,)>(sql, &args).await? {
        Some((id,)) => Ok(Account {
            id: UserId(id),
            username: user.username.as_str().into(),
            email: Some(user.email_key.clone()),
            has_password: true,
            token_generation: 0,
            revoked_at: None,
        }),
        None => {
            let sql = "SELECT id FROM users WHERE username_key = $1";
            match session.optional::<(i64,)>(sql, &[Arg::Text(&user.username_key)]).await? {
                Some(_) => Err(CreateUserError::UsernameTaken),
                None => Err(CreateUserError::EmailTaken),
            }
        }
    }
}

pub(crate) async fn ensure(session: &mut Session, username: &str, key: &str) -> Result<Account, CreateUserError> {
    let now = session.now().await?;
    let sql = "INSERT INTO users (username, username_key, created_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
    session.execute(sql, &[Arg::Text(username), Arg::Text(key), Arg::Int(now)]).await?;
    match by_username(session, key).await? {
        Some(account) => Ok(account),
        None => Err(StoreError("a user just created is not there".to_owned()).into()),
    }
}

pub(crate) async fn by_username(session: &mut Session, key: &str) -> Result<Option<Account>, sqlx::Error> {
    let sql = "SELECT id, username, email_key, password_hash IS NOT NULL, CAST(token_generation AS bigint), revoked_at
        FROM users WHERE username_key = $1";
    Ok(session.optional::<AccountRow>(sql, &[Arg::Text(key)]).await?.map(account_from))
}

pub(crate) async fn by_id(session: &mut Session, user: UserId) -> Result<Option<Account>, sqlx::Error> {
    let sql = "SELECT id, username, email_key, password_hash IS NOT NULL, CAST(token_generation AS bigint), revoked_at
        FROM users WHERE id = $1";
    Ok(session.optional::<AccountRow>(sql, &[Arg::Int(user.0)]).await?.map(account_from))
}

pub(crate) async fn login(
    session: &mut Session,
    login: Login<'_>,
) -> Result<Option<(Account, Option<String>)>, sqlx::Error> {
    let (sql, key) = match login {
        Login::UsernameKey(key) => (
            "SELECT id, username, email_key, CAST(token_generation AS bigint), revoked_at, password_hash
                FROM users WHERE username_key = $1",
            key,
        ),
        Login::EmailKey(key) => (
            "SELECT id, username, email_key, CAST(token_generation AS bigint), revoked_at, password_hash
                FROM users WHERE email_key = $1",
            key,
        ),
    };
    type LoginRow = (i64, String, Option<String>, i64, Option<i64>, Option<String>);
    let found = session.optional::<LoginRow>(sql, &[Arg::Text(key)]).await?;
    Ok(found.map(|(id, username, email, generation, revoked_at, hash)| {
        (account_from((id, username, email, hash.is_some(), generation, revoked_at)), hash)
    }))
}

pub(crate) async fn set_password(
    session: &mut Session,
    user: UserId,
    expected_hash: Option<&str>,
    password_hash: &str,
) -> Result<Option<Revocation>, StoreError> {
    let now = session.now().await?;
    let sql = "UPDATE users SET password_hash = $2, token_generation = token_generation + 1, revoked_at = $3
        WHERE id = $1 AND (CAST($4 AS text) IS NULL OR password_hash = $4)
        RETURNING id, CAST(token_generation AS bigint), revoked_at";
    let args = [Arg::Int(user.0), Arg::Text(password_hash), Arg::Int(now), Arg::Maybe(expected_hash)];
    Ok(session.optional(sql, &args).await?.map(revocation_from))
}

pub(crate) async fn revoke_tokens(session: &mut Session, user: UserId) -> Result<Option<Revocation>, StoreError> {
    let now = session.now().await?;
    let sql = "UPDATE users SET token_generation = token_generation + 1, revoked_at = $2 WHERE id = $1
        RETURNING id, CAST(token_generation AS bigint), revoked_at";
    Ok(session.optional(sql, &[Arg::Int(user.0), Arg::Int(now)]).await?.map(revocation_from))
}

pub(crate) async fn revoked_since(session: &mut Session, since: u64) -> Result<Vec<Revocation>, sqlx::Error> {
    let sql = "SELECT id, CAST(token_generation AS bigint), revoked_at FROM users
        WHERE revoked_at IS NOT NULL AND revoked_at >= $1 ORDER BY revoked_at, id";
    let since = i64::try_from(since).unwrap_or(i64::MAX);
    Ok(session.all(sql, &[Arg::Int(since)]).await?.into_iter().map(revocation_from).collect())
}

fn revocation_from((user, generation, at): (i64, i64, i64)) -> Revocation {
    Revocation { user: UserId(user), generation: generation_from(generation), at: at.unsigned_abs() }
}
