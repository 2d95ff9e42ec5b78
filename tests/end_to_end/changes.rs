//! Proves that edits, deletions and reactions by HTTP reach everyone like those over WebSocket.

use crate::databases::Kind;
use crate::server::{Server, number};
use serde_json::{Value, json};

on_each_database_and_shards! {
    a_change_by_http_reaches_subscribers_and_history
    meta_reaches_everyone_until_the_message_is_deleted
}

async fn meta_reaches_everyone_until_the_message_is_deleted(kind: Kind, shards: &str) {
    let server = Server::start(kind, &["--shards", shards]).await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    server.create_room(&ann, "r").await;
    let mut at_bob = server.join(&bob, "room=r&format=json").await;
    let meta = json!({"order": 7, "tags": ["a"]});
    let message = json!({"text": "x", "id": "m", "meta": meta});
    at_bob.send(message.to_string()).await;
    assert_eq!(at_bob.event().await["meta"], meta);
    // The same message over HTTP is known, and with other meta it is another.
    server.post("/rooms/r/messages", &bob.token, message).await.expect(201);
    let other = server.post("/rooms/r/messages", &bob.token, json!({"text": "x", "id": "m"})).await;
    assert_eq!(other.error(), (409, "id_reused".into()));

    server.call("PATCH", "/rooms/r/messages/1", &bob.token, json!({"text": "y"})).await.expect(200);
    assert_eq!(at_bob.event().await["type"], "edit");
    let mut later = server.join(&ann, "room=r&since=0").await;
    let event = later.event().await;
    assert_eq!((&event["text"], &event["meta"]), (&json!("y"), &meta));
    assert_eq!(server.history(&ann, "r").await[0]["meta"], meta);

    server.call("DELETE", "/rooms/r/messages/1", &bob.token, Value::Null).await.expect(200);
    assert_eq!(at_bob.event().await["type"], "delete");
    let mut last = server.join(&ann, "room=r&since=0").await;
    let event = last.event().await;
    assert_eq!((&event["deleted"], &event["meta"]), (&json!(true), &Value::Null));
    at_bob.send(json!({"edit": 1, "text": "z", "id": "e", "meta": 1}).to_string()).await;
    assert_eq!(at_bob.error().await, (107, Some("e".into())));
}

async fn a_change_by_http_reaches_subscribers_and_history(kind: Kind, shards: &str) {
    let server = Server::start(kind, &["--shards", shards]).await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    server.post("/rooms", &ann.token, json!({"name": "r"})).await.expect(201);
    let mut plain = server.join(&bob, "room=r").await;
    assert_eq!(plain.round_trip("helo").await, (1, "helo".into()));

    let path = "/rooms/r/messages/1";
    let thumb = format!("{path}/reactions/%F0%9F%91%8D");
    let edit = json!({"text": "hello", "id": "e"});
    let edited = server.call("PATCH", path, &bob.token, edit.clone()).await.expect(200);
    server.call("PUT", &thumb, &ann.token, Value::Null).await.expect(200);
    server.call("DELETE", &thumb, &ann.token, Value::Null).await.expect(200);
    let deleted = server.call("DELETE", path, &ann.token, Value::Null).await.expect(200);
    assert_eq!((number(&edited["offset"]), number(&deleted["offset"])), (2, 5));
    for (offset, what, who) in [(2, "edit", "bob"), (3, "react", "ann"), (4, "unreact", "ann"), (5, "delete", "ann")] {
        let event = plain.event().await;
        assert_eq!((&event["type"], number(&event["offset"])), (&json!(what), offset), "{event}");
        assert_eq!((&event["target"], &event["user"]["username"]), (&json!(1), &json!(who)), "{event}");
        match what {
            "edit" => assert_eq!((&event["text"], &event["id"]), (&json!("hello"), &json!("e"))),
            "react" | "unreact" => assert_eq!(event["emoji"], "👍"),
            _ => assert_eq!(event["text"], Value::Null),
        }
    }
    let page = server.get("/rooms/r/messages", &ann.token).await.expect(200);
    assert_eq!((&page["messages"][0]["text"], &page["messages"][0]["deleted"]), (&Value::Null, &json!(true)));
    assert_eq!(server.call("PATCH", path, &bob.token, edit).await.expect(200), edited, "the same edit again");
}
