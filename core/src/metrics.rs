//! What a shard counts: plain numbers, copied when somebody asks for them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use uproar_model::UserId;

/// The upper bounds of the histograms' buckets, in milliseconds.
pub const BUCKETS_MS: [u64; 12] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000];

/// Everything that one shard has counted since it started, and its current sizes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardMetrics {
    pub connections: u64,
    /// Users with connections, in ascending order, if they were asked for.
    pub users: Vec<UserId>,
    pub subscriptions: u64,
    /// Rooms and `live:` channels whose home is here.
    pub homes: u64,
    /// Bytes waiting to be written, with shared buffers counted once.
    pub outbound_bytes: u64,
    /// Publications shown by homes on this shard.
    pub publications: u64,
    /// Publications put into the queues of subscribers.
    pub deliveries: u64,
    /// Bytes written to sockets.
    pub sent_bytes: u64,
    /// WebSocket messages received.
    pub received: u64,
    /// Connections closed, by close code.
    pub closed: BTreeMap<u16, u64>,
    /// Upgrades rejected, by HTTP status.
    pub rejected: BTreeMap<u16, u64>,
    /// Messages refused, by error code.
    pub errors: BTreeMap<u16, u64>,
    /// Clients that connected with a valid token, by the name of their SDK.
    pub clients: BTreeMap<String, u64>,
    /// From the arrival of a publish on any shard to its commit, for rooms whose home is here.
    pub committed_ms: Histogram,
    /// From showing a publication to writing it to the last of this shard's sockets.
    pub written_ms: Histogram,
}

/// Durations, counted in buckets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// One per bucket of [`BUCKETS_MS`], and one for longer durations.
    pub counts: [u64; BUCKETS_MS.len() + 1],
    pub sum_ms: u64,
}

impl Histogram {
    pub fn add(&mut self, ms: u64) {
        let bucket = BUCKETS_MS.iter().position(|bound| ms <= *bound).unwrap_or(BUCKETS_MS.len());
        self.counts[bucket] += 1;
        self.sum_ms += ms;
    }

    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// The live counters of a shard. Outbound buffers share them, because they count when they are dropped.
#[derive(Debug, Default)]
pub struct Meter {
    pub metrics: RefCell<ShardMetrics>,
    /// [`Now::ms`](crate::Now::ms) of the latest event.
    pub clock_ms: Cell<u64>,
    /// Bytes waiting for all connections, with shared buffers counted once.
    pub outbound_bytes: Cell<u64>,
    /// Bytes of messages that have not arrived completely.
    pub unfinished_bytes: Cell<u64>,
}

/// Counts one more under this key. Returns whether it is the first.
pub fn count(map: &mut BTreeMap<u16, u64>, key: u16) -> bool {
    let count = map.entry(key).or_default();
    *count += 1;
    *count == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_into_the_first_bucket_that_holds_it() {
        let mut histogram = Histogram::default();
        for ms in [0, 1, 2, 3, 5000, 5001] {
            histogram.add(ms);
        }
        assert_eq!((histogram.counts[0], histogram.counts[1], histogram.counts[2]), (2, 1, 1));
        assert_eq!((histogram.counts[11], histogram.counts[12], histogram.count()), (1, 1, 6));
    }
}
