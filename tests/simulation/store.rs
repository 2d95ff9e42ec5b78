//! The simulator's database: the store in memory, which passes the store test suite, and a record of every text.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::sync::Arc;
use uproar_core::message::{Found, Party, StoreReply};
use uproar_model::{
    DatabaseGeneration, Epoch, Head, Item, Kind, Offset, Outcome, Publication, RoomId, Swept, UnixMillis, User, UserId,
};
use uproar_store::memory::MemoryStore;
use uproar_store::{Admission, JoinError, NewRoom, PageRequest, RoomKind};

pub struct SimStore {
    now: History,
    /// What the database had in earlier generations, when each of them ended.
    past: BTreeMap<u64, History>,
}

/// Everything that the database has at some time.
#[derive(Clone)]
pub struct History {
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
        SimStore { now: History { store, rooms, versions: BTreeMap::new() }, past: BTreeMap::new() }
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
        match self.now.store.admit_members(now, &wanted).pop().expect("one answer for each request")? {
            Some(admission) => Ok(admission),
            None => self.now.store.admit(now, &wanted).pop().expect("one answer for each request"),
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
        self.now
            .store
            .join(now, &format!("room{room}"), UserId(user))
            .expect("the rooms are public and large")
            .publication
    }

    pub fn is_member(&self, room: usize, user: i64) -> bool {
        self.now.store.read_markers(&[(self.room_id(room), UserId(user))])[0].is_some()
    }

    /// Removes a member from a room. None: the user is not a member.
    pub fn remove(&mut self, now: UnixMillis, room: usize, user: i64) -> Option<Publication> {
        let key = self.now.store.account(UserId(user))?.username.to_string();
        let removal = self.now.store.remove_member(now, &format!("room{room}"), UserId(user), &key);
        removal.ok().map(|removal| removal.publication)
    }

    pub fn append(&mut self, now: UnixMillis, items: &[Item]) -> Vec<Outcome> {
        let outcomes = self.now.store.append(now, items);
        for (item, outcome) in items.iter().zip(&outcomes) {
            let Outcome::New(stored) = outcome else { continue };
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
