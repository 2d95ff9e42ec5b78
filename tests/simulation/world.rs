//! The world: shards, lanes, readers, HTTP and clients, stepped by chance.

use crate::client::{Agent, Outbox, Told};
use crate::random::Random;
use crate::sdk::Sdk;
use crate::store::SimStore;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use uproar_core::lane::{BatchResult, Lane, LaneAnswer};
use uproar_core::limits::Limits;
use uproar_core::message::{Answer, Append, Ask, Asker, Caller, Channel, Endpoint, Message, reserved_places};
use uproar_core::websocket::{Event, Request};
use uproar_core::{Host, Now, Refused, Shard, ShardConfig, Slice};
use uproar_model::{Claims, Item, Kind, Offset, Outcome, RoomId, TokenError, UserId};

/// Room indices below this are stored rooms; the last is a `live:` channel.
pub const ROOMS: usize = 4;
const HTTP_CALLS: usize = 4;
pub const BAD_TEXT: &str = "BAD!";

macro_rules! tally {
    ($($name:ident),+ $(,)?) => {
        /// How often what the simulator is there for has happened.
        #[derive(Clone, Copy, Debug, Default)]
        pub struct Tally { $(pub $name: u64,)+ }

        impl Tally {
            pub fn counts(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)+]
            }
        }

        impl std::ops::AddAssign for Tally {
            fn add_assign(&mut self, other: Tally) {
                $(self.$name += other.$name;)+
            }
        }
    };
}

tally! {
    publications, resumed, resumed_with_missed, again, not_known, bad_data, removals, slow_ended, lost, live,
    unknown_commits, zombies, failed_reads, stalled_queues, http_publishes, sdk_publications, recovered,
    recovered_with_missed, unsubscribed, histories, refreshed, expired,
}

/// What a lane's batch in flight will come to.
struct InFlight {
    items: Arc<[Item]>,
    ready_ms: u64,
    /// The database has done it by now.
    commits: bool,
    answers: bool,
}

struct Pending {
    shard: u16,
    asker: Asker,
    ask: Ask,
    ready_ms: u64,
}

/// A client: of the plain protocol or of Centrifugo's, and which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Plain(usize),
    Sdk(usize),
}

/// The transport of one slot.
#[derive(Default)]
pub struct Socket {
    /// Whose it is, and which of their connections.
    client: Option<(Who, u64)>,
    in_flight: Vec<Slice>,
    /// Frames from the client that the shard does not want yet.
    pub inbox: VecDeque<String>,
    is_cut: bool,
    is_used: bool,
}

#[derive(Default)]
struct Io {
    wakes: BTreeSet<u32>,
    cuts: Vec<u32>,
    broken: Option<String>,
}

struct Queue {
    messages: VecDeque<Message>,
    capacity: usize,
}

type Queues = BTreeMap<(Endpoint, Endpoint), Queue>;

pub struct SimHost<'a> {
    own: Endpoint,
    queues: &'a mut Queues,
    io: &'a mut Io,
}

impl Host for SimHost<'_> {
    fn wake(&mut self, slot: u32) {
        self.io.wakes.insert(slot);
    }

    fn cut(&mut self, slot: u32) {
        if self.io.cuts.contains(&slot) {
            self.io.broken = Some(format!("slot {slot} was cut twice"));
        }
        self.io.cuts.push(slot);
    }

    fn note_first(&mut self, _what: Refused, _code: u16) {}

    fn mesh_places(&self, to: Endpoint) -> usize {
        let queue = &self.queues[&(self.own, to)];
        queue.capacity - queue.messages.len()
    }

    fn mesh(&mut self, to: Endpoint, message: Message) {
        let Some(queue) = self.queues.get_mut(&(self.own, to)) else {
            self.io.broken = Some(format!("{:?} has no queue to {to:?} for {message:?}", self.own));
            return;
        };
        if queue.messages.len() == queue.capacity {
            self.io.broken = Some(format!("the queue from {:?} to {to:?} is full for {message:?}", self.own));
            return;
        }
        queue.messages.push_back(message);
    }
}

pub struct World {
    pub random: Random,
    pub now: Now,
    pub limits: Limits,
    shards: Vec<Shard>,
    ios: Vec<Io>,
    pub sockets: Vec<Vec<Socket>>,
    /// The shard's last turn said that there is more.
    pub more: Vec<bool>,
    queues: Queues,
    lanes: Vec<Lane>,
    in_flight: Vec<Option<InFlight>>,
    zombies: Vec<(u64, Arc<[Item]>)>,
    reads: Vec<Pending>,
    pub store: SimStore,
    pub agents: Vec<Agent>,
    pub sdks: Vec<Sdk>,
    /// Appends by HTTP that wait for their answer, by the number of the call.
    http: BTreeMap<u32, Append>,
    http_credits: usize,
    http_calls: u32,
    /// Until when the store does not answer.
    store_down_until_ms: u64,
    /// (room, user, offset of the removal), in the order of their commits.
    pub removals: Vec<(usize, i64, Offset)>,
    /// By shard and room, the last offset that a client there was shown: what it shows from then on is not older.
    pub shown: BTreeMap<(usize, usize), Offset>,
    /// For the test of the simulator: the publication between shards that the mesh loses, counted from now.
    pub loses: Option<u64>,
    looks_at_heads: bool,
    pub are_faults_over: bool,
    pub is_stopping: bool,
    pub tally: Tally,
}

