//! The behaviour of a shard as a plain state machine: no socket, no clock, no thread, no async. Drivers and the
//! simulator feed it events and carry out what it asks through [`Host`].
//!
//! | file | holds |
//! | --- | --- |
//! | `shard.rs` | the events and the turn; who owns what |
//! | `connection.rs` | one connection: its phase, queue and reminders |
//! | `handshake.rs` | from the upgrade request to the 101 |
//! | `connect.rs` | a client of the Centrifugo protocol says who it is |
//! | `entering.rs` | into a channel: membership, feed, position |
//! | `session.rs` | an open connection: its subscriptions, its publishes |
//! | `commands.rs` | what a client of the Centrifugo protocol asks, and is answered |
//! | `calls.rs` | commands that wait for an answer from elsewhere: history, read markers, rooms, tokens |
//! | `presence.rs` | who is in a channel; what subscribers are told and nobody keeps |
//! | `feed.rs` | a channel on one shard: position, ring, subscribers; fan-out and catching up |
//! | `home.rs` | a channel's home: learning what is committed, feeding shards |
//! | `lane.rs` | batches on their way into the database |
//! | `figures.rs` | what a shard counts |
//! | `mesh.rs`, `host.rs` | the words between endpoints; what a driver does for the core |

pub mod limits;
pub mod protocol;
pub mod websocket;

mod calls;
mod commands;
mod connect;
mod connection;
mod entering;
mod feed;
pub mod figures;
mod handshake;
mod home;
pub mod host;
pub mod lane;
pub mod message;
pub mod mutation;
mod outbound;
pub mod presence;
mod rate;
pub mod run;
mod session;
mod shard;
mod timers;

pub use host::{Host, Now, Refused};
pub use message::{Endpoint, Message};
pub use outbound::Slice;
pub use shard::{AllowOrigin, Shard, ShardConfig, Verify, home_shard, lane_calls_limit, placing};
