//! Proves that a failing database costs no acknowledged message and no connection: clients get temporary errors, and
//! everything continues by itself when the fault is over.

use crate::client::{Received, User, Ws};
use crate::databases::{Kind, new_postgres_database, private_postgres};
use crate::server::{Server, Setup, assert_contains, number, run, text, until};
use crate::two_nodes::alone;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Row};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use uproar_store::testing::TestPostgres;

/// With short deadlines, senders learn soon that an outcome is unknown, and the server soon retries.
const OPTIONS: [&str; 6] =
    ["--limit", "append_deadline_ms=400", "--limit", "store_timeout_ms=500", "--limit", "publish_rate_per_second=0"];

// ── two users in a room ─────────────────────────────────────────────────────────────────────────────────────────────

/// A connection to the room, with the ids of the messages from offset 1 on that it has received.
struct Seat {
    ws: Ws,
    seen: Vec<String>,
}

impl Seat {
    /// Records a message. Returns the code and the id of an error.
    fn record(&mut self, event: &Value) -> Option<(u64, String)> {
        if event["type"] == "error" {
            return Some((number(&event["code"]), text(&event["id"])));
        }
        assert_eq!(event["type"], "message", "{event}");
        assert_eq!(number(&event["offset"]), self.seen.len() as u64 + 1, "a gap or a duplicate: {event}");
        self.seen.push(text(&event["id"]));
        None
    }

    /// Reads until it has received this message. Returns its offset.
    async fn read_until(&mut self, id: &str) -> u64 {
        loop {
            if let Some(index) = self.seen.iter().position(|seen| seen == id) {
                return index as u64 + 1;
            }
            let event = self.ws.event().await;
            if let Some(error) = self.record(&event) {
                panic!("received {error:?} instead of {id}");
            }
        }
    }

    /// Reads until it is told that this message is stored already.
    async fn read_until_ack(&mut self, id: &str) {
        loop {
            let event = self.ws.event().await;
            if event["type"] == "ack" {
                return assert_eq!(text(&event["id"]), id);
            }
            assert_eq!(self.record(&event), None);
        }
    }

    /// Reads until error 100 for this message: its outcome is unknown.
    async fn read_until_unknown(&mut self, id: &str) {
        loop {
            let event = self.ws.event().await;
            if let Some(error) = self.record(&event) {
                assert_eq!(error, (100, id.to_owned()));
                return;
            }
        }
    }
}

/// Ann, who writes, and Bob, who reads, in a room and in a live channel. No fault may close their connections.
struct Scene {
    ann: User,
    bob: User,
    seats: [Seat; 2],
    live: [Ws; 2],
    epoch: String,
    /// The offset of each acknowledged message.
    acknowledged: HashMap<String, u64>,
    /// Messages with an unknown outcome, in the order sent.
    unknown: Vec<String>,
    id_count: usize,
}

impl Scene {
    async fn start(server: &Server) -> Scene {
        let (ann, bob) = (server.sign_up("ann").await, server.sign_up("bob").await);
        server.create_room(&ann, "r").await;
        let seat = async |user| Seat { ws: server.join(user, "room=r&format=json").await, seen: Vec::new() };
        let seats = [seat(&ann).await, seat(&bob).await];
        let live = [server.join(&ann, "room=live:x").await, server.join(&bob, "room=live:x").await];
        let epoch = seats[0].ws.epoch();
        let (acknowledged, unknown) = (HashMap::new(), Vec::new());
        let mut scene = Scene { ann, bob, seats, live, epoch, acknowledged, unknown, id_count: 0 };
        for _ in 0..3 {
            scene.exchange(server).await;
        }
        scene
    }

    fn new_id(&mut self) -> String {
        self.id_count += 1;
        format!("m{}", self.id_count)
    }

    async fn send(&mut self, id: &str) {
        self.seats[0].ws.send(message(id).to_string()).await;
    }

    /// Sends one message by WebSocket and one by HTTP. Both are acknowledged, and Ann and Bob receive them.
    async fn exchange(&mut self, server: &Server) {
        let id = self.new_id();
        self.send(&id).await;
        let offset = self.seats[0].read_until(&id).await;
        self.acknowledged.insert(id, offset);
        let id = self.new_id();
        let stored = server.post("/rooms/r/messages", &self.ann.token, message(&id)).await.expect(201);
        for seat in &mut self.seats {
            assert_eq!(seat.read_until(&id).await, number(&stored["offset"]));
        }
        self.acknowledged.insert(id, number(&stored["offset"]));
    }

