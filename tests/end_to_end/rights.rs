//! Rights in rooms: what changes them is seen by everyone, live and later, and takes effect on every node.

use crate::centrifuge::Wire;
use crate::client::{User, Ws};
use crate::databases::Kind;
use crate::nodes::{Bus, Cluster};
use crate::server::{Server, number, until};
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

on_each_database_and_shards! {
    changes_of_rights_are_publications
}
on_each_database! {
    a_banned_user_is_out_at_every_door
    a_room_becomes_private_at_once
}
on_each_bus! {
    a_ban_on_one_node_holds_on_the_others
}

/// Reads the next event, which must say this of a change in the room. Returns its offset.
async fn expect_change(ws: &mut Ws, data: &Value) -> u64 {
    let event = ws.event().await;
    assert_eq!(event["type"], "moderated", "{event}");
    for (field, value) in data.as_object().expect("an object") {
        assert_eq!(&event[field], value, "{event}");
    }
    assert!(event["user"]["username"] == "ann" && event["time"].is_u64() && event["id"].is_null(), "{event}");
    number(&event["offset"])
}

async fn changes_of_rights_are_publications(kind: Kind, shards: &str) {
    let mut server = Server::start(kind, &["--shards", shards]).await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    server.create_room(&ann, "r").await;
    let mut plain = server.join(&bob, "room=r").await;
    let mut wire = Wire::connect(&server, &ann).await;
    wire.result(2, "subscribe", json!({"channel": "room:r"})).await;
    let bob_id = server.user_id(&bob).await;
    let message = server.post("/rooms/r/messages", &ann.token, json!({"text": "hello"})).await.expect(201);
    assert_eq!(plain.message().await.1, "hello");
    wire.push("room:r", "pub").await;
    let (first, until_ms) = (number(&message["offset"]), number(&message["time"]) + 3_600_000);

    let role = json!({"role": bob_id, "username": "bob", "is": "moderator"});
    let settings = json!({"room": {"topic": "é \"x\"", "slow_mode_seconds": 5}});
    let silenced = json!({"silenced": bob_id, "username": "bob", "until": until_ms, "reason": "calm down"});
    let mut told = Vec::new();
    for (method, path, body, data) in [
        ("PATCH", "/rooms/r/members/bob".to_owned(), json!({"role": "moderator"}), role),
        ("PATCH", "/rooms/r".to_owned(), settings["room"].clone(), settings.clone()),
        ("PUT", format!("/rooms/r/pins/{first}"), json!({}), json!({"pinned": first})),
        ("PUT", "/rooms/r/silences/bob".to_owned(), json!({"until": until_ms, "reason": "calm down"}), silenced),
    ] {
        server.call(method, &path, &ann.token, body).await.expect(200);
        assert_eq!(expect_change(&mut plain, &data).await, first + 1 + told.len() as u64);
        let publication = wire.push("room:r", "pub").await;
        assert_eq!((&publication["data"], &publication["info"]["user"]), (&data, &wire_user(&server, &ann).await));
        told.push(data);
    }
    // In the history, and for those who come later: from memory, and from the database.
    let history = wire.result(3, "history", json!({"channel": "room:r", "limit": 9})).await;
    let data = |page: &Value| -> Vec<Value> {
        page["publications"].as_array().expect("a list").iter().map(|p| p["data"].clone()).collect()
    };
    assert_eq!(data(&history)[first as usize..], told);
    let mut late = server.join(&ann, &format!("room=r&since={first}")).await;
    for data in &told {
        expect_change(&mut late, data).await;
    }
    let room = server.get("/rooms/r", &bob.token).await.expect(200)["room"].clone();
    assert_eq!((&room["pins"], &room["topic"]), (&json!([first]), &settings["room"]["topic"]));
    server.stop().await;
    let server = server.restart().await;
    let mut late = server.join(&ann, &format!("room=r&since={first}")).await;
    for data in &told {
        expect_change(&mut late, data).await;
    }
}

async fn wire_user(server: &Server, user: &User) -> Value {
    json!(server.user_id(user).await)
}

