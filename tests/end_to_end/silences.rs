//! Proves that a user who may not post is told so in both protocols, over HTTP and through the server API.

use crate::api::{api_key, printed};
use crate::centrifuge::Wire;
use crate::client::{Http, Response, User, Ws};
use crate::databases::Kind;
use crate::server::{Server, number, text};
use serde_json::{Value, json};

on_each_database! {
    a_silenced_user_is_refused_at_every_door
    slow_mode_says_how_long_to_wait
    only_moderators_post_where_only_they_may
}

/// The owner changes the room.
async fn change(server: &Server, ann: &User, method: &str, path: &str, body: Value) {
    server.call(method, path, &ann.token, body).await.expect(200);
}

/// Reads the next event, which must tell of a change of rights.
async fn expect_change(ws: &mut Ws) {
    let event = ws.event().await;
    assert_eq!(event["type"], "moderated", "{event}");
}

/// Sends a message on a plain connection. Returns the error for it.
async fn refused(ws: &mut Ws, id: &str) -> Value {
    ws.send(json!({"text": "x", "id": id}).to_string()).await;
    let event = ws.event().await;
    assert_eq!((&event["type"], &event["id"]), (&json!("error"), &json!(id)), "{event}");
    event
}

/// Sends a command, which must fail. Returns the error.
async fn failed(wire: &mut Wire, id: u32, request: &str, parameters: Value) -> Value {
    wire.command(id, request, parameters).await;
    let reply = wire.next().await;
    assert_eq!(reply["id"], id, "{reply}");
    reply["error"].clone()
}

async fn published_for(server: &Server, key: &str, name: &str) -> Value {
    let mut http = Http::connect(server.port).await.expect("no connection");
    let params = json!({"channel": "room:r", "data": {"text": "x", "as": name}});
    let sent = http.request("POST", "/api/publish", &[("X-API-Key", key)], Some(&params)).await;
    sent.expect("an answer").expect(200)
}

fn retry_after(response: &Response) -> u64 {
    response.header("retry-after").and_then(|seconds| seconds.parse().ok()).expect("Retry-After")
}

async fn a_silenced_user_is_refused_at_every_door(kind: Kind) {
    let server = Server::start(kind, &[]).await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    server.create_room(&ann, "r").await;
    let key = printed(&api_key(&server, &["add", "shop", "--user", "Shop", "--scope", "publish,impersonate"]).await);
    let mut at_bob = server.join(&bob, "room=r&format=json").await;
    let mut wire = Wire::connect(&server, &bob).await;
    wire.result(2, "subscribe", json!({"channel": "room:r"})).await;
    let before = json!({"text": "before", "id": "before"});
    let said = server.post("/rooms/r/messages", &bob.token, before.clone()).await.expect(201);
    let message = format!("/rooms/r/messages/{}", said["offset"]);
    assert_eq!(at_bob.event().await["text"], "before");
    wire.push("room:r", "pub").await;

    let bob_id = server.user_id(&bob).await;
    let until_ms = number(&said["time"]) + 3_600_000;
    change(&server, &ann, "PUT", "/rooms/r/silences/bob", json!({"until": until_ms})).await;
    expect_change(&mut at_bob).await;
    wire.push("room:r", "pub").await;
    let error = refused(&mut at_bob, "1").await;
    let why = text(&error["message"]);
    assert!(error["code"] == 103 && why.starts_with("silenced until 2") && why.ends_with('Z'), "{error}");
    let publish = json!({"channel": "room:r", "data": {"text": "x", "id": "2"}});
    let edit = json!({"channel": "room:r", "data": {"edit": said["offset"], "text": "x", "id": "3"}});
    for (id, request, parameters) in [
        (3, "publish", publish.clone()),
        (4, "rpc", json!({"method": "publish", "data": publish})),
        (5, "publish", edit),
    ] {
        let error = failed(&mut wire, id, request, parameters).await;
        assert_eq!(error, json!({"code": 103, "message": why}));
    }
    for (method, path, body) in [
        ("POST", "/rooms/r/messages".to_owned(), json!({"text": "x"})),
        ("PATCH", message.clone(), json!({"text": "x"})),
        ("PUT", format!("{message}/reactions/%F0%9F%91%8D"), Value::Null),
    ] {
        let error = server.call(method, &path, &bob.token, body).await.expect(403)["error"].clone();
        assert_eq!(
            (&error["code"], &error["until"], &error["message"]),
            (&json!("silenced"), &json!(until_ms), &json!(why))
        );
    }
    let answer = published_for(&server, &key, &bob_id).await;
    assert_eq!((&answer["error"]["code"], &answer["error"]["message"]), (&json!(103), &json!(why)), "{answer}");

    // What is stored already is acknowledged, and can be taken back.
    assert_eq!(server.post("/rooms/r/messages", &bob.token, before).await.expect(201), said);
    server.call("DELETE", &message, &bob.token, Value::Null).await.expect(200);
    assert_eq!(at_bob.event().await["type"], "delete");
    change(&server, &ann, "DELETE", "/rooms/r/silences/bob", Value::Null).await;
    expect_change(&mut at_bob).await;
    at_bob.send(json!({"text": "after", "id": "1"}).to_string()).await;
    let event = at_bob.event().await;
    assert_eq!((&event["text"], number(&event["offset"])), (&json!("after"), 5), "{event}");
    let texts: Vec<_> = server.history(&ann, "r").await.into_iter().map(|shown| shown["text"].clone()).collect();
    assert_eq!(texts, [Value::Null, json!("after")]);
}

