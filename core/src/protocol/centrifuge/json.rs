//! The JSON encoding: text frames with one message per line.

use super::{ClientInfo, Command, Connect, History, Malformed, Push, Reply, Request, StreamPosition, Subscribe};
use crate::protocol::Entry;
use crate::protocol::{data, is_temporary, write_json};
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Write;
use uproar_model::{Offset, User};

// ── from the client ─────────────────────────────────────────────────────────────────────────────────────────────────

/// A string, borrowed from the frame if it has no escapes.
#[derive(Debug, Default, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// A line of a frame. Only the request that counts is decoded. Skipping the others uses no stack, however deeply they
/// are nested.
#[derive(Deserialize)]
struct Line<'a> {
    id: Option<u32>,
    #[serde(borrow)]
    connect: Option<&'a RawValue>,
    #[serde(borrow)]
    subscribe: Option<&'a RawValue>,
    #[serde(borrow)]
    unsubscribe: Option<&'a RawValue>,
    #[serde(borrow)]
    publish: Option<&'a RawValue>,
    #[serde(borrow)]
    presence: Option<&'a RawValue>,
    #[serde(borrow)]
    presence_stats: Option<&'a RawValue>,
    #[serde(borrow)]
    history: Option<&'a RawValue>,
    #[serde(borrow)]
    ping: Option<&'a RawValue>,
    #[serde(borrow)]
    send: Option<&'a RawValue>,
    #[serde(borrow)]
    rpc: Option<&'a RawValue>,
    #[serde(borrow)]
    refresh: Option<&'a RawValue>,
    #[serde(borrow)]
    sub_refresh: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct ConnectFields<'a> {
    #[serde(borrow)]
    token: Option<Text<'a>>,
    #[serde(borrow)]
    headers: Option<BTreeMap<Text<'a>, Option<Text<'a>>>>,
    #[serde(borrow)]
    name: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct SubscribeFields<'a> {
    #[serde(borrow)]
    channel: Option<Text<'a>>,
    recover: Option<bool>,
    #[serde(default, deserialize_with = "offset")]
    offset: Offset,
    #[serde(borrow)]
    epoch: Option<Text<'a>>,
    join_leave: Option<bool>,
    flag: Option<i64>,
    tf: Option<IgnoredAny>,
    r#type: Option<i32>,
}

#[derive(Deserialize)]
struct ChannelFields<'a> {
    #[serde(borrow)]
    channel: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct PublishFields<'a> {
    #[serde(borrow)]
    channel: Option<Text<'a>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    r#type: Option<i32>,
}

#[derive(Deserialize)]
struct HistoryFields<'a> {
    #[serde(borrow)]
    channel: Option<Text<'a>>,
    limit: Option<i32>,
    #[serde(borrow)]
    since: Option<&'a RawValue>,
    reverse: Option<bool>,
}

#[derive(Deserialize)]
struct PositionFields<'a> {
    #[serde(default, deserialize_with = "offset")]
    offset: Offset,
    #[serde(borrow)]
    epoch: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct SendFields<'a> {
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct RpcFields<'a> {
    #[serde(borrow)]
    method: Option<Text<'a>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct RefreshFields<'a> {
    #[serde(borrow)]
    token: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct NoFields {}

fn offset<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Offset, D::Error> {
    let offset = Option::<Offset>::deserialize(deserializer)?.unwrap_or_default();
    super::check_offset(offset).map_err(|Malformed| serde::de::Error::custom("offset is 2^53 or more"))
}

/// Decodes an object. (Serde alone would accept an array, too.)
fn object<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T, Malformed> {
    if !json.trim_ascii_start().starts_with('{') {
        return Err(Malformed);
    }
    serde_json::from_str(json).map_err(|_| Malformed)
}

fn text(field: Option<Text<'_>>) -> Cow<'_, str> {
    field.unwrap_or_default().0
}

fn bytes(field: Option<&RawValue>) -> Cow<'_, [u8]> {
    Cow::Borrowed(field.map_or(&[], |json| json.get().as_bytes()))
}

/// Decodes the next line of a frame and removes it from the front.
pub fn next_command<'a>(frame: &mut &'a [u8]) -> Option<Result<Command<'a>, Malformed>> {
    if frame.is_empty() {
        return None;
    }
    // The Go SDK ends the last line, too. Any other empty line is malformed: it is not an object.
    let end = frame.iter().position(|byte| *byte == b'\n');
    let line = &frame[..end.unwrap_or(frame.len())];
    *frame = end.map_or(&[], |end| &frame[end + 1..]);
    Some(decode(line))
}

