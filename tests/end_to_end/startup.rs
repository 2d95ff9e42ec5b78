//! Proves that a server that cannot start says why in one line, and exits with a status that scripts notice.

use crate::databases::{Backdoor, Kind, new_postgres_database};
use crate::server::{Server, Setup, assert_contains, run, until};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

on_each_database! {
    alone "one process is started beside another":
    a_port_in_use_is_reported
    a_data_folder_or_database_in_use_is_reported
    a_newer_schema_is_reported
}

/// Runs `uproar`, which must exit with this status and print one line of error. Returns the line.
async fn expect_failure(arguments: &[String], expected: i32) -> String {
    let mut arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    // It would wait for what is in use.
    if !arguments.contains(&"token") {
        arguments.splice(0..0, ["--limit", "start_timeout_ms=0"]);
    }
    // The PostgreSQL server of the tests runs without fsync, about which the server logs a warning.
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

fn with(setup: &Setup, arguments: &[&str]) -> Vec<String> {
    let mut all = setup.arguments();
    all.extend(arguments.iter().map(ToString::to_string));
    all
}

async fn a_port_in_use_is_reported(kind: Kind) {
    let server = Server::start(kind, &[]).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let address = format!("127.0.0.1:{}", server.port);
    // The other server has a data folder and a database of its own.
    for shards in ["1", "2"] {
        let other = Setup::new(kind, &[]).await;
        let arguments: Vec<String> = ["--listen", &address, "--shards", shards].map(Into::into).into();
        let mut all = other.arguments();
        let listen = all.iter().position(|argument| argument == "--listen").unwrap();
        all.drain(listen..listen + 2);
        let shards = all.iter().position(|argument| argument == "--shards").unwrap();
        all.drain(shards..shards + 2);
        all.extend(arguments);
        assert_contains(&expect_failure(&all, 1).await, &[&address, "in use", "--listen"]);
    }
    // The other server has taken no connection from the first one.
    for n in 1..=20 {
        assert_eq!(server.join(&ann, "room=r").await.round_trip("here").await.0, n);
    }
}

async fn a_data_folder_or_database_in_use_is_reported(kind: Kind) {
    let mut server = Server::start(kind, &[]).await;
    let arguments = server.setup.arguments();
    let line = expect_failure(&arguments, 1).await;
    assert_contains(&line, &["another uproar", &server.id().to_string(), server.setup.data().to_str().unwrap()]);
    // Another data folder with the same database.
    let url = match kind {
        Kind::Sqlite => format!("sqlite:{}", server.setup.sqlite_file().display()),
        Kind::Postgres => {
            let database = arguments.iter().position(|argument| argument == "--database").unwrap();
            arguments[database + 1].clone()
        }
    };
    let other = Setup::with_database(Some(url), &[]);
    assert_contains(&expect_failure(&other.arguments(), 1).await, &["another uproar"]);
    // Both are free again when the process ends, however it ends.
    server.kill().await;
    let mut server = server.restart().await;
    server.stop().await;
    server.restart().await;
}

async fn a_newer_schema_is_reported(kind: Kind) {
    let mut server = Server::start(kind, &[]).await;
    server.stop().await;
    server.setup.backdoor().await.make_newer().await;
    assert_contains(&expect_failure(&server.setup.arguments(), 1).await, &["schema version 9999", "newer"]);
}

#[tokio::test]
async fn invalid_arguments_are_reported() {
    let setup = Setup::new(Kind::Sqlite, &[]).await;
    let mut base = setup.arguments();
    for option in ["--shards", "--driver"] {
        let at = base.iter().position(|argument| argument == option).unwrap();
        base.drain(at..at + 2);
    }
    let with =
        |setup: &[String], more: &[&str]| [setup, &more.iter().map(ToString::to_string).collect::<Vec<_>>()].concat();
    for (arguments, words) in [
        (&["--nonsense"][..], &["--nonsense"][..]),
        (&["nonsense"], &["nonsense"]),
        (&["--shards", "none"], &["--shards", "none"]),
        (&["--shards"], &["--shards"]),
        (&["--driver", "steam"], &["--driver", "steam", "uring"]),
        (&["token"], &["--user"]),
    ] {
        assert_contains(&expect_failure(&with(&base, arguments), 2).await, words);
    }
    let shards = ["--shards", "1"];
    for (arguments, words) in [
        (&["--limit", "ping_interval_ms"][..], &["--limit", "NAME=VALUE"][..]),
        (&["--limit", "pings=3"], &["--limit", "'pings'", "--help"]),
        (&["--limit", "batch_limit_items=513"], &["batch_limit_items", "from 1 to 512"]),
        (&["--database", "mysql://localhost"], &["--database", "sqlite:", "postgres://"]),
        (&["--database", "sqlite:"], &["--database", "path"]),
        (&["--listen", "8080"], &["--listen", "'8080'"]),
        (&["--listen-tls", "443", "--tls-cert", "/c", "--tls-key", "/k"], &["--listen-tls", "'443'"]),
        (&["--listen-tls", "127.0.0.1:0"], &["--listen-tls", "--tls-cert"]),
        (&["--listen-tls", "127.0.0.1:0", "--tls-cert", "/c"], &["--listen-tls", "--tls-key"]),
        (&["--redirect-http", "127.0.0.1:0"], &["--redirect-http", "--listen-tls"]),
        (&["--listen-tls", "127.0.0.1:0", "--tls-cert", "/none/c", "--tls-key", "/k"], &["--tls-cert", "/none/c"]),
        (&["--listen", "192.0.2.1:0"], &["192.0.2.1"]),
        (&["--allow-origin", "chat.example.org"], &["--allow-origin", "chat.example.org"]),
        (&["--embed-origin", "www.example.org"], &["--embed-origin", "'www.example.org'", "https://"]),
        (&["--embed-origin", "https://a.example,*"], &["--embed-origin", "'*'", "click", "https://www.example.org"]),
        (&["--embed-origin", "https://[::1]"], &["--embed-origin", "'https://[::1]'", "https://www.example.org"]),
        (&["--log", "loud=very"], &["--log", "loud=very"]),
    ] {
        assert_contains(&expect_failure(&with(&with(&base, &shards), arguments), 1).await, words);
    }
}

#[tokio::test]
async fn unusable_folders_and_keys_are_reported() {
    let setup = Setup::new(Kind::Sqlite, &[]).await;
    let data = setup.data();
    let shown = data.to_str().unwrap().to_owned();
    // A folder with other files, and a file instead of a folder.
    fs::create_dir(&data).unwrap();
    fs::write(data.join("thesis.txt"), "x").unwrap();
    assert_contains(&expect_failure(&setup.arguments(), 1).await, &[&shown, "--data"]);
    assert_eq!(fs::read_dir(&data).unwrap().count(), 1, "the folder was changed");
    fs::remove_file(data.join("thesis.txt")).unwrap();
    fs::remove_dir(&data).unwrap();
    fs::write(&data, "x").unwrap();
    assert_contains(&expect_failure(&setup.arguments(), 1).await, &[&shown]);
    let below = with(&setup, &["--data", &format!("{shown}/below")]);
    assert_contains(&expect_failure(&below[2..].iter().skip(2).cloned().collect::<Vec<_>>(), 1).await, &["below"]);
    fs::remove_file(&data).unwrap();

    // Keys.
    let key = data.with_file_name("key");
    let with_key = || with(&setup, &["--key-file", key.to_str().unwrap()]);
    let write = |bytes: &[u8], mode: u32| {
        fs::write(&key, bytes).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
    };
    write(&[7; 31], 0o600);
    assert_contains(&expect_failure(&with_key(), 1).await, &[key.to_str().unwrap(), "31 bytes"]);
    write(&[7; 32], 0o644);
    assert_contains(&expect_failure(&with_key(), 1).await, &[key.to_str().unwrap(), "chmod 600"]);
    fs::remove_file(&key).unwrap();
    fs::create_dir(&key).unwrap();
    assert_contains(&expect_failure(&with_key(), 1).await, &[key.to_str().unwrap()]);
    fs::remove_dir(&key).unwrap();

    // Files without permission to read. Root can read them all the same.
    if !is_root() {
        write(&[7; 32], 0o000);
        assert_contains(&expect_failure(&with_key(), 1).await, &[key.to_str().unwrap(), "denied"]);
        fs::remove_file(&key).unwrap();
        fs::remove_dir_all(&data).unwrap();
        fs::create_dir(&data).unwrap();
        fs::set_permissions(&data, fs::Permissions::from_mode(0o000)).unwrap();
        assert_contains(&expect_failure(&setup.arguments(), 1).await, &[&shown, "denied"]);
        fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).unwrap();
    }
    // Without these faults the server starts.
    setup.start().await;
}

