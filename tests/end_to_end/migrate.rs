//! Proves that `uproar migrate` moves a server from SQLite to PostgreSQL, and that it changes nothing if it fails.

use crate::client::{User, within};
use crate::databases::{Backdoor, Kind, new_postgres_database, skip_without_own_postgres};
use crate::server::{Server, Setup, assert_contains, number, run, until, uproar};
use crate::two_nodes::alone;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Output, Stdio};
use tokio::process::Child;

const TABLES: [&str; 9] =
    ["users", "rooms", "heads", "members", "user_rooms", "messages", "reactions", "reaction_kinds", "reserved_names"];

// ── a server with something of everything ───────────────────────────────────────────────────────────────────────────

/// A server on SQLite, its users, and where the lobby stands.
struct Filled {
    server: Server,
    ann: User,
    bob: User,
    /// Has signed out, so the token is revoked.
    cid: User,
    epoch: String,
    head: u64,
    history: Vec<Value>,
}

impl Filled {
    /// The server has stopped.
    async fn stopped() -> Filled {
        let mut server = Server::start(Kind::Sqlite, &[]).await;
        let (ann, bob, cid) = (server.sign_up("Ann").await, server.sign_up("bob").await, server.sign_up("cid").await);
        let zeus = server.user(r"Ζεύς \N 'x'").await;
        server.get("/me", &zeus.token).await.expect(200);
        server.post("/user/signout", &cid.token, Value::Null).await.expect(200);

        let title = json!({"name": r"lobby \ Straße", "title": r"A \t title, 'quoted' 😀"});
        server.post("/user/createroom", &zeus.token, title).await.expect(201);
        server.create_room(&ann, "lobby").await;
        let body = json!({"name": "secret", "private": true});
        server.post("/user/createroom", &ann.token, body).await.expect(201);
        server.post("/rooms/secret/members", &ann.token, json!({"username": "bob"})).await.expect(200);
        server.post("/rooms/secret/messages", &bob.token, json!({"text": "psst"})).await.expect(201);
        server.call("DELETE", "/rooms/secret/members/bob", &ann.token, Value::Null).await.expect(200);
        server.create_room(&ann, "gone").await;
        server.post("/rooms/gone/messages", &ann.token, json!({"text": "soon gone"})).await.expect(201);
        server.call("DELETE", "/rooms/gone", &ann.token, Value::Null).await.expect(200);
        let mut backdoor = server.setup.backdoor().await;
        let is_swept = async || backdoor.texts("SELECT title FROM rooms WHERE name IS NULL").await.is_empty();
        until("the deleted room is swept up", is_swept).await;

        let mut at_bob = server.join(&bob, "room=lobby").await;
        let mut at_ann = server.join(&ann, "room=lobby&format=json").await;
        for (sent, item) in (1..).zip([
            json!({"text": "one", "id": "first"}),
            json!({"text": "a tab\t, a line\nend, a \\N and a \\. and a \r\u{8}\u{b}\u{c}\u{1b}\u{7f}"}),
            json!({"text": "ἀγορά 😀 \u{202e}rtl", "reply_to": 1}),
            json!({"text": "to be deleted"}),
            json!({"edit": 1, "text": "ONE"}),
            json!({"react": 2, "emoji": "👍"}),
            json!({"react": 2, "emoji": "❤️"}),
            json!({"unreact": 2, "emoji": "👍"}),
            json!({"delete": 4}),
            json!({"text": "last"}),
        ]) {
            at_ann.send(item.to_string()).await;
            assert_eq!(number(&at_ann.event().await["offset"]), sent, "{item}");
        }
        let (epoch, head) = (at_ann.epoch(), server.head(&ann, "lobby").await);
        at_bob.send("mine").await;
        until("Bob's message is stored", async || server.head(&ann, "lobby").await == head + 1).await;
        let history = server.history(&ann, "lobby").await;
        server.stop().await;
        let filled = Filled { server, ann, bob, cid, epoch, head: head + 1, history };
        let markers = "UPDATE members SET read_offset = 2, read_number = 2 WHERE user_id = 2";
        filled.server.setup.backdoor().await.execute(markers).await;
        filled
    }