async fn a_banned_user_is_out_at_every_door(kind: Kind) {
    let server = Server::start(kind, &[]).await;
    let (ann, bob, cid) = (server.user("ann").await, server.user("bob").await, server.user("cid").await);
    server.create_room(&ann, "r").await;
    let mut at_ann = server.join(&ann, "room=r").await;
    let mut at_bob = server.join(&bob, "room=r").await;
    let mut wire = Wire::connect(&server, &bob).await;
    wire.result(2, "subscribe", json!({"channel": "room:r"})).await;
    // More than the chat is told of one by one.
    let mut sent = Vec::new();
    for _ in 0..20 {
        sent.push(at_bob.round_trip("spam").await.0);
        assert_eq!(at_ann.message().await.1, "spam");
    }

    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    let ban = json!({"reason": "spam", "delete_since": now.as_millis() as u64 - 60_000});
    let answer = server.call("PUT", "/rooms/r/bans/bob", &ann.token, ban).await.expect(200);
    assert_eq!((&answer["deleted"], &answer["more"]), (&json!(20), &json!(false)));
    assert_eq!(at_bob.close_code().await, Some(3503));
    let id = server.user_id(&bob).await;
    let removed = at_ann.event().await;
    assert_eq!((&removed["type"], &removed["removed"]), (&json!("removed"), &json!(id)));
    expect_change(&mut at_ann, &json!({"banned": id, "username": "bob", "reason": "spam"})).await;
    for offset in sent.into_iter().rev() {
        let deleted = at_ann.event().await;
        assert_eq!((&deleted["type"], number(&deleted["target"])), (&json!("delete"), offset));
    }

    assert_eq!(server.reject_join(&bob, "room=r").await, (403, "banned".to_owned()));
    let refused = server.post("/rooms/r/join", &bob.token, Value::Null).await;
    assert_eq!(refused.error(), (403, "banned".to_owned()));
    let added = server.post("/rooms/r/members", &ann.token, json!({"username": "bob"})).await;
    assert_eq!(added.error(), (403, "not_allowed".to_owned()));
    // The subscription has ended: the push says so.
    until("the subscription has ended", async || wire.next().await["push"]["unsubscribe"].is_object()).await;
    assert_eq!(wire.error(3, "subscribe", json!({"channel": "room:r"})).await, 103);
    // Nobody else is affected, and once the ban is lifted, nobody is.
    let mut at_cid = server.join(&cid, "room=r").await;
    assert_eq!(at_cid.round_trip("hello").await.1, "hello");
    server.call("DELETE", "/rooms/r/bans/bob", &ann.token, Value::Null).await.expect(200);
    let mut again = server.join(&bob, "room=r").await;
    assert_eq!(again.round_trip("sorry").await.1, "sorry");
}

async fn a_room_becomes_private_at_once(kind: Kind) {
    let server = Server::start(kind, &[]).await;
    let (ann, bob, cid) = (server.user("ann").await, server.user("bob").await, server.user("cid").await);
    server.create_room(&ann, "r").await;
    let mut at_bob = server.join(&bob, "room=r").await;
    server.call("PATCH", "/rooms/r", &ann.token, json!({"private": true})).await.expect(200);
    assert_eq!(server.reject_join(&cid, "room=r").await, (404, "no_such_room".to_owned()));
    let rooms = server.get("/rooms", &cid.token).await.expect(200);
    assert_eq!(rooms["rooms"], json!([]));
    expect_change(&mut at_bob, &json!({"room": {"private": true}})).await;
    assert_eq!(at_bob.round_trip("still here").await.1, "still here");
    server.call("PATCH", "/rooms/r", &ann.token, json!({"private": false})).await.expect(200);
    server.join(&cid, "room=r").await;
}

async fn a_ban_on_one_node_holds_on_the_others(bus: Bus) {
    let cluster = Cluster::start_over(bus, 2, &[]).await;
    let [a, b] = &cluster.nodes[..] else { panic!("two nodes") };
    let (ann, ben) = (a.sign_up("ann").await, b.sign_up("ben").await);
    a.create_room(&ann, "lobby").await;
    let mut on_b = b.join(&ben, "room=lobby").await;
    let mut ann_on_b = b.join(&ann, "room=lobby").await;
    a.call("PUT", "/rooms/lobby/bans/ben", &ann.token, json!({})).await.expect(200);
    assert_eq!(on_b.close_code().await, Some(3503));
    assert_eq!(ann_on_b.event().await["type"], "removed");
    expect_change(&mut ann_on_b, &json!({"username": "ben"})).await;
    assert_eq!(b.reject_join(&ben, "room=lobby").await, (403, "banned".to_owned()));
    a.call("PATCH", "/rooms/lobby", &ann.token, json!({"topic": "quiet"})).await.expect(200);
    expect_change(&mut ann_on_b, &json!({"room": {"topic": "quiet"}})).await;
}
