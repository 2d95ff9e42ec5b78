//! The `data` of publications: JSON, the same in both encodings of the Centrifugo protocol. Clients of the plain
//! protocol can publish it too, but receive frames of another form.

use super::{BAD_REQUEST, LIMIT_EXCEEDED, ProtocolError};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uproar_model::text::{self, EMOJI_LIMIT_BYTES};
use uproar_model::{Kind, META_LIMIT_BYTES, Offset, Publication, check_message_id, shown_message_id};

/// The greatest depth of nested JSON.
pub const NESTING_LIMIT: usize = 64;

/// The error for data that is not JSON. It follows the name of the data.
pub const NOT_JSON: &str = "must be JSON, nested at most 64 deep";

/// The error for JSON in which a program has cut a character in two. It follows the name of the data. Most decoders
/// reject such JSON.
pub const HALF_A_PAIR: &str = "contains half of a surrogate pair (\\ud800 to \\udfff), which is not a character";

/// A client's request to append something to a room's log.
#[derive(Debug, PartialEq, Eq)]
pub struct Publish {
    /// `Message` to `Unreact`.
    pub kind: Kind,
    /// The id that the sender chose, validated.
    pub id: Option<String>,
    /// The offset that a `Message` replies to; for other kinds, the offset of the message concerned.
    pub target: Option<Offset>,
    /// The text (`Message`, `Edit`) or the emoji (`React`, `Unreact`), validated.
    pub body: Option<String>,
    /// For a `Message`: the JSON that the sender attaches, compact, validated.
    pub meta: Option<String>,
    /// The epoch of the room that it is meant for; `None` for whichever room has the name now.
    pub epoch: Option<String>,
}

impl Publish {
    /// A message with this text, which replies to no other.
    pub fn message(text: String) -> Publish {
        Publish { kind: Kind::Message, id: None, target: None, body: Some(text), meta: None, epoch: None }
    }
}

/// Why a publish is rejected. The error goes back with the id that the sender chose, if that is valid, so that the
/// sender knows which publish failed.
#[derive(Debug, PartialEq, Eq)]
pub struct RejectedPublish {
    pub error: ProtocolError,
    pub id: Option<String>,
}

/// Decodes and validates JSON that a client publishes in a room. `text_limit_bytes` is the longest text allowed.
pub fn decode(data: &[u8], text_limit_bytes: usize) -> Result<Publish, RejectedPublish> {
    let mut publish = decode_fields(data)?;
    let checked = match (publish.kind, publish.body.take()) {
        (Kind::Message | Kind::Edit, Some(text)) => check_text(&text, text_limit_bytes).map(|()| Some(text)),
        (Kind::React, Some(emoji)) => new_reaction(&emoji).map(Some),
        (_, Some(emoji)) => old_reaction(emoji).map(Some),
        (_, None) => Ok(None),
    };
    match checked {
        Ok(body) => Ok(Publish { body, ..publish }),
        Err(error) => Err(RejectedPublish { error, id: publish.id }),
    }
}

/// The known fields of an object. Each is decoded separately so that an error can name the field.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Fields<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    epoch: Option<&'a RawValue>,
    #[serde(borrow)]
    emoji: Option<&'a RawValue>,
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    #[serde(borrow)]
    reply_to: Option<&'a RawValue>,
    #[serde(borrow)]
    meta: Option<&'a RawValue>,
    #[serde(borrow)]
    edit: Option<&'a RawValue>,
    #[serde(borrow)]
    delete: Option<&'a RawValue>,
    #[serde(borrow)]
    react: Option<&'a RawValue>,
    #[serde(borrow)]
    unreact: Option<&'a RawValue>,
}

/// Decodes a field's value; `Err` if it has another type.
fn value<'a, T: Deserialize<'a>>(field: Option<&'a RawValue>) -> Result<Option<T>, ()> {
    field.map(|raw| serde_json::from_str(raw.get()).map_err(|_| ())).transpose()
}