    fn setup(&self) -> &Setup {
        &self.server.setup
    }

    /// Runs `uproar migrate`.
    async fn migrate(&self, url: &str) -> Output {
        migrate(&self.setup().data(), url, &[]).await
    }

    /// Starts `uproar migrate`, and waits until its session with PostgreSQL waits for a lock.
    async fn migrate_until_it_waits(&self, url: &str, shell: &mut Backdoor) -> Child {
        let data = self.setup().data();
        let mut command = uproar(&["migrate", "--data", data.to_str().unwrap(), "--database", url]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("uproar cannot be started");
        until("it waits for a lock", async || !waiting(shell).await.is_empty()).await;
        child
    }

    async fn dump(&self) -> BTreeMap<&'static str, Vec<String>> {
        dump(&mut Backdoor::sqlite(&self.setup().data().join("uproar.db")).await, &TABLES).await
    }

    /// Checks that a failed attempt has changed neither database, and that the next one succeeds.
    async fn moves_now(&self, before: &BTreeMap<&'static str, Vec<String>>, url: &str) {
        assert_is_empty(url).await;
        assert_eq!(self.dump().await, *before);
        let output = self.migrate(url).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(dump(&mut Backdoor::postgres(url).await, &TABLES).await, *before);
    }
}

async fn migrate(data: &Path, url: &str, more: &[&str]) -> Output {
    run(&[&["migrate", "--data", data.to_str().unwrap(), "--database", url], more].concat()).await
}

/// The sessions of `uproar migrate` that wait for a lock.
async fn waiting(shell: &mut Backdoor) -> Vec<String> {
    let sql = "SELECT CAST(pid AS text) FROM pg_stat_activity
        WHERE application_name = 'uproar migrate' AND datname = current_database() AND wait_event_type = 'Lock'";
    shell.texts(sql).await
}

/// Ends the sessions of `uproar migrate`, as an administrator or a crash does.
async fn cut_off(shell: &mut Backdoor) {
    let sql = "SELECT CAST(pg_terminate_backend(pid) AS text) FROM pg_stat_activity
        WHERE application_name = 'uproar migrate' AND datname = current_database()";
    assert!(!shell.texts(sql).await.is_empty());
}

/// The error of a command that failed: its last line.
fn error_of(output: &Output) -> String {
    let lines = String::from_utf8(output.stderr.clone()).expect("UTF-8");
    assert_eq!(output.status.code(), Some(1), "{lines}");
    assert!(output.stdout.is_empty() && !lines.contains("panicked"), "{lines}");
    let last = lines.lines().last().expect("a line").to_owned();
    assert!(last.starts_with("uproar: ") && lines.matches("uproar: ").count() == 1, "{lines}");
    last
}

