//! A channel's home: learns what was committed, shows it in order, feeds the shards that have subscribers.
//!
//! One function shows publications: [`Shard::learn`]. Own commits, `again` answers, removals and head checks all call it.
//! Exactly position + 1 is shown; what is higher waits while the hole is read from the store; what is lower is known.

use super::host::{Host, Now};
use super::lane::LaneAnswer;
use super::message::{
    Answer, Append, Ask, Asker, AttachOutcome, Caller, Channel, CheckOutcome, Endpoint, Message, NotKnown,
    reserved_places,
};
use super::mutation::{self, Mutation};
use super::presence::Presence;
use super::run::{RUN_LIMIT_BYTES, Ring, Run, apply_changes};
use super::shard::Shard;
use crate::protocol::{Entry, LiveEntry};
use std::collections::BTreeMap;
use std::sync::Arc;
use uproar_model::PageRequest;
use uproar_model::{Epoch, Offset, Outcome, Publication, RoomId, Stored, User};

/// How long after a failed read it is tried again.
const READ_RETRY_MS: u64 = 100;

#[derive(Debug)]
pub(super) struct Home {
    /// None while the head is being read, and for `live:` channels.
    epoch: Option<Epoch>,
    is_loaded: bool,
    /// The last offset learned in order.
    position: Offset,
    /// Learned, and to be shown at the end of the turn: the last of it is `position`.
    fresh: Vec<Entry>,
    /// The last offset shown: what shards are fed up to.
    shown: Offset,
    ring: Ring,
    feeds: Vec<FedShard>,
    /// Shards that wait for the head.
    waiting: Vec<u16>,
    /// What was learned behind a hole.
    held: BTreeMap<Offset, Publication>,
    /// The highest offset heard of.
    known: Offset,
    /// Since when there is a hole.
    gap_since_ms: Option<u64>,
    is_reading: bool,
    /// Not before this time may the store be asked again.
    read_after_ms: u64,
    /// When its entry in `top_checks` is due.
    check_ms: u64,
    is_unshown: bool,
    is_stalled: bool,
    /// Who is in the channel, on all shards that are fed.
    pub presence: Presence,
}

/// A shard that is fed, and the offset last sent to it.
#[derive(Debug)]
struct FedShard {
    shard: u16,
    sent: Offset,
}

impl Shard {
    // ── attach and detach ───────────────────────────────────────────────────────────────────────────────────────────

    pub(super) fn home_attach(&mut self, now: Now, from: Endpoint, channel: Channel, host: &mut impl Host) {
        let Endpoint::Shard(shard) = from else { return };
        // What it was to be told of its feed before this one is not to end this one.
        self.endings.retain(|(to, ending)| *to != shard || !ending.ends(&channel));
        let is_live = matches!(channel, Channel::Live(_));
        let home = self.homes.entry(channel.clone()).or_insert_with(|| Home::new(is_live));
        if home.is_loaded {
            let outcome = home.feed(shard);
            return self.answer_attach(now, shard, channel, outcome, host);
        }
        home.waiting.push(shard);
        self.go_on(now, &channel, host);
    }

    fn answer_attach(&mut self, now: Now, to: u16, channel: Channel, outcome: AttachOutcome, host: &mut impl Host) {
        if to == self.config.id {
            self.attached(now, &channel, outcome, host);
        } else {
            host.mesh(Endpoint::Shard(to), Message::Attached { channel, outcome });
        }
    }

    pub(super) fn home_detach(&mut self, from: Endpoint, channel: &Channel) {
        let Endpoint::Shard(shard) = from else { return };
        let Some(home) = self.homes.get_mut(channel) else { return };
        home.feeds.retain(|fed| fed.shard != shard);
        home.presence.forget_shard(shard);
        if home.feeds.is_empty() && home.waiting.is_empty() {
            // Whoever comes next reads the head again.
            self.homes.remove(channel);
        }
    }

    // ── appends ─────────────────────────────────────────────────────────────────────────────────────────────────────

    /// An item for a room that is at home here: on to its lane.
    pub(super) fn home_append(&mut self, append: Box<Append>, host: &mut impl Host) {
        let lane = Endpoint::Lane((append.item.room.0.unsigned_abs() % u64::from(self.config.lanes)) as u16);
        let has_credit = self.take_credit(lane);
        debug_assert!(has_credit, "there is a lane credit for every call that can come in");
        host.mesh(lane, Message::Commit(append));
    }

