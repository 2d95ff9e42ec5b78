//! A client of the plain protocol: reads the bytes that a connection is sent and holds them against the contract.

use std::collections::{BTreeMap, VecDeque};

/// What an agent sends and waits for. One agent is one user on one connection at a time.
pub struct Agent {
    pub user: i64,
    pub room: usize,
    /// Where it is connected: (shard, slot), and which of its connections that is.
    pub at: Option<(usize, u32)>,
    pub attempt: u64,
    /// The last position that it has seen: (epoch, offset). Survives its connections.
    pub position: Option<(String, u64)>,
    pub outbox: Outbox,
    /// What its shard had shown of the room when it asked to be let in.
    pub replay_from: u64,
    /// While true it reads nothing.
    pub stopped_reading: bool,
    pub stream: Stream,
    /// How many removals there had been when it was last let in.
    pub removals_seen: usize,
    /// For `live:`: the last sequence number seen from each sender's connection.
    pub live_seen: BTreeMap<(i64, u64), u64>,
}

/// What one user sends to one room.
#[derive(Default)]
pub struct Outbox {
    /// Messages sent and not resolved, in the order sent: (id, text).
    pub unresolved: VecDeque<(String, String)>,
    /// Of those, ids that this connection has sent and not been answered.
    pub sent: Vec<String>,
    /// Offsets of its own messages, as it was told.
    pub stored: BTreeMap<String, u64>,
    /// Ids in the order in which they were first sent.
    pub order: Vec<String>,
    pub ids: u64,
}

/// What came down one connection.
#[derive(Default)]
pub struct Stream {
    bytes: Vec<u8>,
    pub is_upgraded: bool,
    pub is_refused: Option<u16>,
    pub closed_with: Option<u16>,
    pub joined: bool,
}

/// One thing that a connection was sent.
#[derive(Debug)]
pub enum Told {
    Refused(u16),
    Text(String),
    Ping,
    Close(u16),
}

impl Stream {
    /// Takes in bytes and returns what is whole.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Vec<Told>, String> {
        self.bytes.extend_from_slice(bytes);
        let mut told = Vec::new();
        if !self.is_upgraded {
            let Some(end) = self.bytes.windows(4).position(|w| w == b"\r\n\r\n") else { return Ok(told) };
            let head = String::from_utf8_lossy(&self.bytes[..end]).into_owned();
            let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or("a response without a status")?;
            if status != 101 {
                if self.is_refused.is_none() {
                    self.is_refused = Some(status);
                    told.push(Told::Refused(status));
                }
                return Ok(told);
            }
            self.is_upgraded = true;
            self.bytes.drain(..end + 4);
        }
        while let Some((opcode, payload, length)) = parse(&self.bytes)? {
            if self.closed_with.is_some() {
                return Err("something was sent after the close frame".into());
            }
            match opcode {
                1 => {
                    told.push(Told::Text(String::from_utf8(payload).map_err(|e| format!("not UTF-8: {e}"))?));
                }
                9 => told.push(Told::Ping),
                8 => {
                    let code = payload.get(..2).map_or(1005, |c| u16::from_be_bytes([c[0], c[1]]));
                    self.closed_with = Some(code);
                    told.push(Told::Close(code));
                }
                10 => {}
                other => return Err(format!("a frame with opcode {other}")),
            }
            self.bytes.drain(..length);
        }
        Ok(told)
    }
}

/// One whole server frame: opcode, payload, length of all of it.
pub fn parse(bytes: &[u8]) -> Result<Option<(u8, Vec<u8>, usize)>, String> {
    let [first, second, ..] = *bytes else { return Ok(None) };
    if first & 0xf0 != 0x80 || second & 0x80 != 0 {
        return Err(format!("a torn stream: a frame cannot begin with {first:#x} {second:#x}"));
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

    /// Its connection is gone. What it sent and was not answered is sent again on the next.
    pub fn disconnected(&mut self) {
        self.at = None;
        self.outbox.sent.clear();
        self.stopped_reading = false;
        self.stream = Stream::default();
        self.live_seen.clear();
    }
}

impl Outbox {
    /// Its sender was taken out of the room: what was under way may have been refused, and be stored when it is sent
    /// again, in no order.
    pub fn forget_order_if(&mut self, was_removed: bool) {
        if was_removed {
            let unresolved = &self.unresolved;
            self.order.retain(|id| !unresolved.iter().any(|(unresolved, _)| unresolved == id));
        }
    }

    /// A message is resolved: it is stored at this offset.
    pub fn resolve(&mut self, id: &str, offset: u64) -> Result<(), String> {
        if let Some(before) = self.stored.insert(id.to_owned(), offset)
            && before != offset
        {
            return Err(format!("message {id} was at {before} and is now at {offset}"));
        }
        self.sent.retain(|sent| sent != id);
        self.unresolved.retain(|(unresolved, _)| unresolved != id);
        Ok(())
    }
}
