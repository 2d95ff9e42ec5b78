//! The server API: its forms, its keys, and each method with its errors.

use crate::support::{Client, Response, Server, server, server_with, settings, soon};
use serde_json::{Value, json};
use std::sync::Arc;
use uproar_core::limits::Limits;
use uproar_http::api::hash_of;
use uproar_http::{Channel, ChatError, PresentClient, PublishError, Settings};
use uproar_model::{Identity, Kind, Refusal, User, UserEvent, UserId};
use uproar_store::{NewApiKey, NewRoom, Room, RoomKind, Scopes, UsersBy};

/// A backend with a key.
struct Backend {
    client: Client,
    key: &'static str,
    bot: UserId,
}

async fn backend_with(server: &Server, key: &'static str, scopes: &str, users: UsersBy) -> Backend {
    let bot = server.store.ensure_user("Bot", "bot").await.unwrap().id;
    let scopes: Scopes = scopes.parse().unwrap();
    let new = NewApiKey { name: format!("key-{key}"), hash: hash_of(key), user: bot, scopes, users };
    server.store.add_api_key(new).await.unwrap();
    Backend { client: server.client().await, key, bot }
}

async fn backend(server: &Server) -> Backend {
    backend_with(server, "all", "publish,read,manage,impersonate", UsersBy::Id).await
}

impl Backend {
    async fn raw(&mut self, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
        let headers = [&[("X-API-Key", self.key)], headers].concat();
        self.client.request("POST", path, &headers, Some(body.as_bytes())).await
    }

    /// The result of a method.
    async fn call(&mut self, method: &str, params: Value) -> Value {
        let answer = self.raw(&format!("/api/{method}"), &[], &params.to_string()).await.expect(200);
        assert_eq!(answer.get("error"), None, "{method} {params}: {answer}");
        answer["result"].clone()
    }

    /// The code and message of the error of a method.
    async fn error(&mut self, method: &str, params: Value) -> (u64, String) {
        let answer = self.raw(&format!("/api/{method}"), &[], &params.to_string()).await.expect(200);
        let error = &answer["error"];
        assert_eq!(answer.as_object().unwrap().len(), 1, "{method} {params}: {answer}");
        let code = error["code"].as_u64().unwrap_or_else(|| panic!("{method} {params}: {answer}"));
        (code, error["message"].as_str().unwrap().to_owned())
    }

    /// The code of the error of a method.
    async fn fails(&mut self, method: &str, params: Value) -> u64 {
        self.error(method, params).await.0
    }
}

async fn room(server: &Server, name: &str, owner: UserId, kind: RoomKind) -> Room {
    let room = NewRoom { name: name.into(), title: name.into(), kind, size: 3, owner };
    server.store.create_room(room).await.unwrap()
}

async fn user(server: &Server, name: &str) -> UserId {
    server.store.ensure_user(name, &name.to_lowercase()).await.unwrap().id
}

#[tokio::test]
async fn a_request_without_the_right_key_gets_401_and_no_body() {
    let server = server().await;
    let mut backend = backend(&server).await;
    for headers in [&[][..], &[("X-API-Key", "wrong")], &[("Authorization", "apikey wrong")], &[("X-API-Key", "")]] {
        for path in ["/api/info", "/api", "/api/nothing"] {
            let answer = backend.client.request("POST", path, headers, Some(b"{}")).await;
            assert_eq!((answer.status, answer.body.len()), (401, 0), "{path} {headers:?}");
        }
    }
    for headers in [[("X-API-Key", "all")], [("Authorization", "apikey all")]] {
        backend.client.request("POST", "/api/info", &headers, None).await.expect(200);
    }
    assert!(server.store.remove_api_key("key-all").await.unwrap());
    let refused = async { while backend.raw("/api/info", &[], "").await.status != 401 {} };
    soon(refused).await;
}

#[tokio::test]
async fn a_message_is_stored_and_its_key_makes_it_unique() {
    let server = server().await;
    let mut backend = backend(&server).await;
    let ann = user(&server, "Ann").await;
    let room = room(&server, "lobby", ann, RoomKind::Private).await;
    let message = json!({"channel": "room:Lobby", "data": {"text": "hello"}, "idempotency_key": "k1"});
    let sent = backend.call("publish", message.clone()).await;
    // The offset of the bot's join is 1.
    assert_eq!(sent, json!({"offset": 2, "epoch": &*room.epoch.0}));
    assert_eq!(backend.call("publish", message.clone()).await, sent, "it is stored once");
    let mut other = message.clone();
    other["data"]["text"] = "other".into();
    assert_eq!(backend.fails("publish", other).await, 113);
    let stored = server.store.messages("lobby", ann, uproar_store::Cursor::Newest, 10).await.unwrap().messages;
    assert_eq!(stored.len(), 1);
    assert_eq!((stored[0].text.as_deref(), stored[0].id.as_deref()), (Some("hello"), Some("k1")));
    assert_eq!(stored[0].user.id, backend.bot);
    assert_eq!(server.chat.learned.lock().unwrap().len(), 1, "the chat learns of the join");
    let joined = (backend.bot, UserEvent::Joined { room: "lobby".into() });
    assert!(server.chat.notified.lock().unwrap().contains(&joined));
}

#[tokio::test]
async fn all_that_clients_publish_can_be_published() {
    let server = server().await;
    let mut backend = backend(&server).await;
    room(&server, "lobby", backend.bot, RoomKind::Public).await;
    for (data, kind, target, body) in [
        (json!({"text": "one", "id": "m1"}), Kind::Message, None, Some("one")),
        (json!({"text": "two", "reply_to": 1}), Kind::Message, Some(1), Some("two")),
        (json!({"edit": 1, "text": "1"}), Kind::Edit, Some(1), Some("1")),
        (json!({"react": 1, "emoji": "👍"}), Kind::React, Some(1), Some("👍")),
        (json!({"unreact": 1, "emoji": "👍"}), Kind::Unreact, Some(1), Some("👍")),
        (json!({"delete": 2}), Kind::Delete, Some(2), None),
    ] {
        backend.call("publish", json!({"channel": "room:lobby", "data": data})).await;
        let published = server.chat.published.lock().unwrap().last().unwrap().clone();
        let expected = (kind, target, body.map(str::to_owned));
        assert_eq!((published.kind, published.target, published.body), expected, "{data}");
    }
}

