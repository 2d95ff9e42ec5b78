//! Proves, frame by frame, what the Centrifugo protocol answers, also to frames that no SDK sends (see `sdk.rs`).

use crate::client::{BINARY, CLOSE, FIN, Headers, Http, PING, PONG, Raw, Response, TEXT, User, frame};
use crate::databases::Kind;
use crate::server::{Server, WITH_JOINS, number, text, until};
use crate::two_nodes::alone;
use serde_json::{Value, json};
use std::collections::VecDeque;

on_each_database! {
    encodings_and_pings_are_negotiated_by_the_upgrade
    a_token_is_accepted_in_each_documented_place
    an_invalid_frame_closes_the_connection
    a_rejected_command_closes_nothing
    replies_and_pushes_have_exactly_the_documented_fields
    pipelined_commands_are_answered
    a_client_that_does_not_connect_is_disconnected
    a_client_that_answers_no_ping_is_disconnected
    an_expired_token_is_an_error_on_connect_and_a_close_code_on_refresh
    data_is_delivered_without_white_space
    rooms_are_listed_after_a_name_in_any_form
    a_client_that_keeps_causing_errors_is_disconnected
    waiting_commands_are_bounded
}
on_each_database_and_shards! {
    publishes_take_effect_in_order
    a_late_reader_sees_the_current_content
    kinds_of_newer_releases_are_shown_as_empty_publications
    limits_of_presence_notices_and_subscriptions_hold
}

const PATH: &str = "/connection/websocket";

/// A connection in JSON on which a test can send anything.
pub struct Wire {
    raw: Raw,
    /// Messages of the last frame that have not been returned yet.
    waiting: VecDeque<Value>,
}

impl Wire {
    pub async fn open(port: u16) -> Wire {
        Wire::over(Raw::open(port, PATH, &[]).await)
    }

    pub fn over(raw: Raw) -> Wire {
        Wire { raw, waiting: VecDeque::new() }
    }

    /// Opens a connection and sends `connect` as this user.
    pub async fn connect(server: &Server, user: &User) -> Wire {
        let mut wire = Wire::open(server.port).await;
        wire.result(1, "connect", json!({"token": user.token})).await;
        wire
    }

    async fn send(&mut self, text: &str) {
        self.raw.send(&frame(FIN | TEXT, text.as_bytes())).await;
    }

    /// The messages of the next frame that is not only a ping.
    async fn frame(&mut self) -> Vec<Value> {
        assert!(self.waiting.is_empty(), "{:?} came first", self.waiting);
        loop {
            let frame = self.raw.frame().await;
            assert_eq!(frame.first, FIN | TEXT, "{frame:?} is not a text frame");
            let lines = String::from_utf8(frame.payload).expect("UTF-8");
            let messages: Vec<Value> =
                lines.split('\n').map(|line| serde_json::from_str(line).expect("one message per line")).collect();
            if messages.iter().any(|message| *message != json!({})) {
                return messages;
            }
        }
    }

