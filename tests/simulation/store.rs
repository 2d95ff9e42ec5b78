//! The database: the store in memory that passes the store's own test suite, and what has been committed to it.

use uproar_model::{Head, Item, Offset, Outcome, Page, Publication, RoomId, UnixMillis, UserId};
use uproar_store::memory::MemoryStore;
use uproar_store::{Admission, JoinError, NewRoom, PageRequest, RoomKind};

pub struct SimStore {
    store: MemoryStore,
    rooms: Vec<RoomId>,
}

impl SimStore {
    /// With so many public rooms: `room0`, `room1`, …
    pub fn new(rooms: usize) -> SimStore {
        let mut store = MemoryStore::new();
        let owner = store.ensure_user("owner", "owner");
        let create = |index| {
            let name = format!("room{index}");
            let room = NewRoom { name, title: String::new(), kind: RoomKind::Public, size: 1_000, owner };
            store.create_room(0, room).expect("a new room").id
        };
        let rooms = (0..rooms).map(create).collect();
        SimStore { store, rooms }
    }

    pub fn add_user(&mut self, name: &str) -> i64 {
        self.store.ensure_user(name, name).0
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

    pub fn row(&self, room: RoomId, offset: Offset) -> Option<Publication> {
        let from = offset.checked_sub(1)?;
        let request = PageRequest { from, ascending: true, up_to: offset, items_limit: 1, bytes_limit: usize::MAX };
        self.store.page(room, request)?.publications.pop()
    }

    pub fn page(&self, room: RoomId, request: PageRequest) -> Option<Page> {
        self.store.page(room, request)
    }

    pub fn admit(&mut self, now: UnixMillis, name: &str, user: UserId) -> Result<Admission, JoinError> {
        self.store.admit(now, &[(name.to_owned(), user)]).pop().expect("an answer for each who asks")
    }

    /// Takes a member out of a room. None: it is not in it.
    pub fn remove(&mut self, now: UnixMillis, room: usize, user: i64) -> Option<Publication> {
        let key = self.store.account(UserId(user))?.username.to_string();
        let removal = self.store.remove_member(now, &format!("room{room}"), UserId(user), &key);
        removal.ok().map(|removal| removal.publication)
    }

    pub fn append(&mut self, now: UnixMillis, items: &[Item]) -> Vec<Outcome> {
        self.store.append(now, items)
    }
}