#[tokio::test]
async fn a_wrong_publish_gets_the_code_that_says_why() {
    let server = server().await;
    let mut backend = backend(&server).await;
    room(&server, "lobby", backend.bot, RoomKind::Public).await;
    let text = json!({"text": "x"});
    let with = |name: &str, value: Value| {
        let mut params = json!({"channel": "room:lobby", "data": {"text": "x"}});
        params[name] = value;
        params
    };
    for (params, code) in [
        (json!({"data": text}), 107),
        (json!({"channel": "room:lobby"}), 107),
        (with("channel", json!(7)), 107),
        (with("channel", json!("x".repeat(1000))), 107),
        (with("channel", json!("room:nowhere")), 102),
        (with("channel", json!("lobby")), 102),
        (with("channel", json!("room:")), 102),
        (with("data", json!("text")), 107),
        (with("data", json!({"text": 7})), 107),
        (with("data", json!({"text": ""})), 107),
        (with("data", json!({"text": "x".repeat(20_000)})), 106),
        (with("data", json!({"text": "x", "epoch": "other"})), 112),
        (with("data", json!({"edit": 99, "text": "x"})), 107),
        (with("data", json!({"text": "x", "id": "~x"})), 107),
        (with("data", json!({"text": "x", "as": "999"})), 107),
        (with("data", json!({"text": "x", "as": {}})), 107),
        (with("idempotency_key", json!("x".repeat(65))), 107),
        (with("idempotency_key", json!(7)), 107),
        (with("skip_history", json!(true)), 108),
        (with("skip_history", json!("yes")), 107),
        (with("delta", json!("fossil")), 108),
        (with("version", json!(1)), 108),
        (with("tags", json!({"a": "b"})), 107),
        (with("b64data", json!("eHg=")), 107),
        (with("chanel", json!("x")), 107),
    ] {
        assert_eq!(backend.fails("publish", params.clone()).await, code, "{params}");
    }
    let unknown = json!({"user": backend.bot.to_string(), "channel": "room:lobby", "chanel": "x"});
    assert_eq!(backend.fails("subscribe", unknown).await, 107);
    assert_eq!(server.store.room_named("lobby", backend.bot).await.unwrap().unwrap().1.offset, 0);
    // What libraries send for parameters that were not given.
    let empty = json!({"channel": "room:lobby", "data": text, "skip_history": false, "tags": null, "b64data": "",
        "delta": false, "version": 0, "version_epoch": "", "idempotency_key": ""});
    backend.call("publish", empty).await;
    for (result, code) in [
        (PublishError::OutcomeUnknown, 100),
        (PublishError::Overloaded, 100),
        (PublishError::Refused(Refusal::TooManyReactions), 106),
        (PublishError::Refused(Refusal::NotYours), 103),
        (PublishError::Refused(Refusal::Silenced { until: 5 }), 103),
        (PublishError::Refused(Refusal::SlowMode { wait_ms: 5 }), 111),
    ] {
        server.chat.publish_results.lock().unwrap().push(Err(result));
        assert_eq!(backend.fails("publish", json!({"channel": "room:lobby", "data": text})).await, code);
    }
}

#[tokio::test]
async fn a_key_speaks_for_others_only_with_the_scope() {
    let server = server().await;
    let mut backend = backend(&server).await;
    let ann = user(&server, "Ann").await;
    room(&server, "lobby", ann, RoomKind::Public).await;
    let as_ann = |who: Value| json!({"channel": "room:lobby", "data": {"text": "x", "as": who}});
    backend.call("publish", as_ann(json!(ann.to_string()))).await;
    backend.call("publish", as_ann(json!(ann.0))).await;
    let authors: Vec<UserId> = server.chat.published.lock().unwrap().iter().map(|it| it.user.id).collect();
    assert_eq!(authors, [ann, ann]);
    let ben = user(&server, "Ben").await;
    let (code, message) = backend.error("publish", as_ann(json!(ben.to_string()))).await;
    assert_eq!(code, 103, "a stranger is not made a member: {message}");

    let mut limited = backend_with(&server, "limited", "publish", UsersBy::Username).await;
    let (code, message) = limited.error("publish", as_ann(json!("Ann"))).await;
    assert!(code == 103 && message.contains("impersonate"), "{message}");
    let mut named = backend_with(&server, "named", "publish,impersonate", UsersBy::Username).await;
    named.call("publish", as_ann(json!("ANN"))).await;
    assert_eq!(named.fails("publish", as_ann(json!("nobody"))).await, 107);
}

#[tokio::test]
async fn each_method_needs_its_scope() {
    let server = server().await;
    let _ = backend(&server).await;
    for (scope, key) in [("publish", "p"), ("read", "r"), ("manage", "m"), ("impersonate", "i")] {
        let mut backend = backend_with(&server, key, scope, UsersBy::Id).await;
        for (method, needed) in [
            ("publish", "publish"),
            ("broadcast", "publish"),
            ("history", "read"),
            ("info", "read"),
            ("subscribe", "manage"),
            ("history_remove", "manage"),
            ("presence", "read"),
            ("presence_stats", "read"),
            ("channels", "read"),
            ("unsubscribe", "manage"),
            ("disconnect", "manage"),
            ("refresh", "manage"),
            ("block_user", "manage"),
            ("unblock_user", "manage"),
            ("invalidate_user_tokens", "manage"),
            ("create_user", "manage"),
            ("rename_user", "manage"),
            ("create_room", "manage"),
            ("delete_room", "manage"),
            ("remove_member", "manage"),
            ("members", "read"),
        ] {
            let answer = backend.raw(&format!("/api/{method}"), &[], "{}").await.expect(200);
            assert_eq!(answer["error"]["code"] == 103, scope != needed, "{scope}: {method}: {answer}");
        }
        assert_eq!(backend.fails("nothing", json!({})).await, 104);
    }
}

/// A misspelt parameter would be ignored in silence.
#[tokio::test]
async fn no_method_ignores_a_parameter() {
    let server = server().await;
    let mut backend = backend(&server).await;
    room(&server, "r", backend.bot, RoomKind::Public).await;
    let ann = user(&server, "Ann").await.to_string();
    let (channel, data) = ("room:r", json!({"text": "x"}));
    for (method, params) in [
        ("publish", json!({"channel": channel, "data": data})),
        ("broadcast", json!({"channels": [channel], "data": data})),
        ("history", json!({"channel": channel})),
        ("info", json!({})),
        ("subscribe", json!({"user": ann, "channel": channel})),
        ("history_remove", json!({"channel": channel})),
        ("presence", json!({"channel": channel})),
        ("presence_stats", json!({"channel": channel})),
        ("channels", json!({})),
        ("unsubscribe", json!({"user": ann, "channel": channel})),
        ("disconnect", json!({"user": ann})),
        ("refresh", json!({"user": ann})),
        ("block_user", json!({"user": ann})),
        ("unblock_user", json!({"user": ann})),
        ("invalidate_user_tokens", json!({"user": ann})),
        ("create_user", json!({"username": "Ben"})),
        ("rename_user", json!({"user": ann, "username": "Anna"})),
        ("create_room", json!({"name": "other"})),
        ("remove_member", json!({"user": ann, "channel": channel})),
        ("members", json!({"channel": channel})),
        ("delete_room", json!({"channel": channel})),
        ("batch", json!({"commands": []})),
    ] {
        let mut misspelt = params;
        misspelt["chanel"] = "x".into();
        let error = backend.error(method, misspelt).await;
        assert_eq!(error, (107, "there is no parameter 'chanel'".to_owned()), "{method}");
    }
}