impl World {
    pub fn new(seed: u64) -> World {
        let mut random = Random::new(seed);
        let shards = 1 + random.index(4);
        let lanes = 1 + random.index(2);
        // Without that, a publication that is not shown at once is not shown at all.
        let looks_at_heads = random.one_in(2);
        let small = |random: &mut Random, of: &[u64]| random.pick(of);
        let limits = Limits {
            mesh_calls_limit: small(&mut random, &[1, 2, 3, 8, 64]),
            mesh_publications_limit: small(&mut random, &[1, 2, 5, 64]),
            ring_limit_publications: small(&mut random, &[1, 3, 10, 512]),
            page_limit_publications: small(&mut random, &[1, 2, 7, 256]),
            batch_limit_items: small(&mut random, &[1, 3, 16, 512]),
            lane_limit_items: small(&mut random, &[4, 16, 64, 16_384]),
            pending_publishes_limit: 8,
            sends_per_turn_limit: small(&mut random, &[1, 2, 512]),
            pings_per_turn_limit: small(&mut random, &[1, 512]),
            outbound_limit_bytes: small(&mut random, &[700, 4_000, 1_000_000]),
            page_limit_bytes: small(&mut random, &[200, 400, 100_000]),
            held_limit_publications: small(&mut random, &[1, 4, 4096]),
            room_idle_ms: small(&mut random, &[0, 50, 60_000]),
            ping_interval_ms: if looks_at_heads { 2_000 } else { 600_000 },
            pong_timeout_ms: 1_500,
            append_deadline_ms: 400,
            command_deadline_ms: 500,
            refused_timeout_ms: 200,
            expired_grace_ms: 1_000,
            join_leave_limit: small(&mut random, &[0, 3, 100]),
            online_interval_ms: 100,
            gap_deadline_ms: 700,
            handshake_timeout_ms: 3_000,
            write_timeout_ms: 2_000,
            close_timeout_ms: 300,
            publish_rate_per_second: 0,
            subscribe_burst_limit: 100_000,
            ..Limits::default()
        };
        let config = ShardConfig {
            id: 0,
            shards: shards as u16,
            lanes: lanes as u16,
            limits: limits.clone(),
            verify: Arc::new(|token, now_s| {
                let (user, expires_at) = token.split_once('.').unwrap_or((token, "1700000000000000"));
                let user = user.parse().expect("the simulator's tokens begin with a user's id");
                let expires_at = expires_at.parse().expect("and end with their time");
                if expires_at <= now_s {
                    return Err(TokenError::Expired);
                }
                Ok(Claims {
                    user: Some(UserId(user)),
                    username: format!("user{user}").into(),
                    generation: Some(0),
                    issued_at: 0,
                    expires_at,
                })
            }),
            echo: false,
            query_token: true,
            allow_origin: Arc::new(|_, _| false),
            seed,
            revocations: Vec::new(),
        };
        let mut queues = Queues::new();
        let calls = limits.mesh_calls_limit as usize;
        let lane_calls = uproar_core::lane_calls_limit(&limits, shards as u16) as usize;
        let mut queue = |from, to, capacity| {
            queues.insert((from, to), Queue { messages: VecDeque::new(), capacity });
        };
        for a in 0..shards as u16 {
            let shard = Endpoint::Shard(a);
            for b in (0..shards as u16).filter(|b| *b != a) {
                queue(
                    shard,
                    Endpoint::Shard(b),
                    reserved_places(limits.mesh_calls_limit) + limits.mesh_publications_limit as usize,
                );
            }
            for lane in (0..lanes as u16).map(Endpoint::Lane) {
                queue(shard, lane, lane_calls);
                queue(lane, shard, 2 * lane_calls);
            }
            queue(shard, Endpoint::Reader, calls);
            queue(Endpoint::Reader, shard, calls);
            queue(shard, Endpoint::Http, 2 * HTTP_CALLS);
            queue(Endpoint::Http, shard, HTTP_CALLS);
        }
        let mut store = SimStore::new(ROOMS - 1);
        let users = 6 + random.below(6);
        let agents: Vec<Agent> = (0..users)
            .map(|number| Agent::new(store.add_user(&format!("user{number}")), random.index(ROOMS)))
            .collect();
        let sdks = (0..2 + random.below(4)).map(|n| Sdk::new(store.add_user(&format!("sdk{n}")))).collect();
        World {
            sdks,
            now: Now { ms: 1_000, unix_ms: 1_700_000_000_000 },
            shards: (0..shards as u16).map(|id| Shard::new(ShardConfig { id, ..config.clone() })).collect(),
            ios: (0..shards).map(|_| Io::default()).collect(),
            sockets: (0..shards).map(|_| Vec::new()).collect(),
            more: vec![false; shards],
            queues,
            lanes: (0..lanes).map(|_| Lane::new(limits.clone())).collect(),
            in_flight: (0..lanes).map(|_| None).collect(),
            zombies: Vec::new(),
            reads: Vec::new(),
            store,
            agents,
            http: BTreeMap::new(),
            http_credits: limits.mesh_calls_limit.min(HTTP_CALLS as u64) as usize,
            http_calls: 0,
            store_down_until_ms: 0,
            removals: Vec::new(),
            shown: BTreeMap::new(),
            loses: None,
            looks_at_heads,
            are_faults_over: false,
            is_stopping: false,
            tally: Tally::default(),
            limits,
            random,
        }
    }

    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// One step of somebody.
    pub fn step(&mut self) -> Result<(), String> {
        match self.random.below(20) {
            0..=5 => {
                let shard = self.random.index(self.shards.len());
                self.shard_step(shard)?;
            }
            6..=8 => {
                let lane = self.random.index(self.lanes.len());
                self.lane_step(lane);
            }
            9 | 10 => self.reader_step(),
            11 => self.http_step(),
            12..=14 => self.agent_step()?,
            15..=17 => self.network_step()?,
            18 => self.vacate_step(),
            _ => self.time_step(),
        }
        self.check()
    }