#[tokio::test]
async fn created_files_are_private() {
    let server = Server::start(Kind::Sqlite, &[]).await;
    server.user("ann").await;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let data = server.setup.data();
    assert_eq!(mode(&data), 0o700);
    for entry in fs::read_dir(&data).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path) & 0o077, 0, "{}", path.display());
    }
    assert_eq!(mode(&data.join("signing.key")), 0o600);
}

#[tokio::test]
async fn unusable_databases_are_reported() {
    // A server without such a database.
    let url = new_postgres_database().await;
    let missing = Setup::with_database(Some(format!("{url}_not")), &[]);
    assert_contains(&expect_failure(&missing.arguments(), 1).await, &["_not"]);
    // A file that is not a database, and a path in a folder that does not exist.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("letter");
    fs::write(&file, "Dear Sir or Madam, ".repeat(1000)).unwrap();
    let letter = Setup::with_database(Some(format!("sqlite:{}", file.display())), &[]);
    assert_contains(&expect_failure(&letter.arguments(), 1).await, &[file.to_str().unwrap()]);
    let nowhere = Setup::with_database(Some(format!("sqlite:{}/no/where", folder.path().display())), &[]);
    assert_contains(&expect_failure(&nowhere.arguments(), 1).await, &["no/where"]);
    // The database of another program.
    let url = new_postgres_database().await;
    let mut backdoor = Backdoor::postgres(&url).await;
    backdoor.execute("CREATE TABLE users (id int)").await;
    let foreign = Setup::with_database(Some(url), &[]);
    expect_failure(&foreign.arguments(), 1).await;
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[tokio::test]
async fn variables_that_belong_to_no_option_are_logged() {
    let mut setup = Setup::new(Kind::Sqlite, &[]).await;
    let variables = ["UPROAR_LISTENS=1", "UPROAR_ECHO=off", "UPROAR_PORT_8080_TCP=1", "UPROAR_SERVICE_HOST=1"];
    setup.wrapper = std::iter::once("env").chain(variables).map(ToOwned::to_owned).collect();
    let server = setup.start().await;
    until("the variable is logged", async || server.setup.log().contains("environment variables")).await;
    let log = server.setup.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("environment variables")).collect();
    assert_eq!(lines.len(), 1, "{log}");
    assert_contains(lines[0], &["WARN", "no option has the environment variables UPROAR_LISTENS;", "--help"]);
}

#[tokio::test]
async fn empty_variables_count_as_unset() {
    let options = include_str!("../../docs/options.md");
    let names = options.split('`').filter(|word| word.starts_with("UPROAR_"));
    let empty: Vec<String> = names.map(|name| format!("{name}=")).collect();
    assert!(empty.len() > 15, "{empty:?}");
    let mut setup = Setup::new(Kind::Sqlite, &[]).await;
    setup.wrapper = std::iter::once("env".to_owned()).chain(empty).collect();
    let server = setup.start().await;
    assert_eq!(server.call("GET", "/healthz", "", serde_json::Value::Null).await.status, 200);
    assert_eq!(server.call("GET", "/echo", "", serde_json::Value::Null).await.status, 404, "a switch is off");
}
