//! What a chat server does, as a state machine without I/O: no socket, no clock, no thread, no database. Drivers and
//! the simulator feed it events and carry out what it asks through [`Host`].
//!
//! A [`Shard`] has three owners of state: connections, feeds and homes.
//!
//! | folder or file | holds |
//! | --- | --- |
//! | `shard.rs` | the events, the messages and the turn; gives each to its owner |
//! | `sessions/` | what clients ask for, from the upgrade to the close |
//! | `feeds/` | channels that this shard receives: subscribers, fan-out, catching up |
//! | `connections/` | the table of connections and the state of each |
//! | `homes/` | channels that hash to this shard: learning what is committed, showing it, feeding shards |
//! | `bus/` | what the nodes of a cluster tell each other, and what a shard must know about it |
//! | `context.rs` | what the owners share: configuration, time, counters, the messenger |
//! | `log/` | segments of publications, and the ring of the latest ones |
//! | `lane.rs` | batches on their way into the database |
//! | `messenger.rs` | credits, the way to other endpoints and back to the shard itself |
//! | `host.rs` | what a driver does for the core |
//! | `message.rs` | the messages of the mesh |
//! | `protocol/`, `websocket/` | bytes to commands, publications to bytes |
//! | `config.rs`, `limits.rs` | what a shard is made with; every limit |
//! | `buffer.rs`, `ids.rs`, `metrics.rs` | outbound bytes; id types; what a shard counts |
//! | `survey.rs` | what a backend asks all shards of all nodes |
//! | `mutation.rs` | known mistakes, for the simulator to catch |
//!
//! Imports go downwards: `shard` and `sessions` know everything, `feeds` knows `connections`, `homes` knows neither.

#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod buffer;
mod bus;
mod config;
mod connections;
mod context;
mod feeds;
mod homes;
pub mod host;
pub mod ids;
pub mod lane;
pub mod limits;
mod log;
pub mod message;
mod messenger;
pub mod metrics;
pub mod mutation;
pub mod protocol;
mod sessions;
mod shard;
pub mod survey;
pub mod websocket;

pub use buffer::Slice;
pub use bus::{Announcement, Bus, BusConfig, BusMetrics, BusNode, BusState, NodePresence, Notice, PresenceNews};
pub use config::{AllowOrigin, ShardConfig, Verify};
pub use host::{Host, Now, Refused};
pub use ids::{Serial, Slot};
pub use log::Segment;
pub use message::{Endpoint, Message};
pub use messenger::{Placement, lane_calls_limit};
pub use shard::Shard;
