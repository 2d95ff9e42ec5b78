//! Sending messages and reading history.

use crate::support::{Client, server, server_with, settings};
use serde_json::{Value, json};
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

/// Pages that continue each other tell of each change once.
#[tokio::test]
async fn joins_and_departures_lie_between_the_messages() {
    let server = server().await;
    let mut ann = server.sign_up("ann").await;
    let mut bob = server.sign_up("bob").await;
    ann.post("/user/createroom", json!({"name": "lobby"})).await.expect(201);
    bob.call("/rooms/lobby/join").await.expect(200); // 1
    for _ in 2..=5 {
        ann.post("/rooms/lobby/messages", json!({"text": "x"})).await.expect(201);
    }
    bob.call("/rooms/lobby/leave").await.expect(200); // 6
    ann.post("/rooms/lobby/messages", json!({"text": "x"})).await.expect(201); // 7
    ann.post("/rooms/lobby/members", json!({"username": "bob"})).await.expect(200); // 8
    let mut page = async |query: &str| {
        let page = ann.get(&format!("/user/getchats?room=lobby&memberships=true{query}")).await.expect(200);
        let offsets = |name: &str| -> Vec<u64> {
            page[name].as_array().unwrap().iter().map(|of| of["offset"].as_u64().unwrap()).collect()
        };
        (offsets("messages"), offsets("memberships"))
    };
    assert_eq!(page("").await, (vec![2, 3, 4, 5, 7], vec![1, 6, 8]), "from the beginning to the end");
    assert_eq!(page("&limit=1").await, (vec![7], vec![8]));
    assert_eq!(page("&limit=2&before=7").await, (vec![4, 5], vec![6]));
    assert_eq!(page("&limit=2&before=4").await, (vec![2, 3], vec![1]));
    assert_eq!(page("&before=2").await, (vec![], vec![1]));
    assert_eq!(page("&limit=4&after=0").await, (vec![2, 3, 4, 5], vec![1]));
    assert_eq!(page("&limit=4&after=5").await, (vec![7], vec![6, 8]));
    assert_eq!(page("&after=7").await, (vec![], vec![8]));
    assert_eq!(page("&after=8").await, (vec![], vec![]));

    let all = ann.get("/user/getchats?room=lobby&memberships=true").await.expect(200);
    let user = |id: &str, name: &str| json!({"id": id, "username": name});
    let (ann_user, bob_user) = (user(&ann.user_id, "ann"), user(&bob.user_id, "bob"));
    let time = |n: usize| all["memberships"][n]["time"].clone();
    assert_eq!(
        all["memberships"],
        json!([
            {"offset": 1, "time": time(0), "user": bob_user, "added": bob_user},
            {"offset": 6, "time": time(1), "user": bob_user, "removed": bob_user},
            {"offset": 8, "time": time(2), "user": ann_user, "added": bob_user},
        ])
    );
    assert!(ann.get("/user/getchats?room=lobby").await.expect(200).get("memberships").is_none(), "only if wanted");
    assert!(ann.get("/user/getchats?room=lobby&memberships=false").await.expect(200).get("memberships").is_none());
    ann.get("/user/getchats?room=lobby&memberships=x").await.assert_error(422, "invalid_field", Some("memberships"));
}

