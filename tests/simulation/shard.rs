//! One shard alone, with the default limits: what single connections ask of it in their own way, and what they must be
//! told. The simulator draws the smallest limits and asks by chance; here stand the sequences that once went wrong.

use crate::client::parse;
use crate::store::SimStore;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use uproar_core::lane::{BatchResult, Lane};
use uproar_core::limits::Limits;
use uproar_core::message::{Answer, Ask, Asker, Found};
use uproar_core::websocket::{Event, Head, head};
use uproar_core::{Endpoint, Host, Message, Now, Refused, Shard, ShardConfig};
use uproar_model::{Claims, Item, Kind, Offset, Revocation, TokenError, User, UserId};

/// One shard with its lane and its store on virtual time. It is driven as the drivers do it: a connection is read and
/// written when it was woken, and a turn comes when there is something to do or at the shard's own deadline.
struct Alone {
    shard: Shard,
    host: Effects,
    lane: Lane,
    store: SimStore,
    /// While true the store answers nothing.
    hangs: bool,
    now_ms: u64,
    /// By slot: none is used twice.
    clients: Vec<Client>,
    /// The most pages that connections had the store read at once, and the most bytes that waited for one of them.
    widest_reads: usize,
    widest_queue: u64,
}

#[derive(Default)]
struct Effects {
    woken: BTreeSet<u32>,
    cut: BTreeSet<u32>,
    mesh: Vec<(Endpoint, Message)>,
}

impl Host for Effects {
    fn wake(&mut self, slot: u32) {
        self.woken.insert(slot);
    }

    fn cut(&mut self, slot: u32) {
        assert!(self.cut.insert(slot), "{slot} was cut twice");
    }

    fn note_first(&mut self, _: Refused, _: u16) {}

    fn mesh_places(&self, _: Endpoint) -> usize {
        usize::MAX
    }

    fn mesh(&mut self, to: Endpoint, message: Message) {
        self.mesh.push((to, message));
    }
}

/// What a client sends.
enum Frame {
    Text(String),
    Binary(Vec<u8>),
    Close(u16),
}

/// What a client was told: one line of a text frame, one binary frame, or the end.
#[derive(Clone, Debug, PartialEq)]
enum Told {
    Line(String),
    Binary(Vec<u8>),
    Ping,
    Close(u16),
}

struct Client {
    /// Not taken by the shard yet.
    unread: VecDeque<Frame>,
    /// How many bytes it reads in a millisecond.
    pace: usize,
    answers_pings: bool,
    bytes: Vec<u8>,
    is_upgraded: bool,
    /// With when.
    told: Vec<(u64, Told)>,
}

/// The author of what stands in the rooms.
const OWNER: UserId = UserId(1);

/// As long as nothing is to be slow.
const AT_ONCE: usize = usize::MAX;

impl Alone {
    /// With so many public rooms: `room:room0`, `room:room1`, …
    fn new(rooms: usize) -> Alone {
        Alone::with(rooms, Limits::default())
    }

    fn with(rooms: usize, limits: Limits) -> Alone {
        let verify = |token: &str, now_s: u64| match token {
            "expired" => Err(TokenError::Expired),
            "wrong" => Err(TokenError::Invalid),
            name => Ok(Claims {
                user: name.parse().ok().map(UserId),
                username: name.into(),
                generation: name.parse::<i64>().ok().map(|_| 1),
                issued_at: now_s,
                expires_at: now_s + 3600,
            }),
        };
        let config = ShardConfig {
            id: 0,
            shards: 1,
            lanes: 1,
            limits,
            verify: Arc::new(verify),
            echo: false,
            query_token: true,
            allow_origin: Arc::new(|_, _| true),
            seed: 7,
            revocations: Vec::<Revocation>::new(),
        };
        let mut store = SimStore::new(rooms);
        for user in 2..10 {
            assert_eq!(store.add_user(&format!("user{user}")), user);
        }
        Alone {
            lane: Lane::new(config.limits.clone()),
            shard: Shard::new(config),
            host: Effects::default(),
            store,
            hangs: false,
            now_ms: 1,
            clients: Vec::new(),
            widest_reads: 0,
            widest_queue: 0,
        }
    }

    fn now(&self) -> Now {
        Now { ms: self.now_ms, unix_ms: 1_700_000_000_000 + self.now_ms }
    }

    // ── the store ───────────────────────────────────────────────────────────────────────────────────────────────────

    /// Appends messages to a room past the shard.
    fn store_messages(&mut self, room: usize, count: usize, length: usize) {
        let unix_ms = self.now().unix_ms;
        for _ in 0..count {
            let id = format!("{room}.{}", self.store.head(room) + 1);
            let body = Some("y".repeat(length).into());
            let room = self.store.room_id(room);
            let item = Item { room, user: OWNER, id: id.into(), kind: Kind::Message, target: None, body };
            self.store.append(unix_ms, &[item]);
        }
    }

    /// The same, and the room's home hears of it.
    fn publish_elsewhere(&mut self, room: usize) {
        self.store_messages(room, 1, 10);
        self.tell_home(room, self.store.head(room));
    }