async fn slow_mode_says_how_long_to_wait(kind: Kind) {
    let server = Server::start(kind, &[]).await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    server.create_room(&ann, "r").await;
    let mut at_bob = server.join(&bob, "room=r&format=json").await;
    let hook = server.post("/rooms/r/hooks", &ann.token, json!({"name": "CI"})).await.expect(201);
    let url = text(&hook["hook"]["url"]);
    let path = url.split_once("localhost").expect("the host of the request").1;
    change(&server, &ann, "PATCH", "/rooms/r", json!({"slow_mode_seconds": 3600})).await;
    expect_change(&mut at_bob).await;

    at_bob.send(json!({"text": "first", "id": "0"}).to_string()).await;
    assert_eq!(at_bob.event().await["text"], "first");
    let error = refused(&mut at_bob, "1").await;
    assert_eq!(error["code"], 111, "{error}");
    let said = text(&error["message"]);
    let seconds = said.strip_prefix("the room is in slow mode; you can post again in ");
    let seconds: u64 = seconds.and_then(|rest| rest.strip_suffix(" s")?.parse().ok()).expect("a number of seconds");
    assert!((3000..=3600).contains(&seconds), "{said}");
    let mut wire = Wire::connect(&server, &bob).await;
    wire.result(2, "subscribe", json!({"channel": "room:r"})).await;
    let error = failed(&mut wire, 3, "publish", json!({"channel": "room:r", "data": {"text": "x"}})).await;
    assert_eq!((&error["code"], &error["temporary"]), (&json!(111), &json!(true)));
    let answer = server.post("/rooms/r/messages", &bob.token, json!({"text": "x"})).await;
    assert!((3000..=3600).contains(&retry_after(&answer)));
    assert_eq!(answer.error(), (429, "rate_limited".into()));

    for (status, word) in [(200, "ok"), (429, "rate_limited")] {
        let mut http = Http::connect(server.port).await.expect("no connection");
        let answer = http.request("POST", path, &[], Some(&json!({"text": "built"}))).await.expect("an answer");
        assert_eq!((answer.status, &*answer.body), (status, word.as_bytes()));
    }
    // The owner need not wait.
    for _ in 0..2 {
        server.post("/rooms/r/messages", &ann.token, json!({"text": "x"})).await.expect(201);
    }
}

async fn only_moderators_post_where_only_they_may(kind: Kind) {
    let server = Server::start(kind, &[]).await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    server.create_room(&ann, "r").await;
    let mut at_bob = server.join(&bob, "room=r&format=json").await;
    change(&server, &ann, "PATCH", "/rooms/r", json!({"who_may_post": "moderators"})).await;
    expect_change(&mut at_bob).await;
    assert_eq!(refused(&mut at_bob, "1").await["code"], 103);
    let answer = server.post("/rooms/r/messages", &bob.token, json!({"text": "x"})).await;
    assert_eq!(answer.error(), (403, "not_allowed".into()));
    let said = server.post("/rooms/r/messages", &ann.token, json!({"text": "news"})).await.expect(201);
    assert_eq!(at_bob.event().await["text"], "news");
    let path = format!("/rooms/r/messages/{}/reactions/%F0%9F%91%8D", said["offset"]);
    server.call("PUT", &path, &bob.token, Value::Null).await.expect(200);
}
