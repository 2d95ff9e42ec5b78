//! A store for each case, and short functions for what cases do.

use sqlx::postgres::PgConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};
use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use uproar_model::{Item, Kind, Offset, Outcome, Page, Publication, Refusal, Role, RoomId, Stored, UnixMillis, UserId};
use uproar_store::memory::{MemoryStore, SharedMemoryStore};
use uproar_store::testing::TestPostgres;
use uproar_store::{DataFolder, DatabaseUrl, NewRoom, OpenOptions, PageRequest, Room, RoomKind, Store, open};

/// A time that does not come.
pub const NEVER: UnixMillis = 32_503_680_000_000;

/// A fresh store. Cases share nothing.
#[derive(Clone)]
pub struct World {
    pub store: Arc<dyn Store>,
    /// Folders and locks that must outlive the store.
    _fixture: Arc<dyn Send + Sync>,
    ids: Arc<AtomicU64>,
    backdoor: Backdoor,
}

/// The way to what no call of the store changes.
#[derive(Clone)]
enum Backdoor {
    None,
    Sqlite(PathBuf),
    Postgres(String),
    Memory(Arc<SharedMemoryStore>),
}

pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

pub fn postgres() -> &'static TestPostgres {
    static SERVER: OnceLock<TestPostgres> = OnceLock::new();
    SERVER.get_or_init(|| {
        let started = std::thread::spawn(|| runtime().block_on(TestPostgres::start())).join().expect("no panic");
        match started {
            Ok(server) => server,
            Err(why) => panic!("{why}"),
        }
    })
}

pub fn on_sqlite<F: Future<Output = ()>>(join_leave_limit: u64, case: impl FnOnce(World) -> F) {
    runtime().block_on(async {
        let directory = TempDir::new().expect("a directory");
        let folder = DataFolder::open(directory.path().join("data")).expect("a data folder");
        let url = DatabaseUrl::Sqlite(folder.database_path());
        let backdoor = Backdoor::Sqlite(folder.database_path());
        let options = OpenOptions { join_leave_limit, ..OpenOptions::default() };
        let store = open(&url, &folder, options).await.expect("a store");
        let world = World { store, _fixture: Arc::new((folder, directory)), ids: Arc::default(), backdoor };
        case(world.clone()).await;
        world.store.close().await;
    });
}

pub fn on_postgres<F: Future<Output = ()>>(join_leave_limit: u64, case: impl FnOnce(World) -> F) {
    let server = postgres();
    runtime().block_on(async {
        let url = server.create_database().await.expect("a database");
        let directory = TempDir::new().expect("a directory");
        let folder = DataFolder::open(directory.path().join("data")).expect("a data folder");
        let backdoor = Backdoor::Postgres(url.clone());
        let url = url.parse::<DatabaseUrl>().expect("a URL");
        let options = OpenOptions { join_leave_limit, ..OpenOptions::default() };
        let store = open(&url, &folder, options).await.expect("a store");
        let world = World { store, _fixture: Arc::new((folder, directory)), ids: Arc::default(), backdoor };
        case(world.clone()).await;
        world.store.close().await;
    });
}

pub fn on_memory<F: Future<Output = ()>>(join_leave_limit: u64, case: impl FnOnce(World) -> F) {
    let store = Arc::new(SharedMemoryStore::with_join_leave_limit(join_leave_limit));
    let backdoor = Backdoor::Memory(Arc::clone(&store));
    runtime().block_on(case(World { store, _fixture: Arc::new(()), ids: Arc::default(), backdoor }));
}

impl World {
    pub fn of(store: Arc<dyn Store>) -> World {
        World { store, _fixture: Arc::new(()), ids: Arc::default(), backdoor: Backdoor::None }
    }

