//! What a node sends to the others: a line of JSON with some announcements, and how many it has made before.
//!
//! The counts show what was missed. Announcements are numbered when they are queued, so whatever is lost later, on the
//! way or because a queue was full, leaves a gap in the numbers. Kinds of a newer release are counted, and make
//! this node read the heads.

use super::survey_wire::{WireFindings, WireSurvey};
use crate::bus::{Announcement, NodePresence, PresenceNews};
use crate::message::Channel;
use crate::protocol::LiveEntry;
use crate::protocol::centrifuge::ClientInfo;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::VecDeque;
use uproar_model::{DatabaseGeneration, Kind, Marker, Publication, RoomId, User, UserEvent, UserId};

/// Stands for no user in a `live:` message. Nodes of an older release take it for a user without a name.
const NOBODY: i64 = 0;
/// Announcements that may wait to be sent. More are dropped.
const WAITING_LIMIT: usize = 4_096;

/// A message as it was received.
#[derive(Debug, PartialEq)]
pub(super) enum Heard {
    /// From a node.
    Envelope(Envelope),
    /// From a transaction that has taken a right away.
    Loss(Loss),
}

/// What a transaction of PostgreSQL itself tells, through the function `tell_nodes`. It has no number and no sender.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// Somebody was removed from this room, or it was deleted.
    Room(RoomId),
    /// Tokens were revoked.
    Tokens,
    /// Something that only a newer release understands.
    Unknown,
}

/// The announcements of a node.
#[derive(Debug, PartialEq)]
pub(super) struct Envelope {
    /// Which run of which node has sent it: a random word.
    pub session: String,
    /// How many announcements the session made before those in this message.
    pub before: Counts,
    pub announcements: Vec<Announcement>,
    /// Announcements of kinds that this release does not know.
    pub unknown: u64,
    /// The sender stops.
    pub is_last: bool,
    /// The number of the beat, if this is one.
    pub beat: Option<u64>,
}

/// How many announcements a session has made. They are counted apart because the database does not have `live:`
/// messages: if one of them is missed, it is lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Counts {
    #[serde(default)]
    pub live: u64,
    #[serde(default)]
    pub others: u64,
}

impl Counts {
    fn count(&mut self, announcement: &Announcement) {
        let live = u64::from(announcement.is_live());
        self.add(Counts { live, others: 1 - live });
    }

    fn add(&mut self, more: Counts) {
        self.live = self.live.saturating_add(more.live);
        self.others = self.others.saturating_add(more.others);
    }
}

/// Why a message is ignored.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Foreign {
    /// It isn't one of our messages.
    Garbage,
    /// It comes from another cluster on the same bus.
    Cluster,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    cluster: String,
    /// A message of a node has these two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    before: Option<Counts>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    beat: Option<u64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    last: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    a: Vec<Value>,
    /// A message of a transaction has this.
    #[serde(default, skip_serializing)]
    now: Option<Value>,
}

/// See [`Loss`].
#[derive(Deserialize)]
enum Now {
    #[serde(rename = "h")]
    Head(i64),
    /// Of a user.
    #[serde(rename = "k")]
    Tokens(IgnoredAny),
}