    /// The room's home hears of what stands there.
    fn tell_home(&mut self, room: usize, offset: Offset) {
        let room = self.store.room_id(room);
        let publication = Box::new(self.store.row(room, offset).unwrap());
        self.shard.mesh(self.now(), Endpoint::Http, Message::Learn { room, publication }, &mut self.host);
    }

    fn answer(&mut self, ask: Ask) -> Answer {
        let unix_ms = self.now().unix_ms;
        match ask {
            Ask::Admit { room, user } => Answer::Admitted(self.store.admit(unix_ms, &room, user)),
            Ask::Head { room } => Answer::Head(self.store.head_of(room)),
            Ask::Page { room, request } => Answer::Page(self.store.page(room, request).map(Arc::new)),
            Ask::User { username } => {
                let id = UserId(self.store.add_user(&username));
                Answer::User(Some(Found { user: User { id, username }, revoked_at: None }))
            }
            Ask::MarkRead { .. } | Ask::Rooms { .. } => Answer::Failed,
        }
    }

    // ── time ────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// One turn. True: the next one is due at once.
    fn turn(&mut self) -> bool {
        let now = self.now();
        let woken = std::mem::take(&mut self.host.woken);
        for &slot in &woken {
            self.read(slot);
        }
        self.pass_messages();
        let has_more = self.shard.turn(now, &mut self.host);
        let woken: BTreeSet<u32> = &woken | &std::mem::take(&mut self.host.woken);
        self.widest_queue = self.widest_queue.max(self.shard.widest_queue_bytes());
        for slot in woken {
            if !self.clients[slot as usize].unread.is_empty() && self.shard.wants_input(slot) {
                self.host.wake(slot);
            }
            self.write(slot);
        }
        self.shard.turned();
        let waits_for_store = |message: &Message| self.hangs && matches!(message, Message::Ask { .. });
        has_more || !self.host.woken.is_empty() || !self.host.mesh.iter().all(|(_, message)| waits_for_store(message))
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
        assert!(self.widest_queue <= limit, "{} bytes waited for one connection", self.widest_queue);
    }

    fn run_for(&mut self, ms: u64) {
        self.run_until(self.now_ms + ms);
    }

    /// What a client has sent is taken, as long as the shard wants it.
    fn read(&mut self, slot: u32) {
        let now = self.now();
        while self.shard.wants_input(slot)
            && let Some(frame) = self.clients[slot as usize].unread.pop_front()
        {
            let event = match &frame {
                Frame::Text(text) => Event::Text(text),
                Frame::Binary(bytes) => Event::Binary(bytes),
                Frame::Close(code) => Event::Close { code: Some(*code), reason: "" },
            };
            self.shard.frame(now, slot, event, &mut self.host);
        }
    }

    /// What the last turn has sent arrives. What the store does not answer stays.
    fn pass_messages(&mut self) {
        let now = self.now();
        let mut answers = Vec::new();
        let mut reads = 0;
        for (to, message) in std::mem::take(&mut self.host.mesh) {
            match message {
                Message::Ask { asker, ask } => {
                    reads += usize::from(matches!((&asker, &ask), (Asker::Connection(_), Ask::Page { .. })));
                    if self.hangs {
                        self.host.mesh.push((to, Message::Ask { asker, ask }));
                    } else {
                        let answer = self.answer(ask);
                        self.shard.mesh(now, to, Message::Answer { asker, answer }, &mut self.host);
                    }
                }
                Message::Commit(append) => self.lane.receive(now.ms, append, &mut answers),
                Message::Taken => {}
                other => panic!("to {to:?}: {other:?}"),
            }
        }
        self.widest_reads = self.widest_reads.max(reads);
        self.lane.tick(now.ms, &mut answers);
        if !self.hangs
            && let Some(batch) = self.lane.next_batch(now.ms)
        {
            let outcomes = self.store.append(now.unix_ms, &batch);
            self.lane.finished(now.ms, BatchResult::Answered(outcomes), &mut answers);
        }
        for answer in answers {
            self.shard.mesh(now, Endpoint::Lane(0), Message::Committed(Box::new(answer)), &mut self.host);
        }
    }

    /// What waits for a client is written, as fast as it reads.
    fn write(&mut self, slot: u32) {
        let now = self.now();
        let client = &mut self.clients[slot as usize];
        if client.pace == 0 || self.host.cut.contains(&slot) {
            return;
        }
        let mut slices = Vec::new();
        self.shard.outgoing(slot, &mut slices);
        let before = client.bytes.len();
        for slice in slices {
            let left = client.pace - (client.bytes.len() - before);
            client.bytes.extend_from_slice(&slice[..slice.len().min(left)]);
        }
        let written = client.bytes.len() - before;
        if written > 0 {
            self.shard.sent(now, slot, written, &mut self.host);
            if self.clients[slot as usize].hear(now.ms) {
                self.host.wake(slot);
            }
        }
    }

    // ── clients ─────────────────────────────────────────────────────────────────────────────────────────────────────

