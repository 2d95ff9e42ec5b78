//! Catching up: subscribers who are behind are given what they have missed, from the ring or in pages from the store,
//! as their queues drain.

use super::Feeds;
use super::fan_out::FanOut;
use crate::buffer::Slice;
use crate::connections::Connections;
use crate::context::Context;
use crate::host::Host;
use crate::ids::{Slot, SubscriptionKey};
use crate::message::{Asker, Channel, Interest, Party, Requester, StoreRequest};
use crate::mutation::{self, Mutation};
use crate::protocol::{CloseReason, Entry, Frames};
use uproar_model::{Offset, Page, PageRequest};

/// How long a connection waits when no page can be requested.
const CREDIT_RETRY_MS: u64 = 20;
/// How long a connection waits when the store has not answered.
const PAGE_RETRY_MS: u64 = 100;

impl Feeds {
    /// Gives the subscriptions of a connection that are behind the next part of what they have missed, while its queue
    /// has room. The parts come from the ring, or from the store, one page at a time. Returns why
    /// the connection must be closed, if it must.
    pub fn catch_up(
        &mut self,
        cx: &mut Context,
        connections: &mut Connections,
        slot: Slot,
        host: &mut impl Host,
    ) -> Option<CloseReason> {
        let page_bytes = cx.page_bytes();
        loop {
            let connection = &mut connections[slot];
            let session = connection.session_mut()?;
            let (Some(&key), None) = (session.behind.front(), &session.reading) else { return None };
            let (feed_id, index) = session.joined(key)?;
            if connection.outbound.bytes() >= page_bytes {
                // Called again when some of the queue has been written.
                return None;
            }
            let feed = &mut self.feeds[feed_id.index()];
            let subscriber = &mut feed.subscribers[index as usize];
            let before = subscriber.cursor;
            let mut fan_out = FanOut::new(&mut feed.ring, feed.position, &feed.name, &cx.meter, false, page_bytes);
            let is_in_ring = fan_out.give(cx.now.ms, subscriber, connection);
            fan_out.count();
            let (cursor, position) = (subscriber.cursor, feed.position);
            subscriber.is_behind = cursor < position;
            let is_behind = subscriber.is_behind;
            if let Some(session) = connection.session_mut() {
                session.behind.pop_front();
                if is_behind && is_in_ring {
                    // The connection's other subscriptions come first.
                    session.behind.push_back(key);
                } else if is_behind {
                    session.behind.push_front(key);
                }
            }
            if cursor > before {
                connections.written(cx, slot, host);
            }
            if !is_behind {
                continue;
            }
            if is_in_ring {
                return None;
            }
            let Channel::Room(room) = feed.channel else {
                return Some(CloseReason::INSUFFICIENT_STATE);
            };
            if let Some((_, again_ms)) = connections[slot].session().and_then(|session| session.unanswered)
                && cx.now.ms < again_ms
            {
                connections.arm_timer(slot, again_ms);
                return None;
            }
            let request = page_request(cx, cursor, position);
            let session = connections[slot].session_mut()?;
            let (serial, interest) = (session.next_serial(), Interest::default());
            let asker = Asker::new(Party::User(session.user.id), &interest);
            let requester = Requester::CatchUp(connections.caller(slot, serial));
            if !cx.messenger.read(requester, asker, StoreRequest::Page { room, request }, host) {
                connections.arm_timer(slot, cx.now.ms + CREDIT_RETRY_MS);
            } else if let Some(session) = connections[slot].session_mut() {
                let kept = if mutation::active(Mutation::LosesInterest) { Interest::default() } else { interest };
                session.reading = Some((serial, key, kept));
            }
            return None;
        }
    }

    /// The store has not answered: it is asked again, until subscribers have been behind for as long as they would be
    /// behind a gap. Returns why the connection must be closed, if it must.
    pub fn on_no_page(cx: &Context, connections: &mut Connections, slot: Slot) -> Option<CloseReason> {
        let session = connections[slot].session_mut()?;
        let since_ms = session.unanswered.map_or(cx.now.ms, |(since_ms, _)| since_ms);
        if cx.now.ms >= since_ms + cx.limits().gap_deadline_ms {
            return Some(CloseReason::INSUFFICIENT_STATE);
        }
        let again_ms = cx.now.ms + PAGE_RETRY_MS;
        session.unanswered = Some((since_ms, again_ms));
        connections.arm_timer(slot, again_ms);
        None
    }

    /// A page has arrived for a subscription that is behind. Returns why the connection must be closed, if it must.
    pub fn on_page(
        &mut self,
        cx: &mut Context,
        connections: &mut Connections,
        slot: Slot,
        key: SubscriptionKey,
        page: &Page,
        host: &mut impl Host,
    ) -> Option<CloseReason> {
        let session = connections[slot].session_mut()?;
        session.unanswered = None;
        let (feed_id, index) = session.joined(key)?;
        let feed = &mut self.feeds[feed_id.index()];
        let subscriber = &mut feed.subscribers[index as usize];
        if feed.epoch.as_ref() != Some(&page.head.epoch) {
            return Some(CloseReason::INSUFFICIENT_STATE);
        }
        let follows = page.publications.iter().zip(subscriber.cursor + 1..).all(|(p, offset)| p.offset == offset);
        let Some(last) = page.publications.last().filter(|_| follows) else {
            // The store no longer has what was shown.
            return Some(CloseReason::INSUFFICIENT_STATE);
        };
        cx.meter.metrics.borrow_mut().deliveries += last.offset - subscriber.cursor;
        subscriber.cursor = last.offset;
        let entries: Vec<Entry> = page.publications.iter().cloned().map(Entry::Stored).collect();
        let frames = Frames::encode(&entries, subscriber.format, &feed.name);
        connections[slot].enqueue(cx.now.ms, Slice::own(&cx.meter, frames.bytes().clone()));
        if connections.is_over_limit(cx, slot) {
            return Some(CloseReason::SLOW);
        }
        connections.written(cx, slot, host);
        self.catch_up(cx, connections, slot, host)
    }
}

/// The request for the next page after a cursor.
fn page_request(cx: &Context, cursor: Offset, position: Offset) -> PageRequest {
    let page_bytes = cx.page_bytes();
    PageRequest {
        from: cursor,
        ascending: true,
        up_to: position,
        // The frame around each text counts too.
        items_limit: cx.limits().page_limit_publications.min(page_bytes / 256).max(1) as usize,
        bytes_limit: page_bytes as usize,
    }
}