/// One announcement. The names are short because PostgreSQL bounds a message.
#[derive(Serialize, Deserialize)]
enum Item {
    /// A publication: room, generation, offset, number, kind, user, username, id, time, target, body.
    #[serde(rename = "p")]
    Publication(i64, String, u64, u64, i64, i64, String, String, u64, Option<u64>, Option<String>),
    /// The same, and then the meta.
    #[serde(rename = "m")]
    WithMeta(i64, String, u64, u64, i64, i64, String, String, u64, Option<u64>, Option<String>, String),
    #[serde(rename = "h")]
    Head(i64),
    /// A read marker: user, room, its id, offset, number.
    #[serde(rename = "r")]
    Read(i64, String, i64, u64, u64),
    #[serde(rename = "j")]
    Joined(i64, String),
    #[serde(rename = "l")]
    Left(i64, String),
    /// A `live:` message: channel, user, username, time, data, whether it is JSON.
    #[serde(rename = "v")]
    Live(String, i64, String, u64, String, bool),
    /// Clients in a channel: channel, home, version, clients, part, parts, whether the home wants to be told.
    #[serde(rename = "c")]
    Clients(WireChannel, WireHome, u64, Vec<WireClient>, u32, u32, bool),
    /// Their number: channel, home, version, clients, users, whether the home wants to be told.
    #[serde(rename = "n")]
    Counted(WireChannel, WireHome, u64, u64, u64, bool),
    /// Those who came and went: channel, home, version, after, joined, left.
    #[serde(rename = "d")]
    Changed(WireChannel, WireHome, u64, u64, Vec<WireClient>, Vec<String>),
    /// All was told: shard, after, the nodes that have asked.
    #[serde(rename = "e")]
    Told(u16, u64, Vec<String>),
    /// The node that is to tell everything.
    #[serde(rename = "q")]
    Ask(String),
    /// Typing: channel, user, username.
    #[serde(rename = "t")]
    Typing(WireChannel, i64, String),
    /// An event that a backend sends: user, data.
    #[serde(rename = "u")]
    Event(i64, String),
    /// A user's new name: user, username.
    #[serde(rename = "a")]
    Renamed(i64, String),
    /// A survey: number, attempt, what is asked.
    #[serde(rename = "s")]
    Survey(u64, u32, WireSurvey),
    /// A part of an answer: the session that asked, number, attempt, part, parts, findings.
    #[serde(rename = "f")]
    Findings(String, u64, u32, u32, u32, WireFindings),
}

/// A room's id, or the name of a `live:` channel.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum WireChannel {
    Room(i64),
    Live(String),
}

/// The shard of a home, and which home it is.
#[derive(Serialize, Deserialize)]
struct WireHome(u16, u64);

/// User, username, and the id of the client.
#[derive(Serialize, Deserialize)]
pub(super) struct WireClient(i64, String, String);

impl WireChannel {
    pub fn of(channel: &Channel) -> WireChannel {
        match channel {
            Channel::Room(room) => WireChannel::Room(room.0),
            Channel::Live(name) => WireChannel::Live(name.to_string()),
        }
    }

    pub fn channel(self) -> Channel {
        match self {
            WireChannel::Room(room) => Channel::Room(RoomId(room)),
            WireChannel::Live(name) => Channel::Live(name.into()),
        }
    }
}

impl WireClient {
    pub fn all_of(clients: &[ClientInfo]) -> Vec<WireClient> {
        let one = |c: &ClientInfo| WireClient(c.user.id.0, c.user.username.to_string(), c.client.clone());
        clients.iter().map(one).collect()
    }

    pub fn clients(all: Vec<WireClient>) -> Vec<ClientInfo> {
        let one = |WireClient(id, username, client)| {
            let user = User { id: UserId(id), username: username.into() };
            ClientInfo { user, client }
        };
        all.into_iter().map(one).collect()
    }
}