/// All rows of these tables, as texts.
async fn dump(database: &mut Backdoor, tables: &[&'static str]) -> BTreeMap<&'static str, Vec<String>> {
    let mut all = BTreeMap::new();
    for table in tables {
        let columns = match database {
            Backdoor::Sqlite(_) => format!("SELECT name FROM pragma_table_info('{table}') ORDER BY name"),
            Backdoor::Postgres(_) => format!(
                "SELECT CAST(column_name AS text) FROM information_schema.columns WHERE table_name = '{table}'
                 ORDER BY column_name COLLATE \"C\""
            ),
        };
        let values = database.texts(&columns).await;
        let values = values.iter().map(|name| format!("'{name}: ' || coalesce(CAST({name} AS text), 'NULL')"));
        let sql = format!("SELECT {} FROM {table}", values.collect::<Vec<_>>().join(" || '; ' || "));
        let mut rows = database.texts(&sql).await;
        rows.sort_unstable();
        all.insert(*table, rows);
    }
    all
}

/// Checks that a PostgreSQL database holds neither users nor rooms nor anything else.
async fn assert_is_empty(url: &str) {
    let mut shell = Backdoor::postgres(url).await;
    for table in TABLES {
        let named = format!("SELECT '{table}' WHERE to_regclass('{table}') IS NOT NULL");
        if !shell.texts(&named).await.is_empty() {
            let count = shell.texts(&format!("SELECT CAST(count(*) AS text) FROM {table}")).await;
            assert_eq!(count, ["0"], "{table}");
        }
    }
}

// ── it works ────────────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn a_server_moves_and_its_clients_resume() {
    let mut filled = Filled::stopped().await;
    // A deleted room that is not swept up yet.
    let mut backdoor = filled.setup().backdoor().await;
    backdoor
        .execute(
            "INSERT INTO rooms (id, kind, title, title_key, size, members, epoch, created_by, created_at)
               VALUES (9, 0, 'Old', 'old', 5, 1, 'e', 1, 7);
             INSERT INTO members (room_id, user_id, joined_at, read_offset, read_number) VALUES (9, 1, 7, 0, 0);
             INSERT INTO user_rooms (user_id, room_id, room_name) VALUES (1, 9, 'old');
             INSERT INTO messages (room_id, room_offset, number, kind, user_id, client_id, body, created_at)
               VALUES (9, 1, 1, 0, 1, 'x', 'old', 7);
             UPDATE meta SET value = '2592000000' WHERE name = 'longest_token_lifetime_ms'",
        )
        .await;
    let url = new_postgres_database().await;
    let before = filled.dump().await;
    for (table, rows) in &before {
        assert!(!rows.is_empty(), "the test has nothing in {table}");
    }
    let output = filled.migrate(&url).await;
    let report = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{report}");
    assert_contains(
        &report,
        &["messages: copied", "rows, SHA-256 ", "on both sides", "uproar.db until you have a backup"],
    );
    assert_eq!(filled.dump().await, before);
    assert_eq!(dump(&mut Backdoor::postgres(&url).await, &TABLES).await, before);

    // Tokens lived that long once, so revocations are needed for as long.
    let longest = "SELECT value FROM meta WHERE name = 'longest_token_lifetime_ms'";
    assert_eq!(Backdoor::postgres(&url).await.texts(longest).await, ["2592000000"]);

    // Nobody can go on with the old database by mistake.
    let (code, error) = filled.setup().fail_to_start().await;
    assert_eq!(code, Some(1));
    assert_contains(&error, &["uproar migrate", "moved", "--database", "uproar restored"]);

    filled.server.setup.use_database(Some(&url));
    let server = filled.server.restart().await;
    let (ann, bob, epoch) = (&filled.ann, &filled.bob, &filled.epoch);
    server.get("/me", &ann.token).await.expect(200);
    assert_eq!(server.get("/me", &filled.cid.token).await.status, 401, "a revoked token is valid again");
    let password = json!({"username": "ann", "password": "correct horse"});
    server.post("/user/signin", "", password).await.expect(200);
    assert_eq!(server.history(ann, "lobby").await, filled.history);

    let mut ws = server.join(bob, &format!("room=lobby&since=9&epoch={epoch}")).await;
    assert_eq!((&ws.joined["recovered"], ws.epoch()), (&json!(true), epoch.clone()), "{}", ws.joined);
    assert_eq!(ws.message().await, (10, "last".into()));
    assert_eq!(ws.message().await, (11, "mine".into()));
    assert_eq!(ws.round_trip("on PostgreSQL").await, (filled.head + 1, "on PostgreSQL".into()));
    // What was sent before is recognized.
    let body = json!({"text": "one", "id": "first"});
    let again = server.post("/rooms/lobby/messages", &ann.token, body).await;
    assert_eq!(number(&again.json()["offset"]), 1, "{again:?}");
    // Members, private rooms and reserved names are the same.
    assert_eq!(server.get("/rooms/secret", &bob.token).await.status, 404);
    server.get("/rooms/secret", &ann.token).await.expect(200);
    assert_ne!(server.post("/user/createroom", &bob.token, json!({"name": "gone"})).await.status, 201);
    server.create_room(ann, "gone").await;
    // No id is used twice.
    let mut shell = server.setup.backdoor().await;
    let new_id = shell.texts("SELECT CAST(id AS text) FROM rooms WHERE name = 'gone'").await;
    assert!(new_id[0].parse::<i64>().unwrap() > 9, "{new_id:?}");
    server.sign_up("dee").await;
    until("the deleted room is swept up", async || {
        shell.texts("SELECT client_id FROM messages WHERE room_id = 9").await.is_empty()
    })
    .await;
    // New members get their row in the lists of rooms.
    let listed = shell.texts("SELECT room_name FROM user_rooms WHERE room_name = 'gone' AND user_id = 1").await;
    assert_eq!(listed, ["gone"]);
}

#[tokio::test]
async fn a_database_moves_once() {
    let mut filled = Filled::stopped().await;
    let (url, other) = (new_postgres_database().await, new_postgres_database().await);
    assert!(filled.migrate(&url).await.status.success());
    // As after an answer that got lost.
    let again = filled.migrate(&url).await;
    assert!(again.status.success());
    assert_contains(&String::from_utf8(again.stderr).unwrap(), &["has moved to", "already"]);
    let error = error_of(&filled.migrate(&other).await);
    assert_contains(&error, &["has moved to", "already", "uproar restored"]);
    assert_is_empty(&other).await;

    // The old database can be used again, and its clients start over.
    let data = filled.setup().data();
    assert!(run(&["restored", "--data", data.to_str().unwrap()]).await.status.success());
    let mut server = filled.server.restart().await;
    let bob = server.user("bob").await;
    let resumed = server.join(&bob, &format!("room=lobby&since=9&epoch={}", filled.epoch)).await;
    assert_eq!(resumed.joined["recovered"], false, "{}", resumed.joined);
    server.stop().await;
    filled.server = server;
    assert!(filled.migrate(&other).await.status.success());
}

/// As at a start, the epochs change if a backup was restored.
#[tokio::test]
async fn a_restored_backup_moves_with_new_epochs() {
    let mut filled = Filled::stopped().await;
    let data = filled.setup().data();
    assert!(run(&["restored", "--data", data.to_str().unwrap()]).await.status.success());
    let url = new_postgres_database().await;
    let output = filled.migrate(&url).await;
    assert!(output.status.success());
    assert_contains(&String::from_utf8(output.stderr).unwrap(), &["restored", "start over"]);
    filled.server.setup.use_database(Some(&url));
    let server = filled.server.restart().await;
    let bob = server.user("bob").await;
    let resumed = server.join(&bob, &format!("room=lobby&since=9&epoch={}", filled.epoch)).await;
    assert_eq!(resumed.joined["recovered"], false, "{}", resumed.joined);
    assert_eq!(server.get("/me", &filled.ann.token).await.status, 401, "a token with a user id is still valid");
}

// ── it fails, and changes nothing ───────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn a_source_that_cannot_be_moved_is_refused() {
    let mut filled = Filled::stopped().await;
    let url = new_postgres_database().await;
    let (data, file) = (filled.setup().data(), filled.setup().data().join("uproar.db"));
    let missing = data.with_file_name("missing");
    let error = error_of(&migrate(&missing, &url, &[]).await);
    assert_contains(&error, &["there is no database", "missing/uproar.db"]);
    assert!(!missing.exists(), "a data folder was created");
    let foreign = data.with_file_name("foreign.db");
    fs::write(&foreign, "not a database").unwrap();
    let error = error_of(&migrate(&data, &url, &["--from", foreign.to_str().unwrap()]).await);
    assert_contains(&error, &["foreign.db is not a database of uproar"]);

    // A running server.
    let mut server = filled.server.restart().await;
    let error = error_of(&migrate(&data, &url, &[]).await);
    assert_contains(&error, &[&format!("another uproar (process {})", server.id()), "stop it"]);
    server.get("/me", &filled.ann.token).await.expect(200);
    server.stop().await;
    filled.server = server;

    let before = filled.dump().await;
    // A program that is writing to the file.
    let mut shell = Backdoor::sqlite(&file).await;
    shell.execute("BEGIN IMMEDIATE").await;
    let error = error_of(&filled.migrate(&url).await);
    assert_contains(&error, &["uproar.db is locked by process"]);
    shell.execute("ROLLBACK").await;

    // An older schema, and a newer one.
    shell.execute("CREATE TABLE kept AS SELECT * FROM _sqlx_migrations WHERE version > 5").await;
    shell.execute("DELETE FROM _sqlx_migrations WHERE version > 5").await;
    let error = error_of(&filled.migrate(&url).await);
    assert_contains(&error, &["schema version 5", "needs version 20", "start its server once"]);
    shell.execute("INSERT INTO _sqlx_migrations SELECT * FROM kept; DROP TABLE kept").await;
    shell.make_newer().await;
    let error = error_of(&filled.migrate(&url).await);
    assert_contains(&error, &["schema version 9999", "newer"]);
    shell.execute("DELETE FROM _sqlx_migrations WHERE version = 9999").await;

    // A text that PostgreSQL can't store.
    shell.execute("UPDATE messages SET body = 'a' || char(0) || 'b' WHERE room_offset = 10").await;
    let error = error_of(&filled.migrate(&url).await);
    assert_contains(&error, &["table messages", "column body", "U+0000", "nothing was moved"]);
    shell.execute("UPDATE messages SET body = 'last' WHERE room_offset = 10").await;

    // A damaged file: the pages of the messages are overwritten.
    let sql = "SELECT CAST(rootpage AS TEXT) FROM sqlite_schema WHERE name = 'messages'";
    let page: usize = shell.texts(sql).await[0].parse().unwrap();
    shell.close().await;
    let sound = fs::read(&file).unwrap();
    let mut damaged = sound.clone();
    damaged[(page - 1) * 4096..page * 4096].fill(0x55);
    fs::write(&file, &damaged).unwrap();
    let error = error_of(&filled.migrate(&url).await);
    assert_contains(&error, &["uproar.db is damaged", "restore a backup"]);
    fs::write(&file, &sound).unwrap();
    filled.moves_now(&before, &url).await;
}

