//! The simulated world: nodes (shards, lanes, a reader, HTTP) over one store, and clients, advanced in random steps and
//! checked after each.

use crate::bus::{Line, NodeBus};
use crate::client::{Agent, Outbox, Received};
use crate::moderation::Moderated;
use crate::random::Random;
use crate::sdk::Sdk;
use crate::store::{History, Mistake, SimStore, meta_of, shown_meta};
use crate::surveys::{DISCONNECTED, SimSurvey};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use uproar_core::lane::{BatchResult, Lane};
use uproar_core::limits::Limits;
use uproar_core::message::{
    Append, Asker, Caller, Channel, Endpoint, LaneAnswer, Message, Requester, StoreReply, StoreRequest, reserved_places,
};
use uproar_core::websocket::{Event, UpgradeRequest};
use uproar_core::{Bus, BusState, Host, Now, Refused, Serial, Shard, ShardConfig, Slice, Slot};
use uproar_model::{
    Claims, DatabaseGeneration, Epoch, Item, Kind, Lease, Offset, Outcome, Publication, Revocation, Revocations,
    RoomId, TokenError, UserId,
};

/// The number of rooms. The last index stands for a `live:` channel, the others for stored rooms.
pub const ROOMS: usize = 4;
const HTTP_CALLS: usize = 4;
const LEASE_MS: u64 = 1_000;
/// What the bus loses is shown after this time at the latest, even if some beats are lost too. Heads are compared after
/// 5,000 ms.
const PROMPT_MS: u64 = 2_000;
const CALM_STEPS: usize = 1_000;
/// A time in Unix seconds that does not come.
pub const NEVER_S: u64 = 1_700_000_000_000_000;
/// Nobody is told any more of the clients of a dead node.
const GHOST_MS: u64 = 10_000;
/// A text that the store rejects as bad data.
pub const BAD_TEXT: &str = "BAD!";

macro_rules! tally {
    ($($name:ident),+ $(,)?) => {
        /// How often each of the situations that the simulator exists for has occurred.
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
    publications, resumed, resumed_with_missed, duplicates, outcomes_unknown, bad_data, removals, slow_disconnected,
    lost, live, unknown_commits, zombies, failed_reads, dropped_reads, stalled_queues, http_publishes, sdk_publications,
    recovered, recovered_with_missed, unsubscribed, histories, refreshed, expired, pipelined, skipped, void_reactions,
    joins, http_joins, unanswered_joins, sweeps_of_others, expired_leases, kills, pauses, failovers, started_over,
    announced, missed, partitions, lost_sessions, revocations, signed_out, served_shortly,
    lossy_failovers, surveys, unheard_surveys, backend_closed,
}

/// A lane's batch in flight, and how it will end.
struct InFlight {
    items: Arc<[Item]>,
    ready_ms: u64,
    /// Whether the database commits it.
    commits: bool,
    /// Whether the lane receives the result.
    answers: bool,
    /// What the database has answered, at `ready_ms`.
    result: Option<BatchResult>,
    /// What the database had when the batch was sent, if its store makes a mistake about that.
    sent_when: Option<Arc<History>>,
}

/// A batch that its lane has given up.
struct Zombie {
    at_ms: u64,
    items: Arc<[Item]>,
    sent_when: Option<Arc<History>>,
}

/// A node: one process.
pub struct Node {
    config: ShardConfig,
    /// `None`: nothing tells the nodes what others commit.
    pub bus: Option<NodeBus>,
    /// When the database last heard of it.
    pub beat_ms: u64,
    /// It takes no turns before this time, although its sockets are open.
    paused_until_ms: u64,
    /// It was killed, and is started again at this time.
    down_until_ms: u64,
    /// When a check of the lease was sent, and when it is answered.
    check: Option<(u64, u64)>,
    /// The time of a check whose answer the shards are being told.
    tells_of_check: Option<u64>,
    next_check_ms: u64,
    /// How many of the revocations the node knows.
    revocations_known: usize,
    /// When it learns that another database has taken over.
    starts_over_ms: Option<u64>,
    /// What HTTP is to tell shards, in order.
    pub notices: VecDeque<(u16, Message)>,
    /// Connections that ended while it was paused.
    ended: Vec<(usize, Slot)>,
    /// Appends by HTTP without an answer yet, by the number of the call.
    http: BTreeMap<Slot, Append>,
    http_credits: usize,
    /// Surveys that are not over.
    pub surveys: Vec<SimSurvey>,
}

/// A request to the store that is answered at `ready_ms`.
struct Pending {
    shard: usize,
    requester: Requester,
    asker: Asker,
    request: StoreRequest,
    ready_ms: u64,
}

/// The index of a client of the plain protocol, or of the Centrifugo protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientId {
    Plain(usize),
    Sdk(usize),
}

/// A frame from a client.
pub enum Frame {
    Text(String),
    Pong(Vec<u8>),
}

/// The socket of one slot.
#[derive(Default)]
pub struct Socket {
    /// The client that it belongs to, and which of that client's connections it is.
    client: Option<(ClientId, u64)>,
    in_flight: Vec<Slice>,
    /// Frames that the client has sent and that have not arrived.
    wire: VecDeque<Frame>,
    /// Frames that have arrived and that the shard has not read.
    inbox: VecDeque<Frame>,
    /// Whether frames take long to arrive.
    is_slow: bool,
    is_cut: bool,
    is_used: bool,
}

impl Socket {
    /// Whether it is this connection of a client.
    pub fn is_of(&self, client: ClientId, attempt: u64) -> bool {
        self.client == Some((client, attempt))
    }
}

#[derive(Default)]
struct Io {
    wakes: BTreeSet<Slot>,
    cuts: Vec<Slot>,
    broken: Option<String>,
}

pub struct Queue {
    pub messages: VecDeque<Message>,
    pub capacity: usize,
}

/// By node and endpoints.
pub type Queues = BTreeMap<(usize, Endpoint, Endpoint), Queue>;

pub struct SimHost<'a> {
    node: usize,
    own: Endpoint,
    queues: &'a mut Queues,
    io: &'a mut Io,
}

