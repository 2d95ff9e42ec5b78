//! A node on the bus, without I/O: what it sends, what it makes of what it hears, and whether the bus works.

use super::envelope::{Counts, Foreign, Heard, Loss, Outgoing};
use super::hearing::{Hearing, Repeated};
use super::surveys::Surveys;
use super::{Announcement, Bus, BusMetrics, BusState, SURVEY_VERSION};
use crate::message::{Channel, Endpoint, Ephemeral, Message};
use crate::messenger::Placement;
use crate::mutation::{self, Mutation};
use crate::survey::{Findings, Survey};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use uproar_model::{Marker, RoomId, UserEvent, UserId};

/// Messages that are sent at a time.
const BATCH_LIMIT: usize = 64;
/// The bus does not work if none of our own beats that were sent within this time has come back.
const DEAF_MICROS: u64 = 700_000;
/// After this time without a beat of our own, the sessions are opened again.
const RENEW_MICROS: u64 = 5_000_000;
/// Our own beats that are remembered until they come back.
const BEATS_LIMIT: usize = 256;

/// What a [`BusNode`] is made with.
#[derive(Debug)]
pub struct BusConfig {
    /// The id of the cluster.
    pub cluster: String,
    /// A random word: this run of this node.
    pub session: String,
    /// The longest message that the transport takes.
    pub message_limit_bytes: usize,
    pub state: Arc<BusState>,
    pub metrics: Arc<BusMetrics>,
    pub placement: Placement,
    pub shards: u16,
    /// Calls to one shard that may be under way.
    pub calls_limit: u64,
}

/// Something for the log, or for another part of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Tokens were revoked, perhaps by another node.
    Revoked,
    /// A read marker has moved on another node, which has not stored it yet.
    Read(UserId, RoomId, Marker),
    Works,
    /// It does not work, for this reason.
    Fails(String),
    /// The first message that is ignored: its size, and what it is.
    Ignored(usize, &'static str),
}

/// See the module. Times are microseconds of [`boottime`](uproar_model::boottime).
#[derive(Debug)]
pub struct BusNode {
    state: Arc<BusState>,
    metrics: Arc<BusMetrics>,
    placement: Placement,
    /// Calls that may still be made, by shard.
    credits: Vec<u64>,
    /// Shards that are to read the heads of their rooms.
    must_sweep: Vec<bool>,
    /// Shards whose subscribers of `live:` channels are to be told that they have missed something.
    has_lost_live: Vec<bool>,
    /// Sessions that ask who is in all channels, by the shards that are to answer.
    must_tell: Vec<Vec<Arc<str>>>,
    /// Sessions whose clients are gone, and which shards do not know yet.
    gone: Vec<Vec<Arc<str>>>,
    outgoing: Outgoing,
    hearing: Hearing,
    /// Our own beats that were sent and not heard yet: number, and when.
    beats: VecDeque<(u64, u64)>,
    beat: u64,
    is_beat_due: bool,
    /// When the last of our own beats that has come back was sent.
    heard_own_micros: Option<u64>,
    /// When the sessions were opened.
    opened_micros: u64,
    has_ignored: bool,
    /// There were other nodes, and there are none now.
    has_lost_peers: bool,
    /// How many other nodes the database knows to be alive.
    registered: u64,
    surveys: Surveys,
    /// Messages for shards that the driver has not taken yet.
    calls: Vec<(u16, Message)>,
    notices: Vec<Notice>,
}

impl BusNode {
    pub fn new(config: BusConfig, now_micros: u64) -> BusNode {
        let BusConfig { cluster, session, message_limit_bytes, state, metrics, placement, shards, calls_limit } =
            config;
        BusNode {
            state,
            metrics,
            placement,
            credits: vec![calls_limit; usize::from(shards)],
            must_sweep: vec![false; usize::from(shards)],
            has_lost_live: vec![false; usize::from(shards)],
            must_tell: vec![Vec::new(); usize::from(shards)],
            gone: vec![Vec::new(); usize::from(shards)],
            outgoing: Outgoing::new(cluster, session, message_limit_bytes),
            hearing: Hearing::default(),
            beats: VecDeque::new(),
            beat: 0,
            is_beat_due: true,
            heard_own_micros: None,
            opened_micros: now_micros,
            has_ignored: false,
            has_lost_peers: false,
            registered: 0,
            surveys: Surveys::default(),
            calls: Vec::new(),
            notices: Vec::new(),
        }
    }

