//! Databases that fail under a server that runs: what clients are told meanwhile, that nothing acknowledged is lost, that
//! connections stay, and that all goes on by itself when the fault is over.

use crate::client::{Got, User, Ws};
use crate::databases::{Kind, new_postgres_database};
use crate::server::{Place, Server, number, run, text, until};
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

/// Senders learn soon that it is not known, and the database is asked again soon.
const OPTIONS: [&str; 6] =
    ["--limit", "append_deadline_ms=400", "--limit", "store_timeout_ms=500", "--limit", "publish_rate_per_second=0"];

// ── two people at work ──────────────────────────────────────────────────────────────────────────────────────────────

/// A connection in the room, and what it has seen: ids, in the order of their offsets from 1 on.
struct Seat {
    ws: Ws,
    seen: Vec<String>,
}

impl Seat {
    /// Takes the next event: the code and the id of an error, nothing for a message.
    fn take(&mut self, event: &Value) -> Option<(u64, String)> {
        if event["type"] == "error" {
            return Some((number(&event["code"]), text(&event["id"])));
        }
        assert_eq!(event["type"], "message", "{event}");
        assert_eq!(number(&event["offset"]), self.seen.len() as u64 + 1, "a gap or a duplicate: {event}");
        self.seen.push(text(&event["id"]));
        None
    }

    /// Reads on until it has seen this message: where it is.
    async fn sees(&mut self, id: &str) -> u64 {
        loop {
            if let Some(index) = self.seen.iter().position(|seen| seen == id) {
                return index as u64 + 1;
            }
            let event = self.ws.event().await;
            if let Some(error) = self.take(&event) {
                panic!("{error:?} instead of {id}");
            }
        }
    }

    /// Reads on until it is told that this is not known.
    async fn is_told_100(&mut self, id: &str) {
        loop {
            let event = self.ws.event().await;
            if let Some(error) = self.take(&event) {
                assert_eq!(error, (100, id.to_owned()));
                return;
            }
        }
    }
}

/// Ann, who writes, and Bob, who reads, in a room and in a live channel, on connections that no fault may disturb.
struct Scene {
    ann: User,
    bob: User,
    seats: [Seat; 2],
    live: [Ws; 2],
    epoch: String,
    /// Acknowledged: where.
    told: HashMap<String, u64>,
    /// Told that it is not known, in the order sent.
    unsure: Vec<String>,
    said: usize,
}

impl Scene {
    async fn begin(server: &Server) -> Scene {
        let (ann, bob) = (server.sign_up("ann").await, server.sign_up("bob").await);
        server.create_room(&ann, "r").await;
        let seat = async |user| Seat { ws: server.join(user, "room=r&format=json").await, seen: Vec::new() };
        let seats = [seat(&ann).await, seat(&bob).await];
        let live = [server.join(&ann, "room=live:x").await, server.join(&bob, "room=live:x").await];
        let epoch = seats[0].ws.epoch();
        let (told, unsure) = (HashMap::new(), Vec::new());
        let mut scene = Scene { ann, bob, seats, live, epoch, told, unsure, said: 0 };
        for _ in 0..3 {
            scene.talk(server).await;
        }
        scene
    }

    fn new_id(&mut self) -> String {
        self.said += 1;
        format!("m{}", self.said)
    }

    async fn say(&mut self, id: &str) {
        self.seats[0].ws.say(message(id).to_string()).await;
    }

    /// One by WebSocket and one by HTTP, acknowledged and seen by both.
    async fn talk(&mut self, server: &Server) {
        let id = self.new_id();
        self.say(&id).await;
        let offset = self.seats[0].sees(&id).await;
        self.told.insert(id, offset);
        let id = self.new_id();
        let stored = server.post("/rooms/r/messages", &self.ann.token, message(&id)).await.expect(201);
        for seat in &mut self.seats {
            assert_eq!(seat.sees(&id).await, number(&stored["offset"]));
        }
        self.told.insert(id, number(&stored["offset"]));
    }

