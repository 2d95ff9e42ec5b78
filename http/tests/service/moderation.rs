//! Roles, bans, silences, settings, pins and the audit log over HTTP.

use crate::support::*;
use serde_json::{Value, json};
use uproar_model::Kind;

const DAY_MS: u64 = 24 * 3600 * 1000;

impl Client {
    async fn put(&mut self, path: &str, body: Value) -> Response {
        let body = body.to_string();
        self.request("PUT", path, &[("Content-Type", "application/json")], Some(body.as_bytes())).await
    }

    /// A request with an empty body.
    async fn put_empty(&mut self, path: &str) -> Response {
        self.request("PUT", path, &[], None).await
    }
}

fn now_ms(server: &Server) -> u64 {
    server.store.clock().unix_ms()
}

/// A room with an owner (Ann), two members (Ben, Cleo), and somebody else (Dora).
async fn lobby(server: &Server) -> [Client; 4] {
    let mut clients = [
        server.sign_up("ann").await,
        server.sign_up("ben").await,
        server.sign_up("cleo").await,
        server.sign_up("dora").await,
    ];
    clients[0].post("/rooms", json!({"name": "lobby"})).await.expect(201);
    for member in &mut clients[1..3] {
        member.call("/rooms/lobby/join").await.expect(200);
    }
    server.chat.learned.lock().unwrap().clear();
    clients
}

/// What the chat was told: the kinds and bodies of publications.
fn learned(server: &Server) -> Vec<(Kind, Value)> {
    let learned = std::mem::take(&mut *server.chat.learned.lock().unwrap());
    let body = |body: &str| serde_json::from_str(body).unwrap_or(Value::Null);
    learned.into_iter().map(|(_, p)| (p.kind, p.body.as_deref().map_or(Value::Null, body))).collect()
}

#[tokio::test]
async fn owners_change_roles() {
    let server = server().await;
    let [mut ann, mut ben, mut cleo, mut dora] = lobby(&server).await;
    let path = "/rooms/Lobby/members/BEN";
    let changed = ann.patch(path, json!({"role": "moderator"})).await.expect(200);
    assert_eq!(changed, json!({"user": {"id": ben.user_id, "username": "ben"}, "role": "moderator"}));
    let told = json!({"role": ben.user_id, "username": "ben", "is": "moderator"});
    assert_eq!(learned(&server), [(Kind::Moderated, told)]);
    ann.patch(path, json!({"role": "moderator"})).await.expect(200);
    assert_eq!(learned(&server), []);
    assert_eq!(ben.get("/rooms/lobby").await.expect(200)["room"]["role"], "moderator");
    // What a moderator may do now.
    ben.delete("/rooms/lobby/members/cleo").await.expect(200);
    ben.post("/rooms/lobby/members", json!({"username": "cleo"})).await.expect(200);

    ben.patch("/rooms/lobby/members/cleo", json!({"role": "owner"})).await.assert_error(403, "not_allowed", None);
    cleo.patch(path, json!({"role": "member"})).await.assert_error(403, "not_allowed", None);
    dora.patch(path, json!({"role": "member"})).await.assert_error(403, "not_allowed", None);
    let missing = ann.patch("/rooms/lobby/members/dora", json!({"role": "member"})).await;
    missing.assert_error(404, "no_such_member", Some("username"));
    let missing = ann.patch("/rooms/lobby/members/nobody", json!({"role": "member"})).await;
    missing.assert_error(404, "no_such_user", Some("username"));
    ann.patch("/rooms/nowhere/members/ben", json!({"role": "member"})).await.assert_error(404, "no_such_room", None);
    for body in [json!({"role": "admin"}), json!({"role": 1})] {
        ann.patch(path, body).await.assert_error(422, "invalid_field", Some("role"));
    }
    ann.patch(path, json!({})).await.assert_error(422, "missing_field", Some("role"));

    // The room is handed over.
    ann.patch("/rooms/lobby/members/ann", json!({"role": "member"})).await.assert_error(409, "last_owner", None);
    ann.patch(path, json!({"role": "owner"})).await.expect(200);
    ann.call("/rooms/lobby/leave").await.expect(200);
    ben.call("/rooms/lobby/leave").await.assert_error(403, "not_allowed", None);
}

