//! The Centrifugo protocol in JSON: one command, reply or push per line.

use super::{Position, Scanner, ServerEvent};
use serde_json::{Value, json};
use std::io::Write;

/// Ids of the commands that open a connection. Publishes are numbered after them.
const CONNECT: u64 = 1;
const SUBSCRIBE: u64 = 2;
const FIRST_PUBLISH: u64 = 3;

#[derive(Clone, Debug)]
pub struct Centrifugo {
    scanner: Scanner,
}

pub(super) fn opening_commands(token: &str, channel: &str, since: Option<&Position>) -> Vec<u8> {
    let connect = json!({"id": CONNECT, "connect": {"token": token}});
    let mut lines = format!("{connect}\n").into_bytes();
    lines.extend(subscribe(channel, since));
    lines
}

pub(super) fn subscribe(channel: &str, since: Option<&Position>) -> Vec<u8> {
    let options = match since {
        None => json!({"channel": channel}),
        Some(Position { epoch, offset }) => {
            json!({"channel": channel, "recover": true, "epoch": epoch, "offset": offset})
        }
    };
    json!({"id": SUBSCRIBE, "subscribe": options}).to_string().into_bytes()
}

// The replies to the next two are ignored, so they share an id.
pub(super) fn unsubscribe(channel: &str) -> Vec<u8> {
    json!({"id": CONNECT, "unsubscribe": {"channel": channel}}).to_string().into_bytes()
}

pub(super) fn history(channel: &str, limit: u32) -> Vec<u8> {
    json!({"id": CONNECT, "history": {"channel": channel, "limit": limit, "reverse": true}}).to_string().into_bytes()
}

