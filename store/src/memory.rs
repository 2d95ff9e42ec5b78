//! The store as a plain value: no database, no clock, no randomness, and the same answers every time. The simulator
//! runs on it, and the test suite compares the databases with it. So it decides for itself, one item after the other,
//! in the simplest way.

mod rights;

use crate::api_keys::KEYS_LIMIT;
use crate::check::{is_storable, refusal, require_storable, rows_limit};
use crate::commits::Commits;
use crate::connection::unix_millis;
use crate::direct;
use crate::error::{
    ApiKeyError, AppendError, CreateUserError, InviteEnd, InvitedUserError, RenameError, RoomError, StoreError,
};
use crate::history::{PAGE_ITEMS_LIMIT, more};
use crate::hooks::CANNOT_MANAGE;
use crate::invites::CANNOT_INVITE;
use crate::memory::rights::{StoredAudit, StoredBan};
use crate::names;
use crate::objects::{
    Account, Addition, ApiKey, AuditEntry, BanPage, Batch, Block, BlockChange, Cursor, DeletedHook, DirectRoom,
    Enrolment, Hook, HookTarget, Invite, InvitedUser, InvitingRoom, Join, Login, MemberEntry, MemberPage, Message,
    MessagePage, Move, NewApiKey, NewHook, NewInvite, NewRoom, NewUser, OpenInvite, Position, Progress, Reaction,
    Registration, Removal, Room, RoomAuditPage, RoomChange, RoomChanged, RoomKind, RoomSettings, UnreadRoom, WhoMay,
};
use crate::options::OpenOptions;
use crate::rights::{BANNED_STAYS_OUT, Told};
use crate::rooms::{CANNOT_ADD, CANNOT_DELETE, CANNOT_REMOVE, OWNER_STAYS, RESERVED_NAMES_LIMIT, may_remove};
use crate::store::Store;
use crate::unwritten::UnwrittenMarkers;
use crate::users::FORMER_NAMES_LIMIT;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use uproar_model::{
    Admission, Clock, DatabaseGeneration, Head, Identity, Item, JoinError, JoinedRoom, Kind, Marker, Number,
    OWN_REACTIONS_LIMIT, Offset, Outcome, Page, PageRequest, Publication, REACTION_KINDS_LIMIT, Reading, Refusal,
    Revocation, Role, RoomId, Stored, Swept, UnixMillis, User, UserId, boottime_ms, fold_name, looks_like, member_body,
    text,
};

/// How far `recent_revocations` goes back, as on the databases.
const OVERLAP_MS: u64 = 30_000;
/// As in the statement of the databases (`unread_sql`).
const UNREAD_LIMIT: usize = 1_000;
const UNREAD_SCAN_LIMIT: usize = 3_000;

/// Everything that a database would hold.
#[derive(Clone, Debug)]
pub struct MemoryStore {
    users: BTreeMap<UserId, StoredUser>,
    identities: BTreeMap<Identity, UserId>,
    rooms: BTreeMap<RoomId, StoredRoom>,
    last_user: i64,
    longest_token_lifetime_ms: u64,
    generation: DatabaseGeneration,
    /// Names of deleted rooms: for whom they are reserved, and until when.
    reserved_names: BTreeMap<String, (UserId, UnixMillis)>,
    last_room: i64,
    /// By id.
    hooks: BTreeMap<i64, StoredHook>,
    last_hook: i64,
    /// By code.
    invites: BTreeMap<String, StoredInvite>,
    unwritten: UnwrittenMarkers,
    /// By name: when it was added, and the key.
    api_keys: BTreeMap<String, (UnixMillis, NewApiKey)>,
    audit: Vec<AuditEntry>,
    room_audit: Vec<StoredAudit>,
    /// By key: the name as it was shown, and whose it was.
    former_names: BTreeMap<String, (Arc<str>, UserId)>,
    /// See [`crate::OpenOptions`].
    join_leave_limit: u64,
    readers: BTreeMap<String, Registration>,
    positions: BTreeMap<(Arc<str>, RoomId), Position>,
    /// Who has blocked whom, and since when.
    blocks: BTreeMap<(UserId, UserId), UnixMillis>,
}

#[derive(Clone, Debug)]
struct StoredUser {
    username: Arc<str>,
    key: String,
    email: Option<String>,
    hash: Option<String>,
    token_generation: u32,
    revoked_at: Option<UnixMillis>,
    is_blocked: bool,
}

#[derive(Clone, Debug)]
struct StoredRoom {
    name: String,
    title: String,
    kind: RoomKind,
    size: u32,
    created_at: UnixMillis,
    members: BTreeMap<UserId, Membership>,
    number: Number,
    /// Between two messages of a member; 0: no limit.
    slow_mode_seconds: u32,
    /// 0: members, 1: moderators, 2: nobody.
    who_may_post: u8,
    topic: String,
    who_may_invite: WhoMay,
    bans: BTreeMap<UserId, StoredBan>,
    /// Until when users are silenced, members or not.
    silences: BTreeMap<UserId, UnixMillis>,
    /// When messages were pinned, and their offsets.
    pins: Vec<(UnixMillis, Offset)>,
    /// The row at `offset - 1`.
    log: Vec<LogRow>,
    ids: BTreeMap<(UserId, Arc<str>), Offset>,
    /// By message and emoji: the offset since which there has been one, and whose they are.
    reactions: BTreeMap<(Offset, Arc<str>), (Offset, BTreeSet<UserId>)>,
}

#[derive(Clone, Debug)]
struct StoredHook {
    room: RoomId,
    bot: UserId,
    name: String,
    secret_hash: String,
    creator: UserId,
    created_at: UnixMillis,
}

#[derive(Clone, Debug)]
struct StoredInvite {
    /// `None`: it only lets people sign up.
    room: Option<RoomId>,
    /// `None`: the operator.
    creator: Option<UserId>,
    created_at: UnixMillis,
    expires_at: UnixMillis,
    uses: u32,
    uses_limit: Option<u32>,
    is_revoked: bool,
}

#[derive(Clone, Copy, Debug)]
struct Membership {
    role: Role,
    joined_at: UnixMillis,
    read: Marker,
    silenced_until: Option<UnixMillis>,
    /// Known in rooms with slow mode only.
    last_posted_at: Option<UnixMillis>,
}

impl Membership {
    fn new(role: Role, joined_at: UnixMillis, read: Marker) -> Membership {
        Membership { role, joined_at, read, silenced_until: None, last_posted_at: None }
    }
}

#[derive(Clone, Debug)]
struct LogRow {
    offset: Offset,
    number: Number,
    kind: Kind,
    user: UserId,
    id: Arc<str>,
    target: Option<Offset>,
    body: Option<Arc<str>>,
    edited: Option<Offset>,
    deleted: Option<Offset>,
    meta: Option<Arc<str>>,
    time: UnixMillis,
}

impl Default for MemoryStore {
    fn default() -> MemoryStore {
        MemoryStore {
            users: BTreeMap::new(),
            identities: BTreeMap::new(),
            rooms: BTreeMap::new(),
            last_user: 0,
            longest_token_lifetime_ms: 0,
            generation: DatabaseGeneration(1),
            reserved_names: BTreeMap::new(),
            last_room: 0,
            hooks: BTreeMap::new(),
            last_hook: 0,
            invites: BTreeMap::new(),
            unwritten: UnwrittenMarkers::default(),
            api_keys: BTreeMap::new(),
            audit: Vec::new(),
            room_audit: Vec::new(),
            former_names: BTreeMap::new(),
            join_leave_limit: OpenOptions::default().join_leave_limit,
            readers: BTreeMap::new(),
            positions: BTreeMap::new(),
            blocks: BTreeMap::new(),
        }
    }
}

impl MemoryStore {
    pub fn new() -> MemoryStore {
        MemoryStore::default()
    }

    /// A store that publishes the joins of rooms with at most this many members.
    pub fn with_join_leave_limit(join_leave_limit: u64) -> MemoryStore {
        MemoryStore { join_leave_limit, ..MemoryStore::default() }
    }

    /// [`Store::generation`].
    pub fn generation(&self) -> DatabaseGeneration {
        self.generation
    }

    /// As if the history might have gone back: see [`crate::Store::generation`].
    pub fn begin_generation(&mut self, generation: DatabaseGeneration) {
        self.generation = generation;
    }

    /// [`Store::append`].
    pub fn append(&mut self, now: UnixMillis, batch: &[Item]) -> Vec<Outcome> {
        batch.iter().map(|item| self.append_one(now, item)).collect()
    }

    fn append_one(&mut self, now: UnixMillis, item: &Item) -> Outcome {
        if let Some(refusal) = refusal(item) {
            return Outcome::Refused(refusal);
        }
        let Some(room) = self.rooms.get_mut(&item.room) else {
            return Outcome::Refused(Refusal::NoRoom);
        };
        if let Some(&offset) = room.ids.get(&(item.user, Arc::clone(&item.id))) {
            let Some(old) = room.row(offset) else {
                return Outcome::Refused(Refusal::NoRoom);
            };
            // The text of an edit is not kept, nor is the original text of an edited or deleted message.
            let is_same_body =
                old.body.is_none() || old.edited.is_some() || old.body == item.body && old.meta == item.meta;
            let is_same = old.kind == item.kind && old.target == item.target && is_same_body;
            return if is_same { Outcome::Duplicate(old.stored()) } else { Outcome::Refused(Refusal::IdReused) };
        }
        let Some(membership) = room.members.get(&item.user) else {
            return Outcome::Refused(Refusal::NotMember);
        };
        if let Some(refusal) = room.limited(now, item, membership) {
            return Outcome::Refused(refusal);
        }
        if let Some(target) = item.target {
            let Some(meant) = room.row(target).filter(|row| row.kind == Kind::Message) else {
                return Outcome::Refused(Refusal::NoTarget);
            };
            let deletion = meant.deleted.and_then(|offset| room.row(offset));
            let is_author = meant.user == item.user;
            match item.kind {
                Kind::Edit | Kind::React | Kind::Unreact if deletion.is_some() => {
                    return Outcome::Refused(Refusal::NoTarget);
                }
                Kind::Edit if !is_author => return Outcome::Refused(Refusal::NotYours),
                Kind::Delete if !is_author && membership.role == Role::Member => {
                    return Outcome::Refused(Refusal::NotYours);
                }
                Kind::Delete => {
                    if let Some(deletion) = deletion {
                        return Outcome::Duplicate(deletion.stored());
                    }
                }
                Kind::React | Kind::Unreact
                    if room.has_reaction(target, item.user, item.body.as_ref()) == (item.kind == Kind::React) =>
                {
                    return Outcome::Duplicate(meant.stored());
                }
                Kind::React if room.has_too_many_reactions(target, item.user, item.body.as_deref()) => {
                    return Outcome::Refused(Refusal::TooManyReactions);
                }
                _ => {}
            }
        }
        if item.kind == Kind::Message
            && room.slow_mode_seconds > 0
            && let Some(membership) = room.members.get_mut(&item.user)
            && membership.role == Role::Member
        {
            membership.last_posted_at = Some(now);
        }
        Outcome::New(room.push(now, item))
    }