    /// Changes the store through its database, or if it has none, by a function.
    async fn change(&self, sql: String, change: impl FnOnce(&mut MemoryStore)) {
        match &self.backdoor {
            Backdoor::None => panic!("this world has no backdoor"),
            Backdoor::Memory(store) => change(&mut store.lock()),
            Backdoor::Sqlite(path) => {
                let mut shell = SqliteConnectOptions::new().filename(path).connect().await.expect("a connection");
                sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut shell).await.expect("a change");
                shell.close().await.expect("closed");
            }
            Backdoor::Postgres(url) => {
                let options = url.parse::<PgConnectOptions>().expect("options");
                let mut shell = options.connect().await.expect("a connection");
                sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut shell).await.expect("a change");
                shell.close().await.expect("closed");
            }
        }
    }

    /// Gives a room slow mode, and says who may post there: 0 members, 1 moderators, 2 nobody.
    pub async fn restrict_room(&self, room: RoomId, slow_mode_seconds: u32, who_may_post: u8) {
        let sql = format!(
            "UPDATE heads SET slow_mode_seconds = {slow_mode_seconds}, who_may_post = {who_may_post}
             WHERE room_id = {room}"
        );
        self.change(sql, |store| store.restrict_room(room, slow_mode_seconds, who_may_post)).await;
    }

    pub async fn silence(&self, room: RoomId, user: UserId, until: Option<UnixMillis>) {
        let value = until.map_or("NULL".to_owned(), |until| until.to_string());
        let sql = format!("UPDATE members SET silenced_until = {value} WHERE room_id = {room} AND user_id = {user}");
        self.change(sql, |store| store.silence(room, user, until)).await;
    }

    pub async fn set_role(&self, room: RoomId, user: UserId, role: Role) {
        let number = role as u8;
        let sql = format!("UPDATE members SET role = {number} WHERE room_id = {room} AND user_id = {user}");
        self.change(sql, |store| store.set_role(room, user, role)).await;
    }

    /// As if a member of a room with slow mode had posted at this time.
    pub async fn set_posted(&self, room: RoomId, user: UserId, at: UnixMillis) {
        let sql = format!("UPDATE members SET last_posted_at = {at} WHERE room_id = {room} AND user_id = {user}");
        self.change(sql, |store| store.set_posted(room, user, at)).await;
    }

    pub async fn user(&self, name: &str) -> UserId {
        self.store.ensure_user(name, &name.to_lowercase()).await.expect("a user").id
    }

    pub async fn public_room(&self, name: &str, owner: UserId) -> Room {
        self.room(name, owner, RoomKind::Public, 1000).await
    }

    pub async fn room(&self, name: &str, owner: UserId, kind: RoomKind, size: u32) -> Room {
        let room = NewRoom { name: name.to_owned(), title: format!("The {name}"), kind, size, owner };
        self.store.create_room(room).await.expect("a room")
    }

    /// A room with an owner (Ann) and two members (Ben, Cleo).
    pub async fn lobby(&self) -> Lobby {
        let (ann, ben, cleo) = (self.user("Ann").await, self.user("Ben").await, self.user("Cleo").await);
        let room = self.public_room("lobby", ann).await.id;
        for user in [ben, cleo] {
            self.store.join("lobby", user).await.expect("a member");
        }
        Lobby { room, ann, ben, cleo }
    }

    pub async fn append(&self, batch: &[Item]) -> Vec<Outcome> {
        self.store.append(batch).await.expect("an answer")
    }

    pub async fn append_one(&self, item: Item) -> Outcome {
        self.append(&[item]).await.remove(0)
    }

    /// Appends messages with these texts and new ids. Returns their offsets.
    pub async fn send(&self, room: RoomId, user: UserId, texts: &[&str]) -> Vec<Offset> {
        let items: Vec<_> = texts
            .iter()
            .map(|text| message(room, user, &format!("sent-{}", self.ids.fetch_add(1, Ordering::Relaxed)), text))
            .collect();
        self.append(&items).await.into_iter().map(|outcome| new(outcome).offset).collect()
    }

    /// A page, for nobody in particular.
    pub async fn page(&self, room: RoomId, request: PageRequest) -> Option<Page> {
        self.store.page(room, request, &[]).await.expect("an answer").map(|(page, _)| page)
    }

    /// The whole log.
    pub async fn log(&self, room: RoomId) -> Vec<Publication> {
        let mut log = Vec::new();
        loop {
            let from = log.last().map_or(0, |publication: &Publication| publication.offset);
            let page = self.page(room, after(from)).await.expect("a room");
            assert!(!page.more || !page.publications.is_empty(), "a page without progress");
            log.extend(page.publications);
            if !page.more {
                assert_eq!(log.len() as u64, page.head.offset, "the log ends at the head");
                assert!(log.iter().enumerate().all(|(n, p)| p.offset == n as u64 + 1), "offsets have no gaps");
                return log;
            }
        }
    }
}

#[derive(Clone, Copy)]
pub struct Lobby {
    pub room: RoomId,
    pub ann: UserId,
    pub ben: UserId,
    pub cleo: UserId,
}

pub fn after(from: Offset) -> PageRequest {
    PageRequest { from, ascending: true, up_to: Offset::MAX, items_limit: 256, bytes_limit: 1 << 20 }
}

pub fn before(from: Offset) -> PageRequest {
    PageRequest { ascending: false, ..after(from) }
}

fn item(kind: Kind, room: RoomId, user: UserId, id: &str, target: Option<Offset>, body: Option<&str>) -> Item {
    Item { room, user, id: id.into(), kind, target, body: body.map(Into::into), meta: None }
}

