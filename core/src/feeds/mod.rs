//! Feeds: the channels that this shard receives. A feed knows how far its channel has been shown here, holds the latest
//! segments, and gives them to its subscribers.
//!
//! A subscriber is a cursor. The fan-out moves cursors to the feed's position. A subscriber whose queue is full, or
//! whose cursor is before the ring, is *behind*: it catches up as its queue drains, from the ring or with pages from
//! the store. A subscriber is only ever given what follows its cursor, so it has no gap and no duplicate.
//!
//! Feeds write into the queues of connections, but never close one: they return the connections that must be closed.
//!
//! | file | holds |
//! | --- | --- |
//! | `feed.rs` | one feed and its subscribers |
//! | `subscribers.rs` | attaching a feed, subscribers that come and go, idle feeds |
//! | `fan_out.rs` | giving subscribers what the home has shown |
//! | `catch_up.rs` | giving subscribers who are behind what they have missed |
//! | `ephemeral.rs` | events that are stored nowhere, and reports of presence to the home |

mod catch_up;
mod ephemeral;
mod fan_out;
mod feed;
mod subscribers;

pub(crate) use fan_out::Received;
pub(crate) use feed::{Feed, Subscriber};
pub(crate) use subscribers::Attached;

use crate::context::Context;
use crate::ids::{FeedId, Slot};
use crate::message::Channel;
use crate::protocol::CloseReason;
use slab::Slab;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Connections that must be closed, and why.
pub(crate) type ToClose = Vec<(Slot, CloseReason)>;

pub(crate) struct Feeds {
    feeds: Slab<Feed>,
    ids: HashMap<Channel, FeedId, ahash::RandomState>,
    /// Feeds with subscribers who have not been given everything that was shown.
    to_fan_out: VecDeque<FeedId>,
    /// Feeds with ephemeral events for their subscribers.
    to_notify: VecDeque<FeedId>,
    /// Feeds whose home is to be told who came and went.
    to_report: Vec<FeedId>,
    /// Feeds of `live:` channels without subscribers.
    idle_live: Vec<FeedId>,
    /// Feeds of rooms without subscribers, and since when.
    idle_rooms: VecDeque<(u64, Channel)>,
}

impl Feeds {
    pub fn new(hasher: ahash::RandomState) -> Feeds {
        Feeds {
            feeds: Slab::new(),
            ids: HashMap::with_hasher(hasher),
            to_fan_out: VecDeque::new(),
            to_notify: VecDeque::new(),
            to_report: Vec::new(),
            idle_live: Vec::new(),
            idle_rooms: VecDeque::new(),
        }
    }

    pub fn get(&self, id: FeedId) -> Option<&Feed> {
        self.feeds.get(id.index())
    }

    /// The feed of a channel.
    pub fn id_of(&self, channel: &Channel) -> Option<FeedId> {
        self.ids.get(channel).copied()
    }

    /// The channels with subscribers on this shard, by the names that clients use, and how many there are.
    pub fn channels(&self) -> impl Iterator<Item = (&Arc<str>, u64)> {
        let feeds = self.feeds.iter().filter(|(_, feed)| !feed.subscribers.is_empty());
        feeds.map(|(_, feed)| (&feed.name, feed.subscribers.len() as u64))
    }

    /// Whether the next turn has work here already.
    pub fn has_work(&self) -> bool {
        !self.to_fan_out.is_empty() || !self.to_notify.is_empty()
    }

    /// When a turn has something to do here at the latest.
    pub fn deadline_ms(&self, cx: &Context) -> Option<u64> {
        // What found no credit is retried soon.
        let is_waiting = !self.to_report.is_empty() || !self.idle_live.is_empty();
        let retry = is_waiting.then_some(cx.now.ms + 1);
        let idle = self.idle_rooms.front().map(|(since, _)| since + cx.limits().room_idle_ms);
        [retry, idle].into_iter().flatten().min()
    }
}
