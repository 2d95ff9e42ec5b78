//! The server API: what the backend of an embedder asks of the server, in the forms that the server libraries of
//! Centrifugo send.
//!
//! `envelope` has the routes, and turns requests into commands and answers into responses. It knows no method. `caller`
//! runs a command: it looks for the method, and checks the key's scopes and rate. The methods are in `publishing`,
//! `connections`, `rooms`, `users` and `server`. They read their parameters with `params` and fail with the errors of
//! `error`. `keys` finds the key of a request, `audit` writes down what was done with it, and `shares` bounds what a
//! key has under way. `outbox` executes commands that did not come by HTTP.

mod audit;
mod caller;
mod connections;
mod envelope;
mod error;
mod keys;
mod outbox;
mod params;
mod publishing;
mod rooms;
mod server;
mod shares;
mod users;

pub(crate) use audit::{Audit, finish_audit, keep_audit};
pub(crate) use envelope::routes;
pub(crate) use keys::Keys;
pub use keys::{FILE_KEY_USER, FileKey, FileKeyError, hash_of};
pub(crate) use outbox::execute_row;
pub use outbox::{RowAnswer, RowProgress, channel_of};
pub(crate) use shares::Shares;
