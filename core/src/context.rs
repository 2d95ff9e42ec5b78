//! What the owners on a shard share: the configuration, the time of the turn, the counters, and the way to the mesh.

use crate::bus::{Announcement, Bus};
use crate::config::ShardConfig;
use crate::host::{Host, Now};
use crate::ids::Slot;
use crate::limits::Limits;
use crate::log::SEGMENT_LIMIT_BYTES;
use crate::message::{Endpoint, Message};
use crate::messenger::Messenger;
use crate::metrics::Meter;
use std::rc::Rc;

/// How often heads are compared while nothing tells what other nodes commit.
const DISCONNECTED_SWEEP_INTERVAL_MS: u64 = 500;

pub(crate) struct Context {
    pub config: ShardConfig,
    /// The time of the current event.
    pub now: Now,
    pub meter: Rc<Meter>,
    pub messenger: Messenger,
    client_ids: ahash::RandomState,
    jitter: u64,
}

impl Context {
    pub fn new(config: ShardConfig) -> Context {
        Context {
            now: Now::default(),
            meter: Rc::new(Meter::default()),
            messenger: Messenger::new(config.id, config.shards, config.lanes, config.seed, &config.limits),
            client_ids: ahash::RandomState::with_seeds(config.seed, 7, 8, 9),
            jitter: config.seed ^ u64::from(config.id).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            config,
        }
    }

    pub fn limits(&self) -> &Limits {
        &self.config.limits
    }

    /// Sets the time of the event that is about to be handled.
    pub fn begin(&mut self, now: Now) {
        self.now = now;
        self.meter.clock_ms.set(now.ms);
    }

    /// Tells the other nodes something, if there are any and they understand it. It never waits: what finds no place is
    /// counted, and the others notice.
    pub fn announce(&self, host: &mut impl Host, announcement: impl FnOnce() -> Announcement) {
        let bus = &self.config.bus;
        if !bus.has_peers() {
            return;
        }
        let announcement = announcement();
        if !bus.may_announce(&announcement) {
            return;
        }
        if self.can_announce(host) {
            host.send(Endpoint::Bus, Message::Announce(announcement));
        } else {
            bus.count_dropped(&announcement);
        }
    }

    /// Whether the queue to the bus has a place for an announcement. The others are for answers.
    pub fn can_announce(&self, host: &impl Host) -> bool {
        host.free_places(Endpoint::Bus) as u64 > self.limits().mesh_calls_limit
    }

    /// How long after the beginning of a sweep the next one begins.
    pub fn sweep_interval_ms(&self) -> u64 {
        let limits = self.limits();
        match self.config.bus.get() {
            Bus::Alone => limits.ping_interval_ms,
            Bus::Connected => limits.heads_sweep_interval_ms,
            Bus::Disconnected => limits.heads_sweep_interval_ms.min(DISCONNECTED_SWEEP_INTERVAL_MS),
        }
    }

    /// The most bytes that a segment may have. A queue holds segments as a whole, so it must have room for several.
    pub fn segment_bytes(&self) -> usize {
        SEGMENT_LIMIT_BYTES.min((self.limits().outbound_limit_bytes / 4) as usize)
    }

    /// The bytes that a subscriber who is behind is given at a time. Escaped as JSON they may grow sixfold, and must
    /// still fit into the queue.
    pub fn page_bytes(&self) -> u64 {
        self.limits().page_limit_bytes.min(self.limits().outbound_limit_bytes / 8).max(1)
    }

    /// The most bytes in one reply: half of a message, since small replies share it, and a quarter of the queue.
    pub fn reply_bytes(&self) -> usize {
        (self.limits().outbound_message_limit_bytes / 2).min(self.limits().outbound_limit_bytes / 4).max(1) as usize
    }

    /// The name of a connection in presence. Unique on this node, and with a chance of 2⁻⁶⁴ repeated after a restart.
    pub fn client_id(&self, shard: u16, slot: Slot, generation: u32) -> String {
        let hash = self.client_ids.hash_one((shard, slot.0, generation));
        format!("{hash:016x}-{shard:x}-{:x}-{generation:x}", slot.0)
    }

    /// A random number that spreads pings. It is not meant to be unpredictable.
    pub fn random(&mut self) -> u64 {
        // xorshift64*
        self.jitter ^= self.jitter >> 12;
        self.jitter ^= self.jitter << 25;
        self.jitter ^= self.jitter >> 27;
        self.jitter.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}
