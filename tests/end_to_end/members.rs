//! Proves who is admitted to a room, and that removed members and deleted rooms lose their connections.

use crate::client::Ws;
use crate::databases::{Backdoor, Kind, private_postgres};
use crate::proxy::Proxy;
use crate::server::{Server, Setup, WITH_JOINS, number, until};
use serde_json::{Value, json};

on_each_database_and_shards! {
    a_removed_member_is_disconnected
    joins_are_seen_by_everyone_once
    deleting_a_room_closes_its_connections
}
on_each_database! {
    a_member_who_leaves_is_disconnected
    a_private_room_looks_missing
    a_full_room_admits_no_new_member
}

/// Reads the next event, which must be the removal of this user at this offset.
async fn expect_removal(ws: &mut Ws, offset: u64, user_id: &str) {
    expect_change(ws, "removed", offset, user_id).await;
}

/// Reads the next event, which must be this change of the user's membership at this offset. Returns who made it.
async fn expect_change(ws: &mut Ws, kind: &str, offset: u64, user_id: &str) -> Value {
    let event = ws.event().await;
    assert_eq!((&event["type"], number(&event["offset"])), (&json!(kind), offset), "{event}");
    assert_eq!(event[kind], user_id, "{event}");
    assert!(event["username"].is_string() && event["number"].is_null(), "{event}");
    event["user"]["username"].clone()
}

async fn joins_are_seen_by_everyone_once(kind: Kind, shards: &str) {
    let server = Server::start(kind, &[&["--shards", shards][..], &WITH_JOINS].concat()).await;
    let (ann, bob, cid) = (server.user("ann").await, server.user("bob").await, server.user("cid").await);
    let dora = server.user("dora").await;
    let (bob_id, cid_id) = (server.user_id(&bob).await, server.user_id(&cid).await);
    let dora_id = server.user_id(&dora).await;
    server.create_room(&ann, "r").await;
    let mut at_ann = server.join(&ann, "room=r").await;
    assert_eq!(at_ann.offset(), 0, "the owner did not join");
    // By subscribing, by a call, and by the owner's call.
    let mut at_bob = server.join(&bob, "room=r").await;
    assert_eq!(at_bob.offset(), 1, "his join is before his position");
    server.post("/rooms/r/join", &cid.token, Value::Null).await.expect(200);
    server.post("/rooms/r/members", &ann.token, json!({"username": "dora"})).await.expect(200);
    assert_eq!(expect_change(&mut at_ann, "added", 1, &bob_id).await, "bob");
    for ws in [&mut at_ann, &mut at_bob] {
        assert_eq!(expect_change(ws, "added", 2, &cid_id).await, "cid");
        assert_eq!(expect_change(ws, "added", 3, &dora_id).await, "ann");
    }
    // Again, and from several connections: nothing new.
    server.post("/rooms/r/join", &cid.token, Value::Null).await.expect(200);
    let mut second = server.join(&bob, "room=r&since=0").await;
    server.post("/rooms/r/leave", &cid.token, Value::Null).await.expect(200);
    for (offset, id) in [(1, &bob_id), (2, &cid_id), (3, &dora_id)] {
        expect_change(&mut second, "added", offset, id).await;
    }
    for ws in [&mut at_ann, &mut at_bob, &mut second] {
        assert_eq!(expect_change(ws, "removed", 4, &cid_id).await, "cid");
    }
    assert_eq!(at_bob.round_trip("hello").await, (5, "hello".into()));

    // The same in the history.
    let page = server.get("/user/getchats?room=r&memberships=true", &ann.token).await.expect(200);
    let changes = page["memberships"].as_array().expect("changes");
    let told: Vec<_> = changes.iter().map(|change| (number(&change["offset"]), &change["user"]["username"])).collect();
    let (by_bob, by_cid, by_ann) = (json!("bob"), json!("cid"), json!("ann"));
    assert_eq!(told, [(1, &by_bob), (2, &by_cid), (3, &by_ann), (4, &by_cid)]);
    assert_eq!(changes[2]["added"], json!({"id": dora_id, "username": "dora"}));
    assert_eq!(changes[3]["removed"], json!({"id": cid_id, "username": "cid"}));
    // One who joins and asks for everything gets everything, and then the own join.
    let mut at_cid = server.join(&cid, "room=r&since=4").await;
    assert_eq!(at_cid.message().await, (5, "hello".into()));
    assert_eq!(expect_change(&mut at_cid, "added", 6, &cid_id).await, "cid");
}

async fn a_removed_member_is_disconnected(kind: Kind, shards: &str) {
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
    let id = server.user_id(&bob).await;
    for ws in [&mut at_ann, &mut at_cid] {
        assert_eq!(ws.message().await, (1, "hello".into()));
        expect_removal(ws, 2, &id).await;
    }
    assert_eq!(at_cid.round_trip("bye").await, (3, "bye".into()));
    // Bob's other room is not affected.
    assert_eq!(bob_elsewhere.round_trip("here").await, (1, "here".into()));
    let outside = server.get("/user/getchats?room=r", &bob.token).await;
    assert_eq!(outside.error(), (403, "not_member".into()));
    let outside = server.post("/rooms/r/messages", &bob.token, json!({"text": "psst"})).await;
    assert_eq!(outside.error(), (403, "not_member".into()));
    // A public room admits him again. The removal is part of its history.
    let mut again = server.join(&bob, "room=r&since=1").await;
    expect_removal(&mut again, 2, &id).await;
    assert_eq!(again.message().await, (3, "bye".into()));
    assert_eq!(again.round_trip("I am back").await, (4, "I am back".into()));
}