/// A page that is cut for its size leaves to the next one what lies there.
#[tokio::test]
async fn a_page_that_is_cut_has_the_joins_and_departures_between_its_messages() {
    let limits = Limits { response_limit_bytes: 4096, ..Limits::default() };
    let server = server_with(Settings { limits, ..settings() }).await;
    let mut ann = server.sign_up("ann").await;
    let mut bob = server.sign_up("bob").await;
    ann.post("/user/createroom", json!({"name": "lobby"})).await.expect(201);
    let long = json!({"text": "x".repeat(3_000)});
    bob.call("/rooms/lobby/join").await.expect(200); // 1
    ann.post("/rooms/lobby/messages", long.clone()).await.expect(201); // 2
    bob.call("/rooms/lobby/leave").await.expect(200); // 3
    ann.post("/rooms/lobby/messages", long).await.expect(201); // 4
    let mut page = async |query: &str| {
        let page = ann.get(&format!("/user/getchats?room=lobby&memberships=true{query}")).await.expect(200);
        let offsets = |name: &str| -> Vec<u64> {
            page[name].as_array().unwrap().iter().map(|of| of["offset"].as_u64().unwrap()).collect()
        };
        (offsets("messages"), offsets("memberships"), page["more"].as_bool().unwrap())
    };
    assert_eq!(page("").await, (vec![4], vec![], true));
    assert_eq!(page("&before=4").await, (vec![2], vec![1, 3], false));
    assert_eq!(page("&after=0").await, (vec![2], vec![1], true));
    assert_eq!(page("&after=2").await, (vec![4], vec![3], false));
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
        (PublishError::Refused(Refusal::Silenced { until: 5 }), 403, "silenced", None, None),
        (PublishError::Refused(Refusal::ModeratorsOnly), 403, "not_allowed", None, None),
        (PublishError::Refused(Refusal::NobodyPosts), 403, "not_allowed", None, None),
        (PublishError::Refused(Refusal::SlowMode { wait_ms: 4_001 }), 429, "rate_limited", None, Some("5")),
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
        match code {
            "not_known" => assert!(response.text().contains("same id is safe")),
            "silenced" => assert_eq!(response.json()["error"]["until"], 5),
            _ => assert_eq!(response.json()["error"]["until"], Value::Null),
        }
    }
}