    /// Nothing fails any more: everybody must get everything, and then be sent away in order.
    pub fn settle(&mut self) -> Result<(), String> {
        self.are_faults_over = true;
        self.store_down_until_ms = 0;
        for agent in &mut self.agents {
            agent.stopped_reading = false;
        }
        for sdk in &mut self.sdks {
            sdk.stopped_reading = false;
        }
        for _ in 0..3_000 {
            self.everybody_steps()?;
            if self.unsettled().is_none() {
                break;
            }
        }
        if let Some(what) = self.unsettled() {
            return Err(format!("not settled: {what}"));
        }
        self.check_orders()?;
        self.is_stopping = true;
        for shard in 0..self.shards.len() {
            let (shard, mut host) = self.shard_and_host(shard);
            let now = shard.1;
            shard.0.drain(now, &mut host);
        }
        for _ in 0..300 {
            self.everybody_steps()?;
            if self.shards.iter().all(Shard::drained) {
                return Ok(());
            }
        }
        Err("not drained".into())
    }

    fn everybody_steps(&mut self) -> Result<(), String> {
        for shard in 0..self.shards.len() {
            self.shard_step(shard)?;
        }
        for lane in 0..self.lanes.len() {
            self.lane_step(lane);
        }
        self.reader_step();
        self.http_step();
        for agent in 0..self.agents.len() {
            self.one_agent(agent)?;
        }
        for sdk in 0..self.sdks.len() {
            self.one_sdk(sdk)?;
        }
        for _ in 0..20 {
            self.network_step()?;
        }
        self.vacate_step();
        self.pass(10);
        self.check()
    }

    fn unsettled(&self) -> Option<String> {
        if let Some((user, ..)) = self.zombies.first() {
            return Some(format!("a zombie of {user}"));
        }
        for agent in &self.agents {
            let user = agent.user;
            if !agent.stream.joined {
                let (refused, closed) = (agent.stream.is_refused, agent.stream.closed_with);
                return Some(format!(
                    "user {user} is not in: at {:?}, refused {refused:?}, closed {closed:?}",
                    agent.at
                ));
            }
            if let Some((id, _)) = agent.outbox.unresolved.front() {
                return Some(format!("user {user}'s message {id} is not resolved; sent {:?}", agent.outbox.sent));
            }
            if agent.room < ROOMS - 1 {
                let head = self.store.head(agent.room);
                let position = agent.position.as_ref().map(|(_, offset)| *offset);
                if position != Some(head) {
                    return Some(format!("user {user} in room {} is at {position:?}, not at {head}", agent.room));
                }
            }
        }
        if let Some(what) = self.sdks.iter().find_map(|sdk| self.sdk_unsettled(sdk)) {
            return Some(what);
        }
        self.lanes.iter().any(|lane| !lane.is_idle()).then(|| "a lane is not idle".into())
    }

    /// Contract 2: what one sender sent, retried in order, stands in the order sent.
    fn check_orders(&self) -> Result<(), String> {
        let plain = self.agents.iter().map(|agent| (agent.user, &agent.outbox));
        let sdks = self.sdks.iter().flat_map(|sdk| sdk.channels.iter().map(|channel| (sdk.user, &channel.outbox)));
        for (user, Outbox { order, stored, .. }) in plain.chain(sdks) {
            let mut last = 0;
            for id in order {
                let Some(&offset) = stored.get(id) else { continue };
                if offset < last {
                    return Err(format!("user {user}'s message {id} at {offset} stands before an earlier one"));
                }
                last = offset;
            }
        }
        Ok(())
    }

    /// What must hold after every step.
    fn check(&mut self) -> Result<(), String> {
        for (id, io) in self.ios.iter_mut().enumerate() {
            if let Some(broken) = io.broken.take() {
                return Err(format!("shard {id}: {broken}"));
            }
        }
        for (id, shard) in self.shards.iter().enumerate() {
            let widest = shard.widest_queue_bytes();
            // One buffer may go past the limit, and the close frame behind it.
            let bound = self.limits.outbound_limit_bytes + self.limits.page_limit_bytes + 8_192;
            if widest > bound {
                return Err(format!("shard {id}: a connection has {widest} bytes waiting, more than {bound}"));
            }
        }
        Ok(())
    }

    // ── time ────────────────────────────────────────────────────────────────────────────────────────────────────────

    fn pass(&mut self, ms: u64) {
        self.now.ms += ms;
        self.now.unix_ms += ms;
    }

    fn time_step(&mut self) {
        let ms = match self.random.below(30) {
            0 => 500 + self.random.below(2_000),
            1..=5 => 50 + self.random.below(100),
            _ => self.random.below(5),
        };
        self.pass(ms);
        if self.random.one_in(60) {
            self.store_down_until_ms = self.now.ms + self.random.below(1_500);
        }
    }

    // ── shards ──────────────────────────────────────────────────────────────────────────────────────────────────────

    pub fn shard_and_host(&mut self, id: usize) -> ((&mut Shard, Now), SimHost<'_>) {
        let own = Endpoint::Shard(id as u16);
        let host = SimHost { own, queues: &mut self.queues, io: &mut self.ios[id] };
        ((&mut self.shards[id], self.now), host)
    }

