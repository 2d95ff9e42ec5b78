//! Proves that a failover of PostgreSQL loses nothing, and that the server goes on by itself afterwards. There is a
//! real primary with a real synchronous standby; the server knows one address, which leads to the primary.

use crate::databases::skip_without_own_postgres;
use crate::load::{Load, assert_in_order_of_each_sender};
use crate::proxy::Proxy;
use crate::server::{Setup, assert_contains, until};
use crate::two_nodes::alone;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use std::process::Command;
use std::time::Instant;
use uproar_store::testing::TestPostgres;

/// How the primary ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Its process is killed, and its connections are broken off.
    Crash,
    /// It is shut down in an orderly way.
    Shutdown,
    /// Its host vanishes: nobody is told.
    Silence,
}

/// A primary, its synchronous standby, and the address that leads to the primary.
pub struct Pair {
    primary: TestPostgres,
    standby: TestPostgres,
    pub proxy: Proxy,
    database: String,
}

impl Pair {
    /// Starts both. None: the tests use a server that they may not stop.
    pub async fn start() -> Option<Pair> {
        if skip_without_own_postgres() {
            return None;
        }
        let primary = TestPostgres::start_primary().await.unwrap_or_else(|error| panic!("{error}"))?;
        let url = primary.create_database().await.unwrap();
        let (_, database) = url.rsplit_once('/').expect("a URL with a database");
        let standby = primary.start_standby().await.unwrap_or_else(|error| panic!("{error}"));
        let proxy = Proxy::start(primary.port().unwrap()).await;
        let pair = Pair { primary, standby, proxy, database: database.to_owned() };
        pair.make_synchronous().await;
        Some(pair)
    }

    /// The address of whichever server is the primary.
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{}", self.proxy.port, self.database)
    }

    pub fn database(&self) -> &str {
        &self.database
    }

    /// A connection to the primary that does not depend on the proxy.
    pub async fn shell(&self) -> PgConnection {
        let url = self.primary.url(&self.database);
        PgConnection::connect(&url).await.unwrap_or_else(|error| panic!("{url}: {error}"))
    }

    /// Runs statements on the primary.
    pub async fn run(&self, sql: &str) {
        let mut shell = self.shell().await;
        for sql in sql.split(';') {
            let done = shell.execute(AssertSqlSafe(sql.to_owned())).await;
            done.unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
    }

    /// From now on a commit is acknowledged when the standby has it.
    async fn make_synchronous(&self) {
        self.run("ALTER SYSTEM SET synchronous_standby_names = '*'; SELECT pg_reload_conf()").await;
        let mut shell = self.shell().await;
        until("the standby is synchronous and up to date", async || {
            let sql = "SELECT count(*) FROM pg_stat_replication
                WHERE sync_state = 'sync' AND state = 'streaming' AND flush_lsn >= pg_current_wal_lsn()";
            sqlx::query_scalar::<_, i64>(sql).fetch_one(&mut shell).await.unwrap() == 1
        })
        .await;
    }

    /// Ends the primary and lets the standby take over. Returns when new connections lead to it.
    pub async fn fail_over(&mut self, end: End) {
        match end {
            End::Crash => self.primary.kill().unwrap(),
            End::Shutdown => self.primary.stop().unwrap(),
            End::Silence => {
                self.proxy.black_out();
                self.primary.kill().unwrap();
            }
        }
        let url = self.standby.url("postgres");
        let mut shell = PgConnection::connect(&url).await.unwrap_or_else(|error| panic!("{url}: {error}"));
        let promoted: bool = sqlx::query_scalar("SELECT pg_promote()").fetch_one(&mut shell).await.unwrap();
        assert!(promoted, "the standby is not promoted");
        std::mem::swap(&mut self.primary, &mut self.standby);
        if end == End::Silence {
            // Of the old connections nobody hears again.
            self.proxy.turn_to(self.primary.port());
        } else {
            self.proxy.lead_to(self.primary.port());
        }
    }

    /// Brings the former primary back as the standby.
    pub async fn rejoin(&mut self) {
        self.standby.follow(&self.primary).await.unwrap_or_else(|error| panic!("{error}"));
        self.make_synchronous().await;
    }

    /// Ends the replication for good, so that the standby falls behind.
    pub async fn cut_replication(&self) {
        let mut standby = PgConnection::connect(&self.standby.url("postgres")).await.unwrap();
        for sql in ["ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()"] {
            standby.execute(sql).await.unwrap();
        }
        let mut shell = self.shell().await;
        until("the standby is cut off", async || {
            let sql = "SELECT count(*) FROM pg_stat_replication";
            sqlx::query_scalar::<_, i64>(sql).fetch_one(&mut shell).await.unwrap() == 0
        })
        .await;
    }

    /// Kills the primary and starts it again.
    pub async fn crash(&mut self) {
        self.primary.kill().unwrap();
        self.primary.restart().await.unwrap();
    }
}

