//! Showing: at the end of a turn the publications that a home has learned become one segment, which goes to every shard
//! that has subscribers.

use super::Homes;
use super::home::Home;
use crate::context::Context;
use crate::host::Host;
use crate::log::{Segment, apply_edits};
use crate::message::{AttachOutcome, Channel, Endpoint, Message, Recent};
use crate::mutation::{self, Mutation};
use std::sync::Arc;
use uproar_model::{Offset, RoomId};

/// How many of a room's latest publications are handed out at once.
const RECENT_PUBLICATIONS: usize = 100;

impl Homes {
    // ── attach and detach ───────────────────────────────────────────────────────────────────────────────────────────

    /// A shard wants to be fed with a channel.
    pub fn on_attach(&mut self, cx: &mut Context, shard: u16, channel: Channel, host: &mut impl Host) {
        // An ending that the shard's earlier feed was still to be sent must not end this one.
        self.endings.retain(|(to, ending)| *to != shard || !ending.ends(&channel));
        let is_live = matches!(channel, Channel::Live(_));
        let count = &mut self.count;
        let home = self.homes.entry(channel.clone()).or_insert_with(|| {
            *count += 1;
            Home::new(*count, is_live)
        });
        if home.is_loaded {
            let outcome = home.feed(shard);
            self.tell_peers(cx, &channel, host);
            return Self::answer_attach(cx, shard, &channel, outcome, host);
        }
        home.waiting.push(shard);
        self.read_missing(cx, &channel, host);
    }

    pub(super) fn answer_attach(
        cx: &mut Context,
        shard: u16,
        channel: &Channel,
        outcome: AttachOutcome,
        host: &mut impl Host,
    ) {
        cx.messenger.send(Endpoint::Shard(shard), Message::Attached { channel: channel.clone(), outcome }, host);
    }

    pub fn on_detach(&mut self, cx: &Context, shard: u16, channel: &Channel, host: &mut impl Host) {
        let Some(home) = self.homes.get_mut(channel) else { return };
        home.stop_feeding(shard);
        if home.fed_shards.is_empty() && home.waiting.is_empty() {
            // The next subscriber reads the head again.
            self.remove(cx, channel, host);
        } else {
            self.tell_peers(cx, channel, host);
        }
    }

    /// Drops a home.
    pub(super) fn remove(&mut self, cx: &Context, channel: &Channel, host: &mut impl Host) -> Option<Home> {
        let home = self.homes.remove(channel)?;
        self.tell_dropped(cx, channel, &home, host);
        Some(home)
    }

    // ── showing ─────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Makes one segment (or several, if it is large) of what each channel has learned in this turn, and sends it to
    /// the fed shards.
    pub fn show(&mut self, cx: &mut Context, host: &mut impl Host) {
        let (entries, bytes) = (cx.limits().ring_limit_publications as usize, cx.limits().ring_limit_bytes as usize);
        let segment_bytes = cx.segment_bytes();
        for channel in std::mem::take(&mut self.to_show) {
            let Some(home) = self.homes.get_mut(&channel) else { continue };
            home.is_to_show = false;
            let mut fresh = std::mem::take(&mut home.fresh);
            apply_edits(&mut fresh);
            let mut lost = Vec::new();
            while !fresh.is_empty() {
                let rest = fresh.split_off(Segment::fitting(&fresh, segment_bytes));
                let segment = Arc::new(Segment::new(home.shown + 1, std::mem::replace(&mut fresh, rest)));
                home.shown = segment.last();
                cx.meter.metrics.borrow_mut().publications += segment.entries.len() as u64;
                home.ring.apply_edits_of(&segment, segment_bytes);
                home.ring.push(segment, cx.now.ms, entries, bytes);
                lost.extend(Self::feed_shards(&mut self.stalled, cx, &channel, home, host));
            }
            self.send_lost(cx, &channel, lost, host);
        }
    }

