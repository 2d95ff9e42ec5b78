//! Sending by HTTP and reading history.

use crate::support::{server, server_with, settings};
use serde_json::json;
use uproar_http::{Limits, PublishError, Settings};
use uproar_model::Refusal;

#[tokio::test]
async fn a_message_from_sending_to_history() {
    let server = server().await;
    let mut ann = server.signed_up("ann").await;
    let room = ann.post("/user/createroom", json!({"name": "lobby"})).await.ok(201);
    let sent = ann.post("/rooms/Lobby/messages", json!({"text": "hello", "id": "m1"})).await.ok(201);
    let time = sent["time"].as_u64().unwrap();
    assert_eq!(sent, json!({"offset": 1, "epoch": room["room"]["epoch"], "time": time}));
    let again = ann.post("/rooms/lobby/messages", json!({"text": "hello", "id": "m1"})).await.ok(201);
    assert_eq!(again, sent, "sent twice, stored once");
    ann.post("/rooms/lobby/messages", json!({"text": " answer\n", "reply_to": 1})).await.ok(201);

    let chats = ann.get("/user/getchats?room=LOBBY").await.ok(200);
    let answered = chats["messages"][1]["time"].as_u64().unwrap();
    let user = json!({"id": ann.user_id, "username": "ann"});
    assert_eq!(
        chats,
        json!({
            "messages": [
                {"offset": 1, "number": 1, "user": user, "text": "hello", "id": "m1", "time": time, "reactions": []},
                {"offset": 2, "number": 2, "user": user, "text": " answer\n", "id": null, "time": answered,
                    "reply_to": 1, "reactions": []}
            ],
            "epoch": room["room"]["epoch"],
            "offset": 2,
            "more": false
        })
    );
}

#[tokio::test]
async fn pages_of_history() {
    let server =
        server_with(Settings { limits: Limits { history_page_limit: 4, ..Limits::default() }, ..settings() }).await;
    let mut ann = server.signed_up("ann").await;
    ann.post("/user/createroom", json!({"name": "lobby"})).await.ok(201);
    for number in 1..=6 {
        ann.post("/rooms/lobby/messages", json!({"text": format!("{number}")})).await.ok(201);
    }
    for (query, texts, more) in [
        ("", vec!["3", "4", "5", "6"], true),
        ("&limit=2", vec!["5", "6"], true),
        ("&limit=1000", vec!["3", "4", "5", "6"], true),
        ("&before=3", vec!["1", "2"], false),
        ("&before=5&limit=2", vec!["3", "4"], true),
        ("&after=0&limit=3", vec!["1", "2", "3"], true),
        ("&after=4", vec!["5", "6"], false),
        ("&after=6", vec![], false),
        ("&before=1", vec![], false),
    ] {
        let page = ann.get(&format!("/user/getchats?room=lobby{query}")).await.ok(200);
        let texts_of_page: Vec<&str> =
            page["messages"].as_array().unwrap().iter().map(|message| message["text"].as_str().unwrap()).collect();
        assert_eq!((texts_of_page, &page["more"], &page["offset"]), (texts, &json!(more), &json!(6)), "{query}");
    }
    for (query, code, field) in [
        ("", "missing_field", "room"),
        ("room=@", "invalid_field", "room"),
        ("room=lobby&limit=0", "invalid_field", "limit"),
        ("room=lobby&before=0", "invalid_field", "before"),
        ("room=lobby&before=x", "invalid_field", "before"),
        ("room=lobby&after=18446744073709551615", "invalid_field", "after"),
        ("room=lobby&before=9&after=1", "invalid_field", "after"),
    ] {
        ann.get(&format!("/user/getchats?{query}")).await.is_error(422, code, Some(field));
    }
}

#[tokio::test]
async fn who_may_send_and_read() {
    let server = server().await;
    let mut ann = server.signed_up("ann").await;
    let mut bob = server.signed_up("bob").await;
    ann.post("/user/createroom", json!({"name": "lobby"})).await.ok(201);
    let hello = || json!({"text": "hello"});
    bob.post("/rooms/lobby/messages", hello()).await.is_error(403, "not_member", None);
    bob.get("/user/getchats?room=lobby").await.is_error(403, "not_member", None);
    bob.post("/rooms/nowhere/messages", hello()).await.is_error(404, "no_such_room", None);
    bob.get("/user/getchats?room=nowhere").await.is_error(404, "no_such_room", None);
    assert!(server.chat.published.lock().unwrap().is_empty());
    bob.call("/rooms/lobby/join").await.ok(200);
    bob.post("/rooms/lobby/messages", hello()).await.ok(201);
}