    /// A lane answered: the sender is told now, the publication is shown at the end of the turn.
    pub(super) fn committed(&mut self, now: Now, answer: LaneAnswer, host: &mut impl Host) {
        let LaneAnswer { append, result, was_told, is_last } = answer;
        let room = append.item.room;
        match result {
            Ok(Outcome::New(stored)) => {
                let arrived_ms = append.deadline_ms.saturating_sub(self.config.limits.append_deadline_ms);
                self.meter.figures.borrow_mut().committed_ms.add(now.ms.saturating_sub(arrived_ms));
                self.learn(now, room, stored.offset, Some(publication(&append, stored)), host);
            }
            // Committed by a batch whose answer was lost, or long ago. The store knows its content as it is now.
            Ok(Outcome::Duplicate(stored)) if !mutation::active(Mutation::AgainCountsAsShown) => {
                self.learn(now, room, stored.offset, None, host);
            }
            Ok(Outcome::Duplicate(_) | Outcome::Refused(_)) | Err(NotKnown) => {}
        }
        let (caller, era, id) = (append.caller, append.era, Arc::clone(&append.item.id));
        let is_own = caller.endpoint == Endpoint::Shard(self.config.id);
        if is_own && is_last {
            self.give_own_credit();
        }
        match (was_told, is_own) {
            (true, true) => {}
            (true, false) => host.mesh(caller.endpoint, Message::Taken),
            (false, true) => self.appended(now, caller, era, &id, result, host),
            (false, false) => host.mesh(caller.endpoint, Message::Appended { caller, era, id, result, is_last }),
        }
    }

    // ── learning ────────────────────────────────────────────────────────────────────────────────────────────────────

    /// A publication of a room was committed. None: its content has to be read.
    pub(super) fn learn(
        &mut self,
        now: Now,
        room: RoomId,
        offset: Offset,
        publication: Option<Publication>,
        host: &mut impl Host,
    ) {
        let channel = Channel::Room(room);
        // Nobody here receives the room: whoever comes reads the head.
        let Some(home) = self.homes.get_mut(&channel) else { return };
        let held_limit = self.config.limits.held_limit_publications as usize;
        if home.take(offset, publication, held_limit) && !std::mem::replace(&mut home.is_unshown, true) {
            self.unshown.push(channel.clone());
        }
        self.go_on(now, &channel, host);
    }

    /// A message of a `live:` channel: next in line.
    pub(super) fn home_live(&mut self, channel: &Channel, entry: LiveEntry) {
        let Some(home) = self.homes.get_mut(channel) else { return };
        home.position += 1;
        home.fresh.push(Entry::Live(entry));
        if !std::mem::replace(&mut home.is_unshown, true) {
            self.unshown.push(channel.clone());
        }
    }

    /// Asks the store for what a home lacks: its head, or what is missing in a hole.
    fn go_on(&mut self, now: Now, channel: &Channel, host: &mut impl Host) {
        let Channel::Room(room) = *channel else { return };
        let Some(home) = self.homes.get_mut(channel) else { return };
        let has_gap = home.is_loaded && home.position < home.known;
        home.gap_since_ms = has_gap.then(|| home.gap_since_ms.unwrap_or(now.ms));
        if home.is_reading || home.is_loaded && !has_gap {
            return;
        }
        if home.gap_since_ms.is_some_and(|since| now.ms >= since + self.config.limits.gap_deadline_ms) {
            return self.lose(channel, Message::Lost { channel: channel.clone() }, now, host);
        }
        let (asker, ask) = if home.is_loaded {
            let request = PageRequest {
                from: home.position,
                ascending: true,
                // What is held need not be read.
                up_to: home.held.first_key_value().map_or(home.known, |(first, _)| home.known.min(*first)),
                items_limit: self.config.limits.page_limit_publications as usize,
                bytes_limit: self.config.limits.page_limit_bytes as usize,
            };
            (Asker::Gap(room), Ask::Page { room, request })
        } else {
            (Asker::Load(room), Ask::Head { room })
        };
        let may_read = now.ms >= home.read_after_ms;
        if may_read && self.ask(asker, ask, host) {
            if let Some(home) = self.homes.get_mut(channel) {
                home.is_reading = true;
            }
        } else if let Some(home) = self.homes.get_mut(channel)
            && !std::mem::replace(&mut home.is_stalled, true)
        {
            self.stalled.push(channel.clone());
        }
    }

