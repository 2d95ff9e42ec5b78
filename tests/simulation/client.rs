//! A client of the plain protocol: its state, what it has sent, and a decoder for the bytes that it receives.

use crate::random::Random;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use uproar_core::Slot;
use uproar_model::{Kind, Publication};

/// A plain client: one user, with one connection at a time.
pub struct Agent {
    pub user: i64,
    pub room: usize,
    /// The generation of its token, which may be revoked.
    pub token_generation: u32,
    /// Its token was refused.
    pub must_sign_in: bool,
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

/// The messages that one user sends to one room. It does not wait for answers: up to `window` messages are under way.
/// After an unknown outcome it goes back to that message, and sends it and everything after it again.
#[derive(Default)]
pub struct Outbox {
    /// Messages not resolved yet, as (id, text), in the order in which they are sent.
    unresolved: VecDeque<(String, String)>,
    /// The index among them of the next one to send.
    next: usize,
    /// The ids that the current connection has sent and that are not answered yet, once for each time.
    pub sent: Vec<String>,
    /// The offset that the server reported for each of its messages.
    pub stored: BTreeMap<String, u64>,
    /// All ids, in the order in which they were first sent.
    pub order: Vec<String>,
    /// Counts the ids that it has made.
    pub ids: u64,
    /// How many times each message was sent.
    sends: BTreeMap<String, u32>,
    /// Messages that were sent once, and refused because their sender may not post.
    pub refused: BTreeSet<String>,
    window: usize,
    /// It does not go back before everything under way is answered.
    is_patient: bool,
    is_going_back: bool,
    /// It never sends a message again whose outcome is unknown, and pauses instead.
    gives_up: bool,
    paused_until_ms: u64,
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
    Ping(Vec<u8>),
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
                9 => received.push(Received::Ping(payload)),
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
    pub fn new(user: i64, room: usize, outbox: Outbox) -> Agent {
        Agent {
            user,
            room,
            token_generation: 0,
            must_sign_in: false,
            at: None,
            attempt: 0,
            position: None,
            outbox,
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
        self.outbox.on_disconnect();
        self.stopped_reading = false;
        self.stream = Stream::default();
        self.live_seen.clear();
    }
}

impl Outbox {
    pub fn new(random: &mut Random) -> Outbox {
        Outbox {
            window: random.pick(&[1, 3, 10, 30]),
            is_patient: random.one_in(2),
            gives_up: random.one_in(5),
            ..Outbox::default()
        }
    }

    /// Whether it may add this many messages.
    pub fn has_space(&self, messages: usize) -> bool {
        self.unresolved.len() + messages <= 2 * self.window
    }

    pub fn add(&mut self, id: String, text: String) {
        self.unresolved.push_back((id, text));
    }

    /// A message that is not resolved.
    pub fn text(&self, id: &str) -> Option<&str> {
        self.unresolved.iter().find(|(unresolved, _)| unresolved == id).map(|(_, text)| &**text)
    }

    pub fn first_unresolved(&self) -> Option<&str> {
        self.unresolved.front().map(|(id, _)| &**id)
    }

    pub fn is_resolved(&self) -> bool {
        self.unresolved.is_empty()
    }

    /// The messages to send now, at most `limit` of them.
    pub fn next_to_send(&mut self, now_ms: u64, limit: usize) -> Vec<(String, String)> {
        if now_ms < self.paused_until_ms || self.is_patient && self.is_going_back && !self.sent.is_empty() {
            return Vec::new();
        }
        self.is_going_back = false;
        let count = self.window.saturating_sub(self.sent.len()).min(limit);
        let messages: Vec<(String, String)> = self.unresolved.iter().skip(self.next).take(count).cloned().collect();
        self.next += messages.len();
        self.sent.extend(messages.iter().map(|(id, _)| id.clone()));
        for (id, _) in &messages {
            *self.sends.entry(id.clone()).or_default() += 1;
            self.refused.remove(id);
        }
        messages
    }

    /// A message has been answered with error 100.
    pub fn on_unknown(&mut self, id: &str, now_ms: u64, append_deadline_ms: u64) {
        self.on_answer(id);
        if self.gives_up {
            self.drop_message(id);
            self.paused_until_ms = now_ms + append_deadline_ms + 1;
        } else {
            self.go_back(id);
        }
    }

    /// This message, and those after it, will be sent again.
    pub fn go_back(&mut self, id: &str) {
        if let Some(index) = self.unresolved.iter().position(|(unresolved, _)| unresolved == id) {
            self.next = self.next.min(index);
            self.is_going_back = true;
        }
    }