impl Item {
    fn of(announcement: &Announcement) -> Item {
        match announcement {
            Announcement::Stored { room, generation, publication: p } => {
                let (room, generation) = (room.0, generation.to_string());
                let (offset, number, kind, user) = (p.offset, p.number, p.kind as i64, p.user.id.0);
                let (username, id, time, target) = (p.user.username.to_string(), p.id.to_string(), p.time, p.target);
                let body = p.body.as_deref().map(str::to_owned);
                match p.meta.as_deref().map(str::to_owned) {
                    None => Item::Publication(
                        room, generation, offset, number, kind, user, username, id, time, target, body,
                    ),
                    Some(meta) => Item::WithMeta(
                        room, generation, offset, number, kind, user, username, id, time, target, body, meta,
                    ),
                }
            }
            Announcement::Head { room } => Item::Head(room.0),
            Announcement::Live { channel, entry } => Item::Live(
                channel.to_string(),
                entry.user.as_ref().map_or(NOBODY, |user| user.id.0),
                entry.user.as_ref().map_or_else(String::new, |user| user.username.to_string()),
                entry.time,
                entry.data.to_string(),
                entry.is_json,
            ),
            Announcement::User { user, event } => match event {
                UserEvent::Read { room, id, marker } => {
                    Item::Read(user.0, room.to_string(), id.0, marker.offset, marker.number)
                }
                UserEvent::Joined { room } => Item::Joined(user.0, room.to_string()),
                UserEvent::Left { room } => Item::Left(user.0, room.to_string()),
                UserEvent::Renamed { username } => Item::Renamed(user.0, username.to_string()),
                UserEvent::Data { data } => Item::Event(user.0, data.to_string()),
            },
            Announcement::Presence(presence) => {
                let NodePresence { channel, shard, home, version, news } = &**presence;
                let (channel, home, version) = (WireChannel::of(channel), WireHome(*shard, *home), *version);
                match news {
                    PresenceNews::All { clients, part, parts, is_new } => {
                        Item::Clients(channel, home, version, WireClient::all_of(clients), *part, *parts, *is_new)
                    }
                    PresenceNews::Counted { clients, users, is_new } => {
                        Item::Counted(channel, home, version, *clients, *users, *is_new)
                    }
                    PresenceNews::Changed { after, joined, left } => {
                        Item::Changed(channel, home, version, *after, WireClient::all_of(joined), left.clone())
                    }
                }
            }
            Announcement::PresenceTold { shard, after, to } => {
                Item::Told(*shard, *after, to.iter().map(ToString::to_string).collect())
            }
            Announcement::AskPresence { session } => Item::Ask(session.to_string()),
            Announcement::Typing { channel, user } => {
                Item::Typing(WireChannel::of(channel), user.id.0, user.username.to_string())
            }
            Announcement::Survey { number, attempt, survey } => Item::Survey(*number, *attempt, WireSurvey::of(survey)),
            Announcement::Findings { to, number, attempt, part, parts, findings } => {
                Item::Findings(to.to_string(), *number, *attempt, *part, *parts, WireFindings::of(findings))
            }
        }
    }

    /// `None`: it makes no sense.
    fn announcement(self) -> Option<Announcement> {
        let user_event = |user, event| Some(Announcement::User { user: UserId(user), event });
        let presence = |channel: WireChannel, WireHome(shard, home), version, news| {
            let channel = channel.channel();
            Some(Announcement::Presence(Box::new(NodePresence { channel, shard, home, version, news })))
        };
        match self {
            Item::Publication(room, generation, offset, number, kind, user, username, id, time, target, body) => {
                let generation = DatabaseGeneration(u64::from_str_radix(&generation, 16).ok()?);
                // The body of an edit or a deletion means something only together with its kind.
                let kind = Some(Kind::from_number(kind)).filter(|kind| *kind != Kind::Unknown)?;
                let user = User { id: UserId(user), username: username.into() };
                let (id, body) = (id.into(), body.map(Into::into));
                let (edited, deleted, meta) = (None, None, None);
                let publication =
                    Publication { offset, number, kind, user, id, time, target, body, edited, deleted, meta };
                Some(Announcement::Stored { room: RoomId(room), generation, publication: Box::new(publication) })
            }
            Item::WithMeta(room, generation, offset, number, kind, user, username, id, time, target, body, meta) => {
                let without =
                    Item::Publication(room, generation, offset, number, kind, user, username, id, time, target, body);
                let mut announcement = without.announcement()?;
                if let Announcement::Stored { publication, .. } = &mut announcement {
                    publication.meta = Some(meta.into());
                }
                Some(announcement)
            }
            Item::Head(room) => Some(Announcement::Head { room: RoomId(room) }),
            Item::Read(user, room, id, offset, number) => {
                let (room, id, marker) = (room.into(), RoomId(id), Marker { offset, number });
                user_event(user, UserEvent::Read { room, id, marker })
            }
            Item::Live(channel, user, username, time, data, is_json) => {
                let user = (user != NOBODY).then(|| User { id: UserId(user), username: username.into() });
                let entry = LiveEntry { user, time, data: data.into(), is_json };
                Some(Announcement::Live { channel: channel.into(), entry })
            }
            Item::Joined(user, room) => user_event(user, UserEvent::Joined { room: room.into() }),
            Item::Left(user, room) => user_event(user, UserEvent::Left { room: room.into() }),
            Item::Renamed(user, username) => user_event(user, UserEvent::Renamed { username: username.into() }),
            Item::Event(user, data) => user_event(user, UserEvent::Data { data: data.into() }),
            Item::Survey(number, attempt, survey) => {
                Some(Announcement::Survey { number, attempt, survey: survey.survey()? })
            }
            Item::Findings(to, number, attempt, part, parts, findings) => {
                let findings = Box::new(findings.findings());
                Some(Announcement::Findings { to: to.into(), number, attempt, part, parts, findings })
            }
            Item::Clients(channel, home, version, clients, part, parts, is_new) => {
                let clients = WireClient::clients(clients);
                presence(channel, home, version, PresenceNews::All { clients, part, parts, is_new })
            }
            Item::Counted(channel, home, version, clients, users, is_new) => {
                presence(channel, home, version, PresenceNews::Counted { clients, users, is_new })
            }
            Item::Changed(channel, home, version, after, joined, left) => {
                let joined = WireClient::clients(joined);
                presence(channel, home, version, PresenceNews::Changed { after, joined, left })
            }
            Item::Told(shard, after, to) => {
                let to = to.into_iter().map(Into::into).collect();
                Some(Announcement::PresenceTold { shard, after, to })
            }
            Item::Ask(session) => Some(Announcement::AskPresence { session: session.into() }),
            Item::Typing(channel, user, username) => {
                let user = User { id: UserId(user), username: username.into() };
                Some(Announcement::Typing { channel: channel.channel(), user })
            }
        }
    }
}

