//! The messages between endpoints. Drivers carry them over queues (`uproar::mesh`); the simulator has queues of its
//! own.
//!
//! A *call* takes a credit, which reserves the place for its answer: answering never waits. *Publications* use the
//! remaining places; a home that finds none continues later from its ring. So no shard ever waits for another.

use crate::bus::{Announcement, NodePresence};
use crate::ids::{Serial, Slot, SubscriptionKey};
use crate::log::Segment;
use crate::metrics::ShardMetrics;
use crate::protocol::LiveEntry;
use crate::protocol::centrifuge::{ClientInfo, PresenceList};
use crate::survey::{Findings, Survey};
use std::sync::{Arc, Weak};
pub use uproar_model::UserEvent;
use uproar_model::{Admission, JoinError, JoinedRoom, Marker, PageRequest, Revocation};
use uproar_model::{
    Claims, DatabaseGeneration, Epoch, Head, Identity, Item, Offset, Outcome, Page, Publication, RoomId, Swept, User,
    UserId,
};

/// An owner of queues: one to and one from each endpoint that it talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Endpoint {
    /// A core with its connections and the homes that hash to it.
    Shard(u16),
    /// A writer that commits batches.
    Lane(u16),
    /// The task that reads from the store.
    Reader,
    /// The HTTP service.
    Http,
    /// The task that speaks to the other nodes.
    Bus,
}

/// A channel that has a home: a stored room, or a `live:` channel, which exists in memory only.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Channel {
    Room(RoomId),
    /// The name without `live:`.
    Live(Arc<str>),
}

/// The sender of a call. Compared as a whole, so an answer for a closed connection never reaches the next connection in
/// the same slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Caller {
    pub endpoint: Endpoint,
    /// The connection's slot; for HTTP the number of the call.
    pub slot: Slot,
    /// Distinguishes the connections that have used the slot.
    pub generation: u32,
    pub serial: Serial,
}

impl Caller {
    /// The connection (or HTTP call) within which order is kept.
    pub fn source(&self) -> (Endpoint, Slot, u32) {
        (self.endpoint, self.slot, self.generation)
    }
}

/// Who on a shard asked for something, and so who handles the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requester {
    /// A client on its way into a channel.
    Join(JoinRequest),
    /// A client whose `connect` is waiting.
    Connect(Caller),
    /// A subscription that reads a page it has missed.
    CatchUp(Caller),
    /// A command that waits for an answer.
    Call(Caller),
    /// A room's home, to load it.
    Load(AskingHome),
    /// A room's home, to fill a gap.
    Gap(AskingHome),
    /// A room's home, to find out whether the room still has the history that it shows.
    Head(AskingHome),
    /// A shard, for all its homes, to find commits that they were not told of.
    Sweep,
    /// A shard, for the connections of a user who was renamed: this is the name that it heard of, and the number of the
    /// renaming on this shard.
    Renamed { user: UserId, username: Arc<str>, number: u64 },
    /// A room's home, on behalf of a client whose position is above its shard's.
    Check(AskingHome, JoinRequest),
}

/// A home when it asked the store. An answer that comes late must not end a home that has loaded the room since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AskingHome {
    pub room: RoomId,
    /// Counts the homes that its shard has had.
    pub number: u64,
    /// The last offset that it had learned. A head below this one is that of another history.
    pub learned: Offset,
}

/// What joins a channel: a plain connection that waits for the answer to its upgrade, or a subscription of an open one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joiner {
    Upgrade,
    Subscription(SubscriptionKey),
}

/// A question on behalf of a client that joins a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JoinRequest {
    pub caller: Caller,
    pub joiner: Joiner,
}

/// An item on its way to the database and back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    pub caller: Caller,
    /// The era of the stream, as far as the session knows. A lane begins one each time an item of the stream ends with
    /// error 100, and tells the session with the answer. Items of earlier eras must end the same way.
    pub era: u32,
    /// After this time, in [`Now::ms`](crate::Now::ms), the sender is answered with error 100.
    pub deadline_ms: u64,
    pub item: Item,
    /// The sender's name, for showing the publication.
    pub username: Arc<str>,
}

impl Append {
    /// The bytes that count against the bounds of batches and lanes: the strings, and a row's overhead.
    pub fn cost_bytes(&self) -> u64 {
        let length = |text: &Option<Arc<str>>| text.as_ref().map_or(0, |text| text.len() as u64);
        64 + self.item.id.len() as u64 + length(&self.item.body) + length(&self.item.meta)
    }
}

/// The item ended with error 100: it may or may not be stored, and may be sent again with the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutcomeUnknown;

