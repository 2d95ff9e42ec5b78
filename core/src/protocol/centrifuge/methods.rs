//! The JSON that Uproar defines within the Centrifugo protocol: the data of `rpc` and `send`, of events on `user:ID`,
//! and of publications that are stored nowhere.

use crate::protocol::{self, ProtocolError, data, write_json};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use uproar_model::{JoinedRoom, Marker, Offset, UnixMillis, User, UserEvent};

/// Decodes JSON; `None` if it has another form.
pub fn parse<'a, T: Deserialize<'a>>(data: &'a [u8]) -> Option<T> {
    serde_json::from_slice(data).ok()
}

/// Encodes a value as JSON.
pub fn to_json(value: &impl Serialize) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    write_json(&mut out, value);
    out
}

// ── from the client ─────────────────────────────────────────────────────────────────────────────────────────────────

/// The data of `send`: the client's user is typing.
#[derive(Deserialize)]
pub struct SendData<'a> {
    /// The name of a channel.
    #[serde(borrow)]
    pub typing: Cow<'a, str>,
}

/// A call of a method by `rpc`, with its data.
pub enum RpcCall<'a> {
    Publish(PublishCall<'a>),
    Read(ReadCall<'a>),
    Rooms(RoomsCall),
    Typing(TypingCall<'a>),
}

#[derive(Deserialize)]
pub struct PublishCall<'a> {
    #[serde(borrow)]
    pub channel: Cow<'a, str>,
    #[serde(borrow)]
    pub data: &'a serde_json::value::RawValue,
}

#[derive(Deserialize)]
pub struct ReadCall<'a> {
    #[serde(borrow)]
    pub channel: Cow<'a, str>,
    pub offset: Offset,
    /// The epoch that the offset belongs to; `None` for the current one.
    #[serde(borrow)]
    pub epoch: Option<Cow<'a, str>>,
}

#[derive(Default, Deserialize)]
pub struct RoomsCall {
    pub after: Option<String>,
    pub limit: Option<usize>,
}

#[derive(Deserialize)]
pub struct TypingCall<'a> {
    #[serde(borrow)]
    pub channel: Cow<'a, str>,
}

/// Decodes the data of a call of the method `name`.
pub fn parse_call<'a>(name: &str, data: &'a [u8]) -> Result<RpcCall<'a>, ProtocolError> {
    let expected = |form: &str| {
        let text = match data::compact(data) {
            Err(data::HALF_A_PAIR) => format!("the data of {name} {}", data::HALF_A_PAIR),
            _ => format!("the data of {name} must be {form}"),
        };
        ProtocolError::new(protocol::BAD_REQUEST, text)
    };
    match name {
        "publish" => parse(data).map(RpcCall::Publish).ok_or_else(|| expected("{\"channel\":…,\"data\":…}")),
        "read" => parse(data).map(RpcCall::Read).ok_or_else(|| expected("{\"channel\":…,\"offset\":…}")),
        "rooms" if data.is_empty() => Ok(RpcCall::Rooms(RoomsCall::default())),
        "rooms" => parse(data).map(RpcCall::Rooms).ok_or_else(|| expected("{\"after\":…,\"limit\":…} or absent")),
        "typing" => parse(data).map(RpcCall::Typing).ok_or_else(|| expected("{\"channel\":…}")),
        _ => {
            let text = "there is no such method; the methods are publish, read, rooms and typing";
            Err(ProtocolError::new(protocol::METHOD_NOT_FOUND, text))
        }
    }
}

// ── to the client ───────────────────────────────────────────────────────────────────────────────────────────────────

/// The result of `publish`.
#[derive(Serialize)]
pub struct PublishResult<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<&'a str>,
    pub offset: Offset,
    pub time: UnixMillis,
}

/// The result of `read`: the current read marker.
#[derive(Serialize)]
pub struct ReadMarker {
    offset: Offset,
    number: u64,
}

impl From<Marker> for ReadMarker {
    fn from(marker: Marker) -> ReadMarker {
        ReadMarker { offset: marker.offset, number: marker.number }
    }
}

/// The result of `rooms`.
#[derive(Serialize)]
pub struct RoomsResult<'a> {
    rooms: Vec<RoomSummary<'a>>,
    /// Whether there are rooms after the last of these.
    more: bool,
}

#[derive(Serialize)]
struct RoomSummary<'a> {
    name: &'a str,
    title: &'a str,
    private: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    direct: bool,
    size: u32,
    members: u32,
    /// The members of a direct room.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    people: Vec<Person<'a>>,
    epoch: &'a str,
    offset: Offset,
    number: u64,
    unread: u64,
    read: ReadMarker,
    role: &'static str,
    time: UnixMillis,
}

#[derive(Serialize)]
struct Person<'a> {
    id: String,
    username: &'a str,
}

impl<'a> From<&'a User> for Person<'a> {
    fn from(user: &'a User) -> Person<'a> {
        Person { id: user.id.to_string(), username: &user.username }
    }
}

impl<'a> RoomsResult<'a> {
    /// At most `limit` of these rooms, and no more than fit into `limit_bytes`, but at least one.
    pub fn fitting(rooms: &'a [JoinedRoom], limit: usize, limit_bytes: usize) -> RoomsResult<'a> {
        let mut bytes = 0;
        let fitting = rooms.iter().take(limit).take_while(|room| {
            let before = bytes;
            // Escapes make a text at most six times as long.
            bytes += 320 + 6 * (room.name.len() + room.title.len());
            bytes += room.people.iter().map(|person| 48 + 6 * person.username.len()).sum::<usize>();
            before == 0 || bytes <= limit_bytes
        });
        let fitting: Vec<RoomSummary<'a>> = fitting.map(RoomSummary::from).collect();
        RoomsResult { more: fitting.len() < rooms.len(), rooms: fitting }
    }
}

impl<'a> From<&'a JoinedRoom> for RoomSummary<'a> {
    fn from(room: &'a JoinedRoom) -> RoomSummary<'a> {
        RoomSummary {
            name: &room.name,
            title: &room.title,
            private: room.is_private,
            direct: room.is_direct,
            size: room.size,
            members: room.members,
            people: room.people.iter().map(Person::from).collect(),
            epoch: &room.head.epoch.0,
            offset: room.head.offset,
            number: room.head.number,
            unread: room.unread,
            read: room.read.into(),
            role: room.role.word(),
            time: room.active_at,
        }
    }
}

/// The data of an event on `user:ID`, as JSON.
pub fn user_event_data(event: &UserEvent) -> Vec<u8> {
    to_json(&match event {
        UserEvent::Read { room, marker, .. } => {
            UserEventData::Read { room, offset: marker.offset, number: marker.number }
        }
        UserEvent::Joined { room } => UserEventData::Joined(room),
        UserEvent::Left { room } => UserEventData::Left(room),
        UserEvent::Renamed { username } => UserEventData::Renamed(username),
        UserEvent::Data { data } => return data.as_bytes().to_vec(),
    })
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum UserEventData<'a> {
    Read { room: &'a str, offset: Offset, number: u64 },
    Joined(&'a str),
    Left(&'a str),
    Renamed(&'a str),
}

/// The data of a publication that is stored nowhere.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EphemeralData<'a> {
    /// The number of subscribers.
    Online(u64),
    Typing {
        id: String,
        username: &'a str,
    },
}

impl<'a> EphemeralData<'a> {
    pub fn typing(user: &'a User) -> EphemeralData<'a> {
        EphemeralData::Typing { id: user.id.to_string(), username: &user.username }
    }
}
