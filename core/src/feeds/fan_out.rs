//! The fan-out: gives subscribers what their channel's home has shown.

use super::feed::Subscriber;
use super::{Feeds, ToClose};
use crate::buffer::Slice;
use crate::connections::{Connection, Connections};
use crate::context::Context;
use crate::host::Host;
use crate::ids::FeedId;
use crate::log::{Ring, Segment, removal};
use crate::message::Channel;
use crate::metrics::Meter;
use crate::mutation::{self, Mutation};
use crate::protocol::{CloseReason, Format};
use std::rc::Rc;
use std::sync::Arc;
use uproar_model::{Offset, UserId};

/// What a segment means for the subscribers of its feed.
pub(crate) enum Received {
    /// It is not for this feed.
    Ignored,
    /// It does not follow the feed's position: the feed cannot go on without a gap.
    Gap,
    /// It is fanned out in this turn.
    Taken {
        feed: FeedId,
        /// Users whom it removes from the room, and where.
        removed: Vec<(UserId, Offset)>,
        to_close: ToClose,
    },
}

impl Feeds {
    /// The home has sent the next segment.
    pub fn on_segment(
        &mut self,
        cx: &mut Context,
        connections: &mut Connections,
        channel: &Channel,
        segment: &Arc<Segment>,
        host: &mut impl Host,
    ) -> Received {
        let Some(id) = self.id_of(channel) else { return Received::Ignored };
        let feed = &mut self.feeds[id.index()];
        if !feed.is_attached {
            // Sent to the feed that was here before. This one begins after the home's answer.
            return Received::Ignored;
        }
        if segment.first != feed.position + 1 {
            return Received::Gap;
        }
        let (entries, bytes) = (cx.limits().ring_limit_publications as usize, cx.limits().ring_limit_bytes as usize);
        feed.ring.apply_edits_of(segment, cx.segment_bytes());
        let mut to_close = ToClose::new();
        // One turn may bring more than the ring holds. Subscribers are given what would be dropped first.
        if feed.next.is_some()
            && feed.ring.would_lose(segment, feed.served, entries, bytes)
            && !self.fan_out_feed(cx, connections, id, &mut to_close, host)
        {
            self.to_fan_out.retain(|queued| *queued != id);
        }
        let feed = &mut self.feeds[id.index()];
        feed.position = segment.last();
        feed.ring.push(Arc::clone(segment), cx.now.ms, entries, bytes);
        self.begin_fan_out(id);
        let removed = segment.entries.iter().filter_map(removal).collect();
        Received::Taken { feed: id, removed, to_close }
    }

    /// The shard has fallen out of the home's ring: the feed continues at this position. Its subscribers are behind
    /// from now on, and catch up from the store. Returns the feed, if it is one.
    pub fn on_skip(&mut self, channel: &Channel, position: Offset) -> Option<FeedId> {
        let id = self.id_of(channel)?;
        let feed = &mut self.feeds[id.index()];
        // An earlier position was meant for the feed that was here before.
        if !feed.is_attached || position <= feed.position {
            return None;
        }
        feed.position = position;
        feed.ring.clear();
        if mutation::active(Mutation::SkipMovesCursors) {
            feed.subscribers.iter_mut().for_each(|subscriber| subscriber.cursor = position);
        }
        self.begin_fan_out(id);
        Some(id)
    }

    /// Fans out a feed whose position has moved in this turn, or once more if that is under way.
    fn begin_fan_out(&mut self, id: FeedId) {
        let feed = &mut self.feeds[id.index()];
        if feed.subscribers.is_empty() {
            return;
        }
        match feed.next {
            Some(_) => feed.again = true,
            None => {
                feed.next = Some(0);
                self.to_fan_out.push_back(id);
            }
        }
    }

    /// Fans out the next feed that is due.
    pub fn fan_out_next(&mut self, cx: &mut Context, connections: &mut Connections, host: &mut impl Host) -> ToClose {
        let mut to_close = ToClose::new();
        if let Some(id) = self.to_fan_out.pop_front()
            && self.fan_out_feed(cx, connections, id, &mut to_close, host)
        {
            self.to_fan_out.push_back(id);
        }
        to_close
    }

    /// The number of feeds that are due in this turn.
    pub fn due_count(&self) -> usize {
        self.to_fan_out.len()
    }

