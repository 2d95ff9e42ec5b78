//! One feed: a channel on this shard.

use crate::ids::{Slot, SubscriptionKey};
use crate::log::{Ring, removal};
use crate::message::{Channel, JoinRequest, PresenceChange};
use crate::protocol::Format;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use uproar_model::{Epoch, Offset, UserId};

#[derive(Debug)]
pub(crate) struct Subscriber {
    pub slot: Slot,
    /// The connection's subscription.
    pub key: SubscriptionKey,
    /// The last offset put into the connection's queue.
    pub cursor: Offset,
    /// The offset at which its user was a member. Earlier removals do not concern it.
    pub admitted: Offset,
    pub format: Format,
    /// The cursor is before the ring, or the queue was full: the subscriber catches up as its queue drains.
    pub is_behind: bool,
    /// It wants to be told who comes and goes.
    pub wants_presence: bool,
}

#[derive(Debug)]
pub(crate) struct Feed {
    pub channel: Channel,
    /// The channel as clients name it: `room:<key>` or `live:<name>`.
    pub name: Arc<str>,
    /// The shard of the channel's home.
    pub home: u16,
    /// The home has answered the attach. Segments that arrive earlier are not for this feed.
    pub is_attached: bool,
    /// Clients that wait for that answer.
    pub(super) waiting: Vec<JoinRequest>,
    /// `None`: a `live:` channel.
    pub epoch: Option<Epoch>,
    /// The last offset that the home has shown here.
    pub position: Offset,
    pub ring: Ring,
    pub(super) subscribers: Vec<Subscriber>,
    /// In a room: subscriptions of `live:` channels that belong to it, and the offset at which the user of each was a
    /// member. They receive nothing from here, but end when the user is removed.
    pub(super) guests: BTreeMap<(Slot, SubscriptionKey), Offset>,
    /// The index of the subscriber that the fan-out has reached; `None` when no fan-out is under way.
    pub(super) next: Option<usize>,
    /// Every subscriber who is not behind has been given everything up to this offset.
    pub(super) served: Offset,
    /// In the current round the fan-out has passed a subscriber who is behind.
    pub(super) has_passed_behind: bool,
    /// A segment has arrived, or subscribers have changed places, since the round began: another round follows.
    pub(super) again: bool,
    pub(super) idle_since_ms: Option<u64>,
    /// Subscribers that came and went since the last report to the home, by slot and generation.
    pub(super) changes: BTreeMap<(Slot, u32), PresenceChange>,
    /// Ephemeral events on their way to the subscribers.
    pub(super) events: VecDeque<super::ephemeral::Delivery>,
}

impl Feed {
    /// A feed that is about to be attached, because this client wants to join.
    pub fn new(channel: Channel, name: Arc<str>, home: u16, request: JoinRequest) -> Feed {
        Feed {
            channel,
            name,
            home,
            is_attached: false,
            waiting: vec![request],
            epoch: None,
            position: 0,
            ring: Ring::default(),
            subscribers: Vec::new(),
            guests: BTreeMap::new(),
            next: None,
            served: 0,
            has_passed_behind: false,
            again: false,
            idle_since_ms: None,
            changes: BTreeMap::new(),
            events: VecDeque::new(),
        }
    }

    /// Whether nobody needs it.
    pub(super) fn is_unused(&self) -> bool {
        self.subscribers.is_empty() && self.guests.is_empty()
    }

    /// Whether a user who was a member at this offset still is, as far as the ring tells. False if the ring does not
    /// reach back that far: then the store must be asked again.
    pub fn is_still_member(&self, user: UserId, offset: Offset) -> bool {
        if self.ring.first().is_none_or(|first| first > offset + 1) {
            return false;
        }
        !self.ring.entries_after(offset).filter_map(removal).any(|(removed, _)| removed == user)
    }
}
