//! The plain protocol of `/ws`: clients send text frames and receive JSON objects, one in each text frame.

use super::data::{self, Publish, RejectedPublish};
use super::{ProtocolError, is_temporary, write_json};
use crate::protocol::Entry;
use serde::Serialize;
use uproar_model::{Epoch, Kind, Offset, Publication, Stored, UnixMillis, User, shown_message_id};

/// How the frames of a client are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputFormat {
    /// A frame is the text of a message.
    Text,
    /// A frame is a [`data`] object.
    Json,
}

/// Decodes a frame sent to a room. `text_limit_bytes` is the longest text allowed.
pub fn decode(frame: &str, input: InputFormat, text_limit_bytes: usize) -> Result<Publish, RejectedPublish> {
    match input {
        // Clients that read lines from a terminal or a file send the line ends too.
        InputFormat::Text => {
            let line = frame.strip_suffix('\n').unwrap_or(frame);
            let line = line.strip_suffix('\r').unwrap_or(line);
            data::check_text(line, text_limit_bytes).map_err(|error| RejectedPublish { error, id: None })?;
            Ok(Publish::message(line.to_owned()))
        }
        InputFormat::Json => data::decode(frame.as_bytes(), text_limit_bytes),
    }
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
struct PublicationEvent<'a> {
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
    added: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    removed: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    time: UnixMillis,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_to: Option<Offset>,
    #[serde(skip_serializing_if = "Option::is_none")]
    edited: Option<Offset>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    deleted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    meta: Option<&'a serde_json::value::RawValue>,
}

#[derive(Serialize)]
struct LiveEvent<'a> {
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<Author<'a>>,
    data: LiveData<'a>,
    time: UnixMillis,
}

