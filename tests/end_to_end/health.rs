//! Proves that `uproar health` tells a server that works from one that does not.

use crate::databases::Kind;
use crate::server::{Server, Setup, assert_contains, run, until, with_limits};
use crate::tunnel::Pair;
use std::net::TcpListener;

/// Runs `uproar health` with these arguments. Returns its exit status and its only line of output, which is empty if
/// the server is healthy.
async fn health(arguments: &[&str]) -> (Option<i32>, String) {
    let output = run(&[&["health"], arguments].concat()).await;
    assert!(output.stdout.is_empty(), "{output:?}");
    let line = String::from_utf8(output.stderr).unwrap();
    assert!(line.lines().count() <= 1, "{line}");
    (output.status.code(), line)
}

#[tokio::test]
async fn a_server_that_responds_is_healthy_even_without_its_database() {
    let limits = ["store_timeout_ms=500", "append_deadline_ms=500"];
    let server = Server::start(Kind::Sqlite, &with_limits(&[], &limits)).await;
    let healthy = (Some(0), String::new());
    let address = format!("127.0.0.1:{}", server.port);
    let [root, ready] = ["", "/readyz"].map(|path| format!("http://localhost:{}{path}", server.port));
    assert_eq!(health(&["--listen", &address]).await, healthy);
    assert_eq!(health(&["--listen", &format!("0.0.0.0:{}", server.port)]).await, healthy);
    assert_eq!(health(&["--listen", &format!("[::]:{}", server.port)]).await, healthy);
    assert_eq!(health(&[&root]).await, healthy);
    assert_eq!(health(&[&ready]).await, healthy);

    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let mut ws = server.join(&ann, "room=r").await;
    let mut backdoor = server.setup.backdoor().await;
    backdoor.hold_commits().await;
    ws.send("stuck").await;
    until("the server is not ready", async || health(&[&ready]).await.0 == Some(1)).await;
    assert_contains(&health(&[&ready]).await.1, &["uproar: ", &ready, "answers 503", "the database"]);
    assert_eq!(health(&[&root]).await, healthy);
    backdoor.release_commits().await;
    until("the server is ready again", async || health(&[&ready]).await == healthy).await;
}

#[tokio::test]
async fn a_server_is_asked_over_tls() {
    let (setup, _) = Setup::new(Kind::Sqlite, &[]).await.with_tls();
    // Clients would refuse the certificate, but that is no reason to restart the server.
    Pair::create_until(setup.folder(), 2001);
    let server = setup.start().await;
    let healthy = (Some(0), String::new());
    let port = server.tls_port;
    assert_eq!(health(&[&format!("https://localhost:{port}")]).await, healthy);
    assert_eq!(health(&[&format!("https://127.0.0.1:{port}/readyz")]).await, healthy);
    assert_eq!(health(&["--listen", "", "--listen-tls", &format!("0.0.0.0:{port}")]).await, healthy);
    let missing = format!("https://127.0.0.1:{port}/nothing");
    assert_contains(&health(&[&missing]).await.1, &[&missing, "answers 404"]);
    let (_, line) = health(&[&format!("http://127.0.0.1:{port}")]).await;
    assert_contains(&line, &["answers 400", "this port speaks TLS", "https://"]);
}

#[tokio::test]
async fn a_server_that_hangs_is_not_healthy() {
    let server = Server::start(Kind::Sqlite, &[]).await;
    server.signal("STOP").await;
    let (code, line) = health(&[&format!("http://127.0.0.1:{}", server.port)]).await;
    server.signal("CONT").await;
    assert_eq!(code, Some(1));
    assert_contains(&line, &["no answer from http://127.0.0.1", "within 5 s"]);
}

#[tokio::test]
async fn what_is_not_a_healthy_server_is_explained() {
    // The port of a server that has gone.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let [nobody, encrypted, other] = ["http://", "https://", "wss://"].map(|scheme| format!("{scheme}{address}"));
    let server = Server::start(Kind::Sqlite, &[]).await;
    let missing = format!("http://127.0.0.1:{}/nothing", server.port);
    let plain = format!("https://127.0.0.1:{}", server.port);
    for (arguments, words) in [
        (&["--listen", address.as_str()][..], [nobody.as_str(), "refused", "is the server running?"]),
        (&[&nobody], [&nobody, "refused", "is the server running?"]),
        (&[&encrypted], [&encrypted, "refused", "is the server running?"]),
        (&[&plain], [&plain, "does not speak TLS", "http://"]),
        (&[&missing], [&missing, "answers 404", "path"]),
        (&[&other], [&other, "is not a URL such as", "http://127.0.0.1:8080/healthz"]),
        (&["localhost:8080"], ["'localhost:8080'", "is not a URL such as", "http://127.0.0.1:8080/healthz"]),
        (&["--listen", "127.0.0.1:0"], ["--listen", "port 0", "uproar health http://"]),
    ] {
        let (code, line) = health(arguments).await;
        // Docker reserves status 2.
        assert_eq!(code, Some(1), "{arguments:?}: {line}");
        assert_contains(&line, &words);
    }
}
