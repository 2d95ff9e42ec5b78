//! The plain protocol of `/ws`: text frames in, one JSON object a text frame out.

use super::{BAD_REQUEST, LIMIT_EXCEEDED, NOT_AVAILABLE, ProtocolError};
use crate::core::run::Entry;
use serde::Serialize;
use serde_json::Value;
use uproar_model::{Epoch, Kind, Offset, Publication, Stored, UnixMillis, User};

/// The longest id of a message, in bytes.
pub const ID_LIMIT_BYTES: usize = 64;

/// How deeply JSON may be nested.
const NESTING_LIMIT: usize = 64;

/// What a client says on a plain connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// Each frame is the text of one message.
    Text,
    /// Each frame is a `data` object.
    Json,
}

/// A message to publish in a room.
#[derive(Debug, PartialEq, Eq)]
pub struct Publish {
    pub text: String,
    /// The sender's own id, checked.
    pub id: Option<String>,
    pub reply_to: Option<Offset>,
}

/// A refused message: the error, and the sender's id as far as it could be read, so that the sender knows which.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    pub error: ProtocolError,
    pub id: Option<String>,
}

/// Reads one frame of a stored room. `text_limit_bytes` bounds the text.
pub fn decode(frame: &str, input: Input, text_limit_bytes: usize) -> Result<Publish, Refused> {
    let publish = match input {
        // Clients that read lines from a terminal or a file send their ends too.
        Input::Text => {
            let line = frame.strip_suffix('\n').unwrap_or(frame);
            let line = line.strip_suffix('\r').unwrap_or(line);
            Publish { text: line.to_owned(), id: None, reply_to: None }
        }
        Input::Json => decode_data(frame)?,
    };
    match check_text(&publish.text, text_limit_bytes) {
        Ok(()) => Ok(publish),
        Err(error) => Err(Refused { error, id: publish.id }),
    }
}

/// Whether a text is within its limit, which holds in rooms and in `live:` channels alike.
pub fn check_length(text: &str, limit_bytes: usize) -> Result<(), ProtocolError> {
    if text.len() <= limit_bytes {
        return Ok(());
    }
    let text = format!("the text is {} bytes long; at most {limit_bytes} are allowed (text_limit_bytes)", text.len());
    Err(ProtocolError::new(LIMIT_EXCEEDED, text))
}

fn check_text(text: &str, limit_bytes: usize) -> Result<(), ProtocolError> {
    check_length(text, limit_bytes)?;
    if text.trim().is_empty() {
        return Err(ProtocolError::new(BAD_REQUEST, "the text is empty"));
    }
    if text.contains('\0') {
        return Err(ProtocolError::new(BAD_REQUEST, "the text contains the character U+0000, which can't be stored"));
    }
    Ok(())
}

/// Why an id that a sender chose is not taken.
pub fn check_id(id: &str) -> Result<(), ProtocolError> {
    let wrong = if id.is_empty() || id.len() > ID_LIMIT_BYTES {
        "must be 1 to 64 bytes long"
    } else if id.starts_with('~') {
        "must not begin with '~', which is reserved"
    } else if id.chars().any(char::is_control) {
        "must not contain control characters"
    } else {
        return Ok(());
    };
    Err(ProtocolError::new(BAD_REQUEST, format!("the id {wrong}")))
}

fn decode_data(frame: &str) -> Result<Publish, Refused> {
    let bad = |message: &str, id: Option<String>| Refused { error: ProtocolError::new(BAD_REQUEST, message), id };
    let Some(Value::Object(mut data)) = parse_json(frame) else {
        return Err(bad("each frame must be one JSON object such as {\"text\":\"hello\"}", None));
    };
    let id = match data.remove("id") {
        None | Some(Value::Null) => None,
        Some(Value::String(id)) => match check_id(&id) {
            Ok(()) => Some(id),
            // An id that is not taken is not sent back either: it may be a megabyte.
            Err(error) => return Err(Refused { error, id: None }),
        },
        Some(_) => return Err(bad("the id must be a string", None)),
    };
    if ["edit", "delete", "react", "unreact"].iter().any(|form| data.get(*form).is_some_and(|v| !v.is_null())) {
        let error = ProtocolError::new(NOT_AVAILABLE, "edits, deletions and reactions are not available yet");
        return Err(Refused { error, id });
    }
    let text = match data.remove("text") {
        Some(Value::String(text)) => text,
        None | Some(Value::Null) => return Err(bad("the text is missing", id)),
        Some(_) => return Err(bad("the text must be a string", id)),
    };
    let reply_to = match data.remove("reply_to") {
        None | Some(Value::Null) => None,
        Some(value) => match value.as_u64().filter(|o| (1..1 << 53).contains(o)) {
            Some(offset) => Some(offset),
            None => return Err(bad("reply_to must be the offset of a message", id)),
        },
    };
    Ok(Publish { text, id, reply_to })
}

