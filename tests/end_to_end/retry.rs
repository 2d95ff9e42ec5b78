//! Sending twice is sending once.

use crate::databases::Kind;
use crate::server::{Server, number};
use serde_json::json;

on_each_database! {
    a_retry_yields_one_message
    a_retry_by_http_yields_one_message
    not_known_is_said_at_the_deadline_and_a_retry_settles_it
}

async fn a_retry_yields_one_message(kind: Kind) {
    let mut server = Server::start(kind, &[]).await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    server.create_room(&ann, "r").await;
    let mut at_ann = server.join(&ann, "room=r&format=json").await;
    let mut at_bob = server.join(&bob, "room=r&format=json").await;
    let message = json!({"text": "once", "id": "a1"}).to_string();
    at_ann.say(&message).await;
    let first = at_ann.event().await;
    assert_eq!((&first["type"], &first["id"], &first["offset"]), (&json!("message"), &json!("a1"), &json!(1)));
    let ack = json!({"type": "ack", "id": "a1", "offset": 1, "time": first["time"]});
    at_ann.say(&message).await;
    assert_eq!(at_ann.event().await, ack);
    // Another content under the same id is no retry.
    at_ann.say(json!({"text": "twice", "id": "a1"}).to_string()).await;
    assert_eq!(at_ann.error().await, (107, Some("a1".into())));
    // The same id of someone else is another message.
    at_bob.say(&message).await;
    assert_eq!(at_ann.message().await, (2, "once".into()));

    // From another connection, and long after.
    let mut elsewhere = server.join(&ann, "room=r&format=json").await;
    elsewhere.say(&message).await;
    assert_eq!(elsewhere.event().await, ack);
    server.kill().await;
    let server = server.restart().await;
    let mut later = server.join(&ann, "room=r&format=json").await;
    later.say(&message).await;
    assert_eq!(later.event().await, ack);
    later.say(json!({"text": "last", "id": "a2"}).to_string()).await;
    assert_eq!(later.message().await, (3, "last".into()));
    // Bob saw each once.
    assert_eq!(at_bob.message().await, (1, "once".into()));
    assert_eq!(at_bob.message().await, (2, "once".into()));
    assert_eq!(server.history(&bob, "r").await.len(), 3);
}

async fn a_retry_by_http_yields_one_message(kind: Kind) {
    let server = Server::start(kind, &[]).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let mut ws = server.join(&ann, "room=r&format=json").await;
    let path = "/rooms/r/messages";
    let message = json!({"text": "once", "id": "a1"});
    let first = server.post(path, &ann.token, message.clone()).await.expect(201);
    assert_eq!(number(&first["offset"]), 1);
    assert_eq!(server.post(path, &ann.token, message.clone()).await.expect(201), first);
    let other = json!({"text": "twice", "id": "a1"});
    assert_eq!(server.post(path, &ann.token, other).await.error(), (409, "id_reused".into()));
    // One id, whichever way it comes.
    assert_eq!(ws.message().await, (1, "once".into()));
    ws.say(message.to_string()).await;
    assert_eq!(ws.event().await, json!({"type": "ack", "id": "a1", "offset": 1, "time": first["time"]}));
    ws.say(json!({"text": "by WebSocket", "id": "a2"}).to_string()).await;
    assert_eq!(ws.message().await, (2, "by WebSocket".into()));
    let again = server.post(path, &ann.token, json!({"text": "by WebSocket", "id": "a2"})).await.expect(201);
    assert_eq!(number(&again["offset"]), 2);
    assert_eq!(server.history(&ann, "r").await.len(), 2);
}

async fn not_known_is_said_at_the_deadline_and_a_retry_settles_it(kind: Kind) {
    let server = Server::start(kind, &["--limit", "append_deadline_ms=300"]).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let mut ws = server.join(&ann, "room=r&format=json").await;
    let mut backdoor = server.place.backdoor().await;
    backdoor.hold_commits().await;
    for n in 0..3 {
        ws.say(json!({"text": "by WebSocket", "id": format!("w{n}")}).to_string()).await;
    }
    let by_http = json!({"text": "by HTTP", "id": "h"});
    let refused = server.post("/rooms/r/messages", &ann.token, by_http.clone()).await;
    assert_eq!(refused.error(), (503, "not_known".into()));
    assert!(refused.header("Retry-After").is_some());
    for n in 0..3 {
        assert_eq!(ws.error().await, (100, Some(format!("w{n}"))));
    }
    backdoor.release_commits().await;
    // Whether or not it was stored meanwhile: once it is, everyone sees it, and the sender learns where.
    let http_offset = number(&server.post("/rooms/r/messages", &ann.token, by_http).await.expect(201)["offset"]);
    for n in 0..3 {
        ws.say(json!({"text": "by WebSocket", "id": format!("w{n}")}).to_string()).await;
    }
    ws.say(json!({"text": "the last", "id": "last"}).to_string()).await;
    let mut seen = Vec::new();
    let mut told = Vec::new();
    while seen.len() < 5 || told.len() < 3 {
        let event = ws.event().await;
        let is_ack = event["type"] == "ack";
        let entry = (event["id"].as_str().unwrap().to_owned(), number(&event["offset"]));
        assert!(is_ack || event["type"] == "message", "{event}");
        if !is_ack {
            assert_eq!(entry.1, seen.len() as u64 + 1, "a gap or a duplicate: {event}");
            seen.push(entry.clone());
        }
        // A retry that comes when the message has been shown is told by `ack`; one that was stored by the retry itself
        // is told by the message.
        if entry.0.starts_with('w') && !told.contains(&entry) {
            told.push(entry);
        }
    }
    assert!(seen.contains(&("h".into(), http_offset)), "{seen:?}");
    assert!(told.iter().all(|entry| seen.contains(entry)), "{told:?} {seen:?}");
    let stored: Vec<(String, u64)> = server
        .history(&ann, "r")
        .await
        .iter()
        .map(|m| (m["id"].as_str().unwrap().to_owned(), number(&m["offset"])))
        .collect();
    assert_eq!(stored, seen);
    let order: Vec<&str> = seen.iter().map(|(id, _)| id.as_str()).filter(|id| id.starts_with('w')).collect();
    assert_eq!(order, ["w0", "w1", "w2"]);
}
