//! Who may come in, and who has to go.

use crate::client::{Http, User, Ws};
use crate::databases::Kind;
use crate::server::{Server, number};
use serde_json::{Value, json};

on_each_database_and_shards! {
    who_is_removed_is_disconnected
    a_deleted_room_ends_its_connections
}
on_each_database! {
    who_leaves_is_disconnected
    a_private_room_looks_missing
    a_full_room_takes_nobody
}

/// How `/ws` refuses.
async fn refused(server: &Server, user: &User, room: &str) -> (u16, String) {
    let http = Http::connect(server.port).await.unwrap();
    let bearer = format!("Bearer {}", user.token);
    match http.upgrade(&format!("/ws?room={room}"), &[("Authorization", &bearer)]).await {
        Err(response) => response.error(),
        Ok(_) => panic!("{} is let into {room}", user.name),
    }
}

/// Reads a publication that says that someone is out.
async fn sees_removal(ws: &mut Ws, offset: u64, who: &str) {
    let event = ws.event().await;
    assert_eq!((&event["type"], number(&event["offset"])), (&json!("removed"), offset), "{event}");
    assert_eq!(event["removed"], who, "{event}");
}

async fn id_of(server: &Server, user: &User) -> String {
    let me = server.get("/me", &user.token).await.expect(200);
    me["user"]["id"].as_str().unwrap().to_owned()
}

async fn who_is_removed_is_disconnected(kind: Kind, shards: &str) {
    let server = Server::start(kind, &["--shards", shards]).await;
    let (ann, bob, cid) = (server.user("ann").await, server.user("bob").await, server.user("cid").await);
    for room in ["r", "other"] {
        server.create_room(&ann, room).await;
    }
    let mut at_ann = server.join(&ann, "room=r").await;
    let mut at_cid = server.join(&cid, "room=r").await;
    let mut at_bob = Vec::new();
    for _ in 0..4 {
        at_bob.push(server.join(&bob, "room=r").await);
    }
    let mut bob_elsewhere = server.join(&bob, "room=other").await;
    assert_eq!(at_bob[0].round_trip("hello").await, (1, "hello".into()));

    let path = "/rooms/r/members/bob";
    let forbidden = server.call("DELETE", path, &cid.token, Value::Null).await;
    assert_eq!(forbidden.error(), (403, "not_allowed".into()));
    server.call("DELETE", path, &ann.token, Value::Null).await.expect(200);
    for ws in &mut at_bob {
        assert_eq!(ws.close_code().await, Some(3503));
    }
    let id = id_of(&server, &bob).await;
    for ws in [&mut at_ann, &mut at_cid] {
        assert_eq!(ws.message().await, (1, "hello".into()));
        sees_removal(ws, 2, &id).await;
    }
    assert_eq!(at_cid.round_trip("bye").await, (3, "bye".into()));
    // Nothing else of theirs is touched.
    assert_eq!(bob_elsewhere.round_trip("here").await, (1, "here".into()));
    let outside = server.get("/user/getchats?room=r", &bob.token).await;
    assert_eq!(outside.error(), (403, "not_member".into()));
    let outside = server.post("/rooms/r/messages", &bob.token, json!({"text": "psst"})).await;
    assert_eq!(outside.error(), (403, "not_member".into()));
    // A public room admits whoever comes; the removal is part of its history.
    let mut again = server.join(&bob, "room=r&since=1").await;
    sees_removal(&mut again, 2, &id).await;
    assert_eq!(again.message().await, (3, "bye".into()));
    assert_eq!(again.round_trip("I am back").await, (4, "I am back".into()));
}