#[tokio::test]
async fn a_banned_user_is_told_so_in_a_public_room() {
    let server = server().await;
    let [mut ann, mut ben, mut cleo, mut dora] = lobby(&server).await;
    ann.patch("/rooms/lobby/members/cleo", json!({"role": "moderator"})).await.expect(200);
    learned(&server);
    let until = now_ms(&server) + DAY_MS;
    let banned = cleo.put("/rooms/lobby/bans/ben", json!({"until": until, "reason": " spam here"})).await.expect(200);
    let user = json!({"id": ben.user_id, "username": "ben"});
    let ban = json!({"user": user, "until": until, "reason": "spam here"});
    assert_eq!(banned, json!({"ban": ban, "deleted": 0, "more": false}));
    let told = json!({"banned": ben.user_id, "username": "ben", "until": until, "reason": "spam here"});
    let learned = learned(&server);
    assert_eq!((learned[0].0, &learned[1]), (Kind::Removed, &(Kind::Moderated, told)));
    assert!(server.notified().contains(&(ben.user_id.clone(), "left", "lobby".to_owned())));

    ben.call("/rooms/lobby/join").await.assert_error(403, "banned", None);
    ann.post("/rooms/lobby/members", json!({"username": "ben"})).await.assert_error(403, "not_allowed", None);
    let list = ann.get("/rooms/lobby/bans").await.expect(200);
    let first = &list["bans"][0];
    assert_eq!((&first["user"], &first["until"], &list["more"]), (&user, &json!(until), &json!(false)));
    assert_eq!(list["bans"][0]["by"]["username"], "cleo");
    dora.get("/rooms/lobby/bans").await.assert_error(403, "not_allowed", None);

    cleo.put("/rooms/lobby/bans/ann", json!({})).await.assert_error(403, "not_allowed", None);
    cleo.put("/rooms/lobby/bans/cleo", json!({})).await.assert_error(403, "not_allowed", None);
    dora.put("/rooms/lobby/bans/ben", json!({})).await.assert_error(403, "not_allowed", None);
    ann.put("/rooms/lobby/bans/nobody", json!({})).await.assert_error(404, "no_such_user", Some("username"));
    let now = now_ms(&server);
    for (body, field) in [
        (json!({"until": now - 1}), "until"),
        (json!({"until": "tomorrow"}), "until"),
        (json!({"delete_since": now - 8 * DAY_MS}), "delete_since"),
        (json!({"reason": ""}), "reason"),
        (json!({"reason": "x".repeat(257)}), "reason"),
        (json!({"reason": "a\nb"}), "reason"),
    ] {
        ann.put("/rooms/lobby/bans/ben", body).await.assert_error(422, "invalid_field", Some(field));
    }

    assert_eq!(cleo.delete("/rooms/lobby/bans/ben").await.expect(200), json!({}));
    cleo.delete("/rooms/lobby/bans/ben").await.expect(200);
    ben.call("/rooms/lobby/join").await.expect(200);
    let entries = cleo.get("/rooms/lobby/audit?limit=1").await.expect(200);
    let (entry, target) = (&entries["entries"][0], &entries["entries"][0]["target"]["username"]);
    assert_eq!((&entry["action"], target, &entries["more"]), (&json!("unbanned"), &json!("ben"), &json!(true)));
    let before = entry["id"].as_str().unwrap();
    let older = cleo.get(&format!("/rooms/lobby/audit?before={before}")).await.expect(200);
    let actions: Vec<_> =
        older["entries"].as_array().unwrap().iter().map(|entry| entry["action"].as_str().unwrap()).collect();
    assert_eq!((actions, &older["more"]), (vec!["banned", "role"], &json!(false)));
    assert_eq!(older["entries"][0]["detail"]["reason"], "spam here");
    ben.get("/rooms/lobby/audit").await.assert_error(403, "not_allowed", None);
    ann.get("/rooms/lobby/audit?before=x").await.assert_error(422, "invalid_field", Some("before"));
}

#[tokio::test]
async fn a_ban_deletes_what_the_user_wrote() {
    let server = server().await;
    let [mut ann, mut ben, ..] = lobby(&server).await;
    for text in ["a", "b", "c"] {
        ben.post("/rooms/lobby/messages", json!({"text": text})).await.expect(201);
    }
    let since = now_ms(&server) - 7 * DAY_MS;
    let banned = ann.put("/rooms/lobby/bans/ben", json!({"delete_since": since})).await.expect(200);
    assert_eq!((&banned["deleted"], &banned["more"]), (&json!(3), &json!(false)));
    let page = ann.get("/rooms/lobby/messages").await.expect(200);
    assert!(page["messages"].as_array().unwrap().iter().all(|message| message["deleted"] == true), "{page}");
    let kinds: Vec<_> = learned(&server).into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, [Kind::Removed, Kind::Moderated, Kind::Delete, Kind::Delete, Kind::Delete]);
}

