//! PostgreSQL's server: which process may use a database, and what happens when the server goes away.

use crate::fixture::*;
use crate::harness::*;
use sqlx::{ConnectOptions, Connection, PgConnection, postgres::PgConnectOptions};
use std::net::TcpListener;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio::time::Instant;
use uproar_model::{Marker, Outcome, Refusal, RoomId, UserId, skeleton};
use uproar_store::testing::TestPostgres;
use uproar_store::{
    AppendError, CreateUserError, DataFolder, NewRoom, OpenOptions, RenameError, RoomError, RoomKind, Store,
    StoreError, open,
};

/// Waits until this many sessions of the database wait for a lock.
async fn until_waiting(shell: &mut PgConnection, count: i64) {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let deadline = Instant::now() + SOON;
    while sqlx::query_scalar::<_, i64>(sql).fetch_one(&mut *shell).await.unwrap() != count {
        assert!(Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
}

/// Sends the same batch until there is an answer, as a lane does.
async fn append_until_known(store: &Arc<dyn Store>, batch: &[uproar_model::Item]) -> Vec<Outcome> {
    let deadline = Instant::now() + SOON;
    loop {
        match store.append(batch).await {
            Ok(outcomes) => return outcomes,
            Err(AppendError::OutcomeUnknown(why)) => assert!(Instant::now() < deadline, "{why}"),
            Err(other) => panic!("{other}"),
        }
        tokio::task::yield_now().await;
    }
}

#[test]
fn reserved_names_are_folded_anew_with_the_others() {
    runtime().block_on(async {
        let fixture = Fixture::new(postgres()).await;
        fixture.open().await.close().await;
        let mut shell = fixture.shell().await;
        run(&mut shell, OLD_RESERVATIONS).await;
        shell.close().await.unwrap();
        let store = fixture.open().await;
        assert_reservations_are_folded(&World::of(Arc::clone(&store))).await;
        store.close().await;
    });
}

/// Pooled connections that were cut are discovered one by one, as they are used.
async fn until_it_answers(store: &Arc<dyn Store>) {
    let deadline = Instant::now() + SOON;
    while store.ping().await.is_err() {
        assert!(Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
}

#[test]
fn only_one_process_can_open_a_database() {
    let server = postgres();
    runtime().block_on(async {
        let fixture = Fixture::new(server).await;
        let store = fixture.open().await;
        let error = fixture.open_error().await;
        assert!(error.contains("another uproar is using the database"), "{error}");
        // It says where the other one is, and the way out if that no longer exists.
        for words in ["/uproar_test_", "connected from 127.0.0.1 since 20", "SELECT pg_terminate_backend("] {
            assert!(error.contains(words), "{error}");
        }
        // Another process can use another database.
        Fixture::new(server).await.open().await.close().await;
        let (room, _) = create_lobby(&store).await;
        let before = store.heads(&[room]).await.unwrap();
        store.close().await;
        let store = fixture.open().await;
        assert_eq!(store.heads(&[room]).await.unwrap(), before, "the epoch is the same too");
        store.close().await;
    });
}

#[test]
fn a_batch_that_waited_for_a_lock_sees_what_its_holder_committed() {
    let server = postgres();
    runtime().block_on(async {
        let fixture = Fixture::new(server).await;
        let store = fixture.open().await;
        let (room, ann) = create_lobby(&store).await;
        // Another writer has inserted "one", and still holds the lock of the head.
        let mut other = fixture.shell().await;
        let mut transaction = other.begin().await.unwrap();
        let sql = "SELECT at_offset FROM append(ARRAY[$1], ARRAY[$2], ARRAY['one'], ARRAY[0::smallint],
            ARRAY[NULL::bigint], ARRAY['text'])";
        let offset: i64 = sqlx::query_scalar(sql).bind(room.0).bind(ann.0).fetch_one(&mut *transaction).await.unwrap();
        assert_eq!(offset, 2);
        let waiting = {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let batch = [message(room, ann, "one", "text"), message(room, ann, "two", "text")];
                store.append(&batch).await.unwrap()
            })
        };
        until_waiting(&mut fixture.shell().await, 1).await;
        transaction.commit().await.unwrap();
        let outcomes = waiting.await.unwrap();
        assert!(matches!(outcomes[0], Outcome::Duplicate(stored) if stored.offset == 2), "{outcomes:?}");
        assert_eq!(new(outcomes[1]).offset, 3);
        store.close().await;
    });
}

/// The second of two joins once asked for the head's lock after the room's, because the room had become small.
#[test]
fn joins_to_a_room_that_becomes_small_do_not_deadlock() {
    runtime().block_on(async {
        let fixture = Fixture::new(postgres()).await;
        let options = OpenOptions { join_leave_limit: 3, ..OpenOptions::default() };
        let store = fixture.try_open(options).await.unwrap();
        let world = World::of(Arc::clone(&store));
        world.lobby().await;
        let wanted = [world.user("Dora").await, world.user("Eve").await].map(|user| ("lobby".to_owned(), user));
        // Two members leave, while the joins have seen the room with three.
        let mut departures = fixture.shell().await;
        run(&mut departures, "BEGIN; UPDATE rooms SET members = 1").await;
        let joining = {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.admit(&wanted).await })
        };
        let mut shell = fixture.shell().await;
        until_waiting(&mut shell, 1).await;
        // Another departure has the head's lock, and waits for the room's behind the joins.
        let mut another = fixture.shell().await;
        run(&mut another, "BEGIN; SELECT FROM heads FOR NO KEY UPDATE").await;
        let leaving = tokio::spawn(async move { run(&mut another, "SELECT FROM rooms FOR NO KEY UPDATE").await });
        until_waiting(&mut shell, 2).await;
        run(&mut departures, "COMMIT").await;
        let joined = joining.await.unwrap().unwrap();
        assert!(joined.iter().flatten().filter(|admission| admission.joined && admission.added.is_none()).count() == 2);
        leaving.await.unwrap();
        store.close().await;
    });
}

/// A line between a store and PostgreSQL on which nothing moves while it is stopped: as if the store's process were.
struct Line {
    url: String,
    stopped: watch::Sender<bool>,
}

