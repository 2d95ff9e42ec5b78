//! A channel on one shard: how far it has been shown here, the latest of it, and who receives it.
//!
//! A subscriber is a cursor. Fan-out brings cursors up to the feed's position from the ring; one that stands before the
//! ring is *behind* and is caught up with pages from the store as its queue drains. Nobody is given anything but what
//! follows its cursor.

use super::connection::Connection;
use super::figures::Meter;
use super::host::{Host, Now};
use super::message::{Answer, Ask, Asker, Caller, Channel, Endpoint, Message};
use super::mutation::{self, Mutation};
use super::outbound::Slice;
use super::presence::{NoteRound, PresenceChange};
use super::run::{Ring, Run};
use super::session::Place;
use super::shard::Shard;
use crate::protocol::{CloseReason, Entry, Format, Frames};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use uproar_model::{Epoch, Kind, Offset, Page, PageRequest, UserId};

#[derive(Debug)]
pub(super) struct Subscriber {
    pub slot: u32,
    /// Of the connection's subscription.
    pub key: u32,
    /// The last offset put into its connection's queue.
    pub cursor: Offset,
    pub format: Format,
    /// Before the ring: caught up as its queue drains.
    pub is_behind: bool,
    /// It is told who comes and goes.
    pub wants_presence: bool,
}

#[derive(Debug)]
pub(super) struct Feed {
    pub channel: Channel,
    /// As clients name it: `room:<key>` or `live:<name>`.
    pub name: Arc<str>,
    pub home: u16,
    /// The home has answered. Until then runs are not for this feed.
    pub is_attached: bool,
    /// Those who wait for that.
    pub waiting: Vec<Caller>,
    /// None: a `live:` channel.
    pub epoch: Option<Epoch>,
    pub position: Offset,
    pub ring: Ring,
    pub subscribers: Vec<Subscriber>,
    /// The subscriber at whom the fan-out stands; none when none is under way.
    pub next: Option<usize>,
    /// Up to here every subscriber who is not behind has been given all.
    pub served: Offset,
    /// In the round that is under way the fan-out has passed a subscriber who is behind.
    pub has_passed_behind: bool,
    /// Something came, or somebody changed places, since the fan-out began: another round is due.
    pub again: bool,
    pub idle_since_ms: Option<u64>,
    /// Who came and went since the home was told, by slot and generation.
    pub changes: BTreeMap<(u32, u32), PresenceChange>,
    /// What subscribers are still to be told and nobody keeps.
    pub notes: VecDeque<NoteRound>,
}

impl Feed {
    /// Of a channel that is about to be attached, for this caller.
    pub fn new(channel: Channel, name: Arc<str>, home: u16, caller: Caller) -> Feed {
        Feed {
            channel,
            name,
            home,
            is_attached: false,
            waiting: vec![caller],
            epoch: None,
            position: 0,
            ring: Ring::default(),
            subscribers: Vec::new(),
            next: None,
            served: 0,
            has_passed_behind: false,
            again: false,
            idle_since_ms: None,
            changes: BTreeMap::new(),
            notes: VecDeque::new(),
        }
    }
}

impl Shard {
    // ── coming and going ────────────────────────────────────────────────────────────────────────────────────────────

    /// Makes a subscription of an open connection a subscriber. Its cursor stands where the connection was told.
    pub(super) fn add_subscriber(&mut self, feed_id: u32, subscriber: Subscriber) {
        let Some(feed) = self.feeds.get_mut(feed_id as usize) else { return };
        let Subscriber { slot, key, cursor, wants_presence, .. } = subscriber;
        let connection = &mut self.connections[slot as usize];
        let generation = connection.generation;
        let Some(session) = connection.session_mut() else { return };
        let index = feed.subscribers.len() as u32;
        let is_behind = cursor < feed.position;
        feed.subscribers.push(Subscriber { is_behind, ..subscriber });
        feed.idle_since_ms = None;
        session.subscriptions[key as usize].place = Place::In { feed: feed_id, index };
        let user = session.user.clone();
        if is_behind {
            connection.fall_behind(key);
        }
        self.meter.figures.borrow_mut().subscriptions += 1;
        let change = PresenceChange { slot, generation, user, is_here: true, listens: wants_presence };
        self.presence_changed(feed_id, change);
    }