fn decode_fields(data: &[u8]) -> Result<Publish, RejectedPublish> {
    let bad =
        |message: &str, id: Option<String>| RejectedPublish { error: ProtocolError::new(BAD_REQUEST, message), id };
    let is_object = data.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    let fields = json_text(data).filter(|_| is_object).and_then(|text| serde_json::from_str::<Fields<'_>>(text).ok());
    let Some(fields) = fields else {
        return Err(bad("a message must be a JSON object such as {\"text\":\"hello\"}", None));
    };
    let id = string("id", fields.id).map_err(|error| bad(&error, None))?;
    // An invalid id is not sent back: it may be a megabyte long.
    id.as_deref().map_or(Ok(()), check_id).map_err(|error| RejectedPublish { error, id: None })?;
    let epoch = match string("epoch", fields.epoch) {
        Ok(epoch) => epoch,
        Err(error) => return Err(bad(&error, id)),
    };
    let forms = [
        (Kind::Edit, "edit", fields.edit),
        (Kind::Delete, "delete", fields.delete),
        (Kind::React, "react", fields.react),
        (Kind::Unreact, "unreact", fields.unreact),
    ];
    let mut given = forms.into_iter().filter(|(.., field)| field.is_some());
    let (kind, name, target) = given.next().unwrap_or((Kind::Message, "reply_to", fields.reply_to));
    if given.next().is_some() {
        return Err(bad("only one of edit, delete, react and unreact is allowed at a time", id));
    }
    let target = value::<Offset>(target).ok().filter(|offset| offset.is_none_or(|o| (1..1 << 53).contains(&o)));
    let Some(target) = target else { return Err(bad(&format!("{name} must be the offset of a message"), id)) };
    let meta = match fields.meta {
        None => None,
        Some(_) if kind != Kind::Message => {
            return Err(bad("only a message can have meta, and keeps it when it is edited", id));
        }
        Some(meta) => match new_meta(meta.get()) {
            Ok(meta) => Some(meta),
            Err(error) => return Err(RejectedPublish { error, id }),
        },
    };
    let (body, what) = match kind {
        Kind::Message | Kind::Edit => (fields.text, "text"),
        Kind::React | Kind::Unreact => (fields.emoji, "emoji"),
        _ => return Ok(Publish { kind, id, target, body: None, meta, epoch }),
    };
    match string(what, body) {
        Ok(Some(body)) => Ok(Publish { kind, id, target, body: Some(body), meta, epoch }),
        Ok(None) => Err(bad(&format!("the {what} is missing"), id)),
        Err(error) => Err(bad(&error, id)),
    }
}

/// Decodes a field that is a string; otherwise says what is wrong with it.
fn string(name: &str, field: Option<&RawValue>) -> Result<Option<String>, String> {
    value(field).map_err(|()| match field {
        Some(raw) if has_half_a_pair(raw.get()) => format!("the {name} {HALF_A_PAIR}"),
        _ => format!("the {name} must be a string"),
    })
}

/// Whether the strings of valid JSON contain half of a surrogate pair.
pub fn has_half_a_pair(json: &str) -> bool {
    let unit = |escape: &str| u16::from_str_radix(escape.strip_prefix("\\u")?.get(..4)?, 16).ok();
    let mut rest = json;
    // There are no backslashes outside strings.
    while let Some(at) = rest.find('\\') {
        let escape = &rest[at..];
        let length = match unit(escape) {
            None => 2,
            Some(0xd800..0xdc00)
                if escape.get(6..).and_then(unit).is_some_and(|low| (0xdc00..0xe000).contains(&low)) =>
            {
                12
            }
            Some(0xd800..0xe000) => return true,
            Some(_) => 6,
        };
        rest = escape.get(length..).unwrap_or_default();
    }
    false
}

/// Checks the length of a text. The limit is the same in rooms and in `live:` channels.
pub fn check_length(text: &str, limit_bytes: usize) -> Result<(), ProtocolError> {
    if text.len() <= limit_bytes {
        return Ok(());
    }
    let (all, fitting) = (text::count_characters(text), text::count_characters(text::cut(text, limit_bytes)));
    let text = format!(
        "the text is too long: of its {all} characters, {fitting} fit into {limit_bytes} bytes (text_limit_bytes)"
    );
    Err(ProtocolError::new(LIMIT_EXCEEDED, text))
}

/// Checks the text of a message.
pub fn check_text(text: &str, limit_bytes: usize) -> Result<(), ProtocolError> {
    check_length(text, limit_bytes)?;
    if !text::is_visible(text) {
        return Err(ProtocolError::new(BAD_REQUEST, "the text is empty"));
    }
    if text.contains('\0') {
        return Err(ProtocolError::new(BAD_REQUEST, "the text contains the character U+0000, which cannot be stored"));
    }
    Ok(())
}

/// The meta of a new message, in the form in which it is stored.
pub fn new_meta(json: &str) -> Result<String, ProtocolError> {
    let meta =
        compact(json.as_bytes()).map_err(|error| ProtocolError::new(BAD_REQUEST, format!("the meta {error}")))?;
    if meta.len() <= META_LIMIT_BYTES {
        return Ok(meta);
    }
    let text = format!("the meta is too long: it has {} bytes of compact JSON, and {META_LIMIT_BYTES} fit", meta.len());
    Err(ProtocolError::new(LIMIT_EXCEEDED, text))
}

/// The meta of a publication as JSON.
pub(super) fn meta(p: &Publication) -> Option<&RawValue> {
    // What can't be parsed was not stored by a server.
    serde_json::from_str(p.meta.as_deref()?).ok()
}

/// How a `Moderated` publication changes rights or settings: a JSON object.
pub(super) fn change(p: &Publication) -> Option<&str> {
    let body = p.body.as_deref().filter(|body| body.starts_with('{'))?;
    // What can't be parsed was not stored by a server.
    serde_json::from_str::<IgnoredAny>(body).ok().map(|_| body)
}

/// The emoji of a new reaction, in the one form in which it is stored.
pub fn new_reaction(emoji: &str) -> Result<String, ProtocolError> {
    text::emoji(emoji).ok_or_else(|| {
        let text = format!("the emoji must be a single emoji of at most {EMOJI_LIMIT_BYTES} bytes");
        ProtocolError::new(BAD_REQUEST, text)
    })
}

/// The emoji of a reaction that is taken back. Earlier versions accepted any text.
pub fn old_reaction(emoji: String) -> Result<String, ProtocolError> {
    match text::emoji(&emoji) {
        Some(emoji) => Ok(emoji),
        None if !emoji.is_empty() && emoji.len() <= EMOJI_LIMIT_BYTES && !emoji.contains('\0') => Ok(emoji),
        None => new_reaction(&emoji),
    }
}

/// Checks an id that a sender chose.
fn check_id(id: &str) -> Result<(), ProtocolError> {
    check_message_id(id).map_err(|error| ProtocolError::new(BAD_REQUEST, format!("the id {error}")))
}

/// Removes insignificant white space from JSON and leaves the rest as it is: numbers keep their digits, and objects
/// keep the order of their keys.
///
/// # Errors
/// [`NOT_JSON`] or [`HALF_A_PAIR`].
pub fn compact(json: &[u8]) -> Result<String, &'static str> {
    let text = json_text(json).ok_or(NOT_JSON)?;
    serde_json::from_str::<IgnoredAny>(text).map_err(|_| NOT_JSON)?;
    if has_half_a_pair(text) {
        return Err(HALF_A_PAIR);
    }
    let mut out = String::with_capacity(text.len());
    let mut scan = Scan::default();
    // Where the text that is not copied yet begins. It is cut only at ASCII characters.
    let mut from = 0;
    for (at, byte) in text.bytes().enumerate() {
        scan.step(byte);
        if !scan.in_string && matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
            out.push_str(&text[from..at]);
            from = at + 1;
        }
    }
    out.push_str(&text[from..]);
    Ok(out)
}

