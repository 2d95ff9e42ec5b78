//! The members of rooms, which send messages and check what they receive.

use super::behaviour::{self, Behaviour, MixSchedule};
use super::coordinator::{Coordinator, CpuMeter, Phases};
use super::tally::{Sample, Tally};
use crate::client::message::{Message, TextCodec};
use crate::client::{Client, CloseReason, Io, SECOND, Wait};
use crate::dialect::{Dialect, Position, ServerEvent};
use crate::ledger::{self, Arrival, Ledger};
use crate::result::{Load, Shape};
use crate::server::Target;
use anyhow::{Result, bail};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

/// How long no connection may join before the run fails.
const JOIN_TIMEOUT_NS: u64 = 10 * SECOND;
/// How long nothing may arrive after the end of the load before what is missing counts as lost.
const DRAIN_TIMEOUT_NS: u64 = 3 * SECOND;
/// How long members keep listening after everything has arrived, to catch messages that should not come.
const QUIET_NS: u64 = SECOND / 20;
const DRAIN_POLL_NS: u64 = SECOND / 200;

/// What all threads of a run share.
#[derive(Debug)]
pub struct RunSetup {
    pub shape: Shape,
    pub codec: TextCodec,
    /// What to connect to, for each room.
    pub targets: Vec<Target>,
    /// A token for each member, room after room. Empty for servers without users.
    pub tokens: Vec<String>,
    pub coordinator: Coordinator,
    /// Whether the server pads its frames with spaces.
    pub is_padded: bool,
    pub behaviour: Behaviour,
    /// The addresses of the server, or of all nodes.
    pub addresses: Vec<SocketAddr>,
    pub placement: Placement,
    /// Whether each delivery is recorded by itself.
    pub keeps_samples: bool,
}

/// Which members of a room connect to which node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// They are spread over all nodes.
    #[default]
    Spread,
    /// Those that send are on the first node, all others on this one.
    Crowd(usize),
}

impl Placement {
    /// The node of the member with this index, of which the first ones send.
    fn node(self, index: u32, senders: u32, nodes: usize) -> usize {
        match self {
            Placement::Spread => index as usize % nodes,
            Placement::Crowd(_) if index < senders => 0,
            Placement::Crowd(node) => node,
        }
    }
}

/// The members of a thread's rooms. Connection ids are assigned room after room.
#[derive(Debug)]
pub struct RoomMembers {
    dialect: Dialect,
    state: State,
}

#[derive(Debug)]
pub(super) struct State {
    pub setup: Arc<RunSetup>,
    pub rooms: Vec<Room>,
    pub members: Vec<Member>,
    senders: Vec<Sender>,
    phases: Option<Phases>,
    has_started: bool,
    pub has_stormed: bool,
    /// How many messages of an open load have been sent.
    scheduled: u64,
    pub mix: Option<MixSchedule>,
    joined: usize,
    last_progress: u64,
    complete_since: Option<u64>,
    fatal: Option<String>,
    cpu: CpuMeter,
    pub tally: Tally,
    text: Vec<u8>,
    frame: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct Room {
    /// The room's index among the rooms of all threads.
    pub number: u32,
    pub ledger: Ledger,
    pub epoch: String,
}

#[derive(Debug)]
pub(super) struct Member {
    /// Index into the thread's rooms.
    pub room: u32,
    /// Index among the members of its room. The first ones are the senders.
    pub index: u32,
    /// Index of the node that it is connected to.
    pub node: usize,
    pub location: Location,
    /// Whether it has ever joined a stored room, so that it can recover.
    pub has_position: bool,
    /// When it last joined its room.
    pub joined_at: u64,
    /// When it lost its connection. Set until it has caught up.
    pub away_since: Option<u64>,
    /// The number of the room that it visits or visited last. Messages from there don't belong to its own room.
    pub visited: Option<u32>,
}

/// Where a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Location {
    /// Not connected, or not joined yet.
    Outside,
    /// In its own room.
    Home,
    /// In another room.
    Visiting {
        /// The last offset there. `None` until it has joined that room.
        offset: Option<u64>,
    },
    /// Returning to its own room on the same connection.
    Returning,
}

#[derive(Debug)]
struct Sender {
    id: usize,
    /// In protocols with replies, the due times of messages from the oldest unacknowledged one. `None` if acknowledged.
    pending: VecDeque<Option<u64>>,
    /// The number of the first message in `pending`.
    first: u32,
}