#[tokio::test]
async fn a_message_can_carry_meta() {
    let server = server().await;
    let mut ann = server.sign_up("ann").await;
    ann.post("/rooms", json!({"name": "lobby"})).await.expect(201);
    // The order of names and the digits of numbers are kept, so that a retry over WebSocket is the same.
    let body = |meta: &str| format!(r#"{{"text":"x","id":"m1","meta":{meta}}}"#);
    let sent = r#"{ "b": 12345678901234567890123, "a": [1.0, null] }"#;
    let first = ann.post_text("/rooms/lobby/messages", &body(sent)).await.expect(201);
    let compact = r#"{"b":12345678901234567890123,"a":[1.0,null]}"#;
    assert_eq!(server.chat.published.lock().unwrap()[0].meta.as_deref(), Some(compact));
    let page = ann.get("/rooms/lobby/messages").await;
    assert!(page.text().contains(&format!("\"meta\":{compact}")), "{}", page.text());
    assert_eq!(ann.post_text("/rooms/lobby/messages", &body(compact)).await.expect(201), first);
    for other in ["null", "{}"] {
        let reused = ann.post_text("/rooms/lobby/messages", &body(other)).await;
        reused.assert_error(409, "id_reused", Some("id"));
    }
    let long = format!("\"{}\"", "x".repeat(4095));
    for wrong in [long.as_str(), r#""\ud83d""#] {
        let refused = ann.post_text("/rooms/lobby/messages", &body(wrong)).await;
        refused.assert_error(422, "invalid_field", Some("meta"));
    }
    ann.post_text("/rooms/lobby/messages", &body("{")).await.assert_error(400, "malformed_json", None);
    ann.post("/rooms/lobby/messages", json!({"meta": 1})).await.assert_error(422, "missing_field", Some("text"));
    let edit = ann.patch("/rooms/lobby/messages/1", json!({"text": "y", "meta": {}})).await;
    edit.assert_error(422, "unknown_field", Some("meta"));
    ann.patch("/rooms/lobby/messages/1", json!({"text": "y"})).await.expect(200);
    assert!(ann.get("/rooms/lobby/messages").await.text().contains(compact), "an edit keeps it");
    ann.delete("/rooms/lobby/messages/1").await.expect(200);
    assert!(!ann.get("/rooms/lobby/messages").await.text().contains("meta"), "a deletion removes it");
}

/// The text and the reactions of the first message of the room.
async fn first_message(client: &mut Client) -> (Value, Value) {
    let page = client.get("/rooms/lobby/messages").await.expect(200);
    (page["messages"][0]["text"].clone(), page["messages"][0]["reactions"].clone())
}

#[tokio::test]
async fn a_message_is_edited_and_deleted_by_its_author() {
    let server = server().await;
    let (mut ann, mut bob) = (server.sign_up("ann").await, server.sign_up("bob").await);
    let room = ann.post("/rooms", json!({"name": "lobby"})).await.expect(201);
    bob.call("/rooms/lobby/join").await.expect(200);
    bob.post("/rooms/lobby/messages", json!({"text": "helo"})).await.expect(201);
    // The first offset is that of his join.
    let path = "/rooms/LOBBY/messages/2";

    ann.patch(path, json!({"text": "hello"})).await.assert_error(403, "not_yours", None);
    let edited = bob.patch(path, json!({"text": "hello", "id": "e1"})).await.expect(200);
    assert_eq!(edited, json!({"offset": 3, "epoch": room["room"]["epoch"], "time": edited["time"]}));
    assert_eq!(bob.patch(path, json!({"text": "hello", "id": "e1"})).await.expect(200), edited, "sent twice");
    assert_eq!(first_message(&mut ann).await.0, "hello");
    bob.patch(path, json!({"text": "x", "epoch": "another"})).await.assert_error(409, "wrong_epoch", Some("epoch"));
    bob.delete(&format!("{path}?id=e1")).await.assert_error(409, "id_reused", Some("id"));

    let deleted = bob.delete(&format!("{path}?id=d1")).await.expect(200);
    assert_eq!(deleted["offset"], 4);
    for query in ["?id=d1", "?id=d2", ""] {
        assert_eq!(bob.delete(&format!("{path}{query}")).await.expect(200), deleted, "deleted once: {query}");
    }
    assert_eq!(first_message(&mut ann).await.0, Value::Null);
    bob.patch(path, json!({"text": "back"})).await.assert_error(404, "no_such_message", Some("offset"));

    // The owner may delete what others have written, but members may not.
    ann.post("/rooms/lobby/messages", json!({"text": "mine"})).await.expect(201);
    bob.delete("/rooms/lobby/messages/5").await.assert_error(403, "not_yours", None);
    bob.post("/rooms/lobby/messages", json!({"text": "spam"})).await.expect(201);
    ann.delete("/rooms/lobby/messages/6").await.expect(200);
}

#[tokio::test]
async fn a_reaction_is_given_once_and_taken_back() {
    let server = server().await;
    let mut ann = server.sign_up("ann").await;
    ann.post("/rooms", json!({"name": "lobby"})).await.expect(201);
    ann.post("/rooms/lobby/messages", json!({"text": "hello"})).await.expect(201);
    // A heart without the selector that makes it an emoji: stored in the one form.
    let heart = "/rooms/lobby/messages/1/reactions/%E2%9D%A4";
    let given = ann.request("PUT", heart, &[], None).await.expect(200);
    assert_eq!(given["offset"], 2);
    let again = ann.request("PUT", heart, &[], None).await.expect(200);
    assert_eq!(again["offset"], 1, "it changes nothing, and is not stored");
    assert_eq!(first_message(&mut ann).await.1, json!([{"emoji": "❤\u{fe0f}", "count": 1, "mine": true}]));
    assert_eq!(ann.delete(&format!("{heart}?id=u1")).await.expect(200)["offset"], 3);
    assert_eq!(ann.delete(&format!("{heart}?id=u1")).await.expect(200)["offset"], 3);
    assert_eq!(first_message(&mut ann).await.1, json!([]));

    let thumb = "/rooms/lobby/messages/1/reactions/%F0%9F%91%8D";
    ann.request("PUT", &format!("{thumb}?epoch=another"), &[], None).await.assert_error(
        409,
        "wrong_epoch",
        Some("epoch"),
    );
    for emoji in ["😀", "😁", "😂", "😃", "😄"] {
        let path = format!("/rooms/lobby/messages/1/reactions/{}", escaped(emoji));
        ann.request("PUT", &path, &[], None).await.expect(200);
    }
    ann.request("PUT", thumb, &[], None).await.assert_error(409, "too_many_reactions", Some("emoji"));
}

fn escaped(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

#[tokio::test]
async fn an_invalid_change_is_rejected_with_its_field() {
    let server = server().await;
    let (mut ann, mut bob) = (server.sign_up("ann").await, server.sign_up("bob").await);
    ann.post("/rooms", json!({"name": "lobby"})).await.expect(201);
    ann.post("/rooms/lobby/messages", json!({"text": "hello"})).await.expect(201);
    let before = server.chat.published.lock().unwrap().len();
    for (body, code, field) in [
        (json!({}), "missing_field", "text"),
        (json!({"text": 7}), "invalid_field", "text"),
        (json!({"text": " "}), "invalid_field", "text"),
        (json!({"text": "x".repeat(16 * 1024 + 1)}), "text_too_large", "text"),
        (json!({"text": "a", "id": "~x"}), "invalid_field", "id"),
        (json!({"text": "a", "reply_to": 1}), "unknown_field", "reply_to"),
    ] {
        ann.patch("/rooms/lobby/messages/1", body).await.assert_error(422, code, Some(field));
    }
    for offset in ["0", "-1", "x", "1.0", "9007199254740992", "99999999999999999999"] {
        let path = format!("/rooms/lobby/messages/{offset}");
        ann.delete(&path).await.assert_error(422, "invalid_field", Some("offset"));
        ann.patch(&path, json!({"text": "a"})).await.assert_error(422, "invalid_field", Some("offset"));
    }
    for emoji in ["x", "%20", "%F0%9F%91%8D%F0%9F%91%8D", &escaped(&"👍".repeat(30))] {
        let path = format!("/rooms/lobby/messages/1/reactions/{emoji}");
        ann.request("PUT", &path, &[], None).await.assert_error(422, "invalid_field", Some("emoji"));
    }
    let thumb = "/rooms/lobby/messages/1/reactions/%F0%9F%91%8D";
    ann.request("PUT", &format!("{thumb}?id=~1"), &[], None).await.assert_error(422, "invalid_field", Some("id"));
    ann.delete(&format!("{thumb}?more=1")).await.assert_error(422, "unknown_field", Some("more"));
    let not_utf8 = ann.request("PUT", "/rooms/lobby/messages/1/reactions/%FF", &[], None).await;
    not_utf8.assert_error(400, "bad_request", None);
    bob.delete("/rooms/lobby/messages/1").await.assert_error(403, "not_member", None);
    bob.request("PUT", thumb, &[], None).await.assert_error(403, "not_member", None);
    ann.delete("/rooms/nowhere/messages/1").await.assert_error(404, "no_such_room", None);
    assert_eq!(server.chat.published.lock().unwrap().len(), before);

    ann.delete("/rooms/lobby/messages/99").await.assert_error(404, "no_such_message", Some("offset"));
    let path = thumb.replace("/1/", "/99/");
    ann.request("PUT", &path, &[], None).await.assert_error(404, "no_such_message", Some("offset"));
}

#[tokio::test]
async fn history_is_read_under_both_paths() {
    let server = server().await;
    let mut ann = server.sign_up("ann").await;
    ann.post("/rooms", json!({"name": "Lobby"})).await.expect(201);
    for text in ["1", "2", "3"] {
        ann.post("/rooms/lobby/messages", json!({"text": text})).await.expect(201);
    }
    for query in ["limit=2", "before=3", "after=1&memberships=true"] {
        let old = ann.get(&format!("/user/getchats?room=lobby&{query}")).await.expect(200);
        assert_eq!(ann.get(&format!("/rooms/LOBBY/messages?{query}")).await.expect(200), old, "{query}");
    }
    let both = ann.get("/rooms/lobby/messages?before=1&after=1").await;
    both.assert_error(422, "invalid_field", Some("after"));
    ann.get("/rooms/lobby/messages?room=x").await.assert_error(422, "unknown_field", Some("room"));
    ann.get("/rooms/nowhere/messages").await.assert_error(404, "no_such_room", None);
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