#[tokio::test]
async fn a_broadcast_is_answered_channel_by_channel() {
    let server = server().await;
    let mut backend = backend(&server).await;
    for name in ["a", "b"] {
        room(&server, name, backend.bot, RoomKind::Public).await;
    }
    let channels = json!(["room:a", "room:nowhere", "room:b", "room:a"]);
    let sent = backend.call("broadcast", json!({"channels": channels, "data": {"text": "x"}, "idempotency_key": "k"}));
    let sent = sent.await;
    let responses = sent["responses"].as_array().unwrap();
    assert_eq!(responses.len(), 4);
    assert_eq!((&responses[0]["result"]["offset"], &responses[2]["result"]["offset"]), (&json!(1), &json!(1)));
    assert_eq!(responses[1]["error"]["code"], 102);
    assert_eq!(responses[3], responses[0], "the key is unique in each room");
    for channels in [json!([]), json!("room:a"), json!(vec!["room:a"; 1001]), json!([7])] {
        assert_eq!(backend.fails("broadcast", json!({"channels": channels, "data": {"text": "x"}})).await, 107);
    }
}

#[tokio::test]
async fn a_batch_is_answered_command_by_command() {
    let server = server().await;
    let mut backend = backend(&server).await;
    room(&server, "a", backend.bot, RoomKind::Public).await;
    let publish = |text: &str| json!({"publish": {"channel": "room:a", "data": {"text": text}}});
    for parallel in [json!(null), json!(true)] {
        let commands = json!([publish("1"), {"nothing": {}}, publish("2"), {"batch": {}}, {"info": {}, "publish": {}},
            {"history": {"channel": "room:a"}}, {"publish": {"channel": "room:b", "data": {"text": "x"}}}]);
        let body = json!({"commands": commands, "parallel": parallel}).to_string();
        let answer = backend.raw("/api/batch", &[], &body).await.expect(200);
        let replies = answer["replies"].as_array().unwrap();
        let codes: Vec<Option<u64>> = replies.iter().map(|reply| reply["error"]["code"].as_u64()).collect();
        assert_eq!(codes, [None, Some(104), None, Some(107), Some(107), None, Some(102)], "{answer}");
        assert!(replies[0]["publish"]["offset"].is_u64() && replies[5]["history"]["epoch"].is_string());
    }
    for params in [json!({}), json!({"commands": {}}), json!({"commands": [7]}), json!({"commands": [], "more": 1})] {
        assert_eq!(backend.fails("batch", params).await, 107);
    }
    let many = json!({"commands": vec![json!({"info": {}}); 1001]});
    assert_eq!(backend.fails("batch", many).await, 107);
}

#[tokio::test]
async fn the_older_form_is_answered_line_by_line() {
    let server = server().await;
    let mut backend = backend(&server).await;
    room(&server, "a", backend.bot, RoomKind::Public).await;
    let publish = json!({"method": "publish", "params": {"channel": "room:a", "data": {"text": "x"}}});
    let body = format!("{publish}\n{}\n{publish}\n", json!({"id": 7, "method": "nothing"}));
    let answer = backend.raw("/api", &[], &body).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    let lines: Vec<Value> = answer.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines.len(), &lines[0]["result"]["offset"], &lines[2]["result"]["offset"]), (3, &json!(1), &json!(2)));
    assert_eq!((&lines[1]["id"], &lines[1]["error"]["code"]), (&json!(7), &json!(104)));
    // Nothing is done if one of them is malformed.
    let answer = backend.raw("/api", &[], &format!("{publish}\nnonsense")).await;
    answer.assert_error(400, "bad_request", None);
    let head = server.store.room_named("a", backend.bot).await.unwrap().unwrap().1;
    assert_eq!(head.offset, 2);
}

#[tokio::test]
async fn an_error_has_a_status_if_the_caller_wants_one() {
    let server = server().await;
    let mut backend = backend(&server).await;
    let transport = [("X-Centrifugo-Error-Mode", "transport")];
    for (method, params, status, code) in [
        ("nothing", json!({}), 404, 104),
        ("history", json!({"channel": "room:x"}), 404, 102),
        ("history_remove", json!({"channel": "room:x"}), 400, 108),
        ("history", json!({}), 400, 107),
    ] {
        let answer = backend.raw(&format!("/api/{method}"), &transport, &params.to_string()).await;
        assert_eq!(answer.expect(status)["error"]["code"], code);
    }
    backend.raw("/api/info", &transport, "{}").await.expect(200);
}

#[tokio::test]
async fn a_body_that_is_no_request_is_refused() {
    let server =
        server_with(Settings { limits: Limits { api_body_limit_bytes: 1000, ..Limits::default() }, ..settings() });
    let server = server.await;
    let mut backend = backend(&server).await;
    for body in ["nonsense", "[]", "7", "{\"channel\":", "{} {}"] {
        let answer = backend.raw("/api/history", &[], body).await.expect(200);
        assert_eq!(answer["error"]["code"], 107, "{body}");
    }
    backend.raw("/api/info", &[("Content-Encoding", "gzip")], "{}").await.assert_error(
        415,
        "unsupported_encoding",
        None,
    );
    let key = [("X-API-Key", "all")];
    let answer = backend.client.request("POST", "/api/info", &key, Some(b"\xff")).await;
    answer.assert_error(400, "malformed_json", None);
    let answer = backend.raw("/api/info", &[], &" ".repeat(1001)).await;
    answer.assert_error(413, "body_too_large", None);
    let mut backend = Backend { client: server.client().await, ..backend };
    let answer = backend.client.request("GET", "/api/info", &key, None).await;
    answer.assert_error(405, "method_not_allowed", None);
}

