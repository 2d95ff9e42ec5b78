//! When to look at which connection again. An entry is only a reminder: the handler checks what is really due.

use crate::ids::Slot;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The timers of a shard, one or a few per connection.
#[derive(Debug, Default)]
pub struct Timers {
    heap: BinaryHeap<Reverse<(u64, Slot, u32)>>,
}

impl Timers {
    /// Adds a timer for the connection with this slot and generation. `at_ms` is in [`Now::ms`](crate::Now::ms).
    pub fn add(&mut self, at_ms: u64, slot: Slot, generation: u32) {
        self.heap.push(Reverse((at_ms, slot, generation)));
    }

    /// The next (time, slot, generation) that is due.
    pub fn due(&mut self, now_ms: u64) -> Option<(u64, Slot, u32)> {
        if self.heap.peek()?.0.0 > now_ms {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry)
    }

    pub fn next_ms(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse((at, ..))| *at)
    }
}
