//! SQLite's file: its location, its lock, backups, and other programs that use it.

use crate::harness::*;
use sqlx::{ConnectOptions, Connection, SqliteConnection, sqlite::SqliteConnectOptions};
use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use uproar_model::fairness::Rate;
use uproar_model::{Epoch, Outcome, RoomId, UserId};
use uproar_store::{
    AppendError, DataFolder, DatabaseUrl, JoinError, OpenError, OpenOptions, RoomError, RoomKind, Store, WriteRates,
    open,
};

fn folder(directory: &TempDir) -> DataFolder {
    DataFolder::open(directory.path().join("data")).unwrap()
}

async fn open_in(folder: &DataFolder) -> Result<Arc<dyn Store>, OpenError> {
    open(&DatabaseUrl::Sqlite(folder.database_path()), folder, OpenOptions::default()).await
}

async fn shell(path: &Path) -> SqliteConnection {
    SqliteConnectOptions::new().filename(path).connect().await.unwrap()
}

async fn open_error(url: &DatabaseUrl, folder: &DataFolder) -> String {
    let error = open(url, folder, OpenOptions::default()).await.err().expect("an error").to_string();
    assert!(!error.contains('\n'), "{error}");
    error
}

async fn run(connection: &mut SqliteConnection, sql: &'static str) {
    sqlx::raw_sql(sql).execute(connection).await.unwrap();
}

/// A room with one message.
async fn create_lobby(store: &Arc<dyn Store>) -> (RoomId, UserId, Epoch) {
    let world = World::of(Arc::clone(store));
    let ann = world.user("Ann").await;
    let room = world.public_room("lobby", ann).await;
    new(world.append_one(message(room.id, ann, "first", "x")).await);
    (room.id, ann, room.epoch)
}

async fn epoch(store: &Arc<dyn Store>, room: RoomId) -> Epoch {
    store.heads(&[room]).await.unwrap().remove(0).unwrap().epoch
}

#[test]
fn a_restart_preserves_the_log_and_the_epoch() {
    runtime().block_on(async {
        let directory = TempDir::new().unwrap();
        let folder = folder(&directory);
        let store = open_in(&folder).await.unwrap();
        let (room, ann, before) = create_lobby(&store).await;
        let log = World::of(Arc::clone(&store)).log(room).await;
        store.close().await;
        let store = open_in(&folder).await.unwrap();
        assert_eq!(World::of(Arc::clone(&store)).log(room).await, log);
        assert_eq!(epoch(&store, room).await, before);
        assert!(matches!(store.append(&[message(room, ann, "first", "x")]).await.unwrap()[0], Outcome::Duplicate(_)));
        // Without a close, as after kill -9.
        drop(store);
        let store = open_in(&folder).await.unwrap();
        assert_eq!(epoch(&store, room).await, before);
        store.close().await;
    });
}

