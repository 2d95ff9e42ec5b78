//! Tests a single shard, with the default limits, by sequences that once went wrong. The simulator, which draws the
//! smallest limits and takes random steps, does not find them.

use crate::client::parse;
use crate::store::SimStore;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use uproar_core::lane::{BatchResult, Lane};
use uproar_core::limits::Limits;
use uproar_core::message::{Found, Party, Requester, StoreReply, StoreRequest};
use uproar_core::websocket::{Event, ParsedHead, head};
use uproar_core::{Announcement, BusState, Endpoint, Host, Message, Now, Refused, Shard, ShardConfig, Slot};
use uproar_model::{Claims, Item, Kind, Lease, Offset, Revocations, TokenError, User, UserId};

/// One shard with its lane and its store on virtual time. It is driven as a driver does it: a connection is read and
/// written when it is woken, and a turn comes when there is work to do or when the shard's own deadline is due.
pub(crate) struct Rig {
    pub(crate) shard: Shard,
    pub(crate) host: RecordingHost,
    pub(crate) bus: Arc<BusState>,
    lane: Lane,
    pub(crate) store: SimStore,
    /// While true, the store answers nothing.
    pub(crate) store_hangs: bool,
    pub(crate) now_ms: u64,
    /// What was sent to the other shard, of a rig with two. Nothing is answered.
    pub(crate) to_other: Vec<Message>,
    /// By slot. No slot is reused.
    clients: Vec<Client>,
    /// The largest number of pages that the store read at the same time for connections.
    most_reads: usize,
    /// The largest number of bytes that waited for one connection.
    longest_queue_bytes: u64,
}

#[derive(Default)]
pub(crate) struct RecordingHost {
    woken: BTreeSet<Slot>,
    pub(crate) cut: BTreeSet<Slot>,
    pub(crate) mesh: Vec<(Endpoint, Message)>,
    /// What the other nodes are told.
    pub(crate) announced: Vec<Announcement>,
}

impl Host for RecordingHost {
    fn wake(&mut self, slot: Slot) {
        self.woken.insert(slot);
    }

    fn abort(&mut self, slot: Slot) {
        assert!(self.cut.insert(slot), "{slot:?} was aborted twice");
    }

    fn half_close(&mut self, _: Slot) {}

    fn log_first(&mut self, _: Refused, _: u16) {}

    fn free_places(&self, _: Endpoint) -> usize {
        usize::MAX
    }

    fn send(&mut self, to: Endpoint, message: Message) {
        match message {
            Message::Announce(announcement) => self.announced.push(announcement),
            message => self.mesh.push((to, message)),
        }
    }
}

/// A frame that a client sends.
pub(crate) enum Frame {
    Text(String),
    Binary(Vec<u8>),
    Close(u16),
}

/// An item that a client receives: one line of a text frame, one binary frame, a ping or a close frame.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Received {
    Line(String),
    Binary(Vec<u8>),
    Ping,
    Close(u16),
}

struct Client {
    /// Frames that the shard has not read yet.
    unread: VecDeque<Frame>,
    /// How many bytes it reads per millisecond.
    bytes_per_ms: usize,
    answers_pings: bool,
    bytes: Vec<u8>,
    is_upgraded: bool,
    /// With the time of arrival.
    received: Vec<(u64, Received)>,
}

/// The author of the messages that are stored past the shard.
const OWNER: UserId = UserId(1);

/// The read rate of a client that is not slow.
const UNLIMITED: usize = usize::MAX;

impl Rig {
    /// A shard with `rooms` public rooms: `room:room0`, `room:room1`, …
    pub(crate) fn new(rooms: usize) -> Rig {
        Rig::with(rooms, Limits::default())
    }

    pub(crate) fn with(rooms: usize, limits: Limits) -> Rig {
        Rig::with_lease(rooms, limits, Lease::unlimited())
    }

    pub(crate) fn with_lease(rooms: usize, limits: Limits, lease: Lease) -> Rig {
        Rig::of(rooms, limits, lease, 1)
    }

    /// The first of two shards.
    pub(crate) fn of_two(rooms: usize, limits: Limits) -> Rig {
        Rig::of(rooms, limits, Lease::unlimited(), 2)
    }

    fn of(rooms: usize, limits: Limits, lease: Lease, shards: u16) -> Rig {
        let verify = |token: &str, now_s: u64| match token {
            "expired" => Err(TokenError::Expired),
            "wrong" => Err(TokenError::Invalid),
            name => Ok(Claims {
                user: name.parse().ok().map(UserId),
                username: name.into(),
                identity: None,
                generation: name.parse::<i64>().ok().map(|_| 1),
                signed_in_at: now_s,
                issued_at: now_s,
                expires_at: now_s + 3600,
            }),
        };
        let bus = Arc::<BusState>::default();
        let config = ShardConfig {
            id: 0,
            shards,
            lanes: 1,
            limits,
            verify: Arc::new(verify),
            echo: false,
            query_token: true,
            allow_origin: Arc::new(|_, _| true),
            seed: 7,
            revocations: Revocations::new(u64::MAX, []),
            bus: Arc::clone(&bus),
            lease,
        };
        let mut store = SimStore::new(rooms, 0);
        for user in 2..10 {
            assert_eq!(store.add_user(&format!("user{user}")), user);
        }
        Rig {
            lane: Lane::new(config.limits.clone()),
            shard: Shard::new(config),
            host: RecordingHost::default(),
            bus,
            store,
            store_hangs: false,
            now_ms: 1,
            to_other: Vec::new(),
            clients: Vec::new(),
            most_reads: 0,
            longest_queue_bytes: 0,
        }
    }

    pub(crate) fn now(&self) -> Now {
        Now { ms: self.now_ms, unix_ms: 1_700_000_000_000 + self.now_ms }
    }

    // ── the store ───────────────────────────────────────────────────────────────────────────────────────────────────