impl Line {
    async fn to(url: &str) -> Line {
        let (user, rest) = url.split_once('@').unwrap();
        let (address, database) = rest.split_once('/').unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("{user}@{}/{database}", listener.local_addr().unwrap());
        let (stopped, address) = (watch::Sender::new(false), address.to_owned());
        let receiver = stopped.subscribe();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = TcpStream::connect(&address).await.unwrap().into_split();
                tokio::spawn(pass(from_client, to_server, receiver.clone()));
                tokio::spawn(pass(from_server, to_client, receiver.clone()));
            }
        });
        Line { url, stopped }
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut stopped: watch::Receiver<bool>) {
    let mut bytes = vec![0; 1 << 16];
    loop {
        let count = from.read(&mut bytes).await.unwrap_or(0);
        // The end of a connection does not pass either.
        let passes = stopped.wait_for(|stopped| !stopped).await.is_ok();
        if !passes || count == 0 || to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}

/// A removal and a deletion once were several statements in a transaction. A process that stopped between two of them
/// held the lock of the room's head, for which every other one had to wait.
#[test]
fn a_process_that_stops_holds_up_no_room() {
    runtime().block_on(async {
        let fixture = Fixture::new(postgres()).await;
        let line = Line::to(&fixture.url).await;
        let through = Fixture { url: line.url.clone(), ..Fixture::new(postgres()).await };
        // PostgreSQL gives up what a session has locked only after this time.
        let options = OpenOptions { call_timeout: 2 * SOON, ..OpenOptions::default() };
        let store = through.try_open(options).await.unwrap();
        let world = World::of(Arc::clone(&store));
        let Lobby { room, ann, ben, .. } = world.lobby().await;
        let (dora, eve) = (world.user("Dora").await, world.user("Eve").await);
        world.user("Finn").await;

        let stop_during = async |call: Pin<Box<dyn Future<Output = bool> + Send>>| {
            let (mut holder, mut shell) = (fixture.shell().await, fixture.shell().await);
            run(&mut holder, "BEGIN; SELECT FROM heads FOR UPDATE; SELECT FROM members FOR UPDATE").await;
            let call = tokio::spawn(call);
            until_waiting(&mut shell, 1).await;
            line.stopped.send_replace(true);
            run(&mut holder, "COMMIT").await;
            let sql = "SET lock_timeout = '20s'; SELECT FROM heads FOR UPDATE; SELECT FROM rooms FOR UPDATE;
                SELECT FROM members FOR UPDATE; SELECT FROM reserved_names FOR UPDATE";
            run(&mut shell, sql).await;
            line.stopped.send_replace(false);
            assert!(call.await.unwrap());
        };
        let with = || Arc::clone(&store);
        let s = with();
        stop_during(Box::pin(async move { s.append(&[message(room, ann, "1", "x")]).await.is_ok() })).await;
        let s = with();
        stop_during(Box::pin(async move { s.join("lobby", dora).await.is_ok_and(|join| join.joined) })).await;
        let s = with();
        stop_during(Box::pin(async move { s.admit(&[("lobby".to_owned(), eve)]).await.unwrap()[0].is_ok() })).await;
        let s = with();
        stop_during(Box::pin(async move { s.add_member("lobby", ann, "finn").await.is_ok_and(|a| a.joined) })).await;
        let s = with();
        stop_during(Box::pin(async move { s.remove_member("lobby", ann, "dora").await.is_ok() })).await;
        let s = with();
        let marker = Marker { offset: 1, number: 0 };
        stop_during(Box::pin(async move { s.mark_read(&[(room, ben, marker)]).await.is_ok() })).await;
        let s = with();
        stop_during(Box::pin(async move { s.delete_room("lobby", ann, 1000).await.is_ok() })).await;
        store.close().await;
    });
}

/// A process that stops may send an attempt long after another one has answered for the item.
#[test]
fn an_append_that_comes_too_late_is_void() {
    runtime().block_on(async {
        let fixture = Fixture::new(postgres()).await;
        let store = fixture.open().await;
        let (room, ann) = create_lobby(&store).await;
        let sql = "SELECT outcome FROM append(ARRAY[$1], ARRAY[$2], ARRAY['late'], ARRAY[0::smallint],
            ARRAY[NULL::bigint], ARRAY['x'], clock_ms() + $3)";
        let attempt = sqlx::query_scalar::<_, String>(sql).bind(room.0).bind(ann.0).bind(100_i64);
        // It is in time when it is sent, but not any more when it gets the lock.
        let (mut shell, mut holder, mut late) = (fixture.shell().await, fixture.shell().await, fixture.shell().await);
        run(&mut holder, "BEGIN; SELECT FROM heads FOR UPDATE").await;
        let waiting = tokio::spawn(async move { attempt.fetch_one(&mut late).await });
        until_waiting(&mut shell, 1).await;
        run(&mut shell, "SELECT pg_sleep(0.2)").await;
        run(&mut holder, "COMMIT").await;
        let error = waiting.await.unwrap().unwrap_err();
        assert_eq!(error.as_database_error().unwrap().code().unwrap(), "UP001");

        // By the database's clock, every attempt of the store is too late.
        let clock = "CREATE OR REPLACE FUNCTION clock_ms() RETURNS bigint LANGUAGE sql VOLATILE AS
            'SELECT CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS bigint) + ";
        let set_ahead = |ms: i64| sqlx::AssertSqlSafe(format!("{clock} {ms}'"));
        let batch = [message(room, ann, "late", "x")];
        sqlx::raw_sql(set_ahead(40_000)).execute(&mut shell).await.unwrap();
        for _ in 0..3 {
            let unknown = store.append(&batch).await;
            assert!(
                matches!(&unknown, Err(AppendError::OutcomeUnknown(why)) if why.contains("too late")),
                "{unknown:?}"
            );
        }
        assert_eq!(World::of(Arc::clone(&store)).log(room).await.len(), 1);
        sqlx::raw_sql(set_ahead(20_000)).execute(&mut shell).await.unwrap();
        assert_eq!(new(store.append(&batch).await.unwrap()[0]).offset, 2, "the next attempt has a time of its own");
        store.close().await;
    });
}

/// The creation of a room is several statements, in which an expired reservation is removed.
#[test]
fn a_deletion_waits_for_no_reserved_name() {
    runtime().block_on(async {
        let fixture = Fixture::new(postgres()).await;
        let store = fixture.open().await;
        let (_, ann) = create_lobby(&store).await;
        let mut creation = fixture.shell().await;
        run(&mut creation, "INSERT INTO reserved_names VALUES ('old', 1, 1, 'old')").await;
        run(&mut creation, "BEGIN; DELETE FROM reserved_names WHERE name = 'old'").await;
        store.delete_room("lobby", ann, 1000).await.unwrap();
        run(&mut creation, "ROLLBACK").await;
        store.close().await;
    });
}

/// Who may remove whom, and add. On SQLite the rules are in Rust.
#[test]
fn roles_decide_about_removals_and_additions() {
    runtime().block_on(async {
        let fixture = Fixture::new(postgres()).await;
        let store = fixture.open().await;
        let Lobby { ann, ben, cleo, .. } = World::of(Arc::clone(&store)).lobby().await;
        let mut shell = fixture.shell().await;
        let mut set_role = async |user: UserId, role: i16| {
            let sql = "UPDATE members SET role = $2 WHERE user_id = $1";
            sqlx::query(sql).bind(user.0).bind(role).execute(&mut shell).await.unwrap();
        };
        let (member, moderator, owner) = (0, 1, 2);
        for (actor, other, refused) in [
            (member, member, Some("only the owner and moderators can remove members")),
            (member, moderator, Some("only the owner and moderators can remove members")),
            (member, owner, Some("only the owner and moderators can remove members")),
            (moderator, member, None),
            (moderator, moderator, Some("only the owner can remove moderators")),
            (moderator, owner, Some("an owner can't be removed")),
            (owner, member, None),
            (owner, moderator, None),
        ] {
            set_role(ben, actor).await;
            set_role(cleo, other).await;
            match (store.remove_member("lobby", ben, "cleo").await, refused) {
                (Ok(_), None) => drop(store.join("lobby", cleo).await.unwrap()),
                (Err(RoomError::NotAllowed(text)), Some(refused)) => assert_eq!(text, refused),
                (other, _) => panic!("{actor} {other:?}"),
            }
        }
        set_role(ben, owner).await;
        set_role(ann, member).await;
        let leaving = store.remove_member("lobby", ben, "ben").await;
        assert!(matches!(leaving, Err(RoomError::NotAllowed(text)) if text.starts_with("the last owner can't leave")));
        World::of(Arc::clone(&store)).user("Dora").await;
        set_role(ben, moderator).await;
        assert!(store.add_member("lobby", ben, "dora").await.unwrap().joined);
        assert!(store.remove_member("lobby", ben, "ben").await.is_ok(), "a moderator can leave");
        store.close().await;
    });
}