    // ── to the other nodes ──────────────────────────────────────────────────────────────────────────────────────────

    /// A message of a shard.
    pub fn receive(&mut self, from: Endpoint, message: Message) {
        match (from, message) {
            (Endpoint::Shard(shard), Message::CreditReturned) => self.credits[usize::from(shard)] += 1,
            (Endpoint::Shard(shard), Message::Surveyed { number, findings }) => {
                self.credits[usize::from(shard)] += 1;
                let answer = self.surveys.on_findings(number, shard, *findings);
                self.announce_all(answer);
            }
            (_, Message::Announce(announcement)) => self.announce(announcement),
            (from, other) => debug_assert!(false, "{from:?} sent the bus {other:?}"),
        }
    }

    fn announce(&mut self, announcement: Announcement) {
        self.metrics.announced.fetch_add(1, Ordering::Relaxed);
        let is_dropped = !self.outgoing.push(announcement);
        self.state.set_busy(self.outgoing.is_busy());
        self.metrics.dropped.fetch_add(u64::from(is_dropped), Ordering::Relaxed);
    }

    fn announce_all(&mut self, announcements: impl IntoIterator<Item = Announcement>) {
        announcements.into_iter().for_each(|announcement| self.announce(announcement));
    }

    /// Asks all other nodes, which have this long to answer. Returns the number under which `take_surveyed` tells the
    /// outcome.
    pub fn survey(&mut self, now_micros: u64, timeout_ms: u64, survey: Survey) -> u64 {
        let all_understand = self.state.version() >= SURVEY_VERSION;
        let nodes = self.hearing.sessions().filter(|_| all_understand);
        let is_settled = self.metrics.is_settled.load(Ordering::Relaxed);
        let has_others = self.hearing.peers() > 0 || self.registered > 0;
        let is_incomplete = !is_settled || has_others && !all_understand || self.registered > self.hearing.peers();
        let (number, announcement) = self.surveys.begin(millis(now_micros), timeout_ms, survey, nodes, is_incomplete);
        self.announce_all(announcement);
        number
    }

    /// Takes the surveys that are over, with what the other nodes found. `None`: not all of them have answered.
    pub fn take_surveyed(&mut self) -> Vec<(u64, Option<Findings>)> {
        self.surveys.take_done()
    }

    /// Counts what the shards could not announce. To be called before their messages are received.
    pub fn count_dropped(&mut self) {
        let (live, others) = self.state.take_dropped();
        self.outgoing.skip(Counts { live, others });
        self.metrics.dropped.fetch_add(live + others, Ordering::Relaxed);
    }

    pub fn has_to_send(&self) -> bool {
        self.is_beat_due || !self.outgoing.is_empty()
    }

    /// The next messages to send.
    pub fn take_batch(&mut self, now_micros: u64) -> Vec<String> {
        let mut messages = self.outgoing.take(BATCH_LIMIT);
        self.state.set_busy(self.outgoing.is_busy());
        if std::mem::take(&mut self.is_beat_due) {
            self.beat += 1;
            messages.push(self.outgoing.beat(self.beat));
            if self.beats.len() == BEATS_LIMIT {
                self.beats.pop_front();
            }
            self.beats.push_back((self.beat, now_micros));
        }
        messages
    }

    /// The next messages to send when this node stops, and whether they are the last ones, with which it says goodbye.
    pub fn take_last(&mut self) -> (Vec<String>, bool) {
        if self.outgoing.is_empty() {
            (vec![self.outgoing.last()], true)
        } else {
            (self.outgoing.take(BATCH_LIMIT), false)
        }
    }