    /// Sends each fed shard the segments that it has not been sent. A shard whose queue is full gets the rest later,
    /// from the ring. A shard that has fallen out of the ring skips to the home's position if the store has what it
    /// missed. In a `live:` channel it cannot: such shards are returned, and are fed no more.
    fn feed_shards(
        stalled: &mut Vec<Channel>,
        cx: &mut Context,
        channel: &Channel,
        home: &mut Home,
        host: &mut impl Host,
    ) -> Vec<u16> {
        let mut lost = Vec::new();
        let mut is_stalled = false;
        for fed in &mut home.fed_shards {
            while fed.sent < home.shown {
                let Some(ring_segment) = home.ring.segment_at(fed.sent + 1) else {
                    if matches!(channel, Channel::Live(_)) {
                        lost.push(fed.shard);
                    } else if cx.messenger.has_place(fed.shard, host) {
                        let (channel, position) = (channel.clone(), home.shown);
                        let removed = fed.skip_to(position);
                        let message = Message::Skip { channel, position, removed };
                        cx.messenger.send(Endpoint::Shard(fed.shard), message, host);
                    } else {
                        is_stalled = true;
                        fed.note_removals(&home.ring, home.shown);
                    }
                    break;
                };
                let segment = Arc::clone(&ring_segment.segment);
                let last = segment.last();
                if cx.messenger.has_place(fed.shard, host) {
                    let message = Message::Segment { channel: channel.clone(), segment };
                    cx.messenger.send(Endpoint::Shard(fed.shard), message, host);
                } else if !mutation::active(Mutation::FullQueueDrops) {
                    is_stalled = true;
                    fed.note_removals(&home.ring, home.shown);
                    break;
                }
                fed.sent = last;
            }
            if fed.sent == home.shown {
                fed.forget_removals();
            }
        }
        if is_stalled {
            Self::mark_stalled(stalled, channel, home);
        } else if matches!(channel, Channel::Live(_)) {
            home.ring.clear();
        }
        lost.iter().for_each(|shard| home.stop_feeding(*shard));
        lost
    }

    fn send_lost(&mut self, cx: &mut Context, channel: &Channel, shards: Vec<u16>, host: &mut impl Host) {
        if shards.is_empty() {
            return;
        }
        for shard in shards {
            self.send_ending(cx, shard, Message::Lost { channel: channel.clone() }, host);
        }
        if self.homes.get(channel).is_some_and(|home| home.fed_shards.is_empty() && home.waiting.is_empty()) {
            self.remove(cx, channel, host);
        }
        self.tell_peers(cx, channel, host);
    }

    /// The room's publications after this offset, at least [`RECENT_PUBLICATIONS`] unless there are fewer. `None`: there
    /// are none, or the home does not have all of them.
    pub fn recent(&self, room: RoomId, after: Offset) -> Option<Recent> {
        let home = self.homes.get(&Channel::Room(room)).filter(|home| home.is_loaded)?;
        let segments = home.ring.segments_after(after, RECENT_PUBLICATIONS)?;
        Some(Recent { epoch: home.epoch.clone()?, head: home.shown, segments })
    }

    /// Retries what found no place, no credit or no answer before.
    pub fn retry_stalled(&mut self, cx: &mut Context, host: &mut impl Host) {
        for (shard, ending) in std::mem::take(&mut self.endings) {
            self.send_ending(cx, shard, ending, host);
        }
        for channel in std::mem::take(&mut self.stalled) {
            let Some(home) = self.homes.get_mut(&channel) else { continue };
            home.is_stalled = false;
            let lost = Self::feed_shards(&mut self.stalled, cx, &channel, home, host);
            self.send_lost(cx, &channel, lost, host);
            self.read_missing(cx, &channel, host);
        }
    }

    /// Sends `Lost` or `Closed` to a shard, now or when its queue has a place.
    pub(super) fn send_ending(&mut self, cx: &mut Context, shard: u16, ending: Message, host: &mut impl Host) {
        if cx.messenger.has_place(shard, host) {
            cx.messenger.send(Endpoint::Shard(shard), ending, host);
        } else {
            self.endings.push((shard, ending));
        }
    }
}