/// Returns the text if it is UTF-8 and not nested too deeply. Serde's own limit is 128, and does not apply to values
/// that it skips.
fn json_text(json: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(json).ok()?;
    let mut scan = Scan::default();
    for byte in text.bytes() {
        scan.step(byte);
        if scan.depth > NESTING_LIMIT {
            return None;
        }
    }
    Some(text)
}

/// Tracks strings and nesting while it reads JSON. The state is meaningful only if the JSON is valid.
#[derive(Debug, Default)]
struct Scan {
    depth: usize,
    in_string: bool,
    is_escaped: bool,
}

impl Scan {
    fn step(&mut self, byte: u8) {
        match byte {
            _ if self.is_escaped => self.is_escaped = false,
            b'\\' if self.in_string => self.is_escaped = true,
            b'"' => self.in_string = !self.in_string,
            b'[' | b'{' if !self.in_string => self.depth += 1,
            b']' | b'}' if !self.in_string => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
    }
}

/// Appends the `data` of a stored publication as compact JSON.
pub fn encode(out: &mut Vec<u8>, p: &Publication) {
    #[derive(Default, Serialize)]
    struct Data<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        edit: Option<Offset>,
        #[serde(skip_serializing_if = "Option::is_none")]
        delete: Option<Offset>,
        #[serde(skip_serializing_if = "Option::is_none")]
        react: Option<Offset>,
        #[serde(skip_serializing_if = "Option::is_none")]
        unreact: Option<Offset>,
        #[serde(skip_serializing_if = "Option::is_none")]
        added: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        removed: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        username: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        room: Option<RoomData>,
        #[serde(skip_serializing_if = "Option::is_none")]
        text: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        emoji: Option<&'a str>,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        deleted: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        reply_to: Option<Offset>,
        #[serde(skip_serializing_if = "Option::is_none")]
        edited: Option<Offset>,
        #[serde(skip_serializing_if = "Option::is_none")]
        meta: Option<&'a RawValue>,
    }
    /// Empty: such publications do not say what changed.
    #[derive(Serialize)]
    struct RoomData {}

