//! How connections are set up, and which servers are accepted.

use super::failures::Target;
use super::guard::{Health, Held};
use crate::error::OpenError;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection, Executor, Row};
use std::time::Duration;

/// PostgreSQL 13. Older versions no longer get fixes.
const OLDEST_VERSION: i64 = 130_000;

/// What each session asks for when it starts.
const SETTINGS: [(&str, &str); 5] = [
    // Each start would log notices about tables that already exist.
    ("client_min_messages", "warning"),
    // With these, PostgreSQL notices within about 6 s that our host is gone, and gives up the lock of the guard. They
    // also keep firewalls from forgetting an idle connection. In the other direction, the guard tests the database.
    ("tcp_keepalives_idle", "2"),
    ("tcp_keepalives_interval", "1"),
    ("tcp_keepalives_count", "3"),
    ("tcp_user_timeout", "5000"),
];

/// Whether this session acknowledges commits that can be lost: `off` does not wait for the disk, and `local` does not
/// wait for a synchronous standby. `on` and `remote_apply` wait for its disk, and `remote_write` until the standby's
/// system has the commit: then only the loss of both machines at the same time can undo it. Without such a standby,
/// these three are the same.
pub(super) const WEAK_COMMIT: &str =
    "current_setting('synchronous_commit') NOT IN ('on', 'remote_apply', 'remote_write')";

pub(super) fn connect_options(url: &str) -> Result<PgConnectOptions, OpenError> {
    match url.parse::<PgConnectOptions>() {
        Ok(options) => Ok(options.disable_statement_logging().options(SETTINGS)),
        Err(_) => Err(OpenError::Lasting("the PostgreSQL URL can't be parsed".to_owned())),
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

/// Fails unless this server can keep what Uproar promises.
pub(super) async fn check_server(connection: &mut PgConnection, target: &Target) -> Result<(), OpenError> {
    let address = &target.address;
    let sql = "SELECT CAST(current_setting('server_version_num') AS bigint), current_setting('server_version'),
        current_setting('server_encoding'), pg_is_in_recovery(), current_setting('fsync'),
        current_setting('transaction_read_only') = 'on'";
    let row = connection.fetch_one(sql).await;
    let facts = row.and_then(|row| {
        Ok((
            row.try_get(0)?,
            row.try_get::<String, _>(1)?,
            row.try_get::<String, _>(2)?,
            row.try_get(3)?,
            row.try_get::<String, _>(4)?,
            row.try_get(5)?,
        ))
    });
    let facts: Result<(i64, String, String, bool, String, bool), sqlx::Error> = facts;
    let (number, version, encoding, is_standby, fsync, is_read_only) = facts.map_err(|error| target.failed(&error))?;
    if number < OLDEST_VERSION {
        return Err(OpenError::Lasting(format!(
            "{address} is PostgreSQL {version}, but uproar needs version 13 or newer"
        )));
    }
    if encoding != "UTF8" {
        return Err(OpenError::Lasting(format!(
            "the database {address} has the encoding {encoding}; create one with ENCODING 'UTF8' TEMPLATE template0"
        )));
    }
    if is_standby {
        return Err(OpenError::Away(format!(
            "{address} is a read-only standby; set the address of the primary with --database"
        )));
    }
    if is_read_only {
        return Err(OpenError::Away(format!(
            "the database {address} is read-only; end that (default_transaction_read_only)"
        )));
    }
    if fsync == "off" {
        tracing::warn!("PostgreSQL at {address} runs with fsync = off: a power cut can lose acknowledged messages");
    }
    Ok(())
}

/// Fails if sessions are shared between clients: then the session with the guard's lock changes while another one has
/// an open transaction.
pub(super) async fn check_that_sessions_are_our_own(
    held: &mut Held,
    options: &PgConnectOptions,
    target: &Target,
) -> Result<(), OpenError> {
    let failed = |error: sqlx::Error| target.failed(&error);
    let mut other = options.connect().await.map_err(failed)?;
    let mut transaction = other.begin().await.map_err(failed)?;
    transaction.execute("SELECT 1").await.map_err(failed)?;
    let (health, _) = held.test().await.map_err(failed)?;
    transaction.rollback().await.map_err(failed)?;
    let _ = other.close().await;
    if health == Health::Shared { Err(OpenError::Lasting(target.shared_sessions())) } else { Ok(()) }
}
