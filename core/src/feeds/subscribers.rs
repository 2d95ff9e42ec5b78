//! How a feed comes into being, gains and loses subscribers, and is evicted.

use super::Feeds;
use super::feed::{Feed, Subscriber};
use crate::connections::{Connections, SubscriptionState};
use crate::context::Context;
use crate::host::Host;
use crate::ids::{FeedId, Slot, SubscriptionKey};
use crate::message::{AttachOutcome, Channel, Endpoint, JoinRequest, Message, PresenceChange};
use std::sync::Arc;
use uproar_model::{Offset, User};

/// How long the feed of a room stays for a plain connection on its way into a `live:` channel of the room.
const HOLD_MS: u64 = 1_000;

/// How a client that wants to join a channel stands.
pub(crate) enum Attached {
    /// The channel is fed already.
    Already(FeedId),
    /// The client waits for the home's answer.
    Waiting,
    Overloaded,
}

impl Feeds {
    // ── attaching ───────────────────────────────────────────────────────────────────────────────────────────────────

    /// Attaches to a channel for a client that wants to join it, unless that is done or under way.
    pub fn attach(
        &mut self,
        cx: &mut Context,
        channel: &Channel,
        name: &Arc<str>,
        request: JoinRequest,
        host: &mut impl Host,
    ) -> Attached {
        if let Some(id) = self.id_of(channel) {
            let feed = &mut self.feeds[id.index()];
            if feed.is_attached {
                return Attached::Already(id);
            }
            feed.waiting.push(request);
            return Attached::Waiting;
        }
        let home = cx.messenger.home_of(channel);
        if !cx.messenger.call(Endpoint::Shard(home), Message::Attach { channel: channel.clone() }, host) {
            return Attached::Overloaded;
        }
        let id = self.feeds.insert(Feed::new(channel.clone(), Arc::clone(name), home, request));
        self.ids.insert(channel.clone(), FeedId(id as u32));
        Attached::Waiting
    }

    /// The home has answered. Returns the feed, if it is attached now, and the clients that waited for it.
    pub fn on_attached(&mut self, channel: &Channel, outcome: &AttachOutcome) -> (Option<FeedId>, Vec<JoinRequest>) {
        let Some(id) = self.id_of(channel) else { return (None, Vec::new()) };
        let feed = &mut self.feeds[id.index()];
        if feed.is_attached {
            return (None, Vec::new());
        }
        let waiting = std::mem::take(&mut feed.waiting);
        let AttachOutcome::Attached { epoch, position } = outcome else {
            self.remove(id);
            return (None, waiting);
        };
        feed.is_attached = true;
        feed.epoch = epoch.clone();
        feed.position = *position;
        feed.served = *position;
        (Some(id), waiting)
    }

    // ── subscribers ─────────────────────────────────────────────────────────────────────────────────────────────────

    /// Makes a subscription of an open connection a subscriber, with its cursor at the position that the client was
    /// told.
    pub fn subscribe(&mut self, cx: &Context, connections: &mut Connections, id: FeedId, subscriber: Subscriber) {
        let Some(feed) = self.feeds.get_mut(id.index()) else { return };
        let Subscriber { slot, key, cursor, wants_presence, .. } = subscriber;
        let connection = &mut connections[slot];
        let generation = connection.generation;
        let Some(session) = connection.session_mut() else { return };
        let index = feed.subscribers.len() as u32;
        let is_behind = cursor < feed.position;
        feed.subscribers.push(Subscriber { is_behind, ..subscriber });
        feed.idle_since_ms = None;
        session.subscriptions[key.index()].state = SubscriptionState::Joined { feed: id, index };
        let user = session.user.clone();
        if is_behind {
            connection.fall_behind(key);
        }
        cx.meter.metrics.borrow_mut().subscriptions += 1;
        self.note_presence(id, PresenceChange { slot, generation, user, is_here: true, listens: wants_presence });
    }