/// A call looks up the room and the roles first, but they may have changed when it has the locks: the functions decide.
#[test]
fn the_functions_check_rights_themselves() {
    runtime().block_on(async {
        let fixture = Fixture::new(postgres()).await;
        let store = fixture.open().await;
        let world = World::of(Arc::clone(&store));
        let Lobby { room, ben, .. } = world.lobby().await;
        let (ann, eve) = (world.user("Ann").await, world.user("Eve").await);
        let secret = world.room("secret", ann, RoomKind::Private, 5).await.id;
        store.add_member("secret", ann, "ben").await.unwrap();
        let mut shell = fixture.shell().await;
        let mut join = async |room: RoomId, user: UserId, adder: Option<UserId>| {
            let sql = "SELECT outcome FROM join_rooms(ARRAY[$1], ARRAY[$2], $3, 9)";
            let query = sqlx::query_scalar(sql).bind(room.0).bind(user.0).bind(adder.map(|adder| adder.0));
            query.fetch_one(&mut shell).await.unwrap()
        };
        let outcomes: [String; 9] = [
            join(secret, eve, None).await,
            join(secret, eve, Some(eve)).await,
            join(secret, eve, Some(ben)).await,
            join(secret, ben, None).await,
            join(room, eve, Some(ben)).await,
            join(room, UserId(99), None).await,
            join(room, eve, None).await,
            join(RoomId(99), eve, None).await,
            join(secret, eve, Some(ann)).await,
        ];
        let expected =
            ["no_room", "no_room", "cannot_add", "member", "cannot_add", "no_user", "joined", "no_room", "joined"];
        assert_eq!(outcomes, expected);

        let mut call = async |sql: &'static str, room: RoomId, actor: UserId| {
            sqlx::query_scalar::<_, String>(sql).bind(room.0).bind(actor.0).fetch_one(&mut shell).await.unwrap()
        };
        let remove = "SELECT outcome FROM remove_member($1, $2, 'ben')";
        let delete = "SELECT delete_room($1, $2, 0, '', 100)";
        store.remove_member("secret", ann, "eve").await.unwrap();
        let outcomes = [
            call(remove, secret, eve).await,
            call(delete, secret, eve).await,
            call(delete, secret, ben).await,
            call(delete, room, eve).await,
            call(delete, secret, ann).await,
            call(delete, secret, ann).await,
            call(remove, secret, ben).await,
        ];
        let expected = ["no_room", "no_room", "cannot_delete", "cannot_delete", "deleted", "no_room", "no_room"];
        assert_eq!(outcomes, expected);
        store.close().await;
    });
}

/// `local` does not wait for a synchronous standby, so a failover could lose what was acknowledged.
#[test]
fn every_change_of_a_room_is_committed_durably() {
    runtime().block_on(async {
        let fixture = Fixture::new(postgres()).await;
        let store = fixture.open().await;
        let world = World::of(Arc::clone(&store));
        let Lobby { room, ann, .. } = world.lobby().await;
        let dora = world.user("Dora").await;
        let mut shell = fixture.shell().await;
        // A trigger that runs at the commit records the setting that applies to it.
        run(
            &mut shell,
            "CREATE TABLE seen (setting text);
             CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
               INSERT INTO seen VALUES (current_setting('synchronous_commit')); RETURN NULL; END $$;
             CREATE CONSTRAINT TRIGGER see AFTER UPDATE OR DELETE ON heads DEFERRABLE INITIALLY DEFERRED
               FOR EACH ROW EXECUTE FUNCTION see()",
        )
        .await;
        let values = [
            ("off", "on"),
            ("local", "on"),
            ("on", "on"),
            ("remote_write", "remote_write"),
            ("remote_apply", "remote_apply"),
        ];
        for (value, effective) in values {
            let calls = [
                format!(
                    "SELECT FROM append(ARRAY[{room}::bigint], ARRAY[{ann}::bigint], ARRAY['{value}'],
                     ARRAY[0::smallint], ARRAY[NULL::bigint], ARRAY['x'])"
                ),
                format!("SELECT FROM join_rooms(ARRAY[{room}::bigint], ARRAY[{dora}::bigint], NULL, 9)"),
                format!("SELECT FROM remove_member({room}, {ann}, 'dora')"),
            ];
            for sql in calls {
                let sql = format!("TRUNCATE seen; SET synchronous_commit = {value}; {sql}");
                for sql in sql.split("; ") {
                    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut shell).await.unwrap();
                }
                let seen: Vec<String> =
                    sqlx::query_scalar("SELECT DISTINCT setting FROM seen").fetch_all(&mut shell).await.unwrap();
                assert_eq!(seen, [effective], "{sql}");
            }
        }
        run(&mut shell, "TRUNCATE seen; SET synchronous_commit = local").await;
        let sql = "SELECT delete_room($1, $2, 0, '', 100)";
        sqlx::query(sql).bind(room.0).bind(ann.0).execute(&mut shell).await.unwrap();
        let seen: String = sqlx::query_scalar("SELECT setting FROM seen").fetch_one(&mut shell).await.unwrap();
        assert_eq!(seen, "on");
        run(&mut shell, "SET default_transaction_isolation = 'serializable'").await;
        let error = sqlx::query(sql).bind(room.0).bind(ann.0).execute(&mut shell).await.unwrap_err().to_string();
        assert!(error.contains("needs READ COMMITTED"), "{error}");
        store.close().await;
    });
}

#[test]
fn an_unknown_outcome_is_settled_by_sending_the_batch_again() {
    let server = postgres();
    runtime().block_on(async {
        let fixture = Fixture::new(server).await;
        let store = fixture.open().await;
        let (room, ann) = create_lobby(&store).await;
        let mut shell = fixture.shell().await;
        for n in 0..10 {
            // Cuts all connections, the guard's too, while batches are in progress.
            let batches: Vec<_> = (0..3)
                .map(|writer| {
                    let store = Arc::clone(&store);
                    tokio::spawn(async move {
                        let batch = [message(room, ann, &format!("{n} {writer}"), "x")];
                        append_until_known(&store, &batch).await
                    })
                })
                .collect();
            run(
                &mut shell,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                 WHERE datname = current_database() AND pid <> pg_backend_pid()",
            )
            .await;
            for batch in batches {
                assert!(matches!(batch.await.unwrap()[0], Outcome::New(_) | Outcome::Duplicate(_)));
            }
        }
        until_it_answers(&store).await;
        assert_eq!(World::of(Arc::clone(&store)).log(room).await.len(), 31);
        store.close().await;
    });
}