#[tokio::test]
async fn a_silence_lasts_28_days_at_most() {
    let server = server().await;
    let [mut ann, mut ben, mut cleo, _] = lobby(&server).await;
    let until = now_ms(&server) + 28 * DAY_MS;
    let path = "/rooms/lobby/silences/ben";
    let silenced = ann.put(path, json!({"until": until, "reason": "calm down"})).await.expect(200);
    let user = json!({"id": ben.user_id, "username": "ben"});
    assert_eq!(silenced, json!({"silence": {"user": user, "until": until, "reason": "calm down"}}));
    let told = json!({"silenced": ben.user_id, "username": "ben", "until": until, "reason": "calm down"});
    assert_eq!(learned(&server), [(Kind::Moderated, told)]);
    for (client, expected) in [(&mut ann, json!(until)), (&mut ben, json!(until)), (&mut cleo, Value::Null)] {
        let members = client.get("/rooms/lobby/members").await.expect(200);
        assert_eq!(members["members"][1]["silenced_until"], expected);
    }
    let now = now_ms(&server);
    for until in [json!(now + 29 * DAY_MS), json!(now), json!(-1)] {
        ann.put(path, json!({"until": until})).await.assert_error(422, "invalid_field", Some("until"));
    }
    ann.put(path, json!({})).await.assert_error(422, "missing_field", Some("until"));
    cleo.put(path, json!({"until": until})).await.assert_error(403, "not_allowed", None);
    let outside = ann.put("/rooms/lobby/silences/dora", json!({"until": until})).await;
    outside.assert_error(404, "no_such_member", Some("username"));
    assert_eq!(ann.delete(path).await.expect(200), json!({}));
    assert_eq!(learned(&server), [(Kind::Moderated, json!({"unsilenced": ben.user_id, "username": "ben"}))]);
    ann.delete(path).await.expect(200);
    assert_eq!(learned(&server), []);
}

#[tokio::test]
async fn owners_change_the_settings() {
    let server = server().await;
    let [mut ann, mut ben, _, mut dora] = lobby(&server).await;
    let all = json!({
        "title": " The Lobby", "topic": "Be kind", "private": true, "size": 5, "slow_mode_seconds": 21600,
        "who_may_post": "moderators", "who_may_invite": "members"});
    let room = ann.patch("/rooms/lobby", all).await.expect(200)["room"].clone();
    let expected = json!({
        "title": "The Lobby", "topic": "Be kind", "private": true, "size": 5, "slow_mode_seconds": 21600,
        "who_may_post": "moderators", "who_may_invite": "members"});
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(&room[field], value, "{field}");
    }
    assert_eq!(room["pins"], json!([]));
    assert_eq!(learned(&server), [(Kind::Moderated, json!({"room": expected}))]);
    assert_eq!(ben.get("/rooms/lobby").await.expect(200)["room"]["topic"], "Be kind");
    dora.get("/rooms/lobby").await.assert_error(404, "no_such_room", None);
    dora.call("/rooms/lobby/join").await.assert_error(404, "no_such_room", None);
    ann.patch("/rooms/lobby", json!({"topic": ""})).await.expect(200);
    assert_eq!(learned(&server), [(Kind::Moderated, json!({"room": {"topic": ""}}))]);
    ann.patch("/rooms/lobby", json!({})).await.expect(200);
    assert_eq!(learned(&server), []);
    for (body, field) in [
        (json!({"title": " "}), "title"),
        (json!({"topic": "x".repeat(513)}), "topic"),
        (json!({"topic": "a\u{202e}b"}), "topic"),
        (json!({"size": 2}), "size"),
        (json!({"size": 0}), "size"),
        (json!({"slow_mode_seconds": 21601}), "slow_mode_seconds"),
        (json!({"who_may_post": "nobody"}), "who_may_post"),
        (json!({"who_may_invite": 1}), "who_may_invite"),
        (json!({"private": "yes"}), "private"),
    ] {
        ann.patch("/rooms/lobby", body).await.assert_error(422, "invalid_field", Some(field));
    }
    ann.patch("/rooms/lobby", json!({"name": "x"})).await.assert_error(422, "unknown_field", Some("name"));
    ben.patch("/rooms/lobby", json!({"topic": "x"})).await.assert_error(403, "not_allowed", None);
    dora.patch("/rooms/lobby", json!({"topic": "x"})).await.assert_error(404, "no_such_room", None);
}

#[tokio::test]
async fn moderators_pin_messages() {
    let server = server().await;
    let [mut ann, mut ben, ..] = lobby(&server).await;
    let sent = ben.post("/rooms/lobby/messages", json!({"text": "read this"})).await.expect(201)["offset"].clone();
    let path = format!("/rooms/lobby/pins/{sent}");
    ben.put_empty(&path).await.assert_error(403, "not_allowed", None);
    assert_eq!(ann.put_empty(&path).await.expect(200), json!({}));
    assert_eq!(learned(&server), [(Kind::Moderated, json!({"pinned": sent}))]);
    assert_eq!(ben.get("/rooms/lobby").await.expect(200)["room"]["pins"], json!([sent]));
    ann.put_empty("/rooms/lobby/pins/999").await.assert_error(404, "no_such_message", Some("offset"));
    ann.put_empty("/rooms/lobby/pins/x").await.assert_error(422, "invalid_field", Some("offset"));
    ann.delete(&path).await.expect(200);
    assert_eq!(learned(&server), [(Kind::Moderated, json!({"unpinned": sent}))]);
    ann.put_empty(&path).await.expect(200);
    ben.delete(&format!("/rooms/lobby/messages/{sent}")).await.expect(200);
    assert_eq!(ben.get("/rooms/lobby").await.expect(200)["room"]["pins"], json!([]));
}