impl Envelope {
    /// How many announcements the session had made after those in this message.
    pub fn after(&self) -> Counts {
        let mut after = self.before;
        self.announcements.iter().for_each(|announcement| after.count(announcement));
        after.add(Counts { live: 0, others: self.unknown });
        after
    }
}

impl Heard {
    pub fn decode(text: &str, cluster: &str) -> Result<Heard, Foreign> {
        let wire: Wire = serde_json::from_str(text).map_err(|_| Foreign::Garbage)?;
        if wire.cluster != cluster {
            return Err(Foreign::Cluster);
        }
        match wire {
            Wire { from: Some(session), before: Some(before), a, last: is_last, beat, .. } => {
                let count = a.len();
                let known = |item: Value| serde_json::from_value::<Item>(item).ok()?.announcement();
                let announcements: Vec<_> = a.into_iter().filter_map(known).collect();
                let unknown = (count - announcements.len()) as u64;
                Ok(Heard::Envelope(Envelope { session, before, announcements, unknown, is_last, beat }))
            }
            Wire { now: Some(now), .. } => Ok(Heard::Loss(match serde_json::from_value(now) {
                Ok(Now::Head(room)) => Loss::Room(RoomId(room)),
                Ok(Now::Tokens(_)) => Loss::Tokens,
                Err(_) => Loss::Unknown,
            })),
            _ => Err(Foreign::Garbage),
        }
    }
}

/// The announcements of this node that are still to be sent.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub cluster: String,
    pub session: String,
    /// The longest message, in bytes.
    limit_bytes: usize,
    waiting: VecDeque<Announcement>,
    /// How many announcements were made before the first one that waits.
    before: Counts,
    /// Announcements that were dropped behind those that wait.
    dropped: Counts,
}