/// Short texts share a page with others, long ones have pages of their own, and both move when pages are split.
#[test]
fn deleted_and_edited_texts_are_gone_from_the_file_after_a_stop() {
    runtime().block_on(async {
        let directory = TempDir::new().unwrap();
        let folder = folder(&directory);
        let store = open_in(&folder).await.unwrap();
        let (room, ann, _) = create_lobby(&store).await;
        let world = World::of(Arc::clone(&store));
        let other = world.public_room("other", ann).await.id;
        let text = |n: usize| format!("secret{n:04}.{}", "x".repeat([10, 300, 3_000, 14_000][n % 4]));
        for n in 0..240 {
            let batch: Vec<_> = [(room, n), (other, n + 1000)]
                .map(|(room, n)| message(room, ann, &format!("sent-{n}"), &text(n)))
                .into();
            world.append(&batch).await;
        }
        for n in 0..240 {
            let (id, offset) = (format!("changed-{n}"), n as u64 + 2);
            let item = match n % 3 {
                0 => edit(room, ann, &id, offset, &format!("another text {n}")),
                1 => delete(room, ann, &id, offset),
                _ => continue,
            };
            world.append_one(item).await;
        }
        store.delete_room("other", ann, 0).await.unwrap();
        // The contents of the deleted room are swept up in steps.
        let mut shell = shell(&folder.database_path()).await;
        tokio::time::timeout(Duration::from_secs(60), async {
            let sql = "SELECT count(*) FROM messages WHERE room_id <> $1";
            while sqlx::query_scalar::<_, i64>(sql).bind(room.0).fetch_one(&mut shell).await.unwrap() > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
        shell.close().await.unwrap();
        store.close().await;
        assert!(!folder.path().join("uproar.db-wal").exists());
        let bytes = fs::read(folder.database_path()).unwrap();
        let found: HashSet<usize> = occurrences(&bytes, b"secret")
            .filter_map(|at| std::str::from_utf8(bytes.get(at + 6..at + 10)?).ok()?.parse().ok())
            .collect();
        let holds = |n: usize| found.contains(&n);
        let left: Vec<_> = (0..240).filter(|n| n % 3 != 2 && holds(*n)).collect();
        assert!(left.is_empty(), "still in the file: {left:?}");
        let left: Vec<_> = (1000..1240).filter(|n| holds(*n)).collect();
        assert!(left.is_empty(), "still in the file: {left:?}");
        assert!((0..240).filter(|n| n % 3 == 2).all(holds), "the others are there");
    });
}

/// Where a text occurs.
fn occurrences<'b>(bytes: &'b [u8], text: &'b [u8]) -> impl Iterator<Item = usize> + 'b {
    let first = text[0];
    bytes
        .iter()
        .enumerate()
        .filter(move |(at, byte)| **byte == first && bytes[*at..].starts_with(text))
        .map(|(at, _)| at)
}

#[test]
fn the_write_ahead_log_stays_bounded_while_commits_never_stop() {
    runtime().block_on(async {
        let directory = TempDir::new().unwrap();
        let folder = folder(&directory);
        let store = open_in(&folder).await.unwrap();
        let (room, ann, _) = create_lobby(&store).await;
        let mut written_bytes = 0;
        let mut largest_bytes = 0;
        let body = "x".repeat(15_000);
        while written_bytes < 192 << 20 {
            let id = written_bytes;
            let batch: Vec<_> = (0..64).map(|n| message(room, ann, &format!("{id}-{n}"), &body)).collect();
            store.append(&batch).await.unwrap();
            written_bytes += 64 * body.len();
            largest_bytes = largest_bytes.max(fs::metadata(folder.path().join("uproar.db-wal")).unwrap().len());
        }
        store.close().await;
        assert!(largest_bytes < 160 << 20, "{largest_bytes} bytes");
    });
}

#[test]
fn files_are_private_to_their_owner() {
    runtime().block_on(async {
        let directory = TempDir::new().unwrap();
        let folder = folder(&directory);
        let store = open_in(&folder).await.unwrap();
        create_lobby(&store).await;
        let mut names = Vec::new();
        for entry in fs::read_dir(folder.path()).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.file_name());
            names.push(entry.file_name().into_string().unwrap());
        }
        names.sort();
        assert_eq!(names, ["incarnation", "uproar.db", "uproar.db-shm", "uproar.db-wal", "uproar.lock"]);
        store.close().await;
    });
}

#[test]
fn the_database_is_in_wal_mode_without_rowids() {
    runtime().block_on(async {
        let directory = TempDir::new().unwrap();
        let folder = folder(&directory);
        let store = open_in(&folder).await.unwrap();
        create_lobby(&store).await;
        let mut shell = shell(&folder.database_path()).await;
        let mode: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut shell).await.unwrap();
        assert_eq!(mode, "wal");
        for table in ["members", "messages", "reactions", "meta"] {
            let sql: String = sqlx::query_scalar("SELECT sql FROM sqlite_schema WHERE name = $1")
                .bind(table)
                .fetch_one(&mut shell)
                .await
                .unwrap();
            assert!(sql.ends_with("WITHOUT ROWID"), "{sql}");
        }
        store.close().await;
    });
}

