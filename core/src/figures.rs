//! What a shard counts. Plain numbers: the driver copies them now and then to where they are published.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

/// Upper bounds of the histograms' buckets, in milliseconds.
pub const BUCKETS_MS: [u64; 12] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000];

/// Everything that one shard has counted since it began, and how it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    pub connections: u64,
    pub subscriptions: u64,
    /// Rooms and live: channels at home here.
    pub homes: u64,
    /// Bytes that wait to be written, shared buffers counted once.
    pub outbound_bytes: u64,
    /// Shown by homes of this shard.
    pub publications: u64,
    /// Publications put into the queues of subscribers.
    pub deliveries: u64,
    /// Bytes written to sockets.
    pub sent_bytes: u64,
    /// WebSocket messages received.
    pub received: u64,
    /// Connections ended, by close code.
    pub ended: BTreeMap<u16, u64>,
    /// Upgrades refused, by HTTP status.
    pub refused: BTreeMap<u16, u64>,
    /// Messages refused, by error code.
    pub errors: BTreeMap<u16, u64>,
    /// Clients that connected with a good token, by the name of their SDK.
    pub clients: BTreeMap<String, u64>,
    /// From a publish's arrival on a shard to its commit, in rooms at home here.
    pub committed_ms: Histogram,
    /// From a publication's being shown to its being written to the last of this shard's sockets.
    pub written_ms: Histogram,
}

/// Counts of durations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// By [`BUCKETS_MS`]; the last takes what is longer than all of them.
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

/// What a shard counts with, reachable also from what is dropped when a buffer has been written.
#[derive(Debug, Default)]
pub struct Meter {
    pub figures: RefCell<Figures>,
    /// `Now::ms` of the latest event.
    pub clock_ms: Cell<u64>,
    /// Bytes that wait for all connections, shared buffers counted once.
    pub outbound_bytes: Cell<u64>,
}

/// One more under this key. True: the first.
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