    if p.kind == Kind::Moderated {
        return out.extend_from_slice(change(p).unwrap_or("{}").as_bytes());
    }
    let (body, id) = (p.body.as_deref(), shown_message_id(&p.id));
    let is_deleted = p.deleted.is_some();
    let (member_id, username) = p.member().map(|member| (member.id, member.username)).unzip();
    let username = username.flatten();
    // A deleted message loses its reply and edit offsets together with its text.
    let data = match p.kind {
        Kind::Message if is_deleted => Data { deleted: true, id, ..Data::default() },
        Kind::Message => {
            Data { text: body, id, reply_to: p.target, edited: p.edited, meta: meta(p), ..Data::default() }
        }
        Kind::Edit if is_deleted => Data { edit: p.target, deleted: true, id, ..Data::default() },
        Kind::Edit => Data { edit: p.target, text: body, id, ..Data::default() },
        Kind::Delete => Data { delete: p.target, id, ..Data::default() },
        Kind::React => Data { react: p.target, emoji: body, id, ..Data::default() },
        Kind::Unreact => Data { unreact: p.target, emoji: body, id, ..Data::default() },
        Kind::Added => Data { added: member_id, username, ..Data::default() },
        Kind::Removed => Data { removed: member_id, username, ..Data::default() },
        Kind::RoomChanged => Data { room: Some(RoomData {}), ..Data::default() },
        Kind::Moderated | Kind::Unknown => Data { id, ..Data::default() },
    };
    super::write_json(out, &data);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;
    use uproar_model::{User, UserId};

