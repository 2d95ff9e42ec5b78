//! How connections are set up, and which servers are accepted.

use crate::error::{OpenError, one_line};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Executor, Row};
use std::time::Duration;

/// PostgreSQL 13. Older versions no longer get fixes.
const OLDEST_VERSION: i64 = 130_000;

pub(super) fn connect_options(url: &str) -> Result<PgConnectOptions, OpenError> {
    match url.parse::<PgConnectOptions>() {
        Ok(options) => Ok(options.disable_statement_logging()),
        Err(_) => Err(OpenError("the PostgreSQL URL can't be parsed".to_owned())),
    }
}

/// What each connection that serves calls asks for when it starts.
pub(super) fn session_settings(call_timeout: Duration) -> [(&'static str, String); 8] {
    // The server gives up before we do, so that it does no work for a call that was abandoned.
    let timeout = format!("{}ms", call_timeout.as_millis());
    [
        ("default_transaction_isolation", "read committed".to_owned()),
        ("statement_timeout", timeout.clone()),
        ("lock_timeout", timeout.clone()),
        ("idle_in_transaction_session_timeout", timeout),
        // Every query reads a few rows through an index. The statistics of a young or skewed table can suggest
        // otherwise, say a scan of all users for one page, and a prepared statement would keep that plan. Compiling a
        // query takes longer than running it.
        ("enable_seqscan", "off".to_owned()),
        ("enable_hashjoin", "off".to_owned()),
        ("enable_mergejoin", "off".to_owned()),
        ("jit", "off".to_owned()),
    ]
}

/// Makes sure that a commit on this connection is on disk when it is acknowledged, whatever the server's default.
pub(super) async fn prepare(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let sql =
        "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'";
    connection.execute(sql).await?;
    Ok(())
}

/// Fails unless this server can keep what Uproar promises.
pub(super) async fn check_server(connection: &mut PgConnection, address: &str) -> Result<(), OpenError> {
    let sql = "SELECT CAST(current_setting('server_version_num') AS bigint), current_setting('server_version'),
        current_setting('server_encoding'), pg_is_in_recovery(), current_setting('fsync')";
    let row = connection.fetch_one(sql).await;
    let facts = row.and_then(|row| {
        Ok((
            row.try_get(0)?,
            row.try_get::<String, _>(1)?,
            row.try_get::<String, _>(2)?,
            row.try_get(3)?,
            row.try_get::<String, _>(4)?,
        ))
    });
    let facts: Result<(i64, String, String, bool, String), sqlx::Error> = facts;
    let (number, version, encoding, is_standby, fsync) = facts.map_err(|error| database_failed(address, &error))?;
    if number < OLDEST_VERSION {
        return Err(OpenError(format!("{address} is PostgreSQL {version}, but uproar needs version 13 or newer")));
    }
    if encoding != "UTF8" {
        return Err(OpenError(format!(
            "the database {address} has the encoding {encoding}; create one with ENCODING 'UTF8' TEMPLATE template0"
        )));
    }
    if is_standby {
        return Err(OpenError(format!(
            "{address} is a read-only standby; set the address of the primary with --database"
        )));
    }
    if fsync == "off" {
        tracing::warn!("PostgreSQL at {address} runs with fsync = off: a power cut can lose acknowledged messages");
    }
    Ok(())
}

pub(super) fn database_failed(address: &str, error: &sqlx::Error) -> OpenError {
    OpenError(format!("can't use the database {address}: {}", one_line(error)))
}

pub(super) fn no_answer(address: &str, limit: Duration) -> OpenError {
    OpenError(format!("no answer from PostgreSQL at {address} within {} s", limit.as_secs()))
}
