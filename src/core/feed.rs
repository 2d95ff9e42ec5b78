//! A channel on one shard: how far it has been shown here, the latest of it, and who receives it.
//!
//! A subscriber is a cursor. Fan-out brings cursors up to the feed's position from the ring; one that stands before the
//! ring is *behind* and is caught up with pages from the store as its queue drains. Nobody is given anything but what
//! follows its cursor.

use super::figures::Meter;
use super::host::{Host, Now};
use super::mesh::{Answer, Ask, Asker, AttachOutcome, Caller, Channel, Endpoint, Message};
use super::mutation::{self, Mutation};
use super::outbound::Charge;
use super::run::{Entry, Frames, Ring, Run};
use super::shard::Shard;
use crate::protocol::{CloseReason, Format};
use std::rc::Rc;
use std::sync::Arc;
use uproar_model::PageRequest;
use uproar_model::{Epoch, Kind, Offset, Page};

#[derive(Debug)]
pub(super) struct Subscriber {
    pub slot: u32,
    /// The last offset put into its connection's queue.
    pub cursor: Offset,
    pub format: Format,
    /// Before the ring: caught up as its queue drains.
    pub is_behind: bool,
}

#[derive(Debug)]
pub(super) struct Feed {
    pub channel: Channel,
    /// As clients name it.
    pub name: Arc<str>,
    pub home: u16,
    /// The home has answered. Until then runs are not for this feed.
    pub is_attached: bool,
    /// Connections that wait for that.
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
    /// Something came, or somebody changed places, since the fan-out began: another round is due.
    pub again: bool,
    pub idle_since_ms: Option<u64>,
}

impl Shard {
    /// Brings a handshake to its channel: at once where the channel is fed already.
    pub(super) fn attach(&mut self, now: Now, slot: u32, channel: Channel, name: Arc<str>, host: &mut impl Host) {
        let caller = self.caller(slot, 0);
        if let Some(&id) = self.feed_ids.get(&channel) {
            let feed = &mut self.feeds[id as usize];
            if feed.is_attached {
                return self.let_in(now, slot, id, host);
            }
            feed.waiting.push(caller);
            return;
        }
        let home = self.home_of(&channel);
        if home != self.config.id && !self.take_credit(Endpoint::Shard(home)) {
            return self.refuse(now, slot, 503, "overloaded", super::handshake::OVERLOADED, host);
        }
        let id = self.feeds.insert(Feed {
            channel: channel.clone(),
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
            again: false,
            idle_since_ms: None,
        });
        self.feed_ids.insert(channel.clone(), id as u32);
        if home == self.config.id {
            self.home_attach(now, Endpoint::Shard(home), channel, host);
        } else {
            host.mesh(Endpoint::Shard(home), Message::Attach { channel });
        }
    }

    /// The home answered: the feed begins behind this position.
    pub(super) fn attached(&mut self, now: Now, channel: &Channel, outcome: AttachOutcome, host: &mut impl Host) {
        let Some(&id) = self.feed_ids.get(channel) else { return };
        let feed = &mut self.feeds[id as usize];
        if feed.is_attached {
            return;
        }
        let waiting = std::mem::take(&mut feed.waiting);
        match outcome {
            AttachOutcome::Attached { epoch, position } => {
                feed.is_attached = true;
                feed.epoch = epoch;
                feed.position = position;
                feed.served = position;
                for caller in waiting {
                    if self.connection_of(caller).is_some_and(|c| c.handshake_mut().is_some()) {
                        self.let_in(now, caller.slot, id, host);
                    }
                }
                let feed = &mut self.feeds[id as usize];
                if feed.subscribers.is_empty() {
                    feed.idle_since_ms = Some(now.ms);
                    self.idle_feeds.push_back((now.ms, channel.clone()));
                }
            }
            AttachOutcome::NoRoom | AttachOutcome::Failed => {
                self.remove_feed(id);
                let (status, code, text) = match outcome {
                    AttachOutcome::NoRoom => (404, "no_such_room", "there is no such room"),
                    _ => (503, "unavailable", super::handshake::UNAVAILABLE),
                };
                for caller in waiting {
                    if self.connection_of(caller).is_some_and(|c| c.handshake_mut().is_some()) {
                        self.refuse(now, caller.slot, status, code, text, host);
                    }
                }
            }
        }
    }

    fn remove_feed(&mut self, id: u32) {
        let feed = self.feeds.remove(id as usize);
        self.feed_ids.remove(&feed.channel);
        self.unserved.retain(|unserved| *unserved != id);
    }

