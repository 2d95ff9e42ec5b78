//! A server that can't start says why in one line, and its exit status is not 0.

use crate::databases::{Backdoor, Kind, new_postgres_database};
use crate::server::{Place, Server, run};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

on_each_database! {
    a_port_in_use_is_refused
    a_folder_or_database_in_use_is_refused
    a_newer_schema_is_refused
}

/// Runs `uproar`, which must fail with one line on standard error. Returns the line.
async fn refused(arguments: &[String], expected: i32) -> String {
    let mut arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    // Without this, the server would also warn that the tests' PostgreSQL runs without fsync.
    if arguments.iter().all(|argument| *argument != "--log" && *argument != "token") {
        arguments.splice(0..0, ["--log", "error"]);
    }
    let output = run(&arguments).await;
    let error = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(expected), "{arguments:?}: {error}");
    assert!(output.stdout.is_empty(), "{arguments:?}: {:?}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(error.trim_end().lines().count(), 1, "{arguments:?}: {error}");
    assert!(error.starts_with("uproar: ") && error.ends_with('\n'), "{arguments:?}: {error}");
    error
}

#[track_caller]
fn names(line: &str, words: &[&str]) {
    for word in words {
        assert!(line.contains(word), "no '{word}' in: {line}");
    }
}

fn with(place: &Place, arguments: &[&str]) -> Vec<String> {
    let mut all = place.arguments();
    all.extend(arguments.iter().map(ToString::to_string));
    all
}

async fn a_port_in_use_is_refused(kind: Kind) {
    let server = Server::start(kind, &[]).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let address = format!("127.0.0.1:{}", server.port);
    // Data folder and database are different ones.
    for shards in ["1", "2"] {
        let other = Place::new(kind, &[]).await;
        let arguments: Vec<String> = ["--listen", &address, "--shards", shards].map(Into::into).into();
        let mut all = other.arguments();
        let listen = all.iter().position(|argument| argument == "--listen").unwrap();
        all.drain(listen..listen + 2);
        let shards = all.iter().position(|argument| argument == "--shards").unwrap();
        all.drain(shards..shards + 2);
        all.extend(arguments);
        names(&refused(&all, 1).await, &[&address, "in use", "--listen"]);
    }
    // The second server took no connection from the first.
    for n in 1..=20 {
        assert_eq!(server.join(&ann, "room=r").await.round_trip("here").await.0, n);
    }
}

async fn a_folder_or_database_in_use_is_refused(kind: Kind) {
    let mut server = Server::start(kind, &[]).await;
    let arguments = server.place.arguments();
    let line = refused(&arguments, 1).await;
    names(&line, &["another uproar", &server.id().to_string(), server.place.data().to_str().unwrap()]);
    // The same database from another data folder.
    let url = match kind {
        Kind::Sqlite => format!("sqlite:{}", server.place.sqlite_file().display()),
        Kind::Postgres => {
            let database = arguments.iter().position(|argument| argument == "--database").unwrap();
            arguments[database + 1].clone()
        }
    };
    let other = Place::with_database(Some(url), &[]);
    names(&refused(&other.arguments(), 1).await, &["another uproar"]);
    // Both are free as soon as the process has ended, in whatever way.
    server.kill().await;
    let mut server = server.restart().await;
    server.stop().await;
    server.restart().await;
}

async fn a_newer_schema_is_refused(kind: Kind) {
    let mut server = Server::start(kind, &[]).await;
    server.stop().await;
    server.place.backdoor().await.make_newer().await;
    names(&refused(&server.place.arguments(), 1).await, &["schema version 9999", "newer"]);
}

#[tokio::test]
async fn wrong_arguments_are_refused() {
    let place = Place::new(Kind::Sqlite, &[]).await;
    let mut place_only = place.arguments();
    for option in ["--shards", "--driver"] {
        let at = place_only.iter().position(|argument| argument == option).unwrap();
        place_only.drain(at..at + 2);
    }
    let with =
        |place: &[String], more: &[&str]| [place, &more.iter().map(ToString::to_string).collect::<Vec<_>>()].concat();
    for (arguments, words) in [
        (&["--nonsense"][..], &["--nonsense"][..]),
        (&["nonsense"], &["nonsense"]),
        (&["--shards", "none"], &["--shards", "none"]),
        (&["--shards"], &["--shards"]),
        (&["--driver", "steam"], &["--driver", "steam", "uring"]),
        (&["token"], &["--user"]),
    ] {
        names(&refused(&with(&place_only, arguments), 2).await, words);
    }
    let shards = ["--shards", "1"];
    for (arguments, words) in [
        (&["--limit", "ping_interval_ms"][..], &["--limit", "NAME=VALUE"][..]),
        (&["--limit", "pings=3"], &["--limit", "'pings'", "--help"]),
        (&["--limit", "batch_limit_items=513"], &["batch_limit_items", "from 1 to 512"]),
        (&["--database", "mysql://localhost"], &["--database", "sqlite:", "postgres://"]),
        (&["--database", "sqlite:"], &["--database", "path"]),
        (&["--listen", "8080"], &["--listen", "'8080'"]),
        (&["--listen", "192.0.2.1:0"], &["192.0.2.1"]),
        (&["--allow-origin", "chat.example.org"], &["--allow-origin", "chat.example.org"]),
        (&["--log", "loud=very"], &["--log", "loud=very"]),
    ] {
        names(&refused(&with(&with(&place_only, &shards), arguments), 1).await, words);
    }
}