    /// A turn of a shard's loop: messages, the turn, the sends. Only when a driver would wake up for it.
    fn shard_step(&mut self, id: usize) -> Result<(), String> {
        let own = Endpoint::Shard(id as u16);
        let from: Vec<Endpoint> = self
            .queues
            .iter()
            .filter(|((_, to), q)| *to == own && !q.messages.is_empty())
            .map(|((f, _), _)| *f)
            .collect();
        let is_due = self.shards[id].deadline().is_some_and(|at| at <= self.now.ms);
        if from.is_empty() && !is_due && !self.more[id] && self.ios[id].wakes.is_empty() {
            return Ok(());
        }
        for from in from {
            let available = self.queues[&(from, own)].messages.len() as u64;
            let count = if self.are_faults_over { available } else { self.random.below(available + 1) };
            for _ in 0..count {
                let message = self.queues.get_mut(&(from, own)).and_then(|q| q.messages.pop_front());
                let Some(message) = message else { break };
                if matches!(message, Message::Run { .. }) && self.is_lost() {
                    continue;
                }
                if matches!(message, Message::Lost { .. }) {
                    self.tally.lost += 1;
                }
                let ((shard, now), mut host) = self.shard_and_host(id);
                shard.mesh(now, from, message, &mut host);
            }
        }
        self.turn(id);
        Ok(())
    }

    /// Whether the publication that comes now is the one that is lost.
    fn is_lost(&mut self) -> bool {
        self.loses = self.loses.and_then(|left| left.checked_sub(1));
        self.loses == Some(0)
    }

    fn turn(&mut self, id: usize) {
        let ((shard, now), mut host) = self.shard_and_host(id);
        let more = shard.turn(now, &mut host);
        self.more[id] = more;
        if self.queues.iter().any(|((from, to), q)| {
            matches!((from, to), (Endpoint::Shard(_), Endpoint::Shard(_)))
                && q.capacity - q.messages.len() <= reserved_places(self.limits.mesh_calls_limit)
        }) {
            self.tally.stalled_queues += 1;
        }
        for slot in std::mem::take(&mut self.ios[id].wakes) {
            self.go_on(id, slot);
        }
        self.shards[id].turned();
        for slot in std::mem::take(&mut self.ios[id].cuts) {
            let socket = &mut self.sockets[id][slot as usize];
            socket.is_cut = true;
            if let Some((who, attempt)) = socket.client
                && self.attempt_of(who) == attempt
            {
                self.disconnected(who);
            }
        }
    }

    /// What a driver does for a slot that was woken: reads on, and sends if no send is in flight.
    pub fn go_on(&mut self, id: usize, slot: u32) {
        loop {
            if self.sockets[id][slot as usize].is_cut || !self.shards[id].wants_input(slot) {
                break;
            }
            let Some(text) = self.sockets[id][slot as usize].inbox.pop_front() else { break };
            self.frame(id, slot, Event::Text(&text));
        }
        let socket = &mut self.sockets[id][slot as usize];
        if socket.in_flight.is_empty() && !socket.is_cut {
            self.shards[id].outgoing(slot, &mut socket.in_flight);
        }
    }

    fn frame(&mut self, id: usize, slot: u32, event: Event<'_>) {
        let ((shard, now), mut host) = self.shard_and_host(id);
        shard.frame(now, slot, event, &mut host);
        self.more[id] = true;
    }

    /// The last operation of a cut socket comes back, and its slot is free for the next at once.
    fn vacate_step(&mut self) {
        for id in 0..self.shards.len() {
            for slot in 0..self.sockets[id].len() {
                let socket = &self.sockets[id][slot];
                if socket.is_used && socket.is_cut && (self.are_faults_over || self.random.one_in(2)) {
                    self.sockets[id][slot] = Socket::default();
                    self.shards[id].vacated(slot as u32);
                }
            }
        }
    }

    // ── lanes and readers ───────────────────────────────────────────────────────────────────────────────────────────

    fn lane_step(&mut self, id: usize) {
        let own = Endpoint::Lane(id as u16);
        let mut answers: Vec<LaneAnswer> = Vec::new();
        for shard in 0..self.shards.len() as u16 {
            let count = if self.are_faults_over { u64::MAX } else { self.random.below(20) };
            for _ in 0..count {
                let queue = self.queues.get_mut(&(Endpoint::Shard(shard), own)).expect("a queue to each lane");
                let Some(message) = queue.messages.pop_front() else { break };
                let Message::Commit(append) = message else { panic!("a lane got {message:?}") };
                self.lanes[id].receive(self.now.ms, append, &mut answers);
            }
        }
        self.lanes[id].tick(self.now.ms, &mut answers);
        if let Some(flight) = self.in_flight[id].take_if(|flight| flight.ready_ms <= self.now.ms) {
            let result = self.batch_result(&flight);
            self.lanes[id].finished(self.now.ms, result, &mut answers);
        }
        if self.in_flight[id].is_none()
            && let Some(items) = self.lanes[id].next_batch(self.now.ms)
        {
            let is_down = self.now.ms < self.store_down_until_ms;
            let fate = if self.are_faults_over { 9 } else { self.random.below(12) };
            let (commits, answers) = match fate {
                _ if is_down => (self.random.one_in(2), false),
                0 => (false, false),
                1 => (true, false),
                2 if self.looks_at_heads => {
                    // Given up, and committed long after, perhaps after its own retry.
                    self.tally.zombies += 1;
                    self.zombies.push((self.now.ms + self.random.below(600), Arc::clone(&items)));
                    (false, false)
                }
                _ => (true, true),
            };
            let slow = if self.random.one_in(20) { 700 } else { 8 };
            let ready_ms = self.now.ms + self.random.below(slow);
            self.in_flight[id] = Some(InFlight { items, ready_ms, commits, answers });
        }
        for answer in answers {
            let Endpoint::Shard(home) = self.home_of_room(answer.append.item.room) else { continue };
            let queue = self.queues.get_mut(&(own, Endpoint::Shard(home))).expect("a queue from each lane");
            assert!(queue.messages.len() < queue.capacity, "a lane's answer found no place");
            queue.messages.push_back(Message::Committed(Box::new(answer)));
        }
        let due: Vec<Arc<[Item]>> = {
            let now_ms = self.now.ms;
            let (due, later) = std::mem::take(&mut self.zombies).into_iter().partition(|(at, _)| *at <= now_ms);
            self.zombies = later;
            let due: Vec<(u64, Arc<[Item]>)> = due;
            due.into_iter().map(|(_, items)| items).collect()
        };
        for items in due {
            if !items.iter().any(is_bad) {
                self.store.append(self.now.unix_ms, &items);
            }
        }
    }