async fn deleting_a_room_closes_its_connections(kind: Kind, shards: &str) {
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
    assert_eq!(server.reject_join(&bob, "room=r").await, (404, "no_such_room".into()));
    assert_eq!(server.get("/user/getchats?room=r", &ann.token).await.status, 404);
    assert_eq!(elsewhere.round_trip("here").await, (1, "here".into()));
    // The name is reserved for its last owner, and a new room with this name is a different room.
    let reserved = server.post("/user/createroom", &bob.token, json!({"name": "r"})).await;
    assert_eq!(reserved.error(), (409, "room_name_taken".into()));
    server.create_room(&ann, "r").await;
    let mut rejoined = server.join(&bob, &format!("room=r&since=0&epoch={before}")).await;
    assert_eq!(rejoined.joined["recovered"], false);
    assert_ne!(rejoined.epoch(), before);
    assert_eq!(rejoined.round_trip("first").await, (1, "first".into()));
}

async fn a_member_who_leaves_is_disconnected(kind: Kind) {
    let server = Server::start(kind, &[]).await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    server.create_room(&ann, "r").await;
    let mut at_ann = server.join(&ann, "room=r").await;
    let mut at_bob = server.join(&bob, "room=r").await;
    server.post("/rooms/r/leave", &bob.token, Value::Null).await.expect(200);
    assert_eq!(at_bob.close_code().await, Some(3503));
    expect_removal(&mut at_ann, 1, &server.user_id(&bob).await).await;
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
        assert_eq!(server.reject_join(&bob, "room=secret").await, missing);
        assert_eq!(server.reject_join(&bob, "room=secret").await, server.reject_join(&bob, "room=none").await);
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
        // Bob is added, and removed again.
        server.post("/rooms/secret/members", &ann.token, add.clone()).await.expect(200);
        let mut ws = server.join(&bob, "room=secret").await;
        assert_eq!(ws.round_trip("added").await, (round * 2 + 1, "added".into()));
        server.call("DELETE", "/rooms/secret/members/bob", &ann.token, Value::Null).await.expect(200);
        assert_eq!(ws.close_code().await, Some(3503));
    }
}

async fn a_full_room_admits_no_new_member(kind: Kind) {
    let server = Server::start(kind, &[]).await;
    let (ann, bob, cid) = (server.user("ann").await, server.user("bob").await, server.user("cid").await);
    server.post("/user/createroom", &ann.token, json!({"name": "r", "size": 2})).await.expect(201);
    let mut at_bob = server.join(&bob, "room=r").await;
    // A second connection of a member does not count.
    let mut second = server.join(&bob, "room=r").await;
    assert_eq!(server.reject_join(&cid, "room=r").await, (409, "room_full".into()));
    assert_eq!(server.post("/rooms/r/join", &cid.token, Value::Null).await.error(), (409, "room_full".into()));
    assert_eq!(at_bob.round_trip("in").await, (1, "in".into()));
    assert_eq!(second.message().await, (1, "in".into()));
    server.post("/rooms/r/leave", &bob.token, Value::Null).await.expect(200);
    server.join(&cid, "room=r").await;
}

/// The answer of the database was lost, so nobody was told that the removal was made. Heads are not compared regularly
/// in this test.
#[tokio::test]
async fn a_removal_whose_answer_was_lost_takes_effect() {
    let Some(postgres) = private_postgres().await else { return };
    let url = postgres.create_database().await.expect("a database");
    let proxy = Proxy::start(postgres.port().expect("a port")).await;
    let (_, database) = url.rsplit_once('/').expect("a URL with a database");
    let through_proxy = format!("postgres://postgres@127.0.0.1:{}/{database}", proxy.port);
    let options = ["--limit", "ping_interval_ms=3600000", "--limit", "store_timeout_ms=2000"];
    let server = Setup::with_database(Some(through_proxy), &options).start().await;
    let (ann, ben) = (server.user("ann").await, server.user("ben").await);
    server.create_room(&ann, "r").await;
    let mut at_ben = server.join(&ben, "room=r").await;
    let mut shell = Backdoor::postgres(&url).await;
    shell.hold_commits().await;
    let mut watcher = Backdoor::postgres(&url).await;
    let remove = server.call("DELETE", "/rooms/r/members/ben", &ann.token, Value::Null);
    let lose_answer = async {
        let waiting = "SELECT pid::text FROM pg_stat_activity WHERE datname = current_database()
            AND wait_event_type = 'Lock' AND query LIKE '%remove_member%'";
        until("the removal waits", async || !watcher.texts(waiting).await.is_empty()).await;
        proxy.silence();
        shell.release_commits().await;
    };
    let (removed, ()) = tokio::join!(remove, lose_answer);
    assert!(removed.status >= 500, "{removed:?}");
    assert_eq!(at_ben.close_code().await, Some(3503));
}