impl Outgoing {
    pub fn new(cluster: String, session: String, limit_bytes: usize) -> Outgoing {
        Outgoing {
            cluster,
            session,
            limit_bytes,
            waiting: VecDeque::new(),
            before: Counts::default(),
            dropped: Counts::default(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub fn is_busy(&self) -> bool {
        self.waiting.len() > WAITING_LIMIT / 4
    }

    /// False: it was dropped, because too many wait.
    pub fn push(&mut self, announcement: Announcement) -> bool {
        // What comes after something that was dropped must wait until the gap can be reported.
        let has_dropped = self.dropped != Counts::default();
        if self.waiting.len() >= WAITING_LIMIT || has_dropped && !self.waiting.is_empty() {
            self.dropped.count(&announcement);
            return false;
        }
        self.settle();
        self.waiting.push_back(match announcement {
            // It does not fit.
            Announcement::Stored { room, publication, .. }
                if [&publication.body, &publication.meta]
                    .into_iter()
                    .flatten()
                    .any(|text| text.len() >= self.limit_bytes) =>
            {
                Announcement::Head { room }
            }
            announcement => announcement,
        });
        true
    }

    /// Announcements were dropped on their way here.
    pub fn skip(&mut self, dropped: Counts) {
        self.dropped.add(dropped);
        self.settle();
    }

    /// Counts what was dropped, once everything before it has been sent.
    fn settle(&mut self) {
        if self.waiting.is_empty() {
            self.before.add(std::mem::take(&mut self.dropped));
        }
    }

    /// At most `limit` messages with what waits.
    pub fn take(&mut self, limit: usize) -> Vec<String> {
        let mut messages = Vec::new();
        while messages.len() < limit && !self.waiting.is_empty() {
            messages.push(self.message());
        }
        self.settle();
        messages
    }

    fn message(&mut self) -> String {
        let mut after = self.before;
        let mut items = Vec::new();
        let mut room = self.limit_bytes.saturating_sub(self.head(None, false).len() + r#","a":[]"#.len());
        while let Some(announcement) = self.waiting.front() {
            let mut item = serde_json::to_string(&Item::of(announcement)).unwrap_or_default();
            // One that does not even fit alone is announced without its text.
            if items.is_empty()
                && item.len() > room
                && let Announcement::Stored { room, .. } = announcement
            {
                item = serde_json::to_string(&Item::Head(room.0)).unwrap_or_default();
            }
            if !items.is_empty() && item.len() + 1 > room {
                break;
            }
            after.count(announcement);
            room = room.saturating_sub(item.len() + 1);
            items.push(item);
            self.waiting.pop_front();
        }
        let mut message = self.head(None, false);
        message.truncate(message.len() - 1);
        message.push_str(r#","a":["#);
        message.push_str(&items.join(","));
        message.push_str("]}");
        self.before = after;
        message
    }

    /// Says how many announcements were made. It is sent after those that wait.
    pub fn beat(&self, number: u64) -> String {
        self.head(Some(number), false)
    }

    /// Says that this session ends.
    pub fn last(&self) -> String {
        self.head(None, true)
    }

    fn head(&self, beat: Option<u64>, last: bool) -> String {
        let (cluster, from) = (self.cluster.clone(), Some(self.session.clone()));
        let wire = Wire { cluster, from, before: Some(self.before), beat, last, a: Vec::new(), now: None };
        serde_json::to_string(&wire).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::survey::{Expiry, Findings, Pattern, Survey};

    fn stored(offset: u64, text: &str) -> Announcement {
        let publication = Publication {
            offset,
            number: offset,
            kind: Kind::Message,
            user: user(),
            id: "1".into(),
            time: 1_700,
            target: Some(1),
            body: Some(text.into()),
            edited: None,
            deleted: None,
            meta: None,
        };
        Announcement::Stored {
            room: RoomId(7),
            generation: DatabaseGeneration(0xabc),
            publication: Box::new(publication),
        }
    }

    fn live(data: &str) -> Announcement {
        let entry = LiveEntry { user: Some(user()), time: 1_700, data: data.into(), is_json: true };
        Announcement::Live { channel: "cursors".into(), entry }
    }

    fn user() -> User {
        User { id: UserId(5), username: "Ann".into() }
    }

    fn clients() -> Vec<ClientInfo> {
        ["a-1", "b-1"].map(|client| ClientInfo { user: user(), client: client.to_owned() }).into()
    }

    fn presence(news: PresenceNews) -> Announcement {
        let channel = Channel::Live("cursors".into());
        Announcement::Presence(Box::new(NodePresence { channel, shard: 1, home: 3, version: 9, news }))
    }

    /// One of each kind, and an answer.
    fn surveys() -> Vec<Announcement> {
        let (user, client) = (UserId(5), Some("a-1".into()));
        let surveys = [
            Survey::Presence { channel: Channel::Room(RoomId(7)) },
            Survey::PresenceStats { channel: Channel::Live("cursors".into()) },
            Survey::Channels { pattern: Some(Pattern::new("room:*").unwrap()) },
            Survey::Channels { pattern: None },
            Survey::Unsubscribe { user, channel: "room:lobby".into(), client },
            Survey::Disconnect { user, client: None, spared: vec!["a-1".into()], code: 4001, reason: "go".into() },
            Survey::Refresh { user, client: None, expiry: Expiry::Now },
            Survey::Refresh { user, client: None, expiry: Expiry::At(1_700) },
            Survey::Refresh { user, client: None, expiry: Expiry::Never },
        ];
        let survey = |(number, survey)| Announcement::Survey { number, attempt: 2, survey };
        let findings = Findings {
            clients: clients(),
            client_count: 9,
            users: [UserId(5), UserId(6)].into(),
            other_users: 8,
            channels: [("room:lobby".into(), 3)].into(),
            has_more: true,
        };
        let findings = Box::new(findings);
        let findings = Announcement::Findings { to: "t".into(), number: 3, attempt: 2, part: 0, parts: 4, findings };
        (0..).zip(surveys).map(survey).chain([findings]).collect()
    }

    fn counts(live: u64, others: u64) -> Counts {
        Counts { live, others }
    }

    fn outgoing() -> Outgoing {
        Outgoing::new("c".to_owned(), "s".to_owned(), 7_900)
    }

    fn decode(text: &str) -> Envelope {
        match Heard::decode(text, "c").unwrap() {
            Heard::Envelope(envelope) => envelope,
            loss => panic!("{loss:?}"),
        }
    }

    #[test]
    fn announcements_survive_the_bus() {
        let room: std::sync::Arc<str> = "lobby".into();
        let marker = Marker { offset: 4, number: 3 };
        let mut with_meta = stored(2, "x");
        let Announcement::Stored { publication, .. } = &mut with_meta else { panic!("it is one") };
        publication.meta = Some(r#"{"a":"\\"}"#.into());
        let mut all = vec![
            stored(1, "grüß \u{1f600} \"dich\"\n"),
            with_meta,
            Announcement::Head { room: RoomId(8) },
            Announcement::User {
                user: UserId(5),
                event: UserEvent::Read { room: room.clone(), id: RoomId(7), marker },
            },
            Announcement::User { user: UserId(5), event: UserEvent::Joined { room: room.clone() } },
            Announcement::User { user: UserId(5), event: UserEvent::Left { room } },
            live("{\"x\":1}"),
            presence(PresenceNews::All { clients: clients(), part: 0, parts: 2, is_new: true }),
            presence(PresenceNews::Counted { clients: 300, users: 200, is_new: false }),
            presence(PresenceNews::Changed { after: 8, joined: clients(), left: vec!["a-2".to_owned()] }),
            Announcement::PresenceTold { shard: 1, after: 9, to: vec!["t".into()] },
            Announcement::AskPresence { session: "t".into() },
            Announcement::Typing { channel: Channel::Room(RoomId(7)), user: user() },
            Announcement::User { user: UserId(5), event: UserEvent::Renamed { username: "Anna".into() } },
            Announcement::User { user: UserId(5), event: UserEvent::Data { data: "{\"n\":1}".into() } },
        ];
        all.extend(surveys());
        let mut outgoing = outgoing();
        assert!(all.iter().all(|announcement| outgoing.push(announcement.clone())));
        let [message] = &outgoing.take(9)[..] else { panic!("not one message") };
        let envelope = decode(message);
        let after = counts(1, all.len() as u64 - 1);
        assert_eq!(envelope.after(), after);
        assert_eq!((envelope.before, envelope.unknown, envelope.announcements), (counts(0, 0), 0, all));
        let beat = decode(&outgoing.beat(3));
        assert_eq!((beat.before, beat.beat, beat.is_last, &*beat.session), (after, Some(3), false, "s"));
        assert!(decode(&outgoing.last()).is_last);
    }

    #[test]
    fn messages_keep_their_limit_and_long_texts_become_heads() {
        let mut outgoing = outgoing();
        // In JSON, each of these has six bytes.
        let escaped = "\u{1}".repeat(1_320);
        for (offset, text) in ["x".repeat(3_000), "y".repeat(5_000), escaped, "z".repeat(9_000)].iter().enumerate() {
            outgoing.push(stored(offset as u64 + 1, text));
        }
        let messages = outgoing.take(9);
        assert!(messages.iter().all(|message| message.len() <= 7_900), "{:?}", messages.iter().map(String::len));
        let envelopes: Vec<_> = messages.iter().map(|message| decode(message)).collect();
        let before: Vec<_> = envelopes.iter().map(|envelope| envelope.before.others).collect();
        assert_eq!(before, [0, 1, 2], "the two heads share a message");
        let heads = envelopes.iter().flat_map(|envelope| &envelope.announcements);
        let heads: Vec<_> = heads.map(|announcement| matches!(announcement, Announcement::Head { .. })).collect();
        assert_eq!(heads, [false, false, true, true]);
    }

    #[test]
    fn what_was_dropped_leaves_a_gap_in_the_numbers() {
        let mut outgoing = outgoing();
        for offset in 1..=WAITING_LIMIT as u64 {
            assert!(outgoing.push(stored(offset, "x")));
        }
        assert!(!outgoing.push(stored(0, "too many")));
        outgoing.skip(counts(1, 1));
        let sent = outgoing.take(usize::MAX).iter().map(|message| decode(message).announcements.len()).sum::<usize>();
        assert_eq!(sent, WAITING_LIMIT);
        assert!(outgoing.push(stored(1, "next")));
        assert_eq!(decode(&outgoing.take(1)[0]).before, counts(1, WAITING_LIMIT as u64 + 2));
    }

    #[test]
    fn foreign_messages_are_told_apart() {
        for garbage in ["", "hello", "{}", "[]", r#"{"cluster":"c","from":"s","before":{"live":-1}}"#, "\u{0}", "null"]
        {
            assert_eq!(Heard::decode(garbage, "c"), Err(Foreign::Garbage), "{garbage}");
        }
        let other = Outgoing::new("other".to_owned(), "s".to_owned(), 7_900).beat(1);
        for other in [&*other, r#"{"cluster":"other","now":{"h":1}}"#] {
            assert_eq!(Heard::decode(other, "c"), Err(Foreign::Cluster), "{other}");
        }
    }

    /// As the function `tell_nodes` writes it.
    #[test]
    fn a_transaction_tells_what_it_has_taken_away() {
        let decode = |now: &str| match Heard::decode(&format!(r#"{{"cluster" : "c", "now" : {now}}}"#), "c") {
            Ok(Heard::Loss(loss)) => loss,
            other => panic!("{other:?}"),
        };
        assert_eq!(decode(r#"{"h" : 7}"#), Loss::Room(RoomId(7)));
        assert_eq!(decode(r#"{"k" : 5}"#), Loss::Tokens);
        for unknown in [r#"{"h":"x"}"#, r#"{"new":1}"#, r#"{"h":1,"k":2}"#, "[]", "7"] {
            assert_eq!(decode(unknown), Loss::Unknown, "{unknown}");
        }
    }

    /// Fields and kinds of a newer release, and values that make no sense.
    #[test]
    fn what_is_unknown_is_counted() {
        let text = r#"{"cluster":"c","from":"s","before":{"others":4},"new":[1],"a":[{"h":9},{"z":1},{"h":"x"},
            {"p":[7,"xyz",1,1,0,5,"Ann","1",1,null,"x"]},{"p":[7,"a",1,1,99,5,"Ann","1",1,null,"x"]}]}"#;
        let envelope = decode(text);
        assert_eq!((envelope.before, envelope.unknown), (counts(0, 4), 4));
        assert_eq!(envelope.announcements, [Announcement::Head { room: RoomId(9) }]);
    }
}
