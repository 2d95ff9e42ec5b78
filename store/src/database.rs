//! [`Store`] on either database: how a call gets a connection, a transaction and a deadline.

use crate::admission::{self, PendingJoin, Verdict};
use crate::allowance::{Allowances, TakenJoin, UsedUp};
use crate::check::{is_storable, require_storable};
use crate::commits::Commits;
use crate::connection::DbConnection;
use crate::error::{
    ApiKeyError, AppendError, CreateUserError, InvitedUserError, OpenError, RenameError, RoomError, StoreError,
};
use crate::generation::DatabaseGeneration;
use crate::objects::{
    Account, Addition, ApiKey, AuditEntry, BanPage, Block, BlockChange, Cursor, DeletedHook, DirectRoom, Enrolment,
    Hook, HookTarget, Invite, InvitedUser, Join, Login, MemberPage, MessagePage, Move, NewApiKey, NewHook, NewInvite,
    NewRoom, NewUser, NodeLoad, OpenInvite, OtherNode, OutboxRow, OutboxState, Progress, Registration, Removal, Room,
    RoomAuditPage, RoomChange, RoomChanged, UnreadRoom,
};
use crate::options::OpenOptions;
use crate::postgres::{Lead, OutboxListener, Postgres, PostgresBus};
use crate::rights::{self, Found};
use crate::sqlite::Sqlite;
use crate::store::Store;
use crate::task::Task;
use crate::turns::{Place, TurnOf, Turns};
use crate::unwritten::UnwrittenMarkers;
use crate::{api_keys, direct, history, hooks, invites, markers, names, nodes, outbox, positions, rooms, users};
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use uproar_model::fairness::Prefix;
use uproar_model::{
    Admission, Clock, Head, Identity, Item, JoinError, JoinedRoom, Marker, Offset, Outcome, Page, PageRequest,
    Publication, Reading, Revocation, RoomId, Swept, UnixMillis, UserId,
};

/// The most joins in one transaction. It holds the locks of their rooms, for which messages wait, too, if the rooms are
/// small.
const JOINS_LIMIT: usize = 16;
/// Connections for reading that requests over HTTP leave to the shards.
const CONNECTIONS_FOR_SHARDS: usize = 3;
/// Connections with PostgreSQL on which calls other than appends write at the same time. SQLite has one writer.
const WRITERS: usize = 2;
/// How far polls of revocations go back at least. Each of the three steps of a revocation (the statement that dates it,
/// the pause after it, and the commit) has the time limit of a call, on whichever node.
const OVERLAP_MIN_MS: u64 = 30_000;
/// How often SQLite looks for old entries of the audit log. There no other process deletes rooms.
const AUDIT_SWEEP_INTERVAL: Duration = Duration::from_secs(3600);
const SWEEP_RETRY: Duration = Duration::from_secs(30);

/// The database itself, for everything that differs between the two.
pub(crate) enum Backend {
    Sqlite(Box<Sqlite>),
    Postgres(Box<Postgres>),
}

impl Backend {
    /// A connection for reading, on which each statement sees one snapshot.
    async fn reader(&self) -> Result<DbConnection, sqlx::Error> {
        match self {
            Backend::Sqlite(sqlite) => sqlite.reader().await,
            Backend::Postgres(postgres) => postgres.connection().await,
        }
    }

    /// A connection for sweeps, which nothing else uses on PostgreSQL.
    async fn sweeper(&self) -> Result<DbConnection, sqlx::Error> {
        match self {
            Backend::Sqlite(sqlite) => sqlite.reader().await,
            Backend::Postgres(postgres) => postgres.sweeper().await,
        }
    }

    /// A connection in a transaction that may write.
    async fn writer(&self) -> Result<DbConnection, sqlx::Error> {
        let mut db = match self {
            Backend::Sqlite(sqlite) => sqlite.writer().await?,
            Backend::Postgres(postgres) => postgres.connection().await?,
        };
        db.begin().await?;
        Ok(db)
    }

    /// A connection for a change that is one statement on PostgreSQL, and therefore needs no transaction there. On
    /// SQLite it is in one.
    async fn changer(&self) -> Result<DbConnection, sqlx::Error> {
        match self {
            Backend::Sqlite(_) => self.writer().await,
            Backend::Postgres(postgres) => postgres.connection().await,
        }
    }

    /// Returns when the calls in progress are to be given up, because no answer can be expected.
    async fn silent(&self) {
        match self {
            Backend::Sqlite(_) => std::future::pending().await,
            Backend::Postgres(postgres) => postgres.silent().await,
        }
    }

    /// A publication that the store itself appended was committed.
    fn published(&self, room: RoomId, publication: &Publication) {
        if let Backend::Postgres(postgres) = self {
            postgres.published(room, publication);
        }
    }

    fn generation(&self) -> DatabaseGeneration {
        match self {
            Backend::Sqlite(sqlite) => sqlite.generation(),
            Backend::Postgres(postgres) => postgres.generation(),
        }
    }
}

pub(crate) struct Database {
    calls: Arc<Calls>,
    allowances: Allowances,
    unwritten: UnwrittenMarkers,
    commits: Commits,
    /// Rooms that one user may own.
    rooms_owned_limit: Option<u64>,
    /// Members of a room in which joins are published.
    join_leave_limit: u64,
    /// Deletes what deleted rooms left behind.
    sweeper: Task,
}

/// What calls need, shared with the sweeper.
struct Calls {
    backend: Backend,
    /// Turns of the reads for HTTP requests.
    read_turns: Turns,
    /// Turns of all writes except appends.
    write_turns: Turns,
    /// How long a call may take, including the wait for a connection.
    time_limit: Duration,
    /// How often to look for rooms that another process may have deleted, and for old entries of the audit log.
    sweep_interval: Duration,
    /// This process has deleted a room.
    room_deleted: Notify,
    closing: Notify,
}

impl Database {
    pub fn new(backend: Backend, options: &OpenOptions) -> Database {
        // On PostgreSQL, readers and writers share the connections.
        let (writers, readers) = match backend {
            Backend::Sqlite(_) => (1, options.pool_size.saturating_sub(CONNECTIONS_FOR_SHARDS)),
            Backend::Postgres(_) => (WRITERS, options.pool_size.saturating_sub(CONNECTIONS_FOR_SHARDS + WRITERS)),
        };
        let is_postgres = matches!(backend, Backend::Postgres(_));
        let calls = Arc::new(Calls {
            backend,
            read_turns: Turns::new(readers),
            write_turns: Turns::new(writers),
            time_limit: options.call_timeout,
            sweep_interval: if is_postgres { options.sweep_interval } else { AUDIT_SWEEP_INTERVAL },
            room_deleted: Notify::new(),
            closing: Notify::new(),
        });
        let sweeper = Task::spawn(Arc::clone(&calls).sweep());
        let (rooms_owned_limit, join_leave_limit) = (options.rates.rooms_owned, options.join_leave_limit);
        let allowances = Allowances::new(options.rates);
        let unwritten = UnwrittenMarkers::default();
        let commits = Commits::default();
        Database { calls, allowances, unwritten, commits, rooms_owned_limit, join_leave_limit, sweeper }
    }

    /// A publication that the store itself appended was committed.
    fn published(&self, room: RoomId, publication: &Publication) {
        self.calls.backend.published(room, publication);
        self.commits.note(std::iter::once(room));
    }

