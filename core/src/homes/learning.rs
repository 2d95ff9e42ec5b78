//! How a home learns what was committed. One function makes publications known: [`Homes::learn`]. Commits through this
//! home, duplicates, removals and sweeps all end there.

use super::home::Home;
use super::{Homes, READ_RETRY_MS};
use crate::bus::Announcement;
use crate::context::Context;
use crate::host::Host;
use crate::message::{
    Append, Asker, AskingHome, AttachOutcome, Channel, CheckOutcome, Endpoint, JoinRequest, LaneAnswer, Message,
    OutcomeUnknown, Requester, StoreReply, StoreRequest,
};
use crate::mutation::{self, Mutation};
use crate::protocol::{Entry, LiveEntry};
use std::sync::Arc;
use uproar_model::{DatabaseGeneration, Head, Offset, Outcome, PageRequest, Publication, RoomId, Stored, User};

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
        let LaneAnswer { append, result, was_answered, is_last, generation } = answer;
        let room = append.item.room;
        match result {
            Ok(Outcome::New(stored)) => {
                let arrived_ms = append.deadline_ms.saturating_sub(cx.limits().append_deadline_ms);
                cx.meter.metrics.borrow_mut().committed_ms.add(cx.now.ms.saturating_sub(arrived_ms));
                let publication = publication(&append, stored);
                Self::announce(cx, room, generation, Some(&publication), host);
                self.learn(cx, room, generation, stored.offset, Some(publication), host);
            }
            // Committed earlier, perhaps by a batch whose answer was lost. Its current content is in the store.
            Ok(Outcome::Duplicate(stored)) if !mutation::active(Mutation::DuplicateCountsAsShown) => {
                Self::announce(cx, room, generation, None, host);
                self.learn(cx, room, generation, stored.offset, None, host);
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

    /// Tells the other nodes of a commit, whether or not anybody here receives the room. `None`: only the head tells
    /// what it was.
    pub fn announce(
        cx: &Context,
        room: RoomId,
        generation: Option<DatabaseGeneration>,
        publication: Option<&Publication>,
        host: &mut impl Host,
    ) {
        cx.announce(host, || match (generation, publication) {
            (Some(generation), Some(publication)) => {
                Announcement::Stored { room, generation, publication: Box::new(publication.clone()) }
            }
            _ => Announcement::Head { room },
        });
    }

    /// A message for a `live:` channel: the next in its order.
    pub fn on_live(&mut self, channel: &Channel, entry: LiveEntry) {
        let Some(home) = self.homes.get_mut(channel) else { return };
        home.learned += 1;
        home.fresh.push(Entry::Live(entry));
        Self::mark_to_show(&mut self.to_show, channel, home);
    }

    // ── learning ────────────────────────────────────────────────────────────────────────────────────────────────────

    /// A publication of a room was committed in this generation (`None`: perhaps in another one than the sender's).
    /// Without the publication, its content has to be read.
    pub fn learn(
        &mut self,
        cx: &mut Context,
        room: RoomId,
        generation: Option<DatabaseGeneration>,
        offset: Offset,
        publication: Option<Publication>,
        host: &mut impl Host,
    ) {
        let channel = Channel::Room(room);
        // Without a home the room has no subscribers; the next one reads the head.
        let Some(home) = self.homes.get_mut(&channel) else { return };
        if !home.is_of(generation) {
            home.is_in_doubt = true;
            return self.read_missing(cx, &channel, host);
        }
        let has_content = publication.is_some();
        if home.learn(offset, publication, cx.limits().held_limit_publications as usize) {
            Self::mark_to_show(&mut self.to_show, &channel, home);
            // Somebody else may write to the room all the time. Only a gap without progress ends its subscriptions.
            home.gap_since_ms = None;
        }
        if home.is_loaded && !home.has_gap() {
            home.gap_since_ms = None;
        } else if has_content && home.is_loaded && !home.is_reading && cx.config.bus.is_heard() {
            self.doubt_later(cx, room);
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
        if home.is_reading || home.is_loaded && !has_gap && !home.is_in_doubt {
            return;
        }
        if home.gap_since_ms.is_some_and(|since| cx.now.ms >= since + cx.limits().gap_deadline_ms) {
            return self.abandon(cx, channel, &Message::Lost { channel: channel.clone() }, host);
        }
        let asking = home.asking(room);
        let (requester, request) = if !home.is_loaded {
            (Requester::Load(asking), StoreRequest::Head { room })
        } else if !has_gap {
            (Requester::Head(asking), StoreRequest::Head { room })
        } else {
            let request = PageRequest {
                from: home.learned,
                ascending: true,
                up_to: home.gap_end(),
                items_limit: cx.limits().page_limit_publications as usize,
                bytes_limit: cx.limits().page_limit_bytes as usize,
            };
            (Requester::Gap(asking), StoreRequest::Page { room, request })
        };
        if cx.now.ms >= home.read_after_ms && cx.messenger.read(requester, Asker::home(room), request, host) {
            home.is_reading = true;
            // A doubt that comes up from now on is not settled by this answer, which may be older.
            home.asked_in_doubt = std::mem::take(&mut home.is_in_doubt);
        } else {
            Self::mark_stalled(&mut self.stalled, channel, home);
        }
    }

    /// The home that has asked the store, unless it is gone.
    pub(super) fn home_that_asked(&mut self, asking: AskingHome) -> Option<&mut Home> {
        self.homes.get_mut(&Channel::Room(asking.room)).filter(|home| home.number == asking.number)
    }

    /// The head of a room arrived, and shards wait for it.
    pub fn on_loaded(&mut self, cx: &mut Context, asking: AskingHome, reply: StoreReply, host: &mut impl Host) {
        let channel = Channel::Room(asking.room);
        let Some(home) = self.home_that_asked(asking).filter(|home| !home.is_loaded) else { return };
        home.is_reading = false;
        let waiting = std::mem::take(&mut home.waiting);
        let failure = match reply {
            StoreReply::Head(Some(head)) => {
                home.load(head.epoch, head.offset);
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
        self.sweep.on_loaded(cx.now.ms);
        // Publications may have become known while the head was being read.
        let Some(home) = self.homes.get_mut(&channel) else { return };
        if home.take_next() {
            Self::mark_to_show(&mut self.to_show, &channel, home);
        }
        self.read_missing(cx, &channel, host);
    }

    /// The publications of a gap arrived.
    pub fn on_gap_page(&mut self, cx: &mut Context, asking: AskingHome, reply: StoreReply, host: &mut impl Host) {
        let room = asking.room;
        let channel = Channel::Room(room);
        let Some(home) = self.home_that_asked(asking) else { return };
        let (learned, asked_in_doubt) = (home.learned, home.asked_in_doubt);
        match reply {
            StoreReply::Page(page) => {
                if !self.may_go_on(cx, asking, page.as_ref().map(|page| &page.head), host) {
                    return;
                }
                let Some(page) = page else { return };
                let (head, generation) = (page.head.offset, page.head.epoch.generation());
                for publication in &page.publications {
                    self.learn(cx, room, generation, publication.offset, Some(publication.clone()), host);
                }
                if asked_in_doubt {
                    self.learn(cx, room, generation, head, None, host);
                }
                let Some(home) = self.homes.get_mut(&channel) else { return };
                // Only now: each of those calls would otherwise ask for the next page.
                home.is_reading = false;
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
            _ => {
                home.is_reading = false;
                home.is_in_doubt |= asked_in_doubt;
                home.read_after_ms = cx.now.ms + READ_RETRY_MS;
            }
        }
        self.read_missing(cx, &channel, host);
    }

    // ── heads ───────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Whether a home may go on after the store has answered with this head. If not, it gives up: the room is gone
    /// (`None`), or the head is that of another history than the one that the home has shown.
    pub(super) fn may_go_on(
        &mut self,
        cx: &mut Context,
        asking: AskingHome,
        head: Option<&Head>,
        host: &mut impl Host,
    ) -> bool {
        let Some(home) = self.home_that_asked(asking) else { return false };
        let channel = Channel::Room(asking.room);
        let ending = match head {
            None => Message::Closed { channel: channel.clone() },
            Some(_) if mutation::active(Mutation::HomeIgnoresEpoch) => return true,
            Some(head) if home.epoch.as_ref() == Some(&head.epoch) && head.offset >= asking.learned => return true,
            Some(_) => Message::Lost { channel: channel.clone() },
        };
        self.abandon(cx, &channel, &ending, host);
        false
    }

    /// The store has answered a home with the room's head. Returns whether the home goes on.
    pub(super) fn on_store_head(
        &mut self,
        cx: &mut Context,
        asking: AskingHome,
        head: Option<&Head>,
        host: &mut impl Host,
    ) -> bool {
        let goes_on = self.may_go_on(cx, asking, head, host);
        if let Some(head) = head.filter(|_| goes_on) {
            self.learn(cx, asking.room, head.epoch.generation(), head.offset, None, host);
        }
        goes_on
    }

    /// The head of a room whose home was in doubt.
    pub fn on_head(&mut self, cx: &mut Context, asking: AskingHome, reply: &StoreReply, host: &mut impl Host) {
        let Some(home) = self.home_that_asked(asking) else { return };
        home.is_reading = false;
        if let StoreReply::Head(head) = reply {
            self.on_store_head(cx, asking, head.as_ref(), host);
        } else {
            home.is_in_doubt = true;
            home.read_after_ms = cx.now.ms + READ_RETRY_MS;
        }
        self.read_missing(cx, &Channel::Room(asking.room), host);
    }

    /// A shard asks for a room's head, because a client claims an offset above the shard's position, or was admitted in
    /// another epoch than the shard's.
    pub fn on_check(&self, cx: &mut Context, room: RoomId, request: JoinRequest, host: &mut impl Host) {
        let home = self.homes.get(&Channel::Room(room));
        let is_asked = home.is_some_and(|home| {
            let requester = Requester::Check(home.asking(room), request);
            cx.messenger.read(requester, Asker::home(room), StoreRequest::Head { room }, host)
        });
        if !is_asked {
            Self::answer_check(cx, request, CheckOutcome::Failed, host);
        }
    }

    pub fn on_check_reply(
        &mut self,
        cx: &mut Context,
        asking: AskingHome,
        request: JoinRequest,
        reply: StoreReply,
        host: &mut impl Host,
    ) {
        let outcome = match reply {
            StoreReply::Head(head) => {
                let goes_on = self.on_store_head(cx, asking, head.as_ref(), host);
                match head {
                    None => CheckOutcome::NoRoom,
                    Some(head) if goes_on => CheckOutcome::Head(head.epoch, head.offset),
                    Some(_) => CheckOutcome::Failed,
                }
            }
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
        self.abandon_all(cx, |channel| matches!(channel, Channel::Room(_)), host);
    }

    /// Messages of other nodes for `live:` channels were lost.
    pub fn lose_live(&mut self, cx: &mut Context, host: &mut impl Host) {
        self.abandon_all(cx, |channel| matches!(channel, Channel::Live(_)), host);
    }

    fn abandon_all(&mut self, cx: &mut Context, which: fn(&Channel) -> bool, host: &mut impl Host) {
        let channels: Vec<_> = self.homes.keys().filter(|channel| which(channel)).cloned().collect();
        for channel in channels {
            self.abandon(cx, &channel, &Message::Lost { channel: channel.clone() }, host);
        }
    }

    /// Drops a home. Every shard that it feeds is sent `ending`; later subscribers start over.
    pub(super) fn abandon(&mut self, cx: &mut Context, channel: &Channel, ending: &Message, host: &mut impl Host) {
        let Some(Home { fed_shards, waiting, .. }) = self.remove(cx, channel, host) else { return };
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
        meta: append.item.meta.clone(),
    }
}
