//! Tests of both encodings.

use super::*;
use crate::protocol::LiveEntry;
use proptest::prelude::*;
use prost::Message;
use serde_json::{Map, Value, json};
use uproar_model::{Kind, Publication, UserId};

const ENCODINGS: [Encoding; 2] = [Encoding::Json, Encoding::Protobuf];

// ── commands ────────────────────────────────────────────────────────────────────────────────────────────────────────

fn decode_all(encoding: Encoding, mut frame: &[u8]) -> Vec<Result<Command<'_>, Malformed>> {
    let mut commands = Vec::new();
    while let Some(command) = next_command(encoding, &mut frame) {
        let is_over = command.is_err();
        commands.push(command);
        if is_over {
            break;
        }
    }
    commands
}

/// Decodes a text frame that holds one command.
fn line(json: &str) -> Result<Request<'_>, Malformed> {
    let mut commands = decode_all(Encoding::Json, json.as_bytes());
    assert_eq!(commands.len(), 1, "{json}");
    commands.remove(0).map(|command| command.request)
}

fn binary(command: &proto::Command) -> Vec<u8> {
    command.encode_length_delimited_to_vec()
}

fn binary_request(command: &proto::Command) -> Result<Request<'static>, Malformed> {
    let frame = binary(command);
    protobuf::next_command(&mut &frame[..]).unwrap().map(|command| command.request)
}

/// Encodes a command like a client. If `is_verbose`, JSON includes defaults and unknown fields.
fn encode(encoding: Encoding, command: &Command<'_>, is_verbose: bool) -> Vec<u8> {
    match encoding {
        Encoding::Json => encode_json(command, is_verbose),
        Encoding::Protobuf => encode_protobuf(command),
    }
}

fn encode_json(command: &Command<'_>, is_verbose: bool) -> Vec<u8> {
    let data = |bytes: &[u8]| match bytes {
        [] => Value::Null,
        bytes => serde_json::from_slice(bytes).unwrap(),
    };
    let (name, mut request) = match &command.request {
        Request::Pong | Request::Unknown => ("", Value::Null),
        Request::Connect(c) => {
            let headers = c.authorization.as_ref().map(|value| json!({"X-Other": "o", "aUthorization": value}));
            ("connect", json!({"token": c.token, "headers": headers, "name": c.name}))
        }
        Request::Subscribe(s) => (
            "subscribe",
            json!({
                "channel": s.channel, "recover": s.recover, "offset": s.offset, "epoch": s.epoch,
                "join_leave": s.join_leave, "flag": s.flag, "tf": s.has_filter.then(|| json!({"key": "k"})),
                "type": s.is_special.then_some(4),
            }),
        ),
        Request::Unsubscribe { channel } => ("unsubscribe", json!({"channel": channel})),
        Request::Publish { channel, data: bytes, is_special } => {
            ("publish", json!({"channel": channel, "data": data(bytes), "type": i32::from(*is_special)}))
        }
        Request::Presence { channel } => ("presence", json!({"channel": channel})),
        Request::PresenceStats { channel } => ("presence_stats", json!({"channel": channel})),
        Request::History(h) => {
            let since = h.since.as_ref().map(|since| json!({"offset": since.offset, "epoch": since.epoch}));
            ("history", json!({"channel": h.channel, "limit": h.limit, "since": since, "reverse": h.reverse}))
        }
        Request::Ping => ("ping", json!({})),
        Request::Send { data: bytes } => ("send", json!({"data": data(bytes)})),
        Request::Rpc { method, data: bytes } => ("rpc", json!({"method": method, "data": data(bytes)})),
        Request::Refresh { token } => ("refresh", json!({"token": token})),
        Request::SubRefresh => ("sub_refresh", json!({"channel": "c", "token": "t"})),
    };
    let mut line = Map::new();
    if is_verbose {
        line.insert("unknown".into(), json!({"id": 9, "deep": [[[[{}]]]]}));
        line.insert("connect".into(), Value::Null);
        if let Value::Object(request) = &mut request {
            request.insert("unknown".into(), json!(["a", 1.5e300]));
        }
    } else if let Value::Object(request) = &mut request {
        request.retain(|_, value| {
            !matches!(value, Value::Null | Value::Bool(false)) && *value != json!(0) && *value != ""
        });
    }
    if command.id > 0 || is_verbose {
        line.insert("id".into(), command.id.into());
    }
    if !name.is_empty() {
        line.insert(name.into(), request);
    }
    serde_json::to_vec(&line).unwrap()
}