    /// As if the room had these settings: slow mode, and who may post (0: members, 1: moderators, 2: nobody).
    pub fn restrict_room(&mut self, room: RoomId, slow_mode_seconds: u32, who_may_post: u8) {
        if let Some(room) = self.rooms.get_mut(&room) {
            (room.slow_mode_seconds, room.who_may_post) = (slow_mode_seconds, who_may_post);
        }
    }

    /// As if a moderator had silenced a member.
    pub fn silence(&mut self, room: RoomId, user: UserId, until: Option<UnixMillis>) {
        if let Some(member) = self.rooms.get_mut(&room).and_then(|room| room.members.get_mut(&user)) {
            member.silenced_until = until;
        }
    }

    /// As if a member of a room with slow mode had posted at this time.
    pub fn set_posted(&mut self, room: RoomId, user: UserId, at: UnixMillis) {
        if let Some(member) = self.rooms.get_mut(&room).and_then(|room| room.members.get_mut(&user)) {
            member.last_posted_at = Some(at);
        }
    }

    /// As if a member had another role.
    pub fn set_role(&mut self, room: RoomId, user: UserId, role: Role) {
        if let Some(member) = self.rooms.get_mut(&room).and_then(|room| room.members.get_mut(&user)) {
            member.role = role;
        }
    }

    /// [`Store::append`], but with a mistake: memberships are judged as they are in another copy of the store.
    pub fn append_by_rights_of(&mut self, rights: &MemoryStore, now: UnixMillis, batch: &[Item]) -> Vec<Outcome> {
        let append = |item: &Item| {
            let early = rights.rooms.get(&item.room).and_then(|room| room.members.get(&item.user)).copied();
            let current = self.replace_member(item, early);
            let outcome = self.append_one(now, item);
            self.replace_member(item, current);
            outcome
        };
        batch.iter().map(append).collect()
    }

    fn replace_member(&mut self, item: &Item, by: Option<Membership>) -> Option<Membership> {
        let members = &mut self.rooms.get_mut(&item.room)?.members;
        match by {
            Some(membership) => members.insert(item.user, membership),
            None => members.remove(&item.user),
        }
    }

    /// [`Store::heads`].
    pub fn heads(&self, rooms: &[RoomId]) -> Vec<Option<Head>> {
        rooms.iter().map(|id| self.rooms.get(id).map(|room| self.head(*id, room))).collect()
    }

    fn head(&self, id: RoomId, room: &StoredRoom) -> Head {
        Head { epoch: self.generation.epoch(&format!("m{id}")), offset: room.log.len() as u64, number: room.number }
    }

    /// [`Store::sweep`].
    pub fn sweep(&self, heads: &[(RoomId, Offset)]) -> Swept {
        let rooms: Vec<_> = heads.iter().map(|(room, _)| *room).collect();
        let current = heads.iter().zip(self.heads(&rooms));
        let changed = current.filter(|((_, offset), head)| head.as_ref().map(|head| head.offset) != Some(*offset));
        Swept { generation: self.generation, heads: changed.map(|((room, _), head)| (*room, head)).collect() }
    }

    /// [`Store::page`].
    pub fn page(&self, room: RoomId, request: PageRequest, viewers: &[UserId]) -> Option<(Page, Vec<UserId>)> {
        let stored = self.rooms.get(&room)?;
        let head = self.head(room, stored);
        let offsets: Box<dyn Iterator<Item = Offset>> = if request.ascending {
            Box::new(request.from.saturating_add(1)..=request.up_to.min(head.offset))
        } else {
            Box::new((1..request.from.min(head.offset + 1)).rev())
        };
        let mut publications: Vec<Publication> = Vec::new();
        let mut bytes = 0;
        for row in offsets.take(request.items_limit.min(PAGE_ITEMS_LIMIT)).filter_map(|offset| stored.row(offset)) {
            let publication = self.publication(stored, row);
            let texts = [&publication.body, &publication.meta];
            bytes += texts.into_iter().flatten().map(|text| text.len()).sum::<usize>();
            if bytes > request.bytes_limit && !publications.is_empty() {
                break;
            }
            publications.push(publication);
        }
        let more = more(request, &publications, head.offset);
        let members = viewers.iter().filter(|viewer| stored.members.contains_key(viewer)).copied();
        Some((Page { publications, head, more }, members.collect::<BTreeSet<_>>().into_iter().collect()))
    }

    fn publication(&self, room: &StoredRoom, row: &LogRow) -> Publication {
        let edited = row.target.filter(|_| row.kind == Kind::Edit).and_then(|target| room.row(target));
        let shown = edited.unwrap_or(row);
        Publication {
            offset: row.offset,
            number: row.number,
            kind: row.kind,
            user: self.user(row.user),
            id: Arc::clone(&row.id),
            time: row.time,
            target: row.target,
            body: shown.body.clone(),
            edited: row.edited,
            deleted: shown.deleted,
            meta: row.meta.clone(),
        }
    }

    fn user(&self, id: UserId) -> User {
        User { id, username: self.users.get(&id).map_or_else(|| "".into(), |user| Arc::clone(&user.username)) }
    }

    /// [`Store::admit_members`].
    pub fn admit_members(
        &self,
        now: UnixMillis,
        wanted: &[(String, UserId)],
    ) -> Vec<Result<Option<Admission>, JoinError>> {
        wanted.iter().map(|(name, user)| self.admit_member(now, name, *user)).collect()
    }

    fn admit_member(&self, now: UnixMillis, name: &str, user: UserId) -> Result<Option<Admission>, JoinError> {
        let id = self.room_id(name).ok_or(JoinError::NoRoom)?;
        let room = self.rooms.get(&id).ok_or(JoinError::NoRoom)?;
        let Some(member) = room.members.get(&user) else {
            return match room.kind {
                RoomKind::Public if room.is_banned(user, now) => Err(JoinError::Banned),
                RoomKind::Public => Ok(None),
                RoomKind::Private | RoomKind::Direct => Err(JoinError::NoRoom),
            };
        };
        let head = self.head(id, room);
        let Membership { role, .. } = *member;
        let username = self.users.get(&user).map(|user| Arc::clone(&user.username)).ok_or(JoinError::NoUser)?;
        let Head { epoch, offset, .. } = head;
        Ok(Some(Admission { room: id, epoch, offset, role, username, joined: false, added: None }))
    }

    /// [`Store::admit`].
    pub fn admit(&mut self, now: UnixMillis, wanted: &[(String, UserId)]) -> Vec<Result<Admission, JoinError>> {
        wanted.iter().map(|(name, user)| self.admit_one(now, name, *user)).collect()
    }

    fn admit_one(&mut self, now: UnixMillis, name: &str, user: UserId) -> Result<Admission, JoinError> {
        if let Some(admission) = self.admit_member(now, name, user)? {
            return Ok(admission);
        }
        let id = self.room_id(name).ok_or(JoinError::NoRoom)?;
        let (joined, added) = self.join_room(now, id, user, user)?;
        let admission = self.admit_member(now, name, user)?.ok_or(JoinError::NoRoom)?;
        Ok(Admission { joined, added: added.map(Box::new), ..admission })
    }

    /// Returns whether this call made the user a member, and the publication of it.
    fn join_room(
        &mut self,
        now: UnixMillis,
        id: RoomId,
        user: UserId,
        actor: UserId,
    ) -> Result<(bool, Option<Publication>), JoinError> {
        let room = self.rooms.get_mut(&id).ok_or(JoinError::NoRoom)?;
        if room.members.contains_key(&user) {
            return Ok((false, None));
        }
        if room.is_banned(user, now) {
            return Err(JoinError::Banned);
        }
        if room.members.len() >= room.size as usize {
            return Err(JoinError::Full);
        }
        if !self.users.contains_key(&user) {
            return Err(JoinError::NoUser);
        }
        // Nothing from before the join is unread.
        let read = Marker { offset: room.log.len() as u64, number: room.number };
        let silenced_until = room.silences.get(&user).copied().filter(|until| *until > now);
        let membership = Membership { silenced_until, ..Membership::new(Role::Member, now, read) };
        room.members.insert(user, membership);
        if room.members.len() as u64 > self.join_leave_limit {
            return Ok((true, None));
        }
        Ok((true, self.publish_change(now, id, Kind::Added, actor, user)))
    }

    /// Appends the publication of a change of membership.
    fn publish_change(
        &mut self,
        now: UnixMillis,
        id: RoomId,
        kind: Kind,
        actor: UserId,
        member: UserId,
    ) -> Option<Publication> {
        let username = self.user(member).username;
        let room = self.rooms.get_mut(&id)?;
        let offset = room.log.len() as u64 + 1;
        let word = if kind == Kind::Added { "added" } else { "removed" };
        let item = Item {
            room: id,
            user: actor,
            id: format!("~{word}-{offset}").into(),
            kind,
            target: None,
            body: Some(member_body(member, &username).into()),
            meta: None,
        };
        room.push(now, &item);
        let room = self.rooms.get(&id)?;
        room.row(offset).map(|row| self.publication(room, row))
    }

    fn room_id(&self, name: &str) -> Option<RoomId> {
        self.rooms.iter().find(|(_, room)| room.name == name).map(|(id, _)| *id)
    }

    fn user_id(&self, key: &str) -> Option<UserId> {
        let current = self.users.iter().find(|(_, user)| user.key == key).map(|(id, _)| *id);
        current.or_else(|| self.former_names.get(key).map(|(_, id)| *id))
    }

    /// [`Store::read_markers`].
    pub fn read_markers(&self, wanted: &[(RoomId, UserId)]) -> Vec<Option<Marker>> {
        wanted.iter().map(|(room, user)| Some(self.rooms.get(room)?.members.get(user)?.read)).collect()
    }

    /// [`Store::mark_read`].
    pub fn mark_read(&mut self, markers: &[(RoomId, UserId, Marker)]) {
        for (room, user, marker) in markers {
            let member = self.rooms.get_mut(room).and_then(|room| room.members.get_mut(user));
            if let Some(member) = member.filter(|member| member.read.offset < marker.offset) {
                member.read = *marker;
            }
        }
    }

