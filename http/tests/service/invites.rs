//! Invites, and signing up with them.

use crate::support::{Client, Server, server, server_with, settings};
use serde_json::{Value, json};
use uproar_core::limits::Limits;
use uproar_http::{Settings, SignUp};

const UNKNOWN: &str = "AAAAAAAAAAAAAAAAAAAAAA";

/// A private room with its owner.
async fn secret(server: &Server) -> Client {
    let mut ann = server.sign_up("ann").await;
    ann.post("/rooms", json!({"name": "secret", "title": "The Secret", "private": true})).await.expect(201);
    ann
}

async fn invite(owner: &mut Client, wanted: Value) -> Value {
    owner.post("/rooms/secret/invites", wanted).await.expect(201)
}

fn path(invite: &Value) -> String {
    format!("/invites/{}", invite["code"].as_str().unwrap())
}

fn account(username: &str, invite: Option<&str>) -> Value {
    let email = format!("{username}@example.org");
    let mut body = json!({"username": username, "email": email, "password": "correct horse"});
    if let Some(invite) = invite {
        body["invite"] = invite.into();
    }
    body
}

#[tokio::test]
async fn an_invite_shows_its_room_to_strangers_and_lets_users_join() {
    let server = server().await;
    let mut ann = secret(&server).await;
    let mut eve = server.sign_up("eve").await;
    let created = invite(&mut ann, json!({})).await;
    let code = created["code"].as_str().unwrap();
    assert_eq!(code.len(), 22);
    assert_eq!(created["url"], format!("http://localhost/#/invite/{code}"));
    assert_eq!((&created["uses"], &created["uses_limit"]), (&json!(0), &json!(null)));
    assert_eq!(created["created_by"]["username"], "ann");
    let lifetime = created["expires_at"].as_u64().unwrap() - created["created_at"].as_u64().unwrap();
    assert_eq!(lifetime, 7 * 24 * 3600 * 1000);

    let mut stranger = server.client().await;
    let shown = stranger.get(&path(&created)).await.expect(200);
    let expected = json!({
        "room": {"name": "secret", "title": "The Secret", "private": true, "members": 1},
        "invited_by": created["created_by"], "expires_at": created["expires_at"]
    });
    assert_eq!(shown, expected);
    stranger.call(&path(&created)).await.assert_error(401, "token_missing", None);
    server.notified();
    let joined = eve.call(&path(&created)).await.expect(200);
    assert_eq!((&joined["room"]["name"], &joined["room"]["role"]), (&json!("secret"), &json!("member")));
    assert_eq!(server.notified(), [(eve.user_id.clone(), "joined", "secret".to_owned())]);
    let learned = std::mem::take(&mut *server.chat.learned.lock().unwrap());
    assert_eq!(learned.iter().map(|(_, it)| it.user.username.to_string()).collect::<Vec<_>>(), ["eve"]);
    // A second time nothing happens.
    eve.call(&path(&created)).await.expect(200);
    assert_eq!(server.notified(), []);
    let listed = ann.get("/rooms/secret/invites").await.expect(200);
    let mut expected = created.clone();
    expected["uses"] = json!(1);
    assert_eq!(listed, json!({"invites": [expected]}));

    eve.get("/rooms/secret/invites").await.assert_error(403, "not_allowed", None);
    eve.post("/rooms/secret/invites", json!({})).await.assert_error(403, "not_allowed", None);
    eve.delete(&format!("/rooms/secret/invites/{code}")).await.assert_error(403, "not_allowed", None);
    ann.delete(&format!("/rooms/secret/invites/{code}")).await.expect(200);
    ann.delete(&format!("/rooms/secret/invites/{code}")).await.assert_error(404, "no_such_invite", None);
    assert_eq!(ann.get("/rooms/secret/invites").await.expect(200), json!({"invites": []}));
    stranger.get(&path(&created)).await.assert_error(410, "invite_ended", None);
    let mut fay = server.sign_up("fay").await;
    fay.call(&path(&created)).await.assert_error(410, "invite_ended", None);
    fay.get("/rooms/secret").await.assert_error(404, "no_such_room", None);
}