fn encode_protobuf(command: &Command<'_>) -> Vec<u8> {
    let mut out = proto::Command { id: command.id, ..Default::default() };
    let channel = |channel: &str| Some(proto::ChannelRequest { channel: channel.into() });
    match &command.request {
        Request::Pong | Request::Unknown => {}
        Request::Connect(c) => {
            let headers = c.authorization.iter();
            let headers = headers.map(|value| ("AUTHORIZATION".into(), value.clone().into_owned())).collect();
            let (token, name) = (c.token.clone().into_owned(), c.name.clone().into_owned());
            out.connect = Some(proto::ConnectRequest { token, name, headers });
        }
        Request::Subscribe(s) => {
            out.subscribe = Some(proto::SubscribeRequest {
                channel: s.channel.clone().into_owned(),
                recover: s.recover,
                epoch: s.epoch.clone().into_owned(),
                offset: s.offset,
                join_leave: s.join_leave,
                tf: s.has_filter.then(Vec::new),
                flag: s.flag,
                r#type: s.is_special.into(),
            });
        }
        Request::Unsubscribe { channel: name } => out.unsubscribe = channel(name),
        Request::Publish { channel, data, is_special } => {
            let (channel, data) = (channel.clone().into_owned(), data.to_vec());
            out.publish = Some(proto::PublishRequest { channel, data, r#type: (*is_special).into() });
        }
        Request::Presence { channel: name } => out.presence = channel(name),
        Request::PresenceStats { channel: name } => out.presence_stats = channel(name),
        Request::History(h) => {
            let since = h.since.as_ref();
            out.history = Some(proto::HistoryRequest {
                channel: h.channel.clone().into_owned(),
                limit: h.limit,
                since: since.map(|s| proto::StreamPosition { offset: s.offset, epoch: s.epoch.clone().into_owned() }),
                reverse: h.reverse,
            });
        }
        Request::Ping => out.ping = Some(proto::Empty {}),
        Request::Send { data } => out.send = Some(proto::SendRequest { data: data.to_vec() }),
        Request::Rpc { method, data } => {
            out.rpc = Some(proto::RpcRequest { data: data.to_vec(), method: method.clone().into_owned() });
        }
        Request::Refresh { token } => out.refresh = Some(proto::RefreshRequest { token: token.clone().into_owned() }),
        Request::SubRefresh => out.sub_refresh = Some(proto::Empty {}),
    }
    binary(&out)
}

fn any_text() -> impl Strategy<Value = Cow<'static, str>> {
    any::<String>().prop_map(Cow::Owned)
}

/// Compact JSON, or nothing.
fn any_data() -> impl Strategy<Value = Cow<'static, [u8]>> {
    let text = any::<String>().prop_map(|text| serde_json::to_vec(&json!({"text": text})).unwrap());
    prop_oneof![text, Just(Vec::new()), Just(b"[1,{\"a\":null}]".to_vec())].prop_map(Cow::Owned)
}

fn any_command() -> impl Strategy<Value = Command<'static>> {
    let authorization = prop::option::of(any_text().prop_filter("empty counts as absent", |value| !value.is_empty()));
    let connect = (any_text(), authorization, any_text())
        .prop_map(|(token, authorization, name)| Request::Connect(Connect { token, authorization, name }));
    let offset = 0u64..1 << 53;
    let subscribe = (any_text(), offset.clone(), any_text(), any::<[bool; 4]>(), any::<i64>()).prop_map(
        |(channel, offset, epoch, [recover, join_leave, has_filter, is_special], flag)| {
            Request::Subscribe(Subscribe { channel, recover, offset, epoch, join_leave, flag, has_filter, is_special })
        },
    );
    let since = prop::option::of((offset, any_text()).prop_map(|(offset, epoch)| StreamPosition { offset, epoch }));
    let history = (any_text(), any::<i32>(), since, any::<bool>())
        .prop_map(|(channel, limit, since, reverse)| Request::History(History { channel, limit, since, reverse }));
    let publish = (any_text(), any_data(), any::<bool>()).prop_map(|(channel, data, is_special)| Request::Publish {
        channel,
        data,
        is_special,
    });
    let request = prop_oneof![
        connect,
        subscribe,
        any_text().prop_map(|channel| Request::Unsubscribe { channel }),
        publish,
        any_text().prop_map(|channel| Request::Presence { channel }),
        any_text().prop_map(|channel| Request::PresenceStats { channel }),
        history,
        Just(Request::Ping),
        (any_text(), any_data()).prop_map(|(method, data)| Request::Rpc { method, data }),
        any_text().prop_map(|token| Request::Refresh { token }),
        Just(Request::SubRefresh),
        Just(Request::Unknown),
    ];
    prop_oneof![
        10 => (1u32.., request).prop_map(|(id, request)| Command { id, request }),
        1 => (any::<u32>(), any_data()).prop_map(|(id, data)| Command { id, request: Request::Send { data } }),
        1 => Just(Command { id: 0, request: Request::Pong }),
    ]
}

proptest! {
    #[test]
    fn encoded_commands_decode_to_the_same_commands(
        commands in prop::collection::vec(any_command(), 1..5),
        is_verbose in any::<bool>(),
        ends_with_newline in any::<bool>(),
    ) {
        for encoding in ENCODINGS {
            let messages: Vec<Vec<u8>> = commands.iter().map(|c| encode(encoding, c, is_verbose)).collect();
            let mut frame = messages.join(match encoding {
                Encoding::Json => &b"\n"[..],
                Encoding::Protobuf => b"",
            });
            if encoding == Encoding::Json && ends_with_newline {
                frame.push(b'\n');
            }
            let decoded: Result<Vec<Command<'_>>, Malformed> = decode_all(encoding, &frame).into_iter().collect();
            prop_assert_eq!(decoded.as_ref(), Ok(&commands));
        }
    }

    #[test]
    fn bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for encoding in ENCODINGS {
            decode_all(encoding, &bytes);
        }
    }

    #[test]
    fn damaged_commands_never_panic(
        command in any_command(),
        damages in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        for encoding in ENCODINGS {
            let mut frame = encode(encoding, &command, true);
            for (at, byte) in &damages {
                let at = at.index(frame.len());
                frame[at] = *byte;
            }
            decode_all(encoding, &frame);
            frame.truncate(damages[0].0.index(frame.len()));
            decode_all(encoding, &frame);
        }
    }
}

