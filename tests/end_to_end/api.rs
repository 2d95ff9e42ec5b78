//! The server API with a real server: keys made by the command, messages that reach rooms, and Centrifugo's own server
//! library for Python.

use crate::centrifuge::Wire;
use crate::client::{Http, Received, Response, User, Ws, within};
use crate::databases::Kind;
use crate::issuers;
use crate::nodes::Cluster;
use crate::sdk_client::installed;
use crate::server::{Server, assert_contains, number, run, text, until};
use crate::two_nodes::{alone, are_two};
use serde_json::{Value, json};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;
use tokio::process::Command;

on_each_database! {
    a_key_publishes_until_it_is_removed
    the_library_of_centrifugo_for_python_works_unchanged
    requests_of_other_libraries_are_answered_as_they_expect
    keys_are_managed_without_a_server
    the_audit_log_survives_a_stop
    what_backends_close_is_closed_on_every_node
    clients_of_both_protocols_are_told_the_same
    large_batches_are_answered_completely
    users_are_prepared_before_they_connect
}

/// Runs `uproar api-key` for a server.
pub async fn api_key(server: &Server, arguments: &[&str]) -> Output {
    let data = server.setup.data();
    let database = server.setup.arguments();
    let database = database.iter().skip_while(|word| *word != "--database").nth(1).cloned();
    let mut words = vec!["api-key"];
    words.extend(arguments);
    words.extend(["--data", data.to_str().unwrap()]);
    if let Some(database) = &database {
        words.extend(["--database", database]);
    }
    run(&words).await
}

#[track_caller]
pub fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap().trim_end().to_owned()
}

#[track_caller]
fn failure(output: &Output) -> String {
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{output:?}");
    String::from_utf8(output.stderr.clone()).unwrap()
}

async fn send(port: u16, path: &str, key: &str, body: &Value) -> Response {
    let mut http = Http::connect(port).await.expect("no connection");
    http.request("POST", path, &[("X-API-Key", key)], Some(body)).await.expect("an answer")
}

pub async fn call(server: &Server, method: &str, key: &str, params: Value) -> Value {
    let answer = send(server.port, &format!("/api/{method}"), key, &params).await.expect(200);
    assert!(answer["error"].is_null(), "{method} {params}: {answer}");
    answer["result"].clone()
}

async fn a_key_publishes_until_it_is_removed(kind: Kind) {
    let server = Server::start(kind, &[]).await;
    let ann = server.sign_up("ann").await;
    server.create_room(&ann, "r").await;
    let mut ws = server.join(&ann, "room=r").await;
    let key = printed(&api_key(&server, &["add", "shop", "--user", "Shop Bot", "--scope", "publish,read"]).await);
    assert!(key.starts_with("uproar_") && key.len() > 60, "{key}");

    let params = json!({"channel": "room:r", "data": {"text": "from the shop"}, "idempotency_key": "order-1"});
    let sent = call(&server, "publish", &key, params.clone()).await;
    let event = ws.event().await;
    assert_eq!((&event["text"], &event["user"]["username"]), (&json!("from the shop"), &json!("Shop Bot")), "{event}");
    assert_eq!((&event["offset"], &json!(ws.epoch())), (&sent["offset"], &sent["epoch"]));
    assert_eq!(call(&server, "publish", &key, params).await, sent);
    assert_eq!(server.history(&ann, "r").await.len(), 1);
    let info = call(&server, "info", &key, json!({})).await;
    assert!(number(&info["nodes"][0]["uptime"]) < 600 && info["nodes"][0]["version"].is_string(), "{info}");
    // On two nodes, it may be the other one that answers.
    assert!(are_two() || number(&info["nodes"][0]["num_clients"]) == 1, "{info}");
    let denied = send(server.port, "/api/subscribe", &key, &json!({"user": "1", "channel": "room:r"})).await;
    assert_eq!(denied.expect(200)["error"]["code"], 103);

    let listed = printed(&api_key(&server, &["list"]).await);
    assert_contains(&listed, &["shop", "Shop Bot", "publish,read", "id"]);
    assert!(!listed.contains(&key));
    assert_contains(&failure(&api_key(&server, &["add", "shop", "--user", "x"]).await), &["shop", "already"]);
    assert_contains(&failure(&api_key(&server, &["remove", "other"]).await), &["no API key 'other'"]);
    printed(&api_key(&server, &["remove", "shop"]).await);
    let is_refused = async || send(server.port, "/api/info", &key, &json!({})).await.status == 401;
    // With two nodes, by the other one, too: each knows the key for up to a second.
    until("the key is refused", async || is_refused().await && is_refused().await).await;
    assert!(!server.setup.log().contains(&key), "a key is in the log");
    let has_words = async || {
        let log = printed(&api_key(&server, &["log"]).await);
        ["operator", "add_api_key", "remove_api_key", "key shop", "publish", "room:r", "error 103"]
            .iter()
            .all(|word| log.contains(word))
    };
    until("the audit log has it all", has_words).await;
}