    /// Stores messages in a room past the shard.
    pub(crate) fn store_messages(&mut self, room: usize, count: usize, length: usize) {
        let unix_ms = self.now().unix_ms;
        for _ in 0..count {
            let id = format!("{room}.{}", self.store.head(room) + 1);
            let body = Some("y".repeat(length).into());
            let room = self.store.room_id(room);
            let item = Item { room, user: OWNER, id: id.into(), kind: Kind::Message, target: None, body, meta: None };
            self.store.append(unix_ms, &[item]);
        }
    }

    /// Stores a message past the shard and announces it to the room's home.
    fn publish_elsewhere(&mut self, room: usize) {
        self.store_messages(room, 1, 10);
        self.announce(room, self.store.head(room));
    }

    /// Announces the publication at this offset to the room's home.
    pub(crate) fn announce(&mut self, room: usize, offset: Offset) {
        let room = self.store.room_id(room);
        let generation = Some(self.store.generation());
        let publication = Box::new(self.store.row(room, offset).unwrap());
        self.shard.receive(
            self.now(),
            Endpoint::Http,
            Message::Learn { room, generation, publication },
            &mut self.host,
        );
    }

    pub(crate) fn answer(&mut self, party: &Party, request: StoreRequest) -> StoreReply {
        let unix_ms = self.now().unix_ms;
        match request {
            StoreRequest::Admit { room, user } => StoreReply::Admitted(self.store.admit(unix_ms, &room, user)),
            StoreRequest::AdmitMember { room, user } => self.store.admit_member(unix_ms, &room, user),
            StoreRequest::Head { room } => StoreReply::Head(self.store.head_of(room)),
            StoreRequest::Sweep { heads } => StoreReply::Swept(Arc::new(self.store.sweep(&heads))),
            StoreRequest::Page { room, request } => self.store.page(room, request, party),
            StoreRequest::User { username, .. } => {
                let id = UserId(self.store.add_user(&username));
                StoreReply::User(Some(Found { user: User { id, username }, revocation: None }))
            }
            StoreRequest::UserById { user } => self.store.user(user),
            StoreRequest::MarkRead { .. } | StoreRequest::Rooms { .. } => StoreReply::Failed,
        }
    }

    /// Takes the requests that the store has not answered, and finds their answers.
    pub(crate) fn take_answers(&mut self) -> Vec<Message> {
        let reads = std::mem::take(&mut self.host.mesh).into_iter().map(|(_, message)| match message {
            Message::Read { requester, asker, request } => (requester, asker, request),
            other => panic!("{other:?}"),
        });
        let answers = reads.map(|(requester, asker, request)| {
            let reply = self.answer(&asker.party, request);
            Message::ReadReply { requester, reply }
        });
        answers.collect()
    }

    pub(crate) fn give_answers(&mut self, answers: Vec<Message>) {
        for answer in answers {
            self.shard.receive(self.now(), Endpoint::Reader, answer, &mut self.host);
        }
    }

    // ── time ────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Runs one turn. True: the next one is due immediately.
    fn turn(&mut self) -> bool {
        let now = self.now();
        self.shard.check_lease(now, &mut self.host);
        let woken = std::mem::take(&mut self.host.woken);
        for &slot in &woken {
            self.read(slot);
        }
        self.pass_messages();
        let has_more = self.shard.turn(now, &mut self.host);
        let woken: BTreeSet<Slot> = &woken | &std::mem::take(&mut self.host.woken);
        self.longest_queue_bytes = self.longest_queue_bytes.max(self.shard.longest_queue_bytes());
        for slot in woken {
            if !self.clients[slot.index()].unread.is_empty() && self.shard.wants_input(slot) {
                self.host.wake(slot);
            }
            self.write(slot);
        }
        let is_held = |message: &Message| self.store_hangs && matches!(message, Message::Read { .. });
        has_more || !self.host.woken.is_empty() || !self.host.mesh.iter().all(|(_, message)| is_held(message))
    }

    fn run_until(&mut self, until_ms: u64) {
        while self.now_ms < until_ms {
            let next_ms = match self.turn() {
                true => 0,
                false => self.shard.deadline().into_iter().chain(self.lane.deadline_ms()).min().unwrap_or(u64::MAX),
            };
            self.now_ms = next_ms.clamp(self.now_ms + 1, until_ms);
        }
        let limit = Limits::default().outbound_limit_bytes;
        assert!(self.longest_queue_bytes <= limit, "{} bytes waited for one connection", self.longest_queue_bytes);
    }

    pub(crate) fn run_for(&mut self, ms: u64) {
        self.run_until(self.now_ms + ms);
    }

    /// Passes the frames of a client to the shard, as long as it wants input.
    fn read(&mut self, slot: Slot) {
        let now = self.now();
        while self.shard.wants_input(slot)
            && let Some(frame) = self.clients[slot.index()].unread.pop_front()
        {
            let event = match &frame {
                Frame::Text(text) => Event::Text(text),
                Frame::Binary(bytes) => Event::Binary(bytes),
                Frame::Close(code) => Event::Close { code: Some(*code), reason: "" },
            };
            self.shard.frame(now, slot, event, &mut self.host);
        }
    }

    /// Delivers what the last turn sent. Requests that the store does not answer are kept.
    fn pass_messages(&mut self) {
        let now = self.now();
        let mut answers = Vec::new();
        let mut reads = 0;
        for (to, message) in std::mem::take(&mut self.host.mesh) {
            match message {
                Message::Read { requester, asker, request } => {
                    reads += usize::from(matches!(
                        (&requester, &request),
                        (Requester::CatchUp(_) | Requester::Call(_), StoreRequest::Page { .. })
                    ));
                    if self.store_hangs {
                        self.host.mesh.push((to, Message::Read { requester, asker, request }));
                    } else {
                        let answer = self.answer(&asker.party, request);
                        self.shard.receive(now, to, Message::ReadReply { requester, reply: answer }, &mut self.host);
                    }
                }
                Message::Commit(append) => self.lane.receive(now.ms, append, &mut answers),
                Message::CreditReturned => {}
                message if to == Endpoint::Shard(1) => self.to_other.push(message),
                other => panic!("to {to:?}: {other:?}"),
            }
        }
        self.most_reads = self.most_reads.max(reads);
        self.lane.tick(now.ms, &mut answers);
        if !self.store_hangs
            && let Some(batch) = self.lane.next_batch(now.ms)
        {
            let outcomes = self.store.append(now.unix_ms, &batch);
            self.lane.finished(now.ms, BatchResult::Answered(outcomes, Some(self.store.generation())), &mut answers);
        }
        for answer in answers {
            self.shard.receive(now, Endpoint::Lane(0), Message::Committed(Box::new(answer)), &mut self.host);
        }
    }