impl RoomMembers {
    /// The members of the rooms whose number modulo `threads` is `thread`.
    pub fn new(setup: Arc<RunSetup>, thread: usize, threads: usize) -> RoomMembers {
        let Shape { rooms, members, senders, wire, .. } = setup.shape;
        let numbers: Vec<u32> = (0..rooms).filter(|room| *room as usize % threads == thread).collect();
        let mut all = Vec::new();
        let mut sending = Vec::new();
        for (room, _) in numbers.iter().enumerate() {
            for index in 0..members {
                if index < senders {
                    sending.push(Sender { id: all.len(), pending: VecDeque::new(), first: 0 });
                }
                all.push(Member {
                    room: room as u32,
                    index,
                    node: setup.placement.node(index, senders, setup.addresses.len()),
                    location: Location::Outside,
                    has_position: false,
                    joined_at: 0,
                    away_since: None,
                    visited: None,
                });
            }
        }
        let rooms = numbers.into_iter().map(|number| Room {
            number,
            ledger: Ledger::new(number, members as usize, senders as usize),
            epoch: String::new(),
        });
        let mix = (setup.behaviour == Behaviour::Mix).then(|| MixSchedule::new(thread as u64));
        let state = State {
            rooms: rooms.collect(),
            members: all,
            senders: sending,
            phases: None,
            has_started: false,
            has_stormed: false,
            scheduled: 0,
            mix,
            joined: 0,
            last_progress: setup.coordinator.clock.now(),
            complete_since: None,
            fatal: None,
            cpu: CpuMeter::default(),
            tally: Tally::default(),
            text: Vec::new(),
            frame: Vec::new(),
            setup: Arc::clone(&setup),
        };
        RoomMembers { dialect: Dialect::new(wire, &setup.codec, setup.is_padded), state }
    }

    pub fn connections(&self) -> usize {
        self.state.members.len()
    }

    /// Connects all members.
    pub fn connect_all(&self, io: &mut Io) {
        (0..self.state.members.len()).for_each(|id| self.state.connect(io, id));
    }

    /// The counts of this thread, at the end.
    pub fn tally(mut self) -> Tally {
        let tally = &mut self.state.tally;
        for room in &self.state.rooms {
            ledger::add(&mut tally.faults, &room.ledger.faults());
        }
        // Messages after an unacknowledged one may have been acknowledged.
        let unanswered = self.state.senders.iter().flat_map(|sender| &sender.pending).flatten().count();
        if unanswered > 0 {
            tally.faults.lost += unanswered as u64;
            tally.note_fault(|| format!("{unanswered} messages were never acknowledged"));
        }
        tally.cpu_share = self.state.cpu.share();
        self.state.tally
    }
}

impl State {
    /// The index of a member among the members of all threads.
    fn global_index(&self, member: &Member) -> usize {
        let room = self.rooms[member.room as usize].number as usize;
        room * self.setup.shape.members as usize + member.index as usize
    }

    fn token(&self, member: &Member) -> &str {
        self.setup.tokens.get(self.global_index(member)).map_or("", String::as_str)
    }

    pub fn target(&self, room: u32) -> &Target {
        &self.setup.targets[self.rooms[room as usize].number as usize]
    }

    /// The position from which a member recovers, if it has been in its room before.
    pub fn position(&self, member: &Member) -> Option<Position> {
        let room = &self.rooms[member.room as usize];
        let offset = room.ledger.offset(member.index as usize).filter(|_| member.has_position)?;
        Some(Position { epoch: room.epoch.clone(), offset })
    }

    pub fn connect(&self, io: &mut Io, id: usize) {
        let member = &self.members[id];
        let mut path = self.target(member.room).path.clone();
        let mut headers = String::new();
        if self.setup.shape.wire != crate::result::Wire::Centrifugo && !self.setup.tokens.is_empty() {
            headers = format!("Authorization: Bearer {}\r\n", self.token(member));
            if let Some(Position { epoch, offset }) = self.position(member) {
                path.push_str(&format!("&since={offset}&epoch={epoch}"));
            }
        }
        io.connect(id, self.setup.addresses[member.node], &path, &headers);
    }

    /// Drops a member's connection and connects again.
    pub fn reconnect(&mut self, io: &mut Io, id: usize, now: u64) {
        io.abort(id);
        let member = &mut self.members[id];
        member.location = Location::Outside;
        member.away_since = Some(now);
        self.connect(io, id);
    }