#[test]
fn a_restored_backup_has_new_epochs() {
    runtime().block_on(async {
        let directory = TempDir::new().unwrap();
        let folder = folder(&directory);
        let (file, backup) = (folder.database_path(), directory.path().join("backup"));
        let store = open_in(&folder).await.unwrap();
        let (room, ann, first) = create_lobby(&store).await;
        store.close().await;
        fs::copy(&file, &backup).unwrap();

        let store = open_in(&folder).await.unwrap();
        assert_eq!(epoch(&store, room).await, first, "making a copy changes nothing");
        store.append(&[message(room, ann, "lost", "x")]).await.unwrap();
        store.close().await;
        fs::copy(&backup, &file).unwrap();

        let store = open_in(&folder).await.unwrap();
        let second = epoch(&store, room).await;
        assert_ne!(second, first);
        assert_eq!(World::of(Arc::clone(&store)).log(room).await.len(), 1);
        store.append(&[message(room, ann, "another", "x")]).await.unwrap();
        store.close().await;
        let store = open_in(&folder).await.unwrap();
        assert_eq!(epoch(&store, room).await, second, "the epoch changes once");
        store.close().await;

        // A second restore must not lead to an epoch that was used before.
        fs::copy(&backup, &file).unwrap();
        let store = open_in(&folder).await.unwrap();
        let third = epoch(&store, room).await;
        assert_ne!(third, first);
        assert_ne!(third, second, "the history between the restores was another one");
        store.close().await;
    });
}

#[test]
fn two_new_databases_have_different_generations() {
    runtime().block_on(async {
        let mut generations = Vec::new();
        for _ in 0..2 {
            let directory = TempDir::new().unwrap();
            let folder = folder(&directory);
            let store = open_in(&folder).await.unwrap();
            generations.push(store.generation());
            create_lobby(&store).await;
            store.close().await;
            let store = open_in(&folder).await.unwrap();
            assert_eq!(Some(&store.generation()), generations.last(), "a restart keeps it");
            store.close().await;
        }
        assert_ne!(generations[0], generations[1]);
    });
}

#[test]
fn a_restored_copy_from_a_running_server_is_noticed() {
    runtime().block_on(async {
        let directory = TempDir::new().unwrap();
        let folder = folder(&directory);
        let (file, backup) = (folder.database_path(), directory.path().join("backup"));
        let store = open_in(&folder).await.unwrap();
        let (room, ann, first) = create_lobby(&store).await;
        let mut shell = shell(&file).await;
        sqlx::query("VACUUM INTO $1").bind(backup.to_str().unwrap()).execute(&mut shell).await.unwrap();
        shell.close().await.unwrap();
        store.append(&[message(room, ann, "lost", "x")]).await.unwrap();
        store.close().await;
        fs::copy(&backup, &file).unwrap();
        let store = open_in(&folder).await.unwrap();
        assert_ne!(epoch(&store, room).await, first);
        store.close().await;
    });
}

/// The incarnation in the database and the one in the folder can't change at the same moment. A start or stop that
/// failed in between, say because of a full disk, once made all clients start over.
#[test]
fn a_start_or_stop_that_fails_halfway_keeps_the_epoch() {
    runtime().block_on(async {
        let directory = TempDir::new().unwrap();
        let folder = folder(&directory);
        let incarnation = folder.path().join("incarnation");
        let store = open_in(&folder).await.unwrap();
        let (room, _, first) = create_lobby(&store).await;
        // A directory with the name of the temporary file makes writing fail.
        let obstacle = folder.path().join("incarnation.new");
        fs::create_dir(&obstacle).unwrap();
        store.close().await;
        assert!(open_error(&DatabaseUrl::Sqlite(folder.database_path()), &folder).await.contains("incarnation"));
        fs::remove_dir(&obstacle).unwrap();
        let store = open_in(&folder).await.unwrap();
        assert_eq!(epoch(&store, room).await, first);
        store.close().await;

        // A process that died before the database had the new incarnation, and one that died after.
        for is_committed in [false, true] {
            let left = fs::read_to_string(&incarnation).unwrap();
            let words = if is_committed { format!("{left}before\n") } else { format!("next\n{left}") };
            fs::write(&incarnation, words).unwrap();
            let store = open_in(&folder).await.unwrap();
            assert_eq!(epoch(&store, room).await, first);
            assert_eq!(fs::read_to_string(&incarnation).unwrap().lines().count(), 1, "the change is complete");
            store.close().await;
        }
    });
}