    /// Blocks a user, who may block `limit` others, or lifts the block.
    async fn set_block(&self, user: UserId, other_key: &str, limit: Option<u64>) -> Result<BlockChange, RoomError> {
        require_user_key(other_key)?;
        self.allowances.take_write(user)?;
        let change =
            self.calls.change_for(user, async |db| direct::set_block(db, user, other_key, limit).await).await?;
        if let Some((room, publication)) = &change.publication {
            self.published(*room, publication);
        }
        Ok(change)
    }

    /// The part of the migrations that SQL can't do.
    pub(crate) async fn update_names(&self) -> Result<(), OpenError> {
        let failed =
            |error: StoreError| OpenError::Lasting(format!("can't fold the names in the database anew: {error}"));
        let mut db = self.calls.backend.writer().await.map_err(|error| failed(error.into()))?;
        let updated = names::update(&mut db).await;
        db.finish(updated).await.map_err(failed)
    }
}

impl Calls {
    fn generation(&self) -> DatabaseGeneration {
        self.backend.generation()
    }

    /// Runs `call` on a connection for reading.
    async fn read<T, E: From<StoreError>>(
        &self,
        call: impl AsyncFnOnce(&mut DbConnection) -> Result<T, E>,
    ) -> Result<T, E> {
        self.limit_time(async {
            let mut db = self.backend.reader().await.map_err(StoreError::from)?;
            call(&mut db).await
        })
        .await
    }

    /// The same for a request over HTTP. These are served in turn, and leave a few connections to the shards, whose
    /// requests are served in turn already.
    async fn read_in_turn<T, E: From<StoreError>>(
        &self,
        turn_of: TurnOf,
        call: impl AsyncFnOnce(&mut DbConnection) -> Result<T, E>,
    ) -> Result<T, E> {
        let _place = self.turn(&self.read_turns, turn_of).await?;
        self.read(call).await
    }

    /// The same on behalf of a user who asks for themselves.
    async fn read_for<T, E: From<StoreError>>(
        &self,
        user: UserId,
        call: impl AsyncFnOnce(&mut DbConnection) -> Result<T, E>,
    ) -> Result<T, E> {
        self.read_in_turn(TurnOf::User(user), call).await
    }

    /// Runs `call` in a transaction, when it is this one's turn: commits if it returns `Ok`, otherwise rolls back.
    async fn write<T, E: From<StoreError>>(
        &self,
        turn_of: TurnOf,
        call: impl AsyncFnOnce(&mut DbConnection) -> Result<T, E>,
    ) -> Result<T, E> {
        let _place = self.turn(&self.write_turns, turn_of).await?;
        self.limit_time(async {
            let mut db = self.backend.writer().await.map_err(StoreError::from)?;
            let result = call(&mut db).await;
            db.finish(result).await
        })
        .await
    }

    /// The same on behalf of a user.
    async fn write_for<T, E: From<StoreError>>(
        &self,
        user: UserId,
        call: impl AsyncFnOnce(&mut DbConnection) -> Result<T, E>,
    ) -> Result<T, E> {
        self.write(TurnOf::User(user), call).await
    }

    /// Runs `call`, which changes what others wait for, such as a room's head, when it is this one's turn: in a
    /// transaction on SQLite, as for `write`. On PostgreSQL the whole change is one statement, so that no lock outlives
    /// a statement: a process that was stopped between two of them would hold up all others.
    async fn change<T, E: From<StoreError>>(
        &self,
        turn_of: TurnOf,
        call: impl AsyncFnOnce(&mut DbConnection) -> Result<T, E>,
    ) -> Result<T, E> {
        let _place = self.turn(&self.write_turns, turn_of).await?;
        self.limit_time(async {
            let mut db = self.backend.changer().await.map_err(StoreError::from)?;
            let result = call(&mut db).await;
            db.finish(result).await
        })
        .await
    }

    /// The same on behalf of a user.
    async fn change_for<T, E: From<StoreError>>(
        &self,
        user: UserId,
        call: impl AsyncFnOnce(&mut DbConnection) -> Result<T, E>,
    ) -> Result<T, E> {
        self.change(TurnOf::User(user), call).await
    }

    /// Waits for a turn. Until it comes, nothing is done.
    async fn turn(&self, turns: &Turns, turn_of: TurnOf) -> Result<Place, StoreError> {
        tokio::select! {
            place = timeout(self.time_limit, turns.take(turn_of)) => place.unwrap_or(Err(StoreError::Overloaded)),
            () = self.backend.silent() => Err(fallen_silent()),
        }
    }

    /// Abandons a call that takes too long; the database rolls it back.
    async fn limit_time<T, E: From<StoreError>>(&self, call: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        tokio::select! {
            result = timeout(self.time_limit, call) => match result {
                Ok(result) => result,
                Err(_) => Err(StoreError::Failed(self.too_late()).into()),
            },
            () = self.backend.silent() => Err(fallen_silent().into()),
        }
    }

    /// The database, which must be the one that has an outbox.
    fn require_outbox(&self) -> Result<&Postgres, StoreError> {
        match &self.backend {
            Backend::Sqlite(_) => Err(outbox::missing()),
            Backend::Postgres(postgres) => Ok(postgres),
        }
    }

    fn too_late(&self) -> String {
        format!("no answer within {} ms", self.time_limit.as_millis())
    }

    /// Deletes what deleted rooms left behind, starting with those of earlier processes. It works in short
    /// transactions, so that others need not wait for long. A process that has deleted a room sweeps it at once, but it
    /// may end before it is done.
    async fn sweep(self: Arc<Self>) {
        let work = async {
            loop {
                match self.write(TurnOf::Server, async |db| rooms::sweep_step(db).await).await {
                    Ok(true) => {}
                    Ok(false) => tokio::select! {
                        () = self.room_deleted.notified() => {}
                        () = tokio::time::sleep(self.sweep_interval) => {}
                    },
                    Err(error) => {
                        tracing::warn!(%error, "can't sweep up a deleted room; will retry later");
                        tokio::time::sleep(SWEEP_RETRY).await;
                    }
                }
            }
        };
        tokio::select! {
            () = work => {}
            () = self.closing.notified() => {}
        }
    }
}

fn fallen_silent() -> StoreError {
    StoreError::Failed("the database has fallen silent".to_owned())
}

/// No room has a name that can't be stored.
fn require_room_name(name: &str) -> Result<(), RoomError> {
    if is_storable(name) { Ok(()) } else { Err(RoomError::NoRoom) }
}

/// No invite has a code that can't be stored.
fn require_invite_code(code: &str) -> Result<(), RoomError> {
    if is_storable(code) { Ok(()) } else { Err(RoomError::NoInvite) }
}

/// No user has a key that can't be stored.
fn require_user_key(key: &str) -> Result<(), RoomError> {
    if is_storable(key) { Ok(()) } else { Err(RoomError::NoUser) }
}

#[async_trait::async_trait]
impl Store for Database {
    async fn append(&self, batch: &[Item]) -> Result<Vec<Outcome>, AppendError> {
        let append = async {
            match &self.calls.backend {
                Backend::Sqlite(sqlite) => sqlite.append(batch).await,
                Backend::Postgres(postgres) => postgres.append(batch).await,
            }
        };
        let result = match timeout(self.calls.time_limit, append).await {
            Ok(result) => result,
            Err(_) => Err(AppendError::OutcomeUnknown(self.calls.too_late())),
        };
        if let Ok(outcomes) = &result {
            // Duplicates too: when a commit is not answered, only the batch that is sent again tells of it.
            let stored = batch.iter().zip(outcomes).filter(|(_, outcome)| !matches!(outcome, Outcome::Refused(_)));
            self.commits.note(stored.map(|(item, _)| item.room));
        }
        result
    }