    /// A connection that has asked for a WebSocket.
    fn open(&mut self, target: &str) -> u32 {
        let now = self.now();
        let slot = self.shard.opened(now, &mut self.host);
        assert_eq!(slot as usize, self.clients.len());
        self.clients.push(Client {
            unread: VecDeque::new(),
            pace: AT_ONCE,
            answers_pings: true,
            bytes: Vec::new(),
            is_upgraded: false,
            told: Vec::new(),
        });
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        let Head::Upgrade(request, _) = head::parse(request.as_bytes(), 0, 16384, "127.0.0.1:1".parse().unwrap())
        else {
            panic!("{request:?} asks for a WebSocket")
        };
        self.shard.requested(now, slot, *request, &mut self.host);
        slot
    }

    /// A client of the Centrifugo protocol that has said who it is.
    fn connect(&mut self, user: i64) -> u32 {
        let slot = self.open("/connection/websocket");
        self.ask(slot, [json!({"id": 1, "connect": {"token": user.to_string()}})]);
        self.run_for(2);
        assert_eq!(replies(&self.hear(slot)), [(1, None)]);
        slot
    }

    /// The same, subscribed to this channel.
    fn join(&mut self, user: i64, channel: &str) -> u32 {
        let slot = self.connect(user);
        self.ask(slot, [subscribe(1, channel)]);
        self.run_for(10);
        assert_eq!(replies(&self.hear(slot)), [(1, None)]);
        slot
    }

    fn send(&mut self, slot: u32, frame: Frame) {
        self.clients[slot as usize].unread.push_back(frame);
        self.host.wake(slot);
    }

    /// Sends commands in one frame.
    fn ask(&mut self, slot: u32, commands: impl IntoIterator<Item = Value>) {
        let lines: Vec<String> = commands.into_iter().map(|command| command.to_string()).collect();
        self.send(slot, Frame::Text(lines.join("\n")));
    }

    fn set_pace(&mut self, slot: u32, pace: usize) {
        self.clients[slot as usize].pace = pace;
        self.host.wake(slot);
    }

    /// What a client was told since this was last asked.
    fn hear(&mut self, slot: u32) -> Vec<(u64, Told)> {
        std::mem::take(&mut self.clients[slot as usize].told)
    }

    fn is_ended(&self, slot: u32) -> bool {
        self.host.cut.contains(&slot) || !self.shard.figures().ended.is_empty()
    }
}

impl Client {
    /// Takes whole frames off its bytes. True: it has answered a ping.
    fn hear(&mut self, now_ms: u64) -> bool {
        let mut rest = &self.bytes[..];
        if !self.is_upgraded {
            let Some(end) = rest.windows(4).position(|window| window == b"\r\n\r\n") else { return false };
            assert!(rest.starts_with(b"HTTP/1.1 101 "));
            self.is_upgraded = true;
            rest = &rest[end + 4..];
        }
        let mut has_answered = false;
        while let Some((opcode, payload, length)) = parse(rest).unwrap() {
            rest = &rest[length..];
            let told: Vec<Told> = match opcode {
                1 => String::from_utf8(payload).unwrap().split('\n').map(|line| Told::Line(line.to_owned())).collect(),
                2 => vec![Told::Binary(payload)],
                8 => vec![Told::Close(payload.get(..2).map_or(1005, |code| u16::from_be_bytes([code[0], code[1]])))],
                9 => vec![Told::Ping],
                other => panic!("a frame with opcode {other}"),
            };
            for told in told {
                let pong = match &told {
                    Told::Line(line) if line == "{}" => Some(Frame::Text("{}".into())),
                    Told::Binary(bytes) if *bytes == [0] => Some(Frame::Binary(vec![0])),
                    _ => None,
                };
                if let Some(pong) = pong.filter(|_| self.answers_pings) {
                    self.unread.push_back(pong);
                    has_answered = true;
                }
                self.told.push((now_ms, told));
            }
        }
        self.bytes = rest.to_vec();
        has_answered
    }
}

fn subscribe(id: u32, channel: &str) -> Value {
    json!({"id": id, "subscribe": {"channel": channel}})
}

fn unsubscribe(id: u32, channel: &str) -> Value {
    json!({"id": id, "unsubscribe": {"channel": channel}})
}

fn publish(id: u32, channel: &str) -> Value {
    json!({"id": id, "publish": {"channel": channel, "data": {"text": "hi", "id": format!("m{id}")}}})
}

fn history(id: u32, channel: &str) -> Value {
    json!({"id": id, "history": {"channel": channel, "limit": 3}})
}

fn line(told: &Told) -> Option<Value> {
    match told {
        Told::Line(line) => Some(serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?}"))),
        _ => None,
    }
}

fn lines(told: &[(u64, Told)]) -> Vec<Value> {
    told.iter().filter_map(|(_, told)| line(told)).collect()
}

/// The replies, in order: to which command, and with which error.
fn replies(told: &[(u64, Told)]) -> Vec<(u64, Option<u64>)> {
    let lines = lines(told);
    lines.iter().filter_map(|line| Some((line["id"].as_u64()?, line["error"]["code"].as_u64()))).collect()
}