#[test]
fn a_restored_backup_is_noticed_even_after_a_crash() {
    runtime().block_on(async {
        let directory = TempDir::new().unwrap();
        let folder = folder(&directory);
        let (file, copy) = (folder.database_path(), directory.path().join("copy"));
        let store = open_in(&folder).await.unwrap();
        let (room, ann, first) = create_lobby(&store).await;
        uproar_store::tools::backup(&DatabaseUrl::Sqlite(file.clone()), &copy).await.unwrap();
        store.append(&[message(room, ann, "lost", "x")]).await.unwrap();
        // The folder as after a crash, with the copy restored into it. The copy was made during the incarnation that
        // the folder knows.
        let crashed = directory.path().join("crashed");
        fs::create_dir(&crashed).unwrap();
        for name in ["uproar.lock", "incarnation"] {
            fs::copy(folder.path().join(name), crashed.join(name)).unwrap();
        }
        fs::copy(&copy, crashed.join("uproar.db")).unwrap();
        store.close().await;
        let folder = DataFolder::open(&crashed).unwrap();
        let store = open_in(&folder).await.unwrap();
        assert_ne!(epoch(&store, room).await, first);
        assert_eq!(World::of(Arc::clone(&store)).log(room).await.len(), 1);
        store.close().await;
    });
}

#[test]
fn a_database_moved_to_another_data_folder_has_new_epochs() {
    runtime().block_on(async {
        let directory = TempDir::new().unwrap();
        let folder = folder(&directory);
        let store = open_in(&folder).await.unwrap();
        let (room, _, first) = create_lobby(&store).await;
        store.close().await;
        let other = DataFolder::open(directory.path().join("other")).unwrap();
        fs::copy(folder.database_path(), other.database_path()).unwrap();
        let store = open_in(&other).await.unwrap();
        assert_ne!(epoch(&store, room).await, first);
        store.close().await;
    });
}

#[test]
fn a_file_outside_the_data_folder_has_its_own_lock() {
    runtime().block_on(async {
        let directory = TempDir::new().unwrap();
        let one = DataFolder::open(directory.path().join("one")).unwrap();
        let two = DataFolder::open(directory.path().join("two")).unwrap();
        let file = directory.path().join("shared.db");
        let url = DatabaseUrl::Sqlite(file.clone());
        let store = open(&url, &one, OpenOptions::default()).await.unwrap();
        assert!(directory.path().join("shared.db.lock").exists());
        let error = open_error(&url, &two).await;
        assert!(error.contains("another uproar"), "{error}");
        // A symbolic link in another data folder leads to the same lock.
        std::os::unix::fs::symlink(&file, two.database_path()).unwrap();
        let error = open_error(&DatabaseUrl::Sqlite(two.database_path()), &two).await;
        assert!(error.contains("another uproar"), "{error}");
        store.close().await;
        drop(store);
        open(&url, &two, OpenOptions::default()).await.unwrap().close().await;
    });
}

#[test]
fn files_of_other_programs_are_refused_and_left_alone() {
    runtime().block_on(async {
        let directory = TempDir::new().unwrap();
        let folder = folder(&directory);
        let path = |name: &str| directory.path().join(name);
        fs::write(
            path("text"),
            "not a database, but a text of more than a hundred bytes, so that it is long enough for a database header",
        )
        .unwrap();
        fs::write(path("short"), "x").unwrap();
        let mut other =
            SqliteConnectOptions::new().filename(path("other")).create_if_missing(true).connect().await.unwrap();
        run(&mut other, "CREATE TABLE rooms (id)").await;
        other.close().await.unwrap();
        for name in ["text", "short", "other"] {
            let before = fs::read(path(name)).unwrap();
            let error = open_error(&DatabaseUrl::Sqlite(path(name)), &folder).await;
            assert!(error.contains("not a database of uproar") && error.contains(name), "{error}");
            assert_eq!(fs::read(path(name)).unwrap(), before, "the file was not changed");
        }
        let error = open_error(&DatabaseUrl::Sqlite(path("nowhere/uproar.db")), &folder).await;
        assert!(error.contains("nowhere/uproar.db") && error.contains("No such file"), "{error}");
        let error = open_error(&DatabaseUrl::Sqlite(directory.path().to_owned()), &folder).await;
        assert!(error.contains("directory"), "{error}");
    });
}

