//! The two WebSocket protocols: decoding what clients send, encoding what they receive.
//!
//! The rest of the crate uses the types of these modules and knows nothing about their bytes. Nothing here depends on
//! the rest of the crate except [`websocket`](crate::websocket), which provides the frames.

pub mod centrifuge;
mod channels;
pub mod data;
mod entry;
pub mod plain;

pub(crate) use channels::room_of_live;
pub use channels::{LIVE_NAME_LIMIT_BYTES, check_live_name};
pub use entry::{Entry, Frames, LiveEntry};

use serde::Serialize;

/// How publications are encoded for a subscriber. One publication is one WebSocket frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The plain protocol: a JSON object in a text frame.
    Plain = 0,
    /// The plain protocol with `raw`: the data of a `live:` message, unchanged, in a text frame.
    Raw = 1,
    /// The Centrifugo protocol in JSON: a push in a text frame.
    Json = 2,
    /// The Centrifugo protocol in Protobuf: a push in a binary frame.
    Protobuf = 3,
}

impl Format {
    /// The number of formats.
    pub const COUNT: usize = 4;
}

/// An error as clients of both protocols receive it. The codes are those of the Centrifugo protocol.
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

// The error codes of the Centrifugo protocol.
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

/// Why the server ends a subscription: the user left the room or was removed, or the room was deleted. SDKs do not
/// subscribe again.
pub const UNSUBSCRIBED: (u16, &str) = (2000, "server unsubscribe");

/// Whether the same request may succeed later.
pub const fn is_temporary(code: u16) -> bool {
    matches!(code, INTERNAL | TOO_MANY_REQUESTS)
}

/// Appends a value as JSON, on one line.
fn write_json(out: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    let written = serde_json::to_writer(out, value);
    debug_assert!(written.is_ok(), "serialization to memory fails only for maps without string keys");
}

/// Why the server closes a connection: the code and reason of the close frame.
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
    /// The server is stopping. For connections that do not use the Centrifugo protocol.
    GOING_AWAY = 1001, "going away";
    /// A plain connection received a binary frame.
    UNSUPPORTED_DATA = 1003, "unsupported data";
    /// The server is stopping. For connections that use the Centrifugo protocol.
    SHUTDOWN = 3001, "shutdown";
    /// A bug in the server.
    INTERNAL_ERROR = 3004, "internal server error";
    /// The token has expired.
    EXPIRED = 3005, "connection expired";
    /// The client reads too slowly.
    SLOW = 3008, "slow";
    /// The server cannot continue from the client's position without a gap.
    INSUFFICIENT_STATE = 3010, "insufficient state";
    /// The server cannot take the connection at present.
    FORCE_RECONNECT = 3011, "force reconnect";
    /// Nothing arrived after a ping.
    NO_PONG = 3012, "no pong";
    /// The client exceeded a rate limit too often.
    TOO_MANY_REQUESTS = 3013, "too many requests";
    /// The token is missing or invalid.
    INVALID_TOKEN = 3500, "invalid token";
    /// The client sent something that is malformed, or not allowed in its state.
    BAD_REQUEST = 3501, "bad request";
    /// The user signed out or was removed from the room, or the room was deleted.
    FORCE_DISCONNECT = 3503, "force disconnect";
    /// The user has too many connections.
    CONNECTION_LIMIT = 3504, "connection limit";
    /// A text frame on a Protobuf connection, or a binary frame on a JSON connection.
    INAPPROPRIATE_PROTOCOL = 3506, "inappropriate protocol";
    /// Too many of the client's commands were refused.
    TOO_MANY_ERRORS = 3509, "too many errors";
    /// No `connect` command arrived in time.
    HANDSHAKE_TIMEOUT = 4000, "handshake timeout";
}