#[test]
fn a_store_whose_database_was_taken_over_commits_nothing_more() {
    let server = postgres();
    runtime().block_on(async {
        let fixture = Fixture::new(server).await;
        let store = fixture.open().await;
        let (room, ann) = create_lobby(&store).await;
        // Another process takes the lock as soon as the guard connection is lost.
        let mut intruder = fixture.shell().await;
        let taking = tokio::spawn(async move {
            sqlx::query("SELECT pg_advisory_lock($1)").bind(0x7570_726f_6172_i64).execute(&mut intruder).await.unwrap();
            intruder
        });
        let mut shell = fixture.shell().await;
        let deadline = Instant::now() + SOON;
        loop {
            let sql = "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
                WHERE d.datname = current_database() AND l.locktype = 'advisory' AND NOT l.granted";
            if sqlx::query_scalar::<_, i64>(sql).fetch_one(&mut shell).await.unwrap() == 1 {
                break;
            }
            assert!(Instant::now() < deadline);
            tokio::task::yield_now().await;
        }
        run(
            &mut shell,
            "SELECT pg_terminate_backend(l.pid) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
             WHERE d.datname = current_database() AND l.locktype = 'advisory' AND l.granted",
        )
        .await;
        let intruder = taking.await.unwrap();
        let reason = loop {
            match store.append(&[message(room, ann, "1", "x")]).await {
                Err(AppendError::Ended(reason)) => break reason,
                Ok(_) | Err(AppendError::OutcomeUnknown(_)) => assert!(Instant::now() < deadline),
                Err(other) => panic!("{other}"),
            }
            tokio::task::yield_now().await;
        };
        // The loser says who has the database now.
        for words in ["another uproar has taken over the database", "connected from 127.0.0.1 since 20", "process "] {
            assert!(reason.contains(words), "{reason}");
        }
        assert_eq!(store.ended().await, reason);
        assert!(store.ping().await.is_ok(), "reads still work");
        drop(intruder);
        assert!(
            matches!(store.append(&[message(room, ann, "1", "x")]).await, Err(AppendError::Ended(_))),
            "the state is permanent"
        );
        store.close().await;
    });
}

#[test]
fn the_store_recovers_from_a_crash_of_the_server() {
    runtime().block_on(async {
        let mut server = match TestPostgres::start().await {
            Ok(server) => server,
            Err(why) => panic!("{why}"),
        };
        let fixture = Fixture::new(&server).await;
        let store = fixture.open().await;
        let (room, ann) = create_lobby(&store).await;
        if server.kill().is_err() {
            // The server that the environment names can't be stopped. The other tests cover what is possible without.
            return store.close().await;
        }
        let options = OpenOptions { acquire_timeout: Duration::from_millis(200), ..OpenOptions::default() };
        let batch = [message(room, ann, "first", "x"), message(room, ann, "second", "x")];
        assert!(matches!(store.append(&batch).await, Err(AppendError::OutcomeUnknown(_))));
        assert!(store.ping().await.is_err());
        let error = fixture.try_open(options).await.err().expect("an error").to_string();
        assert!(error.contains("can't reach PostgreSQL at"), "{error}");
        server.restart().await.unwrap();
        let outcomes = append_until_known(&store, &batch).await;
        assert!(matches!(outcomes[0], Outcome::Duplicate(stored) if stored.offset == 1), "{outcomes:?}");
        assert!(matches!(outcomes[1], Outcome::New(stored) if stored.offset == 2), "{outcomes:?}");
        until_it_answers(&store).await;
        store.close().await;
        server.stop().unwrap();
    });
}

#[test]
fn a_missing_database_is_reported() {
    let server = postgres();
    runtime().block_on(async {
        let mut fixture = Fixture::new(server).await;
        // A port that is bound but not listened on: no other program can use it, and connections are refused.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        fixture.url = format!("postgres://joe:secret@127.0.0.1:{port}/chat");
        let error = fixture.open_error().await;
        assert!(error.contains(&format!("127.0.0.1:{port}/chat")) && error.contains("refused"), "{error}");
        assert!(!error.contains("secret"), "{error}");

        fixture.url = server.url("no_such_database");
        let error = fixture.open_error().await;
        assert!(error.contains("no_such_database") && error.contains("does not exist"), "{error}");

        // A server that accepts connections and never answers.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        fixture.url = format!("postgres://joe:secret@127.0.0.1:{}/chat", silent.local_addr().unwrap().port());
        let options = OpenOptions { open_timeout: Duration::from_millis(200), ..OpenOptions::default() };
        let error = fixture.try_open(options).await.err().expect("an error").to_string();
        assert!(error.contains("no answer") && !error.contains("secret"), "{error}");
    });
}

/// What PostgreSQL says is not enough: each error names the remedy, without a line number of PostgreSQL's source code.
#[test]
fn errors_at_the_start_name_the_remedy() {
    let server = postgres();
    runtime().block_on(async {
        let fixture = Fixture::new(server).await;
        let mut shell = fixture.shell().await;
        let database: String = sqlx::query_scalar("SELECT current_database()").fetch_one(&mut shell).await.unwrap();
        let guest = format!("guest_{database}");
        let sql = format!("CREATE ROLE {guest} LOGIN; REVOKE CREATE ON SCHEMA public FROM PUBLIC");
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut shell).await.unwrap();
        let (_, address) = fixture.url.split_once('@').unwrap();
        let explained = async |url: String| {
            let directory = tempfile::TempDir::new().unwrap();
            let folder = DataFolder::open(directory.path().join("data")).unwrap();
            let opened = open(&url.parse().unwrap(), &folder, OpenOptions::default()).await;
            let error = opened.err().expect("an error").to_string();
            assert!(!error.contains("at line") && !error.contains('\n'), "{error}");
            error
        };
        let assert_words = |error: String, words: &[&str]| {
            assert!(words.iter().all(|word| error.contains(word)), "{error}");
        };
        let error = explained(format!("postgres://{guest}@{address}")).await;
        assert_words(error, &[&guest, "rights", "ALTER DATABASE", "GRANT ALL ON SCHEMA public"]);
        let error = explained(format!("postgres://nobody_{guest}@{address}")).await;
        assert_words(error, &["does not let the user", "create the role", "pg_hba.conf"]);
        let error = explained(format!("postgres://{guest}@{address}_not")).await;
        assert_words(error, &["does not exist", &format!("createdb --owner {guest}"), &format!("{database}_not")]);
        run(&mut shell, "CREATE TABLE users (id int)").await;
        assert_words(fixture.open_error().await, &[&database, "another program", "database of its own"]);
        run(&mut shell, "DROP TABLE users").await;
        let sql = format!("ALTER DATABASE {database} SET default_transaction_read_only = on");
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut shell).await.unwrap();
        assert_words(fixture.open_error().await, &[&database, "read-only"]);
    });
}

