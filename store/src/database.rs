//! [`Store`] on either database: how calls get a connection, a transaction and a deadline.

use crate::check::storable;
use crate::history;
use crate::markers;
use crate::open::OpenOptions;
use crate::postgres::Postgres;
use crate::rooms::{self, AdmitRow, Generation, Joined};
use crate::session::{Arg, Session, json};
use crate::sqlite::Sqlite;
use crate::users;
use crate::{
    Account, Addition, Admission, AppendError, Chats, CreateUserError, Cursor, Join, JoinError, Login, MemberEntry,
    NewRoom, NewUser, PageRequest, Removal, Revocation, Role, Room, RoomError, Store, StoreError,
};
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use uproar_model::{Head, Item, JoinedRoom, Marker, Outcome, Page, RoomId, UserId};

/// Joins that one transaction takes: it holds the locks of their rooms.
const JOINS_LIMIT: usize = 128;
const SWEEP_RETRY: Duration = Duration::from_secs(30);

/// What is not the same on both databases.
pub(crate) enum Backend {
    Sqlite(Box<Sqlite>),
    Postgres(Box<Postgres>),
}

impl Backend {
    /// A connection to read with: one statement sees one snapshot.
    async fn read(&self) -> Result<Session, sqlx::Error> {
        match self {
            Backend::Sqlite(sqlite) => sqlite.read().await,
            Backend::Postgres(postgres) => postgres.session().await,
        }
    }

    /// A connection in a transaction that may write.
    async fn write(&self) -> Result<Session, sqlx::Error> {
        let mut session = match self {
            Backend::Sqlite(sqlite) => sqlite.write().await?,
            Backend::Postgres(postgres) => postgres.session().await?,
        };
        session.begin().await?;
        Ok(session)
    }
}

pub(crate) struct Database {
    shared: Arc<Shared>,
    sweeper: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    backend: Backend,
    generation: Generation,
    acquire_timeout: Duration,
    call_timeout: Duration,
    /// A room was deleted.
    sweep: Notify,
    closing: Notify,
}

impl Database {
    pub fn new(backend: Backend, generation: Generation, options: &OpenOptions) -> Database {
        let shared = Arc::new(Shared {
            backend,
            generation,
            acquire_timeout: options.acquire_timeout,
            call_timeout: options.call_timeout,
            sweep: Notify::new(),
            closing: Notify::new(),
        });
        let sweeper = tokio::spawn(Arc::clone(&shared).sweep());
        Database { shared, sweeper: Mutex::new(Some(sweeper)) }
    }

