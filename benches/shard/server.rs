//! One shard and its lane, driven as a driver would: a connection is written to when it has been woken, and every write
//! succeeds completely. There are no sockets and no database; the answers of a database are made up here.
//!
//! Time stands still, so no timer fires during a measurement.

use std::hint::black_box;
use std::sync::Arc;
use uproar_core::lane::{BatchResult, Lane};
use uproar_core::limits::Limits;
use uproar_core::message::{StoreReply, StoreRequest};
use uproar_core::metrics::ShardMetrics;
use uproar_core::websocket::{Event, ParsedHead, head};
use uproar_core::{Endpoint, Host, Message, Now, Refused, Shard, ShardConfig, Slice, Slot};
use uproar_model::{
    Admission, Claims, DatabaseGeneration, Epoch, Kind, Lease, Offset, Outcome, Publication, Revocations, Role, RoomId,
    Stored, User, UserId,
};

const NOW: Now = Now { ms: 1, unix_ms: 1_700_000_000_001 };
const ROOM: RoomId = RoomId(1);
const EPOCH: &str = "1.1";
const GENERATION: Option<DatabaseGeneration> = Some(DatabaseGeneration(1));

pub struct Server {
    shard: Shard,
    host: Effects,
    lane: Lane,
    /// The room's last offset.
    head: Offset,
    /// Kept to reuse its memory, as is `slices`. Both are empty between uses.
    woken: Vec<Slot>,
    slices: Vec<Slice>,
}

/// What the shard asked its host to do, kept as the drivers keep it.
#[derive(Default)]
struct Effects {
    woken: Vec<Slot>,
    /// Whether a slot is in `woken`, indexed by slot.
    is_woken: Vec<bool>,
    aborted: Vec<Slot>,
    mesh: Vec<(Endpoint, Message)>,
}

impl Host for Effects {
    fn wake(&mut self, slot: Slot) {
        let index = slot.index();
        if index >= self.is_woken.len() {
            self.is_woken.resize(index + 1, false);
        }
        if !std::mem::replace(&mut self.is_woken[index], true) {
            self.woken.push(slot);
        }
    }

    fn abort(&mut self, slot: Slot) {
        self.aborted.push(slot);
    }

    fn half_close(&mut self, _: Slot) {}

    fn log_first(&mut self, what: Refused, code: u16) {
        panic!("nothing should be refused or closed here: {what:?} {code}");
    }

    fn free_places(&self, _: Endpoint) -> usize {
        usize::MAX
    }

    fn send(&mut self, to: Endpoint, message: Message) {
        self.mesh.push((to, message));
    }
}

/// The protocol of a subscriber.
#[derive(Clone, Copy, Debug)]
pub enum Client {
    /// The plain protocol, JSON in and out.
    Plain,
    /// The Centrifugo protocol in JSON.
    Sdk,
}

/// The bytes sent to one connection.
pub struct Sent {
    pub slot: Slot,
    pub bytes: Vec<u8>,
}

impl Server {
    /// A shard with one room, which has no publications yet.
    pub fn new() -> Server {
        let limits = Limits { publish_rate_per_second: 0, ..Limits::default() };
        let verify = |token: &str, now_s: u64| {
            let user = token.parse().ok().map(UserId);
            Ok(Claims {
                user,
                username: token.into(),
                identity: None,
                generation: Some(1),
                signed_in_at: now_s,
                issued_at: now_s,
                expires_at: now_s + 3600,
            })
        };
        let config = ShardConfig {
            id: 0,
            shards: 1,
            lanes: 1,
            limits: limits.clone(),
            verify: Arc::new(verify),
            echo: false,
            query_token: true,
            allow_origin: Arc::new(|_, _| true),
            seed: 7,
            revocations: Revocations::new(u64::MAX, []),
            bus: Arc::default(),
            lease: Lease::unlimited(),
        };
        Server {
            shard: Shard::new(config),
            host: Effects::default(),
            lane: Lane::new(limits),
            head: 0,
            woken: Vec::new(),
            slices: Vec::new(),
        }
    }

    pub fn head(&self) -> Offset {
        self.head
    }

    pub fn metrics(&self) -> ShardMetrics {
        self.shard.metrics()
    }

    // ── clients ─────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Subscribes `count` connections to the room, each for a different user. Returns their slots.
    pub fn subscribe_all(&mut self, client: Client, count: usize) -> Vec<Slot> {
        (1..=count).map(|user| self.subscribe(client, user)).collect()
    }