#[test]
fn one_newline_separates_lines() {
    let pong = || Ok(Command { id: 0, request: Request::Pong });
    let ping = || Ok(Command { id: 1, request: Request::Ping });
    assert_eq!(decode_all(Encoding::Json, b""), []);
    assert_eq!(decode_all(Encoding::Json, b"{}"), [pong()]);
    assert_eq!(decode_all(Encoding::Json, b" {} \r\n"), [pong()]);
    let frame = b"{\"id\":1,\"ping\":{}}\n{}";
    assert_eq!(decode_all(Encoding::Json, frame), [ping(), pong()]);
    assert_eq!(decode_all(Encoding::Json, b"{}\n{\"id\":1,\"ping\":{}}\n"), [pong(), ping()]);
    for frame in ["\n", " \n", "{}\n\n{}", "{}\n\n", "\n{}", "{}\n ", "{}\n\r\n"] {
        assert_eq!(decode_all(Encoding::Json, frame.as_bytes()).last(), Some(&Err(Malformed)), "{frame:?}");
    }
}

#[test]
fn lines_that_are_not_valid_command_objects_are_malformed() {
    for json in [
        "nonsense",
        "[]",
        "null",
        "7",
        "[1,{\"token\":\"t\"}]",
        "{",
        "{}{}",
        "{} {}",
        "{\"id\":\"1\"}",
        "{\"id\":-1}",
        "{\"id\":1.5}",
        "{\"id\":4294967296}",
        "{\"id\":1,\"id\":2}",
        "{\"id\":1,\"ping\":7}",
        "{\"id\":1,\"ping\":[]}",
        "{\"id\":1,\"connect\":\"t\"}",
        "{\"id\":1,\"connect\":[\"t\"]}",
        "{\"id\":1,\"connect\":{\"token\":7}}",
        "{\"id\":1,\"connect\":{\"headers\":[]}}",
        "{\"id\":1,\"connect\":{\"headers\":{\"Authorization\":7}}}",
        "{\"id\":1,\"subscribe\":{\"channel\":\"a\",\"offset\":\"7\"}}",
        "{\"id\":1,\"subscribe\":{\"channel\":\"a\",\"offset\":-7}}",
        "{\"id\":1,\"subscribe\":{\"channel\":\"a\",\"offset\":9007199254740992}}",
        "{\"id\":1,\"subscribe\":{\"channel\":\"a\",\"recover\":1}}",
        "{\"id\":1,\"history\":{\"channel\":\"a\",\"since\":[1,\"e\"]}}",
        "{\"id\":1,\"history\":{\"channel\":\"a\",\"limit\":2147483648}}",
        "{\"id\":1,\"publish\":{\"channel\":\"a\",\"data\":nonsense}}",
        "{\"id\":1,\"publish\":{\"channel\":\"\\ud800\",\"data\":{}}}",
        "{\"send\":7}",
    ] {
        assert_eq!(line(json), Err(Malformed), "{json}");
    }
    assert_eq!(json::next_command(&mut &b"{\"id\":1,\"x\":\"\xff\"}"[..]), Some(Err(Malformed)), "not UTF-8");
}

#[test]
fn the_first_request_in_schema_order_counts() {
    // Without an id and without send it is a pong, whatever else it contains.
    for json in ["{}", "{\"id\":0}", "{\"id\":null,\"connect\":{}}", "{\"connect\":7,\"x\":1}", "{\"send\":null}"] {
        assert_eq!(line(json), Ok(Request::Pong), "{json}");
    }
    for json in ["{\"id\":1}", "{\"id\":1,\"x\":{}}", "{\"id\":1,\"connect\":null}"] {
        assert_eq!(line(json), Ok(Request::Unknown), "{json}");
    }
    let send = Request::Send { data: Cow::Borrowed(b"1") };
    assert_eq!(line("{\"id\":3,\"send\":{\"data\":1}}"), Ok(send.clone()), "Java sends an id");
    assert_eq!(line("{\"ping\":{},\"send\":{\"data\":1}}"), Ok(send.clone()), "only a send needs no id");
    assert_eq!(line("{\"send\":{}}"), Ok(Request::Send { data: Cow::Borrowed(b"") }));

    // Each request, together with all later ones.
    let names = [
        "connect",
        "subscribe",
        "unsubscribe",
        "publish",
        "presence",
        "presence_stats",
        "history",
        "ping",
        "send",
        "rpc",
        "refresh",
        "sub_refresh",
    ];
    let channel = || Some(proto::ChannelRequest::default());
    let mut command = proto::Command {
        id: 1,
        connect: Some(Default::default()),
        subscribe: Some(Default::default()),
        unsubscribe: channel(),
        publish: Some(Default::default()),
        presence: channel(),
        presence_stats: channel(),
        history: Some(Default::default()),
        ping: Some(Default::default()),
        send: Some(Default::default()),
        rpc: Some(Default::default()),
        refresh: Some(Default::default()),
        sub_refresh: Some(Default::default()),
    };
    let named = |request: &Request<'_>| match request {
        Request::Pong => "pong",
        Request::Connect(_) => "connect",
        Request::Subscribe(_) => "subscribe",
        Request::Unsubscribe { .. } => "unsubscribe",
        Request::Publish { .. } => "publish",
        Request::Presence { .. } => "presence",
        Request::PresenceStats { .. } => "presence_stats",
        Request::History(_) => "history",
        Request::Ping => "ping",
        Request::Send { .. } => "send",
        Request::Rpc { .. } => "rpc",
        Request::Refresh { .. } => "refresh",
        Request::SubRefresh => "sub_refresh",
        Request::Unknown => "unknown",
    };
    for (index, name) in names.iter().enumerate() {
        let later: Vec<String> = names[index..].iter().rev().map(|name| format!("\"{name}\":{{}}")).collect();
        let json = format!("{{{},\"id\":1}}", later.join(","));
        assert_eq!(named(&line(&json).unwrap()), *name);
        assert_eq!(named(&binary_request(&command).unwrap()), *name);
        match index {
            0 => command.connect = None,
            1 => command.subscribe = None,
            2 => command.unsubscribe = None,
            3 => command.publish = None,
            4 => command.presence = None,
            5 => command.presence_stats = None,
            6 => command.history = None,
            7 => command.ping = None,
            8 => command.send = None,
            9 => command.rpc = None,
            10 => command.refresh = None,
            _ => command.sub_refresh = None,
        }
    }
    assert_eq!(binary_request(&command), Ok(Request::Unknown));

    let with_everything = proto::Command { connect: Some(Default::default()), ..Default::default() };
    assert_eq!(binary_request(&with_everything), Ok(Request::Pong));
    let with_send = proto::Command { send: Some(proto::SendRequest { data: b"1".into() }), ..with_everything };
    assert_eq!(binary_request(&with_send), Ok(send));
}