    /// The home sent the next run.
    pub(super) fn fed(&mut self, now: Now, channel: &Channel, run: Arc<Run>, host: &mut impl Host) {
        let Some(&id) = self.feed_ids.get(channel) else { return };
        let feed = &mut self.feeds[id as usize];
        if !feed.is_attached {
            // For the feed that was here before; this one begins behind the home's answer.
            return;
        }
        if run.first != feed.position + 1 {
            // The last line of "no gap, no duplicate": never show what does not follow.
            return self.end_feed(now, channel, CloseReason::INSUFFICIENT_STATE, host);
        }
        let limits = &self.config.limits;
        let (entries, bytes) = (limits.ring_limit_publications as usize, limits.ring_limit_bytes as usize);
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
                self.end_user_in_feed(now, id, uproar_model::UserId(user), host);
            }
        }
    }

    fn end_user_in_feed(&mut self, now: Now, feed_id: u32, user: uproar_model::UserId, host: &mut impl Host) {
        let slots = self.users.get(&user).map(|state| state.slots.clone()).unwrap_or_default();
        for slot in slots {
            let session = self.connections[slot as usize].session();
            if session.is_some_and(|s| s.place.is_some_and(|(feed, _)| feed == feed_id)) {
                self.end(now, slot, CloseReason::FORCE_DISCONNECT, host);
            }
        }
    }

    /// The feed can't go on: its subscribers end, and those who wait for it are refused.
    pub(super) fn end_feed(&mut self, now: Now, channel: &Channel, why: CloseReason, host: &mut impl Host) {
        let Some(&id) = self.feed_ids.get(channel) else { return };
        if !self.feeds[id as usize].is_attached {
            return;
        }
        while let Some(subscriber) = self.feeds[id as usize].subscribers.last() {
            self.end(now, subscriber.slot, why, host);
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
        let meter = &self.meter;
        let until_ms = now.ms + limits.write_timeout_ms;
        let mut ended = Vec::new();
        let mut reminded = Vec::new();
        for subscriber in feed.subscribers.get_mut(begin..end).unwrap_or_default() {
            if subscriber.is_behind || subscriber.cursor >= feed.position {
                continue;
            }
            let connection = &mut self.connections[subscriber.slot as usize];
            let before = connection.outbound.bytes();
            let limit = limits.outbound_limit_bytes;
            let given =
                give(&mut feed.ring, (&feed.name, feed.position), subscriber, meter, true, limit, |bytes, charge| {
                    connection.enqueue(now.ms, bytes, charge);
                    connection.outbound.bytes()
                });
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
                if let Some(session) = connection.session_mut() {
                    session.is_behind = true;
                }
                reminded.push(subscriber.slot);
            }
            host.wake(subscriber.slot);
        }
        let is_round_done = end == feed.subscribers.len();
        if is_round_done && !feed.again {
            feed.ring.release_charges();
            feed.served = feed.position;
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
            if self.connections[slot as usize].session().is_some_and(|s| s.is_behind) {
                self.catch_up(now, slot, host);
            }
            self.remind(slot, until_ms);
        }
        for (slot, why) in ended {
            self.end(now, slot, why, host);
        }
        is_unserved && self.feeds.contains(id as usize)
    }

    // ── catching up ─────────────────────────────────────────────────────────────────────────────────────────────────

    /// Gives a subscriber that is behind the next of what it has not had, if its queue has place: from the ring, else
    /// by asking the store for a page. When it has everything it is *live*.
    pub(super) fn catch_up(&mut self, now: Now, slot: u32, host: &mut impl Host) {
        let page_bytes = self.page_bytes();
        let Some(session) = self.connections[slot as usize].session() else { return };
        let (Some((feed_id, index)), None) = (session.place, session.reading) else { return };
        let feed = &mut self.feeds[feed_id as usize];
        let subscriber = &mut feed.subscribers[index as usize];
        let connection = &mut self.connections[slot as usize];
        if connection.outbound.bytes() >= page_bytes {
            // `sent` comes back here.
            return;
        }
        let before = subscriber.cursor;
        let reached = give(
            &mut feed.ring,
            (&feed.name, feed.position),
            subscriber,
            &self.meter,
            false,
            page_bytes,
            |bytes, charge| {
                connection.enqueue(now.ms, bytes, charge);
                connection.outbound.bytes()
            },
        );
        let (cursor, position) = (subscriber.cursor, feed.position);
        subscriber.is_behind = cursor < position;
        let is_behind = subscriber.is_behind;
        let channel = feed.channel.clone();
        if let Some(session) = connection.session_mut() {
            session.is_behind = is_behind;
        }
        if cursor > before {
            self.written_to(now, slot, host);
        }
        if reached || !is_behind {
            return;
        }
        let Channel::Room(room) = channel else {
            return self.end(now, slot, CloseReason::INSUFFICIENT_STATE, host);
        };
        let request = PageRequest {
            from: cursor,
            ascending: true,
            up_to: position,
            // What surrounds each text counts too.
            items_limit: self.config.limits.page_limit_publications.min(page_bytes / 256).max(1) as usize,
            bytes_limit: page_bytes as usize,
        };
        let Some(session) = self.connections[slot as usize].session_mut() else { return };
        session.serial = session.serial.wrapping_add(1);
        let serial = session.serial;
        let caller = self.caller(slot, serial);
        if self.ask(Asker::Connection(caller), Ask::Page { room, request }, host) {
            if let Some(session) = self.connections[slot as usize].session_mut() {
                session.reading = Some(serial);
            }
        } else {
            // No credit: again soon.
            self.remind(slot, now.ms + 20);
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
        let Some(connection) = self.connection_of(caller) else { return };
        if connection.handshake_mut().is_some() {
            return self.handshake_answered(now, caller, answer, host);
        }
        let Some(session) = connection.session_mut() else { return };
        if session.reading != Some(caller.serial) {
            return;
        }
        session.reading = None;
        match answer {
            Answer::Page(Some(page)) => self.give_page(now, slot, &page, host),
            Answer::Page(None) => self.end(now, slot, CloseReason::FORCE_DISCONNECT, host),
            Answer::Failed => self.end(now, slot, CloseReason::INSUFFICIENT_STATE, host),
            Answer::Admitted(_) | Answer::User { .. } | Answer::Head(_) | Answer::Marked(_) | Answer::Rooms(_) => {
                debug_assert!(false, "only pages are read for an open connection");
            }
        }
    }

    fn give_page(&mut self, now: Now, slot: u32, page: &Page, host: &mut impl Host) {
        let Some(session) = self.connections[slot as usize].session() else { return };
        let Some((feed_id, index)) = session.place else { return };
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
        self.push(now, slot, frames.from(0), host);
        self.catch_up(now, slot, host);
    }

    // ── idle feeds ──────────────────────────────────────────────────────────────────────────────────────────────────

    /// Lets go of channels that nobody here has received for a while.
    pub(super) fn sweep_feeds(&mut self, now: Now, host: &mut impl Host) {
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
            let home = feed.home;
            if home == self.config.id {
                self.remove_feed(id);
                self.home_detach(Endpoint::Shard(home), &channel);
            } else if self.take_credit(Endpoint::Shard(home)) {
                self.remove_feed(id);
                host.mesh(Endpoint::Shard(home), Message::Detach { channel });
            } else {
                self.feeds[id as usize].idle_since_ms = Some(now.ms);
                self.idle_feeds.push_back((now.ms, channel));
                return;
            }
        }
    }
}

