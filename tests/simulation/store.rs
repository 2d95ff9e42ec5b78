//! The simulator's database: the store in memory, which passes the store test suite, and a record of every text.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::sync::Arc;
use uproar_core::message::{Found, Party, StoreReply};
use uproar_model::{
    DatabaseGeneration, Epoch, Head, Item, Kind, Offset, Outcome, Publication, Refusal, Role, RoomId, Swept,
    UnixMillis, User, UserId,
};
use uproar_store::memory::MemoryStore;
use uproar_store::{Admission, JoinError, NewRoom, PageRequest, RoomChange, RoomKind, WhoMay};

pub struct SimStore {
    /// Set by tests of the simulator.
    pub mistake: Option<Mistake>,
    /// What the store has accepted that it should have refused.
    pub broken: Option<String>,
    /// Items that were refused because their sender was silenced.
    silenced: BTreeSet<(RoomId, UserId, Arc<str>)>,
    now: History,
    /// What the database had in earlier generations, when each of them ended.
    past: BTreeMap<u64, History>,
}

/// A mistake of the store about who may post.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// Members are judged as they were when the batch was sent.
    JudgesEarly,
    /// What was refused because its sender is silenced is stored when it comes again.
    LetsRetriesThrough,
}

/// Who may post, as the simulator keeps it to check the store.
#[derive(Clone, Default)]
struct Rights {
    bans: BTreeMap<(RoomId, UserId), UnixMillis>,
    silences: BTreeMap<(RoomId, UserId), UnixMillis>,
    /// The slow mode in seconds, and who may post.
    rooms: BTreeMap<RoomId, (u32, WhoMay)>,
    moderators: BTreeSet<(RoomId, UserId)>,
    /// When members posted last in rooms with slow mode.
    posted: BTreeMap<(RoomId, UserId), UnixMillis>,
}

/// Everything that the database has at some time.
#[derive(Clone)]
pub struct History {
    rights: Rights,
    store: MemoryStore,
    rooms: Vec<RoomId>,
    versions: BTreeMap<(RoomId, Offset), Vec<Version>>,
}

/// The meta with which clients send the message with this id. It survives edits.
pub fn meta_of(id: &str) -> Value {
    let number = id.rsplit_once('-').and_then(|(_, number)| number.parse::<u64>().ok());
    number.filter(|number| number % 3 == 0).map_or(Value::Null, Value::from)
}

/// The meta with which a publication must be shown, if it is shown with this text.
pub fn shown_meta(row: &Publication, text: Option<&str>) -> Value {
    let has_meta = row.kind == Kind::Message && text.is_some() && !row.id.starts_with('~');
    if has_meta { meta_of(&row.id) } else { Value::Null }
}

/// The text of a message from an offset on, which is its own offset or that of an edit. None: it is deleted.
pub type Version = (Offset, Option<String>);

impl SimStore {
    /// A store with `rooms` public rooms: `room0`, `room1`, …
    pub fn new(rooms: usize, join_leave_limit: u64) -> SimStore {
        let mut store = MemoryStore::with_join_leave_limit(join_leave_limit);
        let owner = store.ensure_user("owner", "owner");
        let create = |index| {
            let name = format!("room{index}");
            let room = NewRoom { name, title: String::new(), kind: RoomKind::Public, size: 1_000, owner };
            store.create_room(0, room).expect("a new room").id
        };
        let rooms = (0..rooms).map(create).collect();
        let now = History { rights: Rights::default(), store, rooms, versions: BTreeMap::new() };
        SimStore { mistake: None, broken: None, silenced: BTreeSet::new(), now, past: BTreeMap::new() }
    }

    pub fn add_user(&mut self, name: &str) -> i64 {
        self.now.store.ensure_user(name, name).0
    }

    pub fn rename(&mut self, user: i64, name: &str) {
        self.now.store.rename_user(UserId(user), name, name).expect("a name that is free");
    }

    pub fn user(&self, user: UserId) -> StoreReply {
        let account = self.now.store.account(user);
        StoreReply::User(account.map(|account| Found { user: User::from(&account), revocation: account.revocation() }))
    }

    /// The store as it is now, for [`SimStore::fail_over`].
    pub fn copy(&self) -> History {
        self.now.clone()
    }

    /// The history that an epoch belongs to. None: it is not one of this database.
    pub fn history(&self, epoch: &str) -> Option<&History> {
        let generation = Epoch(epoch.into()).generation()?;
        if generation == self.generation() { Some(&self.now) } else { self.past.get(&generation.0) }
    }

