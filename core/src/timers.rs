//! When to look at which connection again. An entry is a reminder, not a promise: whoever is looked at says when next.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Reminders of a shard, one or a few a connection.
#[derive(Debug, Default)]
pub struct Timers {
    heap: BinaryHeap<Reverse<(u64, u32, u32)>>,
}

impl Timers {
    /// Remind of this tenant of this slot at this time, in `Now::ms`.
    pub fn add(&mut self, at_ms: u64, slot: u32, generation: u32) {
        self.heap.push(Reverse((at_ms, slot, generation)));
    }

    /// The next (slot, generation) whose time has come.
    pub fn due(&mut self, now_ms: u64) -> Option<(u64, u32, u32)> {
        if self.heap.peek()?.0.0 > now_ms {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry)
    }

    pub fn next_ms(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse((at, ..))| *at)
    }
}
