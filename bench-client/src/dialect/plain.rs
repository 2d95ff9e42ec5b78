//! Uproar's plain protocol with `format=json`.

use super::{Position, Said, Scanner};
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
    /// `length`: of the texts, in bytes.
    pub fn new(length: usize) -> Plain {
        Plain { scanner: Scanner::new(length) }
    }

    #[inline]
    pub(super) fn read<'a>(&self, frame: &'a [u8]) -> Said<'a> {
        if let Some(rest) = frame.strip_prefix(br#"{"type":"message","offset":"#)
            && let (Some(offset), Some((_, text, _))) = (super::number(rest), self.scanner.text(rest))
        {
            return Said::Message { text, offset: Some(offset) };
        }
        if frame.starts_with(br#"{"type":"live","#)
            && let Some((_, text, _)) = self.scanner.text(frame)
        {
            return Said::Message { text, offset: None };
        }
        parse(frame)
    }
}

/// Whatever has another shape than messages usually have.
fn parse(frame: &[u8]) -> Said<'_> {
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
        return Said::Refused { why: format!("no JSON: {}", String::from_utf8_lossy(frame)) };
    };
    let offset = value["offset"].as_u64();
    match value["type"].as_str() {
        Some("joined") => Said::Joined {
            position: offset
                .map(|offset| Position { epoch: value["epoch"].as_str().unwrap_or_default().to_owned(), offset }),
            recovered: value["recovered"].as_bool(),
        },
        // A text that JSON had to escape is none that was sent: corrupted, as an empty one is.
        Some("message") => {
            let text = serde_json::from_slice::<Text<'_>>(frame).map_or(&b""[..], |message| message.text.as_bytes());
            Said::Message { text, offset }
        }
        Some("live") => {
            let text = serde_json::from_slice::<Live<'_>>(frame).map_or(&b""[..], |live| live.data.text.as_bytes());
            Said::Message { text, offset: None }
        }
        Some("ack") => match value["id"].as_str().and_then(|id| id.parse().ok()) {
            Some(number) => Said::Acknowledged { number },
            None => Said::Refused { why: format!("acknowledges nothing: {value}") },
        },
        Some("error") => Said::Refused { why: value.to_string() },
        _ => Said::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_found_where_it_is() {
        let plain = Plain::new(5);
        let frame = br#"{"type":"message","offset":17,"number":5,"user":{"id":"3","username":"ann"},"text":"hello","id":"x1","time":1700}"#;
        assert_eq!(plain.read(frame), Said::Message { text: b"hello", offset: Some(17) });
        let frame = br#"{"type":"live","user":{"id":"3","username":"ann"},"data":{"text":"hello","id":"1"},"time":9}"#;
        assert_eq!(plain.read(frame), Said::Message { text: b"hello", offset: None });
    }

    #[test]
    fn another_shape_is_parsed() {
        let plain = Plain::new(5);
        let frame = br#"{ "text": "hello", "offset": 17, "type": "message" }"#;
        assert_eq!(plain.read(frame), Said::Message { text: b"hello", offset: Some(17) });
        let frame = br#"{"type":"message","offset":17,"text":"hel\"lo"}"#;
        assert_eq!(plain.read(frame), Said::Message { text: b"", offset: Some(17) });
        let frame = br#"{"type":"joined","room":"a","epoch":"e.1","offset":3,"recovered":true}"#;
        let position = Some(Position { epoch: "e.1".into(), offset: 3 });
        assert_eq!(plain.read(frame), Said::Joined { position, recovered: Some(true) });
        assert_eq!(plain.read(br#"{"type":"ack","id":"7","offset":3}"#), Said::Acknowledged { number: 7 });
        assert!(matches!(plain.read(br#"{"type":"error","code":111}"#), Said::Refused { .. }));
        assert!(matches!(plain.read(b"what"), Said::Refused { .. }));
        assert_eq!(plain.read(br#"{"type":"react"}"#), Said::Other);
    }
}