    fn on_joined(&mut self, io: &mut Io, id: usize, position: Option<Position>, now: u64) {
        let member = &mut self.members[id];
        if let Location::Visiting { offset } = &mut member.location {
            *offset = position.map(|position| position.offset);
            return;
        }
        io.mark_ready(id);
        member.location = Location::Home;
        member.joined_at = now;
        if !member.has_position {
            member.has_position = position.is_some();
            if member.away_since.is_none() {
                self.joined += 1;
                self.setup.coordinator.add_joined();
            }
            if let Some(Position { epoch, offset }) = position {
                let room = &mut self.rooms[member.room as usize];
                room.epoch = epoch;
                room.ledger.set_start(member.index as usize, offset);
            }
        }
        self.last_progress = now;
        self.check_caught_up(id, now);
    }

    /// Records the recovery of a member that was away, if it has caught up.
    fn check_caught_up(&mut self, id: usize, now: u64) {
        let member = &mut self.members[id];
        if let Some(since) = member.away_since
            && member.location == Location::Home
            && self.rooms[member.room as usize].ledger.has_all(member.index as usize)
        {
            member.away_since = None;
            self.tally.recovery.record(now - since);
        }
    }

    fn send(&mut self, dialect: &Dialect, io: &mut Io, sender: usize, intended: u64) {
        let id = self.senders[sender].id;
        let Member { room, index, .. } = self.members[id];
        if !io.is_open(id) {
            return;
        }
        let Room { number: room_number, ledger, .. } = &mut self.rooms[room as usize];
        let number = ledger.send(index as usize, intended);
        self.text.clear();
        self.setup.codec.encode(&mut self.text, Message { room: *room_number, sender: index, number, intended });
        self.frame.clear();
        let channel = &self.setup.targets[*room_number as usize].channel;
        dialect.publish(&mut self.frame, channel, number, &self.text);
        io.send(id, &self.frame);
        self.tally.sent += u64::from(self.phases.is_some_and(|phases| phases.measures(intended)));
        if dialect.has_replies() {
            self.senders[sender].pending.push_back(Some(intended));
        }
    }

    #[inline]
    fn on_acknowledged(&mut self, intended: u64, now: u64) {
        let Some(phases) = self.phases else { return };
        self.tally.acknowledged += u64::from(phases.measures(now));
        if phases.measures(intended) {
            self.tally.ack.record(now - intended);
        }
    }

    /// In a closed load, a sender sends its next message when the previous one has come back, even in protocols with
    /// acknowledgements, so that all servers are treated the same. Acknowledgements never come later than that.
    #[inline]
    fn on_own_message(&mut self, dialect: &Dialect, io: &mut Io, id: usize, now: u64) {
        let Some(phases) = self.phases else { return };
        if matches!(self.setup.shape.load, Load::Window(_)) && now < phases.end {
            self.send(dialect, io, self.sender_of(id), now);
        }
    }

    /// The index of a sending member in `senders`.
    fn sender_of(&self, id: usize) -> usize {
        let Member { room, index, .. } = self.members[id];
        room as usize * self.setup.shape.senders as usize + index as usize
    }

    #[inline]
    fn on_message(&mut self, dialect: &Dialect, io: &mut Io, id: usize, text: &[u8], offset: Option<u64>, now: u64) {
        let message = self.setup.codec.decode(text);
        let member = &mut self.members[id];
        let room = &mut self.rooms[member.room as usize];
        if let Some(message) = message
            && message.room != room.number
            && member.visited == Some(message.room)
        {
            let is_there = self.on_visited_room(id, offset);
            self.tally.deliveries += u64::from(is_there && self.phases.is_some_and(|phases| phases.measures(now)));
            return;
        }
        let arrival = room.ledger.arrive(member.index as usize, message, offset);
        let Some(message) = message.filter(|_| arrival != Arrival::Invalid) else {
            self.tally.note_fault(|| format!("a wrong message: {}", String::from_utf8_lossy(text)));
            return;
        };
        // Wrong messages are no progress, or a server that keeps sending them would keep the run going forever.
        self.last_progress = now;
        let Some(phases) = self.phases else { return };
        self.tally.deliveries += u64::from(phases.measures(now));
        // A message that was due while the member was away says nothing about the latency of a delivery.
        if phases.measures(message.intended) && member.joined_at <= message.intended {
            let latency = now.saturating_sub(message.intended);
            self.tally.delivery.record(latency);
            if self.setup.keeps_samples {
                let Shape { senders, .. } = self.setup.shape;
                let node = self.setup.placement.node(message.sender, senders, self.setup.addresses.len());
                let is_elsewhere = node != member.node;
                self.tally.samples.push(Sample { intended: message.intended, latency, is_elsewhere });
            }
            if arrival == Arrival::Completes {
                self.tally.last.record(latency);
            }
        }
        let is_own = message.sender == member.index;
        if member.away_since.is_some() {
            self.check_caught_up(id, now);
        }
        if is_own {
            if !dialect.has_replies() {
                self.on_acknowledged(message.intended, now);
            }
            self.on_own_message(dialect, io, id, now);
        }
    }

