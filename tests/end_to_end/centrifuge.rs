//! The Centrifugo protocol frame by frame: what no SDK sends, and what exactly is answered. How the SDKs fare is in
//! sdk.rs.

use crate::client::{BINARY, CLOSE, FIN, Http, KEY, PING, PONG, Raw, Response, TEXT, User, frame};
use crate::databases::Kind;
use crate::server::{Server, number, text, until};
use serde_json::{Value, json};
use std::collections::VecDeque;

on_each_database! {
    how_a_connection_begins
    where_a_token_may_be
    what_is_no_frame_ends_the_connection
    what_is_refused_ends_nothing
    the_words_of_replies_and_pushes
    many_commands_at_once
    who_does_not_say_who_they_are
    who_answers_no_ping
    an_expired_token_ends_only_the_attempt
    data_is_sent_on_without_white_space
    who_goes_on_asking_in_vain_is_ended
    commands_that_wait_are_bounded
}
on_each_database_and_shards! {
    publishes_take_effect_in_order
    who_comes_later_sees_what_there_is_now
    crowded_rooms
}

const PATH: &str = "/connection/websocket";

/// A connection in JSON on which anything can be said.
struct Wire {
    raw: Raw,
    /// Messages that came in one frame with what was asked for.
    waiting: VecDeque<Value>,
}

impl Wire {
    async fn open(port: u16) -> Wire {
        Wire::over(Raw::open(port, PATH, &[]).await)
    }

    fn over(raw: Raw) -> Wire {
        Wire { raw, waiting: VecDeque::new() }
    }

    /// Connected as this user.
    async fn connect(server: &Server, user: &User) -> Wire {
        let mut wire = Wire::open(server.port).await;
        wire.result(1, "connect", json!({"token": user.token})).await;
        wire
    }

    async fn say(&mut self, text: &str) {
        self.raw.send(&frame(FIN | TEXT, text.as_bytes())).await;
    }

    /// The messages of the next frame that is more than a ping.
    async fn frame(&mut self) -> Vec<Value> {
        assert!(self.waiting.is_empty(), "{:?} came first", self.waiting);
        loop {
            let frame = self.raw.frame().await;
            assert_eq!(frame.first, FIN | TEXT, "{frame:?} is no text frame");
            let lines = String::from_utf8(frame.payload).expect("UTF-8");
            let messages: Vec<Value> =
                lines.split('\n').map(|line| serde_json::from_str(line).expect("one message a line")).collect();
            if messages.iter().any(|message| *message != json!({})) {
                return messages;
            }
        }
    }

    /// The next message that is no ping, and not about the user: those come when they come.
    async fn next(&mut self) -> Value {
        loop {
            match self.waiting.pop_front() {
                Some(message) if message == json!({}) => {}
                Some(message)
                    if message["push"]["channel"].as_str().is_some_and(|channel| channel.starts_with("user:")) => {}
                Some(message) => return message,
                None => self.waiting = self.frame().await.into(),
            }
        }
    }

    /// Says a command.
    async fn ask(&mut self, id: u32, request: &str, parameters: Value) {
        self.say(&json!({"id": id, request: parameters}).to_string()).await;
    }

    /// Says a command: the result, which must be the next message and nothing else.
    async fn result(&mut self, id: u32, request: &str, parameters: Value) -> Value {
        self.ask(id, request, parameters).await;
        let reply = self.next().await;
        assert_eq!(reply, json!({"id": id, request: reply[request]}));
        reply[request].clone()
    }

    /// Says a command, which must fail: the code.
    async fn error(&mut self, id: u32, request: &str, parameters: Value) -> u64 {
        self.ask(id, request, parameters).await;
        let reply = self.next().await;
        check_error(&reply, id)
    }

    /// The next push on this channel that has this field, which must be the next message.
    async fn push(&mut self, channel: &str, field: &str) -> Value {
        let message = self.next().await;
        let expected = json!({"push": {"channel": channel, field: message["push"][field]}});
        assert_eq!(message, expected);
        message["push"][field].clone()
    }

    /// Reads on to the close frame: the code.
    async fn close_code(&mut self) -> u16 {
        loop {
            let frame = self.raw.frame().await;
            if frame.first == FIN | CLOSE {
                let reason = str::from_utf8(&frame.payload[2..]).expect("a reason is UTF-8");
                // The SDK for JavaScript comes back after 3500 when there is none, and obeys one that is JSON.
                assert!(!reason.is_empty() && serde_json::from_str::<Value>(reason).is_err(), "{reason:?}");
                return frame.close_code();
            }
        }
    }

    /// That nothing has come and the connection is still there.
    async fn is_quiet(&mut self) {
        assert_eq!(self.result(999, "ping", json!({})).await, json!({}));
    }
}