    /// A message has been refused for good.
    pub fn on_refused(&mut self, id: &str) {
        self.on_answer(id);
        self.drop_message(id);
    }

    /// A message has been refused because its sender may not post now. Every other one is sent again after all others,
    /// with the same id.
    pub fn on_limited(&mut self, id: &str, now_ms: u64) {
        if self.sends.get(id) == Some(&1) {
            self.refused.insert(id.to_owned());
        }
        let was_ordered = self.order.iter().any(|ordered| ordered == id);
        self.order.retain(|ordered| ordered != id);
        let message = self.unresolved.iter().find(|(unresolved, _)| unresolved == id).cloned();
        self.on_refused(id);
        let is_even = id.bytes().last().is_some_and(|digit| digit % 2 == 0);
        if let Some(message) = message.filter(|_| is_even && !self.gives_up) {
            if was_ordered && self.refused.contains(id) {
                self.order.push(id.to_owned());
            }
            self.unresolved.push_back(message);
            self.paused_until_ms = now_ms + 20;
        }
    }

    pub fn on_answer(&mut self, id: &str) {
        if let Some(index) = self.sent.iter().position(|sent| sent == id) {
            self.sent.remove(index);
        }
    }

    fn drop_message(&mut self, id: &str) {
        if let Some(index) = self.unresolved.iter().position(|(unresolved, _)| unresolved == id) {
            self.unresolved.remove(index);
            self.next -= usize::from(index < self.next);
        }
    }

    /// Everything that is not resolved is sent again on the next connection.
    pub fn on_disconnect(&mut self) {
        self.sent.clear();
        self.next = 0;
        self.is_going_back = false;
        self.paused_until_ms = 0;
    }

    /// Stops checking the order of unresolved messages if the sender was removed from the room: some may have been
    /// rejected, and are stored out of order when they are sent again.
    pub fn forget_order_if(&mut self, was_removed: bool) {
        if was_removed {
            let unresolved = &self.unresolved;
            self.order.retain(|id| !unresolved.iter().any(|(unresolved, _)| unresolved == id));
        }
    }

    /// Stops checking the order of messages that it will not send again although it does not know whether they are
    /// stored.
    pub fn forget_abandoned_if(&mut self, is_elsewhere: bool) {
        if is_elsewhere {
            let (stored, unresolved) = (&self.stored, &self.unresolved);
            self.order
                .retain(|id| stored.contains_key(id) || unresolved.iter().any(|(unresolved, _)| unresolved == id));
        }
    }

    /// Whether everything that is not resolved is under way.
    pub fn has_sent_all(&self) -> bool {
        self.next == self.unresolved.len() && !self.is_going_back
    }

    /// Notes that it has received one of its own publications, which may have been lost since.
    pub fn on_own(&mut self, row: &Publication, is_kept: bool) -> Result<(), String> {
        if !row.id.starts_with('~') {
            return self.resolve_if(is_kept, &row.id, row.offset);
        }
        // The server made the id. The text tells which message it is, unless it was changed.
        match &row.body {
            Some(text) if row.kind == Kind::Message && row.edited.is_none() => {
                self.resolve_if(is_kept, text, row.offset)
            }
            _ => Ok(()),
        }
    }

    /// A message was stored at this offset, and may have been lost since.
    pub fn resolve_if(&mut self, is_kept: bool, id: &str, offset: u64) -> Result<(), String> {
        if is_kept {
            return self.resolve(id, offset);
        }
        self.on_refused(id);
        Ok(())
    }

    /// The last commits are lost. `row`: what is stored at an offset now.
    pub fn forget_lost(&mut self, row: impl Fn(u64) -> Option<Publication>) {
        self.stored.retain(|id, offset| {
            row(*offset)
                .is_some_and(|row| *row.id == **id || row.id.starts_with('~') && row.body.as_deref() == Some(id))
        });
        let stored = &self.stored;
        self.order.retain(|id| stored.contains_key(id));
    }

    /// Notes that a message is stored at this offset.
    pub fn resolve(&mut self, id: &str, offset: u64) -> Result<(), String> {
        if let Some(before) = self.stored.insert(id.to_owned(), offset)
            && before != offset
        {
            return Err(format!("message {id} was reported at {before} before, and now at {offset}"));
        }
        self.sent.retain(|sent| sent != id);
        self.drop_message(id);
        Ok(())
    }
}