/// JSON for a `live:` channel, without insignificant white space.
pub fn compact_json(frame: &str) -> Option<String> {
    parse_json(frame).map(|value| value.to_string())
}

fn parse_json(text: &str) -> Option<Value> {
    // Serde's own limit is 128; nesting is counted here so that the documented one holds.
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                if depth > NESTING_LIMIT {
                    return None;
                }
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    serde_json::from_str(text).ok()
}

// ── to the client ───────────────────────────────────────────────────────────────────────────────────────────────────

#[derive(Serialize)]
struct Author<'a> {
    id: String,
    username: &'a str,
}

impl<'a> From<&'a User> for Author<'a> {
    fn from(user: &'a User) -> Author<'a> {
        Author { id: user.id.to_string(), username: &user.username }
    }
}

#[derive(Serialize)]
struct Event<'a> {
    r#type: &'static str,
    offset: Offset,
    #[serde(skip_serializing_if = "Option::is_none")]
    number: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<Offset>,
    user: Author<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    emoji: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    removed: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    time: UnixMillis,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_to: Option<Offset>,
    #[serde(skip_serializing_if = "Option::is_none")]
    edited: Option<Offset>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    deleted: bool,
}

#[derive(Serialize)]
struct LiveEvent<'a> {
    r#type: &'static str,
    user: Author<'a>,
    data: LiveData<'a>,
    time: UnixMillis,
}