/// When the reply to a command came, and its error.
fn reply_to(told: &[(u64, Told)], id: u64) -> (u64, Option<u64>) {
    let mut of_id = told.iter().filter_map(|(at_ms, told)| {
        let line = line(told).filter(|line| line["id"] == id)?;
        Some((*at_ms, line["error"]["code"].as_u64()))
    });
    let reply = of_id.next().unwrap_or_else(|| panic!("command {id} was not answered"));
    assert_eq!(of_id.next(), None, "command {id} was answered twice");
    reply
}

fn closes(told: &[(u64, Told)]) -> Vec<u16> {
    told.iter().filter_map(|(_, told)| if let Told::Close(code) = told { Some(*code) } else { None }).collect()
}

/// The offsets of a channel's publications, in order. There must be none before the reply to its `subscribe`, `id`.
fn offsets(lines: &[Value], channel: &str, id: u64) -> Vec<Offset> {
    let is_reply = |line: &Value| line["id"] == id && line["subscribe"].is_object();
    let begin = lines.iter().position(is_reply).unwrap_or_else(|| panic!("{channel} was not subscribed"));
    let of_channel = |line: &&Value| line["push"]["channel"] == channel;
    assert_eq!(lines[..begin].iter().find(of_channel), None, "came before the reply to its subscribe");
    lines[begin..].iter().filter(of_channel).map(|line| line["push"]["pub"]["offset"].as_u64().unwrap()).collect()
}

// ── recovery ────────────────────────────────────────────────────────────────────────────────────────────────────────