/// The names of what is there, in alphabetical order.
#[track_caller]
fn keys(object: &Value) -> Vec<&str> {
    let object = object.as_object().unwrap_or_else(|| panic!("{object} is no object"));
    let mut keys: Vec<&str> = object.keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

/// The code of an error, which must be the answer to this command.
#[track_caller]
fn check_error(reply: &Value, id: u32) -> u64 {
    assert_eq!((keys(reply), &reply["id"]), (vec!["error", "id"], &json!(id)), "{reply}");
    let code = number(&reply["error"]["code"]);
    assert!(!text(&reply["error"]["message"]).is_empty(), "{reply}");
    let is_temporary = [100, 111, 113].contains(&code);
    assert_eq!(reply["error"].get("temporary"), is_temporary.then_some(&Value::Bool(true)), "{reply}");
    code
}

async fn id_of(server: &Server, user: &User) -> String {
    text(&server.get("/me", &user.token).await.expect(200)["user"]["id"])
}

// ── Protobuf by hand ────────────────────────────────────────────────────────────────────────────────────────────────

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// A field that holds text, bytes or a message.
fn field(number: u64, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    [&varint(number << 3 | 2), &varint(bytes.len() as u64), bytes].concat()
}

/// A message behind its length: a command with this id. Field 1 is `id`.
fn command(id: u64, request: Vec<u8>) -> Vec<u8> {
    let command = [&[1 << 3][..], &varint(id), &request].concat();
    [varint(command.len() as u64), command].concat()
}

/// Of `Command`: `connect` with a `token`.
fn connect(id: u64, token: &str) -> Vec<u8> {
    command(id, field(4, field(1, token)))
}

/// The id and the number of the result's field of the reply that a frame begins with.
#[track_caller]
fn reply_of(payload: &[u8]) -> (u8, u8) {
    // The length, the id's tag, the id (below 128 here), the tag of the result or the error.
    let skipped = payload.iter().take_while(|byte| **byte >= 0x80).count() + 1;
    let [tag, id, field, ..] = payload[skipped..] else { panic!("{payload:?} is no reply") };
    assert_eq!(tag, 1 << 3, "{payload:?}");
    (id, field >> 3)
}

/// Of `Reply`: the fields of `error`, `push` and `connect`.
const ERROR: u8 = 2;
const PUSH: u8 = 4;
const CONNECT: u8 = 5;

// ── tests ───────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Asks for a WebSocket, on a fresh connection or on one that was kept.
async fn ask(port: u16, is_kept: bool, path: &str, headers: &[(&str, &str)]) -> (Http, Response) {
    let mut http = Http::connect(port).await.expect("no connection");
    if is_kept {
        http.request("GET", "/healthz", &[], None).await.expect("an answer").expect(200);
    }
    let mut all = vec![
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", KEY),
    ];
    all.extend(headers);
    let response = http.request("GET", path, &all, None).await.expect("an answer");
    (http, response)
}

async fn how_a_connection_begins(kind: Kind) {
    let server = Server::start(kind, &["--limit", "ping_interval_ms=1000"]).await;
    let ann = server.user("ann").await;
    let offer = |protocols: &'static str| vec![("Sec-WebSocket-Protocol", protocols)];
    for is_kept in [false, true] {
        for (query, headers, expected, is_protobuf) in [
            ("", vec![], None, false),
            ("", offer("centrifuge-json"), Some("centrifuge-json"), false),
            ("", offer("centrifuge-protobuf"), Some("centrifuge-protobuf"), true),
            ("", offer("chat, centrifuge-protobuf"), Some("centrifuge-protobuf"), true),
            ("", offer("chat"), None, false),
            ("?format=json", vec![], None, false),
            ("?format=protobuf", vec![], None, true),
            ("?cf_protocol=protobuf", vec![], None, true),
            ("?cf_protocol=protobuf", offer("centrifuge-protobuf"), Some("centrifuge-protobuf"), true),
            ("?cf_protocol_version=v2&what=ever", vec![], None, false),
            ("", vec![("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits")], None, false),
        ] {
            let what = format!("{query} {headers:?} kept: {is_kept}");
            let (http, response) = ask(server.port, is_kept, &format!("{PATH}{query}"), &headers).await;
            assert_eq!(response.status, 101, "{what}: {response:?}");
            assert_eq!(response.header("Sec-WebSocket-Protocol"), expected, "{what}");
            assert_eq!(response.header("Sec-WebSocket-Extensions"), None, "{what}");
            let mut raw = http.into_raw();
            if is_protobuf {
                raw.send(&frame(FIN | BINARY, &connect(1, &ann.token))).await;
                let reply = raw.frame().await;
                assert_eq!((reply.first, reply_of(&reply.payload)), (FIN | BINARY, (1, CONNECT)), "{what}");
                // A ping is one zero byte.
                assert_eq!(raw.frame().await.payload, [0], "{what}");
            } else {
                let mut wire = Wire::over(raw);
                let connected = wire.result(1, "connect", json!({"token": ann.token})).await;
                assert_eq!((&connected["ping"], &connected["pong"]), (&json!(1), &json!(true)), "{what}");
                let ping = wire.raw.frame().await;
                assert_eq!((ping.first, ping.payload.as_slice()), (FIN | TEXT, &b"{}"[..]), "{what}");
            }
        }
        // For programs that know nothing of the protocol's own pings.
        let (http, response) = ask(server.port, is_kept, &format!("{PATH}?cf_ws_frame_ping_pong=true"), &[]).await;
        assert_eq!(response.status, 101);
        let mut wire = Wire::over(http.into_raw());
        let connected = wire.result(1, "connect", json!({"token": ann.token})).await;
        assert_eq!(keys(&connected), ["client", "expires", "subs", "ttl", "version"], "{connected}");
        for _ in 0..3 {
            let ping = wire.raw.frame().await;
            assert_eq!(ping.first, FIN | PING, "{ping:?}");
            wire.raw.send(&frame(FIN | PONG, &ping.payload)).await;
        }

        let evil = [("Origin", "https://evil.example.org")];
        let (_, response) = ask(server.port, is_kept, PATH, &evil).await;
        assert_eq!(response.error(), (403, "origin_not_allowed".into()), "kept: {is_kept}");
        let (http, response) = ask(server.port, is_kept, PATH, &[("Origin", "http://localhost")]).await;
        assert_eq!(response.status, 101, "kept: {is_kept}");
        Wire::over(http.into_raw()).result(1, "connect", json!({"token": ann.token})).await;
    }
}

async fn where_a_token_may_be(kind: Kind) {
    let server = Server::start(kind, &[]).await;
    let strict = Server::start(kind, &["--no-query-token", "--log", "debug"]).await;
    let ann = server.user("ann").await;
    let bearer = format!("Bearer {}", ann.token);
    let in_query = format!("{PATH}?token={}", ann.token);
    let real = [("Authorization", bearer.as_str())];
    for (path, headers, parameters) in [
        (PATH, &[][..], json!({"token": ann.token})),
        (PATH, &[], json!({"headers": {"Authorization": bearer}})),
        (PATH, &[], json!({"headers": {"authorization": bearer, "X-Other": "x"}})),
        (PATH, &real, json!({})),
        (&in_query, &[], json!({})),
        (&in_query, &[], json!({"token": null, "headers": null, "data": null, "subs": null, "name": "x"})),
    ] {
        let mut wire = Wire::over(Raw::open(server.port, path, headers).await);
        let connected = wire.result(7, "connect", parameters.clone()).await;
        let channel = format!("user:{}", id_of(&server, &ann).await);
        assert_eq!(connected["subs"], json!({channel: {}}), "{parameters}");
    }
    let elsewhere = strict.user("ann").await;
    let in_query = format!("{PATH}?token={}", elsewhere.token);
    for (server, path, headers, parameters) in [
        (&server, PATH, &[][..], json!({})),
        (&server, PATH, &[], json!({"token": ""})),
        (&server, PATH, &[], json!({"token": "nonsense"})),
        (&server, PATH, &[], json!({"headers": {"Authorization": "Bearer nonsense"}})),
        (&server, PATH, &[("Authorization", "Bearer nonsense")], json!({})),
        (&server, &format!("{PATH}?token=nonsense"), &[], json!({})),
        // Of another server.
        (&server, PATH, &[], json!({"token": elsewhere.token})),
        // Switched off.
        (&strict, &in_query, &[], json!({})),
    ] {
        let mut wire = Wire::over(Raw::open(server.port, path, headers).await);
        wire.ask(1, "connect", parameters.clone()).await;
        assert_eq!(wire.close_code().await, 3500, "{path} {headers:?} {parameters}");
    }
    // No token is ever logged.
    let secret = elsewhere.token.rsplit('.').next().expect("a token has dots");
    assert!(!strict.place.log().contains(secret), "a token was logged");
}

async fn what_is_no_frame_ends_the_connection(kind: Kind) {
    let limits = ["--limit", "inbound_frame_limit_bytes=2000", "--limit", "text_limit_bytes=1000"];
    let server = Server::start(kind, &[&limits[..], &["--limit", "close_timeout_ms=100"]].concat()).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let mut neighbour = Wire::connect(&server, &ann).await;

    // Before anyone has said who they are.
    let token = &ann.token;
    for line in [
        "",
        "\n",
        "hello",
        "{",
        "{}}",
        "[]",
        "5",
        "\"connect\"",
        r#"{"id":"1","connect":{}}"#,
        r#"{"id":-1,"connect":{}}"#,
        r#"{"id":1.5,"connect":{}}"#,
        r#"{"id":4294967296,"connect":{}}"#,
        r#"{"id":1,"connect":[]}"#,
        r#"{"id":1,"connect":"token"}"#,
        r#"{"id":1,"connect":{"token":5}}"#,
        r#"{"id":1,"connect":{"headers":["Authorization"]}}"#,
        // Commands that come too early.
        r#"{"id":1,"ping":{}}"#,
        r#"{"id":1,"subscribe":{"channel":"room:r"}}"#,
        r#"{"send":{"data":{}}}"#,
        r#"{"id":1,"rpc":{"method":"rooms"}}"#,
        r#"{"id":1}"#,
    ] {
        let mut wire = Wire::open(server.port).await;
        wire.say(line).await;
        assert_eq!(wire.close_code().await, 3501, "{line}");
        neighbour.is_quiet().await;
    }

    // And after it.
    let again = json!({"id": 2, "connect": {"token": token}}).to_string();
    for line in [
        "",
        "hello",
        r#"{"id":2,"ping":{}"#,
        r#"{"id":2,"ping":5}"#,
        r#"{"id":2,"subscribe":{"channel":5}}"#,
        r#"{"id":2,"subscribe":{"channel":"room:r","offset":-1}}"#,
        r#"{"id":2,"subscribe":{"channel":"room:r","offset":"1"}}"#,
        r#"{"id":2,"subscribe":{"channel":"room:r","recover":"yes"}}"#,
        r#"{"id":2,"history":{"channel":"room:r","limit":"all"}}"#,
        r#"{"id":2,"history":{"channel":"room:r","since":5}}"#,
        r#"{"id":2,"rpc":{"method":{}}}"#,
        // A second connect, were it the same.
        again.as_str(),
    ] {
        let mut wire = Wire::connect(&server, &ann).await;
        wire.say(line).await;
        assert_eq!(wire.close_code().await, 3501, "{line}");
        neighbour.is_quiet().await;
    }

    // Frames of the wrong kind, and some that are too long or no text.
    let whole = |first: u8, payload: &[u8]| frame(FIN | first, payload);
    for (what, bytes, code) in [
        ("a binary frame", whole(BINARY, b"{}"), 3506),
        ("a long frame", whole(TEXT, &[b' '; 2001]), 1009),
        ("no UTF-8", whole(TEXT, b"{\"id\":1,\"ping\":{}, \"\xff\":1}"), 1007),
    ] {
        for is_connected in [false, true] {
            let mut wire = match is_connected {
                true => Wire::connect(&server, &ann).await,
                false => Wire::open(server.port).await,
            };
            wire.raw.send(&bytes).await;
            let frame = wire.raw.frame().await;
            assert_eq!(frame.close_code(), code, "{what}, connected: {is_connected}");
            neighbour.is_quiet().await;
        }
    }
    for (what, bytes, code) in [
        ("a text frame", whole(TEXT, b"{}"), 3506),
        ("an empty frame", whole(BINARY, b""), 3501),
        ("a length without a message", whole(BINARY, &[5, 1]), 3501),
        ("a length without an end", whole(BINARY, &[0xff; 12]), 3501),
        ("no message", whole(BINARY, &[3, 0xff, 0xff, 0xff]), 3501),
        ("a command before connect", whole(BINARY, &command(1, field(11, ""))), 3501),
        ("a bad token", whole(BINARY, &connect(1, "nonsense")), 3500),
    ] {
        let mut raw = Raw::open(server.port, &format!("{PATH}?format=protobuf"), &[]).await;
        raw.send(&bytes).await;
        let frame = raw.frame().await;
        assert_eq!(frame.close_code(), code, "{what}");
        assert!(frame.payload.len() > 2, "{what}: no reason");
        neighbour.is_quiet().await;
    }
    // What is no JSON in Protobuf is an error of that publish only.
    let mut raw = Raw::open(server.port, &format!("{PATH}?format=protobuf"), &[]).await;
    let channel = field(1, "live:x");
    let publish = |data: &str| field(7, [channel.clone(), field(2, data)].concat());
    raw.send(&frame(FIN | BINARY, &connect(1, token))).await;
    assert_eq!(reply_of(&raw.frame().await.payload), (1, CONNECT));
    raw.send(&frame(FIN | BINARY, &command(2, field(5, &channel)))).await;
    assert_eq!(reply_of(&raw.frame().await.payload), (2, 6));
    raw.send(&frame(FIN | BINARY, &command(3, publish("{x}")))).await;
    let payload = raw.frame().await.payload;
    assert_eq!(reply_of(&payload), (3, ERROR));
    assert!(payload.windows(2).any(|pair| pair == [1 << 3, 107]), "{payload:?}");
    raw.send(&frame(FIN | BINARY, &command(4, publish("{}")))).await;
    raw.frame().await;
}

async fn what_is_refused_ends_nothing(kind: Kind) {
    let server = Server::start(kind, &[]).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let mut wire = Wire::open(server.port).await;
    wire.result(1, "connect", json!({"token": ann.token})).await;
    // Without an id there is nothing to answer: a pong, whatever else is in it, and one that nobody asked for.
    for pong in [json!({}), json!({"connect": {"token": "nonsense"}}), json!({"id": 0, "subscribe": {"channel": "x"}})]
    {
        wire.say(&pong.to_string()).await;
        wire.is_quiet().await;
    }

    // What is not known.
    for command in [json!({"id": 2}), json!({"id": 2, "dance": {}}), json!({"id": 2, "subscribe": null})] {
        wire.say(&command.to_string()).await;
        let reply = wire.next().await;
        assert_eq!(check_error(&reply, 2), 104, "{command}");
    }
    assert_eq!(wire.error(3, "rpc", json!({"method": "no such thing", "data": {}})).await, 104);
    assert_eq!(wire.error(3, "rpc", json!({"method": "x".repeat(10_000)})).await, 104);
    assert_eq!(wire.error(3, "rpc", json!({})).await, 104);
    // Of several the first in the order of the protocol; unknown fields are nothing.
    wire.say(r#"{"x":1,"presence":{"channel":"live:x"},"subscribe":{"channel":"live:x","what":[1],"data":{}},"id":4}"#)
        .await;
    assert_eq!(wire.next().await, json!({"id": 4, "subscribe": {}}));
    // An id may come again, and the largest there is.
    for id in [5, 5, 4, u32::MAX] {
        assert_eq!(wire.result(id, "ping", json!({})).await, json!({}));
    }
    // Never answered.
    for line in
        [r#"{"id":6,"send":{"data":{"x":1}}}"#, r#"{"send":{}}"#, r#"{"send":{"data":5}}"#, "{}", "{\"pong\":{}}"]
    {
        wire.say(line).await;
        wire.is_quiet().await;
    }

    // Channels that are none.
    let long = "x".repeat(10_000);
    for channel in
        ["", "room:", "live:", "nonsense", "room:none", "room:R", "room:r ", "live:a\nb", "user:", "$private"]
    {
        assert_eq!(wire.error(7, "subscribe", json!({"channel": channel})).await, 102, "{channel}");
    }
    for prefix in ["", "room:", "live:", "user:"] {
        let channel = format!("{prefix}{long}");
        assert_eq!(wire.error(7, "subscribe", json!({"channel": channel})).await, 102, "{prefix}");
        for request in ["presence", "presence_stats", "history", "publish"] {
            let parameters = json!({"channel": channel, "data": {}});
            assert_eq!(wire.error(7, request, parameters).await, 103, "{request} {prefix}");
        }
        assert_eq!(wire.result(7, "unsubscribe", json!({"channel": channel})).await, json!({}));
    }
    assert_eq!(wire.error(7, "subscribe", json!({})).await, 102);
    assert_eq!(wire.error(7, "subscribe", json!({"channel": "live:x"})).await, 105);
    let own = format!("user:{}", id_of(&server, &ann).await);
    assert_eq!(wire.error(7, "subscribe", json!({"channel": own})).await, 105);
    // What is not offered.
    let room = |more: Value| {
        let mut parameters = json!({"channel": "room:r"});
        parameters.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        parameters
    };
    assert_eq!(wire.error(8, "subscribe", room(json!({"type": 1}))).await, 108);
    assert_eq!(wire.error(8, "subscribe", room(json!({"tf": {"key": "x", "cmp": "eq", "val": "y"}}))).await, 107);
    assert_eq!(wire.error(8, "sub_refresh", json!({"token": "x"})).await, 108);
    let more = json!({"flag": 1, "delta": "fossil", "positioned": true, "recoverable": true, "token": "x", "tf": null});
    let subscribed = wire.result(8, "subscribe", room(more)).await;
    assert_eq!(keys(&subscribed), ["epoch", "positioned", "recoverable"], "{subscribed}");
    assert_eq!(wire.error(8, "subscribe", room(json!({}))).await, 105);
    assert_eq!(wire.error(8, "publish", room(json!({"type": 1, "key": "x", "data": {"text": "x"}}))).await, 108);

    // Nesting, within `data` and deeper than anyone could want.
    for channel in ["room:r", "live:x"] {
        for depth in [100, 10_000] {
            let data = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
            let command = format!(r#"{{"id":9,"publish":{{"channel":"{channel}","data":{{"text":"x","x":{data}}}}}}}"#);
            wire.say(&command).await;
            let reply = wire.next().await;
            assert_eq!(check_error(&reply, 9), 107, "{channel} {depth}");
        }
    }
    assert_eq!(wire.error(9, "publish", room(json!({}))).await, 107);
    assert_eq!(wire.result(9, "publish", room(json!({"data": {"text": "x"}}))).await, json!({"offset": 1}));
}

async fn the_words_of_replies_and_pushes(kind: Kind) {
    let server = Server::start(kind, &["--limit", "publish_rate_per_second=0"]).await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    server.create_room(&ann, "r").await;
    let epoch = text(&server.get("/rooms/r", &ann.token).await.expect(200)["room"]["epoch"]);
    let (ann_id, bob_id) = (id_of(&server, &ann).await, id_of(&server, &bob).await);

    let mut wire = Wire::open(server.port).await;
    let connected = wire.result(1, "connect", json!({"token": ann.token, "name": "js", "version": "5.8.0"})).await;
    assert_eq!(keys(&connected), ["client", "expires", "ping", "pong", "subs", "ttl", "version"], "{connected}");
    assert_eq!(
        (&connected["expires"], &connected["ping"], &connected["pong"]),
        (&json!(true), &json!(25), &json!(true))
    );
    assert!((3000..=3600).contains(&number(&connected["ttl"])), "{connected}");
    assert_eq!(connected["subs"], json!({format!("user:{ann_id}"): {}}));
    let (client, version) = (text(&connected["client"]), text(&connected["version"]));
    assert!(!client.is_empty() && !version.is_empty(), "{connected}");
    let refreshed = wire.result(2, "refresh", json!({"token": ann.token})).await;
    assert_eq!(keys(&refreshed), ["client", "expires", "ttl", "version"], "{refreshed}");
    assert_eq!((&refreshed["client"], &refreshed["expires"]), (&json!(client), &json!(true)));

    assert_eq!(
        wire.result(3, "subscribe", json!({"channel": "room:r"})).await,
        json!({"recoverable": true, "positioned": true, "epoch": epoch})
    );
    let info =
        |client: &str, id: &str, name: &str| json!({"user": id, "client": client, "conn_info": {"username": name}});
    let presence = json!({"presence": {&client: info(&client, &ann_id, "ann")}});
    assert_eq!(wire.result(4, "presence", json!({"channel": "room:r"})).await, presence);
    let stats = wire.result(5, "presence_stats", json!({"channel": "room:r"})).await;
    assert_eq!(stats, json!({"num_clients": 1, "num_users": 1}));
    let history = wire.result(6, "history", json!({"channel": "room:r", "limit": 5})).await;
    assert_eq!(history, json!({"publications": [], "epoch": epoch, "offset": 0}));

    // A publish is answered, and comes back as everyone's; which is first is left open.
    wire.ask(7, "publish", json!({"channel": "room:r", "data": {"text": "x", "id": "1"}})).await;
    let mut both = [wire.next().await, wire.next().await];
    both.sort_by_key(|message| message.get("push").is_some());
    assert_eq!(both[0], json!({"id": 7, "publish": {"offset": 1}}));
    let publication = both[1]["push"]["pub"].clone();
    assert_eq!((keys(&both[1]["push"]), &both[1]["push"]["channel"]), (vec!["channel", "pub"], &json!("room:r")));
    assert_eq!(keys(&publication), ["data", "info", "offset", "time"], "{publication}");
    assert_eq!((&publication["data"], &publication["offset"]), (&json!({"text": "x", "id": "1"}), &json!(1)));
    assert_eq!(publication["info"], info("", &ann_id, "ann"));
    assert!(number(&publication["time"]) > 1_700_000_000_000, "{publication}");
    let history = wire.result(8, "history", json!({"channel": "room:r", "limit": 5})).await;
    assert_eq!(history, json!({"publications": [publication], "epoch": epoch, "offset": 1}));

    // Someone comes, with a position of their own; and goes. Who asked for it is told, of the own coming or not.
    let mut watcher = Wire::connect(&server, &ann).await;
    watcher.result(2, "subscribe", json!({"channel": "room:r", "join_leave": true})).await;
    let mut other = Wire::connect(&server, &bob).await;
    let recover = |offset: u64, epoch: &str, flag: u64| {
        let mut parameters = json!({"channel": "room:r", "recover": true, "flag": flag});
        parameters["offset"] = json!(offset);
        parameters["epoch"] = json!(epoch);
        parameters
    };
    assert_eq!(other.error(2, "subscribe", recover(0, "another", 3)).await, 112);
    let mut lost = json!({"recoverable": true, "positioned": true, "epoch": epoch, "offset": 1});
    lost["was_recovering"] = json!(true);
    lost["publications"] = json!([]);
    assert_eq!(other.result(3, "subscribe", recover(0, "another", 1)).await, lost);
    let mut join = watcher.push("room:r", "join").await;
    if join["info"]["user"] == ann_id.as_str() {
        join = watcher.push("room:r", "join").await;
    }
    let bobs_client = text(&join["info"]["client"]);
    assert_eq!(join, json!({"info": info(&bobs_client, &bob_id, "bob")}));
    assert_eq!(other.result(4, "unsubscribe", json!({"channel": "room:r"})).await, json!({}));
    assert_eq!(watcher.push("room:r", "leave").await, json!({"info": info(&bobs_client, &bob_id, "bob")}));
    let recovered = other.result(5, "subscribe", recover(0, &epoch, 3)).await;
    let expected = ["epoch", "positioned", "publications", "recoverable", "recovered", "was_recovering"];
    assert_eq!(keys(&recovered), expected, "the offset is 0: {recovered}");
    // What was missed follows as pushes.
    assert_eq!(recovered["publications"], json!([]));
    assert_eq!(other.push("room:r", "pub").await, publication);
    assert_eq!(watcher.push("room:r", "join").await["info"]["user"], bob_id.as_str());

    // A channel without a history.
    assert_eq!(wire.result(9, "subscribe", json!({"channel": "live:x"})).await, json!({}));
    wire.ask(10, "publish", json!({"channel": "live:x", "data": [1]})).await;
    let mut both = [wire.next().await, wire.next().await];
    both.sort_by_key(|message| message.get("push").is_some());
    assert_eq!(both[0], json!({"id": 10, "publish": {}}));
    let publication = &both[1]["push"]["pub"];
    assert_eq!(keys(publication), ["data", "info", "time"], "{publication}");
    assert_eq!((&publication["data"], &publication["info"]), (&json!([1]), &info("", &ann_id, "ann")));

    // Thrown out.
    server.call("DELETE", "/rooms/r/members/bob", &ann.token, Value::Null).await.expect(200);
    let unsubscribed = loop {
        let message = other.next().await;
        if let Some(unsubscribe) = message["push"].get("unsubscribe") {
            break unsubscribe.clone();
        }
    };
    assert_eq!((keys(&unsubscribed), &unsubscribed["code"]), (vec!["code", "reason"], &json!(2000)));
    assert!(!text(&unsubscribed["reason"]).is_empty());
    server.post("/user/signout", &bob.token, Value::Null).await.expect(200);
    assert_eq!(other.close_code().await, 3503);
}

async fn many_commands_at_once(kind: Kind) {
    let server = Server::start(kind, &[]).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let lines = |commands: &[Value]| commands.iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
    let connect = json!({"id": 1, "connect": {"token": ann.token}});
    let subscribe = json!({"id": 2, "subscribe": {"channel": "room:r"}});
    let live = json!({"id": 3, "subscribe": {"channel": "live:x"}});
    let presence = json!({"id": 4, "presence_stats": {"channel": "room:r"}});
    // In one frame, and in several before there was any reply: the rest waits for the connect, whose reply is first.
    for is_one_frame in [true, false] {
        let mut wire = Wire::open(server.port).await;
        let commands = [&connect, &subscribe, &live, &presence].map(Value::clone);
        if is_one_frame {
            wire.say(&lines(&commands)).await;
        } else {
            let frames: Vec<u8> =
                commands.iter().flat_map(|command| frame(FIN | TEXT, command.to_string().as_bytes())).collect();
            wire.raw.send(&frames).await;
        }
        let first = wire.next().await;
        assert_eq!(keys(&first), ["connect", "id"], "{first}");
        let mut rest = Vec::new();
        for _ in 0..3 {
            let reply = wire.next().await;
            assert!(reply.get("error").is_none(), "{reply}");
            rest.push(number(&reply["id"]));
        }
        // Of one channel in order; others may overtake.
        assert!(rest.iter().position(|id| *id == 2) < rest.iter().position(|id| *id == 4), "{rest:?}");
        // What one turn has to say is one frame.
        let pings: Vec<Value> = (10..30).map(|id| json!({"id": id, "ping": {}})).collect();
        wire.say(&lines(&pings)).await;
        assert_eq!(wire.frame().await, pings);
    }
    // Where one is bad, all behind it is nothing.
    let mut wire = Wire::connect(&server, &ann).await;
    let publish = json!({"id": 2, "publish": {"channel": "room:r", "data": {"text": "x"}}});
    wire.say(&format!("{}\n{}\nnonsense\n{}", subscribe, json!({"id": 3, "ping": {}}), publish)).await;
    assert_eq!(wire.close_code().await, 3501);
    assert_eq!(server.history(&ann, "r").await, Vec::<Value>::new());
    // A bad token ends what was to follow it.
    let mut wire = Wire::open(server.port).await;
    wire.say(&lines(&[json!({"id": 1, "connect": {"token": "nonsense"}}), subscribe])).await;
    assert_eq!(wire.raw.frame().await.close_code(), 3500);
}

async fn who_does_not_say_who_they_are(kind: Kind) {
    let server = Server::start(kind, &["--limit", "handshake_timeout_ms=500"]).await;
    let ann = server.user("ann").await;
    let mut connected = Wire::connect(&server, &ann).await;
    let mut silent = Wire::open(server.port).await;
    assert_eq!(silent.close_code().await, 4000);
    let mut raw = Raw::open(server.port, &format!("{PATH}?format=protobuf"), &[]).await;
    assert_eq!(raw.frame().await.close_code(), 4000);
    connected.is_quiet().await;
}

async fn who_answers_no_ping(kind: Kind) {
    let limits = ["--limit", "ping_interval_ms=300", "--limit", "pong_timeout_ms=300"];
    let server = Server::start(kind, &limits).await;
    let ann = server.user("ann").await;
    let mut silent = Wire::connect(&server, &ann).await;
    assert_eq!(silent.close_code().await, 3012);
    let path = format!("{PATH}?cf_ws_frame_ping_pong=true");
    let mut silent = Wire::over(Raw::open(server.port, &path, &[]).await);
    silent.result(1, "connect", json!({"token": ann.token})).await;
    assert_eq!(silent.close_code().await, 3012);
    // A pong keeps it, and so does anything else that is said.
    for answer in ["{}", r#"{"send":{"data":{}}}"#, r#"{"id":5,"ping":{}}"#] {
        let mut wire = Wire::connect(&server, &ann).await;
        let mut pings = 0;
        while pings < 5 {
            let frame = wire.raw.frame().await;
            assert_eq!(frame.first, FIN | TEXT, "{answer}: {frame:?}");
            if frame.payload == b"{}" {
                pings += 1;
                wire.say(answer).await;
            }
        }
    }
}

async fn an_expired_token_ends_only_the_attempt(kind: Kind) {
    let server = Server::start(kind, &["--limit", "expired_grace_ms=60000"]).await;
    let eve = server.user("eve").await;
    let old = server.mint("ann", "1").await;
    let is_expired = async || server.get("/me", &old.token).await.status == 401;
    until("the token has expired", is_expired).await;

    let mut wire = Wire::open(server.port).await;
    let commands = [
        json!({"id": 1, "connect": {"token": old.token}}),
        json!({"id": 2, "subscribe": {"channel": "live:x"}}),
        json!({"id": 3, "connect": {"token": old.token}}),
    ];
    wire.say(&commands.map(|command| command.to_string()).join("\n")).await;
    let replies = wire.frame().await;
    assert_eq!(replies.len(), 1, "the rest is nothing: {replies:?}");
    assert_eq!(check_error(&replies[0], 1), 109);
    wire.say("nonsense").await;
    // The client goes by itself; if it does not, there is no code that could overtake the error.
    if let Some(frame) = wire.raw.receive().await {
        assert_eq!((frame.first, frame.payload.as_slice()), (FIN | CLOSE, &[][..]));
    }

    // In a refresh it is no error, which SDKs would take for final.
    for (token, code) in
        [(&old.token, 3005), (&eve.token, 3500), (&"nonsense".to_owned(), 3500), (&String::new(), 3500)]
    {
        let ann = server.user("ann").await;
        let mut wire = Wire::connect(&server, &ann).await;
        wire.ask(2, "refresh", json!({"token": token})).await;
        assert_eq!(wire.close_code().await, code, "{token}");
    }
}

async fn data_is_sent_on_without_white_space(kind: Kind) {
    let server = Server::start(kind, &[]).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let mut wire = Wire::connect(&server, &ann).await;
    for (id, channel) in [(2, "room:r"), (3, "live:x")] {
        wire.result(id, "subscribe", json!({"channel": channel})).await;
    }
    // Newlines between the words of a payload would cut a frame in JSON.
    let mut raw = Raw::open(server.port, &format!("{PATH}?format=protobuf"), &[]).await;
    raw.send(&frame(FIN | BINARY, &connect(1, &ann.token))).await;
    assert_eq!(reply_of(&raw.frame().await.payload), (1, CONNECT));
    let compact = r#"{"text":"a \n b","id":"1"}"#;
    let spaced = " {\n\t\"text\" : \"a \\n b\" ,\r\n \"id\":\"1\" }\n";
    for (id, channel) in [(2, "live:x"), (3, "room:r")] {
        let channel = field(1, channel);
        raw.send(&frame(FIN | BINARY, &command(id, field(5, &channel)))).await;
        assert_eq!(reply_of(&raw.frame().await.payload), (id as u8, 6));
        raw.send(&frame(FIN | BINARY, &command(id + 10, field(7, [channel, field(2, spaced)].concat())))).await;
        // The reply and the publication, in one frame or two.
        let mut seen = Vec::new();
        while !contains(&seen, compact.as_bytes()) {
            seen.extend(raw.frame().await.payload);
        }
        assert!(!contains(&seen, b"\" :"), "{seen:?}");
        assert!(seen.contains(&(PUSH << 3 | 2)), "{seen:?}");
    }
    for (channel, data) in [("live:x", compact), ("room:r", compact)] {
        let publication = wire.push(channel, "pub").await;
        assert_eq!(publication["data"], serde_json::from_str::<Value>(data).expect("JSON"));
    }
    // By HTTP and plainly, too.
    let body = json!({"text": "line\nline"});
    server.post("/rooms/r/messages", &ann.token, body).await.expect(201);
    assert_eq!(wire.push("room:r", "pub").await["data"]["text"], "line\nline");
    let mut plain = server.join(&ann, "room=r&format=json").await;
    plain.say("{ \"text\" :\n\"pretty\"\n}").await;
    assert_eq!(wire.push("room:r", "pub").await["data"], json!({"text": "pretty"}));
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

async fn publishes_take_effect_in_order(kind: Kind, shards: &str) {
    const PUBLISHES: u64 = 60;
    let server = Server::start(kind, &["--shards", shards]).await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    server.create_room(&ann, "r").await;
    let mut reader = Wire::connect(&server, &bob).await;
    reader.result(2, "subscribe", json!({"channel": "room:r"})).await;
    let mut wire = Wire::open(server.port).await;
    // Connect, subscribe, publish and unsubscribe without waiting for anything.
    let mut commands =
        vec![json!({"id": 1, "connect": {"token": ann.token}}), json!({"id": 2, "subscribe": {"channel": "room:r"}})];
    let publish = |id: u64| json!({"id": id + 10, "publish": {"channel": "room:r", "data": {"text": id.to_string()}}});
    commands.extend((1..=PUBLISHES).map(publish));
    commands.push(json!({"id": 3, "unsubscribe": {"channel": "room:r"}}));
    commands.push(publish(PUBLISHES + 1));
    wire.say(&commands.iter().map(Value::to_string).collect::<Vec<_>>().join("\n")).await;
    let (mut published, mut is_out) = (0, false);
    while published < PUBLISHES || !is_out {
        let message = wire.next().await;
        if message["push"].get("pub").is_some() {
            assert!(!is_out, "nothing follows the reply to an unsubscribe: {message}");
        } else if message["id"] == 3 {
            is_out = true;
        } else if message["id"] == PUBLISHES + 11 {
            assert_eq!(check_error(&message, PUBLISHES as u32 + 11), 103);
        } else if let Some(result) = message.get("publish") {
            published += 1;
            assert_eq!(number(&result["offset"]) + 10, number(&message["id"]), "{message}");
        }
    }
    for offset in 1..=PUBLISHES {
        let publication = reader.push("room:r", "pub").await;
        assert_eq!((&publication["offset"], text(&publication["data"]["text"])), (&json!(offset), offset.to_string()));
    }
    reader.is_quiet().await;
}

/// At each bound an answer, past it the end: 3509 for what can't be, 3013 for what comes too fast.
async fn who_goes_on_asking_in_vain_is_ended(kind: Kind) {
    let errors = ["--limit", "error_burst_limit=3", "--limit", "error_rate_per_second=1"];
    let publishes = ["--limit", "publish_burst_limit=1", "--limit", "publish_rate_per_second=1"];
    let server = Server::start(kind, &[&errors[..], &publishes].concat()).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let vain = |id: u32| json!({"id": id, "rpc": {"method": "nothing"}}).to_string();
    let fast = |id: u32| json!({"id": id, "publish": {"channel": "room:r", "data": {"text": "x"}}}).to_string();
    let mut wire = Wire::connect(&server, &ann).await;
    wire.say(&[vain(2), vain(3), vain(4)].join("\n")).await;
    for id in 2..=4 {
        assert_eq!(check_error(&wire.next().await, id), 104);
    }
    wire.say(&[vain(5), vain(6)].join("\n")).await;
    assert_eq!(wire.close_code().await, 3509);

    let mut wire = Wire::connect(&server, &ann).await;
    wire.result(2, "subscribe", json!({"channel": "room:r"})).await;
    let publishes: Vec<String> = (3..20).map(fast).collect();
    wire.say(&publishes.join("\n")).await;
    assert_eq!(wire.close_code().await, 3013);
}

/// Two questions in one frame to a home on another shard: the second finds no place, and nothing else happens.
async fn commands_that_wait_are_bounded(kind: Kind) {
    let server = Server::start(kind, &["--shards", "2", "--limit", "pending_commands_limit=1"]).await;
    let ann = server.user("ann").await;
    let mut wire = Wire::connect(&server, &ann).await;
    // Which shard is a channel's home is drawn at the start.
    for id in (10..400).step_by(3) {
        let channel = json!({"channel": format!("live:{id}")});
        wire.result(id, "subscribe", channel.clone()).await;
        let ask = |id: u32| json!({"id": id, "presence_stats": channel}).to_string();
        wire.say(&[ask(id + 1), ask(id + 2)].join("\n")).await;
        let mut refused = Vec::new();
        for reply in [wire.next().await, wire.next().await] {
            match reply["error"].is_null() {
                true => assert_eq!(reply["presence_stats"], json!({"num_clients": 1, "num_users": 1})),
                false => refused.push(check_error(&reply, id + 2)),
            }
        }
        if !refused.is_empty() {
            return assert_eq!(refused, [100]);
        }
    }
    panic!("all channels are at home on one shard");
}

/// Edits, deletions and reactions: live, after an absence from memory and from the database, in history.
async fn who_comes_later_sees_what_there_is_now(kind: Kind, shards: &str) {
    let options = ["--shards", shards, "--limit", "ring_limit_publications=4", "--limit", "publish_rate_per_second=0"];
    let server = Server::start(kind, &options).await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    server.create_room(&ann, "r").await;
    let mut plain = server.join(&bob, "room=r").await;
    let mut wire = Wire::connect(&server, &ann).await;
    let room = wire.result(2, "subscribe", json!({"channel": "room:r"})).await;
    let (mut id, mut offset) = (10, 0);
    let mut publish = async |data: Value| {
        (id, offset) = (id + 1, offset + 1);
        wire.ask(id, "publish", json!({"channel": "room:r", "data": data})).await;
        let (mut reply, mut push) = (wire.next().await, wire.next().await);
        if reply["push"].is_object() {
            std::mem::swap(&mut reply, &mut push);
        }
        assert_eq!(reply, json!({"id": id, "publish": {"offset": offset}}));
        assert_eq!(push["push"]["pub"]["offset"], offset);
        assert_eq!(push["push"]["pub"]["data"], data, "live it is what was sent");
        plain.event().await
    };
    publish(json!({"text": "one", "id": "1"})).await;
    publish(json!({"text": "two", "id": "2"})).await;
    let edit = publish(json!({"edit": 1, "text": "ONE", "id": "3"})).await;
    assert_eq!((&edit["type"], &edit["target"], &edit["text"]), (&json!("edit"), &json!(1), &json!("ONE")));
    let react = publish(json!({"react": 1, "emoji": "👍", "id": "4"})).await;
    assert_eq!((&react["type"], &react["target"], &react["emoji"]), (&json!("react"), &json!(1), &json!("👍")));
    let delete = publish(json!({"delete": 2, "id": "5"})).await;
    assert_eq!((&delete["type"], &delete["target"], &delete["text"]), (&json!("delete"), &json!(2), &Value::Null));
    publish(json!({"edit": 1, "text": "1!", "id": "6"})).await;
    // From memory, since 3, and from the database, since 0.
    let now = [
        json!({"text": "1!", "id": "1", "edited": 6}),
        json!({"deleted": true, "id": "2"}),
        json!({"edit": 1, "text": "1!", "id": "3"}),
        json!({"react": 1, "emoji": "👍", "id": "4"}),
        json!({"delete": 2, "id": "5"}),
        json!({"edit": 1, "text": "1!", "id": "6"}),
    ];
    for since in [3, 0] {
        let mut late = Wire::connect(&server, &bob).await;
        let position = json!({"channel": "room:r", "recover": true, "offset": since, "epoch": room["epoch"]});
        assert_eq!(late.result(2, "subscribe", position).await["recovered"], true);
        for data in &now[since..] {
            assert_eq!(late.push("room:r", "pub").await["data"], *data);
        }
        let history = late.result(3, "history", json!({"channel": "room:r", "limit": 10})).await;
        let history: Vec<&Value> = history["publications"].as_array().unwrap().iter().map(|p| &p["data"]).collect();
        assert_eq!(history, now.iter().collect::<Vec<_>>());
        // What is somebody else's, gone, or no message.
        for (code, data) in [
            (103, json!({"edit": 1, "text": "mine"})),
            (103, json!({"delete": 1})),
            (107, json!({"react": 2, "emoji": "x"})),
            (107, json!({"edit": 3, "text": "an edit"})),
            (107, json!({"react": 99, "emoji": "x"})),
        ] {
            assert_eq!(late.error(4, "publish", json!({"channel": "room:r", "data": data})).await, code, "{data}");
        }
    }
    let chats = server.get("/user/getchats?room=r", &ann.token).await.expect(200);
    let messages = chats["messages"].as_array().expect("messages");
    assert_eq!((&messages[0]["text"], &messages[0]["edited"]), (&json!("1!"), &json!(6)));
    assert_eq!(messages[0]["reactions"], json!([{"emoji": "👍", "count": 1, "mine": true}]));
    assert_eq!((&messages[1]["text"], &messages[1]["deleted"]), (&Value::Null, &json!(true)));
}

async fn crowded_rooms(kind: Kind, shards: &str) {
    let limits = ["--limit", "presence_limit=2", "--limit", "join_leave_limit=2"];
    let limits = [&["--shards", shards][..], &limits, &["--limit", "subscription_limit=3"]].concat();
    let server = Server::start(kind, &limits).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let mut first = Wire::connect(&server, &ann).await;
    first.result(2, "subscribe", json!({"channel": "room:r", "join_leave": true})).await;
    let mut others = Vec::new();
    for number in 0..4 {
        let user = server.user(&format!("user{number}")).await;
        let mut wire = Wire::connect(&server, &user).await;
        wire.result(2, "subscribe", json!({"channel": "room:r"})).await;
        others.push(wire);
    }
    // Presence is cut, its numbers are not.
    let mut last = others.pop().expect("there are four");
    let presence = last.result(3, "presence", json!({"channel": "room:r"})).await;
    assert_eq!(presence["presence"].as_object().map(serde_json::Map::len), Some(2), "{presence}");
    let stats = last.result(4, "presence_stats", json!({"channel": "room:r"})).await;
    assert_eq!(stats, json!({"num_clients": 5, "num_users": 5}));
    // Joins are told while there are few.
    let (mut joins, mut online) = (Vec::new(), None);
    first.ask(3, "ping", json!({})).await;
    loop {
        let message = first.next().await;
        if message["id"] == 3 {
            break;
        }
        // Between them come the numbers of those who are there.
        online = message["push"]["pub"]["data"]["online"].as_u64().or(online);
        if let Some(join) = message["push"].get("join") {
            joins.push(text(&join["info"]["conn_info"]["username"]));
        }
    }
    joins.retain(|name| name != "ann");
    assert_eq!(joins, ["user0"]);
    // From then on only their number is told, now or a little later.
    while online != Some(5) {
        online = first.push("room:r", "pub").await["data"]["online"].as_u64();
    }
    // Subscriptions of one connection.
    for channel in ["live:1", "live:2"] {
        last.result(5, "subscribe", json!({"channel": channel})).await;
    }
    assert_eq!(last.error(5, "subscribe", json!({"channel": "live:3"})).await, 106);
    last.result(5, "unsubscribe", json!({"channel": "live:1"})).await;
    last.result(5, "subscribe", json!({"channel": "live:3"})).await;

    // Connections of one user.
    let few = Server::start(kind, &["--shards", "1", "--limit", "user_connections_limit=1"]).await;
    let ann = few.user("ann").await;
    let mut wire = Wire::connect(&few, &ann).await;
    let mut second = Wire::open(few.port).await;
    second.ask(1, "connect", json!({"token": ann.token})).await;
    assert_eq!(second.close_code().await, 3504);
    wire.is_quiet().await;
}