#[tokio::test]
async fn a_failover_loses_nothing_and_the_server_goes_on() {
    alone!("a cluster starts over after a failover");
    let Some(mut pair) = Pair::start().await else { return };
    let options = ["--limit", "publish_rate_per_second=0"];
    let mut server = Setup::with_database(Some(pair.url()), &options).start().await;
    let mut load = Load::start(&server, 4, 2, 2).await;
    for end in [End::Crash, End::Silence, End::Shutdown] {
        load.wait_for_acks(100).await;
        pair.fail_over(end).await;
        let reachable = Instant::now();
        load.wait_for_acks(1).await;
        println!("{end:?}: stored again after {} ms", reachable.elapsed().as_millis());
        load.wait_for_acks(100).await;
        assert_eq!(server.try_exit(), None, "the server has ended: {}", server.setup.log());
        pair.rejoin().await;
    }
    // The clients have resumed from where they were: the load has compared their epochs.
    assert_in_order_of_each_sender(&load.finish(&server).await);
    // Nothing was lost, so nobody has to start over after a restart either.
    let epoch = epoch(&pair).await;
    server.stop().await;
    let server = server.restart().await;
    until("the server is ready", async || server.get("/readyz", "").await.status == 200).await;
    assert_eq!(self::epoch(&pair).await, epoch);
}

/// The database's part of each room's epoch.
async fn epoch(pair: &Pair) -> String {
    let sql = "SELECT value FROM meta WHERE name = 'generation'";
    sqlx::query_scalar(sql).fetch_one(&mut pair.shell().await).await.unwrap()
}

/// The standby was not synchronous and lacks the last commits. What the server has told its clients is then wrong, so
/// it ends, and after the next start clients start over.
#[tokio::test]
async fn a_failover_that_lost_commits_ends_the_server() {
    alone!("a cluster starts over after a failover");
    let Some(mut pair) = Pair::start().await else { return };
    let mut server = Setup::with_database(Some(pair.url()), &[]).start().await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let mut ws = server.join(&ann, "room=r").await;
    assert_eq!(ws.round_trip("kept").await.0, 1);
    let epoch = ws.epoch();
    pair.run("ALTER SYSTEM SET synchronous_standby_names = ''; SELECT pg_reload_conf()").await;
    pair.cut_replication().await;
    assert_eq!(ws.round_trip("lost").await.0, 2);
    pair.fail_over(End::Crash).await;
    let status = server.exit().await;
    assert_eq!(status.code(), Some(1));
    let log = server.setup.log();
    let line = log.lines().find(|line| line.starts_with("uproar: ")).expect("an error").to_owned();
    assert_contains(&line, &["lacks what this server has committed", "start this one again"]);
    let server = server.restart().await;
    let ws = server.join(&ann, &format!("room=r&since=2&epoch={epoch}")).await;
    assert_eq!(ws.joined["recovered"], false, "{}", ws.joined);
    assert_ne!(ws.epoch(), epoch);
}

