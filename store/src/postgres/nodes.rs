//! The nodes that share a database. Each has a row in the table `nodes`, which it updates every two seconds over its
//! guard connection: its *beat*. A node whose row does not move is silent.

use crate::error::{OpenError, StoreError, one_line};
use crate::generation::{self, DatabaseGeneration, random_word};
use crate::inspect::NodeRow;
use crate::options::OpenOptions;
use sqlx::postgres::PgConnection;
use sqlx::{ConnectOptions, Row};
use std::collections::BTreeMap;
use tokio::time::timeout;
use uproar_model::boottime_ms;

use super::failures::Target;
use super::setup::connect_options;

/// The announcements that this program understands.
pub(super) const BUS_VERSION: i32 = 2;
const BEAT_INTERVAL_MS: u64 = 2_000;
/// A node is silent when its beat has not moved during this many beats of our own: a database that stalls must not make
/// everybody silent.
const UNMOVED_LIMIT: u32 = 3;
/// After this time without a beat the others take us for silent, so we go on as a new incarnation.
pub(crate) const SILENCE_MS: u64 = 6_000;
/// The rows of nodes that did not say goodbye are deleted after this time.
const FORGOTTEN_MS: i64 = 600_000;

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Peer {
    name: String,
    version: String,
    bus_version: i32,
    beat_at: i64,
    /// For how many beats of our own `beat_at` has not moved.
    unmoved: u32,
}

impl Peer {
    fn is_silent(&self) -> bool {
        self.unmoved >= UNMOVED_LIMIT
    }
}

/// This process as a node.
pub(super) struct Node {
    name: String,
    incarnation: String,
    /// When this process became a node. These two are by `boottime_ms`, which goes on while the machine sleeps.
    started_ms: u64,
    last_beat_ms: Option<u64>,
    peers: Peers,
}

/// The other nodes by their incarnations, as of the last beat.
#[derive(Debug, Default)]
struct Peers(BTreeMap<String, Peer>);

/// What a beat has found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Beat {
    pub generation: DatabaseGeneration,
    /// How many other nodes are alive.
    pub peers: usize,
    /// The announcements that all nodes that are alive understand.
    pub bus_version: i32,
}

impl Node {
    pub fn new(name: &str) -> Result<Node, StoreError> {
        let (name, incarnation) = (name.to_owned(), random_word()?);
        Ok(Node { name, incarnation, started_ms: boottime_ms(), last_beat_ms: None, peers: Peers::default() })
    }

    pub fn is_due(&self) -> bool {
        self.last_beat_ms.is_none_or(|last| boottime_ms() >= last + BEAT_INTERVAL_MS)
    }

    /// Says that this node is alive, and looks for the others.
    pub async fn beat(&mut self, connection: &mut PgConnection) -> Result<Beat, sqlx::Error> {
        if self.last_beat_ms.is_some_and(|last| boottime_ms() >= last + SILENCE_MS) {
            self.leave(connection).await?;
            self.incarnation = random_word().map_err(|error| sqlx::Error::Protocol(error.to_string()))?;
        }
        // No beat needs to survive a crash of PostgreSQL, so none waits for a disk.
        let sql = concat!(
            "WITH clock AS (
              SELECT ",
            now_sql!(postgres),
            " AS now, set_config('synchronous_commit', 'off', true) AS unsynchronized
            ), beaten AS (
              INSERT INTO nodes (incarnation, name, version, bus_version, started_at, beat_at)
              SELECT $1, $2, $3, $4, now - $7, now FROM clock WHERE unsynchronized = 'off'
              ON CONFLICT (incarnation) DO UPDATE SET beat_at = excluded.beat_at
            ), forgotten AS (
              DELETE FROM nodes USING clock WHERE incarnation <> $1 AND beat_at < now - $5
            )
            SELECT (SELECT value FROM meta WHERE name = 'generation'), n.incarnation, n.name, n.version, n.beat_at,
              n.bus_version, n.beat_at < (SELECT now FROM clock) - $6
            FROM (SELECT 1) one LEFT JOIN nodes n ON n.incarnation <> $1"
        );
        let rows = sqlx::query(sql)
            .bind(&self.incarnation)
            .bind(&self.name)
            .bind(env!("CARGO_PKG_VERSION"))
            .bind(BUS_VERSION)
            .bind(FORGOTTEN_MS)
            .bind(SILENCE_MS.cast_signed())
            .bind(boottime_ms().saturating_sub(self.started_ms).cast_signed())
            .fetch_all(connection)
            .await?;
        self.last_beat_ms = Some(boottime_ms());
        let mut generation = None;
        let mut found = Vec::new();
        for row in rows {
            generation = row.try_get::<Option<String>, _>(0)?;
            if let Some(incarnation) = row.try_get::<Option<String>, _>(1)? {
                let (name, version, beat_at, bus_version) =
                    (row.try_get(2)?, row.try_get(3)?, row.try_get(4)?, row.try_get(5)?);
                // One that was silent before this node knew of it, such as our own last run, is not new.
                let unmoved = if row.try_get(6)? { UNMOVED_LIMIT } else { 0 };
                found.push((incarnation, Peer { name, version, bus_version, beat_at, unmoved }));
            }
        }
        for change in self.peers.update(found) {
            change.log(&self.name);
        }
        let generation = generation::parse(generation.as_deref());
        Ok(Beat { generation, peers: self.peers.alive().count(), bus_version: self.peers.bus_version() })
    }

    /// Says that this node has stopped.
    pub async fn leave(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        sqlx::query("DELETE FROM nodes WHERE incarnation = $1").bind(&self.incarnation).execute(connection).await?;
        Ok(())
    }
}

