//! The client protocol of Centrifugo, version 2. The sources are `client.proto` of `centrifugal/protocol`, and what the
//! SDKs send and require. Commands and replies have the same types in both encodings.

pub mod json;
pub mod methods;
mod proto;
pub mod protobuf;
#[cfg(test)]
mod tests;

use crate::protocol::Entry;
use crate::websocket::frame;
use bytes::Bytes;
use std::borrow::Cow;
use std::sync::OnceLock;
use uproar_model::{Offset, User};

/// How commands, replies and pushes are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Text frames with one message per line.
    Json,
    /// Binary frames; each message is preceded by its length as a varint.
    Protobuf,
}

impl Encoding {
    /// The encoding that a WebSocket subprotocol names.
    pub fn from_subprotocol(name: &str) -> Option<Encoding> {
        match name {
            "centrifuge-json" => Some(Encoding::Json),
            "centrifuge-protobuf" => Some(Encoding::Protobuf),
            _ => None,
        }
    }
}

// ── from the client ─────────────────────────────────────────────────────────────────────────────────────────────────

/// A message from a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command<'a> {
    /// Chosen by the client, and repeated in the reply. 0 if no reply is expected. Duplicates are not detected.
    pub id: u32,
    pub request: Request<'a>,
}

/// The request in a command. If a command has several, the first one in the order of `client.proto` counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// The answer to a ping: a command with neither an id nor `send`.
    Pong,
    Connect(Connect<'a>),
    Subscribe(Subscribe<'a>),
    Unsubscribe {
        channel: Cow<'a, str>,
    },
    Publish {
        channel: Cow<'a, str>,
        /// JSON that has not been validated; empty if absent.
        data: Cow<'a, [u8]>,
        /// Whether it has a `type`: such publishes are not supported.
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
    /// Has no reply, even with an id.
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
    /// A command with an id but without a known request.
    Unknown,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connect<'a> {
    /// Empty if absent.
    pub token: Cow<'a, str>,
    /// The header `Authorization` in `headers`, in any case.
    pub authorization: Option<Cow<'a, str>>,
    /// The SDK's name. Empty if absent.
    pub name: Cow<'a, str>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subscribe<'a> {
    pub channel: Cow<'a, str>,
    pub recover: bool,
    pub offset: Offset,
    /// Empty if absent.
    pub epoch: Cow<'a, str>,
    pub join_leave: bool,
    pub flag: i64,
    /// Whether it asks for publications with certain tags only.
    pub has_filter: bool,
    /// Whether it has a `type`: it asks for something other than a stream of publications.
    pub is_special: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History<'a> {
    pub channel: Cow<'a, str>,
    /// 0 asks for the room's position only, a negative number for as many publications as fit into one reply.
    pub limit: i32,
    pub since: Option<StreamPosition<'a>>,
    pub reverse: bool,
}

/// A position in a room's history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamPosition<'a> {
    pub offset: Offset,
    /// Empty if absent.
    pub epoch: Cow<'a, str>,
}

/// A frame, or a command in it, could not be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Decodes the next command of a frame and removes it from the front. Returns `None` at the end of the frame. An empty
/// frame, which clients must not send, contains no command. After an error the rest of the frame is meaningless.
pub fn next_command<'a>(encoding: Encoding, frame: &mut &'a [u8]) -> Option<Result<Command<'a>, Malformed>> {
    match encoding {
        Encoding::Json => json::next_command(frame),
        Encoding::Protobuf => protobuf::next_command(frame),
    }
}

/// Finds the header `Authorization` (in any case, and not empty) in the headers of `connect`.
fn authorization<'a>(mut headers: impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)>) -> Option<Cow<'a, str>> {
    let (_, value) = headers.find(|(name, value)| name.eq_ignore_ascii_case("authorization") && !value.is_empty())?;
    Some(value)
}

