//! Direct rooms, and whom a user has blocked.

use crate::support::{server, server_with, server_with_rates, settings};
use serde_json::{Value, json};
use uproar_core::limits::Limits;
use uproar_http::Settings;
use uproar_model::fairness::Rate;
use uproar_store::WriteRates;

#[tokio::test]
async fn a_direct_room_is_opened_for_all_its_people() {
    let server = server().await;
    let (mut ann, mut ben) = (server.sign_up("Ann").await, server.sign_up("Ben").await);
    let id = async |client: &mut crate::support::Client| client.get("/me").await.expect(200)["user"]["id"].clone();
    let (ann_id, ben_id) = (id(&mut ann).await, id(&mut ben).await);
    server.notified();
    let opened = ann.post("/me/direct", json!({"usernames": ["ben"]})).await.expect(201)["room"].clone();
    let name = opened["name"].as_str().unwrap();
    let people = json!([{"id": ann_id, "username": "Ann"}, {"id": ben_id, "username": "Ben"}]);
    for (field, value) in [
        ("title", json!("Ben")),
        ("private", json!(true)),
        ("direct", json!(true)),
        ("size", json!(2)),
        ("members", json!(2)),
        ("people", people.clone()),
        ("offset", json!(0)),
        ("unread", json!(0)),
        ("role", json!("member")),
    ] {
        assert_eq!(opened[field], value, "{field}");
    }
    let joined = |user: &Value| (user.as_str().unwrap().to_owned(), "joined", name.to_owned());
    assert_eq!(server.notified(), [joined(&ann_id), joined(&ben_id)]);

    // The other one finds the same room, by any call.
    let found = ben.post("/me/direct", json!({"usernames": ["ANN"]})).await.expect(200)["room"].clone();
    assert_eq!((&found["name"], &found["title"], &found["people"]), (&json!(name), &json!("Ann"), &people));
    assert_eq!(server.notified(), []);
    let path = format!("/rooms/{}", name.replace('@', "%40"));
    for path in [&path, &format!("/rooms/{name}")] {
        let room = ben.get(path).await.expect(200)["room"].clone();
        assert_eq!((&room["name"], &room["people"]), (&found["name"], &people));
    }
    let listed = ben.get("/rooms").await.expect(200)["rooms"].clone();
    assert_eq!((&listed[0]["name"], &listed[0]["people"], listed[1].is_null()), (&found["name"], &people, true));
    assert_eq!(ben.get(&format!("/rooms?after={name}")).await.expect(200)["rooms"], json!([]));
    assert_eq!(ben.get(&format!("/user/getchats?room={name}")).await.expect(200)["messages"], json!([]));
    assert_eq!(ben.get(&format!("{path}/members")).await.expect(200)["count"], 2);
    for call in ["leave", "members"] {
        let body = json!({"username": "ben"});
        let refused = match call {
            "leave" => ben.call(&format!("{path}/leave")).await,
            _ => ben.post(&format!("{path}/members"), body).await,
        };
        refused.assert_error(403, "not_allowed", None);
        assert!(refused.text().contains("direct room"), "{}", refused.text());
    }
    ben.delete(&path).await.assert_error(403, "not_allowed", None);
    ben.delete(&format!("{path}/members/ann")).await.assert_error(403, "not_allowed", None);

    let mut eve = server.sign_up("Eve").await;
    eve.get(&path).await.assert_error(404, "no_such_room", None);
    eve.call(&format!("{path}/join")).await.assert_error(404, "no_such_room", None);
    eve.post("/rooms", json!({"name": name})).await.assert_error(422, "invalid_field", Some("name"));
}