/// A lane's answer for one item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneAnswer {
    pub append: Box<Append>,
    pub result: Result<Outcome, OutcomeUnknown>,
    /// The sender has already been answered with error 100: this answer is only for showing the publication.
    pub was_answered: bool,
    /// False for an item that reached its deadline while its batch is still being tried: another answer follows.
    pub is_last: bool,
    /// The history in which it is stored. `None`: the history may have changed meanwhile, or it is not stored.
    pub generation: Option<DatabaseGeneration>,
}

impl LaneAnswer {
    pub(crate) fn only(append: Box<Append>, result: Result<Outcome, OutcomeUnknown>) -> LaneAnswer {
        LaneAnswer { append, result, was_answered: false, is_last: true, generation: None }
    }
}

/// On whose behalf the store's reader is asked. It serves the parties in turn.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Party {
    User(UserId),
    /// A user of whom only the name is known.
    Name(Arc<str>),
    /// A user of another system, who may not have been created yet.
    Identity(Arc<Identity>),
    /// A room's home.
    Home(RoomId),
    /// All homes of a shard.
    Shard(u16),
}

/// Held while somebody waits for an answer of the reader. Once it is dropped, the answer need not be found any more:
/// the connection was closed, or the question has been answered because its time was over.
#[derive(Debug, Default)]
pub struct Interest(Arc<()>);

/// Who asks the reader, and whether the answer is still wanted.
#[derive(Clone, Debug)]
pub struct Asker {
    pub party: Party,
    /// `None`: it always is.
    interest: Option<Weak<()>>,
}

impl Asker {
    pub fn new(party: Party, interest: &Interest) -> Asker {
        Asker { party, interest: Some(Arc::downgrade(&interest.0)) }
    }

    /// A home, which waits for its answers.
    pub fn home(room: RoomId) -> Asker {
        Asker { party: Party::Home(room), interest: None }
    }

    /// A shard, which waits for its answers.
    pub fn shard(id: u16) -> Asker {
        Asker { party: Party::Shard(id), interest: None }
    }

    /// Whether somebody still waits for the answer.
    pub fn is_waiting(&self) -> bool {
        self.interest.as_ref().is_none_or(|interest| interest.strong_count() > 0)
    }
}

/// A question for the store's reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreRequest {
    /// Whether a user may enter a room (named by its key). Joins a public room.
    Admit { room: String, user: UserId },
    /// The same, but joins no room. `NotMember`: the user may join it.
    AdmitMember { room: String, user: UserId },
    /// The user with this identity, or if there is none, with this name. They are created if necessary, with this name
    /// or one like it.
    User { username: Arc<str>, identity: Option<Arc<Identity>> },
    /// The user with this id. Answered as `User` is.
    UserById { user: UserId },
    /// A room's head.
    Head { room: RoomId },
    /// The rooms whose last offset is not this one, by room ascending.
    Sweep { heads: Vec<(RoomId, Offset)> },
    /// Publications of a room. If a user asks ([`Asker::party`]), they must be a member when the page is read.
    Page { room: RoomId, request: PageRequest },
    /// Moves a member's read marker forward. It never moves back.
    MarkRead { room: RoomId, user: UserId, marker: Marker },
    /// At most `limit` of the rooms that a user is in, by name, starting after this one.
    Rooms { user: UserId, after: Option<String>, limit: usize },
}

impl StoreRequest {
    /// Asks for the user of a token without a user id.
    pub(crate) fn user_of(claims: &Claims) -> StoreRequest {
        StoreRequest::User { username: Arc::clone(&claims.username), identity: claims.identity.clone() }
    }
}

impl Party {
    /// The user of a token without a user id.
    pub(crate) fn of_token(username: &Arc<str>, identity: Option<&Arc<Identity>>) -> Party {
        match identity {
            Some(identity) => Party::Identity(Arc::clone(identity)),
            None => Party::Name(Arc::clone(username)),
        }
    }
}

/// A user who was looked up by name or identity, and when their tokens were last revoked.
#[derive(Clone, Debug)]
pub struct Found {
    pub user: User,
    /// The latest revocation of the user's tokens.
    pub revocation: Option<Revocation>,
}

impl Found {
    /// Whether a token that carries no generation, issued at this time (Unix seconds), has been revoked.
    pub fn has_revoked(&self, issued_at_s: u64) -> bool {
        self.revocation.is_some_and(|revocation| revocation.covers(None, issued_at_s))
    }
}