    /// How far a member has read, written or not.
    fn read(&self, id: RoomId, user: UserId, membership: &Membership) -> Marker {
        let unwritten = self.unwritten.lock().get(&(user, id)).copied();
        unwritten.filter(|newer| newer.offset > membership.read.offset).unwrap_or(membership.read)
    }

    /// [`Store::rooms_of`].
    pub fn rooms_of(&self, user: UserId, after: Option<&str>, limit: usize) -> Vec<JoinedRoom> {
        let joined = self.rooms.iter().filter_map(|(&id, room)| {
            let membership = room.members.get(&user)?;
            let read = self.read(id, user, membership);
            Some(JoinedRoom {
                id,
                name: room.name.clone(),
                title: self.title(room, user),
                is_private: room.kind != RoomKind::Public,
                is_direct: room.kind == RoomKind::Direct,
                people: self.people(room),
                size: room.size,
                members: u32::try_from(room.members.len()).unwrap_or(u32::MAX),
                head: self.head(id, room),
                unread: room.unread(user, read.offset),
                read,
                role: membership.role,
                active_at: room.active_at(),
            })
        });
        let mut rooms: Vec<_> = joined.filter(|room| after.is_none_or(|after| room.name.as_str() > after)).collect();
        rooms.sort_by(|a, b| a.name.cmp(&b.name));
        rooms.truncate(rows_limit(limit));
        rooms
    }

    /// [`Store::create_user`].
    pub fn create_user(&mut self, user: NewUser) -> Result<Account, CreateUserError> {
        if self.is_lookalike(&user.username, None) || self.user_id(&user.username_key).is_some() {
            return Err(CreateUserError::UsernameTaken);
        }
        if self.users.values().any(|other| other.email.as_ref() == Some(&user.email_key)) {
            return Err(CreateUserError::EmailTaken);
        }
        let id = self.insert_user(&user.username, &user.username_key, Some(user.email_key), Some(user.password_hash));
        self.account(id)
            .ok_or_else(|| StoreError::Failed("the user that was just created is missing".to_owned()).into())
    }

    /// Whether a name looks like the name, or a former one, of a user other than `own`.
    fn is_lookalike(&self, username: &str, own: Option<UserId>) -> bool {
        let current = self.users.iter().map(|(id, user)| (*id, &user.username));
        let former = self.former_names.values().map(|(username, id)| (*id, username));
        current.chain(former).any(|(id, other)| Some(id) != own && looks_like(username, other))
    }

    /// [`Store::create_bare_user`].
    pub fn create_bare_user(&mut self, username: &str, key: &str) -> Result<Account, CreateUserError> {
        if self.user_id(key).is_some() || self.is_lookalike(username, None) {
            return Err(CreateUserError::UsernameTaken);
        }
        let id = self.insert_user(username, key, None, None);
        self.account(id).ok_or_else(|| StoreError::Failed("the new user is missing".to_owned()).into())
    }

    /// [`Store::rename_user`].
    pub fn rename_user(&mut self, id: UserId, username: &str, key: &str) -> Result<Account, RenameError> {
        let (old_name, old_key) = self
            .users
            .get(&id)
            .map(|user| (Arc::clone(&user.username), user.key.clone()))
            .ok_or(RenameError::NoUser)?;
        if self.user_id(key).is_some_and(|other| other != id) || self.is_lookalike(username, Some(id)) {
            return Err(RenameError::UsernameTaken);
        }
        if key != old_key {
            let is_own = self.former_names.contains_key(key);
            let count = self.former_names.values().filter(|(_, owner)| *owner == id).count() - usize::from(is_own);
            if count as i64 >= FORMER_NAMES_LIMIT {
                return Err(RenameError::TooOften);
            }
            self.former_names.remove(key);
            self.former_names.insert(old_key, (old_name, id));
        }
        let user = self.users.get_mut(&id).ok_or(RenameError::NoUser)?;
        (user.username, user.key) = (username.into(), key.to_owned());
        self.account(id).ok_or(RenameError::NoUser)
    }

    /// [`Store::ensure_user`].
    pub fn ensure_user(&mut self, username: &str, key: &str) -> UserId {
        match self.user_id(key) {
            Some(id) => id,
            None => self.insert_user(username, key, None, None),
        }
    }

    /// [`Store::ensure_identity`].
    pub fn ensure_identity(&mut self, identity: &Identity, username: &str) -> Option<UserId> {
        if let Some(id) = self.identities.get(identity) {
            return Some(*id);
        }
        let is_free = |name: &String| {
            !self.is_lookalike(name, None) && fold_name(name).is_ok_and(|key| self.user_id(&key).is_none())
        };
        let name = names::candidates(username, self.last_user.unsigned_abs()).find(is_free)?;
        let key = fold_name(&name).ok()?;
        let id = self.insert_user(&name, &key, None, None);
        self.identities.insert(identity.clone(), id);
        Some(id)
    }

    fn insert_user(&mut self, username: &str, key: &str, email: Option<String>, hash: Option<String>) -> UserId {
        self.last_user += 1;
        let id = UserId(self.last_user);
        let (username, key) = (username.into(), key.to_owned());
        self.users.insert(
            id,
            StoredUser { username, key, email, hash, token_generation: 0, revoked_at: None, is_blocked: false },
        );
        id
    }

    /// [`Store::account`].
    pub fn account(&self, id: UserId) -> Option<Account> {
        self.users.get(&id).map(|user| Account {
            id,
            username: Arc::clone(&user.username),
            email: user.email.clone(),
            has_password: user.hash.is_some(),
            token_generation: user.token_generation,
            revoked_at: user.revoked_at,
            is_blocked: user.is_blocked,
        })
    }

    /// [`Store::revoke_tokens`].
    pub fn revoke_tokens(&mut self, now: UnixMillis, id: UserId) -> Option<Revocation> {
        let user = self.users.get_mut(&id)?;
        user.token_generation += 1;
        user.revoked_at = Some(now);
        let (generation, is_blocked) = (user.token_generation, user.is_blocked);
        Some(Revocation { user: id, generation, at: now, is_blocked })
    }

    /// [`Store::create_room`].
    pub fn create_room(&mut self, now: UnixMillis, room: NewRoom) -> Result<Room, RoomError> {
        let is_lookalike = self.rooms.values().any(|other| looks_like(&room.name, &other.name));
        if is_lookalike || self.room_id(&room.name).is_some() {
            return Err(RoomError::NameTaken);
        }
        let is_reserved = self.reserved_names.iter().any(|(name, (owner, until))| {
            *owner != room.owner && *until > now && (*name == room.name || looks_like(&room.name, name))
        });
        if is_reserved {
            return Err(RoomError::NameTaken);
        }
        if !self.users.contains_key(&room.owner) {
            return Err(RoomError::NoUser);
        }
        self.reserved_names.remove(&room.name);
        self.last_room += 1;
        let id = RoomId(self.last_room);
        let owner = Membership::new(Role::Owner, now, Marker::default());
        let members = BTreeMap::from([(room.owner, owner)]);
        let stored = StoredRoom::new(room.name, room.title, room.kind, room.size.max(1), now, members);
        let view = self.view(id, &stored, room.owner);
        self.rooms.insert(id, stored);
        view.ok_or(RoomError::NoRoom)
    }

    fn is_direct(&self, id: RoomId) -> bool {
        self.rooms.get(&id).is_some_and(|room| room.kind == RoomKind::Direct)
    }

    /// The members of a direct room.
    fn people(&self, room: &StoredRoom) -> Vec<User> {
        let members = room.members.keys().filter(|_| room.kind == RoomKind::Direct);
        members.map(|id| self.user(*id)).collect()
    }

    fn title(&self, room: &StoredRoom, viewer: UserId) -> String {
        match room.kind {
            RoomKind::Direct => direct::title(&self.people(room), viewer),
            RoomKind::Public | RoomKind::Private => room.title.clone(),
        }
    }

    /// [`Store::open_direct`].
    pub fn open_direct(&mut self, now: UnixMillis, actor: UserId, keys: &[String]) -> Result<DirectRoom, RoomError> {
        let others: Option<Vec<_>> = keys.iter().map(|key| self.user_id(key)).collect();
        let people = direct::together(actor, others.ok_or(RoomError::NoUser)?)?;
        let mut rooms = self.rooms.values().filter(|room| room.kind == RoomKind::Direct);
        let known = rooms.find(|room| room.members.keys().eq(&people)).map(|room| room.name.clone());
        let is_new = known.is_none();
        let name = match known {
            Some(name) => name,
            None => self.make_direct(now, actor, &people)?,
        };
        let room = self.room(&name, actor).ok_or(RoomError::NoRoom)?;
        Ok(DirectRoom { room, is_new })
    }

    fn make_direct(&mut self, now: UnixMillis, actor: UserId, people: &[UserId]) -> Result<String, RoomError> {
        if people.iter().any(|person| self.blocks.contains_key(&(actor, *person))) {
            return Err(RoomError::Blocked { by_actor: true });
        }
        if people.iter().any(|person| self.blocks.contains_key(&(*person, actor))) {
            return Err(RoomError::Blocked { by_actor: false });
        }
        if !people.iter().all(|person| self.users.contains_key(person)) {
            return Err(RoomError::NoUser);
        }
        self.last_room += 1;
        let name = format!("@{:016x}", self.last_room);
        let size = u32::try_from(people.len()).unwrap_or(u32::MAX);
        let member = Membership::new(Role::Member, now, Marker::default());
        let members = people.iter().map(|person| (*person, member)).collect();
        let stored = StoredRoom::new(name.clone(), String::new(), RoomKind::Direct, size, now, members);
        self.rooms.insert(RoomId(self.last_room), stored);
        Ok(name)
    }

    /// [`Store::block`], and with no limit [`Store::unblock`].
    pub fn set_block(
        &mut self,
        now: UnixMillis,
        user: UserId,
        other_key: &str,
        limit: Option<u64>,
    ) -> Result<BlockChange, RoomError> {
        let other = self.user_id(other_key).ok_or(RoomError::NoUser)?;
        if other == user {
            return Err(RoomError::NotAllowed(direct::OWN_BLOCK));
        }
        let mut at = self.blocks.get(&(user, other)).copied();
        match limit {
            None => _ = self.blocks.remove(&(user, other)),
            Some(limit) if at.is_none() => {
                if !self.users.contains_key(&user) {
                    return Err(RoomError::NoUser);
                }
                if self.blocks.keys().filter(|(blocker, _)| *blocker == user).count() as u64 >= limit {
                    return Err(RoomError::TooManyBlocks(limit));
                }
                self.blocks.insert((user, other), now);
                at = Some(now);
            }
            Some(_) => {}
        }
        let publication = self.close_or_open(now, user, other);
        Ok(BlockChange { user: self.user(other), at, publication })
    }