/// The allowance is the same for HTTP, which calls `join`, and for subscriptions, which call `admit`.
#[test]
fn an_admission_that_joins_a_room_takes_from_the_allowance_of_the_user() {
    runtime().block_on(async {
        let directory = TempDir::new().unwrap();
        let folder = folder(&directory);
        let rates = WriteRates { joins_of_one_room: Some(Rate::per_hour(1, 2)), ..WriteRates::default() };
        let options = OpenOptions { rates, ..OpenOptions::default() };
        let store = open(&DatabaseUrl::Sqlite(folder.database_path()), &folder, options).await.unwrap();
        let world = World::of(Arc::clone(&store));
        let (ann, ben) = (world.user("Ann").await, world.user("Ben").await);
        world.public_room("lobby", ann).await;
        let admit = async |user| store.admit(&[("lobby".to_owned(), user)]).await.unwrap().remove(0);
        for _ in 0..2 {
            assert!(admit(ben).await.unwrap().joined);
            assert!(!admit(ben).await.unwrap().joined, "a member needs no allowance");
            store.remove_member("lobby", ben, "ben").await.unwrap();
        }
        assert!(matches!(admit(ben).await, Err(JoinError::TooOften { wait_ms: 1_000.. })));
        assert!(matches!(store.join("lobby", ben).await, Err(RoomError::TooOften { .. })));
        assert!(admit(ann).await.is_ok(), "others are not affected");
        store.close().await;
    });
}

#[test]
fn many_rooms_are_found_by_common_and_rare_parts() {
    runtime().block_on(async {
        let directory = TempDir::new().unwrap();
        let folder = folder(&directory);
        let store = open_in(&folder).await.unwrap();
        let world = World::of(Arc::clone(&store));
        let ann = world.user("Ann").await;
        let mut shell = shell(&folder.database_path()).await;
        run(
            &mut shell,
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
             INSERT INTO rooms (name, kind, title, title_key, size, members, epoch, created_by, created_at)
                 SELECT format('room %05d', i), i % 2, 'Title', 'title', 5, 0, 'e', 1, 0 FROM n;
             INSERT INTO heads (room_id) SELECT id FROM rooms",
        )
        .await;
        shell.close().await.unwrap();
        let find = async |query: &str, after: Option<&str>, limit| {
            let rooms = store.rooms(ann, query, after, limit).await.unwrap();
            rooms.into_iter().map(|room| room.name).collect::<Vec<_>>()
        };
        // Every second room is private.
        assert_eq!(find("", None, 2).await, ["room 00002", "room 00004"]);
        assert_eq!(find("ROOM", Some("room 02000"), 2).await, ["room 02002", "room 02004"]);
        assert_eq!(find("title", Some("room 02998"), 2).await, ["room 03000"]);
        assert_eq!(find("m 0123", None, 10).await, [0, 2, 4, 6, 8].map(|n| format!("room 0123{n}")));
        assert_eq!(find("m 0123", Some("room 01236"), 10).await, ["room 01238"]);
        assert_eq!(find("\"m 0123\" OR x", None, 10).await, Vec::<String>::new());
        // A private room is found by its members, and a deleted one by nobody.
        world.room("room 01234x", ann, RoomKind::Private, 5).await;
        assert_eq!(find("01234", None, 10).await, ["room 01234", "room 01234x"]);
        store.delete_room("room 01234x", ann, 0).await.unwrap();
        assert_eq!(find("01234", None, 10).await, ["room 01234"]);
        store.close().await;
    });
}

#[test]
fn reserved_names_are_folded_anew_with_the_others() {
    runtime().block_on(async {
        let directory = TempDir::new().unwrap();
        let folder = folder(&directory);
        open_in(&folder).await.unwrap().close().await;
        let mut shell = shell(&folder.database_path()).await;
        run(&mut shell, OLD_RESERVATIONS).await;
        shell.close().await.unwrap();
        let store = open_in(&folder).await.unwrap();
        assert_reservations_are_folded(&World::of(Arc::clone(&store))).await;
        store.close().await;
    });
}

