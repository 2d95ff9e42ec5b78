//! Proves that `uproar check` sees what would keep a server from starting, changes nothing, and works beside a server.

use crate::databases::{Kind, new_postgres_database};
use crate::nodes::node_setup;
use crate::server::{Server, Setup, assert_contains, run};
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;

on_each_database! {
    alone "the command checks one process":
    a_database_is_checked_before_beside_and_after_a_server
    a_schema_of_another_version_is_reported
}

/// What `uproar check` prints.
struct Checked {
    code: Option<i32>,
    good: Vec<String>,
    problems: Vec<String>,
    /// The last line on standard error, if there are problems.
    conclusion: String,
}

impl Checked {
    /// The only line that contains this word.
    #[track_caller]
    fn good(&self, word: &str) -> &str {
        let found: Vec<_> = self.good.iter().filter(|line| line.contains(word)).collect();
        assert_eq!(found.len(), 1, "{word}: {:?}", self.good);
        found[0]
    }

    #[track_caller]
    fn problem(&self, words: &[&str]) {
        let found = self.problems.iter().any(|line| words.iter().all(|word| line.contains(word)));
        assert!(found, "{words:?}: {:?}", self.problems);
    }

    #[track_caller]
    fn expect_success(&self) {
        assert_eq!((self.code, self.problems.len()), (Some(0), 0), "{:?} {}", self.problems, self.conclusion);
        assert_eq!(self.good.last().unwrap(), "ok: the server can start");
    }
}

/// Runs the command with these arguments of a server, and more.
async fn check(arguments: &[String], more: &[&str]) -> Checked {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).chain(more.iter().copied()).collect();
    let output = run(&[&["check"], &*arguments].concat()).await;
    let lines = |text: Vec<u8>| -> Vec<String> {
        String::from_utf8(text).expect("UTF-8").lines().map(ToOwned::to_owned).collect()
    };
    let (good, mut problems) = (lines(output.stdout), lines(output.stderr));
    let conclusion = problems.pop().unwrap_or_default();
    assert!(good.iter().all(|line| line.starts_with("ok: ")), "{good:?}");
    assert!(problems.iter().all(|line| line.starts_with("problem: ")), "{problems:?}");
    if output.status.code() != Some(0) {
        assert_contains(&conclusion, &["uproar: the server would not start"]);
    }
    Checked { code: output.status.code(), good, problems, conclusion }
}

async fn a_database_is_checked_before_beside_and_after_a_server(kind: Kind) {
    let name = if kind == Kind::Sqlite { "SQLite in" } else { "PostgreSQL " };
    let setup = Setup::new(kind, &[]).await;
    let before = check(&setup.arguments(), &[]).await;
    before.expect_success();
    assert_contains(before.good("data folder"), &["new"]);
    assert_contains(before.good("signing key"), &["the first start creates it"]);
    assert_contains(before.good(name), &["the first start creates the tables"]);
    assert!(!setup.data().exists(), "the command has created the data folder");

    let mut server = setup.start().await;
    let port = format!("127.0.0.1:{}", server.port);
    let beside = check(&server.setup.arguments(), &["--listen", &port]).await;
    beside.expect_success();
    let process = format!("process {}", server.id());
    assert_contains(beside.good("data folder"), &["in use by a running server", &process]);
    assert_contains(beside.good(&format!("--listen {port}")), &["in use by", &process]);
    assert_contains(beside.good(name), &["up to date", "in use by a running server"]);
    server.user("ann").await;

    server.stop().await;
    let after = check(&server.setup.arguments(), &["--listen", &port]).await;
    after.expect_success();
    for word in ["data folder", name, &format!("--listen {port}")] {
        assert!(!after.good(word).contains("in use"), "{:?}", after.good);
    }
    assert_contains(after.good(name), &["up to date"]);
    server.restart().await;
}

async fn a_schema_of_another_version_is_reported(kind: Kind) {
    let name = if kind == Kind::Sqlite { "SQLite in" } else { "PostgreSQL " };
    let mut server = Server::start(kind, &[]).await;
    server.stop().await;
    let arguments = server.setup.arguments();
    let mut backdoor = server.setup.backdoor().await;
    let newest = "(SELECT max(version) FROM _sqlx_migrations)";
    backdoor.execute(&format!("DELETE FROM _sqlx_migrations WHERE version = {newest}")).await;
    let older = check(&arguments, &[]).await;
    older.expect_success();
    assert_contains(older.good(name), &["the next start updates it to", "backup"]);
    backdoor.make_newer().await;
    let newer = check(&arguments, &[]).await;
    assert_eq!(newer.code, Some(1));
    newer.problem(&["schema version 9999", "newer"]);
    backdoor.execute("UPDATE meta SET value = '1' WHERE name = 'usable_since'").await;
    let newer = check(&arguments, &[]).await;
    newer.expect_success();
    assert_contains(newer.good(name), &["schema version 9999", "which this one can use"]);
}

