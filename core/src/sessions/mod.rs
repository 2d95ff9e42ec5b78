//! Sessions: what a shard does for its clients, from the upgrade to the close. The methods here are `Shard`'s, because
//! they work on connections and feeds together. Homes are reached by messages only.
//!
//! | file | holds |
//! | --- | --- |
//! | `handshake.rs` | from the upgrade request to the 101 |
//! | `connect.rs` | the first command of the Centrifugo protocol, with the token |
//! | `joining.rs` | into a channel: membership, feed, position |
//! | `commands.rs` | the commands of the Centrifugo protocol: order, dispatch, `subscribe` |
//! | `command.rs` | what the handlers of commands share |
//! | `calls.rs` | commands that wait for an answer: history, read markers, rooms, presence, tokens |
//! | `publishing.rs` | publishes of both protocols, and their answers |
//! | `surveys.rs` | what a backend asks about clients, and has done with them |
//! | `closing.rs` | the ways in which a connection or a subscription ends |
//! | `suspension.rs` | a shard that serves nobody, because its lease has expired |
//! | `timer.rs` | everything about a connection that only time changes |

mod calls;
mod closing;
mod command;
mod commands;
mod connect;
mod handshake;
mod joining;
mod publishing;
mod surveys;
mod suspension;
mod timer;

pub(crate) use suspension::{LEASE_CHECK_INTERVAL_MS, Suspension};