    /// Checks that the live channel works, since it needs no database.
    async fn expect_live(&mut self) {
        let id = self.new_id();
        self.live[0].send(id.clone()).await;
        for ws in &mut self.live {
            assert_eq!(ws.event().await["data"], id.as_str());
        }
    }

    /// Checks the answers while nothing can be committed: the outcome is unknown, or over HTTP the service may also be
    /// unavailable. The process is healthy but not ready, and the live channel works.
    async fn expect_outage(&mut self, server: &Server) {
        let id = self.new_id();
        self.send(&id).await;
        self.seats[0].read_until_unknown(&id).await;
        self.unknown.push(id);
        let id = self.new_id();
        let (status, code) = server.post("/rooms/r/messages", &self.ann.token, message(&id)).await.error();
        assert!(status == 503 && (code == "not_known" || code == "unavailable"), "{status} {code}");
        self.unknown.push(id);
        until("the server is not ready", async || server.get("/readyz", "").await.status == 503).await;
        assert_eq!(server.get("/healthz", "").await.status, 200);
        self.expect_live().await;
    }

    /// Checks the recovery after a fault: messages with an unknown outcome are sent again until they are stored, the
    /// connections still work, and no message is missing or stored twice.
    async fn expect_recovery(&mut self, server: &Server) {
        self.resend_unknown(server).await;
        self.exchange(server).await;
        self.expect_live().await;
        until("the server is ready", async || server.get("/readyz", "").await.status == 200).await;
        self.compare(server).await;
    }

    async fn resend_unknown(&mut self, server: &Server) {
        let unknown = std::mem::take(&mut self.unknown);
        for id in &unknown {
            until("the message is stored", async || {
                let answer = server.post("/rooms/r/messages", &self.ann.token, message(id)).await;
                if answer.status == 503 {
                    return false;
                }
                self.acknowledged.insert(id.clone(), number(&answer.expect(201)["offset"]));
                true
            })
            .await;
        }
        // A connection goes on when the first message that failed on it is sent again.
        if let Some(first) = unknown.first() {
            self.send(first).await;
            self.seats[0].read_until_ack(first).await;
        }
    }

    /// Checks that both have received what is stored, and that each acknowledged message has its offset.
    async fn compare(&mut self, server: &Server) {
        let stored: Vec<String> = server.history(&self.bob, "r").await.iter().map(|m| text(&m["id"])).collect();
        for seat in &mut self.seats {
            seat.read_until(stored.last().expect("a stored message")).await;
            assert_eq!(seat.seen, stored);
        }
        for (id, offset) in &self.acknowledged {
            assert_eq!(stored.get(*offset as usize - 1), Some(id), "{id} was acknowledged at {offset}");
        }
    }

    /// Connects both users to a restarted server, from their positions. They must miss nothing.
    async fn reconnect(&mut self, server: &Server) {
        for (seat, user) in self.seats.iter_mut().zip([&self.ann, &self.bob]) {
            let query = format!("room=r&format=json&since={}&epoch={}", seat.seen.len(), self.epoch);
            seat.ws = server.join(user, &query).await;
            assert_eq!(seat.ws.joined["recovered"], true, "{}", seat.ws.joined);
            assert_eq!(seat.ws.epoch(), self.epoch);
        }
        self.live = [server.join(&self.ann, "room=live:x").await, server.join(&self.bob, "room=live:x").await];
        self.expect_recovery(server).await;
    }
}

fn message(id: &str) -> Value {
    json!({"text": format!("this is {id}"), "id": id})
}

/// Checks that the server exits by itself, with status 1 and one line of error.
async fn expect_exit(server: &mut Server, words: &[&str]) {
    let status = server.exit().await;
    let log = server.setup.log();
    assert_eq!(status.code(), Some(1), "{log}");
    let lines: Vec<&str> = log.lines().filter(|line| line.starts_with("uproar: ")).collect();
    assert_eq!(lines.len(), 1, "{log}");
    assert_eq!(log.lines().last(), Some(lines[0]), "the error is not the last line");
    assert_contains(lines[0], words);
}

/// Checks that a server fails to start, with status 1 and one line of error.
async fn expect_start_failure(setup: &Setup, words: &[&str]) {
    let (code, line) = setup.fail_to_start().await;
    assert_eq!(code, Some(1), "{line}");
    assert_contains(&line, words);
}

