//! The outbox: a table in PostgreSQL in which an application's own backend leaves commands of the server API, inside
//! its own transactions.

use crate::check::rows_limit;
use crate::connection::{Arg, DbConnection};
use crate::error::StoreError;
use crate::objects::{OutboxRow, OutboxState};

/// What is counted at most, as counting reads every row.
const COUNT_LIMIT: i64 = 100_000;

/// The error of a database without an outbox.
pub(crate) fn missing() -> StoreError {
    StoreError::Failed("only PostgreSQL has an outbox".to_owned())
}

/// The rows that wait, by id ascending: at most `limit`, and no more after the one with which their payloads have
/// `bytes_limit` bytes.
pub(crate) async fn rows(
    db: &mut DbConnection,
    limit: usize,
    bytes_limit: usize,
) -> Result<Vec<OutboxRow>, StoreError> {
    let sql = "SELECT id, method, payload, created_at FROM (
            SELECT r.*, sum(octet_length(payload)) OVER (ORDER BY id) - octet_length(payload) AS bytes_before FROM (
                SELECT id, method, payload::text AS payload, CASE WHEN isfinite(created_at)
                    THEN CAST(floor(extract(epoch FROM created_at) * 1000000) AS bigint) ELSE 0 END AS created_at
                FROM uproar_outbox WHERE failed_at IS NULL ORDER BY id LIMIT $1) r) r
        WHERE bytes_before < $2 ORDER BY id";
    let bytes = i64::try_from(bytes_limit).unwrap_or(i64::MAX);
    type Row = (i64, String, String, i64);
    let rows = db.all::<Row>(sql, &[Arg::Int(rows_limit(limit) as i64), Arg::Int(bytes)]).await?;
    let row = |(id, method, payload, created_at)| OutboxRow { id, method, payload, created_at };
    Ok(rows.into_iter().map(row).collect())
}

/// Shows whether rows can be written, by a change that changes nothing.
pub(crate) async fn touch(db: &mut DbConnection, ids: &[i64]) -> Result<(), StoreError> {
    let sql = "UPDATE uproar_outbox SET method = method WHERE id = ANY($1) AND failed_at IS NULL";
    db.execute(sql, &[Arg::Ints(ids)]).await?;
    Ok(())
}

/// Deletes rows that are done, and sets others aside with the reason. Repeating it changes nothing more.
pub(crate) async fn finish(db: &mut DbConnection, done: &[i64], failed: &[(i64, String)]) -> Result<(), StoreError> {
    let (ids, errors): (Vec<i64>, Vec<&str>) = failed.iter().map(|(id, error)| (*id, error.as_str())).unzip();
    let sql = "WITH done AS (DELETE FROM uproar_outbox WHERE id = ANY($1))
        UPDATE uproar_outbox o SET failed_at = clock_timestamp(), error = f.error
        FROM unnest($2, $3) AS f(id, error) WHERE o.id = f.id AND o.failed_at IS NULL";
    db.execute(sql, &[Arg::Ints(done), Arg::Ints(&ids), Arg::Texts(&errors)]).await?;
    Ok(())
}

/// Deletes the oldest rows that were set aside beyond `kept`, and returns how many there were.
pub(crate) async fn forget(db: &mut DbConnection, kept: u64) -> Result<u64, StoreError> {
    let sql = "DELETE FROM uproar_outbox WHERE failed_at IS NOT NULL AND id <=
        (SELECT id FROM uproar_outbox WHERE failed_at IS NOT NULL ORDER BY id DESC OFFSET $1 LIMIT 1)";
    let kept = i64::try_from(kept).unwrap_or(i64::MAX);
    Ok(db.execute(sql, &[Arg::Int(kept)]).await?)
}

pub(crate) async fn state(db: &mut DbConnection) -> Result<OutboxState, StoreError> {
    // An application may write any time into the row.
    let sql = "SELECT
        (SELECT count(*) FROM (SELECT FROM uproar_outbox WHERE failed_at IS NULL LIMIT $1) w),
        (SELECT count(*) FROM (SELECT FROM uproar_outbox WHERE failed_at IS NOT NULL LIMIT $1) f),
        (SELECT CASE WHEN isfinite(created_at)
            THEN CAST(floor(extract(epoch FROM created_at) * 1000) AS bigint) ELSE 0 END
            FROM uproar_outbox WHERE failed_at IS NULL ORDER BY id LIMIT 1)";
    let (waiting, failed, since) =
        db.optional::<(i64, i64, Option<i64>)>(sql, &[Arg::Int(COUNT_LIMIT)]).await?.unwrap_or_default();
    let since = since.map(|since| u64::try_from(since).unwrap_or_default());
    Ok(OutboxState { waiting: waiting.unsigned_abs(), failed: failed.unsigned_abs(), since })
}