    /// The live channel needs no database.
    async fn live_goes_on(&mut self) {
        let id = self.new_id();
        self.live[0].say(id.clone()).await;
        for ws in &mut self.live {
            assert_eq!(ws.event().await["data"], id.as_str());
        }
    }

    /// What is sent while nothing can be committed: not known over WebSocket, not known or unavailable over HTTP. The
    /// process lives and is not ready, and the live channel goes on.
    async fn is_refused(&mut self, server: &Server) {
        let id = self.new_id();
        self.say(&id).await;
        self.seats[0].is_told_100(&id).await;
        self.unsure.push(id);
        let id = self.new_id();
        let (status, code) = server.post("/rooms/r/messages", &self.ann.token, message(&id)).await.error();
        assert!(status == 503 && (code == "not_known" || code == "unavailable"), "{status} {code}");
        self.unsure.push(id);
        until("it is not ready", async || server.get("/readyz", "").await.status == 503).await;
        assert_eq!(server.get("/healthz", "").await.status, 200);
        self.live_goes_on().await;
    }

    /// The fault is over: what was not known is sent again until it is stored, all goes on, and nothing is missing or there
    /// twice. The connections are those from before.
    async fn goes_on(&mut self, server: &Server) {
        self.is_settled(server).await;
        self.talk(server).await;
        self.live_goes_on().await;
        until("it is ready", async || server.get("/readyz", "").await.status == 200).await;
        self.compare(server).await;
    }

    async fn is_settled(&mut self, server: &Server) {
        for id in std::mem::take(&mut self.unsure) {
            until("it is stored", async || {
                let answer = server.post("/rooms/r/messages", &self.ann.token, message(&id)).await;
                if answer.status == 503 {
                    return false;
                }
                self.told.insert(id.clone(), number(&answer.expect(201)["offset"]));
                true
            })
            .await;
        }
    }

    /// Both have seen what is stored, and each acknowledged message is where it was acknowledged.
    async fn compare(&mut self, server: &Server) {
        let stored: Vec<String> = server.history(&self.bob, "r").await.iter().map(|m| text(&m["id"])).collect();
        for seat in &mut self.seats {
            seat.sees(stored.last().expect("something is stored")).await;
            assert_eq!(seat.seen, stored);
        }
        for (id, offset) in &self.told {
            assert_eq!(stored.get(*offset as usize - 1), Some(id), "{id} was acknowledged at {offset}");
        }
    }

    /// Another server in the same place: both come back from where they were, miss nothing, and all goes on.
    async fn comes_back(&mut self, server: &Server) {
        for (seat, user) in self.seats.iter_mut().zip([&self.ann, &self.bob]) {
            let query = format!("room=r&format=json&since={}&epoch={}", seat.seen.len(), self.epoch);
            seat.ws = server.join(user, &query).await;
            assert_eq!(seat.ws.joined["recovered"], true, "{}", seat.ws.joined);
            assert_eq!(seat.ws.epoch(), self.epoch);
        }
        self.live = [server.join(&self.ann, "room=live:x").await, server.join(&self.bob, "room=live:x").await];
        self.goes_on(server).await;
    }
}

fn message(id: &str) -> Value {
    json!({"text": format!("this is {id}"), "id": id})
}

/// The server ends by itself, with a code that scripts notice and one line that says why.
async fn ends_with(server: &mut Server, words: &[&str]) {
    let status = server.ended().await;
    let log = server.place.log();
    assert_eq!(status.code(), Some(1), "{log}");
    let lines: Vec<&str> = log.lines().filter(|line| line.starts_with("uproar: ")).collect();
    assert_eq!(lines.len(), 1, "{log}");
    assert_eq!(log.lines().last(), Some(lines[0]), "it is the last one");
    for word in words {
        assert!(lines[0].contains(word), "no '{word}' in {}", lines[0]);
    }
}