async fn the_library_of_centrifugo_for_python_works_unchanged(kind: Kind) {
    let server = Server::start(kind, &[]).await;
    let ann = server.sign_up("ann").await;
    server.create_room(&ann, "r").await;
    let _ws = server.join(&ann, "room=r").await;
    let scopes = "publish,read,manage,impersonate";
    let added = api_key(&server, &["add", "cent", "--user", "bot", "--scope", scopes, "--users", "username"]).await;
    let (key, url) = (printed(&added), format!("http://127.0.0.1:{}/api", server.port));
    let reader = printed(&api_key(&server, &["add", "reader", "--user", "bot", "--scope", "read"]).await);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk/cent_surface.py");
    let mut command = Command::new(installed("python/bin/python"));
    command.arg("-B").arg(script).args([&url, &key, &reader, &"ann".to_owned()]).kill_on_drop(true);
    let output = within("the script ends", command.output()).await.unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "done\n", "{errors}\n{}", server.setup.log());
}

/// Requests as the libraries send them, header by header.
async fn requests_of_other_libraries_are_answered_as_they_expect(kind: Kind) {
    let server = Server::start(kind, &[]).await;
    let ann = server.sign_up("ann").await;
    server.create_room(&ann, "r").await;
    let key = printed(&api_key(&server, &["add", "k", "--user", "bot"]).await);
    let post = async |path: &str, headers: &[(&str, &str)], body: &str| {
        let mut http = Http::connect(server.port).await.unwrap();
        let mut request = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n");
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        request += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        http.write(request.as_bytes()).await.unwrap();
        let answer = http.receive().await.unwrap();
        assert_eq!((answer.status, answer.header("Content-Type")), (200, Some("application/json")), "{path} {body}");
        String::from_utf8(answer.body.clone()).unwrap()
    };
    let apikey = format!("apikey {key}");
    let (old, new) = ([("Authorization", apikey.as_str())], [("X-API-Key", key.as_str())]);
    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_else(|_| panic!("{text}"));

    // Both headers, with both forms.
    for headers in [&old, &new] {
        assert!(json(&post("/api/info", headers, "{}").await)["result"]["nodes"].is_array());
        assert!(json(&post("/api", headers, r#"{"method":"info","params":{}}"#).await)["result"]["nodes"].is_array());
    }

    // gocent 3: a pipe of commands with a line each. It decodes as many replies as it sent commands.
    let pipe = "{\"method\":\"publish\",\"params\":{\"channel\":\"room:r\",\"data\":{\"text\":\"go\"}}}\n\
                {\"method\":\"history\",\"params\":{\"channel\":\"room:r\",\"limit\":1,\"reverse\":true}}\n\
                {\"method\":\"info\",\"params\":{}}\n";
    let answer = post("/api", &old, pipe).await;
    let replies: Vec<Value> = answer.lines().map(json).collect();
    assert_eq!(replies.len(), 3, "{answer}");
    assert_eq!(replies[1]["result"]["publications"][0]["data"]["text"], "go");
    assert!(replies[2]["result"]["nodes"].is_array());

    // cent.js: one command, without a line end. It takes `result`.
    let command = r#"{"method":"publish","params":{"channel":"room:r","data":{"text":"js"}}}"#;
    assert!(json(&post("/api", &old, command).await)["result"]["offset"].is_u64());

    // phpcent: what was not given is false, an empty text or an empty list.
    let publish = r#"{"channel":"room:r","data":{"text":"php"},"skip_history":false}"#;
    assert!(json(&post("/api/publish", &new, publish).await)["result"]["offset"].is_u64());
    let subscribe = r#"{"channel":"room:r","user":"1","client":""}"#;
    assert_eq!(json(&post("/api/subscribe", &new, subscribe).await), json!({"result": {}}));
    let history = r#"{"channel":"room:r","limit":0,"reverse":false}"#;
    assert!(json(&post("/api/history", &new, history).await)["result"]["epoch"].is_string());
    assert!(json(&post("/api/info", &new, "{}").await)["result"]["nodes"].is_array());

    // rubycent: Faraday parses only what is declared as JSON, and an `error` at the top is raised.
    let publish = r#"{"channel":"room:r","data":{"text":"ruby"},"idempotency_key":"ruby-1"}"#;
    assert!(json(&post("/api/publish", &new, publish).await)["result"]["offset"].is_u64());
    let batch =
        r#"{"commands":[{"publish":{"channel":"room:r","data":{"text":"x"}}},{"publish":{"channel":"x","data":{}}}]}"#;
    let replies = json(&post("/api/batch", &new, batch).await)["replies"].clone();
    assert!(replies[0]["publish"]["offset"].is_u64() && replies[1]["error"]["code"] == 102, "{replies}");
    let unknown = json(&post("/api/history", &new, r#"{"channel":"room:nowhere"}"#).await);
    assert_eq!(unknown["error"]["code"], 102);
    assert!(!text(&unknown["error"]["message"]).is_empty());
}

async fn keys_are_managed_without_a_server(kind: Kind) {
    let mut server = Server::start(kind, &[]).await;
    server.stop().await;
    for (arguments, words) in [
        (&["add", "k"][..], &["--user"][..]),
        (&["add", "--user", "bot"], &["name the key"]),
        (&["add", "a b", "--user", "bot"], &["not a valid name"]),
        (&["add", "k", "--user", "\u{202e}"], &["not a valid user name"]),
        (&["remove"], &["name the key"]),
        (&["list", "k"], &["takes no name"]),
        (&["list", "--user", "bot"], &["--user"]),
        (&["list", "--last", "7"], &["--last"]),
    ] {
        assert_contains(&failure(&api_key(&server, arguments).await), words);
    }
    for arguments in [&["add", "k", "--user", "bot", "--scope", "all"][..], &["add", "k", "--users", "name"], &["x"]] {
        assert_eq!(api_key(&server, arguments).await.status.code(), Some(2), "{arguments:?}");
    }
    assert_eq!(printed(&api_key(&server, &["list"]).await), "");
    let key = printed(&api_key(&server, &["add", "k", "--user", "bot"]).await);
    let removed = printed(&api_key(&server, &["add", "gone", "--user", "bot"]).await);
    printed(&api_key(&server, &["remove", "gone"]).await);
    let server = server.restart().await;
    call(&server, "info", &key, json!({})).await;
    assert_eq!(send(server.port, "/api/info", &removed, &json!({})).await.status, 401);
}

/// On two nodes, Ann and Ben are on different ones, and each call may reach either.
async fn what_backends_close_is_closed_on_every_node(kind: Kind) {
    let server = Server::start(kind, &[]).await;
    let (ann, ben) = (server.sign_up("ann").await, server.sign_up("ben").await);
    server.create_room(&ann, "r").await;
    let key = printed(&api_key(&server, &["add", "crm", "--user", "CRM", "--scope", "publish,read,manage"]).await);
    let user = server.user_id(&ben).await;
    let (mut at_ann, mut at_ben) = (server.join(&ann, "room=r").await, server.join(&ben, "room=r").await);
    until("both are present", async || {
        call(&server, "presence_stats", &key, json!({"channel": "room:r"})).await["num_users"] == 2
    })
    .await;
    call(&server, "disconnect", &key, json!({"user": user})).await;
    assert_eq!(at_ben.close_code().await, Some(3503));

    let mut at_ben = server.join(&ben, "room=r").await;
    call(&server, "unsubscribe", &key, json!({"user": user, "channel": "room:r"})).await;
    assert_eq!(at_ben.close_code().await, Some(3503), "a plain connection has only this channel");

    let mut at_ben = server.join(&ben, "room=r").await;
    call(&server, "block_user", &key, json!({"user": user})).await;
    assert_eq!(at_ben.close_code().await, Some(3503));
    let sign_in = json!({"username": "ben", "password": "correct horse"});
    // The other node learns of it a moment later.
    for _ in 0..2 {
        until("the token is refused", async || server.get("/me", &ben.token).await.status == 401).await;
        until("shards refuse it", async || Ws::join(server.port, &ben.token, "room=r").await.is_err()).await;
        assert_eq!(server.post("/user/signin", "", sign_in.clone()).await.error(), (403, "user_blocked".into()));
    }
    call(&server, "unblock_user", &key, json!({"user": user})).await;
    let signed_in = server.post("/user/signin", "", sign_in).await.expect(200);
    let again = User { name: "ben".into(), token: text(&signed_in["token"]) };
    until("the new token is valid", async || server.get("/me", &again.token).await.status == 200).await;
    at_ann.round_trip("Nobody else was disturbed").await;
    let mut at_ben = server.join(&again, "room=r").await;
    at_ben.round_trip("I am back").await;
}

/// On two nodes, the two connections are on different ones.
async fn clients_of_both_protocols_are_told_the_same(kind: Kind) {
    let server = Server::start(kind, &[]).await;
    let (ann, ben) = (server.sign_up("ann").await, server.sign_up("ben").await);
    server.create_room(&ann, "r").await;
    let key = printed(&api_key(&server, &["add", "crm", "--user", "CRM"]).await);
    let user = server.user_id(&ben).await;
    let now_s = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let connect = async || {
        let plain = server.join(&ben, "room=r").await;
        let mut sdk = Wire::connect(&server, &ben).await;
        sdk.result(2, "subscribe", json!({"channel": "room:r"})).await;
        (plain, sdk)
    };
    let closed = async |plain: &mut Ws| {
        loop {
            match plain.next().await {
                Received::Closed(code, reason) => return (code.expect("a code"), reason),
                Received::Text(_) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    for (method, params, code, reason) in [
        ("disconnect", json!({}), 3503, "force disconnect"),
        ("disconnect", json!({"disconnect": {"code": 4123, "reason": "tschüss"}}), 4123, "tschüss"),
        ("disconnect", json!({"whitelist": ["somebody-else"]}), 3503, "force disconnect"),
        ("refresh", json!({"expired": true}), 3005, "connection expired"),
        ("refresh", json!({"expire_at": now_s - 60}), 3005, "connection expired"),
    ] {
        let (mut plain, mut sdk) = connect().await;
        let mut params = params;
        params["user"] = user.as_str().into();
        call(&server, method, &key, params.clone()).await;
        let expected = (code, reason.to_owned());
        assert_eq!((closed(&mut plain).await, sdk.closed().await), (expected.clone(), expected), "{method} {params}");
    }
    // What names no connection of this user does nothing. Nor do presence and clients depend on the node that answers.
    let (mut plain, mut sdk) = connect().await;
    let channel = json!({"channel": "room:r"});
    until("both are present", async || {
        call(&server, "presence_stats", &key, channel.clone()).await["num_clients"] == 2
    })
    .await;
    let present = call(&server, "presence", &key, channel.clone()).await["presence"].clone();
    let clients: Vec<&String> = present.as_object().unwrap().keys().collect();
    let other = server.user_id(&ann).await;
    for (method, params) in [
        ("disconnect", json!({"user": user, "client": "0-0-0"})),
        ("disconnect", json!({"user": user, "client": "not an id"})),
        ("disconnect", json!({"user": other, "client": clients[0]})),
        ("disconnect", json!({"user": user, "whitelist": clients})),
        ("unsubscribe", json!({"user": other, "channel": "room:r"})),
        ("unsubscribe", json!({"user": user, "channel": "room:q"})),
        ("refresh", json!({"user": user, "client": "0-0-0", "expired": true})),
        ("refresh", json!({"user": user, "expire_at": now_s + 3600})),
    ] {
        assert_eq!(call(&server, method, &key, params).await, json!({}));
    }
    assert_eq!(plain.round_trip("still here").await.1, "still here");
    assert_eq!(sdk.push("room:r", "pub").await["data"]["text"], "still here");
    // A plain connection has only this subscription; the other one keeps its connection.
    call(&server, "unsubscribe", &key, json!({"user": user, "channel": "room:R"})).await;
    assert_eq!(closed(&mut plain).await, (3503, "force disconnect".to_owned()));
    let unsubscribed = json!({"code": 2000, "reason": "server unsubscribe"});
    assert_eq!(sdk.push("room:r", "unsubscribe").await, unsubscribed);
    sdk.result(3, "subscribe", json!({"channel": "room:r"})).await;
    call(&server, "block_user", &key, json!({"user": user})).await;
    assert_eq!(sdk.closed().await, (3503, "force disconnect".to_owned()));
}

async fn large_batches_are_answered_completely(kind: Kind) {
    let server = Server::start(kind, &[]).await;
    let key = printed(&api_key(&server, &["add", "crm", "--user", "CRM"]).await);
    call(&server, "create_room", &key, json!({"name": "r"})).await;
    // One after the other, and at the same time: each answer is in its place.
    for parallel in [false, true] {
        let publish = |number: usize| json!({"publish": {"channel": "room:r", "data": {"text": "x", "meta": number}}});
        let commands: Vec<Value> = (0..300).map(publish).collect();
        let body = json!({"commands": commands, "parallel": parallel});
        let replies = send(server.port, "/api/batch", &key, &body).await.expect(200)["replies"].clone();
        let offset = |reply: &Value| reply["publish"]["offset"].as_u64().unwrap_or_else(|| panic!("{reply}"));
        let offsets: Vec<u64> = replies.as_array().unwrap().iter().map(offset).collect();
        assert_eq!(offsets.len(), 300);
        assert!(parallel || offsets.is_sorted(), "{offsets:?}");
        for (number, offset) in [(0, offsets[0]), (150, offsets[150]), (299, offsets[299])] {
            let params = json!({"channel": "room:r", "limit": 1, "since": {"offset": offset - 1}});
            let page = call(&server, "history", &key, params).await;
            assert_eq!(page["publications"][0]["data"]["meta"], number, "{page}");
        }
    }
    // The same key in several requests at once: one of them stores the message, and all get its offset.
    let params = json!({"channel": "room:r", "data": {"text": "once"}, "idempotency_key": "once"});
    let sent = (0..8).map(|_| call(&server, "publish", &key, params.clone()));
    let sent = futures_util::future::join_all(sent).await;
    assert!(sent.iter().all(|result| *result == sent[0]), "{sent:?}");
    assert_eq!(sent[0]["offset"], 601);
    // The older form, with as many lines as are allowed.
    let lines = "{\"method\":\"presence_stats\",\"params\":{\"channel\":\"live:x\"}}\n".repeat(1000);
    let mut http = Http::connect(server.port).await.unwrap();
    let head = format!("POST /api HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\nContent-Length: {}\r\n\r\n", lines.len());
    http.write(format!("{head}{lines}").as_bytes()).await.unwrap();
    let answer = http.receive().await.unwrap();
    let answer = String::from_utf8(answer.body).unwrap();
    assert_eq!(answer.lines().filter(|line| line.starts_with("{\"result\":{\"num_clients\":0")).count(), 1000);
}

async fn the_audit_log_survives_a_stop(kind: Kind) {
    let mut server = Server::start(kind, &[]).await;
    let key = printed(&api_key(&server, &["add", "k", "--user", "bot"]).await);
    for number in 0..3 {
        let channel = format!("room:none-{number}");
        let params = json!({"channel": channel, "data": {"text": "x"}});
        assert_eq!(send(server.port, "/api/publish", &key, &params).await.expect(200)["error"]["code"], 102);
    }
    server.stop().await;
    let log = printed(&api_key(&server, &["log", "--last", "3"]).await);
    assert_contains(&log, &["room:none-0", "room:none-1", "room:none-2", "error 102"]);
}

#[tokio::test]
async fn a_key_in_a_file_may_do_everything() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.key");
    fs::write(&path, "a-key-of-at-least-16-characters\n").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    let mut server = Server::start(Kind::Sqlite, &["--api-key-file", path.to_str().unwrap()]).await;
    let key = "a-key-of-at-least-16-characters";
    let ann = server.sign_up("ann").await;
    server.create_room(&ann, "r").await;
    let data = json!({"text": "hello"});
    call(&server, "publish", key, json!({"channel": "room:r", "data": data})).await;
    let message = server.history(&ann, "r").await.remove(0);
    assert_eq!(message["user"]["username"], "uproar");
    let body = json!({"username": "Uproar", "email": "u@example.org", "password": "correct horse"});
    server.post("/user/signup", "", body).await.expect(422);

    server.stop().await;
    let setup = server.into_setup();
    fs::write(&path, "short\n").unwrap();
    let (code, line) = setup.fail_to_start().await;
    assert_eq!(code, Some(1));
    assert_contains(&line, &["api.key", "16 to 512"]);
    fs::remove_file(&path).unwrap();
    assert_contains(&setup.fail_to_start().await.1, &["the API key can't be used: can't read"]);
}

/// Users are created, renamed and added to rooms by the backend's own ids, and are there when they first connect.
async fn users_are_prepared_before_they_connect(kind: Kind) {
    let server = issuers::server(kind).await;
    let words = ["add", "k", "--user", "bot", "--scope", "publish,read,manage,impersonate", "--users", "subject"];
    let key = printed(&api_key(&server, &words).await);
    let call = async |method: &str, params: Value| call(&server, method, &key, params).await;
    assert_eq!(call("create_user", json!({"user": "42", "username": "Ann"})).await["user"], "42");
    assert_eq!(call("rename_user", json!({"user": "42", "username": "Anna"})).await["username"], "Anna");
    call("create_room", json!({"name": "team", "private": true})).await;
    call("subscribe", json!({"user": "42", "channel": "room:team"})).await;
    call("publish", json!({"channel": "room:team", "data": {"text": "welcome"}})).await;
    call("publish", json!({"channel": "room:team", "data": {"text": "thanks", "as": "42"}})).await;
    let history = call("history", json!({"channel": "room:team", "limit": 2, "reverse": true})).await;
    let authors: Vec<&Value> =
        history["publications"].as_array().unwrap().iter().map(|publication| &publication["info"]["user"]).collect();
    assert_eq!(authors, ["42", ""]);

    // The first token of this user.
    let ann = issuers::user(json!({"sub": "42", "exp": issuers::now() + 600, "info": {"name": "other"}}));
    let me = server.get("/me", &ann.token).await.expect(200);
    assert_eq!(me["user"]["username"], "Anna");
    let mut ws = server.join(&ann, "room=team").await;
    assert_eq!(server.history(&ann, "team").await.len(), 2);
    let present = async || call("presence", json!({"channel": "room:team"})).await["presence"].clone();
    until("Anna is present", async || {
        present().await.as_object().unwrap().values().any(|client| client["user"] == "42")
    })
    .await;
    call("publish", json!({"channel": "user:42", "data": {"for": "Anna"}})).await;
    let members = call("members", json!({"channel": "room:team"})).await;
    assert!(members["members"].as_array().unwrap().iter().any(|member| member["user"] == "42"), "{members}");
    call("remove_member", json!({"user": "42", "channel": "room:team"})).await;
    assert_eq!(ws.close_code().await, Some(3503));
    let gone = server.get("/rooms/team", &ann.token).await;
    assert_eq!(gone.status, 404);
    call("delete_room", json!({"channel": "room:team"})).await;
    let answer = send(server.port, "/api/history", &key, &json!({"channel": "room:team"})).await;
    assert_eq!(answer.expect(200)["error"]["code"], 102);
}

/// However a cluster is asked, it answers for all of its nodes.
#[tokio::test]
async fn info_lists_all_nodes() {
    alone!("it has nodes of its own");
    let mut cluster = Cluster::start(2, &[]).await;
    let url = cluster.url().to_owned();
    let [a, b] = &mut cluster.nodes[..] else { panic!("not two nodes") };
    let data = a.setup.data();
    let words = ["api-key", "add", "k", "--user", "bot", "--data", data.to_str().unwrap(), "--database", &url];
    let key = printed(&run(&words).await);
    let ann = a.user("ann").await;
    a.create_room(&ann, "r").await;
    let _ws = b.join(&ann, "room=r").await;
    let nodes = async |server: &Server| call(server, "info", &key, json!({})).await["nodes"].clone();
    let words = |node: &Value| {
        let counts = ["num_clients", "num_users"].map(|name| node[name].as_u64());
        (text(&node["name"]), counts)
    };
    let expected = [("a".to_owned(), [Some(0); 2]), ("b".to_owned(), [Some(1); 2])];
    until("a has heard of what b serves", async || {
        nodes(a).await.as_array().unwrap().iter().map(words).collect::<Vec<_>>() == expected
    })
    .await;
    let of_b = nodes(b).await;
    assert_eq!((of_b.as_array().unwrap().len(), &of_b[0]["name"], &of_b[1]["name"]), (2, &json!("b"), &json!("a")));
    assert!(of_b[1]["version"].is_string() && number(&of_b[1]["uptime"]) < 600, "{of_b}");
    b.stop().await;
    assert_eq!(nodes(a).await.as_array().unwrap().len(), 1);
    // A program of an earlier release does not tell.
    let older = "INSERT INTO nodes (incarnation, name, version, bus_version, started_at, beat_at)
        SELECT 'older', 'older', '0.1', bus_version, beat_at, beat_at + 60000 FROM nodes";
    a.setup.backdoor().await.execute(older).await;
    let nodes = nodes(a).await;
    let older = &nodes.as_array().unwrap()[1];
    assert!(older["name"] == "older" && older.get("num_clients").is_none(), "{older}");
}
