//! A shard's end of the mesh. It takes and returns credits, knows which shard is home to a channel, and keeps the
//! messages that the shard sends to itself: they take the same path as those for other shards.

use crate::host::Host;
use crate::limits::Limits;
use crate::message::{Asker, Channel, Endpoint, Message, Requester, StoreRequest, reserved_places};
use std::collections::VecDeque;

/// Maps channels to the shards of their homes. The same on every endpoint of a node.
#[derive(Clone, Debug)]
pub struct Placement {
    hasher: ahash::RandomState,
    shards: u16,
}

impl Placement {
    /// `seed` is drawn at start, so that nobody can choose names that all hash to one shard.
    pub fn new(seed: u64, shards: u16) -> Placement {
        Placement { hasher: ahash::RandomState::with_seeds(seed, 4, 5, 6), shards }
    }

    /// The shard that is home to this channel.
    pub fn home_of(&self, channel: &Channel) -> u16 {
        (self.hasher.hash_one(channel) % u64::from(self.shards)) as u16
    }
}

/// The calls that a shard may have under way with one lane. Everyone's appends may go through one home, so there is a
/// credit for each of them: a home can always pass on what it was called with.
pub fn lane_calls_limit(limits: &Limits, shards: u16) -> u64 {
    limits.mesh_calls_limit * (u64::from(shards) + 1)
}

#[derive(Debug)]
pub(crate) struct Messenger {
    pub id: u16,
    pub shards: u16,
    lanes: u16,
    placement: Placement,
    reserved_places: usize,
    /// Calls that may still be made, by endpoint. Calls to the shard itself need no credit, except appends: their
    /// credit also bounds what the shard's own connections have under way in rooms whose home is here.
    shard_credits: Vec<u64>,
    lane_credits: Vec<u64>,
    reader_credits: u64,
    /// Messages of the shard to itself. They are all delivered before the event or step that sent them ends, so their
    /// number is bounded by what one event can cause.
    loopback: VecDeque<Message>,
}

impl Messenger {
    pub fn new(id: u16, shards: u16, lanes: u16, seed: u64, limits: &Limits) -> Messenger {
        let calls = limits.mesh_calls_limit;
        Messenger {
            id,
            shards,
            lanes,
            placement: Placement::new(seed, shards),
            reserved_places: reserved_places(calls),
            shard_credits: vec![calls; usize::from(shards)],
            lane_credits: vec![lane_calls_limit(limits, shards); usize::from(lanes)],
            reader_credits: calls,
            loopback: VecDeque::new(),
        }
    }

    /// The shard itself.
    pub fn own(&self) -> Endpoint {
        Endpoint::Shard(self.id)
    }

    pub fn home_of(&self, channel: &Channel) -> u16 {
        self.placement.home_of(channel)
    }

    /// The lane that commits for a room.
    pub fn lane_of(&self, room: uproar_model::RoomId) -> Endpoint {
        Endpoint::Lane((room.0.unsigned_abs() % u64::from(self.lanes)) as u16)
    }

    /// Sends an answer, or a call whose credit has been taken.
    pub fn send(&mut self, to: Endpoint, message: Message, host: &mut impl Host) {
        if to == self.own() {
            self.loopback.push_back(message);
        } else {
            host.send(to, message);
        }
    }

    /// Whether the shard has messages to itself.
    pub fn has_own(&self) -> bool {
        !self.loopback.is_empty()
    }

    /// The next message of the shard to itself.
    pub fn next_own(&mut self) -> Option<Message> {
        self.loopback.pop_front()
    }

    // ── calls ───────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Makes a call. False: too many calls to this endpoint are under way.
    #[must_use]
    pub fn call(&mut self, to: Endpoint, message: Message, host: &mut impl Host) -> bool {
        debug_assert!(!matches!(message, Message::Append(_)), "an append takes a credit on its own shard too");
        let may_call = to == self.own() || self.take_credit(to);
        if may_call {
            self.send(to, message, host);
        }
        may_call
    }

    /// Whether a call can be made now.
    pub fn can_call(&self, to: Endpoint) -> bool {
        to == self.own() || self.credits(to).is_some_and(|credits| credits > 0)
    }

    /// Asks the store's reader. False: too many requests are under way.
    #[must_use]
    pub fn read(&mut self, requester: Requester, asker: Asker, request: StoreRequest, host: &mut impl Host) -> bool {
        self.call(Endpoint::Reader, Message::Read { requester, asker, request }, host)
    }

    /// Returns the credit of a call whose answer has arrived. A call to the shard itself took none.
    pub fn return_call_credit(&mut self, by: Endpoint) {
        if by != self.own() {
            self.return_credit(by);
        }
    }

    /// Answers a call that needs no other answer.
    pub fn acknowledge(&mut self, caller: Endpoint, host: &mut impl Host) {
        if caller != self.own() {
            host.send(caller, Message::CreditReturned);
        }
    }

    /// Takes a credit for an append, also for one to this shard itself, or for any call to another endpoint.
    #[must_use]
    pub fn take_credit(&mut self, to: Endpoint) -> bool {
        match self.credits_mut(to) {
            Some(credits) if *credits > 0 => {
                *credits -= 1;
                true
            }
            _ => false,
        }
    }

    pub fn return_credit(&mut self, by: Endpoint) {
        if let Some(credits) = self.credits_mut(by) {
            *credits += 1;
        }
    }

    fn credits(&self, endpoint: Endpoint) -> Option<u64> {
        match endpoint {
            Endpoint::Shard(id) => self.shard_credits.get(usize::from(id)).copied(),
            Endpoint::Lane(id) => self.lane_credits.get(usize::from(id)).copied(),
            Endpoint::Reader => Some(self.reader_credits),
            Endpoint::Http | Endpoint::Bus => None,
        }
    }

    fn credits_mut(&mut self, endpoint: Endpoint) -> Option<&mut u64> {
        match endpoint {
            Endpoint::Shard(id) => self.shard_credits.get_mut(usize::from(id)),
            Endpoint::Lane(id) => self.lane_credits.get_mut(usize::from(id)),
            Endpoint::Reader => Some(&mut self.reader_credits),
            Endpoint::Http | Endpoint::Bus => None,
        }
    }

    /// Whether no call is under way. For tests.
    pub fn has_all_credits(&self, limits: &Limits) -> bool {
        let lane_credits = lane_calls_limit(limits, self.shards);
        self.shard_credits.iter().all(|credits| *credits == limits.mesh_calls_limit)
            && self.lane_credits.iter().all(|credits| *credits == lane_credits)
            && self.reader_credits == limits.mesh_calls_limit
    }

    // ── publications ────────────────────────────────────────────────────────────────────────────────────────────────

    /// Whether the queue to a shard has a place that is not reserved for calls and answers.
    pub fn has_place(&self, shard: u16, host: &impl Host) -> bool {
        shard == self.id || host.free_places(Endpoint::Shard(shard)) > self.reserved_places
    }
}
