//! The one trait through which the core acts. Drivers implement it over sockets and queues, the simulator over virtual
//! ones. Its methods never block and never fail: each message has a place reserved for it.

use crate::ids::Slot;
use crate::message::{Endpoint, Message};

/// A moment in time. The core has no clock: it is given the time with every event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds of a clock that never goes back, from an arbitrary start.
    pub ms: u64,
    /// Milliseconds since the Unix epoch.
    pub unix_ms: u64,
}

/// What the code passed to [`Host::log_first`] belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// An upgrade, with this HTTP status.
    Upgrade,
    /// A message, with this error code.
    Message,
    /// A connection that was closed with this code.
    Connection,
}

/// What the core does to the world around it.
pub trait Host {
    /// This connection has bytes to write (`Shard::outgoing`), or is read again (`Shard::wants_input`). May be called
    /// any number of times in a turn.
    fn wake(&mut self, slot: Slot);

    /// Closes this connection's socket immediately: `shutdown(2)` in both directions. When the last operation on it has
    /// completed, the driver closes it and calls `Shard::freed`. Called at most once per connection.
    fn abort(&mut self, slot: Slot);

    /// Shuts down the sending half of this connection's socket: everything has been written. The connection is read
    /// until its client closes the other half. Called at most once per connection.
    fn half_close(&mut self, slot: Slot);

    /// Something was refused or closed for a reason that has not occurred before, which is worth one line in a log. The
    /// metrics count how often it occurs after that.
    fn log_first(&mut self, what: Refused, code: u16);

    /// How many more messages the queue to this endpoint takes now.
    fn free_places(&self, to: Endpoint) -> usize;

    /// Puts a message into the queue to this endpoint. The core has made sure that there is a place.
    fn send(&mut self, to: Endpoint, message: Message);
}
