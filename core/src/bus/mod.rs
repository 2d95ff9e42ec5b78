//! The bus, through which the nodes of a cluster tell each other what they have committed. It only makes things faster.
//! Whatever it loses is found by the sweep, which it makes run more often while it does not work.
//!
//! | file | holds |
//! | --- | --- |
//! | `node.rs` | one node: what it sends, what it makes of what it hears |
//! | `envelope.rs` | what is sent, and how it is numbered |
//! | `hearing.rs` | who is heard, and what was missed |
//! | `presence.rs` | what nodes say about who is in a channel |
//! | `surveys.rs`, `survey_wire.rs` | what nodes ask each other, and how it is sent |

mod envelope;
mod hearing;
mod node;
mod presence;
mod survey_wire;
mod surveys;

pub use node::{BusConfig, BusNode, Notice};
pub use presence::{NodePresence, PresenceNews};

use crate::message::Channel;
use crate::protocol::{self, LiveEntry, ProtocolError};
use crate::survey::{Findings, Survey};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU64, Ordering};
use uproar_model::{DatabaseGeneration, Publication, RoomId, User, UserEvent, UserId};

/// How a node stands with the others. One handle is shared by all shards of a node. When the bus begins or ceases to
/// work, each of them is sent a [`SweepNow`](crate::Message::SweepNow) too.
#[derive(Debug, Default)]
pub struct BusState {
    bus: AtomicU8,
    /// Whether anybody hears what is announced.
    has_peers: AtomicBool,
    /// Whether anybody has subscribed to a channel here, so that it matters who is in it elsewhere.
    has_presence: AtomicBool,
    is_busy: AtomicBool,
    /// Announcements that found no place in the queue to the bus: those of `live:` messages, and all others.
    dropped_live: AtomicU64,
    dropped: AtomicU64,
    /// The longest `live:` message between nodes, in bytes, as a JSON string.
    live_limit_bytes: usize,
    /// The announcements that all nodes understand.
    version: AtomicI32,
}

/// Counters, for metrics and readiness.
#[derive(Debug, Default)]
pub struct BusMetrics {
    /// Whether this process has a bus at all.
    pub exists: AtomicBool,
    /// Whether our own beats are heard.
    pub connected: AtomicBool,
    /// Whether it is known if the bus works.
    pub is_settled: AtomicBool,
    /// Other nodes that are heard.
    pub peers: AtomicU64,
    /// How long the last beat took to come back, in microseconds.
    pub lag_micros: AtomicU64,
    /// Announcements of this node.
    pub announced: AtomicU64,
    /// Announcements of this node that were dropped because a queue was full.
    pub dropped: AtomicU64,
    /// Announcements of other nodes.
    pub received: AtomicU64,
    /// Announcements of other nodes that did not arrive.
    pub missed: AtomicU64,
    /// Messages that were no announcements of this cluster.
    pub ignored: AtomicU64,
}

/// What a node tells the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Announcement {
    /// A publication was committed.
    Stored { room: RoomId, generation: DatabaseGeneration, publication: Box<Publication> },
    /// Something has happened to a room that only its head tells, such as an earlier commit that has become known.
    Head { room: RoomId },
    /// A message for a `live:` channel (its name without `live:`).
    Live { channel: Arc<str>, entry: LiveEntry },
    /// An event for all connections of a user.
    User { user: UserId, event: UserEvent },
    /// Who is in a channel on this node.
    Presence(Box<NodePresence>),
    /// This shard has told about all its channels, for the nodes that have asked, by their sessions. What was said up to
    /// this version, and not again since, is not true any more.
    PresenceTold { shard: u16, after: u64, to: Vec<Arc<str>> },
    /// Another node, by its session, is to tell who is in all channels there.
    AskPresence { session: Arc<str> },
    /// A subscriber of a channel types.
    Typing { channel: Channel, user: User },
    /// All other nodes are to answer.
    Survey { number: u64, attempt: u32, survey: Survey },
    /// A part of this node's answer to the survey with this number of the node with the session `to`.
    Findings { to: Arc<str>, number: u64, attempt: u32, part: u32, parts: u32, findings: Box<Findings> },
}

/// The version of announcements (`Store::bus_version`) that has brought surveys and the events of backends.
pub(crate) const SURVEY_VERSION: i32 = 2;

impl Announcement {
    /// Whether nothing but this announcement tells what it says.
    pub fn is_live(&self) -> bool {
        matches!(self, Announcement::Live { .. })
    }

    /// The version of announcements that has brought it.
    fn version(&self) -> i32 {
        match self {
            Announcement::Survey { .. }
            | Announcement::Findings { .. }
            | Announcement::User { event: UserEvent::Data { .. } | UserEvent::Renamed { .. }, .. } => SURVEY_VERSION,
            _ => 1,
        }
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
    /// `live_limit_bytes`: the longest `live:` message that the bus can carry, in bytes, as a JSON string.
    pub fn new(bus: Bus, live_limit_bytes: usize) -> BusState {
        BusState { bus: AtomicU8::new(bus as u8), live_limit_bytes, version: AtomicI32::new(1), ..BusState::default() }
    }

    /// Checks the length of a `live:` message, or of a backend's event, if there may be other nodes.
    pub fn check_length(&self, data: &str) -> Result<(), ProtocolError> {
        let limit = self.live_limit_bytes;
        let length = || serde_json::to_string(data).map_or(0, |json| json.len());
        if self.get() == Bus::Alone || length() <= limit {
            return Ok(());
        }
        let text = format!(
            "a message for a live: channel may have at most {limit} bytes as a JSON string, because it goes to other \
             nodes"
        );
        Err(ProtocolError::new(protocol::LIMIT_EXCEEDED, text))
    }

    /// The version of announcements that all nodes understand (`Store::bus_version`).
    pub fn set_version(&self, version: i32) {
        self.version.store(version, Ordering::Relaxed);
    }

    pub(crate) fn version(&self) -> i32 {
        self.version.load(Ordering::Relaxed)
    }

    /// Whether all other nodes understand this.
    pub(crate) fn may_announce(&self, announcement: &Announcement) -> bool {
        announcement.version() <= self.version().max(1)
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

    /// Whether so much waits to be sent that what can wait should.
    pub(crate) fn set_busy(&self, is_busy: bool) {
        self.is_busy.store(is_busy, Ordering::Relaxed);
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.is_busy.load(Ordering::Relaxed)
    }

    pub(crate) fn set_has_presence(&self) {
        if !self.has_presence() {
            self.has_presence.store(true, Ordering::Relaxed);
        }
    }

    pub(crate) fn has_presence(&self) -> bool {
        self.has_presence.load(Ordering::Relaxed)
    }

    /// Whether what other nodes commit is probably announced here.
    pub fn is_heard(&self) -> bool {
        self.has_peers() && self.get() == Bus::Connected
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