    // ── from the other nodes ────────────────────────────────────────────────────────────────────────────────────────

    /// From now on, everything that is sent is heard.
    pub fn opened(&mut self, now_micros: u64) {
        self.opened_micros = now_micros;
    }

    /// What was sent meanwhile is missing.
    pub fn lost(&mut self, now_micros: u64, reason: &str) {
        self.heard_own_micros = None;
        self.opened_micros = now_micros;
        self.settle(now_micros, Bus::Disconnected, reason);
        self.hearing.watch(millis(now_micros));
    }

    /// Something that is not sent over the bus may have been missed.
    pub fn missed(&mut self, now_micros: u64) {
        self.hearing.watch(millis(now_micros));
    }

    /// A message has arrived, of this node or another.
    pub fn hear(&mut self, now_micros: u64, text: &str) {
        let envelope = match Heard::decode(text, &self.outgoing.cluster) {
            Ok(Heard::Envelope(envelope)) => envelope,
            Ok(Heard::Loss(loss)) => return self.hear_loss(now_micros, &loss),
            Err(foreign) => return self.ignore(&foreign, text.len()),
        };
        if envelope.session == self.outgoing.session {
            self.hear_own(now_micros, envelope.beat);
            return;
        }
        let now_ms = millis(now_micros);
        let Repeated { live: mut heard_live, is_late } = self.hearing.hear(now_ms, &envelope);
        self.set_has_peers(true);
        self.metrics.peers.store(self.hearing.peers(), Ordering::Relaxed);
        self.metrics.received.fetch_add(envelope.announcements.len() as u64, Ordering::Relaxed);
        self.metrics.missed.fetch_add(self.hearing.take_missed(), Ordering::Relaxed);
        if self.hearing.take_lost_live() {
            self.has_lost_live.fill(true);
        }
        let session: Arc<str> = envelope.session.into();
        for announcement in envelope.announcements {
            if announcement.is_live() && heard_live > 0 {
                heard_live -= 1;
                continue;
            }
            // What is said about presence replaces what was said before, so it must not come late. What was overtaken
            // has left a gap, so the session is asked.
            let is_presence = matches!(announcement, Announcement::Presence(_) | Announcement::PresenceTold { .. });
            if is_presence && (is_late || !self.hearing.knows(&session)) {
                continue;
            }
            self.deliver(now_ms, &session, announcement);
        }
        if envelope.is_last {
            self.surveys.on_gone(&session);
        }
        self.forget_gone();
        self.must_sweep_if_due(now_ms);
    }

    fn ignore(&mut self, foreign: &Foreign, bytes: usize) {
        self.metrics.ignored.fetch_add(1, Ordering::Relaxed);
        if !std::mem::replace(&mut self.has_ignored, true) {
            let what = match foreign {
                Foreign::Garbage => "something that this release does not understand",
                Foreign::Cluster => "the announcements of another cluster",
            };
            self.notices.push(Notice::Ignored(bytes, what));
        }
    }

    /// One of our own messages has come back.
    fn hear_own(&mut self, now_micros: u64, beat: Option<u64>) {
        let Some(beat) = beat else { return };
        while let Some((number, sent_micros)) = self.beats.front().copied()
            && number <= beat
        {
            self.beats.pop_front();
            if number == beat {
                let lag_micros = now_micros.saturating_sub(sent_micros);
                self.metrics.lag_micros.store(lag_micros, Ordering::Relaxed);
                self.heard_own_micros = Some(sent_micros);
                // One that took long says that others take long too. With one limit for both directions, the state could
                // change with every beat.
                if lag_micros < DEAF_MICROS / 2 {
                    self.settle(now_micros, Bus::Connected, "");
                }
            }
        }
    }

    /// A transaction has told that it has taken a right away. It may be one of our own.
    fn hear_loss(&mut self, now_micros: u64, loss: &Loss) {
        if let Loss::Room(room) = *loss {
            self.read_head(room);
        } else {
            self.notices.push(Notice::Revoked);
        }
        if *loss == Loss::Unknown {
            self.hearing.watch(millis(now_micros));
            self.must_sweep_if_due(millis(now_micros));
        }
    }