/// A client that reads 16 KiB a millisecond comes back to rooms of which it has missed 150 KB each, in one frame, and
/// more is said in them meanwhile.
fn recover(rooms: usize) {
    let mut alone = Alone::new(rooms);
    for room in 0..rooms {
        alone.store_messages(room, 40, 4000);
    }
    let slot = alone.connect(2);
    alone.set_pace(slot, 16 * 1024);
    let since = |room: usize| json!({"channel": format!("room:room{room}"), "recover": true, "offset": 2});
    alone.ask(slot, (0..rooms).map(|room| json!({"id": room + 2, "subscribe": since(room)})));
    for round in 0..20 {
        alone.run_for(10);
        for room in (0..rooms).skip(round % 2).step_by(2) {
            alone.publish_elsewhere(room);
        }
    }
    alone.run_for(rooms as u64 * 15);
    assert!(!alone.is_ended(slot), "{:?}", alone.shard.figures().ended);
    assert_eq!(alone.shard.widest_queue_bytes(), 0, "all of it has been read");
    let lines = lines(&alone.hear(slot));
    for room in 0..rooms {
        let had = offsets(&lines, &format!("room:room{room}"), room as u64 + 2);
        assert_eq!(had, Vec::from_iter(3..=50), "room {room}");
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
fn a_flood_of_presence_waits_for_its_reader_and_ends_nobody() {
    const OTHERS: i64 = 300;
    const ASKED: u64 = 1500;
    let mut alone = Alone::new(0);
    let others: Vec<u32> = (0..OTHERS).map(|user| alone.join(100 + user, "live:a")).collect();
    let slot = alone.join(2, "live:a");
    let command = |id| json!({"id": id, "presence": {"channel": "live:a"}});
    alone.ask(slot, [command(2)]);
    alone.run_for(5);
    let told = alone.hear(slot);
    let [(_, Told::Line(reply))] = &told[..] else { panic!("{told:?}") };
    assert!(reply.len() > 20_000, "large enough for a flood");

    alone.widest_queue = 0;
    alone.set_pace(slot, 0);
    alone.ask(slot, (0..ASKED).map(|id| command(id + 3)));
    alone.run_for(100);
    let limit = Limits::default().outbound_limit_bytes / 4 + reply.len() as u64 + 64;
    assert!(alone.widest_queue <= limit, "{} bytes waited", alone.widest_queue);
    alone.ask(others[0], [json!({"id": 2, "publish": {"channel": "live:a", "data": 7}})]);
    alone.run_for(5);
    for other in &others[1..] {
        let publications = lines(&alone.hear(*other));
        assert_eq!(publications.len(), 1);
        assert_eq!(publications[0]["push"]["pub"]["data"], 7);
    }

    alone.set_pace(slot, 256 * 1024);
    let mut answered = Vec::new();
    for _ in 0..40 {
        alone.run_for(20);
        assert!(alone.widest_queue <= limit, "{} bytes waited", alone.widest_queue);
        answered.extend(alone.hear(slot).into_iter().filter_map(|(_, told)| match told {
            // Not parsed: they are fifty megabytes.
            Told::Line(line) => line.strip_prefix("{\"id\":")?.split_once(',')?.0.parse::<u64>().ok(),
            _ => None,
        }));
    }
    assert_eq!(answered, Vec::from_iter(3..ASKED + 3));
    assert!(!alone.is_ended(slot), "{:?}", alone.shard.figures().ended);
}

#[test]
fn a_flood_goes_on_when_one_write_has_emptied_the_queue() {
    // A quarter of the queue is less than one write takes.
    let mut alone = Alone::with(0, Limits { outbound_limit_bytes: 64 * 1024, ..Limits::default() });
    for user in 0..100 {
        alone.join(100 + user, "live:a");
    }
    let slot = alone.join(2, "live:a");
    alone.ask(slot, (2..202).map(|id| json!({"id": id, "presence": {"channel": "live:a"}})));
    alone.run_for(1_000);
    assert_eq!(replies(&alone.hear(slot)), Vec::from_iter((2..202).map(|id| (id, None))));
}

#[test]
fn pipelined_history_reads_the_store_one_at_a_time() {
    let mut alone = Alone::new(1);
    alone.store_messages(0, 40, 4000);
    let slot = alone.join(2, "room:room0");
    alone.ask(slot, (2..258).map(|id| history(id, "room:room0")));
    alone.run_for(2_000);
    assert_eq!(alone.widest_reads, 1);
    assert_eq!(replies(&alone.hear(slot)), Vec::from_iter((2..258).map(|id| (id, None))));
}

#[test]
fn ever_new_live_channels_leave_nothing_behind() {
    let mut alone = Alone::new(0);
    let slot = alone.connect(2);
    let Limits { subscribe_burst_limit: burst, .. } = Limits::default();
    let of_frame = |frame: u64| (0..100).map(move |n| frame * 100 + n);
    let mut id = 0;
    let mut told = Vec::new();
    for frame in 0..6 {
        alone.ask(
            slot,
            of_frame(frame).flat_map(|n| {
                let (channel, first) = (format!("live:{n}"), 2 * n as u32 + 2);
                [subscribe(first, &channel), unsubscribe(first + 1, &channel)]
            }),
        );
        alone.run_for(1);
        id += 200;
    }
    alone.run_for(10);
    told.extend(replies(&alone.hear(slot)));
    assert_eq!(told.len(), id);
    let refused = told.iter().filter(|(_, error)| error.is_some());
    assert!(refused.clone().all(|(id, error)| *error == Some(111) && *id >= 2 * burst), "{told:?}");
    assert_eq!(refused.count() as u64, 600 - burst);
    let figures = alone.shard.figures();
    assert_eq!((figures.homes, figures.subscriptions, figures.ended), (0, 0, BTreeMap::new()));

    // One that was let go is there again for who comes back in the same turn.
    alone.run_for(1_000);
    alone.ask(slot, [subscribe(1, "live:a"), unsubscribe(2, "live:a"), subscribe(3, "live:a")]);
    alone.ask(slot, [json!({"id": 4, "publish": {"channel": "live:a", "data": 7}})]);
    alone.run_for(5);
    let lines = lines(&alone.hear(slot));
    assert_eq!(lines.iter().filter(|line| line["push"]["pub"]["data"] == 7).count(), 1, "{lines:?}");
    assert_eq!(alone.shard.figures().homes, 1);
}

// ── pings ───────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn pings_come_in_time_on_a_connection_that_is_paused_again_and_again() {
    let mut alone = Alone::new(1);
    alone.store_messages(0, 5, 10);
    let slot = alone.connect(2);
    let begin_ms = alone.now_ms;
    alone.ask(slot, [subscribe(2, "room:room0")]);
    let mut told = Vec::new();
    for n in 0..12 {
        // The second waits for the first, and the reading stops until then.
        alone.ask(slot, [history(10 + 2 * n, "room:room0"), publish(11 + 2 * n, "room:room0")]);
        alone.run_until(begin_ms + (u64::from(n) + 1) * 10_000);
        told.extend(alone.hear(slot));
    }
    assert!(replies(&told).iter().all(|(_, error)| error.is_none()));
    let mut before_ms = begin_ms;
    let pings = told.iter().filter(|(_, told)| *told == Told::Line("{}".into()));
    for at_ms in pings.map(|(at_ms, _)| *at_ms).chain([begin_ms + 120_000]) {
        assert!(at_ms - before_ms <= Limits::default().ping_interval_ms + 2, "no ping from {before_ms} to {at_ms}");
        before_ms = at_ms;
    }
}

// ── notes ───────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn notes_do_not_end_a_listener_whose_queue_is_full() {
    let mut alone = Alone::new(0);
    let listener = alone.connect(2);
    alone.ask(listener, [json!({"id": 2, "subscribe": {"channel": "live:a", "join_leave": true}})]);
    let other = alone.join(3, "live:a");
    alone.hear(listener);
    alone.set_pace(listener, 0);
    let large = "y".repeat(16_000);
    for id in 10..44 {
        alone.ask(other, [json!({"id": id, "publish": {"channel": "live:a", "data": large}})]);
        alone.run_for(1);
    }
    let full = alone.shard.widest_queue_bytes();
    assert!(full > Limits::default().outbound_limit_bytes / 2);
    for id in 0..250 {
        alone.ask(other, [unsubscribe(100 + 2 * id, "live:a")]);
        alone.run_for(2);
        alone.ask(other, [subscribe(101 + 2 * id, "live:a")]);
        alone.run_for(2);
    }
    assert_eq!(alone.shard.widest_queue_bytes(), full, "who has much waiting is spared them");
    alone.set_pace(listener, AT_ONCE);
    alone.run_for(100);
    alone.ask(other, [unsubscribe(1000, "live:a")]);
    alone.run_for(5);
    let told = lines(&alone.hear(listener));
    assert_eq!(told.iter().filter(|line| line["push"]["pub"].is_object()).count(), 34);
    assert!(told.last().unwrap()["push"]["leave"].is_object(), "what comes now is told again");
    assert!(!alone.is_ended(listener), "{:?}", alone.shard.figures().ended);
}

