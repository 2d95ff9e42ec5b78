//! The database: committed rows, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use uproar_model::*;
use uproar_store::*;

pub struct SimStore {
    rooms: Vec<RoomState>,
}

#[derive(Default)]
struct RoomState {
    members: BTreeSet<i64>,
    log: Vec<Publication>,
    by_id: BTreeMap<(i64, String), usize>,
}

impl SimStore {
    pub fn new(rooms: usize) -> SimStore {
        SimStore { rooms: (0..rooms).map(|_| RoomState::default()).collect() }
    }
    pub fn add_user(&mut self, _user: i64) {}
    pub fn room_id(&self, room: usize) -> RoomId {
        RoomId(room as i64 + 1)
    }
    fn room(&mut self, id: RoomId) -> &mut RoomState {
        &mut self.rooms[id.0 as usize - 1]
    }
    pub fn head(&self, room: usize) -> Offset {
        self.rooms[room].log.len() as Offset
    }
    pub fn head_of(&self, room: RoomId) -> Option<Head> {
        let log = &self.rooms.get(room.0 as usize - 1)?.log;
        Some(Head { epoch: Epoch("e".into()), offset: log.len() as u64, number: 0 })
    }
    pub fn row(&self, room: RoomId, offset: Offset) -> Option<&Publication> {
        self.rooms[room.0 as usize - 1].log.get(offset as usize - 1)
    }
    pub fn page(&self, room: RoomId, r: PageRequest) -> Option<Page> {
        let log = &self.rooms.get(room.0 as usize - 1)?.log;
        let mut bytes = 0;
        let publications: Vec<_> = log
            .iter()
            .filter(|p| p.offset > r.from && p.offset <= r.up_to)
            .take(r.items_limit)
            .take_while(|p| {
                let first = bytes == 0;
                bytes += p.body.as_ref().map_or(0, |b| b.len()) + 1;
                first || bytes <= r.bytes_limit
            })
            .cloned()
            .collect();
        let more = publications.last().is_some_and(|p| p.offset < log.len() as u64);
        Some(Page { publications, head: self.head_of(room)?, more })
    }
    pub fn admit(&mut self, name: &str, user: UserId) -> Result<Admission, JoinError> {
        let index: usize = name.strip_prefix("room").and_then(|n| n.parse().ok()).ok_or(JoinError::NoRoom)?;
        let joined = self.rooms[index].members.insert(user.0);
        Ok(Admission {
            room: self.room_id(index),
            epoch: Epoch("e".into()),
            offset: self.head(index),
            role: Role::Member,
            joined,
        })
    }
    pub fn remove(&mut self, now: u64, room: usize, user: i64) -> Option<Publication> {
        let state = &mut self.rooms[room];
        if !state.members.remove(&user) {
            return None;
        }
        let offset = state.log.len() as u64 + 1;
        let p = Publication {
            offset,
            number: 0,
            kind: Kind::Removed,
            user: User { id: UserId(user), username: format!("user{user}").into() },
            id: format!("~r{offset}").into(),
            time: now,
            target: None,
            body: Some(user.to_string().into()),
            edited: None,
            deleted: None,
        };
        state.log.push(p.clone());
        Some(p)
    }
    pub fn append(&mut self, now: u64, items: &[Item]) -> Vec<Outcome> {
        items
            .iter()
            .map(|i| {
                let state = self.room(i.room);
                if let Some(&at) = state.by_id.get(&(i.user.0, i.id.to_string())) {
                    let p = &state.log[at];
                    return Outcome::Again(Stored { offset: p.offset, number: p.number, time: p.time });
                }
                if !state.members.contains(&i.user.0) {
                    return Outcome::Refused(Refusal::NotMember);
                }
                let offset = state.log.len() as u64 + 1;
                state.by_id.insert((i.user.0, i.id.to_string()), state.log.len());
                state.log.push(Publication {
                    offset,
                    number: offset,
                    kind: i.kind,
                    user: User { id: i.user, username: format!("user{}", i.user.0).into() },
                    id: i.id.clone(),
                    time: now,
                    target: i.target,
                    body: i.body.clone(),
                    edited: None,
                    deleted: None,
                });
                Outcome::New(Stored { offset, number: offset, time: now })
            })
            .collect()
    }
}