#[test]
fn a_kind_of_a_newer_release_is_shown_as_an_empty_publication() {
    runtime().block_on(async {
        let directory = TempDir::new().unwrap();
        let folder = folder(&directory);
        let store = open_in(&folder).await.unwrap();
        let (room, ann, _) = create_lobby(&store).await;
        let mut shell = shell(&folder.database_path()).await;
        run(&mut shell, UNKNOWN_KIND).await;
        shell.close().await.unwrap();
        assert_unknown_kind_is_shown(&World::of(Arc::clone(&store)), room, ann).await;
        store.close().await;
    });
}

#[test]
fn a_newer_schema_is_refused() {
    runtime().block_on(async {
        let directory = TempDir::new().unwrap();
        let folder = folder(&directory);
        open_in(&folder).await.unwrap().close().await;
        let mut shell = shell(&folder.database_path()).await;
        run(
            &mut shell,
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
             VALUES (99, 'later', 1, x'00', 0);
             UPDATE meta SET value = '99' WHERE name = 'usable_since'",
        )
        .await;
        shell.close().await.unwrap();
        let error = open_error(&DatabaseUrl::Sqlite(folder.database_path()), &folder).await;
        assert!(error.contains("schema version 99") && error.contains("newer uproar"), "{error}");
    });
}

#[test]
fn a_newer_schema_is_used_if_it_says_so() {
    runtime().block_on(async {
        let directory = TempDir::new().unwrap();
        let folder = folder(&directory);
        let url = DatabaseUrl::Sqlite(folder.database_path());
        open_in(&folder).await.unwrap().close().await;
        let mut shell = shell(&folder.database_path()).await;
        let sql = "SELECT max(version) FROM _sqlx_migrations";
        let known: i64 = sqlx::query_scalar(sql).fetch_one(&mut shell).await.unwrap();
        run(
            &mut shell,
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
             VALUES (98, 'later', 1, x'00', 0), (99, 'later', 1, x'00', 0)",
        )
        .await;
        let mut set_usable_since = async |value: Option<String>| {
            run(&mut shell, "DELETE FROM meta WHERE name = 'usable_since'").await;
            let sql = "INSERT INTO meta (name, value) SELECT 'usable_since', $1 WHERE $1 IS NOT NULL";
            sqlx::query(sql).bind(value).execute(&mut shell).await.unwrap();
        };
        let inspect = async || {
            uproar_store::inspect::database(&url, folder.path(), &OpenOptions::default())
                .await
                .map(|state| (state.schema.version, state.schema.newest, state.schema.is_current()))
        };
        for refused in [None, Some("nonsense".to_owned()), Some((known + 1).to_string())] {
            set_usable_since(refused).await;
            for error in [open_error(&url, &folder).await, inspect().await.unwrap_err().to_string()] {
                assert!(error.contains("schema version 99") && error.contains("newer uproar"), "{error}");
            }
        }
        for used in [known, known - 1] {
            set_usable_since(Some(used.to_string())).await;
            assert_eq!(inspect().await.unwrap(), (Some(99), known, true));
            open_in(&folder).await.unwrap().close().await;
        }
        let store = open_in(&folder).await.unwrap();
        create_lobby(&store).await;
        store.close().await;
        // It can be copied as it is, but not moved: what a newer release has added would be left behind.
        let copy = directory.path().join("copy.db");
        uproar_store::tools::backup(&url, &copy).await.unwrap();
        let nowhere = "postgres://127.0.0.1:1/x".parse().unwrap();
        let (file, data) = (folder.database_path(), folder.path().to_owned());
        drop(folder);
        let moved =
            uproar_store::tools::migrate(&file, &data, &nowhere, OpenOptions::default(), &|_| {}).await.unwrap_err();
        assert!(moved.to_string().contains("newer uproar"), "{moved}");
    });
}

#[test]
fn a_schema_of_another_build_is_refused() {
    runtime().block_on(async {
        let directory = TempDir::new().unwrap();
        let folder = folder(&directory);
        open_in(&folder).await.unwrap().close().await;
        let mut shell = shell(&folder.database_path()).await;
        run(&mut shell, "UPDATE _sqlx_migrations SET checksum = x'00'").await;
        shell.close().await.unwrap();
        let error = open_error(&DatabaseUrl::Sqlite(folder.database_path()), &folder).await;
        assert!(error.contains("another build"), "{error}");
    });
}