#[tokio::test]
async fn unusable_folders_and_keys_are_refused() {
    let place = Place::new(Kind::Sqlite, &[]).await;
    let data = place.data();
    let shown = data.to_str().unwrap().to_owned();
    // A folder with other files, and a file instead of a folder.
    fs::create_dir(&data).unwrap();
    fs::write(data.join("thesis.txt"), "x").unwrap();
    names(&refused(&place.arguments(), 1).await, &[&shown, "--data"]);
    assert_eq!(fs::read_dir(&data).unwrap().count(), 1, "it was changed");
    fs::remove_file(data.join("thesis.txt")).unwrap();
    fs::remove_dir(&data).unwrap();
    fs::write(&data, "x").unwrap();
    names(&refused(&place.arguments(), 1).await, &[&shown]);
    let below = with(&place, &["--data", &format!("{shown}/below")]);
    names(&refused(&below[2..].iter().skip(2).cloned().collect::<Vec<_>>(), 1).await, &["below"]);
    fs::remove_file(&data).unwrap();

    // Keys.
    let key = data.with_file_name("key");
    let with_key = || with(&place, &["--key-file", key.to_str().unwrap()]);
    let write = |bytes: &[u8], mode: u32| {
        fs::write(&key, bytes).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
    };
    write(&[7; 31], 0o600);
    names(&refused(&with_key(), 1).await, &[key.to_str().unwrap(), "31 bytes"]);
    write(&[7; 32], 0o644);
    names(&refused(&with_key(), 1).await, &[key.to_str().unwrap(), "chmod 600"]);
    fs::remove_file(&key).unwrap();
    fs::create_dir(&key).unwrap();
    names(&refused(&with_key(), 1).await, &[key.to_str().unwrap()]);
    fs::remove_dir(&key).unwrap();

    // Files that may not be read, which does not apply to root.
    if !is_root() {
        write(&[7; 32], 0o000);
        names(&refused(&with_key(), 1).await, &[key.to_str().unwrap(), "denied"]);
        fs::remove_file(&key).unwrap();
        fs::remove_dir_all(&data).unwrap();
        fs::create_dir(&data).unwrap();
        fs::set_permissions(&data, fs::Permissions::from_mode(0o000)).unwrap();
        names(&refused(&place.arguments(), 1).await, &[&shown, "denied"]);
        fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).unwrap();
    }
    // The folder is still usable.
    place.start().await;
}

#[tokio::test]
async fn the_files_of_a_server_are_private() {
    let server = Server::start(Kind::Sqlite, &[]).await;
    server.user("ann").await;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let data = server.place.data();
    assert_eq!(mode(&data), 0o700);
    for entry in fs::read_dir(&data).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path) & 0o077, 0, "{}", path.display());
    }
    assert_eq!(mode(&data.join("signing.key")), 0o600);
}

#[tokio::test]
async fn unusable_databases_are_refused() {
    // Nothing listens on this port.
    let unreachable = Place::with_database(Some("postgres://someone:secret@127.0.0.1:1/chat".into()), &[]);
    let line = refused(&unreachable.arguments(), 1).await;
    names(&line, &["127.0.0.1:1"]);
    assert!(!line.contains("secret"), "{line}");
    // The server exists, but not the database.
    let url = new_postgres_database().await;
    let missing = Place::with_database(Some(format!("{url}_not")), &[]);
    names(&refused(&missing.arguments(), 1).await, &["_not"]);
    // A file that is not a database, and a path in a folder that does not exist.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("letter");
    fs::write(&file, "Dear Sir or Madam, ".repeat(1000)).unwrap();
    let letter = Place::with_database(Some(format!("sqlite:{}", file.display())), &[]);
    names(&refused(&letter.arguments(), 1).await, &[file.to_str().unwrap()]);
    let nowhere = Place::with_database(Some(format!("sqlite:{}/no/where", folder.path().display())), &[]);
    names(&refused(&nowhere.arguments(), 1).await, &["no/where"]);
    // The database of another program.
    let url = new_postgres_database().await;
    let mut backdoor = Backdoor::postgres(&url).await;
    backdoor.execute("CREATE TABLE users (id int)").await;
    let foreign = Place::with_database(Some(url), &[]);
    refused(&foreign.arguments(), 1).await;
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