    /// Writes to a client what waits for it, as fast as it reads.
    fn write(&mut self, slot: Slot) {
        let now = self.now();
        let client = &mut self.clients[slot.index()];
        if client.bytes_per_ms == 0 || self.host.cut.contains(&slot) {
            return;
        }
        let mut slices = Vec::new();
        self.shard.outgoing(slot, &mut slices);
        let before = client.bytes.len();
        for slice in slices {
            let left = client.bytes_per_ms - (client.bytes.len() - before);
            client.bytes.extend_from_slice(&slice[..slice.len().min(left)]);
        }
        let written = client.bytes.len() - before;
        if written > 0 {
            self.shard.sent(now, slot, written, &mut self.host);
            if self.clients[slot.index()].decode(now.ms) {
                self.host.wake(slot);
            }
        }
    }

    // ── clients ─────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Opens a connection that requests an upgrade to WebSocket.
    pub(crate) fn open(&mut self, target: &str) -> Slot {
        let now = self.now();
        let slot = self.shard.opened(now, &mut self.host);
        assert_eq!(slot.index(), self.clients.len());
        self.clients.push(Client {
            unread: VecDeque::new(),
            bytes_per_ms: UNLIMITED,
            answers_pings: true,
            bytes: Vec::new(),
            is_upgraded: false,
            received: Vec::new(),
        });
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        let ParsedHead::Upgrade(request, _) = head::parse(request.as_bytes(), 0, 16384, "127.0.0.1:1".parse().unwrap())
        else {
            panic!("not a request for a WebSocket: {request:?}")
        };
        self.shard.requested(now, slot, *request, &mut self.host);
        slot
    }

    /// Opens a connection of the Centrifugo protocol and signs it in by `connect`.
    pub(crate) fn connect(&mut self, user: i64) -> Slot {
        let slot = self.open("/connection/websocket");
        self.send_commands(slot, [json!({"id": 1, "connect": {"token": user.to_string()}})]);
        self.run_for(2);
        assert_eq!(replies(&self.take_received(slot)), [(1, None)]);
        slot
    }

    /// Connects a client and subscribes it to a channel.
    pub(crate) fn join(&mut self, user: i64, channel: &str) -> Slot {
        let slot = self.connect(user);
        self.send_commands(slot, [subscribe(1, channel)]);
        self.run_for(10);
        assert_eq!(replies(&self.take_received(slot)), [(1, None)]);
        slot
    }

    pub(crate) fn send(&mut self, slot: Slot, frame: Frame) {
        self.clients[slot.index()].unread.push_back(frame);
        self.host.wake(slot);
    }

    /// Sends commands in one frame.
    pub(crate) fn send_commands(&mut self, slot: Slot, commands: impl IntoIterator<Item = Value>) {
        let lines: Vec<String> = commands.into_iter().map(|command| command.to_string()).collect();
        self.send(slot, Frame::Text(lines.join("\n")));
    }

    pub(crate) fn set_read_rate(&mut self, slot: Slot, bytes_per_ms: usize) {
        self.clients[slot.index()].bytes_per_ms = bytes_per_ms;
        self.host.wake(slot);
    }

    /// Takes what a client has received since the last call.
    pub(crate) fn take_received(&mut self, slot: Slot) -> Vec<(u64, Received)> {
        std::mem::take(&mut self.clients[slot.index()].received)
    }

    /// What a client has received instead of a WebSocket.
    pub(crate) fn response(&self, slot: Slot) -> String {
        String::from_utf8_lossy(&self.clients[slot.index()].bytes).into_owned()
    }

    /// Whether this connection, and not another one, was closed or aborted.
    pub(crate) fn has_lost(&mut self, slot: Slot) -> bool {
        let received = self.clients[slot.index()].received.iter();
        self.host.cut.contains(&slot)
            || received.into_iter().any(|(_, received)| matches!(received, Received::Close(_)))
    }

    /// The driver holds this much of a message that has not arrived completely.
    pub(crate) fn set_unfinished(&mut self, slot: Slot, bytes: usize) {
        let now = self.now();
        self.shard.unfinished(now, slot, bytes, &mut self.host);
    }

    fn is_closed(&self, slot: Slot) -> bool {
        self.host.cut.contains(&slot) || !self.shard.metrics().closed.is_empty()
    }
}

impl Client {
    /// Decodes the complete frames among its bytes. True: it has answered a ping.
    fn decode(&mut self, now_ms: u64) -> bool {
        let mut rest = &self.bytes[..];
        if !self.is_upgraded {
            let Some(end) = rest.windows(4).position(|window| window == b"\r\n\r\n") else { return false };
            if !rest.starts_with(b"HTTP/1.1 101 ") {
                return false;
            }
            self.is_upgraded = true;
            rest = &rest[end + 4..];
        }
        let mut has_answered = false;
        while let Some((opcode, payload, length)) = parse(rest).unwrap() {
            rest = &rest[length..];
            let received: Vec<Received> = match opcode {
                1 => String::from_utf8(payload)
                    .unwrap()
                    .split('\n')
                    .map(|line| Received::Line(line.to_owned()))
                    .collect(),
                2 => vec![Received::Binary(payload)],
                8 => {
                    vec![Received::Close(payload.get(..2).map_or(1005, |code| u16::from_be_bytes([code[0], code[1]])))]
                }
                9 => vec![Received::Ping],
                other => panic!("a frame has opcode {other}"),
            };
            for received in received {
                let pong = match &received {
                    Received::Line(line) if line == "{}" => Some(Frame::Text("{}".into())),
                    Received::Binary(bytes) if *bytes == [0] => Some(Frame::Binary(vec![0])),
                    _ => None,
                };
                if let Some(pong) = pong.filter(|_| self.answers_pings) {
                    self.unread.push_back(pong);
                    has_answered = true;
                }
                self.received.push((now_ms, received));
            }
        }
        self.bytes = rest.to_vec();
        has_answered
    }
}