#[tokio::test]
async fn history_is_read_as_in_the_client_protocol() {
    let server = server().await;
    let mut backend = backend(&server).await;
    let ann = user(&server, "Ann").await;
    let room = room(&server, "lobby", ann, RoomKind::Private).await;
    let epoch = room.epoch.0.to_string();
    for text in ["1", "2", "3"] {
        let data = json!({"text": text, "as": ann.to_string(), "id": text});
        backend.call("publish", json!({"channel": "room:lobby", "data": data})).await;
    }
    let offsets = |result: &Value| -> Vec<u64> {
        result["publications"].as_array().unwrap().iter().map(|it| it["offset"].as_u64().unwrap()).collect()
    };
    for (params, expected) in [
        (json!({}), vec![]),
        (json!({"limit": 0}), vec![]),
        (json!({"limit": -1}), vec![1, 2, 3]),
        (json!({"limit": 2}), vec![1, 2]),
        (json!({"limit": 2, "reverse": true}), vec![3, 2]),
        (json!({"limit": 9, "since": {"offset": 1, "epoch": epoch}}), vec![2, 3]),
        (json!({"limit": 9, "since": {"offset": 3, "epoch": epoch}, "reverse": true}), vec![2, 1]),
        (json!({"limit": 9, "since": {"offset": 2}}), vec![3]),
        // phpcent sends an empty list for an absent object.
        (json!({"limit": 1, "since": [], "reverse": false}), vec![1]),
    ] {
        let mut params = params;
        params["channel"] = "room:lobby".into();
        let result = backend.call("history", params.clone()).await;
        assert_eq!(offsets(&result), expected, "{params}");
        assert_eq!((&result["offset"], &result["epoch"]), (&json!(3), &json!(epoch)), "{params}");
    }
    let first = backend.call("history", json!({"channel": "room:lobby", "limit": 1})).await["publications"][0].clone();
    assert_eq!(first["data"], json!({"text": "1", "id": "1"}));
    let info = json!({"user": ann.to_string(), "client": "", "conn_info": {"username": "Ann"}});
    assert_eq!(first["info"], info);
    for (params, code) in [
        (json!({}), 107),
        (json!({"channel": "room:nowhere"}), 102),
        (json!({"channel": "live:x"}), 108),
        (json!({"channel": "room:lobby", "limit": "many"}), 107),
        (json!({"channel": "room:lobby", "since": {"offset": 1, "epoch": "other"}}), 112),
        (json!({"channel": "room:lobby", "limit": 1, "since": {"offset": 0}, "reverse": true}), 107),
        (json!({"channel": "room:lobby", "since": {"ofset": 1}}), 107),
        (json!({"channel": "room:lobby", "since": 7}), 107),
    ] {
        assert_eq!(backend.fails("history", params.clone()).await, code, "{params}");
    }
    assert_eq!(backend.fails("history_remove", json!({"channel": "room:lobby"})).await, 108);
}

#[tokio::test]
async fn subscribe_makes_the_user_a_member() {
    let server = server().await;
    let mut backend = backend(&server).await;
    let (ann, ben) = (user(&server, "Ann").await, user(&server, "Ben").await);
    room(&server, "lobby", ann, RoomKind::Private).await;
    let params = json!({"user": ben.to_string(), "channel": "room:lobby", "client": "", "info": null});
    for _ in 0..2 {
        assert_eq!(backend.call("subscribe", params.clone()).await, json!({}));
    }
    assert_eq!(server.store.members("lobby", ann, None, 9).await.unwrap().count, 2);
    let (room, publication) = server.chat.learned.lock().unwrap().pop().unwrap();
    assert_eq!((publication.kind, publication.user.id), (Kind::Added, backend.bot));
    assert_eq!(server.store.room_named("lobby", ann).await.unwrap().unwrap().0, room);
    assert_eq!(server.notified(), [(ben.to_string(), "joined", "lobby".to_owned())]);
    let cleo = user(&server, "Cleo").await;
    for (params, code) in [
        (json!({"channel": "room:lobby"}), 107),
        (json!({"user": "7x", "channel": "room:lobby"}), 107),
        (json!({"user": "999", "channel": "room:lobby"}), 107),
        (json!({"user": cleo.0, "channel": "room:nowhere"}), 102),
        (json!({"user": cleo.0, "channel": "live:x"}), 108),
        (json!({"user": cleo.0, "channel": "room:lobby", "client": "x"}), 108),
        (json!({"user": cleo.0, "channel": "room:lobby", "data": {"a": 1}}), 108),
    ] {
        assert_eq!(backend.fails("subscribe", params.clone()).await, code, "{params}");
    }
    backend.call("subscribe", json!({"user": cleo.0, "channel": "room:lobby"})).await;
    let dora = user(&server, "Dora").await;
    assert_eq!(backend.fails("subscribe", json!({"user": dora.0, "channel": "room:lobby"})).await, 106, "it is full");
}

#[tokio::test]
async fn info_names_what_the_server_serves() {
    let server = server().await;
    let mut backend = backend(&server).await;
    let info = backend.call("info", json!({})).await;
    let node = &info["nodes"][0];
    let counts = ["num_clients", "num_users", "num_subs", "num_channels"].map(|name| node[name].as_u64());
    assert_eq!(counts, [3, 2, 4, 1].map(Some));
    assert!(node["uptime"].is_u64() && node["version"].is_string() && node["uid"].is_string());
}

#[tokio::test]
async fn a_key_has_a_rate() {
    let limits = Limits { api_rate_per_second: 1, api_burst_limit: 3, ..Limits::default() };
    let server = server_with(Settings { limits, ..settings() }).await;
    let mut backend = backend(&server).await;
    room(&server, "a", backend.bot, RoomKind::Public).await;
    let channels = json!(["room:a", "room:a", "room:a", "room:a", "room:a"]);
    let sent = backend.call("broadcast", json!({"channels": channels, "data": {"text": "x"}})).await;
    let codes: Vec<_> = sent["responses"].as_array().unwrap().iter().map(|it| it["error"]["code"].clone()).collect();
    assert_eq!(codes.iter().filter(|code| code.is_null()).count(), 3, "{codes:?}");
    let refused = backend.raw("/api/info", &[("X-Centrifugo-Error-Mode", "transport")], "{}").await;
    assert_eq!(refused.expect(429)["error"]["code"], 111);
    let mut other = backend_with(&server, "other", "read", UsersBy::Id).await;
    other.call("info", json!({})).await;
}