/// All connections to the database fall silent at once, as when a firewall forgets them. New ones work.
#[tokio::test]
async fn silent_connections_to_the_database_are_given_up_within_seconds() {
    alone!("each node notices the silence by itself");
    let Some(pair) = Pair::start().await else { return };
    // Longer than the guard takes to notice, and shorter than the time limit of a call.
    let options = ["--limit", "append_deadline_ms=8000", "--limit", "store_timeout_ms=30000"];
    let server = Setup::with_database(Some(pair.url()), &options).start().await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let mut ws = server.join(&ann, "room=r").await;
    assert_eq!(ws.round_trip("before").await.0, 1);
    // Several sessions are open, and some of them will be used while they are silent.
    for _ in 0..2 {
        let requests = (0..12).map(|_| server.get("/rooms", &ann.token));
        for answer in futures_util::future::join_all(requests).await {
            answer.expect(200);
        }
        pair.proxy.silence();
        // An error 100 would be an answer at the deadline.
        ws.send("after").await;
        let mut event = ws.event().await;
        if event["type"] == "ack" {
            // It had been committed before the silence, and the second attempt found it stored.
            event = ws.event().await;
        }
        assert_eq!((&event["type"], &event["text"]), (&"message".into(), &"after".into()), "{event}");
        let offset = crate::server::number(&event["offset"]);
        let by_http = serde_json::json!({"text": "by HTTP"});
        let stored = server.post("/rooms/r/messages", &ann.token, by_http).await.expect(201);
        assert_eq!(crate::server::number(&stored["offset"]), offset + 1);
        assert_eq!(ws.message().await.0, offset + 1);
        for _ in 0..12 {
            server.get("/rooms", &ann.token).await.expect(200);
        }
    }
}

/// A network namespace with its own address: a host that can vanish without a word.
struct Host {
    name: String,
}

impl Host {
    const NEAR: &str = "10.213.97.1";

    /// None: namespaces can't be made here.
    fn start() -> Option<Host> {
        let name = format!("uproar-{}", std::process::id());
        let host = Host { name: name.clone() };
        let (near, far) = (host.near(), format!("upf{}", std::process::id()));
        for command in [
            format!("ip netns add {name}"),
            format!("ip link add {near} type veth peer name {far} netns {name}"),
            format!("ip addr add {}/30 dev {near}", Host::NEAR),
            format!("ip link set {near} up"),
            format!("ip -n {name} addr add 10.213.97.2/30 dev {far}"),
            format!("ip -n {name} link set {far} up"),
            format!("ip -n {name} link set lo up"),
        ] {
            let words: Vec<&str> = command.split(' ').collect();
            match Command::new(words[0]).args(&words[1..]).output() {
                Ok(output) if output.status.success() => {}
                other => {
                    eprintln!("skipped: no network namespace can be made here: {command}: {other:?}");
                    return None;
                }
            }
        }
        Some(host)
    }

    fn near(&self) -> String {
        format!("upn{}", std::process::id())
    }

    fn vanish(&self) {
        let down = Command::new("ip").args(["link", "set", &self.near(), "down"]).status();
        assert!(down.is_ok_and(|status| status.success()), "the link can't be cut");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "del", &self.near()]).output();
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

#[tokio::test]
async fn the_lock_of_a_host_that_vanished_is_free_within_seconds() {
    alone!("nodes share the lock");
    if skip_without_own_postgres() {
        return;
    }
    let Some(host) = Host::start() else { return };
    let Some(postgres) = TestPostgres::start_for_network().await.unwrap() else { return };
    let url = postgres.create_database().await.unwrap();
    let (_, database) = url.rsplit_once('/').unwrap();
    let far_url = format!("postgres://postgres@{}:{}/{database}", Host::NEAR, postgres.port().unwrap());
    let mut setup = Setup::with_database(Some(far_url), &[]);
    setup.wrapper = ["ip", "netns", "exec", &host.name].map(str::to_owned).into();
    let mut lost = setup.start().await;
    host.vanish();
    // A successor on another host. It waits for the lock, and PostgreSQL notices that nobody is there any more.
    let successor = Setup::with_database(Some(url), &[]).start().await;
    until("the server is ready", async || successor.get("/readyz", "").await.status == 200).await;
    lost.kill().await;
}