    fn batch_result(&mut self, flight: &InFlight) -> BatchResult {
        if flight.items.iter().any(is_bad) {
            return match flight.answers {
                true => {
                    self.tally.bad_data += 1;
                    BatchResult::BadData
                }
                false => BatchResult::NotKnown,
            };
        }
        let outcomes = flight.commits.then(|| self.store.append(self.now.unix_ms, &flight.items));
        match (outcomes, flight.answers) {
            (Some(outcomes), true) => {
                self.tally.again += outcomes.iter().filter(|o| matches!(o, Outcome::Duplicate(_))).count() as u64;
                BatchResult::Answered(outcomes)
            }
            (Some(_), false) => {
                self.tally.unknown_commits += 1;
                BatchResult::NotKnown
            }
            (None, _) => BatchResult::NotKnown,
        }
    }

    fn home_of_room(&self, room: RoomId) -> Endpoint {
        Endpoint::Shard(self.shards[0].home_shard(&Channel::Room(room)))
    }

    fn reader_step(&mut self) {
        for shard in 0..self.shards.len() as u16 {
            let queue =
                self.queues.get_mut(&(Endpoint::Shard(shard), Endpoint::Reader)).expect("a queue to the reader");
            while let Some(message) = queue.messages.pop_front() {
                let Message::Ask { asker, ask } = message else { panic!("the reader got {message:?}") };
                let slow = if self.random.one_in(20) { 500 } else { 6 };
                let ready_ms = self.now.ms + self.random.below(slow);
                self.reads.push(Pending { shard, asker, ask, ready_ms });
            }
        }
        let now_ms = self.now.ms;
        let (mut due, later): (Vec<Pending>, Vec<Pending>) =
            std::mem::take(&mut self.reads).into_iter().partition(|p| p.ready_ms <= now_ms);
        self.reads = later;
        while !due.is_empty() {
            let Pending { shard, asker, ask, .. } = due.swap_remove(self.random.index(due.len()));
            let is_down = now_ms < self.store_down_until_ms || !self.are_faults_over && self.random.one_in(25);
            let answer = if is_down {
                self.tally.failed_reads += 1;
                Answer::Failed
            } else {
                match ask {
                    Ask::Admit { room, user } => {
                        self.admitted(user.0, &room);
                        Answer::Admitted(self.store.admit(self.now.unix_ms, &room, user))
                    }
                    Ask::User { .. } => panic!("the simulator's tokens name their users"),
                    Ask::MarkRead { .. } | Ask::Rooms { .. } => panic!("no client of the simulator asks this"),
                    Ask::Head { room } => Answer::Head(self.store.head_of(room)),
                    Ask::Page { room, request } => Answer::Page(self.store.page(room, request).map(Arc::new)),
                }
            };
            let to = Endpoint::Shard(shard);
            let queue = self.queues.get_mut(&(Endpoint::Reader, to)).expect("a queue from the reader");
            assert!(queue.messages.len() < queue.capacity, "an answer found no place");
            queue.messages.push_back(Message::Answer { asker, answer });
        }
    }

    // ── HTTP ────────────────────────────────────────────────────────────────────────────────────────────────────────

    fn http_step(&mut self) {
        for shard in 0..self.shards.len() as u16 {
            let queue = self.queues.get_mut(&(Endpoint::Shard(shard), Endpoint::Http)).expect("a queue to http");
            while let Some(message) = queue.messages.pop_front() {
                match message {
                    Message::Appended { caller, result, is_last, .. } => {
                        self.http_credits += usize::from(is_last);
                        let append = self.http.remove(&caller.slot).expect("an answer to a call that was made");
                        if let Ok(Outcome::New(stored) | Outcome::Duplicate(stored)) = result {
                            self.tally.http_publishes += 1;
                            let row = self.store.row(append.item.room, stored.offset);
                            assert!(row.is_some_and(|row| row.id == append.item.id), "HTTP was told an offset in vain");
                        }
                    }
                    Message::Taken => self.http_credits += 1,
                    other => panic!("http got {other:?}"),
                }
            }
        }
        if self.are_faults_over || !self.random.one_in(3) {
            return;
        }
        if self.http_credits == 0 {
            return;
        }
        let client = self.random.index(self.agents.len() + self.sdks.len());
        let user = match client.checked_sub(self.agents.len()) {
            None => self.agents[client].user,
            Some(sdk) => self.sdks[sdk].user,
        };
        let room = self.random.index(ROOMS - 1);
        let room_id = self.store.room_id(room);
        let home = self.home_of_room(room_id);
        let message = if self.random.one_in(4) {
            let Some(publication) = self.store.remove(self.now.unix_ms, room, user) else { return };
            self.tally.removals += 1;
            self.removals.push((room, user, publication.offset));
            Message::Learn { room: room_id, publication: Box::new(publication) }
        } else {
            let append = self.http_append(room_id, user);
            self.http.insert(append.caller.slot, append.clone());
            Message::Append(Box::new(append))
        };
        self.http_credits -= 1;
        let queue = self.queues.get_mut(&(Endpoint::Http, home)).expect("a queue from http");
        queue.messages.push_back(message);
    }