    fn close_or_open(&mut self, now: UnixMillis, actor: UserId, other: UserId) -> Option<(RoomId, Publication)> {
        let people = BTreeSet::from([actor, other]);
        let is_blocked = self.blocks.contains_key(&(actor, other)) || self.blocks.contains_key(&(other, actor));
        let may_post = if is_blocked { WhoMay::Nobody } else { WhoMay::Members };
        let is_theirs = |room: &&StoredRoom| room.kind == RoomKind::Direct && room.members.keys().eq(&people);
        let id = self.rooms.iter().find(|(_, room)| is_theirs(room)).map(|(id, _)| *id)?;
        let room = self.rooms.get_mut(&id)?;
        if std::mem::replace(&mut room.who_may_post, may_post as u8) == may_post as u8 {
            return None;
        }
        let mut changed = RoomChanged { room: id, subject: None, publications: Vec::new(), deleted: 0, more: false };
        self.tell(now, id, actor, Told::may_post(may_post), None, &mut changed);
        changed.publications.pop().map(|publication| (id, publication))
    }

    /// [`Store::blocks`].
    pub fn blocks(&self, user: UserId, after: Option<UserId>, limit: usize) -> Vec<Block> {
        let own = self.blocks.iter().filter(|((blocker, other), _)| *blocker == user && Some(*other) > after);
        own.take(rows_limit(limit)).map(|((_, other), at)| Block { user: self.user(*other), at: *at }).collect()
    }

    /// A room as one user sees it.
    fn view(&self, id: RoomId, room: &StoredRoom, viewer: UserId) -> Option<Room> {
        let membership = room.members.get(&viewer);
        if room.kind != RoomKind::Public && membership.is_none() {
            return None;
        }
        let head = self.head(id, room);
        Some(Room {
            id,
            name: room.name.clone(),
            title: self.title(room, viewer),
            kind: room.kind,
            size: room.size,
            members: u32::try_from(room.members.len()).unwrap_or(u32::MAX),
            epoch: head.epoch,
            offset: head.offset,
            unread: membership.map(|m| room.unread(viewer, self.read(id, viewer, m).offset)),
            role: membership.map(|m| m.role),
            settings: room.settings(),
            pins: Vec::new(),
            people: self.people(room),
        })
    }

    /// [`Store::room`].
    pub fn room(&self, name: &str, viewer: UserId) -> Option<Room> {
        let id = self.room_id(name)?;
        let stored = self.rooms.get(&id)?;
        let room = self.view(id, stored, viewer)?;
        let pins = if room.role.is_some() { MemoryStore::pins(stored) } else { Vec::new() };
        Some(Room { pins, ..room })
    }

    fn look_up(&self, name: &str, actor: UserId) -> Result<(RoomId, &StoredRoom, Option<Role>), RoomError> {
        let id = self.room_id(name).ok_or(RoomError::NoRoom)?;
        let room = self.rooms.get(&id).ok_or(RoomError::NoRoom)?;
        let role = room.members.get(&actor).map(|member| member.role);
        if room.kind != RoomKind::Public && role.is_none() {
            return Err(RoomError::NoRoom);
        }
        Ok((id, room, role))
    }

    /// The room, if the actor may manage its hooks.
    fn managed_room(&self, name: &str, actor: UserId) -> Result<RoomId, RoomError> {
        match self.look_up(name, actor)? {
            (room, _, Some(Role::Owner | Role::Moderator)) => Ok(room),
            _ => Err(RoomError::NotAllowed(CANNOT_MANAGE)),
        }
    }

    /// [`Store::create_hook`].
    pub fn create_hook(&mut self, now: UnixMillis, hook: NewHook) -> Result<Hook, RoomError> {
        let room = self.managed_room(&hook.room, hook.creator)?;
        let bot = self.ensure_user(&hook.bot_name, &hook.bot_key);
        let is_person = self.users.get(&bot).is_some_and(|user| user.hash.is_some() || user.email.is_some());
        let mut of_room = self.hooks.values().filter(|other| other.room == room);
        if is_person || of_room.any(|other| other.bot == bot) {
            return Err(RoomError::HookNameTaken);
        }
        if self.hooks.values().filter(|other| other.room == room).count() as u64 >= hook.limit {
            return Err(RoomError::TooManyHooks(hook.limit));
        }
        self.last_hook += 1;
        let NewHook { creator, name, secret_hash, .. } = hook;
        let stored = StoredHook { room, bot, name, secret_hash, creator, created_at: now };
        let shown = self.shown_hook(self.last_hook, &stored);
        self.hooks.insert(self.last_hook, stored);
        Ok(shown)
    }

    fn shown_hook(&self, id: i64, hook: &StoredHook) -> Hook {
        let (bot, creator) = (self.user(hook.bot), self.user(hook.creator));
        Hook { id, name: hook.name.clone(), bot, creator, created_at: hook.created_at }
    }

    /// [`Store::hooks`].
    pub fn hooks(&self, room: &str, actor: UserId) -> Result<Vec<Hook>, RoomError> {
        let room = self.managed_room(room, actor)?;
        let of_room = self.hooks.iter().filter(|(_, hook)| hook.room == room);
        Ok(of_room.map(|(id, hook)| self.shown_hook(*id, hook)).collect())
    }

    /// [`Store::delete_hook`].
    pub fn delete_hook(&mut self, room: &str, actor: UserId, hook: i64) -> Result<DeletedHook, RoomError> {
        let room = self.managed_room(room, actor)?;
        if self.hooks.get(&hook).is_none_or(|hook| hook.room != room) {
            return Err(RoomError::NoHook);
        }
        let deleted = self.hooks.remove(&hook).ok_or(RoomError::NoHook)?;
        Ok(DeletedHook { room, bot: self.user(deleted.bot) })
    }

    /// [`Store::hook`].
    pub fn hook(&self, secret_hash: &str) -> Option<HookTarget> {
        let (id, hook) = self.hooks.iter().find(|(_, hook)| hook.secret_hash == secret_hash)?;
        let room = self.rooms.contains_key(&hook.room).then_some(hook.room)?;
        Some(HookTarget { hook: *id, room, name: hook.name.clone(), bot: self.user(hook.bot) })
    }

    /// The room, and the actor's role, if the actor may invite others to it.
    fn inviting_room(&self, name: &str, actor: UserId) -> Result<(RoomId, Role), RoomError> {
        match self.look_up(name, actor)? {
            (id, room, Some(role)) if room.who_may_invite.includes(role) => Ok((id, role)),
            _ => Err(RoomError::NotAllowed(CANNOT_INVITE)),
        }
    }

    fn shown_invite(&self, code: &str, invite: &StoredInvite) -> Invite {
        Invite {
            code: code.to_owned(),
            creator: invite.creator.map(|creator| self.user(creator)),
            created_at: invite.created_at,
            expires_at: invite.expires_at,
            uses: invite.uses,
            uses_limit: invite.uses_limit,
        }
    }

    /// Why the invite can't be used, if it can't.
    fn invite_end(&self, now: UnixMillis, invite: &StoredInvite) -> Option<InviteEnd> {
        let may_invite = |creator: UserId| {
            let room = invite.room.and_then(|room| self.rooms.get(&room));
            let role = room.and_then(|room| Some(room.who_may_invite.includes(room.members.get(&creator)?.role)));
            role == Some(true) && self.users.get(&creator).is_some_and(|user| !user.is_blocked)
        };
        if invite.is_revoked {
            Some(InviteEnd::Revoked)
        } else if invite.expires_at <= now {
            Some(InviteEnd::Expired)
        } else if invite.uses_limit.is_some_and(|limit| invite.uses >= limit) {
            Some(InviteEnd::UsedUp)
        } else {
            invite.creator.filter(|creator| !may_invite(*creator)).map(|_| InviteEnd::Void)
        }
    }

    /// [`Store::create_invite`].
    pub fn create_invite(&mut self, now: UnixMillis, new: NewInvite) -> Result<Invite, RoomError> {
        let room = match (&new.room, new.creator) {
            (None, _) => None,
            (Some(name), Some(creator)) => Some(self.inviting_room(name, creator)?.0),
            (Some(name), None) => Some(self.room_id(name).ok_or(RoomError::NoRoom)?),
        };
        if room.is_some_and(|room| self.is_direct(room)) {
            return Err(RoomError::NotAllowed(direct::CANNOT_ADD));
        }
        let count = |invites: &BTreeMap<String, StoredInvite>| {
            invites.values().filter(|other| other.room == room).count() as u64 >= new.limit
        };
        if count(&self.invites) {
            self.invites.retain(|_, other| {
                let is_used_up = other.uses_limit.is_some_and(|limit| other.uses >= limit);
                other.room != room || !other.is_revoked && other.expires_at > now && !is_used_up
            });
        }
        if count(&self.invites) {
            return Err(RoomError::TooManyInvites(new.limit));
        }
        let stored = StoredInvite {
            room,
            creator: new.creator,
            created_at: now,
            expires_at: now.saturating_add(new.lifetime_ms),
            uses: 0,
            uses_limit: new.uses_limit,
            is_revoked: false,
        };
        let shown = self.shown_invite(&new.code, &stored);
        self.invites.insert(new.code, stored);
        Ok(shown)
    }

    /// [`Store::invites`].
    pub fn invites(&self, now: UnixMillis, room: &str, actor: UserId) -> Result<Vec<Invite>, RoomError> {
        let (room, role) = self.inviting_room(room, actor)?;
        let seen = self.invites.iter().filter(|(_, invite)| {
            let is_seen = role >= Role::Moderator || invite.creator == Some(actor);
            is_seen && invite.room == Some(room) && self.invite_end(now, invite).is_none()
        });
        let mut seen: Vec<_> = seen.map(|(code, invite)| self.shown_invite(code, invite)).collect();
        seen.sort_by(|a, b| (a.created_at, &a.code).cmp(&(b.created_at, &b.code)));
        Ok(seen)
    }

    /// [`Store::revoke_invite`].
    pub fn revoke_invite(&mut self, room: &str, actor: UserId, code: &str) -> Result<(), RoomError> {
        let (room, role) = self.inviting_room(room, actor)?;
        let invite = self.invites.get_mut(code).ok_or(RoomError::NoInvite)?;
        let is_seen = role >= Role::Moderator || invite.creator == Some(actor);
        if invite.room != Some(room) || !is_seen || invite.is_revoked {
            return Err(RoomError::NoInvite);
        }
        invite.is_revoked = true;
        Ok(())
    }

