//! The HTTP service: accounts, rooms, history, health. It runs on its own tokio threads, beside the shards.
//!
//! It reaches the running chat through one trait, [`Chat`], and the database through [`uproar_store::Store`]. It knows
//! nothing of shards, WebSocket frames or rings.
//!
//! The modules form layers. Imports only point downwards, and within a layer they never form a cycle. At the bottom are
//! the modules that know nothing of requests in progress: `addresses`, `assets`, `attempts`, `bodies`, `chat`,
//! `errors`, `exchanges`, `issuers`, `objects`, `origins`, `passwords`, `private_file`, `rate`, `readiness`,
//! `security_log`, `settings`, `signatures`, `slots`, `socket`, `stream`, `tokens`, `traces` and `validation`. Above
//! them, `app` holds what all handlers share. `input`, `cookie` and `authentication` turn a request into checked
//! values. Next come the handlers: `accounts`, `api`, `hooks`, `invites`, `messages`, `oidc`, `operations`, `page`,
//! `redirect`, `rooms` and `upgrade`. At the top, `service` routes requests to the handlers and serves connections.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod accounts;
pub mod addresses;
pub mod api;
mod app;
pub mod assets;
mod attempts;
mod authentication;
mod bodies;
mod chat;
mod cookie;
mod direct;
mod email;
mod errors;
mod exchanges;
mod fields;
mod hooks;
mod input;
pub mod invites;
mod issuers;
mod messages;
mod moderation;
mod objects;
mod oidc;
mod operations;
mod origins;
mod page;
pub mod passwords;
mod private_file;
mod rate;
mod readiness;
mod redirect;
mod rooms;
mod security_log;
mod service;
mod settings;
mod signatures;
mod slots;
mod socket;
mod stream;
mod tokens;
mod traces;
mod upgrade;
mod validation;

/// Whether a line of the log with this target is about security, and therefore kept longer than others when the log
/// can't be written fast enough.
pub fn is_about_security(target: &str) -> bool {
    [attempts::TARGET, security_log::TARGET].contains(&target)
}

pub use chat::{
    Adopted, Channel, Chat, ChatCounts, ChatError, CloseCode, Disconnect, Expiry, PresenceStats, PresentClient,
    PublishError, PublishRequest, SharedChat,
};
pub use errors::{ApiError, Code};
pub use fields::FieldError;
pub use issuers::{
    Fetch, FetchRequest, Fetched, HmacKeyTooShort, Issuers, KeyLocation, Provider, SharedFetch, keep_keys,
};
pub use oidc::CALLBACK_PATH;
pub use operations::OPENAPI;
pub use origins::{EmbedOrigins, OriginError, Origins};
pub use passwords::PasswordCost;
pub use private_file::{PrivateFileError, read_secret};
pub use service::Service;
pub use settings::{OidcSettings, Settings, SignUp};
pub use slots::Slot;
pub use tokens::{KeyError, Term, Tokens};
pub use traces::{Call, CallEnd, Caller, SharedTraces, SpanContext, Traces};