    fn shown(kind: Kind, change: impl FnOnce(&mut Publication)) -> String {
        let mut publication = Publication {
            offset: 7,
            number: 5,
            kind,
            user: User { id: UserId(3), username: "ann".into() },
            id: "x1".into(),
            time: 1700,
            target: Some(2),
            body: Some("a <\"quoted\">\nline".into()),
            edited: None,
            deleted: None,
            meta: None,
        };
        change(&mut publication);
        let mut out = Vec::new();
        encode(&mut out, &publication);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn each_kind_is_encoded_with_its_own_fields() {
        let text = r#""text":"a <\"quoted\">\nline""#;
        assert_eq!(shown(Kind::Message, |_| {}), format!(r#"{{{text},"id":"x1","reply_to":2}}"#));
        assert_eq!(shown(Kind::Message, |p| (p.target, p.id) = (None, "~1".into())), format!("{{{text}}}"));
        let edited = format!(r#"{{{text},"id":"x1","reply_to":2,"edited":9}}"#);
        assert_eq!(shown(Kind::Message, |p| p.edited = Some(9)), edited);
        let deleted = |p: &mut Publication| (p.body, p.edited, p.deleted) = (None, Some(8), Some(9));
        assert_eq!(shown(Kind::Message, deleted), r#"{"deleted":true,"id":"x1"}"#);
        assert_eq!(shown(Kind::Edit, |_| {}), format!(r#"{{"edit":2,{text},"id":"x1"}}"#));
        assert_eq!(shown(Kind::Edit, deleted), r#"{"edit":2,"deleted":true,"id":"x1"}"#);
        assert_eq!(
            shown(Kind::Delete, |p| (p.body, p.id) = (None, "~1".into())),
            r#"{"delete":2}"#,
            "a generated id is not encoded"
        );
        assert_eq!(shown(Kind::React, |p| p.body = Some("+".into())), r#"{"react":2,"emoji":"+","id":"x1"}"#);
        assert_eq!(shown(Kind::Unreact, |p| p.body = Some("+".into())), r#"{"unreact":2,"emoji":"+","id":"x1"}"#);
        assert_eq!(shown(Kind::Added, |p| p.body = Some("4 Ben B".into())), r#"{"added":"4","username":"Ben B"}"#);
        assert_eq!(shown(Kind::Removed, |p| p.body = Some("4 Ben".into())), r#"{"removed":"4","username":"Ben"}"#);
        assert_eq!(shown(Kind::Removed, |p| p.body = Some("4".into())), r#"{"removed":"4"}"#, "of an earlier version");
        assert_eq!(shown(Kind::RoomChanged, |_| {}), r#"{"room":{}}"#);
        let role = r#"{"role":"4","username":"Ben","is":"owner"}"#;
        assert_eq!(shown(Kind::Moderated, |p| p.body = Some(role.into())), role);
        assert_eq!(shown(Kind::Moderated, |p| p.body = Some("[]".into())), "{}");
        assert_eq!(shown(Kind::Moderated, |p| p.body = None), "{}");
        assert_eq!(shown(Kind::Unknown, |_| {}), r#"{"id":"x1"}"#);
        assert_eq!(shown(Kind::Unknown, |p| p.id = "~pin-7".into()), "{}", "of a newer release");
    }

    #[test]
    fn json_nested_too_deeply_is_rejected() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(compact(nested(64).as_bytes()).is_ok());
        assert_eq!(compact(nested(65).as_bytes()), Err(NOT_JSON));
        assert_eq!(compact(nested(1 << 20).as_bytes()), Err(NOT_JSON));
        let deep = |depth: usize| format!(r#"{{"text":"a","more":{}}}"#, nested(depth));
        assert!(decode(deep(63).as_bytes(), 10).is_ok());
        assert_eq!(decode(deep(64).as_bytes(), 10).unwrap_err().error.code, BAD_REQUEST);
        assert!(compact(br#""[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[""#).is_ok());
    }

    #[test]
    fn compact_removes_only_white_space() {
        let compacted = |json: &str| compact(json.as_bytes());
        assert_eq!(compacted(" { \"a\" :\n\"[[\\\"[ \\\\\" } ").as_deref(), Ok(r#"{"a":"[[\"[ \\"}"#));
        let exact = r#"{"b":1.10e+400,"a":123456789012345678901234567890,"a":"\u00e9 é\/\n"}"#;
        assert_eq!(compacted(exact).as_deref(), Ok(exact));
        assert_eq!(compacted("\t[ 1 ,\r\n2 ]\n").as_deref(), Ok("[1,2]"));
        for json in ["", " ", "nonsense", "[1 2]", "1 2", "{\"a\":1,}", "\"a\nb\"", "'a'", "[", "\u{feff}1", "01"] {
            assert_eq!(compacted(json), Err(NOT_JSON), "{json}");
        }
        assert_eq!(compact(b"\"\xff\""), Err(NOT_JSON), "not UTF-8");
    }

    #[test]
    fn half_of_a_surrogate_pair_is_rejected_in_every_string() {
        for half in [
            r#""\ud83d""#,
            r#""\uDE00""#,
            r#""\ud83d\ud83d\ude00""#,
            r#""\ud83d\n\ude00""#,
            r#""\ud83d\\ude00""#,
            r#"{"\ud83d":1}"#,
            r#"[["\\\ud83d"]]"#,
        ] {
            assert_eq!(compact(half.as_bytes()), Err(HALF_A_PAIR), "{half}");
        }
        for whole in [r#""\ud83d\ude00""#, r#""\uD83D\uDE00\u00e9é\\ud83d""#, r#""\\""#, r#""\ud7ff\ue000""#] {
            assert_eq!(compact(whole.as_bytes()).as_deref(), Ok(whole));
        }
        for (data, field) in [
            (r#"{"text":"a\ud83d"}"#, "text"),
            (r#"{"edit":3,"text":"\ude00"}"#, "text"),
            (r#"{"react":3,"emoji":"\ud83d"}"#, "emoji"),
            (r#"{"text":"a","id":"\ud83d"}"#, "id"),
            (r#"{"text":"a","epoch":"\ud83d"}"#, "epoch"),
        ] {
            let error = decode(data.as_bytes(), 10).unwrap_err().error;
            assert_eq!((error.code, error.message), (BAD_REQUEST, format!("the {field} {HALF_A_PAIR}")), "{data}");
        }
    }

    #[test]
    fn edits_deletions_and_reactions_are_decoded() {
        let read = |data: &str| decode(data.as_bytes(), 10);
        let publish = |kind, body: Option<&str>| {
            let body = body.map(Into::into);
            Ok(Publish { kind, id: Some("x".into()), target: Some(3), body, meta: None, epoch: None })
        };
        let all = r#""id":"x","text":"new","emoji":"👍","reply_to":9"#;
        assert_eq!(read(&format!(r#"{{"edit":3,{all}}}"#)), publish(Kind::Edit, Some("new")));
        assert_eq!(read(&format!(r#"{{"delete":3,{all}}}"#)), publish(Kind::Delete, None));
        assert_eq!(read(&format!(r#"{{"react":3,{all}}}"#)), publish(Kind::React, Some("👍")));
        assert_eq!(read(&format!(r#"{{"unreact":3,{all},"edit":null}}"#)), publish(Kind::Unreact, Some("👍")));
        for invalid in [
            r#"{"edit":3,"id":"x"}"#,
            r#"{"edit":3,"id":"x","text":" "}"#,
            r#"{"edit":0,"id":"x","text":"a"}"#,
            r#"{"edit":"3","id":"x","text":"a"}"#,
            r#"{"edit":3,"delete":3,"id":"x","text":"a"}"#,
            r#"{"delete":-1,"id":"x"}"#,
            r#"{"react":3,"id":"x"}"#,
            r#"{"react":3,"id":"x","emoji":""}"#,
            r#"{"react":3,"id":"x","emoji":"\u0007"}"#,
            r#"{"react":3,"id":"x","emoji":7}"#,
            r#"{"react":3,"id":"x","emoji":"+1"}"#,
            r#"{"react":3,"id":"x","emoji":"👍👍"}"#,
            r#"{"react":3,"id":"x","emoji":"\ud83d"}"#,
            r#"{"edit":3,"id":"x","text":"\u200b"}"#,
        ] {
            let rejected = read(invalid).unwrap_err();
            assert_eq!((rejected.error.code, rejected.id.as_deref()), (BAD_REQUEST, Some("x")), "{invalid}");
        }
        let epoch = read(r#"{"delete":3,"epoch":"e1"}"#).unwrap().epoch;
        assert_eq!(epoch.as_deref(), Some("e1"));
        assert_eq!(read(r#"{"delete":3,"epoch":1}"#).unwrap_err().error.code, BAD_REQUEST);
        let heart = read(r#"{"react":3,"emoji":"❤"}"#).unwrap().body;
        assert_eq!(heart.as_deref(), Some("❤\u{fe0f}"), "one form is stored");
        let old = |length| format!(r#"{{"unreact":3,"emoji":"{}"}}"#, "x".repeat(length));
        assert!(read(&old(48)).is_ok(), "a reaction of an earlier version can be taken back");
        assert_eq!(read(&old(49)).unwrap_err().error.code, BAD_REQUEST);
        assert_eq!(read(r#"{"edit":3,"text":"longer than ten"}"#).unwrap_err().error.code, LIMIT_EXCEEDED);
    }

    #[test]
    fn meta_is_any_json_of_a_message() {
        let meta = |meta: &str| decode(format!(r#"{{"text":"a","meta":{meta}}}"#).as_bytes(), 10);
        for (sent, stored) in [
            ("{ \"b\" : 1.0,\n\"a\":[ ] }", r#"{"b":1.0,"a":[]}"#),
            ("12345678901234567890123", "12345678901234567890123"),
            ("\"x\\u0000y\"", "\"x\\u0000y\""),
            ("false", "false"),
        ] {
            assert_eq!(meta(sent).unwrap().meta.as_deref(), Some(stored));
        }
        assert_eq!(meta("null").unwrap().meta, None);
        let text = |bytes: usize| format!("\"{}\"", "x".repeat(bytes - 2));
        assert!(meta(&text(META_LIMIT_BYTES)).is_ok());
        let too_long = meta(&text(META_LIMIT_BYTES + 1)).unwrap_err().error;
        assert_eq!(too_long.code, LIMIT_EXCEEDED);
        assert!(too_long.message.contains("4097 bytes"), "{}", too_long.message);
        let cut = meta("{\"a\":\"\\ud83d\"}").unwrap_err().error;
        assert_eq!((cut.code, cut.message), (BAD_REQUEST, format!("the meta {HALF_A_PAIR}")));
        for (data, id) in
            [(r#"{"edit":3,"text":"a","id":"x","meta":1}"#, "x"), (r#"{"delete":3,"id":"x","meta":{}}"#, "x")]
        {
            let rejected = decode(data.as_bytes(), 10).unwrap_err();
            assert_eq!((rejected.error.code, rejected.id.as_deref()), (BAD_REQUEST, Some(id)), "{data}");
        }
        let shown = |change: fn(&mut Publication)| shown(Kind::Message, change);
        let with_meta = shown(|p| p.meta = Some(r#"{"a":1}"#.into()));
        assert!(with_meta.ends_with(r#""reply_to":2,"meta":{"a":1}}"#), "{with_meta}");
        let deleted = shown(|p| (p.meta, p.body, p.deleted) = (Some("1".into()), None, Some(9)));
        assert!(!deleted.contains("meta"), "{deleted}");
    }

    #[test]
    fn data_that_is_not_an_object_is_rejected() {
        for data in [&b""[..], b"null", b"[]", b"\"a\"", b"{", b"{\"text\":\"\xff\"}"] {
            let rejected = decode(data, 100).unwrap_err();
            assert_eq!((rejected.error.code, rejected.id), (BAD_REQUEST, None));
        }
    }

    proptest! {
        #[test]
        fn bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64), limit in 0usize..64) {
            let _ = decode(&bytes, limit);
            let _ = compact(&bytes);
        }

        #[test]
        fn compact_json_has_the_same_value(text in "[ \\[\\]{}:,\"\\\\/\t\na0-9.e-]{0,40}") {
            if let Ok(compacted) = compact(text.as_bytes()) {
                prop_assert_eq!(compact(compacted.as_bytes()), Ok(compacted.clone()));
                if let Ok(value) = serde_json::from_str::<Value>(&text) {
                    prop_assert_eq!(serde_json::from_str::<Value>(&compacted).unwrap(), value);
                }
            } else {
                prop_assert!(serde_json::from_str::<Value>(&text).is_err());
            }
        }
    }
}