    /// A publication of the present history, or else of an earlier one, if `is_it` says so. Also whether it is present.
    pub fn find(
        &self,
        room: RoomId,
        offset: Offset,
        is_it: impl Fn(&Publication) -> bool,
    ) -> Option<(Publication, bool)> {
        let histories = [(&self.now, true)].into_iter().chain(self.past.values().rev().map(|past| (past, false)));
        let mut rows = histories.filter_map(|(history, is_now)| Some((history.row(room, offset)?, is_now)));
        rows.find(|(row, _)| is_it(row))
    }

    /// A standby takes over that has only what this copy has. It begins a new generation.
    pub fn fail_over(&mut self, to: History) {
        self.past.insert(self.generation().0, self.copy());
        let generation = DatabaseGeneration(self.generation().0 + 1);
        self.go_back(to);
        self.now.store.begin_generation(generation);
    }

    /// The same, but nobody notices: the generation stays.
    pub fn go_back(&mut self, to: History) {
        self.now = to;
    }

    pub fn delete_room(&mut self, room: usize) {
        self.now.store.delete_room(0, &format!("room{room}"), UserId(1), 0).expect("its owner may delete it");
    }

    /// What the reader does.
    pub fn admit(&mut self, now: UnixMillis, name: &str, user: UserId) -> Result<Admission, JoinError> {
        let wanted = [(name.to_owned(), user)];
        let admitted = match self.now.store.admit_members(now, &wanted).pop().expect("one answer for each request")? {
            Some(admission) => Ok(admission),
            None => self.now.store.admit(now, &wanted).pop().expect("one answer for each request"),
        };
        if let Ok(admission) = &admitted {
            let room = self.rooms.iter().position(|room| *room == admission.room).expect("a room of the simulator");
            self.check_ban(now, room, user.0, true);
        }
        admitted
    }

    /// Nobody who is banned comes in.
    fn check_ban(&mut self, now: UnixMillis, room: usize, user: i64, came_in: bool) {
        let until = self.now.rights.bans.get(&(self.room_id(room), UserId(user))).copied().unwrap_or(0);
        if came_in && until > now {
            self.broken = Some(format!("user {user} came into room {room} at {now}, and is banned until {until}"));
        }
    }

    /// Admits a user who is a member of this room.
    pub fn admit_member(&self, now: UnixMillis, name: &str, user: UserId) -> StoreReply {
        let wanted = [(name.to_owned(), user)];
        match self.now.store.admit_members(now, &wanted).pop().expect("one answer for each request") {
            Ok(None) => StoreReply::NotMember,
            Ok(Some(admission)) => StoreReply::Admitted(Ok(admission)),
            Err(error) => StoreReply::Admitted(Err(error)),
        }
    }

    /// Makes a user a member of a room, as a call over HTTP does. None: nothing is published.
    pub fn join(&mut self, now: UnixMillis, room: usize, user: i64) -> Option<Publication> {
        let joined = self.now.store.join(now, &format!("room{room}"), UserId(user));
        self.check_ban(now, room, user, joined.is_ok());
        joined.ok()?.publication
    }

    pub fn is_member(&self, room: usize, user: i64) -> bool {
        self.now.store.read_markers(&[(self.room_id(room), UserId(user))])[0].is_some()
    }

    /// Removes a member from a room. None: the user is not a member.
    pub fn remove(&mut self, now: UnixMillis, room: usize, user: i64) -> Option<Publication> {
        let key = self.now.store.account(UserId(user))?.username.to_string();
        let removal = self.now.store.remove_member(now, &format!("room{room}"), UserId(user), &key);
        if removal.is_ok() {
            self.now.rights.forget(self.now.rooms[room], UserId(user));
        }
        removal.ok().map(|removal| removal.publication)
    }

    /// Takes rights away or gives them, as the owner. Returns what is to be shown; nothing if nothing has changed, for
    /// example because the user is no member.
    pub fn change(&mut self, now: UnixMillis, room: usize, change: &RoomChange) -> Vec<Publication> {
        let (id, name) = (self.room_id(room), format!("room{room}"));
        let Ok(changed) = self.now.store.change_room(now, &name, UserId(1), change) else { return Vec::new() };
        self.now.rights.follow(id, changed.subject.map(|user| user.id), change);
        for row in changed.publications.iter().filter(|row| row.kind == Kind::Delete) {
            let message = row.target.expect("a target");
            self.now.versions.entry((id, message)).or_default().push((row.offset, None));
        }
        changed.publications
    }

    pub fn username(&self, user: i64) -> String {
        self.now.store.account(UserId(user)).expect("a user").username.to_string()
    }

    pub fn append(&mut self, now: UnixMillis, items: &[Item]) -> Vec<Outcome> {
        self.append_sent_when(None, now, items)
    }