#[test]
fn null_counts_as_absent() {
    let json = r#"{"id":1,"connect":{"token":null,"headers":{"authorization":null},"name":null,"subs":null}}"#;
    assert_eq!(line(json), Ok(Request::Connect(Connect::default())));
    let json = r#"{"id":1,"subscribe":{"channel":"a","recover":null,"offset":null,"epoch":null,"join_leave":null,
        "flag":null,"tf":null,"type":null,"delta":null}}"#;
    let subscribe = Subscribe { channel: "a".into(), ..Default::default() };
    assert_eq!(line(&json.replace('\n', "")), Ok(Request::Subscribe(subscribe)));
    let json = r#"{"id":1,"history":{"channel":"a","limit":null,"since":null,"reverse":null}}"#;
    assert_eq!(line(json), Ok(Request::History(History { channel: "a".into(), ..Default::default() })));
    let json = r#"{"id":1,"history":{"channel":null,"since":{"offset":null,"epoch":null}}}"#;
    let history = History { since: Some(StreamPosition::default()), ..Default::default() };
    assert_eq!(line(json), Ok(Request::History(history)));
    let json = r#"{"id":1,"publish":{"channel":"a","data":null,"type":null}}"#;
    let nothing = Cow::Borrowed(&b""[..]);
    assert_eq!(line(json), Ok(Request::Publish { channel: "a".into(), data: nothing.clone(), is_special: false }));
    let json = r#"{"id":1,"rpc":{"method":null,"data":null}}"#;
    assert_eq!(line(json), Ok(Request::Rpc { method: "".into(), data: nothing }));
    assert_eq!(line(r#"{"id":1,"refresh":{"token":null}}"#), Ok(Request::Refresh { token: "".into() }));
}

#[test]
fn data_is_unchanged_and_not_copied() {
    let data = |depth: usize| format!(" {}1.10{}", "[ ".repeat(depth), " ]".repeat(depth));
    for depth in [1, 63, 65, 100, 127, 128, 1 << 20] {
        let data = data(depth);
        let json = format!(r#"{{"id":1,"publish":{{"channel":"a","data":{data}}},"x":{data}}}"#);
        let Ok(Request::Publish { data: Cow::Borrowed(read), channel: Cow::Borrowed("a"), .. }) = line(&json) else {
            panic!("not borrowed, at depth {depth}");
        };
        assert_eq!(read, data.trim_start().as_bytes());
    }
    let deep = "[".repeat(1 << 20);
    assert_eq!(line(&format!(r#"{{"id":1,"publish":{{"data":{deep}"#)), Err(Malformed));
    assert_eq!(line(&format!(r#"{{"id":1,"publish":{deep}"#)), Err(Malformed));
    assert_eq!(line(&deep), Err(Malformed));
}

#[test]
fn the_authorization_header_is_found_in_any_case() {
    for name in ["Authorization", "authorization", "AUTHORIZATION"] {
        let json = format!(r#"{{"id":1,"connect":{{"headers":{{"A":"a","{name}":"Bearer t","Z":"z"}}}}}}"#);
        let connect = Connect { authorization: Some("Bearer t".into()), ..Default::default() };
        assert_eq!(line(&json), Ok(Request::Connect(connect)));
    }
    let empty = r#"{"id":1,"connect":{"headers":{"Authorization":"","authorization":"Bearer t"}}}"#;
    let connect = Connect { authorization: Some("Bearer t".into()), ..Default::default() };
    assert_eq!(line(empty), Ok(Request::Connect(connect)));
}

fn hex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// Commands of `centrifuge-python` 0.7, encoded with its own `client_pb2`.
#[test]
fn commands_of_a_real_client_are_decoded() {
    let connect = Connect { token: "t".into(), authorization: Some("Bearer u".into()), name: "python".into() };
    let subscribe = Subscribe {
        channel: "room:a".into(),
        recover: true,
        offset: 7,
        epoch: "e".into(),
        join_leave: true,
        flag: 3,
        has_filter: true,
        is_special: false,
    };
    let since = Some(StreamPosition { offset: 300, epoch: "e".into() });
    let history = History { channel: "room:a".into(), limit: -1, since, reverse: true };
    let channel = || Cow::Borrowed("a");
    let publish =
        |data: &'static [u8], is_special| Request::Publish { channel: "room:a".into(), data: data.into(), is_special };
    for (bytes, id, request) in [
        (
            "3f0801223b0a017412027b7d1a0c0a06757365723a31120218012206707974686f6e2a013132190a0d417574686f72697a6174696f\
             6e12084265617265722075",
            1,
            Request::Connect(connect),
        ),
        (
            "2f08022a2b0a06726f6f6d3a611201781801320165380742027b7d4801500158016206666f7373696c6a0312016b7003",
            2,
            Request::Subscribe(subscribe),
        ),
        ("210803521d0a06726f6f6d3a6138ffffffffffffffffff01420608ac021201654801", 3, Request::History(history)),
        ("1b08043a170a06726f6f6d3a61120d7b2274657874223a226869227d", 4, publish(b"{\"text\":\"hi\"}", false)),
        // A `publish` of the JavaScript SDK with a map.
        ("0e08043a0a0a06726f6f6d3a611801", 4, publish(b"", true)),
        ("0e08056a0a0a027b7d120472656164", 5, Request::Rpc { method: "read".into(), data: Cow::Borrowed(b"{}") }),
        ("0562030a0131", 0, Request::Send { data: Cow::Borrowed(b"1") }),
        ("0708064a030a0161", 6, Request::PresenceStats { channel: channel() }),
        ("07080642030a0161", 6, Request::Presence { channel: channel() }),
        ("07080632030a0161", 6, Request::Unsubscribe { channel: channel() }),
        ("0408065a00", 6, Request::Ping),
        ("07080672030a0161", 6, Request::Refresh { token: "a".into() }),
        ("0a08067a060a0161120162", 6, Request::SubRefresh),
        ("00", 0, Request::Pong),
    ] {
        assert_eq!(decode_all(Encoding::Protobuf, &hex(bytes)), [Ok(Command { id, request })], "{bytes}");
    }
}

#[test]
fn malformed_protobuf_is_rejected() {
    let whole = binary(&proto::Command { id: 1, connect: Some(Default::default()), ..Default::default() });
    for end in 1..whole.len() {
        assert_eq!(protobuf::next_command(&mut &whole[..end]), Some(Err(Malformed)), "cut after {end} bytes");
    }
    for bytes in [
        // A length that does not end, one beyond the frame, and one over 64 bits.
        "80",
        "02",
        "ffffffffffffffffff01",
        "ffffffffffffffffffff01",
        // An id with the wire type of a string, the end of a group, and a field with the number 0.
        "020a00",
        "010c",
        "020000",
        // A channel and a token that are not UTF-8.
        "07080132030a01ff",
        "07080122030a01ff",
        // A nested message longer than the message around it.
        "0408013205",
    ] {
        assert_eq!(protobuf::next_command(&mut &hex(bytes)[..]), Some(Err(Malformed)), "{bytes}");
    }
    let subscribe = |offset| {
        let subscribe = proto::SubscribeRequest { offset, ..Default::default() };
        binary_request(&proto::Command { id: 1, subscribe: Some(subscribe), ..Default::default() })
    };
    assert!(subscribe((1 << 53) - 1).is_ok());
    assert_eq!(subscribe(1 << 53), Err(Malformed));
}

// ── replies and pushes ──────────────────────────────────────────────────────────────────────────────────────────────

fn user(id: i64, username: &str) -> User {
    User { id: UserId(id), username: username.into() }
}

fn stored(offset: Offset) -> Entry {
    Entry::Stored(Publication {
        offset,
        number: offset,
        kind: Kind::Message,
        user: user(3, "ann"),
        id: "x1".into(),
        time: 1700,
        target: None,
        body: Some("a <b>\n\u{2028}".into()),
        edited: None,
        deleted: None,
        meta: None,
    })
}

fn live(data: &str, is_json: bool) -> Entry {
    Entry::Live(LiveEntry { user: Some(user(3, "ann")), time: 1700, data: data.into(), is_json })
}

fn json_reply(reply: Reply<'_>) -> String {
    let mut out = Vec::new();
    json::push_reply(&mut out, 7, reply);
    String::from_utf8(out).unwrap()
}

fn json_push(push: Push<'_>) -> String {
    let mut out = Vec::new();
    json::push_push(&mut out, "room:\"a\"", &push);
    String::from_utf8(out).unwrap()
}

fn binary_reply(reply: Reply<'_>) -> proto::Reply {
    let mut out = Vec::new();
    protobuf::push_reply(&mut out, 7, reply);
    let reply = proto::Reply::decode_length_delimited(&out[..]).unwrap();
    assert_eq!((reply.id, reply.encode_length_delimited_to_vec()), (7, out));
    proto::Reply { id: 0, ..reply }
}

fn binary_push(push: Push<'_>) -> proto::Push {
    let mut out = Vec::new();
    protobuf::push_push(&mut out, "room:a", &push);
    let reply = proto::Reply::decode_length_delimited(&out[..]).unwrap();
    assert_eq!(reply, proto::Reply { push: reply.push.clone(), ..Default::default() });
    let push = reply.push.unwrap();
    assert_eq!(push.channel, "room:a");
    push
}

fn publications(encoding: Encoding, entries: &[Entry]) -> EncodedPublications {
    EncodedPublications::encode(encoding, entries, usize::MAX)
}

const ANN: &str = r#"{"user":"3","client":"","conn_info":{"username":"ann"}}"#;

fn json_stored(offset: Offset) -> String {
    let data = "{\"text\":\"a <b>\\n\u{2028}\",\"id\":\"x1\"}";
    format!(r#"{{"data":{data},"info":{ANN},"offset":{offset},"time":1700}}"#)
}

fn ann(client: &str) -> ClientInfo {
    ClientInfo { user: user(3, "ann"), client: client.into() }
}

fn proto_ann(client: &str) -> Option<proto::ClientInfo> {
    Some(proto::ClientInfo { user: "3".into(), client: client.into(), conn_info: br#"{"username":"ann"}"#.into() })
}

#[test]
fn results_have_the_name_of_the_request() {
    let empty = || Some(proto::Empty {});
    assert_eq!(json_reply(Reply::Ping), r#"{"id":7,"ping":{}}"#);
    assert_eq!(binary_reply(Reply::Ping), proto::Reply { ping: empty(), ..Default::default() });
    assert_eq!(json_reply(Reply::Unsubscribe), r#"{"id":7,"unsubscribe":{}}"#);
    assert_eq!(binary_reply(Reply::Unsubscribe), proto::Reply { unsubscribe: empty(), ..Default::default() });
    assert_eq!(json_reply(Reply::SubscribeLive), r#"{"id":7,"subscribe":{}}"#);
    let subscribe = Some(proto::SubscribeResult::default());
    assert_eq!(binary_reply(Reply::SubscribeLive), proto::Reply { subscribe, ..Default::default() });
    assert_eq!(json_reply(Reply::Publish { offset: 5 }), r#"{"id":7,"publish":{"offset":5}}"#);
    assert_eq!(json_reply(Reply::Publish { offset: 0 }), r#"{"id":7,"publish":{}}"#);
    let publish = binary_reply(Reply::Publish { offset: 5 });
    assert_eq!(publish, proto::Reply { publish: empty(), ..Default::default() });
    assert_eq!(json_reply(Reply::Rpc { data: b"{\"a\":1}" }), r#"{"id":7,"rpc":{"data":{"a":1}}}"#);
    assert_eq!(json_reply(Reply::Rpc { data: b"" }), r#"{"id":7,"rpc":{}}"#);
    let rpc = Some(proto::RpcResult { data: b"{}".into() });
    assert_eq!(binary_reply(Reply::Rpc { data: b"{}" }), proto::Reply { rpc, ..Default::default() });
    let refresh = || Reply::Refresh { client: "c", version: "1", ttl: 60 };
    assert_eq!(json_reply(refresh()), r#"{"id":7,"refresh":{"client":"c","version":"1","expires":true,"ttl":60}}"#);
    let result = proto::RefreshResult { client: "c".into(), version: "1".into(), expires: true, ttl: 60 };
    assert_eq!(binary_reply(refresh()), proto::Reply { refresh: Some(result), ..Default::default() });
}

#[test]
fn temporary_errors_are_marked() {
    for code in 100..=112 {
        let is_temporary = [100, 111].contains(&code);
        let temporary = if is_temporary { ",\"temporary\":true" } else { "" };
        let json = format!(r#"{{"id":7,"error":{{"code":{code},"message":"no \"more\""{temporary}}}}}"#);
        assert_eq!(json_reply(Reply::Error { code, message: "no \"more\"" }), json);
        let error = proto::Error { code: code.into(), message: "no".into(), temporary: is_temporary };
        let reply = binary_reply(Reply::Error { code, message: "no" });
        assert_eq!(reply, proto::Reply { error: Some(error), ..Default::default() });
    }
    let silent = json_reply(Reply::Error { code: 107, message: "" });
    assert_eq!(silent, r#"{"id":7,"error":{"code":107,"message":""}}"#);
}

#[test]
fn connect_replies_list_the_user_channel_and_pings() {
    let reply = |ping| Reply::Connect { client: "c", version: "1", ttl: 60, ping, user_channel: "user:3" };
    assert_eq!(
        json_reply(reply(Some(25))),
        concat!(
            r#"{"id":7,"connect":{"client":"c","version":"1","expires":true,"ttl":60,"ping":25,"pong":true,"#,
            r#""subs":{"user:3":{}}}}"#
        )
    );
    assert_eq!(
        json_reply(reply(None)),
        r#"{"id":7,"connect":{"client":"c","version":"1","expires":true,"ttl":60,"subs":{"user:3":{}}}}"#
    );
    let result = proto::ConnectResult {
        client: "c".into(),
        version: "1".into(),
        expires: true,
        ttl: 60,
        subs: vec![proto::Sub { channel: "user:3".into(), result: Some(Default::default()) }],
        ping: 25,
        pong: true,
    };
    let silent = proto::ConnectResult { ping: 0, pong: false, ..result.clone() };
    assert_eq!(binary_reply(reply(Some(25))), proto::Reply { connect: Some(result), ..Default::default() });
    assert_eq!(binary_reply(reply(None)), proto::Reply { connect: Some(silent), ..Default::default() });
}

#[test]
fn subscribe_replies_of_rooms_say_whether_recovery_succeeded() {
    let reply = |offset, recovered: Option<bool>| Reply::SubscribeRoom { epoch: "e", offset, recovered };
    let head = r#"{"id":7,"subscribe":{"recoverable":true,"positioned":true,"epoch":"e""#;
    let json = |offset, recovered| json_reply(reply(offset, recovered)).strip_prefix(head).unwrap().to_owned();
    assert_eq!(json(9, None), r#","offset":9}}"#);
    assert_eq!(json(0, None), "}}");
    assert_eq!(json(9, Some(false)), r#","offset":9,"was_recovering":true,"publications":[]}}"#);
    let recovered = r#","offset":9,"was_recovering":true,"recovered":true,"publications":[]}}"#;
    assert_eq!(json(9, Some(true)), recovered);

    let binary = |offset, recovered| binary_reply(reply(offset, recovered)).subscribe.unwrap();
    let plain = proto::SubscribeResult {
        recoverable: true,
        epoch: "e".into(),
        offset: 9,
        positioned: true,
        ..Default::default()
    };
    assert_eq!(binary(9, None), plain);
    let asked = proto::SubscribeResult { was_recovering: true, ..plain };
    assert_eq!(binary(9, Some(false)), asked);
    assert_eq!(binary(9, Some(true)), proto::SubscribeResult { recovered: true, ..asked });
}

#[test]
fn history_and_presence_include_empty_values() {
    let history = |encoding, entries: &[Entry], offset| Reply::History {
        epoch: "e",
        offset,
        publications: publications(encoding, entries),
    };
    assert_eq!(
        json_reply(history(Encoding::Json, &[], 0)),
        r#"{"id":7,"history":{"publications":[],"epoch":"e","offset":0}}"#
    );
    assert_eq!(
        json_reply(history(Encoding::Json, &[stored(2), stored(1)], 2)),
        format!(
            r#"{{"id":7,"history":{{"publications":[{},{}],"epoch":"e","offset":2}}}}"#,
            json_stored(2),
            json_stored(1)
        )
    );
    let result = binary_reply(history(Encoding::Protobuf, &[stored(2)], 2)).history.unwrap();
    let publication = proto::Publication::decode(&result.publications[0][..]).unwrap();
    assert_eq!((publication.offset, publication.time, publication.info), (2, 1700, proto_ann("")));
    assert_eq!((result.publications.len(), result.epoch.as_str(), result.offset), (1, "e", 2));

    let nobody = PresenceList::default();
    assert_eq!(json_reply(Reply::Presence { list: &nobody }), r#"{"id":7,"presence":{"presence":{}}}"#);
    let list = PresenceList::new(vec![ann("c1"), ann("c2")]);
    let info = |client| format!(r#""{client}":{{"user":"3","client":"{client}","conn_info":{{"username":"ann"}}}}"#);
    assert_eq!(
        json_reply(Reply::Presence { list: &list }),
        format!(r#"{{"id":7,"presence":{{"presence":{{{},{}}}}}}}"#, info("c1"), info("c2"))
    );
    let presence = binary_reply(Reply::Presence { list: &list }).presence.unwrap().presence;
    let expected = [("c1".into(), proto_ann("c1").unwrap()), ("c2".into(), proto_ann("c2").unwrap())];
    assert_eq!(presence, expected.into());
    assert_eq!(binary_reply(Reply::Presence { list: &nobody }).presence, Some(Default::default()));

    let stats = |num_clients, num_users| Reply::PresenceStats { num_clients, num_users };
    assert_eq!(json_reply(stats(0, 0)), r#"{"id":7,"presence_stats":{"num_clients":0,"num_users":0}}"#);
    let result = Some(proto::PresenceStatsResult { num_clients: 3, num_users: 2 });
    assert_eq!(binary_reply(stats(3, 2)), proto::Reply { presence_stats: result, ..Default::default() });
}

#[test]
fn each_push_is_encoded_under_its_own_name() {
    let pushed = |body: &str| format!(r#"{{"push":{{"channel":"room:\"a\"",{body}}}}}"#);
    let entry = stored(9);
    assert_eq!(json_push(Push::Publication(&entry)), pushed(&format!(r#""pub":{}"#, json_stored(9))));
    let publication = binary_push(Push::Publication(&entry)).r#pub.unwrap();
    let data = "{\"text\":\"a <b>\\n\u{2028}\",\"id\":\"x1\"}".as_bytes();
    let expected = proto::Publication { data: data.into(), info: proto_ann(""), offset: 9, time: 1700 };
    assert_eq!(publication, expected);

    for (data, is_json, shown) in [("a\n\"", false, r#""a\n\"""#), (r#"{"a":1.10}"#, true, r#"{"a":1.10}"#)] {
        let entry = live(data, is_json);
        let body = format!(r#""pub":{{"data":{shown},"info":{ANN},"time":1700}}"#);
        assert_eq!(json_push(Push::Publication(&entry)), pushed(&body));
        let publication = binary_push(Push::Publication(&entry)).r#pub.unwrap();
        let expected = proto::Publication { data: shown.into(), info: proto_ann(""), offset: 0, time: 1700 };
        assert_eq!(publication, expected);
    }

    let ephemeral = Push::Ephemeral { data: b"{\"typing\":\"3\"}" };
    assert_eq!(json_push(ephemeral), pushed(r#""pub":{"data":{"typing":"3"}}"#));
    let publication = binary_push(Push::Ephemeral { data: b"{}" }).r#pub.unwrap();
    assert_eq!(publication, proto::Publication { data: b"{}".into(), ..Default::default() });

    let info = ann("c1");
    let json = r#"{"info":{"user":"3","client":"c1","conn_info":{"username":"ann"}}}"#;
    assert_eq!(json_push(Push::Join(&info)), pushed(&format!(r#""join":{json}"#)));
    assert_eq!(json_push(Push::Leave(&info)), pushed(&format!(r#""leave":{json}"#)));
    let presence = Some(proto::Presence { info: proto_ann("c1") });
    assert_eq!(binary_push(Push::Join(&info)).join, presence);
    assert_eq!(binary_push(Push::Leave(&info)).leave, presence);

    let unsubscribe = Push::Unsubscribe { code: 2000, reason: "server unsubscribe" };
    assert_eq!(json_push(unsubscribe), pushed(r#""unsubscribe":{"code":2000,"reason":"server unsubscribe"}"#));
    let unsubscribe = binary_push(Push::Unsubscribe { code: 2000, reason: "left" }).unsubscribe;
    assert_eq!(unsubscribe, Some(proto::Unsubscribe { code: 2000, reason: "left".into() }));
}

/// Replies and pushes as `centrifuge-python` 0.7 would encode them, with its own `client_pb2`.
#[test]
fn replies_and_pushes_have_the_bytes_of_another_implementation() {
    let reply = |reply: Reply<'_>| {
        let mut out = Vec::new();
        protobuf::push_reply(&mut out, 7, reply);
        out
    };
    let push = |push: Push<'_>| {
        let mut out = Vec::new();
        protobuf::push_push(&mut out, "live:a", &push);
        out
    };
    let mut entry = stored(9);
    if let Entry::Stored(publication) = &mut entry {
        (publication.body, publication.id) = (Some("hi".into()), "~1".into());
    }
    let publications = || publications(Encoding::Protobuf, std::slice::from_ref(&entry));
    for (ours, bytes) in [
        (reply(Reply::Error { code: 111, message: "no" }), "0c08071208086f12026e6f1801"),
        (
            reply(Reply::Connect { client: "c", version: "1", ttl: 60, ping: Some(25), user_channel: "user:3" }),
            "1e08072a1a0a01631201311801203c320a0a06757365723a33120038194001",
        ),
        (reply(Reply::SubscribeLive), "0408073200"),
        (
            reply(Reply::SubscribeRoom { epoch: "e", offset: 8, recovered: Some(true) }),
            "110807320d18013201654001480850016001",
        ),
        (reply(Reply::Unsubscribe), "0408073a00"),
        (reply(Reply::Publish { offset: 9 }), "0408074200"),
        (
            reply(Reply::Presence { list: &PresenceList::new(vec![ann("c1")]) }),
            "2708074a230a210a026331121b0a0133120263311a127b22757365726e616d65223a22616e6e227d",
        ),
        (reply(Reply::PresenceStats { num_clients: 3, num_users: 2 }), "080807520408031002"),
        (
            reply(Reply::History { epoch: "e", offset: 9, publications: publications() }),
            "3808075a340a2d220d7b2274657874223a226869227d2a170a01331a127b22757365726e616d65223a22616e6e227d30\
             0948a40d1201651809",
        ),
        (reply(Reply::Ping), "0408076200"),
        (reply(Reply::Rpc { data: b"{}" }), "0808076a040a027b7d"),
        (reply(Reply::Refresh { client: "c", version: "1", ttl: 60 }), "0e0807720a0a01631201311801203c"),
        (
            push(Push::Publication(&live(r#"{"a":1}"#, true))),
            "31222f12066c6976653a61222522077b2261223a317d2a170a01331a127b22757365726e616d65223a22616e6e227d48a40d",
        ),
        (push(Push::Ephemeral { data: b"{}" }), "10220e12066c6976653a61220422027b7d"),
        (
            push(Push::Join(&ann("c1"))),
            "29222712066c6976653a612a1d0a1b0a0133120263311a127b22757365726e616d65223a22616e6e227d",
        ),
        (
            push(Push::Leave(&ann("c1"))),
            "29222712066c6976653a61321d0a1b0a0133120263311a127b22757365726e616d65223a22616e6e227d",
        ),
        (push(Push::Unsubscribe { code: 2000, reason: "left" }), "15221312066c6976653a613a0910d00f1a046c656674"),
    ] {
        assert_eq!(ours, hex(bytes), "{bytes}");
    }
}

#[test]
fn a_frame_can_hold_several_messages() {
    let entry = stored(1);
    let push = |encoding| {
        let mut out = Vec::new();
        push_reply(encoding, &mut out, 1, Reply::Ping);
        push_push(encoding, &mut out, "room:a", &Push::Publication(&entry));
        push_reply(encoding, &mut out, 2, Reply::Unsubscribe);
        out
    };
    let text = String::from_utf8(push(Encoding::Json)).unwrap();
    let lines: Vec<Value> = text.split('\n').map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines.len(), &lines[2]), (3, &json!({"id": 2, "unsubscribe": {}})));

    let frame = push(Encoding::Protobuf);
    let mut rest = &frame[..];
    let ids: Vec<u32> = (0..3).map(|_| proto::Reply::decode_length_delimited(&mut rest).unwrap().id).collect();
    assert_eq!((ids, rest), (vec![1, 0, 2], &b""[..]));

    let pings = |encoding| {
        let mut out = Vec::new();
        push_ping(encoding, &mut out);
        push_ping(encoding, &mut out);
        out
    };
    assert_eq!(pings(Encoding::Json), b"{}\n{}");
    assert_eq!(pings(Encoding::Protobuf), [0, 0]);
}

#[test]
fn publications_end_at_the_limit() {
    let entries = [stored(1), stored(2), stored(3)];
    let encode = |encoding, limit| EncodedPublications::encode(encoding, &entries, limit).count();
    for encoding in ENCODINGS {
        assert_eq!(EncodedPublications::encode(encoding, &[], 100).count(), 0);
        assert_eq!(encode(encoding, 0), 1, "at least one");
        assert_eq!(encode(encoding, usize::MAX), 3);
        let one = match publications(encoding, &entries[..1]) {
            EncodedPublications::Json(_) => json_stored(1).len() + 1,
            // In a result each has a tag and a length of one byte each.
            EncodedPublications::Protobuf(_) => {
                let mut out = Vec::new();
                protobuf::push_push(&mut out, "", &Push::Publication(&entries[0]));
                let publication = proto::Reply::decode_length_delimited(&out[..]).unwrap().push.unwrap().r#pub.unwrap();
                publication.encoded_len() + 2
            }
        };
        // JSON has a comma between two publications.
        let commas = usize::from(encoding == Encoding::Json);
        assert_eq!((encode(encoding, 2 * one - commas), encode(encoding, 2 * one - commas - 1)), (2, 1));
        let reply = EncodedPublications::encode(encoding, &entries, 2 * one);
        let reply = Reply::History { epoch: "e", offset: 3, publications: reply };
        match encoding {
            Encoding::Json => {
                let reply: Value = serde_json::from_str(&json_reply(reply)).unwrap();
                assert_eq!(reply["history"]["publications"].as_array().map(Vec::len), Some(2));
            }
            Encoding::Protobuf => assert_eq!(binary_reply(reply).history.unwrap().publications.len(), 2),
        }
    }
}