#[test]
fn sessions_of_a_time_when_the_database_was_read_only_are_replaced() {
    let server = postgres();
    runtime().block_on(async {
        let fixture = Fixture::new(server).await;
        let store = fixture.open().await;
        let (room, ann) = create_lobby(&store).await;
        let world = World::of(Arc::clone(&store));
        let mut shell = fixture.shell().await;
        let database: String = sqlx::query_scalar("SELECT current_database()").fetch_one(&mut shell).await.unwrap();
        let alter = |change| sqlx::AssertSqlSafe(format!("ALTER DATABASE {database} {change}"));
        let read_only = alter("SET default_transaction_read_only = on");
        sqlx::raw_sql(read_only).execute(&mut shell).await.unwrap();
        run(&mut shell, CUT).await;
        // Messages can be read, but nothing can be written.
        let batch = [message(room, ann, "second", "x")];
        for _ in 0..3 {
            assert!(matches!(store.append(&batch).await, Err(AppendError::OutcomeUnknown(_))));
        }
        until_it_answers(&store).await;
        assert_eq!(world.log(room).await.len(), 1);
        assert!(store.ensure_user("Ben", "ben").await.is_err());
        let writable = alter("RESET default_transaction_read_only");
        sqlx::raw_sql(writable).execute(&mut shell).await.unwrap();
        let outcomes = append_until_known(&store, &batch).await;
        assert!(matches!(outcomes[0], Outcome::New(stored) if stored.offset == 2), "{outcomes:?}");
        // Every other session was replaced too.
        let users: Vec<_> = (0..20).map(|n| format!("user{n}")).collect();
        for user in &users {
            store.ensure_user(user, user).await.unwrap();
        }
        store.close().await;
    });
}

/// Several calls failed, one for each session that had ended.
#[test]
fn no_call_fails_because_its_session_had_ended() {
    let server = postgres();
    runtime().block_on(async {
        let fixture = Fixture::new(server).await;
        let store = fixture.open().await;
        let (_, ann) = create_lobby(&store).await;
        let mut shell = fixture.shell().await;
        for _ in 0..3 {
            // Several sessions that were used a moment ago.
            let (a, b, c) = tokio::join!(store.account(ann), store.account(ann), store.ping());
            assert!(a.is_ok() && b.is_ok() && c.is_ok());
            run(
                &mut shell,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                 WHERE datname = current_database() AND pid <> pg_backend_pid()",
            )
            .await;
            assert!(store.account(ann).await.unwrap().is_some());
            store.revoke_tokens(ann).await.unwrap().unwrap();
        }
        store.close().await;
    });
}

/// A session that answers each call with an error is closed after the first one.
#[test]
fn a_session_with_stale_plans_is_replaced() {
    let server = postgres();
    runtime().block_on(async {
        let fixture = Fixture::new(server).await;
        let options = OpenOptions { pool_size: 1, ..OpenOptions::default() };
        let store = fixture.try_open(options).await.unwrap();
        let (_, ann) = create_lobby(&store).await;
        assert!(store.account(ann).await.unwrap().is_some());
        let mut shell = fixture.shell().await;
        run(&mut shell, "ALTER TABLE users ALTER COLUMN username TYPE varchar").await;
        let error = store.account(ann).await.unwrap_err().to_string();
        assert!(error.contains("cached plan") && error.contains("0A000"), "{error}");
        assert!(store.account(ann).await.unwrap().is_some());
        store.close().await;
    });
}

/// The statement of a call that is given up may go on in the database. Nobody else must get its session.
#[test]
fn the_session_of_an_abandoned_batch_is_closed() {
    let server = postgres();
    runtime().block_on(async {
        let fixture = Fixture::new(server).await;
        let options = OpenOptions { lanes: 1, ..OpenOptions::default() };
        let store = fixture.try_open(options).await.unwrap();
        let (room, ann) = create_lobby(&store).await;
        let mut shell = fixture.shell().await;
        let busy = "SELECT pid FROM pg_stat_activity
            WHERE datname = current_database() AND wait_event_type = 'Lock' AND state = 'active'";
        let mut holder = fixture.shell().await;
        let mut transaction = holder.begin().await.unwrap();
        sqlx::query("SELECT 1 FROM heads FOR UPDATE").execute(&mut *transaction).await.unwrap();
        let mut waiting = Vec::new();
        for _ in 0..2 {
            let abandoned = tokio::spawn({
                let store = Arc::clone(&store);
                async move { store.append(&[message(room, ann, "second", "x")]).await }
            });
            let deadline = Instant::now() + SOON;
            let count = waiting.len() + 1;
            while waiting.len() < count {
                waiting = sqlx::query_scalar::<_, i32>(busy).fetch_all(&mut shell).await.unwrap();
                assert!(Instant::now() < deadline, "the batch waits in a session of its own: {waiting:?}");
                tokio::task::yield_now().await;
            }
            abandoned.abort();
        }
        transaction.rollback().await.unwrap();
        let outcomes = append_until_known(&store, &[message(room, ann, "second", "x")]).await;
        assert!(matches!(outcomes[0], Outcome::New(s) | Outcome::Duplicate(s) if s.offset == 2), "{outcomes:?}");
        store.close().await;
    });
}

#[test]
fn sessions_have_a_maximum_age() {
    let server = postgres();
    runtime().block_on(async {
        let fixture = Fixture::new(server).await;
        let options = OpenOptions { session_age_limit: Duration::from_millis(1), ..OpenOptions::default() };
        let store = fixture.try_open(options).await.unwrap();
        let (room, ann) = create_lobby(&store).await;
        let mut shell = fixture.shell().await;
        let mut oldest = async || {
            // All sessions but the guard's.
            let sql = "SELECT count(*) FROM pg_stat_activity a WHERE datname = current_database()
                AND pid <> pg_backend_pid() AND pid NOT IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory')";
            sqlx::query_scalar::<_, i64>(sql).fetch_one(&mut shell).await.unwrap()
        };
        for n in 0..20 {
            new(store.append(&[message(room, ann, &format!("{n}"), "x")]).await.unwrap()[0]);
            store.ping().await.unwrap();
        }
        // PostgreSQL notices the end of a session a moment later.
        let deadline = Instant::now() + SOON;
        while oldest().await > 0 {
            assert!(Instant::now() < deadline, "sessions are kept beyond their age");
            tokio::task::yield_now().await;
        }
        store.close().await;
    });
}

/// A standby without the last commits has taken over, or a backup was restored under the running server. What this
/// server has told its clients is then wrong.
#[test]
fn a_store_whose_database_has_gone_back_commits_nothing_more() {
    let server = postgres();
    runtime().block_on(async {
        for lost in [
            "UPDATE heads SET last_offset = 2, last_number = 2; DELETE FROM messages WHERE room_offset = 3",
            "UPDATE messages SET created_at = created_at - 1 WHERE room_offset = 3",
            "UPDATE meta SET value = 'another' WHERE name = 'mark'",
        ] {
            let fixture = Fixture::new(server).await;
            let store = fixture.open().await;
            let (room, ann) = create_lobby(&store).await;
            let world = World::of(Arc::clone(&store));
            world.send(room, ann, &["second"]).await;
            // A room that was deleted is no loss.
            let deleted = world.public_room("deleted", ann).await.id;
            world.send(deleted, ann, &["x"]).await;
            store.delete_room("deleted", ann, 0).await.unwrap();
            let mut shell = fixture.shell().await;
            run(&mut shell, CUT).await;
            append_until_known(&store, &[message(room, ann, "third", "x")]).await;
            run(&mut shell, lost).await;
            run(&mut shell, CUT).await;
            let deadline = Instant::now() + SOON;
            let reason = loop {
                match store.append(&[message(room, ann, "fourth", "x")]).await {
                    Err(AppendError::Ended(reason)) => break reason,
                    Err(AppendError::OutcomeUnknown(_)) => assert!(Instant::now() < deadline),
                    other => panic!("{lost}: {other:?}"),
                }
                tokio::task::yield_now().await;
            };
            assert!(reason.contains("lacks what this server has committed"), "{reason}");
            store.close().await;
        }
    });
}