fn decode(line: &[u8]) -> Result<Command<'_>, Malformed> {
    let line: Line<'_> = object(std::str::from_utf8(line).map_err(|_| Malformed)?)?;
    let id = line.id.unwrap_or_default();
    let request = match (id, line.send) {
        (0, None) => Request::Pong,
        // Other requests would need an id.
        (0, Some(send)) => decode_send(send.get())?,
        _ => decode_request(&line)?,
    };
    Ok(Command { id, request })
}

fn decode_send(json: &str) -> Result<Request<'_>, Malformed> {
    let SendFields { data } = object(json)?;
    Ok(Request::Send { data: bytes(data) })
}

fn decode_request<'a>(line: &Line<'a>) -> Result<Request<'a>, Malformed> {
    if let Some(json) = line.connect {
        let fields: ConnectFields<'_> = object(json.get())?;
        let headers = fields.headers.unwrap_or_default().into_iter();
        let authorization = super::authorization(headers.map(|(name, value)| (name.0, text(value))));
        return Ok(Request::Connect(Connect { token: text(fields.token), authorization, name: text(fields.name) }));
    }
    if let Some(json) = line.subscribe {
        let fields: SubscribeFields<'_> = object(json.get())?;
        return Ok(Request::Subscribe(Subscribe {
            channel: text(fields.channel),
            recover: fields.recover.unwrap_or_default(),
            offset: fields.offset,
            epoch: text(fields.epoch),
            join_leave: fields.join_leave.unwrap_or_default(),
            flag: fields.flag.unwrap_or_default(),
            has_filter: fields.tf.is_some(),
            is_special: fields.r#type.unwrap_or_default() != 0,
        }));
    }
    if let Some(json) = line.unsubscribe {
        let ChannelFields { channel } = object(json.get())?;
        return Ok(Request::Unsubscribe { channel: text(channel) });
    }
    if let Some(json) = line.publish {
        let PublishFields { channel, data, r#type } = object(json.get())?;
        let is_special = r#type.unwrap_or_default() != 0;
        return Ok(Request::Publish { channel: text(channel), data: bytes(data), is_special });
    }
    if let Some(json) = line.presence {
        let ChannelFields { channel } = object(json.get())?;
        return Ok(Request::Presence { channel: text(channel) });
    }
    if let Some(json) = line.presence_stats {
        let ChannelFields { channel } = object(json.get())?;
        return Ok(Request::PresenceStats { channel: text(channel) });
    }
    if let Some(json) = line.history {
        let HistoryFields { channel, limit, since, reverse } = object(json.get())?;
        let since = match since {
            Some(json) => {
                let PositionFields { offset, epoch } = object(json.get())?;
                Some(StreamPosition { offset, epoch: text(epoch) })
            }
            None => None,
        };
        let (limit, reverse) = (limit.unwrap_or_default(), reverse.unwrap_or_default());
        return Ok(Request::History(History { channel: text(channel), limit, since, reverse }));
    }
    if let Some(json) = line.ping {
        let NoFields {} = object(json.get())?;
        return Ok(Request::Ping);
    }
    if let Some(json) = line.send {
        return decode_send(json.get());
    }
    if let Some(json) = line.rpc {
        let RpcFields { method, data } = object(json.get())?;
        return Ok(Request::Rpc { method: text(method), data: bytes(data) });
    }
    if let Some(json) = line.refresh {
        let RefreshFields { token } = object(json.get())?;
        return Ok(Request::Refresh { token: text(token) });
    }
    if let Some(json) = line.sub_refresh {
        let NoFields {} = object(json.get())?;
        return Ok(Request::SubRefresh);
    }
    Ok(Request::Unknown)
}