#[tokio::test]
async fn what_is_no_invite_is_refused() {
    let server = server().await;
    let mut ann = secret(&server).await;
    for (wanted, field) in [
        (json!({"uses": 0}), "uses"),
        (json!({"uses": 10_001}), "uses"),
        (json!({"lifetime_seconds": 0}), "lifetime_seconds"),
        (json!({"lifetime_seconds": 31_536_001}), "lifetime_seconds"),
    ] {
        ann.post("/rooms/secret/invites", wanted).await.assert_error(422, "invalid_field", Some(field));
    }
    ann.post("/rooms/secret/invites", json!({"use": 1})).await.assert_error(422, "unknown_field", Some("use"));
    ann.post("/rooms/nowhere/invites", json!({})).await.assert_error(404, "no_such_room", None);
    for code in [UNKNOWN, "x", "%00", "%2e%2e%2f"] {
        ann.get(&format!("/invites/{code}")).await.assert_error(404, "no_such_invite", None);
        ann.call(&format!("/invites/{code}")).await.assert_error(404, "no_such_invite", None);
        ann.delete(&format!("/rooms/secret/invites/{code}")).await.assert_error(404, "no_such_invite", None);
    }
    let mut eve = server.client().await;
    let signed_up = eve.post("/user/signup", account("eve", Some(UNKNOWN))).await;
    signed_up.assert_error(404, "no_such_invite", None);
    eve.post("/user/signup", account("eve", Some("x"))).await.assert_error(422, "invalid_field", Some("invite"));
    eve.post("/user/signup", account("eve", None)).await.expect(201);
}

#[tokio::test]
async fn with_invites_only_those_sign_up_who_have_one() {
    let server = server_with(Settings { sign_up: SignUp::Invite, ..settings() }).await;
    let operator_code = uproar_http::invites::new_code().unwrap();
    let of_operator = uproar_store::NewInvite {
        code: operator_code.clone(),
        room: None,
        creator: None,
        lifetime_ms: 60_000,
        uses_limit: Some(1),
        limit: 10,
    };
    server.store.create_invite(of_operator).await.unwrap();
    let mut client = server.client().await;
    assert_eq!(client.get("/user/signin").await.expect(200)["sign_up"], "invite");
    client.post("/user/signup", account("ann", None)).await.assert_error(403, "invite_required", None);
    let shown = client.get(&format!("/invites/{operator_code}")).await.expect(200);
    assert_eq!((&shown["room"], &shown["invited_by"]), (&json!(null), &json!(null)));
    let ann = client.post("/user/signup", account("ann", Some(&operator_code))).await.expect(201);
    client.post("/user/signup", account("ben", Some(&operator_code))).await.assert_error(410, "invite_ended", None);

    client.token = Some(ann["token"].as_str().unwrap().to_owned());
    client.call(&format!("/invites/{operator_code}")).await.assert_error(410, "invite_ended", None);
    client.post("/rooms", json!({"name": "secret", "private": true, "size": 2})).await.expect(201);
    let created = invite(&mut client, json!({"uses": 2, "lifetime_seconds": 60})).await;
    let code = created["code"].as_str().unwrap();
    let mut stranger = server.client().await;
    let taken = stranger.post("/user/signup", account("Ann", Some(code))).await;
    taken.assert_error(409, "username_taken", Some("username"));
    let ben = stranger.post("/user/signup", account("ben", Some(code))).await.expect(201);
    stranger.token = Some(ben["token"].as_str().unwrap().to_owned());
    assert_eq!(stranger.get("/rooms/secret").await.expect(200)["room"]["role"], "member");
    let learned = std::mem::take(&mut *server.chat.learned.lock().unwrap());
    assert_eq!(learned.iter().map(|(_, it)| it.user.username.to_string()).collect::<Vec<_>>(), ["ben"]);
    // The room is full, so there is no account either.
    stranger.post("/user/signup", account("cleo", Some(code))).await.assert_error(409, "room_full", None);
    let sign_in = json!({"username": "cleo", "password": "correct horse"});
    stranger.post("/user/signin", sign_in).await.assert_error(401, "wrong_credentials", None);
    assert_eq!(client.get("/rooms/secret/invites").await.expect(200)["invites"][0]["uses"], 1);
}

#[tokio::test]
async fn where_nobody_signs_up_an_invite_changes_nothing() {
    let server = server_with(Settings { sign_up: SignUp::Closed, ..settings() }).await;
    let mut client = server.client().await;
    client.post("/user/signup", account("ann", Some(UNKNOWN))).await.assert_error(403, "sign_up_closed", None);
}

#[tokio::test]
async fn invites_and_looks_at_them_are_bounded() {
    let limits = Limits { invites_per_room_limit: 2, invite_lookups_burst_limit: 3, ..Limits::default() };
    let server = server_with(Settings { limits, ..settings() }).await;
    let mut ann = secret(&server).await;
    for _ in 0..2 {
        invite(&mut ann, json!({})).await;
    }
    ann.post("/rooms/secret/invites", json!({})).await.assert_error(409, "too_many_invites", None);
    let mut stranger = server.client_from("127.0.0.9").await;
    let unknown = format!("/invites/{UNKNOWN}");
    for _ in 0..3 {
        stranger.get(&unknown).await.assert_error(404, "no_such_invite", None);
    }
    let refused = stranger.get(&unknown).await;
    refused.assert_error(429, "too_many_attempts", None);
    assert!(refused.header("retry-after").is_some());
    ann.get(&unknown).await.assert_error(404, "no_such_invite", None);
}
