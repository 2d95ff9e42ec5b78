//! What one POST says: its id, and its body.

use serde::Serialize;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uproar_core::protocol::{Entry, plain};
use uproar_model::{Epoch, Offset, Publication, RoomId, UnixMillis};

/// The body's other fields, at most.
pub const ENVELOPE_BYTES: usize = 2048;

/// Identifies a batch of a webhook, in every attempt to deliver it. Printable ASCII.
pub fn id(hook: &str, room: RoomId, epoch: &Epoch, from: Offset, to: Offset) -> String {
    format!("{hook}.{room}.{epoch}.{from}.{to}")
}

/// A publication as plain clients receive it.
pub fn publication(publication: Publication) -> Option<Box<RawValue>> {
    let mut json = Vec::with_capacity(256);
    plain::encode(&mut json, &Entry::Stored(publication));
    String::from_utf8(json).ok().and_then(|json| RawValue::from_string(json).ok())
}

/// `begun_at`: when the batch was begun.
pub fn encode(
    room: &str,
    epoch: &Epoch,
    from: Offset,
    to: Offset,
    begun_at: UnixMillis,
    publications: &[Box<RawValue>],
) -> Vec<u8> {
    #[derive(Serialize)]
    struct Body<'a> {
        r#type: &'static str,
        timestamp: String,
        data: Data<'a>,
    }
    #[derive(Serialize)]
    struct Data<'a> {
        room: &'a str,
        epoch: &'a str,
        from: Offset,
        to: Offset,
        publications: &'a [Box<RawValue>],
    }
    let data = Data { room, epoch: &epoch.0, from, to, publications };
    let body = Body { r#type: "room.publications", timestamp: rfc3339(begun_at), data };
    // Serializing to memory fails only for maps without string keys.
    serde_json::to_vec(&body).unwrap_or_default()
}

/// A time as RFC 3339 has it, with milliseconds.
pub fn rfc3339(at: UnixMillis) -> String {
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(at) * 1_000_000);
    time.ok().and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use uproar_model::{Kind, User, UserId};

    #[test]
    fn a_body_has_the_room_the_range_and_the_publications() {
        let message = Publication {
            offset: 7,
            number: 5,
            kind: Kind::Message,
            user: User { id: UserId(3), username: "ann".into() },
            id: "~1".into(),
            time: 1700,
            target: None,
            body: Some("a \"quote\"".into()),
            edited: None,
            deleted: None,
            meta: None,
        };
        let epoch = Epoch("ab.1f".into());
        let publications = [publication(message).unwrap()];
        let body = encode("lobby", &epoch, 6, 7, 1_700_000_000_123, &publications);
        assert_eq!(
            String::from_utf8(body).unwrap(),
            concat!(
                r#"{"type":"room.publications","timestamp":"2023-11-14T22:13:20.123Z","data":{"room":"lobby","#,
                r#""epoch":"ab.1f","from":6,"to":7,"publications":[{"type":"message","offset":7,"number":5,"#,
                r#""user":{"id":"3","username":"ann"},"text":"a \"quote\"","time":1700}]}}"#
            )
        );
        assert_eq!(id("crm", RoomId(12), &epoch, 6, 7), "crm.12.ab.1f.6.7");
    }
}
