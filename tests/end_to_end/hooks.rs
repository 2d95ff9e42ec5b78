//! Proves that what programs post to a hook reaches the room, and that the secrets of hooks are not logged.

use crate::client::{Http, Response};
use crate::databases::Kind;
use crate::server::{Server, number, text, until};
use serde_json::{Value, json};

on_each_database! { a_program_posts_to_a_room_until_its_hook_is_deleted }

async fn post(server: &Server, path: &str, key: &str, body: Value) -> Response {
    let mut http = Http::connect(server.port).await.expect("no connection");
    let headers: &[(&str, &str)] = if key.is_empty() { &[] } else { &[("Idempotency-Key", key)] };
    http.request("POST", path, headers, Some(&body)).await.expect("an answer")
}

async fn a_program_posts_to_a_room_until_its_hook_is_deleted(kind: Kind) {
    let server = Server::start(kind, &["--log", "debug"]).await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    server.create_room(&ann, "r").await;
    let mut at_bob = server.join(&bob, "room=r").await;
    let created = server.post("/rooms/r/hooks", &ann.token, json!({"name": "CI"})).await.expect(201);
    let url = text(&created["hook"]["url"]);
    let path = url.split_once("localhost").expect("the host of the request").1;

    let body = json!({"text": "<https://ci.example/7|Build 7> failed", "username": "ann"});
    for _ in 0..2 {
        let answer = post(&server, path, "b7", body.clone()).await;
        assert_eq!((answer.status, &*answer.body), (200, &b"ok"[..]));
    }
    let event = at_bob.event().await;
    assert_eq!((&event["text"], &event["id"]), (&json!("ann: Build 7 (https://ci.example/7) failed"), &json!("b7")));
    assert_eq!(event["user"]["username"], "CI [bot]");
    assert_eq!(at_bob.round_trip("once").await.0, number(&event["offset"]) + 1, "the second post was the same");

    let id = text(&created["hook"]["id"]);
    server.call("DELETE", &format!("/rooms/r/hooks/{id}"), &ann.token, Value::Null).await.expect(200);
    let removed = at_bob.event().await;
    assert_eq!((&removed["type"], &removed["removed"]), (&json!("removed"), &created["hook"]["user"]["id"]));
    let answer = post(&server, path, "b8", body).await;
    assert_eq!((answer.status, &*answer.body), (404, &b"no_service"[..]));

    // Four answers are logged: three posts, and the deletion.
    let answered = |log: &str| log.lines().filter(|line| line.contains("hooks/…")).count();
    until("the requests are logged", async || answered(&server.setup.log()) >= 4).await;
    let secret = path.strip_prefix("/hooks/").expect("the path of a hook");
    assert!(!server.setup.log().contains(secret), "the secret was logged");
}
