//! Users, rooms, members and the log of messages, kept in SQLite or PostgreSQL behind one trait, [`Store`].
//!
//! The database is the source of truth. It assigns offsets, detects duplicates and decides who may do what, in the
//! transaction that stores the change. Nothing above this crate predicts its answers.
//!
//! Each module uses only modules of the layers below its own, or modules to its right in the same layer:
//!
//! | layer | modules |
//! | --- | --- |
//! | entry points | `tools`, `migrate`, `open`, `inspect` |
//! | the trait on either database | `database`, `allowance`, `turns` |
//! | the two databases | `sqlite`, `postgres` |
//! | queries on both | `admission`, `invites`, `rooms`, `rights`, `search`, `markers`, `positions`, `history` |
//! | queries about users | `users`, `api_keys` |
//! | what these need | `connection`, `generation`, `migrations`, `tables`, `sum`, `check` |
//! | the interface | `store`, `unwritten`, `commits`, `options`, `objects`, `data_folder`, `incarnation` |
//! | what everything needs | `task`, `error` |
//!
//! With the feature `testing` there are two more, beside `database`: `memory`, the store that the simulator runs on,
//! and `testing`, a PostgreSQL server for tests.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod admission;
mod allowance;
mod api_keys;
mod check;
mod commits;
#[macro_use]
mod connection;
mod data_folder;
mod database;
mod direct;
mod error;
mod generation;
mod history;
mod hooks;
mod incarnation;
pub mod inspect;
mod invites;
mod markers;
#[cfg(feature = "testing")]
pub mod memory;
mod migrate;
mod migrations;
mod names;
mod nodes;
mod objects;
mod open;
mod options;
mod outbox;
mod positions;
mod postgres;
mod rights;
mod rooms;
mod search;
mod sqlite;
mod store;
mod sum;
mod tables;
mod task;
#[cfg(feature = "testing")]
pub mod testing;
pub mod tools;
mod turns;
mod unwritten;
mod users;

pub use allowance::WriteRates;
pub use commits::{Commits, Following, News};
pub use data_folder::DataFolder;
pub use error::{
    ApiKeyError, AppendError, CreateUserError, InviteEnd, InvitedUserError, OpenError, RenameError, RoomError,
    StoreError,
};
pub use objects::{
    Account, Addition, ApiKey, AuditEntry, Ban, BanPage, Batch, Block, BlockChange, Cursor, DeletedHook, DirectRoom,
    Enrolment, Hook, HookTarget, Invite, InvitedUser, InvitingRoom, Join, Login, MemberEntry, MemberPage, Message,
    MessagePage, Move, NewApiKey, NewHook, NewInvite, NewRoom, NewUser, NodeLoad, OpenInvite, OtherNode, OutboxRow,
    OutboxState, Position, Progress, Reaction, Registration, Removal, Room, RoomAuditEntry, RoomAuditPage, RoomChange,
    RoomChanged, RoomKind, RoomSettings, Scopes, SettingsChange, UnreadRoom, UsersBy, WhoMay,
};
pub use open::open;
pub use options::{DatabaseUrl, OpenOptions};
pub use postgres::{BusReceiver, BusSender, Lead, OutboxListener, PostgresBus};
pub use store::{SharedStore, Store};
pub use unwritten::UnwrittenMarkers;
pub use uproar_model::{Admission, JoinError, PageRequest, Revocation, Role};