#[tokio::test]
async fn whom_to_talk_to_is_checked() {
    let server = server().await;
    let mut ann = server.sign_up("ann").await;
    for (body, code) in [
        (json!({}), "missing_field"),
        (json!({"usernames": []}), "invalid_field"),
        (json!({"usernames": "ben"}), "invalid_field"),
        (json!({"usernames": [""]}), "invalid_field"),
        (json!({"usernames": [7]}), "invalid_field"),
        (json!({"usernames": vec!["ben"; 10]}), "invalid_field"),
    ] {
        ann.post("/me/direct", body.clone()).await.assert_error(422, code, Some("usernames"));
    }
    ann.post("/me/direct", json!({"usernames": ["nobody"]})).await.assert_error(404, "no_such_user", Some("usernames"));
    ann.post("/me/direct", json!({"usernames": ["ann"]})).await.assert_error(403, "not_allowed", None);
}

#[tokio::test]
async fn a_blocked_user_gets_no_new_direct_room() {
    let limits = Limits { blocks_limit: 1, ..Limits::default() };
    let server = server_with(Settings { limits, ..settings() }).await;
    let (mut ann, mut ben) = (server.sign_up("Ann").await, server.sign_up("Ben").await);
    server.sign_up("Cid").await;
    let block = ann.request("PUT", "/me/blocks/ben", &[], None).await.expect(200)["block"].clone();
    assert_eq!(block["user"]["username"], "Ben");
    assert_eq!(ann.request("PUT", "/me/blocks/BEN", &[], None).await.expect(200)["block"], block);
    assert_eq!(ann.get("/me/blocks").await.expect(200), json!({"blocks": [block], "more": false}));
    let after = block["user"]["id"].as_str().unwrap();
    assert_eq!(ann.get(&format!("/me/blocks?after={after}")).await.expect(200)["blocks"], json!([]));
    ann.request("PUT", "/me/blocks/cid", &[], None).await.assert_error(409, "too_many_blocks", None);
    ann.request("PUT", "/me/blocks/ann", &[], None).await.assert_error(403, "not_allowed", None);
    ann.request("PUT", "/me/blocks/nobody", &[], None).await.assert_error(404, "no_such_user", Some("username"));

    // The one who was blocked does not learn by whom.
    let refused = ben.post("/me/direct", json!({"usernames": ["ann", "cid"]})).await;
    refused.assert_error(403, "blocked", Some("usernames"));
    assert!(!refused.text().to_lowercase().contains("ann") && !refused.text().contains("has blocked"));
    assert_eq!(ben.get("/me/blocks").await.expect(200)["blocks"], json!([]));
    let refused = ann.post("/me/direct", json!({"usernames": ["ben"]})).await;
    refused.assert_error(403, "blocked", Some("usernames"));
    assert!(refused.text().contains("unblock them first"));

    for _ in 0..2 {
        ann.delete("/me/blocks/ben").await.expect(200);
    }
    ben.post("/me/direct", json!({"usernames": ["ann"]})).await.expect(201);
}

#[tokio::test]
async fn a_user_can_make_only_so_many_direct_rooms() {
    let rates = WriteRates {
        direct_rooms: Some(Rate::per_hour(2, 2)),
        additions: Some(Rate::per_hour(10, 10)),
        ..WriteRates::default()
    };
    let server = server_with_rates(rates).await;
    let (mut ann, mut ben) = (server.sign_up("ann").await, server.sign_up("ben").await);
    for name in ["cid", "dora", "eve"] {
        server.sign_up(name).await;
    }
    ann.post("/me/direct", json!({"usernames": ["ben"]})).await.expect(201);
    // Any one may add somebody to a tenth of the rooms.
    ann.post("/me/direct", json!({"usernames": ["ben", "cid"]})).await.assert_error(429, "rate_limited", None);
    ann.post("/me/direct", json!({"usernames": ["cid"]})).await.expect(201);
    let refused = ann.post("/me/direct", json!({"usernames": ["dora"]})).await;
    refused.assert_error(429, "rate_limited", None);
    assert!(matches!(refused.header("retry-after").unwrap().parse(), Ok(1..=1800)));
    // What is there already costs nothing, and others have their own.
    for _ in 0..5 {
        ann.post("/me/direct", json!({"usernames": ["ben"]})).await.expect(200);
    }
    ben.post("/me/direct", json!({"usernames": ["dora"]})).await.expect(201);
}