    /// Something has happened to a room that only its head tells.
    fn read_head(&mut self, room: RoomId) {
        let home = self.placement.home_of(&Channel::Room(room));
        let message = Message::Announced { room, generation: None, publication: None };
        self.must_sweep[usize::from(home)] |= !self.call(home, message);
    }

    /// Passes on what another node has announced. Where there is no credit, the heads are read instead.
    fn deliver(&mut self, now_ms: u64, session: &Arc<str>, announcement: Announcement) {
        match announcement {
            Announcement::Stored { room, generation, publication } => {
                let home = self.placement.home_of(&Channel::Room(room));
                let message = Message::Announced { room, generation: Some(generation), publication: Some(publication) };
                self.must_sweep[usize::from(home)] |= !self.call(home, message);
            }
            Announcement::Head { room } => self.read_head(room),
            Announcement::Live { channel, entry } => {
                let home = self.placement.home_of(&Channel::Live(Arc::clone(&channel)));
                // After a loss nothing more is shown until the subscribers have been told.
                let is_lost = self.has_lost_live[usize::from(home)];
                self.has_lost_live[usize::from(home)] = is_lost || !self.call(home, Message::Live { channel, entry });
            }
            // Events may be lost: a client that misses one can ask.
            Announcement::User { user, event } => {
                if let UserEvent::Read { id, marker, .. } = event {
                    self.notices.push(Notice::Read(user, id, marker));
                }
                for shard in 0..self.credits.len() {
                    self.call(shard as u16, Message::NotifyUser { user, event: event.clone() });
                }
            }
            Announcement::Survey { number, attempt, survey } => {
                let shards = self.credits.len() as u16;
                let answer = self.surveys.on_survey(now_ms, session, (number, attempt), survey, shards);
                self.announce_all(answer);
            }
            Announcement::Findings { to, number, attempt, part, parts, findings } => {
                if *to == *self.outgoing.session {
                    self.surveys.on_answer(session, number, attempt, (part, parts), *findings);
                }
            }
            Announcement::Typing { channel, user } => {
                let home = self.placement.home_of(&channel);
                self.call(home, Message::Notify { channel, event: Arc::new(Ephemeral::Typing(user)) });
            }
            Announcement::Presence(presence) => {
                let home = self.placement.home_of(&presence.channel);
                // What its clients were before is forgotten first.
                let is_told = self.gone[usize::from(home)].is_empty()
                    && self.call(home, Message::PeerPresence { session: Arc::clone(session), presence });
                if !is_told {
                    self.hearing.doubt(session);
                }
            }
            Announcement::PresenceTold { shard, after, to } => {
                let is_answer = to.iter().any(|to| **to == *self.outgoing.session);
                if is_answer && self.hearing.has_told(session) {
                    for to in 0..self.credits.len() {
                        if !self.call(to as u16, Message::PeerTold { session: Arc::clone(session), shard, after }) {
                            self.hearing.doubt(session);
                        }
                    }
                }
            }
            Announcement::AskPresence { session: asked } => {
                if *asked == *self.outgoing.session && self.hearing.knows(session) {
                    for must_tell in self.must_tell.iter_mut().filter(|must_tell| !must_tell.contains(session)) {
                        must_tell.push(Arc::clone(session));
                    }
                }
            }
        }
    }

    /// The shards are to forget the clients of sessions that are gone.
    fn forget_gone(&mut self) {
        for session in self.hearing.take_gone() {
            if mutation::active(Mutation::PresenceOfDeadNodeKept) {
                continue;
            }
            let session: Arc<str> = session.into();
            self.gone.iter_mut().for_each(|gone| gone.push(Arc::clone(&session)));
        }
    }

    // ── to the shards ───────────────────────────────────────────────────────────────────────────────────────────────