    fn valid_invite(&self, now: UnixMillis, code: &str) -> Result<&StoredInvite, RoomError> {
        let invite = self.invites.get(code).ok_or(RoomError::NoInvite)?;
        match self.invite_end(now, invite) {
            None => Ok(invite),
            Some(end) => Err(RoomError::InviteEnded(end)),
        }
    }

    /// [`Store::invite`].
    pub fn invite(&self, now: UnixMillis, code: &str) -> Result<OpenInvite, RoomError> {
        let invite = self.valid_invite(now, code)?;
        let room = invite.room.and_then(|room| self.rooms.get(&room)).map(|room| InvitingRoom {
            name: room.name.clone(),
            title: room.title.clone(),
            kind: room.kind,
            members: u32::try_from(room.members.len()).unwrap_or(u32::MAX),
        });
        let creator = invite.creator.map(|creator| self.user(creator));
        Ok(OpenInvite { room, creator, expires_at: invite.expires_at })
    }

    /// [`Store::accept_invite`].
    pub fn accept_invite(&mut self, now: UnixMillis, code: &str, user: UserId) -> Result<Option<Join>, RoomError> {
        let invite = self.invites.get(code).ok_or(RoomError::NoInvite)?;
        let room = invite.room.and_then(|id| Some((id, self.rooms.get(&id)?)));
        let Some((id, stored)) = room else {
            self.valid_invite(now, code)?;
            return Ok(None);
        };
        let name = stored.name.clone();
        if !stored.members.contains_key(&user) {
            self.valid_invite(now, code)?;
        }
        let (joined, publication) = self.join_room(now, id, user, user)?;
        if joined && let Some(invite) = self.invites.get_mut(code) {
            invite.uses += 1;
        }
        let room = self.room(&name, user).ok_or(RoomError::NoRoom)?;
        Ok(Some(Join { room, joined, publication }))
    }

    /// [`Store::create_invited_user`].
    pub fn create_invited_user(
        &mut self,
        now: UnixMillis,
        user: NewUser,
        code: &str,
    ) -> Result<InvitedUser, InvitedUserError> {
        let room = self.valid_invite(now, code)?.room;
        if room.and_then(|room| self.rooms.get(&room)).is_some_and(|room| room.members.len() >= room.size as usize) {
            return Err(RoomError::Full.into());
        }
        let account = self.create_user(user)?;
        let join = self.accept_invite(now, code, account.id)?;
        if join.is_none()
            && let Some(invite) = self.invites.get_mut(code)
        {
            invite.uses += 1;
        }
        let (room, publication) = match join {
            Some(join) => (Some((join.room.id, join.room.name)), join.publication),
            None => (None, None),
        };
        Ok(InvitedUser { account, room, publication })
    }

    /// [`Store::join`].
    pub fn join(&mut self, now: UnixMillis, name: &str, user: UserId) -> Result<Join, RoomError> {
        let (id, _, _) = self.look_up(name, user)?;
        let (joined, publication) = self.join_room(now, id, user, user)?;
        let room = self.room(name, user).ok_or(RoomError::NoRoom)?;
        Ok(Join { room, joined, publication })
    }

    /// [`Store::add_member`].
    pub fn add_member(
        &mut self,
        now: UnixMillis,
        name: &str,
        actor: UserId,
        member_key: &str,
    ) -> Result<Addition, RoomError> {
        let (id, room, role) = self.look_up(name, actor)?;
        if room.kind == RoomKind::Direct {
            return Err(RoomError::NotAllowed(direct::CANNOT_ADD));
        }
        if role.is_none_or(|role| role < Role::Moderator) {
            return Err(RoomError::NotAllowed(CANNOT_ADD));
        }
        let user = self.user_id(member_key).ok_or(RoomError::NoUser)?;
        let (joined, publication) = self.join_room(now, id, user, actor).map_err(|error| match error {
            JoinError::Banned => RoomError::NotAllowed(BANNED_STAYS_OUT),
            error => error.into(),
        })?;
        let (_, room, _) = self.look_up(name, actor)?;
        let member = room.members.get(&user).map(|m| self.entry(user, m)).ok_or(RoomError::NoUser)?;
        Ok(Addition { room: id, member, joined, publication })
    }

    fn entry(&self, user: UserId, membership: &Membership) -> MemberEntry {
        MemberEntry {
            user: self.user(user),
            role: membership.role,
            joined_at: membership.joined_at,
            silenced_until: membership.silenced_until,
        }
    }

    /// [`Store::remove_member`].
    pub fn remove_member(
        &mut self,
        now: UnixMillis,
        name: &str,
        actor: UserId,
        member_key: &str,
    ) -> Result<Removal, RoomError> {
        let (id, room, actor_role) = self.look_up(name, actor)?;
        let member = self.user_id(member_key).ok_or(RoomError::NoUser)?;
        let leaving = member == actor;
        if room.kind == RoomKind::Direct {
            return Err(RoomError::NotAllowed(if leaving { direct::CANNOT_LEAVE } else { direct::CANNOT_REMOVE }));
        }
        if !leaving && actor_role.is_none_or(|role| role < Role::Moderator) {
            return Err(RoomError::NotAllowed(CANNOT_REMOVE));
        }
        let role = room.members.get(&member).map(|m| m.role).ok_or(RoomError::NotMember)?;
        may_remove(leaving, actor_role, role, room.is_last_owner(member))?;
        let room = self.rooms.get_mut(&id).ok_or(RoomError::NoRoom)?;
        room.members.remove(&member);
        let publication = self.publish_change(now, id, Kind::Removed, actor, member).ok_or(RoomError::NoRoom)?;
        if !leaving {
            let Told { word, body } = Told::removed(&self.user(member));
            self.record(now, id, actor, word, Some(member), body);
        }
        Ok(Removal { room: id, member, publication })
    }

    fn member_page(&self, room: &StoredRoom, after: Option<UserId>, limit: usize) -> MemberPage {
        let after = after.unwrap_or(UserId(0));
        let members = room.members.iter().filter(|(id, _)| **id > after).take(rows_limit(limit));
        let members = members.map(|(id, membership)| self.entry(*id, membership)).collect();
        MemberPage { members, count: u32::try_from(room.members.len()).unwrap_or(u32::MAX) }
    }

    /// [`Store::delete_room`].
    pub fn delete_room(
        &mut self,
        now: UnixMillis,
        name: &str,
        actor: UserId,
        reserved_ms: u64,
    ) -> Result<RoomId, RoomError> {
        let (id, room, role) = self.look_up(name, actor)?;
        if room.kind == RoomKind::Direct {
            return Err(RoomError::NotAllowed(direct::CANNOT_DELETE));
        }
        if role != Some(Role::Owner) {
            return Err(RoomError::NotAllowed(CANNOT_DELETE));
        }
        self.rooms.remove(&id);
        self.positions.retain(|(_, room), _| *room != id);
        self.hooks.retain(|_, hook| hook.room != id);
        self.invites.retain(|_, invite| invite.room != Some(id));
        self.reserved_names.insert(name.to_owned(), (actor, now.saturating_add(reserved_ms)));
        let own = self.reserved_names.iter().filter(|(_, (owner, _))| *owner == actor);
        let mut own: Vec<_> = own.map(|(name, (_, until))| (Reverse(*until), name.clone())).collect();
        own.sort();
        for (_, name) in own.into_iter().skip(RESERVED_NAMES_LIMIT) {
            self.reserved_names.remove(&name);
        }
        Ok(id)
    }

    /// [`Store::messages`].
    pub fn messages(&self, name: &str, viewer: UserId, cursor: Cursor, limit: usize) -> Result<MessagePage, RoomError> {
        let (id, room, role) = self.look_up(name, viewer)?;
        if role.is_none() {
            return Err(RoomError::NotMember);
        }
        let limit = rows_limit(limit);
        let messages = room.log.iter().filter(|row| row.kind == Kind::Message);
        let mut rows: Vec<_> = match cursor {
            Cursor::Newest => messages.rev().take(limit + 1).collect(),
            Cursor::Before(offset) => messages.rev().filter(|row| row.offset < offset).take(limit + 1).collect(),
            Cursor::After(offset) => messages.filter(|row| row.offset > offset).take(limit + 1).collect(),
        };
        let more = rows.len() > limit;
        rows.truncate(limit);
        rows.sort_by_key(|row| row.offset);
        let messages = rows.into_iter().map(|row| self.message(room, row, viewer)).collect();
        let head = self.head(id, room);
        Ok(MessagePage { room: id, messages, epoch: head.epoch, offset: head.offset, more })
    }

    /// [`Store::membership_changes`].
    pub fn membership_changes(
        &self,
        room: RoomId,
        viewer: UserId,
        above: Offset,
        up_to: Offset,
        limit: usize,
    ) -> Result<Vec<Publication>, RoomError> {
        let room = self.rooms.get(&room).filter(|room| room.members.contains_key(&viewer));
        let room = room.ok_or(RoomError::NotMember)?;
        let rows = room.log.iter().rev().filter(|row| matches!(row.kind, Kind::Added | Kind::Removed));
        let rows = rows.filter(|row| row.offset > above && row.offset <= up_to).take(rows_limit(limit));
        let mut changes: Vec<_> = rows.map(|row| self.publication(room, row)).collect();
        changes.reverse();
        Ok(changes)
    }

    /// [`Store::register_reader`].
    pub fn register_reader(&mut self, reader: &str, filter: &str) -> Registration {
        let known = self.readers.get(reader).cloned();
        if let Some(known) = &known
            && (known.filter == filter || !known.is_prepared)
        {
            return known.clone();
        }
        let newest = self.rooms.keys().next_back().copied().unwrap_or(RoomId(0));
        let paused_at = known.as_ref().map(|known| known.paused_at);
        let registration = Registration {
            filter: filter.to_owned(),
            former_filter: known.map(|known| known.filter),
            prepared_to: RoomId(0),
            prepare_until: newest,
            is_prepared: newest == RoomId(0),
            paused_at: paused_at.unwrap_or(0),
        };
        self.readers.insert(reader.to_owned(), registration.clone());
        registration
    }

    /// [`Store::pause_reader`].
    pub fn pause_reader(&mut self, reader: &str, at: UnixMillis) {
        if let Some(registration) = self.readers.get_mut(reader) {
            registration.paused_at = at;
        }
    }

    /// [`Store::room_heads`].
    pub fn room_heads(&self, after: RoomId, up_to: RoomId, limit: usize) -> Vec<(RoomId, String, Offset)> {
        let rooms = self.rooms.iter().filter(|(id, _)| **id > after && **id <= up_to).take(rows_limit(limit));
        rooms.map(|(id, room)| (*id, room.name.clone(), room.log.len() as u64)).collect()
    }

