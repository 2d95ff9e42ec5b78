//! A client of the plain protocol: its state, what it has sent, and a decoder for the bytes that it receives.

use std::collections::{BTreeMap, VecDeque};
use uproar_core::Slot;

/// A plain client: one user, with one connection at a time.
pub struct Agent {
    pub user: i64,
    pub room: usize,
    /// The (shard, slot) of its connection.
    pub at: Option<(usize, Slot)>,
    /// Counts its connections.
    pub attempt: u64,
    /// The last position that it has seen, as (epoch, offset). Kept across connections.
    pub position: Option<(String, u64)>,
    pub outbox: Outbox,
    /// The last offset of the room that its shard had shown when it asked to join.
    pub replay_from: u64,
    /// While true, it reads nothing.
    pub stopped_reading: bool,
    pub stream: Stream,
    /// The number of removals at the time when it was last admitted.
    pub removals_seen: usize,
    /// In the `live:` channel, the last sequence number seen from each sender's connection.
    pub live_seen: BTreeMap<(i64, u64), u64>,
}

/// The messages that one user sends to one room.
#[derive(Default)]
pub struct Outbox {
    /// Messages not resolved yet, as (id, text), in the order in which they are sent.
    pub unresolved: VecDeque<(String, String)>,
    /// The ids among them that the current connection has sent and that are not answered yet.
    pub sent: Vec<String>,
    /// The offset that the server reported for each of its messages.
    pub stored: BTreeMap<String, u64>,
    /// All ids, in the order in which they were first sent.
    pub order: Vec<String>,
    /// Counts the ids that it has made.
    pub ids: u64,
}

/// Decodes what one connection receives.
#[derive(Default)]
pub struct Stream {
    bytes: Vec<u8>,
    pub is_upgraded: bool,
    pub rejected_with: Option<u16>,
    pub closed_with: Option<u16>,
    pub joined: bool,
}

/// One item that a connection received.
#[derive(Debug)]
pub enum Received {
    /// The HTTP status of a rejected upgrade.
    Rejected(u16),
    Text(String),
    Ping,
    Close(u16),
}

impl Stream {
    /// Adds bytes and returns the items that are complete.
    pub fn decode(&mut self, bytes: &[u8]) -> Result<Vec<Received>, String> {
        self.bytes.extend_from_slice(bytes);
        let mut received = Vec::new();
        if !self.is_upgraded {
            let Some(end) = self.bytes.windows(4).position(|w| w == b"\r\n\r\n") else { return Ok(received) };
            let head = String::from_utf8_lossy(&self.bytes[..end]).into_owned();
            let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or("a response has no status")?;
            if status != 101 {
                if self.rejected_with.is_none() {
                    self.rejected_with = Some(status);
                    received.push(Received::Rejected(status));
                }
                return Ok(received);
            }
            self.is_upgraded = true;
            self.bytes.drain(..end + 4);
        }
        while let Some((opcode, payload, length)) = parse(&self.bytes)? {
            if self.closed_with.is_some() {
                return Err("a frame follows the close frame".into());
            }
            match opcode {
                1 => {
                    received.push(Received::Text(
                        String::from_utf8(payload).map_err(|e| format!("a text frame is not UTF-8: {e}"))?,
                    ));
                }
                9 => received.push(Received::Ping),
                8 => {
                    let code = payload.get(..2).map_or(1005, |c| u16::from_be_bytes([c[0], c[1]]));
                    self.closed_with = Some(code);
                    received.push(Received::Close(code));
                }
                10 => {}
                other => return Err(format!("a frame has opcode {other}")),
            }
            self.bytes.drain(..length);
        }
        Ok(received)
    }
}

/// The first complete frame of a server: its opcode, its payload, and its whole length in bytes.
pub fn parse(bytes: &[u8]) -> Result<Option<(u8, Vec<u8>, usize)>, String> {
    let [first, second, ..] = *bytes else { return Ok(None) };
    if first & 0xf0 != 0x80 || second & 0x80 != 0 {
        return Err(format!("the stream is corrupt: a frame cannot begin with {first:#x} {second:#x}"));
    }
    let (head, length) = match second {
        126 => match bytes.get(2..4) {
            Some(l) => (4, usize::from(u16::from_be_bytes([l[0], l[1]]))),
            None => return Ok(None),
        },
        127 => match bytes.get(2..10).and_then(|l| l.try_into().ok()) {
            Some(l) => (10, usize::try_from(u64::from_be_bytes(l)).unwrap_or(usize::MAX)),
            None => return Ok(None),
        },
        n => (2, usize::from(n)),
    };
    Ok(bytes.get(head..head + length).map(|payload| (first & 15, payload.to_vec(), head + length)))
}

impl Agent {
    pub fn new(user: i64, room: usize) -> Agent {
        Agent {
            user,
            room,
            at: None,
            attempt: 0,
            position: None,
            outbox: Outbox::default(),
            replay_from: 0,
            stopped_reading: false,
            stream: Stream::default(),
            removals_seen: 0,
            live_seen: BTreeMap::new(),
        }
    }

    /// Its connection is closed. Messages without an answer are sent again on the next one.
    pub fn on_disconnect(&mut self) {
        self.at = None;
        self.outbox.sent.clear();
        self.stopped_reading = false;
        self.stream = Stream::default();
        self.live_seen.clear();
    }
}

impl Outbox {
    /// Stops checking the order of unresolved messages if the sender was removed from the room: some may have been
    /// rejected, and are stored out of order when they are sent again.
    pub fn forget_order_if(&mut self, was_removed: bool) {
        if was_removed {
            let unresolved = &self.unresolved;
            self.order.retain(|id| !unresolved.iter().any(|(unresolved, _)| unresolved == id));
        }
    }

    /// Notes that a message is stored at this offset.
    pub fn resolve(&mut self, id: &str, offset: u64) -> Result<(), String> {
        if let Some(before) = self.stored.insert(id.to_owned(), offset)
            && before != offset
        {
            return Err(format!("message {id} was reported at {before} before, and now at {offset}"));
        }
        self.sent.retain(|sent| sent != id);
        self.unresolved.retain(|(unresolved, _)| unresolved != id);
        Ok(())
    }
}