// ── to the client ───────────────────────────────────────────────────────────────────────────────────────────────────

/// The elements of an array of publications, separated by commas.
#[derive(Debug)]
pub struct Publications {
    json: Vec<u8>,
    count: usize,
}

impl Publications {
    pub fn encode<'a>(entries: impl IntoIterator<Item = &'a Entry>, limit_bytes: usize) -> Publications {
        let (mut json, mut count) = (Vec::new(), 0);
        for entry in entries {
            let before = json.len();
            if count > 0 {
                json.push(b',');
            }
            push_publication(&mut json, entry);
            if count > 0 && json.len() > limit_bytes {
                json.truncate(before);
                break;
            }
            count += 1;
        }
        Publications { json, count }
    }

    pub fn count(&self) -> usize {
        self.count
    }
}

/// Writes an object. It can include JSON that is already encoded, which serde would have to parse first.
struct Object<'a> {
    out: &'a mut Vec<u8>,
    is_empty: bool,
}

impl<'a> Object<'a> {
    fn begin(out: &'a mut Vec<u8>) -> Object<'a> {
        out.push(b'{');
        Object { out, is_empty: true }
    }

    /// Writes a field's name. The caller must write its value next.
    fn key(&mut self, name: &str) -> &mut Vec<u8> {
        if !std::mem::take(&mut self.is_empty) {
            self.out.push(b',');
        }
        write_json(self.out, name);
        self.out.push(b':');
        self.out
    }

    fn text(&mut self, name: &str, value: &str) {
        write_json(self.key(name), value);
    }

    fn number(&mut self, name: &str, value: u64) {
        write_json(self.key(name), &value);
    }

    /// Writes a field if it is true. False is the default, which is left out.
    fn boolean(&mut self, name: &str, value: bool) {
        if value {
            self.key(name).extend_from_slice(b"true");
        }
    }

    /// `value` must be JSON without a raw newline, which would end the message.
    fn json(&mut self, name: &str, value: &[u8]) {
        debug_assert!(!value.is_empty() && !value.contains(&b'\n'));
        self.key(name).extend_from_slice(value);
    }

    fn object(&mut self, name: &str) -> Object<'_> {
        Object::begin(self.key(name))
    }

    fn end(self) {
        self.out.push(b'}');
    }
}

fn push_info(out: &mut Vec<u8>, user: &User, client: &str) {
    let mut info = Object::begin(out);
    // The id is a number, encoded as a string.
    let _ = write!(info.key("user"), "\"{}\"", user.id);
    info.text("client", client);
    let mut conn_info = info.object("conn_info");
    conn_info.text("username", &user.username);
    conn_info.end();
    info.end();
}

fn push_publication(out: &mut Vec<u8>, entry: &Entry) {
    let mut publication = Object::begin(out);
    match entry {
        Entry::Stored(stored) => {
            data::encode(publication.key("data"), stored);
            push_info(publication.key("info"), &stored.user, "");
            publication.number("offset", stored.offset);
            publication.number("time", stored.time);
        }
        Entry::Live(live) => {
            match live.is_json {
                true => publication.json("data", live.data.as_bytes()),
                false => publication.text("data", &live.data),
            }
            if let Some(user) = &live.user {
                push_info(publication.key("info"), user, "");
            }
            publication.number("time", live.time);
        }
    }
    publication.end();
}

/// Appends an array. Publications of the other encoding are a bug of the caller.
fn push_publications(out: &mut Vec<u8>, publications: &super::EncodedPublications) {
    debug_assert!(matches!(publications, super::EncodedPublications::Json(_)));
    out.push(b'[');
    if let super::EncodedPublications::Json(publications) = publications {
        out.extend_from_slice(&publications.json);
    }
    out.push(b']');
}

fn begin_message(out: &mut Vec<u8>) -> Object<'_> {
    if !out.is_empty() {
        out.push(b'\n');
    }
    Object::begin(out)
}

