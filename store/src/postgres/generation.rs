//! How PostgreSQL's generation changes: a start notices that the database is in another cluster than before (restored
//! from a dump), or on another timeline (restored to a point in time, or a standby took over, which may lack the last
//! commits).

use super::failures::{Target, code};
use super::guard::{Guard, Taker};
use super::setup::connect_options;
use crate::error::{OpenError, one_line};
use crate::generation::{self, DatabaseGeneration};
use crate::options::OpenOptions;
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor, Row};
use std::collections::HashMap;
use tokio::time::timeout;

/// Compares the cluster and the timeline with the recorded ones, begins a new generation if either has changed, and
/// records them. `lost`: it lacks something that was
/// committed in this generation.
pub(super) async fn check(
    connection: &mut PgConnection,
    lost: Option<DatabaseGeneration>,
) -> Result<DatabaseGeneration, sqlx::Error> {
    let (system, timeline) = identities(connection).await?;

    let mut transaction = connection.begin().await?;
    let rows = transaction.fetch_all("SELECT name, value FROM meta ORDER BY name FOR UPDATE").await?;
    let mut meta = HashMap::new();
    for row in rows {
        meta.insert(row.try_get::<String, _>(0)?, row.try_get::<String, _>(1)?);
    }
    let recorded_generation = meta.get("generation").map(String::as_str);
    let mut generation = generation::parse(recorded_generation);
    // Another node may have noticed it first.
    let mut may_have_gone_back = lost == Some(generation);
    for (name, current) in [("system_identifier", system), ("timeline", timeline)] {
        let Some(current) = current else { continue };
        let recorded = meta.get(name);
        if recorded == Some(&current) {
            continue;
        }
        may_have_gone_back |= recorded.is_some();
        set_meta(&mut transaction, name, &current).await?;
    }
    let has_users = transaction.fetch_optional("SELECT id FROM users LIMIT 1").await?.is_some();
    if may_have_gone_back || generation::is_unused(generation, has_users) {
        generation = draw()?;
        if may_have_gone_back {
            tracing::warn!(
                %generation,
                "the database was restored, or another PostgreSQL server took over: clients start over"
            );
        }
        set_meta(&mut transaction, "generation", &generation.to_string()).await?;
    }
    transaction.commit().await?;
    Ok(generation)
}

/// The generation of the database that a session of a node leads to. The session may be the first one that leads to
/// another server.
pub(super) async fn of_session(connection: &mut PgConnection) -> Result<DatabaseGeneration, sqlx::Error> {
    let (system, timeline) = identities(connection).await?;
    let sql = "SELECT (SELECT value FROM meta WHERE name = 'generation'),
        coalesce($1 = (SELECT value FROM meta WHERE name = 'system_identifier'), true)
          AND coalesce($2 = (SELECT value FROM meta WHERE name = 'timeline'), true)";
    let row = sqlx::query(sql).bind(system).bind(timeline).fetch_one(&mut *connection).await?;
    if !row.try_get::<bool, _>(1)? {
        return check(connection, None).await;
    }
    Ok(generation::parse(row.try_get::<Option<&str>, _>(0)?))
}

/// Records the cluster and the timeline of a server that has taken over and lacks nothing, so that the next start does
/// not raise the generation because of it.
pub(super) async fn record(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let (system, timeline) = identities(connection).await?;
    for (name, current) in [("system_identifier", system), ("timeline", timeline)] {
        if let Some(current) = current {
            set_meta(connection, name, &current).await?;
        }
    }
    Ok(())
}

fn draw() -> Result<DatabaseGeneration, sqlx::Error> {
    generation::draw().map_err(|error| sqlx::Error::Protocol(error.to_string()))
}

/// Begins a new generation on an administrator's request. This takes the guard's lock, because a running server has the
/// old generation in memory.
pub(crate) async fn restored(url: &str, options: &OpenOptions) -> Result<(), OpenError> {
    let connect = connect_options(url)?;
    let target = Target::of(&connect);
    let failed = |error: sqlx::Error| target.failed(&error);
    let raised = async {
        let mut held = Guard::take(&connect, &target, Taker::Command).await?;
        check(&mut held.connection, None).await.map_err(failed)?;
        let generation = draw().map_err(failed)?;
        set_meta(&mut held.connection, "generation", &generation.to_string()).await.map_err(failed)
    };
    match timeout(options.open_timeout, raised).await {
        Ok(result) => result,
        Err(_) => Err(target.no_answer(options.open_timeout)),
    }
}

pub(super) async fn set_meta(connection: &mut PgConnection, name: &str, value: &str) -> Result<(), sqlx::Error> {
    let sql = "INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value";
    sqlx::query(sql).bind(name).bind(value).execute(connection).await?;
    Ok(())
}

/// The cluster and the timeline. The role may lack the right to one of them, so each is queried by itself.
async fn identities(connection: &mut PgConnection) -> Result<(Option<String>, Option<String>), sqlx::Error> {
    let system = identity(connection, "SELECT CAST(system_identifier AS text) FROM pg_control_system()").await?;
    let timeline = identity(connection, "SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)").await?;
    Ok((system, timeline))
}

/// A text that identifies the cluster or the timeline. `None`: this role is not permitted to read it.
async fn identity(connection: &mut PgConnection, sql: &'static str) -> Result<Option<String>, sqlx::Error> {
    match connection.fetch_one(sql).await {
        Ok(row) => row.try_get(0),
        Err(error) if code(&error).is_some_and(|code| is_refusal(&code)) => {
            tracing::warn!(
                error = one_line(&error),
                "a missing right of the database role hides some restores; run `uproar restored` after a restore"
            );
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Whether PostgreSQL refuses to say it at all: no right, or no such function. Any other error is over some time, and
/// must not hide that another server has taken over.
fn is_refusal(code: &str) -> bool {
    matches!(code.get(..2), Some("42" | "0A"))
}

#[cfg(test)]
mod tests {
    use super::is_refusal;

    /// A session that an administrator has terminated (57P01) was taken for one without rights.
    #[test]
    fn only_a_refusal_hides_an_identity() {
        assert!(["42501", "42883", "0A000"].into_iter().all(is_refusal));
        assert!(!["57P01", "57014", "53200", "55P03", "08006", ""].into_iter().any(is_refusal));
    }
}