    /// `sent`: what the store had when the items were sent. It matters only to [`Mistake::JudgesEarly`].
    pub fn append_sent_when(&mut self, sent: Option<&History>, now: UnixMillis, items: &[Item]) -> Vec<Outcome> {
        let outcomes = match (self.mistake, sent) {
            (Some(Mistake::JudgesEarly), Some(sent)) => self.now.store.append_by_rights_of(&sent.store, now, items),
            (Some(Mistake::LetsRetriesThrough), _) => items.iter().map(|item| self.let_through(now, item)).collect(),
            _ => self.now.store.append(now, items),
        };
        for (item, outcome) in items.iter().zip(&outcomes) {
            if let Outcome::Refused(Refusal::Silenced { .. }) = outcome {
                self.silenced.insert((item.room, item.user, Arc::clone(&item.id)));
            }
            let Outcome::New(stored) = outcome else { continue };
            if let Err(broken) = self.now.check_rights(item, now) {
                self.broken = Some(format!("the store accepted {item:?} at {now}: {broken}"));
            }
            let (message, text) = match item.kind {
                Kind::Message => (stored.offset, item.body.as_deref()),
                Kind::Edit => (item.target.expect("a target"), item.body.as_deref()),
                Kind::Delete => (item.target.expect("a target"), None),
                _ => continue,
            };
            let versions = self.now.versions.entry((item.room, message)).or_default();
            versions.push((stored.offset, text.map(str::to_owned)));
        }
        outcomes
    }

    fn let_through(&mut self, now: UnixMillis, item: &Item) -> Outcome {
        let was_refused = self.silenced.contains(&(item.room, item.user, Arc::clone(&item.id)));
        let until = self.now.rights.silences.get(&(item.room, item.user)).copied().filter(|_| was_refused);
        if until.is_some() {
            self.now.store.silence(item.room, item.user, None);
        }
        let outcome = self.now.store.append(now, std::slice::from_ref(item)).pop().expect("one outcome");
        if until.is_some() {
            self.now.store.silence(item.room, item.user, until);
        }
        outcome
    }
}

impl Rights {
    /// A silence and a ban outlast the membership.
    fn forget(&mut self, room: RoomId, user: UserId) {
        self.moderators.remove(&(room, user));
        self.posted.remove(&(room, user));
    }

    fn follow(&mut self, room: RoomId, user: Option<UserId>, change: &RoomChange) {
        let key = (room, user.unwrap_or(UserId(0)));
        match change {
            RoomChange::Role { role: Role::Member, .. } => _ = self.moderators.remove(&key),
            RoomChange::Role { .. } => _ = self.moderators.insert(key),
            RoomChange::Ban { until, .. } => {
                self.forget(room, key.1);
                self.bans.insert(key, until.unwrap_or(UnixMillis::MAX));
            }
            RoomChange::Unban { .. } => _ = self.bans.remove(&key),
            RoomChange::Silence { until, .. } => _ = self.silences.insert(key, *until),
            RoomChange::Unsilence { .. } => _ = self.silences.remove(&key),
            RoomChange::Settings(settings) => {
                let (slow_mode_seconds, who_may_post) = self.rooms.entry(room).or_insert((0, WhoMay::Members));
                *slow_mode_seconds = settings.slow_mode_seconds.unwrap_or(*slow_mode_seconds);
                *who_may_post = settings.who_may_post.unwrap_or(*who_may_post);
            }
            RoomChange::Pin(_) | RoomChange::Unpin(_) => {}
        }
    }
}

/// The present history.
impl Deref for SimStore {
    type Target = History;

    fn deref(&self) -> &History {
        &self.now
    }
}

impl History {
    /// Whether something that was stored in this generation may be a part of this history.
    pub fn is_of_or_after(&self, generation: DatabaseGeneration) -> bool {
        generation.0 <= self.generation().0
    }

    pub fn room_id(&self, room: usize) -> RoomId {
        self.rooms[room]
    }

    pub fn head(&self, room: usize) -> Offset {
        self.head_of(self.rooms[room]).map_or(0, |head| head.offset)
    }

    pub fn head_of(&self, room: RoomId) -> Option<Head> {
        self.store.heads(&[room]).pop().flatten()
    }

    pub fn generation(&self) -> DatabaseGeneration {
        self.store.generation()
    }

    pub fn sweep(&self, heads: &[(RoomId, Offset)]) -> Swept {
        self.store.sweep(heads)
    }

    pub fn row(&self, room: RoomId, offset: Offset) -> Option<Publication> {
        let from = offset.checked_sub(1)?;
        let request = PageRequest { from, ascending: true, up_to: offset, items_limit: 1, bytes_limit: usize::MAX };
        self.store.page(room, request, &[])?.0.publications.pop()
    }