#[tokio::test]
async fn a_target_that_cannot_be_used_is_refused() {
    alone!("the command runs beside one process");
    if skip_without_own_postgres() {
        return;
    }
    let filled = Filled::stopped().await;
    let (data, before) = (filled.setup().data(), filled.dump().await);
    let url = new_postgres_database().await;
    let name = url.rsplit_once('/').unwrap().1;

    let error = error_of(&run(&["migrate", "--data", data.to_str().unwrap()]).await);
    assert_contains(&error, &["must be PostgreSQL", "--database postgres://"]);
    let error = error_of(&filled.migrate("postgres://joe:secret@127.0.0.1:1/chat").await);
    assert_contains(&error, &["127.0.0.1:1/chat", "refused", "is it running"]);
    assert!(!error.contains("secret"), "{error}");
    let error = error_of(&filled.migrate(&url.replace(name, "no_such_database")).await);
    assert_contains(&error, &["no_such_database does not exist", "createdb"]);

    // A database that another server uses, or has used.
    let mut other = Server::start(Kind::Postgres, &[]).await;
    other.sign_up("eve").await;
    let other_url = other.setup.arguments().into_iter().skip_while(|a| a != "--database").nth(1).unwrap();
    let error = error_of(&filled.migrate(&other_url).await);
    assert_contains(&error, &["another uproar is using the database"]);
    other.stop().await;
    let error = error_of(&filled.migrate(&other_url).await);
    assert_contains(&error, &["holds users or rooms", "name an empty one"]);
    let users = Backdoor::postgres(&other_url).await.texts("SELECT username FROM users").await;
    assert_eq!(users, ["eve"]);

    // Tables of another program.
    let mut shell = Backdoor::postgres(&url).await;
    shell.execute("CREATE TABLE users (name text)").await;
    let error = error_of(&filled.migrate(&url).await);
    assert_contains(&error, &["tables of another program", "nothing was moved"]);
    shell.execute("DROP TABLE users").await;

    // A role with too few rights.
    let role = format!("poor_{name}");
    shell.execute(&format!("CREATE ROLE {role} LOGIN; REVOKE CREATE ON SCHEMA public FROM PUBLIC")).await;
    let error = error_of(&filled.migrate(&url.replacen("postgres@", &format!("{role}@"), 1)).await);
    assert_contains(&error, &[&role, "too few rights", "ALTER DATABASE", "nothing was moved"]);
    filled.moves_now(&before, &url).await;
}

