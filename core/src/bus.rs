//! What shards must know about the bus, through which the nodes of a cluster tell each other what they have committed.

use std::sync::atomic::{AtomicU8, Ordering};

/// How a node stands with the others. One handle is shared by all shards of a node; whoever changes it then sends each
/// of them a [`SweepNow`](crate::Message::SweepNow).
#[derive(Debug, Default)]
pub struct BusState(AtomicU8);

/// See [`BusState`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Bus {
    /// There can be no other node.
    #[default]
    Alone,
    /// What other nodes commit is announced.
    Connected,
    /// There may be other nodes, and nothing tells what they commit.
    Disconnected,
}

impl BusState {
    pub fn new(bus: Bus) -> BusState {
        BusState(AtomicU8::new(bus as u8))
    }

    pub fn set(&self, bus: Bus) {
        self.0.store(bus as u8, Ordering::Relaxed);
    }

    pub fn get(&self) -> Bus {
        let bus = self.0.load(Ordering::Relaxed);
        [Bus::Alone, Bus::Connected, Bus::Disconnected]
            .into_iter()
            .find(|known| *known as u8 == bus)
            .unwrap_or_default()
    }
}