    /// The readers answered.
    pub(super) fn answered(&mut self, now: Now, asker: Asker, answer: Answer, host: &mut impl Host) {
        match asker {
            Asker::Connection(caller) => self.connection_answered(now, caller, answer, host),
            Asker::Load(room) => self.loaded(now, room, answer, host),
            Asker::Gap(room) => self.filled(now, room, answer, host),
            Asker::Top(room) => {
                if let Answer::Head(Some(head)) = answer {
                    self.learn(now, room, head.offset, None, host);
                }
            }
            Asker::Check(room, caller) => {
                let top = match answer {
                    Answer::Head(Some(head)) => {
                        self.learn(now, room, head.offset, None, host);
                        CheckOutcome::Top(head.offset)
                    }
                    Answer::Head(None) => CheckOutcome::NoRoom,
                    _ => CheckOutcome::Failed,
                };
                self.answer_check(now, caller, top, host);
            }
        }
    }

    fn loaded(&mut self, now: Now, room: RoomId, answer: Answer, host: &mut impl Host) {
        let channel = Channel::Room(room);
        let Some(home) = self.homes.get_mut(&channel).filter(|home| !home.is_loaded) else { return };
        home.is_reading = false;
        let waiting = std::mem::take(&mut home.waiting);
        let failed = match answer {
            Answer::Head(Some(head)) => {
                home.is_loaded = true;
                home.epoch = Some(head.epoch);
                home.position = head.offset;
                home.shown = head.offset;
                home.check_ms = now.ms + self.config.limits.ping_interval_ms;
                self.top_checks.push_back((home.check_ms, room));
                None
            }
            Answer::Head(None) => Some(AttachOutcome::NoRoom),
            _ => Some(AttachOutcome::Failed),
        };
        if failed.is_some() {
            self.homes.remove(&channel);
        }
        for shard in waiting {
            let outcome = match (&failed, self.homes.get_mut(&channel)) {
                (None, Some(home)) => home.feed(shard),
                (Some(outcome), _) => outcome.clone(),
                (None, None) => AttachOutcome::Failed,
            };
            self.answer_attach(now, shard, channel.clone(), outcome, host);
        }
        // What was learned while the head was being read.
        let Some(home) = self.homes.get_mut(&channel) else { return };
        if home.settle() && !std::mem::replace(&mut home.is_unshown, true) {
            self.unshown.push(channel.clone());
        }
        self.go_on(now, &channel, host);
    }

    fn filled(&mut self, now: Now, room: RoomId, answer: Answer, host: &mut impl Host) {
        let channel = Channel::Room(room);
        let Some(home) = self.homes.get_mut(&channel) else { return };
        home.is_reading = false;
        let position = home.position;
        match answer {
            Answer::Page(Some(page)) => {
                let head = page.head.offset;
                for publication in &page.publications {
                    self.learn(now, room, publication.offset, Some(publication.clone()), host);
                }
                let Some(home) = self.homes.get_mut(&channel) else { return };
                // What was missing when it was asked for may have come from its lane before the answer.
                let is_as_before = home.position < home.known && home.position == position;
                if is_as_before && head >= home.known {
                    // The store holds the head but not what leads to it: time alone won't mend that.
                    self.lose(&channel, Message::Lost { channel: channel.clone() }, now, host);
                } else if is_as_before {
                    home.read_after_ms = now.ms + READ_RETRY_MS;
                }
            }
            Answer::Page(None) => {
                return self.lose(&channel, Message::Closed { channel: channel.clone() }, now, host);
            }
            _ => home.read_after_ms = now.ms + READ_RETRY_MS,
        }
        self.go_on(now, &channel, host);
    }

    /// Looks once per ping interval whether a room's log has gone on without its home: a commit whose sender was given
    /// up, with nothing after it that would show the hole.
    pub(super) fn check_tops(&mut self, now: Now, host: &mut impl Host) {
        while let Some((due_ms, room)) = self.top_checks.front().copied() {
            if now.ms < due_ms.max(self.checks_rest_until_ms) {
                return;
            }
            self.top_checks.pop_front();
            let next_ms = now.ms + self.config.limits.ping_interval_ms;
            let home = self.homes.get_mut(&Channel::Room(room));
            // One that was let go and loaded again has another entry.
            let Some(home) = home.filter(|home| home.check_ms == due_ms) else { continue };
            home.check_ms = next_ms;
            if self.ask(Asker::Top(room), Ask::Head { room }, host) {
                self.top_checks.push_back((next_ms, room));
                continue;
            }
            // Without a credit it is the first to be looked at when there may be one.
            if let Some(home) = self.homes.get_mut(&Channel::Room(room)) {
                home.check_ms = due_ms;
            }
            self.top_checks.push_front((due_ms, room));
            self.checks_rest_until_ms = now.ms + READ_RETRY_MS;
            return;
        }
    }