pub(crate) fn subscribe(id: u32, channel: &str) -> Value {
    json!({"id": id, "subscribe": {"channel": channel}})
}

fn unsubscribe(id: u32, channel: &str) -> Value {
    json!({"id": id, "unsubscribe": {"channel": channel}})
}

pub(crate) fn publish(id: u32, channel: &str) -> Value {
    json!({"id": id, "publish": {"channel": channel, "data": {"text": "hi", "id": format!("m{id}")}}})
}

pub(crate) fn history(id: u32, channel: &str) -> Value {
    json!({"id": id, "history": {"channel": channel, "limit": 3}})
}

fn line(received: &Received) -> Option<Value> {
    match received {
        Received::Line(line) => Some(serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?}"))),
        _ => None,
    }
}

pub(crate) fn lines(received: &[(u64, Received)]) -> Vec<Value> {
    received.iter().filter_map(|(_, received)| line(received)).collect()
}

/// The replies in order, each as the id of its command and its error code.
pub(crate) fn replies(received: &[(u64, Received)]) -> Vec<(u64, Option<u64>)> {
    let lines = lines(received);
    lines.iter().filter_map(|line| Some((line["id"].as_u64()?, line["error"]["code"].as_u64()))).collect()
}

/// The time of the reply to a command, and its error code.
pub(crate) fn reply_to(received: &[(u64, Received)], id: u64) -> (u64, Option<u64>) {
    let mut of_id = received.iter().filter_map(|(at_ms, received)| {
        let line = line(received).filter(|line| line["id"] == id)?;
        Some((*at_ms, line["error"]["code"].as_u64()))
    });
    let reply = of_id.next().unwrap_or_else(|| panic!("command {id} was not answered"));
    assert_eq!(of_id.next(), None, "command {id} was answered twice");
    reply
}

pub(crate) fn close_codes(received: &[(u64, Received)]) -> Vec<u16> {
    received
        .iter()
        .filter_map(|(_, received)| if let Received::Close(code) = received { Some(*code) } else { None })
        .collect()
}

/// The offsets of a channel's publications, in order. None may come before the reply to its `subscribe` with this id.
fn offsets(lines: &[Value], channel: &str, id: u64) -> Vec<Offset> {
    let is_reply = |line: &Value| line["id"] == id && line["subscribe"].is_object();
    let first = lines.iter().position(is_reply).unwrap_or_else(|| panic!("{channel} was not subscribed"));
    let of_channel = |line: &&Value| line["push"]["channel"] == channel;
    assert_eq!(lines[..first].iter().find(of_channel), None, "a publication came before the reply to its subscribe");
    lines[first..].iter().filter(of_channel).map(|line| line["push"]["pub"]["offset"].as_u64().unwrap()).collect()
}

// ── recovery ────────────────────────────────────────────────────────────────────────────────────────────────────────

/// A client that reads 16 KiB per millisecond recovers many rooms in one frame. It has missed about 150 KB in each, and
/// more messages arrive meanwhile.
fn recover(rooms: usize) {
    let mut rig = Rig::new(rooms);
    for room in 0..rooms {
        rig.store_messages(room, 40, 4000);
    }
    let slot = rig.connect(2);
    rig.set_read_rate(slot, 16 * 1024);
    let since = |room: usize| json!({"channel": format!("room:room{room}"), "recover": true, "offset": 2});
    rig.send_commands(slot, (0..rooms).map(|room| json!({"id": room + 2, "subscribe": since(room)})));
    for round in 0..20 {
        rig.run_for(10);
        for room in (0..rooms).skip(round % 2).step_by(2) {
            rig.publish_elsewhere(room);
        }
    }
    rig.run_for(rooms as u64 * 15);
    assert!(!rig.is_closed(slot), "{:?}", rig.shard.metrics().closed);
    assert_eq!(rig.shard.longest_queue_bytes(), 0, "the client has not read everything");
    let lines = lines(&rig.take_received(slot));
    for room in 0..rooms {
        let received = offsets(&lines, &format!("room:room{room}"), room as u64 + 2);
        assert_eq!(received, Vec::from_iter(3..=50), "room {room}");
    }
}

#[test]
fn recovering_a_dozen_busy_rooms_in_one_frame_overflows_no_queue() {
    recover(12);
}

#[test]
fn recovering_a_hundred_busy_rooms_in_one_frame_overflows_no_queue() {
    recover(100);
}

