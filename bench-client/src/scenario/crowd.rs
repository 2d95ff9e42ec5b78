//! Members of rooms: they send, and check what they receive.

use super::people::People;
use super::stage::{OwnShare, Stage, Window};
use super::tally::Tally;
use crate::check::{self, Arrival, Ledger};
use crate::client::message::{Message, Texts};
use crate::client::{Client, End, Io, Next, SECOND};
use crate::dialect::{Dialect, Position, Said};
use crate::result::{Load, Shape};
use crate::server::Target;
use anyhow::{Result, bail};
use std::collections::VecDeque;
use std::sync::Arc;

/// How long nobody may get in before the run is given up.
const ENTRY_PATIENCE: u64 = 10 * SECOND;
/// How long nothing may arrive, after the load has ended, before what is missing counts as lost.
const DRAIN_PATIENCE: u64 = 3 * SECOND;
/// How long the crowd listens on when it has everything: what comes then is one too many.
const QUIET: u64 = SECOND / 20;
const DRAIN_LOOK: u64 = SECOND / 200;

/// What all threads of a run need to know.
#[derive(Debug)]
pub struct Setting {
    pub shape: Shape,
    pub texts: Texts,
    /// Of each room.
    pub targets: Vec<Target>,
    /// Of each member, room after room. Empty where there are no users.
    pub tokens: Vec<String>,
    pub stage: Stage,
    /// The server fills its frames up with spaces.
    pub is_filled: bool,
    pub doing: Doing,
}

/// What members do beside sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    Nothing,
    /// Those who don't send drop their connections all at once, when measuring begins, and come back.
    Storm,
    /// Those who don't send look around: they visit other rooms, read histories, lose their connections.
    Mix,
}

/// The members of a thread's rooms: those whose number modulo `threads` is `thread`. Connection ids go room after room.
#[derive(Debug)]
pub struct Crowd {
    dialect: Dialect,
    state: State,
}

#[derive(Debug)]
pub(super) struct State {
    pub setting: Arc<Setting>,
    pub rooms: Vec<Room>,
    pub members: Vec<Member>,
    senders: Vec<Sender>,
    window: Option<Window>,
    has_begun: bool,
    pub has_stormed: bool,
    /// How many messages were sent at times fixed beforehand.
    scheduled: u64,
    pub people: Option<People>,
    is_in: usize,
    last_progress: u64,
    whole_since: Option<u64>,
    fatal: Option<String>,
    share: OwnShare,
    pub tally: Tally,
    text: Vec<u8>,
    frame: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct Room {
    /// Among the rooms of all threads.
    pub number: u32,
    pub ledger: Ledger,
    pub epoch: String,
}

#[derive(Debug)]
pub(super) struct Member {
    /// Index into the thread's rooms.
    pub room: u32,
    pub place: u32,
    pub at: At,
    /// It has been in, and began to receive then.
    pub has_position: bool,
    /// Without a break.
    pub in_since: u64,
    /// When it went away, until it has everything again.
    pub away_since: Option<u64>,
    /// The room that it visits, or visited last: what arrives from there is not of its own.
    pub visited: Option<u32>,
}

/// Where a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum At {
    /// Not connected, or not let in yet.
    Outside,
    Home,
    /// In another room, where this offset came last.
    Visit {
        offset: Option<u64>,
    },
    /// On its way back into its own room, on the same connection.
    Return,
}

#[derive(Debug)]
struct Sender {
    id: usize,
    /// Where answers acknowledge: when each message was to be sent, from the oldest one without an answer.
    pending: VecDeque<Option<u64>>,
    /// The number of that oldest one.
    first: u32,
}