/// A `live:` channel keeps nothing that everybody has, and what somebody is behind with until it has that too.
#[test]
fn a_live_burst_larger_than_a_queue_is_given_as_its_readers_read() {
    // Less than the ring, so that the burst is there as a whole when it is given.
    let limit = 128 * 1024;
    let mut alone = Alone::with(0, Limits { outbound_limit_bytes: limit, ..Limits::default() });
    let [reader, sender] = [2, 3].map(|user| alone.join(user, "live:a"));
    let text = "x".repeat(16_000);
    let count = 14;
    let publish = |n| json!({"id": 10 + n, "publish": {"channel": "live:a", "data": {"n": n, "text": text}}});
    alone.ask(sender, (0..count).map(publish));
    alone.run_for(1000);
    assert!(alone.widest_queue >= limit, "the burst was too small: {} bytes waited", alone.widest_queue);
    for slot in [reader, sender] {
        let told = alone.hear(slot);
        let numbers: Vec<u64> =
            lines(&told).iter().filter_map(|line| line["push"]["pub"]["data"]["n"].as_u64()).collect();
        assert!(numbers.iter().copied().eq(0..count), "{numbers:?}, {:?}", closes(&told));
    }
}

#[test]
fn who_leaves_and_comes_back_within_a_turn_is_told_once() {
    let mut alone = Alone::new(0);
    let listener = alone.connect(2);
    alone.ask(listener, [json!({"id": 2, "subscribe": {"channel": "live:a", "join_leave": true}})]);
    alone.run_for(5);
    alone.hear(listener);
    let other = alone.join(3, "live:a");
    for id in 0..20 {
        alone.ask(other, [unsubscribe(10 + 2 * id, "live:a"), subscribe(11 + 2 * id, "live:a")]);
        alone.run_for(5);
    }
    let told = lines(&alone.hear(listener));
    let joins: Vec<_> = told.iter().filter(|line| line["push"]["join"].is_object()).collect();
    assert_eq!((told.len(), joins.len()), (1, 1), "{told:?}");
    assert_eq!(joins[0]["push"]["join"]["info"]["user"], "3");
}

// ── deadlines and order ─────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn what_waits_behind_a_store_that_hangs_is_answered_in_time_too() {
    let mut alone = Alone::new(2);
    let slot = alone.join(2, "room:room0");
    alone.hangs = true;
    let begin_ms = alone.now_ms;
    alone.ask(slot, [history(2, "room:room0"), publish(3, "room:room0")]);
    alone.run_for(1);
    alone.ask(slot, [subscribe(4, "room:room1"), subscribe(5, "live:a")]);
    alone.run_for(20_000);
    let told = alone.hear(slot);
    for (id, error) in [(2, Some(100)), (3, Some(100)), (4, Some(100)), (5, None)] {
        let (at_ms, code) = reply_to(&told, id);
        assert_eq!(code, error, "command {id}");
        assert!(at_ms - begin_ms <= 4_100, "command {id} was answered after {} ms", at_ms - begin_ms);
    }
    // The connection goes on when the store does.
    alone.hangs = false;
    alone.run_for(100);
    alone.ask(slot, [history(6, "room:room0"), publish(7, "room:room0"), subscribe(8, "room:room1")]);
    alone.run_for(100);
    let told = alone.hear(slot);
    assert_eq!(replies(&told).into_iter().collect::<BTreeMap<_, _>>(), [(6, None), (7, None), (8, None)].into());
    assert!(closes(&told).is_empty());
}

/// What is missing is asked for, and comes by the usual way before the store answers.
#[test]
fn a_hole_that_has_closed_when_the_store_answers_ends_nobody() {
    let mut alone = Alone::new(1);
    let slot = alone.join(2, "room:room0");
    alone.hear(slot);
    alone.store_messages(0, 2, 10);
    let head = alone.store.head(0);
    alone.hangs = true;
    for offset in [head, head - 1] {
        alone.tell_home(0, offset);
        alone.run_for(10);
    }
    alone.hangs = false;
    alone.run_for(100);
    let told = alone.hear(slot);
    assert!(closes(&told).is_empty(), "{told:?}");
    assert_eq!(lines(&told).len(), 2, "{told:?}");
}

