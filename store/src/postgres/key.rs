//! Which signing key the servers of a database have: all nodes accept each other's tokens.

use super::failures::Target;
use super::generation::set_meta;
use super::guard::{Guard, Taker};
use super::setup::connect_options;
use crate::error::OpenError;
use crate::options::OpenOptions;
use sqlx::Row;
use sqlx::postgres::PgConnection;
use tokio::time::timeout;

/// The row of `meta` with the id of the key.
const NAME: &str = "key";

/// Records the key of a server that has the database for itself.
pub(super) async fn record(connection: &mut PgConnection, key_id: &str) -> Result<(), sqlx::Error> {
    set_meta(connection, NAME, key_id).await
}

/// The id of the key that was recorded last, if there is one.
pub(super) async fn recorded(connection: &mut PgConnection) -> Result<Option<String>, sqlx::Error> {
    if !sqlx::query_scalar::<_, bool>("SELECT to_regclass('meta') IS NOT NULL").fetch_one(&mut *connection).await? {
        return Ok(None);
    }
    sqlx::query_scalar("SELECT value FROM meta WHERE name = $1").bind(NAME).fetch_optional(connection).await
}

/// Compares the key of a node with that of the others. The first node decides which one that is, even if two start at
/// the same time.
pub(super) async fn compare(connection: &mut PgConnection, key_id: &str, target: &Target) -> Result<(), OpenError> {
    let failed = |error: sqlx::Error| target.failed(&error);
    let sql = "INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    sqlx::query(sql).bind(NAME).bind(key_id).execute(&mut *connection).await.map_err(failed)?;
    let sql = "SELECT value FROM meta WHERE name = $1";
    let row = sqlx::query(sql).bind(NAME).fetch_one(connection).await.map_err(failed)?;
    match row.try_get::<String, _>(0).map_err(failed)? == key_id {
        true => Ok(()),
        false => Err(OpenError::Lasting(format!(
            "this server has a different signing key from the cluster's on {}: copy signing.key from another node, or \
             set --key-file",
            target.address
        ))),
    }
}

/// Changes the key while no server uses the database: calls `change`, and records the key id that it returns.
pub(crate) async fn change<E: From<OpenError>>(
    url: &str,
    options: &OpenOptions,
    change: impl FnOnce() -> Result<String, E>,
) -> Result<(), E> {
    let connect = connect_options(url)?;
    let target = Target::of(&connect);
    let failed = |error: sqlx::Error| target.failed(&error);
    let took_too_long = || target.no_answer(options.open_timeout);
    let taken = async {
        let mut held = Guard::take(&connect, &target, Taker::Command).await?;
        let sql = "SELECT to_regclass('meta') IS NOT NULL";
        let row = sqlx::raw_sql(sql).fetch_one(&mut held.connection).await.map_err(failed)?;
        Ok::<_, OpenError>((held, row.try_get::<bool, _>(0).map_err(failed)?))
    };
    let (mut held, has_schema) = timeout(options.open_timeout, taken).await.map_err(|_| took_too_long())??;
    // First the file: if the record is lost, the other nodes still agree with each other.
    let key_id = change()?;
    if has_schema {
        let recorded = timeout(options.open_timeout, record(&mut held.connection, &key_id)).await;
        recorded.map_err(|_| took_too_long())?.map_err(failed)?;
    }
    Ok(())
}