pub(super) fn publish(out: &mut Vec<u8>, channel: &str, number: u32, text: &[u8]) {
    let id = u64::from(number) + FIRST_PUBLISH;
    // Writing to memory does not fail.
    let _ = write!(out, r#"{{"id":{id},"publish":{{"channel":"{channel}","data":{{"text":""#);
    out.extend_from_slice(text);
    let _ = write!(out, r#"","id":"{number}"}}}}}}"#);
}

impl Centrifugo {
    /// `length` is the length of each text in bytes.
    pub fn new(length: usize) -> Centrifugo {
        Centrifugo { scanner: Scanner::new(length) }
    }

    #[inline]
    pub(super) fn read<'a>(&self, line: &'a [u8]) -> ServerEvent<'a> {
        if line.starts_with(br#"{"push":{"#)
            && let Some((_, text, rest)) = self.scanner.text(line)
        {
            return ServerEvent::Message { text, offset: self.scanner.offset(rest) };
        }
        if let Some(rest) = line.strip_prefix(br#"{"id":"#)
            && let Some(id @ FIRST_PUBLISH..) = super::number(rest)
            && memchr::memmem::find(line, br#","publish":{"#).is_some()
        {
            return ServerEvent::Acknowledged { number: (id - FIRST_PUBLISH) as u32 };
        }
        parse(line)
    }
}

/// Parses lines that do not look like the usual message or acknowledgement.
fn parse(line: &[u8]) -> ServerEvent<'_> {
    #[derive(serde::Deserialize)]
    struct Line<'a> {
        #[serde(borrow)]
        push: Push<'a>,
    }
    #[derive(serde::Deserialize)]
    struct Push<'a> {
        #[serde(borrow, rename = "pub")]
        publication: Publication<'a>,
    }
    #[derive(serde::Deserialize)]
    struct Publication<'a> {
        #[serde(borrow)]
        data: Text<'a>,
    }
    #[derive(serde::Deserialize)]
    struct Text<'a> {
        text: &'a str,
    }
    let Ok(value) = serde_json::from_slice::<Value>(line) else {
        return ServerEvent::Refused { reason: format!("not JSON: {}", String::from_utf8_lossy(line)) };
    };
    if value.as_object().is_some_and(serde_json::Map::is_empty) {
        return ServerEvent::Ping { reply: b"{}" };
    }
    if value["error"].is_object() {
        return ServerEvent::Refused { reason: value.to_string() };
    }
    let publication = &value["push"]["pub"];
    if publication["data"]["text"].is_string() {
        // No text of this client needs escaping. One with escapes counts as corrupted, so an empty text will do.
        let text = serde_json::from_slice::<Line<'_>>(line);
        let text = text.map_or(&b""[..], |line| line.push.publication.data.text.as_bytes());
        return ServerEvent::Message { text, offset: publication["offset"].as_u64() };
    }
    if let Some(offset) = publication["offset"].as_u64() {
        let channel = value["push"]["channel"].as_str().map(str::to_owned);
        return ServerEvent::NoMessage { channel, offset };
    }
    if value["push"]["unsubscribe"].is_object() {
        return ServerEvent::Refused { reason: value.to_string() };
    }
    match value["id"].as_u64() {
        Some(SUBSCRIBE) => {
            let subscribe = &value["subscribe"];
            let position = subscribe["epoch"].as_str().map(|epoch| Position {
                epoch: epoch.to_owned(),
                offset: subscribe["offset"].as_u64().unwrap_or_default(),
            });
            let recovered = subscribe["was_recovering"].as_bool().map(|_| subscribe["recovered"] == true);
            ServerEvent::Joined { position, recovered }
        }
        Some(id @ FIRST_PUBLISH..) if value["publish"].is_object() => {
            ServerEvent::Acknowledged { number: (id - FIRST_PUBLISH) as u32 }
        }
        _ => ServerEvent::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_lines_are_scanned() {
        let centrifugo = Centrifugo::new(5);
        let line = concat!(
            r#"{"push":{"channel":"room:offset","pub":{"data":{"text":"hello","id":"1"},"info":{"user":"7","#,
            r#""client":"","conn_info":{"username":"offset"}},"offset":17,"time":1700}}}"#
        );
        assert_eq!(centrifugo.read(line.as_bytes()), ServerEvent::Message { text: b"hello", offset: Some(17) });
        let line = br#"{"push":{"channel":"live:a","pub":{"data":{"text":"hello"},"info":{"user":"7"},"time":1}}}"#;
        assert_eq!(centrifugo.read(line), ServerEvent::Message { text: b"hello", offset: None });
        assert_eq!(centrifugo.read(br#"{"id":10,"publish":{"offset":4}}"#), ServerEvent::Acknowledged { number: 7 });
        assert_eq!(centrifugo.read(br#"{"id":3,"publish":{}}"#), ServerEvent::Acknowledged { number: 0 });
    }

    #[test]
    fn unusual_lines_are_parsed() {
        let centrifugo = Centrifugo::new(5);
        let line = br#"{"push": {"pub": {"offset": 17, "data": {"text": "hello"}}}}"#;
        assert_eq!(centrifugo.read(line), ServerEvent::Message { text: b"hello", offset: Some(17) });
        assert_eq!(centrifugo.read(br#"{"publish": {}, "id": 4}"#), ServerEvent::Acknowledged { number: 1 });
        assert_eq!(centrifugo.read(b"{}"), ServerEvent::Ping { reply: b"{}" });
        let line = concat!(
            r#"{"id":2,"subscribe":{"recoverable":true,"positioned":true,"epoch":"e","offset":3,"#,
            r#""was_recovering":true,"recovered":true,"publications":[]}}"#
        );
        let position = Some(Position { epoch: "e".into(), offset: 3 });
        assert_eq!(centrifugo.read(line.as_bytes()), ServerEvent::Joined { position, recovered: Some(true) });
        assert_eq!(
            centrifugo.read(br#"{"id":2,"subscribe":{}}"#),
            ServerEvent::Joined { position: None, recovered: None }
        );
        assert!(matches!(centrifugo.read(br#"{"id":5,"error":{"code":111}}"#), ServerEvent::Refused { .. }));
        assert_eq!(centrifugo.read(br#"{"id":1,"connect":{"client":"x"}}"#), ServerEvent::Other);
        let line = br#"{"push":{"channel":"room:a","pub":{"data":{"added":"7","username":"ann"},"offset":3}}}"#;
        let channel = Some("room:a".to_owned());
        assert_eq!(centrifugo.read(line), ServerEvent::NoMessage { channel, offset: 3 });
    }

    #[test]
    fn commands_are_valid_json() {
        let mut out = Vec::new();
        publish(&mut out, "room:a", 7, b"hello");
        let value: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(value, json!({"id": 10, "publish": {"channel": "room:a", "data": {"text": "hello", "id": "7"}}}));
        let opening_commands = opening_commands("t", "room:a", Some(&Position { epoch: "e".into(), offset: 3 }));
        assert_eq!(opening_commands.split(|byte| *byte == b'\n').count(), 2);
    }
}