#[test]
fn what_follows_a_refused_publish_is_refused_too() {
    let pending = Limits::default().pending_publishes_limit as u32;
    let mut alone = Alone::new(1);
    let slot = alone.join(2, "room:room0");
    let mut commands: Vec<Value> = (0..pending + 5).map(|n| publish(10 + n, "room:room0")).collect();
    // These two have their turn when there is place again.
    commands.extend([history(500, "room:room0"), publish(501, "room:room0")]);
    alone.ask(slot, commands);
    alone.run_for(50);
    let told = alone.hear(slot);
    for n in 0..pending + 5 {
        let expected = if n < pending { None } else { Some(100) };
        assert_eq!(reply_to(&told, 10 + u64::from(n)).1, expected, "publish {n}");
    }
    let of = |id| reply_to(&told, id).1;
    assert_eq!((of(500), of(501)), (None, Some(100)));
    assert_eq!(alone.store.head(0), u64::from(pending));
    // What was sent with the refusals known is taken again.
    alone.ask(slot, (pending..pending + 5).map(|n| publish(10 + n, "room:room0")));
    alone.run_for(10);
    assert!(replies(&alone.hear(slot)).iter().all(|(_, error)| error.is_none()));
    assert_eq!(alone.store.head(0), u64::from(pending) + 5);
}

// ── the end ─────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_server_that_stops_answers_what_is_under_way_before_the_close_frame() {
    let mut alone = Alone::new(1);
    let slot = alone.join(2, "room:room0");
    let idle = alone.join(4, "room:room0");
    let plain = alone.open("/ws?room=room0&token=3");
    alone.run_for(10);
    assert_eq!(lines(&alone.hear(plain))[0]["type"], "joined");
    alone.ask(slot, [publish(2, "room:room0")]);
    alone.send(plain, Frame::Text("from plain".into()));
    // On their way to the database when the server is told to stop.
    alone.read(slot);
    alone.read(plain);
    alone.shard.drain(alone.now(), &mut alone.host);
    alone.run_for(100);

    let told = alone.hear(slot);
    let (close, before) = told.split_last().unwrap();
    assert_eq!(close.1, Told::Close(3001));
    let reply = lines(before).into_iter().find(|line| line["id"] == 2).unwrap();
    assert!([1, 2].contains(&reply["publish"]["offset"].as_u64().unwrap()), "{reply}");

    let told = alone.hear(plain);
    let (close, before) = told.split_last().unwrap();
    assert_eq!(close.1, Told::Close(1001));
    assert!(lines(before).iter().any(|line| line["text"] == "from plain" && line["user"]["id"] == "3"), "{told:?}");
    assert_eq!(closes(&alone.hear(idle)), [3001]);

    for slot in [slot, idle, plain] {
        alone.send(slot, Frame::Close(1000));
    }
    alone.run_for(10);
    for slot in [slot, idle, plain] {
        assert!(alone.host.cut.contains(&slot));
        alone.shard.vacated(slot);
    }
    assert!(alone.shard.drained());
}

#[test]
fn a_server_that_stops_does_not_wait_for_a_store_that_hangs() {
    let mut alone = Alone::new(1);
    let slot = alone.join(2, "room:room0");
    alone.hangs = true;
    alone.ask(slot, [publish(2, "room:room0"), history(3, "room:room0")]);
    alone.turn();
    alone.shard.drain(alone.now(), &mut alone.host);
    alone.run_for(4_100);
    let told = alone.hear(slot);
    assert_eq!(reply_to(&told, 2).1, Some(100));
    assert_eq!(told.last().unwrap().1, Told::Close(3001));
}

// ── who it is ───────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_refused_connect_is_answered_and_so_is_the_close_of_its_client() {
    let mut alone = Alone::new(0);
    let slot = alone.open("/connection/websocket");
    alone.ask(slot, [json!({"id": 1, "connect": {"token": "expired"}}), subscribe(2, "live:a")]);
    alone.run_for(100);
    let told = alone.hear(slot);
    assert_eq!((replies(&told), told.len()), (vec![(1, Some(109))], 1));
    assert!(!alone.host.cut.contains(&slot), "a close frame could overtake the error");
    alone.send(slot, Frame::Close(1000));
    alone.run_for(10);
    assert_eq!(closes(&alone.hear(slot)), [1000]);
    assert!(alone.host.cut.contains(&slot));

    // One that does not close is cut.
    let slot = alone.open("/connection/websocket");
    alone.ask(slot, [json!({"id": 1, "connect": {"token": "expired"}})]);
    alone.run_for(Limits::default().refused_timeout_ms + 10);
    assert_eq!(replies(&alone.hear(slot)), [(1, Some(109))]);
    assert!(alone.host.cut.contains(&slot));
}

#[test]
fn what_comes_with_a_connect_waits_until_its_user_has_been_looked_up() {
    let mut alone = Alone::new(1);
    alone.store_messages(0, 3, 10);
    let slot = alone.open("/connection/websocket");
    let connect = json!({"id": 1, "connect": {"token": "user2"}});
    let command = json!({"id": 2, "subscribe": {"channel": "room:room0", "recover": true}});
    alone.ask(slot, [connect, command, history(3, "room:room0")]);
    alone.ask(slot, [publish(4, "room:room0")]);
    alone.run_for(50);
    let told = lines(&alone.hear(slot));
    let ids: Vec<_> = told.iter().filter_map(|line| line["id"].as_u64()).collect();
    assert_eq!(ids, [1, 2, 3, 4]);
    assert_eq!(offsets(&told, "room:room0", 2), [1, 2, 3, 4]);
}