/// What has become of another node.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Change {
    Joined { name: String, version: String },
    Silent(String),
    Back(String),
    Left(String),
}

impl Change {
    fn log(&self, own_name: &str) {
        match self {
            Change::Joined { name, version } => {
                tracing::info!(version, "the node {name} has joined");
                if name == own_name {
                    tracing::warn!("another node is called {name} too; give each node a name of its own with --node");
                }
            }
            Change::Silent(name) => tracing::warn!("the node {name} is silent: it was lost, or can't reach PostgreSQL"),
            Change::Back(name) => tracing::info!("the node {name} is back"),
            Change::Left(name) => tracing::info!("the node {name} has left"),
        }
    }
}

impl Peers {
    fn alive(&self) -> impl Iterator<Item = &Peer> {
        self.0.values().filter(|peer| !peer.is_silent())
    }

    /// The announcements that all nodes that are alive understand, this one included.
    fn bus_version(&self) -> i32 {
        self.alive().map(|peer| peer.bus_version).fold(BUS_VERSION, i32::min)
    }

    /// Takes the rows of the other nodes that a beat of our own has found.
    fn update(&mut self, found: Vec<(String, Peer)>) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut before = std::mem::take(&mut self.0);
        for (incarnation, mut peer) in found {
            match before.remove(&incarnation) {
                None if peer.is_silent() => {}
                None => {
                    changes.push(Change::Joined { name: peer.name.clone(), version: peer.version.clone() });
                }
                Some(known) => {
                    let has_moved = known.beat_at != peer.beat_at;
                    peer.unmoved = if has_moved { 0 } else { known.unmoved.saturating_add(1) };
                    match (known.is_silent(), peer.is_silent()) {
                        (false, true) => changes.push(Change::Silent(peer.name.clone())),
                        (true, false) => changes.push(Change::Back(peer.name.clone())),
                        _ => {}
                    }
                }
            }
            self.0.insert(incarnation, peer);
        }
        // A silent one has been reported already.
        let gone = before.into_values().filter(|peer| !peer.is_silent());
        changes.extend(gone.map(|peer| Change::Left(peer.name)));
        changes
    }
}