    /// The next message that is neither a ping nor on the user's own channel, which may come at any time.
    pub async fn next(&mut self) -> Value {
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

    /// Sends a command.
    pub async fn command(&mut self, id: u32, request: &str, parameters: Value) {
        self.send(&json!({"id": id, request: parameters}).to_string()).await;
    }

    /// Sends a command. Returns its result, which must be the next message.
    pub async fn result(&mut self, id: u32, request: &str, parameters: Value) -> Value {
        self.command(id, request, parameters).await;
        let reply = self.next().await;
        assert_eq!(reply, json!({"id": id, request: reply[request]}));
        reply[request].clone()
    }

    /// Sends a command, which must fail. Returns the error code.
    pub async fn error(&mut self, id: u32, request: &str, parameters: Value) -> u64 {
        self.command(id, request, parameters).await;
        let reply = self.next().await;
        check_error(&reply, id)
    }

    /// The field of the next message, which must be a push on this channel.
    pub async fn push(&mut self, channel: &str, field: &str) -> Value {
        let message = self.next().await;
        let expected = json!({"push": {"channel": channel, field: message["push"][field]}});
        assert_eq!(message, expected);
        message["push"][field].clone()
    }

    /// The next event on the user's own channel. Other messages are left out.
    pub async fn user_event(&mut self) -> Value {
        loop {
            match self.waiting.pop_front() {
                Some(message)
                    if message["push"]["channel"].as_str().is_some_and(|channel| channel.starts_with("user:")) =>
                {
                    return message["push"]["pub"]["data"].clone();
                }
                Some(_) => {}
                None => self.waiting = self.frame().await.into(),
            }
        }
    }

    /// Reads up to the close frame and returns its code.
    pub async fn close_code(&mut self) -> u16 {
        self.closed().await.0
    }

    /// Reads up to the close frame and returns its code and reason.
    pub async fn closed(&mut self) -> (u16, String) {
        loop {
            let frame = self.raw.frame().await;
            if frame.first == FIN | CLOSE {
                let reason = str::from_utf8(&frame.payload[2..]).expect("a reason is UTF-8");
                // The SDK for JavaScript reconnects after 3500 without a reason, and obeys a reason that is JSON.
                assert!(!reason.is_empty() && serde_json::from_str::<Value>(reason).is_err(), "{reason:?}");
                return (frame.close_code(), reason.to_owned());
            }
        }
    }

    /// Checks that nothing has arrived and that the connection works.
    async fn expect_quiet(&mut self) {
        assert_eq!(self.result(999, "ping", json!({})).await, json!({}));
    }
}

/// The names of the fields, in alphabetical order.
#[track_caller]
fn keys(object: &Value) -> Vec<&str> {
    let object = object.as_object().unwrap_or_else(|| panic!("{object} is not an object"));
    let mut keys: Vec<&str> = object.keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

/// Checks that a reply is an error of this command. Returns its code.
#[track_caller]
fn check_error(reply: &Value, id: u32) -> u64 {
    assert_eq!((keys(reply), &reply["id"]), (vec!["error", "id"], &json!(id)), "{reply}");
    let code = number(&reply["error"]["code"]);
    assert!(!text(&reply["error"]["message"]).is_empty(), "{reply}");
    let is_temporary = [100, 111].contains(&code);
    assert_eq!(reply["error"].get("temporary"), is_temporary.then_some(&Value::Bool(true)), "{reply}");
    code
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

/// A command with this id, preceded by its length. Field 1 is `id`.
fn encode_command(id: u64, request: Vec<u8>) -> Vec<u8> {
    let command = [&[1 << 3][..], &varint(id), &request].concat();
    [varint(command.len() as u64), command].concat()
}

/// The command `connect` with a token.
fn encode_connect(id: u64, token: &str) -> Vec<u8> {
    encode_command(id, field(4, field(1, token)))
}

/// The id of the first reply in a frame, and the number of the field with its result.
#[track_caller]
fn reply_of(payload: &[u8]) -> (u8, u8) {
    // The length, the id's tag, the id (below 128 here), the tag of the result or the error.
    let skipped = payload.iter().take_while(|byte| **byte >= 0x80).count() + 1;
    let [tag, id, field, ..] = payload[skipped..] else { panic!("{payload:?} is not a reply") };
    assert_eq!(tag, 1 << 3, "{payload:?}");
    (id, field >> 3)
}

/// The numbers of the fields `error`, `push` and `connect` of a `Reply`.
const ERROR: u8 = 2;
const PUSH: u8 = 4;
const CONNECT: u8 = 5;

// ── tests ───────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Requests a WebSocket on a fresh connection or on a reused one. Err: the answer that rejects it.
async fn open(port: u16, is_reused: bool, path: &str, headers: Headers<'_>) -> Result<(Raw, Response), Response> {
    Http::fresh_or_reused(port, is_reused).await.upgrade(path, headers).await
}

async fn encodings_and_pings_are_negotiated_by_the_upgrade(kind: Kind) {
    let server = Server::start(kind, &["--limit", "ping_interval_ms=1000"]).await;
    let ann = server.user("ann").await;
    let offer = |protocols: &'static str| vec![("Sec-WebSocket-Protocol", protocols)];
    for is_reused in [false, true] {
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
            let what = format!("{query} {headers:?} reused: {is_reused}");
            let upgraded = open(server.port, is_reused, &format!("{PATH}{query}"), &headers).await;
            let (mut raw, response) = upgraded.unwrap_or_else(|response| panic!("{what}: {response:?}"));
            assert_eq!(response.header("Sec-WebSocket-Protocol"), expected, "{what}");
            assert_eq!(response.header("Sec-WebSocket-Extensions"), None, "{what}");
            if is_protobuf {
                raw.send(&frame(FIN | BINARY, &encode_connect(1, &ann.token))).await;
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
        // For clients that do not know the pings of the Centrifugo protocol.
        let path = format!("{PATH}?cf_ws_frame_ping_pong=true");
        let (raw, _) = open(server.port, is_reused, &path, &[]).await.expect("an upgrade");
        let mut wire = Wire::over(raw);
        let connected = wire.result(1, "connect", json!({"token": ann.token})).await;
        assert_eq!(keys(&connected), ["client", "expires", "subs", "ttl", "version"], "{connected}");
        for _ in 0..3 {
            let ping = wire.raw.frame().await;
            assert_eq!(ping.first, FIN | PING, "{ping:?}");
            wire.raw.send(&frame(FIN | PONG, &ping.payload)).await;
        }

        let evil = [("Origin", "https://evil.example.org")];
        let rejected = open(server.port, is_reused, PATH, &evil).await.err().expect("a rejected upgrade");
        assert_eq!(rejected.error(), (403, "origin_not_allowed".into()), "reused: {is_reused}");
        let own = [("Origin", "http://localhost")];
        let (raw, _) = open(server.port, is_reused, PATH, &own).await.expect("an upgrade");
        Wire::over(raw).result(1, "connect", json!({"token": ann.token})).await;
    }
}

async fn a_token_is_accepted_in_each_documented_place(kind: Kind) {
    let server = Server::start(kind, &["--query-token"]).await;
    let strict = Server::start(kind, &["--log", "debug"]).await;
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
        let channel = format!("user:{}", server.user_id(&ann).await);
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
        // A token of another server.
        (&server, PATH, &[], json!({"token": elsewhere.token})),
        // A token in the query, where that is switched off.
        (&strict, &in_query, &[], json!({})),
    ] {
        let mut wire = Wire::over(Raw::open(server.port, path, headers).await);
        wire.command(1, "connect", parameters.clone()).await;
        assert_eq!(wire.close_code().await, 3500, "{path} {headers:?} {parameters}");
    }
    // No token is logged.
    let secret = elsewhere.token.rsplit('.').next().expect("a token has dots");
    assert!(!strict.setup.log().contains(secret), "a token was logged");
}

async fn an_invalid_frame_closes_the_connection(kind: Kind) {
    let limits = ["--limit", "inbound_frame_limit_bytes=2000", "--limit", "text_limit_bytes=1000"];
    let server = Server::start(kind, &[&limits[..], &["--limit", "close_timeout_ms=100"]].concat()).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let mut neighbour = Wire::connect(&server, &ann).await;

    // Before `connect`.
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
        // Other commands before `connect`.
        r#"{"id":1,"ping":{}}"#,
        r#"{"id":1,"subscribe":{"channel":"room:r"}}"#,
        r#"{"send":{"data":{}}}"#,
        r#"{"id":1,"rpc":{"method":"rooms"}}"#,
        r#"{"id":1}"#,
    ] {
        let mut wire = Wire::open(server.port).await;
        wire.send(line).await;
        assert_eq!(wire.close_code().await, 3501, "{line}");
        neighbour.expect_quiet().await;
    }

    // After `connect`.
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
        // A second `connect`, even with the same token.
        again.as_str(),
    ] {
        let mut wire = Wire::connect(&server, &ann).await;
        wire.send(line).await;
        assert_eq!(wire.close_code().await, 3501, "{line}");
        neighbour.expect_quiet().await;
    }

    // Frames of the wrong kind, too long frames, and invalid UTF-8.
    let whole = |first: u8, payload: &[u8]| frame(FIN | first, payload);
    for (what, bytes, code) in [
        ("a binary frame", whole(BINARY, b"{}"), 3506),
        ("a long frame", whole(TEXT, &[b' '; 2001]), 1009),
        ("invalid UTF-8", whole(TEXT, b"{\"id\":1,\"ping\":{}, \"\xff\":1}"), 1007),
    ] {
        for is_connected in [false, true] {
            let mut wire = match is_connected {
                true => Wire::connect(&server, &ann).await,
                false => Wire::open(server.port).await,
            };
            wire.raw.send(&bytes).await;
            let frame = wire.raw.frame().await;
            assert_eq!(frame.close_code(), code, "{what}, connected: {is_connected}");
            neighbour.expect_quiet().await;
        }
    }
    for (what, bytes, code) in [
        ("a text frame", whole(TEXT, b"{}"), 3506),
        ("an empty frame", whole(BINARY, b""), 3501),
        ("a length without a message", whole(BINARY, &[5, 1]), 3501),
        ("a length without an end", whole(BINARY, &[0xff; 12]), 3501),
        ("an invalid message", whole(BINARY, &[3, 0xff, 0xff, 0xff]), 3501),
        ("a command before connect", whole(BINARY, &encode_command(1, field(11, ""))), 3501),
        ("a bad token", whole(BINARY, &encode_connect(1, "nonsense")), 3500),
    ] {
        let mut raw = Raw::open(server.port, &format!("{PATH}?format=protobuf"), &[]).await;
        raw.send(&bytes).await;
        let frame = raw.frame().await;
        assert_eq!(frame.close_code(), code, "{what}");
        assert!(frame.payload.len() > 2, "{what}: no reason");
        neighbour.expect_quiet().await;
    }
    // Data that is not JSON, in Protobuf, is an error of that publish only.
    let mut raw = Raw::open(server.port, &format!("{PATH}?format=protobuf"), &[]).await;
    let channel = field(1, "live:x");
    let publish = |data: &str| field(7, [channel.clone(), field(2, data)].concat());
    raw.send(&frame(FIN | BINARY, &encode_connect(1, token))).await;
    assert_eq!(reply_of(&raw.frame().await.payload), (1, CONNECT));
    raw.send(&frame(FIN | BINARY, &encode_command(2, field(5, &channel)))).await;
    assert_eq!(reply_of(&raw.frame().await.payload), (2, 6));
    raw.send(&frame(FIN | BINARY, &encode_command(3, publish("{x}")))).await;
    let payload = raw.frame().await.payload;
    assert_eq!(reply_of(&payload), (3, ERROR));
    assert!(payload.windows(2).any(|pair| pair == [1 << 3, 107]), "{payload:?}");
    raw.send(&frame(FIN | BINARY, &encode_command(4, publish("{}")))).await;
    raw.frame().await;
}

async fn a_rejected_command_closes_nothing(kind: Kind) {
    let server = Server::start(kind, &[]).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let mut wire = Wire::open(server.port).await;
    wire.result(1, "connect", json!({"token": ann.token})).await;
    // A message without an id is a pong, whatever else it contains, even if there was no ping.
    for pong in [json!({}), json!({"connect": {"token": "nonsense"}}), json!({"id": 0, "subscribe": {"channel": "x"}})]
    {
        wire.send(&pong.to_string()).await;
        wire.expect_quiet().await;
    }

    // Unknown commands and methods.
    for command in [json!({"id": 2}), json!({"id": 2, "dance": {}}), json!({"id": 2, "subscribe": null})] {
        wire.send(&command.to_string()).await;
        let reply = wire.next().await;
        assert_eq!(check_error(&reply, 2), 104, "{command}");
    }
    assert_eq!(wire.error(3, "rpc", json!({"method": "no such thing", "data": {}})).await, 104);
    assert_eq!(wire.error(3, "rpc", json!({"method": "x".repeat(10_000)})).await, 104);
    assert_eq!(wire.error(3, "rpc", json!({})).await, 104);
    // Of several commands, the first in the order of the protocol counts. Unknown fields are ignored.
    wire.send(
        r#"{"x":1,"presence":{"channel":"live:x"},"subscribe":{"channel":"live:x","what":[1],"data":{}},"id":4}"#,
    )
    .await;
    assert_eq!(wire.next().await, json!({"id": 4, "subscribe": {}}));
    // Ids may be reused, and have any value up to the largest.
    for id in [5, 5, 4, u32::MAX] {
        assert_eq!(wire.result(id, "ping", json!({})).await, json!({}));
    }
    // Messages that are never answered.
    for line in
        [r#"{"id":6,"send":{"data":{"x":1}}}"#, r#"{"send":{}}"#, r#"{"send":{"data":5}}"#, "{}", "{\"pong\":{}}"]
    {
        wire.send(line).await;
        wire.expect_quiet().await;
    }

    // Invalid channels.
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
    let own = format!("user:{}", server.user_id(&ann).await);
    assert_eq!(wire.error(7, "subscribe", json!({"channel": own})).await, 105);
    // Options that are not supported.
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

    // Deep nesting within `data`.
    for channel in ["room:r", "live:x"] {
        for depth in [100, 10_000] {
            let data = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
            let command = format!(r#"{{"id":9,"publish":{{"channel":"{channel}","data":{{"text":"x","x":{data}}}}}}}"#);
            wire.send(&command).await;
            let reply = wire.next().await;
            assert_eq!(check_error(&reply, 9), 107, "{channel} {depth}");
        }
    }
    assert_eq!(wire.error(9, "publish", room(json!({}))).await, 107);
    assert_eq!(wire.result(9, "publish", room(json!({"data": {"text": "x"}}))).await, json!({"offset": 1}));
}

async fn replies_and_pushes_have_exactly_the_documented_fields(kind: Kind) {
    let server = Server::start(kind, &[&["--limit", "publish_rate_per_second=0"][..], &WITH_JOINS].concat()).await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    server.create_room(&ann, "r").await;
    let epoch = text(&server.get("/rooms/r", &ann.token).await.expect(200)["room"]["epoch"]);
    let (ann_id, bob_id) = (server.user_id(&ann).await, server.user_id(&bob).await);

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

    // A publish is answered, and its publication is delivered, in either order.
    wire.command(7, "publish", json!({"channel": "room:r", "data": {"text": "x", "id": "1"}})).await;
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

    // Bob subscribes with a position, and leaves. Ann asked for notices. They may include her own join.
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
    // He has joined the room nevertheless.
    let joined = wire.push("room:r", "pub").await;
    assert_eq!(keys(&joined), ["data", "info", "offset", "time"], "{joined}");
    assert_eq!((&joined["data"], &joined["offset"]), (&json!({"added": bob_id, "username": "bob"}), &json!(2)));
    assert_eq!(joined["info"], info("", &bob_id, "bob"));
    let mut lost = json!({"recoverable": true, "positioned": true, "epoch": epoch, "offset": 2});
    lost["was_recovering"] = json!(true);
    lost["publications"] = json!([]);
    assert_eq!(other.result(3, "subscribe", recover(0, "another", 1)).await, lost);
    let join = loop {
        let push = watcher.next().await["push"].clone();
        match push.get("pub") {
            Some(publication) => assert_eq!(*publication, joined),
            None if push["join"]["info"]["user"] == ann_id.as_str() => {}
            None => break push["join"].clone(),
        }
    };
    let bobs_client = text(&join["info"]["client"]);
    assert_eq!(join, json!({"info": info(&bobs_client, &bob_id, "bob")}));
    assert_eq!(other.result(4, "unsubscribe", json!({"channel": "room:r"})).await, json!({}));
    assert_eq!(watcher.push("room:r", "leave").await, json!({"info": info(&bobs_client, &bob_id, "bob")}));
    let recovered = other.result(5, "subscribe", recover(0, &epoch, 3)).await;
    let expected = ["epoch", "positioned", "publications", "recoverable", "recovered", "was_recovering"];
    assert_eq!(keys(&recovered), expected, "the offset is 0: {recovered}");
    // Missed publications follow as pushes.
    assert_eq!(recovered["publications"], json!([]));
    assert_eq!(other.push("room:r", "pub").await, publication);
    assert_eq!(other.push("room:r", "pub").await, joined);
    assert_eq!(watcher.push("room:r", "join").await["info"]["user"], bob_id.as_str());

    // A channel without a history.
    assert_eq!(wire.result(9, "subscribe", json!({"channel": "live:x"})).await, json!({}));
    wire.command(10, "publish", json!({"channel": "live:x", "data": [1]})).await;
    let mut both = [wire.next().await, wire.next().await];
    both.sort_by_key(|message| message.get("push").is_some());
    assert_eq!(both[0], json!({"id": 10, "publish": {}}));
    let publication = &both[1]["push"]["pub"];
    assert_eq!(keys(publication), ["data", "info", "time"], "{publication}");
    assert_eq!((&publication["data"], &publication["info"]), (&json!([1]), &info("", &ann_id, "ann")));

    // Bob is removed from the room, and signs out.
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

async fn pipelined_commands_are_answered(kind: Kind) {
    let server = Server::start(kind, &[]).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let lines = |commands: &[Value]| commands.iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
    let connect = json!({"id": 1, "connect": {"token": ann.token}});
    let subscribe = json!({"id": 2, "subscribe": {"channel": "room:r"}});
    let live = json!({"id": 3, "subscribe": {"channel": "live:x"}});
    let presence = json!({"id": 4, "presence_stats": {"channel": "room:r"}});
    // In one frame, and in several without waiting for replies. The reply to `connect` comes first.
    for is_one_frame in [true, false] {
        let mut wire = Wire::open(server.port).await;
        let commands = [&connect, &subscribe, &live, &presence].map(Value::clone);
        if is_one_frame {
            wire.send(&lines(&commands)).await;
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
        // Replies of one channel come in order. Those of other channels may overtake them.
        assert!(rest.iter().position(|id| *id == 2) < rest.iter().position(|id| *id == 4), "{rest:?}");
        // All replies of one turn come in one frame.
        let pings: Vec<Value> = (10..30).map(|id| json!({"id": id, "ping": {}})).collect();
        wire.send(&lines(&pings)).await;
        assert_eq!(wire.frame().await, pings);
    }
    // Commands after an invalid one are ignored.
    let mut wire = Wire::connect(&server, &ann).await;
    let publish = json!({"id": 2, "publish": {"channel": "room:r", "data": {"text": "x"}}});
    wire.send(&format!("{}\n{}\nnonsense\n{}", subscribe, json!({"id": 3, "ping": {}}), publish)).await;
    assert_eq!(wire.close_code().await, 3501);
    assert_eq!(server.history(&ann, "r").await, Vec::<Value>::new());
    // Commands after a `connect` with a bad token are ignored.
    let mut wire = Wire::open(server.port).await;
    wire.send(&lines(&[json!({"id": 1, "connect": {"token": "nonsense"}}), subscribe])).await;
    assert_eq!(wire.raw.frame().await.close_code(), 3500);
}

async fn a_client_that_does_not_connect_is_disconnected(kind: Kind) {
    let server = Server::start(kind, &["--limit", "handshake_timeout_ms=500"]).await;
    let ann = server.user("ann").await;
    let mut connected = Wire::connect(&server, &ann).await;
    let mut silent = Wire::open(server.port).await;
    assert_eq!(silent.close_code().await, 4000);
    let mut raw = Raw::open(server.port, &format!("{PATH}?format=protobuf"), &[]).await;
    assert_eq!(raw.frame().await.close_code(), 4000);
    connected.expect_quiet().await;
}

async fn a_client_that_answers_no_ping_is_disconnected(kind: Kind) {
    let limits = ["--limit", "ping_interval_ms=300", "--limit", "pong_timeout_ms=300"];
    let server = Server::start(kind, &limits).await;
    let ann = server.user("ann").await;
    let mut silent = Wire::connect(&server, &ann).await;
    assert_eq!(silent.close_code().await, 3012);
    let path = format!("{PATH}?cf_ws_frame_ping_pong=true");
    let mut silent = Wire::over(Raw::open(server.port, &path, &[]).await);
    silent.result(1, "connect", json!({"token": ann.token})).await;
    assert_eq!(silent.close_code().await, 3012);
    // A pong keeps the connection, and so does any other message.
    for answer in ["{}", r#"{"send":{"data":{}}}"#, r#"{"id":5,"ping":{}}"#] {
        let mut wire = Wire::connect(&server, &ann).await;
        let mut pings = 0;
        while pings < 5 {
            let frame = wire.raw.frame().await;
            assert_eq!(frame.first, FIN | TEXT, "{answer}: {frame:?}");
            if frame.payload == b"{}" {
                pings += 1;
                wire.send(answer).await;
            }
        }
    }
}

async fn an_expired_token_is_an_error_on_connect_and_a_close_code_on_refresh(kind: Kind) {
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
    wire.send(&commands.map(|command| command.to_string()).join("\n")).await;
    let replies = wire.frame().await;
    assert_eq!(replies.len(), 1, "later commands were answered: {replies:?}");
    assert_eq!(check_error(&replies[0], 1), 109);
    wire.send("nonsense").await;
    // The client closes the connection itself. Otherwise the close frame has no code, which could overtake the error.
    if let Some(frame) = wire.raw.receive().await {
        assert_eq!((frame.first, frame.payload.as_slice()), (FIN | CLOSE, &[][..]));
    }

    // A failed refresh closes the connection, since SDKs would take an error for final.
    for (token, code) in
        [(&old.token, 3005), (&eve.token, 3500), (&"nonsense".to_owned(), 3500), (&String::new(), 3500)]
    {
        let ann = server.user("ann").await;
        let mut wire = Wire::connect(&server, &ann).await;
        wire.command(2, "refresh", json!({"token": token})).await;
        assert_eq!(wire.close_code().await, code, "{token}");
    }
}

/// As over HTTP.
async fn rooms_are_listed_after_a_name_in_any_form(kind: Kind) {
    let server = Server::start(kind, &[]).await;
    let ann = server.user("ann").await;
    for room in ["abc", "zed"] {
        server.create_room(&ann, room).await;
    }
    let mut wire = Wire::connect(&server, &ann).await;
    for (after, expected) in [("a", &["abc", "zed"][..]), ("abc", &["zed"]), ("ABC", &["zed"]), ("ＺＥＤ", &[])] {
        let answer = wire.result(2, "rpc", json!({"method": "rooms", "data": {"after": after}})).await;
        let rooms: Vec<_> =
            answer["data"]["rooms"].as_array().unwrap().iter().map(|room| text(&room["name"])).collect();
        assert_eq!(rooms, expected, "{after}");
    }
    assert_eq!(wire.error(3, "rpc", json!({"method": "rooms", "data": {"after": "@x"}})).await, 107);
    assert_eq!(server.get("/rooms?after=@x", &ann.token).await.error(), (422, "invalid_field".into()));
}

async fn data_is_delivered_without_white_space(kind: Kind) {
    let server = Server::start(kind, &[]).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let mut wire = Wire::connect(&server, &ann).await;
    for (id, channel) in [(2, "room:r"), (3, "live:x")] {
        wire.result(id, "subscribe", json!({"channel": channel})).await;
    }
    // Most receivers could not decode half of a character.
    for channel in ["room:r", "live:x"] {
        wire.send(&format!(r#"{{"id":4,"publish":{{"channel":"{channel}","data":{{"text":"\ud83d"}}}}}}"#)).await;
        let reply = wire.next().await;
        assert_eq!(check_error(&reply, 4), 107, "{channel}");
        assert!(text(&reply["error"]["message"]).contains("surrogate"), "{reply}");
    }
    // A newline between the tokens of the data would break a frame in JSON.
    let mut raw = Raw::open(server.port, &format!("{PATH}?format=protobuf"), &[]).await;
    raw.send(&frame(FIN | BINARY, &encode_connect(1, &ann.token))).await;
    assert_eq!(reply_of(&raw.frame().await.payload), (1, CONNECT));
    let compact = r#"{"text":"a \n b","id":"1"}"#;
    let spaced = " {\n\t\"text\" : \"a \\n b\" ,\r\n \"id\":\"1\" }\n";
    for (id, channel) in [(2, "live:x"), (3, "room:r")] {
        let channel = field(1, channel);
        raw.send(&frame(FIN | BINARY, &encode_command(id, field(5, &channel)))).await;
        assert_eq!(reply_of(&raw.frame().await.payload), (id as u8, 6));
        raw.send(&frame(FIN | BINARY, &encode_command(id + 10, field(7, [channel, field(2, spaced)].concat())))).await;
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
    // The same by HTTP and by the plain protocol.
    let body = json!({"text": "line\nline"});
    server.post("/rooms/r/messages", &ann.token, body).await.expect(201);
    assert_eq!(wire.push("room:r", "pub").await["data"]["text"], "line\nline");
    let mut plain = server.join(&ann, "room=r&format=json").await;
    plain.send("{ \"text\" :\n\"pretty\"\n}").await;
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
    // Connect, subscribe, publish and unsubscribe, without waiting for replies.
    let mut commands =
        vec![json!({"id": 1, "connect": {"token": ann.token}}), json!({"id": 2, "subscribe": {"channel": "room:r"}})];
    let publish = |id: u64| json!({"id": id + 10, "publish": {"channel": "room:r", "data": {"text": id.to_string()}}});
    commands.extend((1..=PUBLISHES).map(publish));
    commands.push(json!({"id": 3, "unsubscribe": {"channel": "room:r"}}));
    commands.push(publish(PUBLISHES + 1));
    wire.send(&commands.iter().map(Value::to_string).collect::<Vec<_>>().join("\n")).await;
    let (mut published, mut is_unsubscribed) = (0, false);
    while published < PUBLISHES || !is_unsubscribed {
        let message = wire.next().await;
        if message["push"].get("pub").is_some() {
            assert!(!is_unsubscribed, "a publication follows the reply to unsubscribe: {message}");
        } else if message["id"] == 3 {
            is_unsubscribed = true;
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
    reader.expect_quiet().await;
}

/// Errors are answered up to a limit. Beyond it the connection is closed, with 3509 after invalid commands and with
/// 3013 after too many publishes.
async fn a_client_that_keeps_causing_errors_is_disconnected(kind: Kind) {
    let errors = ["--limit", "error_burst_limit=3", "--limit", "error_rate_per_second=1"];
    let publishes = ["--limit", "publish_burst_limit=1", "--limit", "publish_rate_per_second=1"];
    let server = Server::start(kind, &[&errors[..], &publishes].concat()).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let invalid = |id: u32| json!({"id": id, "rpc": {"method": "nothing"}}).to_string();
    let fast = |id: u32| json!({"id": id, "publish": {"channel": "room:r", "data": {"text": "x"}}}).to_string();
    let mut wire = Wire::connect(&server, &ann).await;
    wire.send(&[invalid(2), invalid(3), invalid(4)].join("\n")).await;
    for id in 2..=4 {
        assert_eq!(check_error(&wire.next().await, id), 104);
    }
    wire.send(&[invalid(5), invalid(6)].join("\n")).await;
    assert_eq!(wire.close_code().await, 3509);

    let mut wire = Wire::connect(&server, &ann).await;
    wire.result(2, "subscribe", json!({"channel": "room:r"})).await;
    let publishes: Vec<String> = (3..20).map(fast).collect();
    wire.send(&publishes.join("\n")).await;
    assert_eq!(wire.close_code().await, 3013);
}

/// Of two commands in one frame that ask the store, the second finds the list full, and gets an error. (Reads would
/// wait for each other; a token without a user's id is looked up beside them.)
async fn waiting_commands_are_bounded(kind: Kind) {
    let server = Server::start(kind, &["--shards", "2", "--limit", "pending_commands_limit=1"]).await;
    let ann = server.user("ann").await;
    let mut wire = Wire::connect(&server, &ann).await;
    let refresh = |id: u32| json!({"id": id, "refresh": {"token": ann.token}}).to_string();
    wire.send(&[refresh(2), refresh(3)].join("\n")).await;
    assert_eq!(check_error(&wire.next().await, 3), 100);
    assert!(wire.next().await["refresh"].is_object());
    assert!(wire.result(4, "refresh", json!({"token": ann.token})).await.is_object());
}

/// During an upgrade, a newer server may store what this one does not know. The room once seemed to have a gap for
/// ever.
async fn kinds_of_newer_releases_are_shown_as_empty_publications(kind: Kind, shards: &str) {
    let mut server = Server::start(kind, &["--shards", shards]).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let mut wire = Wire::connect(&server, &ann).await;
    wire.result(2, "subscribe", json!({"channel": "room:r"})).await;
    let mut plain = server.join(&ann, "room=r").await;
    let stored = "UPDATE heads SET last_offset = 1;
        INSERT INTO messages (room_id, room_offset, number, kind, user_id, client_id, body, created_at)
        SELECT h.room_id, 1, 0, 99, u.id, '~new-1', 'secret', 1700 FROM heads h, users u";
    server.setup.backdoor().await.execute(stored).await;
    let user = json!({"id": server.user_id(&ann).await, "username": "ann"});
    let unknown = json!({"type": "unknown", "offset": 1, "user": user, "time": 1700});
    plain.send("after").await;
    // Live, from the ring, and from the database.
    let mut late = server.join(&ann, "room=r&since=0").await;
    for ws in [&mut plain, &mut late] {
        assert_eq!(ws.event().await, unknown);
        assert_eq!(ws.message().await, (2, "after".to_owned()));
    }
    let publication = wire.push("room:r", "pub").await;
    assert_eq!((&publication["data"], number(&publication["offset"])), (&json!({}), 1));
    assert_eq!(wire.push("room:r", "pub").await["data"]["text"], "after");
    let history = wire.result(3, "history", json!({"channel": "room:r", "limit": 9})).await;
    let data: Vec<_> = history["publications"].as_array().expect("a list").iter().map(|p| &p["data"]).collect();
    assert_eq!((data.len(), data[0]), (2, &json!({})));
    let chats = server.get("/user/getchats?room=r&memberships=true", &ann.token).await.expect(200);
    assert_eq!(chats["messages"].as_array().map(Vec::len), Some(1));
    server.stop().await;
    let server = server.restart().await;
    let mut late = server.join(&ann, "room=r&since=0").await;
    assert_eq!(late.event().await, unknown);
}

/// Edits, deletions and reactions: live, recovered from memory, recovered from the database, and in the history.
async fn a_late_reader_sees_the_current_content(kind: Kind, shards: &str) {
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
        wire.command(id, "publish", json!({"channel": "room:r", "data": data})).await;
        let (mut reply, mut push) = (wire.next().await, wire.next().await);
        if reply["push"].is_object() {
            std::mem::swap(&mut reply, &mut push);
        }
        assert_eq!(reply, json!({"id": id, "publish": {"offset": offset}}));
        assert_eq!(push["push"]["pub"]["offset"], offset);
        assert_eq!(push["push"]["pub"]["data"], data, "live data differs from what was sent");
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
        // Messages of another user, deleted ones, and offsets that are not messages.
        for (code, data) in [
            (103, json!({"edit": 1, "text": "mine"})),
            (103, json!({"delete": 1})),
            (107, json!({"react": 2, "emoji": "👍"})),
            (107, json!({"edit": 3, "text": "an edit"})),
            (107, json!({"react": 99, "emoji": "👍"})),
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

async fn limits_of_presence_notices_and_subscriptions_hold(kind: Kind, shards: &str) {
    alone!("each node has its own limits");
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
    // Presence is truncated, its counts are not.
    let mut last = others.pop().expect("there are four");
    let presence = last.result(3, "presence", json!({"channel": "room:r"})).await;
    assert_eq!(presence["presence"].as_object().map(serde_json::Map::len), Some(2), "{presence}");
    let stats = last.result(4, "presence_stats", json!({"channel": "room:r"})).await;
    assert_eq!(stats, json!({"num_clients": 5, "num_users": 5}));
    // Joins are announced while the room is small.
    let (mut joins, mut online) = (Vec::new(), None);
    first.command(3, "ping", json!({})).await;
    loop {
        let message = first.next().await;
        if message["id"] == 3 {
            break;
        }
        // The number of subscribers comes between them.
        online = message["push"]["pub"]["data"]["online"].as_u64().or(online);
        if let Some(join) = message["push"].get("join") {
            joins.push(text(&join["info"]["conn_info"]["username"]));
        }
    }
    joins.retain(|name| name != "ann");
    assert_eq!(joins, ["user0"]);
    // After that only the number of subscribers is announced, with a delay.
    while online != Some(5) {
        online = first.push("room:r", "pub").await["data"]["online"].as_u64();
    }
    // The subscriptions of a connection are limited.
    for channel in ["live:1", "live:2"] {
        last.result(5, "subscribe", json!({"channel": channel})).await;
    }
    assert_eq!(last.error(5, "subscribe", json!({"channel": "live:3"})).await, 106);
    last.result(5, "unsubscribe", json!({"channel": "live:1"})).await;
    last.result(5, "subscribe", json!({"channel": "live:3"})).await;

    // The connections of a user are limited.
    let few = Server::start(kind, &["--shards", "1", "--limit", "user_connections_limit=1"]).await;
    let ann = few.user("ann").await;
    let mut wire = Wire::connect(&few, &ann).await;
    let mut second = Wire::open(few.port).await;
    second.command(1, "connect", json!({"token": ann.token})).await;
    assert_eq!(second.close_code().await, 3504);
    wire.expect_quiet().await;
}