    /// The offset at which the user of a subscriber was a member.
    pub fn admitted(&self, id: FeedId, index: u32) -> Option<Offset> {
        Some(self.get(id)?.subscribers.get(index as usize)?.admitted)
    }

    /// The user of a subscriber has been renamed.
    pub fn rename(&mut self, id: FeedId, index: u32, generation: u32, user: &User) {
        let subscriber = self.get(id).and_then(|feed| feed.subscribers.get(index as usize));
        let Some(Subscriber { slot, wants_presence, .. }) = subscriber else { return };
        let (slot, listens, user) = (*slot, *wants_presence, user.clone());
        self.note_presence(id, PresenceChange { slot, generation, user, is_here: true, listens });
    }

    /// Ends a subscription, and removes it from its feed if it has joined one.
    pub fn unsubscribe(&mut self, cx: &Context, connections: &mut Connections, slot: Slot, key: SubscriptionKey) {
        let generation = connections[slot].generation;
        let Some(session) = connections[slot].session_mut() else { return };
        let Some(subscription) = session.subscriptions.try_remove(key.index()) else { return };
        let room_feed = subscription.room_feed;
        session.behind.retain(|behind| *behind != key);
        session.reading.take_if(|(_, of, _)| *of == key);
        let user = session.user.clone();
        if let Some(client) = session.client_mut() {
            client.calls.iter_mut().filter(|call| call.key == Some(key)).for_each(|call| call.key = None);
        }
        self.remove_guest(cx, room_feed, slot, key);
        let SubscriptionState::Joined { feed: id, index } = subscription.state else { return };
        cx.meter.metrics.borrow_mut().subscriptions -= 1;
        let Some(feed) = self.feeds.get_mut(id.index()) else { return };
        feed.subscribers.swap_remove(index as usize);
        feed.again |= feed.next.is_some();
        if let Some(moved) = feed.subscribers.get(index as usize)
            && let Some(session) = connections[moved.slot].session_mut()
        {
            session.subscriptions[moved.key.index()].state = SubscriptionState::Joined { feed: id, index };
        }
        self.set_idle(cx, id);
        self.note_presence(id, PresenceChange { slot, generation, user, is_here: false, listens: false });
    }

    /// A subscription of a `live:` channel is to end when its user, who was a member of the room at this offset, is
    /// removed.
    pub fn add_guest(
        &mut self,
        connections: &mut Connections,
        id: FeedId,
        (slot, key): (Slot, SubscriptionKey),
        admitted: Offset,
    ) {
        let Some(feed) = self.feeds.get_mut(id.index()) else { return };
        let subscription = connections[slot].session_mut().and_then(|session| session.subscription_mut(key));
        let Some(subscription) = subscription else { return };
        subscription.room_feed = Some(id);
        feed.guests.insert((slot, key), admitted);
        feed.idle_since_ms = None;
    }

    /// A plain connection is about to become a guest of this room. However soon rooms without subscribers are
    /// forgotten, this one stays for a moment: otherwise the connection would have to begin again and again.
    pub fn hold(&mut self, cx: &Context, id: FeedId) {
        let Some(feed) = self.feeds.get_mut(id.index()).filter(|feed| feed.is_unused()) else { return };
        let since_ms = cx.now.ms + HOLD_MS.saturating_sub(cx.limits().room_idle_ms);
        feed.idle_since_ms = Some(since_ms);
        self.idle_rooms.push_back((since_ms, feed.channel.clone()));
    }

    /// Such a subscription has ended.
    pub fn remove_guest(&mut self, cx: &Context, room_feed: Option<FeedId>, slot: Slot, key: SubscriptionKey) {
        let Some(id) = room_feed else { return };
        let feed = self.feeds.get_mut(id.index());
        if feed.is_some_and(|feed| feed.guests.remove(&(slot, key)).is_some()) {
            self.set_idle(cx, id);
        }
    }