    /// Checks the offset of a publication that is no message.
    fn on_no_message(&mut self, id: usize, channel: Option<&str>, offset: u64) {
        let member = &self.members[id];
        let is_in = |number: u32| channel == Some(&self.setup.targets[number as usize].channel);
        let (room, index) = (member.room as usize, member.index as usize);
        if channel.is_none() || is_in(self.rooms[room].number) {
            self.rooms[room].ledger.advance(index, offset);
        } else if member.visited.is_some_and(is_in) {
            self.on_visited_room(id, Some(offset));
        }
    }

    /// Checks that a publication of a visited room has the next offset. False: the member is not there any more.
    fn on_visited_room(&mut self, id: usize, offset: Option<u64>) -> bool {
        let Location::Visiting { offset: Some(last) } = &mut self.members[id].location else { return false };
        if offset != Some(*last + 1) {
            self.tally.faults.disagreeing += 1;
            self.tally.note_fault(|| format!("a visitor got offset {offset:?} after {last}"));
        }
        *last = offset.unwrap_or(*last + 1);
        true
    }

    fn on_event(&mut self, dialect: &Dialect, io: &mut Io, id: usize, event: ServerEvent<'_>, now: u64) {
        match event {
            ServerEvent::Message { text, offset } => self.on_message(dialect, io, id, text, offset, now),
            ServerEvent::Acknowledged { number } => {
                let sender = self.members[id].index < self.setup.shape.senders;
                let sender = sender.then(|| self.sender_of(id)).map(|sender| &mut self.senders[sender]);
                let intended = sender.and_then(|sender| {
                    let intended = sender.pending.get_mut(number.checked_sub(sender.first)? as usize)?.take();
                    while sender.pending.front().is_some_and(Option::is_none) {
                        sender.pending.pop_front();
                        sender.first += 1;
                    }
                    intended
                });
                match intended {
                    Some(intended) => self.on_acknowledged(intended, now),
                    None => {
                        self.tally.faults.repeated += 1;
                        self.tally.note_fault(|| {
                            format!("message {number} was acknowledged, but no acknowledgement was due")
                        });
                    }
                }
            }
            ServerEvent::Joined { position, recovered } => {
                if recovered == Some(false) {
                    self.tally.faults.refused += 1;
                    self.tally.note_fault(|| "a position was not recovered".to_owned());
                }
                self.on_joined(io, id, position, now);
            }
            ServerEvent::Refused { reason } => {
                if self.phases.is_none() {
                    self.fatal.get_or_insert(reason);
                } else {
                    self.tally.faults.refused += 1;
                    self.tally.note_fault(|| reason);
                }
            }
            ServerEvent::NoMessage { channel, offset } => self.on_no_message(id, channel.as_deref(), offset),
            ServerEvent::Ping { reply } => io.send(id, reply),
            ServerEvent::Other => {}
        }
    }

    /// Starts a closed load: every sender fills its window.
    fn start_load(&mut self, dialect: &Dialect, io: &mut Io, now: u64) {
        if !std::mem::replace(&mut self.has_started, true)
            && let Load::Window(messages) = self.setup.shape.load
        {
            for sender in 0..self.senders.len() {
                (0..messages).for_each(|_| self.send(dialect, io, sender, now));
            }
        }
    }