    /// Forgets a subscription, and takes it out of its feed.
    pub(super) fn take_out(&mut self, slot: u32, key: u32) {
        let connection = &mut self.connections[slot as usize];
        let generation = connection.generation;
        let Some(session) = connection.session_mut() else { return };
        let Some(subscription) = session.subscriptions.try_remove(key as usize) else { return };
        session.behind.retain(|behind| *behind != key);
        session.reading.take_if(|(_, of)| *of == key);
        let user = session.user.clone();
        if let Some(client) = session.client_mut() {
            client.calls.iter_mut().filter(|call| call.key == Some(key)).for_each(|call| call.key = None);
        }
        let Place::In { feed: feed_id, index } = subscription.place else { return };
        self.meter.figures.borrow_mut().subscriptions -= 1;
        let Some(feed) = self.feeds.get_mut(feed_id as usize) else { return };
        feed.subscribers.swap_remove(index as usize);
        feed.again |= feed.next.is_some();
        if let Some(moved) = feed.subscribers.get(index as usize)
            && let Some(session) = self.connections[moved.slot as usize].session_mut()
        {
            session.subscriptions[moved.key as usize].place = Place::In { feed: feed_id, index };
        }
        if feed.subscribers.is_empty() {
            let now_ms = self.meter.clock_ms.get();
            feed.idle_since_ms = Some(now_ms);
            match feed.channel {
                Channel::Room(_) => self.idle_feeds.push_back((now_ms, feed.channel.clone())),
                Channel::Live(_) => self.idle_live.push(feed_id),
            }
        }
        self.presence_changed(feed_id, PresenceChange { slot, generation, user, is_here: false, listens: false });
    }

    pub(super) fn remove_feed(&mut self, id: u32) {
        let feed = self.feeds.remove(id as usize);
        self.feed_ids.remove(&feed.channel);
        self.unserved.retain(|unserved| *unserved != id);
        self.unnoted.retain(|unnoted| *unnoted != id);
        self.untold.retain(|untold| *untold != id);
        self.idle_live.retain(|idle| *idle != id);
    }

    /// The home sent the next run.
    pub(super) fn fed(&mut self, now: Now, channel: &Channel, run: Arc<Run>, host: &mut impl Host) {
        let Some(&id) = self.feed_ids.get(channel) else { return };
        let run_bytes = self.run_bytes();
        let feed = &mut self.feeds[id as usize];
        if !feed.is_attached {
            // For the feed that was here before; this one begins behind the home's answer.
            return;
        }
        if run.first != feed.position + 1 {
            // The last line of "no gap, no duplicate": never show what does not follow.
            return self.lose_feed(now, channel, host);
        }
        let limits = &self.config.limits;
        let (entries, bytes) = (limits.ring_limit_publications as usize, limits.ring_limit_bytes as usize);
        feed.ring.apply(&run, run_bytes);
        // One turn may bring more than the ring holds: they are given what they would lose before it goes.
        if feed.next.is_some()
            && feed.ring.would_lose(&run, feed.served, entries, bytes)
            && !self.fan_out_feed(now, id, host)
        {
            self.unserved.retain(|unserved| *unserved != id);
        }
        let Some(feed) = self.feeds.get_mut(id as usize) else { return };
        feed.position = run.last();
        feed.ring.push(Arc::clone(&run), now.ms, entries, bytes);
        if !feed.subscribers.is_empty() {
            match feed.next {
                Some(_) => feed.again = true,
                None => {
                    feed.next = Some(0);
                    self.unserved.push_back(id);
                }
            }
        }
        for entry in &run.entries {
            if let Entry::Stored(publication) = entry
                && publication.kind == Kind::Removed
                && let Some(user) = publication.body.as_deref().and_then(|id| id.parse().ok())
            {
                self.end_user_in_feed(now, id, UserId(user), host);
            }
        }
    }