    fn http_append(&mut self, room: RoomId, user: i64) -> Append {
        self.http_calls += 1;
        let slot = self.http_calls;
        Append {
            caller: Caller { endpoint: Endpoint::Http, slot, generation: 0, serial: 0 },
            era: 0,
            deadline_ms: self.now.ms + self.limits.append_deadline_ms,
            item: Item {
                room,
                user: UserId(user),
                id: format!("http{slot}").into(),
                kind: Kind::Message,
                target: None,
                body: Some("by http".into()),
            },
            username: format!("user{user}").into(),
        }
    }

    // ── clients ─────────────────────────────────────────────────────────────────────────────────────────────────────

    fn agent_step(&mut self) -> Result<(), String> {
        let client = self.random.index(self.agents.len() + self.sdks.len());
        match client.checked_sub(self.agents.len()) {
            None => self.one_agent(client),
            Some(sdk) => self.one_sdk(sdk),
        }
    }

    fn one_agent(&mut self, index: usize) -> Result<(), String> {
        let Some((shard, slot)) = self.agents[index].at else {
            if !self.is_stopping && (self.are_faults_over || self.random.one_in(2)) {
                self.connect(index);
            }
            return Ok(());
        };
        let agent = &mut self.agents[index];
        if agent.stream.is_refused.is_some() || agent.stream.closed_with.is_some() {
            self.hang_up(Who::Plain(index), shard, slot);
            return Ok(());
        }
        if !self.are_faults_over {
            match self.random.below(40) {
                0 | 1 => {
                    self.hang_up(Who::Plain(index), shard, slot);
                    return Ok(());
                }
                2 => agent.stopped_reading = true,
                3..=8 => agent.stopped_reading = false,
                _ => {}
            }
        }
        let agent = &mut self.agents[index];
        if !agent.stream.joined || !agent.outbox.sent.is_empty() {
            return Ok(());
        }
        // What is not resolved comes first, in its order; only then something new.
        if agent.outbox.unresolved.is_empty() && !self.are_faults_over && self.random.one_in(2) {
            for _ in 0..1 + self.random.below(4) {
                let agent = &mut self.agents[index];
                agent.outbox.ids += 1;
                let id = format!("{}-{}", agent.user, agent.outbox.ids);
                let text = match self.random.below(30) {
                    0 if agent.room < ROOMS - 1 => BAD_TEXT.to_owned(),
                    1 | 2 => format!("{id} {}", "x".repeat(200)),
                    _ => id.clone(),
                };
                agent.outbox.order.push(id.clone());
                agent.outbox.unresolved.push_back((id, text));
            }
        }
        let agent = &mut self.agents[index];
        let is_live = agent.room == ROOMS - 1;
        let messages: Vec<(String, String)> = agent.outbox.unresolved.iter().take(8).cloned().collect();
        for (id, text) in messages {
            let attempt = self.agents[index].attempt;
            let frame = if is_live {
                // Nothing tells a sender of a live: channel that its message went out but the message itself.
                self.agents[index].outbox.unresolved.clear();
                format!("{} {attempt} {}", self.agents[index].user, id.rsplit('-').next().unwrap_or_default())
            } else {
                self.agents[index].outbox.sent.push(id.clone());
                serde_json::json!({"text": text, "id": id}).to_string()
            };
            self.sockets[shard][slot as usize].inbox.push_back(frame);
        }
        self.go_on(shard, slot);
        Ok(())
    }

    fn attempt_of(&self, who: Who) -> u64 {
        match who {
            Who::Plain(index) => self.agents[index].attempt,
            Who::Sdk(index) => self.sdks[index].attempt,
        }
    }

    fn at(&self, who: Who) -> Option<(usize, u32)> {
        match who {
            Who::Plain(index) => self.agents[index].at,
            Who::Sdk(index) => self.sdks[index].at,
        }
    }

    fn reads(&self, who: Who) -> bool {
        match who {
            Who::Plain(index) => !self.agents[index].stopped_reading,
            Who::Sdk(index) => !self.sdks[index].stopped_reading,
        }
    }

    /// A client's connection is over. What it had under way when it was removed may have been refused, and be stored
    /// when it is sent again by a member: in no order.
    fn disconnected(&mut self, who: Who) {
        let removals = &self.removals;
        match who {
            Who::Plain(index) => {
                let agent = &mut self.agents[index];
                agent.outbox.forget_order_if(was_removed(removals, agent.user, agent.room, agent.removals_seen));
                agent.disconnected();
            }
            Who::Sdk(index) => {
                let sdk = &mut self.sdks[index];
                for channel in &mut sdk.channels {
                    let Some(room) = channel.room else { continue };
                    channel.outbox.forget_order_if(was_removed(removals, sdk.user, room, channel.removals_seen));
                }
                sdk.disconnected();
            }
        }
    }

    /// A user is about to be let into a room: removals before that do not count any more.
    fn admitted(&mut self, user: i64, name: &str) {
        let removals = &self.removals;
        let room = name.strip_prefix("room").and_then(|room| room.parse().ok()).expect("a room of this world");
        if let Some(agent) = self.agents.iter_mut().find(|agent| agent.user == user) {
            agent.outbox.forget_order_if(was_removed(removals, user, room, agent.removals_seen));
            agent.removals_seen = removals.len();
        }
        let sdk = self.sdks.iter_mut().find(|sdk| sdk.user == user);
        if let Some(channel) = sdk.and_then(|sdk| sdk.channels.iter_mut().find(|c| c.room == Some(room))) {
            channel.outbox.forget_order_if(was_removed(removals, user, room, channel.removals_seen));
            channel.removals_seen = removals.len();
        }
    }