#[tokio::test]
async fn what_a_key_does_is_in_the_audit_log() {
    let server = server().await;
    let mut backend = backend(&server).await;
    room(&server, "a", backend.bot, RoomKind::Public).await;
    tokio::spawn(Arc::clone(&server.service).keep_audit());
    for _ in 0..3 {
        backend.call("publish", json!({"channel": "room:a", "data": {"text": "x"}})).await;
    }
    backend.fails("publish", json!({"channel": "room:b", "data": {"text": "x"}})).await;
    backend.call("broadcast", json!({"channels": ["room:a"], "data": {"text": "x"}})).await;
    backend.fails("nothing", json!({})).await;
    backend.fails("subscribe", json!({"user": "7", "channel": "room:a"})).await;
    server.service.finish_audit().await;
    let written = async {
        loop {
            let rows = server.store.audit(100).await.unwrap();
            if rows.iter().map(|row| row.times).sum::<u64>() >= 7 {
                return rows;
            }
        }
    };
    let mut times = std::collections::BTreeMap::new();
    for row in soon(written).await {
        assert_eq!(&*row.actor, "key key-all");
        *times.entry((row.action.into_owned(), row.target, row.outcome)).or_insert(0) += row.times;
    }
    let times =
        times.iter().map(|((action, target, outcome), times)| (action.as_str(), target.as_str(), *outcome, *times));
    let expected = [
        ("broadcast", "room:a", 0, 1),
        ("publish", "room:a", 0, 3),
        ("publish", "room:b", 102, 1),
        ("subscribe", "7 room:a", 107, 1),
        ("unknown", "nothing", 104, 1),
    ];
    assert_eq!(times.collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn with_a_port_for_operators_the_api_is_served_there_only() {
    let server = server_with(Settings { has_admin_port: true, ..settings() }).await;
    let mut backend = backend(&server).await;
    assert_eq!(backend.raw("/api/info", &[], "{}").await.status, 404);
    assert_eq!(backend.raw("/api", &[], "{}").await.status, 404);
    backend.client = server.admin().await;
    backend.call("info", json!({})).await;
}

#[tokio::test]
async fn users_and_rooms_exist_before_anybody_connects() {
    let server = server().await;
    let mut backend = backend(&server).await;
    let ann = backend.call("create_user", json!({"username": "Ann"})).await;
    let id = ann["user"].as_str().unwrap().to_owned();
    assert_eq!(ann, json!({"user": id, "username": "Ann"}));
    let created = backend.call("create_room", json!({"name": "Team A", "private": true, "size": 5, "owner": id})).await;
    assert_eq!((&created["channel"], &created["offset"]), (&json!("room:team a"), &json!(0)));
    assert_eq!(server.notified(), [(id.clone(), "joined", "team a".to_owned())]);
    let ben = backend.call("create_user", json!({"username": "Ben"})).await["user"].clone();
    backend.call("subscribe", json!({"user": ben, "channel": "room:team a"})).await;
    backend.call("create_room", json!({"name": "own", "title": "The bot's own"})).await;
    let owned = server.store.room("own", backend.bot).await.unwrap().unwrap();
    assert_eq!((owned.title.as_str(), owned.kind), ("The bot's own", RoomKind::Public));
    for (method, params, code) in [
        ("create_user", json!({}), 107),
        ("create_user", json!({"username": "ANN"}), 113),
        ("create_user", json!({"username": "admin"}), 107),
        ("create_user", json!({"username": "x".repeat(33)}), 107),
        ("rename_user", json!({"user": id}), 107),
        ("rename_user", json!({"user": id, "username": "ben"}), 113),
        ("rename_user", json!({"user": "999", "username": "x"}), 107),
        ("rename_user", json!({"user": id, "username": "a\u{202e}b"}), 107),
        ("create_room", json!({}), 107),
        ("create_room", json!({"name": "team A"}), 113),
        ("create_room", json!({"name": "live:x"}), 107),
        ("create_room", json!({"name": "x", "title": "a\nb"}), 107),
        ("create_room", json!({"name": "x", "size": 0}), 107),
        ("create_room", json!({"name": "x", "size": "many"}), 107),
        ("create_room", json!({"name": "x", "owner": "999"}), 107),
        ("create_room", json!({"name": "x", "private": "yes"}), 107),
    ] {
        assert_eq!(backend.fails(method, params.clone()).await, code, "{method} {params}");
    }
}

/// Tokens carry the name that their user had when they were issued.
#[tokio::test]
async fn a_renamed_user_keeps_their_tokens() {
    let server = server().await;
    let mut backend = backend(&server).await;
    let mut ann = server.sign_up("ann").await;
    let mut minted = server.client().await;
    minted.token = Some(server.tokens.mint("ann", server.store.clock().unix_s(), 3600));
    let renamed = backend.call("rename_user", json!({"user": ann.user_id, "username": "Anna"})).await;
    assert_eq!(renamed, json!({"user": ann.user_id, "username": "Anna"}));
    assert_eq!(server.notified(), [(ann.user_id.clone(), "renamed", "Anna".to_owned())]);
    for client in [&mut ann, &mut minted] {
        let me = client.get("/me").await.expect(200);
        assert_eq!((&me["user"]["id"], &me["user"]["username"]), (&renamed["user"], &json!("Anna")));
    }
    let refreshed = ann.call("/token/refresh").await.expect(200);
    assert_eq!(refreshed["user"]["username"], "Anna");
    // Nobody else gets the former name.
    let body = json!({"username": "ann", "email": "other@example.org", "password": "correct horse"});
    server.client().await.post("/user/signup", body).await.assert_error(409, "username_taken", Some("username"));
    // A token that was issued before with a name that was never this user's is no token of this user.
    let other = server.store.ensure_user("ben", "ben").await.unwrap();
    let mut account = server.store.account(ann.user_id.parse().map(UserId).unwrap()).await.unwrap().unwrap();
    account.username = other.username;
    let now = server.store.clock().unix_s();
    ann.token = Some(server.tokens.issue(&account, crate::support::term(now, 3600)));
    ann.call("/token/refresh").await.assert_error(401, "token_invalid", None);
}

#[tokio::test]
async fn the_tokens_of_a_user_are_taken_away() {
    let server = server().await;
    let mut backend = backend(&server).await;
    let mut ann = server.sign_up("ann").await;
    let user = json!({"user": ann.user_id});
    backend.call("invalidate_user_tokens", user.clone()).await;
    ann.get("/me").await.assert_error(401, "token_invalid", None);
    let credentials = json!({"username": "ann", "password": "correct horse"});
    let signed_in = ann.post("/user/signin", credentials).await.expect(200);
    ann.token = signed_in["token"].as_str().map(str::to_owned);
    ann.get("/me").await.expect(200);
    for (params, code) in [
        (json!({}), 107),
        (json!({"user": "999"}), 107),
        (json!({"user": ann.user_id, "expire_at": 7}), 108),
        (json!({"user": ann.user_id, "usr": 7}), 107),
    ] {
        assert_eq!(backend.fails("invalidate_user_tokens", params.clone()).await, code, "{params}");
    }
    ann.get("/me").await.expect(200);
}

#[tokio::test]
async fn live_channels_and_users_are_published_to() {
    let server = server().await;
    let mut backend = backend(&server).await;
    let ann = user(&server, "Ann").await;
    let published = backend.call("publish", json!({"channel": "live:x", "data": [1, null]})).await;
    assert_eq!(published, json!({}));
    let live = server.chat.published_live.lock().unwrap().pop().unwrap();
    assert_eq!((live.0.as_str(), &live.1[..], live.2.map(|it| it.id)), ("x", &b"[1,null]"[..], Some(backend.bot)));
    for channel in [format!("user:{ann}"), "user:999".to_owned()] {
        let params = json!({"channel": channel, "data": {"kind": "order"}, "skip_history": true});
        assert_eq!(backend.call("publish", params).await, json!({}));
    }
    let notified = server.chat.notified.lock().unwrap().clone();
    assert_eq!(notified, [(ann, UserEvent::Data { data: r#"{"kind":"order"}"#.into() })]);
    for (error, code) in
        [(ChatError::Overloaded, 100), (ChatError::NotKnown, 100), (ChatError::Invalid("wrong".to_owned()), 107)]
    {
        *server.chat.chat_error.lock().unwrap() = Some(error);
        assert_eq!(backend.fails("publish", json!({"channel": "live:x", "data": 1})).await, code);
    }
    assert_eq!(backend.fails("publish", json!({"channel": "user:x", "data": 1})).await, 107);
    assert_eq!(backend.fails("publish", json!({"channel": "live:x"})).await, 107);
}

#[tokio::test]
async fn presence_is_read_without_a_membership() {
    let server = server().await;
    let mut backend = backend(&server).await;
    let ann = user(&server, "Ann").await;
    let room = room(&server, "lobby", ann, RoomKind::Private).await;
    let present =
        |client: &str| PresentClient { client: client.to_owned(), user: User { id: ann, username: "Ann".into() } };
    let clients = vec![present("c1"), present("c2")];
    server.chat.present.lock().unwrap().insert(Channel::Room(room.id), clients);
    *server.chat.channels.lock().unwrap() = vec![("live:x".to_owned(), 1), ("room:lobby".to_owned(), 2)];
    let presence = backend.call("presence", json!({"channel": "room:lobby"})).await;
    let object = |client: &str| json!({"client": client, "user": ann.to_string(), "conn_info": {"username": "Ann"}});
    assert_eq!(presence, json!({"presence": {"c1": object("c1"), "c2": object("c2")}}));
    let stats = backend.call("presence_stats", json!({"channel": "room:lobby"})).await;
    assert_eq!(stats, json!({"num_clients": 2, "num_users": 1}));
    let stats = backend.call("presence_stats", json!({"channel": "live:x"})).await;
    assert_eq!(stats, json!({"num_clients": 0, "num_users": 0}));
    let channels = backend.call("channels", json!({"pattern": ""})).await;
    let expected = json!({"live:x": {"num_clients": 1}, "room:lobby": {"num_clients": 2}});
    assert_eq!(channels, json!({"channels": expected}));
    assert_eq!(server.chat.commands.lock().unwrap().pop().unwrap(), "channels None");
    backend.call("channels", json!({"pattern": "live:*"})).await;
    assert_eq!(server.chat.commands.lock().unwrap().pop().unwrap(), r#"channels Some("live:*")"#);
    for method in ["presence", "presence_stats"] {
        for (channel, code) in [(json!("room:nowhere"), 102), (json!("user:1"), 108), (json!(""), 107), (json!(7), 107)]
        {
            assert_eq!(backend.fails(method, json!({"channel": channel})).await, code, "{method} {channel}");
        }
    }
    assert_eq!(backend.fails("channels", json!({"pattern": 7})).await, 107);
}

#[tokio::test]
async fn the_connections_of_a_user_are_managed() {
    let server = server().await;
    let mut backend = backend(&server).await;
    let ann = user(&server, "Ann").await;
    for (method, params, command) in [
        ("unsubscribe", json!({"channel": "room:Lobby"}), format!("unsubscribe {ann} room:lobby None")),
        ("unsubscribe", json!({"channel": "live:x", "client": "c"}), format!(r#"unsubscribe {ann} live:x Some("c")"#)),
        ("disconnect", json!({"client": ""}), format!("disconnect {ann} None [] 3503 force disconnect")),
        (
            "disconnect",
            json!({"client": "c", "whitelist": ["d"], "disconnect": {"code": 4500, "reason": "away"}}),
            format!(r#"disconnect {ann} Some("c") ["d"] 4500 away"#),
        ),
        ("refresh", json!({"expired": true}), format!("refresh {ann} None Now")),
        ("refresh", json!({"client": "c", "expire_at": 7}), format!(r#"refresh {ann} Some("c") At(7000)"#)),
        ("refresh", json!({}), format!("refresh {ann} None Never")),
    ] {
        let mut params = params;
        params["user"] = ann.to_string().into();
        assert_eq!(backend.call(method, params.clone()).await, json!({}));
        assert_eq!(server.chat.commands.lock().unwrap().pop().unwrap(), command);
        // Somebody who has never been here has no connections.
        params["user"] = "999".into();
        assert_eq!(backend.call(method, params).await, json!({}));
        assert!(server.chat.commands.lock().unwrap().is_empty());
    }
    for (method, params, code) in [
        ("unsubscribe", json!({"user": "1"}), 107),
        ("unsubscribe", json!({"channel": "room:x"}), 107),
        ("unsubscribe", json!({"user": "1", "channel": "x"}), 102),
        ("unsubscribe", json!({"user": "1", "channel": "user:1"}), 108),
        ("unsubscribe", json!({"user": "1", "channel": "room:x", "session": "s"}), 108),
        ("disconnect", json!({}), 107),
        ("disconnect", json!({"user": "x"}), 107),
        ("disconnect", json!({"user": "1", "whitelist": "c"}), 107),
        ("disconnect", json!({"user": "1", "whitelist": vec!["c"; 65]}), 107),
        ("disconnect", json!({"user": "1", "disconnect": {"code": 99}}), 107),
        ("disconnect", json!({"user": "1", "disconnect": {"kode": 3000}}), 107),
        ("disconnect", json!({"user": "1", "disconnect": {"code": 5000}}), 107),
        ("disconnect", json!({"user": "1", "disconnect": {"code": 2999}}), 107),
        ("disconnect", json!({"user": "1", "disconnect": {"code": "4000"}}), 107),
        ("disconnect", json!({"user": "1", "disconnect": {"reason": "x".repeat(124)}}), 107),
        ("disconnect", json!({"user": "1", "disconnect": {"reason": "404"}}), 107),
        ("disconnect", json!({"user": "1", "disconnect": {"reason": "{\"reconnect\":true}"}}), 107),
        ("disconnect", json!({"user": "1", "disconnect": 4000}), 107),
        ("disconnect", json!({"user": "1", "session": "s"}), 108),
        ("refresh", json!({"user": "1", "expire_at": "soon"}), 107),
        ("refresh", json!({"user": "1", "expired": 1}), 107),
    ] {
        assert_eq!(backend.fails(method, params.clone()).await, code, "{method} {params}");
    }
}

#[tokio::test]
async fn a_blocked_user_has_no_valid_token() {
    let server = server().await;
    let mut backend = backend(&server).await;
    let mut ann = server.sign_up("ann").await;
    let user = json!({"user": ann.user_id});
    let credentials = json!({"username": "ann", "password": "correct horse"});
    backend.call("block_user", user.clone()).await;
    assert_eq!(ann.get("/me").await.status, 401);
    assert_eq!(ann.post("/user/signin", credentials.clone()).await.status, 403);
    backend.call("unblock_user", user.clone()).await;
    ann.post("/user/signin", credentials).await.expect(200);
    for method in ["block_user", "unblock_user"] {
        for (params, code) in [
            (json!({}), 107),
            (json!({"user": "999"}), 107),
            (json!({"user": ann.user_id, "expire_at": 7}), 108),
            (json!({"user": ann.user_id, "usr": 7}), 107),
        ] {
            assert_eq!(backend.fails(method, params.clone()).await, code, "{method} {params}");
        }
    }
}

/// Neither the audit log's memory nor the server was protected from methods that do not exist.
#[tokio::test]
async fn methods_that_do_not_exist_are_counted_too() {
    let limits = Limits { api_rate_per_second: 1, api_burst_limit: 3, ..Limits::default() };
    let server = server_with(Settings { limits, ..settings() }).await;
    let mut backend = backend(&server).await;
    let commands: Vec<Value> = (0..6).map(|number| json!({format!("nothing-{number}"): {}})).collect();
    let body = json!({"commands": commands}).to_string();
    let answer = backend.raw("/api/batch", &[], &body).await.expect(200);
    let codes: Vec<u64> =
        answer["replies"].as_array().unwrap().iter().map(|reply| reply["error"]["code"].as_u64().unwrap()).collect();
    assert_eq!(codes, [104, 104, 104, 111, 111, 111]);
    server.service.finish_audit().await;
    let mut noted: Vec<_> =
        server.store.audit(100).await.unwrap().into_iter().map(|row| (row.target, row.times)).collect();
    noted.sort();
    let expected = [("", 3), ("nothing-0", 1), ("nothing-1", 1), ("nothing-2", 1)];
    assert_eq!(noted, expected.map(|(target, times)| (target.to_owned(), times)), "refused ones are counted together");
}

/// A batch went on for as long as it liked.
#[tokio::test]
async fn a_key_that_is_removed_ends_what_it_is_doing() {
    let server = server().await;
    let mut backend = backend(&server).await;
    room(&server, "a", backend.bot, RoomKind::Public).await;
    let (started, mut has_started) = tokio::sync::mpsc::unbounded_channel();
    let (open, gate) = tokio::sync::watch::channel(false);
    *server.chat.gate.lock().unwrap() = Some((started, gate));
    let mut other = Backend { client: server.client().await, key: "all", bot: backend.bot };
    let batch = tokio::spawn(async move {
        let publish = json!({"publish": {"channel": "room:a", "data": {"text": "x"}}});
        let body = json!({"commands": [publish, publish, publish]}).to_string();
        backend.raw("/api/batch", &[], &body).await.expect(200)
    });
    soon(has_started.recv()).await.unwrap();
    assert!(server.store.remove_api_key("key-all").await.unwrap());
    soon(async { while other.raw("/api/info", &[], "").await.status != 401 {} }).await;
    open.send(true).unwrap();
    let answer = soon(batch).await.unwrap();
    let codes: Vec<Option<u64>> =
        answer["replies"].as_array().unwrap().iter().map(|reply| reply["error"]["code"].as_u64()).collect();
    assert_eq!(codes, [None, Some(103), Some(103)], "{answer}");
}

/// A thousand pages of history were put together in memory.
#[tokio::test]
async fn the_answers_to_one_request_have_a_bound() {
    let limits = Limits { api_response_limit_bytes: 4096, ..Limits::default() };
    let server = server_with(Settings { limits, ..settings() }).await;
    let mut backend = backend(&server).await;
    room(&server, "a", backend.bot, RoomKind::Public).await;
    backend.call("publish", json!({"channel": "room:a", "data": {"text": "x".repeat(1500)}})).await;
    let history = json!({"history": {"channel": "room:a", "limit": 1}});
    for parallel in [false, true] {
        let body = json!({"commands": vec![history.clone(); 50], "parallel": parallel}).to_string();
        let answer = backend.raw("/api/batch", &[], &body).await;
        assert!(answer.body.len() < 30_000, "{}", answer.body.len());
        let replies = answer.expect(200)["replies"].clone();
        let read = replies.as_array().unwrap().iter().filter(|reply| reply["history"].is_object()).count();
        assert!((3..=3 + 4).contains(&read), "{read}");
        let refused = replies.as_array().unwrap().iter().find(|reply| reply["error"].is_object()).unwrap();
        assert_eq!(refused["error"]["code"], 106);
        assert!(refused["error"]["message"].as_str().unwrap().contains("api_response_limit_bytes"), "{refused}");
    }
    let line = json!({"method": "history", "params": {"channel": "room:a", "limit": 1}}).to_string();
    let answer = backend.raw("/api", &[], &line.repeat(50)).await;
    assert!(answer.body.len() < 30_000 && answer.text().lines().count() == 50);
    // Each request is counted by itself.
    backend.call("history", json!({"channel": "room:a", "limit": 1})).await;
}

#[tokio::test]
async fn a_live_channel_that_nobody_can_join_is_an_error() {
    let server = server().await;
    let mut backend = backend(&server).await;
    for name in ["Lobby/x", "a\nb", &"x".repeat(256), ""] {
        for (method, params) in [
            ("publish", json!({"data": 1})),
            ("presence", json!({})),
            ("presence_stats", json!({})),
            ("unsubscribe", json!({"user": "1"})),
        ] {
            let mut params = params;
            params["channel"] = format!("live:{name}").into();
            assert_eq!(backend.fails(method, params).await, 102, "{method} {name}");
        }
    }
    backend.call("publish", json!({"channel": "live:lobby/x", "data": 1})).await;
}

#[tokio::test]
async fn the_longest_pages_tell_that_there_is_more() {
    let server = server_with(Settings {
        limits: Limits { history_page_limit: 1_000, response_limit_bytes: 64 << 20, ..Limits::default() },
        ..settings()
    })
    .await;
    let mut backend = backend(&server).await;
    let mut client = server.sign_up("ann").await;
    let ann = UserId(client.user_id.parse().unwrap());
    let new = |name: String, owner| NewRoom { name, title: String::new(), kind: RoomKind::Public, size: 5_000, owner };
    let mut users = vec![ann];
    for n in 0..1_000 {
        let user = server.store.ensure_user(&format!("u{n}"), &format!("u{n}")).await.unwrap().id;
        server.store.create_room(new(format!("r{n}"), user)).await.unwrap();
        users.push(user);
    }
    server.store.create_room(new("all".to_owned(), ann)).await.unwrap();
    let wanted: Vec<_> = users.iter().map(|user| ("all".to_owned(), *user)).collect();
    for wanted in wanted.chunks(100) {
        assert!(server.store.admit(wanted).await.unwrap().iter().all(Result::is_ok));
    }
    let length = |page: &Value, list: &str| page[list].as_array().unwrap().len();

    let page = backend.call("members", json!({"channel": "room:all", "limit": 1_000})).await;
    assert_eq!((length(&page, "members"), &page["total"]), (1_000, &json!(1_001)));
    let params = json!({"channel": "room:all", "limit": 1_000, "after": page["next"]});
    let rest = backend.call("members", params).await;
    assert_eq!((length(&rest, "members"), rest.get("next")), (1, None));
    for (path, list) in [("/rooms", "rooms"), ("/rooms/all/members", "members")] {
        let page = client.get(&format!("{path}?limit=1000")).await.expect(200);
        assert_eq!((length(&page, list), &page["more"]), (1_000, &json!(true)), "{path}");
    }
}

#[tokio::test]
async fn members_are_listed_and_removed_and_rooms_deleted() {
    let server = server().await;
    let mut backend = backend(&server).await;
    let owner = server.store.ensure_user("Olga", "olga").await.unwrap().id;
    let Room { id, epoch, .. } = room(&server, "r", owner, RoomKind::Private).await;
    let ann = backend.call("create_user", json!({"username": "Ann"})).await["user"].clone();
    let channel = "room:R";
    backend.call("subscribe", json!({"user": ann, "channel": channel})).await;
    let page = backend.call("members", json!({"channel": channel, "limit": 1})).await;
    assert_eq!((&page["total"], page["members"].as_array().unwrap().len()), (&json!(2), 1), "{page}");
    let first = &page["members"][0];
    assert_eq!((&first["user"], &first["username"]), (&json!(owner.to_string()), &json!("Olga")));
    assert!(first["role"] == "owner" && first["joined_at"].is_u64(), "{first}");
    let rest = backend.call("members", json!({"channel": channel, "after": page["next"]})).await;
    assert_eq!((&rest["members"][0]["user"], &rest["members"][0]["role"]), (&ann, &json!("member")));
    assert_eq!((rest["members"].as_array().unwrap().len(), &rest["next"]), (1, &Value::Null));

    let before = server.chat.learned.lock().unwrap().len();
    for _ in 0..2 {
        // Again, it changes nothing.
        let params = json!({"user": ann, "channel": channel, "epoch": &*epoch.0});
        assert_eq!(backend.call("remove_member", params).await, json!({}));
    }
    let learned = server.chat.learned.lock().unwrap()[before..].to_vec();
    assert_eq!(learned.len(), 1);
    assert_eq!((learned[0].0, learned[0].1.kind, learned[0].1.user.id), (id, Kind::Removed, backend.bot));
    assert_eq!(backend.call("members", json!({"channel": channel})).await["total"], 1);

    let (code, message) = backend.error("remove_member", json!({"user": owner.to_string(), "channel": channel})).await;
    assert_eq!((code, message.as_str()), (103, "not allowed: an owner can't be removed"));
    for (method, params, code) in [
        ("remove_member", json!({"user": ann}), 107),
        ("remove_member", json!({"channel": channel}), 107),
        ("remove_member", json!({"user": "999", "channel": channel}), 107),
        ("remove_member", json!({"user": ann, "channel": "room:x"}), 102),
        ("remove_member", json!({"user": ann, "channel": "live:x"}), 108),
        ("members", json!({}), 107),
        ("members", json!({"channel": "room:x"}), 102),
        ("members", json!({"channel": channel, "after": "x"}), 107),
        ("members", json!({"channel": channel, "limit": "x"}), 107),
        ("delete_room", json!({}), 107),
        ("delete_room", json!({"channel": "user:1"}), 108),
        ("delete_room", json!({"channel": "room:x"}), 102),
        ("delete_room", json!({"channel": channel, "force": true}), 107),
        ("delete_room", json!({"channel": channel, "epoch": "another"}), 112),
        ("delete_room", json!({"channel": "room:x", "epoch": "another"}), 102),
        ("remove_member", json!({"user": ann, "channel": channel, "epoch": "another"}), 112),
    ] {
        assert_eq!(backend.fails(method, params.clone()).await, code, "{method} {params}");
    }
    assert_eq!(backend.call("delete_room", json!({"channel": channel, "epoch": &*epoch.0})).await, json!({}));
    assert_eq!(*server.chat.closed.lock().unwrap(), [id]);
    assert_eq!(backend.fails("delete_room", json!({"channel": channel})).await, 102);
}

#[tokio::test]
async fn a_key_names_users_as_the_embedder_does() {
    let server = server_with(Settings { subject_issuer: Some("hmac".to_owned()), ..settings() }).await;
    let mut backend = backend_with(&server, "subjects", "publish,read,manage,impersonate", UsersBy::Subject).await;
    // Before anybody connects.
    let created = backend.call("create_user", json!({"user": "a-1", "username": "Ann"})).await;
    assert_eq!(created, json!({"user": "a-1", "username": "Ann"}));
    let identity = Identity { issuer: "hmac".into(), subject: "a-1".into() };
    let ann = server.store.account_of(&identity).await.unwrap().unwrap();
    assert_eq!(backend.fails("create_user", json!({"user": "a-1", "username": "Other"})).await, 113);
    // A number is a subject, too, and a name that is taken gets a number.
    let created = backend.call("create_user", json!({"user": 17, "username": "Ann"})).await;
    assert_eq!(created["user"], "17");
    assert_ne!(created["username"], "Ann");
    let renamed = backend.call("rename_user", json!({"user": "a-1", "username": "Anna"})).await;
    assert_eq!(renamed, json!({"user": "a-1", "username": "Anna"}));

    backend.call("create_room", json!({"name": "r", "owner": "a-1"})).await;
    backend.call("subscribe", json!({"user": "17", "channel": "room:r"})).await;
    let data = json!({"text": "hello", "as": "a-1"});
    backend.call("publish", json!({"channel": "room:r", "data": data})).await;
    assert_eq!(server.chat.published.lock().unwrap().last().unwrap().user.id, ann.id);
    let members = backend.call("members", json!({"channel": "room:r"})).await;
    let users: Vec<&Value> = members["members"].as_array().unwrap().iter().map(|member| &member["user"]).collect();
    assert_eq!(users, ["a-1", "17"]);
    // The bot is nobody there.
    backend.call("publish", json!({"channel": "room:r", "data": {"text": "from the bot"}})).await;
    let members = backend.call("members", json!({"channel": "room:r"})).await;
    assert!(members["members"].as_array().unwrap().iter().any(|member| member["user"] == ""), "{members}");

    for (method, params, code) in [
        ("create_user", json!({"username": "x"}), 107),
        ("create_user", json!({"user": "x".repeat(256), "username": "x"}), 107),
        ("create_user", json!({"user": "a\n", "username": "x"}), 107),
        ("create_user", json!({"user": "new", "username": "a\nb"}), 107),
        ("subscribe", json!({"user": "nobody", "channel": "room:r"}), 107),
        ("publish", json!({"channel": "room:r", "data": {"text": "x", "as": "nobody"}}), 107),
    ] {
        assert_eq!(backend.fails(method, params.clone()).await, code, "{method} {params}");
    }
    let (_, message) = backend.error("block_user", json!({"user": "nobody"})).await;
    assert_eq!(message, "there is no user 'nobody'; create_user creates one");

    // Keys of other kinds have no use for it, and a server without other systems has none for this key.
    let mut other = backend_with(&server, "ids", "manage", UsersBy::Id).await;
    assert_eq!(other.fails("create_user", json!({"user": "b-2", "username": "Ben"})).await, 107);
    let lone = crate::support::server().await;
    let mut backend = backend_with(&lone, "lone", "manage", UsersBy::Subject).await;
    let (code, message) = backend.error("block_user", json!({"user": "a-1"})).await;
    assert!(code == 108 && message.contains("--auth-hmac-key-file"), "{message}");
}