// ── floods ──────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_flood_of_presence_commands_waits_for_its_reader_and_disconnects_nobody() {
    const OTHERS: i64 = 300;
    const ASKED: u64 = 1500;
    let mut rig = Rig::with(0, Limits { list_burst_limit: 2 * ASKED, ..Limits::default() });
    let others: Vec<Slot> = (0..OTHERS).map(|user| rig.join(100 + user, "live:a")).collect();
    let slot = rig.join(2, "live:a");
    let command = |id| json!({"id": id, "presence": {"channel": "live:a"}});
    rig.send_commands(slot, [command(2)]);
    rig.run_for(5);
    let received = rig.take_received(slot);
    let [(_, Received::Line(reply))] = &received[..] else { panic!("{received:?}") };
    assert!(reply.len() > 20_000, "the replies are too small for a flood");

    rig.longest_queue_bytes = 0;
    rig.set_read_rate(slot, 0);
    rig.send_commands(slot, (0..ASKED).map(|id| command(id + 3)));
    rig.run_for(100);
    let limit = Limits::default().outbound_limit_bytes / 4 + reply.len() as u64 + 64;
    assert!(rig.longest_queue_bytes <= limit, "{} bytes waited", rig.longest_queue_bytes);
    rig.send_commands(others[0], [json!({"id": 2, "publish": {"channel": "live:a", "data": 7}})]);
    rig.run_for(5);
    for other in &others[1..] {
        let publications = lines(&rig.take_received(*other));
        assert_eq!(publications.len(), 1);
        assert_eq!(publications[0]["push"]["pub"]["data"], 7);
    }

    rig.set_read_rate(slot, 256 * 1024);
    let mut answered = Vec::new();
    for _ in 0..40 {
        rig.run_for(20);
        assert!(rig.longest_queue_bytes <= limit, "{} bytes waited", rig.longest_queue_bytes);
        answered.extend(rig.take_received(slot).into_iter().filter_map(|(_, received)| match received {
            // Not parsed as JSON: these are 50 megabytes.
            Received::Line(line) => line.strip_prefix("{\"id\":")?.split_once(',')?.0.parse::<u64>().ok(),
            _ => None,
        }));
    }
    assert_eq!(answered, Vec::from_iter(3..ASKED + 3));
    assert!(!rig.is_closed(slot), "{:?}", rig.shard.metrics().closed);
}

#[test]
fn a_flood_continues_after_one_write_has_emptied_the_queue() {
    // One write takes more than a quarter of the queue.
    let limits = Limits { outbound_limit_bytes: 64 * 1024, list_burst_limit: 1000, ..Limits::default() };
    let mut rig = Rig::with(0, limits);
    for user in 0..100 {
        rig.join(100 + user, "live:a");
    }
    let slot = rig.join(2, "live:a");
    rig.send_commands(slot, (2..202).map(|id| json!({"id": id, "presence": {"channel": "live:a"}})));
    rig.run_for(1_000);
    assert_eq!(replies(&rig.take_received(slot)), Vec::from_iter((2..202).map(|id| (id, None))));
}

#[test]
fn pipelined_history_commands_read_the_store_one_at_a_time() {
    let mut rig = Rig::new(1);
    rig.store_messages(0, 40, 4000);
    let slot = rig.join(2, "room:room0");
    rig.send_commands(slot, (2..258).map(|id| history(id, "room:room0")));
    rig.run_for(2_000);
    assert_eq!(rig.most_reads, 1);
    assert_eq!(replies(&rig.take_received(slot)), Vec::from_iter((2..258).map(|id| (id, None))));
}

#[test]
fn live_channels_without_subscribers_leave_no_state() {
    let mut rig = Rig::new(0);
    let slot = rig.connect(2);
    let Limits { subscribe_burst_limit: burst, .. } = Limits::default();
    let of_frame = |frame: u64| (0..100).map(move |n| frame * 100 + n);
    let mut id = 0;
    let mut received = Vec::new();
    for frame in 0..6 {
        rig.send_commands(
            slot,
            of_frame(frame).flat_map(|n| {
                let (channel, first) = (format!("live:{n}"), 2 * n as u32 + 2);
                [subscribe(first, &channel), unsubscribe(first + 1, &channel)]
            }),
        );
        rig.run_for(1);
        id += 200;
    }
    rig.run_for(10);
    received.extend(replies(&rig.take_received(slot)));
    assert_eq!(received.len(), id);
    let rejected = received.iter().filter(|(_, error)| error.is_some());
    assert!(rejected.clone().all(|(id, error)| *error == Some(111) && *id >= 2 * burst), "{received:?}");
    assert_eq!(rejected.count() as u64, 600 - burst);
    let metrics = rig.shard.metrics();
    assert_eq!((metrics.homes, metrics.subscriptions, metrics.closed), (0, 0, BTreeMap::new()));

    // A channel that was left works again for a client that returns in the same turn.
    rig.run_for(1_000);
    rig.send_commands(slot, [subscribe(1, "live:a"), unsubscribe(2, "live:a"), subscribe(3, "live:a")]);
    rig.send_commands(slot, [json!({"id": 4, "publish": {"channel": "live:a", "data": 7}})]);
    rig.run_for(5);
    let lines = lines(&rig.take_received(slot));
    assert_eq!(lines.iter().filter(|line| line["push"]["pub"]["data"] == 7).count(), 1, "{lines:?}");
    assert_eq!(rig.shard.metrics().homes, 1);
}

// ── pings ───────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_connection_that_is_paused_repeatedly_is_pinged_in_time() {
    let mut rig = Rig::new(1);
    rig.store_messages(0, 5, 10);
    let slot = rig.connect(2);
    let start_ms = rig.now_ms;
    rig.send_commands(slot, [subscribe(2, "room:room0")]);
    let mut received = Vec::new();
    for n in 0..12 {
        // The publish waits for the history call, and the connection is not read until then.
        rig.send_commands(slot, [history(10 + 2 * n, "room:room0"), publish(11 + 2 * n, "room:room0")]);
        rig.run_until(start_ms + (u64::from(n) + 1) * 10_000);
        received.extend(rig.take_received(slot));
    }
    assert!(replies(&received).iter().all(|(_, error)| error.is_none()));
    let mut before_ms = start_ms;
    let pings = received.iter().filter(|(_, received)| *received == Received::Line("{}".into()));
    for at_ms in pings.map(|(at_ms, _)| *at_ms).chain([start_ms + 120_000]) {
        assert!(at_ms - before_ms <= Limits::default().ping_interval_ms + 2, "no ping from {before_ms} to {at_ms}");
        before_ms = at_ms;
    }
}

