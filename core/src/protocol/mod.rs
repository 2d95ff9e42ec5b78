//! Bytes ⇄ commands and events. The core sees the types of this module; only what is below it knows the wire.

pub mod centrifuge;
pub mod data;
mod entry;
pub mod plain;

pub use entry::{Entry, Frames, LiveEntry};

use serde::Serialize;

/// How publications are written for a subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a text frame.
    Plain = 0,
    /// A `live:` message verbatim, a text frame each.
    Raw = 1,
    /// A push of the Centrifugo protocol, a text frame each.
    Json = 2,
    /// The same, a binary frame each.
    Protobuf = 3,
}

impl Format {
    /// How many formats there are.
    pub const COUNT: usize = 4;
}

/// What a refused publish is told. The codes are those of the Centrifugo protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProtocolError {
    pub code: u16,
    pub message: String,
}

impl ProtocolError {
    pub fn new(code: u16, message: impl Into<String>) -> ProtocolError {
        ProtocolError { code, message: message.into() }
    }
}

pub const INTERNAL: u16 = 100;
pub const UNKNOWN_CHANNEL: u16 = 102;
pub const PERMISSION_DENIED: u16 = 103;
pub const METHOD_NOT_FOUND: u16 = 104;
pub const ALREADY_SUBSCRIBED: u16 = 105;
pub const LIMIT_EXCEEDED: u16 = 106;
pub const BAD_REQUEST: u16 = 107;
pub const NOT_AVAILABLE: u16 = 108;
pub const TOKEN_EXPIRED: u16 = 109;
pub const TOO_MANY_REQUESTS: u16 = 111;
pub const UNRECOVERABLE_POSITION: u16 = 112;

/// With what a subscription is ended: left, removed, or the room was deleted. The SDK stays out.
pub const UNSUBSCRIBED: (u16, &str) = (2000, "server unsubscribe");

/// Whether the same may succeed later: internal server error, too many requests, concurrent pagination.
pub const fn is_temporary(code: u16) -> bool {
    matches!(code, INTERNAL | TOO_MANY_REQUESTS | 113)
}

/// Appends JSON, on one line.
fn write_json(out: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    let written = serde_json::to_writer(out, value);
    debug_assert!(written.is_ok(), "what is written here has string keys and goes to memory");
}

/// With what a connection is ended: the close frame's code and reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseReason {
    pub code: u16,
    pub reason: &'static str,
}

macro_rules! close_reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $code:literal, $reason:literal;)+) => {
        impl CloseReason {
            $($(#[doc = $doc])+ pub const $name: CloseReason = CloseReason { code: $code, reason: $reason };)+
        }
    };
}

close_reasons! {
    /// The server stops, on a plain connection.
    GOING_AWAY = 1001, "going away";
    /// Binary frames where only text is spoken.
    UNSUPPORTED_DATA = 1003, "unsupported data";
    /// The server stops.
    SHUTDOWN = 3001, "shutdown";
    /// The server did something that it should not have.
    INTERNAL_ERROR = 3004, "internal server error";
    /// The token's time is over.
    EXPIRED = 3005, "connection expired";
    /// It reads more slowly than it is written to.
    SLOW = 3008, "slow";
    /// The server can't go on from where this client is without a gap.
    INSUFFICIENT_STATE = 3010, "insufficient state";
    /// The server can't take this connection now.
    FORCE_RECONNECT = 3011, "force reconnect";
    /// Nothing was heard after a ping.
    NO_PONG = 3012, "no pong";
    /// It goes on asking for more than it is granted.
    TOO_MANY_REQUESTS = 3013, "too many requests";
    /// No token, or one that is no good here.
    INVALID_TOKEN = 3500, "invalid token";
    /// What it sent can't be read, or has no place there.
    BAD_REQUEST = 3501, "bad request";
    /// Signed out, removed from the room, or the room was deleted.
    FORCE_DISCONNECT = 3503, "force disconnect";
    /// The user has too many connections.
    CONNECTION_LIMIT = 3504, "connection limit";
    /// A text frame where binary ones are spoken, or the other way round.
    INAPPROPRIATE_PROTOCOL = 3506, "inappropriate protocol";
    /// It may not connect.
    PERMISSION_DENIED = 3507, "permission denied";
    /// It goes on asking for what can't be granted.
    TOO_MANY_ERRORS = 3509, "too many errors";
    /// It did not say who it is in time.
    HANDSHAKE_TIMEOUT = 4000, "handshake timeout";
}