/// The reader's answer.
#[derive(Clone, Debug)]
pub enum StoreReply {
    Admitted(Result<Admission, JoinError>),
    /// `None`: the name is not valid for a user.
    User(Option<Found>),
    Head(Option<Head>),
    Swept(Arc<Swept>),
    Page(Option<Arc<Page>>),
    /// There is no page, and no admission, for this user, who is not a member of the room.
    NotMember,
    /// The marker's current position and whether this request moved it. `None`: the user is not in the room.
    Marked(Option<(Marker, bool)>),
    Rooms(Vec<JoinedRoom>),
    /// The store did not answer; nothing is known.
    Failed,
}

/// How an attach ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttachOutcome {
    /// The shard is fed with everything after this position.
    Attached {
        epoch: Option<Epoch>,
        position: Offset,
    },
    NoRoom,
    /// The store did not answer.
    Failed,
}

/// What the check of a room's head found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckOutcome {
    /// The last committed offset, and the epoch that it belongs to.
    Head(Epoch, Offset),
    NoRoom,
    /// The store did not answer, or the home has given up because of the answer.
    Failed,
}

/// A subscriber has come or gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PresenceChange {
    pub slot: Slot,
    pub generation: u32,
    pub user: User,
    pub is_here: bool,
    /// It wants to be told who comes and goes.
    pub listens: bool,
}

/// An event that subscribers are sent and that is stored nowhere. It is dropped where a queue is full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ephemeral {
    Join(ClientInfo),
    Leave(ClientInfo),
    /// The number of subscribers, where they are too many to name.
    Online(u64),
    Typing(User),
}

impl Ephemeral {
    /// Whether only subscribers that asked for presence receive it.
    pub(crate) fn is_presence(&self) -> bool {
        !matches!(self, Ephemeral::Typing(_))
    }
}

/// A home's answer to a question about presence.
#[derive(Clone, Debug, Default)]
pub struct PresenceReply {
    pub num_clients: u32,
    pub num_users: u32,
    /// As many clients as one answer holds, if they were asked for. Shared by all answers until somebody comes or goes.
    pub list: Option<Arc<PresenceList>>,
}

/// The places in a queue between two shards that are kept for calls and answers: one for each call of the writer, two
/// for each call of the reader, because an append that reaches its deadline is answered twice.
pub fn reserved_places(calls_limit: u64) -> usize {
    3 * calls_limit as usize
}

/// Some of the latest publications of a room, as clients that resume now would receive them.
#[derive(Clone, Debug)]
pub struct Recent {
    pub epoch: Epoch,
    /// The last offset that the home has.
    pub head: Offset,
    /// They may begin before the offset that was asked for, and end before `head`.
    pub segments: Vec<Arc<Segment>>,
}

/// A message of the mesh.
#[derive(Clone, Debug)]
pub enum Message {
    // Calls of a shard (or of HTTP) to a channel's home, and the answers.
    Append(Box<Append>),
    /// Returns the credit if it is the last answer for its item. Otherwise `Settled` or `CreditReturned` follows once
    /// the database has answered, so that items the database is still asked about count against their sender.
    Appended {
        caller: Caller,
        era: u32,
        id: Arc<str>,
        result: Result<Outcome, OutcomeUnknown>,
        is_last: bool,
    },
    /// After an append was answered with *outcome unknown*: it is stored.
    Settled {
        caller: Caller,
        room: RoomId,
        id: Arc<str>,
    },
    /// The whole answer to a call that needs no other.
    CreditReturned,
    Attach {
        channel: Channel,
    },
    Attached {
        channel: Channel,
        outcome: AttachOutcome,
    },
    /// Answered with `CreditReturned`.
    Detach {
        channel: Channel,
    },
    /// Asks for the room's head, because a client claims an offset above the shard's position.
    Check {
        room: RoomId,
        request: JoinRequest,
    },
    Checked {
        request: JoinRequest,
        outcome: CheckOutcome,
    },
    /// A message for a `live:` channel, to its home; the bus brings those of other nodes. Answered with
    /// `CreditReturned`.
    Live {
        channel: Arc<str>,
        entry: LiveEntry,
    },

    /// To a channel's home: the subscribers that came and went on this shard. Answered with `CreditReturned`.
    PresenceChanged {
        channel: Channel,
        changes: Vec<PresenceChange>,
    },
    /// To a channel's home: who is in the channel?
    GetPresence {
        channel: Channel,
        caller: Caller,
        wants_clients: bool,
    },
    Presence {
        caller: Caller,
        reply: Box<PresenceReply>,
    },
    /// To a channel's home: an event for all its subscribers; the bus brings those of other nodes. Answered with
    /// `CreditReturned`.
    Notify {
        channel: Channel,
        event: Arc<Ephemeral>,
    },