    /// Subscribes a connection to the room and runs until the subscription is confirmed. Returns its slot.
    pub fn subscribe(&mut self, client: Client, user: usize) -> Slot {
        let slot = match client {
            Client::Plain => self.open(&upgrade(&format!("/ws?room=lobby&format=json&token={user}"))),
            Client::Sdk => self.open(&upgrade("/connection/websocket?format=json")),
        };
        self.run();
        if let Client::Sdk = client {
            self.send_text(slot, &format!(r#"{{"id":1,"connect":{{"token":"{user}"}}}}"#));
            self.run();
            self.send_text(slot, r#"{"id":2,"subscribe":{"channel":"room:lobby"}}"#);
            self.run();
        }
        slot
    }

    /// Opens a connection that sends this request. Returns its slot.
    pub fn open(&mut self, request: &str) -> Slot {
        let slot = self.shard.opened(NOW, &mut self.host);
        let peer = "127.0.0.1:1".parse().expect("an address");
        let ParsedHead::Upgrade(request, _) = head::parse(request.as_bytes(), 0, 16_384, peer) else {
            panic!("{request:?} is not a WebSocket upgrade")
        };
        self.shard.requested(NOW, slot, *request, &mut self.host);
        slot
    }

    /// Delivers a text frame from a connection.
    pub fn send_text(&mut self, slot: Slot, text: &str) {
        debug_assert!(self.shard.wants_input(slot));
        self.shard.frame(NOW, slot, Event::Text(text), &mut self.host);
    }

    /// Disconnects a client.
    pub fn disconnect(&mut self, slot: Slot) {
        self.shard.failed(NOW, slot, &mut self.host);
        assert_eq!(self.host.aborted.pop(), Some(slot));
        self.shard.freed(slot);
        self.run();
    }

    // ── the room ────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Gives the room's home a committed message, which is shown in the next turn.
    pub fn learn(&mut self, text: &Arc<str>) {
        self.head += 1;
        let publication = Publication {
            offset: self.head,
            number: self.head,
            kind: Kind::Message,
            user: User { id: UserId(1_000_000), username: "ann".into() },
            id: "01931f6e-0000-7000-8000-000000000000".into(),
            time: NOW.unix_ms,
            target: None,
            body: Some(Arc::clone(text)),
            edited: None,
            deleted: None,
            meta: None,
        };
        let learn = Message::Learn { room: ROOM, generation: GENERATION, publication: Box::new(publication) };
        self.shard.receive(NOW, Endpoint::Http, learn, &mut self.host);
    }

    /// Runs turns until there is nothing left to do. Discards what is written.
    pub fn run(&mut self) {
        self.run_with(|_, slices| {
            black_box(slices);
        });
    }

    /// Like `run`, but returns what was written, one entry per connection in the order of their first writes.
    pub fn run_and_collect(&mut self) -> Vec<Sent> {
        let mut all: Vec<Sent> = Vec::new();
        let mut index_of = std::collections::HashMap::new();
        self.run_with(|slot, slices| {
            let index = *index_of.entry(slot).or_insert_with(|| {
                all.push(Sent { slot, bytes: Vec::new() });
                all.len() - 1
            });
            slices.iter().for_each(|slice| all[index].bytes.extend_from_slice(slice));
        });
        all
    }

    fn run_with(&mut self, mut write: impl FnMut(Slot, &[Slice])) {
        loop {
            self.answer_messages();
            let mut has_more = self.shard.turn(NOW, &mut self.host);
            self.write_woken(&mut write);
            has_more |= !self.host.woken.is_empty() || !self.host.mesh.is_empty();
            if !has_more {
                return;
            }
        }
    }

    /// Writes everything that is queued for the woken connections.
    fn write_woken(&mut self, write: &mut impl FnMut(Slot, &[Slice])) {
        let mut woken = std::mem::take(&mut self.woken);
        std::mem::swap(&mut self.host.woken, &mut woken);
        woken.iter().for_each(|slot| self.host.is_woken[slot.index()] = false);
        for slot in woken.drain(..) {
            black_box(self.shard.wants_input(slot));
            self.shard.outgoing(slot, &mut self.slices);
            let bytes = self.slices.iter().map(|slice| slice.len()).sum();
            if bytes > 0 {
                write(slot, &self.slices);
                self.slices.clear();
                self.shard.sent(NOW, slot, bytes, &mut self.host);
            }
        }
        self.woken = woken;
    }

    /// Answers what the last turn sent to the readers and to the lane.
    fn answer_messages(&mut self) {
        if self.host.mesh.is_empty() {
            return;
        }
        let mut answers = Vec::new();
        for (to, message) in std::mem::take(&mut self.host.mesh) {
            match message {
                Message::Read { requester, request, .. } => {
                    let reply = self.answer(&request);
                    self.shard.receive(NOW, to, Message::ReadReply { requester, reply }, &mut self.host);
                }
                Message::Commit(append) => self.lane.receive(NOW.ms, append, &mut answers),
                Message::CreditReturned => {}
                other => panic!("unexpected message to {to:?}: {other:?}"),
            }
        }
        while let Some(batch) = self.lane.next_batch(NOW.ms) {
            let outcomes = batch.iter().map(|_| {
                self.head += 1;
                Outcome::New(Stored { offset: self.head, number: self.head, time: NOW.unix_ms })
            });
            self.lane.finished(NOW.ms, BatchResult::Answered(outcomes.collect(), GENERATION), &mut answers);
        }
        for answer in answers {
            self.shard.receive(NOW, Endpoint::Lane(0), Message::Committed(Box::new(answer)), &mut self.host);
        }
    }

    fn answer(&self, request: &StoreRequest) -> StoreReply {
        let epoch = Epoch(EPOCH.into());
        match request {
            StoreRequest::Admit { .. } | StoreRequest::AdmitMember { .. } => {
                let (offset, role, username) = (self.head, Role::Member, "ann".into());
                let admission = Admission { room: ROOM, epoch, offset, role, username, joined: false, added: None };
                StoreReply::Admitted(Ok(admission))
            }
            StoreRequest::Head { .. } => {
                StoreReply::Head(Some(uproar_model::Head { epoch, offset: self.head, number: self.head }))
            }
            other => panic!("unexpected request to the store: {other:?}"),
        }
    }
}

/// The upgrade request for this target.
pub fn upgrade(target: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

/// The upgrade request of a plain client that returns to the room at offset `since`.
pub fn upgrade_since(user: usize, since: Offset) -> String {
    upgrade(&format!("/ws?room=lobby&format=json&token={user}&since={since}&epoch={EPOCH}"))
}

/// Counts the occurrences of `text` in `bytes`.
pub fn count(bytes: &[u8], text: &str) -> usize {
    bytes.windows(text.len()).filter(|window| *window == text.as_bytes()).count()
}
