//! Who talks to whom, and in which words. The queues themselves are the driver's (`uproar::mesh`) or the simulator's.
//!
//! *Calls* take one of a pair's credits, and the place for the answer is reserved with the credit: answering never
//! waits. *Publications* use the other places; a home that finds none goes on later from its ring. So no shard ever
//! waits for another.

use super::presence::{Note, PresenceAnswer, PresenceChange};
use super::run::Run;
use crate::protocol::LiveEntry;
use std::sync::Arc;
pub use uproar_model::UserEvent;
use uproar_model::{Admission, JoinError, JoinedRoom, Marker, PageRequest, Revocation};
use uproar_model::{Epoch, Item, Offset, Outcome, Page, Publication, RoomId, UnixMillis, User, UserId};

/// Someone who has queues: one to and one from each other endpoint that it talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Endpoint {
    /// A core with its connections and rooms.
    Shard(u16),
    /// A writer that commits batches.
    Lane(u16),
    /// The readers of the store.
    Reader,
    /// The HTTP service.
    Http,
}

/// What a home shard owns: a stored room, or a `live:` channel that is only in memory.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Channel {
    Room(RoomId),
    /// The name without `live:`.
    Live(Arc<str>),
}

/// Whom an answer is for. Compared as a whole: an answer for a connection that is gone never reaches the next one in
/// its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Caller {
    pub endpoint: Endpoint,
    /// A connection's slot; for HTTP the number of the call.
    pub slot: u32,
    /// Which of the slot's tenants.
    pub generation: u32,
    /// Counts what the connection asked, so that a late answer is not taken for that to a later question.
    pub serial: u32,
}

impl Caller {
    /// The connection (or HTTP call) whose order is kept.
    pub fn source(&self) -> (Endpoint, u32, u32) {
        (self.endpoint, self.slot, self.generation)
    }
}

/// An item on its way into the database and back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    pub caller: Caller,
    /// Raised by the session each time an item ends with error 100: what was sent before that must end so too.
    pub era: u32,
    /// `Now::ms` after which the sender is answered with error 100.
    pub deadline_ms: u64,
    pub item: Item,
    /// The sender's name, for showing the publication.
    pub username: Arc<str>,
}

impl Append {
    /// What it counts for in the bounds of batches and lanes: its strings and a row's overhead.
    pub fn cost_bytes(&self) -> u64 {
        64 + self.item.id.len() as u64 + self.item.body.as_ref().map_or(0, |b| b.len() as u64)
    }
}

/// It ended with error 100: it may or may not be stored, and may be sent again with the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotKnown;

/// What a shard asks of the store's readers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Let a user into a room (by its key).
    Admit { room: String, user: UserId },
    /// The user of this name, created where there is none.
    User { username: Arc<str> },
    /// A room's head.
    Head { room: RoomId },
    /// Publications of a room.
    Page { room: RoomId, request: PageRequest },
    /// Moves a member's read marker, never back.
    MarkRead { room: RoomId, user: UserId, marker: Marker },
    /// The rooms that a user is in, by name, after this one, at most `limit`.
    Rooms { user: UserId, after: Option<String>, limit: usize },
}

/// A user who was looked up by name, and when their tokens were last revoked.
#[derive(Clone, Debug)]
pub struct Found {
    pub user: User,
    pub revoked_at: Option<UnixMillis>,
}

impl Found {
    /// Whether a token that names no generation, issued at this time (Unix seconds), is no longer good: it must be
    /// younger than the last sign-out.
    pub fn has_revoked(&self, issued_at_s: u64) -> bool {
        self.revoked_at.is_some_and(|at| issued_at_s <= at / 1000)
    }
}

/// What the readers answer. `Failed`: the store did not answer; nothing is known.
#[derive(Clone, Debug)]
pub enum Answer {
    Admitted(Result<Admission, JoinError>),
    /// None: nobody can have this name.
    User(Option<Found>),
    Head(Option<uproar_model::Head>),
    Page(Option<Arc<Page>>),
    /// Where the marker is now, and whether this moved it; none: the user is not in the room.
    Marked(Option<(Marker, bool)>),
    Rooms(Vec<JoinedRoom>),
    Failed,
}

impl Message {
    /// Whether it ends this channel's feed.
    pub fn ends(&self, feed: &Channel) -> bool {
        matches!(self, Message::Lost { channel } | Message::Closed { channel } if channel == feed)
    }
}