#[derive(Serialize)]
#[serde(untagged)]
enum LiveData<'a> {
    Text(&'a str),
    Json(&'a serde_json::value::RawValue),
}

/// Appends the JSON of one event.
pub fn encode(out: &mut Vec<u8>, entry: &Entry) {
    match entry {
        Entry::Stored(publication) => encode_publication(out, publication),
        Entry::Live(live) => {
            let json = live.is_json.then(|| serde_json::from_str(&live.data).ok()).flatten();
            let data = json.map_or(LiveData::Text(&live.data), LiveData::Json);
            write(out, &LiveEvent { r#type: "live", user: (&live.user).into(), data, time: live.time });
        }
    }
}

fn encode_publication(out: &mut Vec<u8>, p: &Publication) {
    let body = p.body.as_deref();
    let is_message = p.kind == Kind::Message;
    write(
        out,
        &Event {
            r#type: match p.kind {
                Kind::Message => "message",
                Kind::Edit => "edit",
                Kind::Delete => "delete",
                Kind::React => "react",
                Kind::Unreact => "unreact",
                Kind::Removed => "removed",
                Kind::RoomChanged => "room",
            },
            offset: p.offset,
            number: is_message.then_some(p.number),
            target: if is_message { None } else { p.target },
            user: (&p.user).into(),
            text: if matches!(p.kind, Kind::Message | Kind::Edit) { body } else { None },
            emoji: if matches!(p.kind, Kind::React | Kind::Unreact) { body } else { None },
            removed: if p.kind == Kind::Removed { body } else { None },
            id: Some(&*p.id).filter(|id| !id.starts_with('~')),
            time: p.time,
            reply_to: if is_message { p.target } else { None },
            edited: if is_message { p.edited } else { None },
            deleted: matches!(p.kind, Kind::Message | Kind::Edit) && p.deleted.is_some(),
        },
    );
}

/// The first frame of a stored room. `recovered: false` says that the position asked for does not exist.
pub fn joined(room: &str, epoch: &Epoch, offset: Offset, recovered: Option<bool>) -> Vec<u8> {
    #[derive(Serialize)]
    struct Joined<'a> {
        r#type: &'static str,
        room: &'a str,
        epoch: &'a str,
        offset: Offset,
        #[serde(skip_serializing_if = "Option::is_none")]
        recovered: Option<bool>,
    }
    to_vec(&Joined { r#type: "joined", room, epoch: &epoch.0, offset, recovered })
}

/// The first frame of a `live:` channel.
pub fn joined_live(channel: &str) -> Vec<u8> {
    #[derive(Serialize)]
    struct Joined<'a> {
        r#type: &'static str,
        room: &'a str,
    }
    to_vec(&Joined { r#type: "joined", room: channel })
}

/// To a sender whose message was stored before.
pub fn ack(id: &str, stored: Stored) -> Vec<u8> {
    #[derive(Serialize)]
    struct Ack<'a> {
        r#type: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        offset: Offset,
        time: UnixMillis,
    }
    let id = Some(id).filter(|id| !id.starts_with('~'));
    to_vec(&Ack { r#type: "ack", id, offset: stored.offset, time: stored.time })
}

/// To a sender whose message was refused, or of which it is not known whether it was stored (100).
pub fn error(error: &ProtocolError, id: Option<&str>) -> Vec<u8> {
    #[derive(Serialize)]
    struct Error<'a> {
        r#type: &'static str,
        code: u16,
        message: &'a str,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        temporary: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
    }
    let id = id.filter(|id| !id.starts_with('~'));
    let temporary = super::is_temporary(error.code);
    to_vec(&Error { r#type: "error", code: error.code, message: &error.message, temporary, id })
}

fn to_vec(value: &impl Serialize) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    write(&mut out, value);
    out
}

fn write(out: &mut Vec<u8>, value: &impl Serialize) {
    let written = serde_json::to_writer(out, value);
    debug_assert!(written.is_ok(), "these types have string keys and write to memory");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::run::LiveEntry;
    use std::sync::Arc;
    use uproar_model::UserId;

    fn code(frame: &str) -> u16 {
        decode(frame, Input::Json, 100).unwrap_err().error.code
    }

    #[test]
    fn data_is_rebuilt_from_known_fields() {
        let publish = decode(r#"{"text":"hi","id":"a","reply_to":3,"role":"owner"}"#, Input::Json, 100).unwrap();
        assert_eq!(publish, Publish { text: "hi".into(), id: Some("a".into()), reply_to: Some(3) });
        for line in ["a\nb", "a\nb\n", "a\nb\r\n"] {
            assert_eq!(decode(line, Input::Text, 100).unwrap().text, "a\nb");
        }
        let publish = decode("{}", Input::Text, 100).unwrap();
        assert_eq!(publish, Publish { text: "{}".into(), id: None, reply_to: None });
    }

    #[test]
    fn bad_data_is_told_apart() {
        assert_eq!(code("nonsense"), BAD_REQUEST);
        assert_eq!(code("[]"), BAD_REQUEST);
        assert_eq!(code("{}"), BAD_REQUEST);
        assert_eq!(code(r#"{"text":7}"#), BAD_REQUEST);
        assert_eq!(code(r#"{"text":"  "}"#), BAD_REQUEST);
        assert_eq!(code(r#"{"text":"a\u0000"}"#), BAD_REQUEST);
        assert_eq!(code(r#"{"text":"a\ud800"}"#), BAD_REQUEST, "a lone surrogate");
        assert_eq!(code(r#"{"text":"a","id":""}"#), BAD_REQUEST);
        assert_eq!(code(r#"{"text":"a","id":"~1"}"#), BAD_REQUEST);
        assert_eq!(code(&format!(r#"{{"text":"a","id":"{}"}}"#, "x".repeat(65))), BAD_REQUEST);
        assert_eq!(code(r#"{"text":"a","reply_to":0}"#), BAD_REQUEST);
        assert_eq!(code(r#"{"text":"a","reply_to":-1}"#), BAD_REQUEST);
        assert_eq!(code(r#"{"edit":1,"text":"a"}"#), NOT_AVAILABLE);
        assert_eq!(code(&format!(r#"{{"text":"{}"}}"#, "x".repeat(101))), LIMIT_EXCEEDED);
        assert!(decode(&"x".repeat(100), Input::Text, 100).is_ok());
        let refused = decode(r#"{"id":"mine"}"#, Input::Json, 100).unwrap_err();
        assert_eq!(refused.id.as_deref(), Some("mine"), "the sender learns which message was refused");
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(compact_json(&nested(64)).is_some());
        assert!(compact_json(&nested(65)).is_none());
        assert_eq!(compact_json(" { \"a\" :\n\"[[\\\"[\" } ").as_deref(), Some(r#"{"a":"[[\"["}"#));
    }

    #[test]
    fn a_message_as_the_client_sees_it() {
        let publication = Publication {
            offset: 7,
            number: 5,
            kind: Kind::Message,
            user: User { id: UserId(3), username: "ann".into() },
            id: "x1".into(),
            time: 1700,
            target: Some(2),
            body: Some("a \"quoted\"\nline".into()),
            edited: None,
            deleted: None,
        };
        let mut out = Vec::new();
        encode(&mut out, &Entry::Stored(publication));
        assert_eq!(
            String::from_utf8(out).unwrap(),
            r#"{"type":"message","offset":7,"number":5,"user":{"id":"3","username":"ann"},"text":"a \"quoted\"\nline","id":"x1","time":1700,"reply_to":2}"#
        );
    }

    #[test]
    fn live_data_is_a_string_or_json() {
        let user = User { id: UserId(3), username: "ann".into() };
        let live = |data: &str, is_json| {
            let mut out = Vec::new();
            let data: Arc<str> = data.into();
            encode(&mut out, &Entry::Live(LiveEntry { user: user.clone(), time: 9, data, is_json }));
            String::from_utf8(out).unwrap()
        };
        assert!(live("{\"a\":1}", false).contains(r#""data":"{\"a\":1}","time":9"#));
        assert!(live("{\"a\":1}", true).contains(r#""data":{"a":1},"time":9"#));
    }
}