#[tokio::test]
async fn a_message_names_its_wrong_field() {
    let server = server().await;
    let mut ann = server.signed_up("ann").await;
    ann.post("/user/createroom", json!({"name": "lobby"})).await.ok(201);
    for (body, code, field) in [
        (json!({}), "missing_field", "text"),
        (json!({"text": null}), "invalid_field", "text"),
        (json!({"text": ""}), "invalid_field", "text"),
        (json!({"text": " \n"}), "invalid_field", "text"),
        (json!({"text": "a\0b"}), "invalid_field", "text"),
        (json!({"text": "x".repeat(16 * 1024 + 1)}), "text_too_large", "text"),
        (json!({"text": "a", "id": ""}), "invalid_field", "id"),
        (json!({"text": "a", "id": "~x"}), "invalid_field", "id"),
        (json!({"text": "a", "id": "x".repeat(65)}), "invalid_field", "id"),
        (json!({"text": "a", "id": "\0"}), "invalid_field", "id"),
        (json!({"text": "a", "id": 7}), "invalid_field", "id"),
        (json!({"text": "a", "reply_to": 0}), "invalid_field", "reply_to"),
        (json!({"text": "a", "reply_to": u64::MAX}), "invalid_field", "reply_to"),
        (json!({"text": "a", "reply_to": "1"}), "invalid_field", "reply_to"),
    ] {
        ann.post("/rooms/lobby/messages", body).await.is_error(422, code, Some(field));
    }
    assert!(server.chat.published.lock().unwrap().is_empty());
    let longest = "ä".repeat(8 * 1024);
    ann.post("/rooms/lobby/messages", json!({"text": longest})).await.ok(201);
    ann.post_text("/rooms/lobby/messages", r#"{"text":"\ud83d"}"#).await.is_error(400, "malformed_json", None);
    ann.post("/rooms/lobby/messages", json!({"text": "a", "reply_to": 99})).await.is_error(
        409,
        "no_target",
        Some("reply_to"),
    );
    ann.post("/rooms/lobby/messages", json!({"text": "a", "id": "1"})).await.ok(201);
    ann.post("/rooms/lobby/messages", json!({"text": "b", "id": "1"})).await.is_error(409, "id_reused", Some("id"));
}

#[tokio::test]
async fn what_the_chat_answers() {
    let server = server().await;
    let mut ann = server.signed_up("ann").await;
    ann.post("/user/createroom", json!({"name": "lobby"})).await.ok(201);
    for (answer, status, code, field, retry) in [
        (PublishError::Refused(Refusal::NoRoom), 404, "no_such_room", None, None),
        (PublishError::Refused(Refusal::NotMember), 403, "not_member", None, None),
        (PublishError::Refused(Refusal::NotYours), 403, "not_yours", None, None),
        (PublishError::Refused(Refusal::NoTarget), 409, "no_target", Some("reply_to"), None),
        (PublishError::Refused(Refusal::IdReused), 409, "id_reused", Some("id"), None),
        (PublishError::Refused(Refusal::BadData), 422, "bad_data", None, None),
        (PublishError::NotKnown, 503, "not_known", None, Some("1")),
        (PublishError::Overloaded, 503, "overloaded", None, Some("1")),
    ] {
        server.chat.answers.lock().unwrap().push(Err(answer));
        let answer = ann.post("/rooms/lobby/messages", json!({"text": "hello"})).await;
        answer.is_error(status, code, field);
        assert_eq!(answer.header("retry-after"), retry);
        if code == "not_known" {
            assert!(answer.text().contains("same id is safe"));
        }
    }
}

#[tokio::test]
async fn a_user_who_sends_too_fast_is_told_the_limit() {
    let limits = Limits { publish_rate_per_second: 1, publish_burst_limit: 2, ..Limits::default() };
    let server = server_with(Settings { limits, ..settings() }).await;
    let mut ann = server.signed_up("ann").await;
    let mut bob = server.signed_up("bob").await;
    ann.post("/user/createroom", json!({"name": "lobby"})).await.ok(201);
    bob.call("/rooms/lobby/join").await.ok(200);
    // However slow this machine is, of so many some come within a second of another.
    let mut refused = None;
    for _ in 0..1000 {
        let answer = ann.post("/rooms/lobby/messages", json!({"text": "hello"})).await;
        if answer.status != 201 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("a limit");
    refused.is_error(429, "rate_limited", None);
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert!(refused.text().contains("--limit publish_rate_per_second="));
    bob.post("/rooms/lobby/messages", json!({"text": "hello"})).await.ok(201);
}