#[test]
fn a_newer_schema_is_refused() {
    let server = postgres();
    runtime().block_on(async {
        let fixture = Fixture::new(server).await;
        fixture.open().await.close().await;
        let mut shell = fixture.shell().await;
        run(
            &mut shell,
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
             VALUES (99, 'later', true, '', 0);
             UPDATE meta SET value = '99' WHERE name = 'usable_since'",
        )
        .await;
        let error = fixture.open_error().await;
        assert!(error.contains("schema version 99") && error.contains("newer uproar"), "{error}");
        run(&mut shell, "DELETE FROM _sqlx_migrations WHERE version = 99").await;
        // The refused process has released the lock.
        fixture.open().await.close().await;
    });
}

/// Servers are upgraded one after the other, so one of an older release may start on the schema of a newer one.
#[test]
fn a_newer_schema_is_used_if_it_says_so() {
    runtime().block_on(async {
        let fixture = Fixture::new(postgres()).await;
        fixture.open().await.close().await;
        let mut shell = fixture.shell().await;
        let sql = "SELECT max(version) FROM _sqlx_migrations";
        let known: i64 = sqlx::query_scalar(sql).fetch_one(&mut shell).await.unwrap();
        run(
            &mut shell,
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
             VALUES (98, 'later', true, '', 0), (99, 'later', true, '', 0)",
        )
        .await;
        let mut set_usable_since = async |value: Option<String>| {
            run(&mut shell, "DELETE FROM meta WHERE name = 'usable_since'").await;
            let sql = "INSERT INTO meta (name, value) SELECT 'usable_since', $1 WHERE $1 IS NOT NULL";
            sqlx::query(sql).bind(value).execute(&mut shell).await.unwrap();
        };
        let url = fixture.url.parse().unwrap();
        let inspect = async || {
            uproar_store::inspect::database(&url, fixture.folder.path(), &OpenOptions::default())
                .await
                .map(|state| (state.schema.version, state.schema.newest, state.schema.is_current()))
        };
        for refused in [None, Some("nonsense".to_owned()), Some((known + 1).to_string())] {
            set_usable_since(refused).await;
            for error in [fixture.open_error().await, inspect().await.unwrap_err().to_string()] {
                assert!(error.contains("schema version 99") && error.contains("newer uproar"), "{error}");
            }
        }
        for used in [known, known - 1] {
            set_usable_since(Some(used.to_string())).await;
            assert_eq!(inspect().await.unwrap(), (Some(99), known, true));
            fixture.open().await.close().await;
        }
        let store = fixture.open().await;
        create_lobby(&store).await;
        store.close().await;
        uproar_store::tools::restored(&url, &fixture.folder, OpenOptions::default()).await.unwrap();
    });
}

/// Those who want a name that somebody else is taking keep a connection while they wait.
#[test]
fn a_process_that_is_stopped_while_it_takes_a_name_holds_nobody_up_for_long() {
    runtime().block_on(async {
        let fixture = Fixture::new(postgres()).await;
        let store = fixture.open().await;
        let ann = store.ensure_user("Ann", "ann").await.unwrap().id;
        let mut stopped = fixture.shell().await;
        let sql = "SELECT pg_advisory_lock(hashtextextended($1, 0))";
        sqlx::query(sql).bind(skeleton("Ben")).execute(&mut stopped).await.unwrap();
        let started = Instant::now();
        let (ensured, renamed) =
            tokio::join!(store.ensure_user("Ben", "ben"), store.rename_user(ann, "Ben", "ben", ann));
        assert!(matches!(ensured, Err(CreateUserError::Store(StoreError::Overloaded))), "{ensured:?}");
        assert!(matches!(renamed, Err(RenameError::Store(StoreError::Overloaded))), "{renamed:?}");
        // Much less than the time limit of a call.
        assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
        store.ensure_user("Cleo", "cleo").await.unwrap();
        stopped.close().await.unwrap();
        store.ensure_user("Ben", "ben").await.unwrap();
        store.close().await;
    });
}

/// An `ALTER TABLE` that waits for a lock holds up every append behind it.
#[test]
fn a_migration_does_not_wait_for_locks() {
    runtime().block_on(async {
        let fixture = Fixture::new(postgres()).await;
        fixture.open().await.close().await;
        let mut shell = fixture.shell().await;
        // The schema before migration 11.
        run(
            &mut shell,
            "DROP TABLE nodes, readers, positions, api_keys, audit, former_names, identities, hooks, uproar_outbox,
               bans, silences, pins, room_audit, blocks, invites;
             ALTER TABLE rooms DROP COLUMN topic, DROP COLUMN who_may_invite;
             DROP INDEX members_owners;
             DROP FUNCTION unpin_deleted, publish_moderated, change_room, is_banned, silenced_until CASCADE;
             ALTER TABLE messages DROP COLUMN meta;
             ALTER TABLE heads DROP COLUMN slow_mode_seconds, DROP COLUMN who_may_post;
             ALTER TABLE members DROP COLUMN silenced_until, DROP COLUMN last_posted_at;
             ALTER TABLE users DROP COLUMN blocked_at;
             DROP FUNCTION invite_state, accept_invite, sign_up_with_invite;
             DROP FUNCTION tell_nodes, tell_of_room, tell_of_revocation, uproar_outbox_tell CASCADE;
             ALTER TABLE rooms DROP COLUMN direct_key;
             DROP FUNCTION open_direct, set_block;
             DROP FUNCTION begin_change, enroll_member, expel_member, clock_ms, lock_room, publish_change, join_rooms,
               remove_member, delete_room, append(bigint[], bigint[], text[], smallint[], bigint[], text[], bigint),
               append(bigint[], bigint[], text[], smallint[], bigint[], text[], bigint, text[]);
             DELETE FROM meta WHERE name = 'usable_since'; DELETE FROM _sqlx_migrations WHERE version > 10;
             SELECT pg_advisory_lock(x'7570726f6173'::bigint)",
        )
        .await;
        let mut other = fixture.shell().await;
        let held_up = async {
            let trying = "SELECT count(*) FROM pg_stat_activity
                WHERE datname = current_database() AND state = 'idle' AND query = 'SELECT pg_try_advisory_lock($1)'";
            let deadline = Instant::now() + SOON;
            while sqlx::query_scalar::<_, i64>(trying).fetch_one(&mut other).await.unwrap() != 1 {
                assert!(Instant::now() < deadline, "another process is migrating");
                tokio::task::yield_now().await;
            }
            run(&mut other, "BEGIN; LOCK TABLE meta IN SHARE MODE").await;
            run(&mut shell, "SELECT pg_advisory_unlock_all()").await;
            // It waits a little, and then lets others pass.
            until_waiting(&mut shell, 1).await;
            until_waiting(&mut shell, 0).await;
            until_waiting(&mut shell, 1).await;
            run(&mut other, "COMMIT").await;
        };
        let (store, ()) = tokio::join!(fixture.open(), held_up);
        create_lobby(&store).await;
        store.close().await;
    });
}