    /// [`Store::prepare_positions`].
    pub fn prepare_positions(&mut self, reader: &str, prepared_to: RoomId, heads: &[(RoomId, Offset)]) {
        for (room, offset) in heads.iter().filter(|(room, _)| self.rooms.contains_key(room)) {
            self.positions.insert((reader.into(), *room), Position { done: *offset, batch: None });
        }
        if let Some(registration) = self.readers.get_mut(reader) {
            registration.prepared_to = prepared_to;
            registration.is_prepared = prepared_to >= registration.prepare_until;
        }
    }

    /// [`Store::unread_rooms`].
    pub fn unread_rooms(&self, reader: &str, after: RoomId, limit: usize) -> (Vec<UnreadRoom>, Option<RoomId>) {
        let scanned: Vec<_> = self.rooms.iter().filter(|(id, _)| **id > after).take(limit).collect();
        let unread = scanned.iter().filter_map(|(id, room)| {
            let done = self.reader_position(reader, **id).done;
            let since = room.row(done + 1)?.time;
            Some(UnreadRoom { room: **id, name: room.name.clone(), head: room.log.len() as u64, done, since })
        });
        let last = scanned.last().filter(|_| scanned.len() >= limit);
        (unread.collect(), last.map(|(id, _)| **id))
    }

    fn reader_position(&self, reader: &str, room: RoomId) -> Position {
        self.positions.get(&(reader.into(), room)).cloned().unwrap_or_default()
    }

    /// [`Store::progress`].
    pub fn progress(&self, reader: &str, room: RoomId) -> Option<Progress> {
        let stored = self.rooms.get(&room)?;
        let Head { epoch, offset: head, .. } = self.head(room, stored);
        Some(Progress { name: stored.name.clone(), epoch, head, position: self.reader_position(reader, room) })
    }

    /// [`Store::move_positions`].
    pub fn move_positions(&mut self, moves: &[Move]) -> Vec<bool> {
        let batch_to = |batch: &Option<Batch>| batch.as_ref().map(|batch| batch.to);
        let moved = moves.iter().map(|it| {
            let current = self.reader_position(&it.reader, it.room);
            let is_expected = current.done == it.from.done && batch_to(&current.batch) == batch_to(&it.from.batch);
            let is_moved = is_expected && self.rooms.contains_key(&it.room);
            if is_moved {
                self.positions.insert((Arc::clone(&it.reader), it.room), it.to.clone());
            }
            is_moved
        });
        moved.collect()
    }

    /// [`Store::add_api_key`].
    pub fn add_api_key(&mut self, now: UnixMillis, key: NewApiKey) -> Result<(), ApiKeyError> {
        if self.api_keys.len() as i64 >= KEYS_LIMIT {
            return Err(ApiKeyError::TooMany);
        }
        let has_hash = |(_, other): &(UnixMillis, NewApiKey)| other.hash == key.hash;
        if self.api_keys.contains_key(&key.name) || self.api_keys.values().any(has_hash) {
            return Err(ApiKeyError::NameTaken);
        }
        self.api_keys.insert(key.name.clone(), (now, key));
        Ok(())
    }

    /// [`Store::api_keys`].
    pub fn api_keys(&self) -> Vec<ApiKey> {
        let key = |(created_at, key): &(UnixMillis, NewApiKey)| ApiKey {
            name: key.name.clone(),
            user: self.user(key.user),
            scopes: key.scopes,
            users: key.users,
            created_at: *created_at,
        };
        self.api_keys.values().map(key).collect()
    }

    /// [`Store::api_key`].
    pub fn api_key(&self, hash: &str) -> Option<ApiKey> {
        let (name, _) = self.api_keys.iter().find(|(_, (_, key))| key.hash == hash)?;
        self.api_keys().into_iter().find(|key| key.name == *name)
    }

    /// [`Store::record_audit`].
    pub fn record_audit(&mut self, entries: &[AuditEntry], kept: u64) {
        self.audit.extend_from_slice(entries);
        let surplus = self.audit.len().saturating_sub(usize::try_from(kept).unwrap_or(usize::MAX));
        self.audit.drain(..surplus);
    }

    fn message(&self, room: &StoredRoom, row: &LogRow, viewer: UserId) -> Message {
        let mut kinds: Vec<_> = room.reactions.iter().filter(|((offset, _), _)| *offset == row.offset).collect();
        kinds.sort_by_key(|((_, emoji), (since, _))| (*since, Arc::clone(emoji)));
        let reactions = kinds.into_iter().map(|((_, emoji), (_, users))| {
            let count = u32::try_from(users.len()).unwrap_or(u32::MAX);
            Reaction { emoji: emoji.to_string(), count, mine: users.contains(&viewer) }
        });
        let reactions = reactions.collect();
        Message {
            offset: row.offset,
            number: row.number,
            user: self.user(row.user),
            text: row.body.as_deref().map(str::to_owned),
            id: Some(row.id.to_string()).filter(|id| !id.starts_with('~')),
            time: row.time,
            reply_to: row.target,
            edited: row.edited,
            deleted: row.deleted.is_some(),
            meta: row.meta.as_deref().map(str::to_owned),
            reactions,
        }
    }
}

impl StoredRoom {
    fn new(
        name: String,
        title: String,
        kind: RoomKind,
        size: u32,
        created_at: UnixMillis,
        members: BTreeMap<UserId, Membership>,
    ) -> StoredRoom {
        StoredRoom {
            name,
            title,
            kind,
            size,
            created_at,
            members,
            number: 0,
            slow_mode_seconds: 0,
            who_may_post: 0,
            topic: String::new(),
            who_may_invite: RoomSettings::default().who_may_invite,
            bans: BTreeMap::new(),
            silences: BTreeMap::new(),
            pins: Vec::new(),
            log: Vec::new(),
            ids: BTreeMap::new(),
            reactions: BTreeMap::new(),
        }
    }

    /// Why a member may not post an item that is not stored yet.
    fn limited(&self, now: UnixMillis, item: &Item, member: &Membership) -> Option<Refusal> {
        if matches!(item.kind, Kind::Message | Kind::Edit | Kind::React)
            && let Some(until) = member.silenced_until
            && until > now
        {
            return Some(Refusal::Silenced { until });
        }
        if item.kind != Kind::Message {
            return None;
        }
        if self.who_may_post >= 2 {
            return Some(Refusal::NobodyPosts);
        }
        if member.role >= Role::Moderator {
            return None;
        }
        if self.who_may_post == 1 {
            return Some(Refusal::ModeratorsOnly);
        }
        let last = member.last_posted_at?;
        let interval_ms = u64::from(self.slow_mode_seconds) * 1000;
        let is_too_early = now.abs_diff(last) < interval_ms;
        is_too_early.then(|| Refusal::SlowMode { wait_ms: (last + interval_ms - now).min(interval_ms) })
    }

    fn row(&self, offset: Offset) -> Option<&LogRow> {
        self.log.get(usize::try_from(offset.checked_sub(1)?).ok()?)
    }

    fn row_mut(&mut self, offset: Offset) -> Option<&mut LogRow> {
        self.log.get_mut(usize::try_from(offset.checked_sub(1)?).ok()?)
    }

    /// When the last message was stored. For a room without messages, when it was created.
    fn active_at(&self) -> UnixMillis {
        self.log.iter().rev().find(|row| row.kind == Kind::Message).map_or(self.created_at, |row| row.time)
    }

    /// Other users' messages after this offset that still exist.
    fn unread(&self, user: UserId, read: Offset) -> Number {
        let messages = self.log.iter().filter(|row| row.offset > read && row.kind == Kind::Message);
        let unread = messages.take(UNREAD_SCAN_LIMIT).filter(|row| row.user != user && row.deleted.is_none());
        unread.take(UNREAD_LIMIT + 1).count() as Number
    }

    fn has_reaction(&self, target: Offset, user: UserId, emoji: Option<&Arc<str>>) -> bool {
        let kind = emoji.and_then(|emoji| self.reactions.get(&(target, Arc::clone(emoji))));
        kind.is_some_and(|(_, users)| users.contains(&user))
    }

    /// Whether one more reaction is too much for its message, or for its sender there.
    fn has_too_many_reactions(&self, target: Offset, user: UserId, emoji: Option<&str>) -> bool {
        let kinds = || self.reactions.iter().filter(|((offset, _), _)| *offset == target);
        let is_kind = kinds().any(|((_, known), _)| Some(&**known) == emoji);
        let own = kinds().filter(|(_, (_, users))| users.contains(&user)).count();
        own >= OWN_REACTIONS_LIMIT || !is_kind && kinds().count() >= REACTION_KINDS_LIMIT
    }

    /// Appends an item that was accepted.
    fn push(&mut self, now: UnixMillis, item: &Item) -> Stored {
        let offset = self.log.len() as u64 + 1;
        if item.kind == Kind::Message {
            self.number += 1;
        }
        let row = LogRow {
            offset,
            number: self.number,
            kind: item.kind,
            user: item.user,
            id: Arc::clone(&item.id),
            target: item.target,
            body: item.body.clone().filter(|_| item.kind != Kind::Edit),
            edited: None,
            deleted: None,
            meta: item.meta.clone(),
            time: now,
        };
        let stored = row.stored();
        self.log.push(row);
        self.ids.insert((item.user, Arc::clone(&item.id)), offset);
        let target = item.target.unwrap_or(0);
        match (item.kind, &item.body) {
            (Kind::Edit, body) => {
                if let Some(meant) = self.row_mut(target) {
                    meant.body = body.clone();
                    meant.edited = Some(offset);
                }
            }
            (Kind::Delete, _) => {
                if let Some(meant) = self.row_mut(target) {
                    meant.body = None;
                    meant.meta = None;
                    meant.deleted = Some(offset);
                }
                self.reactions.retain(|(of, _), _| *of != target);
                self.pins.retain(|(_, pinned)| *pinned != target);
            }
            (Kind::React, Some(emoji)) => {
                let kind = self.reactions.entry((target, Arc::clone(emoji)));
                kind.or_insert_with(|| (offset, BTreeSet::new())).1.insert(item.user);
            }
            (Kind::Unreact, Some(emoji)) => {
                let kind = (target, Arc::clone(emoji));
                if let Some((_, users)) = self.reactions.get_mut(&kind) {
                    users.remove(&item.user);
                    if users.is_empty() {
                        self.reactions.remove(&kind);
                    }
                }
            }
            _ => {}
        }
        stored
    }
}

impl LogRow {
    fn stored(&self) -> Stored {
        Stored { offset: self.offset, number: self.number, time: self.time }
    }
}

/// A [`MemoryStore`] behind the trait, with the clock of the process.
#[derive(Debug, Default)]
pub struct SharedMemoryStore(Mutex<MemoryStore>, Commits);