    fn end_user_in_feed(&mut self, now: Now, feed_id: u32, user: UserId, host: &mut impl Host) {
        let slots = self.users.get(&user).map(|state| state.slots.clone()).unwrap_or_default();
        for slot in slots {
            let Some(session) = self.connections[slot as usize].session() else { continue };
            let mut subscriptions = session.subscriptions.iter();
            let found = subscriptions.find(|(_, s)| matches!(s.place, Place::In { feed, .. } if feed == feed_id));
            if let Some((key, _)) = found {
                self.end_subscription(now, slot, key as u32, host);
            }
        }
    }

    /// The user is out of the room, or the room is gone: what is left of a plain connection is nothing.
    fn end_subscription(&mut self, now: Now, slot: u32, key: u32, host: &mut impl Host) {
        match self.connections[slot as usize].encoding() {
            Some(_) => self.unsubscribed(slot, key),
            None => self.end(now, slot, CloseReason::FORCE_DISCONNECT, host),
        }
    }

    /// The room is gone: so are its subscriptions.
    pub(super) fn close_feed(&mut self, now: Now, channel: &Channel, host: &mut impl Host) {
        let Some(&id) = self.feed_ids.get(channel) else { return };
        if !self.feeds[id as usize].is_attached {
            return;
        }
        while let Some(subscriber) = self.feeds[id as usize].subscribers.last() {
            let (slot, key) = (subscriber.slot, subscriber.key);
            self.end_subscription(now, slot, key, host);
        }
        self.remove_feed(id);
    }

    /// The feed can't go on without a gap: the connections of its subscribers end, and come back.
    pub(super) fn lose_feed(&mut self, now: Now, channel: &Channel, host: &mut impl Host) {
        let Some(&id) = self.feed_ids.get(channel) else { return };
        if !self.feeds[id as usize].is_attached {
            return;
        }
        while let Some(subscriber) = self.feeds[id as usize].subscribers.last() {
            self.end(now, subscriber.slot, CloseReason::INSUFFICIENT_STATE, host);
        }
        self.remove_feed(id);
    }

    // ── fan-out ─────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Gives subscribers what was shown since their cursors: per channel at most `sends_per_turn_limit` in a turn, so
    /// that a large room does not hold up the rest of the shard. Who comes later gets more in one send.
    pub(super) fn fan_out(&mut self, now: Now, host: &mut impl Host) {
        for _ in 0..self.unserved.len() {
            let Some(id) = self.unserved.pop_front() else { return };
            if self.fan_out_feed(now, id, host) {
                self.unserved.push_back(id);
            }
        }
    }