#[track_caller]
fn is_refused_with((code, line): (Option<i32>, String), words: &[&str]) {
    assert_eq!(code, Some(1), "{line}");
    for word in words {
        assert!(line.contains(word), "no '{word}' in: {line}");
    }
}

// ── PostgreSQL ──────────────────────────────────────────────────────────────────────────────────────────────────────

async fn connect(url: &str) -> PgConnection {
    PgConnection::connect(url).await.unwrap_or_else(|error| panic!("{url}: {error}"))
}

async fn execute(connection: &mut PgConnection, sql: impl Into<String>) {
    let sql = sql.into();
    connection.execute(AssertSqlSafe(sql.clone())).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// Another database of the same server, and the name of this one.
fn beside(url: &str) -> (String, String) {
    let (server, name) = url.rsplit_once('/').expect("a URL with a database");
    (format!("{server}/postgres"), name.to_owned())
}

/// The session that guards a database, and the key of its lock.
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

/// The guard's session ends and can't come back for a while.
#[tokio::test]
async fn a_lost_guard_stops_commits_until_it_is_held_again() {
    let url = new_postgres_database().await;
    let (other, name) = beside(&url);
    let server = Place::with_database(Some(url), &OPTIONS).start().await;
    let mut scene = Scene::begin(&server).await;
    let mut admin = connect(&other).await;
    for _ in 0..2 {
        let (session, _) = guard(&mut admin, &name).await.expect("it is guarded");
        execute(&mut admin, format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false")).await;
        let lost = || server.place.log().matches("lost the guard connection").count();
        let before = lost();
        terminate(&mut admin, session).await;
        until("the loss is noticed", async || lost() > before).await;
        // The lanes' own connections are as good as before.
        let top = scene.seats[0].seen.len();
        scene.is_refused(&server).await;
        assert_eq!(server.history(&scene.bob, "r").await.len(), top, "nothing is committed without the guard");
        execute(&mut admin, format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true")).await;
        scene.goes_on(&server).await;
        assert!(guard(&mut admin, &name).await.is_some_and(|(again, _)| again != session), "it is held again");
    }
}

/// Takes the lock of a running server away; it is the connection's from then on.
async fn take_over(connection: &mut PgConnection, database: &str) {
    until("the lock is ours", async || {
        let Some((session, key)) = guard(connection, database).await else { return false };
        // In one go, before the server can notice.
        let sql = format!("SELECT pg_terminate_backend({session}, 5000); SELECT pg_try_advisory_lock({key})");
        connection.execute(AssertSqlSafe(sql)).await.unwrap();
        let ours: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut *connection).await.unwrap();
        guard(connection, database).await.is_some_and(|(session, _)| session == ours)
    })
    .await;
}

#[tokio::test]
async fn a_guard_held_by_another_ends_the_server() {
    let url = new_postgres_database().await;
    let (_, name) = beside(&url);
    let mut server = Place::with_database(Some(url.clone()), &OPTIONS).start().await;
    let mut scene = Scene::begin(&server).await;
    let mut another = connect(&url).await;
    take_over(&mut another, &name).await;
    // While something is said; what is not acknowledged is not known.
    let mut under_way = scene.new_id();
    loop {
        if scene.seats[0].ws.try_say(message(&under_way).to_string()).await.is_err() {
            break;
        }
        scene.unsure.push(under_way.clone());
        match scene.seats[0].ws.next().await {
            Got::Text(event) => {
                let event: Value = serde_json::from_str(&event).unwrap();
                if scene.seats[0].take(&event).is_none() {
                    scene.unsure.pop();
                    scene.told.insert(under_way, number(&event["offset"]));
                }
            }
            Got::Closed(..) | Got::Cut => break,
            other @ Got::Binary(_) => panic!("{other:?}"),
        }
        under_way = scene.new_id();
    }
    ends_with(&mut server, &["another uproar", "database"]).await;
    // It does not come back while the other is there.
    is_refused_with(server.place.does_not_start().await, &["another uproar", &name]);
    another.close().await.unwrap();
    let server = server.restart().await;
    scene.comes_back(&server).await;
}

/// No message has to come for it to notice.
#[tokio::test]
async fn a_guard_held_by_another_ends_a_server_that_is_idle() {
    let url = new_postgres_database().await;
    let (_, name) = beside(&url);
    let mut server = Place::with_database(Some(url.clone()), &[]).start().await;
    let mut another = connect(&url).await;
    take_over(&mut another, &name).await;
    ends_with(&mut server, &["another uproar", "database"]).await;
}

/// A PostgreSQL server of our own with few connections for a user who is no superuser: as a superuser, and as the owner of
/// a new database.
async fn few_connections() -> Option<(TestPostgres, PgConnection, String)> {
    let mut postgres = TestPostgres::start().await.unwrap();
    if std::env::var("UPROAR_TEST_POSTGRES").is_ok_and(|url| url.contains("://")) {
        eprintln!("skipped: the PostgreSQL server that UPROAR_TEST_POSTGRES names is not ours to configure");
        return None;
    }
    let database = postgres.create_database().await.unwrap();
    let (other, name) = beside(&database);
    let mut admin = connect(&other).await;
    execute(&mut admin, "ALTER SYSTEM SET superuser_reserved_connections = 275").await;
    execute(&mut admin, format!("CREATE ROLE chat LOGIN; ALTER DATABASE {name} OWNER TO chat")).await;
    admin.close().await.unwrap();
    postgres.restart().await.unwrap();
    let admin = connect(&other).await;
    let (_, place) = database.split_once('@').unwrap();
    let url = format!("postgres://chat@{place}");
    Some((postgres, admin, url))
}

/// Takes connections until there are no more for anyone.
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
async fn postgres_out_of_connections() {
    let Some((_postgres, mut admin, url)) = few_connections().await else { return };
    let (other, name) = beside(&url);
    let server = Place::with_database(Some(url), &OPTIONS).start().await;
    let mut scene = Scene::begin(&server).await;
    for guard_too in [false, true] {
        // The server's connections end, and by the time it may have others, there are none.
        execute(&mut admin, format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false")).await;
        let (session, _) = guard(&mut admin, &name).await.expect("it is guarded");
        let but = if guard_too { 0 } else { session };
        until("they are gone", async || {
            let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = $1 AND pid <> $2";
            sqlx::query_scalar::<_, i64>(sql).bind(&name).bind(but).fetch_one(&mut admin).await.unwrap() == 0
        })
        .await;
        let taken = take_all(&other).await;
        execute(&mut admin, format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true")).await;
        scene.is_refused(&server).await;
        for mut connection in taken {
            // Whoever waits for one gets it.
            connection.execute("SELECT 1").await.unwrap();
            connection.close().await.unwrap();
        }
        scene.goes_on(&server).await;
    }
}

#[tokio::test]
async fn postgres_out_of_connections_at_the_start() {
    let Some((_postgres, _admin, url)) = few_connections().await else { return };
    let (other, name) = beside(&url);
    let place = Place::with_database(Some(url), &OPTIONS);
    let mut taken = take_all(&other).await;
    is_refused_with(place.does_not_start().await, &["PostgreSQL", &name, "connection"]);
    // Enough to guard it, and not to serve.
    taken.pop().expect("there were some").close().await.unwrap();
    is_refused_with(place.does_not_start().await, &[&name, "connection"]);
    drop(taken);
    let server = place.start().await;
    Scene::begin(&server).await.goes_on(&server).await;
}

#[tokio::test]
async fn postgres_slower_than_the_deadline() {
    let server = Server::start(Kind::Postgres, &OPTIONS).await;
    let mut scene = Scene::begin(&server).await;
    // The next one is another lane's.
    server.create_room(&scene.ann, "other").await;
    let mut other = server.join(&scene.bob, "room=other").await;
    let mut backdoor = server.place.backdoor().await;
    for _ in 0..2 {
        backdoor
            .execute("BEGIN; SELECT 1 FROM heads WHERE room_id = (SELECT id FROM rooms WHERE name = 'r') FOR UPDATE")
            .await;
        // Alone in its batch: sent again until it is stored.
        let stored_all_the_same = scene.new_id();
        scene.say(&stored_all_the_same).await;
        scene.seats[0].is_told_100(&stored_all_the_same).await;
        scene.is_refused(&server).await;
        // Another lane works, which makes this one no better.
        for _ in 0..5 {
            let text = scene.new_id();
            assert_eq!(other.round_trip(&text).await.1, text);
            assert_eq!(server.get("/readyz", "").await.status, 503);
        }
        backdoor.release_commits().await;
        // Without being sent again by its sender.
        for seat in &mut scene.seats {
            seat.sees(&stored_all_the_same).await;
        }
        scene.unsure.insert(0, stored_all_the_same);
        scene.goes_on(&server).await;
    }
}

#[tokio::test]
async fn a_restored_postgres_database() {
    let url = new_postgres_database().await;
    let (other, name) = beside(&url);
    let mut server = Place::with_database(Some(url.clone()), &[]).start().await;
    let scene = Scene::begin(&server).await;
    server.stop().await;
    let mut admin = connect(&other).await;
    execute(&mut admin, format!("CREATE DATABASE {name}_copy TEMPLATE {name}")).await;
    let mut server = server.restart().await;
    let (lost, top) = more_and_stop(&mut server, &scene).await;
    execute(&mut admin, format!("DROP DATABASE {name}")).await;
    execute(&mut admin, format!("CREATE DATABASE {name} TEMPLATE {name}_copy")).await;
    let data = server.place.data();
    let output = run(&["restored", "--database", &url, "--data", data.to_str().unwrap()]).await;
    assert!(output.status.success(), "{output:?}");
    let server = server.restart().await;
    begins_anew(&server, &scene, &lost, top).await;
}

// ── SQLite ──────────────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn a_restored_sqlite_file() {
    let mut server = Server::start(Kind::Sqlite, &[]).await;
    let scene = Scene::begin(&server).await;
    server.stop().await;
    let file = server.place.sqlite_file();
    let copy = file.with_extension("copy");
    fs::copy(&file, &copy).unwrap();
    let mut server = server.restart().await;
    let (lost, top) = more_and_stop(&mut server, &scene).await;
    fs::rename(&copy, &file).unwrap();
    let server = server.restart().await;
    begins_anew(&server, &scene, &lost, top).await;
}

/// What comes after the copy was made: the text of its message, and the last offset.
async fn more_and_stop(server: &mut Server, scene: &Scene) -> (String, u64) {
    let query = format!("room=r&format=json&since={}&epoch={}", scene.seats[0].seen.len(), scene.epoch);
    let mut ws = server.join(&scene.ann, &query).await;
    assert_eq!(ws.joined["recovered"], true, "a stop and a start alone change nothing");
    let lost = message("lost");
    ws.say(lost.to_string()).await;
    let (top, text) = ws.message().await;
    server.stop().await;
    (text, top)
}

async fn begins_anew(server: &Server, scene: &Scene, lost: &str, top: u64) {
    let before = scene.seats[0].seen.len() as u64;
    assert_eq!(top, before + 1);
    // Also at a position that is there again.
    for since in [top, before, 1] {
        let query = format!("room=r&format=json&since={since}&epoch={}", scene.epoch);
        let ws = server.join(&scene.bob, &query).await;
        assert_eq!((&ws.joined["recovered"], ws.offset()), (&json!(false), before), "{}", ws.joined);
        assert_ne!(ws.epoch(), scene.epoch);
    }
    // The offset that was lost is another message's now; the id that was lost is new.
    let mut ws = server.join(&scene.bob, "room=r").await;
    assert_eq!(ws.round_trip("after the restore").await, (top, "after the restore".into()));
    let again = server.post("/rooms/r/messages", &scene.ann.token, message("lost")).await.expect(201);
    assert_eq!(number(&again["offset"]), top + 1);
    assert_eq!(ws.message().await, (top + 1, lost.to_owned()));
    // Once: the new epoch stays.
    let query = format!("room=r&since={top}&epoch={}", ws.epoch());
    assert_eq!(server.join(&scene.bob, &query).await.joined["recovered"], true);
}

/// A file system of its own for a data folder, in a mount namespace of its own.
struct Disk {
    keeper: Child,
    /// The data folder, as this process can reach it.
    folder: PathBuf,
    data: PathBuf,
    under: Vec<String>,
}

impl Disk {
    /// None where this is not permitted.
    async fn for_data_of(place: &mut Place, size: &str) -> Option<Disk> {
        let is_root = rustix::process::geteuid().is_root();
        let unshare: &[&str] = if is_root { &["--mount"] } else { &["--map-root-user", "--mount"] };
        let script = r#"mkdir -p "$1" && mount -t tmpfs -o "size=$2,mode=0700" tmpfs "$1" && echo mounted && exec cat"#;
        let data = place.data();
        // It ends with this process: its input does.
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
        let said = BufReader::new(keeper.stdout.take().unwrap()).lines().next_line().await;
        if !matches!(said, Ok(Some(_))) {
            let output = keeper.wait_with_output().await.unwrap();
            let why = String::from_utf8_lossy(&output.stderr).trim().replace('\n', ", ");
            eprintln!("skipped: no file system can be mounted here: {why}");
            return None;
        }
        let id = keeper.id().expect("it runs").to_string();
        let enter: &[&str] = if is_root { &["--mount"] } else { &["--user", "--preserve-credentials", "--mount"] };
        let mut under = vec!["nsenter".to_owned(), "--target".to_owned(), id.clone()];
        under.extend(enter.iter().map(ToString::to_string));
        under.push("--".to_owned());
        place.under = under.clone();
        let folder = PathBuf::from(format!("/proc/{id}/root")).join(data.strip_prefix("/").unwrap());
        Some(Disk { keeper, folder, data, under })
    }

    fn ballast(&self) -> PathBuf {
        self.folder.join("ballast")
    }

    /// Not a page is left.
    fn fill(&self) {
        let mut file = File::options().create(true).append(true).open(self.ballast()).unwrap();
        let error = loop {
            if let Err(error) = file.write_all(&[0; 4096]) {
                break error;
            }
        };
        assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
    }

    fn make_room(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }

    async fn remount(&self, how: &str) {
        let mut command = Command::new(&self.under[0]);
        command.args(&self.under[1..]).args(["mount", "-o", &format!("remount,bind,{how}")]).arg(&self.data);
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
async fn a_full_disk_under_sqlite() {
    let mut place = Place::new(Kind::Sqlite, &OPTIONS).await;
    let Some(disk) = Disk::for_data_of(&mut place, "16m").await else { return };
    let server = place.start().await;
    let mut scene = Scene::begin(&server).await;
    for _ in 0..2 {
        disk.fill();
        scene.is_refused(&server).await;
        // What is stored can be read.
        assert_eq!(server.history(&scene.bob, "r").await.len(), scene.seats[0].seen.len());
        disk.make_room();
        scene.goes_on(&server).await;
    }
}

/// However the server ends on a full disk, the next one has everything, and nobody has to start over.
#[tokio::test]
async fn a_server_that_ends_while_the_disk_is_full() {
    let mut place = Place::new(Kind::Sqlite, &OPTIONS).await;
    let Some(disk) = Disk::for_data_of(&mut place, "16m").await else { return };
    let mut server = place.start().await;
    let mut scene = Scene::begin(&server).await;
    for (signal, is_busy) in [("KILL", true), ("TERM", true), ("TERM", false)] {
        disk.fill();
        if is_busy {
            scene.is_refused(&server).await;
        }
        server.signal(signal).await;
        let status = server.ended().await;
        assert_eq!(status.success(), signal == "TERM", "{status} {signal}");
        // Nor can one start.
        is_refused_with(server.place.does_not_start().await, &[disk.data.to_str().unwrap(), "No space left"]);
        disk.make_room();
        server = server.restart().await;
        scene.comes_back(&server).await;
    }
}

#[tokio::test]
async fn a_read_only_disk_under_sqlite() {
    let mut place = Place::new(Kind::Sqlite, &OPTIONS).await;
    let Some(disk) = Disk::for_data_of(&mut place, "16m").await else { return };
    let mut server = place.start().await;
    let mut scene = Scene::begin(&server).await;
    server.stop().await;
    disk.remount("ro").await;
    is_refused_with(server.place.does_not_start().await, &[disk.data.to_str().unwrap(), "ead-only"]);
    // A data folder elsewhere does not help.
    let url = format!("sqlite:{}", disk.data.join("uproar.db").display());
    let mut elsewhere = Place::with_database(Some(url), &[]);
    elsewhere.under = disk.under.clone();
    is_refused_with(elsewhere.does_not_start().await, &[disk.data.to_str().unwrap(), "ead-only"]);
    disk.remount("rw").await;
    let server = server.restart().await;
    scene.comes_back(&server).await;
}

/// The limit on the size of files that a process may have: a write past it fails as on a broken disk.
#[tokio::test]
async fn a_failed_write_of_a_commit_ends_the_server() {
    let server = Server::start(Kind::Sqlite, &OPTIONS).await;
    let pid = Pid::from_raw(server.id() as i32);
    let limit = |file: &Path| {
        let size = fs::metadata(file).unwrap().len();
        prlimit(pid, Resource::Fsize, Rlimit { current: Some(size), maximum: None }).unwrap();
    };
    ends_when_it_can_not_write(server, limit, |_| ()).await;
}

/// A log that nothing more can be added to, as the administrator's mistake or a file system that has turned read-only.
#[tokio::test]
async fn a_log_made_read_only_ends_the_server() {
    let probe = tempfile::NamedTempFile::new().unwrap();
    let is_permitted = change_attributes("+i", probe.path());
    let is_effective = is_permitted && probe.as_file().write_at_start().is_err();
    change_attributes("-i", probe.path());
    if !is_effective {
        eprintln!("skipped: files can't be made read-only under a process here (chattr +i)");
        return;
    }
    let server = Server::start(Kind::Sqlite, &OPTIONS).await;
    let protect = |file: &Path| assert!(change_attributes("+i", file));
    ends_when_it_can_not_write(server, protect, |file| assert!(change_attributes("-i", file))).await;
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

async fn ends_when_it_can_not_write(mut server: Server, break_it: impl Fn(&Path), mend_it: impl Fn(&Path)) {
    let mut scene = Scene::begin(&server).await;
    let mut log = server.place.sqlite_file().into_os_string();
    log.push("-wal");
    let log = PathBuf::from(log);
    break_it(&log);
    let id = scene.new_id();
    scene.say(&id).await;
    // Nobody is told anything that may be wrong.
    for seat in &mut scene.seats {
        match seat.ws.next().await {
            Got::Closed(..) | Got::Cut => {}
            Got::Text(event) => {
                let event = serde_json::from_str(&event).unwrap();
                assert_eq!(seat.take(&event), Some((100, id.clone())));
            }
            other @ Got::Binary(_) => panic!("{other:?}"),
        }
    }
    scene.unsure.push(id);
    let status = server.ended().await;
    mend_it(&log);
    assert_eq!(status.code(), Some(1), "{status}: {}", server.place.log());
    ends_with(&mut server, &["can't be trusted", "start the server again"]).await;
    let server = server.restart().await;
    scene.comes_back(&server).await;
}