    async fn heads(&self, rooms: &[RoomId]) -> Result<Vec<Option<Head>>, StoreError> {
        self.calls.read(async |db| history::heads(db, rooms).await).await
    }

    async fn sweep(&self, heads: &[(RoomId, Offset)]) -> Result<Swept, StoreError> {
        let swept = async {
            let mut db = self.calls.backend.sweeper().await.map_err(StoreError::from)?;
            history::sweep(&mut db, heads).await
        };
        self.calls.limit_time(swept).await
    }

    async fn page(
        &self,
        room: RoomId,
        request: PageRequest,
        viewers: &[UserId],
    ) -> Result<Option<(Page, Vec<UserId>)>, StoreError> {
        self.calls.read(async |db| history::page(db, room, request, viewers).await).await
    }

    async fn admit_members(
        &self,
        wanted: &[(String, UserId)],
    ) -> Result<Vec<Result<Option<Admission>, JoinError>>, StoreError> {
        let verdicts = self.calls.read(async |db| admission::judge(db, wanted).await).await?;
        let admission = |verdict| match verdict {
            Verdict::Admitted(admission) => Ok(Some(admission)),
            Verdict::MayJoin { .. } => Ok(None),
            Verdict::Refused(why) => Err(why),
        };
        Ok(verdicts.into_iter().map(admission).collect())
    }

    async fn admit(&self, wanted: &[(String, UserId)]) -> Result<Vec<Result<Admission, JoinError>>, StoreError> {
        let verdicts = self.calls.read(async |db| admission::judge(db, wanted).await).await?;
        let mut answers = Vec::with_capacity(wanted.len());
        let mut joins = Vec::new();
        let mut taken: Vec<(usize, TakenJoin)> = Vec::new();
        for (index, (verdict, (room_name, user))) in verdicts.into_iter().zip(wanted).enumerate() {
            answers.push(match verdict {
                Verdict::Admitted(admission) => Ok(admission),
                Verdict::Refused(why) => Err(why),
                Verdict::MayJoin { room, epoch, username } => match self.allowances.take_join(*user, room_name) {
                    Ok(join) => {
                        taken.push((index, join));
                        joins.push(PendingJoin { room, user: *user, epoch, username, index });
                        // Replaced below.
                        Err(JoinError::NoRoom)
                    }
                    Err(UsedUp(wait_ms)) => Err(JoinError::TooOften { wait_ms }),
                },
            });
        }
        joins.sort_unstable_by_key(|join| (join.room, join.user, join.index));
        for joins in joins.chunks(JOINS_LIMIT) {
            let limit = self.join_leave_limit;
            let joined =
                self.calls.change(TurnOf::Joins, async |db| admission::join_all(db, joins, limit).await).await?;
            // The last publication is enough: all of them were committed together.
            let added = joined.iter().flatten().rev().find_map(|join| Some((join.room, join.added.as_deref()?)));
            if let Some((room, publication)) = added {
                self.published(room, publication);
            }
            self.commits.note(joined.iter().flatten().filter(|join| join.added.is_some()).map(|join| join.room));
            for (join, answer) in joins.iter().zip(joined) {
                answers[join.index] = answer;
            }
        }
        for (index, join) in taken {
            if !matches!(&answers[index], Ok(admission) if admission.joined) {
                self.allowances.give_back(join);
            }
        }
        Ok(answers)
    }

    async fn read_markers(&self, wanted: &[(RoomId, UserId)]) -> Result<Vec<Option<Marker>>, StoreError> {
        let mut markers = self.calls.read(async |db| markers::read(db, wanted).await).await?;
        self.unwritten.add_heard(wanted, &mut markers);
        Ok(markers)
    }

    async fn mark_read(&self, markers: &[(RoomId, UserId, Marker)]) -> Result<(), StoreError> {
        if markers.is_empty() {
            return Ok(());
        }
        self.calls.change(TurnOf::Server, async |db| markers::advance(db, markers).await).await
    }

    fn unwritten_markers(&self) -> UnwrittenMarkers {
        self.unwritten.clone()
    }

    async fn rooms_of(&self, user: UserId, after: Option<&str>, limit: usize) -> Result<Vec<JoinedRoom>, StoreError> {
        if !after.is_none_or(is_storable) {
            return Ok(Vec::new());
        }
        let newer = self.unwritten.of_user(user);
        self.calls.read(async |db| markers::rooms_of(db, user, after, limit, &newer).await).await
    }

    async fn create_user(&self, user: NewUser) -> Result<Account, CreateUserError> {
        require_storable(&[&user.username, &user.username_key, &user.email_key, &user.password_hash])?;
        self.calls.write(TurnOf::Address(Prefix::of(user.address)), async |db| users::create(db, &user).await).await
    }

    async fn login(&self, login: Login<'_>, client: IpAddr) -> Result<Option<(Account, Option<String>)>, StoreError> {
        let (Login::UsernameKey(key) | Login::EmailKey(key)) = login;
        if !is_storable(key) {
            return Ok(None);
        }
        let turn_of = TurnOf::Address(Prefix::of(client));
        self.calls.read_in_turn(turn_of, async |db| users::login(db, login).await).await
    }

    async fn account(&self, user: UserId) -> Result<Option<Account>, StoreError> {
        self.calls.read_for(user, async |db| users::by_id(db, user).await).await
    }

    async fn account_named(&self, username_key: &str) -> Result<Option<Account>, StoreError> {
        if !is_storable(username_key) {
            return Ok(None);
        }
        let turn_of = TurnOf::Username(username_key.to_owned());
        self.calls.read_in_turn(turn_of, async |db| users::by_username(db, username_key).await).await
    }

    async fn ensure_user(&self, username: &str, username_key: &str) -> Result<Account, CreateUserError> {
        require_storable(&[username, username_key])?;
        // The account nearly always exists, and then nothing is written.
        let known = self.calls.read(async |db| users::by_username(db, username_key).await).await?;
        match known {
            Some(account) => Ok(account),
            None => {
                let turn_of = TurnOf::Username(username_key.to_owned());
                self.calls.write(turn_of, async |db| users::ensure(db, username, username_key).await).await
            }
        }
    }

    async fn account_of(&self, identity: &Identity) -> Result<Option<Account>, StoreError> {
        if !is_storable(&identity.issuer) || !is_storable(&identity.subject) {
            return Ok(None);
        }
        let turn_of = TurnOf::Identity(identity.clone());
        self.calls.read_in_turn(turn_of, async |db| users::by_identity(db, identity).await).await
    }

    async fn ensure_identity(&self, identity: &Identity, username: &str) -> Result<Account, CreateUserError> {
        require_storable(&[&identity.issuer, &identity.subject, username])?;
        // The account nearly always exists, and then nothing is written.
        match self.calls.read(async |db| users::by_identity(db, identity).await).await? {
            Some(account) => Ok(account),
            None => {
                let turn_of = TurnOf::Identity(identity.clone());
                self.calls.write(turn_of, async |db| users::ensure_identity(db, identity, username).await).await
            }
        }
    }