    /// A new connection of a client, on any shard.
    pub fn open_socket(&mut self, who: Who) -> (usize, u32) {
        let id = self.random.index(self.shards.len());
        let ((shard, now), mut host) = self.shard_and_host(id);
        let slot = shard.opened(now, &mut host);
        if self.sockets[id].len() <= slot as usize {
            self.sockets[id].resize_with(slot as usize + 1, Socket::default);
        }
        self.disconnected(who);
        let attempt = match who {
            Who::Plain(index) => {
                let agent = &mut self.agents[index];
                agent.attempt += 1;
                agent.at = Some((id, slot));
                agent.attempt
            }
            Who::Sdk(index) => {
                let sdk = &mut self.sdks[index];
                sdk.attempt += 1;
                sdk.at = Some((id, slot));
                sdk.attempt
            }
        };
        self.sockets[id][slot as usize] = Socket { client: Some((who, attempt)), is_used: true, ..Socket::default() };
        (id, slot)
    }

    fn connect(&mut self, index: usize) {
        if self.random.one_in(30) && self.agents[index].outbox.unresolved.is_empty() && !self.are_faults_over {
            // Somewhere else, for good: what it knew of the old room is not needed any more.
            self.agents[index].room = self.random.index(ROOMS);
            self.agents[index].position = None;
            self.agents[index].outbox.order.clear();
        }
        let (id, slot) = self.open_socket(Who::Plain(index));
        let agent = &mut self.agents[index];
        let mut query = match agent.room {
            room if room == ROOMS - 1 => "room=live:all".to_owned(),
            room => format!("room=room{room}&format=json"),
        };
        if let Some((epoch, offset)) = &agent.position
            && agent.room < ROOMS - 1
        {
            query.push_str(&format!("&since={offset}&epoch={epoch}"));
        }
        query.push_str(&format!("&token={}", agent.user));
        agent.replay_from = self.shown.get(&(id, agent.room)).copied().unwrap_or(0);
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        let request = Request { peer, path: "/ws".into(), query, ..Request::default() };
        let ((shard, now), mut host) = self.shard_and_host(id);
        shard.requested(now, slot, request, &mut host);
        self.more[id] = true;
    }

    pub fn hang_up(&mut self, who: Who, id: usize, slot: u32) {
        self.disconnected(who);
        self.sockets[id][slot as usize].client = None;
        if !self.sockets[id][slot as usize].is_cut {
            let ((shard, now), mut host) = self.shard_and_host(id);
            shard.hung_up(now, slot, &mut host);
            self.more[id] = true;
        }
    }

    /// A send in flight gets on, by any number of bytes.
    fn network_step(&mut self) -> Result<(), String> {
        let mut ready = Vec::new();
        for (id, sockets) in self.sockets.iter().enumerate() {
            for (slot, socket) in sockets.iter().enumerate() {
                let reads = socket.client.is_none_or(|(who, _)| self.reads(who));
                if !socket.in_flight.is_empty() && !socket.is_cut && reads {
                    ready.push((id, slot));
                }
            }
        }
        if ready.is_empty() {
            return Ok(());
        }
        let (id, slot) = ready[self.random.index(ready.len())];
        let in_flight = std::mem::take(&mut self.sockets[id][slot].in_flight);
        let bytes: Vec<u8> = in_flight.iter().flat_map(|slice| slice.iter().copied()).collect();
        let count = if self.are_faults_over || self.random.one_in(2) {
            bytes.len()
        } else {
            1 + self.random.index(bytes.len())
        };
        let client = self.sockets[id][slot].client;
        {
            let ((shard, now), mut host) = self.shard_and_host(id);
            shard.sent(now, slot as u32, count, &mut host);
        }
        self.more[id] = true;
        if let Some((who, attempt)) = client
            && self.attempt_of(who) == attempt
            && self.at(who) == Some((id, slot as u32))
        {
            let told = match who {
                Who::Plain(index) => self.agents[index].stream.take(&bytes[..count])?,
                Who::Sdk(index) => self.sdks[index].stream.take(&bytes[..count])?,
            };
            for told in told {
                self.told(who, id, slot as u32, told)?;
            }
            // In the middle of what one send holds, to come back for the rest.
            if count < bytes.len() && self.at(who) == Some((id, slot as u32)) && self.random.one_in(8) {
                self.hang_up(who, id, slot as u32);
            }
        }
        Ok(())
    }

    fn told(&mut self, who: Who, id: usize, slot: u32, told: Told) -> Result<(), String> {
        match (who, told) {
            (Who::Plain(_), Told::Refused(503)) => Ok(()),
            (_, Told::Refused(status)) => Err(format!("{who:?} was refused with {status}")),
            (_, Told::Ping) => {
                self.frame(id, slot, Event::Pong(b""));
                Ok(())
            }
            (Who::Sdk(index), Told::Close(code)) => self.sdk_closed(index, code),
            (Who::Plain(index), Told::Close(code)) => {
                match code {
                    3008 => self.tally.slow_ended += 1,
                    1001 | 3010 | 3012 | 3503 => {}
                    other => return Err(format!("user {} was ended with {other}", self.agents[index].user)),
                }
                Ok(())
            }
            (Who::Sdk(index), Told::Text(text)) => self.sdk_told(index, id, slot, &text),
            (Who::Plain(index), Told::Text(text)) => {
                let user = self.agents[index].user;
                let event: Value = serde_json::from_str(&text).map_err(|error| format!("{error} in {text:?}"))?;
                self.event(index, &event).map_err(|broken| format!("user {user} was told {event}: {broken}"))
            }
        }
    }