/// Puts what follows a subscriber's cursor, up to the position of the channel with this name, into its queue, until the
/// queue holds `until_bytes`. `enqueue` returns how much the queue holds. False: the ring does not reach back to the
/// cursor.
fn give(
    ring: &mut Ring,
    (channel, position): (&str, Offset),
    subscriber: &mut Subscriber,
    meter: &Rc<Meter>,
    fans_out: bool,
    until_bytes: u64,
    mut enqueue: impl FnMut(bytes::Bytes, Rc<Charge>) -> u64,
) -> bool {
    while subscriber.cursor < position {
        let Some(ring_run) = ring.run_with(subscriber.cursor + 1) else { return false };
        let charge = match fans_out {
            true => ring_run.hold_charge(subscriber.format, channel, meter),
            false => ring_run.charge(subscriber.format, channel, meter),
        };
        let run = &ring_run.run;
        let index = match mutation::active(Mutation::WholeRunToEveryone) {
            true => 0,
            false => (subscriber.cursor + 1 - run.first) as usize,
        };
        let waiting = enqueue(run.frames(subscriber.format, channel).from(index), charge);
        meter.figures.borrow_mut().deliveries += run.last() - subscriber.cursor;
        subscriber.cursor = run.last();
        if waiting >= until_bytes {
            break;
        }
    }
    true
}