/// Rejects offsets from 2^53 on: JSON numbers are not exact there, and no room has that many publications.
fn check_offset(offset: Offset) -> Result<Offset, Malformed> {
    if offset < 1 << 53 { Ok(offset) } else { Err(Malformed) }
}

// ── to the client ───────────────────────────────────────────────────────────────────────────────────────────────────

/// A connection, as other clients see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientInfo {
    pub user: User,
    /// The id of the connection. Empty in publications, because the log does not record it.
    pub client: String,
}

/// The clients in a channel, encoded once for everybody who asks for them.
#[derive(Debug, Default)]
pub struct PresenceList {
    clients: Vec<ClientInfo>,
    /// By [`Encoding`]: what follows the id in the reply.
    encoded: [OnceLock<Vec<u8>>; 2],
}

impl PresenceList {
    pub fn new(clients: Vec<ClientInfo>) -> PresenceList {
        PresenceList { clients, encoded: Default::default() }
    }

    fn encoded(&self, encoding: Encoding) -> &[u8] {
        let cell = &self.encoded[encoding as usize];
        let encode = || match encoding {
            Encoding::Json => json::encode_presence(&self.clients),
            Encoding::Protobuf => protobuf::encode_presence(&self.clients),
        };
        if cell.get().is_none() {
            // `get_or_init` alone would make another shard wait that needs it at the same moment.
            let _ = cell.set(encode());
        }
        cell.get_or_init(encode)
    }
}

/// A reply to a command.
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
        /// Seconds between pings; `None` if WebSocket's own pings are used.
        ping: Option<u32>,
        /// The channel to which the server subscribes the client.
        user_channel: &'a str,
    },
    /// For a `live:` channel.
    SubscribeLive,
    /// For a room.
    SubscribeRoom {
        epoch: &'a str,
        offset: Offset,
        /// `None` if the client did not ask for recovery, otherwise whether recovery from its position is possible.
        recovered: Option<bool>,
    },
    Unsubscribe,
    Publish {
        /// The offset in a room, 0 in a `live:` channel. JSON only: the Protobuf message has no field for it.
        offset: Offset,
    },
    Presence {
        list: &'a PresenceList,
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

/// A message to a client that is not a reply.
#[derive(Debug)]
pub enum Push<'a> {
    /// A stored publication or a message of a `live:` channel.
    Publication(&'a Entry),
    /// A publication that is stored nowhere.
    Ephemeral {
        /// JSON.
        data: &'a [u8],
    },
    Join(&'a ClientInfo),
    Leave(&'a ClientInfo),
    Unsubscribe {
        code: u16,
        reason: &'a str,
    },
}

/// Publications encoded for a reply.
#[derive(Debug)]
pub enum EncodedPublications {
    Json(json::Publications),
    Protobuf(protobuf::Publications),
}

impl EncodedPublications {
    /// Encodes as many of the first entries as fit into `limit_bytes`, but at least one.
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

    /// The number of publications.
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

/// Appends a push to a frame's payload. `channel` is the name that clients use.
pub fn push_push(encoding: Encoding, out: &mut Vec<u8>, channel: &str, push: &Push<'_>) {
    match encoding {
        Encoding::Json => json::push_push(out, channel, push),
        Encoding::Protobuf => protobuf::push_push(out, channel, push),
    }
}

/// A WebSocket frame with replies or pushes in this encoding.
pub fn frame(encoding: Encoding, payload: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(payload.len() + 10);
    match encoding {
        Encoding::Json => frame::push_text(&mut out, payload),
        Encoding::Protobuf => frame::push_binary(&mut out, payload),
    }
    out.into()
}

/// Appends a ping to a frame's payload.
pub fn push_ping(encoding: Encoding, out: &mut Vec<u8>) {
    match encoding {
        Encoding::Json if out.is_empty() => out.extend_from_slice(b"{}"),
        Encoding::Json => out.extend_from_slice(b"\n{}"),
        Encoding::Protobuf => out.push(0),
    }
}
