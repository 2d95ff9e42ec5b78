//! The one trait through which the core acts. A driver implements it over sockets and queues, the simulator over
//! virtual ones. Nothing here blocks, and nothing here fails: whatever needs a place has one reserved.

use super::message::{Endpoint, Message};

/// A moment, handed to the core with every event. The core has no clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds of a clock that never goes back, from any start.
    pub ms: u64,
    /// Milliseconds since the Unix epoch.
    pub unix_ms: u64,
}

/// What a code that is noted belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// An upgrade, with this HTTP status.
    Upgrade,
    /// A message, with this error code.
    Message,
    /// A connection that goes on no longer, with this close code.
    Connection,
}

/// What the core does to the world around it.
pub trait Host {
    /// There is something to do for this connection: bytes to write (`Shard::outgoing`) or its reading goes on
    /// (`Shard::wants_input`). May be called any number of times in a turn.
    fn wake(&mut self, slot: u32);

    /// End this connection's socket now: `shutdown(2)` both ways. When its last operation has come back the driver
    /// closes it and calls `Shard::vacated`. Called at most once a connection.
    fn cut(&mut self, slot: u32);

    /// Something was refused or ended for a reason that has not occurred before: worth one line in a log. How often it
    /// occurs from then on is in the figures.
    fn note_first(&mut self, what: Refused, code: u16);

    /// How many more messages the queue to this endpoint takes at this moment.
    fn mesh_places(&self, to: Endpoint) -> usize;

    /// Puts a message into the queue to this endpoint. The core has made sure that there is a place.
    fn mesh(&mut self, to: Endpoint, message: Message);
}