// ── join and leave notices ──────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn notices_do_not_disconnect_a_subscriber_whose_queue_is_full() {
    let mut rig = Rig::new(0);
    let listener = rig.connect(2);
    rig.send_commands(listener, [json!({"id": 2, "subscribe": {"channel": "live:a", "join_leave": true}})]);
    let other = rig.join(3, "live:a");
    rig.take_received(listener);
    rig.set_read_rate(listener, 0);
    let large = "y".repeat(16_000);
    for id in 10..44 {
        rig.send_commands(other, [json!({"id": id, "publish": {"channel": "live:a", "data": large}})]);
        rig.run_for(1);
    }
    let full = rig.shard.longest_queue_bytes();
    assert!(full > Limits::default().outbound_limit_bytes / 2);
    for id in 0..250 {
        rig.send_commands(other, [unsubscribe(100 + 2 * id, "live:a")]);
        rig.run_for(2);
        rig.send_commands(other, [subscribe(101 + 2 * id, "live:a")]);
        rig.run_for(2);
    }
    assert_eq!(rig.shard.longest_queue_bytes(), full, "a notice was queued for a client with a long queue");
    rig.set_read_rate(listener, UNLIMITED);
    rig.run_for(100);
    rig.send_commands(other, [unsubscribe(1000, "live:a")]);
    rig.run_for(5);
    let received = lines(&rig.take_received(listener));
    assert_eq!(received.iter().filter(|line| line["push"]["pub"].is_object()).count(), 34);
    assert!(received.last().unwrap()["push"]["leave"].is_object(), "notices have not resumed");
    assert!(!rig.is_closed(listener), "{:?}", rig.shard.metrics().closed);
}

/// A `live:` channel keeps a publication until every subscriber has received it.
#[test]
fn a_live_burst_larger_than_a_queue_is_delivered_as_its_readers_read() {
    // Less than the ring holds, so that the whole burst is in it when delivery starts.
    let limit = 128 * 1024;
    let mut rig = Rig::with(0, Limits { outbound_limit_bytes: limit, ..Limits::default() });
    let [reader, sender] = [2, 3].map(|user| rig.join(user, "live:a"));
    let text = "x".repeat(16_000);
    let count = 14;
    let publish = |n| json!({"id": 10 + n, "publish": {"channel": "live:a", "data": {"n": n, "text": text}}});
    rig.send_commands(sender, (0..count).map(publish));
    rig.run_for(1000);
    assert!(rig.longest_queue_bytes >= limit, "the burst was too small: {} bytes waited", rig.longest_queue_bytes);
    for slot in [reader, sender] {
        let received = rig.take_received(slot);
        let numbers: Vec<u64> =
            lines(&received).iter().filter_map(|line| line["push"]["pub"]["data"]["n"].as_u64()).collect();
        assert!(numbers.iter().copied().eq(0..count), "{numbers:?}, {:?}", close_codes(&received));
    }
}

#[test]
fn leaving_and_returning_within_a_turn_is_not_announced() {
    let mut rig = Rig::new(0);
    let listener = rig.connect(2);
    rig.send_commands(listener, [json!({"id": 2, "subscribe": {"channel": "live:a", "join_leave": true}})]);
    rig.run_for(5);
    rig.take_received(listener);
    let other = rig.join(3, "live:a");
    for id in 0..20 {
        rig.send_commands(other, [unsubscribe(10 + 2 * id, "live:a"), subscribe(11 + 2 * id, "live:a")]);
        rig.run_for(5);
    }
    let received = lines(&rig.take_received(listener));
    let joins: Vec<_> = received.iter().filter(|line| line["push"]["join"].is_object()).collect();
    assert_eq!((received.len(), joins.len()), (1, 1), "{received:?}");
    assert_eq!(joins[0]["push"]["join"]["info"]["user"], "3");
}

/// One user's connections once made every member receive thousands of notices per second.
#[test]
fn clients_that_come_and_go_all_the_time_are_named_only_so_often() {
    let mut rig = Rig::new(0);
    let listener = rig.connect(2);
    rig.send_commands(listener, [json!({"id": 2, "subscribe": {"channel": "live:a", "join_leave": true}})]);
    let others: Vec<_> = (0..10).map(|_| rig.join(3, "live:a")).collect();
    for round in 0..300 {
        for other in &others {
            let (leave, join) = (unsubscribe(10 + 2 * round, "live:a"), subscribe(11 + 2 * round, "live:a"));
            rig.send_commands(*other, [if round % 2 == 0 { leave } else { join }]);
        }
        rig.run_for(10);
    }
    rig.send_commands(others[0], [unsubscribe(1000, "live:a")]);
    rig.run_for(5_000);
    let (mut present, mut notices) = (BTreeSet::new(), 0);
    for line in lines(&rig.take_received(listener)) {
        let client = |what: &str| line["push"][what]["info"].clone();
        let name = |info: &Value| info["client"].to_string();
        let (join, leave) = (client("join"), client("leave"));
        if join["user"] == "3" {
            assert!(present.insert(name(&join)), "named twice");
        } else if leave["user"] == "3" {
            assert!(present.remove(&name(&leave)), "has not come");
        } else {
            continue;
        }
        notices += 1;
    }
    assert!((200..=280).contains(&notices), "{notices} notices of 3,000 changes in 3 s");
    assert_eq!(present.len(), 9, "in the end everybody is named as they are");
}

// ── deadlines and order ─────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn commands_that_wait_for_a_hanging_store_are_answered_in_time() {
    let mut rig = Rig::new(2);
    let slot = rig.join(2, "room:room0");
    rig.store_hangs = true;
    let start_ms = rig.now_ms;
    rig.send_commands(slot, [history(2, "room:room0"), publish(3, "room:room0")]);
    rig.run_for(1);
    rig.send_commands(slot, [subscribe(4, "room:room1"), subscribe(5, "live:a")]);
    rig.run_for(20_000);
    let received = rig.take_received(slot);
    for (id, error) in [(2, Some(100)), (3, Some(100)), (4, Some(100)), (5, None)] {
        let (at_ms, code) = reply_to(&received, id);
        assert_eq!(code, error, "command {id}");
        assert!(at_ms - start_ms <= 4_100, "command {id} was answered after {} ms", at_ms - start_ms);
    }
    // The connection works again when the store does.
    rig.store_hangs = false;
    rig.run_for(100);
    rig.send_commands(slot, [history(6, "room:room0"), publish(7, "room:room0"), subscribe(8, "room:room1")]);
    rig.run_for(100);
    let received = rig.take_received(slot);
    assert_eq!(replies(&received).into_iter().collect::<BTreeMap<_, _>>(), [(6, None), (7, None), (8, None)].into());
    assert!(close_codes(&received).is_empty());
}