    /// Sends the messages of an open load that are due. Returns when the next one is due.
    fn send_due(&mut self, dialect: &Dialect, io: &mut Io, phases: Phases, now: u64) -> Option<u64> {
        let Load::Rate(rate) = self.setup.shape.load else { return None };
        let shape = self.setup.shape;
        // The interval between this thread's messages, which are its share of the rate.
        let all = f64::from(shape.rooms) * f64::from(shape.senders);
        let interval = all / self.senders.len() as f64 * SECOND as f64 / rate;
        if self.senders.is_empty() {
            return None;
        }
        loop {
            let time = phases.load_start + (self.scheduled as f64 * interval) as u64;
            if time >= phases.end {
                return None;
            }
            if time > now {
                return Some(time);
            }
            let sender = self.scheduled as usize % self.senders.len();
            self.send(dialect, io, sender, time);
            self.scheduled += 1;
        }
    }

    /// After the load, waits until everything has arrived or nothing has arrived for a while.
    fn drain(&mut self, phases: Phases, now: u64) -> Wait {
        let is_complete = self.senders.iter().all(|sender| sender.pending.is_empty())
            && self.rooms.iter().all(|room| room.ledger.is_complete())
            && self.members.iter().all(|member| member.location == Location::Home);
        if is_complete {
            let since = *self.complete_since.get_or_insert(now);
            if now >= since + QUIET_NS {
                return Wait::Done;
            }
        } else if now > phases.end.max(self.last_progress) + DRAIN_TIMEOUT_NS {
            return Wait::Done;
        }
        Wait::Until(now + DRAIN_POLL_NS)
    }
}

impl Client for RoomMembers {
    fn on_upgrade(&mut self, io: &mut Io, id: usize, now: u64) {
        let state = &mut self.state;
        if self.dialect.joins_on_upgrade() {
            return state.on_joined(io, id, None, now);
        }
        let member = &state.members[id];
        let channel = &state.target(member.room).channel;
        let since = state.position(member);
        if let Some(opening_commands) = self.dialect.opening_commands(state.token(member), channel, since.as_ref()) {
            io.send(id, &opening_commands);
        }
    }

    #[inline]
    fn on_text(&mut self, io: &mut Io, id: usize, payload: &[u8], now: u64) {
        let RoomMembers { dialect, state } = self;
        let before = state.tally.deliveries;
        dialect.read(payload, |event| state.on_event(dialect, io, id, event, now));
        if state.tally.deliveries > before {
            state.tally.frame_bytes += payload.len() as u64;
        }
    }

    fn on_close(&mut self, io: &mut Io, id: usize, reason: CloseReason, _now: u64) {
        let state = &mut self.state;
        state.members[id].location = Location::Outside;
        if behaviour::move_away(state, io, id) {
            return;
        }
        if state.phases.is_none() {
            state.fatal.get_or_insert(reason.0);
        } else {
            state.tally.faults.disconnected += 1;
            state.tally.note_fault(|| reason.0);
        }
    }

    fn on_turn(&mut self, io: &mut Io, now: u64) -> Result<Wait> {
        let RoomMembers { dialect, state } = self;
        let count = state.members.len();
        if let Some(reason) = &state.fatal {
            bail!("{} of {count} connections had joined when one failed: {reason}", state.joined);
        }
        if state.joined < count && now > state.last_progress + JOIN_TIMEOUT_NS {
            bail!("{} of {count} connections joined, then no other one for 10 seconds", state.joined);
        }
        if state.phases.is_none() {
            state.phases = state.setup.coordinator.phases();
        }
        let Some(phases) = state.phases else { return Ok(Wait::ForEvents) };
        state.cpu.on_turn(phases, now);
        if now < phases.load_start {
            return Ok(Wait::Until(phases.load_start));
        }
        if now >= phases.end {
            // A thread that is late still sends everything that was due before the end.
            state.send_due(dialect, io, phases, now);
            MixSchedule::finish(state, dialect, io);
            return Ok(state.drain(phases, now));
        }
        state.start_load(dialect, io, now);
        let mut next = state.send_due(dialect, io, phases, now);
        let mut sooner = |time: Option<u64>| next = next.into_iter().chain(time).min();
        sooner(match state.setup.behaviour {
            Behaviour::SendOnly | Behaviour::MoveAway(_) => None,
            Behaviour::Storm if now < phases.measure_start => Some(phases.measure_start),
            Behaviour::Storm => {
                behaviour::storm(state, io, now);
                None
            }
            Behaviour::Mix => MixSchedule::run_due(state, dialect, io, phases, now),
        });
        sooner(Some(if now < phases.measure_start { phases.measure_start } else { phases.end }));
        Ok(next.map_or(Wait::ForEvents, Wait::Until))
    }
}