/// The rows of all nodes, by name.
pub(crate) async fn list(url: &str, options: &OpenOptions) -> Result<Vec<NodeRow>, OpenError> {
    let connect = connect_options(url)?;
    let target = Target::of(&connect);
    let listed = async {
        let mut connection = connect.connect().await?;
        if !sqlx::query_scalar::<_, bool>("SELECT to_regclass('nodes') IS NOT NULL").fetch_one(&mut connection).await? {
            return Ok(Vec::new());
        }
        let sql = concat!(
            "SELECT name, version,
              to_char(to_timestamp(started_at / 1000) AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS'), ",
            now_sql!(postgres),
            " - beat_at FROM nodes ORDER BY name, started_at"
        );
        let rows = sqlx::query(sql).fetch_all(&mut connection).await?;
        rows.iter()
            .map(|row| {
                let age_ms: i64 = row.try_get(3)?;
                Ok(NodeRow {
                    name: row.try_get(0)?,
                    version: row.try_get(1)?,
                    started: row.try_get(2)?,
                    beat_age_ms: age_ms.max(0).unsigned_abs(),
                    is_silent: age_ms.max(0).unsigned_abs() > SILENCE_MS,
                })
            })
            .collect::<Result<Vec<_>, sqlx::Error>>()
    };
    match timeout(options.open_timeout, listed).await {
        Ok(Ok(nodes)) => Ok(nodes),
        Ok(Err(error)) => Err(target.failed(&error)),
        Err(_) => Err(target.no_answer(options.open_timeout)),
    }
}

/// Gives the database an id of its own, if it has none. Nodes of other databases that use the same bus are told apart
/// by it.
pub(super) async fn name_cluster(connection: &mut PgConnection) -> Result<String, sqlx::Error> {
    let id = random_word().map_err(|error| sqlx::Error::Protocol(one_line(&error)))?;
    let sql = "INSERT INTO meta (name, value) VALUES ('cluster', $1) ON CONFLICT (name) DO NOTHING";
    sqlx::query(sql).bind(id).execute(&mut *connection).await?;
    sqlx::query_scalar("SELECT value FROM meta WHERE name = 'cluster'").fetch_one(connection).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(incarnation: &str, beat_at: i64) -> (String, Peer) {
        let (name, version) = (format!("node {incarnation}"), "1.0".to_owned());
        (incarnation.to_owned(), Peer { name, version, bus_version: BUS_VERSION, beat_at, unmoved: 0 })
    }

    #[test]
    fn the_oldest_node_that_is_alive_decides_what_is_spoken() {
        let of = |incarnation, bus_version, unmoved| {
            let (incarnation, peer) = row(incarnation, 10);
            (incarnation, Peer { bus_version, unmoved, ..peer })
        };
        let mut peers = Peers::default();
        assert_eq!(peers.bus_version(), BUS_VERSION);
        peers.update(vec![of("newer", BUS_VERSION + 1, 0)]);
        assert_eq!(peers.bus_version(), BUS_VERSION);
        peers.update(vec![of("newer", BUS_VERSION + 1, 0), of("older", BUS_VERSION - 1, 0)]);
        assert_eq!(peers.bus_version(), BUS_VERSION - 1);
        let mut peers = Peers::default();
        peers.update(vec![of("older", BUS_VERSION - 1, UNMOVED_LIMIT)]);
        assert_eq!(peers.bus_version(), BUS_VERSION, "it is silent");
    }

    #[test]
    fn a_node_is_silent_when_its_beat_did_not_move_over_three_of_ours() {
        let mut peers = Peers::default();
        let joined = Change::Joined { name: "node b".to_owned(), version: "1.0".to_owned() };
        assert_eq!(peers.update(vec![row("b", 10)]), [joined]);
        assert_eq!(peers.update(vec![row("b", 12)]), []);
        assert_eq!(peers.update(vec![row("b", 12)]), []);
        assert_eq!(peers.update(vec![row("b", 12)]), []);
        assert_eq!(peers.update(vec![row("b", 12)]), [Change::Silent("node b".to_owned())]);
        assert_eq!(peers.update(vec![row("b", 12)]), []);
        assert_eq!(peers.update(vec![row("b", 13)]), [Change::Back("node b".to_owned())]);
        assert_eq!(peers.update(vec![]), [Change::Left("node b".to_owned())]);
    }

    /// The row that an earlier run of this node has left behind, for example.
    #[test]
    fn a_node_that_was_silent_before_is_not_reported() {
        let mut peers = Peers::default();
        let (incarnation, peer) = row("b", 10);
        let silent = (incarnation, Peer { unmoved: UNMOVED_LIMIT, ..peer });
        assert_eq!(peers.update(vec![silent.clone()]), []);
        assert_eq!(peers.update(vec![silent]), []);
        assert_eq!(peers.update(vec![row("b", 11)]), [Change::Back("node b".to_owned())]);
    }

    #[test]
    fn a_silent_node_is_reported_once() {
        let mut peers = Peers::default();
        peers.update(vec![row("b", 10)]);
        let changes: Vec<_> = (0..9).flat_map(|_| peers.update(vec![row("b", 10)])).collect();
        assert_eq!(changes, [Change::Silent("node b".to_owned())]);
        assert_eq!(peers.update(vec![]), []);
    }
}