    /// The guests of a feed on this connection who were admitted before this offset.
    pub fn guests_of(&self, id: FeedId, slot: Slot, before: Offset) -> Vec<SubscriptionKey> {
        let of_slot = (slot, SubscriptionKey(0))..=(slot, SubscriptionKey(u32::MAX));
        let guests = self.get(id).into_iter().flat_map(|feed| feed.guests.range(of_slot.clone()));
        guests.filter(|(_, admitted)| **admitted < before).map(|((_, key), _)| *key).collect()
    }

    /// The last guest of an attached feed.
    pub fn last_guest(&self, id: FeedId) -> Option<(Slot, SubscriptionKey)> {
        self.get(id)?.guests.last_key_value().map(|(guest, _)| *guest)
    }

    /// The last subscriber of an attached feed.
    pub fn last_subscriber(&self, id: FeedId) -> Option<(Slot, SubscriptionKey)> {
        let subscriber = self.feeds.get(id.index())?.subscribers.last()?;
        Some((subscriber.slot, subscriber.key))
    }

    // ── the end of a feed ───────────────────────────────────────────────────────────────────────────────────────────

    /// Removes a feed that has no subscribers, or whose home is gone.
    pub fn remove(&mut self, id: FeedId) {
        let feed = self.feeds.remove(id.index());
        self.ids.remove(&feed.channel);
        self.to_fan_out.retain(|queued| *queued != id);
        self.to_notify.retain(|queued| *queued != id);
        self.to_report.retain(|queued| *queued != id);
        self.idle_live.retain(|queued| *queued != id);
    }

    /// If the feed has no subscribers, it is idle from now on.
    pub fn set_idle(&mut self, cx: &Context, id: FeedId) {
        let Some(feed) = self.feeds.get_mut(id.index()).filter(|feed| feed.is_unused()) else { return };
        if feed.idle_since_ms.is_some_and(|since_ms| since_ms > cx.now.ms) {
            // It is held.
            return;
        }
        feed.idle_since_ms = Some(cx.now.ms);
        match feed.channel {
            Channel::Room(_) => self.idle_rooms.push_back((cx.now.ms, feed.channel.clone())),
            Channel::Live(_) => self.idle_live.push(id),
        }
    }

    /// Evicts rooms that have been idle for a while, and `live:` channels that are idle now: they keep nothing for
    /// clients that come back.
    pub fn evict_idle(&mut self, cx: &mut Context, host: &mut impl Host) {
        for id in std::mem::take(&mut self.idle_live) {
            let feed = self.feeds.get(id.index());
            let is_idle = feed.is_some_and(|feed| feed.is_attached && feed.is_unused());
            if is_idle && !self.evict(cx, id, host) {
                self.idle_live.push(id);
            }
        }
        while let Some((since, _)) = self.idle_rooms.front() {
            if cx.now.ms < since + cx.limits().room_idle_ms {
                return;
            }
            let Some((since, channel)) = self.idle_rooms.pop_front() else { return };
            let Some(id) = self.id_of(&channel) else { continue };
            let feed = &self.feeds[id.index()];
            if !feed.is_attached || !feed.is_unused() || feed.idle_since_ms != Some(since) {
                continue;
            }
            if !self.evict(cx, id, host) {
                self.feeds[id.index()].idle_since_ms = Some(cx.now.ms);
                self.idle_rooms.push_back((cx.now.ms, channel));
                return;
            }
        }
    }

    /// Removes a feed and tells its home. False: there is no credit.
    fn evict(&mut self, cx: &mut Context, id: FeedId, host: &mut impl Host) -> bool {
        let feed = &self.feeds[id.index()];
        let message = Message::Detach { channel: feed.channel.clone() };
        let is_sent = cx.messenger.call(Endpoint::Shard(feed.home), message, host);
        if is_sent {
            self.remove(id);
        }
        is_sent
    }
}
