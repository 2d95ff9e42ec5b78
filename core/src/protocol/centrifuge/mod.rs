//! The Centrifugo client protocol, version 2, as its SDKs speak it. Source: `client.proto` of `centrifugal/protocol`, and
//! what the SDKs send and require. Both encodings say the same; the core sees only the types of this module.

pub mod json;
pub mod methods;
mod proto;
pub mod protobuf;
#[cfg(test)]
mod tests;

use crate::protocol::Entry;
use std::borrow::Cow;
use uproar_model::{Offset, User};

/// How commands and replies are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Text frames; one message a line.
    Json,
    /// Binary frames; each message behind its length, a varint.
    Protobuf,
}

// ── from the client ─────────────────────────────────────────────────────────────────────────────────────────────────

/// One thing that a client asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command<'a> {
    /// Above 0 for whatever is answered. Repeated ones are not noticed.
    pub id: u32,
    pub request: Request<'a>,
}

/// What is asked. Of several in one command the first in the order of `client.proto` counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// The answer to a ping: neither an id nor `send`.
    Pong,
    Connect(Connect<'a>),
    Subscribe(Subscribe<'a>),
    Unsubscribe {
        channel: Cow<'a, str>,
    },
    Publish {
        channel: Cow<'a, str>,
        /// JSON, not checked yet; empty when absent.
        data: Cow<'a, [u8]>,
        /// A kind of publish that is not offered.
        is_special: bool,
    },
    Presence {
        channel: Cow<'a, str>,
    },
    PresenceStats {
        channel: Cow<'a, str>,
    },
    History(History<'a>),
    Ping,
    /// Never answered, even with an id.
    Send {
        data: Cow<'a, [u8]>,
    },
    Rpc {
        method: Cow<'a, str>,
        data: Cow<'a, [u8]>,
    },
    Refresh {
        token: Cow<'a, str>,
    },
    SubRefresh,
    /// An id, and nothing that is known.
    Unknown,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connect<'a> {
    /// Empty when absent.
    pub token: Cow<'a, str>,
    /// Of `headers`, whatever the case of its name.
    pub authorization: Option<Cow<'a, str>>,
    /// Of the SDK. Empty when absent.
    pub name: Cow<'a, str>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subscribe<'a> {
    pub channel: Cow<'a, str>,
    pub recover: bool,
    pub offset: Offset,
    /// Empty when absent.
    pub epoch: Cow<'a, str>,
    pub join_leave: bool,
    pub flag: i64,
    /// It asks for publications with certain tags only.
    pub has_filter: bool,
    /// It asks for something else than a stream of publications.
    pub is_special: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History<'a> {
    pub channel: Cow<'a, str>,
    /// 0: only the position; negative: as many as one answer holds.
    pub limit: i32,
    pub since: Option<Since<'a>>,
    pub reverse: bool,
}

/// A position from which to go on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Since<'a> {
    pub offset: Offset,
    /// Empty when absent.
    pub epoch: Cow<'a, str>,
}

/// A frame, or a command in it, that can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Takes the next command off the front of a frame. None: there are no more, and in an empty frame, which no client may
/// send, there are none at all. After an error nothing in the frame can be relied upon. What is not UTF-8 is malformed.
pub fn next_command<'a>(encoding: Encoding, frame: &mut &'a [u8]) -> Option<Result<Command<'a>, Malformed>> {
    match encoding {
        Encoding::Json => json::next_command(frame),
        Encoding::Protobuf => protobuf::next_command(frame),
    }
}

/// The header `Authorization` among those that a client sends in `connect`.
fn authorization<'a>(mut headers: impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)>) -> Option<Cow<'a, str>> {
    let (_, value) = headers.find(|(name, value)| name.eq_ignore_ascii_case("authorization") && !value.is_empty())?;
    Some(value)
}

/// Offsets are JSON numbers, which are exact below 2^53 only; no room has more.
fn check_offset(offset: Offset) -> Result<Offset, Malformed> {
    if offset < 1 << 53 { Ok(offset) } else { Err(Malformed) }
}