    pub(super) fn home_check(&mut self, now: Now, room: RoomId, caller: Caller, host: &mut impl Host) {
        if !self.ask(Asker::Check(room, caller), Ask::Head { room }, host) {
            self.answer_check(now, caller, CheckOutcome::Failed, host);
        }
    }

    fn answer_check(&mut self, now: Now, caller: Caller, top: CheckOutcome, host: &mut impl Host) {
        if caller.endpoint == Endpoint::Shard(self.config.id) {
            self.checked(now, caller, top, host);
        } else {
            host.mesh(caller.endpoint, Message::Checked { caller, top });
        }
    }

    /// The room was deleted.
    pub(super) fn home_closed(&mut self, room: RoomId, host: &mut impl Host) {
        let channel = Channel::Room(room);
        let now = Now { ms: self.now_ms(), unix_ms: 0 };
        self.lose(&channel, Message::Closed { channel: channel.clone() }, now, host);
    }

    /// Gives up a home: every shard that it feeds is told so, and those who come later begin anew.
    fn lose(&mut self, channel: &Channel, ending: Message, now: Now, host: &mut impl Host) {
        let Some(home) = self.homes.remove(channel) else { return };
        for fed in home.feeds {
            self.tell_ending(now, fed.shard, ending.clone(), host);
        }
        for shard in home.waiting {
            self.answer_attach(now, shard, channel.clone(), AttachOutcome::Failed, host);
        }
    }

    fn tell_ending(&mut self, now: Now, shard: u16, ending: Message, host: &mut impl Host) {
        if shard == self.config.id {
            self.mesh(now, Endpoint::Shard(shard), ending, host);
        } else if self.has_place(shard, host) {
            host.mesh(Endpoint::Shard(shard), ending);
        } else {
            self.endings.push((shard, ending));
        }
    }

    // ── showing ─────────────────────────────────────────────────────────────────────────────────────────────────────

    /// What the turn has learned becomes one run a channel, and goes to every shard that has subscribers.
    pub(super) fn show(&mut self, now: Now, host: &mut impl Host) {
        let limits = &self.config.limits;
        let (entries, bytes) = (limits.ring_limit_publications as usize, limits.ring_limit_bytes as usize);
        let run_bytes = self.run_bytes();
        for channel in std::mem::take(&mut self.unshown) {
            let Some(home) = self.homes.get_mut(&channel) else { continue };
            home.is_unshown = false;
            let mut fresh = std::mem::take(&mut home.fresh);
            apply_changes(&mut fresh);
            while !fresh.is_empty() {
                let Some(home) = self.homes.get_mut(&channel) else { break };
                let rest = fresh.split_off(Run::fitting(&fresh, run_bytes));
                let run = Arc::new(Run::new(home.shown + 1, std::mem::replace(&mut fresh, rest)));
                home.shown = run.last();
                self.meter.figures.borrow_mut().publications += run.entries.len() as u64;
                home.ring.apply(&run, run_bytes);
                home.ring.push(run, now.ms, entries, bytes);
                self.feed_shards(now, &channel, host);
            }
        }
    }

    /// The most that a run may have: a whole one is the least that a queue can hold by reference, so a queue must hold
    /// several.
    pub(super) fn run_bytes(&self) -> usize {
        RUN_LIMIT_BYTES.min((self.config.limits.outbound_limit_bytes / 4) as usize)
    }