impl Crowd {
    pub fn new(setting: Arc<Setting>, thread: usize, threads: usize) -> Crowd {
        let Shape { rooms, members, senders, wire, .. } = setting.shape;
        let numbers: Vec<u32> = (0..rooms).filter(|room| *room as usize % threads == thread).collect();
        let mut all = Vec::new();
        let mut sending = Vec::new();
        for (room, _) in numbers.iter().enumerate() {
            for place in 0..members {
                if place < senders {
                    sending.push(Sender { id: all.len(), pending: VecDeque::new(), first: 0 });
                }
                all.push(Member {
                    room: room as u32,
                    place,
                    at: At::Outside,
                    has_position: false,
                    in_since: 0,
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
        let people = (setting.doing == Doing::Mix).then(|| People::new(thread as u64));
        let state = State {
            rooms: rooms.collect(),
            members: all,
            senders: sending,
            window: None,
            has_begun: false,
            has_stormed: false,
            scheduled: 0,
            people,
            is_in: 0,
            last_progress: setting.stage.clock.now(),
            whole_since: None,
            fatal: None,
            share: OwnShare::default(),
            tally: Tally::default(),
            text: Vec::new(),
            frame: Vec::new(),
            setting: Arc::clone(&setting),
        };
        Crowd { dialect: Dialect::new(wire, &setting.texts, setting.is_filled), state }
    }

    pub fn connections(&self) -> usize {
        self.state.members.len()
    }

    /// All go in.
    pub fn enter(&self, io: &mut Io) {
        (0..self.state.members.len()).for_each(|id| self.state.connect(io, id));
    }

    /// What the thread counted, at the end.
    pub fn tally(mut self) -> Tally {
        let tally = &mut self.state.tally;
        for room in &self.state.rooms {
            check::add(&mut tally.faults, &room.ledger.faults());
        }
        // Behind one that is missing there may be others that came.
        let unanswered = self.state.senders.iter().flat_map(|sender| &sender.pending).flatten().count();
        if unanswered > 0 {
            tally.faults.lost += unanswered as u64;
            tally.say(|| format!("{unanswered} messages were never acknowledged"));
        }
        tally.share = self.state.share.share();
        self.state.tally
    }
}

impl State {
    /// The global number of a member.
    fn person(&self, member: &Member) -> usize {
        let room = self.rooms[member.room as usize].number as usize;
        room * self.setting.shape.members as usize + member.place as usize
    }

    fn token(&self, member: &Member) -> &str {
        self.setting.tokens.get(self.person(member)).map_or("", String::as_str)
    }

    pub fn target(&self, room: u32) -> &Target {
        &self.setting.targets[self.rooms[room as usize].number as usize]
    }

    /// Where a member that was in before goes on.
    pub fn position(&self, member: &Member) -> Option<Position> {
        let room = &self.rooms[member.room as usize];
        let offset = room.ledger.offset(member.place as usize).filter(|_| member.has_position)?;
        Some(Position { epoch: room.epoch.clone(), offset })
    }

    pub fn connect(&self, io: &mut Io, id: usize) {
        let member = &self.members[id];
        let mut path = self.target(member.room).path.clone();
        let mut headers = String::new();
        if self.setting.shape.wire != crate::result::Wire::Centrifugo && !self.setting.tokens.is_empty() {
            headers = format!("Authorization: Bearer {}\r\n", self.token(member));
            if let Some(Position { epoch, offset }) = self.position(member) {
                path.push_str(&format!("&since={offset}&epoch={epoch}"));
            }
        }
        io.connect(id, &path, &headers);
    }

    /// The connection breaks, and is made anew.
    pub fn reconnect(&mut self, io: &mut Io, id: usize, now: u64) {
        io.drop(id);
        let member = &mut self.members[id];
        member.at = At::Outside;
        member.away_since = Some(now);
        self.connect(io, id);
    }

    fn came_in(&mut self, io: &mut Io, id: usize, position: Option<Position>, now: u64) {
        let member = &mut self.members[id];
        if let At::Visit { offset } = &mut member.at {
            *offset = position.map(|position| position.offset);
            return;
        }
        io.opened(id);
        member.at = At::Home;
        member.in_since = now;
        if !member.has_position {
            member.has_position = position.is_some();
            if member.away_since.is_none() {
                self.is_in += 1;
                self.setting.stage.is_in();
            }
            if let Some(Position { epoch, offset }) = position {
                let room = &mut self.rooms[member.room as usize];
                room.epoch = epoch;
                room.ledger.begin(member.place as usize, offset);
            }
        }
        self.last_progress = now;
        self.caught_up(id, now);
    }

    /// Whether one that was away has everything again.
    fn caught_up(&mut self, id: usize, now: u64) {
        let member = &mut self.members[id];
        if let Some(since) = member.away_since
            && member.at == At::Home
            && self.rooms[member.room as usize].ledger.has_all(member.place as usize)
        {
            member.away_since = None;
            self.tally.recovery.record(now - since);
        }
    }

    fn send(&mut self, dialect: &Dialect, io: &mut Io, sender: usize, intended: u64) {
        let id = self.senders[sender].id;
        let Member { room, place, .. } = self.members[id];
        if !io.is_open(id) {
            return;
        }
        let Room { number: room_number, ledger, .. } = &mut self.rooms[room as usize];
        let number = ledger.send(place as usize, intended);
        self.text.clear();
        self.setting.texts.push(&mut self.text, Message { room: *room_number, sender: place, number, intended });
        self.frame.clear();
        let channel = &self.setting.targets[*room_number as usize].channel;
        dialect.publish(&mut self.frame, channel, number, &self.text);
        io.send(id, &self.frame);
        self.tally.sent += u64::from(self.window.is_some_and(|window| window.has(intended)));
        if dialect.has_answers() {
            self.senders[sender].pending.push_back(Some(intended));
        }
    }

    #[inline]
    fn acknowledged(&mut self, intended: u64, now: u64) {
        let Some(window) = self.window else { return };
        self.tally.acknowledged += u64::from(window.has(now));
        if window.has(intended) {
            self.tally.ack.record(now - intended);
        }
    }

    /// A sender's message has come back to it: it may send another one. An acknowledgement, where there are any, comes
    /// no later, and with all servers the same is waited for.
    #[inline]
    fn came_back(&mut self, dialect: &Dialect, io: &mut Io, id: usize, now: u64) {
        let Some(window) = self.window else { return };
        if matches!(self.setting.shape.load, Load::Window(_)) && now < window.end {
            self.send(dialect, io, self.sender_of(id), now);
        }
    }

    /// Which of the senders a member is that sends.
    fn sender_of(&self, id: usize) -> usize {
        let Member { room, place, .. } = self.members[id];
        room as usize * self.setting.shape.senders as usize + place as usize
    }

    #[inline]
    fn message(&mut self, dialect: &Dialect, io: &mut Io, id: usize, text: &[u8], offset: Option<u64>, now: u64) {
        let message = self.setting.texts.read(text);
        let member = &mut self.members[id];
        let room = &mut self.rooms[member.room as usize];
        if let Some(message) = message
            && message.room != room.number
            && member.visited == Some(message.room)
        {
            return self.visited(id, offset, now);
        }
        let arrival = room.ledger.arrive(member.place as usize, message, offset);
        let Some(message) = message.filter(|_| arrival != Arrival::Wrong) else {
            self.tally.say(|| format!("a wrong message: {}", String::from_utf8_lossy(text)));
            return;
        };
        // Wrong ones are none: whoever sends them without end would be listened to without end.
        self.last_progress = now;
        let Some(window) = self.window else { return };
        self.tally.deliveries += u64::from(window.has(now));
        // Who was away does not say anything about how long a delivery takes.
        if window.has(message.intended) && member.in_since <= message.intended {
            let latency = now.saturating_sub(message.intended);
            self.tally.delivery.record(latency);
            if arrival == Arrival::Completes {
                self.tally.last.record(latency);
            }
        }
        let is_own = message.sender == member.place;
        if member.away_since.is_some() {
            self.caught_up(id, now);
        }
        if is_own {
            if !dialect.has_answers() {
                self.acknowledged(message.intended, now);
            }
            self.came_back(dialect, io, id, now);
        }
    }

    /// A message of a room that the member only visits: whether it is the next one.
    fn visited(&mut self, id: usize, offset: Option<u64>, now: u64) {
        let At::Visit { offset: Some(last) } = &mut self.members[id].at else { return };
        self.tally.deliveries += u64::from(self.window.is_some_and(|window| window.has(now)));
        if offset != Some(*last + 1) {
            self.tally.faults.disagreeing += 1;
            self.tally.say(|| format!("offset {offset:?} came after {last} to a visitor"));
        }
        *last = offset.unwrap_or(*last + 1);
    }

    fn hear(&mut self, dialect: &Dialect, io: &mut Io, id: usize, said: Said<'_>, now: u64) {
        match said {
            Said::Message { text, offset } => self.message(dialect, io, id, text, offset, now),
            Said::Acknowledged { number } => {
                let sender = self.members[id].place < self.setting.shape.senders;
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
                    Some(intended) => self.acknowledged(intended, now),
                    None => {
                        self.tally.faults.repeated += 1;
                        self.tally.say(|| format!("message {number} of a sender was acknowledged without need"));
                    }
                }
            }
            Said::Joined { position, recovered } => {
                if recovered == Some(false) {
                    self.tally.faults.refused += 1;
                    self.tally.say(|| "a position was not recovered".to_owned());
                }
                self.came_in(io, id, position, now);
            }
            Said::Refused { why } => {
                if self.window.is_none() {
                    self.fatal.get_or_insert(why);
                } else {
                    self.tally.faults.refused += 1;
                    self.tally.say(|| why);
                }
            }
            Said::Answer(answer) => io.send(id, answer),
            Said::Other => {}
        }
    }

    /// Sends the first messages, where the others are answers to them.
    fn begin(&mut self, dialect: &Dialect, io: &mut Io, now: u64) {
        if !std::mem::replace(&mut self.has_begun, true)
            && let Load::Window(messages) = self.setting.shape.load
        {
            for sender in 0..self.senders.len() {
                (0..messages).for_each(|_| self.send(dialect, io, sender, now));
            }
        }
    }

    /// Sends what is due at times fixed beforehand. When the next message is.
    fn send_due(&mut self, dialect: &Dialect, io: &mut Io, window: Window, now: u64) -> Option<u64> {
        let Load::Rate(rate) = self.setting.shape.load else { return None };
        let shape = self.setting.shape;
        // This thread's part of it.
        let all = f64::from(shape.rooms) * f64::from(shape.senders);
        let interval = all / self.senders.len() as f64 * SECOND as f64 / rate;
        if self.senders.is_empty() {
            return None;
        }
        loop {
            let time = window.go + (self.scheduled as f64 * interval) as u64;
            if time >= window.end {
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

    /// After the load: until all is there, or nothing comes any more.
    fn drain(&mut self, window: Window, now: u64) -> Next {
        let is_whole = self.senders.iter().all(|sender| sender.pending.is_empty())
            && self.rooms.iter().all(|room| room.ledger.is_whole())
            && self.members.iter().all(|member| member.at == At::Home);
        if is_whole {
            let since = *self.whole_since.get_or_insert(now);
            if now >= since + QUIET {
                return Next::Done;
            }
        } else if now > window.end.max(self.last_progress) + DRAIN_PATIENCE {
            return Next::Done;
        }
        Next::At(now + DRAIN_LOOK)
    }
}

impl Client for Crowd {
    fn upgraded(&mut self, io: &mut Io, id: usize, now: u64) {
        let state = &mut self.state;
        if self.dialect.is_in_at_once() {
            return state.came_in(io, id, None, now);
        }
        let member = &state.members[id];
        let channel = &state.target(member.room).channel;
        let since = state.position(member);
        if let Some(greeting) = self.dialect.greeting(state.token(member), channel, since.as_ref()) {
            io.send(id, &greeting);
        }
    }

    #[inline]
    fn text(&mut self, io: &mut Io, id: usize, payload: &[u8], now: u64) {
        let Crowd { dialect, state } = self;
        let before = state.tally.deliveries;
        dialect.read(payload, |said| state.hear(dialect, io, id, said, now));
        if state.tally.deliveries > before {
            state.tally.frame_bytes += payload.len() as u64;
        }
    }

    fn ended(&mut self, _io: &mut Io, id: usize, end: End, _now: u64) {
        let state = &mut self.state;
        state.members[id].at = At::Outside;
        if state.window.is_none() {
            state.fatal.get_or_insert(end.0);
        } else {
            state.tally.faults.disconnected += 1;
            state.tally.say(|| end.0);
        }
    }

    fn turn(&mut self, io: &mut Io, now: u64) -> Result<Next> {
        let Crowd { dialect, state } = self;
        let count = state.members.len();
        if let Some(reason) = &state.fatal {
            bail!("{} of {count} connections were in, and then: {reason}", state.is_in);
        }
        if state.is_in < count && now > state.last_progress + ENTRY_PATIENCE {
            bail!("{} of {count} connections are in, and for 10 seconds no other one got in", state.is_in);
        }
        if state.window.is_none() {
            state.window = state.setting.stage.window();
        }
        let Some(window) = state.window else { return Ok(Next::Whatever) };
        state.share.look(window, now);
        if now < window.go {
            return Ok(Next::At(window.go));
        }
        if now >= window.end {
            // A thread that comes late still owes what was due before the end.
            state.send_due(dialect, io, window, now);
            People::end(state, dialect, io);
            return Ok(state.drain(window, now));
        }
        state.begin(dialect, io, now);
        let mut next = state.send_due(dialect, io, window, now);
        let mut sooner = |time: Option<u64>| next = next.into_iter().chain(time).min();
        sooner(match state.setting.doing {
            Doing::Nothing => None,
            Doing::Storm if now < window.begin => Some(window.begin),
            Doing::Storm => {
                People::storm(state, io, now);
                None
            }
            Doing::Mix => People::act(state, dialect, io, window, now),
        });
        sooner(Some(if now < window.begin { window.begin } else { window.end }));
        Ok(next.map_or(Next::Whatever, Next::At))
    }
}