    async fn set_password(
        &self,
        user: UserId,
        expected_hash: Option<&str>,
        password_hash: &str,
    ) -> Result<Option<Revocation>, StoreError> {
        require_storable(&[password_hash])?;
        if !expected_hash.is_none_or(is_storable) {
            return Ok(None);
        }
        self.calls.write_for(user, async |db| users::set_password(db, user, expected_hash, password_hash).await).await
    }

    async fn replace_password_hash(
        &self,
        user: UserId,
        expected_hash: &str,
        password_hash: &str,
    ) -> Result<bool, StoreError> {
        require_storable(&[password_hash])?;
        if !is_storable(expected_hash) {
            return Ok(false);
        }
        self.calls
            .write_for(user, async |db| users::replace_password_hash(db, user, expected_hash, password_hash).await)
            .await
    }

    async fn revoke_tokens(&self, user: UserId) -> Result<Option<Revocation>, StoreError> {
        self.calls.write_for(user, async |db| users::revoke_tokens(db, user).await).await
    }

    async fn set_blocked(&self, user: UserId, is_blocked: bool) -> Result<Option<Account>, StoreError> {
        self.calls.write_for(user, async |db| users::set_blocked(db, user, is_blocked).await).await
    }

    async fn revoked_since(&self, since: UnixMillis) -> Result<Vec<Revocation>, StoreError> {
        self.calls.read(async |db| users::revoked_since(db, since).await).await
    }

    async fn recent_revocations(&self, known_until: UnixMillis) -> Result<(Reading, Vec<Revocation>), StoreError> {
        let overlap_ms = 3 * u64::try_from(self.calls.time_limit.as_millis()).unwrap_or(u64::MAX / 3);
        let recent = async {
            let mut db = match &self.calls.backend {
                Backend::Sqlite(sqlite) => sqlite.reader().await,
                Backend::Postgres(postgres) => postgres.connection_for_revocations().await,
            }?;
            users::recent_revocations(&mut db, known_until, overlap_ms.max(OVERLAP_MIN_MS)).await
        };
        self.calls.limit_time(recent).await
    }

    async fn longest_token_lifetime_ms(&self, lifetime_ms: u64) -> Result<u64, StoreError> {
        self.calls.write(TurnOf::Server, async |db| users::longest_token_lifetime_ms(db, lifetime_ms).await).await
    }

    async fn create_room(&self, room: NewRoom) -> Result<Room, RoomError> {
        require_storable(&[&room.name, &room.title])?;
        self.allowances.take_write(room.owner)?;
        let limit = self.rooms_owned_limit;
        self.calls.write_for(room.owner, async |db| rooms::create(db, &room, limit).await).await
    }

    async fn room(&self, name: &str, viewer: UserId) -> Result<Option<Room>, StoreError> {
        if !is_storable(name) {
            return Ok(None);
        }
        let newer = self.unwritten.of_user(viewer);
        self.calls.read_for(viewer, async |db| rooms::find(db, name, viewer, &newer).await).await
    }