/// What follows the id in the reply to `presence`.
pub(super) fn encode_presence(clients: &[ClientInfo]) -> Vec<u8> {
    let mut out = br#""presence":{"presence":"#.to_vec();
    let mut presence = Object::begin(&mut out);
    for info in clients {
        push_info(presence.key(&info.client), &info.user, &info.client);
    }
    presence.end();
    out.push(b'}');
    out
}

/// Appends a reply.
pub fn push_reply(out: &mut Vec<u8>, id: u32, reply: Reply<'_>) {
    let mut message = begin_message(out);
    message.number("id", id.into());
    match reply {
        Reply::Error { code, message: text } => {
            let mut error = message.object("error");
            error.number("code", code.into());
            error.text("message", text);
            error.boolean("temporary", is_temporary(code));
            error.end();
        }
        Reply::Connect { client, version, ttl, ping, user_channel } => {
            let mut result = message.object("connect");
            result.text("client", client);
            result.text("version", version);
            result.boolean("expires", true);
            result.number("ttl", ttl.into());
            if let Some(ping) = ping {
                result.number("ping", ping.into());
                result.boolean("pong", true);
            }
            let mut subs = result.object("subs");
            subs.object(user_channel).end();
            subs.end();
            result.end();
        }
        Reply::SubscribeLive => message.object("subscribe").end(),
        Reply::SubscribeRoom { epoch, offset, recovered } => {
            let mut result = message.object("subscribe");
            result.boolean("recoverable", true);
            result.boolean("positioned", true);
            result.text("epoch", epoch);
            if offset != 0 {
                result.number("offset", offset);
            }
            if let Some(recovered) = recovered {
                result.boolean("was_recovering", true);
                result.boolean("recovered", recovered);
                result.key("publications").extend_from_slice(b"[]");
            }
            result.end();
        }
        Reply::Unsubscribe => message.object("unsubscribe").end(),
        Reply::Publish { offset } => {
            let mut result = message.object("publish");
            if offset != 0 {
                result.number("offset", offset);
            }
            result.end();
        }
        Reply::Presence { list } => {
            message.out.push(b',');
            message.out.extend_from_slice(list.encoded(super::Encoding::Json));
        }
        Reply::PresenceStats { num_clients, num_users } => {
            let mut result = message.object("presence_stats");
            result.number("num_clients", num_clients.into());
            result.number("num_users", num_users.into());
            result.end();
        }
        Reply::History { epoch, offset, publications } => {
            let mut result = message.object("history");
            push_publications(result.key("publications"), &publications);
            result.text("epoch", epoch);
            result.number("offset", offset);
            result.end();
        }
        Reply::Ping => message.object("ping").end(),
        Reply::Rpc { data } => {
            let mut result = message.object("rpc");
            if !data.is_empty() {
                result.json("data", data);
            }
            result.end();
        }
        Reply::Refresh { client, version, ttl } => {
            let mut result = message.object("refresh");
            result.text("client", client);
            result.text("version", version);
            result.boolean("expires", true);
            result.number("ttl", ttl.into());
            result.end();
        }
    }
    message.end();
}

/// Appends a push.
pub fn push_push(out: &mut Vec<u8>, channel: &str, push: &Push<'_>) {
    let mut message = begin_message(out);
    let mut body = message.object("push");
    body.text("channel", channel);
    match push {
        Push::Publication(entry) => push_publication(body.key("pub"), entry),
        Push::Ephemeral { data } => {
            let mut publication = body.object("pub");
            publication.json("data", data);
            publication.end();
        }
        Push::Join(info) => push_presence(body.key("join"), info),
        Push::Leave(info) => push_presence(body.key("leave"), info),
        Push::Unsubscribe { code, reason } => {
            let mut unsubscribe = body.object("unsubscribe");
            unsubscribe.number("code", (*code).into());
            unsubscribe.text("reason", reason);
            unsubscribe.end();
        }
    }
    body.end();
    message.end();
}

fn push_presence(out: &mut Vec<u8>, info: &ClientInfo) {
    let mut presence = Object::begin(out);
    push_info(presence.key("info"), &info.user, &info.client);
    presence.end();
}