    /// True: not done yet.
    fn fan_out_feed(&mut self, now: Now, id: u32, host: &mut impl Host) -> bool {
        let Some(feed) = self.feeds.get_mut(id as usize) else { return false };
        let Some(begin) = feed.next else { return false };
        let limits = &self.config.limits;
        let end = feed.subscribers.len().min(begin + limits.sends_per_turn_limit as usize);
        let limit = limits.outbound_limit_bytes;
        let meter = &self.meter;
        let until_ms = now.ms + limits.write_timeout_ms;
        let mut giving = Giving::new(&mut feed.ring, feed.position, &feed.name, meter, true, limit);
        let mut ended = Vec::new();
        let mut reminded = Vec::new();
        feed.has_passed_behind &= begin > 0;
        for subscriber in feed.subscribers.get_mut(begin..end).unwrap_or_default() {
            if subscriber.is_behind && mutation::active(Mutation::LiveBeforeLastPage) {
                let mut live = Subscriber { cursor: feed.position - 1, ..*subscriber };
                giving.give(now.ms, &mut live, &mut self.connections[subscriber.slot as usize]);
            }
            if subscriber.is_behind || subscriber.cursor >= feed.position {
                feed.has_passed_behind |= subscriber.is_behind;
                continue;
            }
            let connection = &mut self.connections[subscriber.slot as usize];
            let before = connection.outbound.bytes();
            let given = giving.give(now.ms, subscriber, connection);
            if !given && feed.epoch.is_none() {
                ended.push((subscriber.slot, CloseReason::INSUFFICIENT_STATE));
                continue;
            }
            let is_over = connection.outbound.bytes() > limit || subscriber.cursor < feed.position && given;
            // More than a queue holds, in one turn, is no fault of a reader who had kept up: it gets the rest as it
            // reads. One who had not is too slow.
            if is_over && before >= limit / 2 || meter.outbound_bytes.get() > limits.shard_outbound_limit_bytes {
                ended.push((subscriber.slot, CloseReason::SLOW));
                continue;
            }
            subscriber.is_behind = subscriber.cursor < feed.position;
            if connection.armed_ms > until_ms {
                reminded.push(subscriber.slot);
            }
            if subscriber.is_behind {
                connection.fall_behind(subscriber.key);
                reminded.push(subscriber.slot);
            }
            host.wake(subscriber.slot);
        }
        giving.count();
        let is_round_done = end == feed.subscribers.len();
        if is_round_done && !feed.again {
            feed.ring.release_buffers();
            feed.served = feed.position;
            if feed.epoch.is_none() && !feed.has_passed_behind {
                feed.ring.clear();
            }
        }
        feed.next = match (is_round_done, std::mem::take(&mut feed.again)) {
            (true, true) => Some(0),
            (true, false) => None,
            (false, again) => {
                feed.again = again;
                Some(end)
            }
        };
        let is_unserved = feed.next.is_some();
        for slot in reminded {
            self.catch_up(now, slot, host);
            self.remind(slot, until_ms);
        }
        for (slot, why) in ended {
            self.end(now, slot, why, host);
        }
        is_unserved && self.feeds.contains(id as usize)
    }

    // ── catching up ─────────────────────────────────────────────────────────────────────────────────────────────────

    /// Gives subscriptions of a connection that are behind the next of what they have not had, as long as its queue has
    /// place: from the ring, else by asking the store for a page, one at a time. One that has everything is *live*.
    pub(super) fn catch_up(&mut self, now: Now, slot: u32, host: &mut impl Host) {
        let page_bytes = self.page_bytes();
        loop {
            let connection = &mut self.connections[slot as usize];
            let Some(session) = connection.session_mut() else { return };
            let (Some(&key), None) = (session.behind.front(), session.reading) else { return };
            let Some((feed_id, index)) = session.place(key) else { return };
            if connection.outbound.bytes() >= page_bytes {
                // `sent` comes back here.
                return;
            }
            let feed = &mut self.feeds[feed_id as usize];
            let subscriber = &mut feed.subscribers[index as usize];
            let before = subscriber.cursor;
            let mut giving = Giving::new(&mut feed.ring, feed.position, &feed.name, &self.meter, false, page_bytes);
            let reached = giving.give(now.ms, subscriber, connection);
            giving.count();
            let (cursor, position) = (subscriber.cursor, feed.position);
            subscriber.is_behind = cursor < position;
            let is_behind = subscriber.is_behind;
            let channel = feed.channel.clone();
            if let Some(session) = connection.session_mut() {
                session.behind.pop_front();
                if is_behind && reached {
                    // The others first.
                    session.behind.push_back(key);
                } else if is_behind {
                    session.behind.push_front(key);
                }
            }
            if cursor > before {
                self.written_to(now, slot, host);
            }
            if !is_behind {
                continue;
            }
            if reached {
                return;
            }
            let Channel::Room(room) = channel else {
                return self.end(now, slot, CloseReason::INSUFFICIENT_STATE, host);
            };
            let request = self.page_request(cursor, position);
            let Some(session) = self.connections[slot as usize].session_mut() else { return };
            let serial = session.next_serial();
            let caller = self.caller(slot, serial);
            if self.ask(Asker::Connection(caller), Ask::Page { room, request }, host) {
                if let Some(session) = self.connections[slot as usize].session_mut() {
                    session.reading = Some((serial, key));
                }
            } else {
                // No credit: again soon.
                self.remind(slot, now.ms + 20);
            }
            return;
        }
    }