/// Who on a shard asked the readers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asker {
    Connection(Caller),
    /// The room's home, to load it.
    Load(RoomId),
    /// The room's home, to fill a hole.
    Gap(RoomId),
    /// The room's home, to see whether something was committed that nobody told it.
    Top(RoomId),
    /// The room's home, for a shard whose client claims an offset above its position.
    Check(RoomId, Caller),
}

/// How an attach ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttachOutcome {
    /// The shard is fed from behind this position on.
    Attached {
        epoch: Option<Epoch>,
        position: Offset,
    },
    NoRoom,
    /// The store did not answer.
    Failed,
}

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckOutcome {
    /// The room's last committed offset.
    Top(Offset),
    NoRoom,
    /// The store did not answer.
    Failed,
}

/// Places in a queue between two shards that are kept for calls and answers.
pub fn reserved_places(calls_limit: u64) -> usize {
    3 * calls_limit as usize
}

/// What goes through the mesh.
#[derive(Clone, Debug)]
pub enum Message {
    // Calls of a shard (or of HTTP) to a room's home, and the answers.
    Append(Box<Append>),
    /// Returns the credit where it is the last for its item; else `Taken` follows when the database has answered, so
    /// that what it is still being asked counts against whoever sent it.
    Appended {
        caller: Caller,
        era: u32,
        id: Arc<str>,
        result: Result<Outcome, NotKnown>,
        is_last: bool,
    },
    /// Returns a credit and says nothing.
    Taken,
    Attach {
        channel: Channel,
    },
    Attached {
        channel: Channel,
        outcome: AttachOutcome,
    },
    /// Answered with `Taken`.
    Detach {
        channel: Channel,
    },
    /// What is the room's head now? Asked when a client claims an offset above the shard's position.
    Check {
        room: RoomId,
        caller: Caller,
    },
    Checked {
        caller: Caller,
        top: CheckOutcome,
    },
    /// A message for a `live:` channel, to its home; answered with `Taken`.
    Live {
        channel: Arc<str>,
        entry: Box<LiveEntry>,
    },

    /// To a channel's home: who came and went on this shard; answered with `Taken`.
    Presence {
        channel: Channel,
        changes: Vec<PresenceChange>,
    },
    /// To a channel's home: who is there?
    AskPresence {
        channel: Channel,
        caller: Caller,
        wants_clients: bool,
    },
    Present {
        caller: Caller,
        answer: Box<PresenceAnswer>,
    },
    /// To a channel's home: something for all who are there; answered with `Taken`.
    Say {
        channel: Channel,
        note: Arc<Note>,
    },

    // A home's calls to a lane, and the answers.
    Commit(Box<Append>),
    /// Returns the credit where it is the last for its item.
    Committed(Box<super::lane::LaneAnswer>),

    // A shard's calls to the readers, and the answers.
    Ask {
        asker: Asker,
        ask: Ask,
    },
    Answer {
        asker: Asker,
        answer: Answer,
    },

    // A home's publications to the shards it feeds. No answer.
    Run {
        channel: Channel,
        run: Arc<Run>,
    },
    /// Something that subscribers are told and nobody keeps: left out where the queue has no place.
    Note {
        channel: Channel,
        note: Arc<Note>,
    },
    /// The shard has fallen off the ring: its subscribers end with 3010.
    Lost {
        channel: Channel,
    },
    /// The room is gone: its subscribers end.
    Closed {
        channel: Channel,
    },

    // From HTTP, each answered with `Taken`.
    /// To the home: a publication that the store itself appended.
    Learn {
        room: RoomId,
        publication: Box<Publication>,
    },
    /// To the home: the room was deleted.
    CloseRoom {
        room: RoomId,
    },
    /// To every shard: earlier tokens of this user are no longer good.
    Revoke(Revocation),
    /// To every shard, from HTTP or a shard that has a credit: news for all connections of a user. Nothing keeps it; who
    /// misses it can ask. Answered with `Taken`.
    Tell {
        user: UserId,
        news: UserEvent,
    },
    /// To every shard: what has it counted? Answered with `Counted`, under the same number.
    Count {
        number: u32,
    },
    Counted {
        number: u32,
        figures: Box<super::figures::Figures>,
    },
}