    /// Whether an item that is stored now may be.
    fn check_rights(&mut self, item: &Item, now: UnixMillis) -> Result<(), String> {
        let key = (item.room, item.user);
        if self.store.read_markers(&[key])[0].is_none() {
            return Err("its sender is not a member".into());
        }
        let until = self.rights.silences.get(&key).copied().unwrap_or(0);
        if until > now && matches!(item.kind, Kind::Message | Kind::Edit | Kind::React) {
            return Err(format!("its sender is silenced until {until}"));
        }
        if item.kind != Kind::Message {
            return Ok(());
        }
        let (slow_mode_seconds, who_may_post) =
            self.rights.rooms.get(&item.room).copied().unwrap_or((0, WhoMay::Members));
        let is_moderator = self.rights.moderators.contains(&key);
        if who_may_post == WhoMay::Nobody || who_may_post == WhoMay::Moderators && !is_moderator {
            return Err("its sender may not post in this room".into());
        }
        if slow_mode_seconds > 0 && !is_moderator {
            let last = self.rights.posted.insert(key, now);
            if let Some(last) = last.filter(|last| now < last + u64::from(slow_mode_seconds) * 1000) {
                return Err(format!("its sender posted at {last}, and the room is in slow mode"));
            }
        }
        Ok(())
    }

    /// The senders and ids of everything in a room.
    pub fn ids(&self, room: usize) -> BTreeSet<(UserId, Arc<str>)> {
        let rows = (1..=self.head(room)).filter_map(|offset| self.row(self.rooms[room], offset));
        rows.map(|row| (row.user.id, row.id)).collect()
    }

    /// What the reader answers.
    pub fn page(&self, room: RoomId, request: PageRequest, party: &Party) -> StoreReply {
        let viewer = if let Party::User(user) = party { Some(*user) } else { None };
        match self.store.page(room, request, viewer.as_slice()) {
            None => StoreReply::Page(None),
            Some((_, members)) if members.len() < viewer.as_slice().len() => StoreReply::NotMember,
            Some((page, _)) => StoreReply::Page(Some(Arc::new(page))),
        }
    }

    /// Checks that the log of a room tells who is a member.
    pub fn check_members(&self, room: usize) -> Result<(), String> {
        let name = format!("room{room}");
        let owner = self.store.room(&name, UserId(1)).ok_or("no room")?;
        let mut members = BTreeSet::from([UserId(1)]);
        for offset in 1..=self.head(room) {
            let row = self.row(self.rooms[room], offset).ok_or("a gap")?;
            let Some(member) = row.member() else { continue };
            let user = UserId(member.id.parse().map_err(|_| "not an id")?);
            let has_changed = if row.kind == Kind::Added { members.insert(user) } else { members.remove(&user) };
            if !has_changed {
                return Err(format!("{row:?} changes nothing"));
            }
        }
        match members.len() as u64 == u64::from(owner.members) {
            true => Ok(()),
            false => Err(format!("{name} has {} members, and its log tells of {members:?}", owner.members)),
        }
    }

    /// Whether a message had this text at the offset `from` or later.
    pub fn had_text(&self, room: RoomId, message: Offset, from: Offset, text: Option<&str>) -> bool {
        let versions = self.versions.get(&(room, message)).map_or(&[][..], Vec::as_slice);
        let first = versions.iter().rposition(|(at, _)| *at <= from).unwrap_or(0);
        versions[first..].iter().any(|(_, version)| version.as_deref() == text)
    }

    /// Whether a message that is shown with this text may also be shown as last edited at `edited`.
    pub fn is_edited_at(&self, room: RoomId, row: &Publication, edited: Option<Offset>, text: Option<&str>) -> bool {
        if row.kind != Kind::Message || text.is_none() {
            return edited.is_none();
        }
        let versions = self.versions.get(&(room, row.offset)).map_or(&[][..], Vec::as_slice);
        match edited {
            None => versions.first().is_some_and(|(_, first)| first.as_deref() == text),
            // An edit that is read from the store may carry a text that is newer than its own.
            Some(edited) => {
                edited > row.offset
                    && versions.iter().any(|(at, _)| *at == edited)
                    && self.had_text(room, row.offset, edited, text)
            }
        }
    }

    /// Whether `text` is the content that a row had at the offset `from` or later (edits change the text of messages).
    /// `text` is `None` if the row is shown as deleted.
    pub fn shows(&self, room: RoomId, row: &Publication, from: Offset, text: Option<&str>) -> bool {
        match row.kind {
            Kind::Message => self.had_text(room, row.offset, from, text),
            Kind::Edit => self.had_text(room, row.target.expect("a target"), from.max(row.offset), text),
            _ => text.is_none(),
        }
    }
}