    /// The one connection that writes.
    #[cfg(test)]
    pub async fn sqlite_writer(&self) -> Result<Session, sqlx::Error> {
        match &self.shared.backend {
            Backend::Sqlite(sqlite) => sqlite.write().await,
            Backend::Postgres(_) => Err(sqlx::Error::PoolClosed),
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let sweeper = self.sweeper.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(sweeper) = sweeper {
            sweeper.abort();
        }
    }
}

impl Shared {
    /// Sweeps up what deleted rooms leave, in steps that let others through: first what a process before this one left.
    async fn sweep(self: Arc<Self>) {
        let work = async {
            loop {
                match self.sweep_step().await {
                    Ok(true) => {}
                    Ok(false) => self.sweep.notified().await,
                    Err(error) => {
                        tracing::warn!(%error, "could not sweep up a deleted room; trying again later");
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

    async fn sweep_step(&self) -> Result<bool, StoreError> {
        self.within(async {
            let mut session = self.backend.write().await?;
            let more = rooms::sweep_step(&mut session).await;
            session.finish(more).await
        })
        .await
    }

    /// Gives up on a call that takes too long; what it began is rolled back.
    async fn within<T, E: From<StoreError>>(&self, call: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        match timeout(self.acquire_timeout + self.call_timeout, call).await {
            Ok(result) => result,
            Err(_) => Err(StoreError("no answer in time".to_owned()).into()),
        }
    }
}

/// Refuses to create what PostgreSQL could not store.
fn check_storable(texts: &[&str]) -> Result<(), StoreError> {
    if texts.iter().all(|text| storable(text)) {
        Ok(())
    } else {
        Err(StoreError("a text with U+0000 can't be stored".to_owned()))
    }
}

#[async_trait::async_trait]
impl Store for Database {
    async fn append(&self, batch: &[Item]) -> Result<Vec<Outcome>, AppendError> {
        let append = async {
            match &self.shared.backend {
                Backend::Sqlite(sqlite) => sqlite.append(batch).await,
                Backend::Postgres(postgres) => postgres.append(batch).await,
            }
        };
        match timeout(self.shared.acquire_timeout + self.shared.call_timeout, append).await {
            Ok(result) => result,
            Err(_) => Err(AppendError::Unknown("no answer in time".to_owned())),
        }
    }

    async fn heads(&self, rooms: &[RoomId]) -> Result<Vec<Option<Head>>, StoreError> {
        let generation = self.shared.generation;
        self.shared
            .within(async {
                let mut session = self.shared.backend.read().await?;
                history::heads(&mut session, generation, rooms).await
            })
            .await
    }

    async fn page(&self, room: RoomId, request: PageRequest) -> Result<Option<Page>, StoreError> {
        let generation = self.shared.generation;
        self.shared
            .within(async {
                let mut session = self.shared.backend.read().await?;
                history::page(&mut session, generation, room, request).await
            })
            .await
    }

    async fn admit(&self, wanted: &[(String, UserId)]) -> Result<Vec<Result<Admission, JoinError>>, StoreError> {
        let generation = self.shared.generation;
        let mut answers = Vec::with_capacity(wanted.len());
        let mut joins = Vec::new();
        let rows = self
            .shared
            .within(async {
                let mut session = self.shared.backend.read().await?;
                admission_rows(&mut session, wanted).await
            })
            .await?;
        for (index, (row, (_, user))) in rows.into_iter().zip(wanted).enumerate() {
            answers.push(match rooms::judge_admission(generation, row) {
                Ok(admission) => Ok(admission),
                Err(Err(refused)) => Err(refused),
                Err(Ok((room, epoch))) => {
                    joins.push((room, *user, index));
                    Ok(Admission { room, epoch, offset: 0, role: Role::Member, joined: true })
                }
            });
        }
        // In the order in which locks are taken.
        joins.sort_unstable();
        for joins in joins.chunks(JOINS_LIMIT) {
            let joined = self
                .shared
                .within(async {
                    let mut session = self.shared.backend.write().await?;
                    let joined = join_all(&mut session, joins).await;
                    session.finish(joined).await
                })
                .await?;
            for (&(_, _, index), joined) in joins.iter().zip(joined) {
                match (joined, &mut answers[index]) {
                    (Err(refused), answer) => *answer = Err(refused),
                    (Ok(Joined { role, offset, now }), Ok(admission)) => {
                        admission.role = role;
                        admission.offset = offset;
                        admission.joined = now;
                    }
                    (Ok(_), Err(_)) => {}
                }
            }
        }
        Ok(answers)
    }

    async fn read_markers(&self, wanted: &[(RoomId, UserId)]) -> Result<Vec<Option<Marker>>, StoreError> {
        self.shared
            .within(async {
                let mut session = self.shared.backend.read().await?;
                markers::read(&mut session, wanted).await
            })
            .await
    }

    async fn mark_read(&self, markers: &[(RoomId, UserId, Marker)]) -> Result<(), StoreError> {
        if markers.is_empty() {
            return Ok(());
        }
        self.shared
            .within(async {
                let mut session = self.shared.backend.write().await?;
                let moved = markers::advance(&mut session, markers).await.map_err(StoreError::from);
                session.finish(moved).await
            })
            .await
    }

    async fn rooms_of(&self, user: UserId, after: Option<&str>, limit: usize) -> Result<Vec<JoinedRoom>, StoreError> {
        if !after.is_none_or(storable) {
            return Ok(Vec::new());
        }
        self.shared
            .within(async {
                let mut session = self.shared.backend.read().await?;
                Ok(markers::rooms_of(&mut session, self.shared.generation, user, after, limit).await?)
            })
            .await
    }

    async fn create_user(&self, user: NewUser) -> Result<Account, CreateUserError> {
        check_storable(&[&user.username, &user.username_key, &user.email_key, &user.password_hash])?;
        self.shared
            .within(async {
                let mut session = self.shared.backend.write().await?;
                let account = users::create(&mut session, &user).await;
                session.finish(account).await
            })
            .await
    }

    async fn login(&self, login: Login<'_>) -> Result<Option<(Account, Option<String>)>, StoreError> {
        let (Login::UsernameKey(key) | Login::EmailKey(key)) = login;
        if !storable(key) {
            return Ok(None);
        }
        self.shared
            .within(async {
                let mut session = self.shared.backend.read().await?;
                Ok(users::login(&mut session, login).await?)
            })
            .await
    }

    async fn account(&self, user: UserId) -> Result<Option<Account>, StoreError> {
        self.shared
            .within(async {
                let mut session = self.shared.backend.read().await?;
                Ok(users::by_id(&mut session, user).await?)
            })
            .await
    }

    async fn ensure_user(&self, username: &str, username_key: &str) -> Result<Account, CreateUserError> {
        check_storable(&[username, username_key])?;
        self.shared
            .within(async {
                // Nearly always it is there: no write.
                let mut session = self.shared.backend.read().await?;
                if let Some(account) = users::by_username(&mut session, username_key).await? {
                    return Ok(account);
                }
                drop(session);
                let mut session = self.shared.backend.write().await?;
                let account = users::ensure(&mut session, username, username_key).await;
                session.finish(account).await
            })
            .await
    }

    async fn set_password(
        &self,
        user: UserId,
        expected_hash: Option<&str>,
        password_hash: &str,
    ) -> Result<Option<Revocation>, StoreError> {
        check_storable(&[password_hash])?;
        if !expected_hash.is_none_or(storable) {
            return Ok(None);
        }
        self.shared
            .within(async {
                let mut session = self.shared.backend.write().await?;
                let revocation = users::set_password(&mut session, user, expected_hash, password_hash).await;
                session.finish(revocation).await
            })
            .await
    }

    async fn revoke_tokens(&self, user: UserId) -> Result<Option<Revocation>, StoreError> {
        self.shared
            .within(async {
                let mut session = self.shared.backend.write().await?;
                let revocation = users::revoke_tokens(&mut session, user).await;
                session.finish(revocation).await
            })
            .await
    }

    async fn revoked_since(&self, since: u64) -> Result<Vec<Revocation>, StoreError> {
        self.shared
            .within(async {
                let mut session = self.shared.backend.read().await?;
                Ok(users::revoked_since(&mut session, since).await?)
            })
            .await
    }

    async fn create_room(&self, room: NewRoom) -> Result<Room, RoomError> {
        check_storable(&[&room.name, &room.title])?;
        self.shared
            .within(async {
                let mut session = self.shared.backend.write().await?;
                let room = rooms::create(&mut session, self.shared.generation, &room).await;
                session.finish(room).await
            })
            .await
    }

    async fn room(&self, name: &str, viewer: UserId) -> Result<Option<Room>, StoreError> {
        if !storable(name) {
            return Ok(None);
        }
        self.shared
            .within(async {
                let mut session = self.shared.backend.read().await?;
                Ok(rooms::find(&mut session, self.shared.generation, name, viewer).await?)
            })
            .await
    }

    async fn rooms(
        &self,
        viewer: UserId,
        query: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Room>, StoreError> {
        if !storable(query) || !after.is_none_or(storable) {
            return Ok(Vec::new());
        }
        self.shared
            .within(async {
                let mut session = self.shared.backend.read().await?;
                Ok(rooms::list(&mut session, self.shared.generation, viewer, query, after, limit).await?)
            })
            .await
    }

    async fn join(&self, name: &str, user: UserId) -> Result<Join, RoomError> {
        if !storable(name) {
            return Err(RoomError::NoRoom);
        }
        self.shared
            .within(async {
                let mut session = self.shared.backend.write().await?;
                let room = rooms::join_by_name(&mut session, self.shared.generation, name, user).await;
                session.finish(room).await
            })
            .await
    }

    async fn remove_member(&self, name: &str, actor: UserId, member_key: &str) -> Result<Removal, RoomError> {
        if !storable(name) {
            return Err(RoomError::NoRoom);
        }
        if !storable(member_key) {
            return Err(RoomError::NoUser);
        }
        self.shared
            .within(async {
                let mut session = self.shared.backend.write().await?;
                let generation = self.shared.generation;
                let removal = rooms::remove_member(&mut session, generation, name, actor, member_key).await;
                session.finish(removal).await
            })
            .await
    }

    async fn add_member(&self, name: &str, actor: UserId, member_key: &str) -> Result<Addition, RoomError> {
        if !storable(name) {
            return Err(RoomError::NoRoom);
        }
        if !storable(member_key) {
            return Err(RoomError::NoUser);
        }
        self.shared
            .within(async {
                let mut session = self.shared.backend.write().await?;
                let member = rooms::add_member(&mut session, name, actor, member_key).await;
                session.finish(member).await
            })
            .await
    }

    async fn members(
        &self,
        name: &str,
        viewer: UserId,
        after: Option<UserId>,
        limit: usize,
    ) -> Result<Vec<MemberEntry>, RoomError> {
        if !storable(name) {
            return Err(RoomError::NoRoom);
        }
        self.shared
            .within(async {
                let mut session = self.shared.backend.read().await?;
                rooms::members(&mut session, name, viewer, after, limit).await
            })
            .await
    }

    async fn delete_room(&self, name: &str, actor: UserId) -> Result<RoomId, RoomError> {
        if !storable(name) {
            return Err(RoomError::NoRoom);
        }
        let deleted = self
            .shared
            .within(async {
                let mut session = self.shared.backend.write().await?;
                let deleted = rooms::delete(&mut session, name, actor).await;
                session.finish(deleted).await
            })
            .await;
        self.shared.sweep.notify_one();
        deleted
    }

    async fn chats(&self, name: &str, viewer: UserId, cursor: Cursor, limit: usize) -> Result<Chats, RoomError> {
        if !storable(name) {
            return Err(RoomError::NoRoom);
        }
        self.shared
            .within(async {
                let mut session = self.shared.backend.read().await?;
                history::chats(&mut session, self.shared.generation, name, viewer, cursor, limit).await
            })
            .await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.shared
            .within(async {
                let mut session = self.shared.backend.read().await?;
                session.execute("SELECT 1", &[]).await?;
                Ok(())
            })
            .await
    }

    async fn taken(&self) {
        match &self.shared.backend {
            Backend::Sqlite(_) => std::future::pending().await,
            Backend::Postgres(postgres) => postgres.taken().await,
        }
    }

    fn lanes(&self) -> usize {
        match &self.shared.backend {
            Backend::Sqlite(_) => 1,
            Backend::Postgres(postgres) => postgres.lanes(),
        }
    }

    async fn close(&self) {
        self.shared.closing.notify_one();
        let sweeper = self.sweeper.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(sweeper) = sweeper {
            // It ends by itself, giving up a step that is under way; an error would be its panic.
            let _ = sweeper.await;
        }
        match &self.shared.backend {
            Backend::Sqlite(sqlite) => sqlite.close(self.shared.generation).await,
            Backend::Postgres(postgres) => postgres.close().await,
        }
    }
}

async fn admission_rows(session: &mut Session, wanted: &[(String, UserId)]) -> Result<Vec<AdmitRow>, StoreError> {
    // No room has no name.
    let names: Vec<_> = wanted.iter().map(|(name, _)| if storable(name) { name.as_str() } else { "" }).collect();
    let users: Vec<_> = wanted.iter().map(|(_, user)| user.0).collect();
    let rows = if session.is_postgres() {
        // Without the subquery it uses only one of a member's two keys, and reads all members of the room.
        let sql = "SELECT h.room_id, CAST(r.kind AS bigint), r.epoch, h.last_offset, CAST(m.role AS bigint)
            FROM unnest($1, $2) WITH ORDINALITY AS w(name, user_id, n)
            LEFT JOIN rooms r ON r.name = w.name LEFT JOIN heads h ON h.room_id = r.id
            LEFT JOIN LATERAL (SELECT role FROM members WHERE room_id = r.id AND user_id = w.user_id OFFSET 0) m ON true
            ORDER BY w.n";
        session.all(sql, &[Arg::Texts(&names), Arg::Ints(&users)]).await?
    } else {
        let sql = "SELECT h.room_id, r.kind, r.epoch, h.last_offset, m.role FROM json_each($1) w
            LEFT JOIN rooms r ON r.name = w.value ->> 0 LEFT JOIN heads h ON h.room_id = r.id
            LEFT JOIN members m ON m.room_id = r.id AND m.user_id = w.value ->> 1 ORDER BY w.key";
        let pairs: Vec<_> = names.iter().zip(&users).collect();
        session.all(sql, &[Arg::Text(&json(&pairs))]).await?
    };
    if rows.len() == wanted.len() { Ok(rows) } else { Err(StoreError("an answer of the wrong length".to_owned())) }
}

async fn join_all(
    session: &mut Session,
    joins: &[(RoomId, UserId, usize)],
) -> Result<Vec<Result<Joined, JoinError>>, StoreError> {
    let now = session.now().await?;
    let mut joined = Vec::with_capacity(joins.len());
    for &(room, user, _) in joins {
        joined.push(rooms::join(session, room, user, now).await?);
    }
    Ok(joined)
}