    /// False: too many calls to this shard are under way.
    fn call(&mut self, shard: u16, message: Message) -> bool {
        let credits = &mut self.credits[usize::from(shard)];
        if *credits == 0 {
            return false;
        }
        *credits -= 1;
        self.calls.push((shard, message));
        true
    }

    /// Takes the messages for shards. There is a place for each of them in the queue to its shard.
    pub fn take_calls(&mut self) -> Vec<(u16, Message)> {
        for shard in 0..self.credits.len() {
            while let Some(session) = self.gone[shard].last().cloned()
                && self.call(shard as u16, Message::PeerGone { session })
            {
                self.gone[shard].pop();
            }
            while let Some(to) = self.must_tell[shard].last().cloned()
                && self.call(shard as u16, Message::TellPresence { to })
            {
                self.must_tell[shard].pop();
            }
            while let Some((number, survey)) = self.surveys.next_for(shard as u16)
                && self.call(shard as u16, Message::Survey { number, survey })
            {
                self.surveys.was_asked(number, shard as u16);
            }
            if self.must_sweep[shard] {
                self.must_sweep[shard] = !self.call(shard as u16, Message::SweepNow);
            }
            if self.has_lost_live[shard] {
                self.has_lost_live[shard] = !self.call(shard as u16, Message::LiveLost);
            }
        }
        std::mem::take(&mut self.calls)
    }

    /// Takes what others are to know.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    // ── time ────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Time for a beat. `registered`: how many other nodes the database knows to be alive. True: the sessions are to be
    /// opened again.
    pub fn tick(&mut self, now_micros: u64, registered: u64) -> bool {
        let now_ms = millis(now_micros);
        self.is_beat_due = true;
        self.registered = registered;
        self.must_sweep_if_due(now_ms);
        self.forget_gone();
        let again = self.surveys.tick(now_ms);
        self.announce_all(again);
        if self.state.has_presence() {
            for session in self.hearing.take_unasked(now_ms) {
                self.outgoing.push(Announcement::AskPresence { session: session.into() });
            }
        } else {
            self.hearing.trust_all();
        }
        let heard = self.hearing.peers();
        self.metrics.peers.store(heard, Ordering::Relaxed);
        self.set_has_peers(heard > 0 || registered > 0);
        if registered > heard {
            // It can commit without announcing it.
            self.hearing.stay_watchful(now_ms);
        }
        let since_micros = self.heard_own_micros.unwrap_or(self.opened_micros);
        if now_micros.saturating_sub(since_micros) >= DEAF_MICROS {
            self.settle(now_micros, Bus::Disconnected, "what this node sends does not come back");
        }
        let is_deaf = now_micros.saturating_sub(since_micros.max(self.opened_micros)) >= RENEW_MICROS;
        if is_deaf {
            self.opened_micros = now_micros;
        }
        is_deaf
    }

    fn set_has_peers(&mut self, has_peers: bool) {
        let had_peers = self.state.has_peers();
        if has_peers && self.has_lost_peers {
            // To one that has only been stopped, what was not announced meanwhile must not look like nothing.
            self.outgoing.skip(Counts { live: 0, others: 1 });
        }
        self.has_lost_peers = !has_peers && (had_peers || self.has_lost_peers);
        self.state.set_has_peers(has_peers);
    }

    fn must_sweep_if_due(&mut self, now_ms: u64) {
        if self.hearing.must_sweep(now_ms) {
            self.must_sweep.fill(true);
        }
    }

    /// It is known whether the bus works.
    fn settle(&mut self, now_micros: u64, bus: Bus, reason: &str) {
        let was_settled = self.metrics.is_settled.swap(true, Ordering::Relaxed);
        if was_settled && self.state.get() == bus {
            return;
        }
        self.state.set(bus);
        if was_settled && bus == Bus::Connected {
            self.hearing.doubt_all();
            self.has_lost_live.fill(true);
        }
        self.metrics.connected.store(bus == Bus::Connected, Ordering::Relaxed);
        self.notices.push(if bus == Bus::Connected { Notice::Works } else { Notice::Fails(reason.to_owned()) });
        // The shards learn how often they have to sweep, and what they have missed. The others need a moment until they
        // announce again.
        self.must_sweep.fill(true);
        self.hearing.watch(millis(now_micros));
    }
}

