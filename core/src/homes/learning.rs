//! How a home learns what was committed. One function makes publications known: [`Homes::learn`]. Commits through this
//! home, duplicates, removals and checks of the head all end there.

use super::home::Home;
use super::{Homes, READ_RETRY_MS};
use crate::context::Context;
use crate::host::Host;
use crate::message::{
    Append, Asker, AttachOutcome, Channel, CheckOutcome, Endpoint, JoinRequest, LaneAnswer, Message, OutcomeUnknown,
    Requester, StoreReply, StoreRequest,
};
use crate::mutation::{self, Mutation};
use crate::protocol::{Entry, LiveEntry};
use std::sync::Arc;
use uproar_model::{Offset, Outcome, PageRequest, Publication, RoomId, Stored, User};

impl Homes {
    // ── appends ─────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Passes an item for a room on to its lane. The database decides everything, so the home's state is not needed.
    pub fn on_append(&self, cx: &mut Context, append: Box<Append>, host: &mut impl Host) {
        let lane = cx.messenger.lane_of(append.item.room);
        let has_credit = cx.messenger.take_credit(lane);
        debug_assert!(has_credit, "there is a lane credit for every call that can arrive");
        cx.messenger.send(lane, Message::Commit(append), host);
    }

    /// A lane has answered. The sender is told now; the publication is shown at the end of the turn.
    pub fn on_committed(&mut self, cx: &mut Context, answer: LaneAnswer, host: &mut impl Host) {
        let LaneAnswer { append, result, was_answered, is_last } = answer;
        let room = append.item.room;
        match result {
            Ok(Outcome::New(stored)) => {
                let arrived_ms = append.deadline_ms.saturating_sub(cx.limits().append_deadline_ms);
                cx.meter.metrics.borrow_mut().committed_ms.add(cx.now.ms.saturating_sub(arrived_ms));
                self.learn(cx, room, stored.offset, Some(publication(&append, stored)), host);
            }
            // Committed earlier, perhaps by a batch whose answer was lost. Its current content is in the store.
            Ok(Outcome::Duplicate(stored)) if !mutation::active(Mutation::DuplicateCountsAsShown) => {
                self.learn(cx, room, stored.offset, None, host);
            }
            Ok(Outcome::Duplicate(_) | Outcome::Refused(_)) | Err(OutcomeUnknown) => {}
        }
        let (caller, era, id) = (append.caller, append.era, Arc::clone(&append.item.id));
        let is_stored = matches!(result, Ok(Outcome::New(_) | Outcome::Duplicate(_)));
        let answer = match (was_answered, caller.endpoint) {
            (false, _) => Message::Appended { caller, era, id, result, is_last },
            (true, Endpoint::Shard(_)) if is_stored => Message::Settled { caller, room, id },
            (true, _) => Message::CreditReturned,
        };
        cx.messenger.send(caller.endpoint, answer, host);
    }

    /// A message for a `live:` channel: the next in its order.
    pub fn on_live(&mut self, channel: &Channel, entry: LiveEntry) {
        let Some(home) = self.homes.get_mut(channel) else { return };
        home.learned += 1;
        home.fresh.push(Entry::Live(entry));
        Self::mark_to_show(&mut self.to_show, channel, home);
    }

    // ── learning ────────────────────────────────────────────────────────────────────────────────────────────────────

    /// A publication of a room was committed. `None`: its content has to be read.
    pub fn learn(
        &mut self,
        cx: &mut Context,
        room: RoomId,
        offset: Offset,
        publication: Option<Publication>,
        host: &mut impl Host,
    ) {
        let channel = Channel::Room(room);
        // Without a home the room has no subscribers; the next one reads the head.
        let Some(home) = self.homes.get_mut(&channel) else { return };
        if home.learn(offset, publication, cx.limits().held_limit_publications as usize) {
            Self::mark_to_show(&mut self.to_show, &channel, home);
        }
        if home.is_loaded && !home.has_gap() {
            home.gap_since_ms = None;
        } else {
            self.read_missing(cx, &channel, host);
        }
    }