#[tokio::test]
async fn a_target_that_fails_in_the_middle_is_left_empty() {
    alone!("the command runs beside one process");
    let filled = Filled::stopped().await;
    let (url, before) = (new_postgres_database().await, filled.dump().await);
    // With a server that has been started on it, the tables exist.
    let mut other = Setup::with_database(Some(url.clone()), &[]).start().await;
    other.stop().await;
    let mut shell = Backdoor::postgres(&url).await;

    // As on a full disk.
    shell
        .execute(
            "CREATE FUNCTION fill_up() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
               RAISE 'could not extend file: No space left on device' USING ERRCODE = 'disk_full';
             END $$;
             CREATE TRIGGER full_disk BEFORE INSERT ON messages FOR EACH ROW EXECUTE FUNCTION fill_up()",
        )
        .await;
    let error = error_of(&filled.migrate(&url).await);
    assert_contains(&error, &["No space left on device", "SQLSTATE 53100", "nothing was moved"]);
    shell.execute("DROP TRIGGER full_disk ON messages").await;

    // The connection is cut while messages are copied.
    let mut holder = Backdoor::postgres(&url).await;
    holder.execute("BEGIN; LOCK TABLE messages IN SHARE MODE").await;
    let child = filled.migrate_until_it_waits(&url, &mut shell).await;
    cut_off(&mut shell).await;
    let error = error_of(&within("it exits", child.wait_with_output()).await.unwrap());
    assert_contains(&error, &["lost the connection to PostgreSQL", "nothing was moved"]);
    holder.execute("ROLLBACK").await;

    // What arrives is not what was sent.
    shell
        .execute(
            "CREATE FUNCTION garble() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
               NEW.body := upper(NEW.body); RETURN NEW;
             END $$;
             CREATE TRIGGER garbler BEFORE INSERT ON messages FOR EACH ROW EXECUTE FUNCTION garble()",
        )
        .await;
    let error = error_of(&filled.migrate(&url).await);
    assert_contains(&error, &["the table messages is not the same on both sides", "nothing was moved"]);
    shell.execute("DROP TRIGGER garbler ON messages").await;
    filled.moves_now(&before, &url).await;
}