    /// Sends each fed shard what it has not had. One whose queue is full goes on later, from the ring.
    fn feed_shards(&mut self, now: Now, channel: &Channel, host: &mut impl Host) {
        let own = self.config.id;
        let mut lost = Vec::new();
        let mut own_runs = Vec::new();
        let reserved = reserved_places(self.config.limits.mesh_calls_limit);
        let Some(home) = self.homes.get_mut(channel) else { return };
        let mut is_stalled = false;
        for fed in &mut home.feeds {
            while fed.sent < home.shown {
                let Some(ring_run) = home.ring.run_with(fed.sent + 1) else {
                    lost.push(fed.shard);
                    break;
                };
                let run = Arc::clone(&ring_run.run);
                let last = run.last();
                if fed.shard == own {
                    own_runs.push(run);
                } else if host.mesh_places(Endpoint::Shard(fed.shard)) > reserved {
                    host.mesh(Endpoint::Shard(fed.shard), Message::Run { channel: channel.clone(), run });
                } else if !mutation::active(Mutation::FullQueueDrops) {
                    is_stalled = true;
                    break;
                }
                fed.sent = last;
            }
        }
        home.feeds.retain(|fed| !lost.contains(&fed.shard));
        if !is_stalled && matches!(channel, Channel::Live(_)) {
            home.ring.clear();
        }
        lost.iter().for_each(|shard| home.presence.forget_shard(*shard));
        if is_stalled && !std::mem::replace(&mut home.is_stalled, true) {
            self.stalled.push(channel.clone());
        }
        for run in own_runs {
            self.fed(now, channel, run, host);
        }
        for shard in lost {
            self.tell_ending(now, shard, Message::Lost { channel: channel.clone() }, host);
        }
    }

    /// Tries again what found no place, no credit or no answer before.
    pub(super) fn go_on_with_stalled(&mut self, now: Now, host: &mut impl Host) {
        for (shard, ending) in std::mem::take(&mut self.endings) {
            self.tell_ending(now, shard, ending, host);
        }
        for channel in std::mem::take(&mut self.stalled) {
            let Some(home) = self.homes.get_mut(&channel) else { continue };
            home.is_stalled = false;
            self.feed_shards(now, &channel, host);
            self.go_on(now, &channel, host);
        }
    }

    fn has_place(&self, shard: u16, host: &impl Host) -> bool {
        host.mesh_places(Endpoint::Shard(shard)) > reserved_places(self.config.limits.mesh_calls_limit)
    }
}

impl Home {
    fn new(is_live: bool) -> Home {
        Home {
            epoch: None,
            is_loaded: is_live,
            position: 0,
            fresh: Vec::new(),
            shown: 0,
            ring: Ring::default(),
            feeds: Vec::new(),
            waiting: Vec::new(),
            held: BTreeMap::new(),
            known: 0,
            gap_since_ms: None,
            is_reading: false,
            read_after_ms: 0,
            check_ms: 0,
            is_unshown: false,
            is_stalled: false,
            presence: Presence::default(),
        }
    }

    pub fn is_fed(&self, shard: u16) -> bool {
        self.feeds.iter().any(|fed| fed.shard == shard)
    }

    pub fn fed_shards(&self) -> impl Iterator<Item = u16> {
        self.feeds.iter().map(|fed| fed.shard)
    }

    /// Feeds this shard from what is shown next on.
    fn feed(&mut self, shard: u16) -> AttachOutcome {
        self.feeds.retain(|fed| fed.shard != shard);
        self.presence.forget_shard(shard);
        self.feeds.push(FedShard { shard, sent: self.shown });
        AttachOutcome::Attached { epoch: self.epoch.clone(), position: self.shown }
    }

    /// Takes in one publication, or the news that there is one. True: there is something new to show.
    fn take(&mut self, offset: Offset, publication: Option<Publication>, held_limit: usize) -> bool {
        if self.is_loaded && offset <= self.position {
            return false;
        }
        self.known = self.known.max(offset);
        if let Some(publication) = publication
            // What finds no place is read again later.
            && (self.held.len() < held_limit || self.is_loaded && offset == self.position + 1)
        {
            self.held.insert(offset, publication);
        }
        self.settle()
    }

    /// Moves what follows the position out of what is held.
    fn settle(&mut self) -> bool {
        if !self.is_loaded {
            return false;
        }
        let before = self.position;
        while let Some(entry) = self.held.first_entry() {
            if *entry.key() > self.position + 1 {
                break;
            }
            let publication = entry.remove();
            if publication.offset == self.position + 1 {
                self.position += 1;
                self.fresh.push(Entry::Stored(publication));
            }
        }
        self.known = self.known.max(self.position);
        self.position > before
    }
}

/// A stored item as its subscribers see it.
fn publication(append: &Append, stored: Stored) -> Publication {
    Publication {
        offset: stored.offset,
        number: stored.number,
        kind: append.item.kind,
        user: User { id: append.item.user, username: Arc::clone(&append.username) },
        id: Arc::clone(&append.item.id),
        time: stored.time,
        target: append.item.target,
        body: append.item.body.clone(),
        edited: None,
        deleted: None,
    }
}