    /// For the next of what somebody who is behind has not had.
    pub(super) fn page_request(&self, cursor: Offset, position: Offset) -> PageRequest {
        let page_bytes = self.page_bytes();
        PageRequest {
            from: cursor,
            ascending: true,
            up_to: position,
            // What surrounds each text counts too.
            items_limit: self.config.limits.page_limit_publications.min(page_bytes / 256).max(1) as usize,
            bytes_limit: page_bytes as usize,
        }
    }

    /// How much a subscriber that is behind is given at a time. Escaped as JSON a page may grow sixfold, and must still
    /// fit into the queue.
    fn page_bytes(&self) -> u64 {
        self.config.limits.page_limit_bytes.min(self.config.limits.outbound_limit_bytes / 8).max(1)
    }

    /// The readers answered a connection.
    pub(super) fn connection_answered(&mut self, now: Now, caller: Caller, answer: Answer, host: &mut impl Host) {
        let slot = caller.slot;
        if let Some(door) = self.door_of(caller) {
            return self.entering_answered(now, slot, door, answer, host);
        }
        let Some(connection) = self.connection_of(caller) else { return };
        let Some(session) = connection.session_mut() else { return self.connect_answered(now, caller, answer, host) };
        let Some((_, key)) = session.reading.take_if(|(serial, _)| *serial == caller.serial) else {
            return self.call_answered(now, caller, answer, host);
        };
        match answer {
            Answer::Page(Some(page)) => self.give_page(now, slot, key, &page, host),
            Answer::Page(None) => {
                self.end_subscription(now, slot, key, host);
                self.catch_up(now, slot, host);
            }
            Answer::Failed => self.end(now, slot, CloseReason::INSUFFICIENT_STATE, host),
            _ => debug_assert!(false, "only pages are read for a subscription"),
        }
    }

    fn give_page(&mut self, now: Now, slot: u32, key: u32, page: &Page, host: &mut impl Host) {
        let Some(session) = self.connections[slot as usize].session() else { return };
        let Some((feed_id, index)) = session.place(key) else { return };
        let feed = &mut self.feeds[feed_id as usize];
        let subscriber = &mut feed.subscribers[index as usize];
        let follows = page.publications.iter().zip(subscriber.cursor + 1..).all(|(p, offset)| p.offset == offset);
        let Some(last) = page.publications.last().filter(|_| follows) else {
            // What was shown is not in the store any more.
            return self.end(now, slot, CloseReason::INSUFFICIENT_STATE, host);
        };
        self.meter.figures.borrow_mut().deliveries += last.offset - subscriber.cursor;
        subscriber.cursor = last.offset;
        let entries: Vec<Entry> = page.publications.iter().cloned().map(Entry::Stored).collect();
        let frames = Frames::encode(&entries, subscriber.format, &feed.name);
        self.push(now, slot, frames.bytes().clone(), host);
        self.catch_up(now, slot, host);
    }

    // ── idle feeds ──────────────────────────────────────────────────────────────────────────────────────────────────