impl SharedMemoryStore {
    /// See [`MemoryStore::with_join_leave_limit`].
    pub fn with_join_leave_limit(join_leave_limit: u64) -> SharedMemoryStore {
        SharedMemoryStore(Mutex::new(MemoryStore::with_join_leave_limit(join_leave_limit)), Commits::default())
    }

    /// The store itself, locked as long as the guard lives.
    pub fn lock(&self) -> MutexGuard<'_, MemoryStore> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn now() -> UnixMillis {
    unix_millis().unsigned_abs()
}

#[async_trait::async_trait]
impl Store for SharedMemoryStore {
    async fn append(&self, batch: &[Item]) -> Result<Vec<Outcome>, AppendError> {
        let outcomes = self.lock().append(now(), batch);
        self.1.note(batch.iter().map(|item| item.room));
        Ok(outcomes)
    }

    async fn heads(&self, rooms: &[RoomId]) -> Result<Vec<Option<Head>>, StoreError> {
        Ok(self.lock().heads(rooms))
    }

    async fn sweep(&self, heads: &[(RoomId, Offset)]) -> Result<Swept, StoreError> {
        Ok(self.lock().sweep(heads))
    }

    async fn page(
        &self,
        room: RoomId,
        request: PageRequest,
        viewers: &[UserId],
    ) -> Result<Option<(Page, Vec<UserId>)>, StoreError> {
        Ok(self.lock().page(room, request, viewers))
    }

    async fn admit_members(
        &self,
        wanted: &[(String, UserId)],
    ) -> Result<Vec<Result<Option<Admission>, JoinError>>, StoreError> {
        Ok(self.lock().admit_members(now(), wanted))
    }

    async fn admit(&self, wanted: &[(String, UserId)]) -> Result<Vec<Result<Admission, JoinError>>, StoreError> {
        Ok(self.lock().admit(now(), wanted))
    }

    async fn read_markers(&self, wanted: &[(RoomId, UserId)]) -> Result<Vec<Option<Marker>>, StoreError> {
        Ok(self.lock().read_markers(wanted))
    }

    async fn mark_read(&self, markers: &[(RoomId, UserId, Marker)]) -> Result<(), StoreError> {
        self.lock().mark_read(markers);
        Ok(())
    }

    fn unwritten_markers(&self) -> UnwrittenMarkers {
        self.lock().unwritten.clone()
    }

    async fn rooms_of(&self, user: UserId, after: Option<&str>, limit: usize) -> Result<Vec<JoinedRoom>, StoreError> {
        if !after.is_none_or(is_storable) {
            return Ok(Vec::new());
        }
        Ok(self.lock().rooms_of(user, after, limit))
    }

    async fn create_user(&self, user: NewUser) -> Result<Account, CreateUserError> {
        require_storable(&[&user.username, &user.username_key, &user.email_key, &user.password_hash])?;
        self.lock().create_user(user)
    }

    async fn account_named(&self, username_key: &str) -> Result<Option<Account>, StoreError> {
        let store = self.lock();
        Ok(store.user_id(username_key).and_then(|id| store.account(id)))
    }

    async fn login(&self, login: Login<'_>, _: IpAddr) -> Result<Option<(Account, Option<String>)>, StoreError> {
        let store = self.lock();
        let found = store.users.iter().find(|(_, user)| match login {
            Login::UsernameKey(key) => user.key == key,
            Login::EmailKey(key) => user.email.as_deref() == Some(key),
        });
        Ok(found.and_then(|(id, user)| Some((store.account(*id)?, user.hash.clone()))))
    }

    async fn account(&self, user: UserId) -> Result<Option<Account>, StoreError> {
        Ok(self.lock().account(user))
    }

    async fn ensure_user(&self, username: &str, username_key: &str) -> Result<Account, CreateUserError> {
        require_storable(&[username, username_key])?;
        let mut store = self.lock();
        let id = store.ensure_user(username, username_key);
        store
            .account(id)
            .ok_or_else(|| StoreError::Failed("the user that was just created is missing".to_owned()).into())
    }

    async fn account_of(&self, identity: &Identity) -> Result<Option<Account>, StoreError> {
        let store = self.lock();
        Ok(store.identities.get(identity).and_then(|id| store.account(*id)))
    }

    async fn ensure_identity(&self, identity: &Identity, username: &str) -> Result<Account, CreateUserError> {
        require_storable(&[&identity.issuer, &identity.subject, username])?;
        let mut store = self.lock();
        let id = store.ensure_identity(identity, username).ok_or(CreateUserError::UsernameTaken)?;
        store
            .account(id)
            .ok_or_else(|| StoreError::Failed("the user that was just created is missing".to_owned()).into())
    }

    async fn set_password(
        &self,
        user: UserId,
        expected_hash: Option<&str>,
        password_hash: &str,
    ) -> Result<Option<Revocation>, StoreError> {
        require_storable(&[password_hash])?;
        let mut store = self.lock();
        match store.users.get_mut(&user) {
            Some(stored) if expected_hash.is_none() || stored.hash.as_deref() == expected_hash => {
                stored.hash = Some(password_hash.to_owned());
                Ok(store.revoke_tokens(now(), user))
            }
            _ => Ok(None),
        }
    }

    async fn replace_password_hash(
        &self,
        user: UserId,
        expected_hash: &str,
        password_hash: &str,
    ) -> Result<bool, StoreError> {
        require_storable(&[password_hash])?;
        let mut store = self.lock();
        let stored = store.users.get_mut(&user).filter(|user| user.hash.as_deref() == Some(expected_hash));
        let is_expected = stored.is_some();
        if let Some(stored) = stored {
            stored.hash = Some(password_hash.to_owned());
        }
        Ok(is_expected)
    }

    async fn revoke_tokens(&self, user: UserId) -> Result<Option<Revocation>, StoreError> {
        Ok(self.lock().revoke_tokens(now(), user))
    }

    async fn set_blocked(&self, user: UserId, is_blocked: bool) -> Result<Option<Account>, StoreError> {
        let mut store = self.lock();
        if let Some(stored) = store.users.get_mut(&user)
            && std::mem::replace(&mut stored.is_blocked, is_blocked) != is_blocked
        {
            store.revoke_tokens(now(), user);
        }
        Ok(store.account(user))
    }

    async fn revoked_since(&self, since: u64) -> Result<Vec<Revocation>, StoreError> {
        let store = self.lock();
        let revoked = store.users.iter().filter_map(|(&id, user)| {
            let at = user.revoked_at.filter(|at| *at >= since || user.is_blocked)?;
            Some(Revocation { user: id, generation: user.token_generation, at, is_blocked: user.is_blocked })
        });
        let mut revoked: Vec<_> = revoked.collect();
        revoked.sort_by_key(|revocation| (revocation.at, revocation.user));
        Ok(revoked)
    }

    async fn recent_revocations(&self, known_until: UnixMillis) -> Result<(Reading, Vec<Revocation>), StoreError> {
        let asked_ms = boottime_ms();
        let reading = Reading { asked_ms, answered_ms: asked_ms, unix_ms: now() };
        let since = known_until.min(reading.unix_ms).saturating_sub(OVERLAP_MS);
        let revoked = self.revoked_since(since).await?;
        Ok((reading, revoked.into_iter().filter(|revocation| revocation.at >= since).collect()))
    }

    async fn longest_token_lifetime_ms(&self, lifetime_ms: u64) -> Result<u64, StoreError> {
        let mut store = self.lock();
        store.longest_token_lifetime_ms = store.longest_token_lifetime_ms.max(lifetime_ms);
        Ok(store.longest_token_lifetime_ms)
    }

    async fn create_room(&self, room: NewRoom) -> Result<Room, RoomError> {
        require_storable(&[&room.name, &room.title])?;
        self.lock().create_room(now(), room)
    }

    async fn room(&self, name: &str, viewer: UserId) -> Result<Option<Room>, StoreError> {
        Ok(self.lock().room(name, viewer))
    }

