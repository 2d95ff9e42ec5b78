//! What members do beside sending: they lose their connections, all at once or one by one, visit other rooms, and read
//! histories.

use super::crowd::{At, State};
use super::stage::Window;
use crate::client::{Io, SECOND};
use crate::dialect::Dialect;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Between two things that one does, on the average.
const PAUSE: u64 = 2 * SECOND;
/// How long a visit takes.
const VISIT: u64 = SECOND / 2;
const HISTORY_PAGE: u32 = 50;

/// Who does something when.
#[derive(Debug)]
pub(super) struct People {
    due: BinaryHeap<Reverse<(u64, usize)>>,
    random: u64,
    has_begun: bool,
}

impl People {
    pub fn new(seed: u64) -> People {
        People { due: BinaryHeap::new(), random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, has_begun: false }
    }

    /// Marsaglia's xorshift: the same people do the same in every run.
    fn random(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below
    }

    /// All who don't send drop their connections, once.
    pub fn storm(state: &mut State, io: &mut Io, now: u64) {
        if state.has_stormed {
            return;
        }
        state.has_stormed = true;
        let senders = state.setting.shape.senders;
        let ids = (0..state.members.len()).filter(|id| state.members[*id].place >= senders).collect::<Vec<_>>();
        ids.into_iter().for_each(|id| state.reconnect(io, id, now));
    }

    /// Does what is due. When the next thing is.
    pub fn act(state: &mut State, dialect: &Dialect, io: &mut Io, window: Window, now: u64) -> Option<u64> {
        let mut people = state.people.take()?;
        if !std::mem::replace(&mut people.has_begun, true) {
            let senders = state.setting.shape.senders;
            for id in (0..state.members.len()).filter(|id| state.members[*id].place >= senders) {
                let first = now + people.random(PAUSE);
                people.due.push(Reverse((first, id)));
            }
        }
        while let Some(&Reverse((time, id))) = people.due.peek() {
            if time > now || now >= window.end {
                break;
            }
            people.due.pop();
            let next = match state.members[id].at {
                At::Home => people.do_something(state, dialect, io, id, now),
                At::Visit { .. } => {
                    go_home(state, dialect, io, id);
                    now + PAUSE / 2 + people.random(PAUSE)
                }
                At::Outside | At::Return => now + PAUSE,
            };
            people.due.push(Reverse((next, id)));
        }
        let next = people.due.peek().map(|Reverse((time, _))| *time);
        state.people = Some(people);
        next
    }

    /// When the same one is next.
    fn do_something(&mut self, state: &mut State, dialect: &Dialect, io: &mut Io, id: usize, now: u64) -> u64 {
        let home = state.members[id].room;
        let other = self.random(state.rooms.len() as u64) as u32;
        match self.random(5) {
            0 | 1 => state.reconnect(io, id, now),
            2 | 3 if other != home => {
                io.send(id, &dialect.leave(&state.target(home).channel));
                io.send(id, &dialect.enter(&state.target(other).channel, None));
                state.members[id].visited = Some(state.rooms[other as usize].number);
                state.members[id].at = At::Visit { offset: None };
                return now + VISIT;
            }
            _ => io.send(id, &dialect.history(&state.target(home).channel, HISTORY_PAGE)),
        }
        now + PAUSE / 2 + self.random(PAUSE)
    }

    /// At the end of the load visitors go home, so that everybody can have everything.
    pub fn end(state: &mut State, dialect: &Dialect, io: &mut Io) {
        if state.people.take().is_some() {
            let visitors = (0..state.members.len()).filter(|id| matches!(state.members[*id].at, At::Visit { .. }));
            visitors.collect::<Vec<_>>().into_iter().for_each(|id| go_home(state, dialect, io, id));
        }
    }
}

fn go_home(state: &mut State, dialect: &Dialect, io: &mut Io, id: usize) {
    let member = &state.members[id];
    let visited = member.visited.and_then(|number| state.rooms.iter().position(|room| room.number == number));
    let visited = &state.target(visited.unwrap_or_default() as u32).channel;
    io.send(id, &dialect.leave(visited));
    io.send(id, &dialect.enter(&state.target(member.room).channel, state.position(member).as_ref()));
    state.members[id].at = At::Return;
}