    /// Lets go of rooms that nobody here has received for a while, and of `live:` channels that nobody receives now:
    /// they keep nothing for those who come back.
    pub(super) fn sweep_feeds(&mut self, now: Now, host: &mut impl Host) {
        for id in std::mem::take(&mut self.idle_live) {
            let feed = self.feeds.get(id as usize);
            let is_idle = feed.is_some_and(|feed| feed.is_attached && feed.subscribers.is_empty());
            if is_idle && !self.let_go(id, host) {
                self.idle_live.push(id);
            }
        }
        while let Some((since, _)) = self.idle_feeds.front() {
            if now.ms < since + self.config.limits.room_idle_ms {
                return;
            }
            let Some((since, channel)) = self.idle_feeds.pop_front() else { return };
            let Some(&id) = self.feed_ids.get(&channel) else { continue };
            let feed = &self.feeds[id as usize];
            if !feed.is_attached || !feed.subscribers.is_empty() || feed.idle_since_ms != Some(since) {
                continue;
            }
            if !self.let_go(id, host) {
                self.feeds[id as usize].idle_since_ms = Some(now.ms);
                self.idle_feeds.push_back((now.ms, channel));
                return;
            }
        }
    }

    /// Takes a feed away and tells its home. False: there is no credit.
    fn let_go(&mut self, id: u32, host: &mut impl Host) -> bool {
        let feed = &self.feeds[id as usize];
        let (channel, home) = (feed.channel.clone(), feed.home);
        if home != self.config.id && !self.take_credit(Endpoint::Shard(home)) {
            return false;
        }
        self.remove_feed(id);
        if home == self.config.id {
            self.home_detach(Endpoint::Shard(home), &channel);
        } else {
            host.mesh(Endpoint::Shard(home), Message::Detach { channel });
        }
        true
    }
}

/// Gives subscribers what follows their cursors in a feed's ring.
struct Giving<'a> {
    ring: &'a mut Ring,
    position: Offset,
    channel: &'a str,
    meter: &'a Rc<Meter>,
    /// See [`super::run::RingRun::slice`].
    fans_out: bool,
    /// When a connection's queue holds so much, that is enough.
    until_bytes: u64,
    /// The latest share, by format: nearly all subscribers stand at the same place.
    shares: [Option<Share>; Format::COUNT],
    deliveries: u64,
}

/// What follows one place in one run.
struct Share {
    cursor: Offset,
    last: Offset,
    slice: Slice,
}

impl Giving<'_> {
    fn new<'a>(
        ring: &'a mut Ring,
        position: Offset,
        channel: &'a str,
        meter: &'a Rc<Meter>,
        fans_out: bool,
        until_bytes: u64,
    ) -> Giving<'a> {
        Giving { ring, position, channel, meter, fans_out, until_bytes, shares: Default::default(), deliveries: 0 }
    }

    /// Puts what follows this one's cursor, up to the feed's position, into its queue, as long as there is place. False:
    /// the ring does not reach back to the cursor.
    fn give(&mut self, now_ms: u64, subscriber: &mut Subscriber, connection: &mut Connection) -> bool {
        while subscriber.cursor < self.position {
            let Some(share) = self.share(subscriber.cursor, subscriber.format) else { return false };
            let (slice, last) = (share.slice.clone(), share.last);
            connection.enqueue(now_ms, slice);
            self.deliveries += last - subscriber.cursor;
            subscriber.cursor = last;
            if connection.outbound.bytes() >= self.until_bytes {
                break;
            }
        }
        true
    }

    fn share(&mut self, cursor: Offset, format: Format) -> Option<&Share> {
        let latest = &mut self.shares[format as usize];
        if latest.as_ref().is_none_or(|share| share.cursor != cursor) {
            let ring_run = self.ring.run_with(cursor + 1)?;
            let index = match mutation::active(Mutation::WholeRunToEveryone) {
                true => 0,
                false => (cursor + 1 - ring_run.run.first) as usize,
            };
            let slice = ring_run.slice(format, self.channel, index, self.meter, self.fans_out);
            *latest = Some(Share { cursor, last: ring_run.run.last(), slice });
        }
        latest.as_ref()
    }

    /// Counts what was given.
    fn count(self) {
        self.meter.figures.borrow_mut().deliveries += self.deliveries;
    }
}