/// The home asks the store for the missing publication, which then arrives as an announcement before the reply.
#[test]
fn a_gap_that_closes_before_the_store_answers_disconnects_nobody() {
    let mut rig = Rig::new(1);
    let slot = rig.join(2, "room:room0");
    rig.take_received(slot);
    rig.store_messages(0, 2, 10);
    let head = rig.store.head(0);
    rig.store_hangs = true;
    for offset in [head, head - 1] {
        rig.announce(0, offset);
        rig.run_for(10);
    }
    rig.store_hangs = false;
    rig.run_for(100);
    let received = rig.take_received(slot);
    assert!(close_codes(&received).is_empty(), "{received:?}");
    assert_eq!(lines(&received).len(), 2, "{received:?}");
}

#[test]
fn publishes_sent_after_a_failed_one_fail_too() {
    let pending = Limits::default().pending_publishes_limit as u32;
    let mut rig = Rig::new(1);
    let slot = rig.join(2, "room:room0");
    let mut commands: Vec<Value> = (0..pending + 5).map(|n| publish(10 + n, "room:room0")).collect();
    // These two are executed when there is room again.
    commands.extend([history(500, "room:room0"), publish(501, "room:room0")]);
    rig.send_commands(slot, commands);
    rig.run_for(50);
    let received = rig.take_received(slot);
    for n in 0..pending + 5 {
        let expected = if n < pending { None } else { Some(100) };
        assert_eq!(reply_to(&received, 10 + u64::from(n)).1, expected, "publish {n}");
    }
    let error_of = |id| reply_to(&received, id).1;
    assert_eq!((error_of(500), error_of(501)), (None, Some(100)));
    assert_eq!(rig.store.head(0), u64::from(pending));
    // Publishes that are sent after the errors arrived are accepted.
    rig.send_commands(slot, (pending..pending + 5).map(|n| publish(10 + n, "room:room0")));
    rig.run_for(10);
    assert!(replies(&rig.take_received(slot)).iter().all(|(_, error)| error.is_none()));
    assert_eq!(rig.store.head(0), u64::from(pending) + 5);
}

// ── stopping ────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_stopping_server_answers_pending_commands_before_the_close_frame() {
    let mut rig = Rig::new(1);
    let slot = rig.join(2, "room:room0");
    let idle = rig.join(4, "room:room0");
    let plain = rig.open("/ws?room=room0&token=3");
    rig.run_for(10);
    assert_eq!(lines(&rig.take_received(plain))[0]["type"], "joined");
    rig.send_commands(slot, [publish(2, "room:room0")]);
    rig.send(plain, Frame::Text("from plain".into()));
    // Both are on their way to the database when the server starts to stop.
    rig.read(slot);
    rig.read(plain);
    rig.shard.drain(rig.now(), &mut rig.host);
    rig.run_for(100);

    let received = rig.take_received(slot);
    let (close, before) = received.split_last().unwrap();
    assert_eq!(close.1, Received::Close(3001));
    let reply = lines(before).into_iter().find(|line| line["id"] == 2).unwrap();
    assert!([1, 2].contains(&reply["publish"]["offset"].as_u64().unwrap()), "{reply}");

    let received = rig.take_received(plain);
    let (close, before) = received.split_last().unwrap();
    assert_eq!(close.1, Received::Close(1001));
    assert!(lines(before).iter().any(|line| line["text"] == "from plain" && line["user"]["id"] == "3"), "{received:?}");
    assert_eq!(close_codes(&rig.take_received(idle)), [3001]);

    for slot in [slot, idle, plain] {
        rig.send(slot, Frame::Close(1000));
    }
    rig.run_for(10);
    for slot in [slot, idle, plain] {
        assert!(rig.host.cut.contains(&slot));
        rig.shard.freed(slot);
    }
    assert!(rig.shard.drained());
}

#[test]
fn a_stopping_server_does_not_wait_for_a_hanging_store() {
    let mut rig = Rig::new(1);
    let slot = rig.join(2, "room:room0");
    rig.store_hangs = true;
    rig.send_commands(slot, [publish(2, "room:room0"), history(3, "room:room0")]);
    rig.turn();
    rig.shard.drain(rig.now(), &mut rig.host);
    rig.run_for(4_100);
    let received = rig.take_received(slot);
    assert_eq!(reply_to(&received, 2).1, Some(100));
    assert_eq!(received.last().unwrap().1, Received::Close(3001));
}

// ── connect and encodings ───────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_rejected_connect_is_answered_and_then_the_close_of_its_client() {
    let mut rig = Rig::new(0);
    let slot = rig.open("/connection/websocket");
    rig.send_commands(slot, [json!({"id": 1, "connect": {"token": "expired"}}), subscribe(2, "live:a")]);
    rig.run_for(100);
    let received = rig.take_received(slot);
    assert_eq!((replies(&received), received.len()), (vec![(1, Some(109))], 1));
    assert!(!rig.host.cut.contains(&slot), "the connection was aborted before the client could read the error");
    rig.send(slot, Frame::Close(1000));
    rig.run_for(10);
    assert_eq!(close_codes(&rig.take_received(slot)), [1000]);
    assert!(rig.host.cut.contains(&slot));

    // A client that does not close is disconnected.
    let slot = rig.open("/connection/websocket");
    rig.send_commands(slot, [json!({"id": 1, "connect": {"token": "expired"}})]);
    rig.run_for(Limits::default().refused_timeout_ms + 10);
    assert_eq!(replies(&rig.take_received(slot)), [(1, Some(109))]);
    assert!(rig.host.cut.contains(&slot));
}