async fn a_deleted_room_ends_its_connections(kind: Kind, shards: &str) {
    let server = Server::start(kind, &["--shards", shards]).await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    for room in ["r", "other"] {
        server.create_room(&ann, room).await;
    }
    let mut inside = Vec::new();
    for user in [&ann, &bob, &ann, &bob] {
        inside.push(server.join(user, "room=r").await);
    }
    let mut elsewhere = server.join(&bob, "room=other").await;
    let before = inside[0].epoch();
    let forbidden = server.call("DELETE", "/rooms/r", &bob.token, Value::Null).await;
    assert_eq!(forbidden.error(), (403, "not_allowed".into()));
    server.call("DELETE", "/rooms/r", &ann.token, Value::Null).await.expect(200);
    for ws in &mut inside {
        assert_eq!(ws.close_code().await, Some(3503));
    }
    assert_eq!(refused(&server, &bob, "r").await, (404, "no_such_room".into()));
    assert_eq!(server.get("/user/getchats?room=r", &ann.token).await.status, 404);
    assert_eq!(elsewhere.round_trip("here").await, (1, "here".into()));
    // A new room of this name is another room.
    server.create_room(&bob, "r").await;
    let mut anew = server.join(&ann, &format!("room=r&since=0&epoch={before}")).await;
    assert_eq!(anew.joined["recovered"], false);
    assert_ne!(anew.epoch(), before);
    assert_eq!(anew.round_trip("first").await, (1, "first".into()));
}

async fn who_leaves_is_disconnected(kind: Kind) {
    let server = Server::start(kind, &[]).await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    server.create_room(&ann, "r").await;
    let mut at_ann = server.join(&ann, "room=r").await;
    let mut at_bob = server.join(&bob, "room=r").await;
    server.post("/rooms/r/leave", &bob.token, Value::Null).await.expect(200);
    assert_eq!(at_bob.close_code().await, Some(3503));
    sees_removal(&mut at_ann, 1, &id_of(&server, &bob).await).await;
    assert_eq!(server.get("/rooms/r", &ann.token).await.expect(200)["room"]["members"], 1);
    assert_eq!(at_ann.round_trip("alone").await, (2, "alone".into()));
}

async fn a_private_room_looks_missing(kind: Kind) {
    let server = Server::start(kind, &[]).await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    let body = json!({"name": "secret", "private": true});
    server.post("/user/createroom", &ann.token, body).await.expect(201);
    let missing = (404, "no_such_room".to_owned());
    let add = json!({"username": "bob"});
    for round in 0..2 {
        assert_eq!(refused(&server, &bob, "secret").await, missing);
        assert_eq!(refused(&server, &bob, "secret").await, refused(&server, &bob, "none").await);
        for (method, path) in [
            ("GET", "/user/getchats?room=secret"),
            ("GET", "/rooms/secret"),
            ("POST", "/rooms/secret/join"),
            ("GET", "/rooms/secret/members"),
        ] {
            assert_eq!(server.call(method, path, &bob.token, Value::Null).await.error(), missing, "{method} {path}");
        }
        let rooms = server.get("/rooms?query=secret", &bob.token).await.expect(200);
        assert_eq!(rooms["rooms"], json!([]));
        // In, and out again.
        server.post("/rooms/secret/members", &ann.token, add.clone()).await.expect(200);
        let mut ws = server.join(&bob, "room=secret").await;
        assert_eq!(ws.round_trip("let in").await, (round * 2 + 1, "let in".into()));
        server.call("DELETE", "/rooms/secret/members/bob", &ann.token, Value::Null).await.expect(200);
        assert_eq!(ws.close_code().await, Some(3503));
    }
}

async fn a_full_room_takes_nobody(kind: Kind) {
    let server = Server::start(kind, &[]).await;
    let (ann, bob, cid) = (server.user("ann").await, server.user("bob").await, server.user("cid").await);
    server.post("/user/createroom", &ann.token, json!({"name": "r", "size": 2})).await.expect(201);
    let mut at_bob = server.join(&bob, "room=r").await;
    // A second connection takes no second place.
    let mut second = server.join(&bob, "room=r").await;
    assert_eq!(refused(&server, &cid, "r").await, (409, "room_full".into()));
    assert_eq!(server.post("/rooms/r/join", &cid.token, Value::Null).await.error(), (409, "room_full".into()));
    assert_eq!(at_bob.round_trip("in").await, (1, "in".into()));
    assert_eq!(second.message().await, (1, "in".into()));
    server.post("/rooms/r/leave", &bob.token, Value::Null).await.expect(200);
    server.join(&cid, "room=r").await;
}