/// Makes the commit of a migration wait for a lock that `holder` has.
async fn hold_commit(shell: &mut Backdoor, holder: &mut Backdoor) {
    shell
        .execute(
            "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
               PERFORM pg_advisory_xact_lock(17); RETURN NULL;
             END $$;
             CREATE CONSTRAINT TRIGGER waiter AFTER INSERT ON heads DEFERRABLE INITIALLY DEFERRED
               FOR EACH ROW EXECUTE FUNCTION wait()",
        )
        .await;
    holder.execute("SELECT pg_advisory_lock(17)").await;
}

#[tokio::test]
async fn a_commit_that_fails_leaves_the_source_usable() {
    alone!("the command runs beside one process");
    let mut filled = Filled::stopped().await;
    let (url, before) = (new_postgres_database().await, filled.dump().await);
    let mut other = Setup::with_database(Some(url.clone()), &[]).start().await;
    other.stop().await;
    let (mut shell, mut holder) = (Backdoor::postgres(&url).await, Backdoor::postgres(&url).await);
    hold_commit(&mut shell, &mut holder).await;
    let child = filled.migrate_until_it_waits(&url, &mut shell).await;
    cut_off(&mut shell).await;
    let output = within("it exits", child.wait_with_output()).await.unwrap();
    assert_contains(&error_of(&output), &["lost the connection to PostgreSQL", "nothing was moved"]);
    drop(holder);
    assert_is_empty(&url).await;
    let mut server = filled.server.restart().await;
    server.get("/me", &filled.ann.token).await.expect(200);
    server.stop().await;
    filled.server = server;
    filled.moves_now(&before, &url).await;
}