fn millis(micros: u64) -> u64 {
    micros / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALLS_LIMIT: u64 = 2;

    fn node() -> BusNode {
        let config = BusConfig {
            cluster: "c".to_owned(),
            session: "s".to_owned(),
            message_limit_bytes: 7_900,
            state: Arc::default(),
            metrics: Arc::default(),
            placement: Placement::new(1, 1),
            shards: 1,
            calls_limit: CALLS_LIMIT,
        };
        BusNode::new(config, 0)
    }

    /// The heads that shards are asked to read, and whether they are to sweep.
    fn reads(node: &mut BusNode) -> (Vec<i64>, bool) {
        let calls = node.take_calls();
        let rooms = calls.iter().filter_map(|(_, message)| match message {
            Message::Announced { room, generation: None, publication: None } => Some(room.0),
            _ => None,
        });
        (rooms.collect(), calls.iter().any(|(_, message)| matches!(message, Message::SweepNow)))
    }

    #[test]
    fn a_right_that_is_taken_away_is_looked_at_immediately() {
        let mut node = node();
        node.hear(1, r#"{"cluster":"c","now":{"h":7}}"#);
        assert_eq!((reads(&mut node), node.take_notices()), ((vec![7], false), vec![]));
        node.hear(2, r#"{"cluster":"c","now":{"k":5}}"#);
        assert_eq!((reads(&mut node), node.take_notices()), ((vec![], false), vec![Notice::Revoked]));
        // A newer release may take something else away.
        node.hear(3, r#"{"cluster":"c","now":{"x":5}}"#);
        assert_eq!((reads(&mut node), node.take_notices()), ((vec![], true), vec![Notice::Revoked]));
        // It says nothing about other nodes.
        assert!(!node.state.has_peers() && node.metrics.received.load(Ordering::Relaxed) == 0);
    }

    #[test]
    fn without_a_credit_all_heads_are_read() {
        let mut node = node();
        for room in 0..CALLS_LIMIT + 2 {
            node.hear(1, &format!(r#"{{"cluster":"c","now":{{"h":{room}}}}}"#));
        }
        assert_eq!(reads(&mut node), (vec![0, 1], false));
        node.receive(Endpoint::Shard(0), Message::CreditReturned);
        assert_eq!(reads(&mut node), (vec![], true));
    }

    /// A message of another node: so many `live:` messages after this many others.
    fn hear_live(node: &mut BusNode, before: u64, count: usize) -> Vec<&'static str> {
        let live = vec![r#"{"v":["x",5,"Ann",0,"x",true]}"#; count].join(",");
        node.hear(1, &format!(r#"{{"cluster":"c","from":"a","before":{{"live":{before}}},"a":[{live}]}}"#));
        let calls = node.take_calls().into_iter().filter_map(|(_, message)| match message {
            Message::Live { .. } => Some("live"),
            Message::LiveLost => Some("lost"),
            _ => None,
        });
        let calls: Vec<_> = calls.collect();
        for _ in 0..CALLS_LIMIT {
            node.receive(Endpoint::Shard(0), Message::CreditReturned);
        }
        calls
    }

    #[test]
    fn live_messages_are_passed_on_once_and_never_after_a_gap() {
        let mut node = node();
        assert_eq!(hear_live(&mut node, 0, 1), ["live"]);
        assert_eq!(hear_live(&mut node, 0, 1), [""; 0], "twice");
        assert_eq!(hear_live(&mut node, 0, 2), ["live"], "one of them twice");
        assert_eq!(hear_live(&mut node, 3, 1), ["lost"], "the third is missing");
        assert_eq!(hear_live(&mut node, 2, 1), [""; 0], "it is too late");
        assert_eq!(hear_live(&mut node, 4, 1), ["live"]);
    }
}
