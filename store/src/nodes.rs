//! What the nodes of a cluster tell each other of what they serve, in their rows of the table `nodes`.

use crate::connection::{Arg, DbConnection};
use crate::error::StoreError;
use crate::objects::{NodeLoad, OtherNode};
use crate::postgres::SILENCE_MS;

/// `false`: the node has no row yet.
pub(crate) async fn report_load(db: &mut DbConnection, node: &str, load: NodeLoad) -> Result<bool, StoreError> {
    let sql = "UPDATE nodes SET connections = $2, users = $3, subscriptions = $4, channels = $5 WHERE name = $1";
    let int = |count: u64| Arg::Int(i64::try_from(count).unwrap_or(i64::MAX));
    let NodeLoad { connections, users, subscriptions, channels } = load;
    let args = [Arg::Text(node), int(connections), int(users), int(subscriptions), int(channels)];
    Ok(db.execute(sql, &args).await? > 0)
}

/// The nodes that are alive, except the one with this name. A node that was started again has two rows for a while.
pub(crate) async fn others(db: &mut DbConnection, node: &str) -> Result<Vec<OtherNode>, StoreError> {
    let sql = concat!(
        "SELECT DISTINCT ON (name) name, version, ",
        now_sql!(postgres),
        " - started_at, connections, users, subscriptions, channels FROM nodes
        WHERE name <> $1 AND beat_at >= ",
        now_sql!(postgres),
        " - $2 ORDER BY name, started_at DESC"
    );
    type NodeRow = (String, String, i64, Option<i64>, Option<i64>, Option<i64>, Option<i64>);
    let rows = db.all::<NodeRow>(sql, &[Arg::Text(node), Arg::Int(SILENCE_MS.cast_signed())]).await?;
    let load = |connections: i64, users: i64, subscriptions: i64, channels: i64| NodeLoad {
        connections: connections.unsigned_abs(),
        users: users.unsigned_abs(),
        subscriptions: subscriptions.unsigned_abs(),
        channels: channels.unsigned_abs(),
    };
    let node = |(name, version, uptime_ms, connections, users, subscriptions, channels): NodeRow| OtherNode {
        name,
        version,
        uptime_ms: u64::try_from(uptime_ms).unwrap_or_default(),
        load: (|| Some(load(connections?, users?, subscriptions?, channels?)))(),
    };
    Ok(rows.into_iter().map(node).collect())
}