    async fn rooms(
        &self,
        viewer: UserId,
        query: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Room>, StoreError> {
        if !is_storable(query) || !after.is_none_or(is_storable) {
            return Ok(Vec::new());
        }
        let newer = self.unwritten.of_user(viewer);
        self.calls.read_for(viewer, async |db| rooms::list(db, viewer, query, after, limit, &newer).await).await
    }

    async fn join(&self, name: &str, user: UserId) -> Result<Join, RoomError> {
        require_room_name(name)?;
        // For a member nothing changes, so nothing needs to be written.
        let room = self.room(name, user).await?.ok_or(RoomError::NoRoom)?;
        if room.role.is_some() {
            return Ok(Join { room, joined: false, publication: None });
        }
        let taken = self.allowances.take_join(user, name)?;
        let newer = self.unwritten.of_user(user);
        let limit = self.join_leave_limit;
        let joined =
            self.calls.change_for(user, async |db| rooms::join_by_name(db, name, user, &newer, limit).await).await;
        if let Ok(Join { room, publication: Some(publication), .. }) = &joined {
            self.published(room.id, publication);
        }
        if matches!(&joined, Ok(join) if !join.joined) {
            self.allowances.give_back(taken);
        }
        joined
    }

    async fn remove_member(&self, name: &str, actor: UserId, member_key: &str) -> Result<Removal, RoomError> {
        require_room_name(name)?;
        require_user_key(member_key)?;
        let is_leaving = async |db: &mut _| rooms::is_leaving(db, name, actor, member_key).await;
        if !self.calls.read_for(actor, is_leaving).await? {
            self.allowances.take_write(actor)?;
        }
        let removed =
            self.calls.change_for(actor, async |db| rooms::remove_member(db, name, actor, member_key).await).await;
        if let Ok(removal) = &removed {
            self.published(removal.room, &removal.publication);
        }
        removed
    }

    async fn change_room(&self, name: &str, actor: UserId, change: RoomChange) -> Result<RoomChanged, RoomError> {
        require_room_name(name)?;
        if let Some(key) = change.user_key() {
            require_user_key(key)?;
        }
        require_storable(&change.texts())?;
        self.allowances.take_write(actor)?;
        let found = match &change {
            RoomChange::Ban { user_key, delete_since: Some(since), .. } => {
                let find = async |db: &mut _| rights::find_messages(db, name, actor, user_key, *since).await;
                self.calls.read_for(actor, find).await?
            }
            _ => Found::default(),
        };
        let changed =
            self.calls.change_for(actor, async |db| rights::change(db, name, actor, &change, &found).await).await;
        if let Ok(changed) = &changed {
            for publication in &changed.publications {
                self.published(changed.room, publication);
            }
        }
        changed
    }

    async fn bans(&self, name: &str, actor: UserId, after: Option<UserId>, limit: usize) -> Result<BanPage, RoomError> {
        require_room_name(name)?;
        self.calls.read_for(actor, async |db| rights::bans(db, name, actor, after, limit).await).await
    }

    async fn room_audit(
        &self,
        name: &str,
        actor: UserId,
        before: Option<i64>,
        limit: usize,
    ) -> Result<RoomAuditPage, RoomError> {
        require_room_name(name)?;
        self.calls.read_for(actor, async |db| rights::audit(db, name, actor, before, limit).await).await
    }

    async fn add_member(&self, name: &str, actor: UserId, member_key: &str) -> Result<Addition, RoomError> {
        require_room_name(name)?;
        require_user_key(member_key)?;
        // First of all, whether the actor may add members: nobody else takes anything from the member's allowance, or
        // learns anything from it. It is asked again in the transaction.
        let (room, account, member) =
            self.calls.read_for(actor, async |db| rooms::find_addition(db, name, actor, member_key).await).await?;
        if let Some(member) = member {
            return Ok(Addition { room, member, joined: false, publication: None });
        }
        let taken = self.allowances.take_addition(actor, name, account)?;
        let limit = self.join_leave_limit;
        let added =
            self.calls.change_for(actor, async |db| rooms::add_member(db, name, actor, member_key, limit).await).await;
        if let Ok(Addition { room, publication: Some(publication), .. }) = &added {
            self.published(*room, publication);
        }
        match &added {
            Ok(Addition { joined: true, .. }) | Err(RoomError::Store(_)) => {}
            Ok(_) | Err(_) => self.allowances.give_back_addition(taken),
        }
        added
    }

    async fn members(
        &self,
        name: &str,
        viewer: UserId,
        after: Option<UserId>,
        limit: usize,
    ) -> Result<MemberPage, RoomError> {
        require_room_name(name)?;
        self.calls.read_for(viewer, async |db| rooms::members(db, name, viewer, after, limit).await).await
    }

    async fn delete_room(&self, name: &str, actor: UserId, reserved_ms: u64) -> Result<RoomId, RoomError> {
        require_room_name(name)?;
        self.allowances.take_write(actor)?;
        let deleted =
            self.calls.change_for(actor, async |db| rooms::delete(db, name, None, actor, reserved_ms).await).await;
        // Even after an error: the deletion may have been committed.
        self.calls.room_deleted.notify_one();
        deleted
    }

    async fn messages(
        &self,
        name: &str,
        viewer: UserId,
        cursor: Cursor,
        limit: usize,
    ) -> Result<MessagePage, RoomError> {
        require_room_name(name)?;
        self.calls.read_for(viewer, async |db| history::messages(db, name, viewer, cursor, limit).await).await
    }

    async fn membership_changes(
        &self,
        room: RoomId,
        viewer: UserId,
        above: Offset,
        up_to: Offset,
        limit: usize,
    ) -> Result<Vec<Publication>, RoomError> {
        let changes = async |db: &mut _| history::membership_changes(db, room, viewer, above, up_to, limit).await;
        self.calls.read_for(viewer, changes).await
    }

    async fn open_direct(&self, actor: UserId, keys: &[String]) -> Result<DirectRoom, RoomError> {
        keys.iter().try_for_each(|key| require_user_key(key))?;
        let (people, known) = self.calls.read_for(actor, async |db| direct::find(db, actor, keys).await).await?;
        let (name, is_new) = match known {
            Some(name) => (name, false),
            None => {
                self.allowances.take_direct(actor, &people)?;
                self.calls.change_for(actor, async |db| direct::open(db, actor, &people).await).await?
            }
        };
        let room = self.room(&name, actor).await?.ok_or(RoomError::NoRoom)?;
        Ok(DirectRoom { room, is_new })
    }

    async fn block(&self, user: UserId, other_key: &str, limit: u64) -> Result<BlockChange, RoomError> {
        self.set_block(user, other_key, Some(limit)).await
    }

    async fn unblock(&self, user: UserId, other_key: &str) -> Result<BlockChange, RoomError> {
        self.set_block(user, other_key, None).await
    }

    async fn blocks(&self, user: UserId, after: Option<UserId>, limit: usize) -> Result<Vec<Block>, StoreError> {
        self.calls.read_for(user, async |db| direct::blocks(db, user, after, limit).await).await
    }

    fn commits(&self) -> Commits {
        self.commits.clone()
    }

    async fn register_reader(&self, reader: &str, filter: &str) -> Result<Registration, StoreError> {
        require_storable(&[reader, filter])?;
        self.calls.write(TurnOf::Server, async |db| positions::register(db, reader, filter).await).await
    }

    async fn pause_reader(&self, reader: &str, at: UnixMillis) -> Result<(), StoreError> {
        require_storable(&[reader])?;
        self.calls.change(TurnOf::Server, async |db| positions::pause(db, reader, at).await).await
    }

    async fn reader_paused_at(&self, reader: &str) -> Result<UnixMillis, StoreError> {
        require_storable(&[reader])?;
        self.calls.read_in_turn(TurnOf::Server, async |db| positions::paused_at(db, reader).await).await
    }

    async fn room_heads(
        &self,
        after: RoomId,
        up_to: RoomId,
        limit: usize,
    ) -> Result<Vec<(RoomId, String, Offset)>, StoreError> {
        let heads = async |db: &mut _| positions::room_heads(db, after, up_to, limit).await;
        self.calls.read_in_turn(TurnOf::Server, heads).await
    }

    async fn prepare_positions(
        &self,
        reader: &str,
        prepared_to: RoomId,
        heads: &[(RoomId, Offset)],
    ) -> Result<(), StoreError> {
        require_storable(&[reader])?;
        let prepare = async |db: &mut _| positions::prepare(db, reader, prepared_to, heads).await;
        self.calls.write(TurnOf::Server, prepare).await
    }

    async fn unread_rooms(
        &self,
        reader: &str,
        after: RoomId,
        limit: usize,
    ) -> Result<(Vec<UnreadRoom>, Option<RoomId>), StoreError> {
        require_storable(&[reader])?;
        let unread = async |db: &mut _| positions::unread_rooms(db, reader, after, limit).await;
        self.calls.read_in_turn(TurnOf::Server, unread).await
    }

    async fn progress(&self, reader: &str, room: RoomId) -> Result<Option<Progress>, StoreError> {
        require_storable(&[reader])?;
        let progress = async |db: &mut _| positions::progress(db, reader, room).await;
        self.calls.read_in_turn(TurnOf::Server, progress).await
    }

    async fn read_log(&self, room: RoomId, request: PageRequest) -> Result<Option<Page>, StoreError> {
        let page = async |db: &mut _| history::page(db, room, request, &[]).await;
        Ok(self.calls.read_in_turn(TurnOf::Server, page).await?.map(|(page, _)| page))
    }

    async fn move_positions(&self, moves: &[Move]) -> Result<Vec<bool>, StoreError> {
        if moves.is_empty() {
            return Ok(Vec::new());
        }
        self.calls.change(TurnOf::Server, async |db| positions::advance(db, moves).await).await
    }

    async fn lead(&self) -> Result<Option<Lead>, StoreError> {
        match &self.calls.backend {
            Backend::Sqlite(_) => Ok(Some(Lead::alone())),
            Backend::Postgres(postgres) => {
                self.calls.limit_time(async { postgres.lead().await.map_err(StoreError::from) }).await
            }
        }
    }

    async fn outbox_rows(&self, limit: usize, bytes_limit: usize) -> Result<Vec<OutboxRow>, StoreError> {
        self.calls.require_outbox()?;
        self.calls.read_in_turn(TurnOf::Server, async |db| outbox::rows(db, limit, bytes_limit).await).await
    }

    async fn finish_outbox_rows(&self, done: &[i64], failed: &[(i64, String)], kept: u64) -> Result<u64, StoreError> {
        self.calls.require_outbox()?;
        for (_, error) in failed {
            require_storable(&[error])?;
        }
        if !failed.is_empty() {
            // A commit may hang, and take effect after it was given up. Then none of these is to be set aside.
            let ids: Vec<i64> = failed.iter().map(|(id, _)| *id).collect();
            self.calls.change(TurnOf::Server, async |db| outbox::touch(db, &ids).await).await?;
        }
        self.calls.change(TurnOf::Server, async |db| outbox::finish(db, done, failed).await).await?;
        match failed {
            [] => Ok(0),
            _ => self.calls.change(TurnOf::Server, async |db| outbox::forget(db, kept).await).await,
        }
    }

    async fn outbox_state(&self) -> Result<OutboxState, StoreError> {
        self.calls.require_outbox()?;
        self.calls.read_in_turn(TurnOf::Server, async |db| outbox::state(db).await).await
    }

    async fn lead_outbox(&self) -> Result<Option<Lead>, StoreError> {
        let postgres = self.calls.require_outbox()?;
        self.calls.limit_time(async { postgres.lead_outbox().await.map_err(StoreError::from) }).await
    }

    async fn outbox_listener(&self) -> Result<OutboxListener, String> {
        self.calls.require_outbox().map_err(|error| error.to_string())?.outbox_listener().await
    }

    async fn add_api_key(&self, key: NewApiKey) -> Result<(), ApiKeyError> {
        require_storable(&[&key.name, &key.hash])?;
        self.calls.write(TurnOf::Server, async |db| api_keys::add(db, &key).await).await
    }

    async fn api_keys(&self) -> Result<Vec<Result<ApiKey, StoreError>>, StoreError> {
        self.calls.read_in_turn(TurnOf::Server, async |db| api_keys::list(db).await).await
    }

    async fn api_key_named(&self, name: &str) -> Result<Option<ApiKey>, StoreError> {
        if !is_storable(name) {
            return Ok(None);
        }
        self.calls.read_in_turn(TurnOf::Server, async |db| api_keys::by_name(db, name).await).await
    }

    async fn api_key(&self, hash: &str, client: IpAddr) -> Result<Option<ApiKey>, StoreError> {
        let turn_of = TurnOf::Address(Prefix::of(client));
        self.calls.read_in_turn(turn_of, async |db| api_keys::by_hash(db, hash).await).await
    }

    async fn room_named(&self, name: &str, bot: UserId) -> Result<Option<(RoomId, Head)>, StoreError> {
        if !is_storable(name) {
            return Ok(None);
        }
        self.calls.read_for(bot, async |db| rooms::named(db, name).await).await
    }

    async fn page_for(&self, room: RoomId, request: PageRequest, bot: UserId) -> Result<Option<Page>, StoreError> {
        let page = self.calls.read_for(bot, async |db| history::page(db, room, request, &[]).await).await?;
        Ok(page.map(|(page, _)| page))
    }

    async fn enroll(&self, name: &str, user: UserId, bot: UserId) -> Result<Enrolment, RoomError> {
        require_room_name(name)?;
        let limit = self.join_leave_limit;
        let enrolled = self.calls.change_for(bot, async |db| rooms::enroll(db, name, user, bot, limit).await).await?;
        if let Some(publication) = &enrolled.publication {
            self.published(enrolled.room, publication);
        }
        Ok(enrolled)
    }

    async fn create_bare_user(
        &self,
        username: &str,
        username_key: &str,
        bot: UserId,
    ) -> Result<Account, CreateUserError> {
        require_storable(&[username, username_key])?;
        self.calls.write_for(bot, async |db| users::create_bare(db, username, username_key).await).await
    }

    async fn rename_user(
        &self,
        user: UserId,
        username: &str,
        username_key: &str,
        bot: UserId,
    ) -> Result<Account, RenameError> {
        require_storable(&[username, username_key])?;
        self.calls.write_for(bot, async |db| users::rename(db, user, username, username_key).await).await
    }

    async fn create_room_for(&self, room: NewRoom, bot: UserId) -> Result<Room, RoomError> {
        require_storable(&[&room.name, &room.title])?;
        self.calls.write_for(bot, async |db| rooms::create(db, &room, None).await).await
    }

    async fn expel(&self, name: &str, only: Option<RoomId>, user: UserId, bot: UserId) -> Result<Removal, RoomError> {
        require_room_name(name)?;
        let removal = self.calls.change_for(bot, async |db| rooms::expel(db, name, only, bot, user).await).await?;
        self.published(removal.room, &removal.publication);
        Ok(removal)
    }

    async fn delete_room_for(
        &self,
        name: &str,
        only: Option<RoomId>,
        bot: UserId,
        reserved_ms: u64,
    ) -> Result<RoomId, RoomError> {
        require_room_name(name)?;
        let owner = self.calls.read_for(bot, async |db| rooms::owner(db, name).await).await?;
        let deleting = self.calls.change_for(bot, async |db| rooms::delete(db, name, only, owner, reserved_ms).await);
        let deleted = deleting.await;
        // Even after an error: the deletion may have been committed.
        self.calls.room_deleted.notify_one();
        deleted
    }

    async fn members_for(
        &self,
        name: &str,
        bot: UserId,
        after: Option<UserId>,
        limit: usize,
    ) -> Result<MemberPage, RoomError> {
        require_room_name(name)?;
        self.calls.read_for(bot, async |db| rooms::members_for_bot(db, name, after, limit).await).await
    }

    async fn subjects(&self, issuer: &str, users: &[UserId], bot: UserId) -> Result<Vec<Option<String>>, StoreError> {
        if users.is_empty() || !is_storable(issuer) {
            return Ok(vec![None; users.len()]);
        }
        self.calls.read_for(bot, async |db| users::subjects(db, issuer, users).await).await
    }

    async fn remove_api_key(&self, name: &str) -> Result<bool, StoreError> {
        if !is_storable(name) {
            return Ok(false);
        }
        self.calls.write(TurnOf::Server, async |db| api_keys::remove(db, name).await).await
    }

    async fn record_audit(&self, entries: &[AuditEntry], kept: u64) -> Result<(), StoreError> {
        for entry in entries {
            require_storable(&[&entry.actor, &entry.action, &entry.target])?;
        }
        self.calls.write(TurnOf::Server, async |db| api_keys::record(db, entries, kept).await).await
    }

    async fn audit(&self, limit: usize) -> Result<Vec<AuditEntry>, StoreError> {
        self.calls.read_in_turn(TurnOf::Server, async |db| api_keys::audit(db, limit).await).await
    }

    async fn create_hook(&self, hook: NewHook) -> Result<Hook, RoomError> {
        require_room_name(&hook.room)?;
        require_storable(&[&hook.name, &hook.bot_name, &hook.bot_key, &hook.secret_hash])?;
        self.allowances.take_write(hook.creator)?;
        self.calls.write_for(hook.creator, async |db| hooks::create(db, &hook).await).await
    }

    async fn hooks(&self, room: &str, actor: UserId) -> Result<Vec<Hook>, RoomError> {
        require_room_name(room)?;
        self.calls.read_for(actor, async |db| hooks::list(db, room, actor).await).await
    }

    async fn delete_hook(&self, room: &str, actor: UserId, hook: i64) -> Result<DeletedHook, RoomError> {
        require_room_name(room)?;
        self.calls.write_for(actor, async |db| hooks::delete(db, room, actor, hook).await).await
    }

    async fn hook(&self, secret_hash: &str, client: IpAddr) -> Result<Option<HookTarget>, StoreError> {
        if !is_storable(secret_hash) {
            return Ok(None);
        }
        let turn_of = TurnOf::Address(Prefix::of(client));
        self.calls.read_in_turn(turn_of, async |db| hooks::find(db, secret_hash).await).await
    }

    async fn create_invite(&self, invite: NewInvite) -> Result<Invite, RoomError> {
        require_storable(&[&invite.code])?;
        if let Some(room) = &invite.room {
            require_room_name(room)?;
        }
        let turn_of = match invite.creator {
            Some(creator) => {
                self.allowances.take_write(creator)?;
                TurnOf::User(creator)
            }
            None => TurnOf::Server,
        };
        self.calls.change(turn_of, async |db| invites::create(db, &invite).await).await
    }

    async fn invites(&self, room: &str, actor: UserId) -> Result<Vec<Invite>, RoomError> {
        require_room_name(room)?;
        self.calls.read_for(actor, async |db| invites::list(db, room, actor).await).await
    }

    async fn revoke_invite(&self, room: &str, actor: UserId, code: &str) -> Result<(), RoomError> {
        require_room_name(room)?;
        require_invite_code(code)?;
        self.allowances.take_write(actor)?;
        self.calls.change_for(actor, async |db| invites::revoke(db, room, actor, code).await).await
    }

    async fn invite(&self, code: &str, client: IpAddr) -> Result<OpenInvite, RoomError> {
        require_invite_code(code)?;
        let turn_of = TurnOf::Address(Prefix::of(client));
        self.calls.read_in_turn(turn_of, async |db| invites::find(db, code).await).await
    }

    async fn accept_invite(&self, code: &str, user: UserId) -> Result<Option<Join>, RoomError> {
        require_invite_code(code)?;
        let target = self.calls.read_for(user, async |db| invites::target(db, code, user).await).await?;
        let Some((name, is_member)) = target else { return Ok(None) };
        if is_member {
            let room = self.room(&name, user).await?.ok_or(RoomError::NoRoom)?;
            return Ok(Some(Join { room, joined: false, publication: None }));
        }
        let taken = self.allowances.take_join(user, &name)?;
        let newer = self.unwritten.of_user(user);
        let limit = self.join_leave_limit;
        let accept = async |db: &mut _| invites::accept(db, code, &name, user, &newer, limit).await;
        let joined = self.calls.change_for(user, accept).await;
        if let Ok(Join { room, publication: Some(publication), .. }) = &joined {
            self.published(room.id, publication);
        }
        if matches!(&joined, Ok(join) if !join.joined) {
            self.allowances.give_back(taken);
        }
        joined.map(Some)
    }

    async fn create_invited_user(&self, user: NewUser, code: &str) -> Result<InvitedUser, InvitedUserError> {
        require_storable(&[&user.username, &user.username_key, &user.email_key, &user.password_hash])?;
        require_invite_code(code)?;
        let turn_of = TurnOf::Address(Prefix::of(user.address));
        let limit = self.join_leave_limit;
        let created = self.calls.change(turn_of, async |db| invites::sign_up(db, &user, code, limit).await).await?;
        if let (Some((room, _)), Some(publication)) = (&created.room, &created.publication) {
            self.published(*room, publication);
        }
        Ok(created)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.calls
            .read(async |db| {
                db.execute("SELECT 1", &[]).await?;
                Ok(())
            })
            .await
    }

    fn clock(&self) -> Clock {
        match &self.calls.backend {
            Backend::Sqlite(_) => Clock::of_machine(),
            Backend::Postgres(postgres) => postgres.clock(),
        }
    }

    fn generation(&self) -> DatabaseGeneration {
        self.calls.generation()
    }

    fn generations(&self) -> watch::Receiver<DatabaseGeneration> {
        match &self.calls.backend {
            Backend::Sqlite(sqlite) => watch::channel(sqlite.generation()).1,
            Backend::Postgres(postgres) => postgres.generations(),
        }
    }

    fn bus(&self) -> Option<PostgresBus> {
        match &self.calls.backend {
            Backend::Sqlite(_) => None,
            Backend::Postgres(postgres) => postgres.bus(),
        }
    }

    async fn report_load(&self, node: &str, load: NodeLoad) -> Result<bool, StoreError> {
        require_storable(&[node])?;
        match &self.calls.backend {
            Backend::Sqlite(_) => Ok(true),
            Backend::Postgres(_) => {
                self.calls.change(TurnOf::Server, async |db| nodes::report_load(db, node, load).await).await
            }
        }
    }

    async fn other_nodes(&self, node: &str) -> Result<Vec<OtherNode>, StoreError> {
        match &self.calls.backend {
            Backend::Sqlite(_) => Ok(Vec::new()),
            Backend::Postgres(_) => {
                self.calls.read_in_turn(TurnOf::Server, async |db| nodes::others(db, node).await).await
            }
        }
    }

    fn peers(&self) -> usize {
        match &self.calls.backend {
            Backend::Sqlite(_) => 0,
            Backend::Postgres(postgres) => postgres.peers(),
        }
    }

    fn bus_version(&self) -> i32 {
        match &self.calls.backend {
            Backend::Sqlite(_) => 1,
            Backend::Postgres(postgres) => postgres.bus_version(),
        }
    }

    async fn ended(&self) -> String {
        let of_backend = async {
            match &self.calls.backend {
                Backend::Sqlite(sqlite) => sqlite.ended().await,
                Backend::Postgres(postgres) => postgres.ended().await,
            }
        };
        tokio::select! {
            reason = of_backend => reason,
            () = self.sweeper.ended() => "the task that sweeps up deleted rooms ended unexpectedly".to_owned(),
        }
    }

    fn lanes(&self) -> usize {
        match &self.calls.backend {
            Backend::Sqlite(_) => 1,
            Backend::Postgres(postgres) => postgres.lanes(),
        }
    }

    async fn close(&self) {
        self.calls.closing.notify_one();
        // It abandons its current step and ends.
        self.sweeper.join().await;
        match &self.calls.backend {
            Backend::Sqlite(sqlite) => sqlite.close().await,
            Backend::Postgres(postgres) => postgres.close().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::Arg;
    use crate::data_folder::DataFolder;
    use crate::objects::RoomKind;
    use uproar_model::Kind;

    async fn open_sqlite() -> Result<(tempfile::TempDir, Database), Box<dyn std::error::Error>> {
        open_sqlite_with(OpenOptions::default()).await
    }

    async fn open_sqlite_with(
        options: OpenOptions,
    ) -> Result<(tempfile::TempDir, Database), Box<dyn std::error::Error>> {
        let directory = tempfile::TempDir::new()?;
        let folder = DataFolder::open(directory.path().join("data"))?;
        let sqlite = Sqlite::open(&folder.database_path(), &folder, &options).await?;
        let database = Database::new(Backend::Sqlite(Box::new(sqlite)), &options);
        // Let the sweeper take its first turn to write, and wait until it is over. Otherwise it could come in the
        // middle of a test and wait there for a future that the test doesn't poll.
        tokio::task::yield_now().await;
        drop(database.calls.write_turns.take(TurnOf::Server).await?);
        Ok((directory, database))
    }

    #[tokio::test]
    async fn the_store_has_ended_when_the_sweeper_has() -> Result<(), Box<dyn std::error::Error>> {
        let (_directory, database) = open_sqlite().await?;
        let mut ended = Box::pin(database.ended());
        assert!(timeout(Duration::from_millis(1), &mut ended).await.is_err());
        database.calls.closing.notify_one();
        let reason = timeout(Duration::from_secs(60), ended).await?;
        assert_eq!(reason, "the task that sweeps up deleted rooms ended unexpectedly");
        Ok(())
    }

    #[tokio::test]
    async fn a_page_of_a_users_rooms_is_read_without_sorting_all_of_them() -> Result<(), Box<dyn std::error::Error>> {
        let (_directory, database) = open_sqlite().await?;
        let sql: &'static str = Box::leak(format!("EXPLAIN QUERY PLAN {}", markers::ROOMS_OF_SQLITE).into());
        let args = [Arg::Int(1), Arg::Text(""), Arg::Int(1)];
        let steps = database.calls.backend.reader().await?.all::<(i64, i64, i64, String)>(sql, &args).await?;
        let plan: Vec<_> = steps.into_iter().map(|(.., step)| step).collect();
        assert!(plan.iter().any(|step| step.starts_with("SEARCH u USING")), "{plan:?}");
        assert!(!plan.iter().any(|step| step.contains("TEMP B-TREE")), "{plan:?}");
        // Only what is a page already, and the markers in the argument.
        let scanned = plan.iter().filter_map(|step| step.strip_prefix("SCAN ")?.split(' ').next());
        let is_page = |name: &str| matches!(name, "r" | "w" | "seen" | "counted") || name.starts_with('(');
        assert!(scanned.clone().all(is_page), "{plan:?}");
        database.close().await;
        Ok(())
    }

    /// However many messages lie between, and however few there are: a table without statistics.
    #[tokio::test]
    async fn joins_and_departures_are_read_from_their_index() -> Result<(), Box<dyn std::error::Error>> {
        let (_directory, database) = open_sqlite().await?;
        let sql: &'static str = Box::leak(format!("EXPLAIN QUERY PLAN {}", history::MEMBERSHIP_CHANGES_SQLITE).into());
        let args = [Arg::Int(1), Arg::Int(0), Arg::Int(9), Arg::Int(1), Arg::Int(1)];
        let steps = database.calls.backend.reader().await?.all::<(i64, i64, i64, String)>(sql, &args).await?;
        let plan: Vec<_> = steps.into_iter().map(|(.., step)| step).collect();
        assert!(plan.iter().any(|step| step.contains("messages_memberships (room_id=? AND room_offset>?")), "{plan:?}");
        database.close().await;
        Ok(())
    }

    #[tokio::test]
    async fn an_append_waits_for_one_other_write_at_most() -> Result<(), Box<dyn std::error::Error>> {
        let (_directory, database) = open_sqlite().await?;
        let Backend::Sqlite(sqlite) = &database.calls.backend else { return Err("it is SQLite".into()) };
        let first = sqlite.writer().await?;
        let write = |n| database.calls.write_for(UserId(n), async |_| Ok::<_, StoreError>(()));
        let mut others: Vec<_> = (1..10).map(|n| Box::pin(write(n))).collect();
        for other in &mut others {
            assert!(poll_once(other.as_mut()).await.is_none(), "there is one writer");
        }
        let mut append = Box::pin(sqlite.append(&[]));
        assert!(poll_once(append.as_mut()).await.is_none());
        drop(first);
        others.remove(0).await?;
        // The others do not hold the writer while the append is under way.
        append.await?;
        drop(others);
        database.close().await;
        Ok(())
    }

    #[tokio::test]
    async fn reads_over_http_wait_for_turns_and_those_of_shards_do_not() -> Result<(), Box<dyn std::error::Error>> {
        let (_directory, database) = open_sqlite().await?;
        let mut places = Vec::new();
        for _ in 0..OpenOptions::default().pool_size - CONNECTIONS_FOR_SHARDS {
            places.push(database.calls.read_turns.take(TurnOf::Server).await?);
        }
        let mut login = Box::pin(database.login(Login::UsernameKey("ann"), [127, 0, 0, 1].into()));
        let mut named = Box::pin(database.account_named("ann"));
        let mut account = Box::pin(database.account(UserId(1)));
        assert!(poll_once(login.as_mut()).await.is_none());
        assert!(poll_once(named.as_mut()).await.is_none());
        assert!(poll_once(account.as_mut()).await.is_none());
        assert_eq!(database.heads(&[RoomId(1)]).await?.len(), 1);
        assert!(database.admit_members(&[("lobby".to_owned(), UserId(1))]).await?[0].is_err());
        drop(places);
        assert!(login.await?.is_none() && named.await?.is_none() && account.await?.is_none());
        database.close().await;
        Ok(())
    }

    #[tokio::test]
    async fn a_call_whose_turn_does_not_come_in_time_did_nothing() -> Result<(), Box<dyn std::error::Error>> {
        let options = OpenOptions { call_timeout: Duration::from_millis(1), ..OpenOptions::default() };
        let (_directory, database) = open_sqlite_with(options).await?;
        let place = database.calls.write_turns.take(TurnOf::Server).await?;
        let refused = database.calls.write_for(UserId(1), async |_| Ok::<_, StoreError>(())).await;
        assert!(matches!(refused, Err(StoreError::Overloaded)), "{refused:?}");
        drop(place);
        database.close().await;
        Ok(())
    }

    #[tokio::test]
    async fn a_write_waits_for_one_write_of_each_other_user() -> Result<(), Box<dyn std::error::Error>> {
        let (_directory, database) = open_sqlite().await?;
        let Backend::Sqlite(sqlite) = &database.calls.backend else { return Err("it is SQLite".into()) };
        let writer = sqlite.writer().await?;
        let write = |user| database.calls.write_for(user, async |_| Ok::<_, StoreError>(()));
        let (ann, ben) = (UserId(1), UserId(2));
        let mut of_ann: Vec<_> = (0..100).map(|_| Box::pin(write(ann))).collect();
        for write in &mut of_ann {
            assert!(poll_once(write.as_mut()).await.is_none());
        }
        let mut of_ben = Box::pin(write(ben));
        assert!(poll_once(of_ben.as_mut()).await.is_none());
        drop(writer);
        // The first has its turn already. The second is before Ben's, and the rest, which nobody polls, behind it.
        of_ann.remove(0).await?;
        of_ann.remove(0).await?;
        of_ben.await?;
        drop(of_ann);
        database.close().await;
        Ok(())
    }

    /// Polls a future once.
    async fn poll_once<F: Future + Unpin>(mut future: F) -> Option<F::Output> {
        std::future::poll_fn(|context| {
            std::task::Poll::Ready(match std::pin::Pin::new(&mut future).poll(context) {
                std::task::Poll::Ready(output) => Some(output),
                std::task::Poll::Pending => None,
            })
        })
        .await
    }

    #[tokio::test]
    async fn an_append_to_a_full_disk_can_be_repeated_later() -> Result<(), Box<dyn std::error::Error>> {
        let (_directory, database) = open_sqlite().await?;
        let owner = database.ensure_user("Ann", "ann").await?.id;
        let (name, title) = ("lobby".to_owned(), String::new());
        let room = database.create_room(NewRoom { name, title, kind: RoomKind::Public, size: 5, owner }).await?.id;
        let item = |n: usize| Item {
            room,
            user: owner,
            id: format!("{n}").into(),
            kind: Kind::Message,
            target: None,
            body: Some("x".repeat(16 * 1024).into()),
            meta: None,
        };
        let batch: Vec<_> = (0..50).map(item).collect();

        // Too low a limit keeps the file from growing. The pragma belongs to the connection, of which there is only
        // one.
        let Backend::Sqlite(sqlite) = &database.calls.backend else { return Err("it is SQLite".into()) };
        let limit_pages = |pragma: &'static str| async move { sqlite.writer().await?.execute(pragma, &[]).await };
        limit_pages("PRAGMA max_page_count = 1").await?;
        let full = database.append(&batch).await;
        assert!(matches!(&full, Err(AppendError::OutcomeUnknown(why)) if why.contains("full")), "{full:?}");
        assert_eq!(database.heads(&[room]).await?[0].as_ref().map(|head| head.offset), Some(0));
        limit_pages("PRAGMA max_page_count = 1000000").await?;
        assert!(database.append(&batch).await?.iter().all(|outcome| matches!(outcome, Outcome::New(_))));
        database.close().await;
        Ok(())
    }
}
