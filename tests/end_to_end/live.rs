//! Proves that `live:` channels store nothing, deliver in all formats, and keep each sender's order.

use crate::centrifuge::Wire;
use crate::client::Raw;
use crate::databases::Kind;
use crate::server::{Server, number, until};
use serde_json::{Value, json};
use std::collections::HashMap;
use tokio::task::JoinSet;

on_each_database_and_shards! {
    each_senders_order_is_kept
    a_live_channel_of_a_room_is_for_its_members
}
on_each_database! {
    a_live_channel_delivers_in_every_format
    a_live_channel_rejects_invalid_input
}

async fn a_live_channel_delivers_in_every_format(kind: Kind) {
    let server = Server::start(kind, &[]).await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    let mut text = server.join(&ann, "room=live:x").await;
    let mut json = server.join(&bob, "room=live:x&format=json").await;
    let mut raw = Raw::join(server.port, &bob.token, "room=live:x&format=raw").await.into_ws().await;
    let mut elsewhere = server.join(&ann, "room=live:y").await;
    assert_eq!(text.joined, json!({"type": "joined", "room": "live:x"}));

    text.send("{\"as\": it is}").await;
    for ws in [&mut text, &mut json] {
        let event = ws.event().await;
        let keys: Vec<&String> = event.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["data", "time", "type", "user"], "there is no offset, since nothing is stored");
        assert_eq!((&event["type"], &event["data"]), (&json!("live"), &json!("{\"as\": it is}")));
        assert_eq!(event["user"]["username"], "ann");
        assert!(number(&event["time"]) > 1_700_000_000_000);
    }
    assert_eq!(raw.text().await, "{\"as\": it is}");

    json.send(" {\"x\" : [1, 2.50, \"a b\"]} ").await;
    for ws in [&mut text, &mut json] {
        let event = ws.event().await;
        assert_eq!((&event["data"], &event["user"]["username"]), (&json!({"x": [1, 2.5, "a b"]}), &json!("bob")));
    }
    // White space goes, since a newline would break a frame of lines. Numbers keep their digits.
    assert_eq!(raw.text().await, "{\"x\":[1,2.50,\"a b\"]}");

    raw.send("verbatim \n ✓").await;
    assert_eq!(raw.text().await, "verbatim \n ✓");
    for ws in [&mut text, &mut json] {
        assert_eq!(ws.event().await["data"], "verbatim \n ✓");
    }
    // Another channel has received none of this.
    elsewhere.send("alone").await;
    assert_eq!(elsewhere.event().await["data"], "alone");
}

async fn a_live_channel_rejects_invalid_input(kind: Kind) {
    let server = Server::start(kind, &["--limit", "text_limit_bytes=10"]).await;
    let ann = server.user("ann").await;
    let mut json = server.join(&ann, "room=live:x&format=json").await;
    json.send("no JSON").await;
    assert_eq!(json.error().await, (107, None));
    json.send("\"01234567890\"").await;
    assert_eq!(json.error().await, (106, None));
    json.send("1").await;
    assert_eq!(json.event().await["data"], 1);
    for query in ["room=live:", "room=live:x&since=1", "room=live:x&format=xml"] {
        let (status, _) = server.reject_join(&ann, query).await;
        assert!([400, 404, 422].contains(&status), "{query}: {status}");
    }
    assert_eq!(server.post("/user/createroom", &ann.token, json!({"name": "live:x"})).await.status, 422);
}

async fn each_senders_order_is_kept(kind: Kind, shards: &str) {
    const SENDERS: usize = 4;
    const MESSAGES: usize = 300;
    // The ring holds almost nothing, but a burst must still reach everyone.
    let limits = ["--limit", "publish_rate_per_second=0", "--limit", "ring_limit_publications=1"];
    let server = Server::start(kind, &[&["--shards", shards][..], &limits].concat()).await;
    let ann = server.user("ann").await;
    let mut clients = JoinSet::new();
    let mut all = Vec::new();
    for _ in 0..SENDERS + 2 {
        all.push(Raw::join(server.port, &ann.token, "room=live:x&format=raw").await.into_ws().await);
    }
    for (number, mut ws) in all.into_iter().enumerate() {
        clients.spawn(async move {
            let mut next: HashMap<String, usize> = HashMap::new();
            if number < SENDERS {
                for message in 0..MESSAGES {
                    ws.send(format!("{number} {message}")).await;
                }
            }
            for _ in 0..SENDERS * MESSAGES {
                let text = ws.text().await;
                let (sender, message) = text.split_once(' ').unwrap();
                let next = next.entry(sender.to_owned()).or_default();
                assert_eq!(message.parse(), Ok(*next), "a message of sender {sender} is out of order");
                *next += 1;
            }
        });
    }
    clients.join_all().await;
}

/// Plain connections could not join one.
async fn a_live_channel_of_a_room_is_for_its_members(kind: Kind, shards: &str) {
    let server = Server::start(kind, &["--shards", shards]).await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    server.create_room(&ann, "r").await;
    let query = "room=live:r/cursors&format=json";
    for (query, status, code) in
        [(query, 403, "not_member"), ("room=live:none/x", 404, "no_such_room"), ("room=live:R/x", 422, "invalid_field")]
    {
        assert_eq!(server.reject_join(&bob, query).await, (status, code.to_owned()), "{query}");
    }
    let members = async || number(&server.get("/rooms/r", &ann.token).await.expect(200)["room"]["members"]);
    assert_eq!(members().await, 1, "an attempt makes nobody a member");
    server.post("/rooms/r/join", &bob.token, Value::Null).await.expect(200);

    let (mut at_ann, mut at_bob) = (server.join(&ann, query).await, server.join(&bob, query).await);
    assert_eq!(at_bob.joined, json!({"type": "joined", "room": "live:r/cursors"}));
    let mut elsewhere = server.join(&ann, "room=live:r/other&format=json").await;
    let mut sdk = Wire::connect(&server, &ann).await;
    sdk.result(2, "subscribe", json!({"channel": "live:r/cursors"})).await;
    at_bob.send("[1]").await;
    for ws in [&mut at_ann, &mut at_bob] {
        let event = ws.event().await;
        assert_eq!((&event["data"], &event["user"]["username"]), (&json!([1]), &json!("bob")));
    }
    assert_eq!(sdk.push("live:r/cursors", "pub").await["data"], json!([1]));

    server.call("DELETE", "/rooms/r/members/bob", &ann.token, Value::Null).await.expect(200);
    assert_eq!(at_bob.close_code().await, Some(3503));
    assert_eq!(server.reject_join(&bob, query).await.0, 403);
    at_ann.send("[2]").await;
    assert_eq!(at_ann.event().await["data"], json!([2]), "the others stay");
    assert_eq!(sdk.push("live:r/cursors", "pub").await["data"], json!([2]));
    // He may come back.
    server.post("/rooms/r/join", &bob.token, Value::Null).await.expect(200);
    let mut at_bob = server.join(&bob, query).await;

    server.call("DELETE", "/rooms/r", &ann.token, Value::Null).await.expect(200);
    for ws in [&mut at_ann, &mut at_bob, &mut elsewhere] {
        assert_eq!(ws.close_code().await, Some(3503));
    }
    until("the room is gone", async || server.reject_join(&ann, query).await == (404, "no_such_room".to_owned())).await;
}