#[tokio::test]
async fn a_commit_with_an_unknown_outcome_leaves_neither_in_use() {
    alone!("the command runs beside one process");
    if skip_without_own_postgres() {
        return;
    }
    let filled = Filled::stopped().await;
    let (url, before) = (new_postgres_database().await, filled.dump().await);
    let mut other = Setup::with_database(Some(url.clone()), &[]).start().await;
    other.stop().await;
    let (mut shell, mut holder) = (Backdoor::postgres(&url).await, Backdoor::postgres(&url).await);
    // A role that loses the right to connect, so that the outcome can't be found out.
    let role = format!("mover_{}", url.rsplit_once('/').unwrap().1);
    shell.execute(&format!("CREATE ROLE {role} LOGIN SUPERUSER")).await;
    let own_url = url.replacen("postgres@", &format!("{role}@"), 1);
    hold_commit(&mut shell, &mut holder).await;
    let child = filled.migrate_until_it_waits(&own_url, &mut shell).await;
    shell.execute(&format!("ALTER ROLE {role} NOLOGIN")).await;
    cut_off(&mut shell).await;
    let output = within("it exits", child.wait_with_output()).await.unwrap();
    assert_contains(&error_of(&output), &["is unknown", "run `uproar migrate` again"]);
    drop(holder);

    // Both could be the one that goes on, so no server starts on SQLite until it is known.
    let (code, error) = filled.setup().fail_to_start().await;
    assert_eq!(code, Some(1));
    assert_contains(&error, &["uproar migrate"]);
    shell.execute(&format!("ALTER ROLE {role} LOGIN")).await;
    filled.moves_now(&before, &own_url).await;
}

#[tokio::test]
async fn a_source_that_cannot_be_written_does_not_move() {
    let filled = Filled::stopped().await;
    let (url, before) = (new_postgres_database().await, filled.dump().await);
    let data = filled.setup().data();
    // No file may grow beyond a block. The lock file is shorter.
    let script = r#"trap "" XFSZ; ulimit -f 1; exec "$0" "$@""#;
    let output = tokio::process::Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_uproar"), "migrate", "--data"])
        .args([data.to_str().unwrap(), "--database", &url])
        .output();
    let output = within("it exits", output).await.unwrap();
    assert_contains(&error_of(&output), &["can't", "uproar.db"]);

    // Everything has arrived, but the source can't be marked.
    let mut shell = Backdoor::sqlite(&data.join("uproar.db")).await;
    shell
        .execute(
            "CREATE TRIGGER full_disk BEFORE INSERT ON meta WHEN new.name = 'moved_to' BEGIN
               SELECT RAISE(ABORT, 'database or disk is full');
             END",
        )
        .await;
    let error = error_of(&filled.migrate(&url).await);
    assert_contains(&error, &["can't write to the database", "disk is full", "nothing was moved"]);
    shell.execute("DROP TRIGGER full_disk").await;
    filled.moves_now(&before, &url).await;
}
