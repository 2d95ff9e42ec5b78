//! What shards must know about the bus, through which the nodes of a cluster tell each other what they have committed.

use crate::protocol::LiveEntry;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use uproar_model::{DatabaseGeneration, Publication, RoomId, UserEvent, UserId};

/// How a node stands with the others. One handle is shared by all shards of a node. When the bus begins or ceases to
/// work, each of them is sent a [`SweepNow`](crate::Message::SweepNow) too.
#[derive(Debug, Default)]
pub struct BusState {
    bus: AtomicU8,
    /// Whether anybody hears what is announced.
    has_peers: AtomicBool,
    /// Announcements that found no place in the queue to the bus: those of `live:` messages, and all others.
    dropped_live: AtomicU64,
    dropped: AtomicU64,
}

/// The longest text of a `live:` message between nodes, in bytes, as a JSON string.
pub const LIVE_LIMIT_BYTES: usize = 7_000;

/// What a node tells the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Announcement {
    /// A publication was committed.
    Stored { room: RoomId, generation: DatabaseGeneration, publication: Box<Publication> },
    /// Something has happened to a room that only its head tells: an earlier commit has become known, or the room was
    /// deleted.
    Head { room: RoomId },
    /// Any room may have changed.
    Sweep,
    /// A message for a `live:` channel (its name without `live:`).
    Live { channel: Arc<str>, entry: LiveEntry },
    /// An event for all connections of a user.
    User { user: UserId, event: UserEvent },
}

impl Announcement {
    /// Whether nothing but this announcement tells what it says.
    pub fn is_live(&self) -> bool {
        matches!(self, Announcement::Live { .. })
    }
}

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
        BusState { bus: AtomicU8::new(bus as u8), ..BusState::default() }
    }

    pub fn set(&self, bus: Bus) {
        self.bus.store(bus as u8, Ordering::Relaxed);
    }

    /// While nobody hears it, nothing is announced.
    pub fn set_has_peers(&self, has_peers: bool) {
        self.has_peers.store(has_peers, Ordering::Relaxed);
    }

    pub fn has_peers(&self) -> bool {
        self.has_peers.load(Ordering::Relaxed)
    }

    pub(crate) fn count_dropped(&self, announcement: &Announcement) {
        let dropped = if announcement.is_live() { &self.dropped_live } else { &self.dropped };
        dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// How many announcements found no place since the last call: those of `live:` messages, and all others.
    pub fn take_dropped(&self) -> (u64, u64) {
        (self.dropped_live.swap(0, Ordering::Relaxed), self.dropped.swap(0, Ordering::Relaxed))
    }

    pub fn get(&self) -> Bus {
        let bus = self.bus.load(Ordering::Relaxed);
        [Bus::Alone, Bus::Connected, Bus::Disconnected]
            .into_iter()
            .find(|known| *known as u8 == bus)
            .unwrap_or_default()
    }
}