    /// Asks the store for what a home lacks: its head, or the publications of a gap.
    pub(super) fn read_missing(&mut self, cx: &mut Context, channel: &Channel, host: &mut impl Host) {
        let Channel::Room(room) = *channel else { return };
        let Some(home) = self.homes.get_mut(channel) else { return };
        let has_gap = home.has_gap();
        home.gap_since_ms = has_gap.then(|| home.gap_since_ms.unwrap_or(cx.now.ms));
        if home.is_reading || home.is_loaded && !has_gap {
            return;
        }
        if home.gap_since_ms.is_some_and(|since| cx.now.ms >= since + cx.limits().gap_deadline_ms) {
            return self.abandon(cx, channel, &Message::Lost { channel: channel.clone() }, host);
        }
        let (requester, request) = if home.is_loaded {
            let request = PageRequest {
                from: home.learned,
                ascending: true,
                up_to: home.gap_end(),
                items_limit: cx.limits().page_limit_publications as usize,
                bytes_limit: cx.limits().page_limit_bytes as usize,
            };
            (Requester::Gap(room), StoreRequest::Page { room, request })
        } else {
            (Requester::Load(room), StoreRequest::Head { room })
        };
        if cx.now.ms >= home.read_after_ms && cx.messenger.read(requester, Asker::home(room), request, host) {
            home.is_reading = true;
        } else {
            Self::mark_stalled(&mut self.stalled, channel, home);
        }
    }

    /// The head of a room arrived, and shards wait for it.
    pub fn on_loaded(&mut self, cx: &mut Context, room: RoomId, reply: StoreReply, host: &mut impl Host) {
        let channel = Channel::Room(room);
        let Some(home) = self.homes.get_mut(&channel).filter(|home| !home.is_loaded) else { return };
        home.is_reading = false;
        let waiting = std::mem::take(&mut home.waiting);
        let failure = match reply {
            StoreReply::Head(Some(head)) => {
                home.is_loaded = true;
                home.epoch = Some(head.epoch);
                home.learned = head.offset;
                home.shown = head.offset;
                home.check_ms = cx.now.ms + cx.limits().ping_interval_ms;
                self.head_checks.push_back((home.check_ms, room));
                None
            }
            StoreReply::Head(None) => Some(AttachOutcome::NoRoom),
            _ => Some(AttachOutcome::Failed),
        };
        for shard in waiting {
            let outcome = failure.clone().unwrap_or_else(|| home.feed(shard));
            Self::answer_attach(cx, shard, &channel, outcome, host);
        }
        if failure.is_some() {
            self.homes.remove(&channel);
            return;
        }
        // Publications may have become known while the head was being read.
        if home.take_next() {
            Self::mark_to_show(&mut self.to_show, &channel, home);
        }
        self.read_missing(cx, &channel, host);
    }

    /// The publications of a gap arrived.
    pub fn on_gap_page(&mut self, cx: &mut Context, room: RoomId, reply: StoreReply, host: &mut impl Host) {
        let channel = Channel::Room(room);
        let Some(home) = self.homes.get_mut(&channel) else { return };
        home.is_reading = false;
        let learned = home.learned;
        match reply {
            StoreReply::Page(Some(page)) => {
                let head = page.head.offset;
                for publication in &page.publications {
                    self.learn(cx, room, publication.offset, Some(publication.clone()), host);
                }
                let Some(home) = self.homes.get_mut(&channel) else { return };
                // The lane may have delivered the missing publications before this answer came, and there may be
                // another gap since then, which nobody has asked for.
                let is_late = page.publications.iter().any(|publication| publication.offset <= learned);
                let is_stuck = home.has_gap() && home.learned == learned && !is_late;
                if is_stuck && head >= home.known {
                    // The store has the head but not the publications before it. Waiting will not help.
                    self.abandon(cx, &channel, &Message::Lost { channel: channel.clone() }, host);
                } else if is_stuck {
                    home.read_after_ms = cx.now.ms + READ_RETRY_MS;
                }
            }
            StoreReply::Page(None) => {
                return self.abandon(cx, &channel, &Message::Closed { channel: channel.clone() }, host);
            }
            _ => home.read_after_ms = cx.now.ms + READ_RETRY_MS,
        }
        self.read_missing(cx, &channel, host);
    }