impl Host for SimHost<'_> {
    fn wake(&mut self, slot: Slot) {
        self.io.wakes.insert(slot);
    }

    fn abort(&mut self, slot: Slot) {
        if self.io.cuts.contains(&slot) {
            self.io.broken = Some(format!("{slot:?} was aborted twice"));
        }
        self.io.cuts.push(slot);
    }

    fn half_close(&mut self, _: Slot) {}

    fn log_first(&mut self, _what: Refused, _code: u16) {}

    fn free_places(&self, to: Endpoint) -> usize {
        let queue = &self.queues[&(self.node, self.own, to)];
        queue.capacity - queue.messages.len()
    }

    fn send(&mut self, to: Endpoint, message: Message) {
        let Some(queue) = self.queues.get_mut(&(self.node, self.own, to)) else {
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

/// A member was removed from a room.
#[derive(Clone, Copy)]
pub struct Removal {
    pub room: usize,
    pub user: i64,
    pub at: Offset,
    /// The history in which it is stored.
    pub generation: DatabaseGeneration,
}

/// What a world is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kindness {
    /// Everything goes wrong.
    None,
    /// There is one node.
    OneNode,
    /// The store never fails, but one shard of the only node is always late.
    LateShard,
    /// Only the bus loses something, so that it is known how late a publication may be.
    Calm,
    /// Everything goes wrong, and moderators take rights away.
    Moderated,
}

/// By (shard, slot, user, room): the last question there that was answered with an admission (its connection's
/// generation and its serial), and the offset at which its user was a member, in this generation of the database.
pub type Admissions = BTreeMap<(usize, Slot, i64, usize), (u32, u32, Offset, u64)>;

pub struct World {
    pub random: Random,
    pub now: Now,
    pub limits: Limits,
    pub nodes: Vec<Node>,
    /// From each node to each.
    pub lines: Vec<Line>,
    /// Those of the first node, then those of the next one. The same goes for the lanes.
    shards: Vec<Shard>,
    ios: Vec<Io>,
    pub sockets: Vec<Vec<Socket>>,
    /// By shard: whether another turn is due immediately.
    pub more: Vec<bool>,
    pub queues: Queues,
    lanes: Vec<Lane>,
    in_flight: Vec<Option<InFlight>>,
    /// Batches that their lane has given up and that commit later, with the time.
    zombies: Vec<Zombie>,
    pending_reads: Vec<Pending>,
    pub store: SimStore,
    pub agents: Vec<Agent>,
    pub sdks: Vec<Sdk>,
    http_calls: u32,
    pub surveys_begun: u64,
    /// Users whose connections a backend has had closed.
    pub disconnected: BTreeSet<i64>,
    /// How many times a node has started.
    runs: u64,
    /// The store does not answer before this time.
    store_down_until_ms: u64,
    /// Removed members, in the order of the commits.
    pub removals: Vec<Removal>,
    /// Revoked tokens, and when each revocation was committed.
    revocations: Vec<(Revocation, u64)>,
    /// What a standby has, which is behind.
    standby: Option<History>,
    /// A standby without the last commits has taken over.
    pub has_lost_commits: bool,
    /// Set by one test of the simulator: nodes ask what others have revoked, and do not tell their shards.
    pub keeps_revocations_secret: bool,
    pub admissions: Admissions,
    /// By (shard, room): the last offset that the shard has shown. Nothing that it shows later may be older.
    pub shown: BTreeMap<(usize, usize), Offset>,
    /// Set by one test of the simulator: how many segments pass between shards before the mesh drops one.
    pub segments_until_loss: Option<u64>,
    /// Set by one test of the simulator: half of the batches commit without an answer, until the end.
    pub loses_answers: bool,
    /// Set by one test of the simulator: most of what is published edits or deletes something.
    pub edits_much: bool,
    /// Set by one test of the simulator: most of what comes over HTTP removes or adds somebody.
    pub removes_much: bool,
    /// Whether homes check the heads of their rooms. Only then may a batch commit after it was given up.
    checks_heads: bool,
    /// A shard that hardly ever takes its turn. The store does not fail then.
    late_shard: Option<usize>,
    /// Only the bus has faults.
    pub is_calm: bool,
    /// Nothing is published for a while.
    is_quiet: bool,
    /// In a calm world: new heads as (time, room, offset), and the offsets that everybody must have been shown by now.
    commits: VecDeque<(u64, usize, Offset)>,
    due: [Offset; ROOMS - 1],
    /// Since when clients have been in rooms.
    attached_ms: BTreeMap<(i64, usize), u64>,
    /// Moderators take rights away.
    pub is_moderated: bool,
    pub moderated: Moderated,
    /// Users who ever lost a right in a room.
    pub limited: BTreeSet<(usize, i64)>,
    /// Those who were ever banned from it.
    pub banned: BTreeSet<(usize, i64)>,
    /// What was refused over HTTP, where everything is sent once.
    pub http_refused: Vec<(RoomId, UserId, Arc<str>)>,
    pub are_faults_over: bool,
    pub is_stopping: bool,
    pub tally: Tally,
}

impl World {
    pub fn new(seed: u64) -> World {
        World::with(seed, Kindness::None)
    }

    /// A world with one node, where nothing but its own faults is in the way of what is looked for.
    pub fn of_one_node(seed: u64) -> World {
        World::with(seed, Kindness::OneNode)
    }

    /// A world in which the store never fails, but one shard is always late.
    pub fn with_late_shard(seed: u64) -> World {
        World::with(seed, Kindness::LateShard)
    }

    /// A world of several nodes in which only the bus loses something. It is driven by [`World::run_calmly`].
    pub fn calm(seed: u64) -> World {
        World::with(seed, Kindness::Calm)
    }

    /// A world in which moderators take away the right to post.
    pub fn moderated(seed: u64) -> World {
        World { is_moderated: true, ..World::with(seed, Kindness::Moderated) }
    }

    /// The same world, with a store that makes a mistake.
    pub fn with_mistake(mut self, mistake: Mistake) -> World {
        self.store.mistake = Some(mistake);
        self
    }

    fn with(seed: u64, kindness: Kindness) -> World {
        let mut random = Random::new(seed);
        let (has_late_shard, is_calm) = (kindness == Kindness::LateShard, kindness == Kindness::Calm);
        let shards = if has_late_shard { 2 + random.index(3) } else { 1 + random.index(4) };
        let lanes = 1 + random.index(2);
        // Without these checks, a batch that commits after it was given up may never be shown.
        let nodes = match kindness {
            Kindness::None | Kindness::Moderated => random.pick(&[1, 1, 1, 2, 3]),
            Kindness::OneNode | Kindness::LateShard => 1,
            Kindness::Calm => random.pick(&[2, 3]),
        };
        let (shards, lanes) = if nodes > 1 { (1 + random.index(2), 1) } else { (shards, lanes) };
        let checks_heads = random.one_in(2) || nodes > 1;
        let has_bus = is_calm || nodes > 1 && !random.one_in(4);
        let small = |random: &mut Random, of: &[u64]| if is_calm { of[of.len() - 1] } else { random.pick(of) };
        let limits = Limits {
            mesh_calls_limit: small(&mut random, &[1, 2, 3, 8, 64]),
            mesh_publications_limit: small(&mut random, &[1, 2, 5, 64]),
            ring_limit_publications: small(&mut random, &[1, 3, 10, 512]),
            page_limit_publications: small(&mut random, &[1, 2, 7, 256]),
            batch_limit_items: small(&mut random, &[1, 3, 16, 512]),
            lane_limit_items: small(&mut random, &[4, 16, 64, 16_384]),
            pending_publishes_limit: small(&mut random, &[1, 3, 8]),
            sends_per_turn_limit: small(&mut random, &[1, 2, 512]),
            pings_per_turn_limit: small(&mut random, &[1, 512]),
            outbound_limit_bytes: small(&mut random, &[700, 4_000, 1_000_000]),
            page_limit_bytes: small(&mut random, &[200, 400, 100_000]),
            held_limit_publications: small(&mut random, &[1, 4, 4096]),
            room_idle_ms: small(&mut random, &[0, 50, 60_000]),
            ping_interval_ms: if checks_heads { 2_000 } else { 600_000 },
            pong_timeout_ms: 1_500,
            append_deadline_ms: 400,
            command_deadline_ms: 500,
            refused_timeout_ms: 200,
            expired_grace_ms: 1_000,
            join_leave_limit: small(&mut random, &[0, 3, 100]),
            online_interval_ms: 100,
            // A late shard may take long to learn what fills a gap.
            gap_deadline_ms: if has_late_shard { 600_000 } else { 700 },
            handshake_timeout_ms: 3_000,
            write_timeout_ms: 2_000,
            close_timeout_ms: 300,
            publish_rate_per_second: 0,
            subscribe_burst_limit: 100_000,
            list_burst_limit: 100_000,
            // Those who are refused try again at once.
            error_burst_limit: if kindness == Kindness::Moderated { 100_000 } else { 400 },
            ..Limits::default()
        };
        let config = |seed, lease| ShardConfig {
            id: 0,
            shards: shards as u16,
            lanes: lanes as u16,
            limits: limits.clone(),
            verify: Arc::new(|token, now_s| {
                let parts: Vec<u64> = token.split('.').filter_map(|part| part.parse().ok()).collect();
                let [user, expires_at, generation] = parts[..] else { panic!("no client made the token {token}") };
                let (user, generation) = (user as i64, Some(generation as u32));
                if expires_at <= now_s {
                    return Err(TokenError::Expired);
                }
                Ok(Claims {
                    user: Some(UserId(user)),
                    username: format!("user{user}").into(),
                    identity: None,
                    generation,
                    signed_in_at: 0,
                    issued_at: 0,
                    expires_at,
                })
            }),
            echo: false,
            query_token: true,
            allow_origin: Arc::new(|_, _| false),
            seed,
            revocations: Revocations::new(u64::MAX, []),
            bus: bus_state(nodes),
            lease,
        };
        let mut queues = Queues::new();
        let calls = limits.mesh_calls_limit as usize;
        let lane_calls = uproar_core::lane_calls_limit(&limits, shards as u16) as usize;
        let mut queue = |from, to, capacity| {
            for node in 0..nodes {
                queues.insert((node, from, to), Queue { messages: VecDeque::new(), capacity });
            }
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
            queue(shard, Endpoint::Bus, calls + limits.mesh_publications_limit as usize);
            queue(Endpoint::Bus, shard, calls);
        }
        let mut store = SimStore::new(ROOMS - 1, limits.join_leave_limit);
        let users = 6 + random.below(6);
        let agents: Vec<Agent> = (0..users)
            .map(|number| {
                let user = store.add_user(&format!("user{number}"));
                Agent::new(user, random.index(ROOMS), Outbox::new(&mut random))
            })
            .collect();
        let sdks = (0..2 + random.below(4))
            .map(|number| Sdk::new(store.add_user(&format!("sdk{number}")), &mut random))
            .collect();
        let http_credits = limits.mesh_calls_limit.min(HTTP_CALLS as u64) as usize;
        let now = Now { ms: 1_000, unix_ms: 1_700_000_000_000 };
        let nodes: Vec<Node> = (0..nodes)
            .map(|node| {
                let lease = if nodes > 1 { Lease::new(LEASE_MS) } else { Lease::unlimited() };
                let config = config(seed + node as u64, lease);
                Node {
                    bus: has_bus.then(|| NodeBus::new(&config, node as u64, now.ms)),
                    beat_ms: now.ms,
                    config,
                    paused_until_ms: 0,
                    down_until_ms: 0,
                    check: None,
                    tells_of_check: None,
                    next_check_ms: 0,
                    revocations_known: 0,
                    starts_over_ms: None,
                    notices: VecDeque::new(),
                    ended: Vec::new(),
                    http: BTreeMap::new(),
                    http_credits,
                    surveys: Vec::new(),
                }
            })
            .collect();
        let all = nodes.len() * shards;
        World {
            sdks,
            now,
            shards: nodes.iter().flat_map(|node| shards_of(&node.config)).collect(),
            ios: (0..all).map(|_| Io::default()).collect(),
            sockets: (0..all).map(|_| Vec::new()).collect(),
            more: vec![false; all],
            queues,
            lanes: (0..nodes.len() * lanes).map(|_| Lane::new(limits.clone())).collect(),
            in_flight: (0..nodes.len() * lanes).map(|_| None).collect(),
            lines: (0..nodes.len() * nodes.len()).map(|_| Line::default()).collect(),
            runs: nodes.len() as u64,
            nodes,
            zombies: Vec::new(),
            pending_reads: Vec::new(),
            store,
            agents,
            http_calls: 0,
            surveys_begun: 0,
            disconnected: BTreeSet::new(),
            store_down_until_ms: 0,
            removals: Vec::new(),
            revocations: Vec::new(),
            keeps_revocations_secret: false,
            standby: None,
            has_lost_commits: false,
            admissions: BTreeMap::new(),
            shown: BTreeMap::new(),
            segments_until_loss: None,
            loses_answers: false,
            edits_much: false,
            removes_much: false,
            checks_heads,
            late_shard: has_late_shard.then_some(0),
            is_calm,
            is_quiet: false,
            commits: VecDeque::new(),
            due: [0; ROOMS - 1],
            attached_ms: BTreeMap::new(),
            is_moderated: false,
            moderated: Moderated::default(),
            limited: BTreeSet::new(),
            banned: BTreeSet::new(),
            http_refused: Vec::new(),
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

    /// Takes one random step.
    pub fn step(&mut self) -> Result<(), String> {
        match self.random.below(20) {
            0..=5 => {
                let shard = self.random.index(self.shards.len());
                if self.late_shard != Some(shard) || self.random.one_in(40) {
                    self.shard_step(shard)?;
                }
            }
            6..=8 => {
                let lane = self.random.index(self.lanes.len());
                self.lane_step(lane);
            }
            9 | 10 => {
                self.reader_step();
                let node = self.random.index(self.nodes.len());
                self.bus_step(node);
            }
            11 => {
                let node = self.random.index(self.nodes.len());
                self.http_step(node);
                self.lease_step();
            }
            12..=14 => self.client_step()?,
            15 | 16 => self.network_step()?,
            17 => match self.random.one_in(2) {
                true => self.network_step()?,
                false => self.uplink_step(),
            },
            18 => self.free_slots_step(),
            _ => self.time_step(),
        }
        self.check()
    }

    /// Whether stores, sockets and clients do what they should not do.
    pub fn has_faults(&self) -> bool {
        !self.are_faults_over && !self.is_calm
    }

    /// Whether clients publish.
    pub fn is_silent(&self) -> bool {
        self.are_faults_over || self.is_quiet
    }

    /// Everybody publishes for a moment, and then nobody for a while: again and again. What is committed must be shown
    /// long before the heads are compared as a matter of course.
    pub fn run_calmly(&mut self) -> Result<(), String> {
        for _ in 0..CALM_STEPS {
            self.is_quiet = self.now.ms % 3_000 > 400;
            self.calm_step()?;
            self.check_promptness()?;
        }
        Ok(())
    }

    /// A node dies while everybody else goes on. Those who were its clients go to other nodes.
    pub fn run_with_dead_node(&mut self) -> Result<(), String> {
        self.is_quiet = true;
        for _ in 0..100 {
            self.calm_step()?;
        }
        self.kill(0);
        self.nodes[0].down_until_ms = u64::MAX;
        self.nodes[0].beat_ms = self.now.ms;
        let died_ms = self.now.ms;
        while self.now.ms < died_ms + GHOST_MS {
            self.calm_step()?;
        }
        self.forget_counts();
        for _ in 0..100 {
            self.calm_step()?;
        }
        self.check_presence()
    }

    fn calm_step(&mut self) -> Result<(), String> {
        self.step_all()?;
        self.advance_time(15);
        Ok(())
    }

    fn check_promptness(&mut self) -> Result<(), String> {
        let now_ms = self.now.ms;
        for room in 0..ROOMS - 1 {
            let head = self.store.head(room);
            if self.commits.iter().rfind(|(_, of, _)| *of == room).is_none_or(|(.., known)| *known < head) {
                self.commits.push_back((now_ms, room, head));
            }
        }
        while let Some((at_ms, room, offset)) = self.commits.front().copied()
            && now_ms >= at_ms + PROMPT_MS
        {
            self.commits.pop_front();
            self.due[room] = self.due[room].max(offset);
        }
        let plain = self.agents.iter().filter(|agent| agent.stream.joined && agent.room < ROOMS - 1);
        let plain = plain.map(|agent| (agent.user, agent.room, &agent.position));
        let sdks = self.sdks.iter().flat_map(|sdk| sdk.attached().map(|(room, position)| (sdk.user, room, position)));
        let before = std::mem::take(&mut self.attached_ms);
        for (user, room, position) in plain.chain(sdks) {
            let since_ms = before.get(&(user, room)).copied().unwrap_or(now_ms);
            self.attached_ms.insert((user, room), since_ms);
            let (position, due) = (position.as_ref().map_or(0, |(_, offset)| *offset), self.due[room]);
            if now_ms >= since_ms + PROMPT_MS && position < due {
                return Err(format!("user {user} in room {room} is at {position}, and should be at {due} by now"));
            }
        }
        Ok(())
    }

    /// Stops the faults, waits until every client has received everything, and then shuts the shards down.
    pub fn settle(&mut self) -> Result<(), String> {
        self.are_faults_over = true;
        if self.is_moderated {
            self.lift_all();
        }
        self.store_down_until_ms = 0;
        for node in 0..self.nodes.len() {
            (self.nodes[node].paused_until_ms, self.nodes[node].down_until_ms) = (0, 0);
            self.report_ended(node);
        }
        self.mend_bus();
        for agent in &mut self.agents {
            agent.stopped_reading = false;
        }
        for sdk in &mut self.sdks {
            sdk.stopped_reading = false;
        }
        for _ in 0..3_000 {
            self.step_all()?;
            if self.unsettled().is_none() {
                break;
            }
        }
        if let Some(what) = self.unsettled() {
            return Err(format!("not settled: {what}"));
        }
        // An attempt that was given up, and refused when it was repeated, may be stored after later ones.
        if !self.is_moderated {
            self.check_orders()?;
        }
        self.check_refused()?;
        // Larger rooms do not tell of joins.
        if self.limits.join_leave_limit >= 100 {
            (0..ROOMS - 1).try_for_each(|room| self.store.check_members(room))?;
        }
        self.is_stopping = true;
        for shard in 0..self.shards.len() {
            let (shard, mut host) = self.shard_and_host(shard);
            let now = shard.1;
            shard.0.drain(now, &mut host);
        }
        for _ in 0..300 {
            self.step_all()?;
            if self.shards.iter().all(|shard| shard.drained() && shard.has_all_credits()) && self.has_bus_all_credits()
            {
                return Ok(());
            }
        }
        Err(match self.shards.iter().all(Shard::drained) {
            true => "a credit is lost".into(),
            false => "the shards have not drained".into(),
        })
    }

    fn step_all(&mut self) -> Result<(), String> {
        for shard in 0..self.shards.len() {
            self.shard_step(shard)?;
        }
        for lane in 0..self.lanes.len() {
            self.lane_step(lane);
        }
        self.reader_step();
        for node in 0..self.nodes.len() {
            self.http_step(node);
            self.bus_step(node);
        }
        self.lease_step();
        for agent in 0..self.agents.len() {
            self.step_agent(agent)?;
        }
        for sdk in 0..self.sdks.len() {
            self.step_sdk(sdk)?;
        }
        for _ in 0..20 {
            self.network_step()?;
        }
        for id in 0..self.sockets.len() {
            for slot in 0..self.sockets[id].len() {
                self.deliver_frames(id, slot, usize::MAX);
            }
        }
        self.free_slots_step();
        self.advance_time(10);
        self.check()
    }

    /// What is still missing after the faults have stopped.
    fn unsettled(&self) -> Option<String> {
        if let Some(Zombie { at_ms, .. }) = self.zombies.first() {
            return Some(format!("a batch that was given up commits at {at_ms} ms"));
        }
        for agent in &self.agents {
            let user = agent.user;
            if !agent.stream.joined {
                let (rejected, closed) = (agent.stream.rejected_with, agent.stream.closed_with);
                return Some(format!(
                    "user {user} has not joined: at {:?}, rejected with {rejected:?}, closed with {closed:?}",
                    agent.at
                ));
            }
            if let Some(id) = agent.outbox.first_unresolved() {
                return Some(format!(
                    "user {user}'s message {id} is not resolved; unanswered: {:?}",
                    agent.outbox.sent
                ));
            }
            if agent.room < ROOMS - 1 {
                let head = self.store.head(agent.room);
                let position = agent.position.as_ref().map(|(_, offset)| *offset);
                if position != Some(head) {
                    let missing = self.store.row(self.store.room_id(agent.room), position.unwrap_or(0) + 1);
                    return Some(format!(
                        "user {user} in room {} is at {position:?}, not at {head}; it was not shown {missing:?}",
                        agent.room
                    ));
                }
                if !agent.position.as_ref().is_some_and(|(epoch, _)| self.is_current(epoch)) {
                    return Some(format!("user {user} in room {} is in an old epoch", agent.room));
                }
            }
        }
        if let Some(what) = self.sdks.iter().find_map(|sdk| self.sdk_unsettled(sdk)) {
            return Some(what);
        }
        self.lanes.iter().any(|lane| !lane.is_idle()).then(|| "a lane is not idle".into())
    }

    /// Contract 2: the messages of one sender, retried in order, are stored in the order in which they were sent.
    fn check_orders(&self) -> Result<(), String> {
        let plain = self.agents.iter().map(|agent| (agent.user, &agent.outbox));
        let sdks = self.sdks.iter().flat_map(|sdk| sdk.channels.iter().map(|channel| (sdk.user, &channel.outbox)));
        for (user, Outbox { order, stored, .. }) in plain.chain(sdks) {
            let mut last = 0;
            for id in order {
                let Some(&offset) = stored.get(id) else { continue };
                if offset < last {
                    return Err(format!("user {user}'s message {id} at {offset} is stored before an earlier one"));
                }
                last = offset;
            }
        }
        Ok(())
    }

    /// Checks what must hold after every step.
    fn check(&mut self) -> Result<(), String> {
        for (id, io) in self.ios.iter_mut().enumerate() {
            if let Some(broken) = io.broken.take() {
                return Err(format!("shard {id}: {broken}"));
            }
        }
        for (id, shard) in self.shards.iter().enumerate() {
            let widest = shard.longest_queue_bytes();
            // One buffer, and the close frame after it, may exceed the limit.
            let bound = self.limits.outbound_limit_bytes + self.limits.page_limit_bytes + 8_192;
            if widest > bound {
                return Err(format!("shard {id}: a connection has {widest} bytes waiting, more than {bound}"));
            }
        }
        if let Some(broken) = self.store.broken.take() {
            return Err(broken);
        }
        (0..self.nodes.len()).try_for_each(|node| self.check_surveys(node))
    }

    // ── time ────────────────────────────────────────────────────────────────────────────────────────────────────────

    fn advance_time(&mut self, ms: u64) {
        self.now.ms += ms;
        self.now.unix_ms += ms;
    }

    fn time_step(&mut self) {
        let ms = match self.random.below(30) {
            0 => 500 + self.random.below(2_000),
            1..=5 => 50 + self.random.below(100),
            _ => self.random.below(5),
        };
        self.advance_time(ms);
        if self.random.one_in(60) && self.late_shard.is_none() {
            self.store_down_until_ms = self.now.ms + self.random.below(1_500);
        }
        if self.nodes.len() > 1 && !self.are_faults_over {
            self.cluster_fault();
        }
    }

    // ── nodes ───────────────────────────────────────────────────────────────────────────────────────────────────────

    fn node_of(&self, shard: usize) -> usize {
        shard / (self.shards.len() / self.nodes.len())
    }

    /// Whether two connections are with the same node.
    pub fn are_on_one_node(&self, a: Option<(usize, Slot)>, b: Option<(usize, Slot)>) -> bool {
        let node = |at: Option<(usize, Slot)>| at.map(|(shard, _)| self.node_of(shard));
        node(a) == node(b)
    }

    /// The first of a node's shards.
    fn first_shard(&self, node: usize) -> usize {
        node * (self.shards.len() / self.nodes.len())
    }

    fn node_of_lane(&self, lane: usize) -> usize {
        lane / (self.lanes.len() / self.nodes.len())
    }

    pub fn shards_per_node(&self) -> usize {
        self.shards.len() / self.nodes.len()
    }

    pub fn is_running(&self, node: usize) -> bool {
        self.now.ms >= self.nodes[node].down_until_ms.max(self.nodes[node].paused_until_ms)
    }

    fn cluster_fault(&mut self) {
        let node = self.random.index(self.nodes.len());
        match self.random.below(60) {
            0 => self.kill(node),
            1..=3 if self.is_running(node) => {
                self.tally.pauses += 1;
                self.nodes[node].paused_until_ms = self.now.ms + 500 + self.random.below(6_000);
            }
            4..=7 => self.bus_fault(node),
            8 if self.random.one_in(3) => self.fail_over(),
            9 | 10 => self.standby = Some(self.store.copy()),
            _ => {}
        }
        for node in 0..self.nodes.len() {
            if self.is_running(node) {
                self.report_ended(node);
            }
        }
    }

    /// A standby takes over. It may lack the last commits. If it lacks none, nobody can know that.
    fn fail_over(&mut self) {
        self.tally.failovers += 1;
        let standby = self.standby.take().filter(|_| self.random.one_in(2));
        let copy = standby.clone().unwrap_or_else(|| self.store.copy());
        self.store.fail_over(copy);
        // Nodes notice it sooner or later, and close all connections.
        for node in 0..self.nodes.len() {
            self.nodes[node].starts_over_ms = Some(self.now.ms + self.random.below(3_000));
        }
        if standby.is_some() {
            self.lose_commits();
        }
    }

    /// Clients that were told of what is lost now were told the truth then.
    fn lose_commits(&mut self) {
        self.tally.lossy_failovers += 1;
        self.has_lost_commits = true;
        // The server that would have committed it is gone.
        self.zombies.clear();
        for flight in self.in_flight.iter_mut().flatten().filter(|flight| flight.result.is_none()) {
            (flight.commits, flight.answers) = (false, false);
        }
        let (store, seen) = (&self.store, self.removals.len());
        self.shown.clear();
        for agent in &mut self.agents {
            (agent.replay_from, agent.removals_seen) = (0, seen);
            if agent.room < ROOMS - 1 {
                agent.outbox.forget_lost(|offset| store.row(store.room_id(agent.room), offset));
            }
        }
        for sdk in &mut self.sdks {
            sdk.forget_lost(store, seen);
        }
    }

    /// `kill -9`: what the node had sent to the database may still be committed.
    fn kill(&mut self, node: usize) {
        self.tally.kills += 1;
        let (first, count) = (self.first_shard(node), self.shards_per_node());
        for id in first..first + count {
            for slot in 0..self.sockets[id].len() {
                if let Some((client, attempt)) = self.sockets[id][slot].client.take()
                    && self.attempt_of(client) == attempt
                {
                    self.on_disconnect(client);
                }
            }
            self.sockets[id].clear();
            self.ios[id] = Io::default();
            self.more[id] = false;
        }
        for ((of, ..), queue) in &mut self.queues {
            if *of == node {
                queue.messages.clear();
            }
        }
        for lane in 0..self.lanes.len() {
            if self.node_of_lane(lane) != node {
                continue;
            }
            self.lanes[lane] = Lane::new(self.limits.clone());
            if let Some(flight) = self.in_flight[lane].take_if(|flight| flight.result.is_none() && flight.commits) {
                let at_ms = self.now.ms + self.random.below(600);
                self.zombies.push(Zombie { at_ms, items: flight.items, sent_when: flight.sent_when });
            }
            self.in_flight[lane] = None;
        }
        let of_node = |shard: usize| (first..first + count).contains(&shard);
        for pending in std::mem::take(&mut self.pending_reads) {
            if !of_node(pending.shard) {
                self.pending_reads.push(pending);
            } else if let StoreRequest::Admit { room, user } = &pending.request
                && self.random.one_in(2)
            {
                self.admit_unanswered(room, *user);
            }
        }
        self.admissions.retain(|(shard, ..), _| !of_node(*shard));
        self.shown.retain(|(shard, _), _| !of_node(*shard));
        let http_credits = self.limits.mesh_calls_limit.min(HTTP_CALLS as u64) as usize;
        let down_until_ms = self.now.ms + self.random.below(2_000);
        self.kill_bus(node);
        self.runs += 1;
        let (lease, bus) = (Lease::new(LEASE_MS), bus_state(self.nodes.len()));
        let revocations = Revocations::new(u64::MAX, self.revocations.iter().map(|(revocation, _)| *revocation));
        let node = &mut self.nodes[node];
        node.config = ShardConfig { lease, bus, revocations, seed: node.config.seed + 100, ..node.config.clone() };
        *node = Node {
            bus: node.bus.as_ref().map(|_| NodeBus::new(&node.config, self.runs, down_until_ms)),
            beat_ms: down_until_ms,
            config: node.config.clone(),
            paused_until_ms: 0,
            down_until_ms,
            check: None,
            tells_of_check: None,
            next_check_ms: 0,
            revocations_known: self.revocations.len(),
            starts_over_ms: None,
            notices: VecDeque::new(),
            ended: Vec::new(),
            http: BTreeMap::new(),
            http_credits,
            surveys: Vec::new(),
        };
        for (id, shard) in shards_of(&node.config).enumerate() {
            self.shards[first + id] = shard;
        }
    }

    /// A node that goes on learns which connections have ended meanwhile.
    fn report_ended(&mut self, node: usize) {
        for (id, slot) in std::mem::take(&mut self.nodes[node].ended) {
            if !self.sockets[id][slot.index()].is_cut {
                let ((shard, now), mut host) = self.shard_and_host(id);
                shard.failed(now, slot, &mut host);
                self.more[id] = true;
            }
        }
    }

    /// Each node asks the database regularly whether rights were taken away.
    fn lease_step(&mut self) {
        for node in 0..self.nodes.len() {
            if !self.is_running(node) || self.nodes.len() == 1 {
                continue;
            }
            let now_ms = self.now.ms;
            let is_down = now_ms < self.store_down_until_ms;
            match self.nodes[node].check {
                None if now_ms >= self.nodes[node].next_check_ms => {
                    let slow = if self.random.one_in(20) && self.has_faults() { 500 } else { 6 };
                    self.nodes[node].check = Some((now_ms, now_ms + self.random.below(slow)));
                }
                Some((sent_ms, ready_ms)) if now_ms >= ready_ms => {
                    self.nodes[node].check = None;
                    if !is_down {
                        self.nodes[node].beat_ms = now_ms;
                        self.nodes[node].tells_of_check = Some(sent_ms);
                        self.nodes[node].next_check_ms = sent_ms + 500;
                        self.follow_revocations(node, sent_ms);
                    }
                }
                _ => {}
            }
            self.renew_if_told(node);
        }
    }

    /// The database has answered a check that was sent at this time.
    fn follow_revocations(&mut self, node: usize, sent_ms: u64) {
        let is_old = self.random.one_in(2);
        while let Some((revocation, at_ms)) = self.revocations.get(self.nodes[node].revocations_known).copied() {
            if is_old && at_ms > sent_ms {
                break;
            }
            self.nodes[node].revocations_known += 1;
            if !self.keeps_revocations_secret {
                self.tell_shards(node, revocation);
            }
        }
    }

    fn tell_shards(&mut self, node: usize, revocation: Revocation) {
        let shards = 0..self.shards_per_node() as u16;
        self.nodes[node].notices.extend(shards.map(|shard| (shard, Message::Revoke(revocation))));
    }

    /// Tells a home of a change that was made over HTTP.
    pub fn tell_home(&mut self, node: usize, room: RoomId, message: Message) {
        if let Endpoint::Shard(shard) = self.home_of_room(node, room) {
            self.nodes[node].notices.push_back((shard, message));
        }
    }

    /// The lease is for what the shards know.
    fn renew_if_told(&mut self, node: usize) {
        let is_waiting = |queue: &Queue| queue.messages.iter().any(|message| matches!(message, Message::Revoke(_)));
        let mut shards = 0..self.shards_per_node() as u16;
        let is_told = self.nodes[node].notices.is_empty()
            && !shards.any(|shard| is_waiting(&self.queues[&(node, Endpoint::Http, Endpoint::Shard(shard))]));
        if let Some(sent_ms) = self.nodes[node].tells_of_check.take_if(|_| is_told) {
            self.nodes[node].config.lease.renew(sent_ms);
        }
    }

    /// A user signs out everywhere, through one node.
    fn revoke(&mut self, node: usize, user: i64) {
        self.tally.revocations += 1;
        let generation = self.token_generation(user) + 1;
        let revocation = Revocation { user: UserId(user), generation, at: self.now.unix_ms, is_blocked: false };
        self.revocations.push((revocation, self.now.ms));
        self.tell_shards(node, revocation);
    }

    /// The generation of the tokens that a user gets now.
    pub fn token_generation(&self, user: i64) -> u32 {
        let last = self.revocations.iter().rfind(|(revocation, _)| revocation.user.0 == user);
        last.map_or(0, |(revocation, _)| revocation.generation)
    }

    /// When a token was revoked.
    pub fn revoked_ms(&self, user: i64, generation: u32) -> Option<u64> {
        let covers = |revocation: &Revocation| revocation.user.0 == user && revocation.covers(Some(generation), 0);
        self.revocations.iter().find(|(revocation, _)| covers(revocation)).map(|(_, at_ms)| *at_ms)
    }

    /// A client was told something that its node knew or did at this time, or later.
    pub fn check_token(&mut self, user: i64, generation: u32, served_ms: u64) -> Result<(), String> {
        match self.revoked_ms(user, generation) {
            Some(at_ms) if served_ms >= at_ms + LEASE_MS => {
                Err(format!("its token was revoked at {at_ms} ms, and it was still served at {served_ms} ms"))
            }
            Some(_) => {
                self.tally.served_shortly += 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// The open connections of a user on all nodes.
    pub fn open_connections_of(&self, user: i64) -> Vec<(ClientId, usize, Slot, u64)> {
        let is_of = |client| match client {
            ClientId::Plain(index) => self.agents[index].user == user,
            ClientId::Sdk(index) => self.sdks[index].user == user,
        };
        let sockets = self.sockets.iter().enumerate().flat_map(|(id, sockets)| {
            sockets.iter().enumerate().map(move |(slot, socket)| (id, Slot(slot as u32), socket.client))
        });
        let used = sockets.filter_map(|(id, slot, client)| client.map(|(client, attempt)| (client, id, slot, attempt)));
        used.filter(|(client, id, slot, _)| is_of(*client) && self.is_open(*id, *slot)).collect()
    }

    pub fn is_open(&self, id: usize, slot: Slot) -> bool {
        self.shards[id].is_open(slot)
    }

    /// Until when the node of a shard was paused.
    pub fn paused_until_ms(&self, id: usize) -> u64 {
        self.nodes[self.node_of(id)].paused_until_ms
    }

    /// The same as [`Now::ms`], for a time that the database has given.
    pub fn ms_of(&self, unix_ms: u64) -> u64 {
        unix_ms + self.now.ms - self.now.unix_ms
    }

    /// Whether an epoch is of the store's current generation.
    pub fn is_current(&self, epoch: &str) -> bool {
        Epoch(epoch.into()).generation() == Some(self.store.generation())
    }

    // ── shards ──────────────────────────────────────────────────────────────────────────────────────────────────────

    pub fn shard_and_host(&mut self, id: usize) -> ((&mut Shard, Now), SimHost<'_>) {
        let node = self.node_of(id);
        let own = self.endpoint_of(id);
        let host = SimHost { node, own, queues: &mut self.queues, io: &mut self.ios[id] };
        ((&mut self.shards[id], self.now), host)
    }

    /// One round of a shard's event loop: messages, the turn, the sends. Only when a driver would wake up for it.
    fn shard_step(&mut self, id: usize) -> Result<(), String> {
        let (node, own) = (self.node_of(id), self.endpoint_of(id));
        if !self.is_running(node) {
            return Ok(());
        }
        let from: Vec<Endpoint> = self
            .queues
            .iter()
            .filter(|((of, _, to), q)| *of == node && *to == own && !q.messages.is_empty())
            .map(|((_, from, _), _)| *from)
            .collect();
        let is_due = self.shards[id].deadline().is_some_and(|at| at <= self.now.ms);
        if from.is_empty() && !is_due && !self.more[id] && self.ios[id].wakes.is_empty() {
            return Ok(());
        }
        self.check_lease(id);
        for from in from {
            let available = self.queues[&(node, from, own)].messages.len() as u64;
            let count = if self.has_faults() { self.random.below(available + 1) } else { available };
            for _ in 0..count {
                let message = self.queues.get_mut(&(node, from, own)).and_then(|q| q.messages.pop_front());
                let Some(message) = message else { break };
                if matches!(message, Message::Segment { .. }) && self.loses_segment() {
                    continue;
                }
                self.tally.skipped += u64::from(matches!(message, Message::Skip { .. }));
                if let Message::Lost { channel } = &message {
                    self.tally.lost += 1;
                    if self.late_shard.is_some() && matches!(channel, Channel::Room(_)) {
                        return Err(format!("shard {id} lost {channel:?}"));
                    }
                }
                let ((shard, now), mut host) = self.shard_and_host(id);
                shard.receive(now, from, message, &mut host);
            }
        }
        self.turn(id);
        Ok(())
    }

    /// Counts down to the segment that the mesh loses. True: it is this one.
    fn loses_segment(&mut self) -> bool {
        self.segments_until_loss = self.segments_until_loss.and_then(|left| left.checked_sub(1));
        self.segments_until_loss == Some(0)
    }

    fn turn(&mut self, id: usize) {
        let ((shard, now), mut host) = self.shard_and_host(id);
        let more = shard.turn(now, &mut host);
        self.more[id] = more;
        if self.queues.iter().any(|((_, from, to), q)| {
            matches!((from, to), (Endpoint::Shard(_), Endpoint::Shard(_)))
                && q.capacity - q.messages.len() <= reserved_places(self.limits.mesh_calls_limit)
        }) {
            self.tally.stalled_queues += 1;
        }
        for slot in std::mem::take(&mut self.ios[id].wakes) {
            self.pump(id, slot);
        }
        for slot in std::mem::take(&mut self.ios[id].cuts) {
            let socket = &mut self.sockets[id][slot.index()];
            socket.is_cut = true;
            if let Some((client, attempt)) = socket.client
                && self.attempt_of(client) == attempt
            {
                self.on_disconnect(client);
            }
        }
    }

    fn endpoint_of(&self, shard: usize) -> Endpoint {
        Endpoint::Shard((shard % self.shards_per_node()) as u16)
    }

    /// What a driver does at the beginning of a loop turn.
    fn check_lease(&mut self, id: usize) {
        let is_valid = self.nodes[self.node_of(id)].config.lease.is_valid(self.now.ms);
        self.tally.expired_leases += u64::from(!is_valid);
        let ((shard, now), mut host) = self.shard_and_host(id);
        shard.check_lease(now, &mut host);
    }

    /// Does what a driver does for a woken slot: continues to read, and sends if no send is in flight.
    fn pump(&mut self, id: usize, slot: Slot) {
        // A driver reads a buffer at a time, so some frames are read in a later turn.
        let mut left = match self.are_faults_over || self.random.one_in(2) {
            true => usize::MAX,
            false => self.random.index(4),
        };
        loop {
            if self.sockets[id][slot.index()].is_cut || !self.shards[id].wants_input(slot) {
                break;
            }
            if left == 0 && !self.sockets[id][slot.index()].inbox.is_empty() {
                self.ios[id].wakes.insert(slot);
                break;
            }
            let Some(frame) = self.sockets[id][slot.index()].inbox.pop_front() else { break };
            left -= 1;
            self.require_lease(id, slot, "reads");
            match frame {
                Frame::Text(text) => self.frame(id, slot, Event::Text(&text)),
                Frame::Pong(payload) => self.frame(id, slot, Event::Pong(&payload)),
            }
        }
        let socket = &mut self.sockets[id][slot.index()];
        if socket.in_flight.is_empty() && !socket.is_cut {
            self.shards[id].outgoing(slot, &mut socket.in_flight);
            if !socket.in_flight.is_empty() {
                self.require_lease(id, slot, "writes");
            }
        }
    }

    /// A shard does something for which its node needs a lease.
    fn require_lease(&mut self, id: usize, slot: Slot, does: &str) {
        if !self.shards[id].is_parting(slot) && !self.nodes[self.node_of(id)].config.lease.is_valid(self.now.ms) {
            self.ios[id].broken = Some(format!("it {does} although the lease of its node has expired"));
        }
    }

    /// A client sends frames.
    pub fn transmit(&mut self, id: usize, slot: Slot, frames: impl IntoIterator<Item = Frame>) {
        let socket = &mut self.sockets[id][slot.index()];
        socket.wire.extend(frames);
        if !socket.is_slow {
            self.deliver_frames(id, slot.index(), usize::MAX);
        }
    }

    /// Delivers the next frames of a client to its shard.
    fn deliver_frames(&mut self, id: usize, slot: usize, limit: usize) {
        let socket = &mut self.sockets[id][slot];
        let count = limit.min(socket.wire.len());
        if count == 0 || socket.is_cut {
            return;
        }
        socket.inbox.extend(socket.wire.drain(..count));
        if self.is_running(self.node_of(id)) {
            self.check_lease(id);
            self.pump(id, Slot(slot as u32));
        } else {
            self.ios[id].wakes.insert(Slot(slot as u32));
        }
    }

    /// Delivers some frames of a client whose frames take long to arrive.
    fn uplink_step(&mut self) {
        let mut waiting = Vec::new();
        for (id, sockets) in self.sockets.iter().enumerate() {
            let is_waiting = |socket: &Socket| !socket.wire.is_empty() && !socket.is_cut;
            waiting.extend(sockets.iter().enumerate().filter(|(_, s)| is_waiting(s)).map(|(slot, _)| (id, slot)));
        }
        if !waiting.is_empty() {
            let (id, slot) = waiting[self.random.index(waiting.len())];
            let count = 1 + self.random.index(4);
            self.deliver_frames(id, slot, count);
        }
    }

    fn frame(&mut self, id: usize, slot: Slot, event: Event<'_>) {
        let ((shard, now), mut host) = self.shard_and_host(id);
        shard.frame(now, slot, event, &mut host);
        self.more[id] = true;
    }

    /// Completes the last operation of aborted sockets; their slots can be reused immediately.
    fn free_slots_step(&mut self) {
        for id in 0..self.shards.len() {
            if !self.is_running(self.node_of(id)) {
                continue;
            }
            for slot in 0..self.sockets[id].len() {
                let socket = &self.sockets[id][slot];
                if socket.is_used && socket.is_cut && (self.are_faults_over || self.random.one_in(2)) {
                    self.sockets[id][slot] = Socket::default();
                    self.shards[id].freed(Slot(slot as u32));
                }
            }
        }
    }

    // ── lanes and readers ───────────────────────────────────────────────────────────────────────────────────────────

    fn lane_step(&mut self, id: usize) {
        self.commit_due();
        let node = self.node_of_lane(id);
        if !self.is_running(node) {
            return;
        }
        let own = Endpoint::Lane((id % (self.lanes.len() / self.nodes.len())) as u16);
        let mut answers: Vec<LaneAnswer> = Vec::new();
        for shard in 0..self.shards_per_node() as u16 {
            let count = if self.are_faults_over { u64::MAX } else { self.random.below(20) };
            for _ in 0..count {
                let queue = self.queues.get_mut(&(node, Endpoint::Shard(shard), own));
                let queue = queue.expect("a queue from each shard to each lane");
                let Some(message) = queue.messages.pop_front() else { break };
                let Message::Commit(append) = message else { panic!("a lane received {message:?}") };
                self.lanes[id].receive(self.now.ms, append, &mut answers);
            }
        }
        self.lanes[id].tick(self.now.ms, &mut answers);
        if let Some(InFlight { result: Some(result), .. }) =
            self.in_flight[id].take_if(|flight| flight.result.is_some())
        {
            self.lanes[id].finished(self.now.ms, result, &mut answers);
        }
        if self.in_flight[id].is_none()
            && let Some(items) = self.lanes[id].next_batch(self.now.ms)
        {
            let is_down = self.now.ms < self.store_down_until_ms;
            let judges_early = self.store.mistake == Some(Mistake::JudgesEarly);
            let sent_when = judges_early.then(|| Arc::new(self.store.copy()));
            let fate = if !self.has_faults() || self.late_shard.is_some() { 9 } else { self.random.below(12) };
            let (commits, answers) = match fate {
                _ if is_down => (self.random.one_in(2), false),
                _ if self.loses_answers && self.random.one_in(2) => (true, false),
                0 => (false, false),
                1 => (true, false),
                2 if self.checks_heads => {
                    // Given up, and committed long afterwards, perhaps after its own retry.
                    self.tally.zombies += 1;
                    let at_ms = self.now.ms + self.random.below(600);
                    self.zombies.push(Zombie { at_ms, items: Arc::clone(&items), sent_when: sent_when.clone() });
                    (false, false)
                }
                _ => (true, true),
            };
            let slow = if self.random.one_in(20) && !self.is_calm { 700 } else { 8 };
            let ready_ms = self.now.ms + self.random.below(slow);
            self.in_flight[id] = Some(InFlight { items, ready_ms, commits, answers, result: None, sent_when });
        }
        for answer in answers {
            let home = self.home_of_room(node, answer.append.item.room);
            let queue = self.queues.get_mut(&(node, own, home)).expect("a queue from each lane to each shard");
            assert!(queue.messages.len() < queue.capacity, "the queue for a lane's answer is full");
            queue.messages.push_back(Message::Committed(Box::new(answer)));
        }
    }

    /// What the database does with the batches that have reached it, whatever becomes of those who have sent them.
    fn commit_due(&mut self) {
        for lane in 0..self.in_flight.len() {
            let is_due = |flight: &InFlight| flight.result.is_none() && flight.ready_ms <= self.now.ms;
            if let Some(mut flight) = self.in_flight[lane].take_if(|flight| is_due(flight)) {
                flight.result = Some(self.batch_result(&flight));
                self.in_flight[lane] = Some(flight);
            }
        }
        let now_ms = self.now.ms;
        let (due, later): (Vec<Zombie>, Vec<Zombie>) =
            std::mem::take(&mut self.zombies).into_iter().partition(|zombie| zombie.at_ms <= now_ms);
        self.zombies = later;
        for Zombie { items, sent_when, .. } in due {
            if !items.iter().any(is_bad) {
                self.store.append_sent_when(sent_when.as_deref(), self.now.unix_ms, &items);
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
                false => BatchResult::OutcomeUnknown,
            };
        }
        let (now, sent_when) = (self.now.unix_ms, flight.sent_when.as_deref());
        let outcomes = flight.commits.then(|| self.store.append_sent_when(sent_when, now, &flight.items));
        match (outcomes, flight.answers) {
            (Some(outcomes), true) => {
                self.tally.duplicates += outcomes.iter().filter(|o| matches!(o, Outcome::Duplicate(_))).count() as u64;
                BatchResult::Answered(outcomes, Some(self.store.generation()))
            }
            (Some(_), false) => {
                self.tally.unknown_commits += 1;
                BatchResult::OutcomeUnknown
            }
            (None, _) => BatchResult::OutcomeUnknown,
        }
    }

    fn home_of_room(&self, node: usize, room: RoomId) -> Endpoint {
        Endpoint::Shard(self.shards[self.first_shard(node)].home_of(&Channel::Room(room)))
    }

    fn reader_step(&mut self) {
        for shard in 0..self.shards.len() {
            let (node, own) = (self.node_of(shard), self.endpoint_of(shard));
            if !self.is_running(node) {
                continue;
            }
            let queue = self.queues.get_mut(&(node, own, Endpoint::Reader)).expect("a queue to the reader");
            while let Some(message) = queue.messages.pop_front() {
                let Message::Read { requester, asker, request } = message else {
                    panic!("the reader received {message:?}")
                };
                let slow = if self.random.one_in(20) && !self.is_calm { 500 } else { 6 };
                let ready_ms = self.now.ms + self.random.below(slow);
                self.pending_reads.push(Pending { shard, requester, asker, request, ready_ms });
            }
        }
        let now_ms = self.now.ms;
        let (mut due, later): (Vec<Pending>, Vec<Pending>) =
            std::mem::take(&mut self.pending_reads).into_iter().partition(|p| p.ready_ms <= now_ms);
        self.pending_reads = later;
        while !due.is_empty() {
            let Pending { shard, requester, asker, request, .. } = due.swap_remove(self.random.index(due.len()));
            // The reader looks whether somebody waits when it begins, which may have been a while ago.
            let is_dropped = !asker.is_waiting() && self.random.one_in(2);
            let may_fail = self.has_faults() && self.late_shard.is_none();
            let is_down = now_ms < self.store_down_until_ms || may_fail && self.random.one_in(25);
            let answer = if is_down {
                self.tally.failed_reads += 1;
                if let StoreRequest::Admit { room, user } = &request
                    && self.checks_heads
                    && self.random.one_in(2)
                {
                    self.admit_unanswered(room, *user);
                }
                StoreReply::Failed
            } else if is_dropped {
                StoreReply::Failed
            } else {
                match request {
                    StoreRequest::Admit { room, user } => {
                        self.before_admission(user.0, &room);
                        let admission = self.store.admit(self.now.unix_ms, &room, user);
                        if let (Requester::Join(join), Ok(admission)) = (&requester, &admission) {
                            self.tally.joins += u64::from(admission.added.is_some());
                            let room = room_number(&room);
                            let key = (shard, join.caller.slot, user.0, room);
                            let asked = (
                                join.caller.generation,
                                join.caller.serial.0,
                                admission.offset,
                                self.store.generation().0,
                            );
                            let last = self.admissions.entry(key).or_insert(asked);
                            *last = asked.max(*last);
                        }
                        StoreReply::Admitted(admission)
                    }
                    StoreRequest::AdmitMember { .. } => panic!("nobody subscribes to a channel of a room"),
                    StoreRequest::User { .. } => panic!("the simulator's tokens carry user ids"),
                    StoreRequest::UserById { .. } => panic!("nobody is renamed"),
                    StoreRequest::MarkRead { .. } | StoreRequest::Rooms { .. } => {
                        panic!("no client of the simulator sends this")
                    }
                    StoreRequest::Head { room } => StoreReply::Head(self.store.head_of(room)),
                    StoreRequest::Sweep { heads } => {
                        let swept = self.store.sweep(&heads);
                        self.tally.sweeps_of_others += u64::from(self.nodes.len() > 1) * swept.heads.len() as u64;
                        StoreReply::Swept(Arc::new(swept))
                    }
                    StoreRequest::Page { room, request } => self.store.page(room, request, &asker.party),
                }
            };
            let (node, to) = (self.node_of(shard), self.endpoint_of(shard));
            let queue = self.queues.get_mut(&(node, Endpoint::Reader, to)).expect("a queue from the reader");
            assert!(queue.messages.len() < queue.capacity, "the queue for the reader's answer is full");
            self.tally.dropped_reads += u64::from(is_dropped);
            queue.messages.push_back(match is_dropped {
                true => Message::CreditReturned,
                false => Message::ReadReply { requester, reply: answer },
            });
        }
    }

    /// A user may join although nobody is answered. Nobody is told of it but by the room's head.
    fn admit_unanswered(&mut self, room: &str, user: UserId) {
        self.before_admission(user.0, room);
        let admission = self.store.admit(self.now.unix_ms, room, user);
        self.tally.unanswered_joins += u64::from(admission.is_ok_and(|admission| admission.joined));
    }

    // ── HTTP ────────────────────────────────────────────────────────────────────────────────────────────────────────

    fn http_step(&mut self, node: usize) {
        if !self.is_running(node) {
            return;
        }
        for shard in 0..self.shards_per_node() as u16 {
            let queue = self
                .queues
                .get_mut(&(node, Endpoint::Shard(shard), Endpoint::Http))
                .expect("a queue from each shard to HTTP");
            for message in std::mem::take(&mut queue.messages) {
                match message {
                    Message::Appended { caller, result, is_last, .. } => {
                        self.nodes[node].http_credits += usize::from(is_last);
                        let append = self.nodes[node].http.remove(&caller.slot).expect("the call that is answered");
                        if let Ok(Outcome::New(stored) | Outcome::Duplicate(stored)) = result {
                            self.tally.http_publishes += 1;
                            let row = self.store.find(append.item.room, stored.offset, |row| row.id == append.item.id);
                            assert!(row.is_some(), "HTTP was told an offset at which its message is not stored");
                        }
                        if let Ok(Outcome::Refused(refusal)) = result {
                            self.moderated.count(refusal);
                            self.http_refused.push((append.item.room, append.item.user, append.item.id));
                        }
                    }
                    Message::CreditReturned => self.nodes[node].http_credits += 1,
                    Message::Surveyed { number, .. } => {
                        self.nodes[node].http_credits += 1;
                        self.on_surveyed(node, shard, number);
                    }
                    other => panic!("HTTP received {other:?}"),
                }
            }
        }
        let now_ms = self.now.ms;
        if self.nodes[node].starts_over_ms.take_if(|at_ms| *at_ms <= now_ms).is_some() {
            let shards = 0..self.shards_per_node() as u16;
            self.nodes[node].notices.extend(shards.map(|shard| (shard, Message::StartOver)));
        }
        while self.nodes[node].http_credits > 0
            && let Some((shard, message)) = self.nodes[node].notices.pop_front()
        {
            self.nodes[node].http_credits -= 1;
            let queue = self.queues.get_mut(&(node, Endpoint::Http, Endpoint::Shard(shard)));
            queue.expect("a queue from HTTP to each shard").messages.push_back(message);
        }
        if self.nodes.len() > 1 && self.has_faults() && self.random.one_in(6) {
            self.begin_survey(node);
        }
        if self.is_silent() || !self.random.one_in(3) {
            return;
        }
        if self.nodes[node].http_credits == 0 {
            return;
        }
        let client = self.random.index(self.agents.len() + self.sdks.len());
        let user = match client.checked_sub(self.agents.len()) {
            None => self.agents[client].user,
            Some(sdk) => self.sdks[sdk].user,
        };
        if self.nodes.len() > 1 && self.has_faults() && self.random.one_in(12) {
            self.revoke(node, user);
            return;
        }
        let room = self.random.index(ROOMS - 1);
        if self.is_moderated && self.random.one_in(2) {
            self.moderate(node, room, user);
            return;
        }
        let room_id = self.store.room_id(room);
        let home = self.home_of_room(node, room_id);
        let is_membership = if self.removes_much { !self.random.one_in(4) } else { self.random.one_in(4) };
        let message = if is_membership {
            let publication = if let Some(publication) = self.store.remove(self.now.unix_ms, room, user) {
                self.tally.removals += 1;
                let generation = self.store.generation();
                self.removals.push(Removal { room, user, at: publication.offset, generation });
                publication
            } else {
                // The user is no member.
                self.forget_order(user, room);
                let Some(publication) = self.store.join(self.now.unix_ms, room, user) else { return };
                self.tally.http_joins += 1;
                publication
            };
            Message::Learn {
                room: room_id,
                generation: Some(self.store.generation()),
                publication: Box::new(publication),
            }
        } else {
            let append = self.http_append(room_id, user);
            self.nodes[node].http.insert(append.caller.slot, append.clone());
            Message::Append(Box::new(append))
        };
        self.nodes[node].http_credits -= 1;
        let queue = self.queues.get_mut(&(node, Endpoint::Http, home)).expect("a queue from HTTP to each shard");
        queue.messages.push_back(message);
    }

    fn http_append(&mut self, room: RoomId, user: i64) -> Append {
        self.http_calls += 1;
        let slot = self.http_calls;
        Append {
            caller: Caller { endpoint: Endpoint::Http, slot: Slot(slot), generation: 0, serial: Serial(0) },
            era: 0,
            deadline_ms: self.now.ms + self.limits.append_deadline_ms,
            item: Item {
                room,
                user: UserId(user),
                id: format!("http{slot}").into(),
                kind: Kind::Message,
                target: None,
                body: Some("by http".into()),
                meta: None,
            },
            username: format!("user{user}").into(),
        }
    }

    // ── clients ─────────────────────────────────────────────────────────────────────────────────────────────────────

    fn client_step(&mut self) -> Result<(), String> {
        let client = self.random.index(self.agents.len() + self.sdks.len());
        match client.checked_sub(self.agents.len()) {
            None => self.step_agent(client),
            Some(sdk) => self.step_sdk(sdk),
        }
    }

    fn step_agent(&mut self, index: usize) -> Result<(), String> {
        let Some((shard, slot)) = self.agents[index].at else {
            if !self.is_stopping && self.can_connect() && (self.are_faults_over || self.random.one_in(2)) {
                self.connect(index);
            }
            return Ok(());
        };
        let has_faults = self.has_faults();
        let agent = &mut self.agents[index];
        if agent.stream.rejected_with.is_some() || agent.stream.closed_with.is_some() {
            self.hang_up(ClientId::Plain(index), shard, slot);
            return Ok(());
        }
        if has_faults {
            match self.random.below(40) {
                0 | 1 => {
                    self.hang_up(ClientId::Plain(index), shard, slot);
                    return Ok(());
                }
                2 => agent.stopped_reading = true,
                3..=8 => agent.stopped_reading = false,
                _ => {}
            }
        }
        if !self.agents[index].stream.joined {
            return Ok(());
        }
        // Without waiting for the answers to earlier ones.
        let burst = if self.random.one_in(5) { 20 } else { 4 };
        let count = 1 + self.random.index(burst);
        let agent = &mut self.agents[index];
        // A lost live message disconnects its readers, and those who come back make homes read their heads.
        let is_silent = self.are_faults_over || self.is_quiet || self.is_calm && agent.room == ROOMS - 1;
        if agent.outbox.has_space(count) && !is_silent && self.random.one_in(2) {
            for _ in 0..count {
                agent.outbox.ids += 1;
                let id = format!("{}-{}", agent.user, agent.outbox.ids);
                let text = match self.random.below(30) {
                    0 if agent.room < ROOMS - 1 => BAD_TEXT.to_owned(),
                    1 | 2 => format!("{id} {}", "x".repeat(200)),
                    _ => id.clone(),
                };
                agent.outbox.order.push(id.clone());
                agent.outbox.add(id, text);
            }
        }
        // In the end it must not fill its own queue with answers again and again.
        let limit = match self.are_faults_over {
            true => 3_usize.saturating_sub(agent.outbox.sent.len()),
            false => 1 + self.random.index(20),
        };
        let (now_ms, user, attempt) = (self.now.ms, agent.user, agent.attempt);
        let is_live = agent.room == ROOMS - 1;
        let mut frames = Vec::new();
        let to_send = agent.outbox.next_to_send(now_ms, limit);
        self.tally.pipelined += u64::from(agent.outbox.sent.len() as u64 > self.limits.pending_publishes_limit);
        for (id, text) in to_send {
            frames.push(match is_live {
                true => format!("{user} {attempt} {}", id.rsplit('-').next().unwrap_or_default()),
                false => json!({"text": text, "id": id, "meta": meta_of(&id)}).to_string(),
            });
            if is_live {
                // Publishing to a `live:` channel is not acknowledged.
                agent.outbox.on_refused(&id);
            }
        }
        // Its place in the order is known only if everything before it has been sent.
        if !is_live && !is_silent && agent.outbox.has_sent_all() && self.random.one_in(20) {
            agent.outbox.ids += 1;
            let text = format!("{user}-{}", agent.outbox.ids);
            agent.outbox.order.push(text.clone());
            frames.push(json!({"text": text}).to_string());
        }
        self.transmit(shard, slot, frames.into_iter().map(Frame::Text));
        Ok(())
    }

    fn attempt_of(&self, client: ClientId) -> u64 {
        match client {
            ClientId::Plain(index) => self.agents[index].attempt,
            ClientId::Sdk(index) => self.sdks[index].attempt,
        }
    }

    fn location(&self, client: ClientId) -> Option<(usize, Slot)> {
        match client {
            ClientId::Plain(index) => self.agents[index].at,
            ClientId::Sdk(index) => self.sdks[index].at,
        }
    }

    fn is_reading(&self, client: ClientId) -> bool {
        match client {
            ClientId::Plain(index) => !self.agents[index].stopped_reading,
            ClientId::Sdk(index) => !self.sdks[index].stopped_reading,
        }
    }

    /// A client's connection is closed. If its user was removed from a room, the order of the messages that were
    /// pending then is no longer checked. If it goes on with another node, messages that it does not send again may be
    /// stored later than the next ones.
    fn on_disconnect(&mut self, client: ClientId) {
        let removals = &self.removals;
        let is_cluster = self.nodes.len() > 1;
        match client {
            ClientId::Plain(index) => {
                let agent = &mut self.agents[index];
                agent.outbox.forget_abandoned_if(is_cluster);
                agent.outbox.forget_order_if(was_removed(removals, agent.user, agent.room, agent.removals_seen));
                agent.on_disconnect();
            }
            ClientId::Sdk(index) => {
                let sdk = &mut self.sdks[index];
                for channel in &mut sdk.channels {
                    let Some(room) = channel.room else { continue };
                    channel.outbox.forget_abandoned_if(is_cluster);
                    channel.outbox.forget_order_if(was_removed(removals, sdk.user, room, channel.removals_seen));
                }
                sdk.on_disconnect();
            }
        }
    }

    /// A user is about to be admitted to a room: earlier removals do not matter any more.
    fn before_admission(&mut self, user: i64, name: &str) {
        let room = room_number(name);
        self.forget_order(user, room);
        let seen = self.removals.len();
        if let Some(agent) = self.agents.iter_mut().find(|agent| agent.user == user) {
            agent.removals_seen = seen;
        }
        let sdk = self.sdks.iter_mut().find(|sdk| sdk.user == user);
        if let Some(channel) = sdk.and_then(|sdk| sdk.channels.iter_mut().find(|c| c.room == Some(room))) {
            channel.removals_seen = seen;
        }
    }

    /// A user may become a member of a room again: of what was sent while the user was none, some may be refused.
    pub fn forget_order(&mut self, user: i64, room: usize) {
        let removals = &self.removals;
        if let Some(agent) = self.agents.iter_mut().find(|agent| agent.user == user) {
            agent.outbox.forget_order_if(was_removed(removals, user, room, agent.removals_seen));
        }
        let sdk = self.sdks.iter_mut().find(|sdk| sdk.user == user);
        if let Some(channel) = sdk.and_then(|sdk| sdk.channels.iter_mut().find(|c| c.room == Some(room))) {
            channel.outbox.forget_order_if(was_removed(removals, user, room, channel.removals_seen));
        }
    }

    /// Whether a shard may run out of credits for another one, so that what its clients send is refused.
    pub fn may_be_overloaded(&self) -> bool {
        self.limits.mesh_calls_limit < 64 || self.late_shard.is_some()
    }

    /// Whether a node accepts connections.
    pub fn can_connect(&self) -> bool {
        (0..self.nodes.len()).any(|node| self.is_running(node))
    }

    /// Opens a connection of a client on a random shard of the nodes that run.
    pub fn open_socket(&mut self, client: ClientId) -> (usize, Slot) {
        let running: Vec<usize> = (0..self.shards.len()).filter(|id| self.is_running(self.node_of(*id))).collect();
        let id = running[self.random.index(running.len())];
        let ((shard, now), mut host) = self.shard_and_host(id);
        let slot = shard.opened(now, &mut host);
        if self.sockets[id].len() <= slot.index() {
            self.sockets[id].resize_with(slot.index() + 1, Socket::default);
        }
        self.on_disconnect(client);
        let attempt = match client {
            ClientId::Plain(index) => {
                let agent = &mut self.agents[index];
                agent.attempt += 1;
                agent.at = Some((id, slot));
                agent.attempt
            }
            ClientId::Sdk(index) => {
                let sdk = &mut self.sdks[index];
                sdk.attempt += 1;
                sdk.at = Some((id, slot));
                sdk.attempt
            }
        };
        let is_slow = self.random.one_in(3);
        self.sockets[id][slot.index()] =
            Socket { client: Some((client, attempt)), is_used: true, is_slow, ..Socket::default() };
        (id, slot)
    }

    fn connect(&mut self, index: usize) {
        if self.random.one_in(30) && self.agents[index].outbox.is_resolved() && !self.are_faults_over {
            // It moves to another room for good, and forgets what it knew about the old one.
            self.agents[index].room = self.random.index(ROOMS);
            self.agents[index].position = None;
            self.agents[index].outbox.order.clear();
        }
        let (id, slot) = self.open_socket(ClientId::Plain(index));
        let generation = self.token_generation(self.agents[index].user);
        let signs_in = self.random.one_in(2);
        let agent = &mut self.agents[index];
        if signs_in || agent.must_sign_in {
            (agent.token_generation, agent.must_sign_in) = (generation, false);
        }
        let mut query = match agent.room {
            room if room == ROOMS - 1 => "room=live:all".to_owned(),
            room => format!("room=room{room}&format=json"),
        };
        if let Some((epoch, offset)) = &agent.position
            && agent.room < ROOMS - 1
        {
            query.push_str(&format!("&since={offset}&epoch={epoch}"));
        }
        query.push_str(&format!("&token={}.{NEVER_S}.{}", agent.user, agent.token_generation));
        agent.replay_from = self.shown.get(&(id, agent.room)).copied().unwrap_or(0);
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        let request = UpgradeRequest { peer, path: "/ws".into(), query, ..UpgradeRequest::default() };
        let ((shard, now), mut host) = self.shard_and_host(id);
        shard.requested(now, slot, request, &mut host);
        self.more[id] = true;
    }

    pub fn hang_up(&mut self, client: ClientId, id: usize, slot: Slot) {
        self.on_disconnect(client);
        self.sockets[id][slot.index()].client = None;
        let node = self.node_of(id);
        if !self.is_running(node) {
            self.nodes[node].ended.push((id, slot));
        } else if !self.sockets[id][slot.index()].is_cut {
            let fails = self.random.one_in(2);
            let ((shard, now), mut host) = self.shard_and_host(id);
            match fails {
                true => shard.failed(now, slot, &mut host),
                false => shard.peer_closed(now, slot, &mut host),
            }
            self.more[id] = true;
        }
    }

    /// Delivers any number of bytes of one send in flight.
    fn network_step(&mut self) -> Result<(), String> {
        let mut ready = Vec::new();
        for (id, sockets) in self.sockets.iter().enumerate() {
            if !self.is_running(self.node_of(id)) {
                continue;
            }
            for (slot, socket) in sockets.iter().enumerate() {
                let reads = socket.client.is_none_or(|(client, _)| self.is_reading(client));
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
        let count =
            if !self.has_faults() || self.random.one_in(2) { bytes.len() } else { 1 + self.random.index(bytes.len()) };
        let client = self.sockets[id][slot].client;
        {
            let ((shard, now), mut host) = self.shard_and_host(id);
            shard.sent(now, Slot(slot as u32), count, &mut host);
        }
        self.more[id] = true;
        if let Some((client, attempt)) = client
            && self.attempt_of(client) == attempt
            && self.location(client) == Some((id, Slot(slot as u32)))
        {
            let received = match client {
                ClientId::Plain(index) => self.agents[index].stream.decode(&bytes[..count])?,
                ClientId::Sdk(index) => self.sdks[index].stream.decode(&bytes[..count])?,
            };
            for item in received {
                self.on_received(client, id, Slot(slot as u32), item)?;
            }
            // Sometimes it hangs up in the middle of a send, and resumes from there later.
            if count < bytes.len() && self.location(client) == Some((id, Slot(slot as u32))) && self.random.one_in(8) {
                self.hang_up(client, id, Slot(slot as u32));
            }
        }
        Ok(())
    }

    fn on_received(&mut self, client: ClientId, id: usize, slot: Slot, item: Received) -> Result<(), String> {
        match (client, item) {
            (_, Received::Rejected(503)) => Ok(()),
            (ClientId::Plain(index), Received::Rejected(401)) => {
                let (user, generation) = (self.agents[index].user, self.agents[index].token_generation);
                self.agents[index].must_sign_in = true;
                self.tally.signed_out += 1;
                self.revoked_ms(user, generation).map(|_| ()).ok_or("a valid token was rejected".into())
            }
            (ClientId::Plain(index), Received::Rejected(403))
                if self.banned.contains(&(self.agents[index].room, self.agents[index].user)) =>
            {
                Ok(())
            }
            (_, Received::Rejected(status)) => Err(format!("{client:?} was rejected with {status}")),
            (_, Received::Ping(payload)) => {
                self.transmit(id, slot, [Frame::Pong(payload)]);
                Ok(())
            }
            (ClientId::Sdk(index), Received::Close(code)) => self.sdk_on_close(index, code),
            (ClientId::Plain(index), Received::Close(code)) => {
                self.agents[index].must_sign_in |= code == 3503;
                match code {
                    3008 => self.tally.slow_disconnected += 1,
                    3010 if self.late_shard.is_some() && self.agents[index].room < ROOMS - 1 => {
                        return Err("a reader of a room was closed with 3010".into());
                    }
                    // After a failover, tokens of the old history are not valid any more.
                    3005 if self.tally.failovers > 0 => {}
                    1001 | 3010 | 3011 | 3012 | 3503 => {}
                    DISCONNECTED if self.disconnected.contains(&self.agents[index].user) => {}
                    other => {
                        return Err(format!(
                            "the connection of user {} was closed with {other}",
                            self.agents[index].user
                        ));
                    }
                }
                Ok(())
            }
            (ClientId::Sdk(index), Received::Text(text)) => self.sdk_on_frame(index, id, slot, &text),
            (ClientId::Plain(index), Received::Text(text)) => {
                let user = self.agents[index].user;
                let event: Value = serde_json::from_str(&text).map_err(|error| format!("{error} in {text:?}"))?;
                self.on_event(index, &event).map_err(|broken| format!("user {user} received {event}: {broken}"))
            }
        }
    }

    fn on_event(&mut self, index: usize, event: &Value) -> Result<(), String> {
        let agent = &mut self.agents[index];
        let number = |name: &str| event[name].as_u64().ok_or(format!("no {name}"));
        let kind = event["type"].as_str().ok_or("no type")?;
        if kind == "joined" {
            if std::mem::replace(&mut agent.stream.joined, true) {
                return Err("it joined twice".into());
            }
            if agent.room == ROOMS - 1 {
                return Ok(());
            }
            let (epoch, offset) = (event["epoch"].as_str().ok_or("no epoch")?.to_owned(), number("offset")?);
            let history = self.store.history(&epoch).ok_or("an unknown epoch")?;
            let head = history.head(agent.room);
            let has_moved = agent.position.as_ref().is_some_and(|(known, _)| *known != epoch);
            if has_moved {
                if event["recovered"] != false || offset > head {
                    return Err("it must start over, because its epoch is over".into());
                }
                self.tally.started_over += 1;
            } else if let Some((known_epoch, known_offset)) = &agent.position {
                if event["recovered"] != true || *known_epoch != epoch || *known_offset != offset {
                    return Err(format!("it asked to resume from {known_offset} of {known_epoch}"));
                }
                self.tally.resumed += 1;
                if offset < head {
                    self.tally.resumed_with_missed += 1;
                }
            } else if offset > head {
                return Err("the position is not committed".into());
            }
            agent.position = Some((epoch, offset));
            return Ok(());
        }
        if !agent.stream.joined {
            return Err("it came before `joined`".into());
        }
        match kind {
            "live" => {
                let text = event["data"].as_str().ok_or("no data")?;
                let mut parts = text.split(' ').filter_map(|part| part.parse::<u64>().ok());
                let (Some(sender), Some(attempt), Some(number)) = (parts.next(), parts.next(), parts.next()) else {
                    return Err("the message was not made by a client of the simulator".into());
                };
                // Each message of a connection comes once, in order. Those rejected for lack of credits are missing.
                let seen = agent.live_seen.insert((sender as i64, attempt), number);
                let may_be_refused = self.may_be_overloaded();
                if seen.is_some_and(|seen| number <= seen || number != seen + 1 && !may_be_refused) {
                    return Err(format!("the last number seen from this connection is {seen:?}"));
                }
                self.tally.live += 1;
                Ok(())
            }
            "message" | "added" | "removed" | "edit" | "delete" | "react" | "unreact" | "moderated" => {
                let offset = number("offset")?;
                let (epoch, position) = agent.position.as_mut().ok_or("a publication arrived before a position")?;
                let history = self.store.history(epoch).ok_or("an unknown epoch")?;
                if offset != *position + 1 {
                    return Err(format!("its position is {position}: a gap, a duplicate or a wrong order"));
                }
                *position = offset;
                let room = agent.room;
                let room_id = self.store.room_id(room);
                let row = history.row(room_id, offset).ok_or("the publication is not committed")?;
                let row_type = match row.kind {
                    Kind::Message => "message",
                    Kind::Edit => "edit",
                    Kind::Delete => "delete",
                    Kind::React => "react",
                    Kind::Unreact => "unreact",
                    Kind::Removed => "removed",
                    Kind::RoomChanged => "room",
                    Kind::Added => "added",
                    Kind::Moderated => "moderated",
                    Kind::Unknown => "unknown",
                };
                let member = row.member();
                let change = row.body.as_deref().filter(|_| row.kind == Kind::Moderated);
                let change: Option<Value> = change.and_then(|body| serde_json::from_str(body).ok());
                let shows_change = change
                    .as_ref()
                    .and_then(Value::as_object)
                    .is_none_or(|fields| fields.iter().all(|(name, value)| event[name] == *value));
                let matches_store = shows_change
                    && event["user"]["id"].as_str() == Some(&row.user.id.to_string())
                    && kind == row_type
                    && history.shows(room_id, &row, agent.replay_from, event["text"].as_str())
                    && history.is_edited_at(room_id, &row, event["edited"].as_u64(), event["text"].as_str())
                    && event["meta"] == shown_meta(&row, event["text"].as_str())
                    && (event["deleted"] == true)
                        == (matches!(row.kind, Kind::Message | Kind::Edit) && event["text"].is_null())
                    && event[row_type].as_str() == member.map(|member| member.id)
                    && (change.is_some() || event["username"].as_str() == member.and_then(|member| member.username))
                    && event["target"].as_u64() == row.target.filter(|_| row.kind != Kind::Message)
                    && event["id"].as_str() == Some(&*row.id).filter(|id| !id.starts_with('~'));
                if !matches_store {
                    return Err(format!("the store has {row:?} there"));
                }
                let removed = self.removals[agent.removals_seen..]
                    .iter()
                    .filter(|removal| history.is_of_or_after(removal.generation))
                    .find(|removal| removal.room == room && removal.user == agent.user && removal.at < offset);
                if let Some(Removal { at, .. }) = removed {
                    return Err(format!("the user was removed at {at}, after it was admitted"));
                }
                let (user, generation) = (agent.user, agent.token_generation);
                self.check_token(user, generation, self.ms_of(row.time))?;
                let agent = &mut self.agents[index];
                self.tally.publications += 1;
                let is_kept = self.store.row(room_id, offset).is_some_and(|now| now.id == row.id);
                if let Some((shard, _)) = agent.at
                    && is_kept
                {
                    self.shown.entry((shard, room)).and_modify(|shown| *shown = offset.max(*shown)).or_insert(offset);
                }
                if kind == "message" && row.user.id.0 == agent.user && !row.id.starts_with("http") {
                    agent.outbox.on_own(&row, is_kept)?;
                }
                Ok(())
            }
            "ack" => {
                // A message that was sent without an id may be acknowledged too.
                let Some(id) = event["id"].as_str() else { return Ok(()) };
                let offset = number("offset")?;
                let is_it = |row: &Publication| &*row.id == id && row.user.id.0 == agent.user;
                let found = self.store.find(self.store.room_id(agent.room), offset, is_it);
                let (_, is_kept) = found.ok_or("it acknowledges a message that is not stored there")?;
                agent.outbox.resolve_if(is_kept, id, offset)
            }
            "error" => {
                let id = event["id"].as_str().map(str::to_owned);
                let (room, user) = (agent.room, agent.user);
                let is_limited = self.may_be_limited(room, user);
                let agent = &mut self.agents[index];
                match (number("code")?, id) {
                    (103 | 111, None) if is_limited => Ok(()),
                    (103 | 111, Some(id)) if is_limited => {
                        agent.outbox.on_limited(&id, self.now.ms);
                        Ok(())
                    }
                    // A message of a `live:` channel, or one that is sent without an id.
                    (100, None) => Ok(()),
                    (103, None) if self.has_lost_commits || was_removed(&self.removals, agent.user, agent.room, 0) => {
                        Ok(())
                    }
                    (100, Some(id)) => {
                        self.tally.outcomes_unknown += 1;
                        agent.outbox.on_unknown(&id, self.now.ms, self.limits.append_deadline_ms);
                        Ok(())
                    }
                    (103 | 107, Some(id)) => {
                        // If it was sent twice, the first answer has resolved it.
                        let is_bad = agent.outbox.text(&id).is_none_or(|text| text == BAD_TEXT);
                        let is_removed = was_removed(&self.removals, agent.user, agent.room, 0);
                        if !is_bad && !is_removed && !self.has_lost_commits {
                            return Err("it was rejected for no reason".into());
                        }
                        agent.outbox.on_refused(&id);
                        Ok(())
                    }
                    _ => Err("an unexpected error".into()),
                }
            }
            _ => Err("an event of an unknown type".into()),
        }
    }
}

/// How a node stands with the others before it has heard anything.
fn bus_state(nodes: usize) -> Arc<BusState> {
    let state = BusState::new(if nodes > 1 { Bus::Disconnected } else { Bus::Alone }, 7_000);
    state.set_version(2);
    Arc::new(state)
}

/// The shards of a node.
fn shards_of(config: &ShardConfig) -> impl Iterator<Item = Shard> + use<> {
    let config = config.clone();
    (0..config.shards).map(move |id| Shard::new(ShardConfig { id, ..config.clone() }))
}

fn room_number(name: &str) -> usize {
    name.strip_prefix("room").and_then(|room| room.parse().ok()).expect("a room of the simulator")
}

/// Whether a user was removed from a room after the first `seen` removals.
fn was_removed(removals: &[Removal], user: i64, room: usize, seen: usize) -> bool {
    removals[seen..].iter().any(|removal| removal.room == room && removal.user == user)
}

fn is_bad(item: &Item) -> bool {
    item.body.as_deref() == Some(BAD_TEXT)
}