#[test]
fn a_kind_of_a_newer_release_is_shown_as_an_empty_publication() {
    runtime().block_on(async {
        let fixture = Fixture::new(postgres()).await;
        let store = fixture.open().await;
        let (room, ann) = create_lobby(&store).await;
        run(&mut fixture.shell().await, UNKNOWN_KIND).await;
        assert_unknown_kind_is_shown(&World::of(Arc::clone(&store)), room, ann).await;
        store.close().await;
    });
}

/// It was once taken for a failure, after which the batch was sent again for ever.
#[test]
fn an_outcome_of_a_newer_release_is_a_refusal() {
    runtime().block_on(async {
        let fixture = Fixture::new(postgres()).await;
        let store = fixture.open().await;
        let (room, ann) = create_lobby(&store).await;
        let mut shell = fixture.shell().await;
        run(
            &mut shell,
            "CREATE OR REPLACE FUNCTION append(
               item_rooms bigint[], item_users bigint[], item_ids text[], item_kinds smallint[], item_targets bigint[],
               item_bodies text[], void_ms bigint, item_metas text[])
             RETURNS TABLE (item bigint, outcome text, at_offset bigint, at_number bigint, at_ms bigint) LANGUAGE sql
             AS $$ SELECT n, CASE n WHEN 1 THEN 'frobnicated' ELSE 'no_target' END, NULL::bigint, NULL::bigint,
                 NULL::bigint FROM generate_series(1, 2) n $$",
        )
        .await;
        let outcomes = store.append(&[message(room, ann, "1", "x"), message(room, ann, "2", "x")]).await.unwrap();
        assert_eq!(outcomes, [Refusal::Unknown, Refusal::NoTarget].map(Outcome::Refused));
        store.close().await;
    });
}

#[test]
fn a_database_with_another_encoding_is_refused() {
    let server = postgres();
    runtime().block_on(async {
        let fixture = Fixture::new(server).await;
        let mut shell = server.url("postgres").parse::<PgConnectOptions>().unwrap().connect().await.unwrap();
        let name = format!("latin_{}", std::process::id());
        let sql = format!("CREATE DATABASE {name} ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0");
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut shell).await.unwrap();
        let latin = Fixture { url: server.url(&name), ..fixture };
        let error = latin.open_error().await;
        assert!(error.contains("SQL_ASCII") && error.contains("UTF8"), "{error}");
    });
}

#[test]
fn weak_settings_of_the_server_are_overridden() {
    let server = postgres();
    for weak in ["off", "local"] {
        runtime().block_on(weak_settings_are_overridden(server, weak));
    }
}