    /// Gives subscribers what was shown since their cursors, at most `sends_per_turn_limit` of them in a turn, so that
    /// a large room does not hold up the rest of the shard. Subscribers that are served later get more in one send.
    /// Returns whether the feed must be fanned out again.
    fn fan_out_feed(
        &mut self,
        cx: &mut Context,
        connections: &mut Connections,
        id: FeedId,
        to_close: &mut ToClose,
        host: &mut impl Host,
    ) -> bool {
        let Some(feed) = self.feeds.get_mut(id.index()) else { return false };
        let Some(begin) = feed.next else { return false };
        let limits = cx.limits();
        let end = feed.subscribers.len().min(begin + limits.sends_per_turn_limit as usize);
        let limit_bytes = limits.outbound_limit_bytes;
        let timeout_at_ms = cx.now.ms + limits.write_timeout_ms;
        let meter = &cx.meter;
        let mut fan_out = FanOut::new(&mut feed.ring, feed.position, &feed.name, meter, true, limit_bytes);
        let mut to_arm = Vec::new();
        feed.has_passed_behind &= begin > 0;
        for subscriber in feed.subscribers.get_mut(begin..end).unwrap_or_default() {
            if subscriber.is_behind && mutation::active(Mutation::LiveBeforeLastPage) {
                let mut live = Subscriber { cursor: feed.position - 1, ..*subscriber };
                fan_out.give(cx.now.ms, &mut live, &mut connections[subscriber.slot]);
            }
            if subscriber.is_behind || subscriber.cursor >= feed.position {
                feed.has_passed_behind |= subscriber.is_behind;
                continue;
            }
            let connection = &mut connections[subscriber.slot];
            let before = connection.outbound.bytes();
            let is_in_ring = fan_out.give(cx.now.ms, subscriber, connection);
            if !is_in_ring && feed.epoch.is_none() {
                to_close.push((subscriber.slot, CloseReason::INSUFFICIENT_STATE));
                continue;
            }
            let is_full = connection.outbound.bytes() > limit_bytes || subscriber.cursor < feed.position && is_in_ring;
            // A reader that had kept up is not at fault when one turn brings more than its queue holds: it gets the
            // rest as it reads. A reader whose queue was half full already is too slow.
            if is_full && before >= limit_bytes / 2 {
                to_close.push((subscriber.slot, CloseReason::SLOW));
                continue;
            }
            subscriber.is_behind = subscriber.cursor < feed.position;
            if connection.armed_ms > timeout_at_ms {
                to_arm.push(subscriber.slot);
            }
            if subscriber.is_behind {
                connection.fall_behind(subscriber.key);
                to_arm.push(subscriber.slot);
            }
            host.wake(subscriber.slot);
        }
        fan_out.count();
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
        let is_due_again = feed.next.is_some();
        for slot in to_arm {
            to_close.extend(self.catch_up(cx, connections, slot, host).map(|why| (slot, why)));
            connections.arm_timer(slot, timeout_at_ms);
        }
        is_due_again
    }
}

/// Gives subscribers what follows their cursors in a feed's ring.
pub(super) struct FanOut<'a> {
    ring: &'a mut Ring,
    position: Offset,
    channel: &'a str,
    meter: &'a Rc<Meter>,
    /// See [`crate::log::Ring::release_buffers`].
    keeps_buffer: bool,
    /// A connection is given no more once its queue holds this much.
    until_bytes: u64,
    /// The last slice in each format: nearly all subscribers have the same cursor.
    cached: [Option<CachedSlice>; Format::COUNT],
    deliveries: u64,
}

/// The frames after one cursor, up to the end of their segment.
struct CachedSlice {
    cursor: Offset,
    last: Offset,
    slice: Slice,
}

impl FanOut<'_> {
    pub fn new<'a>(
        ring: &'a mut Ring,
        position: Offset,
        channel: &'a str,
        meter: &'a Rc<Meter>,
        keeps_buffer: bool,
        until_bytes: u64,
    ) -> FanOut<'a> {
        FanOut { ring, position, channel, meter, keeps_buffer, until_bytes, cached: Default::default(), deliveries: 0 }
    }

    /// Puts what follows the subscriber's cursor, up to the feed's position, into its queue while there is room.
    /// Returns false if the ring does not reach back to the cursor.
    pub fn give(&mut self, now_ms: u64, subscriber: &mut Subscriber, connection: &mut Connection) -> bool {
        while subscriber.cursor < self.position {
            let Some(cached) = self.slice_after(subscriber.cursor, subscriber.format) else { return false };
            let (slice, last) = (cached.slice.clone(), cached.last);
            connection.enqueue(now_ms, slice);
            self.deliveries += last - subscriber.cursor;
            subscriber.cursor = last;
            if connection.outbound.bytes() >= self.until_bytes {
                break;
            }
        }
        true
    }

    fn slice_after(&mut self, cursor: Offset, format: Format) -> Option<&CachedSlice> {
        let cached = &mut self.cached[format as usize];
        if cached.as_ref().is_none_or(|cached| cached.cursor != cursor) {
            let ring_segment = self.ring.segment_at(cursor + 1)?;
            let index = match mutation::active(Mutation::WholeSegmentToEveryone) {
                true => 0,
                false => (cursor + 1 - ring_segment.segment.first) as usize,
            };
            let slice = ring_segment.slice(format, self.channel, index, self.meter, self.keeps_buffer);
            *cached = Some(CachedSlice { cursor, last: ring_segment.segment.last(), slice });
        }
        cached.as_ref()
    }

    /// Adds what was given to the metrics.
    pub fn count(self) {
        self.meter.metrics.borrow_mut().deliveries += self.deliveries;
    }
}
