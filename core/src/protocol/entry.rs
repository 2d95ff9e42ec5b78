//! What a channel shows its subscribers, and its frames in every format.

use super::centrifuge::{Encoding, Push, push_push};
use super::{Format, plain};
use crate::websocket::frame;
use bytes::Bytes;
use std::sync::Arc;
use uproar_model::{Publication, UnixMillis, User};

/// A message of a `live:` channel. It is held in memory only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveEntry {
    /// `None`: a backend sent it, and names no user.
    pub user: Option<User>,
    pub time: UnixMillis,
    /// The sender's text, or compact JSON if `is_json`.
    pub data: Arc<str>,
    pub is_json: bool,
}

/// One publication of a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// From a room's log.
    Stored(Publication),
    /// From a `live:` channel.
    Live(LiveEntry),
}

/// Consecutive entries as complete WebSocket frames, one frame per entry, in one buffer.
#[derive(Debug)]
pub struct Frames {
    bytes: Bytes,
    /// Where each frame ends.
    ends: Box<[u32]>,
}

impl Frames {
    /// Encodes the entries. `channel` is the name that clients use; pushes of the Centrifugo protocol carry it.
    pub fn encode(entries: &[Entry], format: Format, channel: &str) -> Frames {
        let mut out = Vec::with_capacity(entries.len() * 256);
        let mut scratch = Vec::with_capacity(256);
        let mut ends = Vec::with_capacity(entries.len());
        for entry in entries {
            scratch.clear();
            match (format, entry) {
                (Format::Raw, Entry::Live(live)) => frame::push_text(&mut out, live.data.as_bytes()),
                (Format::Plain | Format::Raw, entry) => {
                    plain::encode(&mut scratch, entry);
                    frame::push_text(&mut out, &scratch);
                }
                (Format::Json, entry) => {
                    push_push(Encoding::Json, &mut scratch, channel, &Push::Publication(entry));
                    frame::push_text(&mut out, &scratch);
                }
                (Format::Protobuf, entry) => {
                    push_push(Encoding::Protobuf, &mut scratch, channel, &Push::Publication(entry));
                    frame::push_binary(&mut out, &scratch);
                }
            }
            ends.push(out.len() as u32);
        }
        Frames { bytes: Bytes::from(out), ends: ends.into() }
    }

    /// All frames.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The position at which the frame of the entry with this index begins.
    pub fn begin(&self, index: usize) -> usize {
        index.checked_sub(1).map_or(0, |before| self.ends[before] as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uproar_model::{Kind, UserId};

    #[test]
    fn each_entry_is_one_frame_in_every_format() {
        let user = User { id: UserId(3), username: "ann".into() };
        let stored = |offset| {
            Entry::Stored(Publication {
                offset,
                number: offset,
                kind: Kind::Message,
                user: user.clone(),
                id: "~1".into(),
                time: 1700,
                target: None,
                body: Some("hi".into()),
                edited: None,
                deleted: None,
                meta: None,
            })
        };
        let entries = [stored(4), stored(5)];
        for (format, opcode, begins) in [
            (Format::Plain, 0x81, &b"{\"type\":\"message\",\"offset\":4,"[..]),
            (Format::Raw, 0x81, b"{\"type\":\"message\",\"offset\":4,"),
            (Format::Json, 0x81, b"{\"push\":{\"channel\":\"room:a\",\"pub\":{\"data\":{\"text\":\"hi\"},"),
            // A reply that holds a push, which holds the channel and a publication.
            (Format::Protobuf, 0x82, b"\x39\x22\x37\x12\x06room:a\x22\x2d\x22\x0d{\"text\":\"hi\"}"),
        ] {
            let frames = Frames::encode(&entries, format, "room:a");
            let all = frames.bytes();
            let second = &all[frames.begin(1)..];
            assert_eq!((all[0], second[0]), (opcode, opcode));
            assert_eq!((frames.begin(0), all.len()), (0, 2 * second.len()));
            let header = if all[1] < 126 { 2 } else { 4 };
            assert_eq!(&all[header..header + begins.len()], begins, "{format:?}");
            assert!(all.ends_with(second));
        }
        let live = LiveEntry { user: Some(user), time: 1700, data: "hi".into(), is_json: false };
        let frames = Frames::encode(&[Entry::Live(live)], Format::Raw, "live:a");
        assert_eq!(frames.bytes()[..], *b"\x81\x02hi");
    }
}