// ── PostgreSQL ──────────────────────────────────────────────────────────────────────────────────────────────────────

async fn connect(url: &str) -> PgConnection {
    PgConnection::connect(url).await.unwrap_or_else(|error| panic!("{url}: {error}"))
}

async fn execute(connection: &mut PgConnection, sql: impl Into<String>) {
    let sql = sql.into();
    connection.execute(AssertSqlSafe(sql.clone())).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// The URL of the database `postgres` on the same server, and the name of this one.
fn admin_url_and_name(url: &str) -> (String, String) {
    let (server, name) = url.rsplit_once('/').expect("a URL with a database");
    (format!("{server}/postgres"), name.to_owned())
}

/// The session that holds the guard of a database, and the key of its lock.
async fn guard(connection: &mut PgConnection, database: &str) -> Option<(i32, i64)> {
    let sql = "SELECT l.pid, (CAST(CAST(l.classid AS bigint) AS bigint) << 32) | CAST(l.objid AS bigint)
        FROM pg_locks l JOIN pg_database d ON d.oid = l.database
        WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted AND d.datname = $1";
    let row = sqlx::query(sql).bind(database).fetch_optional(connection).await.unwrap();
    row.map(|row| (row.get(0), row.get(1)))
}

async fn terminate(connection: &mut PgConnection, session: i32) {
    execute(connection, format!("SELECT pg_terminate_backend({session})")).await;
}

/// The session of the guard is terminated, and for a while it cannot be opened again.
#[tokio::test]
async fn a_lost_guard_stops_commits_until_it_is_held_again() {
    alone!("nodes share the guard");
    let url = new_postgres_database().await;
    let (other, name) = admin_url_and_name(&url);
    let server = Setup::with_database(Some(url), &OPTIONS).start().await;
    let mut scene = Scene::start(&server).await;
    let mut admin = connect(&other).await;
    for _ in 0..2 {
        let (session, _) = guard(&mut admin, &name).await.expect("a guard");
        execute(&mut admin, format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false")).await;
        let lost = || server.setup.log().matches("lost the guard connection").count();
        let before = lost();
        terminate(&mut admin, session).await;
        until("the loss is noticed", async || lost() > before).await;
        // The connections of the lanes still work.
        let head = scene.seats[0].seen.len();
        scene.expect_outage(&server).await;
        assert_eq!(server.history(&scene.bob, "r").await.len(), head, "a message was committed without the guard");
        execute(&mut admin, format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true")).await;
        scene.expect_recovery(&server).await;
        assert!(
            guard(&mut admin, &name).await.is_some_and(|(again, _)| again != session),
            "the guard is not held again"
        );
    }
}

/// Takes the guard of a running server over. This connection holds its lock from then on.
async fn take_over(connection: &mut PgConnection, database: &str) {
    until("the guard is taken over", async || {
        let Some((session, key)) = guard(connection, database).await else { return false };
        // In one query, before the server can react.
        let sql = format!("SELECT pg_terminate_backend({session}, 5000); SELECT pg_try_advisory_lock({key})");
        connection.execute(AssertSqlSafe(sql)).await.unwrap();
        let ours: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut *connection).await.unwrap();
        guard(connection, database).await.is_some_and(|(session, _)| session == ours)
    })
    .await;
}

#[tokio::test]
async fn a_guard_taken_by_another_process_ends_the_server() {
    alone!("nodes share the guard");
    let url = new_postgres_database().await;
    let (_, name) = admin_url_and_name(&url);
    let mut server = Setup::with_database(Some(url.clone()), &OPTIONS).start().await;
    let mut scene = Scene::start(&server).await;
    let mut another = connect(&url).await;
    take_over(&mut another, &name).await;
    // Messages are sent meanwhile. One that is not acknowledged has an unknown outcome.
    let mut pending = scene.new_id();
    loop {
        if scene.seats[0].ws.try_send(message(&pending).to_string()).await.is_err() {
            break;
        }
        scene.unknown.push(pending.clone());
        match scene.seats[0].ws.next().await {
            Received::Text(event) => {
                let event: Value = serde_json::from_str(&event).unwrap();
                if scene.seats[0].record(&event).is_none() {
                    scene.unknown.pop();
                    scene.acknowledged.insert(pending, number(&event["offset"]));
                }
            }
            Received::Closed(..) | Received::Aborted => break,
            other @ Received::Binary(_) => panic!("{other:?}"),
        }
        pending = scene.new_id();
    }
    expect_exit(&mut server, &["another uproar has taken over the database", "connected from 127.0.0.1"]).await;
    // It cannot start while the other process holds the guard.
    expect_start_failure(&server.setup, &["another uproar", &name]).await;
    another.close().await.unwrap();
    let server = server.restart().await;
    scene.reconnect(&server).await;
}

/// An idle server notices it too.
#[tokio::test]
async fn a_guard_taken_by_another_process_ends_an_idle_server() {
    alone!("nodes share the guard");
    let url = new_postgres_database().await;
    let (_, name) = admin_url_and_name(&url);
    let mut server = Setup::with_database(Some(url.clone()), &[]).start().await;
    let mut another = connect(&url).await;
    take_over(&mut another, &name).await;
    expect_exit(&mut server, &["another uproar has taken over the database", "connected from 127.0.0.1"]).await;
}

/// Starts a PostgreSQL server with few connections for ordinary users. Returns it, a connection as the superuser, and
/// the URL of a new database for its owner.
async fn few_connections() -> Option<(TestPostgres, PgConnection, String)> {
    let mut postgres = private_postgres().await?;
    let database = postgres.create_database().await.unwrap();
    let (other, name) = admin_url_and_name(&database);
    let mut admin = connect(&other).await;
    execute(&mut admin, "ALTER SYSTEM SET superuser_reserved_connections = 275").await;
    execute(&mut admin, format!("CREATE ROLE chat LOGIN; ALTER DATABASE {name} OWNER TO chat")).await;
    admin.close().await.unwrap();
    postgres.restart().await.unwrap();
    let admin = connect(&other).await;
    let (_, address) = database.split_once('@').unwrap();
    let url = format!("postgres://chat@{address}");
    Some((postgres, admin, url))
}

/// Opens connections until no user can open another.
async fn take_all(url: &str) -> Vec<PgConnection> {
    let mut taken = Vec::new();
    loop {
        match PgConnection::connect(url).await {
            Ok(connection) => taken.push(connection),
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("53300") => return taken,
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn postgres_without_free_connections_is_survived() {
    alone!("without its database a node answers nobody");
    let Some((_postgres, mut admin, url)) = few_connections().await else { return };
    let (other, name) = admin_url_and_name(&url);
    let server = Setup::with_database(Some(url), &OPTIONS).start().await;
    let mut scene = Scene::start(&server).await;
    for guard_too in [false, true] {
        // The connections of the server are terminated. When it may open others, none are left.
        execute(&mut admin, format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false")).await;
        let (session, _) = guard(&mut admin, &name).await.expect("a guard");
        let kept_session = if guard_too { 0 } else { session };
        until("the connections are gone", async || {
            let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = $1 AND pid <> $2";
            sqlx::query_scalar::<_, i64>(sql).bind(&name).bind(kept_session).fetch_one(&mut admin).await.unwrap() == 0
        })
        .await;
        let taken = take_all(&other).await;
        execute(&mut admin, format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true")).await;
        scene.expect_outage(&server).await;
        for mut connection in taken {
            // A freed connection goes to the server.
            connection.execute("SELECT 1").await.unwrap();
            connection.close().await.unwrap();
        }
        scene.expect_recovery(&server).await;
    }
}

#[tokio::test]
async fn a_server_waits_for_free_postgres_connections() {
    let Some((_postgres, _admin, url)) = few_connections().await else { return };
    let (other, name) = admin_url_and_name(&url);
    let setup = Setup::with_database(Some(url), &OPTIONS);
    let mut taken = take_all(&other).await;
    let launched = setup.launch();
    launched.logs(&["the start waits", &name, "no free connection"]).await;
    // One connection is enough for the guard, but not for the rest.
    taken.pop().expect("a taken connection").close().await.unwrap();
    drop(taken);
    let server = launched.listens().await;
    Scene::start(&server).await.expect_recovery(&server).await;
}

#[tokio::test]
async fn a_postgres_slower_than_the_deadline_is_survived() {
    alone!("the lanes of one process are compared");
    let server = Server::start(Kind::Postgres, &OPTIONS).await;
    let mut scene = Scene::start(&server).await;
    // The next room belongs to another lane.
    server.create_room(&scene.ann, "other").await;
    let mut other = server.join(&scene.bob, "room=other").await;
    let mut backdoor = server.setup.backdoor().await;
    for _ in 0..2 {
        backdoor
            .execute("BEGIN; SELECT 1 FROM heads WHERE room_id = (SELECT id FROM rooms WHERE name = 'r') FOR UPDATE")
            .await;
        // It is alone in its batch, which the lane retries until it is stored.
        let stored_late = scene.new_id();
        scene.send(&stored_late).await;
        scene.seats[0].read_until_unknown(&stored_late).await;
        scene.expect_outage(&server).await;
        // The server is not ready although another lane works.
        for _ in 0..5 {
            let text = scene.new_id();
            assert_eq!(other.round_trip(&text).await.1, text);
            assert_eq!(server.get("/readyz", "").await.status, 503);
        }
        backdoor.release_commits().await;
        // The message arrives without a retry by its sender.
        for seat in &mut scene.seats {
            seat.read_until(&stored_late).await;
        }
        scene.unknown.insert(0, stored_late);
        scene.expect_recovery(&server).await;
    }
}

#[tokio::test]
async fn a_restored_postgres_database_gets_a_new_epoch() {
    let url = new_postgres_database().await;
    let (other, name) = admin_url_and_name(&url);
    let mut server = Setup::with_database(Some(url.clone()), &[]).start().await;
    let scene = Scene::start(&server).await;
    server.stop().await;
    let mut admin = connect(&other).await;
    execute(&mut admin, format!("CREATE DATABASE {name}_copy TEMPLATE {name}")).await;
    let mut server = server.restart().await;
    let (lost, head) = send_another_and_stop(&mut server, &scene).await;
    execute(&mut admin, format!("DROP DATABASE {name}")).await;
    execute(&mut admin, format!("CREATE DATABASE {name} TEMPLATE {name}_copy")).await;
    let data = server.setup.data();
    let output = run(&["restored", "--database", &url, "--data", data.to_str().unwrap()]).await;
    assert!(output.status.success(), "{output:?}");
    let server = server.restart().await;
    expect_new_epoch(&server, &scene, &lost, head).await;
}

// ── SQLite ──────────────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn a_restored_sqlite_file_gets_a_new_epoch() {
    let mut server = Server::start(Kind::Sqlite, &[]).await;
    let scene = Scene::start(&server).await;
    server.stop().await;
    let file = server.setup.sqlite_file();
    let copy = file.with_extension("copy");
    fs::copy(&file, &copy).unwrap();
    let mut server = server.restart().await;
    let (lost, head) = send_another_and_stop(&mut server, &scene).await;
    fs::rename(&copy, &file).unwrap();
    let server = server.restart().await;
    expect_new_epoch(&server, &scene, &lost, head).await;
}

/// Sends a message after the copy was made, and stops the server. Returns its text and the last offset.
async fn send_another_and_stop(server: &mut Server, scene: &Scene) -> (String, u64) {
    let query = format!("room=r&format=json&since={}&epoch={}", scene.seats[0].seen.len(), scene.epoch);
    let mut ws = server.join(&scene.ann, &query).await;
    assert_eq!(ws.joined["recovered"], true, "a restart alone changed the history");
    let lost = message("lost");
    ws.send(lost.to_string()).await;
    let (head, text) = ws.message().await;
    server.stop().await;
    (text, head)
}

async fn expect_new_epoch(server: &Server, scene: &Scene, lost: &str, head: u64) {
    // Ids may have been assigned again, so tokens from before are no longer valid. Minted ones name no id.
    let path = format!("room=r&since=1&epoch={}", scene.epoch);
    assert_eq!(server.reject_join(&scene.bob, &path).await.0, 401);
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    let before = scene.seats[0].seen.len() as u64;
    assert_eq!(head, before + 1);
    // Also from positions that exist again.
    for since in [head, before, 1] {
        let query = format!("room=r&format=json&since={since}&epoch={}", scene.epoch);
        let ws = server.join(&bob, &query).await;
        assert_eq!((&ws.joined["recovered"], ws.offset()), (&json!(false), before), "{}", ws.joined);
        assert_ne!(ws.epoch(), scene.epoch);
    }
    // The lost offset now belongs to another message, and the lost id can be used again.
    let mut ws = server.join(&bob, "room=r").await;
    assert_eq!(ws.round_trip("after the restore").await, (head, "after the restore".into()));
    let again = server.post("/rooms/r/messages", &ann.token, message("lost")).await.expect(201);
    assert_eq!(number(&again["offset"]), head + 1);
    assert_eq!(ws.message().await, (head + 1, lost.to_owned()));
    // The epoch changes only once.
    let query = format!("room=r&since={head}&epoch={}", ws.epoch());
    assert_eq!(server.join(&bob, &query).await.joined["recovered"], true);
}

/// A separate file system for a data folder, in a separate mount namespace.
struct Disk {
    /// The process that keeps the namespace.
    keeper: Child,
    /// The path of the data folder for this process.
    folder: PathBuf,
    /// The path of the data folder for the server.
    data: PathBuf,
    wrapper: Vec<String>,
}

impl Disk {
    /// Mounts the file system. None: this is not permitted here.
    async fn for_data_of(setup: &mut Setup, size: &str) -> Option<Disk> {
        let is_root = rustix::process::geteuid().is_root();
        let unshare: &[&str] = if is_root { &["--mount"] } else { &["--map-root-user", "--mount"] };
        let script = r#"mkdir -p "$1" && mount -t tmpfs -o "size=$2,mode=0700" tmpfs "$1" && echo mounted && exec cat"#;
        let data = setup.data();
        // It ends when this process ends, since its input does.
        let mut command = Command::new("unshare");
        command.args(unshare).args(["sh", "-c", script, "sh"]).arg(&data).arg(size);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut keeper = match command.spawn() {
            Ok(keeper) => keeper,
            Err(error) => {
                eprintln!("skipped: no file system can be mounted here: unshare: {error}");
                return None;
            }
        };
        let line = BufReader::new(keeper.stdout.take().unwrap()).lines().next_line().await;
        if !matches!(line, Ok(Some(_))) {
            let output = keeper.wait_with_output().await.unwrap();
            let why = String::from_utf8_lossy(&output.stderr).trim().replace('\n', ", ");
            eprintln!("skipped: no file system can be mounted here: {why}");
            return None;
        }
        let id = keeper.id().expect("a running process").to_string();
        let enter: &[&str] = if is_root { &["--mount"] } else { &["--user", "--preserve-credentials", "--mount"] };
        let mut wrapper = vec!["nsenter".to_owned(), "--target".to_owned(), id.clone()];
        wrapper.extend(enter.iter().map(ToString::to_string));
        wrapper.push("--".to_owned());
        setup.wrapper = wrapper.clone();
        let folder = PathBuf::from(format!("/proc/{id}/root")).join(data.strip_prefix("/").unwrap());
        Some(Disk { keeper, folder, data, wrapper })
    }

    fn ballast(&self) -> PathBuf {
        self.folder.join("ballast")
    }

    /// Fills the disk to the last page.
    fn fill(&self) {
        let mut file = File::options().create(true).append(true).open(self.ballast()).unwrap();
        let error = loop {
            if let Err(error) = file.write_all(&[0; 4096]) {
                break error;
            }
        };
        assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
    }

    fn free(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }

    async fn remount(&self, how: &str) {
        let mut command = Command::new(&self.wrapper[0]);
        command.args(&self.wrapper[1..]).args(["mount", "-o", &format!("remount,bind,{how}")]).arg(&self.data);
        let output = command.output().await.unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = self.keeper.start_kill();
    }
}

#[tokio::test]
async fn a_full_disk_under_sqlite_is_survived() {
    let mut setup = Setup::new(Kind::Sqlite, &OPTIONS).await;
    let Some(disk) = Disk::for_data_of(&mut setup, "16m").await else { return };
    let server = setup.start().await;
    let mut scene = Scene::start(&server).await;
    for _ in 0..2 {
        disk.fill();
        scene.expect_outage(&server).await;
        // Stored messages can still be read.
        assert_eq!(server.history(&scene.bob, "r").await.len(), scene.seats[0].seen.len());
        disk.free();
        scene.expect_recovery(&server).await;
    }
}

/// However the server ends on a full disk, the next one has every message, and clients resume.
#[tokio::test]
async fn a_server_that_ends_on_a_full_disk_loses_nothing() {
    let mut setup = Setup::new(Kind::Sqlite, &OPTIONS).await;
    let Some(disk) = Disk::for_data_of(&mut setup, "16m").await else { return };
    let mut server = setup.start().await;
    let mut scene = Scene::start(&server).await;
    for (signal, is_busy) in [("KILL", true), ("TERM", true), ("TERM", false)] {
        disk.fill();
        if is_busy {
            scene.expect_outage(&server).await;
        }
        server.signal(signal).await;
        let status = server.exit().await;
        assert_eq!(status.success(), signal == "TERM", "{status} {signal}");
        // A server cannot start on it either.
        expect_start_failure(&server.setup, &[disk.data.to_str().unwrap(), "No space left"]).await;
        disk.free();
        server = server.restart().await;
        scene.reconnect(&server).await;
    }
}

#[tokio::test]
async fn a_server_does_not_start_on_a_read_only_disk() {
    let mut setup = Setup::new(Kind::Sqlite, &OPTIONS).await;
    let Some(disk) = Disk::for_data_of(&mut setup, "16m").await else { return };
    let mut server = setup.start().await;
    let mut scene = Scene::start(&server).await;
    server.stop().await;
    disk.remount("ro").await;
    expect_start_failure(&server.setup, &[disk.data.to_str().unwrap(), "ead-only"]).await;
    // Another data folder does not help if the database is on that disk.
    let url = format!("sqlite:{}", disk.data.join("uproar.db").display());
    let mut elsewhere = Setup::with_database(Some(url), &[]);
    elsewhere.wrapper = disk.wrapper.clone();
    expect_start_failure(&elsewhere, &[disk.data.to_str().unwrap(), "ead-only"]).await;
    disk.remount("rw").await;
    let server = server.restart().await;
    scene.reconnect(&server).await;
}

/// A limit on file sizes makes a write fail, as a broken disk does.
#[tokio::test]
async fn a_failed_write_of_a_commit_ends_the_server() {
    let server = Server::start(Kind::Sqlite, &OPTIONS).await;
    let pid = Pid::from_raw(server.id() as i32);
    let limit = |file: &Path| {
        let size = fs::metadata(file).unwrap().len();
        prlimit(pid, Resource::Fsize, Rlimit { current: Some(size), maximum: None }).unwrap();
    };
    expect_exit_when_writes_fail(server, limit, |_| ()).await;
}

/// The log of SQLite becomes read-only, as after a mistake of an administrator or an error of the file system.
#[tokio::test]
async fn a_log_made_read_only_ends_the_server() {
    let probe = tempfile::NamedTempFile::new().unwrap();
    let is_permitted = change_attributes("+i", probe.path());
    let is_effective = is_permitted && probe.as_file().write_at_start().is_err();
    change_attributes("-i", probe.path());
    if !is_effective {
        eprintln!("skipped: open files cannot be made read-only here (chattr +i)");
        return;
    }
    let server = Server::start(Kind::Sqlite, &OPTIONS).await;
    let protect = |file: &Path| assert!(change_attributes("+i", file));
    expect_exit_when_writes_fail(server, protect, |file| assert!(change_attributes("-i", file))).await;
}

trait WriteAtStart {
    fn write_at_start(&self) -> std::io::Result<()>;
}

impl WriteAtStart for File {
    fn write_at_start(&self) -> std::io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(self, b"x", 0)
    }
}

fn change_attributes(how: &str, file: &Path) -> bool {
    let mut command = std::process::Command::new("chattr");
    let status = command.arg(how).arg(file).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

async fn expect_exit_when_writes_fail(mut server: Server, break_log: impl Fn(&Path), mend_log: impl Fn(&Path)) {
    let mut scene = Scene::start(&server).await;
    let mut log = server.setup.sqlite_file().into_os_string();
    log.push("-wal");
    let log = PathBuf::from(log);
    break_log(&log);
    let id = scene.new_id();
    scene.send(&id).await;
    // No client receives anything that may turn out wrong.
    for seat in &mut scene.seats {
        match seat.ws.next().await {
            Received::Closed(..) | Received::Aborted => {}
            Received::Text(event) => {
                let event = serde_json::from_str(&event).unwrap();
                assert_eq!(seat.record(&event), Some((100, id.clone())));
            }
            other @ Received::Binary(_) => panic!("{other:?}"),
        }
    }
    scene.unknown.push(id);
    let status = server.exit().await;
    mend_log(&log);
    assert_eq!(status.code(), Some(1), "{status}: {}", server.setup.log());
    expect_exit(&mut server, &["can't be trusted", "start the server again"]).await;
    let server = server.restart().await;
    scene.reconnect(&server).await;
}