pub fn message(room: RoomId, user: UserId, id: &str, text: &str) -> Item {
    item(Kind::Message, room, user, id, None, Some(text))
}

/// The same item with this meta.
pub fn with_meta(item: Item, meta: Option<&str>) -> Item {
    Item { meta: meta.map(Into::into), ..item }
}

pub fn reply(room: RoomId, user: UserId, id: &str, to: Offset, text: &str) -> Item {
    item(Kind::Message, room, user, id, Some(to), Some(text))
}

pub fn edit(room: RoomId, user: UserId, id: &str, target: Offset, text: &str) -> Item {
    item(Kind::Edit, room, user, id, Some(target), Some(text))
}

pub fn delete(room: RoomId, user: UserId, id: &str, target: Offset) -> Item {
    item(Kind::Delete, room, user, id, Some(target), None)
}

pub fn react(room: RoomId, user: UserId, id: &str, target: Offset, emoji: &str) -> Item {
    item(Kind::React, room, user, id, Some(target), Some(emoji))
}

pub fn unreact(room: RoomId, user: UserId, id: &str, target: Offset, emoji: &str) -> Item {
    item(Kind::Unreact, room, user, id, Some(target), Some(emoji))
}

#[track_caller]
pub fn new(outcome: Outcome) -> Stored {
    match outcome {
        Outcome::New(stored) => stored,
        other => panic!("expected New, got {other:?}"),
    }
}

#[track_caller]
pub fn assert_duplicate(outcome: Outcome, first: Stored) {
    assert_eq!(outcome, Outcome::Duplicate(first));
}

#[track_caller]
pub fn assert_refused(outcome: Outcome, why: Refusal) {
    assert_eq!(outcome, Outcome::Refused(why));
}

/// Reservations as the first rules for names left them. User 1 is Ann, user 2 is Ben.
pub const OLD_RESERVATIONS: &str = "UPDATE meta SET value = '1' WHERE name = 'name_rules';
    INSERT INTO reserved_names (name, owner_id, until) VALUES
      ('weiß', 1, 9000000000000), ('weiss', 2, 8000000000000), ('cocoaceo', 1, 9000000000000), ('ended', 1, 1)";

pub async fn assert_reservations_are_folded(world: &World) {
    let (ann, ben) = (world.user("Ann").await, world.user("Ben").await);
    assert_eq!((ann, ben), (UserId(1), UserId(2)));
    let create = async |name: &str, owner| {
        let room = NewRoom { name: name.to_owned(), title: String::new(), kind: RoomKind::Public, size: 5, owner };
        world.store.create_room(room).await.is_ok()
    };
    assert!(!create("weiss", ben).await, "it is reserved for Ann for longer");
    assert!(!create("сосоасео", ben).await, "it looks like a reserved name");
    assert!(create("weiss", ann).await);
    assert!(create("ended", ben).await);
}

/// What a newer release has written into the log of a room with one message: a row of a kind that this one does not
/// know.
pub const UNKNOWN_KIND: &str = "UPDATE heads SET last_offset = 2;
    INSERT INTO messages (room_id, room_offset, number, kind, user_id, client_id, target_offset, body, edit_offset,
      gone_offset, created_at)
    SELECT room_id, 2, 1, 99, 0, '~new-2', 1, 'secret', 1, 1, 1700 FROM heads";

/// It was once left out, so that the room seemed to have a gap for ever.
pub async fn assert_unknown_kind_is_shown(world: &World, room: RoomId, reader: UserId) {
    let log = world.log(room).await;
    assert_eq!(log.len(), 2);
    let shown = &log[1];
    assert_eq!((shown.offset, shown.number, shown.kind, shown.time), (2, 1, Kind::Unknown, 1700));
    assert_eq!((&*shown.id, shown.user.id, &*shown.user.username), ("~new-2", UserId(0), ""));
    assert_eq!((&shown.target, &shown.body, &shown.edited, &shown.deleted), (&None, &None, &None, &None));
    let backward = world.page(room, before(3)).await.expect("a room");
    assert_eq!((backward.publications.len(), backward.more), (2, false));
    assert!(backward.publications.contains(shown));
    let page = world.store.messages("lobby", reader, uproar_store::Cursor::Newest, 9).await.expect("an answer");
    assert_eq!((page.messages.len(), page.offset), (1, 2));
    assert_eq!(world.store.membership_changes(room, reader, 0, 9, 9).await.expect("an answer"), []);
    let item = message(room, reader, "next", "x");
    assert_eq!(new(world.append_one(item).await).offset, 3);
}

/// Random numbers that are the same in every run with the same seed (splitmix64).
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit as u64) as usize
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}
