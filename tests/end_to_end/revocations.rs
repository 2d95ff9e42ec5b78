//! Proves that what one node revokes is revoked on the others, and that a node which can't know serves nobody.

use crate::client::{Http, User, within};
use crate::databases::{Backdoor, new_postgres_database};
use crate::server::{Server, Setup, assert_contains, text, until};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;

/// The contract: how long a right that is taken away may last on another node.
const LIMIT: Duration = Duration::from_secs(1);

/// Two nodes on one database, with one key.
async fn two_nodes() -> (Server, Server, String) {
    let url = new_postgres_database().await;
    let node = |name: &str| ["--bus", "postgres", "--node", name].map(str::to_owned);
    let options = node("one");
    let one = Setup::with_database(Some(url.clone()), &options.each_ref().map(String::as_str)).start().await;
    let mut other = Setup::with_database(Some(url.clone()), &node("two").each_ref().map(String::as_str));
    other.add_options(&["--key-file", one.setup.data().join("signing.key").to_str().unwrap()]);
    (one, other.start().await, url)
}

async fn sign_in(server: &Server, name: &str, password: &str) -> User {
    let credentials = json!({"username": name, "password": password});
    let token = text(&server.post("/user/signin", "", credentials).await.expect(200)["token"]);
    User { name: name.to_owned(), token }
}

#[tokio::test]
async fn signing_out_on_one_node_closes_connections_on_the_other() {
    let (one, two, _) = two_nodes().await;
    let (mut ann, bob) = (one.sign_up("ann").await, two.sign_up("bob").await);
    one.create_room(&ann, "lobby").await;
    let mut at_bob = one.join(&bob, "room=lobby").await;
    let mut password = "correct horse".to_owned();
    let mut delays = Vec::new();
    for round in 0..4 {
        // A minted token has no generation, so one made in the second of the last revocation counts as revoked.
        let mut minted = one.user("ann").await;
        until("a second has passed", async || {
            minted = one.user("ann").await;
            two.get("/me", &minted.token).await.status == 200
        })
        .await;
        let mut at_ann = [two.join(&ann, "room=lobby").await, two.join(&minted, "room=live:x").await];
        if round % 2 == 0 {
            one.post("/user/signout", &ann.token, Value::Null).await.expect(200);
        } else {
            let new = format!("another horse {round}");
            let body = json!({"current_password": password, "new_password": new});
            one.post("/me/password", &ann.token, body).await.expect(200);
            password = new;
        }
        let committed = Instant::now();
        for ws in &mut at_ann {
            assert_eq!(ws.close_code().await, Some(3503));
        }
        delays.push(committed.elapsed());
        for user in [&ann, &minted] {
            let error = two.get("/me", &user.token).await.error();
            assert_eq!(error, (401, "token_invalid".to_owned()));
            assert_eq!(two.reject_join(user, "room=lobby").await, (401, "token_invalid".to_owned()));
        }
        ann = sign_in(&two, "ann", &password).await;
        one.get("/me", &ann.token).await.expect(200);
    }
    // One of them may have been held up by whatever else this machine does.
    assert!(delays.iter().min().is_some_and(|delay| *delay < LIMIT), "{delays:?}");
    at_bob.round_trip("still here").await;
}

/// The poll has a session of its own.
#[tokio::test]
async fn a_node_learns_of_revocations_while_other_sessions_wait() {
    let (one, two, url) = two_nodes().await;
    let ann = one.sign_up("ann").await;
    let mut at_ann = two.join(&ann, "room=live:x").await;
    let mut backdoor = Backdoor::postgres(&url).await;
    backdoor.execute("BEGIN; LOCK TABLE rooms IN ACCESS EXCLUSIVE MODE").await;
    let waiting = async {
        let requests = (0..20).map(|_| two.get("/rooms", &ann.token));
        futures_util::future::join_all(requests).await
    };
    let revoked = async {
        let waits = "SELECT pid::text FROM pg_locks WHERE NOT granted AND relation = 'rooms'::regclass";
        let mut observer = Backdoor::postgres(&url).await;
        until("the sessions wait", async || observer.texts(waits).await.len() >= 3).await;
        one.post("/user/signout", &ann.token, Value::Null).await.expect(200);
        assert_eq!(at_ann.close_code().await, Some(3503));
        backdoor.execute("ROLLBACK").await;
    };
    tokio::join!(waiting, revoked);
}

#[tokio::test]
async fn a_node_that_was_stopped_does_not_accept_what_was_revoked_meanwhile() {
    let (one, two, _) = two_nodes().await;
    let ann = one.sign_up("ann").await;
    two.get("/me", &ann.token).await.expect(200);
    two.signal("STOP").await;
    one.post("/user/signout", &ann.token, Value::Null).await.expect(200);
    // Its lease has expired by then.
    tokio::time::sleep(LIMIT).await;
    let request = format!("GET /me HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n", ann.token);
    let mut connections = Vec::new();
    for _ in 0..20 {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", two.port)).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        connections.push(stream);
    }
    two.signal("CONT").await;
    for stream in connections {
        let response = within("a response", Http::over(stream).receive()).await.unwrap();
        assert_eq!(response.error(), (401, "token_invalid".to_owned()));
    }
}

#[tokio::test]
async fn a_node_that_cannot_ask_for_revocations_accepts_no_token() {
    let (one, _two, url) = two_nodes().await;
    let ann = one.sign_up("ann").await;
    let mut backdoor = Backdoor::postgres(&url).await;
    backdoor.execute("BEGIN; LOCK TABLE users IN ACCESS EXCLUSIVE MODE").await;
    until("the lease expires", async || one.get("/me", &ann.token).await.status == 503).await;
    let response = one.get("/readyz", "").await;
    assert_eq!(response.status, 503);
    assert_contains(&String::from_utf8_lossy(&response.body), &["which tokens have been revoked"]);
    for path in ["/healthz", "/"] {
        assert_eq!(one.get(path, "").await.status, 200, "{path}");
    }
    until("the log says so", async || one.setup.log().contains("clients wait until it is")).await;
    backdoor.execute("ROLLBACK").await;
    until("the node knows again", async || one.get("/me", &ann.token).await.status == 200).await;
    until("it is ready", async || one.get("/readyz", "").await.status == 200).await;
    let log = one.setup.log();
    assert!(log.contains("it is known again which tokens other nodes have revoked"), "{log}");
    assert_eq!(log.matches("clients wait until it is").count(), 1, "{log}");
}
