//! Ephemeral events (who came, who types, how many there are) on their way to the subscribers, and reports of presence
//! on their way to the home.

use super::Feeds;
use crate::buffer::Slice;
use crate::connections::Connections;
use crate::context::Context;
use crate::host::Host;
use crate::ids::FeedId;
use crate::message::{Channel, Endpoint, Ephemeral, Message, PresenceChange};
use crate::protocol::Format;
use crate::protocol::centrifuge::{self, Encoding, Push, methods};
use bytes::Bytes;
use std::sync::Arc;

/// The most events of a channel that wait for their delivery on a shard.
const EVENTS_LIMIT: usize = 64;

/// One event on its way to the subscribers of a feed.
#[derive(Debug)]
pub(super) struct Delivery {
    event: Arc<Ephemeral>,
    /// The index of the next subscriber. A subscriber whose index changes meanwhile may get the event twice or not at
    /// all.
    next: usize,
    /// Encoded as JSON and as Protobuf.
    frames: [Option<Slice>; 2],
}

impl Feeds {
    // ── to the home ─────────────────────────────────────────────────────────────────────────────────────────────────

    /// A subscriber came or went: the home is told at the end of the turn.
    pub(super) fn note_presence(&mut self, id: FeedId, change: PresenceChange) {
        let Some(feed) = self.feeds.get_mut(id.index()) else { return };
        if feed.changes.is_empty() {
            self.to_report.push(id);
        }
        // Only the latest state of a subscriber matters.
        feed.changes.insert((change.slot, change.generation), change);
    }

    /// Tells homes who came and went. A report that finds no credit is kept for later.
    pub fn report_presence(&mut self, cx: &mut Context, host: &mut impl Host) {
        for id in std::mem::take(&mut self.to_report) {
            if !self.report_presence_of(cx, id, host) {
                self.to_report.push(id);
            }
        }
    }

    /// False: there is no credit.
    #[must_use]
    pub fn report_presence_of(&mut self, cx: &mut Context, id: FeedId, host: &mut impl Host) -> bool {
        let Some(feed) = self.feeds.get_mut(id.index()).filter(|feed| !feed.changes.is_empty()) else { return true };
        let home = Endpoint::Shard(feed.home);
        if !cx.messenger.can_call(home) {
            return false;
        }
        let changes: Vec<PresenceChange> = std::mem::take(&mut feed.changes).into_values().collect();
        cx.messenger.call(home, Message::PresenceChanged { channel: feed.channel.clone(), changes }, host)
    }

    // ── to the subscribers ──────────────────────────────────────────────────────────────────────────────────────────

    /// The home has sent an event for the subscribers.
    pub fn on_event(&mut self, channel: &Channel, event: Arc<Ephemeral>) {
        let Some(id) = self.id_of(channel) else { return };
        let feed = &mut self.feeds[id.index()];
        if feed.events.len() >= EVENTS_LIMIT || feed.subscribers.is_empty() {
            return;
        }
        if feed.events.is_empty() {
            self.to_notify.push_back(id);
        }
        feed.events.push_back(Delivery { event, next: 0, frames: [None, None] });
    }

    /// Gives events to subscribers: at most `sends_per_turn_limit` per channel and turn.
    pub fn deliver_events(&mut self, cx: &mut Context, connections: &mut Connections, host: &mut impl Host) {
        for _ in 0..self.to_notify.len() {
            let Some(id) = self.to_notify.pop_front() else { return };
            let mut left = cx.limits().sends_per_turn_limit as usize;
            while left > 0 && self.deliver_event(cx, connections, id, &mut left, host) {}
            if self.feeds.get(id.index()).is_some_and(|feed| !feed.events.is_empty()) {
                self.to_notify.push_back(id);
            }
        }
    }

    /// Returns whether there are more events.
    fn deliver_event(
        &mut self,
        cx: &mut Context,
        connections: &mut Connections,
        id: FeedId,
        left: &mut usize,
        host: &mut impl Host,
    ) -> bool {
        let Some(feed) = self.feeds.get_mut(id.index()) else { return false };
        let Some(delivery) = feed.events.front_mut() else { return false };
        while *left > 0 && delivery.next < feed.subscribers.len() {
            let subscriber = &feed.subscribers[delivery.next];
            delivery.next += 1;
            let (index, encoding) = match subscriber.format {
                Format::Json => (0, Encoding::Json),
                Format::Protobuf => (1, Encoding::Protobuf),
                Format::Plain | Format::Raw => continue,
            };
            if delivery.event.is_presence() && !subscriber.wants_presence {
                continue;
            }
            *left -= 1;
            let frame = delivery.frames[index]
                .get_or_insert_with(|| Slice::own(&cx.meter, encode(encoding, &feed.name, &delivery.event)));
            let connection = &mut connections[subscriber.slot];
            // A connection with a long queue does without.
            if connection.outbound.bytes() > cx.limits().outbound_limit_bytes / 2
                || cx.meter.outbound_bytes.get() > cx.limits().shard_outbound_limit_bytes / 2
            {
                continue;
            }
            connection.enqueue(cx.now.ms, frame.clone());
            connections.written(cx, subscriber.slot, host);
        }
        if delivery.next >= feed.subscribers.len() {
            feed.events.pop_front();
        }
        !feed.events.is_empty()
    }
}

/// An event as one frame.
fn encode(encoding: Encoding, channel: &str, event: &Ephemeral) -> Bytes {
    let data = match event {
        Ephemeral::Online(count) => methods::to_json(&methods::EphemeralData::Online(*count)),
        Ephemeral::Typing(user) => methods::to_json(&methods::EphemeralData::typing(user)),
        Ephemeral::Join(_) | Ephemeral::Leave(_) => Vec::new(),
    };
    let push = match event {
        Ephemeral::Join(info) => Push::Join(info),
        Ephemeral::Leave(info) => Push::Leave(info),
        Ephemeral::Online(_) | Ephemeral::Typing(_) => Push::Ephemeral { data: &data },
    };
    let mut payload = Vec::with_capacity(256);
    centrifuge::push_push(encoding, &mut payload, channel, &push);
    centrifuge::frame(encoding, &payload)
}