// ── to the client ───────────────────────────────────────────────────────────────────────────────────────────────────

/// Who is somewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientInfo {
    pub user: User,
    /// Empty in publications: no history knows it.
    pub client: String,
}

/// An answer, under its command's id.
#[derive(Debug)]
pub enum Reply<'a> {
    Error {
        code: u16,
        message: &'a str,
    },
    Connect {
        client: &'a str,
        version: &'a str,
        /// Seconds until the token expires, at least 1.
        ttl: u32,
        /// Seconds between pings; none where WebSocket's own pings are used.
        ping: Option<u32>,
        /// The channel that the server subscribes the client to.
        user_channel: &'a str,
    },
    /// A `live:` channel.
    SubscribeLive,
    SubscribeRoom {
        epoch: &'a str,
        offset: Offset,
        /// Whether recovery was asked for, and if so whether it goes on from the position asked for.
        recovered: Option<bool>,
    },
    Unsubscribe,
    /// Of a room, or 0. Protobuf has no place for it.
    Publish {
        offset: Offset,
    },
    Presence {
        clients: &'a [ClientInfo],
    },
    PresenceStats {
        num_clients: u32,
        num_users: u32,
    },
    History {
        epoch: &'a str,
        offset: Offset,
        publications: EncodedPublications,
    },
    Ping,
    Rpc {
        /// JSON.
        data: &'a [u8],
    },
    Refresh {
        client: &'a str,
        version: &'a str,
        ttl: u32,
    },
}

/// What a client is told without having asked.
#[derive(Debug)]
pub enum Push<'a> {
    /// A stored publication or a message of a `live:` channel.
    Publication(&'a Entry),
    /// A publication that no history knows: JSON.
    Ephemeral {
        data: &'a [u8],
    },
    Join(&'a ClientInfo),
    Leave(&'a ClientInfo),
    Unsubscribe {
        code: u16,
        reason: &'a str,
    },
}

/// Some publications, encoded for a reply.
#[derive(Debug)]
pub enum EncodedPublications {
    Json(json::Publications),
    Protobuf(protobuf::Publications),
}

impl EncodedPublications {
    /// Encodes publications from the first on, at least one, until they have `limit_bytes`.
    pub fn encode<'a>(
        encoding: Encoding,
        entries: impl IntoIterator<Item = &'a Entry>,
        limit_bytes: usize,
    ) -> EncodedPublications {
        match encoding {
            Encoding::Json => EncodedPublications::Json(json::Publications::encode(entries, limit_bytes)),
            Encoding::Protobuf => EncodedPublications::Protobuf(protobuf::Publications::encode(entries, limit_bytes)),
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        match self {
            EncodedPublications::Json(publications) => publications.count(),
            EncodedPublications::Protobuf(publications) => publications.count(),
        }
    }
}

/// Appends a reply to a frame's payload.
pub fn push_reply(encoding: Encoding, out: &mut Vec<u8>, id: u32, reply: Reply<'_>) {
    match encoding {
        Encoding::Json => json::push_reply(out, id, reply),
        Encoding::Protobuf => protobuf::push_reply(out, id, reply),
    }
}

/// Appends a push to a frame's payload. `channel` as clients name it.
pub fn push_push(encoding: Encoding, out: &mut Vec<u8>, channel: &str, push: &Push<'_>) {
    match encoding {
        Encoding::Json => json::push_push(out, channel, push),
        Encoding::Protobuf => protobuf::push_push(out, channel, push),
    }
}

/// Appends a ping to a frame's payload.
pub fn push_ping(encoding: Encoding, out: &mut Vec<u8>) {
    match encoding {
        Encoding::Json if out.is_empty() => out.extend_from_slice(b"{}"),
        Encoding::Json => out.extend_from_slice(b"\n{}"),
        Encoding::Protobuf => out.push(0),
    }
}