async fn weak_settings_are_overridden(server: &TestPostgres, weak: &str) {
    let fixture = Fixture::new(server).await;
    let mut shell = fixture.shell().await;
    let database: String = sqlx::query_scalar("SELECT current_database()").fetch_one(&mut shell).await.unwrap();
    let isolation = "default_transaction_isolation = 'serializable'";
    for setting in [&format!("synchronous_commit = {weak}"), isolation] {
        let sql = format!("ALTER DATABASE {database} SET {setting}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut shell).await.unwrap();
    }
    let store = fixture.open().await;
    let (room, ann) = create_lobby(&store).await;
    // A trigger records the settings that apply to a commit.
    let mut shell = fixture.shell().await;
    run(
        &mut shell,
        "CREATE TABLE seen (setting text);
             CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
               INSERT INTO seen VALUES
                 (current_setting('synchronous_commit') || ' ' || current_setting('transaction_isolation'));
               RETURN NEW; END $$;
             CREATE TRIGGER see AFTER INSERT ON messages FOR EACH ROW EXECUTE FUNCTION see()",
    )
    .await;
    new(store.append(&[message(room, ann, "1", "x")]).await.unwrap()[0]);
    let world = World::of(Arc::clone(&store));
    let ben = world.user("Ben").await;
    store.join("lobby", ben).await.unwrap();
    store.remove_member("lobby", ben, "ben").await.unwrap();
    let seen: Vec<String> = sqlx::query_scalar("SELECT setting FROM seen").fetch_all(&mut shell).await.unwrap();
    assert_eq!(seen, ["on read committed"; 3]);
    store.close().await;
}

#[test]
fn rejected_data_is_distinguished_from_other_errors() {
    let server = postgres();
    runtime().block_on(async {
        let fixture = Fixture::new(server).await;
        let store = fixture.open().await;
        let (room, ann) = create_lobby(&store).await;
        let mut shell = fixture.shell().await;
        run(&mut shell, "ALTER TABLE messages ADD CHECK (body <> 'poison')").await;
        let batch = [message(room, ann, "1", "good"), message(room, ann, "2", "poison")];
        assert!(matches!(store.append(&batch).await, Err(AppendError::DataRejected(_))));
        assert_eq!(World::of(Arc::clone(&store)).log(room).await.len(), 1, "nothing of the batch was stored");
        assert!(matches!(store.append(&batch[1..]).await, Err(AppendError::DataRejected(_))));
        assert_eq!(new(store.append(&batch[..1]).await.unwrap()[0]).offset, 2);
        // Any other error does not concern the data.
        run(&mut shell, "ALTER TABLE messages RENAME TO elsewhere").await;
        assert!(matches!(store.append(&batch[..1]).await, Err(AppendError::OutcomeUnknown(_))));
        run(&mut shell, "ALTER TABLE elsewhere RENAME TO messages").await;
        assert!(matches!(append_until_known(&store, &batch[..1]).await[0], Outcome::Duplicate(_)));
        store.close().await;
    });
}

#[test]
fn a_restored_database_has_new_epochs() {
    let server = postgres();
    runtime().block_on(async {
        let fixture = Fixture::new(server).await;
        let store = fixture.open().await;
        let (room, _) = create_lobby(&store).await;
        let first = store.heads(&[room]).await.unwrap();
        store.close().await;
        let mut shell = fixture.shell().await;
        let mut used = vec![store_generation(&mut shell).await];
        for sql in [
            "UPDATE meta SET value = '1' WHERE name = 'system_identifier'",
            "UPDATE meta SET value = '000000FF' WHERE name = 'timeline'",
        ] {
            run(&mut shell, sql).await;
            let store = fixture.open().await;
            let after = store.heads(&[room]).await.unwrap();
            assert_ne!(after, first);
            store.close().await;
            let store = fixture.open().await;
            assert_eq!(store.heads(&[room]).await.unwrap(), after, "the epoch changes once");
            store.close().await;
            let generation = store_generation(&mut shell).await;
            assert!(!used.contains(&generation), "no generation returns");
            used.push(generation);
        }
    });
}

async fn store_generation(shell: &mut PgConnection) -> String {
    let sql = "SELECT value FROM meta WHERE name = 'generation'";
    sqlx::query_scalar(sql).fetch_one(shell).await.unwrap()
}

#[test]
fn a_role_that_owns_only_the_database_is_enough() {
    let server = postgres();
    runtime().block_on(async {
        let fixture = Fixture::new(server).await;
        let mut shell = fixture.shell().await;
        let database: String = sqlx::query_scalar("SELECT current_database()").fetch_one(&mut shell).await.unwrap();
        let role = format!("role_{database}");
        let sql = format!(
            "CREATE ROLE {role} LOGIN PASSWORD 'secret'; ALTER DATABASE {database} OWNER TO {role};
             REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut shell).await.unwrap();
        let (_, address) = fixture.url.split_once('@').unwrap();
        let limited = Fixture { url: format!("postgres://{role}:secret@{address}"), ..fixture };
        let store = limited.open().await;
        create_lobby(&store).await;
        store.close().await;
        limited.open().await.close().await;
    });
}

#[test]
fn the_contents_of_a_deleted_room_are_swept_up() {
    let server = postgres();
    runtime().block_on(async {
        let fixture = Fixture::new(server).await;
        let store = fixture.open().await;
        let (room, ann) = create_lobby(&store).await;
        for part in 0..4 {
            let batch: Vec<_> = (0..400).map(|n| message(room, ann, &format!("{part} {n}"), "x")).collect();
            store.append(&batch).await.unwrap();
        }
        store.append(&[react(room, ann, "r", 1, "👍")]).await.unwrap();
        let kept = World::of(Arc::clone(&store)).public_room("kept", ann).await.id;
        store.append(&[message(kept, ann, "1", "x"), react(kept, ann, "r", 1, "👍")]).await.unwrap();
        store.delete_room("lobby", ann, 0).await.unwrap();
        let mut shell = fixture.shell().await;
        let deadline = Instant::now() + SOON;
        loop {
            let sql = "SELECT (SELECT count(*) FROM rooms), (SELECT count(*) FROM messages),
                (SELECT count(*) FROM reactions), (SELECT count(*) FROM members), (SELECT count(*) FROM heads)";
            let left: (i64, i64, i64, i64, i64) = sqlx::query_as(sql).fetch_one(&mut shell).await.unwrap();
            if left == (1, 2, 1, 1, 1) {
                break;
            }
            assert!(Instant::now() < deadline, "left: {left:?}");
            tokio::task::yield_now().await;
        }
        store.close().await;
    });
}

/// Another process has deleted rooms, and ended before it had swept them up. A third one is sweeping up one of them.
#[test]
fn rooms_that_others_have_deleted_are_swept_up() {
    let server = postgres();
    runtime().block_on(async {
        let fixture = Fixture::new(server).await;
        let options = OpenOptions { sweep_interval: Duration::from_millis(10), ..OpenOptions::default() };
        let store = fixture.try_open(options).await.unwrap();
        let (_, ann) = create_lobby(&store).await;
        World::of(Arc::clone(&store)).public_room("other", ann).await;
        let mut third = fixture.shell().await;
        run(
            &mut third,
            "BEGIN; UPDATE rooms SET name = NULL; DELETE FROM heads; COMMIT;
             BEGIN; SELECT FROM rooms WHERE title = 'The lobby' FOR UPDATE",
        )
        .await;
        let mut shell = fixture.shell().await;
        let mut until_left = async |count: i64| {
            let deadline = Instant::now() + SOON;
            let sql = "SELECT count(*) FROM rooms";
            while sqlx::query_scalar::<_, i64>(sql).fetch_one(&mut shell).await.unwrap() != count {
                assert!(Instant::now() < deadline);
                tokio::task::yield_now().await;
            }
        };
        until_left(1).await;
        run(&mut third, "COMMIT").await;
        until_left(0).await;
        store.close().await;
    });
}

/// A user's subscribe, which only reads, once waited for the rooms that others created.
#[test]
fn reads_do_not_wait_for_the_writes_of_many_users() {
    runtime().block_on(async {
        let fixture = Fixture::new(postgres()).await;
        let store = fixture.open().await;
        let (_, ann) = create_lobby(&store).await;
        let mut shell = fixture.shell().await;
        run(&mut shell, "BEGIN; LOCK TABLE rooms IN EXCLUSIVE MODE").await;
        let mut writes = tokio::task::JoinSet::new();
        for n in 0..20 {
            let store = Arc::clone(&store);
            let room = NewRoom {
                name: format!("r{n}"),
                title: String::new(),
                kind: RoomKind::Public,
                size: 5,
                owner: UserId(n),
            };
            writes.spawn(async move { store.create_room(room).await });
        }
        // The writes that have begun wait for the lock.
        let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted";
        while sqlx::query_scalar::<_, i64>(waiting).fetch_one(&mut shell).await.unwrap() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        for _ in 0..20 {
            assert!(store.admit_members(&[("lobby".to_owned(), ann)]).await.unwrap()[0].is_ok());
            assert!(store.room("lobby", ann).await.unwrap().is_some());
        }
        assert!(writes.try_join_next().is_none(), "no write has ended");
        run(&mut shell, "COMMIT").await;
        writes.join_all().await;
        store.close().await;
    });
}

/// When the two key columns of `members` were compared with columns of two tables, PostgreSQL used only one of them,
/// and each admission read all members of the room.
#[test]
fn a_member_is_found_without_reading_the_others() {
    runtime().block_on(async {
        let fixture = Fixture::new(postgres()).await;
        let store = fixture.open().await;
        let (room, _) = create_lobby(&store).await;
        let mut shell = fixture.shell().await;
        // The statistics show many small rooms, but one has grown since.
        let others = "INSERT INTO users OVERRIDING SYSTEM VALUE
              SELECT i, 'u' || i, 'u' || i, NULL, NULL, 0, NULL, 0 FROM generate_series(1000, 4999) i;
            INSERT INTO rooms OVERRIDING SYSTEM VALUE
              SELECT i, 'r' || i, 0, '', '', 9, 1, 'e', i, 0 FROM generate_series(1000, 4999) i;
            INSERT INTO heads SELECT i, 0, 0 FROM generate_series(1000, 4999) i;
            INSERT INTO members SELECT i, i, 2, 0, 0, 0 FROM generate_series(1000, 4999) i;
            ANALYZE;
            INSERT INTO members SELECT id, i, 0, 0, 0, 0 FROM rooms, generate_series(1000, 4999) i
              WHERE name = 'lobby'";
        run(&mut shell, others).await;
        let before = members_fetched(&mut shell).await;
        let users = (1000..1020).map(UserId);
        let names: Vec<_> = users.clone().map(|user| ("lobby".to_owned(), user)).collect();
        let pairs: Vec<_> = users.map(|user| (room, user)).collect();
        for _ in 0..10 {
            assert!(store.admit(&names).await.unwrap().iter().all(|admission| admission.is_ok()));
            assert!(store.read_markers(&pairs).await.unwrap().iter().all(|marker| marker.is_some()));
        }
        // A session reports its statistics when it ends, at the latest.
        store.close().await;
        let deadline = Instant::now() + SOON;
        let fetched = loop {
            let fetched = members_fetched(&mut shell).await - before;
            if fetched >= 400 {
                break fetched;
            }
            assert!(Instant::now() < deadline, "only {fetched} rows are reported");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert!(fetched < 1_000, "{fetched} rows for 400 members");
    });
}

async fn members_fetched(shell: &mut PgConnection) -> i64 {
    let sql = "SELECT CAST(idx_tup_fetch AS bigint) FROM pg_stat_user_tables WHERE relname = 'members'";
    sqlx::query_scalar::<_, Option<i64>>(sql).fetch_one(shell).await.unwrap().unwrap_or(0)
}
