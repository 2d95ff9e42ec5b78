//! Proves that sending a message twice stores it once.

use crate::databases::Kind;
use crate::server::{Server, number};
use serde_json::json;

on_each_database! {
    a_retry_stores_one_message
    a_retry_by_http_stores_one_message
    an_unknown_outcome_is_reported_at_the_deadline_and_settled_by_a_retry
}

async fn a_retry_stores_one_message(kind: Kind) {
    let mut server = Server::start(kind, &[]).await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    server.create_room(&ann, "r").await;
    let mut at_ann = server.join(&ann, "room=r&format=json").await;
    let mut at_bob = server.join(&bob, "room=r&format=json").await;
    let message = json!({"text": "once", "id": "a1"}).to_string();
    at_ann.send(&message).await;
    let first = at_ann.event().await;
    assert_eq!((&first["type"], &first["id"], &first["offset"]), (&json!("message"), &json!("a1"), &json!(1)));
    let ack = json!({"type": "ack", "id": "a1", "offset": 1, "time": first["time"]});
    at_ann.send(&message).await;
    assert_eq!(at_ann.event().await, ack);
    // Other content with the same id is not a retry.
    at_ann.send(json!({"text": "twice", "id": "a1"}).to_string()).await;
    assert_eq!(at_ann.error().await, (107, Some("a1".into())));
    // The same id of another user is another message.
    at_bob.send(&message).await;
    assert_eq!(at_ann.message().await, (2, "once".into()));

    // A retry from another connection, and one after a restart.
    let mut elsewhere = server.join(&ann, "room=r&format=json").await;
    elsewhere.send(&message).await;
    assert_eq!(elsewhere.event().await, ack);
    server.kill().await;
    let server = server.restart().await;
    let mut later = server.join(&ann, "room=r&format=json").await;
    later.send(&message).await;
    assert_eq!(later.event().await, ack);
    later.send(json!({"text": "last", "id": "a2"}).to_string()).await;
    assert_eq!(later.message().await, (3, "last".into()));
    // Bob saw each once.
    assert_eq!(at_bob.message().await, (1, "once".into()));
    assert_eq!(at_bob.message().await, (2, "once".into()));
    assert_eq!(server.history(&bob, "r").await.len(), 3);
}

async fn a_retry_by_http_stores_one_message(kind: Kind) {
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
    // HTTP and WebSocket share the ids.
    assert_eq!(ws.message().await, (1, "once".into()));
    ws.send(message.to_string()).await;
    assert_eq!(ws.event().await, json!({"type": "ack", "id": "a1", "offset": 1, "time": first["time"]}));
    ws.send(json!({"text": "by WebSocket", "id": "a2"}).to_string()).await;
    assert_eq!(ws.message().await, (2, "by WebSocket".into()));
    let again = server.post(path, &ann.token, json!({"text": "by WebSocket", "id": "a2"})).await.expect(201);
    assert_eq!(number(&again["offset"]), 2);
    assert_eq!(server.history(&ann, "r").await.len(), 2);
}

async fn an_unknown_outcome_is_reported_at_the_deadline_and_settled_by_a_retry(kind: Kind) {
    let server = Server::start(kind, &["--limit", "append_deadline_ms=300"]).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let mut ws = server.join(&ann, "room=r&format=json").await;
    let mut backdoor = server.setup.backdoor().await;
    backdoor.hold_commits().await;
    for n in 0..3 {
        ws.send(json!({"text": "by WebSocket", "id": format!("w{n}")}).to_string()).await;
    }
    let by_http = json!({"text": "by HTTP", "id": "h"});
    let unknown = server.post("/rooms/r/messages", &ann.token, by_http.clone()).await;
    assert_eq!(unknown.error(), (503, "not_known".into()));
    assert!(unknown.header("Retry-After").is_some());
    for n in 0..3 {
        assert_eq!(ws.error().await, (100, Some(format!("w{n}"))));
    }
    backdoor.release_commits().await;
    // Each message is stored by now or by the retry. Everyone sees it then, and the sender learns its offset.
    let http_offset = loop {
        let answer = server.post("/rooms/r/messages", &ann.token, by_http.clone()).await;
        // On a busy machine, it may not be known in time again.
        if answer.status != 503 {
            break number(&answer.expect(201)["offset"]);
        }
        assert_eq!(answer.error().1, "not_known");
    };
    for n in 0..3 {
        ws.send(json!({"text": "by WebSocket", "id": format!("w{n}")}).to_string()).await;
    }
    ws.send(json!({"text": "the last", "id": "last"}).to_string()).await;
    let mut seen = Vec::new();
    let mut reported = Vec::new();
    while seen.len() < 5 || reported.len() < 3 {
        let event = ws.event().await;
        let is_ack = event["type"] == "ack";
        let entry = (event["id"].as_str().unwrap().to_owned(), number(&event["offset"]));
        assert!(is_ack || event["type"] == "message", "{event}");
        if !is_ack {
            assert_eq!(entry.1, seen.len() as u64 + 1, "a gap or a duplicate: {event}");
            seen.push(entry.clone());
        }
        // The sender learns the offset by `ack` if the message was shown before the retry, and by the message itself if
        // the retry stored it.
        if entry.0.starts_with('w') && !reported.contains(&entry) {
            reported.push(entry);
        }
    }
    assert!(seen.contains(&("h".into(), http_offset)), "{seen:?}");
    assert!(reported.iter().all(|entry| seen.contains(entry)), "{reported:?} {seen:?}");
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