#[test]
fn the_first_command_must_be_connect() {
    let ended_with = |target: &str, frame: Frame| {
        let mut alone = Alone::new(0);
        let slot = alone.open(target);
        alone.send(slot, frame);
        alone.run_for(10);
        let told = alone.hear(slot);
        assert_eq!(closes(&told).len(), told.len(), "{told:?}");
        closes(&told)
    };
    let (json, protobuf) = ("/connection/websocket", "/connection/websocket?format=protobuf");
    let text = |text: &str| Frame::Text(text.into());
    assert_eq!(ended_with(json, text(&publish(1, "room:room0").to_string())), [3501]);
    assert_eq!(ended_with(json, text(&subscribe(1, "live:a").to_string())), [3501]);
    assert_eq!(ended_with(json, text("{\"id\":1,\"ping\":{}}")), [3501]);
    assert_eq!(ended_with(json, text("{\"id\":1,\"connect\":")), [3501]);
    assert_eq!(ended_with(json, text("")), [3501]);
    assert_eq!(ended_with(json, text("{\"id\":1,\"connect\":{}}")), [3500]);
    assert_eq!(ended_with(json, text("{\"id\":1,\"connect\":{\"token\":\"wrong\"}}")), [3500]);
    assert_eq!(ended_with(json, Frame::Binary(vec![0])), [3506]);
    assert_eq!(ended_with(protobuf, text("{\"id\":1,\"connect\":{\"token\":\"2\"}}")), [3506]);
    assert_eq!(ended_with(protobuf, Frame::Binary(vec![])), [3501]);
    assert_eq!(ended_with(protobuf, Frame::Binary(vec![9, 1])), [3501]);
    // A pong is ignored, also before.
    assert!(ended_with(json, text("{}")).is_empty());
    assert!(ended_with(protobuf, Frame::Binary(vec![0])).is_empty());
}

/// `{"id":1,"connect":{"token":"2"}}` in Protobuf.
const CONNECT_PROTOBUF: [u8; 8] = [7, 0x08, 1, 0x22, 3, 0x0a, 1, b'2'];

#[test]
fn a_connection_keeps_to_its_encoding() {
    let mut alone = Alone::new(1);
    let slot = alone.connect(2);
    alone.ask(slot, [json!({"id": 2, "connect": {"token": "2"}})]);
    alone.run_for(5);
    assert_eq!(closes(&alone.hear(slot)), [3501], "a second connect");
    let slot = alone.connect(2);
    alone.send(slot, Frame::Binary(vec![0]));
    alone.run_for(5);
    assert_eq!(closes(&alone.hear(slot)), [3506]);

    let slot = alone.open("/connection/websocket?format=protobuf");
    alone.send(slot, Frame::Binary(CONNECT_PROTOBUF.into()));
    alone.run_for(5);
    assert!(matches!(&alone.hear(slot)[..], [(_, Told::Binary(_))]));
    alone.send(slot, Frame::Text("{}".into()));
    alone.run_for(5);
    assert_eq!(closes(&alone.hear(slot)), [3506]);

    let plain = alone.open("/ws?room=room0&token=3");
    alone.run_for(5);
    alone.send(plain, Frame::Binary(vec![0]));
    alone.run_for(5);
    assert_eq!(closes(&alone.hear(plain)), [1003]);
}

#[test]
fn pings_are_answered_and_asked_for_in_both_encodings() {
    let mut alone = Alone::new(0);
    let text = alone.connect(2);
    let binary = alone.open("/connection/websocket?format=protobuf");
    alone.send(binary, Frame::Binary(CONNECT_PROTOBUF.into()));
    alone.run_for(5);
    alone.hear(binary);
    alone.send(text, Frame::Text("{}\n{\"id\":5,\"ping\":{}}\n{}".into()));
    // A pong, and `ping` with the id 5.
    alone.send(binary, Frame::Binary(vec![0, 4, 0x08, 5, 0x5a, 0]));
    alone.run_for(5);
    let said = |alone: &mut Alone, slot| alone.hear(slot).into_iter().map(|(_, told)| told).collect::<Vec<_>>();
    assert_eq!(said(&mut alone, text), [Told::Line("{\"id\":5,\"ping\":{}}".into())]);
    let [Told::Binary(pong)] = &said(&mut alone, binary)[..] else { panic!("no answer") };
    assert_eq!(pong[..3], [4, 0x08, 5]);

    let Limits { ping_interval_ms, pong_timeout_ms, .. } = Limits::default();
    alone.run_for(2 * ping_interval_ms);
    for (slot, ping) in [(text, Told::Line("{}".into())), (binary, Told::Binary(vec![0]))] {
        let told = said(&mut alone, slot);
        assert!((1..=2).contains(&told.len()) && told.iter().all(|told| *told == ping), "{told:?}");
        alone.clients[slot as usize].answers_pings = false;
    }
    alone.run_for(ping_interval_ms + pong_timeout_ms + 10);
    for slot in [text, binary] {
        assert_eq!(closes(&alone.hear(slot)), [3012]);
    }
}
