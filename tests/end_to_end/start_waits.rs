//! Proves that a server waits at the start for what is only away for the moment.

use crate::databases::{Kind, new_postgres_database, private_postgres};
use crate::server::{Launched, Server, Setup};
use crate::two_nodes::alone;
use std::fs::{self, File};
use std::io::Write;
use std::net::TcpListener;

const WAITS: &str = "the start waits";

/// It listens after all, and works.
async fn expect_start(launched: Launched) -> Server {
    let server = launched.listens().await;
    server.get("/readyz", "").await.expect(200);
    server
}

#[tokio::test]
async fn a_server_started_before_postgres_waits_for_it() {
    alone!("one process waits");
    let Some(mut postgres) = private_postgres().await else { return };
    let database = postgres.create_database().await.unwrap();
    postgres.stop().unwrap();
    let launched = Setup::with_database(Some(database), &[]).launch();
    launched.logs(&[WAITS, "can't reach PostgreSQL"]).await;
    postgres.restart().await.unwrap();
    let server = expect_start(launched).await;
    // Not one line per attempt.
    let lines = server.setup.log().matches(WAITS).count();
    assert!(lines <= 5, "{lines} lines:\n{}", server.setup.log());
}

#[tokio::test]
async fn a_server_waits_for_a_database_that_takes_no_writes() {
    alone!("one process waits");
    let url = new_postgres_database().await;
    let (_, name) = url.rsplit_once('/').unwrap();
    let setup = Setup::with_database(Some(url.clone()), &[]);
    let mut backdoor = setup.backdoor().await;
    backdoor.execute(&format!("ALTER DATABASE {name} SET default_transaction_read_only = on")).await;
    let launched = setup.launch();
    launched.logs(&[WAITS, "read-only"]).await;
    backdoor.execute(&format!("ALTER DATABASE {name} RESET default_transaction_read_only")).await;
    expect_start(launched).await;
}

#[tokio::test]
async fn a_signal_ends_a_start_that_waits() {
    alone!("one process waits");
    // No server listens on this port.
    let url = "postgres://someone:secret@127.0.0.1:1/chat".to_owned();
    for signal in ["TERM", "INT"] {
        let Launched { mut server, .. } = {
            let launched = Setup::with_database(Some(url.clone()), &[]).launch();
            launched.logs(&[WAITS, "127.0.0.1:1"]).await;
            launched
        };
        server.signal("HUP").await;
        server.signal(signal).await;
        assert!(server.exit().await.success(), "{}", server.setup.log());
        assert!(!server.setup.log().contains("secret"), "a password was logged");
    }
}

#[tokio::test]
async fn an_address_and_a_data_folder_in_use_are_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let own_process = format!("process {}", std::process::id());
    let setup = Setup::new(Kind::Sqlite, &["--listen", &address]).await;
    let data = setup.data();
    fs::create_dir(&data).unwrap();
    let mut lock = File::create(data.join("uproar.lock")).unwrap();
    writeln!(lock, "{}", std::process::id()).unwrap();
    lock.lock().unwrap();
    let launched = setup.launch();
    launched.logs(&[WAITS, "another uproar", &own_process, data.to_str().unwrap()]).await;
    drop(lock);
    launched.logs(&[WAITS, &address, &format!("in use by {own_process}")]).await;
    drop(listener);
    expect_start(launched).await;
}

#[tokio::test]
async fn a_sqlite_file_that_another_program_has_locked_is_waited_for() {
    let mut server = Server::start(Kind::Sqlite, &[]).await;
    server.stop().await;
    let mut backdoor = server.setup.backdoor().await;
    backdoor.hold_commits().await;
    let locked = format!("locked by process {} (", std::process::id());
    // Without the wait, this is the error.
    let (code, line) = server.setup.fail_to_start().await;
    assert!(code == Some(1) && line.contains(&locked), "{line}");
    let launched = server.relaunch();
    launched.logs(&[WAITS, &locked]).await;
    backdoor.release_commits().await;
    expect_start(launched).await;
}