#[test]
fn appends_succeed_once_another_program_releases_the_file() {
    runtime().block_on(async {
        let directory = TempDir::new().unwrap();
        let folder = folder(&directory);
        let store = open_in(&folder).await.unwrap();
        let (room, ann, _) = create_lobby(&store).await;
        let mut shell = shell(&folder.database_path()).await;
        run(&mut shell, "BEGIN IMMEDIATE").await;
        let batch = [message(room, ann, "second", "x")];
        assert!(matches!(store.append(&batch).await, Err(AppendError::OutcomeUnknown(_))));
        // Reads still work, and to admit a member is a read.
        assert_eq!(World::of(Arc::clone(&store)).log(room).await.len(), 1);
        assert!(store.admit(&[("lobby".to_owned(), ann)]).await.unwrap()[0].is_ok());
        run(&mut shell, "ROLLBACK").await;
        new(store.append(&batch).await.unwrap()[0]);
        store.close().await;
    });
}

#[test]
fn rejected_data_is_distinguished_from_other_errors() {
    runtime().block_on(async {
        let directory = TempDir::new().unwrap();
        let folder = folder(&directory);
        let store = open_in(&folder).await.unwrap();
        let (room, ann, _) = create_lobby(&store).await;
        let mut shell = shell(&folder.database_path()).await;
        run(
            &mut shell,
            "CREATE TRIGGER poison BEFORE INSERT ON messages WHEN NEW.body = 'poison'
             BEGIN SELECT raise(ABORT, 'poison'); END",
        )
        .await;
        let batch = [message(room, ann, "1", "good"), message(room, ann, "2", "poison")];
        assert!(matches!(store.append(&batch).await, Err(AppendError::DataRejected(_))));
        assert_eq!(World::of(Arc::clone(&store)).log(room).await.len(), 1, "nothing of the batch was stored");
        assert!(matches!(store.append(&batch[1..]).await, Err(AppendError::DataRejected(_))));
        assert_eq!(new(store.append(&batch[..1]).await.unwrap()[0]).offset, 2);
        shell.close().await.unwrap();
        store.close().await;
    });
}

#[test]
fn the_contents_of_a_deleted_room_are_swept_up() {
    runtime().block_on(async {
        let directory = TempDir::new().unwrap();
        let folder = folder(&directory);
        let store = open_in(&folder).await.unwrap();
        let (room, ann, _) = create_lobby(&store).await;
        let batch: Vec<_> = (0..400).map(|n| message(room, ann, &format!("{n}"), "x")).collect();
        for part in 0..6 {
            let batch: Vec<_> = batch.iter().map(|i| message(room, ann, &format!("{part} {}", i.id), "x")).collect();
            store.append(&batch).await.unwrap();
        }
        store.append(&[react(room, ann, "r", 1, "👍")]).await.unwrap();
        let kept = World::of(Arc::clone(&store)).public_room("kept", ann).await.id;
        store.append(&[message(kept, ann, "1", "x"), react(kept, ann, "r", 1, "👍")]).await.unwrap();
        store.delete_room("lobby", ann, 0).await.unwrap();
        // The process ends in the middle of the sweep, and the next one continues.
        store.close().await;
        let store = open_in(&folder).await.unwrap();
        let mut shell = shell(&folder.database_path()).await;
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        loop {
            let sql = "SELECT (SELECT count(*) FROM rooms), (SELECT count(*) FROM messages),
                (SELECT count(*) FROM reactions), (SELECT count(*) FROM members), (SELECT count(*) FROM heads)";
            let left: (i64, i64, i64, i64, i64) = sqlx::query_as(sql).fetch_one(&mut shell).await.unwrap();
            if left == (1, 2, 1, 1, 1) {
                break;
            }
            assert!(tokio::time::Instant::now() < deadline, "left: {left:?}");
            tokio::task::yield_now().await;
        }
        // Ids are never used again.
        let again = World::of(Arc::clone(&store)).public_room("lobby", ann).await.id;
        assert!(again > kept && again != room);
        store.close().await;
    });
}