#[tokio::test]
async fn a_node_needs_the_key_of_the_cluster() {
    let url = new_postgres_database().await;
    let node = |name| node_setup(&url, name, &[]);
    check(&node("a").arguments(), &[]).await.expect_success();
    let _a = node("a").start().await;
    let b = node("b");
    check(&b.arguments(), &[]).await.expect_success();
    let key = b.data().join("signing.key");
    fs::write(&key, [8; 32]).expect("another key");
    let other = check(&b.arguments(), &[]).await;
    other.problem(&["not the signing key of the cluster", "copy signing.key from another node"]);
    fs::remove_file(&key).expect("no key");
    let none = check(&b.arguments(), &[]).await;
    none.problem(&["the cluster has a signing key", "copy signing.key from another node"]);
    assert_eq!((other.code, none.code), (Some(1), Some(1)));
}

#[tokio::test]
async fn all_problems_are_reported_together() {
    let setup = Setup::new(Kind::Sqlite, &[]).await;
    let data = setup.data();
    let folder = data.parent().unwrap();
    let key = folder.join("key");
    fs::write(&key, [7; 32]).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let letter = folder.join("letter");
    fs::write(&letter, "Dear Sir or Madam, ".repeat(1000)).unwrap();
    fs::create_dir(&data).unwrap();
    fs::write(data.join("thesis.txt"), "x").unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let database = format!("sqlite:{}", letter.display());
    let options = [
        "--listen",
        &address,
        "--admin-listen",
        "192.0.2.1:9090",
        "--key-file",
        key.to_str().unwrap(),
        "--database",
        &database,
        "--limit",
        "batch_limit_items=513",
        "--allow-origin",
        "chat.example.org",
        "--log",
        "loud",
    ];
    let checked = check(&setup.arguments(), &options).await;
    assert_eq!(checked.code, Some(1));
    checked.problem(&["--limit", "batch_limit_items", "from 1 to 512"]);
    checked.problem(&["--allow-origin", "chat.example.org"]);
    checked.problem(&["--log", "loud"]);
    checked.problem(&["--listen", &address, "in use by", &format!("process {}", std::process::id())]);
    checked.problem(&["--admin-listen", "192.0.2.1"]);
    checked.problem(&[key.to_str().unwrap(), "chmod 600"]);
    checked.problem(&[letter.to_str().unwrap(), "not a database of uproar"]);
    checked.problem(&[data.to_str().unwrap(), "is not a data folder"]);
    assert_eq!(checked.problems.len(), 8, "{:?}", checked.problems);
    assert_contains(&checked.conclusion, &["8 problems"]);
    assert_eq!(fs::read_dir(&data).unwrap().count(), 1, "the folder was changed");
}

#[tokio::test]
async fn addresses_that_exclude_each_other_are_reported() {
    let setup = Setup::new(Kind::Sqlite, &[]).await;
    // The kernel gives such a low port to nobody who asks for any.
    let free = SocketAddr::from(([127, 0, 0, 1], 20_000 + (std::process::id() % 10_000) as u16));
    for other in [free.to_string(), format!("0.0.0.0:{}", free.port())] {
        let options = ["--listen", &free.to_string(), "--admin-listen", &other];
        let checked = check(&setup.arguments(), &options).await;
        assert_eq!(checked.code, Some(1));
        checked.problem(&["--admin-listen", &other, "--listen has this port already"]);
        assert_eq!(checked.problems.len(), 1, "{:?}", checked.problems);
    }
}

#[tokio::test]
async fn an_unusable_database_is_explained_without_its_password() {
    let url = new_postgres_database().await;
    let nobody = "postgres://joe:secret@127.0.0.1:1/chat".to_owned();
    for (url, words) in
        [(format!("{url}_not"), ["_not", "does not exist"]), (nobody, ["127.0.0.1:1/chat", "is it running"])]
    {
        let setup = Setup::with_database(Some(url), &[]);
        let checked = check(&setup.arguments(), &[]).await;
        assert_eq!(checked.code, Some(1));
        checked.problem(&words);
        assert!(!checked.problems[0].contains("secret"), "{:?}", checked.problems);
    }
    let nowhere = Setup::with_database(Some("sqlite:/no/where.db".to_owned()), &[]);
    check(&nowhere.arguments(), &[]).await.problem(&["/no/where.db"]);
}

#[tokio::test]
async fn a_database_that_has_moved_is_reported() {
    let mut server = Server::start(Kind::Sqlite, &[]).await;
    server.stop().await;
    let mut backdoor = server.setup.backdoor().await;
    backdoor.execute("INSERT INTO meta (name, value) VALUES ('moved_to', '1 db.example:5432/chat')").await;
    let checked = check(&server.setup.arguments(), &[]).await;
    assert_eq!(checked.code, Some(1));
    checked.problem(&["has moved", "db.example:5432/chat", "--database"]);
}