#[derive(Serialize)]
#[serde(untagged)]
enum LiveData<'a> {
    Text(&'a str),
    Json(&'a serde_json::value::RawValue),
}

/// Appends an entry as JSON.
pub fn encode(out: &mut Vec<u8>, entry: &Entry) {
    match entry {
        Entry::Stored(publication) => encode_publication(out, publication),
        Entry::Live(live) => {
            let json = live.is_json.then(|| serde_json::from_str(&live.data).ok()).flatten();
            let data = json.map_or(LiveData::Text(&live.data), LiveData::Json);
            let user = live.user.as_ref().map(Author::from);
            write_json(out, &LiveEvent { r#type: "live", user, data, time: live.time });
        }
    }
}

fn encode_publication(out: &mut Vec<u8>, p: &Publication) {
    let body = p.body.as_deref();
    let is_message = p.kind == Kind::Message;
    let member = p.member();
    write_json(
        out,
        &PublicationEvent {
            r#type: match p.kind {
                Kind::Message => "message",
                Kind::Edit => "edit",
                Kind::Delete => "delete",
                Kind::React => "react",
                Kind::Unreact => "unreact",
                Kind::Removed => "removed",
                Kind::RoomChanged => "room",
                Kind::Added => "added",
                Kind::Moderated => "moderated",
                Kind::Unknown => "unknown",
            },
            offset: p.offset,
            number: is_message.then_some(p.number),
            target: if is_message { None } else { p.target },
            user: (&p.user).into(),
            text: if matches!(p.kind, Kind::Message | Kind::Edit) { body } else { None },
            emoji: if matches!(p.kind, Kind::React | Kind::Unreact) { body } else { None },
            added: member.filter(|_| p.kind == Kind::Added).map(|member| member.id),
            removed: member.filter(|_| p.kind == Kind::Removed).map(|member| member.id),
            username: member.and_then(|member| member.username),
            id: shown_message_id(&p.id),
            time: p.time,
            // A deleted message loses these together with its text.
            reply_to: p.target.filter(|_| is_message && p.deleted.is_none()),
            edited: p.edited.filter(|_| is_message && p.deleted.is_none()),
            deleted: matches!(p.kind, Kind::Message | Kind::Edit) && p.deleted.is_some(),
            meta: if is_message && p.deleted.is_none() { data::meta(p) } else { None },
        },
    );
    // The fields of a change follow the others.
    let fields = if p.kind == Kind::Moderated { data::change(p) } else { None };
    if let Some(fields) = fields.and_then(|object| object.strip_prefix('{')).filter(|fields| fields.starts_with('"')) {
        out.pop();
        out.push(b',');
        out.extend_from_slice(fields.as_bytes());
    }
}

/// The first frame of a room. `recovered` is `Some(false)` if the position that the client asked for does not exist.
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

/// The acknowledgement of a message that had been stored before.
pub fn ack(id: &str, stored: Stored) -> Vec<u8> {
    #[derive(Serialize)]
    struct Ack<'a> {
        r#type: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        offset: Offset,
        time: UnixMillis,
    }
    let id = shown_message_id(id);
    to_vec(&Ack { r#type: "ack", id, offset: stored.offset, time: stored.time })
}

/// The error for a message that was refused, or (100) that may or may not have been stored.
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
    let id = id.and_then(shown_message_id);
    to_vec(&Error {
        r#type: "error",
        code: error.code,
        message: &error.message,
        temporary: is_temporary(error.code),
        id,
    })
}

fn to_vec(value: &impl Serialize) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    write_json(&mut out, value);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::LiveEntry;
    use crate::protocol::{BAD_REQUEST, LIMIT_EXCEEDED};
    use std::sync::Arc;
    use uproar_model::UserId;

    fn code(frame: &str) -> u16 {
        decode(frame, InputFormat::Json, 100).unwrap_err().error.code
    }

    #[test]
    fn only_known_fields_are_decoded() {
        let publish = decode(r#"{"text":"hi","id":"a","reply_to":3,"role":"owner"}"#, InputFormat::Json, 100).unwrap();
        assert_eq!(publish, Publish { id: Some("a".into()), target: Some(3), ..Publish::message("hi".into()) });
        for line in ["a\nb", "a\nb\n", "a\nb\r\n"] {
            assert_eq!(decode(line, InputFormat::Text, 100).unwrap().body.as_deref(), Some("a\nb"));
        }
        let publish = decode("{}", InputFormat::Text, 100).unwrap();
        assert_eq!(publish, Publish::message("{}".into()));
    }

    #[test]
    fn invalid_data_is_rejected_with_its_code() {
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
        assert_eq!(code(&format!(r#"{{"text":"{}"}}"#, "x".repeat(101))), LIMIT_EXCEEDED);
        assert!(decode(&"x".repeat(100), InputFormat::Text, 100).is_ok());
        let rejected = decode(r#"{"id":"mine"}"#, InputFormat::Json, 100).unwrap_err();
        assert_eq!(rejected.id.as_deref(), Some("mine"), "the error names the message");
    }

    #[test]
    fn a_message_is_encoded_with_all_its_fields() {
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
            meta: None,
        };
        let mut out = Vec::new();
        encode(&mut out, &Entry::Stored(publication));
        assert_eq!(
            String::from_utf8(out).unwrap(),
            concat!(
                r#"{"type":"message","offset":7,"number":5,"user":{"id":"3","username":"ann"},"#,
                r#""text":"a \"quoted\"\nline","id":"x1","time":1700,"reply_to":2}"#
            )
        );
    }

    #[test]
    fn a_change_of_membership_names_who_did_it_and_whom_it_concerns() {
        let publication = Publication {
            offset: 7,
            number: 5,
            kind: Kind::Added,
            user: User { id: UserId(3), username: "ann".into() },
            id: "~added-7".into(),
            time: 1700,
            target: None,
            body: Some("4 Ben B".into()),
            edited: None,
            deleted: None,
            meta: None,
        };
        let removed = Publication { kind: Kind::Removed, body: Some("4".into()), ..publication.clone() };
        let frame = |publication| {
            let mut out = Vec::new();
            encode(&mut out, &Entry::Stored(publication));
            String::from_utf8(out).unwrap()
        };
        let user = r#""user":{"id":"3","username":"ann"}"#;
        assert_eq!(
            frame(publication.clone()),
            format!(r#"{{"type":"added","offset":7,{user},"added":"4","username":"Ben B","time":1700}}"#)
        );
        let unknown = Publication { kind: Kind::Unknown, id: "~pin-7".into(), body: None, ..publication.clone() };
        assert_eq!(frame(unknown), format!(r#"{{"type":"unknown","offset":7,{user},"time":1700}}"#));
        let change = Publication {
            kind: Kind::Moderated,
            id: "~role-7".into(),
            body: Some(r#"{"role":"4","username":"Ben B","is":"owner"}"#.into()),
            ..publication.clone()
        };
        let role = r#""role":"4","username":"Ben B","is":"owner""#;
        assert_eq!(frame(change.clone()), format!(r#"{{"type":"moderated","offset":7,{user},"time":1700,{role}}}"#));
        for body in ["{}", "[1]", "{", ""] {
            let change = Publication { body: Some(body.into()), ..change.clone() };
            assert_eq!(frame(change), format!(r#"{{"type":"moderated","offset":7,{user},"time":1700}}"#), "{body}");
        }
        // As an earlier version stored it.
        assert_eq!(frame(removed), format!(r#"{{"type":"removed","offset":7,{user},"removed":"4","time":1700}}"#));
    }

    #[test]
    fn live_data_is_encoded_as_a_string_or_as_json() {
        let user = User { id: UserId(3), username: "ann".into() };
        let live = |data: &str, is_json| {
            let mut out = Vec::new();
            let data: Arc<str> = data.into();
            encode(&mut out, &Entry::Live(LiveEntry { user: Some(user.clone()), time: 9, data, is_json }));
            String::from_utf8(out).unwrap()
        };
        assert!(live("{\"a\":1}", false).contains(r#""data":"{\"a\":1}","time":9"#));
        assert!(live("{\"a\":1}", true).contains(r#""data":{"a":1},"time":9"#));
    }
}
