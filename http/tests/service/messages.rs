//! Sending messages and reading history.

use crate::support::{server, server_with, settings};
use serde_json::json;
use uproar_core::limits::Limits;
use uproar_http::{PublishError, Settings};
use uproar_model::Refusal;

#[tokio::test]
async fn a_message_sent_by_http_appears_in_history() {
    let server = server().await;
    let mut ann = server.sign_up("ann").await;
    let room = ann.post("/user/createroom", json!({"name": "lobby"})).await.expect(201);
    let sent = ann.post("/rooms/Lobby/messages", json!({"text": "hello", "id": "m1"})).await.expect(201);
    let time = sent["time"].as_u64().unwrap();
    assert_eq!(sent, json!({"offset": 1, "epoch": room["room"]["epoch"], "time": time}));
    let again = ann.post("/rooms/lobby/messages", json!({"text": "hello", "id": "m1"})).await.expect(201);
    assert_eq!(again, sent, "a message sent twice must be stored once");
    ann.post("/rooms/lobby/messages", json!({"text": " response\n", "reply_to": 1})).await.expect(201);

    let chats = ann.get("/user/getchats?room=LOBBY").await.expect(200);
    let answered = chats["messages"][1]["time"].as_u64().unwrap();
    let user = json!({"id": ann.user_id, "username": "ann"});
    assert_eq!(
        chats,
        json!({
            "messages": [
                {"offset": 1, "number": 1, "user": user, "text": "hello", "id": "m1", "time": time, "reactions": []},
                {"offset": 2, "number": 2, "user": user, "text": " response\n", "id": null, "time": answered,
                    "reply_to": 1, "reactions": []}
            ],
            "epoch": room["room"]["epoch"],
            "offset": 2,
            "more": false
        })
    );
}

#[tokio::test]
async fn history_is_read_in_pages() {
    let server =
        server_with(Settings { limits: Limits { history_page_limit: 4, ..Limits::default() }, ..settings() }).await;
    let mut ann = server.sign_up("ann").await;
    ann.post("/user/createroom", json!({"name": "lobby"})).await.expect(201);
    for number in 1..=6 {
        ann.post("/rooms/lobby/messages", json!({"text": format!("{number}")})).await.expect(201);
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
        let page = ann.get(&format!("/user/getchats?room=lobby{query}")).await.expect(200);
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
        ann.get(&format!("/user/getchats?{query}")).await.assert_error(422, code, Some(field));
    }
}

#[tokio::test]
async fn only_members_may_send_and_read() {
    let server = server().await;
    let mut ann = server.sign_up("ann").await;
    let mut bob = server.sign_up("bob").await;
    ann.post("/user/createroom", json!({"name": "lobby"})).await.expect(201);
    let hello = || json!({"text": "hello"});
    bob.post("/rooms/lobby/messages", hello()).await.assert_error(403, "not_member", None);
    bob.get("/user/getchats?room=lobby").await.assert_error(403, "not_member", None);
    bob.post("/rooms/nowhere/messages", hello()).await.assert_error(404, "no_such_room", None);
    bob.get("/user/getchats?room=nowhere").await.assert_error(404, "no_such_room", None);
    assert!(server.chat.published.lock().unwrap().is_empty());
    bob.call("/rooms/lobby/join").await.expect(200);
    bob.post("/rooms/lobby/messages", hello()).await.expect(201);
}

#[tokio::test]
async fn an_invalid_message_is_rejected_with_its_field() {
    let server = server().await;
    let mut ann = server.sign_up("ann").await;
    ann.post("/user/createroom", json!({"name": "lobby"})).await.expect(201);
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
        ann.post("/rooms/lobby/messages", body).await.assert_error(422, code, Some(field));
    }
    assert!(server.chat.published.lock().unwrap().is_empty());
    let longest = "ä".repeat(8 * 1024);
    ann.post("/rooms/lobby/messages", json!({"text": longest})).await.expect(201);
    ann.post_text("/rooms/lobby/messages", r#"{"text":"\ud83d"}"#).await.assert_error(
        422,
        "invalid_field",
        Some("text"),
    );
    ann.post("/rooms/lobby/messages", json!({"text": "a", "reply_to": 99})).await.assert_error(
        409,
        "no_target",
        Some("reply_to"),
    );
    ann.post("/rooms/lobby/messages", json!({"text": "a", "id": "1"})).await.expect(201);
    ann.post("/rooms/lobby/messages", json!({"text": "b", "id": "1"})).await.assert_error(409, "id_reused", Some("id"));
}

#[tokio::test]
async fn each_publish_error_has_its_status_and_code() {
    let server = server().await;
    let mut ann = server.sign_up("ann").await;
    ann.post("/user/createroom", json!({"name": "lobby"})).await.expect(201);
    for (error, status, code, field, retry) in [
        (PublishError::Refused(Refusal::NoRoom), 404, "no_such_room", None, None),
        (PublishError::Refused(Refusal::NotMember), 403, "not_member", None, None),
        (PublishError::Refused(Refusal::NotYours), 403, "not_yours", None, None),
        (PublishError::Refused(Refusal::NoTarget), 409, "no_target", Some("reply_to"), None),
        (PublishError::Refused(Refusal::IdReused), 409, "id_reused", Some("id"), None),
        (PublishError::Refused(Refusal::BadData), 422, "bad_data", None, None),
        (PublishError::OutcomeUnknown, 503, "not_known", None, Some("1")),
        (PublishError::Overloaded, 503, "overloaded", None, Some("1")),
    ] {
        server.chat.publish_results.lock().unwrap().push(Err(error));
        let response = ann.post("/rooms/lobby/messages", json!({"text": "hello"})).await;
        response.assert_error(status, code, field);
        assert_eq!(response.header("retry-after"), retry);
        if code == "not_known" {
            assert!(response.text().contains("same id is safe"));
        }
    }
}

#[tokio::test]
async fn a_user_who_sends_too_fast_is_told_the_limit() {
    let limits = Limits { publish_rate_per_second: 1, publish_burst_limit: 2, ..Limits::default() };
    let server = server_with(Settings { limits, ..settings() }).await;
    let mut ann = server.sign_up("ann").await;
    let mut bob = server.sign_up("bob").await;
    ann.post("/user/createroom", json!({"name": "lobby"})).await.expect(201);
    bob.call("/rooms/lobby/join").await.expect(200);
    // However slow this machine is, some of these many messages follow each other within a second.
    let mut refused = None;
    for _ in 0..1000 {
        let response = ann.post("/rooms/lobby/messages", json!({"text": "hello"})).await;
        if response.status != 201 {
            refused = Some(response);
            break;
        }
    }
    let refused = refused.expect("a message must be refused");
    refused.assert_error(429, "rate_limited", None);
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert!(refused.text().contains("--limit publish_rate_per_second="));
    bob.post("/rooms/lobby/messages", json!({"text": "hello"})).await.expect(201);
}