    // A home's calls to a lane, and the answers.
    Commit(Box<Append>),
    /// Returns the credit if it is the last answer for its item.
    Committed(Box<LaneAnswer>),

    // A shard's calls to the reader, and the answers. A question that nobody waits for any more may be answered with
    // `CreditReturned`.
    Read {
        requester: Requester,
        asker: Asker,
        request: StoreRequest,
    },
    ReadReply {
        requester: Requester,
        reply: StoreReply,
    },

    // From a home to the shards that it feeds. No answer.
    Segment {
        channel: Channel,
        segment: Arc<Segment>,
    },
    /// An event for the channel's subscribers. Dropped if the queue is full.
    Ephemeral {
        channel: Channel,
        event: Arc<Ephemeral>,
    },
    /// The shard has fallen out of the ring: its feed continues at this position, and its subscribers are given what is
    /// before it from the store.
    Skip {
        channel: Channel,
        position: Offset,
        /// Users whom the skipped publications remove from the room, and the offset of the last removal of each.
        removed: Vec<(UserId, Offset)>,
    },
    /// The feed cannot go on without a gap: the connections of its subscribers are closed with 3010.
    Lost {
        channel: Channel,
    },
    /// The room was deleted: its subscriptions end.
    Closed {
        channel: Channel,
    },

    // From HTTP (`NotifyUser` and `Learn` also from shards), each answered with `CreditReturned` unless it says
    // otherwise.
    /// To the home: a publication that the store itself appended. Dropped where there is no credit, or no place: it
    /// becomes known with the next one, or when heads are compared.
    Learn {
        room: RoomId,
        /// The history in which it is stored, as far as the sender knows.
        generation: Option<DatabaseGeneration>,
        publication: Box<Publication>,
    },
    /// To the home: the room was deleted.
    CloseRoom {
        room: RoomId,
    },
    /// To every shard: earlier tokens of this user are revoked.
    Revoke(Revocation),
    /// To every shard: the database has another history, in which a user id may mean somebody else. All connections are
    /// closed, and all rooms loaded again.
    StartOver,
    /// To every shard, from HTTP or from a shard: an event for all connections of a user. It is stored nowhere; a
    /// client that misses it can ask. Answered with `CreditReturned`.
    NotifyUser {
        user: UserId,
        event: UserEvent,
    },
    /// To every shard: the heads of rooms may have changed without their homes knowing.
    SweepNow,
    /// From the bus, to every shard: messages for `live:` channels were lost. Their subscribers are told so.
    LiveLost,
    /// To the bus, for the other nodes. No answer; dropped if the queue is full, which the others notice.
    Announce(Announcement),
    /// From the bus, to the home: another node has committed something in this room. Without the publication, or if the
    /// home can't use it, the head has to be read.
    Announced {
        room: RoomId,
        generation: Option<DatabaseGeneration>,
        publication: Option<Box<Publication>>,
    },
    /// From the bus, to every shard: another node, by its session, asks who is in all channels.
    TellPresence {
        to: Arc<str>,
    },
    /// From the bus, to the home: who is in a channel on another node.
    PeerPresence {
        session: Arc<str>,
        presence: Box<NodePresence>,
    },
    /// From the bus, to every shard: another node has told everything about the channels whose home is this shard of
    /// it.
    PeerTold {
        session: Arc<str>,
        shard: u16,
        after: u64,
    },
    /// From the bus, to every shard: another node is gone, and its clients with it.
    PeerGone {
        session: Arc<str>,
    },
    /// From HTTP, to a room's home: its publications after this offset, if the home still has them. Answered with
    /// `Recent` under the same number.
    GetRecent {
        number: u64,
        room: RoomId,
        after: Offset,
    },
    Recent {
        number: u64,
        recent: Option<Box<Recent>>,
    },
    /// From HTTP or the bus, to every shard. Answered with `Surveyed` under the same number.
    Survey {
        number: u64,
        survey: Survey,
    },
    Surveyed {
        number: u64,
        findings: Box<Findings>,
    },
    /// To every shard. Answered with `Metrics` under the same number. `with_users`: whether they name the users.
    GetMetrics {
        number: u32,
        with_users: bool,
    },
    Metrics {
        number: u32,
        metrics: Box<ShardMetrics>,
    },
}

impl Message {
    /// Whether this ends the feed of a channel.
    pub(crate) fn ends(&self, feed: &Channel) -> bool {
        matches!(self, Message::Lost { channel } | Message::Closed { channel } if channel == feed)
    }
}