    fn event(&mut self, index: usize, event: &Value) -> Result<(), String> {
        let agent = &mut self.agents[index];
        let number = |name: &str| event[name].as_u64().ok_or(format!("no {name}"));
        let kind = event["type"].as_str().ok_or("no type")?;
        if kind == "joined" {
            if std::mem::replace(&mut agent.stream.joined, true) {
                return Err("joined twice".into());
            }
            if agent.room == ROOMS - 1 {
                return Ok(());
            }
            let (epoch, offset) = (event["epoch"].as_str().ok_or("no epoch")?.to_owned(), number("offset")?);
            if let Some((known_epoch, known_offset)) = &agent.position {
                if event["recovered"] != true || *known_epoch != epoch || *known_offset != offset {
                    return Err(format!("it asked to go on from {known_offset} of {known_epoch}"));
                }
                self.tally.resumed += 1;
                if offset < self.store.head(agent.room) {
                    self.tally.resumed_with_missed += 1;
                }
            } else if offset > self.store.head(agent.room) {
                return Err("a position that is not committed".into());
            }
            agent.position = Some((epoch, offset));
            return Ok(());
        }
        if !agent.stream.joined {
            return Err("something before joined".into());
        }
        match kind {
            "live" => {
                let text = event["data"].as_str().ok_or("no data")?;
                let mut parts = text.split(' ').filter_map(|part| part.parse::<u64>().ok());
                let (Some(sender), Some(attempt), Some(number)) = (parts.next(), parts.next(), parts.next()) else {
                    return Err("not a message of this world".into());
                };
                // Of one connection: each once, in order, none left out but what was refused for want of credits.
                let seen = agent.live_seen.insert((sender as i64, attempt), number);
                let may_be_refused = self.limits.mesh_calls_limit < 64;
                if seen.is_some_and(|seen| number <= seen || number != seen + 1 && !may_be_refused) {
                    return Err(format!("it had seen {seen:?} of this sender's connection"));
                }
                self.tally.live += 1;
                Ok(())
            }
            "message" | "removed" | "edit" | "delete" | "react" | "unreact" => {
                let offset = number("offset")?;
                let (_, position) = agent.position.as_mut().ok_or("a publication without a position")?;
                if offset != *position + 1 {
                    return Err(format!("it is at {position}: a gap, a duplicate or disorder"));
                }
                *position = offset;
                let room = agent.room;
                let room_id = self.store.room_id(room);
                let row = self.store.row(room_id, offset).ok_or("it is not committed")?;
                let of_kind = match row.kind {
                    Kind::Message => "message",
                    Kind::Edit => "edit",
                    Kind::Delete => "delete",
                    Kind::React => "react",
                    Kind::Unreact => "unreact",
                    Kind::Removed => "removed",
                    Kind::RoomChanged => "room",
                };
                let same = event["user"]["id"].as_str() == Some(&row.user.id.to_string())
                    && kind == of_kind
                    && self.store.shows(room_id, &row, agent.replay_from, event["text"].as_str())
                    && self.store.is_edited_at(room_id, &row, event["edited"].as_u64(), event["text"].as_str())
                    && (event["deleted"] == true)
                        == (matches!(row.kind, Kind::Message | Kind::Edit) && event["text"].is_null())
                    && event["target"].as_u64() == row.target.filter(|_| row.kind != Kind::Message)
                    && event["id"].as_str() == Some(&*row.id).filter(|id| !id.starts_with('~'));
                if !same {
                    return Err(format!("the store has {row:?}"));
                }
                let removed = self.removals[agent.removals_seen..]
                    .iter()
                    .find(|(r, u, at)| *r == room && *u == agent.user && *at < offset);
                if let Some((_, _, at)) = removed {
                    return Err(format!("it was removed at {at}, after it was let in"));
                }
                self.tally.publications += 1;
                if let Some((shard, _)) = agent.at {
                    self.shown.entry((shard, room)).and_modify(|shown| *shown = offset.max(*shown)).or_insert(offset);
                }
                if kind == "message" && row.user.id.0 == agent.user {
                    let id = row.id.to_string();
                    agent.outbox.resolve(&id, offset)?;
                }
                Ok(())
            }
            "ack" => {
                let (id, offset) = (event["id"].as_str().ok_or("no id")?, number("offset")?);
                let row = self.store.row(self.store.room_id(agent.room), offset);
                if !row.is_some_and(|row| &*row.id == id && row.user.id.0 == agent.user) {
                    return Err("an acknowledgement of what is not stored there".into());
                }
                agent.outbox.resolve(id, offset)
            }
            "error" => {
                let id = event["id"].as_str().map(str::to_owned);
                match (number("code")?, id) {
                    (100, None) if agent.room == ROOMS - 1 => Ok(()),
                    (100, Some(id)) => {
                        self.tally.not_known += 1;
                        agent.outbox.sent.retain(|sent| *sent != id);
                        Ok(())
                    }
                    (103 | 107, Some(id)) => {
                        let is_bad = agent.outbox.unresolved.iter().any(|(i, text)| *i == id && text == BAD_TEXT);
                        let is_removed = self.removals.iter().any(|(r, u, _)| *r == agent.room && *u == agent.user);
                        if !is_bad && !is_removed {
                            return Err("refused for no reason".into());
                        }
                        agent.outbox.sent.retain(|sent| *sent != id);
                        agent.outbox.unresolved.retain(|(unresolved, _)| *unresolved != id);
                        Ok(())
                    }
                    _ => Err("an error that was not due".into()),
                }
            }
            _ => Err("an event of a type that nothing in this world makes".into()),
        }
    }
}

/// Whether a user was taken out of a room since so many removals.
fn was_removed(removals: &[(usize, i64, Offset)], user: i64, room: usize, seen: usize) -> bool {
    removals[seen..].iter().any(|(r, u, _)| *r == room && *u == user)
}

fn is_bad(item: &Item) -> bool {
    item.body.as_deref() == Some(BAD_TEXT)
}
