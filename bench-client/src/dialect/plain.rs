//! Uproar's plain protocol with `format=json`.

use super::{Position, Scanner, ServerEvent};
use serde_json::Value;
use std::io::Write;

#[derive(Clone, Debug)]
pub struct Plain {
    scanner: Scanner,
}

pub(super) fn publish(out: &mut Vec<u8>, number: u32, text: &[u8]) {
    out.extend_from_slice(br#"{"text":""#);
    out.extend_from_slice(text);
    // Writing to memory does not fail.
    let _ = write!(out, r#"","id":"{number}"}}"#);
}

impl Plain {
    /// `length` is the length of each text in bytes.
    pub fn new(length: usize) -> Plain {
        Plain { scanner: Scanner::new(length) }
    }

    #[inline]
    pub(super) fn read<'a>(&self, frame: &'a [u8]) -> ServerEvent<'a> {
        if let Some(rest) = frame.strip_prefix(br#"{"type":"message","offset":"#)
            && let (Some(offset), Some((_, text, _))) = (super::number(rest), self.scanner.text(rest))
        {
            return ServerEvent::Message { text, offset: Some(offset) };
        }
        if frame.starts_with(br#"{"type":"live","#)
            && let Some((_, text, _)) = self.scanner.text(frame)
        {
            return ServerEvent::Message { text, offset: None };
        }
        parse(frame)
    }
}

/// Parses frames that do not look like the usual message.
fn parse(frame: &[u8]) -> ServerEvent<'_> {
    #[derive(serde::Deserialize)]
    struct Live<'a> {
        #[serde(borrow)]
        data: Text<'a>,
    }
    #[derive(serde::Deserialize)]
    struct Text<'a> {
        text: &'a str,
    }
    let Ok(value) = serde_json::from_slice::<Value>(frame) else {
        return ServerEvent::Refused { reason: format!("not JSON: {}", String::from_utf8_lossy(frame)) };
    };
    let offset = value["offset"].as_u64();
    match value["type"].as_str() {
        Some("joined") => ServerEvent::Joined {
            position: offset
                .map(|offset| Position { epoch: value["epoch"].as_str().unwrap_or_default().to_owned(), offset }),
            recovered: value["recovered"].as_bool(),
        },
        // No text of this client needs escaping. One with escapes counts as corrupted, so an empty text will do.
        Some("message") => {
            let text = serde_json::from_slice::<Text<'_>>(frame).map_or(&b""[..], |message| message.text.as_bytes());
            ServerEvent::Message { text, offset }
        }
        Some("live") => {
            let text = serde_json::from_slice::<Live<'_>>(frame).map_or(&b""[..], |live| live.data.text.as_bytes());
            ServerEvent::Message { text, offset: None }
        }
        Some("ack") => match value["id"].as_str().and_then(|id| id.parse().ok()) {
            Some(number) => ServerEvent::Acknowledged { number },
            None => ServerEvent::Refused { reason: format!("an acknowledgement without a number: {value}") },
        },
        Some("error") => ServerEvent::Refused { reason: value.to_string() },
        _ => offset.map_or(ServerEvent::Other, |offset| ServerEvent::NoMessage { channel: None, offset }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_frames_are_scanned() {
        let plain = Plain::new(5);
        let frame = concat!(
            r#"{"type":"message","offset":17,"number":5,"user":{"id":"3","username":"ann"},"text":"hello","#,
            r#""id":"x1","time":1700}"#
        );
        assert_eq!(plain.read(frame.as_bytes()), ServerEvent::Message { text: b"hello", offset: Some(17) });
        let frame = br#"{"type":"live","user":{"id":"3","username":"ann"},"data":{"text":"hello","id":"1"},"time":9}"#;
        assert_eq!(plain.read(frame), ServerEvent::Message { text: b"hello", offset: None });
    }

    #[test]
    fn unusual_frames_are_parsed() {
        let plain = Plain::new(5);
        let frame = br#"{ "text": "hello", "offset": 17, "type": "message" }"#;
        assert_eq!(plain.read(frame), ServerEvent::Message { text: b"hello", offset: Some(17) });
        let frame = br#"{"type":"message","offset":17,"text":"hel\"lo"}"#;
        assert_eq!(plain.read(frame), ServerEvent::Message { text: b"", offset: Some(17) });
        let frame = br#"{"type":"joined","room":"a","epoch":"e.1","offset":3,"recovered":true}"#;
        let position = Some(Position { epoch: "e.1".into(), offset: 3 });
        assert_eq!(plain.read(frame), ServerEvent::Joined { position, recovered: Some(true) });
        assert_eq!(plain.read(br#"{"type":"ack","id":"7","offset":3}"#), ServerEvent::Acknowledged { number: 7 });
        assert!(matches!(plain.read(br#"{"type":"error","code":111}"#), ServerEvent::Refused { .. }));
        assert!(matches!(plain.read(b"what"), ServerEvent::Refused { .. }));
        let frame = br#"{"type":"added","offset":3,"user":{"id":"3","username":"ann"},"added":"3","username":"ann"}"#;
        assert_eq!(plain.read(frame), ServerEvent::NoMessage { channel: None, offset: 3 });
        assert_eq!(plain.read(br#"{"type":"typing"}"#), ServerEvent::Other);
    }
}