    async fn rooms(
        &self,
        viewer: UserId,
        query: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Room>, StoreError> {
        let store = self.lock();
        let query = text::fold(query);
        let visible = store.rooms.iter().filter_map(|(id, room)| store.view(*id, room, viewer));
        let mut found: Vec<_> = visible
            .filter(|room| after.is_none_or(|after| room.name.as_str() > after))
            .filter(|room| {
                let is_named = room.kind != RoomKind::Direct && room.name.contains(&query);
                is_named || text::fold(&room.title).contains(&query)
            })
            .collect();
        found.sort_by(|a, b| a.name.cmp(&b.name));
        found.truncate(rows_limit(limit));
        Ok(found)
    }

    async fn join(&self, name: &str, user: UserId) -> Result<Join, RoomError> {
        self.lock().join(now(), name, user)
    }

    async fn remove_member(&self, name: &str, actor: UserId, member_key: &str) -> Result<Removal, RoomError> {
        self.lock().remove_member(now(), name, actor, member_key)
    }

    async fn change_room(&self, name: &str, actor: UserId, change: RoomChange) -> Result<RoomChanged, RoomError> {
        require_storable(&change.texts())?;
        self.lock().change_room(now(), name, actor, &change)
    }

    async fn bans(&self, name: &str, actor: UserId, after: Option<UserId>, limit: usize) -> Result<BanPage, RoomError> {
        self.lock().bans(now(), name, actor, after, limit)
    }

    async fn room_audit(
        &self,
        name: &str,
        actor: UserId,
        before: Option<i64>,
        limit: usize,
    ) -> Result<RoomAuditPage, RoomError> {
        self.lock().room_audit(name, actor, before, limit)
    }

    async fn add_member(&self, name: &str, actor: UserId, member_key: &str) -> Result<Addition, RoomError> {
        self.lock().add_member(now(), name, actor, member_key)
    }

    async fn members(
        &self,
        name: &str,
        viewer: UserId,
        after: Option<UserId>,
        limit: usize,
    ) -> Result<MemberPage, RoomError> {
        let store = self.lock();
        let (_, room, role) = store.look_up(name, viewer)?;
        let role = role.ok_or(RoomError::NotMember)?;
        let mut page = store.member_page(room, after, limit);
        page.show_silences(viewer, role, now());
        Ok(page)
    }

    async fn delete_room(&self, name: &str, actor: UserId, reserved_ms: u64) -> Result<RoomId, RoomError> {
        self.lock().delete_room(now(), name, actor, reserved_ms)
    }

    async fn messages(
        &self,
        name: &str,
        viewer: UserId,
        cursor: Cursor,
        limit: usize,
    ) -> Result<MessagePage, RoomError> {
        self.lock().messages(name, viewer, cursor, limit)
    }

    async fn membership_changes(
        &self,
        room: RoomId,
        viewer: UserId,
        above: Offset,
        up_to: Offset,
        limit: usize,
    ) -> Result<Vec<Publication>, RoomError> {
        self.lock().membership_changes(room, viewer, above, up_to, limit)
    }

    async fn open_direct(&self, actor: UserId, keys: &[String]) -> Result<DirectRoom, RoomError> {
        self.lock().open_direct(now(), actor, keys)
    }

    async fn block(&self, user: UserId, other_key: &str, limit: u64) -> Result<BlockChange, RoomError> {
        self.lock().set_block(now(), user, other_key, Some(limit))
    }

    async fn unblock(&self, user: UserId, other_key: &str) -> Result<BlockChange, RoomError> {
        self.lock().set_block(now(), user, other_key, None)
    }

    async fn blocks(&self, user: UserId, after: Option<UserId>, limit: usize) -> Result<Vec<Block>, StoreError> {
        Ok(self.lock().blocks(user, after, limit))
    }

    fn commits(&self) -> Commits {
        self.1.clone()
    }

    async fn register_reader(&self, reader: &str, filter: &str) -> Result<Registration, StoreError> {
        require_storable(&[reader, filter])?;
        Ok(self.lock().register_reader(reader, filter))
    }

    async fn pause_reader(&self, reader: &str, at: UnixMillis) -> Result<(), StoreError> {
        self.lock().pause_reader(reader, at);
        Ok(())
    }

    async fn reader_paused_at(&self, reader: &str) -> Result<UnixMillis, StoreError> {
        Ok(self.lock().readers.get(reader).map_or(0, |registration| registration.paused_at))
    }

    async fn room_heads(
        &self,
        after: RoomId,
        up_to: RoomId,
        limit: usize,
    ) -> Result<Vec<(RoomId, String, Offset)>, StoreError> {
        Ok(self.lock().room_heads(after, up_to, limit))
    }

    async fn prepare_positions(
        &self,
        reader: &str,
        prepared_to: RoomId,
        positions: &[(RoomId, Offset)],
    ) -> Result<(), StoreError> {
        self.lock().prepare_positions(reader, prepared_to, positions);
        Ok(())
    }

    async fn unread_rooms(
        &self,
        reader: &str,
        after: RoomId,
        limit: usize,
    ) -> Result<(Vec<UnreadRoom>, Option<RoomId>), StoreError> {
        Ok(self.lock().unread_rooms(reader, after, limit))
    }

    async fn progress(&self, reader: &str, room: RoomId) -> Result<Option<Progress>, StoreError> {
        Ok(self.lock().progress(reader, room))
    }

    async fn read_log(&self, room: RoomId, request: PageRequest) -> Result<Option<Page>, StoreError> {
        Ok(self.lock().page(room, request, &[]).map(|(page, _)| page))
    }

    async fn move_positions(&self, moves: &[Move]) -> Result<Vec<bool>, StoreError> {
        Ok(self.lock().move_positions(moves))
    }

    async fn add_api_key(&self, key: NewApiKey) -> Result<(), ApiKeyError> {
        require_storable(&[&key.name, &key.hash])?;
        self.lock().add_api_key(now(), key)
    }

    async fn api_keys(&self) -> Result<Vec<Result<ApiKey, StoreError>>, StoreError> {
        Ok(self.lock().api_keys().into_iter().map(Ok).collect())
    }

    async fn api_key_named(&self, name: &str) -> Result<Option<ApiKey>, StoreError> {
        Ok(self.lock().api_keys().into_iter().find(|key| key.name == name))
    }

    async fn api_key(&self, hash: &str, _: IpAddr) -> Result<Option<ApiKey>, StoreError> {
        Ok(self.lock().api_key(hash))
    }

    async fn room_named(&self, name: &str, _: UserId) -> Result<Option<(RoomId, Head)>, StoreError> {
        let store = self.lock();
        let head = |id| Some((id, store.head(id, store.rooms.get(&id)?)));
        Ok(store.room_id(name).and_then(head))
    }

    async fn page_for(&self, room: RoomId, request: PageRequest, _: UserId) -> Result<Option<Page>, StoreError> {
        Ok(self.lock().page(room, request, &[]).map(|(page, _)| page))
    }

    async fn enroll(&self, name: &str, user: UserId, bot: UserId) -> Result<Enrolment, RoomError> {
        let mut store = self.lock();
        let room = store.room_id(name).ok_or(RoomError::NoRoom)?;
        if store.is_direct(room) {
            return Err(RoomError::NotAllowed(direct::CANNOT_ADD));
        }
        let (joined, publication) = store.join_room(now(), room, user, bot)?;
        Ok(Enrolment { room, joined, publication })
    }

    async fn create_bare_user(
        &self,
        username: &str,
        username_key: &str,
        _: UserId,
    ) -> Result<Account, CreateUserError> {
        require_storable(&[username, username_key])?;
        self.lock().create_bare_user(username, username_key)
    }

    async fn rename_user(
        &self,
        user: UserId,
        username: &str,
        username_key: &str,
        _: UserId,
    ) -> Result<Account, RenameError> {
        require_storable(&[username, username_key])?;
        self.lock().rename_user(user, username, username_key)
    }

    async fn create_room_for(&self, room: NewRoom, _: UserId) -> Result<Room, RoomError> {
        self.create_room(room).await
    }

    async fn expel(&self, name: &str, only: Option<RoomId>, user: UserId, bot: UserId) -> Result<Removal, RoomError> {
        let mut store = self.lock();
        let is_meant = |id: &RoomId| only.is_none_or(|only| only == *id);
        let id = store.room_id(name).filter(is_meant).ok_or(RoomError::NoRoom)?;
        if store.is_direct(id) {
            return Err(RoomError::NotAllowed(direct::CANNOT_REMOVE));
        }
        let room = store.rooms.get_mut(&id).ok_or(RoomError::NoRoom)?;
        let role = room.members.get(&user).map(|member| member.role).ok_or(RoomError::NotMember)?;
        if role == Role::Owner {
            return Err(RoomError::NotAllowed(OWNER_STAYS));
        }
        room.members.remove(&user);
        let publication = store.publish_change(now(), id, Kind::Removed, bot, user).ok_or(RoomError::NoRoom)?;
        Ok(Removal { room: id, member: user, publication })
    }

    async fn delete_room_for(
        &self,
        name: &str,
        only: Option<RoomId>,
        _: UserId,
        reserved_ms: u64,
    ) -> Result<RoomId, RoomError> {
        let mut store = self.lock();
        let is_meant = |id: &RoomId| only.is_none_or(|only| only == *id);
        let room = store.room_id(name).filter(is_meant).and_then(|id| store.rooms.get(&id)).ok_or(RoomError::NoRoom)?;
        if room.kind == RoomKind::Direct {
            return Err(RoomError::NotAllowed(direct::CANNOT_DELETE));
        }
        let owner = room.members.iter().find(|(_, member)| member.role == Role::Owner).map(|(id, _)| *id);
        store.delete_room(now(), name, owner.ok_or(RoomError::NoRoom)?, reserved_ms)
    }

    async fn members_for(
        &self,
        name: &str,
        _: UserId,
        after: Option<UserId>,
        limit: usize,
    ) -> Result<MemberPage, RoomError> {
        let store = self.lock();
        let room = store.room_id(name).and_then(|id| store.rooms.get(&id)).ok_or(RoomError::NoRoom)?;
        Ok(store.member_page(room, after, limit))
    }

    async fn subjects(&self, issuer: &str, users: &[UserId], _: UserId) -> Result<Vec<Option<String>>, StoreError> {
        let store = self.lock();
        let subject = |user: &UserId| {
            let mut known = store.identities.iter().filter(|(it, id)| *id == user && *it.issuer == *issuer);
            known.next().map(|(identity, _)| identity.subject.to_string())
        };
        Ok(users.iter().map(subject).collect())
    }

    async fn remove_api_key(&self, name: &str) -> Result<bool, StoreError> {
        Ok(self.lock().api_keys.remove(name).is_some())
    }

    async fn record_audit(&self, entries: &[AuditEntry], kept: u64) -> Result<(), StoreError> {
        for entry in entries {
            require_storable(&[&entry.actor, &entry.action, &entry.target])?;
        }
        self.lock().record_audit(entries, kept);
        Ok(())
    }

    async fn audit(&self, limit: usize) -> Result<Vec<AuditEntry>, StoreError> {
        let store = self.lock();
        let surplus = store.audit.len().saturating_sub(rows_limit(limit));
        Ok(store.audit[surplus..].to_vec())
    }

    async fn create_hook(&self, hook: NewHook) -> Result<Hook, RoomError> {
        require_storable(&[&hook.name, &hook.bot_name, &hook.bot_key, &hook.secret_hash])?;
        self.lock().create_hook(now(), hook)
    }

    async fn hooks(&self, room: &str, actor: UserId) -> Result<Vec<Hook>, RoomError> {
        self.lock().hooks(room, actor)
    }

    async fn delete_hook(&self, room: &str, actor: UserId, hook: i64) -> Result<DeletedHook, RoomError> {
        self.lock().delete_hook(room, actor, hook)
    }

    async fn hook(&self, secret_hash: &str, _: IpAddr) -> Result<Option<HookTarget>, StoreError> {
        Ok(self.lock().hook(secret_hash))
    }

    async fn create_invite(&self, invite: NewInvite) -> Result<Invite, RoomError> {
        require_storable(&[&invite.code])?;
        self.lock().create_invite(now(), invite)
    }

    async fn invites(&self, room: &str, actor: UserId) -> Result<Vec<Invite>, RoomError> {
        self.lock().invites(now(), room, actor)
    }

    async fn revoke_invite(&self, room: &str, actor: UserId, code: &str) -> Result<(), RoomError> {
        self.lock().revoke_invite(room, actor, code)
    }

    async fn invite(&self, code: &str, _: IpAddr) -> Result<OpenInvite, RoomError> {
        self.lock().invite(now(), code)
    }

    async fn accept_invite(&self, code: &str, user: UserId) -> Result<Option<Join>, RoomError> {
        self.lock().accept_invite(now(), code, user)
    }

    async fn create_invited_user(&self, user: NewUser, code: &str) -> Result<InvitedUser, InvitedUserError> {
        require_storable(&[&user.username, &user.username_key, &user.email_key, &user.password_hash])?;
        self.lock().create_invited_user(now(), user, code)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn clock(&self) -> Clock {
        Clock::of_machine()
    }

    fn generation(&self) -> DatabaseGeneration {
        self.lock().generation()
    }

    fn lanes(&self) -> usize {
        1
    }

    async fn close(&self) {}
}