    // ── heads ───────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Checks once per ping interval whether a room has publications that its home was not told of, such as a commit
    /// that was given up and that no later one follows.
    pub fn check_heads(&mut self, cx: &mut Context, host: &mut impl Host) {
        while let Some((due_ms, room)) = self.head_checks.front().copied() {
            if cx.now.ms < due_ms.max(self.checks_rest_until_ms) {
                return;
            }
            self.head_checks.pop_front();
            let home = self.homes.get_mut(&Channel::Room(room));
            // A home that was dropped and loaded again has another entry.
            let Some(home) = home.filter(|home| home.check_ms == due_ms) else { continue };
            if !cx.messenger.read(Requester::Head(room), Asker::home(room), StoreRequest::Head { room }, host) {
                self.head_checks.push_front((due_ms, room));
                self.checks_rest_until_ms = cx.now.ms + READ_RETRY_MS;
                return;
            }
            home.check_ms = cx.now.ms + cx.limits().ping_interval_ms;
            self.head_checks.push_back((home.check_ms, room));
        }
    }

    pub fn on_head(&mut self, cx: &mut Context, room: RoomId, reply: &StoreReply, host: &mut impl Host) {
        if let StoreReply::Head(Some(head)) = reply {
            self.learn(cx, room, head.offset, None, host);
        }
    }

    /// A shard asks for a room's head, because a client claims an offset above the shard's position.
    pub fn on_check(&self, cx: &mut Context, room: RoomId, request: JoinRequest, host: &mut impl Host) {
        let requester = Requester::Check(room, request);
        if !cx.messenger.read(requester, Asker::home(room), StoreRequest::Head { room }, host) {
            Self::answer_check(cx, request, CheckOutcome::Failed, host);
        }
    }

    pub fn on_check_reply(
        &mut self,
        cx: &mut Context,
        room: RoomId,
        request: JoinRequest,
        reply: &StoreReply,
        host: &mut impl Host,
    ) {
        self.on_head(cx, room, reply, host);
        let outcome = match reply {
            StoreReply::Head(Some(head)) => CheckOutcome::Head(head.offset),
            StoreReply::Head(None) => CheckOutcome::NoRoom,
            _ => CheckOutcome::Failed,
        };
        Self::answer_check(cx, request, outcome, host);
    }

    fn answer_check(cx: &mut Context, request: JoinRequest, outcome: CheckOutcome, host: &mut impl Host) {
        cx.messenger.send(request.caller.endpoint, Message::Checked { request, outcome }, host);
    }

    // ── the end of a home ───────────────────────────────────────────────────────────────────────────────────────────

    /// The room was deleted.
    pub fn on_room_closed(&mut self, cx: &mut Context, room: RoomId, host: &mut impl Host) {
        let channel = Channel::Room(room);
        self.abandon(cx, &channel, &Message::Closed { channel: channel.clone() }, host);
    }

    /// The database has another history: all rooms are loaded again.
    pub fn start_over(&mut self, cx: &mut Context, host: &mut impl Host) {
        let rooms: Vec<_> = self.homes.keys().filter(|channel| matches!(channel, Channel::Room(_))).cloned().collect();
        for channel in rooms {
            self.abandon(cx, &channel, &Message::Lost { channel: channel.clone() }, host);
        }
    }

    /// Drops a home. Every shard that it feeds is sent `ending`; later subscribers start over.
    fn abandon(&mut self, cx: &mut Context, channel: &Channel, ending: &Message, host: &mut impl Host) {
        let Some(Home { fed_shards, waiting, .. }) = self.homes.remove(channel) else { return };
        for fed in fed_shards {
            self.send_ending(cx, fed.shard, ending.clone(), host);
        }
        for shard in waiting {
            Self::answer_attach(cx, shard, channel, AttachOutcome::Failed, host);
        }
    }
}

/// A stored item as its subscribers receive it.
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