#[test]
fn commands_sent_with_connect_wait_until_the_user_is_looked_up() {
    let mut rig = Rig::new(1);
    rig.store_messages(0, 3, 10);
    let slot = rig.open("/connection/websocket");
    let connect = json!({"id": 1, "connect": {"token": "user2"}});
    let command = json!({"id": 2, "subscribe": {"channel": "room:room0", "recover": true}});
    rig.send_commands(slot, [connect, command, history(3, "room:room0")]);
    rig.send_commands(slot, [publish(4, "room:room0")]);
    rig.run_for(50);
    let received = lines(&rig.take_received(slot));
    let ids: Vec<_> = received.iter().filter_map(|line| line["id"].as_u64()).collect();
    assert_eq!(ids, [1, 2, 3, 4]);
    assert_eq!(offsets(&received, "room:room0", 2), [1, 2, 3, 4]);
}

#[test]
fn the_first_command_must_be_connect() {
    let closed_with = |target: &str, frame: Frame| {
        let mut rig = Rig::new(0);
        let slot = rig.open(target);
        rig.send(slot, frame);
        rig.run_for(10);
        let received = rig.take_received(slot);
        assert_eq!(close_codes(&received).len(), received.len(), "{received:?}");
        close_codes(&received)
    };
    let (json, protobuf) = ("/connection/websocket", "/connection/websocket?format=protobuf");
    let text = |text: &str| Frame::Text(text.into());
    assert_eq!(closed_with(json, text(&publish(1, "room:room0").to_string())), [3501]);
    assert_eq!(closed_with(json, text(&subscribe(1, "live:a").to_string())), [3501]);
    assert_eq!(closed_with(json, text("{\"id\":1,\"ping\":{}}")), [3501]);
    assert_eq!(closed_with(json, text("{\"id\":1,\"connect\":")), [3501]);
    assert_eq!(closed_with(json, text("")), [3501]);
    assert_eq!(closed_with(json, text("{\"id\":1,\"connect\":{}}")), [3500]);
    assert_eq!(closed_with(json, text("{\"id\":1,\"connect\":{\"token\":\"wrong\"}}")), [3500]);
    assert_eq!(closed_with(json, Frame::Binary(vec![0])), [3506]);
    assert_eq!(closed_with(protobuf, text("{\"id\":1,\"connect\":{\"token\":\"2\"}}")), [3506]);
    assert_eq!(closed_with(protobuf, Frame::Binary(vec![])), [3501]);
    assert_eq!(closed_with(protobuf, Frame::Binary(vec![9, 1])), [3501]);
    // A pong before `connect` is ignored.
    assert!(closed_with(json, text("{}")).is_empty());
    assert!(closed_with(protobuf, Frame::Binary(vec![0])).is_empty());
}

/// `{"id":1,"connect":{"token":"2"}}` in Protobuf.
const CONNECT_PROTOBUF: [u8; 8] = [7, 0x08, 1, 0x22, 3, 0x0a, 1, b'2'];

#[test]
fn a_connection_keeps_to_its_encoding() {
    let mut rig = Rig::new(1);
    let slot = rig.connect(2);
    rig.send_commands(slot, [json!({"id": 2, "connect": {"token": "2"}})]);
    rig.run_for(5);
    assert_eq!(close_codes(&rig.take_received(slot)), [3501], "after a second connect");
    let slot = rig.connect(2);
    rig.send(slot, Frame::Binary(vec![0]));
    rig.run_for(5);
    assert_eq!(close_codes(&rig.take_received(slot)), [3506]);

    let slot = rig.open("/connection/websocket?format=protobuf");
    rig.send(slot, Frame::Binary(CONNECT_PROTOBUF.into()));
    rig.run_for(5);
    assert!(matches!(&rig.take_received(slot)[..], [(_, Received::Binary(_))]));
    rig.send(slot, Frame::Text("{}".into()));
    rig.run_for(5);
    assert_eq!(close_codes(&rig.take_received(slot)), [3506]);

    let plain = rig.open("/ws?room=room0&token=3");
    rig.run_for(5);
    rig.send(plain, Frame::Binary(vec![0]));
    rig.run_for(5);
    assert_eq!(close_codes(&rig.take_received(plain)), [1003]);
}

#[test]
fn both_sides_answer_pings_in_both_encodings() {
    let mut rig = Rig::new(0);
    let text = rig.connect(2);
    let binary = rig.open("/connection/websocket?format=protobuf");
    rig.send(binary, Frame::Binary(CONNECT_PROTOBUF.into()));
    rig.run_for(5);
    rig.take_received(binary);
    rig.send(text, Frame::Text("{}\n{\"id\":5,\"ping\":{}}\n{}".into()));
    // A pong, then `ping` with the id 5.
    rig.send(binary, Frame::Binary(vec![0, 4, 0x08, 5, 0x5a, 0]));
    rig.run_for(5);
    let take =
        |rig: &mut Rig, slot| rig.take_received(slot).into_iter().map(|(_, received)| received).collect::<Vec<_>>();
    assert_eq!(take(&mut rig, text), [Received::Line("{\"id\":5,\"ping\":{}}".into())]);
    let [Received::Binary(pong)] = &take(&mut rig, binary)[..] else { panic!("no answer") };
    assert_eq!(pong[..3], [4, 0x08, 5]);

    let Limits { ping_interval_ms, pong_timeout_ms, .. } = Limits::default();
    rig.run_for(2 * ping_interval_ms);
    for (slot, ping) in [(text, Received::Line("{}".into())), (binary, Received::Binary(vec![0]))] {
        let received = take(&mut rig, slot);
        assert!((1..=2).contains(&received.len()) && received.iter().all(|received| *received == ping), "{received:?}");
        rig.clients[slot.index()].answers_pings = false;
    }
    rig.run_for(ping_interval_ms + pong_timeout_ms + 10);
    for slot in [text, binary] {
        assert_eq!(close_codes(&rig.take_received(slot)), [3012]);
    }
}
